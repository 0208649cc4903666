//! The program as people and scripts meet it: what it prints where, exit codes, one line for every bad input.

#[path = "common/unsealed.rs"]
mod unsealed;

use approx::assert_abs_diff_eq as close;
use deep_affect::data::Alpha;
use deep_affect::device;
use deep_affect::models::{Architecture, Config};
use deep_affect::ops::optim::{Form, Sgd};
use deep_affect::train::checkpoint::{self, Card};
use deep_affect::train::fit::{Settings, State};
use deep_affect::train::network::{Network, Task};
use deep_affect::train::params::Initial;
use deep_affect::weights::Dtype;
use deep_affect::weights::write::{Entry, write};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;
use unsealed::unsealed;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_deep-affect"))
}

fn run(dir: &Path, args: &[&str]) -> Output {
    program().args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The run succeeds; what it printed.
fn good(dir: &Path, args: &[&str]) -> String {
    let out = run(dir, args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout).to_string()
}

/// The run fails with this code and one line that has all `parts`.
fn bad(dir: &Path, args: &[&str], code: i32, parts: &[&str]) {
    let out = run(dir, args);
    let err = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {err}");
    assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
    assert!(err.starts_with("error: ") && !err.contains("panicked"), "{args:?}: {err}");
    for part in parts {
        assert!(err.contains(part), "{args:?}: no `{part}` in {err}");
    }
}

/// A network of a few thousand random weights.
fn model() -> &'static [u8] {
    static MODEL: OnceLock<Vec<u8>> = OnceLock::new();
    MODEL.get_or_init(|| model_about([5.0, 4.0]))
}

/// The same, its ratings near these.
fn model_about(means: [f32; 2]) -> Vec<u8> {
    let mut config = Config::published(Architecture::Shared, &["object".into()], 5).unwrap();
    (config.head, config.keep, config.image) = (vec![4, 3, 2], vec![1.0; 3], 32);
    for t in &mut config.towers {
        (t.width, t.dense, t.classes) = (64, vec![8], 6);
    }
    let task = Task::EndToEnd { config, frozen: vec![] };
    let settings = Settings::default();
    let sgd = Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 };
    let cpu = device::open("cpu", Some(1)).unwrap();
    let mut net = Network::new(&task, 1, sgd, cpu).unwrap();
    let params = net.stored();
    Initial::new(3, true).fill(&mut net.session, &params, "", &means).unwrap();
    let card = Card {
        format: checkpoint::FORMAT.into(),
        task,
        state: State { finished: true, ..State::new(&settings, 1).unwrap() },
        settings,
        train_mean: vec![5.0, 4.0],
        classes: vec![],
        data: String::new(),
        made_by: "a test".into(),
        alpha: Alpha::Drop,
        tower_classes: Default::default(),
        origin: Default::default(),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    checkpoint::save(&path, &card, &net, &vec![], &[]).unwrap();
    fs::read(path).unwrap()
}

/// A folder with a model `m.safetensors` and `pictures/`: 0.png … 9.png, one of them in a folder of its own.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m.safetensors"), model()).unwrap();
    fs::create_dir_all(dir.path().join("pictures/inner")).unwrap();
    for i in 0..10u8 {
        fs::write(dir.path().join(picture(i)), png(i)).unwrap();
    }
    dir
}

fn picture(i: u8) -> String {
    if i == 4 { format!("pictures/inner/{i}.png") } else { format!("pictures/{i}.png") }
}

fn png(i: u8) -> Vec<u8> {
    let pixel = |x: u32, y: u32| image::Rgb([25 * i, (x * 5) as u8, (y * (i as u32 + 1)) as u8]);
    let mut out = std::io::Cursor::new(vec![]);
    image::RgbImage::from_fn(40 + i as u32, 30, pixel).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

fn put(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn ratings(rows: &[u8]) -> String {
    let row =
        |&i: &u8| format!("{},{},{},g{},{}\n", picture(i), 2.0 + 0.5 * i as f32, 7.5 - 0.25 * i as f32, i / 2, i % 2);
    "path,valence,arousal,group,fold\n".to_string() + &rows.iter().map(row).collect::<String>()
}

fn rows(jsonl: &str) -> Vec<serde_json::Value> {
    jsonl.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn predict_answers_alike_for_a_file_a_folder_and_stdin() {
    let dir = folder();
    let p = dir.path();
    let all = good(p, &["predict", "--model", "m.safetensors", "pictures"]);
    let parsed = rows(&all);
    let paths: Vec<&str> = parsed.iter().map(|r| r["path"].as_str().unwrap()).collect();
    assert_eq!(paths.len(), 10);
    assert!(paths.is_sorted() && paths.contains(&"pictures/inner/4.png"), "{paths:?}");
    let keys: Vec<&String> = parsed[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["path", "valence_1to9", "arousal_1to9", "error", "note", "model"]);
    assert!(parsed.iter().all(|r| r["error"].is_null() && r["model"] == "m.safetensors"));
    assert_ne!(parsed[0]["valence_1to9"], parsed[1]["valence_1to9"]);

    let one = good(p, &["predict", "--model", "m.safetensors", "pictures/3.png"]);
    assert!(all.contains(&one), "{one} is not in {all}");
    for batch in ["1", "3", "7"] {
        assert_eq!(good(p, &["predict", "--model", "m.safetensors", "--batch", batch, "pictures"]), all, "{batch}");
    }
    let mut child = program()
        .args(["predict", "--model", "m.safetensors", "-"])
        .current_dir(p)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&png(3)).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(text(&out.stdout).replace("\"-\"", "\"pictures/3.png\""), one);
}

#[test]
fn ratings_beyond_the_scale_are_counted_and_said() {
    let dir = folder();
    let p = dir.path();
    put(&dir, "off.safetensors", model_about([-53.0, 4.0]));
    put(&dir, "set.csv", ratings(&[1, 2, 3]));
    let remark =
        |n: usize| format!("warning: Predictions beyond the scale of 1 to 9: {n} of valence, of {n} pictures.");
    let out =
        run(p, &["predict", "--model", "off.safetensors", "--format", "jsonl", "pictures/1.png", "pictures/2.png"]);
    assert!(out.status.success() && text(&out.stderr).contains(&remark(2)), "{}", text(&out.stderr));
    for row in rows(text(&out.stdout)) {
        assert!(row["valence_1to9"].as_f64().unwrap() < -50.0);
        let note = row["note"].as_str().unwrap();
        assert!(note.starts_with("valence -5") && note.ends_with(" is beyond the scale of 1 to 9"), "{note}");
    }
    let out = run(p, &["evaluate", "--model", "off.safetensors", "set.csv", "--out", "judged"]);
    assert!(out.status.success() && text(&out.stderr).contains(&remark(3)), "{}", text(&out.stderr));
    let said = text(&out.stdout).lines().find(|l| l.starts_with("Beyond 1 to 9, %")).unwrap().to_string();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>()[5..], ["100.00", "0.00", "0.00", "0.00"], "{said}");
    for file in ["report.html", "metrics.json"] {
        let page = fs::read_to_string(p.join("judged").join(file)).unwrap();
        assert!(page.contains("Predictions beyond the scale of 1 to 9: 3 of valence"), "{file}");
    }
    // Nothing is said where nothing is wrong.
    let out = run(p, &["predict", "--model", "m.safetensors", "pictures/1.png"]);
    assert!(!text(&out.stderr).contains("beyond"), "{}", text(&out.stderr));
}

#[test]
fn predict_in_every_form() {
    let dir = folder();
    let p = dir.path();
    let args = |form| ["predict", "--model", "m.safetensors", "--format", form, "pictures/1.png", "pictures/2.png"];
    let json = rows(&good(p, &args("jsonl")));
    let csv_text = good(p, &args("csv"));
    let mut csv = csv::Reader::from_reader(csv_text.as_bytes());
    assert_eq!(csv.headers().unwrap(), vec!["path", "valence_1to9", "arousal_1to9", "error", "note", "model"]);
    for (a, b) in csv.records().map(Result::unwrap).zip(&json) {
        assert_eq!(&a[0], b["path"].as_str().unwrap());
        assert_eq!(a[1].parse::<f64>().unwrap(), b["valence_1to9"].as_f64().unwrap());
    }
    let table = good(p, &args("table"));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].contains("scale 1 to 9; m.safetensors") && lines[1].ends_with("pictures/1.png"), "{table}");
}

/// Before any is made: a hundred thousand take the machine with them.
#[test]
fn more_threads_than_a_machine_stands_are_refused() {
    let dir = folder();
    for n in ["0", "100000", "18446744073709551615"] {
        for args in [&["predict", "--model", "m.safetensors", "pictures"][..], &["gradcheck"], &["bench", "load"]] {
            let out = run(dir.path(), &[args, &["--threads", n]].concat());
            assert_eq!(out.status.code(), Some(2), "{args:?} {n}");
            assert!(text(&out.stderr).contains("not a number from 1 to "), "{}", text(&out.stderr));
        }
    }
}

/// A full disk behind stderr loses remarks, and nothing else; one behind stdout is an error.
#[cfg(target_os = "linux")]
#[test]
fn a_job_does_not_end_for_a_remark() {
    let dir = folder();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [&["predict", "--model", "m.safetensors", "pictures"][..], &["plan", "vgg11", "--out", "plan.svg"]] {
        let mut job = program();
        job.args(args).current_dir(dir.path()).stdin(Stdio::null());
        let out = job.stderr(full()).output().unwrap();
        assert!(out.status.success() && !out.stdout.is_empty(), "{args:?}");
        let out = job.stderr(Stdio::piped()).stdout(full()).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        let said = text(&out.stderr).lines().filter(|l| l.starts_with("error: ")).collect::<Vec<_>>();
        assert!(said.len() == 1 && said[0].contains("standard output"), "{args:?}: {said:?}");
        assert!(!text(&out.stderr).contains("panicked"), "{args:?}");
    }
}

#[test]
fn bad_pictures_among_good_ones() {
    let dir = folder();
    let p = dir.path();
    put(&dir, "pictures/2b.png", &png(2)[..200]);
    put(&dir, "pictures/3b.heic", "x");
    let bomb = [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x75\x30\0\0\x75\x30\x08\x02\0\0\0"[..], &[0; 40]].concat();
    put(&dir, "pictures/5b.png", bomb);
    for batch in ["1", "7"] {
        let out = run(p, &["predict", "--model", "m.safetensors", "--batch", batch, "pictures", "no\nne.png"]);
        assert_eq!(out.status.code(), Some(1));
        let answers = rows(text(&out.stdout));
        assert_eq!(answers.len(), 14);
        let failed: Vec<_> = answers.iter().filter(|r| !r["error"].is_null()).collect();
        assert_eq!(failed.len(), 4, "{failed:#?}");
        assert!(failed.iter().all(|r| r["valence_1to9"].is_null() && r.as_object().unwrap().len() == 6));
        assert!(failed[3]["error"].as_str().unwrap().contains("check the path"));
        let err = text(&out.stderr);
        assert!(err.starts_with("error: 4 of 14 pictures cannot be used, the first is pictures/2b.png: "), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    let alone = ["predict", "--model", "m.safetensors"];
    let with = |x: &'static str| [&alone[..], &[x]].concat();
    bad(p, &with("pictures/2b.png"), 1, &["pictures/2b.png: ", "; "]);
    bad(p, &with("none.png"), 1, &["none.png: cannot read", "check the path"]);
    bad(p, &with("-"), 1, &["nothing came on stdin; pipe"]);
    fs::create_dir(p.join("empty")).unwrap();
    bad(p, &with("empty"), 1, &["empty: no pictures in this folder"]);
    bad(p, &["predict", "--model", "m.safetensors", "-", "-"], 2, &["- is named twice"]);
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let dir = folder();
    let args = ["predict", "--model", "m.safetensors", "--batch", "1"];
    let many = std::iter::repeat_n("pictures/1.png", 300);
    let mut child = program()
        .args(args)
        .args(many)
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    // The pipe is closed here, with most of the rows to come.
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{:?} {}", out.status, text(&out.stderr));
}

#[test]
fn bad_models() {
    let dir = folder();
    let p = dir.path();
    put(&dir, "cut.safetensors", &model()[..model().len() - 100]);
    put(&dir, "tiny.safetensors", "abc");
    put(&dir, "text.safetensors", "hello, these are no weights at all");
    for command in ["predict", "evaluate", "weights"] {
        let with = |file: &'static str| match command {
            "weights" => vec![command, "inspect", file],
            "predict" => vec![command, "--model", file, "pictures"],
            _ => vec![command, "--model", file, "set.csv"],
        };
        for file in ["cut.safetensors", "tiny.safetensors", "text.safetensors"] {
            bad(p, &with(file), 1, &[file, "; "]);
        }
        bad(p, &with("pictures"), 1, &["pictures: ", "it is a folder; name a weight file"]);
        bad(p, &with("none.safetensors"), 1, &["none.safetensors: ", "check the path"]);
    }
    // Weights, but not of a whole model.
    let w = deep_affect::weights::write::Entry::f32("fc3.weight", &[2, 2], &[0.0; 4]);
    deep_affect::weights::write::write(p.join("w.safetensors"), &Default::default(), &[w]).unwrap();
    bad(p, &["predict", "--model", "w.safetensors", "pictures"], 1, &["is not a checkpoint", "inspect"]);
    bad(p, &["predict", "--model", "m.safetensors", "--device", "tpu", "pictures"], 2, &["`tpu`", "choose one of"]);
    if deep_affect::bundled::model().is_none() {
        bad(p, &["predict", "pictures"], 2, &["no bundled model", "--model"]);
    }
}

/// Without a model of one's own: a rating on the scale, an interval around it, and what the model is.
#[test]
fn the_bundled_model_answers() {
    if deep_affect::bundled::model().is_none() {
        return println!("SKIPPED: no bundled model in this build");
    }
    let dir = folder();
    let p = dir.path();
    let answered = rows(&good(p, &["predict", "--format", "jsonl", "pictures/1.png", "pictures/2.png"]));
    let keys: Vec<&str> = answered[0].as_object().unwrap().keys().map(String::as_str).collect();
    let want = "path valence_1to9 arousal_1to9 valence_cvplus90_low_1to9 valence_cvplus90_high_1to9 \
                arousal_cvplus90_low_1to9 arousal_cvplus90_high_1to9 error note model";
    assert_eq!(keys, want.split_whitespace().collect::<Vec<_>>());
    for row in &answered {
        for t in ["valence", "arousal"] {
            let number = |key: &str| row[&format!("{t}{key}")].as_f64().unwrap();
            let (low, rating, high) = (number("_cvplus90_low_1to9"), number("_1to9"), number("_cvplus90_high_1to9"));
            assert!(1.0 <= low && low <= rating && rating <= high && high <= 9.0, "{t}: {low} {rating} {high}");
        }
        assert_eq!(row["model"], "bundled model");
    }
    // One by one, or in a batch, or half as sure.
    let alone = rows(&good(p, &["predict", "--format", "jsonl", "pictures/2.png"]));
    assert_eq!(alone[0], answered[1]);
    let half = rows(&good(p, &["predict", "--format", "jsonl", "--interval", "50", "pictures/2.png"]));
    assert!(half[0]["valence_cvplus50_high_1to9"].as_f64() < alone[0]["valence_cvplus90_high_1to9"].as_f64());
    let table = good(p, &["predict", "--format", "table", "pictures/2.png"]);
    assert!(table.contains("scale 1 to 9; bundled model") && table.contains("by CV+ at 90 %"), "{table}");
    let card = good(p, &["weights", "inspect", "bundled"]);
    for part in ["about:", "OASIS", "CC BY 4.0", "the mean of", "What it cannot do", "deep-affect cross-validate"] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(good(p, &["weights", "inspect", "bundled-tower"]).contains("deep-affect vgg16, no classifier"));
}

#[test]
fn evaluate_measures_and_leaves_a_folder() {
    let dir = folder();
    let p = dir.path();
    put(&dir, "set.csv", ratings(&[0, 1, 2, 3, 4, 5, 6, 7]));
    let base = ["evaluate", "--model", "m.safetensors", "set.csv"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    let table = good(p, &with(&["--out", "run"]));
    assert!(table.starts_with("n = 8") && table.contains("train mean"), "{table}");
    let metrics: serde_json::Value = serde_json::from_slice(&fs::read(p.join("run/metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["n_pictures"], 8);
    assert_eq!(metrics["targets"]["arousal"]["train_mean_points"], 4.0);
    assert!(metrics["targets"]["valence"]["baseline"]["mse_points2"].is_number());
    let predictions = fs::read_to_string(p.join("run/predictions.csv")).unwrap();
    assert_eq!(predictions.lines().count(), 9);
    // The same numbers as `predict` gives.
    let alone = rows(&good(p, &["predict", "--model", "m.safetensors", "pictures/3.png"]));
    assert!(predictions.contains(&format!("pictures/3.png,,g1,,3.5,{},", alone[0]["valence_1to9"])), "{predictions}");
    assert!(fs::read_to_string(p.join("run/report.html")).unwrap().contains("data:image/png"));

    for batch in ["1", "7"] {
        let json = good(p, &with(&["--json", "--batch", batch, "--cache", "cache"]));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), metrics);
    }
    assert!(good(p, &with(&["--fold", "1", "--targets", "arousal"])).starts_with("n = 4"));
    bad(p, &with(&["--fold", "7"]), 2, &["set.csv: column fold: no row is in fold 7"]);
    bad(p, &with(&["--targets", "dominance"]), 2, &["does not predict `dominance`", "valence, arousal"]);
}

#[test]
fn bad_manifests_and_outputs() {
    let dir = folder();
    let p = dir.path();
    put(&dir, "set.csv", ratings(&[0, 1, 2]));
    put(&dir, "gone.csv", ratings(&[0, 1]) + "pictures/none.png,5,5,,\n");
    put(&dir, "scale.csv", ratings(&[0, 1]) + "pictures/2.png,5,9.5,,\n");
    put(&dir, "column.csv", ratings(&[0, 1]).replace("arousal", "excitement"));
    let with = |file: &'static str| ["evaluate", "--model", "m.safetensors", file];
    bad(p, &with("gone.csv"), 1, &["gone.csv: line 4: 1 of 3 pictures", "none.png", "--skip-bad"]);
    bad(p, &with("scale.csv"), 1, &["scale.csv: line 4, column arousal: `9.5`", "; "]);
    bad(p, &with("column.csv"), 2, &["column.csv: no column `arousal`; choose one of"]);
    bad(p, &with("pictures"), 1, &["pictures: is a folder, not a table; name"]);
    let out = run(p, &[&with("gone.csv")[..], &["--skip-bad", "--out", "run"]].concat());
    assert!(out.status.success() && text(&out.stderr).contains("left out: "), "{}", text(&out.stderr));
    assert!(fs::read_to_string(p.join("run/metrics.json")).unwrap().contains("1 of 3 pictures could not be read"));

    // An output that cannot be written is found before the work, and leaves nothing.
    let out = |file: &'static str, to: &'static str| [&with(file)[..], &["--out", to]].concat();
    bad(p, &out("set.csv", "set.csv"), 1, &["set.csv: ", "; "]);
    bad(p, &out("set.csv", "set.csv/run"), 1, &["set.csv/run: ", "; "]);
    fs::create_dir_all(p.join("taken/report.html")).unwrap();
    bad(p, &out("set.csv", "taken"), 1, &["report.html", "choose another folder"]);
    assert_eq!(fs::read_dir(p.join("taken")).unwrap().count(), 1);
}

#[test]
fn import_lists_what_does_not_match() {
    let dir = folder();
    let p = dir.path();
    put(
        &dir,
        "t.tsv",
        "made by hand\nfile\tv\ta\ttheme\n0\t1\t7\tsea\n1.png\t4\t4\tsea\nnone\t2\t2\tsky\n2\t\t3\tsky\n",
    );
    let base = ["import", "csv", "t.tsv", "--root", "pictures", "--path-col", "file", "--valence-col", "v"];
    let rest = ["--arousal-col", "a", "--skip-rows", "1", "--delim", "tab", "--group-col", "theme", "--dataset", "toy"];
    let with = |scale: &'static str, out: &'static str| [&base[..], &rest, &["--scale", scale, "--out", out]].concat();
    let said = good(p, &with("1:7", "set.csv"));
    for part in ["2 pictures with ratings, 1 groups", "valence: 1.00 to 5.00", "2 rows without", "8 pictures without"] {
        assert!(said.contains(part), "{said}");
    }
    let manifest = fs::read_to_string(p.join("set.csv")).unwrap();
    assert!(manifest.contains("pictures/0.png,1,9,sea,toy,1,"), "{manifest}");
    let list = fs::read_to_string(p.join("set.unmatched.csv")).unwrap();
    assert_eq!(list.lines().count(), 11, "{list}");
    assert!(list.contains("row,line 5 `none`,no such file\n") && list.contains("row,line 6 `2`,"), "{list}");
    good(p, &["evaluate", "--model", "m.safetensors", "set.csv"]);
    let third = [
        &base[..7],
        &["--skip-rows", "1", "--delim", "tab", "--dominance-col", "a", "--out", "third.csv", "--dominance-scale"],
    ];
    good(p, &[&third.concat()[..], &["1:13"]].concat());
    let manifest = fs::read_to_string(p.join("third.csv")).unwrap();
    assert!(manifest.starts_with("path,dominance,") && manifest.contains("pictures/0.png,5,"), "{manifest}");

    bad(p, &with("1:6", "new.csv"), 1, &["t.tsv: line 3, column a: `7` is outside the scale 1:6", "; "]);
    bad(p, &with("7", "new.csv"), 2, &["`7` is not a scale", "1:7"]);
    bad(p, &with("1:7", "pictures"), 1, &["pictures: is a folder", "--out"]);
    bad(p, &with("1:7", "no/new.csv"), 1, &["no/new.csv: ", "check the path"]);
    let wrong =
        [&base[..8], &["--valence-col", "x", "--skip-rows", "1", "--scale", "1:7", "--out", "new.csv"]].concat();
    let wrong: Vec<&str> = wrong.into_iter().enumerate().filter(|(i, _)| *i != 7).map(|(_, a)| a).collect();
    bad(p, &wrong, 2, &["t.tsv: no column `x`; choose one of: file, v, a, theme"]);
    bad(p, &["import", "oasis", "pictures", "--out", "new.csv"], 1, &["pictures: holds no OASIS.csv", "; "]);
    assert!(!p.join("new.csv").exists() && !p.join("new.unmatched.csv").exists());

    fs::create_dir(p.join("oasis")).unwrap();
    fs::rename(p.join("pictures"), p.join("oasis/images")).unwrap();
    let oasis = ",Theme,Category,Source,Valence_mean,Valence_SD,Valence_N,Arousal_mean,Arousal_SD,Arousal_N\n\
        I1,0,Animal,x,4,1,9,1,1,9\nI2,1,Object,x,7,1,9,4,1,9\n";
    put(&dir, "oasis/OASIS.csv", oasis);
    let said = good(p, &["import", "oasis", "oasis", "--out", "oasis/set.csv"]);
    assert!(said.contains("2 pictures with ratings") && said.contains("8 pictures without a row"), "{said}");
    assert!(fs::read_to_string(p.join("oasis/set.csv")).unwrap().contains("images/1.png,9,5,"));
}

#[test]
fn inspect_reads_the_card_aloud() {
    let dir = folder();
    let p = dir.path();
    let said = good(p, &["weights", "inspect", "m.safetensors"]);
    for part in
        ["object.conv1_1.weight", "targets", "valence, arousal (1 to 9)", "hidden 4-3-2", "arousal 4.000", "finished"]
    {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert!(!said.contains("metadata checkpoint"));
    let json: serde_json::Value =
        serde_json::from_str(&good(p, &["weights", "inspect", "--json", "m.safetensors"])).unwrap();
    assert_eq!(json["checkpoint"]["train_mean"], serde_json::json!([5.0, 4.0]));
    assert!(json["tensors"].as_array().unwrap().len() > 10);
}

#[test]
fn towers_have_squares_of_their_own() {
    let dir = folder();
    put(&dir, "r.csv", ratings(&[0, 1, 2, 3, 4, 5, 6, 7]));
    let tower = ["--tower", "face", "--width", "64", "--dense", "8", "--image", "44", "--preprocess", "fer2013"];
    let few = ["--epochs", "1", "--batch", "4", "--val", "0"];
    let label = ["pretrain", "r.csv", "--label", "group", "--min-count", "2", "--out", "f.safetensors"];
    good(dir.path(), &[&label[..], &tower, &few].concat());
    let model = ["--width", "64", "--head", "4", "--image", "64", "--init-missing", "--features", "object,scene,face"];
    let train = |out: &str, more: &[&str]| {
        good(dir.path(), &[&["train", "r.csv", "--ignore-fold-column", "--out", out], &model[..], &few, more].concat());
        let model = format!("{out}/checkpoint.safetensors");
        let card = good(dir.path(), &["weights", "inspect", &model]);
        let predicted = good(dir.path(), &["predict", "--model", &model, "--format", "csv", "pictures"]);
        assert_eq!(predicted.lines().count(), 11, "{predicted}");
        good(dir.path(), &["evaluate", "r.csv", "--model", &model]);
        (card, predicted)
    };
    // The side that the file states, the one of the flag, and the one for all; the scene tower's own rule.
    let file = ["--weights", "face=f.safetensors"];
    let (card, first) = train("a", &file);
    assert!(card.contains("classes, fer2013 at 44 pixels") && card.contains("caffe-places at 64 pixels"), "{card}");
    assert!(card.contains("keras);") && card.contains("64 and 44 pixels"), "{card}");
    let frozen = ["--freeze", "all", "--cache", "cache"];
    assert_eq!(train("b", &[&file[..], &frozen].concat()).0.matches("44 pixels").count(), 2);
    let flag = [&["--tower-image", "face=48", "--tower-image", "object=40"], &file[..]].concat();
    let (card, other) = train("c", &[&flag[..], &["--augment", "flip", "--resident", "yes"]].concat());
    assert!(card.contains("40 and 64 and 48 pixels") && other != first, "{card}");
    // A block in the middle: nothing behind it is built, or the loss would not depend on what is trained.
    train("d", &["--tower-output", "block3"]);
    train("e", &[&["--tower-output", "block4+block5"][..], &frozen].concat());

    let asked = |spec: &'static str, parts: &[&str]| bad(dir.path(), &["plan", "--tower-image", spec], 2, parts);
    asked("faec=44", &["--tower-image: there is no tower `faec`", "choose from object, scene, face"]);
    asked("face=16", &["the face tower takes images of 32 to 4096 pixels, not 16", "--tower-image"]);
    asked("face=4097", &["not 4097"]);
    for spec in ["face", "face=", "face=44px", "face=-44"] {
        asked(spec, &["TOWER=PIXELS", "face=44"]);
    }
    bad(dir.path(), &["plan", "--image", "0"], 2, &["the object tower takes images of 32 to 4096 pixels, not 0"]);
    let small = [&label[..], &["--tower", "face", "--image", "31"]].concat();
    bad(dir.path(), &small, 2, &["the face tower", "not 31"]);
}

#[test]
fn conform_and_doctor() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let said = good(&golden, &["conform", "mse.safetensors"]);
    assert!(said.contains(" passed, 0 failed"), "{said}");
    assert!(!rows(&good(&golden, &["conform", "--device", "cpu", "--json", "mse.safetensors"])).is_empty());
    bad(&golden, &["conform", "none.safetensors"], 2, &["none.safetensors", "check the path"]);
    let said = good(&golden, &["doctor"]);
    assert!(said.contains("--device cpu") && said.contains(" threads)"), "{said}");
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn plan_says_what_lives_when() {
    let dir = tempfile::tempdir().unwrap();
    for pass in ["infer", "train"] {
        let args = ["plan", "--pass", pass, "--batch", "2"];
        let svg = dir.path().join(format!("deep-affect-{pass}-batch2.svg"));
        let p = json(&good(dir.path(), &[&args[..], &["--json", "--out", "."]].concat()));
        let n = |key: &str| p[key].as_u64().unwrap();
        // The published model.
        assert_eq!(n("weight_bytes"), 4 * 355_761_192);
        assert!(n("lower_bound_bytes") <= n("arena_bytes") && n("arena_bytes") <= n("without_reuse_bytes"));
        let live = p["by_step"].as_array().unwrap().iter().map(|s| s["live_bytes"].as_u64().unwrap());
        assert_eq!(live.max().unwrap(), n("lower_bound_bytes"));
        let ends = |v: &serde_json::Value| v["arena_offset_bytes"].as_u64().unwrap() + v["bytes"].as_u64().unwrap();
        let values = p["values"].as_array().unwrap();
        assert_eq!(values.iter().map(ends).max().unwrap(), n("arena_bytes"));
        let drawing = fs::read_to_string(svg).unwrap();
        assert!(drawing.starts_with("<svg") && drawing.trim_end().ends_with("</svg>"));
        assert_eq!(drawing.matches("MiB at ").count(), values.len());
        let table = good(dir.path(), &args);
        assert!(table.contains("arena of temporaries") && table.contains("object.conv1_2"), "{table}");
    }
    bad(dir.path(), &["plan", "vgg17"], 2, &["no network and no file `vgg17`", "vgg16"]);
    bad(dir.path(), &["plan", "vgg16", "--image", "8"], 2, &["32 pixels", "--image"]);
    bad(dir.path(), &["plan", "none.safetensors"], 1, &["none.safetensors"]);
    assert!(good(dir.path(), &["plan", "vgg16", "--pass", "train"]).starts_with("vgg16, a training step"));
}

#[test]
fn plan_predicts_a_step_on_several_gpus() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |gpus: &str, more: &[&str]| {
        let args = ["plan", "--pass", "train", "--batch", "25", "--precision", "bf16", "--gpus", gpus];
        good(dir.path(), &[&args[..], more].concat())
    };
    let [one, eight, many] = ["1", "8", "64"].map(|gpus| json(&plan(gpus, &["--json"])));
    let number = |of: &serde_json::Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{key} in {of}"));
    // Every parameter of the published model has a gradient in one bucket.
    assert_eq!(number(&eight, "gradient_bytes"), 4.0 * 355_761_192.0);
    let buckets = eight["buckets"].as_array().unwrap();
    assert_eq!(buckets.iter().map(|b| number(b, "bytes")).sum::<f64>(), number(&eight, "gradient_bytes"));
    assert!(buckets.iter().all(|b| number(b, "bytes") <= f64::from(25 << 20) || number(b, "gradients") == 1.0));
    assert!(buckets.windows(2).all(|b| number(&b[0], "end_ms") <= number(&b[1], "begin_ms")));
    assert!(buckets.iter().all(|b| number(b, "ready_ms") <= number(b, "begin_ms")));
    // The passes end with the last gradient.
    let passes = number(&eight, "forward_ms") + number(&eight, "backward_ms");
    assert!(number(buckets.last().unwrap(), "ready_ms") <= passes);
    assert!(one["choices"][0]["hidden"].is_null() && number(&one["choices"][0], "scaling") <= 1.0);
    for (plan, gpus) in [(&eight, 8.0), (&many, 64.0)] {
        let [whole, sharded] = [0, 1].map(|i| &plan["choices"][i]);
        let pictures = number(whole, "pictures_per_second") / number(plan, "one_gpu_pictures_per_second");
        assert!((pictures - gpus * number(whole, "scaling")).abs() < 1e-9 * gpus);
        let state = [whole, sharded].map(|c| number(&c["memory"], "optimizer_state_bytes"));
        assert_eq!(state[0], 4.0 * 355_761_192.0);
        // Of every bucket an equal share, but for where a parameter is cut.
        let more = gpus * state[1] / state[0] - 1.0;
        assert!((0.0..1e-3).contains(&more), "{} of {} bytes on one of {gpus} GPUs", state[1], state[0]);
        let kept =
            ["weight_bytes", "other_bytes"].map(|key| number(&whole["memory"], key) - number(&sharded["memory"], key));
        assert_eq!(kept, [0.0; 2]);
        assert!(number(whole, "exposed_ms") <= number(whole, "collectives_ms"));
    }
    assert!(number(&many["choices"][0], "scaling") < number(&eight["choices"][0], "scaling"));
    let text = plan("8", &[]);
    assert!(text.contains("not measured") && text.contains("target") && text.contains("sharded"), "{text}");
    bad(dir.path(), &["plan", "--gpus", "8"], 2, &["--pass train"]);
}

#[test]
#[cfg(target_os = "linux")]
fn what_does_not_fit_is_refused_before_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let args = |batch| ["profile", "--pass", "train", "--batch", batch, "--image", "2048"];
    bad(dir.path(), &args("512"), 1, &["MiB of memory are needed", "are available", "--batch"]);
    bad(dir.path(), &args("4096"), 1, &["larger than the address space of a process", "a smaller batch"]);
    let smaller = ["--batch", "10000000", "--image", "32", "--width", "64", "--head", "8", "--features", "object"];
    bad(dir.path(), &[&["profile", "--pass", "train"], &smaller[..]].concat(), 1, &["are needed", "--batch", " fits"]);
}

#[test]
fn profile_holds_launches_against_ceilings() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = ["--width", "64", "--image", "32", "--head", "8", "--features", "object"];
    let args = [&["profile", "--pass", "train", "--repeat", "2", "--json"], &tiny[..]].concat();
    let p = json(&good(dir.path(), &args));
    let number = |v: &serde_json::Value| v.as_f64().filter(|x| *x > 0.0).unwrap();
    for key in ["multiply_add_gflop_per_s", "multiply_add_one_thread_gflop_per_s", "read_gb_per_s", "triad_gb_per_s"] {
        number(&p["ceilings"][key]);
    }
    let launches = p["launches"].as_array().unwrap();
    let ms = |rows: &serde_json::Value| rows.as_array().unwrap().iter().map(|r| number(&r["median_ms"])).sum::<f64>();
    let passes: Vec<&str> = p["by_pass"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(passes, ["fprop", "dgrad", "wgrad", "update"]);
    for sums in [&p["by_pass"], &p["by_part"]] {
        assert!((ms(sums) - ms(&p["launches"])).abs() < 1e-6 * ms(sums));
    }
    assert!(launches.iter().all(|l| l["ceiling_percent"].is_f64() && l["definition"] == false));
    let reference = ["profile", "--device", "reference", "--repeat", "1"];
    let table = good(dir.path(), &[&reference, &tiny[..]].concat());
    assert!(table.contains("definition: no routine") && !table.contains("ceilings"), "{table}");
}

#[test]
fn gradcheck_compares_every_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["gradcheck", "--features", "object", "--elements", "2", "--json"];
    let g = json(&good(dir.path(), &args));
    let results = g["results"].as_array().unwrap();
    // 13 convolutions, 3 dense layers of the tower, 4 of the head: weight and bias.
    assert_eq!((results.len(), &g["passed"], &g["wrong"]), (40, &true.into(), &0.into()));
    assert!(good(dir.path(), &["gradcheck", "vgg11", "--elements", "1"]).contains("0 wrong"));
    let full = ["gradcheck", "--full", "--features", "object", "--width", "32", "--directions", "1"];
    assert!(good(dir.path(), &full).contains("0 wrong"));
}

/// Deep networks too, whose last layers see one pixel of each picture: their loss bends sharply, and kinks are near.
#[test]
fn gradcheck_passes_on_every_network() {
    let dir = tempfile::tempdir().unwrap();
    // Batch norms take away what Keras's ResNet has for biases: their gradient is 0, and differences are rounding alone. Its
    // ops and those of Keras's DenseNet are others' here, and their step is checked in a random direction.
    let same = ["resnet101-keras", "densenet201-keras"];
    for network in deep_affect::models::ALL.iter().filter(|n| !same.contains(&n.name)) {
        for seed in ["1", "2", "3", "4", "5"] {
            let said = good(dir.path(), &["gradcheck", network.name, "--elements", "1", "--seed", seed]);
            assert!(said.contains(" 0 wrong"), "{} {seed}: {said}", network.name);
        }
    }
}

/// A weight that is no number is traced to the first op that met it.
#[test]
fn check_finite_names_the_first_op() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = unsealed(model().to_vec());
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors = json(text(&bytes[8..8 + header]));
    let start = tensors["object.conv3_2.bias"]["data_offsets"][0].as_u64().unwrap() as usize + 8 + header;
    bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(dir.path().join("m.safetensors"), bytes).unwrap();
    image::RgbImage::from_pixel(32, 32, image::Rgb([9, 99, 199])).save(dir.path().join("a.png")).unwrap();
    let args = ["predict", "--model", "m.safetensors", "a.png"];
    bad(dir.path(), &args, 1, &["no finite rating"]);
    let parts = ["object.conv3_2", "conv.fprop", "first op", "`object.conv3_2.bias`", "NaN in element 0"];
    bad(dir.path(), &[&args[..], &["--check-finite"]].concat(), 1, &parts);
}

/// Half of the bytes of a dense layer; ratings are those of `--precision fp16`, which rounds the same weights.
#[test]
fn a_narrowed_model_rates_as_rounding_does() {
    let dir = folder();
    let p = dir.path();
    let out = run(p, &["weights", "narrow", "m.safetensors", "--out", "n.safetensors"]);
    assert!(out.status.success() && text(&out.stderr).contains("1 dense layers in 16 bits"), "{}", text(&out.stderr));
    let rate = |model: &str, more: &[&str]| {
        let args = ["predict", "--model", model, "--format", "jsonl", "pictures/1.png", "pictures/2.png"];
        let mut rows = rows(&good(p, &[&args[..], more].concat()));
        rows.iter_mut().for_each(|r| r["model"] = "".into());
        rows
    };
    let narrowed = rate("n.safetensors", &[]);
    assert_eq!(narrowed, rate("m.safetensors", &["--precision", "fp16"]));
    assert_ne!(narrowed, rate("m.safetensors", &["--precision", "bf16"]));
    let again = ["weights", "narrow", "n.safetensors", "--out", "again.safetensors"];
    bad(p, &again, 1, &["n.safetensors", "no dense layer in float32"]);
    assert!(!p.join("again.safetensors").exists());
}

/// torchvision's convolutions of VGG16 at full width, as someone might have them in half precision.
fn published(path: &Path) {
    let mut entries = vec![];
    let (mut at, mut inputs) = (0, 3);
    for (channels, convs) in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)] {
        for _ in 0..convs {
            entries.push((format!("features.{at}.weight"), vec![channels, inputs, 3, 3]));
            entries.push((format!("features.{at}.bias"), vec![channels]));
            (at, inputs) = (at + 2, channels);
        }
        at += 1;
    }
    let value = |i: usize| half::f16::from_f32((i % 11) as f32 * 0.01 - 0.05);
    let values = |shape: &[usize]| (0..shape.iter().product()).map(value).collect::<Vec<_>>();
    let data: Vec<Vec<half::f16>> = entries.iter().map(|e| values(&e.1)).collect();
    let tensors: Vec<Entry> = entries
        .iter()
        .zip(&data)
        .map(|((name, shape), x)| Entry::bytes(name, Dtype::F16, shape, bytemuck::cast_slice(x)))
        .collect();
    write(path, &BTreeMap::from([("licence".to_string(), "CC0".to_string())]), &tensors).unwrap();
}

#[test]
fn a_published_file_is_imported_looked_into_and_used() {
    let dir = folder();
    let p = dir.path();
    published(&p.join("vgg16.bin"));
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let import = ["weights", "import", "vgg16.bin", "--as", "vgg16", "--out"];
    let said = json(good(p, &[&import[..], &["tower.safetensors", "--json"]].concat()));
    assert_eq!((&said["parameters"], &said["tensors"]), (&14_714_688.into(), &26.into()));
    assert_eq!((said["preprocess"].as_str(), said["licence"].as_str()), (Some("torch"), Some("CC0")));
    let over = said["peak_memory_mib"].as_f64().unwrap() - said["source_bytes"].as_f64().unwrap() / f64::from(1 << 20);
    assert!(over <= 64.0, "{over} MiB beside the file");
    let text = good(p, &["weights", "inspect", "tower.safetensors"]);
    assert!(text.contains("deep-affect vgg16, no classifier") && text.contains("metadata source_sha256: "), "{text}");
    let text = good(p, &["weights", "diff", "vgg16.bin", "tower.safetensors"]);
    assert_eq!(text, "26 of 26 tensors are equal\n");
    let mut seen = BTreeMap::new();
    for (output, width) in [("pooled", 512), ("block3", 256), ("block3+block5", 768)] {
        let args = ["features", "tower.safetensors", "pictures/0.png", "--image", "32", "--json", "--output", output];
        let line = json(good(p, &args));
        assert_eq!(line["values"].as_array().unwrap().len(), width);
        assert_eq!((line["top"].as_array().unwrap().len(), line["output"].as_str()), (5, Some(output)));
        seen.insert(output, line["values"].as_array().unwrap().clone());
    }
    assert_eq!(seen["block3+block5"], [&seen["block3"][..], &seen["pooled"]].concat());
    let out = run(p, &["features", "tower.safetensors", "pictures", "--output", "block9"]);
    assert!(
        out.status.code() == Some(2) && text_of(&out).contains("`block9` is not softmax, penultimate, pooled or"),
        "{out:?}"
    );
    // At a quarter of the size, and nearly the same.
    good(p, &[&import[..], &["narrow.safetensors", "--store", "int8"]].concat());
    let bytes = |name: &str| std::fs::metadata(p.join(name)).unwrap().len();
    assert!(bytes("narrow.safetensors") < bytes("tower.safetensors") / 4 + 50_000);
    // Every filter's largest weight is 0.05, so a step is 0.05 / 127, and rounding is off by half of it at most.
    let apart = json(good(p, &["weights", "diff", "tower.safetensors", "narrow.safetensors", "--json"]));
    let largest = |row: &serde_json::Value| row["largest_difference"].as_f64().unwrap();
    let (weights, others): (Vec<_>, Vec<_>) =
        apart["rows"].as_array().unwrap().iter().partition(|r| r["name"].as_str().unwrap().ends_with(".weight"));
    assert!(
        weights.len() == 13 && weights.iter().all(|r| (1e-6..=0.05 / 254.0 * 1.001).contains(&largest(r))),
        "{apart}"
    );
    assert!(others.iter().all(|r| r["status"] == "equal"), "{apart}");
    let args = ["features", "narrow.safetensors", "pictures/0.png", "--image", "32", "--json", "--output", "pooled"];
    assert_ne!(json(good(p, &args))["values"].as_array().unwrap(), seen["pooled"].as_slice());
    bad(p, &["features", "tower.safetensors", "pictures"], 1, &["has no dense layers", "--output pooled"]);
    bad(p, &["features", "vgg16.bin", "pictures"], 1, &["torchvision vgg16", "weights import", "--as vgg16"]);
    // Far from what the origin of the weights prescribes: said at once, and again when pictures are looked at.
    let out = run(p, &[&import[..], &["wrong.safetensors", "--preprocess", "keras"]].concat());
    assert!(out.status.success() && text_of(&out).contains("warning: --preprocess keras: conv1_1 gives"), "{out:?}");
    let out = run(p, &["features", "wrong.safetensors", "pictures/0.png", "--image", "32", "--output", "pooled"]);
    assert!(out.status.success() && text_of(&out).contains("warning: tower vgg16: conv1_1 gives"), "{out:?}");
}

fn text_of(out: &Output) -> &str {
    text(&out.stderr)
}

#[test]
fn bad_weight_files() {
    let dir = folder();
    let p = dir.path();
    let fixture = |name: &str| {
        let to = p.join(name);
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name), to).unwrap();
        name.to_string()
    };
    let [torch, norm, keras] = ["torch.pth", "torch-bn.pth", "keras1.h5"].map(fixture);
    let text = good(p, &["weights", "diff", &torch, &keras]);
    assert_eq!(text, "32 of 32 tensors are equal\n");
    let text = good(p, &["weights", "diff", &torch, &norm]);
    assert!(text.contains("only in the second") && text.contains("norm1_1.running_mean"), "{text}");
    let text = good(p, &["weights", "inspect", &keras]);
    assert!(
        text.contains("keras1.h5: Keras HDF5") && text.contains("recognised as: Keras vgg16, 10 classes"),
        "{text}"
    );
    let import = |file: &str, network: &str, code: i32, parts: &[&str]| {
        bad(p, &["weights", "import", file, "--as", network, "--out", "o.safetensors"], code, parts);
        assert!(!p.join("o.safetensors").exists());
    };
    import(&torch, "vgg16", 1, &["torch.pth", "mis-shaped", "conv1_1.weight is [3,3,3,3] instead of [64,3,3,3]"]);
    import(&torch, "vgg61", 2, &["unknown network `vgg61`", "vgg16-places365"]);
    import(&norm, "vgg16", 1, &["has batch norm", "--as vgg16-bn", "--fold-batch-norm"]);
    import(&keras, "vgg16-places365", 1, &["contradict each other", "--preprocess"]);
    put(&dir, "lfs.pth", b"version https://git-lfs.github.com/spec/v1\nsize 5\n");
    import("lfs.pth", "vgg16", 1, &["lfs.pth", "byte 0", "Git LFS pointer"]);
    let whole = fs::read(p.join(&torch)).unwrap();
    put(&dir, "cut.pth", &whole[..whole.len() / 2]);
    import("cut.pth", "vgg16", 1, &["cut.pth", "zip"]);
    import("none.pth", "vgg16", 1, &["none.pth", "check the path"]);
    import("pictures", "vgg16", 1, &["it is a folder"]);
}

#[test]
fn cross_validations_are_compared_fold_by_fold() {
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    // Two pictures a fold; an error of e gives a squared error of e^2.
    let table = |errors: [f64; 3], order: [usize; 3]| {
        let mut text = "path,dataset,group,fold,valence_true,valence_predicted,valence_error\n".to_string();
        for fold in order {
            for i in 0..2 {
                text += &format!("p{fold}{i}.png,,,{fold},5,{},0\n", 5.0 + errors[fold]);
            }
        }
        text
    };
    for (name, errors, order) in
        [("a", [1.0, 1.0, 1.0], [0, 1, 2]), ("b", [2.0, 1.5, 1.0], [2, 0, 1]), ("c", [1.0, 1.0, 2.0], [0, 1, 2])]
    {
        fs::create_dir(p.join(name)).unwrap();
        fs::write(p.join(name).join("predictions.csv"), table(errors, order)).unwrap();
    }
    let json: serde_json::Value =
        serde_json::from_str(&good(p, &["study", "compare", "a", "b", "c", "--json"])).unwrap();
    assert_eq!((&json["folds"], json["comparisons"].as_array().unwrap().len()), (&3.into(), 3));
    let first = &json["comparisons"][0];
    // Differences -3, -1.25, 0: mean -17/12, SD 1.5069.
    let t = first["test"]["t"].as_f64().unwrap();
    close!(t, -1.6283, epsilon = 1e-3);
    assert!(first["p_holm"].as_f64() >= first["test"]["p"].as_f64());
    assert!(first["test"]["p_corrected"].as_f64() > first["test"]["p"].as_f64());
    let text = good(p, &["study", "compare", "a", "b"]);
    assert!(text.contains("a - b") && text.contains("-1.63") && text.contains("3 folds"), "{text}");

    fs::write(p.join("c/predictions.csv"), table([1.0; 3], [0, 1, 2]).replace("p00.png,,,0", "p00.png,,,1")).unwrap();
    bad(
        p,
        &["study", "compare", "a", "c"],
        1,
        &["c/predictions.csv", "`p00.png` is not in the same fold", "--fold-file"],
    );
    fs::write(p.join("c/predictions.csv"), "path,fold\nx,\n").unwrap();
    bad(p, &["study", "compare", "a", "c"], 1, &["c/predictions.csv", "row 2", "has no fold"]);
    fs::write(p.join("c/predictions.csv"), "path,fold\nx,0\n").unwrap();
    bad(p, &["study", "compare", "c", "c"], 1, &["c/predictions.csv", "row 1", "no rated target"]);
    bad(p, &["study", "compare", "a", "none"], 1, &["none/predictions.csv", "check the path"]);
    assert_eq!(run(p, &["study", "compare", "a"]).status.code(), Some(2));
}

/// A folder with a small model and two pictures.
fn with_pictures() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m.safetensors"), model()).unwrap();
    fs::create_dir(dir.path().join("photos")).unwrap();
    for i in 0..2u8 {
        let picture = image::RgbImage::from_fn(40, 40, |x, y| image::Rgb([100 * i, (5 * x) as u8, (6 * y) as u8]));
        picture.save(dir.path().join(format!("photos/{i}.png"))).unwrap();
    }
    dir
}

#[test]
fn predictions_go_to_a_file_in_the_form_of_its_ending() {
    let dir = with_pictures();
    let p = dir.path();
    let predict = |more: &[&str]| good(p, &[&["predict", "photos", "--model", "m.safetensors"], more].concat());
    let lines = predict(&["--format", "jsonl"]);
    let array = predict(&["--format", "json"]);
    let array: serde_json::Value = serde_json::from_str(&array).unwrap();
    let each: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((array.as_array().unwrap(), each.len()), (&each, 2));
    for (name, form) in [("a.csv", "csv"), ("a.json", "json"), ("a.jsonl", "jsonl"), ("a.txt", "table")] {
        assert_eq!(predict(&["--out", name]), "");
        assert_eq!(fs::read_to_string(p.join(name)).unwrap(), predict(&["--format", form]), "{name}");
    }
    bad(p, &["predict", "photos", "--model", "m.safetensors", "--out", "no/such/a.csv"], 1, &["no/such/a.csv"]);
}

#[test]
fn quiet_means_errors_only_and_unwritable_remarks_are_dropped() {
    let dir = with_pictures();
    let p = dir.path();
    let many = ["photos/0.png"; 18];
    let args = [&["predict", "--model", "m.safetensors", "--format", "csv"], &many[..]].concat();
    let out = run(p, &[&args[..], &["--quiet"]].concat());
    assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), ""));
    assert_eq!(text(&out.stdout).lines().count(), 1 + many.len());
    bad(p, &["predict", "-q", "none.png", "--model", "m.safetensors"], 1, &["none.png"]);
    if Path::new("/dev/full").exists() {
        // A remark about the threads, and a disk that is full behind it.
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = program().args(&args).args(["--threads", "3"]).current_dir(p).stderr(full).output().unwrap();
        assert_eq!((out.status.code(), out.stdout.is_empty()), (Some(0), false));
    }
}

#[test]
fn the_manual_and_completions_have_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    for shell in ["bash", "zsh", "fish"] {
        let script = good(here, &["completions", shell]);
        assert!(script.contains("cross-validate") && script.contains("keep-models"), "{shell}");
    }
    let page = good(here, &["man"]);
    assert!(page.contains(".TH deep-affect") && page.contains("cross\\-validate"), "{page}");
    good(here, &["man", "--out", "man1"]);
    for name in ["deep-affect", "deep-affect-weights-import", "deep-affect-train"] {
        let page = fs::read_to_string(here.join(format!("man1/{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH {name}")), "{name}");
    }
}

#[test]
fn the_terms_of_all_parts_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let text = good(dir.path(), &["licenses"]);
    for part in
        ["MIT or Apache-2.0", "CC0 1.0", "CC BY 4.0", "Soumith Chintala", "zune-jpeg ", "Permission is hereby granted"]
    {
        assert!(text.contains(part), "{part}");
    }
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_come_back_whole() {
    use std::os::unix::ffi::OsStrExt;
    let dir = with_pictures();
    let p = dir.path();
    let name = std::ffi::OsStr::from_bytes(b"b\\\xff\xc3\xa4.png");
    fs::rename(p.join("photos/0.png"), p.join("photos").join(name)).unwrap();
    fs::write(p.join("photos/z\u{e4}\\.png"), b"no picture").unwrap();
    let out = run(p, &["predict", "photos", "--model", "m.safetensors", "--format", "jsonl"]);
    assert_eq!(out.status.code(), Some(1));
    let paths: Vec<String> = text(&out.stdout)
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["path"].as_str().unwrap().to_string())
        .collect();
    // A name that is text stays as it is, backslashes included.
    assert_eq!(paths, ["photos/1.png", "photos/b\\\\\\xff\u{e4}.png", "photos/z\u{e4}\\.png"]);
}

#[test]
fn weights_of_which_nothing_fits_are_refused() {
    let dir = with_pictures();
    let p = dir.path();
    let metadata = BTreeMap::from([("layout".to_string(), "KRSC".to_string()), ("preprocess".into(), "unit".into())]);
    write(p.join("other.safetensors"), &metadata, &[Entry::f32("stem.weight", &[2], &[1.0, 2.0])]).unwrap();
    fs::write(p.join("m.csv"), "path,label,valence,arousal\nphotos/0.png,a,3,4\nphotos/1.png,b,5,6\n").unwrap();
    let small = ["--width", "64", "--image", "32", "--val", "0", "-q", "--weights"];
    let label = ["--label", "label", "--min-count", "1", "--tower", "object", "--out", "o.safetensors"];
    let pretrain = [&["pretrain", "m.csv"], &label[..]].concat();
    bad(p, &[&pretrain[..], &small[..], &["other.safetensors"]].concat(), 1, &["other.safetensors", "none of its"]);
    let train = ["train", "m.csv", "--out", "run", "--features", "object", "--init-missing"];
    bad(p, &[&train[..], &small[..], &["object=other.safetensors"]].concat(), 1, &["other.safetensors", "none of its"]);
}

/// Cells and names are whatever somebody wrote: what is said of them is one write a line, short enough to be read, and nothing
/// in it steers the terminal.
#[cfg(unix)]
#[test]
fn what_is_said_is_one_write_and_one_line() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    let cell = "\u{202e}x".repeat(4 << 20);
    fs::write(p.join("set.csv"), format!("path,valence,arousal\na.png,{cell},5\n")).unwrap();
    fs::write(p.join("name.csv"), format!("path,valence,arousal\n{cell},5,5\nb.png,5,5\n")).unwrap();
    fs::write(p.join("column.csv"), format!("{cell},valence,arousal\na.png,5,5\n")).unwrap();
    fs::write(p.join("study.toml"), format!("title = \"a\"\n\"{cell}\" = 1\n")).unwrap();
    let commands: [&[&str]; 7] = [
        &["train", "set.csv", "--out", "run"],
        &["train", "name.csv", "--out", "run"],
        &["merge", "column.csv", "set.csv", "--out", "all.csv"],
        &["study", "run", "study.toml", "--out", "run"],
        &["predict", "no\u{1b}[2J\u{2028}error: .jpg"],
        &["predict", "a.jpg", "--batch", "\u{202e}\u{9b}31m"],
        &["predict", "--\u{1b}[31m\u{202e}"],
    ];
    for args in commands {
        // A datagram for each write.
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        let mut child =
            program().args(args).current_dir(p).stderr(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn().unwrap();
        let (mut written, mut buffer) = (vec![], vec![0; 1 << 20]);
        loop {
            match ours.recv(&mut buffer) {
                Ok(n) => written.push(text(&buffer[..n]).to_string()),
                Err(_) if child.try_wait().unwrap().is_some() => break,
                Err(_) => {}
            }
        }
        assert!(!child.wait().unwrap().success() && !written.is_empty(), "{args:?}");
        for said in &written {
            // Of words that are no command there is more to say.
            let lines = said.lines().count();
            assert!(said.ends_with('\n') && (lines == 1 || args[1].starts_with("--")), "{args:?}: {said:?}");
            let steers = |c: char| c != '\n' && deep_affect::error::shown(c) != c;
            assert!(said.len() < 20_000 && !said.contains(steers), "{args:?}: {} bytes, {said:.200?}", said.len());
        }
    }
}
