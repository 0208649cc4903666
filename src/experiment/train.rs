//! Training on a manifest, from the first step to the report.

use super::Output;
use super::config::Run;
use super::cross_validate::{self, CrossValidated};
use super::deal::FoldPlan;
use super::events::{Events, tell};
use super::ranks;
use super::run::{Job, split};
use crate::data::Manifest;
use crate::error::{Error, Result, option};
use crate::memory::peak_mib;
use crate::preprocess::sides;
use crate::ranks::{Peers, leads};
use crate::report::classes::{self, ClassOutcome};
use crate::report::folder::{About, Outcome, write_folder};
use crate::train::classified::Classified;
use crate::train::metrics::Metrics;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// What a trained model is worth.
#[derive(Clone, Debug, Serialize)]
pub struct Trained {
    /// Of one that predicts ratings.
    pub ratings: Option<Metrics>,
    /// Of one that tells classes apart.
    pub classes: Option<Classified>,
}

/// Trains on a manifest of pictures and leaves a folder of results: the model, predictions, measures and a page.
pub struct Trainer {
    pub manifest: PathBuf,
    /// What is trained, how and on what.
    pub run: Run,
    pub output: Output,
    /// Go on from the checkpoint in the output folder.
    pub resume: bool,
    /// Test on the pictures of this fold of the manifest's column `fold`, and train on the others.
    pub fold: Option<u32>,
    /// Set pictures apart by [`super::config::Training::test`] although the manifest has such a column.
    pub ignore_fold_column: bool,
    /// The other ranks that train the same model ([`super::ranks`]); None of one process. The first of them writes.
    pub peers: Peers,
    /// Whether each rank keeps what the optimiser remembers of its share of the parameters alone, updates these, and hands them
    /// to the others (ZeRO-1). The numbers are the same.
    pub shard_optimizer: bool,
}

impl Trainer {
    /// A small head on the program's own VGG16 ([`Run::bundled`]), unless [`Trainer::run`] is told otherwise.
    pub fn new(manifest: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        let (run, output) = (Run::bundled(), Output::silent(folder));
        Self {
            manifest: manifest.into(),
            run,
            output,
            resume: false,
            fold: None,
            ignore_fold_column: false,
            peers: None,
            shard_optimizer: false,
        }
    }

    /// Lets somebody hear how the work goes.
    pub fn telling(mut self, events: Arc<dyn Events>) -> Self {
        self.output.events = events;
        self
    }

    /// Trains one model, and says what it is worth on the test pictures; where there are none, on the monitored ones, and
    /// without those on the ones that it was trained on.
    ///
    /// # Errors
    /// A configuration that cannot be carried out, a manifest, picture or weight file that cannot be read, a training that
    /// diverges or is stopped; of several ranks also that they do not train the same, and one that is lost.
    pub fn train(&self) -> Result<Trained> {
        ranks::parting(&self.peers, self.shared())
    }

    /// [`Trainer::train`] as one of the ranks.
    fn shared(&self) -> Result<Trained> {
        let run = &self.run;
        if !self.resume {
            run.model.check_weights()?;
        }
        self.check_folds()?;
        let mut job = Job::shared(&self.manifest, run, &self.output, &self.peers)?;
        job.shard = self.shard_optimizer;
        if self.shard_optimizer && self.peers.as_ref().is_none_or(|p| p.ranks() == 1) {
            let flags = ["ranks", "gpus"].map(option).join(" or ");
            let alone = format!("{}: one rank keeps all of the optimiser's state", option("shard-optimizer"));
            tell!(self.output.events, "note: {alone}; several are started by {flags}, torchrun, srun or mpirun");
        }
        let all = (0..job.manifest.rows.len()).collect::<Vec<usize>>();
        let fold = |i: &usize| job.manifest.rows[*i].fold;
        let parts = match self.fold {
            Some(f) => {
                let (test, rest): (Vec<usize>, Vec<usize>) = all.iter().partition(|i| fold(i) == Some(f));
                if test.is_empty() || rest.is_empty() {
                    let part = if test.is_empty() { "no row" } else { "every row" };
                    return Err(Error::file(&self.manifest, format!("{part} is in fold {f}"))
                        .at("column fold")
                        .fix("name one of the folds that occur there")
                        .as_usage());
                }
                [rest, test]
            }
            None => split(&job.manifest, &all, run.train.test, job.settings.seed)?,
        };
        let title = format!("Training on {}", self.manifest.file_name().unwrap_or_default().to_string_lossy());
        train(&mut job, &self.output, parts, self.resume, title, vec![])
    }

    /// Trains one model for each fold and judges it on the pictures that it has not seen; with `keep_models` leaves it as
    /// `fold-N.safetensors`.
    ///
    /// # Errors
    /// As [`Trainer::train`], and folds that do not fit the pictures.
    pub fn cross_validate(&self, folds: &FoldPlan, keep_models: bool) -> Result<CrossValidated> {
        cross_validate::cross_validate(&self.manifest, &self.run, folds, keep_models, &self.output)
    }

    /// Before anything is decoded: a column that says who is tested together is not passed over.
    fn check_folds(&self) -> Result<()> {
        let targets = self.run.data.targets();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let manifest = Manifest::read(&self.manifest, &targets)?;
        let named = manifest.rows.iter().any(|r| r.fold.is_some());
        if !named || self.fold.is_some() || self.ignore_fold_column {
            return Ok(());
        }
        let (fold, ignore) = (option("fold"), option("ignore-fold-column"));
        Err(Error::file(&self.manifest, "has a column `fold`, which says who is tested together")
            .fix(format!("name the fold to test on with {fold} N, or set it aside with {ignore}"))
            .as_usage())
    }
}

/// Name of the checkpoint in an output folder.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// Trains on `rest`, judges on `test` and reports; `title` and `notes` are for the page.
pub fn train(
    job: &mut Job,
    output: &Output,
    [rest, test]: [Vec<usize>; 2],
    resume: bool,
    title: String,
    mut notes: Vec<String>,
) -> Result<Trained> {
    let (out, events) = (&output.folder, &*output.events);
    let [train, val] = job.hold_out(&rest, &test)?;
    tell!(events, "{} pictures to train on, {} to monitor, {} to test", train.len(), val.len(), test.len());
    let start = Instant::now();
    let (mut net, state, updates) = job.run([&train, &val], "train", Some(&out.join(CHECKPOINT)), resume)?;
    let seconds = start.elapsed().as_secs_f64();
    if !leads(&job.peers) {
        return Ok(Trained { ratings: None, classes: None });
    }
    let (rows, what, [trained, monitored]) = match (test.is_empty(), val.is_empty()) {
        (false, _) if job.leak().is_some() => (test, "test pictures: never trained on, and monitored", [0, 1]),
        (false, _) => (test, "test pictures, never trained on", [0, 0]),
        (true, false) if state.epoch == 0 => (val, "pictures that were held out, never trained on", [0, 0]),
        (true, false) => (val, "monitored pictures: never trained on, but the best epoch was chosen by them", [0, 1]),
        (true, true) => (train.clone(), "training pictures: nothing was held out", [1, 0]),
    };
    let seen = [trained, monitored].map(|all| all * rows.len());
    let predicted = job.predict(&mut net, &rows)?;
    job.recycle(net);
    let measured_on = format!("Measured on the {} {what}.", rows.len());
    notes.insert(0, measured_on.clone());
    if let Some(leak) = job.leak() {
        tell!(events, "warning: {leak}");
        notes.insert(0, leak);
    }
    notes.extend(job.left_out());
    let best = state.parts.iter().filter_map(|p| p.stop.best_epoch).max().map_or(0, |e| e + 1);
    let pace = match updates {
        0 => "none in this session".to_string(),
        n => format!("{:.3} s each in this session", seconds / n as f64),
    };
    let loop_facts = [
        ("Epochs", format!("{} run, the weights of epoch {best} kept", state.epoch)),
        ("Updates", format!("{}, {pace}", state.step)),
    ];
    let facts = [
        ("Pictures", format!("{} trained on, side {} pixels", train.len(), sides(job.pictures.views()))),
        ("Seed", job.settings.seed.to_string()),
        ("Peak memory", peak_mib().map_or("unknown".into(), |m| format!("{m:.0} MiB"))),
    ];
    let head = job.said.clone().map(|said| ("Head", said));
    let facts = head.into_iter().chain(loop_facts.into_iter().filter(|_| state.epoch > 0)).chain(facts);
    let facts: Vec<(String, String)> = facts.map(|(k, v)| (k.to_string(), v)).collect();
    let manifest = job.manifest.select(&rows);
    let about = About {
        title,
        command: output.command.clone(),
        device: job.device_name.clone(),
        facts,
        notes,
        history: &state.history,
        manifest: &manifest,
        folds: None,
        seen: Some(seen),
    };
    let tell = |about: &About| {
        about.facts.iter().for_each(|(name, value)| tell!(events, "{name}: {value}"));
        tell!(events, "{measured_on}");
    };
    tell(&about);
    let mut classes = None;
    if job.tells_classes() {
        let truth: Vec<usize> = rows.iter().map(|&i| job.y[i]).collect();
        let (about, names, probabilities) = (about.clone(), &job.config.classes[..], &predicted.probabilities[..]);
        let outcome = ClassOutcome { about, classes: names, truth: &truth, probabilities, over_folds: &[] };
        classes = Some(classes::write(&classes::folder(out, job.rates()), &outcome)?);
    }
    if !job.rates() {
        return Ok(Trained { ratings: None, classes });
    }
    let outcome = Outcome {
        about,
        pictures: &job.pictures,
        squares: Some(&rows),
        predicted: &predicted.ratings,
        train_mean: &job.means(&train),
        over_folds: None,
    };
    let metrics = write_folder(out, &outcome)?;
    if let Some(remark) = metrics.beyond() {
        tell!(events, "warning: {remark}");
    }
    Ok(Trained { ratings: Some(metrics), classes })
}
