/*! Convolution, x [N,H,W,C] * w [K,R,S,C/groups] -> y [N,P,Q,K], as three ops in the field's own terms: fprop, dgrad
(gradient of the data) and wgrad (gradient of the filters); and the transposed convolution, which is dgrad as a layer.
One index function defines all four. */

use super::activation::ReluGrad;
use super::dense::BiasGrad;
use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::{Graph, Io, Member, Node, Op, Value, host_launches, traffic};
use crate::host;
use crate::kernel::{Cost, Launch, Simd};
use crate::shape::{ConvShape, Type, Window};

/// Calls `f(x_index, w_index, y_index)` once per multiply-add of the convolution: the definition.
fn each(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let ([r_, s_], gc, gk) = (s.taps(), s.group_c(), s.group_k());
    for n in 0..s.n {
        for p in 0..s.p {
            for q in 0..s.q {
                for r in 0..r_ {
                    for t in 0..s_ {
                        let (Some(h), Some(w)) = (s.window.input(0, p, r, s.h), s.window.input(1, q, t, s.w)) else {
                            continue;
                        };
                        for k in 0..s.k {
                            let first = k / gk * gc;
                            for c in 0..gc {
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

/// y = act(x * w + b); inputs x, w and, with `bias`, b [K].
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
    fn name(&self) -> &'static str {
        "conv.fprop"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let s = self.shape(&ins[0])?;
        operands(ins, &s, self.bias.then_some(s.k))?;
        Ok(vec![Type::f32(&[s.n, s.p, s.q, s.k])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (s, y) = (self.shape(&io.ins[0]).expect("checked by infer"), &mut outs[0]);
        begin(y, self.bias.then(|| ins[2]));
        each(&s, |x, w, o| y[o] += ins[0][x] * ins[1][w]);
        end(y, self.relu);
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(mut dy) = dy[0] else { return Ok(vec![None; n.ins.len()]) };
        if self.relu {
            dy = g.push1(ReluGrad, &[n.outs[0], dy]);
        }
        let shape = self.shape(&g.ty(n.ins[0]))?;
        let mut grads =
            vec![Some(g.push1(Dgrad { shape }, &[dy, n.ins[1]])), Some(g.push1(Wgrad { shape }, &[n.ins[0], dy]))];
        if self.bias {
            grads.push(Some(g.push1(BiasGrad, &[dy])));
        }
        Ok(grads)
    }
    fn host(&self, io: &Io, group: &[Member], simd: Simd) -> Vec<Launch> {
        let (op, s) = (*self, self.shape(&io.ins[0]).expect("checked by infer"));
        host_launches(self, io, group, 4 * host::conv::fprop_scratch(&s), move |h| {
            let bias = op.bias.then(|| h.input(2));
            host::conv::fprop(simd, &s, h.input(0), h.input(1), bias, op.relu, h.output(0), h.scratch())
        })
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.shape(&io.ins[0]).map_or(0.0, |s| s.flops()), ..traffic(io) }
    }
}

/// dx = the transpose of the convolution applied to dy; inputs dy [N,P,Q,K], w.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dgrad {
    pub shape: ConvShape,
}

impl Op for Dgrad {
    fn name(&self) -> &'static str {
        "conv.dgrad"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let s = &self.shape;
        expect("dy", &ins[0], &[s.n, s.p, s.q, s.k])?;
        expect_w(&ins[1], s)?;
        Ok(vec![Type::f32(&[s.n, s.h, s.w, s.c])])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].fill(0.0);
        each(&self.shape, |x, w, o| outs[0][x] += ins[0][o] * ins[1][w]);
    }
    fn host(&self, io: &Io, group: &[Member], simd: Simd) -> Vec<Launch> {
        let s = self.shape;
        host_launches(self, io, group, 4 * host::conv::dgrad_scratch(&s), move |h| {
            host::conv::dgrad(simd, &s, h.input(0), h.input(1), h.output(0), h.scratch())
        })
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.shape.flops(), ..traffic(io) }
    }
}

/// dw [K,R,S,C/groups] = correlation of x with dy; inputs x, dy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wgrad {
    pub shape: ConvShape,
}

impl Op for Wgrad {
    fn name(&self) -> &'static str {
        "conv.wgrad"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let s = &self.shape;
        expect("x", &ins[0], &[s.n, s.h, s.w, s.c])?;
        expect("dy", &ins[1], &[s.n, s.p, s.q, s.k])?;
        Ok(vec![Type::f32(&[s.k, s.taps()[0], s.taps()[1], s.group_c()])])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].fill(0.0);
        each(&self.shape, |x, w, o| outs[0][w] += ins[0][x] * ins[1][o]);
    }
    fn host(&self, io: &Io, group: &[Member], simd: Simd) -> Vec<Launch> {
        let s = self.shape;
        host_launches(self, io, group, 4 * host::conv::wgrad_scratch(&s), move |h| {
            host::conv::wgrad(simd, &s, h.input(0), h.input(1), h.output(0), h.scratch())
        })
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
            if w.kernel[a] == 0 || [p, q][a] == 0 || self.output_pad[a] >= w.stride[a] {
                return Err(Error::job("extents must be positive and the output padding below the stride"));
            }
            let full = ([p, q][a] - 1) * w.stride[a] + w.dilation[a] * (w.kernel[a] - 1) + 1 + self.output_pad[a];
            let inside = full.checked_sub(w.pad[a] + w.pad[a + 2]);
            hw[a] = inside.ok_or_else(|| Error::job(format!("padding {:?} leaves nothing of {full} pixels", w.pad)))?;
        }
        let s = ConvShape::new(&[n, hw[0], hw[1], self.channels], k, Window { ceil: false, ..*w }, self.groups)?;
        debug_assert_eq!([s.p, s.q], [p, q]);
        Ok(s)
    }
}

impl Op for Transposed {
    fn name(&self) -> &'static str {
        "conv.transposed"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let s = self.shape(&ins[0])?;
        operands(ins, &s, self.bias.then_some(s.c))?;
        Ok(vec![Type::f32(&[s.n, s.h, s.w, s.c])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (s, y) = (self.shape(&io.ins[0]).expect("checked by infer"), &mut outs[0]);
        begin(y, self.bias.then(|| ins[2]));
        each(&s, |o, w, x| y[o] += ins[0][x] * ins[1][w]);
        end(y, self.relu);
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(mut dy) = dy[0] else { return Ok(vec![None; n.ins.len()]) };
        if self.relu {
            dy = g.push1(ReluGrad, &[n.outs[0], dy]);
        }
        let shape = self.shape(&g.ty(n.ins[0]))?;
        let fprop = Fprop { filters: shape.k, window: shape.window, groups: shape.groups, bias: false, relu: false };
        let mut grads = vec![Some(g.push1(fprop, &[dy, n.ins[1]])), Some(g.push1(Wgrad { shape }, &[dy, n.ins[0]]))];
        if self.bias {
            grads.push(Some(g.push1(BiasGrad, &[dy])));
        }
        Ok(grads)
    }
    fn host(&self, io: &Io, group: &[Member], simd: Simd) -> Vec<Launch> {
        let (op, s) = (*self, self.shape(&io.ins[0]).expect("checked by infer"));
        host_launches(self, io, group, 4 * host::conv::dgrad_scratch(&s), move |h| {
            let bias = op.bias.then(|| h.input(2));
            host::conv::transposed(simd, &s, h.input(0), h.input(1), bias, op.relu, h.output(0), h.scratch())
        })
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.shape(&io.ins[0]).map_or(0.0, |s| s.flops()), ..traffic(io) }
    }
}

pub const FAMILY: Family =
    Family { name: "conv", ops: &["conv.fprop", "conv.dgrad", "conv.wgrad", "conv.transposed"], kernels: &[], cases };

fn cases() -> Vec<Case> {
    let square = Window::square;
    let odd = Window { kernel: [3, 5], stride: [2, 1], pad: [1, 2, 0, 1], dilation: [1, 1], ceil: false };
    let dilated = Window { dilation: [2, 3], ..square(3, 1, 2) };
    // x [N,H,W,C], K, window, groups
    let shapes: [([usize; 4], usize, Window, usize); 15] = [
        ([2, 9, 11, 3], 5, square(3, 1, 1), 1),
        ([1, 6, 6, 16], 32, square(3, 1, 1), 1),
        ([3, 7, 5, 17], 19, square(3, 1, 1), 1),
        ([2, 1, 1, 8], 8, square(3, 1, 1), 1),
        ([2, 2, 2, 8], 8, square(3, 1, 1), 1),
        ([2, 8, 8, 4], 6, square(3, 2, 1), 1),
        ([1, 13, 13, 3], 8, square(7, 2, 3), 1),
        ([2, 5, 6, 8], 12, square(1, 1, 0), 1),
        ([2, 7, 7, 8], 12, square(1, 2, 0), 1),
        ([2, 9, 10, 3], 4, odd, 1),
        ([2, 9, 10, 4], 6, dilated, 2),
        ([2, 8, 8, 6], 6, square(3, 1, 1), 6),
        ([2, 7, 9, 19], 19, square(3, 2, 1), 19),
        ([2, 6, 5, 5], 15, square(3, 1, 1), 5),
        ([2, 11, 10, 33], 36, square(3, 1, 1), 1),
    ];
    let mut cases = vec![];
    for (i, (x, k, window, groups)) in shapes.into_iter().enumerate() {
        let shape = ConvShape::new(&x, k, window, groups).expect("a case fits");
        let [r, s] = shape.taps();
        let (xt, yt) = (Type::f32(&x), Type::f32(&[shape.n, shape.p, shape.q, k]));
        let (wt, bt) = (Type::f32(&[k, r, s, shape.group_c()]), Type::f32(&[k]));
        let bias = i % 3 != 2;
        let ins: Vec<Type> = [xt, wt].into_iter().chain(bias.then_some(bt)).collect();
        // The same adjoint on every shape: differencing each weight of the large one would only take minutes.
        let diff: Vec<usize> = if wt.numel() < 5000 { (0..ins.len()).collect() } else { vec![] };
        let label = |pass| format!("{pass}k{k} {r}x{s} stride {:?} groups {groups} x {x:?}", window.stride);
        let fprop = Fprop { filters: k, window, groups, bias, relu: i % 2 == 0 };
        let terms = r * s * shape.group_c() + 1;
        cases.push(Case::new(label(""), fprop, &ins, &diff, Bound::Dot(terms)));
        cases.push(Case::new(label(""), Dgrad { shape }, &[yt, wt], &[], Bound::Dot(r * s * shape.group_k())));
        cases.push(Case::new(label(""), Wgrad { shape }, &[xt, yt], &[], Bound::Dot(shape.n * shape.p * shape.q)));
    }
    // x [N,P,Q,K], C, window, output padding, groups
    let transposed = [
        ([2, 4, 5, 6], 5, square(3, 2, 1), [1, 1], 1),
        ([1, 5, 4, 17], 19, square(4, 2, 1), [0, 0], 1),
        ([2, 3, 3, 4], 6, square(2, 2, 0), [0, 0], 2),
        // Pixels that no tap reaches: the bias alone.
        ([1, 4, 3, 3], 4, square(1, 3, 0), [2, 0], 1),
        ([2, 4, 4, 3], 4, odd, [1, 0], 1),
        ([2, 4, 3, 7], 7, square(3, 2, 1), [0, 1], 7),
    ];
    for (i, (x, channels, window, output_pad, groups)) in transposed.into_iter().enumerate() {
        let op = Transposed { channels, window, output_pad, groups, bias: i != 1, relu: i % 2 == 0 };
        let (xt, [r, s]) = (Type::f32(&x), window.kernel);
        let (wt, bt) = (Type::f32(&[x[3], r, s, channels / groups]), Type::f32(&[channels]));
        let ins: Vec<Type> = [xt, wt].into_iter().chain(op.bias.then_some(bt)).collect();
        let diff: Vec<usize> = (0..ins.len()).collect();
        let label = format!("c{channels} {r}x{s} stride {:?} groups {groups} x {x:?}", window.stride);
        cases.push(Case::new(label, op, &ins, &diff, Bound::Dot(r * s * x[3] / groups + 1)));
    }
    cases
}
