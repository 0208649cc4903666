//! The golden files on every device, and files that are wrong.

mod common;

use deep_affect::conform::{self, CaseResult, Status};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn all() -> Vec<PathBuf> {
    let files = std::fs::read_dir(golden("")).unwrap().map(|f| f.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    files.sort();
    files
}

/// Subjects of host arithmetic, the same on every device: once is enough, and linear SVR to 1e-10 takes five seconds.
const HOST: [&str; 7] = [
    "svm.safetensors",
    "features.safetensors",
    "metrics.safetensors",
    "imagedatagenerator.safetensors",
    "resize_opencv.safetensors",
    "cppn.safetensors",
    "mapelites.safetensors",
];
/// Of these the last are pictures, held to the weights between pixels that are whole 256ths or 2048ths.
const PICTURES: [&str; 2] = ["imagedatagenerator", "resize_opencv"];

fn check(device: &str, rows_expected: usize) {
    let host = |p: &PathBuf| HOST.iter().any(|h| p.ends_with(h));
    let files: Vec<PathBuf> = all().into_iter().filter(|p| device == "reference" || !host(p)).collect();
    let rows = conform::run(&files, device).unwrap();
    println!("{}", conform::table(&rows));
    let failed: Vec<&CaseResult> = rows.iter().filter(|r| r.status != Status::Pass).collect();
    assert!(failed.is_empty(), "failed or unsupported: {failed:#?}");
    assert_eq!(conform::exit_code(&rows), 0);
    // Every expected tensor of the file has a row, and a tolerance of 1 would accept nothing at all as an answer.
    assert_eq!(rows.len(), rows_expected);
    let loose: Vec<&CaseResult> = rows
        .iter()
        .filter(|r| r.tolerance.is_some_and(|t| t > if PICTURES.contains(&&*r.op) { 5e-3 } else { 2e-4 }))
        .collect();
    assert!(loose.is_empty(), "{loose:#?}");
}

#[test]
fn reference_agrees_with_pytorch() {
    check("reference", 943);
}

#[test]
fn cpu_agrees_with_pytorch() {
    check("cpu", 737);
}

#[test]
fn sim_agrees_with_pytorch() {
    if common::have("sim") {
        check("sim", 737);
    }
}

/// Writes a changed copy of a golden file.
fn changed(dir: &tempfile::TempDir, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(golden(name)).unwrap();
    change(&mut bytes);
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Where a tensor's bytes begin.
fn offset(bytes: &[u8], tensor: &str) -> usize {
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    8 + n + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize
}

/// Replaces equally long text in the header.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn one_changed_number_fails_one_row() {
    let dir = tempfile::tempdir().unwrap();
    for (wrong, device) in [(1.0, "reference"), (1.0, "cpu"), (f64::NAN, "cpu")] {
        let path = changed(&dir, "linear.safetensors", |b| {
            let at = offset(b, "small.gw") + 8 * 11;
            let was = f64::from_le_bytes(b[at..at + 8].try_into().unwrap());
            b[at..at + 8].copy_from_slice(&(was + wrong * 1e-3).to_le_bytes());
        });
        let rows = conform::run(&[path], device).unwrap();
        let failed: Vec<_> = rows.iter().filter(|r| r.status == Status::Fail).map(|r| (&*r.case, &*r.tensor)).collect();
        assert_eq!(failed, [("small", "gw")], "{device} {wrong}");
        assert_eq!(conform::exit_code(&rows), 1);
    }
}

/// The weights of one layer are off by a thousandth: the whole network notices, in float32 too.
#[test]
fn one_changed_weight_fails_the_network() {
    let dir = tempfile::tempdir().unwrap();
    let path = changed(&dir, "tiny_fused.safetensors", |b| {
        let at = offset(b, "w.objects.fc1.weight");
        for at in (at..at + 4 * 256 * 256).step_by(4) {
            let was = f32::from_le_bytes(b[at..at + 4].try_into().unwrap());
            b[at..at + 4].copy_from_slice(&(was * 1.001).to_le_bytes());
        }
    });
    let rows = conform::run(&[path], "cpu").unwrap();
    let failed = |t: &str| rows.iter().any(|r| r.tensor == t && r.status == Status::Fail);
    assert!(failed("eval_features") && failed("w3.objects.fc1.weight") && failed("curve_loss"));
}

#[test]
fn json_lines_have_the_agreed_keys() {
    let dir = tempfile::tempdir().unwrap();
    let unknown =
        changed(&dir, "avgpool2d.safetensors", |b| replace(b, "\"op\":\"avgpool2d\"", "\"op\":\"avgpool9d\""));
    let rows = conform::run(&[golden("mse.safetensors"), unknown], "reference").unwrap();
    let text = conform::json_lines(&rows);
    for line in text.lines() {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        let keys: Vec<&str> = object.keys().map(String::as_str).collect();
        assert_eq!(keys, ["file", "op", "case", "tensor", "status", "max_error", "tolerance"]);
    }
    assert_eq!(text.matches("\"status\":\"pass\"").count(), 4);
    assert_eq!(text.matches("\"status\":\"unsupported\"").count(), 3);
    assert!(conform::table(&rows).ends_with("4 passed, 0 failed, 3 unsupported (avgpool9d)\n"));
}

/// Whatever is wrong with a file: exit code 2, an error that names it, no panic.
#[test]
fn broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let complaint = |path: PathBuf| {
        let e = conform::run(&[path], "reference").unwrap_err();
        assert_eq!(e.exit_code(), 2, "{e}");
        e.to_string()
    };
    assert!(complaint(dir.path().join("absent.safetensors")).contains("absent.safetensors"));
    for cut in [0, 5, 100, 2000, 10_000] {
        let e = complaint(changed(&dir, "linear.safetensors", |b| b.truncate(cut)));
        assert!(e.contains("linear.safetensors"), "{e}");
    }
    for (file, from, to, want) in [
        ("linear.safetensors", "\"small.x\"", "\"small.q\"", "small.x"),
        ("linear.safetensors", "\"shape\":[1,64]", "\"shape\":[64,1]", "b1."),
        ("linear.safetensors", "\"op\":\"linear\"", "\"oq\":\"linear\"", "`op`"),
        ("conv2d.safetensors", "stride\\\": [1, 1]", "stride\\\": [0, 1]", "window"),
        ("conv2d.safetensors", "stride\\\": [1, 1]", "stride\\\": \\\"ab\\\"", "stride"),
        ("conv2d.safetensors", "{\\\"bias", "[\\\"bias", "JSON"),
        ("conv2d.safetensors", "groups\\\": 6", "groups\\\": 5", "depthwise"),
        ("maxpool2d.safetensors", "kernel\\\": 3", "kernel\\\": 9", "k3"),
        ("tiny_fused.safetensors", "\"w.objects.fc1.bias\"", "\"w.objects.fc1.bios\"", "w.objects.fc1.bias"),
        ("tiny_fused.safetensors", "\\\"batch\\\": 5", "\\\"batch\\\": 4", "x"),
    ] {
        let path = changed(&dir, file, |b| replace(b, from, to));
        let e = complaint(path);
        assert!(e.contains(file) && e.contains(want), "{want}: {e}");
    }
    let e = conform::run(&[golden("mse.safetensors")], "abacus").unwrap_err();
    assert_eq!(e.exit_code(), 2);
}
