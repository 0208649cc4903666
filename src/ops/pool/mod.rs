/*! Pooling over H x W of x [N,H,W,C]. */

mod avg;
mod max;
pub mod unpool;

pub use avg::{AvgPool, AvgPoolGrad, Over};
pub use max::{MaxPool, MaxPoolGrad};
pub use unpool::Unpool;

use super::Family;
use crate::error::{Error, Result};
use crate::graph::Io;
use crate::shape::{Type, Window};

fn nhwc(t: &Type) -> Result<[usize; 4]> {
    t.dims().try_into().map_err(|_| Error::job(format!("x must be [N,H,W,C], got {:?}", t.shape)))
}

/// [N,H,W,C] -> [N,P,Q,C]. Padding is at most half of a window, as in PyTorch: every window holds a pixel.
fn pooled(window: &Window, x: &Type) -> Result<Type> {
    let [n, h, w, c] = nhwc(x)?;
    if (0..2).any(|a| window.pad[a].max(window.pad[a + 2]) * 2 > window.size[a]) {
        return Err(Error::job("padding must not exceed half of the window"));
    }
    let [p, q] = window.out([h, w])?;
    Ok(Type::new(x.dtype, &[n, p, q, c]))
}

/// What kernels of pooling count in 32 bits: what threads compute of y, each `v` channels at once, and numbers in one image of
/// each operand.
fn counted(io: &Io, v: usize) -> usize {
    let images = io.ins.iter().map(Type::row);
    io.outs.iter().map(|t| t.row().max(t.numel() / v)).chain(images).max().unwrap_or(0)
}

pub const FAMILY: Family = Family {
    name: "pool",
    ops: &["maxpool", "maxpool.grad", "avgpool", "avgpool.grad", "unpool"],
    kernels: &[&max::MAXPOOL, &max::MAXPOOL_GRAD, &avg::AVGPOOL, &avg::AVGPOOL_GRAD, &unpool::UNPOOL],
    fuse: &[],
    cases: || max::cases().into_iter().chain(avg::cases()).chain(unpool::cases()).collect(),
};
