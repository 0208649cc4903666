//! Promises 8, 10, 11: a run that is killed, told to stop, or whose files are damaged, goes on as if nothing had happened. And
//! folders that others touch too.

use crate::common::each;
use crate::runs::{
    CHECKPOINT, complaint, damage as flip, files, folder, good, program, results, signal, state, strays, text, train,
};
use crate::{Form, Line, must};
use deep_affect::atomic;
use deep_affect::rng::{Rng, Stream};
use deep_affect::weights::WeightFile;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// Seconds after which a measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so, as long as the process lives.
fn until(child: &mut Child, mut so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !so() {
        if child.try_wait().unwrap().is_some() {
            return so();
        }
        assert!(start.elapsed() < PATIENCE, "nothing happens");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// The step of the newest checkpoint; 0 where there is none.
fn step(dir: &Path) -> u32 {
    if dir.join(CHECKPOINT).exists() { state(dir).step } else { 0 }
}

/// Killed after a random update of each run, with a checkpoint after every update, until it has ended by itself.
pub fn kill(form: Form) -> Vec<Line> {
    let whole = folder();
    good(whole.path(), &train("12", &[]));
    let want = results(whole.path());
    let runs: Vec<u32> = (0..form.of(3, 40)).collect();
    let counts = std::sync::Mutex::new((0, 0u32));
    let complaints = each(&runs, |&run| {
        let (dir, mut rng) = (folder(), Rng::new(8, Stream::Test(run), 0));
        let p = dir.path();
        for kill in 0..5 {
            let (before, wait) = (step(p), 1 + rng.below(9) as u32);
            let args = ["--checkpoint-every", "0", "--resume"];
            let mut child = program(p, &train("12", &args[..if before > 0 { 3 } else { 2 }])).spawn().unwrap();
            if !until(&mut child, || step(p) >= before + wait) {
                break;
            }
            let seen = step(p);
            child.kill().unwrap();
            let out = child.wait_with_output().unwrap();
            must!(out.status.signal() == Some(9) || out.status.success(), "kill {kill}: {}", text(&out.stderr));
            // Between looking and killing it goes on; it never goes back.
            must!(step(p) >= seen, "kill {kill}: update {seen} was kept, and {} is there", step(p));
            let mut counts = counts.lock().unwrap();
            counts.0 += 1;
            counts.1 += u32::from(state(p).batches > 0);
        }
        good(p, &train("12", &["--resume"]));
        must!(results(p) == want, "other results");
        must!(strays(p).is_empty(), "{:?}", strays(p));
        None
    });
    let (kills, within) = *counts.lock().unwrap();
    // What is compared can differ.
    let other = folder();
    good(other.path(), &train("12", &["--seed", "2"]));
    let blind =
        Vec::from_iter((results(other.path()) == want).then(|| "another seed has the same results".to_string()));
    vec![
        Line::all(&format!("runs, killed {kills} times, {within} within an epoch"), runs.len(), complaints),
        Line::all("planted other runs found", 1, blind),
    ]
}

/// A checkpoint that is damaged in some way.
fn damaged(whole: &[u8], data: usize, kind: usize, rng: &mut Rng) -> (&'static str, Vec<u8>) {
    let mut bytes = whole.to_vec();
    let n = bytes.len();
    let at = data + rng.below(n - data);
    match kind % 5 {
        0 => {
            bytes[at] ^= 1 << rng.below(8);
            ("a bit", bytes)
        }
        1 => {
            bytes.truncate(rng.below(n));
            ("cut", bytes)
        }
        2 => {
            // What a disk gives back for a block that was never written.
            let end = (at + 4096).min(n);
            if bytes[at..end].iter().all(|b| *b == 0) {
                bytes[at] = 1;
            }
            bytes[at..end].fill(0);
            (if bytes == whole { "a bit" } else { "an empty block" }, bytes)
        }
        3 => {
            bytes[rng.below(data)] ^= 1 << rng.below(8);
            ("a bit of the header", bytes)
        }
        _ => {
            let other = data + rng.below(n - data);
            let (a, b) = (at.min(other), at.max(other));
            let length = 512.min(n - b).min(b - a);
            let (first, second) = bytes.split_at_mut(b);
            first[a..a + length].swap_with_slice(&mut second[..length]);
            ("two blocks exchanged", bytes)
        }
    }
}

pub fn damage(form: Form) -> Vec<Line> {
    let dir = folder();
    let p = dir.path();
    good(p, &train("4", &[]));
    let path = p.join(CHECKPOINT);
    let (whole, want) = (fs::read(&path).unwrap(), results(p));
    let data = WeightFile::open(&path).unwrap().infos().iter().map(|t| t.range.start).min().unwrap();
    // A byte of a header that says the same damaged or not would be no damage.
    let card = |path: &Path| -> deep_affect::error::Result<String> {
        let file = WeightFile::open(path)?;
        file.all_intact()?;
        let read = deep_affect::train::checkpoint::card(&file)?;
        let tensors: Vec<String> =
            file.infos().iter().map(|t| format!("{} {:?} {:?}", t.name, t.shape, t.range)).collect();
        Ok(format!("{} {}", serde_json::to_string(&read).unwrap(), tensors.join(" ")))
    };
    let said = card(&path).unwrap();
    let (mut rng, mut complaints, tries) = (Rng::new(10, Stream::Test(0), 0), vec![], form.of(300, 2000));
    let (mut tried, mut same) = (0, 0);
    let copy = p.join("damaged.safetensors");
    for kind in 0..tries {
        let (how, bytes) = damaged(&whole, data, kind, &mut rng);
        if bytes == whole {
            continue;
        }
        tried += 1;
        fs::write(&copy, &bytes).unwrap();
        match card(&copy) {
            Ok(now) if how == "a bit of the header" && now != said => {
                complaints.push(format!("{how} changes what is read"))
            }
            Ok(_) if how == "a bit of the header" => same += 1,
            Ok(_) => complaints.push(format!("{how} passes")),
            Err(_) => {}
        }
    }
    let mut lines = vec![Line::all(&format!("found ({same} in bytes that say nothing)"), tried, complaints)];

    // As people meet it: the rating is refused, and training goes on from the checkpoint before.
    let kinds: Vec<usize> = (0..form.of(10, 50)).collect();
    let told = each(&kinds, |&kind| {
        let (dir, mut rng) = (tempfile::tempdir().unwrap(), Rng::new(11, Stream::Test(kind as u32), 0));
        let q = dir.path();
        for file in files(p) {
            let to = q.join(file.strip_prefix(p).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&file, to).unwrap();
        }
        let (how, bytes) = damaged(&whole, data, kind, &mut rng);
        fs::write(q.join(CHECKPOINT), &bytes).unwrap();
        if how != "a bit of the header" {
            let out =
                program(q, &["predict", "pictures/3.png", "--model", CHECKPOINT, "--threads", "1"]).output().unwrap();
            must!(
                out.status.code() == Some(1) && out.stdout.is_empty(),
                "{how}: {:?} {}",
                out.status,
                text(&out.stdout)
            );
            must!(complaint(&out).contains("checkpoint.safetensors: "), "{how}: {}", complaint(&out));
        }
        let out = program(q, &train("4", &["--resume"])).output().unwrap();
        must!(out.status.success() && results(q) == want, "{how}: {}", text(&out.stderr));
        must!(WeightFile::open(q.join(CHECKPOINT)).and_then(|f| f.all_intact()).is_ok(), "{how}: kept");
        None
    });
    lines.push(Line::all("refused, and gone on from the one before", kinds.len(), told));
    // Both.
    flip(&path);
    flip(&atomic::previous(&path));
    let out = program(p, &train("4", &["--resume"])).output().unwrap();
    let said = !out.status.success() && complaint(&out).contains("the file is damaged");
    lines.push(Line::all(
        "refused where both are damaged",
        1,
        Vec::from_iter((!said).then(|| text(&out.stderr).into())),
    ));
    lines
}

pub fn signals(form: Form) -> Vec<Line> {
    let whole = folder();
    good(whole.path(), &train("40", &[]));
    let want = results(whole.path());
    let each_signal = [("-INT", 130), ("-TERM", 143), ("-HUP", 143), ("-USR1", 0)];
    let tries: Vec<(usize, (&str, i32))> = (0..form.of(2, 15)).flat_map(|n| each_signal.map(|s| (n, s))).collect();
    let ended = std::sync::atomic::AtomicUsize::new(0);
    let complaints = each(&tries, |&(n, (name, code))| {
        let (dir, mut rng) = (folder(), Rng::new(12, Stream::Test(n as u32), code as u32));
        let p = dir.path();
        // Not as under `nohup`.
        let mut command = program(p, &[]);
        let mut env = std::process::Command::new("env");
        env.arg("--default-signal=HUP").arg(command.get_program()).args(train("40", &[])).current_dir(p);
        command = env;
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        until(&mut child, || p.join(CHECKPOINT).exists());
        std::thread::sleep(Duration::from_millis(rng.below(150) as u64));
        signal(&child, name);
        let out = child.wait_with_output().unwrap();
        let got = out.status.code();
        must!(got == Some(code) || got == Some(0), "{name}: {:?} {}", out.status, text(&out.stderr));
        if got == Some(0) && name != "-USR1" {
            ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if got == Some(code) && code != 0 {
            must!(complaint(&out).starts_with("error: stopped "), "{name}: {}", complaint(&out));
            good(p, &train("40", &["--resume"]));
        }
        must!(results(p) == want && strays(p).is_empty(), "{name}: other results");
        None
    });
    let late = ended.into_inner();
    vec![Line::all(&format!("stopped, and gone on with ({late} came too late)"), tries.len(), complaints)]
}

/// Starts a run that has long to go, and waits for its first checkpoint.
fn under_way(dir: &Path) -> Child {
    let mut child = program(dir, &train("100000", &[])).spawn().unwrap();
    assert!(until(&mut child, || dir.join(CHECKPOINT).exists()), "the run ended before its first checkpoint");
    child
}

/// One folder under two processes, a folder that goes away, locks and caches that others left.
pub fn folders(form: Form) -> Vec<Line> {
    let mut lines = vec![];
    let dir = folder();
    let p = dir.path();

    // A second process with the same --out.
    let mut first = under_way(p);
    let mut complaints = vec![];
    for (command, more) in [("train", &[][..]), ("train", &["--resume"]), ("cross-validate", &["--folds", "2"])] {
        let mut args = train("2", more);
        args[0] = command;
        if command == "cross-validate" {
            args.retain(|a| !["--val", "0.2"].contains(a));
        }
        let out = program(p, &args).output().unwrap();
        let line = text(&out.stderr).lines().last().unwrap_or_default().to_string();
        if out.status.code() != Some(1) || !line.starts_with("error: run: ") || !line.contains("another process") {
            complaints.push(format!("{command} {more:?}: {:?} {line}", out.status));
        }
        if first.try_wait().unwrap().is_some() {
            complaints.push("the first process ended".into());
        }
    }
    first.kill().unwrap();
    first.wait().unwrap();
    lines.push(Line::all("a second process with one --out is refused", 3, complaints));
    // The lock goes with its process.
    let out = program(p, &train("2", &[])).output().unwrap();
    let stale = Vec::from_iter((!out.status.success()).then(|| text(&out.stderr).to_string()));
    lines.push(Line::all("a lock of a killed process holds nobody", 1, stale));
    let want = results(p);

    // Files that killed processes leave; those of the living are theirs.
    for name in [".checkpoint.safetensors.99999-0.tmp", ".report.html.4194304-7.tmp", ".metrics.json.1-1.tmp"] {
        fs::write(p.join("run").join(name), "half").unwrap();
    }
    good(p, &train("2", &[]));
    let left = strays(p).iter().map(|f| format!("{} is still there", f.display())).collect();
    lines.push(Line::all("stale temporary files are removed", 3, left));

    // The folder is removed, or becomes a file, or read-only in mid-run.
    let mut complaints = vec![];
    type Change = fn(&Path);
    let ways: [(&str, Change); 2] = [
        ("removed", |run| {
            let aside = run.with_file_name("aside");
            // In one instant, whatever the run does meanwhile.
            fs::rename(run, &aside).unwrap();
            fs::remove_dir_all(aside).unwrap();
        }),
        ("replaced by a file", |run| {
            fs::rename(run, run.with_file_name("aside")).unwrap();
            fs::write(run, "").unwrap();
        }),
    ];
    for (how, change) in ways {
        let dir = folder();
        let mut child = program(dir.path(), &train("100000", &["--checkpoint-every", "0"])).spawn().unwrap();
        until(&mut child, || dir.path().join(CHECKPOINT).exists());
        change(&dir.path().join("run"));
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap_or_default();
        let out = child.wait_with_output().unwrap();
        let line = text(&out.stderr).lines().last().unwrap_or_default().to_string();
        if out.status.code() != Some(1) || !line.starts_with("error: run/") || !line.contains("os error") {
            complaints.push(format!("{how}: {:?} {line}", out.status));
        }
    }
    lines.push(Line::all("an output folder that goes away is named", ways.len(), complaints));

    // One cache under several processes at once: made, found, and made again.
    let rounds: Vec<usize> = (0..form.of(2, 20)).collect();
    let mut complaints = vec![];
    for round in &rounds {
        let cache = p.join("shared-cache");
        if round % 2 == 0 {
            let _ = fs::remove_dir_all(&cache);
        }
        let outs = ["a", "b", "c"];
        let start = |out: &&str| {
            let mut args = train("2", &["--cache", "shared-cache"]);
            *args.iter_mut().find(|a| **a == "run").unwrap() = out;
            program(p, &args).spawn().unwrap()
        };
        let children: Vec<Child> = outs.iter().map(start).collect();
        for (out, child) in outs.iter().zip(children) {
            let ended = child.wait_with_output().unwrap();
            let got = ["checkpoint.safetensors", "predictions.csv"]
                .map(|f| fs::read(p.join(out).join(f)).unwrap_or_default());
            if !ended.status.success() || got != want {
                complaints.push(format!("round {round}: {}", text(&ended.stderr)));
            }
        }
        complaints.extend(strays(&cache).iter().map(|f| format!("{} is left", f.display())));
    }
    lines.push(Line::all("processes that share a cache of pictures", 3 * rounds.len(), complaints));
    lines.push(kernels(p));
    lines
}

/// One cache of kernels under two processes.
fn kernels(p: &Path) -> Line {
    const NAME: &str = "processes that share a cache of kernels";
    if !crate::common::have("sim") {
        return Line::skipped(NAME, "no simulator");
    }
    let cache = p.join("kernels-of-two");
    let mut complaints = vec![];
    // Made by two at once, found by two at once.
    for round in 0..2 {
        let start = |_| {
            let args = ["predict", "pictures/1.png", "--model", CHECKPOINT, "--device", "sim", "--format", "csv"];
            program(p, &args).env("DEEP_AFFECT_CACHE", &cache).spawn().unwrap()
        };
        let children: Vec<Child> = (0..2).map(start).collect();
        let outs: Vec<_> = children.into_iter().map(|c| c.wait_with_output().unwrap()).collect();
        if outs.iter().any(|o| !o.status.success() || o.stdout != outs[0].stdout) {
            complaints.push(format!("round {round}: {}", text(&outs[0].stderr)));
        }
    }
    complaints.extend(strays(&cache).iter().map(|f| format!("{} is left", f.display())));
    Line::all(NAME, 4, complaints)
}
