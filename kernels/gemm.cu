// Gradients of dense layers: products of matrices that lie row by row. The sum over the depth is cut into parts
// (blockIdx.y), which `finish` or `split_sum` adds in order.
#include "tile/matrix.cuh"
#include "descent.cuh"
#include "finish.cuh"

/// C [parts,m,n]: where this block's tile and part lie.
struct Split {
    int row, column, begin, end;
    __device__ Split(const Gemm &a)
        : row(blockIdx.x / div_up(a.n, BN) * BM), column(blockIdx.x % div_up(a.n, BN) * BN),
          begin(blockIdx.y * a.part), end(min(begin + a.part, a.depth)) {}
    /// `x` [m,n], where it is given, is the result of ReLU, and of dropout with `keep`: c is their gradient.
    template <class A, class B>
    __device__ void multiply(A &from, B &to, const Gemm &a, float *c, const float *x = nullptr) const {
        Tile tile;
        tile.multiply(from, to, div_up(end - begin, BK));
        c += (u64)blockIdx.y * a.m * a.n;
        tile.each([&](int i, int j, float4 v) {
            if (row + i >= a.m) return;
            const u64 at = (u64)(row + i) * a.n;
            if (x) v = over(positive(v, take(x + at, column + j, a.n)), a.keep);
            put(c + at, column + j, a.n, v);
        });
    }
};

// dx = dy w, over keep where x is positive, else 0: dy [N,O], w [O,I], the parts of dx and what `finish` takes; dx at once where
// it has one part
KERNEL(dense_dgrad, 8, Gemm) {
    const Split at(a);
    Along<BM> dy(o.in<float>(0), at.row, a.m, a.depth, at.begin, at.end);
    Across<BN> w(o.in<float>(1), at.column, a.n, a.n, at.begin, at.end);
    if (gridDim.y == 1) {
        at.multiply(dy, w, a, o.out<float>(6), a.mask ? o.in<float>(4) : nullptr);
    } else {
        at.multiply(dy, w, a, o.out<float>(2));
        finish<BM, BN>(o, a, at.row, at.column);
    }
}

// dw = dy^T x, db = the column sums of dy: x [N,I], dy [N,O], dw [parts,O,I], db [parts,O]
KERNEL(dense_wgrad, 4, Gemm) {
    const Split at(a);
    Summing<BM> dy(o.in<float>(1), at.row, a.m, a.m, at.begin, at.end);
    Across<BN> x(o.in<float>(0), at.column, a.n, a.n, at.begin, at.end);
    at.multiply(dy, x, a, o.out<float>(2));
    // One of the blocks that read the same dy.
    if (a.bias && at.column == 0) dy.write(o.out<float>(3) + (u64)blockIdx.y * a.m + at.row, a.m - at.row);
}

/// What lies in row[at..at + 4] as far as it is within `width`; unlike `take`, of numbers that are about to change.
__device__ inline float4 taken(const float *row, int at, int width) {
    if (width % 4 == 0) return at < width ? *reinterpret_cast<const float4 *>(row + at) : float4{};
    row += at;
    width -= at;
    return {width > 0 ? *row : 0, width > 1 ? row[1] : 0, width > 2 ? row[2] : 0, width > 3 ? row[3] : 0};
}

// A step of w along dw = dy^T x, which is not written, and db = the column sums of dy: x [N,I], dy [N,O]; w and v [O,I], both
// updated; hyper [lr, momentum, weight decay, first]; db [O]
KERNEL(dense_update, 6, Learning) {
    const Gemm &g = a.product;
    const Split at(g);
    Summing<BM> dy(o.in<float>(1), at.row, g.m, g.m, at.begin, at.end);
    Across<BN> x(o.in<float>(0), at.column, g.n, g.n, at.begin, at.end);
    Tile tile;
    tile.multiply(dy, x, div_up(at.end - at.begin, BK));
    const Step step(a.step, o.in<float>(4), nullptr);
    tile.each([&](int i, int j, float4 d) {
        const int column = at.column + j;
        if (at.row + i >= g.m) return;
        const u64 row = (u64)(at.row + i) * g.n;
        float4 w = taken(o.in<float>(2) + row, column, g.n), v{};
        if (step.momentum != 0) v = taken(o.in<float>(3) + row, column, g.n);
        step.take(w.x, v.x, d.x);
        step.take(w.y, v.y, d.y);
        step.take(w.z, v.z, d.z);
        step.take(w.w, v.w, d.w);
        put(o.out<float>(2) + row, column, g.n, w);
        if (step.momentum != 0) put(o.out<float>(3) + row, column, g.n, v);
    });
    // One of the blocks that read the same dy.
    if (g.bias && at.column == 0) dy.write(o.out<float>(5) + at.row, g.m - at.row);
}
