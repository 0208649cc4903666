// Moving columns of [pixels, channels]: concatenation, slices, copies.
#include "common.cuh"

#ifndef VECTOR
#error "-DVECTOR=: channels moved at once"
#endif

// y[pixel][to + j] = x[pixel][from + j] for j < width; operands x, y. All in units of VECTOR channels.
KERNEL(copy_columns, 2, Columns) {
    u32 i = element();
    if (i >= a.n) return;
    u32 pixel = i / a.width, j = i % a.width;
    auto x = o.in<Pack<VECTOR>>(0) + a.from + pixel * a.x_width;
    auto y = o.out<Pack<VECTOR>>(1) + a.to + pixel * a.y_width;
    y[j] = x[j];
}
