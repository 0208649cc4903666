// Sums that blocks computed in parts, added in order.
#include "common.cuh"
#include "tile/epilogue.cuh"

// y [rows,columns] = act(the sum of parts [parts,rows,columns] + b); operands parts, b [columns], y
KERNEL(split_act, 3, SplitAct) {
    const u32 i = element();
    if (i >= a.n) return;
    const float *part = o.in<float>(0) + i;
    float sum = part[0];
    for (u32 p = 1; p < a.parts; ++p) sum += part[u64(p) * a.n];
    const Act act{a.bias ? o.in<float>(1) : nullptr, int(a.columns), int(a.relu)};
    o.out<Real>(2)[i] = narrow<Real>(act(i % a.columns, sum));
}
