/*! Scalar losses. Rows carry weights, so a last batch that is not full is padded with rows of weight 0 and the mean is
still the mean over the real ones. */

use super::{Bound, Case, Draw, Family, softmax};
use crate::error::{Error, Result};
use crate::graph::{Graph, Io, Member, Node, Op, Value, host_launches, traffic};
use crate::kernel::{Arch, Cost, Launch};
use crate::par;
use crate::shape::{DType, Type};

/// What a loss does with the errors of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Weighted mean over all elements: rows x outputs.
    Mean,
    /// Weighted sum.
    Sum,
}

impl Reduction {
    /// Factor of each row's error, given the sum of the row weights and the outputs per row.
    fn factor(self, weights: f64, outputs: usize) -> f64 {
        match self {
            Reduction::Mean => 1.0 / (weights * outputs as f64),
            Reduction::Sum => 1.0,
        }
    }
}

fn sum64(w: &[f32]) -> f64 {
    w.iter().map(|w| *w as f64).sum()
}

fn rows(x: &Type, w: &Type) -> Result<()> {
    if x.dims().len() == 2 && w.dims() == [x.dims()[0]] {
        Ok(())
    } else {
        Err(Error::job("x [N,D] and row weights [N] are needed"))
    }
}

/// loss = factor * sum over n of w[n] * sum over d of (x[n][d] - t[n][d])^2; inputs x [N,D], t [N,D], w [N].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mse {
    pub reduction: Reduction,
}

impl Op for Mse {
    fn name(&self) -> &'static str {
        "mse"
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
    fn lower(&self, io: &Io, group: &[Member], _: Arch) -> Vec<Launch> {
        let (op, d) = (*self, io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let (x, t, w) = (h.input::<f32>(0), h.input::<f32>(1), h.input::<f32>(2));
            // A batch has a handful of numbers: summed in float64, the loss is good to the last bit of its f32.
            let sum: f64 = (0..x.len()).map(|i| w[i / d] as f64 * (x[i] as f64 - t[i] as f64).powi(2)).sum();
            h.output::<f32>(0)[0] = (op.reduction.factor(sum64(w), d) * sum) as f32;
        })
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 3.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// dx = 2 factor w (x - t) dy; inputs x, t, w, dy [1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MseGrad {
    pub reduction: Reduction,
}

impl Op for MseGrad {
    fn name(&self) -> &'static str {
        "mse.grad"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        rows(&ins[0], &ins[2])?;
        Ok(vec![ins[0]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let d = io.ins[0].row();
        let factor = 2.0 * self.reduction.factor(ins[2].iter().sum(), d) * ins[3][0];
        for (i, dx) in outs[0].iter_mut().enumerate() {
            *dx = factor * ins[2][i / d] * (ins[0][i] - ins[1][i]);
        }
    }
    fn lower(&self, io: &Io, group: &[Member], _: Arch) -> Vec<Launch> {
        let (op, d) = (*self, io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let (x, t, w) = (h.input::<f32>(0), h.input::<f32>(1), h.input::<f32>(2));
            let factor = (2.0 * op.reduction.factor(sum64(w), d) * h.input::<f32>(3)[0] as f64) as f32;
            for (i, dx) in h.output::<f32>(0).iter_mut().enumerate() {
                *dx = factor * w[i / d] * (x[i] - t[i]);
            }
        })
    }
}

/// loss = factor * sum over n of w[n] * -log softmax(x[n])[label[n]]; inputs x [N,C], label I32 [N], w [N].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CrossEntropy {
    pub reduction: Reduction,
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        rows(&ins[0], &ins[2])?;
        if ins[1] != Type::new(DType::I32, &[ins[0].dims()[0]]) {
            return Err(Error::job("one i32 label per row is needed"));
        }
        Ok(vec![Type::f32(&[1])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].row();
        let factor = self.reduction.factor(ins[2].iter().sum(), 1);
        let mut sum = 0.0;
        for (n, x) in ins[0].chunks(c).enumerate() {
            let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
            sum += ins[2][n] * (log_sum - x[ins[1][n] as usize]);
        }
        outs[0][0] = factor * sum;
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let [x, label, w] = n.ins[..] else { unreachable!("checked by infer") };
        let op = CrossEntropyGrad { reduction: self.reduction };
        Ok(vec![dy[0].map(|dy| g.push1(op, &[x, label, w, dy])), None, None])
    }
    fn lower(&self, io: &Io, group: &[Member], _: Arch) -> Vec<Launch> {
        let (op, c) = (*self, io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let (label, w) = (h.input::<i32>(1), h.input::<f32>(2));
            let mut sum = 0.0;
            for (n, x) in h.input::<f32>(0).chunks_exact(c).enumerate() {
                let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x as f64));
                let log_sum = max + x.iter().map(|&x| (x as f64 - max).exp()).sum::<f64>().ln();
                sum += w[n] as f64 * (log_sum - x[label[n] as usize] as f64);
            }
            h.output::<f32>(0)[0] = (op.reduction.factor(sum64(w), 1) * sum) as f32;
        })
    }
}

/// dx = factor w (softmax(x) - onehot(label)) dy; inputs x, label, w, dy [1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CrossEntropyGrad {
    pub reduction: Reduction,
}

impl Op for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross_entropy.grad"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        rows(&ins[0], &ins[2])?;
        Ok(vec![ins[0]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].row();
        let factor = self.reduction.factor(ins[2].iter().sum(), 1) * ins[3][0];
        for (n, dx) in outs[0].chunks_mut(c).enumerate() {
            dx.copy_from_slice(&softmax::row64(&ins[0][n * c..][..c]));
            dx[ins[1][n] as usize] -= 1.0;
            dx.iter_mut().for_each(|dx| *dx *= factor * ins[2][n]);
        }
    }
    fn lower(&self, io: &Io, group: &[Member], _: Arch) -> Vec<Launch> {
        let (op, n, c) = (*self, io.ins[0].dims()[0], io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let (x, label, w) = (h.input::<f32>(0), h.input::<i32>(1), h.input::<f32>(2));
            let factor = op.reduction.factor(sum64(w), 1) * h.input::<f32>(3)[0] as f64;
            par::rows_mut(h.output::<f32>(0), c, n, |n, dx| {
                softmax::row(&x[n * c..][..c], dx);
                dx[label[n] as usize] -= 1.0;
                let factor = (factor * w[n] as f64) as f32;
                dx.iter_mut().for_each(|dx| *dx *= factor);
            })
        })
    }
}

/// loss = lambda * sum of w^2 over the elements of one parameter (Keras's `l2(lambda)`: no factor 1/2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct L2 {
    pub lambda: f32,
}

impl Op for L2 {
    fn name(&self) -> &'static str {
        "l2"
    }
    fn infer(&self, _: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![Type::f32(&[1])])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0][0] = self.lambda as f64 * ins[0].iter().map(|w| w * w).sum::<f64>();
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(L2Grad { lambda: self.lambda }, &[n.ins[0], dy]))])
    }
    fn lower(&self, io: &Io, group: &[Member], _: Arch) -> Vec<Launch> {
        let lambda = self.lambda as f64;
        host_launches(self, io, group, 0, move |h| {
            // Sixteen running sums in float64, element i in sum i % 16: vectorisable, and one order for everybody.
            let mut sums = [0f64; 16];
            for w in h.input::<f32>(0).chunks(16) {
                w.iter().zip(&mut sums).for_each(|(w, s)| *s += *w as f64 * *w as f64);
            }
            h.output::<f32>(0)[0] = (lambda * sums.iter().sum::<f64>()) as f32;
        })
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// dw = 2 lambda w dy; inputs w, dy [1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct L2Grad {
    pub lambda: f32,
}

impl Op for L2Grad {
    fn name(&self) -> &'static str {
        "l2.grad"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![ins[0]])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let factor = 2.0 * self.lambda as f64 * ins[1][0];
        outs[0].iter_mut().zip(ins[0]).for_each(|(dw, w)| *dw = factor * w);
    }
    fn lower(&self, io: &Io, group: &[Member], _: Arch) -> Vec<Launch> {
        let lambda = self.lambda;
        host_launches(self, io, group, 0, move |h| {
            let (w, factor) = (h.input::<f32>(0), 2.0 * lambda * h.input::<f32>(1)[0]);
            par::chunks_mut(h.output::<f32>(0), |at, dw| {
                dw.iter_mut().zip(&w[at..]).for_each(|(dw, w)| *dw = factor * w);
            })
        })
    }
}

pub const FAMILY: Family =
    Family { name: "loss", ops: &["mse", "mse.grad", "cross_entropy", "cross_entropy.grad", "l2", "l2.grad"], cases };

fn cases() -> Vec<Case> {
    let (x, w, one) = (Type::f32(&[5, 3]), Type::f32(&[5]), Type::f32(&[1]));
    let (logits, label) = (Type::f32(&[5, 9]), Type::new(DType::I32, &[5]));
    let mut cases = vec![];
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let label_ = format!("{reduction:?}");
        let weighted = |c: Case| c.draw(2, Draw::Positive);
        cases.push(weighted(Case::new(&label_, Mse { reduction }, &[x, x, w], &[0], Bound::Ulps(4))));
        cases.push(weighted(Case::new(&label_, MseGrad { reduction }, &[x, x, w, one], &[], Bound::Ulps(16))));
        let ce = Case::new(&label_, CrossEntropy { reduction }, &[logits, label, w], &[0], Bound::Ulps(4));
        cases.push(weighted(ce).draw(1, Draw::Below(9)));
        let grad = CrossEntropyGrad { reduction };
        let ce = Case::new(&label_, grad, &[logits, label, w, one], &[], Bound::Ulps(64));
        cases.push(weighted(ce).draw(1, Draw::Below(9)));
    }
    let p = Type::f32(&[3, 3, 2, 5]);
    cases.push(Case::new("3x3x2x5", L2 { lambda: 2e-4 }, &[p], &[0], Bound::Ulps(4)));
    cases.push(Case::new("3x3x2x5", L2Grad { lambda: 2e-4 }, &[p, one], &[], Bound::Ulps(4)));
    cases
}
