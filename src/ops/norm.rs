/*! Batch normalisation over the channels of x [N,..,C] (Ioffe & Szegedy 2015): y = gamma (x - mean) / sqrt(var + eps) +
beta, [C] each, with the moments of the batch in training and running averages of them otherwise.

`rows` [N] says which images count: those with a positive weight. The others fill up a last batch, and must move neither
the moments of the batch nor the running ones; they are normalised like the rest. At least one image must count.

Rounding, u = 2^-24: a routine's sums are good to L = `CHAIN` + 2 roundings of their magnitudes. */

use super::activation::ReluGrad;
use super::arith::Fill;
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Operand, Value, host_launches, traffic};
pub use crate::host::norm::CHAIN;
use crate::host::norm::{self, Channels, Extents};
use crate::launch::gpu::{Access, CudaStruct, Divisor, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::Type;

/// What frameworks disagree about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Convention {
    pub eps: f64,
    /// m in running = (1 - m) running + m batch. Keras's "momentum" is 1 - m.
    pub momentum: f64,
    /// The running variance takes the batch's variance with n - 1 in the denominator. The batch itself is always
    /// normalised with n.
    pub unbiased: bool,
    /// Whether there is a gamma to learn; otherwise it is 1.
    pub scale: bool,
}

impl Convention {
    /// `torch.nn.BatchNorm2d`.
    pub const TORCH: Self = Self { eps: 1e-5, momentum: 0.1, unbiased: true, scale: true };
    /// `keras.layers.BatchNormalization`: its own code takes the biased variance. TensorFlow's fused kernel, which Keras 2
    /// uses for [N,H,W,C] there, takes the unbiased one (tensorflow issue 55545): `Self { unbiased: true, ..KERAS }`.
    pub const KERAS: Self = Self { eps: 1e-3, momentum: 0.01, unbiased: false, scale: true };
}

crate::cuda_struct! {
    /// [N,..,C] as pixels of images of `hw`; how many blocks share the pixels of a sum; [`Through`] as a number.
    pub struct Normalization {
        eps: f64,
        pixels: u32,
        c: Divisor,
        hw: Divisor,
        blocks: u32,
        relu: u32,
        through: u32,
    }
}

crate::cuda_struct! {
    /// A running average over channels.
    pub struct Running { momentum: f64, c: u32, images: u32, pixels: u32, unbiased: u32 }
}

crate::cuda_struct! {
    /// Weights of a filter, and whether there is a bias.
    pub struct Folding { eps: f64, row: u32, bias: u32 }
}

static PARTS: Kernel = Kernel::new("norm.cu", "batchnorm_parts", 3, Normalization::TEXT);
static MOMENTS: Kernel = Kernel::new("norm.cu", "batchnorm_moments", 3, Normalization::TEXT);
static NORMALIZE: Kernel = Kernel::new("norm.cu", "batchnorm_normalize", 6, Normalization::TEXT);
static GRAD_PARTS: Kernel = Kernel::new("norm.cu", "batchnorm_grad_parts", 4, Normalization::TEXT);
static GRAD_SUMS: Kernel = Kernel::new("norm.cu", "batchnorm_grad_sums", 10, Normalization::TEXT);
static GRAD: Kernel = Kernel::new("norm.cu", "batchnorm_grad", 6, Normalization::TEXT);
static UPDATE: Kernel = Kernel::new("norm.cu", "batchnorm_update", 5, Running::TEXT);
static FOLD: Kernel = Kernel::new("norm.cu", "batchnorm_fold", 8, Folding::TEXT);

impl Normalization {
    fn new(x: &Type, eps: f64, relu: bool, through: Through) -> Self {
        let e = Extents::new(x);
        // A thread adds CHAIN pixels of one channel; 32 channels lie beside each other in a block.
        let tile = CHAIN * PARTS.threads as usize / 32;
        Self {
            eps,
            pixels: count(x.numel()) / e.c as u32,
            c: Divisor::new(e.c),
            hw: Divisor::new(e.hw),
            blocks: (e.n * e.hw).div_ceil(tile) as u32,
            relu: relu as u32,
            through: through as u32,
        }
    }
    /// Blocks of the kernels that add up pixels.
    fn adding(&self) -> [usize; 2] {
        [self.blocks as usize, self.c.by.div_ceil(32) as usize]
    }
    /// Blocks of the kernels that join what those leave, for 8 channels each.
    fn joining(&self) -> [usize; 2] {
        [self.c.by.div_ceil(8) as usize, 1]
    }
}

/// A launch of [`NORMALIZE`] over x, gamma, beta, mean, var.
fn normalized<'a>(gpu: GpuCalls<'a>, moments: [Operand; 2], args: Normalization) -> GpuCalls<'a> {
    let operands = [Operand::In(0), Operand::In(1), Operand::In(2), moments[0], moments[1], Operand::Out(0)];
    gpu.map(&NORMALIZE, &[], &operands, |_| args)
}

/// Whether image `i` of `rows` counts, and how many pixels do.
fn counts(rows: &[f64], x: &Type) -> (impl Fn(usize) -> bool, f64) {
    let e = Extents::new(x);
    let n = rows.iter().filter(|w| **w > 0.0).count() * e.hw;
    let rows = rows.to_vec();
    (move |i: usize| rows[i / (e.hw * e.c)] > 0.0, n as f64)
}

/// Mean and variance of the pixels that count.
fn moments(x: &[f64], t: &Type, rows: &[f64]) -> [Vec<f64>; 2] {
    let (c, (counts, n)) = (t.channels(), counts(rows, t));
    let (mut mean, mut var) = (vec![0.0; c], vec![0.0; c]);
    let own = |f: &mut dyn FnMut(usize, f64)| (0..x.len()).filter(|&i| counts(i)).for_each(|i| f(i % c, x[i]));
    own(&mut |c, x| mean[c] += x);
    mean.iter_mut().for_each(|m| *m /= n);
    own(&mut |c, x| var[c] += (x - mean[c]).powi(2));
    var.iter_mut().for_each(|v| *v /= n);
    [mean, var]
}

/// The formula.
fn normalize(x: &[f64], [gamma, beta, mean, var]: [&[f64]; 4], eps: f64, relu: bool, y: &mut [f64]) {
    let c = gamma.len();
    for (i, y) in y.iter_mut().enumerate() {
        let z = gamma[i % c] * (x[i] - mean[i % c]) / (var[i % c] + eps).sqrt() + beta[i % c];
        *y = if relu && z < 0.0 { 0.0 } else { z };
    }
}

fn expect(x: &Type, channels: &[Type], rows: Option<&Type>) -> Result<()> {
    let [n, .., c] = x.dims() else { return Err(Error::job("x must be [N,..,C]")) };
    if channels.iter().any(|t| t.dims() != [*c]) || rows.is_some_and(|r| r.dims() != [*n]) {
        return Err(Error::job(format!("statistics must be [{c}], and rows [{n}]")));
    }
    Ok(())
}

/// y = act(gamma (x - mean) / sqrt(var + eps) + beta) with the moments of the batch; inputs x, gamma, beta, rows [N];
/// outputs y, mean [C], var [C] (biased).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Train {
    pub eps: f64,
    pub relu: bool,
}

impl Op for Train {
    fn describe(&self) -> Description {
        Description::of("batchnorm.train")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        expect(&ins[0], &ins[1..3], Some(&ins[3]))?;
        Ok(vec![ins[0], ins[1], ins[1]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let [mean, var] = moments(ins[0], &io.ins[0], ins[3]);
        normalize(ins[0], [ins[1], ins[2], &mean, &var], self.eps, self.relu, &mut outs[0]);
        (outs[1], outs[2]) = (mean, var);
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let &[x, gamma, _, rows] = &n.ins[..] else { unreachable!("checked by infer") };
        let or_zero = |g: &mut Graph, i: usize| match dy[i] {
            Some(d) => d,
            None => g.push1(Fill { value: 0.0, ty: g.ty(n.outs[i]) }, &[]),
        };
        let mut d = or_zero(g, 0);
        if self.relu {
            d = g.push1(ReluGrad, &[n.outs[0], d]);
        }
        let mut ins = vec![x, gamma, n.outs[1], n.outs[2], d, rows];
        let moments = dy[1].is_some() || dy[2].is_some();
        if moments {
            ins.extend([or_zero(g, 1), or_zero(g, 2)]);
        }
        let op = Grad { eps: self.eps, through: if moments { Through::Moments } else { Through::Batch } };
        Ok(g.push(op, &ins).into_iter().map(Some).chain([None]).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, e) = (*self, Extents::new(&io.ins[0]));
        host_launches(self, io, group, 8 * e.scratch(), move |h| {
            let (x, mean, var) = (h.input(0), h.output(1), h.output(2));
            let scratch = h.scratch();
            norm::moments(simd, e, x, h.input(3), mean, var, scratch);
            let ch = Channels { mean, var, gamma: h.input(1), eps: op.eps };
            norm::normalize(simd, e, x, ch, h.input(2), op.relu, h.output(0), scratch)
        })
    }
    fn gpu(&self, mut gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        use Operand::{In, Out, Result};
        let args = Normalization::new(&io.ins[0], self.eps, self.relu, Through::Batch);
        let parts = gpu.scratch(args.blocks as usize * 3 * 8 * args.c.by as usize);
        let [written, read] = [Access::Write, Access::Read].map(|access| Operand::Scratch(parts, access));
        let gpu = gpu.call(&PARTS, &[], args.adding(), &[In(0), In(3), written], args).call(
            &MOMENTS,
            &[],
            args.joining(),
            &[read, Out(1), Out(2)],
            args,
        );
        normalized(gpu, [Result(1), Result(2)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 8.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// The same with given moments; inputs x, gamma, beta, mean, var.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eval {
    pub eps: f64,
    pub relu: bool,
}

impl Op for Eval {
    fn describe(&self) -> Description {
        Description::of("batchnorm.eval")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        expect(&ins[0], &ins[1..5], None)?;
        Ok(vec![ins[0]])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        normalize(ins[0], [ins[1], ins[2], ins[3], ins[4]], self.eps, self.relu, &mut outs[0]);
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(mut dy) = dy[0] else { return Ok(vec![None; 5]) };
        if self.relu {
            dy = g.push1(ReluGrad, &[n.outs[0], dy]);
        }
        let op = Grad { eps: self.eps, through: Through::Nothing };
        let grads = g.push(op, &[n.ins[0], n.ins[1], n.ins[3], n.ins[4], dy]);
        Ok(grads.into_iter().map(Some).chain([None, None]).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, e) = (*self, Extents::new(&io.ins[0]));
        host_launches(self, io, group, 8 * e.scratch(), move |h| {
            let ch = Channels { mean: h.input(3), var: h.input(4), gamma: h.input(1), eps: op.eps };
            norm::normalize(simd, e, h.input(0), ch, h.input(2), op.relu, h.output(0), h.scratch())
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = Normalization::new(&io.ins[0], self.eps, self.relu, Through::Nothing);
        normalized(gpu, [Operand::In(3), Operand::In(4)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 3.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// What of mean and variance depends on x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// They are given.
    Nothing,
    /// They are those of the batch; one more input, rows.
    Batch,
    /// The loss depends on them in other ways too; three more inputs, rows, dmean and dvar.
    Moments,
}

/// dx, dgamma, dbeta from x, gamma, mean, var, dy and what [`Through`] adds. With z = (x - mean) / sqrt(var + eps) and n
/// pixels that count: dbeta = sum dy, dgamma = sum dy z, and dx = gamma / sqrt(var + eps) dy, to which pixels that count
/// add -gamma / sqrt(var + eps) (dbeta + z dgamma) / n + (dmean + 2 (x - mean) dvar) / n.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grad {
    pub eps: f64,
    pub through: Through,
}

impl Op for Grad {
    fn describe(&self) -> Description {
        Description::of("batchnorm.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let channels: Vec<Type> = ins[1..4].iter().chain(ins.iter().skip(6)).copied().collect();
        expect(&ins[0], &channels, ins.get(5))?;
        if ins[4].shape != ins[0].shape {
            return Err(Error::job("x and dy must have one shape"));
        }
        Ok(vec![ins[0], ins[1], ins[1]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let &[x, gamma, mean, var, dy] = &ins[..5] else { unreachable!("five inputs at least") };
        let c = gamma.len();
        let inverse: Vec<f64> = var.iter().map(|v| 1.0 / (v + self.eps).sqrt()).collect();
        let z = |i: usize| (x[i] - mean[i % c]) * inverse[i % c];
        outs[1].fill(0.0);
        outs[2].fill(0.0);
        for i in 0..x.len() {
            outs[1][i % c] += dy[i] * z(i);
            outs[2][i % c] += dy[i];
        }
        for i in 0..x.len() {
            outs[0][i] = gamma[i % c] * inverse[i % c] * dy[i];
        }
        if self.through == Through::Nothing {
            return;
        }
        let (counts, n) = counts(ins[5], &io.ins[0]);
        for i in (0..x.len()).filter(|&i| counts(i)) {
            let (c, moments) = (i % c, self.through == Through::Moments);
            let own = gamma[c] * inverse[c] * (outs[2][c] + z(i) * outs[1][c]);
            let rest = if moments { ins[6][c] + 2.0 * (x[i] - mean[c]) * ins[7][c] } else { 0.0 };
            outs[0][i] += (rest - own) / n;
        }
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, e) = (*self, Extents::new(&io.ins[0]));
        host_launches(self, io, group, 8 * e.scratch(), move |h| {
            let ch = Channels { mean: h.input(2), var: h.input(3), gamma: h.input(1), eps: op.eps };
            let rows = (op.through != Through::Nothing).then(|| h.input(5));
            let moments = (op.through == Through::Moments).then(|| [h.input(6), h.input(7)]);
            let outs = [h.output(0), h.output(1), h.output(2)];
            norm::grad(simd, e, h.input(0), ch, h.input(4), rows, moments, outs, h.scratch())
        })
    }
    fn gpu(&self, mut gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        use Operand::{In, Out};
        let args = Normalization::new(&io.ins[0], self.eps, false, self.through);
        let parts = gpu.scratch(args.blocks as usize * 2 * 8 * args.c.by as usize);
        let coefficients = gpu.scratch(3 * 4 * args.c.by as usize);
        let [sums, factors] =
            [parts, coefficients].map(|s| [Access::Write, Access::Read].map(|access| Operand::Scratch(s, access)));
        // What is not there is not read: any operand of [C] stands for it.
        let or_gamma = |i: usize| In(if i < io.ins.len() { i } else { 1 });
        let (rows, dmean, dvar) = (or_gamma(5), or_gamma(6), or_gamma(7));
        let operands = [sums[1], In(1), In(2), In(3), rows, dmean, dvar, Out(1), Out(2), factors[0]];
        gpu.call(&GRAD_PARTS, &[], args.adding(), &[In(0), In(2), In(4), sums[0]], args)
            .call(&GRAD_SUMS, &[], args.joining(), &operands, args)
            .map(&GRAD, &[], &[In(0), In(2), In(4), rows, factors[1], Out(0)], |_| args)
            .done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 9.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// running = (1 - m) running + m batch, in place; inputs running mean, running var, mean [C], var [C], rows [N]. The
/// variance is scaled by n / (n - 1) where the convention wants it unbiased; that of one pixel is 0 either way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    pub convention: Convention,
    /// Pixels of an image, H W.
    pub pixels: usize,
}

impl Update {
    /// What the batch's mean and variance are multiplied with.
    fn factors(&self, images: usize) -> [f64; 2] {
        let (m, n) = (self.convention.momentum, (images * self.pixels) as f64);
        [m, if self.convention.unbiased { m * n / (n - 1.0).max(1.0) } else { m }]
    }
}

impl Op for Update {
    fn describe(&self) -> Description {
        Description::of("batchnorm.update").in_place(&[(0, 0), (1, 1)])
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [mean, rest @ .., rows] if rest.iter().all(|t| t == mean) && rows.dims().len() == 1 => Ok(vec![*mean; 2]),
            _ => Err(Error::job("four equal shapes [C] and rows [N] are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let factors = self.factors(ins[4].iter().filter(|w| **w > 0.0).count());
        for (s, factor) in factors.into_iter().enumerate() {
            for (c, y) in outs[s].iter_mut().enumerate() {
                *y = (1.0 - self.convention.momentum) * ins[s][c] + factor * ins[s + 2][c];
            }
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let op = *self;
        host_launches(self, io, group, 0, move |h| {
            let factors = op.factors(h.input::<f32>(4).iter().filter(|w| **w > 0.0).count());
            for (s, factor) in factors.into_iter().enumerate() {
                let batch = h.input::<f32>(s + 2);
                for (y, x) in h.output::<f32>(s).iter_mut().zip(batch) {
                    *y = ((1.0 - op.convention.momentum) * *y as f64 + factor * *x as f64) as f32;
                }
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        use Operand::In;
        let (c, images) = (count(io.ins[0].numel()), count(io.ins[4].numel()));
        let Convention { momentum, unbiased, .. } = self.convention;
        let args = Running { momentum, c, images, pixels: count(self.pixels), unbiased: unbiased as u32 };
        let operands = [Operand::Update(0), Operand::Update(1), In(2), In(3), In(4)];
        gpu.each(&UPDATE, &[], c as usize, &operands, args).done()
    }
}

/// A convolution and the batch norm behind it as one: w' = w s and b' = (b - mean) s + beta, s = gamma / sqrt(var + eps)
/// for each filter. Inputs w', b' (state, written in place), w [K,R,S,C], gamma, beta, mean, var and, with `bias`, b [K].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fold {
    pub eps: f64,
    pub bias: bool,
}

impl Op for Fold {
    fn describe(&self) -> Description {
        Description::of("batchnorm.fold").in_place(&[(0, 0), (1, 1)])
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let k = Type::f32(&[ins[2].dims()[0]]);
        if ins.len() != 7 + self.bias as usize || ins[0] != ins[2] || ins[1] != k || ins[3..].iter().any(|t| *t != k) {
            return Err(Error::job("w', b', w, and statistics of its filters are needed"));
        }
        Ok(vec![ins[0], ins[1]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let &[w, gamma, beta, mean, var] = &ins[2..7] else { unreachable!("checked by infer") };
        let row = io.ins[2].row();
        let scale = |k: usize| gamma[k] / (var[k] + self.eps).sqrt();
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = w[i] * scale(i / row);
        }
        for (k, y) in outs[1].iter_mut().enumerate() {
            let b = if self.bias { ins[7][k] } else { 0.0 };
            *y = (b - mean[k]) * scale(k) + beta[k];
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, row, filters) = (*self, io.ins[2].row(), io.ins[1].numel());
        host_launches(self, io, group, 0, move |h| {
            let [w, gamma, beta, mean, var] = [2, 3, 4, 5, 6].map(|i| h.input::<f32>(i));
            let scale = |k: usize| gamma[k] as f64 / (var[k] as f64 + op.eps).sqrt();
            par::rows_mut(h.output::<f32>(0), row, filters, |k, y| {
                let s = scale(k) as f32;
                y.iter_mut().zip(&w[k * row..]).for_each(|(y, w)| *y = w * s);
            });
            let bias = op.bias.then(|| h.input::<f32>(7));
            for (k, y) in h.output::<f32>(1).iter_mut().enumerate() {
                let b = bias.map_or(0.0, |b| b[k] as f64);
                *y = ((b - mean[k] as f64) * scale(k) + beta[k] as f64) as f32;
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        use Operand::{In, Out};
        let (filters, row) = (io.ins[1].numel(), count(io.ins[2].row()));
        let args = Folding { eps: self.eps, row, bias: self.bias as u32 };
        let bias = In(if self.bias { 7 } else { 5 });
        let operands = [Out(0), Out(1), In(2), In(3), In(4), In(5), In(6), bias];
        gpu.call(&FOLD, &[], [filters, 1], &operands, args).done()
    }
}

pub const FAMILY: Family = Family {
    name: "norm",
    ops: &["batchnorm.train", "batchnorm.eval", "batchnorm.grad", "batchnorm.update", "batchnorm.fold"],
    kernels: &[&PARTS, &MOMENTS, &NORMALIZE, &GRAD_PARTS, &GRAD_SUMS, &GRAD, &UPDATE, &FOLD],
    fuse: &[],
    cases,
};

fn cases() -> Vec<Case> {
    let l = CHAIN + 2;
    let mut cases = vec![];
    // The last has several pieces, and runs of images that do not count across their borders.
    for (i, dims) in [&[3, 5, 7, 19][..], &[9, 37], &[2, 1, 3, 8], &[6, 31, 33, 40]].into_iter().enumerate() {
        let x = Type::f32(dims);
        let (c, rows) = (Type::f32(&dims[dims.len() - 1..]), Type::f32(&dims[..1]));
        let (relu, eps) = (i % 2 == 1, [1e-5, 1e-3][i % 2]);
        let label = format!("x {dims:?} relu {relu}");
        let diff = |d: &[usize]| if x.numel() < 10_000 { d.to_vec() } else { vec![] };
        let masked =
            |case: Case, at: usize| if i == 2 { case.draw(at, Draw::Positive) } else { case.draw(at, Draw::Mask) };
        // x in 0.25..1.25: means of 0.75 and deviations of 0.29. The mean of a channel is off by at most L u 0.75, the
        // variance by L u of itself: y by 0.75 L / 0.29 + 1.7 L / 2 and a few u, where the largest y is 1 and more.
        let train = Case::new(&label, Train { eps, relu }, &[x, c, c, rows], &diff(&[0, 1, 2]), Bound::Ulps(4 * l));
        cases.push(masked(train.draw(0, Draw::Positive), 3));
        // (x - mean) scale + shift: the difference and the scale carry 3 u, at scales of up to 2 and differences below 2.
        let eval = Case::new(&label, Eval { eps, relu }, &[x, c, c, c, c], &diff(&[0, 1, 2]), Bound::Ulps(16));
        cases.push(eval.draw(4, Draw::Positive));
        for (through, ins) in [
            (Through::Nothing, vec![x, c, c, c, x]),
            (Through::Batch, vec![x, c, c, c, x, rows]),
            (Through::Moments, vec![x, c, c, c, x, rows, c, c]),
        ] {
            // dy > 0: dbeta has no cancellation; z dgamma / n, of size |z| |z| dy <= 4 dy, is off by L u of itself.
            let grad = Grad { eps, through };
            let case = Case::new(format!("{label} {through:?}"), grad, &ins, &[], Bound::Ulps(4 * l));
            let case = case.draw(3, Draw::Positive).draw(4, Draw::Positive);
            cases.push(if ins.len() > 5 { masked(case, 5) } else { case });
        }
        for convention in [Convention::TORCH, Convention::KERAS] {
            let update = Update { convention, pixels: x.row() / x.channels() };
            let label = format!("{convention:?} x {dims:?}");
            // Computed in float64 and rounded once.
            cases.push(masked(Case::new(label, update, &[c, c, c, c, rows], &[], Bound::Ulps(1)), 4));
        }
    }
    for bias in [false, true] {
        let (w, k) = (Type::f32(&[5, 3, 2, 7]), Type::f32(&[5]));
        let mut ins = vec![w, k, w, k, k, k, k];
        ins.extend(bias.then_some(k));
        // The scale is rounded, and the product.
        let case = Case::new(format!("bias {bias}"), Fold { eps: 1e-5, bias }, &ins, &[], Bound::Ulps(2));
        cases.push(case.draw(6, Draw::Positive));
    }
    cases
}
