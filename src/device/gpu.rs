/*! A GPU as a device: one allocation for everything, plans as lists of resolved launches. What executes them is a
[`Driver`]: CUDA, or the simulator, which therefore runs exactly what a GPU would be sent. */

use super::layout::{CANARY, Layout, decode, encode, expect, loaded, settable, storage};
use super::{
    Bytes, Checks, Counted, Data, DataMut, Demand, Device, GpuSpec, Probe, Spec, Usage, ceiling, finite, flight,
    meant_for,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, Kind, Value};
use crate::host::ceiling::Ceilings;
use crate::launch::choices::Tiles;
use crate::launch::estimate::Limits;
use crate::launch::gpu::{self, Access, Call};
use crate::launch::tensor_map::{self, TensorMap};
use crate::launch::{Arch, Buf, Choices, Code, Collective, Products, Warpgroups};
use crate::nvrtc::Target;
use crate::plan::{Options, Place, Plan, Scheduled};
use crate::ranks::Communicator;
use crate::shape::{DType, Type};
use std::ops::Range;
use std::sync::Arc;

/// How plans for a GPU are made. Equal ops in one launch: few large launches fill a GPU better than many small ones. Fused
/// ops: what need not be written need not be read.
pub const OPTIONS: Options = Options { group: true, fuse: true, guard: 0, products: Products::Float32 };

/// Where an operand lies in the allocation, in bytes, and what the launch does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub at: usize,
    pub bytes: usize,
    pub access: Access,
    /// A value of the graph, not scratch memory: a launch that writes it writes all of it.
    pub value: bool,
}

/// One launch, resolved.
#[derive(Clone, Debug)]
pub struct Step {
    /// The op and its layer, for errors: `conv.fprop of object.conv1_1`.
    pub label: String,
    pub work: Work,
    /// By instance, then operand. Of a collective: one instance, and the parts of its bucket.
    pub windows: Vec<Vec<Span>>,
    /// How many of the plan's collectives, from its first on, must be done before this begins: the last of them that touches
    /// what this touches is the last of these.
    pub awaited: usize,
}

/// What a step is.
#[derive(Clone, Debug)]
pub enum Work {
    Kernel(Call),
    /// All ranks together, with float32 numbers, in place.
    Collective(Collective),
}

impl Step {
    /// The kernel's call; None of a collective.
    pub fn call(&self) -> Option<&Call> {
        match &self.work {
            Work::Kernel(call) => Some(call),
            Work::Collective(_) => None,
        }
    }
    /// The block of parameters of a kernel, for an allocation that begins at `base`.
    pub fn params(
        &self,
        base: u64,
        encode: impl FnMut(&TensorMap, u64) -> Result<[u8; tensor_map::BYTES]>,
    ) -> Result<Vec<u8>> {
        let address = |instance: usize, operand: usize| base + self.windows[instance][operand].at as u64;
        self.call().map_or(Ok(vec![]), |call| call.params(address, encode))
    }
    /// Whether two steps touch memory of each other.
    fn meets(&self, other: &Step) -> bool {
        let all = || other.windows.iter().flatten();
        let touches = |w: &Span| all().any(|o| w.at < o.at + o.bytes && o.at < w.at + w.bytes);
        self.windows.iter().flatten().any(touches)
    }
    /// Fails where an operand does not lie in an allocation of `bytes` bytes.
    pub fn within(&self, bytes: usize) -> Result<()> {
        let outside = |w: &&Span| w.at.checked_add(w.bytes).is_none_or(|end| end > bytes);
        let Some(w) = self.windows.iter().flatten().find(outside) else { return Ok(()) };
        Err(Error::job(format!("{}: an operand lies outside of {bytes} bytes: {w:?}", self.label)))
    }
    /// Blocks along x, y and z of a kernel.
    pub fn grid(&self) -> [u32; 3] {
        let [x, y] = self.call().map_or([0; 2], |call| call.grid);
        [x, y, self.windows.len() as u32]
    }
}

/// One launch as a driver measured it.
pub struct StepTime {
    pub seconds: f64,
    /// What it did, where the driver can count.
    pub counted: Option<Counted>,
}

/// Executes launches.
///
/// Kernels run in the order of a plan. A collective may run beside the steps after it, on a stream of its own: it begins when
/// every kernel before it is done, follows the collectives before it, is done before any step whose [`Step::awaited`] counts
/// it, and in any case before the plan is.
pub trait Driver: Send {
    /// For people: `cuda:0 (NVIDIA H100 80GB HBM3, sm_90)`.
    fn name(&self) -> String;
    /// What tables of measured tiles are about: `NVIDIA H100 80GB HBM3, sm_90a`.
    fn model(&self) -> String;
    /// What its kernels are compiled for.
    fn target(&self) -> Target;
    /// What choices depend on.
    fn limits(&self) -> Limits;
    /// Whether its seconds are those of a GPU.
    fn has_clock(&self) -> bool;
    /// Whether it has products of warpgroups, and they were found right on it.
    fn trusts_warpgroups(&self) -> bool {
        false
    }
    /// Bytes that can be allocated besides those held; None where it uses the machine's memory.
    fn free(&self) -> Option<usize>;
    /// Lets it exchange values with the ranks of a job, all of which make this call: a driver with a way of its own to do that sets it up by
    /// what ranks can tell each other ([`Communicator::broadcast`]).
    fn connect(&mut self, _peers: Arc<dyn Communicator>) -> Result<()> {
        Err(Error::job(format!("{} does not compute with other ranks", self.name())))
    }
    /// Compiles what the steps call, and allocates `bytes` zeroed bytes instead of what was allocated before. Fails where a
    /// step reaches beyond them.
    fn load(&mut self, bytes: usize, plans: Vec<Vec<Step>>) -> Result<()>;
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()>;
    /// Waits for everything that was asked for before.
    fn read(&self, at: usize, into: &mut [u8]) -> Result<()>;
    /// Runs a plan, and may return before it is done.
    fn run(&mut self, plan: usize) -> Result<()>;
    /// Waits for everything that was asked for before.
    fn wait(&self) -> Result<()>;
    /// Runs one launch of a plan and waits for it.
    fn step(&mut self, plan: usize, step: usize) -> Result<StepTime>;
}

/// A graph on a driver.
pub struct Gpu<D> {
    driver: D,
    checks: Checks,
    choices: Choices,
    /// Whether the driver is asked for its trust in products of warpgroups, where a plan could use them.
    asks: bool,
    graph: Graph,
    plans: Vec<Ready>,
    layout: Layout,
    /// Where counts begin, behind what any plan needs besides them.
    counts: usize,
    arena_bytes: usize,
    last: usize,
    /// How many ranks the driver is connected with, this one among them.
    ranks: usize,
}

/// A plan and the launches it became; a driver has the same list, resolved.
struct Ready {
    plan: Plan,
    launches: Vec<Scheduled>,
}

impl Ready {
    fn new(g: &Graph, plan: &Plan, choices: &Choices) -> Result<Self> {
        Ok(Self { plan: plan.clone(), launches: plan.lower(g, Arch::Gpu(choices))? })
    }
    fn scratch(&self) -> usize {
        self.launches.iter().map(|s| s.launch.scratch).max().unwrap_or(0)
    }
    fn arena(&self) -> usize {
        self.plan.arena_bytes().next_multiple_of(256)
    }
    /// Bytes of counts.
    fn counts(&self) -> usize {
        let end = |o: &gpu::CallOperand| match o.place {
            gpu::Location::Counts(at) => Some((at + o.bytes).next_multiple_of(256)),
            _ => None,
        };
        let of = |s: &Scheduled| match &s.launch.code {
            Code::Kernel(call) => call.operands.iter().flatten().filter_map(end).max(),
            _ => None,
        };
        self.launches.iter().filter_map(of).max().unwrap_or(0)
    }
}

impl<D: Driver> Gpu<D> {
    /// With `tiles` that were measured on it, or none.
    pub fn new(driver: D, checks: Checks, tiles: Tiles) -> Self {
        let (graph, layout) = (Graph::default(), Layout::default());
        let choices = Choices { limits: driver.limits(), tiles, warpgroups: Warpgroups::Nothing };
        Self {
            driver,
            checks,
            choices,
            asks: false,
            graph,
            plans: vec![],
            layout,
            counts: 0,
            arena_bytes: 0,
            last: 0,
            ranks: 1,
        }
    }

    /// Lets all convolutions that can be computed by products of warpgroups, which Hopper alone has.
    pub fn with_warpgroups(mut self) -> Self {
        self.choices.warpgroups = Warpgroups::Everything;
        self
    }

    /// Lets those be computed so that are faster then, if the driver trusts it.
    pub fn with_trusted_warpgroups(mut self) -> Self {
        self.asks = true;
        self
    }

    /// What decides about the kernels of a graph.
    fn choices(&self, g: &Graph) -> Choices {
        let asks = self.asks && g.values().any(|v| g.ty(v).dtype == DType::BF16);
        let trusted = asks && self.driver.trusts_warpgroups();
        let warpgroups = if trusted { Warpgroups::Faster } else { self.choices.warpgroups };
        Choices { warpgroups, ..self.choices.clone() }
    }

    fn place(&self, place: Place) -> usize {
        match place {
            Place::Arena(at) => self.layout.bytes + at,
            Place::Persistent(root) => self.layout.offset[root.i()],
            Place::Nowhere => unreachable!("a plan places every operand of its nodes"),
        }
    }

    /// The steps of a plan; scratch memory lies behind its temporaries, and counts behind that of all plans: nothing else
    /// touches them.
    fn resolve(&self, g: &Graph, ready: &Ready) -> Result<Vec<Step>> {
        let scratch = self.layout.bytes + ready.arena();
        let mut steps = vec![];
        for Scheduled { node, launch } in &ready.launches {
            let label = g.nodes()[*node].title();
            let call = match &launch.code {
                Code::Kernel(call) => call,
                Code::Collective(c) => {
                    let window = |b: &Buf| {
                        let (at, bytes) = (self.place(ready.plan.place(g.of_buf(*b))), g.ty(g.of_buf(*b)).bytes());
                        Span { at, bytes, access: Access::Update, value: true }
                    };
                    let windows = vec![launch.outs.iter().map(window).collect()];
                    steps.push(Step { label, work: Work::Collective(*c), windows, awaited: 0 });
                    continue;
                }
                _ => return Err(Error::job(format!("{} has no GPU kernel", launch.name))),
            };
            let window = |o: &gpu::CallOperand| {
                let at = match o.place {
                    gpu::Location::Value(b) => self.place(ready.plan.place(g.of_buf(b))),
                    gpu::Location::Scratch(at) => scratch + at,
                    gpu::Location::Counts(at) => self.counts + at,
                };
                let value = matches!(o.place, gpu::Location::Value(_));
                Span { at, bytes: o.bytes, access: o.access, value }
            };
            let windows = call.operands.iter().map(|i| i.iter().map(window).collect()).collect();
            steps.push(Step { label, work: Work::Kernel(call.clone()), windows, awaited: 0 });
        }
        let awaited = flight::awaited(&ready.launches, |a, b| steps[a].meets(&steps[b]));
        steps.iter_mut().zip(awaited).for_each(|(step, n)| step.awaited = n);
        Ok(steps)
    }

    /// A value's place and size: persistent, or temporary of the plan that ran last.
    fn window(&self, v: Value) -> Result<Range<usize>> {
        self.graph.own(&[v])?;
        let place = match (self.graph.kind(v), self.plans.get(self.last)) {
            (Kind::Temp, Some(ready)) => ready.plan.place(v),
            (Kind::Temp, None) => Place::Nowhere,
            _ => Place::Persistent(v),
        };
        if place == Place::Nowhere {
            return Err(Error::job("this value was not computed by the last plan"));
        }
        let at = self.place(place);
        Ok(at..at + self.graph.ty(v).bytes())
    }

    fn bytes_of(&self, v: Value) -> Result<Vec<u8>> {
        let window = self.window(v)?;
        // Aligned for any element type.
        let mut bytes = bytemuck::allocation::pod_collect_to_vec::<f64, u8>(&vec![0.0; window.len().div_ceil(8)]);
        bytes.truncate(window.len());
        self.driver.read(window.start, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills what a launch is about to write with NaN.
    fn poison(&mut self, plan: usize, step: usize) -> Result<()> {
        let Code::Kernel(call) = &self.plans[plan].launches[step].launch.code else { return Ok(()) };
        let writes = call.operands.iter().flatten().filter(|o| o.access == Access::Write);
        let outs: Vec<(usize, usize)> = writes
            .filter_map(|o| match o.place {
                gpu::Location::Value(b) => {
                    Some((self.place(self.plans[plan].plan.place(self.graph.of_buf(b))), o.bytes))
                }
                gpu::Location::Scratch(_) | gpu::Location::Counts(_) => None,
            })
            .collect();
        for (at, bytes) in outs {
            // NaN in every floating-point format.
            self.driver.write(at, &vec![0xFF; bytes])?;
        }
        Ok(())
    }

    /// The first byte of a guard band that is not a canary.
    fn overrun(&self, plan: usize) -> Result<Option<String>> {
        let guard = self.layout.guard;
        if guard == 0 {
            return Ok(None);
        }
        for (v, place, n) in self.layout.guarded(&self.graph, &self.plans[plan].plan) {
            let at = self.place(place);
            let mut bands = vec![0; 2 * guard];
            let (before, after) = bands.split_at_mut(guard);
            self.driver.read(at - guard, before)?;
            self.driver.read(at + n, after)?;
            if let Some(k) = bands.iter().position(|b| *b != CANARY) {
                return Ok(Some(format!("guard byte {k} around value {} ({})", v.i(), self.graph.name(v))));
            }
        }
        Ok(None)
    }

    /// Surrounds the values of a plan with canaries.
    fn guard(&mut self, plan: usize) -> Result<()> {
        let guard = self.layout.guard;
        let bands: Vec<(usize, usize)> = self
            .layout
            .guarded(&self.graph, &self.plans[plan].plan)
            .map(|(_, place, n)| (self.place(place), n))
            .collect();
        for (at, n) in bands {
            self.driver.write(at - guard, &vec![CANARY; guard])?;
            self.driver.write(at + n, &vec![CANARY; guard])?;
        }
        Ok(())
    }
}

impl<D: Driver> Device for Gpu<D> {
    fn spec(&self) -> Spec {
        let (model, limits, has_clock) = (self.driver.model(), self.choices.limits, self.driver.has_clock());
        Spec { name: self.driver.name(), options: OPTIONS, gpu: Some(GpuSpec { model, limits, has_clock }) }
    }

    fn connect(&mut self, peers: Arc<dyn Communicator>) -> Result<()> {
        self.ranks = peers.ranks();
        self.driver.connect(peers)
    }

    fn load(&mut self, g: &Graph, plans: &[Plan]) -> Result<()> {
        (self.graph, self.plans) = (Graph::default(), vec![]);
        let choices = self.choices(g);
        let ready = plans.iter().map(|p| Ready::new(g, p, &choices)).collect::<Result<Vec<_>>>()?;
        meant_for(g, plans, self.ranks)?;
        self.layout = Layout::new(g, plans);
        let most = |bytes: fn(&Ready) -> usize| ready.iter().map(bytes).max().unwrap_or(0);
        let shared = most(|p| p.arena() + p.scratch());
        self.counts = self.layout.bytes + shared;
        self.arena_bytes = shared + most(Ready::counts);
        let steps = ready.iter().map(|p| self.resolve(g, p)).collect::<Result<Vec<_>>>()?;
        self.driver.load(self.layout.bytes + self.arena_bytes, steps)?;
        (self.graph, self.plans) = (g.clone(), ready);
        Ok(())
    }

    fn write(&mut self, v: Value, data: Data) -> Result<()> {
        settable(&self.graph, v)?;
        expect(&self.graph, v, data.len())?;
        let (window, dtype) = (self.window(v)?, self.graph.ty(v).dtype);
        match data {
            Data::F32(x) if dtype == DType::F32 => self.driver.write(window.start, bytemuck::cast_slice(x)),
            Data::U8(x) if dtype == DType::U8 => self.driver.write(window.start, x),
            data => {
                let mut bytes = bytemuck::allocation::zeroed_slice_box::<u64>(window.len().div_ceil(8));
                let bytes = &mut bytemuck::cast_slice_mut(&mut bytes)[..window.len()];
                encode(dtype, data, bytes);
                self.driver.write(window.start, bytes)
            }
        }
    }

    fn bind(&mut self, v: Value, bytes: Bytes, range: Range<usize>) -> Result<bool> {
        let bytes = storage(&self.graph, v, self.graph.ty(v).dtype, &bytes, range)?;
        self.driver.write(self.window(v)?.start, bytes).map(|()| false)
    }

    fn read(&self, v: Value, into: DataMut) -> Result<()> {
        expect(&self.graph, v, into.len())?;
        match (self.graph.ty(v).dtype, into) {
            (DType::F32, DataMut::F32(x)) => self.driver.read(self.window(v)?.start, bytemuck::cast_slice_mut(x)),
            (dtype, into) => {
                into.fill(decode(dtype, &self.bytes_of(v)?));
                Ok(())
            }
        }
    }

    fn run(&mut self, plan: usize, mut probe: Option<&mut dyn FnMut(Probe)>) -> Result<()> {
        loaded(plan, self.plans.len())?;
        self.last = plan;
        if probe.is_none() && self.checks == Checks::None && self.layout.guard == 0 {
            return self.driver.run(plan);
        }
        self.guard(plan)?;
        for i in 0..self.plans[plan].launches.len() {
            if self.checks == Checks::Poison {
                self.poison(plan, i)?;
            }
            let measured = self.driver.step(plan, i)?;
            let Scheduled { node, launch } = &self.plans[plan].launches[i];
            if let Some(probe) = &mut probe {
                probe(Probe {
                    node: *node,
                    label: &self.graph.nodes()[*node].label,
                    name: launch.name,
                    cost: launch.cost,
                    definition: false,
                    seconds: measured.seconds,
                    counted: measured.counted,
                });
            }
            if self.checks == Checks::Finite {
                let bad = |v| finite::first(self.graph.ty(v).dtype, &self.bytes_of(v).ok()?);
                finite::check(&self.graph, *node, &launch.outs, bad)?;
            }
            if let Some(place) = self.overrun(plan)? {
                return Err(Error::job(format!("{} wrote out of bounds: {place}", launch.name)));
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.driver.wait()
    }

    fn memory(&self) -> Usage {
        Usage { persistent: self.layout.bytes, arena: self.arena_bytes, free: self.driver.free() }
    }

    fn launches(&self, g: &Graph, plan: &Plan) -> Result<Vec<Scheduled>> {
        plan.lower(g, Arch::Gpu(&self.choices(g)))
    }

    fn demand(&self, g: &Graph, plans: &[Plan]) -> Result<Demand> {
        let choices = self.choices(g);
        let needs = |p| Ready::new(g, p, &choices).map(|p| [p.arena(), p.scratch(), p.counts()]);
        let needs = plans.iter().map(needs).collect::<Result<Vec<_>>>()?;
        let counts = needs.iter().map(|p| p[2]).max().unwrap_or(0);
        // The largest of them has the memory that the others share.
        let [arena, scratch, _] = needs.into_iter().max_by_key(|p| p[0] + p[1]).unwrap_or_default();
        Ok(Demand { arena, scratch: scratch + counts, ..Demand::persistent(g, Type::bytes) })
    }

    fn ceilings(&mut self) -> Result<Option<Ceilings>> {
        if !self.driver.has_clock() {
            return Ok(None);
        }
        let (free, target) = (self.driver.free(), self.driver.target());
        let storages: Vec<DType> = [DType::F16, DType::BF16].into_iter().filter(|s| target.multiplies(*s)).collect();
        ceiling::measure(self, ceiling::Load::GPU.within(free), &storages).map(Some)
    }
}
