/*! A cell of a study: one model, trained without the pictures of one fold and judged on them. Cells are computed in any
order, by any number of processes; what each leaves is enough to make every table. */

use super::classified::Classified;
use super::fit::Epoch;
use super::metrics::Metrics;
use crate::atomic;
use crate::error::{Error, Result, option};
use crate::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Version of the file format.
const FORMAT: &str = "deep-affect-cell-2";
/// Name of a cell's file, the last one written: where it is, the cell is done.
pub const FILE: &str = "cell.json";

/// The set that was trained on, the one that was held back and, where pictures are set apart once instead of in folds, the
/// one that was monitored. Other sets have the names of their data sets.
pub const TRAIN: &str = "train";
pub const TEST: &str = "test";
pub const MONITORED: &str = "monitored";

/// What is kept of a cell, beside the predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    pub format: String,
    pub model: String,
    /// From 1, as in names and tables.
    pub fold: u32,
    /// Fingerprint of `basis`: cells with another are of another study.
    pub study: String,
    /// Everything that decides the numbers, but for the pixels, by what people call it.
    pub basis: BTreeMap<String, String>,
    /// Fingerprint of the pictures, ratings and split, as in the checkpoint.
    pub data: String,
    /// Fingerprint of every picture of the study as the model sees it, those that are tested on too.
    pub pixels: String,
    pub device: String,
    pub made_by: String,
    pub seconds: f64,
    pub updates: u32,
    /// Where first weights came from.
    pub weights: Vec<Source>,
    pub history: Vec<Epoch>,
    /// [`TRAIN`], [`TEST`], [`MONITORED`] if there is one, then the sets that no model is trained on.
    pub sets: Vec<Set>,
}

/// A weight file, by what others can check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub tower: String,
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
}

/// How the cell's model does on one set of pictures: on ratings, on classes, or on both if it learned both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Set {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Classified>,
}

impl Cell {
    /// A cell with the format of this program.
    pub fn format() -> String {
        FORMAT.into()
    }

    /// The measures of ratings on one set.
    pub fn set(&self, name: &str) -> Option<&Metrics> {
        self.sets.iter().find(|s| s.name == name)?.metrics.as_ref()
    }

    /// The same of a model that tells classes apart.
    pub fn classes(&self, name: &str) -> Option<&Classified> {
        self.sets.iter().find(|s| s.name == name)?.classes.as_ref()
    }

    /// The cell of a folder; None when it is not done.
    ///
    /// # Errors
    /// A file that is there and is not a cell of this format.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let bytes = match files::read(&path, files::PAGE) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| Error::io(&path, "read", e))?,
        };
        let wrong = |why: String| {
            Error::file(&path, why).fix(format!(
                "choose another {}, or compute it again: `study run {}`",
                option("out"),
                option("anew")
            ))
        };
        let cell: Self = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("is not a cell of a study: {e}")))?;
        if cell.format != FORMAT {
            return Err(wrong(format!("has the format {}, not {FORMAT}", cell.format)));
        }
        Ok(Some(cell))
    }

    /// Writes the cell, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).expect("plain data");
        atomic::write(folder.join(FILE), |w| writeln!(w, "{json}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Cell::read(dir.path()).unwrap(), None);
        let metrics = Metrics::of(&["valence"], &[2.0, 5.0], &[3.0, 5.0], &[4.0]).unwrap();
        let cell = Cell {
            format: Cell::format(),
            model: "shared".into(),
            fold: 3,
            study: "a".into(),
            basis: BTreeMap::from([("folds".into(), "b".into())]),
            data: "b".into(),
            pixels: "c".into(),
            device: "cpu".into(),
            made_by: "test".into(),
            seconds: 0.1,
            updates: 7,
            weights: vec![],
            history: vec![Epoch { epoch: 1, train_loss: 0.1, val_loss: None, lr: 4e-4, outputs: vec![] }],
            sets: vec![Set { name: TEST.into(), metrics: Some(metrics), classes: None }],
        };
        cell.write(dir.path()).unwrap();
        assert_eq!(Cell::read(dir.path()).unwrap().as_ref(), Some(&cell));
        assert_eq!(cell.set(TEST).unwrap().mse_mean, 0.5);
        assert!(cell.set("naps").is_none());
        for text in ["{", &serde_json::to_string(&Cell { format: "x".into(), ..cell }).unwrap()] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let e = Cell::read(dir.path()).unwrap_err().to_string();
            assert!(e.contains("cell.json") && e.ends_with("`study run anew`"), "{e}");
        }
    }
}
