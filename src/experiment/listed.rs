//! The rows of a manifest that something is learned from, and the class of each where classes are told apart.

use super::config::Data;
use super::events::{Events, tell};
use crate::data::labels::Asked;
use crate::data::{LabelMap, Labels, Manifest};
use crate::error::{Result, line};
use std::path::Path;

/// Rows whose ratings, and classes where these are told apart, are known.
pub struct Listed {
    pub manifest: Manifest,
    /// None where no classes are told apart.
    pub classes: Vec<String>,
    /// The class of each row, where classes are told apart.
    pub y: Vec<usize>,
}

impl Listed {
    /// The rows that can be used, as the settings say what they are used for; says which classes there are.
    ///
    /// # Errors
    /// A manifest or map that cannot be read, a rating that is missing, fewer than two classes.
    pub fn read(path: &Path, data: &Data, events: &dyn Events) -> Result<Self> {
        let targets = data.targets();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let manifest = Manifest::read(path, &targets)?;
        let Some(labels) = labels(&manifest, path, data)? else {
            return Ok(Self { manifest, classes: vec![], y: vec![] });
        };
        labels.remarks().iter().for_each(|r| tell!(events, "{}", line(r)));
        Ok(Self::labelled(&manifest, labels))
    }

    /// The rows that have a class.
    pub fn labelled(manifest: &Manifest, labels: Labels) -> Self {
        let y = labels.of.iter().flatten().copied().collect();
        Self { manifest: manifest.select(&labels.rows()), classes: labels.classes, y }
    }
}

/// The classes of a manifest's rows; None where the settings ask for none.
pub fn labels(manifest: &Manifest, path: &Path, data: &Data) -> Result<Option<Labels>> {
    let Some(column) = &data.label else { return Ok(None) };
    let map = data.label_map.as_deref().map(LabelMap::read).transpose()?.unwrap_or_default();
    Labels::found(manifest, path, &Asked { column, map: &map, least: data.min_count }).map(Some)
}
