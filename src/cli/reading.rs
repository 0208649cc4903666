//! How the commands that use a trained model read pictures.

use crate::data::{Alpha, DecodeOptions};
use crate::experiment::trained;
use clap::Args;
use std::path::PathBuf;

/// How pictures are read.
#[derive(Args, Clone, Debug)]
pub struct ReadingFlags {
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

impl From<&ReadingFlags> for trained::Reading {
    fn from(f: &ReadingFlags) -> Self {
        let ReadingFlags { ignore_exif, allow_damaged, alpha, boxes } = f.clone();
        Self { ignore_exif, allow_damaged, alpha, boxes }
    }
}

impl ReadingFlags {
    /// For a network that does not say what was done with transparency.
    pub fn decode(&self) -> DecodeOptions {
        trained::Reading::from(self).decode()
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
