//! A training step on several GPUs, predicted: what one computes, what goes between them and how much of that is hidden, and what
//! each keeps in memory. By models of launches and of links; nothing is timed.

use super::kernels;
use super::model::ResolvedModel;
use crate::device::gpu::OPTIONS;
use crate::error::Result;
use crate::graph::{Graph, Kind, Value};
use crate::launch::Exchange;
use crate::launch::estimate::Limits;
use crate::launch::links::{Bucket, Links, Step, Timeline};
use crate::ops::cast;
use crate::plan::{Options, Pass, Plan};
use crate::ranks::BUCKET;
use crate::table::{number, text_table};
use crate::train::network::TRAIN;
use serde::Serialize;

/// An H100 SXM: gigabytes a second and bytes of its memory, by NVIDIA's data sheet.
const GPU: (&str, usize, usize) = ("H100 SXM", 3350, 80_000_000_000);

/// What is aimed at: the share of so many times one GPU's pictures, and the share of the collectives' time that is hidden.
const TARGETS: [f64; 2] = [0.93, 0.9];

/// What is to be predicted.
pub struct Scaling<'a> {
    pub model: &'a ResolvedModel,
    /// Pictures of a batch on each GPU.
    pub batch: usize,
    pub gpus: usize,
    pub links: Links,
}

/// Gradients that are summed together.
#[derive(Serialize)]
pub struct PlannedBucket {
    gradients: usize,
    bytes: usize,
    /// From the beginning of the step.
    ready_ms: f64,
    begin_ms: f64,
    end_ms: f64,
}

/// A way to keep the optimiser's state: all of it on each GPU, or a part.
#[derive(Serialize)]
pub struct StateChoice {
    state: &'static str,
    step_ms: f64,
    pictures_per_second: f64,
    /// Pictures a second over those of so many GPUs that wait for nobody.
    scaling: f64,
    collectives_ms: f64,
    exposed_ms: f64,
    /// Share of the collectives' time in which something is computed; None where there are none.
    hidden: Option<f64>,
    memory: PlannedMemory,
}

/// Bytes on each GPU.
#[derive(Clone, Copy, Default, Serialize)]
pub struct PlannedMemory {
    weight_bytes: usize,
    optimizer_state_bytes: usize,
    other_bytes: usize,
    /// With all gradients.
    arena_bytes: usize,
    total_bytes: usize,
    fits: bool,
}

/// A training step on several GPUs.
#[derive(Serialize)]
pub struct ScalingPlan {
    model: String,
    precision: &'static str,
    /// Whether these are times of a GPU: they are those of a model.
    measured: bool,
    gpu: &'static str,
    gpu_memory_bytes: usize,
    gpus: usize,
    gpus_per_node: usize,
    nvlink_gb_s: f64,
    network_gb_s: f64,
    batch_per_gpu: usize,
    forward_ms: f64,
    backward_ms: f64,
    update_ms: f64,
    /// Of a GPU alone.
    one_gpu_ms: f64,
    one_gpu_pictures_per_second: f64,
    gradient_bytes: usize,
    buckets: Vec<PlannedBucket>,
    choices: Vec<StateChoice>,
    target_scaling: f64,
    target_hidden: f64,
}

impl Scaling<'_> {
    /// # Errors
    /// A network that cannot be planned for a GPU.
    pub fn plan(&self) -> Result<ScalingPlan> {
        let alone = self.planned(self.batch, 1, false)?.step;
        let alone = alone.passes + alone.update;
        let whole = self.planned(self.batch * self.gpus, self.gpus, false)?;
        let sharded = self.planned(self.batch * self.gpus, self.gpus, true)?;
        let Planned { step, forward, .. } = &whole;
        let timeline = step.on(self.gpus, &self.links);
        let bucket = |(b, [begin, end]): (&Bucket, &[f64; 2])| PlannedBucket {
            gradients: b.gradients,
            bytes: b.bytes,
            ready_ms: 1e3 * b.ready,
            begin_ms: 1e3 * begin,
            end_ms: 1e3 * end,
        };
        Ok(ScalingPlan {
            model: self.model.name.clone(),
            precision: self.model.precision.name(),
            measured: false,
            gpu: GPU.0,
            gpu_memory_bytes: GPU.2,
            gpus: self.gpus,
            gpus_per_node: self.links.node,
            nvlink_gb_s: self.links.nvlink,
            network_gb_s: self.links.network,
            batch_per_gpu: self.batch,
            forward_ms: 1e3 * forward,
            backward_ms: 1e3 * (step.passes - forward),
            update_ms: 1e3 * step.update,
            one_gpu_ms: 1e3 * alone,
            one_gpu_pictures_per_second: self.batch as f64 / alone,
            gradient_bytes: step.buckets.iter().map(|b| b.bytes).sum(),
            buckets: step.buckets.iter().zip(&timeline.sums).map(bucket).collect(),
            choices: vec![self.choice("whole", alone, &whole), self.choice("sharded", alone, &sharded)],
            target_scaling: TARGETS[0],
            target_hidden: TARGETS[1],
        })
    }

    /// A step of one of several GPUs: of the last, whose share is the largest, for cuts are rounded down.
    fn planned(&self, batch: usize, gpus: usize, sharded: bool) -> Result<Planned> {
        let b = self.model.ranked(batch, gpus, sharded)?;
        let state: usize = b.parts.iter().flat_map(|p| p.memory()).map(|v| b.graph.ty(v).bytes()).sum();
        let want: Vec<&[Value]> = b.want.iter().map(Vec::as_slice).collect();
        let (g, plans) = Plan::all(b.graph, &want, Options { products: b.products, ..OPTIONS })?;
        let mut planned = times(&g, &plans[TRAIN])?;
        planned.step.sharded = sharded;
        let of = |kind| g.of_kind(kind).map(|v| g.ty(v).bytes()).sum::<usize>();
        let weight_bytes = of(Kind::Param);
        let other_bytes = [Kind::State, Kind::Statistic, Kind::Input].map(of).iter().sum::<usize>() - state;
        let arena_bytes = plans.iter().map(Plan::arena_bytes).max().unwrap_or(0) + planned.scratch;
        let total_bytes = weight_bytes + state + other_bytes + arena_bytes;
        let fits = total_bytes <= GPU.2;
        let memory =
            PlannedMemory { weight_bytes, optimizer_state_bytes: state, other_bytes, arena_bytes, total_bytes, fits };
        Ok(Planned { memory, ..planned })
    }

    fn choice(&self, state: &'static str, alone: f64, planned: &Planned) -> StateChoice {
        let t: Timeline = planned.step.on(self.gpus, &self.links);
        StateChoice {
            state,
            step_ms: 1e3 * t.seconds,
            pictures_per_second: (self.gpus * self.batch) as f64 / t.seconds,
            scaling: alone / t.seconds,
            collectives_ms: 1e3 * t.sent,
            exposed_ms: 1e3 * t.exposed,
            hidden: (t.sent > 0.0).then(|| 1.0 - t.exposed / t.sent),
            memory: planned.memory,
        }
    }
}

/// A step whose launches were estimated.
#[derive(Default)]
struct Planned {
    step: Step,
    /// Seconds of the forward pass.
    forward: f64,
    /// The most bytes that a launch needs besides.
    scratch: usize,
    memory: PlannedMemory,
}

fn times(g: &Graph, plan: &Plan) -> Result<Planned> {
    let mut own = vec![0.0; plan.steps().len()];
    let mut step_of = vec![0; g.nodes().len()];
    plan.steps().iter().enumerate().for_each(|(t, s)| s.iter().for_each(|&i| step_of[i] = t));
    let mut planned = Planned::default();
    for (node, bytes, seconds) in kernels::estimated(g, plan, Limits { bandwidth: GPU.1, ..Limits::default() })? {
        own[step_of[node]] += seconds;
        planned.scratch = planned.scratch.max(bytes);
    }
    let exchange = |i: usize| g.nodes()[i].op.collective().map(|c| c.exchange);
    let sums = |i: usize| exchange(i).filter(|e| *e != Exchange::AllGather);
    // What waits for a sum comes behind all that does not.
    let last = plan.steps().iter().rposition(|step| step.iter().any(|i| sums(*i).is_some()));
    let step = &mut planned.step;
    for (t, (nodes, seconds)) in plan.steps().iter().zip(own).enumerate() {
        if exchange(nodes[0]).is_some() {
            let bucket = |&i: &usize| {
                let outs = &g.nodes()[i].outs;
                let bytes = outs.iter().map(|v| g.ty(*v).bytes()).sum();
                Some(Bucket { gradients: outs.len(), bytes, ready: step.passes, sum: sums(i)? })
            };
            let buckets: Vec<Bucket> = nodes.iter().filter_map(bucket).collect();
            step.buckets.extend(buckets);
        } else if last.is_some_and(|last| t > last) {
            let copies = g.nodes()[nodes[0]].op_as::<cast::Copy>().is_some();
            *(if copies { &mut step.copies } else { &mut step.update }) += seconds;
        } else {
            step.passes += seconds;
            planned.forward += if Pass::of(g, nodes[0]) == Pass::Fprop { seconds } else { 0.0 };
        }
    }
    Ok(planned)
}

impl ScalingPlan {
    /// The tables for people.
    pub fn text(&self) -> String {
        let ms = |x: f64| number(Some(x), 2);
        let percent = |x: Option<f64>| number(x.map(|x| 100.0 * x), 1);
        let mut out = format!(
            "{}, a training step in {} at batch {} on each of {} {}: predicted by models of launches and links, not measured\n\n",
            self.model, self.precision, self.batch_per_gpu, self.gpus, self.gpu
        );
        out += &format!(
            "one GPU      {} ms, {} pictures a second\n",
            ms(self.one_gpu_ms),
            number(Some(self.one_gpu_pictures_per_second), 0),
        );
        let [forward, backward, update] = [self.forward_ms, self.backward_ms, self.update_ms].map(ms);
        out += &format!("one of many  forward {forward} ms, backward {backward}, updates of all parameters {update}\n");
        out += &format!(
            "links        rings at {} GB/s over NVLink within {} GPUs, {} GB/s over each GPU's network card\n",
            self.nvlink_gb_s, self.gpus_per_node, self.network_gb_s
        );
        out += &format!(
            "gradients    {} MB in {} buckets of at most {} MiB, or of one gradient\n\n",
            number(Some(self.gradient_bytes as f64 / 1e6), 1),
            self.buckets.len(),
            BUCKET >> 20
        );
        let header = ["optimiser's state", "step ms", "pictures/s", "scaling", "sent ms", "exposed ms", "hidden %"];
        let row = |c: &StateChoice| {
            let pictures = number(Some(c.pictures_per_second), 0);
            let times = [ms(c.collectives_ms), ms(c.exposed_ms), percent(c.hidden)];
            [c.state.into(), ms(c.step_ms), pictures, number(Some(c.scaling), 3)].into_iter().chain(times).collect()
        };
        let mut rows: Vec<Vec<String>> = self.choices.iter().map(row).collect();
        let [scaling, hidden] = [number(Some(self.target_scaling), 2), percent(Some(self.target_hidden))];
        rows.push(["target", "", "", &scaling, "", "", &hidden].map(String::from).into());
        out += &text_table(&header.map(String::from), &rows);
        out += "\nMemory of each GPU, MB:\n";
        let header = ["optimiser's state", "weights", "state", "other", "arena", "all", "of"];
        let mb = |bytes: usize| number(Some(bytes as f64 / 1e6), 0);
        let row = |c: &StateChoice| {
            let m = &c.memory;
            let bytes = [m.weight_bytes, m.optimizer_state_bytes, m.other_bytes, m.arena_bytes];
            let fits = format!("{}{}", mb(self.gpu_memory_bytes), if m.fits { "" } else { ", does not fit" });
            let cells = bytes.into_iter().chain([m.total_bytes]).map(mb).chain([fits]);
            std::iter::once(c.state.to_string()).chain(cells).collect()
        };
        out += &text_table(&header.map(String::from), &self.choices.iter().map(row).collect::<Vec<_>>());
        out += "\nBuckets with the whole state, ms from the beginning of the step:\n";
        let header = ["bucket", "gradients", "MB", "ready", "begins", "ends"];
        let row = |(i, b): (usize, &PlannedBucket)| {
            let times = [b.ready_ms, b.begin_ms, b.end_ms].map(ms);
            let mb = number(Some(b.bytes as f64 / 1e6), 1);
            [(i + 1).to_string(), b.gradients.to_string(), mb].into_iter().chain(times).collect()
        };
        out += &text_table(&header.map(String::from), &self.buckets.iter().enumerate().map(row).collect::<Vec<_>>());
        out
    }
}
