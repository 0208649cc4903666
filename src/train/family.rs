/*! Which models and which predictions are of one cross-validation. An interval is made of the errors of the very models that
answer: `models.json`, written beside them when all are done, names the models by what their headers say of their training
and the table by its SHA-256, so that what was left by two runs in one folder is not taken for one. */

use crate::atomic;
use crate::error::{Error, Result};
use crate::files;
use crate::hash;
use crate::train::checkpoint::CARD;
use crate::weights::WeightFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the models of a cross-validation said about the pictures that each of them did not see.
pub const PREDICTIONS: &str = "predictions.csv";
/// Name of the file of a [`Family`].
pub const FILE: &str = "models.json";
const FORMAT: &str = "deep-affect-models-1";

/// One cross-validation, as its folder has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    format: String,
    predictions_sha256: String,
    /// Name of a file, and the fingerprint of its header: settings, data, sums of weights, losses of every epoch.
    models: BTreeMap<String, String>,
}

impl Family {
    /// Writes what ties `models`, files of the folder, to the table that lies there.
    pub fn write(dir: &Path, models: &[PathBuf]) -> Result<()> {
        let models = models.iter().map(|path| Ok((name(path), identity(path)?))).collect::<Result<_>>()?;
        let family = Self { format: FORMAT.into(), predictions_sha256: sum(&dir.join(PREDICTIONS))?, models };
        let text = serde_json::to_string_pretty(&family).expect("plain data");
        atomic::write(dir.join(FILE), |w| writeln!(w, "{text}"))
    }

    /// What lies in a folder; None in one of an older program, which says nothing.
    ///
    /// # Errors
    /// A file of that name that cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match files::read(&path, files::PAGE) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| Error::io(&path, "read", e))?,
        };
        let family: Option<Self> = serde_json::from_slice(&bytes).ok();
        family.filter(|f| f.format == FORMAT).map(Some).ok_or_else(|| {
            Error::file(&path, "does not say which models are of one run").fix("make them again with this program")
        })
    }

    /// Fails unless the table and the models are those of this run; one of its models may be missing.
    pub fn check(&self, table: &Path, models: &[PathBuf]) -> Result<()> {
        if sum(table)? != self.predictions_sha256 {
            return Err(Error::file(
                table,
                "is not what the run of these models wrote: it was changed, or is of another",
            )
            .fix("take the file as the run wrote it, or run `cross-validate --keep-models` again"));
        }
        for path in models {
            if self.models.get(&name(path)) != Some(&identity(path)?) {
                return Err(Error::file(path, format!("is not of the run that wrote {}", table.display()))
                    .fix("give only models of one run: remove this one, or run `cross-validate --keep-models` again"));
            }
        }
        Ok(())
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What tells the model in a file from others: two trainings hardly have the same losses to the last bit.
fn identity(path: &Path) -> Result<String> {
    let file = WeightFile::open(path)?;
    let card = file.metadata().get(CARD).map_or("", String::as_str);
    Ok(hash::content_hex(card.as_bytes()))
}

fn sum(path: &Path) -> Result<String> {
    Ok(hash::sha256(&files::read(path, files::TABLE).map_err(|e| Error::io(path, "read", e))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::write::{Entry, write};

    #[test]
    fn two_runs_in_one_folder_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let model = |name: &str, card: &str| {
            let path = dir.path().join(name);
            write(&path, &BTreeMap::from([(CARD.into(), card.into())]), &[Entry::f32("x", &[1], &[0.0])]).unwrap();
            path
        };
        let table = dir.path().join(PREDICTIONS);
        std::fs::write(&table, "path,fold\na,1\n").unwrap();
        let models = [model("fold-1.safetensors", "a"), model("fold-2.safetensors", "b")];
        assert_eq!(Family::read(dir.path()).unwrap(), None);
        Family::write(dir.path(), &models).unwrap();
        let family = Family::read(dir.path()).unwrap().unwrap();
        family.check(&table, &models).unwrap();
        family.check(&table, &models[..1]).unwrap();
        // Another model under the name of one, and one that the run did not have.
        model("fold-2.safetensors", "c");
        let complaint = |models: &[PathBuf]| family.check(&table, models).unwrap_err().to_string();
        assert!(complaint(&models).contains("fold-2.safetensors: is not of the run that wrote"));
        assert!(complaint(&[model("fold-3.safetensors", "a")]).contains("fold-3.safetensors"));
        // Another table beside the models.
        std::fs::write(&table, "path,fold\na,2\n").unwrap();
        assert!(complaint(&models).contains("predictions.csv: is not what the run of these models wrote"));
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(Family::read(dir.path()).is_err());
    }
}
