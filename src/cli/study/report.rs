//! `study report`: the tables and the page of what is done so far.

use crate::cli::{Compute, output, to};
use crate::error::Result;
use crate::experiment::Study;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// The study that was run.
    #[arg(default_value = "study.toml")]
    study: PathBuf,
    /// Its folder of results.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let study =
            Study { output: to(&self.out), compute: self.compute.into(), ..Study::open(&self.study, &self.out)? };
        output::print(&study.report()?)
    }
}
