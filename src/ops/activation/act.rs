//! Smooth and leaky pointwise functions: one op and its adjoint for all of them.

use super::erf::erfc;
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::host::pointwise::{exp, map, map2};
use crate::launch::gpu::{CudaStruct, Kernel};
use crate::launch::{Cost, Launch, Simd};
use crate::ops::Bound;
use crate::shape::{DType, Type};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

crate::cuda_struct! {
    /// Parameters of a function in the order of their declaration, and elements.
    pub struct Pointwise { p: f64, q: f64, n: u64 }
}

impl Pointwise {
    /// Of a function without parameters.
    pub(super) fn plain(n: u32) -> Self {
        Self { p: 0.0, q: 0.0, n: n as u64 }
    }
}

/// One variant for each of [`Act::NAMES`], and one for ReLU.
pub(super) const RELU: i64 = -1;
/// Each as float32; ReLU, which the networks on tensor cores have, also in 16 bits.
const ACTS: (&[&str], &[&[i64]]) = (
    &["ACT", "STORAGE"],
    &[
        &[RELU, 0],
        &[RELU, 1],
        &[RELU, 2],
        &[0, 0],
        &[1, 0],
        &[2, 0],
        &[3, 0],
        &[4, 0],
        &[5, 0],
        &[6, 0],
        &[7, 0],
        &[8, 0],
    ],
);
pub(super) static ACTIVATE: Kernel = Kernel::new("activation.cu", "activate", 2, Pointwise::TEXT).with(ACTS);
pub(super) static ACTIVATE_GRAD: Kernel = Kernel::new("activation.cu", "activate_grad", 3, Pointwise::TEXT).with(ACTS);

/// A pointwise function f. At a kink the derivative is PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
    /// x for x > 0, else slope x; f'(0) = slope.
    LeakyRelu {
        slope: f64,
    },
    /// x for x > 0, else alpha (exp(x) - 1); f'(0) = alpha.
    Elu {
        alpha: f64,
    },
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    Tanh,
    /// x P(X < x) for a standard normal X: x erfc(-x / sqrt 2) / 2.
    Gelu,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: close to [`Act::Gelu`], and what some networks were trained with.
    GeluTanh,
    /// x sigmoid(x), also called swish.
    Silu,
    /// log(1 + exp(beta x)) / beta, and x itself where beta x > threshold.
    Softplus {
        beta: f64,
        threshold: f64,
    },
    /// min(max(x, 0), 6); f'(0) = f'(6) = 0.
    Relu6,
}

/// sqrt(2 / pi).
const ROOT: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

impl Act {
    /// Each function with the parameters that PyTorch gives it by default.
    pub const EACH: [Act; 9] = [
        Act::LeakyRelu { slope: 0.01 },
        Act::Elu { alpha: 1.0 },
        Act::Sigmoid,
        Act::Tanh,
        Act::Gelu,
        Act::GeluTanh,
        Act::Silu,
        Act::Softplus { beta: 1.0, threshold: 20.0 },
        Act::Relu6,
    ];

    /// Names of the op and of its adjoint, in the order of the variants.
    pub(super) const NAMES: [(&'static str, &'static str); 9] = [
        ("leaky_relu", "leaky_relu.grad"),
        ("elu", "elu.grad"),
        ("sigmoid", "sigmoid.grad"),
        ("tanh", "tanh.grad"),
        ("gelu", "gelu.grad"),
        ("gelu_tanh", "gelu_tanh.grad"),
        ("silu", "silu.grad"),
        ("softplus", "softplus.grad"),
        ("relu6", "relu6.grad"),
    ];

    fn names(self) -> (&'static str, &'static str) {
        Self::NAMES[self.index()]
    }

    /// Its place in [`Act::NAMES`].
    fn index(self) -> usize {
        match self {
            Act::LeakyRelu { .. } => 0,
            Act::Elu { .. } => 1,
            Act::Sigmoid => 2,
            Act::Tanh => 3,
            Act::Gelu => 4,
            Act::GeluTanh => 5,
            Act::Silu => 6,
            Act::Softplus { .. } => 7,
            Act::Relu6 => 8,
        }
    }

    /// What the kernels are told of n elements.
    fn numbers(self, n: u32) -> Pointwise {
        let plain = Pointwise::plain(n);
        match self {
            Act::LeakyRelu { slope } => Pointwise { p: slope, ..plain },
            Act::Elu { alpha } => Pointwise { p: alpha, ..plain },
            Act::Softplus { beta, threshold } => Pointwise { p: beta, q: threshold, ..plain },
            _ => plain,
        }
    }

    /// f(x).
    pub fn value(self, x: f64) -> f64 {
        match self {
            Act::LeakyRelu { slope } => {
                if x > 0.0 {
                    x
                } else {
                    slope * x
                }
            }
            Act::Elu { alpha } => {
                if x > 0.0 {
                    x
                } else {
                    alpha * x.exp_m1()
                }
            }
            Act::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Act::Tanh => x.tanh(),
            Act::Gelu => 0.5 * x * erfc(-x * FRAC_1_SQRT_2),
            Act::GeluTanh => 0.5 * x * (1.0 + (ROOT * (x + 0.044715 * x.powi(3))).tanh()),
            Act::Silu => x / (1.0 + (-x).exp()),
            Act::Softplus { beta, threshold } => {
                if beta * x > threshold {
                    x
                } else {
                    (beta * x).exp().ln_1p() / beta
                }
            }
            Act::Relu6 => x.clamp(0.0, 6.0),
        }
    }

    /// f'(x).
    pub fn slope(self, x: f64) -> f64 {
        match self {
            Act::LeakyRelu { slope } => {
                if x > 0.0 {
                    1.0
                } else {
                    slope
                }
            }
            Act::Elu { alpha } => {
                if x > 0.0 {
                    1.0
                } else {
                    alpha * x.exp()
                }
            }
            Act::Sigmoid => {
                let y = Act::Sigmoid.value(x);
                y * (1.0 - y)
            }
            Act::Tanh => 1.0 - x.tanh().powi(2),
            Act::Gelu => 0.5 * erfc(-x * FRAC_1_SQRT_2) + x * 0.5 * ROOT * (-0.5 * x * x).exp(),
            Act::GeluTanh => {
                let t = (ROOT * (x + 0.044715 * x.powi(3))).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * ROOT * (1.0 + 3.0 * 0.044715 * x * x)
            }
            Act::Silu => {
                let y = Act::Sigmoid.value(x);
                y * (1.0 + x * (1.0 - y))
            }
            Act::Softplus { beta, threshold } => {
                if beta * x > threshold {
                    1.0
                } else {
                    Act::Sigmoid.value(beta * x)
                }
            }
            Act::Relu6 => {
                if x <= 0.0 || x >= 6.0 {
                    0.0
                } else {
                    1.0
                }
            }
        }
    }

    /// How far float32 may be off, for y and dx: exp is good to 2 u, so 1 + exp to 2 u, and
    ///
    /// * sigmoid 1 / (1 + exp(-x)) and silu x / (1 + exp(-x)): to 3 u;
    /// * d sigmoid e / (1 + e)^2 with e = exp(-|x|): 2 for e, 2 (0.5 2 + 1) + 1 for the square, 2 roundings: 9 u;
    /// * d silu s (1 + x t) with s = sigmoid(x), t = sigmoid(-x), each good to 6 u: 7 u of |x| t, the sum 1, s 6, two
    ///   products 2: 16 u of s (1 + |x| t), which is at most 1.1: 18 u of |dy|. Relative to the largest |dx| twice that,
    ///   where some x > 0 meets a |dy| of half the largest;
    /// * leaky ReLU: its slope is rounded and the product is;
    /// * all others are computed in float64 and rounded once, then multiplied by dy.
    pub fn bounds(self) -> [Bound; 2] {
        match self {
            Act::Relu6 => [Bound::Exact, Bound::Exact],
            Act::Sigmoid => [Bound::Ulps(3), Bound::Ulps(9)],
            Act::Silu => [Bound::Ulps(3), Bound::Ulps(36)],
            Act::LeakyRelu { .. } => [Bound::Ulps(2), Bound::Ulps(2)],
            Act::Elu { .. } | Act::Tanh | Act::Gelu | Act::GeluTanh | Act::Softplus { .. } => [Bound::Ulps(1); 2],
        }
    }

    /// Floating-point operations per element, an exponential counted as ten.
    fn flops(self) -> f64 {
        match self {
            Act::LeakyRelu { .. } | Act::Relu6 => 1.0,
            _ => 12.0,
        }
    }
}

/// y = f(x), any shape. NaN stays NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activate {
    pub act: Act,
}

impl Op for Activate {
    fn describe(&self) -> Description {
        Description::of(self.act.names().0)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![ins[0]])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].iter_mut().zip(ins[0]).for_each(|(y, x)| *y = self.act.value(*x));
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(ActivateGrad { act: self.act }, &[n.ins[0], dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let act = self.act;
        host_launches(self, io, group, 0, move |h| {
            let (x, y) = (h.input::<f32>(0), h.output::<f32>(0));
            match act {
                Act::LeakyRelu { slope } => {
                    let slope = slope as f32;
                    map(simd, x, y, |x| if x > 0.0 { x } else { slope * x })
                }
                Act::Relu6 => map(simd, x, y, |x| x.clamp(0.0, 6.0)),
                Act::Sigmoid => map(simd, x, y, |x| 1.0 / (1.0 + exp(-x))),
                Act::Silu => map(simd, x, y, |x| x / (1.0 + exp(-x))),
                _ => map(simd, x, y, |x| act.value(x as f64) as f32),
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        let act = [self.act.index() as i64, DType::F32.code()];
        gpu.map(&ACTIVATE, &act, &[In(0), Out(0)], |n| self.act.numbers(n)).done()
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.act.flops() * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

/// dx = f'(x) dy; inputs x, dy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivateGrad {
    pub act: Act,
}

impl Op for ActivateGrad {
    fn describe(&self) -> Description {
        Description::of(self.act.names().1)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [x, dy] if x == dy => Ok(vec![*dy]),
            _ => Err(Error::job("x and dy must have one shape")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (i, dx) in outs[0].iter_mut().enumerate() {
            *dx = self.act.slope(ins[0][i]) * ins[1][i];
        }
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let act = self.act;
        host_launches(self, io, group, 0, move |h| {
            let (x, dy, dx) = (h.input::<f32>(0), h.input::<f32>(1), h.output::<f32>(0));
            match act {
                Act::LeakyRelu { slope } => {
                    let slope = slope as f32;
                    map2(simd, x, dy, dx, |x, dy| if x > 0.0 { dy } else { slope * dy })
                }
                Act::Relu6 => map2(simd, x, dy, dx, |x, dy| if x <= 0.0 || x >= 6.0 { 0.0 } else { dy }),
                Act::Sigmoid => map2(simd, x, dy, dx, |x, dy| {
                    let e = exp(-x.abs());
                    let sum = 1.0 + e;
                    e / (sum * sum) * dy
                }),
                Act::Silu => map2(simd, x, dy, dx, |x, dy| {
                    // sigmoid(|x|) and sigmoid(-|x|), neither by a difference.
                    let e = exp(-x.abs());
                    let (near, far) = (1.0 / (1.0 + e), e / (1.0 + e));
                    let (s, t) = if x < 0.0 { (far, near) } else { (near, far) };
                    s * (1.0 + x * t) * dy
                }),
                _ => map2(simd, x, dy, dx, |x, dy| (act.slope(x as f64) * dy as f64) as f32),
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        let act = [self.act.index() as i64, DType::F32.code()];
        gpu.map(&ACTIVATE_GRAD, &act, &[In(0), In(1), Out(0)], |n| self.act.numbers(n)).done()
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: (1.0 + self.act.flops()) * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch's subgradients: threshold_backward, hardtanh_backward, leaky_relu_backward, elu_backward,
    /// softplus_backward.
    #[test]
    fn slopes_at_the_kinks() {
        assert_eq!(Act::LeakyRelu { slope: 0.2 }.slope(0.0), 0.2);
        assert_eq!(Act::Elu { alpha: 1.5 }.slope(0.0), 1.5);
        assert_eq!([0.0, 6.0, 5.9, -1.0].map(|x| Act::Relu6.slope(x)), [0.0, 0.0, 1.0, 0.0]);
        let softplus = Act::Softplus { beta: 2.0, threshold: 20.0 };
        assert_eq!([softplus.value(10.1), softplus.slope(10.1)], [10.1, 1.0]);
        assert!(softplus.value(10.0) > 10.0 && softplus.slope(10.0) < 1.0);
    }
}
