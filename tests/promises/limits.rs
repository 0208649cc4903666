//! Promises 12, 19 and 20: memory that is limited, many pictures, and what the program is built from.

use crate::common::each;
use crate::files::measured;
use crate::runs::{CHECKPOINT, folder, good, program, text, train};
use crate::{Form, Line, must};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: usize = 1 << 20;

/// The resident set of a process, in MiB.
fn resident(id: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let kib: f64 = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())?;
    Some(kib / 1024.0)
}

/// The loop of predictions: what memory grows by, and how many descriptors and threads there are at its end.
pub fn soak(form: Form) -> Vec<Line> {
    const NAME: &str = "memory, of 10,000 predictions";
    if !cfg!(target_os = "linux") {
        return vec![Line::skipped(NAME, "memory is measured on Linux")];
    }
    let dir = folder();
    let p = dir.path();
    good(p, &train("2", &[]));
    let rounds = form.of(200, 2_500);
    let all = fs::read_dir(p.join("pictures")).unwrap();
    let all: String = all.map(|e| format!("pictures/{}\n", e.unwrap().file_name().display())).collect();
    fs::write(p.join("list.txt"), all.repeat(rounds)).unwrap();
    let args = ["predict", "--model", CHECKPOINT, "--format", "jsonl", "--threads", "2", "--batch", "8"];
    let list = ["--list", "list.txt"];
    let mut child = program(p, &[&args[..], &list].concat()).stderr(Stdio::null()).spawn().unwrap();
    let id = child.id();
    let count = |what: &str| fs::read_dir(format!("/proc/{id}/{what}")).map_or(0, |d| d.count());
    let (mut points, mut counts, total) = (vec![], vec![], 24 * rounds);
    for (i, line) in BufReader::new(child.stdout.take().unwrap()).lines().enumerate() {
        line.unwrap();
        if i > total / 4 && i % (total / 100).max(1) == 0 {
            points.extend(resident(id).map(|mib| (i as f64, mib)));
            counts.push((count("fd"), count("task")));
        }
    }
    assert!(child.wait().unwrap().success() && points.len() > 30, "{} points", points.len());
    // The line of least squares through what was seen after a quarter.
    let n = points.len() as f64;
    let [x, y] = [points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n];
    let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
        / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
    let grown = |of: fn(&(usize, usize)) -> usize| {
        let counts: Vec<usize> = counts.iter().filter(|c| c.0 > 0).map(of).collect();
        counts.last().unwrap_or(&0).saturating_sub(counts[0])
    };
    vec![
        Line::most(&format!("memory, by {total} predictions"), 10_000.0 * slope, 1.0, "MiB in 10,000"),
        Line::most("descriptors and threads", (grown(|c| c.0) + grown(|c| c.1)) as f64, 0.0, "more"),
    ]
}

/// A control group within the own one, of version 2 or 1, removed when dropped.
struct Group {
    dir: PathBuf,
    limit: &'static str,
}

impl Group {
    /// One with so much memory; None where none can be made.
    fn new(bytes: usize) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let (root, limit) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max"),
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                _ => return None,
            };
            let own = Path::new(root).join(path.trim_start_matches('/'));
            let group = Self { dir: own.join(format!("promises-{}", std::process::id())), limit };
            fs::create_dir(&group.dir).ok()?;
            group.set(bytes).ok()?;
            Some(group)
        })
    }

    /// The file comes with the folder, if this is a folder of groups.
    fn set(&self, bytes: usize) -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(self.dir.join(self.limit))?;
        file.write_all(bytes.to_string().as_bytes())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

/// A program with so much memory: of a control group, or of addresses.
fn limited(dir: &Path, args: &[&str], bytes: usize, group: Option<&Group>) -> Command {
    let mut c = match group {
        Some(group) => {
            let mut c = Command::new("sh");
            c.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.dir.join("cgroup.procs"));
            c
        }
        None => {
            let mut c = Command::new("prlimit");
            c.arg(format!("--as={bytes}"));
            c
        }
    };
    c.arg(env!("CARGO_BIN_EXE_deep-affect")).args(args).current_dir(dir).env_remove("RUST_BACKTRACE");
    c
}

/// Jobs under limits of memory: done, or refused in one line; never killed.
pub fn memory(_: Form) -> Vec<Line> {
    const NAME: &str = "jobs under limits of memory";
    let dir = folder();
    let p = dir.path();
    good(p, &train("2", &[]));
    let profile =
        |batch| ["profile", "--pass", "train", "--batch", batch, "--image", "224", "--width", "4", "--repeat", "1"];
    let [small, large] = ["1", "512"].map(profile);
    let jobs: Vec<Vec<&str>> = vec![
        train("2", &[]),
        large.to_vec(),
        small.to_vec(),
        vec!["predict", "pictures", "--threads", "1", "--model", CHECKPOINT],
        vec!["gradcheck", "vgg11", "--elements", "1"],
    ];
    let group = Group::new(64 * MIB);
    if group.is_none() && Command::new("prlimit").arg("--version").output().is_err() {
        return vec![Line::skipped(NAME, "no control group can be made, and there is no prlimit")];
    }
    let by = if group.is_some() { "a control group" } else { "addresses" };
    let (mut tried, mut done, mut complaints) = (0, 0, vec![]);
    for mib in [96, 160, 256, 512, 1024] {
        for job in &jobs {
            if let Some(group) = &group {
                group.set(mib * MIB).unwrap();
            }
            tried += 1;
            let (out, ..) = measured(&mut limited(p, job, mib * MIB, group.as_ref()));
            let err = text(&out.stderr);
            let lines = err.lines().filter(|l| l.starts_with("error: ")).count();
            match out.status.code() {
                Some(0) => done += 1,
                Some(1) if lines == 1 && !err.contains("panicked") => {}
                _ => complaints.push(format!("{mib} MiB, {}: {:?} {}", job[..2].join(" "), out.status, last(err))),
            }
        }
    }
    assert!(0 < done && done < tried, "{done} of {tried} were done: the limits are no limits");
    vec![Line::all(&format!("jobs under limits of {by} ({done} done)"), tried, complaints)]
}

fn last(text: &str) -> String {
    text.lines().last().unwrap_or_default().chars().take(200).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the sources.
fn sources() -> Vec<PathBuf> {
    crate::runs::files(&root().join("src")).into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs")).collect()
}

pub fn supply(form: Form) -> Vec<Line> {
    let mut lines = vec![];
    let mut blocks = 0;
    let bare = each(&sources(), |path| {
        let text = fs::read_to_string(path).unwrap();
        let all: Vec<&str> = text.lines().collect();
        let unsafe_at = |l: &str| {
            let l = l.trim_start();
            !l.starts_with("//") && (l.contains("unsafe {") || l.contains("unsafe impl"))
        };
        let at: Vec<usize> = (0..all.len()).filter(|&i| unsafe_at(all[i])).collect();
        let reason = |&i: &usize| all[i.saturating_sub(8)..=i].iter().any(|l| l.contains("SAFETY:"));
        let bare: Vec<String> = at.iter().filter(|i| !reason(i)).map(|i| (i + 1).to_string()).collect();
        must!(bare.is_empty(), "{}: lines {}", path.display(), bare.join(", "));
        None
    });
    for path in sources() {
        blocks += fs::read_to_string(path).unwrap().matches("unsafe {").count();
    }
    lines.push(Line::all(&format!("files, a reason at each of {blocks} unsafe blocks"), sources().len(), bare));
    if form == Form::Full {
        lines.push(twice());
    }
    lines
}

/// Two builds, in folders of different names, have the same bytes.
fn twice() -> Line {
    const NAME: &str = "clean builds with the same bytes";
    let Some(cargo) = std::env::var_os("CARGO") else { return Line::skipped(NAME, "cargo does not run this") };
    // Not the records of measurements; the manifest names files of `tests` and `benches`.
    let files = ["ls-files", "-z", "--", ":!benches/peers", ":!benches/results"];
    let listed = Command::new("git").args(files).current_dir(root()).output();
    let Ok(listed) = listed.map(|o| o.stdout) else { return Line::skipped(NAME, "there is no git") };
    let dir = tempfile::tempdir().unwrap();
    let sums: Vec<String> = ["one", "another/place"]
        .into_iter()
        .map(|name| {
            let to = dir.path().join(name);
            for file in text(&listed).split('\0').filter(|f| !f.is_empty()) {
                fs::create_dir_all(to.join(file).parent().unwrap()).unwrap();
                fs::copy(root().join(file), to.join(file)).unwrap();
            }
            let mut build = Command::new(&cargo);
            build
                .args(["build", "--release", "--locked", "--bin", "deep-affect"])
                .current_dir(&to)
                .env_remove("CARGO_TARGET_DIR");
            let out = build.output().unwrap();
            assert!(out.status.success(), "{}", text(&out.stderr));
            let bytes = fs::read(to.join("target/release/deep-affect")).unwrap();
            fs::remove_dir_all(&to).unwrap();
            format!("{:032x}", deep_affect::hash::content(&bytes))
        })
        .collect();
    let apart = Vec::from_iter((sums[0] != sums[1]).then(|| sums.join(" and ")));
    Line::all(NAME, 2, apart)
}
