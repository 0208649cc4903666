// Pointwise nonlinearities: y = f(x) and dx = f'(x) dy, f being the ACT-th of Act::NAMES with parameters p and q, or
// ReLU.
#include "common.cuh"

#ifndef ACT
#error "-DACT=: which function"
#endif

constexpr int RELU = -1, LEAKY_RELU = 0, ELU = 1, SIGMOID = 2, TANH = 3, GELU = 4, GELU_TANH = 5, SILU = 6, SOFTPLUS = 7;

/// Sigmoids in float32 are good to a few units; float64 arithmetic, rounded once, makes the others exact. It costs consumer
/// cards their bandwidth, and no network of this crate uses these functions between large layers.
constexpr bool DOUBLE = ACT == ELU || ACT == TANH || ACT == GELU || ACT == GELU_TANH || ACT == SOFTPLUS;

template <bool wide>
struct Arithmetic {
    typedef float type;
};
template <>
struct Arithmetic<true> {
    typedef double type;
};
typedef Arithmetic<DOUBLE>::type T;

constexpr T HALF = 0.5, CUBE = 0.044715;
constexpr T ROOT_HALF = 0.70710678118654752440, ROOT = 0.79788456080286535588;  // sqrt(1 / 2), sqrt(2 / pi)

/// f(x). Comparisons let NaN through; fmin and fmax would not.
__device__ inline T value(T x, T p, T q) {
    switch (ACT) {
        case RELU: return x < 0 ? 0 : x;
        case LEAKY_RELU: return x > 0 ? x : p * x;
        case ELU: return x > 0 ? x : p * expm1(x);
        case SIGMOID: return 1 / (1 + exp(-x));
        case TANH: return tanh(x);
        case GELU: return HALF * x * erfc(-ROOT_HALF * x);
        case GELU_TANH: return HALF * x * (1 + tanh(ROOT * (x + CUBE * x * x * x)));
        case SILU: return x / (1 + exp(-x));
        case SOFTPLUS: return p * x > q ? x : log1p(exp(p * x)) / p;
        default: return x < 0 ? 0 : x > 6 ? 6 : x;  // RELU6
    }
}

/// f'(x) dy; for ReLU, x is the layer's output.
__device__ inline T pull(T x, T dy, T p, T q) {
    T e, t;
    switch (ACT) {
        case RELU: return x > 0 ? dy : 0;
        case LEAKY_RELU: return x > 0 ? dy : p * dy;
        case ELU: return x > 0 ? dy : p * exp(x) * dy;
        case SIGMOID: e = exp(-fabs(x)); return e / ((1 + e) * (1 + e)) * dy;
        case TANH: t = tanh(x); return (1 - t * t) * dy;
        case GELU: return HALF * (erfc(-ROOT_HALF * x) + x * ROOT * exp(-HALF * x * x)) * dy;
        case GELU_TANH:
            t = tanh(ROOT * (x + CUBE * x * x * x));
            return HALF * (1 + t + x * (1 - t * t) * ROOT * (1 + 3 * CUBE * x * x)) * dy;
        case SILU: {
            // sigmoid(|x|) and sigmoid(-|x|), neither by a difference.
            e = exp(-fabs(x));
            T near = 1 / (1 + e), far = e / (1 + e);
            return (x < 0 ? far : near) * (1 + x * (x < 0 ? near : far)) * dy;
        }
        case SOFTPLUS: return p * x > q ? dy : dy / (1 + exp(-p * x));
        default: return x <= 0 || x >= 6 ? 0 : dy;  // RELU6
    }
}

// y = f(x); operands x, y
KERNEL(activate, 2, Pointwise) {
    map(o, 1, a.n, [&](float x) { return float(value(x, a.p, a.q)); });
}

// dx = f'(x) dy; operands x, dy, dx
KERNEL(activate_grad, 3, Pointwise) {
    map2(o, a.n, [&](float x, float dy) { return float(pull(x, dy, a.p, a.q)); });
}
