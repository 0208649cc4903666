/*! What the tiled kernels (`kernels/tile/`) have in common on the host: which tile, and sums in parts. All of it pure
functions of shapes, never of the GPU at hand: the same shape has the same bits everywhere. */

use crate::cuda_struct;
use crate::graph::GpuCalls;
use crate::graph::Operand::{self, In, Scratch};
use crate::launch::choices::Product;
use crate::launch::estimate::{Limits, Price};
use crate::launch::gpu::{Access, CudaStruct, Kernel, PLAIN};

/// Blocks that occupy a large GPU: two on each of 132 multiprocessors.
const BUSY: usize = 264;

/// Depth that is worth a part of its own.
const LEAST: usize = 128;

/// Bytes that the parts of a sum take together, at most: half of an H100's second-level cache, so that they are read from there
/// and need little memory.
const SUMS: usize = 25_000_000;

/// Every tile's step divides it, so that what is cut by it does not depend on the tile.
pub(super) const STEP: usize = 16;

/// The part of a product of matrices that one block computes: `m` x `n` elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tile {
    pub m: usize,
    pub n: usize,
    pub consts: &'static [i64],
}

/// Names of a tile's compile-time constants: a table of tiles is the list of a kernel's variants. `BM` x `BN` elements of the
/// product, `BK` of the depth per step, `VEC` elements of an operand per load.
pub(super) const CONSTS: &[&str] = &["BM", "BN", "BK", "VEC"];

impl Tile {
    /// One of a kernel's variants, whose first constants are BM and BN.
    pub fn new(consts: &'static [i64]) -> Self {
        Self { m: consts[0] as usize, n: consts[1] as usize, consts }
    }

    /// The tile of `copies` products of m x n x depth an instance, whose operands are loaded along the `aligned` extents. It
    /// changes the speed, not the bits.
    pub fn choose(
        gpu: &mut GpuCalls,
        kernel: &'static Kernel,
        aligned: &[usize],
        extents: [usize; 3],
        copies: usize,
    ) -> Tile {
        Tile::new(gpu.tile(product(kernel, aligned, extents, copies), price))
    }
}

/// `copies` products of m x n x depth an instance, whose operands are loaded along the `aligned` extents.
pub(super) fn product(kernel: &'static Kernel, aligned: &[usize], extents: [usize; 3], copies: usize) -> Product {
    Product { kernel, given: vec![("VEC", vector(aligned) as i64)], extents, copies }
}

/// `kernels/tile/multiply.cuh`: of 16 multiply-adds, loads of squares from shared memory and a dozen instructions for every
/// step, four warps issue one per clock; those loads are among what is issued.
pub(super) fn price(consts: &[i64]) -> Price {
    let [m, n, k] = [0, 1, 2].map(|i| consts[i] as f64);
    let squares = m * n / 4096.0;
    let loads = if squares == 4.0 { 4.0 } else { squares + 1.0 };
    Price {
        tile: [m as usize, n as usize],
        products: 2.0 * (16.0 * squares + loads + 12.0 / k),
        shared: 0.0,
        bytes: 4.0 * (m + n),
        results: 4.0 * m * n,
        resident: 2,
        last: 0.0,
    }
}

/// Elements per load where rows have these lengths.
pub fn vector(lengths: &[usize]) -> usize {
    if lengths.iter().all(|n| n.is_multiple_of(4)) { 4 } else { 1 }
}

/// A sum of `depth` terms cut so that `blocks` blocks per part keep a GPU busy: (parts, terms in each), terms in multiples
/// of `step`.
pub fn parts(blocks: usize, depth: usize, step: usize) -> (usize, usize) {
    let wanted = BUSY.div_ceil(blocks).min(depth.div_ceil(LEAST)).max(1);
    let part = depth.div_ceil(wanted).next_multiple_of(step);
    (depth.div_ceil(part), part)
}

/// How the depth of `product` is cut where parts of it are to fill whole turns of a GPU: (parts, terms in each), terms in
/// multiples of `step`. Of all cuts the one of the least estimate for the card that [`Limits`] has by default, in the tile that
/// is best there, with the sums of its parts written and read. Whatever card and tile compute it, the cut is the same, and so
/// are the bits.
pub(super) fn cut(product: &Product, step: usize, price: impl Fn(&'static [i64]) -> Price) -> (usize, usize) {
    let (limits, [m, n, depth]) = (Limits::default(), product.extents);
    let prices: Vec<Price> = product.candidates(&limits).into_iter().map(price).collect();
    let clocks = |parts: usize, part: usize| {
        let part = Product { extents: [m, n, part], copies: parts * product.copies, ..product.clone() };
        let sums = if parts > 1 { 2.0 * 4.0 * (part.copies * m * n) as f64 } else { 0.0 };
        prices.iter().map(|p| limits.clocks(&part, p)).fold(f64::INFINITY, f64::min) + limits.moved(sums)
    };
    let cut = |wanted: usize| {
        let part = depth.div_ceil(wanted).next_multiple_of(step);
        let parts = depth.div_ceil(part);
        (clocks(parts, part), (parts, part))
    };
    let most = BUSY.min(depth.div_ceil(LEAST)).min(SUMS / (4 * m * n * product.copies)).max(1);
    let cuts = (1..=most).map(cut);
    cuts.min_by(|a, b| a.0.total_cmp(&b.0)).expect("one part at least").1
}

cuda_struct! {
    /// What `split_sum` adds: one tensor of `n` elements, and another of `more`.
    pub struct Parts {
        n: u32,
        more: u32,
        parts: u32,
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

pub(super) static SPLIT_SUM: Kernel = Kernel {
    entry: "split_sum",
    source: "reduce.cu",
    threads: 256,
    operands: 4,
    args: Parts::TEXT,
    consts: &[],
    variants: PLAIN,
};

pub(super) static COLUMN_SUM: Kernel = Kernel {
    entry: "column_sum",
    source: "reduce.cu",
    threads: 256,
    operands: 2,
    args: ColumnSum::TEXT,
    consts: &[],
    variants: PLAIN,
};

/// A tensor that is summed in parts: the output it goes to, and its elements.
pub(super) type Sum = (Operand, usize);

/// No second tensor. What stands in its place is not touched.
pub(super) const NO_SUM: Sum = (In(0), 0);

/// Launches `call`, which writes `parts` partial sums of the elements of two tensors to the operands it is given, and adds
/// them in order.
pub(super) fn summed<'a>(
    mut gpu: GpuCalls<'a>,
    parts: usize,
    sums: [Sum; 2],
    call: impl FnOnce(GpuCalls<'a>, [Operand; 2]) -> GpuCalls<'a>,
) -> GpuCalls<'a> {
    let [(one, n), (other, more)] = sums;
    if parts == 1 {
        return call(gpu, [one, other]);
    }
    let all = sums.map(|(_, n)| gpu.scratch(4 * parts * n));
    let place = |i: usize, access| if sums[i].1 == 0 { sums[i].0 } else { Scratch(all[i], access) };
    let args = Parts { n: index(n) as u32, more: index(more) as u32, parts: parts as u32 };
    let [first, second] = [[place(0, Access::Read), one], [place(1, Access::Read), other]];
    // `other` may be of 16 bits where there is no second tensor.
    let operands = [first, if more == 0 { first } else { second }].concat();
    let gpu = call(gpu, [0, 1].map(|i| place(i, Access::Write)));
    gpu.call(&SPLIT_SUM, &[], [(n + more).div_ceil(256), 1], &operands, args)
}

/// `to` [n] = the sum over the rows of `from` [rows,n].
pub(super) fn column_sums(gpu: GpuCalls, from: Operand, to: Operand, rows: usize, n: usize) -> GpuCalls {
    let blocks = n.div_ceil(32);
    let (parts, part) = parts(blocks, rows, 1);
    let args = ColumnSum { rows: index(rows), n: index(n), part: index(part) };
    summed(gpu, parts, [(to, n), NO_SUM], |gpu, [to, _]| gpu.call(&COLUMN_SUM, &[], [blocks, parts], &[from, to], args))
}

/// A number that kernels index with. What does not fit is larger than any GPU's memory allows for, or a bug.
pub(super) fn index(n: usize) -> i32 {
    // Indices run on to the end of a tile.
    assert!(n < (1 << 31) - 4096, "{n} is too large for a kernel's index");
    n as i32
}

/// The third input, bias or mask, or what stands in its place where the kernel is told that there is none.
pub(super) fn bias_or_mask_operand(third: bool) -> Operand {
    In(if third { 2 } else { 1 })
}
