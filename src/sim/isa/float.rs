//! float32 and float64 arithmetic, correctly rounded (PTX ISA 9.7.3).

use super::Line;
use crate::error::Result;
use crate::sim::lanes::{Args, lanes};
use crate::sim::program::{Exec, PtxType};
use crate::sim::round::{self, ROUNDINGS, Round, flush, saturate};

/// Modifiers of f32 operations, as bits of [`crate::sim::lanes::Args::mode`]. Zero is the fast path.
const FTZ: u32 = 4;
const SAT: u32 = 8;

/// Rounding, `.ftz` and `.sat`, taken from the statement.
pub fn modifiers(l: &mut Line) -> u32 {
    let round = l.one_of(&ROUNDINGS).map_or(0, |r| r as u32);
    round | if l.take("ftz") { FTZ } else { 0 } | if l.take("sat") { SAT } else { 0 }
}

#[inline(always)]
fn direction(mode: u32) -> Round {
    [Round::Nearest, Round::Zero, Round::Down, Round::Up][mode as usize & 3]
}

#[inline(always)]
pub fn input(x: f32, mode: u32) -> f64 {
    if mode & FTZ != 0 { flush(x) as f64 } else { x as f64 }
}

/// The f32 that the modifiers make of an exact result.
#[inline(always)]
pub fn output(v: f64, mode: u32) -> f32 {
    let mut x = round::to_f32(v, direction(mode));
    if mode & FTZ != 0 {
        x = flush(x);
    }
    if mode & SAT != 0 {
        x = saturate(x);
    }
    x
}

/// An f32 operation: as the processor does it, and exactly, for modifiers.
macro_rules! f32_lanes {
    (|$a:ident| $fast:expr, $exact:expr) => {
        lanes!(|r, s, m| if s.mode == 0 {
            crate::sim::lanes::map1::<f32, f32>(r, s, m, |$a| $fast)
        } else {
            let mode = s.mode;
            crate::sim::lanes::map1::<f32, f32>(r, s, m, |a| output($exact(input(a, mode)), mode))
        })
    };
    (|$a:ident, $b:ident| $fast:expr, $exact:expr) => {
        lanes!(|r, s, m| if s.mode == 0 {
            crate::sim::lanes::map2::<f32, f32, f32>(r, s, m, |$a, $b| $fast)
        } else {
            let mode = s.mode;
            crate::sim::lanes::map2::<f32, f32, f32>(r, s, m, |a, b| {
                output($exact(input(a, mode), input(b, mode)), mode)
            })
        })
    };
    (|$a:ident, $b:ident, $c:ident| $fast:expr, $exact:expr) => {
        lanes!(|r, s, m| if s.mode == 0 {
            crate::sim::lanes::map3::<f32, f32, f32, f32>(r, s, m, |$a, $b, $c| $fast)
        } else {
            let mode = s.mode;
            crate::sim::lanes::map3::<f32, f32, f32, f32>(r, s, m, |a, b, c| {
                output($exact(input(a, mode), input(b, mode), input(c, mode)), mode)
            })
        })
    };
}

pub fn decode(l: &mut Line) -> Result<bool> {
    match l.types[..] {
        [PtxType::F32] => single(l),
        [PtxType::F64] => double(l),
        _ => Ok(false),
    }
}

fn single(l: &mut Line) -> Result<bool> {
    // These have an approximate form of their own.
    if l.mods.iter().any(|m| ["approx", "full"].contains(m)) {
        return Ok(false);
    }
    let t = PtxType::F32;
    if matches!(l.base, "min" | "max") {
        return minmax(l);
    }
    let mode = modifiers(l);
    let (n, flops, body) = match l.base {
        "add" => (2, 1, f32_lanes!(|a, b| a + b, round::add)),
        "sub" => (2, 1, f32_lanes!(|a, b| a - b, |a: f64, b: f64| round::add(a, -b))),
        "mul" => (2, 1, f32_lanes!(|a, b| a * b, round::mul)),
        "fma" | "mad" => (3, 2, f32_lanes!(|a, b, c| a.mul_add(b, c), round::fma)),
        "div" => (2, 1, f32_lanes!(|a, b| a / b, round::div)),
        "rcp" => (1, 1, f32_lanes!(|a| 1.0 / a, |a: f64| round::div(1.0, a))),
        "sqrt" => (1, 1, f32_lanes!(|a| a.sqrt(), round::sqrt)),
        // Sign operations keep the payload of a NaN.
        "neg" if mode == 0 => (1, 0, lanes!(u32 = |a: u32| a ^ 1 << 31)),
        "neg" if mode == FTZ => (1, 0, lanes!(u32 = |a: u32| flush(f32::from_bits(a)).to_bits() ^ 1 << 31)),
        "abs" if mode == 0 => (1, 0, lanes!(u32 = |a: u32| a & !(1 << 31))),
        "abs" if mode == FTZ => (1, 0, lanes!(u32 = |a: u32| flush(f32::from_bits(a)).to_bits() & !(1 << 31))),
        // The first operand gives the sign.
        "copysign" if mode == 0 => (2, 0, lanes!(u32 = |a: u32, b: u32| a & 1 << 31 | b & !(1 << 31))),
        "testp" => return testp(l),
        _ => return Ok(false),
    };
    l.map(body, t, t, n, mode, flops)
}

/// What min and max need to know of a float.
pub trait Sign: PartialOrd + Copy {
    fn nan(self) -> bool;
    fn negative(self) -> bool;
}
macro_rules! sign {
    ($($t:ty)*) => {$(
        impl Sign for $t {
            #[inline(always)]
            fn nan(self) -> bool { self.is_nan() }
            #[inline(always)]
            fn negative(self) -> bool { self.is_sign_negative() }
        }
    )*};
}
sign! { f32 f64 half::f16 half::bf16 }

/// A NaN loses against a number; -0 is less than +0.
#[inline(always)]
pub fn max<T: Sign>(a: T, b: T) -> T {
    if b.nan() || b < a || (a == b && b.negative()) { a } else { b }
}

/// A NaN loses against a number; -0 is less than +0.
#[inline(always)]
pub fn min<T: Sign>(a: T, b: T) -> T {
    if b.nan() || a < b || (a == b && a.negative()) { a } else { b }
}

fn minmax(l: &mut Line) -> Result<bool> {
    let (ftz, nan) = (l.take("ftz"), l.take("NaN"));
    let max_of = l.base == "max";
    let body = match (max_of, nan, ftz) {
        (true, false, false) => lanes!(f32 = |a: f32, b: f32| max(a, b)),
        (false, false, false) => lanes!(f32 = |a: f32, b: f32| min(a, b)),
        (true, true, false) => lanes!(
            f32 = |a: f32, b: f32| if a.is_nan() {
                a
            } else if b.is_nan() {
                b
            } else {
                max(a, b)
            }
        ),
        (false, true, false) => lanes!(
            f32 = |a: f32, b: f32| if a.is_nan() {
                a
            } else if b.is_nan() {
                b
            } else {
                min(a, b)
            }
        ),
        (true, false, true) => lanes!(f32 = |a: f32, b: f32| max(flush(a), flush(b))),
        (false, false, true) => lanes!(f32 = |a: f32, b: f32| min(flush(a), flush(b))),
        _ => return Ok(false),
    };
    l.map(body, PtxType::F32, PtxType::F32, 2, 0, 1)
}

/// testp: the class of a float. Mode: which class.
fn testp(l: &mut Line) -> Result<bool> {
    let classes = [("finite", 0), ("infinite", 1), ("number", 2), ("notanumber", 3), ("normal", 4), ("subnormal", 5)];
    let Some(mode) = l.one_of(&classes) else { return Ok(false) };
    let body = lanes!(|r, s, m| {
        let class: fn(f32) -> bool =
            [f32::is_finite, f32::is_infinite, |x: f32| !x.is_nan(), f32::is_nan, f32::is_normal, f32::is_subnormal]
                [s.mode as usize];
        let hits = crate::sim::lanes::test::<f32>(r, s, |a, _| class(a));
        r.preds[s.d as usize] = r.preds[s.d as usize] & !m | hits & m;
    });
    l.expect(2)?;
    let args = Args { d: l.dst(0, PtxType::Pred)?, a: l.src(1, PtxType::F32)?, mode, ..Args::default() };
    l.push(Exec::Lanes(body), args)
}

fn double(l: &mut Line) -> Result<bool> {
    let t = PtxType::F64;
    if l.mods.iter().any(|m| ["approx", "full"].contains(m)) {
        return Ok(false);
    }
    l.take("rn");
    let (n, flops, body) = match l.base {
        "add" => (2, 1, lanes!(f64 = |a: f64, b: f64| a + b)),
        "sub" => (2, 1, lanes!(f64 = |a: f64, b: f64| a - b)),
        "mul" => (2, 1, lanes!(f64 = |a: f64, b: f64| a * b)),
        "fma" | "mad" => (3, 2, lanes!(f64 = |a: f64, b: f64, c: f64| a.mul_add(b, c))),
        "div" => (2, 1, lanes!(f64 = |a: f64, b: f64| a / b)),
        "rcp" => (1, 1, lanes!(f64 = |a: f64| 1.0 / a)),
        "sqrt" => (1, 1, lanes!(f64 = |a: f64| a.sqrt())),
        "min" => (2, 1, lanes!(f64 = |a: f64, b: f64| min(a, b))),
        "max" => (2, 1, lanes!(f64 = |a: f64, b: f64| max(a, b))),
        "neg" => (1, 0, lanes!(u64 = |a: u64| a ^ 1 << 63)),
        "abs" => (1, 0, lanes!(u64 = |a: u64| a & !(1 << 63))),
        "copysign" => (2, 0, lanes!(u64 = |a: u64, b: u64| a & 1 << 63 | b & !(1 << 63))),
        _ => return Ok(false),
    };
    l.map(body, t, t, n, 0, flops)
}
