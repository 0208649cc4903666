// Batch normalisation over the channels of [N,..,C]: y = gamma (x - mean) / sqrt(var + eps) + beta, and its adjoint.
//
// Sums over pixels: a block takes TILE pixels of 32 channels, a thread CHAIN of them into registers, adds those in float32
// and the rest in float64: CHAIN - 1 roundings, whatever the extents. Blocks leave float64 parts, joined in their order.
#include "reduce.cuh"

constexpr int CHAIN = 32;                 // host::norm::CHAIN
constexpr int LINES = THREADS / WARP;     // pixels beside each other in a block
constexpr int TILE = CHAIN * LINES;       // pixels of a block

constexpr u32 NOTHING = 0, MOMENTS = 2;  // of norm::Through

/// What a thread adds up: pixels `first`, `first` + LINES, ... below `end`, in channel `c`, if there is one.
struct Chain {
    u32 first, end, c;
    bool alive;
    __device__ Chain(const Normalization &a)
        : first(blockIdx.x * TILE + threadIdx.x / WARP),
          end(min((blockIdx.x + 1) * TILE, a.pixels)),
          c(blockIdx.y * WARP + threadIdx.x % WARP),
          alive(c < a.c.by) {}
    /// f(i, element) for the pixels that there are, i counting from 0.
    template <class F>
    __device__ void each(const Normalization &a, F f) const {
#pragma unroll
        for (int i = 0; i < CHAIN; i++) {
            u32 pixel = first + i * LINES;
            if (alive && pixel < end) f(i, pixel, pixel * a.c.by + c);
        }
    }
};

/// The sum over the lines of a block: every thread gets that of its channel.
__device__ inline double lines_sum(double x) {
    __shared__ double lines[LINES][WARP];
    lines[threadIdx.x / WARP][threadIdx.x % WARP] = x;
    __syncthreads();
    x = 0;
    for (int l = 0; l < LINES; l++) x += lines[l][threadIdx.x % WARP];
    __syncthreads();  // before the next call writes
    return x;
}

/// Whether the image of a pixel counts.
__device__ inline bool counts(const Normalization &a, const float *rows, u32 pixel) { return rows[pixel / a.hw] > 0; }

// Pixels that count, their mean and the sum of their squared deviations, for the pixels of a block: two passes, so that the
// squares do not suffer from a large mean. Operands x, rows, parts [blocks][3][C] of doubles.
KERNEL(batchnorm_parts, 3, Normalization) {
    const float *x = o.in<float>(0), *rows = o.in<float>(1);
    Chain chain(a);
    float v[CHAIN], sum = 0, squares = 0, rest = 0;
    u32 counting = 0;  // one bit for each pixel
    chain.each(a, [&](int i, u32 pixel, u32 at) {
        v[i] = x[at];
        if (counts(a, rows, pixel)) {
            counting |= 1u << i;
            sum += v[i];
        }
    });
    double n = lines_sum(__popc(counting));
    float middle = lines_sum(sum) / (n > 0 ? n : 1);
#pragma unroll
    for (int i = 0; i < CHAIN; i++) {
        if (counting >> i & 1) {
            float d = v[i] - middle;
            rest += d;
            squares += d * d;
        }
    }
    double r = lines_sum(rest), s = lines_sum(squares);
    if (chain.alive && threadIdx.x < WARP) {
        double *part = o.out<double>(2) + blockIdx.x * 3 * a.c.by + chain.c;
        part[0] = n;
        part[a.c.by] = n > 0 ? middle + r / n : 0;
        part[2 * a.c.by] = n > 0 ? s - r * r / n : 0;
    }
}

/// The sum over the blocks' parts of term(part): 8 channels to a block, every thread gets that of its channel.
constexpr int FEW = 8;
template <class F>
__device__ inline double parts_sum(const Normalization &a, const double *parts, u32 width, F term) {
    __shared__ double lines[THREADS / FEW][FEW];
    u32 c = blockIdx.x * FEW + threadIdx.x % FEW;
    double sum = 0;
    if (c < a.c.by)
        for (u32 b = threadIdx.x / FEW; b < a.blocks; b += THREADS / FEW) sum += term(parts + b * width * a.c.by + c);
    lines[threadIdx.x / FEW][threadIdx.x % FEW] = sum;
    __syncthreads();
    sum = 0;
    for (int l = 0; l < THREADS / FEW; l++) sum += lines[l][threadIdx.x % FEW];
    __syncthreads();  // before the next call writes
    return sum;
}

/// The channel that a thread finishes, or beyond all.
__device__ inline u32 finished(const Normalization &a) { return threadIdx.x < FEW ? blockIdx.x * FEW + threadIdx.x : a.c.by; }

// Operands parts, mean, var
KERNEL(batchnorm_moments, 3, Normalization) {
    const double *parts = o.in<double>(0);
    u32 step = a.c.by;
    double n = parts_sum(a, parts, 3, [&](const double *p) { return p[0]; });
    double mean = parts_sum(a, parts, 3, [&](const double *p) { return p[0] * p[step]; }) / n;
    double squares = parts_sum(a, parts, 3, [&](const double *p) {
        double d = p[step] - mean;
        return p[2 * step] + p[0] * d * d;
    });
    u32 c = finished(a);
    if (c >= a.c.by) return;
    double var = squares / n;
    o.out<float>(1)[c] = mean;
    o.out<float>(2)[c] = var < 0 ? 0 : var;  // NaN where no image counts
}

// y = gamma (x - mean) / sqrt(var + eps) + beta, through ReLU if asked; operands x, gamma, beta, mean, var, y
KERNEL(batchnorm_normalize, 6, Normalization) {
    const float *gamma = o.in<float>(1), *beta = o.in<float>(2), *mean = o.in<float>(3), *var = o.in<float>(4);
    fours(a.pixels * a.c.by, [&](u64 i, auto width) {
        auto x = Pack<width>::load(o.in<float>(0) + i);
        for (int v = 0; v < width; v++) {
            u32 c = (u32(i) + v) % a.c;
            float z = (x.at[v] - mean[c]) * (gamma[c] / sqrtf(var[c] + float(a.eps))) + beta[c];
            x.at[v] = a.relu && z < 0 ? 0 : z;
        }
        x.store(o.out<float>(5) + i);
    });
}

// The sums of dy and of dy (x - mean) over the pixels of a block; operands x, mean, dy, parts [blocks][2][C] of doubles
KERNEL(batchnorm_grad_parts, 4, Normalization) {
    const float *x = o.in<float>(0), *dy = o.in<float>(2);
    Chain chain(a);
    float mean = chain.alive ? o.in<float>(1)[chain.c] : 0, sum = 0, product = 0;
    chain.each(a, [&](int, u32, u32 at) {
        float d = dy[at];
        sum += d;
        product += d * (x[at] - mean);
    });
    double s = lines_sum(sum), p = lines_sum(product);
    if (chain.alive && threadIdx.x < WARP) {
        double *part = o.out<double>(3) + blockIdx.x * 2 * a.c.by + chain.c;
        part[0] = s;
        part[a.c.by] = p;
    }
}

// dgamma and dbeta, and what the gradient of x is made of: dx = f dy + counts (g (x - mean) + h). Operands parts, gamma, mean,
// var, rows, dmean, dvar (what is not there: gamma again), dgamma, dbeta, coefficients [3][C]
KERNEL(batchnorm_grad_sums, 10, Normalization) {
    const double *parts = o.in<double>(0);
    const float *rows = o.in<float>(4);
    double s = parts_sum(a, parts, 2, [&](const double *p) { return p[0]; });
    double q = parts_sum(a, parts, 2, [&](const double *p) { return p[a.c.by]; });
    double images = 0;
    if (a.through != NOTHING)
        for (u32 n = threadIdx.x; (u64)n * a.hw.by < a.pixels; n += THREADS) images += rows[n] > 0;
    double n = block_sum(images) * a.hw.by;
    u32 c = finished(a);
    if (c >= a.c.by) return;
    double inverse = 1 / sqrt(o.in<float>(3)[c] + a.eps), scale = o.in<float>(1)[c] * inverse;
    double dmean = a.through == MOMENTS ? o.in<float>(5)[c] : 0, dvar = a.through == MOMENTS ? o.in<float>(6)[c] : 0;
    o.out<float>(7)[c] = q * inverse;
    o.out<float>(8)[c] = s;
    float *f = o.out<float>(9) + c;
    f[0] = scale;
    f[a.c.by] = a.through != NOTHING ? (2 * dvar - scale * inverse * inverse * q) / n : 0;
    f[2 * a.c.by] = a.through != NOTHING ? (dmean - scale * s) / n : 0;
}

// Operands x, mean, dy, rows (what is not there: gamma again), coefficients [3][C], dx
KERNEL(batchnorm_grad, 6, Normalization) {
    const float *x = o.in<float>(0), *mean = o.in<float>(1), *rows = o.in<float>(3), *f = o.in<float>(4);
    fours(a.pixels * a.c.by, [&](u64 i, auto width) {
        auto d = Pack<width>::load(o.in<float>(2) + i), v = Pack<width>::load(x + i);
        for (int j = 0; j < width; j++) {
            u32 at = u32(i) + j, pixel = at / a.c, c = at - pixel * a.c.by;
            d.at[j] *= f[c];
            if (a.through != NOTHING && counts(a, rows, pixel)) d.at[j] += f[a.c.by + c] * (v.at[j] - mean[c]) + f[2 * a.c.by + c];
        }
        d.store(o.out<float>(5) + i);
    });
}

// running = (1 - m) running + factor batch, in place; operands running mean, running var (both updated), mean, var, rows
KERNEL(batchnorm_update, 5, Running) {
    u32 c = element();
    if (c >= a.c) return;
    const float *rows = o.in<float>(4);
    u32 images = 0;
    for (u32 n = 0; n < a.images; n++) images += rows[n] > 0;
    double n = double(images) * a.pixels, spread = a.unbiased ? n / max(n - 1, 1.0) : 1;
    float *mean = o.out<float>(0) + c, *var = o.out<float>(1) + c;
    *mean = (1 - a.momentum) * *mean + a.momentum * o.in<float>(2)[c];
    *var = (1 - a.momentum) * *var + a.momentum * spread * o.in<float>(3)[c];
}

// A convolution and the batch norm behind it as one; operands w', b' (both written), w, gamma, beta, mean, var, b (or mean
// again). One block per filter.
KERNEL(batchnorm_fold, 8, Folding) {
    u32 k = blockIdx.x;
    double scale = o.in<float>(3)[k] / sqrt(o.in<float>(6)[k] + a.eps);
    float s = scale;
    const float *w = o.in<float>(2) + k * a.row;
    for (u32 i = threadIdx.x; i < a.row; i += THREADS) o.out<float>(0)[k * a.row + i] = w[i] * s;
    if (threadIdx.x > 0) return;
    double b = a.bias ? o.in<float>(7)[k] : 0;
    o.out<float>(1)[k] = (b - o.in<float>(5)[k]) * scale + o.in<float>(4)[k];
}
