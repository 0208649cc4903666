// Stochastic gradient descent, in place. Rate, momentum, decay and whether it is the first step are data.
#include "descent.cuh"

/// Parameters that a launch can update, and the operands of each: w, v (both updated), g, and w as Real (updated, if it has
/// such a copy). v may have a piece of the others alone.
constexpr int SEGMENTS = sizeof(Descent::n) / sizeof(u32);
enum { W, V, G, COPY, EACH };

// Operands of every parameter, then hyper [lr, momentum, weight decay, first], how often gradients count [1] (if they are
// scaled) and the gradient of the penalty [1] (if there is one). A block works on one parameter.
KERNEL(sgd, EACH * SEGMENTS + 3, Descent) {
    const int hyper = EACH * SEGMENTS;
    const Step step(a, o.in<float>(hyper), o.in<float>(hyper + 1));
    if (step.by == 0) return;
    int s = 0;
    while (blockIdx.x >= a.end[s]) ++s;
    const u32 first = s > 0 ? a.end[s - 1] : 0;
    const int at = EACH * s;
    const float penalty = a.lambda[s] != 0 ? times(2 * a.lambda[s], *o.in<float>(hyper + 2)) : 0;
    fours(blockIdx.x - first, a.end[s] - first, a.n[s], [&](u64 i, auto width) {
        const u64 k = a.from[s] + i;
        auto w = Pack<width>::load(o.in<float>(at + W) + k), g = Pack<width>::load(o.in<float>(at + G) + k);
        auto v = Pack<width>::fill(0);
        if (step.momentum != 0) v = Pack<width>::load(o.in<float>(at + V) + i);
        for (int j = 0; j < width; j++) {
            if (a.lambda[s] != 0) g.at[j] = plus(g.at[j], times(penalty, w.at[j]));
            step.take(w.at[j], v.at[j], g.at[j]);
        }
        w.store(o.out<float>(at + W) + k);
        if (step.momentum != 0) v.store(o.out<float>(at + V) + i);
        if (STORAGE != 0 && (a.copies >> s & 1)) w.store(o.out<Real>(at + COPY) + k);
    });
}
