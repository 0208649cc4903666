//! `cross-validate`: one model per fold, judged on the pictures it has not seen.

use super::Output;
use super::config::Run;
use super::deal::{Dealt, FoldPlan};
use super::events::tell;
use super::run::{Job, trained};
use crate::atomic;
use crate::data::folds;
use crate::error::{Result, line};
use crate::report::classes::{self, ClassOutcome};
use crate::report::folder::{About, Outcome, write_folder};
use crate::train::classified::Classified;
use crate::train::family::Family;
use crate::train::folds::FoldMetrics;
use crate::train::solved::check_classes;
use serde::Serialize;
use std::path::Path;

/// What the models of all folds are worth.
#[derive(Clone, Debug, Serialize)]
pub struct CrossValidated {
    /// Of ratings, fold by fold.
    pub ratings: Option<FoldMetrics>,
    /// Of classes, over the pictures of all folds.
    pub classes: Option<Classified>,
}

/// Trains the model of every fold and reports.
pub(super) fn cross_validate(
    manifest: &Path,
    run: &Run,
    asked: &FoldPlan,
    keep_models: bool,
    output: &Output,
) -> Result<CrossValidated> {
    let (out, events) = (&output.folder, &*output.events);
    run.model.check_weights()?;
    asked.check()?;
    let mut job = Job::of(manifest, run, output)?;
    let Dealt { fold, k, kept: kind, warning } = asked.deal(manifest, &job.manifest, events)?;
    if let Some(warning) = &warning {
        tell!(events, "warning: {warning}");
    }
    if job.tells_classes() {
        let remarks = check_classes(&job.config.classes, &job.y, &fold, k).map_err(|e| e.as_usage())?;
        remarks.iter().for_each(|r| tell!(events, "{}", line(r)));
    }
    folds::write(out.join("folds.csv"), &job.manifest, &fold)?;
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
        let kept = keep_models.then(|| out.join(format!("fold-{}.safetensors", folds::number(f))));
        let (mut net, state, _) = job.run([&train, &val], &format!("fold {} of {k}", f + 1), kept.as_deref(), false)?;
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
            tell!(events, "fold {} of {k}: {}{}", f + 1, trained(state.epoch), measured.line());
            told_apart.push(measured);
        }
        if !job.rates() {
            continue;
        }
        let y = y.ratings;
        let metrics = job.measure(&test, &y, &train)?;
        let mse: Vec<String> = metrics.dimensions.iter().map(|d| format!("{} {:.3}", d.name, d.model.mse)).collect();
        tell!(events, "fold {} of {k}: {}test MSE {}", f + 1, trained(state.epoch), mse.join(", "));
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
        tell!(events, "warning: {leak}");
    }
    let monitored = if job.leak().is_some() { fold.len() } else { 0 };
    let about = About {
        title: format!("{k}-fold cross-validation, {kind}"),
        command: output.command.clone(),
        device: job.device_name.clone(),
        facts: vec![("Seed".into(), run.train.seed.to_string())],
        notes: job.leak().into_iter().chain(warning).chain([how]).chain(job.left_out()).collect(),
        history: &[],
        manifest: &job.manifest,
        folds: Some(&numbers),
        seen: Some([0, monitored]),
    };
    let mut classes = None;
    if job.tells_classes() {
        let (about, names, probabilities) = (about.clone(), &job.config.classes[..], &probabilities[..]);
        let outcome = ClassOutcome { about, classes: names, truth: &job.y, probabilities, over_folds: &told_apart };
        classes = Some(classes::write(&classes::folder(out, job.rates()), &outcome)?);
    }
    if !job.rates() {
        return Ok(CrossValidated { ratings: None, classes });
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
    let metrics = write_folder(out, &outcome)?;
    if let Some(remark) = metrics.beyond() {
        tell!(events, "warning: {remark}");
    }
    let json = serde_json::to_string_pretty(&all).expect("plain data");
    atomic::write(out.join("folds.json"), |w| w.write_all(json.as_bytes()))?;
    Family::write(out, &models)?;
    Ok(CrossValidated { ratings: Some(all), classes })
}
