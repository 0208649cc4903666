//! `study init`: the paper's grid as a file to be edited.

use crate::atomic;
use crate::cli::output;
use crate::error::{Error, Result};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// The file to write.
    #[arg(default_value = "study.toml")]
    file: PathBuf,
}

/// The study of Parry & Vuong 2021.
pub const EXAMPLE: &str = include_str!("example.toml");

impl Command {
    pub fn run(self) -> Result<()> {
        if self.file.exists() {
            return Err(Error::file(&self.file, "is there already").fix("remove it, or name another file").as_usage());
        }
        atomic::write(&self.file, |w| w.write_all(EXAMPLE.as_bytes()))?;
        output::print(&format!("wrote {}: edit its paths, then `deep-affect study run`\n", self.file.display()))
    }
}
