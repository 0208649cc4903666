//! Kernels of the dense layers, and which one computes what.

use crate::cuda_struct;
use crate::graph::Gpu;
use crate::graph::Operand::{self, In, Out};
use crate::kernel::Launch;
use crate::kernel::gpu::{CudaStruct, Kernel, PLAIN};
use crate::ops::mma;
use crate::ops::tile::{SPLIT_SUM, Tile, bias_or_filters, index, parts, summed, vector};
use crate::shape::DType;

cuda_struct! {
    /// y [rows,outputs] = act(x [rows,inputs] w^T + b).
    pub struct Dense {
        rows: i32,
        inputs: i32,
        outputs: i32,
        /// Whether there is a bias, and whether ReLU follows.
        bias: i32,
        relu: i32,
    }
}

cuda_struct! {
    /// A product of matrices [m,depth] [depth,n], `part` of the depth at a time.
    pub struct Gemm {
        m: i32,
        n: i32,
        depth: i32,
        part: i32,
    }
}

cuda_struct! {
    /// Sums over the rows of [rows,n], `part` rows at a time.
    pub struct ColumnSum {
        rows: i32,
        n: i32,
        part: i32,
    }
}

// ROWS, VEC
const STREAMS: &[&[i64]] = &[&[1, 4], &[4, 4], &[16, 4], &[1, 1], &[4, 1], &[16, 1]];
// BM, BN, BK, VEC; as `Tile::choose` asks
const TILES: &[&[i64]] = &[&[64, 128, 8, 4], &[32, 128, 8, 4], &[64, 64, 16, 1]];

static FPROP: Kernel = Kernel {
    entry: "dense_fprop",
    source: "dense/fprop.cu",
    threads: 256,
    operands: 4,
    args: Dense::TEXT,
    consts: &["ROWS", "VEC"],
    variants: STREAMS,
};

const fn gemm(entry: &'static str) -> Kernel {
    Kernel {
        entry,
        source: "gemm.cu",
        threads: 256,
        operands: 3,
        args: Gemm::TEXT,
        consts: Tile::CONSTS,
        variants: TILES,
    }
}

static DGRAD: Kernel = gemm("dense_dgrad");
static WGRAD: Kernel = gemm("dense_wgrad");

const fn mma(entry: &'static str) -> Kernel {
    Kernel { source: "mma/dense.cu", consts: mma::CONSTS, variants: mma::TILES, ..gemm(entry) }
}

static FPROP_MMA: Kernel = mma("dense_fprop_mma");
static DGRAD_MMA: Kernel = mma("dense_dgrad_mma");
static WGRAD_MMA: Kernel = mma("dense_wgrad_mma");

static COLUMN_SUM: Kernel = Kernel {
    entry: "column_sum",
    source: "reduce.cu",
    threads: 256,
    operands: 2,
    args: ColumnSum::TEXT,
    consts: &[],
    variants: PLAIN,
};

pub(super) const KERNELS: &[&Kernel] =
    &[&FPROP, &DGRAD, &WGRAD, &FPROP_MMA, &DGRAD_MMA, &WGRAD_MMA, &COLUMN_SUM, &SPLIT_SUM, &mma::SPLIT_ACT];

/// y = act(x w^T + b); operands x, w and, with `bias`, b. A value depends on its own row and on the widths, never on `rows`.
pub(super) fn fprop(gpu: Gpu, [rows, inputs, outputs]: [usize; 3], bias: bool, relu: bool) -> Vec<Launch> {
    let _ = [rows * inputs, rows * outputs].map(index);
    // Rows that a warp computes together, from one reading of its four columns of w.
    let together = [16, 4].into_iter().find(|n| *n <= rows).unwrap_or(1);
    let grid = [rows.div_ceil(together), outputs.div_ceil(8 * 4)];
    let consts = [together as i64, vector(&[inputs]) as i64];
    let operands = [In(0), In(1), bias_or_filters(bias), Out(0)];
    let [rows, inputs, outputs] = [rows, inputs, outputs].map(index);
    gpu.call(&FPROP, &consts, grid, &operands, Dense { rows, inputs, outputs, bias: bias as i32, relu: relu as i32 })
        .done()
}

/// dx [rows,inputs] = dy w; operands dy, w.
pub(super) fn dgrad(gpu: Gpu, [rows, inputs, outputs]: [usize; 3]) -> Vec<Launch> {
    product(gpu, &DGRAD, [rows, inputs, outputs], &[inputs, outputs])
}

/// dw [outputs,inputs] = dy^T x; operands x, dy.
pub(super) fn wgrad(gpu: Gpu, [rows, inputs, outputs]: [usize; 3]) -> Vec<Launch> {
    product(gpu, &WGRAD, [outputs, inputs, rows], &[inputs, outputs])
}

fn product(gpu: Gpu, kernel: &'static Kernel, [m, n, depth]: [usize; 3], aligned: &[usize]) -> Vec<Launch> {
    let tile = Tile::choose(TILES, aligned, m, n, 1);
    let blocks = m.div_ceil(tile.m) * n.div_ceil(tile.n);
    let (parts, part) = parts(blocks, depth, tile.k);
    let args = Gemm { m: index(m), n: index(n), depth: index(depth), part: index(part) };
    summed(gpu, parts, m * n, |gpu, c| gpu.call(kernel, tile.consts(), [blocks, parts], &[In(0), In(1), c], args))
}

/// C [m,n] = A [m,depth] B [depth,n] of 16-bit operands on tensor cores, by `kernel`, in float32 and in parts. `blocks` is
/// what decides how many.
fn mma_product(
    kernel: &'static Kernel,
    storage: DType,
    [m, n, depth]: [usize; 3],
    aligned: &[usize],
    blocks: usize,
) -> (usize, impl FnOnce(Gpu, Operand) -> Gpu + use<>) {
    let (parts, part) = parts(blocks, depth, mma::STEP);
    let tile = mma::Tile::choose(storage, aligned, [m, n], mma::MANY);
    let args = Gemm { m: index(m), n: index(n), depth: index(depth), part: index(part) };
    let grid = [m.div_ceil(tile.m) * n.div_ceil(tile.n), parts];
    (parts, move |gpu, c| gpu.call(kernel, tile.consts(), grid, &[In(0), In(1), c], args))
}

/// [`fprop`] of 16-bit operands.
pub(super) fn fprop_mma(
    gpu: Gpu,
    storage: DType,
    [rows, inputs, outputs]: [usize; 3],
    bias: bool,
    relu: bool,
) -> Vec<Launch> {
    let extents = [rows, outputs, inputs];
    // Parts by the widths alone: a value does not depend on how many rows there are.
    let (parts, call) = mma_product(&FPROP_MMA, storage, extents, &[inputs], outputs.div_ceil(64));
    mma::summed_act(gpu, storage, parts, [rows, outputs], bias.then_some(2), relu, call)
}

/// [`dgrad`] of 16-bit operands.
pub(super) fn dgrad_mma(gpu: Gpu, storage: DType, [rows, inputs, outputs]: [usize; 3]) -> Vec<Launch> {
    let extents = [rows, inputs, outputs];
    let (parts, call) = mma_product(&DGRAD_MMA, storage, extents, &[inputs, outputs], inputs.div_ceil(64));
    mma::summed_act(gpu, storage, parts, [rows, inputs], None, false, call)
}

/// [`wgrad`] of 16-bit operands.
pub(super) fn wgrad_mma(gpu: Gpu, storage: DType, [rows, inputs, outputs]: [usize; 3]) -> Vec<Launch> {
    let blocks = outputs.div_ceil(64) * inputs.div_ceil(64);
    let (parts, call) = mma_product(&WGRAD_MMA, storage, [outputs, inputs, rows], &[inputs, outputs], blocks);
    summed(gpu, parts, outputs * inputs, call)
}

/// db [n] = the sum over the rows of dy [rows,n].
pub(super) fn column_sums(gpu: Gpu, rows: usize, n: usize) -> Vec<Launch> {
    let blocks = n.div_ceil(32);
    let (parts, part) = parts(blocks, rows, 1);
    let args = ColumnSum { rows: index(rows), n: index(n), part: index(part) };
    summed(gpu, parts, n, |gpu, db| gpu.call(&COLUMN_SUM, &[], [blocks, parts], &[In(0), db], args))
}
