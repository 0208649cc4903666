//! Where the time of an inference or of a training step goes, launch by launch; on the simulator, what each launch did.

mod counted;
mod timed;

pub use counted::CountedProfile;
pub use timed::{Breakdown, Roof, Timed, median};

use super::Purpose;
use super::model::ResolvedModel;
use crate::device::Probe;
use crate::error::{Error, Result};
use crate::experiment::Events;
use crate::experiment::config::Compute;
use crate::experiment::events::tell;
use crate::memory::peak_mib;
use serde::Serialize;
use std::time::Instant;

/// A network that is to be profiled.
pub struct Profiling<'a> {
    pub model: &'a ResolvedModel,
    pub purpose: Purpose,
    pub batch: usize,
    pub compute: &'a Compute,
    pub events: &'a dyn Events,
}

/// When the runs that count are made, after one that does not.
pub trait Pace {
    /// Whether run `run` is made, from 1.
    fn another(&mut self, run: usize) -> bool;
    /// A run, the one that does not count too, took so many seconds.
    fn took(&mut self, _seconds: f64) -> Result<()> {
        Ok(())
    }
}

/// So many runs, one after the other.
pub struct Repeat(pub usize);

impl Pace for Repeat {
    fn another(&mut self, run: usize) -> bool {
        run <= self.0
    }
}

/// What a device tells of its launches.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Profile {
    Timed(Box<TimedProfile>),
    Counted(CountedProfile),
}

/// Where the time went.
#[derive(Serialize)]
pub struct TimedProfile {
    model: String,
    device: String,
    pass: Purpose,
    batch: usize,
    runs: usize,
    median_s: f64,
    fastest_s: f64,
    slowest_s: f64,
    gflop: f64,
    gflop_per_s: f64,
    ceiling_percent: Option<f64>,
    /// Weights, velocities and inputs; temporaries and scratch.
    persistent_mib: f64,
    arena_mib: f64,
    peak_memory_mib: Option<f64>,
    ceilings: Option<Roof>,
    #[serde(flatten)]
    breakdown: Breakdown,
}

impl Profiling<'_> {
    /// None where the pace ended before the first run that counts.
    ///
    /// # Errors
    /// A model that does not fit into memory, or a stop.
    pub fn run(&self, pace: &mut dyn Pace) -> Result<Option<Profile>> {
        let mut device = self.compute.open(self.events)?;
        // Before and after, because another program's turn must not pass for the machine's ceiling; and both times while
        // the network's memory is not there or has been looked at, because this takes memory, too.
        let before = self.model.ceilings(&mut *device)?;
        let (mut session, plan) = self.model.measured(self.purpose, self.batch, device)?;
        let device = session.device().name();
        tell!(self.events, "device: {device}");
        let (mut timed, mut counted, mut totals) = (Timed::default(), vec![], vec![]);
        for run in 0.. {
            if run > 0 && !pace.another(run) {
                break;
            }
            timed.begin();
            let start = Instant::now();
            session.profile(plan, &mut |p: Probe| {
                counted.extend(counted::launch(&p));
                timed.add(&p);
            })?;
            if !counted.is_empty() {
                let profile = CountedProfile::new(self.model.name.clone(), device, self.batch, counted);
                return Ok(Some(Profile::Counted(profile)));
            }
            let seconds = start.elapsed().as_secs_f64();
            if run > 0 {
                totals.push(seconds);
            }
            pace.took(seconds)?;
            if self.events.stopped() {
                return Err(Error::interrupted("stopped while measuring"));
            }
        }
        if totals.is_empty() {
            return Ok(None);
        }
        let peak_memory_mib = peak_mib();
        let memory = session.device().memory();
        let [persistent, arena] = [memory.persistent, memory.arena].map(|b| b as f64 / (1 << 20) as f64);
        let g = session.graph().clone();
        let after = self.model.ceilings(&mut *session.into_device())?;
        let roof = before.zip(after).map(|(a, b)| a.max(b));
        let total = median(&mut totals);
        let breakdown = timed.breakdown(&g, total, roof);
        let all = &breakdown.all;
        let profile = TimedProfile {
            model: self.model.name.clone(),
            device,
            pass: self.purpose,
            batch: self.batch,
            runs: totals.len(),
            median_s: total,
            fastest_s: totals[0],
            slowest_s: *totals.last().expect("at least one run"),
            gflop: all.gflop,
            gflop_per_s: all.gflop / total,
            ceiling_percent: all.ceiling_percent.map(|c| c * all.median_ms / (total * 1e3)),
            persistent_mib: persistent,
            arena_mib: arena,
            peak_memory_mib,
            ceilings: roof.map(Roof::from),
            breakdown,
        };
        Ok(Some(Profile::Timed(Box::new(profile))))
    }
}

impl Profile {
    /// The tables for people.
    pub fn text(&self) -> String {
        match self {
            Self::Timed(p) => p.text(),
            Self::Counted(p) => p.text(),
        }
    }
}

impl TimedProfile {
    /// The tables for people.
    pub fn text(&self) -> String {
        let mut text = self.breakdown.table() + &self.breakdown.sums();
        if let Some(r) = &self.ceilings {
            text += &format!("\n{}", r.text());
        }
        text.push_str(&format!(
            "\n{}, {:?} at batch {} on {}: median {:.3} s of {} (fastest {:.3}, slowest {:.3}), {:.3} s per picture\n\
             {:.1} GFLOP, {:.0} GFLOP/s{}; memory: persistent {:.0} MiB, arena {:.0} MiB, peak of the process {} MiB\n",
            self.model,
            self.pass,
            self.batch,
            self.device,
            self.median_s,
            self.runs,
            self.fastest_s,
            self.slowest_s,
            self.median_s / self.batch as f64,
            self.gflop,
            self.gflop_per_s,
            self.ceiling_percent.map_or(String::new(), |c| format!(", {c:.0} % of the ceilings")),
            self.persistent_mib,
            self.arena_mib,
            self.peak_memory_mib.map_or("?".into(), |m| format!("{m:.0}")),
        ));
        text
    }
}
