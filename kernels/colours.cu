// Colours of float images [N,H,W,3], mixed pixel by pixel.
#include "common.cuh"

// y[c] = add[c] + the sum over k of by[3 c + k] x[k]; operands x, y. A thread has a pixel.
KERNEL(colours, 2, Mixing) {
    const u32 i = element();
    if (i >= a.pixels) return;
    const float *x = o.in<float>(0) + 3 * (u64)i;
    float *y = o.out<float>(1) + 3 * (u64)i;
    const float red = x[0], green = x[1], blue = x[2];
    for (int c = 0; c < 3; c++) y[c] = a.by[3 * c] * red + a.by[3 * c + 1] * green + a.by[3 * c + 2] * blue + a.add[c];
}
