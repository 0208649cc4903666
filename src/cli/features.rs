//! `features`: what one tower sees in pictures, its likeliest classes for people and all its outputs for programs; and tables of
//! a manifest's pictures, of a tower's outputs or of what needs no network.

use super::ranges::{MANY, whole};
use super::reading::{ReadingFlags, batch};
use super::{Compute, output, terminal};
use crate::data::Manifest;
use crate::data::features_table::FeatureTable;
use crate::descriptors::{Kind, colour, gist, lbp};
use crate::error::{Error, Result};
use crate::experiment::features::{Features, PictureDescription};
use crate::models::TowerOutput;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    /// A tower: a file of `weights import` or of `pretrain`. With --kind, --areas or --tower a manifest of pictures (see
    /// `import`), for --table.
    #[arg(value_name = "TOWER_OR_MANIFEST")]
    subject: PathBuf,
    /// Pictures and folders (searched through, in sorted order).
    #[arg(value_name = "FILES")]
    inputs: Vec<PathBuf>,
    /// The pictures of a manifest instead, for --table.
    #[arg(long, value_name = "CSV")]
    manifest: Option<PathBuf>,
    /// The tower, where a manifest comes first.
    #[arg(long, value_name = "FILE", conflicts_with = "manifest")]
    tower: Option<PathBuf>,
    /// Where the outputs go as a table of features, a row a picture, which `fit` and `train` take: safetensors, or a CSV file
    /// by its ending.
    #[arg(long, visible_alias = "out", value_name = "FILE")]
    table: Option<PathBuf>,
    #[command(flatten)]
    described: Described,
    /// What comes out: softmax (class probabilities), pooled (the last convolution averaged over the picture), block1 to
    /// block5 (the same of a block), or several side by side, as in block4+block5.
    #[arg(long, default_value_t = TowerOutput::Softmax, value_name = "OUTPUT")]
    output: TowerOutput,
    /// Weights drawn at random by this seed (Glorot uniform) instead of those of the file: what such a network sees that has
    /// learned nothing.
    #[arg(long, value_name = "SEED")]
    random: Option<u64>,
    /// How many classes to show.
    #[arg(long, value_parser = whole::<usize>(0..=MANY), default_value_t = 5, value_name = "N")]
    top: usize,
    /// One JSON object a picture, with every output.
    #[arg(long)]
    json: bool,
    /// Side in pixels of the square that is made of a picture; the tower's own by default.
    #[arg(long, value_parser = whole::<usize>(32..=4096), value_name = "PIXELS")]
    image: Option<usize>,
    /// Pictures computed at once: costs memory, changes no number.
    #[arg(long, default_value = "8", value_parser = batch, value_name = "N")]
    batch: usize,
    #[command(flatten)]
    reading: ReadingFlags,
    #[command(flatten)]
    compute: Compute,
}

/// Most classes of a label map.
const MOST: u64 = 1 << 16;

#[derive(Args, Debug)]
struct Described {
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

impl Command {
    pub fn run(mut self) -> Result<()> {
        if !self.described.kind.is_empty() || self.described.areas.is_some() {
            return self.describe();
        }
        if let Some(tower) = self.tower.take() {
            self.manifest = Some(std::mem::replace(&mut self.subject, tower));
        }
        match (&self.manifest, &self.table, self.inputs.is_empty()) {
            (None, None, false) | (Some(_), Some(_), true) => {}
            (None, None, true) => return Err(Error::usage("no pictures are named").fix("name files or folders")),
            _ => {
                return Err(Error::usage("--manifest and --table go together, and without other pictures")
                    .fix("give both, or name pictures alone"));
            }
        }
        self.compute.bind_threads();
        let features = Features {
            tower: &self.subject,
            output: self.output,
            random: self.random,
            side: self.image,
            batch: self.batch,
            reading: &(&self.reading).into(),
            compute: &self.compute.clone().into(),
            events: &*terminal(),
        };
        if let (Some(manifest), Some(table)) = (&self.manifest, &self.table) {
            let (made, view) = features.of_manifest(manifest, table)?;
            self.write(&made, table)?;
            return view.complete();
        }
        let view = features.of_pictures(&self.inputs)?;
        (0..view.pictures()).try_for_each(|i| output::print(&view.answer(i, self.top, self.json)))?;
        view.complete()
    }

    /// A table without a network.
    fn describe(self) -> Result<()> {
        let (manifest, Some(table), true, None) =
            (self.manifest.as_ref().unwrap_or(&self.subject), &self.table, self.inputs.is_empty(), &self.tower)
        else {
            return Err(Error::usage(
                "--kind and --areas make a table of the pictures of a manifest, and of nothing else",
            )
            .fix("give one manifest and --out FILE, and join tables of towers by naming both to `fit`"));
        };
        self.compute.bind_threads();
        let manifest = Manifest::read(manifest, &[])?;
        let description = PictureDescription::from(&self.described);
        let made = description.table(&manifest, &self.reading.decode(), table, &*terminal())?;
        self.write(&made, table)
    }

    fn write(&self, made: &FeatureTable, table: &Path) -> Result<()> {
        made.write(table)?;
        let beside = table.with_extension("csv");
        if self.described.csv && beside != table {
            made.write(&beside)?;
        }
        let (columns, pictures) = (made.columns.len(), made.paths.len());
        remark!("wrote {columns} features of {pictures} pictures to {}", table.display());
        Ok(())
    }
}

impl From<&Described> for PictureDescription {
    fn from(d: &Described) -> Self {
        Self {
            kinds: d.kind.clone(),
            colour_names: d.colour_names.clone(),
            pad_signs: d.pad_signs,
            pad_space: d.pad_space,
            gist_side: d.gist_side,
            lbp: d.lbp,
            areas: d.areas.clone(),
            classes: d.classes,
            presence: d.presence,
        }
    }
}
