//! Paired t-tests between cross-validations of the same pictures in the same folds.

use crate::error::{Error, Result, line, option};
use crate::report::study::tables::significance;
use crate::table::{number, text_table};
use crate::train::paired::{Paired, holm, share};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A cross-validation.
struct Run {
    name: String,
    path: PathBuf,
    targets: Vec<String>,
    pictures: BTreeMap<String, Picture>,
}

/// A picture: its fold, how much it counts, and its squared errors.
struct Picture {
    fold: u32,
    weight: f64,
    errors: Vec<f64>,
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
        let weight = column("weight");
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
            let weight = if weight.is_some() { value(weight) } else { Some(1.0) };
            let Some(weight) = weight.filter(|w| *w >= 0.0) else {
                return Err(refuse("has a weight that is no number".into(), row));
            };
            if pictures.insert(name.clone(), Picture { fold, weight, errors }).is_some() {
                return Err(refuse(format!("`{name}` comes twice"), row));
            }
        }
        if targets.is_empty() {
            return Err(refuse("has no rated target: no column ends in `_true`".into(), 1));
        }
        // Older programs numbered folds from 0.
        let first = pictures.values().map(|p| p.fold).min().unwrap_or(0);
        pictures.values_mut().for_each(|p| p.fold -= first);
        let name =
            folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into_owned());
        Ok(Self { name, path, targets, pictures })
    }

    /// Mean squared error of each fold, in the order of their numbers.
    fn mse(&self, target: usize) -> Vec<f64> {
        let mut folds: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for p in self.pictures.values() {
            let f = folds.entry(p.fold).or_default();
            *f = (f.0 + p.weight * p.errors[target], f.1 + p.weight);
        }
        folds.into_values().map(|(sum, n)| sum / n).collect()
    }

    /// Pictures tested over pictures trained on, averaged over folds.
    fn ratio(&self) -> f64 {
        let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
        self.pictures.values().for_each(|p| *sizes.entry(p.fold).or_default() += 1);
        share(&sizes.into_values().collect::<Vec<_>>()).unwrap_or(f64::NAN)
    }

    /// Paired values are of the same pictures in the same folds.
    fn must_match(&self, other: &Self) -> Result<()> {
        let differs = |why: String| {
            Err(Error::file(&other.path, why).fix(format!(
                "give it the folds of {}: {}",
                self.path.display(),
                option("fold-file")
            )))
        };
        if self.targets != other.targets {
            return differs(format!("predicts {} instead of {}", other.targets.join(", "), self.targets.join(", ")));
        }
        if self.pictures.len() != other.pictures.len() {
            return differs(format!("{} pictures instead of {}", other.pictures.len(), self.pictures.len()));
        }
        let moved = self.pictures.iter().find(|(name, p)| other.pictures.get(*name).map(|o| o.fold) != Some(p.fold));
        match moved {
            Some((name, _)) => differs(format!("`{name}` is not in the same fold")),
            None => Ok(()),
        }
    }
}

/// One line of the table: two models and a target.
struct Row {
    models: [String; 2],
    target: String,
    means: [f64; 2],
    test: Paired,
}

/// Paired t-tests between every two cross-validations.
pub struct Comparison {
    rows: Vec<Row>,
    /// The p of every row, corrected over all: of the plain test, and of the corrected resampled one.
    holm: [Vec<Option<f64>>; 2],
    folds: usize,
    /// Pictures tested over pictures trained on.
    ratio: f64,
}

impl Comparison {
    /// Of two or more output folders of cross-validations of the same pictures in the same folds.
    ///
    /// # Errors
    /// Folders without predictions, of other pictures, targets or folds than the first, or of one fold.
    pub fn of(folders: &[PathBuf]) -> Result<Self> {
        let runs: Vec<Run> = folders.iter().map(|f| Run::read(f)).collect::<Result<_>>()?;
        let Some((first, others)) = runs.split_first() else {
            return Err(Error::usage("there is nothing to compare").fix("name two folders or more"));
        };
        others.iter().try_for_each(|r| first.must_match(r))?;
        let mse = |r: &Run| (0..r.targets.len()).map(|t| r.mse(t)).collect::<Vec<_>>();
        let errors: Vec<Vec<Vec<f64>>> = runs.iter().map(mse).collect();
        let folds = errors[0][0].len();
        if folds < 2 {
            return Err(Error::file(&first.path, "is of one fold, and two are needed")
                .fix(format!("use more {}", option("folds"))));
        }
        let ratio = first.ratio();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let mut rows = vec![];
        for (i, a) in runs.iter().enumerate() {
            for (j, b) in runs.iter().enumerate().skip(i + 1) {
                for (target, (x, y)) in first.targets.iter().zip(errors[i].iter().zip(&errors[j])) {
                    let test = Paired::of(x, y, ratio)
                        .ok_or_else(|| Error::file(&b.path, "has errors that are not finite").fix("train again"))?;
                    let models = [a.name.clone(), b.name.clone()];
                    rows.push(Row { models, target: target.clone(), means: [mean(x), mean(y)], test });
                }
            }
        }
        let by_holm = |of: fn(&Paired) -> Option<f64>| holm(&rows.iter().map(|r| of(&r.test)).collect::<Vec<_>>());
        let corrected = [by_holm(|t| t.p), by_holm(|t| t.p_corrected)];
        Ok(Self { rows, holm: corrected, folds, ratio })
    }

    /// A table for a terminal, with its legend.
    pub fn text(&self) -> String {
        let header = ["models", "target", "MSE 1", "MSE 2", "t", "df", "p", "p Holm", "p N-B", "p N-B Holm", "d_z"];
        let p = |p: Option<f64>| p.map_or("-".into(), significance);
        let row = |(i, r): (usize, &Row)| {
            vec![
                format!("{} - {}", line(&r.models[0]), line(&r.models[1])),
                line(&r.target),
                number(Some(r.means[0]), 3),
                number(Some(r.means[1]), 3),
                number(r.test.t, 2),
                r.test.df.to_string(),
                p(r.test.p),
                p(self.holm[0][i]),
                p(r.test.p_corrected),
                p(self.holm[1][i]),
                number(r.test.effect, 2),
            ]
        };
        let lines: Vec<Vec<String>> = self.rows.iter().enumerate().map(row).collect();
        let Self { folds: k, ratio, .. } = self;
        format!(
            "{}Test MSE over {k} folds; paired two-sided t-tests: p as in the paper; N-B that of the corrected resampled test\n\
             (Nadeau & Bengio 2003), variance by 1/{k} + {ratio:.3}, the second being n_test / n_train; Holm: corrected over all\n\
             lines. t < 0: the first has less error. d_z: mean difference over the SD of the differences.\n",
            text_table(&header.map(String::from), &lines)
        )
    }

    /// One JSON object.
    pub fn json(&self) -> String {
        let row = |(i, r): (usize, &Row)| {
            json!({
                "models": r.models, "target": r.target, "test_mse": r.means, "test": r.test,
                "p_holm": self.holm[0][i], "p_corrected_holm": self.holm[1][i],
            })
        };
        let rows: Vec<_> = self.rows.iter().enumerate().map(row).collect();
        let value = json!({ "folds": self.folds, "n_test_over_n_train": self.ratio, "comparisons": rows });
        format!("{value:#}\n")
    }
}
