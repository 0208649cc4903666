//! Mean squared error.

use super::{Reduction, rows, scalar, sum64};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Kind, Node, Op, Value, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Divisor, Kernel, count};
use crate::launch::{Cost, Launch, Operands, Simd};
use crate::ops::arith::{Fill, Mul};
use crate::ops::fuse::{Uses, is};
use crate::shape::Type;

crate::cuda_struct! {
    /// Rows, outputs of each, whether the error is a mean, and whether its gradient is scaled.
    pub struct SquaredError { rows: u32, d: Divisor, mean: u32, scaled: u32 }
}

pub(super) static MSE: Kernel = Kernel::new("loss.cu", "mse", 4, SquaredError::TEXT);
pub(super) static MSE_GRAD: Kernel = Kernel::new("loss.cu", "mse_grad", 5, SquaredError::TEXT);
pub(super) static MSE_BOTH: Kernel = Kernel::new("loss.cu", "mse_both", 6, SquaredError::TEXT);

impl SquaredError {
    fn new(reduction: Reduction, x: &Type) -> Self {
        let mean = (reduction == Reduction::Mean) as u32;
        Self { rows: count(x.dims()[0]), d: Divisor::new(x.row()), mean, scaled: 0 }
    }
}

/// loss = factor * sum over n of w[n] * sum over d of (x[n][d] - t[n][d])^2; inputs x [N,D], t [N,D], w [N].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mse {
    pub reduction: Reduction,
}

impl Op for Mse {
    fn describe(&self) -> Description {
        Description::of("mse")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        rows(&ins[0], &ins[2])?;
        if ins[0] != ins[1] {
            return Err(Error::job("predictions and targets must have one shape"));
        }
        Ok(vec![Type::f32(&[1])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let d = io.ins[0].row();
        let factor = self.reduction.factor(ins[2].iter().sum(), d);
        let sum: f64 = (0..ins[0].len()).map(|i| ins[2][i / d] * (ins[0][i] - ins[1][i]).powi(2)).sum();
        outs[0][0] = factor * sum;
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let [x, t, w] = n.ins[..] else { unreachable!("checked by infer") };
        Ok(vec![dy[0].map(|dy| g.push1(MseGrad { reduction: self.reduction }, &[x, t, w, dy])), None, None])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, d) = (*self, io.ins[0].row());
        host_launches(self, io, group, 0, move |h| op.loss(h, d))
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = SquaredError::new(self.reduction, &io.ins[0]);
        gpu.call(&MSE, &[], [1, 1], &[In(0), In(1), In(2), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 3.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

impl Mse {
    fn loss(self, h: &Operands, d: usize) {
        let (x, t, w) = (h.input::<f32>(0), h.input::<f32>(1), h.input::<f32>(2));
        // A batch has a handful of numbers: summed in float64, the loss is good to the last bit of its f32.
        let sum: f64 = (0..x.len()).map(|i| w[i / d] as f64 * (x[i] as f64 - t[i] as f64).powi(2)).sum();
        h.output::<f32>(0)[0] = (self.reduction.factor(sum64(w), d) * sum) as f32;
    }
}

/// dx = 2 factor w (x - t) dy; inputs x, t, w, dy [1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MseGrad {
    pub reduction: Reduction,
}

impl Op for MseGrad {
    fn describe(&self) -> Description {
        Description::of("mse.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Mse { reduction: self.reduction }.infer(&ins[..3])?;
        scalar(&ins[3])?;
        Ok(vec![ins[0]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let d = io.ins[0].row();
        let factor = 2.0 * self.reduction.factor(ins[2].iter().sum(), d) * ins[3][0];
        for (i, dx) in outs[0].iter_mut().enumerate() {
            *dx = factor * ins[2][i / d] * (ins[0][i] - ins[1][i]);
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, d) = (*self, io.ins[0].row());
        host_launches(self, io, group, 0, move |h| op.gradient(h, d, h.input::<f32>(3)[0], h.output(0)))
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = SquaredError::new(self.reduction, &io.ins[0]);
        let operands = [In(0), In(1), In(2), In(3), Out(0)];
        gpu.each(&MSE_GRAD, &[], io.ins[0].numel(), &operands, args).done()
    }
}

impl MseGrad {
    fn gradient(self, h: &Operands, d: usize, dy: f32, dx: &mut [f32]) {
        let (x, t, w) = (h.input::<f32>(0), h.input::<f32>(1), h.input::<f32>(2));
        let factor = (2.0 * self.reduction.factor(sum64(w), d) * dy as f64) as f32;
        dx.iter_mut().enumerate().for_each(|(i, dx)| *dx = factor * w[i / d] * (x[i] - t[i]));
    }
}

/// [`Mse`] and [`MseGrad`] at once: outputs loss and dx; inputs x, t, w and, with `scaled`, dy [1], which is 1 without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MseBoth {
    pub reduction: Reduction,
    pub scaled: bool,
}

impl Op for MseBoth {
    fn describe(&self) -> Description {
        Description::of("mse.both")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let loss = Mse { reduction: self.reduction }.infer(ins)?[0];
        match ins.get(3) == self.scaled.then_some(&loss) {
            true => Ok(vec![loss, ins[0]]),
            false => Err(Error::job("the gradient of the loss is one number")),
        }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (loss, dx) = outs.split_at_mut(1);
        Mse { reduction: self.reduction }.eval(io, ins, loss);
        let dy = if self.scaled { ins[3] } else { &[1.0] };
        MseGrad { reduction: self.reduction }.eval(io, &[ins[0], ins[1], ins[2], dy], dx);
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, d) = (*self, io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            Mse { reduction: op.reduction }.loss(h, d);
            let dy = if op.scaled { h.input::<f32>(3)[0] } else { 1.0 };
            MseGrad { reduction: op.reduction }.gradient(h, d, dy, h.output(1));
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = SquaredError { scaled: self.scaled as u32, ..SquaredError::new(self.reduction, &io.ins[0]) };
        let operands = [In(0), In(1), In(2), In(if self.scaled { 3 } else { 0 }), Out(0), Out(1)];
        gpu.call(&MSE_BOTH, &[], [1, 1], &operands, args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 6.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// mse and mse.grad become mse.both, in the place of the first: whatever is derived from a loss is derived after it, and the
/// gradient of the loss is 1 or, where it is scaled, the scale.
pub(super) fn fuse(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(&Mse { reduction }) = is(&g.nodes()[at]) else { return };
    let (mut ins, loss) = (g.nodes()[at].ins.clone(), g.nodes()[at].outs[0]);
    let grads = uses.readers[ins[0].i()].iter().filter(|&&i| {
        let n = &g.nodes()[i];
        is::<MseGrad>(n).is_some_and(|grad| grad.reduction == reduction) && n.ins[..3] == ins
    });
    let &[grad] = &grads.copied().collect::<Vec<_>>()[..] else { return };
    let writer = |v: Value| uses.writer[v.i()].map(|i| &g.nodes()[i]);
    let one = |v: Value| writer(v).and_then(is::<Fill>).is_some_and(|fill| fill.value == 1.0);
    let d = g.nodes()[grad].ins[3];
    let scale = match writer(d).filter(|n| is::<Mul>(n).is_some()).map(|n| &n.ins[..]) {
        Some(&[fill, scale]) if one(fill) && g.kind(scale) == Kind::Input => Some(scale),
        _ if one(d) => None,
        _ => return,
    };
    ins.extend(scale);
    let dx = g.nodes()[grad].outs[0];
    g.retire(grad);
    g.replace(at, at, MseBoth { reduction, scaled: scale.is_some() }, &ins, &[loss, dx]);
}
