//! `predict`: ratings of pictures, as a table for people or as lines for programs.

use super::reading::{ReadingFlags, batch};
use super::{Bar, Compute, output, terminal};
use crate::atomic;
use crate::error::{Error, Result};
use crate::experiment::ensemble::ModelChoice;
use crate::experiment::prediction::from_tables::{self, Looked};
use crate::experiment::prediction::{AnswerFormat, Destination, Explanation, Inputs, Predicting, Shard};
use crate::progress::Progress;
use crate::solve::model as solve;
use crate::train::gradcam::{Sign, Target};
use crate::train::network::Precision;
use clap::{Args, ValueEnum, value_parser};
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Pictures, folders (searched through, in sorted order), or - for one picture on stdin.
    #[arg(required_unless_present_any = ["tables", "list", "tar"], value_name = "FILES")]
    inputs: Vec<PathBuf>,
    /// Instead of FILES a list of pictures, one path a line; - is stdin, each line of which is answered when it comes, until
    /// stdin ends. Then pictures that cannot be used have their rows, and do not count in the exit code.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["inputs", "tables", "tar"])]
    list: Option<PathBuf>,
    /// Instead of FILES tar archives, such as WebDataset's, whose pictures are decoded where they lie; - is one on stdin.
    #[arg(long, value_name = "FILES", num_args = 1.., conflicts_with_all = ["inputs", "tables", "boxes"])]
    tar: Vec<PathBuf>,
    /// Only part I of N of the pictures, which follows from their names: each is in one part. `auto` takes I and N from the
    /// environment of a task of Slurm, SGE, MPI or torchrun.
    #[arg(long, value_name = "I/N|auto", value_parser = Shard::parse, conflicts_with = "tables")]
    shard: Option<Shard>,
    /// Of a model of `fit`: tables of features (see `features --table`) as `fit` was given them, instead of pictures;
    /// repeatable.
    #[arg(long = "table", value_name = "FILE", conflicts_with = "inputs")]
    tables: Vec<String>,
    /// Of a model of `fit`: the tower that its tables were made with, so that it looks at pictures itself; repeatable.
    #[arg(long = "tower", value_name = "FILE", conflicts_with = "tables")]
    towers: Vec<PathBuf>,
    #[command(flatten)]
    models: ModelsFlags,
    /// Form of the answer. By default that of the ending of --out; a table on a terminal and jsonl elsewhere.
    #[arg(long, value_enum)]
    format: Option<AnswerFormat>,
    /// Write the answer to this file instead of printing it. The file appears when the answer is complete. With --shard a
    /// folder will do (end a new one with /): each part has its own file there, part-I-of-N.csv.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Go on where a run with the same --out was stopped or killed, if there was one. Rows are kept in FILE.part until all are
    /// there, and FILE.json says how they are made.
    #[arg(long, requires = "out", conflicts_with_all = ["explain", "tables"])]
    resume: bool,
    /// Pictures computed at once: costs memory, changes no rating.
    #[arg(long, default_value = "8", value_parser = batch, value_name = "N")]
    batch: usize,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores. On the CPU bf16 and fp16
    /// round the weights of dense layers alone, which are half of the bytes then.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    explain: ExplainFlags,
    #[command(flatten)]
    reading: ReadingFlags,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Args)]
struct ModelsFlags {
    /// Checkpoint of `train`, a model of `fit`, or a folder with checkpoints of `cross-validate --keep-models`; repeatable, and
    /// several checkpoints answer with their mean. Without it the bundled model answers.
    #[arg(long, value_name = "FILE|DIR")]
    model: Vec<PathBuf>,
    /// Level in percent of the interval that errors on held-out pictures give (CV+): of the bundled model, of one that
    /// `weights merge` made, or of one model for each fold (`fold-N.safetensors`) beside predictions.csv.
    #[arg(long, default_value_t = 90, value_parser = value_parser!(u32).range(50..=99), value_name = "PERCENT")]
    interval: u32,
    /// Also the N likeliest classes of each tower, and all of them where a tower has at most ten, such as expressions.
    #[arg(long, value_parser = value_parser!(u32).range(1..=100), value_name = "N")]
    top: Option<u32>,
}

#[derive(Args)]
struct ExplainFlags {
    /// Folder for Grad-CAM: of each picture and tower what the tower looked at, in colour over the photograph, with
    /// index.html that shows all of them, explain.csv that lists them, and the maps themselves as .npy.
    #[arg(long, value_name = "DIR")]
    explain: Option<PathBuf>,
    /// What is explained: a rating, or `class` (the likeliest of each tower), `class:3`, `class:NAME`; repeatable. By
    /// default the class, or all ratings where towers give none.
    #[arg(long, value_name = "TARGET", requires = "explain")]
    target: Vec<Target>,
    /// What raises the target, what lowers it, or both.
    #[arg(long, value_enum, default_value = "+", requires = "explain")]
    sign: Signs,
    /// The convolution to look into, as in `conv5_3` or Keras's `block5_conv3`; by default the last of each tower.
    #[arg(long, value_name = "NAME", requires = "explain")]
    layer: Option<String>,
    /// Manifest with the ratings of some of the pictures, for the captions.
    #[arg(long, value_name = "FILE", requires = "explain")]
    truth: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Signs {
    #[value(name = "+")]
    Plus,
    #[value(name = "-")]
    Minus,
    Both,
}

impl Command {
    /// The pictures that are asked about.
    fn inputs(&self) -> Inputs {
        match &self.list {
            Some(list) => Inputs::List(list.clone()),
            None if !self.tar.is_empty() => Inputs::Archives(self.tar.clone()),
            None => Inputs::Paths(self.inputs.clone()),
        }
    }

    /// The file for the answer, in a form.
    fn out(&self, format: AnswerFormat) -> Result<Option<PathBuf>> {
        let (Some(out), Some(shard)) = (&self.out, self.shard) else { return Ok(self.out.clone()) };
        if out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/") {
            std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create the folder", e))?;
            let ending = match format {
                AnswerFormat::Csv => "csv",
                AnswerFormat::Jsonl => "jsonl",
                AnswerFormat::Json => "json",
                AnswerFormat::Table => "txt",
            };
            return Ok(Some(out.join(shard.file_name(ending))));
        }
        match shard.found {
            true => Err(Error::file(out, "would be written by every task")
                .fix("end it with / to make it a folder, with a file for each of them")
                .as_usage()),
            false => Ok(Some(out.clone())),
        }
    }

    /// What was asked for, or what suits where the answer goes.
    fn format(&self) -> AnswerFormat {
        let ending = self.out.as_ref().map(|p| p.extension().unwrap_or_default().to_string_lossy().to_lowercase());
        self.format.unwrap_or(match ending.as_deref() {
            Some("json") => AnswerFormat::Json,
            Some("jsonl" | "ndjson") => AnswerFormat::Jsonl,
            Some("txt") => AnswerFormat::Table,
            Some(_) => AnswerFormat::Csv,
            None if stdout().is_terminal() => AnswerFormat::Table,
            None => AnswerFormat::Jsonl,
        })
    }

    pub fn run(self) -> Result<()> {
        self.compute.bind_threads();
        let format = self.format();
        let (out, inputs) = (self.out(format)?, self.inputs());
        if let [one] = &self.models.model[..]
            && one.is_file()
            && let Some(model) = solve::of_file(one)?
        {
            if self.resume {
                return Err(Error::usage(
                    "--resume is not for a model of `fit`, which answers when it has seen all pictures",
                )
                .fix("leave it out, and give each of several runs its --shard"));
            }
            let answers = match self.tables.is_empty() {
                false => from_tables::answer(one, &model, &self.tables)?,
                true => {
                    let (compute, events) = (&self.compute.into(), &terminal());
                    let (shard, towers, batch) = (self.shard, &self.towers[..], self.batch);
                    from_tables::look(one, &model, &Looked { inputs: &inputs, shard, towers, batch, compute, events })?
                }
            };
            let text = answers.text(format);
            match &out {
                Some(file) => atomic::write(file, |w| w.write_all(text.as_bytes()))?,
                None => output::print(&text)?,
            }
            return answers.complete();
        }
        if !self.tables.is_empty() || !self.towers.is_empty() {
            let flag = if self.tables.is_empty() { "--tower" } else { "--table" };
            return Err(
                Error::usage(format!("{flag} is for one model of `fit`")).fix("name it with --model, or name pictures")
            );
        }
        let prediction = Predicting {
            inputs,
            shard: self.shard,
            models: self.models.into(),
            batch: self.batch,
            precision: self.precision,
            explanation: self.explain.asked(),
            reading: (&self.reading).into(),
            compute: self.compute.into(),
            events: terminal(),
        };
        // Answers that scroll by on a terminal are progress enough.
        let bar = Bar::new();
        let progress: &dyn Progress = if out.is_none() && stdout().is_terminal() { &() } else { &bar };
        let mut rows = output::write;
        let to = match &out {
            None => Destination::Rows(&mut rows),
            Some(file) if self.resume => Destination::Resumed(file),
            Some(file) => Destination::File(file),
        };
        prediction.run(format, progress, to)
    }
}

impl From<ModelsFlags> for ModelChoice {
    fn from(f: ModelsFlags) -> Self {
        Self { models: f.model, interval: f.interval, top: f.top.map(|n| n as usize) }
    }
}

impl ExplainFlags {
    fn asked(self) -> Option<Explanation> {
        let signs = match self.sign {
            Signs::Plus => vec![Sign::Plus],
            Signs::Minus => vec![Sign::Minus],
            Signs::Both => vec![Sign::Plus, Sign::Minus],
        };
        let (targets, layer, truth) = (self.target, self.layer, self.truth);
        self.explain.map(|folder| Explanation { folder, targets, signs, layer, truth })
    }
}
