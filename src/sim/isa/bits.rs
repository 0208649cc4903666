//! Logic, shifts and bit fields (PTX ISA 9.7.1.15 on, 9.7.8).

use super::Line;
use super::integer::{for_bits, for_int};
use crate::error::{Error, Result};
use crate::sim::lanes::{Args, lanes, map4};
use crate::sim::program::{Exec, PtxType};

pub fn decode(l: &mut Line) -> Result<bool> {
    let ty = l.ty();
    if ty == PtxType::Pred {
        return predicate(l);
    }
    match l.base {
        "and" => {
            let body = for_bits!(ty, T => lanes!(T = |a: T, b: T| a & b));
            l.map(body, ty, ty, 2, 0, 0)
        }
        "or" => {
            let body = for_bits!(ty, T => lanes!(T = |a: T, b: T| a | b));
            l.map(body, ty, ty, 2, 0, 0)
        }
        "xor" => {
            let body = for_bits!(ty, T => lanes!(T = |a: T, b: T| a ^ b));
            l.map(body, ty, ty, 2, 0, 0)
        }
        "not" => {
            let body = for_bits!(ty, T => lanes!(T = |a: T| !a));
            l.map(body, ty, ty, 1, 0, 0)
        }
        "cnot" => {
            let body = for_bits!(ty, T => lanes!(T = |a: T| (a == 0) as T));
            l.map(body, ty, ty, 1, 0, 0)
        }
        "shl" => {
            let body = for_bits!(ty, T => lanes!(T = |a: T, n: u32| if n < T::BITS { a << n } else { 0 }));
            shift(l, ty, body)
        }
        // A shift past the width leaves zeros, or the sign.
        "shr" => {
            let body = for_int!(ty, T => lanes!(T = |a: T, n: u32| {
                if n < T::BITS { a >> n } else { a >> (T::BITS - 1) >> (T::MIN == 0) as u32 }
            }));
            shift(l, ty, body)
        }
        "shf" => funnel(l),
        "prmt" => permute(l),
        "lop3" => lop3(l),
        "popc" => count(l, ty, lanes!(u32 = |a: u32| a.count_ones()), lanes!(u32 = |a: u64| a.count_ones())),
        "clz" => count(l, ty, lanes!(u32 = |a: u32| a.leading_zeros()), lanes!(u32 = |a: u64| a.leading_zeros())),
        "brev" => {
            let body = for_bits!(ty, T => lanes!(T = |a: T| a.reverse_bits()));
            l.map(body, ty, ty, 1, 0, 0)
        }
        "bfind" => bfind(l, ty),
        "bfe" => {
            let body = match ty {
                PtxType::U32 => lanes!(u32 = |a: u32, p: u32, n: u32| field(a as u64, p, n, 32, false) as u32),
                PtxType::S32 => lanes!(u32 = |a: u32, p: u32, n: u32| field(a as u64, p, n, 32, true) as u32),
                PtxType::U64 => lanes!(u64 = |a: u64, p: u32, n: u32| field(a, p, n, 64, false)),
                PtxType::S64 => lanes!(u64 = |a: u64, p: u32, n: u32| field(a, p, n, 64, true)),
                _ => return Ok(false),
            };
            l.expect(4)?;
            let (d, a) = (l.dst(0, ty)?, l.src(1, ty)?);
            let (b, c) = (l.src(2, PtxType::U32)?, l.src(3, PtxType::U32)?);
            l.push(Exec::Lanes(body), Args { d, a, b, c, ..Args::default() })
        }
        "bfi" => {
            let body = match ty {
                PtxType::B32 => lanes!(|r, s, m| map4::<u32, u32>(r, s, m, |a, b, p, n| {
                    insert(a as u64, b as u64, p, n, 32) as u32
                })),
                PtxType::B64 => lanes!(|r, s, m| map4::<u64, u32>(r, s, m, |a, b, p, n| insert(a, b, p, n, 64))),
                _ => return Ok(false),
            };
            l.expect(5)?;
            let (d, a, b) = (l.dst(0, ty)?, l.src(1, ty)?, l.src(2, ty)?);
            let (c, e) = (l.src(3, PtxType::U32)?, l.src(4, PtxType::U32)?);
            l.push(Exec::Lanes(body), Args { d, a, b, c, e, mode: 0 })
        }
        _ => Ok(false),
    }
}

/// Logic on predicates: whole masks.
fn predicate(l: &mut Line) -> Result<bool> {
    let body = match l.base {
        "and" => lanes!(|r, s, m| {
            let v = r.preds[s.a as usize] & r.preds[s.b as usize];
            r.preds[s.d as usize] = r.preds[s.d as usize] & !m | v & m;
        }),
        "or" => lanes!(|r, s, m| {
            let v = r.preds[s.a as usize] | r.preds[s.b as usize];
            r.preds[s.d as usize] = r.preds[s.d as usize] & !m | v & m;
        }),
        "xor" => lanes!(|r, s, m| {
            let v = r.preds[s.a as usize] ^ r.preds[s.b as usize];
            r.preds[s.d as usize] = r.preds[s.d as usize] & !m | v & m;
        }),
        "not" => lanes!(|r, s, m| {
            let v = !r.preds[s.a as usize];
            r.preds[s.d as usize] = r.preds[s.d as usize] & !m | v & m;
        }),
        _ => return Ok(false),
    };
    let unary = l.base == "not";
    l.expect(3 - unary as usize)?;
    let mut args = Args { d: l.dst(0, PtxType::Pred)?, a: l.src(1, PtxType::Pred)?, ..Args::default() };
    if !unary {
        args.b = l.src(2, PtxType::Pred)?;
    }
    l.push(Exec::Lanes(body), args)
}

fn shift(l: &mut Line, ty: PtxType, body: crate::sim::lanes::LaneLoop) -> Result<bool> {
    l.expect(3)?;
    let args = Args { d: l.dst(0, ty)?, a: l.src(1, ty)?, b: l.src(2, PtxType::U32)?, ..Args::default() };
    l.push(Exec::Lanes(body), args)
}

fn count(
    l: &mut Line,
    ty: PtxType,
    word: crate::sim::lanes::LaneLoop,
    long: crate::sim::lanes::LaneLoop,
) -> Result<bool> {
    l.map(if ty.is_long() { long } else { word }, PtxType::U32, ty, 1, 0, 0)
}

/// shf: 32 bits out of 64, the amount clamped to 32 or taken modulo 32.
fn funnel(l: &mut Line) -> Result<bool> {
    let (left, right) = (l.take("l"), l.take("r"));
    let (wrap, clamp) = (l.take("wrap"), l.take("clamp"));
    if left == right || wrap == clamp {
        return Ok(false);
    }
    let body = match (left, wrap) {
        (true, true) => lanes!(u32 = |a: u32, b: u32, n: u32| ((join(a, b) << (n & 31)) >> 32) as u32),
        (true, false) => lanes!(u32 = |a: u32, b: u32, n: u32| ((join(a, b) << n.min(32)) >> 32) as u32),
        (false, true) => lanes!(u32 = |a: u32, b: u32, n: u32| (join(a, b) >> (n & 31)) as u32),
        (false, false) => lanes!(u32 = |a: u32, b: u32, n: u32| (join(a, b) >> n.min(32)) as u32),
    };
    l.map(body, PtxType::B32, PtxType::B32, 3, 0, 0)
}

#[inline(always)]
fn join(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// prmt: four bytes picked from eight; bit 3 of a selector replicates the byte's sign.
fn permute(l: &mut Line) -> Result<bool> {
    let body = if l.take("f4e") {
        lanes!(u32 = |a: u32, b: u32, c: u32| (join(a, b) >> (8 * (c & 3))) as u32)
    } else if l.take("rc8") {
        lanes!(u32 = |a: u32, _b: u32, c: u32| (a >> (8 * (c & 3)) & 0xff) * 0x0101_0101)
    } else {
        lanes!(
            u32 = |a: u32, b: u32, c: u32| {
                let bytes = join(a, b);
                (0..4).fold(0, |d, i| {
                    let pick = c >> (4 * i) & 0xf;
                    let byte = (bytes >> (8 * (pick & 7))) as u8;
                    let byte = if pick & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
                    d | (byte as u32) << (8 * i)
                })
            }
        )
    };
    l.map(body, PtxType::B32, PtxType::B32, 3, 0, 0)
}

/// lop3: any function of three bits, given as its table.
fn lop3(l: &mut Line) -> Result<bool> {
    l.expect(5)?;
    let body = lanes!(|r, s, m| {
        let table = s.mode;
        crate::sim::lanes::map3::<u32, u32, u32, u32>(r, s, m, |a, b, c| {
            (0..8).fold(0, |d, i| {
                let pick = |bit: u32, v: u32| if i >> bit & 1 != 0 { v } else { !v };
                let hit = pick(2, a) & pick(1, b) & pick(0, c);
                d | if table >> i & 1 != 0 { hit } else { 0 }
            })
        })
    });
    let mode = l.literal(4)? as u32;
    let (d, a) = (l.dst(0, PtxType::B32)?, l.src(1, PtxType::B32)?);
    let (b, c) = (l.src(2, PtxType::B32)?, l.src(3, PtxType::B32)?);
    l.push(Exec::Lanes(body), Args { d, a, b, c, mode, e: 0 })
}

/// bfind: place of the highest bit that is not sign, or how far to shift it up; all ones if there is none.
fn bfind(l: &mut Line, ty: PtxType) -> Result<bool> {
    let body = match (ty, l.take("shiftamt")) {
        (PtxType::U32, false) => lanes!(u32 = |a: u32| 31u32.wrapping_sub(a.leading_zeros())),
        (PtxType::U32, true) => lanes!(u32 = |a: u32| if a == 0 { !0 } else { a.leading_zeros() }),
        (PtxType::S32, false) => lanes!(u32 = |a: i32| 31u32.wrapping_sub((a ^ a >> 31).leading_zeros())),
        (PtxType::S32, true) => lanes!(
            u32 = |a: i32| match (a ^ a >> 31).leading_zeros() {
                32 => !0,
                n => n,
            }
        ),
        (PtxType::U64, false) => lanes!(u32 = |a: u64| 63u32.wrapping_sub(a.leading_zeros())),
        (PtxType::U64, true) => lanes!(u32 = |a: u64| if a == 0 { !0 } else { a.leading_zeros() }),
        (PtxType::S64, false) => lanes!(u32 = |a: i64| 63u32.wrapping_sub((a ^ a >> 63).leading_zeros())),
        _ => return Err(Error::usage("the simulator does not know this instruction")),
    };
    l.map(body, PtxType::U32, ty, 1, 0, 0)
}

/// bfe: `n` bits from bit `p`, extended by zeros or by the field's sign.
#[inline(always)]
fn field(a: u64, p: u32, n: u32, width: u32, signed: bool) -> u64 {
    let (p, n) = (p & 255, n & 255);
    if n == 0 {
        return 0;
    }
    let top = (p + n - 1).min(width - 1);
    let sign = signed && a >> top & 1 != 0;
    let fill = if sign { u64::MAX } else { 0 };
    if p >= width {
        return fill;
    }
    let kept = top - p + 1;
    let mask = u64::MAX >> (64 - kept);
    a >> p & mask | fill & !mask
}

/// bfi: the low `n` bits of `a` over `b` from bit `p`.
#[inline(always)]
fn insert(a: u64, b: u64, p: u32, n: u32, width: u32) -> u64 {
    let (p, n) = (p & 255, (n & 255).min(64));
    if p >= width || n == 0 {
        return b;
    }
    let mask = (u64::MAX >> (64 - n)) << p;
    b & !mask | a << p & mask
}
