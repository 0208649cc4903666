// Sums that blocks computed in parts, added in order.
#include "rng.cuh"
#include "tile/epilogue.cuh"

// y [rows,columns] = act(the sum of parts [parts,rows,columns] + b); over keep where x is positive, else 0; dropped out of.
// Operands parts, b [columns], x, the generator's state, y
KERNEL(split_act, 5, SplitAct) {
    const u32 i = element();
    if (i >= a.n) return;
    const Act act{a.bias ? o.in<float>(1) : nullptr, int(a.columns), int(a.relu)};
    float sum = act(i % a.columns, sum_of(o.in<float>(0) + i, a.parts, a.n));
    if (a.mask) sum = positive(stored(sum), widen(o.in<Real>(2)[i])) / a.keep;
    if (a.draw) sum = Dropout{o.in<u32>(3), a.streams[blockIdx.z], a.keep}(i, stored(sum));
    o.out<Real>(4)[i] = narrow<Real>(sum);
}
