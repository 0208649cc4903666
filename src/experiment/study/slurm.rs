//! A study as an array of jobs: one cell a task.

use super::plan::Plan;
use crate::error::{line, path_text};
use std::path::Path;

/// What Slurm runs for each task.
const SCRIPT: &str = include_str!("slurm.sh");

/// The script for the cells of a study of `k` folds.
pub fn script(plan: &Plan, k: u32, out: &Path) -> String {
    let (models, path) = (plan.models.len(), path_text(&plan.path));
    SCRIPT
        .replace("@about", &line(&format!("{path}: {models} models of {k} folds")))
        .replace("@cells", &(models * k as usize).to_string())
        .replace("@study", &quoted(&path))
        .replace("@out", &quoted(&path_text(out)))
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
