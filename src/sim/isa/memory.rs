//! Loads, stores and atomics (PTX ISA 9.7.9, 9.7.13).

use super::Line;
use crate::error::{Error, Result};
use crate::sim::FaultKind;
use crate::sim::lanes::{Args, Regs, WARP, active};
use crate::sim::memory::{AddressSpace, Problem, Region, RegionTarget};
use crate::sim::program::{Exec, PtxType, Space};
use crate::sim::run::Context;
use crate::sim::shadow::{Shadow, Touch};

/// A load or store of one to eight elements per lane.
#[derive(Clone, Debug)]
pub struct MemoryAccess {
    pub space: Space,
    /// Bytes of an element, and whether narrow ones are sign-extended.
    pub size: usize,
    pub signed: bool,
    /// Bank and slot of each element's register.
    pub regs: Vec<(bool, u32)>,
    pub address: Address,
}

/// Where an access goes: register (64-bit or 32-bit) plus offset.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub slot: u32,
    pub long: bool,
    pub offset: i64,
}

impl Address {
    /// The address of each lane.
    #[inline(always)]
    pub fn lanes(&self, regs: &Regs) -> [u64; WARP] {
        let mut out = [0; WARP];
        if self.long {
            let rows = &regs.longs[self.slot as usize].0;
            for l in 0..WARP {
                out[l] = rows[l].wrapping_add(self.offset as u64);
            }
        } else {
            let rows = &regs.words[self.slot as usize].0;
            for l in 0..WARP {
                out[l] = rows[l].wrapping_add(self.offset as u32) as u64;
            }
        }
        out
    }
}

impl<'a> Line<'_, 'a> {
    /// Operand `i` as an address.
    pub fn place(&mut self, i: usize) -> Result<Address> {
        let (slot, long, offset) = self.address(i)?;
        Ok(Address { slot, long, offset })
    }
    /// Takes modifiers about ordering, scope and caching: lanes here see every store at once.
    pub fn take_ordering(&mut self) {
        const WORDS: &[&str] = &[
            "weak", "relaxed", "acquire", "release", "acq_rel", "volatile", "mmio", "cta", "cluster", "gpu", "sys",
            "ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "noftz",
        ];
        self.mods.retain(|m| !(WORDS.contains(m) || m.starts_with("L1::") || m.starts_with("L2::")));
    }
}

pub fn decode(l: &mut Line) -> Result<bool> {
    match l.base {
        "atom" | "red" => atomic(l),
        base => {
            let store = base == "st";
            l.take_ordering();
            let space = l.space();
            let vector = l.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
            let ty = l.ty();
            if ty == PtxType::B128 {
                return Ok(false);
            }
            // A cache policy may follow.
            let address = l.place(!store as usize)?;
            let space = match *l.arg(!store as usize)? {
                // An argument of a call, not of the kernel.
                super::PtxOperand::Address(name, _) if space == Space::Param => {
                    l.frame.variable(name).map_or(space, |(of, _)| of)
                }
                _ => space,
            };
            let mut regs = vec![];
            for operand in l.list(store as usize)? {
                let have = match operand {
                    super::PtxOperand::Name(name) => l.frame.register(name).map(|(have, _)| have),
                    _ => None,
                };
                // A register may be wider than what is moved.
                let have = have.unwrap_or(ty);
                let long = have.is_long();
                if have.bytes() < ty.bytes() {
                    return Err(Error::usage(format!("a {have:?} register is too narrow for {ty:?}")));
                }
                regs.push((long, if store { l.from(&operand, have)? } else { l.to(&operand, have)? }));
            }
            if regs.len() != vector {
                return Err(Error::usage(format!("{} registers instead of {vector}", regs.len())));
            }
            let access = Box::new(MemoryAccess { space, size: ty.bytes(), signed: ty.is_signed(), regs, address });
            l.push(if store { Exec::Store(access) } else { Exec::Load(access) }, Args::default())
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operation {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    Compare,
    Inc,
    Dec,
}

/// A read-modify-write. `d` of the arguments is the old value, `b` the operand, `c` what compare-and-swap stores.
#[derive(Clone, Debug)]
pub struct Atomic {
    pub space: Space,
    pub op: Operation,
    pub ty: PtxType,
    pub address: Address,
    pub returns: bool,
    /// Whether it is a fence too.
    pub releases: bool,
}

fn atomic(l: &mut Line) -> Result<bool> {
    let releases = l.mods.iter().any(|m| ["release", "acq_rel"].contains(m));
    l.take_ordering();
    let space = l.space();
    let ops = [
        ("add", Operation::Add),
        ("min", Operation::Min),
        ("max", Operation::Max),
        ("and", Operation::And),
        ("or", Operation::Or),
        ("xor", Operation::Xor),
        ("exch", Operation::Exchange),
        ("cas", Operation::Compare),
        ("inc", Operation::Inc),
        ("dec", Operation::Dec),
    ];
    let Some(op) = l.one_of(&ops) else { return Ok(false) };
    let ty = l.ty();
    let float = ty.is_float();
    if !matches!(ty.bytes(), 4 | 8) && op != Operation::Compare
        || float && op != Operation::Add
        || float && !matches!(ty, PtxType::F32 | PtxType::F64)
    {
        return Ok(false);
    }
    let first = (l.base == "atom") as usize;
    let address = l.place(first)?;
    l.expect(first + 2 + (op == Operation::Compare) as usize)?;
    let mut args = Args { b: l.src(first + 1, ty)?, ..Args::default() };
    if first == 1 {
        args.d = l.dst(0, ty)?;
    }
    if op == Operation::Compare {
        args.c = l.src(first + 2, ty)?;
    }
    l.push(Exec::Atomic(Box::new(Atomic { space, op, ty, address, returns: first == 1, releases })), args)
}

/// Runs `f` for all lanes if their addresses lie in one region, which is nearly always so, and else lane by lane.
#[inline(always)]
pub fn regions(
    memory: &mut AddressSpace,
    space: Space,
    addresses: &[u64; WARP],
    mask: u32,
    bytes: usize,
    mut f: impl FnMut(&mut AddressSpace, &Region, u32) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let (mut part, mut rest) = (mask, mask);
    while rest != 0 {
        if let Some(region) = memory.resolve(space, addresses, part, bytes, bytes)? {
            f(memory, &region, part)?;
            rest &= !part;
        }
        part = rest & rest.wrapping_neg();
    }
    Ok(())
}

/// Looks for races with the accesses of a region.
#[inline]
pub fn touch(
    shadow: &mut Option<Shadow>,
    memory: &AddressSpace,
    region: &Region,
    mask: u32,
    bytes: usize,
    how: Touch,
) -> Result<(), Problem> {
    let Some(shadow) = shadow else { return Ok(()) };
    shadow.touch(region, mask, bytes, how).map_err(|(lane, other)| {
        let does = if how == Touch::Read { "read" } else { "write" };
        let place =
            format!("{does} of {bytes} bytes at offset {} of {}", region.offsets[lane], memory.describe(region.target));
        Problem { other: Some(other), ..Problem::new(FaultKind::Race, lane, format!("race: {place}")) }
    })
}

macro_rules! little {
    ($t:ty, $data:expr, $at:expr) => {{
        let at = $at;
        <$t>::from_le_bytes($data[at..at + size_of::<$t>()].try_into().expect("a slice of its size"))
    }};
}

/// A function for the baseline and for wide vectors, as [`lanes!`](crate::sim::lanes) has it.
macro_rules! twice {
    ($(#[$doc:meta])* $name:ident, $body:ident, $regs:ty) => {
        $(#[$doc])*
        pub fn $name(a: &MemoryAccess, regs: $regs, mask: u32, cx: &mut Context) -> Result<(), Problem> {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide(a: &MemoryAccess, regs: $regs, mask: u32, cx: &mut Context) -> Result<(), Problem> {
                    $body(a, regs, mask, cx)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the machine has the features.
                    return unsafe { wide(a, regs, mask, cx) };
                }
            }
            $body(a, regs, mask, cx)
        }
    };
}
twice!(
    /// Runs a load.
    load, load_body, &mut Regs
);
twice!(
    /// Runs a store.
    store, store_body, &Regs
);

#[inline(always)]
fn load_body(a: &MemoryAccess, regs: &mut Regs, mask: u32, cx: &mut Context) -> Result<(), Problem> {
    let addresses = a.address.lanes(regs);
    let bytes = a.size * a.regs.len();
    cx.count_access(a.space, &addresses, mask, bytes, false);
    let Context { memory, shadow, .. } = cx;
    regions(memory, a.space, &addresses, mask, bytes, |memory, region, mask| {
        memory.check_read(region, mask, bytes)?;
        touch(shadow, memory, region, mask, bytes, Touch::Read)?;
        let data = memory.data(region.target);
        for (v, &(long, slot)) in a.regs.iter().enumerate() {
            let at = |l: usize| region.offsets[l] + v * a.size;
            if a.size == 4 && !long {
                let mut out = [0; WARP];
                for l in 0..WARP {
                    out[l] = little!(u32, data, at(l));
                }
                regs.words[slot as usize].blend(&out, mask);
                continue;
            }
            let mut out = [0u64; WARP];
            for l in 0..WARP {
                let i = at(l);
                out[l] = match (a.size, a.signed) {
                    (1, false) => data[i] as u64,
                    (1, true) => data[i] as i8 as u64,
                    (2, false) => little!(u16, data, i) as u64,
                    (2, true) => little!(i16, data, i) as u64,
                    (4, false) => little!(u32, data, i) as u64,
                    (4, true) => little!(i32, data, i) as u64,
                    _ => little!(u64, data, i),
                };
            }
            if long {
                regs.longs[slot as usize].blend(&out, mask);
            } else {
                regs.words[slot as usize].blend(&out.map(|v| v as u32), mask);
            }
        }
        Ok(())
    })
}

#[inline(always)]
fn store_body(a: &MemoryAccess, regs: &Regs, mask: u32, cx: &mut Context) -> Result<(), Problem> {
    let addresses = a.address.lanes(regs);
    let bytes = a.size * a.regs.len();
    cx.count_access(a.space, &addresses, mask, bytes, true);
    let Context { memory, shadow, .. } = cx;
    regions(memory, a.space, &addresses, mask, bytes, |memory, region, mask| {
        memory.note_write(region, mask, bytes)?;
        if shadow.is_none() && a.size == 4 {
            let data = memory.data_mut(region.target)?;
            for (v, &(long, slot)) in a.regs.iter().enumerate() {
                for l in active(mask) {
                    let value =
                        if long { regs.longs[slot as usize].0[l] as u32 } else { regs.words[slot as usize].0[l] };
                    let at = region.offsets[l] + 4 * v;
                    data[at..at + 4].copy_from_slice(&value.to_le_bytes());
                }
            }
            return Ok(());
        }
        for l in active(mask) {
            let at = region.offsets[l];
            let mut new = [0; 64];
            for (v, &(long, slot)) in a.regs.iter().enumerate() {
                let value = if long { regs.longs[slot as usize].0[l] } else { regs.words[slot as usize].0[l] as u64 };
                new[v * a.size..][..8].copy_from_slice(&value.to_le_bytes());
            }
            let cell = &mut memory.data_mut(region.target)?[at..at + bytes];
            let same = shadow.is_some() && *cell == new[..bytes];
            cell.copy_from_slice(&new[..bytes]);
            touch(shadow, memory, region, 1 << l, bytes, if same { Touch::Rewrite } else { Touch::Write })?;
        }
        Ok(())
    })
}

pub fn atomic_run(a: &Atomic, args: &Args, regs: &mut Regs, mask: u32, cx: &mut Context) -> Result<(), Problem> {
    let addresses = a.address.lanes(regs);
    let (long, bytes) = (a.ty.is_long(), a.ty.bytes());
    let operand = |regs: &Regs, slot: u32, l: usize| match long {
        true => regs.longs[slot as usize].0[l],
        false => regs.words[slot as usize].0[l] as u64,
    };
    cx.count_access(a.space, &addresses, mask, bytes, true);
    let Context { memory, shadow, .. } = cx;
    regions(memory, a.space, &addresses, mask, bytes, |memory, region, mask| {
        memory.check_read(region, mask, bytes)?;
        touch(shadow, memory, region, mask, bytes, Touch::Atomic)?;
        if let (Some(shadow), RegionTarget::Buffer(_) | RegionTarget::Variable(_)) = (shadow.as_mut(), region.target) {
            if a.releases {
                shadow.fence(shadow.warp);
            }
            active(mask).for_each(|l| shadow.meet(region.target, region.offsets[l]));
        }
        memory.note_write(region, mask, bytes)?;
        let data = memory.data_mut(region.target)?;
        for l in active(mask) {
            let cell = &mut data[region.offsets[l]..][..bytes];
            let mut old = [0; 8];
            old[..bytes].copy_from_slice(cell);
            let old = u64::from_le_bytes(old);
            let (b, c) = (operand(regs, args.b, l), operand(regs, args.c, l));
            let new = modify(a.op, a.ty, old, b, c);
            cell.copy_from_slice(&new.to_le_bytes()[..bytes]);
            if a.returns && long {
                regs.longs[args.d as usize].0[l] = old;
            } else if a.returns {
                regs.words[args.d as usize].0[l] = old as u32;
            }
        }
        Ok(())
    })
}

/// The new value of an atomic's cell.
fn modify(op: Operation, ty: PtxType, old: u64, b: u64, c: u64) -> u64 {
    let signed = |v: u64| if ty.is_long() { v as i64 } else { v as i32 as i64 };
    let word = |v: u64| f32::from_bits(v as u32);
    match op {
        Operation::Add if ty == PtxType::F32 => (word(old) + word(b)).to_bits() as u64,
        Operation::Add if ty == PtxType::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        Operation::Add => old.wrapping_add(b),
        Operation::Min if ty.is_signed() => signed(old).min(signed(b)) as u64,
        Operation::Max if ty.is_signed() => signed(old).max(signed(b)) as u64,
        Operation::Min => old.min(b),
        Operation::Max => old.max(b),
        Operation::And => old & b,
        Operation::Or => old | b,
        Operation::Xor => old ^ b,
        Operation::Exchange => b,
        Operation::Compare => {
            if old == b {
                c
            } else {
                old
            }
        }
        Operation::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        Operation::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}
