// The plainest convolutions: one thread per result, a loop over what it sums, in the order of the tiled kernels. For
// groups too narrow for tiles, and to check the tiles by on the device: one chain of fused multiply-adds in the same
// order has the same bits.
#include "tile/epilogue.cuh"

/// The place of element `i` of a tensor with the three inner extents h, w, c.
struct Place {
    int n, h, w, c;
    __device__ Place(u64 i, int hs, int ws, int cs)
        : n(i / cs / ws / hs), h(i / cs / ws % hs), w(i / cs % ws), c(i % cs) {}
};

__device__ inline u64 thread() { return (u64)blockIdx.x * THREADS + threadIdx.x; }
__device__ inline u64 offset(int n, int h, int w, int c, int hs, int ws, int cs) {
    return (((u64)n * hs + h) * ws + w) * cs + c;
}

// x [N,H,W,C], w [K,R,S,C/groups], b [K], y [N,P,Q,K]
KERNEL(conv_direct_fprop, 4, Conv) {
    if (thread() >= (u64)a.n * a.p * a.q * a.k) return;
    const Place y(thread(), a.p, a.q, a.k);
    const int group = y.c / a.gk;
    float sum = 0;
    for (int r = 0; r < a.r; ++r)
        for (int s = 0; s < a.s; ++s) {
            const int h = y.h * a.stride_h - a.pad_h + r * a.dilation_h, w = y.w * a.stride_w - a.pad_w + s * a.dilation_w;
            if (h < 0 || h >= a.h || w < 0 || w >= a.w) continue;
            const float *x = o.in<float>(0) + offset(y.n, h, w, group * a.gc, a.h, a.w, a.c);
            const float *f = o.in<float>(1) + offset(y.c, r, s, 0, a.r, a.s, a.gc);
            for (int c = 0; c < a.gc; ++c) sum = __fmaf_rn(x[c], f[c], sum);
        }
    o.out<float>(3)[thread()] = Act{a.bias ? o.in<float>(2) : nullptr, a.k, a.relu}(y.c, sum);
}

// dy [N,P,Q,K], w [K,R,S,C/groups], b [C] or x [N,H,W,C], dx [N,H,W,C]
KERNEL(conv_direct_dgrad, 4, Conv) {
    if (thread() >= (u64)a.n * a.h * a.w * a.c) return;
    const Place x(thread(), a.h, a.w, a.c);
    const int group = x.c / a.gc;
    float sum = 0;
    for (int r = 0; r < a.r; ++r)
        for (int s = 0; s < a.s; ++s) {
            const int h = x.h + a.pad_h - r * a.dilation_h, w = x.w + a.pad_w - s * a.dilation_w;
            const int p = h / a.stride_h, q = w / a.stride_w;
            if (h < 0 || w < 0 || h % a.stride_h || w % a.stride_w || p >= a.p || q >= a.q) continue;
            const float *dy = o.in<float>(0) + offset(x.n, p, q, group * a.gk, a.p, a.q, a.k);
            const float *f = o.in<float>(1) + offset(group * a.gk, r, s, x.c % a.gc, a.r, a.s, a.gc);
            for (int k = 0; k < a.gk; ++k) sum = __fmaf_rn(dy[k], f[(u64)k * a.r * a.s * a.gc], sum);
        }
    if (a.mask) sum = positive(sum, o.in<float>(2)[thread()]);
    o.out<float>(3)[thread()] = Act{a.bias ? o.in<float>(2) : nullptr, a.c, a.relu}(x.c, sum);
}

// x [N,H,W,C], dy [N,P,Q,K], dw [parts,K,R,S,C/groups]: pixels `part` at a time, blockIdx.y counts the parts
KERNEL(conv_direct_wgrad, 3, Conv) {
    const u64 size = (u64)a.k * a.r * a.s * a.gc;
    if (thread() >= size) return;
    const Place f(thread(), a.r, a.s, a.gc);
    const int channel = f.n / a.gk * a.gc + f.c, end = min((blockIdx.y + 1) * a.part, a.n * a.p * a.q);
    float sum = 0;
    for (int pixel = blockIdx.y * a.part; pixel < end; ++pixel) {
        const Place y(pixel, a.p, a.q, 1);
        const int h = y.h * a.stride_h - a.pad_h + f.h * a.dilation_h, w = y.w * a.stride_w - a.pad_w + f.w * a.dilation_w;
        if (h < 0 || h >= a.h || w < 0 || w >= a.w) continue;
        sum = __fmaf_rn(o.in<float>(1)[(u64)pixel * a.k + f.n], o.in<float>(0)[offset(y.n, h, w, channel, a.h, a.w, a.c)], sum);
    }
    o.out<float>(2)[blockIdx.y * size + thread()] = sum;
}
