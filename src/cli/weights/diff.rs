//! `weights diff`: which tensors of two files differ, and by how much.

use crate::cli::output::{self, clean};
use crate::error::Result;
use crate::table::text_table;
use crate::weights::diff::{TensorDiff, TensorDifference, diff};
use crate::weights::header::shape;
use clap::Args;
use serde_json::{Value, json};
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
                "rows": shown.iter().map(|r| as_json(r)).collect::<Vec<_>>(),
            });
            return output::print(&format!("{value:#}\n"));
        }
        let header = ["tensor", "values", "differ", "largest", "relative rms", ""].map(String::from);
        let lines: Vec<Vec<String>> = shown.iter().map(|r| cells(r)).collect();
        let table = if lines.is_empty() { String::new() } else { text_table(&header, &lines) };
        output::print(&format!("{table}{equal} of {} tensors are equal\n", rows.len()))
    }
}

fn cells(row: &TensorDiff) -> Vec<String> {
    let mut cells = vec![clean(&row.name)];
    let (numbers, remark) = match &row.what {
        TensorDifference::OnlyFirst => (None, "only in the first".into()),
        TensorDifference::OnlySecond => (None, "only in the second".into()),
        TensorDifference::Shapes(a, b) => (None, format!("{} and {}", shape(a), shape(b))),
        TensorDifference::NoNumbers => (None, "not compared: no floating-point numbers".into()),
        TensorDifference::Values { elements, unequal, largest, relative } => (
            Some([elements.to_string(), unequal.to_string(), format!("{largest:.3e}"), format!("{relative:.3e}")]),
            String::new(),
        ),
    };
    cells.extend(numbers.unwrap_or_else(|| ["-"; 4].map(String::from)));
    cells.push(remark);
    cells
}

fn as_json(row: &TensorDiff) -> Value {
    let mut value = match &row.what {
        TensorDifference::OnlyFirst => json!({ "status": "only-first" }),
        TensorDifference::OnlySecond => json!({ "status": "only-second" }),
        TensorDifference::Shapes(a, b) => json!({ "status": "shapes", "first_shape": a, "second_shape": b }),
        TensorDifference::NoNumbers => json!({ "status": "not-compared" }),
        TensorDifference::Values { elements, unequal, largest, relative } => json!({
            "status": if *unequal == 0 { "equal" } else { "differs" },
            "values": elements,
            "unequal": unequal,
            "largest_difference": largest,
            "relative_rms": relative,
        }),
    };
    value["name"] = json!(row.name);
    value
}
