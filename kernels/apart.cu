// How far rows of pairs are from each other. Sums are taken in float64, as on the host.
#include "reduce.cuh"

// Each pair's part: w[p] times the sum of |x[2p] - x[2p + 1]|; operands x, w, parts (doubles). A block has a pair.
KERNEL(apart_rows, 3, Pairs) {
    const u32 p = blockIdx.x, d = a.d.by;
    const float *x = o.in<float>(0) + 2 * (u64)p * d;
    double sum = 0;
    for (u32 i = threadIdx.x; i < d; i += THREADS) sum += fabs(double(x[i]) - x[d + i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) o.out<double>(2)[p] = o.in<float>(1)[p] * sum;
}

// y = the sum of the parts over all elements of a row of each pair; operands parts, y. One block.
KERNEL(apart, 2, Pairs) {
    double sum = 0;
    for (u32 p = threadIdx.x; p < a.pairs; p += THREADS) sum += o.in<double>(0)[p];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *o.out<float>(1) = sum / (double(a.pairs) * a.d.by);
}

// dx = +-w[p] dy over the same number, by the sign of the difference; operands x, w, dy, dx
KERNEL(apart_grad, 4, Pairs) {
    const u32 i = element();
    if (i >= 2 * a.pairs * a.d.by) return;
    const u32 row = i / a.d, other = row % 2 == 0 ? i + a.d.by : i - a.d.by;
    const float *x = o.in<float>(0);
    const float e = x[i] - x[other];
    const float by = double(o.in<float>(1)[row / 2]) * *o.in<float>(2) / (double(a.pairs) * a.d.by);
    o.out<float>(3)[i] = e > 0 ? by : e < 0 ? -by : e == 0 ? 0 : e;
}
