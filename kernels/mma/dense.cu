// Dense layers on tensor cores, products of matrices that lie row by row. The sum over the depth is cut into parts
// (blockIdx.y), which `finish` or `split_sum` adds in order.
#include "mma/matrix.cuh"
#include "descent.cuh"
#include "finish.cuh"

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

// y = act(x w^T + b), dropped out of where that is asked: x [N,I], w [O,I], the parts of y and what `finish` takes
KERNEL(dense_fprop_mma, 8, Gemm) {
    const Split at(a);
    Along<BM> x(o.in<Real>(0), at.row, a.m, a.depth, at.begin, at.end);
    Along<BN> w(o.in<Real>(1), at.column, a.n, a.depth, at.begin, at.end);
    at.multiply(x, w, a, o.out<float>(2));
    finish<BM, BN>(o, a, at.row, at.column);
}

// dx = dy w, over keep where x is positive, else 0: dy [N,O], w [O,I], the parts of dx and what `finish` takes
KERNEL(dense_dgrad_mma, 8, Gemm) {
    const Split at(a);
    Along<BM> dy(o.in<Real>(0), at.row, a.m, a.depth, at.begin, at.end);
    Across<BN> w(o.in<Real>(1), at.column, a.n, a.n, at.begin, at.end);
    at.multiply(dy, w, a, o.out<float>(2));
    finish<BM, BN>(o, a, at.row, at.column);
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

/// Two neighbours row[at..at + 2] as far as they are within `width`, zeros after that.
__device__ inline float2 two(const float *row, int at, int width) {
    if (width % 2 == 0) return at < width ? *reinterpret_cast<const float2 *>(row + at) : float2{};
    return {at < width ? row[at] : 0, at + 1 < width ? row[at + 1] : 0};
}

/// Writes two neighbours as Real to row[at..at + 2] as far as they are within `width`.
__device__ inline void put_narrow(Real *row, int at, int width, float2 v) {
    const Neighbours<2, Real> narrowed{narrow<Real>(v.x), narrow<Real>(v.y)};
    if (width % 2 == 0) {
        if (at < width) *reinterpret_cast<Neighbours<2, Real> *>(row + at) = narrowed;
        return;
    }
    if (at < width) row[at] = narrowed.at[0];
    if (at + 1 < width) row[at + 1] = narrowed.at[1];
}

// A step of w along dw = dy^T x, which is not written, and db = the column sums of dy: x [N,I], dy [N,O]; w and v [O,I] in
// float32 and w as Real, where that is another type, all updated; hyper [lr, momentum, weight decay, first]; db [O] in float32
// On sm_80 a tile of 128 x 128 would spill a register where two blocks share them.
KERNEL_RESIDENT(dense_update_mma, 7, Learning, __CUDA_ARCH__ < 900 && BM * BN >= 128 * 128 ? 1 : RESIDENT) {
    const Gemm &g = a.product;
    const Split at(g);
    Across<BM> dy(o.in<Real>(1), at.row, g.m, g.m, at.begin, at.end);
    Across<BN> x(o.in<Real>(0), at.column, g.n, g.n, at.begin, at.end);
    // One of the blocks that read the same dy.
    Sums sums(g.bias && at.column == 0);
    Tile tile;
    tile.multiply<Across<BM>, Across<BN>, Sums &>(dy, x, div_up(at.end - at.begin, BK), sums);
    const Step step(a.step, o.in<float>(5), nullptr);
    // What two rows need is asked for at once: one row's numbers in flight would not keep the memory busy.
    tile.pairs([&](int i, int j, float2 upper, float2 lower) {
        const int column = at.column + j;
        const bool exist[] = {at.row + i < g.m, at.row + i + 8 < g.m};
        const float2 d[] = {upper, lower};
        float2 w[2]{}, v[2]{};
        const u64 rows[] = {(u64)(at.row + i) * g.n, (u64)(at.row + i + 8) * g.n};
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            if (exist[r]) w[r] = two(o.in<float>(2) + rows[r], column, g.n);
            if (exist[r] && step.momentum != 0) v[r] = two(o.in<float>(3) + rows[r], column, g.n);
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            step.take(w[r].x, v[r].x, d[r].x);
            step.take(w[r].y, v[r].y, d[r].y);
            if (!exist[r]) continue;
            put(o.out<float>(2) + rows[r], column, g.n, w[r]);
            if (step.momentum != 0) put(o.out<float>(3) + rows[r], column, g.n, v[r]);
            if (STORAGE != 0) put_narrow(o.out<Real>(4) + rows[r], column, g.n, w[r]);
        }
    });
    sums.each([&](int i, float v) {
        if (at.row + i < g.m) o.out<float>(6)[at.row + i] = v;
    });
}
