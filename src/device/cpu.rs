/*! The product path on the host: float32 in the planned arena, fast routines where an op has one, all cores. Nothing is
allocated during a step. */

use super::layout::{CANARY, Layout, decode, encode, expect, loaded, settable, storage};
use super::memory::Memory;
use super::{Bytes, Checks, Data, DataMut, Demand, Device, Probe, Spec, Usage, available, finite, flight, meant_for};
use crate::error::{Error, Result, option};
use crate::graph::{Graph, Kind, Value};
use crate::host::ceiling::{self, Ceilings};
use crate::launch::{Arch, Buf, Code, Cost, Launch, Operands, Simd, Slot};
use crate::plan::{Options, Place, Plan, Scheduled};
use crate::ranks::{Communicator, Peers};
use crate::shape::{DType, Type};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The host as a device.
pub struct Cpu {
    simd: Simd,
    checks: Checks,
    pool: Pool,
    graph: Graph,
    plans: Vec<Ready>,
    persistent: Memory,
    layout: Layout,
    /// Values that live in a read-only mapping.
    mapped: HashMap<Value, Mapped>,
    arena: Memory,
    last: usize,
    peers: Peers,
}

/// Threads that compute: those that the process has for whatever is parallel, or as many of its own as were asked for.
struct Pool(Option<rayon::ThreadPool>);

impl Pool {
    fn new(threads: Option<usize>) -> Result<Self> {
        let Some(own) = threads.filter(|n| *n != rayon::current_num_threads()) else { return Ok(Self(None)) };
        Self::own(own)
    }

    fn own(own: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(own).build();
        Ok(Self(Some(pool.map_err(|e| {
            Error::job(format!("cannot start threads: {e}")).fix(format!("lower {}", option("threads")))
        })?)))
    }

    fn threads(&self) -> usize {
        self.0.as_ref().map_or_else(rayon::current_num_threads, rayon::ThreadPool::current_num_threads)
    }

    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            Some(pool) => pool.install(f),
            None => rayon::scope(|_| f()),
        }
    }
}

/// A value that lives with somebody else: asked for its address once.
struct Mapped {
    dtype: DType,
    bytes: &'static [u8],
    _owner: Bytes,
}

impl Mapped {
    /// Numbers that are stored as `dtype`.
    fn new(g: &Graph, v: Value, dtype: DType, owner: Bytes, range: Range<usize>) -> Result<Self> {
        let bytes: *const [u8] = storage(g, v, dtype, &owner, range)?;
        // SAFETY: the bytes were borrowed from what `owner` shares. It is kept beside them and, being shared, can be neither
        // changed nor dropped by anybody; nobody is handed them for longer than this lives.
        Ok(Self { dtype, bytes: unsafe { &*bytes }, _owner: owner })
    }
    fn bytes(&self) -> &[u8] {
        self.bytes
    }
    /// None for a value of another size.
    fn slot(&self, t: Type) -> Option<Slot> {
        let slot = Slot::read_only(self.bytes);
        let slot = if self.dtype == t.dtype { slot } else { slot.stored_as(self.dtype) };
        (self.bytes.len() == t.of(self.dtype).bytes()).then_some(slot)
    }
}

/// A plan with its launches and their operands resolved to addresses.
struct Ready {
    plan: Plan,
    launches: Vec<Scheduled>,
    scratch: usize,
    /// Built when the addresses are final, at the first run after a load or a bind.
    calls: Vec<Operands>,
    /// By launch: [`flight::awaited`]; made with the calls.
    awaited: Vec<usize>,
}

impl Cpu {
    /// `threads` None: one per core.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        Self::with(Simd::detect(), threads, Checks::None)
    }
    /// A chosen vector level and chosen checks.
    pub fn with(simd: Simd, threads: Option<usize>, checks: Checks) -> Result<Self> {
        Ok(Self {
            simd,
            checks,
            pool: Pool::new(threads)?,
            graph: Graph::default(),
            plans: vec![],
            persistent: Memory::zeroed(0)?,
            layout: Layout::default(),
            mapped: HashMap::new(),
            arena: Memory::zeroed(0)?,
            last: 0,
            peers: None,
        })
    }

    /// Lowers plans. Lowering asks for scratch memory, which may depend on the number of threads: it runs in the pool.
    fn lower(&self, g: &Graph, plans: &[Plan]) -> Result<Vec<Ready>> {
        let arch = Arch::Host(self.simd);
        self.pool.install(|| {
            let ready = |p: &Plan| {
                let launches = p.lower(g, arch)?;
                let scratch = launches.iter().map(|s| s.launch.scratch).max().unwrap_or(0);
                Ok(Ready { plan: p.clone(), launches, scratch, calls: vec![], awaited: vec![] })
            };
            plans.iter().map(ready).collect()
        })
    }

    /// Where a value lies while plan `p` runs; None where that is not inside of the memory there is.
    fn slot(&self, p: &Plan, arena: Slot, persistent: Slot, v: Value) -> Option<Slot> {
        let t = self.graph.ty(v);
        let bytes = t.bytes();
        match p.place(v) {
            Place::Arena(at) => arena.part(at, bytes),
            Place::Persistent(root) => match self.mapped.get(&root) {
                Some(mapped) => mapped.slot(t),
                None => persistent.part(*self.layout.offset.get(root.i())?, bytes),
            },
            Place::Nowhere => None,
        }
    }

    /// Resolves the operands of every launch of a plan.
    fn resolve(&mut self, plan: usize) -> Result<()> {
        let [arena, persistent] = [&mut self.arena, &mut self.persistent].map(Memory::slot);
        let Ready { plan: p, launches, .. } = &self.plans[plan];
        let call = |s: &Scheduled| {
            let slot = |b: &Buf| self.slot(p, arena, persistent, self.graph.of_buf(*b));
            let ins = s.launch.ins.iter().map(slot).collect::<Option<_>>()?;
            let outs = s.launch.outs.iter().map(slot).collect::<Option<_>>()?;
            let scratch = arena.part(p.arena_bytes(), s.launch.scratch)?;
            // SAFETY: every slot is a part of this device's two allocations, or of a mapping that may only be read and is kept
            // in `mapped`. All of them outlive the calls, which `load`, `write` and `bind` drop before they change one; while a
            // call is run the device is borrowed, so that nobody else comes near its memory. Two calls are run at once only
            // where neither touches what the other does: `flight::run` waits for a collective before any that meets it.
            unsafe { Operands::new(ins, outs, scratch, Plan::aliased_inputs(&self.graph, s.node)) }.ok()
        };
        let calls = launches.iter().map(|s| {
            let title = || self.graph.nodes()[s.node].title();
            call(s).ok_or_else(|| Error::job(format!("{}: its operands overlap, or lie nowhere", title())))
        });
        let calls = calls.collect::<Result<Vec<_>>>()?;
        let ready = &mut self.plans[plan];
        ready.awaited = flight::awaited(&ready.launches, |a, b| calls[a].meets(&calls[b]));
        ready.calls = calls;
        Ok(())
    }

    /// Bytes of a value: persistent, or temporary of the plan that ran last.
    fn bytes_of(&self, v: Value) -> Result<&[u8]> {
        self.graph.own(&[v])?;
        let n = self.graph.ty(v).bytes();
        let place = self.plans.get(self.last).map_or(Place::Nowhere, |p| p.plan.place(v));
        match (self.graph.kind(v), place) {
            (Kind::Temp, Place::Arena(at)) => Ok(&self.arena.bytes()[at..at + n]),
            (Kind::Temp, Place::Nowhere) => Err(Error::job("this value was not computed by the last plan")),
            (Kind::Temp, Place::Persistent(root)) => self.bytes_of(root),
            _ => match self.mapped.get(&v) {
                Some(mapped) => Ok(mapped.bytes()),
                None => Ok(&self.persistent.bytes()[self.layout.offset[v.i()]..][..n]),
            },
        }
    }

    /// The type of the numbers in [`Cpu::bytes_of`].
    fn stored(&self, v: Value) -> DType {
        self.mapped.get(&v).map_or(self.graph.ty(v).dtype, |m| m.dtype)
    }

    /// The work of a launch, and the traffic that there is with inputs stored as they are.
    fn cost(&self, launch: &Launch) -> Cost {
        let saved = launch.ins.iter().map(|b| {
            let (v, t) = (self.graph.of_buf(*b), self.graph.ty(self.graph.of_buf(*b)));
            (t.bytes() - t.of(self.stored(v)).bytes()) as f64
        });
        Cost { read: launch.cost.read - saved.sum::<f64>(), ..launch.cost }
    }

    /// Whether a plan updates a value.
    fn updated(&self, v: Value) -> bool {
        self.plans.iter().any(|p| p.plan.updates(&self.graph).contains(&v))
    }

    fn poison(&mut self, plan: usize, i: usize) {
        let s = &self.plans[plan].launches[i];
        let aliased: Vec<usize> = self.graph.nodes()[s.node].op.in_place().iter().map(|a| a.0).collect();
        for (o, b) in s.launch.outs.clone().iter().enumerate() {
            let v = self.graph.of_buf(*b);
            if let (false, Place::Arena(at)) = (aliased.contains(&o), self.plans[plan].plan.place(v)) {
                let n = self.graph.ty(v).bytes();
                // NaN in every floating-point format.
                self.arena.bytes_mut()[at..at + n].fill(0xFF);
            }
        }
    }

    /// The first byte of a guard band that is not a canary.
    fn overrun(&self, plan: usize) -> Option<String> {
        let guard = self.layout.guard;
        for (v, place, n) in self.layout.guarded(&self.graph, &self.plans[plan].plan) {
            let (memory, at) = match place {
                Place::Arena(at) => (self.arena.bytes(), at),
                _ => (self.persistent.bytes(), self.layout.offset[v.i()]),
            };
            let around = memory[at - guard..at].iter().chain(&memory[at + n..at + n + guard]);
            if let Some(k) = around.enumerate().find(|(_, b)| **b != CANARY).map(|(k, _)| k) {
                return Some(format!("guard byte {k} around value {} ({})", v.i(), self.graph.name(v)));
            }
        }
        None
    }
}

impl Device for Cpu {
    fn spec(&self) -> Spec {
        let simd = format!("{:?}", self.simd).to_lowercase();
        let name = format!("cpu ({simd}, {} threads)", self.pool.threads());
        Spec { name, options: Options::default(), gpu: None }
    }

    fn connect(&mut self, peers: Arc<dyn Communicator>) -> Result<()> {
        // Who waits for another rank must not hold a thread that the other one computes with.
        if self.pool.0.is_none() {
            self.pool = Pool::own(self.pool.threads())?;
        }
        self.peers = Some(peers);
        Ok(())
    }

    fn load(&mut self, g: &Graph, plans: &[Plan]) -> Result<()> {
        // Nothing may be run on memory that is not its own: what was loaded goes first, and the rest comes when all is there.
        (self.graph, self.plans) = (Graph::default(), vec![]);
        self.mapped.clear();
        let ready = self.lower(g, plans)?;
        meant_for(g, plans, self.peers.as_ref().map_or(1, |p| p.ranks()))?;
        self.layout = Layout::new(g, plans);
        self.persistent = Memory::zeroed(self.layout.bytes)?;
        let needed = |p: &Ready| p.plan.arena_bytes() + p.scratch.next_multiple_of(64);
        self.arena = Memory::zeroed(ready.iter().map(needed).max().unwrap_or(0))?;
        if self.layout.guard > 0 {
            self.arena.bytes_mut().fill(CANARY);
            self.persistent.bytes_mut().fill(CANARY);
            for v in g.values().filter(|v| self.layout.offset[v.i()] != usize::MAX) {
                let n = g.ty(v).bytes();
                self.persistent.bytes_mut()[self.layout.offset[v.i()]..][..n].fill(0);
            }
        }
        (self.graph, self.plans) = (g.clone(), ready);
        Ok(())
    }

    fn write(&mut self, v: Value, data: Data) -> Result<()> {
        settable(&self.graph, v)?;
        expect(&self.graph, v, data.len())?;
        let t = self.graph.ty(v);
        if self.mapped.remove(&v).is_some() {
            self.plans.iter_mut().for_each(|p| p.calls.clear());
        }
        let to = &mut self.persistent.bytes_mut()[self.layout.offset[v.i()]..][..t.bytes()];
        encode(t.dtype, data, to);
        Ok(())
    }

    fn bind(&mut self, v: Value, bytes: Bytes, range: Range<usize>) -> Result<bool> {
        let t = self.graph.ty(v);
        let mapped = Mapped::new(&self.graph, v, t.dtype, bytes, range)?;
        let aligned = (mapped.bytes().as_ptr() as usize).is_multiple_of(t.dtype.bytes());
        let copied = self.updated(v) || self.layout.guard > 0 || !aligned;
        if copied {
            self.persistent.bytes_mut()[self.layout.offset[v.i()]..][..t.bytes()].copy_from_slice(mapped.bytes());
            self.mapped.remove(&v);
        } else {
            self.mapped.insert(v, mapped);
        }
        self.plans.iter_mut().for_each(|p| p.calls.clear());
        Ok(!copied)
    }

    fn takes(&self, v: Value, dtype: DType) -> bool {
        dtype.is_half() && self.graph.narrows(v) && !self.updated(v) && self.layout.guard == 0
    }

    fn bind_as(&mut self, v: Value, dtype: DType, bytes: Bytes, range: Range<usize>) -> Result<()> {
        let mapped = Mapped::new(&self.graph, v, dtype, bytes, range)?;
        if !self.takes(v, dtype) || !(mapped.bytes().as_ptr() as usize).is_multiple_of(dtype.bytes()) {
            return Err(Error::job(format!("{} cannot be stored as {dtype:?}", self.graph.name(v))));
        }
        self.mapped.insert(v, mapped);
        self.plans.iter_mut().for_each(|p| p.calls.clear());
        Ok(())
    }

    fn lend(&self, v: Value) -> Option<&[f32]> {
        let float32 = self.stored(v) == DType::F32;
        bytemuck::try_cast_slice(self.bytes_of(v).ok()?).ok().filter(|_| float32)
    }

    fn read(&self, v: Value, into: DataMut) -> Result<()> {
        expect(&self.graph, v, into.len())?;
        match (self.stored(v), into) {
            (DType::F32, DataMut::F32(x)) => x.copy_from_slice(bytemuck::cast_slice(self.bytes_of(v)?)),
            (dtype, into) => into.fill(decode(dtype, self.bytes_of(v)?)),
        }
        Ok(())
    }

    fn run(&mut self, plan: usize, mut probe: Option<&mut dyn FnMut(Probe)>) -> Result<()> {
        loaded(plan, self.plans.len())?;
        self.last = plan;
        if self.plans[plan].calls.len() != self.plans[plan].launches.len() {
            self.resolve(plan)?;
        }
        if self.plans[plan].plan.options().guard > 0 {
            // The values of another plan lie where the guard bands of this one are.
            self.arena.bytes_mut().fill(CANARY);
        }
        if probe.is_none() && self.checks == Checks::None && self.layout.guard == 0 {
            // One hand-over to the threads for all launches.
            let p = &mut self.plans[plan];
            let together = p.launches.iter().any(|s| matches!(s.launch.code, Code::Collective(_)));
            return match self.peers.as_deref().filter(|_| together) {
                Some(peers) => self.pool.install(|| flight::run(&p.launches, &mut p.calls, &p.awaited, peers, execute)),
                None => self.pool.install(|| {
                    p.launches.iter().zip(&mut p.calls).for_each(|(s, call)| execute(&s.launch, call));
                    Ok(())
                }),
            };
        }
        for i in 0..self.plans[plan].launches.len() {
            if self.checks == Checks::Poison {
                self.poison(plan, i);
            }
            let start = Instant::now();
            let p = &mut self.plans[plan];
            match p.launches[i].launch.code {
                Code::Collective(c) => flight::exchange(c, &mut p.calls[i], self.peers.as_deref())?,
                _ => self.pool.install(|| execute(&p.launches[i].launch, &mut p.calls[i])),
            }
            let p = &self.plans[plan];
            let Scheduled { node, launch } = &p.launches[i];
            let seconds = start.elapsed().as_secs_f64();
            if let Some(probe) = &mut probe {
                let definition = matches!(launch.code, Code::Definition(_));
                let label = &self.graph.nodes()[*node].label;
                probe(Probe {
                    node: *node,
                    label,
                    name: launch.name,
                    cost: self.cost(launch),
                    definition,
                    seconds,
                    counted: None,
                });
            }
            if self.checks == Checks::Finite {
                let bad = |v| finite::first(self.stored(v), self.bytes_of(v).ok()?);
                finite::check(&self.graph, *node, &launch.outs, bad)?;
            }
            if p.plan.options().guard > 0
                && let Some(place) = self.overrun(plan)
            {
                return Err(Error::job(format!("{} wrote out of bounds: {place}", launch.name)));
            }
        }
        Ok(())
    }

    fn memory(&self) -> Usage {
        let mapped: usize = self.mapped.keys().map(|v| self.graph.ty(*v).bytes()).sum();
        let persistent = self.persistent.bytes().len() - mapped;
        Usage { persistent, arena: self.arena.bytes().len(), free: None }
    }

    fn launches(&self, g: &Graph, plan: &Plan) -> Result<Vec<Scheduled>> {
        Ok(self.lower(g, std::slice::from_ref(plan))?.remove(0).launches)
    }

    fn demand(&self, g: &Graph, plans: &[Plan]) -> Result<Demand> {
        let ready = self.lower(g, plans)?;
        // The largest of them has the memory that the others share.
        let largest = ready.iter().max_by_key(|p| p.plan.arena_bytes() + p.scratch);
        let [arena, scratch] = largest.map_or([0; 2], |p| [p.plan.arena_bytes(), p.scratch]);
        Ok(Demand { arena, scratch, ..Demand::persistent(g, Type::bytes) })
    }

    fn ceilings(&mut self) -> Result<Option<Ceilings>> {
        /// Far larger than any cache.
        const BYTES: usize = 192 << 20;
        /// Below this a cache may hold it.
        const LEAST: usize = 48 << 20;
        // A measurement is no reason to be killed for memory: half of what is left, in whole pages.
        let bytes = available().map_or(BYTES, |left| BYTES.min((left / 2) & !0xfff));
        if bytes < LEAST {
            return Ok(None);
        }
        let mut buffer = Memory::zeroed(bytes)?;
        Ok(Some(self.pool.install(|| ceiling::measure(self.simd, bytemuck::cast_slice_mut(buffer.bytes_mut())))))
    }
}

fn execute(launch: &Launch, call: &mut Operands) {
    match &launch.code {
        Code::Host(routine) | Code::Definition(routine) => call.run(routine),
        // Of one rank: what there is of others goes another way.
        Code::Collective(_) => {}
        Code::Kernel(_) => unreachable!("lowered for the host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_are_there_are_used() {
        let there = rayon::current_num_threads();
        assert!(Pool::new(None).unwrap().0.is_none() && Pool::new(Some(there)).unwrap().0.is_none());
        let own = Pool::new(Some(there + 1)).unwrap();
        assert_eq!((own.threads(), own.install(rayon::current_num_threads)), (there + 1, there + 1));
    }
}
