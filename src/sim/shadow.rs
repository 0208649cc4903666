/*! Who touched what, and whether anything orders it: races by happens-before.

Blocks run one after another and warps in turns, so the simulation itself never shows a race; what it shows is whether
the kernel's own synchronisation orders two accesses. Time is a counter that every synchronisation advances. Each warp
knows, for every warp of its block, the time before which that warp's accesses are ordered before its own: a vector
clock per warp, joined at barriers. Lanes of one warp are ordered by warp barriers only, not by running in lockstep.

A cell remembers the last write and the last reads of two warps, with their lanes. That can miss a race among more
readers, and never invents one. Storing the value that is there already is no race against the thread that stored it.
Sharpness: four bytes, and single bytes where a kernel accesses less than four. */

use super::lanes::WARP;
use super::memory::{Region, Target};
use std::collections::HashMap;

/// Cells per page; pages are made when something touches them.
const PAGE: usize = 1 << 10;

#[derive(Clone, Copy, Default)]
struct Write {
    /// Warp number in the grid plus one; zero: nobody.
    warp: u32,
    lane: u8,
    atomic: bool,
    time: u32,
    pc: u32,
}

#[derive(Clone, Copy, Default)]
struct Read {
    warp: u32,
    lanes: u32,
    time: u32,
    pc: u32,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    write: Write,
    reads: [Read; 2],
}

/// Cells of one target.
struct Track {
    /// log2 of the bytes of a cell.
    shift: u32,
    pages: Vec<Option<Box<[Cell]>>>,
}

impl Track {
    fn cell(&mut self, i: usize) -> &mut Cell {
        let page = i / PAGE;
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        &mut self.pages[page].get_or_insert_with(|| vec![Cell::default(); PAGE].into())[i % PAGE]
    }
    /// From words to bytes.
    fn refine(&mut self) {
        self.shift = 0;
        let pages = std::mem::take(&mut self.pages);
        for page in pages {
            let Some(page) = page else {
                self.pages.extend([None, None, None, None]);
                continue;
            };
            for quarter in page.chunks(PAGE / 4) {
                self.pages.push(Some(quarter.iter().flat_map(|c| [*c; 4]).collect()));
            }
        }
    }
}

/// How a lane touches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    Read,
    Write,
    /// Writes what is there already.
    Rewrite,
    Atomic,
}

/// The access that a race is with.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    /// Warp number in the grid.
    pub warp: u32,
    pub lane: u32,
    pub pc: u32,
    pub wrote: bool,
}

/// What the warps of a block know of each other.
pub type Clock = Vec<u32>;

#[derive(Default)]
pub struct Shadow {
    tracks: HashMap<(u8, usize), Track>,
    time: u32,
    /// Warps of a block; the number of the first one of the current block.
    warps: usize,
    first: u32,
    /// For each warp, for each warp: accesses before this time are ordered before the next ones.
    seen: Vec<Clock>,
    /// For each lane of the block: its last warp barrier.
    synced: Vec<[u32; WARP]>,
    /// The warp that runs, within its block, and its instruction.
    pub warp: usize,
    pub pc: u32,
}

fn key(target: Target) -> (u8, usize) {
    match target {
        Target::Window(i) => (0, i),
        Target::Variable(i) => (1, i),
        Target::Shared(i) => (2, i),
        Target::Local => (3, 0),
        Target::Param => (4, 0),
    }
}

impl Shadow {
    pub fn new(warps: usize) -> Shadow {
        Shadow { warps, ..Shadow::default() }
    }

    /// Nothing orders a block after another, and its shared memory is new.
    pub fn start_block(&mut self, block: u64) {
        self.time += 1;
        self.first = (block * self.warps as u64) as u32;
        self.seen = vec![vec![self.time; self.warps]; self.warps];
        self.synced = vec![[self.time; WARP]; self.warps];
        self.tracks.retain(|k, _| k.0 < 2);
    }

    /// A warp's knowledge and accesses so far, added to a clock.
    pub fn release(&mut self, warp: usize, clock: &mut Clock) {
        self.time += 1;
        clock.resize(self.warps, 0);
        clock.iter_mut().zip(&self.seen[warp]).for_each(|(c, s)| *c = (*c).max(*s));
        clock[warp] = self.time;
    }

    /// What a clock holds is ordered before the warp's next accesses.
    pub fn acquire(&mut self, warp: usize, clock: &Clock) {
        self.seen[warp].iter_mut().zip(clock).for_each(|(s, c)| *s = (*s).max(*c));
        let own = self.seen[warp][warp];
        self.synced[warp].iter_mut().for_each(|s| *s = (*s).max(own));
    }

    /// A warp barrier among lanes.
    pub fn sync_lanes(&mut self, warp: usize, mask: u32) {
        self.time += 1;
        for l in (0..WARP).filter(|l| mask >> l & 1 != 0) {
            self.synced[warp][l] = self.time;
        }
    }

    /// Notes that a lane touches `bytes` bytes at `at`; an access that nothing orders before it is a race.
    pub fn touch(&mut self, target: Target, at: usize, bytes: usize, lane: usize, touch: Touch) -> Result<(), Other> {
        let Shadow { tracks, time, warps, first, seen, synced, warp: me, pc, .. } = self;
        let track = tracks.entry(key(target)).or_insert_with(|| Track { shift: 2, pages: vec![] });
        if track.shift > 0 && (at | bytes) & 3 != 0 {
            track.refine();
        }
        let number = *first + *me as u32 + 1;
        // Whether an access of a lane of a warp at a time comes before this one.
        let ordered = |warp: u32, lane_mask: u32, then: u32| {
            let Some(w) = (warp - 1).checked_sub(*first).filter(|w| (*w as usize) < *warps) else { return false };
            if w as usize == *me {
                lane_mask & !(1 << lane) == 0 || then < synced[*me][lane]
            } else {
                then < seen[*me][w as usize]
            }
        };
        for i in at >> track.shift..(at + bytes).div_ceil(1 << track.shift) {
            let cell = track.cell(i);
            let w = cell.write;
            let harmless = touch == Touch::Rewrite || touch == Touch::Atomic && w.atomic;
            let after = w.warp == 0 || ordered(w.warp, 1 << w.lane, w.time);
            if !after && !harmless {
                return Err(Other { warp: w.warp - 1, lane: w.lane.into(), pc: w.pc, wrote: true });
            }
            if touch == Touch::Read {
                let slot = match cell.reads.iter().position(|r| r.warp == number || r.warp == 0) {
                    Some(slot) => slot,
                    // Forget the one that is ordered, or the older.
                    None if ordered(cell.reads[1].warp, u32::MAX, cell.reads[1].time) => 1,
                    None if ordered(cell.reads[0].warp, u32::MAX, cell.reads[0].time) => 0,
                    None => (cell.reads[1].time < cell.reads[0].time) as usize,
                };
                let r = &mut cell.reads[slot];
                let same = r.warp == number && r.time == *time;
                let lanes = 1 << lane | if same { r.lanes } else { 0 };
                *r = Read { warp: number, lanes, time: *time, pc: *pc };
                continue;
            }
            for r in cell.reads.iter().filter(|r| r.warp != 0) {
                if !ordered(r.warp, r.lanes, r.time) {
                    let others = if r.warp == number { r.lanes & !(1 << lane) } else { r.lanes };
                    let lane = others.trailing_zeros();
                    return Err(Other { warp: r.warp - 1, lane, pc: r.pc, wrote: false });
                }
            }
            // Of several writers of one value the first stays: readers must be ordered after it too.
            if touch != Touch::Rewrite || after {
                let atomic = touch == Touch::Atomic;
                cell.write = Write { warp: number, lane: lane as u8, atomic, time: *time, pc: *pc };
            }
        }
        Ok(())
    }

    /// [`Shadow::touch`] for the active lanes of a region.
    pub fn touch_all(&mut self, region: &Region, mask: u32, bytes: usize, touch: Touch) -> Result<(), (usize, Other)> {
        for l in (0..WARP).filter(|l| mask >> l & 1 != 0) {
            self.touch(region.target, region.offsets[l], bytes, l, touch).map_err(|o| (l, o))?;
        }
        Ok(())
    }
}
