// Rows of a table of bytes.
#include "common.cuh"

#ifndef BYTES
#error "-DBYTES=: what a thread moves, a divisor of the row"
#endif

#if BYTES == 16
typedef uint4 Unit;
#else
typedef u8 Unit;
#endif

// y[i] = table[rows[i]], a row of blocks for each i; operands table, rows, y
KERNEL(image_gather, 3, Picking) {
    u32 i = element();
    if (i >= a.units) return;
    u64 from = min(o.in<u32>(1)[blockIdx.y], a.rows - 1), to = blockIdx.y;
    o.out<Unit>(2)[to * a.units + i] = o.in<Unit>(0)[from * a.units + i];
}
