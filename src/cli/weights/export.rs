//! `weights export`: a trained model for another program.

use crate::error::Result;
use crate::export::{self, Format};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// A checkpoint of `train`, or a tower file of `pretrain`.
    file: PathBuf,
    /// What to write.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Format,
    /// The file to write. More than 1 GiB of ONNX weights go to `PATH.data` beside it.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

impl Command {
    pub fn run(self) -> Result<()> {
        for path in export::export(&self.file, self.format, &self.out)? {
            remark!("wrote {}", path.display());
        }
        Ok(())
    }
}
