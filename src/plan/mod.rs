/*! Floor 4: order, grouping and storage, all decided before anything runs. A plan covers the nodes that lead to the
values somebody wants; several plans of one graph (training, evaluation) share the persistent values. */

mod arena;
mod order;
mod usage;

pub use usage::{Life, Pass, parts};

use crate::error::{Error, Result, option};
use crate::graph::{GpuCalls, Graph, GraphId, Instance, Io, Node, Op, Value};
use crate::launch::{Arch, Code, Launch, Operands, Products, Simd, gpu, half};
use crate::ops::fuse::fuse;
use crate::shape::{DType, Type};
use bytemuck::{cast_slice, cast_slice_mut};
use std::sync::Arc;

/// How a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// Nodes of equal op and types run together where they can (the three towers), and order follows depth. Otherwise order
    /// follows the graph, one tower after another, which needs less memory.
    pub group: bool,
    /// Ops that have a common kernel become one ([`crate::ops::fuse`]).
    pub fuse: bool,
    /// Bytes of guard band around every value, a multiple of 256, and no reuse of storage: for finding writes out of bounds.
    pub guard: usize,
    /// By what kernels multiply float32 numbers. How numbers are stored is said by the types of the graph's values.
    pub products: Products,
}

/// The widest guard band.
const GUARD: usize = 1 << 20;

/// Where a value lives, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the arena of temporaries.
    Arena(usize),
    /// With the graph's inputs, weights and state: the value that owns the storage.
    Persistent(Value),
    /// Not part of this plan.
    Nowhere,
}

/// What runs, in which order, and where everything lives. Made by [`Plan::new`] and nobody else: devices rest on it.
///
/// ```compile_fail
/// # use deep_affect::{graph::Graph, plan::{Options, Plan}};
/// let mut plan = Plan::new(&Graph::default(), &[], Options::default()).unwrap();
/// plan.arena_bytes = 0;
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    options: Options,
    steps: Vec<Vec<usize>>,
    places: Vec<Place>,
    live: Vec<Option<[usize; 2]>>,
    arena_bytes: usize,
    naive_bytes: usize,
    /// The graph, the types of its values, and how many nodes it has: what it takes to be the plan of a graph.
    graph: GraphId,
    types: Vec<Type>,
    nodes: usize,
}

/// One launch and the node it computes.
#[derive(Clone)]
pub struct Scheduled {
    pub node: usize,
    pub launch: Launch,
}

impl Plan {
    /// Plans everything that leads to `want`; wanted temporaries keep their storage to the end.
    pub fn new(g: &Graph, want: &[Value], options: Options) -> Result<Plan> {
        g.check()?;
        g.own(want)?;
        if !options.guard.is_multiple_of(arena::ALIGN) || options.guard > GUARD {
            let (got, unit) = (options.guard, arena::ALIGN);
            return Err(Error::job(format!(
                "guard bands of {got} bytes: a multiple of {unit} up to {GUARD} is needed"
            )));
        }
        let steps = order::order(g, want, options.group)?;
        Ok(arena::place(g, want, options, steps))
    }

    pub fn options(&self) -> Options {
        self.options
    }
    /// Nodes that run together, in order.
    pub fn steps(&self) -> &[Vec<usize>] {
        &self.steps
    }
    /// Where a value of its graph lives.
    pub fn place(&self, v: Value) -> Place {
        self.index(v).map_or(Place::Nowhere, |i| self.places[i])
    }
    /// First and last step that touches the storage of a value; None when the plan does not use it.
    pub fn live(&self, v: Value) -> Option<[usize; 2]> {
        self.index(v).and_then(|i| self.live[i])
    }
    /// Where a value of its graph is listed.
    fn index(&self, v: Value) -> Option<usize> {
        Some(v.i()).filter(|&i| self.graph.made(v) && i < self.places.len())
    }
    /// Size of the arena of temporaries.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }
    /// What the temporaries would need without reuse.
    pub fn naive_bytes(&self) -> usize {
        self.naive_bytes
    }

    /// Fails where this is not a plan of `g`.
    pub fn check(&self, g: &Graph) -> Result<()> {
        let types = g.values().map(|v| g.ty(v));
        if self.graph == g.id() && self.nodes == g.nodes().len() && self.types.iter().copied().eq(types) {
            return Ok(());
        }
        Err(Error::job("the plan is of another graph").fix("plan the graph as it is loaded"))
    }

    /// The graph as it runs with these options, and a plan for each list of wanted values.
    pub fn all(mut g: Graph, want: &[&[Value]], options: Options) -> Result<(Graph, Vec<Plan>)> {
        g.check()?;
        want.iter().try_for_each(|w| g.own(w))?;
        if options.fuse {
            fuse(&mut g, want);
        }
        let plans = want.iter().map(|w| Plan::new(&g, w, options)).collect::<Result<_>>()?;
        Ok((g, plans))
    }

    /// The launches for one arch. Pure: what a device would be sent can be looked at without the device. Fails where kernels
    /// cannot count what they would compute.
    pub fn lower(&self, g: &Graph, arch: Arch) -> Result<Vec<Scheduled>> {
        self.check(g)?;
        let mut all = vec![];
        for step in &self.steps {
            let n = &g.nodes()[step[0]];
            let (ins, outs) = g.io(n);
            let io = Io { ins: &ins, outs: &outs };
            if let Arch::Gpu(_) = arch {
                countable(n, &io)?;
            }
            let bufs = |v: &[Value]| v.iter().map(|v| v.buf()).collect::<Vec<_>>();
            let member = |&i: &usize| {
                let n = &g.nodes()[i];
                Instance { ins: bufs(&n.ins), outs: bufs(&n.outs), stream: n.op.describe().stream }
            };
            let group: Vec<Instance> = step.iter().map(member).collect();
            if let Some(collective) = n.op.collective() {
                let launch = |(member, m): (usize, &Instance)| Launch {
                    name: n.op.name(),
                    member,
                    code: Code::Collective(collective),
                    ins: m.ins.clone(),
                    outs: m.outs.clone(),
                    scratch: 0,
                    cost: n.op.cost(&io),
                };
                let launches = group.iter().enumerate().map(launch);
                all.extend(launches.map(|launch| Scheduled { node: step[launch.member], launch }));
                continue;
            }
            // On the host every instance has launches of its own.
            let chunk = if let Arch::Gpu(_) = arch { gpu::GROUP } else { 1 };
            for (nodes, group) in step.chunks(chunk).zip(group.chunks(chunk)) {
                let n = &g.nodes()[nodes[0]];
                let mut launches = match arch {
                    Arch::Host(simd) => host(n.op.as_ref(), &io, group, simd),
                    Arch::Gpu(choices) => {
                        let gpu = GpuCalls::new(n.op.as_ref(), &io, group, choices, self.options.products);
                        n.op.gpu(gpu, &io)
                    }
                };
                if launches.is_empty() {
                    launches = nodes.iter().zip(group).enumerate().map(|(i, (&n, m))| definition(g, n, i, m)).collect();
                }
                launches.iter().try_for_each(|l| launchable(n, l))?;
                all.extend(launches.into_iter().map(|launch| Scheduled { node: nodes[launch.member], launch }));
            }
        }
        Ok(all)
    }

    /// (output, input) pairs of a node that share storage.
    pub fn aliased_inputs(g: &Graph, node: usize) -> Vec<usize> {
        g.nodes()[node].op.in_place().iter().map(|a| a.1).collect()
    }

    /// Persistent values that this plan writes: they cannot be read-only mappings. None of a graph that it is not of.
    pub fn updates(&self, g: &Graph) -> Vec<Value> {
        let steps = self.check(g).into_iter().flat_map(|()| self.steps.iter().flatten());
        let nodes = steps.map(|&i| &g.nodes()[i]);
        nodes.flat_map(|n| n.op.in_place().iter().map(|&(_, i)| n.ins[i])).collect()
    }
}

/// What to do about a size that is too large for kernels.
fn smaller() -> String {
    format!("choose a smaller {} or {}", option("batch"), option("image"))
}

/// Refuses a node whose kernels cannot count what it has.
fn countable(n: &Node, io: &Io) -> Result<()> {
    let counted = n.op.counted(io);
    if counted <= gpu::COUNTABLE {
        return Ok(());
    }
    let problem = format!("{}: kernels would have to count to {counted}, and can to {}", n.title(), gpu::COUNTABLE);
    Err(Error::job(problem).fix(smaller()))
}

/// Refuses a launch of more blocks than a grid has.
fn launchable(n: &Node, launch: &Launch) -> Result<()> {
    let Code::Kernel(call) = &launch.code else { return Ok(()) };
    if call.grid.iter().zip(gpu::GRID).all(|(blocks, most)| *blocks <= most) {
        return Ok(());
    }
    let ([x, y], [most_x, most_y]) = (call.grid, gpu::GRID);
    let problem = format!("{}: {x} x {y} blocks, and a launch has {most_x} x {most_y} at most", n.title());
    Err(Error::job(problem).fix(smaller()))
}

/// The host routines of an op, which know float32 only, but for what they take as it is stored.
fn host(op: &dyn Op, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
    let copied = |types: &[Type], as_stored: &[usize]| -> Vec<Option<Type>> {
        let copied = |(i, t): (usize, &Type)| (t.dtype.is_half() && !as_stored.contains(&i)).then_some(*t);
        types.iter().enumerate().map(copied).collect()
    };
    let as_stored = op.describe().as_stored;
    let copies = [copied(io.ins, as_stored[0]), copied(io.outs, as_stored[1])];
    if copies.iter().flatten().all(Option::is_none) {
        return op.host(io, group, simd);
    }
    let shown = |types: &[Type], copies: &[Option<Type>]| -> Vec<Type> {
        types.iter().zip(copies).map(|(t, copy)| copy.map_or(*t, |t| t.of(DType::F32))).collect()
    };
    let (ins, outs) = (shown(io.ins, &copies[0]), shown(io.outs, &copies[1]));
    let launches = op.host(&Io { ins: &ins, outs: &outs }, group, simd);
    launches.into_iter().map(|l| half::widened(l, &copies)).collect()
}

/// Runs the float64 definition on float32 storage: right, slow, and shown as such by the profiler.
fn definition(g: &Graph, node: usize, member: usize, m: &Instance) -> Launch {
    let n = &g.nodes()[node];
    let (ins, outs) = g.io(n);
    let (op, alias) = (n.op.clone(), n.op.in_place());
    let cost = op.cost(&Io { ins: &ins, outs: &outs });
    let types = [ins.clone(), outs.clone()];
    let routine = move |h: &Operands| {
        let mut to: Vec<&mut [u8]> = (0..outs.len()).map(|o| h.output(o)).collect();
        let x: Vec<Vec<f64>> = ins
            .iter()
            .enumerate()
            .map(|(i, t)| match alias.iter().find(|a| a.1 == i) {
                Some(&(o, _)) => cast_slice::<u8, f32>(to[o]).iter().map(|x| *x as f64).collect(),
                None => widen(h, i, t),
            })
            .collect();
        let x: Vec<&[f64]> = x.iter().map(Vec::as_slice).collect();
        let mut y: Vec<Vec<f64>> = outs.iter().map(|t| vec![f64::NAN; t.numel()]).collect();
        op.eval(&Io { ins: &ins, outs: &outs }, &x, &mut y);
        for (to, (y, t)) in to.iter_mut().zip(y.iter().zip(&outs)) {
            match t.dtype {
                DType::U8 => to.iter_mut().zip(y).for_each(|(d, s)| *d = *s as u8),
                _ => cast_slice_mut::<u8, f32>(to).iter_mut().zip(y).for_each(|(d, s)| *d = *s as f32),
            }
        }
    };
    let (ins, outs) = (m.ins.clone(), m.outs.clone());
    let code = Code::Definition(Arc::new(routine));
    let launch = Launch { name: n.op.name(), member, code, ins, outs, scratch: 0, cost };
    let copies = types.map(|types| types.iter().map(|t| t.dtype.is_half().then_some(*t)).collect::<Vec<_>>());
    match copies.iter().flatten().any(Option::is_some) {
        true => half::widened(launch, &copies),
        false => launch,
    }
}

fn widen(h: &Operands, i: usize, t: &Type) -> Vec<f64> {
    match t.dtype {
        // Those of 16 bits were widened before.
        DType::F32 | DType::F16 | DType::BF16 => h.input::<f32>(i).iter().map(|x| *x as f64).collect(),
        DType::U8 => h.input::<u8>(i).iter().map(|x| *x as f64).collect(),
        DType::I32 => h.input::<i32>(i).iter().map(|x| *x as f64).collect(),
        DType::U32 => h.input::<u32>(i).iter().map(|x| *x as f64).collect(),
    }
}

/// An op that reads a value after another op has updated it in place: the builder's mistake, found before it runs.
fn stale(g: &Graph, v: Value, reader: usize) -> Error {
    Error::job(format!("{} reads {} after it was updated in place", g.nodes()[reader].op.name(), g.name(v)))
}
