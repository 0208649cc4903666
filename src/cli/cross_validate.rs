//! `cross-validate`: one model per fold, judged on the pictures it has not seen.

use super::job::Job;
use super::preset::Preselected;
use super::{command_line, output};
use crate::atomic;
use crate::data::folds;
use crate::error::{Error, Result};
use crate::report::folder::{Outcome, write_folder};
use crate::train::fit;
use crate::train::folds::FoldMetrics;
use crate::train::metrics::Metrics;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures and ratings (see `import`).
    manifest: PathBuf,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of folds.
    #[arg(long, default_value_t = 5, value_name = "K")]
    folds: u32,
    /// Deal rows out one by one although the manifest has groups: near-duplicates may then be on both sides.
    #[arg(long)]
    ungrouped: bool,
    /// Folds from a file written by an earlier run.
    #[arg(long, value_name = "FILE")]
    fold_file: Option<PathBuf>,
    /// Keep the model of each fold as fold-N.safetensors: `predict --model DIR` averages them, and knows from
    /// predictions.csv how wrong they were.
    #[arg(long)]
    keep_models: bool,
    #[command(flatten)]
    flags: Preselected,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let flags = &self.flags.0;
        flags.check_weights()?;
        let mut job = Job::of_flags(&self.manifest, &self.out, flags)?;
        let groups = job.manifest.groups();
        let grouped = !self.ungrouped && groups.iter().any(Option::is_some);
        let fold = match &self.fold_file {
            Some(f) => folds::read(f, &job.manifest)?,
            None => folds::folds(&groups, self.folds, flags.train.seed, grouped)?,
        };
        folds::write(self.out.join("folds.csv"), &job.manifest, &fold)?;
        let k = fold.iter().max().map_or(0, |m| m + 1);
        let n = job.config.targets.len();
        let mut predicted = vec![f32::NAN; fold.len() * n];
        let mut per_fold = vec![];
        for f in 0..k {
            let pick = |inside: bool| (0..fold.len()).filter(|&i| (fold[i] == f) == inside).collect::<Vec<_>>();
            let (test, rest) = (pick(true), pick(false));
            if test.is_empty() || rest.is_empty() {
                return Err(Error::usage(format!("fold {f} is empty or everything")).fix("choose fewer folds"));
            }
            let [train, val] = job.hold_out(&rest)?;
            let kept = self.keep_models.then(|| self.out.join(format!("fold-{f}.safetensors")));
            let (mut net, state, _) =
                job.run([&train, &val], &format!("fold {} of {k}", f + 1), kept.as_deref(), false)?;
            kept.as_deref().map_or(Ok(()), atomic::forget_previous)?;
            let y = fit::predict(&mut net, &job.samples(), &test)?;
            job.recycle(net);
            let truth: Vec<f32> = test.iter().flat_map(|&i| job.manifest.rows[i].targets.clone()).collect();
            let names: Vec<&str> = job.config.targets.iter().map(String::as_str).collect();
            let metrics = Metrics::of(&names, &truth, &y, &job.means(&rest))?;
            let mse: Vec<String> =
                metrics.dimensions.iter().map(|d| format!("{} {:.3}", d.name, d.model.mse)).collect();
            remark!("fold {} of {k}: {} epochs, test MSE {}", f + 1, state.epoch, mse.join(", "));
            test.iter().zip(y.chunks_exact(n)).for_each(|(&i, y)| predicted[i * n..(i + 1) * n].copy_from_slice(y));
            per_fold.push(metrics);
        }
        let all = FoldMetrics::of(&per_fold)?;
        let rows: Vec<usize> = (0..fold.len()).collect();
        let kind = if grouped { "groups kept together" } else { "random" };
        let outcome = Outcome {
            title: format!("{k}-fold cross-validation, {kind}"),
            command: command_line(),
            device: job.device_name.clone(),
            facts: vec![("Seed".into(), flags.train.seed.to_string())],
            notes: vec![format!(
                "Every picture was predicted by the model of a fold that had not seen it ({kind}). The measures below \
                 are over all pictures; means over folds are in folds.json."
            )],
            history: &[],
            manifest: &job.manifest,
            pictures: &job.pictures,
            squares: None,
            predicted: &predicted,
            folds: Some(&fold),
            train_mean: &job.means(&rows),
        };
        let metrics = write_folder(&self.out, &outcome)?;
        if let Some(remark) = metrics.beyond() {
            remark!("warning: {remark}");
        }
        let json = serde_json::to_string_pretty(&all).expect("plain data");
        atomic::write(self.out.join("folds.json"), |w| w.write_all(json.as_bytes()))?;
        output::print(&all.table())?;
        remark!("wrote folds.csv, folds.json, predictions.csv, metrics.json and report.html to {}", self.out.display());
        Ok(())
    }
}
