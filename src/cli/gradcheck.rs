//! `gradcheck`: is the gradient of a training step the derivative of its loss? In float64, by the definition of every op.

use super::model::{ModelArg, ModelScale};
use super::ranges::{MANY, whole};
use super::reading::{batch, threads};
use super::{output, terminal};
use crate::error::{Error, Result};
use crate::measure::gradients::{Extent, GradientCheck, check};
use crate::train::gradcheck::Checked;
use clap::Args;

#[derive(Args)]
pub struct Command {
    /// Random directions through all weights at full width, instead of elements of every tensor of a tiny network.
    #[arg(long)]
    full: bool,
    /// Elements checked in each tensor; smaller tensors are checked whole.
    #[arg(long, value_parser = whole::<usize>(1..=MANY), default_value_t = 32, value_name = "N")]
    elements: usize,
    /// Directions checked with --full.
    #[arg(long, value_parser = whole::<usize>(1..=MANY), default_value_t = 2, value_name = "N")]
    directions: usize,
    /// 4 by default, 1 with --full.
    #[arg(long, value_parser = batch, value_name = "N")]
    batch: Option<usize>,
    /// Decides weights, pictures, masks and what is checked.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Threads; all cores by default.
    #[arg(long, value_parser = threads, value_name = "N")]
    threads: Option<usize>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArg,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let (scale, extent, batch) = match self.full {
            true => (ModelScale::SmallImage, Extent::Directions(self.directions), 1),
            false => (ModelScale::Tiny, Extent::Elements(self.elements), 4),
        };
        let (model, batch) = (self.model.resolve(self.seed, scale)?, self.batch.unwrap_or(batch));
        let found = check(&model, extent, batch, self.seed, self.threads, &*terminal())?;
        output::print_result(&found, self.json, GradientCheck::text)?;
        let failed: Vec<&Checked> = found.results.iter().filter(|c| !c.passed()).collect();
        match failed.first() {
            None => Ok(()),
            Some(c) if c.wrong == 0 => Err(Error::job(format!("{}: every point lies on a kink", c.name))
                .fix("nothing was compared: try another --seed")),
            Some(c) => {
                let (element, gradient, numeric) = c.worst.expect("a wrong point was compared");
                Err(Error::job(format!(
                    "{} of {} gradients are wrong; {} element {element} is {gradient:e}, and the loss changes at {numeric:e}",
                    failed.len(),
                    found.results.len(),
                    c.name
                )))
            }
        }
    }
}
