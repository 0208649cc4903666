// The gradient behind a ReLU and the pooling of its result by windows of 2 x 2, from the index of who won.
#include "tile/epilogue.cuh"

// pooled [N,P,Q,K], index [N,P,Q,K/4], d [N,P,Q,K], dz [N,2P,2Q,K]: a thread spreads four channels over the four pixels
KERNEL(unpool, 4, Quads) {
    typedef Neighbours<4, Real> Four;
    const u32 i = element();
    if (i >= a.n) return;
    const u32 pixel = i / a.c, row = pixel / a.q, column = pixel % a.q;
    const Four y = o.in<Four>(0)[i];
    Four d = o.in<Four>(2)[i];
    for (int v = 0; v < 4; v++) d.at[v] = widen(y.at[v]) > 0 ? d.at[v] : Real{};
    Four *dz = o.out<Four>(3) + (4ull * a.q.by * row + 2 * column) * a.c.by + i % a.c;
    spread(d, o.in<u8>(1)[i], dz, 2 * a.q.by, a.c.by);
}
