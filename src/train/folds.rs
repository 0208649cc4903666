//! Means and sample SDs over the folds of a cross-validation.

use super::metrics::{Field, MEASURES, Metrics};
use crate::error::{Error, Result};
use crate::table::{number, text_table};
use serde::{Deserialize, Serialize};

/// Mean and sample SD (n-1) over folds. Both are None where a fold has no value; the SD also for a single fold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub mean: Option<f64>,
    pub sd: Option<f64>,
}

impl Spread {
    pub fn of(values: &[Option<f64>]) -> Self {
        let Some(v) = values.iter().copied().collect::<Option<Vec<f64>>>().filter(|v| !v.is_empty()) else {
            return Self { mean: None, sd: None };
        };
        let n = v.len() as f64;
        let mean = v.iter().sum::<f64>() / n;
        let squares: f64 = v.iter().map(|x| (x - mean) * (x - mean)).sum();
        Self { mean: Some(mean), sd: (v.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) }
    }
}

/// One measure of one dimension over folds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// The measure's name in the JSON of one fold.
    pub measure: &'static str,
    #[serde(skip)]
    pub label: &'static str,
    #[serde(skip)]
    pub meaning: &'static str,
    #[serde(skip)]
    pub decimals: usize,
    pub model: Spread,
    pub baseline: Spread,
}

/// One dimension over folds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DimensionFolds {
    pub name: String,
    pub measures: Vec<Measure>,
}

/// A cross-validation: every measure's mean and sample SD over folds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoldMetrics {
    pub folds: usize,
    pub mse_mean: Spread,
    pub dimensions: Vec<DimensionFolds>,
}

impl FoldMetrics {
    /// # Errors
    /// No folds, or folds with different dimensions.
    pub fn of(folds: &[Metrics]) -> Result<Self> {
        let Some(first) = folds.first() else { return Err(Error::job("no folds to average")) };
        let names = |m: &Metrics| m.dimensions.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
        if let Some(i) = folds.iter().position(|m| names(m) != names(first)) {
            return Err(Error::job(format!("fold {i} has other dimensions than fold 0")));
        }
        let dimension = |k: usize| {
            let model: Vec<[Field; MEASURES]> = folds.iter().map(|m| m.dimensions[k].model.fields()).collect();
            let baseline: Vec<[Field; MEASURES]> = folds.iter().map(|m| m.dimensions[k].baseline.fields()).collect();
            let over =
                |f: &[[Field; MEASURES]], i: usize| Spread::of(&f.iter().map(|f| f[i].value).collect::<Vec<_>>());
            let measures = model[0].iter().enumerate().map(|(i, f)| Measure {
                measure: f.key,
                label: f.label,
                meaning: f.meaning,
                decimals: f.decimals,
                model: over(&model, i),
                baseline: over(&baseline, i),
            });
            DimensionFolds { name: first.dimensions[k].name.clone(), measures: measures.collect() }
        };
        Ok(Self {
            folds: folds.len(),
            mse_mean: Spread::of(&folds.iter().map(|m| Some(m.mse_mean)).collect::<Vec<_>>()),
            dimensions: (0..first.dimensions.len()).map(dimension).collect(),
        })
    }

    /// A measure of dimension `k` by its name in JSON.
    pub fn measure(&self, k: usize, key: &str) -> Option<&Measure> {
        self.dimensions.get(k)?.measures.iter().find(|m| m.measure == key)
    }

    /// An aligned text table: one row per measure; mean and SD of the model and of the baseline per dimension.
    pub fn table(&self) -> String {
        let mut header = vec![format!("{} folds", self.folds)];
        for d in &self.dimensions {
            header.extend([d.name.clone(), "SD".into(), "train mean".into(), "SD".into()]);
        }
        let row = |i: usize| {
            let first = &self.dimensions[0].measures[i];
            let cells = self.dimensions.iter().flat_map(|d| [d.measures[i].model, d.measures[i].baseline]);
            let cells = cells.flat_map(|s| [s.mean, s.sd]).map(|v| number(v, first.decimals));
            std::iter::once(first.label.to_string()).chain(cells).collect()
        };
        let rows: Vec<Vec<String>> = (0..self.dimensions[0].measures.len()).map(row).collect();
        text_table(&header, &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_sd() {
        // Parry & Vuong 2021 print .61 for such folds, not the population's .55: n-1.
        let s = Spread::of(&[Some(1.0), Some(2.0), Some(3.0), Some(4.0), Some(5.0)]);
        assert_eq!((s.mean, s.sd), (Some(3.0), Some(2.5_f64.sqrt())));
        assert_eq!(Spread::of(&[Some(2.0)]), Spread { mean: Some(2.0), sd: None });
        assert_eq!(Spread::of(&[Some(2.0), None]), Spread { mean: None, sd: None });
        assert_eq!(Spread::of(&[]), Spread { mean: None, sd: None });
    }

    #[test]
    fn folds_are_averaged_measure_by_measure() {
        let fold = |p: [f64; 3]| Metrics::of(&["valence"], &[2.0, 5.0, 8.0], &p, &[5.0]).unwrap();
        let folds = [fold([2.0, 5.0, 8.0]), fold([3.0, 6.0, 9.0])];
        let m = FoldMetrics::of(&folds).unwrap();
        assert_eq!((m.mse_mean.mean, m.mse_mean.sd), (Some(0.5), Some(0.5_f64.sqrt())));
        let json = serde_json::to_string(&m).unwrap();
        assert!(json.contains(r#"{"measure":"mse","model":{"mean":0.5,"sd":0.7071067811865476},"#), "{json}");
        assert!(json.contains(r#""baseline":{"mean":null,"sd":null}"#)); // r of a constant
        assert_eq!(m.table().lines().count(), 16);
        let other = Metrics::of(&["arousal"], &[2.0], &[2.0], &[5.0]).unwrap();
        assert!(FoldMetrics::of(&[folds[0].clone(), other]).is_err());
        assert!(FoldMetrics::of(&[]).is_err());
    }
}
