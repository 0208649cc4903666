//! `bench`: how fast layers, steps, inferences and the loader are on this machine now, for people, for scripts, and against
//! an earlier run.

use super::model::{ModelArg, ModelScale};
use super::ranges::{MANY, whole};
use super::{Compute, command_line, output, terminal};
use crate::atomic;
use crate::error::{Error, Result};
use crate::measure::bench::{BenchPart, BenchRecord, Earlier, LoaderBench, NetworkBench, Percent, markdown};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Every distinct convolution of a training step, each pass alone: time, rates, nearness to the ceilings, error.
    Conv(Network),
    /// The same of the dense layers.
    Dense(Network),
    /// A whole training step.
    Step(Network),
    /// A whole inference.
    Infer(Network),
    /// Decoding and resizing pictures, and the cache of what came out.
    Load(Load),
    /// One Markdown table of records: ours, and those of peers beside them.
    Table {
        /// Files of `bench --json`, and of peers in the same form.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Args)]
struct Network {
    #[arg(long, default_value = "1", value_parser = super::reading::batch, value_name = "N")]
    batch: usize,
    /// Also draw the rates over the arithmetic intensity, under the ceilings.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Args)]
struct Load {
    /// A manifest, or a folder of pictures; the bundled photographs by default.
    #[arg(value_name = "MANIFEST|FOLDER")]
    pictures: Option<PathBuf>,
    /// Side of the squares, in pixels.
    #[arg(long, value_parser = whole::<u32>(1..=4096), default_value_t = 224, value_name = "PIXELS")]
    image: u32,
    #[arg(long, default_value = "25", value_parser = super::reading::batch, value_name = "N")]
    batch: usize,
    /// Most threads that decode; all cores by default.
    #[arg(long, value_parser = super::reading::threads, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    /// Samples of each time after what warms up; the median counts.
    #[arg(long, value_parser = whole::<usize>(0..=MANY), default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Also write everything as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Hold the result against that of an earlier run on the same device.
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Exit with code 3 if a median is slower than before by more than this, and every sample slower than every old one.
    #[arg(long, value_name = "PERCENT", requires = "compare")]
    fail_if_slower: Option<Percent>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        match self.what {
            What::Conv(n) => n.run(BenchPart::Convolutions),
            What::Dense(n) => n.run(BenchPart::Dense),
            What::Step(n) => n.run(BenchPart::Step),
            What::Infer(n) => n.run(BenchPart::Inference),
            What::Load(l) => l.run(),
            What::Table { files } => {
                let records = files.iter().map(|f| BenchRecord::read(f)).collect::<Result<Vec<_>>>()?;
                output::print(&markdown(&records.into_iter().flatten().collect::<Vec<_>>()))
            }
        }
    }
}

impl Common {
    /// What can be refused before the device is opened; the earlier run, if there is one to compare with.
    fn check(&self, drawing: Option<&Path>) -> Result<Option<Earlier>> {
        if self.rounds == 0 {
            return Err(Error::usage("--rounds must be at least 1"));
        }
        self.json.as_deref().into_iter().chain(drawing).try_for_each(atomic::writable)?;
        self.compare.as_deref().map(Earlier::read).transpose()
    }

    /// Prints, writes and compares.
    fn finish(&self, record: &BenchRecord, text: &str, earlier: Option<&Earlier>) -> Result<()> {
        output::print(text)?;
        if let Some(path) = &self.json {
            record.write(path)?;
            remark!("wrote {}", path.display());
        }
        let Some(earlier) = earlier else { return Ok(()) };
        let compared = earlier.compare(record, self.fail_if_slower);
        output::print(&compared.text)?;
        let Some((first, more)) = compared.slower.split_first() else { return Ok(()) };
        let more = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
        Err(Error::slower(format!("slower than before: {first}{more}")))
    }
}

impl Network {
    fn run(self, part: BenchPart) -> Result<()> {
        let earlier = self.common.check(self.svg.as_deref())?;
        let bench = NetworkBench {
            part,
            model: &self.model.resolve(1, ModelScale::Full)?,
            batch: self.batch,
            rounds: self.common.rounds,
            compute: &self.compute.into(),
            earlier: earlier.as_ref(),
            command: command_line(),
            events: &*terminal(),
        };
        let found = bench.run()?;
        if let Some(path) = &self.svg {
            let none = || Error::usage(format!("--svg: {} has no ceilings to draw", found.record.device));
            let svg = found.roofline(self.model.name()).ok_or_else(none)?;
            atomic::write(path, |w| w.write_all(svg.as_bytes()))?;
            remark!("wrote {}", path.display());
        }
        self.common.finish(&found.record, &found.text(), earlier.as_ref())
    }
}

impl Load {
    fn run(self) -> Result<()> {
        let earlier = self.common.check(None)?;
        let bench = LoaderBench {
            pictures: self.pictures.as_deref(),
            side: self.image as usize,
            batch: self.batch,
            threads: self.threads,
            rounds: self.common.rounds,
            earlier: earlier.as_ref(),
            command: command_line(),
            events: &*terminal(),
        };
        let found = bench.run()?;
        self.common.finish(&found.record, &found.text(), earlier.as_ref())
    }
}
