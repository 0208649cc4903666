// Pictures drawn by programs (src/host/pattern.rs says what a program is). Every operation is rounded as on the host: the bytes
// are the same.
#include "common.cuh"

constexpr int WORDS = 4096, SLOTS = 96, INPUTS = 4, HEAD = 4, EDGE = 3;
constexpr double PI = 3.141592653589793, PI_REST = 1.2246467991473532e-16;
constexpr double LN_2 = 0.6931471805599453, LN_2_REST = 2.3190468138462996e-17, LOG2_E = 1.4426950408889634;
constexpr double LARGEST = 700;

// 1 / 3!, 1 / 5! to 1 / 21!, every other one negative
constexpr double SINE[] = {1.0 / -6, 1.0 / 120, 1.0 / -5040, 1.0 / 362880, 1.0 / -39916800, 1.0 / 6227020800, 1.0 / -1307674368000,
                           1.0 / 355687428096000, 1.0 / -121645100408832000, 1.0 / 51090942171709440000.0};
// 1 / 0! to 1 / 13!
constexpr double EXPONENTIAL[] = {1, 1, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
                                  1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};

__device__ inline double sine(double p) {
    const double k = rint(__dmul_rn(p, 1.0 / PI));
    double r = __fma_rn(-k, PI_REST, __fma_rn(-k, PI, p));
    // At odd k the sine is the negative one.
    const double odd = k - 2 * rint(k * 0.5);
    r *= 1 - 2 * fabs(odd);
    const double s = __dmul_rn(r, r);
    double y = SINE[9];
#pragma unroll
    for (int n = 8; n >= 0; n--) y = __fma_rn(y, s, SINE[n]);
    return __fma_rn(__dmul_rn(y, s), r, r);
}

__device__ inline double exponential(double p) {
    p = fmin(fmax(p, -LARGEST), LARGEST);
    const double k = rint(__dmul_rn(p, LOG2_E));
    const double r = __fma_rn(-k, LN_2_REST, __fma_rn(-k, LN_2, p));
    double y = EXPONENTIAL[13];
#pragma unroll
    for (int n = 12; n >= 0; n--) y = __fma_rn(y, r, EXPONENTIAL[n]);
    // k + 2^52 + 2^51 has k in its lowest bits.
    const u64 power = (u64(__double_as_longlong(__dadd_rn(k, 6755399441055744.0))) + 1023) << 52;
    return __dmul_rn(y, __longlong_as_double(power));
}

__device__ inline double apply(u32 function, double p) {
    switch (function) {
        case 0: return sine(p);
        case 1: return __dadd_rn(__ddiv_rn(2, __dadd_rn(1, exponential(-p))), -1);
        case 2: return exponential(__dmul_rn(-p, p));
        default: return __ddiv_rn(fmin(fmax(p, -3.0), 3.0), 3);
    }
}

// A column or row from -1 to 1.
__device__ inline double unit(u32 i, u32 side) {
    return side > 1 ? __dadd_rn(__ddiv_rn(2.0 * i, side - 1), -1) : 0;
}

// trunc(255 |out|), at most 255
__device__ inline u32 part(double out) { return u32(fmin(__dmul_rn(255, fabs(out)), 255.0)); }

__device__ inline u8 byte(float v) { return u8(min(max(__float2int_rn(__fmul_rn(v, 255)), 0), 255)); }

// Red, green and blue as OpenCV makes them, in float32, of a hue in half degrees, lightness and saturation.
__device__ inline void rgb_of_hls(u32 hue, u32 lightness, u32 saturation, u8 *y) {
    const float l = __fdiv_rn(lightness, 255), s = __fdiv_rn(saturation, 255);
    const float high = l <= 0.5f ? __fmul_rn(l, __fadd_rn(1, s)) : __fsub_rn(__fadd_rn(l, s), __fmul_rn(l, s));
    const float low = __fsub_rn(2 * l, high), range = __fsub_rn(high, low);
    float h = __fmul_rn(hue, 6.0f / 180.0f);
    if (h >= 6) h -= 6;
    const u32 sector = u32(h);
    const float rest = __fsub_rn(h, sector);
    const float falling = __fadd_rn(low, __fmul_rn(range, __fsub_rn(1, rest)));
    const float rising = __fadd_rn(low, __fmul_rn(range, rest));
    const float red = sector == 0 || sector == 5 ? high : sector == 1 ? falling : sector == 4 ? rising : low;
    const float green = sector == 1 || sector == 2 ? high : sector == 0 ? rising : sector == 3 ? falling : low;
    const float blue = sector == 3 || sector == 4 ? high : sector == 2 ? rising : sector == 5 ? falling : low;
    y[0] = byte(red), y[1] = byte(green), y[2] = byte(blue);
}

// Operands programs, y. A thread has a pixel, blockIdx.y the picture; a slot's numbers lie side by side.
KERNEL(pattern_draw, 2, Square) {
    __shared__ double slots[SLOTS][THREADS];
    const u32 pixel = element(), lane = threadIdx.x;
    // No thread meets another: what is in a slot is its own.
    if (pixel >= a.side * a.side) return;
    const u32 row = pixel / a.side, column = pixel - row * a.side;
    const double x = unit(column, a.side), y = unit(row, a.side);
    slots[0][lane] = a.pixels ? column : x;
    slots[1][lane] = a.pixels ? row : y;
    slots[2][lane] = sqrt(__fma_rn(x, x, __dmul_rn(y, y)));
    slots[3][lane] = 1;
    const u32 *words = o.in<u32>(0) + (u64)blockIdx.y * WORDS, *at = words + HEAD;
    for (u32 step = 0; step < words[0]; step++) {
        const u32 word = *at++;
        double sum = 0;
        for (u32 edge = 0; edge < word >> 16; edge++, at += EDGE) {
            sum = __fma_rn(slots[at[0]][lane], __longlong_as_double((u64)at[2] << 32 | at[1]), sum);
        }
        slots[word >> 8 & 255][lane] = apply(word & 3, sum);
    }
    double out[3];
    for (int c = 0; c < 3; c++) out[c] = slots[words[1 + c]][lane];
    u8 *to = o.out<u8>(1) + 3 * ((u64)blockIdx.y * a.side * a.side + pixel);
    if (!a.rgb) return rgb_of_hls(part(out[0]), part(out[1]), part(out[2]), to);
    for (int c = 0; c < 3; c++) {
        const double v = floor(__fma_rn(__dmul_rn(255, __dadd_rn(out[c], 1)), 0.5, 0.5));
        to[c] = u8(u32(fmin(fmax(v, 0.0), 255.0)));
    }
}
