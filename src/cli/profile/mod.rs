//! `profile`: where the time of an inference or of a training step goes, launch by launch; on the simulator, what each
//! launch did.

mod counted;
pub mod timed;

use super::subject::{Run, Scale, Subject};
use super::train::peak_memory;
use super::{Compute, output};
use crate::cli::ranges::{MANY, whole};
use crate::device::Probe;
use crate::error::{Error, Result};
use clap::Args;
use counted::Counted;
use serde::Serialize;
use std::io::{BufRead, Read};
use std::time::Instant;
use timed::{Breakdown, Roof, Timed, median};

#[derive(Args)]
pub struct Command {
    #[arg(long, value_enum, default_value_t = Run::Infer)]
    pass: Run,
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
    model: Subject,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Serialize)]
struct Profile {
    model: String,
    device: String,
    pass: Run,
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

impl Command {
    pub fn run(self) -> Result<()> {
        if self.batch == 0 || self.repeat == 0 {
            return Err(Error::usage("--batch and --repeat must be at least 1"));
        }
        self.compute.bind_threads();
        let chosen = self.model.choose(1, Scale::Full)?;
        let mut device = self.compute.open()?;
        // Before and after, because another program's turn must not pass for the machine's ceiling; and both times while
        // the network's memory is not there or has been looked at, because this takes memory, too.
        let before = chosen.ceilings(&mut *device)?;
        let (mut session, plan) = chosen.measured(self.pass, self.batch, device)?;
        let device = session.device().name();
        remark!("device: {device}");
        let mut timed = Timed::default();
        let mut totals = vec![];
        let mut counted = Counted::default();
        for run in 0.. {
            if run > 0 && if self.paced { !turn() } else { run > self.repeat } {
                break;
            }
            timed.begin();
            let start = Instant::now();
            session.profile(plan, &mut |p: Probe| {
                counted.add(&p);
                timed.add(&p);
            })?;
            if !counted.is_empty() {
                let show = if self.json { Counted::json } else { Counted::table };
                return output::print(&show(&counted, &chosen.name, &device, self.batch));
            }
            let seconds = start.elapsed().as_secs_f64();
            if run > 0 {
                totals.push(seconds);
            }
            if self.paced {
                output::print(&format!("{{\"seconds\":{seconds}}}\n"))?;
            }
            if super::stopped() {
                return Err(Error::interrupted("stopped while measuring"));
            }
        }
        if totals.is_empty() {
            return Err(Error::usage("--paced: the input ended before the first run").fix("send a line for each run"));
        }
        let peak_memory_mib = peak_memory();
        let memory = session.device().memory();
        let [persistent, arena] = [memory.persistent, memory.arena].map(|b| b as f64 / (1 << 20) as f64);
        let g = session.graph().clone();
        let after = chosen.ceilings(&mut *session.into_device())?;
        let roof = before.zip(after).map(|(a, b)| a.max(b));
        let total = median(&mut totals);
        let breakdown = timed.breakdown(&g, total, roof);
        let all = &breakdown.all;
        let profile = Profile {
            model: chosen.name.clone(),
            device,
            pass: self.pass,
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
        let json = || serde_json::to_string_pretty(&profile).expect("plain data") + "\n";
        output::print(&if self.json { json() } else { profile.table() })
    }
}

/// Waits for a line on standard input, of whose length a piece is enough; false at its end.
fn turn() -> bool {
    const PIECE: u64 = 1 << 16;
    let mut line = vec![];
    std::io::stdin().lock().take(PIECE).read_until(b'\n', &mut line).is_ok_and(|n| n > 0)
}

impl Profile {
    fn table(&self) -> String {
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
