/*! Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3). */

use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Divisor, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::Type;

crate::cuda_struct! {
    /// Elements, channels, the window of channel c from c - before to c + after, and the constants of the formula: alpha is
    /// divided by the size, factor is 2 alpha beta / size.
    pub struct Response {
        n: u32,
        c: Divisor,
        before: i32,
        after: i32,
        k: f32,
        alpha: f32,
        beta: f32,
        factor: f32,
    }
}

static LRN: Kernel = Kernel::new("lrn.cu", "lrn", 2, Response::TEXT);
static LRN_GRAD: Kernel = Kernel::new("lrn.cu", "lrn_grad", 3, Response::TEXT);

/// y[c] = x[c] / d[c]^beta with d[c] = k + alpha / size * the sum of x[j]^2 over the `size` channels from c - size / 2 on;
/// channels that do not exist are 0. x [N,..,C]. PyTorch's and Caffe's convention; the paper's alpha is not divided by the
/// size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lrn {
    pub size: usize,
    pub alpha: f64,
    pub beta: f64,
    pub k: f64,
}

impl Lrn {
    /// Channels under the window of channel `c`.
    fn window(&self, c: usize, channels: usize) -> std::ops::Range<usize> {
        c.saturating_sub(self.size / 2)..(c + self.size.div_ceil(2)).min(channels)
    }
    /// Channels whose window holds channel `j`.
    fn holders(&self, j: usize, channels: usize) -> std::ops::Range<usize> {
        (j + 1).saturating_sub(self.size.div_ceil(2))..(j + self.size / 2 + 1).min(channels)
    }
    fn d(&self, x: &[f64], c: usize) -> f64 {
        let squares: f64 = self.window(c, x.len()).map(|j| x[j] * x[j]).sum();
        self.k + self.alpha / self.size as f64 * squares
    }
    /// What the kernels are told of x. A window holds no more than all channels.
    fn numbers(&self, x: &Type) -> Response {
        let (c, alpha) = (x.channels(), self.alpha / self.size as f64);
        let (before, after) = ((self.size / 2).min(c - 1), (self.size.div_ceil(2) - 1).min(c - 1));
        Response {
            n: count(x.numel()),
            c: Divisor::new(c),
            before: before as i32,
            after: after as i32,
            k: self.k as f32,
            alpha: alpha as f32,
            beta: self.beta as f32,
            factor: (2.0 * alpha * self.beta) as f32,
        }
    }
    /// Channels of a window at most: what kernels count them in has 32 bits, and a network has fewer.
    const SIZE: usize = 1 << 16;

    fn fits(&self) -> Result<()> {
        if !((1..=Self::SIZE).contains(&self.size) && self.k > 0.0 && self.alpha >= 0.0) {
            let most = Self::SIZE;
            return Err(Error::job(format!("size must be 1 to {most}, k positive, alpha not negative: {self:?}")));
        }
        Ok(())
    }
    /// y[c] = the sum of t[c - before ..= c + after].
    fn window_sums(before: usize, after: usize, t: impl Fn(usize) -> f32, y: &mut [f32]) {
        let c = y.len();
        y.fill(0.0);
        // One shift after the other: the loops over channels become vector instructions, the order of additions is fixed.
        for shift in 0..=before + after {
            let (to, from) = (before.saturating_sub(shift), shift.saturating_sub(before));
            let n = c.saturating_sub(to.max(from));
            for (i, y) in y.iter_mut().skip(to).take(n).enumerate() {
                *y += t(from + i);
            }
        }
    }
    /// d of one pixel.
    fn scales(&self, x: &[f32], d: &mut [f32]) {
        Self::window_sums(self.size / 2, self.size.div_ceil(2) - 1, |j| x[j] * x[j], d);
        let (a, k) = ((self.alpha / self.size as f64) as f32, self.k as f32);
        d.iter_mut().for_each(|d| *d = k + a * *d);
    }
    /// d^-beta; the usual beta without a call for each element.
    #[inline(always)]
    fn power(&self, d: f32) -> f32 {
        if self.beta == 0.75 {
            let root = d.sqrt();
            1.0 / (root * root.sqrt())
        } else {
            d.powf(-self.beta as f32)
        }
    }
}

impl Op for Lrn {
    fn describe(&self) -> Description {
        Description::of("lrn")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        self.fits()?;
        Ok(vec![ins[0]])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].channels();
        for (x, y) in ins[0].chunks_exact(c).zip(outs[0].chunks_exact_mut(c)) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = x[i] * self.d(x, i).powf(-self.beta);
            }
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(LrnGrad { of: *self }, &[n.ins[0], dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, c, pixels) = (*self, io.ins[0].channels(), io.ins[0].pixels());
        host_launches(self, io, group, 0, move |h| {
            let x = h.input::<f32>(0);
            par::rows_mut(h.output::<f32>(0), c, pixels, |pixel, y| {
                let x = &x[pixel * c..][..c];
                op.scales(x, y);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x * op.power(*y));
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = self.numbers(&io.ins[0]);
        gpu.each(&LRN, &[], args.n as usize, &[In(0), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: (2.0 * self.size as f64 + 6.0) * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

/// dx[j] = dy[j] d[j]^-beta - 2 alpha beta / size x[j] * the sum of dy[c] x[c] d[c]^(-beta - 1) over the channels c whose
/// window holds j; inputs x, dy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LrnGrad {
    pub of: Lrn,
}

impl Op for LrnGrad {
    fn describe(&self) -> Description {
        Description::of("lrn.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        self.of.fits()?;
        match ins {
            [x, dy] if x.shape == dy.shape => Ok(vec![*x]),
            _ => Err(Error::job("x and dy must have one shape")),
        }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (op, c) = (&self.of, io.ins[0].channels());
        for p in 0..io.ins[0].pixels() {
            let (x, dy) = (&ins[0][p * c..][..c], &ins[1][p * c..][..c]);
            for j in 0..c {
                let held = |i: usize| dy[i] * x[i] * op.d(x, i).powf(-op.beta - 1.0);
                let sum: f64 = op.holders(j, c).map(held).sum();
                let factor = 2.0 * op.alpha * op.beta / op.size as f64;
                outs[0][p * c + j] = dy[j] * op.d(x, j).powf(-op.beta) - factor * x[j] * sum;
            }
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, c, pixels, n) = (self.of, io.ins[0].channels(), io.ins[0].pixels(), io.ins[0].numel());
        let factor = (2.0 * op.alpha * op.beta / op.size as f64) as f32;
        host_launches(self, io, group, 8 * n, move |h| {
            let (x, dy) = (h.input::<f32>(0), h.input::<f32>(1));
            // For each pixel d^-beta, and dy x d^(-beta - 1): what each channel hands to its neighbours.
            let rows = &mut h.scratch::<f32>()[..2 * n];
            par::rows_mut(rows, 2 * c, pixels, |pixel, row| {
                let (x, dy) = (&x[pixel * c..][..c], &dy[pixel * c..][..c]);
                let (power, term) = row.split_at_mut(c);
                op.scales(x, power);
                for i in 0..c {
                    let d = power[i];
                    power[i] = op.power(d);
                    term[i] = dy[i] * x[i] * (power[i] / d);
                }
            });
            let rows = &*rows;
            par::rows_mut(h.output::<f32>(0), c, pixels, |pixel, dx| {
                let (x, dy) = (&x[pixel * c..][..c], &dy[pixel * c..][..c]);
                let (power, term) = rows[2 * pixel * c..][..2 * c].split_at(c);
                Lrn::window_sums(op.size.div_ceil(2) - 1, op.size / 2, |i| term[i], dx);
                for j in 0..c {
                    dx[j] = dy[j] * power[j] - factor * x[j] * dx[j];
                }
            });
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = self.of.numbers(&io.ins[0]);
        // Blocks overlap by a window; one that is wider than a block is nobody's.
        let Some(own) = LRN_GRAD.threads.checked_sub((args.before + args.after) as u32).filter(|n| *n > 0) else {
            return vec![];
        };
        let blocks = args.n.div_ceil(own) as usize;
        gpu.call(&LRN_GRAD, &[], [blocks, 1], &[In(0), In(1), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: (4.0 * self.of.size as f64 + 12.0) * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family =
    Family { name: "lrn", ops: &["lrn", "lrn.grad"], kernels: &[&LRN, &LRN_GRAD], fuse: &[], cases };

fn cases() -> Vec<Case> {
    let alexnet = Lrn { size: 5, alpha: 1e-4, beta: 0.75, k: 2.0 };
    let mut cases = vec![];
    for (op, dims) in [
        (alexnet, &[2, 3, 4, 19][..]),
        (Lrn { alpha: 2.0, k: 1.0, ..alexnet }, &[3, 2, 2, 33]),
        (Lrn { size: 4, alpha: 1.5, beta: 0.6, k: 1.0 }, &[2, 3, 2, 7]),
        (Lrn { size: 9, alpha: 3.0, ..alexnet }, &[4, 3]),
    ] {
        let x = Type::f32(dims);
        let label = format!("{op:?} x {dims:?}");
        // d is a sum of `size` squares with k, at most size + 3 u off; its power and the product add a few.
        cases.push(Case::new(&label, op, &[x], &[0], Bound::Ulps(op.size + 8)));
        // Terms that are good to size + 10 u, and the sum of `size` of them against dy d^-beta, which is no smaller.
        cases.push(Case::new(&label, LrnGrad { of: op }, &[x, x], &[], Bound::Ulps(4 * (op.size + 8))));
    }
    cases
}
