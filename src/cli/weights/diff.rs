//! `weights diff`: which tensors of two files differ, and by how much.

use crate::cli::output;
use crate::error::Result;
use crate::table::text_table;
use crate::weights::diff::{TensorDiff, diff};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    first: PathBuf,
    second: PathBuf,
    /// Every tensor, not only those that differ.
    #[arg(long)]
    all: bool,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let rows = diff(&self.first, &self.second)?;
        let equal = rows.iter().filter(|r| r.what.equal()).count();
        let shown: Vec<&TensorDiff> = rows.iter().filter(|r| self.all || !r.what.equal()).collect();
        if self.json {
            let value = json!({
                "first": self.first.display().to_string(),
                "second": self.second.display().to_string(),
                "tensors": rows.len(),
                "equal": equal,
                "rows": shown.iter().map(|r| r.json()).collect::<Vec<_>>(),
            });
            return output::print(&format!("{value:#}\n"));
        }
        let header = ["tensor", "values", "differ", "largest", "relative rms", ""].map(String::from);
        let lines: Vec<Vec<String>> = shown.iter().map(|r| r.cells()).collect();
        let table = if lines.is_empty() { String::new() } else { text_table(&header, &lines) };
        output::print(&format!("{table}{equal} of {} tensors are equal\n", rows.len()))
    }
}
