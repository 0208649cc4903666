// Gradients of dense layers: products of matrices that lie row by row. The sum over the depth is cut into parts
// (blockIdx.y), which `split_sum` adds in order.
#include "tile/matrix.cuh"
#include "tile/epilogue.cuh"

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

// dx = dy w, over keep where x is positive, else 0: dy [N,O], w [O,I], x [N,I], dx [parts,N,I]
KERNEL(dense_dgrad, 4, Gemm) {
    const Split at(a);
    Along<BM> dy(o.in<float>(0), at.row, a.m, a.depth, at.begin, at.end);
    Across<BN> w(o.in<float>(1), at.column, a.n, a.n, at.begin, at.end);
    at.multiply(dy, w, a, o.out<float>(3), a.mask ? o.in<float>(2) : nullptr);
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
