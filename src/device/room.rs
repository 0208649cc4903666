//! How much memory a graph needs on a device, and whether the machine has it: asked before anything is allocated, because
//! afterwards the system answers by killing.

use super::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Kind};
use crate::plan::Plan;
use crate::shape::Type;
use std::path::{Path, PathBuf};

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
pub struct Room {
    /// Weights will lie in mapped files, whose pages the system can take back.
    pub mapped: bool,
    /// Bytes that the caller will need beside the session.
    pub beside: usize,
}

/// Refuses a graph and its plans where a device has no room for them.
pub fn fits(device: &dyn Device, g: &Graph, plans: &[Plan], room: Room) -> Result<()> {
    // What the device holds, it gives back.
    let held = device.memory().iter().sum::<usize>();
    let demand = || device.demand(g, plans);
    match (device.own_memory(), available()) {
        // Weights are copied there, and what the caller needs is elsewhere.
        (Some(own), _) => check(&demand()?, Room::default(), own + held),
        (None, Some(available)) => check(&demand()?, room, available + held),
        (None, None) => Ok(()),
    }
}

/// Refuses what does not fit into `available` bytes.
fn check(d: &Demand, room: Room, available: usize) -> Result<()> {
    let weights = if room.mapped { 0 } else { d.weights };
    let needed = d.total() - d.weights + weights + room.beside;
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
        mib(room.beside),
        available >> 20
    ))
    .fix("lower --batch or --image, or raise --width; `deep-affect plan` shows what a choice needs"))
}

/// Bytes that can still be had before the system starts to kill: of the machine and of every control group this process
/// is in. None where the system does not tell.
pub fn available() -> Option<usize> {
    available_at(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn available_at(proc: &Path, groups: &Path) -> Option<usize> {
    let meminfo = std::fs::read_to_string(proc.join("meminfo")).ok()?;
    let machine = field(&meminfo, "MemAvailable:")? * 1024;
    let of_groups = of_process(proc, groups).into_iter().filter_map(|(dir, names)| left(&dir, names));
    Some(of_groups.fold(machine, usize::min))
}

/// Names of a control group's limit, usage and droppable part of the usage, in version 2 and in version 1.
type Names = [&'static str; 3];
const V2: Names = ["memory.max", "memory.current", "inactive_file"];
const V1: Names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];

/// Folders of the control groups of this process, from its own to the root.
fn of_process(proc: &Path, groups: &Path) -> Vec<(PathBuf, Names)> {
    let text = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let mut all = vec![];
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, names) = match controllers {
            "" => (groups.to_path_buf(), V2),
            c if c.split(',').any(|c| c == "memory") => (groups.join("memory"), V1),
            _ => continue,
        };
        // Inside a container the path may be the host's, of which only the root can be seen.
        let mut dir = root.join(path.trim_start_matches('/'));
        while dir.starts_with(&root) {
            all.push((dir.clone(), names));
            if !dir.pop() {
                break;
            }
        }
    }
    all
}

/// What a control group has left; None where it has no limit.
fn left(dir: &Path, [limit, usage, droppable]: Names) -> Option<usize> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<usize>().ok();
    let (limit, used) = (number(limit)?, number(usage)?);
    let cached = read("memory.stat").and_then(|s| field(&s, droppable)).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<usize> {
    text.lines()
        .find_map(|l| l.split_whitespace().next().filter(|w| *w == name).and(l.split_whitespace().nth(1)))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_narrowest_limit_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, groups) = (dir.path().join("proc"), dir.path().join("groups"));
        let now = || available_at(&proc, &groups);
        assert_eq!(now(), None);
        file(proc.join("meminfo"), "MemTotal:  900 kB\nMemAvailable:  800 kB\n");
        assert_eq!(now(), Some(800 << 10));
        // Version 2: the limit is on the parent; the page cache can be dropped.
        file(proc.join("self/cgroup"), "0::/a/b\n");
        file(groups.join("a/b/memory.max"), "max\n");
        file(groups.join("a/b/memory.current"), "1000\n");
        file(groups.join("a/memory.max"), "5000\n");
        file(groups.join("a/memory.current"), "3000\n");
        file(groups.join("a/memory.stat"), "anon 1000\ninactive_file 1500\n");
        assert_eq!(now(), Some(3500));
        // Version 1, in a container that sees only its own root.
        file(proc.join("self/cgroup"), "5:cpu:/x\n3:memory,hugetlb:/host/path\n");
        file(groups.join("memory/memory.limit_in_bytes"), "7000\n");
        file(groups.join("memory/memory.usage_in_bytes"), "6000\n");
        assert_eq!(now(), Some(1000));
    }

    #[test]
    fn what_does_not_fit_is_said_in_one_line() {
        let d = Demand { weights: 300 << 20, state: 0, inputs: 0, arena: 100 << 20, scratch: 0 };
        assert!(check(&d, Room::default(), 400 << 20).is_ok());
        let e = check(&d, Room { beside: 1, ..Room::default() }, 400 << 20).unwrap_err().to_string();
        assert!(e.contains("401 MiB of memory are needed") && e.contains("400 MiB are available"), "{e}");
        assert!(check(&d, Room { mapped: true, beside: 0 }, 100 << 20).is_ok());
    }
}
