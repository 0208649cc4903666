//! What a GPU would be sent, launch by launch, how well it would fill one, and how long it might take.
//! Counted and estimated, not timed.

use super::used;
use crate::device::gpu::OPTIONS;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::launch::choices::Tiles;
use crate::launch::estimate::{Bottleneck, Estimate, Limits};
use crate::launch::gpu::{Call, CallOperand, Location};
use crate::launch::{Arch, Choices, Code, Cost, Warpgroups};
use crate::measure::Purpose;
use crate::measure::model::ResolvedModel;
use crate::nvrtc::{self, Cache, Compiled, Target, Unit};
use crate::plan::{Options, Pass, Plan, Scheduled};
use crate::table::{number, text_table};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is to be listed.
pub struct Launches<'a> {
    pub model: &'a ResolvedModel,
    pub purpose: Purpose,
    pub batch: usize,
    /// The architecture whose occupancy counts, where NVRTC can tell it.
    pub target: Target,
    /// Tiles that were measured, before the rule's.
    pub tiles: Tiles,
    /// Multiprocessors of the GPU that is to be filled.
    pub multiprocessors: u32,
    /// Gigabytes a second of its memory, for the estimate.
    pub bandwidth: u32,
    pub warpgroups: Warpgroups,
}

/// One launch.
#[derive(Serialize)]
pub struct LaunchRow {
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
    /// Every operand once; an op of several launches has its work and operands at the first, and besides what each hands on.
    least_mb: f64,
    gflop: f64,
    /// Of work for each byte.
    flop_per_byte: Option<f64>,
    /// Estimated: [`Limits::estimate`].
    ms: f64,
    /// What the time is spent on.
    bound: &'static str,
}

/// Launches that spend their time on the same.
#[derive(Serialize)]
pub struct TimeShare {
    bound: &'static str,
    launches: usize,
    ms: f64,
}

/// Every launch of a network.
#[derive(Serialize)]
pub struct LaunchList {
    model: String,
    precision: &'static str,
    pass: Purpose,
    batch: usize,
    target: String,
    multiprocessors: u32,
    bandwidth_gb_s: u32,
    least_mb: f64,
    gflop: f64,
    /// Estimated, one launch after another.
    ms: f64,
    by_bound: Vec<TimeShare>,
    launches: Vec<LaunchRow>,
}

impl Launches<'_> {
    /// # Errors
    /// A network with an op that has no kernel, and kernels that do not compile.
    pub fn list(&self) -> Result<LaunchList> {
        let (g, want, _) = self.model.graph(self.purpose, self.batch)?;
        let want: Vec<&[Value]> = want.iter().map(Vec::as_slice).collect();
        let products = self.model.precision.products();
        let (g, plans) = Plan::all(g, &want, Options { products, ..OPTIONS })?;
        let [multiprocessors, bandwidth] = [self.multiprocessors, self.bandwidth].map(|n| n as usize);
        let limits = Limits { multiprocessors, shared: nvrtc::shared_memory(self.target), bandwidth };
        let choices = Choices { limits, tiles: self.tiles.clone(), warpgroups: self.warpgroups };
        // What is wanted first: the step, or the inference.
        let scheduled = plans[0].lower(&g, Arch::Gpu(&choices))?;
        let calls = scheduled.iter().map(call).collect::<Result<Vec<_>>>()?;
        let compiled = compiled(&calls, self.target)?;
        let rows = scheduled.iter().zip(&calls).map(|(s, call)| self.row(&g, s, call, &compiled, &choices));
        let launches: Vec<LaunchRow> = rows.collect();
        Ok(LaunchList {
            model: self.model.name.clone(),
            precision: self.model.precision.name(),
            pass: self.purpose,
            batch: self.batch,
            target: self.target.to_string(),
            multiprocessors: self.multiprocessors,
            bandwidth_gb_s: self.bandwidth,
            least_mb: launches.iter().map(|r| r.least_mb).sum(),
            gflop: launches.iter().map(|r| r.gflop).sum(),
            ms: launches.iter().map(|r| r.ms).sum(),
            by_bound: shares(&launches),
            launches,
        })
    }

    fn row(
        &self,
        g: &Graph,
        s: &Scheduled,
        call: &Call,
        compiled: &BTreeMap<Unit, Arc<Compiled>>,
        choices: &Choices,
    ) -> LaunchRow {
        let unit = Unit::of(call.kernel, call.consts);
        let found = compiled.get(&unit).and_then(|c| c.resources.iter().find(|r| r.entry == call.kernel.entry));
        let found = found.map(|r| used(&unit, r));
        let blocks_resident = found.as_ref().and_then(|r| nvrtc::resident(self.target, call.kernel.threads, r));
        let instances = call.operands.len();
        let (blocks, cost, estimate) = estimate(s, call, choices.limits);
        let bytes = cost.read + cost.write;
        // Shared memory has a field of its own.
        let constants = call.kernel.consts.iter().copied().zip(call.consts.iter().copied());
        LaunchRow {
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
            least_mb: bytes / 1e6,
            gflop: cost.flops / 1e9,
            flop_per_byte: (bytes > 0.0).then(|| cost.flops / bytes),
            ms: 1e3 * estimate.seconds,
            bound: estimate.bound.name(),
        }
    }
}

/// Blocks of a launch, its cost, and how long that might take.
fn estimate(s: &Scheduled, call: &Call, limits: Limits) -> (u64, Cost, Estimate) {
    let blocks = call.grid.iter().map(|n| *n as u64).product::<u64>() * call.operands.len() as u64;
    let cost = with_scratch(s.launch.cost, call);
    (blocks, cost, limits.estimate(blocks as usize, cost, call.product.as_ref().zip(call.price.as_deref())))
}

/// Of every kernel that a plan launches its node, the bytes of scratch that it needs and its estimated seconds, with tiles by the
/// rule.
///
/// # Errors
/// An op that has no kernel.
pub fn estimated(g: &Graph, plan: &Plan, limits: Limits) -> Result<Vec<(usize, usize, f64)>> {
    let choices = Choices { limits, ..Choices::default() };
    let one = |s: &Scheduled| Ok((s.node, s.launch.scratch, estimate(s, call(s)?, limits).2.seconds));
    let all = plan.lower(g, Arch::Gpu(&choices))?;
    all.iter().filter(|s| !matches!(s.launch.code, Code::Collective(_))).map(one).collect()
}

/// The cost of a launch together with what it hands on to the next launch of its op, or was handed, or hands on to its own last
/// blocks.
fn with_scratch(mut cost: Cost, call: &Call) -> Cost {
    for operands in &call.operands {
        let scratch = |o: &CallOperand| match o.place {
            Location::Scratch(at) => Some((at, o.bytes)),
            Location::Value(_) | Location::Counts(_) => None,
        };
        let counts = operands.iter().any(|o| matches!(o.place, Location::Counts(_)));
        // Each once: an operand may stand in the place of one that is not there.
        let all: BTreeMap<usize, usize> = operands.iter().filter_map(scratch).collect();
        let bytes = all.values().sum::<usize>() as f64;
        cost.read += bytes;
        cost.write += if counts { bytes } else { 0.0 };
    }
    cost
}

fn shares(launches: &[LaunchRow]) -> Vec<TimeShare> {
    let of = |bound: Bottleneck| {
        let bound = bound.name();
        let those: Vec<f64> = launches.iter().filter(|r| r.bound == bound).map(|r| r.ms).collect();
        TimeShare { bound, launches: those.len(), ms: those.iter().sum() }
    };
    Bottleneck::ALL.map(of).into_iter().filter(|s| s.launches > 0).collect()
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

impl LaunchList {
    /// The table for people, of all its columns if it may be wide.
    pub fn text(&self, wide: bool) -> String {
        // Those of the second list only where there is room.
        let header = ["layer", "kernel", "tile", "ops", "blocks", "fills", "MB", "GFLOP", "ms", "bound by"];
        let more = ["op", "constants", "by", "a SM", "shared, B", "FLOP/B"];
        let more = if wide { &more[..] } else { &[] };
        let row = |r: &LaunchRow| {
            let mut cells = vec![r.layer.clone(), r.kernel.into(), r.tile(), r.instances.to_string()];
            cells.extend([r.blocks.to_string(), number(r.fills, 2), number(Some(r.least_mb), 2)]);
            cells.extend([number(Some(r.gflop), 2), number(Some(r.ms), 4), r.bound.into()]);
            let constants: Vec<String> = r.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let resident = r.blocks_resident.map_or("-".into(), |n| n.to_string());
            let rest = [r.op.into(), constants.join(" "), r.tile_by.unwrap_or("-").into(), resident];
            cells.extend(rest.into_iter().chain([r.shared_bytes.to_string(), number(r.flop_per_byte, 1)]));
            cells.truncate(header.len() + more.len());
            cells
        };
        let header: Vec<String> = header.iter().chain(more).map(|h| h.to_string()).collect();
        let mut text = text_table(&header, &self.launches.iter().map(row).collect::<Vec<_>>());
        let what = self.pass.text();
        text += &format!(
            "\n{}, {what} at batch {} in {}: {} launches, {:.1} GFLOP, {:.1} MB if every operand were moved once.\n",
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
                    "fills: blocks over those that {} SMs of {} take at once; {} launches, {:.1} GFLOP, are below 1.\n",
                    self.multiprocessors,
                    self.target,
                    short.len(),
                    short.iter().map(|r| r.1).sum::<f64>(),
                )
            }
        }
        text += &format!(
            "Estimated, not timed: {:.2} ms with {} SMs and {} GB/s, bound by\n",
            self.ms, self.multiprocessors, self.bandwidth_gb_s,
        );
        for s in &self.by_bound {
            text += &format!("  {:<13} {:6.2} ms, {} launches\n", s.bound, s.ms, s.launches);
        }
        text
    }
}

impl LaunchRow {
    /// `128x256x64`, or the values that a kernel without tiles has.
    fn tile(&self) -> String {
        let of = |name: &str| self.constants.get(name).map(i64::to_string);
        match ["BM", "BN", "BK"].into_iter().map(of).collect::<Option<Vec<_>>>() {
            Some(extents) => extents.join("x"),
            None => self.constants.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
        }
    }
}
