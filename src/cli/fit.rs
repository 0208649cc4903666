//! `fit`: linear models and support vector machines on tables of features, judged over folds and then solved for all pictures.

mod layers;

use super::deal::{Dealt, FoldFlags};
use super::ranges::number;
use super::{Bar, Compute, command_line, output, reading};
use crate::atomic;
use crate::data::features_table::{FeatureTable, Joined, joined};
use crate::data::manifest::TARGETS;
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
use crate::solve::svm;
use crate::table::number as shown;
use crate::train::solved::{OverFolds, Setting, Validated, check_classes, cross_validate};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures and ratings or labels (see `import`).
    manifest: PathBuf,
    /// Features of its pictures (see `features --table`): safetensors, a CSV file with a column path, or .npy with a row for
    /// each of the manifest's. Several are laid side by side; NAME= before a file begins the names of its columns.
    #[arg(long = "table", required = true, value_name = "FILE")]
    tables: Vec<String>,
    /// Least squares, ridge regression, or a support vector machine: svr for ratings, svc for classes. Columns are
    /// standardised by the pictures that are learned from.
    #[arg(long, value_enum)]
    solver: Solver,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Cost of an error, of support vector machines: one model for each.
    #[arg(long, value_delimiter = ',', value_parser = number::<f64>(0.0, 1e9), default_value = "1", value_name = "X")]
    c: Vec<f64>,
    /// Penalties of ridge regression as scikit-learn has them, one model for each; by default inner folds choose one for each
    /// rating.
    #[arg(long, value_delimiter = ',', value_parser = number::<f64>(0.0, 1e9), value_name = "X")]
    alpha: Vec<f64>,
    /// Errors of a rating up to this cost nothing, in svr.
    #[arg(long, value_parser = number::<f64>(0.0, 8.0), default_value_t = svm::EPSILON, value_name = "X")]
    epsilon: f64,
    /// Each layer of a network alone: columns that share what stands before their last dot, as block3.17 does with block3.1.
    /// How much each knows of a rating goes into layers.csv and layers-RATING.svg; tables of several networks, named trained=
    /// and random=, beside each other.
    #[arg(long)]
    layers: bool,
    /// Columns of ratings to predict.
    #[arg(long, value_delimiter = ',', default_values_t = TARGETS.map(String::from), value_name = "COLUMNS")]
    targets: Vec<String>,
    /// Column of classes, for svc; pictures where it is empty are left out.
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    #[command(flatten)]
    deal: FoldFlags,
    /// Of the folds that are dealt.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Threads that compute; all cores by default.
    #[arg(long, value_parser = reading::threads, value_name = "N")]
    threads: Option<usize>,
}

/// Which method of [`crate::solve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Solver {
    Linear,
    Ridge,
    Svr,
    Svc,
}

impl Command {
    pub fn run(self) -> Result<()> {
        Compute { device: "cpu".into(), threads: self.threads, check_finite: false }.bind_threads();
        let method = self.method()?;
        let targets: Vec<&str> = match self.solver {
            Solver::Svc => vec![],
            _ => self.targets.iter().map(String::as_str).collect(),
        };
        let manifest = Manifest::read(&self.manifest, &targets)?;
        let tables = self.tables.iter().map(|t| FeatureTable::named(t)).collect::<Result<Vec<_>>>()?;
        let Joined { columns, values: x } = joined(&tables, &manifest)?;
        let Dealt { fold, k, kept, warning } =
            self.deal.asked(self.seed).deal(&self.manifest, &manifest, &*super::terminal())?;
        warning.iter().for_each(|w| remark!("warning: {w}"));
        let (answers, rows) = self.answers(&manifest)?;
        let left_out = manifest.rows.len() - rows.len();
        if left_out > 0 {
            remark!("{left_out} of {} pictures have no label and are left out", manifest.rows.len());
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
                .for_each(|r| remark!("{r}"));
        }
        if let Some(f) = (0..k).find(|f| !fold.contains(f)) {
            return Err(Error::file(
                &self.manifest,
                format!("no picture with a label is in fold {}", folds::number(f)),
            )
            .fix("deal other folds"));
        }
        prepare(&self.out)?;
        let weight: Vec<f64> = manifest.rows.iter().map(|r| r.weight.into()).collect();
        let groups = manifest.groups();
        let task =
            Task { columns: &columns, x: &x, answers: &answers, weight: &weight, groups: &groups, seed: self.seed };
        if self.layers {
            return self.by_layer(&method, &task, &fold, k, &kept);
        }
        let validated = cross_validate(&method, &task, &fold, k, &Bar::new())?;
        let all: Vec<usize> = (0..rows.len()).collect();
        let models = solve(&method, &task, &all)?;
        for model in &models {
            model.write(self.out.join(self.file("model", &model.setting, "safetensors")))?;
        }
        folds::write(self.out.join("folds.csv"), &manifest, &fold)?;
        self.write("predictions.csv", &predictions(&manifest, &answers, &fold, &validated))?;
        let sheet = self.sheet(&validated, &format!("{k}-fold cross-validation, {kept}"));
        for (ending, text) in [("csv", sheet.csv()), ("md", sheet.markdown().into()), ("tex", sheet.latex().into())] {
            atomic::write(self.out.join(format!("results.{ending}")), |w| w.write_all(&text))?;
        }
        self.pictures(&validated)?;
        let facts = json!({
            "format": "deep-affect-fit-1",
            "program": format!("deep-affect {}", crate::VERSION),
            "command": command_line(),
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
        self.write("metrics.json", &format!("{facts:#}\n"))?;
        output::print(&sheet.text())?;
        let models = if models.len() > 1 { "models" } else { "the model" };
        remark!("wrote {models}, folds.csv, predictions.csv, metrics.json and results.csv to {}", self.out.display());
        Ok(())
    }

    fn by_layer(&self, method: &Method, task: &Task, fold: &[u32], k: u32, kept: &str) -> Result<()> {
        let all = layers::measure(method, task, fold, k)?;
        let Answers::Ratings { targets, .. } = task.answers else { return Ok(()) };
        let sheet = layers::sheet(&all, targets, &format!("What each layer knows: {k}-fold cross-validation, {kept}"));
        atomic::write(self.out.join("layers.csv"), |w| w.write_all(&sheet.csv()))?;
        for (t, target) in targets.iter().enumerate() {
            let svg = report::layers::svg(&all, t, target);
            svg.map_or(Ok(()), |svg| self.write(&format!("layers-{target}.svg"), &svg))?;
        }
        let facts = json!({
            "format": "deep-affect-layers-1",
            "program": format!("deep-affect {}", crate::VERSION),
            "command": command_line(),
            "method": method,
            "folds": k,
            "groups": kept,
            "targets": targets,
            "series": all,
        });
        self.write("metrics.json", &format!("{facts:#}\n"))?;
        output::print(&sheet.text())?;
        remark!("wrote layers.csv, layers-RATING.svg and metrics.json to {}", self.out.display());
        Ok(())
    }

    fn method(&self) -> Result<Method> {
        if (self.solver == Solver::Svc) != self.label.is_some() {
            return Err(Error::usage("--label is for --solver svc, and svc needs it")
                .fix("name the column of classes in --label, or take svr for ratings"));
        }
        let c = self.c.clone();
        let method = match self.solver {
            Solver::Linear => Method::Linear,
            Solver::Ridge => Method::Ridge { alpha: self.alpha.clone() },
            Solver::Svr => Method::Svr { c, epsilon: self.epsilon },
            Solver::Svc => Method::Svc { c },
        };
        method.check()?;
        let settings = method.settings();
        match settings.iter().collect::<BTreeSet<_>>().len() == settings.len() {
            true => Ok(method),
            false => Err(Error::usage("a setting is given twice").fix("give each once")),
        }
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
        let several = match self.solver {
            Solver::Linear => false,
            Solver::Ridge => self.alpha.len() > 1,
            Solver::Svr | Solver::Svc => self.c.len() > 1,
        };
        if several { format!("{what}-{}.{ending}", setting.replace(' ', "-")) } else { format!("{what}.{ending}") }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        atomic::write(self.out.join(name), |w| w.write_all(text.as_bytes()))
    }

    fn sheet(&self, v: &Validated, title: &str) -> Sheet {
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

    /// Of classes: a confusion matrix for each setting, and the accuracy against C.
    fn pictures(&self, v: &Validated) -> Result<()> {
        let mut points = vec![];
        for (c, s) in self.c.iter().zip(&v.settings) {
            let OverFolds::Classes { accuracy_percent, confusion, .. } = &s.judged else { return Ok(()) };
            points.push((*c, *accuracy_percent));
            self.write(&self.file("confusion", &s.setting, "csv"), &confusion.csv())?;
            let title = format!("{}: what each class is taken for", s.setting);
            self.write(&self.file("confusion", &s.setting, "svg"), &confusion::svg(confusion, &title))?;
        }
        by_cost(&points, v.majority_percent).map_or(Ok(()), |svg| self.write("accuracy-by-c.svg", &svg))
    }
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
