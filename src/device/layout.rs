//! Where values lie in a device's memory, what surrounds them, and how numbers from outside become their bytes.

use super::{Bytes, Data};
use crate::error::{Error, Result};
use crate::graph::{Graph, Kind, Value};
use crate::plan::{Place, Plan};
use crate::shape::{DType, sticky};
use bytemuck::{Pod, cast_slice, cast_slice_mut};
use half::{bf16, f16};
use std::ops::Range;

/// Byte that fills guard bands; as a float32 it is neither NaN nor a number a network computes.
pub const CANARY: u8 = 0xA5;

/// Offsets of the persistent values.
#[derive(Default)]
pub struct Layout {
    /// By value; usize::MAX for temporaries.
    pub offset: Vec<usize>,
    pub bytes: usize,
    /// Bytes of guard band around each value.
    pub guard: usize,
}

impl Layout {
    pub fn new(g: &Graph, plans: &[Plan]) -> Self {
        let guard = plans.iter().map(|p| p.options().guard).max().unwrap_or(0);
        let (mut bytes, mut offset) = (0, vec![usize::MAX; g.len()]);
        for v in g.values().filter(|v| g.kind(*v) != Kind::Temp) {
            offset[v.i()] = bytes + guard;
            bytes += (g.ty(v).bytes() + 2 * guard).next_multiple_of(256);
        }
        Self { offset, bytes, guard }
    }

    /// Every value that a plan surrounds with guard bands: its place and size.
    pub fn guarded<'a>(&'a self, g: &'a Graph, plan: &'a Plan) -> impl Iterator<Item = (Value, Place, usize)> + 'a {
        let own = |v: Value| {
            let bytes = g.ty(v).bytes();
            match plan.place(v) {
                at @ Place::Arena(_) if g.kind(v) == Kind::Temp => Some((v, at, bytes)),
                at @ Place::Persistent(root) if root == v => Some((v, at, bytes)),
                _ => None,
            }
        };
        g.values().filter_map(own)
    }
}

/// Refuses another number of numbers than a value has.
pub fn expect(g: &Graph, v: Value, got: usize) -> Result<()> {
    g.own(&[v])?;
    let t = g.ty(v);
    if got == t.numel() {
        return Ok(());
    }
    Err(Error::job(format!("{} takes {:?}, {} numbers, not {got}", g.name(v), t.shape, t.numel())))
}

/// Refuses a value that is computed, and therefore cannot be set from outside.
pub fn settable(g: &Graph, v: Value) -> Result<()> {
    g.own(&[v])?;
    match g.kind(v) {
        Kind::Temp => Err(Error::job(format!("value {} is computed, and cannot be set", v.i()))),
        _ => Ok(()),
    }
}

/// The part of `bytes` that is to be a value's storage, stored as `dtype`. Fails where it is not as long as the value.
pub fn storage<'a>(g: &Graph, v: Value, dtype: DType, bytes: &'a Bytes, range: Range<usize>) -> Result<&'a [u8]> {
    settable(g, v)?;
    let (all, needed) = ((**bytes).as_ref(), g.ty(v).of(dtype).bytes());
    let part = all.get(range.clone()).filter(|part| part.len() == needed);
    part.ok_or_else(|| {
        let (name, all) = (g.name(v), all.len());
        Error::job(format!("{name} takes {needed} bytes, not those at {range:?} of {all}"))
    })
}

/// Refuses a plan that is not loaded.
pub fn loaded(plan: usize, plans: usize) -> Result<()> {
    if plan < plans {
        return Ok(());
    }
    Err(Error::job(format!("plan {plan} is not loaded: there are {plans}")))
}

/// Writes numbers as elements of a type.
pub fn encode(dtype: DType, data: Data, to: &mut [u8]) {
    fn fill<T: Pod>(to: &mut [u8], f: impl Fn(usize) -> T) {
        cast_slice_mut::<u8, T>(to).iter_mut().enumerate().for_each(|(i, x)| *x = f(i));
    }
    match (dtype, data) {
        (DType::F32, Data::F32(x)) => cast_slice_mut(to).copy_from_slice(x),
        (DType::U8, Data::U8(x)) => to.copy_from_slice(x),
        (DType::I32, Data::I32(x)) => cast_slice_mut(to).copy_from_slice(x),
        (DType::U32, Data::U32(x)) => cast_slice_mut(to).copy_from_slice(x),
        (DType::F32, x) => fill::<f32>(to, |i| x.at(i) as f32),
        (DType::F16, x) => fill(to, |i| f16::from_f32(sticky(x.at(i)))),
        (DType::BF16, x) => fill(to, |i| bf16::from_f32(sticky(x.at(i)))),
        (DType::U8, x) => fill::<u8>(to, |i| x.at(i) as u8),
        (DType::I32, x) => fill::<i32>(to, |i| x.at(i) as i32),
        (DType::U32, x) => fill::<u32>(to, |i| x.at(i) as u32),
    }
}

/// Reads elements of a type as numbers.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        DType::F32 => cast_slice::<u8, f32>(bytes).iter().map(|x| *x as f64).collect(),
        DType::F16 => cast_slice::<u8, f16>(bytes).iter().map(|x| x.to_f64()).collect(),
        DType::BF16 => cast_slice::<u8, bf16>(bytes).iter().map(|x| x.to_f64()).collect(),
        DType::U8 => bytes.iter().map(|x| *x as f64).collect(),
        DType::I32 => cast_slice::<u8, i32>(bytes).iter().map(|x| *x as f64).collect(),
        DType::U32 => cast_slice::<u8, u32>(bytes).iter().map(|x| *x as f64).collect(),
    }
}
