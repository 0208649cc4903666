//! Planted bugs: each changes one place of one kernel, and the checks of this file's neighbours must find it on the
//! simulator. What they miss is listed; at least 95 % must be found.

use super::common;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One bug: where, what it is called, the text that is replaced (which occurs once) and by what, and the cases that run; behind
/// `tiles: `, in every tile.
struct Mutant {
    file: &'static str,
    bug: &'static str,
    from: &'static str,
    to: &'static str,
    cases: &'static str,
}

const fn m(file: &'static str, bug: &'static str, from: &'static str, to: &'static str, cases: &'static str) -> Mutant {
    Mutant { file, bug, from, to, cases }
}

/// Cases with vector loads, and with single ones (an odd number of channels).
const VECTORS: &str = "conv.fprop [k32 3x3";
const SINGLES: &str = "conv.fprop [k19 3x3 stride [1, 1] groups 1";
const STRIDED: &str = "conv.dgrad [k6 3x3 stride [2, 2]";
const WGRAD: &str = "conv.wgrad [k19 3x3 stride [1, 1] groups 1";
/// A sum in several parts.
const PARTS: &str = "conv.wgrad [k36 3x3 stride [1, 1] groups 1 x [2, 11";
/// A bias gradient in several parts.
const BIAS: &str = "conv.wgrad [k5 3x3 stride [1, 1] groups 1";
/// Epilogues: through a ReLU, and pooling.
const MASK: &str = "conv.dgrad [relu k32 3x3";
const POOLED: &str = "conv.pooled [k32 3x3";
const PATTERN: &str = "pattern.draw [5 of 19";
const AUGMENT: &str = "image.augment [Augment { rotation: 80";
/// Several steps of depth, and one alone.
const MMA: &str = "conv.fprop [BF16 k72 3x3";
const MMA_SHORT: &str = "conv.fprop [BF16 k16 1x1";
/// Many steps, or one channel box after the other; forward, or backward with channels side by side.
const GROUPS: &str = "warpgroups fprop [1, 9";
const GROUPS_BACK: &str = "warpgroups dgrad [1, 9";
const GROUPS_SHORT: &str = "warpgroups fprop [1, 8";
const GROUPS_SIDE: &str = "warpgroups dgrad [1, 8";
const POOL: &str = "maxpool [[3, 3] stride [2, 2] x [2, 8, 8, 3]";
const POOL_GRAD: &str = "maxpool.grad [[3, 3] stride [2, 2] x [2, 8, 8, 3]";

#[rustfmt::skip] // A table: one bug, one line or two.
const MUTANTS: &[Mutant] = &[
    // Elementwise.
    m("common.cuh", "the last few elements are dropped", "for (; i < left; i++) f(", "for (; i + 1 < left; i++) f(", "add"),
    m("common.cuh", "four at once where fewer are left", "if (i + 4 <= left) {", "if (i < left) {", "add"),
    m("common.cuh", "every instance reads the first one's input", "return static_cast<const T *>(at[blockIdx.z][i]);", "return static_cast<const T *>(at[0][i]);", "add"),
    m("common.cuh", "every instance writes the first one's output", "return static_cast<T *>(at[blockIdx.z][i]);", "return static_cast<T *>(at[0][i]);", "add"),
    m("common.cuh", "division one too small", "return __umulhi(2 * n, d.factor) >> d.shift;", "return __umulhi(2 * n - 1, d.factor) >> d.shift;", "slice"),
    m("activation.cu", "NaN becomes zero", "case RELU: return x < 0 ? 0 : x;", "case RELU: return x > 0 ? x : 0;", "relu ["),
    m("activation.cu", "gradient at the kink", "case RELU: return x > 0 ? dy : 0;", "case RELU: return x >= 0 ? dy : 0;", "relu.grad"),
    m("layout.cu", "rows as wide as what is copied", "a.from + pixel * a.x_width", "a.from + pixel * a.width.by", "slice"),
    m("layout.cu", "concatenation at the wrong channel", "a.to + pixel * a.y_width", "a.from + pixel * a.y_width", "concat"),
    m("image.cu", "colours the other way round", "bgr ? i + v + 2 - 2 * c : i + v", "bgr ? i + v : i + v + 2 - 2 * c", "image"),
    m("gather.cu", "rows past the last one are read", "min(o.in<u32>(1)[blockIdx.y], a.rows - 1)", "o.in<u32>(1)[blockIdx.y]", "image.gather"),
    m("gather.cu", "a row goes the other way round", "from * a.units + i", "from * a.units + a.units - 1 - i", "image.gather"),
    m("augment.cu", "no barrier before the map is read", "    __syncthreads();\n", "", AUGMENT),
    m("augment.cu", "pixels past the last one are written", "    if (pixel >= a.pixels) return;\n", "", AUGMENT),
    m("augment.cu", "a pixel beyond the edge is read", "min((at >> 8) + 1, side - 1)", "(at >> 8) + 1", AUGMENT),
    m("augment.cu", "every picture has the first one's map", "o.in<u32>(1)[blockIdx.y]", "o.in<u32>(1)[0]", AUGMENT),
    m("augment.cu", "sheared but not turned", "turn(plus(rotation, shear))", "turn(shear)", AUGMENT),
    m("augment.cu", "mirrored before the map", "int centre = (int(a.side.by) - 1) * (65536 - along_x", "int centre = (int(a.side.by) - 1) * (65536 - abs(along_x)", AUGMENT),
    m("augment.cu", "positions are cut off, not rounded", "(side - 1) << 16) + 128) >> 8;", "(side - 1) << 16)) >> 8;", AUGMENT),
    m("descent.cuh", "momentum forgets to scale", "v = minus(times(momentum, v), down);", "v = minus(v, down);", "sgd"),
    m("optim.cu", "velocity is not stored", "if (step.momentum != 0) v.store(o.out<float>(at + V) + i);", "", "sgd"),
    m("optim.cu", "the copy is not renewed", "if (STORAGE != 0 && (a.copies >> s & 1)) w.store(o.out<Real>(at + COPY) + k);", "", "sgd.update"),
    m("optim.cu", "every parameter has a copy", "(a.copies >> s & 1)", "true", "sgd.updates"),
    m("optim.cu", "a step that must not be taken is taken", "if (step.by == 0) return;", "", "sgd.update"),
    m("optim.cu", "every block updates the first parameter", "while (blockIdx.x >= a.end[s]) ++s;", "", "sgd.updates"),
    m("optim.cu", "blocks count from the first parameter's", "fours(blockIdx.x - first,", "fours(blockIdx.x,", "sgd.updates"),
    m("optim.cu", "pieces begin with the first element", "a.from[s] + i", "i", "sgd.updates"),
    m("optim.cu", "the penalty's gradient is half of it", "times(2 * a.lambda[s],", "times(a.lambda[s],", "sgd.updates"),
    m("adam.cu", "the mean of squares is not corrected", "sqrtf(under * c2)", "sqrtf(under)", "adam [step 1"),
    m("adam.cu", "decay is left out", "else wj *= 1 - lr * decay;", "", "adam [step 1"),
    m("adam.cu", "the mean of squares is not stored", "v.store(o.out<float>(2) + i);", "", "adam [step 1"),
    m("adam.cu", "a step that must not be taken is taken", "if (by == 0) return;", "", "adam [step 1"),
    m("adam.cu", "the penalty is left out", "if (a.penalty) d += decay * wj;", "if (a.penalty) d += 0;", "adam [penalty"),
    m("adam.cu", "eps is added to the corrected root", "a.uncorrected ? a.eps * sqrtf(c2) : a.eps", "a.eps", "adam [uncorrected"),
    m("adam.cu", "pieces begin with the first element", "a.from + i", "i", "adam [1536 from"),
    m("adam.cu", "the largest mean of squares is forgotten", "if (a.amsgrad) most.store(o.out<float>(3) + i);", "", "adam [amsgrad"),
    m("unscale.cu", "the last element is not looked at", "i < a.n; i += gridDim", "i + 1 < a.n; i += gridDim", "unscale"),
    m("rng.cuh", "nine rounds", "round < 10", "round < 9", "dropout.mask"),
    m("rng.cuh", "every rank draws the first one's mask", "before + i, stream", "i, stream", "dropout.mask [3x41"),
    m("dropout.cu", "the tail is written past the end", "if (4 * i + v < a.n) y[v] = narrow", "y[v] = narrow", "dropout.mask"),
    m("dropout.cu", "every layer draws the first one's mask", "a.streams[blockIdx.z]", "a.streams[0]", "dropout.mask [3x41"),
    m("dropout_grad.cu", "what was kept is not scaled", "y.at[v]) / a.by;", "y.at[v]);", "dropout.grad [3x41"),
    m("dense/fprop.cu", "every layer drops what the first one drops", "a.streams[blockIdx.z]", "a.streams[0]", "dense.dropped [x [25"),
    m("finish.cuh", "every layer drops what the first one drops", "a.streams[blockIdx.z]", "a.streams[0]", "dense.dropped [BF16 x [25"),
    m("finish.cuh", "what dropout kept is not scaled on the way back", "(4)[at])) / a.keep;", "(4)[at]));", "dense.dgrad [BF16 x [8, 40"),
    m("finish.cuh", "a mask that is not looked at", "if (a.mask) sum = positive(stored(sum), widen(o.in<Real>(4)[at])) / a.keep;", "", "dense.dgrad [BF16 x [8, 40"),
    m("gemm.cu", "what dropout kept is not scaled on the way back", "v = over(positive(v, take(x + at, column + j, a.n)), a.keep);", "v = positive(v, take(x + at, column + j, a.n));", "dense.dgrad [x [25"),
    m("rng.cuh", "what is kept is not scaled", ": w.w) / keep;", ": w.w);", "dense.dropped [x [25"),
    m("rng.cuh", "four elements share a word", "i % 4 == 0 ? w.x", "i % 4 < 4 ? w.x", "dense.dropped [x [25"),
    m("ceiling.cu", "the last elements are written past the end", "if (i < a.n) o.out<float>(2)[i] = x[v];", "o.out<float>(2)[i] = x[v];", "ceiling.chain"),
    m("ceiling.cu", "a row's neighbours are left out", "sum += (v.x + v.y) + (v.z + v.w);", "sum += (v.x + v.y) + v.z;", "ceiling.row_sum"),
    // Transposition through shared memory.
    m("transpose.cu", "no barrier between writing and reading the tile", "    __syncthreads();\n", "", "flatten"),
    m("transpose.cu", "the tile is not transposed", "= tile[lane][l];", "= tile[l][lane];", "flatten"),
    m("transpose.cu", "rows past the end are written", "if (c0 + l < a.columns && r0 + lane < a.rows) y", "if (c0 + l < a.columns) y", "flatten"),
    // Pooling.
    m("pool.cu", "the last maximum takes the gradient", "winner[l] == NOBODY || v.at[l] > best.at[l]", "winner[l] == NOBODY || v.at[l] >= best.at[l]", POOL_GRAD),
    m("pool.cu", "NaN loses", "v.at[l] > best.at[l] || isnan(v.at[l]) ?", "v.at[l] > best.at[l] ?", POOL),
    m("pool.cu", "a row above the image is read", "if (row >= a.x[0].by) continue;", "", POOL),
    m("pool.cu", "a column right of the image is read", "if (column < a.x[1].by) f(", "if (column <= a.x[1].by) f(", "maxpool [[3, 3] stride [1, 1]"),
    m("pool.cu", "one window too few reaches over a pixel", "(at - reach) / a.stride[axis] + 1, min(at / a.stride[axis] + 1, a.y[axis].by)", "(at - reach) / a.stride[axis] + 2, min(at / a.stride[axis] + 1, a.y[axis].by)", POOL_GRAD),
    m("pool.cu", "a window past the last one is asked", "min(at / a.stride[axis] + 1, a.y[axis].by)", "at / a.stride[axis] + 1", POOL_GRAD),
    m("upsample.cu", "a pixel right of the image is read", "return {low, min(low + 1, extent - 1),", "return {low, low + 1,", "upsample ["),
    // Reductions.
    m("reduce.cuh", "no barrier before the parts are read", "parts[threadIdx.x / WARP] = x;\n    __syncthreads();", "parts[threadIdx.x / WARP] = x;", "softmax [2x365"),
    m("reduce.cuh", "no barrier before the next reduction writes", "    __syncthreads();  // before the next call writes\n", "", "mse ["),
    m("reduce.cuh", "half of the warps are dropped", "for (int offset = WARPS / 2;", "for (int offset = WARPS / 4;", "softmax [2x365"),
    m("reduce.cuh", "a shuffle names lanes that do not come", "x = op(x, __shfl_xor_sync(~0u, x, offset));\n    return x;", "if (threadIdx.x % 2 == 0) x = op(x, __shfl_xor_sync(~0u, x, offset));\n    return x;", "softmax [2x365"),
    m("softmax.cu", "the maximum is subtracted once", "y[i] = exp(x[i] - max) / sum;", "y[i] = exp(x[i]) / sum;", "softmax [2x365"),
    m("softmax.cu", "a part goes to the first one's columns", "blockIdx.x * a.width + a.from[part], c);", "blockIdx.x * a.width, c);", "softmax.concat [[365"),
    m("softmax.cu", "every part has the first one's scores", "softmax_row(o.in<float>(part)", "softmax_row(o.in<float>(0)", "softmax.concat [[365"),
    m("softmax.cu", "a gradient of the first one's columns", "at = blockIdx.x * a.width + a.from[part];", "at = blockIdx.x * a.width;", "softmax.concat.grad [[365"),
    m("loss.cu", "the total is left out", "const float by = 2 * factor * (", "const float by = 2 * (", "mse.both [Mean 5x3 scaled false"),
    m("loss.cu", "the gradient is not scaled", "(a.scaled ? *o.in<float>(3) : 1)", "1", "mse.both [Mean 5x3 scaled true"),
    m("loss.cu", "a thread has one gradient", "i < a.rows * a.d.by; i += THREADS) o.out<float>(5)", "i < min(a.rows * a.d.by, THREADS); i += THREADS) o.out<float>(5)", "mse.both [Mean 117"),
    m("loss.cu", "a weight's squares are those of the first", "return parts[first + i];", "return parts[i];", "l2.sum"),
    m("loss.cu", "a weight begins where its blocks do", "4 * (element() - first * THREADS)", "4 * element()", "l2.sum"),
    m("colours.cu", "the matrix is turned over", "a.by[3 * c + 1] * green", "a.by[3 + c] * green", "colours [any"),
    m("colours.cu", "nothing is added", " + a.add[c];", ";", "colours [any"),
    m("colours.cu", "pixels past the last one are written", "    if (i >= a.pixels) return;\n", "", "colours [any"),
    m("pattern.cu", "an odd half turn keeps its sign", "r *= 1 - 2 * fabs(odd);", "", PATTERN),
    m("pattern.cu", "e to the power beyond a power of two", "+ 1023) << 52", "+ 1022) << 52", PATTERN),
    m("pattern.cu", "every picture is the first one's", "o.in<u32>(0) + (u64)blockIdx.y * WORDS", "o.in<u32>(0)", PATTERN),
    m("pattern.cu", "weights have their low words alone", "(u64)at[2] << 32 | at[1]", "at[1]", PATTERN),
    m("pattern.cu", "a hue does not go round", "if (h >= 6) h -= 6;", "", PATTERN),
    m("pattern.cu", "pixels past the last one are written", "    if (pixel >= a.side * a.side) return;\n", "", PATTERN),
    m("apart.cu", "rows of other pairs are compared", "o.in<float>(0) + 2 * (u64)p * d;", "o.in<float>(0) + (u64)p * d;", "apart [[6"),
    m("apart.cu", "a thread has one difference", "for (u32 i = threadIdx.x; i < d; i += THREADS)", "for (u32 i = threadIdx.x; i < min(d, THREADS); i += THREADS)", "apart [[4"),
    m("apart.cu", "every pair weighs as the first", "o.in<float>(1)[row / 2]", "o.in<float>(1)[0]", "apart.grad [[6"),
    m("apart.cu", "the second row has no gradient", "i + a.d.by : i - a.d.by;", "i + a.d.by : i;", "apart.grad [[6"),
    m("tile/epilogue.cuh", "the last part is left out", "part < parts; ++part", "part + 1 < parts; ++part", PARTS),
    m("reduce.cu", "no barrier before the column's sums are read", "    __syncthreads();\n", "", "bias.grad"),
    m("reduce.cu", "a row of the next part is added", "end = min(begin + a.part, a.rows);", "end = min(begin + a.part + 1, a.rows);", "bias.grad [x [4, 17"),
    m("reduce.cu", "the second sum steps as the first", "o.in<float>(2) + j, a.parts, a.more", "o.in<float>(2) + j, a.parts, a.n", BIAS),
    // The product of tiles.
    m("tile/multiply.cuh", "no barrier before the first product", "b.store(b.load(), bs[steps & 1]);\n        __syncthreads();", "b.store(b.load(), bs[steps & 1]);", VECTORS),
    m("tile/multiply.cuh", "no barrier between steps", "b.store(next_b, bs[~steps & 1]);\n            __syncthreads();", "b.store(next_b, bs[~steps & 1]);", VECTORS),
    m("tile/multiply.cuh", "the buffer that is being read is filled", "a.store(next_a, as[~steps & 1]);", "a.store(next_a, as[steps & 1]);", VECTORS),
    m("tile/multiply.cuh", "the last step of depth is dropped", "for (int k = 0; k < BK; ++k) {", "for (int k = 0; k < BK - 1; ++k) {", VECTORS),
    m("tile/multiply.cuh", "two elements are swapped on the way", "to[k + 1][row] = v.y;", "to[k + 1][row] = v.z;", VECTORS),
    m("tile/multiply.cuh", "an element is never stored", "        to[k + 3][row] = v.w;\n", "", VECTORS),
    m("tile/multiply.cuh", "a vector is read past the end", "return left > 0 ? __ldg(reinterpret_cast<const float4 *>(p)) : float4{};", "return __ldg(reinterpret_cast<const float4 *>(p));", VECTORS),
    m("tile/multiply.cuh", "the last element of a tail is read past the end", "left > 3 ? __ldg(p + 3) : 0", "left > 2 ? __ldg(p + 3) : 0", "conv.fprop [k5 3x3"),
    m("tile/multiply.cuh", "lanes take other rows", "+ threadIdx.x % 32 / 8);", "+ threadIdx.x % 32 / 16);", VECTORS),
    m("tile/multiply.cuh", "a narrow tile overruns its half of the buffer", "return COLUMNS * BK == 4 * THREADS || k < BK;", "return true;", "dense.wgrad [x [40"),
    m("tile/matrix.cuh", "the wrong stride from step to step", "p += (u64)BK * stride;", "p += BK;", WGRAD),
    m("tile/matrix.cuh", "no barrier before the column sums are read", "        this->store(sum, rows);\n        __syncthreads();\n", "        this->store(sum, rows);\n", BIAS),
    m("tile/matrix.cuh", "a column is added to its neighbour", "sum.z += v.z, sum.w += v.w;", "sum.z += v.w, sum.w += v.w;", BIAS),
    m("tile/matrix.cuh", "sums past the last column are written", "if (i >= min(count, COLUMNS)) return;", "if (i >= COLUMNS) return;", BIAS),
    m("tile/matrix.cuh", "a row's tail is written past its end", "if (at + 3 < width) row[at + 3] = v.w;", "row[at + 3] = v.w;", SINGLES),
    m("tile/order.cuh", "rows above the image are read", "(unsigned)row < (unsigned)h", "row < h", SINGLES),
    m("tile/order.cuh", "a column right of the image is read", "(unsigned)column < (unsigned)w", "(unsigned)column <= (unsigned)w", SINGLES),
    m("tile/image.cuh", "a column of taps too many", "if (column == column_end) {", "if (column > column_end) {", SINGLES),
    m("tile/image.cuh", "a line of pixels too many", "if (++middle == middles) {", "if (++middle > middles) {", WGRAD),
    m("tile/epilogue.cuh", "the bias of the column before", "v += __ldg(bias + column);", "v += __ldg(bias + column - 1);", VECTORS),
    m("tile/epilogue.cuh", "a gradient at the kink", "return y > 0 ? v : 0;", "return y >= 0 ? v : 0;", MASK),
    m("tile/epilogue.cuh", "the last of equal maxima wins", "if (v[i] > best ||", "if (v[i] >= best ||", POOLED),
    m("tile/epilogue.cuh", "NaN loses in a window", "|| (isnan(v[i]) && !isnan(best))) best", ") best", "conv.pooled [k36 1x1 stride [1, 1] groups 1 x [1, 14, 14, 3]"),
    m("tile/epilogue.cuh", "two channels of the index are swapped", "v[3].y, best.y) << 2;", "v[3].y, best.y) << 4;", POOLED),
    m("tile/epilogue.cuh", "columns of a window are rows", "to[(u64)(i / 2 * line + i % 2) * c]", "to[(u64)(i % 2 * line + i / 2) * c]", "unpool"),
    m("tile/epilogue.cuh", "the gradient goes to every pixel of the window", "(index >> 2 * v & 3) == i", "(index >> 2 * v & 3) <= i", "unpool"),
    m("tile/multiply.cuh", "a square's rows are those of its neighbour", "row(4 * i + 2, q), row(4 * i + 3, q)}", "row(4 * i + 3, q), row(4 * i + 2, q)}", POOLED),
    m("tile/matrix.cuh", "the mask is read past a row's end", "width > 3 ? __ldg(row + 3) : 0", "__ldg(row + 3)", "conv.dgrad [relu k5 3x3"),
    // Convolution and dense layers.
    m("conv/fprop.cu", "pixels past the last one are written", "if (first + i < pixels) put(", "put(", SINGLES),
    m("conv/fprop.cu", "padding on the wrong side", "out.middle * a.stride_h - a.pad_h", "out.middle * a.stride_h + a.pad_h", SINGLES),
    m("conv/fprop.cu", "the first group's filters for all", "o.in<float>(1) + (u64)group * a.gk * depth", "o.in<float>(1)", "conv.fprop [k80 3x3"),
    m("tile/order.cuh", "windows lie one below the other", "i / 2 % 2;", "i % 2;", POOLED),
    m("conv/fprop.cu", "windows past the last one are written", "if (first + i >= pixels || filter + j >= a.gk) return;", "if (filter + j >= a.gk) return;", POOLED),
    m("conv/fprop.cu", "the maximum before the bias", "for (float4 &v : v) v = act(filter + j, v);", "v[0] = act(filter + j, v[0]);", POOLED),
    m("conv/fprop.cu", "an index that nobody asked for", "if (a.index) o", "o", "conv.pooled [no index k32"),
    m("conv/dgrad.cu", "the mask of the pixel before", "take(o.in<float>(2) + pixel,", "take(o.in<float>(2) + pixel - a.c * (pixel > 0),", MASK),
    m("conv/dgrad.cu", "the index of the first channels", "o.in<u8>(3)[(pixel + channel + j) / 4]", "o.in<u8>(3)[pixel / 4]", "conv.dgrad [pool k32"),
    m("conv/dgrad.cu", "windows of half the distance", "4 * line * a.w + 2 * column", "4 * line * a.w + column", "conv.dgrad [pool k32"),
    m("tile/order.cuh", "the last tap of a phase is dropped", "count = (taps - first + step - 1) / step;", "count = (taps - first) / step;", STRIDED),
    m("conv/dgrad.cu", "a phase's missing pixels are written", "|| row >= a.h ||", "||", "conv.dgrad [k4 3x5"),
    m("conv/dgrad.cu", "taps are stepped through one by one", "at.middle * a.tap_step_w", "at.middle", STRIDED),
    m("conv/wgrad.cu", "filters past the last one are written", "if (filter + i < a.gk) put(", "put(", WGRAD),
    m("conv/wgrad.cu", "pixels of the next part are added", "end = min(begin + a.part, pixels);", "end = min(begin + a.part + 1, pixels);", PARTS),
    m("conv/wgrad.cu", "every group's bias gradient is the first one's", "group * a.gk + filter, a.gk - filter", "filter, a.gk - filter", "conv.wgrad [k80"),
    m("conv/direct.cu", "the output pixel below the last", "p >= a.p ||", "p > a.p ||", "conv.dgrad [k6 3x3 stride [1, 1] groups 2"),
    m("conv/depthwise.cu", "no barrier before the sums of a block", "    __syncthreads();\n", "", "conv.wgrad [k19 3x3 stride [2, 2]"),
    m("conv/depthwise.cu", "filters as if taps came last", "__ldg(filter + v * taps)", "__ldg(filter + v)", "conv.fprop [k8 3x3 stride [2, 2] groups 8"),
    m("dense/fprop.cu", "half of the lanes are not added", "int apart = 16;", "int apart = 8;", "dense.fprop [x [25"),
    m("dense/fprop.cu", "rows past the last are read", "row = min(own, a.rows - ROWS)", "row = own", "dense.fprop [x [25"),
    m("dense/fprop.cu", "outputs past the last are written", "&& r >= own && c < a.outputs)", "&& r >= own)", "dense.fprop [x [3, 7]"),
    m("gemm.cu", "every row has the mask of the first", "take(x + at, column + j, a.n)", "take(x, column + j, a.n)", "dense.dgrad [x [25"),
    m("unpool.cu", "rows as long as the pooled ones", "dz, 2 * a.q.by, a.c.by", "dz, a.q.by, a.c.by", "unpool"),
    m("gemm.cu", "every part's bias gradient lies at the first one's", "(u64)blockIdx.y * a.m + at.row", "at.row", "dense.wgrad [x [300"),
    // Tensor cores.
    m("mma/multiply.cuh", "a wait count too small", "wait<STAGES - 2>();", "wait<STAGES - 1>();", MMA),
    m("mma/multiply.cuh", "no barrier before a stage is filled again", "            __syncthreads();\n            fetch(", "            fetch(", MMA),
    m("mma/multiply.cuh", "no barrier before shared memory serves another purpose", "// The copies of the last steps were waited for.\n        __syncthreads();\n", "\n", MMA_SHORT),
    m("mma/multiply.cuh", "a staged tile is read too early", "= two;\n        });\n        __syncthreads();\n", "= two;\n        });\n", MMA),
    m("mma/multiply.cuh", "the stage before is multiplied", "now = now + 1 == STAGES ? 0 : now + 1;", "now = now + 1 == STAGES ? 1 : now + 1;", MMA),
    m("mma/multiply.cuh", "rows are stored swizzled and read straight", "ldmatrix(to, from + at(m + lane() % 16, 2 * k + lane() / 16));", "ldmatrix(to, from + 16 * ((m + lane() % 16) * CHUNKS + 2 * k + lane() / 16));", MMA),
    m("mma/multiply.cuh", "fragments of B in the other order", "from + at(n + lane() % 8 + lane() / 16 * 8, 2 * k + lane() / 8 % 2)", "from + at(n + lane() % 8 + lane() / 8 % 2 * 8, 2 * k + lane() / 16)", MMA),
    m("mma/multiply.cuh", "a fragment is not transposed", "ldmatrix_trans(to, from + at(16 * k + lane() % 16, n / 8 + lane() / 16));", "ldmatrix(to, from + at(16 * k + lane() % 16, n / 8 + lane() / 16));", "conv.dgrad [BF16 k32"),
    m("mma/multiply.cuh", "the second half of a step is dropped", "for (int k = 0; k < BK / CHUNK / 2; ++k) {", "for (int k = 0; k < BK / CHUNK / 2 - 1; ++k) {", MMA),
    m("mma/multiply.cuh", "a chunk is written past the end of a row", "        if (at < width) *reinterpret_cast<Chunk *>(row + at) = v;\n        return;", "        *reinterpret_cast<Chunk *>(row + at) = v;\n        return;", MMA),
    m("mma/multiply.cuh", "sums of rows eight further", "lane() / 4 + 8 * h, at[i].of(h));", "lane() / 4 + 8 * h, at[i].of(1 - h));", "conv.wgrad [BF16 k32"),
    m("mma/multiply.cuh", "depths of float32 in another order on one side", "element(from, m + i % 2 * 8, 8 * k + i / 2 * 4)", "element(from, m + i / 2 * 8, 8 * k + i % 2 * 4)", "conv.wgrad [k32 3x3"),
    m("mma/multiply.cuh", "every step of float32 is the first", "element(from, n + i / 2 * 8, 8 * k + i % 2 * 4)", "element(from, n + i / 2 * 8, i % 2 * 4)", "conv.dgrad [k32 3x3"),
    m("mma/multiply.cuh", "the lower half of a tall tile is left out", "WARP_M = BM / WARPS_M", "WARP_M = (BM < 256 ? BM : 128) / WARPS_M", "tiles: conv.fprop [BF16 k264"),
    m("mma/multiply.cuh", "the right half of a wide tile is left out", "WARP_N = BN / WARPS_N", "WARP_N = (BN < 256 || BM > 64 ? BN : 128) / WARPS_N", "tiles: conv.wgrad [BF16 k8 1x1 stride [1, 1] groups 1 x [1, 14, 14, 264"),
    m("mma/matrix.cuh", "rows are copied by chunks that they do not consist of", "whole(stride % CHUNK == 0 && columns % CHUNK == 0)", "whole(true)", "conv.wgrad [BF16 k19"),
    m("mma/factor.cuh", "lo hi is left out", "        mma(step, lo, b.hi[2 * half], b.hi[2 * half + 1]);\n", "", VECTORS),
    m("mma/factor.cuh", "hi lo is left out", "        mma(step, hi, b.lo[2 * half], b.lo[2 * half + 1]);\n", "", VECTORS),
    m("mma/factor.cuh", "hi hi is lo lo", "mma(step, hi, b.hi[2 * half], b.hi[2 * half + 1]);", "mma(step, lo, b.lo[2 * half], b.lo[2 * half + 1]);", VECTORS),
    m("mma/factor.cuh", "hi and lo are exchanged on one side", "mma(step, lo, b.hi[2 * half], b.hi[2 * half + 1]);", "mma(step, hi, b.hi[2 * half], b.hi[2 * half + 1]);", VECTORS),
    m("mma/factor.cuh", "lo has the sign of hi", "__uint_as_float(x[i]) - __uint_as_float(hi[i])", "__uint_as_float(hi[i]) - __uint_as_float(x[i])", VECTORS),
    m("mma/factor.cuh", "hi has a bit less", "hi[i] = (x[i] + 0x1000) & TF32;", "hi[i] = (x[i] + 0x1000) & TF32 << 3;", VECTORS),
    m("mma/factor.cuh", "steps are not added up", "sum[i] += step[i];", "sum[i] = step[i];", VECTORS),
    m("mma/factor.cuh", "two elements are exchanged in tf32", "\"f\"(__uint_as_float(x[i])));", "\"f\"(__uint_as_float(x[i ^ 1])));", VECTORS),
    m("mma/factor.cuh", "half of the depth is not in the sums", "+ __uint_as_float(x[half + 2]);", "+ 0.f;", BIAS),
    m("mma/factor.cuh", "half of the lanes are not in the sums", "            sum += __shfl_xor_sync(~0u, sum, 2);\n", "", BIAS),
    m("mma/warp.cuh", "zeros are not filled in", "\"r\"(exists ? 16 : 0)", "\"r\"(16)", MMA),
    m("mma/matrix.cuh", "a row past the last is read", "i * Place::APART < rows ? left : 0", "left", "conv.fprop [BF16 k19"),
    m("mma/matrix.cuh", "the wrong stride from step to step", "p += (u64)BK * stride;", "p += BK;", "conv.wgrad [BF16 k72 3x3"),
    m("mma/image.cuh", "a tap too few", "i < taps; ++i, at += step", "i + 1 < taps; ++i, at += step", "conv.fprop [BF16 k5"),
    m("mma/image.cuh", "a carry is lost", "if (middle >= middles) middle -= middles, ++outer;\n    }\n    __device__ void next", "if (middle >= middles) middle -= middles;\n    }\n    __device__ void next", MMA),
    m("mma/image.cuh", "columns left of the image are read", "columns_inside[i] = inside(at.z,", "columns_inside[i] = inside(at.z + 1,", MMA),
    m("mma/fprop.cu", "an index of the first channels", "o.out<u8>(4)[at] = index", "o.out<u8>(4)[at - half] = index", "conv.pooled [BF16"),
    m("mma/dgrad.cu", "the mask of the channel before", "take(o.in<Real>(2) + first, c, a.gc)", "take(o.in<Real>(2) + first, c - (c > 0) * 8, a.gc)", "conv.dgrad [BF16"),
    m("mma/dgrad.cu", "both halves go to the first's place", "o.in<u8>(3)[(first + c) / 4 + half]", "o.in<u8>(3)[(first + c) / 4]", "conv.dgrad [BF16"),
    m("mma/wgrad.cu", "filters past the last one are written", "if (filter + i < a.gk) put(", "put(", "conv.wgrad [BF16 k19"),
    m("mma/dense.cu", "depth past the end of a part", "end(min(begin + a.part, a.depth))", "end(begin + a.part)", "dense.wgrad [BF16 x [25"),
    m("mma/ceiling.cu", "tiles past the last are written", "if (tile >= a.n) return;", "", "ceiling.product"),
    m("mma/ceiling.cu", "two fragments are exchanged", "two(0, 16 * tile + 8, 0), two(0, 16 * tile, 8),", "two(0, 16 * tile, 8), two(0, 16 * tile + 8, 0),", "ceiling.product"),
    m("tile/epilogue.cuh", "the last part of a dense layer is left out", "part < parts; ++part", "part + 1 < parts; ++part", "dense.fprop [BF16 x [2, 2504"),
    m("finish.cuh", "the bias of a row", "act(c, sum_of", "act(r, sum_of", "dense.fprop [BF16 x [2, 2504"),
    m("finish.cuh", "a part counts before it is there for others", "    __threadfence();\n    __syncthreads();\n", "    __syncthreads();\n", "dense.fprop [BF16 x [2, 2504"),
    m("finish.cuh", "a thread's part is not waited for", "    __threadfence();\n    __syncthreads();\n", "    __threadfence();\n", "dense.mixed [BF16 x BF16 17x132"),
    m("finish.cuh", "the first block adds the parts", "== blocks - 1);", "== 0);", "dense.fprop [BF16 x [2, 2504"),
    m("finish.cuh", "counts are not zero afterwards", "atomicInc(count, blocks - 1)", "atomicAdd(count, 1)", "dense.fprop [BF16 x [2, 2504"),
    m("finish.cuh", "all tiles have one count", "o.out<u32>(7) + blockIdx.x", "o.out<u32>(7)", "dense.fprop [BF16 x [72, 136"),
    m("finish.cuh", "rows past the last are written", "if (r >= a.m || c >= a.n) continue;", "if (c >= a.n) continue;", "dense.fprop [BF16 x [2, 2504"),
    m("finish.cuh", "a result is not rounded before it is widened", "o.out<float>(6)[at] = stored(sum);", "o.out<float>(6)[at] = sum;", "dense.mixed [BF16 x BF16"),
    m("gemm.cu", "a part is taken for the whole", "if (gridDim.y == 1) {", "if (gridDim.y >= 1) {", "dense.dgrad [x [3, 12"),
    m("dense/fprop.cu", "a result in 16 bits as float16", "if (to == 2) static_cast<bf16 *>(y)[at] = narrow<bf16>(v);", "if (to == 2) static_cast<f16 *>(y)[at] = narrow<f16>(v);", "dense.mixed [BF16 x F32"),
    m("image.cu", "every network has the first one's scale", "a.scale[own]", "a.scale[0]", "image.inputs"),
    m("image.cu", "every network sees the first one's images", "o.in<u8>(own)", "o.in<u8>(0)", "image.inputs"),
    m("image.cu", "the second network's mean is shifted", "a.mean[3 * own + c]", "a.mean[2 * own + c]", "image.inputs"),
    m("half.cuh", "bf16 is cut off", "cvt.rn.bf16.f32", "cvt.rz.bf16.f32", "cast [F32 to BF16"),
    m("mma/dense.cu", "an updated weight has no copy", "if (STORAGE != 0) put_narrow(o.out<Real>(4) + rows[r], column, g.n, w[r]);", "", "dense.update [Keras BF16 x [25"),
    m("mma/dense.cu", "rows past the last are updated", "if (!exist[r]) continue;", "", "dense.update [Keras BF16 x [25"),
    m("mma/dense.cu", "the second of two neighbours stays", "            step.take(w[r].y, v[r].y, d[r].y);\n", "", "dense.update [Keras BF16 x [25"),
    m("gemm.cu", "a velocity is not stored", "if (step.momentum != 0) put(o.out<float>(3) + row, column, g.n, v);", "", "dense.update [Torch x [25"),
    m("gemm.cu", "the last of four neighbours stays", "        step.take(w.w, v.w, d.w);\n", "", "dense.update [Torch x [25"),
    m("gemm.cu", "depth past the end of a part", "end(min(begin + a.part, a.depth))", "end(begin + a.part)", "dense.wgrad [x [25"),
    // Products of warpgroups.
    m("sm90/conv.cu", "padding on the wrong side", "a.first_row + tap / a.s * a.step", "tap / a.s * a.step - a.first_row", GROUPS),
    m("sm90/conv.cu", "taps go the same way backward", "tap % a.s * a.step;", "tap % a.s;", GROUPS_BACK),
    m("sm90/conv.cu", "a stage is filled while it is multiplied", "            stage.empty.wait(ring.parity ^ 1);\n", "", GROUPS),
    m("sm90/conv.cu", "fewer bytes are waited for than come", "expect(STAGE_BYTES)", "expect(STAGE_BYTES - IMAGE_BYTES)", GROUPS),
    m("sm90/conv.cu", "both boxes are of the first one's image", "boxes[g].image);", "boxes[0].image);", "warpgroups fprop [3, 5"),
    m("sm90/conv.cu", "every step has the first channels", "c, boxes[g].column + along", "0, boxes[g].column + along", GROUPS_SHORT),
    m("sm90/conv.cu", "channels side by side are the first ones", "filter + k, tap, c);", "filter, tap, c);", GROUPS_SIDE),
    m("sm90/conv.cu", "a step along channels that lie across", "(ACROSS ? 2 * 8 * ROW : 32) / 16", "32 / 16", GROUPS_BACK),
    m("sm90/conv.cu", "the next channels are those", "ACROSS ? DEPTH * ROW : 16", "16", GROUPS_SIDE),
    m("sm90/conv.cu", "parity stays", "stage = 0, parity ^= 1;", "stage = 0;", GROUPS),
    m("sm90/conv.cu", "a warp is not waited for", "stage.empty.init(GROUPS * 4);", "stage.empty.init(GROUPS * 4 - 1);", GROUPS),
    m("sm90/conv.cu", "no barrier after barriers are made", "    __syncthreads();\n", "", GROUPS),
    m("sm90/conv.cu", "copies do not know of barriers", "        fence_barriers();\n", "", GROUPS),
    m("sm90/conv.cu", "a stage is multiplied before it is there", "        stage.full.wait(ring.parity);\n", "", GROUPS),
    m("sm90/conv.cu", "registers are not fenced", "        wgmma_fence();\n", "", GROUPS),
    m("sm90/conv.cu", "products are not committed", "        wgmma_commit();\n", "", GROUPS),
    m("sm90/conv.cu", "a stage is free before it is multiplied", "wgmma_wait<1>();", "wgmma_wait<2>();", GROUPS),
    m("sm90/conv.cu", "sums are read too early", "    wgmma_wait<0>();\n", "", GROUPS),
    m("sm90/conv.cu", "sums begin with what registers hold", ", i | k);", ", 1);", GROUPS),
    m("sm90/conv.cu", "both warpgroups multiply the first box", "descriptor(stage.image(group))", "descriptor(stage.image(0))", GROUPS),
    m("sm90/conv.cu", "boxes past the last are written", "box.image >= a.n || ", "", "warpgroups fprop [3, 5"),
    m("sm90/conv.cu", "rows past the last are written", "row >= a.p || ", "", GROUPS),
    m("sm90/conv.cu", "filters past the last are written", "            if (filter + 8 * j >= a.k) continue;\n", "", GROUPS_SHORT),
    m("sm90/conv.cu", "every block has the first one's filters", " * a.k + filter;", " * a.k;", GROUPS_SHORT),
    m("sm90/conv.cu", "no ReLU", "                if (a.relu) v[e] = v[e] < 0 ? 0 : v[e];\n", "", GROUPS),
    m("sm90/conv.cu", "a gradient at the kink", ") > 0 ? v[e] : 0;", ") >= 0 ? v[e] : 0;", GROUPS_BACK),
    m("sm90/conv.cu", "the mask of the first channels", "mask[at + k + e]", "mask[at + e]", GROUPS_BACK),
    m("sm90/conv.cu", "two sums are exchanged", "4 * j + 2 * down + e", "4 * j + 2 * e + down", GROUPS),
    m("sm90/hopper.cuh", "every instance has the first one's maps", "&at[blockIdx.z][i]", "&at[0][i]", "beside: warpgroups fprop [3, 5"),
    m("sm90/hopper.cuh", "swizzle atoms half as far apart", "u64(1024 >> 4) << 32", "u64(512 >> 4) << 32", GROUPS),
    m("sm90/hopper.cuh", "a barrier is looked at once", "@done bra DONE;\\nbra WAIT;\\n", "", GROUPS),
    // Indices in 32 bits.
    m("common.cuh", "elements are counted in 32 bits", "const u64 first = (u64)block * FULL;", "const u64 first = block * FULL;", "huge relu"),
    m("cast.cu", "an element's number in 32 bits", "[&](u64 i, auto width)", "[&](u32 i, auto width)", "huge cast"),
    m("dropout_grad.cu", "an element's number in 32 bits", "[&](u64 i, auto width)", "[&](u32 i, auto width)", "huge dropout.grad"),
    m("image.cu", "colours begin anew at 2^32", "(u32(i >> 32) + u32(i) % 3 + v) % 3", "(u32(i) + v) % 3", "huge image.normalize"),
    m("gather.cu", "a table in 32 bits", "u64 from = min", "u32 from = min", "huge image.gather"),
    m("augment.cu", "pictures in 32 bits", "u64 picture = 3ull *", "u64 picture = 3 *", "huge image.augment"),
    m("norm.cu", "an image's first pixel in 32 bits", "(u64)n * a.hw.by < a.pixels", "n * a.hw.by < a.pixels", "huge batchnorm"),
    m("spatial.cuh", "images in 32 bits", "x + (u64)at.n * (", "x + at.n * (", "huge maxpool"),
    m("unpool.cu", "pixels in 32 bits", "4ull * a.q.by * row", "4 * a.q.by * row", "huge unpool"),
    m("conv/fprop.cu", "images in 32 bits", "(u64)out.outer * image.size()", "out.outer * image.size()", "huge conv.fprop, tiles"),
    m("conv/dgrad.cu", "images in 32 bits", "(u64)p.outer * image.size()", "p.outer * image.size()", "huge conv.dgrad, tiles"),
    m("conv/wgrad.cu", "images in 32 bits", "(u64)at.outer * image.size()", "at.outer * image.size()", "huge conv.wgrad, tiles"),
    m("conv/depthwise.cu", "images in 32 bits", "(u64)y.n * a.h * a.w * a.c", "y.n * a.h * a.w * a.c", "huge conv.fprop, depthwise"),
    m("conv/direct.cu", "elements in 32 bits", "(((u64)n * hs + h) * ws + w) * cs + c", "((n * hs + h) * ws + w) * cs + c", "huge conv.fprop, direct"),
    m("mma/image.cuh", "bytes in 32 bits", "(long long)pixel * (SIZE * image.stride)", "pixel * (SIZE * image.stride)", "huge conv.fprop, bf16"),
    m("mma/fprop.cu", "results in 32 bits", "put(y + (u64)(first + row) * a.k", "put(y + (first + row) * a.k", "huge conv.fprop, bf16"),
    m("mma/dgrad.cu", "results in 32 bits", "const u64 line = (u64)pixel.outer * a.h + row, first", "const u32 line = pixel.outer * a.h + row, first", "huge conv.dgrad, bf16"),
    m("mma/wgrad.cu", "elements in 32 bits", "channels_of(x + t.inner, (pixel.outer * image.h + row) * image.w + column, image)", "x + (((pixel.outer * image.h + row) * image.w + column) * image.stride + t.inner)", "huge conv.wgrad, bf16"),
];

/// The tests that look for bugs, the one that finds most first, and those that look for an index that is too narrow.
const CHECKS: &[&str] = &["kernels_equal", "kernels_stay", "same_bits", "grouped_", "nan_"];
const INDICES: &[&str] = &["indices_"];
/// Those of products of warpgroups, which no other test launches.
const WARPGROUPS: &[&str] = &["warpgroups_equal"];
const BESIDE: &[&str] = &["warpgroups_have"];
/// Every tile of a case against the one that the rule takes.
const TILES: &[&str] = &["tiles_"];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy(&entry, &target),
            false => assert!(std::fs::copy(&entry, &target).is_ok()),
        }
    }
}

/// Runs the checks on a changed copy of the kernels, each in a process of its own, up to the first complaint, if there is one.
fn run(mutant: &Mutant) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"), dir.path());
    let path: PathBuf = dir.path().join(mutant.file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(mutant.from).count(), 1, "{}: `{}` occurs once", mutant.file, mutant.from);
    std::fs::write(&path, text.replace(mutant.from, mutant.to)).unwrap();
    let (checks, cases) = match mutant.cases.split_once(": ") {
        Some(("tiles", cases)) => (TILES, cases),
        Some(("beside", cases)) => (BESIDE, cases),
        _ if mutant.cases.starts_with("huge") => (INDICES, mutant.cases),
        _ if mutant.cases.starts_with("warpgroups") => (WARPGROUPS, mutant.cases),
        _ => (CHECKS, mutant.cases),
    };
    checks.iter().find_map(|check| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([check, "--nocapture", "--test-threads=1"])
            .env("DEEP_AFFECT_KERNELS", dir.path())
            .env("DEEP_AFFECT_CACHE", dir.path())
            .env("CASES", cases)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let ran = told.contains("test result: ") && !told.contains("running 0 tests");
        assert!(
            ran && !told.contains("SKIPPED on sim") && !told.contains("\n0 checked"),
            "{}: nothing ran:\n{told}",
            mutant.bug
        );
        let complaint = told.lines().find_map(|l| l.split_once(" on sim: ").map(|(_, what)| what.to_string()));
        (!output.status.success())
            .then(|| complaint.unwrap_or_else(|| panic!("{}: failed without a complaint:\n{told}", mutant.bug)))
    })
}

#[test]
fn planted_bugs_are_found() {
    if !common::have("sim") {
        return;
    }
    let table = std::sync::Mutex::new(vec![]);
    let missed = common::each(MUTANTS, |mutant| {
        let found = run(mutant);
        let how = found.clone().unwrap_or_else(|| "MISSED".into());
        table.lock().unwrap().push(format!("{:<22} {:<58} {how}", mutant.file, mutant.bug));
        found.is_none().then(|| mutant.bug.to_string())
    });
    let mut table = table.into_inner().unwrap();
    table.sort();
    println!("{}", table.join("\n"));
    println!("{} of {} planted bugs found", MUTANTS.len() - missed.len(), MUTANTS.len());
    assert!(MUTANTS.len() >= 40);
    assert!(missed.len() * 20 <= MUTANTS.len(), "missed: {missed:?}");
}
