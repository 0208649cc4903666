//! Promise 9: whatever a disk answers, the checkpoint before stays, and one line names the file and the cause. The real
//! program runs with `faults.c` before the system's library, which makes the n-th call fail, or ends the process in it. And
//! what has to hold where the machine loses its power is read from the calls themselves.

use crate::common::each;
use crate::runs::{self, CHECKPOINT, folder, program, results, strays, text, train};
use crate::{Form, Line, must};
use deep_affect::train::checkpoint;
use deep_affect::weights::WeightFile;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// No space left, I/O error, permission denied.
const ERRORS: [i32; 3] = [libc::ENOSPC, libc::EIO, libc::EACCES];
const CALLS: [&str; 8] = ["open", "write", "fsync", "rename", "close", "link", "unlink", "mkdir"];
/// What a checkpoint may be interrupted in.
const FILES: [&str; 4] = ["checkpoint.safetensors", "predictions.csv", "report.html", "metrics.json"];

/// The library that is preloaded; why not, where it cannot be made.
fn library() -> Result<PathBuf, String> {
    if !cfg!(target_os = "linux") {
        return Err("calls are intercepted on Linux".into());
    }
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.so", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promises/faults.c");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&to).arg(source).output();
    match made {
        Ok(out) if out.status.success() => Ok(to),
        Ok(out) => panic!("{}", text(&out.stderr)),
        Err(e) => Err(format!("there is no cc: {e}")),
    }
}

/// What happens at which call, on paths with `path` in them.
#[derive(Clone)]
struct Fault {
    path: String,
    call: String,
    nth: usize,
    with: String,
}

struct Bench {
    library: PathBuf,
    /// A folder in which a run of two epochs has ended.
    old: TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.library);
    }
}

/// A call that the program made: its name, whether it failed, its paths.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    failed: bool,
    path: PathBuf,
    second: PathBuf,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy(&entry, &target),
            false => assert!(fs::copy(&entry, &target).is_ok()),
        }
    }
}

impl Bench {
    /// The old state, copied; the pictures' cache has to be made again.
    fn folder(&self) -> TempDir {
        // In memory where there is such a place: the calls are the same, and nobody waits for a disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        copy(self.old.path(), dir.path());
        fs::remove_dir_all(dir.path().join("run/cache")).unwrap();
        dir
    }

    fn under(&self, command: &mut Command, fault: &Fault) -> Output {
        command.env("LD_PRELOAD", &self.library).env("FAULT_PATH", &fault.path).env("FAULT_CALL", &fault.call);
        command.env("FAULT_NTH", fault.nth.to_string()).env("FAULT_WITH", &fault.with).output().unwrap()
    }

    fn calls(&self, command: &mut Command, path: &str) -> Vec<Call> {
        let log = tempfile::tempdir().unwrap();
        let out =
            command.env("LD_PRELOAD", &self.library).env("FAULT_PATH", path).env("FAULT_LOG", log.path().join("log"));
        let out = out.output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let lines = fs::read_to_string(log.path().join("log")).expect("the library sees no call");
        let call = |line: &str| {
            let mut parts = line.split('\t').map(String::from);
            let mut next = || parts.next().unwrap();
            Call { name: next(), failed: next() != "0", path: next().into(), second: next().into() }
        };
        lines.lines().map(call).collect()
    }
}

/// What a run leaves of a checkpoint is whole, whenever it was written.
fn whole(dir: &Path) -> Result<(), String> {
    let file = WeightFile::open(dir.join(CHECKPOINT)).map_err(|e| e.to_string())?;
    file.all_intact().and_then(|()| checkpoint::card(&file).map(drop)).map_err(|e| e.to_string())
}

/// One failing call in a run over an old one.
fn one(bench: &Bench, fault: &Fault, want: &[Vec<u8>; 2]) -> Option<String> {
    let dir = bench.folder();
    let out = bench.under(&mut program(dir.path(), &train("3", &[])), fault);
    let (err, name) = (text(&out.stderr), format!("{} {} with {}", fault.call, fault.nth, fault.with));
    must!(!err.contains("panicked"), "{name}: {err}");
    if let Err(e) = whole(dir.path()) {
        return Some(format!("{name}: {e}"));
    }
    if out.status.success() {
        // What can be done without may fail, or be done again.
        must!(results(dir.path()) == *want, "{name}: nothing is said, and the results are others");
        return None;
    }
    let lines: Vec<&str> = err.lines().filter(|l| l.starts_with("error: ")).collect();
    must!(out.status.code() == Some(1) && lines.len() == 1, "{name}: {:?}: {err}", out.status);
    let cause = format!("(os error {})", fault.with);
    must!(lines[0].starts_with("error: run") && lines[0].contains(&cause), "{name}: {}", lines[0]);
    must!(fault.call == "unlink" || strays(dir.path()).is_empty(), "{name}: {:?}", strays(dir.path()));
    // What is said of the files is so: the results are the old ones, or the new ones.
    let said = !lines[0].contains("nothing was overwritten") || !lines[0].contains("in place");
    must!(said, "{name}: contradicts itself: {}", lines[0]);
    None
}

/// The process ends in a call; then the run goes on.
fn ended(bench: &Bench, fault: &Fault, want: &[Vec<u8>; 2]) -> Option<String> {
    let dir = bench.folder();
    let more = ["--checkpoint-every", "0"];
    let out = bench.under(&mut program(dir.path(), &train("3", &more)), fault);
    let name = format!("{} {} with {}", fault.call, fault.nth, fault.with);
    must!(out.status.signal() == Some(9), "{name}: {:?}: {}", out.status, text(&out.stderr));
    if let Err(e) = whole(dir.path()) {
        return Some(format!("{name}: {e}"));
    }
    // A finished run of two epochs is not one of three that was begun.
    let finished = runs::state(dir.path()).finished;
    let again = train("3", if finished { &[] } else { &["--resume"] });
    let out = program(dir.path(), &again).output().unwrap();
    must!(out.status.success(), "{name}: {}", text(&out.stderr));
    must!(results(dir.path()) == *want, "{name}: other results");
    must!(strays(dir.path()).is_empty(), "{name}: {:?}", strays(dir.path()));
    None
}

/// What is wrong with the order of calls where the machine may lose its power after any of them: a file is renamed to its
/// name after its bytes were synced, and the folder is synced after that; no file is written under its own name.
fn judge(calls: &[Call]) -> BTreeSet<String> {
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut wrong, mut unsynced, mut unsettled) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for c in calls.iter().filter(|c| !c.failed) {
        let file = name(&c.path);
        match c.name.as_str() {
            "write" | "truncate" if !file.starts_with('.') => {
                wrong.insert(format!("{file} is written in place"));
            }
            "write" => drop(unsynced.insert(c.path.clone())),
            "fsync" => {
                unsynced.remove(&c.path);
                unsettled.remove(&c.path);
            }
            "rename" => {
                let to = name(&c.second);
                if unsynced.remove(&c.path) {
                    wrong.insert(format!("{to} is renamed before its bytes are synced"));
                }
                unsettled.insert(c.second.parent().unwrap_or(Path::new("/")).to_path_buf(), to);
            }
            _ => {}
        }
    }
    wrong.extend(unsettled.values().map(|to| format!("the folder of {to} is not synced after its rename")));
    wrong
}

/// Logs of writers that are wrong, each in one way; how many [`judge`] takes for right.
fn planted(bench: &Bench, calls: &[Call]) -> Line {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    // Writers as people write them.
    let sh = |script: &str| bench.calls(Command::new("sh").args(["-c", script]).current_dir(dir.path()), at);
    let mut logs = vec![
        ("a writer that does not sync", sh("echo new > .a.tmp; sync .; mv .a.tmp a; sync .")),
        ("a writer in place", sh("echo new > a; sync a .")),
    ];
    let without = |drop: &dyn Fn(&Call) -> bool| calls.iter().filter(|c| !drop(c)).cloned().collect::<Vec<_>>();
    let is_file = |c: &Call| c.path.extension().is_some_and(|e| e == "tmp");
    logs.push(("the program without syncing files", without(&|c| c.name == "fsync" && is_file(c))));
    logs.push(("the program without syncing folders", without(&|c| c.name == "fsync" && !is_file(c))));
    // A torn write: the last bytes come after the sync.
    let mut torn = calls.to_vec();
    let sync = torn.iter().position(|c| c.name == "fsync" && is_file(c)).unwrap();
    let last = torn[..sync].iter().rposition(|c| c.name == "write").unwrap();
    torn.swap(sync, last);
    logs.push(("the program with a torn write", torn));
    let missed = logs.iter().filter(|(_, log)| judge(log).is_empty()).map(|(name, _)| name.to_string()).collect();
    Line::all("planted writers found", logs.len(), missed)
}

pub fn faults(form: Form) -> Vec<Line> {
    let library = match library() {
        Ok(library) => library,
        Err(why) => return vec![Line::skipped("calls that fail", why)],
    };
    let old = folder();
    runs::good(old.path(), &train("2", &[]));
    let bench = Bench { library, old };
    let [reference, timed] = [&[][..], &["--checkpoint-every", "0"]].map(|more| {
        let dir = bench.folder();
        let calls = bench.calls(&mut program(dir.path(), &train("3", more)), "/run");
        (results(dir.path()), calls)
    });
    let (want, calls) = reference;
    let number = |calls: &[Call], name: &str| {
        calls.iter().filter(|c| c.name == name || (name == "open" && c.name == "truncate")).count()
    };

    let fault =
        |path: &str, call: &str, nth: usize, with: String| Fault { path: path.into(), call: call.into(), nth, with };
    let mut all = vec![];
    for call in CALLS {
        for error in ERRORS {
            all.extend((1..=number(&calls, call)).map(|nth| fault("/run", call, nth, error.to_string())));
        }
    }
    let some: Vec<Fault> = all.iter().step_by(form.of(7, 1)).cloned().collect();
    let mut lines = vec![Line::all("a call fails", some.len(), each(&some, |f| one(&bench, f, &want)))];

    // The disk is full, or broken, where one output is written.
    let mut each_file = vec![];
    for (file, call) in FILES.iter().flat_map(|f| ["open", "write", "fsync", "rename"].map(|c| (f, c))) {
        each_file.push(fault(&format!("/run/.{file}."), call, 1, libc::ENOSPC.to_string()));
    }
    // A rename is known by where it leads.
    each_file
        .iter_mut()
        .filter(|f| f.call == "rename")
        .for_each(|f| f.path = f.path.replace("/.", "/").trim_end_matches('.').into());
    let full = each(&each_file, |f| {
        let dir = bench.folder();
        let out = bench.under(&mut program(dir.path(), &train("3", &[])), f);
        let err = text(&out.stderr);
        let file = f.path.trim_start_matches("/run/").trim_matches('.');
        let named = err.lines().any(|l| l.starts_with(&format!("error: run/{file}: ")) && l.contains("os error 28"));
        must!(out.status.code() == Some(1) && named, "{file} {}: {:?} {err}", f.call, out.status);
        must!(strays(dir.path()).is_empty(), "{file} {}: {:?}", f.call, strays(dir.path()));
        whole(dir.path()).err()
    });
    lines.push(Line::all("no space for one of the outputs", each_file.len(), full));

    // What is no fault: calls that do a part, or are interrupted.
    let parts: Vec<Fault> = (1..=number(&calls, "write"))
        .map(|nth| fault("/run", "write", nth, "short".into()))
        .chain(["write", "fsync", "open"].map(|call| fault("/run", call, 1, libc::EINTR.to_string())))
        .collect();
    let parts: Vec<Fault> = parts.into_iter().step_by(form.of(3, 1)).collect();
    let told = each(&parts, |f| {
        let dir = bench.folder();
        let out = bench.under(&mut program(dir.path(), &train("3", &[])), f);
        must!(out.status.success(), "{} {}: {}", f.call, f.with, text(&out.stderr));
        must!(results(dir.path()) == want, "{} {}: other results", f.call, f.with);
        None
    });
    lines.push(Line::all("a call does a part, or is interrupted", parts.len(), told));

    let (want, calls) = timed;
    let ends = 1..=calls.len();
    let mut kills: Vec<Fault> = ends.map(|nth| fault("/run", "any", nth, "kill".into())).collect();
    kills.extend((1..=number(&calls, "write")).map(|nth| fault("/run", "write", nth, "torn".into())));
    let kills: Vec<Fault> = kills.into_iter().step_by(form.of(17, 1)).collect();
    lines.push(Line::all("killed in a call, and gone on with", kills.len(), each(&kills, |f| ended(&bench, f, &want))));

    let renames = calls.iter().filter(|c| c.name == "rename").count();
    assert!(renames >= 7, "only {renames} renames are seen: the judge is blind");
    lines.push(Line::all("files put in place, power lost at any call", renames, judge(&calls).into_iter().collect()));
    lines.push(planted(&bench, &calls));
    lines
}
