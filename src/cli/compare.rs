//! `compare`: one network on two devices, or on one device in two ways, output by output.

use super::model::{ModelArg, ModelScale};
use super::ranges::{number, whole};
use super::{Compute, output, terminal};
use crate::error::{Error, Result};
use crate::measure::Purpose;
use crate::measure::agreement::{Against, Agreement, AgreementCheck};
use clap::Args;

#[derive(Args)]
pub struct Command {
    /// An inference, or one training step: loss, outputs and the gradient of every parameter.
    #[arg(long, value_enum, default_value_t = Purpose::Infer)]
    pass: Purpose,
    #[arg(long, value_parser = whole::<usize>(1..=4096), default_value_t = 1, value_name = "N")]
    batch: usize,
    /// Reference device.
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    against: String,
    /// Largest difference that is accepted, relative to the largest magnitude among the layer's tensors (float32 sums in
    /// another order differ, the more the deeper); 1e-4 of an inference and 1e-3 of a training step by default. In 16 bits
    /// the mean square counts by default, and what is accepted is twice the distance to the same in float32.
    #[arg(long, value_parser = number::<f64>(0.0, 1e6), value_name = "X")]
    tolerance: Option<f64>,
    /// Hold the device against itself: runs as they are, which on a GPU replay a recorded graph from the second on, against
    /// the same runs launch by launch, each on other pictures or with other dropout. Every bit must be equal.
    #[arg(long, conflicts_with_all = ["against", "tolerance", "pieces"])]
    replay: bool,
    /// Hold the device against itself: an inference of the whole batch against inferences of N of its pictures at a time.
    /// Every bit must be equal.
    #[arg(long, value_parser = whole::<usize>(1..=4096), value_name = "N", conflicts_with_all = ["against", "tolerance", "pass"])]
    pieces: Option<usize>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        self.compute.bind_threads();
        let comparison = AgreementCheck {
            model: &self.model.resolve(1, ModelScale::Full)?,
            purpose: self.pass,
            batch: self.batch,
            against: match self.pieces {
                Some(n) => Against::Pieces(n),
                None if self.replay => Against::LaunchByLaunch,
                None => Against::Device { name: &self.against, tolerance: self.tolerance },
            },
            compute: &self.compute.into(),
            events: &*terminal(),
        };
        let found = comparison.run()?;
        output::print_result(&found, self.json, Agreement::text)?;
        match found.tensors.iter().find(|r| !r.accepted) {
            None => Ok(()),
            Some(r) => Err(Error::job(format!("{} differs on {} and {}", r.tensor, found.device, found.against))
                .fix("report it with what `doctor` says; `conform` finds the op")),
        }
    }
}
