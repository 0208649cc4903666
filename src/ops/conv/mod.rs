/*! Convolution, x [N,H,W,C] * w [K,R,S,C/groups] -> y [N,P,Q,K], as three ops in the field's own terms: fprop, dgrad
(gradient of the data) and wgrad (gradient of the filters); and the transposed convolution, which is dgrad as a layer.
One index function defines all four. */

mod cases;
pub mod gpu;
mod pooled;
mod warpgroups;

pub use pooled::Pooled;

use super::Family;
use super::activation::{ReluGrad, positive};
use super::dense::{BiasGrad, column_sums};
use super::dropout;
use super::fuse::{FusionRule, Stage, Uses, is, join};
use super::pool::unpool;
use crate::error::{Error, Result};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Role, Value, host_launches, traffic};
use crate::host;
use crate::launch::{Cost, Launch, Simd};
use crate::shape::{ConvShape, Type, Window, storage};
use gpu::{Algorithm, Epilogue};
use std::ops::Range;

/// Multiply-adds of a convolution: images, output pixels, taps, filters and channels of their groups.
struct Part {
    n: Range<usize>,
    p: Range<usize>,
    q: Range<usize>,
    r: Range<usize>,
    t: Range<usize>,
    k: Range<usize>,
    c: Range<usize>,
}

impl Part {
    fn all(s: &ConvShape) -> Self {
        let [r, t] = s.taps();
        Self { n: 0..s.n, p: 0..s.p, q: 0..s.q, r: 0..r, t: 0..t, k: 0..s.k, c: 0..s.group_c() }
    }

    /// Those that reach y [n,p,q,k].
    fn of_output(s: &ConvShape, at: usize) -> Self {
        let [n, p, q, k] = place(at, [s.p, s.q, s.k]);
        Self { n: one(n), p: one(p), q: one(q), k: one(k), ..Self::all(s) }
    }

    /// Those that reach dx [n,h,w,c], and some that do not.
    fn of_input(s: &ConvShape, at: usize) -> Self {
        let [n, h, w, c] = place(at, [s.h, s.w, s.c]);
        let (group, v) = (c / s.group_c(), &s.window);
        let outputs = |axis: usize, at: usize, extent: usize| {
            let (last, reach) = (at + v.pad[axis], v.dilation[axis] * (v.size[axis] - 1));
            last.saturating_sub(reach).div_ceil(v.stride[axis])..extent.min(last / v.stride[axis] + 1)
        };
        let (p, q) = (outputs(0, h, s.p), outputs(1, w, s.q));
        let k = group * s.group_k()..(group + 1) * s.group_k();
        Self { n: one(n), p, q, k, c: one(c % s.group_c()), ..Self::all(s) }
    }

    /// Those that reach dw [k,r,t,c].
    fn of_filter(s: &ConvShape, at: usize) -> Self {
        let [k, r, t, c] = place(at, [s.taps()[0], s.taps()[1], s.group_c()]);
        Self { k: one(k), r: one(r), t: one(t), c: one(c), ..Self::all(s) }
    }
}

fn one(i: usize) -> Range<usize> {
    i..i + 1
}

/// The place of element `at` in a tensor whose last three extents are these.
fn place(at: usize, [b, c, d]: [usize; 3]) -> [usize; 4] {
    [at / (b * c * d), at / (c * d) % b, at / d % c, at % d]
}

/// Calls `f(x_index, w_index, y_index)` once per multiply-add of a part of the convolution: the definition.
fn each(s: &ConvShape, part: &Part, mut f: impl FnMut(usize, usize, usize)) {
    let ([r_, s_], gc, gk) = (s.taps(), s.group_c(), s.group_k());
    for n in part.n.clone() {
        for p in part.p.clone() {
            for q in part.q.clone() {
                for r in part.r.clone() {
                    for t in part.t.clone() {
                        let (Some(h), Some(w)) = (s.window.input(0, p, r, s.h), s.window.input(1, q, t, s.w)) else {
                            continue;
                        };
                        for k in part.k.clone() {
                            let first = k / gk * gc;
                            for c in part.c.clone() {
                                f(
                                    ((n * s.h + h) * s.w + w) * s.c + first + c,
                                    ((k * r_ + r) * s_ + t) * gc + c,
                                    ((n * s.p + p) * s.q + q) * s.k + k,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

fn expect(name: &str, got: &Type, want: &[usize]) -> Result<()> {
    if got.dims() == want { Ok(()) } else { Err(Error::job(format!("{name} must be {want:?}, got {:?}", got.shape))) }
}

fn expect_w(w: &Type, s: &ConvShape) -> Result<()> {
    expect("w (KRSC)", w, &[s.k, s.taps()[0], s.taps()[1], s.group_c()])
}

/// Checks x, w and, for `bias` channels, b.
fn operands(ins: &[Type], s: &ConvShape, bias: Option<usize>) -> Result<()> {
    if ins.len() != 2 + bias.is_some() as usize {
        return Err(Error::job("x, w and (with a bias) b are needed"));
    }
    expect_w(&ins[1], s)?;
    bias.map_or(Ok(()), |channels| expect("b", &ins[2], &[channels]))
}

/// Where sums of products begin: at the bias of their channel, or at zero.
fn begin(y: &mut [f64], bias: Option<&[f64]>) {
    for (i, y) in y.iter_mut().enumerate() {
        *y = bias.map_or(0.0, |b| b[i % b.len()]);
    }
}

/// act. NaN stays NaN.
fn end(y: &mut [f64], relu: bool) {
    if relu {
        y.iter_mut().filter(|y| **y < 0.0).for_each(|y| *y = 0.0);
    }
}

/// y = act(x * w + b); inputs x, w and, with `bias`, b [K]. y is stored as x and w are; b is float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fprop {
    /// K, the number of filters.
    pub filters: usize,
    pub window: Window,
    pub groups: usize,
    pub bias: bool,
    pub relu: bool,
}

impl Fprop {
    fn shape(&self, x: &Type) -> Result<ConvShape> {
        ConvShape::new(x.dims(), self.filters, self.window, self.groups)
    }
}

impl Op for Fprop {
    fn describe(&self) -> Description {
        Description::of("conv.fprop").role(Role::Convolution)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let s = self.shape(&ins[0])?;
        operands(ins, &s, self.bias.then_some(s.k))?;
        Ok(vec![Type::new(storage(&ins[0], &ins[1])?, &[s.n, s.p, s.q, s.k])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (s, y) = (self.shape(&io.ins[0]).expect("checked by infer"), &mut outs[0]);
        begin(y, self.bias.then(|| ins[2]));
        each(&s, &Part::all(&s), |x, w, o| y[o] += ins[0][x] * ins[1][w]);
        end(y, self.relu);
    }
    fn eval_at(&self, io: &Io, ins: &[&[f32]], at: &[usize]) -> Option<Vec<f64>> {
        let s = self.shape(&io.ins[0]).ok()?;
        let sum = |&at: &usize| {
            let mut y = [if self.bias { ins[2][at % s.k] as f64 } else { 0.0 }];
            each(&s, &Part::of_output(&s, at), |x, w, _| y[0] += ins[0][x] as f64 * ins[1][w] as f64);
            end(&mut y, self.relu);
            y[0]
        };
        Some(at.iter().map(sum).collect())
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(mut dy) = dy[0] else { return Ok(vec![None; n.ins.len()]) };
        if self.relu {
            dy = g.push1(ReluGrad, &[n.outs[0], dy]);
        }
        let shape = self.shape(&g.ty(n.ins[0]))?;
        let dx = g.push1(Dgrad { shape, fused: FusedBackward::Nothing }, &[dy, n.ins[1]]);
        let weights = g.push(Wgrad { shape, bias: self.bias }, &[n.ins[0], dy]);
        Ok([dx].into_iter().chain(weights).map(Some).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, s) = (*self, self.shape(&io.ins[0]).expect("checked by infer"));
        host_launches(self, io, group, 4 * host::conv::fprop_scratch(&s), move |h| {
            let bias = op.bias.then(|| h.input(2));
            host::conv::fprop(simd, &s, h.input(0), h.input(1), bias, op.relu, h.output(0), h.scratch())
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let s = self.shape(&io.ins[0]).expect("checked by infer");
        let end = Epilogue { bias: self.bias, relu: self.relu, ..Epilogue::default() };
        let form = Algorithm::of(&s, io.ins[0].dtype, gpu.products());
        gpu::fprop(gpu, form, &s, end)
    }
    fn counted(&self, io: &Io) -> usize {
        self.shape(&io.ins[0]).map_or(0, |s| gpu::counted(&s))
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.shape(&io.ins[0]).map_or(0.0, |s| s.flops()), ..traffic(io) }
    }
}

/// What made x, the input of a convolution, where its gradient is taken along with the convolution's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FusedBackward {
    Nothing,
    /// x = relu(z): the result is dz = dx where x > 0, else 0.
    Relu,
    /// x is pooled from relu(z), and comes with an index: the result is dz [N,2H,2W,C] of [`unpool`].
    Pool,
}

/// dx = the transpose of the convolution applied to dy, and on through what is `fused`; inputs dy [N,P,Q,K], w, with
/// anything before x [N,H,W,C], with pooling its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dgrad {
    pub shape: ConvShape,
    pub fused: FusedBackward,
}

impl Op for Dgrad {
    fn describe(&self) -> Description {
        Description::of("conv.dgrad").role(Role::Convolution)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let s = &self.shape;
        s.check()?;
        expect("dy", &ins[0], &[s.n, s.p, s.q, s.k])?;
        expect_w(&ins[1], s)?;
        let dx = Type::new(storage(&ins[0], &ins[1])?, &[s.n, s.h, s.w, s.c]);
        // In tiles, a thread has four channels of a group.
        let by_fours = Algorithm::is_tiled(s, dx.dtype) && s.group_c().is_multiple_of(4);
        match (self.fused, &ins[2..]) {
            (FusedBackward::Nothing, []) => Ok(vec![dx]),
            (FusedBackward::Relu, [x]) if *x == dx => Ok(vec![dx]),
            (FusedBackward::Pool, [x, index]) if *x == dx && by_fours && *index == unpool::index_type(x)? => {
                Ok(vec![unpool::full_type(x)?])
            }
            _ => Err(Error::job(format!("{:?} before x {:?} does not fit", self.fused, dx.shape))),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let s = &self.shape;
        let mut dx = vec![0.0; s.n * s.h * s.w * s.c];
        each(s, &Part::all(s), |x, w, o| dx[x] += ins[0][o] * ins[1][w]);
        for (i, dz) in outs[0].iter_mut().enumerate() {
            *dz = match self.fused {
                FusedBackward::Nothing => dx[i],
                FusedBackward::Relu => positive(dx[i], ins[2][i]),
                FusedBackward::Pool => unpool::unpooled(ins[2], |i| ins[3][i] as u8, &dx, [s.w, s.c], i),
            };
        }
    }
    fn eval_at(&self, _: &Io, ins: &[&[f32]], at: &[usize]) -> Option<Vec<f64>> {
        let s = &self.shape;
        let sum = |at: usize| {
            let mut dx = 0.0;
            each(s, &Part::of_input(s, at), |x, w, o| {
                if x == at {
                    dx += ins[0][o] as f64 * ins[1][w] as f64
                }
            });
            dx
        };
        let one = |&at: &usize| match self.fused {
            FusedBackward::Nothing => sum(at),
            FusedBackward::Relu => positive(sum(at), ins[2][at] as f64),
            FusedBackward::Pool => unpool::source(ins[2], |i| ins[3][i] as u8, [s.w, s.c], at).map_or(0.0, sum),
        };
        Some(at.iter().map(one).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (s, fused) = (self.shape, self.fused);
        let full = if fused == FusedBackward::Pool { s.n * s.h * s.w * s.c } else { 0 };
        host_launches(self, io, group, 4 * (full + host::conv::dgrad_scratch(&s)), move |h| {
            let (dx, scratch) = h.scratch().split_at_mut(full);
            let dz = h.output::<f32>(0);
            match fused {
                FusedBackward::Nothing => host::conv::dgrad(simd, &s, h.input(0), h.input(1), dz, scratch),
                FusedBackward::Relu => {
                    host::conv::dgrad(simd, &s, h.input(0), h.input(1), dz, scratch);
                    host::pointwise::mask(dz, h.input(2));
                }
                FusedBackward::Pool => {
                    host::conv::dgrad(simd, &s, h.input(0), h.input(1), dx, scratch);
                    unpool::run(h.input(2), h.input(3), dx, [s.w, s.c], dz);
                }
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (mask, pool) = (self.fused != FusedBackward::Nothing, self.fused == FusedBackward::Pool);
        let end = Epilogue { mask, pool, ..Epilogue::default() };
        let form = Algorithm::of(&self.shape, io.ins[0].dtype, gpu.products());
        gpu::dgrad(gpu, form, &self.shape, end)
    }
    fn counted(&self, _: &Io) -> usize {
        gpu::counted(&self.shape)
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.shape.flops(), ..traffic(io) }
    }
}

/// conv.dgrad -> relu.grad becomes dgrad with a mask.
fn fuse_mask(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(1.0) = dropout::kept(&g.nodes()[at]) else { return };
    let ([y, dx], dz) = (g.nodes()[at].ins[..].try_into().expect("y and dx"), g.nodes()[at].outs[0]);
    if let Some((part, &op)) = uses.only::<Dgrad>(g, dx, at).filter(|(_, op)| op.fused == FusedBackward::Nothing) {
        let ins = [&g.nodes()[part].ins[..], &[y]].concat();
        join(g, [part, at], Dgrad { fused: FusedBackward::Relu, ..op }, &ins, dz);
    }
}

/// conv.dgrad -> unpool becomes dgrad that writes all four pixels of each of its own.
fn fuse_unpool(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(unpool::Unpool) = is(&g.nodes()[at]) else { return };
    let ([pooled, index, d], dz) = (g.nodes()[at].ins[..].try_into().expect("three inputs"), g.nodes()[at].outs[0]);
    if let Some((part, &op)) = uses.only::<Dgrad>(g, d, at).filter(|(_, op)| op.fused == FusedBackward::Nothing) {
        let ins = [&g.nodes()[part].ins[..], &[pooled, index]].concat();
        join(g, [part, at], Dgrad { fused: FusedBackward::Pool, ..op }, &ins, dz);
    }
}

/// dw [K,R,S,C/groups] = correlation of x with dy and, with `bias`, db [K] = the sum of dy over all pixels, both in
/// float32; inputs x, dy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wgrad {
    pub shape: ConvShape,
    pub bias: bool,
}

impl Op for Wgrad {
    fn describe(&self) -> Description {
        Description::of("conv.wgrad").role(Role::Convolution).weight_gradient()
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let s = &self.shape;
        s.check()?;
        expect("x", &ins[0], &[s.n, s.h, s.w, s.c])?;
        expect("dy", &ins[1], &[s.n, s.p, s.q, s.k])?;
        storage(&ins[0], &ins[1])?;
        let (dw, db) = (Type::f32(&[s.k, s.taps()[0], s.taps()[1], s.group_c()]), Type::f32(&[s.k]));
        Ok([dw].into_iter().chain(self.bias.then_some(db)).collect())
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].fill(0.0);
        each(&self.shape, &Part::all(&self.shape), |x, w, o| outs[0][w] += ins[0][x] * ins[1][o]);
        if self.bias {
            column_sums(ins[1], &mut outs[1]);
        }
    }
    fn eval_at(&self, _: &Io, ins: &[&[f32]], at: &[usize]) -> Option<Vec<f64>> {
        let sum = |&at: &usize| {
            let mut dw = 0.0;
            each(&self.shape, &Part::of_filter(&self.shape, at), |x, _, o| dw += ins[0][x] as f64 * ins[1][o] as f64);
            dw
        };
        Some(at.iter().map(sum).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (s, bias, rows) = (self.shape, self.bias, io.ins[1].pixels());
        let sums = if bias { host::column_sums_scratch(rows, s.k) } else { 0 };
        host_launches(self, io, group, 4 * sums.max(host::conv::wgrad_scratch(&s)), move |h| {
            let scratch = h.scratch();
            host::conv::wgrad(simd, &s, h.input(0), h.input(1), h.output(0), scratch);
            if bias {
                host::column_sums(simd, rows, s.k, h.input(1), h.output(1), scratch);
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let form = Algorithm::of(&self.shape, io.ins[0].dtype, gpu.products());
        gpu::wgrad(gpu, form, &self.shape, self.bias)
    }
    fn counted(&self, _: &Io) -> usize {
        gpu::counted(&self.shape)
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.shape.flops(), ..traffic(io) }
    }
}

/// y [N,H,W,C] = act(the transpose of a convolution of y's shape, applied to x [N,P,Q,K], + b [C]); inputs x, w
/// [K,R,S,C/groups] and, with `bias`, b. This is PyTorch's ConvTranspose2d: its weight [K,C/groups,R,S] permuted as any
/// other, and H = (P - 1) stride - padding at both ends + dilation (R - 1) + 1 + output_pad. Its gradients are a
/// convolution's fprop (of dy) and wgrad (x and dy in each other's places).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transposed {
    /// C, the channels of y.
    pub channels: usize,
    /// The convolution's; `ceil` means nothing here.
    pub window: Window,
    /// Rows and columns added at the bottom and the right, fewer than the stride: of all images that the convolution
    /// takes to x's extents, how far y is from the smallest.
    pub output_pad: [usize; 2],
    pub groups: usize,
    pub bias: bool,
    pub relu: bool,
}

impl Transposed {
    /// The convolution that leads from y to x.
    fn shape(&self, x: &Type) -> Result<ConvShape> {
        let (&[n, p, q, k], w) = (x.dims(), &self.window) else {
            return Err(Error::job(format!("x must be [N,P,Q,K], got {:?}", x.shape)));
        };
        let mut hw = [0; 2];
        for a in 0..2 {
            if w.size[a] == 0 || [p, q][a] == 0 || self.output_pad[a] >= w.stride[a] {
                return Err(Error::job("extents must be positive and the output padding below the stride"));
            }
            let full = ([p, q][a] - 1) * w.stride[a] + w.dilation[a] * (w.size[a] - 1) + 1 + self.output_pad[a];
            let inside = full.checked_sub(w.pad[a] + w.pad[a + 2]);
            hw[a] = inside.ok_or_else(|| Error::job(format!("padding {:?} leaves nothing of {full} pixels", w.pad)))?;
        }
        let s = ConvShape::new(&[n, hw[0], hw[1], self.channels], k, Window { ceil: false, ..*w }, self.groups)?;
        debug_assert_eq!([s.p, s.q], [p, q]);
        Ok(s)
    }
}

impl Op for Transposed {
    fn describe(&self) -> Description {
        Description::of("conv.transposed").role(Role::Convolution)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let s = self.shape(&ins[0])?;
        operands(ins, &s, self.bias.then_some(s.c))?;
        Ok(vec![Type::new(storage(&ins[0], &ins[1])?, &[s.n, s.h, s.w, s.c])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (s, y) = (self.shape(&io.ins[0]).expect("checked by infer"), &mut outs[0]);
        begin(y, self.bias.then(|| ins[2]));
        each(&s, &Part::all(&s), |o, w, x| y[o] += ins[0][x] * ins[1][w]);
        end(y, self.relu);
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(mut dy) = dy[0] else { return Ok(vec![None; n.ins.len()]) };
        if self.relu {
            dy = g.push1(ReluGrad, &[n.outs[0], dy]);
        }
        let shape = self.shape(&g.ty(n.ins[0]))?;
        let fprop = Fprop { filters: shape.k, window: shape.window, groups: shape.groups, bias: false, relu: false };
        let wgrad = Wgrad { shape, bias: false };
        let mut grads = vec![Some(g.push1(fprop, &[dy, n.ins[1]])), Some(g.push1(wgrad, &[dy, n.ins[0]]))];
        // Here dy is what wgrad correlates with, not what it sums.
        if self.bias {
            grads.push(Some(g.push1(BiasGrad, &[dy])));
        }
        Ok(grads)
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, s) = (*self, self.shape(&io.ins[0]).expect("checked by infer"));
        host_launches(self, io, group, 4 * host::conv::dgrad_scratch(&s), move |h| {
            let bias = op.bias.then(|| h.input(2));
            host::conv::transposed(simd, &s, h.input(0), h.input(1), bias, op.relu, h.output(0), h.scratch())
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let s = self.shape(&io.ins[0]).expect("checked by infer");
        let end = Epilogue { bias: self.bias, relu: self.relu, ..Epilogue::default() };
        let form = Algorithm::of(&s, io.ins[0].dtype, gpu.products());
        gpu::dgrad(gpu, form, &s, end)
    }
    fn counted(&self, io: &Io) -> usize {
        self.shape(&io.ins[0]).map_or(0, |s| gpu::counted(&s))
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.shape(&io.ins[0]).map_or(0.0, |s| s.flops()), ..traffic(io) }
    }
}

const FUSE: &[FusionRule] = &[
    FusionRule::Node(Stage::Layers, pooled::fuse),
    FusionRule::Node(Stage::Gradients, fuse_mask),
    FusionRule::Node(Stage::Gradients, fuse_unpool),
];

pub const FAMILY: Family = Family {
    name: "conv",
    ops: &["conv.fprop", "conv.dgrad", "conv.wgrad", "conv.transposed", "conv.pooled"],
    kernels: gpu::KERNELS,
    fuse: FUSE,
    cases: cases::cases,
};
