// What happens to a sum before it is written.
#pragma once
#include "common.cuh"

/// The sum of x[part], n numbers being from one part to the next. They may have been written by the same launch: they are read
/// past the multiprocessor's own cache.
__device__ inline float sum_of(const float *x, u32 parts, u32 n) {
    float sum = 0;
#pragma unroll 8
    for (u32 part = 0; part < parts; ++part) sum += __ldcg(x + (u64)part * n);
    return sum;
}

/// Adds the bias of a column (where there is a bias) and applies ReLU (where asked to). NaN stays NaN.
struct Act {
    const float *bias;
    int columns, relu;
    __device__ float operator()(int column, float v) const {
        if (bias && column < columns) v += __ldg(bias + column);
        return relu && v < 0 ? 0 : v;
    }
    __device__ float4 operator()(int column, float4 v) const {
        return {(*this)(column, v.x), (*this)(column + 1, v.y), (*this)(column + 2, v.z), (*this)(column + 3, v.w)};
    }
};

/// The gradient of ReLU: v where the result y is positive, else 0.
__device__ inline float positive(float v, float y) { return y > 0 ? v : 0; }
__device__ inline float4 positive(float4 v, float4 y) {
    return {positive(v.x, y.x), positive(v.y, y.y), positive(v.z, y.z), positive(v.w, y.w)};
}

/// v / keep: of what dropout keeps, its mean stays.
__device__ inline float4 over(float4 v, float keep) { return {v.x / keep, v.y / keep, v.z / keep, v.w / keep}; }

// Pooling by windows of 2 x 2 that tile the image, and the way back. An index of who won has two bits an element, the
// position in the window in row-major order, and a byte for four channels, the first one's lowest.

/// Which of a window's values wins: the first that none exceeds; a NaN before all others.
__device__ inline u32 winner(float a, float b, float c, float d, float &best) {
    const float v[] = {a, b, c, d};
    u32 won = 0;
    best = a;
#pragma unroll
    for (u32 i = 1; i < 4; ++i)
        if (v[i] > best || (isnan(v[i]) && !isnan(best))) best = v[i], won = i;
    return won;
}

/// The largest of four pixels, channel by channel, and the index.
__device__ inline float4 largest(const float4 (&v)[4], u32 &index) {
    float4 best;
    index = winner(v[0].x, v[1].x, v[2].x, v[3].x, best.x);
    index |= winner(v[0].y, v[1].y, v[2].y, v[3].y, best.y) << 2;
    index |= winner(v[0].z, v[1].z, v[2].z, v[3].z, best.z) << 4;
    index |= winner(v[0].w, v[1].w, v[2].w, v[3].w, best.w) << 6;
    return best;
}

/// Writes a window of images with rows of `line` pixels, `to` its first pixel and `c` a pixel in units of four channels:
/// every number of d goes to the pixel that won.
template <class T>
__device__ inline void spread(const Neighbours<4, T> &d, u32 index, Neighbours<4, T> *to, u32 line, u32 c) {
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        Neighbours<4, T> own;
#pragma unroll
        for (u32 v = 0; v < 4; ++v) own.at[v] = (index >> 2 * v & 3) == i ? d.at[v] : T{};
        to[(u64)(i / 2 * line + i % 2) * c] = own;
    }
}
