//! `licenses`: under which terms the program, what it holds and what it links may be used.

use super::output;
use crate::bundled;
use crate::error::Result;
use clap::Args;

#[derive(Args)]
pub struct Command {}

const LINKED: &str = include_str!("../../THIRD-PARTY-NOTICES");

impl Command {
    pub fn run(self) -> Result<()> {
        let rule = "=".repeat(80);
        let parts = [bundled::NOTICE, bundled::WEIGHTS_NOTICE, bundled::CLASSES_NOTICE, LINKED].map(str::trim_end);
        output::print(&format!(
            "deep-affect {}: {}\nThe program's own code: MIT or Apache-2.0, as you like. What it holds and links follows.\n\n{rule}\n{}\n",
            crate::VERSION,
            env!("CARGO_PKG_LICENSE"),
            parts.join(&format!("\n\n{rule}\n"))
        ))
    }
}
