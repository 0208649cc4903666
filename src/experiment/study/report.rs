//! The tables and the page of what is done so far.

use super::grid::Grid;
use super::plan;
use crate::atomic;
use crate::data::{DecodeOptions, LoadOptions, Manifest, Pictures, Source, folds};
use crate::error::{Error, Result};
use crate::experiment::config::Compute;
use crate::experiment::events::tell;
use crate::experiment::{faces as networks, trained};
use crate::hash;
use crate::preprocess::{Resize, View};
use crate::report::folder::{THUMBNAIL, thumbnail};
use crate::report::gradcam;
use crate::report::study::page::{self, Extras, Figure};
use crate::report::study::{Model, Predicted, Sheet, Study, classes, sheet, tables};
use crate::report::tables::{Prediction, write_predictions};
use crate::train::cell::{Cell, TEST};
use crate::train::family::Family;
use crate::train::gradcam::{Sign, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Writes every table and the page; returns the tables that were asked for, to be read in a terminal.
pub fn write(grid: &Grid, compute: &Compute, command: &str) -> Result<String> {
    let s = grid.study()?;
    let mut sheets = tables::all(&s);
    let folder = grid.out.join("tables");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create the folder", e))?;
    if let Some(norms) = &grid.plan.norms {
        let (sheet, drawn) = norms.compare(&s.manifest, grid.plan.models[0].run.train.seed)?;
        sheets.push(sheet);
        for (name, svg) in drawn {
            atomic::write(folder.join(name), |w| w.write_all(svg.as_bytes()))?;
        }
    }
    let text = |name: &str, text: &str| atomic::write(grid.out.join(name), |w| w.write_all(text.as_bytes()));
    let markdown: Vec<String> = sheets.iter().map(Sheet::markdown).collect();
    let verdict = tables::verdict(&s);
    let before = |of: &dyn Fn(&str) -> String| -> String {
        grid.kept.1.iter().chain(&grid.left_out).chain(&verdict).map(|v| format!("{}\n\n", of(v))).collect()
    };
    let (first, title) = (before(&str::to_string), sheet::plain(&s.title));
    text("tables.md", &format!("# {title}\n\n{}{}", before(&sheet::plain), markdown.join("\n")))?;
    text("tables.tex", &sheets.iter().map(Sheet::latex).collect::<Vec<_>>().join("\n"))?;
    for sheet in &sheets {
        let csv = sheet.csv();
        atomic::write(folder.join(format!("{}.csv", sheet.key)), |w| w.write_all(&csv))?;
    }
    text("results.csv", &results(&s))?;
    text("tests.csv", &tests(&s))?;
    // Of ratings: intervals rest on these, and the models of the folds answer with their mean.
    for m in s.models.iter().filter(|m| !m.targets.is_empty() && m.cells.iter().all(Option::is_some)) {
        let rated = grid.manifest.rating(&m.targets);
        predictions(&grid.out, &rated, m, TEST)?;
        s.test_sets.iter().try_for_each(|set| predictions(&grid.out, &rated, m, set))?;
        // A family is of models that answer for pictures.
        if grid.plan.models.iter().any(|p| p.name == m.name && p.method.is_some()) {
            continue;
        }
        let kept: Vec<PathBuf> = (0..grid.k).map(|f| grid.checkpoint(&m.name, f)).filter(|p| p.exists()).collect();
        Family::write(&grid.out.join(&m.name), &kept)?;
    }
    for remark in tables::beyond(&s) {
        tell!(grid.events, "warning: {remark}");
    }
    text("report.html", &page::html(&s, &extras(grid, &s, compute, command)?)?)?;
    let asked = sheets.iter().filter(|t| t.key.starts_with("table-")).map(Sheet::text).collect::<Vec<_>>().join("\n");
    Ok(format!(
        "{first}{asked}\nwrote tables.md, tables.tex, tables/, results.csv, tests.csv and report.html to {}\n",
        grid.out.display()
    ))
}

/// Every measure of every cell, one a line.
fn results(s: &Study) -> String {
    let mut csv = csv::Writer::from_writer(vec![]);
    let mut line = |fields: &[&str]| csv.write_record(fields).expect("memory does not fail");
    line(&["model", "fold", "set", "pictures", "target", "measure", "model_value", "baseline_value"]);
    let value = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
    for m in &s.models {
        for c in m.done() {
            let fold = c.fold.to_string();
            for set in &c.sets {
                if let Some(metrics) = &set.metrics {
                    let n = metrics.n.to_string();
                    for d in &metrics.dimensions {
                        for (x, y) in d.model.fields().iter().zip(d.baseline.fields()) {
                            line(&[&c.model, &fold, &set.name, &n, &d.name, x.key, &value(x.value), &value(y.value)]);
                        }
                    }
                }
                if let Some(classified) = &set.classes {
                    let n = classified.n_pictures.to_string();
                    for (key, x, baseline) in classified.fields() {
                        line(&[&c.model, &fold, &set.name, &n, "class", key, &value(Some(x)), &value(baseline)]);
                    }
                }
            }
            // What its ratings tell of the classes.
            if let Some(told) = classes::nearest(s, m, c.fold) {
                let n = told.pictures().to_string();
                for (key, x) in [
                    ("nearest_mean_accuracy_percent", told.accuracy()),
                    ("nearest_mean_class_accuracy_percent", told.class_accuracy()),
                ] {
                    line(&[&c.model, &fold, TEST, &n, "class", key, &value(x), ""]);
                }
            }
        }
    }
    String::from_utf8(csv.into_inner().expect("memory does not fail")).expect("made of text")
}

/// Every comparison, one a line.
fn tests(s: &Study) -> String {
    let mut csv = csv::Writer::from_writer(vec![]);
    let mut line = |fields: &[String]| csv.write_record(fields).expect("memory does not fail");
    let header = "table,model_1,model_2,target,test_mse_1_points2,test_mse_2_points2,t,df,p,p_holm,p_nadeau_bengio,p_nadeau_bengio_holm,n_test_over_n_train,d_z,wrong_1_percent,wrong_2_percent";
    line(&header.split(',').map(String::from).collect::<Vec<_>>());
    for (i, layout) in s.layouts.iter().enumerate() {
        for t in tables::compared(s, layout) {
            let value = |v: Option<f64>| v.filter(|v| v.is_finite()).map_or(String::new(), |v| v.to_string());
            let p = t.paired;
            // Errors of ratings and of classes have a pair of columns each.
            let mean = |rated: bool, i: usize| value(Some(t.means[i]).filter(|_| rated == t.target.is_some()));
            line(&[
                (i + 1).to_string(),
                t.models[0].name.clone(),
                t.models[1].name.clone(),
                t.target.map_or("class".into(), |target| s.targets[target].clone()),
                mean(true, 0),
                mean(true, 1),
                value(p.and_then(|p| p.t)),
                p.map_or(String::new(), |p| p.df.to_string()),
                value(p.and_then(|p| p.p)),
                value(t.p_holm),
                value(p.and_then(|p| p.p_corrected)),
                value(t.p_corrected_holm),
                value(Some(tables::ratio(s))),
                value(p.and_then(|p| p.effect)),
                mean(false, 0),
                mean(false, 1),
            ]);
        }
    }
    String::from_utf8(csv.into_inner().expect("memory does not fail")).expect("made of text")
}

/// A model's predictions on the test parts, or of every fold on a further set, as `study compare` and R read them.
fn predictions(out: &Path, rated: &Manifest, m: &Model, set: &str) -> Result<()> {
    let dataset = |p: &Predicted| rated.rows[p.row].dataset.as_deref();
    let mut mine: Vec<&Predicted> = match set {
        TEST => m.predictions.iter().filter(|p| p.test).collect(),
        _ => m.predictions.iter().filter(|p| !p.test && dataset(p) == Some(set)).collect(),
    };
    mine.sort_by_key(|p| (p.row, p.fold));
    let name = if set == TEST { "predictions.csv".into() } else { format!("predictions-{set}.csv") };
    let targets: Vec<&str> = rated.targets.iter().map(String::as_str).collect();
    let lines = mine.iter().map(|p| Prediction::of(&rated.rows[p.row], Some(folds::number(p.fold)), &p.values));
    let mut bytes = vec![];
    write_predictions(&mut bytes, &targets, lines)?;
    atomic::write(out.join(&m.name).join(name), |w| w.write_all(&bytes))
}

/// What the page shows beside the tables.
fn extras(grid: &Grid, s: &Study, compute: &Compute, command: &str) -> Result<Extras> {
    let rows = page::pictured(s, page::PER_REGION);
    let mut thumbnails = BTreeMap::new();
    if !rows.is_empty() {
        let view = View { side: THUMBNAIL as usize, resize: Resize::CropBilinear, grey: false, crop: None };
        let sources: Vec<Source> = rows.iter().map(|&i| Source::File(grid.manifest.file(i))).collect();
        let options = LoadOptions { views: vec![view], decode: Default::default(), cache_dir: None };
        // A picture that has gone since leaves a caption without one.
        if let Ok(pictures) = Pictures::load(&sources, &options, &()).and_then(|l| l.accept(true)) {
            for (i, &row) in pictures.rows().iter().enumerate() {
                thumbnails.insert(rows[row], thumbnail(pictures.square(i, 0), THUMBNAIL)?);
            }
        }
    }
    let all = grid.plan.models.len() * grid.k as usize;
    let cells: Vec<&Cell> = s.models.iter().flat_map(Model::done).collect();
    let mut notes: Vec<String> =
        grid.kept.1.iter().cloned().chain(tables::verdict(s)).chain(tables::beyond(s)).collect();
    notes.extend(grid.left_out.iter().map(|what| format!("{}.", tables::capital(what))));
    if cells.len() < all {
        notes.push(format!("Not complete: {} of {all} cells are done.", cells.len()));
    }
    let shared = grid.shared();
    if shared > 0 {
        notes.push(format!(
            "{} pictures of {} are left out there: the folds have the same pictures, by their group.",
            shared,
            s.test_sets.join(", ")
        ));
    }
    let lost = s.manifest.rows.len() - seen(s);
    if !s.targets.is_empty() && cells.len() == all && lost > shared {
        notes.push(format!("{} pictures could not be read and were left out: see bad-pictures.csv.", lost - shared));
    }
    let distinct = |of: &dyn Fn(&Cell) -> String| {
        cells.iter().map(|c| of(c)).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; ")
    };
    let minutes = cells.iter().map(|c| c.seconds).sum::<f64>() / 60.0;
    let mut facts = vec![
        ("Command".to_string(), command.to_string()),
        ("Program".into(), distinct(&|c| c.made_by.clone())),
        ("Devices".into(), distinct(&|c| c.device.clone())),
        ("Time of all cells".into(), format!("{minutes:.1} min, features of frozen towers not counted")),
        ("Pictures".into(), format!("{} in {} folds, {}", s.folds.iter().flatten().count(), grid.k, grid.kept.0)),
    ];
    let model = |m: &plan::Model| (format!("Model {}", m.name), format!("{}, seed {}", m.settings, m.run.train.seed));
    facts.extend(grid.plan.models.iter().map(model));
    let weights: BTreeSet<String> = cells
        .iter()
        .flat_map(|c| &c.weights)
        .map(|w| format!("{} ({} bytes), sha256 {}", w.file, w.bytes, w.sha256))
        .collect();
    facts.extend(weights.into_iter().map(|w| ("Weights".to_string(), w)));
    let manifest = grid.plan.manifest.file_name().unwrap_or_default().to_string_lossy();
    facts.push(("Ratings".into(), format!("{manifest}, sha256 {}", hash::of_file(&grid.plan.manifest)?.1)));
    for (what, of) in [
        ("Fingerprints of settings, ratings and folds", (|c| c.study.clone()) as fn(&Cell) -> String),
        ("Fingerprints of pictures and splits", |c| c.data.clone()),
    ] {
        facts.push((what.into(), distinct(&of)));
    }
    Ok(Extras {
        thumbnails,
        subtitle: format!("{} models in {} folds", s.models.len(), grid.k),
        notes,
        facts,
        figures: maps(grid, s, compute)?.into_iter().chain(confusions(s)).chain(faces(grid)?).collect(),
    })
}

/// Pictures that a complete model has a prediction for.
fn seen(s: &Study) -> usize {
    s.models
        .iter()
        .find(|m| !m.targets.is_empty())
        .map_or(0, |m| m.predictions.iter().map(|p| p.row).collect::<BTreeSet<_>>().len())
}

/// Where the towers of the best model look in a picture of each region, by the model that has not seen it (the paper's
/// Figure 7); None where models were not kept.
fn maps(grid: &Grid, s: &Study, compute: &Compute) -> Result<Option<Figure>> {
    let rows = page::pictured(s, usize::from(grid.plan.maps));
    let mut figures = BTreeMap::new();
    let Some(m) = page::best(s) else { return Ok(None) };
    // What reads tables looks at no picture, and what was solved for has no towers.
    let looks = |p: &super::plan::Model| p.run.model.table.is_empty() && p.method.is_none();
    if grid.plan.models.iter().any(|p| p.name == m.name && !looks(p)) {
        return Ok(None);
    }
    for fold in 0..grid.k {
        let mine: Vec<usize> = rows.iter().copied().filter(|&i| s.folds[i] == Some(fold)).collect();
        let path = grid.checkpoint(&m.name, fold);
        if mine.is_empty() || !path.exists() {
            continue;
        }
        let model = trained::Model::open(Some(&path))?;
        let ignore_exif = grid.plan.models.iter().any(|p| p.name == m.name && p.run.data.ignore_exif);
        let decode = DecodeOptions { ignore_exif, ..DecodeOptions::default() };
        let options = model.options(decode, None)?;
        // A picture that has gone since has no map.
        let sources = s.manifest.select(&mine).sources();
        let Ok(pictures) = Pictures::load(&sources, &options, &()).and_then(|l| l.accept(true)) else { continue };
        // A report is passed on: folders stay here.
        let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_string();
        let rated = |row: usize| (name(&s.manifest.rows[row].path), Some(s.truth(m, row)));
        let known: Vec<_> = pictures.rows().iter().map(|&i| rated(mine[i])).collect();
        let targets = Target::usual(model.config()?);
        let mut explainer = model.explainer(&targets, None, known.len(), compute.open(&*grid.events)?)?;
        let explained = gradcam::pictures(&mut explainer, pictures.bytes(), &known, &[Sign::Plus])?;
        for (&i, picture) in pictures.rows().iter().zip(&explained) {
            figures.insert(mine[i], gradcam::figure(picture, None)?);
        }
    }
    let body: String = rows.iter().filter_map(|i| figures.remove(i)).collect();
    let lead = format!(
        "Grad-CAM of {}: what in the picture each tower took for its likeliest class, or, of towers without classes, what \
         raises a rating. Blue is low, yellow high. Each picture is explained by the model of the fold that has not seen it.",
        m.title
    );
    Ok((!body.is_empty()).then(|| Figure { title: "Where the towers look".into(), lead, body }))
}

/// What models that tell classes apart take for what.
fn confusions(s: &Study) -> Option<Figure> {
    let lead = "How often each class was taken for each on the test parts, of all folds that are done.";
    let body = classes::pictures(s);
    (!body.is_empty()).then(|| Figure { title: "What is taken for what".into(), lead: lead.into(), body })
}

/// What `train-face` left: its accuracies and confusion matrices.
fn faces(grid: &Grid) -> Result<Vec<Figure>> {
    let folders = &grid.plan.faces;
    if folders.is_empty() {
        return Ok(vec![]);
    }
    let lead = "How often each class of faces was taken for each, by the network of a fold that had not seen them.";
    Ok(vec![Figure { title: "Face networks".into(), lead: lead.into(), body: networks::html(folders)? }])
}
