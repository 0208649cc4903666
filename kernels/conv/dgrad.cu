// dx = the transpose of the convolution, applied to dy: implicit GEMM, pixels [n h w] x channels, depth (r, s, k).
#include "tile/image.cuh"
#include "tile/epilogue.cuh"
#include "tile/order.cuh"

/// BN channels of the filters: depth runs (tap row, tap column, filter) over the taps of a phase.
struct Filters : Straight<BN> {
    const float *w;
    const Conv &a;
    int rows, columns, width;
    Walk at;
    __device__ Filters(const float *w, const Taps &rows, const Taps &columns, const Conv &a, int channel)
        : w(w + (rows.first * a.s + columns.first) * a.gc + channel + column), a(a), rows(rows.count), columns(columns.count),
          width(busy() ? a.gc - channel - column : 0), at(k, columns.count, a.gk) {}
    __device__ float4 load() {
        const int row = at.inner * a.r + at.outer * a.tap_step_h;
        const float4 v = four(w + (row * a.s + at.middle * a.tap_step_w) * a.gc, at.outer < rows ? width : 0);
        at.advance(BK, columns, a.gk);
        return v;
    }
};

// dy [N,P,Q,K], w [K,R,S,C/groups], b [C] or x [N,H,W,C], index [N,H,W,C/4], dx [N,H,W,C]. With b and ReLU this is the
// transposed convolution; with x and the index it goes back through what x is pooled from, dx [N,2H,2W,C].
KERNEL(conv_dgrad, 5, Conv) {
    const Phase at(a, BM);
    const int across = div_up(a.gc, BN), group = blockIdx.y / across, channel = blockIdx.y % across * BN;

    Tile tile;
    if (const int depth = at.rows.count * at.columns.count * a.gk) {
        const Image image{a.p, a.q, a.gk, a.k, -at.rows.back, -at.columns.back};
        const int pixel = at.first + Transposed<BM>().row;
        const Walk p(pixel, at.h, at.w);
        const float *dy = o.in<float>(0) + (u64)p.outer * image.size() + group * a.gk;
        const int row = p.middle + at.rows.out, column = p.inner + at.columns.out;
        Patches from(image, dy, pixel < at.pixels, row, column, at.rows.count, at.columns.count);
        Filters filters(o.in<float>(1) + (u64)group * a.gk * a.r * a.s * a.gc, at.rows, at.columns, a, channel);
        tile.multiply(from, filters, div_up(depth, BK));
    }
    const Act act{a.bias ? o.in<float>(2) + group * a.gc : nullptr, a.gc, a.relu};
    // The phase is found anew: kept during the product, it costs registers that the product needs.
    tile.each([&, at = Phase(a, BM)](int i, int j, float4 v) {
        const Walk p(at.first + i, at.h, at.w);
        const int row = at.row(p.middle), column = at.column(p.inner);
        if (at.first + i >= at.pixels || row >= a.h || column >= a.w) return;
        const u64 line = (u64)p.outer * a.h + row, pixel = (line * a.w + column) * a.c + group * a.gc;
        if (a.mask) v = positive(v, take(o.in<float>(2) + pixel, channel + j, a.gc));
        if (!a.pool) return put(o.out<float>(4) + pixel, channel + j, a.gc, act(channel + j, v));
        if (channel + j >= a.gc) return;
        typedef Neighbours<4, float> Four;
        float *dz = o.out<float>(4) + ((4 * line * a.w + 2 * column) * a.c + group * a.gc + channel + j);
        const Four d{v.x, v.y, v.z, v.w};
        spread(d, o.in<u8>(3)[(pixel + channel + j) / 4], reinterpret_cast<Four *>(dz), 2 * a.w, a.c / 4);
    });
}
