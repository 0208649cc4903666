//! `study compare`: paired t-tests between cross-validations of the same pictures in the same folds.

use crate::cli::output;
use crate::error::Result;
use crate::experiment::study::Comparison;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Output folders of `cross-validate`, two or more; each pair is compared.
    #[arg(required = true, num_args = 2.., value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let found = Comparison::of(&self.folders)?;
        output::print(&if self.json { found.json() } else { found.text() })
    }
}
