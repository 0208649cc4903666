//! Parse, run, exit code.

use clap::Parser;
use clap::error::ErrorKind;
use deep_affect::cli::{Cli, dashed, exit_code, say, watch_devices, watch_signals};
use deep_affect::mapped;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return refused(&e),
    };
    watch_signals();
    mapped::watch();
    watch_devices();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&[&format!("error: {}", dashed(&e))]);
            ExitCode::from(exit_code(&e))
        }
    }
}

/// Help, or what is wrong with the words of the command: those may be names of files.
fn refused(e: &clap::Error) -> ExitCode {
    let text = e.to_string();
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            e.exit()
        }
        // What is wrong with a value is one line; clap adds where to find help.
        ErrorKind::ValueValidation => say(&[text.lines().next().unwrap_or_default()]),
        _ => say(&text.lines().collect::<Vec<_>>()),
    }
    ExitCode::from(2)
}
