//! Tables of what pictures look like: colours, names, GIST, patterns, areas of label maps.

use super::super::ranges::whole;
use crate::data::features_table::FeatureTable;
use crate::data::{DecodeOptions, Manifest, Source, each};
use crate::descriptors::{Descriptors, Kind, areas, colour, gist, lbp, names::ColourNames};
use crate::error::{Error, Result};
use crate::hash;
use crate::progress::Progress;
use clap::Args;
use std::path::{Path, PathBuf};

/// Most classes of a label map.
const MOST: u64 = 1 << 16;

#[derive(Args, Debug)]
pub struct Described {
    /// What is measured of each picture of a manifest, in float64 at its own size: colour (means of RGB and HSV, the
    /// commonest of 512 colours, pleasure, arousal and dominance), names (eleven colour names), gist (512 numbers), lbp (59
    /// local binary patterns).
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KINDS")]
    kind: Vec<Kind>,
    /// Probabilities of colour names, for names: w2c.mat or w2c.txt of van de Weijer et al., featureColorName.cpp of OpenCV, or
    /// a .npy [32768, 11].
    #[arg(long, value_name = "FILE")]
    colour_names: Option<PathBuf>,
    /// Signs of brightness in arousal and dominance: Valdez & Mehrabian's minus, or the paper's plus.
    #[arg(long, value_enum, default_value = "original", value_name = "SIGNS")]
    pad_signs: colour::Signs,
    /// Brightness and saturation of pleasure, arousal and dominance.
    #[arg(long, value_enum, default_value = "ihsl", value_name = "SPACE")]
    pad_space: colour::Space,
    /// Side in pixels of the square that GIST is made of, a multiple of 16.
    #[arg(long, value_parser = whole::<usize>(32..=1024), default_value_t = gist::SIDE, value_name = "PIXELS")]
    gist_side: usize,
    /// Neighbours of a pixel in its pattern: on the circle of radius 1, or the eight around it.
    #[arg(long, value_enum, default_value = "circle", value_name = "FORM")]
    lbp: lbp::Form,
    /// A folder of label maps of the pictures (PNG of class numbers, or .npy) by the same names: the part of each picture that
    /// is of each class.
    #[arg(long, value_name = "DIR")]
    areas: Option<PathBuf>,
    /// Classes of the label maps, from 0.
    #[arg(long, value_parser = whole::<usize>(1..=MOST), default_value_t = 150, value_name = "N")]
    classes: usize,
    /// Whether a class is there at all, 0 or 1, instead of its part.
    #[arg(long)]
    presence: bool,
    /// The table as CSV too, beside it.
    #[arg(long)]
    csv: bool,
}

impl Described {
    /// Whether anything is asked for.
    pub fn asked(&self) -> bool {
        !self.kind.is_empty() || self.areas.is_some()
    }

    /// Whether a CSV file is wanted too.
    pub fn csv(&self) -> bool {
        self.csv
    }

    /// Describes every picture of a manifest: a row for each.
    pub fn table(
        &self,
        manifest: &Manifest,
        decode: &DecodeOptions,
        table: &Path,
        progress: &dyn Progress,
    ) -> Result<FeatureTable> {
        let (names, mut kinds) = (self.colour_names.as_deref().map(ColourNames::read).transpose()?, self.kind.clone());
        if names.is_none() && kinds.len() > 1 && kinds.contains(&Kind::Names) {
            remark!("warning: the eleven colour names are left out; --colour-names FILE has their table");
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
        let made = each(&sources, decode, progress, |i, picture, bytes| {
            let mut row = descriptors.of(picture)?;
            if let Some(map) = maps.get(i) {
                let parts = areas::parts(map, (picture.w, picture.h), self.classes)?;
                row.extend(parts.into_iter().map(|p| if self.presence { f64::from(u8::from(p > 0.0)) } else { p }));
            }
            Ok((hash::content_hex(bytes), row))
        })?;
        let bad: Vec<(usize, &String)> =
            made.iter().enumerate().filter_map(|(i, m)| Some((i, m.as_ref().err()?))).collect();
        if let [(first, why), rest @ ..] = &bad[..] {
            let one = Error::file(manifest.file(*first), why.as_str());
            if rest.is_empty() {
                return Err(one);
            }
            let all = format!("{} of {} pictures cannot be described, the first is {one}", bad.len(), made.len());
            return Err(Error::job(all));
        }
        let (contents, rows): (Vec<String>, Vec<Vec<f64>>) = made.into_iter().flatten().unzip();
        let values = rows.iter().flatten().map(|x| *x as f32).collect();
        Ok(FeatureTable { file: table.into(), columns, paths, contents, values })
    }
}
