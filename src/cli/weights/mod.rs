//! `weights`: what is in a weight file.

use clap::Args;

#[derive(Args)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

impl Command {
    pub fn run(self) -> crate::error::Result<()> {
        self.action.run()
    }
}

commands! { Action:
    /// Show what is inside a weight file or a checkpoint.
    Inspect => inspect,
}
