// dw = the correlation of x with dy: implicit GEMM, filters x (r, s, c), depth [n p q]. The sum over pixels is cut into
// parts (blockIdx.y), which `split_sum` adds in order.
#include "tile/image.cuh"

/// BN of (tap row, tap column, channel), of the pixels that follow one another along the depth.
struct Pixels : Straight<BN> {
    const float *x;
    Image image;
    const Conv &a;
    Walk tap, at;
    int left;
    __device__ Pixels(const float *x, const Image &image, const Conv &a, int first, int begin, int end)
        : x(x), image(image), a(a), tap(first + column, a.s, image.channels), at(begin + k, a.p, a.q),
          left(busy() ? end - begin - k : 0) {}
    __device__ float4 load() {
        const int row = at.middle * a.stride_h - a.pad_h, col = at.inner * a.stride_w - a.pad_w;
        const float *from = x + (u64)at.outer * image.size();
        float4 v = {};
        if (left > 0) {
            Walk t = tap;
            if (VEC == 4) {
                if (const float *p = element(from, row, col, t)) v = __ldg(reinterpret_cast<const float4 *>(p));
            } else {
                v.x = scalar(from, row, col, t);
                v.y = scalar(from, row, col, t);
                v.z = scalar(from, row, col, t);
                v.w = scalar(from, row, col, t);
            }
        }
        at.advance(BK, a.p, a.q);
        left -= BK;
        return v;
    }
    __device__ float scalar(const float *from, int row, int col, Walk &t) const {
        const float *p = element(from, row, col, t);
        t.advance(1, a.s, image.channels);
        return p ? __ldg(p) : 0;
    }
    /// The address of channel t.inner of the pixel under the tap, or null where there is none.
    __device__ const float *element(const float *from, int row, int col, const Walk &t) const {
        row += t.outer * image.row_step;
        col += t.middle * image.column_step;
        if (t.outer >= a.r || !image.has(row, col)) return nullptr;
        return from + (row * image.w + col) * image.stride + t.inner;
    }
};

// x [N,H,W,C], dy [N,P,Q,K], dw [parts,K,R,S,C/groups], db [parts,K]
KERNEL(conv_wgrad, 4, Conv) {
    const int width = a.r * a.s * a.gc, pixels = a.n * a.p * a.q;
    const int across = div_up(width, BN), down = div_up(a.gk, BM);
    const int first = blockIdx.x % across * BN, filter = blockIdx.x / across % down * BM, group = blockIdx.x / across / down;
    const int begin = blockIdx.y * a.part, end = min(begin + a.part, pixels);

    const Image image{a.h, a.w, a.gc, a.c, a.dilation_h, a.dilation_w};
    Summing<BM> from(o.in<float>(1) + group * a.gk, filter, a.gk, a.k, begin, end);
    Pixels to(o.in<float>(0) + group * a.gc, image, a, first, begin, end);

    Tile tile;
    tile.multiply(from, to, div_up(end - begin, BK));
    float *dw = o.out<float>(2) + ((u64)blockIdx.y * a.k + group * a.gk) * width;
    tile.each([&](int i, int j, float4 v) {
        if (filter + i < a.gk) put(dw + (u64)(filter + i) * width, first + j, width, v);
    });
    // One of the blocks that read the same dy.
    if (a.bias && first == 0) from.write(o.out<float>(3) + (u64)blockIdx.y * a.k + group * a.gk + filter, a.gk - filter);
}
