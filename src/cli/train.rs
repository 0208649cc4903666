//! `train`: a model on a manifest, from the first step to the report.

use super::job::{Job, split};
use super::preset::Preselected;
use super::ranges::{MANY, whole};
use super::{command_line, output};
use crate::data::Manifest;
use crate::error::{Error, Result};
use crate::preprocess::sides;
use crate::report::classes::{self, ClassOutcome};
use crate::report::folder::{About, Outcome, write_folder};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures and ratings (see `import`).
    manifest: PathBuf,
    /// Folder for the checkpoint, predictions.csv, metrics.json and report.html.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from the checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    /// Test on the pictures of this fold of the manifest's column `fold`, as it is numbered there, and train on the others.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), value_name = "N", conflicts_with = "test")]
    fold: Option<u32>,
    /// Set pictures apart by --test although the manifest has a column `fold`.
    #[arg(long, conflicts_with = "fold")]
    ignore_fold_column: bool,
    #[command(flatten)]
    flags: Preselected,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let flags = &self.flags.0;
        if !self.resume {
            flags.check_weights()?;
        }
        self.check_folds(&flags.data.targets())?;
        let mut job = Job::of_flags(&self.manifest, &self.out, flags)?;
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
            None => split(&job.manifest, &all, flags.train.test, job.settings.seed)?,
        };
        let title = format!("Training on {}", self.manifest.file_name().unwrap_or_default().to_string_lossy());
        train(&mut job, &self.out, parts, self.resume, title, vec![])
    }
}

impl Command {
    /// Before anything is decoded: a column that says who is tested together is not passed over.
    fn check_folds(&self, targets: &[String]) -> Result<()> {
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let manifest = Manifest::read(&self.manifest, &targets)?;
        let named = manifest.rows.iter().any(|r| r.fold.is_some());
        if !named || self.fold.is_some() || self.ignore_fold_column {
            return Ok(());
        }
        Err(Error::file(&self.manifest, "has a column `fold`, which says who is tested together")
            .fix("name the fold to test on with --fold N, or set it aside with --ignore-fold-column")
            .as_usage())
    }
}

/// Name of the checkpoint in an output folder.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// Trains, judges and reports: the whole of `train`, and the end of `demo`.
/// `rest` is trained on, `test` set apart.
pub fn train(
    job: &mut Job,
    out: &Path,
    [rest, test]: [Vec<usize>; 2],
    resume: bool,
    title: String,
    mut notes: Vec<String>,
) -> Result<()> {
    let [train, val] = job.hold_out(&rest, &test)?;
    remark!("{} pictures to train on, {} to monitor, {} to test", train.len(), val.len(), test.len());
    let start = Instant::now();
    let (mut net, state, updates) = job.run([&train, &val], "train", Some(&out.join(CHECKPOINT)), resume)?;
    let seconds = start.elapsed().as_secs_f64();
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
    let measured = format!("Measured on the {} {what}.", rows.len());
    notes.insert(0, measured.clone());
    if let Some(leak) = job.leak() {
        remark!("warning: {leak}");
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
        ("Peak memory", peak_memory().map_or("unknown".into(), |m| format!("{m:.0} MiB"))),
    ];
    let head = job.said.clone().map(|said| ("Head", said));
    let facts = head.into_iter().chain(loop_facts.into_iter().filter(|_| state.epoch > 0)).chain(facts);
    let facts: Vec<(String, String)> = facts.map(|(k, v)| (k.to_string(), v)).collect();
    let manifest = job.manifest.select(&rows);
    let about = About {
        title,
        command: command_line(),
        device: job.device_name.clone(),
        facts,
        notes,
        history: &state.history,
        manifest: &manifest,
        folds: None,
        seen: Some(seen),
    };
    let tell = |about: &About| {
        about.facts.iter().for_each(|(name, value)| remark!("{name}: {value}"));
        remark!("{measured}");
    };
    tell(&about);
    if job.tells_classes() {
        let truth: Vec<usize> = rows.iter().map(|&i| job.y[i]).collect();
        let (classes, probabilities) = (&job.config.classes[..], &predicted.probabilities[..]);
        let outcome = ClassOutcome { about: about.clone(), classes, truth: &truth, probabilities, over_folds: &[] };
        let dir = classes::folder(out, job.rates());
        let measured = classes::write(&dir, &outcome)?;
        output::print(&format!("{}\n", measured.line()))?;
        let also = if job.rates() { String::new() } else { format!("{CHECKPOINT}, ") };
        remark!("wrote {also}predictions.csv, confusion.csv, metrics.json and report.html to {}", dir.display());
        if !job.rates() {
            return Ok(());
        }
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
        remark!("warning: {remark}");
    }
    output::print(&metrics.table())?;
    remark!("{}", metrics.legend());
    remark!("wrote {CHECKPOINT}, predictions.csv, metrics.json and report.html to {}", out.display());
    Ok(())
}

/// Largest resident set of this process so far, MiB; None where the system does not tell.
pub fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim().parse::<f64>();
    Some(kib.ok()? / 1024.0)
}
