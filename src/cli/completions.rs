//! `completions`: a script for a shell that completes commands and flags.

use super::{Cli, output};
use crate::error::Result;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

#[derive(Args)]
pub struct Command {
    /// The shell: bash, for example, reads it from ~/.local/share/bash-completion/completions/deep-affect.
    shell: Shell,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let mut script = vec![];
        generate(self.shell, &mut Cli::command(), "deep-affect", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}
