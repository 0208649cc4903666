/*! Who touched what, and whether anything orders it: races by happens-before.

Blocks run one after another and warps in turns, so the simulation itself never shows a race; what it shows is whether
the kernel's own synchronisation orders two accesses. Time is a counter that every synchronisation advances. Each warp
knows, for every warp of its block, the time before which that warp's accesses are ordered before its own: a vector
clock per warp, joined at barriers. Lanes of one warp are ordered by warp barriers only, not by running in lockstep.

Blocks are ordered only through atomics on global memory, and only as far as a device-wide fence went before: what a warp
knows when it fences is published by the next atomic of a warp that knows of the fence, and taken over by the block whose
atomic on the same address comes later.

Products of warpgroups read shared memory past ordinary accesses: what those have written is theirs behind `fence.proxy.async`
alone (PTX ISA 9.7.13.4, proxies). A clock therefore has a second half: for each warp the time before which its stores are
ordered with such a fence behind them. Barriers hand both halves on. Copies of tensors are
written by one more agent beside the warps of a block.

A cell remembers the last write and the last reads of two warps, with their lanes. That can miss a race among more
readers, and never invents one. Storing the value that is there already is no race against the thread that stored it.
Sharpness: four bytes, and single bytes where a kernel accesses less than four. */

use super::lanes::{WARP, active};
use super::memory::{Region, RegionTarget};
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
    #[inline]
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

/// What the agents of a block know of each other: for each the time before which its accesses are ordered, and then for each the
/// time before which they are fenced for asynchronous instructions as well.
pub type Clock = Vec<u32>;

/// The agents of a block of so many warps: these, and last what copies tensors.
pub fn agents(warps: usize) -> usize {
    warps + 1
}

#[derive(Default)]
pub struct Shadow {
    /// Of windows, of module variables, of shared variables.
    tracks: [Vec<Track>; 3],
    time: u32,
    /// Agents of a block; the number of the first one of the current block.
    agents: usize,
    first: u32,
    /// What each agent knows: accesses before these times are ordered before its next ones.
    seen: Vec<Clock>,
    /// For each lane of the block: its last warp barrier.
    synced: Vec<[u32; WARP]>,
    /// For each warp of the block: its accesses before this time are fenced for the whole device. Empty: no fence yet.
    fenced: Clock,
    /// What atomics on an address have published, and what this block has taken over: times by warp number plus one.
    published: HashMap<(RegionTarget, usize), HashMap<u32, u32>>,
    acquired: HashMap<u32, u32>,
    /// The warp that runs, within its block, and its instruction.
    pub warp: usize,
    pub pc: u32,
}

impl Shadow {
    pub fn new(warps: usize) -> Shadow {
        Shadow { agents: agents(warps), ..Shadow::default() }
    }

    /// Nothing orders a block after another, and its shared memory is new.
    pub fn start_block(&mut self, block: u64) {
        self.time += 1;
        self.first = (block * self.agents as u64) as u32;
        self.seen = vec![vec![self.time; 2 * self.agents]; self.agents];
        self.synced = vec![[self.time; WARP]; self.agents];
        self.tracks[2].clear();
        self.fenced.clear();
        self.acquired.clear();
    }

    /// A warp's knowledge and accesses so far, added to a clock.
    pub fn release(&mut self, warp: usize, clock: &mut Clock) {
        self.time += 1;
        clock.resize(2 * self.agents, 0);
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
        for l in active(mask) {
            self.synced[warp][l] = self.time;
        }
    }

    /// A device-wide fence: all that the warp has done, or knows of.
    pub fn fence(&mut self, warp: usize) {
        self.time += 1;
        self.fenced.resize(self.agents, 0);
        self.fenced.iter_mut().zip(&self.seen[warp]).for_each(|(f, s)| *f = (*f).max(*s));
        self.fenced[warp] = self.time;
    }

    /// A fence between ordinary and asynchronous accesses: all that the warp has done, or knows of.
    pub fn fence_proxy(&mut self, warp: usize) {
        self.time += 1;
        let (known, fenced) = self.seen[warp].split_at_mut(self.agents);
        fenced.copy_from_slice(known);
        fenced[warp] = self.time;
    }

    /// The agent that copies tensors.
    pub fn copier(&self) -> usize {
        self.agents - 1
    }

    /// It takes over what the running warp knows.
    pub fn tell_copier(&mut self) {
        let mut clock = Clock::default();
        self.release(self.warp, &mut clock);
        self.acquire(self.copier(), &clock);
    }

    /// Its accesses so far, and nothing that it knows, added to a clock.
    pub fn release_copier(&mut self, clock: &mut Clock) {
        self.time += 1;
        clock.resize(2 * self.agents, 0);
        clock[self.agents - 1] = self.time;
    }

    /// Looks for an ordinary store among what lanes of the running warp read asynchronously that no fence has gone over.
    pub fn look_unfenced(&mut self, region: &Region, mask: u32, bytes: usize) -> Result<(), (usize, Other)> {
        let RegionTarget::Shared(i) = region.target else { return Ok(()) };
        let (first, warps) = (self.first, self.agents - 1);
        let fenced = &self.seen[self.warp][self.agents..];
        let Some(track) = self.tracks[2].get_mut(i) else { return Ok(()) };
        for lane in active(mask) {
            let at = region.offsets[lane];
            for i in at >> track.shift..(at + bytes).div_ceil(1 << track.shift) {
                let w = track.cell(i).write;
                let warp = w.warp.wrapping_sub(first + 1) as usize;
                if w.warp != 0 && warp < warps && w.time >= fenced[warp] {
                    return Err((lane, Other { warp: w.warp - 1, lane: w.lane.into(), pc: w.pc, wrote: true }));
                }
            }
        }
        Ok(())
    }

    /// An atomic of the running warp: publishes what is fenced, takes over what others have published there.
    pub fn meet(&mut self, target: RegionTarget, at: usize) {
        if let Some(there) = self.published.get(&(target, at)) {
            for (&warp, &time) in there {
                let known = self.acquired.entry(warp).or_default();
                *known = time.max(*known);
            }
        }
        // Without a fence there is nothing to publish, which keeps plain counters and histograms cheap.
        if self.fenced.is_empty() {
            return;
        }
        let own = (0..self.agents).map(|t| {
            let known = if t == self.warp { self.time } else { self.seen[self.warp][t] };
            (self.first + t as u32 + 1, known.min(self.fenced[t]))
        });
        let there = self.published.entry((target, at)).or_default();
        for (warp, time) in own.chain(self.acquired.iter().map(|(w, t)| (*w, *t))) {
            let there = there.entry(warp).or_default();
            *there = time.max(*there);
        }
    }

    /// Notes that the active lanes of a region touch `bytes` bytes each; an access that nothing orders before one of
    /// them is a race, returned with the lane.
    pub fn touch(&mut self, region: &Region, mask: u32, bytes: usize, touch: Touch) -> Result<(), (usize, Other)> {
        let Shadow { tracks, time, agents, first, seen, synced, acquired, warp: me, pc, .. } = self;
        let (kind, i) = match region.target {
            RegionTarget::Buffer(i) => (0, i),
            RegionTarget::Variable(i) => (1, i),
            RegionTarget::Shared(i) => (2, i),
            // Nobody else can reach a thread's own memory, and nobody writes to parameters.
            RegionTarget::Local | RegionTarget::Param => return Ok(()),
        };
        if i >= tracks[kind].len() {
            tracks[kind].resize_with(i + 1, || Track { shift: 2, pages: vec![] });
        }
        let track = &mut tracks[kind][i];
        let (number, now) = (*first + *me as u32 + 1, *time);
        let (mine, known) = (&synced[*me], &seen[*me]);
        // Whether an access of some lanes of a warp at a time comes before one of this lane.
        let ordered = |lane: usize, warp: u32, lanes: u32, then: u32| {
            if warp == number {
                return lanes & !(1 << lane) == 0 || then < mine[lane];
            }
            let w = (warp - 1).wrapping_sub(*first) as usize;
            if w < *agents { then < known[w] } else { acquired.get(&warp).is_some_and(|t| then < *t) }
        };
        for lane in active(mask) {
            let at = region.offsets[lane];
            if track.shift > 0 && (at | bytes) & 3 != 0 {
                track.refine();
            }
            for i in at >> track.shift..(at + bytes).div_ceil(1 << track.shift) {
                let cell = track.cell(i);
                let w = cell.write;
                let r = &mut cell.reads[0];
                if touch == Touch::Read && (r.warp, r.time) == (number, now) && w.warp != number && w.time < now {
                    // Another lane of this warp has just read it, and nobody has written since.
                    r.lanes |= 1 << lane;
                    continue;
                }
                let after = w.warp == 0 || ordered(lane, w.warp, 1 << w.lane, w.time);
                let harmless = touch == Touch::Rewrite || touch == Touch::Atomic && w.atomic;
                if !after && !harmless {
                    let other = Other { warp: w.warp - 1, lane: w.lane.into(), pc: w.pc, wrote: true };
                    return Err((lane, other));
                }
                if touch == Touch::Read {
                    cell.note_read(Read { warp: number, lanes: 1 << lane, time: now, pc: *pc }, |r| {
                        ordered(lane, r.warp, u32::MAX, r.time)
                    });
                    continue;
                }
                if let Some(r) = cell.reads.iter().find(|r| r.warp != 0 && !ordered(lane, r.warp, r.lanes, r.time)) {
                    let others = if r.warp == number { r.lanes & !(1 << lane) } else { r.lanes };
                    let other = Other { warp: r.warp - 1, lane: others.trailing_zeros(), pc: r.pc, wrote: false };
                    return Err((lane, other));
                }
                // Of several writers of one value the first stays: readers must be ordered after it too.
                if touch != Touch::Rewrite || after {
                    let atomic = touch == Touch::Atomic;
                    cell.write = Write { warp: number, lane: lane as u8, atomic, time: now, pc: *pc };
                }
            }
        }
        Ok(())
    }
}

impl Cell {
    /// Remembers a read in place of one of the same warp, of none, of one that is ordered before, or of the older.
    #[inline]
    fn note_read(&mut self, new: Read, ordered: impl Fn(&Read) -> bool) {
        let [a, b] = &mut self.reads;
        let r = match () {
            _ if a.warp == new.warp => a,
            _ if b.warp == new.warp => b,
            _ if a.warp == 0 => a,
            _ if b.warp == 0 || ordered(b) => b,
            _ if ordered(a) || a.time <= b.time => a,
            _ => b,
        };
        let lanes = if r.warp == new.warp && r.time == new.time { r.lanes } else { 0 };
        *r = Read { lanes: new.lanes | lanes, ..new };
    }
}
