//! `evaluate`: a trained model against the ratings, or the classes, of a manifest.

use super::output::clean;
use super::ranges::{MANY, whole};
use super::reading::{Model, Reading, batch};
use super::{Bar, Compute, output, stopped};
use crate::data::boxes::seen_whole;
use crate::data::labels::Asked;
use crate::data::{LabelMap, Labels, Manifest, Pictures};
use crate::error::{Error, Result};
use crate::hash;
use crate::progress::Progress;
use crate::report::classes::{self, ClassOutcome};
use crate::report::folder::{About, Claim, Outcome, claim, metrics, metrics_json, prepare, write_folder};
use crate::train::network::Precision;
use crate::train::predictor::{Predictor, Seen};
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
    /// Column of class names, for a model that tells classes apart. Of one that predicts ratings too the report of the classes
    /// is the folder `classes` in --out.
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// What names of --label are called by the model: a CSV with the columns from and to. Names that are none of its classes
    /// are counted and left out.
    #[arg(long, value_name = "FILE")]
    label_map: Option<PathBuf>,
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
    /// The folder of results, if there is to be one, which is nobody else's as long as what is returned lives.
    fn claim(&self) -> Result<Option<Claim>> {
        let Some(dir) = &self.out else { return Ok(None) };
        prepare(dir)?;
        claim(dir).map(Some)
    }

    pub fn run(self) -> Result<()> {
        self.compute.bind_threads();
        let map = self.label_map.as_deref().map(LabelMap::read).transpose()?;
        if map.is_some() && self.label.is_none() {
            return Err(Error::usage("--label-map is for the names of --label").fix("name their column with --label"));
        }
        let model = Model::open(Some(&self.model))?;
        let config = model.config()?;
        let (classes, all) = (&config.classes, &config.targets);
        match (&self.label, classes.is_empty()) {
            (Some(_), true) => {
                return Err(Error::usage("--label: the model predicts ratings").fix("leave out --label"));
            }
            (None, false) if all.is_empty() => {
                return Err(
                    Error::usage("the model tells classes apart").fix("name the column of class names with --label")
                );
            }
            (None, false) => remark!("note: the model tells classes apart too; --label names a column of them"),
            _ => {}
        }
        if all.is_empty() && !self.targets.is_empty() {
            return Err(Error::usage("--targets: the model tells classes apart").fix("leave out --targets"));
        }
        let which = self.which(all)?;
        let mut manifest = self.rows(&which.iter().map(|&t| all[t].as_str()).collect::<Vec<_>>())?;
        // The class of each row that is left.
        let mut listed: Vec<usize> = vec![];
        if let Some(column) = &self.label {
            let map = map.unwrap_or_default();
            let labels = Labels::among(&manifest, &Asked { column, map: &map, least: 1 }, classes.to_vec())?;
            labels.remarks().iter().for_each(|r| remark!("{}", clean(r)));
            if labels.rows().is_empty() {
                return Err(Error::file(&self.manifest, "names none of the model's classes")
                    .at(format!("column {column}"))
                    .fix(format!("map its names with --label-map; the classes are {}", clean(&classes.join(", "))))
                    .as_usage());
            }
            listed = labels.of.iter().flatten().copied().collect();
            manifest = manifest.select(&labels.rows());
        }
        let _claim = self.claim()?;
        let bar = Bar::new();
        let (manifest, pictures, left_out) = self.pictures(&model, manifest, &bar)?;
        let mut predictor =
            model.predictor(self.precision, self.batch.min(pictures.len()), self.compute.open()?, false)?;
        let said = predict(&mut predictor, &pictures, &bar, self.batch)?;
        let folds = self.fold.map(|f| vec![f; manifest.rows.len()]);
        let about = self.about(&model, &predictor, (&manifest, &pictures), left_out, folds.as_deref());
        let mut told = vec![];
        if self.label.is_some() {
            let truth: Vec<usize> = pictures.rows().iter().map(|&row| listed[row]).collect();
            let about = about.clone();
            let probabilities = &said.classes[0];
            told.push(self.classes(
                !all.is_empty(),
                &ClassOutcome { about, classes, truth: &truth, probabilities, over_folds: &[] },
            )?);
        }
        if !all.is_empty() {
            let train_mean: Vec<f64> = which.iter().map(|&t| predictor.card.train_mean[t]).collect();
            let predicted: Vec<f32> =
                said.ratings.chunks_exact(all.len()).flat_map(|y| which.iter().map(|&t| y[t])).collect();
            told.push(self.ratings(&Outcome {
                about,
                pictures: &pictures,
                squares: None,
                predicted: &predicted,
                train_mean: &train_mean,
                over_folds: None,
            })?);
        }
        match &told[..] {
            [classes, ratings] if self.json => output::print(&format!(
                "{{\"ratings\": {},\n\"classes\": {}}}\n",
                ratings.trim_end(),
                classes.trim_end()
            )),
            all => all.iter().try_for_each(|text| output::print(text)),
        }
    }

    /// Measures ratings, and writes the report if there is to be one; the text for people or programs.
    fn ratings(&self, outcome: &Outcome) -> Result<String> {
        let m = match &self.out {
            Some(dir) => write_folder(dir, outcome)?,
            None => metrics(outcome)?,
        };
        if let Some(remark) = m.beyond() {
            remark!("warning: {remark}");
        }
        if !self.json {
            remark!("{}", m.legend());
        }
        if let Some(dir) = &self.out {
            remark!("wrote predictions.csv, report.html and metrics.json to {}", dir.display());
        }
        Ok(if self.json { metrics_json(outcome, &m) } else { m.table() })
    }

    /// The same of classes; `rated` says whether ratings take the folder itself.
    fn classes(&self, rated: bool, outcome: &ClassOutcome) -> Result<String> {
        let dir = self.out.as_deref().map(|out| classes::folder(out, rated));
        let measured = match &dir {
            Some(dir) => classes::write(dir, outcome)?,
            None => classes::measure(outcome)?,
        };
        if let Some(dir) = &dir {
            remark!("wrote predictions.csv, confusion.csv, report.html and metrics.json to {}", dir.display());
        }
        Ok(if self.json { classes::metrics(outcome, &measured) } else { format!("{}\n", measured.line()) })
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
        let (seen, note) = seen(predictor, pictures);
        About {
            title: format!("{} on {}", model.name, name(&self.manifest)),
            command: self.command(),
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
    fn pictures(&self, model: &Model, manifest: Manifest, bar: &Bar) -> Result<(Manifest, Pictures, Option<String>)> {
        let options = self.reading.load_options(model, self.cache.clone())?;
        let sources = match self.reading.boxes(&options.views)? {
            Some(boxes) => (0..manifest.rows.len()).map(|i| boxes.source(manifest.file(i))).collect(),
            None => manifest.sources(),
        };
        if let Some(remark) = seen_whole(&sources, &options.views) {
            remark!("{remark}");
        }
        let loaded = Pictures::load(&sources, &options, bar)?;
        let (bad, total) = (loaded.bad.clone(), manifest.rows.len());
        if let Some(first) = bad.first().filter(|_| !self.skip_bad || bad.len() == total) {
            let e = Error::file(&first.path, &first.reason);
            return Err(Error::file(
                &self.manifest,
                format!("{} of {total} pictures cannot be used: {e:#}", bad.len()),
            )
            .at(format!("line {}", manifest.rows[first.row].line))
            .fix("correct the manifest, or give --skip-bad to go on without them"));
        }
        for b in &bad {
            remark!("left out: {}", Error::file(&b.path, &b.reason));
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

    /// Without folders: a report may be passed on.
    fn command(&self) -> String {
        let mut text = format!("deep-affect evaluate --model {} {}", name(&self.model), name(&self.manifest));
        if !self.targets.is_empty() {
            text += &format!(" --targets {}", self.targets.join(","));
        }
        if let Some(label) = &self.label {
            text += &format!(" --label {label}");
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

/// How many of the pictures the model was trained on, and how many were monitored, if it says so, and that as a note.
fn seen(predictor: &Predictor, pictures: &Pictures) -> (Option<[usize; 2]>, String) {
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
            remark!("warning: {note}");
            note
        }
        None => "The model does not say which pictures it was trained on.".into(),
    };
    (seen, note)
}

/// What the model says of all pictures.
fn predict(p: &mut Predictor, pictures: &Pictures, bar: &Bar, batch: usize) -> Result<Seen> {
    let square = pictures.image(0).len();
    let mut all = Seen { pictures: 0, ratings: vec![], heads: vec![], classes: vec![vec![]; p.classes.len()] };
    bar.start("predicting", pictures.len() as u64);
    for piece in pictures.bytes().chunks(square * batch) {
        let seen = p.see(piece)?;
        all.pictures += seen.pictures;
        all.ratings.extend(seen.ratings);
        all.classes.iter_mut().zip(seen.classes).for_each(|(all, seen)| all.extend(seen));
        (0..seen.pictures).for_each(|_| bar.inc());
        if stopped() {
            bar.done();
            return Err(Error::interrupted("stopped before the end; nothing was written"));
        }
    }
    bar.done();
    Ok(all)
}
