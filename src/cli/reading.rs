//! What the commands that use a trained model share: how pictures are read, and the model itself.

use super::Compute;
use super::output::clean;
use crate::bundled;
use crate::data::{Alpha, Boxes, DecodeOptions, LoadOptions, walk};
use crate::error::{Error, Result, path_text};
use crate::models::Config;
use crate::preprocess::View;
use crate::train::checkpoint::{self, Card};
use crate::train::gradcam::{Explainer, Target};
use crate::train::interval::Held;
use crate::train::network::Precision;
use crate::train::predictor::Predictor;
use crate::weights::WeightFile;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How pictures are read.
#[derive(Args, Clone, Debug)]
pub struct Reading {
    /// Do not turn pictures upright by their EXIF orientation.
    #[arg(long)]
    ignore_exif: bool,
    /// Use a damaged JPEG as far as it goes.
    #[arg(long)]
    allow_damaged: bool,
    /// Transparency: drop shows whatever colour is stored, white lays the picture over white. By default as in training.
    #[arg(long, value_enum, value_name = "HOW")]
    alpha: Option<Alpha>,
    /// Where faces are, for a tower that looks at them (see `train --crop`): a CSV with the columns path (from its own
    /// folder), face_x, face_y, face_width and face_height. Other pictures are seen whole.
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
}

impl Reading {
    /// For a network that does not say what was done with transparency.
    pub fn decode(&self) -> DecodeOptions {
        DecodeOptions {
            ignore_exif: self.ignore_exif,
            alpha: self.alpha.unwrap_or_default(),
            allow_damaged: self.allow_damaged,
        }
    }

    /// The boxes that were named, if any, for a model with these views.
    pub fn boxes(&self, views: &[View]) -> Result<Option<Boxes>> {
        let Some(file) = &self.boxes else { return Ok(None) };
        if views.iter().all(|v| v.crop.is_none()) {
            return Err(Error::usage("--boxes: no tower of this model looks at faces")
                .fix("leave it out, or train one with --crop"));
        }
        Boxes::read(file).map(Some)
    }
}

/// The pictures of a folder, relative to it and sorted, with a remark about the files that were passed over. What ends
/// like a format that is not read is among them: it is refused by what it is, and read if it is something else.
pub fn folder(dir: &Path) -> Result<Vec<PathBuf>> {
    let found = walk::walk(dir)?;
    if let Some(passed_over) = found.passed_over() {
        remark!("{}: {passed_over}; a picture among them needs an ending such as .jpg", clean(&path_text(dir)));
    }
    let mut all = found.files;
    all.extend(found.unread);
    all.sort();
    Ok(all)
}

/// A checkpoint whose header has been read.
pub struct Model {
    file: Arc<WeightFile>,
    card: Card,
    /// The file's name, without its folder.
    pub name: String,
}

impl Model {
    /// A checkpoint, or the bundled model.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let (file, name) = match path {
            Some(p) => (checkpoint::open(p)?, p.file_name().unwrap_or_default().to_string_lossy().into_owned()),
            None => {
                let bytes = bundled::model().ok_or_else(|| {
                    Error::usage("this program has no bundled model").fix("name a checkpoint of `train` with --model")
                })?;
                let name = "bundled model";
                (checkpoint::complete(WeightFile::from_static(name, bytes)?)?, name.to_string())
            }
        };
        let card = checkpoint::card(&file)?;
        let config = card.config().map_err(|e| Error::file(file.path(), e.to_string()))?;
        if card.train_mean.len() != config.targets.len() {
            return Err(Error::file(file.path(), "its header contradicts itself").fix("train the model again"));
        }
        Ok(Self { file, card, name })
    }

    /// The fused model.
    pub fn config(&self) -> Result<&Config> {
        self.card.config()
    }

    /// How wrong its heads were on pictures that they had not seen, if it knows.
    pub fn held(&self) -> Result<Option<Held>> {
        let config = self.config()?;
        Held::of_file(&self.file, config.heads, config.targets.len())
    }

    /// Loads the weights, to explain with.
    pub fn explainer(
        &self,
        targets: &[Target],
        layer: Option<&str>,
        batch: usize,
        compute: &Compute,
    ) -> Result<Explainer> {
        Explainer::new(&self.file, targets, layer, batch, compute.open()?)
    }

    /// Names of the outputs.
    pub fn targets(&self) -> Result<&[String]> {
        Ok(&self.card.config()?.targets)
    }

    /// How this model's pictures are made.
    pub fn load_options(&self, flags: &Reading, cache_dir: Option<PathBuf>) -> Result<LoadOptions> {
        let mut options = self.options(flags.decode(), cache_dir)?;
        options.decode.alpha = flags.alpha.unwrap_or(options.decode.alpha);
        Ok(options)
    }

    /// The same without flags; transparency is as in training.
    pub fn options(&self, decode: DecodeOptions, cache_dir: Option<PathBuf>) -> Result<LoadOptions> {
        let views = self.card.config()?.views();
        Ok(LoadOptions { views, decode: DecodeOptions { alpha: self.card.alpha, ..decode }, cache_dir })
    }

    /// Whether it takes the same pictures of the same files.
    pub fn reads_like(&self, other: &Model) -> bool {
        self.card.alpha == other.card.alpha
    }

    /// Loads the weights; `seeing`, to hear of classes too.
    pub fn predictor(&self, precision: Precision, batch: usize, compute: &Compute, seeing: bool) -> Result<Predictor> {
        let load = if seeing { Predictor::seeing } else { Predictor::within };
        load(precision, &self.file, batch, compute.open()?)
    }
}

/// Threads for each that the machine has, at most: more only wait, and a system dies of very many.
const CROWD: usize = 16;

/// `--threads`, refused before any is made.
pub fn threads(text: &str) -> std::result::Result<usize, String> {
    let most = CROWD * std::thread::available_parallelism().map_or(1, usize::from);
    match text.parse() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => Err(format!("not a number from 1 to {most}, {CROWD} for each that this machine runs at once")),
    }
}

/// `--batch` as a positive number.
pub fn batch(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=4096) => Ok(n),
        _ => Err("not a number from 1 to 4096".into()),
    }
}
