//! Which pictures are tested together, as a command line says it.

use super::ranges::{MANY, whole};
use crate::experiment::deal::FoldPlan;
use clap::Args;
use std::path::PathBuf;

/// What a command line says of folds.
#[derive(Args, Clone, Debug)]
pub struct FoldFlags {
    /// Number of folds; five, or those of the manifest's column `fold`.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), value_name = "K")]
    folds: Option<u32>,
    /// Deal rows out one by one although the manifest has groups: near-duplicates may then be on both sides.
    #[arg(long)]
    ungrouped: bool,
    /// Deal every set of the manifest (column dataset) evenly over the folds.
    #[arg(long, conflicts_with = "fold_file")]
    stratify: bool,
    /// Folds from a file written by an earlier run.
    #[arg(long, value_name = "FILE")]
    fold_file: Option<PathBuf>,
    /// Deal the folds although the manifest has a column `fold`.
    #[arg(long)]
    ignore_fold_column: bool,
}

impl FoldFlags {
    pub fn asked(&self, seed: u64) -> FoldPlan {
        let (file, k) = (self.fold_file.clone(), self.folds);
        let (ungrouped, stratify) = (self.ungrouped, self.stratify);
        FoldPlan { file, k, ungrouped, stratify, ignore_column: self.ignore_fold_column, seed }
    }
}
