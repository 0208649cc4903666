/*! Floor 10: experiments, and all else that a command asks for. What is trained, how and on what is a typed configuration
([`config`]); [`run`] trains one model, [`cross_validate`] one for each fold, [`study`] several models over the same folds,
[`evolve`] and [`generate`] make pictures that a model is made to see. [`prediction`] rates pictures and [`evaluate`] measures a
model on a manifest; [`features`] makes tables of what towers see, which [`fit`] solves on; [`foreign`] converts another program's
weights, [`merge`] joins manifests. [`ranks`] lets several processes train one model. They tell of their progress through [`events`], return what they found and leave a folder or
file of results. Nothing here knows of a command line. */

pub mod checkpointed;
pub mod classifier;
pub mod config;
pub mod cross_validate;
pub mod deal;
pub mod demo;
pub mod ensemble;
pub mod evaluate;
pub mod events;
pub mod evolve;
pub mod faces;
pub mod features;
pub mod fit;
pub mod foreign;
pub mod generate;
mod heads;
mod listed;
pub mod merge;
pub mod prediction;
pub mod ranks;
pub mod run;
pub mod study;
pub mod train;
pub mod trained;
mod written;

pub use events::Events;
pub use study::Study;
pub use train::Trainer;

use std::path::PathBuf;
use std::sync::Arc;

/// Where results go, and who hears of them.
#[derive(Clone)]
pub struct Output {
    pub folder: PathBuf,
    /// What asked for the work, in words: goes into reports.
    pub command: String,
    pub events: Arc<dyn Events>,
}

impl Output {
    /// A folder; nobody hears how the work goes.
    pub fn silent(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), command: "the library".into(), events: Arc::new(()) }
    }
}
