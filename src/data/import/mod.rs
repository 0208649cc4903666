/*! Published sets of rated or labelled pictures to a [`Manifest`]. [`sets`] is the list of those that are known and where
each keeps what; [`sheet`] reads a table by a description of its columns, and [`lines`], [`labels`], [`people`] and
[`affectnet`] read what is no such table. All end in [`records`], where the picture of every row is looked for.

Ratings go to 1-9 by the ends of the scale they were given on, not by the smallest and largest that occur; a value outside
the scale means that the scale is wrong and stops the import. Whatever does not match (a row without a picture, a picture
without a row) is listed with its reason: nothing is dropped silently. */

mod affectnet;
mod csv;
mod find;
mod labels;
mod lines;
mod people;
pub mod records;
pub mod sets;
pub mod sheet;

pub use csv::{CsvOptions, csv};
pub use sets::{SETS, Set};

use super::manifest::Manifest;
use super::table::quoted;
use crate::error::{Error, Result};
use std::fmt::Write;
use std::path::Path;

/// The ends of a scale.
pub type Scale = (f64, f64);

/// Where a published set lies.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked<'a> {
    /// The folder it was unpacked into.
    pub root: &'a Path,
    /// The table, if it is not in that folder or has another name.
    pub table: Option<&'a Path>,
    /// The sheet of a workbook.
    pub sheet: Option<&'a str>,
    /// Leave out pictures without both ratings, where a set has such.
    pub rated: bool,
}

impl<'a> Unpacked<'a> {
    /// Nothing but the folder.
    pub fn root(root: &'a Path) -> Self {
        Self { root, table: None, sheet: None, rated: false }
    }
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
pub fn scale(text: &str) -> Result<Scale> {
    let ends = text.split_once(':').map(|(lo, hi)| (lo.trim().parse::<f64>(), hi.trim().parse::<f64>()));
    match ends {
        Some((Ok(lo), Ok(hi))) if lo.is_finite() && hi.is_finite() && lo < hi => Ok((lo, hi)),
        _ => {
            Err(Error::usage(format!("`{text}` is not a scale"))
                .fix("write the lowest and the highest rating, as in 1:7"))
        }
    }
}

impl Import {
    /// What was matched, and how much was not.
    pub fn summary(&self) -> String {
        let rows = &self.manifest.rows;
        let mut groups: Vec<_> = rows.iter().filter_map(|r| r.group.as_ref()).collect();
        groups.sort();
        groups.dedup();
        let what = if self.manifest.targets.is_empty() { "" } else { " with ratings" };
        let mut out = format!("{} pictures{what}, {} groups\n", rows.len(), groups.len());
        for (t, name) in self.manifest.targets.iter().enumerate() {
            let values = rows.iter().map(|r| r.targets[t] as f64);
            let (lo, hi) = values.clone().fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)));
            let mean = values.sum::<f64>() / rows.len().max(1) as f64;
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name}: {lo:.2} to {hi:.2}, mean {mean:.2}");
        }
        if let Ok(labels) = self.manifest.labels("label") {
            let mut counts = std::collections::BTreeMap::<_, usize>::new();
            labels.iter().for_each(|l| *counts.entry(l.as_deref().unwrap_or("(none)")).or_default() += 1);
            let counts: Vec<_> = counts.iter().map(|(label, n)| format!("{label} {n}")).collect();
            let _ = writeln!(out, "labels: {}", counts.join(", "));
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
mod tests;
