// Whether scaled gradients can be used: what they count, or nothing.
#include "common.cuh"

// y = 1 / scale; operands scale [1], y [1]
KERNEL(begin_unscale, 2, Count) {
    if (element() < a.n) *o.out<float>(1) = 1 / *o.in<float>(0);
}

// y = 0 if a gradient is infinite or NaN; operands g, y [1]
KERNEL(unscale, 2, Count) {
    bool bad = false;
    for (u32 i = element(); i < a.n; i += gridDim.x * THREADS) bad |= !isfinite(o.in<float>(0)[i]);
    // Whoever comes first: the bits of zero stay zero.
    if (__syncthreads_or(bad) && threadIdx.x == 0) atomicAnd(o.out<u32>(1), 0u);
}
