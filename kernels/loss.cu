// Scalar losses and their gradients. Rows carry weights. Sums are taken in float64, as on the host: a batch has few rows.
#include "softmax.cuh"

/// The sum of n terms; every thread of the block gets it.
template <class F>
__device__ inline double block_total(u32 n, F term) {
    double sum = 0;
    for (u32 i = threadIdx.x; i < n; i += THREADS) sum += term(i);
    return block_sum(sum);
}

// ---- mean squared error ----

/// Factor of each row's error: Reduction::factor.
__device__ inline double error_factor(const SquaredError &a, const float *w) {
    return a.mean ? 1 / (block_total(a.rows, [&](u32 n) { return w[n]; }) * a.d.by) : 1;
}

/// loss = factor * sum of w (x - t)^2, by a block.
__device__ inline void squared_error(const SquaredError &a, double factor, const float *x, const float *t, const float *w, float *loss) {
    double sum = block_total(a.rows * a.d.by, [&](u32 i) {
        double e = double(x[i]) - t[i];
        return w[i / a.d] * e * e;
    });
    if (threadIdx.x == 0) *loss = factor * sum;
}

// operands x, t, w, loss. One block.
KERNEL(mse, 4, SquaredError) {
    const float *w = o.in<float>(2);
    squared_error(a, error_factor(a, w), o.in<float>(0), o.in<float>(1), w, o.out<float>(3));
}

// The loss and dx = 2 factor w (x - t) dy, where dy is 1 if nothing is scaled; operands x, t, w, dy, loss, dx. One block.
KERNEL(mse_both, 6, SquaredError) {
    const float *x = o.in<float>(0), *t = o.in<float>(1), *w = o.in<float>(2);
    const double factor = error_factor(a, w);
    squared_error(a, factor, x, t, w, o.out<float>(4));
    const float by = 2 * factor * (a.scaled ? *o.in<float>(3) : 1);
    for (u32 i = threadIdx.x; i < a.rows * a.d.by; i += THREADS) o.out<float>(5)[i] = by * w[i / a.d] * (x[i] - t[i]);
}

// dx = 2 factor w (x - t) dy; operands x, t, w, dy, dx
KERNEL(mse_grad, 5, SquaredError) {
    const float *x = o.in<float>(0), *t = o.in<float>(1), *w = o.in<float>(2);
    float factor = 2 * error_factor(a, w) * *o.in<float>(3);
    u32 i = element();
    if (i < a.rows * a.d.by) o.out<float>(4)[i] = factor * w[i / a.d] * (x[i] - t[i]);
}

// ---- cross-entropy ----

/// One row of a batch.
struct Row {
    const Entropy &a;
    const float *target, *weights;  // targets where they are soft; weights of classes where there are
    int label;
    double w;        // weight of the row
    double divisor;  // what it adds to the divisor of the mean

    /// Row n. An ignored label counts nowhere; any other that is not a class makes the loss NaN.
    __device__ Row(const Entropy &a, const void *targets, const float *w, const float *classes, u32 n)
        : a(a), target(static_cast<const float *>(targets) + n * a.c), weights(classes), label(-1), w(w[n]), divisor(w[n]) {
        if (a.soft) return;
        label = static_cast<const int *>(targets)[n];
        if (a.ignores && label == a.ignore) {
            this->w = divisor = 0;
        } else if (u32(label) < a.c) {
            divisor *= weight(label);
        } else {
            this->w = divisor = __longlong_as_double(0x7ff8000000000000);
        }
    }
    __device__ double weight(u32 k) const { return a.weighted ? weights[k] : 1; }
    /// What class k counts.
    __device__ double share(u32 k) const {
        double t = a.soft ? target[k] : int(k) == label;
        return weight(k) * ((1 - a.smoothing) * t + a.smoothing / a.c);
    }
};

// Each row's part of the loss, and of the divisor; operands x, target, w, class (or w again), parts [2][N] of doubles. One
// block per row.
KERNEL(cross_entropy_rows, 5, Entropy) {
    u32 n = blockIdx.x;
    const float *x = o.in<float>(0) + n * a.c;
    double *parts = o.out<double>(4);
    Row row(a, o.in<void>(1), o.in<float>(2), o.in<float>(3), n);
    double log_sum = a.logits ? block_log_sum(x, a.c) : 0;
    double sum = block_total(a.c, [&](u32 k) {
        double share = row.w * row.share(k);
        // A class that does not count may have an infinite logarithm.
        return share == 0 ? 0 : share * (a.logits ? log_sum - x[k] : -log(double(x[k])));
    });
    if (threadIdx.x == 0) {
        parts[n] = sum;
        parts[a.rows + n] = row.divisor;
    }
}

// loss = sum of the rows' parts, over the divisor for a mean; operands parts, loss. One block.
KERNEL(cross_entropy, 2, Entropy) {
    const double *parts = o.in<double>(0);
    double sum = block_total(a.rows, [&](u32 n) { return parts[n]; });
    double divisor = block_total(a.rows, [&](u32 n) { return parts[a.rows + n]; });
    if (threadIdx.x == 0) *o.out<float>(1) = a.mean ? sum / divisor : sum;
}

// dx = factor w (A softmax(x) - a) dy for logits, A the sum of the shares a; -factor w a / x dy for probabilities. Operands
// x, target, w, class (or w again), dy, dx. One block per row.
KERNEL(cross_entropy_grad, 6, Entropy) {
    u32 n = blockIdx.x;
    const float *x = o.in<float>(0) + n * a.c, *w = o.in<float>(2), *classes = o.in<float>(3);
    const void *targets = o.in<void>(1);
    float *dx = o.out<float>(5) + n * a.c;
    double divisor = block_total(a.rows, [&](u32 n) { return Row(a, targets, w, classes, n).divisor; });
    Row row(a, targets, w, classes, n);
    double factor = row.w * *o.in<float>(4) * (a.mean ? 1 / divisor : 1);
    double log_sum = a.logits ? block_log_sum(x, a.c) : 0;
    double all = a.logits ? block_total(a.c, [&](u32 k) { return row.share(k); }) : 0;
    for (u32 k = threadIdx.x; k < a.c; k += THREADS) {
        double share = row.share(k);
        if (factor == 0 || (share == 0 && !a.logits)) {
            dx[k] = 0;
        } else {
            dx[k] = factor * (a.logits ? all * exp(x[k] - log_sum) - share : -share / x[k]);
        }
    }
}

// ---- penalty on large weights ----

// The squares' sums of a part of the elements of each weight; operands the weights, parts (a double for each block). A block
// works on one weight.
KERNEL(l2_parts, sizeof(Squares::n) / sizeof(u32) + 1, Squares) {
    int s = 0;
    while (blockIdx.x >= a.end[s]) ++s;
    const u32 first = s > 0 ? a.end[s - 1] : 0, blocks = a.end[s] - first, n = a.n[s];
    const float *w = o.in<float>(s);
    double sum = 0;
    // Float64 is slow on consumer cards: it adds sums of four squares, good to 3 u.
    for (u32 i = 4 * (element() - first * THREADS); i < n; i += 4 * THREADS * blocks) {
        Pack<4> p = Pack<4>::fill(0);
        if (i + 4 <= n) {
            p = Pack<4>::load(w + i);
        } else {
            for (u32 j = 0; j < 3; j++) p.at[j] = i + j < n ? w[i + j] : 0;
        }
        sum += (p.at[0] * p.at[0] + p.at[1] * p.at[1]) + (p.at[2] * p.at[2] + p.at[3] * p.at[3]);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) o.out<double>(sizeof(Squares::n) / sizeof(u32))[blockIdx.x] = sum;
}

// loss = the sum over the weights, in order and in float32, of lambda times the sum of their parts; operands parts, loss. One
// block.
KERNEL(l2, 2, Squares) {
    const double *parts = o.in<double>(0);
    float loss = 0;
    for (u32 s = 0, first = 0; s < a.count; first = a.end[s++]) {
        const double sum = block_total(a.end[s] - first, [&](u32 i) { return parts[first + i]; });
        const float own = a.lambda[s] * sum;
        loss = s > 0 ? loss + own : own;
    }
    if (threadIdx.x == 0) *o.out<float>(1) = loss;
}

// dw = 2 lambda w dy; operands w, dy, dw
KERNEL(l2_grad, 3, Scalar) {
    float factor = 2 * a.by * *o.in<float>(1);
    map(o, 2, a.n, [&](float w) { return factor * w; });
}
