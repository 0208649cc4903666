//! What a training run keeps in memory, as the system counts it, against what `plan` says. Elsewhere than on Linux nothing is
//! measured, and that is printed.

use deep_affect::models::{TOWER, Tower};
use deep_affect::preprocess::Preprocess;
use deep_affect::train::network::{Precision, Task};
use deep_affect::weights::init::{Rule, draw};
use deep_affect::weights::write::{Entry, write};
use deep_affect::weights::{LAYOUT, PREPROCESS};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const MIB: f64 = 1024.0 * 1024.0;

/// A folder with twelve pictures, their ratings, and a tower whose weights are most of what any run of it needs.
fn folder() -> (TempDir, f64) {
    let dir = tempfile::tempdir().unwrap();
    let mut table = String::from("path,valence,arousal\n");
    for i in 0..12u32 {
        let pixel = |x: u32, y: u32| image::Rgb([(20 * i) as u8, (x * 4) as u8, (y * 3) as u8]);
        image::RgbImage::from_fn(64, 64, pixel).save(dir.path().join(format!("{i}.png"))).unwrap();
        table.push_str(&format!("{i}.png,{},{}\n", 1 + i % 9, 8 - i % 7));
    }
    fs::write(dir.path().join("set.csv"), table).unwrap();
    let mut tower = Tower::published("object", 1000).unwrap();
    (tower.width, tower.dense) = (2, vec![4096, 4096]);
    tower.preprocess = Preprocess::preset("unit").unwrap();
    let (g, _, _) = Task::Tower { tower: tower.clone(), image: 64 }.evaluation(1, Precision::Float32).unwrap();
    let one = |v| {
        let (name, shape) = (g.name(v).strip_prefix("object.").unwrap().to_string(), g.dims(v).to_vec());
        let values = draw(&name, &shape, 1, Rule::He).unwrap();
        (name, shape, values)
    };
    let weights: Vec<(String, Vec<usize>, Vec<f32>)> = g.stored().map(one).collect();
    let metadata = [
        (LAYOUT, "KRSC".to_string()),
        (PREPROCESS, serde_json::to_string(&tower.preprocess).unwrap()),
        (TOWER, serde_json::to_string(&tower).unwrap()),
    ];
    let entries: Vec<Entry> = weights.iter().map(|(n, s, x)| Entry::f32(n, s, x)).collect();
    let path = dir.path().join("tower.safetensors");
    write(&path, &metadata.map(|(k, v)| (k.to_string(), v)).into(), &entries).unwrap();
    let bytes = fs::metadata(&path).unwrap().len();
    (dir, bytes as f64 / MIB)
}

fn program(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    c.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

/// Runs to the end, or until it has written a checkpoint and is told to stop: the largest resident set, and of that the
/// largest part that lies in no file, in MiB.
fn measured(dir: &Path, args: &[&str], to_the_end: bool) -> [f64; 2] {
    let checkpoint = || fs::metadata(dir.join("run/checkpoint.safetensors")).and_then(|m| m.modified()).ok();
    let (before, mut told) = (checkpoint(), to_the_end);
    let mut child = program(dir, args).spawn().unwrap();
    let (status, mut most) = (format!("/proc/{}/status", child.id()), [0f64; 2]);
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        for (most, name) in most.iter_mut().zip(["VmHWM:", "RssAnon:"]) {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            *most = most.max(line.unwrap_or(0.0) / 1024.0);
        }
        if !told && checkpoint() != before {
            told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let out = child.wait_with_output().unwrap();
    let code = if to_the_end { 0 } else { 143 };
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    most
}

const MODEL: [&str; 14] = [
    "--features",
    "object,scene",
    "--image",
    "64",
    "--width",
    "2",
    "--weights",
    "object=tower.safetensors",
    "--init-missing",
    "--batch",
    "4",
    "--device",
    "cpu",
    "--tower-image=object=64",
];
const TRAIN: [&str; 7] = ["train", "set.csv", "--out", "run", "--patience", "0", "--epochs"];

/// `plan` says 20 MiB for the program itself.
const PROGRAM: f64 = 20.0;

#[test]
fn a_run_needs_what_plan_says() {
    if !cfg!(target_os = "linux") {
        println!("skipped: resident memory is measured on Linux");
        return;
    }
    let (dir, tower) = folder();
    for freeze in [&[][..], &["--freeze", "object"]] {
        let plan = [&["plan", "--json", "--pass", "train"], &MODEL[..], freeze].concat();
        let out = program(dir.path(), &plan).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let plan: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let planned = plan["expected_peak_bytes"].as_f64().unwrap() / MIB;
        // A run that ends; one that keeps the best weights and a checkpoint and is stopped; one that goes on from there.
        for (epochs, more, to_the_end) in [("2", &[][..], true), ("1000", &[], false), ("1000", &["--resume"], false)] {
            if more.is_empty() {
                let _ = fs::remove_dir_all(dir.path().join("run"));
            }
            let args = [&TRAIN[..], &[epochs], &MODEL, freeze, more].concat();
            let [most, _] = measured(dir.path(), &args, to_the_end);
            println!("{freeze:?} {more:?}: planned {planned:.1} + {PROGRAM} MiB, resident {most:.1} MiB");
            let near = (most - planned - PROGRAM).abs() / (planned + PROGRAM);
            assert!(near <= 0.05, "{freeze:?} {more:?}: {most:.1} MiB, {planned:.1} + {PROGRAM} planned");
        }
    }
    // Towers that stay in their file: what else there is is small beside them.
    let alone =
        [&TRAIN[..], &["2"], &MODEL[2..], &["--features", "object", "--head", "16", "--freeze", "all"]].concat();
    fs::remove_dir_all(dir.path().join("run")).unwrap();
    let [_, own] = measured(dir.path(), &alone, true);
    println!("all frozen: {own:.1} MiB beside a file of {tower:.1} MiB");
    assert!(own < 0.5 * tower, "{own:.1} MiB are no file's, {tower:.1} MiB are the tower's");
}
