//! `bench`: how fast layers, steps, inferences and the loader are on this machine now, for people, for scripts, and against
//! an earlier run.

mod compare;
mod layers;
mod load;
mod record;
mod whole;

use super::output;
use super::subject::{Chosen, Run, Scale, Subject};
use super::{Compute, command_line};
use crate::atomic;
use crate::cli::ranges::{MANY, whole};
use crate::device::{Device, Session};
use crate::error::{Error, Result};
use crate::graph::Role;
use crate::report::roofline;
use clap::{Args, Subcommand};
use compare::Percent;
use record::{Record, Time};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    Table(compare::Table),
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
    model: Subject,
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
            What::Conv(n) => n.layers("conv", Role::Convolution),
            What::Dense(n) => n.layers("dense", Role::Dense),
            What::Step(n) => n.whole("step", Run::Train),
            What::Infer(n) => n.whole("infer", Run::Infer),
            What::Load(l) => l.run(),
            What::Table(t) => t.run(),
        }
    }
}

impl Common {
    /// What can be refused before the device is opened; the earlier record, if there is one to compare with.
    fn check(&self, drawing: Option<&Path>) -> Result<Option<Record>> {
        if self.rounds == 0 {
            return Err(Error::usage("--rounds must be at least 1"));
        }
        self.json.as_deref().into_iter().chain(drawing).try_for_each(atomic::writable)?;
        let Some(path) = &self.compare else { return Ok(None) };
        let mut records = Record::read(path)?;
        match records.len() {
            1 => Ok(records.pop()),
            n => Err(Error::file(path, format!("holds {n} records")).fix("compare with the file of one benchmark")),
        }
    }

    /// Whether `old` is of what is about to be measured.
    fn alike(&self, old: &Option<Record>, new: &Record) -> Result<()> {
        let pair = self.compare.as_deref().zip(old.as_ref());
        pair.map_or(Ok(()), |(path, old)| compare::alike(path, old, new))
    }

    /// Prints, writes and compares.
    fn finish(&self, record: &Record, text: &str, old: Option<Record>) -> Result<()> {
        output::print(text)?;
        if let Some(path) = &self.json {
            record.write(path)?;
            remark!("wrote {}", path.display());
        }
        let Some((path, old)) = self.compare.as_deref().zip(old) else { return Ok(()) };
        compare::print(path, &old, record, self.fail_if_slower)
    }
}

impl Network {
    /// The device, unless its time means nothing.
    fn open(&self) -> Result<Box<dyn Device>> {
        self.compute.bind_threads();
        if self.compute.device == "sim" {
            return Err(Error::usage("--device sim: a simulator has no time to measure")
                .fix("`deep-affect profile --device sim` counts what every launch does"));
        }
        let device = self.compute.open()?;
        remark!("device: {}", device.name());
        Ok(device)
    }

    fn record(&self, bench: &str, chosen: &Chosen, device: String) -> Record {
        let precision = chosen.precision.name().into();
        Record { precision, model: Some(chosen.name.clone()), batch: Some(self.batch), ..empty(bench, device) }
    }

    fn layers(self, family: &str, role: Role) -> Result<()> {
        let old = self.common.check(self.svg.as_deref())?;
        let chosen = self.model.choose(1, Scale::Full)?;
        let device = self.open()?;
        let record = self.record(family, &chosen, device.name());
        self.common.alike(&old, &record)?;
        let (record, points) = layers::measure(record, &chosen, role, device, self.common.rounds)?;
        self.draw(&record, &points)?;
        self.common.finish(&record, &layers::table(&record), old)
    }

    fn whole(self, bench: &str, run: Run) -> Result<()> {
        let old = self.common.check(self.svg.as_deref())?;
        let chosen = self.model.choose(1, Scale::Full)?;
        let device = self.open()?;
        let record = self.record(bench, &chosen, device.name());
        self.common.alike(&old, &record)?;
        let (record, points) = whole::measure(record, &chosen, run, device, self.common.rounds)?;
        self.draw(&record, &points)?;
        self.common.finish(&record, &whole::table(&record), old)
    }

    fn draw(&self, record: &Record, points: &[roofline::Point]) -> Result<()> {
        let Some(path) = &self.svg else { return Ok(()) };
        let Some(roof) = &record.ceilings else {
            return Err(Error::usage(format!("--svg: {} has no ceilings to draw", record.device)));
        };
        let title = format!("{} of {} at batch {}", record.bench, self.model.name(), self.batch);
        let subtitle = format!("{}, {}, {}", record.device, record.precision, record.date);
        let svg = roofline::picture(&title, &subtitle, roof.ceilings(), points);
        write_text(path, &svg)
    }
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    atomic::write(path, |w| w.write_all(text.as_bytes()))?;
    remark!("wrote {}", path.display());
    Ok(())
}

/// A record without results.
fn empty(bench: &str, device: String) -> Record {
    Record {
        format: record::FORMAT.into(),
        bench: bench.into(),
        program: concat!("deep-affect ", env!("CARGO_PKG_VERSION")).into(),
        commit: std::env::var("DEEP_AFFECT_COMMIT").ok().filter(|c| !c.is_empty()),
        date: record::now(),
        command: command_line(),
        device,
        precision: "float32".into(),
        model: None,
        batch: None,
        ceilings: None,
        start_to_first_step_s: None,
        persistent_bytes: None,
        arena_bytes: None,
        peak_memory_bytes: None,
        rows: vec![],
        breakdown: None,
    }
}

/// Seconds that a sample takes at least: runs of less are counted in numbers, so that waiting for them is nothing.
const SAMPLE: f64 = 0.02;

/// Times runs of a plan, one after the other as in a loop. The first two, in which kernels are loaded and launches are
/// recorded, do not count.
fn time(session: &mut Session, plan: usize, rounds: usize) -> Result<Time> {
    let mut sample = |runs: usize| {
        if super::stopped() {
            return Err(Error::interrupted("stopped while measuring"));
        }
        let start = Instant::now();
        (0..runs).try_for_each(|_| session.run(plan))?;
        session.wait()?;
        Ok(start.elapsed().as_secs_f64() / runs as f64)
    };
    sample(1)?;
    let runs = ((SAMPLE / sample(1)?).ceil() as usize).clamp(1, 10_000);
    Ok(Time::of((0..rounds).map(|_| sample(runs)).collect::<Result<_>>()?))
}

/// `12.3 (12.1 – 12.9)`, in milliseconds.
fn milliseconds(t: &Time) -> String {
    let ms = |s: f64| format!("{:.*}", if s < 0.01 { 3 } else { 1 }, 1e3 * s);
    format!("{} ({} – {})", ms(t.time_median_s), ms(t.time_fastest_s), ms(t.time_slowest_s))
}
