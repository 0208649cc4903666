/*! How good predictions are, per dimension and in float64, always beside a predictor that answers the training mean.
A measure that has no value (the correlation of a constant) is None, hence null in JSON and a dash in tables: never NaN.
NaN or infinity among the inputs is an error, because an average would hide it. Pictures may count differently (the
manifest's `weight`): every mean, variance and share is then a weighted one. */

use crate::error::{Error, Result};
use crate::table::{number, text_table};
use serde::{Deserialize, Serialize};

/// The middle of the 1 to 9 scale: above it is pleasant or aroused, below it is not.
pub const MIDPOINT: f64 = 5.0;

/// The ends of the scale that every rating is on.
pub const SCALE: [f64; 2] = [1.0, 9.0];

/// Whether a prediction is one that no rating can be.
pub fn beyond_scale(prediction: f64) -> bool {
    !(SCALE[0]..=SCALE[1]).contains(&prediction)
}

/// SD over the largest magnitude, below which numbers differ by the rounding of float32 alone, and what they have in common
/// with others is chance: 128 units in the last place, more than the sums of a network's last layers leave.
const ROUNDING: f64 = 128.0 * f32::EPSILON as f64 / 2.0;

/// SD of predictions, points, below which they are as good as constant, and a slope on them has no meaning: nobody rates
/// to a hundredth of a point.
pub const LEAST_SPREAD: f64 = 0.01;

/// One dimension's measures. `p` is the prediction, `a` the rating; ratings and errors are in points of the 1 to 9 scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DimensionMetrics {
    /// Mean of (p-a)^2, points squared.
    pub mse: f64,
    /// Square root of `mse`, points.
    pub rmse: f64,
    /// Mean of |p-a|, points.
    pub mae: f64,
    /// Mean of p-a, points: positive when predictions are too high.
    pub bias: f64,
    /// Pearson's correlation, -1 to 1. None when predictions or ratings are all equal, or differ by rounding alone: an SD
    /// below 128 units in the last place of float32, 4e-5 points at 5.
    pub pearson_r: Option<f64>,
    /// Lin's concordance (Lin 1989, moments divided by n), -1 to 1. None when both are all equal, to the same value.
    pub ccc: Option<f64>,
    /// [`sagr`] about 5, 0 to 1.
    pub sagr_at_5: f64,
    /// Share of the ratings on the larger side of 5: what always answering that side would get as `sagr_at_5`.
    #[serde(default)]
    pub majority_at_5: f64,
    /// Mean of 100 (1 - |p-a|/9): the accuracy of Parry & Vuong 2021.
    pub accuracy9_percent: f64,
    /// Mean of 100 (1 - |p-a|/8): the same by the range of the scale, which is 8.
    pub accuracy8_percent: f64,
    /// Slope of the least-squares line of ratings on predictions: 1 is calibrated, below 1 is overconfident. None when
    /// the SD of the predictions is below a hundredth of a point.
    pub calibration_slope: Option<f64>,
    /// Sample SD (n-1) of the predictions, points; with weights their weighted variance times n/(n-1). None for one picture.
    pub sd_predicted: Option<f64>,
    /// Sample SD (n-1) of the ratings, points. None for one picture.
    pub sd_true: Option<f64>,
    /// Part of the predictions that lie beyond the scale of 1 to 9, percent.
    #[serde(default)]
    pub beyond_scale_percent: f64,
}

/// How many measures there are of a dimension.
pub const MEASURES: usize = 14;

/// One measure of a [`DimensionMetrics`], for tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// The name in JSON.
    pub key: &'static str,
    /// The name for readers.
    pub label: &'static str,
    /// How to read it, in one sentence.
    pub meaning: &'static str,
    /// Digits after the point that are worth printing.
    pub decimals: usize,
    pub value: Option<f64>,
}

impl DimensionMetrics {
    /// Measures predictions `p` against ratings `a`, picture by picture, all of which count alike.
    ///
    /// # Errors
    /// No pictures, different lengths, or a value that is not finite.
    pub fn of(a: &[f64], p: &[f64]) -> Result<Self> {
        Self::weighted(a, p, &vec![1.0; a.len()])
    }

    /// The same where picture i counts `w[i]` times, which need not be whole. Pictures that count 0 are left out.
    ///
    /// # Errors
    /// As [`DimensionMetrics::of`]; also weights that are negative, not finite or all 0.
    pub fn weighted(a: &[f64], p: &[f64], w: &[f64]) -> Result<Self> {
        if a.len() != p.len() || a.len() != w.len() {
            return Err(Error::job(format!("{} predictions and {} weights for {} ratings", p.len(), w.len(), a.len())));
        }
        if a.is_empty() {
            return Err(Error::job("no rated pictures to measure predictions on"));
        }
        for (what, v) in [("rating", a), ("prediction", p)] {
            if let Some(i) = v.iter().position(|x| !x.is_finite()) {
                return Err(Error::job(format!("{what} {} of {} is not a finite number ({})", i + 1, v.len(), v[i])));
            }
        }
        if let Some(i) = w.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
            return Err(Error::job(format!("weight {} of {} is not a number from 0 ({})", i + 1, w.len(), w[i])));
        }
        let counts: Vec<usize> = (0..w.len()).filter(|&i| w[i] > 0.0).collect();
        let [a, p, w] = [a, p, w].map(|v| counts.iter().map(|&i| v[i]).collect::<Vec<f64>>());
        let (a, p, total) = (&a[..], &p[..], w.iter().sum::<f64>());
        if a.is_empty() {
            return Err(Error::job("all pictures to measure predictions on have weight 0"));
        }
        let n = a.len() as f64;
        let each = || a.iter().zip(p).zip(&w);
        let mean = |f: &dyn Fn(f64, f64) -> f64| each().map(|((&a, &p), w)| w * f(a, p)).sum::<f64>() / total;
        let (ma, mp) = (mean(&|a, _| a), mean(&|_, p| p));
        // Rounding of the mean leaves a constant a tiny variance, and that a meaningless correlation.
        let constant = |v: &[f64]| v.iter().all(|x| *x == v[0]);
        let (flat_a, flat_p) = (constant(a), constant(p));
        let va = if flat_a { 0.0 } else { mean(&|a, _| (a - ma) * (a - ma)) };
        let vp = if flat_p { 0.0 } else { mean(&|_, p| (p - mp) * (p - mp)) };
        let cov = if flat_a || flat_p { 0.0 } else { mean(&|a, p| (a - ma) * (p - mp)) };
        let concordance = va + vp + (ma - mp) * (ma - mp);
        let mse = mean(&|a, p| (p - a) * (p - a));
        let mae = mean(&|a, p| (p - a).abs());
        let varies = |v: &[f64], variance: f64| {
            let largest = v.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            variance.sqrt() > ROUNDING * largest
        };
        let sample_sd = |v: f64| (a.len() > 1).then(|| (v * n / (n - 1.0)).sqrt());
        Ok(Self {
            mse,
            rmse: mse.sqrt(),
            mae,
            bias: mean(&|a, p| p - a),
            pearson_r: (varies(a, va) && varies(p, vp)).then(|| (cov / (va.sqrt() * vp.sqrt())).clamp(-1.0, 1.0)),
            ccc: (concordance > 0.0).then(|| 2.0 * cov / concordance),
            sagr_at_5: mean(&|a, p| agree(a, p, MIDPOINT)),
            majority_at_5: [-1.0, 0.0, 1.0]
                .map(|side| mean(&|a, _| agree(a, MIDPOINT + side, MIDPOINT)))
                .into_iter()
                .fold(0.0, f64::max),
            accuracy9_percent: 100.0 * (1.0 - mae / 9.0),
            accuracy8_percent: 100.0 * (1.0 - mae / 8.0),
            calibration_slope: (vp.sqrt() >= LEAST_SPREAD).then(|| cov / vp),
            sd_predicted: sample_sd(vp),
            sd_true: sample_sd(va),
            beyond_scale_percent: 100.0 * mean(&|_, p| beyond_scale(p) as u8 as f64),
        })
    }

    /// All measures in the order of the struct.
    pub fn fields(&self) -> [Field; MEASURES] {
        let f = |key, label, meaning, decimals, value| Field { key, label, meaning, decimals, value };
        [
            f("mse", "MSE", "Mean squared error, points².", 3, Some(self.mse)),
            f("rmse", "RMSE", "Root of the mean squared error, points.", 3, Some(self.rmse)),
            f("mae", "MAE", "Mean absolute error, points.", 3, Some(self.mae)),
            f("bias", "Bias", "Mean of predicted minus true, points.", 3, Some(self.bias)),
            f("pearson_r", "Pearson r", "Linear correlation; ignores scale and shift.", 3, self.pearson_r),
            f("ccc", "CCC", "Lin's concordance: correlation that also counts scale and shift.", 3, self.ccc),
            f(
                "sagr_at_5",
                "SAGR at 5",
                "Sign agreement: share on the right side of the midpoint 5.",
                3,
                Some(self.sagr_at_5),
            ),
            f(
                "majority_at_5",
                "Majority side",
                "Share of ratings on the larger side of 5: the SAGR of always answering that side.",
                3,
                Some(self.majority_at_5),
            ),
            f("accuracy9_percent", "Accuracy /9, %", "100 (1 − |error|/9), averaged.", 2, Some(self.accuracy9_percent)),
            f(
                "accuracy8_percent",
                "Accuracy /8, %",
                "The same by the scale's range, 8.",
                2,
                Some(self.accuracy8_percent),
            ),
            f(
                "calibration_slope",
                "Calibration slope",
                "Ratings on predictions; 1 is calibrated, below 1 overconfident.",
                3,
                self.calibration_slope,
            ),
            f("sd_predicted", "SD predicted", "Spread of the predictions (n−1), points.", 3, self.sd_predicted),
            f("sd_true", "SD true", "Spread of the ratings (n−1), points.", 3, self.sd_true),
            f(
                "beyond_scale_percent",
                "Beyond 1 to 9, %",
                "Predictions that no rating can be.",
                2,
                Some(self.beyond_scale_percent),
            ),
        ]
    }
}

/// Sign agreement: the fraction of pictures with sign(p - centre) = sign(a - centre), the sign of 0 being 0. So a rating
/// exactly at the centre is agreed with only by a prediction exactly there, and such a prediction by no other rating.
/// Lengths are equal and not 0.
pub fn sagr(a: &[f64], p: &[f64], centre: f64) -> f64 {
    a.iter().zip(p).map(|(a, p)| agree(*a, *p, centre)).sum::<f64>() / a.len() as f64
}

/// 1 where both are on one side of the centre, or on it; else 0.
fn agree(a: f64, p: f64, centre: f64) -> f64 {
    f64::from(u8::from(a.partial_cmp(&centre) == p.partial_cmp(&centre)))
}

/// One dimension: the model beside the predictor that answers the training mean to every picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dimension {
    pub name: String,
    /// What the baseline answers, points; where that differs by picture, as over several folds, its mean.
    pub train_mean: f64,
    pub model: DimensionMetrics,
    pub baseline: DimensionMetrics,
}

impl Dimension {
    /// 1 - MSE/MSE of the baseline: the part of the squared error that the model removes; negative when it is worse.
    /// None when the baseline makes no error.
    pub fn skill(&self) -> Option<f64> {
        (self.baseline.mse > 0.0).then(|| 1.0 - self.model.mse / self.baseline.mse)
    }
}

/// The measures of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Pictures.
    pub n: usize,
    /// MSE averaged over dimensions: the loss of a network with several outputs.
    pub mse_mean: f64,
    /// Pearson's correlation over all dimensions thrown together (Noguera 2018); flatters when their means differ.
    pub cc_flat: Option<f64>,
    pub dimensions: Vec<Dimension>,
}

/// What is measured: `names.len()` values a picture, one picture after another.
pub struct Measured<'a, T> {
    pub names: &'a [&'a str],
    pub truth: &'a [T],
    pub predicted: &'a [T],
    /// What the baseline answers: one value a name, or one for each rating where pictures are of several folds, each with
    /// the mean of what its model was trained on.
    pub train_mean: &'a [f64],
    /// How much each picture counts.
    pub weight: &'a [f64],
}

impl Metrics {
    /// Measures `predicted` against `truth`, both picture by picture with `names.len()` values each; `train_mean` has
    /// the mean rating of the TRAINING pictures per dimension.
    ///
    /// # Errors
    /// No pictures, sizes that do not fit, or a value that is not finite.
    pub fn of<T: Copy + Into<f64>>(names: &[&str], truth: &[T], predicted: &[T], train_mean: &[f64]) -> Result<Self> {
        let weight = vec![1.0; truth.len() / names.len().max(1)];
        Self::measure(&Measured { names, truth, predicted, train_mean, weight: &weight })
    }

    /// [`Metrics::of`] with weights, and with a baseline for each picture.
    pub fn measure<T: Copy + Into<f64>>(m: &Measured<T>) -> Result<Self> {
        let d = m.names.len();
        let of_each = m.train_mean.len() == m.truth.len() && m.truth.len() != d;
        if d == 0 || !m.truth.len().is_multiple_of(d) || !(of_each || m.train_mean.len() == d) {
            return Err(Error::job(format!(
                "{} ratings and {} training means do not fit {d} dimensions",
                m.truth.len(),
                m.train_mean.len()
            )));
        }
        let n = m.truth.len() / d;
        let [truth, predicted] = [m.truth, m.predicted].map(|v| v.iter().map(|&x| x.into()).collect::<Vec<f64>>());
        let flat: Vec<f64> = m.weight.iter().flat_map(|w| vec![*w; d]).collect();
        let cc_flat = DimensionMetrics::weighted(&truth, &predicted, &flat)?.pearson_r;
        let column = |v: &[f64], k: usize| -> Vec<f64> { v.iter().skip(k).step_by(d).copied().collect() };
        let mut dimensions = Vec::new();
        for (k, name) in m.names.iter().enumerate() {
            let (a, p) = (column(&truth, k), column(&predicted, k));
            let answer = if of_each { column(m.train_mean, k) } else { vec![m.train_mean[k]; n] };
            let model = DimensionMetrics::weighted(&a, &p, m.weight).map_err(|e| e.at(*name))?;
            let baseline = DimensionMetrics::weighted(&a, &answer, m.weight)
                .map_err(|e| Error::job(format!("training mean: {e}")).at(*name))?;
            let equal = answer.iter().all(|x| *x == answer[0]);
            let mean = || answer.iter().zip(m.weight).map(|(x, w)| x * w).sum::<f64>() / m.weight.iter().sum::<f64>();
            let train_mean = if equal { answer[0] } else { mean() };
            dimensions.push(Dimension { name: name.to_string(), train_mean, model, baseline });
        }
        let mse_mean = dimensions.iter().map(|d| d.model.mse).sum::<f64>() / d as f64;
        let n = m.weight.iter().filter(|w| **w > 0.0).count();
        Ok(Self { n, mse_mean, cc_flat, dimensions })
    }

    /// A remark where predictions lie beyond the scale.
    pub fn beyond(&self) -> Option<String> {
        let counts = self.dimensions.iter().map(|d| (&*d.name, d.model.beyond_scale_percent * self.n as f64 / 100.0));
        remark_beyond(counts.map(|(name, count)| (name, count.round() as usize)), self.n)
    }

    /// What the measures mean that are not everybody's, a line each.
    pub fn legend(&self) -> String {
        let fields = self.dimensions.iter().take(1).flat_map(|d| d.model.fields());
        let known = fields.filter(|f| {
            ["ccc", "sagr_at_5", "majority_at_5", "accuracy9_percent", "calibration_slope"].contains(&f.key)
        });
        known.map(|f| format!("{}: {}", f.label, f.meaning)).collect::<Vec<_>>().join("\n")
    }

    /// An aligned text table: one row per measure, the model and the baseline per dimension.
    pub fn table(&self) -> String {
        let mut header = vec![format!("n = {}", self.n)];
        for d in &self.dimensions {
            header.extend([d.name.clone(), "train mean".into()]);
        }
        let columns: Vec<[Field; MEASURES]> =
            self.dimensions.iter().flat_map(|d| [d.model.fields(), d.baseline.fields()]).collect();
        let mut rows = Vec::new();
        for (i, field) in columns[0].iter().enumerate() {
            let mut row = vec![field.label.to_string()];
            row.extend(columns.iter().map(|c| number(c[i].value, c[i].decimals)));
            rows.push(row);
        }
        text_table(&header, &rows)
    }
}

/// Says how many predictions about `pictures` lie beyond the scale, by target; None where none does.
pub fn remark_beyond<'a>(counts: impl Iterator<Item = (&'a str, usize)>, pictures: usize) -> Option<String> {
    let some: Vec<String> = counts.filter(|c| c.1 > 0).map(|(t, n)| format!("{n} of {t}")).collect();
    let of = if pictures == 1 { "picture" } else { "pictures" };
    (!some.is_empty()).then(|| {
        format!(
            "Predictions beyond the scale of 1 to 9: {}, of {pictures} {of}. No rating can be there: the model does not fit.",
            some.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq as close;

    #[test]
    fn by_hand() {
        // Errors 1, 0, -1, 2; means 4.5 and 5; about them the squares sum to 19 and 34, the products to 24.
        let (a, p) = ([2.0, 4.0, 4.0, 8.0], [3.0, 4.0, 3.0, 10.0]);
        let m = DimensionMetrics::of(&a, &p).unwrap();
        close!(m.mse, 1.5);
        close!(m.rmse, 1.5_f64.sqrt());
        close!(m.mae, 1.0);
        close!(m.bias, 0.5);
        let (saa, spp, sap) = (19.0, 34.0, 24.0);
        close!(m.pearson_r.unwrap(), sap / f64::sqrt(saa * spp));
        close!(m.ccc.unwrap(), 2.0 * sap / (saa + spp + 4.0 * 0.25));
        close!(m.calibration_slope.unwrap(), sap / spp);
        close!(m.sd_true.unwrap(), f64::sqrt(saa / 3.0));
        close!(m.sd_predicted.unwrap(), f64::sqrt(spp / 3.0));
        close!(m.accuracy9_percent, 100.0 * (1.0 - 1.0 / 9.0));
        close!(m.accuracy8_percent, 87.5);
        close!(m.sagr_at_5, 1.0);
    }

    /// Values of NumPy, SciPy and scikit-learn for weighted and unweighted samples: see `tests/golden/statistics`.
    #[test]
    fn libraries_say_the_same() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/statistics/statistics.json")).unwrap();
        let list =
            |v: &serde_json::Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
        let cases = golden["metrics"].as_array().unwrap();
        assert!(cases.len() >= 6);
        for case in cases {
            let m =
                DimensionMetrics::weighted(&list(&case["truth"]), &list(&case["predicted"]), &list(&case["weight"]))
                    .unwrap();
            for field in m.fields() {
                let want = case["measures"].get(field.key).unwrap_or_else(|| panic!("no {}", field.key));
                match (want.as_f64(), field.value) {
                    (Some(want), Some(got)) => close!(got, want, epsilon = 1e-12, max_relative = 1e-12),
                    (want, got) => assert_eq!(want, got, "{} of {}", field.key, case["name"]),
                }
            }
        }
    }

    #[test]
    fn whole_weights_are_repetitions() {
        let (a, p) = ([2.0, 4.0, 7.5, 8.0], [3.0, 4.5, 5.0, 9.5]);
        let m = DimensionMetrics::weighted(&a, &p, &[1.0, 0.0, 3.0, 2.0]).unwrap();
        let repeated = DimensionMetrics::of(&[2.0, 7.5, 7.5, 7.5, 8.0, 8.0], &[3.0, 5.0, 5.0, 5.0, 9.5, 9.5]).unwrap();
        close!(m.mse, repeated.mse, max_relative = 1e-15);
        close!(m.pearson_r.unwrap(), repeated.pearson_r.unwrap(), max_relative = 1e-14);
        close!(m.ccc.unwrap(), repeated.ccc.unwrap(), max_relative = 1e-14);
        close!(m.beyond_scale_percent, 100.0 / 3.0, max_relative = 1e-15);
        assert_eq!((m.sagr_at_5, m.majority_at_5), (repeated.sagr_at_5, 5.0 / 6.0));
        assert!(DimensionMetrics::weighted(&a, &p, &[0.0; 4]).is_err());
        assert!(DimensionMetrics::weighted(&a, &p, &[1.0, -1.0, 1.0, 1.0]).is_err());
    }

    /// Over folds the baseline answers the mean of each fold's own training pictures.
    #[test]
    fn every_fold_has_its_own_baseline() {
        let m = Measured {
            names: &["valence"],
            truth: &[2.0, 4.0, 9.0],
            predicted: &[2.0, 4.0, 9.0],
            train_mean: &[6.5, 6.5, 3.0],
            weight: &[1.0; 3],
        };
        let d = Metrics::measure(&m).unwrap().dimensions.remove(0);
        close!(d.baseline.mse, (4.5f64.powi(2) + 2.5f64.powi(2) + 36.0) / 3.0);
        close!(d.train_mean, 16.0 / 3.0);
    }

    #[test]
    fn predictions_beyond_the_scale_are_counted() {
        let names = ["valence", "arousal"];
        let truth = [2.0, 3.0, 8.0, 7.0, 5.0, 5.0, 5.0, 5.0];
        let m = |predicted: &[f64]| Metrics::of(&names, &truth, predicted, &[5.0, 5.0]).unwrap();
        assert_eq!(m(&[1.0, 9.0, 1.0, 9.0, 5.0, 5.0, 5.0, 5.0]).beyond(), None);
        let m = m(&[0.99, 3.0, -53.6, 9.01, 9.5, 5.0, 5.0, 5.0]);
        assert_eq!([0, 1].map(|d| m.dimensions[d].model.beyond_scale_percent), [75.0, 25.0]);
        assert!(m.beyond().unwrap().contains(": 3 of valence, 1 of arousal, of 4 pictures."), "{:?}", m.beyond());
    }

    #[test]
    fn sagr_at_exactly_five() {
        assert_eq!(sagr(&[5.0, 5.0, 4.0, 6.0], &[5.0, 6.0, 5.0, 7.0], 5.0), 0.5);
    }

    #[test]
    fn what_has_no_value_is_null() {
        // 0.1 has a rounded mean: the variance of a constant must still be nothing.
        let m = DimensionMetrics::of(&[0.1; 10], &[0.1; 10]).unwrap();
        assert_eq!((m.pearson_r, m.ccc, m.calibration_slope, m.sd_true), (None, None, None, Some(0.0)));
        let m = Metrics::of(&["valence"], &[1.0_f32, 2.0, 9.0], &[1.5, 2.5, 8.0], &[5.1]).unwrap();
        let base = &m.dimensions[0].baseline;
        assert_eq!((base.pearson_r, base.calibration_slope, base.ccc), (None, None, Some(0.0)));
        let json = serde_json::to_string(&m).unwrap();
        assert!(json.contains(r#""pearson_r":null"#) && !json.contains("NaN"));
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), m);
        assert_eq!(DimensionMetrics::of(&[3.0], &[4.0]).unwrap().sd_true, None);
        // Predictions that differ by rounding alone have no slope.
        let nearly = DimensionMetrics::of(&[2.0, 8.0, 5.0], &[5.0, 5.000001, 5.0]).unwrap();
        assert_eq!((nearly.calibration_slope, nearly.pearson_r), (None, None));
        assert!(DimensionMetrics::of(&[2.0, 8.0], &[4.9, 5.1]).unwrap().calibration_slope.is_some());
    }

    /// A network that has collapsed answers one number, but for an ulp here and there: no correlation, whatever it is with.
    #[test]
    fn rounding_has_no_correlation() {
        let mut rng = crate::rng::Rng::new(3, crate::rng::Stream::Test(21), 0);
        let a: Vec<f64> = (0..40).map(|_| 1.0 + 8.0 * f64::from(rng.uniform())).collect();
        // Ulps that go with the ratings, the other way round: r would be near -1.
        let ulps =
            |scale: f32| a.iter().map(|a| f64::from(5.25f32 - (*a as f32).round() * scale * f32::EPSILON)).collect();
        for scale in [2.0, 8.0, 16.0] {
            let p: Vec<f64> = ulps(scale);
            let m = DimensionMetrics::of(&a, &p).unwrap();
            assert!(m.sd_predicted > Some(0.0) && m.sd_predicted < Some(4e-5), "{:?}", m.sd_predicted);
            assert_eq!((m.pearson_r, m.calibration_slope), (None, None));
            // The same of ratings.
            assert_eq!(DimensionMetrics::of(&p, &a).unwrap().pearson_r, None);
        }
        // A thousandth of a point is more than rounding: a correlation, though no slope.
        let p: Vec<f64> = a.iter().map(|a| 5.25 + 1e-3 * a).collect();
        let m = DimensionMetrics::of(&a, &p).unwrap();
        close!(m.pearson_r.unwrap(), 1.0, epsilon = 1e-12);
        assert_eq!(m.calibration_slope, None);
    }

    #[test]
    fn identities_hold_on_random_ratings() {
        let mut rng = crate::rng::Rng::new(1, crate::rng::Stream::Test(20), 0);
        for n in 2..60 {
            let mut draw = || 1.0 + 8.0 * rng.uniform();
            let (a, p): (Vec<f32>, Vec<f32>) = (0..2 * n).map(|_| (draw(), draw())).unzip();
            let m = Metrics::of(&["valence", "arousal"], &a, &p, &[5.0, 4.0]).unwrap();
            for d in &m.dimensions {
                for m in [&d.model, &d.baseline] {
                    close!(m.rmse * m.rmse, m.mse, max_relative = 1e-14);
                    assert!(m.mae <= m.rmse + 1e-12 && m.mse >= m.bias * m.bias - 1e-12);
                    close!(900.0 - 9.0 * m.accuracy9_percent, 800.0 - 8.0 * m.accuracy8_percent, epsilon = 1e-9);
                }
                assert!(d.model.ccc.unwrap().abs() <= d.model.pearson_r.unwrap().abs() + 1e-12);
                // The best constant is the mean of the very ratings; another one adds its squared distance.
                let (sd, bias) = (d.baseline.sd_true.unwrap(), d.baseline.bias);
                close!(d.baseline.mse, sd * sd * (n as f64 - 1.0) / n as f64 + bias * bias, max_relative = 1e-9);
            }
            close!(m.mse_mean, (m.dimensions[0].model.mse + m.dimensions[1].model.mse) / 2.0);
        }
        // A perfect predictor.
        let m = DimensionMetrics::of(&[1.0, 5.0, 7.5], &[1.0, 5.0, 7.5]).unwrap();
        assert_eq!((m.mse, m.sagr_at_5, m.accuracy9_percent), (0.0, 1.0, 100.0));
        close!(m.ccc.unwrap(), 1.0);
        close!(m.calibration_slope.unwrap(), 1.0);
    }

    #[test]
    fn bad_input_is_refused() {
        let e = DimensionMetrics::of(&[1.0, f64::NAN], &[1.0, 2.0]).unwrap_err();
        assert_eq!(e.to_string(), "rating 2 of 2 is not a finite number (NaN)");
        assert!(DimensionMetrics::of(&[1.0], &[f64::INFINITY]).is_err());
        assert!(DimensionMetrics::of(&[], &[]).is_err());
        assert!(DimensionMetrics::of(&[1.0], &[]).is_err());
        assert!(Metrics::of(&["v", "a"], &[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0], &[5.0, 5.0]).is_err());
        assert!(Metrics::of(&["v"], &[1.0], &[1.0], &[f64::NAN]).is_err());
        assert!(Metrics::of(&[], &[1.0], &[1.0], &[]).is_err());
    }

    #[test]
    fn the_table_is_aligned() {
        let m =
            Metrics::of(&["valence", "arousal"], &[2.0, 3.0, 8.0, 7.0], &[2.5, 3.0, 7.0, 6.0], &[5.0, 5.0]).unwrap();
        let table = m.table();
        let widths: Vec<usize> = table.lines().map(|l| l.chars().count()).collect();
        assert!(widths.iter().all(|w| *w == widths[0]), "{table}");
        assert_eq!(table.lines().count(), 16);
        assert!(table.lines().nth(2).unwrap().starts_with("MSE"));
    }
}
