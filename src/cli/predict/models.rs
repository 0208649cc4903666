//! Which models `predict` asks.

use crate::cli::terminal;
use crate::error::Result;
use crate::experiment::ensemble::Asked;
use crate::solve::model as solve;
use clap::{Args, value_parser};
use std::path::{Path, PathBuf};

pub use crate::experiment::ensemble::{Cell, Loaded, Models, Seen};

#[derive(Args)]
pub struct ModelsFlags {
    /// Checkpoint of `train`, a model of `fit`, or a folder with checkpoints of `cross-validate --keep-models`; repeatable, and
    /// several checkpoints answer with their mean. Without it the bundled model answers.
    #[arg(long, value_name = "FILE|DIR")]
    model: Vec<PathBuf>,
    /// Level in percent of the interval that errors on held-out pictures give (CV+): of the bundled model, of one that
    /// `weights merge` made, or of one model for each fold (`fold-N.safetensors`) beside predictions.csv.
    #[arg(long, default_value_t = 90, value_parser = value_parser!(u32).range(50..=99), value_name = "PERCENT")]
    interval: u32,
    /// Also the N likeliest classes of each tower, and all of them where a tower has at most ten, such as expressions.
    #[arg(long, value_parser = value_parser!(u32).range(1..=100), value_name = "N")]
    top: Option<u32>,
}

impl ModelsFlags {
    /// The only model, if `fit` wrote it.
    pub fn solved(&self) -> Result<Option<(&Path, solve::Model)>> {
        match &self.model[..] {
            [one] if one.is_file() => Ok(solve::of_file(one)?.map(|model| (one.as_path(), model))),
            _ => Ok(None),
        }
    }

    pub fn open(&self) -> Result<Models> {
        let (models, top) = (self.model.clone(), self.top.map(|n| n as usize));
        Asked { models, interval: self.interval, top }.open(&*terminal())
    }
}
