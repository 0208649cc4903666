/*! Softmax over the last extent, and its logarithm. */

mod concat;

pub use concat::{SoftmaxConcat, SoftmaxConcatGrad};

use super::fuse::{FusionRule, Stage};
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{
    Description, GpuCalls, Graph, Instance, Io, Node, Op, Operand, Role, Value, host_launches, traffic,
};
use crate::launch::gpu::{CudaStruct, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::Type;

crate::cuda_struct! {
    /// The length of a row; there is a block for each.
    pub struct Rows { c: u32 }
}

static SOFTMAX: Kernel = Kernel::new("softmax.cu", "softmax", 2, Rows::TEXT);
static SOFTMAX_GRAD: Kernel = Kernel::new("softmax.cu", "softmax_grad", 3, Rows::TEXT);
static LOG_SOFTMAX: Kernel = Kernel::new("softmax.cu", "log_softmax", 2, Rows::TEXT);
static LOG_SOFTMAX_GRAD: Kernel = Kernel::new("softmax.cu", "log_softmax_grad", 3, Rows::TEXT);

/// One launch of a block for each row of x.
fn by_rows(gpu: GpuCalls, kernel: &'static Kernel, operands: &[Operand], x: &Type) -> Vec<Launch> {
    gpu.call(kernel, &[], [x.dims()[0], 1], operands, Rows { c: count(x.row()) }).done()
}

/// y[n][c] = exp(x[n][c] - max) / sum of exp(x[n] - max).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Softmax;

/// One row, in the order that every float32 routine here uses: maximum, exponentials, sum in sequence, division.
pub(super) fn row(x: &[f32], y: &mut [f32]) {
    let max = x.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m || x.is_nan() { x } else { m });
    let mut sum = 0.0;
    for (y, x) in y.iter_mut().zip(x) {
        *y = (x - max).exp();
        sum += *y;
    }
    y.iter_mut().for_each(|y| *y /= sum);
}

/// One row of the definition.
pub(super) fn row64(x: &[f64]) -> Vec<f64> {
    let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| if x > m || x.is_nan() { x } else { m });
    let e: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

/// log of the sum of exp(x) over one row, without overflow. In float64 on every device: sums over classes are short.
pub(super) fn log_sum<T: Copy + Into<f64>>(x: &[T]) -> f64 {
    let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x.into()));
    max + x.iter().map(|&x| (x.into() - max).exp()).sum::<f64>().ln()
}

fn rows(x: &Type) -> Result<Vec<Type>> {
    match x.dims() {
        [_, c] if *c > 0 => Ok(vec![*x]),
        _ => Err(Error::job("x must be [N,C]")),
    }
}

impl Op for Softmax {
    fn describe(&self) -> Description {
        Description::of("softmax").role(Role::Softmax)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        rows(&ins[0])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].row();
        for (x, y) in ins[0].chunks(c).zip(outs[0].chunks_mut(c)) {
            y.copy_from_slice(&row64(x));
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(SoftmaxGrad, &[n.outs[0], dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (n, c) = (io.ins[0].dims()[0], io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let x = h.input::<f32>(0);
            par::rows_mut(h.output::<f32>(0), c, n, |i, y| row(&x[i * c..][..c], y))
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        by_rows(gpu, &SOFTMAX, &[In(0), Out(0)], &io.ins[0])
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 4.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// One row of the gradient.
fn grad_row(y: &[f32], dy: &[f32], dx: &mut [f32]) {
    let dot: f32 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
    dx.iter_mut().enumerate().for_each(|(j, dx)| *dx = y[j] * (dy[j] - dot));
}

/// One row of its definition.
fn grad_row64(y: &[f64], dy: &[f64], dx: &mut [f64]) {
    let dot: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
    dx.iter_mut().enumerate().for_each(|(j, dx)| *dx = y[j] * (dy[j] - dot));
}

/// dx = y (dy - sum of y dy); inputs y, dy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SoftmaxGrad;

impl Op for SoftmaxGrad {
    fn describe(&self) -> Description {
        Description::of("softmax.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins[0] == ins[1] { Ok(vec![ins[0]]) } else { Err(Error::job("y and dy must have one shape")) }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].row();
        for (i, dx) in outs[0].chunks_mut(c).enumerate() {
            grad_row64(&ins[0][i * c..][..c], &ins[1][i * c..][..c], dx);
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (n, c) = (io.ins[0].dims()[0], io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let (y, dy) = (h.input::<f32>(0), h.input::<f32>(1));
            par::rows_mut(h.output::<f32>(0), c, n, |i, dx| grad_row(&y[i * c..][..c], &dy[i * c..][..c], dx))
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        by_rows(gpu, &SOFTMAX_GRAD, &[In(0), In(1), Out(0)], &io.ins[0])
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 4.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// y[n][c] = x[n][c] - log of the sum of exp(x[n]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogSoftmax;

impl Op for LogSoftmax {
    fn describe(&self) -> Description {
        Description::of("log_softmax")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        rows(&ins[0])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].row();
        for (x, y) in ins[0].chunks(c).zip(outs[0].chunks_mut(c)) {
            let log_sum = log_sum(x);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x - log_sum);
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(LogSoftmaxGrad, &[n.outs[0], dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (n, c) = (io.ins[0].dims()[0], io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let x = h.input::<f32>(0);
            par::rows_mut(h.output::<f32>(0), c, n, |i, y| {
                let x = &x[i * c..][..c];
                let log_sum = log_sum(x);
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = (x as f64 - log_sum) as f32);
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        by_rows(gpu, &LOG_SOFTMAX, &[In(0), Out(0)], &io.ins[0])
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 3.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// dx = dy - exp(y) (sum of dy over the row); inputs y, dy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogSoftmaxGrad;

impl Op for LogSoftmaxGrad {
    fn describe(&self) -> Description {
        Description::of("log_softmax.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins[0] == ins[1] { rows(&ins[0]) } else { Err(Error::job("y and dy must have one shape")) }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].row();
        for (i, dx) in outs[0].chunks_mut(c).enumerate() {
            let (y, dy) = (&ins[0][i * c..][..c], &ins[1][i * c..][..c]);
            let sum: f64 = dy.iter().sum();
            dx.iter_mut().enumerate().for_each(|(j, dx)| *dx = dy[j] - y[j].exp() * sum);
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (n, c) = (io.ins[0].dims()[0], io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let (y, dy) = (h.input::<f32>(0), h.input::<f32>(1));
            par::rows_mut(h.output::<f32>(0), c, n, |i, dx| {
                let (y, dy) = (&y[i * c..][..c], &dy[i * c..][..c]);
                let sum: f64 = dy.iter().map(|dy| *dy as f64).sum();
                for (j, dx) in dx.iter_mut().enumerate() {
                    *dx = (dy[j] as f64 - (y[j] as f64).exp() * sum) as f32;
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        by_rows(gpu, &LOG_SOFTMAX_GRAD, &[In(0), In(1), Out(0)], &io.ins[0])
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 4.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family = Family {
    name: "softmax",
    ops: &["softmax", "softmax.grad", "softmax.concat", "softmax.concat.grad", "log_softmax", "log_softmax.grad"],
    kernels: &[&SOFTMAX, &SOFTMAX_GRAD, &concat::CONCAT, &concat::CONCAT_GRAD, &LOG_SOFTMAX, &LOG_SOFTMAX_GRAD],
    fuse: &[FusionRule::Node(Stage::Ends, concat::fuse)],
    cases,
};

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (n, c) in [(3, 5), (2, 365), (1, 1)] {
        let t = Type::f32(&[n, c]);
        let label = format!("{n}x{c}");
        // exp is good to a few ulps, the sum of c terms to c: relative to the largest probability.
        cases.push(Case::new(&label, Softmax, &[t], &[0], Bound::Ulps(c + 16)));
        cases.push(Case::new(&label, SoftmaxGrad, &[t, t], &[], Bound::Ulps(2 * c + 8)));
        // In float64, rounded once.
        cases.push(Case::new(&label, LogSoftmax, &[t], &[0], Bound::Ulps(1)));
        cases.push(Case::new(&label, LogSoftmaxGrad, &[t, t], &[], Bound::Ulps(1)));
    }
    cases.extend(concat::cases());
    cases.push(
        Case::new("far out", LogSoftmax, &[Type::f32(&[4, 7])], &[], Bound::Ulps(1)).draw(0, Draw::Within(500.0)),
    );
    cases
}
