/*! How far off a prediction may be. Several models of one cross-validation tell two different things: how much they
disagree, which is not how wrong they are, and through the pictures that each of them did not see, how wrong they were.
[`Held`] makes an interval of the latter: CV+ of Barber, Candès, Ramdas & Tibshirani 2021, "Predictive inference with the
jackknife+", section 3. For a new picture exchangeable with those of the cross-validation, an interval of level 1 - alpha
holds its rating with a probability of at least 1 - 2 alpha - sqrt(2 / n), whatever the model and the data (Theorem 4 and
below it), and in practice of about 1 - alpha. */

use super::metrics::SCALE;
use crate::data::table::{Table, TableOptions};
use crate::error::{Error, Result, option};
use crate::weights::{Dtype, WeightFile};
use std::path::Path;

/// What a cross-validation said about the pictures that each of its models did not see: its `predictions.csv`.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    pub pictures: Vec<Picture>,
}

/// One picture of a cross-validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pub path: String,
    /// Index of the model that did not see it, among those of the cross-validation.
    pub model: usize,
    /// How much it counts in measures; intervals take all pictures alike.
    pub weight: f64,
    /// By target; None where nobody rated it.
    pub truth: Vec<Option<f64>>,
    pub predicted: Vec<f64>,
}

impl Predicted {
    /// Reads `predictions.csv`. `folds` are the folds that the models were not trained on, in the order of the models.
    ///
    /// # Errors
    /// A missing column, a number that is none, or a fold without its model.
    pub fn read(path: &Path, targets: &[String], folds: &[u32]) -> Result<Self> {
        let table = Table::read(path, &TableOptions::default())?;
        let (fold, name) = (table.column("fold")?, table.column("path")?);
        let weight = table.header.iter().position(|h| h == "weight");
        let column = |t: &String, what: &str| table.column(&format!("{t}_{what}"));
        let columns: Vec<[usize; 2]> =
            targets.iter().map(|t| Ok([column(t, "true")?, column(t, "predicted")?])).collect::<Result<_>>()?;
        let mut pictures = vec![];
        for (line, cells) in &table.rows {
            let wrong = |column: usize, what: &str| {
                let place = format!("line {line}, column {}", table.header[column]);
                Error::file(path, format!("`{}` is not {what}", cells[column])).at(place)
            };
            let number = |column: usize| {
                let value = cells[column].trim().parse().ok().filter(|v: &f64| v.is_finite());
                value.ok_or_else(|| wrong(column, "a number").fix("take the file as the run wrote it"))
            };
            let model = cells[fold].parse().ok().and_then(|f: u32| folds.iter().position(|have| *have == f));
            let model = model.ok_or_else(|| {
                wrong(fold, "a fold with a model").fix("give the models of all folds, and only of this run")
            })?;
            let (mut truth, mut predicted) = (vec![], vec![]);
            for [t, p] in &columns {
                // Who was not rated has no error.
                truth.push(if cells[*t].trim().is_empty() { None } else { Some(number(*t)?) });
                predicted.push(number(*p)?);
            }
            let weight = weight.map_or(Ok(1.0), number)?;
            pictures.push(Picture { path: cells[name].clone(), model, weight, truth, predicted });
        }
        for (i, target) in targets.iter().enumerate() {
            let rated = |m: usize| pictures.iter().any(|p| p.model == m && p.truth[i].is_some());
            if let Some(m) = (0..folds.len()).find(|m| !rated(*m)) {
                return Err(Error::file(path, format!("no picture of fold {} is rated", folds[m]))
                    .at(format!("column {target}_true"))
                    .fix("give the models of this run, and only those"));
            }
        }
        Ok(Self { pictures })
    }
}

/// Names of the tensors of a model that knows the errors of its heads: [pictures, heads that did not see one], i32, and
/// [pictures, targets], points, NaN where nobody rated.
const HEADS: &str = "held.heads";
const RESIDUALS: &str = "held.residuals";

/// The errors of one or several cross-validations on the pictures that their models did not see.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// By picture: the models that did not see it, one of each cross-validation. Their mean is what is said about it.
    unseen: Vec<Vec<usize>>,
    /// By picture and target: |true - predicted| in points.
    residuals: Vec<Vec<Option<f64>>>,
}

impl Held {
    /// Of one cross-validation.
    pub fn of(all: &Predicted) -> Self {
        Self::of_several(&[(all, 0)]).expect("one agrees with itself")
    }

    /// Of several over the same pictures, each with the index of its first model. None if they are not of the same pictures with
    /// the same ratings.
    pub fn of_several(all: &[(&Predicted, usize)]) -> Option<Self> {
        let (first, _) = all.first()?;
        let same = |p: &Predicted| {
            let pairs = || p.pictures.iter().zip(&first.pictures);
            p.pictures.len() == first.pictures.len() && pairs().all(|(a, b)| a.path == b.path && a.truth == b.truth)
        };
        if !all.iter().all(|(p, _)| same(p)) {
            return None;
        }
        let unseen = |i: usize| all.iter().map(|(p, offset)| offset + p.pictures[i].model).collect();
        let residuals = |i: usize| {
            let mean = mean_of(all, i);
            first.pictures[i].truth.iter().zip(mean).map(|(t, p)| Some((t.as_ref()? - p).abs())).collect()
        };
        let n = first.pictures.len();
        Some(Self { unseen: (0..n).map(unseen).collect(), residuals: (0..n).map(residuals).collect() })
    }

    /// What a file of [`crate::train::merge`] holds for models with these heads and targets; None if it holds nothing.
    pub fn of_file(file: &WeightFile, heads: usize, targets: usize) -> Result<Option<Self>> {
        if file.own(HEADS).is_none() {
            return Ok(None);
        }
        [HEADS, RESIDUALS].iter().try_for_each(|name| file.intact(name))?;
        let (h, r) = (file.tensor(HEADS)?, file.tensor(RESIDUALS)?);
        let wrong =
            || Error::file(file.path(), "its errors on held-out pictures are damaged").fix("merge the models again");
        let (&[n, runs], &[rows, columns]) = (&h.shape[..], &r.shape[..]) else { return Err(wrong()) };
        if n != rows || columns != targets || runs == 0 || n == 0 {
            return Err(wrong());
        }
        let unseen: Vec<Vec<usize>> =
            h.to_f64()?.chunks(runs).map(|all| all.iter().map(|x| *x as usize).collect()).collect();
        let residuals: Vec<Vec<Option<f64>>> = r
            .to_f64()?
            .chunks(targets)
            .map(|all| all.iter().map(|x| Some(*x).filter(|x| x.is_finite())).collect())
            .collect();
        if unseen.iter().flatten().any(|i| *i >= heads) {
            return Err(wrong());
        }
        Ok(Some(Self { unseen, residuals }))
    }

    /// The tensors of [`Held::of_file`], as bytes: name, type, shape, values.
    pub fn tensors(&self) -> [(&'static str, Dtype, [usize; 2], Vec<u8>); 2] {
        let width = |n: Option<usize>| n.unwrap_or(0);
        let shape = |rows: usize, columns| [rows, width(columns)];
        let heads = self.unseen.iter().flatten().flat_map(|i| (*i as i32).to_le_bytes()).collect();
        let residuals = self.residuals.iter().flatten();
        let residuals = residuals.flat_map(|r| r.map_or(f32::NAN, |r| r as f32).to_le_bytes()).collect();
        [
            (HEADS, Dtype::I32, shape(self.unseen.len(), self.unseen.first().map(Vec::len)), heads),
            (RESIDUALS, Dtype::F32, shape(self.residuals.len(), self.residuals.first().map(Vec::len)), residuals),
        ]
    }

    /// Fails where some target has fewer rated pictures than an interval of this level needs.
    pub fn check(&self, path: &Path, percent: u32) -> Result<()> {
        let targets = self.residuals.first().map_or(0, Vec::len);
        let few = (0..targets).map(|t| self.residuals.iter().filter(|r| r[t].is_some()).count());
        match few.filter(|n| rank(*n, percent) > *n).min() {
            Some(n) => Err(Error::file(path, format!("{n} pictures give no interval of {percent} %"))
                .fix(format!("ask for less with {}", option("interval")))),
            None => Ok(()),
        }
    }

    /// Ends of the interval of a target at a level in percent, of what each model predicts; they stop at the ends of the
    /// scale. [`Held::check`] first.
    pub fn interval(&self, target: usize, predictions: &[f32], percent: u32) -> [f64; 2] {
        let said =
            |unseen: &[usize]| unseen.iter().map(|m| f64::from(predictions[*m])).sum::<f64>() / unseen.len() as f64;
        let all = self.unseen.iter().zip(&self.residuals);
        let all: Vec<(f64, f64)> = all.filter_map(|(u, r)| Some((said(u), r[target]?))).collect();
        let rank = rank(all.len(), percent);
        let end = |sign: f64| {
            let mut ends: Vec<f64> = all.iter().map(|(said, r)| sign * said + r).collect();
            sign * *ends.select_nth_unstable_by(rank - 1, f64::total_cmp).1
        };
        // The lower end is the upper one of what is negative: floor(alpha (n + 1)) from below is `rank` from above.
        [end(-1.0), end(1.0)].map(|x| x.clamp(SCALE[0], SCALE[1]))
    }
}

/// What several cross-validations say about picture `i`, by target: the mean.
pub fn mean_of(all: &[(&Predicted, usize)], i: usize) -> Vec<f64> {
    let targets = all[0].0.pictures[i].predicted.len();
    let mean = |t: usize| all.iter().map(|(p, _)| p.pictures[i].predicted[t]).sum::<f64>() / all.len() as f64;
    (0..targets).map(mean).collect()
}

/// ceil((1 - alpha) (n + 1)): which of n numbers, counted from 1 and the smallest, ends the interval.
fn rank(n: usize, percent: u32) -> usize {
    ((n + 1) * percent as usize).div_ceil(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::write::{Entry, write};

    fn predicted(text: &str, folds: &[u32]) -> Result<Predicted> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Predicted::read(file.path(), &["valence".into()], folds)
    }

    fn read(text: &str, folds: &[u32], percent: u32) -> Result<Held> {
        let held = Held::of(&predicted(text, folds)?);
        held.check(Path::new("predictions.csv"), percent)?;
        Ok(held)
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
        assert_eq!(held.interval(0, &[5.0, 6.0], 80), [4.0, 8.0]);
        // The ends of the scale are ends.
        assert_eq!(held.interval(0, &[8.5, 2.5], 80), [1.0, 9.0]);
        // 60 %: the third, and the second.
        let held = read(&table(&rows), &[0, 1], 60).unwrap();
        assert_eq!(held.interval(0, &[5.0, 6.0], 60), [4.0, 6.25]);
        // The models come in another order.
        let held = read(&table(&rows), &[1, 0], 60).unwrap();
        assert_eq!(held.interval(0, &[6.0, 5.0], 60), [4.0, 6.25]);
    }

    /// Two runs over the same pictures: what is said about a picture is the mean of the two models that did not see it.
    #[test]
    fn of_two_runs_by_hand() {
        let (a, b) = ([(0, 5.0, 4.0), (1, 2.0, 3.0)], [(1, 5.0, 5.0), (0, 2.0, 5.0)]);
        let runs = [&a, &b].map(|rows| predicted(&table(rows), &[0, 1]).unwrap());
        let held = Held::of_several(&[(&runs[0], 0), (&runs[1], 2)]).unwrap();
        // Means 4.5 and 4 of ratings 5 and 2; models 0 and 3 did not see the first, 1 and 2 not the second.
        assert_eq!(
            (&held.unseen, &held.residuals),
            (&vec![vec![0, 3], vec![1, 2]], &vec![vec![Some(0.5)], vec![Some(2.0)]])
        );
        // Means 4 and 6: upper ends 4.5 and 8, lower ends 3.5 and 4, of which the second of two at 60 %.
        assert_eq!(held.interval(0, &[3.0, 5.0, 7.0, 5.0], 60), [3.5, 8.0]);
        let other = predicted(&table(&[(0, 5.0, 4.0), (1, 2.5, 3.0)]), &[0, 1]).unwrap();
        assert!(Held::of_several(&[(&runs[0], 0), (&other, 2)]).is_none());

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("held.safetensors");
        let save = |held: &Held| {
            let tensors = held.tensors();
            let entries: Vec<_> = tensors.iter().map(|(n, t, s, b)| Entry::bytes(n, *t, s, b)).collect();
            write(&path, &Default::default(), &entries).unwrap();
            WeightFile::open(&path).unwrap()
        };
        assert_eq!(Held::of_file(&save(&held), 4, 1).unwrap().unwrap(), held);
        let file = save(&held);
        assert!(Held::of_file(&file, 3, 1).is_err(), "a head that there is not");
        assert!(Held::of_file(&file, 4, 2).is_err(), "a target that there is not");
        write(&path, &Default::default(), &[Entry::f32("x", &[1], &[0.0])]).unwrap();
        assert!(Held::of_file(&WeightFile::open(&path).unwrap(), 4, 1).unwrap().is_none());
    }

    /// Pictures whose rating is noise around what every model says: nine of ten are inside, as promised.
    #[test]
    fn it_covers_what_it_says() {
        let mut rng = crate::rng::Rng::new(7, crate::rng::Stream::Test(0), 0);
        let mut noise = || (0..12).map(|_| f64::from(rng.uniform())).sum::<f64>() - 6.0;
        let rows: Vec<(u32, f64, f64)> = (0..1000).map(|i| (i % 5, 5.0 + noise(), 5.0)).collect();
        let held = read(&table(&rows), &[0, 1, 2, 3, 4], 90).unwrap();
        let [low, high] = held.interval(0, &[5.0; 5], 90);
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
