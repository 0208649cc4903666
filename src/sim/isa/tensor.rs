/*! Copies of boxes of tensors from global to shared memory (PTX ISA 9.7.9.27, cp.async.bulk.tensor), by a tensor map among
the kernel's parameters.

Here a tensor map is a [`TensorMap`] and an address, written into its 128 bytes by [`encode`]. What of a box is outside the tensor
arrives as zeros. A copy lands when somebody looks whether its mbarrier's phase is over and nothing else of that is missing: as
late as it may. What lands is written by an agent of its own, ordered for those alone who have waited on the barrier. */

use super::mbarrier::{Barriers, Landing};
use super::memory::{Address, touch};
use super::{Line, PtxOperand};
use crate::error::{Error, Result};
use crate::launch::tensor_map::{BYTES as MAP, Swizzle, TensorMap};
use crate::sim::FaultKind;
use crate::sim::lanes::{Args, Regs, WARP, active};
use crate::sim::memory::{Problem, Region, RegionTarget};
use crate::sim::program::{Exec, PtxType, Space};
use crate::sim::run::Context;
use crate::sim::shadow::Touch;

/// What the simulator's tensor maps begin with.
const MARK: u64 = u64::from_le_bytes(*b"tensors\0");

/// The bytes of a tensor map whose tensor begins at `address`.
pub fn encode(map: &TensorMap, address: u64) -> Result<[u8; MAP]> {
    map.check(address).map_err(Error::job)?;
    let swizzle = Swizzle::ALL.iter().position(|s| *s == map.swizzle).expect("one of all");
    let head = [MARK, address, map.item as u64, map.extents.len() as u64, swizzle as u64];
    // A box's extents are at most 256: five share two words.
    let window = map.window.iter().rev().fold(0u128, |all, n| all << 16 | *n as u128);
    let words = head.iter().chain(&map.extents).chain(&map.strides).copied();
    let mut bytes = [0; MAP];
    let (front, back) = bytes.split_at_mut(MAP - 16);
    front.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    back.copy_from_slice(&window.to_le_bytes());
    Ok(bytes)
}

/// The tensor map in some bytes, and where its tensor begins.
fn decode_map(bytes: &[u8]) -> Option<(TensorMap, u64)> {
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight bytes"))).collect();
    let &[MARK, address, item, rank @ 1..=5, swizzle @ 0..=3, ..] = &words[..] else { return None };
    let (numbers, rank) = (&words[5..], rank as usize);
    let window = words[14] as u128 | (words[15] as u128) << 64;
    let map = TensorMap {
        item: item as usize,
        extents: numbers[..rank].to_vec(),
        strides: numbers[rank..2 * rank - 1].to_vec(),
        window: (0..rank).map(|axis| (window >> (16 * axis)) as u64 & 0xffff).collect(),
        swizzle: Swizzle::ALL[swizzle as usize],
    };
    Some((map, address))
}

/// One instruction. Slots of registers.
#[derive(Clone, Debug)]
pub struct TensorCopy {
    to: Address,
    map: Address,
    /// Where the box begins, by axis.
    corner: Vec<u32>,
    barrier: Address,
}

/// cp.async.bulk.tensor, after those three words.
pub fn decode(l: &mut Line) -> Result<bool> {
    let rank = l.one_of(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)]);
    let inside = l.take("shared::cluster") || l.take("shared::cta");
    l.take("tile");
    let (Some(rank), true) = (rank, inside && l.take("global") && l.take("mbarrier::complete_tx::bytes")) else {
        return Ok(false);
    };
    let hinted = l.take("L2::cache_hint") as usize;
    l.expect(3 + hinted)?;
    let PtxOperand::Tensor(base, ref corner) = *l.arg(1)? else { return Err(Error::usage("expected [map, {corner}]")) };
    let corner = corner.clone();
    if corner.len() != rank {
        return Err(Error::usage(format!("{} coordinates instead of {rank}", corner.len())));
    }
    l.args[1] = PtxOperand::Address(base, 0);
    let copy = TensorCopy {
        to: l.place(0)?,
        map: l.place(1)?,
        corner: corner.iter().map(|o| l.from(o, PtxType::S32)).collect::<Result<_>>()?,
        barrier: l.place(2)?,
    };
    l.push(Exec::TensorCopy(Box::new(copy)), Args::default())
}

/// Starts the copies of the active lanes.
pub fn run(c: &TensorCopy, regs: &Regs, mask: u32, barriers: &mut Barriers, cx: &mut Context) -> Result<(), Problem> {
    let [to, maps, bars] = [&c.to, &c.map, &c.barrier].map(|a| a.lanes(regs));
    for l in active(mask) {
        let wrong = |kind, text: &str| Problem::new(kind, l, format!("copy of a tensor: {text}"));
        let one = 1 << l;
        let lane = |found: Option<Region>| found.map(|r| (r.target, r.offsets[l])).ok_or(l);
        let place = |cx: &Context, space, addresses, bytes, align| {
            let found = cx.memory.resolve(space, addresses, one, bytes, align)?;
            lane(found).map_err(|_| wrong(FaultKind::OutOfBounds, "an address in several places"))
        };
        let map = match place(cx, Space::Generic, &maps, MAP, 64)? {
            (RegionTarget::Param, at) => decode_map(&cx.memory.data(RegionTarget::Param)[at..at + MAP]),
            _ => return Err(wrong(FaultKind::Async, "its tensor map is not among the parameters")),
        };
        let Some((map, address)) = map else { return Err(wrong(FaultKind::Async, "there is no tensor map")) };
        if map.extents.len() != c.corner.len() {
            let text = format!("{} coordinates for {} axes", c.corner.len(), map.extents.len());
            return Err(wrong(FaultKind::Async, &text));
        }
        // Swizzled boxes begin with a whole pattern: eight rows.
        let (bytes, align) = (map.bytes(), map.swizzle.row().map_or(128, |row| (8 * row).max(128)));
        let (target, at) = place(cx, Space::Shared, &to, bytes, align)?;
        let corner: Vec<i64> = c.corner.iter().map(|slot| regs.words[*slot as usize].0[l] as i32 as i64).collect();
        let tensor = fetch(&map, address, &corner, l, cx)?;
        let mut data = vec![0; bytes];
        for (i, piece) in tensor.chunks_exact(16).enumerate() {
            data[map.swizzle.place(at + 16 * i) - at..][..16].copy_from_slice(piece);
        }
        let region = Region { target, offsets: [at; WARP] };
        cx.memory.note_write(&region, one, bytes)?;
        touch(&mut cx.shadow, &cx.memory, &region, one, bytes, Touch::Write)?;
        cx.memory.expect_copy(target, at, bytes)?;
        let (warp, pc) = cx.shadow.as_mut().map_or((0, 0), |shadow| {
            shadow.tell_copier();
            (shadow.warp, shadow.pc)
        });
        let (bar, offset) = place(cx, Space::Shared, &bars, 8, 8)?;
        barriers.expect(bar, offset, Landing { lane: l, warp, pc, target, at, data }, cx)?;
    }
    Ok(())
}

/// The box that begins at `corner`, row by row.
fn fetch(map: &TensorMap, address: u64, corner: &[i64], lane: usize, cx: &mut Context) -> Result<Vec<u8>, Problem> {
    let item = map.item as i64;
    let row = map.window[0] as usize * map.item;
    let mut tensor = vec![0; map.bytes()];
    // Of each row the part that is inside.
    let first = (-corner[0]).clamp(0, map.window[0] as i64);
    let last = (map.extents[0] as i64 - corner[0]).clamp(first, map.window[0] as i64);
    let n = ((last - first) * item) as usize;
    cx.counters.global_requests += cx.options.count as u64;
    for (i, to) in tensor.chunks_exact_mut(row).enumerate() {
        let (mut rest, mut at, mut inside) = (i as i64, (corner[0] + first) * item, n > 0);
        for axis in 1..corner.len() {
            let window = map.window[axis] as i64;
            let k = corner[axis] + rest % window;
            rest /= window;
            inside &= (0..map.extents[axis] as i64).contains(&k);
            at += k * map.strides[axis - 1] as i64;
        }
        if !inside {
            continue;
        }
        let at = address.wrapping_add(at as u64);
        let Some(region) = cx.memory.resolve(Space::Global, &[at; WARP], 1 << lane, n, map.item)? else { continue };
        cx.memory.check_read(&region, 1 << lane, n)?;
        touch(&mut cx.shadow, &cx.memory, &region, 1 << lane, n, Touch::Read)?;
        to[(first * item) as usize..][..n].copy_from_slice(&cx.memory.data(region.target)[region.offsets[lane]..][..n]);
        if cx.options.count {
            cx.counters.sectors += (at + n as u64).div_ceil(32) - at / 32;
            cx.counters.read_bytes += n as u64;
        }
    }
    Ok(tensor)
}
