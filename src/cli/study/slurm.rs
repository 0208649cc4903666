//! `study slurm`: a study as an array of jobs.

use crate::cli::{output, to};
use crate::error::Result;
use crate::experiment::Study;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// What is to be trained and shown: see `study init`.
    #[arg(default_value = "study.toml")]
    study: PathBuf,
    /// Folder for the results, which all tasks see. It is made, with the folds.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The file to write, instead of printing the script.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let text = Study { output: to(&self.out), ..Study::open(&self.study, &self.out)? }.slurm()?;
        match &self.script {
            Some(file) => crate::atomic::write(file, |w| w.write_all(text.as_bytes())),
            None => output::print(&text),
        }
    }
}
