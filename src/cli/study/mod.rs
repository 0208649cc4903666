//! `study`: what a paper says about several models at once.

mod compare;
mod init;
mod report;
mod run;
mod slurm;

use crate::error::Result;
use clap::{Args, Subcommand};

#[derive(Args)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Write the paper's study as a file to be edited.
    Init(Box<init::Command>),
    /// Train every model of a study on every fold, as far as that is not done, and make its tables.
    Run(Box<run::Command>),
    /// Write the script that runs a study on Slurm, one cell a task.
    Slurm(Box<slurm::Command>),
    /// Make the tables and the report of what is done so far.
    Report(Box<report::Command>),
    /// Tell which of several cross-validations is better: paired t-tests over their common folds.
    Compare(Box<compare::Command>),
}

impl Command {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Init(c) => c.run(),
            Action::Run(c) => c.run(),
            Action::Slurm(c) => c.run(),
            Action::Report(c) => c.run(),
            Action::Compare(c) => c.run(),
        }
    }
}
