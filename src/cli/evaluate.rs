//! `evaluate`: a trained model against the ratings of a manifest.

use super::ranges::{MANY, whole};
use super::reading::{Model, Reading, batch};
use super::{Bar, Compute, output, stopped};
use crate::data::boxes::seen_whole;
use crate::data::{Manifest, Pictures};
use crate::error::{Error, Result};
use crate::hash;
use crate::progress::Progress;
use crate::report::folder::{Outcome, metrics, metrics_json, prepare, write_folder};
use crate::train::network::Precision;
use crate::train::predictor::Predictor;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures and ratings (see `import`).
    manifest: PathBuf,
    /// Checkpoint of `train`.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Columns to measure; by default everything the model predicts.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    targets: Vec<String>,
    /// Only the rows whose `fold` column is N.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), value_name = "N")]
    fold: Option<u32>,
    /// Folder for predictions.csv, metrics.json and report.html.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print metrics.json instead of a table.
    #[arg(long)]
    json: bool,
    /// Pictures computed at once: costs memory, changes no rating.
    #[arg(long, default_value = "8", value_parser = batch, value_name = "N")]
    batch: usize,
    /// Leave out pictures that cannot be read instead of stopping.
    #[arg(long)]
    skip_bad: bool,
    /// Folder for resized pictures, to have them at once next time; by default they are kept in memory.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        self.compute.bind_threads();
        let model = Model::open(Some(&self.model))?;
        let all = model.targets()?;
        let which = self.which(all)?;
        let manifest = self.rows(&which.iter().map(|&t| all[t].as_str()).collect::<Vec<_>>())?;
        if let Some(dir) = &self.out {
            prepare(dir)?;
        }
        let bar = Bar::new();
        let options = model.load_options(&self.reading, self.cache.clone())?;
        let sources = match self.reading.boxes(&options.views)? {
            Some(boxes) => (0..manifest.rows.len()).map(|i| boxes.source(manifest.file(i))).collect(),
            None => manifest.sources(),
        };
        if let Some(remark) = seen_whole(&sources, &options.views) {
            remark!("{remark}");
        }
        let loaded = Pictures::load(&sources, &options, &bar)?;
        let (bad, total) = (loaded.bad.clone(), manifest.rows.len());
        if let Some(first) = bad.first().filter(|_| !self.skip_bad || bad.len() == total) {
            let e = Error::file(&first.path, &first.reason);
            return Err(Error::file(&self.manifest, format!("{} of {total} pictures cannot be used: {e}", bad.len()))
                .at(format!("line {}", manifest.rows[first.row].line))
                .fix("correct the manifest, or give --skip-bad to go on without them"));
        }
        for b in &bad {
            remark!("left out: {}", Error::file(&b.path, &b.reason));
        }
        let pictures = loaded.accept(true)?;
        let manifest = manifest.select(pictures.rows());
        let mut predictor = model.predictor(self.precision, self.batch.min(pictures.len()), &self.compute, false)?;
        let predicted = predict(&mut predictor, &pictures, &which, self.batch, &bar)?;
        let train_mean: Vec<f64> = which.iter().map(|&t| predictor.card.train_mean[t]).collect();
        let folds = self.fold.map(|f| vec![f; manifest.rows.len()]);
        let mut notes = vec![];
        let sums = (0..pictures.len()).map(|i| hash::checksum(pictures.image(i)));
        let seen = predictor.card.origin.seen(sums);
        notes.push(match seen {
            Some([0, 0]) => "The model was trained on none of these pictures.".into(),
            Some([trained, monitored]) => {
                let monitored = if monitored > 0 { format!(" and monitored on {monitored}") } else { String::new() };
                let note = format!(
                    "The model was trained on {trained} of these {} pictures{monitored}: its errors there are not those \
                     of new pictures.",
                    pictures.len()
                );
                remark!("warning: {note}");
                note
            }
            None => "The model does not say which pictures it was trained on.".into(),
        });
        if !bad.is_empty() {
            notes.push(format!("{} of {total} pictures could not be read and were left out.", bad.len()));
        }
        let outcome = Outcome {
            title: format!("{} on {}", model.name, name(&self.manifest)),
            command: self.command(),
            device: predictor.device(),
            facts: vec![
                ("Model".into(), predictor.card.made_by.clone()),
                ("Epochs".into(), predictor.state().epoch.to_string()),
            ],
            notes,
            history: &predictor.state().history,
            manifest: &manifest,
            pictures: &pictures,
            squares: None,
            predicted: &predicted,
            folds: folds.as_deref(),
            train_mean: &train_mean,
            over_folds: None,
            seen,
        };
        let m = match &self.out {
            Some(dir) => write_folder(dir, &outcome)?,
            None => metrics(&outcome)?,
        };
        if let Some(remark) = m.beyond() {
            remark!("warning: {remark}");
        }
        let text = if self.json { metrics_json(&outcome, &m) } else { m.table() };
        if !self.json {
            remark!("{}", m.legend());
        }
        output::print(&text)?;
        if let Some(dir) = &self.out {
            remark!("wrote predictions.csv, report.html and metrics.json to {}", dir.display());
        }
        Ok(())
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

    /// Without folders: a report may be passed on.
    fn command(&self) -> String {
        let mut text = format!("deep-affect evaluate --model {} {}", name(&self.model), name(&self.manifest));
        if !self.targets.is_empty() {
            text += &format!(" --targets {}", self.targets.join(","));
        }
        if let Some(f) = self.fold {
            text += &format!(" --fold {f}");
        }
        text
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// [rows, which] of all pictures.
fn predict(p: &mut Predictor, pictures: &Pictures, which: &[usize], batch: usize, bar: &Bar) -> Result<Vec<f32>> {
    let n = p.config.targets.len();
    let square = pictures.image(0).len();
    let mut all = Vec::with_capacity(pictures.len() * which.len());
    bar.start("predicting", pictures.len() as u64);
    for piece in pictures.bytes().chunks(square * batch) {
        for y in p.predict(piece)?.chunks_exact(n) {
            all.extend(which.iter().map(|&t| y[t]));
            bar.inc();
        }
        if stopped() {
            bar.done();
            return Err(Error::interrupted("stopped before the end; nothing was written"));
        }
    }
    bar.done();
    Ok(all)
}
