//! What a network keeps in memory, when and where, by its plan. Nothing is allocated for it.

use super::Purpose;
use super::model::ResolvedModel;
use crate::device::Device;
use crate::error::Result;
use crate::graph::{Graph, Value};
use crate::plan::{Life, Pass, Plan};
use crate::report::memory::{Picture, picture};
use crate::table::{number, text_table};
use serde::Serialize;

/// Rows of each table.
const ROWS: usize = 16;

/// A value of the arena, as it is shown.
#[derive(Serialize)]
pub struct PlannedValue {
    layer: String,
    op: &'static str,
    pass: &'static str,
    shape: Vec<usize>,
    bytes: usize,
    arena_offset_bytes: usize,
    first_step: usize,
    last_step: usize,
}

/// A step, as it is shown.
#[derive(Serialize)]
pub struct PlannedStep {
    step: usize,
    layer: String,
    op: &'static str,
    pass: &'static str,
    live_bytes: usize,
    scratch_bytes: usize,
}

/// What a network keeps in memory.
#[derive(Serialize)]
pub struct MemoryPlan {
    model: String,
    device: String,
    pass: Purpose,
    batch: usize,
    steps: usize,
    weight_bytes: usize,
    state_bytes: usize,
    input_bytes: usize,
    arena_bytes: usize,
    scratch_bytes: usize,
    /// The weights of the best epoch, which training keeps beside the network.
    best_weight_bytes: usize,
    expected_peak_bytes: usize,
    /// Largest sum of live values over all steps: no arena can be smaller.
    lower_bound_bytes: usize,
    /// The arena without reuse.
    without_reuse_bytes: usize,
    available_bytes: Option<usize>,
    by_step: Vec<PlannedStep>,
    values: Vec<PlannedValue>,
}

/// A network that was planned.
pub struct Planned {
    pub memory: MemoryPlan,
    graph: Graph,
    plan: Plan,
    scratch: Vec<usize>,
}

/// Plans a network as a device would hold it.
///
/// # Errors
/// A network that cannot be planned for the device.
pub fn plan(model: &ResolvedModel, purpose: Purpose, batch: usize, device: &dyn Device) -> Result<Planned> {
    let (g, want, best) = model.graph(purpose, batch)?;
    let want: Vec<&[Value]> = want.iter().map(Vec::as_slice).collect();
    let (g, mut plans) = Plan::all(g, &want, device.options(model.precision.products()))?;
    // A training session holds the plans of its evaluation, too; the step is the larger one.
    let d = device.demand(&g, &plans)?;
    let plan = plans.swap_remove(0);
    let mut scratch = vec![0; plan.steps().len()];
    let mut step_of = vec![0; g.nodes().len()];
    plan.steps().iter().enumerate().for_each(|(t, s)| s.iter().for_each(|&i| step_of[i] = t));
    for s in device.launches(&g, &plan)? {
        let t: &mut usize = &mut scratch[step_of[s.node]];
        *t = s.launch.scratch.max(*t);
    }
    let live = plan.live_bytes(&g);
    let value = |l: &Life| PlannedValue {
        layer: g.nodes()[l.node].label.clone(),
        op: g.nodes()[l.node].op.name(),
        pass: Pass::of(&g, l.node).name(),
        shape: g.dims(l.value).to_vec(),
        bytes: l.bytes,
        arena_offset_bytes: l.at,
        first_step: l.first,
        last_step: l.last,
    };
    let step = |(t, &live_bytes): (usize, &usize)| {
        let node = plan.steps()[t][0];
        let n = &g.nodes()[node];
        let pass = Pass::of(&g, node).name();
        PlannedStep { step: t, layer: n.label.clone(), op: n.op.name(), pass, live_bytes, scratch_bytes: scratch[t] }
    };
    let memory = MemoryPlan {
        model: model.name.clone(),
        device: device.name(),
        pass: purpose,
        batch,
        steps: plan.steps().len(),
        weight_bytes: d.weights,
        state_bytes: d.state,
        input_bytes: d.inputs,
        arena_bytes: d.arena,
        scratch_bytes: d.scratch,
        best_weight_bytes: best,
        expected_peak_bytes: d.total() + best,
        lower_bound_bytes: live.iter().copied().max().unwrap_or(0),
        without_reuse_bytes: plan.naive_bytes(),
        available_bytes: crate::device::available(),
        by_step: live.iter().enumerate().map(step).collect(),
        values: plan.lives(&g).iter().map(value).collect(),
    };
    Ok(Planned { memory, graph: g, plan, scratch })
}

impl Planned {
    /// What lives when and where, as SVG.
    pub fn picture(&self) -> String {
        let r = &self.memory;
        let title = format!("{}: what lives when", r.model);
        let subtitle = format!(
            "{} at batch {} on {}: {} values over {} steps; address space reused {} times over",
            r.what(),
            r.batch,
            r.device,
            r.values.len(),
            r.steps,
            number(Some(r.without_reuse_bytes as f64 / r.arena_bytes.max(1) as f64), 1)
        );
        let (graph, plan, scratch) = (&self.graph, &self.plan, &self.scratch);
        picture(&Picture { title: &title, subtitle: &subtitle, graph, plan, scratch })
    }
}

fn mib(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / (1 << 20) as f64)
}

impl MemoryPlan {
    /// A file's name for its picture: `deep-affect-infer-batch1.svg`.
    pub fn file_name(&self) -> String {
        let stem = self.model.trim_end_matches(".safetensors");
        format!("{stem}-{}-batch{}.svg", format!("{:?}", self.pass).to_lowercase(), self.batch)
    }

    fn what(&self) -> &'static str {
        match self.pass {
            Purpose::Infer => "inference",
            Purpose::Train => "a training step",
        }
    }

    /// The tables for people.
    pub fn text(&self) -> String {
        let fullest = self.by_step.iter().max_by_key(|s| s.live_bytes).map_or(0, |s| s.step);
        let mut out = format!(
            "{}, {} at batch {} on {}: {} values over {} steps\n\n",
            self.model,
            self.what(),
            self.batch,
            self.device,
            self.values.len(),
            self.steps
        );
        let mut totals = vec![
            ("weights", self.weight_bytes, String::new()),
            ("velocities and other state", self.state_bytes, String::new()),
            ("inputs", self.input_bytes, String::new()),
            (
                "arena of temporaries",
                self.arena_bytes,
                format!(
                    "at least {} are alive at once, in step {fullest}; without reuse {}",
                    mib(self.lower_bound_bytes),
                    mib(self.without_reuse_bytes)
                ),
            ),
            ("scratch of one launch", self.scratch_bytes, String::new()),
            ("best weights of a run", self.best_weight_bytes, "kept beside the network from the first epoch on".into()),
            ("expected peak", self.expected_peak_bytes, "and about 20 for the program".into()),
        ];
        totals.retain(|t| t.1 > 0);
        let name = totals.iter().map(|t| t.0.len()).max().unwrap_or(0);
        for (what, bytes, note) in totals {
            let note = if note.is_empty() { String::new() } else { format!("   {note}") };
            out += &format!("{what:<name$} {:>9} MiB{note}\n", mib(bytes));
        }
        if let Some(a) = self.available_bytes {
            out += &format!("{:<name$} {:>9} MiB\n", "available here", mib(a));
        }
        out += "\nThe fullest steps:\n";
        let mut steps: Vec<&PlannedStep> = self.by_step.iter().collect();
        steps.sort_by_key(|s| (std::cmp::Reverse(s.live_bytes), s.step));
        steps.truncate(ROWS);
        let rows = steps.iter().map(|s| {
            vec![s.layer.clone(), s.op.to_string(), s.step.to_string(), mib(s.live_bytes), mib(s.scratch_bytes)]
        });
        let header = ["layer", "op", "step", "live MiB", "scratch MiB"].map(String::from);
        out += &text_table(&header, &rows.collect::<Vec<_>>());
        out += "\nThe largest values:\n";
        let mut values: Vec<&PlannedValue> = self.values.iter().collect();
        values.sort_by_key(|v| (std::cmp::Reverse(v.bytes), v.first_step));
        values.truncate(ROWS);
        let rows = values.iter().map(|v| {
            let shape: Vec<String> = v.shape.iter().map(usize::to_string).collect();
            vec![
                v.layer.clone(),
                v.op.to_string(),
                format!("[{}]", shape.join(",")),
                mib(v.bytes),
                mib(v.arena_offset_bytes),
                format!("{}..{}", v.first_step, v.last_step),
            ]
        });
        let header = ["layer", "written by", "shape", "MiB", "at MiB", "alive in steps"].map(String::from);
        out += &text_table(&header, &rows.collect::<Vec<_>>());
        out
    }
}
