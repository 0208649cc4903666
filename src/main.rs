//! Parse, run, exit code.

use clap::Parser;
use deep_affect::cli::{Cli, watch_devices, watch_signals};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    watch_signals();
    watch_devices();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}
