/*! Where the towers of a trained model look: Grad-CAM (Selvaraju et al. 2017, section 3). With A the K channels of a
convolution's output and y a target, alpha_k is the mean over the image of dy / dA_k, and the map is
ReLU(sum over k of alpha_k A_k), bright where the tower saw what raises y. What lowers y is the same of -y: both signs
come from one map before its ReLU, and that is what [`Map`] holds.

A is taken after the convolution's ReLU, and after its batch norm: what Keras calls the output of `block5_conv3`. A class
is explained by its score before the softmax, as in the paper. A batch is differentiated at once: pictures do not touch
each other in evaluation, so the gradient of the sum of their targets is each one's own. */

use super::checkpoint::{self, Card};
use super::confusion::likeliest;
use super::network::{Precision, Task};
use super::predictor::softmax;
use crate::device::{Data, Device, MemoryHints, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Role, Value};
use crate::models::{Config, TowerOutput};
use crate::ops::arith::Mul;
use crate::preprocess::{self, View, record};
use crate::shape::Type;
use crate::weights::WeightFile;
use crate::weights::file::Ahead;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What is explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A rating, by its name: through the head into every tower that it is made from.
    Rating(String),
    /// A class of each tower.
    Class(Class),
}

/// Which class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// The likeliest of each picture.
    Top,
    /// Counted from 0.
    Index(usize),
    Name(String),
}

impl Target {
    /// What is explained unless something is asked for: the likeliest class, as in the paper, or all ratings where towers
    /// have no classes; both of a model that gives both.
    pub fn usual(config: &Config) -> Vec<Self> {
        let ratings = config.targets.iter().cloned().map(Target::Rating);
        match (config.classes.is_empty(), config.towers.iter().any(|t| config.output(t) == TowerOutput::Softmax)) {
            (false, _) => [Target::Class(Class::Top)].into_iter().chain(ratings).collect(),
            (true, true) => vec![Target::Class(Class::Top)],
            (true, false) => ratings.collect(),
        }
    }
}

impl FromStr for Target {
    type Err = Infallible;

    /// `class`, `class:3`, `class:golden retriever`; everything else is a rating.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix("class") {
            Some("") => Target::Class(Class::Top),
            Some(rest) if rest.starts_with(':') => Target::Class(match rest[1..].parse() {
                Ok(index) => Class::Index(index),
                Err(_) => Class::Name(rest[1..].into()),
            }),
            _ => Target::Rating(text.into()),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Target::Rating(name) => f.write_str(name),
            Target::Class(Class::Top) => f.write_str("class"),
            Target::Class(Class::Index(index)) => write!(f, "class:{index}"),
            Target::Class(Class::Name(name)) => write!(f, "class:{name}"),
        }
    }
}

/// What raises the target, or what lowers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Plus,
    Minus,
}

/// A tower, and where it is looked into.
#[derive(Clone, Debug)]
pub struct Looked {
    /// `object`; in a split model `valence.object`.
    pub name: String,
    /// As the weights are called: `conv5_3`.
    pub layer: String,
    /// Names of its classes; empty where none are known.
    pub classes: Vec<String>,
    /// Which of the model's views it sees.
    pub view: usize,
    activation: Value,
    /// Class scores [N, classes] before the softmax.
    scores: Option<Value>,
}

/// One map of one picture, before the ReLU.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Index into [`Explainer::towers`].
    pub tower: usize,
    /// Index into [`Explainer::targets`].
    pub target: usize,
    /// The class that is explained, where it is one.
    pub class: Option<usize>,
    /// The predicted rating in points, or the probability of the class.
    pub value: f32,
    /// Height and width.
    pub size: [usize; 2],
    /// sum over k of alpha_k A_k, [height, width].
    pub signed: Vec<f32>,
}

impl Map {
    /// The Grad-CAM map of one sign: what is left after the ReLU.
    pub fn rectified(&self, sign: Sign) -> Vec<f32> {
        let by = if sign == Sign::Plus { 1.0 } else { -1.0 };
        self.signed.iter().map(|x| (by * x).max(0.0)).collect()
    }
}

/// What is known of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// In the order of the model's targets, points.
    pub ratings: Vec<f32>,
    /// By target, then by tower.
    pub maps: Vec<Map>,
}

/// A target differentiated with respect to what one tower computed.
struct Part {
    tower: usize,
    gradient: Value,
    /// Input, of the shape of the output that holds the target: which of its numbers that is, a 1 in each row.
    mask: Value,
    which: Which,
}

/// Which number of a row is explained.
#[derive(Clone, Copy)]
enum Which {
    /// Column of the output, index of the rating.
    Rating(usize, usize),
    /// None: the largest score.
    Class(Option<usize>),
}

/// A trained model, its gradients with respect to one convolution of each tower, and the device that computes both.
pub struct Explainer {
    pub card: Card,
    pub config: Config,
    pub towers: Vec<Looked>,
    pub targets: Vec<Target>,
    session: Session,
    batch: usize,
    images: Vec<Value>,
    views: Vec<View>,
    outputs: Vec<(Vec<usize>, Value)>,
    /// By target; the plan of target i is i + 1, plan 0 gives the outputs alone.
    passes: Vec<Vec<Part>>,
    /// Until the first explanation: whether the weights are as they were written.
    ahead: Option<Ahead>,
}

impl Explainer {
    /// `layer` is a convolution by name, ours (`conv5_3`) or Keras's (`block5_conv3`); by default the last of each tower.
    ///
    /// # Errors
    /// A file that is no model of ratings, a layer that a tower lacks, a target that the model lacks: the message lists
    /// those that there are. A class needs only one tower that has it.
    pub fn new(
        file: &Arc<WeightFile>,
        targets: &[Target],
        layer: Option<&str>,
        batch: usize,
        device: Box<dyn Device>,
    ) -> Result<Self> {
        let card = checkpoint::card(file)?;
        let config = card.config().map_err(|e| Error::file(file.path(), e.to_string()))?.clone();
        let task = Task::EndToEnd { config: config.clone(), frozen: vec![] };
        let (mut g, images, mut said) = task.evaluation(batch, Precision::Float32)?;
        let ahead = Some(checkpoint::read_ahead(file, &g));
        let mut towers = towers(&g, &card, &config, layer)?;
        if !config.classes.is_empty() {
            // The classes of the model are what every tower is looked into for.
            let scores = said.pop();
            towers.iter_mut().for_each(|t| (t.scores, t.classes) = (scores, config.classes.clone()));
        }
        let outputs: Vec<_> = config.members().into_iter().map(|m| m.targets).zip(said).collect();
        let mut build = Builder { g: &mut g, config: &config, towers: &towers, outputs: &outputs };
        let passes = targets.iter().map(|t| build.pass(t)).collect::<Result<Vec<_>>>()?;
        let known = outputs.iter().map(|o| o.1).chain(towers.iter().filter_map(|t| t.scores));
        let mut want: Vec<Vec<Value>> = vec![known.collect()];
        for parts in &passes {
            let looked = parts.iter().flat_map(|p| [towers[p.tower].activation, p.gradient]);
            want.push(want[0].iter().copied().chain(looked).collect());
        }
        let want: Vec<&[Value]> = want.iter().map(Vec::as_slice).collect();
        let options = device.spec().options;
        let mut session =
            Session::within(MemoryHints { weights_mapped: true, reserved_bytes: 0 }, g, &want, options, device)?;
        checkpoint::bind(file, &mut session)?;
        let (views, targets) = (config.views(), targets.to_vec());
        Ok(Self { card, config, towers, targets, session, batch, images, views, outputs, passes, ahead })
    }

    /// Explains pictures: u8 RGB squares as [`super::predictor::Predictor::predict`] takes them.
    pub fn explain(&mut self, squares: &[u8]) -> Result<Vec<Explained>> {
        let size = record(&self.views);
        if !squares.len().is_multiple_of(size) {
            return Err(Error::job(format!("{} bytes are not whole pictures of {size}", squares.len())));
        }
        let mut all = vec![];
        for chunk in squares.chunks(size * self.batch) {
            all.extend(self.piece(chunk, chunk.len() / size)?);
        }
        self.ahead.take().map_or(Ok(()), Ahead::done)?;
        Ok(all)
    }

    /// At most a batch.
    fn piece(&mut self, squares: &[u8], n: usize) -> Result<Vec<Explained>> {
        for (i, (&image, view)) in self.images.iter().zip(&self.views).enumerate() {
            let mut pixels = preprocess::squares(squares, &self.views, i);
            pixels.to_mut().resize(view.bytes() * self.batch, 0);
            self.session.write(image, Data::U8(&pixels))?;
        }
        self.session.run(0)?;
        let targets = self.config.targets.len();
        let mut ratings = vec![0.0; n * targets];
        for (which, v) in &self.outputs {
            let y = self.session.read(*v)?;
            for (all, y) in ratings.chunks_exact_mut(targets).zip(y.chunks_exact(which.len())) {
                which.iter().zip(y).for_each(|(t, y)| all[*t] = *y);
            }
        }
        let blank = |ratings: &[f32]| Explained { ratings: ratings.to_vec(), maps: vec![] };
        let mut explained: Vec<Explained> = (0..n).map(|i| blank(&ratings[i * targets..(i + 1) * targets])).collect();
        for (target, parts) in self.passes.iter().enumerate() {
            // (the explained class, the value of the target), by part and picture.
            let mut chosen: Vec<Vec<(Option<usize>, f32)>> = vec![];
            for part in parts {
                let [rows, width] = self.session.graph().dims(part.mask).try_into().expect("a matrix");
                let mut mask = vec![0.0; rows * width];
                let mut choose = |row: usize, column: usize| mask[row * width + column] = 1.0;
                chosen.push(match part.which {
                    Which::Rating(column, rating) => {
                        (0..rows).for_each(|row| choose(row, column));
                        explained.iter().map(|e| (None, e.ratings[rating])).collect()
                    }
                    Which::Class(class) => {
                        let scores =
                            self.session.read(self.towers[part.tower].scores.expect("a tower with classes"))?;
                        let one = |(row, scores): (usize, &[f32])| {
                            let class = class.unwrap_or_else(|| likeliest(scores));
                            choose(row, class);
                            (Some(class), probability(scores, class))
                        };
                        scores.chunks_exact(width).enumerate().map(one).collect()
                    }
                });
                self.session.write(part.mask, Data::F32(&mask))?;
            }
            self.session.run(target + 1)?;
            for (part, chosen) in parts.iter().zip(chosen) {
                let a = self.towers[part.tower].activation;
                let [_, height, width, k] = self.session.graph().dims(a).try_into().expect("images");
                let (a, d) = (self.session.read(a)?, self.session.read(part.gradient)?);
                let pictures = a.chunks_exact(height * width * k).zip(d.chunks_exact(height * width * k));
                for ((e, (a, d)), (class, value)) in explained.iter_mut().zip(pictures).zip(chosen) {
                    let signed = weighted(a, d, k);
                    e.maps.push(Map { tower: part.tower, target, class, value, size: [height, width], signed });
                }
            }
        }
        Ok(explained)
    }
}

/// sum over k of alpha_k a_k, alpha_k the mean of d_k: a and d [pixels, k] -> [pixels], sums in float64.
fn weighted(a: &[f32], d: &[f32], k: usize) -> Vec<f32> {
    let mut alpha = vec![0.0; k];
    d.chunks_exact(k).for_each(|d| alpha.iter_mut().zip(d).for_each(|(s, d)| *s += f64::from(*d)));
    let pixels = (a.len() / k) as f64;
    let one = |a: &[f32]| (a.iter().zip(&alpha).map(|(a, s)| f64::from(*a) * s).sum::<f64>() / pixels) as f32;
    a.chunks_exact(k).map(one).collect()
}

/// Of the softmax of x, number i.
fn probability(x: &[f32], i: usize) -> f32 {
    (1.0 / x.iter().map(|other| (f64::from(*other) - f64::from(x[i])).exp()).sum::<f64>()) as f32
}

/// Every tower of every member, and the convolution to look into.
fn towers(g: &Graph, card: &Card, config: &Config, layer: Option<&str>) -> Result<Vec<Looked>> {
    let views = config.views();
    let mut towers = vec![];
    for m in config.members() {
        for t in &config.towers {
            let name = format!("{}{}", m.prefix, t.name);
            let scope = format!("{name}.");
            let convolutions: Vec<(&str, Value)> = g
                .nodes()
                .iter()
                .filter(|n| n.plays(Role::Convolution) && n.label.starts_with(&scope))
                .map(|n| (&n.label[scope.len()..], n.outs[0]))
                .collect();
            let found = match layer.map(ours) {
                None => convolutions.last(),
                Some(layer) => convolutions.iter().find(|c| c.0 == layer),
            };
            let Some(&(layer, activation)) = found else {
                let names: Vec<&str> = convolutions.iter().map(|c| c.0).collect();
                let layer = layer.unwrap_or_default();
                return Err(Error::usage(format!("the {name} tower has no convolution `{layer}`"))
                    .fix(format!("choose from {}", names.join(", "))));
            };
            towers.push(Looked {
                layer: layer.into(),
                classes: card.class_names(t),
                view: views.iter().position(|v| *v == config.view(t)).expect("a view of the model"),
                activation,
                scores: softmax(g, &name).map(|n| n.ins[0]),
                name,
            });
        }
    }
    Ok(towers)
}

/// Our name of a convolution that Keras calls `block5_conv3`.
fn ours(name: &str) -> String {
    match name.strip_prefix("block").and_then(|n| n.split_once("_conv")) {
        Some((block, conv)) => format!("conv{block}_{conv}"),
        None => name.into(),
    }
}

/// Appends the gradients of targets to an evaluation.
struct Builder<'a> {
    g: &'a mut Graph,
    config: &'a Config,
    towers: &'a [Looked],
    outputs: &'a [(Vec<usize>, Value)],
}

impl Builder<'_> {
    fn pass(&mut self, target: &Target) -> Result<Vec<Part>> {
        match target {
            Target::Rating(name) => {
                let rating = self.config.targets.iter().position(|t| t == name).ok_or_else(|| self.unknown(target))?;
                let holds = |(which, _): &(Vec<usize>, Value)| which.contains(&rating);
                let member = self.outputs.iter().position(holds).expect("every rating has a member");
                let (which, output) = &self.outputs[member];
                let column = which.iter().position(|t| *t == rating).expect("it holds the rating");
                let per_member = self.config.towers.len();
                let towers = member * per_member..(member + 1) * per_member;
                self.parts(name, *output, towers, Which::Rating(column, rating))
            }
            Target::Class(class) => {
                let mut parts = vec![];
                for (i, t) in self.towers.iter().enumerate() {
                    let Some(scores) = t.scores else { continue };
                    let which = match class {
                        Class::Top => None,
                        Class::Index(index) if *index < self.g.dims(scores)[1] => Some(*index),
                        Class::Name(name) if t.classes.contains(name) => t.classes.iter().position(|c| c == name),
                        _ => continue,
                    };
                    parts.extend(self.parts(&format!("{target} {}", t.name), scores, i..i + 1, Which::Class(which))?);
                }
                if parts.is_empty() { Err(self.unknown(target)) } else { Ok(parts) }
            }
        }
    }

    /// d (sum of what the mask chooses of `output`) / d (what each of some towers computed).
    fn parts(&mut self, name: &str, output: Value, towers: std::ops::Range<usize>, which: Which) -> Result<Vec<Part>> {
        let mask = self.g.input(&format!("explain {name}"), Type::f32(self.g.dims(output)));
        let chosen = self.g.push1(Mul, &[output, mask]);
        let wrt: Vec<Value> = self.towers[towers.clone()].iter().map(|t| t.activation).collect();
        // The adjoint begins with ones of the shape of what is differentiated: with the gradient of its sum.
        let gradients = self.g.backward(chosen, &wrt)?;
        Ok(towers.zip(gradients).map(|(tower, gradient)| Part { tower, gradient, mask, which }).collect())
    }

    /// Names what could have been asked for.
    fn unknown(&self, target: &Target) -> Error {
        let mut there: Vec<String> = self.config.targets.clone();
        let classes = |t: &Looked| {
            let n = self.g.dims(t.scores?)[1];
            let some: Vec<&str> = t.classes.iter().take(NAMED).map(String::as_str).collect();
            let rest = if t.classes.len() > NAMED { ", .." } else { "" };
            let names = if some.is_empty() { String::new() } else { format!(" ({}{rest})", some.join(", ")) };
            Some(format!("class:0 to class:{} of {}{names}", n - 1, t.name))
        };
        let classes: Vec<String> = self.towers.iter().filter_map(classes).collect();
        if !classes.is_empty() {
            there.push("class".into());
        }
        there.extend(classes);
        let why = match (target, there.len() == self.config.targets.len()) {
            (Target::Class(_), true) => ": its towers hand on averaged activations, not classes",
            _ => "",
        };
        Error::usage(format!("the model has no target `{target}`{why}"))
            .fix(format!("choose from {}", there.join(", ")))
    }
}

/// Classes of a tower that a message names.
const NAMED: usize = 9;
