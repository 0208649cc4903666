//! `study init`: a study as a file to be edited, the paper's grid or a small one.

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
    /// A small study instead of the paper's: heads on the bundled VGG16, for one manifest and without a weight file.
    #[arg(long)]
    small: bool,
}

/// The study of Parry & Vuong 2021.
pub const EXAMPLE: &str = include_str!("example.toml");

/// Three heads on the bundled tower.
pub const SMALL: &str = include_str!("small.toml");

impl Command {
    pub fn run(self) -> Result<()> {
        if self.file.exists() {
            return Err(Error::file(&self.file, "is there already").fix("remove it, or name another file").as_usage());
        }
        let text = if self.small { SMALL } else { EXAMPLE };
        atomic::write(&self.file, |w| w.write_all(text.as_bytes()))?;
        output::print(&format!(
            "wrote {file}: edit its paths, then `deep-affect study run {file} --out DIR`\n",
            file = self.file.display()
        ))
    }
}
