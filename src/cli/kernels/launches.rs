//! `kernels launches`: what a GPU would be sent, launch by launch, and how well it would fill one. Counted, not timed.

use super::used;
use crate::cli::output;
use crate::cli::reading::batch;
use crate::cli::subject::{Run, Scale, Subject};
use crate::device::gpu::OPTIONS;
use crate::device::tuning::Table;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::kernel::choices::{Limits, Tiles};
use crate::kernel::gpu::Call;
use crate::kernel::{Arch, Choices, Code};
use crate::nvrtc::{self, Cache, Compiled, Target, Unit};
use crate::plan::{Pass, Plan, Scheduled};
use crate::table::{number, text_table};
use clap::Args;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args)]
pub struct Command {
    #[arg(long, value_enum, default_value_t = Run::Infer)]
    pass: Run,
    #[arg(long, default_value = "1", value_parser = batch, value_name = "N")]
    batch: usize,
    /// The architecture whose occupancy counts, where NVRTC can tell it.
    #[arg(long, default_value = "sm_90a", value_name = "SM")]
    arch: Target,
    /// Tiles that `kernels tune` measured, from its file, before the rule's.
    #[arg(long, value_name = "FILE")]
    tiles: Option<PathBuf>,
    /// Multiprocessors of the GPU that is to be filled: 132 is an H100.
    #[arg(long, default_value_t = 132, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    multiprocessors: u32,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: Subject,
}

/// One launch.
#[derive(Serialize)]
struct Row {
    layer: String,
    op: &'static str,
    pass: &'static str,
    kernel: &'static str,
    constants: BTreeMap<&'static str, i64>,
    /// How the tile was chosen, where there is more than one: `measured` or by the `rule`.
    tile_by: Option<&'static str>,
    /// Equal ops that share the launch.
    instances: usize,
    blocks: u64,
    /// Of this kernel on one multiprocessor at once.
    blocks_resident: Option<u32>,
    /// How many times the blocks fill all multiprocessors; below 1 some have nothing to do.
    fills: Option<f64>,
    shared_bytes: u32,
    /// Every operand once. An op of several launches has its work and traffic at the first.
    least_mb: f64,
    gflop: f64,
}

#[derive(Serialize)]
struct Report {
    model: String,
    precision: &'static str,
    pass: Run,
    batch: usize,
    target: String,
    multiprocessors: u32,
    least_mb: f64,
    gflop: f64,
    launches: Vec<Row>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let chosen = self.model.choose(1, Scale::Full)?;
        let (g, want, _) = chosen.graph(self.pass, self.batch)?;
        let want: Vec<&[Value]> = want.iter().map(Vec::as_slice).collect();
        let (g, plans) = Plan::all(g, &want, OPTIONS)?;
        let limits = Limits { multiprocessors: self.multiprocessors as usize, shared: nvrtc::shared_memory(self.arch) };
        let tiles = self.tiles.as_deref().map(Table::current).transpose()?.map_or_else(Tiles::default, Table::tiles);
        let choices = Choices { limits, tiles, products: chosen.precision.products() };
        // What is wanted first: the step, or the inference.
        let scheduled = plans[0].lower(&g, Arch::Gpu(&choices))?;
        let calls = scheduled.iter().map(call).collect::<Result<Vec<_>>>()?;
        let compiled = compiled(&calls, self.arch)?;
        let rows = scheduled.iter().zip(&calls).map(|(s, call)| self.row(&g, s, call, &compiled, &choices));
        let launches: Vec<Row> = rows.collect();
        let report = Report {
            model: chosen.name.clone(),
            precision: chosen.precision.name(),
            pass: self.pass,
            batch: self.batch,
            target: self.arch.to_string(),
            multiprocessors: self.multiprocessors,
            least_mb: launches.iter().map(|r| r.least_mb).sum(),
            gflop: launches.iter().map(|r| r.gflop).sum(),
            launches,
        };
        let json = || serde_json::to_string_pretty(&report).expect("plain data") + "\n";
        output::print(&if self.json { json() } else { report.text() })
    }

    fn row(
        &self,
        g: &Graph,
        s: &Scheduled,
        call: &Call,
        compiled: &BTreeMap<Unit, Arc<Compiled>>,
        choices: &Choices,
    ) -> Row {
        let unit = Unit::of(call.kernel, call.consts);
        let found = compiled.get(&unit).and_then(|c| c.resources.iter().find(|r| r.entry == call.kernel.entry));
        let found = found.map(|r| used(&unit, r));
        let blocks_resident = found.as_ref().and_then(|r| nvrtc::resident(self.arch, call.kernel.threads, r));
        let instances = call.operands.len();
        let blocks = call.grid.iter().map(|n| *n as u64).product::<u64>() * instances as u64;
        let cost = s.launch.cost;
        // Shared memory has a field of its own.
        let constants = call.kernel.consts.iter().copied().zip(call.consts.iter().copied());
        Row {
            layer: g.nodes()[s.node].label.clone(),
            op: s.launch.name,
            pass: Pass::of(g, s.node).name(),
            kernel: call.kernel.entry,
            constants: constants.filter(|c| c.0 != "SHARED").collect(),
            tile_by: call.product.as_ref().and_then(|p| choices.chosen_by(p)),
            instances,
            blocks,
            blocks_resident,
            fills: blocks_resident.map(|n| blocks as f64 / (n.max(1) * self.multiprocessors) as f64),
            shared_bytes: found.map_or_else(|| call.kernel.shared(call.consts), |r| r.shared),
            least_mb: (cost.read + cost.write) / 1e6,
            gflop: cost.flops / 1e9,
        }
    }
}

fn call(s: &Scheduled) -> Result<&Call> {
    match &s.launch.code {
        Code::Kernel(call) => Ok(call),
        _ => Err(Error::job(format!("{} has no GPU kernel", s.launch.name))),
    }
}

/// What the calls need, compiled; nothing where there is neither a compiler nor a cache that has all of it.
fn compiled(calls: &[&Call], target: Target) -> Result<BTreeMap<Unit, Arc<Compiled>>> {
    let units: BTreeSet<Unit> = calls.iter().map(|c| Unit::of(c.kernel, c.consts)).collect();
    let units: Vec<Unit> = units.into_iter().collect();
    match nvrtc::compile_all(&units, target, &Cache::open()) {
        Ok(compiled) => Ok(units.into_iter().zip(compiled).collect()),
        Err(_) if nvrtc::available().is_err() => Ok(BTreeMap::new()),
        Err(e) => Err(e),
    }
}

impl Report {
    fn text(&self) -> String {
        let header = [
            "layer",
            "op",
            "kernel",
            "constants",
            "by",
            "instances",
            "blocks",
            "a SM",
            "fills",
            "shared, B",
            "MB",
            "GFLOP",
        ];
        let row = |r: &Row| {
            let constants: Vec<String> = r.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let mut cells = vec![r.layer.clone(), r.op.into(), r.kernel.into(), constants.join(" ")];
            cells.extend([r.tile_by.unwrap_or("-").into(), r.instances.to_string(), r.blocks.to_string()]);
            cells.push(r.blocks_resident.map_or("-".into(), |n| n.to_string()));
            cells.extend([number(r.fills, 2), r.shared_bytes.to_string()]);
            cells.extend([number(Some(r.least_mb), 2), number(Some(r.gflop), 2)]);
            cells
        };
        let mut text = text_table(&header.map(String::from), &self.launches.iter().map(row).collect::<Vec<_>>());
        let what = self.pass.text();
        text += &format!(
            "\n{}, {what} at batch {} in {}: {} launches, {:.1} GFLOP, {:.1} MB if every operand were moved once; counted, not \
             timed.\n",
            self.model,
            self.batch,
            self.precision,
            self.launches.len(),
            self.gflop,
            self.least_mb,
        );
        let known = self.launches.iter().filter_map(|r| Some((r.fills?, r.gflop)));
        let short: Vec<(f64, f64)> = known.clone().filter(|r| r.0 < 1.0).collect();
        match known.count() {
            0 => text += "How many blocks a multiprocessor (SM) takes is not known here: NVRTC is missing.\n",
            _ => {
                text += &format!(
                    "fills: blocks over those that {} SMs of {} take at once; {} launches with {:.1} GFLOP are below 1.\n",
                    self.multiprocessors,
                    self.target,
                    short.len(),
                    short.iter().map(|r| r.1).sum::<f64>(),
                )
            }
        }
        text
    }
}
