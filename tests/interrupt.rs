//! Runs that are stopped, as people do it to the program (those that are killed or run out of disk are in `promises`):
//! afterwards everything that is there is whole, and the run that goes on ends as if nothing had happened. And the long
//! commands, once each, in miniature.
#![cfg(unix)]

#[path = "common/runs.rs"]
mod runs;

mod emoji;

use deep_affect::atomic;
use deep_affect::bundled;
use deep_affect::rng::{Rng, Stream};
use deep_affect::train::checkpoint;
use deep_affect::weights::WeightFile;
use deep_affect::weights::header::Info;
use deep_affect::weights::write::{Entry, write_to};
use runs::*;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// An uninterrupted run of about two seconds: its epochs, its results and how long it took.
fn uninterrupted() -> (String, [Vec<u8>; 2], Duration) {
    let dir = folder();
    let start = Instant::now();
    good(dir.path(), &train("20", &[]));
    let each = start.elapsed().as_secs_f64() / 20.0;
    fs::remove_dir_all(dir.path().join("run")).unwrap();
    let epochs = ((2.0 / each) as u32).clamp(20, 3000).to_string();
    let start = Instant::now();
    good(dir.path(), &train(&epochs, &[]));
    let time = start.elapsed();
    println!("{epochs} epochs in {time:.1?}");
    same(dir.path(), &results(dir.path()));
    (epochs, results(dir.path()), time)
}

/// Starts a run, waits until it has written its first checkpoint and a little more, and sends a signal.
fn stopped(dir: &Path, args: &[&str], name: &str, wait: Duration) -> (ExitStatus, String) {
    let mut child = program(dir, args).spawn().unwrap();
    let start = Instant::now();
    while !dir.join(CHECKPOINT).exists() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint after a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(wait);
    signal(&child, name);
    if name == "-TERM" {
        // As Slurm does: once to every process of a task, once by way of its script.
        signal(&child, name);
    }
    let out = child.wait_with_output().unwrap();
    (out.status, text(&out.stderr).to_string())
}

#[test]
fn stopped_runs_end_like_others() {
    let (epochs, want, time) = uninterrupted();
    let (first, again) = (train(&epochs, &[]), train(&epochs, &["--resume"]));

    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let dir = folder();
        // At once: a run that is as slow as the one above was need not be this one.
        let (status, err) = stopped(dir.path(), &first, name, Duration::ZERO);
        assert_eq!(status.code(), Some(code), "{name}: {err}");
        assert!(err.lines().last().unwrap().starts_with("error: stopped "), "{err}");
        assert!(err.contains("stopping after this step"), "{err}");
        let half = state(dir.path());
        assert!(!half.finished && half.step > 0 && half.epoch < epochs.parse().unwrap());
        assert!(!dir.path().join("run/predictions.csv").exists());
        // What there is can be used.
        let picture = ["predict", "--model", CHECKPOINT, "pictures/3.png"];
        assert!(good(dir.path(), &picture).contains("valence_1to9"));
        // And stopped once more.
        let (status, err) = stopped(dir.path(), &again, name, time / 8);
        assert!(status.code() == Some(code) || status.success(), "{name}: {err}");
        good(dir.path(), &again);
        same(dir.path(), &want);
        // A finished run is not continued: its report is written again, and more epochs are refused.
        fs::remove_file(dir.path().join("run/predictions.csv")).unwrap();
        good(dir.path(), &again);
        same(dir.path(), &want);
        let out = program(dir.path(), &train("9999", &["--resume"])).output().unwrap();
        assert!(complaint(&out).contains("finished run") && out.status.code() == Some(1), "{}", complaint(&out));
    }
}

#[test]
fn a_tower_is_gone_on_with_too() {
    let (whole, dir) = (folder(), folder());
    let args = "pretrain set.csv --label kind --tower object --out tower.safetensors --width 32 --dense 8,8 --image 32 \
                --epochs 12 --batch 4 --threads 1 --checkpoint-every 0";
    let args: Vec<&str> = args.split_whitespace().collect();
    good(whole.path(), &args);
    let kept = dir.path().join("tower.safetensors.checkpoint");
    let mut child = program(dir.path(), &args).spawn().unwrap();
    let state = || checkpoint::card(&WeightFile::open(&kept).unwrap()).unwrap().state;
    while !kept.exists() || state().step < 7 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before update 7");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!dir.path().join("tower.safetensors").exists());
    good(dir.path(), &[&args[..], &["--resume"]].concat());
    let [got, want] = [&dir, &whole].map(|d| fs::read(d.path().join("tower.safetensors")).unwrap());
    assert!(got == want, "another tower");
    assert!(!kept.exists() && !atomic::previous(&kept).exists());
    let out = program(dir.path(), &[&args[..], &["--resume"]].concat()).output().unwrap();
    assert!(complaint(&out).contains("tower.safetensors.checkpoint: "), "{}", complaint(&out));
}

/// A run that has written its first checkpoint and has long to go; `signals` is what `env` makes of those it is born with.
fn under_way(dir: &Path, signals: &str) -> Child {
    let mut c = Command::new("env");
    c.args([signals, env!("CARGO_BIN_EXE_deep-affect")]).args(train("100000", &[])).current_dir(dir);
    let mut child = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !dir.join(CHECKPOINT).exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[cfg(target_os = "linux")]
#[test]
fn what_each_signal_asks_for() {
    let dir = folder();
    let p = dir.path();
    let mut child = under_way(p, "--default-signal=HUP");
    for _ in 0..2 {
        let before = state(p);
        signal(&child, "-USR1");
        let start = Instant::now();
        while state(p).step == before.step {
            // At the end of an epoch it would be written after half a minute.
            assert!(start.elapsed() < Duration::from_secs(20), "nothing was written");
            assert!(child.try_wait().unwrap().is_none(), "the run ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let asked = state(p);
    signal(&child, "-HUP");
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(143), "{}", text(&out.stderr));
    assert!(complaint(&out).starts_with("error: stopped "), "{}", complaint(&out));
    let wrote = text(&out.stderr).lines().filter(|l| l.contains("checkpoint.safetensors, as asked, in epoch "));
    assert_eq!(wrote.count(), 2, "{}", text(&out.stderr));
    let (last, before) =
        (state(p), checkpoint::card(&WeightFile::open(p.join("run/checkpoint.safetensors.previous")).unwrap()));
    assert!(last.step > asked.step && before.unwrap().state == asked);

    // Under `nohup` a terminal may be closed.
    fs::remove_dir_all(p.join("run")).unwrap();
    let mut child = under_way(p, "--ignore-signal=HUP");
    signal(&child, "-HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "the run ended");
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// A command without steps ends by the first signal: it would not look whether there was one for a long time.
#[test]
fn one_signal_ends_what_has_no_steps() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["gradcheck", "vgg16", "--full", "--image", "224", "--directions", "1000000"];
    let mut child = program(dir.path(), &args).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = [0];
    // It has begun: it says that it will take long.
    child.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));

    // One that asks between its parts, and waits for something that never comes.
    let args = ["profile", "vgg16", "--image", "32", "--width", "32", "--threads", "1", "--paced"];
    let mut child = program(dir.path(), &args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    signal(&child, "-INT");
    // `wait` would close its input, and end it so.
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "one signal does not end it");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[cfg(target_os = "linux")]
#[test]
fn the_room_on_a_disk_is_looked_at_before_the_first_update() {
    let dir = folder();
    fs::create_dir(dir.path().join("run")).unwrap();
    let within = |size: &str, command: &[&str]| {
        let script = format!("mount -t tmpfs -o size={size} none run && exec \"$@\"");
        let mut c = Command::new("unshare");
        c.args(["-rm", "sh", "-c", &script, "sh"]).args(command).current_dir(dir.path()).output().unwrap()
    };
    if !within("1m", &["true"]).status.success() {
        println!("SKIPPED: 1 test, no disk of a chosen size can be made here");
        return;
    }
    let program = [&[env!("CARGO_BIN_EXE_deep-affect")][..], &train("2", &[])].concat();
    let refused = |mib: u64| -> u64 {
        let out = within(&format!("{mib}m"), &program);
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
        let line = complaint(&out);
        let needed = line
            .strip_prefix("error: run/checkpoint.safetensors: checkpoints need ")
            .unwrap_or_else(|| panic!("{line}"));
        needed.split_once(" MiB more").unwrap().0.parse().unwrap()
    };
    let needed = refused(1);
    assert_eq!(refused(needed - 1), needed);
    // The pictures take some of it.
    let out = within(&format!("{}m", needed + 1), &program);
    assert!(out.status.success(), "{}", text(&out.stderr));
}

#[test]
fn a_run_resumes_only_on_its_own_data_and_settings() {
    let dir = folder();
    let p = dir.path();
    let out = program(p, &train("2", &["--resume"])).output().unwrap();
    assert!(complaint(&out).contains("checkpoint.safetensors: "), "{}", complaint(&out));
    let (status, _) = stopped(p, &train("3000", &[]), "-INT", Duration::ZERO);
    assert_eq!(status.code(), Some(130));
    let refused = |more: &[&str], part: &str| {
        let out = program(p, &train("3000", &[&["--resume"], more].concat())).output().unwrap();
        assert!(out.status.code() == Some(1) && complaint(&out).contains(part), "{}", complaint(&out));
    };
    refused(&["--lr", "0.1"], "with other settings");
    refused(&["--keep", "0.9"], "with other settings");
    refused(&["--seed", "4"], "on other data");
    // Another picture of the same name and size.
    let picture = p.join("pictures/5.png");
    let old = fs::read(&picture).unwrap();
    image::RgbImage::from_pixel(45, 30, image::Rgb([1, 2, 3])).save(&picture).unwrap();
    refused(&[], "on other data");
    fs::write(&picture, old).unwrap();
    // Fewer epochs than were run: the best weights so far.
    good(p, &train("1", &["--resume"]));
    assert!(state(p).finished);
}

#[test]
fn a_folder_that_cannot_be_written_is_one_line() {
    let dir = folder();
    fs::write(dir.path().join("file"), "").unwrap();
    fs::create_dir(dir.path().join("closed")).unwrap();
    let mode = |m| fs::set_permissions(dir.path().join("closed"), std::os::unix::fs::PermissionsExt::from_mode(m));
    mode(0o555).unwrap();
    let all = fs::write(dir.path().join("closed/probe"), "").is_ok(); // The superuser may write anywhere.
    let _ = fs::remove_file(dir.path().join("closed/probe"));
    let before = files(dir.path());
    for out in ["file", "file/run", "closed/run", "closed"] {
        if all && out.starts_with("closed") {
            println!("not tried: {out}, for the superuser");
            continue;
        }
        let args: Vec<&str> = train("2", &[]).into_iter().map(|a| if a == "run" { out } else { a }).collect();
        let got = program(dir.path(), &args).output().unwrap();
        assert_eq!((got.status.code(), text(&got.stderr).lines().count()), (Some(1), 1), "{}", text(&got.stderr));
        assert!(complaint(&got).contains(out) && complaint(&got).contains("; "), "{}", complaint(&got));
        assert_eq!(files(dir.path()), before);
    }
    mode(0o755).unwrap();
}

#[test]
fn cross_validate_in_miniature() {
    let dir = folder();
    let p = dir.path();
    let of = |out, more: &[&'static str]| {
        let args = [&["cross-validate", "set.csv", "--out", out, "--folds", "2", "--epochs", "2"], &MODEL[..], more];
        good(p, &args.concat())
    };
    let said = of("cv", &["--threads", "2"]);
    assert!(said.contains("valence") && said.contains("arousal"), "{said}");
    let read = |f: &str| fs::read_to_string(p.join(f)).unwrap();
    let (folds, predictions) = (read("cv/folds.csv"), read("cv/predictions.csv"));
    assert_eq!((folds.lines().count(), predictions.lines().count()), (25, 25));
    // Groups stay together: g0 is rows 0 and 1.
    let fold: Vec<&str> = folds.lines().skip(1).map(|l| l.rsplit_once(',').unwrap().1).collect();
    assert!(fold.chunks(2).all(|g| g[0] == g[1]) && fold.contains(&"1") && fold.contains(&"2"), "{folds}");
    let report = |f: &str| read(&format!("{f}/report.html"));
    assert!(report("cv").contains("2-fold cross-validation, groups kept together"));
    let _: serde_json::Value = serde_json::from_str(&read("cv/folds.json")).unwrap();
    // The same folds from the file, on another number of threads: the same predictions.
    of("again", &["--threads", "1", "--fold-file", "cv/folds.csv"]);
    assert_eq!(read("again/predictions.csv"), predictions);
    assert_eq!(strays(p), [] as [PathBuf; 0]);
    // Folds that part every group, from a file: what is said of groups is found in the folds.
    let line = |(i, l): (usize, &str)| match i {
        0 => format!("{l}\n"),
        i => format!("{},{}\n", l.rsplit_once(',').unwrap().0, i % 2),
    };
    fs::write(p.join("parted.csv"), folds.lines().enumerate().map(line).collect::<String>()).unwrap();
    let args = ["cross-validate", "set.csv", "--out", "parted", "--fold-file", "parted.csv", "--epochs", "1"];
    let out = program(p, &[&args[..], &MODEL].concat()).output().unwrap();
    assert!(text(&out.stderr).contains("warning: 12 of 12 groups have pictures in more than one fold"));
    let report = report("parted");
    assert!(report.contains("12 of 12 groups are parted") && !report.contains("kept together"), "{report}");

    let child = program(p, &[&["cross-validate", "set.csv", "--out", "no", "--epochs", "9999"], &MODEL[..]].concat());
    let mut child = { child }.spawn().unwrap();
    while !p.join("no/folds.csv").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "-INT");
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out.stderr));
    assert!(!p.join("no/predictions.csv").exists());
}

#[test]
fn frozen_towers_run_once() {
    let dir = folder();
    let p = dir.path();
    good(p, &train("3", &["--freeze", "all"]));
    let first = results(p);
    let cached = |p: &Path| {
        let name = |f: &PathBuf| f.file_name().unwrap().to_str().unwrap().to_string();
        files(&p.join("run/cache")).iter().map(name).filter(|f| f.starts_with("features-")).collect::<Vec<_>>()
    };
    assert_eq!(cached(p).len(), 2, "a file for each tower");
    for f in ["run/checkpoint.safetensors", "run/predictions.csv"] {
        fs::remove_file(p.join(f)).unwrap();
    }
    good(p, &train("3", &["--freeze", "all"]));
    same(p, &first);
    // What the head was trained to say of a picture, the whole model says.
    let row = text(&first[1]).lines().nth(1).unwrap();
    let path = row.split(',').next().unwrap();
    let said: serde_json::Value = serde_json::from_str(&good(p, &["predict", "--model", CHECKPOINT, path])).unwrap();
    let valence = said["valence_1to9"].as_f64().unwrap() as f32;
    assert!(row.split(',').any(|c| c.parse() == Ok(valence)), "{valence} is not in {row}");
}

/// Who is tested together may stand in the manifest, and how much of a set a model has seen stands in its file.
#[test]
fn the_column_of_folds_and_pictures_that_were_trained_on() {
    let dir = folder();
    let p = dir.path();
    let table = fs::read_to_string(p.join("set.csv")).unwrap();
    // Three folds of eight pictures, in pairs.
    let line = |(i, l): (usize, &str)| match i {
        0 => format!("{l},fold\n"),
        i => format!("{l},{}\n", (i - 1) / 2 % 3 + 1),
    };
    fs::write(p.join("set.csv"), table.lines().enumerate().map(line).collect::<String>()).unwrap();
    let out = program(p, &train("1", &[])).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(complaint(&out).contains("set.csv: has a column `fold`") && complaint(&out).contains("--fold N"));
    let metrics =
        || -> serde_json::Value { serde_json::from_slice(&fs::read(p.join("run/metrics.json")).unwrap()).unwrap() };
    good(p, &train("1", &["--fold", "2"]));
    assert_eq!((metrics()["n_pictures"].as_u64(), metrics()["n_trained_on"].as_u64()), (Some(8), Some(0)));
    let tested = fs::read_to_string(p.join("run/predictions.csv")).unwrap();
    assert!(
        tested.contains("pictures/2.png") && tested.contains("pictures/9.png") && !tested.contains("pictures/4.png")
    );
    let out = program(p, &train("1", &["--fold", "4"])).output().unwrap();
    assert!(complaint(&out).contains("column fold: no row is in fold 4"), "{}", complaint(&out));
    // All pictures: those that were tested on, trained on (four fifths of sixteen, to the pair) and monitored.
    let evaluate = |more: &[&str]| -> serde_json::Value {
        let args = [&["evaluate", "set.csv", "--json", "--model", CHECKPOINT], more].concat();
        serde_json::from_str(&good(p, &args)).unwrap()
    };
    let all = evaluate(&[]);
    let [trained, monitored] = ["n_trained_on", "n_monitored"].map(|k| all[k].as_u64().unwrap());
    assert_eq!((all["n_pictures"].as_u64(), trained + monitored), (Some(24), 16));
    assert!((2..=4).contains(&monitored), "{monitored}");
    assert!(all["notes"].to_string().contains(&format!("trained on {trained} of these 24 pictures")), "{all}");
    assert_eq!(evaluate(&["--fold", "2"])["n_trained_on"].as_u64(), Some(0));
    // The column's folds, and others.
    let cv = |out: &str, more: &[&str]| {
        let args = [&["cross-validate", "set.csv", "--out", out, "--epochs", "1"], &MODEL[..], more].concat();
        program(p, &args).output().unwrap()
    };
    assert!(text(&cv("cv", &[]).stderr).contains("3 folds from the column `fold`"));
    let folds = fs::read_to_string(p.join("cv/folds.csv")).unwrap();
    let got: Vec<&str> = folds.lines().skip(1).map(|l| l.rsplit_once(',').unwrap().1).collect();
    assert_eq!(got, (0..24).map(|i| ["1", "2", "3"][i / 2 % 3]).collect::<Vec<_>>());
    assert!(complaint(&cv("no", &["--folds", "5"])).contains("has 3 folds, not 5"));
    assert!(cv("other", &["--folds", "2", "--ignore-fold-column"]).status.success());
}

/// What a cross-validation's baseline answers is the weighted mean of what the fold's model was trained on, nothing of the
/// fold itself; means over folds lead, and what is pooled is called so.
#[test]
fn the_training_mean_is_out_of_fold_and_weighted() {
    let dir = folder();
    let p = dir.path();
    let table = fs::read_to_string(p.join("set.csv")).unwrap();
    let weight = |i: usize| [1.0, 2.5, 0.5][i % 3];
    let line = |(i, l): (usize, &str)| match i {
        0 => format!("{l},weight\n"),
        i => format!("{l},{}\n", weight(i - 1)),
    };
    fs::write(p.join("set.csv"), table.lines().enumerate().map(line).collect::<String>()).unwrap();
    let args = ["cross-validate", "set.csv", "--out", "cv", "--folds", "3", "--head", "ridge"];
    good(p, &[&args[..], &FROZEN].concat());
    let read = |f: &str| fs::read_to_string(p.join("cv").join(f)).unwrap();
    let fold: Vec<u32> =
        read("folds.csv").lines().skip(1).map(|l| l.rsplit_once(',').unwrap().1.parse().unwrap()).collect();
    let valence: Vec<f64> = table.lines().skip(1).map(|l| l.split(',').nth(1).unwrap().parse().unwrap()).collect();
    let mean = |of: &dyn Fn(usize) -> f64, rows: &dyn Fn(usize) -> bool| {
        let rows: Vec<usize> = (0..24).filter(|&i| rows(i)).collect();
        rows.iter().map(|&i| weight(i) * of(i)).sum::<f64>() / rows.iter().map(|&i| weight(i)).sum::<f64>()
    };
    let answer = |f: u32| mean(&|i| valence[i], &|i| fold[i] != f);
    let error = |i: usize| (valence[i] - answer(fold[i])).powi(2);
    let metrics: serde_json::Value = serde_json::from_str(&read("metrics.json")).unwrap();
    let baseline = &metrics["targets"]["valence"]["baseline"];
    let got = baseline["mse_points2"].as_f64().unwrap();
    assert!((got - mean(&error, &|_| true)).abs() <= 1e-9, "{got}");
    let each: Vec<f64> = (1..=3).map(|f| mean(&error, &|i| fold[i] == f)).collect();
    let over = &metrics["over_folds"]["dimensions"][0]["measures"][0];
    let got = over["baseline"]["mean"].as_f64().unwrap();
    assert!(over["measure"] == "mse" && (got - each.iter().sum::<f64>() / 3.0).abs() <= 1e-9, "{over}");
    assert_eq!((&metrics["weighted"], &metrics["pooled_over_folds"]), (&true.into(), &true.into()));
    // Who answers the mean of the others errs against them: a pooled correlation without any signal is below 0.
    assert!(baseline["pearson_r"].as_f64().unwrap() < 0.0, "{baseline}");
    let page = read("report.html");
    let [first, second] = ["Means over 3 folds", "Pooled: the pictures"].map(|part| page.find(part).unwrap());
    assert!(first < second && page.contains("Pearson r, mean of folds"));
    // What another program reads has the weights too.
    assert!(read("predictions.csv").starts_with("path,dataset,group,fold,weight,valence_true"));
}

const FROZEN: [&str; 12] = [
    "--image",
    "32",
    "--width",
    "32",
    "--init-missing",
    "--features",
    "object",
    "--tower-output",
    "block4+block5",
    "--freeze",
    "all",
    "--val=0.2",
];

/// `train` with heads for features that do not change; stderr.
fn head(dir: &Path, more: &[&str]) -> String {
    let args = [&TRAIN[..], &FROZEN, &["--test", "0.2", "--epochs", "2"], more].concat();
    let out = program(dir, &args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stderr).to_string()
}

#[test]
fn a_ridge_head_is_a_head_like_any_other() {
    let dir = folder();
    let p = dir.path();
    let said = head(p, &["--head", "ridge"]);
    assert!(said.contains("Head: ridge, penalties by inner folds: valence "), "{said}");
    assert!(said.contains(" 0 to monitor") && !said.contains("Epochs: "), "{said}");
    let first = results(p);
    fs::remove_file(p.join(CHECKPOINT)).unwrap();
    head(p, &["--head", "ridge"]);
    same(p, &first);
    head(p, &["--head", "ridge", "--resume"]);
    same(p, &first);
    fs::remove_file(p.join(CHECKPOINT)).unwrap();
    let said = head(p, &["--head", "by-size"]);
    assert!(said.contains("head: ridge, because there are 24 pictures (ridge below 250; --head decides"), "{said}");
    same(p, &first);
    let row = text(&first[1]).lines().nth(1).unwrap();
    let said: serde_json::Value =
        serde_json::from_str(&good(p, &["predict", "--model", CHECKPOINT, row.split(',').next().unwrap()])).unwrap();
    let valence = said["valence_1to9"].as_f64().unwrap() as f32;
    assert!(row.split(',').any(|c| c.parse() == Ok(valence)), "{valence} is not in {row}");
    good(p, &["evaluate", "--model", CHECKPOINT, "set.csv"]);
    for format in ["onnx", "torch-names"] {
        good(p, &["weights", "export", CHECKPOINT, "--format", format, "--out", format]);
    }
    // Where the features change there is nothing to solve for.
    let changing: Vec<&str> = FROZEN.into_iter().filter(|f| !["--freeze", "all"].contains(f)).collect();
    let out = program(p, &[&TRAIN[..], &changing, &["--head", "ridge"]].concat()).output().unwrap();
    assert!(complaint(&out).contains("--freeze all"), "{}", complaint(&out));
}

#[test]
fn from_250_pictures_on_the_head_by_size_has_a_hidden_layer() {
    let dir = folder();
    let p = dir.path();
    let mut table = "path,valence,arousal\n".to_string();
    for i in 0..250u32 {
        let pixel = [i as u8, 255 - i as u8, (i * 7 % 256) as u8];
        fs::write(p.join(format!("{i}.ppm")), [&b"P6 32 32 255\n"[..], &pixel.repeat(32 * 32)].concat()).unwrap();
        table += &format!("{i}.ppm,{:.2},{:.2}\n", 1.0 + f64::from(i % 80) / 10.0, 9.0 - f64::from(i % 70) / 10.0);
    }
    fs::write(p.join("set.csv"), table).unwrap();
    let said = head(p, &["--head", "by-size"]);
    assert!(said.contains("head: one hidden layer, because there are 250 pictures"), "{said}");
    let file = WeightFile::open(p.join(CHECKPOINT)).unwrap();
    assert_eq!(file.info("head.fc1.bias").unwrap().shape, [64]);
}

#[test]
fn the_head_is_chosen_when_asked() {
    let dir = folder();
    let p = dir.path();
    let said = head(p, &["--head", "auto"]);
    let chosen = said.lines().find(|l| l.starts_with("Head: ")).unwrap();
    assert!(chosen.contains("chosen by 3 inner folds (squared error over variance: ridge "), "{said}");
    assert!(chosen.contains("one hidden layer of 192 ") && chosen.contains("3000-1000-500 "), "{said}");
    let first = results(p);
    let said = head(p, &["--head", "auto", "--resume"]);
    assert!(said.contains("chosen when the run began"), "{said}");
    same(p, &first);
    // Every fold chooses for itself.
    let args = [&["cross-validate", "set.csv", "--out", "cv", "--folds", "2", "--head", "auto"][..], &FROZEN].concat();
    let out = program(p, &[&args[..], &["--epochs", "1"]].concat()).output().unwrap();
    assert_eq!(text(&out.stderr).matches("chosen by 3 inner folds").count(), 2, "{}", text(&out.stderr));
}

#[test]
fn pretrain_on_drawings_and_train_on_it() {
    let dir = folder();
    let p = dir.path();
    let csv = emoji::unpack(&p.join("emoji"));
    let tiny = ["--epochs", "1", "--width", "64", "--dense", "8", "--image", "32", "--out", "tower.safetensors"];
    let args = [&["pretrain", csv.to_str().unwrap(), "--label", "face", "--tower", "object"][..], &tiny].concat();
    let said = good(p, &args);
    assert!(said.contains("5 classes, 1 epochs") && said.contains("% right"), "{said}");
    let said = good(p, &["weights", "inspect", "tower.safetensors"]);
    assert!(said.contains("conv1_1.weight") && said.contains("happiness"), "{said}");
    let weights = ["--features", "object", "--weights", "object=tower.safetensors", "--image", "32", "--head", "6"];
    good(p, &[&TRAIN[..], &weights, &["--epochs", "2"]].concat());
    let out = program(p, &[&args[..], &["--min-count", "5000"]].concat()).output().unwrap();
    assert!(complaint(&out).contains("fewer than two classes"), "{}", complaint(&out));
}

#[test]
fn profile_as_table_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = ["--width", "64", "--image", "32", "--head", "8", "--repeat", "2", "--threads", "2"];
    for pass in ["infer", "train"] {
        let args = [&["profile", "--pass", pass, "--batch", "2"], &tiny[..]].concat();
        let table = good(dir.path(), &args);
        for part in ["object.conv1_1", "conv.fprop", "GFLOP", "median"] {
            assert!(table.contains(part), "{table}");
        }
        assert!(!table.contains("definition: no routine"), "{table}");
        let json: serde_json::Value =
            serde_json::from_str(&good(dir.path(), &[&args[..], &["--json"]].concat())).unwrap();
        let launches = json["launches"].as_array().unwrap();
        assert_eq!((json["pass"].as_str(), json["batch"].as_u64()), (Some(pass), Some(2)));
        assert!(launches.len() > 40 && json["median_s"].as_f64().unwrap() > 0.0);
        assert!(launches.iter().all(|l| l["definition"] == false && l["median_ms"].as_f64().unwrap() >= 0.0));
        assert!(launches.iter().all(|l| l["share_percent"].as_f64().unwrap() >= 0.0));
        assert_eq!(launches.iter().any(|l| l["op"] == "sgd"), pass == "train");
    }
}

#[test]
fn the_demo_in_miniature() {
    if bundled::tower().is_none() {
        println!("SKIPPED: 1 test, this program was built without the bundled VGG16");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let demo = ["demo", "--epochs", "1", "--image", "32", "--out", "demo"];
    let out = program(dir.path(), &demo).output().unwrap();
    let (said, remarks) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{remarks}");
    assert!(said.contains("valence") && said.contains("arousal"), "{said}");
    assert!(remarks.contains("over 10 splits by theme: test r of valence "), "{remarks}");
    let names =
        ["checkpoint.safetensors", "predictions.csv", "metrics.json", "report.html", "NOTICE", "photographs.csv"];
    for f in names {
        assert!(dir.path().join("demo").join(f).exists(), "{f}");
    }
    // Whole themes are tested, and the last block was trained.
    let tested = fs::read_to_string(dir.path().join("demo/predictions.csv")).unwrap();
    assert!((40..80).contains(&tested.lines().count()), "{tested}");
    let weight = |file: &str, name: &str| {
        WeightFile::open(dir.path().join("demo").join(file))
            .unwrap()
            .tensor(name)
            .unwrap()
            .to_f32()
            .unwrap()
            .into_owned()
    };
    for (layer, trained) in
        [("object.conv4_3.weight", false), ("object.conv5_1.weight", true), ("head.fc1.weight", true)]
    {
        let same = weight("head.safetensors", layer) == weight("checkpoint.safetensors", layer);
        assert_eq!(same, !trained, "{layer}");
    }
    let page = fs::read_to_string(dir.path().join("demo/report.html")).unwrap();
    // Those that would cover another are left out.
    assert!(page.matches("<image ").count() > 10);
    // A finished run that is gone on with writes the same.
    let first = fs::read(dir.path().join("demo/predictions.csv")).unwrap();
    good(dir.path(), &[&demo[..], &["--resume"]].concat());
    assert!(fs::read(dir.path().join("demo/predictions.csv")).unwrap() == first);
    assert_eq!(strays(dir.path()), [] as [PathBuf; 0]);
}

#[test]
fn numbers_that_no_run_can_go_by_are_refused_by_name() {
    let dir = folder();
    let p = dir.path();
    let before = files(p);
    let refused = |args: &[&str], flag: &str| {
        let out = program(p, &[args, &[flag]].concat()).output().unwrap();
        let (err, name) = (text(&out.stderr), flag.split_once('=').unwrap().0);
        assert!(out.status.code() == Some(2) && err.starts_with("error: ") && err.contains(name), "{flag}: {err}");
        assert_eq!(files(p), before, "{flag}");
    };
    let args = train("2", &[]);
    for flag in
        ["--lr=nan", "--lr=inf", "--lr=0", "--lr=-1", "--lr=1e39", "--momentum=nan", "--momentum=1", "--momentum=-inf"]
    {
        refused(&args, flag);
    }
    for flag in ["--weight-decay=nan", "--weight-decay=inf", "--keep=nan", "--keep-features=nan", "--test=nan"] {
        refused(&args, flag);
    }
    for minutes in ["nan", "-1", "inf", "1e9", "soon"] {
        refused(&args, &format!("--checkpoint-every={minutes}"));
    }
    let pretrain = ["pretrain", "set.csv", "--label", "kind", "--tower", "object", "--out", "t.safetensors"];
    for flag in ["--lr=inf", "--keep=nan", "--keep=0"] {
        refused(&pretrain, flag);
    }
    refused(&["train-face", "set.csv", "--label", "kind", "--out", "face"], "--momentum=nan");
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_the_one_before_is_used() {
    let dir = folder();
    let (p, path) = (dir.path(), dir.path().join(CHECKPOINT));
    let predict = ["predict", "pictures/3.png", "--model", CHECKPOINT, "--threads", "1"];
    good(p, &train("4", &[]));
    let (want, ratings) = (results(p), good(p, &predict));
    damage(&path);
    let out = program(p, &predict).output().unwrap();
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(1), ""));
    let line = complaint(&out);
    assert!(line.contains("checkpoint.safetensors: tensor `") && line.contains("the file is damaged"), "{line}");

    let out = program(p, &train("4", &["--resume"])).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stderr).lines().filter(|l| l.contains("going on from the checkpoint before")).count();
    assert_eq!(said, 1, "{}", text(&out.stderr));
    same(p, &want);
    // The damaged one is gone, and no good one for it.
    WeightFile::open(atomic::previous(&path)).unwrap().all_intact().unwrap();

    // One as earlier versions wrote it, without checksums.
    let file = WeightFile::open(&path).unwrap();
    let metadata = file.metadata().iter();
    let metadata =
        metadata.map(|(k, v)| (k.clone(), v.replace("deep-affect-checkpoint-2", "deep-affect-checkpoint-1")));
    let tensor = |t: &Info| Entry::bytes(&t.name, t.dtype, &t.shape, &file.as_bytes()[t.range.clone()]);
    let entries: Vec<Entry> = file.infos().iter().map(tensor).collect();
    let mut old = vec![];
    write_to(&mut old, &metadata.collect(), &entries).unwrap();
    fs::write(&path, &old).unwrap();
    assert_eq!(good(p, &predict), ratings);
    good(p, &train("4", &["--resume"]));
    same(p, &want);

    // No good one is left.
    good(p, &train("4", &["--resume"]));
    damage(&path);
    damage(&atomic::previous(&path));
    let out = program(p, &train("4", &["--resume"])).output().unwrap();
    assert!(!out.status.success() && complaint(&out).contains("the file is damaged"));
}

#[test]
fn no_flipped_bit_in_a_tensor_passes() {
    let (half, done, mut rng) = (folder(), folder(), Rng::new(5, Stream::Test(0), 0));
    assert_eq!(stopped(half.path(), &train("3000", &[]), "-INT", Duration::ZERO).0.code(), Some(130));
    fs::remove_file(atomic::previous(&half.path().join(CHECKPOINT))).unwrap_or_default();
    good(done.path(), &train("2", &[]));
    // All of what a run goes on from; all of what a rating comes from.
    let resume = train("3000", &["--resume"]);
    let predict = vec!["predict", "pictures/3.png", "--model", CHECKPOINT, "--threads", "1"];
    for (dir, args) in [(half, resume), (done, predict)] {
        let path = dir.path().join(CHECKPOINT);
        let whole = fs::read(&path).unwrap();
        let places: Vec<(String, Range<usize>)> =
            WeightFile::open(&path).unwrap().infos().iter().map(|t| (t.name.clone(), t.range.clone())).collect();
        println!("{}: {} tensors", args[0], places.len());
        for (name, range) in places {
            let bit = 8 * range.start + rng.below(8 * range.len());
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            let out = program(dir.path(), &args).output().unwrap();
            assert_eq!((out.status.code(), text(&out.stdout)), (Some(1), ""), "bit {bit}, in {name}, passes");
            let line = complaint(&out);
            assert!(line.contains(&format!("tensor `{name}` is not as it was written: the file is damaged")), "{line}");
        }
        fs::write(&path, &whole).unwrap();
        if args[0] == "predict" {
            good(dir.path(), &args);
        }
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_mapped_is_named() {
    let dir = folder();
    let p = dir.path();
    let tower = ["--tower", "object", "--image", "32", "--width", "32", "--epochs", "1", "--threads", "1"];
    good(p, &[&["pretrain", "set.csv", "--label", "kind", "--out", "tower.safetensors"], &tower[..]].concat());
    let frozen = ["--weights", "object=tower.safetensors", "--freeze", "object"];
    let mut child = program(p, &train("100000", &frozen)).spawn().unwrap();
    while !p.join(CHECKPOINT).exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    // In place, as `cp` does it.
    fs::OpenOptions::new().write(true).open(p.join("tower.safetensors")).unwrap().set_len(100).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{:?}: {}", out.status, text(&out.stderr));
    let line = complaint(&out);
    assert!(line.starts_with("error: tower.safetensors: the file was changed while it was being read; "), "{line}");
    // What was kept is whole.
    WeightFile::open(p.join(CHECKPOINT)).unwrap().all_intact().unwrap();
}
