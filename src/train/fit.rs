/*! The training loop. Everything it decides is a function of the settings and the seed, and everything it remembers is in
[`State`]: a run that was stopped anywhere goes on with the same bits. */

use super::network::{EVAL, Losses, Method, Network, Optimizer, PENALTY, Precision, TRAIN, Term};
use super::schedule::{Decay, EarlyStop, Plateau, PlateauRule, Schedule, Verdict};
use super::stored;
use crate::data::Pictures;
use crate::device::Data;
use crate::error::{Error, Result, option};
use crate::graph::Value;
use crate::models::Goal;
use crate::ops::adam::{Adam, Epsilon, WeightDecay};
use crate::ops::augment::Augment;
use crate::ops::loss::Reduction;
use crate::ops::optim::{Form, Sgd};
use crate::par;
use crate::preprocess::View;
use crate::ranks::{Communicator, leads};
use crate::rng::{Rng, Stream};
use serde::{Deserialize, Serialize};
use std::sync::mpsc::sync_channel;

/// How a run goes; the defaults are Parry & Vuong's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub epochs: u32,
    pub batch: usize,
    pub lr: f64,
    /// Lowers the rate when the monitored loss stands still; None keeps it.
    pub plateau: Option<PlateauRule>,
    /// Lowers the rate by itself, instead of `plateau`.
    #[serde(default)]
    pub decay: Option<Decay>,
    /// Updates over which the rate rises in a line to that of the schedule; 0 begins with it.
    #[serde(default)]
    pub warmup: u32,
    #[serde(default)]
    pub optimizer: Updates,
    /// Of SGD, as `nesterov` and `form`.
    pub momentum: f32,
    pub nesterov: bool,
    /// `keras` or `torch`: what the velocity holds when the rate changes.
    pub form: SgdForm,
    /// Of `adam` and `adamw`.
    #[serde(default)]
    pub adam: AdamForm,
    /// Of `adam` and `adamw`: divides by the largest mean of squares so far.
    #[serde(default)]
    pub amsgrad: bool,
    /// Added to the gradient by `sgd` and `adam`, apart from it by `adamw`.
    pub weight_decay: f32,
    /// Epochs without a decrease of the monitored loss after which to stop; 0 never stops early.
    pub patience: u32,
    /// A decrease by no more than this does not count, for `patience` and for `plateau`.
    #[serde(default)]
    pub min_delta: f64,
    pub seed: u64,
    /// Of one run, not of the model: another can take it up.
    #[serde(default)]
    pub precision: Precision,
    /// What happens to the pictures that are trained on.
    #[serde(default)]
    pub augment: Option<Augment>,
    /// How errors become a loss.
    #[serde(default, skip_serializing_if = "Losses::plain")]
    pub losses: Losses,
}

/// What makes updates of gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Updates {
    /// Stochastic gradient descent with momentum, as in the paper.
    #[default]
    Sgd,
    /// Adam (Kingma & Ba 2015; means over .9 and .999), weight decay being an L2 penalty.
    Adam,
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019): for small heads.
    AdamW,
    /// None: a linear head is solved for ([`super::ridge`]).
    Ridge,
}

/// Serialisable twin of [`Form`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SgdForm {
    Keras,
    Torch,
}

impl From<SgdForm> for Form {
    fn from(f: SgdForm) -> Form {
        match f {
            SgdForm::Keras => Form::Keras,
            SgdForm::Torch => Form::Torch,
        }
    }
}

/// Whose Adam: to what eps is added, and how large it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdamForm {
    /// 1e-8 to the root of the corrected mean of squares: PyTorch, Optax.
    #[default]
    Torch,
    /// 1e-7 to the root of the mean of squares as it is: Keras, TensorFlow.
    Keras,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            epochs: 200,
            batch: 25,
            lr: 4e-4,
            plateau: Some(PlateauRule::keras()),
            decay: None,
            warmup: 0,
            optimizer: Updates::Sgd,
            momentum: 0.9,
            nesterov: false,
            form: SgdForm::Keras,
            adam: AdamForm::Torch,
            amsgrad: false,
            weight_decay: 0.0,
            patience: 6,
            min_delta: 0.0,
            seed: 1,
            precision: Precision::Float32,
            augment: None,
            losses: Losses::default(),
        }
    }
}

/// Where the rows of a batch come from.
pub enum Inputs<'a> {
    Pictures(&'a Pictures),
    /// Features of each part: width, then one row after another.
    Features(Vec<(usize, Vec<f32>)>),
}

/// What is to be learned: ratings, classes, or both of the same rows.
#[derive(Default)]
pub struct Targets {
    /// [rows, targets] in points; empty where classes alone are told apart.
    pub ratings: Vec<f32>,
    /// The class of each row; empty where ratings alone are predicted.
    pub labels: Vec<i32>,
}

impl Targets {
    pub fn ratings(ratings: Vec<f32>) -> Self {
        Self { ratings, labels: vec![] }
    }

    pub fn labels(labels: Vec<i32>) -> Self {
        Self { ratings: vec![], labels }
    }
}

/// All rows of a data set; a run names the ones it uses by index.
pub struct Samples<'a> {
    pub inputs: Inputs<'a>,
    pub targets: Targets,
    /// How much each row counts in the loss.
    pub weight: Vec<f32>,
}

/// One epoch of the training log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    pub epoch: u32,
    pub train_loss: f64,
    /// None where nothing was held out.
    pub val_loss: Option<f64>,
    /// The rate of the last update of this epoch.
    pub lr: f64,
    /// What the losses are made of, where there is more than one output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputLoss>,
}

/// The error of one output in an epoch, without weights of losses and without penalties: the mean squared error of a rating
/// in points², the mean cross-entropy of classes in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputLoss {
    /// The rating, or [`super::network::CLASSES`].
    pub name: String,
    /// None where a run of an older program was gone on with in the middle of the epoch.
    pub train: Option<f64>,
    pub val: Option<f64>,
}

/// Schedule and stopping of one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartState {
    pub schedule: Schedule,
    pub stop: EarlyStop,
    pub stopped: bool,
    #[serde(default)]
    pub scale: LossScale,
    /// Updates that were made: all steps but those that were skipped for an overflow.
    #[serde(default)]
    pub updates: u32,
}

/// By what the loss is multiplied in [`Precision::Fp16`] before it is differentiated, a power of two: halved when a gradient
/// overflows, which costs the step, doubled after many steps without (Micikevicius et al. 2018, section 3.2, with
/// the patience of PyTorch's `GradScaler`). It begins lower than there: errors of ratings are larger than those of classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    pub scale: f32,
    /// Steps since the last change.
    pub steps: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { scale: 1024.0, steps: 0 }
    }
}

impl LossScale {
    /// After a step that was taken, or not.
    pub fn next(self, taken: bool) -> Self {
        const PATIENCE: u32 = 2000;
        match (taken, self.steps + 1) {
            (false, _) => Self { scale: (self.scale / 2.0).max(f32::MIN_POSITIVE), steps: 0 },
            (true, PATIENCE..) => Self { scale: (self.scale * 2.0).min(2f32.powi(100)), steps: 0 },
            (true, steps) => Self { steps, ..self },
        }
    }
}

/// Everything a run remembers besides weights and velocities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub epoch: u32,
    /// Batches of this epoch that are done.
    pub batches: u32,
    /// Updates since the beginning.
    pub step: u32,
    /// Sum over this epoch of loss x row weights, per part, and the row weights.
    pub loss_sum: Vec<f64>,
    pub weight_sum: f64,
    /// The same of the error of every output, where a history tells them apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output_sum: Vec<f64>,
    pub parts: Vec<PartState>,
    pub history: Vec<Epoch>,
    pub finished: bool,
}

impl Settings {
    /// Refuses numbers that no run can go by, by the names of their options.
    pub fn check(&self) -> Result<()> {
        let wrong = |flag: &str, x: f64, range: &str| {
            let flag = option(flag);
            Err(Error::usage(format!("{flag} {x} is not a number {range}")).fix(format!("give another {flag}")))
        };
        // Kernels take it as float32.
        if !(self.lr > 0.0 && (self.lr as f32).is_finite()) {
            return wrong("lr", self.lr, "above 0");
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return wrong("momentum", self.momentum.into(), "from 0 to below 1");
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return wrong("weight-decay", self.weight_decay.into(), "from 0 up");
        }
        for (name, weight) in [("ratings", self.losses.ratings), ("classes", self.losses.classes)] {
            if !(weight > 0.0 && weight.is_finite()) {
                return wrong("loss-weights", weight.into(), &format!("above 0 for {name}"));
            }
        }
        Ok(())
    }

    /// How a network is trained by them, its pictures sent batch by batch.
    pub fn method(&self) -> Method {
        let optimizer = match self.optimizer {
            Updates::Sgd | Updates::Ridge => {
                Optimizer::Sgd(Sgd { form: self.form.into(), nesterov: self.nesterov, dampening: 0.0 })
            }
            Updates::Adam | Updates::AdamW => Optimizer::Adam(self.adam()),
        };
        Method { precision: self.precision, augment: self.augment, losses: self.losses, ..optimizer.into() }
    }

    /// Adam as the settings ask for it.
    fn adam(&self) -> Adam {
        let decay = if self.optimizer == Updates::Adam { WeightDecay::Penalty } else { WeightDecay::Decoupled };
        let (epsilon, eps) = match self.adam {
            AdamForm::Torch => (Epsilon::Corrected, 1e-8),
            AdamForm::Keras => (Epsilon::Uncorrected, 1e-7),
        };
        Adam { eps, decay, epsilon, amsgrad: self.amsgrad, ..Adam::default() }
    }

    /// The settings of the next update of a part.
    fn hyper(&self, p: &PartState, epoch: u32, step: u32) -> [f32; 4] {
        let lr = self.rate(&p.schedule, epoch, step);
        match self.optimizer {
            // A part that has stopped stays where it is: without a momentum of zero its velocity would carry it on. Its
            // running statistics go on until the best are put back.
            Updates::Adam | Updates::AdamW if p.stopped => [0.0, 0.0, 1.0, 1.0],
            _ if p.stopped => [0.0; 4],
            Updates::Sgd | Updates::Ridge => [lr as f32, self.momentum, self.weight_decay, (step == 0) as u8 as f32],
            Updates::Adam | Updates::AdamW => {
                self.adam().hyper(lr, self.weight_decay as f64, p.updates + 1).map(|x| x as f32)
            }
        }
    }

    /// The rate of update `step` in epoch `epoch`.
    fn rate(&self, schedule: &Schedule, epoch: u32, step: u32) -> f64 {
        let risen = if step < self.warmup { (step + 1) as f64 / self.warmup as f64 } else { 1.0 };
        risen * schedule.lr(epoch, step as u64)
    }
}

impl State {
    pub fn new(s: &Settings, parts: usize) -> Result<Self> {
        s.check()?;
        let schedule = match (s.plateau, &s.decay) {
            (Some(rule), None) => Schedule::Plateau(Plateau::new(s.lr, rule)?),
            (None, Some(by)) => Schedule::Decay { lr: s.lr, by: by.clone() },
            (None, None) => Schedule::Constant { lr: s.lr },
            (Some(_), Some(_)) => return Err(Error::usage("the rate can follow a plateau or a decay, not both")),
        };
        schedule.check()?;
        let (stop, scale) = (EarlyStop::new(s.patience, s.min_delta), LossScale::default());
        let part = PartState { schedule, stop, stopped: false, scale, updates: 0 };
        Ok(Self {
            epoch: 0,
            batches: 0,
            step: 0,
            loss_sum: vec![0.0; parts],
            weight_sum: 0.0,
            output_sum: vec![],
            parts: vec![part; parts],
            history: vec![],
            finished: false,
        })
    }
}

/// The weights and running statistics of the best epoch so far: per part, per value. Empty before the first epoch has ended.
pub type Best = Vec<Vec<Vec<f32>>>;

/// Who watches a run.
pub trait Watch {
    /// After each update: losses of the parts in this batch. True asks to stop here.
    fn step(&mut self, _state: &State, _batches: u32, _loss: f64) -> bool {
        false
    }
    /// After each update, after each epoch (then no batch of the next one is done), and when the run is stopped: the place to
    /// write a checkpoint if it is time.
    fn keep(&mut self, _net: &Network, _state: &State, _best: &Best) -> Result<()> {
        Ok(())
    }
}

/// Nobody is watching.
impl Watch for () {}

/// A batch on its way to the device, or of several ranks this one's part of it.
struct Batch {
    rows: Vec<usize>,
    /// Of the rows, how many are not padding.
    real: usize,
    weight: Vec<f32>,
    /// What the rows count, and what those of all ranks do.
    counts: f64,
    counted: f64,
    /// How many rows all ranks have.
    all: usize,
    /// Of each view; none where they are on the device.
    pixels: Vec<Vec<u8>>,
}

impl Samples<'_> {
    /// Ratings of row `i`.
    fn ratings(&self, i: usize) -> &[f32] {
        let d = self.targets.ratings.len() / self.weight.len();
        &self.targets.ratings[i * d..(i + 1) * d]
    }

    /// The error of each output of a term for row `i`, of which `said` are the numbers, in float64: squared for each rating,
    /// the cross-entropy of classes.
    fn errors(&self, i: usize, term: &Term, targets: &[usize], said: &[f32]) -> Vec<f64> {
        match term.goal {
            Goal::Ratings => {
                let truth = self.ratings(i);
                targets.iter().zip(said).map(|(t, y)| (*y as f64 - truth[*t] as f64).powi(2)).collect()
            }
            Goal::Classes => {
                let max = said.iter().fold(f64::NEG_INFINITY, |m, y| m.max(*y as f64));
                let sum: f64 = said.iter().map(|y| (*y as f64 - max).exp()).sum();
                vec![max + sum.ln() - said[self.targets.labels[i] as usize] as f64]
            }
        }
    }

    /// What some rows count on average.
    fn mean_weight(&self, rows: &[usize]) -> f64 {
        rows.iter().map(|&i| self.weight[i] as f64).sum::<f64>() / rows.len() as f64
    }

    /// Refuses what would end in NaN: one bad number spoils every weight in one step.
    fn check(&self, rows: [&[usize]; 2]) -> Result<()> {
        let bad = |i: usize, what: &str, x: f32, fix: &str| {
            Err(Error::job(format!("picture {} has the {what} {x}", i + 1)).fix(fix))
        };
        for &i in rows.into_iter().flatten() {
            if !(self.weight[i].is_finite() && self.weight[i] >= 0.0) {
                return bad(i, "weight", self.weight[i], "weights are numbers from 0 up");
            }
            if let Some(x) = self.ratings(i).iter().find(|x| !x.is_finite()) {
                return bad(i, "rating", *x, "ratings are numbers");
            }
        }
        for (rows, what) in rows.into_iter().zip(["train on", "monitor"]) {
            if !rows.is_empty() && rows.iter().all(|&i| self.weight[i] == 0.0) {
                return Err(Error::job(format!("all pictures to {what} have weight 0")).fix("check the weights"));
            }
        }
        Ok(())
    }

    /// The rows of a batch, padded to `n` with the first row at weight 0; `sent` with their pixels.
    fn batch(&self, rows: &[usize], n: usize, sent: bool) -> Batch {
        self.part(rows, 0, n, sent)
    }

    /// The rows of a batch that are those of a rank, padded as above.
    fn part(&self, all: &[usize], rank: usize, n: usize, sent: bool) -> Batch {
        let rows = &all[(rank * n).min(all.len())..((rank + 1) * n).min(all.len())];
        let sum = |rows: &[usize]| rows.iter().map(|&i| self.weight[i] as f64).sum::<f64>();
        let (counts, counted) = (sum(rows), sum(all));
        let mut weight: Vec<f32> = rows.iter().map(|&i| self.weight[i]).collect();
        weight.resize(n, 0.0);
        if counts == 0.0 && counted > 0.0 {
            // Of nothing there is no mean. What these rows come to is multiplied by 0, and has to be a number.
            weight.fill(1.0);
        }
        let real = rows.len();
        let mut rows = rows.to_vec();
        rows.resize(n, all[0]);
        let pixels = match &self.inputs {
            Inputs::Pictures(p) if sent => {
                let gathered = |(view, v): (usize, &View)| {
                    let mut pixels = vec![0; n * v.bytes()];
                    p.gather(&rows, view, &mut pixels);
                    pixels
                };
                p.views().iter().enumerate().map(gathered).collect()
            }
            _ => vec![],
        };
        Batch { rows, real, weight, counts, counted, all: all.len(), pixels }
    }

    /// Writes the inputs of a batch.
    fn feed(&self, net: &mut Network, b: &Batch) -> Result<()> {
        if let Some(rows) = net.rows {
            let numbers: Vec<u32> = b.rows.iter().map(|&i| i as u32).collect();
            net.session.write(rows, Data::U32(&numbers))?;
        }
        match &self.inputs {
            Inputs::Pictures(_) => {
                assert_eq!(net.x.len(), b.pixels.len(), "the pictures are those of the network");
                for (&x, pixels) in net.x.iter().zip(&b.pixels) {
                    net.session.write(x, Data::U8(pixels))?;
                }
            }
            Inputs::Features(parts) => {
                for (&x, (width, values)) in net.x.iter().zip(parts) {
                    let rows: Vec<f32> =
                        b.rows.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect();
                    net.session.write(x, Data::F32(&rows))?;
                }
            }
        }
        net.session.write(net.weight, Data::F32(&b.weight))
    }

    /// Writes what the batch should give, for every part.
    fn feed_targets(&self, net: &mut Network, b: &Batch) -> Result<()> {
        for (part, term) in net.parts.iter().flat_map(|p| p.terms.iter().map(move |t| (p, t))) {
            match term.goal {
                Goal::Ratings => {
                    let of = |&i: &usize| part.targets.iter().map(move |t| self.ratings(i)[*t]);
                    let y: Vec<f32> = b.rows.iter().flat_map(of).collect();
                    net.session.write(term.y, Data::F32(&y))?;
                }
                Goal::Classes => {
                    let y: Vec<i32> = b.rows.iter().map(|&i| self.targets.labels[i]).collect();
                    net.session.write(term.y, Data::I32(&y))?;
                }
            }
        }
        Ok(())
    }
}

/// The order of the training rows in one epoch.
pub fn order(rows: &[usize], seed: u64, epoch: u32) -> Vec<usize> {
    let mut rows = rows.to_vec();
    Rng::new(seed, Stream::Shuffle, epoch).shuffle(&mut rows);
    rows
}

/// Trains until every part has stopped or the epochs are used up, then restores the best weights of each part. `val` is
/// monitored; without it the training loss is.
pub fn fit(
    net: &mut Network,
    data: &Samples,
    [train, val]: [&[usize]; 2],
    s: &Settings,
    state: &mut State,
    best: &mut Best,
    watch: &mut dyn Watch,
) -> Result<()> {
    if train.is_empty() {
        return Err(Error::usage("no pictures to train on").fix("check the manifest and the folds"));
    }
    data.check([train, val])?;
    if let (Inputs::Pictures(p), false) = (&data.inputs, net.tables.is_empty()) {
        assert_eq!(net.tables.len(), p.views().len(), "the pictures are those of the network");
        for (view, &table) in net.tables.iter().enumerate() {
            net.session.write(table, Data::U8(&p.squares(view)))?;
        }
    }
    best.resize(net.parts.len(), vec![]);
    let typical = data.mean_weight(train);
    let total = train.len().div_ceil(net.whole) as u32;
    let rank = net.peers().map_or(0, Communicator::rank);
    // Whether this rank was asked to stop: all stop after the next update, which tells them.
    let mut asked = false;
    while !state.finished {
        let rows = order(train, s.seed, state.epoch);
        let todo: Vec<&[usize]> = rows.chunks(net.whole).skip(state.batches as usize).collect();
        let (n, sent, mut stopped) = (net.batch, net.tables.is_empty(), false);
        // The next batch is gathered (pages of the cache are read) while this one is computed.
        std::thread::scope(|scope| -> Result<()> {
            let (send, receive) = sync_channel(1);
            par::beside(scope, move || {
                todo.into_iter().try_for_each(|rows| send.send(data.part(rows, rank, n, sent)))
            })?;
            for b in receive {
                let (loss, all_asked) = step(net, data, &b, typical, s, state, asked)?;
                asked |= watch.step(state, total, loss);
                if all_asked || asked && net.peers.is_none() {
                    stopped = true;
                    break;
                }
                // The last update of an epoch is kept with what the epoch came to.
                if state.batches < total {
                    watch.keep(net, state, best)?;
                }
            }
            Ok(())
        })?;
        if stopped && state.batches < total {
            watch.keep(net, state, best)?;
            return Err(Error::interrupted(format!("stopped in epoch {} at batch {}", state.epoch + 1, state.batches)));
        }
        end_epoch(net, data, val, s, state, best)?;
        watch.keep(net, state, best)?;
        if stopped && !state.finished {
            return Err(Error::interrupted(format!("stopped after epoch {}", state.epoch)));
        }
    }
    restore(net, best)
}

/// One update of every part that still learns; returns the mean loss over the parts, and whether a rank was `asked` to stop.
/// `typical` is what a row counts on average. On an error `state` is as it was.
fn step(
    net: &mut Network,
    data: &Samples,
    b: &Batch,
    typical: f64,
    s: &Settings,
    state: &mut State,
    asked: bool,
) -> Result<(f64, bool)> {
    let rows = b.counted;
    if let Some(peers) = net.peers() {
        peers.at(state.step.into());
    }
    let mut losses = vec![0.0; net.parts.len()];
    // By part, whether its update was taken or left out because a scaled gradient overflowed.
    let mut taken = vec![false; net.parts.len()];
    // Rows that do not count have no mean, and so no gradient.
    if rows > 0.0 {
        let place = || format!("epoch {}, batch {}", state.epoch + 1, state.batches + 1);
        let share = (rows / b.all as f64 / typical) as f32;
        update(net, data, b, share, s, state).map_err(|e| e.at(place()))?;
        for ((part, loss), taken) in net.parts.iter().zip(&mut losses).zip(&mut taken) {
            // A sum is told of by what a row adds to it.
            let by = if net.losses.reduction == Reduction::Sum { rows } else { 1.0 };
            *loss = net.session.read64(part.loss)?[0] / by;
            *taken = match part.scaling {
                Some(scaling) => net.session.read(scaling.by)?[0] != 0.0,
                None => true,
            };
        }
    }
    let mut errors = if told_apart(net) > 1 && rows > 0.0 { batch_errors(net, data, b)? } else { vec![] };
    let mut stop = [f64::from(u8::from(asked))];
    sum_over_ranks(net, &mut [&mut losses, &mut errors, &mut stop])?;
    if let Some(l) = losses.iter().find(|l| !l.is_finite()) {
        return Err(diverged(*l, &format!("in epoch {} at batch {}", state.epoch + 1, state.batches + 1)));
    }
    if rows > 0.0 {
        for ((part, p), taken) in net.parts.iter().zip(&mut state.parts).zip(taken) {
            if part.scaling.is_some() {
                p.scale = p.scale.next(taken);
            }
            p.updates += taken as u32;
        }
    }
    state.loss_sum.iter_mut().zip(&losses).for_each(|(sum, loss)| *sum += loss * rows);
    if told_apart(net) > 1 {
        // A run of an older program has no sums of the batches before this one.
        if state.batches == 0 {
            state.output_sum = vec![0.0; told_apart(net)];
        }
        state.output_sum.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
    }
    state.weight_sum += rows;
    state.batches += 1;
    state.step += 1;
    Ok((losses.iter().sum::<f64>() / losses.len() as f64, stop[0] > 0.0))
}

/// Adds numbers over all ranks, in the order of the ranks; those of one are left as they are.
fn sum_over_ranks(net: &Network, numbers: &mut [&mut [f64]]) -> Result<()> {
    let Some(peers) = net.peers() else { return Ok(()) };
    let own: Vec<f64> = numbers.iter().flat_map(|n| n.iter().copied()).collect();
    let all = peers.gather(bytemuck::cast_slice(&own))?;
    for (i, sum) in numbers.iter_mut().flat_map(|n| n.iter_mut()).enumerate() {
        let of = |bytes: &Vec<u8>| bytes.get(8 * i..8 * i + 8).map_or(f64::NAN, bytemuck::pod_read_unaligned);
        *sum = all.iter().map(of).sum();
    }
    Ok(())
}

fn diverged(loss: f64, place: &str) -> Error {
    Error::job(format!("the loss is {loss} {place}"))
        .fix(format!("lower {}, or look at the ratings and weights; the last checkpoint is as it was", option("lr")))
}

/// Runs the training plan on a batch, whose rows count `share` times as much as others, or on this rank's part of it.
fn update(net: &mut Network, data: &Samples, b: &Batch, share: f32, s: &Settings, state: &State) -> Result<()> {
    data.feed(net, b)?;
    data.feed_targets(net, b)?;
    if let Some(v) = net.portion {
        let of_sum = f64::from(u8::from(b.counts > 0.0));
        let portion = if net.losses.reduction == Reduction::Sum { of_sum } else { b.counts / b.counted };
        // Exact in float64.
        net.session.write(v, Data::F64(&[portion]))?;
    }
    let rank = net.peers().map_or(0, Communicator::rank);
    net.session.write(net.state, Data::U32(&[s.seed as u32, (s.seed >> 32) as u32, state.step, rank as u32]))?;
    for (part, p) in net.parts.iter().zip(&state.parts) {
        net.session.write(part.hyper, Data::F32(&s.hyper(p, state.epoch, state.step)))?;
        if let Some(v) = part.share {
            net.session.write(v, Data::F32(&[share]))?;
        }
        if let Some(scaling) = part.scaling {
            net.session.write(scaling.scale, Data::F32(&[p.scale.scale]))?;
        }
    }
    net.session.run(TRAIN)
}

/// How many outputs the network has whose errors a history tells apart; one alone is the loss itself.
fn told_apart(net: &Network) -> usize {
    net.parts.iter().flat_map(|p| &p.terms).map(|t| t.names.len()).sum()
}

/// The errors of every output of the network as a batch was trained on, summed over its rows by their weights.
fn batch_errors(net: &Network, data: &Samples, b: &Batch) -> Result<Vec<f64>> {
    let mut sums = vec![];
    for (part, term) in net.parts.iter().flat_map(|p| p.terms.iter().map(move |t| (p, t))) {
        let said = net.session.read(term.prediction)?;
        let real = said.len() / net.batch * b.real;
        sums.extend(sum_errors(data, term, &part.targets, &b.rows[..b.real], &said[..real]));
    }
    Ok(sums)
}

/// The errors of the outputs of a term, summed over rows by their weights; `said` is [rows, outputs].
fn sum_errors(data: &Samples, term: &Term, targets: &[usize], rows: &[usize], said: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; term.names.len()];
    // A rank without rows has none.
    for (&i, said) in rows.iter().zip(said.chunks_exact((said.len() / rows.len().max(1)).max(1))) {
        let errors = data.errors(i, term, targets, said);
        sums.iter_mut().zip(errors).for_each(|(sum, e)| *sum += data.weight[i] as f64 * e);
    }
    sums
}

/// Measures, lowers rates, remembers the best weights, and decides whether to go on.
fn end_epoch(
    net: &mut Network,
    data: &Samples,
    val: &[usize],
    s: &Settings,
    state: &mut State,
    best: &mut Best,
) -> Result<()> {
    let train_loss: Vec<f64> = state.loss_sum.iter().map(|l| l / state.weight_sum).collect();
    first_ranks_statistics(net)?;
    let peers = net.peers.clone();
    let said = if val.is_empty() { None } else { Some(outputs(net, data, val, peers.as_deref())?) };
    let val_loss = said.as_ref().map(|said| losses_of(net, data, val, said)).transpose()?;
    if let Some(l) = val_loss.iter().flatten().find(|l| !l.is_finite()) {
        return Err(diverged(*l, &format!("on the monitored pictures after epoch {}", state.epoch + 1)));
    }
    let mean = |l: &[f64]| l.iter().sum::<f64>() / l.len() as f64;
    let last = state.step.saturating_sub(1);
    let outputs = if told_apart(net) > 1 { output_losses(net, data, val, said.as_deref(), state) } else { vec![] };
    state.history.push(Epoch {
        epoch: state.epoch + 1,
        train_loss: mean(&train_loss),
        val_loss: val_loss.as_deref().map(mean),
        lr: state.parts.iter().map(|p| s.rate(&p.schedule, state.epoch, last)).fold(0.0, f64::max),
        outputs,
    });
    let monitored = val_loss.unwrap_or(train_loss);
    for (i, p) in state.parts.iter_mut().enumerate().filter(|(_, p)| !p.stopped) {
        p.schedule.report(monitored[i]);
        match p.stop.report(state.epoch, monitored[i]) {
            // Who does not write them does not need them.
            Verdict::Best if leads(&net.peers) => remember(net, i, &mut best[i])?,
            Verdict::Best => {}
            Verdict::Continue => {}
            Verdict::Stop => p.stopped = true,
        }
    }
    state.epoch += 1;
    (state.batches, state.weight_sum) = (0, 0.0);
    state.loss_sum.fill(0.0);
    state.output_sum.clear();
    state.finished = state.epoch >= s.epochs || state.parts.iter().all(|p| p.stopped);
    Ok(())
}

/// Gives all ranks the running statistics of the first: each has those of its own rows, and all must evaluate alike. What is
/// evaluated and kept is therefore what rank 0 has seen, as in PyTorch's DistributedDataParallel.
fn first_ranks_statistics(net: &mut Network) -> Result<()> {
    let Some(peers) = net.peers.clone() else { return Ok(()) };
    let statistics: Vec<Value> = net.parts.iter().flat_map(|p| p.statistics.iter().copied()).collect();
    statistics.into_iter().try_for_each(|v| first_ranks(net, &*peers, v))
}

/// Gives all ranks the value that the first one has.
pub fn first_ranks(net: &mut Network, peers: &dyn Communicator, v: Value) -> Result<()> {
    let mut bytes = bytemuck::cast_slice::<f32, u8>(&net.session.values(v)?).to_vec();
    peers.broadcast(0, &mut bytes)?;
    match peers.rank() {
        0 => Ok(()),
        _ => net.session.write(v, Data::F32(&bytemuck::pod_collect_to_vec::<u8, f32>(&bytes))),
    }
}

/// What the losses of an epoch are made of.
fn output_losses(
    net: &Network,
    data: &Samples,
    val: &[usize],
    said: Option<&[Vec<Vec<f32>>]>,
    state: &State,
) -> Vec<OutputLoss> {
    let weight: f64 = val.iter().map(|&i| data.weight[i] as f64).sum();
    let mut all = vec![];
    for (p, part) in net.parts.iter().enumerate() {
        for (t, term) in part.terms.iter().enumerate() {
            let sums = said.map(|said| sum_errors(data, term, &part.targets, val, &said[p][t]));
            for (i, name) in term.names.iter().enumerate() {
                let train = state.output_sum.get(all.len()).map(|sum| sum / state.weight_sum);
                let val = sums.as_ref().map(|sums| sums[i] / weight);
                all.push(OutputLoss { name: name.clone(), train, val });
            }
        }
    }
    all
}

/// Keeps what one part has learned in place of what it knew before: there is never room for both.
fn remember(net: &Network, part: usize, best: &mut Vec<Vec<f32>>) -> Result<()> {
    best.resize(net.parts[part].learned().count(), vec![]);
    for (v, kept) in net.parts[part].learned().zip(best) {
        let values = stored::finite(net.session.graph().name(v), net.session.values(v)?)?;
        kept.clear();
        kept.extend_from_slice(&values);
    }
    Ok(())
}

/// Puts the best weights of each part back.
pub fn restore(net: &mut Network, best: &Best) -> Result<()> {
    for (part, weights) in net.parts.iter().zip(best) {
        for (v, w) in part.learned().zip(weights) {
            net.session.write(v, Data::F32(w))?;
        }
    }
    Ok(())
}

/// What a network says of some rows.
pub struct Said {
    /// [rows, targets] in the order of the model's targets; none where classes alone are told apart.
    pub ratings: Vec<f32>,
    /// Class scores [rows, classes] before the softmax; none where ratings alone are predicted.
    pub scores: Vec<f32>,
}

/// Outputs for some rows, by part and term: [rows, outputs]. With `peers` every rank computes some of the rows, and all have
/// them all: the bits of an output depend neither on who computes it nor on the rows beside it.
fn outputs(
    net: &mut Network,
    data: &Samples,
    rows: &[usize],
    peers: Option<&dyn Communicator>,
) -> Result<Vec<Vec<Vec<f32>>>> {
    let mut all: Vec<Vec<Vec<f32>>> = net.parts.iter().map(|p| vec![vec![]; p.terms.len()]).collect();
    let (rank, ranks) = peers.map_or((0, 1), |p| (p.rank(), p.ranks()));
    let mut own: Vec<f32> = vec![];
    for chunk in rows.chunks(net.batch).skip(rank).step_by(ranks) {
        data.feed(net, &data.batch(chunk, net.batch, net.tables.is_empty()))?;
        net.session.run(EVAL)?;
        for term in net.parts.iter().flat_map(|p| &p.terms) {
            let y = net.session.read(term.output)?;
            own.extend_from_slice(&y[..y.len() / net.batch * chunk.len()]);
        }
    }
    let said = match peers {
        Some(peers) => peers.gather(bytemuck::cast_slice(&own))?,
        None => vec![bytemuck::cast_slice(&own).to_vec()],
    };
    let numbers = |bytes: &Vec<u8>| bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned::<f32>).collect::<Vec<_>>();
    let mut said: Vec<_> = said.iter().map(|bytes| numbers(bytes).into_iter()).collect();
    for (i, chunk) in rows.chunks(net.batch).enumerate() {
        for (term, all) in net.parts.iter().flat_map(|p| &p.terms).zip(all.iter_mut().flatten()) {
            let width = net.session.graph().ty(term.output).row();
            all.extend(said[i % ranks].by_ref().take(width * chunk.len()));
        }
    }
    Ok(all)
}

/// What a network says of some rows.
pub fn said(net: &mut Network, data: &Samples, rows: &[usize]) -> Result<Said> {
    let parts = outputs(net, data, rows, None)?;
    let targets: usize = net.parts.iter().map(|p| p.targets.len()).sum();
    let mut said = Said { ratings: vec![0.0; rows.len() * targets], scores: vec![] };
    for (part, of) in net.parts.iter().zip(parts) {
        for (term, y) in part.terms.iter().zip(of) {
            if term.goal == Goal::Classes {
                said.scores = y;
                continue;
            }
            for (row, y) in y.chunks_exact(part.targets.len()).enumerate() {
                part.targets.iter().zip(y).for_each(|(t, y)| said.ratings[row * targets + t] = *y);
            }
        }
    }
    Ok(said)
}

/// Ratings [rows, targets] in the order of the model's targets.
pub fn predict(net: &mut Network, data: &Samples, rows: &[usize]) -> Result<Vec<f32>> {
    Ok(said(net, data, rows)?.ratings)
}

/// The loss of each part over some rows ([`Losses`]), penalties included, in float64 from the network's outputs.
pub fn losses(net: &mut Network, data: &Samples, rows: &[usize]) -> Result<Vec<f64>> {
    let said = outputs(net, data, rows, None)?;
    losses_of(net, data, rows, &said)
}

/// [`losses`] of outputs that are there.
fn losses_of(net: &mut Network, data: &Samples, rows: &[usize], said: &[Vec<Vec<f32>>]) -> Result<Vec<f64>> {
    let reduction = net.losses.reduction;
    let weights: f64 = rows.iter().map(|&i| data.weight[i] as f64).sum();
    let mut losses = vec![];
    for (part, said) in net.parts.iter().zip(said) {
        let error = |(term, y): (&Term, &Vec<f32>)| -> f64 {
            let one = |(&i, y): (&usize, &[f32])| {
                let each = data.errors(i, term, &part.targets, y);
                let outputs = if reduction == Reduction::Mean { each.len() as f64 } else { 1.0 };
                each.iter().sum::<f64>() / outputs * data.weight[i] as f64
            };
            let sum = rows.iter().zip(y.chunks_exact(y.len() / rows.len())).map(one).sum::<f64>();
            f64::from(term.weight) * (sum / weights)
        };
        losses.push(part.terms.iter().zip(said).map(error).sum());
    }
    // A sum over a batch has the penalty once.
    let by = if reduction == Reduction::Sum { net.whole as f64 } else { 1.0 };
    if net.parts.iter().any(|p| p.penalty.is_some()) {
        net.session.run(PENALTY)?;
        for (part, loss) in net.parts.iter().zip(&mut losses) {
            if let Some(p) = part.penalty {
                *loss += net.session.read(p)?[0] as f64 / by;
            }
        }
    }
    Ok(losses)
}
