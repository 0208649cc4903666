/*! Tables for other programs: one row per picture, readable by `read.csv("predictions.csv")` in R or by pandas.

Cells are what they are called. A name that begins with `=`, `+`, `-` or `@` is written as it is, because a path must still lead
to its picture and rows are joined by it; a spreadsheet takes such a cell for a formula, and asks before it runs one. There a
file of names that are not yours is imported with that column as text. */

use crate::data::Row;
use crate::error::{Error, Result};
use std::io::Write;

/// One picture's ratings and predictions, in points of the 1 to 9 scale.
pub struct Prediction<'a> {
    pub path: &'a str,
    pub dataset: &'a str,
    /// Pictures that were kept together when folds were drawn; empty where there are no groups.
    pub group: &'a str,
    /// The fold whose model made the prediction; None for a set apart.
    pub fold: Option<u32>,
    /// How much it counts.
    pub weight: f32,
    /// One value per target; NaN where the picture has no rating.
    pub truth: &'a [f32],
    pub predicted: &'a [f32],
}

impl<'a> Prediction<'a> {
    /// Of a row of a manifest.
    pub fn of(row: &'a Row, fold: Option<u32>, predicted: &'a [f32]) -> Self {
        Self {
            path: &row.path,
            dataset: row.dataset.as_deref().unwrap_or_default(),
            group: row.group.as_deref().unwrap_or_default(),
            fold,
            weight: row.weight,
            truth: &row.targets,
            predicted,
        }
    }
}

/// Writes `path,dataset,group,fold`, `weight` where some picture does not count 1, and, per target, `<target>_true,<target>_predicted,<target>_error`, the error being
/// predicted minus true to 6 decimals. Ratings and predictions have as many digits as their float32 needs; what is missing is an empty cell, which R
/// and pandas read as missing.
///
/// # Errors
/// A row with other than one value per target, a prediction that is not finite, or a failed write.
pub fn write_predictions<'a>(
    out: impl Write,
    targets: &[&str],
    rows: impl IntoIterator<Item = Prediction<'a>>,
) -> Result<()> {
    let failed = |e: csv::Error| Error::job(format!("cannot write the predictions: {e}"));
    let mut csv = csv::Writer::from_writer(out);
    let rows: Vec<Prediction> = rows.into_iter().collect();
    let weighted = rows.iter().any(|r| r.weight != 1.0);
    let mut record: Vec<String> = ["path", "dataset", "group", "fold"].map(String::from).into();
    record.extend(weighted.then(|| "weight".to_string()));
    for t in targets {
        record.extend(["true", "predicted", "error"].map(|what| format!("{t}_{what}")));
    }
    csv.write_record(&record).map_err(failed)?;
    for row in rows {
        if row.truth.len() != targets.len() || row.predicted.len() != targets.len() {
            return Err(Error::file(row.path, format!("not one rating and one prediction for {}", targets.join(", "))));
        }
        record.clear();
        record.extend([row.path, row.dataset, row.group].map(String::from));
        record.push(row.fold.map(|f| f.to_string()).unwrap_or_default());
        record.extend(weighted.then(|| row.weight.to_string()));
        for (a, p) in row.truth.iter().zip(row.predicted) {
            if !p.is_finite() {
                return Err(Error::file(row.path, format!("the prediction {p} is not a finite number")));
            }
            let cell = |v: f32| if v.is_finite() { v.to_string() } else { String::new() };
            // In float64 and rounded, or 1.3 - 1.1 would read 0.19999993; + 0.0 takes the sign off a zero.
            let error = ((f64::from(*p) - f64::from(*a)) * 1e6).round() / 1e6 + 0.0;
            let error = if error.is_finite() { error.to_string() } else { String::new() };
            record.extend([cell(*a), cell(*p), error]);
        }
        csv.write_record(&record).map_err(failed)?;
    }
    csv.flush().map_err(|e| Error::job(format!("cannot write the predictions: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back() {
        let row = |path, fold, truth, predicted| Prediction {
            path,
            dataset: "oasis",
            group: "",
            fold,
            weight: 1.0,
            truth,
            predicted,
        };
        let rows = [
            row("a, \"b\".jpg", Some(2), &[5.5, 3.25][..], &[6.0, 3.0][..]),
            row("c.png", None, &[f32::NAN, 1.1], &[5.0, 1.3]),
        ];
        let mut out = Vec::new();
        write_predictions(&mut out, &["valence", "arousal"], rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = "path,dataset,group,fold,valence_true,valence_predicted,valence_error,arousal_true,arousal_predicted,arousal_error\n\
            \"a, \"\"b\"\".jpg\",oasis,,2,5.5,6,0.5,3.25,3,-0.25\n\
            c.png,oasis,,,,5,,1.1,1.3,0.2\n";
        assert_eq!(text, expected);
        // Names that a spreadsheet takes for formulas are names, and negative numbers are numbers.
        let mut out = Vec::new();
        let names = ["=1+1.jpg", "-a.jpg", "+b.jpg", "@c.jpg"];
        write_predictions(&mut out, &["valence"], names.map(|n| row(n, None, &[5.0], &[4.5]))).unwrap();
        let found: Vec<_> = csv::Reader::from_reader(&out[..]).records().map(|r| r.unwrap()).collect();
        assert!(found.iter().zip(names).all(|(r, name)| (&r[0], &r[6]) == (name, "-0.5")), "{found:?}");
        let heavy = Prediction { weight: 2.5, ..row("e.png", Some(1), &[5.0], &[6.0]) };
        let mut out = Vec::new();
        write_predictions(&mut out, &["valence"], [heavy, row("f.png", Some(1), &[5.0], &[6.0])]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains(",fold,weight,valence_true,") && text.contains("e.png,oasis,,1,2.5,5,6,1\nf.png,oasis,,1,1,")
        );
        let bad = row("d.png", None, &[1.0], &[f32::NAN]);
        assert!(write_predictions(Vec::new(), &["valence"], [bad]).is_err());
        let short = row("d.png", None, &[1.0], &[1.0]);
        assert!(write_predictions(Vec::new(), &["valence", "arousal"], [short]).is_err());
    }
}
