//! A convolution whose result is pooled before it is written.

use super::Fprop;
use super::gpu::{self, Algorithm, Epilogue};
use crate::error::{Error, Result};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Op, Role, host_launches, traffic};
use crate::host;
use crate::launch::{Cost, Launch, Simd};
use crate::ops::activation::ReluGrad;
use crate::ops::fuse::{Uses, is, join};
use crate::ops::pool::unpool::{Unpool, WINDOW};
use crate::ops::pool::unpool::{full_type, index_type, places, window, winner};
use crate::ops::pool::{MaxPool, MaxPoolGrad};
use crate::par;
use crate::shape::{ConvShape, DType, Type};

/// y [N,P/2,Q/2,K] = the largest values of windows of 2 x 2 of relu(x * w + b); with `index`, and who won
/// ([`crate::ops::pool::unpool`]): what [`super::Fprop`] and [`crate::ops::pool::MaxPool`] make of the same inputs, without
/// storing the convolution's result. P, Q are even, and K (of a group) is a multiple of four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pooled {
    pub conv: Fprop,
    pub index: bool,
    /// The element type. Values are rounded before they are compared, as they were if they were stored in between.
    pub storage: DType,
}

impl Pooled {
    fn shape(&self, io: &Io) -> ConvShape {
        self.conv.shape(&io.ins[0]).expect("checked by infer")
    }
}

/// Element `at` of the pooled image, and which of its window it was.
fn pick<T: PartialOrd + Copy>(y: &[T], s: &ConvShape, at: usize) -> (T, usize) {
    let v = window(y, [s.q / 2, s.k], at);
    (v[winner(v)], winner(v))
}

/// Byte `at` of the index.
fn byte<T: PartialOrd + Copy>(y: &[T], s: &ConvShape, at: usize) -> u8 {
    (0..4).map(|c| (pick(y, s, 4 * at + c).1 << (2 * c)) as u8).sum()
}

impl Op for Pooled {
    fn describe(&self) -> Description {
        Description::of("conv.pooled").role(Role::Convolution)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let (s, y) = (self.conv.shape(&ins[0])?, self.conv.infer(ins)?[0]);
        let fits = [s.p, s.q].iter().all(|n| n.is_multiple_of(2)) && s.group_k().is_multiple_of(4);
        if !fits || !self.conv.relu || y.dtype != self.storage || !Algorithm::is_tiled(&s, y.dtype) {
            return Err(Error::job("pooled at once are a ReLU's even extents of multiples of four channels"));
        }
        let pooled = Type::new(y.dtype, &[s.n, s.p / 2, s.q / 2, s.k]);
        let index = self.index.then(|| index_type(&pooled)).transpose()?;
        Ok([pooled].into_iter().chain(index).collect())
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (s, y) = (self.shape(io), full_type(&io.outs[0]).expect("an image"));
        let mut full = [vec![f64::NAN; y.numel()]];
        self.conv.eval(&Io { ins: io.ins, outs: &[y] }, ins, &mut full);
        full[0].iter_mut().for_each(|y| *y = self.storage.round(*y));
        outs[0].iter_mut().enumerate().for_each(|(i, y)| *y = pick(&full[0], &s, i).0);
        if self.index {
            outs[1].iter_mut().enumerate().for_each(|(i, y)| *y = byte(&full[0], &s, i) as f64);
        }
    }
    fn eval_at(&self, io: &Io, ins: &[&[f32]], at: &[usize]) -> Option<Vec<f64>> {
        let s = self.shape(io);
        let one = |&at: &usize| {
            let v = self.conv.eval_at(io, ins, &places([s.q / 2, s.k], at))?;
            let v: Vec<f64> = v.into_iter().map(|v| self.storage.round(v)).collect();
            Some(v[winner([v[0], v[1], v[2], v[3]])])
        };
        at.iter().map(one).collect()
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let (op, s) = (*self, self.shape(io));
        let full = s.n * s.p * s.q * s.k;
        host_launches(self, io, group, 4 * (full + host::conv::fprop_scratch(&s)), move |h| {
            let (y, scratch) = h.scratch().split_at_mut(full);
            let bias = op.conv.bias.then(|| h.input(2));
            host::conv::fprop(simd, &s, h.input(0), h.input(1), bias, true, y, scratch);
            if op.storage.is_half() {
                par::chunks_mut(y, |_, y| y.iter_mut().for_each(|y| *y = op.storage.round(*y as f64) as f32));
            }
            let y = &*y;
            par::chunks_mut(h.output::<f32>(0), |first, out| {
                out.iter_mut().enumerate().for_each(|(i, out)| *out = pick(y, &s, first + i).0)
            });
            if op.index {
                par::chunks_mut(h.output::<u8>(1), |first, out| {
                    out.iter_mut().enumerate().for_each(|(i, out)| *out = byte(y, &s, first + i))
                });
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let end = Epilogue { bias: self.conv.bias, relu: true, pool: true, index: self.index, ..Epilogue::default() };
        let s = self.shape(io);
        let form = Algorithm::of(&s, self.storage, gpu.products());
        gpu::fprop(gpu, form, &s, end)
    }
    fn counted(&self, io: &Io) -> usize {
        gpu::counted(&self.shape(io))
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: self.shape(io).flops(), ..traffic(io) }
    }
}

/// conv.fprop with ReLU -> maxpool becomes conv.pooled; maxpool.grad -> relu.grad becomes unpool, which knows from the
/// index what they find in the convolution's result.
pub(super) fn fuse(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(&MaxPool { window }) = is(&g.nodes()[at]).filter(|p: &&MaxPool| p.window == WINDOW) else { return };
    let (y, pooled) = (g.nodes()[at].ins[0], g.nodes()[at].outs[0]);
    let Some((part, &conv)) = uses.writer[y.i()].and_then(|i| Some((i, is::<Fprop>(&g.nodes()[i])?))) else {
        return;
    };
    // Of the other readers, the gradients that go back through the same pooling and the ReLU.
    let mut back = None;
    match *uses.readers(y) {
        [only] if only == at => {}
        [a, b, c] if a == at => {
            let (Some(max), Some(ReluGrad)) = (is::<MaxPoolGrad>(&g.nodes()[b]), is(&g.nodes()[c])) else { return };
            let (d, masked) = (&g.nodes()[b], &g.nodes()[c]);
            if max.window != window || d.ins[0] != y || masked.ins != [y, d.outs[0]] || uses.readers(d.outs[0]) != [c] {
                return;
            }
            back = Some((c, d.ins[1], masked.outs[0]));
        }
        _ => return,
    }
    let ins = g.nodes()[part].ins.clone();
    let outs = join(g, [part, at], Pooled { conv, index: back.is_some(), storage: g.ty(pooled).dtype }, &ins, pooled);
    if let (Some(outs), Some((at, d, dz))) = (outs, back) {
        g.replace(at, part, Unpool, &[pooled, outs[1], d], &[dz]);
    }
}
