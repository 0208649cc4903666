//! What the ranks of a job do together in the course of a plan. Each device does it in its own way ([`crate::launch::Collective`]).

use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::{Description, Graph, Io, Node, Op, Role, Value};
use crate::launch::{Collective, Exchange};
use crate::shape::{DType, Type};

/// Most values of one bucket.
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

/// An op on a bucket of values, each of which every rank has. [`Op::eval`] knows one rank, which has all there is; of several, the
/// reference device exchanges float64 numbers.
macro_rules! collective {
    ($(#[$text:meta])* $op:ident, $name:literal) => {
        $(#[$text])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $op {
            /// Which values of a plan.
            pub bucket: u32,
            pub ranks: usize,
            /// How many values it has, up to [`MOST`].
            pub values: usize,
        }

        impl Op for $op {
            fn describe(&self) -> Description {
                Description::of($name).role(Role::Collective).in_place(&PAIRS[..self.values.min(MOST)])
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
                Err(Error::job("what ranks do together comes after gradients, and has none"))
            }
            fn collective(&self) -> Option<Collective> {
                Some(Collective { exchange: Exchange::$op, bucket: self.bucket, ranks: self.ranks })
            }
            fn counted(&self, _: &Io) -> usize {
                0
            }
        }
    };
}

collective!(
    /// y_i = sum over ranks of x_i, for several values at once: a bucket. The terms are added in the order of the ranks on the
    /// host, and in an order that is always the same on GPUs.
    AllReduce,
    "collective.all_reduce"
);

collective!(
    /// y_i = sum over ranks of x_i for the numbers of this rank's share of the bucket ([`crate::ranks::shares`]), added as those
    /// of [`AllReduce`]; y_i = x_i for all others, which nobody should read.
    ReduceScatter,
    "collective.reduce_scatter"
);

collective!(
    /// y_i = x_i of the rank in whose share of the bucket the number is.
    AllGather,
    "collective.all_gather"
);

pub const FAMILY: Family = Family {
    name: "collective",
    ops: &["collective.all_reduce", "collective.reduce_scatter", "collective.all_gather"],
    kernels: &[],
    fuse: &[],
    cases,
};

/// Of one rank; `tests/ranks.rs` has several.
fn cases() -> Vec<Case> {
    let types = [Type::f32(&[3, 5]), Type::f32(&[1]), Type::f32(&[4])];
    let (bucket, ranks, values) = (2, 1, 3);
    let all = "3 values, 1 rank";
    vec![
        Case::new(all, AllReduce { bucket, ranks, values }, &types, &[], Bound::Exact),
        Case::new(all, ReduceScatter { bucket, ranks, values }, &types, &[], Bound::Exact),
        Case::new(all, AllGather { bucket, ranks, values }, &types, &[], Bound::Exact),
    ]
}
