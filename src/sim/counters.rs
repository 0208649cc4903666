//! What a launch did.

use super::lanes::{WARP, active};

/// Work and traffic of a launch.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Counters {
    /// Instructions that warps executed.
    pub warp_instructions: u64,
    /// The same times the lanes that were active.
    pub thread_instructions: u64,
    /// Branches that split a warp.
    pub divergent_branches: u64,
    /// Warp accesses to global memory, and the 32-byte sectors they touched.
    pub global_requests: u64,
    pub sectors: u64,
    /// Accesses to shared memory, a warp's 128 bytes being one, and the passes over its 32 banks they took: as many where
    /// no bank is asked twice.
    pub shared_requests: u64,
    pub shared_wavefronts: u64,
    /// Bytes that lanes read from and wrote to global memory.
    pub read_bytes: u64,
    pub write_bytes: u64,
    /// Floating-point operations, two per multiply-add, those of matrix instructions included.
    pub flops: u64,
    /// Matrix instructions of warps.
    pub mma: u64,
    /// Warps that arrived at a block barrier.
    pub barriers: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, o: Self) {
        self.warp_instructions += o.warp_instructions;
        self.thread_instructions += o.thread_instructions;
        self.divergent_branches += o.divergent_branches;
        self.global_requests += o.global_requests;
        self.sectors += o.sectors;
        self.shared_requests += o.shared_requests;
        self.shared_wavefronts += o.shared_wavefronts;
        self.read_bytes += o.read_bytes;
        self.write_bytes += o.write_bytes;
        self.flops += o.flops;
        self.mma += o.mma;
        self.barriers += o.barriers;
    }
}

/// 32-byte sectors that an access touches.
pub fn sectors(addresses: &[u64; WARP], mask: u32, bytes: usize) -> u64 {
    let (mut seen, mut n) = ([0; 2 * WARP], 0);
    for l in active(mask) {
        let sector = addresses[l] / 32;
        // Neighbours are usually in the same sector.
        if !seen[..n].contains(&sector) && n < seen.len() {
            seen[n] = sector;
            n += 1;
        }
        debug_assert!(addresses[l] % 32 + bytes as u64 <= 32, "accesses are aligned");
    }
    n as u64
}

/// Requests and passes over the banks: lanes go in groups that move 128 bytes; within a group, different words of one bank
/// queue up.
pub fn wavefronts(addresses: &[u64; WARP], mask: u32, bytes: usize) -> [u64; 2] {
    let group = (128 / bytes).clamp(1, WARP);
    let [mut requests, mut passes] = [0; 2];
    for first in (0..WARP).step_by(group) {
        // The first word of each bank, and all others, of which there are few.
        let (mut word_of, mut load, mut others) = ([u64::MAX; 32], [0u8; 32], vec![]);
        let lanes = mask & (u32::MAX >> (WARP - group)) << first;
        requests += (lanes != 0) as u64;
        for l in active(lanes) {
            for word in addresses[l] / 4..=(addresses[l] + bytes as u64 - 1) / 4 {
                let bank = word as usize % 32;
                if word_of[bank] == u64::MAX {
                    (word_of[bank], load[bank]) = (word, 1);
                } else if word_of[bank] != word && !others.contains(&word) {
                    others.push(word);
                    load[bank] += 1;
                }
            }
        }
        passes += *load.iter().max().expect("32 banks") as u64;
    }
    [requests, passes]
}
