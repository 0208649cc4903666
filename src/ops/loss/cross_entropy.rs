//! Cross-entropy: of logits or probabilities, with labels or soft targets, smoothing, class weights, an ignored label.

use super::{Reduction, rows, scalar};
use crate::error::{Error, Result};
use crate::graph::Operand::{self, In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::launch::gpu::{Access, CudaStruct, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::ops::{Bound, Case, Draw, softmax};
use crate::par;
use crate::shape::{DType, Type};

crate::cuda_struct! {
    /// The attributes of [`CrossEntropy`], extents, and what the target is.
    pub struct Entropy {
        smoothing: f64,
        rows: u32,
        c: u32,
        logits: u32,
        mean: u32,
        soft: u32,
        weighted: u32,
        ignores: u32,
        ignore: i32,
    }
}

pub(super) static ROWS: Kernel = Kernel::new("loss.cu", "cross_entropy_rows", 5, Entropy::TEXT);
pub(super) static SUM: Kernel = Kernel::new("loss.cu", "cross_entropy", 2, Entropy::TEXT);
pub(super) static GRAD: Kernel = Kernel::new("loss.cu", "cross_entropy_grad", 6, Entropy::TEXT);

/// What x holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Of {
    /// -log p = log of the sum of exp(x[n]) - x[n][k].
    #[default]
    Logits,
    /// -log p = -log x[n][k], neither clipped nor made to sum to 1: Keras's `categorical_crossentropy`.
    Probabilities,
}

/// loss = factor * sum over n, k of w[n] a[n][k] (-log p[n][k]), a[n][k] = class[k] ((1 - smoothing) t[n][k] + smoothing / C).
///
/// Inputs: x [N,C]; the target, labels I32 [N] (t = 1 at the label) or soft targets t F32 [N,C]; row weights w [N]; and,
/// if classes count differently, class [C]. The mean is PyTorch's: over w[n] class[label], or over w[n] for soft targets.
/// Rows with the ignored label count nowhere. Any other label that is not a class stops the program, or, on a GPU,
/// makes the loss NaN.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CrossEntropy {
    pub of: Of,
    pub reduction: Reduction,
    /// From 0 to 1: the part of the target that is spread over all classes.
    pub smoothing: f64,
    pub ignore: Option<i32>,
}

/// A batch in whatever numbers it is stored. Its arithmetic is in float64 on every device, in one order: a batch has few
/// rows, and a loss that is rounded once needs no other bound.
struct Batch<'a, T, L> {
    op: CrossEntropy,
    x: &'a [T],
    target: &'a [L],
    w: &'a [T],
    class: Option<&'a [T]>,
    classes: usize,
    soft: bool,
}

impl<T: Copy + Into<f64>, L: Copy + Into<f64>> Batch<'_, T, L> {
    fn class(&self, k: usize) -> f64 {
        self.class.map_or(1.0, |class| class[k].into())
    }

    /// The weight of row n, and what it adds to the divisor of the mean.
    fn row(&self, n: usize) -> (f64, f64) {
        let w = self.w[n].into();
        if self.soft {
            return (w, w);
        }
        let label = self.target[n].into();
        if self.op.ignore.is_some_and(|i| label == i as f64) {
            return (0.0, 0.0);
        }
        assert!(label >= 0.0 && label < self.classes as f64, "label {label} is not one of {} classes", self.classes);
        (w, w * self.class(label as usize))
    }

    /// a[n][k].
    fn share(&self, n: usize, k: usize) -> f64 {
        let t = if self.soft {
            self.target[n * self.classes + k].into()
        } else {
            (self.target[n].into() == k as f64) as u8 as f64
        };
        self.class(k) * ((1.0 - self.op.smoothing) * t + self.op.smoothing / self.classes as f64)
    }

    fn factor(&self) -> f64 {
        match self.op.reduction {
            Reduction::Mean => 1.0 / (0..self.w.len()).map(|n| self.row(n).1).sum::<f64>(),
            Reduction::Sum => 1.0,
        }
    }

    fn loss(&self) -> f64 {
        let mut sum = 0.0;
        for (n, x) in self.x.chunks_exact(self.classes).enumerate() {
            let w = self.row(n).0;
            let log_sum = if self.op.of == Of::Logits { softmax::log_sum(x) } else { 0.0 };
            for (k, &x) in x.iter().enumerate() {
                let a = w * self.share(n, k);
                // A class that does not count may have an infinite logarithm.
                if a != 0.0 {
                    let x: f64 = x.into();
                    sum += a * if self.op.of == Of::Logits { log_sum - x } else { -x.ln() };
                }
            }
        }
        self.factor() * sum
    }

    /// d(loss)/dx[n][k] for a factor that includes dy, handed to `put(k, dx)`.
    fn slopes(&self, n: usize, factor: f64, mut put: impl FnMut(usize, f64)) {
        let (x, w) = (&self.x[n * self.classes..][..self.classes], factor * self.row(n).0);
        let log_sum = if self.op.of == Of::Logits { softmax::log_sum(x) } else { 0.0 };
        let all: f64 = (0..self.classes).map(|k| self.share(n, k)).sum();
        for (k, &x) in x.iter().enumerate() {
            let (a, x): (f64, f64) = (self.share(n, k), x.into());
            put(
                k,
                match self.op.of {
                    _ if w == 0.0 => 0.0,
                    Of::Logits => w * (all * (x - log_sum).exp() - a),
                    Of::Probabilities if a == 0.0 => 0.0,
                    Of::Probabilities => -w * a / x,
                },
            )
        }
    }
}

impl Op for CrossEntropy {
    fn describe(&self) -> Description {
        Description::of("cross_entropy")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        rows(&ins[0], &ins[2])?;
        let &[n, classes] = ins[0].dims() else { unreachable!("checked by rows") };
        let soft = ins[1] == ins[0];
        if !soft && ins[1] != Type::new(DType::I32, &[n]) {
            return Err(Error::job("the target must be one i32 label per row, or one number per class"));
        }
        if ins.get(3).is_some_and(|class| *class != Type::f32(&[classes])) {
            return Err(Error::job("class weights must be [C]"));
        }
        if !(0.0..=1.0).contains(&self.smoothing) {
            return Err(Error::job(format!("smoothing {} is not a part from 0 to 1", self.smoothing)));
        }
        if soft && self.ignore.is_some() {
            return Err(Error::job("soft targets have no label to ignore"));
        }
        Ok(vec![Type::f32(&[1])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0][0] = self.defined(io, ins, ins.get(3).copied()).loss();
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let mut d = vec![None; n.ins.len()];
        d[0] = dy[0].map(|dy| {
            let mut ins = vec![n.ins[0], n.ins[1], n.ins[2], dy];
            ins.extend(&n.ins[3..]);
            g.push1(CrossEntropyGrad { forward: *self }, &ins)
        });
        Ok(d)
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, classes, soft, weighted) = (*self, io.ins[0].row(), io.ins[1] == io.ins[0], io.ins.len() == 4);
        host_launches(self, io, group, 0, move |h| {
            let (x, w, class) = (h.input::<f32>(0), h.input::<f32>(2), weighted.then(|| h.input::<f32>(3)));
            h.output::<f32>(0)[0] = match soft {
                true => Batch { op, x, target: h.input::<f32>(1), w, class, classes, soft }.loss() as f32,
                false => Batch { op, x, target: h.input::<i32>(1), w, class, classes, soft }.loss() as f32,
            };
        })
    }
    fn gpu(&self, mut gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (rows, weighted) = (io.ins[0].dims()[0], io.ins.len() == 4);
        let (args, class) = (self.numbers(io, weighted), In(if weighted { 3 } else { 2 }));
        let parts = gpu.scratch(2 * 8 * rows);
        let [written, read] = [Access::Write, Access::Read].map(|access| Operand::Scratch(parts, access));
        gpu.call(&ROWS, &[], [rows, 1], &[In(0), In(1), In(2), class, written], args)
            .call(&SUM, &[], [1, 1], &[read, Out(0)], args)
            .done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 5.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

impl CrossEntropy {
    /// What the kernels are told; `weighted` says whether there are class weights.
    fn numbers(&self, io: &Io, weighted: bool) -> Entropy {
        Entropy {
            smoothing: self.smoothing,
            rows: count(io.ins[0].dims()[0]),
            c: count(io.ins[0].row()),
            logits: (self.of == Of::Logits) as u32,
            mean: (self.reduction == Reduction::Mean) as u32,
            soft: (io.ins[1] == io.ins[0]) as u32,
            weighted: weighted as u32,
            ignores: self.ignore.is_some() as u32,
            ignore: self.ignore.unwrap_or(0),
        }
    }

    /// The batch of the definition.
    fn defined<'a>(&self, io: &Io, ins: &[&'a [f64]], class: Option<&'a [f64]>) -> Batch<'a, f64, f64> {
        let (classes, soft) = (io.ins[0].row(), io.ins[1] == io.ins[0]);
        Batch { op: *self, x: ins[0], target: ins[1], w: ins[2], class, classes, soft }
    }
}

/// dx = factor w (A softmax(x) - a) dy for logits, A the sum of a over the row; -factor w a / x dy for probabilities.
/// Inputs x, target, w, dy [1], and class if there is one. The target has no gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropyGrad {
    pub forward: CrossEntropy,
}

impl Op for CrossEntropyGrad {
    fn describe(&self) -> Description {
        Description::of("cross_entropy.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let (of, dy) = ([&ins[..3], &ins[4..]].concat(), ins[3]);
        self.forward.infer(&of)?;
        scalar(&dy)?;
        Ok(vec![ins[0]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let batch = self.forward.defined(io, ins, ins.get(4).copied());
        let factor = batch.factor() * ins[3][0];
        for (n, dx) in outs[0].chunks_mut(batch.classes).enumerate() {
            batch.slopes(n, factor, |k, d| dx[k] = d);
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, classes, soft, weighted) = (self.forward, io.ins[0].row(), io.ins[1] == io.ins[0], io.ins.len() == 5);
        host_launches(self, io, group, 0, move |h| {
            let (x, w, class) = (h.input::<f32>(0), h.input::<f32>(2), weighted.then(|| h.input::<f32>(4)));
            let (dy, dx) = (h.input::<f32>(3)[0] as f64, h.output::<f32>(0));
            match soft {
                true => fill(Batch { op, x, target: h.input::<f32>(1), w, class, classes, soft }, dy, dx),
                false => fill(Batch { op, x, target: h.input::<i32>(1), w, class, classes, soft }, dy, dx),
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (rows, weighted) = (io.ins[0].dims()[0], io.ins.len() == 5);
        let (args, class) = (self.forward.numbers(io, weighted), In(if weighted { 4 } else { 2 }));
        let operands = [In(0), In(1), In(2), class, In(3), Out(0)];
        gpu.call(&GRAD, &[], [rows, 1], &operands, args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 6.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// All rows of dx.
fn fill<L: Copy + Into<f64> + Sync>(batch: Batch<f32, L>, dy: f64, dx: &mut [f32]) {
    let factor = batch.factor() * dy;
    par::rows_mut(dx, batch.classes, batch.w.len(), |n, dx| batch.slopes(n, factor, |k, d| dx[k] = d as f32));
}

pub(super) fn cases() -> Vec<Case> {
    let (x, label, w) = (Type::f32(&[5, 9]), Type::new(DType::I32, &[5]), Type::f32(&[5]));
    let (class, one) = (Type::f32(&[9]), Type::f32(&[1]));
    let base = CrossEntropy::default();
    let all = CrossEntropy { smoothing: 0.25, ignore: Some(3), ..base };
    let variants = [
        ("mean", base, label, false),
        ("sum", CrossEntropy { reduction: Reduction::Sum, ..base }, label, false),
        ("smoothed, weighted, label 3 ignored", all, label, true),
        ("soft", base, x, false),
        ("soft, smoothed, weighted", CrossEntropy { ignore: None, ..all }, x, true),
        ("probabilities", CrossEntropy { of: Of::Probabilities, ..base }, label, false),
        ("probabilities, soft", CrossEntropy { of: Of::Probabilities, ..base }, x, true),
    ];
    let mut cases = vec![];
    for (name, op, target, weighted) in variants {
        let drawn = |case: Case| {
            let case = case.draw(1, if target == x { Draw::Positive } else { Draw::Below(9) }).draw(2, Draw::Positive);
            let case = if op.of == Of::Probabilities { case.draw(0, Draw::Positive) } else { case };
            let last = case.ins.len() - 1;
            if weighted { case.draw(last, Draw::Positive) } else { case }
        };
        let classes: &[Type] = if weighted { &[class] } else { &[] };
        // In float64, rounded once.
        let ins = [&[x, target, w], classes].concat();
        cases.push(drawn(Case::new(name, op, &ins, &[0], Bound::Ulps(1))));
        let ins = [&[x, target, w, one], classes].concat();
        cases.push(drawn(Case::new(name, CrossEntropyGrad { forward: op }, &ins, &[], Bound::Ulps(1))));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch<'a>(op: CrossEntropy, x: &'a [f64], target: &'a [f64], w: &'a [f64]) -> Batch<'a, f64, f64> {
        Batch { op, x, target, w, class: None, classes: 2, soft: false }
    }

    #[test]
    fn a_row_of_the_ignored_label_counts_nowhere() {
        let op = CrossEntropy { ignore: Some(-100), ..Default::default() };
        let both = batch(op, &[1.0, 2.0, 7.0, f64::NAN], &[1.0, -100.0], &[1.0, 1.0]);
        let one = batch(op, &[1.0, 2.0], &[1.0], &[1.0]);
        assert_eq!(both.loss(), one.loss());
        let mut dx = [9.0; 2];
        both.slopes(1, both.factor(), |k, d| dx[k] = d);
        assert_eq!(dx, [0.0; 2]);
    }

    #[test]
    fn infinite_logits_of_other_classes_do_no_harm() {
        let one = batch(CrossEntropy::default(), &[1.0, f64::NEG_INFINITY], &[0.0], &[1.0]);
        assert_eq!(one.loss(), 0.0);
    }

    #[test]
    #[should_panic(expected = "label 2 is not one of 2 classes")]
    fn a_label_beyond_the_classes_stops() {
        batch(CrossEntropy::default(), &[1.0, 2.0], &[2.0], &[1.0]).loss();
    }

    #[test]
    #[should_panic(expected = "label -1 is not one of 2 classes")]
    fn a_negative_label_stops() {
        batch(CrossEntropy::default(), &[1.0, 2.0], &[-1.0], &[1.0]).loss();
    }
}
