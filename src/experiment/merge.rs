//! Several manifests as one, what is in it, and which pictures it has twice.

use super::events::{Events, tell};
use crate::atomic;
use crate::data::duplicates::{self, Found, Likeness};
use crate::data::import::sets;
use crate::data::manifest::Manifest;
use crate::data::merge::{Count, count, merge};
use crate::data::table::quoted;
use crate::error::{Error, Result, clean, option};
use crate::report::study::sheet::Sheet;
use crate::table::number;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Manifests to be joined, and where what comes of it goes.
pub struct ManifestMerge<'a> {
    pub manifests: &'a [PathBuf],
    /// Columns that are ratings.
    pub targets: &'a [&'a str],
    /// Bits in which the fingerprints of one picture may differ; without a number nobody looks into the pictures.
    pub distance: Option<u32>,
    /// The manifest to write.
    pub out: &'a Path,
    /// The duplicates as CSV, if pictures are looked into.
    pub list: &'a Path,
    /// The table of sets, in the form of its ending: .md, .csv or .tex.
    pub table: Option<&'a Path>,
}

impl ManifestMerge<'_> {
    /// Writes the files; the table of sets and the number of duplicates, for people.
    ///
    /// # Errors
    /// A manifest that cannot be read, a picture that two of them name, and files that cannot be written.
    pub fn run(&self, events: &dyn Events) -> Result<String> {
        let form = self.table.map(form).transpose()?;
        let mut all = merge(self.manifests, self.targets)?;
        let found = match self.distance {
            Some(distance) => duplicates::find(&all.sources(), distance, events)?,
            None => Found::default(),
        };
        let groups = duplicates::regroup(&all.groups(), &found.pairs);
        all.rows.iter_mut().zip(groups).for_each(|(row, group)| row.group = group);
        all.write(self.out)?;
        let sheet = sheet(&all.targets, &count(&all));
        let mut said = sheet.text();
        if self.distance.is_some() {
            atomic::write(self.list, |w| w.write_all(listed(&all, &found).as_bytes()))?;
            let exact = found.pairs.iter().filter(|p| p.kind == Likeness::Exact).count();
            // Writing to a String cannot fail.
            let _ = writeln!(said, "{exact} pairs of equal files, {} of similar pictures", found.pairs.len() - exact);
        }
        if let Some((i, why)) = found.bad.first() {
            let (n, name) = (found.bad.len(), clean(&all.rows[*i].path));
            tell!(events, "note: {n} pictures cannot be read and were not compared, the first: {name}: {why}");
        }
        if let (Some(table), Some(form)) = (self.table, form) {
            let text = form(&sheet);
            atomic::write(table, |w| w.write_all(&text))?;
        }
        Ok(said)
    }
}

/// How a table is written, by the ending of its file.
fn form(file: &Path) -> Result<fn(&Sheet) -> Vec<u8>> {
    match file.extension().and_then(|e| e.to_str()) {
        Some("md") => Ok(|s| s.markdown().into_bytes()),
        Some("tex") => Ok(|s| s.latex().into_bytes()),
        Some("csv") => Ok(Sheet::csv),
        _ => Err(Error::file(file, "ends in none of .md, .csv and .tex")
            .fix(format!("name one of these in {}", option("table")))
            .as_usage()),
    }
}

/// Table 1 of the paper, with what the ratings are instead of who gave them.
fn sheet(targets: &[String], counts: &[Count]) -> Sheet {
    const LEFT: [&str; 4] = ["set", "pictures", "groups", "scale"];
    let mut sheet = Sheet::new("sets", "Pictures and their ratings on 1 to 9");
    sheet.header.push(LEFT.iter().map(|_| (String::new(), 1)).chain(targets.iter().map(|t| (t.clone(), 4))).collect());
    sheet.header.push(Sheet::plain(LEFT.into_iter().chain(targets.iter().flat_map(|_| ["min", "max", "M", "SD"]))));
    for c in counts {
        let scale = sets::set(&c.dataset).map(|s| s.scale).filter(|s| !s.is_empty()).unwrap_or("-");
        let mut row = vec![c.dataset.clone(), c.pictures.to_string(), c.groups.to_string(), scale.into()];
        for r in &c.ratings {
            row.extend([Some(r.min), Some(r.max), Some(r.mean), r.sd].map(|v| number(v, 2)));
        }
        sheet.rows.push(row);
    }
    sheet
}

/// The duplicates as CSV.
fn listed(all: &Manifest, found: &Found) -> String {
    let mut text = String::from("path_a,path_b,kind,distance_bits\n");
    for p in &found.pairs {
        let kind = if p.kind == Likeness::Exact { "exact" } else { "similar" };
        let [a, b] = [p.a, p.b].map(|i| quoted(&all.rows[i].path));
        let _ = writeln!(text, "{a},{b},{kind},{}", p.distance);
    }
    text
}
