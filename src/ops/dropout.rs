/*! Dropout as two ops: a mask drawn by the counter-based generator, and its application. The mask is a function of
(seed, step, layer, element), so the adjoint applies the same one and a resumed run draws what it would have drawn. */

use super::arith::Scalar;
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Gpu, Graph, Io, Member, Node, Op, Value, host_launches, traffic};
use crate::host::pointwise;
use crate::kernel::gpu::{CudaStruct, Kernel, STORED};
use crate::kernel::{Cost, Launch, Simd};
use crate::par;
use crate::rng::{Stream, block, uniform};
use crate::shape::{DType, Type};

crate::cuda_struct! {
    /// Elements, the word of the counter that says what the numbers are for, the probability of a 1.
    pub struct Draws { n: u32, stream: u32, keep: f32 }
}

static MASK: Kernel = Kernel::new("dropout.cu", "dropout_mask", 2, Draws::TEXT).with(STORED);
static APPLY: Kernel = Kernel::new("dropout.cu", "dropout", 3, Scalar::TEXT).with(STORED);

/// mask [N,F] of 0 and 1, each 1 with probability `keep`; input: the generator's state, U32 [seed low, seed high, step].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    pub keep: f32,
    /// Which dropout layer (28 bits count): layers draw different masks.
    pub layer: u32,
    pub ty: Type,
}

/// The type of the generator's state.
pub fn state_type() -> Type {
    Type::new(DType::U32, &[3])
}

impl Mask {
    /// Four consecutive elements from element `4 i` on.
    fn four(&self, state: [u32; 3], i: usize) -> [f32; 4] {
        let seed = state[0] as u64 | (state[1] as u64) << 32;
        block(seed, Stream::Dropout(self.layer), state[2], i as u64)
            .map(|word| if uniform(word) < self.keep { 1.0 } else { 0.0 })
    }
}

impl Op for Mask {
    fn name(&self) -> &'static str {
        "dropout.mask"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins != [state_type()] || !(0.0..=1.0).contains(&self.keep) {
            return Err(Error::job("the generator's state (U32 [3]) and a keep probability in 0..=1 are needed"));
        }
        Ok(vec![self.ty])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let state = [0, 1, 2].map(|i| ins[0][i] as u32);
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = self.four(state, i / 4)[i % 4] as f64;
        }
    }
    fn grad(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None])
    }
    fn host(&self, io: &Io, group: &[Member], _: Simd) -> Vec<Launch> {
        let op = *self;
        host_launches(self, io, group, 0, move |h| {
            let state: [u32; 3] = h.input(0).try_into().expect("three words");
            // Pieces begin at multiples of four: the grain is one.
            par::chunks_mut(h.output::<f32>(0), |at, y| {
                for (i, y) in y.chunks_mut(4).enumerate() {
                    y.copy_from_slice(&op.four(state, at / 4 + i)[..y.len()]);
                }
            })
        })
    }
    fn gpu(&self, gpu: Gpu, _: &Io) -> Vec<Launch> {
        let args = |n| Draws { n, stream: Stream::Dropout(self.layer).word(), keep: self.keep };
        gpu.map(&MASK, &[self.ty.dtype.code()], &[In(0), Out(0)], args).done()
    }
}

/// y = x mask / keep ("inverted" dropout: nothing to do at inference); inputs x, mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Apply {
    pub keep: f32,
}

impl Op for Apply {
    fn name(&self) -> &'static str {
        "dropout"
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
    fn host(&self, io: &Io, group: &[Member], simd: Simd) -> Vec<Launch> {
        let keep = self.keep;
        host_launches(self, io, group, 0, move |h| {
            pointwise::map2(simd, h.input(0), h.input(1), h.output(0), |x, mask| x * mask / keep)
        })
    }
    fn gpu(&self, gpu: Gpu, io: &Io) -> Vec<Launch> {
        let args = |n| Scalar { n, by: self.keep };
        gpu.map(&APPLY, &[io.ins[0].dtype.code()], &[In(0), In(1), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family =
    Family { name: "dropout", ops: &["dropout.mask", "dropout"], kernels: &[&MASK, &APPLY], cases };

fn cases() -> Vec<Case> {
    let ty = Type::f32(&[3, 41]);
    let mask = |layer, ty| Mask { keep: 0.5, layer, ty };
    let big = Type::f32(&[7, 5003]);
    let mut cases = vec![
        Case::new("3x41", mask(2, ty), &[state_type()], &[], Bound::Exact).draw(0, Draw::Below(1000)),
        Case::new("7x5003", mask(0, big), &[state_type()], &[], Bound::Exact).draw(0, Draw::Below(1000)),
        Case::new("3x41", Apply { keep: 0.8 }, &[ty, ty], &[0], Bound::Ulps(2)).draw(1, Draw::Mask),
    ];
    for half in [DType::F16, DType::BF16] {
        let (ty, label) = (ty.of(half), format!("{half:?} 3x41"));
        cases.push(Case::new(&label, mask(2, ty), &[state_type()], &[], Bound::Exact).draw(0, Draw::Below(1000)));
        cases.push(Case::new(&label, Apply { keep: 0.8 }, &[ty, ty], &[], Bound::Ulps(2)).draw(1, Draw::Mask));
    }
    cases
}
