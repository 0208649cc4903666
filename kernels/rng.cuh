// Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011): the twin of src/rng.rs, word for word.
#pragma once
#include "common.cuh"

/// The four words at position `block` of a stream: kernel twin of rng::block.
__device__ inline uint4 philox(u32 seed_low, u32 seed_high, u64 block, u32 stream, u32 step) {
    u32 k0 = seed_low, k1 = seed_high;
    uint4 c = {u32(block), u32(block >> 32), stream, step};
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xD2511F53, c.x), low0 = 0xD2511F53 * c.x;
        u32 high1 = __umulhi(0xCD9E8D57, c.z), low1 = 0xCD9E8D57 * c.z;
        c = {high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

/// 24 random bits as a float in [0, 1): exact.
__device__ inline float uniform(u32 word) { return float(word >> 8) * (1.0f / (1 << 24)); }

/// Dropout by masks that depend on (seed, step, layer, element) alone, elements counted on from rank to rank:
/// ops::dropout::Mask, and what it does to a number.
struct Dropout {
    const u32 *state;  // seed low, seed high, step, rank
    u32 stream;        // which layer
    float keep;
    u32 elements;      // of a rank
    /// Words of elements 4 i to 4 i + 3.
    __device__ uint4 words(u32 i) const {
        const u64 before = u64(state[3]) * ((u64(elements) + 3) / 4);
        return philox(state[0], state[1], before + i, stream, state[2]);
    }
    __device__ float mask(u32 word) const { return uniform(word) < keep ? 1 : 0; }
    __device__ float operator()(u32 i, float y) const {
        const uint4 w = words(i / 4);
        return y * mask(i % 4 == 0 ? w.x : i % 4 == 1 ? w.y : i % 4 == 2 ? w.z : w.w) / keep;
    }
};
