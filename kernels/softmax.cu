// Softmax over rows of [N,C] and its logarithm. A block computes a row.
#include "softmax.cuh"

/// y = exp(x - max) / sum of exp(x - max) of c numbers, by a block.
__device__ inline void softmax_row(const float *x, float *y, u32 c) {
    float max = __int_as_float(0xff800000), sum = 0;
    for (u32 i = threadIdx.x; i < c; i += THREADS) max = nan_max(max, x[i]);
    max = block_max(max);
    for (u32 i = threadIdx.x; i < c; i += THREADS) sum += exp(x[i] - max);
    sum = block_sum(sum);
    for (u32 i = threadIdx.x; i < c; i += THREADS) y[i] = exp(x[i] - max) / sum;
}

/// dx = y (dy - sum of y dy) of c numbers, by a block.
__device__ inline void softmax_grad_row(const float *y, const float *dy, float *dx, u32 c) {
    float sum = 0;
    for (u32 i = threadIdx.x; i < c; i += THREADS) sum += y[i] * dy[i];
    sum = block_sum(sum);
    for (u32 i = threadIdx.x; i < c; i += THREADS) dx[i] = y[i] * (dy[i] - sum);
}

// operands x, y
KERNEL(softmax, 2, Rows) {
    softmax_row(o.in<float>(0) + blockIdx.x * a.c, o.out<float>(1) + blockIdx.x * a.c, a.c);
}

// operands y, dy, dx
KERNEL(softmax_grad, 3, Rows) {
    const u32 at = blockIdx.x * a.c;
    softmax_grad_row(o.in<float>(0) + at, o.in<float>(1) + at, o.out<float>(2) + at, a.c);
}

// Rows of up to four side by side, a block for each row of each (blockIdx.y); operands x of each, y
KERNEL(softmax_concat, 5, Beside) {
    const u32 part = blockIdx.y, c = a.c[part];
    softmax_row(o.in<float>(part) + blockIdx.x * c, o.out<float>(4) + blockIdx.x * a.width + a.from[part], c);
}

// operands y, dy, dx of each
KERNEL(softmax_concat_grad, 6, Beside) {
    const u32 part = blockIdx.y, c = a.c[part], at = blockIdx.x * a.width + a.from[part];
    softmax_grad_row(o.in<float>(0) + at, o.in<float>(1) + at, o.out<float>(2 + part) + blockIdx.x * c, c);
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
