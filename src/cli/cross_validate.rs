//! `cross-validate`: one model per fold, judged on the pictures it has not seen.

use super::deal::FoldFlags;
use super::preset::Preselected;
use super::{output, to};
use crate::error::Result;
use crate::experiment::Trainer;
use crate::report::classes;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures and ratings (see `import`).
    manifest: PathBuf,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    deal: FoldFlags,
    /// Keep the model of each fold as fold-N.safetensors: `predict --model DIR` averages them, and knows from
    /// predictions.csv how wrong they were.
    #[arg(long)]
    keep_models: bool,
    #[command(flatten)]
    flags: Preselected,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let mut trainer = Trainer::new(self.manifest, &self.out);
        (trainer.run, trainer.output) = (self.flags.0, to(&self.out));
        let folds = self.deal.asked(trainer.run.train.seed);
        let found = trainer.cross_validate(&folds, self.keep_models)?;
        if let Some(classified) = &found.classes {
            output::print(&format!("{}\n", classified.line()))?;
            let dir = classes::folder(&self.out, found.ratings.is_some());
            remark!("wrote predictions.csv, confusion.csv, metrics.json and report.html to {}", dir.display());
        }
        if let Some(all) = &found.ratings {
            output::print(&all.table())?;
            remark!(
                "wrote folds.csv, folds.json, predictions.csv, metrics.json and report.html to {}",
                self.out.display()
            );
        }
        Ok(())
    }
}
