//! What is exported: the evaluation graph of a model, and where in its file each weight lies.

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Op, Value};
use crate::models::{Base, TOWER, Tower};
use crate::ops::{conv, dense};
use crate::preprocess::{Preprocess, View};
use crate::train::checkpoint;
use crate::train::network::Task;
use crate::weights::{CLASSES, LAYOUT, PREPROCESS, TowerWeights, WeightFile};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Metadata key: JSON of the [`Task`] of an exported model, without what only training needs.
pub const MODEL: &str = "model";

/// In which order a weight's values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// [K,R,S,C/groups]; inputs flattened in H,W,C order.
    Ours,
    /// [K,C/groups,R,S]; inputs flattened in C,H,W order. PyTorch's and ONNX's.
    Torch,
}

/// One weight or statistic.
pub struct Stored {
    pub value: Value,
    /// Ours; a tower's without the tower.
    pub name: String,
    /// In the file: `best.` weights of an unfinished run.
    held: String,
    /// In our layout.
    shape: Vec<usize>,
    /// H, W, C of each row (filter, or unit of a dense layer that flattens an image).
    pixels: Option<[usize; 3]>,
    /// Whether those rows are filters, which keep their extents.
    filters: bool,
}

impl Stored {
    /// Its extents in a layout.
    pub fn dims(&self, layout: Layout) -> Vec<usize> {
        match (layout, &self.shape[..]) {
            (Layout::Torch, &[k, r, s, c]) if self.filters => vec![k, c, r, s],
            _ => self.shape.clone(),
        }
    }

    /// Number of values.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What people get: one column of a result [N, columns], or class probabilities.
pub enum Output {
    Target { name: String, of: Value, column: usize },
    Probabilities { of: Value },
}

/// A model of a file.
pub struct ExportModel {
    pub file: Arc<WeightFile>,
    /// What it does, from pictures on.
    pub task: Task,
    pub classes: Vec<String>,
    /// The evaluation of one picture, layer by layer.
    pub graph: Graph,
    /// Inputs: u8 [1,S,S,3] for each of [`Task::views`].
    pub images: Vec<Value>,
    pub views: Vec<View>,
    pub outputs: Vec<Output>,
    /// Everything that the graph reads from the file, in its order.
    pub tensors: Vec<Stored>,
}

impl ExportModel {
    /// Maps a checkpoint or a tower file of ours. Fails on anything else, and where the file lacks a weight of the
    /// network or has it in another shape.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(checkpoint::open(path)?)
    }

    /// The same for a file that is already mapped.
    pub fn new(file: Arc<WeightFile>) -> Result<Self> {
        file.all_intact()?;
        let is_checkpoint = file.metadata().contains_key(checkpoint::CARD);
        let (task, classes) = if is_checkpoint {
            let card = checkpoint::card(&file)?;
            (card.task.whole(), card.classes)
        } else {
            tower(&file)?
        };
        let task = match task {
            Task::EndToEnd { config, .. } => Task::EndToEnd { config, frozen: vec![] },
            task => task,
        };
        let broken = |e: Error| Error::file(file.path(), e.to_string());
        let (graph, x, outs) = task.layers(1).map_err(broken)?;
        let outputs = match &task {
            Task::EndToEnd { config, .. } => {
                let column =
                    |(i, &t): (usize, &usize), of| Output::Target { name: config.targets[t].clone(), of, column: i };
                let all = config.members();
                let member = |(m, &of): (&crate::models::Member, &Value)| -> Vec<(usize, Output)> {
                    m.targets.iter().enumerate().map(|t| (*t.1, column(t, of))).collect()
                };
                let mut named: Vec<(usize, Output)> = all.iter().zip(&outs).flat_map(member).collect();
                named.sort_by_key(|n| n.0);
                // Scores of classes come behind the ratings of all members.
                let scores = if config.classes.is_empty() { None } else { outs.last() };
                named.into_iter().map(|n| n.1).chain(scores.map(|&of| Output::Probabilities { of })).collect()
            }
            _ => vec![Output::Probabilities { of: outs[0] }],
        };
        let scope = match &task {
            Task::Tower { tower, .. } => format!("{}.", tower.name),
            _ => String::new(),
        };
        let needed = graph.needed(&outs);
        let mut tensors = vec![];
        for value in graph.stored() {
            let Some(user) = needed.iter().map(|&n| &graph.nodes()[n]).find(|n| n.ins.contains(&value)) else {
                continue;
            };
            let full = graph.name(value);
            let name = full.strip_prefix(&scope).unwrap_or(full).to_string();
            let held = if is_checkpoint { checkpoint::name_of(&file, full) } else { name.clone() };
            let (shape, found) = (graph.dims(value).to_vec(), file.tensor(&held)?.shape);
            if found != shape {
                return Err(Error::file(file.path(), format!("tensor `{held}` is {found:?} instead of {shape:?}"))
                    .fix("its header describes another network: train the model again"));
            }
            let (filters, pixels) = rows(&graph, user, value);
            tensors.push(Stored { value, name, held, shape, pixels, filters });
        }
        Ok(Self { images: x, views: task.views().map_err(broken)?, file, task, classes, graph, outputs, tensors })
    }

    /// What writes a weight's values as little-endian float32, row by row from the mapped file.
    pub fn values<'a>(&'a self, t: &'a Stored, layout: Layout) -> super::Values<'a> {
        /// Values converted at a time where rows need not stay whole.
        const CHUNK: usize = 1 << 16;
        let pixels = t.pixels.filter(|_| layout == Layout::Torch);
        Box::new(move |w| {
            let whole = self.file.tensor(&t.held).map_err(io::Error::other)?;
            let n = whole.numel();
            let step = pixels.map_or(CHUNK, |p| p.iter().product());
            let mut turned = vec![0.0f32; if pixels.is_some() { step } else { 0 }];
            for first in (0..n).step_by(step) {
                let part = whole.part(first..n.min(first + step));
                let values = part.to_f32().map_err(io::Error::other)?;
                match pixels {
                    None => w.write_all(bytemuck::cast_slice(&values))?,
                    Some([h, wd, c]) => {
                        for (c_, plane) in turned.chunks_exact_mut(h * wd).enumerate() {
                            plane.iter_mut().zip(values[c_..].iter().step_by(c)).for_each(|(y, x)| *y = *x);
                        }
                        w.write_all(bytemuck::cast_slice(&turned))?;
                    }
                }
            }
            Ok(())
        })
    }

    /// How the pictures of every tower are made, one after the other.
    pub fn preprocessing(&self) -> Vec<Preprocess> {
        match &self.task {
            Task::EndToEnd { config, .. } | Task::Head { config } => {
                config.towers.iter().map(|t| t.preprocess.clone()).collect()
            }
            Task::Tower { tower, .. } => vec![tower.preprocess.clone()],
            Task::Classifier { .. } => {
                vec![Preprocess::preset(crate::train::network::CLASSIFIER).expect("a preset of ours")]
            }
        }
    }

    /// Strings that go with the weights: what the model is, and whatever else the file says (a licence, a source), but
    /// nothing of its training.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let ours = [checkpoint::CARD, LAYOUT, "format"];
        let mut all: BTreeMap<String, String> = self
            .file
            .metadata()
            .iter()
            .filter(|m| !ours.contains(&m.0.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        all.insert(MODEL.into(), json(&self.task));
        if let [one] = &self.preprocessing()[..] {
            all.insert(PREPROCESS.into(), json(one));
        }
        if let Task::Tower { tower, .. } = &self.task {
            all.insert(TOWER.into(), json(tower));
        }
        if !self.classes.is_empty() {
            all.insert(CLASSES.into(), json(&self.classes));
        }
        all
    }
}

fn json(x: &impl Serialize) -> String {
    serde_json::to_string(x).expect("plain data")
}

/// The op of a node, if it is a `T`.
pub(super) fn is<T: Op>(n: &Node) -> Option<&T> {
    n.op_as()
}

/// Whether a weight consists of filters, and H, W, C of its rows where their order is a matter of layout.
fn rows(g: &Graph, user: &Node, value: Value) -> (bool, Option<[usize; 3]>) {
    let several = |[h, w, c]: [usize; 3]| (c > 1 && h * w > 1).then_some([h, w, c]);
    if user.ins.get(1) != Some(&value) {
        return (false, None);
    }
    match (g.dims(value), g.dims(user.ins[0])) {
        (&[_, r, s, c], _) if is::<conv::Fprop>(user).is_some() => (true, several([r, s, c])),
        (_, &[_, h, w, c]) if is::<dense::Fprop>(user).is_some() => (false, several([h, w, c])),
        _ => (false, None),
    }
}

/// The tower of a file that is no checkpoint: as its header describes it, else as its tensors do.
fn tower(file: &Arc<WeightFile>) -> Result<(Task, Vec<String>)> {
    let refuse = |why: &str, remedy: &str| Error::file(file.path(), why).fix(remedy);
    if !file.metadata().get(LAYOUT).is_some_and(|l| l.starts_with("KRSC")) {
        return Err(refuse(
            "is neither a checkpoint nor a tower file of this program",
            "`deep-affect weights inspect` shows what it is",
        ));
    }
    let weights = TowerWeights::new(file.clone())?;
    let dims = |name: &str| weights.file.info(name).map(|t| t.shape.clone());
    let described = Tower::described(&weights)?;
    if let Some(t) = described.as_ref().filter(|t| t.dense.is_empty()) {
        if dims(&format!("{}.weight", t.top())).is_none() {
            return Err(refuse(
                "is a network without its last dense layer, which has no classes",
                "train a model on it and export that",
            ));
        }
        let image = weights.image()?.or(t.image).unwrap_or(t.base.network().image);
        return named(file, Task::Tower { tower: t.clone(), image });
    }
    // Outputs and inputs of the dense layers, as the tensors have them.
    let dense: Vec<[usize; 2]> =
        (1..).map_while(|i| <[usize; 2]>::try_from(dims(&format!("fc{i}.weight"))?).ok()).collect();
    let last = dims("conv5_1.weight").and_then(|s| s.first().copied()).unwrap_or(0);
    let (Some(&[classes, _]), Some(&[_, flat])) = (dense.last(), dense.first()) else {
        return Err(refuse(
            "is a tower without dense layers, which has no classes",
            "train a model on it and export that",
        ));
    };
    let side = flat.checked_div(last).unwrap_or(0).isqrt();
    let mut tower = match described {
        Some(t) => t,
        None => {
            let base = weights.kind.network.and_then(|n| n.parse::<Base>().ok());
            let base =
                base.ok_or_else(|| refuse("does not say what network it is", "import the published file again"))?;
            Tower {
                name: "tower".into(),
                width: 512usize.checked_div(last).unwrap_or(0),
                dense: dense[..dense.len() - 1].iter().map(|d| d[0]).collect(),
                classes,
                keep: 1.0,
                preprocess: weights.preprocess()?,
                image: None,
                ..Tower::of(base)
            }
        }
    };
    // What trains on this file believes the same statement.
    if let Ok(p) = weights.preprocess() {
        tower.preprocess = p;
    }
    let image = tower.image.or(weights.image()?).unwrap_or(side.saturating_mul(32));
    named(file, Task::Tower { tower, image })
}

/// With the names of its classes.
fn named(file: &WeightFile, task: Task) -> Result<(Task, Vec<String>)> {
    let refuse = |why: &str, remedy: &str| Error::file(file.path(), why).fix(remedy);
    if !task.sane() {
        return Err(refuse("its header and its tensors contradict each other", "give the file as `pretrain` wrote it"));
    }
    let classes = match file.metadata().get(CLASSES) {
        None => vec![],
        Some(text) => serde_json::from_str(text).map_err(|e| {
            Error::file(file.path(), format!("its class names cannot be read: {e}")).at(format!("metadata `{CLASSES}`"))
        })?,
    };
    Ok((task, classes))
}
