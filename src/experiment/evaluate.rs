//! A trained model against the ratings, or the classes, of a manifest.

mod solved;

pub use solved::EvaluatedTables;

use super::config::Compute;
use super::events::{Events, tell};
use super::trained::{Model, Reading};
use crate::data::boxes::seen_whole;
use crate::data::labels::Asked;
use crate::data::{LabelMap, Labels, Manifest, Pictures};
use crate::error::{Error, Result, line, option};
use crate::hash;
use crate::report::classes::{self, ClassOutcome};
use crate::report::folder::{About, Claim, Outcome, claim, metrics, metrics_json, prepare, write_folder};
use crate::train::classified::Classified;
use crate::train::metrics::Metrics;
use crate::train::network::Precision;
use crate::train::predictor::{Predictor, Seen};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model and the pictures that it is measured on.
pub struct Evaluation {
    pub manifest: PathBuf,
    /// Checkpoint of a training.
    pub model: PathBuf,
    /// Columns to measure; everything that the model predicts where none is named.
    pub targets: Vec<String>,
    /// Column of class names, for a model that tells classes apart.
    pub label: Option<String>,
    /// What names of `label` are called by the model.
    pub label_map: Option<PathBuf>,
    /// Only the rows whose `fold` column is this.
    pub fold: Option<u32>,
    /// Folder for the report; none is written without it.
    pub out: Option<PathBuf>,
    /// Pictures computed at once: costs memory, changes no rating.
    pub batch: usize,
    /// Leave out pictures that cannot be read instead of stopping.
    pub skip_bad: bool,
    /// Folder for resized pictures; in memory without it.
    pub cache: Option<PathBuf>,
    pub precision: Precision,
    pub reading: Reading,
    pub compute: Compute,
    /// What asked for the work, in words: goes into the report.
    pub command: String,
    pub events: Arc<dyn Events>,
}

/// What was measured, and the same as the JSON of its report.
pub struct Evaluated {
    pub ratings: Option<(String, Metrics)>,
    pub classes: Option<(String, Classified)>,
}

impl Evaluation {
    /// The folder of results, if there is to be one, which is nobody else's as long as what is returned lives.
    fn claim(&self) -> Result<Option<Claim>> {
        let Some(dir) = &self.out else { return Ok(None) };
        prepare(dir)?;
        claim(dir).map(Some)
    }

    /// Measures what the model predicts, and leaves a report where there is a folder for it.
    ///
    /// # Errors
    /// A model, manifest or picture that cannot be read, and columns that do not fit the model.
    pub fn run(&self) -> Result<Evaluated> {
        let events = &*self.events;
        self.compute.bind_threads(events);
        let label = option("label");
        let map = self.map()?;
        let model = Model::open(Some(&self.model))?;
        let config = model.config()?;
        let (classes, all) = (&config.classes, &config.targets);
        match (&self.label, classes.is_empty()) {
            (Some(_), true) => {
                return Err(
                    Error::usage(format!("{label}: the model predicts ratings")).fix(format!("leave out {label}"))
                );
            }
            (None, false) if all.is_empty() => {
                return Err(Error::usage("the model tells classes apart")
                    .fix(format!("name the column of class names with {label}")));
            }
            (None, false) => {
                tell!(events, "note: the model tells classes apart too; {label} names a column of them");
            }
            _ => {}
        }
        if all.is_empty() && !self.targets.is_empty() {
            let targets = option("targets");
            return Err(
                Error::usage(format!("{targets}: the model tells classes apart")).fix(format!("leave out {targets}"))
            );
        }
        let which = self.which(all)?;
        let mut manifest = self.rows(&which.iter().map(|&t| all[t].as_str()).collect::<Vec<_>>())?;
        // The class of each row that is left.
        let mut listed: Vec<usize> = vec![];
        if let Some(column) = &self.label {
            (manifest, listed) = self.labelled(&manifest, column, &map, classes)?;
        }
        let _claim = self.claim()?;
        let (manifest, pictures, left_out) = self.pictures(&model, manifest)?;
        let mut predictor =
            model.predictor(self.precision, self.batch.min(pictures.len()), self.compute.open(events)?, false)?;
        let said = predict(&mut predictor, &pictures, events, self.batch)?;
        let folds = self.fold.map(|f| vec![f; manifest.rows.len()]);
        let about = self.about(&model, &predictor, (&manifest, &pictures), left_out, folds.as_deref());
        let mut found = Evaluated { ratings: None, classes: None };
        if self.label.is_some() {
            let truth: Vec<usize> = pictures.rows().iter().map(|&row| listed[row]).collect();
            let about = about.clone();
            let probabilities = &said.classes[0];
            let outcome = ClassOutcome { about, classes, truth: &truth, probabilities, over_folds: &[] };
            let measured = match &self.out {
                Some(out) => classes::write(&classes::folder(out, !all.is_empty()), &outcome)?,
                None => classes::measure(&outcome)?,
            };
            found.classes = Some((classes::metrics(&outcome, &measured), measured));
        }
        if !all.is_empty() {
            let train_mean: Vec<f64> = which.iter().map(|&t| predictor.card.train_mean[t]).collect();
            let predicted: Vec<f32> =
                said.ratings.chunks_exact(all.len()).flat_map(|y| which.iter().map(|&t| y[t])).collect();
            let outcome = Outcome {
                about,
                pictures: &pictures,
                squares: None,
                predicted: &predicted,
                train_mean: &train_mean,
                over_folds: None,
            };
            let measured = match &self.out {
                Some(dir) => write_folder(dir, &outcome)?,
                None => metrics(&outcome)?,
            };
            found.ratings = Some((metrics_json(&outcome, &measured), measured));
        }
        Ok(found)
    }

    /// What names of the labels are called by the model.
    fn map(&self) -> Result<LabelMap> {
        let map = self.label_map.as_deref().map(LabelMap::read).transpose()?;
        if map.is_some() && self.label.is_none() {
            let label = option("label");
            return Err(Error::usage(format!("{} is for the names of {label}", option("label-map")))
                .fix(format!("name their column with {label}")));
        }
        Ok(map.unwrap_or_default())
    }

    /// The rows whose label is one of the model's classes, and their classes.
    fn labelled(
        &self,
        manifest: &Manifest,
        column: &str,
        map: &LabelMap,
        classes: &[String],
    ) -> Result<(Manifest, Vec<usize>)> {
        let labels = Labels::among(manifest, &Asked { column, map, least: 1 }, classes.to_vec())?;
        labels.remarks().iter().for_each(|r| tell!(self.events, "{}", line(r)));
        if labels.rows().is_empty() {
            return Err(Error::file(&self.manifest, "names none of the model's classes")
                .at(format!("column {column}"))
                .fix(format!(
                    "map its names with {}; the classes are {}",
                    option("label-map"),
                    line(&classes.join(", "))
                ))
                .as_usage());
        }
        Ok((manifest.select(&labels.rows()), labels.of.iter().flatten().copied().collect()))
    }

    /// What is told of an evaluation, whatever was measured.
    fn about<'a>(
        &self,
        model: &Model,
        predictor: &'a Predictor,
        (manifest, pictures): (&'a Manifest, &Pictures),
        left_out: Option<String>,
        folds: Option<&'a [u32]>,
    ) -> About<'a> {
        let (seen, note) = seen(predictor, pictures, &*self.events);
        About {
            title: format!("{} on {}", model.name, name(&self.manifest)),
            command: self.command.clone(),
            device: predictor.device(),
            facts: vec![
                ("Model".into(), predictor.card.made_by.clone()),
                ("Epochs".into(), predictor.state().epoch.to_string()),
            ],
            notes: [note].into_iter().chain(left_out).collect(),
            history: &predictor.state().history,
            manifest,
            folds,
            seen,
        }
    }

    /// Decodes what the manifest lists; with the note that some was left out.
    fn pictures(&self, model: &Model, manifest: Manifest) -> Result<(Manifest, Pictures, Option<String>)> {
        let options = self.reading.load_options(model, self.cache.clone())?;
        let sources = match self.reading.boxes(&options.views)? {
            Some(boxes) => (0..manifest.rows.len()).map(|i| boxes.source(manifest.file(i))).collect(),
            None => manifest.sources(),
        };
        if let Some(remark) = seen_whole(&sources, &options.views) {
            tell!(self.events, "{remark}");
        }
        let loaded = Pictures::load(&sources, &options, &*self.events)?;
        let (bad, total) = (loaded.bad.clone(), manifest.rows.len());
        if let Some(first) = bad.first().filter(|_| !self.skip_bad || bad.len() == total) {
            let e = Error::file(&first.path, &first.reason);
            return Err(Error::file(
                &self.manifest,
                format!("{} of {total} pictures cannot be used: {e:#}", bad.len()),
            )
            .at(format!("line {}", manifest.rows[first.row].line))
            .fix(format!("correct the manifest, or give {} to go on without them", option("skip-bad"))));
        }
        for b in &bad {
            tell!(self.events, "left out: {:#}", Error::file(&b.path, &b.reason));
        }
        let pictures = loaded.accept(true)?;
        let manifest = manifest.select(pictures.rows());
        let left_out = (!bad.is_empty())
            .then(|| format!("{} of {total} pictures could not be read and were left out.", bad.len()));
        Ok((manifest, pictures, left_out))
    }

    /// Indices of the measured targets among the model's.
    fn which(&self, all: &[String]) -> Result<Vec<usize>> {
        let find = |t: &String| {
            all.iter().position(|a| a == t).ok_or_else(|| {
                Error::usage(format!("{}: the model does not predict `{t}`", self.model.display()))
                    .fix(format!("choose from {}", all.join(", ")))
            })
        };
        if self.targets.is_empty() { Ok((0..all.len()).collect()) } else { self.targets.iter().map(find).collect() }
    }

    /// The rows to be measured.
    fn rows(&self, targets: &[&str]) -> Result<Manifest> {
        let manifest = Manifest::read(&self.manifest, targets)?;
        let Some(fold) = self.fold else { return Ok(manifest) };
        let rows: Vec<usize> = (0..manifest.rows.len()).filter(|&i| manifest.rows[i].fold == Some(fold)).collect();
        if rows.is_empty() {
            return Err(Error::file(&self.manifest, format!("no row is in fold {fold}"))
                .at("column fold")
                .fix("name a fold that occurs there")
                .as_usage());
        }
        Ok(manifest.select(&rows))
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How many of the pictures the model was trained on, and how many were monitored, if it says so, and that as a note.
fn seen(predictor: &Predictor, pictures: &Pictures, events: &dyn Events) -> (Option<[usize; 2]>, String) {
    let sums = (0..pictures.len()).map(|i| hash::checksum(pictures.image(i)));
    let seen = predictor.card.origin.seen(sums);
    let note = match seen {
        Some([0, 0]) => "The model was trained on none of these pictures.".into(),
        Some([trained, monitored]) => {
            let monitored = if monitored > 0 { format!(" and monitored on {monitored}") } else { String::new() };
            let note = format!(
                "The model was trained on {trained} of these {} pictures{monitored}: its errors there are not those of new \
                 pictures.",
                pictures.len()
            );
            tell!(events, "warning: {note}");
            note
        }
        None => "The model does not say which pictures it was trained on.".into(),
    };
    (seen, note)
}

/// What the model says of all pictures.
fn predict(p: &mut Predictor, pictures: &Pictures, events: &dyn Events, batch: usize) -> Result<Seen> {
    let square = pictures.image(0).len();
    let mut all = Seen { pictures: 0, ratings: vec![], heads: vec![], classes: vec![vec![]; p.classes.len()] };
    events.start("predicting", pictures.len() as u64);
    for piece in pictures.bytes().chunks(square * batch) {
        let seen = p.see(piece)?;
        all.pictures += seen.pictures;
        all.ratings.extend(seen.ratings);
        all.classes.iter_mut().zip(seen.classes).for_each(|(all, seen)| all.extend(seen));
        (0..seen.pictures).for_each(|_| events.inc());
        if events.stopped() {
            events.done();
            return Err(Error::interrupted("stopped before the end; nothing was written"));
        }
    }
    events.done();
    Ok(all)
}
