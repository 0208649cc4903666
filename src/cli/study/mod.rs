//! `study`: what a paper says about several models at once.

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
    /// Tell which of several cross-validations is better: paired t-tests over their common folds.
    Compare => compare,
}
