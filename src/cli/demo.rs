//! `demo`: the main job on the bundled photographs, from pretrained weights to a tested model.

use super::ranges::{MANY, whole};
use super::train::tell_of;
use super::{Compute, to};
use crate::error::Result;
use crate::experiment::demo::Demo;
use crate::experiment::train::CHECKPOINT;
use crate::train::network::Precision;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Folder for everything the demo leaves.
    #[arg(long, default_value = "demo", value_name = "DIR")]
    out: PathBuf,
    /// Epochs of the pass end to end.
    #[arg(long, value_parser = whole::<u32>(1..=MANY), default_value_t = 2, value_name = "N")]
    epochs: u32,
    /// Side of the square image in pixels, at least 32.
    #[arg(long, value_parser = whole::<usize>(32..=4096), default_value_t = 160, value_name = "PIXELS")]
    image: usize,
    /// A VGG16 to begin with, instead of the bundled one.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Go on from the checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    /// Decides which themes are tested, and every random choice of the training.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let Self { out, epochs, image, weights, resume, seed, precision, compute } = self;
        let output = to(&out);
        let demo = Demo { epochs, image, weights, resume, seed, precision, compute: compute.into(), output };
        tell_of(&demo.run()?, &out)?;
        remark!("next: deep-affect predict --model {} PICTURE", out.join(CHECKPOINT).display());
        Ok(())
    }
}
