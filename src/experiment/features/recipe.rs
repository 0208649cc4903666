//! How the columns of a table are made of a picture: what a model that was solved for on it needs to look at pictures itself.

use super::{Features, PictureDescription};
use crate::data::features_table::FeatureTable;
use crate::data::{DecodeOptions, Manifest, Row};
use crate::error::{Error, Result, option, path_text};
use crate::experiment::config::Compute;
use crate::experiment::events::Events;
use crate::experiment::trained::Reading;
use crate::hash;
use crate::models::TowerOutput;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The making of a table, as its file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    decode: DecodeOptions,
    of: Maker,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Maker {
    /// A tower, known by the sum of its file.
    Tower { file: String, sha256: String, output: TowerOutput, side: usize, random: Option<u64> },
    /// No network.
    Description(PictureDescription),
}

/// Pictures that a model looks at, and what it needs for that.
pub struct Looking<'a> {
    /// Files.
    pub pictures: &'a [PathBuf],
    /// Files of towers, of which each recipe takes its own.
    pub towers: &'a [PathBuf],
    pub batch: usize,
    pub compute: &'a Compute,
    pub events: &'a dyn Events,
}

impl Recipe {
    /// Of a tower's outputs on squares of `side` pixels; None where faces are cut out by a table of boxes, which new pictures
    /// are not in.
    pub(super) fn tower(features: &Features, side: usize) -> Result<Option<Self>> {
        if features.reading.boxes.is_some() {
            return Ok(None);
        }
        let (_, sha256) = hash::of_file(features.tower)?;
        let file = features.tower.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let of = Maker::Tower { file, sha256, output: features.output, side, random: features.random };
        Ok(Some(Self { decode: features.reading.decode(), of }))
    }

    /// None where a description needs more than the picture: label maps, or a table of colour names.
    pub(super) fn described(description: PictureDescription, decode: &DecodeOptions) -> Option<Self> {
        let alone = description.areas.is_none() && description.colour_names.is_none();
        alone.then_some(Self { decode: *decode, of: Maker::Description(description) })
    }

    pub(super) fn json(&self) -> Value {
        serde_json::to_value(self).expect("plain data")
    }

    /// The recipe in a model's file, `model`.
    fn read(value: &Value, model: &Path) -> Result<Self> {
        let wrong = |e| Error::file(model, format!("damaged recipe of its features: {e}")).fix("fit it again");
        serde_json::from_value(value.clone()).map_err(wrong)
    }

    /// The table that this makes of pictures, and those that cannot be used.
    fn table(&self, looking: &Looking) -> Result<(FeatureTable, Vec<Error>)> {
        let Looking { pictures, towers, batch, compute, events } = *looking;
        match &self.of {
            Maker::Description(description) => {
                let row = |p: &PathBuf| Row { path: path_text(p), ..Row::default() };
                let manifest = Manifest::new("", &[], pictures.iter().map(row).collect(), vec![]);
                description.usable(&manifest, &self.decode, Path::new(""), events)
            }
            Maker::Tower { file, sha256, output, side, random } => {
                let same = |t: &&PathBuf| hash::of_file(t).map(|(_, sum)| sum == *sha256);
                let mut found = None;
                for tower in towers {
                    if same(&tower)? {
                        found = Some(tower);
                        break;
                    }
                }
                let tower = found.ok_or_else(|| {
                    let sum = &sha256[..sha256.len().min(12)];
                    Error::usage(format!("the model's features are those of the tower {file} (SHA-256 {sum}…)"))
                        .fix(format!("name that file with {}", option("tower")))
                })?;
                let DecodeOptions { ignore_exif, alpha, allow_damaged } = self.decode;
                let reading = Reading { ignore_exif, allow_damaged, alpha: Some(alpha), boxes: None };
                let (output, random, side, reading) = (*output, *random, Some(*side), &reading);
                let features = Features { tower, output, random, side, batch, reading, compute, events };
                let view = features.usable(|| Ok(pictures.to_vec()))?;
                Ok((view.table(Path::new("")), view.bad))
            }
        }
    }
}

/// The tables of a model's recipes, of new pictures: each with the name that its columns begin with, and what it could not use.
///
/// # Errors
/// A tower that is not among those that are given.
pub fn tables(recipes: &[(String, Value)], model: &Path, looking: &Looking) -> Result<Tables> {
    let (mut all, mut bad) = (vec![], vec![]);
    for (name, recipe) in recipes {
        let (table, unusable) = Recipe::read(recipe, model)?.table(looking)?;
        all.push((name.clone(), table));
        bad.extend(unusable);
    }
    Ok((all, bad))
}

/// Tables by name, and the pictures that could not be used.
type Tables = (Vec<(String, FeatureTable)>, Vec<Error>);
