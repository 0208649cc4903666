//! EMOTIC: a row for every person in a picture. A picture is rated once here, so its persons are averaged.

use super::records::{Record, Records};
use super::sets::SetImport;
use super::sheet::rating;
use super::{Import, find};
use crate::data::manifest::TARGETS;
use crate::data::table::{Table, TableOptions};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;

/// Per part of the split a table with `Valence` and `Arousal`, or, as converted from `Annotations.mat`, with `Folder` and
/// `Continuous_Labels`, which is `[valence, arousal, dominance]`.
pub fn emotic(place: &SetImport) -> Result<Import> {
    let extras = ["persons", "split"].map(String::from).into();
    let mut out = Records { targets: TARGETS.map(String::from).into(), extras, ..Records::default() };
    let (mut pictures, mut persons) = (HashMap::<String, usize>::new(), Vec::<usize>::new());
    for file in tables(place)? {
        let table = Table::read(&file, &TableOptions { sheet: place.from.sheet, ..TableOptions::default() })?;
        let name = table.column("Filename")?;
        let folder = table.column("Folder").ok();
        let both = table.column("Continuous_Labels").ok();
        let own = if both.is_none() { Some([table.column("Valence")?, table.column("Arousal")?]) } else { None };
        let split = split(&file);
        for (line, fields) in &table.rows {
            let (key, at) = (fields[name].trim(), format!("{} line {line}", file_name(&file)));
            let key = folder.map_or(key.to_string(), |f| format!("{}/{key}", fields[f].trim().trim_end_matches('/')));
            let texts: Vec<&str> = match (both, own) {
                (Some(c), _) => fields[c]
                    .trim_matches(['[', ']', '(', ')', ' '])
                    .split([',', ' '])
                    .filter(|t| !t.is_empty())
                    .collect(),
                (None, Some(own)) => own.map(|c| fields[c].as_str()).into(),
                (None, None) => Vec::new(),
            };
            let column = |t: usize| both.or(own.map(|o| o[t])).unwrap_or(0);
            let value =
                |t: usize| rating(&table, *line, texts.get(t).copied().unwrap_or_default(), column(t), place.scales[t]);
            let (Some(valence), Some(arousal)) = (value(0)?, value(1)?) else {
                out.dropped.push((format!("{at} `{key}`"), "a person without valence and arousal".into()));
                continue;
            };
            let i = *pictures.entry(key.to_lowercase()).or_insert_with(|| {
                persons.push(0);
                let extras = vec![None, Some(split.clone())];
                out.rows.push(Record { place: at, key, ratings: vec![0.0; 2], extras, ..Record::default() });
                out.rows.len() - 1
            });
            persons[i] += 1;
            out.rows[i].ratings.iter_mut().zip([valence, arousal]).for_each(|(sum, v)| *sum += v);
        }
        out.file = file;
    }
    for (row, &n) in out.rows.iter_mut().zip(&persons) {
        row.ratings.iter_mut().for_each(|sum| *sum /= n as f64);
        row.extras[0] = Some(n.to_string());
    }
    out.notes.push(format!("{} persons in {} pictures: averaged", persons.iter().sum::<usize>(), persons.len()));
    out.find(place.search(place.from.root))
}

fn tables(place: &SetImport) -> Result<Vec<PathBuf>> {
    if let Some(table) = place.from.table {
        return Ok(vec![table.into()]);
    }
    let root = place.from.root;
    let mut found = find::files(root, &["annot_arrs_*.csv"])?;
    if found.is_empty() {
        for name in ["train.csv", "val.csv", "test.csv"] {
            found.extend(find::files(root, &[name])?);
        }
    }
    if found.is_empty() && !find::files(root, &["Annotations.mat"])?.is_empty() {
        return Err(Error::file(root, "holds Annotations.mat, which is not read")
            .fix("convert it to CSV with mat2py.py of github.com/Tandon-A/emotic"));
    }
    if found.is_empty() { Err(find::missing(root, &["annot_arrs_train.csv", "train.csv"])) } else { Ok(found) }
}

fn file_name(file: &std::path::Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `annot_arrs_extra_train.csv` → `extra_train`.
fn split(file: &std::path::Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    stem.strip_prefix("annot_arrs_").unwrap_or(&stem).to_string()
}
