/*! One model of those of a cross-validation, or of several over the same pictures: its frozen towers once, every head of every
fold, and the errors on the pictures that each head did not see. Its ratings are the mean of the heads, and its intervals are
CV+ ([`super::interval`]): those of the separate models, at the cost of one. */

use super::checkpoint::{self, BUNDLED_TOWERS, CARD, Card, Origin};
use super::family::{Family, PREDICTIONS};
use super::interval::{Held, Predicted, mean_of};
use super::metrics::{Measured, Metrics};
use super::network::Task;
use crate::error::{Error, Result};
use crate::hash;
use crate::models::{Config, HEAD};
use crate::weights::store::{Narrow, Store, What, scale_name};
use crate::weights::write::{Entry, write};
use crate::weights::{Dtype, LAYOUT, WeightFile};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The models of one cross-validation, in the order of their folds, and what they said.
struct Run {
    models: Vec<(Arc<WeightFile>, Card)>,
    predicted: Predicted,
}

/// What became of a merge.
pub struct Merged {
    pub heads: usize,
    pub pictures: usize,
    /// Of what is said about each picture by the heads that did not see it, against always the mean rating.
    pub metrics: Metrics,
    /// Towers that are left to the program.
    pub bundled: Vec<String>,
}

/// Folds of a folder, sorted: (fold, file).
fn folds(dir: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let io = |e| Error::io(dir, "read the folder", e);
    let mut all = vec![];
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let number =
            |p: &Path| p.file_name()?.to_str()?.strip_prefix("fold-")?.strip_suffix(".safetensors")?.parse().ok();
        all.extend(number(&path).map(|n| (n, path)));
    }
    all.sort();
    if all.is_empty() {
        return Err(
            Error::file(dir, "has no fold-N.safetensors").fix("name a folder of `cross-validate --keep-models`")
        );
    }
    Ok(all)
}

fn run(dir: &Path) -> Result<Run> {
    let folds = folds(dir)?;
    let open = |(_, path): &(u32, PathBuf)| {
        let file = checkpoint::open(path)?;
        let card = checkpoint::card(&file)?;
        file.all_intact()?;
        Ok((file, card))
    };
    let models: Vec<(Arc<WeightFile>, Card)> = folds.iter().map(open).collect::<Result<_>>()?;
    let numbers: Vec<u32> = folds.iter().map(|f| f.0).collect();
    let targets = &models[0].1.config().map_err(|e| Error::file(&folds[0].1, e.to_string()))?.targets;
    let table = dir.join(PREDICTIONS);
    let paths: Vec<PathBuf> = folds.iter().map(|f| f.1.clone()).collect();
    Family::read(dir)?.map_or(Ok(()), |f| f.check(&table, &paths))?;
    let predicted = Predicted::read(&table, targets, &numbers)?;
    Ok(Run { models, predicted })
}

/// Whether a parameter of a member is of its head; its name in there.
fn of_head<'n>(config: &Config, name: &'n str) -> Option<(String, &'n str)> {
    config.members().into_iter().find_map(|m| {
        let inner = name.strip_prefix(m.prefix.as_str())?.strip_prefix(HEAD)?.strip_prefix('.')?;
        Some((m.prefix, inner))
    })
}

/// Merges the models in `runs`, folders of `cross-validate --keep-models`, into `out`. `store` says how their heads are stored, and
/// towers stay as they are; towers that are the program's own are not stored again. `notes` go into the header.
///
/// # Errors
/// Models that differ in more than their heads, that were trained end to end, or are not finished; runs over other pictures.
pub fn merge(runs: &[PathBuf], out: &Path, store: Store, notes: &BTreeMap<String, String>) -> Result<Merged> {
    let all: Vec<Run> = runs.iter().map(|dir| run(dir)).collect::<Result<_>>()?;
    let models: Vec<&(Arc<WeightFile>, Card)> = all.iter().flat_map(|r| &r.models).collect();
    let (first, card) = models[0];
    let config = card.config()?;
    let refuse = |file: &WeightFile, why: &str| {
        Err(Error::file(file.path(), why).fix("merge models of `cross-validate --freeze all --keep-models`"))
    };
    for (file, other) in &models {
        if !matches!(other.task, Task::Head { .. }) || config.heads != 1 {
            return refuse(file, "its towers were trained with it, or it was merged already");
        }
        if other.task != card.task || other.alpha != card.alpha {
            return refuse(file, &format!("is another kind of model than {}", first.path().display()));
        }
        if !other.state.finished {
            return refuse(file, "is of a run that was not finished");
        }
    }
    let towers: Vec<&str> = first.names().filter(|n| of_head(config, n).is_none()).collect();
    for (file, _) in &models[1..] {
        for name in &towers {
            if file.tensor(name)?.bytes != first.tensor(name)?.bytes {
                return refuse(file, &format!("its `{name}` is not that of {}", first.path().display()));
            }
        }
    }
    let offsets = all.iter().scan(0, |next, r| {
        let first = *next;
        *next += r.models.len();
        Some(first)
    });
    let said: Vec<(&Predicted, usize)> = all.iter().zip(offsets).map(|(r, at)| (&r.predicted, at)).collect();
    let Some(held) = Held::of_several(&said) else {
        return Err(Error::file(&runs[0], "the runs are not over the same pictures and ratings")
            .fix("merge runs over one manifest"));
    };
    let (metrics, means) = measure(config, &said)?;
    let bundled = bundled(config, first, &towers)?;
    let mut card = Card { train_mean: means, ..card.clone() };
    let (Task::Head { config: new } | Task::EndToEnd { config: new, .. }) = &mut card.task else {
        return refuse(first, "is no model of ratings");
    };
    new.heads = models.len();
    let (new, data): (Config, String) = (new.clone(), models.iter().map(|m| m.1.data.as_str()).collect());
    card.origin = Origin::joined(models.iter().map(|m| &m.1.origin));
    card.data = hash::content_hex(data.as_bytes());

    let left_out = |name: &str| {
        let tower = name.split_once('.').map_or(name, |n| n.0);
        bundled.contains_key(tower)
    };
    // Name, type, shape, bytes: the heads under their numbers, what they are held against, the towers.
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![];
    for (i, (file, _)) in models.iter().enumerate() {
        for name in file.names() {
            let Some((prefix, inner)) = of_head(config, name) else { continue };
            let (name, t) = (format!("{prefix}{}.{inner}", new.head_name(i)), file.tensor(name)?);
            let (dtype, values) = (store.dtype(&t.shape), t.to_f32()?);
            let bytes = |what| narrow(&values, dtype, what, &t.shape).map_err(|e| Error::io(out, "write the head", e));
            if dtype == Dtype::I8 {
                tensors.push((scale_name(&name), Dtype::F32, t.shape[..1].to_vec(), bytes(What::Scales)?));
            }
            tensors.push((name, dtype, t.shape.clone(), bytes(What::Values)?));
        }
    }
    tensors.extend(held.tensors().map(|(name, dtype, shape, bytes)| (name.into(), dtype, shape.to_vec(), bytes)));
    for name in towers.iter().filter(|n| !left_out(n)) {
        let t = first.tensor(name)?;
        tensors.push((name.to_string(), t.dtype, t.shape.clone(), t.bytes.to_vec()));
    }
    let mut metadata = notes.clone();
    metadata.insert(CARD.into(), serde_json::to_string(&card).expect("plain data"));
    metadata.insert(LAYOUT.into(), "KRSC".into());
    if !bundled.is_empty() {
        metadata.insert(BUNDLED_TOWERS.into(), serde_json::to_string(&bundled).expect("plain data"));
    }
    let entries: Vec<Entry> = tensors.iter().map(|(n, t, s, b)| Entry::bytes(n, *t, s, b)).collect();
    write(out, &metadata, &entries)?;
    let bundled = bundled.into_keys().collect();
    Ok(Merged { heads: models.len(), pictures: said[0].0.pictures.len(), metrics, bundled })
}

fn narrow(values: &[f32], dtype: Dtype, what: What, shape: &[usize]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    let mut to = Narrow::new(&mut bytes, dtype, what, shape);
    to.write_all(bytemuck::cast_slice(values))?;
    to.flush()?;
    Ok(bytes)
}

/// What the runs say about the pictures that are rated on every target, pooled over folds, against answering the mean of the
/// pictures of other folds; and the mean of each target over all that are rated.
fn measure(config: &Config, said: &[(&Predicted, usize)]) -> Result<(Metrics, Vec<f64>)> {
    let pictures = &said[0].0.pictures;
    // The mean of a target over the pictures that a model of a run may have been trained on; over all without a run.
    let mean = |t: usize, unseen: Option<(&Predicted, usize)>| {
        let there = |i: usize| unseen.is_none_or(|(run, model)| run.pictures[i].model != model);
        let rated =
            (0..pictures.len()).filter(|&i| there(i)).filter_map(|i| Some((pictures[i].truth[t]?, pictures[i].weight)));
        let (sum, weight) = rated.fold((0.0, 0.0), |(sum, all), (x, w)| (sum + x * w, all + w));
        if weight > 0.0 { sum / weight } else { 0.0 }
    };
    let targets = 0..config.targets.len();
    let means: Vec<f64> = targets.clone().map(|t| mean(t, None)).collect();
    // By run, model and target.
    let models = |run: &Predicted| 0..run.pictures.iter().map(|p| p.model + 1).max().unwrap_or(0);
    let of_run = |run| models(run).map(|m| targets.clone().map(|t| mean(t, Some((run, m)))).collect()).collect();
    let answers: Vec<Vec<Vec<f64>>> = said.iter().map(|(run, _)| of_run(run)).collect();
    let answer = |i: usize, t: usize| {
        let all = said.iter().zip(&answers).map(|((run, _), a)| a[run.pictures[i].model][t]);
        all.sum::<f64>() / said.len() as f64
    };
    let (mut truth, mut predicted, mut train_mean, mut weight) = (vec![], vec![], vec![], vec![]);
    for (i, p) in pictures.iter().enumerate() {
        if let Some(all) = p.truth.iter().copied().collect::<Option<Vec<f64>>>() {
            truth.extend(all);
            predicted.extend(mean_of(said, i));
            train_mean.extend(targets.clone().map(|t| answer(i, t)));
            weight.push(p.weight);
        }
    }
    let names: Vec<&str> = config.targets.iter().map(String::as_str).collect();
    let all =
        Measured { names: &names, truth: &truth, predicted: &predicted, train_mean: &train_mean, weight: &weight };
    Ok((Metrics::measure(&all)?, means))
}

/// The towers that are the program's own, number for number, and which of the program they are.
fn bundled(config: &Config, file: &WeightFile, towers: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let Some((own, identity)) = checkpoint::bundled_tower()? else { return Ok(all) };
    for tower in &config.towers {
        let scope = format!("{}.", tower.name);
        let mut inner = towers.iter().filter_map(|n| Some((*n, n.strip_prefix(&scope)?))).peekable();
        // A split model has its towers under its targets' names, and keeps them.
        if inner.peek().is_none() {
            continue;
        }
        let same = |(name, inner): (&str, &str)| -> Result<bool> {
            if own.info(inner).is_none() {
                return Ok(false);
            }
            let (a, b) = (file.tensor(name)?.to_f32()?, own.tensor(inner)?.to_f32()?);
            Ok(a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits())))
        };
        if inner.map(same).collect::<Result<Vec<_>>>()?.into_iter().all(|s| s) {
            all.insert(tower.name.clone(), identity.clone());
        }
    }
    Ok(all)
}
