//! `kernels`: what every GPU kernel takes of each architecture, what a network launches, and compiled kernels for a machine
//! without NVRTC.

mod launches;
mod tune;

use super::output;
use crate::atomic;
use crate::error::{Error, Result};
use crate::launch::gpu::Kernel;
use crate::nvrtc::{self, Cache, Resources, Target, Unit};
use crate::ops;
use crate::table::text_table;
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show registers, shared memory, spills and occupancy of every kernel.
    List {
        /// Only kernels whose name or source contains one of these: `conv_fprop`, `mma/`.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        targets: Targets,
        #[command(flatten)]
        wide: output::Wide,
        /// One JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Show what a GPU would be sent, without one: every launch, its tile, how well its blocks fill a GPU.
    Launches(Box<launches::Command>),
    /// Measure the tiles of a network's products on a GPU and keep the fastest for it.
    Tune(Box<tune::Command>),
    /// Compile every kernel into a folder, for machines that have a GPU and no NVRTC. Its `sources` are for profilers.
    Export {
        folder: PathBuf,
        #[command(flatten)]
        targets: Targets,
    },
}

#[derive(Args)]
struct Targets {
    /// Architecture, like sm_89 or sm_90a; may be repeated. All that the kernels are made for by default.
    #[arg(long = "arch", value_name = "SM")]
    chosen: Vec<Target>,
}

impl Targets {
    fn list(&self) -> &[Target] {
        if self.chosen.is_empty() { &Target::ALL } else { &self.chosen }
    }
}

impl Command {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::List { names, targets, wide, json } => list(&names, targets.list(), wide, json),
            Action::Launches(command) => command.run(),
            Action::Tune(command) => command.run(),
            Action::Export { folder, targets } => export(&folder, targets.list()),
        }
    }
}

/// Every unit, and the kernels in it.
fn units() -> Vec<(Unit, Vec<&'static Kernel>)> {
    let mut units: Vec<(Unit, Vec<&Kernel>)> = vec![];
    for kernel in ops::kernels() {
        for consts in kernel.variants {
            let unit = Unit::of(kernel, consts);
            match units.iter_mut().find(|u| u.0 == unit) {
                Some(known) => known.1.push(kernel),
                None => units.push((unit, vec![kernel])),
            }
        }
    }
    units
}

/// What a kernel of a unit takes, with the shared memory that a launch adds.
fn used(unit: &Unit, compiled: &Resources) -> Resources {
    let added = unit.defines.iter().find(|d| d.0 == "SHARED").map_or(0, |d| d.1 as u32);
    Resources { shared: compiled.shared + added, ..compiled.clone() }
}

/// One kernel of one unit for one target.
struct Row<'a> {
    kernel: &'static Kernel,
    unit: &'a Unit,
    target: Target,
    used: Resources,
}

fn list(names: &[String], targets: &[Target], wide: output::Wide, as_json: bool) -> Result<()> {
    let named = |k: &Kernel| names.is_empty() || names.iter().any(|n| k.entry.contains(n) || k.source.contains(n));
    let mut units = units();
    for (_, kernels) in &mut units {
        kernels.retain(|k| named(k));
    }
    units.retain(|u| !u.1.is_empty());
    if units.is_empty() {
        return Err(Error::usage(format!("no kernel is called like {}", names.join(" or ")))
            .fix("leave the name out to see all"));
    }
    let cache = Cache::open();
    let mut rows = vec![];
    for &target in targets {
        let units: Vec<_> = units.iter().filter(|u| u.0.runs_on(target)).collect();
        let sources: Vec<Unit> = units.iter().map(|u| u.0.clone()).collect();
        for ((unit, kernels), compiled) in units.into_iter().zip(nvrtc::compile_all(&sources, target, &cache)?) {
            for &kernel in kernels {
                let used = compiled.resources.iter().find(|r| r.entry == kernel.entry);
                let used = used.ok_or_else(|| Error::job(format!("{} has no kernel `{}`", unit.source, kernel.entry)));
                rows.push(Row { kernel, unit, target, used: self::used(unit, used?) });
            }
        }
    }
    rows.sort_by_key(|r| (r.unit, r.kernel.entry, r.target));
    match as_json {
        true => output::print(&format!("{:#}\n", rows.iter().map(Row::json).collect::<serde_json::Value>())),
        false => {
            let header =
                ["kernel", "constants", "for", "registers", "shared, B", "stack, B", "spilled, B", "occupancy, %"];
            let rows: Vec<_> = rows.iter().map(Row::cells).collect();
            output::print_table(&text_table(&header.map(String::from), &rows), wide)
        }
    }
}

impl Row<'_> {
    fn occupancy(&self) -> Option<f64> {
        nvrtc::occupancy(self.target, self.kernel.threads, &self.used)
    }

    fn cells(&self) -> Vec<String> {
        let (r, constants) = (&self.used, self.unit.defines.iter().map(|(name, value)| format!("{name}={value}")));
        let mut cells = vec![r.entry.clone(), constants.collect::<Vec<_>>().join(" "), self.target.to_string()];
        cells.extend([r.registers, r.shared, r.stack, r.spill_stores + r.spill_loads].map(|n| n.to_string()));
        cells.push(self.occupancy().map_or("-".into(), |o| format!("{:.0}", 100.0 * o)));
        cells
    }

    fn json(&self) -> serde_json::Value {
        let r = &self.used;
        let constants: serde_json::Map<_, _> =
            self.unit.defines.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
        json!({
            "kernel": r.entry,
            "source": self.unit.source,
            "constants": constants,
            "target": self.target.to_string(),
            "registers": r.registers,
            "shared_bytes": r.shared,
            "stack_bytes": r.stack,
            "spill_store_bytes": r.spill_stores,
            "spill_load_bytes": r.spill_loads,
            "barriers": r.barriers,
            "occupancy": self.occupancy(),
        })
    }
}

fn export(folder: &std::path::Path, targets: &[Target]) -> Result<()> {
    let units: Vec<Unit> = units().into_iter().map(|u| u.0).collect();
    let cache = Cache::within(folder);
    if let Some(why) = cache.distrusted() {
        return Err(Error::job(format!("what is compiled would not be used: {why}")));
    }
    cache.make()?;
    let mut files = 0;
    for &target in targets {
        let units: Vec<Unit> = units.iter().filter(|u| u.runs_on(target)).cloned().collect();
        files += units.len();
        nvrtc::compile_all(&units, target, &cache)?;
        if cache.is_unwritable() {
            return Err(
                Error::file(folder, "cannot write the compiled kernels").fix("choose a folder that can be written")
            );
        }
    }
    for (path, text) in nvrtc::sources() {
        let file = folder.join("sources").join(path);
        let dir = file.parent().unwrap_or(folder);
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create the folder", e))?;
        atomic::write(&file, |w| w.write_all(text.as_bytes()))?;
    }
    let names: Vec<_> = targets.iter().map(Target::to_string).collect();
    output::print(&format!(
        "wrote {files} files for {}\non the other machine: DEEP_AFFECT_CACHE={} deep-affect …\n",
        names.join(", "),
        folder.display()
    ))
}
