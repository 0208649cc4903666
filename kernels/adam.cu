// Adam in its forms, in place. Rate, decay and the corrections of both means are data.
#include "common.cuh"

// Operands w, m, v and the largest v so far (all updated; the last one if it is kept), g, hyper [rate, weight decay, correction of
// m, of v], w as Real (updated, unless that is float), and how often g counts [1] (if it is scaled). What is remembered may be of
// a piece of w alone.
KERNEL(adam, 8, Moments) {
    const float *hyper = o.in<float>(5);
    float lr = hyper[0], decay = hyper[1], c1 = hyper[2], c2 = hyper[3], by = a.scaled ? *o.in<float>(7) : 1;
    if (by == 0) return;
    float eps = a.uncorrected ? a.eps * sqrtf(c2) : a.eps;
    fours(a.n, [&](u64 i, auto width) {
        const u64 k = a.from + i;
        auto w = Pack<width>::load(o.in<float>(0) + k), m = Pack<width>::load(o.in<float>(1) + i);
        auto v = Pack<width>::load(o.in<float>(2) + i), g = Pack<width>::load(o.in<float>(4) + k);
        Pack<width> most = v;
        if (a.amsgrad) most = Pack<width>::load(o.in<float>(3) + i);
        for (int j = 0; j < width; j++) {
            float d = by * g.at[j], &wj = w.at[j], &mj = m.at[j], &vj = v.at[j];
            if (a.penalty) d += decay * wj;
            else wj *= 1 - lr * decay;
            mj = a.beta1 * mj + a.rest1 * d;
            vj = a.beta2 * vj + a.rest2 * (d * d);
            float under = most.at[j] = a.amsgrad && most.at[j] > vj ? most.at[j] : vj;
            wj -= lr * (mj * c1) / (sqrtf(under * c2) + eps);
        }
        w.store(o.out<float>(0) + k);
        m.store(o.out<float>(1) + i);
        v.store(o.out<float>(2) + i);
        if (a.amsgrad) most.store(o.out<float>(3) + i);
        if (STORAGE != 0) w.store(o.out<Real>(6) + k);
    });
}
