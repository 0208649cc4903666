//! `study compare`: paired t-tests between cross-validations of the same pictures in the same folds.

use crate::cli::output::{self, clean};
use crate::error::{Error, Result};
use crate::report::study::tables::significance;
use crate::table::{number, text_table};
use crate::train::paired::{Paired, holm};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    /// Output folders of `cross-validate`, two or more; each pair is compared.
    #[arg(required = true, num_args = 2.., value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// A cross-validation: by picture its fold and, for each target, the squared error.
struct Run {
    name: String,
    path: PathBuf,
    targets: Vec<String>,
    pictures: BTreeMap<String, (u32, Vec<f64>)>,
}

impl Run {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("predictions.csv");
        let mut csv = csv::Reader::from_path(&path).map_err(|e| match e.into_kind() {
            csv::ErrorKind::Io(e) => Error::io(&path, "read the predictions", e),
            e => Error::file(&path, format!("cannot be read: {e:?}")),
        })?;
        let refuse = |why: String, row: usize| {
            Error::file(&path, why).at(format!("row {row}")).fix("write it again with `deep-affect cross-validate`")
        };
        let header = csv.headers().map_err(|e| refuse(e.to_string(), 1))?.clone();
        let column = |name: &str| header.iter().position(|h| h == name);
        let targets: Vec<String> = header.iter().filter_map(|h| h.strip_suffix("_true")).map(String::from).collect();
        let columns = ["path", "fold"].map(column);
        let [Some(picture), Some(fold)] = columns else {
            return Err(refuse("has no columns `path` and `fold`".into(), 1));
        };
        let pairs: Vec<[Option<usize>; 2]> =
            targets.iter().map(|t| [column(&format!("{t}_true")), column(&format!("{t}_predicted"))]).collect();
        let mut pictures = BTreeMap::new();
        for (row, record) in (2..).zip(csv.records()) {
            let record = record.map_err(|e| refuse(e.to_string(), row))?;
            let value = |c: Option<usize>| record.get(c?)?.parse::<f64>().ok().filter(|v| v.is_finite());
            let Some(fold) = record.get(fold).and_then(|f| f.parse().ok()) else {
                return Err(refuse("has no fold: is it of `cross-validate`?".into(), row));
            };
            let error = |[truth, predicted]: &[Option<usize>; 2]| Some((value(*predicted)? - value(*truth)?).powi(2));
            let Some(errors) = pairs.iter().map(error).collect::<Option<Vec<f64>>>() else {
                return Err(refuse("lacks a rating or a prediction".into(), row));
            };
            let name = record.get(picture).unwrap_or("").to_string();
            if pictures.insert(name.clone(), (fold, errors)).is_some() {
                return Err(refuse(format!("`{name}` comes twice"), row));
            }
        }
        if targets.is_empty() {
            return Err(refuse("has no rated target: no column ends in `_true`".into(), 1));
        }
        let name =
            folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into_owned());
        Ok(Self { name, path, targets, pictures })
    }

    /// Mean squared error of each fold, in the order of their numbers.
    fn mse(&self, target: usize) -> Vec<f64> {
        let mut folds: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for (fold, errors) in self.pictures.values() {
            let f = folds.entry(*fold).or_default();
            *f = (f.0 + errors[target], f.1 + 1.0);
        }
        folds.into_values().map(|(sum, n)| sum / n).collect()
    }

    /// Paired values are of the same pictures in the same folds.
    fn must_match(&self, other: &Self) -> Result<()> {
        let differs = |why: String| {
            Err(Error::file(&other.path, why).fix(format!("give it the folds of {}: --fold-file", self.path.display())))
        };
        if self.targets != other.targets {
            return differs(format!("predicts {} instead of {}", other.targets.join(", "), self.targets.join(", ")));
        }
        if self.pictures.len() != other.pictures.len() {
            return differs(format!("{} pictures instead of {}", other.pictures.len(), self.pictures.len()));
        }
        let moved = self.pictures.iter().find(|(name, p)| other.pictures.get(*name).map(|o| o.0) != Some(p.0));
        match moved {
            Some((name, _)) => differs(format!("`{name}` is not in the same fold")),
            None => Ok(()),
        }
    }
}

/// One line of the table.
struct Row<'a> {
    models: [&'a str; 2],
    target: &'a str,
    means: [f64; 2],
    test: Paired,
}

impl Command {
    pub fn run(self) -> Result<()> {
        let runs: Vec<Run> = self.folders.iter().map(|f| Run::read(f)).collect::<Result<_>>()?;
        let (first, others) = runs.split_first().expect("two folders at least");
        others.iter().try_for_each(|r| first.must_match(r))?;
        let mse = |r: &Run| (0..r.targets.len()).map(|t| r.mse(t)).collect::<Vec<_>>();
        let errors: Vec<Vec<Vec<f64>>> = runs.iter().map(mse).collect();
        let folds = errors[0][0].len();
        if folds < 2 {
            return Err(Error::file(&first.path, "is of one fold, and two are needed").fix("use more --folds"));
        }
        let share = 1.0 / (folds as f64 - 1.0);
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let mut rows = vec![];
        for (i, a) in runs.iter().enumerate() {
            for (j, b) in runs.iter().enumerate().skip(i + 1) {
                for (target, (x, y)) in first.targets.iter().zip(errors[i].iter().zip(&errors[j])) {
                    let test = Paired::of(x, y, share)
                        .ok_or_else(|| Error::file(&b.path, "has errors that are not finite").fix("train again"))?;
                    rows.push(Row { models: [&a.name, &b.name], target, means: [mean(x), mean(y)], test });
                }
            }
        }
        let corrected = holm(&rows.iter().map(|r| r.test.p).collect::<Vec<_>>());
        output::print(&if self.json { as_json(&rows, &corrected, folds) } else { as_text(&rows, &corrected, folds) })
    }
}

fn as_text(rows: &[Row], holm: &[Option<f64>], folds: usize) -> String {
    let header = ["models", "target", "MSE 1", "MSE 2", "t", "df", "p", "p Holm", "p corrected", "d"].map(String::from);
    let p = |p: Option<f64>| p.map_or("-".into(), significance);
    let row = |(r, holm): (&Row, &Option<f64>)| {
        vec![
            format!("{} - {}", clean(r.models[0]), clean(r.models[1])),
            clean(r.target),
            number(Some(r.means[0]), 3),
            number(Some(r.means[1]), 3),
            number(r.test.t, 2),
            r.test.df.to_string(),
            p(r.test.p),
            p(*holm),
            p(r.test.p_corrected),
            number(r.test.effect, 2),
        ]
    };
    let lines: Vec<Vec<String>> = rows.iter().zip(holm).map(row).collect();
    format!(
        "{}Test MSE over {folds} folds; paired two-sided t-tests: p as in the paper, by Holm over all lines, and of the\n\
         corrected resampled test (Nadeau & Bengio 2003). t < 0: the first has less error.\n",
        text_table(&header, &lines)
    )
}

fn as_json(rows: &[Row], holm: &[Option<f64>], folds: usize) -> String {
    let row = |(r, holm): (&Row, &Option<f64>)| json!({ "models": r.models, "target": r.target, "test_mse": r.means, "test": r.test, "p_holm": holm });
    let rows: Vec<_> = rows.iter().zip(holm).map(row).collect();
    format!("{:#}\n", json!({ "folds": folds, "comparisons": rows }))
}
