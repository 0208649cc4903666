// Pooling over windows of x [N,H,W,C]: the largest value, the mean, and where their gradients go. A thread owns VECTOR
// channels of one pixel of its output and gathers what belongs there: nothing is added from two sides.
#include "spatial.cuh"

// ---- maximum ----

/// The windows along one axis that reach over input i.
__device__ inline Span above(const MaxWindow &a, int axis, u32 i) {
    u32 at = i + a.pad[axis], reach = (a.size[axis] - 1) * a.dilation[axis] + 1;
    return {at < reach ? 0 : (at - reach) / a.stride[axis] + 1, min(at / a.stride[axis] + 1, a.y[axis].by)};
}

/// Calls f(pixel) for every pixel of the image under window (p, q), in row-major order.
template <class F>
__device__ inline void taps(const MaxWindow &a, u32 p, u32 q, F f) {
    for (u32 r = 0; r < a.size[0]; r++) {
        u32 row = p * a.stride[0].by + r * a.dilation[0] - a.pad[0];  // wraps around above the image
        if (row >= a.x[0].by) continue;
        for (u32 s = 0; s < a.size[1]; s++) {
            u32 column = q * a.stride[1].by + s * a.dilation[1] - a.pad[1];
            if (column < a.x[1].by) f(row * a.x[1].by + column);
        }
    }
}

// Operands x, y
KERNEL(maxpool, 2, MaxWindow) {
    u32 i = element();
    if (i >= a.n) return;
    Place y = place(i, a.c, a.y);
    const Cell *x = image(o.in<Cell>(0), y, a.c, a.x);
    Lanes best = Lanes::fill(__int_as_float(0xff800000));
    taps(a, y.row, y.column, [&](u32 pixel) {
        Lanes v = x[pixel * a.c.by];
        // A NaN replaces the maximum, and stays: nothing compares greater than it.
        for (int l = 0; l < VECTOR; l++) best.at[l] = v.at[l] > best.at[l] || isnan(v.at[l]) ? v.at[l] : best.at[l];
    });
    o.out<Cell>(1)[i] = best;
}

constexpr u32 NOBODY = ~0u;

// dy goes to the first maximum of each window, found again from x; operands x, dy, dx
KERNEL(maxpool_grad, 3, MaxWindow) {
    u32 i = element();
    if (i >= a.n) return;
    Place at = place(i, a.c, a.x);
    const Cell *x = image(o.in<Cell>(0), at, a.c, a.x), *dy = image(o.in<Cell>(1), at, a.c, a.y);
    u32 own = at.row * a.x[1].by + at.column;
    Span rows = above(a, 0, at.row), columns = above(a, 1, at.column);
    Lanes sum = Lanes::fill(0);
    for (u32 p = rows.from; p < rows.to; p++) {
        for (u32 q = columns.from; q < columns.to; q++) {
            Lanes best;
            u32 winner[VECTOR];
            for (u32 &w : winner) w = NOBODY;
            taps(a, p, q, [&](u32 pixel) {
                Lanes v = x[pixel * a.c.by];
                for (int l = 0; l < VECTOR; l++) {
                    // The first value wins even if it is -infinity; a NaN wins over everything but an earlier one.
                    bool wins = winner[l] == NOBODY || v.at[l] > best.at[l] || (isnan(v.at[l]) && !isnan(best.at[l]));
                    if (wins) {
                        best.at[l] = v.at[l];
                        winner[l] = pixel;
                    }
                }
            });
            Lanes d = dy[(p * a.y[1].by + q) * a.c.by];
            for (int l = 0; l < VECTOR; l++) sum.at[l] += winner[l] == own ? d.at[l] : 0;
        }
    }
    o.out<Cell>(2)[i] = sum;
}

// ---- mean ----

/// Along one axis, the inputs under output i, and by what their sum is divided.
__device__ inline Span under(const MeanWindow &a, int axis, u32 i, u32 &count) {
    u32 extent = a.x[axis].by;
    Span s;
    if (a.adaptive) {
        Divisor outs = a.y[axis];
        s = {i * extent / outs, (i * extent + extent + outs.by - 1) / outs};
        count = s.to - s.from;
    } else {
        u32 pad = a.pad[axis], from = i * a.stride[axis].by, to = min(from + a.size[axis], pad + extent + a.pad[axis + 2]);
        s = {from > pad ? from - pad : 0, min(to - pad, extent)};
        count = a.count_pad ? to - from : s.to - s.from;
    }
    return s;
}

/// Along one axis, the outputs that input i is under.
__device__ inline Span above(const MeanWindow &a, int axis, u32 i) {
    Divisor ins = a.x[axis];
    u32 outs = a.y[axis].by, at = i + a.pad[axis], reach = a.size[axis];
    // The spans of adaptive pooling are their own inverse: i < ceil((o + 1) H / P) where o >= floor(i P / H), and
    // floor(o H / P) <= i where o < (i + 1) P / H.
    if (a.adaptive) return {i * outs / ins, (i * outs + outs + ins.by - 1) / ins};
    return {at < reach ? 0 : (at - reach) / a.stride[axis] + 1, min(at / a.stride[axis] + 1, outs)};
}

// Operands x, y
KERNEL(avgpool, 2, MeanWindow) {
    u32 i = element();
    if (i >= a.n) return;
    Place y = place(i, a.c, a.y);
    const Cell *x = image(o.in<Cell>(0), y, a.c, a.x);
    u32 high, wide;
    Span rows = under(a, 0, y.row, high), columns = under(a, 1, y.column, wide);
    Lanes sum = Lanes::fill(0);
    for (u32 row = rows.from; row < rows.to; row++) {
        for (u32 column = columns.from; column < columns.to; column++) {
            Lanes v = x[(row * a.x[1].by + column) * a.c.by];
            for (int l = 0; l < VECTOR; l++) sum.at[l] += v.at[l];
        }
    }
    float inverse = 1.0f / (high * wide);
    for (float &s : sum.at) s *= inverse;
    o.out<Cell>(1)[i] = sum;
}

// Operands dy, dx
KERNEL(avgpool_grad, 2, MeanWindow) {
    u32 i = element();
    if (i >= a.n) return;
    Place at = place(i, a.c, a.x);
    const Cell *dy = image(o.in<Cell>(0), at, a.c, a.y);
    Span rows = above(a, 0, at.row), columns = above(a, 1, at.column);
    Lanes sum = Lanes::fill(0);
    for (u32 p = rows.from; p < rows.to; p++) {
        for (u32 q = columns.from; q < columns.to; q++) {
            u32 high, wide;
            under(a, 0, p, high), under(a, 1, q, wide);
            float inverse = 1.0f / (high * wide);
            Lanes d = dy[(p * a.y[1].by + q) * a.c.by];
            for (int l = 0; l < VECTOR; l++) sum.at[l] += d.at[l] * inverse;
        }
    }
    o.out<Cell>(1)[i] = sum;
}
