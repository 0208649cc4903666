// Dropout as ops of its own: masks that depend on (seed, step, layer, element) alone, and their application.
#include "rng.cuh"

// mask of 0 and 1; operands state [seed low, seed high, step, rank], mask
KERNEL(dropout_mask, 2, Draws) {
    const Dropout drop{o.in<u32>(0), a.streams[blockIdx.z], a.keep, a.n};
    u32 i = element();
    if (4 * i >= a.n) return;
    const uint4 w = drop.words(i);
    const Pack<4> mask = {drop.mask(w.x), drop.mask(w.y), drop.mask(w.z), drop.mask(w.w)};
    Real *y = o.out<Real>(1) + 4 * i;
    if (4 * i + 4 <= a.n) {
        mask.store(y);
    } else {
        for (int v = 0; v < 3; v++)
            if (4 * i + v < a.n) y[v] = narrow<Real>(mask.at[v]);
    }
}

// y = x mask / keep; operands x, mask, y
KERNEL(dropout, 3, Scalar) {
    map2(o, a.n, [&](float x, float mask) { return x * mask / a.by; });
}
