//! Noguera's measures and the rescaling of ratings against SciPy's and scikit-learn's: host arithmetic in float64, the same on
//! every device.

use super::cases::EXACT;
use super::{Checked, Context, Stop};
use crate::data::import::records::onto_nine;
use crate::error::Result;
use crate::train::metrics::{Metrics, sagr};

impl Context<'_> {
    pub(super) fn metrics(&self) -> Result<Vec<Checked>, Stop> {
        let check = |tensor: &str, got: &[f64]| -> Result<Checked> {
            let want = &self.get(tensor)?.data;
            Ok(Checked::new(tensor, got, want, EXACT * want.iter().fold(0.0, |m: f64, w| m.max(w.abs()))))
        };
        match self.text("kind") {
            "rescale" => {
                // A rating and the ends of its scale.
                let old = self.ranked("old", 2)?;
                let new: Vec<f64> =
                    old.data.as_chunks().0.iter().map(|[v, lo, hi]| onto_nine(*v, (*lo, *hi))).collect();
                Ok(vec![check("new", &new)?])
            }
            "noguera" => {
                let (truth, predicted) = (self.ranked("truth", 2)?, self.ranked("predicted", 2)?);
                if truth.dims != predicted.dims || truth.dims[1] != 2 {
                    return Err(self.wrong("truth", "truth and predicted are not [n,2] both").into());
                }
                let column = |t: &[f64], k: usize| -> Vec<f64> { t.iter().skip(k).step_by(2).copied().collect() };
                let of = |f: &dyn Fn(&[f64], &[f64]) -> f64| {
                    [0, 1].map(|k| f(&column(&truth.data, k), &column(&predicted.data, k)))
                };
                let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
                // The baseline of the file answers the mean of the ratings themselves.
                let means = [0, 1].map(|k| mean(&column(&truth.data, k)));
                let m = Metrics::of(&["valence", "arousal"], &truth.data, &predicted.data, &means)?;
                let each = |f: fn(&crate::train::metrics::Dimension) -> f64| [f(&m.dimensions[0]), f(&m.dimensions[1])];
                let flat = Metrics::of(&["both"], &truth.data, &predicted.data, &means[..1])?;
                let none = f64::NAN;
                Ok(vec![
                    check("rmse", &each(|d| d.model.rmse))?,
                    check("cc", &each(|d| d.model.pearson_r.unwrap_or(f64::NAN)))?,
                    check("sagr_5", &each(|d| d.model.sagr_at_5))?,
                    check("sagr_0", &of(&|t, p| sagr(t, p, 0.0)))?,
                    check("sagr_constant", &each(|d| d.baseline.sagr_at_5))?,
                    check("mse_both", &[m.mse_mean])?,
                    check("rmse_flat", &[flat.dimensions[0].model.rmse])?,
                    check("cc_flat", &[m.cc_flat.unwrap_or(none)])?,
                ])
            }
            other => Err(Stop::Unsupported(format!("kind {other}"))),
        }
    }
}
