//! How many threads of a kernel an SM can hold: limits of the CUDA Programming Guide 13.0, section 5.1 "Compute
//! Capabilities"; how registers and shared memory are handed out as in NVIDIA's occupancy calculator.

use super::{Resources, Target};

/// What the blocks on one SM share.
struct Limits {
    blocks: u32,
    warps: u32,
    /// Bytes.
    shared: u32,
}

/// 32-bit registers of an SM, since 5.3.
const REGISTERS: u32 = 64 << 10;

fn limits(compute: u32) -> Option<Limits> {
    let (blocks, warps, kib) = match compute {
        75 => (16, 32, 64),
        80 => (32, 64, 164),
        86 => (16, 48, 100),
        89 => (24, 48, 100),
        90 | 100 => (32, 64, 228),
        120 => (24, 48, 100),
        _ => return None,
    };
    Some(Limits { blocks, warps, shared: kib << 10 })
}

/// Bytes that the system takes of an SM's shared memory for each block, from 8.0 on.
fn system(compute: u32) -> u32 {
    if compute < 80 { 0 } else { 1 << 10 }
}

/// Bytes of shared memory that one block may have; of a target that is not in the table as many as the least has.
pub fn shared_memory(target: Target) -> usize {
    limits(target.compute).map_or(64 << 10, |l| (l.shared - system(target.compute)) as usize)
}

/// Resident warps relative to the most an SM can hold, if only this kernel runs; None for a target that is not in the
/// table.
pub fn occupancy(target: Target, threads: u32, used: &Resources) -> Option<f64> {
    let warps = resident(target, threads, used)? * threads.div_ceil(32);
    Some(warps as f64 / limits(target.compute)?.warps as f64)
}

/// Blocks that an SM holds at once, if only this kernel runs; None for a target that is not in the table.
pub fn resident(target: Target, threads: u32, used: &Resources) -> Option<u32> {
    let most = limits(target.compute)?;
    let warps = threads.div_ceil(32);
    // Registers are given to warps, 8 to a thread at a time, and an SM is four equal parts.
    let by_registers = REGISTERS / (used.registers.max(1).next_multiple_of(8) * 32) / 4 * 4;
    let grain = if target.compute < 80 { 256 } else { 128 };
    let shared = (used.shared + system(target.compute)).next_multiple_of(grain).max(1);
    Some(most.blocks.min(most.warps / warps).min(by_registers / warps).min(most.shared / shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, from the calculator's rules.
    #[test]
    fn the_scarcest_resource_decides() {
        let of = |target: &str, threads, registers, shared| {
            let used = Resources { registers, shared, ..Resources::default() };
            occupancy(target.parse().unwrap(), threads, &used)
        };
        assert_eq!(of("sm_90a", 256, 32, 0), Some(1.0));
        // 33 registers become 40: 51 warps fit, of which 48 in four equal parts: 6 blocks of 8 warps.
        assert_eq!(of("sm_90a", 256, 33, 0), Some(48.0 / 64.0));
        assert_eq!(of("sm_80", 256, 128, 0), Some(16.0 / 64.0));
        // 49 KiB with the system's: 4 blocks of 228 KiB, 2 of 100 KiB.
        assert_eq!(of("sm_90a", 128, 32, 48 << 10), Some(16.0 / 64.0));
        assert_eq!(of("sm_86", 128, 32, 48 << 10), Some(8.0 / 48.0));
        assert_eq!(of("sm_75", 128, 32, 32 << 10), Some(8.0 / 32.0));
        // Small blocks: their number decides.
        assert_eq!(of("sm_86", 32, 16, 0), Some(16.0 / 48.0));
        assert_eq!(of("sm_70", 32, 16, 0), None);
        // CUDA Programming Guide 13.0, section 5.1: "maximum amount of shared memory per thread block".
        let kib = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_120"].map(|t| shared_memory(t.parse().unwrap()) >> 10);
        assert_eq!(kib, [64, 163, 99, 227, 99]);
    }
}
