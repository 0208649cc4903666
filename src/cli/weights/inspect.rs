//! `weights inspect`: what is inside a weight file or a checkpoint.

use crate::bundled;
use crate::cli::output::{self, clean};
use crate::error::{Error, Result};
use crate::preprocess::sides;
use crate::train::checkpoint::{self, Card};
use crate::train::network::Task;
use crate::weights::WeightFile;
use crate::weights::import::Foreign;
use crate::weights::inspect;
use clap::Args;
use std::fmt::Write;
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
        out.push_str(&describe(&card));
        output::print_table(&out, self.wide)
    }
}

fn describe(card: &Card) -> String {
    let mut out = String::from("checkpoint:\n");
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<12} {}", clean(&value));
    };
    let towers = |frozen: &[String], config: &crate::models::Config| {
        let one = |t: &crate::models::Tower| {
            let frozen = if frozen.contains(&t.name) { ", frozen" } else { "" };
            let base = t.base;
            let width = if t.width == 1 { String::new() } else { format!(" at 1/{} width", t.width) };
            let side = t.image.map_or(String::new(), |s| format!(" at {s} pixels"));
            let face = t.crop.map_or(String::new(), |c| format!(" of the face box and {} % around it", c.margin));
            format!("{} ({base}{width}, {} classes, {}{side}{face}{frozen})", t.name, t.classes, t.preprocess.name())
        };
        config.towers.iter().map(one).collect::<Vec<_>>().join("; ")
    };
    let model = match &card.task {
        Task::EndToEnd { config, frozen } => Some(("pictures to ratings, end to end", config, frozen.as_slice())),
        Task::Head { config } => Some(("pictures to ratings, towers frozen", config, [].as_slice())),
        Task::Tower { tower, image } => {
            line("task", format!("tower `{}`: pictures to {} classes", tower.name, tower.classes));
            line("image", format!("{image} pixels, {}", tower.preprocess.name()));
            line("classes", card.classes.join(", "));
            None
        }
        Task::Classifier { network, width, classes, image } => {
            let width = if *width == 1 { String::new() } else { format!(" at 1/{width} width") };
            line("task", format!("{network}{width}: pictures of {image} pixels to {classes} classes"));
            line("classes", card.classes.join(", "));
            None
        }
    };
    if let Some((task, config, frozen)) = model {
        line("task", task.into());
        line("targets", format!("{} (1 to 9)", config.targets.join(", ")));
        line("network", format!("{:?}, {:?} outputs", config.architecture, config.out_act).to_lowercase());
        line("towers", towers(frozen, config));
        let head: Vec<String> = config.head.iter().map(usize::to_string).collect();
        let heads =
            if config.heads == 1 { String::new() } else { format!(", the mean of {} such heads", config.heads) };
        line("head", format!("{} features, hidden {}{heads}", config.features(), head.join("-")));
        line("image", format!("{} pixels; transparency: {:?}", sides(&config.views()), card.alpha).to_lowercase());
        let means = config.targets.iter().zip(&card.train_mean).map(|(t, m)| format!("{t} {m:.3}"));
        line("train mean", means.collect::<Vec<_>>().join(", "));
    }
    let state = &card.state;
    let done = if state.finished { "finished" } else { "not finished: `train --resume` goes on" };
    line("epochs", format!("{} of at most {}, {done}", state.epoch, card.settings.epochs));
    if let Some(e) = state.history.last() {
        let val = e.val_loss.map_or(String::new(), |v| format!(", validation {v:.4}"));
        line("last loss", format!("training {:.4}{val}, rate {:.1e}", e.train_loss, e.lr));
    }
    line("made by", card.made_by.clone());
    out
}
