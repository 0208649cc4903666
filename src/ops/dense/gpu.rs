//! Kernels of the dense layers, and which one computes what.

use crate::cuda_struct;
use crate::graph::Gpu;
use crate::graph::Operand::{In, Out};
use crate::kernel::Launch;
use crate::kernel::gpu::{CudaStruct, Kernel};
use crate::ops::tile::{
    COLUMN_SUM, NO_SUM, SPLIT_SUM, SPLIT_SUM_MASK, Tile, index, parts, summed, summed_masked, third_or_filters, vector,
};

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
        /// wgrad: whether there is a bias.
        bias: i32,
        /// dgrad: whether it goes on through a ReLU.
        mask: i32,
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

const fn gemm(entry: &'static str, operands: usize) -> Kernel {
    Kernel { entry, source: "gemm.cu", threads: 256, operands, args: Gemm::TEXT, consts: Tile::CONSTS, variants: TILES }
}

static DGRAD: Kernel = gemm("dense_dgrad", 4);
static WGRAD: Kernel = gemm("dense_wgrad", 4);

pub(super) const KERNELS: &[&Kernel] = &[&FPROP, &DGRAD, &WGRAD, &COLUMN_SUM, &SPLIT_SUM, &SPLIT_SUM_MASK];

/// y = act(x w^T + b); operands x, w and, with `bias`, b. A value depends on its own row and on the widths, never on `rows`.
pub(super) fn fprop(gpu: Gpu, [rows, inputs, outputs]: [usize; 3], bias: bool, relu: bool) -> Vec<Launch> {
    let _ = [rows * inputs, rows * outputs].map(index);
    // Rows that a warp computes together, from one reading of its four columns of w.
    let together = [16, 4].into_iter().find(|n| *n <= rows).unwrap_or(1);
    let grid = [rows.div_ceil(together), outputs.div_ceil(8 * 4)];
    let consts = [together as i64, vector(&[inputs]) as i64];
    let operands = [In(0), In(1), third_or_filters(bias), Out(0)];
    let [rows, inputs, outputs] = [rows, inputs, outputs].map(index);
    gpu.call(&FPROP, &consts, grid, &operands, Dense { rows, inputs, outputs, bias: bias as i32, relu: relu as i32 })
        .done()
}

/// dx [rows,inputs] = dy w and, with `mask`, 0 where x is not positive; operands dy, w and, with `mask`, x.
pub(super) fn dgrad<'a>(gpu: Gpu<'a>, [rows, inputs, outputs]: [usize; 3], mask: bool) -> Vec<Launch> {
    let Product { tile, blocks, parts, args } = Product::new([rows, inputs, outputs], &[inputs, outputs], false);
    let (x, dx) = (In(if mask { 2 } else { 0 }), (Out(0), rows * inputs));
    // The mask belongs behind the whole sum.
    let args = Gemm { mask: (mask && parts == 1) as i32, ..args };
    let call = |gpu: Gpu<'a>, dx| gpu.call(&DGRAD, tile.consts(), [blocks, parts], &[In(0), In(1), x, dx], args);
    let gpu = match mask {
        true => summed_masked(gpu, parts, dx, x, call),
        false => summed(gpu, parts, [dx, NO_SUM], |gpu, [dx, _]| call(gpu, dx)),
    };
    gpu.done()
}

/// dw [outputs,inputs] = dy^T x and, with `bias`, db [outputs] = the column sums of dy; operands x, dy.
pub(super) fn wgrad(gpu: Gpu, [rows, inputs, outputs]: [usize; 3], bias: bool) -> Vec<Launch> {
    let Product { tile, blocks, parts, args } = Product::new([outputs, inputs, rows], &[inputs, outputs], bias);
    let db = if bias { (Out(1), outputs) } else { NO_SUM };
    summed(gpu, parts, [(Out(0), outputs * inputs), db], |gpu, [dw, db]| {
        gpu.call(&WGRAD, tile.consts(), [blocks, parts], &[In(0), In(1), dw, db], args)
    })
    .done()
}

/// How a product of matrices is cut.
struct Product {
    tile: Tile,
    blocks: usize,
    parts: usize,
    args: Gemm,
}

impl Product {
    fn new([m, n, depth]: [usize; 3], aligned: &[usize], bias: bool) -> Self {
        let tile = Tile::choose(TILES, aligned, m, n, 1);
        let blocks = m.div_ceil(tile.m) * n.div_ceil(tile.n);
        let (parts, part) = parts(blocks, depth, tile.k);
        let args =
            Gemm { m: index(m), n: index(n), depth: index(depth), part: index(part), bias: bias as i32, mask: 0 };
        Self { tile, blocks, parts, args }
    }
}
