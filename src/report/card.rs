//! What a checkpoint says of itself, in words.

use crate::error::clean;
use crate::models::{Config, Tower};
use crate::preprocess::sides;
use crate::train::checkpoint::Card;
use crate::train::network::Task;
use std::fmt::Write;

/// A line for each fact, under `checkpoint:`.
pub fn text(card: &Card) -> String {
    let mut out = String::from("checkpoint:\n");
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<12} {}", clean(&value));
    };
    let towers = |frozen: &[String], config: &Config| {
        let one = |t: &Tower| {
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
