/*! Products of matrices on tensor cores (`kernels/mma/`): 16-bit operands, float32 sums. Which tile, by shape alone. */

use super::tile::{Tile, index};
use crate::cuda_struct;
use crate::graph::Operand::{self, In, Out, Scratch};
use crate::graph::{Gpu, Op};
use crate::kernel::Launch;
use crate::kernel::choices::Price;
use crate::kernel::gpu::{Access, CudaStruct, Kernel, STORED};
use crate::shape::{DType, Type};

/// Names of a tile's compile-time constants: a table of them is the list of a kernel's variants. `BM` x `BN` elements of
/// the product by one block, `BK` of the depth per stage, `STAGES` of them in shared memory at once, `VEC` elements of an
/// operand per copy, [`DType::code`] of the operands, and the bytes of shared memory that a launch gives each block.
pub(super) const CONSTS: &[&str] = &["BM", "BN", "BK", "STAGES", "VEC", "STORAGE", "SHARED"];

const fn row([m, n, k]: [i64; 3], stages: i64, vec: i64, storage: i64) -> [i64; 7] {
    [m, n, k, stages, vec, storage, stages * k * (m + n) * 2]
}

/// Every tile, for both storages: large before small, those that copy eight elements at once before those that gather.
pub(super) const TILES: &[&[i64]] = &[
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
];

/// How the operands lie in memory where an op's arithmetic is products of matrices, which tensor cores do in 16 bits;
/// float32 elsewhere, where arithmetic is that of float32.
pub fn storage(op: &dyn Op, ins: &[Type]) -> DType {
    let product = matches!(op.name().split('.').next(), Some("conv" | "dense"));
    ins.iter().map(|t| t.dtype).find(|d| product && d.is_half()).unwrap_or(DType::F32)
}

/// The tile of `copies` products of m x n x depth an instance, whose operands are copied along the `aligned` extents. It
/// changes the speed, not the bits.
pub(super) fn tile(
    gpu: &mut Gpu,
    kernel: &'static Kernel,
    storage: DType,
    aligned: &[usize],
    extents: [usize; 3],
    copies: usize,
) -> Tile {
    let vec = if aligned.iter().all(|e| e.is_multiple_of(8)) { 8 } else { 1 };
    Tile::new(gpu.tile(kernel, vec![("VEC", vec), ("STORAGE", storage.code())], extents, copies, price))
}

/// Multiply-adds per clock that mma.sync gets out of a multiprocessor: 62 % of an H100's 2048 (arXiv 2402.13499).
const PRODUCTS: f64 = 1270.0;

/// Bytes per clock of a multiprocessor's shared memory.
const SHARED: f64 = 128.0;

/// `kernels/mma/multiply.cuh`: products, or what goes into shared memory once and out of it to eight warps.
fn price(consts: &[i64]) -> Price {
    let [m, n, _, _, _, _, shared] = consts[..] else { unreachable!("CONSTS") };
    let across = if n >= 128 { 4 } else { 2 };
    let warps = 8 * (m * across / 8 + n / across);
    Price {
        tile: [m as usize, n as usize],
        clocks: ((m * n) as f64 / PRODUCTS).max(2.0 * (m + n + warps) as f64 / SHARED),
        bytes: 2.0 * (m + n) as f64,
        results: 2.0 * (m * n) as f64,
        // RESIDENT in kernels/mma/warp.cuh
        resident: if shared <= 64 << 10 { 2 } else { 1 },
    }
}

/// Every tile's depth per stage divides it, so that what is cut by it does not depend on the tile.
pub(super) const STEP: usize = 64;

cuda_struct! {
    /// Sums [rows,columns] in parts: elements in all, columns, parts; whether there is a bias or a mask, and whether ReLU
    /// follows.
    pub struct SplitAct {
        n: u32,
        columns: u32,
        parts: u32,
        bias: u32,
        mask: u32,
        relu: u32,
    }
}

/// Kernels that are compiled for both 16-bit types.
pub(super) const STORAGES: (&[&str], &[&[i64]]) = (&["STORAGE"], &[&[1], &[2]]);

pub(super) static SPLIT_ACT: Kernel = Kernel::new("split.cu", "split_act", 4, SplitAct::TEXT).with(STORED);

/// What becomes of a sum: the inputs that are its bias, a number for each column, and its mask, 0 where that is not positive.
#[derive(Clone, Copy)]
pub(super) struct After {
    pub bias: Option<usize>,
    pub mask: Option<usize>,
    pub relu: bool,
}

/// Launches `call`, which writes `parts` partial sums of output 0 [rows,columns] in float32 to the operand it is given, adds
/// them in order, and stores what becomes of them as `storage`.
pub(super) fn summed_act<'a>(
    mut gpu: Gpu<'a>,
    storage: DType,
    parts: usize,
    [rows, columns]: [usize; 2],
    after: After,
    call: impl FnOnce(Gpu<'a>, Operand) -> Gpu<'a>,
) -> Vec<Launch> {
    let n = rows * columns;
    let all = gpu.scratch(4 * parts * n);
    let args = SplitAct {
        n: index(n) as u32,
        columns: index(columns) as u32,
        parts: parts as u32,
        bias: after.bias.is_some() as u32,
        mask: after.mask.is_some() as u32,
        relu: after.relu as u32,
    };
    let [bias, mask] = [after.bias, after.mask].map(|i| In(i.unwrap_or(0)));
    let operands = [Scratch(all, Access::Read), bias, mask, Out(0)];
    let gpu = call(gpu, Scratch(all, Access::Write));
    gpu.each(&SPLIT_ACT, &[storage.code()], n, &operands, args).done()
}
