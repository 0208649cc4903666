//! A dense layer whose input or result is stored as another type than its weight.

use super::{Fprop, gpu};
use crate::error::{Error, Result};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Op, Role, host_launches};
use crate::launch::{Cost, Launch, Simd};
use crate::ops::cast::Cast;
use crate::ops::fuse::{Uses, is, join};
use crate::ops::mma::{After, Factors};
use crate::par;
use crate::shape::{DType, Type};

/// y [N,out] as `to`: what a [`crate::ops::cast::Cast`] of x to the type of w, [`Fprop`] and a cast of the result make of x, w
/// and, where there is one, b; without storing what lies between. With w in float32, x and y are of any type, with w in 16 bits
/// x is of the same and y is float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mixed {
    pub dense: Fprop,
    /// The type of w, to which sums are rounded before they are stored. Host routines are shown float32 in place of 16 bits.
    pub by: DType,
    pub to: DType,
}

/// Elements of x that a lane loads together: a row consists of so many.
const LOADED: usize = 4;

impl Op for Mixed {
    fn describe(&self) -> Description {
        Description::of("dense.mixed").role(Role::Dense).as_stored(&[1], &[])
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let [x, w, ..] = *ins else { return Err(Error::job("x and w are needed")) };
        let fits = match w.dtype {
            DType::F32 => !x.dtype.is_half() || x.row().is_multiple_of(LOADED),
            _ => x.dtype == w.dtype && self.to == DType::F32,
        };
        if !fits || self.by != w.dtype || !self.to.is_float() || x.dtype == w.dtype && w.dtype == self.to {
            return Err(Error::job(format!("x {x:?} and w {w:?} make no {:?} without a cast", self.to)));
        }
        let same = [&[x.of(w.dtype)], &ins[1..]].concat();
        Ok(self.dense.infer(&same)?.into_iter().map(|y| y.of(self.to)).collect())
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        self.dense.eval(io, ins, outs);
        outs[0].iter_mut().for_each(|y| *y = self.by.round(*y));
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, run) = (*self, self.dense.routine(io, simd));
        host_launches(self, io, group, 0, move |h| {
            let y = h.output::<f32>(0);
            run(h, y);
            let round = |y: &mut f32| *y = op.by.round(*y as f64) as f32;
            par::chunks_mut(y, |_, y| y.iter_mut().for_each(round));
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let to = (self.to != self.by).then_some(self.to);
        let (extents, after) = self.dense.lowered(io, After { to, ..After::NOTHING });
        match self.by {
            // tf32 has no loads of 16 bits, and no network has both.
            DType::F32 => gpu::fprop(gpu, io.ins[0].dtype, extents, after),
            half => {
                let factors = Factors::of(half, gpu.products()).expect("16 bits go to tensor cores");
                gpu::fprop_mma(gpu, factors, extents, after)
            }
        }
    }
    fn cost(&self, io: &Io) -> Cost {
        self.dense.cost(io)
    }
}

/// The type that a dense layer stores its result as, and the layer.
fn stored(g: &Graph, at: usize) -> Option<(Fprop, DType)> {
    let n = &g.nodes()[at];
    is::<Mixed>(n).map(|m| (m.dense, m.to)).or_else(|| Some((*is::<Fprop>(n)?, g.ty(n.outs[0]).dtype)))
}

/// cast -> dense.fprop becomes dense.mixed.
pub(super) fn fuse_cast_before(g: &mut Graph, uses: &Uses, at: usize) {
    let Some((dense, to)) = stored(g, at) else { return };
    let (mut ins, y) = (g.nodes()[at].ins.clone(), g.nodes()[at].outs[0]);
    if let Some((part, Cast { .. })) = uses.only(g, ins[0], at) {
        ins[0] = g.nodes()[part].ins[0];
        let by = g.ty(ins[1]).dtype;
        join(g, [part, at], Mixed { dense, by, to }, &ins, y);
    }
}

/// dense.fprop or dense.mixed -> cast becomes dense.mixed.
pub(super) fn fuse_cast_after(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(&Cast { to }) = is(&g.nodes()[at]) else { return };
    let (x, y) = (g.nodes()[at].ins[0], g.nodes()[at].outs[0]);
    let Some(part) = uses.writer[x.i()].filter(|_| uses.readers(x) == [at]) else { return };
    if let Some((dense, _)) = stored(g, part) {
        let ins = g.nodes()[part].ins.clone();
        let by = g.ty(ins[1]).dtype;
        join(g, [part, at], Mixed { dense, by, to }, &ins, y);
    }
}
