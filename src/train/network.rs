/*! A model as the plans of a training run: one graph with a training step (forward, adjoint, update), an evaluation and,
where weights are penalised, the penalty. */

use crate::device::{self, Device, MemoryHints, Session};
use crate::error::{Error, Result, option};
use crate::graph::{Graph, Kind, Node, Op, Value};
use crate::host::pattern::Drawing;
use crate::launch::Products;
use crate::models::{self, Architecture, Config, Goal, Size, Tower};
use crate::nn::{Mode, Net};
use crate::ops::adam::Adam;
use crate::ops::augment::Augment;
use crate::ops::collective::{self, AllGather, AllReduce, ReduceScatter};
use crate::ops::loss::{CrossEntropy, Mse, Reduction};
use crate::ops::optim::{self, Sgd};
use crate::ops::{arith, cast, dropout, image, norm, pattern};
use crate::plan::Plan;
use crate::preprocess::{Preprocess, View};
use crate::ranks::{BUCKET, Communicator, Peers, pieces, rows_of_a_rank, shares};
use crate::shape::{DType, Type};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "task")]
pub enum Task {
    /// Towers and head, from pictures. `frozen` names towers and parts of towers that are not trained:
    /// `face`, `resnet50.layer1`, `object.conv1*`.
    EndToEnd { config: Config, frozen: Vec<String> },
    /// Only the head, from features that frozen towers computed.
    Head { config: Config },
    /// One tower as a classifier of pictures.
    Tower { tower: Tower, image: usize },
    /// A network of [`models::ALL`] as a classifier of pictures.
    Classifier { network: String, width: usize, classes: usize, image: usize },
}

/// How the pictures of a [`Task::Classifier`] are preprocessed.
pub const CLASSIFIER: &str = "torch";

/// How numbers are stored between ops, and by what convolutions and dense layers multiply them. Sums, weights and their updates
/// are float32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    Float32,
    /// Stored as float32 and as exact: three products of 11 significant bits for one on a GPU's tensor cores. Plain float32 on
    /// the CPU.
    Tf32x3,
    /// Stored as float32, multiplied with 11 significant bits on a GPU's tensor cores. Plain float32 on the CPU.
    Tf32,
    /// Activations, and the copies of weights that multiply them, with 8 significant bits and the range of float32; where the
    /// CPU predicts, the weights of dense layers alone ([`Precision::of_prediction`]).
    Bf16,
    /// The same with 11 significant bits up to 65,504; the loss is scaled so that gradients stay inside.
    Fp16,
}

impl Precision {
    pub fn storage(self) -> DType {
        match self {
            Precision::Float32 | Precision::Tf32x3 | Precision::Tf32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::Fp16 => DType::F16,
        }
    }

    /// What a prediction on a device computes in, and how the weights of dense layers are stored there. A CPU gains nothing by
    /// activations in 16 bits, and much by weights that it reads once for a picture: they alone are rounded, where a GPU
    /// rounds everything.
    pub fn of_prediction(self, device: &dyn Device) -> (Self, Option<DType>) {
        match self.storage().is_half() && device.spec().gpu.is_none() {
            true => (Precision::Float32, Some(self.storage())),
            false => (self, None),
        }
    }

    /// By what a GPU multiplies float32 numbers.
    pub fn products(self) -> Products {
        match self {
            Precision::Tf32x3 => Products::Tf32x3,
            Precision::Tf32 => Products::Tf32,
            _ => Products::Float32,
        }
    }

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Float32 => "float32",
            Precision::Tf32x3 => "tf32x3",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
        }
    }
}

/// What makes updates of gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    Sgd(Sgd),
    Adam(Adam),
}

impl Optimizer {
    /// What it remembers of each parameter, by what states are named after.
    fn remembers(&self) -> &'static [&'static str] {
        match self {
            Optimizer::Sgd(_) => &["velocity"],
            Optimizer::Adam(adam) => adam.memory(),
        }
    }
}

/// How the errors of a model's outputs become the loss that is differentiated: the squared error of its ratings and the
/// cross-entropy of its classes, each by its weight. Penalties of weights are added as they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Losses {
    /// `mean`: over the rows of a batch, and for ratings over their number too; `sum`: over both. A history tells of the mean
    /// over rows in any case, and with `sum` of the sum over ratings.
    pub reduction: Reduction,
    /// Of the squared error, above 0.
    pub ratings: f32,
    /// Of the cross-entropy, above 0.
    pub classes: f32,
}

impl Default for Losses {
    fn default() -> Self {
        Self { reduction: Reduction::Mean, ratings: 1.0, classes: 1.0 }
    }
}

impl Losses {
    /// Whether they are as every model had them before there was a choice.
    pub fn plain(&self) -> bool {
        *self == Self::default()
    }

    fn weight(&self, goal: Goal) -> f32 {
        match goal {
            Goal::Ratings => self.ratings,
            Goal::Classes => self.classes,
        }
    }
}

/// How a network is trained: by what updates, on what numbers, on what pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Method {
    pub optimizer: Optimizer,
    pub precision: Precision,
    /// What happens to pictures that are trained on.
    pub augment: Option<Augment>,
    /// How many pictures lie on the device; None sends it those of each batch.
    pub resident: Option<usize>,
    /// Whether rows count differently: the gradient of a batch is then multiplied by what its rows count on average over
    /// what all rows do ([`Part::share`]). Without that a batch of small weights would pull as hard as one of large ones.
    pub weighted: bool,
    pub losses: Losses,
    /// How many ranks share a batch: each computes a part of its rows, and the gradients are summed over all.
    pub ranks: usize,
    /// Which of them this one is.
    pub rank: usize,
    /// Whether each rank keeps what the optimiser remembers of its share of the parameters alone ([`shares`] of every bucket of
    /// gradients), updates these, and hands them to the others.
    pub sharded: bool,
}

impl From<Optimizer> for Method {
    fn from(optimizer: Optimizer) -> Self {
        Self {
            optimizer,
            precision: Precision::Float32,
            augment: None,
            resident: None,
            weighted: false,
            losses: Losses::default(),
            ranks: 1,
            rank: 0,
            sharded: false,
        }
    }
}

impl From<Sgd> for Method {
    fn from(sgd: Sgd) -> Self {
        Optimizer::Sgd(sgd).into()
    }
}

/// Where gradients could leave the range of their type: by what the loss is scaled, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Scaling {
    /// Input [1].
    pub scale: Value,
    /// Output of the training plan [1]: 1 / scale, or 0 where a gradient was not finite and nothing was updated.
    pub by: Value,
}

/// What history calls the output that tells classes apart.
pub const CLASSES: &str = "classes";

/// A term of a part's loss: what the part says, and what it should say.
pub struct Term {
    pub goal: Goal,
    /// Names of the outputs whose errors a history tells apart: each rating, or [`CLASSES`] as one.
    pub names: Vec<String>,
    /// Input: ratings [N, targets], or labels [N].
    pub y: Value,
    /// Output of the evaluation plan: ratings [N, targets], or class scores [N, classes].
    pub output: Value,
    /// The same as the batch was trained on; an output of the training plan where a history tells outputs apart.
    pub prediction: Value,
    /// By what its error is multiplied in the loss.
    pub weight: f32,
}

/// An independently trained part of the network.
pub struct Part {
    /// Prefix of its parameters.
    pub prefix: String,
    /// Indices of its targets; none where it only tells classes apart.
    pub targets: Vec<usize>,
    /// At least one.
    pub terms: Vec<Term>,
    /// Input [4]: the settings of an update, [`optim::hyper_type`].
    pub hyper: Value,
    /// Of the loss, in [`Precision::Fp16`].
    pub scaling: Option<Scaling>,
    /// Where rows count differently, [1]: mean weight of the batch over mean weight of the training rows.
    pub share: Option<Value>,
    /// Output of the training plan [1]: the errors by their weights, plus the penalty; of several ranks this one's part of it,
    /// so that all parts add up to it.
    pub loss: Value,
    /// Output of the penalty plan [1].
    pub penalty: Option<Value>,
    /// Trained parameters.
    pub params: Vec<Value>,
    /// Which numbers of each of them this rank updates: all, or those of its share.
    pub own: Vec<Range<usize>>,
    /// What the optimiser remembers of the gradients of these, in the same order: SGD's velocities, Adam's means. None of what
    /// this rank does not update.
    pub velocity: Vec<Value>,
    /// What Adam remembers besides ([`Adam::memory`]), parameter by parameter; empty for SGD.
    pub squares: Vec<Value>,
    /// After what all that is named, before the name of the parameter.
    pub remembers: &'static [&'static str],
    /// Running statistics that the training plan updates.
    pub statistics: Vec<Value>,
}

impl Part {
    /// What a run needs besides weights to go on, as far as this rank has it.
    pub fn memory(&self) -> impl Iterator<Item = Value> + '_ {
        self.velocity.iter().chain(&self.squares).copied()
    }

    /// The same of all ranks: one of each parameter's shape, in an order that all ranks have.
    pub fn remembered(&self, g: &Graph) -> Vec<Remembered> {
        let of = |what: &str| {
            let one = |(&param, own): (&Value, &Range<usize>)| {
                let name = format!("{what}.{}", g.name(param));
                Remembered { here: g.find(&name), own: own.clone(), name, param }
            };
            self.params.iter().zip(&self.own).map(one).collect::<Vec<_>>()
        };
        self.remembers.iter().flat_map(|what| of(what)).collect()
    }

    /// Everything that training changes and that evaluation depends on.
    pub fn learned(&self) -> impl Iterator<Item = Value> + '_ {
        self.params.iter().chain(&self.statistics).copied()
    }
}

/// Something that the optimiser remembers of a parameter.
pub struct Remembered {
    pub name: String,
    /// It has its shape.
    pub param: Value,
    /// Which of its numbers this rank has, and where; None where it has none.
    pub own: Range<usize>,
    pub here: Option<Value>,
}

/// A session with everything a training loop touches.
pub struct Network {
    pub session: Session,
    /// Rows that this network computes at once.
    pub batch: usize,
    /// Rows of an update, of all ranks together: those of rank r are from r [`Network::batch`] on.
    pub whole: usize,
    /// The other ranks.
    pub peers: Peers,
    /// Whether each has a share of what the optimiser remembers.
    pub sharded: bool,
    /// Inputs: u8 pictures [N,S,S,3] for each of [`Task::views`], or features [N,F] for each part; none where pictures lie
    /// on the device.
    pub x: Vec<Value>,
    /// States: all u8 pictures [M,S,S,3] for each of the views, where they lie on the device.
    pub tables: Vec<Value>,
    /// Input: rows of the data set [N], where the device has to know them.
    pub rows: Option<Value>,
    /// Input: how much each row counts [N]; 0 for padding.
    pub weight: Value,
    /// Of several ranks, input [1]: what the rows of this one count over what all rows of the batch do; of a sum 1, and 0 for a
    /// rank without rows.
    pub portion: Option<Value>,
    /// Input: seed and step of dropout masks and augmentation, and the rank.
    pub state: Value,
    pub parts: Vec<Part>,
    pub losses: Losses,
}

/// The graph of a network before anything is planned or allocated.
pub struct Blueprint {
    pub graph: Graph,
    /// What each plan is for, by [`TRAIN`], [`EVAL`] and, if weights are penalised, [`PENALTY`].
    pub want: Vec<Vec<Value>>,
    pub batch: usize,
    /// By what it multiplies: for the options of its plans.
    pub products: Products,
    pub x: Vec<Value>,
    pub tables: Vec<Value>,
    pub rows: Option<Value>,
    pub weight: Value,
    pub portion: Option<Value>,
    pub state: Value,
    pub parts: Vec<Part>,
}

/// Values that ranks exchange together.
struct Bucket {
    number: u32,
    /// Their places in the list that buckets were made of.
    members: Vec<usize>,
}

/// Parts values into buckets of [`BUCKET`] bytes, in the order in which they are there.
fn bucketed(g: &Graph, values: &[Value], first: u32) -> Vec<Bucket> {
    let nodes = g.nodes().iter().enumerate();
    let written: HashMap<Value, usize> = nodes.flat_map(|(i, n)| n.outs.iter().map(move |v| (*v, i))).collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|&i| written.get(&values[i]));
    let mut buckets = vec![];
    let mut rest = &order[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |i: &&usize| {
            bytes += g.ty(values[**i]).bytes();
            bytes <= BUCKET
        };
        let n = rest.iter().take(collective::MOST).take_while(fits).count().max(1);
        let (now, later) = rest.split_at(n);
        buckets.push(Bucket { number: first + buckets.len() as u32, members: now.to_vec() });
        rest = later;
    }
    buckets
}

/// Lets the ranks of a method exchange each bucket of `values` by `op`.
fn exchanged<O: Op>(g: &mut Graph, values: &mut [Value], buckets: &[Bucket], op: impl Fn(u32, usize) -> O) {
    for Bucket { number, members } in buckets {
        let ins: Vec<Value> = members.iter().map(|&i| values[i]).collect();
        let outs = g.push(op(*number, ins.len()), &ins);
        members.iter().zip(outs).for_each(|(&i, out)| values[i] = out);
    }
}

/// The updates of a part's parameters.
struct Update {
    optimizer: Optimizer,
    hyper: Value,
    by: Option<Value>,
    /// Whether copies are made of what all ranks have updated, and not here.
    sharded: bool,
    /// What the parameters are afterwards.
    after: Vec<Value>,
    velocity: Vec<Value>,
    squares: Vec<Value>,
}

impl Update {
    /// Of the numbers `own` of parameter `i` along the gradient `d`: all that it writes.
    fn of(&mut self, g: &mut Graph, i: usize, own: Range<usize>, d: Value) -> Vec<Value> {
        let (w, hyper, by) = (self.after[i], self.hyper, self.by);
        let (name, whole) = (g.name(w).to_string(), own.len() == g.ty(w).numel());
        let ty = if whole { g.ty(w) } else { Type::f32(&[own.len()]) };
        let v = g.state(&format!("velocity.{name}"), ty);
        g.set_label(name.rsplit_once('.').map_or(&name, |n| n.0));
        let copy = g.find(&format!("{name}.copy")).filter(|_| !self.sharded);
        let with = |ins: &[Value]| [ins, copy.as_slice(), by.as_slice()].concat();
        let outs = match self.optimizer {
            Optimizer::Sgd(sgd) if whole && copy.or(by).is_none() => g.push(sgd, &[w, v, d, hyper]),
            Optimizer::Sgd(sgd) => {
                let op = optim::Update { sgd, copy: copy.is_some(), scaled: by.is_some(), from: own.start };
                g.push(op, &with(&[w, v, d, hyper]))
            }
            Optimizer::Adam(op) => {
                let more = |m: &&str| g.state(&format!("{m}.{name}"), ty);
                let others: Vec<Value> = op.memory()[1..].iter().map(more).collect();
                self.squares.extend(&others);
                let op = Adam { copy: copy.is_some(), scaled: by.is_some(), from: own.start, ..op };
                g.push(op, &with(&[&[w, v], &others[..], &[d, hyper]].concat()))
            }
        };
        self.velocity.push(v);
        self.after[i] = outs[0];
        outs
    }
}

/// Plans by index.
pub const TRAIN: usize = 0;
pub const EVAL: usize = 1;
pub const PENALTY: usize = 2;

impl Task {
    fn parts(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Task::EndToEnd { config, .. } | Task::Head { config } => {
                config.members().into_iter().map(|m| (m.prefix, m.targets)).collect()
            }
            Task::Tower { .. } | Task::Classifier { .. } => vec![(String::new(), vec![])],
        }
    }

    /// What every part is asked for.
    fn goals(&self) -> Vec<Goal> {
        match self {
            Task::EndToEnd { config, .. } | Task::Head { config } => config.goals(),
            Task::Tower { .. } | Task::Classifier { .. } => vec![Goal::Classes],
        }
    }

    /// Names of the outputs that belong to a goal of a part.
    fn names(&self, goal: Goal, targets: &[usize]) -> Vec<String> {
        match (goal, self) {
            (Goal::Ratings, Task::EndToEnd { config, .. } | Task::Head { config }) => {
                targets.iter().map(|&t| config.targets[t].clone()).collect()
            }
            _ => vec![CLASSES.into()],
        }
    }

    /// Prefixes of the parameter names of each part.
    pub fn prefixes(&self) -> Vec<String> {
        self.parts().into_iter().map(|p| p.0).collect()
    }

    /// What it sees of a photograph: the order of its inputs.
    pub fn views(&self) -> Result<Vec<View>> {
        match self {
            Task::EndToEnd { config, .. } => {
                config.check_seen()?;
                config.check_sides()?;
                Ok(config.views())
            }
            Task::Tower { tower, image } => {
                tower.check_side(*image)?;
                Ok(vec![tower.view(*image)])
            }
            Task::Classifier { image, .. } => Ok(vec![Preprocess::preset(CLASSIFIER)?.view(*image)]),
            Task::Head { .. } => Err(Error::usage("a head alone is trained on features, which have no pixels")
                .fix(format!("train a tower, or leave out {} and {} yes", option("augment"), option("resident")))),
        }
    }

    /// Makes a value of `n` pictures for each view; the second and the following have their number in their name.
    fn pictures(&self, n: usize, name: &str, make: &mut dyn FnMut(&str, Type) -> Value) -> Result<Vec<Value>> {
        let numbered = |i: usize| if i == 0 { name.to_string() } else { format!("{name}{}", i + 1) };
        let one = |(i, v): (usize, &View)| make(&numbered(i), Type::new(DType::U8, &[n, v.side, v.side, 3]));
        Ok(self.views()?.iter().enumerate().map(one).collect())
    }

    /// The inputs: pictures for each view, or features for each part.
    pub(super) fn inputs(&self, g: &mut Graph, batch: usize) -> Result<Vec<Value>> {
        match self {
            Task::Head { config } => {
                let t = Type::f32(&[batch, config.features()]);
                Ok(config.members().iter().map(|m| g.input(&format!("{}features", m.prefix), t)).collect())
            }
            _ => self.pictures(batch, "image", &mut |name, t| g.input(name, t)),
        }
    }

    /// What is predicted for each goal, in float32 as losses and people take it.
    fn forward(&self, net: &mut Net, x: &[Value], part: usize) -> Result<Vec<Value>> {
        let y = match self {
            Task::EndToEnd { config, .. } => config.forward(net, &config.members()[part], x),
            Task::Head { config } => config.predict(net, &config.members()[part], x[part]),
            Task::Tower { tower, .. } => vec![tower.logits(net, x[0])],
            Task::Classifier { network, width, classes, image } => {
                let table = models::find(network)?;
                if *image < table.smallest || *width == 0 || *classes == 0 {
                    let sides = format!("{network} takes images of {} pixels and more, not {image}", table.smallest);
                    return Err(Error::usage(sides).fix(format!("raise {}", option("image"))));
                }
                let x = net.normalize(x[0], &Preprocess::preset(CLASSIFIER)?);
                vec![table.build(net, x, Size { width: *width, outputs: *classes })]
            }
        };
        Ok(y.into_iter().map(|y| net.wide(y)).collect())
    }

    /// Whether a network can be built of it at all. What a file says would otherwise be asserted, not reported.
    pub fn sane(&self) -> bool {
        const LARGEST: usize = 1 << 24;
        const MOST_HEADS: usize = 1000;
        let widths = |all: &[usize]| all.iter().all(|n| (1..=LARGEST).contains(n));
        let tower = |t: &Tower| t.width > 0 && widths(&t.dense) && widths(&[t.classes]);
        let image = |side: usize| (1..=4096).contains(&side);
        match self {
            Task::EndToEnd { config, .. } | Task::Head { config } => {
                // One trunk cannot be split.
                let both = config.goals().len() > 1 && config.architecture == Architecture::Split;
                let empty = config.towers.is_empty() && config.tables.is_empty();
                let some = !empty && !config.goals().is_empty() && !both;
                some && config.check_sides().is_ok()
                    && config.towers.iter().all(tower)
                    && config.tables.iter().all(|t| widths(&[t.columns]))
                    && widths(&config.head)
                    && (1..=MOST_HEADS).contains(&config.heads)
            }
            Task::Tower { tower: t, image: side } => tower(t) && image(*side),
            Task::Classifier { width, classes, image: side, .. } => *width > 0 && widths(&[*classes]) && image(*side),
        }
    }

    /// The task that starts from pictures: a head is used with its towers.
    pub fn whole(&self) -> Self {
        match self {
            Task::Head { config } => Task::EndToEnd { config: config.clone(), frozen: vec![] },
            task => task.clone(),
        }
    }

    /// The evaluation alone: its graph, inputs, and the outputs of each part: its ratings, then its classes.
    pub fn evaluation(&self, batch: usize, precision: Precision) -> Result<(Graph, Vec<Value>, Vec<Value>)> {
        self.evaluated(batch, None, |net| net.stored_as(precision.storage()))
    }

    /// The same in float32 of pictures that are drawn there; its one input are their programs.
    pub fn drawn(&self, batch: usize, how: Drawing) -> Result<(Graph, Vec<Value>, Vec<Value>)> {
        self.evaluated(batch, Some(how), |net| net)
    }

    /// The same in float32 and layer by layer as it was trained, nothing folded: every weight is the one in the file.
    pub fn layers(&self, batch: usize) -> Result<(Graph, Vec<Value>, Vec<Value>)> {
        self.evaluated(batch, None, |net| net.unfolded())
    }

    fn evaluated(
        &self,
        batch: usize,
        drawing: Option<Drawing>,
        how: impl for<'g> FnOnce(Net<'g>) -> Net<'g>,
    ) -> Result<(Graph, Vec<Value>, Vec<Value>)> {
        let mut g = Graph::default();
        let (x, seen) = match drawing {
            None => {
                let x = self.inputs(&mut g, batch)?;
                (x.clone(), x)
            }
            Some(how) => {
                let programs = g.input("programs", pattern::programs_type(batch));
                g.set_label("image");
                let picture = g.push1(pattern::Pattern(how), &[programs]);
                (vec![programs], vec![picture; self.views()?.len()])
            }
        };
        let mut net = how(Net::new(&mut g, Mode::Eval));
        let outputs = (0..self.parts().len()).map(|p| self.forward(&mut net, &seen, p)).collect::<Result<Vec<_>>>()?;
        net.take_penalty();
        g.check()?;
        Ok((g, x, outputs.concat()))
    }

    /// Scopes of a part that are not trained.
    fn frozen(&self, prefix: &str) -> Vec<String> {
        match self {
            Task::EndToEnd { frozen, .. } => {
                let scope = |name: &String| match name.strip_suffix('*') {
                    Some(beginning) => format!("{prefix}{beginning}"),
                    None => format!("{prefix}{name}."),
                };
                frozen.iter().map(scope).collect()
            }
            _ => vec![],
        }
    }

    /// Whether a parameter of this name is updated.
    fn trains(&self, prefix: &str, name: &str) -> bool {
        name.starts_with(prefix) && !self.frozen(prefix).iter().any(|f| name.starts_with(f))
    }
}

impl Blueprint {
    /// Builds and differentiates what one rank does of a batch.
    pub fn new(task: &Task, batch: usize, method: impl Into<Method>) -> Result<Self> {
        let method = method.into();
        let rows = rows_of_a_rank(batch, method.ranks);
        let b = Self::of_rows(task, rows, method)?;
        // Dropout draws four numbers at a time: a rank's first must be the first of four.
        let apart = |n: &Node| n.op_as::<dropout::Mask>().is_some_and(|m| !m.ty.numel().is_multiple_of(4));
        match method.ranks > 1 && b.graph.nodes().iter().any(apart) {
            true => Self::of_rows(task, rows.next_multiple_of(4), method),
            false => Ok(b),
        }
    }

    fn of_rows(task: &Task, batch: usize, method: Method) -> Result<Self> {
        let Method { optimizer, precision, augment, resident, weighted, losses, ranks, rank, sharded } = method;
        let sharded = sharded && ranks > 1;
        // A sum has no mean weight to be put right.
        let weighted = weighted && losses.reduction == Reduction::Mean;
        let storage = precision.storage();
        let mut g = Graph::default();
        let weight = g.input("weight", Type::f32(&[batch]));
        let state = g.input("dropout", dropout::state_type());
        let portion = (ranks > 1).then(|| g.input("portion", Type::f32(&[1])));
        let mut bucket = 0;
        // What comes in, what evaluation sees of it, and what training sees.
        let mut rows = None;
        let mut known = |g: &mut Graph| *rows.get_or_insert_with(|| g.input("rows", Type::new(DType::U32, &[batch])));
        g.set_label("image");
        let (x, tables, seen) = match resident {
            None => {
                let x = task.inputs(&mut g, batch)?;
                (x.clone(), vec![], x)
            }
            Some(all) => {
                let tables = task.pictures(all, "pictures", &mut |name, t| g.state(name, t))?;
                let rows = known(&mut g);
                let seen = tables.iter().map(|&t| g.push1(image::Gather, &[t, rows])).collect();
                (vec![], tables, seen)
            }
        };
        let changed = match augment {
            None => seen.clone(),
            Some(augment) => {
                task.views()?;
                let rows = known(&mut g);
                // What is drawn for a row does not depend on the view.
                seen.iter().map(|&x| g.push1(augment, &[x, rows, state])).collect()
            }
        };
        let (mut parts, mut updates, mut outputs, mut penalties) = (vec![], vec![], vec![], vec![]);
        // Of each part what its parameters are after their updates, and by which buckets ranks exchange them.
        let mut handed: Vec<(Vec<Value>, Vec<Bucket>)> = vec![];
        let (parts_of, goals) = (task.parts(), task.goals());
        let several =
            parts_of.iter().map(|p| goals.iter().map(|g| task.names(*g, &p.1).len()).sum::<usize>()).sum::<usize>() > 1;
        for (p, (prefix, targets)) in parts_of.into_iter().enumerate() {
            // Penalties are computed twice: inside the step, where they are differentiated, and on their own.
            let mut net = Net::new(&mut g, Mode::Eval).stored_as(storage);
            let said = task.forward(&mut net, &seen, p)?;
            let penalty = net.take_penalty();
            let mut net =
                Net::new(&mut g, Mode::Train { state, rows: weight }).freeze(task.frozen(&prefix)).stored_as(storage);
            let predicted = task.forward(&mut net, &changed, p)?;
            let train_penalty = net.take_penalty();
            let (statistics, new): (Vec<Value>, Vec<Value>) = net.take_updates().into_iter().unzip();
            updates.extend(new);
            g.set_label("loss");
            let (mut terms, mut errors) = (vec![], vec![]);
            for ((&goal, output), prediction) in goals.iter().zip(said).zip(predicted) {
                let reduction = losses.reduction;
                let (y, error) = match goal {
                    Goal::Classes => {
                        let y = g.input(&format!("{prefix}label"), Type::new(DType::I32, &[batch]));
                        let op = CrossEntropy { reduction, ..CrossEntropy::default() };
                        (y, g.push1(op, &[prediction, y, weight]))
                    }
                    Goal::Ratings => {
                        let y = g.input(&format!("{prefix}rating"), Type::f32(&[batch, targets.len()]));
                        (y, g.push1(Mse { reduction }, &[prediction, y, weight]))
                    }
                };
                let by = losses.weight(goal);
                errors.push(if by == 1.0 { error } else { g.push1(arith::Scale { by }, &[error]) });
                outputs.push(output);
                terms.push(Term { goal, names: task.names(goal, &targets), y, output, prediction, weight: by });
            }
            let add = |g: &mut Graph, a, b| g.push1(arith::Add, &[a, b]);
            let error = errors.into_iter().reduce(|a, b| add(&mut g, a, b)).expect("a part is asked for something");
            // Of several ranks each has its part of the error, and each the same part of the penalty, which counts once.
            let error = portion.map_or(error, |p| g.push1(arith::Mul, &[error, p]));
            let once = arith::Scale { by: 1.0 / ranks as f32 };
            let train_penalty = train_penalty.map(|l2| if ranks > 1 { g.push1(once, &[l2]) } else { l2 });
            let loss = match train_penalty {
                Some(l2) => g.push1(arith::Add, &[error, l2]),
                None => error,
            };
            let all: Vec<Value> = g.of_kind(Kind::Param).collect();
            let params: Vec<Value> = all.into_iter().filter(|v| task.trains(&prefix, g.name(*v))).collect();
            let scale = (precision == Precision::Fp16).then(|| g.input(&format!("{prefix}scale"), g.ty(loss)));
            // What is differentiated: the error of the batch by its share, the penalty whole.
            let share = weighted.then(|| g.input(&format!("{prefix}share"), g.ty(error)));
            let taught = match (share, train_penalty) {
                (None, _) => loss,
                (Some(share), None) => g.push1(arith::Mul, &[error, share]),
                (Some(share), Some(l2)) => {
                    let error = g.push1(arith::Mul, &[error, share]);
                    g.push1(arith::Add, &[error, l2])
                }
            };
            let scaled = scale.map_or(taught, |s| g.push1(arith::Mul, &[taught, s]));
            let mut grads = g.backward(scaled, &params)?;
            let mut own: Vec<Range<usize>> = params.iter().map(|v| 0..g.ty(*v).numel()).collect();
            let mut buckets = vec![];
            if ranks > 1 {
                g.set_label("ranks");
                buckets = bucketed(&g, &grads, bucket);
                bucket += buckets.len() as u32;
                // Whether a scaled gradient has overflowed is asked of all of it.
                if sharded && scale.is_none() {
                    exchanged(&mut g, &mut grads, &buckets, |bucket, values| ReduceScatter { bucket, ranks, values });
                } else {
                    exchanged(&mut g, &mut grads, &buckets, |bucket, values| AllReduce { bucket, ranks, values });
                }
            }
            if sharded {
                own.fill(0..0);
                for Bucket { members, .. } in &buckets {
                    let sizes: Vec<usize> = members.iter().map(|&i| g.ty(params[i]).numel()).collect();
                    let cuts = shares(&sizes, ranks);
                    for (i, piece) in pieces(&sizes, cuts[rank]..cuts[rank + 1]) {
                        own[members[i]] = piece;
                    }
                }
            }
            let scaling = scale.map(|scale| {
                let ins: Vec<Value> = [scale].into_iter().chain(grads.iter().copied()).collect();
                Scaling { scale, by: g.push1(optim::Unscale, &ins) }
            });
            let hyper = g.input(&format!("{prefix}hyper"), optim::hyper_type());
            let by = scaling.map(|s| s.by);
            let mut update =
                Update { optimizer, hyper, by, sharded, after: params.clone(), velocity: vec![], squares: vec![] };
            for ((i, &d), own) in grads.iter().enumerate().zip(&own).filter(|(_, own)| !own.is_empty()) {
                updates.extend(update.of(&mut g, i, own.clone(), d));
            }
            let Update { after, velocity, squares, .. } = update;
            updates.extend(by);
            updates.push(loss);
            updates.extend(terms.iter().map(|t| t.prediction).filter(|_| several));
            penalties.extend(penalty);
            parts.push(Part {
                prefix,
                targets,
                terms,
                hyper,
                scaling,
                share,
                loss,
                penalty,
                params,
                own,
                velocity,
                squares,
                remembers: optimizer.remembers(),
                statistics,
            });
            handed.push((after, buckets));
        }
        // When the sums of all parts are on their way.
        if sharded {
            for (part, (mut after, buckets)) in parts.iter().zip(handed) {
                g.set_label("ranks");
                exchanged(&mut g, &mut after, &buckets, |bucket, values| AllGather { bucket, ranks, values });
                updates.extend(&after);
                for (&w, after) in part.params.iter().zip(after) {
                    let name = g.name(w).to_string();
                    if let Some(copy) = g.find(&format!("{name}.copy")) {
                        g.set_label(name.rsplit_once('.').map_or(&name, |n| n.0));
                        updates.push(g.push1(cast::Copy, &[after, copy]));
                    }
                }
            }
        }
        let mut want = vec![updates, outputs];
        if !penalties.is_empty() {
            want.push(penalties);
        }
        let products = precision.products();
        Ok(Self { graph: g, want, batch, products, x, tables, rows, weight, portion, state, parts })
    }

    /// Bytes of the weights of the best epoch, which a training run keeps beside the network.
    pub fn best_bytes(&self) -> usize {
        self.parts.iter().flat_map(|p| p.params.iter().chain(&p.statistics)).map(|v| self.graph.ty(*v).bytes()).sum()
    }

    fn want(&self) -> Vec<&[Value]> {
        self.want.iter().map(Vec::as_slice).collect()
    }

    fn memory_hints(&self) -> MemoryHints {
        MemoryHints { weights_mapped: false, reserved_bytes: self.best_bytes() }
    }

    /// Refuses where a device has no room for it.
    pub fn fits(&self, device: &dyn Device) -> Result<()> {
        let (graph, plans) = Plan::all(self.graph.clone(), &self.want(), device.options(self.products))?;
        device::fits(device, &graph, &plans, self.memory_hints())
    }
}

impl Network {
    /// The largest batch below `batch` that the device has room for.
    fn largest_batch(task: &Task, batch: usize, method: Method, device: &dyn Device) -> Option<usize> {
        let fits = |n: usize| Blueprint::new(task, n, method).and_then(|b| b.fits(device)).is_ok();
        // The first fits, or is none; the last does not.
        let (mut fit, mut too_large) = (0, batch);
        while too_large - fit > 1 {
            let n = fit + (too_large - fit) / 2;
            *if fits(n) { &mut fit } else { &mut too_large } = n;
        }
        Some(fit).filter(|n| *n > 0)
    }

    /// Builds, differentiates, plans and allocates what this rank does of a batch that it shares with `peers`.
    pub fn ranked(
        task: &Task,
        batch: usize,
        method: impl Into<Method>,
        mut device: Box<dyn Device>,
        peers: &Peers,
    ) -> Result<Self> {
        let mut method = method.into();
        if let Some(peers) = peers {
            (method.ranks, method.rank) = (peers.ranks(), peers.rank());
            device.connect(peers.clone())?;
        }
        Ok(Self { peers: peers.clone(), ..Self::new(task, batch, method, device)? })
    }

    /// Where each rank has a share of what the optimiser remembers: gives the first rank, which begins with
    /// [`Network::asked`], what it asks for, until it has [`Network::enough`].
    ///
    /// # Errors
    /// A rank that is lost.
    pub fn lend(&self) -> Result<()> {
        let Some(peers) = self.peers() else { return Ok(()) };
        let graph = self.session.graph();
        let all: Vec<Remembered> = self.parts.iter().flat_map(|p| p.remembered(graph)).collect();
        loop {
            let mut name = vec![];
            peers.broadcast(0, &mut name)?;
            let Some(asked) = all.iter().find(|m| m.name.as_bytes() == name) else { return Ok(()) };
            peers.collect(&self.own_bytes(asked)?)?;
        }
    }

    fn own_bytes(&self, m: &Remembered) -> Result<Vec<u8>> {
        let values = m.here.map(|v| self.session.values(v)).transpose()?;
        Ok(values.map_or(vec![], |x| bytemuck::cast_slice(&x).to_vec()))
    }

    /// All of something that the optimiser remembers, as the first rank: of the others what they [`Network::lend`].
    ///
    /// # Errors
    /// A rank that is lost.
    pub fn asked(&self, m: &Remembered) -> Result<Vec<f32>> {
        let Some(peers) = self.peers() else { return Ok(vec![]) };
        peers.broadcast(0, &mut m.name.clone().into_bytes())?;
        // Shares of a parameter follow each other in the order of the ranks.
        let all = peers.collect(&self.own_bytes(m)?)?.concat();
        let values: Vec<f32> = all.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        match values.len() == self.session.graph().ty(m.param).numel() {
            true => Ok(values),
            false => Err(Error::job(format!("the ranks together have {} numbers of {}", values.len(), m.name))),
        }
    }

    /// Tells the ranks that [`Network::lend`] that nothing is left to ask for.
    ///
    /// # Errors
    /// A rank that is lost.
    pub fn enough(&self) -> Result<()> {
        self.peers().map_or(Ok(()), |peers| peers.broadcast(0, &mut vec![]))
    }

    /// The other ranks, if there are any.
    pub fn peers(&self) -> Option<&dyn Communicator> {
        self.peers.as_deref()
    }

    /// Builds, differentiates, plans and allocates.
    pub fn new(task: &Task, batch: usize, method: impl Into<Method>, device: Box<dyn Device>) -> Result<Self> {
        let (method, whole) = (method.into(), batch);
        let b = Blueprint::new(task, batch, method)?;
        b.fits(&*device).map_err(|e| match Self::largest_batch(task, batch, method, &*device) {
            Some(n) => e.fix(format!("{} {n} fits; `deep-affect plan` shows what a choice needs", option("batch"))),
            None => e,
        })?;
        let (hints, options) = (b.memory_hints(), device.options(b.products));
        let session = Session::within(hints, b.graph.clone(), &b.want(), options, device)?;
        let Blueprint { batch, x, tables, rows, weight, portion, state, parts, .. } = b;
        let (losses, sharded) = (method.losses, method.sharded && method.ranks > 1);
        let peers = None;
        Ok(Self { session, batch, whole, peers, sharded, x, tables, rows, weight, portion, state, parts, losses })
    }

    /// Updates after which running statistics are those of the pictures and no longer what they began with: three times
    /// 1 / momentum leaves a twentieth of that. None where nothing updates any.
    pub fn settles(&self) -> Option<u32> {
        let update = |n: &Node| n.op_as::<norm::Update>().map(|u| u.convention.momentum);
        let slowest = self.session.graph().nodes().iter().filter_map(update).reduce(f64::min)?;
        Some((3.0 / slowest).ceil() as u32)
    }

    /// Every weight and statistic of the graph, trained or not.
    pub fn stored(&self) -> Vec<Value> {
        self.session.graph().stored().collect()
    }
}
