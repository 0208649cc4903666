/*! Parameter updates, in place. What changes between steps (rate, momentum, decay) is data, never an attribute: a step is
the same list of launches from first to last. */

use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{self, In, Out};
use crate::graph::{Gpu, Io, Member, Op, host_launches, traffic};
use crate::kernel::gpu::{Count, CudaStruct, Kernel, STORED, count};
use crate::kernel::{Cost, Launch, Simd};
use crate::par;
use crate::shape::{DType, Type};

/// Whose SGD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// v = momentum v + (1 - dampening) g (first step: v = g); w -= lr v. Nesterov: w -= lr (g + momentum v).
    Torch,
    /// v = momentum v - lr g; w += v. Nesterov: w += momentum v - lr g. The same as [`Form::Torch`] until lr changes.
    Keras,
}

crate::cuda_struct! {
    /// Elements, the form of the update, and whether gradients are scaled.
    pub struct Descent { n: u32, keras: u32, nesterov: u32, dampening: f32, scaled: u32 }
}

static SGD: Kernel = Kernel::new("optim.cu", "sgd", 6, Descent::TEXT).with(STORED);

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
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        Update::plain(*self).eval(io, ins, outs)
    }
    fn host(&self, io: &Io, group: &[Member], _: Simd) -> Vec<Launch> {
        Update::plain(*self).host_of(self, io, group)
    }
    fn gpu(&self, gpu: Gpu, io: &Io) -> Vec<Launch> {
        Update::plain(*self).gpu_of(gpu, io)
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 6.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
    fn alias(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 1)]
    }
}

/// [`Sgd`] where 16 bits take part; inputs w, v, g, hyper, then, with `copy`, the copy of w that layers multiply with, and,
/// with `scaled`, by [1]; outputs w, v and the copy in place. The copy becomes w rounded, in the pass that has w in its
/// registers. g counts `by` times; 0 says that the step is not to be taken, and nothing changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    pub sgd: Sgd,
    pub copy: bool,
    pub scaled: bool,
}

impl Update {
    fn plain(sgd: Sgd) -> Self {
        Self { sgd, copy: false, scaled: false }
    }

    fn numbers(self, n: u32) -> Descent {
        let Sgd { form, nesterov, dampening } = self.sgd;
        let [keras, nesterov, scaled] = [form == Form::Keras, nesterov, self.scaled].map(u32::from);
        Descent { n, keras, nesterov, dampening, scaled }
    }

    /// The routine, for `who` is lowered: this op or [`Sgd`].
    fn host_of(self, who: &dyn Op, io: &Io, group: &[Member]) -> Vec<Launch> {
        let op = self;
        host_launches(who, io, group, 0, move |h| {
            let hyper: [f32; 4] = h.input(3).try_into().expect("checked by infer");
            let by = if op.scaled { h.input::<f32>(4 + op.copy as usize)[0] } else { 1.0 };
            let (w, g) = (h.output::<f32>(0), h.input::<f32>(2));
            if by == 0.0 {
                return;
            }
            par::chunks2_mut(w, h.output::<f32>(1), |at, w, v| {
                for ((w, v), &g) in w.iter_mut().zip(v).zip(&g[at..]) {
                    (*w, *v) = update!(op.sgd, f32, *w, *v, by * g, hyper);
                }
            });
            if op.copy {
                h.output::<f32>(2).copy_from_slice(w);
            }
        })
    }
    /// The kernel, as above. Where there is no copy or no scale, anything stands in its place.
    fn gpu_of(self, gpu: Gpu, io: &Io) -> Vec<Launch> {
        let storage = if self.copy { io.ins[4].dtype } else { DType::F32 };
        let copy = if self.copy { Operand::Update(2) } else { Operand::Update(0) };
        let by = In(if self.scaled { 4 + self.copy as usize } else { 3 });
        let operands = [Operand::Update(0), Operand::Update(1), In(2), In(3), copy, by];
        let args = |n| self.numbers(n);
        gpu.map(&SGD, &[storage.code()], &operands, args).done()
    }
}

impl Op for Update {
    fn name(&self) -> &'static str {
        "sgd.update"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let (more, by) = (4 + self.copy as usize, Type::f32(&[1]));
        if ins.len() != more + self.scaled as usize || self.scaled && ins[more] != by {
            return Err(Error::job("w, v, g, hyper and, as asked for, a copy of w and a scale [1] are needed"));
        }
        let mut outs = self.sgd.infer(&ins[..4])?;
        if self.copy {
            if !ins[4].dtype.is_half() || ins[4].shape != ins[0].shape {
                return Err(Error::job("the copy must have w's shape and 16 bits"));
            }
            outs.push(ins[4]);
        }
        Ok(outs)
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let hyper: [f64; 4] = ins[3].try_into().expect("checked by infer");
        let by = if self.scaled { ins[4 + self.copy as usize][0] } else { 1.0 };
        for i in 0..ins[0].len() {
            (outs[0][i], outs[1][i]) = match by {
                0.0 => (ins[0][i], ins[1][i]),
                _ => update!(self.sgd, f64, ins[0][i], ins[1][i], by * ins[2][i], hyper),
            };
            if self.copy {
                outs[2][i] = if by == 0.0 { ins[4][i] } else { outs[0][i] };
            }
        }
    }
    fn host(&self, io: &Io, group: &[Member], _: Simd) -> Vec<Launch> {
        self.host_of(self, io, group)
    }
    fn gpu(&self, gpu: Gpu, io: &Io) -> Vec<Launch> {
        self.gpu_of(gpu, io)
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 6.0 * io.ins[0].numel() as f64, ..traffic(io) }
    }
    fn alias(&self) -> &'static [(usize, usize)] {
        if self.copy { &[(0, 0), (1, 1), (2, 4)] } else { &[(0, 0), (1, 1)] }
    }
}

/// 1 / scale where every element of the gradients is finite, else 0: what [`Update`] takes as `by`. Inputs scale [1] and any
/// number of gradients; output [1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unscale;

static BEGIN_UNSCALE: Kernel = Kernel::new("unscale.cu", "begin_unscale", 2, Count::TEXT);
static UNSCALE: Kernel = Kernel::new("unscale.cu", "unscale", 2, Count::TEXT);

/// Blocks that look through one gradient.
const LOOKERS: usize = 264;

impl Op for Unscale {
    fn name(&self) -> &'static str {
        "unscale"
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [scale, grads @ ..] if *scale == Type::f32(&[1]) && grads.iter().all(|g| g.dtype == DType::F32) => {
                Ok(vec![*scale])
            }
            _ => Err(Error::job("a scale [1] and gradients in float32 are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let finite = ins[1..].iter().all(|g| g.iter().all(|g| g.is_finite()));
        outs[0][0] = if finite { 1.0 / ins[0][0] } else { 0.0 };
    }
    fn host(&self, io: &Io, group: &[Member], _: Simd) -> Vec<Launch> {
        let grads = io.ins.len();
        host_launches(self, io, group, 0, move |h| {
            // A sum of products with zero is zero, or NaN.
            let finite = |i| h.input::<f32>(i).iter().fold(0.0, |sum, g| sum + g * 0.0) == 0.0;
            h.output::<f32>(0)[0] = if (1..grads).all(finite) { 1.0 / h.input::<f32>(0)[0] } else { 0.0 };
        })
    }
    fn gpu(&self, mut gpu: Gpu, io: &Io) -> Vec<Launch> {
        gpu = gpu.call(&BEGIN_UNSCALE, &[], [1, 1], &[In(0), Out(0)], Count { n: 1 });
        for (i, g) in io.ins.iter().enumerate().skip(1) {
            let n = count(g.numel());
            let blocks = g.numel().div_ceil(1024).min(LOOKERS);
            gpu = gpu.call(&UNSCALE, &[], [blocks, 1], &[In(i), Operand::Update(0)], Count { n });
        }
        gpu.done()
    }
}

pub const FAMILY: Family =
    Family { name: "optim", ops: &["sgd", "sgd.update", "unscale"], kernels: &[&SGD, &BEGIN_UNSCALE, &UNSCALE], cases };

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
    let t = Type::f32(&[7, 501]);
    let hyper = |first| Draw::Hyper([0.125, 0.875, 0.25, first]);
    let sgd = Sgd { form: Form::Keras, nesterov: true, dampening: 0.0 };
    for (copy, scaled) in [(None, true), (Some(DType::F16), true), (Some(DType::BF16), false)] {
        let mut ins = vec![t, t, t, hyper_type()];
        ins.extend(copy.map(|half| t.of(half)));
        ins.extend(scaled.then_some(Type::f32(&[1])));
        for skipped in if scaled { &[false, true][..] } else { &[false] } {
            let op = Update { sgd, copy: copy.is_some(), scaled };
            let label = format!("copy {copy:?} scaled {scaled} skipped {skipped}");
            let mut case = Case::new(label, op, &ins, &[], Bound::Ulps(8)).draw(3, hyper(0.0));
            if scaled {
                let by = if *skipped { Draw::Below(1) } else { Draw::Positive };
                case = case.draw(ins.len() - 1, by);
            }
            cases.push(case);
        }
    }
    let grads = [Type::f32(&[1]), Type::f32(&[3, 41]), Type::f32(&[1, 5003])];
    cases.push(Case::new("finite", Unscale, &grads, &[], Bound::Ulps(2)).draw(0, Draw::Positive));
    for bad in [1, 2] {
        let case = Case::new(format!("infinite gradient {bad}"), Unscale, &grads, &[], Bound::Exact);
        cases.push(case.draw(0, Draw::Positive).draw(bad, Draw::Infinite));
    }
    cases
}
