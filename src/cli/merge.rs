//! `merge`: several manifests as one, what is in it, and which pictures it has twice.

use super::{Bar, output};
use crate::atomic;
use crate::data::duplicates::{self, DISTANCE, Found, Likeness};
use crate::data::import::sets;
use crate::data::manifest::{Manifest, TARGETS};
use crate::data::merge::{Count, count, merge};
use crate::data::table::quoted;
use crate::error::{Error, Result};
use crate::report::study::sheet::Sheet;
use crate::table::number;
use clap::Args;
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    /// Manifests of `import`.
    #[arg(required = true)]
    manifests: Vec<PathBuf>,
    /// The manifest to write. Pictures that are there twice are listed beside it, in NAME.duplicates.csv, and share a group.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write the table of sets too: .md, .csv or .tex.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Columns that are ratings; an empty text for manifests of labels alone.
    #[arg(long, value_delimiter = ',', default_values = TARGETS, value_name = "COLUMNS")]
    targets: Vec<String>,
    /// Bits of 63 in which the fingerprints of one picture may differ.
    #[arg(long, default_value_t = DISTANCE, value_name = "N", value_parser = clap::value_parser!(u32).range(..=20))]
    distance: u32,
    /// Do not look into the pictures: no duplicates are found.
    #[arg(long)]
    unchecked: bool,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let list = output::beside(&self.out, "duplicates")?;
        let form = self.table.as_deref().map(form).transpose()?;
        let targets: Vec<&str> = self.targets.iter().map(String::as_str).filter(|t| !t.is_empty()).collect();
        let mut all = merge(&self.manifests, &targets)?;
        let found = if self.unchecked {
            Found::default()
        } else {
            duplicates::find(&all.sources(), self.distance, &Bar::new())?
        };
        let groups = duplicates::regroup(&all.groups(), &found.pairs);
        all.rows.iter_mut().zip(groups).for_each(|(row, group)| row.group = group);
        all.write(&self.out)?;
        let sheet = sheet(&all.targets, &count(&all));
        let mut said = sheet.text();
        if !self.unchecked {
            atomic::write(&list, |w| w.write_all(listed(&all, &found).as_bytes()))?;
            let exact = found.pairs.iter().filter(|p| p.kind == Likeness::Exact).count();
            // Writing to a String cannot fail.
            let _ = writeln!(said, "{exact} pairs of equal files, {} of similar pictures", found.pairs.len() - exact);
        }
        if let Some((i, why)) = found.bad.first() {
            let (n, name) = (found.bad.len(), output::clean(&all.rows[*i].path));
            remark!("note: {n} pictures cannot be read and were not compared, the first: {name}: {why}");
        }
        let mut wrote = vec![self.out.display().to_string()];
        wrote.extend((!self.unchecked).then(|| list.display().to_string()));
        if let (Some(table), Some(form)) = (&self.table, form) {
            let text = form(&sheet);
            atomic::write(table, |w| w.write_all(&text))?;
            wrote.push(table.display().to_string());
        }
        output::print(&format!("{said}wrote {}\n", wrote.join(" and ")))
    }
}

/// How a table is written, by the ending of its file.
fn form(file: &Path) -> Result<fn(&Sheet) -> Vec<u8>> {
    match file.extension().and_then(|e| e.to_str()) {
        Some("md") => Ok(|s| s.markdown().into_bytes()),
        Some("tex") => Ok(|s| s.latex().into_bytes()),
        Some("csv") => Ok(Sheet::csv),
        _ => {
            Err(Error::file(file, "ends in none of .md, .csv and .tex").fix("name one of these in --table").as_usage())
        }
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
