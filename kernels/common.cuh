// What every kernel shares. No header of CUDA is included anywhere: NVRTC alone compiles these files, and so does
// `nvcc -Ikernels -DTHREADS=256 ...`.
#pragma once
#include "args.cuh"

#ifndef THREADS
#error "-DTHREADS=: the block size, kernel::gpu::Kernel::threads"
#endif

typedef unsigned char u8;
typedef unsigned u32;
typedef unsigned long long u64;

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

/// Blocks of a kernel that share a multiprocessor, at least: what bounds the registers of a thread.
#ifndef RESIDENT
#define RESIDENT 1
#endif

/// A kernel `name` with `n` operands and a struct of numbers.
#define KERNEL(name, n, Args) \
    extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) name(const __grid_constant__ Operands<n> o, const __grid_constant__ Args a)

/// The element of this thread, in kernels that give one to each.
__device__ inline u32 element() { return blockIdx.x * THREADS + threadIdx.x; }
