/*! Work that does nothing but work: what a device can do at most is measured with it ([`crate::device::Device::ceilings`]).
Ops like all others, so that the same checks run over them and the same compiled kernels are exported. */

use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Gpu, Io, Member, Op, host_launches, traffic};
use crate::host::pointwise;
use crate::kernel::gpu::{Count, CudaStruct, Kernel, count};
use crate::kernel::{Cost, Launch, Simd};
use crate::par;
use crate::shape::Type;

crate::cuda_struct! {
    /// Elements, and how many multiply-adds each of them goes through.
    pub struct Turns { n: u32, turns: u32 }
}

static CHAIN: Kernel = Kernel::new("ceiling.cu", "ceiling_chain", 3, Turns::TEXT);
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
    fn name(&self) -> &'static str {
        "ceiling.chain"
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
    fn host(&self, io: &Io, group: &[Member], simd: Simd) -> Vec<Launch> {
        let turns = self.turns;
        host_launches(self, io, group, 0, move |h| {
            let by: &[f32] = h.input(1);
            let (s, t) = (by[0], by[1]);
            pointwise::map(simd, h.input(0), h.output(0), |x| (0..turns).fold(x, |x, _| s * x + t))
        })
    }
    fn gpu(&self, io: &Io, group: &[Member]) -> Vec<Launch> {
        let n = io.outs[0].numel();
        let args = Turns { n: count(n), turns: count(self.turns) };
        Gpu::new(self, io, group).each(&CHAIN, &[], n.div_ceil(CHAINS), &[In(0), In(1), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * (self.turns * io.outs[0].numel()) as f64, ..traffic(io) }
    }
}

/// y[p] = sum of x[p][i] over i; input x [P,I], I a multiple of 4: reads much and writes next to nothing.
#[derive(Debug, Clone, Copy)]
pub struct RowSum;

impl Op for RowSum {
    fn name(&self) -> &'static str {
        "ceiling.row_sum"
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
    fn host(&self, io: &Io, group: &[Member], _: Simd) -> Vec<Launch> {
        let width = io.ins[0].row();
        host_launches(self, io, group, 0, move |h| {
            let x: &[f32] = h.input(0);
            par::pieces_mut(h.output(0), 1, |row, y: &mut [f32]| y[0] = x[row * width..][..width].iter().sum());
        })
    }
    fn gpu(&self, io: &Io, group: &[Member]) -> Vec<Launch> {
        let args = Count { n: count(io.ins[0].row()) };
        Gpu::new(self, io, group).call(&ROW_SUM, &[], [io.ins[0].dims()[0], 1], &[In(0), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// y = b + 3 c, equal shapes: the triad of STREAM (McCalpin 1995).
#[derive(Debug, Clone, Copy)]
pub struct Triad;

impl Op for Triad {
    fn name(&self) -> &'static str {
        "ceiling.triad"
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
    fn host(&self, io: &Io, group: &[Member], simd: Simd) -> Vec<Launch> {
        host_launches(self, io, group, 0, move |h| {
            pointwise::map2(simd, h.input(0), h.input(1), h.output(0), |b, c| b + 3.0 * c)
        })
    }
    fn gpu(&self, io: &Io, group: &[Member]) -> Vec<Launch> {
        Gpu::new(self, io, group).map(&TRIAD, &[], &[In(0), In(1), Out(0)], |n| Count { n }).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family = Family {
    name: "ceiling",
    ops: &["ceiling.chain", "ceiling.row_sum", "ceiling.triad"],
    kernels: &[&CHAIN, &ROW_SUM, &TRIAD],
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
    vec![chain(3), chain(37), rows(3, 20), rows(2, 9236), triad]
}
