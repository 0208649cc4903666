//! The largest value of each window, and where its gradient goes.

use super::super::{Bound, Case, Draw};
use super::{counted, nhwc, pooled};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::host::pool::Windows;
use crate::launch::gpu::{CudaStruct, Divisor, Kernel, VECTOR_STORED, count, vector};
use crate::launch::{Cost, Launch, Simd};
use crate::shape::{DType, Type, Window};

crate::cuda_struct! {
    /// Pooling of images of `x` pixels to images of `y`, in units of the channels of a thread.
    pub struct MaxWindow {
        n: u32,
        c: Divisor,
        x: [Divisor; 2],
        y: [Divisor; 2],
        size: [u32; 2],
        stride: [Divisor; 2],
        pad: [u32; 2],
        dilation: [u32; 2],
    }
}

pub(super) static MAXPOOL: Kernel = Kernel::new("pool.cu", "maxpool", 2, MaxWindow::TEXT).with(VECTOR_STORED);
pub(super) static MAXPOOL_GRAD: Kernel = Kernel::new("pool.cu", "maxpool_grad", 3, MaxWindow::TEXT).with(VECTOR_STORED);

impl MaxWindow {
    /// Of x and y, for a thread per `v` channels of `out`.
    fn new(w: &Window, x: &Type, y: &Type, out: &Type, v: usize) -> Self {
        let [[_, h, wd, c], [_, p, q, _]] = [x, y].map(|t| nhwc(t).expect("checked by infer"));
        let (two, of) = (|n: [usize; 2]| n.map(|n| n as u32), |n: [usize; 2]| n.map(Divisor::new));
        Self {
            n: count(out.numel() / v),
            c: Divisor::new(c / v),
            x: of([h, wd]),
            y: of([p, q]),
            size: two(w.size),
            stride: of(w.stride),
            pad: two([w.pad[0], w.pad[1]]),
            dilation: two(w.dilation),
        }
    }
}

/// The winning input index of one window and channel: the first maximum in row-major order; a NaN wins over everything.
/// None when the whole window lies in the padding.
fn winner(
    w: &Window,
    [h, wd]: [usize; 2],
    p: usize,
    q: usize,
    x: impl Fn(usize, usize) -> f64,
) -> Option<(usize, usize)> {
    let mut best: Option<((usize, usize), f64)> = None;
    for r in 0..w.size[0] {
        for s in 0..w.size[1] {
            let (Some(i), Some(j)) = (w.input(0, p, r, h), w.input(1, q, s, wd)) else { continue };
            let v = x(i, j);
            if best.is_none_or(|(_, m)| v > m || (v.is_nan() && !m.is_nan())) {
                best = Some(((i, j), v));
            }
        }
    }
    best.map(|b| b.0)
}

/// y = the largest value of each window; padding never wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MaxPool {
    pub window: Window,
}

impl Op for MaxPool {
    fn describe(&self) -> Description {
        Description::of("maxpool")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![pooled(&self.window, &ins[0])?])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let ([_, h, w, c], [_, p, q, _]) = (nhwc(&io.ins[0]).unwrap(), nhwc(&io.outs[0]).unwrap());
        for (at, y) in outs[0].iter_mut().enumerate() {
            let (n, i, j, ch) = (at / c / q / p, at / c / q % p, at / c % q, at % c);
            let x = |a, b| ins[0][((n * h + a) * w + b) * c + ch];
            *y = winner(&self.window, [h, w], i, j, x).map_or(f64::NEG_INFINITY, |(a, b)| x(a, b));
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(MaxPoolGrad { window: self.window }, &[n.ins[0], dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let windows = windows(self.window, &io.ins[0], &io.outs[0]);
        host_launches(self, io, group, 0, move |call| windows.max(simd, call.input(0), call.output(0)))
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (x, y, v) = (&io.ins[0], &io.outs[0], vector(&[io.ins[0].channels()]));
        let args = MaxWindow::new(&self.window, x, y, y, v);
        gpu.each(&MAXPOOL, &[v as i64, io.ins[0].dtype.code()], args.n as usize, &[In(0), Out(0)], args).done()
    }
    fn counted(&self, io: &Io) -> usize {
        counted(io, vector(&[io.ins[0].channels()]))
    }
    fn cost(&self, io: &Io) -> Cost {
        let taps = self.window.size[0] * self.window.size[1];
        Cost { flops: io.outs[0].numel() as f64 * taps as f64, ..traffic(io) }
    }
}

/// dx: dy goes to the winner of each window, found again from x; inputs x, dy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MaxPoolGrad {
    pub window: Window,
}

impl Op for MaxPoolGrad {
    fn describe(&self) -> Description {
        Description::of("maxpool.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let y = pooled(&self.window, &ins[0])?;
        if ins[1] != y {
            return Err(Error::job(format!("dy must be {:?}", y.shape)));
        }
        Ok(vec![ins[0]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let ([_, h, w, c], [_, p, q, _]) = (nhwc(&io.ins[0]).unwrap(), nhwc(&io.ins[1]).unwrap());
        outs[0].fill(0.0);
        for (at, dy) in ins[1].iter().enumerate() {
            let (n, i, j, ch) = (at / c / q / p, at / c / q % p, at / c % q, at % c);
            let index = |a, b| ((n * h + a) * w + b) * c + ch;
            if let Some((a, b)) = winner(&self.window, [h, w], i, j, |a, b| ins[0][index(a, b)]) {
                outs[0][index(a, b)] += dy;
            }
        }
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let windows = windows(self.window, &io.ins[0], &io.ins[1]);
        host_launches(self, io, group, 0, move |call| {
            windows.max_grad(simd, call.input(0), call.input(1), call.output(0))
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (x, dy, v) = (&io.ins[0], &io.ins[1], vector(&[io.ins[0].channels()]));
        let args = MaxWindow::new(&self.window, x, dy, x, v);
        let operands = [In(0), In(1), Out(0)];
        gpu.each(&MAXPOOL_GRAD, &[v as i64, io.ins[0].dtype.code()], args.n as usize, &operands, args).done()
    }
    fn counted(&self, io: &Io) -> usize {
        counted(io, vector(&[io.ins[0].channels()]))
    }
    fn cost(&self, io: &Io) -> Cost {
        let taps = self.window.size[0] * self.window.size[1];
        Cost { flops: io.ins[1].numel() as f64 * taps as f64, ..traffic(io) }
    }
}

/// What the routines of the CPU know of x and y.
fn windows(window: Window, x: &Type, y: &Type) -> Windows {
    let [x, y] = [x, y].map(|t| nhwc(t).expect("checked by infer"));
    Windows { window, x, y }
}

pub(super) fn cases() -> Vec<Case> {
    let ceil = Window { ceil: true, ..Window::square(3, 2, 0) };
    let odd = Window { size: [2, 3], stride: [2, 1], pad: [1, 0, 0, 1], dilation: [1, 2], ceil: false };
    let mut cases = vec![];
    for (x, window) in [
        ([2, 8, 10, 4], Window::square(2, 2, 0)),
        ([2, 7, 9, 19], Window::square(2, 2, 0)),
        ([2, 8, 8, 3], Window::square(3, 2, 1)),
        ([1, 6, 6, 33], Window::square(3, 1, 1)),
        // More rows than one task of the gradient owns.
        ([1, 37, 5, 3], Window::square(3, 2, 0)),
        // More channels than the routines of the CPU take at a time, and a rest.
        ([1, 5, 6, 70], Window::square(3, 2, 1)),
        ([1, 8, 8, 3], ceil),
        ([2, 7, 9, 5], odd),
    ] {
        let x_ = Type::f32(&x);
        let y = pooled(&window, &x_).expect("a case fits");
        let label = format!("{:?} stride {:?} x {x:?}", window.size, window.stride);
        cases.push(Case::new(&label, MaxPool { window }, &[x_], &[0], Bound::Exact).draw(0, Draw::Distinct));
        let taps = window.size[0] * window.size[1];
        // Integers with many ties: the first maximum takes the gradient.
        for draw in [Draw::Distinct, Draw::Below(3)] {
            let case = Case::new(&label, MaxPoolGrad { window }, &[x_, y], &[], Bound::Dot(taps));
            cases.push(case.draw(0, draw));
        }
    }
    for (i, half) in [DType::F16, DType::BF16].into_iter().enumerate() {
        for (x, window) in [([2, 8, 10, 4], Window::square(2, 2, 0)), ([2, 8, 8, 3], Window::square(3, 2, 1))] {
            let x_ = Type::new(half, &x);
            let y = pooled(&window, &x_).expect("a case fits");
            let label = format!("{half:?} {:?} stride {:?} x {x:?}", window.size, window.stride);
            cases.push(Case::new(&label, MaxPool { window }, &[x_], &[], Bound::Exact).draw(0, Draw::Distinct));
            let case =
                Case::new(&label, MaxPoolGrad { window }, &[x_, y], &[], Bound::Dot(window.size[0] * window.size[1]));
            cases.push(case.draw(0, if i == 0 { Draw::Distinct } else { Draw::Below(3) }));
        }
    }
    cases
}
