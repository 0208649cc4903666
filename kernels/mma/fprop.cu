// y = act(x * w + b) on tensor cores: implicit GEMM, pixels [n p q] x filters, depth (r, s, c).
#include "mma/image.cuh"
#include "tile/epilogue.cuh"

// x [N,H,W,C], w [K,R,S,C/groups], b [K] in float32, y [N,P,Q,K]; pooled: y [N,P/2,Q/2,K], index [N,P/2,Q/2,K/4]
KERNEL(conv_fprop_mma, 5, Conv) {
    const int depth = a.r * a.s * a.gc, pixels = a.n * a.p * a.q, across = div_up(a.gk, BN);
    const int first = blockIdx.x * BM, group = blockIdx.y / across, filter = blockIdx.y % across * BN;

    const Image image{a.h, a.w, a.gc, a.c, a.dilation_h, a.dilation_w};
    Patches from(image, o.in<Real>(0) + group * a.gc, a.r, a.s, [&](int i) {
        const Walk out = pixel_of<Walk>(first + i, a);
        return make_int3(first + i < pixels ? out.outer : -1, out.middle * a.stride_h - a.pad_h, out.inner * a.stride_w - a.pad_w);
    });
    Along<BN> filters(o.in<Real>(1) + (u64)group * a.gk * depth, filter, a.gk, depth, 0, depth);

    Tile tile;
    tile.multiply(from, filters, div_up(depth, BK));
    const Act act{a.bias ? o.in<float>(2) + group * a.gk : nullptr, a.gk, a.relu};
    tile.stage([&](int column, float v) { return act(filter + column, v); });
    if (a.pool) {
        each_chunk(4, [&](int row, int chunk) {
            if (first + row >= pixels) return;
            Chunk window[4];
            for (int i = 0; i < 4; ++i) window[i] = staged(row + i, chunk);
            for (int half = 0; half < CHUNK / 4; ++half) {
                const int column = filter + CHUNK * chunk + 4 * half;
                if (column >= a.gk) return;
                float4 v[4];
                for (int i = 0; i < 4; ++i) {
                    const Four f = four(window[i], half);
                    v[i] = make_float4(widen(f.at[0]), widen(f.at[1]), widen(f.at[2]), widen(f.at[3]));
                }
                u32 index;
                const float4 best = largest(v, index);
                const u64 at = ((u64)(first + row) / 4 * a.k + group * a.gk + column) / 4;
                o.out<Four>(3)[at] = {narrow<Real>(best.x), narrow<Real>(best.y), narrow<Real>(best.z), narrow<Real>(best.w)};
                if (a.index) o.out<u8>(4)[at] = index;
            }
        });
        return;
    }
    Real *y = o.out<Real>(3) + group * a.gk;
    each_chunk(1, [&](int row, int chunk) {
        if (first + row < pixels) put(y + (u64)(first + row) * a.k, filter + CHUNK * chunk, a.gk, staged(row, chunk));
    });
}
