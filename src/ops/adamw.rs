/*! AdamW (Loshchilov & Hutter 2019, *Decoupled weight decay regularization*, algorithm 2), in place. The weights shrink by
rate x decay whatever the gradient is. As in [`super::optim`], what changes between steps is data. */

use super::optim::hyper_type;
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{self, In};
use crate::graph::{Description, GpuCalls, Instance, Io, Op, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Kernel, STORED};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::{DType, Type};

crate::cuda_struct! {
    /// Elements, the shares of the old and the new in both means, what keeps the division finite, and whether gradients are
    /// scaled.
    pub struct Moments { n: u32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32, scaled: u32 }
}

static ADAMW: Kernel = Kernel::new("adamw.cu", "adamw", 7, Moments::TEXT).with(STORED);

/// One step of AdamW; inputs w, m, v, g, hyper [rate, weight decay, 1 / (1 - beta1^t), 1 / (1 - beta2^t)] of step t = 1, 2,
/// ... (see [`AdamW::hyper`]), then, with `copy`, the copy of w in 16 bits that layers multiply with, and, with `scaled`,
/// by [1]; outputs w, m, v and the copy in place:
///
/// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// w = w (1 - rate decay) - rate m c1 / (sqrt(v c2) + eps), c1 and c2 being the two corrections in `hyper`.
///
/// g counts `by` times; 0 says that the step is not to be taken, and nothing changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub copy: bool,
    pub scaled: bool,
}

impl Default for AdamW {
    /// The constants of Kingma & Ba 2015 and of PyTorch's `AdamW`.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, copy: false, scaled: false }
    }
}

/// The formula, once for both number types; `beta` and `rest` of both means.
macro_rules! update {
    ($w:expr, $m:expr, $v:expr, $g:expr, $beta:expr, $rest:expr, $eps:expr, $hyper:expr) => {{
        let [lr, decay, c1, c2] = $hyper;
        let m = $beta[0] * $m + $rest[0] * $g;
        let v = $beta[1] * $v + $rest[1] * ($g * $g);
        ($w * (1.0 - lr * decay) - lr * (m * c1) / ((v * c2).sqrt() + $eps), m, v)
    }};
}

impl AdamW {
    /// The settings of step `t`, the first being 1.
    pub fn hyper(&self, lr: f64, decay: f64, t: u32) -> [f64; 4] {
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(t as f64));
        [lr, decay, correction(self.beta1), correction(self.beta2)]
    }

    fn numbers(self, n: u32) -> Moments {
        let [beta1, rest1, beta2, rest2, eps] =
            [self.beta1, 1.0 - self.beta1, self.beta2, 1.0 - self.beta2, self.eps].map(|x| x as f32);
        Moments { n, beta1, rest1, beta2, rest2, eps, scaled: self.scaled as u32 }
    }
}

impl Op for AdamW {
    fn describe(&self) -> Description {
        Description::of("adamw").in_place(if self.copy {
            &[(0, 0), (1, 1), (2, 2), (3, 5)]
        } else {
            &[(0, 0), (1, 1), (2, 2)]
        })
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let more = 5 + self.copy as usize;
        let [w, m, v, g, hyper, ..] = ins else { return Err(Error::job("w, m, v, g and hyper are needed")) };
        if [m, v, g].iter().any(|t| *t != w) || *hyper != hyper_type() {
            return Err(Error::job("w, m, v and g of one shape and hyper [4] are needed"));
        }
        if ins.len() != more + self.scaled as usize || self.scaled && ins[more] != Type::f32(&[1]) {
            return Err(Error::job("after hyper come, as asked for, a copy of w and a scale [1]"));
        }
        if self.copy && (!ins[5].dtype.is_half() || ins[5].shape != w.shape) {
            return Err(Error::job("the copy must have w's shape and 16 bits"));
        }
        Ok([*w, *w, *w].into_iter().chain(self.copy.then(|| ins[5])).collect())
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let hyper: [f64; 4] = ins[4].try_into().expect("checked by infer");
        let by = if self.scaled { ins[5 + self.copy as usize][0] } else { 1.0 };
        let (beta, rest) = ([self.beta1, self.beta2], [1.0 - self.beta1, 1.0 - self.beta2]);
        for i in 0..ins[0].len() {
            let (w, m, v) = (ins[0][i], ins[1][i], ins[2][i]);
            (outs[0][i], outs[1][i], outs[2][i]) = match by {
                0.0 => (w, m, v),
                _ => update!(w, m, v, by * ins[3][i], beta, rest, self.eps, hyper),
            };
            if self.copy {
                outs[3][i] = if by == 0.0 { ins[5][i] } else { outs[0][i] };
            }
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let op = *self;
        host_launches(self, io, group, 0, move |h| {
            let hyper: [f32; 4] = h.input(4).try_into().expect("checked by infer");
            let by = if op.scaled { h.input::<f32>(5 + op.copy as usize)[0] } else { 1.0 };
            if by == 0.0 {
                return;
            }
            let Moments { beta1, rest1, beta2, rest2, eps, .. } = op.numbers(0);
            let (beta, rest) = ([beta1, beta2], [rest1, rest2]);
            let (w, g) = (h.output::<f32>(0), h.input::<f32>(3));
            par::chunks3_mut(w, h.output::<f32>(1), h.output::<f32>(2), |at, w, m, v| {
                for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(&g[at..]) {
                    (*w, *m, *v) = update!(*w, *m, *v, by * g, beta, rest, eps, hyper);
                }
            });
            if op.copy {
                h.output::<f32>(3).copy_from_slice(w);
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        // Where there is no copy or no scale, anything stands in its place.
        let storage = if self.copy { io.ins[5].dtype } else { DType::F32 };
        let copy = Operand::Update(if self.copy { 3 } else { 0 });
        let by = In(if self.scaled { 5 + self.copy as usize } else { 4 });
        let operands = [Operand::Update(0), Operand::Update(1), Operand::Update(2), In(3), In(4), copy, by];
        gpu.map(&ADAMW, &[storage.code()], &operands, |n| self.numbers(n)).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 15.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family = Family { name: "adamw", ops: &["adamw"], kernels: &[&ADAMW], fuse: &[], cases };

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    // Settings of the first step and of a late one. m is drawn below 1, v from 1 / 4 up, and both are multiplied by the
    // corrections of `t`: |m c1| / sqrt(v c2) is below 5 (t = 1) and the term that leaves w at most .3. It passes 14
    // roundings, w itself 4, and some w of the output is near 1: 4 + .3 x 14 < 9 units.
    for (t, dims) in [(1, [3, 41]), (40, [7, 5001])] {
        for (copy, scaled) in [(None, false), (None, true), (Some(DType::F16), true), (Some(DType::BF16), false)] {
            for skipped in if scaled { &[false, true][..] } else { &[false] } {
                let ty = Type::f32(&dims);
                let op = AdamW { beta1: 0.75, beta2: 0.875, eps: 1e-3, copy: copy.is_some(), scaled };
                let mut ins = vec![ty, ty, ty, ty, hyper_type()];
                ins.extend(copy.map(|half| ty.of(half)));
                ins.extend(scaled.then_some(Type::f32(&[1])));
                let label = format!("step {t} copy {copy:?} scaled {scaled} skipped {skipped}");
                let hyper = Draw::Hyper(op.hyper(0.0625, 0.25, t).map(|x| x as f32));
                let mut case = Case::new(label, op, &ins, &[], Bound::Ulps(9)).draw(2, Draw::Positive).draw(4, hyper);
                if scaled {
                    case = case.draw(ins.len() - 1, if *skipped { Draw::Below(1) } else { Draw::Positive });
                }
                cases.push(case);
            }
        }
    }
    cases
}
