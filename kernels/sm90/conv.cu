// y = act(x * w + b) by products of warpgroups: implicit GEMM of boxes of 8 x 8 pixels x filters, depth (r, s, c). The same for the
// gradient of x, where filters and channels have changed places (ACROSS) and taps go the other way, and on through a ReLU.
//
// One warp copies boxes of the image and of the filters into a ring of stages, two warpgroups multiply them. A stage is 64 channels
// of one tap. A box of pixels is one copy: what is outside the image arrives as zeros, which is the padding. Rows of a box are the
// rows of one warpgroup's product.
#include "sm90/hopper.cuh"

constexpr int SIDE = 8, PIXELS = SIDE * SIDE, GROUPS = 2;
/// Channels of a stage, which are the 128 bytes of a swizzle atom's row.
constexpr int DEPTH = 64, ROW = 128;
constexpr int IMAGE_BYTES = PIXELS * ROW, FILTER_BYTES = BN * ROW, STAGE_BYTES = GROUPS * IMAGE_BYTES + FILTER_BYTES;
/// From 16 channels to the next, in the units of a descriptor: along a row, or two atoms on.
constexpr int FILTER_STEP = (ACROSS ? 2 * 8 * ROW : 32) / 16;
static_assert(SHARED == STAGES * (STAGE_BYTES + 16), "stages, and two barriers for each");
static_assert(THREADS == 128 * (1 + GROUPS), "a warpgroup that copies, and those that multiply");

struct Stage {
    u32 at;
    Bar full, empty;
    __device__ Stage(u32 base, int i)
        : at(base + i * STAGE_BYTES), full{base + STAGES * STAGE_BYTES + 16 * i}, empty{base + STAGES * STAGE_BYTES + 16 * i + 8} {}
    __device__ u32 image(int group) const { return at + group * IMAGE_BYTES; }
    __device__ u32 filters() const { return at + GROUPS * IMAGE_BYTES; }
};

/// Goes around the stages: which one, and the parity of this time around.
struct Ring {
    int stage = 0;
    u32 parity = 0;
    __device__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

/// A box of pixels: the first one's image, row and column.
struct Box {
    int image, row, column;
    __device__ Box(int i, const Boxes &a) : image(i / (a.down * a.across)), row(i / a.across % a.down * SIDE), column(i % a.across * SIDE) {}
};

__device__ inline void produce(u32 base, const Boxes &a, const void *image, const void *filters, int first, int filter) {
    const Box boxes[GROUPS] = {Box(first, a), Box(first + 1, a)};
    Ring ring;
    for (int tap = 0; tap < a.r * a.s; ++tap) {
        const int down = a.first_row + tap / a.s * a.step, along = a.first_column + tap % a.s * a.step;
        for (int c = 0; c < a.c; c += DEPTH) {
            const Stage stage(base, ring.stage);
            stage.empty.wait(ring.parity ^ 1);
            stage.full.expect(STAGE_BYTES);
            for (int g = 0; g < GROUPS; ++g)
                copy_box(stage.image(g), image, stage.full, c, boxes[g].column + along, boxes[g].row + down, boxes[g].image);
            if (ACROSS) {
                for (int k = 0; k < BN; k += DEPTH) copy_box(stage.filters() + k * ROW, filters, stage.full, filter + k, tap, c);
            } else {
                copy_box(stage.filters(), filters, stage.full, c, tap, filter);
            }
            ring.next();
        }
    }
}

// x [N,H,W,C], w [K,R,S,C], b [K] in float32 or a mask [N,P,Q,K], y [N,P,Q,K]; maps of x and w.
KERNEL_MAPS(conv_gemm_sm90, 4, Boxes, 2) {
    extern __shared__ __align__(1024) u8 shared[];
    const u32 base = static_cast<u32>(__cvta_generic_to_shared(shared));
    const int group = int(threadIdx.x) / 128 - 1, first = blockIdx.x * GROUPS, filter = blockIdx.y * BN;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            const Stage stage(base, i);
            stage.full.init(1);
            stage.empty.init(GROUPS * 4);
        }
        fence_barriers();
    }
    __syncthreads();

    if (group < 0) {
        fewer_registers<40>();
        if (threadIdx.x < 32 && elected()) produce(base, a, m[0], m[1], first, filter);
        return;
    }
    more_registers<232>();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, steps = a.r * a.s * (a.c / DEPTH);
    float sums[BN / 2];
    Ring ring;
    int before = 0;
    for (int i = 0; i < steps; ++i) {
        const Stage stage(base, ring.stage);
        stage.full.wait(ring.parity);
        const u64 pixels = descriptor(stage.image(group)), filters = descriptor(stage.filters(), ACROSS ? DEPTH * ROW : 16);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; ++k) wgmma<ACROSS>(sums, pixels + 2 * k, filters + FILTER_STEP * k, i | k);
        wgmma_commit();
        // The step before is done, and its stage can be filled again.
        wgmma_wait<1>();
        if (i > 0 && lane == 0) Stage(base, before).empty.arrive();
        before = ring.stage;
        ring.next();
    }
    wgmma_wait<0>();

    const Box box(first + group, a);
    const float *bias = a.bias ? o.in<float>(2) : nullptr;
    const Real *mask = a.mask ? o.in<Real>(2) : nullptr;
    // A thread has two pixels, one below the other, and of eight filters two.
    const int column = box.column + lane / 4;
#pragma unroll
    for (int down = 0; down < 2; ++down) {
        const int row = box.row + 2 * warp + down;
        if (box.image >= a.n || row >= a.p || column >= a.q) continue;
        const u64 at = (u64)((box.image * a.p + row) * a.q + column) * a.k + filter;
        Real *to = o.out<Real>(3) + at;
#pragma unroll
        for (int j = 0; j < BN / 8; ++j) {
            const int k = 8 * j + 2 * (lane % 4);
            if (filter + 8 * j >= a.k) continue;
            float v[2];
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                v[e] = sums[4 * j + 2 * down + e] + (bias ? bias[filter + k + e] : 0.0f);
                if (a.relu) v[e] = v[e] < 0 ? 0 : v[e];
                if (mask) v[e] = widen(mask[at + k + e]) > 0 ? v[e] : 0;
            }
            *reinterpret_cast<u32 *>(to + k) = narrow<Real>(v[0]).bits | u32(narrow<Real>(v[1]).bits) << 16;
        }
    }
}
