// Constants, sums, products and scaling, element by element.
#include "common.cuh"

// y = value; operand y
KERNEL(fill, 1, Scalar) {
    fours(a.n, [&](u64 i, auto width) { Pack<width>::fill(a.by).store(o.out<float>(0) + i); });
}

// y = a + b; operands a, b, y
KERNEL(add, 3, Count) {
    map2(o, a.n, [](float a, float b) { return a + b; });
}

// y = a b; operands a, b, y
KERNEL(mul, 3, Count) {
    map2(o, a.n, [](float a, float b) { return a * b; });
}

// y = by x; operands x, y
KERNEL(scale, 2, Scalar) {
    map(o, 1, a.n, [&](float x) { return a.by * x; });
}

// y[n][c] = (x[n][c] - mean[c]) inverse[c]; operands x, mean, inverse, y
KERNEL(standardize, 4, Channels) {
    u32 i = element(), c = i % a.c;
    if (i < a.n) o.out<float>(3)[i] = (o.in<float>(0)[i] - o.in<float>(1)[c]) * o.in<float>(2)[c];
}

// dx[n][c] = dy[n][c] inverse[c]; operands dy, inverse, dx
KERNEL(standardize_grad, 3, Channels) {
    u32 i = element();
    if (i < a.n) o.out<float>(2)[i] = o.in<float>(0)[i] * o.in<float>(1)[i % a.c];
}
