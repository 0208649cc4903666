// What a warp asks of a tensor core, 16-bit or tf32 products with float32 sums: PTX ISA 9.7.14 (mma, ldmatrix) and 9.7.9.25
// (cp.async).
#pragma once
// A thread of a tile of 128 x 128 keeps 64 sums: two blocks share a multiprocessor's registers, where its shared memory is
// enough for two. Larger or deeper tiles take the registers of both.
#if __CUDA_ARCH__ >= 800 && SHARED <= (72 << 10)
#define RESIDENT 2
#endif
#include "common.cuh"

/// Elements that memory moves together, 16 bytes of them.
constexpr int CHUNK = 16 / sizeof(Real);
typedef Neighbours<CHUNK, Real> Chunk;

__device__ inline u32 shared_address(const void *p) { return u32(__cvta_generic_to_shared(p)); }

/// Four matrices of eight chunks, 8 x 8 elements of 16 bits or 8 x 4 of 32; lane l gives the address of row l % 8 of matrix
/// l / 8, and gets 32 bits of row l / 4 of each.
__device__ inline void ldmatrix(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

/// The same, each 8 x 8 matrix transposed on the way.
__device__ inline void ldmatrix_trans(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from));
}

/// 32 bits of shared memory.
__device__ inline u32 word(u32 from) {
    u32 to;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(to) : "r"(from));
    return to;
}

/// d [16,8] += a [16,2 CHUNK] b [2 CHUNK,8]. Of float32 numbers the lowest 13 bits are to be zero.
__device__ inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    if (STORAGE == 0) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else if (STORAGE == 1) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
#else
    static_assert(STORAGE == 1, "bf16 and tf32 need sm_80");
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

/// Copies a chunk to shared memory, or zeros where there is none. From sm_80 on it arrives later: `wait`.
__device__ inline void copy(u32 to, const Real *from, bool exists) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
                 "r"(exists ? 16 : 0)
                 : "memory");
#else
    const uint4 v = exists ? __ldg(reinterpret_cast<const uint4 *>(from)) : uint4{};
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
#endif
}

/// Stores a chunk that was put together in registers.
__device__ inline void put(u32 to, const Chunk &chunk) {
    const uint4 v = *reinterpret_cast<const uint4 *>(&chunk);
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

/// Ends a group of copies.
__device__ inline void commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most N groups of this thread's copies are under way.
template <int N>
__device__ inline void wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
