//! Routines for float32, run on operands that are stored in 16 bits: widened before, rounded after. Storage in 16 bits is
//! for GPUs; the host follows their arithmetic, and gains where a routine takes what is large as it is stored
//! ([`crate::graph::Description::as_stored`]).

use super::{Code, Launch, Operands, Routine, Slot};
use crate::par;
use crate::shape::{DType, Type};
use ::half::slice::HalfFloatSliceExt;
use ::half::{bf16, f16};
use std::sync::Arc;

/// Elements converted at once.
const PIECE: usize = 4096;

/// `launch`, made for operands of float32, for inputs and outputs of which some are stored in 16 bits: those of a type in
/// `copies` get a float32 copy in scratch memory, and the others are as the launch takes them.
pub fn widened(launch: Launch, copies: &[Vec<Option<Type>>; 2]) -> Launch {
    let (Code::Host(inner) | Code::Definition(inner)) = &launch.code else { unreachable!("lowered for the host") };
    let (inner, own) = (inner.clone(), launch.scratch);
    let scratch = own.next_multiple_of(ALIGN) + copies.iter().flatten().flatten().map(room).sum::<usize>();
    let [ins, outs] = copies.clone();
    let routine: Routine = Arc::new(move |h: &Operands| {
        let (mine, mut rest) = h.scratch::<u8>().split_at_mut(own.next_multiple_of(ALIGN));
        let [mut x, mut y] = [&ins, &outs].map(|t| t.iter().map(|t| copy(&mut rest, t)).collect::<Vec<_>>());
        for (i, (x, t)) in x.iter_mut().zip(&ins).enumerate() {
            if let (Some(x), Some(t), false) = (x.as_deref_mut(), t, h.aliased.contains(&i)) {
                widen(t.dtype, h.input(i), x);
            }
        }
        let mut stored: Vec<Option<&mut [u16]>> =
            outs.iter().enumerate().map(|(o, t)| t.map(|_| h.output(o))).collect();
        // What is updated in place may be left as it is.
        for ((stored, y), t) in stored.iter().zip(&mut y).zip(&outs).filter(|_| !h.aliased.is_empty()) {
            if let (Some(stored), Some(y), Some(t)) = (stored, y, t) {
                widen(t.dtype, stored, y);
            }
        }
        let wide = |slots: &[Slot], copies: &mut [Option<&mut [f32]>]| -> Vec<Slot> {
            let one = |(s, c): (&Slot, &mut Option<&mut [f32]>)| c.as_deref_mut().map_or(*s, slot);
            slots.iter().zip(copies).map(one).collect()
        };
        let (wide_ins, wide_outs) = (wide(&h.ins, &mut x), wide(&h.outs, &mut y));
        let mine = Slot::new(mine.as_mut_ptr(), own);
        // SAFETY: copies and scratch memory are parts of what was taken from `h` above; the other slots are those of `h`,
        // valid as long as it, of which no output is taken here.
        let inside = unsafe { Operands::new(wide_ins, wide_outs, mine, h.aliased.clone()) };
        inside.expect("parts of scratch memory are apart").run(&inner);
        for ((stored, y), t) in stored.iter_mut().zip(&y).zip(&outs) {
            if let (Some(stored), Some(y), Some(t)) = (stored, y, t) {
                narrow(t.dtype, y, stored);
            }
        }
    });
    let code = match launch.code {
        Code::Definition(_) => Code::Definition(routine),
        _ => Code::Host(routine),
    };
    Launch { code, scratch, ..launch }
}

/// Alignment of copies.
const ALIGN: usize = 64;

/// Bytes of the copy of an operand of 16 bits.
fn room(t: &Type) -> usize {
    (4 * t.numel()).next_multiple_of(ALIGN)
}

/// The copy of an operand of 16 bits, off the front of what is left of the scratch memory.
fn copy<'a>(rest: &mut &'a mut [u8], t: &Option<Type>) -> Option<&'a mut [f32]> {
    let t = t.as_ref()?;
    let (part, left) = std::mem::take(rest).split_at_mut(room(t));
    *rest = left;
    Some(&mut bytemuck::cast_slice_mut(part)[..t.numel()])
}

fn slot(x: &mut [f32]) -> Slot {
    Slot::new(x.as_mut_ptr().cast(), size_of_val(x))
}

/// y = x, x being stored as `dtype`.
pub fn widen(dtype: DType, x: &[u16], y: &mut [f32]) {
    par::pieces_mut(y, PIECE, |i, y| {
        let x = &x[i * PIECE..][..y.len()];
        match dtype {
            DType::F16 => bytemuck::cast_slice::<_, f16>(x).convert_to_f32_slice(y),
            _ => bytemuck::cast_slice::<_, bf16>(x).convert_to_f32_slice(y),
        }
    });
}

/// y = x rounded to `dtype`, ties to even.
pub fn narrow(dtype: DType, x: &[f32], y: &mut [u16]) {
    par::pieces_mut(y, PIECE, |i, y| {
        let x = &x[i * PIECE..][..y.len()];
        match dtype {
            DType::F16 => bytemuck::cast_slice_mut::<_, f16>(y).convert_from_f32_slice(x),
            _ => bytemuck::cast_slice_mut::<_, bf16>(y).convert_from_f32_slice(x),
        }
    });
}
