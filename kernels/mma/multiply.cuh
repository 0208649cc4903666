// A tile of a product of matrices on tensor cores, C [M,N] += A [M,depth] B [depth,N], by one block of 256 threads.
//
// Global memory -> shared memory, STAGES steps of depth ahead, without passing through registers (cp.async) -> fragments
// (ldmatrix) -> mma. A loader (mma/matrix.cuh, mma/image.cuh) brings chunks of 16 bytes of its operand. Every element of C is
// one chain of products in the order of depth, two chunks at a time, whatever the tile: tiles change the speed, not the bits.
#pragma once
#include "mma/factor.cuh"

#if !defined(BM) || !defined(BN) || !defined(BK) || !defined(STAGES) || !defined(VEC) || !defined(SHARED)
#error "-DBM= -DBN= -DBK= -DSTAGES= -DVEC= -DSHARED=: ops::mma::Tile"
#endif

static_assert(THREADS == 256, "eight warps");
constexpr int SIZE = sizeof(Real);
static_assert(SIZE * BK == 64 || SIZE * BK == 128, "bytes of a row in shared memory");
static_assert(VEC == 1 || VEC == CHUNK, "elements per load");

/// Eight warps cut the tile.
constexpr int WARPS_N = BM < 64 || (BN >= 128 && BM <= BN) ? 4 : 2, WARPS_M = 8 / WARPS_N;
constexpr int WARP_M = BM / WARPS_M, WARP_N = BN / WARPS_N;
static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "fragments of 16 x 16");

/// The block's shared memory, as much as the launch asked for.
extern __shared__ __align__(128) u8 shared[];

__device__ inline int div_up(int a, int b) { return (a + b - 1) / b; }
__device__ inline int lane() { return threadIdx.x % 32; }
/// This warp's first row and column of the tile.
__device__ inline int warp_row() { return threadIdx.x / 32 / WARPS_N * WARP_M; }
__device__ inline int warp_column() { return threadIdx.x / 32 % WARPS_N * WARP_N; }

/// An operand in shared memory whose rows run along the depth: [ROWS][BK]. Chunks of eight rows are exchanged so that eight
/// threads that store a row, and ldmatrix that reads eight rows of one chunk, meet each bank once.
template <int ROWS>
struct DepthInner {
    static constexpr int CHUNKS = BK / CHUNK, EACH = ROWS * CHUNKS / THREADS, APART = THREADS / CHUNKS;
    static constexpr int BYTES = SIZE * ROWS * BK;
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread loads as much");
    /// The chunk of a step that this thread loads, of rows `row() + i APART`, i < EACH.
    __device__ static int chunk() { return threadIdx.x % CHUNKS; }
    __device__ static int row() { return threadIdx.x / CHUNKS; }
    /// Where a chunk lies, in bytes.
    __device__ static u32 at(int row, int chunk) {
        return 16 * (row * CHUNKS + (chunk ^ (CHUNKS == 8 ? row & 7 : row >> 1 & 3)));
    }
    __device__ static u32 own(int i) { return at(row() + i * APART, chunk()); }
    /// The fragment of rows m to m + 16, chunks 2 k and 2 k + 1 of the depth, as A.
    __device__ static void a(u32 (&to)[4], u32 from, int m, int k) {
        ldmatrix(to, from + at(m + lane() % 16, 2 * k + lane() / 16));
    }
    /// The same of columns n to n + 16 as two Bs: registers 0 and 1, 2 and 3.
    __device__ static void b(u32 (&to)[4], u32 from, int n, int k) {
        ldmatrix(to, from + at(n + lane() % 8 + lane() / 16 * 8, 2 * k + lane() / 8 % 2));
    }
};

/// The same where depth runs across the rows: [BK][COLUMNS]. ldmatrix transposes 16 bits; float32 is read one by one, four
/// depths of eight columns by a warp, from rows two chunks longer: so they meet each bank once, at distances known in advance.
template <int COLUMNS>
struct DepthOuter {
    static constexpr int CHUNKS = COLUMNS / CHUNK, EACH = BK * CHUNKS / THREADS, APART = THREADS / CHUNKS;
    static constexpr int ROW = CHUNKS + (SIZE == 4 ? 2 : 0), BYTES = 16 * BK * ROW;
    static_assert(BK * CHUNKS % THREADS == 0 && CHUNKS % 8 == 0, "every thread loads as much, rows of whole lines");
    /// The columns that this thread loads, at depths `depth() + i APART` of a step, i < EACH.
    __device__ static int column() { return CHUNK * (threadIdx.x % CHUNKS); }
    __device__ static int depth() { return threadIdx.x / CHUNKS; }
    __device__ static u32 at(int depth, int chunk) { return 16 * (depth * ROW + (SIZE == 4 ? chunk : chunk ^ (depth & 7))); }
    __device__ static u32 own(int i) { return at(depth() + i * APART, threadIdx.x % CHUNKS); }
    __device__ static void a(u32 (&to)[4], u32 from, int m, int k) {
        if constexpr (SIZE == 2)
            ldmatrix_trans(to, from + at(16 * k + lane() % 8 + lane() / 16 * 8, m / 8 + lane() / 8 % 2));
        else
#pragma unroll
            for (int i = 0; i < 4; ++i) to[i] = element(from, m + i % 2 * 8, 8 * k + i / 2 * 4);
    }
    __device__ static void b(u32 (&to)[4], u32 from, int n, int k) {
        if constexpr (SIZE == 2)
            ldmatrix_trans(to, from + at(16 * k + lane() % 16, n / 8 + lane() / 16));
        else
#pragma unroll
            for (int i = 0; i < 4; ++i) to[i] = element(from, n + i / 2 * 8, 8 * k + i % 2 * 4);
    }
    /// This lane's of eight columns from `column` on and four depths.
    __device__ static u32 element(u32 from, int column, int depth) {
        return word(from + at(lane() % 4, 0) + SIZE * (lane() / 4) + at(depth, 0) + SIZE * column);
    }
};

/// What becomes of the fragments of A besides the product.
struct Nothing {
    __device__ void operator()(int, const u32 (&)[4]) const {}
};

struct Tile {
    /// 16 x 8 fragments: rows lane / 4 and lane / 4 + 8, of each two columns from 2 (lane % 4) on.
    static constexpr int TM = WARP_M / 16, TN = WARP_N / 8;
    float at[TM][TN][4] = {};

    /// Adds `steps` steps of BK. Afterwards shared memory is free.
    template <class A, class B>
    __device__ void multiply(A &a, B &b, int steps) {
        multiply(a, b, steps, Nothing());
    }

    /// The same, and calls `also` with every fragment of A that this warp uses.
    template <class A, class B, class Also>
    __device__ void multiply(A &a, B &b, int steps, Also &&also) {
        constexpr int STAGE = A::BYTES + B::BYTES;
        static_assert(STAGES * STAGE <= SHARED, "ops::mma::Tile asks for less shared memory than the tile takes");
        const u32 base = shared_address(shared);
        auto fetch = [&](int stage, bool exists) {
            if (exists) {
                a.load(base + stage * STAGE);
                b.load(base + stage * STAGE + A::BYTES);
            }
            commit();
        };
#pragma unroll
        for (int s = 0; s < STAGES - 1; ++s) fetch(s, s < steps);
        int next = STAGES - 1, now = 0;
        for (int step = 0; step < steps; ++step) {
            // This step's copies have arrived, and everybody is done with the stage that is filled next.
            wait<STAGES - 2>();
            __syncthreads();
            fetch(next, step + STAGES - 1 < steps);
            add<A, B>(base + now * STAGE, base + now * STAGE + A::BYTES, also);
            next = next + 1 == STAGES ? 0 : next + 1;
            now = now + 1 == STAGES ? 0 : now + 1;
        }
        // The copies of the last steps were waited for.
        __syncthreads();
    }

    template <class A, class B, class Also>
    __device__ void add(u32 as, u32 bs, Also &also) {
        // Fragments of float32 are kept in parts: one at a time, where registers are dear.
#pragma unroll(SIZE == 4 ? 1 : BK / CHUNK / 2)
        for (int k = 0; k < BK / CHUNK / 2; ++k) {
            u32 x[TM][4], y[TN / 2][4];
            auto load = [&](int i) { A::a(x[i], as, warp_row() + 16 * i, k); };
            if constexpr (SIZE == 2)
#pragma unroll
                for (int i = 0; i < TM; ++i) load(i);
#pragma unroll
            for (int j = 0; j < TN / 2; ++j) B::b(y[j], bs, warp_column() + 16 * j, k);
            Factor to[TN / 2];
#pragma unroll
            for (int j = 0; j < TN / 2; ++j) to[j] = Factor(y[j]);
#pragma unroll
            for (int i = 0; i < TM; ++i) {
                if constexpr (SIZE == 4) load(i);
                const Factor from(x[i]);
#pragma unroll
                for (int j = 0; j < TN; ++j) from.times(to[j / 2], j % 2, at[i][j]);
                if constexpr (SIZE == 4) also(i, x[i]);
            }
            if constexpr (SIZE == 2)
#pragma unroll
                for (int i = 0; i < TM; ++i) also(i, x[i]);
        }
    }

    /// Calls f(row, column, two elements) for all elements of this thread, with row and column within the tile.
    template <class F>
    __device__ void each(F f) const {
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
            for (int j = 0; j < TN; ++j)
#pragma unroll
                for (int h = 0; h < 2; ++h)
                    f(warp_row() + 16 * i + lane() / 4 + 8 * h, warp_column() + 8 * j + 2 * (lane() % 4),
                      make_float2(at[i][j][2 * h], at[i][j][2 * h + 1]));
    }

    /// The same, two rows eight apart at once: f(row, column, two elements, two elements of row + 8).
    template <class F>
    __device__ void pairs(F f) const {
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
            for (int j = 0; j < TN; ++j)
                f(warp_row() + 16 * i + lane() / 4, warp_column() + 8 * j + 2 * (lane() % 4),
                  make_float2(at[i][j][0], at[i][j][1]), make_float2(at[i][j][2], at[i][j][3]));
    }

    /// Leaves the tile in shared memory as `Staged` reads it, f(column, element) of each element.
    template <class F>
    __device__ void stage(F f) const {
        each([&](int row, int column, float2 v) {
            const Neighbours<2, Real> two{narrow<Real>(f(column, v.x)), narrow<Real>(f(column + 1, v.y))};
            *reinterpret_cast<Neighbours<2, Real> *>(shared + SIZE * (row * PITCH + column)) = two;
        });
        __syncthreads();
    }

    /// Elements from row to row of a staged tile: 4 words mod 32 apart in 16 bits, so that a fragment's eight rows meet each
    /// bank once; 8 words in float32, of which four rows are stored at a time.
    static constexpr int PITCH = BN + 8;
    static_assert(SIZE * BM * PITCH <= SHARED, "a staged tile needs more than the stages");
};

/// The sums of A's rows over the depth: what a column of ones in B would bring. Of the warps that share rows the first one's.
struct Sums {
    const bool wanted;
    RowSums at[Tile::TM];
    __device__ explicit Sums(bool wanted) : wanted(wanted && warp_column() == 0) {}
    __device__ void operator()(int i, const u32 (&x)[4]) {
        if (wanted) at[i].add(x);
    }
    /// Calls f(row, sum) for each row of this thread.
    template <class F>
    __device__ void each(F f) {
        if (!wanted) return;
        for (RowSums &rows : at) rows.finish();
        if (lane() % 4 != 0) return;
        for (int i = 0; i < Tile::TM; ++i)
            for (int h = 0; h < 2; ++h) f(warp_row() + 16 * i + lane() / 4 + 8 * h, at[i].of(h));
    }
};

/// Chunk `chunk` of row `row` of a staged tile.
__device__ inline Chunk staged(int row, int chunk) {
    return *reinterpret_cast<const Chunk *>(shared + SIZE * (row * Tile::PITCH + CHUNK * chunk));
}

/// Calls f(row, chunk) for this block's staged chunks, rows `every` apart; neighbouring threads get neighbouring chunks.
template <class F>
__device__ inline void each_chunk(int every, F f) {
    constexpr int ROW = BN / CHUNK;
    for (int i = threadIdx.x; i < BM / every * ROW; i += THREADS) f(i / ROW * every, i % ROW);
}

/// Writes a chunk to row[at..] as far as it is within `width`, the length that every row of the matrix has.
__device__ inline void put(Real *row, int at, int width, const Chunk &v) {
    if (width % CHUNK == 0) {
        if (at < width) *reinterpret_cast<Chunk *>(row + at) = v;
        return;
    }
#pragma unroll
    for (int i = 0; i < CHUNK; ++i)
        if (at + i < width) row[at + i] = v.at[i];
}

/// The chunk row[at..] as far as it is within `width`, zeros after that.
__device__ inline Chunk take(const Real *row, int at, int width) {
    if (width % CHUNK == 0) return at < width ? *reinterpret_cast<const Chunk *>(row + at) : Chunk{};
    Chunk v;
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) v.at[i] = at + i < width ? row[at + i] : Real{};
    return v;
}

/// Four channels of a chunk, which has four or eight.
typedef Neighbours<4, Real> Four;
__device__ inline Four four(const Chunk &v, int half) { return reinterpret_cast<const Four *>(&v)[half]; }

/// Writes two neighbours to row[at..at + 2] as far as they are within `width`.
__device__ inline void put(float *row, int at, int width, float2 v) {
    if (width % 2 == 0) {
        if (at < width) *reinterpret_cast<float2 *>(row + at) = v;
        return;
    }
    if (at < width) row[at] = v.x;
    if (at + 1 < width) row[at + 1] = v.y;
}
