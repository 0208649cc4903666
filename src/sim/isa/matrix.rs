/*! Matrix instructions of a warp (PTX ISA 9.7.14): ldmatrix, stmatrix, mma.sync.

Products are exact and summed in f64 with the accumulator, and the result is rounded once: closer to the exact value
than any device, whose tensor cores align and truncate the products of a step. */

use super::Line;
use super::memory::{Address, regions, touch};
use crate::error::Result;
use crate::sim::lanes::{Args, Regs, WARP};
use crate::sim::memory::Problem;
use crate::sim::program::{Exec, PtxType, Space};
use crate::sim::run::Context;
use crate::sim::shadow::Touch;
use ::half::{bf16, f16};

/// ldmatrix and stmatrix: one to four 8x8 matrices of 16 bits; lanes 8i to 8i+7 hold the addresses of matrix i's rows.
#[derive(Clone, Debug)]
pub struct MatrixMove {
    pub space: Space,
    pub address: Address,
    pub regs: Vec<u32>,
    pub transposed: bool,
    pub store: bool,
}

/// mma.sync m16n8kK. Slots of the fragments' registers.
#[derive(Clone, Debug)]
pub struct Multiply {
    k: usize,
    /// Types of A and B: 8-bit ones, f16, bf16 or tf32.
    types: [PtxType; 2],
    /// Type of the accumulators: f32, f16 or s32.
    sum: PtxType,
    d: Vec<u32>,
    a: Vec<u32>,
    b: Vec<u32>,
    c: Vec<u32>,
}

pub fn decode(l: &mut Line) -> Result<bool> {
    if !l.take("sync") || !l.take("aligned") {
        return Ok(false);
    }
    if l.base != "mma" {
        let store = l.base == "stmatrix";
        let Some(n) = l.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]) else { return Ok(false) };
        let (transposed, space) = (l.take("trans"), l.space());
        if !l.take("m8n8") || l.ty() != PtxType::B16 || !matches!(space, Space::Shared | Space::Generic) {
            return Ok(false);
        }
        l.expect(2)?;
        let regs = l.words(store as usize, n, !store)?;
        let address = l.place(!store as usize)?;
        let body = MatrixMove { space, address, regs, transposed, store };
        return l.push(Exec::MatrixMove(Box::new(body)), Args::default());
    }
    let Some(k) = l.one_of(&[("m16n8k4", 4), ("m16n8k8", 8), ("m16n8k16", 16), ("m16n8k32", 32)]) else {
        return Ok(false);
    };
    if !l.take("row") || !l.take("col") {
        return Ok(false);
    }
    let &[d, a, b, c] = &l.types[..] else { return Ok(false) };
    let per_register = match (a, b, d) {
        (PtxType::F16, PtxType::F16, PtxType::F16 | PtxType::F32) | (PtxType::Bf16, PtxType::Bf16, PtxType::F32) => 2,
        (PtxType::Tf32, PtxType::Tf32, PtxType::F32) => 1,
        (PtxType::S8 | PtxType::U8, PtxType::S8 | PtxType::U8, PtxType::S32) => 4,
        _ => return Ok(false),
    };
    // Four lanes share a row: k in steps of 4 registers.
    if c != d || k % (4 * per_register) != 0 || k > 8 * per_register {
        return Ok(false);
    }
    let steps = k / (4 * per_register);
    let sums = if d == PtxType::F16 { 2 } else { 4 };
    l.expect(4)?;
    let body = Multiply {
        k,
        types: [a, b],
        sum: d,
        d: l.words(0, sums, true)?,
        a: l.words(1, 2 * steps, false)?,
        b: l.words(2, steps, false)?,
        c: l.words(3, sums, false)?,
    };
    l.push(Exec::Matrix(Box::new(body)), Args::default())
}

/// Moves 8x8 matrices between shared memory and fragments.
pub fn transfer(m: &MatrixMove, regs: &mut Regs, cx: &mut Context) -> Result<(), Problem> {
    let lanes = m.address.lanes(regs);
    for (i, &slot) in m.regs.iter().enumerate() {
        // Lane l holds, of row l / 4, the two columns from 2 (l mod 4).
        let place = |l: usize, half: usize| match m.transposed {
            false => (l / 4, 2 * (l % 4) + half),
            true => (2 * (l % 4) + half, l / 4),
        };
        let mask = 0xff << (8 * i);
        cx.count_access(Space::Shared, &lanes, mask, 16, m.store);
        let Context { memory, shadow, .. } = &mut *cx;
        if m.store {
            let row = regs.words[slot as usize].0;
            regions(memory, m.space, &lanes, mask, 16, |memory, region, mask| {
                memory.note_write(region, mask, 16)?;
                touch(shadow, memory, region, mask, 16, Touch::Write)?;
                let data = memory.data_mut(region.target)?;
                for l in 0..WARP {
                    for half in 0..2 {
                        let (r, c) = place(l, half);
                        let at = region.offsets[8 * i + r] + 2 * c;
                        if mask >> (8 * i + r) & 1 != 0 {
                            data[at..at + 2].copy_from_slice(&((row[l] >> (16 * half)) as u16).to_le_bytes());
                        }
                    }
                }
                Ok(())
            })?;
            continue;
        }
        let mut out = [0; WARP];
        regions(memory, m.space, &lanes, mask, 16, |memory, region, mask| {
            memory.check_read(region, mask, 16)?;
            touch(shadow, memory, region, mask, 16, Touch::Read)?;
            let data = memory.data(region.target);
            for (l, out) in out.iter_mut().enumerate() {
                for half in 0..2 {
                    let (r, c) = place(l, half);
                    let at = region.offsets[8 * i + r] + 2 * c;
                    if mask >> (8 * i + r) & 1 != 0 {
                        *out |= (u16::from_le_bytes([data[at], data[at + 1]]) as u32) << (16 * half);
                    }
                }
            }
            Ok(())
        })?;
        regs.words[slot as usize].0 = out;
    }
    Ok(())
}

/// Element `h` of a register.
#[inline(always)]
fn element(ty: PtxType, word: u32, h: usize) -> f32 {
    match ty {
        PtxType::F16 => f16::from_bits((word >> (16 * h)) as u16).to_f32(),
        PtxType::Bf16 => bf16::from_bits((word >> (16 * h)) as u16).to_f32(),
        PtxType::S8 => (word >> (8 * h)) as i8 as f32,
        PtxType::U8 => (word >> (8 * h)) as u8 as f32,
        // The low bits of a tf32 are not looked at.
        _ => f32::from_bits(word & !0x1fff),
    }
}

impl Multiply {
    /// Floating-point operations of one instruction.
    pub fn flops(&self) -> u64 {
        2 * 16 * 8 * self.k as u64
    }

    pub fn run(&self, regs: &mut Regs) {
        let word = |slot: u32, l: usize| regs.words[slot as usize].0[l];
        let per = self.k / (4 * self.b.len());
        // A is 16 x k, B is k x 8, kept column by column.
        let (mut a, mut b) = ([[0f32; 32]; 16], [[0f32; 32]; 8]);
        for l in 0..WARP {
            let (group, member) = (l / 4, l % 4);
            for (i, &slot) in self.a.iter().enumerate() {
                for h in 0..per {
                    let column = member * per + h + 4 * per * (i / 2);
                    a[group + 8 * (i % 2)][column] = element(self.types[0], word(slot, l), h);
                }
            }
            for (i, &slot) in self.b.iter().enumerate() {
                for h in 0..per {
                    b[group][member * per + h + 4 * per * i] = element(self.types[1], word(slot, l), h);
                }
            }
        }
        let mut out = [[0u32; WARP]; 4];
        for l in 0..WARP {
            let (group, member) = (l / 4, l % 4);
            for i in 0..4 {
                let (row, column) = (group + 8 * (i / 2), 2 * member + i % 2);
                let dot: f64 = (0..self.k).map(|k| a[row][k] as f64 * b[column][k] as f64).sum();
                match self.sum {
                    PtxType::F32 => {
                        let v = (dot + f32::from_bits(word(self.c[i], l)) as f64) as f32;
                        out[i][l] = if v.is_nan() { 0x7fff_ffff } else { v.to_bits() };
                    }
                    PtxType::F16 => {
                        let c = f16::from_bits((word(self.c[i / 2], l) >> (16 * (i % 2))) as u16);
                        let v = f16::from_f64(dot + c.to_f64());
                        let bits = if v.is_nan() { 0x7fff } else { v.to_bits() };
                        out[i / 2][l] |= (bits as u32) << (16 * (i % 2));
                    }
                    _ => out[i][l] = word(self.c[i], l).wrapping_add(dot as i64 as u32),
                }
            }
        }
        for (slot, out) in self.d.iter().zip(&out) {
            regs.words[*slot as usize].0 = *out;
        }
    }
}
