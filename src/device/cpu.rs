/*! The product path on the host: float32 in the planned arena, fast routines where an op has one, all cores. Nothing is
allocated during a step. */

use super::memory::Memory;
use super::{Checks, Data, Demand, Device, Probe, finite};
use crate::error::{Error, Result};
use crate::graph::{Graph, Kind, Value};
use crate::host::ceiling::{self, Ceilings};
use crate::kernel::{Arch, Code, Host, Launch, Routine, Simd, Slot};
use crate::plan::{Place, Plan, Scheduled};
use crate::shape::DType;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Byte that fills guard bands; as a float32 it is neither NaN nor a number a network computes.
const CANARY: u8 = 0xA5;

type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The host as a device.
pub struct Cpu {
    simd: Simd,
    checks: Checks,
    pool: rayon::ThreadPool,
    graph: Graph,
    plans: Vec<Ready>,
    persistent: Memory,
    /// Offset of each persistent value; usize::MAX for temporaries.
    offset: Vec<usize>,
    /// Values that live in a read-only mapping.
    mapped: HashMap<Value, (Bytes, Range<usize>)>,
    arena: Memory,
    last: usize,
}

/// A plan with its launches and their operands resolved to addresses.
struct Ready {
    plan: Plan,
    launches: Vec<Scheduled>,
    scratch: usize,
    /// Built when the addresses are final, at the first run after a load or a bind.
    calls: Vec<Host>,
}

impl Cpu {
    /// `threads` None: one per core.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        Self::with(Simd::detect(), threads, Checks::None)
    }
    /// A chosen vector level and chosen checks.
    pub fn with(simd: Simd, threads: Option<usize>, checks: Checks) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .build()
            .map_err(|e| Error::job(format!("cannot start threads: {e}")).fix("lower --threads"))?;
        Ok(Self {
            simd,
            checks,
            pool,
            graph: Graph::default(),
            plans: vec![],
            persistent: Memory::zeroed(0)?,
            offset: vec![],
            mapped: HashMap::new(),
            arena: Memory::zeroed(0)?,
            last: 0,
        })
    }

    /// Lowers plans. Lowering asks for scratch memory, which may depend on the number of threads: it runs in the pool.
    fn lower(&self, g: &Graph, plans: &[Plan]) -> Vec<Ready> {
        let arch = Arch::Host(self.simd);
        self.pool.install(|| {
            let ready = |p: &Plan| {
                let launches = p.lower(g, arch);
                let scratch = launches.iter().map(|s| s.launch.scratch).max().unwrap_or(0);
                Ready { plan: p.clone(), launches, scratch, calls: vec![] }
            };
            plans.iter().map(ready).collect()
        })
    }

    fn guard(&self) -> usize {
        self.plans.iter().map(|p| p.plan.options.guard).max().unwrap_or(0)
    }

    fn slot(&mut self, plan: usize, v: Value) -> Slot {
        let bytes = self.graph.ty(v).bytes();
        let at = match self.plans[plan].plan.places[v.i()] {
            Place::Arena(at) => self.arena.base().wrapping_add(at),
            Place::Persistent(root) => match self.mapped.get(&root) {
                // Mapped values are never outputs: `bind` copies what a plan updates.
                Some((map, range)) => (**map).as_ref()[range.clone()].as_ptr() as *mut u8,
                None => self.persistent.base().wrapping_add(self.offset[root.i()]),
            },
            Place::Nowhere => unreachable!("a plan places every operand of its nodes"),
        };
        // SAFETY: the address lies inside an allocation or mapping that this device owns for as long as the calls built
        // from it, with `bytes` bytes reserved for this value by the plan.
        unsafe { Slot::new(at, bytes) }
    }

    /// Resolves the operands of every launch of a plan.
    fn resolve(&mut self, plan: usize) {
        let launches = std::mem::take(&mut self.plans[plan].launches);
        let (base, scratch_at) = (self.arena.base(), self.plans[plan].plan.arena_bytes);
        let calls = launches
            .iter()
            .map(|s| {
                let ins = s.launch.ins.iter().map(|b| self.slot(plan, Value(b.0))).collect();
                let outs = s.launch.outs.iter().map(|b| self.slot(plan, Value(b.0))).collect();
                // SAFETY: `load` reserved the largest scratch of any launch behind the temporaries.
                let scratch = unsafe { Slot::new(base.wrapping_add(scratch_at), s.launch.scratch) };
                // SAFETY: the plan places live values apart from each other and from the scratch memory; `tests/plan.rs`
                // checks that for every model.
                unsafe { Host::new(ins, outs, scratch, Plan::aliased_inputs(&self.graph, s.node)) }
            })
            .collect();
        self.plans[plan].launches = launches;
        self.plans[plan].calls = calls;
    }

    /// Bytes of a value: persistent, or temporary of the plan that ran last.
    fn bytes_of(&self, v: Value) -> Result<&[u8]> {
        let n = self.graph.ty(v).bytes();
        let place = self.plans.get(self.last).map_or(Place::Nowhere, |p| p.plan.places[v.i()]);
        match (self.graph.kind(v), place) {
            (Kind::Temp, Place::Arena(at)) => Ok(&self.arena.bytes()[at..at + n]),
            (Kind::Temp, Place::Nowhere) => Err(Error::job("this value was not computed by the last plan")),
            (Kind::Temp, Place::Persistent(root)) => self.bytes_of(root),
            _ => match self.mapped.get(&v) {
                Some((map, range)) => Ok(&(**map).as_ref()[range.clone()]),
                None => Ok(&self.persistent.bytes()[self.offset[v.i()]..][..n]),
            },
        }
    }

    fn poison(&mut self, plan: usize, i: usize) {
        let s = &self.plans[plan].launches[i];
        let aliased: Vec<usize> = self.graph.nodes()[s.node].op.alias().iter().map(|a| a.0).collect();
        for (o, b) in s.launch.outs.clone().iter().enumerate() {
            if let (false, Place::Arena(at)) = (aliased.contains(&o), self.plans[plan].plan.places[b.0 as usize]) {
                let n = self.graph.ty(Value(b.0)).numel();
                let out = &mut self.arena.bytes_mut()[at..at + 4 * n];
                bytemuck::cast_slice_mut::<u8, f32>(out).fill(f32::NAN);
            }
        }
    }

    /// The first byte of a guard band that is not a canary.
    fn overrun(&self, plan: usize) -> Option<String> {
        let p = &self.plans[plan].plan;
        let guard = p.options.guard;
        let bands = (0..self.graph.len()).filter_map(|i| {
            let (v, n) = (Value(i as u32), self.graph.ty(Value(i as u32)).bytes());
            match p.places[i] {
                Place::Arena(at) if self.graph.kind(v) == Kind::Temp => Some((i, self.arena.bytes(), at, n)),
                Place::Persistent(root) if root == v => Some((i, self.persistent.bytes(), self.offset[i], n)),
                _ => None,
            }
        });
        for (i, memory, at, n) in bands {
            let around = memory[at - guard..at].iter().chain(&memory[at + n..at + n + guard]);
            if let Some(k) = around.enumerate().find(|(_, b)| **b != CANARY).map(|(k, _)| k) {
                return Some(format!("guard byte {k} around value {i} ({})", self.graph.name(Value(i as u32))));
            }
        }
        None
    }
}

impl Device for Cpu {
    fn name(&self) -> String {
        let simd = format!("{:?}", self.simd).to_lowercase();
        format!("cpu ({simd}, {} threads)", self.pool.current_num_threads())
    }

    fn load(&mut self, g: &Graph, plans: &[Plan]) -> Result<()> {
        self.graph = g.clone();
        self.mapped.clear();
        self.plans = self.lower(g, plans);
        let guard = self.guard();
        let (mut at, mut offset) = (0, vec![usize::MAX; g.len()]);
        for v in (0..g.len()).filter(|&v| g.kind(Value(v as u32)) != Kind::Temp) {
            offset[v] = at + guard;
            at += (g.ty(Value(v as u32)).bytes() + 2 * guard).next_multiple_of(256);
        }
        self.offset = offset;
        self.persistent = Memory::zeroed(at)?;
        let needed = |p: &Ready| p.plan.arena_bytes + p.scratch.next_multiple_of(64);
        self.arena = Memory::zeroed(self.plans.iter().map(needed).max().unwrap_or(0))?;
        if guard > 0 {
            self.arena.bytes_mut().fill(CANARY);
            self.persistent.bytes_mut().fill(CANARY);
            for v in (0..g.len()).filter(|&v| self.offset[v] != usize::MAX) {
                let n = g.ty(Value(v as u32)).bytes();
                self.persistent.bytes_mut()[self.offset[v]..][..n].fill(0);
            }
        }
        Ok(())
    }

    fn write(&mut self, v: Value, data: Data) -> Result<()> {
        let t = self.graph.ty(v);
        if self.mapped.remove(&v).is_some() {
            self.plans.iter_mut().for_each(|p| p.calls.clear());
        }
        let to = &mut self.persistent.bytes_mut()[self.offset[v.i()]..][..t.bytes()];
        match (t.dtype, data) {
            (DType::F32, Data::F32(x)) => bytemuck::cast_slice_mut(to).copy_from_slice(x),
            (DType::U8, Data::U8(x)) => to.copy_from_slice(x),
            (DType::I32, Data::I32(x)) => bytemuck::cast_slice_mut(to).copy_from_slice(x),
            (DType::U32, Data::U32(x)) => bytemuck::cast_slice_mut(to).copy_from_slice(x),
            (DType::F32, x) => fill::<f32>(to, |i| x.at(i) as f32),
            (DType::U8, x) => fill::<u8>(to, |i| x.at(i) as u8),
            (DType::I32, x) => fill::<i32>(to, |i| x.at(i) as i32),
            (DType::U32, x) => fill::<u32>(to, |i| x.at(i) as u32),
        }
        Ok(())
    }

    fn bind(&mut self, v: Value, bytes: Bytes, range: Range<usize>) -> Result<()> {
        let slice = &(*bytes).as_ref()[range.clone()];
        let updated = self.plans.iter().any(|p| p.plan.updates(&self.graph).contains(&v));
        if updated || self.guard() > 0 || !(slice.as_ptr() as usize).is_multiple_of(4) {
            let t = self.graph.ty(v);
            self.persistent.bytes_mut()[self.offset[v.i()]..][..t.bytes()].copy_from_slice(slice);
            self.mapped.remove(&v);
        } else {
            self.mapped.insert(v, (bytes, range));
        }
        self.plans.iter_mut().for_each(|p| p.calls.clear());
        Ok(())
    }

    fn read(&self, v: Value, into: &mut [f32]) -> Result<()> {
        into.copy_from_slice(bytemuck::cast_slice(self.bytes_of(v)?));
        Ok(())
    }

    fn read64(&self, v: Value) -> Result<Vec<f64>> {
        let bytes = self.bytes_of(v)?;
        Ok(match self.graph.ty(v).dtype {
            DType::F32 => bytemuck::cast_slice::<u8, f32>(bytes).iter().map(|x| *x as f64).collect(),
            DType::U8 => bytes.iter().map(|x| *x as f64).collect(),
            DType::I32 => bytemuck::cast_slice::<u8, i32>(bytes).iter().map(|x| *x as f64).collect(),
            DType::U32 => bytemuck::cast_slice::<u8, u32>(bytes).iter().map(|x| *x as f64).collect(),
        })
    }

    fn run(&mut self, plan: usize, mut probe: Option<&mut dyn FnMut(Probe)>) -> Result<()> {
        self.last = plan;
        if self.plans[plan].calls.len() != self.plans[plan].launches.len() {
            self.resolve(plan);
        }
        if self.plans[plan].plan.options.guard > 0 {
            // The values of another plan lie where the guard bands of this one are.
            self.arena.bytes_mut().fill(CANARY);
        }
        if probe.is_none() && self.checks == Checks::None && self.guard() == 0 {
            // One hand-over to the threads for all launches.
            let p = &self.plans[plan];
            self.pool.install(|| {
                for (Scheduled { launch, .. }, call) in p.launches.iter().zip(&p.calls) {
                    routine(launch)(call);
                }
            });
            return Ok(());
        }
        for i in 0..self.plans[plan].launches.len() {
            if self.checks == Checks::Poison {
                self.poison(plan, i);
            }
            let start = Instant::now();
            let p = &self.plans[plan];
            let (Scheduled { node, launch }, call) = (&p.launches[i], &p.calls[i]);
            self.pool.install(|| routine(launch)(call));
            let seconds = start.elapsed().as_secs_f64();
            if let Some(probe) = &mut probe {
                let definition = matches!(launch.code, Code::Definition(_));
                let label = &self.graph.nodes()[*node].label;
                probe(Probe { node: *node, label, name: launch.name, cost: launch.cost, definition, seconds });
            }
            if self.checks == Checks::Finite {
                finite::check(&self.graph, *node, &launch.outs, |v| finite::first(self.bytes_of(v).ok()?))?;
            }
            if p.plan.options.guard > 0
                && let Some(place) = self.overrun(plan)
            {
                return Err(Error::job(format!("{} wrote out of bounds: {place}", launch.name)));
            }
        }
        Ok(())
    }

    fn memory(&self) -> [usize; 2] {
        let mapped: usize = self.mapped.keys().map(|v| self.graph.ty(*v).bytes()).sum();
        [self.persistent.bytes().len() - mapped, self.arena.bytes().len()]
    }

    fn launches(&self, g: &Graph, plan: &Plan) -> Vec<Scheduled> {
        self.lower(g, std::slice::from_ref(plan)).remove(0).launches
    }

    fn demand(&self, g: &Graph, plans: &[Plan]) -> Demand {
        let ready = self.lower(g, plans);
        // The largest of them has the memory that the others share.
        let largest = ready.iter().max_by_key(|p| p.plan.arena_bytes + p.scratch);
        let [arena, scratch] = largest.map_or([0; 2], |p| [p.plan.arena_bytes, p.scratch]);
        Demand { arena, scratch, ..Demand::persistent(g, 1) }
    }

    fn ceilings(&self) -> Result<Option<Ceilings>> {
        /// Far larger than any cache.
        const BYTES: usize = 192 << 20;
        let mut buffer = Memory::zeroed(BYTES)?;
        Ok(Some(self.pool.install(|| ceiling::measure(self.simd, bytemuck::cast_slice_mut(buffer.bytes_mut())))))
    }
}

fn routine(launch: &Launch) -> &Routine {
    match &launch.code {
        Code::Host(routine) | Code::Definition(routine) => routine,
        Code::Kernel(_) => unreachable!("lowered for the host"),
    }
}

fn fill<T: bytemuck::Pod>(to: &mut [u8], f: impl Fn(usize) -> T) {
    bytemuck::cast_slice_mut::<u8, T>(to).iter_mut().enumerate().for_each(|(i, x)| *x = f(i));
}
