// Loaders of images: implicit im2col. Which pixels a filter covers is arithmetic, never a buffer.
#pragma once
#include "mma/matrix.cuh"
#include "tile/order.cuh"

/// A position in three nested loops, the two inner ones over `middles` and `inners`; or a distance between two.
struct Walk {
    int outer, middle, inner;
    __device__ Walk(int at, int middles, int inners)
        : outer(at / inners / middles), middle(at / inners % middles), inner(at % inners) {}
    __device__ void advance(const Walk &by, int middles, int inners) {
        inner += by.inner;
        middle += by.middle;
        outer += by.outer;
        if (inner >= inners) inner -= inners, ++middle;
        if (middle >= middles) middle -= middles, ++outer;
    }
    __device__ void next(int middles, int inners) {
        if (++inner == inners) inner = 0, ++middle;
        if (middle == middles) middle = 0, ++outer;
    }
};

/// Bit i says whether `at` + i `step` is one of `extent`, for i < taps <= 31.
__device__ inline u32 inside(int at, int step, int taps, int extent) {
    u32 bits = 0;
    for (int i = 0; i < taps; ++i, at += step) bits |= u32((unsigned)at < (unsigned)extent) << i;
    return bits;
}

/// The channels of pixel `pixel`, counted through all images from x on. Pixels are counted in 32 bits and elements are not, of
/// which a batch can have more than 2^32: this is one multiply-add, 32 x 32 + 64 bits, of bytes.
__device__ inline const Real *channels_of(const Real *x, int pixel, const Image &image) {
    return reinterpret_cast<const Real *>(reinterpret_cast<const char *>(x) + (long long)pixel * (SIZE * image.stride));
}

/// What taps x channels see of BM pixels, one row per pixel: depth is (tap row, tap column, channel).
struct Patches : DepthInner<BM> {
    typedef DepthInner<BM> Place;
    const Image image;
    const Real *x;
    const int columns;
    Walk tap;
    const Walk step;
    /// By row: the pixel under tap 0, 0, counted through all images, and which taps are inside.
    int origin[EACH];
    u32 rows_inside[EACH], columns_inside[EACH];

    /// `where(i)` says which pixel a row of the tile looks at: [image, row, column], the image negative for none.
    template <class Where>
    __device__ Patches(const Image &image, const Real *x, int rows, int columns, Where where)
        : image(image), x(x), columns(columns), tap(CHUNK * chunk(), columns, image.channels), step(BK, columns, image.channels) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int3 at = where(row() + i * APART);
            origin[i] = (at.x * image.h + at.y) * image.w + at.z;
            rows_inside[i] = at.x < 0 ? 0 : inside(at.y, image.row_step, rows, image.h);
            columns_inside[i] = inside(at.z, image.column_step, columns, image.w);
        }
    }
    /// How many pixels a tap is from the origin.
    __device__ int from(const Walk &tap) const { return tap.outer * image.row_step * image.w + tap.middle * image.column_step; }
    __device__ bool sees(int i, const Walk &tap) const {
        return rows_inside[i] >> min(tap.outer, 31) & columns_inside[i] >> tap.middle & 1;
    }
    __device__ void load(u32 to) {
        if (VEC == CHUNK) {
            const int away = from(tap);
#pragma unroll
            for (int i = 0; i < EACH; ++i) copy(to + own(i), channels_of(x + tap.inner, origin[i] + away, image), sees(i, tap));
        } else {
            Chunk chunks[EACH];
            Walk at = tap;
#pragma unroll
            for (int e = 0; e < CHUNK; ++e) {
                const int away = from(at);
#pragma unroll
                for (int i = 0; i < EACH; ++i)
                    chunks[i].at[e] = sees(i, at) ? *channels_of(x + at.inner, origin[i] + away, image) : Real{};
                at.next(columns, image.channels);
            }
#pragma unroll
            for (int i = 0; i < EACH; ++i) put(to + own(i), chunks[i]);
        }
        tap.advance(step, columns, image.channels);
    }
};
