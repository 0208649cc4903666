//! Which heads `--head auto` chooses among, and by what.

use super::config::PAPER;
use crate::error::{Error, Result, option};
use crate::models::Config;
use crate::train::fit::{Settings, Updates};

/// A head and how it comes to be.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub config: Config,
    pub settings: Settings,
}

/// Inner folds, where there are so many groups: each trains every candidate once.
pub const FOLDS: u32 = 3;

/// Ridge, one hidden layer, and the paper's head by `own` settings; of equals the first is chosen.
pub fn candidates(own: Candidate) -> [Candidate; 3] {
    let mut ridge = own.clone();
    (ridge.config.head, ridge.config.keep, ridge.settings.optimizer) = (vec![], vec![], Updates::Ridge);
    let mut hidden = own.clone();
    (hidden.config.head, hidden.config.keep, hidden.config.keep_features) = (vec![192], vec![0.5], 0.7);
    hidden.settings = Settings {
        epochs: 40,
        lr: 1e-3,
        plateau: None,
        decay: None,
        warmup: 0,
        optimizer: Updates::AdamW,
        weight_decay: 0.03,
        patience: 0,
        ..own.settings.clone()
    };
    let mut paper = own;
    paper.config.keep.resize(PAPER.len(), 0.5);
    paper.config.head = PAPER.to_vec();
    [ridge, hidden, paper]
}

impl Candidate {
    /// For people.
    pub fn name(&self) -> String {
        match (self.settings.optimizer, &self.config.head[..]) {
            (Updates::Ridge, _) => "ridge".into(),
            (_, [one]) => format!("one hidden layer of {one}"),
            (_, head) => head.iter().map(usize::to_string).collect::<Vec<_>>().join("-"),
        }
    }
}

/// Squared error over variance, averaged over targets: 1 is what the mean of the ratings would get. Predictions and ratings
/// are [rows, targets], `weight` says how much each row counts. NaN where a prediction is missing.
pub fn error(predicted: &[f64], truth: &[f64], weight: &[f64]) -> f64 {
    let (n, total) = (truth.len() / weight.len(), weight.iter().sum::<f64>());
    let of = |t: usize| {
        let column = |x: &[f64]| x.iter().skip(t).step_by(n).copied().collect::<Vec<f64>>();
        let (p, y) = (column(predicted), column(truth));
        let mean = y.iter().zip(weight).map(|(y, w)| w * y).sum::<f64>() / total;
        let sum = |of: &dyn Fn(usize) -> f64| (0..y.len()).map(|i| weight[i] * of(i).powi(2)).sum::<f64>();
        sum(&|i| p[i] - y[i]) / sum(&|i| y[i] - mean)
    };
    (0..n).map(of).sum::<f64>() / n as f64
}

/// The candidate of the least error, and that in words.
pub fn pick(all: &[Candidate], errors: &[f64], folds: u32) -> Result<(usize, String)> {
    let finite = (0..all.len()).filter(|&i| errors[i].is_finite());
    let best = finite.min_by(|&a, &b| errors[a].total_cmp(&errors[b])).ok_or_else(|| {
        Error::job("no head could be judged: their errors, or the spread of the ratings, are not numbers")
            .fix(format!("look at the ratings, or name widths in {}", option("head")))
    })?;
    let figure = |(c, e): (&Candidate, &f64)| match e.is_finite() {
        true => format!("{} {e:.3}", c.name()),
        false => format!("{} diverged", c.name()),
    };
    let figures: Vec<String> = all.iter().zip(errors).map(figure).collect();
    let said = format!(
        "{}, chosen by {folds} inner folds (squared error over variance: {})",
        all[best].name(),
        figures.join(", ")
    );
    Ok((best, said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Architecture;
    use approx::assert_relative_eq;

    #[test]
    fn the_least_error_is_chosen_and_said() {
        let truth = [1.0, 4.0, 3.0, 8.0];
        // The means are 2 and 6: an error of 1 is theirs.
        assert_relative_eq!(error(&[2.0, 6.0, 2.0, 6.0], &truth, &[1.0, 1.0]), 1.0);
        assert_relative_eq!(error(&[1.0, 4.0, 3.0, 6.0], &truth, &[1.0, 1.0]), 0.25);
        // Weighted means are 1.5 and 5.
        assert_relative_eq!(error(&[1.5, 5.0, 1.5, 5.0], &truth, &[3.0, 1.0]), 1.0);
        assert!(error(&[1.0, f64::NAN, 3.0, 8.0], &truth, &[1.0, 1.0]).is_nan());

        let config = Config::published(Architecture::Shared, &["object".to_string()], 5).unwrap();
        let all = candidates(Candidate { config, settings: Settings::default() });
        let (best, said) = pick(&all, &[0.75, 0.5, f64::NAN], 3).unwrap();
        assert_eq!(best, 1);
        assert_eq!(
            said,
            "one hidden layer of 192, chosen by 3 inner folds (squared error over variance: ridge 0.750, \
             one hidden layer of 192 0.500, 3000-1000-500 diverged)"
        );
        assert!(pick(&all, &[f64::NAN; 3], 3).is_err());
    }
}
