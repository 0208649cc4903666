//! Parse, run, exit code.

use clap::Parser;
use deep_affect::cli::{Cli, exit_code, watch_devices, watch_signals};
use deep_affect::mapped;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    watch_signals();
    mapped::watch();
    watch_devices();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Where it cannot be written the exit code still says it.
            let _ = writeln!(std::io::stderr(), "error: {e}");
            ExitCode::from(exit_code(&e))
        }
    }
}
