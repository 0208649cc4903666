//! `features --table` and `fit`: from drawings with categories to a support vector machine judged over folds (a few seconds).

mod emoji;

use deep_affect::data::Manifest;
use deep_affect::data::features_table::{FeatureTable, joined};
use deep_affect::solve::model::SolvedModel;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(dir: &Path, line: &str) -> Output {
    let args = line.split_whitespace();
    let program = env!("CARGO_BIN_EXE_deep-affect");
    Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

fn good(dir: &Path, line: &str) -> String {
    let out = run(dir, line);
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The run fails with this code and one line that has `part`.
fn bad(dir: &Path, line: &str, code: i32, part: &str) {
    let out = run(dir, &format!("{line} --quiet"));
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!((out.status.code(), err.lines().count()), (Some(code), 1), "{line}: {err}");
    assert!(err.starts_with("error: ") && err.contains(part), "{line}: no `{part}` in {err}");
}

/// Every eighth emoji, the tower that knows them, and the table of what it sees.
fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let all = fs::read_to_string(emoji::unpack(dir.path())).unwrap();
    let (head, rows) = all.split_once('\n').unwrap();
    let few: Vec<&str> = rows.lines().enumerate().filter(|(i, _)| i % 8 == 0).map(|(_, l)| l).collect();
    // One has no category.
    let mut few: Vec<String> = few.into_iter().map(String::from).collect();
    few[0] = few[0].replace(",Symbols,", ",,");
    fs::write(dir.path().join("m.csv"), format!("{head}\n{}\n", few.join("\n"))).unwrap();
    let [(_, object), ..] = emoji::towers();
    fs::write(dir.path().join("object.safetensors"), object).unwrap();
    dir
}

/// A model says of three pictures what it says of their rows in a table.
fn sees(dir: &Path, model: &str, table: &str, rest: &str) {
    let predict = |what: &str| good(dir, &format!("predict --model {model} --format csv {what}"));
    let rows = predict(&format!("--table {table}"));
    let some: Vec<&str> = rows.lines().skip(1).step_by(50).take(3).collect();
    let paths: Vec<&str> = some.iter().map(|l| l.split(',').next().unwrap()).collect();
    let seen = predict(&format!("{} {rest}", paths.join(" ")));
    assert_eq!((seen.lines().skip(1).collect::<Vec<_>>(), some.len()), (some.clone(), 3));
    // Among pictures that cannot be used, and of these alone.
    fs::write(dir.join("bad.png"), "no picture").unwrap();
    for others in [&[some[0], some[2]][..], &[]] {
        let paths: Vec<&str> = others.iter().map(|l| l.split(',').next().unwrap()).collect();
        let line = format!("predict --model {model} --format csv bad.png {} none.png {rest}", paths.join(" "));
        let out = run(dir, &line);
        let (said, rows) = (String::from_utf8(out.stderr).unwrap(), String::from_utf8(out.stdout).unwrap());
        let of = format!("2 of {} pictures cannot be used, the first is bad.png: ", others.len() + 2);
        assert!(out.status.code() == Some(1) && said.contains(&of), "{said}");
        let rows: Vec<&str> = rows.lines().skip(1).collect();
        let cells = |row: &str| row.split(',').map(String::from).collect::<Vec<_>>();
        assert_eq!(rows[1..=others.len()], *others);
        for (row, path) in [(rows[0], "bad.png"), (rows[rows.len() - 1], "none.png")] {
            let cells = cells(row);
            assert!(cells[0] == path && cells[1].is_empty() && !cells[cells.len() - 2].is_empty(), "{row}");
        }
    }
    let args = format!("predict --model {model} {rest}");
    bad(dir, &format!("{args} --list -"), 2, "it looks at all pictures before it answers");
    bad(dir, &format!("{args} --tar none.tar"), 2, "name files, folders, or a list");
    fs::write(dir.join("list.txt"), paths.join("\n")).unwrap();
    let parts: Vec<String> = (1..=2).map(|i| predict(&format!("--list list.txt --shard {i}/2 {rest}"))).collect();
    assert_eq!(parts.iter().map(|p| p.lines().count() - 1).sum::<usize>(), 3);
}

#[test]
fn categories_from_pictures_to_accuracy() {
    let dir = prepared();
    let p = dir.path();
    let features = "features object.safetensors --alpha white --manifest m.csv --output block4+block5 --table";
    good(p, &format!("{features} low.safetensors"));
    let manifest = Manifest::read(p.join("m.csv"), &[]).unwrap();
    let n = manifest.rows.len();
    let one = FeatureTable::read(p.join("low.safetensors")).unwrap();
    one.write(p.join("low.csv")).unwrap();
    assert!(one.paths.len() == n && one.columns[0] == "block4.1" && one.columns.last().unwrap() == "block5.64");

    let fit = "fit m.csv --table low=low.safetensors --solver svc --label category --folds 3 --out svc";
    let text = good(p, &format!("{fit} --c 0.5,1.5,5"));
    assert!(text.contains("commonest class") && text.contains("C 1.5"), "{text}");
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(p.join("svc/metrics.json")).unwrap()).unwrap();
    let (majority, of) = (facts["majority_percent"]["mean"].as_f64().unwrap(), &facts["settings"][1]);
    let accuracy = of["accuracy_percent"]["mean"].as_f64().unwrap();
    assert!(accuracy > majority + 10.0, "{accuracy} % against {majority} %");
    assert_eq!((facts["n_pictures"].as_u64(), facts["answers"].as_array().unwrap().len()), (Some(n as u64 - 1), 8));
    let counts = of["confusion"].as_array().unwrap().iter().flat_map(|r| r.as_array().unwrap());
    assert_eq!(counts.map(|c| c.as_u64().unwrap()).sum::<u64>(), n as u64 - 1);
    for file in
        ["accuracy-by-c.svg", "confusion-C-1.5.svg", "confusion-C-5.csv", "results.tex", "results.md", "folds.csv"]
    {
        assert!(p.join("svc").join(file).is_file(), "{file}");
    }
    // The predictions give the same counts, fold by fold.
    let table = deep_affect::data::table::Table::read(p.join("svc/predictions.csv"), &Default::default()).unwrap();
    let [fold, truth, said] = ["fold", "class_true", "class_predicted C 1.5"].map(|c| table.column(c).unwrap());
    let right = |f: &str| {
        let of: Vec<_> = table.rows.iter().filter(|(_, r)| r[fold] == f).collect();
        100.0 * of.iter().filter(|(_, r)| r[truth] == r[said]).count() as f64 / of.len() as f64
    };
    assert!((["1", "2", "3"].map(right).iter().sum::<f64>() / 3.0 - accuracy).abs() < 1e-9);

    // On the folds of that run the same comes out, on any number of threads.
    let again = "fit m.csv --table low=low.csv --solver svc --label category --c 1.5 --out again";
    bad(p, &format!("{again} --fold-file svc/folds.csv"), 1, "no fold for");
    let labelled: Vec<usize> = (1..n).collect();
    manifest.select(&labelled).write(p.join("labelled.csv")).unwrap();
    good(p, &format!("{} --threads 1 --fold-file svc/folds.csv", again.replace("m.csv", "labelled.csv")));
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(p.join("again/metrics.json")).unwrap()).unwrap();
    assert_eq!(facts["settings"][0]["confusion"], of["confusion"]);
    let [model, mut of_tower] =
        ["again/model", "svc/model-C-1.5"].map(|f| SolvedModel::read(p.join(format!("{f}.safetensors"))).unwrap());
    assert_eq!(of_tower.recipes.len(), 1);
    of_tower.recipes.clear();
    assert!(model == of_tower, "the model's numbers");
    sees(p, "svc/model-C-1.5.safetensors", "low=low.safetensors", "--tower object.safetensors");
    bad(p, "predict --model svc/model-C-1.5.safetensors emoji", 2, "of the tower object.safetensors (SHA-256 ");
    // CSV does not say how its columns are made.
    bad(p, "predict --model again/model.safetensors emoji --tower object.safetensors", 2, "not from pictures");
    // The model knows what it was made of.
    let joined = joined(&[("low".into(), one)], &manifest).unwrap();
    model.fits(&joined.columns).unwrap();
    let seen = model.classes(&joined.values, &labelled);
    let category = manifest.labels("category").unwrap();
    let right = labelled.iter().zip(&seen).filter(|(i, c)| category[**i].as_ref() == Some(&model.names[**c]));
    assert!(right.count() * 10 > labelled.len() * 6);
}

#[test]
fn ratings_by_ridge_and_svr_and_what_is_refused() {
    let dir = prepared();
    let p = dir.path();
    let manifest = Manifest::read(p.join("m.csv"), &["valence"]).unwrap();
    // A table by hand: the rating with noise, its double, and a number that says nothing.
    let mut text = String::from("path,near,other\n");
    for (i, row) in manifest.rows.iter().enumerate() {
        let noise = (i * 7 % 11) as f32 / 20.0;
        text += &format!("{},{},{}\n", row.path, row.targets[0] + noise, i * 13 % 17);
    }
    fs::write(p.join("t.csv"), &text).unwrap();
    let fit = |rest: &str| format!("fit m.csv --table t.csv --targets valence --folds 3 --out d {rest}");
    let mse = || {
        let facts: serde_json::Value = serde_json::from_slice(&fs::read(p.join("d/metrics.json")).unwrap()).unwrap();
        let of = |s: &serde_json::Value| {
            let measures = s["over_folds"]["dimensions"][0]["measures"].as_array().unwrap().clone();
            let mse = measures.into_iter().find(|m| m["measure"] == "mse").unwrap();
            [&mse["model"]["mean"], &mse["baseline"]["mean"]].map(|v| v.as_f64().unwrap())
        };
        facts["settings"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    for (rest, settings) in [
        ("--solver linear", 1),
        ("--solver ridge", 1),
        ("--solver ridge --alpha 0.1,10", 2),
        ("--solver svr --c 1,10 --epsilon 0.05", 2),
    ] {
        let text = good(p, &fit(rest));
        assert!(text.contains("training mean") && text.contains("valence"), "{text}");
        let all = mse();
        assert!(all.len() == settings && all.iter().all(|[m, mean]| *m < 0.2 * mean), "{rest}: {all:?}");
    }
    let predictions = fs::read_to_string(p.join("d/predictions.csv")).unwrap();
    assert!(
        predictions.starts_with("path,dataset,group,fold,valence_true,valence_predicted C 1,valence_predicted C 10\n")
    );

    bad(p, &fit("--solver svc"), 2, "svc needs it");
    bad(p, &fit("--solver svr --c 0"), 2, "C is 0, and must be above 0");
    bad(p, &fit("--solver svr --c 1,1"), 2, "given twice");
    bad(p, &fit("--solver ridge --alpha 0"), 2, "the penalty 0 is not above 0");
    bad(p, &fit("--solver svc --label weight"), 1, "column weight: 1 class(es)");
    bad(p, &fit("--solver svc --label nothing"), 2, "no column `nothing`");
    let lines: Vec<&str> = text.lines().collect();
    fs::write(p.join("t.csv"), lines[..lines.len() - 2].join("\n")).unwrap();
    bad(p, &fit("--solver ridge"), 1, "no row for 2 of the 154 pictures of the manifest: `emoji/");
    // Every column twice: least squares has no single answer.
    let twice: String = text.lines().map(|l| format!("{l},{}\n", l.split(',').nth(1).unwrap())).collect();
    fs::write(p.join("t.csv"), twice.replacen(",near\n", ",again\n", 1)).unwrap();
    bad(p, &fit("--solver linear"), 1, "fold 1: least squares has no single answer: 1 of 3 columns");
    let flat: String = text
        .lines()
        .enumerate()
        .map(|(i, l)| match i {
            0 => format!("{l}\n"),
            _ => format!("{},1,1\n", l.split(',').next().unwrap()),
        })
        .collect();
    fs::write(p.join("t.csv"), flat).unwrap();
    bad(p, &fit("--solver svr"), 1, "pictures are equal");
    // A class of one picture, and one whose pictures are all in one fold.
    fs::write(p.join("t.csv"), &text).unwrap();
    let m = fs::read_to_string(p.join("m.csv")).unwrap();
    let alone = m.replacen(",Activities,", ",Alone,", 1);
    fs::write(p.join("m.csv"), alone).unwrap();
    bad(p, &fit("--solver svc --label category"), 1, "column category: class `Alone` has 1 picture(s)");
    let mut folded = String::new();
    for (i, line) in m.lines().enumerate() {
        let fold = if i == 0 { "fold".into() } else { (1 + u32::from(line.contains(",Symbols,"))).to_string() };
        folded += &format!("{line},{fold}\n");
    }
    fs::write(p.join("m.csv"), folded).unwrap();
    let own = "fit m.csv --table t.csv --solver svc --label category --out d";
    bad(p, own, 1, ": its model would not know the class");
    bad(p, "features object.safetensors --manifest m.csv", 2, "--table");
}

/// Tables without a network, and models that read them: a second or two.
#[test]
fn pictures_described_without_a_network() {
    let dir = prepared();
    let p = dir.path();
    let manifest = Manifest::read(p.join("m.csv"), &[]).unwrap();
    let n = manifest.rows.len();
    let features = "features m.csv --kind lbp,names,colour,gist --gist-side 32 --alpha white";
    good(p, &format!("{features} --out low.safetensors --csv"));
    good(p, &format!("{features} --out one.safetensors --threads 1"));
    let read = |f: &str| fs::read(p.join(f)).unwrap();
    assert!(read("low.safetensors") == read("one.safetensors"), "threads change bits");
    let low = FeatureTable::read(p.join("low.safetensors")).unwrap();
    assert_eq!((low.paths.len(), low.columns.len(), &*low.columns[10]), (n, 11 + 512 + 59, "colour.dominance"));
    let csv = FeatureTable::read(p.join("low.csv")).unwrap();
    assert_eq!((&csv.values, &csv.contents), (&low.values, &low.contents));
    // The paper's signs differ from the original's in arousal and dominance alone.
    good(p, "features m.csv --kind colour --pad-signs paper --alpha white --out paper.csv");
    let paper = FeatureTable::read(p.join("paper.csv")).unwrap();
    let differ = |c: usize| (0..n).any(|i| paper.values[i * 11 + c] != low.values[i * low.columns.len() + c]);
    assert_eq!((0..11).filter(|c| differ(*c)).collect::<Vec<_>>(), [9, 10]);
    bad(p, "features m.csv --kind names --out x.csv", 2, "--colour-names FILE");
    bad(p, "features m.csv --kind gist --gist-side 50 --out x.csv", 2, "a multiple of 16");
    bad(p, "features m.csv --kind colour", 2, "--out FILE");

    // Label maps: the left half of a picture is class 1.
    for size in ["maps", "small", "none"] {
        fs::create_dir(p.join(size)).unwrap();
    }
    for row in &manifest.rows {
        let file = Path::new(&row.path).with_extension("png");
        let (w, h) = image::image_dimensions(p.join(&row.path)).unwrap();
        let map = image::GrayImage::from_fn(w, h, |x, _| image::Luma([u8::from(x < w / 2)]));
        map.save(p.join("maps").join(file.file_name().unwrap())).unwrap();
        image::GrayImage::new(w, h - 1).save(p.join("small").join(file.file_name().unwrap())).unwrap();
    }
    good(p, "features m.csv --areas maps --classes 3 --out areas.csv");
    let areas = FeatureTable::read(p.join("areas.csv")).unwrap();
    assert_eq!(
        (&areas.columns[..], &areas.values[..3]),
        (&["area.0", "area.1", "area.2"].map(String::from)[..], &[0.5, 0.5, 0.0][..])
    );
    bad(p, "features m.csv --areas maps --classes 1 --out x.csv", 1, "class 1, and there are 0 to 0");
    bad(p, "features m.csv --areas small --out x.csv", 1, "make it of the picture at its own size");
    bad(p, "features m.csv --areas none --out x.csv", 1, "no label map of");

    // One network a rating on two tables, standardised by the pictures that are trained on.
    let train = "cross-validate m.csv --targets valence,intensity --folds 2 --table low.safetensors --table where=areas.csv --architecture split";
    let rest = "--head 8 --keep 1 --batch 1000 --val 0 --epochs 5 --threads 1 --keep-models --out cv";
    let text = good(p, &format!("{train} {rest} --lr 0.01"));
    assert!(text.contains("valence"), "{text}");
    let model = "--model cv/fold-1.safetensors";
    bad(p, &format!("predict {model} emoji"), 1, "reads 585 features from tables");
    // The same in a study, beside what is solved for, and ratings beside those of words (Kim et al. 2018).
    let categories: std::collections::BTreeSet<String> =
        manifest.labels("category").unwrap().into_iter().flatten().collect();
    let norms: String = categories.iter().enumerate().map(|(i, c)| format!("{c},{},5\n", 1 + i % 8)).collect();
    fs::write(p.join("norms.csv"), format!("Word,valence,intensity\n{norms}")).unwrap();
    let study = "manifest = 'm.csv'\nfolds = 2\n[norms]\nfile = 'norms.csv'\ntag = 'category'\n\
                 [train]\ntargets = ['valence', 'intensity']\narchitecture = 'split'\nbatch = 1000\nepochs = 3\nval = 0\n\
                 table = ['low.safetensors', 'where=areas.csv']\n\
                 [[model]]\nname = 'dense'\nhead = [8]\nlr = 0.01\n\
                 [[model]]\nname = 'ridge'\nsolver = 'ridge'\nalpha = 1000\n\
                 [[model]]\nname = 'svr'\nsolver = 'svr'\n\
                 [[table]]\nmodels = ['dense', 'ridge', 'svr']\nby = 'folds'\n[[table]]\npairs = [['dense', 'ridge']]\n";
    fs::write(p.join("study.toml"), study).unwrap();
    let text = good(p, "study run study.toml --out study --threads 1");
    assert!(text.contains("Valence training dense") && text.contains("Intensity test svr"), "{text}");
    let table = fs::read_to_string(p.join("study/tables/table-1.csv")).unwrap();
    assert_eq!(table.lines().filter(|l| l.contains("ridge")).count(), 4, "{table}");
    // The solver is fit's: the same errors over the same folds.
    fs::copy(p.join("study/folds.csv"), p.join("dealt.csv")).unwrap();
    let fit =
        "fit m.csv --table low.safetensors --table where=areas.csv --targets valence,intensity --fold-file dealt.csv";
    good(p, &format!("{fit} --solver ridge --alpha 1000 --out solved"));
    good(p, "fit m.csv --table low.safetensors --targets valence --solver ridge --alpha 1 --out described");
    sees(p, "described/model.safetensors", "low.safetensors", "");
    let column = |file: &str, name: &str| -> Vec<(String, f64)> {
        let table = deep_affect::data::table::Table::read(p.join(file), &Default::default()).unwrap();
        let find = |name: &str| table.header.iter().position(|h| h.starts_with(name)).unwrap();
        let [path, value] = ["path", name].map(find);
        let mut rows: Vec<_> = table.rows.iter().map(|(_, r)| (r[path].clone(), r[value].parse().unwrap())).collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    };
    let [ours, fits] = [
        column("study/ridge/predictions.csv", "valence_predicted"),
        column("solved/predictions.csv", "valence_predicted"),
    ];
    assert!(ours.len() == n && ours.iter().zip(&fits).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-4));
    assert!(p.join("study/tables/norms-valence.svg").exists() && p.join("study/tables/norms.csv").exists());
    fs::write(p.join("study.toml"), study.replace("alpha = 1000", "alpha = 10")).unwrap();
    bad(p, "study run study.toml --out study", 1, "solver");

    // The sum of a batch's errors by a rate is their mean by a rate that many times larger.
    let learned = |rest: &str, out: &str| {
        let line = format!("{train} {rest} --out {out}").replace("--keep-models", "");
        good(p, &line.replace("--out cv", "").replace("--folds 2", "--fold-file cv/folds.csv"));
        fs::read_to_string(p.join(out).join("predictions.csv")).unwrap()
    };
    assert_eq!(n % 2, 0);
    let (rate, sum) = (0.01, 0.01 / (n / 2) as f64);
    let [mean, added] = [
        learned(&format!("{rest} --lr {rate}"), "mean"),
        learned(&format!("{rest} --lr {sum} --reduction sum"), "sum"),
    ];
    let numbers = |text: &str| -> Vec<f64> {
        text.lines()
            .skip(1)
            .flat_map(|l| l.split(',').rev().take(6).filter_map(|c| c.parse().ok()).collect::<Vec<f64>>())
            .collect()
    };
    let (mean, added) = (numbers(&mean), numbers(&added));
    assert!(mean.len() == added.len() && mean.len() > n);
    let far = mean.iter().zip(&added).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(far <= 1e-3, "{far}");
    bad(p, &format!("{train} {rest} --features object --init-missing"), 2, "--freeze all");
    bad(p, "train m.csv --targets valence --features none --out t", 2, "with a --table");
    let lines: Vec<String> = fs::read_to_string(p.join("areas.csv")).unwrap().lines().map(String::from).collect();
    fs::write(p.join("areas.csv"), lines[..n].join("\n")).unwrap();
    bad(p, &format!("{train} {rest}"), 1, "no row for 1 of the");
}

/// A table whose second layer knows the rating, and whose first and whose twin know nothing of it.
#[test]
fn layers_are_measured_one_by_one() {
    let dir = prepared();
    let p = dir.path();
    let manifest = Manifest::read(p.join("m.csv"), &["valence"]).unwrap();
    for (name, knows) in [("trained", true), ("random", false)] {
        let mut text = String::from("path,block1.1,block1.2,block2.1\n");
        for (i, row) in manifest.rows.iter().enumerate() {
            let noise = (i * 7 % 11) as f32 / 20.0;
            let second = if knows { row.targets[0] + noise } else { noise };
            text += &format!("{},{},{},{second}\n", row.path, i * 13 % 17, i * 5 % 23);
        }
        fs::write(p.join(format!("{name}.csv")), text).unwrap();
    }
    let line = "fit m.csv --table trained=trained.csv --table random=random.csv --solver ridge --alpha 1 --targets valence \
                --folds 3 --layers --out d";
    let text = good(p, line);
    assert!(text.contains("trained block1") && text.contains("random block2"), "{text}");
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(p.join("d/metrics.json")).unwrap()).unwrap();
    let r = |series: usize, layer: usize, what: &str| {
        facts["series"][series]["layers"][layer]["targets"][0][1][what].as_f64().unwrap()
    };
    assert!(r(0, 1, "value") > 0.9 && r(0, 1, "low") > 0.9, "{text}");
    assert!(r(0, 0, "value").abs() < 0.4 && r(1, 1, "value").abs() < 0.4, "{text}");
    assert_eq!(facts["series"][0]["layers"][0]["columns"], 2);
    assert!(fs::read_to_string(p.join("d/layers-valence.svg")).unwrap().contains("trained block2: r 0.9"));
    bad(p, &line.replace("--alpha 1", "--alpha 1,2"), 2, "--layers is of one setting");
    bad(
        p,
        &line.replace("--solver ridge --alpha 1 --targets valence", "--solver svc --label category"),
        2,
        "--layers is for ratings",
    );
    // Random weights: the same table by the same seed, another by another.
    let features = "features m.csv --tower object.safetensors --output block4+block5 --alpha white --table";
    for (seed, out) in [("--random 1", "a.csv"), ("--random 1", "b.csv"), ("--random 2", "c.csv"), ("", "d.csv")] {
        good(p, &format!("{features} {out} {seed}"));
    }
    let read = |f: &str| fs::read(p.join(f)).unwrap();
    assert!(read("a.csv") == read("b.csv") && read("a.csv") != read("c.csv") && read("a.csv") != read("d.csv"));
}
