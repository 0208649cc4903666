//! `train`: the fused network on a manifest.

use crate::error::Result;
use clap::Args;

#[derive(Args)]
pub struct Command {}

impl Command {
    pub fn run(self) -> Result<()> {
        Ok(())
    }
}
