// Dropout: masks that depend on (seed, step, layer, element) alone, and their application.
#include "rng.cuh"

// mask of 0 and 1; operands state [seed low, seed high, step], mask
KERNEL(dropout_mask, 2, Draws) {
    const u32 *state = o.in<u32>(0);
    u32 i = element();
    if (4 * i >= a.n) return;
    uint4 word = philox(state[0], state[1], i, a.stream, state[2]);
    u32 words[4] = {word.x, word.y, word.z, word.w};
    Pack<4> mask;
    for (int v = 0; v < 4; v++) mask.at[v] = uniform(words[v]) < a.keep ? 1 : 0;
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
