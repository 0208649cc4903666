// dx = the transpose of the convolution, applied to dy: implicit GEMM, pixels [n h w] x channels, depth (r, s, k).
//
// Gathered, never scattered. The taps that lead from a pixel to an output are every `tap_step`-th one from a first that
// depends on the pixel modulo the stride alone. So blocks take pixels of one such phase; within it this is a convolution
// of stride 1 over dy with fewer taps, and no product is wasted.
#include "tile/image.cuh"
#include "tile/epilogue.cuh"

/// The taps along one axis that reach pixels of one phase.
struct Taps {
    int first, count, step;
    /// The output under tap `first` of the phase's pixel 0; outputs of further taps are `back` earlier each.
    int out, back;
    __device__ Taps(int phase, int pad, int taps, int stride, int dilation, int step) : step(step) {
        first = 0;
        while (first < taps && (phase + pad - first * dilation) % stride != 0) ++first;
        count = div_up(taps - first, step);
        out = (phase + pad - first * dilation) / stride;
        back = step * dilation / stride;
    }
};

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
    // Every phase is as large as the largest; pixels that some lack are left out where they are written.
    const int h = div_up(a.h, a.stride_h), w = div_up(a.w, a.stride_w), pixels = a.n * h * w;
    const int tiles = div_up(pixels, BM), first = blockIdx.x % tiles * BM, phase = blockIdx.x / tiles;
    const int across = div_up(a.gc, BN), group = blockIdx.y / across, channel = blockIdx.y % across * BN;
    const int phase_h = phase / a.stride_w, phase_w = phase % a.stride_w;
    const Taps rows(phase_h, a.pad_h, a.r, a.stride_h, a.dilation_h, a.tap_step_h);
    const Taps columns(phase_w, a.pad_w, a.s, a.stride_w, a.dilation_w, a.tap_step_w);

    Tile tile;
    if (const int depth = rows.count * columns.count * a.gk) {
        const Image image{a.p, a.q, a.gk, a.k, -rows.back, -columns.back};
        const int pixel = first + Transposed<BM>().row;
        const Walk at(pixel, h, w);
        const float *dy = o.in<float>(0) + (u64)at.outer * image.size() + group * a.gk;
        Patches from(image, dy, pixel < pixels, at.middle + rows.out, at.inner + columns.out, rows.count, columns.count);
        Filters filters(o.in<float>(1) + (u64)group * a.gk * a.r * a.s * a.gc, rows, columns, a, channel);
        tile.multiply(from, filters, div_up(depth, BK));
    }
    const Act act{a.bias ? o.in<float>(2) + group * a.gc : nullptr, a.gc, a.relu};
    tile.each([&](int i, int j, float4 v) {
        const Walk at(first + i, h, w);
        const int row = at.middle * a.stride_h + phase_h, column = at.inner * a.stride_w + phase_w;
        if (first + i >= pixels || row >= a.h || column >= a.w) return;
        const u64 line = (u64)at.outer * a.h + row, pixel = (line * a.w + column) * a.c + group * a.gc;
        if (a.mask) v = positive(v, take(o.in<float>(2) + pixel, channel + j, a.gc));
        if (!a.pool) return put(o.out<float>(4) + pixel, channel + j, a.gc, act(channel + j, v));
        if (channel + j >= a.gc) return;
        float *dz = o.out<float>(4) + ((4 * line * a.w + 2 * column) * a.c + group * a.gc + channel + j);
        spread(v, o.in<u8>(3)[(pixel + channel + j) / 4], reinterpret_cast<float4 *>(dz), 2 * a.w, a.c / 4);
    });
}
