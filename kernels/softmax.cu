// Softmax over rows of [N,C] and its logarithm. A block computes a row.
#include "softmax.cuh"

// y = exp(x - max) / sum of exp(x - max); operands x, y
KERNEL(softmax, 2, Rows) {
    const float *x = o.in<float>(0) + blockIdx.x * a.c;
    float *y = o.out<float>(1) + blockIdx.x * a.c;
    float max = __int_as_float(0xff800000), sum = 0;
    for (u32 i = threadIdx.x; i < a.c; i += THREADS) max = nan_max(max, x[i]);
    max = block_max(max);
    for (u32 i = threadIdx.x; i < a.c; i += THREADS) sum += exp(x[i] - max);
    sum = block_sum(sum);
    for (u32 i = threadIdx.x; i < a.c; i += THREADS) y[i] = exp(x[i] - max) / sum;
}

// dx = y (dy - sum of y dy); operands y, dy, dx
KERNEL(softmax_grad, 3, Rows) {
    const float *y = o.in<float>(0) + blockIdx.x * a.c, *dy = o.in<float>(1) + blockIdx.x * a.c;
    float *dx = o.out<float>(2) + blockIdx.x * a.c, sum = 0;
    for (u32 i = threadIdx.x; i < a.c; i += THREADS) sum += y[i] * dy[i];
    sum = block_sum(sum);
    for (u32 i = threadIdx.x; i < a.c; i += THREADS) dx[i] = y[i] * (dy[i] - sum);
}

// y = x - log of the sum of exp(x); operands x, y
KERNEL(log_softmax, 2, Rows) {
    const float *x = o.in<float>(0) + blockIdx.x * a.c;
    float *y = o.out<float>(1) + blockIdx.x * a.c;
    double log_sum = block_log_sum(x, a.c);
    for (u32 i = threadIdx.x; i < a.c; i += THREADS) y[i] = x[i] - log_sum;
}

// dx = dy - exp(y) (sum of dy), in float64 as its inverse; operands y, dy, dx
KERNEL(log_softmax_grad, 3, Rows) {
    const float *y = o.in<float>(0) + blockIdx.x * a.c, *dy = o.in<float>(1) + blockIdx.x * a.c;
    float *dx = o.out<float>(2) + blockIdx.x * a.c;
    double sum = 0;
    for (u32 i = threadIdx.x; i < a.c; i += THREADS) sum += dy[i];
    sum = block_sum(sum);
    for (u32 i = threadIdx.x; i < a.c; i += THREADS) dx[i] = dy[i] - exp(double(y[i])) * sum;
}
