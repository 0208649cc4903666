//! `evaluate` of a model that `fit` wrote, on tables of the manifest's features.

use super::Command;
use crate::atomic;
use crate::cli::output::{self, clean};
use crate::cli::predict;
use crate::data::features_table::{FeatureTable, Joined, joined};
use crate::data::table::quoted;
use crate::data::{LabelMap, Labels, Manifest, labels};
use crate::error::{Error, Result};
use crate::report::folder::prepare;
use crate::solve::model::Model;
use crate::train::confusion::Confusion;
use crate::train::metrics::{Measured, Metrics};
use serde_json::json;

impl Command {
    /// Measures on the pictures of the manifest; with --out also writes predictions.csv and metrics.json, and of classes
    /// confusion.csv.
    pub(super) fn solved(&self, model: &Model) -> Result<()> {
        let map = self.label_map.as_deref().map(LabelMap::read).transpose()?;
        if map.is_some() && self.label.is_none() {
            return Err(Error::usage("--label-map is for the names of --label").fix("name their column with --label"));
        }
        let map = map.unwrap_or_default();
        if self.tables.is_empty() {
            return Err(predict::wants_tables(&self.model, model).as_usage());
        }
        let tables = self.tables.iter().map(|t| FeatureTable::named(t)).collect::<Result<Vec<_>>>()?;
        let features = |manifest: &Manifest| {
            let Joined { columns, values } = joined(&tables, manifest)?;
            model.fits(&columns)?;
            Ok(values)
        };
        if let Some(out) = &self.out {
            prepare(out)?;
        }
        match (&self.label, model.classifies) {
            (Some(_), false) => Err(Error::usage("--label: the model predicts ratings").fix("leave out --label")),
            (None, true) => {
                Err(Error::usage("the model tells classes apart").fix("name the column of class names with --label"))
            }
            (None, false) => self.solved_ratings(model, &features),
            (Some(column), true) => {
                let manifest = self.rows(&[])?;
                let asked = labels::Asked { column, map: &map, least: 1 };
                let labels = Labels::among(&manifest, &asked, model.names.clone())?;
                labels.remarks().iter().for_each(|r| remark!("{}", clean(r)));
                if labels.rows().is_empty() {
                    return Err(Error::file(&self.manifest, "names none of the model's classes")
                        .at(format!("column {column}"))
                        .fix(format!(
                            "map its names with --label-map; the classes are {}",
                            clean(&model.names.join(", "))
                        ))
                        .as_usage());
                }
                let truth: Vec<usize> = labels.of.iter().flatten().copied().collect();
                self.solved_classes(model, &manifest.select(&labels.rows()), &truth, &features)
            }
        }
    }

    /// The rows to be measured.
    fn rows(&self, targets: &[&str]) -> Result<Manifest> {
        let manifest = Manifest::read(&self.manifest, targets)?;
        let Some(fold) = self.fold else { return Ok(manifest) };
        let rows: Vec<usize> = (0..manifest.rows.len()).filter(|&i| manifest.rows[i].fold == Some(fold)).collect();
        match rows.is_empty() {
            false => Ok(manifest.select(&rows)),
            true => Err(Error::file(&self.manifest, format!("no row is in fold {fold}"))
                .at("column fold")
                .fix("name a fold that occurs there")
                .as_usage()),
        }
    }

    /// Indices of the measured ratings among the model's.
    fn which(&self, all: &[String]) -> Result<Vec<usize>> {
        let find = |t: &String| {
            all.iter().position(|a| a == t).ok_or_else(|| {
                Error::file(&self.model, format!("does not predict `{t}`"))
                    .fix(format!("choose from {}", all.join(", ")))
                    .as_usage()
            })
        };
        if self.targets.is_empty() { Ok((0..all.len()).collect()) } else { self.targets.iter().map(find).collect() }
    }

    fn solved_ratings(&self, model: &Model, features: &dyn Fn(&Manifest) -> Result<Vec<f32>>) -> Result<()> {
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
            remark!("warning: {remark}");
        }
        let head = names.iter().flat_map(|n| [format!("{n}_true"), format!("{n}_predicted")]);
        let row = |i: usize| {
            let at = i * names.len()..(i + 1) * names.len();
            let pairs = truth[at.clone()].iter().zip(&predicted[at]);
            pairs.flat_map(|(t, p)| [*t as f32, *p as f32].map(|x| x.to_string())).collect()
        };
        self.keep(&manifest, head.collect(), &row)?;
        let json = format!("{:#}\n", json!({ "scale": "1 to 9", "n_pictures": metrics.n, "metrics": metrics }));
        self.told(if self.json { json.clone() } else { metrics.table() }, &json)
    }

    fn solved_classes(
        &self,
        model: &Model,
        manifest: &Manifest,
        truth: &[usize],
        features: &dyn Fn(&Manifest) -> Result<Vec<f32>>,
    ) -> Result<()> {
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
        let line = format!("{accuracy:.1} % of {} right, {over_classes:.1} % over classes\n", truth.len());
        self.told(if self.json { json.clone() } else { line }, &json)
    }

    /// Writes predictions.csv, if there is a folder for it.
    fn keep(&self, manifest: &Manifest, head: Vec<String>, row: &dyn Fn(usize) -> Vec<String>) -> Result<()> {
        let Some(out) = &self.out else { return Ok(()) };
        let line =
            |cells: Vec<String>| cells.iter().map(|c| quoted(c).into_owned()).collect::<Vec<_>>().join(",") + "\n";
        let mut text = line([vec!["path".to_string()], head].concat());
        for (i, r) in manifest.rows.iter().enumerate() {
            text += &line([vec![r.path.clone()], row(i)].concat());
        }
        atomic::write(out.join("predictions.csv"), |w| w.write_all(text.as_bytes()))
    }

    /// Prints what was measured, and writes metrics.json last: where it is, the rest is too.
    fn told(&self, text: String, json: &str) -> Result<()> {
        if let Some(out) = &self.out {
            atomic::write(out.join("metrics.json"), |w| w.write_all(json.as_bytes()))?;
            remark!("wrote predictions.csv and metrics.json to {}", out.display());
        }
        output::print(&text)
    }
}
