//! What the simulator counted: instructions and memory accesses, which are the same on every run and on every machine.

use crate::device::Probe;
use crate::sim::Counters;
use crate::table::text_table;
use serde::Serialize;

/// The figures of one launch, or of several together.
#[derive(Serialize, Clone, Copy, Default)]
struct Figures {
    launches: usize,
    blocks: u64,
    #[serde(flatten)]
    counters: Counters,
    /// What the definition asks for, where `flops` is what was computed.
    definition_flops: f64,
    /// Every operand once, where `read_bytes` and `write_bytes` are what lanes read and wrote.
    least_bytes: f64,
}

impl Figures {
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

impl std::ops::AddAssign for Figures {
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
struct Row {
    layer: String,
    op: &'static str,
    kernel: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Serialize)]
struct Sum {
    kernel: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

/// Collects launches as they are counted.
#[derive(Default)]
pub struct Counted {
    rows: Vec<Row>,
}

impl Counted {
    pub fn add(&mut self, p: &Probe) {
        if let Some(c) = &p.counted {
            let figures = Figures {
                launches: 1,
                blocks: c.blocks,
                counters: c.counters,
                definition_flops: p.cost.flops,
                least_bytes: p.cost.read + p.cost.write,
            };
            self.rows.push(Row { layer: p.label.into(), op: p.name, kernel: c.kernel, figures });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// By kernel, the one with most instructions first.
    fn by_kernel(&self) -> Vec<Sum> {
        let mut sums: Vec<Sum> = vec![];
        for r in &self.rows {
            let at = sums.iter().position(|s| s.kernel == r.kernel).unwrap_or_else(|| {
                sums.push(Sum { kernel: r.kernel, figures: Figures::default() });
                sums.len() - 1
            });
            sums[at].figures += r.figures;
        }
        sums.sort_by_key(|s| std::cmp::Reverse(s.figures.counters.thread_instructions));
        sums
    }

    pub fn json(&self, model: &str, device: &str, batch: usize) -> String {
        #[derive(Serialize)]
        struct All<'a> {
            model: &'a str,
            device: &'a str,
            batch: usize,
            by_kernel: Vec<Sum>,
            launches: &'a [Row],
        }
        let all = All { model, device, batch, by_kernel: self.by_kernel(), launches: &self.rows };
        serde_json::to_string_pretty(&all).expect("plain data") + "\n"
    }

    pub fn table(&self, model: &str, device: &str, batch: usize) -> String {
        let header = |names: &[&str]| names.iter().chain(&FIGURES).map(|s| s.to_string()).collect::<Vec<_>>();
        let row = |r: &Row| [vec![r.layer.clone(), r.op.into(), r.kernel.into()], r.figures.cells()].concat();
        let mut text = text_table(&header(&["layer", "op", "kernel"]), &self.rows.iter().map(row).collect::<Vec<_>>());
        let sum = |s: &Sum| [vec![s.kernel.into(), s.figures.launches.to_string()], s.figures.cells()].concat();
        let sums: Vec<_> = self.by_kernel().iter().map(sum).collect();
        text = format!("{text}\n{}", text_table(&header(&["kernel", "launches"]), &sums));
        text + &format!(
            "\n{model} at batch {batch} on {device}: counted, not timed. 4 sectors (of 32 bytes) a request are \
             side by side\nin 4-byte accesses, 16 in 16-byte ones; 1 wavefront a request means no bank conflicts in \
             4-byte accesses, 4 in\n16-byte ones.\n"
        )
    }
}
