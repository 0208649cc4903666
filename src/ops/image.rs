/*! From bytes to what a tower was trained on. */

use super::cast::Cast;
use super::fuse::{FusionRule, Stage, Uses, is};
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Kernel, STORED, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::preprocess::{Order, Preprocess};
use crate::shape::{DType, Type};

crate::cuda_struct! {
    /// Elements, and for each of four networks what is done to each of the three channels.
    pub struct Preprocessing { n: u32, bgr: [u32; 4], scale: [f32; 4], mean: [f32; 12], std: [f32; 12] }
}

crate::cuda_struct! {
    /// Rows of a table, and what a thread moves of one.
    pub struct Picking { units: u32, rows: u32 }
}

/// Bytes that a thread moves.
const BYTES: (&[&str], &[&[i64]]) = (&["BYTES"], &[&[1], &[16]]);

static GATHER: Kernel = Kernel::new("gather.cu", "image_gather", 3, Picking::TEXT).with(BYTES);
static NORMALIZE: Kernel = Kernel::new("image.cu", "image_normalize", 2 * INPUTS, Preprocessing::TEXT).with(STORED);

/// y [N,H,W,3] = table[rows]: of all pictures [M,H,W,3] those of a batch, by rows U32 [N]. Numbers from M up are the last
/// row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gather;

impl Gather {
    fn row(row: usize, table: &Type) -> usize {
        row.min(table.dims()[0] - 1)
    }
}

impl Op for Gather {
    fn describe(&self) -> Description {
        Description::of("image.gather")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match (ins[0].dtype, ins[0].dims(), ins[1].dtype, ins[1].dims()) {
            (DType::U8, &[m, h, w, 3], DType::U32, &[n]) if m > 0 => Ok(vec![Type::new(DType::U8, &[n, h, w, 3])]),
            _ => Err(Error::job("u8 images [M,H,W,3] and rows of them (U32 [N]) are needed")),
        }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let width = io.ins[0].row();
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = ins[0][Self::row(ins[1][i / width] as usize, &io.ins[0]) * width + i % width];
        }
    }
    /// Bytes have no gradient.
    fn grad(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None; 2])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (table, n, width) = (io.ins[0], io.outs[0].dims()[0], io.outs[0].row());
        host_launches(self, io, group, 0, move |h| {
            let (x, rows) = (h.input::<u8>(0), h.input::<u32>(1));
            par::rows_mut(h.output::<u8>(0), width, n, |i, y| {
                y.copy_from_slice(&x[Self::row(rows[i] as usize, &table) * width..][..width]);
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (n, width) = (io.outs[0].dims()[0], io.outs[0].row());
        let bytes = if width.is_multiple_of(16) { 16 } else { 1 };
        let args = Picking { units: count(width / bytes), rows: count(io.ins[0].dims()[0]) };
        let grid = [(width / bytes).div_ceil(GATHER.threads as usize), n];
        gpu.call(&GATHER, &[bytes as i64], grid, &[In(0), In(1), Out(0)], args).done()
    }
    /// Rows, and what one has.
    fn counted(&self, io: &Io) -> usize {
        io.ins[0].dims()[0].max(io.ins[0].row())
    }
    fn cost(&self, io: &Io) -> Cost {
        let bytes = io.outs[0].bytes() as f64;
        Cost { flops: 0.0, read: bytes + io.ins[1].bytes() as f64, write: bytes }
    }
}

/// y [N,H,W,3] = (x[order(c)] scale - mean[c]) / std[c] of u8 RGB images x [N,H,W,3].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalize {
    pub order: Order,
    pub scale: f32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl From<&Preprocess> for Normalize {
    fn from(p: &Preprocess) -> Self {
        Self { order: p.order, scale: p.scale, mean: p.mean, std: p.std }
    }
}

impl Normalize {
    fn source(&self, c: usize) -> usize {
        match self.order {
            Order::Rgb => c,
            Order::Bgr => 2 - c,
        }
    }
    fn value(&self, c: usize, x: f64) -> f64 {
        (x * self.scale as f64 - self.mean[c] as f64) / self.std[c] as f64
    }
    /// There are only 256 bytes: one table per channel, computed once.
    fn table(&self) -> Vec<[f32; 3]> {
        (0..256).map(|b| [0, 1, 2].map(|c| (b as f32 * self.scale - self.mean[c]) / self.std[c])).collect()
    }
}

impl Op for Normalize {
    fn describe(&self) -> Description {
        Description::of("image.normalize")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Inputs { each: vec![*self], to: DType::F32 }.infer(ins)
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        Inputs { each: vec![*self], to: DType::F32 }.eval(io, ins, outs)
    }
    /// Bytes have no gradient.
    fn grad(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        normalize(self, vec![*self], io, group)
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        Inputs { each: vec![*self], to: DType::F32 }.gpu(gpu, io)
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 3.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

/// Host launches that make output i of input i as `each[i]` says.
fn normalize(op: &dyn Op, each: Vec<Normalize>, io: &Io, group: &[Instance]) -> Vec<Launch> {
    let tables: Vec<_> = each.iter().map(Normalize::table).collect();
    let (rows, width) = (io.ins[0].dims()[0] * io.ins[0].dims()[1], io.ins[0].dims()[2] * 3);
    host_launches(op, io, group, 0, move |h| {
        for (i, (own, table)) in each.iter().zip(&tables).enumerate() {
            let x = h.input::<u8>(i);
            par::rows_mut(h.output::<f32>(i), width, rows, |row, y| {
                for (x, y) in x[row * width..][..width].chunks_exact(3).zip(y.chunks_exact_mut(3)) {
                    for c in 0..3 {
                        y[c] = table[x[own.source(c)] as usize][c];
                    }
                }
            })
        }
    })
}

/// Networks that a launch prepares images for.
pub const INPUTS: usize = 4;

/// The inputs of one to four networks: what [`Normalize`] of each makes of its own images, all of one size, stored as `to`. Some
/// may have the same images.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    pub each: Vec<Normalize>,
    pub to: DType,
}

impl Op for Inputs {
    fn describe(&self) -> Description {
        Description::of("image.inputs")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let alike = ins.len() == self.each.len() && ins.iter().all(|x| x == &ins[0]) && self.to.is_float();
        match (ins[0].dtype, ins[0].dims()) {
            (DType::U8, [_, _, _, 3]) if alike && ins.len() <= INPUTS => Ok(vec![ins[0].of(self.to); ins.len()]),
            _ => Err(Error::job("u8 images [N,H,W,3] of one size are needed, for each of one to four networks")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for ((own, x), y) in self.each.iter().zip(ins).zip(outs) {
            for (i, y) in y.iter_mut().enumerate() {
                let c = i % 3;
                *y = own.value(c, x[i - c + own.source(c)]);
            }
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        normalize(self, self.each.clone(), io, group)
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let own = |i: usize| self.each.get(i).unwrap_or(&self.each[0]);
        let n = io.outs[0].numel();
        let args = Preprocessing {
            n: n as u32,
            bgr: std::array::from_fn(|i| (own(i).order == Order::Bgr) as u32),
            scale: std::array::from_fn(|i| own(i).scale),
            mean: std::array::from_fn(|i| own(i / 3).mean[i % 3]),
            std: std::array::from_fn(|i| own(i / 3).std[i % 3]),
        };
        // What stands in the place of a network that there is not is not touched.
        let operand = |i: usize| match i % INPUTS < self.each.len() {
            true if i < INPUTS => In(i),
            true => Out(i - INPUTS),
            false => In(0),
        };
        let operands: Vec<_> = (0..2 * INPUTS).map(operand).collect();
        let (grid, consts) = ([n.div_ceil(4 * NORMALIZE.threads as usize), self.each.len()], [self.to.code()]);
        gpu.call(&NORMALIZE, &consts, grid, &operands, args).done()
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 3.0 * (io.outs[0].numel() * self.each.len()) as f64, ..traffic(io) }
    }
}

/// image.normalize and cast, of several networks, become image.inputs, in the place of the first.
fn fuse_inputs(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(Normalize { .. }) = is(&g.nodes()[at]) else { return };
    let ty = g.ty(g.nodes()[at].ins[0]);
    // What one plan needs is not made by another, and their images must be there when the first of them runs.
    let own = |i: &usize| {
        let n = &g.nodes()[*i];
        is::<Normalize>(n).is_some()
            && uses.know(n)
            && g.ty(n.ins[0]) == ty
            && uses.lists[*i] == uses.lists[at]
            && uses.writer[n.ins[0].i()].is_none_or(|w| w < at)
    };
    let later = uses.needed.iter().copied().filter(|i| *i >= at);
    let mut nodes: Vec<usize> = later.filter(own).take(INPUTS).collect();
    // Of every network: its image, what is made of that, and how it is stored.
    let (mut each, mut ins, mut outs) = (vec![], vec![], vec![]);
    for i in nodes.clone() {
        let (x, y) = (g.nodes()[i].ins[0], g.nodes()[i].outs[0]);
        let cast = uses.readers(y).first().filter(|_| uses.readers(y).len() == 1);
        let cast = cast.filter(|c| is::<Cast>(&g.nodes()[**c]).is_some());
        each.extend(is::<Normalize>(&g.nodes()[i]).copied());
        ins.push(x);
        outs.push(cast.map_or(y, |c| g.nodes()[*c].outs[0]));
        nodes.extend(cast);
    }
    let to = g.ty(outs[0]).dtype;
    if nodes.len() > 1 && outs.iter().all(|y| g.ty(*y).dtype == to) {
        nodes.iter().for_each(|n| g.retire(*n));
        g.replace(at, at, Inputs { each, to }, &ins, &outs);
    }
}

pub const FAMILY: Family = Family {
    name: "image",
    ops: &["image.gather", "image.normalize", "image.inputs"],
    kernels: &[&GATHER, &NORMALIZE],
    fuse: &[FusionRule::Node(Stage::Ends, fuse_inputs)],
    cases,
};

fn cases() -> Vec<Case> {
    let x = Type::new(DType::U8, &[2, 5, 7, 3]);
    // The largest magnitude (about 2.6 after division, 152 before) bounds the rounding of product and difference.
    let normalize =
        |(name, p, _): &(&str, Preprocess, _)| Case::new(*name, Normalize::from(p), &[x], &[], Bound::Ulps(8));
    // Of seven rows; some that are asked for do not exist.
    let gather = |(n, side): (usize, usize)| {
        let ins = [Type::new(DType::U8, &[7, side, side, 3]), Type::new(DType::U32, &[n])];
        Case::new(format!("{n} of 7x{side}"), Gather, &ins, &[], Bound::Exact).draw(1, Draw::Below(9))
    };
    // Several networks, of any presets.
    let inputs = |(n, to): (usize, DType)| {
        let of = |(_, p, _): &(&str, Preprocess, _)| Normalize::from(p);
        let each: Vec<_> = crate::preprocess::PRESETS.iter().rev().cycle().skip(n % 2).take(n).map(of).collect();
        Case::new(format!("{n} {to:?}"), Inputs { each, to }, &vec![x; n], &[], Bound::Ulps(8))
    };
    let inputs = [(1, DType::BF16), (2, DType::F32), (3, DType::F16), (4, DType::BF16)].map(inputs);
    let all = crate::preprocess::PRESETS.iter().map(normalize).chain([(5, 5), (9, 12), (3, 40)].map(gather));
    all.chain(inputs).collect()
}
