/*! Dropout as two ops: a mask drawn by the counter-based generator, and its application. The mask is a function of
(seed, step, layer, element), so the adjoint applies the same one and a resumed run draws what it would have drawn. Elements are
counted on from rank to rank: several ranks draw for their rows what one draws for all. Where a dense layer drops out of its own
result ([`super::dense::Dropped`]) the mask is nowhere stored. */

use super::activation::{ReluGrad, positive};
use super::arith::Scalar;
use super::cast::Cast;
use super::fuse::{FusionRule, Stage, Uses, is, join};
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Role, Value, host_launches, traffic};
use crate::host::pointwise;
use crate::launch::gpu::{CudaStruct, Kernel, STORED};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::rng::{Stream, block, uniform};
use crate::shape::{DType, Type};

crate::cuda_struct! {
    /// Elements, the probability of a 1, and for each instance the word of the counter that says what the numbers are for.
    pub struct Draws { n: u32, keep: f32, streams: [u32; 4] }
}

static MASK: Kernel = Kernel::new("dropout.cu", "dropout_mask", 2, Draws::TEXT).with(STORED);
static APPLY: Kernel = Kernel::new("dropout.cu", "dropout", 3, Scalar::TEXT).with(STORED);
/// STORAGE of y and dx, FROM of dy: [`DType::code`]
const WAYS: (&[&str], &[&[i64]]) =
    (&["STORAGE", "FROM"], &[&[0, 0], &[0, 1], &[0, 2], &[1, 0], &[1, 1], &[2, 0], &[2, 2]]);
static GRAD: Kernel = Kernel::new("dropout_grad.cu", "dropout_grad", 3, Scalar::TEXT).with(WAYS);

/// Which dropout layer (28 bits count): layers draw different masks.
#[derive(Clone, Copy, PartialEq)]
pub struct Layer(pub u32);

impl std::fmt::Debug for Layer {
    /// Not which: [`Description::stream`] tells.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Layer")
    }
}

/// mask [N,F] of 0 and 1, each 1 with probability `keep`; input: the generator's state, U32 [seed low, seed high, step, rank].
/// N F numbers are drawn for each rank, or up to three more where that is no multiple of 4.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    pub keep: f32,
    pub layer: Layer,
    pub ty: Type,
}

/// The type of the generator's state.
pub fn state_type() -> Type {
    Type::new(DType::U32, &[4])
}

impl Mask {
    /// Four consecutive elements from element `4 i` on.
    fn four(&self, state: [u32; 4], i: usize) -> [f32; 4] {
        let seed = state[0] as u64 | (state[1] as u64) << 32;
        let before = state[3] as u64 * self.ty.numel().div_ceil(4) as u64;
        block(seed, Stream::Dropout(self.layer.0), state[2], before + i as u64)
            .map(|word| if uniform(word) < self.keep { 1.0 } else { 0.0 })
    }

    /// Drops out of `y`, element by element what [`Apply`] makes of it.
    pub(super) fn apply64(&self, state: &[f64], y: &mut [f64]) {
        let state = [0, 1, 2, 3].map(|i| state[i] as u32);
        for (i, y) in y.iter_mut().enumerate() {
            *y = *y * self.four(state, i / 4)[i % 4] as f64 / self.keep as f64;
        }
    }

    /// The same in float32.
    pub(super) fn apply(&self, state: &[u32], y: &mut [f32]) {
        let state: [u32; 4] = state.try_into().expect("four words");
        par::chunks_mut(y, |at, y| {
            for (i, y) in y.chunks_mut(4).enumerate() {
                y.iter_mut().zip(self.four(state, at / 4 + i)).for_each(|(y, mask)| *y = *y * mask / self.keep);
            }
        })
    }
}

impl Op for Mask {
    fn describe(&self) -> Description {
        Description::of("dropout.mask").role(Role::DropoutMask).stream(Stream::Dropout(self.layer.0).word())
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins != [state_type()] || !(0.0..=1.0).contains(&self.keep) {
            return Err(Error::job("the generator's state (U32 [4]) and a keep probability in 0..=1 are needed"));
        }
        Ok(vec![self.ty])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let state = [0, 1, 2, 3].map(|i| ins[0][i] as u32);
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = self.four(state, i / 4)[i % 4] as f64;
        }
    }
    fn grad(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let op = *self;
        host_launches(self, io, group, 0, move |h| {
            let state: [u32; 4] = h.input(0).try_into().expect("four words");
            // Pieces begin at multiples of four: the grain is one.
            par::chunks_mut(h.output::<f32>(0), |at, y| {
                for (i, y) in y.chunks_mut(4).enumerate() {
                    y.copy_from_slice(&op.four(state, at / 4 + i)[..y.len()]);
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        let streams = gpu.streams();
        let args = |n| Draws { n, keep: self.keep, streams };
        gpu.map(&MASK, &[self.ty.dtype.code()], &[In(0), Out(0)], args).done()
    }
}

/// y = x mask / keep ("inverted" dropout: nothing to do at inference); inputs x, mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Apply {
    pub keep: f32,
}

impl Op for Apply {
    fn describe(&self) -> Description {
        Description::of("dropout")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins[0] != ins[1] || self.keep.is_nan() || self.keep <= 0.0 {
            return Err(Error::job("x and mask must have one shape and keep must be positive"));
        }
        Ok(vec![ins[0]])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = ins[0][i] * ins[1][i] / self.keep as f64;
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(*self, &[dy, n.ins[1]])), None])
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let keep = self.keep;
        host_launches(self, io, group, 0, move |h| {
            pointwise::map2(simd, h.input(0), h.input(1), h.output(0), |x, mask| x * mask / keep)
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = |n| Scalar { n, by: self.keep };
        gpu.map(&APPLY, &[io.ins[0].dtype.code()], &[In(0), In(1), Out(0)], args).done()
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

/// The gradient of ReLU and dropout behind it, from their result y: dx = dy / keep where y is positive, else 0. Inputs y and
/// dy, which may be of another type: it is rounded to that of y first, as by a [`super::cast::Cast`].
///
/// What is positive was kept, so it is what [`Apply`] and [`super::activation::ReluGrad`] make of dy, but for two things. The
/// zero of a unit that was dropped has no sign, which can change a sum of such zeros in its sign, and nothing else. And what
/// is not finite in dy ends there as it ends at a unit that ReLU turned off, where the mask's 0 would have made NaN of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grad {
    /// 1 where there was no dropout.
    pub keep: f32,
    /// The element type of y.
    pub storage: DType,
}

impl Op for Grad {
    fn describe(&self) -> Description {
        Description::of("dropout.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let (y, dy) = (ins[0], ins[1]);
        let types = y.dtype == dy.dtype || [y, dy].iter().any(|t| t.dtype == DType::F32);
        if y.dtype != self.storage || !types || !dy.dtype.is_float() {
            return Err(Error::job(
                "y of the type that is stored, and dy of that or one that it is cast from are needed",
            ));
        }
        Apply { keep: self.keep }.infer(&[y, dy.of(y.dtype)])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (i, dx) in outs[0].iter_mut().enumerate() {
            *dx = positive(self.storage.round(ins[1][i]), ins[0][i]) / self.keep as f64;
        }
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let op = *self;
        host_launches(self, io, group, 0, move |h| {
            let masked = |y, dy: f32| if y > 0.0 { op.storage.round(dy as f64) as f32 / op.keep } else { 0.0 };
            pointwise::map2(simd, h.input(0), h.input(1), h.output(0), masked)
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let ways = [io.ins[0].dtype.code(), io.ins[1].dtype.code()];
        gpu.map(&GRAD, &ways, &[In(0), In(1), Out(0)], |n| Scalar { n, by: self.keep }).done()
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

/// What dropout kept of what a relu.grad or dropout.grad goes back through.
pub(super) fn kept(n: &Node) -> Option<f32> {
    is::<ReluGrad>(n).map(|_| 1.0).or_else(|| is::<Grad>(n).map(|d| d.keep))
}

/// cast -> relu.grad or dropout.grad becomes dropout.grad of what was cast.
fn fuse_cast(g: &mut Graph, uses: &Uses, at: usize) {
    let Some(keep) = kept(&g.nodes()[at]) else { return };
    let ([y, dx], dz) = (g.nodes()[at].ins[..].try_into().expect("y and dx"), g.nodes()[at].outs[0]);
    if let Some((part, Cast { .. })) = uses.only(g, dx, at) {
        let ins = [y, g.nodes()[part].ins[0]];
        join(g, [part, at], Grad { keep, storage: g.ty(y).dtype }, &ins, dz);
    }
}

pub const FAMILY: Family = Family {
    name: "dropout",
    ops: &["dropout.mask", "dropout", "dropout.grad"],
    kernels: &[&MASK, &APPLY, &GRAD],
    fuse: &[FusionRule::Node(Stage::Gradients, fuse_cast)],
    cases,
};

fn cases() -> Vec<Case> {
    let ty = Type::f32(&[3, 41]);
    let mask = |layer, ty| Mask { keep: 0.5, layer: Layer(layer), ty };
    let big = Type::f32(&[7, 5003]);
    let mut cases = vec![
        Case::new("3x41", mask(2, ty), &[state_type()], &[], Bound::Exact).draw(0, Draw::Below(1000)),
        Case::new("3x41 layer 3", mask(3, ty), &[state_type()], &[], Bound::Exact).draw(0, Draw::Below(1000)),
        Case::new("7x5003", mask(0, big), &[state_type()], &[], Bound::Exact).draw(0, Draw::Below(1000)),
        Case::new("3x41", Apply { keep: 0.8 }, &[ty, ty], &[0], Bound::Ulps(2)).draw(1, Draw::Mask),
        Case::new("3x41", Grad { keep: 0.8, storage: DType::F32 }, &[ty, ty], &[], Bound::Ulps(2)),
    ];
    for half in [DType::F16, DType::BF16] {
        let (ty, label) = (ty.of(half), format!("{half:?} 3x41"));
        cases.push(Case::new(&label, mask(2, ty), &[state_type()], &[], Bound::Exact).draw(0, Draw::Below(1000)));
        cases.push(Case::new(&label, Apply { keep: 0.8 }, &[ty, ty], &[], Bound::Ulps(2)).draw(1, Draw::Mask));
        let wide = ty.of(DType::F32);
        for [y, dy] in [[ty, ty], [ty, wide], [wide, ty]] {
            let label = format!("{:?} from {:?} 3x41", y.dtype, dy.dtype);
            let op = Grad { keep: 0.8, storage: y.dtype };
            cases.push(Case::new(label, op, &[y, dy], &[], Bound::Ulps(2)));
        }
    }
    cases
}
