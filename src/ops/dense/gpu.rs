//! Kernels of the dense layers, and which one computes what.

use crate::cuda_struct;
use crate::graph::GpuCalls;
use crate::graph::Operand::{Counts, In, Out, Scratch, Update};
use crate::launch::Launch;
use crate::launch::estimate::Price;
use crate::launch::gpu::{Access, CudaStruct, Kernel};
use crate::ops::mma::{self, After, Factors};
use crate::ops::optim::{Descent, Sgd};
use crate::ops::tile::{self, COLUMN_SUM, NO_SUM, SPLIT_SUM, Tile, index, parts, summed, vector};
use crate::shape::DType;

cuda_struct! {
    /// y [rows,outputs] = act(x [rows,inputs] w^T + b), stored as `to` ([`DType::code`]).
    pub struct Dense {
        rows: i32,
        inputs: i32,
        outputs: i32,
        to: i32,
        /// Whether there is a bias, and whether ReLU and dropout follow.
        bias: i32,
        relu: i32,
        draw: i32,
        /// What dropout keeps, and from which streams it is drawn.
        keep: f32,
        streams: [u32; 4],
    }
}

cuda_struct! {
    /// A product of matrices [m,depth] [depth,n], `part` of the depth at a time.
    pub struct Gemm {
        m: i32,
        n: i32,
        depth: i32,
        part: i32,
        /// Whether there is a bias.
        bias: i32,
        /// fprop: whether ReLU and dropout follow, and whether the result is stored as float32 although operands are not.
        relu: i32,
        draw: i32,
        wide: i32,
        /// dgrad: whether it goes on through a ReLU.
        mask: i32,
        /// What dropout keeps, or kept on the way forward, and from which streams it is drawn.
        keep: f32,
        streams: [u32; 4],
    }
}

cuda_struct! {
    /// A product of matrices that is the gradient of a weight, and the step along it.
    pub struct Learning {
        product: Gemm,
        step: Descent,
    }
}

// ROWS, VEC, FROM
const STREAMS: &[&[i64]] = &[
    &[1, 4, 0],
    &[4, 4, 0],
    &[16, 4, 0],
    &[1, 1, 0],
    &[4, 1, 0],
    &[16, 1, 0],
    &[1, 4, 1],
    &[4, 4, 1],
    &[16, 4, 1],
    &[1, 4, 2],
    &[4, 4, 2],
    &[16, 4, 2],
];
// BM, BN, BK, VEC; large before small.
const TILES: &[&[i64]] = &[&[64, 128, 8, 4], &[32, 128, 8, 4], &[64, 64, 16, 1]];

static FPROP: Kernel = Kernel {
    entry: "dense_fprop",
    source: "dense/fprop.cu",
    threads: 256,
    operands: 5,
    args: Dense::TEXT,
    consts: &["ROWS", "VEC", "FROM"],
    variants: STREAMS,
};

const fn gemm(entry: &'static str, operands: usize) -> Kernel {
    Kernel { entry, source: "gemm.cu", threads: 256, operands, args: Gemm::TEXT, consts: tile::CONSTS, variants: TILES }
}

static DGRAD: Kernel = gemm("dense_dgrad", 8);
static WGRAD: Kernel = gemm("dense_wgrad", 4);
static UPDATE: Kernel = Kernel { args: Learning::TEXT, ..gemm("dense_update", 6) };

const fn mma(entry: &'static str, operands: usize) -> Kernel {
    Kernel { source: "mma/dense.cu", consts: mma::CONSTS, variants: mma::MATRICES, ..gemm(entry, operands) }
}

static FPROP_MMA: Kernel = mma("dense_fprop_mma", 8);
static DGRAD_MMA: Kernel = mma("dense_dgrad_mma", 8);
static WGRAD_MMA: Kernel = mma("dense_wgrad_mma", 4);
static UPDATE_MMA: Kernel = Kernel { args: Learning::TEXT, ..mma("dense_update_mma", 7) };

pub(super) const KERNELS: &[&Kernel] =
    &[&FPROP, &DGRAD, &WGRAD, &UPDATE, &FPROP_MMA, &DGRAD_MMA, &WGRAD_MMA, &UPDATE_MMA, &COLUMN_SUM, &SPLIT_SUM];

/// y = act(x w^T + b) and what comes `after`, x being stored as `from`; operands x, w and those. A value depends on its own row
/// and on the widths, never on `rows`, but for what is drawn.
pub(super) fn fprop(gpu: GpuCalls, from: DType, [rows, inputs, outputs]: [usize; 3], after: After) -> Vec<Launch> {
    let _ = [rows * inputs, rows * outputs].map(index);
    // Rows that a warp computes together, from one reading of its four columns of w.
    let together = [16, 4].into_iter().find(|n| *n <= rows).unwrap_or(1);
    let grid = [rows.div_ceil(together), outputs.div_ceil(8 * 4)];
    let consts = [together as i64, vector(&[inputs]) as i64, from.code()];
    let operands = [In(0), In(1), In(after.bias.unwrap_or(0)), In(after.state.unwrap_or(0)), Out(0)];
    let [rows, inputs, outputs] = [rows, inputs, outputs].map(index);
    let [bias, relu, draw] = [after.bias.is_some(), after.relu, after.state.is_some()].map(i32::from);
    let to = after.to.map_or(0, |to| to.code() as i32);
    let args = Dense { rows, inputs, outputs, to, bias, relu, draw, keep: after.keep, streams: gpu.streams() };
    gpu.call(&FPROP, &consts, grid, &operands, args).done()
}

/// dx [rows,inputs] = dy w; operands dy, w. With `mask`, another operand x: over that, which dropout kept, where x is positive,
/// else 0.
pub(super) fn dgrad<'a>(mut gpu: GpuCalls<'a>, [rows, inputs, outputs]: [usize; 3], mask: Option<f32>) -> Vec<Launch> {
    let (extents, aligned) = ([rows, inputs, outputs], [inputs, outputs]);
    let cut = Cut::new(&mut gpu, &DGRAD, None, extents, &aligned, blocks(rows, inputs), true);
    cut.finished(gpu, &DGRAD, masked(mask))
}

/// What comes after a dgrad's sums.
fn masked(mask: Option<f32>) -> After {
    After { mask: mask.map(|_| 2), keep: mask.unwrap_or(1.0), ..After::NOTHING }
}

/// dw [outputs,inputs] = dy^T x and, with `bias`, db [outputs] = the column sums of dy; operands x, dy.
pub(super) fn wgrad(mut gpu: GpuCalls, [rows, inputs, outputs]: [usize; 3], bias: bool) -> Vec<Launch> {
    let (extents, aligned) = ([outputs, inputs, rows], [inputs, outputs]);
    let cut = Cut::new(&mut gpu, &WGRAD, None, extents, &aligned, blocks(outputs, inputs), false);
    let db = if bias { (Out(1), outputs) } else { NO_SUM };
    summed(gpu, cut.parts, [(Out(0), outputs * inputs), db], |gpu, [dw, db]| {
        gpu.call(&WGRAD, cut.tile.consts, cut.grid, &[In(0), In(1), dw, db], cut.args.with_bias(bias))
    })
    .done()
}

/// [`fprop`] on tensor cores.
pub(super) fn fprop_mma(
    mut gpu: GpuCalls,
    factors: Factors,
    [rows, inputs, outputs]: [usize; 3],
    after: After,
) -> Vec<Launch> {
    // Parts by the widths alone: a value does not depend on how many rows there are.
    let extents = [rows, outputs, inputs];
    let cut = Cut::new(&mut gpu, &FPROP_MMA, Some(factors), extents, &[inputs], outputs.div_ceil(64), true);
    cut.finished(gpu, &FPROP_MMA, after)
}

/// [`dgrad`] on tensor cores.
pub(super) fn dgrad_mma(
    mut gpu: GpuCalls,
    factors: Factors,
    [rows, inputs, outputs]: [usize; 3],
    mask: Option<f32>,
) -> Vec<Launch> {
    let (extents, aligned) = ([rows, inputs, outputs], [inputs, outputs]);
    let cut = Cut::new(&mut gpu, &DGRAD_MMA, Some(factors), extents, &aligned, inputs.div_ceil(64), true);
    cut.finished(gpu, &DGRAD_MMA, masked(mask))
}

/// [`wgrad`] on tensor cores.
pub(super) fn wgrad_mma(
    mut gpu: GpuCalls,
    factors: Factors,
    [rows, inputs, outputs]: [usize; 3],
    bias: bool,
) -> Vec<Launch> {
    let blocks = outputs.div_ceil(64) * inputs.div_ceil(64);
    let cut = Cut::new(&mut gpu, &WGRAD_MMA, Some(factors), [outputs, inputs, rows], &[inputs, outputs], blocks, false);
    let db = if bias { (Out(1), outputs) } else { NO_SUM };
    summed(gpu, cut.parts, [(Out(0), outputs * inputs), db], |gpu, [dw, db]| {
        gpu.call(&WGRAD_MMA, cut.tile.consts, cut.grid, &[In(0), In(1), dw, db], cut.args.with_bias(bias))
    })
    .done()
}

/// Whether a weight's gradient is one sum over the rows, whatever multiplies: only then a kernel has all of it at once.
pub(super) fn one_part([rows, inputs, outputs]: [usize; 3]) -> bool {
    let small = outputs.div_ceil(64) * inputs.div_ceil(64);
    parts(blocks(outputs, inputs), rows, tile::STEP).0 == 1 && parts(small, rows, mma::STEP).0 == 1
}

/// A step of w along dw = dy^T x, which is not written, and db as [`wgrad`] has it; operands w and v, with `copy` the copy,
/// then x, dy and hyper. What [`one_part`] refuses does not come here.
pub(super) fn update(
    mut gpu: GpuCalls,
    factors: Option<Factors>,
    [rows, inputs, outputs]: [usize; 3],
    bias: bool,
    (sgd, copy): (Sgd, bool),
) -> Vec<Launch> {
    let (extents, aligned) = ([outputs, inputs, rows], [inputs, outputs]);
    let (kernel, blocks) = match factors {
        Some(_) => (&UPDATE_MMA, outputs.div_ceil(64) * inputs.div_ceil(64)),
        None => (&UPDATE, blocks(outputs, inputs)),
    };
    let cut = Cut::new(&mut gpu, kernel, factors, extents, &aligned, blocks, false);
    assert_eq!(cut.parts, 1, "a gradient in parts is not there when it is needed");
    let updated = 2 + copy as usize;
    let [x, dy, hyper] = [0, 1, 2].map(|i| In(updated + i));
    let db = if bias { Out(updated) } else { Update(1) };
    let args = Learning { product: cut.args.with_bias(bias), step: sgd.numbers() };
    let operands = match factors {
        Some(_) => vec![x, dy, Update(0), Update(1), Update(if copy { 2 } else { 0 }), hyper, db],
        None => vec![x, dy, Update(0), Update(1), hyper, db],
    };
    gpu.call(kernel, cut.tile.consts, cut.grid, &operands, args).done()
}

impl Gemm {
    fn new(extents: [usize; 3], part: usize) -> Self {
        let ([m, n, depth], part) = (extents.map(index), index(part));
        Self { m, n, depth, part, bias: 0, relu: 0, draw: 0, wide: 0, mask: 0, keep: 1.0, streams: [0; 4] }
    }

    fn with_bias(self, bias: bool) -> Self {
        Self { bias: bias as i32, ..self }
    }
}

/// How a product of matrices is cut.
struct Cut {
    tile: Tile,
    grid: [usize; 2],
    parts: usize,
    args: Gemm,
}

impl Cut {
    /// For `kernel`, on tensor cores where there are `factors`, of operands that are loaded along the `aligned` extents;
    /// `blocks` decides how many parts the sum has, whatever the tile, and `whole` says whether the kernel adds them
    /// ([`Cut::finished`]).
    fn new(
        gpu: &mut GpuCalls,
        kernel: &'static Kernel,
        factors: Option<Factors>,
        [m, n, depth]: [usize; 3],
        aligned: &[usize],
        blocks: usize,
        whole: bool,
    ) -> Self {
        let step = if factors.is_some() { mma::STEP } else { tile::STEP };
        let (parts, part) = parts(blocks, depth, step);
        let extents = [m, n, part];
        let product = match factors {
            Some(factors) => mma::product(kernel, factors, aligned, extents, parts),
            None => tile::product(kernel, aligned, extents, parts),
        };
        let price = |consts: &[i64]| {
            let price = if factors.is_some() { mma::price(consts) } else { tile::price(consts) };
            let [rows, columns] = price.tile;
            let sums = if whole { 4 * parts * m.min(rows) * columns } else { 0 };
            Price { last: sums as f64, ..price }
        };
        let tile = Tile::new(gpu.tile(product, price));
        let grid = [m.div_ceil(tile.m) * n.div_ceil(tile.n), parts];
        Self { tile, grid, parts, args: Gemm::new([m, n, depth], part) }
    }

    /// Launches `kernel`, whose last blocks add the parts in order and make of output 0 what comes `after`
    /// (`kernels/finish.cuh`); operands 0 and 1 are multiplied.
    fn finished(self, mut gpu: GpuCalls, kernel: &'static Kernel, after: After) -> Vec<Launch> {
        let Self { tile, grid, parts, args } = self;
        let sums = gpu.scratch(4 * parts * (args.m * args.n) as usize);
        let counts = gpu.counts(grid[0]);
        let args = Gemm {
            bias: after.bias.is_some() as i32,
            relu: after.relu as i32,
            draw: after.state.is_some() as i32,
            wide: after.to.is_some() as i32,
            mask: after.mask.is_some() as i32,
            keep: after.keep,
            streams: gpu.streams(),
            ..args
        };
        let [bias, mask, state] = [after.bias, after.mask, after.state].map(|i| In(i.unwrap_or(0)));
        let operands = [In(0), In(1), Scratch(sums, Access::Write), bias, mask, state, Out(0), Counts(counts)];
        gpu.call(kernel, tile.consts, grid, &operands, args).done()
    }
}

/// Blocks of the tile that a sum in float32 is cut for.
fn blocks(m: usize, n: usize) -> usize {
    m.div_ceil(64) * n.div_ceil(128)
}
