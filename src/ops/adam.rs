/*! Adam (Kingma & Ba 2015, *Adam: a method for stochastic optimization*) in the forms that frameworks give it, in place. As in
[`super::optim`], what changes between steps is data. */

use super::optim::{fits, hyper_type};
use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{self, In};
use crate::graph::{Description, GpuCalls, Instance, Io, Op, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Kernel, STORED, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::{DType, Type};

crate::cuda_struct! {
    /// How many elements are updated and from which one on, the shares of the old and the new in both means, what keeps the
    /// division finite, the form of the step, and whether gradients are scaled.
    pub struct Moments {
        n: u32,
        from: u32,
        beta1: f32,
        rest1: f32,
        beta2: f32,
        rest2: f32,
        eps: f32,
        penalty: u32,
        uncorrected: u32,
        amsgrad: u32,
        scaled: u32,
    }
}

static ADAM: Kernel = Kernel::new("adam.cu", "adam", 8, Moments::TEXT).with(STORED);

/// What weight decay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDecay {
    /// An L2 penalty: decay w is added to the gradient, as PyTorch's `Adam` does.
    Penalty,
    /// Weights shrink by rate x decay whatever the gradient is: AdamW (Loshchilov & Hutter 2019, *Decoupled weight decay
    /// regularization*, algorithm 2), and `weight_decay` of Keras's optimisers.
    Decoupled,
}

/// To what eps is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epsilon {
    /// The root of the corrected mean of squares (algorithm 1 of the paper): PyTorch, Optax.
    Corrected,
    /// The root of the mean as it is, the correction standing before the quotient (the end of section 2 of the paper, where it
    /// is called epsilon hat): Keras, TensorFlow.
    Uncorrected,
}

/// One step of Adam; inputs w, m, v, with `amsgrad` the largest v so far, g, hyper [rate, weight decay, c1 = 1 / (1 - beta1^t),
/// c2 = 1 / (1 - beta2^t)] of step t = 1, 2, ... (see [`Adam::hyper`]), then, with `copy`, the copy of w in 16 bits that
/// layers multiply with, and, with `scaled`, by [1]; outputs w, m, v, the largest and the copy in place:
///
/// g = by g, and with [`WeightDecay::Penalty`] g + decay w, else w = w (1 - rate decay);
/// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; largest = max(largest, v);
/// w = w - rate m c1 / (sqrt(v c2) + e), with the largest in v's place where it is kept; e is eps, or eps sqrt(c2) with
/// [`Epsilon::Uncorrected`].
///
/// `by` 0 says that the step is not to be taken, and nothing changes. Where m, v and the largest are shorter than w, only so many
/// elements of w are updated, from `from` on, along those of g.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub decay: WeightDecay,
    pub epsilon: Epsilon,
    /// Divides by the largest mean of squares so far (Reddi, Kale & Kumar 2018, *On the convergence of Adam and beyond*), which
    /// frameworks take before its correction.
    pub amsgrad: bool,
    pub copy: bool,
    pub scaled: bool,
    /// 0 where all of w is updated.
    pub from: usize,
}

impl Default for Adam {
    /// The constants of Kingma & Ba 2015 and of PyTorch's `AdamW`.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            decay: WeightDecay::Decoupled,
            epsilon: Epsilon::Corrected,
            amsgrad: false,
            copy: false,
            scaled: false,
            from: 0,
        }
    }
}

/// Where an operand stands among the inputs; outputs are in the order of w, m, v, largest, copy.
struct Places {
    largest: Option<usize>,
    g: usize,
    hyper: usize,
    copy: Option<usize>,
    by: Option<usize>,
    inputs: usize,
}

/// w, m, v and the largest v after a step of an [`Adam`], in the number type of its arguments; `beta` and `rest` of both means.
/// Without `amsgrad` the largest is v.
macro_rules! update {
    ($op:expr, $w:expr, $m:expr, $v:expr, $largest:expr, $g:expr, $beta:expr, $rest:expr, $eps:expr, $hyper:expr) => {{
        let [lr, decay, c1, c2] = $hyper;
        let (w, g) = match $op.decay {
            WeightDecay::Penalty => ($w, $g + decay * $w),
            WeightDecay::Decoupled => ($w * (1.0 - lr * decay), $g),
        };
        let m = $beta[0] * $m + $rest[0] * g;
        let v = $beta[1] * $v + $rest[1] * (g * g);
        let largest = if $op.amsgrad && $largest > v { $largest } else { v };
        (w - lr * (m * c1) / ((largest * c2).sqrt() + $eps), m, v, largest)
    }};
}

impl Adam {
    /// The settings of step `t`, the first being 1.
    pub fn hyper(&self, lr: f64, decay: f64, t: u32) -> [f64; 4] {
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(t as f64));
        [lr, decay, correction(self.beta1), correction(self.beta2)]
    }

    /// What it remembers of each parameter between steps, after which the states are named.
    pub fn memory(&self) -> &'static [&'static str] {
        if self.amsgrad { &["velocity", "squares", "largest"] } else { &["velocity", "squares"] }
    }

    fn places(&self) -> Places {
        let mut at = 3;
        let mut next = |there: bool| {
            at += there as usize;
            there.then_some(at - 1)
        };
        let (largest, g, hyper) = (next(self.amsgrad), next(true), next(true));
        let (copy, by) = (next(self.copy), next(self.scaled));
        let always = |place: Option<usize>| place.expect("g and hyper are always there");
        Places { largest, g: always(g), hyper: always(hyper), copy, by, inputs: at }
    }

    /// [beta1, beta2], and 1 less each.
    fn shares(&self) -> [[f64; 2]; 2] {
        [[self.beta1, self.beta2], [1.0 - self.beta1, 1.0 - self.beta2]]
    }

    fn numbers(self, n: u32) -> Moments {
        let [[beta1, beta2], [rest1, rest2]] = self.shares().map(|s| s.map(|x| x as f32));
        let penalty = (self.decay == WeightDecay::Penalty) as u32;
        let uncorrected = (self.epsilon == Epsilon::Uncorrected) as u32;
        let [amsgrad, scaled] = [self.amsgrad, self.scaled].map(u32::from);
        let from = count(self.from);
        Moments { n, from, beta1, rest1, beta2, rest2, eps: self.eps as f32, penalty, uncorrected, amsgrad, scaled }
    }
}

impl Op for Adam {
    fn describe(&self) -> Description {
        Description::of("adam").in_place(match (self.amsgrad, self.copy) {
            (false, false) => &[(0, 0), (1, 1), (2, 2)],
            (false, true) => &[(0, 0), (1, 1), (2, 2), (3, 5)],
            (true, false) => &[(0, 0), (1, 1), (2, 2), (3, 3)],
            (true, true) => &[(0, 0), (1, 1), (2, 2), (3, 3), (4, 6)],
        })
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let at = self.places();
        if ins.len() != at.inputs {
            return Err(Error::job(format!("{} inputs are needed, not {}", at.inputs, ins.len())));
        }
        let [w, m] = [ins[0], ins[1]];
        let alike = [Some(2), at.largest].into_iter().flatten().all(|i| ins[i] == m) && ins[at.g] == w;
        if !alike || !fits(&w, &m, self.from) || ins[at.hyper] != hyper_type() {
            return Err(Error::job(
                "w and g of one shape, m, v and what else is remembered of that or of a piece, and hyper [4] are needed",
            ));
        }
        if at.by.is_some_and(|by| ins[by] != Type::f32(&[1])) {
            return Err(Error::job("how often the gradient counts must be [1]"));
        }
        if at.copy.is_some_and(|c| !ins[c].dtype.is_half() || ins[c].shape != w.shape) {
            return Err(Error::job("the copy must have w's shape and 16 bits"));
        }
        Ok([Some(w), Some(m), Some(m), at.largest.map(|_| m), at.copy.map(|c| ins[c])].into_iter().flatten().collect())
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let at = self.places();
        let hyper: [f64; 4] = ins[at.hyper].try_into().expect("checked by infer");
        let by = at.by.map_or(1.0, |by| ins[by][0]);
        let [beta, rest] = self.shares();
        let eps = match self.epsilon {
            Epsilon::Corrected => self.eps,
            Epsilon::Uncorrected => self.eps * hyper[3].sqrt(),
        };
        outs[0].copy_from_slice(ins[0]);
        if let Some(copy) = at.copy {
            outs[3 + self.amsgrad as usize].copy_from_slice(ins[copy]);
        }
        for i in 0..ins[1].len() {
            let k = self.from + i;
            let [m, v, most] = [1, 2, at.largest.unwrap_or(2)].map(|at| ins[at][i]);
            let after = match by {
                0.0 => (ins[0][k], m, v, most),
                _ => update!(self, ins[0][k], m, v, most, by * ins[at.g][k], beta, rest, eps, hyper),
            };
            (outs[0][k], outs[1][i], outs[2][i]) = (after.0, after.1, after.2);
            if at.largest.is_some() {
                outs[3][i] = after.3;
            }
            if at.copy.is_some() && by != 0.0 {
                outs[3 + self.amsgrad as usize][k] = after.0;
            }
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let op = *self;
        host_launches(self, io, group, 0, move |h| {
            let at = op.places();
            let hyper: [f32; 4] = h.input(at.hyper).try_into().expect("checked by infer");
            let by = at.by.map_or(1.0, |by| h.input::<f32>(by)[0]);
            if by == 0.0 {
                return;
            }
            let [beta, rest] = op.shares().map(|s| s.map(|x| x as f32));
            let eps = match op.epsilon {
                Epsilon::Corrected => op.eps as f32,
                Epsilon::Uncorrected => op.eps as f32 * hyper[3].sqrt(),
            };
            let (m, v) = (h.output::<f32>(1), h.output::<f32>(2));
            let piece = op.from..op.from + m.len();
            let (w, g) = (&mut h.output::<f32>(0)[piece.clone()], &h.input::<f32>(at.g)[piece.clone()]);
            if op.amsgrad {
                par::chunks4_mut(w, m, v, h.output::<f32>(3), |at, w, m, v, most| {
                    for ((((w, m), v), most), &g) in w.iter_mut().zip(m).zip(v).zip(most).zip(&g[at..]) {
                        (*w, *m, *v, *most) = update!(op, *w, *m, *v, *most, by * g, beta, rest, eps, hyper);
                    }
                });
            } else {
                par::chunks3_mut(w, m, v, |at, w, m, v| {
                    for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(&g[at..]) {
                        (*w, *m, *v, _) = update!(op, *w, *m, *v, *v, by * g, beta, rest, eps, hyper);
                    }
                });
            }
            if op.copy {
                h.output::<f32>(3 + op.amsgrad as usize)[piece].copy_from_slice(w);
            }
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let at = self.places();
        // Where there is no largest, no copy or no scale, anything stands in its place.
        let largest = Operand::Update(if self.amsgrad { 3 } else { 2 });
        let storage = at.copy.map_or(DType::F32, |copy| io.ins[copy].dtype);
        let copy = Operand::Update(if self.copy { 3 + self.amsgrad as usize } else { 0 });
        let by = In(at.by.unwrap_or(at.hyper));
        let [w, m, v] = [0, 1, 2].map(Operand::Update);
        let operands = [w, m, v, largest, In(at.g), In(at.hyper), copy, by];
        let n = io.ins[1].numel();
        let blocks = n.div_ceil(4 * ADAM.threads as usize);
        // `fours` of kernels/common.cuh takes the number of elements modulo 2^32.
        gpu.call(&ADAM, &[storage.code()], [blocks, 1], &operands, self.numbers(n as u32)).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        let (at, n, all) = (self.places(), io.ins[1].numel(), traffic(io));
        // Of what is larger than m only so many elements are touched.
        let rest = |i: usize| (io.ins[i].bytes() - n * io.ins[i].dtype.bytes()) as f64;
        let copy = at.copy.map_or(0.0, rest);
        Cost { flops: 15.0 * n as f64, read: all.read - rest(0) - rest(at.g) - copy, write: all.write - rest(0) - copy }
    }
}

pub const FAMILY: Family = Family { name: "adam", ops: &["adam"], kernels: &[&ADAM], fuse: &[], cases };

fn cases() -> Vec<Case> {
    let usual = Adam { beta1: 0.75, beta2: 0.875, eps: 1e-3, ..Adam::default() };
    let penalised = Adam { decay: WeightDecay::Penalty, ..usual };
    let keras = Adam { epsilon: Epsilon::Uncorrected, ..usual };
    let half = [(None, false), (None, true), (Some(DType::F16), true), (Some(DType::BF16), false)];
    let mut cases = vec![];
    let mut case =
        |what: &str, op: Adam, (copy, scaled): (Option<DType>, bool), t: u32, dims: [usize; 2], skipped: bool| {
            let (ty, op) = (Type::f32(&dims), Adam { copy: copy.is_some(), scaled, ..op });
            let at = op.places();
            let mut ins = vec![ty; at.inputs];
            ins[at.hyper] = hyper_type();
            at.copy.inspect(|at| ins[*at] = ty.of(copy.expect("it is there")));
            at.by.inspect(|at| ins[*at] = Type::f32(&[1]));
            let label = format!("{what}step {t} copy {copy:?} scaled {scaled} skipped {skipped}");
            let hyper = Draw::Hyper(op.hyper(0.0625, 0.25, t).map(|x| x as f32));
            // m is drawn below 1, v from 1 / 4 up, g below 1 and with the penalty below 1.25, and both means are multiplied by the
            // corrections of `t`: |m c1| / sqrt(v c2) is below 5 (t = 1) and the term that leaves w at most .3. It passes 14
            // roundings, with the penalty 16 and with eps by its correction 1 more, w itself 4, and some w of the output is near
            // 1: 4 + .3 x 17 < 10 units.
            let mut case =
                Case::new(label, op, &ins, &[], Bound::Ulps(10)).draw(2, Draw::Positive).draw(at.hyper, hyper);
            if let Some(largest) = at.largest {
                case = case.draw(largest, Draw::Positive);
            }
            if let Some(by) = at.by {
                case = case.draw(by, if skipped { Draw::Below(1) } else { Draw::Positive });
            }
            cases.push(case);
        };
    for (t, dims) in [(1, [3, 41]), (40, [7, 5001])] {
        for how in half {
            for skipped in if how.1 { &[false, true][..] } else { &[false] } {
                case("", usual, how, t, dims, *skipped);
            }
        }
    }
    // The settings of the first step and of a late one; forms by themselves and with everything else that can be asked for.
    let amsgrad = |op: Adam| Adam { amsgrad: true, ..op };
    case("penalty ", penalised, half[0], 1, [3, 41], false);
    case("penalty ", penalised, half[2], 40, [7, 501], false);
    case("uncorrected ", keras, half[0], 1, [3, 41], false);
    case("uncorrected ", keras, half[3], 40, [7, 501], false);
    case("amsgrad ", amsgrad(usual), half[0], 1, [3, 41], false);
    for skipped in [false, true] {
        case(
            "amsgrad penalty uncorrected ",
            amsgrad(Adam { decay: WeightDecay::Penalty, ..keras }),
            half[2],
            40,
            [7, 5001],
            skipped,
        );
    }
    for (amsgrad, from, n) in [(false, 64, 7 * 501 - 64), (true, 1024, 1536), (false, 4, 5)] {
        let op = Adam { amsgrad, from, ..penalised };
        let (w, m, at) = (Type::f32(&[7, 501]), Type::f32(&[n]), op.places());
        let mut ins = vec![m; at.inputs];
        (ins[0], ins[at.g], ins[at.hyper]) = (w, w, hyper_type());
        let hyper = Draw::Hyper(op.hyper(0.0625, 0.25, 40).map(|x| x as f32));
        let mut case = Case::new(format!("{n} from {from}"), op, &ins, &[], Bound::Ulps(10));
        case = at.largest.into_iter().fold(case, |case, largest| case.draw(largest, Draw::Positive));
        cases.push(case.draw(2, Draw::Positive).draw(at.hyper, hyper));
    }
    cases
}
