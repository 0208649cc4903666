//! `evaluate`: a trained model against the ratings, or the classes, of a manifest.

use super::ranges::{MANY, whole};
use super::reading::{ReadingFlags, batch};
use super::{Compute, output, terminal};
use crate::error::{Error, Result};
use crate::experiment::evaluate::{Evaluated, Evaluation};
use crate::report::classes;
use crate::solve;
use crate::train::network::Precision;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures and ratings (see `import`).
    manifest: PathBuf,
    /// Checkpoint of `train`, or a model of `fit`.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Columns to measure; by default everything the model predicts.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    targets: Vec<String>,
    /// Column of class names, for a model that tells classes apart. Of one that predicts ratings too the report of the classes
    /// is the folder `classes` in --out.
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// What names of --label are called by the model: a CSV with the columns from and to. Names that are none of its classes
    /// are counted and left out.
    #[arg(long, value_name = "FILE")]
    label_map: Option<PathBuf>,
    /// Of a model of `fit`: features of the manifest's pictures, as `fit` was given them; repeatable.
    #[arg(long = "table", value_name = "FILE")]
    tables: Vec<String>,
    /// Only the rows whose `fold` column is N.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), value_name = "N")]
    fold: Option<u32>,
    /// Folder for predictions.csv, metrics.json and report.html.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print metrics.json instead of a table.
    #[arg(long)]
    json: bool,
    /// Pictures computed at once: costs memory, changes no rating.
    #[arg(long, default_value = "8", value_parser = batch, value_name = "N")]
    batch: usize,
    /// Leave out pictures that cannot be read instead of stopping.
    #[arg(long)]
    skip_bad: bool,
    /// Folder for resized pictures, to have them at once next time; by default they are kept in memory.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores. On the CPU bf16 and fp16
    /// round the weights of dense layers alone, which are half of the bytes then.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    reading: ReadingFlags,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let solved = solve::model::of_file(&self.model)?;
        if solved.is_none() && !self.tables.is_empty() {
            return Err(Error::usage("--table: the model looks at pictures").fix("leave it out"));
        }
        let command = self.command();
        let evaluation = Evaluation {
            manifest: self.manifest,
            model: self.model,
            targets: self.targets,
            label: self.label,
            label_map: self.label_map,
            fold: self.fold,
            out: self.out,
            batch: self.batch,
            skip_bad: self.skip_bad,
            cache: self.cache,
            precision: self.precision,
            reading: (&self.reading).into(),
            compute: self.compute.into(),
            command,
            events: terminal(),
        };
        if let Some(model) = solved {
            let found = evaluation.of_tables(&model, &self.tables)?;
            return output::print(if self.json { &found.json } else { &found.text });
        }
        let Evaluated { ratings, classes: told } = evaluation.run()?;
        if let (Some(_), Some(out)) = (&told, &evaluation.out) {
            let dir = classes::folder(out, ratings.is_some());
            remark!("wrote predictions.csv, confusion.csv, report.html and metrics.json to {}", dir.display());
        }
        if let Some((_, metrics)) = &ratings {
            if let Some(remark) = metrics.beyond() {
                remark!("warning: {remark}");
            }
            if !self.json {
                remark!("{}", metrics.legend());
            }
            if let Some(out) = &evaluation.out {
                remark!("wrote predictions.csv, report.html and metrics.json to {}", out.display());
            }
        }
        match (self.json, &ratings, &told) {
            (true, Some((ratings, _)), Some((classes, _))) => output::print(&format!(
                "{{\"ratings\": {},\n\"classes\": {}}}\n",
                ratings.trim_end(),
                classes.trim_end()
            )),
            (true, ratings, told) => {
                let one = ratings.as_ref().map(|r| &r.0).or(told.as_ref().map(|t| &t.0));
                one.map_or(Ok(()), |json| output::print(json))
            }
            (false, ratings, told) => {
                told.as_ref().map_or(Ok(()), |(_, classified)| output::print(&format!("{}\n", classified.line())))?;
                ratings.as_ref().map_or(Ok(()), |(_, metrics)| output::print(&metrics.table()))
            }
        }
    }

    /// Without folders: a report may be passed on.
    fn command(&self) -> String {
        let mut text = format!("deep-affect evaluate --model {} {}", name(&self.model), name(&self.manifest));
        if !self.targets.is_empty() {
            text += &format!(" --targets {}", self.targets.join(","));
        }
        if let Some(label) = &self.label {
            text += &format!(" --label {label}");
        }
        if let Some(f) = self.fold {
            text += &format!(" --fold {f}");
        }
        text
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
