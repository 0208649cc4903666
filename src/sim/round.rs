/*! Exact results and their rounding.

An operation on narrow floats is carried out in f64 and rounded to odd there: if the result is not representable, the
last bit is set. Since f64 has more than two bits beyond twice a narrower type's, rounding once more to that type in
any direction gives the correctly rounded result (Boldo and Melquiond 2008). */

use half::{bf16, f16};

/// Directions (PTX ISA 9.7.3, `.rn`, `.rz`, `.rm`, `.rp`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

pub const ROUNDINGS: [(&str, Round); 4] =
    [("rn", Round::Nearest), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];

/// `value`, the sum of what was computed and a residual of which only the sign matters, rounded to odd.
#[inline(always)]
fn odd(value: f64, residual: f64) -> f64 {
    if residual == 0.0 || !residual.is_finite() || !value.is_finite() || value.to_bits() & 1 != 0 {
        return value;
    }
    let away = (residual > 0.0) == (value > 0.0);
    f64::from_bits(if away { value.to_bits() + 1 } else { value.to_bits() - 1 })
}

#[inline(always)]
pub fn add(a: f64, b: f64) -> f64 {
    let s = a + b;
    let t = s - a;
    odd(s, (a - (s - t)) + (b - t))
}

#[inline(always)]
pub fn mul(a: f64, b: f64) -> f64 {
    // Two significands of at most 24 bits.
    a * b
}

#[inline(always)]
pub fn fma(a: f64, b: f64, c: f64) -> f64 {
    add(a * b, c)
}

#[inline(always)]
pub fn div(a: f64, b: f64) -> f64 {
    let q = a / b;
    odd(q, f64::mul_add(-q, b, a) / b)
}

#[inline(always)]
pub fn sqrt(a: f64) -> f64 {
    let r = a.sqrt();
    odd(r, f64::mul_add(-r, r, a))
}

/// To f32 in a direction. The value must be exact or rounded to odd.
#[inline(always)]
pub fn to_f32(v: f64, round: Round) -> f32 {
    let r = v as f32;
    let wide = r as f64;
    if round == Round::Nearest || wide == v || v.is_nan() {
        return r;
    }
    let (down, up) = if wide > v { (r.next_down(), r) } else { (r, r.next_up()) };
    match round {
        Round::Nearest => r,
        Round::Zero if v > 0.0 => down,
        Round::Zero => up,
        Round::Down => down,
        Round::Up => up,
    }
}

/// To f32, rounded to odd.
#[inline(always)]
fn narrow_odd(v: f64) -> f32 {
    let r = to_f32(v, Round::Zero);
    if r as f64 == v || r.is_nan() { r } else { f32::from_bits(r.to_bits() | 1) }
}

/// To the nearest f16. The value must be exact or rounded to odd.
#[inline(always)]
pub fn to_f16(v: f64) -> f16 {
    f16::from_f32(narrow_odd(v))
}

/// To the nearest bf16. The value must be exact or rounded to odd.
#[inline(always)]
pub fn to_bf16(v: f64) -> bf16 {
    bf16::from_f32(narrow_odd(v))
}

/// To f16 or bf16 toward zero.
pub fn to_f16_zero(v: f64) -> f16 {
    let h = to_f16(v);
    if h.is_nan() || h.to_f64().abs() <= v.abs() { h } else { f16::from_bits(h.to_bits() - 1) }
}

pub fn to_bf16_zero(v: f64) -> bf16 {
    let h = to_bf16(v);
    if h.is_nan() || h.to_f64().abs() <= v.abs() { h } else { bf16::from_bits(h.to_bits() - 1) }
}

/// Subnormals become zeros of their sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// `.sat`: clamped to [0, 1], NaN to zero.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// The nearest, or directed, integer of a float (`.rni`, `.rzi`, `.rmi`, `.rpi`).
#[inline(always)]
pub fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}
