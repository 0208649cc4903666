//! A trained model from its file: how its pictures are read, what it predicts, and what it is explained with.

use super::events::{Events, tell};
use crate::bundled;
use crate::data::{Alpha, Boxes, DecodeOptions, LoadOptions, walk};
use crate::device::{Device, Session};
use crate::error::{Error, Result, line, option, path_text};
use crate::graph::Value;
use crate::hash;
use crate::host::pattern::Drawing;
use crate::models::Config;
use crate::preprocess::View;
use crate::train::checkpoint::{self, Card};
use crate::train::gradcam::{Explainer, Target};
use crate::train::interval::Held;
use crate::train::network::Precision;
use crate::train::predictor::Predictor;
use crate::weights::WeightFile;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How pictures are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Do not turn pictures upright by their EXIF orientation.
    pub ignore_exif: bool,
    /// Use a damaged JPEG as far as it goes.
    pub allow_damaged: bool,
    /// What to do with transparency; as in training.
    pub alpha: Option<Alpha>,
    /// Where faces are, for a tower that looks at them: a table. Other pictures are seen whole.
    pub boxes: Option<PathBuf>,
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

    /// For the pictures of a model.
    pub fn load_options(&self, model: &Model, cache_dir: Option<PathBuf>) -> Result<LoadOptions> {
        let mut options = model.options(self.decode(), cache_dir)?;
        options.decode.alpha = self.alpha.unwrap_or(options.decode.alpha);
        Ok(options)
    }

    /// The boxes that were named, if any, for a model with these views.
    pub fn boxes(&self, views: &[View]) -> Result<Option<Boxes>> {
        let Some(file) = &self.boxes else { return Ok(None) };
        if views.iter().all(|v| v.crop.is_none()) {
            return Err(Error::usage(format!("{}: no tower of this model looks at faces", option("boxes")))
                .fix(format!("leave it out, or train one with {}", option("crop"))));
        }
        Boxes::read(file).map(Some)
    }
}

/// The pictures of a folder, relative to it and sorted, with a remark about the files that were passed over. What ends
/// like a format that is not read is among them: it is refused by what it is, and read if it is something else.
pub fn folder(dir: &Path, events: &dyn Events) -> Result<Vec<PathBuf>> {
    let found = walk::walk(dir)?;
    if let Some(passed_over) = found.passed_over() {
        tell!(events, "{}: {passed_over}; a picture among them needs an ending such as .jpg", line(&path_text(dir)));
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
                    Error::usage("this program has no bundled model")
                        .fix(format!("name a checkpoint of `train` with {}", option("model")))
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

    /// What tells it from every other: its header, which has the checksums of all weights.
    pub fn identity(&self) -> String {
        let bytes = self.file.as_bytes();
        let header = bytes.first_chunk().map_or(0, |n| u64::from_le_bytes(*n)) as usize + 8;
        hash::content_hex(&bytes[..header.min(bytes.len())])
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
        device: Box<dyn Device>,
    ) -> Result<Explainer> {
        Explainer::new(&self.file, targets, layer, batch, device)
    }

    /// Writes those weights of it that a session's graph has.
    pub fn bind(&self, session: &mut Session, values: &[Value]) -> Result<()> {
        checkpoint::bind_some(&self.file, session, values)
    }

    /// Names of the outputs.
    pub fn targets(&self) -> Result<&[String]> {
        Ok(&self.card.config()?.targets)
    }

    /// How this model's pictures are made; transparency is as in training.
    pub fn options(&self, decode: DecodeOptions, cache_dir: Option<PathBuf>) -> Result<LoadOptions> {
        let views = self.card.config()?.views();
        Ok(LoadOptions { views, decode: DecodeOptions { alpha: self.card.alpha, ..decode }, cache_dir })
    }

    /// Whether it takes the same pictures of the same files.
    pub fn reads_like(&self, other: &Model) -> bool {
        self.card.alpha == other.card.alpha
    }

    /// Loads the weights for squares of another side than in training, if one is given.
    pub fn sized(&self, side: Option<usize>, batch: usize, device: Box<dyn Device>) -> Result<Predictor> {
        match side {
            Some(side) => Predictor::sized(side, &self.file, batch, device),
            None => self.predictor(Precision::Float32, batch, device, false),
        }
    }

    /// Loads the weights for pictures that the device draws.
    pub fn drawing(&self, how: Drawing, batch: usize, device: Box<dyn Device>) -> Result<Predictor> {
        Predictor::drawing(how, &self.file, batch, device)
    }

    /// Loads the weights; `seeing`, to hear of classes too.
    pub fn predictor(
        &self,
        precision: Precision,
        batch: usize,
        device: Box<dyn Device>,
        seeing: bool,
    ) -> Result<Predictor> {
        let load = if seeing { Predictor::seeing } else { Predictor::within };
        load(precision, &self.file, batch, device)
    }
}
