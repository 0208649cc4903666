/*! Sixteen lanes of f32 at three levels, and the one place that steps from ordinary code into vector code.

A routine is written once, generic over [`V16`], `#[inline(always)]` all the way down, and instantiated inside a
function that carries the target features: [`run`]. */

use crate::launch::{Level, Simd};
use half::{bf16, f16};

/// Sixteen f32. All operations are lane by lane.
///
/// Implementors other than [`Portable`] may only be used inside [`run`]'s function of their level.
pub trait V16: Copy {
    fn splat(x: f32) -> Self;
    /// # Safety
    /// 16 elements must be readable at `p`.
    unsafe fn load(p: *const f32) -> Self;
    /// # Safety
    /// 16 elements must be writable at `p`.
    unsafe fn store(self, p: *mut f32);
    /// self * b + c, rounded once where the target has such an instruction.
    fn fma(self, b: Self, c: Self) -> Self;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    /// The greater of the two; `b` if either is NaN, or both are zeros.
    fn max(self, b: Self) -> Self;
    /// Self where it is a NaN, `b` elsewhere.
    fn nan_or(self, b: Self) -> Self;
    /// (self, a) where self is greater than `best`, or a NaN and `best` is none; (best, b) elsewhere.
    fn winner(self, a: Self, best: Self, b: Self) -> (Self, Self);
    /// Self where a = b, 0 elsewhere.
    fn where_equal(self, a: Self, b: Self) -> Self;

    /// Numbers of bf16, which are those of f32 that end in sixteen zeros.
    /// # Safety
    /// 16 elements must be readable at `p`.
    unsafe fn load_bf16(p: *const bf16) -> Self;
    /// Numbers of f16.
    /// # Safety
    /// 16 elements must be readable at `p`.
    unsafe fn load_f16(p: *const f16) -> Self;

    /// The first `n` lanes from memory, zeros behind.
    /// # Safety
    /// `n` elements must be readable at `p`.
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self {
        // SAFETY: n elements are read from p (caller), 16 from the buffer.
        unsafe {
            if n >= 16 {
                return Self::load(p);
            }
            let mut a = [0.0; 16];
            for (i, a) in a.iter_mut().enumerate().take(n) {
                *a = *p.add(i);
            }
            Self::load(a.as_ptr())
        }
    }
    /// The first `n` lanes to memory; what follows is not touched.
    /// # Safety
    /// `n` elements must be writable at `p`.
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, n: usize) {
        // SAFETY: n elements are written to p (caller), 16 to the buffer.
        unsafe {
            if n >= 16 {
                return self.store(p);
            }
            let mut a = [0.0; 16];
            self.store(a.as_mut_ptr());
            for (i, a) in a.iter().enumerate().take(n) {
                *p.add(i) = *a;
            }
        }
    }
    /// Writes past the caches where the level can: for outputs too large to be found there later.
    /// # Safety
    /// 16 elements must be writable at `p`, which must be aligned to 64 bytes.
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { self.store(p) }
    }
    /// Asks for the cache line of `p`, which need not be readable.
    #[inline(always)]
    fn prefetch(p: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE is part of the target, and a prefetch never faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast())
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }
    /// Lane j of vector i becomes lane i of vector j.
    #[inline(always)]
    fn transpose(v: &mut [Self; 16]) {
        let mut a = [[0.0; 16]; 16];
        // SAFETY: rows of 16 elements.
        unsafe {
            for (v, a) in v.iter().zip(&mut a) {
                v.store(a.as_mut_ptr());
            }
            for (i, v) in v.iter_mut().enumerate() {
                *v = Self::load(std::array::from_fn::<f32, 16, _>(|j| a[j][i]).as_ptr());
            }
        }
    }
    /// The sum of the lanes, in one order at every level: halves, quarters, eighths, sixteenths.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut a = [0.0; 16];
        // SAFETY: 16 elements.
        unsafe { self.store(a.as_mut_ptr()) };
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }
}

/// A type that numbers are stored as, and made f32 of as they are read.
pub trait Stored: Copy + Default + Send + Sync {
    /// # Safety
    /// 16 elements must be readable at `p`.
    unsafe fn load<V: V16>(p: *const Self) -> V;

    /// The first `n` lanes from memory, zeros behind.
    /// # Safety
    /// `n` elements must be readable at `p`.
    #[inline(always)]
    unsafe fn load_part<V: V16>(p: *const Self, n: usize) -> V {
        // SAFETY: n elements are read from p (caller), 16 from the buffer.
        unsafe {
            if n >= 16 {
                return Self::load(p);
            }
            let mut a = [Self::default(); 16];
            std::ptr::copy_nonoverlapping(p, a.as_mut_ptr(), n);
            Self::load(a.as_ptr())
        }
    }
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<V: V16>(p: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(p) }
    }
    #[inline(always)]
    unsafe fn load_part<V: V16>(p: *const f32, n: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_part(p, n) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    unsafe fn load<V: V16>(p: *const bf16) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16(p) }
    }
}

impl Stored for f16 {
    #[inline(always)]
    unsafe fn load<V: V16>(p: *const f16) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(p) }
    }
}

/// Code to run at one level.
pub trait Vectorized {
    /// Must be `#[inline(always)]`, and so must everything it calls that handles a `V`.
    fn run<V: V16>(self);
}

/// Runs `k` with the instructions of `simd`.
#[inline]
pub fn run<K: Vectorized>(simd: Simd, k: K) {
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level above Portable is only made where the machine has it (`Simd`).
        Level::Avx512 => unsafe { x86::run_avx512(k) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::run_avx2(k) },
        _ => k.run::<Portable>(),
    }
}

/// Runs `k` with AVX-512, which must be `simd`: for code that needs 32 registers and is not worth compiling otherwise.
#[inline]
pub fn run_widest<K: Vectorized>(simd: Simd, k: K) {
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is only made where the machine has it (`Simd`).
        Level::Avx512 => unsafe { x86::run_avx512(k) },
        level => unreachable!("{level:?} has too few registers for {}", std::any::type_name_of_val(&k)),
    }
}

/// Orders [`V16::stream`]'s writes before whatever the thread does next.
pub fn stream_end() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the target.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    }
}

/// Plain arrays: the compiler makes of them what the baseline has.
#[derive(Clone, Copy)]
pub struct Portable([f32; 16]);

/// Whether [`Portable`] rounds a multiply-add once, like the other levels.
pub const PORTABLE_FMA: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

impl V16 for Portable {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 16])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { p.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // Without the instruction mul_add is a call into libm.
        Self(std::array::from_fn(|i| {
            if PORTABLE_FMA { self.0[i].mul_add(b.0[i], c.0[i]) } else { self.0[i] * b.0[i] + c.0[i] }
        }))
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - b.0[i]))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * b.0[i]))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > b.0[i] { self.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn nan_or(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i].is_nan() { self.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn winner(self, a: Self, best: Self, b: Self) -> (Self, Self) {
        let wins = |i: usize| (self.0[i] > best.0[i]) | (self.0[i].is_nan() & !best.0[i].is_nan());
        let pick = |x: Self, y: Self| Self(std::array::from_fn(|i| if wins(i) { x.0[i] } else { y.0[i] }));
        (pick(self, best), pick(a, b))
    }
    #[inline(always)]
    fn where_equal(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| if a.0[i] == b.0[i] { self.0[i] } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        let x = unsafe { p.cast::<[bf16; 16]>().read_unaligned() };
        Self(x.map(|x| f32::from_bits((x.to_bits() as u32) << 16)))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { p.cast::<[f16; 16]>().read_unaligned() }.map(f16::to_f32))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{V16, Vectorized};
    use half::{bf16, f16};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn run_avx512<K: Vectorized>(k: K) {
        k.run::<Avx512>()
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn run_avx2<K: Vectorized>(k: K) {
        k.run::<Avx2>()
    }

    #[derive(Clone, Copy)]
    pub struct Avx512(__m512);

    // SAFETY of every block below: only run_avx512 instantiates this type, so the instructions are there; pointers are
    // the caller's promise.
    impl V16 for Avx512 {
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_add_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn sub(self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_sub_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mul_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn max(self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_max_ps(self.0, b.0) })
        }
        #[inline(always)]
        fn nan_or(self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mask_mov_ps(b.0, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0), self.0) })
        }
        #[inline(always)]
        fn winner(self, a: Self, best: Self, b: Self) -> (Self, Self) {
            // SAFETY: see above.
            unsafe {
                // "Not less or equal" holds for NaNs on either side.
                let known = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(best.0, best.0);
                let wins = _mm512_mask_cmp_ps_mask::<_CMP_NLE_UQ>(known, self.0, best.0);
                (Self(_mm512_mask_mov_ps(best.0, wins, self.0)), Self(_mm512_mask_mov_ps(b.0, wins, a.0)))
            }
        }
        #[inline(always)]
        fn where_equal(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a.0, b.0), self.0) })
        }
        #[inline(always)]
        unsafe fn load_part(p: *const f32, n: usize) -> Self {
            // SAFETY: see above; a masked lane is not read.
            unsafe {
                if n >= 16 {
                    return Self::load(p);
                }
                Self(_mm512_maskz_loadu_ps(mask(n), p))
            }
        }
        #[inline(always)]
        unsafe fn store_part(self, p: *mut f32, n: usize) {
            // SAFETY: see above; a masked lane is not written.
            unsafe {
                if n >= 16 {
                    return self.store(p);
                }
                _mm512_mask_storeu_ps(p, mask(n), self.0)
            }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const bf16) -> Self {
            // SAFETY: see above.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
            }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const f16) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) })
        }
        #[inline(always)]
        unsafe fn stream(self, p: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_stream_ps(p, self.0) }
        }
        #[inline(always)]
        fn transpose(v: &mut [Self; 16]) {
            // SAFETY: see above.
            unsafe {
                // Within each quarter: pairs of rows, then fours.
                let mut a = [_mm512_setzero_ps(); 16];
                for i in 0..8 {
                    a[2 * i] = _mm512_unpacklo_ps(v[2 * i].0, v[2 * i + 1].0);
                    a[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i].0, v[2 * i + 1].0);
                }
                let mut b = [_mm512_setzero_ps(); 16];
                for i in 0..4 {
                    for j in 0..2 {
                        let lo = _mm512_castps_pd(a[4 * i + j]);
                        let hi = _mm512_castps_pd(a[4 * i + j + 2]);
                        b[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi));
                        b[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi));
                    }
                }
                // b[4i + j] holds columns j, j+4, j+8, j+12 of rows 4i..4i+4: now quarters change places.
                for j in 0..4 {
                    let (p, q) =
                        (_mm512_shuffle_f32x4::<0x88>(b[j], b[4 + j]), _mm512_shuffle_f32x4::<0xdd>(b[j], b[4 + j]));
                    let (r, s) = (
                        _mm512_shuffle_f32x4::<0x88>(b[8 + j], b[12 + j]),
                        _mm512_shuffle_f32x4::<0xdd>(b[8 + j], b[12 + j]),
                    );
                    v[j] = Self(_mm512_shuffle_f32x4::<0x88>(p, r));
                    v[8 + j] = Self(_mm512_shuffle_f32x4::<0xdd>(p, r));
                    v[4 + j] = Self(_mm512_shuffle_f32x4::<0x88>(q, s));
                    v[12 + j] = Self(_mm512_shuffle_f32x4::<0xdd>(q, s));
                }
            }
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let high =
                    _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0))));
                sum_halves(_mm512_castps512_ps256(self.0), _mm512_castps512_ps256(high))
            }
        }
    }

    #[inline(always)]
    fn mask(n: usize) -> u16 {
        ((1u32 << n) - 1) as u16
    }

    /// The default `sum`'s order. AVX is there: both levels that call it have it.
    #[inline(always)]
    unsafe fn sum_halves(low: __m256, high: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm256_add_ps(low, high);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[derive(Clone, Copy)]
    pub struct Avx2(__m256, __m256);

    // SAFETY of every block below: only run_avx2 instantiates this type, so the instructions are there; pointers are
    // the caller's promise.
    impl V16 for Avx2 {
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: see above.
            let v = unsafe { _mm256_set1_ps(x) };
            Self(v, v)
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(p, self.0);
                _mm256_storeu_ps(p.add(8), self.1);
            }
        }
        #[inline(always)]
        fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn sub(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_sub_ps(self.0, b.0), _mm256_sub_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn max(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
        }
        #[inline(always)]
        fn nan_or(self, b: Self) -> Self {
            // SAFETY: see above.
            let half = |x, b| unsafe { _mm256_blendv_ps(b, x, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)) };
            Self(half(self.0, b.0), half(self.1, b.1))
        }
        #[inline(always)]
        fn winner(self, a: Self, best: Self, b: Self) -> (Self, Self) {
            // SAFETY: see above.
            let half = |x, a, best, b| unsafe {
                // "Not less or equal" holds for NaNs on either side.
                let known = _mm256_cmp_ps::<_CMP_ORD_Q>(best, best);
                let wins = _mm256_and_ps(known, _mm256_cmp_ps::<_CMP_NLE_UQ>(x, best));
                (_mm256_blendv_ps(best, x, wins), _mm256_blendv_ps(b, a, wins))
            };
            let (low, high) = (half(self.0, a.0, best.0, b.0), half(self.1, a.1, best.1, b.1));
            (Self(low.0, high.0), Self(low.1, high.1))
        }
        #[inline(always)]
        fn where_equal(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            let half = |x, a, b| unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b), x) };
            Self(half(self.0, a.0, b.0), half(self.1, a.1, b.1))
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const bf16) -> Self {
            // SAFETY: see above.
            let half = |p: *const bf16| unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            };
            Self(half(p), half(p.wrapping_add(8)))
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const f16) -> Self {
            // SAFETY: see above.
            let half = |p: *const f16| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) };
            Self(half(p), half(p.wrapping_add(8)))
        }
        #[inline(always)]
        unsafe fn stream(self, p: *mut f32) {
            // SAFETY: see above.
            unsafe {
                _mm256_stream_ps(p, self.0);
                _mm256_stream_ps(p.add(8), self.1);
            }
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: see above.
            unsafe { sum_halves(self.0, self.1) }
        }
    }
}
