/*! Scalar losses. Rows carry weights, so a last batch that is not full is padded with rows of weight 0 and the mean is
still the mean over the real ones. */

mod apart;
mod cross_entropy;
mod l2;
mod mse;

pub use apart::{Apart, ApartGrad};
pub use cross_entropy::{CrossEntropy, CrossEntropyGrad, Of};
pub use l2::{L2, L2Grad, L2Sum};
pub use mse::{Mse, MseBoth, MseGrad};

use super::fuse::{FusionRule, Stage};
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::shape::Type;
use serde::{Deserialize, Serialize};

/// What a loss does with the errors of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// Over all elements, by the weights of their rows: rows x outputs of ratings, rows of classes.
    #[default]
    Mean,
    /// The same without the division.
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

/// The gradient of a loss.
fn scalar(dy: &Type) -> Result<()> {
    if *dy == Type::f32(&[1]) { Ok(()) } else { Err(Error::job("the gradient of the loss is one number")) }
}

pub const FAMILY: Family = Family {
    name: "loss",
    ops: &[
        "mse",
        "mse.grad",
        "mse.both",
        "cross_entropy",
        "cross_entropy.grad",
        "l2",
        "l2.sum",
        "l2.grad",
        "apart",
        "apart.grad",
    ],
    kernels: &[
        &mse::MSE,
        &mse::MSE_GRAD,
        &mse::MSE_BOTH,
        &cross_entropy::ROWS,
        &cross_entropy::SUM,
        &cross_entropy::GRAD,
        &l2::L2_PARTS,
        &l2::L2_SUM,
        &l2::L2_GRAD,
        &apart::ROWS,
        &apart::SUM,
        &apart::GRAD,
    ],
    fuse: &[FusionRule::Node(Stage::Ends, mse::fuse), FusionRule::Graph(Stage::Updates, l2::fuse)],
    cases,
};

fn cases() -> Vec<Case> {
    let (x, w, one) = (Type::f32(&[5, 3]), Type::f32(&[5]), Type::f32(&[1]));
    let mut cases = vec![];
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let label = format!("{reduction:?}");
        let weighted = |c: Case| c.draw(2, Draw::Positive);
        cases.push(weighted(Case::new(&label, Mse { reduction }, &[x, x, w], &[0], Bound::Ulps(4))));
        cases.push(weighted(Case::new(&label, MseGrad { reduction }, &[x, x, w, one], &[], Bound::Ulps(16))));
        // The larger one is more than a block's threads.
        for (rows, scaled) in [(5, false), (5, true), (117, false)] {
            let (x, w) = (Type::f32(&[rows, 3]), Type::f32(&[rows]));
            let ins: Vec<Type> = [x, x, w].into_iter().chain(scaled.then_some(one)).collect();
            let label = format!("{label} {rows}x3 scaled {scaled}");
            cases.push(weighted(Case::new(label, MseBoth { reduction, scaled }, &ins, &[], Bound::Ulps(16))));
        }
    }
    cases.extend(cross_entropy::cases());
    cases.extend(apart::cases());
    // The second is summed in several parts.
    for dims in [&[3, 3, 2, 5][..], &[7, 5001]] {
        let (w, label) = (Type::f32(dims), format!("{dims:?}"));
        let diff: &[usize] = if w.numel() < 10_000 { &[0] } else { &[] };
        cases.push(Case::new(&label, L2 { lambda: 2e-4 }, &[w], diff, Bound::Ulps(4)));
        cases.push(Case::new(&label, L2Grad { lambda: 2e-4 }, &[w, one], &[], Bound::Ulps(4)));
    }
    // Weights of one part, of several, and one whose last four are not complete.
    let weights = [&[3, 41][..], &[7, 5001], &[64]].map(Type::f32);
    let sum = L2Sum { lambdas: vec![2e-4, 0.125, 3.0] };
    cases.push(Case::new("three weights", sum, &weights, &[], Bound::Ulps(8)));
    cases
}
