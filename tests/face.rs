//! Faces as people work with them, in miniature: `train-face` from a manifest to the tower that `train` takes, and boxes
//! around faces from a manifest to a rating.
#![cfg(unix)]

use deep_affect::data::{DecodeOptions, LoadOptions, Pictures, Source};
use deep_affect::preprocess::{Area, Crop, Resize, View};
use deep_affect::weights::WeightFile;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Classes and how many pictures the set has of each; `--per-class 10` leaves 10 of the first.
const CLASSES: [(&str, usize); 5] = [("happiness", 12), ("sadness", 9), ("fear", 8), ("anger", 7), ("no-face", 10)];
const USED: [usize; 5] = [10, 9, 8, 7, 10];

/// A picture of its own, whose colour tells the class.
fn draw(path: &Path, class: usize, i: usize) {
    let pixel = |x: u32, y: u32| {
        image::Rgb([(50 * class) as u8, (x * 3 + i as u32) as u8, (255 - 50 * class as u32 - y) as u8])
    };
    image::RgbImage::from_fn(33, 35, pixel).save(path).unwrap();
}

/// A folder with `faces.csv`, in pairs of one group, and its pictures.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("p")).unwrap();
    let mut table = String::from("path,label,group,valence,arousal\n");
    let others = [("neutral", 3), ("uncertain", 2), ("", 1)];
    for (class, (name, n)) in CLASSES.into_iter().chain(others).enumerate() {
        for i in 0..n {
            let path = format!("p/{class}-{i}.png");
            draw(&dir.path().join(&path), class % 5, i);
            table.push_str(&format!("{path},{name},g{class}-{},{},{}\n", i / 2, 1 + class, 2 + i % 5));
        }
    }
    fs::write(dir.path().join("faces.csv"), table).unwrap();
    dir
}

const TINY: [&str; 12] =
    ["--width", "64", "--dense", "8", "--image", "32", "--batch", "8", "--per-class", "10", "--threads", "1"];
const FIVE: [&str; 8] = ["train-face", "faces.csv", "--out", "run", "--classes", "5", "--folds", "3"];

fn five<'a>(epochs: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&FIVE[..], &TINY, &["--lr", "0.01", "--epochs", epochs], more].concat()
}

fn program(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    c.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn good(dir: &Path, args: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = program(dir, args).output().unwrap();
    assert!(status.success(), "{args:?}: {}", text(&stderr));
    (text(&stdout).to_string(), text(&stderr).to_string())
}

/// The one line on stderr that says `error: `.
fn complaint(dir: &Path, args: &[&str]) -> String {
    let out = program(dir, args).output().unwrap();
    let err = text(&out.stderr);
    let lines: Vec<&str> = err.lines().filter(|l| l.starts_with("error: ")).collect();
    assert!(!out.status.success() && lines.len() == 1 && !err.contains("panicked"), "{args:?}: {err}");
    lines[0].to_string()
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn json(dir: &Path, file: &str) -> serde_json::Value {
    serde_json::from_str(&read(dir, file)).unwrap()
}

/// The counts of a confusion matrix.
fn counts(csv: &str) -> Vec<Vec<usize>> {
    csv.lines().skip(1).map(|l| l.split(',').skip(1).map(|c| c.parse().unwrap()).collect()).collect()
}

/// Every file below a folder that does not belong to the cache, with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("cache") {
            continue;
        }
        if path.is_dir() {
            all.extend(files(&path).into_iter().map(|(p, b)| (Path::new(path.file_name().unwrap()).join(p), b)));
        } else {
            all.insert(path.file_name().unwrap().into(), fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn folds_tables_matrices_and_the_tower() {
    let dir = folder();
    let p = dir.path();
    let (said, remarks) = good(p, &five("12", &[]));
    for part in [
        "44 pictures: happiness 10, sadness 9, fear 8, anger 7, no-face 10",
        "fewer than the 10 of --per-class: sadness 9, fear 8, anger 7",
        "left out: neutral 3, no label 1, uncertain 2",
    ] {
        assert!(remarks.contains(part), "{part}: {remarks}");
    }
    // Groups stay together, and every fold has its part of every class.
    let rows: Vec<Vec<String>> = read(p, "run/5-fer/predictions.csv")
        .lines()
        .skip(1)
        .map(|l| l.split(',').map(String::from).collect())
        .collect();
    assert_eq!(rows.len(), 44);
    let mut folds: BTreeMap<String, &str> = BTreeMap::new();
    for r in &rows {
        let (class, i) = r[0].strip_prefix("p/").unwrap().strip_suffix(".png").unwrap().split_once('-').unwrap();
        assert_eq!(CLASSES[class.parse::<usize>().unwrap()].0, r[2]);
        let group = format!("{class}-{}", i.parse::<usize>().unwrap() / 2);
        assert_eq!(*folds.entry(group).or_insert(&r[1]), r[1]);
    }
    for (fold, (name, n)) in (0..3).flat_map(|f| CLASSES.map(|c| c.0).into_iter().zip(USED).map(move |c| (f, c))) {
        let here = rows.iter().filter(|r| r[1] == (fold + 1).to_string() && r[2] == name).count();
        assert!(here.abs_diff(n / 3) <= 2, "{here} of {n} {name} in fold {fold}");
    }
    // The matrices count what predictions.csv lists, and their rows are the classes.
    let matrix = |of: &dyn Fn(&Vec<String>) -> bool| -> Vec<Vec<usize>> {
        let cell = |a: &str, b: &str| rows.iter().filter(|r| of(r) && r[2] == a && r[3] == b).count();
        CLASSES.map(|a| CLASSES.map(|b| cell(a.0, b.0)).to_vec()).to_vec()
    };
    let total = counts(&read(p, "run/5-fer/confusion.csv"));
    assert_eq!(total, matrix(&|_| true));
    assert_eq!(total.iter().map(|r| r.iter().sum::<usize>()).collect::<Vec<_>>(), USED);
    let results = json(p, "run/5-fer/results.json");
    let mut tested = vec![];
    for f in 0..3usize {
        let m = counts(&read(p, &format!("run/5-fer/confusion-fold{}.csv", f + 1)));
        assert_eq!(m, matrix(&|r| r[1] == (f + 1).to_string()));
        let (right, all) = ((0..5).map(|c| m[c][c]).sum::<usize>(), m.iter().flatten().sum::<usize>());
        tested.push(100.0 * right as f64 / all as f64);
        assert_eq!(results["folds"][f]["test_accuracy_percent"].as_f64(), Some(tested[f]));
        let svg = read(p, &format!("run/5-fer/confusion-fold{}.svg", f + 1));
        assert!(svg.contains(&format!("fold {}: {:.2} % of {all} right", f + 1, tested[f])), "{svg}");
    }
    // Colours are easy to tell: what was learned is better than a guess.
    let mean = tested.iter().sum::<f64>() / 3.0;
    assert!(mean > 30.0, "{tested:?}");
    let sd = (tested.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
    let table: Vec<Vec<String>> =
        read(p, "run/accuracy.csv").lines().map(|l| l.split(',').map(String::from).collect()).collect();
    assert_eq!(table[0], ["", "5-FER Model M %", "5-FER Model SD %"]);
    assert_eq!(table[2], ["Test".to_string(), format!("{mean:.2}"), format!("{sd:.2}")]);
    let near = |key: &str, want: f64| (results["test_accuracy_percent"][key].as_f64().unwrap() - want).abs() <= 1e-9;
    assert!(near("mean", mean) && near("sd", sd), "{results}");
    assert!(said.contains(&format!("{mean:.2}")) && said.contains(&format!("{sd:.2}")), "{said}");
    assert!(read(p, "run/accuracy.tex").contains(&format!("Test & {mean:.2} & {sd:.2} \\\\")));
    assert!(read(p, "run/accuracy.md").contains(&format!("| Test | {mean:.2} | {sd:.2} |")));
    // The best fold's weights are the tower's, and `train` takes it.
    let best = results["best_fold"].as_u64().unwrap() as usize;
    assert!(tested.iter().all(|t| *t <= tested[best - 1]) && tested[..best - 1].iter().all(|t| *t < tested[best - 1]));
    let tower = WeightFile::open(p.join("run/5-fer/face.safetensors")).unwrap();
    let fold = WeightFile::open(p.join(format!("run/5-fer/fold{best}.safetensors"))).unwrap();
    for name in ["conv1_1.weight", "fc2.bias"] {
        let of = |file: &WeightFile, name: &str| file.tensor(name).unwrap().to_f32().unwrap().into_owned();
        assert_eq!(of(&tower, name), of(&fold, &format!("face.{name}")));
    }
    let weights =
        ["--features", "face", "--weights", "face=run/5-fer/face.safetensors", "--image", "32", "--head", "6"];
    good(p, &[&["train", "faces.csv", "--out", "va", "--epochs", "2", "--batch", "8"][..], &weights].concat());
    let (said, _) = good(p, &["features", "run/5-fer/face.safetensors", "p/0-0.png", "--top", "1", "--alpha", "drop"]);
    assert!(CLASSES.iter().any(|c| said.contains(c.0)), "{said}");
}

#[test]
fn stopped_anywhere_it_ends_with_the_same_bits() {
    let (whole, cut) = (folder(), folder());
    let args = five("40", &["--patience", "0", "--augment", "flip,shift=0.1"]);
    good(whole.path(), &args);
    let want = files(&whole.path().join("run"));
    let at = |f: &str| cut.path().join("run/5-fer").join(f);
    for (signal, after) in [("-KILL", "fold1.json"), ("-INT", "fold2.json")] {
        let mut child = program(cut.path(), &args).spawn().unwrap();
        while !at(after).exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {after}");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(30));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let out = child.wait_with_output().unwrap();
        assert!(!out.status.success(), "{}", text(&out.stderr));
        assert!(!at("results.json").exists());
    }
    let written = |f: &str| fs::metadata(at(f)).unwrap().modified().unwrap();
    let before = ["fold1.safetensors", "fold2.safetensors"].map(written);
    good(cut.path(), &args);
    assert_eq!(["fold1.safetensors", "fold2.safetensors"].map(written), before, "a fold that was done was done again");
    let got = files(&cut.path().join("run"));
    let names = |f: &BTreeMap<PathBuf, Vec<u8>>| f.keys().cloned().collect::<Vec<_>>();
    let got: BTreeMap<_, _> = got.into_iter().filter(|(p, _)| !p.to_string_lossy().contains(".tmp")).collect();
    assert_eq!(names(&got), names(&want));
    for (name, bytes) in &want {
        assert!(&got[name] == bytes, "{} differs", name.display());
    }
    // A result that was lost is computed from the fold's weights.
    fs::remove_file(at("fold2.json")).unwrap();
    good(cut.path(), &args);
    assert_eq!(fs::read(at("fold2.json")).unwrap(), want[Path::new("5-fer/fold2.json")]);
    // Another rate is another run.
    let e = complaint(cut.path(), &[&args[..], &["--momentum", "0.5"]].concat());
    assert!(e.contains("fold1.safetensors: was trained with other settings"), "{e}");
}

#[test]
fn nine_classes_in_folders_share_the_tables_of_five() {
    let dir = folder();
    let p = dir.path();
    good(p, &five("1", &["--val", "0"]));
    for (class, name) in deep_affect::models::NINE.into_iter().enumerate() {
        let name = if name == "happiness" { "Happy" } else { name };
        fs::create_dir_all(p.join("nine").join(name).join("a")).unwrap();
        (0..2).for_each(|i| draw(&p.join("nine").join(name).join(["1.png", "a/2.png"][i]), class % 5, class + 9 * i));
    }
    fs::create_dir(p.join("nine/none")).unwrap();
    draw(&p.join("nine/none/x.png"), 0, 3);
    let nine = ["train-face", "nine", "--out", "run", "--folds", "2", "--epochs", "1", "--val", "0", "--balance"];
    let (said, remarks) = good(p, &[&nine[..], &TINY].concat());
    assert!(
        remarks.contains("18 pictures: happiness 2, sadness 2") && remarks.contains("left out: none 1"),
        "{remarks}"
    );
    assert!(said.contains("9-FER") && said.contains("5-FER"), "{said}");
    let header = ",9-FER Model M %,9-FER Model SD %,5-FER Model M %,5-FER Model SD %\nTrain,";
    assert!(read(p, "run/accuracy.csv").starts_with(header), "{}", read(p, "run/accuracy.csv"));
    assert_eq!(counts(&read(p, "run/9-fer/confusion.csv")).iter().flatten().sum::<usize>(), 18);
    assert!(read(p, "run/9-fer/confusion.csv").starts_with("true_class,happiness,sadness,fear,anger,surprise,"));
}

/// The dense layers are new, the convolutions are the file's: a rate of nothing leaves them as they were.
#[test]
fn it_begins_with_the_convolutions_of_a_file() {
    let dir = folder();
    let p = dir.path();
    let base = ["pretrain", "faces.csv", "--label", "label", "--tower", "object", "--min-count", "7", "--val", "0"];
    let flags = ["--width", "64", "--dense", "5,4", "--image", "32", "--epochs", "1", "--preprocess", "torch"];
    good(p, &[&base[..], &flags, &["--out", "o.safetensors"]].concat());
    good(p, &[&base[..], &flags, &["--out", "f.safetensors", "--augment", "flip,rotation=20"]].concat());
    let of = |file: &str, name: &str| {
        WeightFile::open(p.join(file)).unwrap().tensor(name).unwrap().to_f32().unwrap().into_owned()
    };
    assert_ne!(of("o.safetensors", "conv1_1.weight"), of("f.safetensors", "conv1_1.weight"), "not augmented");
    let args = [
        &FIVE[..],
        &["--dense", "8", "--image", "32", "--batch", "8", "--threads", "1", "--epochs", "1", "--val", "0"],
        &["--lr", "1e-30", "--plateau", "0", "--weights", "o.safetensors"],
    ];
    let args = args.concat();
    good(p, &args);
    let face = "run/5-fer/face.safetensors";
    for name in ["conv1_1.weight", "conv5_3.weight", "conv3_1.bias"] {
        assert_eq!(of(face, name), of("o.safetensors", name), "{name}");
    }
    let header = WeightFile::open(p.join(face)).unwrap().metadata().clone();
    assert!(header["tower"].contains(r#""base":"vgg16","width":64,"dense":[8]"#), "{}", header["tower"]);
    assert!(header["preprocess"].contains("0.485"), "{}", header["preprocess"]);
    let e = complaint(p, &[&args[..], &["--base", "vgg19"]].concat());
    assert!(e.contains("o.safetensors: has other convolutions than --base and --width ask for"), "{e}");
}

#[test]
fn what_cannot_be_trained_is_one_line() {
    let dir = folder();
    let p = dir.path();
    for (args, problem) in [
        (five("1", &["--test", "0.1"]), "--test: every fold is a test part already"),
        (five("1", &["--per-class", "2"]), "--per-class 2 cannot fill 3 folds"),
        (five("1", &["--label", "name"]), "no column `name`"),
        (five("1", &["--label", "valence"]), "0 pictures of happiness for 3 folds"),
        (five("1", &["--classes", "7"]), "choose 5 or 9"),
        (five("1", &["--classes", "9"]), "faces.csv: column label: 0 pictures of surprise for 3 folds"),
        (five("1", &["--folds", "8"]), "7 pictures of anger for 8 folds"),
        (five("1", &["--weights", "faces.csv"]), "faces.csv"),
    ] {
        // A flag may be given once: the first goes.
        let twice = args.len() - 2;
        let first = args.iter().position(|a| *a == args[twice]).unwrap();
        let args = if first < twice { [&args[..first], &args[first + 2..]].concat() } else { args };
        let e = complaint(p, &args);
        assert!(e.contains(problem), "{problem}: {e}");
    }
    fs::write(p.join("p/0-0.png"), "no picture").unwrap();
    fs::write(p.join("p/0-1.png"), "no picture").unwrap();
    let e = complaint(p, &five("1", &[]));
    assert!(e.contains("cannot be used") && e.contains("--skip-bad"), "{e}");
    good(p, &five("1", &["--skip-bad"]));
    assert!(read(p, "run/5-fer/bad-pictures.csv").contains("p/0-"));
}

const WHOLE: View = View { side: 4, resize: Resize::SquashNearest, grey: false, crop: None };
const FACE: View = View { crop: Some(Crop { margin: 0 }), ..WHOLE };

/// Black, but for a box of 10 x 8 pixels at 25, 5.
fn boxed(x: u32, y: u32) -> image::Rgb<u8> {
    image::Rgb([if (25..35).contains(&x) && (5..13).contains(&y) { 200 } else { 0 }; 3])
}

fn source(path: &Path, [x, y, width, height]: [f64; 4]) -> Source<'static> {
    Source::Boxed { path: path.into(), face: Area { x, y, width, height }, place: "m.csv, line 7".into() }
}

fn load(source: &Source, views: &[View], cache: Option<&Path>) -> Result<Vec<u8>, String> {
    let cache_dir = cache.map(Path::to_path_buf);
    let opts = LoadOptions { views: views.to_vec(), decode: DecodeOptions::default(), cache_dir };
    let loaded = Pictures::load(std::slice::from_ref(source), &opts, &()).unwrap();
    match loaded.bad.first() {
        Some(bad) => Err(bad.reason.clone()),
        None => Ok(loaded.accept(false).unwrap().bytes().to_vec()),
    }
}

#[test]
fn a_box_fills_the_square_of_those_who_look_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.png");
    image::RgbImage::from_fn(40, 20, boxed).save(&path).unwrap();
    let here = source(&path, [25.0, 5.0, 10.0, 8.0]);
    let both = load(&here, &[WHOLE, FACE], None).unwrap();
    let whole = load(&Source::File(path.clone()), &[WHOLE, FACE], None).unwrap();
    assert_eq!(both[48..], [200; 48]);
    assert_eq!((&both[..48], &whole[48..]), (&whole[..48], &whole[..48]), "without a box it is seen whole");
    // Half of the margin's box is face; at the edge it is clipped.
    let wide = View { crop: Some(Crop { margin: 50 }), ..WHOLE };
    let lit = |b: &[u8]| b.iter().filter(|b| **b == 200).count();
    assert_eq!(lit(&load(&here, &[wide], None).unwrap()), 48 / 4);
    assert_eq!(lit(&load(&source(&path, [25.0, 5.0, 100.0, 8.0]), &[FACE], None).unwrap()), 48 / 4 * 3);
    for outside in [[40.0, 0.0, 5.0, 5.0], [-9.0, 0.0, 9.0, 9.0], [0.0, 20.0, 5.0, 5.0]] {
        let e = load(&source(&path, outside), &[WHOLE, FACE], None).unwrap_err();
        assert!(e.contains("lies outside its 40 x 20 pixels; correct m.csv, line 7"), "{e}");
        // Who does not look at the box does not mind.
        assert!(load(&source(&path, outside), &[WHOLE], None).is_ok());
    }
    // What is cached is named by the boxes where they count, and only there.
    let cache = dir.path().join("cache");
    let kept = || fs::read_dir(&cache).unwrap().count();
    let other = source(&path, [0.0, 0.0, 4.0, 4.0]);
    for (s, views, files) in [
        (&here, [WHOLE], 1),
        (&other, [WHOLE], 1),
        (&here, [FACE], 2),
        (&other, [FACE], 3),
        (&here, [wide], 4),
        (&here, [FACE], 4),
    ] {
        assert_eq!(load(s, &views, Some(&cache)), load(s, &views, None));
        assert_eq!(kept(), files);
    }
}

/// Boxes are of the picture as people see it.
#[test]
fn boxes_are_of_the_upright_picture() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.jpg");
    // Turned by a quarter: what is stored at (x, y) of 40 x 20 is shown at (19 - y, x) of 20 x 40.
    let stored = image::RgbImage::from_fn(40, 20, boxed);
    stored.save(&path).unwrap();
    let jpeg = fs::read(&path).unwrap();
    let exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    fs::write(&path, [&jpeg[..2], exif, &jpeg[2..]].concat()).unwrap();
    let seen = load(&source(&path, [8.0, 26.0, 6.0, 8.0]), &[FACE], None).unwrap();
    assert!(seen.iter().all(|b| *b > 150), "{seen:?}");
    assert!(load(&source(&path, [25.0, 5.0, 10.0, 8.0]), &[FACE], None).unwrap_err().contains("its 20 x 40 pixels"));
}

/// A folder with `m.csv`: pictures whose rating is the colour of a box, which is not always given.
fn rated(box_of: impl Fn(u32) -> String) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut table = String::from("path,valence,arousal,face_x,face_y,face_width,face_height\n");
    for i in 0..12u32 {
        let pixel = |x: u32, y: u32| {
            if boxed(x, y).0[0] > 0 { image::Rgb([20 * i as u8, 90, 200]) } else { image::Rgb([60; 3]) }
        };
        image::RgbImage::from_fn(64, 48, pixel).save(dir.path().join(format!("{i}.png"))).unwrap();
        table.push_str(&format!("{i}.png,{},{},{}\n", 1.0 + 0.5 * i as f32, 5.0 + 0.1 * i as f32, box_of(i)));
    }
    fs::write(dir.path().join("m.csv"), table).unwrap();
    dir
}

const CROP: [&str; 16] = [
    "train",
    "m.csv",
    "--out",
    "run",
    "--features",
    "object,face",
    "--crop",
    "face",
    "--init-missing",
    "--width",
    "32",
    "--image",
    "32",
    "--head",
    "6",
    "--preprocess=unit",
];

#[test]
fn a_tower_that_looks_at_faces() {
    let dir =
        rated(|i| if i < 9 { "25,5,10,8".into() } else { ["NA,NA,NA,NA", ",,,", "0,0,-1,-1"][i as usize % 3].into() });
    let p = dir.path();
    let epochs = ["--epochs", "2", "--batch", "4", "--val", "0"];
    let (_, remarks) = good(p, &[&CROP[..], &epochs].concat());
    assert!(remarks.contains("3 of 12 pictures have no face box (face_x,"), "{remarks}");
    let (said, _) = good(p, &["weights", "inspect", "run/checkpoint.safetensors"]);
    assert!(said.contains("of the face box and 0 % around it"), "{said}");
    // Other programs are told which input is what.
    good(p, &["weights", "export", "run/checkpoint.safetensors", "--format", "onnx", "--out", "m.onnx"]);
    let onnx = String::from_utf8_lossy(&fs::read(p.join("m.onnx")).unwrap()).into_owned();
    let square = "uint8 RGB [N,32,32,3], ";
    assert!(onnx.contains(&format!("image: {square}resized by `squash-bilinear`")), "no image");
    assert!(onnx.contains(&format!("image2: {square}the face box of the picture with 0 % of it around it, resized")));
    // `evaluate` has the boxes of its manifest, `predict` those of a file; and without any it is another picture.
    let model = ["--model", "run/checkpoint.safetensors"];
    good(p, &[&["evaluate", "m.csv", "--out", "eval"][..], &model].concat());
    let rows = read(p, "eval/predictions.csv");
    let known: Vec<&str> = rows.lines().skip(1).map(|l| l.split(',').nth(5).unwrap()).collect();
    let predict = |more: &[&str]| {
        let (said, remarks) =
            good(p, &[&["predict", "0.png", "./9.png", "--format", "csv"][..], &model, more].concat());
        let values = said.lines().skip(1).map(|l| l.split(',').nth(1).unwrap().to_string()).collect::<Vec<_>>();
        (values, remarks)
    };
    let (with, remarks) = predict(&["--boxes", "m.csv"]);
    assert_eq!(with, [known[0], known[9]]);
    assert!(remarks.contains("1 of 2 pictures have no face box"), "{remarks}");
    let (without, remarks) = predict(&[]);
    assert!(without[0] != with[0] && without[1] == with[1] && remarks.contains("2 of 2"), "{without:?} {remarks}");
    good(p, &[&["evaluate", "m.csv", "--out", "eval2", "--boxes", "m.csv"][..], &model].concat());
    assert_eq!(read(p, "eval2/predictions.csv"), rows);
    fs::write(p.join("none.csv"), "path,face_x\n0.png,1\n").unwrap();
    let e = complaint(p, &[&["predict", "0.png", "--boxes", "none.csv"][..], &model].concat());
    assert!(e.contains("none.csv: no column `face_y`; name its columns path, face_x,"), "{e}");
    let e = complaint(p, &["predict", "0.png", "--boxes", "m.csv"]);
    assert!(e.contains("--boxes: no tower of this model looks at faces"), "{e}");
}

/// What the network was trained on goes with its file into the model that takes it.
#[test]
fn face_networks_are_trained_on_boxes() {
    let dir = rated(|i| if i < 9 { "25,5,10,8".into() } else { ",,,".into() });
    let p = dir.path();
    let label = |(i, line): (usize, &str)| match i {
        0 => format!("{line},label\n"),
        i => format!("{line},{}\n", CLASSES[i % 5].0),
    };
    fs::write(p.join("m.csv"), read(p, "m.csv").lines().enumerate().map(label).collect::<String>()).unwrap();
    let tower = |out: &str, more: &[&str]| {
        let args =
            ["train-face", "m.csv", "--classes", "5", "--folds", "2", "--epochs", "1", "--val", "0", "--out", out];
        let (_, remarks) = good(p, &[&args[..], &TINY, more].concat());
        let header = WeightFile::open(p.join(out).join("5-fer/face.safetensors")).unwrap().metadata().clone();
        (header["tower"].contains(r#""crop":{"margin":10}"#), header["tower"].contains("crop"), remarks)
    };
    let (margin, _, remarks) = tower("boxes", &["--margin", "10"]);
    assert!(margin && remarks.contains("3 of 12 pictures have no face box"), "{remarks}");
    let (_, crop, remarks) = tower("whole", &["--whole"]);
    assert!(!crop && !remarks.contains("face box"), "{remarks}");
    let args = ["train", "m.csv", "--features", "face", "--image", "32", "--head", "6", "--epochs", "1", "--out", "va"];
    for (file, cropped) in [("face=boxes/5-fer/face.safetensors", true), ("face=whole/5-fer/face.safetensors", false)] {
        let (_, remarks) = good(p, &[&args[..], &["--weights", file]].concat());
        assert_eq!(remarks.contains("3 of 12 pictures have no face box"), cropped, "{remarks}");
    }
}

#[test]
fn wrong_boxes_are_named() {
    for (text, problem) in [
        ("64,5,10,8", "2.png: its box of 10 x 8 at 64, 5 lies outside its 64 x 48 pixels; correct m.csv, line 4"),
        ("25,x,10,8", "m.csv: line 4, column face_y: `x` is not a number of pixels"),
    ] {
        let dir = rated(|i| if i == 2 { text.into() } else { "25,5,10,8".into() });
        let e = complaint(dir.path(), &CROP);
        assert!(e.contains(problem), "{problem}: {e}");
    }
    let dir = rated(|_| "25,5,10,8".into());
    for (crop, problem) in [("scene", "there is no tower `scene`"), ("face=x", "write TOWER, or TOWER=PERCENT")] {
        let args: Vec<&str> = CROP.iter().map(|a| if *a == "face" { crop } else { a }).collect();
        let e = complaint(dir.path(), &args);
        assert!(e.contains(problem), "{e}");
    }
}
