// Bilinear resampling of x [N,H,W,C] to y [N,P,Q,C]. Weights are whole numbers over one denominator for each axis: they are
// exact, and one division at the end rounds.
#include "spatial.cuh"

/// What an output sees along one axis: `weight` of the denominator of source position `high`, the rest of `low`.
struct Around {
    u32 low, high, weight;
};

__device__ inline Around around(const Resampling &a, int axis, u32 o) {
    // Output o lies at (o scale + shift) / whole of the source, but not below 0.
    u32 extent = a.x[axis].by, at = max(int(o * a.scale[axis]) + a.shift[axis], 0), low = min(at / a.whole[axis], extent - 1);
    return {low, min(low + 1, extent - 1), at - low * a.whole[axis].by};
}

// Operands x, y
KERNEL(upsample, 2, Resampling) {
    u32 i = element();
    if (i >= a.n) return;
    Place y = place(i, a.c, a.y);
    const Cell *x = image(o.in<Cell>(0), y, a.c, a.x);
    Around row = around(a, 0, y.row), column = around(a, 1, y.column);
    auto pixel = [&](u32 row, u32 column) { return x[(row * a.x[1].by + column) * a.c.by]; };
    Lanes p = pixel(row.low, column.low), q = pixel(row.low, column.high);
    Lanes r = pixel(row.high, column.low), s = pixel(row.high, column.high);
    float down = row.weight, up = a.whole[0].by - row.weight, right = column.weight, left = a.whole[1].by - column.weight;
    float whole = float(a.whole[0].by) * a.whole[1].by;
    for (int l = 0; l < VECTOR; l++)
        p.at[l] = (up * (left * p.at[l] + right * q.at[l]) + down * (left * r.at[l] + right * s.at[l])) / whole;
    o.out<Cell>(1)[i] = p;
}

/// Outputs along one axis that see source position i: those that lie above i - 1 and below i + 1.
__device__ inline Span above(const Resampling &a, int axis, u32 i) {
    int scale = a.scale[axis], outs = a.y[axis].by, whole = a.whole[axis].by;
    if (scale == 0) return {0, u32(outs)};
    int from = (int(i) - 1) * whole - a.shift[axis], to = (int(i) + 1) * whole - a.shift[axis];
    return {u32(from < 0 ? 0 : from / scale + 1), u32(min(max(to + scale - 1, 0) / scale, outs))};
}

/// The weight of source position i in output o.
__device__ inline float weight(const Resampling &a, int axis, u32 o, u32 i) {
    Around at = around(a, axis, o);
    return (at.low == i ? a.whole[axis].by - at.weight : 0) + (at.high == i ? at.weight : 0);
}

// dx = dy times the weights; operands dy, dx
KERNEL(upsample_grad, 2, Resampling) {
    u32 i = element();
    if (i >= a.n) return;
    Place at = place(i, a.c, a.x);
    const Cell *dy = image(o.in<Cell>(0), at, a.c, a.y);
    Span rows = above(a, 0, at.row), columns = above(a, 1, at.column);
    Lanes sum = Lanes::fill(0);
    for (u32 p = rows.from; p < rows.to; p++) {
        Lanes line = Lanes::fill(0);
        for (u32 q = columns.from; q < columns.to; q++) {
            Lanes d = dy[(p * a.y[1].by + q) * a.c.by];
            float w = weight(a, 1, q, at.column);
            for (int l = 0; l < VECTOR; l++) line.at[l] += w * d.at[l];
        }
        float w = weight(a, 0, p, at.row);
        for (int l = 0; l < VECTOR; l++) sum.at[l] += w * line.at[l];
    }
    float whole = float(a.whole[0].by) * a.whole[1].by;
    for (float &s : sum.at) s /= whole;
    o.out<Cell>(1)[i] = sum;
}
