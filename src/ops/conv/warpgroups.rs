/*! Convolutions by products of warpgroups, for Hopper alone (`kernels/sm90/conv.cu`): bf16, a stride and a dilation of one, no
groups, and nothing pooled. [`crate::launch::Choices::warpgroups`] says which of them are computed so. Its
bits are its own, the same in every run and in a batch of any size. */

use super::gpu::{Algorithm, Epilogue};
use crate::cuda_struct;
use crate::graph::GpuCalls;
use crate::graph::Operand::{In, Out};
use crate::launch::choices::Product;
use crate::launch::estimate::{Limits, Price};
use crate::launch::gpu::{CudaStruct, Kernel};
use crate::launch::tensor_map::{Swizzle, TensorMap};
use crate::launch::{Launch, Warpgroups};
use crate::ops::mma::{self, SHARED};
use crate::ops::tile::{bias_or_mask_operand, index};
use crate::shape::{ConvShape, DType};

cuda_struct! {
    /// A convolution whose result is computed in boxes of 8 x 8 pixels: [n,p,q,k] of images with c channels, by r x s taps.
    pub struct Boxes {
        n: i32,
        p: i32,
        q: i32,
        c: i32,
        k: i32,
        r: i32,
        s: i32,
        /// Where tap 0, 0 of pixel 0, 0 is, and how far from one tap to the next.
        first_row: i32,
        first_column: i32,
        step: i32,
        /// Boxes of an image.
        down: i32,
        across: i32,
        bias: i32,
        relu: i32,
        /// Whether it goes on through a ReLU.
        mask: i32,
    }
}

/// Pixels along a box, boxes of a block, and channels of one step: `kernels/sm90/conv.cu`.
const SIDE: usize = 8;
const BOXES: usize = 2;
const DEPTH: usize = 64;

/// `BN` filters of a block; `ACROSS`: the filters lie with the channels of the result side by side (dgrad).
const CONSTS: &[&str] = &["BN", "STAGES", "ACROSS", "STORAGE", "SHARED"];

const fn row(filters: i64, stages: i64, across: i64) -> [i64; 5] {
    [filters, stages, across, 2, stages * (2 * 8192 + 128 * filters + 16)]
}

const VARIANTS: &[&[i64]] =
    &[&row(64, 6, 0), &row(128, 6, 0), &row(256, 4, 0), &row(64, 6, 1), &row(128, 6, 1), &row(256, 4, 1)];

pub static KERNEL: Kernel = Kernel {
    entry: "conv_gemm_sm90",
    source: "sm90/conv.cu",
    threads: 384,
    operands: 4,
    args: Boxes::TEXT,
    consts: CONSTS,
    variants: VARIANTS,
};

/// Whether a convolution is computed so, whose result has so many rows, columns and channels, in place of a portable kernel. The
/// number of images decides nothing, because bits would depend on it.
pub(super) fn computes(
    gpu: &GpuCalls,
    form: Algorithm,
    s: &ConvShape,
    end: Epilogue,
    result: [usize; 3],
    portable: &'static Kernel,
) -> bool {
    let (w, half) = (&s.window, matches!(form, Algorithm::Mma(factors) if factors.storage == DType::BF16));
    half && (s.groups, w.stride, w.dilation) == (1, [1, 1], [1, 1])
        && [s.c, s.k].iter().all(|channels| channels % DEPTH == 0)
        && !end.pool
        && match gpu.warpgroups() {
            Warpgroups::Nothing => false,
            Warpgroups::Faster => pays(result, portable),
            Warpgroups::Everything => true,
        }
}

/// Whether it is faster than a portable kernel by the estimate, where many images keep every card's multiprocessors busy: this
/// kernel's boxes reach over the edges of images.
fn pays([p, q, k]: [usize; 3], portable: &'static Kernel) -> bool {
    let limits = Limits::default();
    let least = |kernel, given, pixels: usize, price: fn(&[i64]) -> Price| {
        let product = Product { kernel, given, extents: [pixels, k, DEPTH], copies: 1 };
        let rates = product.candidates(&limits).into_iter().map(|v| limits.rate([pixels, k], kernel, &price(v)));
        rates.fold(f64::INFINITY, f64::min)
    };
    let storage = ("STORAGE", DType::BF16.code());
    let boxed = [p, q].map(|n| n.next_multiple_of(SIDE)).iter().product();
    let own = least(&KERNEL, vec![("ACROSS", 0)], boxed, price);
    own < least(portable, vec![("VEC", 8), storage, ("TERMS", 1)], p * q, mma::price)
}

/// A map of rows of channels, in boxes of [`DEPTH`] of them: extents from the outermost axis to the channels.
fn map(extents: &[usize], window: &[usize]) -> TensorMap {
    let each = |numbers: &[usize]| numbers.iter().rev().map(|n| *n as u64).collect::<Vec<_>>();
    let extents = each(extents);
    let mut bytes = 2;
    let strides = extents[..extents.len() - 1].iter().map(|n| {
        bytes *= n;
        bytes
    });
    TensorMap { item: 2, strides: strides.collect(), window: each(window), swizzle: Swizzle::By128, extents }
}

/// y = act(x * w + b); inputs x, w and, with a bias, b.
pub(super) fn fprop(gpu: GpuCalls, s: &ConvShape, end: Epilogue) -> Vec<Launch> {
    let [r, t] = s.taps();
    let image = map(&[s.n, s.h, s.w, s.c], &[1, SIDE, SIDE, DEPTH]);
    let filters = |width: usize| map(&[s.k, r * t, s.c], &[width, 1, DEPTH]);
    let first = [-index(s.window.pad[0]), -index(s.window.pad[1])];
    call(gpu, image, filters, [s.n, s.p, s.q, s.c, s.k, r, t], first, 1, end)
}

/// dx = the transpose of the convolution applied to dy, and what comes after; inputs dy, w and, with a bias or a mask, b or x.
pub(super) fn dgrad(gpu: GpuCalls, s: &ConvShape, end: Epilogue) -> Vec<Launch> {
    let [r, t] = s.taps();
    let image = map(&[s.n, s.p, s.q, s.k], &[1, SIDE, SIDE, DEPTH]);
    let filters = |_| map(&[s.k, r * t, s.c], &[DEPTH, 1, DEPTH]);
    let first = [index(s.window.pad[0]), index(s.window.pad[1])];
    call(gpu, image, filters, [s.n, s.h, s.w, s.k, s.c, r, t], first, -1, end)
}

/// Multiply-adds per clock that products of a warpgroup get out of a multiprocessor with random numbers: 87 % of an H100's 2048
/// (arXiv 2402.13499).
const PRODUCTS: f64 = 1780.0;

/// Products, or what goes into shared memory once, and out of it for each of two warpgroups.
fn price(consts: &[i64]) -> Price {
    let (rows, filters) = (BOXES * SIDE * SIDE, consts[0] as usize);
    Price {
        tile: [rows, filters],
        products: (rows * filters) as f64 / PRODUCTS,
        shared: (2 * (rows + filters + rows + BOXES * filters)) as f64 / SHARED,
        bytes: (2 * (rows + filters)) as f64,
        results: (2 * rows * filters) as f64,
        resident: 1,
        last: 0.0,
    }
}

/// `filters` is the map of them for a number of them in a block.
fn call(
    mut gpu: GpuCalls,
    image: TensorMap,
    filters: impl Fn(usize) -> TensorMap,
    [n, p, q, c, k, r, s]: [usize; 7],
    [first_row, first_column]: [i32; 2],
    step: i32,
    end: Epilogue,
) -> Vec<Launch> {
    let [down, across] = [p, q].map(|pixels| pixels.div_ceil(SIDE));
    let args = Boxes {
        n: index(n),
        p: index(p),
        q: index(q),
        c: index(c),
        k: index(k),
        r: index(r),
        s: index(s),
        first_row,
        first_column,
        step,
        down: index(down),
        across: index(across),
        bias: end.bias as i32,
        relu: end.relu as i32,
        mask: end.mask as i32,
    };
    let boxes = n * down * across;
    let given = vec![("ACROSS", (step < 0) as i64), ("STORAGE", DType::BF16.code())];
    let product = Product { kernel: &KERNEL, given, extents: [boxes * SIDE * SIDE, k, r * s * c], copies: 1 };
    let consts = gpu.tile(product, price);
    let width = consts[0] as usize;
    let operands = [In(0), In(1), bias_or_mask_operand(end.bias || end.mask), Out(0)];
    let grid = [boxes.div_ceil(BOXES), k.div_ceil(width)];
    gpu.maps(vec![(0, image), (1, filters(width))]).call(&KERNEL, consts, grid, &operands, args).done()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the estimate: with 256 filters, where boxes fit; with fewer the cache is too slow for blocks of 128 pixels.
    #[test]
    fn wide_layers_whose_sides_boxes_divide_pay() {
        let portable = super::super::gpu::KERNELS.iter().find(|k| k.entry == "conv_fprop_mma").unwrap();
        let paid = |side, k| pays([side, side, k], portable);
        assert_eq!([paid(56, 256), paid(56, 512), paid(224, 64), paid(112, 128)], [true, true, false, false]);
        assert_eq!([paid(28, 512), paid(14, 512)], [false; 2]);
    }
}
