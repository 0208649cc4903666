//! Parse, run, exit code.

use clap::Parser;
use clap::error::ErrorKind;
use deep_affect::cli::{Cli, exit_code, watch_devices, watch_signals};
use deep_affect::mapped;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        // What is wrong with a value is one line; clap adds where to find help.
        Err(e) if e.kind() == ErrorKind::ValueValidation => {
            let _ = writeln!(std::io::stderr(), "{}", e.to_string().lines().next().unwrap_or_default());
            return ExitCode::from(2);
        }
        other => other.unwrap_or_else(|e| e.exit()),
    };
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
