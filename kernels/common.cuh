// What every kernel shares. No header of CUDA is included anywhere: NVRTC alone compiles these files, and so does
// `nvcc -Ikernels -DTHREADS=256 ...`.
#pragma once
#include "args.cuh"
#include "half.cuh"

#ifndef THREADS
#error "-DTHREADS=: the block size, launch::gpu::Kernel::threads"
#endif

/// How memory holds activations, DType::code; float32 where a kernel has no choice.
#ifndef STORAGE
#define STORAGE 0
#endif
typedef Stored<STORAGE>::type Real;

/// A number as memory has it: where ops that do one thing each would store what the next one reads.
__device__ inline float stored(float v) { return widen(narrow<Real>(v)); }

/// Addresses of the operands of up to GROUP equal instances of an op; blockIdx.z picks the instance.
template <int N>
struct Operands {
    void *at[GROUP][N];
    template <class T>
    __device__ const T *in(int i) const {
        return static_cast<const T *>(at[blockIdx.z][i]);
    }
    template <class T>
    __device__ T *out(int i) const {
        return static_cast<T *>(at[blockIdx.z][i]);
    }
};

/// Blocks of a kernel that share a multiprocessor, at least: what bounds the registers of a thread. Where the number is left
/// out, the assembler spills registers to make room for more.
#ifndef RESIDENT
#define RESIDENT 1
#endif

/// A kernel `name` with `n` operands and a struct of numbers.
#define KERNEL(name, n, Args) KERNEL_RESIDENT(name, n, Args, RESIDENT)

/// The same, with its own number of blocks that share a multiprocessor.
#define KERNEL_RESIDENT(name, n, Args, resident) \
    extern "C" __global__ void __launch_bounds__(THREADS, resident) name(const __grid_constant__ Operands<n> o, const __grid_constant__ Args a)

/// The element of this thread, in kernels that give one to each.
__device__ inline u32 element() { return blockIdx.x * THREADS + threadIdx.x; }

/// Division and remainder for n < 2^31: launch::gpu::Divisor.
__device__ inline u32 operator/(u32 n, Divisor d) { return __umulhi(2 * n, d.factor) >> d.shift; }
__device__ inline u32 operator%(u32 n, Divisor d) { return n - n / d * d.by; }

/// V neighbours in memory, moved by one instruction: their address is a multiple of their size.
template <int V, class T>
struct alignas(sizeof(T) * V) Neighbours {
    T at[V];
};

/// V neighbours as numbers to compute with.
template <int V>
struct alignas(4 * V) Pack {
    float at[V];
    template <class T>
    __device__ static Pack load(const T *from) {
        const auto x = *reinterpret_cast<const Neighbours<V, T> *>(from);
        Pack p;
        for (int v = 0; v < V; v++) p.at[v] = widen(x.at[v]);
        return p;
    }
    template <class T>
    __device__ void store(T *to) const {
        Neighbours<V, T> y;
        for (int v = 0; v < V; v++) y.at[v] = narrow<T>(at[v]);
        *reinterpret_cast<Neighbours<V, T> *>(to) = y;
    }
    __device__ static Pack fill(float x) {
        Pack p;
        for (float &y : p.at) y = x;
        return p;
    }
};

/// A number that a generic lambda takes as a constant.
template <int V>
struct Int {
    __device__ constexpr operator int() const { return V; }
};

/// Elements 0..n, four to a thread of as many blocks as they need, of which this one is number `block`: f(i, Int<4>) where
/// i..i + 4 are among them, f(i, Int<1>) for each of the last few.
///
/// There may be more than 2^32 of them. Every block but the last is full, and the lowest 32 bits of their number tell what is
/// left for that one; so within a block 32 bits count.
template <class F>
__device__ inline void fours(u32 block, u32 blocks, u32 n, F f) {
    constexpr u32 FULL = 4 * THREADS;
    const u64 first = (u64)block * FULL;
    const u32 left = block + 1 < blocks ? FULL : n - u32(first);
    u32 i = 4 * threadIdx.x;
    if (i + 4 <= left) {
        f(first + i, Int<4>());
    } else {
#pragma unroll 1
        for (; i < left; i++) f(first + i, Int<1>());
    }
}

/// The same by all blocks of a grid.
template <class F>
__device__ inline void fours(u32 n, F f) {
    fours(blockIdx.x, gridDim.x, n, f);
}

/// y[i] = f(x[i]); x and y are operands 0 and `y`.
template <int N, class F>
__device__ inline void map(const Operands<N> &o, int y, u32 n, F f) {
    fours(n, [&](u64 i, auto width) {
        constexpr int V = width;
        auto x = Pack<V>::load(o.template in<Real>(0) + i);
        for (float &x : x.at) x = f(x);
        x.store(o.template out<Real>(y) + i);
    });
}

/// y[i] = f(a[i], b[i]); a, b and y are operands 0, 1 and 2.
template <class F>
__device__ inline void map2(const Operands<3> &o, u32 n, F f) {
    fours(n, [&](u64 i, auto width) {
        constexpr int V = width;
        auto a = Pack<V>::load(o.in<Real>(0) + i), b = Pack<V>::load(o.in<Real>(1) + i);
        for (int v = 0; v < V; v++) a.at[v] = f(a.at[v], b.at[v]);
        a.store(o.out<Real>(2) + i);
    });
}
