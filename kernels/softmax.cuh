// The logarithm of a sum of exponentials, for softmax and cross-entropy.
#pragma once
#include "reduce.cuh"

/// log of the sum of exp(x) over a row, without overflow; every thread gets it. In float64 as on the host: a difference of
/// it and x is rounded once, and rows of classes are short.
__device__ inline double block_log_sum(const float *x, u32 n) {
    float max = __int_as_float(0xff800000);
    for (u32 i = threadIdx.x; i < n; i += THREADS) max = nan_max(max, x[i]);
    max = block_max(max);
    double sum = 0;
    for (u32 i = threadIdx.x; i < n; i += THREADS) sum += exp(x[i] - double(max));
    return max + log(block_sum(sum));
}
