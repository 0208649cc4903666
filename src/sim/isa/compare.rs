//! Comparison and selection (PTX ISA 9.7.6).

use super::integer::{for_bits, for_int};
use super::{Inst, Line};
use crate::error::{Error, Result};
use crate::sim::lanes::{Args, LaneLoop, lanes, select, test};
use crate::sim::program::{Exec, PtxType};
use crate::sim::round::flush;
use ::half::{bf16, f16};

/// How a comparison meets a predicate: `.and`, `.or`, `.xor`.
const COMBINE: [(&str, u32); 3] = [("and", 1), ("or", 2), ("xor", 3)];
/// The predicate is negated before it is combined.
const NEGATED: u32 = 4;

/// p = (a cmp b) op c and, into slot e, !(a cmp b) op c.
macro_rules! compare {
    ($t:ty, |$a:ident, $b:ident| $f:expr) => {
        lanes!(|r, s, m| {
            let hits = test::<$t>(r, s, |$a, $b| $f);
            let c = if s.mode == 0 { 0 } else { r.preds[s.c as usize] };
            let c = if s.mode & NEGATED != 0 { !c } else { c };
            let combine = |hits: u32| match s.mode & 3 {
                0 => hits,
                1 => hits & c,
                2 => hits | c,
                _ => hits ^ c,
            };
            for (slot, value) in [(s.d, combine(hits)), (s.e, combine(!hits))] {
                r.preds[slot as usize] = r.preds[slot as usize] & !m | value & m;
            }
        })
    };
}

/// Ordered and unordered comparisons of floats.
macro_rules! float_compare {
    ($t:ty, $op:expr) => {
        match $op {
            "eq" => compare!($t, |a, b| a == b),
            "ne" => compare!($t, |a, b| a != b && !a.is_nan() && !b.is_nan()),
            "lt" => compare!($t, |a, b| a < b),
            "le" => compare!($t, |a, b| a <= b),
            "gt" => compare!($t, |a, b| a > b),
            "ge" => compare!($t, |a, b| a >= b),
            "equ" => compare!($t, |a, b| a == b || a.is_nan() || b.is_nan()),
            "neu" => compare!($t, |a, b| a != b),
            "ltu" => compare!($t, |a, b| !(a >= b)),
            "leu" => compare!($t, |a, b| !(a > b)),
            "gtu" => compare!($t, |a, b| !(a <= b)),
            "geu" => compare!($t, |a, b| !(a < b)),
            "num" => compare!($t, |a, b| !a.is_nan() && !b.is_nan()),
            "nan" => compare!($t, |a, b| a.is_nan() || b.is_nan()),
            _ => return Ok(None),
        }
    };
}

/// f32 with subnormals flushed.
#[derive(Clone, Copy)]
struct Flushed(f32);
impl crate::sim::lanes::Lane for Flushed {
    type Raw = u32;
    #[inline(always)]
    fn get(raw: u32) -> Self {
        Flushed(flush(f32::from_bits(raw)))
    }
    #[inline(always)]
    fn put(self) -> u32 {
        self.0.to_bits()
    }
}
impl PartialEq for Flushed {
    #[inline(always)]
    fn eq(&self, o: &Self) -> bool {
        self.0 == o.0
    }
}
impl PartialOrd for Flushed {
    #[inline(always)]
    fn partial_cmp(&self, o: &Self) -> Option<std::cmp::Ordering> {
        self.0.partial_cmp(&o.0)
    }
}
impl Flushed {
    #[inline(always)]
    fn is_nan(self) -> bool {
        self.0.is_nan()
    }
}

// A negated comparison is the unordered one: true for NaN.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn float_body(op: &str, ty: PtxType, ftz: bool) -> Result<Option<LaneLoop>> {
    Ok(Some(match ty {
        PtxType::F32 if ftz => float_compare!(Flushed, op),
        PtxType::F32 => float_compare!(f32, op),
        PtxType::F64 => float_compare!(f64, op),
        PtxType::F16 => float_compare!(f16, op),
        PtxType::Bf16 => float_compare!(bf16, op),
        _ => return Ok(None),
    }))
}

fn int_body(op: &str, ty: PtxType) -> Result<Option<LaneLoop>> {
    Ok(Some(match op {
        "eq" => for_bits!(ty, T => compare!(T, |a, b| a == b)),
        "ne" => for_bits!(ty, T => compare!(T, |a, b| a != b)),
        "lt" | "lo" => for_int!(ty, T => compare!(T, |a, b| a < b)),
        "le" | "ls" => for_int!(ty, T => compare!(T, |a, b| a <= b)),
        "gt" | "hi" => for_int!(ty, T => compare!(T, |a, b| a > b)),
        "ge" | "hs" => for_int!(ty, T => compare!(T, |a, b| a >= b)),
        _ => return Ok(None),
    }))
}

pub fn decode(l: &mut Line) -> Result<bool> {
    match l.base {
        "selp" => selp(l),
        "slct" => slct(l),
        _ => compare(l),
    }
}

fn compare(l: &mut Line) -> Result<bool> {
    if l.mods.is_empty() {
        return Ok(false);
    }
    let op = l.mods.remove(0);
    let (combine, ftz) = (l.one_of(&COMBINE).unwrap_or(0), l.take("ftz"));
    let ty = l.ty();
    let body = if ty.is_float() { float_body(op, ty, ftz)? } else { int_body(op, ty)? };
    let Some(body) = body else { return Ok(false) };
    l.expect(3 + (combine != 0) as usize)?;
    let set = l.base == "set";
    let (d, e) = match *l.arg(0)? {
        _ if set => (l.frame.slot(PtxType::Pred), l.frame.slot(PtxType::Pred)),
        super::PtxOperand::Pair(d, e) => {
            let (d, e) = (super::PtxOperand::Name(d), super::PtxOperand::Name(e));
            (l.to(&d, PtxType::Pred)?, l.to(&e, PtxType::Pred)?)
        }
        _ => (l.dst(0, PtxType::Pred)?, l.frame.slot(PtxType::Pred)),
    };
    let (a, b) = (l.src(1, ty)?, l.src(2, ty)?);
    let (c, mode) = match combine {
        0 => (0, 0),
        op => {
            let (slot, negated) = l.pred(3)?;
            (slot, op | if negated { NEGATED } else { 0 })
        }
    };
    l.frame.push(Inst { flops: ty.is_float() as u32, ..Inst::lanes(body, Args { d, a, b, c, e, mode }) });
    if set {
        // All ones or zero as an integer, 1.0 or 0.0 as a float.
        let to = l.types[0];
        let one = match to {
            PtxType::F32 => 1f32.to_bits() as u64,
            PtxType::F16 => 0x3c00,
            PtxType::Bf16 => 0x3f80,
            PtxType::U32 | PtxType::S32 => u32::MAX as u64,
            PtxType::U16 | PtxType::S16 => u16::MAX as u64,
            _ => return Ok(false),
        };
        let (a, b) = (l.frame.constant(one, to), l.frame.constant(0, to));
        let args = Args { d: l.dst(0, to)?, a, b, c: d, ..Args::default() };
        return l.push(Exec::Lanes(lanes!(|r, s, m| select::<u32>(r, s, m))), args);
    }
    Ok(true)
}

fn selp(l: &mut Line) -> Result<bool> {
    l.expect(4)?;
    let ty = l.ty();
    let (slot, negated) = l.pred(3)?;
    let (d, a, b) = (l.dst(0, ty)?, l.src(1, ty)?, l.src(2, ty)?);
    let (a, b) = if negated { (b, a) } else { (a, b) };
    let body = match ty.is_long() {
        false => lanes!(|r, s, m| select::<u32>(r, s, m)),
        true => lanes!(|r, s, m| select::<u64>(r, s, m)),
    };
    l.push(Exec::Lanes(body), Args { d, a, b, c: slot, ..Args::default() })
}

/// slct: a if c is not negative, else b.
fn slct(l: &mut Line) -> Result<bool> {
    let &[ty, by] = &l.types[..] else { return Err(Error::usage("slct needs two types")) };
    let body = match (ty.is_long(), by) {
        (false, PtxType::S32) => lanes!(u32 = |a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
        (true, PtxType::S32) => lanes!(u64 = |a: u64, b: u64, c: i32| if c >= 0 { a } else { b }),
        (false, PtxType::F32) => lanes!(u32 = |a: u32, b: u32, c: f32| if c >= 0.0 { a } else { b }),
        (true, PtxType::F32) => lanes!(u64 = |a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b }),
        _ => return Ok(false),
    };
    l.expect(4)?;
    let args = Args { d: l.dst(0, ty)?, a: l.src(1, ty)?, b: l.src(2, ty)?, c: l.src(3, by)?, ..Args::default() };
    l.push(Exec::Lanes(body), args)
}
