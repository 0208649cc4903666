//! `pretrain`: one tower as a classifier, saved as a weight file for `train --weights`.

use super::flags::Checkpoints;
use super::ranges::{MANY, number, whole};
use super::tower::TowerFlags;
use super::{Compute, output, terminal};
use crate::error::Result;
use crate::experiment::classifier::Pretraining;
use crate::train::fit::Settings;
use crate::train::network::Precision;
use crate::train::schedule::PlateauRule;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures with a column of class names.
    manifest: PathBuf,
    /// Column of class names; rows where it is empty are left out.
    #[arg(long, value_name = "COLUMN")]
    label: String,
    /// Which tower: object (VGG16), scene (VGG16), face (VGG19), or a network by its name.
    #[arg(long, value_name = "NAME")]
    tower: String,
    /// The weight file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Go on from OUT.checkpoint, which a run that was stopped or killed left.
    #[arg(long)]
    resume: bool,
    /// Classes with fewer pictures are left out.
    #[arg(long, value_parser = whole::<usize>(0..=1_000_000_000), default_value_t = 8, value_name = "N")]
    min_count: usize,
    /// Begin from these weights; what the file lacks is drawn.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    #[arg(long, value_parser = whole::<u32>(0..=MANY), default_value_t = 60, value_name = "N")]
    epochs: u32,
    #[arg(long, value_parser = whole::<usize>(0..=MANY), default_value_t = 25, value_name = "N")]
    batch: usize,
    #[arg(long, value_parser = number::<f64>(0.0, 1e6), default_value_t = 0.01, value_name = "RATE")]
    lr: f64,
    /// Epochs without a decrease of the monitored loss after which training stops.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), default_value_t = 8, value_name = "N")]
    patience: u32,
    /// Part of the pictures that is set apart, as `train --test` with the same seed sets it apart.
    #[arg(long, value_parser = number::<f64>(0.0, 1.0), default_value_t = 0.0, value_name = "PART")]
    test: f64,
    #[arg(long, value_parser = number::<f64>(0.0, 1.0), default_value_t = 0.1, value_name = "PART")]
    val: f64,
    /// Changes each picture a little whenever it is trained on, as `train --augment` does.
    #[arg(long, value_name = "RANGES")]
    augment: Option<String>,
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    checkpoints: Checkpoints,
    #[command(flatten)]
    network: TowerFlags,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let settings = Settings {
            epochs: self.epochs,
            batch: self.batch.max(1),
            lr: self.lr,
            plateau: Some(PlateauRule::keras()),
            patience: self.patience,
            seed: self.seed,
            precision: self.precision,
            augment: self.augment.as_deref().map(str::parse).transpose()?,
            ..Settings::default()
        };
        let Self { manifest, label, tower, out, resume, min_count, weights, test, val, .. } = self;
        let (every, network, compute) = (self.checkpoints.every(), self.network.into(), self.compute.into());
        let asked = Pretraining {
            manifest,
            label,
            tower,
            out,
            resume,
            min_count,
            weights,
            settings,
            every,
            test,
            val,
            network,
            compute,
        };
        output::print(&asked.run(terminal())?)?;
        remark!("wrote {}", asked.out.display());
        Ok(())
    }
}
