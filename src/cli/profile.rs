//! `profile`: where the time of an inference or of a training step goes, launch by launch.

use super::flags::{ModelFlags};
use super::train::peak_memory;
use super::{Compute, output};
use crate::data::manifest::TARGETS;
use crate::device::{Data, Probe, Session};
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::kernel::Cost;
use crate::ops::optim::{Form, Sgd};
use crate::plan::Options;
use crate::rng::{Rng, Stream};
use crate::table::text_table;
use crate::train::network::{Network, TRAIN, Task};
use crate::train::params::Initial;
use crate::train::predictor;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Pass {
    /// Pictures to ratings.
    Infer,
    /// Forward, adjoint and update of everything that is trained.
    Train,
}

#[derive(Args)]
pub struct Command {
    #[arg(long, value_enum, default_value_t = Pass::Infer)]
    pass: Pass,
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch: usize,
    /// Measured runs after one that is not; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeat: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Wait for a line on standard input before each measured run, and print its seconds at once as {"seconds":…}: to
    /// take turns with another program. The end of the input ends the measurement.
    #[arg(long)]
    paced: bool,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    compute: Compute,
}

/// One launch, over all runs.
#[derive(Serialize)]
struct Row {
    layer: String,
    op: &'static str,
    /// No routine for this device: the float64 definition ran.
    definition: bool,
    median_ms: f64,
    gflop: f64,
    gflop_per_s: f64,
    gb_per_s: f64,
    share_percent: f64,
}

#[derive(Serialize)]
struct Profile {
    device: String,
    pass: Pass,
    batch: usize,
    runs: usize,
    median_s: f64,
    fastest_s: f64,
    slowest_s: f64,
    gflop: f64,
    gflop_per_s: f64,
    /// Weights, velocities and inputs; temporaries and scratch.
    persistent_mib: f64,
    arena_mib: f64,
    peak_memory_mib: Option<f64>,
    launches: Vec<Row>,
}

/// What is measured: a session and the plan to run.
struct Subject {
    session: Session,
    plan: usize,
}

impl Command {
    pub fn run(self) -> Result<()> {
        if self.batch == 0 || self.repeat == 0 {
            return Err(Error::usage("--batch and --repeat must be at least 1"));
        }
        let mut subject = self.subject()?;
        let device = subject.session.device().name();
        eprintln!("device: {device}");
        let mut seen: Vec<(String, &'static str, bool, Cost)> = vec![];
        let mut times: Vec<Vec<f64>> = vec![];
        let mut totals = vec![];
        let mut turns = std::io::stdin().lines();
        for run in 0.. {
            if run > 0 && if self.paced { !matches!(turns.next(), Some(Ok(_))) } else { run > self.repeat } {
                break;
            }
            let (mut i, start) = (0, Instant::now());
            subject.session.profile(subject.plan, &mut |p: Probe| {
                if run == 0 {
                    seen.push((p.label.to_string(), p.name, p.definition, p.cost));
                    times.push(vec![]);
                } else {
                    times[i].push(p.seconds);
                }
                i += 1;
            })?;
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
        let total = median(&mut totals);
        let launches = seen.into_iter().zip(&mut times).map(|((layer, op, definition, cost), t)| {
            let s = median(t);
            Row {
                layer,
                op,
                definition,
                median_ms: s * 1e3,
                gflop: cost.flops / 1e9,
                gflop_per_s: cost.flops / s / 1e9,
                gb_per_s: (cost.read + cost.write) / s / 1e9,
                share_percent: 100.0 * s / total,
            }
        });
        let launches: Vec<Row> = launches.collect();
        let gflop = launches.iter().map(|l| l.gflop).sum();
        let [persistent, arena] = subject.session.device().memory().map(|b| b as f64 / (1 << 20) as f64);
        let profile = Profile {
            device,
            pass: self.pass,
            batch: self.batch,
            runs: totals.len(),
            median_s: total,
            fastest_s: totals[0],
            slowest_s: *totals.last().expect("at least one run"),
            gflop,
            gflop_per_s: gflop / total,
            persistent_mib: persistent,
            arena_mib: arena,
            peak_memory_mib: peak_memory(),
            launches,
        };
        let json = || serde_json::to_string_pretty(&profile).expect("plain data") + "\n";
        output::print(&if self.json { json() } else { profile.table() })
    }

    /// The network with drawn weights (or those of `--weights`) and random pictures.
    fn subject(&self) -> Result<Subject> {
        let targets = TARGETS.map(String::from);
        let (config, mut initial, frozen) = self.model.model(&targets, 1)?;
        initial.init_missing = true;
        let device = self.compute.open()?;
        let pixels = config.image * config.image * 3 * self.batch;
        let mut rng = Rng::new(1, Stream::Test(0), 0);
        let pixels: Vec<u8> = (0..pixels).map(|_| rng.below(256) as u8).collect();
        let prefixes: Vec<String> = config.members().into_iter().map(|m| m.prefix).collect();
        match self.pass {
            Pass::Infer => {
                let (g, image, outputs) = predictor::build(&config, self.batch);
                let want: Vec<Value> = outputs.iter().map(|o| o.1).collect();
                let mut session = Session::new(g, &[&want], Options::default(), device)?;
                fill(&mut session, &initial, &prefixes)?;
                session.write(image, Data::U8(&pixels))?;
                Ok(Subject { session, plan: 0 })
            }
            Pass::Train => {
                let task = Task::EndToEnd { config, frozen };
                let sgd = Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 };
                let mut net = Network::new(&task, self.batch, sgd, Options::default(), device)?;
                fill(&mut net.session, &initial, &prefixes)?;
                net.session.write(net.x[0], Data::U8(&pixels))?;
                net.session.write(net.weight, Data::F32(&vec![1.0; self.batch]))?;
                for part in &net.parts {
                    // A rate of zero: the arithmetic and the traffic of an update, and the same numbers every run.
                    net.session.write(part.hyper, Data::F32(&[0.0, 0.9, 0.0, 0.0]))?;
                }
                Ok(Subject { session: net.session, plan: TRAIN })
            }
        }
    }
}

fn fill(session: &mut Session, initial: &Initial, prefixes: &[String]) -> Result<()> {
    let params: Vec<Value> = session.graph.stored().collect();
    for prefix in prefixes {
        initial.fill(session, &params, prefix, &[])?;
    }
    Ok(())
}

/// Sorts, and returns the middle.
fn median(x: &mut [f64]) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

impl Profile {
    fn table(&self) -> String {
        let header = ["layer", "op", "ms", "share %", "GFLOP", "GFLOP/s", "GB/s", ""].map(String::from);
        let row = |l: &Row| {
            vec![
                l.layer.clone(),
                l.op.to_string(),
                format!("{:.2}", l.median_ms),
                format!("{:.1}", l.share_percent),
                format!("{:.2}", l.gflop),
                format!("{:.0}", l.gflop_per_s),
                format!("{:.1}", l.gb_per_s),
                if l.definition { "definition: no routine".into() } else { String::new() },
            ]
        };
        let mut text = text_table(&header, &self.launches.iter().map(row).collect::<Vec<_>>());
        text.push_str(&format!(
            "\n{:?} at batch {} on {}: median {:.3} s of {} (fastest {:.3}, slowest {:.3}), {:.3} s per picture\n\
             {:.1} GFLOP, {:.0} GFLOP/s; memory: persistent {:.0} MiB, arena {:.0} MiB, peak of the process {} MiB\n",
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
            self.persistent_mib,
            self.arena_mib,
            self.peak_memory_mib.map_or("?".into(), |m| format!("{m:.0}")),
        ));
        text
    }
}
