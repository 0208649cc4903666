// Loaders of images: implicit im2col. Which pixels a filter covers is arithmetic, never a buffer.
#pragma once
#include "tile/matrix.cuh"
#include "tile/order.cuh"

/// A position in three nested loops, the two inner ones over `middles` and `inners`.
struct Walk {
    int outer, middle, inner;
    __device__ Walk(int at, int middles, int inners)
        : outer(at / inners / middles), middle(at / inners % middles), inner(at % inners) {}
    __device__ void advance(int by, int middles, int inners) {
        inner += by;
        while (inner >= inners) {
            inner -= inners;
            if (++middle == middles) {
                middle = 0;
                ++outer;
            }
        }
    }
};

/// Further outside than any tap leads back.
constexpr int OUTSIDE = -(1 << 30);

/// What taps x channels see of BM pixels, one row per pixel: depth is (tap row, tap column, channel).
struct Patches : Transposed<BM> {
    const Image image;
    const float *p;
    int row, column, channel;
    const int row_end, column_end, columns;
    /// `p` is the image that this thread's pixel looks at, from `row`, `column` on, through `taps` x `columns` taps.
    __device__ Patches(const Image &image, const float *p, bool exists, int row, int column, int taps, int columns)
        : image(image),
          p(p),
          row_end(row + taps * image.row_step),
          column_end(column + columns * image.column_step),
          columns(columns) {
        const Walk at(k, columns, image.channels);
        row += at.outer * image.row_step;
        this->column = column + at.middle * image.column_step;
        channel = at.inner;
        this->p += (row * image.w + this->column) * image.stride + channel;
        this->row = exists && busy() && at.outer < taps ? row : OUTSIDE;
    }
    __device__ float4 load() {
        if (VEC == 1) return {scalar(1), scalar(1), scalar(1), scalar(BK - 3)};
        const float4 v = image.has(row, column) ? __ldg(reinterpret_cast<const float4 *>(p)) : float4{};
        advance(BK);
        return v;
    }
    __device__ float scalar(int by) {
        const float v = image.has(row, column) ? __ldg(p) : 0;
        advance(by);
        return v;
    }
    __device__ void advance(int by) {
        channel += by;
        p += by;
        while (channel >= image.channels) {
            channel -= image.channels;
            column += image.column_step;
            p += image.column_step * image.stride - image.channels;
            if (column == column_end) {
                column -= columns * image.column_step;
                row += image.row_step;
                p += (image.row_step * image.w - columns * image.column_step) * image.stride;
                if (row == row_end) row = OUTSIDE;
            }
        }
    }
};
