// Pictures under one random affine map each: src/ops/augment.rs, operation by operation.
#include "rng.cuh"

/// Where pixel (x, y) comes from, in 65536ths of a pixel: k[0] x + k[1] y + k[2].
struct Axis {
    int k[3];
};

/// The product and the sum of two numbers, each rounded: the compiler may not make one operation of them.
__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float plus(float a, float b) { return __fadd_rn(a, b); }

struct Turn {
    float sine, cosine;
};

/// Of an angle in degrees.
__device__ inline Turn turn(float degrees) {
    float quarters = rintf(times(degrees, 1.0f / 90));
    float t = times(plus(degrees, -times(quarters, 90)), 0.017453292f);
    float t2 = times(t, t);
    float odd = plus(-1.0f / 5040, times(t2, 1.0f / 362880));
    odd = plus(-1.0f / 6, times(t2, plus(1.0f / 120, times(t2, odd))));
    float even = plus(-1.0f / 720, times(t2, 1.0f / 40320));
    even = plus(-1.0f / 2, times(t2, plus(1.0f / 24, times(t2, even))));
    float s = plus(t, times(t, times(t2, odd))), c = plus(1, times(t2, even));
    switch (int(quarters) & 3) {
        case 0: return {s, c};
        case 1: return {c, -s};
        case 2: return {-s, -c};
        default: return {-c, s};
    }
}

/// In [-1, 1).
__device__ inline float either_way(u32 word) { return 2 * uniform(word) - 1; }

__device__ inline int whole(float x) { return __float2int_rn(x * 65536); }

/// What axis 0 (x) or 1 (y) of a picture goes through.
__device__ inline Axis draw(const Augmentation &a, const u32 *state, u32 row, int axis) {
    uint4 first = philox(state[0], state[1], 2 * row, a.stream, state[2]);
    uint4 second = philox(state[0], state[1], 2 * row + 1, a.stream, state[2]);
    float rotation = times(a.rotation, either_way(first.x)), shear = times(a.shear, either_way(first.w));
    float tx = times(a.shift[0], either_way(first.y)), ty = times(a.shift[1], either_way(first.z));
    float zx = plus(1, times(a.zoom, either_way(second.x))), zy = plus(1, times(a.zoom, either_way(second.y)));
    Turn turned = turn(rotation), lean = turn(plus(rotation, shear));
    float s = turned.sine, c = turned.cosine;
    int along_x = whole(times(zx, axis ? s : c));
    int along_y = whole(times(zy, axis ? lean.cosine : -lean.sine));
    float shift = axis ? plus(times(s, tx), times(c, ty)) : plus(times(c, tx), -times(s, ty));
    if (a.flip[0] && second.z >> 31) along_x = -along_x;
    if (a.flip[1] && second.w >> 31) along_y = -along_y;
    // The centre stays but for the shift.
    int centre = (int(a.side.by) - 1) * (65536 - along_x - along_y) >> 1;
    return {along_x, along_y, centre + whole(shift)};
}

/// The two positions that an output pixel lies between, and the weight of the second in 256ths.
struct Around {
    int low, high, part;
};

__device__ inline Around around(Axis axis, int x, int y, int side) {
    int at = axis.k[0] * x + axis.k[1] * y + axis.k[2];
    at = (min(max(at, 0), (side - 1) << 16) + 128) >> 8;
    return {at >> 8, min((at >> 8) + 1, side - 1), at & 255};
}

__device__ inline int mix(int a, int b, int part) { return a * (256 - part) + b * part; }

// A thread for each pixel, a row of blocks for each picture; operands x, rows, state [seed low, seed high, step, rank], y
KERNEL(image_augment, 4, Augmentation) {
    __shared__ Axis map[2];
    if (threadIdx.x < 2) map[threadIdx.x] = draw(a, o.in<u32>(2), o.in<u32>(1)[blockIdx.y], threadIdx.x);
    __syncthreads();
    u32 pixel = element();
    if (pixel >= a.pixels) return;
    int side = a.side.by, i = pixel / a.side, j = pixel % a.side;
    Around x = around(map[0], j, i, side), y = around(map[1], j, i, side);
    u64 picture = 3ull * a.pixels * blockIdx.y;
    const u8 *from = o.in<u8>(0) + picture;
    const u8 *top = from + 3 * side * y.low, *bottom = from + 3 * side * y.high;
    u8 *to = o.out<u8>(3) + picture + 3 * pixel;
    for (int ch = 0; ch < 3; ch++) {
        int left = 3 * x.low + ch, right = 3 * x.high + ch;
        int above = mix(top[left], top[right], x.part), below = mix(bottom[left], bottom[right], x.part);
        to[ch] = (mix(above, below, y.part) + 32768) >> 16;
    }
}
