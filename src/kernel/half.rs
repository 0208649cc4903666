//! Routines for float32, run on operands that are stored in 16 bits: widened before, rounded after. Storage in 16 bits is
//! for GPUs; the host follows their arithmetic and does not compete with it.

use super::{Code, Host, Launch, Routine, Slot};
use crate::par;
use crate::shape::{DType, Type};
use ::half::slice::HalfFloatSliceExt;
use ::half::{bf16, f16};
use std::sync::Arc;

/// Elements converted at once.
const PIECE: usize = 4096;

/// `launch`, made for operands of float32, for operands of types `ins` and `outs`: those of 16 bits get a float32 copy in
/// scratch memory.
pub fn widened(launch: Launch, ins: &[Type], outs: &[Type]) -> Launch {
    let (Code::Host(inner) | Code::Definition(inner)) = &launch.code else { unreachable!("lowered for the host") };
    let (inner, own) = (inner.clone(), launch.scratch);
    let mut scratch = own.next_multiple_of(64);
    let mut copies = |types: &[Type]| -> Vec<Option<Copy>> {
        let copy = |t: &Type| {
            t.dtype.is_half().then(|| {
                let at = scratch;
                scratch += (4 * t.numel()).next_multiple_of(64);
                Copy { at, t: *t }
            })
        };
        types.iter().map(copy).collect()
    };
    let (ins, outs) = (copies(ins), copies(outs));
    let routine: Routine = Arc::new(move |h: &Host| {
        for (i, copy) in ins.iter().enumerate().filter_map(|(i, c)| Some((i, c.as_ref()?))) {
            if !h.aliased.contains(&i) {
                copy.widen(h.input(i), h);
            }
        }
        // What is updated in place may be left as it is.
        for (o, copy) in outs.iter().enumerate().filter_map(|(o, c)| Some((o, c.as_ref()?))) {
            if !h.aliased.is_empty() {
                copy.widen(h.output(o), h);
            }
        }
        let wide = |slots: &[Slot], copies: &[Option<Copy>]| -> Vec<Slot> {
            slots.iter().zip(copies).map(|(s, c)| c.as_ref().map_or(*s, |c| c.slot(h))).collect()
        };
        let scratch = Slot { at: h.scratch.at, bytes: own };
        inner(&Host { ins: wide(&h.ins, &ins), outs: wide(&h.outs, &outs), scratch, aliased: h.aliased.clone() });
        for (o, copy) in outs.iter().enumerate().filter_map(|(o, c)| Some((o, c.as_ref()?))) {
            copy.narrow(h, h.output(o));
        }
    });
    let code = match launch.code {
        Code::Definition(_) => Code::Definition(routine),
        _ => Code::Host(routine),
    };
    Launch { code, scratch, ..launch }
}

/// A float32 copy of an operand, `at` bytes into the scratch memory.
struct Copy {
    at: usize,
    t: Type,
}

impl Copy {
    fn slot(&self, h: &Host) -> Slot {
        let bytes = 4 * self.t.numel();
        assert!(self.at + bytes <= h.scratch.bytes, "the launch asked for its copies");
        Slot { at: h.scratch.at.wrapping_add(self.at), bytes }
    }
    fn wide<'a>(&self, h: &'a Host) -> &'a mut [f32] {
        Host::exclusive(self.slot(h))
    }
    fn widen(&self, x: &[u16], h: &Host) {
        widen(self.t.dtype, x, self.wide(h));
    }
    fn narrow(&self, h: &Host, y: &mut [u16]) {
        narrow(self.t.dtype, self.wide(h), y);
    }
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
