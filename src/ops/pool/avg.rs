//! Means over windows, over a fixed number of windows, and over the whole image.

use super::super::{Bound, Case};
use super::{counted, nhwc, pooled};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Divisor, Kernel, VECTOR_STORED, count, vector};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::{DType, Type, Window};
use std::ops::Range;

crate::cuda_struct! {
    /// Means over images of `x` pixels in images of `y`, in units of the channels of a thread.
    pub struct MeanWindow {
        n: u32,
        c: Divisor,
        x: [Divisor; 2],
        y: [Divisor; 2],
        /// Spans are those of adaptive pooling: what follows means nothing.
        adaptive: u32,
        size: [u32; 2],
        stride: [Divisor; 2],
        /// top, left, bottom, right
        pad: [u32; 4],
        count_pad: u32,
    }
}

pub(super) static AVGPOOL: Kernel = Kernel::new("pool.cu", "avgpool", 2, MeanWindow::TEXT).with(VECTOR_STORED);
pub(super) static AVGPOOL_GRAD: Kernel =
    Kernel::new("pool.cu", "avgpool_grad", 2, MeanWindow::TEXT).with(VECTOR_STORED);

/// Which pixels each output is the mean of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Over {
    /// y [N,P,Q,C]. With `count_pad` the padding counts as zeros (PyTorch's `count_include_pad`; what `ceil` adds
    /// beyond it never counts); without, the mean is over pixels (TensorFlow).
    Window { window: Window, count_pad: bool },
    /// y [N,P,Q,C] of given extents: row i is the mean of rows floor(i H / P) .. ceil((i + 1) H / P), which overlap
    /// where P does not divide H and repeat where P is larger (PyTorch's adaptive pooling).
    Adaptive { out: [usize; 2] },
    /// y [N,C]: everything.
    Image,
}

impl Over {
    fn out(&self, x: &Type) -> Result<Type> {
        let [n, h, w, c] = nhwc(x)?;
        match *self {
            Over::Window { window, .. } if window.dilation != [1; 2] => {
                Err(Error::job("average pooling has no dilation"))
            }
            Over::Window { window, .. } => pooled(&window, x),
            Over::Adaptive { out } if [h, w, out[0], out[1]].contains(&0) => {
                Err(Error::job(format!("{h}x{w} pixels do not make {}x{}", out[0], out[1])))
            }
            Over::Adaptive { out: [p, q] } => Ok(Type::new(x.dtype, &[n, p, q, c])),
            Over::Image => Ok(Type::new(x.dtype, &[n, c])),
        }
    }
    /// Along one axis: the inputs under output `i`, and by what their sum is divided.
    fn span(&self, axis: usize, i: usize, extent: usize) -> (Range<usize>, usize) {
        match self {
            Over::Window { window: w, count_pad } => {
                let (from, pad) = (i * w.stride[axis], w.pad[axis]);
                let to = (from + w.size[axis]).min(pad + extent + w.pad[axis + 2]);
                let inside = from.saturating_sub(pad)..(to - pad).min(extent);
                let count = if *count_pad { to - from } else { inside.len() };
                (inside, count)
            }
            Over::Adaptive { out } => {
                let inside = i * extent / out[axis]..((i + 1) * extent).div_ceil(out[axis]);
                (inside.clone(), inside.len())
            }
            Over::Image => (0..extent, extent),
        }
    }
    /// Along one axis: the outputs that input `i` is under. Spans begin and end in order, so they are neighbours.
    fn above(&self, axis: usize, i: usize, extent: usize, outs: usize) -> Range<usize> {
        let from = (0..outs).position(|o| self.span(axis, o, extent).0.end > i).unwrap_or(outs);
        let count = (from..outs).take_while(|o| self.span(axis, *o, extent).0.start <= i).count();
        from..from + count
    }
    /// N, P, Q, C of the output of x.
    fn npqc(&self, x: &Type) -> [usize; 4] {
        let y = self.out(x).expect("checked by infer");
        if let &[n, c] = y.dims() { [n, 1, 1, c] } else { nhwc(&y).expect("four extents") }
    }
    /// What the kernels count of x along an axis, to find spans.
    fn counted(&self, x: &Type) -> usize {
        let ([_, h, w, _], [_, p, q, _]) = (nhwc(x).expect("checked by infer"), self.npqc(x));
        ((h + 1) * (p + 1)).max((w + 1) * (q + 1))
    }
    /// What the kernels are told, for a thread per `v` channels of `out`.
    fn numbers(&self, x: &Type, out: &Type, v: usize) -> MeanWindow {
        let ([_, h, w, c], [_, p, q, _]) = (nhwc(x).expect("checked by infer"), self.npqc(x));
        let (window, adaptive, count_pad) = match *self {
            Over::Window { window, count_pad } => (window, false, count_pad),
            // One span of adaptive pooling is everything.
            Over::Adaptive { .. } | Over::Image => (Window::square(1, 1, 0), true, false),
        };
        MeanWindow {
            n: count(out.numel() / v),
            c: Divisor::new(c / v),
            x: [h, w].map(Divisor::new),
            y: [p, q].map(Divisor::new),
            adaptive: adaptive as u32,
            size: window.size.map(|n| n as u32),
            stride: window.stride.map(Divisor::new),
            pad: window.pad.map(|n| n as u32),
            count_pad: count_pad as u32,
        }
    }
}

/// y = the mean of the pixels under each output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AvgPool {
    pub over: Over,
}

impl Op for AvgPool {
    fn describe(&self) -> Description {
        Description::of("avgpool")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![self.over.out(&ins[0])?])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let ([_, h, w, c], [_, p, q, _]) = (nhwc(&io.ins[0]).unwrap(), self.over.npqc(&io.ins[0]));
        for (at, y) in outs[0].iter_mut().enumerate() {
            let (n, i, j, ch) = (at / c / q / p, at / c / q % p, at / c % q, at % c);
            let ((rows, high), (cols, wide)) = (self.over.span(0, i, h), self.over.span(1, j, w));
            let row = |a: usize| cols.clone().map(move |b| ins[0][((n * h + a) * w + b) * c + ch]).sum::<f64>();
            *y = rows.map(row).sum::<f64>() / (high * wide) as f64;
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let x = g.ty(n.ins[0]);
        Ok(vec![dy[0].map(|dy| g.push1(AvgPoolGrad { over: self.over, x }, &[dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (over, [_, h, w, c], [n, p, q, _]) = (self.over, nhwc(&io.ins[0]).unwrap(), self.over.npqc(&io.ins[0]));
        let work = io.ins[0].row() / p + q * c;
        host_launches(self, io, group, 0, move |call| {
            let x = call.input::<f32>(0);
            par::heavy_rows_mut(call.output::<f32>(0), q * c, n * p, work, |row, y| {
                let (rows, high) = over.span(0, row % p, h);
                for (j, y) in y.chunks_exact_mut(c).enumerate() {
                    let (cols, wide) = over.span(1, j, w);
                    y.fill(0.0);
                    for a in rows.clone() {
                        let x = &x[((row / p * h + a) * w + cols.start) * c..][..cols.len() * c];
                        for x in x.chunks_exact(c) {
                            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
                        }
                    }
                    let inverse = 1.0 / (high * wide) as f32;
                    y.iter_mut().for_each(|y| *y *= inverse);
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let v = vector(&[io.ins[0].channels()]);
        let args = self.over.numbers(&io.ins[0], &io.outs[0], v);
        gpu.each(&AVGPOOL, &[v as i64, io.ins[0].dtype.code()], args.n as usize, &[In(0), Out(0)], args).done()
    }
    fn counted(&self, io: &Io) -> usize {
        counted(io, vector(&[io.ins[0].channels()])).max(self.over.counted(&io.ins[0]))
    }
    fn cost(&self, io: &Io) -> Cost {
        let ([_, h, w, c], [n, p, q, _]) = (nhwc(&io.ins[0]).unwrap(), self.over.npqc(&io.ins[0]));
        let pixels = |axis, outs, extent| (0..outs).map(|o| self.over.span(axis, o, extent).0.len()).sum::<usize>();
        Cost { flops: (n * c * pixels(0, p, h) * pixels(1, q, w)) as f64, ..traffic(io) }
    }
}

/// dx = each output's dy divided by its count, summed over the outputs above a pixel; input dy. `x` is the type of the
/// pooled input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AvgPoolGrad {
    pub over: Over,
    pub x: Type,
}

impl Op for AvgPoolGrad {
    fn describe(&self) -> Description {
        Description::of("avgpool.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let y = self.over.out(&self.x)?;
        if ins[0] != y {
            return Err(Error::job(format!("dy must be {:?}", y.shape)));
        }
        Ok(vec![self.x])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let ([_, h, w, c], [_, p, q, _]) = (nhwc(&self.x).unwrap(), self.over.npqc(&self.x));
        outs[0].fill(0.0);
        for (at, dy) in ins[0].iter().enumerate() {
            let (n, i, j, ch) = (at / c / q / p, at / c / q % p, at / c % q, at % c);
            let ((rows, high), (cols, wide)) = (self.over.span(0, i, h), self.over.span(1, j, w));
            for a in rows {
                for b in cols.clone() {
                    outs[0][((n * h + a) * w + b) * c + ch] += dy / (high * wide) as f64;
                }
            }
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (over, [n, h, w, c], [_, p, q, _]) = (self.over, nhwc(&self.x).unwrap(), self.over.npqc(&self.x));
        host_launches(self, io, group, 0, move |call| {
            let dy = call.input::<f32>(0);
            par::rows_mut(call.output::<f32>(0), w * c, n * h, |row, dx| {
                let (img, rows) = (row / h, over.above(0, row % h, h, p));
                let mut cols = 0..0;
                for (b, dx) in dx.chunks_exact_mut(c).enumerate() {
                    // As `above`, but going on from the column before.
                    while cols.start < q && over.span(1, cols.start, w).0.end <= b {
                        cols.start += 1;
                    }
                    while cols.end < q && over.span(1, cols.end, w).0.start <= b {
                        cols.end += 1;
                    }
                    dx.fill(0.0);
                    for i in rows.clone() {
                        for j in cols.clone() {
                            let inverse = 1.0 / (over.span(0, i, h).1 * over.span(1, j, w).1) as f32;
                            let dy = &dy[((img * p + i) * q + j) * c..][..c];
                            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy * inverse);
                        }
                    }
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let v = vector(&[self.x.channels()]);
        let args = self.over.numbers(&self.x, &self.x, v);
        gpu.each(&AVGPOOL_GRAD, &[v as i64, io.ins[0].dtype.code()], args.n as usize, &[In(0), Out(0)], args).done()
    }
    fn counted(&self, io: &Io) -> usize {
        counted(io, vector(&[io.ins[0].channels()])).max(self.over.counted(&self.x))
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost {
            flops: 2.0 * AvgPool { over: self.over }.cost(&Io { ins: &[self.x], outs: io.ins }).flops,
            ..traffic(io)
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let [square, ceil] = [Window::square, |k, s, p| Window { ceil: true, ..Window::square(k, s, p) }];
    let same = Window { pad: [0, 0, 1, 1], ..square(3, 2, 0) };
    let odd = Window { size: [2, 3], stride: [2, 1], pad: [1, 0, 0, 1], ..square(1, 1, 0) };
    let mut overs = vec![];
    for (x, window) in [
        ([2, 8, 10, 4], square(2, 2, 0)),
        ([2, 8, 9, 19], square(3, 2, 1)),
        ([1, 6, 6, 33], square(3, 1, 1)),
        ([2, 8, 7, 3], ceil(3, 2, 1)),
        ([1, 9, 6, 5], ceil(2, 3, 1)),
        ([2, 8, 8, 17], same),
        ([2, 7, 9, 5], odd),
        // Pixels that no window sees.
        ([1, 8, 9, 3], square(2, 3, 0)),
    ] {
        overs.extend([true, false].map(|count_pad| (x, Over::Window { window, count_pad })));
    }
    for (x, out) in [
        ([2, 7, 7, 5], [1, 1]),
        ([1, 10, 9, 18], [7, 7]),
        ([2, 5, 5, 3], [3, 2]),
        ([1, 4, 4, 2], [7, 7]),
        ([2, 3, 8, 4], [5, 4]),
    ] {
        overs.push((x, Over::Adaptive { out }));
    }
    overs.push(([3, 4, 5, 21], Over::Image));
    let halves = [([2, 7, 7, 5], Over::Adaptive { out: [3, 2] }), ([2, 8, 6, 4], Over::Image)];
    let halves = halves.into_iter().flat_map(|o| [(o, DType::F16), (o, DType::BF16)]);
    let mut cases = vec![];
    for ((x, over), dtype) in overs.into_iter().map(|o| (o, DType::F32)).chain(halves) {
        let t = Type::new(dtype, &x);
        let ([_, p, q, _], [_, h, w, _]) = (over.npqc(&t), x);
        let most = |axis, outs, extent| (0..outs).map(|o| over.span(axis, o, extent).0.len()).max().unwrap_or(0);
        let above =
            |axis, outs, extent| (0..extent).map(|i| over.above(axis, i, extent, outs).len()).max().unwrap_or(0);
        let storage = if dtype.is_half() { format!("{dtype:?} ") } else { String::new() };
        let label = format!("{storage}{over:?} x {x:?}");
        let diff: &[usize] = if dtype.is_half() { &[] } else { &[0] };
        let terms = most(0, p, h) * most(1, q, w);
        cases.push(Case::new(&label, AvgPool { over }, &[t], diff, Bound::Dot(terms)));
        let (dy, terms) = (over.out(&t).expect("a case fits"), above(0, p, h) * above(1, q, w));
        cases.push(Case::new(&label, AvgPoolGrad { over, x: t }, &[dy], &[], Bound::Dot(terms)));
    }
    cases
}
