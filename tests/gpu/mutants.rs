//! Planted bugs: each changes one place of one kernel, and the checks of this file's neighbours must find it on the
//! simulator. What they miss is listed; at least 95 % must be found.

use super::common;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One bug: where, what it is called, the text that is replaced (which occurs once) and by what, and the cases that run.
struct Mutant {
    file: &'static str,
    bug: &'static str,
    from: &'static str,
    to: &'static str,
    cases: &'static str,
}

const fn m(file: &'static str, bug: &'static str, from: &'static str, to: &'static str, cases: &'static str) -> Mutant {
    Mutant { file, bug, from, to, cases }
}

const MUTANTS: &[Mutant] = &[m(
    "common.cuh",
    "the last few elements are dropped",
    "for (; i < n; i++) f(",
    "for (; i + 1 < n; i++) f(",
    "add",
)];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy(&entry, &target),
            false => assert!(std::fs::copy(&entry, &target).is_ok()),
        }
    }
}

/// Runs the checks on a changed copy of the kernels, in a process of its own; the first complaint, if there is one.
fn run(mutant: &Mutant) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"), dir.path());
    let path: PathBuf = dir.path().join(mutant.file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(mutant.from).count(), 1, "{}: `{}` occurs once", mutant.file, mutant.from);
    std::fs::write(&path, text.replace(mutant.from, mutant.to)).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["kernels_", "same_bits", "grouped_", "nan_", "--nocapture", "--test-threads=1"])
        .env("DEEP_AFFECT_KERNELS", dir.path())
        .env("DEEP_AFFECT_CACHE", dir.path())
        .env("CASES", mutant.cases)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!told.contains("SKIPPED on sim") && !told.contains("\n0 checked"), "{}: nothing ran:\n{told}", mutant.bug);
    let complaint = told.lines().find_map(|l| l.split_once(" on sim: ").map(|(_, what)| what.to_string()));
    match output.status.success() {
        true => None,
        false => Some(complaint.unwrap_or_else(|| panic!("{}: failed without a complaint:\n{told}", mutant.bug))),
    }
}

#[test]
fn planted_bugs_are_found() {
    if !common::have("sim") {
        return;
    }
    let table = std::sync::Mutex::new(vec![]);
    let missed = common::each(MUTANTS, |mutant| {
        let found = run(mutant);
        let how = found.clone().unwrap_or_else(|| "MISSED".into());
        table.lock().unwrap().push(format!("{:<22} {:<58} {how}", mutant.file, mutant.bug));
        found.is_none().then(|| mutant.bug.to_string())
    });
    let mut table = table.into_inner().unwrap();
    table.sort();
    println!("{}", table.join("\n"));
    println!("{} of {} planted bugs found", MUTANTS.len() - missed.len(), MUTANTS.len());
    assert!(MUTANTS.len() >= 40);
    assert!(missed.len() * 20 <= MUTANTS.len(), "missed: {missed:?}");
}
