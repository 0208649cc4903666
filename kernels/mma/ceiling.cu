// Products and nothing else.
#include "mma/warp.cuh"

// y = x w^T, added up so many times: x [16 n,16], w [64,16], y [16 n,64] in float32. A warp keeps sixteen rows in its
// registers, in chains side by side.
KERNEL(ceiling_product, 3, Turns) {
    constexpr int CHAINS = 8, WARP = 32;
    const u32 tile = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (tile >= a.n) return;
    // PTX ISA 9.7.14.5.8: the rows and columns of the fragments that this lane has.
    const u32 row = threadIdx.x % WARP / 4, column = threadIdx.x % 4 * 2;
    auto two = [&](int operand, u32 first, u32 from) {
        return *reinterpret_cast<const u32 *>(o.in<Real>(operand) + (u64)(first + row) * 16 + column + from);
    };
    const u32 x[4] = {two(0, 16 * tile, 0), two(0, 16 * tile + 8, 0), two(0, 16 * tile, 8), two(0, 16 * tile + 8, 8)};
    u32 w[CHAINS][2];
    float y[CHAINS][4] = {};
    for (int c = 0; c < CHAINS; ++c) w[c][0] = two(1, 8 * c, 0), w[c][1] = two(1, 8 * c, 8);
#pragma unroll 4
    for (u32 turn = 0; turn < a.turns; ++turn)
        for (int c = 0; c < CHAINS; ++c) mma(y[c], x, w[c][0], w[c][1]);
    float *to = o.out<float>(2) + (u64)(16 * tile + row) * 8 * CHAINS + column;
    for (int c = 0; c < CHAINS; ++c)
        for (int h = 0; h < 2; ++h)
            *reinterpret_cast<float2 *>(to + (8 * h * CHAINS + c) * 8) = make_float2(y[c][2 * h], y[c][2 * h + 1]);
}
