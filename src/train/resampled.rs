//! How sure a measure is of pictures that belong together: bootstrap over groups.

use crate::rng::{Rng, Stream};
use serde::Serialize;
use std::collections::BTreeMap;

/// Resamples.
const DRAWS: usize = 2000;

/// A value, and between what 95 % of the resamples lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// None where there is none: r of predictions that do not vary.
    pub value: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// Weighted sums of 1, y, p, yy, pp, yp and (y - p)^2.
#[derive(Clone, Copy, Default)]
struct Sums([f64; 7]);

impl Sums {
    fn of(y: f64, p: f64, w: f64) -> Self {
        Self([1.0, y, p, y * y, p * p, y * p, (y - p).powi(2)].map(|x| w * x))
    }
    fn add(&mut self, other: &Sums) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }
    fn mse(&self) -> Option<f64> {
        (self.0[0] > 0.0).then(|| self.0[6] / self.0[0])
    }
    fn r(&self) -> Option<f64> {
        let [n, y, p, yy, pp, yp, _] = self.0;
        let (vy, vp) = (n * yy - y * y, n * pp - p * p);
        // Beyond rounding: what does not vary has none.
        let varies = |v: f64, square: f64| v > 1e-12 * n * square;
        (varies(vy, yy) && varies(vp, pp)).then(|| (n * yp - y * p) / (vy * vp).sqrt())
    }
}

/// Mean squared error and Pearson's r of some predictions, with percentile intervals over whole groups; a picture without a
/// group is its own. Numbers are taken from the middle of their range, so that sums lose nothing.
pub fn over_groups(
    truth: &[f64],
    predicted: &[f64],
    weight: &[f64],
    groups: &[Option<String>],
    seed: u64,
) -> [Interval; 2] {
    let middle = truth.iter().sum::<f64>() / truth.len().max(1) as f64;
    let mut parts: Vec<Sums> = vec![];
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, group) in groups.iter().enumerate() {
        let at = match group {
            Some(name) => *known.entry(name).or_insert(parts.len()),
            None => parts.len(),
        };
        parts.resize(parts.len().max(at + 1), Sums::default());
        parts[at].add(&Sums::of(truth[i] - middle, predicted[i] - middle, weight[i]));
    }
    let sum = |picks: &mut dyn Iterator<Item = usize>| {
        let mut all = Sums::default();
        picks.for_each(|i| all.add(&parts[i]));
        all
    };
    let n = parts.len();
    let mut rng = Rng::new(seed, Stream::Bootstrap, 0);
    let draws: Vec<Sums> = (0..DRAWS).map(|_| sum(&mut (0..n).map(|_| rng.below(n)))).collect();
    let whole = sum(&mut (0..n));
    [Sums::mse, Sums::r].map(|of| {
        let mut all: Vec<f64> = draws.iter().filter_map(of).collect();
        all.sort_by(f64::total_cmp);
        let at = |part: f64| all.get((part * (all.len().max(1) - 1) as f64).round() as usize).copied();
        Interval { value: of(&whole), low: at(0.025), high: at(0.975) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_agree_in_themselves_tell_less() {
        // Forty pictures in four groups whose errors are alike, and the same pictures one by one.
        let truth: Vec<f64> = (0..40).map(|i| 1.0 + f64::from(i % 8)).collect();
        let predicted: Vec<f64> = (0..40).map(|i| truth[i] + [0.0, 0.5, 1.0, 2.0][i / 10]).collect();
        let groups: Vec<Option<String>> = (0..40).map(|i| Some(format!("g{}", i / 10))).collect();
        let of = |groups: &[Option<String>]| over_groups(&truth, &predicted, &[1.0; 40], groups, 1);
        let ([mse, r], [alone, _]) = (of(&groups), of(&vec![None; 40]));
        let exact = (0.25 + 1.0 + 4.0) / 4.0;
        assert!((mse.value.unwrap() - exact).abs() < 1e-12 && alone.value == mse.value, "{mse:?}");
        let width = |i: Interval| i.high.unwrap() - i.low.unwrap();
        assert!(width(mse) > 1.5 * width(alone), "{mse:?} {alone:?}");
        assert!(r.low < r.value && r.value < r.high && r.value.unwrap() > 0.9, "{r:?}");
        // One number for all: no correlation.
        let flat = over_groups(&truth, &[3.0; 40], &[1.0; 40], &groups, 1);
        assert_eq!(flat[1], Interval { value: None, low: None, high: None });
    }
}
