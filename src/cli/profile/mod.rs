//! `profile`: where the time of an inference or of a training step goes, launch by launch; on the simulator, what each
//! launch did.

mod counted;

use super::subject::{Chosen, Run, Scale, Subject};
use super::train::peak_memory;
use super::{Compute, output};
use crate::device::{Device, Probe, Session};
use crate::error::{Error, Result};
use crate::host::ceiling::Ceilings;
use crate::kernel::Cost;
use crate::plan::{Pass, parts};
use crate::table::text_table;
use crate::train::network::TRAIN;
use clap::Args;
use counted::Counted;
use serde::Serialize;
use std::time::Instant;

#[derive(Args)]
pub struct Command {
    #[arg(long, value_enum, default_value_t = Run::Infer)]
    pass: Run,
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
    model: Subject,
    #[command(flatten)]
    compute: Compute,
}

/// What was measured of a launch, or of several together.
#[derive(Serialize, Clone, Default)]
struct Figures {
    median_ms: f64,
    share_percent: f64,
    gflop: f64,
    gflop_per_s: f64,
    /// The least traffic: every operand once.
    gb: f64,
    gb_per_s: f64,
    /// The time that the ceilings allow, in percent of the time it took.
    ceiling_percent: Option<f64>,
}

impl Figures {
    fn new(ms: f64, total_ms: f64, cost: &Cost, least_ms: Option<f64>) -> Self {
        let (gflop, gb) = (cost.flops / 1e9, (cost.read + cost.write) / 1e9);
        Self {
            median_ms: ms,
            share_percent: 100.0 * ms / total_ms,
            gflop,
            gflop_per_s: gflop / ms * 1e3,
            gb,
            gb_per_s: gb / ms * 1e3,
            ceiling_percent: least_ms.map(|least| 100.0 * least / ms),
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{:.2}", self.median_ms),
            format!("{:.1}", self.share_percent),
            format!("{:.2}", self.gflop),
            format!("{:.0}", self.gflop_per_s),
            format!("{:.1}", self.gb_per_s),
            self.ceiling_percent.map_or("-".into(), |c| format!("{c:.0}")),
        ]
    }
}

const FIGURES: [&str; 6] = ["ms", "share %", "GFLOP", "GFLOP/s", "GB/s", "% of ceiling"];

/// One launch, over all runs.
#[derive(Serialize)]
struct Row {
    layer: String,
    op: &'static str,
    pass: &'static str,
    part: String,
    /// No routine for this device: the float64 definition ran.
    definition: bool,
    /// Which ceiling is nearer: `compute` or `memory`.
    bound: Option<&'static str>,
    #[serde(flatten)]
    figures: Figures,
}

/// Several launches together.
#[derive(Serialize)]
struct Sum {
    name: String,
    launches: usize,
    #[serde(flatten)]
    figures: Figures,
}

/// The machine's ceilings in this very run.
#[derive(Serialize)]
struct Roof {
    threads: usize,
    multiply_add_one_thread_gflop_per_s: f64,
    multiply_add_gflop_per_s: f64,
    read_gb_per_s: f64,
    triad_gb_per_s: f64,
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
    by_pass: Vec<Sum>,
    by_part: Vec<Sum>,
    launches: Vec<Row>,
}

/// What is measured: a session and the plan to run.
struct Measured {
    session: Session,
    plan: usize,
}

impl Command {
    pub fn run(self) -> Result<()> {
        if self.batch == 0 || self.repeat == 0 {
            return Err(Error::usage("--batch and --repeat must be at least 1"));
        }
        self.compute.bind_threads();
        let chosen = self.model.choose(1, Scale::Full)?;
        let device = self.compute.open()?;
        // Before and after, because another program's turn must not pass for the machine's ceiling; and both times while
        // the network's memory is not there or has been looked at, because this takes memory, too.
        let before = device.ceilings()?;
        let mut subject = self.subject(&chosen, device)?;
        let device = subject.session.device().name();
        eprintln!("device: {device}");
        let mut seen: Vec<(usize, &'static str, bool, Cost)> = vec![];
        let mut times: Vec<Vec<f64>> = vec![];
        let mut totals = vec![];
        let mut counted = Counted::default();
        let mut turns = std::io::stdin().lines();
        for run in 0.. {
            if run > 0 && if self.paced { !matches!(turns.next(), Some(Ok(_))) } else { run > self.repeat } {
                break;
            }
            let (mut i, start) = (0, Instant::now());
            subject.session.profile(subject.plan, &mut |p: Probe| {
                counted.add(&p);
                if run == 0 {
                    seen.push((p.node, p.name, p.definition, p.cost));
                    times.push(vec![]);
                } else {
                    times[i].push(p.seconds);
                }
                i += 1;
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
        let after = subject.session.device().ceilings()?;
        let roof = before.zip(after).map(|(a, b)| a.max(b));
        let total = median(&mut totals);
        let g = &subject.session.graph;
        let parts = parts(g, &seen.iter().map(|s| s.0).collect::<Vec<_>>(), PARTS);
        let least = |c: &Cost| roof.map(|r| 1e3 * r.seconds(c.flops, c.read + c.write));
        let mut launches = vec![];
        for (((node, op, definition, cost), t), part) in seen.iter().zip(&mut times).zip(parts) {
            let compute = |r: Ceilings| cost.flops / r.gflops >= (cost.read + cost.write) / r.bandwidth();
            launches.push(Row {
                layer: g.nodes()[*node].label.clone(),
                op,
                pass: Pass::of(g, *node).name(),
                part,
                definition: *definition,
                bound: roof.map(|r| if compute(r) { "compute" } else { "memory" }),
                figures: Figures::new(median(t) * 1e3, total * 1e3, cost, least(cost)),
            });
        }
        let sum = |name: String, of: &dyn Fn(&Row) -> bool| {
            let (mut cost, mut ms, mut least_ms, mut n) = (Cost::default(), 0.0, roof.map(|_| 0.0), 0);
            for (row, seen) in launches.iter().zip(&seen).filter(|(r, _)| of(r)) {
                cost += seen.3;
                ms += row.figures.median_ms;
                least_ms = least_ms.zip(least(&seen.3)).map(|(a, b)| a + b);
                n += 1;
            }
            Sum { name, launches: n, figures: Figures::new(ms, total * 1e3, &cost, least_ms) }
        };
        let by_pass = Pass::ALL.iter().map(|p| sum(p.name().into(), &|r| r.pass == p.name()));
        let mut names: Vec<&String> = vec![];
        launches.iter().for_each(|r| if !names.contains(&&r.part) { names.push(&r.part) });
        let by_part = names.iter().map(|n| sum(n.to_string(), &|r| r.part == **n)).collect();
        let all = sum(String::new(), &|_| true).figures;
        let [persistent, arena] = subject.session.device().memory().map(|b| b as f64 / (1 << 20) as f64);
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
            ceilings: roof.map(|r| Roof {
                threads: r.threads,
                multiply_add_one_thread_gflop_per_s: r.gflops_one,
                multiply_add_gflop_per_s: r.gflops,
                read_gb_per_s: r.read,
                triad_gb_per_s: r.triad,
            }),
            by_pass: by_pass.filter(|s| s.launches > 0).collect(),
            by_part,
            launches,
        };
        let json = || serde_json::to_string_pretty(&profile).expect("plain data") + "\n";
        output::print(&if self.json { json() } else { profile.table() })
    }

    /// The network with its weights (or drawn ones) and random pictures.
    fn subject(&self, chosen: &Chosen, device: Box<dyn Device>) -> Result<Measured> {
        Ok(match self.pass {
            Run::Infer => Measured { session: chosen.evaluation(self.batch, device)?.0, plan: 0 },
            Run::Train => {
                // A rate of zero: the arithmetic and the traffic of an update, and the same numbers every run.
                let net = chosen.training(self.batch, device, [0.0, 0.9, 0.0, 0.0])?;
                Measured { session: net.session, plan: TRAIN }
            }
        })
    }
}

/// Most parts that a network is summed up in.
const PARTS: usize = 24;

/// Sorts, and returns the middle.
fn median(x: &mut [f64]) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

impl Profile {
    fn table(&self) -> String {
        let header = |names: &[&str], last: &[&str]| -> Vec<String> {
            names.iter().chain(&FIGURES).chain(last).map(|s| s.to_string()).collect()
        };
        let row = |l: &Row| {
            let mut cells = vec![l.layer.clone(), l.op.to_string()];
            cells.extend(l.figures.cells());
            cells.push(l.bound.unwrap_or("").into());
            cells.push(if l.definition { "definition: no routine".into() } else { String::new() });
            cells
        };
        let rows: Vec<_> = self.launches.iter().map(row).collect();
        let mut text = text_table(&header(&["layer", "op"], &["bound", ""]), &rows);
        for (name, sums) in [("pass", &self.by_pass), ("part", &self.by_part)] {
            let row = |s: &Sum| [vec![s.name.clone(), s.launches.to_string()], s.figures.cells()].concat();
            text.push('\n');
            text += &text_table(&header(&[name, "launches"], &[]), &sums.iter().map(row).collect::<Vec<_>>());
        }
        if let Some(r) = &self.ceilings {
            text += &format!(
                "\nceilings, measured before and after, the better of the two: multiply-adds {:.0} GFLOP/s ({:.0} on one \
                 thread),\nreading {:.1} GB/s, a = b + 3c {:.1} GB/s. Work is that of the \
                 definition,\ntraffic the least there could be: above 100 % a transform saved work, or a cache traffic.\n",
                r.multiply_add_gflop_per_s,
                r.multiply_add_one_thread_gflop_per_s,
                r.read_gb_per_s,
                r.triad_gb_per_s
            );
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
