//! Tables of what pictures look like: colours, names, GIST, patterns, areas of label maps.

use super::recipe::Recipe;
use crate::data::features_table::FeatureTable;
use crate::data::{DecodeOptions, Manifest, Source, each};
use crate::descriptors::{Descriptors, Kind, areas, colour, lbp, names::ColourNames};
use crate::error::{Error, Result, option};
use crate::experiment::Events;
use crate::experiment::events::tell;
use crate::hash;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is measured of each picture of a manifest, in float64 at its own size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PictureDescription {
    pub kinds: Vec<Kind>,
    /// Probabilities of colour names, for names.
    pub colour_names: Option<PathBuf>,
    /// Signs of brightness in arousal and dominance.
    pub pad_signs: colour::Signs,
    /// Brightness and saturation of pleasure, arousal and dominance.
    pub pad_space: colour::Space,
    /// Side in pixels of the square that GIST is made of, a multiple of 16.
    pub gist_side: usize,
    /// Neighbours of a pixel in its pattern.
    pub lbp: lbp::Form,
    /// A folder of label maps of the pictures by the same names: the part of each picture that is of each class.
    pub areas: Option<PathBuf>,
    /// Classes of the label maps, from 0.
    pub classes: usize,
    /// Whether a class is there at all, 0 or 1, instead of its part.
    pub presence: bool,
}

impl PictureDescription {
    /// Describes every picture of a manifest: a row for each of a table that will be `table`.
    ///
    /// # Errors
    /// Pictures and label maps that cannot be read, and a file of colour names that is none.
    pub fn table(
        &self,
        manifest: &Manifest,
        decode: &DecodeOptions,
        table: &Path,
        events: &dyn Events,
    ) -> Result<FeatureTable> {
        let (made, bad) = self.usable(manifest, decode, table, events)?;
        match &bad[..] {
            [] => Ok(made),
            [one] => Err(one.clone()),
            [first, ..] => {
                let (n, all) = (bad.len(), manifest.rows.len());
                Err(Error::job(format!("{n} of {all} pictures cannot be described, the first is {first}")))
            }
        }
    }

    /// The same of the pictures that can be used, and why the others cannot.
    pub(super) fn usable(
        &self,
        manifest: &Manifest,
        decode: &DecodeOptions,
        table: &Path,
        events: &dyn Events,
    ) -> Result<(FeatureTable, Vec<Error>)> {
        let (names, mut kinds) = (self.colour_names.as_deref().map(ColourNames::read).transpose()?, self.kinds.clone());
        if names.is_none() && kinds.len() > 1 && kinds.contains(&Kind::Names) {
            let file = option("colour-names");
            tell!(events, "warning: the eleven colour names are left out; {file} FILE has their table");
            kinds.retain(|k| *k != Kind::Names);
        }
        let pad = (self.pad_signs, self.pad_space);
        let descriptors = Descriptors::new(&kinds, pad, names, self.gist_side, self.lbp)?;
        let paths: Vec<String> = manifest.rows.iter().map(|r| r.path.clone()).collect();
        let maps = match &self.areas {
            Some(folder) => areas::maps(folder, &paths.iter().map(String::as_str).collect::<Vec<_>>())?,
            None => vec![],
        };
        let mut columns = descriptors.columns();
        if !maps.is_empty() {
            columns.extend((0..self.classes).map(|c| format!("area.{c}")));
        }
        let sources: Vec<Source> = (0..paths.len()).map(|i| Source::File(manifest.file(i))).collect();
        let made = each(&sources, decode, events, |i, picture, bytes| {
            let mut row = descriptors.of(picture)?;
            if let Some(map) = maps.get(i) {
                let parts = areas::parts(map, (picture.w, picture.h), self.classes)?;
                row.extend(parts.into_iter().map(|p| if self.presence { f64::from(u8::from(p > 0.0)) } else { p }));
            }
            Ok((hash::content_hex(bytes), row))
        })?;
        let (mut kept, mut bad, mut contents, mut rows) = (vec![], vec![], vec![], vec![]);
        for (i, (made, path)) in made.into_iter().zip(paths).enumerate() {
            match made {
                Ok((content, row)) => {
                    kept.push(path);
                    contents.push(content);
                    rows.push(row);
                }
                Err(why) => bad.push(Error::file(manifest.file(i), why)),
            }
        }
        let values = rows.iter().flatten().map(|x| *x as f32).collect();
        let recipe = Recipe::described(PictureDescription { kinds, ..self.clone() }, decode).map(|r| r.json());
        Ok((FeatureTable { file: table.into(), columns, paths: kept, contents, values, recipe }, bad))
    }
}
