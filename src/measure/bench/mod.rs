//! How fast layers, steps, inferences and the loader are on this machine now: records for people and for scripts, held against
//! an earlier run.

mod earlier;
mod layers;
mod load;
mod record;
mod whole;

pub use earlier::{Earlier, Percent, markdown};
pub use load::{LoaderBench, LoaderTimes};
pub use record::{BenchRecord, BenchRow, WallTime};

use super::Purpose;
use super::model::ResolvedModel;
use crate::device::{Device, Session};
use crate::error::{Error, Result, option};
use crate::experiment::Events;
use crate::experiment::config::Compute;
use crate::experiment::events::tell;
use crate::graph::Role;
use crate::report::roofline;
use std::time::Instant;

/// What of a network is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchPart {
    /// Every distinct convolution of a training step, each pass alone.
    Convolutions,
    /// The same of the dense layers.
    Dense,
    /// A whole training step.
    Step,
    /// A whole inference.
    Inference,
}

impl BenchPart {
    /// The benchmark's name in records.
    fn name(self) -> &'static str {
        match self {
            BenchPart::Convolutions => "conv",
            BenchPart::Dense => "dense",
            BenchPart::Step => "step",
            BenchPart::Inference => "infer",
        }
    }
}

/// The benchmark of a network.
pub struct NetworkBench<'a> {
    pub part: BenchPart,
    pub model: &'a ResolvedModel,
    pub batch: usize,
    /// Samples of each time after what warms up; the median counts.
    pub rounds: usize,
    pub compute: &'a Compute,
    /// An earlier run, which is refused before anything is measured if it is of something else.
    pub earlier: Option<&'a Earlier>,
    pub command: String,
    pub events: &'a dyn Events,
}

/// What was measured of a network.
pub struct NetworkTimes {
    pub record: BenchRecord,
    points: Vec<roofline::Point>,
    part: BenchPart,
}

impl NetworkBench<'_> {
    /// # Errors
    /// A device whose time means nothing, a model that does not fit into memory, an earlier run of something else, or a stop.
    pub fn run(&self) -> Result<NetworkTimes> {
        let device = self.open()?;
        let record = BenchRecord {
            precision: self.model.precision.name().into(),
            model: Some(self.model.name.clone()),
            batch: Some(self.batch),
            ..BenchRecord::empty(self.part.name(), device.name(), &self.command)
        };
        self.earlier.map_or(Ok(()), |earlier| earlier.alike(&record))?;
        let (record, points) = match self.part {
            BenchPart::Convolutions => self.layers(record, Role::Convolution, device),
            BenchPart::Dense => self.layers(record, Role::Dense, device),
            BenchPart::Step => self.whole(record, Purpose::Train, device),
            BenchPart::Inference => self.whole(record, Purpose::Infer, device),
        }?;
        Ok(NetworkTimes { record, points, part: self.part })
    }

    /// The device, unless its time means nothing.
    fn open(&self) -> Result<Box<dyn Device>> {
        self.compute.bind_threads(self.events);
        if self.compute.device == "sim" {
            return Err(Error::usage(format!("{} sim: a simulator has no time to measure", option("device")))
                .fix(format!("`deep-affect profile {} sim` counts what every launch does", option("device"))));
        }
        let device = self.compute.open(self.events)?;
        tell!(self.events, "device: {}", device.name());
        Ok(device)
    }
}

impl NetworkTimes {
    /// The tables for people.
    pub fn text(&self) -> String {
        match self.part {
            BenchPart::Convolutions | BenchPart::Dense => layers::table(&self.record),
            BenchPart::Step | BenchPart::Inference => whole::table(&self.record),
        }
    }

    /// The rates over the arithmetic intensity, as SVG; None where the device has no ceilings. `model` is its name there.
    pub fn roofline(&self, model: &str) -> Option<String> {
        let (r, roof) = (&self.record, self.record.ceilings.as_ref()?);
        let title = format!("{} of {model} at batch {}", r.bench, r.batch.unwrap_or(1));
        let subtitle = format!("{}, {}, {}", r.device, r.precision, r.date);
        Some(roofline::picture(&title, &subtitle, roof.ceilings(), &self.points))
    }
}

/// Seconds that a sample takes at least: runs of less are counted in numbers, so that waiting for them is nothing.
const SAMPLE: f64 = 0.02;

/// Times runs of a plan, one after the other as in a loop. The first two, in which kernels are loaded and launches are
/// recorded, do not count.
fn time(session: &mut Session, plan: usize, rounds: usize, events: &dyn Events) -> Result<WallTime> {
    let mut sample = |runs: usize| {
        go_on(events)?;
        let start = Instant::now();
        (0..runs).try_for_each(|_| session.run(plan))?;
        session.wait()?;
        Ok(start.elapsed().as_secs_f64() / runs as f64)
    };
    sample(1)?;
    let runs = ((SAMPLE / sample(1)?).ceil() as usize).clamp(1, 10_000);
    Ok(WallTime::of((0..rounds).map(|_| sample(runs)).collect::<Result<_>>()?))
}

/// Whether the user wants more samples.
fn go_on(events: &dyn Events) -> Result<()> {
    if events.stopped() { Err(Error::interrupted("stopped while measuring")) } else { Ok(()) }
}

/// `12.3 (12.1 – 12.9)`, in milliseconds.
fn milliseconds(t: &WallTime) -> String {
    let ms = |s: f64| format!("{:.*}", if s < 0.01 { 3 } else { 1 }, 1e3 * s);
    format!("{} ({} – {})", ms(t.time_median_s), ms(t.time_fastest_s), ms(t.time_slowest_s))
}
