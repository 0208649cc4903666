// Numbers in 16 bits: what memory holds where arithmetic is float32. CUDA's own types live in headers that NVRTC may not have.
#pragma once
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef unsigned long long u64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ inline float widen(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

/// The nearest number of type T, ties to even.
template <class T>
__device__ T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
    return x;
}
template <>
__device__ inline f16 narrow<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <>
__device__ inline bf16 narrow<bf16>(float x) {
#if __CUDA_ARCH__ >= 800
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#else
    // Half a unit is added, less at an even number; NaN stays NaN.
    const u32 bits = __float_as_uint(x);
    return {x != x ? u16(0x7fff) : u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

/// The element types by DType::code.
template <int CODE>
struct Stored;
template <>
struct Stored<0> {
    typedef float type;
};
template <>
struct Stored<1> {
    typedef f16 type;
};
template <>
struct Stored<2> {
    typedef bf16 type;
};
