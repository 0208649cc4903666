//! How much memory there is: asked before much is taken, because afterwards the system answers by killing.

use std::path::{Path, PathBuf};

/// Bytes that can still be had before the system starts to kill or to refuse: of the machine, of every control group this
/// process is in, and of its address space. None where the system does not tell.
pub fn available() -> Option<usize> {
    available_at(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

/// Largest resident set of this process so far, MiB; None where the system does not tell.
pub fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(field(&status, "VmHWM:")? as f64 / 1024.0)
}

/// What a limit on addresses (`ulimit -v`) leaves; None without one.
fn addresses(proc: &Path) -> Option<usize> {
    let read = |name: &str| std::fs::read_to_string(proc.join("self").join(name)).ok();
    let limits = read("limits")?;
    let line = limits.lines().find_map(|l| l.strip_prefix("Max address space"))?;
    // A word where there is no limit.
    let limit: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(1024 * field(&read("status")?, "VmSize:")?))
}

fn available_at(proc: &Path, groups: &Path) -> Option<usize> {
    let meminfo = std::fs::read_to_string(proc.join("meminfo")).ok()?;
    let machine = field(&meminfo, "MemAvailable:")? * 1024;
    let of_groups = of_process(proc, groups).into_iter().filter_map(|(dir, names)| left(&dir, names));
    Some(of_groups.chain(addresses(proc)).fold(machine, usize::min))
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
        // Addresses, of which the process has some.
        file(proc.join("self/status"), "Name: x\nVmSize:  4 kB\n");
        file(
            proc.join("self/limits"),
            "Limit  Soft Limit  Hard Limit  Units\nMax address space  4500  unlimited  bytes\n",
        );
        assert_eq!(now(), Some(404));
        file(proc.join("self/limits"), "Max address space         unlimited            unlimited            bytes\n");
        assert_eq!(now(), Some(1000));
    }
}
