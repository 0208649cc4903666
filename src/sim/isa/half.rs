//! Half-precision arithmetic: f16 and bf16, alone and in pairs (PTX ISA 9.7.4).

use super::Line;
use super::float::{max, min};
use crate::error::Result;
use crate::sim::lanes::lanes;
use crate::sim::program::PtxType;
use crate::sim::round;
use ::half::{bf16, f16};

/// A 16-bit float: its exact value, and the nearest one to an exact or odd-rounded value.
trait Half: Copy {
    fn wide(self) -> f64;
    fn near(v: f64) -> Self;
    fn nan(self) -> bool;
}
impl Half for f16 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self.to_f32() as f64
    }
    #[inline(always)]
    fn near(v: f64) -> f16 {
        round::to_f16(v)
    }
    #[inline(always)]
    fn nan(self) -> bool {
        self.is_nan()
    }
}
impl Half for bf16 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self.to_f32() as f64
    }
    #[inline(always)]
    fn near(v: f64) -> bf16 {
        round::to_bf16(v)
    }
    #[inline(always)]
    fn nan(self) -> bool {
        self.is_nan()
    }
}

/// One body per type: single values and pairs.
macro_rules! for_half {
    ($ty:expr, $H:ident, |$($a:ident),*| $f:expr) => {
        match $ty {
            PtxType::F16 => { type $H = f16; lanes!(plain $H = |$($a: $H),*| $f) }
            PtxType::Bf16 => { type $H = bf16; lanes!(plain $H = |$($a: $H),*| $f) }
            PtxType::F16x2 => { type $H = f16; lanes!(plain [$H; 2] = |$($a: [$H; 2]),*| { let f = |$($a: $H),*| $f; [f($($a[0]),*), f($($a[1]),*)] }) }
            PtxType::Bf16x2 => { type $H = bf16; lanes!(plain [$H; 2] = |$($a: [$H; 2]),*| { let f = |$($a: $H),*| $f; [f($($a[0]),*), f($($a[1]),*)] }) }
            _ => return Ok(false),
        }
    };
}

#[inline(always)]
fn clamp<H: Half>(x: H, low: f64) -> H {
    if x.wide() > low { if x.wide() > 1.0 && low == 0.0 { H::near(1.0) } else { x } } else { H::near(low.max(0.0)) }
}

pub fn decode(l: &mut Line) -> Result<bool> {
    let &[ty] = &l.types[..] else { return Ok(false) };
    let pair = matches!(ty, PtxType::F16x2 | PtxType::Bf16x2) as u32 + 1;
    l.take("rn");
    let relu = l.take("relu");
    let (sat, nan, approx) = (l.take("sat"), l.take("NaN"), l.take("approx"));
    if approx {
        l.take("ftz");
    }
    let (n, flops, body) = match l.base {
        "fma" if relu => {
            (3, 2, for_half!(ty, H, |a, b, c| clamp(H::near(round::fma(a.wide(), b.wide(), c.wide())), -0.0)))
        }
        "fma" if sat => {
            (3, 2, for_half!(ty, H, |a, b, c| clamp(H::near(round::fma(a.wide(), b.wide(), c.wide())), 0.0)))
        }
        _ if relu || sat => return Ok(false),
        "fma" => (3, 2, for_half!(ty, H, |a, b, c| H::near(round::fma(a.wide(), b.wide(), c.wide())))),
        "add" => (2, 1, for_half!(ty, H, |a, b| H::near(round::add(a.wide(), b.wide())))),
        "sub" => (2, 1, for_half!(ty, H, |a, b| H::near(round::add(a.wide(), -b.wide())))),
        "mul" => (2, 1, for_half!(ty, H, |a, b| H::near(a.wide() * b.wide()))),
        "neg" => (1, 0, for_half!(ty, H, |a| -a)),
        "abs" => (1, 0, for_half!(ty, H, |a| H::near(a.wide().abs()))),
        "max" if nan => (2, 1, for_half!(ty, H, |a, b| if a.nan() || b.nan() { H::near(f64::NAN) } else { max(a, b) })),
        "min" if nan => (2, 1, for_half!(ty, H, |a, b| if a.nan() || b.nan() { H::near(f64::NAN) } else { min(a, b) })),
        "max" => (2, 1, for_half!(ty, H, |a, b| max(a, b))),
        "min" => (2, 1, for_half!(ty, H, |a, b| min(a, b))),
        "ex2" if approx => (1, 1, for_half!(ty, H, |a| H::near(a.wide().exp2()))),
        "tanh" if approx => (1, 1, for_half!(ty, H, |a| H::near(a.wide().tanh()))),
        _ => return Ok(false),
    };
    l.map(body, ty, ty, n, 0, flops * pair)
}
