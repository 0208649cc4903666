// What becomes of a sum that blocks computed in parts: the last of them adds the parts in order, so no launch has to follow.
#pragma once
#include "rng.cuh"
#include "tile/epilogue.cuh"

/// Whether this block is the last of `blocks` that come here with one count, which is zero before the first of them and again
/// after the last. That one finds all that the others wrote, if it reads past its own cache (`__ldcg`).
__device__ inline bool last(u32 *count, u32 blocks) {
    __threadfence();
    __syncthreads();
    const bool is = __syncthreads_or(threadIdx.x == 0 && atomicInc(count, blocks - 1) == blocks - 1);
    __threadfence();
    return is;
}

/// y [m,n] at the tile of ROWS x COLUMNS whose first element is [row, column]: the sum of the parts plus the bias, through
/// ReLU; or over keep where x is positive, else 0; dropped out of where that is asked; every step rounded as if it was stored.
/// All blocks of the tile come here, which has a count of its own. Operands from 2 on: parts [parts,m,n], b [n] in float32, x,
/// the generator's state, y, the counts.
template <int ROWS, int COLUMNS>
__device__ inline void finish(const Operands<8> &o, const Gemm &a, int row, int column) {
    const u32 parts = gridDim.y;
    if (!last(o.out<u32>(7) + blockIdx.x, parts)) return;
    const Act act{a.bias ? o.in<float>(3) : nullptr, a.n, a.relu};
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += THREADS) {
        const int r = row + i / COLUMNS, c = column + i % COLUMNS;
        if (r >= a.m || c >= a.n) continue;
        const u32 at = r * a.n + c;
        float sum = act(c, sum_of(o.in<float>(2) + at, parts, a.m * a.n));
        if (a.mask) sum = positive(stored(sum), widen(o.in<Real>(4)[at])) / a.keep;
        if (a.draw) sum = Dropout{o.in<u32>(5), a.streams[blockIdx.z], a.keep, u32(a.m) * a.n}(at, stored(sum));
        if (a.wide) {
            o.out<float>(6)[at] = stored(sum);
        } else {
            o.out<Real>(6)[at] = narrow<Real>(sum);
        }
    }
}
