//! What `predict` says beside ratings: where towers look, what they see, how far several models may be off.

mod emoji;

use approx::assert_abs_diff_eq as close;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// What all tests share.
fn dir() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    DIR.get_or_init(prepared).path()
}

fn program(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deep-affect")).args(args).current_dir(dir).output().unwrap()
}

fn run(args: &[&str]) -> Output {
    program(dir(), args)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn good(args: &[&str]) -> String {
    let out = run(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout).to_string()
}

/// The run fails with this code and one line that has all `parts`.
fn bad(args: &[&str], code: i32, parts: &[&str]) {
    let out = run(args);
    let err = text(&out.stderr);
    assert_eq!((out.status.code(), err.lines().count()), (Some(code), 1), "{args:?}: {err}");
    assert!(parts.iter().all(|p| err.contains(p)), "{args:?}: {parts:?} in {err}");
}

/// A folder with the ratings of twelve drawings, a cross-validation `cv` that kept its three models, and these `alone`.
fn prepared() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    emoji::unpack(dir.path());
    let all = fs::read_to_string(dir.path().join("emoji.csv")).unwrap();
    let few: Vec<&str> = all.lines().take(1).chain(all.lines().skip(1).step_by(100)).collect();
    fs::write(dir.path().join("few.csv"), few[..13].join("\n")).unwrap();
    for (name, tower) in emoji::towers() {
        fs::write(dir.path().join(format!("{name}.safetensors")), tower).unwrap();
    }
    let args = "cross-validate few.csv --out cv --folds 3 --keep-models --targets valence,intensity --alpha white \
                --features scene,face --weights scene=scene.safetensors --weights face=face.safetensors --image 64 --freeze all \
                --head 4 --epochs 2 --val 0 --threads 1";
    let out = program(dir.path(), &args.split_whitespace().collect::<Vec<_>>());
    assert!(out.status.success(), "{}", text(&out.stderr));
    fs::create_dir(dir.path().join("alone")).unwrap();
    for f in 1..=3 {
        let name = format!("fold-{f}.safetensors");
        fs::copy(dir.path().join("cv").join(&name), dir.path().join("alone").join(&name)).unwrap();
    }
    dir
}

const ONE: &str = "cv/fold-1.safetensors";

fn rows(args: &[&str]) -> Vec<serde_json::Map<String, Value>> {
    good(args).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn number(row: &serde_json::Map<String, Value>, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row:?}"))
}

const PICTURES: [&str; 2] = ["emoji/noto-1f602.png", "emoji/noto-1f494.png"];

fn predict(more: &[&str]) -> Vec<serde_json::Map<String, Value>> {
    rows(&[&["predict", "--format", "jsonl"], more, &PICTURES[..]].concat())
}

fn keys(row: &serde_json::Map<String, Value>) -> Vec<&str> {
    row.keys().map(String::as_str).collect()
}

#[test]
fn classes_come_with_names_and_only_when_asked_for() {
    let plain = predict(&["--model", ONE]);
    assert_eq!(keys(&plain[0]), ["path", "valence_1to9", "intensity_1to9", "error", "note", "model"]);
    let seen = predict(&["--model", ONE, "--top", "2"]);
    let want = "path valence_1to9 intensity_1to9 scene_top1_index scene_top1_class scene_top1_probability \
                scene_top2_index scene_top2_class scene_top2_probability face_anger_probability \
                face_fear_probability face_happiness_probability face_no-face_probability face_sadness_probability error \
                note model";
    for (row, plain) in seen.iter().zip(&plain) {
        assert_eq!(keys(row), want.split_whitespace().collect::<Vec<_>>());
        assert_eq!(row["valence_1to9"], plain["valence_1to9"]);
        let faces: f64 = row.iter().filter(|(k, _)| k.starts_with("face_")).map(|(_, v)| v.as_f64().unwrap()).sum();
        close!(faces, 1.0, epsilon = 1e-5);
        assert!(number(row, "scene_top1_probability") >= number(row, "scene_top2_probability"));
        assert_ne!(row["scene_top1_index"], row["scene_top2_index"]);
        assert!(row["scene_top1_class"].is_string());
    }
    // The tower was not trained on: `features` says the same of it, in its own words.
    let args =
        ["features", "scene.safetensors", "--image", "64", "--alpha", "white", "--json", "--top", "1", PICTURES[0]];
    let alone: Value = serde_json::from_str(&good(&args)).unwrap();
    assert_eq!(alone["top"][0]["class"], seen[0]["scene_top1_class"]);
    let probability = alone["top"][0]["value"].as_f64().unwrap() as f32;
    assert_eq!(probability, number(&seen[0], "scene_top1_probability") as f32);
    // csv has the same columns, and a picture that cannot be used has empty cells.
    fs::write(dir().join("bad.png"), "no picture").unwrap();
    let out = run(&["predict", "--format", "csv", "--model", ONE, "--top", "2", PICTURES[0], "bad.png"]);
    let lines: Vec<&str> = text(&out.stdout).lines().collect();
    assert_eq!(lines[0], want.split_whitespace().collect::<Vec<_>>().join(","));
    assert!(lines[2].starts_with("bad.png,,,,,,,,,,,,,,"), "{}", lines[2]);
    let table = good(&["predict", "--format", "table", "--model", ONE, "--top", "2", PICTURES[0]]);
    assert!(table.contains("  face: ") && table.lines().count() == 4, "{table}");
}

#[test]
fn several_models_answer_with_their_mean_and_an_interval_of_their_errors() {
    let each: Vec<_> = (1..=3).map(|f| predict(&["--model", &format!("cv/fold-{f}.safetensors")])).collect();
    let mean = |target: &str, i: usize| each.iter().map(|rows| number(&rows[i], target)).sum::<f64>() / 3.0;
    let held = predict(&["--model", "cv", "--interval", "80"]);
    let all = predict(&["--model", "alone"]);
    for i in 0..2 {
        for t in ["valence", "intensity"] {
            let key = format!("{t}_1to9");
            for rows in [&held, &all] {
                close!(number(&rows[i], &key), mean(&key, i), epsilon = 1e-5);
            }
            let [low, high] = ["low", "high"].map(|end| number(&held[i], &format!("{t}_cvplus80_{end}_1to9")));
            assert!(low < high);
            let [sd, min, max] =
                ["sd_points", "min_1to9", "max_1to9"].map(|what| number(&all[i], &format!("{t}_models_{what}")));
            let said: Vec<f64> = each.iter().map(|rows| number(&rows[i], &key)).collect();
            assert!(said.contains(&min) && said.contains(&max) && min <= max);
            let m = mean(&key, i);
            let want = (said.iter().map(|x| (x - m).powi(2)).sum::<f64>() / 2.0).sqrt();
            close!(sd, want, epsilon = 1e-5);
            // Errors of drawings that were not seen are larger than disagreements about one.
            assert!(high - low > max - min);
        }
    }
    assert_eq!((&held[0]["model"], &all[0]["model"]), (&"cv".into(), &"alone".into()));
    assert!(!held[0].contains_key("valence_models_sd_points"));
    let table = good(&["predict", "--format", "table", "--model", "cv", PICTURES[0]]);
    assert!(table.contains("by CV+ at 90 %"), "{table}");

    let one = format!("{}/{ONE}", dir().display());
    bad(
        &["predict", "--model", &one, "--model", "cv/fold-2.safetensors", "--explain", "x", PICTURES[0]],
        2,
        &["--explain takes one model, not 2"],
    );
    let missing = ["predict", "--model", "cv/fold-1.safetensors", "--model", "cv/fold-2.safetensors", PICTURES[0]];
    bad(&missing, 1, &["cv/predictions.csv", "column fold: `3` is not a fold with a model"]);
    bad(&["predict", "--model", "cv", "--interval", "95", PICTURES[0]], 1, &["12 pictures give no interval of 95 %"]);
    bad(&["predict", "--model", "emoji", PICTURES[0]], 1, &["emoji: ", "it is a folder; name a weight file"]);
}

/// One file that says what the folder of a cross-validation says, and what two runs say on average.
#[test]
fn merged_models_answer_as_they_did_apart() {
    good(&["weights", "merge", "cv", "--out", "merged.safetensors"]);
    let fields = |t: &str| [format!("{t}_1to9"), format!("{t}_cvplus80_low_1to9"), format!("{t}_cvplus80_high_1to9")];
    let apart = |a: &[serde_json::Map<String, Value>], b: &[serde_json::Map<String, Value>]| {
        let keys: Vec<String> = ["valence", "intensity"].iter().flat_map(|t| fields(t)).collect();
        let of = |(a, b): (&serde_json::Map<String, Value>, _)| {
            keys.iter().map(|k| (number(a, k) - number(b, k)).abs()).fold(0.0, f64::max)
        };
        a.iter().zip(b).map(of).fold(0.0, f64::max)
    };
    let level = |model: &str| predict(&["--model", model, "--interval", "80"]);
    let folder = level("cv");
    let one = level("merged.safetensors");
    assert_eq!(keys(&one[0]), keys(&folder[0]));
    assert!(apart(&one, &folder) <= 1e-5, "{one:?} {folder:?}");
    // At 8 bits a weight, nearly.
    good(&["weights", "merge", "cv", "--out", "narrow.safetensors", "--store", "int8"]);
    assert!((1e-7..0.1).contains(&apart(&level("narrow.safetensors"), &folder)));
    // Another run over the same folds with other first weights: each picture is rated by two heads.
    let args = "cross-validate few.csv --out again --fold-file cv/folds.csv --keep-models --targets valence,intensity \
                --alpha white --features scene,face --weights scene=scene.safetensors --weights face=face.safetensors \
                --image 64 --freeze all --head 4 --epochs 2 --val 0 --threads 1 --seed 2";
    good(&args.split_whitespace().collect::<Vec<_>>());
    let merge = |dirs: &[&str], code, parts: &[&str]| {
        bad(&[&["weights", "merge"], dirs, &["--out", "no.safetensors"]].concat(), code, parts);
    };
    // One model of that run among those of the first, and its predictions beside them.
    let mixed = |name: &str, other: &str| {
        fs::create_dir(dir().join(name)).unwrap();
        let files = [1, 2, 3].map(|f| format!("fold-{f}.safetensors")).into_iter();
        for file in files.chain(["predictions.csv", "models.json"].map(String::from)) {
            let from = if file == other { "again" } else { "cv" };
            fs::copy(dir().join(from).join(&file), dir().join(name).join(&file)).unwrap();
        }
    };
    mixed("two", "fold-2.safetensors");
    bad(&["predict", "--model", "two", PICTURES[0]], 1, &["two/fold-2.safetensors: is not of the run that wrote"]);
    merge(&["two"], 1, &["two/fold-2.safetensors: is not of the run"]);
    mixed("moved", "predictions.csv");
    bad(&["predict", "--model", "moved", PICTURES[0]], 1, &["moved/predictions.csv: is not what the run of these"]);
    let measured = good(&["weights", "merge", "cv", "again", "--out", "both.safetensors"]);
    assert!(measured.contains("MSE"), "{measured}");
    let (second, both) = (level("again"), level("both.safetensors"));
    for ((a, b), both) in folder.iter().zip(&second).zip(&both) {
        let mean = (number(a, "valence_1to9") + number(b, "valence_1to9")) / 2.0;
        assert!((number(both, "valence_1to9") - mean).abs() <= 1e-5 && a["valence_1to9"] != b["valence_1to9"]);
    }
    let card = good(&["weights", "inspect", "both.safetensors"]);
    assert!(card.contains("the mean of 6 such heads"), "{card}");
    // What is not of one kind, or a mean already.
    merge(&["alone"], 1, &["alone/predictions.csv"]);
    merge(&["emoji"], 1, &["emoji: has no fold-N.safetensors"]);
    fs::create_dir(dir().join("twice")).unwrap();
    for name in ["fold-1.safetensors", "predictions.csv"] {
        let from = if name.starts_with("fold") { "merged.safetensors".into() } else { format!("cv/{name}") };
        fs::copy(dir().join(from), dir().join("twice").join(name)).unwrap();
    }
    let rows = fs::read_to_string(dir().join("twice/predictions.csv")).unwrap();
    let fold = rows.lines().next().unwrap().split(',').position(|c| c == "fold").unwrap();
    let kept = |l: &&str| l.split(',').nth(fold).is_some_and(|f| f == "fold" || f == "1");
    fs::write(dir().join("twice/predictions.csv"), rows.lines().filter(kept).collect::<Vec<_>>().join("\n")).unwrap();
    merge(&["twice"], 1, &["twice/fold-1.safetensors", "it was merged already"]);
}

#[test]
fn explanations_are_a_folder_that_a_browser_and_a_program_can_read() {
    let args = ["--model", ONE, "--explain", "why", "--target", "valence", "--target", "class", "--sign", "both"];
    let explained = predict(&[&args[..], &["--truth", "few.csv"]].concat());
    assert_eq!(explained, predict(&["--model", ONE]));
    let folder = dir().join("why");
    let table = fs::read_to_string(folder.join("explain.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let columns = reader.headers().unwrap().clone();
    let all: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let cell = |row: &csv::StringRecord, name: &str| row[columns.iter().position(|c| c == name).unwrap()].to_string();
    // Two pictures, two towers, two targets, two signs.
    assert_eq!(all.len(), 16);
    let page = fs::read_to_string(folder.join("index.html")).unwrap();
    let mut files = BTreeSet::new();
    for row in &all {
        let class = cell(row, "target") == "class";
        assert_eq!((cell(row, "predicted_1to9").is_empty(), cell(row, "probability").is_empty()), (class, !class));
        assert_eq!(cell(row, "class").is_empty(), !class);
        let (overlay, map) = (cell(row, "overlay_png"), cell(row, "map_npy"));
        assert!(page.contains(&format!("src=\"{overlay}\"")), "{overlay}");
        let picture = image::open(folder.join(&overlay)).unwrap();
        assert_eq!(picture.width(), picture.height());
        let npy = fs::read(folder.join(&map)).unwrap();
        assert!(npy.starts_with(b"\x93NUMPY\x01\x00") && npy.len().is_multiple_of(4));
        files.extend([overlay, map]);
    }
    assert_eq!(files.len(), 16 + 8);
    // And two photographs, the table, the page.
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 16 + 8 + 2 + 2);
    assert!(page.contains("valence") && page.contains("what lowers valence") && page.contains("face at conv5_4"));

    let complaint = |more: &[&str], code, parts: &[&str]| {
        bad(&[&["predict", "--model", ONE, "--explain", "no"], more, &[PICTURES[0]]].concat(), code, parts);
    };
    complaint(&["--target", "dominance"], 2, &["no target `dominance`; choose from valence, intensity, class"]);
    complaint(&["--layer", "conv5_4"], 2, &["the scene tower has no convolution `conv5_4`; choose from conv1_1"]);
    complaint(&["--truth", "none.csv"], 1, &["none.csv"]);
    fs::write(dir().join("file"), "").unwrap();
    bad(&["predict", "--model", ONE, "--explain", "file", PICTURES[0]], 1, &["is a file, and a folder"]);
}

/// An entry of a tar archive as POSIX has it.
fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    bytes[148..156].fill(b' ');
    bytes[156] = kind;
    bytes[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Pictures of a folder that is made for a test, sorted: eight drawings, one of them damaged.
fn pictures(folder: &str) -> Vec<String> {
    let from = fs::read_to_string(dir().join("few.csv")).unwrap();
    let mut paths = vec![];
    for (i, row) in from.lines().skip(1).take(8).enumerate() {
        let path = format!("{folder}/{}{i}.png", if i == 3 { "inner/" } else { "" });
        fs::create_dir_all(dir().join(&path).parent().unwrap()).unwrap();
        let mut bytes = fs::read(dir().join(row.split(',').next().unwrap())).unwrap();
        bytes.truncate(if i == 5 { 60 } else { bytes.len() });
        fs::write(dir().join(&path), bytes).unwrap();
        paths.push(path);
    }
    paths.sort();
    paths
}

/// What the program says of these arguments with this on its standard input.
fn fed(args: &[&str], input: &[u8]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    let piped =
        program.args(args).current_dir(dir()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // A run that ends before it has read everything is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Path, first rating and whether there is an error, of rows of JSON.
fn told(out: &[u8]) -> Vec<(String, Value, bool)> {
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        (row["path"].as_str().unwrap().to_string(), row["valence_1to9"].clone(), row["error"].is_string())
    };
    text(out).lines().map(row).collect()
}

const JSONL: [&str; 5] = ["predict", "--model", ONE, "--format", "jsonl"];

#[test]
fn every_picture_is_in_one_shard_of_a_folder_a_list_and_an_archive() {
    let paths = pictures("all");
    let of = |more: &[&str]| run(&[&JSONL, more].concat());
    let whole = of(&["all"]);
    let rows = told(&whole.stdout);
    assert_eq!(rows.iter().map(|r| r.0.clone()).collect::<Vec<_>>(), paths);
    assert_eq!((whole.status.code(), rows.iter().filter(|r| r.2).count()), (Some(1), 1));
    let sorted = |mut rows: Vec<(String, Value, bool)>| {
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    };
    // A folder by another name of its own has the same parts.
    for folder in ["all", "./all/"] {
        let parts: Vec<_> = (1..=3).map(|i| told(&of(&["--shard", &format!("{i}/3"), folder]).stdout)).collect();
        let all = sorted(parts.concat());
        assert!(parts.iter().all(|p| !p.is_empty()), "{parts:?}");
        assert_eq!(all.iter().map(|r| &r.1).collect::<Vec<_>>(), rows.iter().map(|r| &r.1).collect::<Vec<_>>());
    }
    // The tasks of an array, each with its file.
    for task in ["0", "1", "2"] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
        program.args(JSONL).args(["all", "--shard", "auto", "--out", "parts/", "--resume"]).current_dir(dir());
        for (name, value) in [("ID", task), ("MIN", "0"), ("MAX", "2"), ("STEP", "1"), ("COUNT", "3")] {
            program.env(format!("SLURM_ARRAY_TASK_{name}"), value);
        }
        program.output().unwrap();
    }
    let parts = (1..=3).map(|i| fs::read(dir().join(format!("parts/part-{i}-of-3.jsonl"))).unwrap());
    assert_eq!(sorted(told(&parts.collect::<Vec<_>>().concat())), rows);
    // The same from a list, in a file and piped in, with Windows' ends of lines.
    fs::write(dir().join("list.txt"), paths.join("\r\n")).unwrap();
    let listed = of(&["--list", "list.txt"]);
    assert_eq!((listed.status.code(), told(&listed.stdout)), (Some(1), rows.clone()));
    let piped = fed(&[&JSONL[..], &["--list", "-", "--shard", "2/3"]].concat(), paths.join("\n").as_bytes());
    assert!(piped.status.success() && told(&piped.stdout).iter().all(|r| rows.contains(r)));
    // And from archives, among what is no picture.
    let mut archive: Vec<u8> =
        [entry("all/", b'5', b""), entry("../../a.json", b'0', b"{}"), entry("l.png", b'2', b"")].concat();
    let mut ends = vec![];
    for path in &paths {
        archive.extend(entry(path, b'0', &fs::read(dir().join(path)).unwrap()));
        ends.push(archive.len());
    }
    let closed = [&archive[..], &[0; 1024]].concat();
    ["a.tar", "b.tar"].iter().for_each(|name| fs::write(dir().join(name), &closed).unwrap());
    let within = |archive: &str, rows: &[(String, Value, bool)]| -> Vec<_> {
        rows.iter().map(|r| (format!("{archive}/{}", r.0), r.1.clone(), r.2)).collect()
    };
    let named = |rows: &[(String, Value, bool)]| within("a.tar", rows);
    let packed = of(&["--tar", "a.tar", "b.tar"]);
    let said = text(&packed.stderr);
    assert_eq!(told(&packed.stdout), [named(&rows), within("b.tar", &rows)].concat());
    assert!(said.contains("2 files that do not end like pictures (2 .json)") && said.contains("2 links"), "{said}");
    let halves: Vec<_> = (1..=2).map(|i| told(&of(&["--tar", "a.tar", "--shard", &format!("{i}/2")]).stdout)).collect();
    assert_eq!(sorted(halves.concat()), named(&rows));
    let piped = fed(&[&JSONL[..], &["--tar", "-"]].concat(), &closed);
    assert_eq!((piped.status.code(), told(&piped.stdout)), (Some(1), rows.clone()));
    assert!(!dir().join("../../a.json").exists() && !dir().join("l.png").exists());
    // One that is cut off leaves the rows before, also in a file.
    let cut = &closed[..ends[2] + 700];
    let piped = fed(&[&JSONL[..], &["--tar", "-", "--batch", "2", "--quiet"]].concat(), cut);
    let want = format!(
        "error: standard input: is truncated inside `{}`, and `{}` is its last whole entry; copy or download it again\n",
        paths[3], paths[2]
    );
    assert_eq!((text(&piped.stderr), piped.status.code(), told(&piped.stdout)), (&*want, Some(1), rows[..3].to_vec()));
    fs::write(dir().join("cut.tar"), cut).unwrap();
    assert_eq!(of(&["--tar", "cut.tar", "--out", "cut.jsonl"]).status.code(), Some(1));
    assert_eq!(told(&fs::read(dir().join("cut.jsonl")).unwrap()).len(), 3);
}

#[test]
fn what_cannot_be_divided_or_listed_is_refused() {
    fs::write(dir().join("no.tar"), [7; 2000]).unwrap();
    fs::write(dir().join("long.txt"), [b'a'; 70_000]).unwrap();
    fs::write(dir().join("there.csv"), "path\n").unwrap();
    let refused = |more: &[&str], code: i32, part: &str| {
        bad(&[&["predict", "--model", ONE, "--quiet"], more].concat(), code, &[part]);
    };
    refused(&["emoji", "--shard", "5/4"], 2, "there is no shard 5 of 4");
    refused(&["emoji", "--shard", "0/4"], 2, "the first is 1/4");
    refused(&["emoji", "--shard", "auto"], 2, "none of SLURM_ARRAY_TASK_ID");
    refused(&["--list", "none.txt"], 1, "none.txt: cannot read");
    refused(&["--list", "long.txt"], 1, "long.txt: line 1: has more than 65536 bytes");
    refused(&["--tar", "no.tar"], 1, "no.tar: is no tar archive");
    refused(&["emoji", "--resume", "--out", "a.json"], 2, "as CSV or JSON lines alone");
    refused(&["emoji", "--resume", "--out", "there.csv"], 1, "there.csv: is there already, and no there.csv.json says");
    refused(&["emoji", "./emoji"], 2, "./emoji: is named twice");
    refused(&["--tar", "no.tar", "no.tar"], 2, "no.tar: is named twice");
    // A file that may not grow, as a full disk.
    fs::write(dir().join("limit.txt"), format!("{}\n", PICTURES[0]).repeat(40)).unwrap();
    let program = env!("CARGO_BIN_EXE_deep-affect");
    let limited =
        format!("ulimit -f 2; exec '{program}' predict --model {ONE} -q --list limit.txt --out limited.csv --resume");
    let out = Command::new("sh").args(["-c", &limited]).current_dir(dir()).output().unwrap();
    let said = text(&out.stderr);
    assert!(out.status.code() == Some(1) && said.starts_with("error: limited.csv.part: cannot write"), "{out:?}");
    let mut auto = Command::new(program);
    let auto = auto.args(["predict", "emoji", "--shard", "auto", "--out", "a.csv"]).current_dir(dir());
    let out = auto.env("RANK", "0").env("WORLD_SIZE", "2").output().unwrap();
    assert!(out.status.code() == Some(2) && text(&out.stderr).contains("a.csv: would be written by every task"));
}

#[test]
fn an_answer_goes_on_where_it_was_killed() {
    let paths = pictures("resumed, \"quoted\"");
    let folder = "resumed, \"quoted\"";
    let path = |name: &str| dir().join(name);
    for form in ["csv", "jsonl"] {
        let (out, part) = (format!("r.{form}"), format!("r.{form}.part"));
        let resumed = |more: &[&str]| {
            run(&[&["predict", "--model", ONE, "--batch", "3", "--resume", "--out", &out], more].concat())
        };
        let first = resumed(&[folder]);
        assert_eq!(first.status.code(), Some(1), "{}", text(&first.stderr));
        let whole = fs::read(path(&out)).unwrap();
        assert_eq!(whole, run(&["predict", "--model", ONE, "--format", form, folder]).stdout);
        let again = resumed(&[folder]);
        assert!(text(&again.stderr).contains(&format!("{out} is complete: 8 rows")) && again.status.code() == Some(1));
        // As a kill leaves it: inside the header, inside a row, between rows, before the last end of a line.
        let rows: Vec<usize> = whole.iter().enumerate().filter(|b| *b.1 == b'\n').map(|b| b.0 + 1).collect();
        for length in [0, 9, rows[2], rows[2] + 20, rows[5] - 1, whole.len() - 1, whole.len()] {
            fs::remove_file(path(&out)).unwrap();
            fs::write(path(&part), &whole[..length]).unwrap();
            assert_eq!(resumed(&[folder]).status.code(), Some(1));
            assert!(fs::read(path(&out)).unwrap() == whole && !path(&part).exists(), "{form} of {length}");
        }
        let refused = |out: Output, want: &str| {
            assert!(out.status.code() == Some(1) && text(&out.stderr).contains(want), "{}", text(&out.stderr));
        };
        refused(resumed(&["emoji"]), "was begun with other pictures");
        refused(resumed(&[folder, "--shard", "1/2"]), "was begun with other shard");
        // Pictures that are no longer what they were.
        fs::rename(path(&out), path(&part)).unwrap();
        fs::rename(path(&paths[1]), path("away.png")).unwrap();
        refused(resumed(&[folder]), "row 2 is not of");
        fs::rename(path("away.png"), path(&paths[1])).unwrap();
        // Two at once.
        let lock = fs::File::create(path(&format!("{out}.lock"))).unwrap();
        lock.lock().unwrap();
        refused(resumed(&[folder]), "another process writes it");
        drop(lock);
        assert_eq!((resumed(&[folder]).status.code(), fs::read(path(&out)).unwrap() == whole), (Some(1), true));
    }
}

#[test]
fn a_worker_answers_each_line_until_its_input_ends() {
    let paths = pictures("worked");
    let mut program = Command::new(env!("CARGO_BIN_EXE_deep-affect"));
    let program = program.args(JSONL).args(["--list", "-", "--batch", "4"]).current_dir(dir());
    let mut start = || program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = start();
    let (mut to, mut from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut answered = |n: usize| {
        let mut lines = String::new();
        (0..n).for_each(|_| assert!(from.read_line(&mut lines).unwrap() > 0));
        told(lines.as_bytes())
    };
    let rated = told(&run(&[&JSONL, &["worked"][..]].concat()).stdout);
    // One at a time, each before the next is asked; then what is no picture; then more than a batch at once.
    for (path, want) in paths.iter().zip(&rated).take(2) {
        to.write_all(format!("{path}\n").as_bytes()).unwrap();
        assert_eq!(answered(1), std::slice::from_ref(want));
    }
    to.write_all(b"none.png\n\nworked\n").unwrap();
    assert_eq!(
        answered(3).iter().map(|r| (&*r.0, r.2)).collect::<Vec<_>>(),
        [("none.png", true), ("", true), ("worked", true)]
    );
    to.write_all((paths.join("\n") + "\n").as_bytes()).unwrap();
    assert_eq!(answered(8), rated);
    drop(to);
    let out = child.wait_with_output().unwrap();
    let said = text(&out.stderr);
    assert!(out.status.success() && said.contains("4 of 13 pictures cannot be used"), "{said}");
    // Who leaves while nothing comes: the next answer finds nobody, and it ends although its input does not.
    let mut child = start();
    drop(child.stdout.take());
    let mut to = child.stdin.take().unwrap();
    to.write_all(format!("{}\n", paths[0]).as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    drop(to);
}
