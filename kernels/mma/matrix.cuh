// Loaders of matrices that lie row by row in memory.
#pragma once
#include "mma/multiply.cuh"

/// The elements f(0), f(1) ... as a chunk.
template <class F>
__device__ inline Chunk gather(F f) {
    Chunk c;
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) c.at[i] = f(i);
    return c;
}

/// A chunk from p on, of which `left` elements exist, to shared memory, zeros after them. With VEC, and where chunks are `whole`,
/// all exist or none, and p is aligned.
__device__ inline void chunk_of(u32 to, const Real *p, int left, bool whole = false) {
    if (VEC == CHUNK || whole) {
        copy(to, p, left > 0);
    } else {
        put(to, gather([&](int i) { return i < left ? p[i] : Real{}; }));
    }
}

/// A matrix whose rows run along the depth: `ROWS` rows from `first` on of `rows`, elements `begin` to `end` of each.
template <int ROWS>
struct Along : DepthInner<ROWS> {
    typedef DepthInner<ROWS> Place;
    const Real *p;
    int rows, stride, left;
    __device__ Along(const Real *m, int first, int rows, int stride, int begin, int end)
        : p(m + (u64)(first + Place::row()) * stride + begin + CHUNK * Place::chunk()),
          rows(rows - first - Place::row()),
          stride(stride),
          left(end - begin - CHUNK * Place::chunk()) {}
    __device__ void load(u32 to) {
#pragma unroll
        for (int i = 0; i < Place::EACH; ++i)
            chunk_of(to + Place::own(i), p + (u64)(i * Place::APART) * stride, i * Place::APART < rows ? left : 0);
        p += BK;
        left -= BK;
    }
};

/// A matrix whose rows follow one another along the depth: rows `begin` to `end`, `COLUMNS` columns from `first` on of
/// `columns`.
template <int COLUMNS>
struct Across : DepthOuter<COLUMNS> {
    typedef DepthOuter<COLUMNS> Place;
    const Real *p;
    int left, width, stride;
    /// Whether rows consist of chunks, even where those of the other operand do not: a picture's filters, say.
    const bool whole;
    __device__ Across(const Real *m, int first, int columns, int stride, int begin, int end)
        : p(m + (u64)(begin + Place::depth()) * stride + first + Place::column()),
          left(end - begin - Place::depth()),
          width(columns - first - Place::column()),
          stride(stride),
          whole(stride % CHUNK == 0 && columns % CHUNK == 0) {}
    __device__ void load(u32 to) {
#pragma unroll
        for (int i = 0; i < Place::EACH; ++i)
            chunk_of(to + Place::own(i), p + (u64)(i * Place::APART) * stride, i * Place::APART < left ? width : 0, whole);
        p += (u64)BK * stride;
        left -= BK;
    }
};
