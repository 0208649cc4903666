//! Launches over several runs: medians, rates against the ceilings, sums by pass and by part of the network.

use crate::device::Probe;
use crate::graph::Graph;
use crate::host::ceiling::Ceilings;
use crate::launch::Cost;
use crate::ops::mma;
use crate::plan::{Pass, parts};
use crate::report::roofline::Point;
use crate::shape::DType;
use crate::table::text_table;
use serde::{Deserialize, Serialize};

/// What was measured of a launch, or of several together.
#[derive(Serialize, Clone, Default)]
pub struct TimedFigures {
    pub median_ms: f64,
    share_percent: f64,
    pub gflop: f64,
    gflop_per_s: f64,
    /// The least traffic: every operand once.
    pub gb: f64,
    gb_per_s: f64,
    /// The time that the ceilings allow, in percent of the time it took.
    pub ceiling_percent: Option<f64>,
}

impl TimedFigures {
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
pub struct TimedLaunch {
    pub layer: String,
    pub op: &'static str,
    pub pass: &'static str,
    part: String,
    /// No routine for this device: the float64 definition ran.
    definition: bool,
    /// How the operands of a product are stored ([`mma::storage`]).
    #[serde(skip)]
    pub storage: DType,
    /// Which ceiling is nearer: `compute` or `memory`.
    bound: Option<&'static str>,
    #[serde(flatten)]
    pub figures: TimedFigures,
}

/// Several launches together.
#[derive(Serialize)]
pub struct TimedSum {
    name: String,
    launches: usize,
    #[serde(flatten)]
    pub figures: TimedFigures,
}

/// The machine's ceilings in this very run.
#[derive(Serialize, Deserialize)]
pub struct Roof {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    multiply_add_one_thread_gflop_per_s: Option<f64>,
    multiply_add_gflop_per_s: f64,
    /// Of tensor cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    product_fp16_gflop_per_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    product_bf16_gflop_per_s: Option<f64>,
    read_gb_per_s: f64,
    triad_gb_per_s: f64,
}

impl From<Ceilings> for Roof {
    fn from(c: Ceilings) -> Self {
        Self {
            threads: c.threads,
            multiply_add_one_thread_gflop_per_s: c.gflops_one,
            multiply_add_gflop_per_s: c.gflops,
            product_fp16_gflop_per_s: c.f16,
            product_bf16_gflop_per_s: c.bf16,
            read_gb_per_s: c.read,
            triad_gb_per_s: c.triad,
        }
    }
}

impl Roof {
    pub fn ceilings(&self) -> Ceilings {
        Ceilings {
            threads: self.threads,
            gflops_one: self.multiply_add_one_thread_gflop_per_s,
            gflops: self.multiply_add_gflop_per_s,
            f16: self.product_fp16_gflop_per_s,
            bf16: self.product_bf16_gflop_per_s,
            read: self.read_gb_per_s,
            triad: self.triad_gb_per_s,
        }
    }

    /// A line for people.
    pub fn text(&self) -> String {
        let one =
            self.multiply_add_one_thread_gflop_per_s.map_or(String::new(), |g| format!(" ({g:.0} on one thread)"));
        let products = [("fp16", self.product_fp16_gflop_per_s), ("bf16", self.product_bf16_gflop_per_s)];
        let products = products.into_iter().filter_map(|(name, rate)| Some(format!(", {name} products {:.0}", rate?)));
        format!(
            "ceilings, measured in this run: multiply-adds {:.0} GFLOP/s{one}{},\n\
             reading {:.1} GB/s, a = b + 3c {:.1} GB/s. Work is that of the definition,\n\
             traffic the least there could be: above 100 % a transform saved work, or a cache traffic.\n",
            self.multiply_add_gflop_per_s,
            products.collect::<String>(),
            self.read_gb_per_s,
            self.triad_gb_per_s
        )
    }
}

/// Sorts, and returns the middle.
pub fn median(x: &mut [f64]) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Collects the launches of a plan, run by run. The first run warms up.
#[derive(Default)]
pub struct Timed {
    seen: Vec<(usize, &'static str, bool, Cost)>,
    times: Vec<Vec<f64>>,
    runs: usize,
    at: usize,
}

impl Timed {
    /// A run begins.
    pub fn begin(&mut self) {
        (self.runs, self.at) = (self.runs + 1, 0);
    }

    pub fn add(&mut self, p: &Probe) {
        if self.runs == 1 {
            self.seen.push((p.node, p.name, p.definition, p.cost));
            self.times.push(vec![]);
        } else {
            self.times[self.at].push(p.seconds);
            self.at += 1;
        }
    }

    /// What a run of `total` seconds was made of.
    pub fn breakdown(&mut self, g: &Graph, total: f64, roof: Option<Ceilings>) -> Breakdown {
        let parts = parts(g, &self.seen.iter().map(|s| s.0).collect::<Vec<_>>(), PARTS);
        let storage = |node: usize| mma::storage(&*g.nodes()[node].op, &g.io(&g.nodes()[node]).0);
        let least = |node: usize, c: &Cost| roof.map(|r| 1e3 * r.seconds(storage(node), c.flops, c.read + c.write));
        let mut launches = vec![];
        for (((node, op, definition, cost), t), part) in self.seen.iter().zip(&mut self.times).zip(parts) {
            launches.push(TimedLaunch {
                layer: g.nodes()[*node].label.clone(),
                op,
                pass: Pass::of(g, *node).name(),
                part,
                definition: *definition,
                storage: storage(*node),
                bound: roof.map(|r| r.bound(storage(*node), cost.flops, cost.read + cost.write)),
                figures: TimedFigures::new(median(t) * 1e3, total * 1e3, cost, least(*node, cost)),
            });
        }
        let sum = |name: String, of: &dyn Fn(&TimedLaunch) -> bool| {
            let (mut cost, mut ms, mut least_ms, mut n) = (Cost::default(), 0.0, roof.map(|_| 0.0), 0);
            for (row, seen) in launches.iter().zip(&self.seen).filter(|(r, _)| of(r)) {
                cost += seen.3;
                ms += row.figures.median_ms;
                least_ms = least_ms.zip(least(seen.0, &seen.3)).map(|(a, b)| a + b);
                n += 1;
            }
            TimedSum { name, launches: n, figures: TimedFigures::new(ms, total * 1e3, &cost, least_ms) }
        };
        let by_pass = Pass::ALL.iter().map(|p| sum(p.name().into(), &|r| r.pass == p.name()));
        let mut names: Vec<&String> = vec![];
        launches.iter().for_each(|r| {
            if !names.contains(&&r.part) {
                names.push(&r.part)
            }
        });
        Breakdown {
            all: sum(String::new(), &|_| true).figures,
            by_pass: by_pass.filter(|s| s.launches > 0).collect(),
            by_part: names.iter().map(|n| sum(n.to_string(), &|r| r.part == **n)).collect(),
            launches,
        }
    }
}

/// Most parts that a network is summed up in.
const PARTS: usize = 24;

/// The launches of a run, and their sums.
#[derive(Serialize)]
pub struct Breakdown {
    #[serde(skip)]
    pub all: TimedFigures,
    by_pass: Vec<TimedSum>,
    by_part: Vec<TimedSum>,
    pub launches: Vec<TimedLaunch>,
}

impl Breakdown {
    /// The launches that compute something, for the picture of the roofline.
    pub fn points(&self) -> Vec<Point> {
        let worked = self.launches.iter().filter(|l| l.figures.gflop > 0.0);
        let point = |l: &TimedLaunch| {
            Point::new(&l.layer, l.pass, l.storage, [l.figures.gflop, l.figures.gb], l.figures.median_ms / 1e3)
        };
        worked.map(point).collect()
    }

    /// Launch by launch.
    pub fn table(&self) -> String {
        let row = |l: &TimedLaunch| {
            let mut cells = vec![l.layer.clone(), l.op.to_string()];
            cells.extend(l.figures.cells());
            cells.push(l.bound.unwrap_or("").into());
            cells.push(if l.definition { "definition: no routine".into() } else { String::new() });
            cells
        };
        text_table(&header(&["layer", "op"], &["bound", ""]), &self.launches.iter().map(row).collect::<Vec<_>>())
    }

    /// The sums, a table each.
    pub fn sums(&self) -> String {
        let mut text = String::new();
        for (name, sums) in [("pass", &self.by_pass), ("part", &self.by_part)] {
            let row = |s: &TimedSum| [vec![s.name.clone(), s.launches.to_string()], s.figures.cells()].concat();
            text.push('\n');
            text += &text_table(&header(&[name, "launches"], &[]), &sums.iter().map(row).collect::<Vec<_>>());
        }
        text
    }
}

fn header(names: &[&str], last: &[&str]) -> Vec<String> {
    names.iter().chain(&FIGURES).chain(last).map(|s| s.to_string()).collect()
}
