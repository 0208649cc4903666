//! The penalty on large weights.

use super::scalar;
use crate::error::{Error, Result};
use crate::graph::Operand::{self, In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::host::pointwise;
use crate::launch::gpu::{Access, CudaStruct, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::ops::arith::Add;
use crate::ops::arith::Scalar;
use crate::ops::fuse::{Uses, is, join};
use crate::shape::{DType, Type};

/// Weights that one launch can square: the convolutions of two VGG19.
const WEIGHTS: usize = 32;

crate::cuda_struct! {
    /// Weights, and of each: elements, where its parts end, and what the sum of its squares counts.
    pub struct Squares { count: u32, n: [u32; 32], end: [u32; 32], lambda: [f32; 32] }
}

pub(super) static L2_PARTS: Kernel = Kernel::new("loss.cu", "l2_parts", WEIGHTS + 1, Squares::TEXT);
pub(super) static L2_SUM: Kernel = Kernel::new("loss.cu", "l2", 2, Squares::TEXT);
pub(super) static L2_GRAD: Kernel = Kernel::new("loss.cu", "l2_grad", 3, Scalar::TEXT);
/// Blocks of [`L2_PARTS`] for one weight at most: enough to fill any GPU, few enough for one block to add up.
const MOST_PARTS: usize = 1024;

/// lambda times the sum of w^2, in float64.
fn square(lambda: f32, w: &[f32]) -> f64 {
    // Sixteen running sums, element i in sum i % 16: vectorisable, and one order for everybody.
    let mut sums = [0f64; 16];
    for w in w.chunks(16) {
        w.iter().zip(&mut sums).for_each(|(w, s)| *s += *w as f64 * *w as f64);
    }
    lambda as f64 * sums.iter().sum::<f64>()
}

/// The launches of a sum over weights, which are the inputs.
fn squares(mut gpu: GpuCalls, io: &Io, lambdas: &[f32]) -> Vec<Launch> {
    let mut args = Squares { count: lambdas.len() as u32, n: [0; WEIGHTS], end: [0; WEIGHTS], lambda: [0.0; WEIGHTS] };
    let mut blocks = 0;
    for (s, (w, lambda)) in io.ins.iter().zip(lambdas).enumerate() {
        blocks += w.numel().div_ceil(4 * L2_PARTS.threads as usize).min(MOST_PARTS);
        (args.n[s], args.end[s], args.lambda[s]) = (count(w.numel()), blocks as u32, *lambda);
    }
    let parts = gpu.scratch(8 * blocks);
    let [written, read] = [Access::Write, Access::Read].map(|access| Operand::Scratch(parts, access));
    // In places without a weight stands the first.
    let weights = (0..WEIGHTS).map(|s| In(if s < lambdas.len() { s } else { 0 }));
    let operands: Vec<Operand> = weights.chain([written]).collect();
    gpu.call(&L2_PARTS, &[], [blocks, 1], &operands, args).call(&L2_SUM, &[], [1, 1], &[read, Out(0)], args).done()
}

/// loss = lambda * sum of w^2 over the elements of one parameter (Keras's `l2(lambda)`: no factor 1/2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct L2 {
    pub lambda: f32,
}

impl Op for L2 {
    fn describe(&self) -> Description {
        Description::of("l2")
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
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let lambda = self.lambda;
        host_launches(self, io, group, 0, move |h| h.output::<f32>(0)[0] = square(lambda, h.input(0)) as f32)
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        squares(gpu, io, &[self.lambda])
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// [`L2`] of up to [`WEIGHTS`] parameters, the inputs, each with its lambda, added in their order: one pass over all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct L2Sum {
    pub lambdas: Vec<f32>,
}

impl Op for L2Sum {
    fn describe(&self) -> Description {
        Description::of("l2.sum")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let fits = (1..=WEIGHTS).contains(&ins.len()) && ins.len() == self.lambdas.len();
        match fits && ins.iter().all(|w| w.dtype == DType::F32) {
            true => Ok(vec![Type::f32(&[1])]),
            false => Err(Error::job(format!("1 to {WEIGHTS} weights in float32 are needed, each with its lambda"))),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let square = |(w, lambda): (&&[f64], &f32)| *lambda as f64 * w.iter().map(|w| w * w).sum::<f64>();
        outs[0][0] = ins.iter().zip(&self.lambdas).map(square).sum();
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let lambdas = self.lambdas.clone();
        host_launches(self, io, group, 0, move |h| {
            let each = lambdas.iter().enumerate().map(|(i, &lambda)| square(lambda, h.input(i)) as f32);
            h.output::<f32>(0)[0] = each.reduce(|a, b| a + b).expect("checked by infer");
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        squares(gpu, io, &self.lambdas)
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.ins.iter().map(|w| 2.0 * w.numel() as f64).sum(), ..traffic(io) }
    }
}

/// dw = 2 lambda w dy; inputs w, dy [1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct L2Grad {
    pub lambda: f32,
}

impl Op for L2Grad {
    fn describe(&self) -> Description {
        Description::of("l2.grad").weight_gradient()
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        scalar(&ins[1])?;
        Ok(vec![ins[0]])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let factor = 2.0 * self.lambda as f64 * ins[1][0];
        outs[0].iter_mut().zip(ins[0]).for_each(|(dw, w)| *dw = factor * w);
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let lambda = self.lambda;
        host_launches(self, io, group, 0, move |h| {
            let factor = 2.0 * lambda * h.input::<f32>(1)[0];
            pointwise::map(simd, h.input(0), h.output(0), |w| factor * w)
        })
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        let args = |n| Scalar { n, by: self.lambda };
        gpu.map(&L2_GRAD, &[], &[In(0), In(1), Out(0)], args).done()
    }
}

/// l2 + l2 + l2 + ... becomes l2.sum.
pub(super) fn fuse(g: &mut Graph, uses: &Uses) {
    let mut within = vec![];
    // The last sum of a chain comes first.
    for &at in uses.needed.iter().rev() {
        if within.contains(&at) {
            continue;
        }
        let Some((sums, terms)) = chain(g, uses, at) else { continue };
        let first = terms.iter().map(|t| t.0).min().expect("a sum has terms");
        let (lambdas, ins) = terms.iter().map(|&(_, lambda, w)| (lambda, w)).unzip::<_, _, Vec<f32>, Vec<Value>>();
        let out = g.nodes()[at].outs[0];
        join(g, [first, at], L2Sum { lambdas }, &ins, out);
        within.extend(sums);
    }
}

/// If node `at` is the last of a chain of sums of penalties: the sums, and of every penalty, first to last, its node, lambda
/// and weight.
#[allow(clippy::type_complexity)] // It is taken apart at once.
fn chain(g: &Graph, uses: &Uses, at: usize) -> Option<(Vec<usize>, Vec<(usize, f32, Value)>)> {
    let (mut sums, mut terms, mut last) = (vec![], vec![], at);
    let term = |v: Value, reader: usize| {
        let (i, l2) = uses.only::<L2>(g, v, reader)?;
        Some((i, l2.lambda, g.nodes()[i].ins[0]))
    };
    loop {
        is::<Add>(&g.nodes()[last])?;
        sums.push(last);
        let [left, right] = g.nodes()[last].ins[..] else { return None };
        terms.push(term(right, last)?);
        if let Some(first) = term(left, last) {
            terms.push(first);
            terms.reverse();
            return Some((sums, terms));
        }
        last = uses.only::<Add>(g, left, last)?.0;
    }
}
