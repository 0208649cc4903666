// y = x in another element type.
#include "common.cuh"

typedef Stored<FROM>::type From;
typedef Stored<TO>::type To;

// operands x, y
KERNEL(cast, 2, Count) {
    fours(a.n, [&](u64 i, auto width) {
        constexpr int V = width;
        Pack<V>::load(o.in<From>(0) + i).store(o.out<To>(1) + i);
    });
}
