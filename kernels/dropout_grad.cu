// The way back through dropout and ReLU, from what they left.
#include "tile/epilogue.cuh"

typedef Stored<FROM>::type From;

// dx = dy / keep where y is positive, else 0; operands y, dy, dx
KERNEL(dropout_grad, 3, Scalar) {
    fours(a.n, [&](u64 i, auto width) {
        constexpr int V = width;
        const auto y = Pack<V>::load(o.in<Real>(0) + i);
        auto dx = Pack<V>::load(o.in<From>(1) + i);
        for (int v = 0; v < V; v++) dx.at[v] = positive(stored(dx.at[v]), y.at[v]) / a.by;
        dx.store(o.out<Real>(2) + i);
    });
}
