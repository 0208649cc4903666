/*! The address space of a launch, and every test an access must pass.

An operand's memory, a module variable and each shared variable have address ranges of their own, far apart: whatever
an index computes, it cannot land in a neighbour. Generic addresses of the shared, local and parameter spaces carry the
space in their top byte. */

use super::lanes::{FULL, WARP, active};
use super::program::{EntryPoint, Program, Space};
use super::shadow::Other;
use super::{Buffer, FaultKind, Grid, Rights};
use crate::nvrtc;

const WINDOW_SHIFT: u32 = 40;
/// The range of the first module variable.
const VARIABLES: u64 = 0x80_0000;
const SHARED: u64 = 0xF1 << 56;
const LOCAL: u64 = 0xF2 << 56;
const PARAM: u64 = 0xF3 << 56;
/// A shared variable's range in the 32-bit shared space: more than any device has.
pub const SHARED_SHIFT: u32 = 20;

/// Where the range of window `i` starts: with [`Buffer::at`] it makes what goes into the parameter block.
pub fn address(window: usize) -> u64 {
    (window as u64 + 1) << WINDOW_SHIFT
}

/// Where module variable `i` starts.
pub fn variable_address(i: usize) -> u64 {
    (VARIABLES + i as u64) << WINDOW_SHIFT
}

/// The generic address of a space's address zero.
pub fn generic_base(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED,
        Space::Local => LOCAL,
        Space::Param => PARAM,
        Space::Generic | Space::Global | Space::Const => 0,
    }
}

/// The space of a generic address.
pub fn space_of(address: u64) -> Space {
    match address >> 56 {
        0xF1 => Space::Shared,
        0xF2 => Space::Local,
        0xF3 => Space::Param,
        _ => Space::Global,
    }
}

/// What an instruction did wrong, in which lane.
#[derive(Debug)]
pub struct Problem {
    pub kind: FaultKind,
    pub lane: usize,
    pub text: String,
    /// For a race: with whom.
    pub other: Option<Other>,
}

impl Problem {
    pub fn new(kind: FaultKind, lane: usize, text: impl Into<String>) -> Problem {
        Problem { kind, lane, text: text.into(), other: None }
    }
}

/// States of a byte: a window's zero and not zero. Zero is what memory that nobody has touched costs nothing for, and a window
/// may be as large as a card's memory.
const HELD: u8 = 0;
const BLANK: u8 = 1;
/// In shared memory: an asynchronous copy is on its way.
const PENDING: u8 = 2;

/// What holds the bytes of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RegionTarget {
    Buffer(usize),
    Variable(usize),
    Shared(usize),
    Local,
    Param,
}

/// Bytes of one warp access: lane by lane an offset into the target's data. Lanes that are not active have a valid
/// offset too, so that a load need not look at the mask.
pub struct Region {
    pub target: RegionTarget,
    pub offsets: [usize; WARP],
}

/// A shared variable at its place in the block's shared memory.
struct SharedRange {
    name: String,
    address: u64,
    start: usize,
    bytes: usize,
}

pub struct AddressSpace<'m, 'w> {
    windows: &'m mut [Buffer<'w>],
    variables: Vec<(&'m str, bool, Vec<u8>)>,
    params: &'m [u8],
    ranges: Vec<SharedRange>,
    shared: Vec<u8>,
    shared_blank: Vec<u8>,
    local: Vec<u8>,
    local_blank: Vec<u8>,
    local_bytes: usize,
    /// Whether reads of unwritten bytes are faults.
    checks: bool,
    /// First thread of the warp that is running, within its block.
    pub first_thread: usize,
}

impl<'m, 'w> AddressSpace<'m, 'w> {
    pub fn new(
        program: &'m Program,
        kernel: &'m EntryPoint,
        grid: &Grid,
        params: &'m [u8],
        windows: &'m mut [Buffer<'w>],
        checks: bool,
    ) -> Result<Self, String> {
        let (mut ranges, mut at) = (vec![], 0);
        for s in &kernel.shared {
            let bytes = s.bytes.unwrap_or(grid.shared_bytes as usize);
            ranges.push(SharedRange { name: s.name.clone(), address: s.address, start: at, bytes });
            // Dynamic variables are one piece of memory under several names.
            at += if s.bytes.is_some() { bytes } else { 0 };
        }
        let shared = at + grid.shared_bytes as usize;
        let most = nvrtc::shared_memory(program.target);
        if shared > most {
            let problem =
                format!("{shared} bytes of shared memory, and a block has {most} at most on {}", program.target);
            return Err(problem);
        }
        if let Some(w) = windows.iter().find(|w| !w.blank.is_empty() && w.blank.len() != w.data.len()) {
            return Err(format!("`{}` has {} bytes, {} of them tracked", w.name, w.data.len(), w.blank.len()));
        }
        let threads = grid.block.iter().map(|&n| n as usize).product::<usize>();
        let local = kernel.local_bytes * threads;
        let state = |n: usize| vec![BLANK; if checks { n } else { 0 }];
        Ok(AddressSpace {
            windows,
            variables: program.variables.iter().map(|v| (v.name.as_str(), v.constant, v.init.clone())).collect(),
            params,
            ranges,
            shared: vec![0; shared],
            shared_blank: state(shared),
            local: vec![0; local],
            local_blank: state(local),
            local_bytes: kernel.local_bytes,
            checks,
            first_thread: 0,
        })
    }

    /// Shared and local memory hold nothing when a block starts; a pattern makes that show without checks as well.
    pub fn start_block(&mut self) {
        self.shared.fill(0xCD);
        self.local.fill(0xCD);
        self.shared_blank.fill(BLANK);
        self.local_blank.fill(BLANK);
    }

    /// The target of an address in `space`, the target's first address, and its bytes.
    fn locate(&self, space: Space, address: u64) -> Option<(RegionTarget, u64, usize)> {
        let (space, base) = match space {
            Space::Generic => (space_of(address), generic_base(space_of(address))),
            space => (space, 0),
        };
        let inner = address - base;
        match space {
            Space::Shared => {
                let i = (inner >> SHARED_SHIFT) as usize;
                let r = self.ranges.get(i)?;
                (inner >= r.address).then_some((RegionTarget::Shared(i), base + r.address, r.bytes))
            }
            Space::Local => Some((RegionTarget::Local, base, self.local_bytes)),
            Space::Param => Some((RegionTarget::Param, base, self.params.len())),
            _ => {
                let range = inner >> WINDOW_SHIFT;
                if range >= VARIABLES {
                    let i = (range - VARIABLES) as usize;
                    Some((RegionTarget::Variable(i), variable_address(i), self.variables.get(i)?.2.len()))
                } else {
                    let i = (range as usize).checked_sub(1)?;
                    let window = self.windows.get(i)?;
                    Some((RegionTarget::Buffer(i), super::address(i) + window.at as u64, window.data.len()))
                }
            }
        }
    }

    /// The shared variable that an address of 18 bits is in, which is all that matrix descriptors have room for, and where it
    /// begins by such addresses. None: there are several, or none.
    pub fn described(&self, address: u64) -> Option<(RegionTarget, usize)> {
        let begins = |r: &SharedRange| (r.address % (1 << SHARED_SHIFT)) as usize;
        let holds = |r: &SharedRange| (begins(r)..begins(r) + r.bytes).contains(&(address as usize));
        let mut found = self.ranges.iter().enumerate().filter(|(_, r)| holds(r));
        match (found.next(), found.next()) {
            (Some((i, r)), None) => Some((RegionTarget::Shared(i), begins(r))),
            _ => None,
        }
    }

    /// The one region that the active lanes' accesses of `bytes` bytes are in. None: they are in several.
    #[inline(always)]
    pub fn resolve(
        &self,
        space: Space,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        align: usize,
    ) -> Result<Option<Region>, Problem> {
        let first = addresses[mask.trailing_zeros() as usize];
        let Some((target, base, size)) = self.locate(space, first) else {
            return self.elsewhere(space, addresses, mask, bytes);
        };
        // An address below the base is a very large offset.
        let (mut offsets, mut highest, mut bits) = ([0; WARP], 0, 0);
        for l in 0..WARP {
            let address = if mask == FULL || mask >> l & 1 != 0 { addresses[l] } else { first };
            let offset = address.wrapping_sub(base);
            offsets[l] = offset as usize;
            highest = highest.max(offset);
            bits |= address;
        }
        if size < bytes || highest > (size - bytes) as u64 {
            return self.elsewhere(space, addresses, mask, bytes);
        }
        if bits & (align as u64 - 1) != 0 {
            return Err(self.misaligned(space, addresses, mask, align));
        }
        if target == RegionTarget::Local {
            for (l, o) in offsets.iter_mut().enumerate() {
                // Lanes past the block's last thread are not active; any valid offset will do.
                *o += (self.first_thread + l) * self.local_bytes;
                *o = if *o + bytes <= self.local.len() { *o } else { 0 };
            }
        }
        Ok(Some(Region { target, offsets }))
    }

    /// When not all lanes are where the first one is: they are in several regions, or one of them is out of bounds.
    #[cold]
    fn elsewhere(
        &self,
        space: Space,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
    ) -> Result<Option<Region>, Problem> {
        for l in active(mask) {
            let address = addresses[l];
            let text = match self.locate(space, address) {
                // An address below the base is a very large offset, and told as a negative one.
                Some((target, base, size)) if address.wrapping_sub(base).saturating_add(bytes as u64) > size as u64 => {
                    let offset = address.wrapping_sub(base) as i64;
                    format!("{bytes} bytes at offset {offset} of {}, which has {size}", self.describe(target))
                }
                Some(_) => continue,
                None => match self.near(space, address) {
                    Some((name, offset)) => format!("{bytes} bytes at offset {offset} of {name}"),
                    None => format!("{bytes} bytes at {space:?} address {address:#x}, which belongs to nothing"),
                },
            };
            return Err(Problem::new(FaultKind::OutOfBounds, l, format!("out of bounds: {text}")));
        }
        Ok(None)
    }

    /// The target that begins soon after an address: its name and the (negative) offset.
    fn near(&self, space: Space, address: u64) -> Option<(String, i64)> {
        [1 << 12, 1 << 19, 1 << 39].into_iter().find_map(|step| {
            let (target, base, _) = self.locate(space, address.checked_add(step)?)?;
            Some((self.describe(target), address.wrapping_sub(base) as i64))
        })
    }

    #[cold]
    fn misaligned(&self, space: Space, addresses: &[u64; WARP], mask: u32, align: usize) -> Problem {
        let bad = |l: &usize| mask >> l & 1 != 0 && addresses[*l] & (align as u64 - 1) != 0;
        let lane = (0..WARP).find(bad).unwrap_or(0);
        let place = self.locate(space, addresses[lane]).map_or(String::new(), |(target, base, _)| {
            format!(" at offset {} of {}", addresses[lane] - base, self.describe(target))
        });
        Problem::new(FaultKind::Misaligned, lane, format!("misaligned access{place}: not a multiple of {align} bytes"))
    }

    /// What people call a target.
    pub fn describe(&self, target: RegionTarget) -> String {
        match target {
            RegionTarget::Buffer(i) => format!("`{}`", self.windows[i].name),
            RegionTarget::Variable(i) => format!("`{}`", self.variables[i].0),
            RegionTarget::Shared(i) => format!("shared `{}`", self.ranges[i].name),
            RegionTarget::Local => "local memory".into(),
            RegionTarget::Param => "the parameters".into(),
        }
    }

    /// The bytes of a target.
    #[inline]
    pub fn data(&self, target: RegionTarget) -> &[u8] {
        match target {
            RegionTarget::Buffer(i) => self.windows[i].data,
            RegionTarget::Variable(i) => &self.variables[i].2,
            RegionTarget::Shared(i) => &self.shared[self.ranges[i].start..][..self.ranges[i].bytes],
            RegionTarget::Local => &self.local,
            RegionTarget::Param => self.params,
        }
    }

    /// The bytes of a target that may be written.
    #[inline]
    pub fn data_mut(&mut self, target: RegionTarget) -> Result<&mut [u8], Problem> {
        Ok(match target {
            RegionTarget::Buffer(i) if self.windows[i].access != Rights::Read => self.windows[i].data,
            RegionTarget::Variable(i) if !self.variables[i].1 => &mut self.variables[i].2,
            RegionTarget::Shared(i) => &mut self.shared[self.ranges[i].start..][..self.ranges[i].bytes],
            RegionTarget::Local => &mut self.local,
            other => {
                let text = format!("write to {}, which is only read", self.describe(other));
                return Err(Problem::new(FaultKind::ReadOnly, 0, text));
            }
        })
    }

    /// One byte of state per byte of a target, if it is tracked.
    fn blank(&mut self, target: RegionTarget) -> Option<&mut [u8]> {
        let all = match target {
            RegionTarget::Buffer(i) => &mut *self.windows[i].blank,
            RegionTarget::Shared(i) if self.checks => {
                &mut self.shared_blank[self.ranges[i].start..][..self.ranges[i].bytes]
            }
            RegionTarget::Local if self.checks => &mut self.local_blank[..],
            _ => return None,
        };
        (!all.is_empty()).then_some(all)
    }

    /// A read must find something written, and nothing on its way.
    pub fn check_read(&mut self, region: &Region, mask: u32, bytes: usize) -> Result<(), Problem> {
        if !self.checks {
            return Ok(());
        }
        let Some(blank) = self.blank(region.target) else { return Ok(()) };
        for l in active(mask) {
            let at = region.offsets[l];
            if bytes == 4 && blank[at..at + 4] == [HELD; 4] {
                continue;
            }
            let shared = matches!(region.target, RegionTarget::Shared(_));
            if let Some(i) = blank[at..at + bytes].iter().position(|b| *b != HELD) {
                let pending = shared && blank[at + i] == PENDING;
                let offset = if region.target == RegionTarget::Local { (at + i) % self.local_bytes } else { at + i };
                let place = format!("byte {offset} of {}", self.describe(region.target));
                return Err(if pending {
                    let text = format!("read of {place}, where an asynchronous copy has not been waited for");
                    Problem::new(FaultKind::Async, l, text)
                } else {
                    Problem::new(FaultKind::Unwritten, l, format!("read of unwritten memory: {place}"))
                });
            }
        }
        Ok(())
    }

    /// A write must not meet an asynchronous copy; what is written can be read.
    pub fn note_write(&mut self, region: &Region, mask: u32, bytes: usize) -> Result<(), Problem> {
        // Windows are tracked for the caller too, whether or not this launch checks.
        let shared = matches!(region.target, RegionTarget::Shared(_));
        let Some(blank) = self.blank(region.target) else { return Ok(()) };
        for l in active(mask) {
            let state = &mut blank[region.offsets[l]..][..bytes];
            if shared && state.contains(&PENDING) {
                let place = format!("offset {} of {}", region.offsets[l], self.describe(region.target));
                let text = format!("write at {place}, where an asynchronous copy has not been waited for");
                return Err(Problem::new(FaultKind::Async, l, text));
            }
            state.fill(HELD);
        }
        Ok(())
    }

    /// An asynchronous copy starts: what was there is gone, what comes is not there yet.
    pub fn expect_copy(&mut self, target: RegionTarget, at: usize, bytes: usize) -> Result<(), Problem> {
        self.data_mut(target)?[at..at + bytes].fill(0xCD);
        if let Some(blank) = self.blank(target) {
            blank[at..at + bytes].fill(PENDING);
        }
        Ok(())
    }

    /// An asynchronous copy lands.
    pub fn land_copy(&mut self, target: RegionTarget, at: usize, data: &[u8]) -> Result<(), Problem> {
        self.data_mut(target)?[at..at + data.len()].copy_from_slice(data);
        if let Some(blank) = self.blank(target) {
            blank[at..at + data.len()].fill(HELD);
        }
        Ok(())
    }
}
