// Stochastic gradient descent, in place. Rate, momentum, decay and whether it is the first step are data.
#include "common.cuh"

// Operands w, v (both updated), g, hyper [lr, momentum, weight decay, first], w as Real (updated, unless that is float), and
// how often g counts [1] (if it is scaled)
KERNEL(sgd, 6, Descent) {
    const float *hyper = o.in<float>(3);
    float lr = hyper[0], momentum = hyper[1], decay = hyper[2], by = a.scaled ? *o.in<float>(5) : 1;
    bool first = hyper[3] != 0;
    if (by == 0) return;
    fours(a.n, [&](u64 i, auto width) {
        auto w = Pack<width>::load(o.in<float>(0) + i), g = Pack<width>::load(o.in<float>(2) + i);
        auto v = Pack<width>::fill(0);
        if (momentum != 0) v = Pack<width>::load(o.in<float>(1) + i);
        for (int j = 0; j < width; j++) {
            float d = by * g.at[j] + decay * w.at[j], &vj = v.at[j];
            if (momentum == 0) {
                w.at[j] -= lr * d;
            } else if (a.keras) {
                vj = momentum * vj - lr * d;
                w.at[j] += a.nesterov ? momentum * vj - lr * d : vj;
            } else {
                vj = first ? d : momentum * vj + (1 - a.dampening) * d;
                w.at[j] -= lr * (a.nesterov ? d + momentum * vj : vj);
            }
        }
        w.store(o.out<float>(0) + i);
        if (momentum != 0) v.store(o.out<float>(1) + i);
        if (STORAGE != 0) w.store(o.out<Real>(4) + i);
    });
}
