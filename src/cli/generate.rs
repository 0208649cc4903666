//! `generate`: pictures for ratings, by a generator that is trained against a frozen model.

use super::ranges::{MANY, number, whole};
use super::reading::batch;
use super::{Compute, output, to};
use crate::error::{Error, Result};
use crate::experiment::generate::Generate;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Folder for grid.png, cells.csv, curves.csv, measures.json, report.html and generator.safetensors.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Checkpoint of `train` that guides; without it the bundled model does.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Manifest of photographs with ratings: a discriminator learns to tell them from what is made, and the guide counts a tenth.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// A second model, which had no say: it rates what was made, and the report begins with what it says.
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
    /// Folder of an `evolve`: its pictures stand beside these, rated by the same models.
    #[arg(long, value_name = "DIR")]
    elites: Option<PathBuf>,
    /// Steps of the generator, and of the discriminator if there is one.
    #[arg(long, value_parser = whole::<usize>(1..=MANY), default_value_t = 400, value_name = "N")]
    steps: usize,
    /// Pictures in a step.
    #[arg(long, value_parser = batch, default_value_t = 16, value_name = "N")]
    batch: usize,
    /// Adam's rate: 0.001, and 0.0002 with --data.
    #[arg(long, value_parser = number::<f64>(0.0, 1.0), value_name = "RATE")]
    lr: Option<f64>,
    /// Reward for the difference of two pictures of the same ratings by their noises' (Mao et al. 2019): without it they may
    /// come out alike.
    #[arg(long, value_parser = number::<f64>(0.0, 1e3), default_value_t = 0.0, value_name = "D")]
    diversity: f64,
    /// Side of the pictures: 8, 16, 32, 64, 128, ...
    #[arg(long, value_parser = whole::<usize>(8..=512), default_value_t = 64, value_name = "PIXELS")]
    side: usize,
    /// Side of the square that the guide sees: by default that of the pictures where it takes any from 32 up, else its own.
    #[arg(long, value_parser = whole::<usize>(32..=1024), value_name = "PIXELS")]
    seen: Option<usize>,
    /// Channels of the generator's last map before the picture; each one before has twice as many, at most 512.
    #[arg(long, value_parser = whole::<usize>(1..=512), default_value_t = 32, value_name = "N")]
    channels: usize,
    /// Numbers of noise beside the ratings.
    #[arg(long, value_parser = whole::<usize>(1..=10_000), default_value_t = 100, value_name = "N")]
    noise: usize,
    /// Lowest and highest rating that is asked for.
    #[arg(long, value_delimiter = ',', num_args = 1, value_parser = number::<f64>(1.0, 9.0), default_value = "1,9", value_name = "LOW,HIGH")]
    range: Vec<f64>,
    /// Parts of the plane along each rating: a picture is shown for every cell.
    #[arg(long, value_parser = whole::<usize>(1..=64), default_value_t = 6, value_name = "N")]
    cells: usize,
    /// Pictures rated in each cell.
    #[arg(long, value_parser = whole::<usize>(1..=1000), default_value_t = 2, value_name = "N")]
    samples: usize,
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Go on with the generator in --out; --steps may be more than they were.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let Ok(range) = self.range.try_into() else {
            return Err(Error::usage("--range takes two numbers").fix("write them as in 2,8"));
        };
        let generate = Generate {
            model: self.model,
            data: self.data,
            judge: self.judge,
            elites: self.elites,
            steps: self.steps,
            batch: self.batch,
            lr: self.lr,
            side: self.side,
            seen: self.seen,
            channels: self.channels,
            noise: self.noise,
            diversity: self.diversity,
            range,
            cells: self.cells,
            samples: self.samples,
            seed: self.seed,
            resume: self.resume,
            compute: self.compute.into(),
        };
        let found = generate.run(&to(&self.out))?;
        output::print(&found.notes.iter().map(|line| line.dashed() + "\n").collect::<String>())?;
        remark!("wrote grid.png, cells.csv, curves.csv, measures.json and report.html to {}", self.out.display());
        Ok(())
    }
}
