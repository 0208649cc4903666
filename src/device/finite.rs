//! The check for NaN and infinity after each launch: who made the first one.

use super::layout::decode;
use crate::error::{Error, Result};
use crate::graph::{Graph, Kind, Value};
use crate::launch::Buf;
use crate::shape::DType;

/// The first number in `bytes` that is not finite, and where.
pub fn first(dtype: DType, bytes: &[u8]) -> Option<(usize, f64)> {
    if dtype.is_half() {
        let x = decode(dtype, bytes);
        return x.iter().position(|x| !x.is_finite()).map(|i| (i, x[i]));
    }
    let x: &[f32] = bytemuck::try_cast_slice(bytes).ok()?;
    // Most are fine: the exponents of a block are looked at together.
    const BLOCK: usize = 1024;
    let bad = |x: &[f32]| x.iter().fold(false, |bad, x| bad | !x.is_finite());
    let block = x.chunks(BLOCK).position(bad)? * BLOCK;
    let i = block + x[block..].iter().position(|x| !x.is_finite())?;
    Some((i, x[i] as f64))
}

/// Complains about the launch that computed a node if one of its outputs is not finite. `bad` finds the first such
/// element of a value; of float values only it is asked.
pub fn check(g: &Graph, node: usize, outs: &[Buf], bad: impl Fn(Value) -> Option<(usize, f64)>) -> Result<()> {
    let n = &g.nodes()[node];
    let float = |v: &Value| g.ty(*v).dtype.is_float();
    let outs = outs.iter().map(|b| g.of_buf(*b)).filter(float);
    let Some((v, (i, x))) = outs.filter_map(|v| Some((v, bad(v)?))).next() else { return Ok(()) };
    // Temporaries were looked at when they were made: what came from outside was not.
    let outside = n.ins.iter().filter(|v| g.kind(**v) != Kind::Temp && float(v) && !n.outs.contains(v));
    let aliased = |v: &&Value| n.op.in_place().iter().all(|a| n.ins[a.1] != **v);
    let why = match outside.filter(aliased).find_map(|v| Some((v, bad(*v)?))) {
        Some((v, (i, x))) => format!(": so is its input `{}`, {x} in element {i}", g.name(*v)),
        None => ", from finite inputs".into(),
    };
    let layer = if n.label.is_empty() { String::new() } else { format!("layer {}: ", n.label) };
    let numel = g.ty(v).numel();
    Err(Error::job(format!(
        "{layer}{} is the first op whose result is not finite: {x} in element {i} of {numel}{why}",
        n.op.name()
    )))
}
