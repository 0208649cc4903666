//! Text without a header: one number a line, or names and numbers.

use super::records::{Record, Records, onto_nine, shown, spread_onto_nine};
use super::sets::SetImport;
use super::{Import, Scale, find};
use crate::data::manifest::TARGETS;
use crate::data::table::missing;
use crate::error::{Error, Result};
use crate::files;
use std::path::Path;

/// Two files of one number a line; line n is about `n.jpg`. Joined by that number: a sorted listing is 1, 10, 100 …, and
/// pairing it with lines 1, 2, 3 … gives every picture somebody else's rating.
pub fn ied(place: &SetImport) -> Result<Import> {
    let root = place.from.root;
    let mut columns = Vec::new();
    for (name, scale) in TARGETS.iter().zip(place.scales) {
        let file = find::file(root, &[&format!("{name}_avg*.txt"), &format!("*{name}*.txt")])?;
        let text = text(&file)?;
        let value = |(i, line): (usize, &str)| number(&file, i as u64 + 1, line, scale);
        let values = text.trim_end().lines().enumerate().map(value).collect::<Result<Vec<_>>>()?;
        columns.push((file, values));
    }
    let [(file, valence), (other, arousal)] = &columns[..] else { return Err(find::missing(root, &TARGETS)) };
    if valence.len() != arousal.len() {
        let problem = format!("has {} lines and {} has {}", valence.len(), other.display(), arousal.len());
        return Err(Error::file(file, problem).fix("take both files from the same release"));
    }
    let mut records = Records { file: file.clone(), targets: TARGETS.map(String::from).into(), ..Records::default() };
    for (n, pair) in (1..).zip(valence.iter().zip(arousal)) {
        let (place, key) = (format!("line {n}"), n.to_string());
        match pair {
            (&Some(v), &Some(a)) => {
                records.rows.push(Record { place, key, ratings: vec![v, a], ..Record::default() });
            }
            _ => records.dropped.push((place, "no rating".into())),
        }
    }
    records.find(place.search(root))
}

/// A file for each folder: `name valence arousal …`, or with SDs in parentheses, `name valence (sd) arousal (sd)`. Endings in
/// the text are not those of the pictures.
pub fn gaped(place: &SetImport) -> Result<Import> {
    const FOLDERS: [&str; 6] = ["A", "H", "N", "P", "Sn", "Sp"];
    let root = place.from.root;
    let mut all: Option<Records> = None;
    let mut without = Vec::new();
    for folder in FOLDERS {
        let [plain, spread] = ["", "_with SD"].map(|end| format!("{folder}{end}.txt"));
        match &find::files(root, &[&spread, &plain])?[..] {
            [] => without.push(plain),
            [file] => {
                let records = gaped_file(file, folder, place.scales)?;
                match &mut all {
                    None => all = Some(records),
                    Some(all) => all.append(records),
                }
            }
            [a, b, ..] => {
                return Err(Error::file(root, format!("holds several tables: {} and {}", a.display(), b.display()))
                    .fix("name the folder of one of them"));
            }
        }
    }
    let mut all = all.ok_or_else(|| find::missing(root, &["A.txt"]))?;
    if !without.is_empty() {
        all.notes.push(format!("no {} in the folder", without.join(", ")));
    }
    all.find(place.search(root))
}

fn gaped_file(file: &Path, folder: &str, scales: [Scale; 3]) -> Result<Records> {
    let extras = ["category", "valence_sd", "arousal_sd"];
    let mut out = Records {
        file: file.into(),
        targets: TARGETS.map(String::from).into(),
        extras: extras.map(String::from).into(),
        ..Records::default()
    };
    for (n, line) in (1..).zip(text(file)?.lines()) {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        // Per quantity its mean, and its SD if that stands behind it.
        let mut values: Vec<(&str, Option<f64>)> = Vec::new();
        for word in words {
            match (word.strip_prefix('(').and_then(|w| w.strip_suffix(')')), values.last_mut()) {
                (Some(sd), Some(last)) => last.1 = decimal(sd),
                _ => values.push((word, None)),
            }
        }
        if n == 1 && values.iter().all(|v| decimal(v.0).is_none()) {
            continue; // a header
        }
        let place = format!("{folder} line {n}");
        let [valence, arousal, ..] = values[..] else {
            out.dropped.push((format!("{place} `{name}`"), "no valence and arousal behind the name".into()));
            continue;
        };
        let pairs = [(valence, scales[0]), (arousal, scales[1])];
        let ratings = pairs.map(|((text, _), scale)| number(file, n, text, scale));
        let Some(ratings) = ratings.into_iter().collect::<Result<Option<Vec<f64>>>>()? else {
            out.dropped.push((format!("{place} `{name}`"), "no rating".into()));
            continue;
        };
        let spread = pairs.map(|((_, sd), scale)| sd.map(|v| shown(spread_onto_nine(v, scale))));
        out.rows.push(Record {
            place,
            key: name.rsplit_once('.').map_or(name, |(stem, _)| stem).into(),
            ratings,
            group: None,
            extras: [Some(folder.into())].into_iter().chain(spread).collect(),
        });
    }
    Ok(out)
}

/// The file as text, whatever its line ends and its encoding: all that counts in it is ASCII.
pub fn text(file: &Path) -> Result<String> {
    let bytes = files::read(file, files::TABLE).map_err(|e| Error::io(file, "read", e))?;
    let text = String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    Ok(text)
}

fn decimal(text: &str) -> Option<f64> {
    text.trim().replace(',', ".").parse().ok().filter(|v: &f64| v.is_finite())
}

/// A rating on 1-9; None if there is none.
fn number(file: &Path, line: u64, text: &str, (lo, hi): Scale) -> Result<Option<f64>> {
    let wrong = |problem: String| {
        Err(Error::file(file, problem).at(format!("line {line}")).fix("compare it with the original"))
    };
    match decimal(text) {
        Some(value) if (lo..=hi).contains(&value) => Ok(Some(onto_nine(value, (lo, hi)))),
        Some(value) => wrong(format!("`{value}` is outside the scale {lo}:{hi}")),
        // An empty line may be one too many, and whatever stands below it is somebody else's.
        None if missing(text) && !text.trim().is_empty() => Ok(None),
        None => wrong(format!("`{}` is not a number", text.trim())),
    }
}
