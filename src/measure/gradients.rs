//! Is the gradient of a training step the derivative of its loss? In float64, by the definition of every op.

use super::model::ResolvedModel;
use crate::device::Session;
use crate::error::{Error, Result, option};
use crate::experiment::Events;
use crate::experiment::events::tell;
use crate::table::text_table;
use crate::train::gradcheck::{Amount, Checked, Subject, TOLERANCE};
use crate::train::network::Task;
use serde::Serialize;

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many elements of every tensor; smaller tensors whole.
    Elements(usize),
    /// So many random directions through all weights.
    Directions(usize),
}

/// The gradient of a training step beside differences of its loss.
#[derive(Serialize)]
pub struct GradientCheck {
    model: String,
    task: Task,
    batch: usize,
    seed: u64,
    tolerance: f64,
    checked: usize,
    kinks: usize,
    wrong: usize,
    passed: bool,
    pub results: Vec<Checked>,
}

/// Checks a model's step at a batch; `seed` decides masks and what is checked.
///
/// # Errors
/// Threads that do not start, or a stop; a wrong gradient is a result.
pub fn check(
    model: &ResolvedModel,
    extent: Extent,
    batch: usize,
    seed: u64,
    threads: Option<usize>,
    events: &dyn Events,
) -> Result<GradientCheck> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .build()
        .map_err(|e| Error::job(format!("cannot start threads: {e}")).fix(format!("lower {}", option("threads"))))?;
    let results = pool.install(|| {
        let fill = |s: &mut Session| model.fill(s);
        let step = Subject::new(model.blueprint(batch)?, model.trained().then_some(&fill), seed)?;
        match extent {
            Extent::Elements(elements) => step.elements(Amount { elements, seed }, events),
            Extent::Directions(n) => {
                let image = option("image");
                tell!(
                    events,
                    "one gradient in float64, then differences of the loss: slow, and slower on a larger {image}"
                );
                step.directions(n, seed, &|seconds, losses| {
                    let all = seconds * losses as f64;
                    tell!(events, "one loss takes {seconds:.1} s: {losses} of them about {all:.0} s");
                })
            }
        }
    })?;
    let sum = |f: &dyn Fn(&Checked) -> usize| results.iter().map(f).sum();
    Ok(GradientCheck {
        model: model.name.clone(),
        task: model.task.clone(),
        batch,
        seed,
        tolerance: TOLERANCE,
        checked: sum(&|c| c.checked),
        kinks: sum(&|c| c.kinks),
        wrong: sum(&|c| c.wrong),
        passed: results.iter().all(Checked::passed),
        results,
    })
}

impl GradientCheck {
    /// The table for people.
    pub fn text(&self) -> String {
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
