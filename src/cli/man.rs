//! `man`: the manual, made from the same declarations as `--help`.

use super::{Cli, output};
use crate::atomic;
use crate::error::{Error, Result};
use clap::{Args, CommandFactory};
use clap_mangen::Man;
use std::fs;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Write a page for each command into this folder, such as ~/.local/share/man/man1, instead of printing the first.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let mut program = Cli::command();
        program.build();
        let Some(dir) = self.out else {
            return output::print(&page(&program));
        };
        fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, "create the folder", e))?;
        let all = pages(&program);
        for (name, text) in &all {
            atomic::write(dir.join(format!("{name}.1")), |w| w.write_all(text.as_bytes()))?;
        }
        remark!("wrote {} pages to {}", all.len(), dir.display());
        Ok(())
    }
}

/// The page of a command in the language of man.
fn page(command: &clap::Command) -> String {
    let mut text = vec![];
    Man::new(command.clone()).render(&mut text).expect("memory does not fail");
    String::from_utf8_lossy(&text).into_owned()
}

/// Name and page of a command and of all under it: `deep-affect-weights-import`.
fn pages(command: &clap::Command) -> Vec<(String, String)> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let own = (name.to_string(), page(command));
    let under = command.get_subcommands().filter(|c| c.get_name() != "help").flat_map(pages);
    std::iter::once(own).chain(under).collect()
}
