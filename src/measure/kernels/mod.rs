//! What GPU kernels take of each architecture, what a network launches and on which tiles, and compiled kernels for a machine
//! without NVRTC.

mod launches;
mod tune;

pub use launches::{LaunchList, Launches, estimated};
pub use tune::{Tuned, Tuning};

use crate::atomic;
use crate::error::{Error, Result};
use crate::launch::gpu::Kernel;
use crate::nvrtc::{self, Cache, Resources, Target, Unit};
use crate::ops;
use crate::table::text_table;
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;

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

/// What one kernel takes with one set of constants on one architecture.
#[derive(Serialize)]
pub struct KernelResources {
    kernel: String,
    source: &'static str,
    constants: Map<String, Value>,
    target: String,
    registers: u32,
    shared_bytes: u32,
    stack_bytes: u32,
    spill_store_bytes: u32,
    spill_load_bytes: u32,
    barriers: u32,
    /// Threads on a multiprocessor over those that it has room for; None where nobody can tell.
    occupancy: Option<f64>,
}

/// What every kernel takes whose name or source contains one of `names`; of all, without any.
///
/// # Errors
/// No such kernel, or one that cannot be compiled here.
pub fn resources(names: &[String], targets: &[Target]) -> Result<Vec<KernelResources>> {
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
                let found = compiled.resources.iter().find(|r| r.entry == kernel.entry);
                let found =
                    found.ok_or_else(|| Error::job(format!("{} has no kernel `{}`", unit.source, kernel.entry)));
                rows.push((unit, kernel, target, used(unit, found?)));
            }
        }
    }
    rows.sort_by_key(|r| (r.0, r.1.entry, r.2));
    Ok(rows.into_iter().map(|(unit, kernel, target, used)| KernelResources::new(unit, kernel, target, used)).collect())
}

impl KernelResources {
    fn new(unit: &Unit, kernel: &Kernel, target: Target, r: Resources) -> Self {
        Self {
            source: unit.source,
            constants: unit.defines.iter().map(|(name, value)| (name.to_string(), Value::from(*value))).collect(),
            target: target.to_string(),
            registers: r.registers,
            shared_bytes: r.shared,
            stack_bytes: r.stack,
            spill_store_bytes: r.spill_stores,
            spill_load_bytes: r.spill_loads,
            barriers: r.barriers,
            occupancy: nvrtc::occupancy(target, kernel.threads, &r),
            kernel: r.entry,
        }
    }

    fn cells(&self) -> Vec<String> {
        let constants: Vec<String> = self.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut cells = vec![self.kernel.clone(), constants.join(" "), self.target.clone()];
        let spilled = self.spill_store_bytes + self.spill_load_bytes;
        cells.extend([self.registers, self.shared_bytes, self.stack_bytes, spilled].map(|n| n.to_string()));
        cells.push(self.occupancy.map_or("-".into(), |o| format!("{:.0}", 100.0 * o)));
        cells
    }
}

/// The table for people.
pub fn table(all: &[KernelResources]) -> String {
    let header = ["kernel", "constants", "for", "registers", "shared, B", "stack, B", "spilled, B", "occupancy, %"];
    text_table(&header.map(String::from), &all.iter().map(KernelResources::cells).collect::<Vec<_>>())
}

/// Compiles every kernel into a folder, and puts the sources beside them; how many files were compiled.
///
/// # Errors
/// A folder that others can write to or that cannot be written, and what does not compile.
pub fn export(folder: &Path, targets: &[Target]) -> Result<usize> {
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
    Ok(files)
}
