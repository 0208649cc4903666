//! `cross-validate`: one model per fold, judged on the pictures it has not seen.

use super::deal::{Dealt, FoldFlags};
use super::job::Job;
use super::output::clean;
use super::preset::Preselected;
use super::{command_line, output};
use crate::atomic;
use crate::data::folds;
use crate::error::Result;
use crate::report::classes::{self, ClassOutcome};
use crate::report::folder::{About, Outcome, write_folder};
use crate::train::classified::Classified;
use crate::train::family::Family;
use crate::train::folds::FoldMetrics;
use crate::train::solved::check_classes;
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
        let flags = &self.flags.0;
        flags.check_weights()?;
        self.deal.check()?;
        let mut job = Job::of_flags(&self.manifest, &self.out, flags)?;
        let asked = self.deal.asked(flags.train.seed);
        let Dealt { fold, k, kept: kind, warning } = asked.deal(&self.manifest, &job.manifest)?;
        if let Some(warning) = &warning {
            remark!("warning: {warning}");
        }
        if job.tells_classes() {
            let remarks = check_classes(&job.config.classes, &job.y, &fold, k).map_err(|e| e.as_usage())?;
            remarks.iter().for_each(|r| remark!("{}", clean(r)));
        }
        folds::write(self.out.join("folds.csv"), &job.manifest, &fold)?;
        let mut models = vec![];
        let (n, k_classes) = (job.config.targets.len(), job.config.classes.len());
        let mut predicted = vec![f32::NAN; fold.len() * n];
        let mut probabilities = vec![f32::NAN; fold.len() * k_classes];
        // What always answering the mean of a fold's training pictures says of the others.
        let mut answers = vec![f64::NAN; fold.len() * n];
        let (mut per_fold, mut told_apart) = (vec![], vec![]);
        for f in 0..k {
            let pick = |inside: bool| (0..fold.len()).filter(|&i| (fold[i] == f) == inside).collect::<Vec<_>>();
            let (test, rest) = (pick(true), pick(false));
            let [train, val] = job.hold_out(&rest, &test)?;
            let kept = self.keep_models.then(|| self.out.join(format!("fold-{}.safetensors", folds::number(f))));
            let (mut net, state, _) =
                job.run([&train, &val], &format!("fold {} of {k}", f + 1), kept.as_deref(), false)?;
            kept.as_deref().map_or(Ok(()), atomic::forget_previous)?;
            models.extend(kept);
            let y = job.predict(&mut net, &test)?;
            job.recycle(net);
            if job.tells_classes() {
                for (&i, y) in test.iter().zip(y.probabilities.chunks_exact(k_classes)) {
                    probabilities[i * k_classes..(i + 1) * k_classes].copy_from_slice(y);
                }
                let truth: Vec<usize> = test.iter().map(|&i| job.y[i]).collect();
                let measured = Classified::of(&job.config.classes, &truth, &y.probabilities);
                remark!("fold {} of {k}: {} epochs, {}", f + 1, state.epoch, measured.line());
                told_apart.push(measured);
            }
            if !job.rates() {
                continue;
            }
            let y = y.ratings;
            let metrics = job.measure(&test, &y, &train)?;
            let mse: Vec<String> =
                metrics.dimensions.iter().map(|d| format!("{} {:.3}", d.name, d.model.mse)).collect();
            remark!("fold {} of {k}: {} epochs, test MSE {}", f + 1, state.epoch, mse.join(", "));
            let means = job.means(&train);
            for (&i, y) in test.iter().zip(y.chunks_exact(n)) {
                predicted[i * n..(i + 1) * n].copy_from_slice(y);
                answers[i * n..(i + 1) * n].copy_from_slice(&means);
            }
            per_fold.push(metrics);
        }
        let numbers: Vec<u32> = fold.iter().map(|f| folds::number(*f)).collect();
        let how = match job.rates() {
            false => format!("Every picture was told by the model of a fold that had not seen it ({kind})."),
            true => format!(
                "Every picture was predicted by the model of a fold that had not seen it ({kind}). Means over folds come \
                 first; what is called pooled is over the pictures of all folds at once."
            ),
        };
        if let Some(leak) = job.leak() {
            remark!("warning: {leak}");
        }
        let monitored = if job.leak().is_some() { fold.len() } else { 0 };
        let about = About {
            title: format!("{k}-fold cross-validation, {kind}"),
            command: command_line(),
            device: job.device_name.clone(),
            facts: vec![("Seed".into(), flags.train.seed.to_string())],
            notes: job.leak().into_iter().chain(warning).chain([how]).chain(job.left_out()).collect(),
            history: &[],
            manifest: &job.manifest,
            folds: Some(&numbers),
            seen: Some([0, monitored]),
        };
        if job.tells_classes() {
            let (about, classes, probabilities) = (about.clone(), &job.config.classes[..], &probabilities[..]);
            let outcome = ClassOutcome { about, classes, truth: &job.y, probabilities, over_folds: &told_apart };
            let dir = classes::folder(&self.out, job.rates());
            let measured = classes::write(&dir, &outcome)?;
            output::print(&format!("{}\n", measured.line()))?;
            remark!("wrote predictions.csv, confusion.csv, metrics.json and report.html to {}", dir.display());
            if !job.rates() {
                return Ok(());
            }
        }
        let all = FoldMetrics::of(&per_fold)?;
        let outcome = Outcome {
            about,
            pictures: &job.pictures,
            squares: None,
            predicted: &predicted,
            train_mean: &answers,
            over_folds: Some(&all),
        };
        let metrics = write_folder(&self.out, &outcome)?;
        if let Some(remark) = metrics.beyond() {
            remark!("warning: {remark}");
        }
        let json = serde_json::to_string_pretty(&all).expect("plain data");
        atomic::write(self.out.join("folds.json"), |w| w.write_all(json.as_bytes()))?;
        Family::write(&self.out, &models)?;
        output::print(&all.table())?;
        remark!("wrote folds.csv, folds.json, predictions.csv, metrics.json and report.html to {}", self.out.display());
        Ok(())
    }
}
