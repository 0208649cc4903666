// What a step of stochastic gradient descent makes of a weight, for every kernel that updates some.
#pragma once
#include "common.cuh"

/// Every operation rounds, as it does on the host. Left alone, the compiler would contract some of them to multiply-adds and
/// others not, differently from kernel to kernel.
__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float minus(float a, float b) { return __fsub_rn(a, b); }

/// One step: its settings [lr, momentum, weight decay, first], and how often a gradient counts.
struct Step {
    const Descent &a;
    const float lr, momentum, decay, by;
    const bool first;
    __device__ Step(const Descent &a, const float *hyper, const float *by)
        : a(a), lr(hyper[0]), momentum(hyper[1]), decay(hyper[2]), by(a.scaled ? *by : 1), first(hyper[3] != 0) {}
    /// The weight w and its velocity v after a step along the gradient g.
    __device__ void take(float &w, float &v, float g) const {
        const float d = plus(times(by, g), times(decay, w));
        if (momentum == 0) {
            w = minus(w, times(lr, d));
        } else if (a.keras) {
            const float down = times(lr, d);
            v = minus(times(momentum, v), down);
            w = plus(w, a.nesterov ? minus(times(momentum, v), down) : v);
        } else {
            v = first ? d : plus(times(momentum, v), times(minus(1, a.dampening), d));
            w = minus(w, times(lr, a.nesterov ? plus(d, times(momentum, v)) : v));
        }
    }
};
