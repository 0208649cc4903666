//! What the simulator counted: instructions and memory accesses, which are the same on every run and on every machine.

use crate::device::Probe;
use crate::sim::Counters;
use crate::table::text_table;
use serde::Serialize;

/// The figures of one launch, or of several together.
#[derive(Serialize, Clone, Copy, Default)]
pub struct CountedFigures {
    launches: usize,
    blocks: u64,
    #[serde(flatten)]
    counters: Counters,
    /// What the definition asks for, where `flops` is what was computed.
    definition_flops: f64,
    /// Every operand once, where `read_bytes` and `write_bytes` are what lanes read and wrote.
    least_bytes: f64,
}

impl CountedFigures {
    fn cells(&self) -> Vec<String> {
        let per = |a: u64, b: u64| if b == 0 { "-".into() } else { format!("{:.2}", a as f64 / b as f64) };
        let c = &self.counters;
        vec![
            self.blocks.to_string(),
            format!("{:.2}", c.thread_instructions as f64 / 1e6),
            per(c.thread_instructions, c.warp_instructions),
            format!("{:.2}", c.flops as f64 / 1e6),
            format!("{:.2}", (c.read_bytes + c.write_bytes) as f64 / 1e6),
            per(c.sectors, c.global_requests),
            per(c.shared_wavefronts, c.shared_requests),
            c.divergent_branches.to_string(),
            c.barriers.to_string(),
        ]
    }
}

impl std::ops::AddAssign for CountedFigures {
    fn add_assign(&mut self, o: Self) {
        self.launches += o.launches;
        self.blocks += o.blocks;
        self.counters += o.counters;
        self.definition_flops += o.definition_flops;
        self.least_bytes += o.least_bytes;
    }
}

const FIGURES: [&str; 9] = [
    "blocks",
    "M instr",
    "lanes/warp",
    "MFLOP",
    "MB",
    "sectors/request",
    "wavefronts/request",
    "divergent",
    "barriers",
];

#[derive(Serialize)]
pub struct CountedLaunch {
    layer: String,
    op: &'static str,
    kernel: &'static str,
    #[serde(flatten)]
    figures: CountedFigures,
}

#[derive(Serialize)]
pub struct CountedSum {
    kernel: &'static str,
    #[serde(flatten)]
    figures: CountedFigures,
}

/// The launches of one run, counted.
#[derive(Serialize)]
pub struct CountedProfile {
    model: String,
    device: String,
    batch: usize,
    /// The one with most instructions first.
    by_kernel: Vec<CountedSum>,
    launches: Vec<CountedLaunch>,
}

/// What was counted of a launch; None of a device that takes the time instead.
pub(super) fn launch(p: &Probe) -> Option<CountedLaunch> {
    let c = p.counted.as_ref()?;
    let figures = CountedFigures {
        launches: 1,
        blocks: c.blocks,
        counters: c.counters,
        definition_flops: p.cost.flops,
        least_bytes: p.cost.read + p.cost.write,
    };
    Some(CountedLaunch { layer: p.label.into(), op: p.name, kernel: c.kernel, figures })
}

impl CountedProfile {
    pub(super) fn new(model: String, device: String, batch: usize, launches: Vec<CountedLaunch>) -> Self {
        let mut by_kernel: Vec<CountedSum> = vec![];
        for r in &launches {
            let at = by_kernel.iter().position(|s| s.kernel == r.kernel).unwrap_or_else(|| {
                by_kernel.push(CountedSum { kernel: r.kernel, figures: CountedFigures::default() });
                by_kernel.len() - 1
            });
            by_kernel[at].figures += r.figures;
        }
        by_kernel.sort_by_key(|s| std::cmp::Reverse(s.figures.counters.thread_instructions));
        Self { model, device, batch, by_kernel, launches }
    }

    /// The tables for people.
    pub fn text(&self) -> String {
        let header = |names: &[&str]| names.iter().chain(&FIGURES).map(|s| s.to_string()).collect::<Vec<_>>();
        let row = |r: &CountedLaunch| [vec![r.layer.clone(), r.op.into(), r.kernel.into()], r.figures.cells()].concat();
        let launches: Vec<_> = self.launches.iter().map(row).collect();
        let sum = |s: &CountedSum| [vec![s.kernel.into(), s.figures.launches.to_string()], s.figures.cells()].concat();
        let sums: Vec<_> = self.by_kernel.iter().map(sum).collect();
        format!(
            "{}\n{}\n{} at batch {} on {}: counted, not timed. 4 sectors (of 32 bytes) a request are side by side\n\
             in 4-byte accesses, 16 in 16-byte ones; 1 wavefront a request means no bank conflicts in \
             4-byte accesses, 4 in\n16-byte ones.\n",
            text_table(&header(&["layer", "op", "kernel"]), &launches),
            text_table(&header(&["kernel", "launches"]), &sums),
            self.model,
            self.batch,
            self.device
        )
    }
}
