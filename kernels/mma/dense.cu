// Dense layers on tensor cores, products of matrices that lie row by row. The sum over the depth is cut into parts
// (blockIdx.y), which `split_sum` or `split_act` adds in order.
#include "mma/matrix.cuh"

/// C [parts,m,n]: where this block's tile and part lie.
struct Split {
    int row, column, begin, end;
    __device__ Split(const Gemm &a)
        : row(blockIdx.x / div_up(a.n, BN) * BM), column(blockIdx.x % div_up(a.n, BN) * BN),
          begin(blockIdx.y * a.part), end(min(begin + a.part, a.depth)) {}
    template <class A, class B, class Also = Nothing>
    __device__ void multiply(A &from, B &to, const Gemm &a, float *c, Also also = Nothing()) const {
        Tile tile;
        tile.multiply(from, to, div_up(end - begin, BK), also);
        c += (u64)blockIdx.y * a.m * a.n;
        tile.each([&](int i, int j, float2 v) {
            if (row + i < a.m) put(c + (u64)(row + i) * a.n, column + j, a.n, v);
        });
    }
};

// y = x w^T: x [N,I], w [O,I], y [parts,N,O] in float32
KERNEL(dense_fprop_mma, 3, Gemm) {
    const Split at(a);
    Along<BM> x(o.in<Real>(0), at.row, a.m, a.depth, at.begin, at.end);
    Along<BN> w(o.in<Real>(1), at.column, a.n, a.depth, at.begin, at.end);
    at.multiply(x, w, a, o.out<float>(2));
}

// dx = dy w: dy [N,O], w [O,I], dx [parts,N,I] in float32
KERNEL(dense_dgrad_mma, 3, Gemm) {
    const Split at(a);
    Along<BM> dy(o.in<Real>(0), at.row, a.m, a.depth, at.begin, at.end);
    Across<BN> w(o.in<Real>(1), at.column, a.n, a.n, at.begin, at.end);
    at.multiply(dy, w, a, o.out<float>(2));
}

// dw = dy^T x, db = the column sums of dy: x [N,I], dy [N,O], dw [parts,O,I] and db [parts,O] in float32
KERNEL(dense_wgrad_mma, 4, Gemm) {
    const Split at(a);
    Across<BM> dy(o.in<Real>(1), at.row, a.m, a.m, at.begin, at.end);
    Across<BN> x(o.in<Real>(0), at.column, a.n, a.n, at.begin, at.end);
    // One of the blocks that read the same dy.
    Sums sums(a.bias && at.column == 0);
    at.multiply<Across<BM>, Across<BN>, Sums &>(dy, x, a, o.out<float>(2), sums);
    float *db = o.out<float>(3) + (u64)blockIdx.y * a.m;
    sums.each([&](int i, float v) {
        if (at.row + i < a.m) db[at.row + i] = v;
    });
}
