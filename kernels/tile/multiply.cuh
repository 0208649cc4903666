// A tile of a product of matrices, C [M,N] += A [M,depth] B [depth,N], by one block of 256 threads.
//
// Global memory -> registers -> shared memory -> registers, double buffered: while step i is multiplied, step i + 1 is on
// its way from global memory. A loader (tile/matrix.cuh, tile/image.cuh) brings one float4 of its operand per thread and
// step; both operands lie in shared memory with depth outermost. Every element of C is one chain of fused multiply-adds
// in the order of depth, whatever the tile: tiles change the speed, not the bits.
#pragma once
#define RESIDENT 2
#include "common.cuh"

#if !defined(BM) || !defined(BN) || !defined(BK) || !defined(VEC)
#error "-DBM= -DBN= -DBK= -DVEC=: ops::tile::Tile"
#endif

static_assert(THREADS == 256 && BK % 8 == 0, "what a thread loads and owns is laid out for this");
static_assert(BM * BK <= 4 * THREADS && BN * BK <= 4 * THREADS, "a loader brings one float4 per thread and step");
static_assert(VEC == 1 || VEC == 4, "elements per load");

/// A thread owns QM x QN squares of 4 x 4 elements; squares of neighbouring threads are neighbours.
constexpr int SQUARES = BM * BN / (16 * THREADS), QN = SQUARES == 4 ? 2 : 1, QM = SQUARES / QN;
constexpr int TX = BN / (4 * QN), TY = BM / (4 * QM);
static_assert(TX * TY == THREADS && TX % 8 == 0, "8 x 4 lanes form a warp");

/// Rows of shared memory are 4 mod 8 words apart: float4s stay aligned, and a warp that stores transposed (16 rows,
/// 2 float4s of depth) meets each bank once.
constexpr int PAD = 4;

__device__ inline int div_up(int a, int b) { return (a + b - 1) / b; }

/// This thread's first row and column of the tile. A warp reads 4 float4s of A and 8 of B, each side by side.
__device__ inline int thread_row() { return 4 * (threadIdx.x / 32 / (TX / 8) * 4 + threadIdx.x % 32 / 8); }
__device__ inline int thread_column() { return 4 * (threadIdx.x / 32 % (TX / 8) * 8 + threadIdx.x % 8); }

struct Tile {
    float at[QM * 4][QN * 4] = {};

    /// Adds `steps` steps of BK, at least one.
    template <class A, class B>
    __device__ void multiply(A &a, B &b, int steps) {
        __shared__ __align__(16) float as[2][BK][BM + PAD], bs[2][BK][BN + PAD];
        a.store(a.load(), as[steps & 1]);
        b.store(b.load(), bs[steps & 1]);
        __syncthreads();
        for (; steps > 0; --steps) {
            // The last one is past the end: zeros, which nobody reads.
            const float4 next_a = a.load(), next_b = b.load();
            add(as[steps & 1], bs[steps & 1]);
            a.store(next_a, as[~steps & 1]);
            b.store(next_b, bs[~steps & 1]);
            __syncthreads();
        }
    }

    __device__ void add(const float (*as)[BM + PAD], const float (*bs)[BN + PAD]) {
        const int row = thread_row(), column = thread_column();
#pragma unroll
        for (int k = 0; k < BK; ++k) {
            float4 x[QM], y[QN];
#pragma unroll
            for (int q = 0; q < QM; ++q) x[q] = *reinterpret_cast<const float4 *>(&as[k][q * 4 * TY + row]);
#pragma unroll
            for (int q = 0; q < QN; ++q) y[q] = *reinterpret_cast<const float4 *>(&bs[k][q * 4 * TX + column]);
#pragma unroll
            for (int i = 0; i < QM * 4; ++i)
#pragma unroll
                for (int j = 0; j < QN * 4; ++j) at[i][j] = __fmaf_rn(lane(x[i / 4], i % 4), lane(y[j / 4], j % 4), at[i][j]);
        }
    }

    /// Calls f(row, column, four elements) for every four of this thread, with row and column within the tile.
    template <class F>
    __device__ void each(F f) const {
#pragma unroll
        for (int i = 0; i < QM * 4; ++i)
#pragma unroll
            for (int q = 0; q < QN; ++q)
                f(i / 4 * 4 * TY + thread_row() + i % 4, q * 4 * TX + thread_column(), row(i, q));
    }

    /// The same for every 4 x 4 square: f(first row, first column, four rows).
    template <class F>
    __device__ void squares(F f) const {
#pragma unroll
        for (int i = 0; i < QM; ++i)
#pragma unroll
            for (int q = 0; q < QN; ++q) {
                float4 v[] = {row(4 * i, q), row(4 * i + 1, q), row(4 * i + 2, q), row(4 * i + 3, q)};
                f(i * 4 * TY + thread_row(), q * 4 * TX + thread_column(), v);
            }
    }

    __device__ float4 row(int i, int q) const {
        return {at[i][q * 4], at[i][q * 4 + 1], at[i][q * 4 + 2], at[i][q * 4 + 3]};
    }

    __device__ static float lane(const float4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
};

/// Where a loader whose operand has depth along its rows puts its four: a column of shared memory.
template <int ROWS>
struct Transposed {
    int row, k;
    __device__ Transposed() : row(threadIdx.x / 2 % ROWS), k(4 * (threadIdx.x % 2 + threadIdx.x / 2 / ROWS * 2)) {}
    /// Whether this thread loads at all: a narrow tile needs fewer.
    __device__ bool busy() const { return ROWS * BK == 4 * THREADS || k < BK; }
    __device__ void store(float4 v, float (*to)[ROWS + PAD]) const {
        if (!busy()) return;
        to[k][row] = v.x;
        to[k + 1][row] = v.y;
        to[k + 2][row] = v.z;
        to[k + 3][row] = v.w;
    }
};

/// The same where depth runs across the rows: four neighbours of a row of shared memory.
template <int COLUMNS>
struct Straight {
    int column, k;
    __device__ Straight() : column(4 * (threadIdx.x % (COLUMNS / 4))), k(threadIdx.x / (COLUMNS / 4)) {}
    __device__ bool busy() const { return COLUMNS * BK == 4 * THREADS || k < BK; }
    __device__ void store(float4 v, float (*to)[COLUMNS + PAD]) const {
        if (busy()) *reinterpret_cast<float4 *>(&to[k][column]) = v;
    }
};

/// p[0..4] of which `left` exist, zeros after them. With VEC 4 all exist or none, and p is aligned.
__device__ inline float4 four(const float *p, int left) {
    if (VEC == 4) return left > 0 ? __ldg(reinterpret_cast<const float4 *>(p)) : float4{};
    return {left > 0 ? __ldg(p) : 0, left > 1 ? __ldg(p + 1) : 0, left > 2 ? __ldg(p + 2) : 0, left > 3 ? __ldg(p + 3) : 0};
}
