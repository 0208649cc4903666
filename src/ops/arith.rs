/*! Constants, sums and scaling: elementwise linear ops. */

use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::{Graph, Io, Member, Node, Op, Value, host_launches};
use crate::kernel::{Arch, Cost, Launch};
use crate::par;
use crate::shape::Type;

/// y = value everywhere; no inputs.
#[derive(Debug, Clone)]
pub struct Fill {
    pub value: f64,
    pub ty: Type,
}

impl Op for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }
    fn infer(&self, _: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![self.ty])
    }
    fn eval(&self, _: &Io, _: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].fill(self.value)
    }
    fn lower(&self, io: &Io, group: &[Member], _: Arch) -> Vec<Launch> {
        let value = self.value as f32;
        host_launches(self, io, group, 0, move |h| h.output::<f32>(0).fill(value))
    }
}

/// y = a + b, equal shapes.
#[derive(Debug, Clone)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [a, b] if a == b => Ok(vec![*a]),
            _ => Err(Error::job("two equal shapes are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = ins[0][i] + ins[1][i];
        }
    }
    fn grad(&self, _: &mut Graph, _: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0], dy[0]])
    }
    fn lower(&self, io: &Io, group: &[Member], _: Arch) -> Vec<Launch> {
        host_launches(self, io, group, 0, |h| {
            let (a, b) = (h.input::<f32>(0), h.input::<f32>(1));
            par::chunks_mut(h.output::<f32>(0), |at, y| {
                for ((y, a), b) in y.iter_mut().zip(&a[at..]).zip(&b[at..]) {
                    *y = a + b;
                }
            })
        })
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.outs[0].numel() as f64, ..crate::graph::traffic(io) }
    }
}

pub const FAMILY: Family = Family { name: "arith", ops: &["fill", "add"], cases };

fn cases() -> Vec<Case> {
    let t = Type::f32(&[2, 3, 5, 7]);
    vec![
        Case::new("2x3", Fill { value: -0.5, ty: Type::f32(&[2, 3]) }, &[], &[], Bound::Exact),
        Case::new("2x3x5x7", Add, &[t, t], &[0, 1], Bound::Ulps(1)),
    ]
}
