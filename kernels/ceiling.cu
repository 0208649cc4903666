// Arithmetic without memory, and memory without arithmetic.
#include "reduce.cuh"

// y = x after so many turns of x = s x + t; operands x, (s, t), y
KERNEL(ceiling_chain, 3, Turns) {
    constexpr int CHAINS = 8;
    const u32 first = blockIdx.x * THREADS * CHAINS + threadIdx.x;
    const float s = o.in<float>(1)[0], t = o.in<float>(1)[1];
    float x[CHAINS];
    for (int v = 0; v < CHAINS; ++v) {
        const u32 i = first + v * THREADS;
        x[v] = i < a.n ? o.in<float>(0)[i] : 0;
    }
#pragma unroll 16
    for (u32 turn = 0; turn < a.turns; ++turn)
        for (float &x : x) x = fmaf(x, s, t);
    for (int v = 0; v < CHAINS; ++v) {
        const u32 i = first + v * THREADS;
        if (i < a.n) o.out<float>(2)[i] = x[v];
    }
}

// y[p] = the sum of x[p][i]; x [P,n], y [P]. A block reads a row.
KERNEL(ceiling_row_sum, 2, Count) {
    const float4 *x = reinterpret_cast<const float4 *>(o.in<float>(0) + (u64)blockIdx.x * a.n);
    float sum = 0;
#pragma unroll 8
    for (u32 i = threadIdx.x; i < a.n / 4; i += THREADS) {
        const float4 v = __ldg(x + i);
        sum += (v.x + v.y) + (v.z + v.w);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) o.out<float>(1)[blockIdx.x] = sum;
}

// y = b + 3 c; operands b, c, y
KERNEL(ceiling_triad, 3, Count) {
    map2(o, a.n, [](float b, float c) { return b + 3 * c; });
}
