/*! Parameter updates, in place. What changes between steps (rate, momentum, decay) is data, never an attribute: a step is
the same list of launches from first to last. */

mod updates;

pub(super) use updates::One;
pub use updates::{Own, Updates};

use super::fuse::{FusionRule, Stage};
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{self, In, Out};
use crate::graph::{Description, GpuCalls, Instance, Io, Op, host_launches, traffic};
use crate::launch::gpu::{Count, CudaStruct, Kernel, STORED, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::{DType, Type};

/// Whose SGD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// v = momentum v + (1 - dampening) g (first step: v = g); w -= lr v. Nesterov: w -= lr (g + momentum v).
    Torch,
    /// v = momentum v - lr g; w += v. Nesterov: w += momentum v - lr g. The same as [`Form::Torch`] until lr changes.
    Keras,
}

/// Parameters that one launch can update.
pub(super) const SEGMENTS: usize = 24;

crate::cuda_struct! {
    /// The form of the update, whether gradients are scaled, which parameters have a copy (a bit for each), and of each: how many
    /// elements are updated, from which one on, where its blocks end, and lambda of its penalty, 0 if there is none.
    pub struct Descent {
        keras: u32,
        nesterov: u32,
        dampening: f32,
        scaled: u32,
        copies: u32,
        n: [u32; 24],
        from: [u32; 24],
        end: [u32; 24],
        lambda: [f32; 24],
    }
}

static SGD: Kernel = Kernel::new("optim.cu", "sgd", 4 * SEGMENTS + 3, Descent::TEXT).with(STORED);

/// One step of stochastic gradient descent; inputs w, v, g, hyper [lr, momentum, weight decay, first]; outputs w, v in
/// place. Weight decay adds decay * w to g. `first` is 1 on the first step, else 0. With momentum 0 v stays as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    pub form: Form,
    pub nesterov: bool,
    pub dampening: f32,
}

/// The type of `hyper`.
pub fn hyper_type() -> Type {
    Type::f32(&[4])
}

/// The formula, once for both number types.
macro_rules! update {
    ($op:expr, $t:ty, $w:expr, $v:expr, $g:expr, $hyper:expr) => {{
        let [lr, momentum, decay, first] = $hyper;
        let g = $g + decay * $w;
        match $op.form {
            _ if momentum == 0.0 => ($w - lr * g, $v),
            Form::Torch => {
                let v = if first != 0.0 { g } else { momentum * $v + (1.0 - $op.dampening as $t) * g };
                ($w - lr * if $op.nesterov { g + momentum * v } else { v }, v)
            }
            Form::Keras => {
                let v = momentum * $v - lr * g;
                ($w + if $op.nesterov { momentum * v - lr * g } else { v }, v)
            }
        }
    }};
}

/// Where an update finds a parameter: (output, input) of w, v and the copy of w, the input that is its gradient, lambda of its
/// penalty, 0 if there is none, and the first element that is updated, of as many as v has ([`fits`]).
#[derive(Clone, Copy)]
struct Segment {
    w: (usize, usize),
    v: (usize, usize),
    copy: Option<(usize, usize)>,
    g: usize,
    lambda: f32,
    from: usize,
}

/// A step of one or several parameters, and the inputs that they share: `hyper`, how often gradients count, and the gradient
/// of the penalty.
struct Step {
    sgd: Sgd,
    segments: Vec<Segment>,
    hyper: usize,
    by: Option<usize>,
    penalty: Option<usize>,
}

impl Step {
    /// The definition.
    fn eval(&self, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let hyper: [f64; 4] = ins[self.hyper].try_into().expect("checked by infer");
        let by = self.by.map_or(1.0, |by| ins[by][0]);
        for s in &self.segments {
            let penalty = self.penalty.filter(|_| s.lambda != 0.0).map(|d| 2.0 * s.lambda as f64 * ins[d][0]);
            for (to, from) in [Some(s.w), s.copy].into_iter().flatten() {
                outs[to].copy_from_slice(ins[from]);
            }
            for (at, &v) in ins[s.v.1].iter().enumerate() {
                let i = s.from + at;
                let (w, g) = (ins[s.w.1][i], ins[s.g][i]);
                let g = penalty.map_or(g, |penalty| g + penalty * w);
                (outs[s.w.0][i], outs[s.v.0][at]) = match by {
                    0.0 => (w, v),
                    _ => update!(self.sgd, f64, w, v, by * g, hyper),
                };
                if let Some((to, _)) = s.copy.filter(|_| by != 0.0) {
                    outs[to][i] = outs[s.w.0][i];
                }
            }
        }
    }

    /// The routine of `op`.
    fn host(self, op: &dyn Op, io: &Io, group: &[Instance]) -> Vec<Launch> {
        host_launches(op, io, group, 0, move |h| {
            let hyper: [f32; 4] = h.input(self.hyper).try_into().expect("checked by infer");
            let by = self.by.map_or(1.0, |by| h.input::<f32>(by)[0]);
            if by == 0.0 {
                return;
            }
            for s in &self.segments {
                let penalty = self.penalty.filter(|_| s.lambda != 0.0).map(|d| 2.0 * s.lambda * h.input::<f32>(d)[0]);
                let v = h.output::<f32>(s.v.0);
                let piece = s.from..s.from + v.len();
                let (w, g) = (&mut h.output::<f32>(s.w.0)[piece.clone()], &h.input::<f32>(s.g)[piece.clone()]);
                par::chunks2_mut(w, v, |at, w, v| {
                    for ((w, v), &g) in w.iter_mut().zip(v).zip(&g[at..]) {
                        let g = penalty.map_or(g, |penalty| g + penalty * *w);
                        (*w, *v) = update!(self.sgd, f32, *w, *v, by * g, hyper);
                    }
                });
                if let Some((copy, _)) = s.copy {
                    h.output::<f32>(copy)[piece].copy_from_slice(w);
                }
            }
        })
    }

    /// The kernel. Where there is no parameter, no copy, no scale or no penalty, anything stands in its place.
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let mut args = Descent { scaled: self.by.is_some() as u32, ..self.sgd.numbers() };
        let (mut blocks, mut storage, mut operands) = (0, DType::F32, vec![]);
        for (i, s) in self.segments.iter().enumerate() {
            let n = io.ins[s.v.1].numel();
            blocks += n.div_ceil(4 * SGD.threads as usize);
            (args.n[i], args.from[i], args.end[i], args.lambda[i]) = (count(n), count(s.from), count(blocks), s.lambda);
            let [w, v] = [s.w.0, s.v.0].map(Operand::Update);
            let copy = s.copy.map_or(w, |(to, from)| {
                (args.copies, storage) = (args.copies | 1 << i, io.ins[from].dtype);
                Operand::Update(to)
            });
            operands.extend([w, v, In(s.g), copy]);
        }
        operands.resize(4 * SEGMENTS, In(self.hyper));
        operands.extend([self.hyper, self.by.unwrap_or(self.hyper), self.penalty.unwrap_or(self.hyper)].map(In));
        gpu.call(&SGD, &[storage.code()], [blocks, 1], &operands, args).done()
    }

    fn cost(&self, io: &Io) -> Cost {
        let mut cost = traffic(io);
        for s in &self.segments {
            let n = io.ins[s.v.1].numel();
            cost.flops += 6.0 * n as f64;
            // Of what is larger than v only so many elements are touched.
            let rest = |i: usize| (io.ins[i].bytes() - n * io.ins[i].dtype.bytes()) as f64;
            let copy = s.copy.map_or(0.0, |copy| rest(copy.1));
            cost.read -= rest(s.w.1) + rest(s.g) + copy;
            cost.write -= rest(s.w.1) + copy;
        }
        cost
    }
}

/// Whether what an optimiser remembers of a weight, of type `v`, is of all its elements or of a piece that begins with element
/// `from`: kernels take four at once.
pub(super) fn fits(w: &Type, v: &Type, from: usize) -> bool {
    let piece = v.dtype == w.dtype && from.is_multiple_of(4) && v.dims().len() == 1;
    v == w && from == 0 || piece && from.checked_add(v.numel()).is_some_and(|end| end <= w.numel())
}

impl Sgd {
    fn step(self) -> Step {
        Update { sgd: self, copy: false, scaled: false, from: 0 }.step()
    }

    /// What kernels are told of it, without any parameter.
    pub(super) fn numbers(self) -> Descent {
        let Sgd { form, nesterov, dampening } = self;
        let [keras, nesterov] = [form == Form::Keras, nesterov].map(u32::from);
        let (none, lambda) = ([0; SEGMENTS], [0.0; SEGMENTS]);
        Descent { keras, nesterov, dampening, scaled: 0, copies: 0, n: none, from: none, end: none, lambda }
    }

    /// w and v after a step, on the host.
    pub(super) fn take(self, hyper: [f32; 4], w: &mut [f32], v: &mut [f32], g: &[f32]) {
        par::chunks2_mut(w, v, |at, w, v| {
            for ((w, v), &g) in w.iter_mut().zip(v).zip(&g[at..]) {
                (*w, *v) = update!(self, f32, *w, *v, g, hyper);
            }
        });
    }
}

/// The types of w and v after a step of w, v, g and hyper, of the elements of w from `from` on that v has.
fn updated(ins: &[Type], from: usize) -> Result<Vec<Type>> {
    match ins {
        [w, v, g, hyper] if fits(w, v, from) && w == g && *hyper == hyper_type() => Ok(vec![*w, *v]),
        _ => Err(Error::job("w and g of one shape, v of that or of a piece, and hyper [4] are needed")),
    }
}

impl Op for Sgd {
    fn describe(&self) -> Description {
        Description::of("sgd").in_place(&[(0, 0), (1, 1)])
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        updated(ins, 0)
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

/// [`Sgd`] where 16 bits take part, or of a piece of a weight alone; inputs w, v, g, hyper, then, with `copy`, the copy of w that layers multiply with, and,
/// with `scaled`, by [1]; outputs w, v and the copy in place. The copy becomes w rounded, in the pass that has w in its
/// registers. g counts `by` times; 0 says that the step is not to be taken, and nothing changes. Where v is shorter than w, only
/// so many elements of w are updated, from `from` on, along those of g.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    pub sgd: Sgd,
    pub copy: bool,
    pub scaled: bool,
    /// 0 where v has all of w.
    pub from: usize,
}

impl Update {
    fn step(self) -> Step {
        let copy = self.copy.then_some((2, 4));
        let segments = vec![Segment { w: (0, 0), v: (1, 1), copy, g: 2, lambda: 0.0, from: self.from }];
        let by = self.scaled.then_some(4 + self.copy as usize);
        Step { sgd: self.sgd, segments, hyper: 3, by, penalty: None }
    }
}

impl Op for Update {
    fn describe(&self) -> Description {
        Description::of("sgd.update").in_place(if self.copy { &[(0, 0), (1, 1), (2, 4)] } else { &[(0, 0), (1, 1)] })
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let (more, by) = (4 + self.copy as usize, Type::f32(&[1]));
        if ins.len() != more + self.scaled as usize || self.scaled && ins[more] != by {
            return Err(Error::job("w, v, g, hyper and, as asked for, a copy of w and a scale [1] are needed"));
        }
        let mut outs = updated(&ins[..4], self.from)?;
        if self.copy {
            if !ins[4].dtype.is_half() || ins[4].shape != ins[0].shape {
                return Err(Error::job("the copy must have w's shape and 16 bits"));
            }
            outs.push(ins[4]);
        }
        Ok(outs)
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

/// 1 / scale where every element of the gradients is finite, else 0: what [`Update`] takes as `by`. Inputs scale [1] and any
/// number of gradients; output [1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unscale;

static BEGIN_UNSCALE: Kernel = Kernel::new("unscale.cu", "begin_unscale", 2, Count::TEXT);
static UNSCALE: Kernel = Kernel::new("unscale.cu", "unscale", 2, Count::TEXT);

/// Blocks that look through one gradient.
const LOOKERS: usize = 264;

impl Op for Unscale {
    fn describe(&self) -> Description {
        Description::of("unscale")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [scale, grads @ ..] if *scale == Type::f32(&[1]) && grads.iter().all(|g| g.dtype == DType::F32) => {
                Ok(vec![*scale])
            }
            _ => Err(Error::job("a scale [1] and gradients in float32 are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let finite = ins[1..].iter().all(|g| g.iter().all(|g| g.is_finite()));
        outs[0][0] = if finite { 1.0 / ins[0][0] } else { 0.0 };
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let grads = io.ins.len();
        host_launches(self, io, group, 0, move |h| {
            // A sum of products with zero is zero, or NaN.
            let finite = |i| h.input::<f32>(i).iter().fold(0.0, |sum, g| sum + g * 0.0) == 0.0;
            h.output::<f32>(0)[0] = if (1..grads).all(finite) { 1.0 / h.input::<f32>(0)[0] } else { 0.0 };
        })
    }
    fn gpu(&self, mut gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        gpu = gpu.call(&BEGIN_UNSCALE, &[], [1, 1], &[In(0), Out(0)], Count { n: 1 });
        for (i, g) in io.ins.iter().enumerate().skip(1) {
            let n = count(g.numel());
            let blocks = g.numel().div_ceil(1024).min(LOOKERS);
            gpu = gpu.call(&UNSCALE, &[], [blocks, 1], &[In(i), Operand::Update(0)], Count { n });
        }
        gpu.done()
    }
}

pub const FAMILY: Family = Family {
    name: "optim",
    ops: &["sgd", "sgd.update", "sgd.updates", "unscale"],
    kernels: &[&SGD, &BEGIN_UNSCALE, &UNSCALE],
    fuse: &[FusionRule::Graph(Stage::Updates, updates::fuse)],
    cases,
};

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for form in [Form::Torch, Form::Keras] {
        for (nesterov, dampening) in [(false, 0.0), (true, 0.0), (false, 0.25)] {
            for (i, first) in [0.0, 1.0].into_iter().enumerate() {
                let t = Type::f32(&[[3, 41], [7, 5001]][i]);
                let hyper = Draw::Hyper([0.125, 0.875, 0.25, first]);
                let op = Sgd { form, nesterov, dampening };
                let label = format!("{form:?} nesterov {nesterov} dampening {dampening} first {first}");
                let case = Case::new(label, op, &[t, t, t, hyper_type()], &[], Bound::Ulps(8));
                cases.push(case.draw(3, hyper));
            }
        }
    }
    let t = Type::f32(&[7, 501]);
    let hyper = |first| Draw::Hyper([0.125, 0.875, 0.25, first]);
    let sgd = Sgd { form: Form::Keras, nesterov: true, dampening: 0.0 };
    for (copy, scaled) in [(None, true), (Some(DType::F16), true), (Some(DType::BF16), false)] {
        let mut ins = vec![t, t, t, hyper_type()];
        ins.extend(copy.map(|half| t.of(half)));
        ins.extend(scaled.then_some(Type::f32(&[1])));
        for skipped in if scaled { &[false, true][..] } else { &[false] } {
            let op = Update { sgd, copy: copy.is_some(), scaled, from: 0 };
            let label = format!("copy {copy:?} scaled {scaled} skipped {skipped}");
            let mut case = Case::new(label, op, &ins, &[], Bound::Ulps(8)).draw(3, hyper(0.0));
            if scaled {
                let by = if *skipped { Draw::Below(1) } else { Draw::Positive };
                case = case.draw(ins.len() - 1, by);
            }
            cases.push(case);
        }
    }
    // The last elements, some in the middle, and a piece that is no multiple of four.
    for (from, n) in [(64, 7 * 501 - 64), (1024, 1536), (4, 5)] {
        for scaled in [false, true] {
            let mut ins = vec![t, Type::f32(&[n]), t, hyper_type()];
            ins.extend(scaled.then_some(Type::f32(&[1])));
            let op = Update { sgd, copy: false, scaled, from };
            let label = format!("{n} from {from} scaled {scaled}");
            let case = Case::new(label, op, &ins, &[], Bound::Ulps(8)).draw(3, hyper(0.0));
            cases.push(if scaled { case.draw(4, Draw::Positive) } else { case });
        }
    }
    cases.extend(gathered());
    cases.extend(pieces());
    let grads = [Type::f32(&[1]), Type::f32(&[3, 41]), Type::f32(&[1, 5003])];
    cases.push(Case::new("finite", Unscale, &grads, &[], Bound::Ulps(2)).draw(0, Draw::Positive));
    for bad in [1, 2] {
        let case = Case::new(format!("infinite gradient {bad}"), Unscale, &grads, &[], Bound::Exact);
        cases.push(case.draw(0, Draw::Positive).draw(bad, Draw::Infinite));
    }
    cases
}

/// Parameters of several blocks and of a few elements, with and without copy and penalty.
fn gathered() -> Vec<Case> {
    let own = |copy, lambda| Own { copy, lambda, from: 0 };
    let shapes = [Type::f32(&[3, 41]), Type::f32(&[5]), Type::f32(&[2, 1501]), Type::f32(&[64])];
    let mut cases = vec![];
    for (form, copy, scaled) in [
        (Form::Torch, None, false),
        (Form::Keras, None, false),
        (Form::Keras, Some(DType::BF16), false),
        (Form::Torch, Some(DType::F16), true),
    ] {
        let lambdas = if form == Form::Keras { [0.125, 0.0, 0.5, 0.0] } else { [0.0; 4] };
        // Biases have no copy.
        let each: Vec<Own> = lambdas.iter().enumerate().map(|(i, l)| own(copy.is_some() && i != 1, *l)).collect();
        let updated = |(t, own): (&Type, &Own)| [Some(*t), Some(*t), copy.filter(|_| own.copy).map(|c| t.of(c))];
        let mut ins: Vec<Type> = shapes.iter().zip(&each).flat_map(updated).flatten().chain(shapes).collect();
        let hyper = ins.len();
        ins.push(hyper_type());
        ins.extend(scaled.then_some(Type::f32(&[1])));
        ins.extend(lambdas.iter().any(|l| *l != 0.0).then_some(Type::f32(&[1])));
        let sgd = Sgd { form, nesterov: copy.is_none(), dampening: 0.0 };
        let label = format!("{form:?} copy {copy:?} scaled {scaled}");
        let case = Case::new(label, Updates { sgd, scaled, each }, &ins, &[], Bound::Ulps(8));
        let case = case.draw(hyper, Draw::Hyper([0.125, 0.875, 0.25, 0.0]));
        cases.push(if scaled { case.draw(hyper + 1, Draw::Positive) } else { case });
    }
    cases
}

/// Pieces of parameters, from their first element on and from others, of all and of a few elements.
fn pieces() -> [Case; 1] {
    let of = [([3usize, 41], 0, 64), ([2, 1501], 1024, 1978), ([8, 8], 0, 64), ([1, 70], 64, 6)];
    let piece = |(dims, _, n): ([usize; 2], usize, usize)| [Type::f32(&dims), Type::f32(&[n])];
    let each = of.map(|(_, from, _)| Own { copy: false, lambda: 0.0, from }).into();
    let mut ins: Vec<Type> = of.into_iter().flat_map(piece).collect();
    ins.extend(of.iter().map(|o| Type::f32(&o.0)));
    ins.push(hyper_type());
    let sgd = Sgd { form: Form::Torch, nesterov: true, dampening: 0.0 };
    let case = Case::new("pieces", Updates { sgd, scaled: false, each }, &ins, &[], Bound::Ulps(8));
    [case.draw(ins.len() - 1, Draw::Hyper([0.125, 0.875, 0.25, 0.0]))]
}
