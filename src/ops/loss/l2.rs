//! The penalty on large weights.

use crate::error::Result;
use crate::graph::Operand::{self, In, Out};
use crate::graph::{Gpu, Graph, Io, Member, Node, Op, Value, host_launches, traffic};
use crate::host::pointwise;
use crate::kernel::gpu::{Access, Count, CudaStruct, Kernel, count};
use crate::kernel::{Cost, Launch, Simd};
use crate::ops::arith::Scalar;
use crate::shape::Type;

pub(super) static L2_PARTS: Kernel = Kernel::new("loss.cu", "l2_parts", 2, Count::TEXT);
pub(super) static L2_SUM: Kernel = Kernel::new("loss.cu", "l2", 2, Scalar::TEXT);
pub(super) static L2_GRAD: Kernel = Kernel::new("loss.cu", "l2_grad", 3, Scalar::TEXT);
/// Blocks of [`L2_PARTS`] at most: enough to fill any GPU, few enough for one block to add up.
const MOST_PARTS: usize = 1024;

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
    fn host(&self, io: &Io, group: &[Member], _: Simd) -> Vec<Launch> {
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
    fn gpu(&self, mut gpu: Gpu, io: &Io) -> Vec<Launch> {
        let n = io.ins[0].numel();
        let blocks = n.div_ceil(4 * L2_PARTS.threads as usize).min(MOST_PARTS);
        let parts = gpu.scratch(8 * blocks);
        let [written, read] = [Access::Write, Access::Read].map(|access| Operand::Scratch(parts, access));
        gpu.call(&L2_PARTS, &[], [blocks, 1], &[In(0), written], Count { n: count(n) })
            .call(&L2_SUM, &[], [1, 1], &[read, Out(0)], Scalar { n: blocks as u32, by: self.lambda })
            .done()
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
    fn host(&self, io: &Io, group: &[Member], simd: Simd) -> Vec<Launch> {
        let lambda = self.lambda;
        host_launches(self, io, group, 0, move |h| {
            let factor = 2.0 * lambda * h.input::<f32>(1)[0];
            pointwise::map(simd, h.input(0), h.output(0), |w| factor * w)
        })
    }
    fn gpu(&self, gpu: Gpu, _: &Io) -> Vec<Launch> {
        let args = |n| Scalar { n, by: self.lambda };
        gpu.map(&L2_GRAD, &[], &[In(0), In(1), Out(0)], args).done()
    }
}
