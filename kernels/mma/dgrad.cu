// dx = the transpose of the convolution, applied to dy, on tensor cores: implicit GEMM, pixels [n h w] x channels, depth
// (r, s, k).
#include "mma/image.cuh"
#include "tile/epilogue.cuh"

/// BN channels of the filters: depth runs (tap row, tap column, filter) over the taps of a phase.
struct Filters : DepthOuter<BN> {
    const Real *w;
    const Conv &a;
    int rows, columns, width;
    Walk at;
    const Walk step, apart;
    __device__ Filters(const Real *w, const Taps &rows, const Taps &columns, const Conv &a, int channel)
        : w(w + (rows.first * a.s + columns.first) * a.gc + channel + column()), a(a), rows(rows.count), columns(columns.count),
          width(a.gc - channel - column()), at(depth(), columns.count, a.gk), step(BK, columns.count, a.gk),
          apart(APART, columns.count, a.gk) {}
    __device__ void load(u32 to) {
        Walk tap = at;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int row = tap.inner * a.r + tap.outer * a.tap_step_h;
            const Real *p = w + (long long)(row * a.s + tap.middle * a.tap_step_w) * a.gc;
            chunk_of(to + own(i), p, tap.outer < rows ? width : 0);
            tap.advance(apart, columns, a.gk);
        }
        at.advance(step, columns, a.gk);
    }
};

// dy [N,P,Q,K], w [K,R,S,C/groups], b [C] in float32 or x [N,H,W,C], index [N,H,W,C/4], dx [N,H,W,C]. With b and ReLU this is
// the transposed convolution; with x and the index it goes back through what x is pooled from, dx [N,2H,2W,C].
KERNEL(conv_dgrad_mma, 5, Conv) {
    const Phase at(a, BM);
    const int across = div_up(a.gc, BN), group = blockIdx.y / across, channel = blockIdx.y % across * BN;

    Tile tile;
    if (const int depth = at.rows.count * at.columns.count * a.gk) {
        const Image image{a.p, a.q, a.gk, a.k, -at.rows.back, -at.columns.back};
        Patches from(image, o.in<Real>(0) + group * a.gk, at.rows.count, at.columns.count, [&](int i) {
            const Walk pixel(at.first + i, at.h, at.w);
            return make_int3(at.first + i < at.pixels ? pixel.outer : -1, pixel.middle + at.rows.out, pixel.inner + at.columns.out);
        });
        Filters filters(o.in<Real>(1) + (u64)group * a.gk * a.r * a.s * a.gc, at.rows, at.columns, a, channel);
        tile.multiply(from, filters, div_up(depth, BK));
    }
    const Act act{a.bias ? o.in<float>(2) + group * a.gc : nullptr, a.gc, a.relu};
    tile.stage([&](int column, float v) { return act(channel + column, v); });
    each_chunk(1, [&](int i, int chunk) {
        const Walk pixel(at.first + i, at.h, at.w);
        const int row = at.row(pixel.middle), column = at.column(pixel.inner);
        if (at.first + i >= at.pixels || row >= a.h || column >= a.w) return;
        const u64 line = (u64)pixel.outer * a.h + row, first = (line * a.w + column) * a.c + group * a.gc;
        const int c = channel + CHUNK * chunk;
        Chunk v = staged(i, chunk);
        if (a.mask) {
            const Chunk x = take(o.in<Real>(2) + first, c, a.gc);
            for (int e = 0; e < CHUNK; ++e) v.at[e] = widen(x.at[e]) > 0 ? v.at[e] : Real{};
        }
        if (!a.pool) return put(o.out<Real>(4) + first, c, a.gc, v);
        for (int half = 0; half < CHUNK / 4 && c + 4 * half < a.gc; ++half) {
            Real *dz = o.out<Real>(4) + ((4 * line * a.w + 2 * column) * a.c + group * a.gc + c + 4 * half);
            spread(four(v, half), o.in<u8>(3)[(first + c) / 4 + half], reinterpret_cast<Four *>(dz), 2 * a.w, a.c / 4);
        }
    });
}
