/*! Work that does nothing but work: what a device can do at most is measured with it ([`crate::device::Device::ceilings`]).
Ops like all others, so that the same checks run over them and the same compiled kernels are exported. */

use super::{Bound, Case, Draw, Family, mma};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Instance, Io, Op, host_launches, traffic};
use crate::host::pointwise;
use crate::launch::gpu::{Count, CudaStruct, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::{DType, Type};

crate::cuda_struct! {
    /// Elements, or sixteen rows of them, and how many multiply-adds or products each of them goes through.
    pub struct Turns { n: u32, turns: u32 }
}

static CHAIN: Kernel = Kernel::new("ceiling.cu", "ceiling_chain", 3, Turns::TEXT);
static PRODUCT: Kernel = Kernel::new("mma/ceiling.cu", "ceiling_product", 3, Turns::TEXT).with(mma::STORAGES);
static ROW_SUM: Kernel = Kernel::new("ceiling.cu", "ceiling_row_sum", 2, Count::TEXT);
static TRIAD: Kernel = Kernel::new("ceiling.cu", "ceiling_triad", 3, Count::TEXT);

/// Elements that a thread of [`CHAIN`] has in its registers: chains side by side hide the latency of one.
const CHAINS: usize = 8;

/// y = x after so many turns of x = s x + t, element by element; inputs x [N], (s, t) [2].
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    pub turns: usize,
}

impl Op for Chain {
    fn describe(&self) -> Description {
        Description::of("ceiling.chain")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [x, by] if by.numel() == 2 => Ok(vec![*x]),
            _ => Err(Error::job("x and two numbers are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (s, t) = (ins[1][0], ins[1][1]);
        outs[0].iter_mut().zip(ins[0]).for_each(|(y, x)| *y = (0..self.turns).fold(*x, |x, _| s * x + t));
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let turns = self.turns;
        host_launches(self, io, group, 0, move |h| {
            let by: &[f32] = h.input(1);
            let (s, t) = (by[0], by[1]);
            pointwise::map(simd, h.input(0), h.output(0), |x| (0..turns).fold(x, |x, _| s * x + t))
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let n = io.outs[0].numel();
        let args = Turns { n: count(n), turns: count(self.turns) };
        gpu.each(&CHAIN, &[], n.div_ceil(CHAINS), &[In(0), In(1), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * (self.turns * io.outs[0].numel()) as f64, ..traffic(io) }
    }
}

/// y = x w^T on tensor cores, added up so many times; inputs x [M,16], w [64,16] of the same 16-bit type, M a multiple of
/// 16; y [M,64] in float32. By the instruction that the kernels of `kernels/mma/` use, on operands in registers.
#[derive(Debug, Clone, Copy)]
pub struct TileProduct {
    pub turns: usize,
}

impl TileProduct {
    /// Rows of x that a warp has, and their length; columns of y.
    pub const SIDE: usize = 16;
    pub const COLUMNS: usize = 64;
}

impl Op for TileProduct {
    fn describe(&self) -> Description {
        Description::of("ceiling.product")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let [x, w] = ins else { return Err(Error::job("x and w are needed")) };
        match (x.dims(), w.dims()) {
            (&[m, Self::SIDE], &[Self::COLUMNS, Self::SIDE])
                if m.is_multiple_of(Self::SIDE) && x.dtype.is_half() && x.dtype == w.dtype =>
            {
                Ok(vec![Type::f32(&[m, Self::COLUMNS])])
            }
            _ => Err(Error::job("sixteen-bit x [16 n,16] and w [64,16] are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        for (y, x) in outs[0].chunks_mut(Self::COLUMNS).zip(ins[0].chunks(Self::SIDE)) {
            let products = ins[1].chunks(Self::SIDE).map(|w| self.turns as f64 * dot(x, w));
            y.iter_mut().zip(products).for_each(|(y, product)| *y = product);
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let turns = self.turns as f32;
        host_launches(self, io, group, 0, move |h| {
            let (x, w): (&[f32], &[f32]) = (h.input(0), h.input(1));
            par::pieces_mut(h.output(0), Self::COLUMNS, |row, y: &mut [f32]| {
                let x = &x[row * Self::SIDE..][..Self::SIDE];
                let dot = |w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
                y.iter_mut().zip(w.chunks(Self::SIDE)).for_each(|(y, w)| *y = turns * dot(w));
            });
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        /// A tile for each of a block's eight warps.
        const TILES: usize = 8;
        let tiles = io.ins[0].dims()[0] / Self::SIDE;
        let (args, storage) = (Turns { n: count(tiles), turns: count(self.turns) }, [io.ins[0].dtype.code()]);
        let grid = [tiles.div_ceil(TILES), 1];
        gpu.call(&PRODUCT, &storage, grid, &[In(0), In(1), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * (Self::SIDE * self.turns * io.outs[0].numel()) as f64, ..traffic(io) }
    }
}

/// y[p] = sum of x[p][i] over i; input x [P,I], I a multiple of 4: reads much and writes next to nothing.
#[derive(Debug, Clone, Copy)]
pub struct RowSum;

impl Op for RowSum {
    fn describe(&self) -> Description {
        Description::of("ceiling.row_sum")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins[0].dims() {
            &[p, i] if i.is_multiple_of(4) => Ok(vec![Type::f32(&[p])]),
            _ => Err(Error::job("rows of a multiple of four numbers are needed")),
        }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].iter_mut().zip(ins[0].chunks(io.ins[0].row())).for_each(|(y, x)| *y = x.iter().sum());
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let width = io.ins[0].row();
        host_launches(self, io, group, 0, move |h| {
            let x: &[f32] = h.input(0);
            par::pieces_mut(h.output(0), 1, |row, y: &mut [f32]| y[0] = x[row * width..][..width].iter().sum());
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = Count { n: count(io.ins[0].row()) };
        gpu.call(&ROW_SUM, &[], [io.ins[0].dims()[0], 1], &[In(0), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// y = b + 3 c, equal shapes: the triad of STREAM (McCalpin 1995).
#[derive(Debug, Clone, Copy)]
pub struct Triad;

impl Op for Triad {
    fn describe(&self) -> Description {
        Description::of("ceiling.triad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [b, c] if b == c => Ok(vec![*b]),
            _ => Err(Error::job("two equal shapes are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = ins[0][i] + 3.0 * ins[1][i];
        }
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        host_launches(self, io, group, 0, move |h| {
            pointwise::map2(simd, h.input(0), h.input(1), h.output(0), |b, c| b + 3.0 * c)
        })
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        gpu.map(&TRIAD, &[], &[In(0), In(1), Out(0)], |n| Count { n }).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family = Family {
    name: "ceiling",
    ops: &["ceiling.chain", "ceiling.product", "ceiling.row_sum", "ceiling.triad"],
    kernels: &[&CHAIN, &PRODUCT, &ROW_SUM, &TRIAD],
    fuse: &[],
    cases,
};

fn cases() -> Vec<Case> {
    let (x, by) = (Type::f32(&[2083]), Type::f32(&[2]));
    let rows = |p, i| Case::new(format!("{p}x{i}"), RowSum, &[Type::f32(&[p, i])], &[], Bound::Dot(i));
    // Two roundings a turn where multiply and add are apart.
    let chain = |turns| {
        Case::new(format!("2083, {turns} turns"), Chain { turns }, &[x, by], &[], Bound::Ulps(2 * turns))
            .draw(1, Draw::Positive)
    };
    let triad = Case::new("2083", Triad, &[x, x], &[], Bound::Ulps(2));
    // Nine warps: two blocks, the second of which is not full.
    let product = |storage: DType| {
        let ins =
            [[144, TileProduct::SIDE], [TileProduct::COLUMNS, TileProduct::SIDE]].map(|dims| Type::new(storage, &dims));
        let label = format!("{storage:?} 144, 5 turns");
        Case::new(label, TileProduct { turns: 5 }, &ins, &[], Bound::Dot(5 * TileProduct::SIDE))
    };
    let products = [DType::F16, DType::BF16].map(product);
    [chain(3), chain(37), rows(3, 20), rows(2, 9236), triad].into_iter().chain(products).collect()
}
