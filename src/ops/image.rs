/*! From bytes to what a tower was trained on. */

use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Gpu, Graph, Io, Member, Node, Op, Value, host_launches, traffic};
use crate::kernel::gpu::{CudaStruct, Kernel};
use crate::kernel::{Cost, Launch, Simd};
use crate::par;
use crate::preprocess::{Order, Preprocess};
use crate::shape::{DType, Type};

crate::cuda_struct! {
    /// Elements, and what is done to each of the three channels.
    pub struct Preprocessing { n: u32, bgr: u32, scale: f32, mean: [f32; 3], std: [f32; 3] }
}

static NORMALIZE: Kernel = Kernel::new("image.cu", "image_normalize", 2, Preprocessing::TEXT);

/// y [N,H,W,3] = (x[order(c)] scale - mean[c]) / std[c] of u8 RGB images x [N,H,W,3].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalize {
    pub order: Order,
    pub scale: f32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl From<&Preprocess> for Normalize {
    fn from(p: &Preprocess) -> Self {
        Self { order: p.order, scale: p.scale, mean: p.mean, std: p.std }
    }
}

impl Normalize {
    fn source(&self, c: usize) -> usize {
        match self.order {
            Order::Rgb => c,
            Order::Bgr => 2 - c,
        }
    }
}

impl Op for Normalize {
    fn name(&self) -> &'static str {
        "image.normalize"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match (ins[0].dtype, ins[0].dims()) {
            (DType::U8, [_, _, _, 3]) => Ok(vec![Type::f32(ins[0].dims())]),
            _ => Err(Error::job("u8 images [N,H,W,3] are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (i, y) in outs[0].iter_mut().enumerate() {
            let c = i % 3;
            let x = ins[0][i - c + self.source(c)];
            *y = (x * self.scale as f64 - self.mean[c] as f64) / self.std[c] as f64;
        }
    }
    /// Bytes have no gradient.
    fn grad(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None])
    }
    fn host(&self, io: &Io, group: &[Member], _: Simd) -> Vec<Launch> {
        let op = *self;
        // There are only 256 bytes: one table per channel, computed once.
        let table: Vec<[f32; 3]> =
            (0..256).map(|b| [0, 1, 2].map(|c| (b as f32 * op.scale - op.mean[c]) / op.std[c])).collect();
        let (rows, width) = (io.ins[0].dims()[0] * io.ins[0].dims()[1], io.ins[0].dims()[2] * 3);
        host_launches(self, io, group, 0, move |h| {
            let x = h.input::<u8>(0);
            par::rows_mut(h.output::<f32>(0), width, rows, |row, y| {
                for (x, y) in x[row * width..][..width].chunks_exact(3).zip(y.chunks_exact_mut(3)) {
                    for c in 0..3 {
                        y[c] = table[x[op.source(c)] as usize][c];
                    }
                }
            })
        })
    }
    fn gpu(&self, io: &Io, group: &[Member]) -> Vec<Launch> {
        let bgr = (self.order == Order::Bgr) as u32;
        let args = |n| Preprocessing { n, bgr, scale: self.scale, mean: self.mean, std: self.std };
        Gpu::new(self, io, group).map(&NORMALIZE, &[], &[In(0), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 3.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family = Family { name: "image", ops: &["image.normalize"], kernels: &[&NORMALIZE], cases };

fn cases() -> Vec<Case> {
    let x = Type::new(DType::U8, &[2, 5, 7, 3]);
    // The largest magnitude (about 2.6 after division, 152 before) bounds the rounding of product and difference.
    crate::preprocess::PRESETS
        .iter()
        .map(|(name, p, _)| Case::new(*name, Normalize::from(p), &[x], &[], Bound::Ulps(8)))
        .collect()
}
