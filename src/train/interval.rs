/*! How far off a prediction may be. Several models of one cross-validation tell two different things: how much they
disagree, which is not how wrong they are, and through the pictures that each of them did not see, how wrong they were.
[`Held`] makes an interval of the latter: CV+ of Barber, Candès, Ramdas & Tibshirani 2021, "Predictive inference with the
jackknife+", section 3. For a new picture exchangeable with those of the cross-validation, an interval of level 1 - alpha
holds its rating with a probability of at least 1 - 2 alpha - sqrt(2 / n), whatever the model and the data (Theorem 4 and
below it), and in practice of about 1 - alpha. */

use crate::data::table::{Table, TableOptions};
use crate::error::{Error, Result};
use std::path::Path;

/// The errors of a cross-validation on the pictures that each model did not see.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// By target: (index of the model, |true - predicted| in points) of every picture.
    residuals: Vec<Vec<(usize, f64)>>,
    percent: u32,
}

impl Held {
    /// Reads `predictions.csv` of a cross-validation. `folds` are the folds that the models were not trained on, in their
    /// order; the level of the interval is `percent`.
    ///
    /// # Errors
    /// A missing column, a number that is none, a fold without its model, a model without a picture, or fewer pictures than
    /// the level needs.
    pub fn read(path: &Path, targets: &[String], folds: &[u32], percent: u32) -> Result<Self> {
        let table = Table::read(path, &TableOptions::default())?;
        let fold = table.column("fold")?;
        let mut residuals = vec![vec![]; targets.len()];
        for (target, residuals) in targets.iter().zip(&mut residuals) {
            let columns = [table.column(&format!("{target}_true"))?, table.column(&format!("{target}_predicted"))?];
            for (line, cells) in &table.rows {
                let wrong = |column: usize, what: &str| {
                    let place = format!("line {line}, column {}", table.header[column]);
                    Error::file(path, format!("`{}` is not {what}", cells[column])).at(place)
                };
                let model = cells[fold].parse().ok().and_then(|f: u32| folds.iter().position(|have| *have == f));
                let model = model.ok_or_else(|| {
                    wrong(fold, "a fold with a model").fix("give the models of all folds, and only of this run")
                })?;
                // Who was not rated has no error.
                if cells[columns[0]].trim().is_empty() {
                    continue;
                }
                let number = |column: usize| {
                    let value = cells[column].trim().parse().ok().filter(|v: &f64| v.is_finite());
                    value.ok_or_else(|| wrong(column, "a number").fix("take the file as the run wrote it"))
                };
                residuals.push((model, (number(columns[0])? - number(columns[1])?).abs()));
            }
            if let Some(m) = (0..folds.len()).find(|m| residuals.iter().all(|r| r.0 != *m)) {
                return Err(Error::file(path, format!("no picture of fold {} is rated", folds[m]))
                    .at(format!("column {target}_true"))
                    .fix("give the models of this run, and only those"));
            }
            if rank(residuals.len(), percent) > residuals.len() {
                let problem = format!("{} pictures give no interval of {percent} %", residuals.len());
                return Err(Error::file(path, problem).fix("ask for less with --interval"));
            }
        }
        Ok(Self { residuals, percent })
    }

    /// Level in percent.
    pub fn percent(&self) -> u32 {
        self.percent
    }

    /// Ends of the interval of a target, of what each model predicts.
    pub fn interval(&self, target: usize, predictions: &[f32]) -> [f64; 2] {
        let residuals = &self.residuals[target];
        let rank = rank(residuals.len(), self.percent);
        let end = |sign: f64| {
            let of = |&(model, r): &(usize, f64)| sign * f64::from(predictions[model]) + r;
            let mut ends: Vec<f64> = residuals.iter().map(of).collect();
            sign * *ends.select_nth_unstable_by(rank - 1, f64::total_cmp).1
        };
        // The lower end is the upper one of what is negative: floor(alpha (n + 1)) from below is `rank` from above.
        [end(-1.0), end(1.0)]
    }
}

/// ceil((1 - alpha) (n + 1)): which of n numbers, counted from 1 and the smallest, ends the interval.
fn rank(n: usize, percent: u32) -> usize {
    ((n + 1) * percent as usize).div_ceil(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, folds: &[u32], percent: u32) -> Result<Held> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Held::read(file.path(), &["valence".into()], folds, percent)
    }

    fn table(rows: &[(u32, f64, f64)]) -> String {
        let line = |(fold, truth, predicted): &(u32, f64, f64)| format!("p,{fold},{truth},{predicted}\n");
        format!("path,fold,valence_true,valence_predicted\n{}", rows.iter().map(line).collect::<String>())
    }

    /// Section 3 by hand: four residuals, two of each fold, models that say 5 and 6.
    #[test]
    fn by_hand() {
        let rows = [(0, 5.0, 4.5), (0, 2.0, 3.0), (1, 4.0, 4.25), (1, 8.0, 6.0)];
        let held = read(&table(&rows), &[0, 1], 80).unwrap();
        // Upper ends 5.5, 6, 6.25, 8, of which ceil(0.8 x 5) = 4th; lower ends 4, 4, 4.5, 5.75, of which floor(0.2 x 5) = 1st.
        assert_eq!(held.interval(0, &[5.0, 6.0]), [4.0, 8.0]);
        // 60 %: the third, and the second.
        let held = read(&table(&rows), &[0, 1], 60).unwrap();
        assert_eq!(held.interval(0, &[5.0, 6.0]), [4.0, 6.25]);
        // The models come in another order.
        let held = read(&table(&rows), &[1, 0], 60).unwrap();
        assert_eq!(held.interval(0, &[6.0, 5.0]), [4.0, 6.25]);
    }

    /// Pictures whose rating is noise around what every model says: nine of ten are inside, as promised.
    #[test]
    fn it_covers_what_it_says() {
        let mut rng = crate::rng::Rng::new(7, crate::rng::Stream::Test(0), 0);
        let mut noise = || (0..12).map(|_| f64::from(rng.uniform())).sum::<f64>() - 6.0;
        let rows: Vec<(u32, f64, f64)> = (0..1000).map(|i| (i % 5, 5.0 + noise(), 5.0)).collect();
        let held = read(&table(&rows), &[0, 1, 2, 3, 4], 90).unwrap();
        let [low, high] = held.interval(0, &[5.0; 5]);
        // The quantile of 1,000 draws is off by 2 % at most, that of the check by 1 % more.
        let inside = (0..10_000).filter(|_| (low..=high).contains(&(5.0 + noise()))).count();
        assert!((8700..=9300).contains(&inside), "{inside}");
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let rows = [(0, 5.0, 4.5), (1, 2.0, 3.0), (0, 5.0, 4.5), (1, 2.0, 3.0)];
        let complaint = |text: &str, folds: &[u32], percent| read(text, folds, percent).unwrap_err().to_string();
        let e = complaint(&table(&rows), &[0], 50);
        assert!(e.contains("line 3, column fold: `1` is not a fold with a model; give the models of all folds"), "{e}");
        assert!(complaint(&table(&rows), &[0, 1, 2], 50).contains("no picture of fold 2 is rated"));
        assert!(complaint(&table(&rows), &[0, 1], 90).contains("4 pictures give no interval of 90 %; ask for less"));
        assert!(read(&table(&rows), &[0, 1], 80).is_ok());
        let e = complaint("path,fold,valence_true,valence_predicted\np,0,x,5\n", &[0], 50);
        assert!(e.contains("line 2, column valence_true: `x` is not a number"), "{e}");
        assert!(complaint("path,fold\np,0\n", &[0], 50).contains("valence_true"));
    }
}
