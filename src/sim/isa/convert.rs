//! Conversion, moves, packing, addresses (PTX ISA 9.7.9: mov, cvt, cvta, isspacep).

use super::float::{input, modifiers, output};
use super::integer::for_int;
use super::{Inst, Line, PtxOperand};
use crate::error::{Error, Result};
use crate::sim::lanes::{Args, LaneLoop, lanes, map4};
use crate::sim::memory;
use crate::sim::program::{Exec, PtxType, Space};
use crate::sim::round::{self, Round};
use ::half::{bf16, f16};

/// The low half of a 64-bit register.
pub fn narrow() -> LaneLoop {
    lanes!(u32 = |a: u64| a as u32)
}

pub fn decode(l: &mut Line) -> Result<bool> {
    match l.base {
        "mov" => mov(l),
        "cvta" => cvta(l),
        _ => cvt(l),
    }
}

fn mov(l: &mut Line) -> Result<bool> {
    l.expect(2)?;
    let ty = l.ty();
    if let PtxOperand::List(parts) = l.arg(1)?.clone() {
        return pack(l, ty, &parts);
    }
    if let PtxOperand::List(parts) = l.arg(0)?.clone() {
        return unpack(l, ty, &parts);
    }
    let d = l.dst(0, ty)?;
    if let PtxOperand::Name("%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo") = *l.arg(1)? {
        return l.push(Exec::Clock { long: ty.is_long() }, Args { d, ..Args::default() });
    }
    if ty == PtxType::Pred {
        // A predicate constant is written as a number.
        if let PtxOperand::Name(word @ ("0" | "1")) = *l.arg(1)? {
            let body = lanes!(|r, s, m| {
                let p = &mut r.preds[s.d as usize];
                *p = if s.mode != 0 { *p | m } else { *p & !m };
            });
            return l.push(Exec::Lanes(body), Args { d, mode: (word == "1") as u32, ..Args::default() });
        }
        let a = l.src(1, ty)?;
        let body = lanes!(|r, s, m| {
            let v = r.preds[s.a as usize];
            r.preds[s.d as usize] = r.preds[s.d as usize] & !m | v & m;
        });
        return l.push(Exec::Lanes(body), Args { d, a, ..Args::default() });
    }
    let a = l.src(1, ty)?;
    let body = if ty.is_long() { lanes!(u64 = |a: u64| a) } else { lanes!(u32 = |a: u32| a) };
    l.push(Exec::Lanes(body), Args { d, a, ..Args::default() })
}

fn pack<'a>(l: &mut Line<'_, 'a>, ty: PtxType, parts: &[PtxOperand<'a>]) -> Result<bool> {
    let part = match (ty.bytes(), parts.len()) {
        (4, 2) | (8, 4) => PtxType::B16,
        (8, 2) => PtxType::B32,
        (2, 2) | (4, 4) => PtxType::B8,
        _ => return Ok(false),
    };
    let body = match (ty.bytes(), parts.len()) {
        (2, 2) => lanes!(u32 = |a: u8, b: u8| a as u32 | (b as u32) << 8),
        (4, 2) => lanes!(u32 = |a: u16, b: u16| a as u32 | (b as u32) << 16),
        (8, 2) => lanes!(u64 = |a: u32, b: u32| a as u64 | (b as u64) << 32),
        (4, 4) => lanes!(|r, s, m| map4::<u32, u32>(r, s, m, |a, b, c, e| {
            u32::from_le_bytes([a as u8, b as u8, c as u8, e as u8])
        })),
        _ => lanes!(|r, s, m| {
            let w = [s.a, s.b, s.c, s.e].map(|i| r.words[i as usize].0);
            let mut out = [0; 32];
            for l in 0..32 {
                out[l] = (0..4).fold(0, |d, i| d | ((w[i][l] & 0xffff) as u64) << (16 * i));
            }
            r.longs[s.d as usize].blend(&out, m);
        }),
    };
    let mut args = Args { d: l.dst(0, ty)?, ..Args::default() };
    for (slot, p) in [&mut args.a, &mut args.b, &mut args.c, &mut args.e].into_iter().zip(parts) {
        *slot = l.from(p, part)?;
    }
    l.push(Exec::Lanes(body), args)
}

fn unpack<'a>(l: &mut Line<'_, 'a>, ty: PtxType, parts: &[PtxOperand<'a>]) -> Result<bool> {
    let bits = 8 * ty.bytes() as u32 / parts.len() as u32;
    let part = match bits {
        8 => PtxType::B8,
        16 => PtxType::B16,
        32 => PtxType::B32,
        _ => return Ok(false),
    };
    let a = l.src(1, ty)?;
    for (i, p) in parts.iter().enumerate() {
        if matches!(p, PtxOperand::Name("_")) {
            continue;
        }
        let body = if ty.is_long() {
            lanes!(|r, s, m| {
                let mode = s.mode;
                crate::sim::lanes::map1::<u32, u64>(r, s, m, |a| (a >> (mode & 63)) as u32 & (u32::MAX >> (mode >> 8)))
            })
        } else {
            lanes!(|r, s, m| {
                let mode = s.mode;
                crate::sim::lanes::map1::<u32, u32>(r, s, m, |a| a >> (mode & 63) & (u32::MAX >> (mode >> 8)))
            })
        };
        let d = l.to(p, part)?;
        let mode = (i as u32 * bits) | ((32 - bits) << 8);
        l.frame.push(Inst::lanes(body, Args { d, a, mode, ..Args::default() }));
    }
    Ok(true)
}

/// Between a space's own addresses and generic ones.
fn cvta(l: &mut Line) -> Result<bool> {
    l.expect(2)?;
    let to = l.take("to");
    let base = memory::generic_base(l.space());
    if !l.ty().is_long() {
        return Ok(false);
    }
    let (d, a) = (l.dst(0, PtxType::U64)?, l.src(1, PtxType::U64)?);
    let b = l.frame.constant(if to { base.wrapping_neg() } else { base }, PtxType::U64);
    // A null pointer stays null in every space.
    let body = lanes!(u64 = |a: u64, b: u64| a.wrapping_add(b));
    l.push(Exec::Lanes(body), Args { d, a, b, ..Args::default() })
}

/// Expands to one arm per integer type, bytes included.
macro_rules! for_any_int {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty {
            PtxType::U8 | PtxType::B8 => {
                type $T = u8;
                $body
            }
            PtxType::S8 => {
                type $T = i8;
                $body
            }
            _ => for_int!($ty, $T => $body),
        }
    };
}

/// A float as its exact value.
trait Exact: Copy {
    fn exact(self) -> f64;
}
macro_rules! exact {
    ($($t:ty, |$x:ident| $e:expr;)*) => {$(
        impl Exact for $t {
            #[inline(always)]
            fn exact(self) -> f64 { let $x = self; $e }
        }
    )*};
}
exact! {
    f16, |x| x.to_f32() as f64;
    bf16, |x| x.to_f32() as f64;
    f32, |x| x as f64;
    f64, |x| x;
    // 64-bit integers are rounded to odd: to even first, then the last bit set if something was lost.
    u64, |x| if x >> 53 == 0 { x as f64 } else { (x & !0x7ff | if x & 0x7ff != 0 { 0x800 } else { 0 }) as f64 };
    i64, |x| x.unsigned_abs().exact().copysign(x as f64);
    u8, |x| x as f64; i8, |x| x as f64; u16, |x| x as f64; i16, |x| x as f64; u32, |x| x as f64; i32, |x| x as f64;
}

macro_rules! for_float {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty {
            PtxType::F16 => {
                type $T = f16;
                $body
            }
            PtxType::Bf16 => {
                type $T = bf16;
                $body
            }
            PtxType::F32 => {
                type $T = f32;
                $body
            }
            PtxType::F64 => {
                type $T = f64;
                $body
            }
            _ => return Ok(Default::default()),
        }
    };
}

const INTEGRAL: [(&str, Round); 4] =
    [("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)];
const TO_INTEGRAL: u32 = 16;
const RELU: u32 = 32;

#[inline(always)]
fn integral(v: f64, mode: u32) -> f64 {
    round::integral(v, [Round::Nearest, Round::Zero, Round::Down, Round::Up][mode as usize >> 6 & 3])
}

fn cvt(l: &mut Line) -> Result<bool> {
    let &[to, from] = &l.types[..] else { return Ok(false) };
    let whole = l.one_of(&INTEGRAL);
    let mut mode = modifiers(l);
    if let Some(r) = whole {
        mode |= TO_INTEGRAL | (r as u32) << 6;
    }
    if l.take("relu") {
        mode |= RELU;
    }
    if matches!(to, PtxType::F16x2 | PtxType::Bf16x2) {
        return pair(l, to, mode);
    }
    if to == PtxType::Tf32 {
        return tf32(l);
    }
    let sat = mode & 8 != 0;
    let body = match (to.is_float(), from.is_float()) {
        (false, false) if sat => saturated(to, from)?,
        (false, false) => truncated(to, from)?,
        (false, true) => to_int(to, from)?,
        (true, false) => from_int(to, from, mode)?,
        (true, true) => between(to, from)?,
    };
    let Some(body) = body else { return Ok(false) };
    l.expect(2)?;
    let (d, a) = (l.dst(0, to)?, l.src(1, from)?);
    l.frame.push(Inst::lanes(body, Args { d, a, mode, ..Args::default() }));
    // A signed result fills the register it is in.
    let body = match to {
        PtxType::S8 => lanes!(i32 = |a: i8| a as i32),
        PtxType::S16 if l.register_bytes(0) == 4 => lanes!(i32 = |a: i16| a as i32),
        _ => return Ok(true),
    };
    l.push(Exec::Lanes(body), Args { d, a: d, ..Args::default() })
}

fn truncated(to: PtxType, from: PtxType) -> Result<Option<LaneLoop>> {
    // What is dropped does not depend on the result's sign, and 64 bits are not extended.
    let from = if from.is_long() { PtxType::U64 } else { from };
    Ok(Some(for_any_int!(from, S => match to.bytes() {
        1 => lanes!(u8 = |a: S| a as u8),
        2 => lanes!(u16 = |a: S| a as u16),
        4 => lanes!(u32 = |a: S| a as u32),
        _ => lanes!(u64 = |a: S| a as u64),
    })))
}

fn saturated(to: PtxType, from: PtxType) -> Result<Option<LaneLoop>> {
    Ok(Some(for_any_int!(from, S => for_any_int!(to, D => {
        lanes!(plain D = |a: S| (a as i128).clamp(D::MIN as i128, D::MAX as i128) as D)
    }))))
}

/// Float to integer: clamped to the range; NaN is zero, or the top bit where either side has 64 bits.
fn to_int(to: PtxType, from: PtxType) -> Result<Option<LaneLoop>> {
    Ok(Some(for_float!(from, S => for_any_int!(to, D => lanes!(|r, s, m| {
        let mode = s.mode;
        crate::sim::lanes::map1::<D, S>(r, s, m, |a| {
            if a.is_nan() && (D::BITS == 64 || size_of::<S>() == 8) {
                return (1 as D) << (D::BITS - 1);
            }
            let v = if size_of::<S>() == 4 { input(a.exact() as f32, mode) } else { a.exact() };
            integral(v, mode) as D
        })
    })))))
}

fn from_int(to: PtxType, from: PtxType, mode: u32) -> Result<Option<LaneLoop>> {
    Ok(Some(for_any_int!(from, S => match to {
        PtxType::F32 if mode == 0 => lanes!(f32 = |a: S| a as f32),
        PtxType::F32 => lanes!(|r, s, m| {
            let mode = s.mode;
            crate::sim::lanes::map1::<f32, S>(r, s, m, |a| output(a.exact(), mode))
        }),
        PtxType::F64 if mode == 0 => lanes!(f64 = |a: S| a as f64),
        PtxType::F16 if mode == 0 => lanes!(plain f16 = |a: S| round::to_f16(a.exact())),
        PtxType::Bf16 if mode == 0 => lanes!(plain bf16 = |a: S| round::to_bf16(a.exact())),
        _ => return Ok(None),
    })))
}

/// What `.rni` and its kin and `.ftz` make of an input.
#[inline(always)]
fn prepared<S: Exact>(a: S, mode: u32) -> f64 {
    let v = if size_of::<S>() == 4 { input(a.exact() as f32, mode) } else { a.exact() };
    if mode & TO_INTEGRAL != 0 { integral(v, mode) } else { v }
}

#[inline(always)]
fn to_half<H>(v: f64, mode: u32, near: impl Fn(f64) -> H, zero: impl Fn(f64) -> H) -> H {
    let v = if mode & RELU != 0 && v <= 0.0 { 0.0 } else { v };
    let v = if mode & 8 != 0 { if v > 0.0 { v.min(1.0) } else { 0.0 } } else { v };
    if mode & 3 == Round::Zero as u32 { zero(v) } else { near(v) }
}

fn between(to: PtxType, from: PtxType) -> Result<Option<LaneLoop>> {
    Ok(Some(match (to, from) {
        (PtxType::F32, PtxType::Bf16) => lanes!(f32 = |a: bf16| a.to_f32()),
        (PtxType::F32, PtxType::F16) => lanes!(f32 = |a: f16| a.to_f32()),
        (PtxType::F64, PtxType::F32) => lanes!(f64 = |a: f32| a as f64),
        (PtxType::F32, _) => for_float!(from, S => lanes!(|r, s, m| {
            let mode = s.mode;
            crate::sim::lanes::map1::<f32, S>(r, s, m, |a| output(prepared(a, mode), mode))
        })),
        (PtxType::F64, _) => for_float!(from, S => lanes!(|r, s, m| {
            let mode = s.mode;
            crate::sim::lanes::map1::<f64, S>(r, s, m, |a| prepared(a, mode))
        })),
        (PtxType::F16, _) => for_float!(from, S => lanes!(|r, s, m| {
            let mode = s.mode;
            crate::sim::lanes::map1::<f16, S>(r, s, m, |a| {
                to_half(prepared(a, mode), mode, round::to_f16, round::to_f16_zero)
            })
        })),
        (PtxType::Bf16, _) => for_float!(from, S => lanes!(|r, s, m| {
            let mode = s.mode;
            crate::sim::lanes::map1::<bf16, S>(r, s, m, |a| {
                to_half(prepared(a, mode), mode, round::to_bf16, round::to_bf16_zero)
            })
        })),
        _ => return Ok(None),
    }))
}

/// Two f32 to a pair: the first becomes the upper half.
fn pair(l: &mut Line, to: PtxType, mode: u32) -> Result<bool> {
    let body = match to {
        PtxType::F16x2 => lanes!(|r, s, m| {
            let mode = s.mode;
            crate::sim::lanes::map2::<[f16; 2], f32, f32>(r, s, m, |a, b| {
                [b, a].map(|x| to_half(x as f64, mode, round::to_f16, round::to_f16_zero))
            })
        }),
        _ => lanes!(|r, s, m| {
            let mode = s.mode;
            crate::sim::lanes::map2::<[bf16; 2], f32, f32>(r, s, m, |a, b| {
                [b, a].map(|x| to_half(x as f64, mode, round::to_bf16, round::to_bf16_zero))
            })
        }),
    };
    if l.types[1] != PtxType::F32 {
        return Ok(false);
    }
    l.map(body, to, PtxType::F32, 2, mode, 0)
}

/// To the 10-bit significand of tf32: `.rna` rounds halves away from zero, `.rn` to even.
fn tf32(l: &mut Line) -> Result<bool> {
    let body = if l.take("rna") {
        lanes!(u32 = |a: u32| if f32::from_bits(a).is_nan() { 0x7fff_ffff } else { a.wrapping_add(0x1000) & !0x1fff })
    } else {
        lanes!(
            u32 = |a: u32| {
                if f32::from_bits(a).is_nan() { 0x7fff_ffff } else { a.wrapping_add(0xfff + (a >> 13 & 1)) & !0x1fff }
            }
        )
    };
    l.map(body, PtxType::B32, PtxType::F32, 1, 0, 0)
}

/// isspacep: whether a generic address is in a space.
pub fn isspacep(l: &mut Line) -> Result<bool> {
    l.expect(2)?;
    let space = l.space();
    let body = lanes!(|r, s, m| {
        let a = &r.longs[s.a as usize].0;
        let hits = (0..32).fold(0, |h, l| h | ((memory::space_of(a[l]) as u32 == s.mode) as u32) << l);
        r.preds[s.d as usize] = r.preds[s.d as usize] & !m | hits & m;
    });
    if space == Space::Generic {
        return Err(Error::usage("isspacep needs a state space"));
    }
    let args = Args { d: l.dst(0, PtxType::Pred)?, a: l.src(1, PtxType::U64)?, mode: space as u32, ..Args::default() };
    l.push(Exec::Lanes(body), args)
}
