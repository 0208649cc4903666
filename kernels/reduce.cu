// Sums in an order that the shape alone decides: parts first, each by one chain of additions, then the parts.
#include "tile/epilogue.cuh"

// y[i] = the sum of x[part][i] for two tensors: x [parts,n], y [n], x [parts,more], y [more]
KERNEL(split_sum, 4, Parts) {
    const u32 i = element(), j = i - a.n;
    if (i < a.n) {
        o.out<float>(1)[i] = sum_of(o.in<float>(0) + i, a.parts, a.n);
    } else if (j < a.more) {
        o.out<float>(3)[j] = sum_of(o.in<float>(2) + j, a.parts, a.more);
    }
}

// Column sums of `part` rows per block; x [rows,n], y [parts,n]
KERNEL(column_sum, 2, ColumnSum) {
    // 32 columns; 8 rows at a time.
    constexpr int LANES = THREADS / 32;
    __shared__ float sums[LANES][32];
    const int lane = threadIdx.x / 32, column = blockIdx.x * 32 + threadIdx.x % 32;
    const int begin = blockIdx.y * a.part, end = min(begin + a.part, a.rows);
    float sum = 0;
    if (column < a.n) {
        const float *x = o.in<float>(0) + column;
#pragma unroll 4
        for (int row = begin + lane; row < end; row += LANES) sum += __ldg(x + (u64)row * a.n);
    }
    sums[lane][threadIdx.x % 32] = sum;
    __syncthreads();
    if (lane > 0 || column >= a.n) return;
    for (int l = 1; l < LANES; ++l) sum += sums[l][threadIdx.x];
    o.out<float>(1)[(u64)blockIdx.y * a.n + column] = sum;
}
