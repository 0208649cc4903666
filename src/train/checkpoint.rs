/*! What a run keeps on disk: one safetensors file, replaced atomically. A finished run's file holds the best weights and
is all that `predict` needs; an unfinished one also holds what the optimiser remembers, the best weights so far and the state of the loop,
from which training goes on with the same bits. */

use super::fit::{Best, Settings, State};
use super::network::{Network, Part, Remembered, Task};
use super::params::{self, MappedFile};
use super::stored::{self, Source, Stored};
use crate::bundled;
use crate::data::Alpha;
use crate::device::{Data, Session};
use crate::error::{Error, Result, option};
use crate::graph::{Graph, Value};
use crate::launch::half;
use crate::models::{Config, TOWER, Tower};
use crate::shape::DType;
use crate::weights::file::Ahead;
use crate::weights::import::SOURCE_SHA256;
use crate::weights::{IMAGE, LAYOUT, PREPROCESS, TowerWeights, WeightFile};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

const BEST: &str = "best.";

/// The header of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// [`FORMAT`].
    pub format: String,
    pub task: Task,
    pub settings: Settings,
    pub state: State,
    /// Mean of each target over the training rows: the baseline of every later evaluation.
    pub train_mean: Vec<f64>,
    /// Names of the classes that are told apart, in the order of the outputs.
    pub classes: Vec<String>,
    /// Fingerprint of pictures, ratings and split: a run resumes only on the same data.
    pub data: String,
    /// For people: the command, the device.
    pub made_by: String,
    /// What was done with transparency; `predict` does the same.
    #[serde(default)]
    pub alpha: Alpha,
    /// Class names of a fused model's towers, by tower, where their files have them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tower_classes: BTreeMap<String, Vec<String>>,
    /// Empty in files of older programs.
    #[serde(default)]
    pub origin: Origin,
}

/// What a model was made of, so that a later command can tell what it may be compared with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// What decides the numbers beside settings and pictures, by what people call it: the SHA-256 of weight files, and in a
    /// study everything that a cell rests on.
    pub basis: BTreeMap<String, String>,
    /// Of the pictures that were trained on, and of those that were monitored: [`hash::checksum`] of what the network
    /// sees, 16 hexadecimal digits each.
    pub trained: String,
    pub monitored: String,
}

impl Origin {
    /// The pictures of a part, as the card has them.
    pub fn pictures(sums: impl Iterator<Item = u64>) -> String {
        sums.map(|s| format!("{s:016x}")).collect()
    }

    /// How many of some pictures were trained on, and how many were monitored; None if the file does not say.
    pub fn seen(&self, sums: impl Iterator<Item = u64>) -> Option<[usize; 2]> {
        let of = |all: &str| all.as_bytes().chunks(16).map(<[u8]>::to_vec).collect::<HashSet<_>>();
        let known = [&self.trained, &self.monitored].map(|all| of(all));
        let mut seen = [0; 2];
        for sum in sums {
            let sum = format!("{sum:016x}").into_bytes();
            seen.iter_mut().zip(&known).for_each(|(n, known)| *n += usize::from(known.contains(&sum)));
        }
        (!self.trained.is_empty()).then_some(seen)
    }

    /// Of a model that is made of several: all pictures that any of them has seen, and what they rest on alike.
    pub fn joined<'a>(all: impl Iterator<Item = &'a Origin> + Clone) -> Self {
        let pictures = |of: fn(&Origin) -> &String| -> String {
            let parts = all.clone().flat_map(|o| of(o).as_bytes().chunks(16));
            let parts: BTreeSet<&str> = parts.filter_map(|c| std::str::from_utf8(c).ok()).collect();
            parts.into_iter().collect()
        };
        let mut basis = all.clone().next().map_or_else(BTreeMap::new, |o| o.basis.clone());
        all.clone().for_each(|o| basis.retain(|k, v| o.basis.get(k) == Some(v)));
        Self { trained: pictures(|o| &o.trained), monitored: pictures(|o| &o.monitored), basis }
    }
}

/// Names of what two runs do not rest on alike. A file of an older program, which says nothing, differs in that alone.
pub fn differing(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|n| old.get(*n) != new.get(*n)).cloned().collect()
}

/// Version of the file format: always with checksums.
pub const FORMAT: &str = "deep-affect-checkpoint-2";
/// The same without checksums, as earlier versions wrote it.
const WITHOUT_SUMS: &str = "deep-affect-checkpoint-1";
/// Metadata key of the header: only checkpoints have it.
pub const CARD: &str = "checkpoint";

impl Card {
    /// Names of a tower's classes in the order of its outputs: its file's, or those of the network that was published
    /// for it. Empty where they are not known.
    pub fn class_names(&self, tower: &Tower) -> Vec<String> {
        let published = match (&*tower.name, tower.classes) {
            ("object", 1000) => bundled::classes("imagenet"),
            ("scene", 365) => bundled::classes("places365"),
            (name, 1000) if name == tower.base.name() => bundled::classes("imagenet"),
            _ => None,
        };
        let own = self.tower_classes.get(&tower.name).filter(|names| names.len() == tower.classes);
        own.cloned().unwrap_or_else(|| published.unwrap_or_default().into_iter().map(String::from).collect())
    }

    /// The model of this checkpoint.
    pub fn config(&self) -> Result<&Config> {
        match &self.task {
            Task::EndToEnd { config, .. } | Task::Head { config } => Ok(config),
            Task::Tower { .. } | Task::Classifier { .. } => Err(Error::job("is a tower, not a model with a head")
                .fix("give it to `train --weights`, or name a checkpoint of `train`")),
        }
    }
}

/// Writes a checkpoint, tensor by tensor from where each one is, and keeps the one that was there before
/// ([`crate::atomic::previous`]). When the run is finished, only weights are written: the
/// session must hold the best ones. `extra` are the weights that are part of the model but not of the network being
/// trained: frozen towers'. Where ranks share what the optimiser remembers, the first one writes, and the others
/// [`Network::lend`] meanwhile.
pub fn save(path: &Path, card: &Card, net: &Network, best: &Best, extra: &[Stored]) -> Result<()> {
    let (session, graph) = (&net.session, net.session.graph());
    let own = net.stored().into_iter().map(|v| Stored::of(session, v));
    let mut tensors: Vec<Stored> = extra.iter().cloned().chain(own).collect();
    let shared: Vec<Vec<Remembered>> = net.parts.iter().map(|p| p.remembered(graph)).collect();
    if !card.state.finished {
        for ((i, part), remembered) in net.parts.iter().enumerate().zip(&shared) {
            for m in remembered {
                let source = match m.here.filter(|_| !net.sharded) {
                    Some(v) => Source::Session(session, v),
                    None => Source::Ranks(net, m),
                };
                tensors.push(Stored { name: m.name.clone(), shape: graph.dims(m.param).into(), source });
            }
            for (v, best) in part.learned().zip(best.get(i).into_iter().flatten()) {
                let name = format!("{BEST}{}", graph.name(v));
                tensors.push(Stored { name, shape: graph.dims(v).into(), source: Source::Slice(best) });
            }
        }
    }
    let text = serde_json::to_string(card).map_err(|e| Error::file(path, format!("cannot write the state: {e}")))?;
    let mut metadata = BTreeMap::from([(CARD.to_string(), text), (LAYOUT.to_string(), "KRSC".to_string())]);
    if let Task::Tower { tower, image } = &card.task {
        let p = serde_json::to_string(&tower.preprocess).expect("a preset is plain data");
        metadata.insert(PREPROCESS.into(), p);
        metadata.insert(IMAGE.into(), image.to_string());
    }
    stored::write_keeping(path, &metadata, &tensors)?;
    match net.sharded && !card.state.finished {
        true => net.enough(),
        false => Ok(()),
    }
}

/// How long [`save`] makes the file of an unfinished run, at most.
pub fn bytes(net: &Network, extra: &[Stored]) -> u64 {
    /// Names, shapes, the state of the loop.
    const HEADER: u64 = 1 << 20;
    let graph = net.session.graph();
    let of_part = |p: &Part| {
        let remembered = p.remembered(graph).into_iter().map(|m| m.param);
        remembered.chain(p.learned()).collect::<Vec<_>>()
    };
    let own = net.stored().into_iter().chain(net.parts.iter().flat_map(of_part));
    let own = own.map(|v| graph.ty(v).numel());
    let values: usize = extra.iter().map(|t| t.shape.iter().product()).chain(own).sum();
    HEADER + 4 * values as u64
}

/// Metadata key: JSON of the towers whose weights are not in the file, by name, and which of the program they are
/// ([`bundled_tower`]).
pub const BUNDLED_TOWERS: &str = "bundled_towers";

/// The convolutions inside the program, and what tells them from others: where they came from, and their length.
pub fn bundled_tower() -> Result<Option<(Arc<WeightFile>, String)>> {
    let Some(bytes) = bundled::tower() else { return Ok(None) };
    let file = WeightFile::from_static("bundled tower", bytes)?;
    let source = file.metadata().get(SOURCE_SHA256).map_or("", String::as_str);
    let identity = format!("sha256:{source}, {} bytes", bytes.len());
    Ok(Some((file, identity)))
}

/// Maps a checkpoint, with the towers that it leaves to the program.
pub fn open(path: impl AsRef<Path>) -> Result<Arc<WeightFile>> {
    complete(WeightFile::open(path)?)
}

/// The same for a file that is already mapped.
///
/// # Errors
/// A tower that is not the one of this program.
pub fn complete(file: Arc<WeightFile>) -> Result<Arc<WeightFile>> {
    let Some(text) = file.metadata().get(BUNDLED_TOWERS) else { return Ok(file) };
    let wrong = |why: &str| {
        Error::file(file.path(), why).fix("use the version of the program that wrote it, or make the model again")
    };
    let towers: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|_| wrong("does not say which towers it leaves to the program"))?;
    let (tower, identity) = bundled_tower()?.ok_or_else(|| wrong("needs a tower that this program does not have"))?;
    if towers.values().any(|t| *t != identity) {
        return Err(wrong("needs another tower than this program has"));
    }
    let mut all = file.clone();
    for name in towers.keys() {
        all = all.joined(&format!("{name}."), tower.clone());
    }
    Ok(all)
}

/// Reads the header of a checkpoint.
pub fn card(file: &WeightFile) -> Result<Card> {
    let text = file.metadata().get(CARD).ok_or_else(|| match file.metadata().contains_key(TOWER) {
        true => Error::file(file.path(), "is a network, not a model that was trained on a manifest").fix(
            "`deep-affect features FILE PICTURES` tells its classes; `train --weights TOWER=FILE` makes a model of it",
        ),
        false => Error::file(file.path(), "is not a checkpoint of this program")
            .fix("`deep-affect weights inspect` shows what it is; weights of towers go to `train --weights`"),
    })?;
    let card: Card = serde_json::from_str(text)
        .map_err(|e| Error::file(file.path(), format!("its state cannot be read: {e}")).at("header"))?;
    if card.format == FORMAT && !file.has_sums() {
        return Err(Error::file(file.path(), "has lost its checksums: the file is damaged").fix("use another copy"));
    }
    if ![FORMAT, WITHOUT_SUMS].contains(&&*card.format) {
        return Err(Error::file(file.path(), format!("has format `{}`, not `{FORMAT}`", card.format))
            .fix("use the version of the program that wrote it"));
    }
    if !card.task.sane() {
        return Err(Error::file(file.path(), "its header contradicts itself").fix("train the model again"));
    }
    Ok(card)
}

/// A tower of a model that has been trained, as the weights of another one's.
///
/// # Errors
/// A run that has not ended, a model without that tower, or one with a network for each rating.
pub fn tower(file: Arc<WeightFile>, name: &str) -> Result<TowerWeights> {
    let card = card(&file)?;
    let file = complete(file)?;
    let refuse = |why: String, remedy: &str| Err(Error::file(file.path(), why).fix(remedy));
    if !card.state.finished {
        return refuse("is of a run that has not ended".into(), &format!("end it with {}", option("resume")));
    }
    let (tower, side) = match &card.task {
        Task::EndToEnd { config, .. } | Task::Head { config } => {
            if config.members().len() > 1 {
                return refuse(
                    "has a network for each rating".into(),
                    &format!("take a model of {} shared", option("architecture")),
                );
            }
            let Some(tower) = config.towers.iter().find(|t| t.name == name) else {
                let names: Vec<&str> = config.towers.iter().map(|t| t.name.as_str()).collect();
                return refuse(format!("has no tower `{name}`"), &format!("its towers are {}", names.join(", ")));
            };
            (tower, config.view(tower).side)
        }
        Task::Tower { tower, image } => (tower, *image),
        Task::Classifier { .. } => {
            return refuse("is a network without a tower".into(), "train it with `train --network`");
        }
    };
    let json = |x: serde_json::Result<String>| x.expect("plain data");
    let described = Tower { image: None, output: None, scale: 1.0, ..tower.clone() };
    let metadata = BTreeMap::from([
        (LAYOUT.to_string(), "KRSC".to_string()),
        (PREPROCESS.into(), json(serde_json::to_string(&tower.preprocess))),
        (IMAGE.into(), side.to_string()),
        (TOWER.into(), json(serde_json::to_string(&described))),
    ]);
    TowerWeights::new(file.scoped(&format!("{}.", tower.name), metadata))
}

/// A file of `weights import` or `pretrain` as a model: its network, with its weights under their whole names.
///
/// # Errors
/// A file without the last dense layer, whose classes nobody knows.
pub fn of_tower(file: Arc<WeightFile>) -> Result<(Arc<WeightFile>, Task)> {
    let weights = TowerWeights::new(file)?;
    let path = weights.file.path().to_path_buf();
    let Some(tower) = Tower::described(&weights)? else {
        return Err(Error::file(path, "does not say what network it is").fix("import it again with `weights import`"));
    };
    if weights.file.info(&format!("{}.weight", tower.top())).is_none() {
        return Err(Error::file(path, "has no last dense layer, and so no classes")
            .fix("train a model on it: `train --weights TOWER=FILE`"));
    }
    let image = weights.image()?.or(tower.image).unwrap_or(tower.base.network().image);
    let prefix = format!("{}.", tower.name);
    let task = Task::Tower { tower, image };
    if !task.sane() {
        return Err(Error::file(path, "its header contradicts itself").fix("import it again"));
    }
    Ok((weights.file.joined(&prefix, weights.file.clone()), task))
}

/// Puts the weights into a session that only evaluates, without a copy where the device can do that. An unfinished run is
/// judged by its best epoch so far.
pub fn bind(file: &Arc<WeightFile>, session: &mut Session) -> Result<()> {
    let all: Vec<Value> = session.graph().stored().collect();
    bind_some(file, session, &all)
}

/// [`bind`] for some of a session's weights, where others are not the file's.
pub fn bind_some(file: &Arc<WeightFile>, session: &mut Session, values: &[Value]) -> Result<()> {
    for &v in values {
        let (name, shape) = (name_of(file, session.graph().name(v)), session.graph().dims(v).to_vec());
        let t = file.tensor(&name)?;
        if t.shape != shape {
            let problem = format!("tensor `{name}` is {:?} instead of {shape:?}", t.shape);
            return Err(Error::file(file.path(), problem).fix("train the model again"));
        }
        match file.aligned_f32(&name) {
            Some(range) => params::bind(session, v, file, range)?,
            None => match file.aligned_half(&name).filter(|(dtype, _)| session.takes(v, *dtype)) {
                Some((dtype, range)) => session.bind_as(v, dtype, Arc::new(MappedFile(file.clone())), range)?,
                None => session.write(v, Data::F32(&t.to_f32()?))?,
            },
        }
    }
    Ok(())
}

/// Whether a dense layer of these widths may have weights of 16 bits, by the rule by which tensor cores take one. It leaves out
/// the last layers, whose ratings are told apart finely.
pub fn narrows(widths: &[usize]) -> bool {
    widths.iter().all(|n| n.is_multiple_of(8))
}

/// The weights that [`narrow`] rounds.
pub fn narrowed(g: &Graph) -> impl Iterator<Item = Value> + '_ {
    g.stored().filter(|v| narrows(g.dims(*v)) && g.narrows(*v))
}

/// Rounds the weights of dense layers to 16 bits ([`narrows`]). A device that takes them so stores them so; those that lie in 16
/// bits in a file stay as they are there. `done` hears the name of each whose numbers in float32 nobody needs any more.
pub fn narrow(session: &mut Session, dtype: DType, done: impl Fn(&str)) -> Result<()> {
    for v in narrowed(session.graph()).collect::<Vec<_>>() {
        if !session.takes(v, dtype) {
            let rounded: Vec<f64> = session.read64(v)?.into_iter().map(|w| dtype.round(w)).collect();
            session.write(v, Data::F64(&rounded))?;
            continue;
        }
        let Some(values) = session.device().lend(v) else { continue };
        let mut halves = vec![];
        halves.try_reserve_exact(values.len()).map_err(|_| {
            let (name, bytes) = (session.graph().name(v), 2 * values.len());
            Error::job(format!("no memory for the {bytes} bytes of `{name}` in 16 bits")).fix("predict in float32")
        })?;
        halves.resize(values.len(), 0u16);
        half::narrow(dtype, values, &mut halves);
        let infinite = |halves: &[u16]| halves.iter().fold(false, |bad, h| bad | (h & 0x7c00 == 0x7c00));
        if dtype == DType::F16 && halves.par_chunks(1 << 16).any(infinite) {
            let problem = format!("`{}` has weights beyond the range of float16", session.graph().name(v));
            return Err(Error::job(problem).fix("predict in bf16 or in float32"));
        }
        let bytes = 2 * halves.len();
        session.bind_as(v, dtype, Arc::new(Halves(halves)), 0..bytes)?;
        done(session.graph().name(v));
    }
    Ok(())
}

/// Numbers of 16 bits as bytes that a device can hold on to.
struct Halves(Vec<u16>);

impl AsRef<[u8]> for Halves {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Begins to read what [`bind`] will hand out, in the order in which a run of this graph comes to it, and then to check
/// that it is as it was written.
pub fn read_ahead(file: &Arc<WeightFile>, graph: &Graph) -> Ahead {
    file.read_ahead(graph.stored().map(|v| name_of(file, graph.name(v))).collect())
}

/// The tensor of the file that is a weight as it is used: the best weights of an unfinished run go before its last.
pub fn name_of(file: &WeightFile, name: &str) -> String {
    let best = format!("{BEST}{name}");
    if file.info(&best).is_some() { best } else { name.to_string() }
}

/// Puts the weights back, and best weights and the optimiser's memory of an unfinished run, as far as this rank has it.
pub fn restore(file: &Arc<WeightFile>, net: &mut Network) -> Result<Best> {
    let graph = net.session.graph().clone();
    let tensor = |name: &str, shape: &[usize]| {
        let t = file.tensor(name)?;
        if t.shape != shape {
            let problem = format!("tensor `{name}` is {:?} instead of {shape:?}", t.shape);
            return Err(Error::file(file.path(), problem).fix("resume with the settings the run began with"));
        }
        Ok(t)
    };
    // What is copied is needed once; weights that nothing updates stay in the mapping, which outlives its file's name.
    let put = |session: &mut Session, v: Value, name: &str| {
        let t = tensor(name, graph.dims(v))?;
        match file.aligned_f32(name).filter(|_| cfg!(unix)) {
            Some(range) => params::bind(session, v, file, range),
            // Elsewhere a file that is mapped cannot be replaced by the next checkpoint.
            None => {
                session.write(v, Data::F32(&t.to_f32()?))?;
                file.own(name).into_iter().for_each(|t| file.release(t.range.clone()));
                Ok(())
            }
        }
    };
    for v in net.stored() {
        put(&mut net.session, v, graph.name(v))?;
    }
    let mut best = vec![];
    if card(file)?.state.finished {
        return Ok(best);
    }
    for part in &net.parts {
        let mut weights = vec![];
        for m in part.remembered(&graph) {
            let Some(v) = m.here else { continue };
            match graph.dims(v) == graph.dims(m.param) {
                true => put(&mut net.session, v, &m.name)?,
                false => {
                    let t = tensor(&m.name, graph.dims(m.param))?;
                    net.session.write(v, Data::F32(&t.to_f32()?[m.own]))?;
                    file.own(&m.name).into_iter().for_each(|t| file.release(t.range.clone()));
                }
            }
        }
        for v in part.learned() {
            let (name, dims) = (graph.name(v), graph.dims(v));
            let name = format!("{BEST}{name}");
            if let Some(t) = file.info(&name) {
                weights.push(tensor(&name, dims)?.to_f32()?.into_owned());
                file.release(t.range.clone());
            }
        }
        best.push(weights);
    }
    Ok(best)
}
