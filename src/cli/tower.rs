//! Flags of the commands that train one tower as a classifier.

use super::ranges::{MANY, number, whole};
use crate::data::Alpha;
use crate::experiment::classifier::TowerSettings;
use crate::models::Base;
use crate::weights::init::Rule;
use clap::Args;

/// The network, and how its pictures are read.
#[derive(Args, Clone, Debug)]
pub struct TowerFlags {
    /// Convolutions of the tower; by default those of --weights, else the published ones.
    #[arg(long, value_name = "NAME")]
    base: Option<Base>,
    /// Divides the channels of every convolution, and the hidden dense layers that --dense does not name. By default that
    /// of --weights, else 1.
    #[arg(long, value_parser = whole::<usize>(0..=1024), value_name = "N")]
    width: Option<usize>,
    /// Hidden dense layers; the published ones by default.
    #[arg(long, value_parser = whole::<usize>(1..=MANY), value_delimiter = ',', value_name = "WIDTHS")]
    dense: Option<Vec<usize>>,
    /// Average the last feature map over the image before the dense layers, instead of flattening it: global average pooling,
    /// for VGGs.
    #[arg(long)]
    global_pooling: bool,
    /// Probability to keep a hidden dense unit while training.
    #[arg(long, value_parser = number::<f32>(0.0, 1.0), value_name = "P")]
    keep: Option<f32>,
    /// Side of the square image in pixels; that of the network's paper by default, 224 for VGGs.
    #[arg(long, value_parser = whole::<usize>(0..=65_535), value_name = "PIXELS")]
    image: Option<usize>,
    /// Preprocessing: keras, torch, caffe-places, unit, fer2013. By default what --weights states, else unit.
    #[arg(long, value_name = "NAME")]
    preprocess: Option<String>,
    /// How the first weights are drawn.
    #[arg(long, value_enum, default_value_t = Rule::He)]
    init: Rule,
    /// Every class counts alike, however many pictures it has.
    #[arg(long)]
    balance: bool,
    /// What to do with transparency: drop it, or lay drawings over white.
    #[arg(long, value_enum, default_value_t = Alpha::Drop)]
    alpha: Alpha,
    /// Do not turn pictures upright by their EXIF orientation.
    #[arg(long)]
    ignore_exif: bool,
    /// Leave out pictures that cannot be read instead of stopping before the first step.
    #[arg(long)]
    skip_bad: bool,
}

impl From<TowerFlags> for TowerSettings {
    fn from(f: TowerFlags) -> Self {
        Self {
            base: f.base,
            width: f.width,
            dense: f.dense,
            global_pooling: f.global_pooling,
            keep: f.keep,
            image: f.image,
            preprocess: f.preprocess,
            init: f.init,
            balance: f.balance,
            alpha: f.alpha,
            ignore_exif: f.ignore_exif,
            skip_bad: f.skip_bad,
        }
    }
}
