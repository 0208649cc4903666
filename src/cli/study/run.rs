//! `study run`: every cell of the grid that is not done, then the tables.

use crate::cli::ranges::{MANY, whole};
use crate::cli::{Compute, output, to};
use crate::error::Result;
use crate::experiment::Study;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// What is to be trained and shown: see `study init`.
    #[arg(default_value = "study.toml")]
    study: PathBuf,
    /// Folder for the results. Several processes, also of several machines, may work in one: each takes the next cell
    /// that nobody computes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Compute again what lies in the folder and was made otherwise: with other weights, settings, ratings, folds or another
    /// program. Without it that is named, and nothing is computed.
    #[arg(long)]
    anew: bool,
    /// Only one cell, and what it begins with: models in the order of the file, fold by fold, counted from 1. What is done is
    /// left alone. As for the tasks of an array of jobs: see `study slurm`.
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=MANY), conflicts_with = "anew")]
    cell: Option<usize>,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let study =
            Study { output: to(&self.out), compute: self.compute.into(), ..Study::open(&self.study, &self.out)? };
        let found = self.cell.map_or_else(|| study.run(self.anew), |number| study.cell(number))?;
        output::print(&found.tables)?;
        found.failed.map_or(Ok(()), Err)
    }
}
