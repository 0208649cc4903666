/*! Products of a warpgroup, four warps side by side (PTX ISA 9.7.15): wgmma, setmaxnreg.

A product is asynchronous. Its result is in the registers at once here, and each of them is marked until the warp has waited for
the product's group: whoever touches a marked one is told. What it reads of shared memory is read when it starts and once more
when it is waited for, so that a store between the two is a race in whatever order warps run. Each warp computes its 16 rows; that
the four do the same is checked. Sums as in [`super::matrix`]. */

use super::memory::touch;
use super::{Line, PtxOperand};
use crate::error::{Error, Result};
use crate::sim::FaultKind;
use crate::sim::lanes::{Args, FULL, Regs, WARP};
use crate::sim::memory::{Problem, Region};
use crate::sim::program::{Exec, Guard, PtxType, Touched};
use crate::sim::run::Context;
use crate::sim::shadow::Touch;
use ::half::{bf16, f16};
use std::ops::Range;

/// Rows of a product that one warp computes, and its depth.
const ROWS: usize = 16;
const DEPTH: usize = 16;
/// Bytes of what a descriptor's operand is made of, and numbers in it.
const PIECE: usize = 16;
const NUMBERS: usize = PIECE / 2;
/// Warps of a warpgroup.
pub const WARPGROUP: usize = 4;

/// wgmma.mma_async m64nNk16 of f16 or bf16, summed in f32. Slots of registers.
#[derive(Clone, Debug)]
pub struct Product {
    n: usize,
    ty: PtxType,
    d: Vec<u32>,
    a: Factor,
    /// Slot of the descriptor of B.
    b: u32,
    /// Whether the sums begin with what is in d.
    adds: Guard,
    /// A times B is taken away.
    negated: bool,
    /// Whether A and B lie with rows and columns, not the depth, side by side.
    across: [bool; 2],
}

#[derive(Clone, Debug)]
enum Factor {
    Registers(Vec<u32>),
    /// Slot of a descriptor.
    Shared(u32),
}

/// What orders products.
#[derive(Clone, Copy, Debug)]
pub enum ProductOrder {
    Fence,
    Commit,
    /// All but the newest so many groups.
    Wait(u32),
}

pub fn decode(l: &mut Line) -> Result<bool> {
    let [asynchronous, fence] = ["mma_async", "fence"].map(|word| l.take(word));
    let [commit, wait] = ["commit_group", "wait_group"].map(|word| l.take(word));
    if !l.take("sync") || !l.take("aligned") {
        return Ok(false);
    }
    if !asynchronous {
        let order = match () {
            _ if fence => ProductOrder::Fence,
            _ if commit => ProductOrder::Commit,
            _ if wait => ProductOrder::Wait(l.literal(0)? as u32),
            _ => return Ok(false),
        };
        return l.push(Exec::ProductOrder(order), Args::default());
    }
    let shape = l.mods.iter().find_map(|m| m.strip_prefix("m64n")?.strip_suffix("k16")?.parse::<usize>().ok());
    let (Some(n), &[PtxType::F32, ty, other]) = (shape, &l.types[..]) else { return Ok(false) };
    if !(8..=256).contains(&n) || n % 8 != 0 || ty != other || !matches!(ty, PtxType::F16 | PtxType::Bf16) {
        return Ok(false);
    }
    l.take(&format!("m64n{n}k16"));
    let in_registers = matches!(l.arg(1)?, PtxOperand::List(_));
    l.expect(if in_registers { 7 } else { 8 })?;
    let d = l.words(0, n / 2, true)?;
    let a = match in_registers {
        true => Factor::Registers(l.words(1, 4, false)?),
        false => Factor::Shared(l.src(1, PtxType::B64)?),
    };
    let b = l.src(2, PtxType::B64)?;
    let (slot, negated) = l.pred(3)?;
    let sign = |i: usize| match *l.arg(i)? {
        PtxOperand::Name("1") => Ok(false),
        PtxOperand::Minus("1") => Ok(true),
        _ => Err(Error::usage(format!("operand {} must be 1 or -1", i + 1))),
    };
    let negates = sign(4)? != sign(5)?;
    let across = |i: usize| match l.literal(i)? {
        bit @ (0 | 1) => Ok(bit == 1),
        _ => Err(Error::usage(format!("operand {} must be 0 or 1", i + 1))),
    };
    let across = if in_registers { [false, across(6)?] } else { [across(6)?, across(7)?] };
    let adds = Guard { slot, negated };
    l.push(Exec::Product(Box::new(Product { n, ty, d, a, b, adds, negated: negates, across })), Args::default())
}

/// setmaxnreg.inc and .dec: registers of each thread from here on.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    pub each: u32,
    pub more: bool,
}

pub fn decode_registers(l: &mut Line) -> Result<bool> {
    let (more, less) = (l.take("inc"), l.take("dec"));
    if more == less || !l.take("sync") || !l.take("aligned") || l.ty() != PtxType::U32 {
        return Ok(false);
    }
    let each = l.literal(0)?;
    if !(24..=256).contains(&each) || each % 8 != 0 {
        return Err(Error::usage(format!("{each} registers: it must be a multiple of 8 from 24 to 256")));
    }
    l.push(Exec::Registers(Registers { each: each as u32, more }), Args::default())
}

/// A matrix descriptor: where an operand's pieces lie in shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    start: usize,
    leading: usize,
    stride: usize,
    /// Pieces that are exchanged with each other: 1, 2, 4 or 8, of rows of as many.
    width: usize,
}

impl Descriptor {
    pub fn decode(bits: u64) -> Result<Self, String> {
        let field = |from: u32| (bits >> from & 0x3fff) as usize * PIECE;
        if bits >> 49 & 7 != 0 {
            return Err(format!("a base offset of {} is not supported", bits >> 49 & 7));
        }
        let width = [1, 8, 4, 2][(bits >> 62) as usize];
        Ok(Self { start: field(0), leading: field(16), stride: field(32), width })
    }

    /// Addresses of the pieces of some rows (of A; columns of B): of each row its two, or where rows lie side by side, of eight
    /// rows their sixteen.
    pub fn pieces(&self, rows: Range<usize>, across: bool) -> Result<Vec<usize>, String> {
        let (atom, row) = (8 * PIECE * self.width, PIECE * self.width);
        let plain = self.width == 1;
        let inside = self.start % row;
        // How far a row of an atom is read.
        let read = if across { (rows.end * 2).min(row) } else { if plain { PIECE } else { 2 * PIECE } };
        if !plain && self.start % atom != inside {
            return Err(format!("begins {} bytes into a swizzle atom of {atom}", self.start % atom));
        }
        if inside + read > row {
            return Err(format!("reads {read} bytes from byte {inside} of a row of {row} on"));
        }
        let steps = if across || rows.end > 8 { vec![self.stride] } else { vec![] };
        let steps =
            if across && rows.end > NUMBERS * self.width { [steps, vec![self.leading]].concat() } else { steps };
        if let (false, Some(step)) = (plain, steps.iter().find(|s| **s % atom != 0)) {
            return Err(format!("steps by {step} bytes from one swizzle atom of {atom} to the next"));
        }
        let swizzle = |byte: usize| byte ^ (byte >> 7 & (self.width - 1)) << 4;
        // Without swizzle the two distances have changed places where rows lie side by side.
        let [along, deeper] = if plain { [self.stride, self.leading] } else { [self.leading, self.stride] };
        Ok(if across {
            let blocks = rows.start / NUMBERS..rows.end / NUMBERS;
            let piece = |block: usize, k: usize| {
                block % self.width * PIECE + block / self.width * along + k % 8 * row + k / 8 * deeper
            };
            blocks
                .flat_map(|block| (0..DEPTH).map(move |k| piece(block, k)))
                .map(|at| swizzle(self.start + at))
                .collect()
        } else {
            let chunk = if plain { self.leading } else { PIECE };
            let piece = |r: usize, half: usize| r % 8 * row + r / 8 * self.stride + half * chunk;
            rows.flat_map(|r| [piece(r, 0), piece(r, 1)]).map(|at| swizzle(self.start + at)).collect()
        })
    }
}

/// Pieces of an operand that are in use: of one variable, by their offsets.
struct Reading {
    /// The number of the product's group.
    group: u32,
    pc: u32,
    regions: Vec<(Region, u32)>,
}

/// The products of a warp.
#[derive(Default)]
pub struct Flight {
    /// By register slot: the group, counted from one, whose product has it.
    held: Vec<u32>,
    /// By register slot: when an ordinary instruction wrote it, and when the last fence was. Never: 0.
    written: Vec<u64>,
    fenced: u64,
    committed: u32,
    completed: u32,
    readings: Vec<Reading>,
}

impl Flight {
    /// Nothing is on its way, in a warp of so many registers.
    pub fn new(slots: usize) -> Self {
        Self { held: vec![0; slots], written: vec![0; slots], ..Self::default() }
    }

    /// An ordinary instruction touches registers.
    pub fn watch(&mut self, touched: &[Touched], mask: u32, now: u64) -> Result<(), Problem> {
        for t in touched {
            if self.held[t.slot as usize] > self.completed {
                let does = if t.written { "writes" } else { "reads" };
                let text = format!("{does} a register of a wgmma that has not been waited for");
                return Err(Problem::new(FaultKind::Async, mask.trailing_zeros() as usize, text));
            }
            if t.written {
                self.written[t.slot as usize] = now;
            }
        }
        Ok(())
    }

    /// A warp must not end before its products.
    pub fn end(&self) -> Result<(), Problem> {
        match self.held.iter().any(|group| *group > self.completed) {
            true => Err(Problem::new(FaultKind::Async, 0, "ends with a wgmma that has not been waited for")),
            false => Ok(()),
        }
    }

    pub fn order(&mut self, order: ProductOrder, now: u64, cx: &mut Context) -> Result<(), Problem> {
        match order {
            ProductOrder::Fence => self.fenced = now,
            ProductOrder::Commit => self.committed += 1,
            ProductOrder::Wait(n) => {
                self.completed = self.completed.max(self.committed.saturating_sub(n));
                let (done, rest) =
                    std::mem::take(&mut self.readings).into_iter().partition(|r| r.group <= self.completed);
                self.readings = rest;
                let done: Vec<Reading> = done;
                for reading in &done {
                    if let Some(shadow) = &mut cx.shadow {
                        shadow.pc = reading.pc;
                    }
                    for (region, mask) in &reading.regions {
                        touch(&mut cx.shadow, &cx.memory, region, *mask, PIECE, Touch::Read)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The registers of a product must have been left alone since a fence, and are its own from now on.
    fn take(&mut self, registers: impl Iterator<Item = u32>) -> Result<(), Problem> {
        if self.fenced == 0 {
            return Err(Problem::new(FaultKind::Async, 0, "wgmma without a wgmma.fence before it"));
        }
        for slot in registers {
            if self.written[slot as usize] > self.fenced {
                let text = "wgmma of a register that was written after the last wgmma.fence";
                return Err(Problem::new(FaultKind::Async, 0, text));
            }
            self.held[slot as usize] = self.committed + 1;
        }
        Ok(())
    }

    /// Runs a product for one of the four warps. Returns the two descriptors, which are the same in the others.
    pub fn run(
        &mut self,
        p: &Product,
        regs: &mut Regs,
        warp: usize,
        pc: u32,
        cx: &mut Context,
    ) -> Result<[u64; 2], Problem> {
        let descriptor = |regs: &Regs, slot: u32| {
            let row = &regs.longs[slot as usize].0;
            match row.iter().position(|bits| *bits != row[0]) {
                Some(l) => {
                    Err(Problem::new(FaultKind::Divergence, l, "a matrix descriptor that differs between lanes"))
                }
                None => Ok(row[0]),
            }
        };
        let adds = regs.preds[p.adds.slot as usize] ^ if p.adds.negated { FULL } else { 0 };
        if adds != 0 && adds != FULL {
            let text = "lanes that disagree whether wgmma adds to what is there";
            return Err(Problem::new(FaultKind::Divergence, 0, text));
        }
        let rows = warp % WARPGROUP * ROWS..(warp % WARPGROUP + 1) * ROWS;
        let mut reading = Reading { group: self.committed + 1, pc, regions: vec![] };
        let mut used = [0; 2];
        // A row by row, B depth by depth.
        let mut a = [[0.0; DEPTH]; ROWS];
        let mut b = vec![0.0; DEPTH * p.n];
        match &p.a {
            Factor::Shared(slot) => {
                used[0] = descriptor(regs, *slot)?;
                let put = |r: usize, k: usize, v: f64| a[r][k] = v;
                fetch(used[0], ["A", "rows"], rows, p.across[0], p.ty, put, &mut reading, cx)?;
            }
            Factor::Registers(slots) => {
                for (i, slot) in slots.iter().enumerate() {
                    for (l, word) in regs.words[*slot as usize].0.iter().enumerate() {
                        for half in 0..2 {
                            let column = 2 * (l % 4) + half + 8 * (i / 2);
                            a[l / 4 + 8 * (i % 2)][column] = number(p.ty, (word >> (16 * half)) as u16);
                        }
                    }
                }
            }
        }
        used[1] = descriptor(regs, p.b)?;
        fetch(used[1], ["B", "columns"], 0..p.n, p.across[1], p.ty, |c, k, v| b[k * p.n + c] = v, &mut reading, cx)?;
        if cx.options.checks {
            let own = if let Factor::Registers(slots) = &p.a { &slots[..] } else { &[] };
            self.take(p.d.iter().chain(own).copied())?;
            self.readings.push(reading);
        }
        let mut sums = vec![0.0; p.n];
        for (r, a) in a.iter().enumerate() {
            row_times(a, &b, &mut sums);
            for (c, sum) in sums.iter().enumerate() {
                let slot = p.d[c / 8 * 4 + r / 8 * 2 + c % 2];
                let cell = &mut regs.words[slot as usize].0[r % 8 * 4 + c % 8 / 2];
                let before = if adds == 0 { 0.0 } else { f32::from_bits(*cell) as f64 };
                let v = (before + if p.negated { -sum } else { *sum }) as f32;
                *cell = if v.is_nan() { 0x7fff_ffff } else { v.to_bits() };
            }
        }
        cx.counters.mma += 1;
        cx.counters.flops += (2 * ROWS * DEPTH * p.n) as u64;
        Ok(used)
    }
}

/// sums = a B
fn row_times(a: &[f64; DEPTH], b: &[f64], sums: &mut [f64]) {
    sums.fill(0.0);
    for (a, row) in a.iter().zip(b.chunks_exact(sums.len())) {
        sums.iter_mut().zip(row).for_each(|(sum, b)| *sum += a * b);
    }
}

fn number(ty: PtxType, bits: u16) -> f64 {
    match ty {
        PtxType::F16 => f16::from_bits(bits).to_f64(),
        _ => bf16::from_bits(bits).to_f64(),
    }
}

/// Reads an operand: `put` is given row, depth and number. It notes what was read.
#[allow(clippy::too_many_arguments)]
fn fetch(
    bits: u64,
    [name, what]: [&str; 2],
    rows: Range<usize>,
    across: bool,
    ty: PtxType,
    mut put: impl FnMut(usize, usize, f64),
    reading: &mut Reading,
    cx: &mut Context,
) -> Result<(), Problem> {
    let wrong = |kind, text: String| Problem::new(kind, 0, format!("operand {name} of wgmma {text}"));
    let descriptor = Descriptor::decode(bits).map_err(|text| wrong(FaultKind::Misaligned, format!("has {text}")))?;
    let pieces = descriptor.pieces(rows, across).map_err(|text| wrong(FaultKind::Misaligned, text))?;
    let Some((target, base)) = cx.memory.described(descriptor.start as u64) else {
        let text = format!("begins at {:#x}, which is in no shared variable or in several", descriptor.start);
        return Err(wrong(FaultKind::OutOfBounds, text));
    };
    let bytes = cx.memory.data(target).len();
    if let Some(at) = pieces.iter().find(|at| **at < base || **at - base + PIECE > bytes) {
        let (offset, place) = (*at as i64 - base as i64, cx.memory.describe(target));
        let text = format!("has {what} at offset {offset} of {place}, which has {bytes} bytes");
        return Err(wrong(FaultKind::OutOfBounds, text));
    }
    if cx.options.checks {
        for part in pieces.chunks(WARP) {
            let mut region = Region { target, offsets: [part[0] - base; WARP] };
            region.offsets.iter_mut().zip(part).for_each(|(offset, at)| *offset = at - base);
            let mask = FULL >> (WARP - part.len());
            look(&region, mask, cx)?;
            reading.regions.push((region, mask));
        }
    }
    let data = cx.memory.data(target);
    for (i, at) in pieces.iter().enumerate() {
        let piece = &data[at - base..][..PIECE];
        for (e, two) in piece.chunks_exact(2).enumerate() {
            let v = number(ty, u16::from_le_bytes([two[0], two[1]]));
            if across { put(i / DEPTH * NUMBERS + e, i % DEPTH, v) } else { put(i / 2, i % 2 * NUMBERS + e, v) }
        }
    }
    Ok(())
}

/// What a product reads must be there, ordered before it, and not on the wrong side of a fence.
fn look(region: &Region, mask: u32, cx: &mut Context) -> Result<(), Problem> {
    cx.memory.check_read(region, mask, PIECE)?;
    touch(&mut cx.shadow, &cx.memory, region, mask, PIECE, Touch::Read)?;
    let Some(shadow) = &mut cx.shadow else { return Ok(()) };
    shadow.look_unfenced(region, mask, PIECE).map_err(|(lane, other)| {
        let place = format!("offset {} of {}", region.offsets[lane], cx.memory.describe(region.target));
        let text = format!("wgmma reads at {place} what was stored without fence.proxy.async behind it");
        Problem { other: Some(other), ..Problem::new(FaultKind::Async, lane, text) }
    })
}
