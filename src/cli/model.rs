//! The model that `plan`, `profile`, `bench`, `compare` and `gradcheck` are about.

use super::flags::ModelFlags;
use crate::error::Result;
use crate::train::network::Precision;
use clap::Args;

pub use crate::measure::model::{ModelScale, ResolvedModel};

#[derive(Args, Clone, Debug)]
pub struct ModelArg {
    /// `deep-affect`, shaped by the flags below; another network by name (`--image` and `--width` apply); or a file: a model
    /// of `train`, or a network of `weights import` or of `pretrain`.
    #[arg(default_value = "deep-affect", value_name = "MODEL")]
    name: String,
    #[command(flatten)]
    flags: ModelFlags,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
}

impl ModelArg {
    /// As the user gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn resolve(&self, seed: u64, scale: ModelScale) -> Result<ResolvedModel> {
        ResolvedModel::new(&self.name, &self.flags.clone().try_into()?, self.precision, seed, scale)
    }
}
