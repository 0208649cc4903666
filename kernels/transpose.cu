// Rows to columns, image by image: flattening in the order of another framework.
#include "common.cuh"

constexpr int TILE = 32;
constexpr int LINES = THREADS / TILE;  // of a tile that a block moves at once

// y [N, columns, rows] = x [N, rows, columns]; operands x, y. A block moves one tile of one matrix.
KERNEL(transpose, 2, Matrix) {
    __shared__ float tile[TILE][TILE + 1];  // one more: the elements of a column lie in different banks
    u32 index = blockIdx.x % a.tiles, r0 = index / a.across * TILE, c0 = index % a.across * TILE;
    u32 lane = threadIdx.x % TILE, line = threadIdx.x / TILE, first = blockIdx.x / a.tiles * a.rows * a.columns;
    const float *x = o.in<float>(0) + first;
    float *y = o.out<float>(1) + first;
    for (u32 l = line; l < TILE; l += LINES)
        if (r0 + l < a.rows && c0 + lane < a.columns) tile[l][lane] = x[(r0 + l) * a.columns + c0 + lane];
    __syncthreads();
    for (u32 l = line; l < TILE; l += LINES)
        if (c0 + l < a.columns && r0 + lane < a.rows) y[(c0 + l) * a.rows + r0 + lane] = tile[lane][l];
}
