//! What the ranks of a job do together in the course of a plan. Each device does it in its own way ([`crate::launch::Collective`]).

use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::{Description, Graph, Io, Node, Op, Role, Value};
use crate::launch::Collective;
use crate::shape::{DType, Type};

/// Most values of one sum.
pub const MOST: usize = 256;

/// Every output lies where its input lies.
const PAIRS: [(usize, usize); MOST] = {
    let (mut pairs, mut i) = ([(0, 0); MOST], 0);
    while i < MOST {
        pairs[i] = (i, i);
        i += 1;
    }
    pairs
};

/// y_i = sum over ranks of x_i, for several values at once: a bucket. The terms are added in the order of the ranks on the host,
/// and in an order that is always the same on GPUs. [`Op::eval`] knows one rank, whose sum is its term; of several, the
/// reference device adds float64 terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AllReduce {
    /// Which one of a plan.
    pub bucket: u32,
    pub ranks: usize,
    /// How many values it has, up to [`MOST`].
    pub values: usize,
}

impl Op for AllReduce {
    fn describe(&self) -> Description {
        Description::of("collective.all_reduce").role(Role::Collective).in_place(&PAIRS[..self.values.min(MOST)])
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let fit = ins.len() == self.values && (1..=MOST).contains(&ins.len());
        if !fit || self.ranks == 0 || ins.iter().any(|t| t.dtype != DType::F32) {
            return Err(Error::job(format!("1 to {MOST} float32 values and 1 rank or more are needed")));
        }
        Ok(ins.to_vec())
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs.iter_mut().zip(ins).for_each(|(y, x)| y.copy_from_slice(x));
    }
    fn grad(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Err(Error::job("a sum over ranks is taken of gradients, and has none"))
    }
    fn collective(&self) -> Option<Collective> {
        Some(Collective { bucket: self.bucket, ranks: self.ranks })
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
}

pub const FAMILY: Family =
    Family { name: "collective", ops: &["collective.all_reduce"], kernels: &[], fuse: &[], cases };

/// Of one rank; `tests/ranks.rs` has several.
fn cases() -> Vec<Case> {
    let values = [Type::f32(&[3, 5]), Type::f32(&[1]), Type::f32(&[4])];
    vec![Case::new("3 values, 1 rank", AllReduce { bucket: 2, ranks: 1, values: 3 }, &values, &[], Bound::Exact)]
}
