/*! Bilinear resampling of x [N,H,W,C] to y [N,P,Q,C]: each output is a mean of the four pixels around it, weighted by
nearness. Nothing is smoothed before an image shrinks. */

use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Divisor, Kernel, VECTOR, count, vector};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::Type;
use std::ops::Range;

/// Which point of the source an output lies on, per axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// P, Q
    pub out: [usize; 2],
    /// The corner pixels' centres stay where they are: i (H - 1) / (P - 1). Otherwise the corners of the image do:
    /// (i + 1/2) H / P - 1/2, from 0 up (PyTorch's default, TensorFlow 2).
    pub align_corners: bool,
}

impl Grid {
    fn out(&self, x: &Type) -> Result<Type> {
        let (&[n, h, w, c], [p, q]) = (x.dims(), self.out) else {
            return Err(Error::job(format!("x must be [N,H,W,C], got {:?}", x.shape)));
        };
        if [h, w, p, q].contains(&0) {
            return Err(Error::job(format!("{h}x{w} pixels do not make {p}x{q}")));
        }
        Ok(Type::f32(&[n, p, q, c]))
    }
    /// The two source positions around output `o` of `axis`, and their weights.
    fn around(&self, axis: usize, o: usize, extent: usize) -> [(usize, f64); 2] {
        let outs = self.out[axis];
        let at = match (self.align_corners, outs) {
            (true, 1) => 0.0,
            (true, _) => (o * (extent - 1)) as f64 / (outs - 1) as f64,
            // The whole and the half over one denominator: whole results come out exact.
            (false, _) => (((2 * o + 1) * extent) as f64 - outs as f64).max(0.0) / (2 * outs) as f64,
        };
        let low = (at as usize).min(extent - 1);
        let part = at - low as f64;
        [(low, 1.0 - part), ((low + 1).min(extent - 1), part)]
    }
    /// The weight of source position `i` in output `o`.
    fn weight(&self, axis: usize, o: usize, i: usize, extent: usize) -> f64 {
        self.around(axis, o, extent).iter().filter(|a| a.0 == i).map(|a| a.1).sum()
    }
    /// The outputs that may see source position `i`: neighbours, for positions are in order.
    fn above(&self, axis: usize, i: usize, extent: usize) -> Range<usize> {
        let outs = self.out[axis];
        let from = (0..outs).position(|o| self.around(axis, o, extent)[1].0 >= i).unwrap_or(outs);
        let count = (from..outs).take_while(|o| self.around(axis, *o, extent)[0].0 <= i).count();
        from..from + count
    }
}

crate::cuda_struct! {
    /// Images of `x` pixels resampled to `y`, in units of the channels of a thread: output o of an axis lies at
    /// (o scale + shift) / whole of the source.
    pub struct Resampling {
        n: u32,
        c: Divisor,
        x: [Divisor; 2],
        y: [Divisor; 2],
        scale: [u32; 2],
        shift: [i32; 2],
        whole: [Divisor; 2],
    }
}

static UPSAMPLE: Kernel = Kernel::new("upsample.cu", "upsample", 2, Resampling::TEXT).with(VECTOR);
static UPSAMPLE_GRAD: Kernel = Kernel::new("upsample.cu", "upsample_grad", 2, Resampling::TEXT).with(VECTOR);

impl Resampling {
    /// Of x, for a thread per `v` channels of `out`.
    fn new(grid: &Grid, x: &Type, out: &Type, v: usize) -> Self {
        let ([_, h, w, c], [p, q]) = (four(x), grid.out);
        // As `Grid::around`, before its division.
        let axis = |extent: usize, outs: usize| match (grid.align_corners, outs) {
            (true, 1) => (0, 0, 1),
            (true, _) => (extent - 1, 0, outs - 1),
            (false, _) => (2 * extent, extent as i32 - outs as i32, 2 * outs),
        };
        let axes = [axis(h, p), axis(w, q)];
        Self {
            n: count(out.numel() / v),
            c: Divisor::new(c / v),
            x: [h, w].map(Divisor::new),
            y: [p, q].map(Divisor::new),
            scale: axes.map(|a| a.0 as u32),
            shift: axes.map(|a| a.1),
            whole: axes.map(|a| Divisor::new(a.2)),
        }
    }
}

/// What kernels of resampling x count in 32 bits: numbers, and positions along an axis over the denominator.
fn counted(io: &Io, x: &Type, [p, q]: [usize; 2]) -> usize {
    let [_, h, w, _] = four(x);
    let numbers = io.ins.iter().chain(io.outs).map(Type::numel);
    numbers.chain([2 * (h + 1) * (p + 1), 2 * (w + 1) * (q + 1)]).max().unwrap_or(0)
}

fn four(t: &Type) -> [usize; 4] {
    t.dims().try_into().expect("checked by infer")
}

/// y = x between its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bilinear {
    pub grid: Grid,
}

impl Op for Bilinear {
    fn describe(&self) -> Description {
        Description::of("upsample")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![self.grid.out(&ins[0])?])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let ([_, h, w, c], [_, p, q, _]) = (four(&io.ins[0]), four(&io.outs[0]));
        for (at, y) in outs[0].iter_mut().enumerate() {
            let (n, i, j, ch) = (at / c / q / p, at / c / q % p, at / c % q, at % c);
            *y = 0.0;
            for (a, high) in self.grid.around(0, i, h) {
                for (b, wide) in self.grid.around(1, j, w) {
                    *y += high * wide * ins[0][((n * h + a) * w + b) * c + ch];
                }
            }
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let x = g.ty(n.ins[0]);
        Ok(vec![dy[0].map(|dy| g.push1(BilinearGrad { grid: self.grid, x }, &[dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (grid, [_, h, w, c], [n, p, q, _]) = (self.grid, four(&io.ins[0]), four(&io.outs[0]));
        host_launches(self, io, group, 0, move |call| {
            let x = call.input::<f32>(0);
            par::rows_mut(call.output::<f32>(0), q * c, n * p, |row, y| {
                let [(top, _), (bottom, down)] = grid.around(0, row % p, h);
                let line = |a: usize| &x[(row / p * h + a) * w * c..][..w * c];
                for (j, y) in y.chunks_exact_mut(c).enumerate() {
                    let [(left, _), (right, along)] = grid.around(1, j, w);
                    let weights =
                        [(1.0 - down) * (1.0 - along), (1.0 - down) * along, down * (1.0 - along), down * along];
                    let [w0, w1, w2, w3] = weights.map(|w| w as f32);
                    let pixel = |a: usize, b: usize| &line(a)[b * c..][..c];
                    let (x0, x1) = (pixel(top, left), pixel(top, right));
                    let (x2, x3) = (pixel(bottom, left), pixel(bottom, right));
                    for (ch, y) in y.iter_mut().enumerate() {
                        *y = w0 * x0[ch] + w1 * x1[ch] + w2 * x2[ch] + w3 * x3[ch];
                    }
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let v = vector(&[io.ins[0].channels()]);
        let args = Resampling::new(&self.grid, &io.ins[0], &io.outs[0], v);
        gpu.each(&UPSAMPLE, &[v as i64], args.n as usize, &[In(0), Out(0)], args).done()
    }
    fn counted(&self, io: &Io) -> usize {
        counted(io, &io.ins[0], self.grid.out)
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 8.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

/// dx = dy times the weights of [`Bilinear`], summed over the outputs above a pixel; input dy. `x` is the type of the
/// resampled input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BilinearGrad {
    pub grid: Grid,
    pub x: Type,
}

impl Op for BilinearGrad {
    fn describe(&self) -> Description {
        Description::of("upsample.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let y = self.grid.out(&self.x)?;
        if ins[0] != y {
            return Err(Error::job(format!("dy must be {:?}", y.shape)));
        }
        Ok(vec![self.x])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let ([_, h, w, c], [_, p, q, _]) = (four(&self.x), four(&io.ins[0]));
        outs[0].fill(0.0);
        for (at, dy) in ins[0].iter().enumerate() {
            let (n, i, j, ch) = (at / c / q / p, at / c / q % p, at / c % q, at % c);
            for (a, high) in self.grid.around(0, i, h) {
                for (b, wide) in self.grid.around(1, j, w) {
                    outs[0][((n * h + a) * w + b) * c + ch] += high * wide * dy;
                }
            }
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (grid, [n, h, w, c], [_, p, q, _]) = (self.grid, four(&self.x), four(&io.ins[0]));
        host_launches(self, io, group, 0, move |call| {
            let dy = call.input::<f32>(0);
            par::rows_mut(call.output::<f32>(0), w * c, n * h, |row, dx| {
                let (img, a) = (row / h, row % h);
                let (rows, mut cols) = (grid.above(0, a, h), 0..0);
                for (b, dx) in dx.chunks_exact_mut(c).enumerate() {
                    // As `above`, but going on from the column before.
                    while cols.start < q && grid.around(1, cols.start, w)[1].0 < b {
                        cols.start += 1;
                    }
                    while cols.end < q && grid.around(1, cols.end, w)[0].0 <= b {
                        cols.end += 1;
                    }
                    dx.fill(0.0);
                    for i in rows.clone() {
                        for j in cols.clone() {
                            let weight = (grid.weight(0, i, a, h) * grid.weight(1, j, b, w)) as f32;
                            let dy = &dy[((img * p + i) * q + j) * c..][..c];
                            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy * weight);
                        }
                    }
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        let v = vector(&[self.x.channels()]);
        let args = Resampling::new(&self.grid, &self.x, &self.x, v);
        gpu.each(&UPSAMPLE_GRAD, &[v as i64], args.n as usize, &[In(0), Out(0)], args).done()
    }
    fn counted(&self, io: &Io) -> usize {
        counted(io, &self.x, self.grid.out)
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 8.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family = Family {
    name: "upsample",
    ops: &["upsample", "upsample.grad"],
    kernels: &[&UPSAMPLE, &UPSAMPLE_GRAD],
    fuse: &[],
    cases,
};

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (x, out) in [
        ([2, 4, 5, 3], [8, 10]),
        ([1, 5, 3, 19], [7, 11]),
        ([2, 3, 4, 2], [3, 4]),
        ([1, 9, 8, 5], [4, 3]),
        ([2, 1, 6, 4], [3, 1]),
        ([1, 3, 3, 33], [1, 5]),
        ([3, 1, 1, 2], [4, 5]),
    ] {
        for align_corners in [false, true] {
            let (grid, t) = (Grid { out, align_corners }, Type::f32(&x));
            let label = format!("{grid:?} x {x:?}");
            let dy = grid.out(&t).expect("a case fits");
            cases.push(Case::new(&label, Bilinear { grid }, &[t], &[0], Bound::Dot(4)));
            let most = |axis, extent| (0..extent).map(|i| grid.above(axis, i, extent).len()).max().unwrap_or(0);
            let terms = most(0, x[1]) * most(1, x[2]);
            cases.push(Case::new(&label, BilinearGrad { grid, x: t }, &[dy], &[], Bound::Dot(terms)));
        }
    }
    cases
}
