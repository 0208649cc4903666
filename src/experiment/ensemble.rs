//! What answers: one model, or several whose mean it is, such as those of a cross-validation.

use super::config::Compute;
use super::events::{Events, tell};
use super::trained::Model;
use crate::error::{Error, Result, line, option};
use crate::table::number;
use crate::train::family::{FILE, Family, PREDICTIONS};
use crate::train::interval::{Held, Predicted};
use crate::train::network::Precision;
use crate::train::predictor::{CLASS, Classes, Predictor, largest};
use std::path::{Path, PathBuf};

/// Likeliest classes of a model that tells classes apart, where nothing else is asked for.
const TOLD: usize = 3;

/// Classes up to which all are told, in their own order.
const FEW: usize = 10;

/// Headers that have been read and fit each other.
pub struct Models {
    /// At least one.
    pub all: Vec<Model>,
    pub name: String,
    pub targets: Vec<String>,
    spread: Spread,
    top: Option<usize>,
}

/// What is said about a rating beside its value.
enum Spread {
    /// One model: nothing.
    None,
    /// How much several disagree.
    Models,
    /// How wrong they are, at a level in percent.
    Held(Held, u32),
}

/// Which models are asked, and for what.
#[derive(Clone, Debug)]
pub struct ModelChoice {
    /// Files, or folders of them; none is the bundled model.
    pub models: Vec<PathBuf>,
    /// Level in percent of the interval that errors on held-out pictures give, where a model knows them.
    pub interval: u32,
    /// So many of the likeliest classes of each tower.
    pub top: Option<usize>,
}

impl ModelChoice {
    /// Reads the headers.
    ///
    /// # Errors
    /// A file that is no model, and models of different kinds.
    pub fn open(&self, events: &dyn Events) -> Result<Models> {
        let paths = self.paths()?;
        let all = match &paths[..] {
            [] => vec![Model::open(None)?],
            paths => paths.iter().map(|p| Model::open(Some(p))).collect::<Result<_>>()?,
        };
        let (targets, views) = (all[0].targets()?.to_vec(), all[0].config()?.views());
        for (other, path) in all.iter().zip(&paths).skip(1) {
            let c = other.config()?;
            let towers = self.top.is_none() || c.towers == all[0].config()?.towers;
            if c.targets != targets
                || c.classes != all[0].config()?.classes
                || c.views() != views
                || !towers
                || !other.reads_like(&all[0])
            {
                return Err(Error::file(path, format!("is another kind of model than {}", paths[0].display()))
                    .fix("average models of one cross-validation")
                    .as_usage());
            }
        }
        let name = match &self.models[..] {
            [one] if all.len() > 1 => file_name(one),
            _ => all.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        };
        let spread = match &paths[..] {
            [] | [_] => match all[0].held()? {
                Some(held) => self.checked(held, paths.first().map_or(Path::new(&name), |p| p))?,
                None if all[0].config()?.heads > 1 => Spread::Models,
                None => Spread::None,
            },
            several => match self.held(several, &targets, events)? {
                Some((table, held)) => self.checked(held, &table)?,
                None => Spread::Models,
            },
        };
        Ok(Models { all, name, targets, spread, top: self.top })
    }

    /// Files, and those in folders in sorted order.
    fn paths(&self) -> Result<Vec<PathBuf>> {
        let mut paths = vec![];
        for path in &self.models {
            if !path.is_dir() {
                paths.push(path.clone());
                continue;
            }
            let io = |e| Error::io(path, "read the folder", e);
            let inside = std::fs::read_dir(path).map_err(io)?.map(|f| Ok(f.map_err(io)?.path()));
            let mut inside = inside.collect::<Result<Vec<_>>>()?;
            inside.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
            inside.sort();
            // A folder without any is refused like any other file that is no model.
            paths.extend(if inside.is_empty() { vec![path.clone()] } else { inside });
        }
        Ok(paths)
    }

    /// The errors of the cross-validation that these models are of, if they lie beside them.
    fn held(&self, models: &[PathBuf], targets: &[String], events: &dyn Events) -> Result<Option<(PathBuf, Held)>> {
        let folder = models[0].parent();
        let Some(folds) = models.iter().map(|p| fold(p)).collect::<Option<Vec<u32>>>() else { return Ok(None) };
        let table = folder.unwrap_or(Path::new("")).join(PREDICTIONS);
        if models.iter().any(|p| p.parent() != folder) || !table.is_file() {
            return Ok(None);
        }
        match Family::read(folder.unwrap_or(Path::new("")))? {
            Some(family) => family.check(&table, models)?,
            None => {
                tell!(
                    events,
                    "note: no {FILE} beside {}: that it is of these models is taken on trust",
                    table.display()
                );
            }
        }
        let held = Held::of(&Predicted::read(&table, targets, &folds)?);
        Ok(Some((table, held)))
    }

    /// Errors that suffice for the level that was asked for.
    fn checked(&self, held: Held, path: &Path) -> Result<Spread> {
        held.check(path, self.interval)?;
        Ok(Spread::Held(held, self.interval))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The fold that a model has not seen: 3 of `fold-3.safetensors`.
fn fold(path: &Path) -> Option<u32> {
    path.file_stem()?.to_str()?.strip_prefix("fold-")?.parse().ok()
}

/// What the models say of one picture.
pub struct PictureAnswer {
    pub ratings: Vec<f32>,
    /// One for each of [`Models::fields`].
    pub cells: Vec<AnswerCell>,
    /// The same for people, a line each.
    pub lines: Vec<String>,
}

/// A value of a further field.
#[derive(Clone)]
pub enum AnswerCell {
    /// As float32: through float64 it would show digits that it does not have.
    Number(f32),
    Index(usize),
    /// None where a class has no name.
    Text(Option<String>),
}

impl Models {
    /// The only one, for what cannot be averaged.
    pub fn one(&self, what: &str) -> Result<&Model> {
        match &self.all[..] {
            [one] => Ok(one),
            all => Err(Error::usage(format!("{what} takes one model, not {}", all.len()))
                .fix(format!("name one with {}", option("model")))),
        }
    }

    /// Loads the weights.
    pub fn load(
        &self,
        precision: Precision,
        batch: usize,
        compute: &Compute,
        events: &dyn Events,
    ) -> Result<LoadedModels<'_>> {
        let load = |m: &Model| m.predictor(precision, batch, compute.open(events)?, self.top.is_some());
        let loaded = LoadedModels { models: self, predictors: self.all.iter().map(load).collect::<Result<_>>()? };
        if self.top.is_some() && loaded.classes().is_empty() {
            let top = option("top");
            return Err(Error::usage(format!(
                "{top}: the towers of this model hand on averaged activations, not classes"
            ))
            .fix(format!("leave out {top}")));
        }
        Ok(loaded)
    }
}

/// Models that answer.
pub struct LoadedModels<'a> {
    pub models: &'a Models,
    predictors: Vec<Predictor>,
}

impl LoadedModels<'_> {
    fn classes(&self) -> &[Classes] {
        &self.predictors[0].classes
    }

    /// Names of what is said beside ratings, the same for every picture.
    pub fn fields(&self) -> Vec<String> {
        let mut fields = vec![];
        for t in &self.models.targets {
            match &self.models.spread {
                Spread::None => {}
                Spread::Models => {
                    fields.extend(["sd_points", "min_1to9", "max_1to9"].map(|what| format!("{t}_models_{what}")));
                }
                Spread::Held(_, percent) => {
                    fields.extend(["low", "high"].map(|end| format!("{t}_cvplus{percent}_{end}_1to9")));
                }
            }
        }
        for c in self.classes() {
            if c.tower == CLASS {
                fields.push(CLASS.into());
            }
            if c.count <= FEW {
                fields.extend((0..c.count).map(|i| format!("{}_{}_probability", c.tower, class(c, i))));
                continue;
            }
            for n in 1..=self.shown(c) {
                fields.extend(["index", "class", "probability"].map(|what| format!("{}_top{n}_{what}", c.tower)));
            }
        }
        fields
    }

    /// How many classes of a tower are told.
    fn shown(&self, c: &Classes) -> usize {
        self.models.top.unwrap_or(if c.tower == CLASS { TOLD } else { 0 }).min(c.count)
    }

    /// Answers about pictures, given as [`Predictor::predict`] takes them.
    pub fn answer(&mut self, squares: &[u8]) -> Result<Vec<PictureAnswer>> {
        let said = self.predictors.iter_mut().map(|p| p.see(squares)).collect::<Result<Vec<_>>>()?;
        let (models, targets) = (said.len(), self.models.targets.len());
        let mean =
            |x: &dyn Fn(usize) -> f32| ((0..models).map(|m| f64::from(x(m))).sum::<f64>() / models as f64) as f32;
        let one = |picture: usize| {
            let mut seen = PictureAnswer { ratings: vec![], cells: vec![], lines: vec![] };
            for t in 0..targets {
                let at = picture * targets + t;
                let rated: Vec<f32> = said.iter().map(|s| s.ratings[at]).collect();
                seen.ratings.push(mean(&|m| rated[m]));
                // One model may be many.
                let each = match &said[..] {
                    [one] if !one.heads.is_empty() => one.heads.iter().map(|h| h[at]).collect(),
                    _ => rated,
                };
                self.spread(t, &each, &mut seen);
            }
            for (i, c) in self.classes().iter().enumerate() {
                let p: Vec<f32> =
                    (0..c.count).map(|k| mean(&|m: usize| said[m].classes[i][picture * c.count + k])).collect();
                self.likeliest(c, &p, &mut seen);
            }
            seen
        };
        Ok((0..said[0].pictures).map(one).collect())
    }

    fn spread(&self, target: usize, each: &[f32], seen: &mut PictureAnswer) {
        let (name, points) = (&self.models.targets[target], |v: f32| number(Some(v.into()), 2));
        match &self.models.spread {
            Spread::None => {}
            Spread::Models => {
                let n = each.len() as f64;
                let mean = each.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
                let squares = each.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
                let sd = (squares / (n - 1.0)).sqrt() as f32;
                let (min, max) = each.iter().fold((f32::MAX, f32::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
                seen.cells.extend([sd, min, max].map(AnswerCell::Number));
                let (sd, min, max) = (points(sd), points(min), points(max));
                seen.lines.push(format!("{name}: the models say {min} to {max}, SD {sd}, which is not their error"));
            }
            Spread::Held(held, percent) => {
                let ends = held.interval(target, each, *percent).map(|end| end as f32);
                seen.cells.extend(ends.map(AnswerCell::Number));
                let [low, high] = ends.map(points);
                seen.lines.push(format!("{name}: {low} to {high} by CV+ at {percent} %"));
            }
        }
    }

    fn likeliest(&self, c: &Classes, p: &[f32], seen: &mut PictureAnswer) {
        let best = largest(p, self.shown(c));
        if c.tower == CLASS {
            seen.cells.push(AnswerCell::Text(best.first().map(|i| class(c, *i))));
        }
        if c.count <= FEW {
            seen.cells.extend(p.iter().map(|p| AnswerCell::Number(*p)));
        } else {
            for &i in &best {
                seen.cells.extend([
                    AnswerCell::Index(i),
                    AnswerCell::Text(c.names.get(i).cloned()),
                    AnswerCell::Number(p[i]),
                ]);
            }
        }
        let one = |i: &usize| format!("{} {}", class(c, *i), number(Some(p[*i].into()), 3));
        let all = best.iter().map(one).collect::<Vec<_>>().join(", ");
        seen.lines.push(line(&format!("{}: {all}", c.tower)));
    }
}

/// A class by its name, or else by its number.
fn class(c: &Classes, i: usize) -> String {
    c.names.get(i).cloned().unwrap_or_else(|| format!("class{i}"))
}
