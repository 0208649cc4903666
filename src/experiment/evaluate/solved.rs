//! A model that was solved for on tables of features, against the ratings or the classes of a manifest.

use super::Evaluation;
use crate::atomic;
use crate::data::Manifest;
use crate::data::features_table::{FeatureTable, Joined, joined};
use crate::data::table::csv_line;
use crate::error::{Error, Result, option};
use crate::experiment::events::tell;
use crate::experiment::prediction::from_tables::wants_tables;
use crate::report::folder::prepare;
use crate::solve::model::SolvedModel;
use crate::train::confusion::Confusion;
use crate::train::metrics::{Measured, Metrics};
use serde_json::json;

/// What was measured on tables.
pub struct EvaluatedTables {
    /// The contents of metrics.json.
    pub json: String,
    /// The same for people.
    pub text: String,
}

impl Evaluation {
    /// Measures `model`, of the evaluation's file, on tables of the manifest's features. Where there is a folder it gets
    /// predictions.csv and metrics.json, and of classes confusion.csv.
    ///
    /// # Errors
    /// Tables and columns that do not fit the model or the manifest.
    pub fn of_tables(&self, model: &SolvedModel, tables: &[String]) -> Result<EvaluatedTables> {
        let (label, map) = (option("label"), self.map()?);
        if tables.is_empty() {
            return Err(wants_tables(&self.model, model).as_usage());
        }
        let tables = tables.iter().map(|t| FeatureTable::named(t)).collect::<Result<Vec<_>>>()?;
        let features = |manifest: &Manifest| {
            let Joined { columns, values } = joined(&tables, manifest)?;
            model.fits(&columns)?;
            Ok(values)
        };
        if let Some(out) = &self.out {
            prepare(out)?;
        }
        match (&self.label, model.classifies) {
            (Some(_), false) => {
                Err(Error::usage(format!("{label}: the model predicts ratings")).fix(format!("leave out {label}")))
            }
            (None, true) => Err(Error::usage("the model tells classes apart")
                .fix(format!("name the column of class names with {label}"))),
            (None, false) => self.solved_ratings(model, &features),
            (Some(column), true) => {
                let (manifest, truth) = self.labelled(&self.rows(&[])?, column, &map, &model.names)?;
                self.solved_classes(model, &manifest, &truth, &features)
            }
        }
    }

    fn solved_ratings(
        &self,
        model: &SolvedModel,
        features: &dyn Fn(&Manifest) -> Result<Vec<f32>>,
    ) -> Result<EvaluatedTables> {
        let which = self.which(&model.names)?;
        let names: Vec<&str> = which.iter().map(|&t| model.names[t].as_str()).collect();
        let manifest = self.rows(&names)?;
        if model.train_mean.len() != model.names.len() {
            return Err(Error::file(&self.model, "does not say the mean of what it learned from").fix("fit it again"));
        }
        let (x, all) = (features(&manifest)?, (0..manifest.rows.len()).collect::<Vec<usize>>());
        let said = model.ratings(&x, &all);
        let pick = |y: &[f64]| which.iter().map(|&t| y[t]).collect::<Vec<f64>>();
        let predicted: Vec<f64> = said.chunks_exact(model.names.len()).flat_map(pick).collect();
        let truth: Vec<f64> = manifest.rows.iter().flat_map(|r| &r.targets).map(|t| f64::from(*t)).collect();
        let weight: Vec<f64> = manifest.rows.iter().map(|r| r.weight.into()).collect();
        let train_mean = pick(&model.train_mean);
        let metrics = Metrics::measure(&Measured {
            names: &names,
            truth: &truth,
            predicted: &predicted,
            train_mean: &train_mean,
            weight: &weight,
        })?;
        if let Some(remark) = metrics.beyond() {
            tell!(self.events, "warning: {remark}");
        }
        let head = names.iter().flat_map(|n| [format!("{n}_true"), format!("{n}_predicted")]);
        let row = |i: usize| {
            let at = i * names.len()..(i + 1) * names.len();
            let pairs = truth[at.clone()].iter().zip(&predicted[at]);
            pairs.flat_map(|(t, p)| [*t as f32, *p as f32].map(|x| x.to_string())).collect()
        };
        self.keep(&manifest, head.collect(), &row)?;
        let json = format!("{:#}\n", json!({ "scale": "1 to 9", "n_pictures": metrics.n, "metrics": metrics }));
        self.told(metrics.table(), json)
    }

    fn solved_classes(
        &self,
        model: &SolvedModel,
        manifest: &Manifest,
        truth: &[usize],
        features: &dyn Fn(&Manifest) -> Result<Vec<f32>>,
    ) -> Result<EvaluatedTables> {
        let x = features(manifest)?;
        let taken = model.classes(&x, &(0..truth.len()).collect::<Vec<usize>>());
        let confusion = Confusion::of(&model.names, truth.iter().copied().zip(taken.iter().copied()));
        let [accuracy, over_classes] =
            [confusion.accuracy(), confusion.class_accuracy()].map(|a| a.unwrap_or(f64::NAN));
        let row = |i: usize| [truth[i], taken[i]].map(|c| model.names[c].clone()).to_vec();
        self.keep(manifest, ["class_true", "class_predicted"].map(String::from).to_vec(), &row)?;
        if let Some(out) = &self.out {
            atomic::write(out.join("confusion.csv"), |w| w.write_all(confusion.csv().as_bytes()))?;
        }
        let json = json!({
            "n_pictures": truth.len(),
            "accuracy_percent": accuracy,
            "class_accuracy_percent": over_classes,
            "classes": model.names,
            "confusion": confusion.rows().collect::<Vec<_>>(),
        });
        let json = format!("{json:#}\n");
        self.told(format!("{accuracy:.1} % of {} right, {over_classes:.1} % over classes\n", truth.len()), json)
    }

    /// Writes predictions.csv, if there is a folder for it.
    fn keep(&self, manifest: &Manifest, head: Vec<String>, row: &dyn Fn(usize) -> Vec<String>) -> Result<()> {
        let Some(out) = &self.out else { return Ok(()) };
        let mut text = csv_line([vec!["path".to_string()], head].concat());
        for (i, r) in manifest.rows.iter().enumerate() {
            text += &csv_line([vec![r.path.clone()], row(i)].concat());
        }
        atomic::write(out.join("predictions.csv"), |w| w.write_all(text.as_bytes()))
    }

    /// Writes metrics.json last: where it is, the rest is too.
    fn told(&self, text: String, json: String) -> Result<EvaluatedTables> {
        if let Some(out) = &self.out {
            atomic::write(out.join("metrics.json"), |w| w.write_all(json.as_bytes()))?;
            tell!(self.events, "wrote predictions.csv and metrics.json to {}", out.display());
        }
        Ok(EvaluatedTables { json, text })
    }
}
