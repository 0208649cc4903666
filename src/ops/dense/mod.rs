/*! Dense layers, x [N,...] of I numbers a row, w [O,I] -> y [N,O]. A four-dimensional input is read row by row as it lies
in memory, that is flattened in H,W,C order. */

mod dropped;
mod gpu;
mod mixed;
mod update;

pub use dropped::Dropped;
pub use mixed::Mixed;
pub use update::Update;

use super::activation::{ReluGrad, positive};
use super::dropout::{self, Layer, Mask, state_type};
use super::fuse::{FusionRule, Stage, Uses, join};
use super::mma::{After, Factors};
use super::optim::{Form, Sgd, hyper_type};
use super::tile;
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Role, Value, host_launches, traffic};
use crate::host;
use crate::launch::{Cost, Launch, Operands, Simd};
use crate::par;
use crate::shape::{DType, Type, storage};
use ::half::{bf16, f16};

fn flops(n: usize, i: usize, o: usize) -> f64 {
    2.0 * (n * i) as f64 * o as f64
}

/// y[n][o] = act(b[o] + sum over i of x[n][i] w[o][i]); inputs x, w and, with `bias`, b.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fprop {
    pub bias: bool,
    pub relu: bool,
}

impl Op for Fprop {
    fn describe(&self) -> Description {
        Description::of("dense.fprop").role(Role::Dense).as_stored(&[1], &[]).narrow(&[1])
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let want = 2 + self.bias as usize;
        match (ins.len() == want, ins[0].dims().first(), ins.get(1).map(|w| w.dims())) {
            (true, Some(&n), Some(&[o, i])) if i == ins[0].row() && (!self.bias || ins[2].dims() == [o]) => {
                Ok(vec![Type::new(storage(&ins[0], &ins[1])?, &[n, o])])
            }
            _ => Err(Error::job(format!("x of {} numbers a row needs w [out, {0}] and b [out]", ins[0].row()))),
        }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (width, out) = (io.ins[0].row(), io.outs[0].row());
        for (at, y) in outs[0].iter_mut().enumerate() {
            let (n, o) = (at / out, at % out);
            let mut sum = if self.bias { ins[2][o] } else { 0.0 };
            for i in 0..width {
                sum += ins[0][n * width + i] * ins[1][o * width + i];
            }
            *y = if self.relu && sum < 0.0 { 0.0 } else { sum };
        }
    }
    fn eval_at(&self, io: &Io, ins: &[&[f32]], at: &[usize]) -> Option<Vec<f64>> {
        let (width, out) = (io.ins[0].row(), io.outs[0].row());
        let one = |at: &usize| {
            let (x, w) = (&ins[0][at / out * width..][..width], &ins[1][at % out * width..][..width]);
            let bias = if self.bias { ins[2][at % out] as f64 } else { 0.0 };
            let sum = x.iter().zip(w).fold(bias, |sum, (x, w)| sum + *x as f64 * *w as f64);
            if self.relu && sum < 0.0 { 0.0 } else { sum }
        };
        Some(at.iter().map(one).collect())
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(mut dy) = dy[0] else { return Ok(vec![None; n.ins.len()]) };
        if self.relu {
            dy = g.push1(ReluGrad, &[n.outs[0], dy]);
        }
        let x = g.ty(n.ins[0]);
        let dx = g.push1(Dgrad { x, mask: None }, &[dy, n.ins[1]]);
        let weights = g.push(Wgrad { bias: self.bias }, &[n.ins[0], dy]);
        Ok([dx].into_iter().chain(weights).map(Some).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let run = self.routine(io, simd);
        host_launches(self, io, group, 0, move |h| run(h, h.output(0)))
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        self.then(gpu, io, After::NOTHING)
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: flops(io.outs[0].dims()[0], io.ins[0].row(), io.outs[0].row()), ..traffic(io) }
    }
}

impl Fprop {
    /// Its host routine, which reads w as it is stored, and writes y where it is told to.
    fn routine(&self, io: &Io, simd: Simd) -> impl Fn(&Operands, &mut [f32]) + Send + Sync + 'static {
        let (op, n, i, o) = (*self, io.outs[0].dims()[0], io.ins[0].row(), io.outs[0].row());
        let dtype = io.ins[1].dtype;
        move |h, y| {
            let (x, bias) = (h.input(0), op.bias.then(|| h.input(2)));
            match h.stored_as(1).unwrap_or(dtype) {
                DType::BF16 => host::dense::fprop::<bf16>(simd, n, i, o, x, h.input(1), bias, op.relu, y),
                DType::F16 => host::dense::fprop::<f16>(simd, n, i, o, x, h.input(1), bias, op.relu, y),
                _ => host::dense::fprop::<f32>(simd, n, i, o, x, h.input(1), bias, op.relu, y),
            }
        }
    }

    /// Its launches with what comes `after`, besides bias and ReLU.
    fn then(&self, gpu: GpuCalls, io: &Io, after: After) -> Vec<Launch> {
        let (extents, after) = self.lowered(io, after);
        match Factors::of(io.ins[0].dtype, gpu.products()) {
            Some(factors) => gpu::fprop_mma(gpu, factors, extents, after),
            None => gpu::fprop(gpu, DType::F32, extents, after),
        }
    }

    /// Rows, inputs, outputs; bias and ReLU, and what comes `after`.
    fn lowered(&self, io: &Io, after: After) -> ([usize; 3], After) {
        let extents = [io.outs[0].dims()[0], io.ins[0].row(), io.outs[0].row()];
        (extents, After { bias: self.bias.then_some(2), relu: self.relu, ..after })
    }
}

/// dx[n][i] = sum over o of dy[n][o] w[o][i]; inputs dy, w; `x` is the type of the layer's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dgrad {
    pub x: Type,
    /// x, another input, is the result of ReLU and of dropout behind it that keeps with this probability (1: there is none),
    /// and their gradient is taken, too ([`super::dropout::Grad`]): the sum as `x.dtype` over that where x is positive, else
    /// 0.
    pub mask: Option<f32>,
}

impl Dgrad {
    /// What becomes of a sum where the layer's input is `x`.
    fn masked(&self, keep: f32, sum: f64, x: f64) -> f64 {
        positive(self.x.dtype.round(sum), x) / keep as f64
    }
}

impl Op for Dgrad {
    fn describe(&self) -> Description {
        Description::of("dense.dgrad").role(Role::Dense)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins[1].dims() != [ins[0].row(), self.x.row()] || ins[0].dims()[0] != self.x.dims()[0] {
            return Err(Error::job(format!("dy and w do not fit x {:?}", self.x.shape)));
        }
        if ins.get(2) != self.mask.map(|_| &self.x) {
            return Err(Error::job(format!("x {:?} is needed as it was made", self.x.shape)));
        }
        Ok(vec![self.x.of(storage(&ins[0], &ins[1])?)])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (out, width) = (io.ins[0].row(), io.outs[0].row());
        for (at, dx) in outs[0].iter_mut().enumerate() {
            let (n, i) = (at / width, at % width);
            *dx = (0..out).map(|o| ins[0][n * out + o] * ins[1][o * width + i]).sum();
            if let Some(keep) = self.mask {
                *dx = self.masked(keep, *dx, ins[2][at]);
            }
        }
    }
    fn eval_at(&self, io: &Io, ins: &[&[f32]], at: &[usize]) -> Option<Vec<f64>> {
        let (out, width) = (io.ins[0].row(), io.outs[0].row());
        let product = |n: usize, i: usize, o: usize| ins[0][n * out + o] as f64 * ins[1][o * width + i] as f64;
        let one = |&at: &usize| {
            let sum = (0..out).map(|o| product(at / width, at % width, o)).sum();
            self.mask.map_or(sum, |keep| self.masked(keep, sum, ins[2][at] as f64))
        };
        Some(at.iter().map(one).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, n, i, o) = (*self, self.x.dims()[0], self.x.row(), io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let dx = h.output(0);
            host::dense::dgrad(simd, n, i, o, h.input(0), h.input(1), dx);
            if let Some(keep) = op.mask {
                host::pointwise::mask(dx, h.input(2));
                let over = |d: &mut f32| *d = op.x.dtype.round(*d as f64) as f32 / keep;
                par::chunks_mut(dx, |_, dx| dx.iter_mut().for_each(over));
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let extents = [self.x.dims()[0], self.x.row(), io.ins[0].row()];
        match Factors::of(io.ins[0].dtype, gpu.products()) {
            Some(factors) => gpu::dgrad_mma(gpu, factors, extents, self.mask),
            None => gpu::dgrad(gpu, extents, self.mask),
        }
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: flops(self.x.dims()[0], self.x.row(), io.ins[0].row()), ..traffic(io) }
    }
}

/// dense.dgrad -> relu.grad or dropout.grad becomes dgrad with a mask.
fn fuse_mask(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(keep) = dropout::kept(&g.nodes()[at]) else { return };
    let ([y, dx], dz) = (g.nodes()[at].ins[..].try_into().expect("y and dx"), g.nodes()[at].outs[0]);
    if let Some((part, &op)) = uses.only::<Dgrad>(g, dx, at).filter(|(_, op)| op.mask.is_none()) {
        let ins = [&g.nodes()[part].ins[..], &[y]].concat();
        join(g, [part, at], Dgrad { mask: Some(keep), ..op }, &ins, dz);
    }
}

/// dw[o][i] = sum over n of dy[n][o] x[n][i] and, with `bias`, db[o] = sum over n of dy[n][o]; inputs x, dy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wgrad {
    pub bias: bool,
}

impl Op for Wgrad {
    fn describe(&self) -> Description {
        Description::of("dense.wgrad").role(Role::Dense).weight_gradient()
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins[0].dims()[0] != ins[1].dims()[0] {
            return Err(Error::job("x and dy need the same number of rows"));
        }
        storage(&ins[0], &ins[1])?;
        let (dw, db) = (Type::f32(&[ins[1].row(), ins[0].row()]), Type::f32(&[ins[1].row()]));
        Ok([dw].into_iter().chain(self.bias.then_some(db)).collect())
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (rows, width, out) = (io.ins[0].dims()[0], io.ins[0].row(), io.ins[1].row());
        for (at, dw) in outs[0].iter_mut().enumerate() {
            let (o, i) = (at / width, at % width);
            *dw = (0..rows).map(|n| ins[1][n * out + o] * ins[0][n * width + i]).sum();
        }
        if self.bias {
            column_sums(ins[1], &mut outs[1]);
        }
    }
    fn eval_at(&self, io: &Io, ins: &[&[f32]], at: &[usize]) -> Option<Vec<f64>> {
        let (rows, width, out) = (io.ins[0].dims()[0], io.ins[0].row(), io.ins[1].row());
        let product = |n: usize, o: usize, i: usize| ins[1][n * out + o] as f64 * ins[0][n * width + i] as f64;
        Some(at.iter().map(|at| (0..rows).map(|n| product(n, at / width, at % width)).sum()).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (bias, n, i, o) = (self.bias, io.ins[0].dims()[0], io.ins[0].row(), io.ins[1].row());
        let scratch = if bias { host::column_sums_scratch(n, o) } else { 0 };
        host_launches(self, io, group, 4 * scratch, move |h| {
            host::dense::wgrad(simd, n, i, o, h.input(0), h.input(1), h.output(0));
            if bias {
                host::column_sums(simd, n, o, h.input(1), h.output(1), h.scratch());
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let extents = [io.ins[0].dims()[0], io.ins[0].row(), io.ins[1].row()];
        match Factors::of(io.ins[0].dtype, gpu.products()) {
            Some(factors) => gpu::wgrad_mma(gpu, factors, extents, self.bias),
            None => gpu::wgrad(gpu, extents, self.bias),
        }
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: flops(io.ins[0].dims()[0], io.ins[0].row(), io.ins[1].row()), ..traffic(io) }
    }
}

/// db[k] = the sum of all dy[..][k]: the definition of every bias gradient.
pub(super) fn column_sums(dy: &[f64], db: &mut [f64]) {
    let k = db.len();
    db.fill(0.0);
    dy.iter().enumerate().for_each(|(i, dy)| db[i % k] += dy);
}

/// db[k] = sum of dy over everything but its last extent: the bias gradient where wgrad, which has it besides, is told
/// something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BiasGrad;

impl Op for BiasGrad {
    fn describe(&self) -> Description {
        Description::of("bias.grad").weight_gradient()
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let k = ins[0].dims().last().ok_or_else(|| Error::job("dy needs at least one extent"))?;
        Ok(vec![Type::f32(&[*k])])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        column_sums(ins[0], &mut outs[0]);
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let k = io.outs[0].numel();
        let rows = io.ins[0].numel() / k;
        host_launches(self, io, group, 4 * host::column_sums_scratch(rows, k), move |h| {
            host::column_sums(simd, rows, k, h.input(0), h.output(0), h.scratch())
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let k = io.outs[0].numel();
        tile::column_sums(gpu, In(0), Out(0), io.ins[0].numel() / k, k).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.ins[0].numel() as f64, ..traffic(io) }
    }
}

const FUSE: &[FusionRule] = &[
    FusionRule::Node(Stage::Layers, dropped::fuse),
    FusionRule::Node(Stage::Gradients, fuse_mask),
    FusionRule::Node(Stage::Storage, mixed::fuse_cast_before),
    FusionRule::Node(Stage::Storage, mixed::fuse_cast_after),
    FusionRule::Node(Stage::Updates, update::fuse),
];

pub const FAMILY: Family = Family {
    name: "dense",
    ops: &["dense.fprop", "dense.mixed", "dense.dropped", "dense.dgrad", "dense.wgrad", "dense.update", "bias.grad"],
    kernels: gpu::KERNELS,
    fuse: FUSE,
    cases,
};

/// A step of a layer's weight, by numbers that keep integers exact.
fn update(label: &str, bias: bool, [x, dy]: [Type; 2], form: Form) -> Option<Case> {
    let (w, copy) = (Type::f32(&[dy.row(), x.row()]), x.dtype.is_half());
    let sgd = Sgd { form, nesterov: bias, dampening: 0.0 };
    let ins: Vec<Type> = [w, w].into_iter().chain(copy.then(|| w.of(x.dtype))).chain([x, dy, hyper_type()]).collect();
    let op = Update { wgrad: Wgrad { bias }, sgd, copy };
    // A batch whose rows are several sums is not for it.
    op.infer(&ins).ok()?;
    // Of the sum, the step adds the products with settings, w and v.
    let case = Case::new(format!("{form:?} {label}"), op, &ins, &[], Bound::Dot(x.dims()[0] + 8));
    Some(case.draw(ins.len() - 1, Draw::Hyper([0.125, 0.5, 0.25, 0.0])))
}

/// Two layers that drop out by a power of two, so that integers stay integers.
fn dropped(label: &str, bias: bool, ins: &[Type], ty: Type) -> [Case; 2] {
    let ins = [ins, &[state_type()]].concat();
    [3, 4].map(|layer| {
        let op = Dropped { dense: Fprop { bias, relu: true }, mask: Mask { keep: 0.5, layer: Layer(layer), ty } };
        let case = Case::new(format!("{label} layer {layer}"), op, &ins, &[], Bound::Dot(ins[0].row() + 1));
        case.draw(ins.len() - 1, Draw::Below(1000))
    })
}

/// A layer between values that are stored as `half`, and one of `half` whose result is not: what can be had of these sizes.
fn mixed(half: DType, [rows, width, out]: [usize; 3]) -> impl Iterator<Item = Case> {
    let (x, w, bias) = (Type::f32(&[rows, width]), Type::f32(&[out, width]), Type::f32(&[out]));
    let ways = [(x.of(half), w, DType::F32), (x, w, half), (x.of(half), w, half), (x.of(half), w.of(half), DType::F32)];
    ways.into_iter().filter_map(move |(x, w, to)| {
        let (dense, by) = (Fprop { bias: true, relu: out % 2 == 0 }, w.dtype);
        let (op, ins) = (Mixed { dense, by, to }, [x, w, bias]);
        op.infer(&ins).ok()?;
        let label = format!("{half:?} x {:?} {rows}x{width} w {:?} out {out} {to:?}", x.dtype, w.dtype);
        Some(Case::new(label, op, &ins, &[], Bound::Dot(width + 1)))
    })
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    // rows, in, out; the second is longer than one reduction chunk, the fifth has four extents, and together they reach
    // every variant of the GPU's kernels
    let shapes: [(&[usize], usize); 11] = [
        (&[3, 7], 5),
        (&[2, 2500], 3),
        (&[25, 96], 70),
        (&[1, 64], 33),
        (&[5, 2, 3, 4], 17),
        (&[6, 9], 6),
        (&[17, 13], 11),
        (&[40, 132], 36),
        (&[3, 160], 8),
        // Gradients whose sums have several parts on a GPU.
        (&[300, 8], 6),
        (&[3, 12], 300),
    ];
    for (i, (x, out)) in shapes.into_iter().enumerate() {
        let (xt, bias) = (Type::f32(x), i != 3);
        let (width, n) = (xt.row(), x[0]);
        let (wt, yt) = (Type::f32(&[out, width]), Type::f32(&[n, out]));
        let ins: Vec<Type> = [xt, wt].into_iter().chain(bias.then(|| Type::f32(&[out]))).collect();
        let diff: Vec<usize> = if xt.numel() + wt.numel() < 10_000 { (0..ins.len()).collect() } else { vec![] };
        let label = format!("x {x:?} out {out}");
        cases.push(Case::new(&label, Fprop { bias, relu: i == 2 }, &ins, &diff, Bound::Dot(width + 1)));
        cases.push(Case::new(&label, Dgrad { x: xt, mask: None }, &[yt, wt], &[], Bound::Dot(out)));
        for keep in [1.0, 0.25] {
            let masked = Dgrad { x: xt, mask: Some(keep) };
            cases.push(Case::new(format!("{label} mask {keep}"), masked, &[yt, wt, xt], &[], Bound::Dot(out)));
        }
        cases.extend(dropped(&label, bias, &ins, yt));
        cases.push(Case::new(&label, Wgrad { bias }, &[xt, yt], &[], Bound::Dot(n)));
        cases.extend(update(&label, bias, [xt, yt], if i % 2 == 0 { Form::Torch } else { Form::Keras }));
        cases.push(Case::new(&label, BiasGrad, &[yt], &[], Bound::Dot(n)));
    }
    // Tensor cores: aligned and gathered loads, several parts of a sum, every tile.
    let halves =
        [([3, 7], 5), ([25, 96], 72), ([2, 2504], 8), ([72, 136], 72), ([72, 40], 40), ([40, 72], 72), ([8, 40], 72)];
    for (x, out) in halves {
        for half in [DType::F16, DType::BF16] {
            let (xt, wt, yt) = (Type::new(half, &x), Type::new(half, &[out, x[1]]), Type::new(half, &[x[0], out]));
            let label = format!("{half:?} x {x:?} out {out}");
            let (op, bias) = (Fprop { bias: true, relu: out == 72 }, Type::f32(&[out]));
            cases.push(Case::new(&label, op, &[xt, wt, bias], &[], Bound::Dot(x[1] + 1)));
            cases.extend(dropped(&label, true, &[xt, wt, bias], yt));
            let (mask, wgrad) = ((out == 72).then_some(if x[1] == 40 { 0.5 } else { 1.0 }), Wgrad { bias: out != 40 });
            let ins: Vec<Type> = [yt, wt].into_iter().chain(mask.map(|_| xt)).collect();
            cases.push(Case::new(&label, Dgrad { x: xt, mask }, &ins, &[], Bound::Dot(out)));
            cases.push(Case::new(&label, wgrad, &[xt, yt], &[], Bound::Dot(x[0])));
            cases.extend(update(&label, wgrad.bias, [xt, yt], Form::Keras));
        }
    }
    // Through every number of rows that a warp takes at once; a width of which rows of x may be stored in 16 bits, and another.
    for half in [DType::F16, DType::BF16] {
        for (rows, width, out) in [(1, 68, 9), (5, 40, 14), (17, 132, 36), (3, 13, 5), (2, 2504, 8), (25, 96, 72)] {
            cases.extend(mixed(half, [rows, width, out]));
        }
    }
    for x in [[2, 9, 11, 5], [4, 17, 19, 34]] {
        cases.push(Case::new(format!("x {x:?}"), BiasGrad, &[Type::f32(&x)], &[], Bound::Dot(x[0] * x[1] * x[2])));
    }
    cases
}
