//! How far pictures of one condition are from each other: what keeps a generator from making the same one for every noise.

use super::scalar;
use crate::error::{Error, Result};
use crate::graph::Operand::{self, In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::launch::gpu::{Access, CudaStruct, Divisor, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::ops::{Bound, Case, Draw};
use crate::par;
use crate::shape::Type;

crate::cuda_struct! {
    /// Pairs of rows, and elements of a row.
    pub struct Pairs { pairs: u32, d: Divisor }
}

pub(super) static ROWS: Kernel = Kernel::new("apart.cu", "apart_rows", 3, Pairs::TEXT);
pub(super) static SUM: Kernel = Kernel::new("apart.cu", "apart", 2, Pairs::TEXT);
pub(super) static GRAD: Kernel = Kernel::new("apart.cu", "apart_grad", 4, Pairs::TEXT);

/// y [1] = the mean over pairs p of w[p] times the mean absolute difference of x's rows 2p and 2p + 1; inputs x [2P,..] and w
/// [P]. With w = 1 / |z1 - z2| it is the ratio that Mao et al. 2019 (*Mode seeking generative adversarial networks*) raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Apart;

impl Pairs {
    fn of(x: &Type) -> Self {
        Self { pairs: count(x.dims()[0] / 2), d: Divisor::new(x.row()) }
    }
}

fn check(x: &Type, w: &Type) -> Result<()> {
    match x.dims() {
        [n, ..] if x.dims().len() > 1 && n % 2 == 0 && w.dims() == [n / 2] && *x == Type::f32(x.dims()) => Ok(()),
        _ => Err(Error::job("x [2P,..] and weights of the pairs [P] are needed")),
    }
}

/// 1 / (pairs x elements of a row): the two means.
fn share(x: &Type) -> f64 {
    2.0 / x.numel() as f64
}

impl Op for Apart {
    fn describe(&self) -> Description {
        Description::of("apart")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        check(&ins[0], &ins[1])?;
        Ok(vec![Type::f32(&[1])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let d = io.ins[0].row();
        let pair = |(x, w): (&[f64], &f64)| w * (0..d).map(|i| (x[i] - x[d + i]).abs()).sum::<f64>();
        outs[0][0] = share(&io.ins[0]) * ins[0].chunks_exact(2 * d).zip(ins[1]).map(pair).sum::<f64>();
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(ApartGrad, &[n.ins[0], n.ins[1], dy])), None])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (d, share) = (io.ins[0].row(), share(&io.ins[0]));
        host_launches(self, io, group, 0, move |h| {
            let (x, w) = (h.input::<f32>(0), h.input::<f32>(1));
            let mut parts = vec![0.0; w.len()];
            par::heavy_rows_mut(&mut parts, 1, w.len(), 2 * d, |p, part: &mut [f64]| {
                let (a, b) = x[2 * p * d..][..2 * d].split_at(d);
                part[0] = w[p] as f64 * a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).abs()).sum::<f64>();
            });
            h.output::<f32>(0)[0] = (share * parts.iter().sum::<f64>()) as f32;
        })
    }
    fn gpu(&self, mut gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = Pairs::of(&io.ins[0]);
        let parts = gpu.scratch(8 * args.pairs as usize);
        let [written, read] = [Access::Write, Access::Read].map(|access| Operand::Scratch(parts, access));
        gpu.call(&ROWS, &[], [args.pairs as usize, 1], &[In(0), In(1), written], args)
            .call(&SUM, &[], [1, 1], &[read, Out(0)], args)
            .done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// dx of [`Apart`]: w[p] sign(x[2p] - x[2p + 1]) dy by both means for row 2p, and minus that for row 2p + 1; 0 where they are equal.
/// Inputs x, w, dy [1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApartGrad;

impl Op for ApartGrad {
    fn describe(&self) -> Description {
        Description::of("apart.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        check(&ins[0], &ins[1])?;
        scalar(&ins[2])?;
        Ok(vec![ins[0]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (d, share) = (io.ins[0].row(), share(&io.ins[0]));
        for (i, dx) in outs[0].iter_mut().enumerate() {
            let other = if i / d % 2 == 0 { i + d } else { i - d };
            let e = ins[0][i] - ins[0][other];
            *dx = if e == 0.0 { 0.0 } else { share * ins[1][i / d / 2] * e.signum() * ins[2][0] };
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (rows, d, share) = (io.ins[0].dims()[0], io.ins[0].row(), share(&io.ins[0]));
        host_launches(self, io, group, 0, move |h| {
            let (x, w, dy) = (h.input::<f32>(0), h.input::<f32>(1), h.input::<f32>(2)[0]);
            par::rows_mut(h.output::<f32>(0), d, rows, |n, dx| {
                let by = (share * w[n / 2] as f64 * dy as f64) as f32;
                let (own, other) = (&x[n * d..][..d], &x[(n ^ 1) * d..][..d]);
                for ((dx, a), b) in dx.iter_mut().zip(own).zip(other) {
                    // A difference that is no number stays one.
                    let e = a - b;
                    *dx = if e == 0.0 { 0.0 } else { by * e.signum() };
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let operands = [In(0), In(1), In(2), Out(0)];
        gpu.each(&GRAD, &[], io.ins[0].numel(), &operands, Pairs::of(&io.ins[0])).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    // The last has more elements in a row than a block has threads.
    for dims in [&[2, 5][..], &[6, 3, 2, 3], &[4, 301]] {
        let (x, w, one) = (Type::f32(dims), Type::f32(&[dims[0] / 2]), Type::f32(&[1]));
        let label = format!("{dims:?}");
        // Distinct values: no difference is so small that a step goes past its kink.
        let case = Case::new(&label, Apart, &[x, w], &[0], Bound::Ulps(4));
        cases.push(case.draw(0, Draw::Distinct).draw(1, Draw::Positive));
        cases.push(Case::new(&label, ApartGrad, &[x, w, one], &[], Bound::Ulps(4)).draw(1, Draw::Positive));
    }
    cases
}
