//! `merge`: several manifests as one, what is in it, and which pictures it has twice.

use super::{output, terminal};
use crate::data::duplicates::DISTANCE;
use crate::data::manifest::TARGETS;
use crate::error::Result;
use crate::experiment::merge::ManifestMerge;
use clap::Args;
use std::path::PathBuf;

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
        let merge = ManifestMerge {
            manifests: &self.manifests,
            targets: &self.targets.iter().map(String::as_str).filter(|t| !t.is_empty()).collect::<Vec<_>>(),
            distance: (!self.unchecked).then_some(self.distance),
            out: &self.out,
            list: &list,
            table: self.table.as_deref(),
        };
        let said = merge.run(&*terminal())?;
        let list = (!self.unchecked).then_some(&list);
        let wrote = [&self.out].into_iter().chain(list).chain(&self.table).map(|file| file.display().to_string());
        output::print(&format!("{said}wrote {}\n", wrote.collect::<Vec<_>>().join(" and ")))
    }
}
