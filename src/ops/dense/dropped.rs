//! A dense layer that drops out of its own result.

use super::Fprop;
use crate::error::{Error, Result};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Op, Role, host_launches, traffic};
use crate::launch::{Cost, Launch, Simd};
use crate::ops::activation::ReluGrad;
use crate::ops::dropout;
use crate::ops::dropout::Mask;
use crate::ops::fuse::{Uses, is, join};
use crate::ops::mma::After;
use crate::par;
use crate::shape::Type;

/// y = relu(x w^T + b) mask / keep: what [`Fprop`], [`Mask`] and [`crate::ops::dropout::Apply`] make of the same inputs,
/// without storing the mask; inputs x, w, b where there is one, and the state of the generator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropped {
    /// With ReLU: what is positive in y was kept, and that is all that the gradient has to know.
    pub dense: Fprop,
    /// Of the type of y. The layer's result is rounded to its element type before, as it were if it was stored.
    pub mask: Mask,
}

impl Op for Dropped {
    fn describe(&self) -> Description {
        Description::of("dense.dropped").role(Role::Dense).as_stored(&[1], &[]).stream(self.mask.describe().stream)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let (state, dense) = ins.split_last().ok_or_else(|| Error::job("the generator's state is needed"))?;
        let y = self.mask.infer(&[*state])?;
        if !self.dense.relu || self.mask.keep <= 0.0 || self.dense.infer(dense)? != y {
            return Err(Error::job("dropped out of is a ReLU's result, by a mask of its type that keeps something"));
        }
        Ok(y)
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let last = ins.len() - 1;
        self.dense.eval(&Io { ins: &io.ins[..last], outs: io.outs }, &ins[..last], outs);
        outs[0].iter_mut().for_each(|y| *y = self.mask.ty.dtype.round(*y));
        self.mask.apply64(ins[last], &mut outs[0]);
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, run) = (*self, self.dense.routine(io, simd));
        host_launches(self, io, group, 0, move |h| {
            let y = h.output::<f32>(0);
            run(h, y);
            let round = |y: &mut f32| *y = op.mask.ty.dtype.round(*y as f64) as f32;
            par::chunks_mut(y, |_, y| y.iter_mut().for_each(round));
            op.mask.apply(h.input(2 + op.dense.bias as usize), y);
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let after = After { state: Some(io.ins.len() - 1), keep: self.mask.keep, ..After::NOTHING };
        self.dense.then(gpu, io, after)
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.dense.cost(io).flops, ..traffic(io) }
    }
}

/// dense.fprop with ReLU -> dropout becomes dense.dropped, which draws the mask that nobody else reads; dropout -> relu.grad
/// becomes dropout.grad, which knows from the result what was kept.
pub(super) fn fuse(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(&apply) = is::<dropout::Apply>(&g.nodes()[at]) else { return };
    let ([y, m], dropped) = (g.nodes()[at].ins[..].try_into().expect("x and mask"), g.nodes()[at].outs[0]);
    let (Some(part), Some(draw)) = (uses.writer[y.i()], uses.writer[m.i()]) else { return };
    let (Some(&dense), Some(&mask)) = (is::<Fprop>(&g.nodes()[part]), is::<Mask>(&g.nodes()[draw])) else {
        return;
    };
    // The other readers are the gradients.
    let back = match (uses.readers(y), uses.readers(m)) {
        ([a], [b]) if [a, b] == [&at, &at] => None,
        (&[a, c], &[b, d]) if [a, b] == [at, at] => {
            let (scaled, masked) = (&g.nodes()[d], &g.nodes()[c]);
            let (Some(again), Some(ReluGrad)) = (is::<dropout::Apply>(scaled), is(masked)) else { return };
            let alone = uses.readers(scaled.outs[0]) == [c];
            if *again != apply || scaled.ins[1] != m || masked.ins != [y, scaled.outs[0]] || !alone {
                return;
            }
            Some((c, scaled.ins[0], masked.outs[0]))
        }
        _ => return,
    };
    if mask.keep != apply.keep {
        return;
    }
    let ins = [&g.nodes()[part].ins[..], &g.nodes()[draw].ins].concat();
    let done = join(g, [part, at], Dropped { dense, mask }, &ins, dropped);
    if let (Some(_), Some((at, dy, dz))) = (done, back) {
        let op = dropout::Grad { keep: apply.keep, storage: g.ty(dropped).dtype };
        g.replace(at, part, op, &[dropped, dy], &[dz]);
    }
}
