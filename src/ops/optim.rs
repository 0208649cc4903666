/*! Parameter updates, in place. What changes between steps (rate, momentum, decay) is data, never an attribute: a step is
the same list of launches from first to last. */

use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Update};
use crate::graph::{Gpu, Io, Member, Op, host_launches, traffic};
use crate::kernel::gpu::{CudaStruct, Kernel};
use crate::kernel::{Cost, Launch, Simd};
use crate::par;
use crate::shape::Type;

/// Whose SGD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// v = momentum v + (1 - dampening) g (first step: v = g); w -= lr v. Nesterov: w -= lr (g + momentum v).
    Torch,
    /// v = momentum v - lr g; w += v. Nesterov: w += momentum v - lr g. The same as [`Form::Torch`] until lr changes.
    Keras,
}

crate::cuda_struct! {
    /// Elements, and the form of the update.
    pub struct Descent { n: u32, keras: u32, nesterov: u32, dampening: f32 }
}

static SGD: Kernel = Kernel::new("optim.cu", "sgd", 4, Descent::TEXT);

/// One step of stochastic gradient descent; inputs w, v, g, hyper [lr, momentum, weight decay, first]; outputs w, v in
/// place. Weight decay adds decay * w to g. `first` is 1 on the first step, else 0. With momentum 0 v stays as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    pub form: Form,
    pub nesterov: bool,
    pub dampening: f32,
}

/// The type of `hyper`.
pub fn hyper_type() -> Type {
    Type::f32(&[4])
}

/// The formula, once for both number types.
macro_rules! update {
    ($op:expr, $t:ty, $w:expr, $v:expr, $g:expr, $hyper:expr) => {{
        let [lr, momentum, decay, first] = $hyper;
        let g = $g + decay * $w;
        match $op.form {
            _ if momentum == 0.0 => ($w - lr * g, $v),
            Form::Torch => {
                let v = if first != 0.0 { g } else { momentum * $v + (1.0 - $op.dampening as $t) * g };
                ($w - lr * if $op.nesterov { g + momentum * v } else { v }, v)
            }
            Form::Keras => {
                let v = momentum * $v - lr * g;
                ($w + if $op.nesterov { momentum * v - lr * g } else { v }, v)
            }
        }
    }};
}

impl Op for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [w, v, g, hyper] if w == v && w == g && *hyper == hyper_type() => Ok(vec![*w, *v]),
            _ => Err(Error::job("w, v and g of one shape and hyper [4] are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let hyper: [f64; 4] = ins[3].try_into().expect("checked by infer");
        for i in 0..ins[0].len() {
            (outs[0][i], outs[1][i]) = update!(self, f64, ins[0][i], ins[1][i], ins[2][i], hyper);
        }
    }
    fn host(&self, io: &Io, group: &[Member], _: Simd) -> Vec<Launch> {
        let op = *self;
        host_launches(self, io, group, 0, move |h| {
            let hyper: [f32; 4] = h.input(3).try_into().expect("checked by infer");
            let g = h.input::<f32>(2);
            par::chunks2_mut(h.output::<f32>(0), h.output::<f32>(1), |at, w, v| {
                for ((w, v), &g) in w.iter_mut().zip(v).zip(&g[at..]) {
                    (*w, *v) = update!(op, f32, *w, *v, g, hyper);
                }
            })
        })
    }
    fn gpu(&self, io: &Io, group: &[Member]) -> Vec<Launch> {
        let Sgd { form, nesterov, dampening } = *self;
        let (keras, nesterov) = ((form == Form::Keras) as u32, nesterov as u32);
        let args = |n| Descent { n, keras, nesterov, dampening };
        Gpu::new(self, io, group).map(&SGD, &[], &[Update(0), Update(1), In(2), In(3)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 6.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
    fn alias(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 1)]
    }
}

pub const FAMILY: Family = Family { name: "optim", ops: &["sgd"], kernels: &[&SGD], cases };

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for form in [Form::Torch, Form::Keras] {
        for (nesterov, dampening) in [(false, 0.0), (true, 0.0), (false, 0.25)] {
            for (i, first) in [0.0, 1.0].into_iter().enumerate() {
                let t = Type::f32(&[[3, 41], [7, 5001]][i]);
                let hyper = Draw::Hyper([0.125, 0.875, 0.25, first]);
                let op = Sgd { form, nesterov, dampening };
                let label = format!("{form:?} nesterov {nesterov} dampening {dampening} first {first}");
                let case = Case::new(label, op, &[t, t, t, hyper_type()], &[], Bound::Ulps(8));
                cases.push(case.draw(3, hyper));
            }
        }
    }
    cases
}
