// What only Hopper has: copies of boxes by tensor maps, barriers that count their bytes, products of a warpgroup. All of it is
// PTX, named as there (PTX ISA 9.7).
#pragma once
#include "common.cuh"

/// Tensor maps of up to GROUP equal instances of an op; blockIdx.z picks the instance.
template <int N>
struct Maps {
    struct alignas(64) Map {
        u8 bytes[128];
    } at[GROUP][N];
    __device__ const Map *operator[](int i) const { return &at[blockIdx.z][i]; }
};

/// A kernel with tensor maps.
#define KERNEL_MAPS(name, n, Args, maps)                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) name(const __grid_constant__ Operands<n> o, \
                                                                  const __grid_constant__ Args a, const __grid_constant__ Maps<maps> m)

/// Registers of each thread of a warpgroup from here on: fewer, or as soon as there are some more.
template <int N>
__device__ inline void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ inline void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/// A barrier at an address in shared memory.
struct Bar {
    u32 at;
    __device__ void init(int arrivals) const { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory"); }
    __device__ void arrive() const { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory"); }
    /// Arrives, and `bytes` of copies are to arrive in this phase.
    __device__ void expect(int bytes) const {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
    }
    /// Until the phase of this parity is over; the one before the first has parity 1.
    __device__ void wait(u32 parity) const {
        asm volatile(
            "{\n.reg .pred done;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(at),
            "r"(parity)
            : "memory");
    }
};

/// Makes barriers that were initialised known to copies.
__device__ inline void fence_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

/// Copies the box at a corner into shared memory; what of it is outside the tensor is zero.
__device__ inline void copy_box(u32 to, const void *map, Bar bar, int c0, int c1, int c2) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
        "l"(map), "r"(bar.at), "r"(c0), "r"(c1), "r"(c2)
        : "memory");
}
__device__ inline void copy_box(u32 to, const void *map, Bar bar, int c0, int c1, int c2, int c3) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
        "l"(map), "r"(bar.at), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
        : "memory");
}

/// Whether this thread is the one of its warp that is elected.
__device__ inline bool elected() {
    u32 is;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, -1;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(is));
    return is;
}

/// The descriptor of an operand in swizzle atoms of eight rows of 128 bytes, which begins at a multiple of 16 bytes of shared
/// memory. `leading` counts where rows lie side by side: from 64 of them to the next.
__device__ inline u64 descriptor(u32 at, u32 leading = 16) {
    return u64(at >> 4) | u64(leading >> 4) << 16 | u64(1024 >> 4) << 32 | 1ull << 62;
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Until all but the newest N groups are done.
template <int N>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/// d = A B, or d + A B: 64 rows of A and 64, 128 or 256 columns of B, 16 deep, by all threads of a warpgroup. ROWS: rows of B lie in one
/// piece in shared memory, not its columns.
#define SUMS8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SUMS32(i) SUMS8(i), SUMS8(i + 8), SUMS8(i + 16), SUMS8(i + 24)
#define PLACES32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PLACES64 \
    PLACES32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PLACES128 \
    PLACES64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
/// So many columns with their sums in a thread, and the places of a, b, `adds` and ROWS behind those.
#define WGMMA(columns, n, places, a_at, b_at, adds_at, rows_at, ...)                                                       \
    template <int ROWS>                                                                                                    \
    __device__ inline void wgmma(float (&d)[n], u64 a, u64 b, int adds) {                                                  \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " adds_at ", 0;\nwgmma.mma_async.sync.aligned.m64n" columns          \
                     "k16.f32.bf16.bf16 {" places "}, " a_at ", " b_at ", p, 1, 1, 0, " rows_at ";\n}"                      \
                     : __VA_ARGS__                                                                                         \
                     : "l"(a), "l"(b), "r"(adds), "n"(ROWS));                                                              \
    }
WGMMA("64", 32, PLACES32, "%32", "%33", "%34", "%35", SUMS32(0))
WGMMA("128", 64, PLACES64, "%64", "%65", "%66", "%67", SUMS32(0), SUMS32(32))
WGMMA("256", 128, PLACES128, "%128", "%129", "%130", "%131", SUMS32(0), SUMS32(32), SUMS32(64), SUMS32(96))
