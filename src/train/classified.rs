/*! What a classifier is worth: measures of its probabilities on pictures whose class is known. */

use super::confusion::{Confusion, likeliest};
use serde::{Deserialize, Serialize};

/// Bins of [`Classified::calibration`].
const BINS: usize = 10;

/// The measures of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classified {
    pub n_pictures: usize,
    /// Pictures taken for what they are.
    pub accuracy_percent: f64,
    /// The mean over classes of each one's accuracy: rare ones count as much as frequent ones.
    pub class_accuracy_percent: f64,
    /// What always answering the most frequent class of these pictures is right about.
    pub majority_percent: f64,
    /// Mean of minus the natural logarithm of the probability of the true class.
    pub log_loss_nats: f64,
    /// Mean difference of the probability of the answer and how often such answers are right, over ten bins by that
    /// probability (Guo et al. 2017, equation 5).
    pub calibration_error_percent: f64,
    pub calibration: Vec<Bin>,
    pub classes: Vec<OfClass>,
    pub confusion: Confusion,
}

/// Answers of about one probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    pub n_pictures: usize,
    pub mean_probability: f64,
    pub right_percent: f64,
}

/// One class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfClass {
    pub class: String,
    pub n_pictures: usize,
    /// Of its pictures, those taken for it; None without pictures.
    pub recall_percent: Option<f64>,
    /// Of the pictures taken for it, those that are; None where none is.
    pub precision_percent: Option<f64>,
}

impl Classified {
    /// Of probabilities [pictures, classes] and the class of each picture.
    pub fn of(classes: &[String], truth: &[usize], probabilities: &[f32]) -> Self {
        let rows = || probabilities.chunks_exact(classes.len());
        let taken: Vec<usize> = rows().map(likeliest).collect();
        let confusion = Confusion::of(classes, truth.iter().copied().zip(taken.iter().copied()));
        let n = truth.len() as f64;
        let loss = |(p, &t): (&[f32], &usize)| -(f64::from(p[t]).max(f64::MIN_POSITIVE)).ln();
        let mut bins = vec![(0usize, 0.0, 0usize); BINS];
        for ((p, &t), &answer) in rows().zip(truth).zip(&taken) {
            let sure = f64::from(p[answer]);
            let bin = &mut bins[((sure * BINS as f64) as usize).min(BINS - 1)];
            *bin = (bin.0 + 1, bin.1 + sure, bin.2 + usize::from(answer == t));
        }
        let bin = |&(n, sure, right): &(usize, f64, usize)| Bin {
            n_pictures: n,
            mean_probability: sure / n as f64,
            right_percent: 100.0 * right as f64 / n as f64,
        };
        let calibration: Vec<Bin> = bins.iter().filter(|b| b.0 > 0).map(bin).collect();
        let off = |b: &Bin| b.n_pictures as f64 * (100.0 * b.mean_probability - b.right_percent).abs();
        let sizes: Vec<u32> = confusion.rows().map(|row| row.iter().sum()).collect();
        let of_class = |(c, row): (usize, &[u32])| {
            let part = |of: u32| (of > 0).then(|| 100.0 * f64::from(row[c]) / f64::from(of));
            OfClass {
                class: classes[c].clone(),
                n_pictures: sizes[c] as usize,
                recall_percent: part(sizes[c]),
                precision_percent: part(confusion.rows().map(|row| row[c]).sum()),
            }
        };
        Self {
            n_pictures: truth.len(),
            accuracy_percent: confusion.accuracy().unwrap_or(f64::NAN),
            class_accuracy_percent: confusion.class_accuracy().unwrap_or(f64::NAN),
            majority_percent: 100.0 * f64::from(sizes.iter().copied().max().unwrap_or(0)) / n,
            log_loss_nats: rows().zip(truth).map(loss).sum::<f64>() / n,
            calibration_error_percent: calibration.iter().map(off).sum::<f64>() / n,
            calibration,
            classes: confusion.rows().enumerate().map(of_class).collect(),
            confusion,
        }
    }

    /// Key, value and what is reached without looking at pictures, of every measure.
    pub fn fields(&self) -> [(&'static str, f64, Option<f64>); 4] {
        let by_class = 100.0 / self.classes.iter().filter(|c| c.n_pictures > 0).count() as f64;
        [
            ("accuracy_percent", self.accuracy_percent, Some(self.majority_percent)),
            ("class_accuracy_percent", self.class_accuracy_percent, Some(by_class)),
            ("log_loss_nats", self.log_loss_nats, None),
            ("calibration_error_percent", self.calibration_error_percent, None),
        ]
    }

    /// A line for people.
    pub fn line(&self) -> String {
        format!(
            "{:.1} % of {} right, {:.1} % over classes (the most frequent class: {:.1} %), log loss {:.3}",
            self.accuracy_percent,
            self.n_pictures,
            self.class_accuracy_percent,
            self.majority_percent,
            self.log_loss_nats
        )
    }
}

/// Probabilities of class scores [rows, classes], by the softmax in float64.
pub fn softmax(scores: &[f32], classes: usize) -> Vec<f32> {
    let one = |row: &[f32]| {
        let max = row.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        let each: Vec<f64> = row.iter().map(|x| f64::from(x - max).exp()).collect();
        let sum: f64 = each.iter().sum();
        each.into_iter().map(move |e| (e / sum) as f32).collect::<Vec<f32>>()
    };
    scores.chunks_exact(classes).flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq as close;

    #[test]
    fn by_hand() {
        let classes = ["a", "b"].map(String::from);
        let p = [0.9375, 0.0625, 0.8125, 0.1875, 0.4375, 0.5625, 0.03125, 0.96875];
        let c = Classified::of(&classes, &[0, 1, 1, 1], &p);
        assert_eq!((c.n_pictures, c.accuracy_percent, c.majority_percent), (4, 75.0, 75.0));
        close!(c.class_accuracy_percent, 100.0 * (1.0 + 2.0 / 3.0) / 2.0);
        let logs = [0.9375f64, 0.1875, 0.5625, 0.96875].map(f64::ln);
        close!(c.log_loss_nats, -logs.iter().sum::<f64>() / 4.0);
        // Bins .5 to .6 (right), .8 to .9 (wrong), .9 to 1 (both right).
        close!(c.calibration_error_percent, (43.75 + 81.25 + 6.25 + 3.125) / 4.0);
        assert_eq!(c.calibration.iter().map(|b| b.n_pictures).collect::<Vec<_>>(), [1, 1, 2]);
        assert_eq!(c.classes[0].recall_percent, Some(100.0));
        close!(c.classes[0].precision_percent.unwrap(), 50.0);
    }

    #[test]
    fn probabilities_add_up() {
        let p = softmax(&[1000.0, 1001.0, -3.0, 0.0, 0.0, 0.0], 3);
        close!(p[..3].iter().sum::<f32>(), 1.0, max_relative = 1e-6);
        assert_eq!(p[3..], [1.0 / 3.0; 3]);
    }
}
