// y = act(x w^T + b), dropped out of where that is asked: streams w. A warp computes ROWS x COLUMNS elements of y and shares each
// sum among its lanes: lane l takes VEC inputs of every 32 VEC, and a butterfly adds the lanes. What a row of y holds depends on
// no other row and not on ROWS: the same bits in every batch.
#define RESIDENT 2
#include "rng.cuh"
#include "tile/epilogue.cuh"

#if !defined(ROWS) || !defined(VEC) || !defined(FROM)
#error "-DROWS= -DVEC= -DFROM=: ops::dense::gpu"
#endif

/// How x is stored.
typedef Stored<FROM>::type From;

constexpr int COLUMNS = 4;
static_assert(COLUMNS == 4 && THREADS == 256, "the grid counts blocks of 8 warps, each of 4 columns");
static_assert(VEC == 1 || VEC == 4, "elements per load");

/// Stores y[at] as the type of DType::code `to`.
__device__ inline void store(void *y, u64 at, float v, int to) {
    if (to == 0) static_cast<float *>(y)[at] = v;
    if (to == 1) static_cast<f16 *>(y)[at] = narrow<f16>(v);
    if (to == 2) static_cast<bf16 *>(y)[at] = narrow<bf16>(v);
}

// x [N,I], w [O,I], b [O], the generator's state, y [N,O], float32 where that is drawn from; at least ROWS rows; `inputs` is a
// multiple of VEC
KERNEL(dense_fprop, 5, Dense) {
    // The last block begins early enough to be full; it writes what is its own.
    const int own = blockIdx.x * ROWS, row = min(own, a.rows - ROWS), lane = threadIdx.x % 32;
    const int column = (blockIdx.y * (THREADS / 32) + threadIdx.x / 32) * COLUMNS;
    if (column >= a.outputs) return;
    const From *x = o.in<From>(0) + (u64)row * a.inputs;
    const float *w[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) w[c] = o.in<float>(1) + (u64)min(column + c, a.outputs - 1) * a.inputs;

    float sum[ROWS][COLUMNS] = {};
#pragma unroll(ROWS == 1 ? 4 : 1)
    for (int i = lane * VEC; i < a.inputs; i += 32 * VEC) {
        Pack<VEC> weights[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) weights[c] = Pack<VEC>::load(w[c] + i);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const auto inputs = Pack<VEC>::load(x + r * a.inputs + i);
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
#pragma unroll
                for (int v = 0; v < VEC; ++v) sum[r][c] = __fmaf_rn(inputs.at[v], weights[c].at[v], sum[r][c]);
        }
    }

    const Act act{a.bias ? o.in<float>(2) : nullptr, a.outputs, a.relu};
#pragma unroll
    for (int first = 0; first < ROWS * COLUMNS; first += 32) {
        float mine = 0;
#pragma unroll
        for (int i = first; i < min(first + 32, ROWS * COLUMNS); ++i) {
            float s = sum[i / COLUMNS][i % COLUMNS];
#pragma unroll
            for (int apart = 16; apart > 0; apart /= 2) s += __shfl_xor_sync(0xffffffff, s, apart);
            if (lane == i - first) mine = s;
        }
        const int r = row + (first + lane) / COLUMNS, c = column + (first + lane) % COLUMNS;
        if (first + lane < ROWS * COLUMNS && r >= own && c < a.outputs)
            store(o.out<void>(4), (u64)r * a.outputs + c, act(c, mine), a.to);
    }
    if (!a.draw) return;
    // Every lane drops out of what it wrote: here the sums' registers are free.
#pragma unroll 1
    for (int i = lane; i < ROWS * COLUMNS; i += 32) {
        const int r = row + i / COLUMNS, c = column + i % COLUMNS;
        if (r < own || c >= a.outputs) continue;
        const u32 at = r * a.outputs + c;
        float *y = o.out<float>(4) + at;
        *y = Dropout{o.in<u32>(3), a.streams[blockIdx.z], a.keep, u32(a.rows) * a.outputs}(at, *y);
    }
}
