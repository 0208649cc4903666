// Sums and maxima over a warp or a block, always in the same order, and therefore with the same bits.
#pragma once
#include "common.cuh"

constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;

/// op over a warp; every lane gets the result, for lanes exchange and op commutes.
template <class T, class Op>
__device__ inline T warp_reduce(T x, Op op) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(~0u, x, offset));
    return x;
}

/// op over a block; every thread gets the result. All threads take part. Calls may follow each other.
template <class T, class Op>
__device__ inline T block_reduce(T x, Op op) {
    __shared__ T parts[WARPS];
    x = warp_reduce(x, op);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    x = parts[threadIdx.x % WARPS];
    for (int offset = WARPS / 2; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(~0u, x, offset));
    __syncthreads();  // before the next call writes
    return x;
}

template <class T>
__device__ inline T block_sum(T x) {
    return block_reduce(x, [](T a, T b) { return a + b; });
}

/// The larger; NaN if one of them is.
template <class T>
__device__ inline T nan_max(T a, T b) {
    return a > b || isnan(a) ? a : b;
}

template <class T>
__device__ inline T block_max(T x) {
    return block_reduce(x, nan_max<T>);
}
