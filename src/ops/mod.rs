/*! Floor 3: the ops. One file per family; each op has its shape rule, definition, adjoint, lowering and cost on one page.
A family also lists its cases, and everything that can be enumerated runs over [`ALL`]: gradient checks, exactness,
guards, conformance. An op never sees a device. */

pub mod activation;
pub mod adam;
pub mod arith;
pub mod augment;
mod backward;
pub mod cast;
pub mod ceiling;
pub mod collective;
pub mod colours;
pub mod conv;
pub mod dense;
pub mod dropout;
pub mod fuse;
pub mod image;
pub mod layout;
pub mod loss;
pub mod lrn;
pub mod mma;
pub mod norm;
pub mod optim;
pub mod pattern;
pub mod pool;
pub mod softmax;
pub mod tile;
pub mod upsample;

use crate::graph::Op;
use crate::launch::gpu::{CudaStruct, Divisor, GROUP, Kernel};
use crate::shape::{DType, Type};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One instance of an op that every check runs on.
pub struct Case {
    /// Attributes and shapes, for people: `k5 3x3 s1 p1 x2x9x11x3`.
    pub label: String,
    pub op: Arc<dyn Op>,
    pub ins: Vec<Type>,
    /// How each input is drawn; by default from its element type.
    pub draws: Vec<Draw>,
    /// Inputs with a gradient.
    pub diff: Vec<usize>,
    /// How far a float32 result may be from the definition.
    pub bound: Bound,
}

/// How a test draws the values of one input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// Uniform in [-1, 1).
    Uniform,
    /// Uniform in [-x, x).
    Within(f32),
    /// A shuffled ramp: no two values closer than 1/n of the range, so that a small step changes no maximum.
    Distinct,
    /// Integers in 0..n.
    Below(u32),
    /// 0 or 1.
    Mask,
    /// Positive, away from zero.
    Positive,
    /// Ones, and an infinity in the last place.
    Infinite,
    /// Optimiser settings: of SGD lr, momentum, weight decay, first step; of Adam see there.
    Hyper([f32; 4]),
    /// Programs of pictures ([`pattern::sample`]).
    Programs,
}

/// The error a correct float32 routine may have, in units of u = 2^-24.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// No rounding at all: selections and copies.
    Exact,
    /// (terms + 2) u times the definition evaluated on absolute values: sums of products.
    Dot(usize),
    /// So many u times the largest magnitude of the output.
    Ulps(usize),
}

impl Case {
    pub fn new(label: impl Into<String>, op: impl Op + 'static, ins: &[Type], diff: &[usize], bound: Bound) -> Self {
        let draws = ins.iter().map(|t| if t.dtype == DType::U8 { Draw::Below(256) } else { Draw::Uniform }).collect();
        Self { label: label.into(), op: Arc::new(op), ins: ins.to_vec(), draws, diff: diff.to_vec(), bound }
    }
    /// Draws input `i` in another way.
    pub fn draw(mut self, i: usize, draw: Draw) -> Self {
        self.draws[i] = draw;
        self
    }
}

/// The ops of one file.
pub struct Family {
    pub name: &'static str,
    /// Every op name of the family; a test demands a case for each.
    pub ops: &'static [&'static str],
    /// Its GPU kernels; tests compile every variant and demand that a case launches each.
    pub kernels: &'static [&'static Kernel],
    /// What its ops are fused from: see [`fuse`].
    pub fuse: &'static [fuse::FusionRule],
    pub cases: fn() -> Vec<Case>,
}

/// The one list.
pub const ALL: &[Family] = &[
    activation::FAMILY,
    adam::FAMILY,
    arith::FAMILY,
    augment::FAMILY,
    cast::FAMILY,
    ceiling::FAMILY,
    collective::FAMILY,
    colours::FAMILY,
    conv::FAMILY,
    dense::FAMILY,
    dropout::FAMILY,
    image::FAMILY,
    layout::FAMILY,
    loss::FAMILY,
    lrn::FAMILY,
    norm::FAMILY,
    optim::FAMILY,
    pattern::FAMILY,
    pool::FAMILY,
    softmax::FAMILY,
    upsample::FAMILY,
];

/// Every kernel of every family.
pub fn kernels() -> impl Iterator<Item = &'static Kernel> {
    ALL.iter().flat_map(|f| f.kernels).copied()
}

/// The text of `kernels/args.cuh`: the structs of numbers that kernels take, as this crate declares them.
pub fn args() -> String {
    let structs: BTreeSet<&str> = kernels().map(|k| k.args).collect();
    let head = "// The structs that kernels take, made from the Rust declarations by `BLESS=1 cargo test --test kernels`.\n#pragma once\n\n";
    let group = format!("constexpr int GROUP = {GROUP};\n\n{}", Divisor::TEXT);
    std::iter::once(head.to_string()).chain([group]).chain(structs.into_iter().map(|s| format!("\n{s}"))).collect()
}
