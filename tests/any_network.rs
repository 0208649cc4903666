//! Any network, any head: networks of other papers are trained on ratings or on classes, joined, predicted with, evaluated,
//! cross-validated and explained by the commands that the fused model has, in miniature.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Drawings of three colours, in groups of two, and what they are called and rated.
const COLOURS: [(&str, [u8; 3], u32); 3] =
    [("blue", [20, 40, 220], 2), ("green", [30, 200, 40], 5), ("red", [230, 30, 20], 8)];
const OF_EACH: usize = 10;

fn set() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut table = String::from("path,colour,mood,group,valence,arousal\n");
    for (c, (name, rgb, valence)) in COLOURS.into_iter().enumerate() {
        for i in 0..OF_EACH {
            let path = format!("{name}{i}.png");
            let pixel =
                |x: u32, y: u32| image::Rgb(rgb.map(|v| v.saturating_add(((x * 5 + y * 3 + i as u32) % 20) as u8)));
            image::RgbImage::from_fn(40, 36, pixel).save(dir.path().join(&path)).unwrap();
            // One row names no colour.
            let colour = if (c, i) == (0, 0) { "" } else { name };
            table.push_str(&format!("{path},{colour},{c},{name}-{},{valence},{}\n", i / 2, 3 + i % 4));
        }
    }
    fs::write(dir.path().join("set.csv"), table).unwrap();
    dir
}

fn run(dir: &Path, args: &str) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    c.args(args.split_whitespace()).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

/// What it printed, and what it remarked.
fn good(dir: &Path, args: &str) -> (String, String) {
    let out = run(dir, args);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert!(out.status.success(), "{args}: {}{}", text(&out.stdout), text(&out.stderr));
    (text(&out.stdout), text(&out.stderr))
}

/// One line about what is wrong.
fn bad(dir: &Path, args: &str, problem: &str) {
    let out = run(dir, args);
    let text = String::from_utf8(out.stderr).unwrap();
    let last = text.lines().last().unwrap_or_default();
    assert!(!out.status.success() && last.contains(problem), "{args}: {text}");
}

fn json(dir: &Path, file: &str) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(dir.join(file)).unwrap()).unwrap()
}

const TINY: &str =
    "--preprocess unit --width 16 --image 32 --batch 6 --lr 0.01 --threads 1 --init-missing --device cpu";

#[test]
fn ratings_of_a_network_by_its_name() {
    let dir = set();
    let p = dir.path();
    let (_, said) =
        good(p, &format!("train set.csv --network resnet18 {TINY} --epochs 40 --patience 0 --val 0 --out run"));
    assert!(said.contains("need about 30 updates to arrive: 6 epochs of 5 here."), "{said}");
    let mse = |file: &str| json(p, file)["targets"]["valence"]["model"]["mse_points2"].as_f64().unwrap();
    let mean = json(p, "run/metrics.json")["targets"]["valence"]["baseline"]["mse_points2"].as_f64().unwrap();
    assert!(mse("run/metrics.json") < 0.7 * mean, "{} against {mean}", mse("run/metrics.json"));
    let (rated, _) = good(p, "predict red1.png blue1.png --model run/checkpoint.safetensors --format csv --threads 1");
    let valence: Vec<f64> = rated.lines().skip(1).map(|l| l.split(',').nth(1).unwrap().parse().unwrap()).collect();
    assert!(valence[0] > valence[1], "{rated}");
    good(p, "evaluate set.csv --model run/checkpoint.safetensors --out judged --threads 1");
    assert!(mse("judged/metrics.json") < mean);
    // The library says the same, in three lines.
    let device = deep_affect::device::open("cpu", Some(1)).unwrap();
    let mut model = deep_affect::Predictor::open(p.join("run/checkpoint.safetensors"), 1, device).unwrap();
    let red = model.rate(p.join("red1.png")).unwrap();
    assert_eq!(f64::from(red[0]) as f32, valence[0] as f32, "{red:?}");
    let e = model.rate(p.join("none.png")).unwrap_err().to_string();
    assert!(e.contains("none.png"), "{e}");
    let (inspected, _) = good(p, "weights inspect run/checkpoint.safetensors");
    assert!(inspected.contains("resnet18 (resnet18 at 1/16 width") && inspected.contains("32 features"), "{inspected}");
    // Grad-CAM finds the last convolution of any network.
    let (explained, _) = good(p, "predict red1.png --model run/checkpoint.safetensors --explain maps --threads 1");
    assert!(!explained.is_empty() && fs::read_dir(p.join("maps")).unwrap().count() > 0);
    // Frozen parts stay as they were drawn.
    let train = |freeze: &str, out: &str| {
        format!("train set.csv --network resnet18 {TINY} --epochs 1 --val 0 {freeze} --out {out}")
    };
    good(p, &train("--freeze resnet18.layer1,resnet18.conv*", "frozen"));
    let weights = |out: &str| {
        let file = deep_affect::weights::WeightFile::open(p.join(out).join("checkpoint.safetensors")).unwrap();
        let of = move |name: &str| file.tensor(name).unwrap().to_f32().unwrap().into_owned();
        ["resnet18.layer1.0.conv1.weight", "resnet18.conv1.weight", "resnet18.layer2.0.conv1.weight"].map(of)
    };
    let (some, all) = (weights("frozen"), weights("run"));
    good(p, &train("--freeze resnet18.layer1,resnet18.layer2,resnet18.conv*", "more"));
    let more = weights("more");
    assert!(some[0] == more[0] && some[1] == more[1] && some[2] != more[2]);
    assert!(all.iter().zip(&more).all(|(a, b)| a != b));
    bad(p, &train("--freeze resnet50", "no"), "--freeze resnet50: there is no such tower");
    bad(p, &train("--tower-output block3", "no"), "is no VGG and has no `block3`");
    bad(p, "train set.csv --network resnet19 --out no", "there is no network `resnet19`");
    bad(p, "train set.csv --network vgg16 --image 16 --init-missing --out no", "images of 32 to 4096 pixels, not 16");
}

#[test]
fn classes_are_told_apart() {
    let dir = set();
    let p = dir.path();
    let train = format!("set.csv --label colour --network resnet18 {TINY} --seed 2 --epochs 40 --patience 0 --val 0");
    let (said, told) = good(p, &format!("train {train} --balance --out run"));
    assert!(said.contains("% of") && told.contains("classes: blue 9, green 10, red 10"), "{said}{told}");
    assert!(told.contains("left out: 1 pictures without a class"), "{told}");
    let m = json(p, "run/metrics.json");
    assert!(m["accuracy_percent"].as_f64().unwrap() > 60.0, "{m}");
    for file in ["predictions.csv", "confusion.csv", "confusion.svg", "report.html"] {
        assert!(p.join("run").join(file).is_file(), "{file}");
    }
    let (lines, _) = good(p, "predict red1.png --model run/checkpoint.safetensors --format jsonl --threads 1");
    let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
    let part = |c: &str| line[format!("class_{c}_probability")].as_f64().unwrap();
    assert!((part("blue") + part("green") + part("red") - 1.0).abs() < 1e-5, "{line}");
    assert!(COLOURS.iter().any(|c| line["class"] == c.0), "{line}");
    // Another set calls them otherwise.
    fs::write(p.join("map.csv"), "from,to\n0,blue\n1,green\n").unwrap();
    let evaluate = "evaluate set.csv --model run/checkpoint.safetensors --threads 1";
    let (_, told) = good(p, &format!("{evaluate} --label mood --label-map map.csv --out judged"));
    assert!(told.contains("none of the classes: 2 10"), "{told}");
    assert_eq!(json(p, "judged/metrics.json")["n_pictures"], 20);
    bad(p, evaluate, "the model tells classes apart; name the column of class names with --label");
    bad(p, &format!("{evaluate} --label mood"), "names none of the model's classes");
    good(p, &format!("cross-validate {train} --folds 3 --out folds --keep-models"));
    let m = json(p, "folds/metrics.json");
    assert_eq!((m["n_folds"].as_u64(), m["n_pictures"].as_u64()), (Some(3), Some(29)));
    let table = fs::read_to_string(p.join("folds/predictions.csv")).unwrap();
    assert!(table.starts_with("path,dataset,group,fold,class,predicted,p_blue,p_green,p_red\n"), "{table}");
    let (explained, _) = good(p, "predict red1.png --model run/checkpoint.safetensors --explain maps --threads 1");
    assert!(!explained.is_empty());
    // Going on is the same as not having stopped.
    let whole = fs::read(p.join("run/checkpoint.safetensors")).unwrap();
    good(p, &format!("train {train} --balance --out run --resume"));
    assert_eq!(fs::read(p.join("run/checkpoint.safetensors")).unwrap(), whole);
    for (more, problem) in [
        ("--head ridge --freeze all", "are for ratings, not for --label"),
        ("--min-count 50", "0 classes with 50 pictures or more"),
    ] {
        let out = run(p, &format!("train {train} {more} --out no"));
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && text.contains(problem), "{more}: {text}");
    }
}

#[test]
fn ratings_and_classes_on_one_trunk() {
    let dir = set();
    let p = dir.path();
    let both = format!("set.csv --targets valence,arousal --label colour --network resnet18 {TINY} --seed 2");
    let train = format!("{both} --loss-weights ratings=0.5,classes=2 --epochs 30 --patience 0 --val 0");
    let (said, _) = good(p, &format!("train {train} --out run"));
    assert!(said.contains("% of") && said.contains("valence"), "{said}");
    let (rated, told) = (json(p, "run/metrics.json"), json(p, "run/classes/metrics.json"));
    let mse = |v: &serde_json::Value, of: &str| v["targets"]["valence"][of]["mse_points2"].as_f64().unwrap();
    assert!(mse(&rated, "model") < mse(&rated, "baseline"), "{rated}");
    assert!(told["accuracy_percent"].as_f64().unwrap() > 60.0, "{told}");
    // The page tells of every output, the file too.
    let page = fs::read_to_string(p.join("run/report.html")).unwrap();
    assert!(page.contains("arousal, training") && page.contains("classes, validation"));
    let file = deep_affect::weights::WeightFile::open(p.join("run/checkpoint.safetensors")).unwrap();
    let card = deep_affect::train::checkpoint::card(&file).unwrap();
    let last = card.state.history.last().unwrap();
    let [valence, arousal, classes] = &last.outputs[..] else { panic!("{last:?}") };
    let errors = [valence, arousal, classes].map(|o| o.train.unwrap());
    assert!((0.25 * (errors[0] + errors[1]) + 2.0 * errors[2] - last.train_loss).abs() < 1e-5, "{last:?}");
    // Ratings, the class and its probability from one picture.
    let (lines, _) = good(p, "predict red1.png --model run/checkpoint.safetensors --format jsonl --threads 1");
    let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
    assert!(line["valence_1to9"].is_f64() && line["class"].is_string(), "{line}");
    assert!(line["class_red_probability"].is_f64(), "{line}");
    let evaluate = "evaluate set.csv --model run/checkpoint.safetensors --threads 1";
    good(p, &format!("{evaluate} --label colour --out judged"));
    assert_eq!(json(p, "judged/classes/metrics.json")["n_pictures"], 29);
    assert!((mse(&json(p, "judged/metrics.json"), "model") - mse(&rated, "model")).abs() < 1e-9);
    let (all, _) = good(p, &format!("{evaluate} --label colour --json"));
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    assert_eq!((&all["ratings"]["n_pictures"], &all["classes"]["n_pictures"]), (&29.into(), &29.into()));
    let (_, note) = good(p, evaluate);
    assert!(note.contains("the model tells classes apart too"), "{note}");
    good(p, &format!("cross-validate {both} --epochs 1 --val 0 --folds 2 --out folds"));
    assert_eq!(json(p, "folds/classes/metrics.json")["n_folds"], 2);
    assert_eq!(json(p, "folds/folds.json")["folds"], 2);
    good(p, "predict red1.png --model run/checkpoint.safetensors --explain maps --threads 1");
    let maps = fs::read_to_string(p.join("maps/explain.csv")).unwrap();
    assert!([",class,", ",valence,", ",arousal,"].iter().all(|t| maps.contains(t)), "{maps}");
    good(p, "weights export run/checkpoint.safetensors --format onnx --out both.onnx");
    assert!(good(p, "gradcheck run/checkpoint.safetensors --elements 1").0.contains("0 wrong"));
    // A sum and its mean are the same objective where batches are whole.
    good(p, &format!("train {both} --reduction sum --epochs 1 --val 0.2 --out sum"));
    bad(p, &format!("train {both} --architecture split --out no"), "ratings and classes share one network");
    bad(p, &format!("train {both} --loss-weights classes=0 --out no"), "the weight of classes is a number above 0");
    bad(p, &format!("train {both} --loss-weights classes=1,classes=2 --out no"), "names classes twice");
}

/// Two networks that were fine-tuned apart, joined by a convex combination, and a dense layer on top (Rapolu et al.).
#[test]
fn two_networks_are_joined() {
    let dir = set();
    let p = dir.path();
    for network in ["resnet18", "densenet121"] {
        let (said, _) = good(
            p,
            &format!(
                "pretrain set.csv --label colour --tower {network} --width 16 --image 32 --batch 6 --epochs 2 --threads 1 \
                 --min-count 2 --out {network}.safetensors --device cpu"
            ),
        );
        assert!(said.contains("3 classes"), "{said}");
        let (seen, _) = good(p, &format!("features {network}.safetensors red1.png --output pooled --json --threads 1"));
        assert!(seen.contains("\"pooled\""), "{seen}");
    }
    let joined = "train set.csv --label colour --features resnet18,densenet121 --weights resnet18=resnet18.safetensors \
                  --weights densenet121=densenet121.safetensors --tower-output pooled --head none --standardize no \
                  --freeze all --epochs 3 --lr 0.1 --batch 6 --val 0 --threads 1 --device cpu";
    good(p, &format!("{joined} --scale resnet18=0.75 --scale densenet121=0.25 --out joined"));
    good(p, &format!("{joined} --scale resnet18=0 --tower-output densenet121=softmax --out other"));
    let (inspected, _) = good(p, "weights inspect joined/checkpoint.safetensors");
    assert!(inspected.contains("resnet18") && inspected.contains("densenet121"), "{inspected}");
    bad(p, &format!("{joined} --scale resnet50=1 --out no"), "there is no tower `resnet50`");
    let wrong = joined.replace("resnet18=resnet18.safetensors", "resnet18=densenet121.safetensors");
    bad(p, &format!("{wrong} --out no"), "is densenet121, not resnet18");
}

/// Rapolu's study with smaller networks: what is fine-tuned is joined, without the pictures that are set apart, and all of it
/// is judged on a set that nothing is trained on.
#[test]
fn rapolus_study_joins_what_it_fine_tunes() {
    let dir = set();
    let p = dir.path();
    let table = fs::read_to_string(p.join("set.csv")).unwrap();
    let dataset = |(i, line): (usize, &str)| match i {
        0 => format!("{line},dataset\n"),
        _ => format!("{line},{}\n", if i % 5 == 0 { "artphoto" } else { "fi" }),
    };
    fs::write(p.join("all.csv"), table.lines().enumerate().map(dataset).collect::<String>()).unwrap();
    for network in ["resnet18", "densenet121"] {
        let pretrain = "--width 16 --image 32 --batch 6 --epochs 1 --threads 1 --min-count 2 --device cpu";
        good(
            p,
            &format!(
                "pretrain all.csv --label colour --tower {network} {pretrain} --out {network}-imagenet.safetensors"
            ),
        );
    }
    good(p, "study init --paper rapolu study.toml");
    let text = fs::read_to_string(p.join("study.toml")).unwrap();
    let small = [
        ("[\"emotionroi\", \"artphoto\", \"abstract\"]", "[\"artphoto\"]"),
        ("split = 0.15", "split = 0.3\nungrouped = true"),
        ("\"emotion\"", "\"colour\""),
        ("batch = 64", "batch = 6\nepochs = 2"),
        ("resnet101", "resnet18"),
        ("densenet201", "densenet121"),
    ];
    let text = small.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    fs::write(p.join("study.toml"), text).unwrap();
    let run = "study run study.toml --out study --threads 1 --device cpu";
    let (tables, _) = good(p, run);
    for part in ["alpha 0.75", "beta 0", "ARTPHOTO", "ResNet101"] {
        assert!(tables.contains(part), "{part}: {tables}");
    }
    let csv = fs::read_to_string(p.join("study/tables/table-2.csv")).unwrap();
    assert!(csv.lines().count() == 10 && csv.lines().skip(1).all(|l| l.split(',').count() == 5), "{csv}");
    // A joined model has the towers that were fine-tuned, not those of the files.
    let of = |file: &str, name: &str| {
        let file = deep_affect::weights::WeightFile::open(p.join(file)).unwrap();
        file.tensor(name).unwrap().to_f32().unwrap().into_owned()
    };
    let name = "resnet18.layer4.0.conv1.weight";
    let (joined, alone) =
        (of("study/alpha-0.5/fold-1.safetensors", name), of("study/resnet18/fold-1.safetensors", name));
    assert_eq!(joined, alone);
    assert_ne!(joined, of("resnet18-imagenet.safetensors", "layer4.0.conv1.weight"));
    let page = fs::read_to_string(p.join("study/report.html")).unwrap();
    assert!(page.contains("What is taken for what") && page.matches("taken for").count() > 11, "{}", page.len());
    // Nothing is computed twice, and other weights are noticed.
    let (again, _) = good(p, run);
    assert_eq!(again, tables);
    fs::copy(p.join("densenet121-imagenet.safetensors"), p.join("kept.safetensors")).unwrap();
    good(
        p,
        "pretrain all.csv --label colour --tower densenet121 --width 16 --image 32 --batch 6 --epochs 1 --threads 1 --seed 2 \
         --min-count 2 --device cpu --out densenet121-imagenet.safetensors",
    );
    bad(p, run, "weights of densenet121");
}

/// The thesis's five networks from one command, narrow and on small pictures, and its three tables.
#[test]
fn nogueras_study_makes_its_tables() {
    let dir = set();
    let p = dir.path();
    good(p, "study init --paper noguera noguera.toml");
    let text = fs::read_to_string(p.join("noguera.toml")).unwrap();
    let small = [
        ("manifest = \"all.csv\"", "manifest = \"set.csv\""),
        ("split = 0.1", "split = 0.2"),
        ("image = 150", "image = 75\nwidth = 32"),
        ("epochs = 200", "epochs = 1"),
        ("batch = 64", "batch = 8"),
    ];
    let text = small.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    fs::write(p.join("noguera.toml"), text).unwrap();
    let (tables, said) = good(p, "study run noguera.toml --out study --threads 1 --device cpu");
    assert!(said.contains("batch norms are evaluated by running statistics"), "{said}");
    for part in
        ["Training", "Testing", "Validation", "Emosepar", "VGG16", "Inception v3", "Xception", "Emosepar arousal"]
    {
        assert!(tables.contains(part), "{part}: {tables}");
    }
    let csv = fs::read_to_string(p.join("study/tables/table-1.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(csv.lines().skip(1).all(|l| l.split(',').count() == 13 && !l.contains("NaN")), "{csv}");
    assert!(p.join("study/report.html").is_file() && p.join("study/tables.tex").is_file());
    // Every part is there and none twice.
    let results = fs::read_to_string(p.join("study/results.csv")).unwrap();
    let pictures = |set: &str| -> usize {
        let line = results.lines().find(|l| l.starts_with(&format!("emosepar,1,{set},"))).unwrap();
        line.split(',').nth(3).unwrap().parse().unwrap()
    };
    assert_eq!(pictures("train") + pictures("test") + pictures("monitored"), COLOURS.len() * OF_EACH);
}

/// The study that Cybulski plans, of one small network: a category, valence and arousal, dominance too, and all of it on one
/// trunk, over the same pictures in the same folds. Two seconds alone.
#[test]
fn cybulskis_study_compares_three_goals() {
    let dir = set();
    let p = dir.path();
    // Three rows lack a rating or a class that some model needs.
    let table = fs::read_to_string(p.join("set.csv")).unwrap();
    let rated = |(i, line): (usize, &str)| match i {
        0 => format!("{line},dominance\n"),
        12 | 13 => format!("{line},{}\n", ["", "NA"][i - 12]),
        _ => format!("{line},{}\n", 2 + i % 7),
    };
    let rated: String = table.lines().enumerate().map(rated).collect();
    fs::write(p.join("set.csv"), &rated).unwrap();
    good(p, "study init --paper cybulski study.toml");
    let text = fs::read_to_string(p.join("study.toml")).unwrap();
    let others = ["alexnet", "vgg16", "inception-v3"];
    let blocks = text.split("\n\n").filter(|b| !b.starts_with("[[model]]") || !others.iter().any(|o| b.contains(o)));
    let text = blocks.collect::<Vec<_>>().join("\n\n");
    let lines = text.lines().filter(|l| !others.iter().any(|o| l.contains(&format!("\"{o}-"))));
    let text = lines.collect::<Vec<_>>().join("\n");
    let small = [
        ("resnet50", "resnet18"),
        ("weights.resnet18 = \"resnet18.safetensors\"", "init-missing = true\nfreeze = \"resnet18.conv*\""),
        ("\"category\"", "\"colour\""),
        ("folds = 5", "folds = 3"),
        ("batch = 32", "batch = 6\nimage = 32\nwidth = 16\npreprocess = \"unit\""),
        ("epochs = 100", "epochs = 2"),
    ];
    let text = small.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    fs::write(p.join("study.toml"), &text).unwrap();
    let run = "study run study.toml --out study --threads 1 --device cpu";
    let (tables, _) = good(p, run);
    let read = |file: &str| fs::read_to_string(p.join("study").join(file)).unwrap();
    // Who takes no part is said in all that is read.
    for (said, html) in [(&tables, false), (&read("tables.md"), false), (&read("report.html"), true)] {
        let left = if html { "Left out" } else { "left out" };
        for part in ["2 pictures without a rating (dominance 2)", "1 pictures without a class"] {
            assert!(said.contains(&format!("{left}: {part}")), "{said}");
        }
    }
    let csv = read("tables/table-1.csv");
    let row = |name: &str, by: &str| {
        let found = csv.lines().find(|l| l.trim_start_matches('"').starts_with(name) && l.ends_with(by));
        found.unwrap_or_else(|| panic!("no {name} by {by}: {csv}")).to_string()
    };
    assert!(
        csv.lines().count() == 1 + 8 && csv.starts_with(",Valence MSE,Valence r,Valence CCC,Arousal MSE,"),
        "{csv}"
    );
    assert!(row("ResNet50: category", "its own output").contains(": category,,,,,,,,,,"), "{csv}");
    assert!(!row("ResNet50: VAD and category", "its own output").contains(",,"), "{csv}");
    row("ResNet50: VAD and category", "nearest mean");
    row("Without looking", "the most frequent class");
    // Valence alone tells the colours apart.
    assert!(row("True ratings: valence, arousal", "nearest mean").contains("100.00 (0.00),100.00 (0.00)"));
    // What the table says of ratings is what its predictions say.
    let predicted = read("resnet18-va/predictions.csv");
    let seen: Vec<(usize, u32, [f64; 2], [f64; 2])> = predicted
        .lines()
        .skip(1)
        .map(|l| {
            let f: Vec<&str> = l.split(',').collect();
            let [at, dt, ap, dp] = [4, 7, 5, 8].map(|i| f[i].parse().unwrap());
            let class = COLOURS.iter().position(|c| f[0].starts_with(c.0)).unwrap();
            (class, f[3].parse().unwrap(), [at, dt], [ap, dp])
        })
        .collect();
    assert_eq!(seen.len(), 27);
    let right = |fold: u32| {
        let mean = |class: usize| {
            let of: Vec<_> = seen.iter().filter(|s| s.0 == class && s.1 != fold).collect();
            [0, 1].map(|k| of.iter().map(|s| s.2[k]).sum::<f64>() / of.len() as f64)
        };
        let means = [0, 1, 2].map(mean);
        let far = |m: &[f64; 2], y: &[f64; 2]| (m[0] - y[0]).powi(2) + (m[1] - y[1]).powi(2);
        let nearest = |y: &[f64; 2]| (0..3).min_by(|a, b| far(&means[*a], y).total_cmp(&far(&means[*b], y))).unwrap();
        let tested: Vec<_> = seen.iter().filter(|s| s.1 == fold).collect();
        100.0 * tested.iter().filter(|s| nearest(&s.3) == s.0).count() as f64 / tested.len() as f64
    };
    let results = read("results.csv");
    for fold in 1..=3 {
        let start = format!("resnet18-va,{fold},test,");
        let line = results.lines().find(|l| l.starts_with(&start) && l.contains(",nearest_mean_accuracy_percent,"));
        let value: f64 = line.unwrap().split(',').nth(6).unwrap().parse().unwrap();
        assert!((value - right(fold)).abs() < 1e-9, "{value} against {}", right(fold));
    }
    // Where two models learn the classes they are compared by wrong answers, where they learn ratings by errors.
    let tests = read("tests.csv");
    let line = tests.lines().find(|l| l.starts_with("3,resnet18-category,resnet18-all,class,,,")).expect(&tests);
    let wrong = |model: &str| {
        let of =
            |l: &&str| l.starts_with(&format!("{model},")) && l.contains(",test,") && l.contains(",accuracy_percent,");
        let right = results.lines().filter(of).map(|l| l.split(',').nth(6).unwrap().parse::<f64>().unwrap());
        100.0 - right.sum::<f64>() / 3.0
    };
    let said: Vec<f64> = line.split(',').skip(14).map(|x| x.parse().unwrap()).collect();
    for (said, model) in said.iter().zip(["resnet18-category", "resnet18-all"]) {
        assert!((said - wrong(model)).abs() < 1e-9, "{said} of {model}: {tests}");
    }
    assert!(said.len() == 2 && tests.contains("\n3,resnet18-vad,resnet18-all,dominance,"), "{tests}");
    // One trunk begins as another, and all see the same pictures in the same folds.
    let drawn = |model: &str| {
        let file = p.join(format!("study/resnet18-{model}/fold-2.safetensors"));
        let file = deep_affect::weights::WeightFile::open(file).unwrap();
        file.tensor("resnet18.conv1.weight").unwrap().to_f32().unwrap().into_owned()
    };
    let models = ["category", "va", "vad", "all"];
    assert!(models.iter().all(|m| drawn(m) == drawn("va")));
    let pictures = |file: &str| -> Vec<String> {
        let of = |l: &str| l.split(',').take(4).collect::<Vec<_>>().join(",");
        read(file).lines().map(of).collect()
    };
    assert_eq!(pictures("resnet18-va/predictions.csv"), pictures("resnet18-all/predictions.csv"));
    let told = pictures("resnet18-category/fold-1/predictions.csv");
    assert_eq!(told, pictures("resnet18-all/fold-1/classes/predictions.csv"));
    assert_eq!(told[1..], pictures("resnet18-vad/fold-1/predictions.csv")[1..]);
    assert!(read("report.html").contains("ResNet50: VA, by the nearest class mean"));
    // Nothing is computed twice. What a model does not learn may change.
    assert_eq!(good(p, run).0, tables);
    let lines =
        rated.lines().enumerate().map(|(i, l)| if i == 5 { l.to_string() + ".5\n" } else { l.to_string() + "\n" });
    fs::write(p.join("set.csv"), lines.collect::<String>()).unwrap();
    bad(p, run, "resnet18-vad/fold-1/cell.json: was made with other ratings or groups");
    // A class that a fold's model would not know, and a rating that nobody gave.
    let together = (0..OF_EACH / 2).fold(rated, |all, i| all.replace(&format!("blue-{i}"), "blue-all"));
    fs::write(p.join("set.csv"), together).unwrap();
    bad(p, &run.replace("--out study", "--out no"), "no picture of class `blue` outside fold");
    fs::write(p.join("set.csv"), &table).unwrap();
    bad(p, &run.replace("--out study", "--out no"), "no column `dominance`");
}

/// What does not go together is one line, before anything is trained or written over.
#[test]
fn bad_input_is_one_line_and_nothing_is_lost() {
    let dir = set();
    let p = dir.path();
    good(p, &format!("train set.csv --network resnet18 {TINY} --epochs 1 --val 0 --out run"));
    let kept = fs::read(p.join("run/metrics.json")).unwrap();
    // A class of one picture, and one whose pictures are all tested together.
    let mut rare = String::from("path,colour,fold\n");
    for (i, (name, ..)) in COLOURS.iter().enumerate() {
        (0..if i == 2 { 1 } else { 4 }).for_each(|k| rare += &format!("{name}{k}.png,{name},{}\n", 1 + k % 2));
    }
    fs::write(p.join("rare.csv"), &rare).unwrap();
    fs::write(p.join("parted.csv"), rare.replace("red0.png,red,1\n", "red0.png,red,1\nred1.png,red,1\n")).unwrap();
    fs::write(p.join("cycle.csv"), "from,to\nblue,green\ngreen,blue\n").unwrap();
    let rows = |row: &dyn Fn(usize) -> String| (0..OF_EACH).map(row).collect::<String>();
    let table = |value: &dyn Fn(usize) -> usize| {
        let of = |name: &str| rows(&|i| format!("{name}{i}.png,{}\n", value(i)));
        format!("path,x\n{}", COLOURS.map(|c| of(c.0)).concat())
    };
    fs::write(p.join("flat.csv"), table(&|_| 3)).unwrap();
    fs::write(p.join("table.csv"), table(&|i| i)).unwrap();
    let label = format!("--label colour --network resnet18 {TINY} --epochs 1 --val 0 --out run");
    let network = |name: &str, more: &str| format!("train set.csv --network {name} {TINY} --out run {more}");
    let joined = format!("train set.csv --features resnet18,vgg16 {TINY} --out run");
    for (args, problem) in [
        (format!("cross-validate rare.csv {label} --min-count 1"), "class `red` has 1 picture"),
        (format!("cross-validate parted.csv {label}"), "all 2 pictures of class `red` are in fold 1"),
        (format!("train set.csv {label} --label-map cycle.csv"), "which is mapped on itself"),
        (network("resnet50", "--weights resnet50=run/checkpoint.safetensors"), "has no tower `resnet50`"),
        (network("resnet18", "--tower-keep resnet18=0.5"), "its network has the dropout of its paper"),
        (network("resnet18", "--monitor test"), "nothing is set apart to be tested"),
        (format!("{joined} --tower-output resnet18=block3"), "is no VGG and has no `block3`"),
        (format!("{joined} --scale resnet50=0.5"), "there is no tower `resnet50`"),
        ("fit set.csv --table table.csv --solver svr --c 0 --out run".into(), "C is 0, and must be above 0"),
        ("fit set.csv --table flat.csv --solver svr --out run".into(), "features of all"),
        (format!("cross-validate set.csv --network resnet18 {TINY} --stratify --out run"), "names fewer than two sets"),
    ] {
        bad(p, &args, problem);
    }
    assert_eq!(fs::read(p.join("run/metrics.json")).unwrap(), kept);
}

/// The pictures that are tested choose the epoch: allowed, and said wherever the numbers are.
#[test]
fn what_is_monitored_can_be_chosen() {
    let dir = set();
    let p = dir.path();
    let train = |monitor: &str| {
        format!("train set.csv --network resnet18 {TINY} --epochs 2 --test 0.3 --monitor {monitor} --out {monitor}")
    };
    let (_, told) = good(p, &train("test"));
    assert!(told.contains("warning: The best epoch was chosen by the test pictures"), "{told}");
    let m = json(p, "test/metrics.json");
    assert_eq!(m["n_monitored"], m["n_pictures"], "{m}");
    assert!(m["notes"].to_string().contains("chosen by the test pictures"), "{m}");
    assert!(fs::read_to_string(p.join("test/report.html")).unwrap().contains("chosen by the test pictures"));
    let (_, told) = good(p, &train("train"));
    assert!(told.contains(", 0 to monitor,") && !told.contains("chosen by"), "{told}");
    // Features between 0 and 1, over the pictures that are trained on.
    good(
        p,
        &format!(
            "train set.csv --network resnet18 {TINY} --epochs 1 --val 0 --freeze all --standardize minmax --out scaled"
        ),
    );
    let file = deep_affect::weights::WeightFile::open(p.join("scaled/checkpoint.safetensors")).unwrap();
    let inverse = file.tensor("head.features.inverse").unwrap().to_f32().unwrap().into_owned();
    assert!(inverse.iter().any(|x| *x != 1.0), "{inverse:?}");
}

/// Models of `fit` answer from tables, and say what they need where a picture is given.
#[test]
fn models_of_tables_are_predicted_with_and_evaluated() {
    let dir = set();
    let p = dir.path();
    let mut table = String::from("path,block4.1,block4.2\n");
    for (c, (name, ..)) in COLOURS.iter().enumerate() {
        (0..OF_EACH).for_each(|i| table += &format!("{name}{i}.png,{},{}\n", c * 3 + i % 2, i));
    }
    fs::write(p.join("seen.csv"), table).unwrap();
    good(p, "fit set.csv --table seen.csv --solver ridge --alpha 0.1 --out line");
    let (rated, _) = good(p, "predict --model line/model.safetensors --table seen.csv --format csv");
    let lines: Vec<&str> = rated.lines().collect();
    assert_eq!((lines.len(), lines[0]), (1 + 3 * OF_EACH, "path,valence_1to9,arousal_1to9,error,model"));
    let valence = |line: &str| line.split(',').nth(1).unwrap().parse::<f64>().unwrap();
    assert!(valence(lines[1]) < valence(lines[30]) && lines[1].starts_with("blue0.png,"), "{rated}");
    good(p, "evaluate set.csv --model line/model.safetensors --table seen.csv --out judged");
    let m = json(p, "judged/metrics.json");
    let valence = &m["metrics"]["dimensions"][0];
    assert!(valence["model"]["mse"].as_f64().unwrap() < 0.2 * valence["baseline"]["mse"].as_f64().unwrap(), "{m}");
    good(p, "fit set.csv --table seen.csv --solver svc --c 10 --label colour --out machine");
    let (told, _) = good(p, "predict --model machine/model.safetensors --table seen.csv --format jsonl");
    assert!(told.lines().last().unwrap().contains("\"class\":\"red\""), "{told}");
    let (told, _) =
        good(p, "evaluate set.csv --model machine/model.safetensors --table seen.csv --label colour --json");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["n_pictures"], &told["accuracy_percent"]), (&29.into(), &100.0.into()));
    for args in ["predict red1.png --model line/model.safetensors", "evaluate set.csv --model line/model.safetensors"] {
        bad(p, args, "from the 2 columns `block4.1` to `block4.2` of a table, not from pictures; make the table with");
        bad(p, args, "features TOWER --output block4 --manifest CSV");
    }
    bad(p, "evaluate set.csv --model machine/model.safetensors --table seen.csv", "the model tells classes apart");
    fs::write(p.join("other.csv"), "path,x\nblue0.png,1\n").unwrap();
    bad(p, "predict --model line/model.safetensors --table other.csv", "the table has column 1 is `x`");
}

#[test]
fn pictures_are_evolved_for_a_model() {
    let dir = set();
    let p = dir.path();
    let tiny = format!("{TINY} --epochs 4 --val 0 --features object --freeze all --tower-output pooled --head none");
    good(p, &format!("train set.csv {tiny} --out rated"));
    good(p, &format!("train set.csv {tiny} --seed 2 --out other"));
    let small = "--initial 20 --children 12 --side 32 --batch 5 --threads 1 --device cpu";
    let one = format!("evolve --model rated/checkpoint.safetensors {small}");
    let (said, _) = good(p, &format!("{one} --generations 2 --out whole --judge other/checkpoint.safetensors"));
    assert!(said.contains("of 256 cells filled by 44 candidates") && said.contains("points away"), "{said}");
    let read = |file: &str| fs::read_to_string(p.join(file)).unwrap();
    let archive = read("whole/archive.csv");
    let head = "cell,cell_valence_low_1to9,cell_valence_high_1to9,cell_arousal_low_1to9,cell_arousal_high_1to9,\
                fitness_minus_distance_points,valence_1to9,arousal_1to9,checkpoint.safetensors_valence_1to9,\
                checkpoint.safetensors_arousal_1to9,hidden_nodes,edges,red_0to1,green_0to1,blue_0to1,brightness_0to1,\
                saturation_0to1";
    assert_eq!(archive.lines().next().unwrap(), head);
    let (cells, curve) = (archive.lines().count() - 1, read("whole/curves.csv"));
    assert_eq!(curve.lines().count(), 4);
    assert!(cells > 0 && curve.lines().last().unwrap().starts_with(&format!("2,44,{cells},")), "{curve}");
    // 16 pictures of 32 pixels and the gaps beside them.
    let atlas = image::open(p.join("whole/atlas.png")).unwrap();
    assert_eq!((atlas.width(), atlas.height()), (16 * 34 + 2, 16 * 34 + 2));
    assert!(read("whole/report.html").contains(&format!("{cells} of 256 cells filled")));
    // What was stopped after a generation ends as what was not.
    good(p, &format!("{one} --generations 1 --out parts"));
    let judge = "--judge other/checkpoint.safetensors";
    bad(p, &format!("{one} --generations 2 --out parts --seed 3 --resume"), "with other settings");
    good(p, &format!("{one} --generations 2 --out parts --resume {judge}"));
    for file in ["archive.csv", "curves.csv", "genomes.json", "atlas.png", "evolution.json"] {
        assert_eq!(
            fs::read(p.join("parts").join(file)).unwrap(),
            fs::read(p.join("whole").join(file)).unwrap(),
            "{file}"
        );
    }
    // Two models that disagree, one rating.
    let two = "--model rated/checkpoint.safetensors --model other/checkpoint.safetensors --fitness agreement";
    good(p, &format!("evolve {two} --grid valence:4 {small} --generations 0 --out two"));
    assert!(read("two/archive.csv").contains("fitness_minus_sd_points,valence_1to9,hidden_nodes"));
    // Classes: each has its picture.
    good(p, &format!("train set.csv {tiny} --label colour --min-count 1 --out named"));
    let named = "evolve --model named/checkpoint.safetensors";
    let (said, _) = good(p, &format!("{named} {small} --generations 1 --out classes --colour rgb"));
    assert!(said.contains("3 of 3 cells filled by 32 candidates"), "{said}");
    for (line, problem) in [
        (format!("{one} --grid dominance:4 --out no"), "the model predicts valence, arousal"),
        (format!("{one} --grid valence --out no"), "not a rating and a number of parts"),
        (format!("{one} --fitness agreement --out no"), "for several models"),
        (format!("{named} --grid valence:3 {small} --out no"), "tells classes apart"),
        (format!("{one} --judge named/checkpoint.safetensors --out no"), "does not predict valence and arousal"),
        (format!("{one} --resume --out none"), "evolution.json"),
    ] {
        bad(p, &line, problem);
    }
}

/// A generator learns what a model says of its pictures, and ends with the same bits however often it was stopped. Three seconds
/// alone.
#[test]
fn a_generator_makes_pictures_for_ratings() {
    let dir = set();
    let p = dir.path();
    let tiny = format!("{TINY} --epochs 4 --val 0 --features object --freeze all --tower-output pooled --head none");
    good(p, &format!("train set.csv {tiny} --out rated"));
    good(p, &format!("train set.csv {tiny} --seed 2 --out other"));
    good(
        p,
        "evolve --model rated/checkpoint.safetensors --initial 20 --generations 0 --side 32 --device cpu --out evolved",
    );
    let small = "--side 32 --channels 8 --noise 2 --batch 8 --samples 2 --threads 1 --device cpu";
    let one = format!("generate --model rated/checkpoint.safetensors {small}");
    let beside = "--judge other/checkpoint.safetensors --elites evolved";
    let (said, _) = good(p, &format!("{one} --steps 400 --lr 5e-3 --cells 4 {beside} --out learned"));
    assert!(said.starts_with("judge checkpoint.safetensors, which had no say, rates the pictures "), "{said}");
    let m = json(p, "learned/measures.json");
    let (error, constant) =
        (m["squared_error_points2"][0][1].as_f64().unwrap(), m["constant_picture_points2"].as_f64().unwrap());
    // The middles of four parts of 1 to 9 are 2, 4, 6 and 8.
    assert_eq!(constant, 5.0);
    assert!(error < constant, "{error}: no better than one picture for all cells");
    let cells = fs::read_to_string(p.join("learned/cells.csv")).unwrap();
    assert_eq!(cells.lines().count(), 1 + 16);
    assert!(
        cells.starts_with("wanted_valence_1to9,wanted_arousal_1to9,checkpoint.safetensors_valence_1to9,"),
        "{cells}"
    );
    let page = fs::read_to_string(p.join("learned/report.html")).unwrap();
    assert!(page.contains("What evolution found for the same cells") && page.contains("Their colours"));
    // How their brightness goes with the valence that was asked for, beside what people feel.
    let head: Vec<&str> = cells.lines().next().unwrap().split(',').collect();
    let column = |name: &str| -> Vec<f64> {
        let at = head.iter().position(|h| *h == name).unwrap();
        cells.lines().skip(1).map(|l| l.split(',').nth(at).unwrap().parse().unwrap()).collect()
    };
    let (wanted, bright) = (column("wanted_valence_1to9"), column("brightness_0to1"));
    let mean = |x: &[f64]| x.iter().sum::<f64>() / 16.0;
    let sum = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| (a - mean(x)) * (b - mean(y))).sum::<f64>();
    let r = sum(&wanted, &bright) / (sum(&wanted, &wanted) * sum(&bright, &bright)).sqrt();
    let colours = fs::read_to_string(p.join("learned/colours.csv")).unwrap();
    let valence: Vec<&str> = colours.lines().nth(1).unwrap().split(',').collect();
    assert!((valence[1].parse::<f64>().unwrap() - r).abs() < 0.00501 && valence[2] == "+0.69", "{r}: {colours}");
    // With a discriminator and pairs: what was stopped ends as what was not.
    let whole = format!("{one} --data set.csv --diversity 0.1 --cells 3");
    good(p, &format!("{whole} --steps 4 --out whole"));
    good(p, &format!("{whole} --steps 2 --out parts"));
    bad(p, &format!("{whole} --steps 4 --seed 3 --out parts --resume"), "with other settings, or another model");
    good(p, &format!("{whole} --steps 4 --out parts --resume"));
    for file in ["generator.safetensors", "cells.csv", "curves.csv", "grid.png", "measures.json"] {
        let [whole, parts] = ["whole", "parts"].map(|d| fs::read(p.join(d).join(file)).unwrap());
        assert!(whole == parts, "{file}");
    }
    let curves = fs::read_to_string(p.join("whole/curves.csv")).unwrap();
    assert_eq!(curves.lines().next(), Some("step,guide_points2,apart,generator_nats,discriminator_nats"));
    good(p, &format!("train set.csv {tiny} --label colour --min-count 1 --out named"));
    for (line, problem) in [
        ("generate --model rated/checkpoint.safetensors --side 24 --out no".into(), "is not a power of two"),
        ("generate --model rated/checkpoint.safetensors --batch 3 --diversity 1 --out no".into(), "compares pairs"),
        (format!("{one} --range 8,2 --out no"), "no range within 1 to 9"),
        (format!("{one} --resume --out no"), "leave out --resume to begin anew"),
        (format!("{one} --elites rated --steps 1 --out no"), "name the folder of an `evolve` with --elites"),
        (format!("generate --model named/checkpoint.safetensors {small} --out no"), "tells classes apart"),
    ] {
        bad(p, &line, problem);
    }
}
