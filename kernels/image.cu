// From bytes to what networks were trained on.
#include "common.cuh"

// y = (x[order(c)] scale - mean[c]) / std[c] for each of up to four networks (blockIdx.y); operands x of each (bytes [N,H,W,3]),
// y of each
KERNEL(image_normalize, 8, Preprocessing) {
    const u32 own = blockIdx.y, bgr = a.bgr[own];
    const u8 *x = o.in<u8>(own);
    const float scale = a.scale[own];
    float means[3], stds[3];
    for (int c = 0; c < 3; c++) means[c] = a.mean[3 * own + c], stds[c] = a.std[3 * own + c];
    Real *to = o.out<Real>(4 + own);
    fours(a.n, [&](u64 i, auto width) {
        Pack<width> y;
        for (int v = 0; v < width; v++) {
            // 2^32 is one more than a multiple of 3.
            const u32 c = (u32(i >> 32) + u32(i) % 3 + v) % 3;
            const u8 byte = x[bgr ? i + v + 2 - 2 * c : i + v];
            // Indices that the compiler knows: the arrays stay in registers.
            const float mean = c == 0 ? means[0] : c == 1 ? means[1] : means[2];
            const float std = c == 0 ? stds[0] : c == 1 ? stds[1] : stds[2];
            y.at[v] = (byte * scale - mean) / std;
        }
        y.store(to + i);
    });
}
