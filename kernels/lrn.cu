// Local response normalisation across channels: y[c] = x[c] / d[c]^beta, d[c] = k + alpha / size * the sum of x^2 over the
// `size` channels from c - size / 2 on.
#include "common.cuh"

/// d of channel c; x points at it.
__device__ inline float scale(const Response &a, const float *x, int c) {
    float sum = 0;
    for (int j = max(-c, -a.before); j <= min(int(a.c.by) - 1 - c, a.after); j++) sum += x[j] * x[j];
    return a.k + a.alpha * sum;
}

/// d^-beta; the usual beta without logarithms.
__device__ inline float power(const Response &a, float d) {
    if (a.beta != 0.75f) return powf(d, -a.beta);
    float root = sqrtf(d);
    return 1 / (root * sqrtf(root));
}

// Operands x, y
KERNEL(lrn, 2, Response) {
    u32 i = element();
    if (i >= a.n) return;
    const float *x = o.in<float>(0) + i;
    o.out<float>(1)[i] = *x * power(a, scale(a, x, i % a.c));
}

// dx[j] = dy[j] d[j]^-beta - 2 alpha beta / size x[j] * the sum of dy[c] x[c] d[c]^(-beta - 1) over the channels c whose
// window holds j; operands x, dy, dx. A block computes what each channel hands to its neighbours, those of other blocks
// included: blocks overlap.
KERNEL(lrn_grad, 3, Response) {
    __shared__ float terms[THREADS];
    int i = int(blockIdx.x * (THREADS - a.before - a.after) + threadIdx.x) - a.after;
    bool alive = 0 <= i && i < int(a.n);
    float own = 0, x = 0, dy = 0;
    terms[threadIdx.x] = 0;
    int c = 0;
    if (alive) {
        c = u32(i) % a.c;
        x = o.in<float>(0)[i], dy = o.in<float>(1)[i];
        float d = scale(a, o.in<float>(0) + i, c), p = power(a, d);
        own = dy * p;
        terms[threadIdx.x] = dy * x * (p / d);
    }
    __syncthreads();
    int t = threadIdx.x;
    if (!alive || t < a.after || t >= THREADS - a.before) return;
    float sum = 0;
    // Channel c + j holds c where -after <= j <= before.
    for (int j = max(-c, -a.after); j <= min(int(a.c.by) - 1 - c, a.before); j++) sum += terms[t + j];
    o.out<float>(2)[i] = own - a.factor * x * sum;
}
