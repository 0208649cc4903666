//! Runs of the program on small data, as people start them, and what has to be true of what they leave.
#![allow(dead_code)] // Each test binary uses its part.

use deep_affect::train::checkpoint;
use deep_affect::weights::WeightFile;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

pub const CHECKPOINT: &str = "run/checkpoint.safetensors";

/// A folder with `set.csv` and 24 pictures.
pub fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("pictures")).unwrap();
    let mut table = String::from("path,valence,arousal,group,kind\n");
    for i in 0..24u32 {
        let path = format!("pictures/{i}.png");
        let pixel = |x: u32, y: u32| image::Rgb([(11 * i) as u8, (x * 5) as u8, (y * (i + 1)) as u8]);
        image::RgbImage::from_fn(40 + i, 30, pixel).save(dir.path().join(&path)).unwrap();
        let kind = ["sea", "sky"][i as usize % 2];
        table.push_str(&format!("{path},{},{},g{},{kind}\n", 1.0 + (i % 9) as f32, 8.5 - 0.25 * i as f32, i / 2));
    }
    fs::write(dir.path().join("set.csv"), table).unwrap();
    dir
}

pub const MODEL: [&str; 9] =
    ["--image", "32", "--width", "32", "--init-missing", "--head", "12,6", "--features", "object,scene"];
pub const TRAIN: [&str; 12] =
    ["train", "set.csv", "--out", "run", "--batch", "4", "--patience", "0", "--plateau", "20", "--threads", "1"];

pub fn program(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    c.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

pub fn train<'a>(epochs: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&TRAIN[..], &MODEL, &["--val", "0.2", "--epochs", epochs], more].concat()
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

pub fn good(dir: &Path, args: &[&str]) -> String {
    let out = program(dir, args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout).to_string()
}

/// The last line on stderr, which is the only one that says `error: `.
pub fn complaint(out: &Output) -> &str {
    let err = text(&out.stderr);
    assert!(!err.contains("panicked"), "{err}");
    assert_eq!(err.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{err}");
    let last = err.lines().last().unwrap();
    assert!(last.starts_with("error: "), "{err}");
    last
}

/// Every file below a folder.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// Files that no finished run leaves.
pub fn strays(dir: &Path) -> Vec<PathBuf> {
    let stray = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with('.');
    files(dir).into_iter().filter(stray).collect()
}

/// What a run is worth: the checkpoint and the predictions, byte for byte.
pub fn results(dir: &Path) -> [Vec<u8>; 2] {
    ["checkpoint.safetensors", "predictions.csv"].map(|f| fs::read(dir.join("run").join(f)).unwrap())
}

pub fn same(dir: &Path, want: &[Vec<u8>; 2]) {
    let got = results(dir);
    assert!(got[0] == want[0], "another checkpoint");
    assert!(got[1] == want[1], "other predictions");
    assert_eq!(strays(dir), [] as [PathBuf; 0]);
}

pub fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

pub fn state(dir: &Path) -> deep_affect::train::fit::State {
    checkpoint::card(&WeightFile::open(dir.join(CHECKPOINT)).unwrap()).unwrap().state
}

/// Flips one bit in the middle of the largest tensor.
pub fn damage(path: &Path) {
    let file = WeightFile::open(path).unwrap();
    let range = file.infos().iter().map(|t| t.range.clone()).max_by_key(|r| r.len()).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[range.start + range.len() / 2] ^= 4;
    fs::write(path, bytes).unwrap();
}
