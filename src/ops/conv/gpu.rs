//! Kernels of the convolutions, and which one computes what.

use super::warpgroups;
use crate::cuda_struct;
use crate::graph::GpuCalls;
use crate::graph::Operand::{In, Out};
use crate::launch::gpu::{CudaStruct, Kernel, PLAIN};
use crate::launch::{Launch, Products};
use crate::ops::mma::{self, Factors};
use crate::ops::tile::{self, NO_SUM, Tile, bias_or_mask_operand, column_sums, index, parts, summed, vector};
use crate::shape::{ConvShape, DType};

cuda_struct! {
    /// A convolution x [N,H,W,C] * w [K,R,S,C/groups] -> y [N,P,Q,K].
    pub struct Conv {
        n: i32,
        h: i32,
        w: i32,
        c: i32,
        k: i32,
        p: i32,
        q: i32,
        r: i32,
        s: i32,
        stride_h: i32,
        stride_w: i32,
        /// Top and left.
        pad_h: i32,
        pad_w: i32,
        dilation_h: i32,
        dilation_w: i32,
        /// From one tap to the next that leads to the same pixel from another output.
        tap_step_h: i32,
        tap_step_w: i32,
        /// Channels and filters of a group.
        gc: i32,
        gk: i32,
        /// wgrad: pixels of y in a part of the sum.
        part: i32,
        /// Whether there is a bias.
        bias: i32,
        /// fprop and dgrad: whether ReLU follows.
        relu: i32,
        /// dgrad: whether it goes on through a ReLU.
        mask: i32,
        /// fprop: whether the result is pooled; dgrad: whether it goes on through a pooling.
        pool: i32,
        /// fprop: whether the index of who won is written.
        index: i32,
    }
}

const fn kernel(
    entry: &'static str,
    source: &'static str,
    operands: usize,
    consts: &'static [&'static str],
    variants: &'static [&'static [i64]],
) -> Kernel {
    Kernel { entry, source, threads: 256, operands, args: Conv::TEXT, consts, variants }
}

// BM, BN, BK, VEC; large before small.
const FPROP_TILES: &[&[i64]] =
    &[&[128, 128, 8, 4], &[128, 64, 8, 4], &[128, 32, 8, 4], &[64, 64, 16, 4], &[128, 64, 8, 1], &[64, 64, 16, 1]];
const DGRAD_TILES: &[&[i64]] =
    &[&[128, 128, 8, 4], &[128, 64, 8, 4], &[128, 32, 8, 4], &[64, 64, 16, 4], &[64, 64, 16, 1]];
// One depth per step for one VEC: the bias gradient is added up step by step.
const WGRAD_TILES: &[&[i64]] = &[&[128, 128, 8, 4], &[64, 128, 8, 4], &[64, 64, 8, 4], &[64, 64, 16, 1]];
const VECTORS: &[&[i64]] = &[&[4], &[1]];

static FPROP: Kernel = kernel("conv_fprop", "conv/fprop.cu", 5, tile::CONSTS, FPROP_TILES);
static DGRAD: Kernel = kernel("conv_dgrad", "conv/dgrad.cu", 5, tile::CONSTS, DGRAD_TILES);
static WGRAD: Kernel = kernel("conv_wgrad", "conv/wgrad.cu", 4, tile::CONSTS, WGRAD_TILES);
const fn mma(entry: &'static str, source: &'static str, operands: usize, tiles: &'static [&'static [i64]]) -> Kernel {
    kernel(entry, source, operands, mma::CONSTS, tiles)
}

static FPROP_MMA: Kernel = mma("conv_fprop_mma", "mma/fprop.cu", 5, mma::PIXELS);
static DGRAD_MMA: Kernel = mma("conv_dgrad_mma", "mma/dgrad.cu", 5, mma::PIXELS);
static WGRAD_MMA: Kernel = mma("conv_wgrad_mma", "mma/wgrad.cu", 4, mma::FILTERS);
static DIRECT_FPROP: Kernel = kernel("conv_direct_fprop", "conv/direct.cu", 4, &[], PLAIN);
static DIRECT_DGRAD: Kernel = kernel("conv_direct_dgrad", "conv/direct.cu", 4, &[], PLAIN);
static DIRECT_WGRAD: Kernel = kernel("conv_direct_wgrad", "conv/direct.cu", 3, &[], PLAIN);
static DEPTHWISE_FPROP: Kernel = kernel("depthwise_fprop", "conv/depthwise.cu", 4, &["VEC"], VECTORS);
static DEPTHWISE_DGRAD: Kernel = kernel("depthwise_dgrad", "conv/depthwise.cu", 4, &["VEC"], VECTORS);
static DEPTHWISE_WGRAD: Kernel = kernel("depthwise_wgrad", "conv/depthwise.cu", 3, &["VEC"], VECTORS);

pub(super) const KERNELS: &[&Kernel] = &[
    &FPROP,
    &DGRAD,
    &WGRAD,
    &FPROP_MMA,
    &DGRAD_MMA,
    &WGRAD_MMA,
    &DIRECT_FPROP,
    &DIRECT_DGRAD,
    &DIRECT_WGRAD,
    &DEPTHWISE_FPROP,
    &DEPTHWISE_DGRAD,
    &DEPTHWISE_WGRAD,
    &warpgroups::KERNEL,
];

/// How a convolution is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// One thread per result. Everything can be computed so, with the same bits as by tiles (but for wgrad, whose sums
    /// are cut elsewhere).
    Direct,
    /// One filter per channel.
    Depthwise,
    /// Implicit GEMM.
    Tiled,
    /// Implicit GEMM on tensor cores.
    Mma(Factors),
}

impl Algorithm {
    /// The form for a shape and the operands' type, the same for all passes.
    pub fn of(s: &ConvShape, storage: DType, products: Products) -> Algorithm {
        match (s.group_c(), s.group_k()) {
            _ if Self::is_tiled(s, storage) => Factors::of(storage, products).map_or(Algorithm::Tiled, Algorithm::Mma),
            (1, 1) => Algorithm::Depthwise,
            _ => Algorithm::Direct,
        }
    }

    /// Whether blocks compute tiles, which pooling needs.
    pub fn is_tiled(s: &ConvShape, storage: DType) -> bool {
        storage.is_half() || s.groups == 1 || s.group_c().min(s.group_k()) >= 16
    }
}

/// What operands are loaded along.
fn aligned(s: &ConvShape) -> [usize; 2] {
    [s.group_c(), s.group_k()]
}

/// Numbers in a filter.
fn width(s: &ConvShape) -> usize {
    s.taps()[0] * s.taps()[1] * s.group_c()
}

/// What becomes of sums before they are written.
#[derive(Clone, Copy, Default)]
pub struct Epilogue {
    /// Input 2 is added, a number for each channel.
    pub bias: bool,
    pub relu: bool,
    /// dgrad: 0 where input 2, ReLU's result, is not positive.
    pub mask: bool,
    /// fprop: the largest of each 2 x 2 pixels is written. dgrad: everything goes to one of 2 x 2 pixels, which input 3, the
    /// index, tells. In tiles only.
    pub pool: bool,
    /// fprop: output 1 is the index.
    pub index: bool,
}

/// The largest number that the kernels of a shape count in 32 bits: pixels of all images and numbers in one, with what taps see
/// around it, numbers in all filters, bytes of a pixel. The numbers in all images they count in 64.
pub fn counted(s: &ConvShape) -> usize {
    let ([r, t], w) = (s.taps(), &s.window);
    let around = |axis: usize, taps: usize| w.pad[axis] + w.pad[axis + 2] + taps * w.dilation[axis];
    let [rows, columns] = [around(0, r), around(1, t)];
    let [x, y] = [(s.h + rows) * (s.w + columns), (s.p + rows) * (s.q + columns)];
    let all = [s.n * x, s.n * y, x * s.c, y * s.k, s.k * width(s), 4 * s.c, 4 * s.k];
    all.into_iter().max().expect("seven")
}

fn args(s: &ConvShape, end: Epilogue, part: usize) -> Conv {
    let ([r, t], w) = (s.taps(), &s.window);
    let step = |axis: usize| index(w.stride[axis] / gcd(w.stride[axis], w.dilation[axis]));
    Conv {
        n: index(s.n),
        h: index(s.h),
        w: index(s.w),
        c: index(s.c),
        k: index(s.k),
        p: index(s.p),
        q: index(s.q),
        r: index(r),
        s: index(t),
        stride_h: index(w.stride[0]),
        stride_w: index(w.stride[1]),
        pad_h: index(w.pad[0]),
        pad_w: index(w.pad[1]),
        dilation_h: index(w.dilation[0]),
        dilation_w: index(w.dilation[1]),
        tap_step_h: step(0),
        tap_step_w: step(1),
        gc: index(s.group_c()),
        gk: index(s.group_k()),
        part: index(part),
        bias: end.bias as i32,
        relu: end.relu as i32,
        mask: end.mask as i32,
        pool: end.pool as i32,
        index: end.index as i32,
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// y = x * w and what comes after; inputs x, w and, with a bias, b.
pub fn fprop(mut gpu: GpuCalls, form: Algorithm, s: &ConvShape, end: Epilogue) -> Vec<Launch> {
    if warpgroups::computes(&gpu, form, s, end, [s.p, s.q, s.k], &FPROP_MMA) {
        return warpgroups::fprop(gpu, s, end);
    }
    let operands = [In(0), In(1), bias_or_mask_operand(end.bias), Out(0), if end.index { Out(1) } else { In(0) }];
    let (args, pixels, vec) = (args(s, end, 0), s.n * s.p * s.q, vector(&[s.c]));
    let extents = [pixels, s.group_k(), width(s)];
    match form {
        Algorithm::Direct => gpu.call(&DIRECT_FPROP, &[], [(pixels * s.k).div_ceil(256), 1], &operands[..4], args),
        Algorithm::Depthwise => {
            gpu.call(&DEPTHWISE_FPROP, &[vec as i64], [(pixels * s.c / vec).div_ceil(256), 1], &operands[..4], args)
        }
        Algorithm::Tiled | Algorithm::Mma(_) => {
            let (kernel, tile) = match form {
                Algorithm::Mma(factors) => {
                    let product = mma::product(&FPROP_MMA, factors, &aligned(s), extents, s.groups);
                    (&FPROP_MMA, mma::tile(&mut gpu, product))
                }
                _ => (&FPROP, Tile::choose(&mut gpu, &FPROP, &[s.group_c()], extents, s.groups)),
            };
            let grid = [pixels.div_ceil(tile.m), s.groups * s.group_k().div_ceil(tile.n)];
            gpu.call(kernel, tile.consts, grid, &operands, args)
        }
    }
    .done()
}

/// dx = the transpose of the convolution applied to dy, and what comes after; inputs dy, w and, with a bias or a mask, b or x.
pub fn dgrad(mut gpu: GpuCalls, form: Algorithm, s: &ConvShape, end: Epilogue) -> Vec<Launch> {
    if warpgroups::computes(&gpu, form, s, end, [s.h, s.w, s.c], &DGRAD_MMA) {
        return warpgroups::dgrad(gpu, s, end);
    }
    let third = bias_or_mask_operand(end.bias || end.mask);
    let operands = [In(0), In(1), third, Out(0)];
    let (args, pixels, vec) = (args(s, end, 0), s.n * s.h * s.w, vector(&[s.c]));
    match form {
        Algorithm::Direct => gpu.call(&DIRECT_DGRAD, &[], [(pixels * s.c).div_ceil(256), 1], &operands, args),
        Algorithm::Depthwise => {
            gpu.call(&DEPTHWISE_DGRAD, &[vec as i64], [(pixels * s.c / vec).div_ceil(256), 1], &operands, args)
        }
        Algorithm::Tiled | Algorithm::Mma(_) => {
            let [down, right] = s.window.stride;
            // Pixels that are equal modulo the stride have the same taps, and blocks of their own.
            let (phases, phase) = (down * right, s.n * s.h.div_ceil(down) * s.w.div_ceil(right));
            let grid = |m: usize, n: usize| [phases * phase.div_ceil(m), s.groups * s.group_c().div_ceil(n)];
            let operands = [In(0), In(1), third, In(if end.pool { 3 } else { 0 }), Out(0)];
            let (extents, copies) =
                ([phase, s.group_c(), s.group_k() * (s.taps()[0] * s.taps()[1]).div_ceil(phases)], phases * s.groups);
            let (kernel, tile) = match form {
                Algorithm::Mma(factors) => {
                    let product = mma::product(&DGRAD_MMA, factors, &aligned(s), extents, copies);
                    (&DGRAD_MMA, mma::tile(&mut gpu, product))
                }
                _ => (&DGRAD, Tile::choose(&mut gpu, &DGRAD, &aligned(s), extents, copies)),
            };
            gpu.call(kernel, tile.consts, grid(tile.m, tile.n), &operands, args)
        }
    }
    .done()
}

/// dw = correlation of x with dy and, with `bias`, db = the column sums of dy; operands x, dy.
pub fn wgrad(mut gpu: GpuCalls, form: Algorithm, s: &ConvShape, bias: bool) -> Vec<Launch> {
    let (size, pixels, vec) = (s.k * width(s), s.n * s.p * s.q, vector(&[s.c]));
    let [direct, depthwise] = [size.div_ceil(256), s.c.div_ceil(32) * s.taps()[0] * s.taps()[1]];
    let (aligned, whole) = (aligned(s), [s.group_k(), width(s), pixels]);
    let product = |extents, copies| match form {
        Algorithm::Mma(factors) => mma::product(&WGRAD_MMA, factors, &aligned, extents, copies),
        _ => tile::product(&WGRAD, &aligned, extents, copies),
    };
    // Tiles share one cut, and therefore change no bit.
    let (parts, part) = match form {
        Algorithm::Direct => parts(direct, pixels, 1),
        Algorithm::Depthwise => parts(depthwise, pixels, 1),
        Algorithm::Tiled => tile::cut(&product(whole, s.groups), tile::STEP, tile::price),
        Algorithm::Mma(_) => tile::cut(&product(whole, s.groups), mma::STEP, mma::price),
    };
    let (extents, copies) = ([s.group_k(), width(s), part], parts * s.groups);
    let of = |kernel, t: Tile| (kernel, t.consts, s.groups * s.group_k().div_ceil(t.m) * width(s).div_ceil(t.n));
    let (kernel, consts, blocks) = match form {
        Algorithm::Direct => (&DIRECT_WGRAD, &[][..], direct),
        Algorithm::Depthwise => (&DEPTHWISE_WGRAD, &[vec as i64][..], depthwise),
        Algorithm::Tiled => of(&WGRAD, Tile::choose(&mut gpu, &WGRAD, &aligned, extents, copies)),
        Algorithm::Mma(_) => of(&WGRAD_MMA, mma::tile(&mut gpu, product(extents, copies))),
    };
    let (args, grid) = (args(s, Epilogue { bias, ..Epilogue::default() }, part), [blocks, parts]);
    let (dw, db) = ((Out(0), size), if bias { (Out(1), s.k) } else { NO_SUM });
    match form {
        Algorithm::Tiled | Algorithm::Mma(_) => {
            summed(gpu, parts, [dw, db], |gpu, [dw, db]| gpu.call(kernel, consts, grid, &[In(0), In(1), dw, db], args))
        }
        _ => {
            let gpu = summed(gpu, parts, [dw, NO_SUM], |gpu, [dw, _]| {
                gpu.call(kernel, consts, grid, &[In(0), In(1), dw], args)
            });
            if bias { column_sums(gpu, In(1), Out(1), pixels, s.k) } else { gpu }
        }
    }
    .done()
}
