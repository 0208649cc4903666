// Sums that blocks computed in parts, added in order.
#include "common.cuh"
#include "tile/epilogue.cuh"

// y [rows,columns] = act(the sum of parts [parts,rows,columns] + b), 0 where x is not positive; operands parts, b [columns],
// x, y
KERNEL(split_act, 4, SplitAct) {
    const u32 i = element();
    if (i >= a.n) return;
    const Act act{a.bias ? o.in<float>(1) : nullptr, int(a.columns), int(a.relu)};
    float sum = act(i % a.columns, sum_of(o.in<float>(0) + i, a.parts, a.n));
    if (a.mask) sum = positive(sum, widen(o.in<Real>(2)[i]));
    o.out<Real>(3)[i] = narrow<Real>(sum);
}
