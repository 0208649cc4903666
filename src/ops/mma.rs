/*! Products of matrices on tensor cores (`kernels/mma/`): operands of 16 bits, or float32 ones as tf32; float32 sums. Which
tile, by shape alone. */

use super::tile::Tile;
use crate::graph::{GpuCalls, Op};
use crate::launch::Products;
use crate::launch::choices::Product;
use crate::launch::estimate::Price;
use crate::launch::gpu::Kernel;
use crate::shape::{DType, Type};

/// Names of a tile's compile-time constants: a table of them is the list of a kernel's variants. `BM` x `BN` elements of
/// the product by one block, `BK` of the depth per stage, `STAGES` of them in shared memory at once, `VEC` elements of an
/// operand per copy, [`DType::code`] of the operands, products that make up one ([`Factors`]), and the bytes of shared memory
/// that a launch gives each block.
pub(super) const CONSTS: &[&str] = &["BM", "BN", "BK", "STAGES", "VEC", "STORAGE", "TERMS", "SHARED"];

const fn row([m, n, k]: [i64; 3], stages: i64, vec: i64, storage: i64) -> [i64; 8] {
    [m, n, k, stages, vec, storage, 1, stages * k * (m + n) * 2]
}

/// Of float32. An operand that lies across the depth takes 32 bytes more for each of it.
const fn float([m, n, k]: [i64; 3], stages: i64, vec: i64, terms: i64) -> [i64; 8] {
    let (loaded, staged) = (stages * k * (4 * (m + n) + 2 * 32), 4 * m * (n + 8));
    [m, n, k, stages, vec, 0, terms, if loaded > staged { loaded } else { staged }]
}

/// Every tile, large before small. A tile that the rule takes for no layer of any network here, on cards with much shared memory
/// or little, is not among those of a kernel.
const TILES: &[&[i64]] = &[
    // For many pixels and few filters, and for few pixels.
    &row([256, 128, 32], 4, 8, 1),
    &row([256, 64, 32], 3, 8, 1),
    &row([32, 64, 64], 3, 8, 1),
    &row([256, 128, 32], 4, 8, 2),
    &row([256, 64, 32], 3, 8, 2),
    &row([32, 64, 64], 3, 8, 2),
    &float([128, 64, 16], 4, 4, 3),
    // For pictures, whose three channels are gathered.
    &row([128, 64, 32], 3, 1, 1),
    &row([128, 64, 32], 3, 1, 2),
    // For all.
    &row([128, 256, 64], 3, 8, 1),
    &row([128, 256, 32], 4, 8, 1),
    &row([128, 128, 64], 3, 8, 1),
    &row([128, 128, 32], 4, 8, 1),
    &row([128, 64, 32], 4, 8, 1),
    &row([64, 64, 32], 4, 8, 1),
    &row([64, 64, 32], 3, 1, 1),
    &row([128, 256, 64], 3, 8, 2),
    &row([128, 256, 32], 4, 8, 2),
    &row([128, 128, 64], 3, 8, 2),
    &row([128, 128, 32], 4, 8, 2),
    &row([128, 64, 32], 4, 8, 2),
    &row([64, 64, 32], 4, 8, 2),
    &row([64, 64, 32], 3, 1, 2),
    &float([64, 64, 16], 4, 4, 3),
    &float([64, 64, 16], 3, 1, 3),
    &float([128, 128, 16], 4, 4, 1),
    &float([128, 64, 16], 4, 4, 1),
    &float([64, 64, 16], 4, 4, 1),
    &float([64, 64, 16], 3, 1, 1),
    // For few filters and what many taps see.
    &row([64, 256, 32], 3, 8, 1),
    &row([64, 256, 32], 3, 8, 2),
];

/// Tiles of pixels by filters or channels.
pub(super) const PIXELS: &[&[i64]] = TILES.split_at(TILES.len() - 2).0;

/// Tiles of filters by taps and channels.
pub(super) const FILTERS: &[&[i64]] = TILES.split_at(7).1;

/// Tiles of dense layers, whose batches have few rows, and whose widths are multiples of what is copied at once.
pub(super) const MATRICES: &[&[i64]] = PIXELS.split_at(9).1;

/// What tensor cores multiply: how the operands are stored, and of how many products one is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Factors {
    pub storage: DType,
    terms: i64,
}

impl Factors {
    /// None where float32 is multiplied by multiply-adds.
    pub fn of(storage: DType, products: Products) -> Option<Self> {
        let terms = match products {
            _ if storage.is_half() => 1,
            Products::Float32 => return None,
            Products::Tf32x3 => 3,
            Products::Tf32 => 1,
        };
        Some(Self { storage, terms })
    }
}

/// How the operands lie in memory where an op's arithmetic is products of matrices, which tensor cores do in 16 bits;
/// float32 elsewhere, where arithmetic is that of float32.
pub fn storage(op: &dyn Op, ins: &[Type]) -> DType {
    let product = op.describe().role.multiplies();
    ins.iter().map(|t| t.dtype).find(|d| product && d.is_half()).unwrap_or(DType::F32)
}

/// `copies` products of m x n x depth an instance, whose operands are copied along the `aligned` extents.
pub(super) fn product(
    kernel: &'static Kernel,
    Factors { storage, terms }: Factors,
    aligned: &[usize],
    extents: [usize; 3],
    copies: usize,
) -> Product {
    let chunk = 16 / storage.bytes();
    let vec = if aligned.iter().all(|e| e.is_multiple_of(chunk)) { chunk as i64 } else { 1 };
    let given = vec![("VEC", vec), ("STORAGE", storage.code()), ("TERMS", terms)];
    Product { kernel, given, extents, copies }
}

/// The tile of a [`product`]. It changes the speed, not the bits.
pub(super) fn tile(gpu: &mut GpuCalls, product: Product) -> Tile {
    Tile::new(gpu.tile(product, price))
}

/// Multiply-adds of 16 bits per clock that mma.sync gets out of a multiprocessor, twice those of tf32: 62 % of an H100's 2048
/// (arXiv 2402.13499).
const PRODUCTS: f64 = 1270.0;

/// Bytes per clock of a multiprocessor's shared memory.
pub(super) const SHARED: f64 = 128.0;

/// Instructions to bring one element where operands are gathered, by the source: its place, whether it is there, load, pack.
const GATHER: f64 = 12.0;

/// Of one lane each, per clock and multiprocessor.
const INSTRUCTIONS: f64 = 128.0;

/// `kernels/mma/multiply.cuh`: products, or what goes into shared memory once and out of it to eight warps.
pub(super) fn price(consts: &[i64]) -> Price {
    let [m, n, _, _, vec, storage, terms, shared] = consts[..] else { unreachable!("CONSTS") };
    let size = if storage == DType::F32.code() { 4 } else { 2 };
    // WARPS_N
    let across = if m < 64 || (n >= 128 && m <= n) { 4 } else { 2 };
    let warps = 8 * (m * across / 8 + n / across);
    let gather = if vec == 1 { GATHER * (m + n) as f64 / INSTRUCTIONS } else { 0.0 };
    Price {
        tile: [m as usize, n as usize],
        products: (terms * m * n * size / 2) as f64 / PRODUCTS,
        shared: gather.max((size * (m + n + warps)) as f64 / SHARED),
        bytes: (size * (m + n)) as f64,
        results: (size * m * n) as f64,
        // RESIDENT in kernels/mma/warp.cuh
        resident: if shared <= 72 << 10 { 2 } else { 1 },
        last: 0.0,
    }
}

/// Every tile's depth per stage divides it, so that what is cut by it does not depend on the tile.
pub(super) const STEP: usize = 64;

/// Kernels that are compiled for both 16-bit types.
pub(super) const STORAGES: (&[&str], &[&[i64]]) = (&["STORAGE"], &[&[1], &[2]]);

/// What becomes of a sum.
#[derive(Clone, Copy)]
pub(super) struct After {
    /// The input that is its bias, a number for each column.
    pub bias: Option<usize>,
    pub relu: bool,
    /// The input that is its mask, ReLU's result or that of dropout behind ReLU: 0 where that is not positive.
    pub mask: Option<usize>,
    /// The input that is the state of the generator, where dropout follows.
    pub state: Option<usize>,
    /// What is kept by the dropout that follows, or that the mask went through; 1 without one.
    pub keep: f32,
    /// How the result is stored, where that is another type than the operands'.
    pub to: Option<DType>,
}

impl After {
    pub const NOTHING: After = After { bias: None, relu: false, mask: None, state: None, keep: 1.0, to: None };
}
