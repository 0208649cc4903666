//! `weights inspect`: what is inside a weight file or a checkpoint.

use crate::bundled;
use crate::cli::output;
use crate::error::{Error, Result};
use crate::report::card;
use crate::train::checkpoint;
use crate::weights::WeightFile;
use crate::weights::import::Foreign;
use crate::weights::inspect;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// A weight file of any format, or a checkpoint; `bundled` and `bundled-tower` are those inside the program.
    file: PathBuf,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    wide: output::Wide,
}

impl Command {
    pub fn run(self) -> Result<()> {
        // Only files of ours are checkpoints; any other format is looked into as well.
        let inside = match self.file.to_str().filter(|_| !self.file.exists()) {
            Some("bundled") => bundled::model(),
            Some("bundled-tower") => bundled::tower(),
            _ => None,
        };
        let name = self.file.to_string_lossy();
        let foreign = match inside {
            Some(bytes) => Foreign::from_static(&name, bytes)?,
            None => Foreign::open(&self.file)?,
        };
        let checkpoint = foreign.notes().contains_key(checkpoint::CARD);
        let file = || match inside {
            Some(bytes) => WeightFile::from_static(&name, bytes),
            None => WeightFile::open(&self.file),
        };
        let card = if checkpoint { Some(checkpoint::card(&*file()?)?) } else { None };
        if self.json {
            let mut value = inspect::json(foreign)?;
            // Of the pictures their number: a large set would fill the screen.
            let card = card.map(|mut card| {
                for all in [&mut card.origin.trained, &mut card.origin.monitored] {
                    *all = format!("{} pictures", all.len() / 16);
                }
                card
            });
            value["checkpoint"] = serde_json::to_value(&card)
                .map_err(|e| Error::file(&self.file, format!("its state cannot be shown: {e}")))?;
            return output::print(&format!("{value:#}\n"));
        }
        let text = inspect::text(foreign)?;
        let Some(card) = card else { return output::print_table(&text, self.wide) };
        // The card says the same in words.
        let raw = format!("metadata {}: ", checkpoint::CARD);
        let mut out: String = text.lines().filter(|l| !l.starts_with(&raw)).map(|l| format!("{l}\n")).collect();
        out.push_str(&card::text(&card));
        output::print_table(&out, self.wide)
    }
}
