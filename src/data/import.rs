/*! Published rating tables to a [`Manifest`]. Ratings go to 1-9 by the ends of the scale they were given on, not by the
smallest and largest that occur; a value outside the scale means that the scale is wrong and stops the import. Whatever
does not match (a row without a picture, a picture without a row) is listed with its reason: nothing is dropped silently. */

use super::join::Files;
use super::manifest::{Manifest, Row, TARGETS};
use super::table::{Table, TableOptions, quoted};
use super::walk::walk;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One rated quantity.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its column in the manifest: `valence`, `arousal`.
    pub name: String,
    /// Its column in the table, or `#n`.
    pub column: String,
    /// The ends of the scale it was rated on.
    pub scale: (f64, f64),
}

/// Which rows stay together.
#[derive(Clone, Debug, Default)]
pub enum Group {
    #[default]
    None,
    Column(String),
    /// A column without the number at its end: `Beach 1`, `Beach 2` → `Beach`.
    Theme(String),
}

/// How to read somebody's table.
#[derive(Clone, Debug)]
pub struct CsvOptions {
    pub table: PathBuf,
    /// The folder of the pictures; None takes the table's.
    pub root: Option<PathBuf>,
    /// The column that names the picture: a path, a file name, or an id that is a file name without its ending.
    pub key: String,
    pub targets: Vec<Target>,
    pub group: Group,
    /// Further columns to keep: name in the table, name in the manifest.
    pub keep: Vec<(String, String)>,
    pub dataset: Option<String>,
    /// Lines above the header.
    pub skip_rows: usize,
    pub delimiter: Option<u8>,
}

/// A manifest, and everything that is not in it.
#[derive(Clone, Debug)]
pub struct Import {
    pub manifest: Manifest,
    /// Rows of the table without a row in the manifest: which, why.
    pub unmatched_rows: Vec<(String, String)>,
    /// Pictures of the folder without a row: path, why.
    pub unmatched_files: Vec<(String, String)>,
    pub notes: Vec<String>,
}

/// `1:7` → (1, 7).
pub fn scale(text: &str) -> Result<(f64, f64)> {
    let ends = text.split_once(':').map(|(lo, hi)| (lo.trim().parse::<f64>(), hi.trim().parse::<f64>()));
    match ends {
        Some((Ok(lo), Ok(hi))) if lo.is_finite() && hi.is_finite() && lo < hi => Ok((lo, hi)),
        _ => {
            Err(Error::usage(format!("`{text}` is not a scale"))
                .fix("write the lowest and the highest rating, as in 1:7"))
        }
    }
}

/// Reads any table of one row a picture.
pub fn csv(opts: &CsvOptions) -> Result<Import> {
    let file = &opts.table;
    let read = TableOptions { delimiter: opts.delimiter, skip_rows: opts.skip_rows, ragged: true };
    let table = Table::read(file, &read)?;
    let key = table.column(&opts.key)?;
    let targets = opts.targets.iter().map(|t| table.column(&t.column)).collect::<Result<Vec<_>>>()?;
    let keep = opts.keep.iter().map(|(from, _)| table.column(from)).collect::<Result<Vec<_>>>()?;
    let group = match &opts.group {
        Group::None => None,
        Group::Column(name) | Group::Theme(name) => Some(table.column(name)?),
    };
    let beside = file.parent().map(Path::to_path_buf).filter(|p| !p.as_os_str().is_empty());
    let root = opts.root.clone().or(beside).unwrap_or_else(|| PathBuf::from("."));
    let found = walk(&root)?;
    let (mut names, mut unmatched_files) = (Vec::new(), Vec::new());
    for path in &found.files {
        match path.to_str() {
            Some(name) => names.push(name.replace(std::path::MAIN_SEPARATOR, "/")),
            None => unmatched_files.push((path.display().to_string(), "its name is not Unicode".to_string())),
        }
    }
    for path in &found.unread {
        unmatched_files.push((path.display().to_string(), "its format is not read; save it as JPEG or PNG".into()));
    }
    let files = Files::new(names);
    let mut used: HashMap<usize, u64> = HashMap::new();
    let (mut rows, mut unmatched_rows, mut other_ending) = (Vec::new(), Vec::new(), 0);
    let mut kept: Vec<Vec<Option<String>>> = vec![Vec::new(); keep.len()];
    'rows: for (line, fields) in &table.rows {
        let mut unmatched =
            |reason: String| unmatched_rows.push((format!("line {line} `{}`", fields[key].trim()), reason));
        // Ratings first: a wrong scale must stop the import wherever it shows, with or without the pictures.
        let mut row = Row::default();
        let mut missing = None;
        for (&column, target) in targets.iter().zip(&opts.targets) {
            match rating(&table, &fields[column], target) {
                Ok(Some(value)) => row.targets.push(value),
                Ok(None) => missing = Some(format!("no rating in column {}", target.column)),
                Err(e) => return Err(e(file).at(format!("line {line}, column {}", target.column))),
            }
        }
        if let Some(reason) = missing {
            unmatched(reason);
            continue;
        }
        let found = match files.find(&fields[key]) {
            Ok(found) => found,
            Err(reason) => {
                unmatched(reason);
                continue 'rows;
            }
        };
        if let Some(first) = used.get(&found.file) {
            unmatched(format!("{} already has the ratings of line {first}", files.names()[found.file]));
            continue;
        }
        used.insert(found.file, *line);
        other_ending += usize::from(found.other_ending);
        row.path = files.names()[found.file].clone();
        row.dataset = opts.dataset.clone();
        let text = |column: usize| Some(fields[column].trim().to_string()).filter(|t| !t.is_empty());
        row.group = group.and_then(text).map(|g| match opts.group {
            Group::Theme(_) => theme(&g).to_string(),
            _ => g,
        });
        for (texts, &column) in kept.iter_mut().zip(&keep) {
            texts.push(text(column));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        let first = unmatched_rows.first().map_or("it has no rows".into(), |(row, why)| format!("{row}: {why}"));
        return Err(Error::file(file, format!("none of {} rows can be used, the first: {first}", table.rows.len()))
            .fix(format!("check the column that names the picture and the folder {}", root.display())));
    }
    for (i, name) in files.names().iter().enumerate() {
        if !used.contains_key(&i) {
            unmatched_files.push((name.clone(), "no usable row names it".into()));
        }
    }
    let mut notes: Vec<String> = table.note.iter().map(|n| format!("the table {n}")).collect();
    if other_ending > 0 {
        notes.push(format!("{other_ending} pictures have another ending than the table says"));
    }
    let names: Vec<&str> = opts.targets.iter().map(|t| t.name.as_str()).collect();
    let extras = opts.keep.iter().map(|(_, name)| name.clone()).zip(kept).collect();
    Ok(Import { manifest: Manifest::new(root, &names, rows, extras), unmatched_rows, unmatched_files, notes })
}

/// A rating on 1-9, None if there is none, or the error that stops the import.
fn rating(table: &Table, text: &str, target: &Target) -> Result<Option<f32>, impl FnOnce(&Path) -> Error> {
    let text = text.trim();
    if ["", ".", "-", "na", "n/a", "nan", "null"].contains(&text.to_ascii_lowercase().as_str()) {
        return Ok(None);
    }
    let (lo, hi) = target.scale;
    let problem = match table.number(text) {
        Some(value) if (lo..=hi).contains(&value) => return Ok(Some(((value - lo) * 8.0 / (hi - lo) + 1.0) as f32)),
        Some(_) => (format!("`{text}` is outside the scale {lo}:{hi}"), "declare the scale the ratings were given on"),
        None => (format!("`{text}` is not a number"), "check the column and the delimiter"),
    };
    Err(move |file: &Path| Error::file(file, problem.0).fix(problem.1))
}

/// `Beach 12 ` → `Beach`.
fn theme(text: &str) -> &str {
    let bare = text.trim().trim_end_matches(|c: char| c.is_ascii_digit()).trim_end();
    if bare.is_empty() { text.trim() } else { bare }
}

/// The Open Affective Standardized Image Set (Kurdi, Lozano & Banaji 2017), as unpacked: `OASIS.csv` in `dir` or in one
/// folder of it, with the pictures in `images` beside it. Rated 1-7; the theme without its number is the group.
pub fn oasis(dir: impl AsRef<Path>) -> Result<Import> {
    let dir = dir.as_ref();
    let is = |path: &Path, name: &str| {
        path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.eq_ignore_ascii_case(name))
    };
    let list = |dir: &Path| -> Result<Vec<PathBuf>> {
        let io = |e| Error::io(dir, "list the folder", e);
        let mut paths =
            std::fs::read_dir(dir).map_err(io)?.map(|e| Ok(e.map_err(io)?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    let here = list(dir)?;
    let mut tables: Vec<_> = here.iter().filter(|p| is(p, "OASIS.csv") && p.is_file()).cloned().collect();
    if tables.is_empty() {
        for inner in here.iter().filter(|p| p.is_dir()) {
            tables.extend(list(inner)?.into_iter().filter(|p| is(p, "OASIS.csv") && p.is_file()));
        }
    }
    let table = match &tables[..] {
        [table] => table.clone(),
        [] => {
            return Err(Error::file(dir, "holds no OASIS.csv, nor does a folder in it")
                .fix("name the folder that OASIS was unpacked into"));
        }
        [a, b, ..] => {
            return Err(Error::file(dir, format!("holds several tables: {} and {}", a.display(), b.display()))
                .fix("name the folder of one of them"));
        }
    };
    let beside = table.parent().unwrap_or(dir);
    let images = list(beside)?.into_iter().find(|p| is(p, "images") && p.is_dir());
    let target = |name: &str| Target { name: name.into(), column: format!("{name}_mean"), scale: (1.0, 7.0) };
    csv(&CsvOptions {
        root: Some(images.unwrap_or_else(|| beside.to_path_buf())),
        key: "Theme".into(),
        targets: TARGETS.map(target).into(),
        group: Group::Theme("Theme".into()),
        // The first column holds I1..I900 and has no name.
        keep: vec![("#1".into(), "id".into()), ("Category".into(), "category".into())],
        dataset: Some("oasis".into()),
        skip_rows: 0,
        delimiter: Some(b','),
        table,
    })
}

impl Import {
    /// What was matched, and how much was not.
    pub fn summary(&self) -> String {
        let rows = &self.manifest.rows;
        let mut groups: Vec<_> = rows.iter().filter_map(|r| r.group.as_ref()).collect();
        groups.sort();
        groups.dedup();
        let mut out = format!("{} pictures with ratings, {} groups\n", rows.len(), groups.len());
        for (t, name) in self.manifest.targets.iter().enumerate() {
            let values = rows.iter().map(|r| r.targets[t] as f64);
            let (lo, hi) = values.clone().fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)));
            let mean = values.sum::<f64>() / rows.len().max(1) as f64;
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name}: {lo:.2} to {hi:.2}, mean {mean:.2}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        let (rows, files) = (self.unmatched_rows.len(), self.unmatched_files.len());
        out + &format!("{rows} rows without a picture\n{files} pictures without a row\n")
    }

    /// `what,name,reason`, one line for each row and each picture that is not in the manifest.
    pub fn unmatched_csv(&self) -> String {
        let mut text = String::from("what,name,reason\n");
        for (what, list) in [("row", &self.unmatched_rows), ("picture", &self.unmatched_files)] {
            for (name, reason) in list {
                let _ = writeln!(text, "{what},{},{}", quoted(name), quoted(reason));
            }
        }
        text
    }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
