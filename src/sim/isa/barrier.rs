//! Barriers and fences (PTX ISA 9.7.13: bar, barrier, bar.warp.sync, membar, fence).

use super::Line;
use crate::error::Result;
use crate::sim::lanes::Args;
use crate::sim::program::{Exec, PtxType};

/// What a warp does at a block barrier. Arguments: a (number), b (threads), d and c (result and predicate).
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    pub does: BarrierOp,
    /// Whether b holds the number of threads; otherwise the whole block takes part.
    pub counted: bool,
    /// Whether the predicate in slot c is negated.
    pub negated: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarrierOp {
    /// Arrives and waits.
    Sync,
    /// Arrives only.
    Arrive,
    /// Waits for a count (popc), a conjunction or a disjunction over the block.
    Count,
    And,
    Or,
}

pub fn decode(l: &mut Line) -> Result<bool> {
    if matches!(l.base, "membar" | "fence") {
        if l.mods.starts_with(&["proxy", "async"]) {
            l.mods.clear();
            return l.push(Exec::ProxyFence, Args::default());
        }
        if l.take("mbarrier_init") {
            l.take_ordering();
            return l.push(Exec::BarrierFence, Args::default());
        }
        let device = !l.mods.iter().any(|m| ["cta", "proxy"].contains(m));
        l.mods.clear();
        return l.push(Exec::Fence { device }, Args::default());
    }
    if l.take("warp") {
        l.take("sync");
        l.expect(1)?;
        let e = l.src(0, PtxType::B32)?;
        return l.push(Exec::WarpBarrier, Args { e, ..Args::default() });
    }
    // A cluster is one block.
    if l.take("cluster") {
        l.take("aligned");
        l.take_ordering();
        let does = if l.take("wait") { BarrierOp::Sync } else { BarrierOp::Arrive };
        l.take("arrive");
        if does == BarrierOp::Arrive {
            return l.push(Exec::Nothing, Args::default());
        }
        let a = l.frame.constant(16, PtxType::U32);
        return l.push(Exec::Barrier(Barrier { does, counted: false, negated: false }), Args { a, ..Args::default() });
    }
    l.take("cta");
    l.take("aligned");
    let mut args = Args::default();
    let (does, first) = if l.take("red") {
        let Some(does) = l.one_of(&[("popc", BarrierOp::Count), ("and", BarrierOp::And), ("or", BarrierOp::Or)]) else {
            return Ok(false);
        };
        args.d = l.dst(0, if does == BarrierOp::Count { PtxType::U32 } else { PtxType::Pred })?;
        (does, 1)
    } else if l.take("arrive") {
        (BarrierOp::Arrive, 0)
    } else if l.take("sync") {
        (BarrierOp::Sync, 0)
    } else {
        return Ok(false);
    };
    let reduces = first == 1;
    args.a = l.src(first, PtxType::U32)?;
    let counted = l.args.len() - first > 1 + reduces as usize;
    if counted {
        args.b = l.src(first + 1, PtxType::U32)?;
    }
    let mut negated = false;
    if reduces {
        (args.c, negated) = l.pred(l.args.len() - 1)?;
    }
    l.push(Exec::Barrier(Barrier { does, counted, negated }), args)
}
