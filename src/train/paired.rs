/*! Is one model better than another? Both were judged on the same folds, so their errors are compared fold by fold: the
paired t-test of Parry & Vuong 2021 (Table 4: two-sided, uncorrected, degrees of freedom one less than folds), and beside
it what that test leaves out. Training sets of a cross-validation overlap, so differences between folds vary less than
differences between data sets: Nadeau & Bengio 2003, "Inference for the generalization error", widen the variance by
1/k + n_test/n_train instead of 1/k. And of many comparisons some are extreme by chance: Holm 1979 corrects for that. */

use super::student::{point, two_sided};
use serde::Serialize;

/// The comparison of two models over the same k folds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Mean of the first's value minus the second's.
    pub difference: f64,
    /// Sample SD (n-1) of the differences.
    pub sd: f64,
    /// difference / (sd / sqrt k); None where no fold differs from another in its difference.
    pub t: Option<f64>,
    pub df: usize,
    /// Two-sided.
    pub p: Option<f64>,
    /// Cohen's d_z (1988, section 2.3.5): difference / sd, in SDs of the differences and not of the values.
    #[serde(rename = "d_z")]
    pub effect: Option<f64>,
    /// Two-sided p of the corrected resampled t-test.
    pub p_corrected: Option<f64>,
}

impl Paired {
    /// `a` and `b` hold one value a fold, in the same order; `share` is the size of a test part over that of the training
    /// part it goes with: 1 / (k - 1) for equal folds. None for fewer than two folds, or values that are not finite.
    pub fn of(a: &[f64], b: &[f64], share: f64) -> Option<Self> {
        let k = a.len();
        if k < 2 || b.len() != k || !a.iter().chain(b).all(|x| x.is_finite()) || share.is_nan() || share <= 0.0 {
            return None;
        }
        let n = k as f64;
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let difference = differences.iter().sum::<f64>() / n;
        let sd = (differences.iter().map(|d| (d - difference).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        // Differences that are equal but for rounding have no spread that anything could be held against.
        let scale = a.iter().chain(b).fold(0.0f64, |m, x| m.max(x.abs()));
        let spread = Some(sd).filter(|s| *s > 1e-12 * scale);
        let t = spread.map(|s| difference / (s / n.sqrt()));
        let corrected = spread.map(|s| difference / (s * (1.0 / n + share).sqrt()));
        Some(Self {
            difference,
            sd,
            t,
            df: k - 1,
            p: t.map(|t| two_sided(t, k - 1)),
            effect: spread.map(|s| difference / s),
            p_corrected: corrected.map(|t| two_sided(t, k - 1)),
        })
    }
}

/// Ends of the 95 % interval of a mean, by Student's t; None for fewer than two values.
pub fn interval(x: &[f64]) -> Option<[f64; 2]> {
    let df = x.len().checked_sub(1).filter(|df| *df > 0)?;
    let (n, t) = (x.len() as f64, point(0.05, df));
    let mean = x.iter().sum::<f64>() / n;
    let sd = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    Some([mean - t * sd / n.sqrt(), mean + t * sd / n.sqrt()])
}

/// The size of test parts over that of the training parts they go with, averaged over folds of these sizes: n_test / n_train
/// of the corrected resampled test. None for fewer than two folds, or where one has everything.
pub fn share(sizes: &[usize]) -> Option<f64> {
    let (all, k) = (sizes.iter().sum::<usize>(), sizes.len());
    let of = |n: &usize| *n as f64 / (all - n) as f64;
    (k > 1 && sizes.iter().all(|n| (1..all).contains(n))).then(|| sizes.iter().map(of).sum::<f64>() / k as f64)
}

/// p-values corrected for their number by Holm's step-down method, in the order given. What has no p stays without and
/// does not count.
pub fn holm(p: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<(usize, f64)> = p.iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?))).collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (mut corrected, mut largest, tests) = (vec![None; p.len()], 0.0f64, order.len());
    for (rank, (i, p)) in order.into_iter().enumerate() {
        largest = largest.max(p * (tests - rank) as f64).min(1.0);
        corrected[i] = Some(largest);
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq as close;

    #[test]
    fn the_interval_of_a_mean_is_students() {
        // 12 values of 0 and 1 by turns: mean 1/2, SD sqrt(3/11); t at 0.975 and 11 degrees of freedom is 2.200985.
        let x: Vec<f64> = (0..12).map(|i| f64::from(i % 2)).collect();
        let [low, high] = interval(&x).unwrap();
        let half = 2.200985160 * (3f64 / 11.0).sqrt() / 12f64.sqrt();
        close!(low, 0.5 - half, epsilon = 1e-8);
        close!(high, 0.5 + half, epsilon = 1e-8);
        assert_eq!((interval(&[1.0]), interval(&[])), (None, None));
        assert_eq!(interval(&[2.0, 2.0]), Some([2.0, 2.0]));
    }

    /// Parry & Vuong 2021, Tables S2 to S5, test rows: arousal and valence of the five folds.
    const SHARED_5: [[f64; 5]; 2] = [[1.90, 1.86, 1.90, 1.88, 1.90], [2.15, 2.14, 2.19, 2.13, 2.17]];
    const SHARED_9: [[f64; 5]; 2] = [[1.95, 1.96, 1.95, 1.95, 1.94], [2.21, 2.31, 2.21, 2.27, 2.29]];
    const SPLIT_5: [[f64; 5]; 2] = [[2.18, 2.13, 2.09, 2.11, 2.13], [2.36, 2.68, 2.39, 2.49, 2.37]];
    const SPLIT_9: [[f64; 5]; 2] = [[2.17, 2.14, 2.18, 2.11, 2.18], [2.39, 2.46, 2.38, 2.55, 2.47]];

    /// Table 4, rows 1 to 8, from the rounded folds; the paper prints 14.89 in the third and 5.80 in the fifth.
    #[test]
    fn the_papers_t_tests() {
        let rows = [
            (SHARED_9, SPLIT_9, 0, 13.41),
            (SHARED_9, SPLIT_9, 1, 8.47),
            (SHARED_5, SPLIT_5, 0, 14.88),
            (SHARED_5, SPLIT_5, 1, 4.52),
            (SHARED_5, SHARED_9, 0, 5.81),
            (SHARED_5, SHARED_9, 1, 3.74),
            (SPLIT_5, SPLIT_9, 0, 1.51),
            (SPLIT_9, SPLIT_5, 1, 0.14),
        ];
        let mut p = vec![];
        for (a, b, which, t) in rows {
            let got = Paired::of(&b[which], &a[which], 0.25).unwrap();
            assert_eq!(got.df, 4);
            close!(got.t.unwrap().abs(), t, epsilon = 0.005);
            p.push(got.p);
        }
        // As printed, cut or rounded to what is printed: .0001, .001, .0001, .01, .004, .02, .2, .9.
        for (p, [low, high]) in p.iter().zip([
            [1e-4, 2e-4],
            [1e-3, 1.1e-3],
            [1e-4, 2e-4],
            [0.01, 0.011],
            [0.004, 0.005],
            [0.02, 0.021],
            [0.2, 0.21],
            [0.89, 0.95],
        ]) {
            let p = p.unwrap();
            assert!((low..high).contains(&p), "{p} is not in {low}..{high}");
        }
    }

    #[test]
    fn tails_by_the_closed_form() {
        // Four degrees of freedom (Student 1908; F(t) = 1/2 + 3/8 u (1 - u^2/12), u = t / sqrt(1 + t^2/4)).
        for t in [1e-3, 0.14, 1.51, 4.52, 14.88, 40.0] {
            let u: f64 = t / (1.0 + t * t / 4.0f64).sqrt();
            let p = 1.0 - 0.75 * u * (1.0 - u * u / 12.0);
            let got = two_sided(-t, 4);
            close!(got, p, epsilon = 1e-9 * p + 1e-13);
        }
        // The corrected test divides by sqrt(1/k + share) instead of sqrt(1/k): a quarter more variance makes 9/5 of it.
        let p = Paired::of(&SPLIT_5[0], &SHARED_5[0], 0.25).unwrap();
        let corrected = p.t.unwrap() / (1.0f64 + 5.0 * 0.25).sqrt();
        close!(p.p_corrected.unwrap(), two_sided(corrected, 4), epsilon = 1e-15);
        close!(p.effect.unwrap(), p.t.unwrap() / 5f64.sqrt(), epsilon = 1e-12);
    }

    /// SciPy's paired t-tests and statsmodels' Holm, of the plain p and of the corrected one.
    #[test]
    fn libraries_say_the_same() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/statistics/statistics.json")).unwrap();
        let mut seen = 0;
        for group in golden["paired"].as_array().unwrap() {
            let tests = group["tests"].as_array().unwrap();
            let list =
                |v: &serde_json::Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
            let of =
                |t: &serde_json::Value| Paired::of(&list(&t["a"]), &list(&t["b"]), group["share"].as_f64().unwrap());
            let ours: Vec<Paired> = tests.iter().map(|t| of(t).unwrap()).collect();
            let [plain, corrected] = [|p: &Paired| p.p, |p: &Paired| p.p_corrected]
                .map(|of: fn(&Paired) -> Option<f64>| holm(&ours.iter().map(of).collect::<Vec<_>>()));
            for (i, (got, want)) in ours.iter().zip(tests).enumerate() {
                for (got, key) in [
                    (got.t, "t"),
                    (got.p, "p"),
                    (got.effect, "d_z"),
                    (got.p_corrected, "p_corrected"),
                    (plain[i], "p_holm"),
                    (corrected[i], "p_corrected_holm"),
                ] {
                    let (got, want) = (got.unwrap(), want[key].as_f64().unwrap());
                    assert!((got - want).abs() <= 1e-10 * want.abs() + 1e-13, "{key}: {got} instead of {want}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 12 * 6);
    }

    #[test]
    fn the_share_of_folds() {
        close!(share(&[20; 5]).unwrap(), 0.25, epsilon = 1e-15);
        close!(share(&[1, 3]).unwrap(), (1.0 / 3.0 + 3.0) / 2.0, epsilon = 1e-15);
        assert_eq!((share(&[5]), share(&[0, 5]), share(&[])), (None, None, None));
    }

    #[test]
    fn what_cannot_be_compared_has_no_value() {
        assert_eq!(Paired::of(&[1.0], &[2.0], 0.25), None);
        assert_eq!(Paired::of(&[1.0, 2.0], &[2.0], 1.0), None);
        assert_eq!(Paired::of(&[1.0, f64::NAN], &[2.0, 1.0], 1.0), None);
        let same = Paired::of(&[1.1, 2.2, 3.3], &[1.0, 2.1, 3.2], 0.5).unwrap();
        assert_eq!((same.t, same.p, same.effect), (None, None, None));
    }

    #[test]
    fn holm_by_hand() {
        let p = [Some(0.01), Some(0.04), None, Some(0.03), Some(0.005)];
        let want: [Option<f64>; 5] = [Some(0.03), Some(0.06), None, Some(0.06), Some(0.02)];
        for (got, want) in holm(&p).into_iter().zip(want) {
            match (got, want) {
                (Some(a), Some(b)) => close!(a, b, epsilon = 1e-15),
                (a, b) => assert_eq!(a, b),
            }
        }
        assert_eq!(holm(&[Some(0.9), Some(0.8)]), [Some(1.0), Some(1.0)]);
    }
}
