//! Promise 18: a data set as people have it. What is wrong is listed, all of it and nothing else; the rest is trained on; and no
//! file of the user's is touched.

use crate::common::each;
use crate::files::encoded;
use crate::runs::{MODEL, TRAIN, files, folder, program, text, train};
use crate::{Form, Line, must};
use deep_affect::hash;
use deep_affect::rng::{Rng, Stream};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Writes a picture that cannot be used; the path to list.
type Spoil = fn(&Path, &[u8], &mut Rng);

const SPOILED: [(&str, Spoil); 12] = [
    ("truncated", |p, good, rng| fs::write(p, &good[..good.len() / 2 + rng.below(good.len() / 4)]).unwrap()),
    ("empty", |p, _, _| fs::write(p, "").unwrap()),
    ("missing", |_, _, _| {}),
    ("text", |p, _, _| fs::write(p, "this is no picture\n").unwrap()),
    ("a page", |p, _, _| fs::write(p, "<!DOCTYPE html><title>404 Not Found</title>").unwrap()),
    ("a folder", |p, _, _| fs::create_dir(p).unwrap()),
    ("noise", |p, _, rng| fs::write(p, (0..500).map(|_| rng.below(256) as u8).collect::<Vec<_>>()).unwrap()),
    ("zeros", |p, good, _| fs::write(p, vec![0; good.len()]).unwrap()),
    ("its first bytes", |p, good, _| fs::write(p, &good[..8]).unwrap()),
    ("HEIC", |p, _, _| fs::write(p, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap()),
    ("a pointer of Git LFS", |p, _, _| fs::write(p, "version https://git-lfs.github.com/spec/v1\nsize 5\n").unwrap()),
    ("an archive", |p, _, _| fs::write(p, b"PK\x03\x04\x14\0\0\0\0\0").unwrap()),
];

/// Sums of all files outside the folder of results.
fn sums(dir: &Path) -> BTreeMap<PathBuf, u128> {
    let own = files(dir).into_iter().filter(|p| !p.starts_with(dir.join("run")));
    own.map(|p| (p.clone(), hash::content(&fs::read(p).unwrap()))).collect()
}

pub fn dirty(form: Form) -> Vec<Line> {
    let n = form.of(300, 3000);
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    let drawings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emoji/emoji");
    let mut drawings: Vec<PathBuf> = fs::read_dir(drawings).unwrap().map(|f| f.unwrap().path()).collect();
    drawings.sort();
    let (formats, mut rng) = (encoded(), Rng::new(18, Stream::Test(0), 0));
    let (mut table, mut bad) = (String::from("path,valence,arousal,group\n"), BTreeSet::new());
    fs::create_dir(p.join("set")).unwrap();
    for i in 0..n {
        // A drawing, or the same picture in another format; never twice the same bytes.
        let (ending, mut bytes) = match i % 4 {
            0 => {
                let (ending, bytes) = &formats[i / 4 % 5];
                (*ending, bytes.clone())
            }
            _ => ("png", fs::read(&drawings[i % drawings.len()]).unwrap()),
        };
        let name = format!("set/{i:04}.{ending}");
        table.push_str(&format!("{name},{},{},g{}\n", 1 + i % 9, 9 - i % 8, i / 3));
        if i % 10 < 3 {
            let (_, spoil) = SPOILED[i / 10 % SPOILED.len()];
            spoil(&p.join(&name), &bytes, &mut rng);
            bad.insert(name);
        } else {
            if ending == "bmp" {
                let last = bytes.len() - 1 - rng.below(1000);
                bytes[last] ^= 0x55;
            }
            fs::write(p.join(&name), &bytes).unwrap();
        }
    }
    fs::write(p.join("set.csv"), table).unwrap();
    let before = sums(p);
    let mut complaints = vec![];
    let args = |more: &[&'static str]| -> Vec<&str> {
        [&TRAIN[..], &MODEL, &["--val", "0.2", "--epochs", "1"], more].concat()
    };

    let out = program(p, &args(&[])).output().unwrap();
    let said = format!("{} of {n} pictures cannot be used", bad.len());
    let refused = out.status.code() == Some(1) && text(&out.stderr).contains(&said);
    let mut lines = vec![Line::all(
        "refused without --skip-bad, and counted",
        1,
        Vec::from_iter((!refused).then(|| text(&out.stderr).into())),
    )];

    let out = program(p, &args(&["--skip-bad"])).output().unwrap();
    if !out.status.success() {
        complaints.push(text(&out.stderr).to_string());
    }
    let list = fs::read_to_string(p.join("run/bad-pictures.csv")).unwrap_or_default();
    let mut reader = csv::Reader::from_reader(list.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let listed: BTreeSet<String> = rows
        .iter()
        .map(|r| {
            r.iter()
                .find(|f| f.starts_with("set/") || f.contains("/set/"))
                .map(|f| f[f.find("set/").unwrap()..].to_string())
                .unwrap_or_default()
        })
        .collect();
    complaints.extend(bad.difference(&listed).map(|b| format!("{b} is not listed")));
    complaints.extend(listed.difference(&bad).map(|b| format!("{b} is listed and is good")));
    if rows.len() != bad.len() {
        complaints.push(format!("{} rows for {} pictures", rows.len(), bad.len()));
    }
    lines.push(Line::all(&format!("of {n} pictures those that are bad listed"), bad.len(), complaints));
    // What the run says of itself.
    let counts = |parts: [&str; 2]| parts.map(|part| fs::read_to_string(p.join("run").join(part)).unwrap_or_default());
    let [page, json] = counts(["report.html", "metrics.json"]);
    let lost = format!("{} of {n} pictures could not be read", bad.len());
    let trained: Option<u64> = text(&out.stderr).lines().find_map(|l| {
        let mut words = l.split(' ');
        let first = words.next()?.parse::<u64>().ok()?;
        l.contains(" pictures to train on, ").then_some(())?;
        let monitored: u64 = l.split(", ").nth(1)?.split(' ').next()?.parse().ok()?;
        Some(first + monitored)
    });
    let mut told = vec![];
    told.extend((!page.contains(&lost)).then(|| format!("the report does not say: {lost}")));
    told.extend((!json.contains(&lost)).then(|| format!("the metrics do not say: {lost}")));
    told.extend((trained != Some((n - bad.len()) as u64)).then(|| format!("{trained:?} pictures are used")));
    lines.push(Line::all("numbers of the report equal the truth", 3, told));
    let after = sums(p);
    let touched: Vec<String> =
        before.iter().filter(|(p, sum)| after.get(*p) != Some(*sum)).map(|(p, _)| p.display().to_string()).collect();
    let more: Vec<String> =
        after.keys().filter(|p| !before.contains_key(*p)).map(|p| p.display().to_string()).collect();
    lines.push(Line::all("files of the user unchanged, none added", before.len(), [touched, more].concat()));
    lines.push(wrong_rows());
    lines
}

/// Rows that are wrong, each in one way, are refused with their line.
fn wrong_rows() -> Line {
    let rows: [(&str, &str); 40] = [
        ("pictures/4.png,,5,g,sea", "no rating"),
        ("pictures/4.png,5,,g,sea", "no rating"),
        (",5,5,g,sea", "no path"),
        ("  ,5,5,g,sea", "no path"),
        ("pictures/4.png,x,5,g,sea", "a word"),
        ("pictures/4.png,5,x,g,sea", "a word"),
        ("pictures/4.png,nan,5,g,sea", "NaN"),
        ("pictures/4.png,5,NaN,g,sea", "NaN"),
        ("pictures/4.png,inf,5,g,sea", "infinity"),
        ("pictures/4.png,-inf,5,g,sea", "infinity"),
        ("pictures/4.png,1e39,5,g,sea", "beyond float32"),
        ("pictures/4.png,0,5,g,sea", "below the scale"),
        ("pictures/4.png,0.99,5,g,sea", "below the scale"),
        ("pictures/4.png,-5,5,g,sea", "below the scale"),
        ("pictures/4.png,9.01,5,g,sea", "above the scale"),
        ("pictures/4.png,5,10,g,sea", "above the scale"),
        ("pictures/4.png,5,55,g,sea", "above the scale"),
        ("pictures/4.png,5 points,5,g,sea", "a unit"),
        ("pictures/4.png,5%,5,g,sea", "a unit"),
        ("pictures/4.png,5/9,5,g,sea", "a fraction"),
        ("pictures/4.png,\"5,2\",5,g,sea", "a decimal comma"),
        ("pictures/4.png,5.2.1,5,g,sea", "two points"),
        ("pictures/4.png,1 2,5,g,sea", "two numbers"),
        ("pictures/4.png,0x5,5,g,sea", "hexadecimal"),
        ("pictures/4.png,1_0,5,g,sea", "an underscore"),
        ("pictures/4.png,++5,5,g,sea", "two signs"),
        ("pictures/4.png,5-,5,g,sea", "a sign behind"),
        ("pictures/4.png,#DIV/0!,5,g,sea", "an error of a spreadsheet"),
        ("pictures/4.png,NA,5,g,sea", "missing"),
        ("pictures/4.png,-,5,g,sea", "missing"),
        ("pictures/4.png,?,5,g,sea", "missing"),
        ("pictures/4.png,five,5,g,sea", "a word"),
        ("pictures/4.png,5,5,g,sea,more", "a field too many"),
        ("pictures/4.png,5,5,g", "a field too few"),
        ("pictures/4.png", "one field"),
        ("pictures/4.png;5;5;g;sea", "another delimiter"),
        ("\"pictures/4.png,5,5,g,sea", "a quote that is not closed"),
        ("pictures/4.png,5,5,\"g\"\"\",\"sea", "a quote that is not closed"),
        ("pictures/no-such.png,5,5,g,sea", "no such picture"),
        ("pictures,5,5,g,sea", "a folder"),
    ];
    let told = each(&rows, |(row, what)| {
        let dir = folder();
        let table = fs::read_to_string(dir.path().join("set.csv")).unwrap();
        let lines: Vec<&str> = table.lines().enumerate().map(|(i, l)| if i == 5 { *row } else { l }).collect();
        fs::write(dir.path().join("set.csv"), lines.join("\n") + "\n").unwrap();
        let out = program(dir.path(), &train("1", &[])).output().unwrap();
        let err = text(&out.stderr);
        let lines = err.lines().filter(|l| l.starts_with("error: ")).count();
        must!(out.status.code() == Some(1) && lines == 1 && !err.contains("panicked"), "{what}, `{row}`: {err}");
        let place = err.contains("line 6") || err.contains("no-such.png") || err.contains("pictures: ");
        must!(place, "{what}, `{row}`: {err}");
        None
    });
    Line::all("kinds of wrong rows refused with their line", rows.len(), told)
}
