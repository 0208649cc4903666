//! `plan`: what a network keeps in memory, when and where. Nothing is allocated for it.

use super::reading::batch;
use super::subject::{Chosen, Run, Scale, Subject};
use super::{Compute, output};
use crate::device::Demand;
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::plan::{Life, Pass, Plan};
use crate::report::memory::{Picture, picture};
use crate::table::text_table;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    #[arg(long, value_enum, default_value_t = Run::Infer)]
    pass: Run,
    #[arg(long, default_value = "1", value_parser = batch, value_name = "N")]
    batch: usize,
    /// Also draw it: an .svg file, or a folder for `MODEL-PASS-batchN.svg`.
    #[arg(long, value_name = "FILE|DIR")]
    out: Option<PathBuf>,
    /// One JSON object instead of tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: Subject,
    #[command(flatten)]
    compute: Compute,
}

/// Rows of each table.
const ROWS: usize = 16;

/// A value of the arena, as it is shown.
#[derive(Serialize)]
struct Row {
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
struct Step {
    step: usize,
    layer: String,
    op: &'static str,
    pass: &'static str,
    live_bytes: usize,
    scratch_bytes: usize,
}

#[derive(Serialize)]
struct Report {
    model: String,
    device: String,
    pass: Run,
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
    by_step: Vec<Step>,
    values: Vec<Row>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let chosen = self.model.choose(1, Scale::Full)?;
        let device = self.compute.open()?;
        let (g, want, best) = chosen.graph(self.pass, self.batch)?;
        let want: Vec<&[Value]> = want.iter().map(Vec::as_slice).collect();
        let (g, plans) = Plan::all(g, &want, device.options(chosen.precision.products()))?;
        // A training session holds the plans of its evaluation, too; the step is the larger one.
        let demand = device.demand(&g, &plans)?;
        let plan = &plans[0];
        let mut scratch = vec![0; plan.steps().len()];
        let mut step_of = vec![0; g.nodes().len()];
        plan.steps().iter().enumerate().for_each(|(t, s)| s.iter().for_each(|&i| step_of[i] = t));
        for s in device.launches(&g, plan)? {
            let t: &mut usize = &mut scratch[step_of[s.node]];
            *t = s.launch.scratch.max(*t);
        }
        let report = self.report(&chosen, &g, plan, &demand, best, &scratch, device.name());
        if let Some(out) = &self.out {
            let path = self.file(out, &report)?;
            let title = format!("{}: what lives when", report.model);
            let subtitle = format!(
                "{} at batch {} on {}: {} values over {} steps; address space reused {} times over",
                report.what(),
                report.batch,
                report.device,
                report.values.len(),
                report.steps,
                crate::table::number(Some(report.without_reuse_bytes as f64 / report.arena_bytes.max(1) as f64), 1)
            );
            let svg = picture(&Picture { title: &title, subtitle: &subtitle, graph: &g, plan, scratch: &scratch });
            crate::atomic::write(&path, |w| w.write_all(svg.as_bytes()))?;
            remark!("wrote {}", path.display());
        }
        let json = || serde_json::to_string_pretty(&report).expect("plain data") + "\n";
        output::print(&if self.json { json() } else { report.text() })
    }

    fn file(&self, out: &std::path::Path, r: &Report) -> Result<PathBuf> {
        if out.extension().is_some_and(|e| e == "svg") {
            return Ok(out.to_path_buf());
        }
        if out.is_file() {
            return Err(Error::file(out, "is a file of another kind").fix("name an .svg file or a folder"));
        }
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create the folder", e))?;
        let stem = r.model.trim_end_matches(".safetensors");
        Ok(out.join(format!("{stem}-{}-batch{}.svg", format!("{:?}", r.pass).to_lowercase(), r.batch)))
    }

    #[allow(clippy::too_many_arguments)] // Parts of one picture.
    fn report(
        &self,
        chosen: &Chosen,
        g: &Graph,
        plan: &Plan,
        d: &Demand,
        best: usize,
        scratch: &[usize],
        device: String,
    ) -> Report {
        let live = plan.live_bytes(g);
        let row = |l: &Life| Row {
            layer: g.nodes()[l.node].label.clone(),
            op: g.nodes()[l.node].op.name(),
            pass: Pass::of(g, l.node).name(),
            shape: g.dims(l.value).to_vec(),
            bytes: l.bytes,
            arena_offset_bytes: l.at,
            first_step: l.first,
            last_step: l.last,
        };
        let step = |(t, &live_bytes): (usize, &usize)| {
            let node = plan.steps()[t][0];
            let n = &g.nodes()[node];
            let pass = Pass::of(g, node).name();
            Step { step: t, layer: n.label.clone(), op: n.op.name(), pass, live_bytes, scratch_bytes: scratch[t] }
        };
        Report {
            model: chosen.name.clone(),
            device,
            pass: self.pass,
            batch: self.batch,
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
            values: plan.lives(g).iter().map(row).collect(),
        }
    }
}

fn mib(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / (1 << 20) as f64)
}

impl Report {
    fn what(&self) -> &'static str {
        match self.pass {
            Run::Infer => "inference",
            Run::Train => "a training step",
        }
    }

    fn text(&self) -> String {
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
        let mut steps: Vec<&Step> = self.by_step.iter().collect();
        steps.sort_by_key(|s| (std::cmp::Reverse(s.live_bytes), s.step));
        steps.truncate(ROWS);
        let rows = steps.iter().map(|s| {
            vec![s.layer.clone(), s.op.to_string(), s.step.to_string(), mib(s.live_bytes), mib(s.scratch_bytes)]
        });
        let header = ["layer", "op", "step", "live MiB", "scratch MiB"].map(String::from);
        out += &text_table(&header, &rows.collect::<Vec<_>>());
        out += "\nThe largest values:\n";
        let mut values: Vec<&Row> = self.values.iter().collect();
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
