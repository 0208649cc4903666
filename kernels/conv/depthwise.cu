// Depthwise convolutions, one filter per channel: nothing to share between channels, so no tiles. Bandwidth decides.
#include "tile/epilogue.cuh"

#if !defined(VEC)
#error "-DVEC=: channels per thread"
#endif
static_assert(VEC == 1 || VEC == 4, "elements per load");

/// Sums of VEC neighbouring channels.
struct Sums {
    Pack<VEC> at = Pack<VEC>::fill(0);
    /// Adds the product with one tap of the filters [C,taps].
    __device__ void add(const float *x, const float *filter, int taps) {
        const auto from = Pack<VEC>::load(x);
#pragma unroll
        for (int v = 0; v < VEC; ++v) at.at[v] = __fmaf_rn(from.at[v], __ldg(filter + v * taps), at.at[v]);
    }
    __device__ void mask(const float *x) {
        const auto from = Pack<VEC>::load(x);
#pragma unroll
        for (int v = 0; v < VEC; ++v) at.at[v] = positive(at.at[v], from.at[v]);
    }
    __device__ void write(float *y, int channel, const Act &act) {
#pragma unroll
        for (int v = 0; v < VEC; ++v) at.at[v] = act(channel + v, at.at[v]);
        at.store(y);
    }
};

/// Which channels of which pixel of [N,h,w,C] a thread computes.
struct Place {
    int n, h, w, c;
    u64 i;
    __device__ Place(int hs, int ws, int cs) : i((u64)blockIdx.x * THREADS + threadIdx.x) {
        const u64 pixel = i / (cs / VEC);
        c = i % (cs / VEC) * VEC;
        w = pixel % ws, h = pixel / ws % hs, n = pixel / ws / hs;
        i *= VEC;
    }
};

// x [N,H,W,C], w [C,R,S,1], b [C], y [N,P,Q,C]
KERNEL(depthwise_fprop, 4, Conv) {
    const Place y(a.p, a.q, a.c);
    if (y.n >= a.n) return;
    const float *x = o.in<float>(0) + (u64)y.n * a.h * a.w * a.c + y.c, *f = o.in<float>(1) + y.c * a.r * a.s;
    Sums sum;
    for (int r = 0; r < a.r; ++r)
        for (int s = 0; s < a.s; ++s) {
            const int h = y.h * a.stride_h - a.pad_h + r * a.dilation_h, w = y.w * a.stride_w - a.pad_w + s * a.dilation_w;
            if (h < 0 || h >= a.h || w < 0 || w >= a.w) continue;
            sum.add(x + (h * a.w + w) * a.c, f + r * a.s + s, a.r * a.s);
        }
    sum.write(o.out<float>(3) + y.i, y.c, {a.bias ? o.in<float>(2) : nullptr, a.c, a.relu});
}

// dy [N,P,Q,C], w [C,R,S,1], b [C] or x [N,H,W,C], dx [N,H,W,C]
KERNEL(depthwise_dgrad, 4, Conv) {
    const Place x(a.h, a.w, a.c);
    if (x.n >= a.n) return;
    const float *dy = o.in<float>(0) + (u64)x.n * a.p * a.q * a.c + x.c, *f = o.in<float>(1) + x.c * a.r * a.s;
    Sums sum;
    for (int r = 0; r < a.r; ++r)
        for (int s = 0; s < a.s; ++s) {
            const int h = x.h + a.pad_h - r * a.dilation_h, w = x.w + a.pad_w - s * a.dilation_w;
            const int p = h / a.stride_h, q = w / a.stride_w;
            if (h < 0 || w < 0 || h % a.stride_h || w % a.stride_w || p >= a.p || q >= a.q) continue;
            sum.add(dy + (p * a.q + q) * a.c, f + r * a.s + s, a.r * a.s);
        }
    if (a.mask) sum.mask(o.in<float>(2) + x.i);
    sum.write(o.out<float>(3) + x.i, x.c, {a.bias ? o.in<float>(2) : nullptr, a.c, a.relu});
}

// x [N,H,W,C], dy [N,P,Q,C], dw [parts,C,R,S,1]: a block sums one tap of 32 channels over `part` pixels; VEC is no matter
KERNEL(depthwise_wgrad, 3, Conv) {
    constexpr int LANES = THREADS / 32;
    __shared__ float sums[LANES][32];
    const int taps = a.r * a.s, tap = blockIdx.x % taps, lane = threadIdx.x / 32;
    const int channel = blockIdx.x / taps * 32 + threadIdx.x % 32, end = min((blockIdx.y + 1) * a.part, a.n * a.p * a.q);
    const int down = tap / a.s * a.dilation_h - a.pad_h, right = tap % a.s * a.dilation_w - a.pad_w;
    float sum = 0;
    for (int pixel = blockIdx.y * a.part + lane; pixel < end && channel < a.c; pixel += LANES) {
        const int n = pixel / a.q / a.p, h = pixel / a.q % a.p * a.stride_h + down, w = pixel % a.q * a.stride_w + right;
        if (h < 0 || h >= a.h || w < 0 || w >= a.w) continue;
        const float *x = o.in<float>(0) + (((u64)n * a.h + h) * a.w + w) * a.c, *dy = o.in<float>(1) + (u64)pixel * a.c;
        sum = __fmaf_rn(__ldg(dy + channel), __ldg(x + channel), sum);
    }
    sums[lane][threadIdx.x % 32] = sum;
    __syncthreads();
    if (lane > 0 || channel >= a.c) return;
    for (int l = 1; l < LANES; ++l) sum += sums[l][threadIdx.x];
    o.out<float>(2)[((u64)blockIdx.y * a.c + channel) * taps + tap] = sum;
}
