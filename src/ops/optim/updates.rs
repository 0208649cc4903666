//! Updates of many parameters as one launch.

use super::{SEGMENTS, Segment, Sgd, Step, Update, updated};
use crate::error::{Error, Result};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Op, Value};
use crate::launch::{Cost, Launch, Simd};
use crate::ops::arith::Add;
use crate::ops::collective::AllGather;
use crate::ops::fuse::{Uses, is};
use crate::ops::loss::L2Grad;
use crate::shape::Type;

/// What [`Updates`] does to one of its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Own {
    /// Whether layers multiply with a copy of it.
    pub copy: bool,
    /// Of a penalty on it ([`super::loss::L2`]) whose gradient, 2 lambda w d, is added to g; 0 where there is none.
    pub lambda: f32,
    /// The first element that is updated ([`Update`]).
    pub from: usize,
}

/// [`Update`] of up to [`SEGMENTS`] parameters in one launch. Inputs: of each parameter w, v and, if it has one, its copy; then
/// of each its g; then hyper; with `scaled`, by [1]; and, if one has a penalty, d [1], the penalty's own gradient. Outputs: w,
/// v and copy of each, in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Updates {
    pub sgd: Sgd,
    pub scaled: bool,
    pub each: Vec<Own>,
}

/// The first inputs of [`Updates`] are its outputs.
static IN_PLACE: [(usize, usize); 3 * SEGMENTS] = {
    let mut pairs = [(0, 0); 3 * SEGMENTS];
    let mut i = 0;
    while i < pairs.len() {
        pairs[i] = (i, i);
        i += 1;
    }
    pairs
};

impl Updates {
    /// Values that are updated.
    fn outputs(&self) -> usize {
        self.each.iter().map(|own| 2 + own.copy as usize).sum()
    }

    fn step(&self) -> Step {
        let (mut at, first) = (0, self.outputs());
        let segment = |(i, own): (usize, &Own)| {
            let [w, v, copy] = [at, at + 1, at + 2].map(|i| (i, i));
            at += 2 + own.copy as usize;
            Segment { w, v, copy: own.copy.then_some(copy), g: first + i, lambda: own.lambda, from: own.from }
        };
        let segments: Vec<Segment> = self.each.iter().enumerate().map(segment).collect();
        let hyper = first + segments.len();
        let by = self.scaled.then_some(hyper + 1);
        let penalised = self.each.iter().any(|own| own.lambda != 0.0);
        let penalty = penalised.then_some(hyper + 1 + self.scaled as usize);
        Step { sgd: self.sgd, segments, hyper, by, penalty }
    }
}

impl Op for Updates {
    fn describe(&self) -> Description {
        Description::of("sgd.updates").in_place(&IN_PLACE[..self.outputs()])
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let step = self.step();
        let wanted = step.penalty.or(step.by).unwrap_or(step.hyper) + 1;
        if !(1..=SEGMENTS).contains(&self.each.len()) || ins.len() != wanted {
            return Err(Error::job(format!(
                "1 to {SEGMENTS} parameters are needed, each with v and g, and {wanted} inputs"
            )));
        }
        let mut storages = vec![];
        for s in &step.segments {
            updated(&[ins[s.w.1], ins[s.v.1], ins[s.g], ins[step.hyper]], s.from)?;
            let Some((_, copy)) = s.copy else { continue };
            if !ins[copy].dtype.is_half() || ins[copy].shape != ins[s.w.1].shape {
                return Err(Error::job("a copy must have w's shape and 16 bits"));
            }
            storages.push(ins[copy].dtype);
        }
        let one = |i: &usize| ins[*i] == Type::f32(&[1]);
        match step.by.iter().chain(&step.penalty).all(one) && storages.iter().all(|s| *s == storages[0]) {
            true => Ok(ins[..self.outputs()].to_vec()),
            false => {
                Err(Error::job("copies of one type, and [1] for the scale and the penalty's gradient, are needed"))
            }
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        self.step().eval(ins, outs)
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        self.step().host(self, io, group)
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        self.step().gpu(gpu, io)
    }
    fn cost(&self, io: &Io) -> Cost {
        self.step().cost(io)
    }
}

/// Bytes of gradients that wait for one another, at most: a launch of this size keeps a GPU busy a hundred times as long as
/// it takes to launch, and the arena does not grow.
const WAITING: usize = 64 << 20;

/// A parameter's update.
pub(in crate::ops) struct One {
    pub at: usize,
    pub sgd: Sgd,
    /// w, v and, if it has one, the copy; what they become.
    pub values: Vec<Value>,
    pub outs: Vec<Value>,
    pub g: Value,
    pub hyper: Value,
    pub by: Option<Value>,
    /// lambda and d of the penalty that is part of its gradient.
    pub penalty: Option<(f32, Value)>,
    /// The first element that is updated, and whether others stay.
    pub from: usize,
    pub piece: bool,
    /// The node that hands it to all ranks, if one does.
    handed: Option<usize>,
}

impl One {
    /// The update that node `at` is, if it is one and nobody but other ranks reads what it writes.
    pub fn of(g: &Graph, uses: &Uses, at: usize) -> Option<Self> {
        let n = &g.nodes()[at];
        let update = is::<Update>(n).copied();
        let update = update.or_else(|| is::<Sgd>(n).map(|&sgd| Update { sgd, copy: false, scaled: false, from: 0 }))?;
        let mut readers = n.outs.iter().flat_map(|v| &uses.readers[v.i()]);
        let handed = readers.next().copied();
        if readers.next().is_some() || handed.is_some_and(|at| is::<AllGather>(&g.nodes()[at]).is_none()) {
            return None;
        }
        let mut values = n.ins[..2].to_vec();
        values.extend(update.copy.then(|| n.ins[4]));
        let by = update.scaled.then(|| n.ins[4 + update.copy as usize]);
        let mut one = Self {
            at,
            sgd: update.sgd,
            values,
            outs: n.outs.clone(),
            g: n.ins[2],
            hyper: n.ins[3],
            by,
            penalty: None,
            from: update.from,
            piece: g.ty(n.ins[0]) != g.ty(n.ins[1]),
            handed,
        };
        // g + 2 lambda w d, of which nobody else reads anything.
        if let Some((sum, Add)) = uses.only(g, one.g, at) {
            let [a, b] = g.nodes()[sum].ins[..] else { return Some(one) };
            for (rest, penalty) in [(a, b), (b, a)] {
                let Some((i, &L2Grad { lambda })) = uses.only::<L2Grad>(g, penalty, sum) else { continue };
                let [w, d] = g.nodes()[i].ins[..] else { continue };
                if w == one.values[0] && lambda != 0.0 {
                    (one.g, one.penalty) = (rest, Some((lambda, d)));
                    break;
                }
            }
        }
        Some(one)
    }

    /// Whether one launch can do both.
    fn joins(&self, g: &Graph, other: &One) -> bool {
        fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        let storage = |one: &One| one.values.get(2).map(|copy| g.ty(*copy).dtype);
        let penalty = |one: &One| one.penalty.map(|p| p.1);
        self.sgd == other.sgd
            && (self.hyper, self.by, self.handed) == (other.hyper, other.by, other.handed)
            && agree(penalty(self), penalty(other))
            && agree(storage(self), storage(other))
    }
}

/// The gradient of a penalty becomes part of the update, and updates become one, as many as a launch takes and as gradients
/// may wait. They stand where the last of them stood.
pub(super) fn fuse(g: &mut Graph, uses: &Uses) {
    let mut all: Vec<One> = uses.needed.iter().filter_map(|&at| One::of(g, uses, at)).collect();
    // In the order in which their gradients are there.
    all.sort_by_key(|one| (uses.writer[one.g.i()], one.at));
    let bytes = |g: &Graph, one: &One| g.ty(one.g).bytes();
    let mut open: Vec<(usize, Vec<One>)> = vec![];
    for one in all {
        let own = bytes(g, &one);
        if own > WAITING {
            together(g, vec![one]);
            continue;
        }
        match open.iter().position(|(_, group)| group.iter().all(|other| other.joins(g, &one))) {
            Some(i) if open[i].0 + own <= WAITING && open[i].1.len() < SEGMENTS => {
                open[i].0 += own;
                open[i].1.push(one);
            }
            Some(i) => {
                let full = std::mem::replace(&mut open[i], (own, vec![one]));
                together(g, full.1);
            }
            None => open.push((own, vec![one])),
        }
    }
    open.into_iter().for_each(|(_, group)| together(g, group));
}

fn together(g: &mut Graph, group: Vec<One>) {
    if let [one] = &group[..]
        && one.penalty.is_none()
    {
        return;
    }
    let (sgd, by) = (group[0].sgd, group[0].by);
    let each = |one: &One| Own { copy: one.values.len() > 2, lambda: one.penalty.map_or(0.0, |p| p.0), from: one.from };
    let op = Updates { sgd, scaled: by.is_some(), each: group.iter().map(each).collect() };
    let mut ins: Vec<Value> = group.iter().flat_map(|one| one.values.clone()).collect();
    ins.extend(group.iter().map(|one| one.g));
    ins.push(group[0].hyper);
    ins.extend(by);
    ins.extend(group.iter().find_map(|one| one.penalty).map(|p| p.1));
    let outs: Vec<Value> = group.iter().flat_map(|one| one.outs.clone()).collect();
    let at = group.iter().map(|one| one.at).max().expect("a group has members");
    group.iter().for_each(|one| g.retire(one.at));
    g.replace(at, group[0].at, op, &ins, &outs);
}
