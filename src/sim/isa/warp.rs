//! Instructions of a whole warp (PTX ISA 9.7.9.6, 9.7.14): shuffles, votes, matches, reductions.

use super::{Line, PtxOperand};
use crate::error::Result;
use crate::sim::lanes::{Args, Regs, WARP, active};
use crate::sim::program::{Exec, PtxType};

#[derive(Clone, Copy, Debug)]
pub enum WarpMove {
    Up,
    Down,
    Butterfly,
    Index,
}

/// shfl.sync. Arguments: d, a, b (lane or distance), c (clamp and segment mask), e (members).
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    pub by: WarpMove,
    /// Receives whether the source lane was in range.
    pub valid: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ask {
    All,
    Any,
    Uniform,
    Ballot,
    /// match.any and match.all (`valid` receives whether all agree), of 32 or 64 bits.
    MatchAny {
        long: bool,
    },
    MatchAll {
        long: bool,
    },
    /// redux.sync.
    Reduce(Reduce),
    /// elect.sync: the lowest member.
    Elect,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reduce {
    Add,
    Min,
    Max,
    SignedMin,
    SignedMax,
    And,
    Or,
    Xor,
}

/// A question to the members of a warp. Arguments: d, a, e (members).
#[derive(Clone, Copy, Debug)]
pub struct Vote {
    pub ask: Ask,
    pub negated: bool,
    pub valid: Option<u32>,
}

/// The destination and the predicate beside it, if any.
fn outputs(l: &mut Line, ty: PtxType) -> Result<(u32, Option<u32>)> {
    match *l.arg(0)? {
        PtxOperand::Pair(d, p) => {
            Ok((l.to(&PtxOperand::Name(d), ty)?, Some(l.to(&PtxOperand::Name(p), PtxType::Pred)?)))
        }
        _ => Ok((l.dst(0, ty)?, None)),
    }
}

pub fn decode(l: &mut Line) -> Result<bool> {
    if l.base == "activemask" {
        let d = l.dst(0, PtxType::B32)?;
        return l.push(Exec::ActiveMask, Args { d, ..Args::default() });
    }
    if !l.take("sync") {
        return Ok(false);
    }
    let t = PtxType::B32;
    match l.base {
        "shfl" => {
            let by = [
                ("up", WarpMove::Up),
                ("down", WarpMove::Down),
                ("bfly", WarpMove::Butterfly),
                ("idx", WarpMove::Index),
            ];
            let Some(by) = l.one_of(&by) else { return Ok(false) };
            l.expect(5)?;
            let (d, valid) = outputs(l, t)?;
            let (a, b, c, e) = (l.src(1, t)?, l.src(2, t)?, l.src(3, t)?, l.src(4, t)?);
            l.push(Exec::Shuffle(Shuffle { by, valid }), Args { d, a, b, c, e, mode: 0 })
        }
        "vote" => {
            let asks = [("all", Ask::All), ("any", Ask::Any), ("uni", Ask::Uniform), ("ballot", Ask::Ballot)];
            let Some(ask) = l.one_of(&asks) else { return Ok(false) };
            l.expect(3)?;
            let d = l.dst(0, if ask == Ask::Ballot { t } else { PtxType::Pred })?;
            let (a, negated) = l.pred(1)?;
            let e = l.src(2, t)?;
            l.push(Exec::Vote(Vote { ask, negated, valid: None }), Args { d, a, e, ..Args::default() })
        }
        "match" => {
            let ty = l.ty();
            let long = ty.is_long();
            let Some(ask) = l.one_of(&[("any", Ask::MatchAny { long }), ("all", Ask::MatchAll { long })]) else {
                return Ok(false);
            };
            l.expect(3)?;
            let (d, valid) = outputs(l, t)?;
            let (a, e) = (l.src(1, ty)?, l.src(2, t)?);
            l.push(Exec::Vote(Vote { ask, negated: false, valid }), Args { d, a, e, ..Args::default() })
        }
        "redux" => {
            let signed = l.ty() == PtxType::S32;
            let ops = [
                ("add", Reduce::Add),
                ("min", if signed { Reduce::SignedMin } else { Reduce::Min }),
                ("max", if signed { Reduce::SignedMax } else { Reduce::Max }),
                ("and", Reduce::And),
                ("or", Reduce::Or),
                ("xor", Reduce::Xor),
            ];
            let Some(op) = l.one_of(&ops) else { return Ok(false) };
            if l.ty().is_float() {
                return Ok(false);
            }
            l.expect(3)?;
            let (d, a, e) = (l.dst(0, t)?, l.src(1, t)?, l.src(2, t)?);
            let vote = Vote { ask: Ask::Reduce(op), negated: false, valid: None };
            l.push(Exec::Vote(vote), Args { d, a, e, ..Args::default() })
        }
        "elect" => {
            l.expect(2)?;
            let (d, valid) = outputs(l, t)?;
            let e = l.src(1, t)?;
            l.push(Exec::Vote(Vote { ask: Ask::Elect, negated: false, valid }), Args { d, e, ..Args::default() })
        }
        _ => Ok(false),
    }
}

/// Overwrites the bits of a predicate that are in `mask`.
fn set(regs: &mut Regs, slot: u32, value: u32, mask: u32) {
    let p = &mut regs.preds[slot as usize];
    *p = *p & !mask | value & mask;
}

/// The lane each lane reads, and whether it is in range (PTX ISA 9.7.9.6).
fn source(by: WarpMove, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let (lowest, highest) = (lane & segment, lane & segment | clamp & !segment);
    let (j, valid) = match by {
        WarpMove::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= highest as i32),
        WarpMove::Down => (lane + b, lane + b <= highest),
        WarpMove::Butterfly => (lane ^ b, lane ^ b <= highest),
        WarpMove::Index => (lowest | b & !segment, lowest | b & !segment <= highest),
    };
    (if valid { j } else { lane }, valid)
}

/// Runs a shuffle; a lane that reads one that does not take part is told.
pub fn shuffle(s: &Shuffle, args: &Args, regs: &mut Regs, mask: u32) -> Result<(), (usize, u32)> {
    let row = |slot: u32| &regs.words[slot as usize].0;
    let (a, b, c) = (row(args.a), row(args.b), row(args.c));
    let (mut out, mut valid) = ([0; WARP], 0);
    for l in active(mask) {
        let (from, ok) = source(s.by, l as u32, b[l], c[l]);
        if mask >> from & 1 == 0 {
            return Err((l, from));
        }
        out[l] = a[from as usize];
        valid |= (ok as u32) << l;
    }
    regs.words[args.d as usize].blend(&out, mask);
    if let Some(p) = s.valid {
        set(regs, p, valid, mask);
    }
    Ok(())
}

pub fn vote(v: &Vote, args: &Args, regs: &mut Regs, mask: u32) {
    let lanes = || active(mask);
    let yes = |regs: &Regs| {
        let p = regs.preds[args.a as usize];
        (if v.negated { !p } else { p }) & mask
    };
    let everyone = |b: bool| if b { u32::MAX } else { 0 };
    let value = |regs: &Regs, long: bool, l: usize| match long {
        true => regs.longs[args.a as usize].0[l],
        false => regs.words[args.a as usize].0[l] as u64,
    };
    match v.ask {
        Ask::All => set(regs, args.d, everyone(yes(regs) == mask), mask),
        Ask::Any => set(regs, args.d, everyone(yes(regs) != 0), mask),
        Ask::Uniform => set(regs, args.d, everyone(yes(regs) == mask || yes(regs) == 0), mask),
        Ask::Ballot => {
            let ballot = [yes(regs); WARP];
            regs.words[args.d as usize].blend(&ballot, mask);
        }
        Ask::MatchAny { long } => {
            let mut out = [0; WARP];
            for l in lanes() {
                let mine = value(regs, long, l);
                out[l] = lanes().fold(0, |m, k| m | ((value(regs, long, k) == mine) as u32) << k);
            }
            regs.words[args.d as usize].blend(&out, mask);
        }
        Ask::MatchAll { long } => {
            let first = value(regs, long, mask.trailing_zeros() as usize);
            let same = lanes().all(|l| value(regs, long, l) == first);
            regs.words[args.d as usize].blend(&[if same { mask } else { 0 }; WARP], mask);
            if let Some(p) = v.valid {
                set(regs, p, everyone(same), mask);
            }
        }
        Ask::Reduce(op) => {
            let a = regs.words[args.a as usize].0;
            let all = lanes().map(|l| a[l]).reduce(|x, y| match op {
                Reduce::Add => x.wrapping_add(y),
                Reduce::Min => x.min(y),
                Reduce::Max => x.max(y),
                Reduce::SignedMin => (x as i32).min(y as i32) as u32,
                Reduce::SignedMax => (x as i32).max(y as i32) as u32,
                Reduce::And => x & y,
                Reduce::Or => x | y,
                Reduce::Xor => x ^ y,
            });
            regs.words[args.d as usize].blend(&[all.unwrap_or(0); WARP], mask);
        }
        Ask::Elect => {
            let leader = mask.trailing_zeros();
            regs.words[args.d as usize].blend(&[leader; WARP], mask);
            if let Some(p) = v.valid {
                set(regs, p, 1 << leader, mask);
            }
        }
    }
}
