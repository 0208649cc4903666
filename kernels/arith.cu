// Constants, sums, products and scaling, element by element.
#include "common.cuh"

// y = a + b; operands a, b, y
KERNEL(add, 3, Count) {
    u32 i = element();
    if (i < a.n) o.out<float>(2)[i] = o.in<float>(0)[i] + o.in<float>(1)[i];
}
