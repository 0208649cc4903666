//! `deep-affect bench` as scripts meet it: names and units of its records, comparison, exit codes, hostile files. How fast
//! anything is, is not its subject.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The fused network in miniature.
const TINY: [&str; 6] = ["--width", "32", "--image", "32", "--head", "6,5,4"];

fn run(dir: &Path, args: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    let cpu: &[&str] = if ["load", "table"].contains(&args[0]) { &[] } else { &["--device", "cpu", "--threads", "1"] };
    program.arg("bench").args(args).args(cpu).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

/// The run ends with this code and, unless that is 0, with an error that has `part`; what it printed.
fn ends(dir: &Path, args: &[&str], code: i32, part: &str) -> String {
    let out = run(dir, args);
    let [said, err] = [out.stdout, out.stderr].map(|t| String::from_utf8(t).unwrap());
    assert_eq!(out.status.code(), Some(code), "{args:?}: {err}");
    assert!(code == 0 || err.contains("error: ") && err.contains(part) && !err.contains("panicked"), "{args:?}: {err}");
    said
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A record of the tiny network in `NAME.json`.
fn record(dir: &Path, what: &str, rest: &[&str]) -> Value {
    let file = format!("{what}.json");
    ends(dir, &[&[what, "--batch", "2", "--rounds", "3", "--json", &file], rest].concat(), 0, "");
    read(dir.join(file))
}

fn keys<'a>(v: &'a Value, names: &[&str]) -> Vec<&'a Value> {
    names.iter().map(|n| v.get(n).unwrap_or_else(|| panic!("no {n} in {v:#}"))).collect()
}

#[test]
fn records_have_names_with_units() {
    let dir = tempfile::tempdir().unwrap();
    for what in ["conv", "dense", "step", "infer"] {
        let r = record(dir.path(), what, &[&TINY[..], &["--svg", "roof.svg"]].concat());
        let head = ["format", "bench", "program", "commit", "date", "command", "device", "precision", "model", "batch"];
        keys(&r, &head);
        assert_eq!((&r["format"], &r["precision"]), (&json!("deep-affect bench 1"), &json!("float32")));
        assert_eq!((&r["bench"], &r["model"], &r["batch"]), (&json!(what), &json!("deep-affect"), &json!(2)));
        for rate in keys(&r["ceilings"], &["multiply_add_gflop_per_s", "read_gb_per_s", "triad_gb_per_s"]) {
            assert!(rate.as_f64() > Some(0.0));
        }
        let rows = r["rows"].as_array().unwrap();
        for row in rows {
            let times = keys(row, &["time_fastest_s", "time_median_s", "time_slowest_s"]);
            assert!(times.is_sorted_by_key(|t| t.as_f64().unwrap()) && row["n"] == 3, "{row:#}");
        }
        if ["step", "infer"].contains(&what) {
            keys(&r, &["persistent_bytes", "arena_bytes", "by_pass", "by_part", "launches"]);
            assert_eq!((rows.len(), &rows[0]["name"]), (1, &json!(what)));
            assert!(rows[0]["pictures_per_s"].as_f64() > Some(0.0));
        } else {
            let names: Vec<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
            let first = if what == "conv" { "object.conv1_1 fprop" } else { "object.fc1 fprop" };
            assert_eq!(names[0], first);
            // Nobody asks for the gradient of a picture; equal layers are measured once.
            assert!(!names.contains(&"object.conv1_1 dgrad") && !names.iter().any(|n| n.starts_with("scene.conv")));
            for row in rows {
                let figures = ["gflop", "gflop_per_s", "least_gb", "gb_per_s", "compute_percent", "memory_percent"];
                assert!(keys(row, &figures).iter().all(|f| f.as_f64() > Some(0.0)), "{row:#}");
                keys(row, &["uses", "operands"]);
                let error = row["error_largest"].as_f64().unwrap();
                assert!(error <= 1e-5 && row["error_elements"] == row["output_elements"], "{row:#}");
            }
        }
        let svg = std::fs::read_to_string(dir.path().join("roof.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("object.conv1_1") == (what != "dense"), "{what}");
    }
    let r = record(dir.path(), "load", &["--image", "32", "--threads", "2"]);
    let rows = r["rows"].as_array().unwrap();
    assert!(
        rows.iter().all(|r| [&r["pictures_per_s"], &r["mb_per_s"]].iter().all(|v| v.as_f64() > Some(0.0))),
        "{r:#}"
    );
    let files = ["step.json", "infer.json", "conv.json"];
    let table = ends(dir.path(), &[&["table"], &files[..]].concat(), 0, "");
    assert!(
        table.contains("\n| step, batch 2 | float32 | ") && table.contains("| conv object.conv1_1 wgrad, batch 2 |")
    );
}

/// Operands are what 16 bits hold, so that the error is what the layer adds: its sums, and rounding what it stores.
#[test]
fn precisions_are_said_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), "conv", &TINY);
    std::fs::rename(dir.path().join("conv.json"), dir.path().join("float32.json")).unwrap();
    for (precision, half_a_unit) in [("bf16", 2f64.powi(-8)), ("fp16", 2f64.powi(-11))] {
        for what in ["conv", "dense"] {
            let r = record(dir.path(), what, &[&TINY[..], &["--precision", precision]].concat());
            assert_eq!(r["precision"], *precision);
            for row in r["rows"].as_array().unwrap() {
                let stored = if row["name"].as_str().unwrap().ends_with("wgrad") { 0.0 } else { half_a_unit };
                assert!(row["error_largest"].as_f64().unwrap() <= stored + 1e-5, "{precision}: {row:#}");
            }
        }
        let other = ["conv", "--batch", "2", "--precision", precision, "--compare", "float32.json"];
        ends(dir.path(), &[&other, &TINY[..]].concat(), 1, "compare what was measured alike");
    }
    let r = record(dir.path(), "step", &[&TINY[..], &["--precision", "bf16"]].concat());
    assert_eq!(r["precision"], "bf16");
}

/// Multiplies every time of a record.
fn scaled(record: &Value, by: f64) -> String {
    let mut r = record.clone();
    for row in r["rows"].as_array_mut().unwrap() {
        for name in ["time_median_s", "time_fastest_s", "time_slowest_s"] {
            row[name] = json!(row[name].as_f64().unwrap() * by);
        }
    }
    r.to_string()
}

#[test]
fn comparison_ends_with_its_own_code() {
    let dir = tempfile::tempdir().unwrap();
    let r = record(dir.path(), "infer", &TINY);
    for (name, by) in [("fast.json", 1e-3), ("slow.json", 1e6)] {
        std::fs::write(dir.path().join(name), scaled(&r, by)).unwrap();
    }
    let infer = ["infer", "--batch", "2", "--rounds", "2"];
    let against = |old: &str, rest: &[&str], code, part: &str| {
        ends(dir.path(), &[&infer[..], &TINY, &["--compare", old], rest].concat(), code, part)
    };
    assert!(against("fast.json", &["--fail-if-slower", "5%"], 3, "slower than before: infer takes").contains("slower"));
    assert!(against("fast.json", &[], 0, "").contains("slower"));
    assert!(against("fast.json", &["--fail-if-slower", "999999"], 0, "").contains("slower"));
    assert!(against("slow.json", &["--fail-if-slower", "0"], 0, "").contains("faster"));
    // What was measured otherwise is not compared.
    ends(dir.path(), &[&["infer", "--compare", "slow.json"], &TINY[..]].concat(), 1, "compare what was measured alike");

    // A peer's record beside ours.
    let mut peer = read(dir.path().join("slow.json"));
    peer["program"] = json!("peer 1");
    peer["rows"][0]["variant"] = json!("plain");
    std::fs::write(dir.path().join("peer.json"), json!([peer]).to_string()).unwrap();
    let table = ends(dir.path(), &["table", "infer.json", "peer.json"], 0, "");
    assert!(table.contains("peer 1 on") && table.contains("plain, float32 | 0.00 |"), "{table}");
}

#[test]
fn hostile_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let bad = |args: &[&str], code, part: &str| drop(ends(dir.path(), args, code, part));
    bad(&["conv", "--compare", "none.json"], 1, "none.json: cannot read");
    put("cut.json", "{\"format\": \"deep-affect be");
    bad(&["conv", "--compare", "cut.json"], 1, "cut.json: is no JSON");
    put("other.json", "{\"rows\": []}");
    bad(&["table", "other.json"], 1, "other.json: is no record of a benchmark");
    put("empty.json", "[]");
    bad(&["conv", "--compare", "empty.json"], 1, "empty.json: is no record");
    bad(&["conv", "--compare", "none.json", "--fail-if-slower=-5%"], 2, "not a percentage");
    bad(&["conv", "--compare", "none.json", "--fail-if-slower", "NaN"], 2, "not a percentage");
    bad(&["conv", "--fail-if-slower", "5%"], 2, "--compare");
    bad(&["conv", "--rounds", "0"], 2, "--rounds must be at least 1");
    bad(&["load", "none"], 1, "none");
    let sim =
        Command::new(env!("CARGO_BIN_EXE_deep-affect")).args(["bench", "step", "--device", "sim"]).output().unwrap();
    let said = String::from_utf8(sim.stderr).unwrap();
    assert_eq!((sim.status.code(), said.lines().count()), (Some(2), 1));
    assert!(said.contains("has no time") && said.contains("profile --device sim"), "{said}");
}
