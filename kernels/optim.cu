// Stochastic gradient descent, in place. Rate, momentum, decay and whether it is the first step are data.
#include "common.cuh"

// Operands w, v (both updated), g, hyper [lr, momentum, weight decay, first]
KERNEL(sgd, 4, Descent) {
    const float *hyper = o.in<float>(3);
    float lr = hyper[0], momentum = hyper[1], decay = hyper[2];
    bool first = hyper[3] != 0;
    fours(a.n, [&](u32 i, auto width) {
        auto w = Pack<width>::load(o.in<float>(0) + i), g = Pack<width>::load(o.in<float>(2) + i);
        if (momentum == 0) {
            for (int j = 0; j < width; j++) w.at[j] -= lr * (g.at[j] + decay * w.at[j]);
            w.store(o.out<float>(0) + i);
            return;
        }
        auto v = Pack<width>::load(o.in<float>(1) + i);
        for (int j = 0; j < width; j++) {
            float d = g.at[j] + decay * w.at[j], &vj = v.at[j];
            if (a.keras) {
                vj = momentum * vj - lr * d;
                w.at[j] += a.nesterov ? momentum * vj - lr * d : vj;
            } else {
                vj = first ? d : momentum * vj + (1 - a.dampening) * d;
                w.at[j] -= lr * (a.nesterov ? d + momentum * vj : vj);
            }
        }
        w.store(o.out<float>(0) + i);
        v.store(o.out<float>(1) + i);
    });
}
