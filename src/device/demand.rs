//! How much memory a graph needs on a device, and whether the machine has it: asked before anything is allocated, because
//! afterwards the system answers by killing.

use super::Device;
use crate::error::{Error, Result, option};
use crate::graph::{Graph, Kind};
use crate::plan::Plan;
use crate::shape::Type;

pub use crate::memory::available;

/// Bytes that a graph and its plans need on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    pub weights: usize,
    /// Velocities, statistics.
    pub state: usize,
    pub inputs: usize,
    /// Temporaries.
    pub arena: usize,
    /// What routines need besides their operands, the largest of any launch.
    pub scratch: usize,
}

impl Demand {
    /// Of a device that keeps float64, one slot for every [`Demand::grain`] bytes of the arena.
    pub fn float64(g: &Graph, plans: &[Plan]) -> Self {
        let slots = |p: &Plan| p.arena_bytes() / Self::grain(g);
        Self { arena: 8 * plans.iter().map(slots).max().unwrap_or(0), ..Self::persistent(g, |t| 8 * t.numel()) }
    }

    /// Bytes of the smallest element of a temporary.
    pub(super) fn grain(g: &Graph) -> usize {
        g.of_kind(Kind::Temp).map(|v| g.ty(v).dtype.bytes()).min().unwrap_or(4)
    }

    /// Everything but the temporaries, each value taking the `bytes` of its type.
    pub(super) fn persistent(g: &Graph, bytes: impl Fn(&Type) -> usize) -> Self {
        let of = |kind| g.of_kind(kind).map(|v| bytes(&g.ty(v))).sum();
        let state = [Kind::State, Kind::Statistic].map(of).iter().sum();
        Self { weights: of(Kind::Param), state, inputs: of(Kind::Input), arena: 0, scratch: 0 }
    }

    pub fn total(&self) -> usize {
        self.weights + self.state + self.inputs + self.arena + self.scratch
    }
}

/// What a session is told about memory that it cannot know.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryHints {
    /// Weights will lie in mapped files, whose pages the system can take back.
    pub weights_mapped: bool,
    /// Bytes that the caller will need beside the session.
    pub reserved_bytes: usize,
}

/// Refuses a graph and its plans where a device has no room for them.
pub fn fits(device: &dyn Device, g: &Graph, plans: &[Plan], hints: MemoryHints) -> Result<()> {
    // What the device holds, it gives back.
    let memory = device.memory();
    let held = memory.persistent + memory.arena;
    let demand = || device.demand(g, plans);
    match (memory.free, available()) {
        // Weights are copied there, and what the caller needs is elsewhere.
        (Some(own), _) => check(&demand()?, MemoryHints::default(), own + held),
        (None, Some(available)) => check(&demand()?, hints, available + held),
        (None, None) => Ok(()),
    }
}

/// Refuses what does not fit into `available` bytes.
fn check(d: &Demand, hints: MemoryHints, available: usize) -> Result<()> {
    let weights = if hints.weights_mapped { 0 } else { d.weights };
    let needed = d.total() - d.weights + weights + hints.reserved_bytes;
    if needed <= available {
        return Ok(());
    }
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    Err(Error::job(format!(
        "{} MiB of memory are needed (weights {}, their state {}, inputs {}, temporaries {}, beside the network {}), and \
         {} MiB are available",
        mib(needed),
        mib(weights),
        mib(d.state),
        mib(d.inputs),
        mib(d.arena + d.scratch),
        mib(hints.reserved_bytes),
        available >> 20
    ))
    .fix(format!("lower {} or {}, or raise {}; `deep-affect plan` shows what a choice needs", option("batch"), option("image"), option("width"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said_in_one_line() {
        let d = Demand { weights: 300 << 20, state: 0, inputs: 0, arena: 100 << 20, scratch: 0 };
        assert!(check(&d, MemoryHints::default(), 400 << 20).is_ok());
        let e =
            check(&d, MemoryHints { reserved_bytes: 1, ..MemoryHints::default() }, 400 << 20).unwrap_err().to_string();
        assert!(e.contains("401 MiB of memory are needed") && e.contains("400 MiB are available"), "{e}");
        assert!(check(&d, MemoryHints { weights_mapped: true, reserved_bytes: 0 }, 100 << 20).is_ok());
    }
}
