//! `weights`: what is in a weight file, and its way to other programs.

mod diff;
mod export;
mod import;
mod inspect;
mod merge;
mod narrow;

use crate::error::Result;
use clap::{Args, Subcommand};

#[derive(Args)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Convert another program's weights, once: they are mapped from then on.
    Import(Box<import::Command>),
    /// Show what is inside a weight file or a checkpoint.
    Inspect(Box<inspect::Command>),
    /// Show which tensors of two files differ, and by how much.
    Diff(Box<diff::Command>),
    /// Write a trained model or a tower for another program.
    Export(Box<export::Command>),
    /// Make one model of those of a cross-validation: their mean, with its intervals, at the cost of one.
    Merge(Box<merge::Command>),
    /// Store the weights of a model's dense layers in 16 bits: half the size, and read as they lie by predictions on the CPU.
    Narrow(Box<narrow::Command>),
}

impl Command {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Import(c) => c.run(),
            Action::Inspect(c) => c.run(),
            Action::Diff(c) => c.run(),
            Action::Export(c) => c.run(),
            Action::Merge(c) => c.run(),
            Action::Narrow(c) => c.run(),
        }
    }
}
