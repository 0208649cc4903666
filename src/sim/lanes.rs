/*! Registers of a warp and the loops over its 32 lanes.

A register is a row of 32 lanes; 16- and 32-bit registers share one bank, 64-bit ones have their own, a predicate is a
mask with one bit per lane. An instruction's lane loop is written once, as a closure over typed lanes, and compiled
twice: for the compiler's baseline and for AVX2 with FMA (without which a fused multiply-add is a library call). */

use half::{bf16, f16};

/// Lanes of a warp.
pub const WARP: usize = 32;
/// Every lane.
pub const FULL: u32 = u32::MAX;

/// The lanes in a mask, lowest first.
#[inline(always)]
pub fn active(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros() as usize;
        rest &= rest.wrapping_sub(1);
        (lane < WARP).then_some(lane)
    })
}

/// One register: 32 lanes, aligned for vector loads.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Lanes<T>(pub [T; WARP]);

impl<T: Copy> Lanes<T> {
    /// Overwrites the lanes in `mask`.
    #[inline(always)]
    pub fn blend(&mut self, from: &[T; WARP], mask: u32) {
        if mask == FULL {
            self.0 = *from;
        } else {
            for l in 0..WARP {
                self.0[l] = if mask >> l & 1 != 0 { from[l] } else { self.0[l] };
            }
        }
    }
}

/// The registers of one warp.
#[derive(Clone, Default)]
pub struct Regs {
    pub words: Vec<Lanes<u32>>,
    pub longs: Vec<Lanes<u64>>,
    pub preds: Vec<u32>,
}

/// What a bank holds: u32 or u64.
pub trait Bank: Copy + Default {
    fn rows(regs: &Regs) -> &[Lanes<Self>];
    fn rows_mut(regs: &mut Regs) -> &mut [Lanes<Self>];
}

impl Bank for u32 {
    #[inline(always)]
    fn rows(regs: &Regs) -> &[Lanes<u32>] {
        &regs.words
    }
    #[inline(always)]
    fn rows_mut(regs: &mut Regs) -> &mut [Lanes<u32>] {
        &mut regs.words
    }
}

impl Bank for u64 {
    #[inline(always)]
    fn rows(regs: &Regs) -> &[Lanes<u64>] {
        &regs.longs
    }
    #[inline(always)]
    fn rows_mut(regs: &mut Regs) -> &mut [Lanes<u64>] {
        &mut regs.longs
    }
}

/// A value as an instruction's type sees it in a register.
pub trait Lane: Copy {
    type Raw: Bank;
    fn get(raw: Self::Raw) -> Self;
    fn put(self) -> Self::Raw;
}

macro_rules! lane {
    ($($t:ty, $raw:ty, |$r:ident| $get:expr, |$v:ident| $put:expr;)*) => {$(
        impl Lane for $t {
            type Raw = $raw;
            #[inline(always)]
            fn get($r: $raw) -> Self { $get }
            #[inline(always)]
            fn put(self) -> $raw { let $v = self; $put }
        }
    )*};
}

// Narrow values sit zero-extended. A float result that is NaN is the one NaN arithmetic produces on the device;
// 64-bit arithmetic keeps payloads there.
lane! {
    u8, u32, |r| r as u8, |v| v.into();
    i8, u32, |r| r as i8, |v| (v as u8).into();
    u16, u32, |r| r as u16, |v| v.into();
    i16, u32, |r| r as i16, |v| (v as u16).into();
    u32, u32, |r| r, |v| v;
    i32, u32, |r| r as i32, |v| v as u32;
    u64, u64, |r| r, |v| v;
    i64, u64, |r| r as i64, |v| v as u64;
    f64, u64, |r| f64::from_bits(r), |v| v.to_bits();
    f32, u32, |r| f32::from_bits(r), |v| if v.is_nan() { 0x7fff_ffff } else { v.to_bits() };
    f16, u32, |r| f16::from_bits(r as u16), |v| if v.is_nan() { 0x7fff } else { v.to_bits().into() };
    bf16, u32, |r| bf16::from_bits(r as u16), |v| if v.is_nan() { 0x7fff } else { v.to_bits().into() };
    [f16; 2], u32, |r| [f16::get(r), f16::get(r >> 16)], |v| v[0].put() | v[1].put() << 16;
    [bf16; 2], u32, |r| [bf16::get(r), bf16::get(r >> 16)], |v| v[0].put() | v[1].put() << 16;
}

/// Where an instruction's operands are: an index into the bank that its type belongs to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Args {
    pub d: u32,
    pub a: u32,
    pub b: u32,
    pub c: u32,
    /// A second destination or a fourth source.
    pub e: u32,
    /// Modifiers that the lane function interprets.
    pub mode: u32,
}

/// A compiled lane loop, which may ask for features of the machine.
pub type Loop = unsafe fn(&mut Regs, &Args, u32);

/// A lane loop that this machine has the features for.
#[derive(Clone, Copy, Debug)]
pub struct LaneLoop(Loop);

impl LaneLoop {
    /// One that needs no features.
    pub fn plain(body: fn(&mut Regs, &Args, u32)) -> Self {
        Self(body)
    }
    /// The one of two for this machine.
    ///
    /// # Safety
    /// `wide` may be called where there are AVX2 and FMA.
    pub unsafe fn pick(plain: fn(&mut Regs, &Args, u32), wide: Loop) -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Self(wide);
        }
        let _ = wide;
        Self(plain)
    }
    /// Runs it on registers, operands and active lanes.
    #[inline(always)]
    pub fn run(self, regs: &mut Regs, args: &Args, mask: u32) {
        // SAFETY: needs nothing, or was picked because the machine has what it needs.
        unsafe { (self.0)(regs, args, mask) }
    }
}

#[inline(always)]
fn row<T: Lane>(r: &Regs, slot: u32) -> &[T::Raw; WARP] {
    &T::Raw::rows(r)[slot as usize].0
}

#[inline(always)]
fn set<T: Lane>(r: &mut Regs, slot: u32, value: &[T::Raw; WARP], mask: u32) {
    T::Raw::rows_mut(r)[slot as usize].blend(value, mask);
}

/// d = f(a)
#[inline(always)]
pub fn map1<D: Lane, A: Lane>(r: &mut Regs, s: &Args, mask: u32, f: impl Fn(A) -> D) {
    let a = row::<A>(r, s.a);
    let mut out = [D::Raw::default(); WARP];
    for l in 0..WARP {
        out[l] = f(A::get(a[l])).put();
    }
    set::<D>(r, s.d, &out, mask);
}

/// d = f(a, b)
#[inline(always)]
pub fn map2<D: Lane, A: Lane, B: Lane>(r: &mut Regs, s: &Args, mask: u32, f: impl Fn(A, B) -> D) {
    let (a, b) = (row::<A>(r, s.a), row::<B>(r, s.b));
    let mut out = [D::Raw::default(); WARP];
    for l in 0..WARP {
        out[l] = f(A::get(a[l]), B::get(b[l])).put();
    }
    set::<D>(r, s.d, &out, mask);
}

/// d = f(a, b, c)
#[inline(always)]
pub fn map3<D: Lane, A: Lane, B: Lane, C: Lane>(r: &mut Regs, s: &Args, mask: u32, f: impl Fn(A, B, C) -> D) {
    let (a, b, c) = (row::<A>(r, s.a), row::<B>(r, s.b), row::<C>(r, s.c));
    let mut out = [D::Raw::default(); WARP];
    for l in 0..WARP {
        out[l] = f(A::get(a[l]), B::get(b[l]), C::get(c[l])).put();
    }
    set::<D>(r, s.d, &out, mask);
}

/// d = f(a, b, c, e)
#[inline(always)]
pub fn map4<T: Lane, I: Lane>(r: &mut Regs, s: &Args, mask: u32, f: impl Fn(T, T, I, I) -> T) {
    let (a, b, c, e) = (row::<T>(r, s.a), row::<T>(r, s.b), row::<I>(r, s.c), row::<I>(r, s.e));
    let mut out = [T::Raw::default(); WARP];
    for l in 0..WARP {
        out[l] = f(T::get(a[l]), T::get(b[l]), I::get(c[l]), I::get(e[l])).put();
    }
    set::<T>(r, s.d, &out, mask);
}

/// The lanes for which f(a, b) holds.
#[inline(always)]
pub fn test<A: Lane>(r: &Regs, s: &Args, f: impl Fn(A, A) -> bool) -> u32 {
    let (a, b) = (row::<A>(r, s.a), row::<A>(r, s.b));
    let mut bits = [0; WARP];
    for l in 0..WARP {
        bits[l] = (f(A::get(a[l]), A::get(b[l])) as u32) << l;
    }
    bits.iter().fold(0, |m, b| m | b)
}

/// d = p ? a : b, with the predicate in slot c.
#[inline(always)]
pub fn select<T: Lane>(r: &mut Regs, s: &Args, mask: u32) {
    let (a, b, p) = (row::<T>(r, s.a), row::<T>(r, s.b), r.preds[s.c as usize]);
    let mut out = *b;
    for l in 0..WARP {
        out[l] = if p >> l & 1 != 0 { a[l] } else { b[l] };
    }
    set::<T>(r, s.d, &out, mask);
}

/// A [`LaneLoop`] from an expression over registers, operands and mask, or from a closure over typed lanes. `plain`: what
/// would gain nothing from vector instructions is compiled once.
macro_rules! lanes {
    (plain |$r:ident, $s:ident, $m:ident| $body:expr) => {{
        fn plain($r: &mut $crate::sim::lanes::Regs, $s: &$crate::sim::lanes::Args, $m: u32) {
            $body
        }
        $crate::sim::lanes::LaneLoop::plain(plain)
    }};
    (plain $d:ty = |$x:ident: $a:ty| $f:expr) => {
        lanes!(plain | r, s, m | $crate::sim::lanes::map1::<$d, $a>(r, s, m, |$x| $f))
    };
    (plain $d:ty = |$x:ident: $a:ty, $y:ident: $b:ty| $f:expr) => {
        lanes!(plain | r, s, m | $crate::sim::lanes::map2::<$d, $a, $b>(r, s, m, |$x, $y| $f))
    };
    (plain $d:ty = |$x:ident: $a:ty, $y:ident: $b:ty, $z:ident: $c:ty| $f:expr) => {
        lanes!(plain | r, s, m | $crate::sim::lanes::map3::<$d, $a, $b, $c>(r, s, m, |$x, $y, $z| $f))
    };
    (|$r:ident, $s:ident, $m:ident| $body:expr) => {{
        fn plain($r: &mut $crate::sim::lanes::Regs, $s: &$crate::sim::lanes::Args, $m: u32) {
            $body
        }
        #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
        fn wide($r: &mut $crate::sim::lanes::Regs, $s: &$crate::sim::lanes::Args, $m: u32) {
            $body
        }
        // SAFETY: that is what `wide` was compiled for.
        unsafe { $crate::sim::lanes::LaneLoop::pick(plain, wide) }
    }};
    ($d:ty = |$x:ident: $a:ty| $f:expr) => {
        lanes!(|r, s, m| $crate::sim::lanes::map1::<$d, $a>(r, s, m, |$x| $f))
    };
    ($d:ty = |$x:ident: $a:ty, $y:ident: $b:ty| $f:expr) => {
        lanes!(|r, s, m| $crate::sim::lanes::map2::<$d, $a, $b>(r, s, m, |$x, $y| $f))
    };
    ($d:ty = |$x:ident: $a:ty, $y:ident: $b:ty, $z:ident: $c:ty| $f:expr) => {
        lanes!(|r, s, m| $crate::sim::lanes::map3::<$d, $a, $b, $c>(r, s, m, |$x, $y, $z| $f))
    };
}
pub(crate) use lanes;
