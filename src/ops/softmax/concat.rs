//! Several softmaxes whose results lie side by side: the towers' features.

use super::{Softmax, SoftmaxGrad};
use super::{grad_row, grad_row64, row, row64};
use crate::cuda_struct;
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Operand, Value, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::ops::fuse::{Uses, is};
use crate::ops::layout::{Concat, Slice};
use crate::ops::{Bound, Case};
use crate::par;
use crate::shape::Type;

/// Parts that a launch computes.
const PARTS: usize = 4;

cuda_struct! {
    /// Rows of parts side by side: the length of a row of all, and for each part where its row begins there, and its length.
    pub struct Beside { width: u32, from: [u32; 4], c: [u32; 4] }
}

pub(super) static CONCAT: Kernel = Kernel::new("softmax.cu", "softmax_concat", 5, Beside::TEXT);
pub(super) static CONCAT_GRAD: Kernel = Kernel::new("softmax.cu", "softmax_concat_grad", 6, Beside::TEXT);

impl Beside {
    fn new(width: usize, parts: &[(usize, usize)]) -> Self {
        let of = |f: fn(&(usize, usize)) -> usize| std::array::from_fn(|i| parts.get(i).map_or(0, |p| count(f(p))));
        Self { width: count(width), from: of(|p| p.0), c: of(|p| p.1) }
    }
}

/// Where each of several parts side by side begins, and its width.
fn places(parts: &[Type]) -> Vec<(usize, usize)> {
    let ends = parts.iter().scan(0, |end, t| {
        *end += t.row();
        Some(*end)
    });
    ends.zip(parts).map(|(end, t)| (end - t.row(), t.row())).collect()
}

/// The operands of up to four parts; what stands in the place of those that there are not is not touched.
fn operands(n: usize, of: fn(usize) -> Operand) -> [Operand; PARTS] {
    std::array::from_fn(|i| if i < n { of(i) } else { In(0) })
}

/// y [N, sum of C] = softmax of each of one to four inputs [N,C], side by side: what [`super::Softmax`] and
/// [`crate::ops::layout::Concat`] make of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SoftmaxConcat;

impl Op for SoftmaxConcat {
    fn describe(&self) -> Description {
        Description::of("softmax.concat")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let fits = |t: &Type| super::rows(t).is_ok() && *t == Type::f32(&[ins[0].dims()[0], t.row()]);
        if !(1..=PARTS).contains(&ins.len()) || !ins.iter().all(fits) {
            return Err(Error::job("one to four inputs of [N,C] in float32 are needed"));
        }
        Ok(vec![Type::f32(&[ins[0].dims()[0], ins.iter().map(Type::row).sum()])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let width = io.outs[0].row();
        for (i, y) in outs[0].chunks_mut(width).enumerate() {
            for (x, (from, c)) in ins.iter().zip(places(io.ins)) {
                y[from..from + c].copy_from_slice(&row64(&x[i * c..][..c]));
            }
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dy[0] else { return Ok(vec![None; n.ins.len()]) };
        let parts = places(&g.io(n).0);
        Ok(g.push(SoftmaxConcatGrad { parts }, &[n.outs[0], dy]).into_iter().map(Some).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (n, width, parts) = (io.outs[0].dims()[0], io.outs[0].row(), places(io.ins));
        host_launches(self, io, group, 0, move |h| {
            par::rows_mut(h.output::<f32>(0), width, n, |i, y| {
                for (p, &(from, c)) in parts.iter().enumerate() {
                    row(&h.input::<f32>(p)[i * c..][..c], &mut y[from..from + c]);
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (parts, grid) = (places(io.ins), [io.outs[0].dims()[0], io.ins.len()]);
        let [a, b, c, d] = operands(parts.len(), In);
        gpu.call(&CONCAT, &[], grid, &[a, b, c, d, Out(0)], Beside::new(io.outs[0].row(), &parts)).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 4.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

/// dx of some of the parts, each [N,C]; inputs y, dy [N, sum of C].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SoftmaxConcatGrad {
    /// (from, width): where they lie.
    pub parts: Vec<(usize, usize)>,
}

impl Op for SoftmaxConcatGrad {
    fn describe(&self) -> Description {
        Description::of("softmax.concat.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let y = super::rows(&ins[0])?[0];
        let inside = |&(from, c): &(usize, usize)| c > 0 && c <= y.row() && from <= y.row() - c;
        if y != ins[1] || y != Type::f32(y.dims()) || self.parts.len() > PARTS || !self.parts.iter().all(inside) {
            return Err(Error::job("y and dy must have one shape, and up to four parts lie inside"));
        }
        Ok(self.parts.iter().map(|p| Type::f32(&[y.dims()[0], p.1])).collect())
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let width = io.ins[0].row();
        for (dx, &(from, c)) in outs.iter_mut().zip(&self.parts) {
            for (i, dx) in dx.chunks_mut(c).enumerate() {
                let [y, dy] = [0, 1].map(|v| &ins[v][i * width + from..][..c]);
                grad_row64(y, dy, dx);
            }
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (n, width, parts) = (io.ins[0].dims()[0], io.ins[0].row(), self.parts.clone());
        host_launches(self, io, group, 0, move |h| {
            for (p, &(from, c)) in parts.iter().enumerate() {
                par::rows_mut(h.output::<f32>(p), c, n, |i, dx| {
                    let [y, dy] = [0, 1].map(|v| &h.input::<f32>(v)[i * width + from..][..c]);
                    grad_row(y, dy, dx);
                })
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let [a, b, c, d] = operands(self.parts.len(), Out);
        let (args, grid) = (Beside::new(io.ins[0].row(), &self.parts), [io.ins[0].dims()[0], self.parts.len()]);
        gpu.call(&CONCAT_GRAD, &[], grid, &[In(0), In(1), a, b, c, d], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        let n: usize = io.outs.iter().map(Type::numel).sum();
        // Of y and dy the parts' columns are read.
        Cost { flops: 4.0 * n as f64, read: 8.0 * n as f64, write: 4.0 * n as f64 }
    }
}

/// Softmax of each -> concat becomes softmax.concat, and slice -> softmax.grad of each becomes softmax.concat.grad, in the
/// place of the first of them.
pub(super) fn fuse(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(Concat) = is(&g.nodes()[at]) else { return };
    let (parts, y) = (g.nodes()[at].ins.clone(), g.nodes()[at].outs[0]);
    let (mut ins, mut back, mut from) = (vec![], vec![], 0);
    for p in parts {
        let width = g.ty(p).channels();
        let Some(n) = uses.writer[p.i()].map(|i| &g.nodes()[i]).filter(|n| is::<Softmax>(n).is_some()) else { return };
        ins.push(n.ins[0]);
        match *uses.readers(p) {
            [only] if only == at => {}
            [a, s] if a == at && is::<SoftmaxGrad>(&g.nodes()[s]).is_some() => {
                let own = Slice { from, width };
                let found = uses.only::<Slice>(g, g.nodes()[s].ins[1], s).filter(|(_, slice)| **slice == own);
                let Some((slice, _)) = found else { return };
                back.push((s, g.nodes()[slice].ins[0], (from, width)));
            }
            _ => return,
        }
        from += width;
    }
    let types: Vec<Type> = ins.iter().map(|v| g.ty(*v)).collect();
    // Scores are no state: nothing has updated them since.
    if SoftmaxConcat.infer(&types).is_err() || back.iter().any(|b| b.1 != back[0].1) {
        return;
    }
    g.replace(at, at, SoftmaxConcat, &ins, &[y]);
    if let Some(&(first, d, _)) = back.iter().min() {
        let dx: Vec<Value> = back.iter().map(|b| g.nodes()[b.0].outs[0]).collect();
        back.iter().for_each(|b| g.retire(b.0));
        let parts = back.iter().map(|b| b.2).collect();
        g.replace(first, at, SoftmaxConcatGrad { parts }, &[y, d], &dx);
    }
}

pub(super) fn cases() -> Vec<Case> {
    let of = |c: &[usize]| c.iter().map(|c| Type::f32(&[3, *c])).collect::<Vec<_>>();
    let mut cases = vec![];
    for widths in [&[7][..], &[365, 9, 40], &[2, 300, 1, 5]] {
        let (label, longest) = (format!("{widths:?}"), 365);
        let (ins, all) = (of(widths), Type::f32(&[3, widths.iter().sum()]));
        let diff: Vec<usize> = (0..widths.len()).collect();
        cases.push(Case::new(&label, SoftmaxConcat, &ins, &diff, Bound::Ulps(longest + 16)));
        // All of them, and without the first.
        for parts in [&places(&ins)[..], &places(&ins)[1..]] {
            let op = SoftmaxConcatGrad { parts: parts.to_vec() };
            if !parts.is_empty() {
                cases.push(Case::new(
                    format!("{label} {}", parts.len()),
                    op,
                    &[all; 2],
                    &[],
                    Bound::Ulps(2 * longest + 8),
                ));
            }
        }
    }
    cases
}
