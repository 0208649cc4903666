// Fragments as tensor cores multiply them. 16 bits: as they are. float32: as tf32, eleven significant bits, in TERMS products.
//
// One term: x is rounded to tf32, |error| <= 2^-11 |x|, and a b to (2^-10 + 2^-22) |a b|.
//
// Three terms (Ootomo & Yokota 2022, International Journal of High Performance Computing Applications 36, "Recovering single
// precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance"): x = hi + lo + e and
// a b = lo hi + hi lo + hi hi + lo lo + e b + a e. With 2^E <= |x| < 2^(E + 1), hi is x rounded to tf32; x - hi is exact, a
// multiple of 2^(E - 23), at most 2^(E - 11); without what is beyond its eleven bits it is lo, |e| <= 2^(E - 23). So what is left
// out, lo lo + e b + a e, is at most (2^-22 + 2 2^-23) |a b| = 2^-21 |a b|. (Below 2^-113 lo is denormal and |e| < 2^-136.)
//
// Sums. A tensor core adds four or eight products and what was there by aligning them to the largest and cutting off what is
// beyond its 24 bits (Fasi, Higham, Mikaitis & Pranesh 2021, PeerJ Computer Science 7:e330): for the eight of one instruction
// at most 12 2^-23 of the sum of magnitudes. Three terms therefore start from zero in each step of eight, small ones first, and
// the step is added to the running sum by an ordinary addition. With S the sum of |a b| over a depth of n:
//
//     three terms    |error| <= (2^-21 + 13 2^-23 + n / 8 2^-24) S
//     one term       |error| <= (2^-10 + 2^-22 + n / 8 12 2^-23) S
//
// where float32 by multiply-add has n 2^-24 S. Numbers that are not finite stay so: NaN is NaN, and infinity (or what rounds to
// it, from 2^128 - 2^116 on) becomes NaN by three terms, since lo is NaN (or the other infinity); by one term it is infinity.
#pragma once
#include "mma/warp.cuh"

#if STORAGE != 0
static_assert(TERMS == 1, "16 bits are multiplied as they are");

struct Factor {
    u32 at[4];
    Factor() = default;
    __device__ explicit Factor(const u32 (&x)[4]) : at{x[0], x[1], x[2], x[3]} {}
    /// sum += this, as A, times half of `b`.
    __device__ void times(const Factor &b, int half, float (&sum)[4]) const { mma(sum, at, b.at[2 * half], b.at[2 * half + 1]); }
};

/// The sums of sixteen rows of A, of which a lane has lane / 4 and lane / 4 + 8: a product with ones.
struct RowSums {
    float at[4] = {};
    __device__ void add(const u32 (&x)[4]) {
        constexpr u32 ONES = STORAGE == 1 ? 0x3c003c00 : 0x3f803f80;
        mma(at, x, ONES, ONES);
    }
    __device__ void finish() {}
    __device__ float of(int half) const { return at[2 * half]; }
};
#else
#if TERMS == 3
/// x = hi + lo. Halves are rounded away from zero, as cvt.rna.tf32 does, in two instructions instead of four: it looks for NaN, which
/// lo remembers here.
struct Factor {
    u32 hi[4], lo[4];
    Factor() = default;
    __device__ explicit Factor(const u32 (&x)[4]) {
        constexpr u32 TF32 = 0xffffe000;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            hi[i] = (x[i] + 0x1000) & TF32;
            lo[i] = __float_as_uint(__uint_as_float(x[i]) - __uint_as_float(hi[i])) & TF32;
        }
    }
    __device__ void times(const Factor &b, int half, float (&sum)[4]) const {
        float step[4] = {};
        mma(step, lo, b.hi[2 * half], b.hi[2 * half + 1]);
        mma(step, hi, b.lo[2 * half], b.lo[2 * half + 1]);
        mma(step, hi, b.hi[2 * half], b.hi[2 * half + 1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] += step[i];
    }
};
#else
static_assert(TERMS == 1, "one product or three");

struct Factor {
    u32 at[4];
    Factor() = default;
    __device__ explicit Factor(const u32 (&x)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(at[i]) : "f"(__uint_as_float(x[i])));
    }
    __device__ void times(const Factor &b, int half, float (&sum)[4]) const { mma(sum, at, b.at[2 * half], b.at[2 * half + 1]); }
};
#endif

/// Float32 as it is, whatever TERMS. A lane adds up two of eight depths, four lanes a row.
struct RowSums {
    float at[2] = {};
    __device__ void add(const u32 (&x)[4]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) at[half] += __uint_as_float(x[half]) + __uint_as_float(x[half + 2]);
    }
    __device__ void finish() {
#pragma unroll
        for (float &sum : at) {
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
        }
    }
    __device__ float of(int half) const { return at[half]; }
};
#endif
