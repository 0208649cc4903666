//! `weights narrow`: a model of half the size.

use crate::error::Result;
use crate::train::narrow::narrow;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// A model of `train`, or a network of `weights import` or of `pretrain`.
    file: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let done = narrow(&self.file, &self.out)?;
        let [before, after] = done.bytes.map(|b| b as f64 / 1e6);
        let (out, tensors) = (self.out.display(), done.tensors);
        remark!("wrote {out}: {tensors} dense layers in 16 bits; {after:.1} MB of weights instead of {before:.1}");
        Ok(())
    }
}
