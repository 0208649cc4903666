//! Running a launch: blocks one after another, warps until they wait, lanes in lockstep.

use super::counters::{Counters, sectors, wavefronts};
use super::isa::barrier::{Barrier, BarrierOp};
use super::isa::copy::{Copies, CopyGroup};
use super::isa::mbarrier::{self, Barriers};
use super::isa::wgmma::{Flight, Registers, WARPGROUP};
use super::isa::{matrix, memory as access, tensor, warp as voting};
use super::lanes::{FULL, Lanes, Regs, WARP, active};
use super::memory::{AddressSpace, Problem, space_of};
use super::program::{EntryPoint, Exec, Inst, Program, Space, Special};
use super::shadow::{Clock, Shadow, agents};
use super::{BlockOrder, Buffer, Fault, FaultKind, Grid, RunOptions};
use std::cmp::Ordering;

/// Instructions that a look at an incomplete barrier in memory counts as: nobody polls for long.
const POLL: u64 = 1 << 14;
/// Numbered barriers of a block; one more stands for the cluster's.
const BARRIERS: usize = 17;
/// Threads of a block, and blocks of a grid along each axis: of every GPU (CUDA Programming Guide, "Technical Specifications per
/// Compute Capability").
const THREADS: u64 = 1024;
/// Registers of a multiprocessor.
const REGISTERS: u32 = 1 << 16;
const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];

/// What instructions act on besides registers.
pub struct Context<'m, 'w> {
    pub memory: AddressSpace<'m, 'w>,
    pub counters: Counters,
    pub options: RunOptions,
    /// Present when races are looked for.
    pub shadow: Option<Shadow>,
}

impl Context<'_, '_> {
    /// Counts a warp access.
    #[inline]
    pub fn count_access(&mut self, space: Space, addresses: &[u64; WARP], mask: u32, bytes: usize, write: bool) {
        if !self.options.count || mask == 0 {
            return;
        }
        let space = match space {
            Space::Generic => space_of(addresses[mask.trailing_zeros() as usize]),
            space => space,
        };
        let c = &mut self.counters;
        match space {
            Space::Shared => {
                let [requests, passes] = wavefronts(addresses, mask, bytes);
                c.shared_requests += requests;
                c.shared_wavefronts += passes;
            }
            Space::Global => {
                c.global_requests += 1;
                c.sectors += sectors(addresses, mask, bytes);
                let total = bytes as u64 * mask.count_ones() as u64;
                *if write { &mut c.write_bytes } else { &mut c.read_bytes } += total;
            }
            _ => {}
        }
    }
}

/// Lanes that are at the same instruction.
#[derive(Clone, Copy, Debug)]
struct Split {
    pc: usize,
    mask: u32,
    /// Waits for other lanes of the warp.
    parked: bool,
}

/// Why a warp stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ready,
    /// At a barrier: its number, its threads, and the instruction.
    Waiting {
        barrier: usize,
        threads: u32,
    },
    Done,
}

struct Warp {
    regs: Regs,
    index: usize,
    /// Lanes that have not exited.
    live: u32,
    /// Lanes that exist.
    all: u32,
    /// The running group, and those that are elsewhere.
    at: Split,
    others: Vec<Split>,
    /// The lowest instruction of the others: reaching it means to choose again.
    stop: usize,
    state: State,
    executed: u64,
    copies: Copies,
    products: Flight,
    /// Registers of each thread.
    registers: u32,
}

/// The products that the warps of a warpgroup have begun, which must be the same ones.
#[derive(Default)]
struct Warpgroup {
    /// By instruction and descriptors.
    begun: Vec<(usize, [u64; 2])>,
    /// How many by each warp.
    by: [usize; WARPGROUP],
}

/// What happens after an instruction.
enum Next {
    Step,
    Jump(usize),
    /// The warp waits; it goes on behind the instruction.
    Wait,
    /// The group waits for lanes of its warp, and tries again.
    Park,
    /// The warp lets others run before it looks again.
    Yield,
    /// The same, and tries the instruction again.
    Retry,
    Choose,
}

impl Warp {
    /// Takes the group with the lowest instruction among those that can run, merged with all that are there.
    fn choose(&mut self) -> bool {
        if self.at.mask != 0 {
            self.others.push(self.at);
            self.at.mask = 0;
        }
        let mut groups: Vec<Split> = vec![];
        for g in self.others.drain(..) {
            match groups.iter_mut().find(|o| o.pc == g.pc) {
                // More lanes have come: a parked group may have its members now.
                Some(o) => *o = Split { pc: g.pc, mask: o.mask | g.mask, parked: false },
                None => groups.push(g),
            }
        }
        let next = groups.iter().enumerate().filter(|(_, g)| !g.parked).min_by_key(|(_, g)| g.pc).map(|(i, _)| i);
        let found = next.map(|i| self.at = groups.swap_remove(i)).is_some();
        self.others = groups;
        self.stop = self.others.iter().filter(|g| g.pc > self.at.pc).map(|g| g.pc).min().unwrap_or(usize::MAX);
        found
    }
}

struct Block<'r, 'm, 'w> {
    program: &'m Program,
    kernel: &'m EntryPoint,
    grid: Grid,
    index: [u32; 3],
    cx: &'r mut Context<'m, 'w>,
    /// Threads that arrived at each barrier without waiting, and conditions so far: count of true, of all.
    arrived: [u32; BARRIERS],
    votes: [(u32, u32); BARRIERS],
    /// What the threads that arrived have done, for those that wait.
    clocks: [Clock; BARRIERS],
    mbarriers: Barriers,
    warpgroups: Vec<Warpgroup>,
    /// Registers that no thread has, as `setmaxnreg` hands them on.
    free_registers: u32,
}

pub fn launch(
    program: &Program,
    entry: &str,
    grid: Grid,
    params: &[u8],
    windows: &mut [Buffer],
    options: RunOptions,
) -> Result<Counters, Fault> {
    let refuse = |problem: String| Fault {
        kind: FaultKind::Launch,
        kernel: entry.to_string(),
        thread: None,
        place: None,
        problem,
    };
    let kernel = program.entry(entry).ok_or_else(|| refuse("the module has no such kernel".into()))?;
    if params.len() < kernel.param_bytes {
        let problem = format!("{} bytes of parameters given, {} needed", params.len(), kernel.param_bytes);
        return Err(refuse(problem));
    }
    let threads = grid.block.iter().map(|&n| n as u64).product::<u64>();
    if threads == 0 || grid.grid.contains(&0) {
        return Err(refuse(format!("grid {:?} of blocks {:?} cannot be launched", grid.grid, grid.block)));
    }
    if threads > THREADS {
        return Err(refuse(format!("blocks {:?} of {threads} threads, and a block has {THREADS} at most", grid.block)));
    }
    if let Some(axis) = (0..3).find(|&a| grid.grid[a] > GRID[a]) {
        let (blocks, axis, most) = (grid.grid[axis], ["x", "y", "z"][axis], GRID[axis]);
        return Err(refuse(format!("{blocks} blocks along {axis}, and a grid has {most} at most")));
    }
    if let Some((most, exactly)) = kernel.max_threads {
        let fits = if exactly { grid.block == most } else { threads <= most.iter().map(|&n| n as u64).product() };
        if !fits {
            return Err(refuse(format!("block {:?} does not fit the kernel's bounds {most:?}", grid.block)));
        }
    }
    let memory = AddressSpace::new(program, kernel, &grid, params, windows, options.checks).map_err(refuse)?;
    let mut warps = make_warps(kernel, &grid);
    let shadow = options.checks.then(|| Shadow::new(warps.len()));
    let mut cx = Context { memory, counters: Counters::default(), options, shadow };
    let count = grid.grid.iter().map(|&n| n as u64).product::<u64>();
    let of = options.only.map_or(count, |few| few.len() as u64);
    for i in 0..of {
        let i = place(options.order, i, of, 0);
        let i = options.only.map_or(i, |few| few[i as usize]);
        if i >= count {
            continue;
        }
        let [x, y] = [grid.grid[0] as u64, grid.grid[1] as u64];
        let index = [(i % x) as u32, (i / x % y) as u32, (i / x / y) as u32];
        let block = Block {
            program,
            kernel,
            grid,
            index,
            cx: &mut cx,
            arrived: [0; BARRIERS],
            votes: [(0, 0); BARRIERS],
            clocks: Default::default(),
            mbarriers: Barriers::default(),
            warpgroups: vec![],
            free_registers: 0,
        };
        block.run(&mut warps, i)?;
    }
    Ok(cx.counters)
}

/// The i-th of `n` in an order; `salt` makes one shuffle differ from another.
pub fn place(order: BlockOrder, i: u64, n: u64, salt: u64) -> u64 {
    match order {
        BlockOrder::Forward => i,
        BlockOrder::Reverse => n - 1 - i,
        BlockOrder::Shuffled(seed) => {
            // A walk of i steps around n places, a step being prime to n.
            let mut x = seed.wrapping_add(salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x = (x ^ x >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let gcd = |mut a: u64, mut b: u64| {
                while b != 0 {
                    (a, b) = (b, a % b);
                }
                a
            };
            let mut step = (x >> 32) % n + 1;
            while gcd(step, n) != 1 {
                step += 1;
            }
            ((x & 0xffff_ffff) + i * step) % n
        }
    }
}

/// Registers of every warp of a block, constants filled in. They are kept from block to block.
fn make_warps(kernel: &EntryPoint, grid: &Grid) -> Vec<Warp> {
    let threads = grid.block.iter().product::<u32>() as usize;
    let warps = threads.div_ceil(WARP);
    (0..warps)
        .map(|index| {
            let mut regs = Regs {
                words: vec![Lanes([0; WARP]); kernel.slots[0]],
                longs: vec![Lanes([0; WARP]); kernel.slots[1]],
                preds: vec![0; kernel.slots[2]],
            };
            kernel.words.iter().for_each(|&(slot, v)| regs.words[slot as usize] = Lanes([v; WARP]));
            kernel.longs.iter().for_each(|&(slot, v)| regs.longs[slot as usize] = Lanes([v; WARP]));
            let lanes = (threads - index * WARP).min(WARP);
            let all = FULL >> (WARP - lanes);
            let at = Split { pc: 0, mask: all, parked: false };
            Warp {
                regs,
                index,
                live: all,
                all,
                at,
                others: vec![],
                stop: usize::MAX,
                state: State::Done,
                executed: 0,
                copies: Copies::default(),
                products: Flight::default(),
                registers: 0,
            }
        })
        .collect()
}

/// Registers of a thread at launch where a kernel sets them later: as many as its bounds leave.
fn registers(kernel: &EntryPoint, warps: usize) -> u32 {
    let threads = kernel.max_threads.map_or(warps as u32 * WARP as u32, |(most, _)| most.iter().product());
    (REGISTERS / (threads.next_multiple_of(WARP as u32) * kernel.resident.max(1)) / 8 * 8).min(248)
}

fn special(s: Special, thread: u32, block: [u32; 3], kernel: &EntryPoint, grid: &Grid) -> u32 {
    let [x, y, z] = grid.block;
    let lane = thread % WARP as u32;
    match s {
        Special::Tid(0) => thread % x,
        Special::Tid(1) => thread / x % y,
        Special::Tid(_) => thread / x / y,
        Special::Ntid(d) => grid.block[d],
        Special::Ctaid(d) => block[d],
        Special::Nctaid(d) => grid.grid[d],
        Special::Lane => lane,
        Special::Warp => thread / WARP as u32,
        Special::Warps => (x * y * z).div_ceil(WARP as u32),
        Special::LaneMask(Ordering::Equal, _) => 1 << lane,
        Special::LaneMask(Ordering::Less, equal) => ((1u64 << (lane + equal as u32)) - 1) as u32,
        Special::LaneMask(Ordering::Greater, equal) => !(((1u64 << (lane + !equal as u32)) - 1) as u32),
        Special::Fixed(v) => v,
        Special::SharedBytes { total } => grid.shared_bytes + if total { kernel.shared_bytes as u32 } else { 0 },
    }
}

impl Block<'_, '_, '_> {
    fn run(mut self, warps: &mut [Warp], number: u64) -> Result<(), Fault> {
        let (warps_of_block, watches) = (warps.len(), self.watches());
        self.cx.memory.start_block();
        if let Some(shadow) = &mut self.cx.shadow {
            shadow.start_block(number);
        }
        for w in warps.iter_mut() {
            for &(slot, s) in &self.kernel.specials {
                for l in 0..WARP {
                    let thread = (w.index * WARP + l) as u32;
                    w.regs.words[slot as usize].0[l] = special(s, thread, self.index, self.kernel, &self.grid);
                }
            }
            w.at = Split { pc: 0, mask: w.all, parked: false };
            w.others.clear();
            (w.live, w.stop, w.state, w.executed) = (w.all, usize::MAX, State::Ready, 0);
            w.copies = Copies::default();
            w.registers = registers(self.kernel, warps_of_block);
            if watches {
                w.products = Flight::new(w.regs.words.len());
            }
        }
        self.warpgroups.resize_with(warps.len() / WARPGROUP, Warpgroup::default);
        let mut round = 0;
        while warps.iter().any(|w| w.state != State::Done) {
            round += 1;
            let n = warps.len() as u64;
            for i in 0..n {
                let w = &mut warps[place(self.cx.options.order, i, n, round) as usize];
                if w.state == State::Ready {
                    self.cx.memory.first_thread = w.index * WARP;
                    if watches { self.run_warp::<true>(w)? } else { self.run_warp::<false>(w)? }
                }
            }
            self.release(warps)?;
        }
        if let Some(copy) = self.mbarriers.on_its_way() {
            let problem = Problem::new(FaultKind::Async, copy.lane, "a copy of a tensor that nobody has waited for");
            return Err(self.fault(copy.pc as usize, copy.warp, problem));
        }
        self.check_warpgroups(warps)
    }

    /// Whether registers are watched, because products of warpgroups have some.
    fn watches(&self) -> bool {
        self.cx.options.checks && !self.kernel.touched.is_empty()
    }

    /// What a warpgroup does, each of its warps must have done.
    fn check_warpgroups(&self, warps: &[Warp]) -> Result<(), Fault> {
        for (i, (group, warps)) in self.warpgroups.iter().zip(warps.chunks(WARPGROUP)).enumerate() {
            let wrong = |pc, warp: usize, text| {
                Err(self.fault(pc, WARPGROUP * i + warp, Problem::new(FaultKind::Divergence, 0, text)))
            };
            if let Some(warp) = group.by.iter().position(|n| *n < group.begun.len()) {
                return wrong(
                    group.begun[group.by[warp]].0,
                    warp,
                    "a wgmma that not all four warps of the warpgroup come to",
                );
            }
            if let Some(warp) = warps.iter().position(|w| w.registers != warps[0].registers) {
                let pc = self.kernel.code.iter().position(|inst| matches!(inst.exec, Exec::Registers(_)));
                let text = "a setmaxnreg that not all four warps of the warpgroup come to";
                return wrong(pc.unwrap_or(0), warp, text);
            }
        }
        Ok(())
    }

    /// Lets warps go on whose barrier is complete; there must be one unless a warp is ready.
    fn release(&mut self, warps: &mut [Warp]) -> Result<(), Fault> {
        let mut progress = warps.iter().any(|w| w.state == State::Ready);
        for barrier in 0..BARRIERS {
            let waits = |w: &Warp| matches!(w.state, State::Waiting { barrier: b, .. } if b == barrier);
            let Some(first) = warps.iter().find(|w| waits(w)) else { continue };
            let State::Waiting { threads, .. } = first.state else { continue };
            let (pc, lane) = (first.at.pc - 1, first.at.mask.trailing_zeros() as usize);
            let who = first.index;
            let arrived: u32 =
                self.arrived[barrier] + warps.iter().filter(|w| waits(w)).map(|w| w.live.count_ones()).sum::<u32>();
            let alive: u32 = warps.iter().map(|w| w.live.count_ones()).sum();
            let existing: u32 = warps.iter().map(|w| w.all.count_ones()).sum();
            let needed = if threads == 0 { alive } else { threads };
            if arrived < needed {
                continue;
            }
            if threads == 0 && self.cx.options.checks && alive < existing {
                let text = format!(
                    "a barrier that {} of the block's threads will not reach: they have ended",
                    existing - alive
                );
                return Err(self.fault(pc, who, Problem::new(FaultKind::Barrier, lane, text)));
            }
            for w in warps.iter_mut().filter(|w| waits(w)) {
                w.state = State::Ready;
                self.answer(w, barrier);
                if let Some(shadow) = &mut self.cx.shadow {
                    shadow.acquire(w.index, &self.clocks[barrier]);
                }
            }
            (self.arrived[barrier], self.votes[barrier]) = (0, (0, 0));
            self.clocks[barrier].clear();
            progress = true;
        }
        let waiting = warps.iter().find(|w| matches!(w.state, State::Waiting { .. }));
        if let (false, Some(w)) = (progress, waiting) {
            let State::Waiting { barrier, threads } = w.state else { return Ok(()) };
            let needed = if threads == 0 { "the whole block".to_string() } else { format!("{threads} threads") };
            let here: u32 = warps.iter().filter(|o| o.state == w.state).map(|o| o.live.count_ones()).sum();
            let text = format!("barrier {barrier} is for {needed}, and only {here} threads can reach it");
            let lane = w.at.mask.trailing_zeros() as usize;
            return Err(self.fault(w.at.pc - 1, w.index, Problem::new(FaultKind::Barrier, lane, text)));
        }
        Ok(())
    }

    /// The result of a reducing barrier.
    fn answer(&self, w: &mut Warp, barrier: usize) {
        let inst = &self.kernel.code[w.at.pc - 1];
        let Exec::Barrier(b) = inst.exec else { return };
        let (yes, all) = self.votes[barrier];
        let d = inst.args.d as usize;
        let holds = match b.does {
            BarrierOp::Count => return w.regs.words[d].blend(&[yes; WARP], w.at.mask),
            BarrierOp::And => yes == all,
            BarrierOp::Or => yes != 0,
            BarrierOp::Sync | BarrierOp::Arrive => return,
        };
        let p = &mut w.regs.preds[d];
        *p = if holds { *p | w.at.mask } else { *p & !w.at.mask };
    }

    #[cold]
    fn fault(&self, pc: usize, warp: usize, problem: Problem) -> Fault {
        let place = |pc: usize| self.program.place(self.kernel.places[self.kernel.code[pc].place as usize]);
        let thread = |warp: usize, lane: usize| {
            let t = (warp * WARP + lane) as u32;
            let [x, y, _] = self.grid.block;
            [t % x, t / x % y, t / x / y]
        };
        let mut text = problem.text;
        if let Some(o) = problem.other {
            let warps = self.grid.block.iter().product::<u32>().div_ceil(WARP as u32) as usize;
            let [x, y, _] = self.grid.grid;
            let (b, warp) = (o.warp / agents(warps) as u32, o.warp as usize % agents(warps));
            let t = thread(warp.min(warps - 1), o.lane as usize);
            let does = match o.wrote {
                _ if warp == warps => "copied",
                true => "wrote",
                false => "read",
            };
            let unordered = if problem.kind == FaultKind::Race { ", and nothing orders the two" } else { "" };
            let (bx, by, bz) = (b % x, b / x % y, b / x / y);
            text += &format!(
                "; block ({bx},{by},{bz}) thread ({},{},{}) {does} it at {}{unordered}",
                t[0],
                t[1],
                t[2],
                place(o.pc as usize)
            );
        }
        Fault {
            kind: problem.kind,
            kernel: self.kernel.name.clone(),
            thread: Some((self.index, thread(warp, problem.lane))),
            place: Some(place(pc)),
            problem: text,
        }
    }

    /// Runs a warp until it waits or ends. `WATCHES`: [`Block::watches`].
    fn run_warp<const WATCHES: bool>(&mut self, w: &mut Warp) -> Result<(), Fault> {
        let code = &self.kernel.code;
        loop {
            let pc = w.at.pc;
            let inst = &code[pc];
            let mask = match inst.guard {
                None => w.at.mask,
                Some(g) => w.at.mask & (w.regs.preds[g.slot as usize] ^ if g.negated { FULL } else { 0 }),
            };
            let lanes = mask.count_ones() as u64;
            self.cx.counters.warp_instructions += 1;
            self.cx.counters.thread_instructions += lanes;
            self.cx.counters.flops += lanes * inst.flops as u64;
            w.executed += 1;
            if WATCHES && mask != 0 && !matches!(inst.exec, Exec::Product(_)) {
                let watched = w.products.watch(&self.kernel.touched[pc], mask, w.executed);
                watched.map_err(|p| self.fault(pc, w.index, p))?;
            }
            let next = match &inst.exec {
                Exec::Lanes(body) => {
                    body.run(&mut w.regs, &inst.args, mask);
                    Next::Step
                }
                Exec::Branch(to) => branch(w, mask, *to, &mut self.cx.counters),
                _ => self.execute(inst, w, mask).map_err(|p| self.fault(pc, w.index, p))?,
            };
            match next {
                Next::Step => w.at.pc = pc + 1,
                Next::Jump(to) => w.at.pc = to,
                Next::Wait => {
                    w.at.pc = pc + 1;
                    return Ok(());
                }
                Next::Yield | Next::Retry => {
                    w.at.pc = if let Next::Yield = next { pc + 1 } else { pc };
                    w.executed += POLL;
                    self.turn(w)?;
                    return Ok(());
                }
                Next::Park => {
                    w.at.parked = true;
                    if !self.rechoose(w)? {
                        return Ok(());
                    }
                    continue;
                }
                Next::Choose => {
                    if !self.rechoose(w)? {
                        return Ok(());
                    }
                    continue;
                }
            }
            if (w.at.pc >= w.stop || w.at.pc <= pc) && !self.turn(w)? {
                return Ok(());
            }
        }
    }

    /// After a jump back or at another group's instruction: who goes on.
    fn turn(&mut self, w: &mut Warp) -> Result<bool, Fault> {
        if w.executed > self.cx.options.patience {
            let problem = Problem::new(FaultKind::Endless, w.at.mask.trailing_zeros() as usize, "runs for ever");
            return Err(self.fault(w.at.pc, w.index, problem));
        }
        if w.others.is_empty() { Ok(true) } else { self.rechoose(w) }
    }

    /// Chooses the next group. False: the warp has ended.
    fn rechoose(&self, w: &mut Warp) -> Result<bool, Fault> {
        if w.choose() {
            return Ok(true);
        }
        let Some(stuck) = w.others.first() else {
            w.state = State::Done;
            return Ok(false);
        };
        let lane = stuck.mask.trailing_zeros() as usize;
        let is_barrier = matches!(self.kernel.code[stuck.pc].exec, Exec::Barrier(_));
        let (kind, what) = match is_barrier {
            true => (FaultKind::Barrier, "a block barrier"),
            false => (FaultKind::Divergence, "a warp-level instruction"),
        };
        let text = match w.others.get(1) {
            Some(other) => {
                let place = self.program.place(self.kernel.places[self.kernel.code[other.pc].place as usize]);
                format!("{what} that lanes {:#010x} reach while lanes {:#010x} wait at {place}", stuck.mask, other.mask)
            }
            None => format!("{what} that only lanes {:#010x} of the warp reach", stuck.mask),
        };
        Err(self.fault(stuck.pc, w.index, Problem::new(kind, lane, text)))
    }

    /// Everything but register arithmetic and branches.
    fn execute(&mut self, inst: &Inst, w: &mut Warp, mask: u32) -> Result<Next, Problem> {
        let args = &inst.args;
        if mask == 0 {
            return Ok(Next::Step);
        }
        if let Some(shadow) = &mut self.cx.shadow {
            (shadow.warp, shadow.pc) = (w.index, w.at.pc as u32);
        }
        match &inst.exec {
            Exec::Load(a) => access::load(a, &mut w.regs, mask, self.cx)?,
            Exec::Store(a) => access::store(a, &w.regs, mask, self.cx)?,
            Exec::Atomic(a) => access::atomic_run(a, args, &mut w.regs, mask, self.cx)?,
            Exec::Exit => {
                w.live &= !mask;
                w.at.mask &= !mask;
                // Lanes that waited for these need not any more.
                w.others.iter_mut().for_each(|g| g.parked = false);
                if w.live == 0 {
                    w.products.end()?;
                }
                if w.at.mask == 0 {
                    return Ok(Next::Choose);
                }
            }
            Exec::Switch(table) => return switch(inst, table, w, mask),
            Exec::Shuffle(s) => {
                if !members(w, args.e, mask)? {
                    return Ok(Next::Park);
                }
                voting::shuffle(s, args, &mut w.regs, mask).map_err(|(lane, from)| {
                    let text = format!("shuffle from lane {from}, which does not take part");
                    Problem::new(FaultKind::Divergence, lane, text)
                })?;
            }
            Exec::Vote(v) => {
                if !members(w, args.e, mask)? {
                    return Ok(Next::Park);
                }
                voting::vote(v, args, &mut w.regs, mask);
            }
            Exec::WarpBarrier => {
                if !members(w, args.e, mask)? {
                    return Ok(Next::Park);
                }
                if let Some(shadow) = &mut self.cx.shadow {
                    shadow.sync_lanes(w.index, mask);
                }
            }
            Exec::ActiveMask => w.regs.words[args.d as usize].blend(&[mask; WARP], mask),
            Exec::Clock { long } => {
                let now = self.cx.counters.warp_instructions;
                match long {
                    true => w.regs.longs[args.d as usize].blend(&[now; WARP], mask),
                    false => w.regs.words[args.d as usize].blend(&[now as u32; WARP], mask),
                }
            }
            Exec::Barrier(b) => return self.barrier(b, inst, w, mask),
            Exec::Copy(c) => w.copies.start(c, args, &w.regs, mask, self.cx)?,
            Exec::CopyGroup(g) => w.copies.group(*g, mask, self.cx)?,
            Exec::Mbarrier(op) => {
                if let mbarrier::MbarrierOp::Copies { .. } = op.does {
                    w.copies.group(CopyGroup::WaitAll, mask, self.cx)?;
                }
                if self.mbarriers.run(op, args, &mut w.regs, mask, w.index, self.cx)? {
                    return Ok(Next::Yield);
                }
            }
            Exec::Matrix(m) => {
                if !together(w, mask)? {
                    return Ok(Next::Park);
                }
                m.run(&mut w.regs);
                self.cx.counters.mma += 1;
                self.cx.counters.flops += m.flops();
            }
            Exec::MatrixMove(m) => {
                if !together(w, mask)? {
                    return Ok(Next::Park);
                }
                matrix::transfer(m, &mut w.regs, self.cx)?;
            }
            Exec::Product(p) => {
                if !together(w, mask)? {
                    return Ok(Next::Park);
                }
                let Some(group) = self.warpgroups.get_mut(w.index / WARPGROUP) else {
                    let text = "wgmma in a warp that three others do not make a warpgroup with";
                    return Err(Problem::new(FaultKind::Divergence, 0, text));
                };
                let pc = w.at.pc;
                let used = w.products.run(p, &mut w.regs, w.index, pc as u32, self.cx)?;
                let n = &mut group.by[w.index % WARPGROUP];
                *n += 1;
                if *n > group.begun.len() {
                    group.begun.push((pc, used));
                } else if group.begun[*n - 1] != (pc, used) {
                    let text = "a wgmma that differs between the four warps of the warpgroup";
                    return Err(Problem::new(FaultKind::Divergence, 0, text));
                }
            }
            Exec::ProductOrder(order) => {
                if !together(w, mask)? {
                    return Ok(Next::Park);
                }
                if self.watches() {
                    w.products.order(*order, w.executed, self.cx)?;
                }
            }
            Exec::Registers(r) => {
                if !together(w, mask)? {
                    return Ok(Next::Park);
                }
                return self.hand_on(*r, w);
            }
            Exec::Trap => {
                return Err(Problem::new(FaultKind::Trap, mask.trailing_zeros() as usize, "the kernel's own trap"));
            }
            Exec::Fence { device } => {
                if let (true, Some(shadow)) = (device, &mut self.cx.shadow) {
                    shadow.fence(w.index);
                }
            }
            Exec::TensorCopy(c) => tensor::run(c, &w.regs, mask, &mut self.mbarriers, self.cx)?,
            Exec::BarrierFence => self.mbarriers.fence(w.index),
            Exec::ProxyFence => {
                self.mbarriers.fence(w.index);
                if let Some(shadow) = &mut self.cx.shadow {
                    shadow.fence_proxy(w.index);
                }
            }
            Exec::Nothing => {}
            Exec::Lanes(_) | Exec::Branch(_) => unreachable!("run by the loop"),
        }
        Ok(Next::Step)
    }

    /// Gives a warp more registers, once there are so many, or takes some from it.
    fn hand_on(&mut self, r: Registers, w: &mut Warp) -> Result<Next, Problem> {
        let (has, each) = (w.registers, r.each);
        if (r.more && each < has) || (!r.more && each > has) {
            let text = format!("setmaxnreg to {each} registers, and the warp has {has}");
            return Err(Problem::new(FaultKind::Launch, 0, text));
        }
        let all = self.free_registers + has * WARP as u32;
        let Some(left) = all.checked_sub(each * WARP as u32) else { return Ok(Next::Retry) };
        (self.free_registers, w.registers) = (left, each);
        Ok(Next::Step)
    }

    fn barrier(&mut self, b: &Barrier, inst: &Inst, w: &mut Warp, mask: u32) -> Result<Next, Problem> {
        if mask != w.live {
            // A barrier is for whole warps: the other lanes must come here too.
            if mask != w.at.mask {
                let text = "a block barrier under a condition that not all lanes of the warp meet";
                return Err(Problem::new(FaultKind::Barrier, mask.trailing_zeros() as usize, text));
            }
            return Ok(Next::Park);
        }
        let lane = mask.trailing_zeros() as usize;
        let word = |slot: u32| w.regs.words[slot as usize].0[lane];
        let (barrier, threads) = (word(inst.args.a) as usize, if b.counted { word(inst.args.b) } else { 0 });
        if barrier >= BARRIERS || b.counted && (threads == 0 || threads % WARP as u32 != 0) {
            let text = format!("barrier {barrier} for {threads} threads: there are 16, for whole warps");
            return Err(Problem::new(FaultKind::Barrier, lane, text));
        }
        self.cx.counters.barriers += 1;
        if let Some(shadow) = &mut self.cx.shadow {
            shadow.release(w.index, &mut self.clocks[barrier]);
        }
        if matches!(b.does, BarrierOp::Count | BarrierOp::And | BarrierOp::Or) {
            let p = w.regs.preds[inst.args.c as usize] ^ if b.negated { FULL } else { 0 };
            let (yes, all) = &mut self.votes[barrier];
            *yes += (p & mask).count_ones();
            *all += mask.count_ones();
        }
        if b.does == BarrierOp::Arrive {
            self.arrived[barrier] += mask.count_ones();
            return Ok(Next::Step);
        }
        w.state = State::Waiting { barrier, threads };
        Ok(Next::Wait)
    }
}

/// Whether all living lanes that a member mask names are here. Each lane that is here must be named.
fn members(w: &Warp, slot: u32, mask: u32) -> Result<bool, Problem> {
    let lane = mask.trailing_zeros() as usize;
    let named = w.regs.words[slot as usize].0[lane];
    if mask & !named != 0 {
        let lane = (mask & !named).trailing_zeros() as usize;
        let text = format!("a lane that is not in the member mask {named:#010x} executes the instruction");
        return Err(Problem::new(FaultKind::Divergence, lane, text));
    }
    Ok(named & w.live & !mask == 0)
}

/// Whether the whole warp is here, as `.aligned` demands.
fn together(w: &Warp, mask: u32) -> Result<bool, Problem> {
    if w.live != FULL || mask != w.at.mask {
        let text = "an instruction of the whole warp, of which not all lanes are there";
        return Err(Problem::new(FaultKind::Divergence, mask.trailing_zeros() as usize, text));
    }
    Ok(mask == FULL)
}

#[inline]
fn branch(w: &mut Warp, taken: u32, to: usize, counters: &mut Counters) -> Next {
    let stay = w.at.mask & !taken;
    if stay == 0 {
        return Next::Jump(to);
    }
    if taken == 0 {
        return Next::Step;
    }
    counters.divergent_branches += 1;
    let pc = w.at.pc;
    w.others.push(Split { pc: to, mask: taken, parked: false });
    w.at = Split { pc: pc + 1, mask: stay, parked: false };
    Next::Choose
}

/// brx.idx: each lane to the instruction its index picks.
fn switch(inst: &Inst, table: &[usize], w: &mut Warp, mask: u32) -> Result<Next, Problem> {
    let index = w.regs.words[inst.args.a as usize].0;
    for l in active(mask) {
        let Some(&to) = table.get(index[l] as usize) else {
            let text = format!("branch to entry {} of a table of {}", index[l], table.len());
            return Err(Problem::new(FaultKind::OutOfBounds, l, text));
        };
        match w.others.iter_mut().find(|g| g.pc == to && !g.parked) {
            Some(g) => g.mask |= 1 << l,
            None => w.others.push(Split { pc: to, mask: 1 << l, parked: false }),
        }
    }
    let stay = w.at.mask & !mask;
    w.at = Split { pc: w.at.pc + 1, mask: stay, parked: false };
    Ok(Next::Choose)
}
