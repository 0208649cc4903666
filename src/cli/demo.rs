//! `demo`: the main job on the bundled set.

use crate::error::Result;
use clap::Args;

#[derive(Args)]
pub struct Command {}

impl Command {
    pub fn run(self) -> Result<()> {
        Ok(())
    }
}
