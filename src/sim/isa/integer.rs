//! Integer arithmetic (PTX ISA 9.7.1).

use super::Line;
use crate::error::Result;
use crate::sim::lanes::{Args, lanes};
use crate::sim::program::{Exec, PtxType};

/// Expands to one arm per integer type: `$T` is the Rust type in `$body`. Another type makes the function return
/// that it does not know the instruction.
macro_rules! for_int {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty {
            PtxType::U16 | PtxType::B16 => {
                type $T = u16;
                $body
            }
            PtxType::S16 => {
                type $T = i16;
                $body
            }
            PtxType::U32 | PtxType::B32 => {
                type $T = u32;
                $body
            }
            PtxType::S32 => {
                type $T = i32;
                $body
            }
            PtxType::U64 | PtxType::B64 => {
                type $T = u64;
                $body
            }
            PtxType::S64 => {
                type $T = i64;
                $body
            }
            _ => return Ok(Default::default()),
        }
    };
}
pub(super) use for_int;

/// The same for what depends on the width alone.
macro_rules! for_bits {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty {
            PtxType::U16 | PtxType::S16 | PtxType::B16 => {
                type $T = u16;
                $body
            }
            PtxType::U32 | PtxType::S32 | PtxType::B32 => {
                type $T = u32;
                $body
            }
            PtxType::U64 | PtxType::S64 | PtxType::B64 => {
                type $T = u64;
                $body
            }
            _ => return Ok(Default::default()),
        }
    };
}
pub(super) use for_bits;

/// What each type multiplies in, and what a product of two has room in.
trait Product: Sized {
    fn high(a: Self, b: Self) -> Self;
}
macro_rules! product {
    ($($t:ty, $w:ty;)*) => {$(
        impl Product for $t {
            #[inline(always)]
            fn high(a: $t, b: $t) -> $t { ((a as $w * b as $w) >> <$t>::BITS) as $t }
        }
    )*};
}
product! { u16, u32; i16, i32; u32, u64; i32, i64; u64, u128; i64, i128; }

pub fn decode(l: &mut Line) -> Result<bool> {
    let ty = l.ty();
    if l.types.len() > 1 && l.base != "dp4a" {
        return Ok(false);
    }
    if l.take("wide") {
        return wide(l, ty);
    }
    let (hi, sat) = (l.take("hi"), l.take("sat"));
    l.take("lo");
    let (n, body) = match l.base {
        "add" if sat && ty == PtxType::S32 => (2, lanes!(i32 = |a: i32, b: i32| a.saturating_add(b))),
        "sub" if sat && ty == PtxType::S32 => (2, lanes!(i32 = |a: i32, b: i32| a.saturating_sub(b))),
        _ if sat => return Ok(false),
        "add" => (2, for_bits!(ty, T => lanes!(T = |a: T, b: T| a.wrapping_add(b)))),
        "sub" => (2, for_bits!(ty, T => lanes!(T = |a: T, b: T| a.wrapping_sub(b)))),
        "mul" if hi => (2, for_int!(ty, T => lanes!(T = |a: T, b: T| T::high(a, b)))),
        "mul" => (2, for_bits!(ty, T => lanes!(T = |a: T, b: T| a.wrapping_mul(b)))),
        "mad" if hi => (3, for_int!(ty, T => lanes!(T = |a: T, b: T, c: T| T::high(a, b).wrapping_add(c)))),
        "mad" => (3, for_bits!(ty, T => lanes!(T = |a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c)))),
        // Division by zero is unspecified; the device gives all ones.
        "div" => (2, for_int!(ty, T => lanes!(T = |a: T, b: T| if b == 0 { !0 } else { a.wrapping_div(b) }))),
        "rem" => (2, for_int!(ty, T => lanes!(T = |a: T, b: T| if b == 0 { !0 } else { a.wrapping_rem(b) }))),
        "min" => (2, for_int!(ty, T => lanes!(T = |a: T, b: T| a.min(b)))),
        "max" => (2, for_int!(ty, T => lanes!(T = |a: T, b: T| a.max(b)))),
        "sad" => (3, for_int!(ty, T => lanes!(T = |a: T, b: T, c: T| c.wrapping_add(a.max(b).wrapping_sub(a.min(b)))))),
        "neg" => (1, for_bits!(ty, T => lanes!(T = |a: T| (0 as T).wrapping_sub(a)))),
        "abs" if ty.is_signed() => (1, for_int!(ty, T => lanes!(T = |a: T| a.max((0 as T).wrapping_sub(a))))),
        "dp4a" => return dp4a(l),
        _ => return Ok(false),
    };
    l.map(body, ty, ty, n, 0, 0)
}

/// mul.wide and mad.wide: the result has twice the bits.
fn wide(l: &mut Line, ty: PtxType) -> Result<bool> {
    let mad = l.base == "mad";
    let (to, body) = match (ty, mad) {
        (PtxType::U16, false) => (PtxType::U32, lanes!(u32 = |a: u16, b: u16| a as u32 * b as u32)),
        (PtxType::S16, false) => (PtxType::S32, lanes!(i32 = |a: i16, b: i16| a as i32 * b as i32)),
        (PtxType::U32, false) => (PtxType::U64, lanes!(u64 = |a: u32, b: u32| a as u64 * b as u64)),
        (PtxType::S32, false) => (PtxType::S64, lanes!(i64 = |a: i32, b: i32| a as i64 * b as i64)),
        (PtxType::U16, true) => {
            (PtxType::U32, lanes!(u32 = |a: u16, b: u16, c: u32| (a as u32 * b as u32).wrapping_add(c)))
        }
        (PtxType::S16, true) => {
            (PtxType::S32, lanes!(i32 = |a: i16, b: i16, c: i32| (a as i32 * b as i32).wrapping_add(c)))
        }
        (PtxType::U32, true) => {
            (PtxType::U64, lanes!(u64 = |a: u32, b: u32, c: u64| (a as u64 * b as u64).wrapping_add(c)))
        }
        (PtxType::S32, true) => {
            (PtxType::S64, lanes!(i64 = |a: i32, b: i32, c: i64| (a as i64 * b as i64).wrapping_add(c)))
        }
        _ => return Ok(false),
    };
    l.expect(3 + mad as usize)?;
    let mut args = Args { d: l.dst(0, to)?, a: l.src(1, ty)?, b: l.src(2, ty)?, ..Args::default() };
    if mad {
        args.c = l.src(3, to)?;
    }
    l.push(Exec::Lanes(body), args)
}

/// Dot product of four bytes, added to 32 bits.
fn dp4a(l: &mut Line) -> Result<bool> {
    let body = match l.types[..] {
        [PtxType::U32, PtxType::U32] => lanes!(
            u32 = |a: u32, b: u32, c: u32| {
                let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
                (0..4).fold(c, |c, i| c.wrapping_add(a[i] as u32 * b[i] as u32))
            }
        ),
        [PtxType::S32, PtxType::S32] => lanes!(
            u32 = |a: u32, b: u32, c: u32| {
                let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
                (0..4).fold(c, |c, i| c.wrapping_add((a[i] as i8 as i32 * b[i] as i8 as i32) as u32))
            }
        ),
        _ => return Ok(false),
    };
    l.map(body, PtxType::B32, PtxType::B32, 3, 0, 0)
}
