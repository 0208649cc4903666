//! Solved models ([`crate::solve`]) over folds: every picture is judged by a model that has not seen it.

use super::confusion::Confusion;
use super::folds::{FoldMetrics, Spread};
use super::metrics::{Measured, Metrics};
use crate::data::folds::number;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::solve::model::{Answers, Method, Task, solve};
use serde::Serialize;

/// What one setting of a method makes of all pictures.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// In short, as [`Method::settings`] has it.
    pub setting: String,
    #[serde(flatten)]
    pub judged: OverFolds,
}

/// Predictions and how good they are.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum OverFolds {
    Ratings {
        /// [pictures, targets]
        #[serde(skip)]
        predicted: Vec<f32>,
        over_folds: FoldMetrics,
        /// Of all pictures at once.
        pooled: Metrics,
    },
    Classes {
        /// One a picture.
        #[serde(skip)]
        predicted: Vec<usize>,
        /// Of the folds, percent.
        accuracy_percent: Spread,
        /// Mean over classes, of all pictures at once, percent.
        class_accuracy_percent: Option<f64>,
        #[serde(serialize_with = "counts")]
        confusion: Confusion,
    },
}

fn counts<S: serde::Serializer>(c: &Confusion, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_seq(c.rows())
}

/// A method over folds.
pub struct Validated {
    pub settings: Vec<Setting>,
    /// Of ratings: the mean of what each picture's model was trained on, [pictures, targets].
    pub train_mean: Vec<f64>,
    /// Of classes: what always answering the commonest class of what is trained on would get over the folds, percent.
    pub majority_percent: Option<Spread>,
}

/// Refuses classes that some fold's model could not know, or that no fold could hold out; the remarks are about folds in
/// which a class is not tested.
///
/// # Errors
/// A class of one picture, a class whose pictures are all in one fold.
pub fn check_classes(classes: &[String], class: &[usize], fold: &[u32], k: u32) -> Result<Vec<String>> {
    let mut remarks = vec![];
    for (c, name) in classes.iter().enumerate() {
        let of: Vec<u32> = class.iter().zip(fold).filter(|(class, _)| **class == c).map(|(_, f)| *f).collect();
        if let [_] | [] = of[..] {
            return Err(Error::job(format!("class `{name}` has {} picture(s)", of.len()))
                .fix("give it more, or leave its label empty"));
        }
        if of.iter().all(|f| *f == of[0]) {
            let problem = format!("all {} pictures of class `{name}` are in fold {}", of.len(), number(of[0]));
            return Err(Error::job(format!("{problem}: its model would not know the class"))
                .fix("deal other folds, or leave the label of the class empty"));
        }
        let without: Vec<String> = (0..k).filter(|f| !of.contains(f)).map(|f| number(f).to_string()).collect();
        if !without.is_empty() {
            remarks
                .push(format!("class `{name}` has no picture in fold {}: it isn't tested there", without.join(", ")));
        }
    }
    Ok(remarks)
}

/// Solves for every fold's complement and judges the fold. `fold` has one number below `k` a row of the task, none of which
/// is empty.
///
/// # Errors
/// What [`solve`] and [`check_classes`] refuse; measures of values that are not finite; a job that was stopped.
pub fn cross_validate(
    method: &Method,
    task: &Task,
    fold: &[u32],
    k: u32,
    progress: &dyn Progress,
) -> Result<Validated> {
    let n = fold.len();
    let mut settings: Vec<Predicted> = method.settings().into_iter().map(|_| Predicted::default()).collect();
    let (mut train_mean, mut majority) = (vec![], vec![]);
    match task.answers {
        Answers::Ratings { targets, .. } => {
            train_mean = vec![f64::NAN; n * targets.len()];
            settings.iter_mut().for_each(|s| s.ratings = vec![f32::NAN; n * targets.len()]);
        }
        Answers::Classes { classes, class } => {
            check_classes(classes, class, fold, k)?;
            settings.iter_mut().for_each(|s| s.classes = vec![0; n]);
        }
    }
    progress.start("folds", k.into());
    for f in 0..k {
        if progress.stopped() {
            progress.done();
            return Err(Error::interrupted("stopped between folds"));
        }
        let (test, train): (Vec<usize>, Vec<usize>) = (0..n).partition(|&i| fold[i] == f);
        let models = solve(method, task, &train).map_err(|e| {
            progress.done();
            e.at(format!("fold {}", number(f)))
        })?;
        match task.answers {
            Answers::Ratings { targets, values } => {
                let t = targets.len();
                let total: f64 = train.iter().map(|&i| task.weight[i]).sum();
                let mean = |c: usize| train.iter().map(|&i| task.weight[i] * values[i * t + c]).sum::<f64>() / total;
                let mean: Vec<f64> = (0..t).map(mean).collect();
                test.iter().for_each(|i| train_mean[i * t..(i + 1) * t].copy_from_slice(&mean));
                for (s, model) in settings.iter_mut().zip(&models) {
                    for (i, y) in test.iter().zip(model.ratings(task.x, &test).chunks_exact(t)) {
                        s.ratings[i * t..(i + 1) * t].iter_mut().zip(y).for_each(|(to, y)| *to = *y as f32);
                    }
                    s.folds.push(measure(task, &s.ratings, &train_mean, &test)?);
                }
            }
            Answers::Classes { classes, class } => {
                for (s, model) in settings.iter_mut().zip(&models) {
                    let got = model.classes(task.x, &test);
                    s.accuracies
                        .push(Confusion::of(classes, test.iter().map(|&i| class[i]).zip(got.clone())).accuracy());
                    test.iter().zip(got).for_each(|(&i, got)| s.classes[i] = got);
                }
                let mut of = vec![0; classes.len()];
                train.iter().for_each(|&i| of[class[i]] += 1);
                // Of equally common ones the first.
                let most = (0..of.len()).rev().max_by_key(|&c| of[c]).unwrap_or(0);
                majority.push(Confusion::of(classes, test.iter().map(|&i| (class[i], most))).accuracy());
            }
        }
        progress.inc();
    }
    progress.done();
    let all: Vec<usize> = (0..n).collect();
    let judge = |(setting, p): (String, Predicted)| {
        let judged = match task.answers {
            Answers::Ratings { .. } => OverFolds::Ratings {
                over_folds: FoldMetrics::of(&p.folds)?,
                pooled: measure(task, &p.ratings, &train_mean, &all)?,
                predicted: p.ratings,
            },
            Answers::Classes { classes, class } => {
                let confusion = Confusion::of(classes, class.iter().copied().zip(p.classes.iter().copied()));
                OverFolds::Classes {
                    accuracy_percent: Spread::of(&p.accuracies),
                    class_accuracy_percent: confusion.class_accuracy(),
                    confusion,
                    predicted: p.classes,
                }
            }
        };
        Ok(Setting { setting, judged })
    };
    let settings = method.settings().into_iter().zip(settings).map(judge).collect::<Result<_>>()?;
    let majority_percent = (!majority.is_empty()).then(|| Spread::of(&majority));
    Ok(Validated { settings, train_mean, majority_percent })
}

/// What a setting says of the pictures, and how good that is fold by fold.
#[derive(Clone, Default)]
struct Predicted {
    ratings: Vec<f32>,
    classes: Vec<usize>,
    folds: Vec<Metrics>,
    accuracies: Vec<Option<f64>>,
}

/// Measures of some pictures.
fn measure(task: &Task, predicted: &[f32], train_mean: &[f64], rows: &[usize]) -> Result<Metrics> {
    let Answers::Ratings { targets, values } = task.answers else { return Err(Error::job("classes have no metrics")) };
    let t = targets.len();
    let names: Vec<&str> = targets.iter().map(String::as_str).collect();
    let of = |v: &[f64]| -> Vec<f64> { rows.iter().flat_map(|&i| &v[i * t..(i + 1) * t]).copied().collect() };
    let predicted: Vec<f64> = predicted.iter().map(|p| f64::from(*p)).collect();
    let weight: Vec<f64> = rows.iter().map(|&i| task.weight[i]).collect();
    let (truth, predicted, train_mean) = (of(values), of(&predicted), of(train_mean));
    Metrics::measure(&Measured {
        names: &names,
        truth: &truth,
        predicted: &predicted,
        train_mean: &train_mean,
        weight: &weight,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    #[test]
    fn classes_and_folds_that_do_not_go_together() {
        let classes = names(&["joy", "fear"]);
        let check = |class: &[usize], fold: &[u32]| check_classes(&classes, class, fold, 2);
        assert_eq!(check(&[0, 0, 1, 1], &[0, 1, 0, 1]).unwrap(), Vec::<String>::new());
        let e = check(&[0, 0, 0, 1], &[0, 1, 0, 1]).unwrap_err().to_string();
        assert!(e.contains("class `fear` has 1 picture(s); give it more"), "{e}");
        let e = check(&[0, 0, 1, 1], &[0, 1, 1, 1]).unwrap_err().to_string();
        assert!(e.contains("all 2 pictures of class `fear` are in fold 2"), "{e}");
        let remarks = check_classes(&classes, &[0, 0, 0, 1, 1], &[0, 1, 2, 0, 1], 3).unwrap();
        assert_eq!(remarks, ["class `fear` has no picture in fold 3: it isn't tested there"]);
    }

    /// One column that tells everything: 20 pictures in 4 folds.
    #[test]
    fn every_picture_is_judged_once_by_a_model_that_has_not_seen_it() {
        let x: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let fold: Vec<u32> = (0..20).map(|i| i % 4).collect();
        let columns = names(&["x"]);
        let (weight, groups) = (vec![1.0; 20], vec![None; 20]);
        let values: Vec<f64> = (0..20).map(|i| 1.0 + 0.25 * f64::from(i)).collect();
        let answers = Answers::Ratings { targets: names(&["valence"]), values: values.clone() };
        let task = |answers| Task { columns: &columns, x: &x, answers, weight: &weight, groups: &groups, seed: 1 };
        let v = cross_validate(&Method::Linear, &task(&answers), &fold, 4, &()).unwrap();
        let OverFolds::Ratings { predicted, over_folds, pooled } = &v.settings[0].judged else { panic!("ratings") };
        predicted.iter().zip(&values).for_each(|(p, y)| assert_relative_eq!(f64::from(*p), y, epsilon = 1e-5));
        assert!(over_folds.folds == 4 && pooled.n == 20 && pooled.mse_mean < 1e-9);
        // The mean of the pictures outside fold 0 (0, 4, 8, 12, 16), whose own mean is that of 8.
        assert_relative_eq!(v.train_mean[0], (20.0 * (1.0 + 0.25 * 9.5) - 5.0 * 3.0) / 15.0, epsilon = 1e-12);

        let classes = Answers::Classes {
            classes: names(&["low", "high"]),
            class: (0..20).map(|i| usize::from(i >= 8)).collect(),
        };
        let method = Method::Svc { c: vec![0.5, 10.0] };
        let v = cross_validate(&method, &task(&classes), &fold, 4, &()).unwrap();
        let OverFolds::Classes { accuracy_percent, confusion, predicted, .. } = &v.settings[1].judged else {
            panic!("classes")
        };
        // Nothing but the border can be missed.
        assert!(confusion.pictures() == 20 && confusion.accuracy().unwrap() >= 90.0, "{confusion:?}");
        assert!(accuracy_percent.mean.unwrap() >= 90.0 && predicted[0] == 0 && predicted[19] == 1);
        assert_eq!(v.majority_percent.unwrap().mean, Some(60.0));
        // All features equal: named with the fold.
        let flat = vec![1.0; 20];
        let task = Task { x: &flat, ..task(&classes) };
        let e = cross_validate(&method, &task, &fold, 4, &()).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains("fold 1: the features of all 15 pictures are equal"), "{e}");
    }
}
