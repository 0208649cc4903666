//! `profile`: where the time of an inference or of a training step goes, launch by launch; on the simulator, what each
//! launch did.

use super::model::{ModelArg, ModelScale};
use super::ranges::{MANY, whole};
use super::{Compute, output, terminal};
use crate::error::{Error, Result};
use crate::measure::Purpose;
use crate::measure::profile::{Pace, Profile, Profiling, Repeat};
use clap::Args;
use std::io::{BufRead, Read};

#[derive(Args)]
pub struct Command {
    #[arg(long, value_enum, default_value_t = Purpose::Infer)]
    pass: Purpose,
    #[arg(long, value_parser = whole::<usize>(1..=100_000_000), default_value_t = 1, value_name = "N")]
    batch: usize,
    /// Measured runs after one that is not; the median counts.
    #[arg(long, value_parser = whole::<usize>(1..=MANY), default_value_t = 5, value_name = "N")]
    repeat: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Wait for a line on standard input before each measured run, and print its seconds at once as {"seconds":…}: to
    /// take turns with another program. The end of the input ends the measurement.
    #[arg(long)]
    paced: bool,
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        self.compute.bind_threads();
        let profiling = Profiling {
            model: &self.model.resolve(1, ModelScale::Full)?,
            purpose: self.pass,
            batch: self.batch,
            compute: &self.compute.into(),
            events: &*terminal(),
        };
        let pace: &mut dyn Pace = if self.paced { &mut Paced } else { &mut Repeat(self.repeat) };
        let none = || Error::usage("--paced: the input ended before the first run").fix("send a line for each run");
        let profile = profiling.run(pace)?.ok_or_else(none)?;
        output::print_result(&profile, self.json, Profile::text)
    }
}

/// A run for each line on standard input.
struct Paced;

impl Pace for Paced {
    /// Of the line's length a piece is enough.
    fn another(&mut self, _: usize) -> bool {
        const PIECE: u64 = 1 << 16;
        let mut line = vec![];
        std::io::stdin().lock().take(PIECE).read_until(b'\n', &mut line).is_ok_and(|n| n > 0)
    }

    fn took(&mut self, seconds: f64) -> Result<()> {
        output::print(&format!("{{\"seconds\":{seconds}}}\n"))
    }
}
