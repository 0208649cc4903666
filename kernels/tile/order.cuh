// In which order convolutions take pixels.
#pragma once
#include "common.cuh"

/// fprop: the pixel of y in row `i` of the product. Where y is pooled, pixels come window by window, [n p/2 q/2] x the four of
/// a window.
template <class Walk>
__device__ inline Walk pixel_of(int i, const Conv &a) {
    if (!a.pool) return Walk(i, a.p, a.q);
    Walk at(i / 4, a.p / 2, a.q / 2);
    at.middle = 2 * at.middle + i / 2 % 2;
    at.inner = 2 * at.inner + i % 2;
    return at;
}

// dgrad. Gathered, never scattered: the taps that lead from a pixel to an output are every `tap_step`-th one from a first
// that depends on the pixel modulo the stride alone. So blocks take pixels of one such phase; within it this is a convolution
// of stride 1 over dy with fewer taps, and no product is wasted.

/// The taps along one axis that reach pixels of one phase.
struct Taps {
    int first, count;
    /// The output under tap `first` of the phase's pixel 0; outputs of further taps are `back` earlier each.
    int out, back;
    __device__ Taps(int phase, int pad, int taps, int stride, int dilation, int step) {
        first = 0;
        while (first < taps && (phase + pad - first * dilation) % stride != 0) ++first;
        count = (taps - first + step - 1) / step;
        out = (phase + pad - first * dilation) / stride;
        back = step * dilation / stride;
    }
};

/// The phase of this block (blockIdx.x runs over tiles of `tile` pixels, then phases), and its first pixel [n h w].
struct Phase {
    /// Every phase is as large as the largest; pixels that some lack are left out where they are written.
    const Conv &a;
    const int h, w, pixels, first, phase_h, phase_w;
    const Taps rows, columns;
    __device__ Phase(const Conv &a, int tile)
        : Phase(a, (a.h + a.stride_h - 1) / a.stride_h, (a.w + a.stride_w - 1) / a.stride_w, tile) {}
    __device__ Phase(const Conv &a, int h, int w, int tile)
        : Phase(a, h, w, (a.n * h * w + tile - 1) / tile, tile) {}
    __device__ Phase(const Conv &a, int h, int w, int tiles, int tile)
        : a(a),
          h(h),
          w(w),
          pixels(a.n * h * w),
          first(blockIdx.x % tiles * tile),
          phase_h(blockIdx.x / tiles / a.stride_w),
          phase_w(blockIdx.x / tiles % a.stride_w),
          rows(phase_h, a.pad_h, a.r, a.stride_h, a.dilation_h, a.tap_step_h),
          columns(phase_w, a.pad_w, a.s, a.stride_w, a.dilation_w, a.tap_step_w) {}
    /// The row and column of dx that are the i-th of the phase.
    __device__ int row(int i) const { return i * a.stride_h + phase_h; }
    __device__ int column(int i) const { return i * a.stride_w + phase_w; }
};
