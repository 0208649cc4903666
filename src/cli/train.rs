//! `train`: a model on a manifest.

use super::preset::Preselected;
use super::ranges::{MANY, whole};
use super::{output, to};
use crate::error::{Error, Result, option};
use crate::experiment::Trainer;
use crate::experiment::ranks::{Crew, Quiet, computing, meet};
use crate::experiment::train::{CHECKPOINT, Trained};
use crate::ranks::{MOST, Place, leads};
use crate::report::classes;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Train by so many processes on this machine, each on its share of the cores and of the pictures of a batch. torchrun,
    /// srun and mpirun start ranks themselves, on several machines too: leave this out there.
    #[arg(long, value_parser = whole::<usize>(1..=MOST as u64), value_name = "N", conflicts_with = "gpus")]
    ranks: Option<usize>,
    /// Train by a process on each of these GPUs of this machine: 0,1,2,3.
    #[arg(long, value_parser = whole::<usize>(0..=MOST as u64 - 1), value_delimiter = ',', value_name = "NUMBERS")]
    gpus: Vec<usize>,
    /// Keep on each rank what the optimiser remembers of its share of the parameters alone (ZeRO-1): the same numbers in less
    /// memory.
    #[arg(long)]
    shard_optimizer: bool,
    #[command(flatten)]
    flags: Preselected,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let Self { manifest, out, resume, fold, ignore_fold_column, ranks, gpus, shard_optimizer, flags } = self;
        let (mut run, mut output) = (flags.0, to(&out));
        let wanted = ranks.unwrap_or(gpus.len()).max(1);
        let (place, peers, crew) = match Place::of_environment()? {
            Some(place) if wanted > 1 && place.ranks != wanted => {
                return Err(Error::usage(format!("{wanted} ranks are asked for where {} were started", place.ranks))
                    .fix(format!("leave out {} and {}", option("ranks"), option("gpus"))));
            }
            Some(place) => {
                let peers = meet(&place)?;
                (Some(place), Some(peers), None)
            }
            None if wanted > 1 => {
                let arguments: Vec<_> = std::env::args_os().skip(1).collect();
                let (crew, place, peers) = Crew::start(wanted, &arguments)?;
                (Some(place), Some(peers), Some(crew))
            }
            None => (None, None, None),
        };
        if let Some(place) = &place {
            run.compute = computing(run.compute, place);
        }
        if let Some(gpu) = gpus.get(place.as_ref().map_or(0, |p| p.local)) {
            run.compute.device = format!("cuda:{gpu}");
        }
        let first = leads(&peers);
        if !first {
            output.events = Arc::new(Quiet(output.events));
        }
        let trainer = Trainer { manifest, run, output, resume, fold, ignore_fold_column, peers, shard_optimizer };
        let found = trainer.train()?;
        drop(crew);
        if first { tell_of(&found, &out) } else { Ok(()) }
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
