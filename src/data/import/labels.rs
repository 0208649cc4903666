//! Sets of labelled pictures: a folder for each label, the label in the file's name, lists, votes, probabilities.

use super::records::{Record, Records};
use super::sets::SetImport;
use super::sheet::{Keep, Rated, Sheet};
use super::{Import, find, lines};
use crate::data::table::{Table, TableOptions};
use crate::data::walk::{is_picture, walk};
use crate::error::{Error, Result};
use crate::files;
use std::collections::HashMap;
use std::path::Path;

/// The eight emotions of Mikels et al. (2005), and how sets spell them.
const MIKELS: [(&str, &[&str]); 8] = [
    ("amusement", &[]),
    ("anger", &["angry"]),
    ("awe", &[]),
    ("contentment", &["content"]),
    ("disgust", &[]),
    ("excitement", &["excited"]),
    ("fear", &[]),
    ("sadness", &["sad"]),
];
const SPLITS: [&str; 3] = ["train", "val", "test"];

fn mikels(text: &str) -> Option<&'static str> {
    let is = |name: &str| name.eq_ignore_ascii_case(text.trim());
    MIKELS.iter().find(|(name, others)| is(name) || others.iter().any(|o| is(o))).map(|m| m.0)
}

fn of_eight() -> String {
    MIKELS.map(|m| m.0).join(", ")
}

/// FI: the folder is the label. Lists beside the folders say which part of the split a picture is in.
pub fn folders(place: &SetImport) -> Result<Import> {
    let mut parts = HashMap::new();
    for split in SPLITS {
        for file in find::files(place.from.root, &[&format!("{split}.json")])? {
            for words in list(&file)? {
                let Some(path) = words.into_iter().find(|w| is_picture(w)) else { continue };
                parts.insert(tail(&path), split);
            }
        }
    }
    let label = |path: &Path| {
        let mut folders: Vec<_> = path.parent()?.iter().collect();
        folders.reverse();
        folders.into_iter().find_map(|f| mikels(f.to_str()?))
    };
    let missing = format!("holds no picture in a folder called {}", of_eight());
    by_path(place, label, &parts, &missing)
}

/// ArtPhoto: the label stands in the name, before the first `_`.
pub fn names(place: &SetImport) -> Result<Import> {
    let label = |path: &Path| mikels(path.file_name()?.to_str()?.split('_').next()?);
    let missing = format!("holds no picture whose name begins with an emotion and `_`: {}", of_eight());
    by_path(place, label, &HashMap::new(), &missing)
}

/// Every picture whose path tells its label.
fn by_path(
    place: &SetImport,
    label: impl Fn(&Path) -> Option<&'static str>,
    parts: &HashMap<String, &str>,
    missing: &str,
) -> Result<Import> {
    let root = place.from.root;
    let mut extras = vec!["label".to_string()];
    extras.extend((!parts.is_empty()).then(|| "split".to_string()));
    let mut records = Records { file: root.into(), extras, ..Records::default() };
    for path in walk(root)?.files {
        let (Some(label), Some(key)) = (label(&path), path.to_str()) else { continue };
        let part = parts.get(&tail(key)).map(|p| p.to_string());
        let texts = [Some(label.into()), part].into_iter().take(records.extras.len());
        records.rows.push(Record {
            place: "picture".into(),
            key: key.into(),
            extras: texts.collect(),
            ..Record::default()
        });
    }
    if records.rows.is_empty() {
        return Err(Error::file(root, missing).fix("name the folder that the set was unpacked into"));
    }
    records.find(place.search(root))
}

/// Folder and name, which is what lists and folders have in common.
fn tail(path: &str) -> String {
    let path = path.replace('\\', "/").to_lowercase();
    let mut parts: Vec<_> = path.rsplit('/').take(2).collect();
    parts.reverse();
    parts.join("/")
}

/// A JSON list of lists of texts. Numbers among them stay out.
fn list(file: &Path) -> Result<Vec<Vec<String>>> {
    let wrong = |why: &dyn std::fmt::Display| {
        Error::file(file, format!("is no list of pictures: {why}")).fix("copy it from the set again")
    };
    let bytes = files::read(file, files::TABLE).map_err(|e| Error::io(file, "read", e))?;
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
    let texts = |row: &serde_json::Value| -> Option<Vec<String>> {
        Some(row.as_array()?.iter().filter_map(|w| w.as_str().map(String::from)).collect())
    };
    let rows = rows.iter().map(texts).collect::<Option<_>>();
    rows.ok_or_else(|| wrong(&"a row is no list"))
}

/// EmoSet: a list for each part of the split, `[emotion, id, picture, annotation]`, without the id in older copies.
pub fn lists(place: &SetImport) -> Result<Import> {
    let root = place.from.root;
    let mut records =
        Records { file: root.into(), extras: ["label", "split"].map(String::from).into(), ..Records::default() };
    for split in SPLITS {
        for file in find::files(root, &[&format!("{split}.json")])? {
            for (n, words) in (1..).zip(list(&file)?) {
                let at = format!("{split}.json row {n}");
                let picture = words.iter().find(|w| is_picture(w)).cloned();
                let label = words.first().and_then(|w| mikels(w));
                let (Some(key), Some(label)) = (picture, label) else {
                    records.dropped.push((at, "names no emotion of the eight, or no picture".into()));
                    continue;
                };
                let extras = vec![Some(label.to_string()), Some(split.to_string())];
                records.rows.push(Record { place: at, key, extras, ..Record::default() });
            }
        }
    }
    if records.rows.is_empty() {
        return Err(find::missing(root, &SPLITS.map(|s| format!("{s}.json")).each_ref().map(String::as_str)));
    }
    records.find(place.search(root))
}

/// Abstract: votes for each emotion, all texts in single quotes. The label is the one with most votes; where two have as
/// many there is none, and the picture is left out.
pub fn votes(place: &SetImport) -> Result<Import> {
    let file = place.table(&["ABSTRACT_groundTruth.csv"])?;
    let options = TableOptions { quote: Some(b'\''), ragged: true, ..TableOptions::default() };
    let table = Table::read(&file, &options)?;
    let columns: Vec<_> = (0..table.header.len()).filter_map(|i| Some((i, mikels(&table.header[i])?))).collect();
    if columns.len() != MIKELS.len() {
        return Err(Error::file(&file, format!("has {} of the columns {}", columns.len(), of_eight()))
            .fix(format!("it has: {}", table.header.join(", "))));
    }
    let extras = std::iter::once("label".into()).chain(columns.iter().map(|(_, l)| format!("votes_{l}"))).collect();
    let mut records = Records { file: file.clone(), extras, ..Records::default() };
    for (line, fields) in &table.rows {
        let (at, key) = (format!("line {line}"), fields[0].clone());
        let votes = columns.iter().map(|&(i, label)| {
            let wrong = || {
                Error::file(&file, format!("`{}` is no number of votes", fields[i])).at(format!("line {line}, {label}"))
            };
            table.number(&fields[i]).filter(|v| *v >= 0.0).ok_or_else(wrong)
        });
        let votes = votes.collect::<Result<Vec<_>>>()?;
        match most(&votes) {
            Ok(best) => {
                let texts = std::iter::once(columns[best].1.to_string()).chain(votes.iter().map(f64::to_string));
                records.rows.push(Record { place: at, key, extras: texts.map(Some).collect(), ..Record::default() });
            }
            Err(tied) => {
                let tied: Vec<_> = tied.into_iter().map(|i| columns[i].1).collect();
                records.dropped.push((format!("{at} `{key}`"), format!("as many votes for {}", tied.join(" and "))));
            }
        }
    }
    records.find(place.search(place.from.root))
}

/// The largest, or the several that are.
fn most(values: &[f64]) -> Result<usize, Vec<usize>> {
    let top = values.iter().copied().fold(f64::MIN, f64::max);
    let best: Vec<usize> = (0..values.len()).filter(|&i| values[i] == top).collect();
    if let [one] = best[..] { Ok(one) } else { Err(best) }
}

/// Emotion6 and EmotionROI: ratings and seven probabilities under a header in brackets; the label is the most probable.
/// EmotionROI adds its split.
pub fn emotion6(place: &SetImport) -> Result<Import> {
    const LABELS: [&str; 7] = ["anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral"];
    let file = place.table(&["ground_truth.txt"])?;
    let names = LABELS.map(|l| [format!("[{l}]"), l.to_string(), format!("p_{l}")]);
    let from = names.each_ref().map(|n| n.each_ref().map(String::as_str));
    let keep: Vec<_> = from.iter().map(|n| Keep { needed: true, ..Keep::new(n[2], &n[..2]) }).collect();
    let columns = Sheet {
        valence: Rated { mean: &["[valence]", "valence"], ..Rated::default() },
        arousal: Rated { mean: &["[arousal]", "arousal"], ..Rated::default() },
        keep: &keep,
        ..Sheet::key(&["[image_filename]", "image_filename"])
    };
    let table = Table::read(&file, &TableOptions { ragged: true, find: &columns.needs(), ..TableOptions::default() })?;
    let mut records = columns.read(&table, place.scales)?;
    let mut parts = HashMap::new();
    for (list, split) in [("training.txt", "train"), ("testing.txt", "test")] {
        for file in find::files(place.from.root, &[list])? {
            parts.extend(lines::text(&file)?.lines().map(|line| (tail(line.trim()), split)));
        }
    }
    let (label, category) = (records.column("label"), records.column("category"));
    let split = (!parts.is_empty()).then(|| records.column("split"));
    let mut ties = 0;
    for row in &mut records.rows {
        let p: Vec<_> = row.extras[..LABELS.len()].iter().map(|t| t.as_deref().and_then(|t| table.number(t))).collect();
        match p.into_iter().collect::<Option<Vec<_>>>().map(|p| most(&p)) {
            Some(Ok(best)) => row.extras[label] = Some(LABELS[best].into()),
            _ => ties += 1,
        }
        row.extras[category] = row.key.replace('\\', "/").rsplit_once('/').map(|(folder, _)| folder.to_string());
        if let Some(split) = split {
            row.extras[split] = parts.get(&tail(row.key.trim())).map(|p| p.to_string());
        }
    }
    if ties > 0 {
        records.notes.push(format!("{ties} pictures have no label: two emotions are as probable"));
    }
    records.find(place.search(place.from.root))
}
