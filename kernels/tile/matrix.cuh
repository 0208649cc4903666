// Loaders of matrices that lie row by row in memory.
#pragma once
#include "tile/multiply.cuh"

/// A matrix whose rows run along the depth: `ROWS` rows from `first` on of `rows`, elements `begin` to `end` of each.
template <int ROWS>
struct Along : Transposed<ROWS> {
    const float *p;
    int left;
    __device__ Along(const float *m, int first, int rows, int stride, int begin, int end)
        : p(m + (u64)(first + this->row) * stride + begin + this->k),
          left(this->busy() && first + this->row < rows ? end - begin - this->k : 0) {}
    __device__ float4 load() {
        const float4 v = four(p, left);
        p += BK;
        left -= BK;
        return v;
    }
};

/// A matrix whose rows follow one another along the depth: rows `begin` to `end`, `COLUMNS` columns from `first` on of
/// `columns`.
template <int COLUMNS>
struct Across : Straight<COLUMNS> {
    const float *p;
    int left, width, stride;
    __device__ Across(const float *m, int first, int columns, int stride, int begin, int end)
        : p(m + (u64)(begin + this->k) * stride + first + this->column),
          left(this->busy() && first + this->column < columns ? end - begin - this->k : 0),
          width(VEC == 4 ? 4 : columns - first - this->column),
          stride(stride) {}
    __device__ float4 load() {
        const float4 v = four(p, left > 0 ? width : 0);
        p += (u64)BK * stride;
        left -= BK;
        return v;
    }
};

/// The same, and the sums of its columns: what it brings is added up on the way.
template <int COLUMNS>
struct Summing : Across<COLUMNS> {
    float4 sum = {};
    using Across<COLUMNS>::Across;
    __device__ float4 load() {
        const float4 v = Across<COLUMNS>::load();
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        return v;
    }
    /// Writes the sums of the first `count` columns; all threads take part.
    __device__ void write(float *sums, int count) const {
        __shared__ __align__(16) float rows[BK][COLUMNS + PAD];
        this->store(sum, rows);
        __syncthreads();
        const int i = threadIdx.x;
        if (i >= min(count, COLUMNS)) return;
        float total = 0;
        for (int k = 0; k < BK; ++k) total += rows[k][i];
        sums[i] = total;
    }
};

/// What lies in row[at..at + 4] as far as it is within `width`, as `put` writes it.
__device__ inline float4 take(const float *row, int at, int width) {
    if (width % 4 == 0) return at < width ? __ldg(reinterpret_cast<const float4 *>(row + at)) : float4{};
    row += at;
    width -= at;
    return {width > 0 ? __ldg(row) : 0, width > 1 ? __ldg(row + 1) : 0, width > 2 ? __ldg(row + 2) : 0, width > 3 ? __ldg(row + 3) : 0};
}

/// Writes v to row[at..at + 4] as far as it is within `width`, the length that every row of the matrix has.
__device__ inline void put(float *row, int at, int width, float4 v) {
    if (width % 4 == 0) {
        if (at < width) *reinterpret_cast<float4 *>(row + at) = v;
        return;
    }
    if (at < width) row[at] = v.x;
    if (at + 1 < width) row[at + 1] = v.y;
    if (at + 2 < width) row[at + 2] = v.z;
    if (at + 3 < width) row[at + 3] = v.w;
}
