//! `gradcheck`: is the gradient of a training step the derivative of its loss? In float64, by the definition of every op.

use super::ranges::{MANY, whole};
use super::reading::{batch, threads};
use super::subject::{Scale, Subject};
use super::{Bar, output};
use crate::error::{Error, Result};
use crate::table::text_table;
use crate::train::gradcheck::{Amount, Checked, Subject as Step, TOLERANCE};
use crate::train::network::Task;
use clap::Args;
use serde::Serialize;

#[derive(Args)]
pub struct Command {
    /// Random directions through all weights at full width, instead of elements of every tensor of a tiny network.
    #[arg(long)]
    full: bool,
    /// Elements checked in each tensor; smaller tensors are checked whole.
    #[arg(long, value_parser = whole::<usize>(1..=MANY), default_value_t = 32, value_name = "N")]
    elements: usize,
    /// Directions checked with --full.
    #[arg(long, value_parser = whole::<usize>(1..=MANY), default_value_t = 2, value_name = "N")]
    directions: usize,
    /// 4 by default, 1 with --full.
    #[arg(long, value_parser = batch, value_name = "N")]
    batch: Option<usize>,
    /// Decides weights, pictures, masks and what is checked.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Threads; all cores by default.
    #[arg(long, value_parser = threads, value_name = "N")]
    threads: Option<usize>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: Subject,
}

#[derive(Serialize)]
struct Report {
    model: String,
    task: Task,
    batch: usize,
    seed: u64,
    tolerance: f64,
    checked: usize,
    kinks: usize,
    wrong: usize,
    passed: bool,
    results: Vec<Checked>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        if self.elements == 0 || self.directions == 0 {
            return Err(Error::usage("--elements and --directions must be at least 1"));
        }
        let chosen = self.model.choose(self.seed, if self.full { Scale::SmallImage } else { Scale::Tiny })?;
        let batch = self.batch.unwrap_or(if self.full { 1 } else { 4 });
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads.unwrap_or(0))
            .build()
            .map_err(|e| Error::job(format!("cannot start threads: {e}")).fix("lower --threads"))?;
        let results = pool.install(|| {
            let fill = |s: &mut crate::device::Session| chosen.fill(s);
            let step = Step::new(chosen.blueprint(batch)?, chosen.trained().then_some(&fill), self.seed)?;
            if !self.full {
                return step.elements(Amount { elements: self.elements, seed: self.seed }, &Bar::new());
            }
            remark!("one gradient in float64, then differences of the loss: slow, and slower on a larger --image");
            step.directions(self.directions, self.seed, &|seconds, losses| {
                remark!("one loss takes {seconds:.1} s: {losses} of them about {:.0} s", seconds * losses as f64);
            })
        })?;
        let sum = |f: &dyn Fn(&Checked) -> usize| results.iter().map(f).sum();
        let report = Report {
            model: chosen.name.clone(),
            task: chosen.task.clone(),
            batch,
            seed: self.seed,
            tolerance: TOLERANCE,
            checked: sum(&|c| c.checked),
            kinks: sum(&|c| c.kinks),
            wrong: sum(&|c| c.wrong),
            passed: results.iter().all(Checked::passed),
            results,
        };
        let json = || serde_json::to_string_pretty(&report).expect("plain data") + "\n";
        output::print(&if self.json { json() } else { report.text() })?;
        let failed: Vec<&Checked> = report.results.iter().filter(|c| !c.passed()).collect();
        match failed.first() {
            None => Ok(()),
            Some(c) if c.wrong == 0 => Err(Error::job(format!("{}: every point lies on a kink", c.name))
                .fix("nothing was compared: try another --seed")),
            Some(c) => {
                let (element, gradient, numeric) = c.worst.expect("a wrong point was compared");
                Err(Error::job(format!(
                    "{} of {} gradients are wrong; {} element {element} is {gradient:e}, and the loss changes at {numeric:e}",
                    failed.len(),
                    report.results.len(),
                    c.name
                )))
            }
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let header = ["parameters", "shape", "checked", "of", "kinks", "largest", "max rel. error", "tolerance", ""]
            .map(String::from);
        let row = |c: &Checked| {
            let shape: Vec<String> = c.shape.iter().map(usize::to_string).collect();
            let result = match c {
                c if c.wrong > 0 => "WRONG",
                c if !c.passed() => "KINKS ONLY",
                c if c.silent() => "pass, all zero",
                _ => "pass",
            };
            vec![
                c.name.clone(),
                if shape.is_empty() { "all".into() } else { shape.join("x") },
                c.checked.to_string(),
                c.elements.to_string(),
                c.kinks.to_string(),
                format!("{:.1e}", c.largest_gradient),
                format!("{:.1e}", c.max_relative_error),
                format!("{TOLERANCE:.0e}"),
                result.into(),
            ]
        };
        let silent = self.results.iter().filter(|c| c.passed() && c.silent()).count();
        let mut text = text_table(&header, &self.results.iter().map(row).collect::<Vec<_>>());
        text += &format!(
            "\n{} at batch {}, seed {}, float64: {} gradients compared with central differences, {} on a kink (no derivative \
             there), {} wrong",
            self.model,
            self.batch,
            self.seed,
            self.checked - self.kinks,
            self.kinks,
            self.wrong
        );
        if silent > 0 {
            text += &format!("; in {silent} tensors every checked gradient is zero, and so is the difference");
        }
        text + "\n"
    }
}
