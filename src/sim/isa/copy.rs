/*! Asynchronous copies from global to shared memory (PTX ISA 9.7.9.25).

A copy lands as late as it may: when its thread waits for it. Until then the destination holds nothing, so that a kernel
that reads too early, or waits for too few groups, cannot be right by luck. */

use super::Line;
use super::memory::{Address, regions, touch};
use crate::error::{Error, Result};
use crate::sim::FaultKind;
use crate::sim::lanes::{Args, Regs, WARP, active};
use crate::sim::memory::{AddressSpace, Problem, Region, RegionTarget};
use crate::sim::program::{Exec, PtxType, Space};
use crate::sim::run::Context;
use crate::sim::shadow::{Shadow, Touch};

/// cp.async. Argument b: slot of the bytes to read, the rest being zeros; c: predicate that reads none.
#[derive(Clone, Debug)]
pub struct Copy {
    pub to: Address,
    pub from: Address,
    pub bytes: usize,
    pub partial: bool,
    /// Whether the predicate is there.
    pub ignored: bool,
}

/// Waiting: all but the newest `n` groups, or everything.
#[derive(Clone, Copy, Debug)]
pub enum CopyGroup {
    Commit,
    Wait(u32),
    WaitAll,
}

pub fn decode(l: &mut Line) -> Result<bool> {
    if !l.take("async") {
        return Ok(false);
    }
    if l.take("commit_group") {
        return l.push(Exec::CopyGroup(CopyGroup::Commit), Args::default());
    }
    if l.take("wait_all") {
        return l.push(Exec::CopyGroup(CopyGroup::WaitAll), Args::default());
    }
    if l.take("wait_group") {
        let n = l.literal(0)? as u32;
        return l.push(Exec::CopyGroup(CopyGroup::Wait(n)), Args::default());
    }
    if l.take("bulk") {
        return if l.take("tensor") { super::tensor::decode(l) } else { Ok(false) };
    }
    if l.take("mbarrier") {
        return super::mbarrier::decode_copies(l);
    }
    let bypass = l.take("cg");
    l.take_ordering();
    if !(l.take("shared") || l.take("shared::cta")) || !l.take("global") {
        return Ok(false);
    }
    let (to, from, bytes) = (l.place(0)?, l.place(1)?, l.literal(2)? as usize);
    if !matches!(bytes, 4 | 8 | 16) || bypass && bytes != 16 {
        return Err(Error::usage(format!("a copy of {bytes} bytes")));
    }
    let mut args = Args::default();
    let predicate = l.pred(3).is_ok();
    let partial = l.args.len() > 3 && !predicate;
    if partial {
        args.b = l.src(3, PtxType::U32)?;
    } else if predicate {
        args.c = l.pred(3)?.0;
    }
    l.push(Exec::Copy(Box::new(Copy { to, from, bytes, partial, ignored: predicate })), args)
}

/// A lane's copy on its way.
struct Pending {
    lane: usize,
    /// The lane's groups committed before this one's.
    group: u32,
    target: RegionTarget,
    at: usize,
    bytes: usize,
    data: [u8; 16],
}

/// The copies of a warp.
#[derive(Default)]
pub struct Copies {
    pending: Vec<Pending>,
    /// Groups that each lane has committed.
    committed: [u32; WARP],
}

impl Copies {
    /// Starts the copies of the active lanes.
    pub fn start(&mut self, c: &Copy, args: &Args, regs: &Regs, mask: u32, cx: &mut Context) -> Result<(), Problem> {
        let (to, from) = (c.to.lanes(regs), c.from.lanes(regs));
        // Lanes by how many bytes they read: nearly always all, or none.
        let mut reads = [c.bytes; WARP];
        for (l, n) in reads.iter_mut().enumerate() {
            if c.partial {
                *n = regs.words[args.b as usize].0[l] as usize;
            } else if c.ignored && regs.preds[args.c as usize] >> l & 1 != 0 {
                *n = 0;
            }
            if *n > c.bytes && mask >> l & 1 != 0 {
                let text = format!("an asynchronous copy that reads {n} bytes and writes {}", c.bytes);
                return Err(Problem::new(FaultKind::Async, l, text));
            }
        }
        let full = (0..WARP).fold(0, |m, l| m | ((reads[l] == c.bytes) as u32) << l) & mask;
        let mut data = [[0; 16]; WARP];
        cx.count_access(Space::Global, &from, full, c.bytes, false);
        cx.count_access(Space::Shared, &to, mask, c.bytes, true);
        let Context { memory, shadow, .. } = cx;
        let mut fetch = |memory: &mut AddressSpace, region: &Region, mask: u32, bytes: usize| {
            memory.check_read(region, mask, bytes)?;
            touch(shadow, memory, region, mask, bytes, Touch::Read)?;
            for l in active(mask) {
                data[l][..bytes].copy_from_slice(&memory.data(region.target)[region.offsets[l]..][..bytes]);
            }
            Ok(())
        };
        if full != 0 {
            regions(memory, Space::Global, &from, full, c.bytes, |memory, region, mask| {
                fetch(memory, region, mask, c.bytes)
            })?;
        }
        for l in active(mask & !full).filter(|l| reads[*l] > 0) {
            if let Some(region) = memory.resolve(Space::Global, &from, 1 << l, reads[l], c.bytes)? {
                fetch(memory, &region, 1 << l, reads[l])?;
            }
        }
        regions(memory, Space::Shared, &to, mask, c.bytes, |memory, region, mask| {
            memory.note_write(region, mask, c.bytes)?;
            touch(shadow, memory, region, mask, c.bytes, Touch::Write)?;
            for l in active(mask) {
                let (target, at, bytes) = (region.target, region.offsets[l], c.bytes);
                memory.expect_copy(target, at, bytes)?;
                let group = self.committed[l];
                self.pending.push(Pending { lane: l, group, target, at, bytes, data: data[l] });
            }
            Ok(())
        })
    }

    pub fn group(&mut self, g: CopyGroup, mask: u32, cx: &mut Context) -> Result<(), Problem> {
        for l in active(mask) {
            match g {
                CopyGroup::Commit => self.committed[l] += 1,
                CopyGroup::WaitAll => self.land(l, u32::MAX, &mut cx.memory, &mut cx.shadow)?,
                CopyGroup::Wait(n) => {
                    let before = self.committed[l].saturating_sub(n);
                    self.land(l, before, &mut cx.memory, &mut cx.shadow)?;
                }
            }
        }
        Ok(())
    }

    /// Lands a lane's copies of the groups before `group`.
    pub fn land(
        &mut self,
        lane: usize,
        group: u32,
        memory: &mut AddressSpace,
        shadow: &mut Option<Shadow>,
    ) -> Result<(), Problem> {
        let done = |p: &Pending| p.lane == lane && p.group < group;
        for p in self.pending.iter().filter(|p| done(p)) {
            memory.land_copy(p.target, p.at, &p.data[..p.bytes])?;
            let region = Region { target: p.target, offsets: [p.at; WARP] };
            touch(shadow, memory, &region, 1 << lane, p.bytes, Touch::Write)?;
        }
        self.pending.retain(|p| !done(p));
        Ok(())
    }
}
