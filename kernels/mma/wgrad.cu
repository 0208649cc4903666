// dw = the correlation of x with dy on tensor cores: implicit GEMM, filters x (r, s, c), depth [n p q]. The sum over pixels
// is cut into parts (blockIdx.y), which `split_sum` adds in order.
#include "mma/image.cuh"

/// BN of (tap row, tap column, channel), of the pixels that follow one another along the depth.
struct Pixels : DepthOuter<BN> {
    const Real *x;
    const Image image;
    const Conv &a;
    const Walk tap;
    Walk at;
    const Walk step, apart;
    int left;
    __device__ Pixels(const Real *x, const Image &image, const Conv &a, int first, int begin, int end)
        : x(x), image(image), a(a), tap(first + column(), a.s, image.channels), at(begin + depth(), a.p, a.q),
          step(BK, a.p, a.q), apart(APART, a.p, a.q), left(end - begin - depth()) {}
    /// The address of channel t.inner of the pixel under tap t, or null where there is none.
    __device__ const Real *element(const Walk &pixel, const Walk &t) const {
        const int row = pixel.middle * a.stride_h + (t.outer * image.row_step - a.pad_h);
        const int column = pixel.inner * a.stride_w + (t.middle * image.column_step - a.pad_w);
        if (t.outer >= a.r || !image.has(row, column)) return nullptr;
        return channels_of(x + t.inner, (pixel.outer * image.h + row) * image.w + column, image);
    }
    __device__ void load(u32 to) {
        Walk pixel = at;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const bool exists = i * APART < left;
            if (VEC == CHUNK) {
                const Real *p = element(pixel, tap);
                copy(to + own(i), p, exists && p);
            } else {
                Walk t = tap;
                put(to + own(i), gather([&](int) {
                    const Real *p = exists ? element(pixel, t) : nullptr;
                    t.next(a.s, image.channels);
                    return p ? *p : Real{};
                }));
            }
            pixel.advance(apart, a.p, a.q);
        }
        at.advance(step, a.p, a.q);
        left -= BK;
    }
};

// x [N,H,W,C], dy [N,P,Q,K], dw [parts,K,R,S,C/groups] and db [parts,K] in float32
KERNEL(conv_wgrad_mma, 4, Conv) {
    const int width = a.r * a.s * a.gc, pixels = a.n * a.p * a.q;
    const int across = div_up(width, BN), down = div_up(a.gk, BM);
    const int first = blockIdx.x % across * BN, filter = blockIdx.x / across % down * BM, group = blockIdx.x / across / down;
    const int begin = blockIdx.y * a.part, end = min(begin + a.part, pixels);

    const Image image{a.h, a.w, a.gc, a.c, a.dilation_h, a.dilation_w};
    Across<BM> from(o.in<Real>(1) + group * a.gk, filter, a.gk, a.k, begin, end);
    Pixels to(o.in<Real>(0) + group * a.gc, image, a, first, begin, end);

    Tile tile;
    // One of the blocks that read the same dy.
    Sums sums(a.bias && first == 0);
    tile.multiply(from, to, div_up(end - begin, BK), sums);
    float *dw = o.out<float>(2) + ((u64)blockIdx.y * a.k + group * a.gk) * width;
    tile.each([&](int i, int j, float2 v) {
        if (filter + i < a.gk) put(dw + (u64)(filter + i) * width, first + j, width, v);
    });
    float *db = o.out<float>(3) + (u64)blockIdx.y * a.k + group * a.gk;
    sums.each([&](int i, float v) {
        if (filter + i < a.gk) db[filter + i] = v;
    });
}
