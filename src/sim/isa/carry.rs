//! Extended precision (PTX ISA 9.7.2): additions and multiply-adds that set and use a carry, which is a predicate.

use super::Line;
use crate::error::Result;
use crate::sim::lanes::{Args, Bank, Lane, LaneLoop, Regs, WARP, lanes};
use crate::sim::program::{Exec, PtxType};

/// Mode: what is computed, and whether the carry is read and written.
const SUB: u32 = 1;
const LOW: u32 = 2;
const HIGH: u32 = 3;
const READS: u32 = 4;
const WRITES: u32 = 8;

pub fn decode(l: &mut Line) -> Result<bool> {
    let (writes, hi) = (l.take("cc"), l.take("hi"));
    l.take("lo");
    let (kind, reads) = match l.base {
        "add" | "addc" => (0, l.base == "addc"),
        "sub" | "subc" => (SUB, l.base == "subc"),
        "mad" | "madc" => (if hi { HIGH } else { LOW }, l.base == "madc"),
        _ => return Ok(false),
    };
    if !reads && !writes {
        return Ok(false);
    }
    let ty = l.ty();
    let body: LaneLoop = match ty {
        PtxType::U32 | PtxType::S32 | PtxType::B32 if !(hi && ty == PtxType::S32) => {
            lanes!(plain | r, s, m | extended::<u32>(r, s, m, |a| a as u128, |v| v as u32))
        }
        PtxType::U64 | PtxType::S64 | PtxType::B64 if !(hi && ty == PtxType::S64) => {
            lanes!(plain | r, s, m | extended::<u64>(r, s, m, |a| a as u128, |v| v as u64))
        }
        _ => return Ok(false),
    };
    let sources = if matches!(l.base, "mad" | "madc") { 3 } else { 2 };
    l.expect(sources + 1)?;
    let mode = kind | if reads { READS } else { 0 } | if writes { WRITES } else { 0 };
    let mut args = Args { d: l.dst(0, ty)?, a: l.src(1, ty)?, b: l.src(2, ty)?, e: l.frame.carry(), c: 0, mode };
    if sources == 3 {
        args.c = l.src(3, ty)?;
    }
    l.push(Exec::Lanes(body), args)
}

fn extended<T: Lane<Raw = T> + Bank>(
    r: &mut Regs,
    s: &Args,
    mask: u32,
    wide: impl Fn(T) -> u128,
    narrow: impl Fn(u128) -> T,
) {
    let bits = 8 * size_of::<T>() as u32;
    let row = |slot: u32| &T::rows(r)[slot as usize].0;
    let (a, b, c) = (row(s.a), row(s.b), row(s.c));
    let carry = r.preds[s.e as usize];
    let (mut out, mut carries) = ([T::default(); WARP], 0);
    for l in 0..WARP {
        let (a, b, c) = (wide(a[l]), wide(b[l]), wide(c[l]));
        let one = (s.mode & READS != 0 && carry >> l & 1 != 0) as u128;
        let low = |v: u128| v & (u128::MAX >> (128 - bits));
        let v = match s.mode & 3 {
            // A borrow shows in the bits above, as a carry does.
            SUB => a.wrapping_sub(b).wrapping_sub(one),
            LOW => low(a * b) + c + one,
            HIGH => ((a * b) >> bits) + c + one,
            _ => a + b + one,
        };
        out[l] = narrow(v);
        carries |= ((v >> bits & 1) as u32) << l;
    }
    T::rows_mut(r)[s.d as usize].blend(&out, mask);
    if s.mode & WRITES != 0 {
        r.preds[s.e as usize] = carry & !mask | carries & mask;
    }
}
