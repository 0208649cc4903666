/*! Barriers in shared memory that count arrivals and bytes (PTX ISA 9.7.13.15).

The state lives beside the memory, keyed by its address: a phase completes when nothing is pending any more, neither
arrivals nor bytes. Using a barrier that was not initialised, or its bytes as data, is a fault. */

use super::Line;
use super::memory::{Address, touch};
use crate::error::{Error, Result};
use crate::sim::FaultKind;
use crate::sim::lanes::{Args, Regs, WARP, active};
use crate::sim::memory::{Problem, Region, RegionTarget};
use crate::sim::program::{Exec, PtxType, Space};
use crate::sim::run::Context;
use crate::sim::shadow::{Clock, Touch};
use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MbarrierOp {
    Init,
    Invalidate,
    /// Slot b: how many, if `counted`; `drop` lowers later phases' count as well.
    Arrive {
        drop: bool,
    },
    /// Slot b: bytes; with an arrival or alone.
    Expect {
        arrive: bool,
    },
    /// Slot b: the state token, or the parity of the phase. `wait`: yields to other warps.
    Test {
        parity: bool,
    },
    /// cp.async.mbarrier.arrive: an arrival once the lane's copies have landed. `noinc`: among the expected ones.
    Copies {
        noinc: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub does: MbarrierOp,
    pub address: Address,
    pub space: Space,
    pub counted: bool,
    /// Whether slot d receives the state.
    pub returns: bool,
}

pub fn decode(l: &mut Line) -> Result<bool> {
    l.take("b64");
    let expects = l.take("expect_tx");
    let parity = l.take("parity");
    let drop = l.take("arrive_drop");
    let arrive = l.take("arrive") || drop;
    l.take_ordering();
    l.take("noComplete");
    let mut waits = false;
    for word in ["test_wait", "try_wait"] {
        waits |= l.take(word);
    }
    let (init, inval) = (l.take("init"), l.take("inval"));
    let space = if l.take("shared::cluster") { Space::Shared } else { l.space() };
    let does = match () {
        _ if init => MbarrierOp::Init,
        _ if inval => MbarrierOp::Invalidate,
        _ if waits => MbarrierOp::Test { parity },
        _ if expects => MbarrierOp::Expect { arrive },
        _ if arrive => MbarrierOp::Arrive { drop },
        _ => return Ok(false),
    };
    let mut args = Args::default();
    let first = match *l.arg(0)? {
        super::PtxOperand::Address(..) => 0,
        _ => 1,
    };
    if first == 1 {
        args.d = l.dst(0, if waits { PtxType::Pred } else { PtxType::B64 })?;
    }
    let address = l.place(first)?;
    let counted = l.args.len() > first + 1;
    if counted {
        args.b = l.src(first + 1, if waits && !parity { PtxType::B64 } else { PtxType::B32 })?;
    }
    if !counted && (init || waits || expects) {
        return Err(Error::usage(format!("operand {} is missing", first + 2)));
    }
    let returns = first == 1;
    l.push(Exec::Mbarrier(Box::new(Operation { does, address, space, counted, returns })), args)
}

/// cp.async.mbarrier.arrive{.noinc}
pub fn decode_copies(l: &mut Line) -> Result<bool> {
    let noinc = l.take("noinc");
    if !l.take("arrive") {
        return Ok(false);
    }
    let (space, address) = (l.space(), l.place(0)?);
    let does = MbarrierOp::Copies { noinc };
    let operation = Operation { does, address, space, counted: false, returns: false };
    l.push(Exec::Mbarrier(Box::new(operation)), Args::default())
}

#[derive(Default)]
struct State {
    expected: i64,
    /// Arrivals and bytes that this phase still waits for.
    arrivals: i64,
    bytes: i64,
    phase: u64,
    /// What those who arrived have done: in this phase, and in completed ones.
    clock: Clock,
    completed: Clock,
    /// The warp that initialised it, and whether copies of tensors can know of that.
    by: usize,
    fenced: bool,
    /// What is on its way.
    copies: Vec<Landing>,
}

/// A copy of a tensor on its way: who started it and what will lie where.
pub struct Landing {
    pub lane: usize,
    pub warp: usize,
    pub pc: u32,
    pub target: RegionTarget,
    pub at: usize,
    pub data: Vec<u8>,
}

impl State {
    fn advance(&mut self) {
        if self.arrivals == 0 && self.bytes == 0 {
            self.phase += 1;
            self.arrivals = self.expected;
            self.completed = self.clock.clone();
        }
    }

    /// Lands what is on its way, if the phase waits for nothing else.
    fn land(&mut self, cx: &mut Context) -> Result<(), Problem> {
        if self.arrivals > 0 || self.copies.is_empty() {
            return Ok(());
        }
        for copy in self.copies.drain(..) {
            self.bytes -= copy.data.len() as i64;
            if self.bytes < 0 {
                let text = "a copy of a tensor of more bytes than its mbarrier expects";
                return Err(Problem::new(FaultKind::Async, copy.lane, text));
            }
            cx.memory.land_copy(copy.target, copy.at, &copy.data)?;
            let Some(shadow) = &mut cx.shadow else { continue };
            let running = (shadow.warp, shadow.pc);
            (shadow.warp, shadow.pc) = (shadow.copier(), copy.pc);
            let region = Region { target: copy.target, offsets: [copy.at; WARP] };
            touch(&mut cx.shadow, &cx.memory, &region, 1 << copy.lane, copy.data.len(), Touch::Write)?;
            let Some(shadow) = &mut cx.shadow else { continue };
            shadow.release_copier(&mut self.clock);
            (shadow.warp, shadow.pc) = running;
        }
        self.advance();
        Ok(())
    }
}

/// The barriers of a block.
#[derive(Default)]
pub struct Barriers(HashMap<(usize, usize), State>);

impl Barriers {
    /// A copy of a tensor has been started that will arrive at a barrier.
    pub fn expect(&mut self, bar: RegionTarget, at: usize, copy: Landing, cx: &Context) -> Result<(), Problem> {
        let wrong = |text: &str| {
            let name = cx.memory.describe(bar);
            Err(Problem::new(FaultKind::Async, copy.lane, format!("the mbarrier at offset {at} of {name} {text}")))
        };
        let RegionTarget::Shared(variable) = bar else { return wrong("is not in shared memory") };
        match self.0.get_mut(&(variable, at)) {
            None => wrong("was not initialised"),
            Some(state) if !state.fenced => wrong("was initialised without a fence behind it (fence.mbarrier_init)"),
            Some(state) => {
                state.copies.push(copy);
                Ok(())
            }
        }
    }

    /// A fence of a warp: what it has initialised, copies of tensors know.
    pub fn fence(&mut self, warp: usize) {
        self.0.values_mut().filter(|s| s.by == warp).for_each(|s| s.fenced = true);
    }

    /// A copy that nobody has waited for.
    pub fn on_its_way(&self) -> Option<&Landing> {
        self.0.values().find_map(|s| s.copies.first())
    }

    /// Runs an operation. True if a lane that waits has to wait on.
    pub fn run(
        &mut self,
        op: &Operation,
        args: &Args,
        regs: &mut Regs,
        mask: u32,
        warp: usize,
        cx: &mut Context,
    ) -> Result<bool, Problem> {
        let addresses = op.address.lanes(regs);
        let mut waiting = false;
        for l in active(mask) {
            let Some(region) = cx.memory.resolve(op.space, &addresses, 1 << l, 8, 8)? else { continue };
            let RegionTarget::Shared(variable) = region.target else {
                return Err(Problem::new(FaultKind::Async, l, "an mbarrier outside shared memory"));
            };
            let key = (variable, region.offsets[l]);
            let name = || format!("the mbarrier at offset {} of {}", key.1, cx.memory.describe(region.target));
            let word = regs.words[args.b as usize].0[l];
            if op.does == MbarrierOp::Init {
                if word == 0 || word >= 1 << 20 {
                    return Err(Problem::new(FaultKind::Async, l, format!("{} is for {word} arrivals", name())));
                }
                let mut state = State { expected: word as i64, arrivals: word as i64, by: warp, ..State::default() };
                if let Some(shadow) = &mut cx.shadow {
                    shadow.release(warp, &mut state.completed);
                }
                self.0.insert(key, state);
                continue;
            }
            let Some(state) = self.0.get_mut(&key) else {
                return Err(Problem::new(FaultKind::Async, l, format!("{} was not initialised", name())));
            };
            let token = state.phase;
            match op.does {
                MbarrierOp::Init => {}
                MbarrierOp::Invalidate if !state.copies.is_empty() => {
                    let text = format!("{} ends with a copy of a tensor on its way", name());
                    return Err(Problem::new(FaultKind::Async, l, text));
                }
                MbarrierOp::Invalidate => drop(self.0.remove(&key)),
                MbarrierOp::Arrive { .. } | MbarrierOp::Expect { .. } | MbarrierOp::Copies { .. } => {
                    if let MbarrierOp::Expect { .. } = op.does {
                        state.bytes += word as i64;
                    }
                    let n = match op.does {
                        MbarrierOp::Expect { arrive } => arrive as i64,
                        // Without .noinc the phase expects one arrival more, which this is.
                        MbarrierOp::Copies { noinc } => noinc as i64,
                        _ if op.counted => word as i64,
                        _ => 1,
                    };
                    if op.does == (MbarrierOp::Arrive { drop: true }) {
                        state.expected -= 1;
                    }
                    if n > state.arrivals {
                        let text = format!("{} gets more arrivals than the {} it is for", name(), state.expected);
                        return Err(Problem::new(FaultKind::Async, l, text));
                    }
                    state.arrivals -= n;
                    if let Some(shadow) = &mut cx.shadow {
                        shadow.release(warp, &mut state.clock);
                    }
                    state.advance();
                    if op.returns {
                        regs.longs[args.d as usize].0[l] = token;
                    }
                }
                MbarrierOp::Test { parity } => {
                    // A parity names the phase that has just completed or the current one.
                    let token = regs.longs.get(args.b as usize).map_or(0, |row| row.0[l]);
                    let is_done = |s: &State| if parity { s.phase & 1 != word as u64 & 1 } else { s.phase > token };
                    if !is_done(state) {
                        state.land(cx)?;
                    }
                    let done = is_done(state);
                    let p = &mut regs.preds[args.d as usize];
                    *p = if done { *p | 1 << l } else { *p & !(1 << l) };
                    waiting |= !done;
                    if let (true, Some(shadow)) = (done, &mut cx.shadow) {
                        shadow.acquire(warp, &state.completed);
                    }
                }
            }
        }
        Ok(waiting)
    }
}
