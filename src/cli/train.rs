//! `train`: a model on a manifest.

use super::preset::Preselected;
use super::ranges::{MANY, whole};
use super::{output, to};
use crate::error::Result;
use crate::experiment::Trainer;
use crate::experiment::train::{CHECKPOINT, Trained};
use crate::report::classes;
use clap::Args;
use std::path::{Path, PathBuf};

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
        let Self { manifest, out, resume, fold, ignore_fold_column, flags } = self;
        let (run, output) = (flags.0, to(&out));
        tell_of(&Trainer { manifest, run, output, resume, fold, ignore_fold_column }.train()?, &out)
    }
}

/// Prints what a trained model is worth, and says where its files are.
pub fn tell_of(found: &Trained, out: &Path) -> Result<()> {
    let rated = found.ratings.is_some();
    if let Some(classified) = &found.classes {
        output::print(&format!("{}\n", classified.line()))?;
        let also = if rated { String::new() } else { format!("{CHECKPOINT}, ") };
        let dir = classes::folder(out, rated);
        remark!("wrote {also}predictions.csv, confusion.csv, metrics.json and report.html to {}", dir.display());
    }
    if let Some(metrics) = &found.ratings {
        output::print(&metrics.table())?;
        remark!("{}", metrics.legend());
        remark!("wrote {CHECKPOINT}, predictions.csv, metrics.json and report.html to {}", out.display());
    }
    Ok(())
}
