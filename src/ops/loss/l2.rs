//! The penalty on large weights.

use crate::error::Result;
use crate::graph::{Graph, Io, Member, Node, Op, Value, host_launches, traffic};
use crate::host::pointwise;
use crate::kernel::{Cost, Launch, Simd};
use crate::shape::Type;

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
}
