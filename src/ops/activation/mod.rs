/*! Pointwise nonlinearities. Convolution and dense layers can apply ReLU themselves; its adjoint is always this one. The
others are one family, [`Act`]. */

mod act;
mod erf;

use act::{ACTIVATE, ACTIVATE_GRAD, Pointwise, RELU};
pub use act::{Act, Activate, ActivateGrad};

use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::host::pointwise;
use crate::launch::{Cost, Launch, Simd};
use crate::shape::{DType, Type};

/// y = max(x, 0). NaN stays NaN.
#[derive(Debug, Clone)]
pub struct Relu;

impl Op for Relu {
    fn describe(&self) -> Description {
        Description::of("relu")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![ins[0]])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (y, &x) in outs[0].iter_mut().zip(ins[0]) {
            *y = if x < 0.0 { 0.0 } else { x };
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(ReluGrad, &[n.outs[0], dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        host_launches(self, io, group, 0, move |h| {
            pointwise::map(simd, h.input(0), h.output(0), |x| if x < 0.0 { 0.0 } else { x })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        gpu.map(&ACTIVATE, &[RELU, io.ins[0].dtype.code()], &[In(0), Out(0)], Pointwise::plain).done()
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.outs[0].numel() as f64, ..traffic(io) }
    }
}

/// The gradient of ReLU: dy where its result y is positive, else 0. NaN is not positive.
pub(super) fn positive(dy: f64, y: f64) -> f64 {
    if y > 0.0 { dy } else { 0.0 }
}

/// dx = dy where y > 0, else 0, from the layer's own output y. The gradient at exactly 0 is 0.
#[derive(Debug, Clone)]
pub struct ReluGrad;

impl Op for ReluGrad {
    fn describe(&self) -> Description {
        Description::of("relu.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [y, dy] if y == dy => Ok(vec![*dy]),
            _ => Err(Error::job("y and dy must have one shape")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (i, dx) in outs[0].iter_mut().enumerate() {
            *dx = positive(ins[1][i], ins[0][i]);
        }
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        host_launches(self, io, group, 0, move |h| {
            let masked = |y, dy| if y > 0.0 { dy } else { 0.0 };
            pointwise::map2(simd, h.input(0), h.input(1), h.output(0), masked)
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        gpu.map(&ACTIVATE_GRAD, &[RELU, io.ins[0].dtype.code()], &[In(0), In(1), Out(0)], Pointwise::plain).done()
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.outs[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family =
    Family { name: "activation", ops: &OPS, kernels: &[&ACTIVATE, &ACTIVATE_GRAD], fuse: &[], cases };

const OPS: [&str; 2 + 2 * Act::NAMES.len()] = {
    let mut ops = ["relu"; 2 + 2 * Act::NAMES.len()];
    ops[1] = "relu.grad";
    let mut i = 0;
    while i < Act::NAMES.len() {
        (ops[2 + 2 * i], ops[3 + 2 * i]) = Act::NAMES[i];
        i += 1;
    }
    ops
};

fn cases() -> Vec<Case> {
    let t = Type::f32(&[2, 3, 5, 7]);
    let mut cases = vec![
        Case::new("2x3x5x7", Relu, &[t], &[0], Bound::Exact),
        Case::new("2x3x5x7", ReluGrad, &[t, t], &[], Bound::Exact),
        Case::new("F16", Relu, &[t.of(DType::F16)], &[], Bound::Exact),
        Case::new("BF16", Relu, &[t.of(DType::BF16)], &[], Bound::Exact),
        Case::new("F16", ReluGrad, &[t.of(DType::F16); 2], &[], Bound::Exact),
        Case::new("BF16", ReluGrad, &[t.of(DType::BF16); 2], &[], Bound::Exact),
        Case::new("larger than one piece", Relu, &[Type::f32(&[5, 7919])], &[], Bound::Exact),
    ];
    for act in Act::EACH {
        let [y, dx] = act.bounds();
        cases.push(Case::new("2x3x5x7", Activate { act }, &[t], &[0], y).draw(0, Draw::Within(8.0)));
        cases.push(Case::new("2x3x5x7", ActivateGrad { act }, &[t, t], &[], dx).draw(0, Draw::Within(8.0)));
        // Where exponentials overflow and vanish.
        cases.push(Case::new("far out", Activate { act }, &[t], &[], y).draw(0, Draw::Within(200.0)));
        cases.push(Case::new("far out", ActivateGrad { act }, &[t, t], &[], dx).draw(0, Draw::Within(200.0)));
    }
    let (act, large) = (Act::Silu, Type::f32(&[5, 7919]));
    let [y, dx] = act.bounds();
    cases.push(Case::new("larger than one piece", Activate { act }, &[large], &[], y));
    cases.push(Case::new("larger than one piece", ActivateGrad { act }, &[large, large], &[], dx));
    cases
}
