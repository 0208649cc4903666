//! Linear models and support vector machines on tables of features, judged over folds and then solved for all pictures.

mod layers;

use super::Output;
use super::deal::{Dealt, FoldPlan};
use super::events::tell;
use crate::atomic;
use crate::data::features_table::{FeatureTable, Joined, joined};
use crate::data::table::quoted;
use crate::data::{Manifest, folds};
use crate::error::{Error, Result};
use crate::hash;
use crate::report;
use crate::report::accuracy::by_cost;
use crate::report::confusion;
use crate::report::folder::prepare;
use crate::report::study::Sheet;
use crate::solve::model::{Answers, Method, Task, solve};
use crate::table::number as shown;
use crate::train::solved::{OverFolds, Setting, Validated, check_classes, cross_validate};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What is solved for, on which tables.
pub struct Fit {
    /// Pictures and their ratings or labels.
    pub manifest: PathBuf,
    /// Files of features of its pictures, side by side; `NAME=` before a file begins the names of its columns.
    pub tables: Vec<String>,
    pub method: Method,
    /// Columns of ratings to predict.
    pub targets: Vec<String>,
    /// Column of classes, for a support vector classifier; pictures where it is empty are left out.
    pub label: Option<String>,
    /// Each layer of a network alone, instead of all columns at once.
    pub layers: bool,
    pub deal: FoldPlan,
}

impl Fit {
    /// Judges over the folds, solves for all pictures, and leaves models and results in the folder; the table of results.
    ///
    /// # Errors
    /// Settings that no model has, tables that do not fit the manifest, folds that cannot be judged, or a stop.
    pub fn run(&self, output: &Output) -> Result<Sheet> {
        let (method, out, events) = (&self.method, &*output.folder, &*output.events);
        method.check()?;
        let settings = method.settings();
        if settings.iter().collect::<BTreeSet<_>>().len() != settings.len() {
            return Err(Error::usage("a setting is given twice").fix("give each once"));
        }
        let targets: Vec<&str> = match self.label {
            Some(_) => vec![],
            None => self.targets.iter().map(String::as_str).collect(),
        };
        let manifest = Manifest::read(&self.manifest, &targets)?;
        let tables = self.tables.iter().map(|t| FeatureTable::named(t)).collect::<Result<Vec<_>>>()?;
        let Joined { columns, values: x } = joined(&tables, &manifest)?;
        let Dealt { fold, k, kept, warning } = self.deal.deal(&self.manifest, &manifest, events)?;
        warning.iter().for_each(|w| tell!(events, "warning: {w}"));
        let (answers, rows) = self.answers(&manifest)?;
        let left_out = manifest.rows.len() - rows.len();
        if left_out > 0 {
            tell!(events, "{left_out} of {} pictures have no label and are left out", manifest.rows.len());
        }
        // From here on only pictures whose answer is known.
        let manifest = manifest.select(&rows);
        let fold: Vec<u32> = rows.iter().map(|&i| fold[i]).collect();
        let width = columns.len();
        let x: Vec<f32> = rows.iter().flat_map(|&i| &x[i * width..(i + 1) * width]).copied().collect();
        if let Answers::Classes { classes, class } = &answers {
            check_classes(classes, class, &fold, k)
                .map_err(|e| e.at(self.place()))?
                .iter()
                .for_each(|r| tell!(events, "{r}"));
        }
        if let Some(f) = (0..k).find(|f| !fold.contains(f)) {
            return Err(Error::file(
                &self.manifest,
                format!("no picture with a label is in fold {}", folds::number(f)),
            )
            .fix("deal other folds"));
        }
        prepare(out)?;
        let weight: Vec<f64> = manifest.rows.iter().map(|r| r.weight.into()).collect();
        let groups = manifest.groups();
        let seed = self.deal.seed;
        let task = Task { columns: &columns, x: &x, answers: &answers, weight: &weight, groups: &groups, seed };
        if self.layers {
            return self.by_layer(&task, &fold, k, &kept, output);
        }
        let validated = cross_validate(method, &task, &fold, k, events)?;
        let all: Vec<usize> = (0..rows.len()).collect();
        let mut models = solve(method, &task, &all)?;
        let recipes = tables.iter().map(|(name, table)| Some((name.clone(), table.recipe.clone()?)));
        if let Some(recipes) = recipes.collect::<Option<Vec<_>>>() {
            models.iter_mut().for_each(|model| model.recipes = recipes.clone());
        }
        for model in &models {
            model.write(out.join(self.file("model", &model.setting, "safetensors")))?;
        }
        folds::write(out.join("folds.csv"), &manifest, &fold)?;
        write(out, "predictions.csv", &predictions(&manifest, &answers, &fold, &validated))?;
        let sheet = results(&validated, &format!("{k}-fold cross-validation, {kept}"));
        for (ending, text) in [("csv", sheet.csv()), ("md", sheet.markdown().into()), ("tex", sheet.latex().into())] {
            atomic::write(out.join(format!("results.{ending}")), |w| w.write_all(&text))?;
        }
        self.pictures(&validated, out)?;
        let facts = json!({
            "format": "deep-affect-fit-1",
            "program": format!("deep-affect {}", crate::VERSION),
            "command": output.command,
            "method": method,
            "tables": tables.iter().map(table_facts).collect::<Result<Vec<_>>>()?,
            "n_pictures": rows.len(),
            "n_columns": width,
            "folds": k,
            "groups": kept,
            "answers": match &answers {
                Answers::Ratings { targets, .. } => targets,
                Answers::Classes { classes, .. } => classes,
            },
            "majority_percent": validated.majority_percent,
            "settings": validated.settings,
        });
        write(out, "metrics.json", &format!("{facts:#}\n"))?;
        let models = if models.len() > 1 { "models" } else { "the model" };
        tell!(events, "wrote {models}, folds.csv, predictions.csv, metrics.json and results.csv to {}", out.display());
        Ok(sheet)
    }

    fn by_layer(&self, task: &Task, fold: &[u32], k: u32, kept: &str, output: &Output) -> Result<Sheet> {
        let (method, out, events) = (&self.method, &*output.folder, &*output.events);
        let (targets, all) = layers::measure(method, task, fold, k, events)?;
        let sheet = layers::sheet(&all, targets, &format!("What each layer knows: {k}-fold cross-validation, {kept}"));
        atomic::write(out.join("layers.csv"), |w| w.write_all(&sheet.csv()))?;
        for (t, target) in targets.iter().enumerate() {
            let svg = report::layers::svg(&all, t, target);
            svg.map_or(Ok(()), |svg| write(out, &format!("layers-{target}.svg"), &svg))?;
        }
        let facts = json!({
            "format": "deep-affect-layers-1",
            "program": format!("deep-affect {}", crate::VERSION),
            "command": output.command,
            "method": method,
            "folds": k,
            "groups": kept,
            "targets": targets,
            "series": all,
        });
        write(out, "metrics.json", &format!("{facts:#}\n"))?;
        tell!(events, "wrote layers.csv, layers-RATING.svg and metrics.json to {}", out.display());
        Ok(sheet)
    }

    fn place(&self) -> String {
        format!("column {}", self.label.as_deref().unwrap_or_default())
    }

    /// What the pictures are known to be, and the rows of which something is known.
    fn answers(&self, manifest: &Manifest) -> Result<(Answers, Vec<usize>)> {
        let Some(label) = &self.label else {
            let values = manifest.rows.iter().flat_map(|r| &r.targets).map(|t| f64::from(*t)).collect();
            return Ok((
                Answers::Ratings { targets: manifest.targets.clone(), values },
                (0..manifest.rows.len()).collect(),
            ));
        };
        let labels = manifest.labels(label)?;
        let classes: Vec<String> = labels.iter().flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        if classes.len() < 2 {
            return Err(Error::file(&self.manifest, format!("{} class(es)", classes.len()))
                .at(self.place())
                .fix("name a column with two classes or more"));
        }
        let known = labels.iter().enumerate().filter_map(|(i, l)| Some((i, classes.binary_search(l.as_ref()?).ok()?)));
        let (rows, class) = known.unzip();
        Ok((Answers::Classes { classes, class }, rows))
    }

    /// A file's name: with the setting in it where there are several.
    fn file(&self, what: &str, setting: &str, ending: &str) -> String {
        let several = self.method.settings().len() > 1;
        if several { format!("{what}-{}.{ending}", setting.replace(' ', "-")) } else { format!("{what}.{ending}") }
    }

    /// Of classes: a confusion matrix for each setting, and the accuracy against C.
    fn pictures(&self, v: &Validated, out: &Path) -> Result<()> {
        let Method::Svc { c } = &self.method else { return Ok(()) };
        let mut points = vec![];
        for (c, s) in c.iter().zip(&v.settings) {
            let OverFolds::Classes { accuracy_percent, confusion, .. } = &s.judged else { return Ok(()) };
            points.push((*c, *accuracy_percent));
            write(out, &self.file("confusion", &s.setting, "csv"), &confusion.csv())?;
            let title = format!("{}: what each class is taken for", s.setting);
            write(out, &self.file("confusion", &s.setting, "svg"), &confusion::svg(confusion, &title))?;
        }
        by_cost(&points, v.majority_percent).map_or(Ok(()), |svg| write(out, "accuracy-by-c.svg", &svg))
    }
}

fn write(out: &Path, name: &str, text: &str) -> Result<()> {
    atomic::write(out.join(name), |w| w.write_all(text.as_bytes()))
}

/// What each setting is worth over the folds.
fn results(v: &Validated, title: &str) -> Sheet {
    let mut sheet = Sheet::new("results", title);
    for s in &v.settings {
        let mut row = vec![s.setting.clone()];
        match &s.judged {
            OverFolds::Ratings { over_folds, pooled, .. } => {
                for (k, d) in pooled.dimensions.iter().enumerate() {
                    let over = over_folds.measure(k, "mse").map(|m| m.model);
                    let [mean, sd] = [over.and_then(|m| m.mean), over.and_then(|m| m.sd)];
                    row.extend([shown(mean, 3), shown(sd, 3), shown(d.model.pearson_r, 3)]);
                }
            }
            OverFolds::Classes { accuracy_percent: a, class_accuracy_percent, .. } => {
                row.extend([a.mean, a.sd, *class_accuracy_percent].map(|v| shown(v, 1)));
            }
        }
        sheet.rows.push(row);
    }
    if let Some(Setting { judged: OverFolds::Ratings { over_folds, pooled, .. }, .. }) = v.settings.first() {
        let mut row = vec!["training mean".to_string()];
        for k in 0..pooled.dimensions.len() {
            let over = over_folds.measure(k, "mse").map(|m| m.baseline);
            let [mean, sd] = [over.and_then(|m| m.mean), over.and_then(|m| m.sd)];
            row.extend([shown(mean, 3), shown(sd, 3), "-".into()]);
        }
        sheet.rows.push(row);
        let names = pooled.dimensions.iter().map(|d| (d.name.clone(), 3));
        let header: Vec<_> = std::iter::once((String::new(), 1)).chain(names).collect();
        let each = pooled.dimensions.iter().flat_map(|_| ["MSE", "SD", "r"]);
        sheet.header = vec![header, Sheet::plain(std::iter::once("").chain(each))];
        sheet.note = "MSE: mean and SD (n-1) over folds; r: of all pictures at once.".into();
    } else {
        let m = v.majority_percent;
        let row = ["commonest class".into(), shown(m.and_then(|m| m.mean), 1), shown(m.and_then(|m| m.sd), 1)];
        sheet.rows.push(row.into_iter().chain(["-".to_string()]).collect());
        sheet.header = vec![Sheet::plain(["", "accuracy, %", "SD", "mean over classes, %"])];
        sheet.note = "Accuracy: mean and SD (n-1) over folds; over classes: of all pictures at once.".into();
    }
    sheet
}

fn table_facts((name, table): &(String, FeatureTable)) -> Result<Value> {
    let (_, sha256) = hash::of_file(&table.file)?;
    Ok(json!({ "name": name, "file": table.file, "columns": table.columns.len(), "sha256": sha256 }))
}

/// `path,dataset,group,fold`, then what is known and what each setting says.
fn predictions(manifest: &Manifest, answers: &Answers, fold: &[u32], v: &Validated) -> String {
    let said = |what: &str, s: &Setting| {
        let setting = if v.settings.len() > 1 { format!(" {}", s.setting) } else { String::new() };
        quoted(&format!("{what}_predicted{setting}")).into_owned()
    };
    let mut head: Vec<String> = ["path", "dataset", "group", "fold"].map(String::from).into();
    match answers {
        Answers::Ratings { targets, .. } => {
            for t in targets {
                head.push(quoted(&format!("{t}_true")).into_owned());
                head.extend(v.settings.iter().map(|s| said(t, s)));
            }
        }
        Answers::Classes { .. } => {
            head.push("class_true".into());
            head.extend(v.settings.iter().map(|s| said("class", s)));
        }
    }
    let mut text = head.join(",") + "\n";
    for (i, row) in manifest.rows.iter().enumerate() {
        let [dataset, group] = [&row.dataset, &row.group].map(|t| t.clone().unwrap_or_default());
        let mut cells: Vec<String> = [&row.path, &dataset, &group].map(|t| quoted(t).into_owned()).into();
        cells.push(folds::number(fold[i]).to_string());
        match answers {
            Answers::Ratings { targets, values } => {
                for t in 0..targets.len() {
                    let at = i * targets.len() + t;
                    cells.push((values[at] as f32).to_string());
                    cells.extend(v.settings.iter().map(|s| match &s.judged {
                        OverFolds::Ratings { predicted, .. } => predicted[at].to_string(),
                        OverFolds::Classes { .. } => String::new(),
                    }));
                }
            }
            Answers::Classes { classes, class } => {
                cells.push(quoted(&classes[class[i]]).into_owned());
                cells.extend(v.settings.iter().map(|s| match &s.judged {
                    OverFolds::Classes { predicted, .. } => quoted(&classes[predicted[i]]).into_owned(),
                    OverFolds::Ratings { .. } => String::new(),
                }));
            }
        }
        text += &(cells.join(",") + "\n");
    }
    text
}
