// From bytes to what a tower was trained on.
#include "common.cuh"

// y = (x[order(c)] scale - mean[c]) / std[c]; operands x (bytes [N,H,W,3]), y
KERNEL(image_normalize, 2, Preprocessing) {
    const u8 *x = o.in<u8>(0);
    fours(a.n, [&](u64 i, auto width) {
        Pack<width> y;
        for (int v = 0; v < width; v++) {
            // 2^32 is one more than a multiple of 3.
            u32 c = (u32(i >> 32) + u32(i) % 3 + v) % 3;
            u8 byte = x[a.bgr ? i + v + 2 - 2 * c : i + v];
            // Indices that the compiler knows: the arrays stay in constant memory.
            float mean = c == 0 ? a.mean[0] : c == 1 ? a.mean[1] : a.mean[2];
            float std = c == 0 ? a.std[0] : c == 1 ? a.std[1] : a.std[2];
            y.at[v] = (byte * a.scale - mean) / std;
        }
        y.store(o.out<float>(1) + i);
    });
}
