// y = act(x * w + b): implicit GEMM, pixels [n p q] x filters, depth (r, s, c). Where y is pooled, each thread has all pixels
// of its windows.
#include "tile/image.cuh"
#include "tile/epilogue.cuh"
#include "tile/order.cuh"

// x [N,H,W,C], w [K,R,S,C/groups], b [K], y [N,P,Q,K]; pooled: y [N,P/2,Q/2,K], index [N,P/2,Q/2,K/4]
KERNEL(conv_fprop, 5, Conv) {
    const int depth = a.r * a.s * a.gc, pixels = a.n * a.p * a.q, across = div_up(a.gk, BN);
    const int first = blockIdx.x * BM, group = blockIdx.y / across, filter = blockIdx.y % across * BN;

    const Image image{a.h, a.w, a.gc, a.c, a.dilation_h, a.dilation_w};
    const int pixel = first + Transposed<BM>().row;
    const Walk out = pixel_of<Walk>(pixel, a);
    const float *x = o.in<float>(0) + (u64)out.outer * image.size() + group * a.gc;
    Patches from(image, x, pixel < pixels, out.middle * a.stride_h - a.pad_h, out.inner * a.stride_w - a.pad_w, a.r, a.s);
    Along<BN> filters(o.in<float>(1) + (u64)group * a.gk * depth, filter, a.gk, depth, 0, depth);

    Tile tile;
    tile.multiply(from, filters, div_up(depth, BK));
    const Act act{a.bias ? o.in<float>(2) + group * a.gk : nullptr, a.gk, a.relu};
    if (a.pool) {
        tile.squares([&](int i, int j, float4 (&v)[4]) {
            if (first + i >= pixels || filter + j >= a.gk) return;
            for (float4 &v : v) v = act(filter + j, v);
            u32 index;
            const float4 best = largest(v, index);
            const u64 at = ((u64)(first + i) / 4 * a.k + group * a.gk + filter + j) / 4;
            o.out<float4>(3)[at] = best;
            if (a.index) o.out<u8>(4)[at] = index;
        });
        return;
    }
    tile.each([&](int i, int j, float4 v) {
        if (first + i < pixels) put(o.out<float>(3) + (u64)(first + i) * a.k + group * a.gk, filter + j, a.gk, act(filter + j, v));
    });
}
