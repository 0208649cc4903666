//! `train-face`: the facial expression network of Parry & Vuong 2021 (supplement 1.3), judged over folds.

use super::flags::TrainFlags;
use super::ranges::{MANY, whole};
use super::tower::TowerFlags;
use super::{Compute, output, to};
use crate::error::Result;
use crate::experiment::faces::Faces;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Manifest of faces with a column of expressions, or a folder with one folder for each expression.
    manifest: PathBuf,
    /// Folder for the results: folds, tables, confusion matrices, and the best fold's tower. The same command goes on
    /// with what an interrupted one left there; the other number of classes goes into the same tables.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// 9 (happiness, sadness, fear, anger, surprise, disgust, contempt, neutral, no-face) or 5 (the first four and no-face).
    #[arg(long, value_parser = whole::<usize>(0..=1000), default_value_t = 9, value_name = "N")]
    classes: usize,
    /// Column of expressions; rows with another one are left out.
    #[arg(long, default_value = "label", value_name = "COLUMN")]
    label: String,
    /// Most pictures of a class: so many are drawn of those that have more.
    #[arg(long, value_parser = whole::<usize>(0..=1_000_000_000), default_value_t = 1500, value_name = "N")]
    per_class: usize,
    /// Number of folds, each with its part of every class.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), default_value_t = 5, value_name = "K")]
    folds: u32,
    /// Deal rows out one by one although the manifest has groups: near-duplicates may then be on both sides.
    #[arg(long)]
    ungrouped: bool,
    /// Where the manifest has boxes (see `train --crop`): how much around them is seen too, in percent of their sides.
    #[arg(long, value_parser = whole::<u16>(0..=1000), default_value_t = 0, value_name = "PERCENT")]
    margin: u16,
    /// Show whole pictures although the manifest has boxes, as the paper does.
    #[arg(long, conflicts_with = "margin")]
    whole: bool,
    /// Begin with the convolutions of this tower: a file of `weights import` or of `pretrain`.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Folder for resized pictures; by default `cache` in the output folder.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    network: TowerFlags,
    #[command(flatten)]
    train: TrainFlags,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let faces = Faces {
            manifest: self.manifest,
            classes: self.classes,
            label: self.label,
            per_class: self.per_class,
            folds: self.folds,
            ungrouped: self.ungrouped,
            margin: (!self.whole).then_some(self.margin),
            weights: self.weights,
            cache: self.cache,
            network: self.network.into(),
            train: self.train.into(),
            compute: self.compute.into(),
            output: to(&self.out),
        };
        let found = faces.run()?;
        output::print(&found.table.text())?;
        remark!(
            "the tower of fold {}, which did best on its own test part: `train --weights face={}`\nwrote accuracy.md, \
             accuracy.csv and accuracy.tex to {}, and results.json, predictions.csv and confusion matrices to {}",
            found.best_fold,
            found.tower.display(),
            self.out.display(),
            found.folder.display()
        );
        Ok(())
    }
}
