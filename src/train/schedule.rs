/*! Learning-rate schedules and early stopping. Every type here is plain state that goes into a checkpoint: written to
JSON and read back it goes on bit for bit, which is why nothing that JSON lacks (infinity, NaN) is ever stored. */

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// By how much a loss must fall below the best one so far to count as an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// `loss < best - x`: Keras's `min_delta`, PyTorch's `threshold_mode='abs'`.
    Abs(f64),
    /// `loss < best * (1 - x)`: PyTorch's `threshold_mode='rel'`.
    Rel(f64),
}

impl Threshold {
    /// Whether `loss` improves on `best`. A loss that is not finite never does: NaN must not become a record.
    fn better(self, loss: f64, best: Option<f64>) -> bool {
        loss.is_finite()
            && best.is_none_or(|best| match self {
                Threshold::Abs(x) => loss < best - x,
                Threshold::Rel(x) => loss < best * (1.0 - x),
            })
    }
}

/// When and how [`Plateau`] lowers the rate.
///
/// Keras and PyTorch count differently. Here `wait` is the number of successive epochs without improvement that lower
/// the rate: Keras's patience, PyTorch's patience + 1. `cooldown` is the number of epochs after a drop that do not
/// count: PyTorch's cooldown, Keras's cooldown - 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlateauRule {
    /// The rate is multiplied by this, in (0, 1).
    pub factor: f64,
    /// Successive epochs without improvement that lower the rate.
    pub wait: u32,
    pub threshold: Threshold,
    /// Epochs after a drop during which bad ones are not counted.
    pub cooldown: u32,
    /// The rate never falls below this: the product is replaced by it.
    pub min_lr: f64,
    /// A drop by no more than this is not made.
    pub eps: f64,
}

impl PlateauRule {
    /// Keras's `ReduceLROnPlateau` with the values of Parry & Vuong 2021: x 0.1 after 4 epochs, not below 6e-6.
    pub fn keras() -> Self {
        Self { factor: 0.1, wait: 4, threshold: Threshold::Abs(0.0), cooldown: 0, min_lr: 6e-6, eps: 0.0 }
    }
}

/// Lowers the rate when the loss stops falling; covers Keras's and PyTorch's `ReduceLROnPlateau` (mode `min`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    pub rule: PlateauRule,
    lr: f64,
    best: Option<f64>,
    bad: u32,
    cooling: u32,
}

impl Plateau {
    /// Starts at rate `lr`. Refuses a rule under which the rate could rise, vanish or stop being a number.
    pub fn new(lr: f64, rule: PlateauRule) -> Result<Self> {
        positive("learning rate", lr)?;
        if !(rule.factor > 0.0 && rule.factor < 1.0) {
            return Err(Error::usage(format!("plateau factor {} is not between 0 and 1", rule.factor))
                .fix("0.1 divides the rate by ten"));
        }
        let (Threshold::Abs(x) | Threshold::Rel(x)) = rule.threshold;
        for (what, v) in [("threshold", x), ("smallest rate", rule.min_lr), ("smallest drop", rule.eps)] {
            if !(v.is_finite() && v >= 0.0) {
                return Err(Error::usage(format!("plateau {what} {v} is not a number from 0 up")));
            }
        }
        Ok(Self { rule, lr, best: None, bad: 0, cooling: 0 })
    }

    /// The rate to use now.
    pub fn lr(&self) -> f64 {
        self.lr
    }

    /// Takes the loss of the epoch that just ended; true when the rate was lowered.
    pub fn report(&mut self, loss: f64) -> bool {
        if self.rule.threshold.better(loss, self.best) {
            (self.best, self.bad) = (Some(loss), 0);
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad = 0;
        }
        if self.bad < self.rule.wait.max(1) {
            return false;
        }
        (self.cooling, self.bad) = (self.rule.cooldown, 0);
        let next = (self.lr * self.rule.factor).max(self.rule.min_lr);
        let drop = self.lr - next > self.rule.eps;
        if drop {
            self.lr = next;
        }
        drop
    }
}

/// A rate that falls by itself, whatever the loss does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Decay {
    /// Multiplied by `gamma` after every `every` epochs: PyTorch's `StepLR`.
    Step { every: u32, gamma: f64 },
    /// Multiplied by `gamma` after each of these numbers of epochs, which rise: PyTorch's `MultiStepLR`.
    Steps { after: Vec<u32>, gamma: f64 },
    /// Half a cosine from the first rate to `min`, which is reached after `epochs`: PyTorch's `CosineAnnealingLR`.
    Cosine { epochs: u32, min: f64 },
    /// `lr / (1 + decay * iteration)`: the `decay` of Keras's SGD, an iteration being one batch (Noguera 2018).
    InverseTime { decay: f64 },
}

impl Decay {
    /// Reads `step:EVERY:GAMMA`, `steps:AFTER,AFTER,..:GAMMA`, `cosine[:MIN]` over `epochs`, or `inverse:DECAY`.
    pub fn parse(text: &str, epochs: u32) -> Result<Self> {
        let bad = || {
            Error::usage(format!("`{text}` is not a decay of the learning rate"))
                .fix("write step:30:0.1, steps:30,60:0.1, cosine, cosine:1e-6 or inverse:1e-6")
        };
        let number = |t: &str| t.parse::<f64>().map_err(|_| bad());
        let whole = |t: &str| t.parse::<u32>().map_err(|_| bad());
        match text.split(':').collect::<Vec<_>>()[..] {
            ["step", every, gamma] => Ok(Decay::Step { every: whole(every)?, gamma: number(gamma)? }),
            ["steps", after, gamma] => {
                let after = after.split(',').map(whole).collect::<Result<_>>()?;
                Ok(Decay::Steps { after, gamma: number(gamma)? })
            }
            ["cosine"] => Ok(Decay::Cosine { epochs, min: 0.0 }),
            ["cosine", min] => Ok(Decay::Cosine { epochs, min: number(min)? }),
            ["inverse", decay] => Ok(Decay::InverseTime { decay: number(decay)? }),
            _ => Err(bad()),
        }
    }

    fn lr(&self, lr: f64, epoch: u32, iteration: u64) -> f64 {
        // Multiplied one step at a time, as PyTorch does: a power rounds differently.
        let drops = |n: usize, gamma: &f64| (0..n).fold(lr, |lr, _| lr * gamma);
        match self {
            Decay::Step { every, gamma } => drops((epoch / every) as usize, gamma),
            Decay::Steps { after, gamma } => drops(after.iter().filter(|a| **a <= epoch).count(), gamma),
            Decay::Cosine { epochs, min } => {
                let part = epoch.min(*epochs) as f64 / *epochs as f64;
                min + (lr - min) * (1.0 + (std::f64::consts::PI * part).cos()) / 2.0
            }
            Decay::InverseTime { decay } => lr / (1.0 + decay * iteration as f64),
        }
    }

    fn check(&self, lr: f64) -> Result<()> {
        let gamma_of = |gamma: f64| positive("step factor", gamma);
        match self {
            Decay::Step { every, gamma } => positive("step length", *every as f64).and(gamma_of(*gamma)),
            Decay::Steps { after, gamma } if after.is_sorted() => gamma_of(*gamma),
            Decay::Steps { .. } => Err(Error::usage("the epochs of the steps must rise")),
            Decay::Cosine { epochs, min } if (0.0..=lr).contains(min) => {
                positive("length of the cosine", *epochs as f64)
            }
            Decay::Cosine { min, .. } => Err(Error::usage(format!("smallest rate {min} is not from 0 to {lr}"))),
            Decay::InverseTime { decay } if decay.is_finite() && *decay >= 0.0 => Ok(()),
            Decay::InverseTime { decay } => Err(Error::usage(format!("decay {decay} is not a number from 0 up"))),
        }
    }
}

/// How the learning rate moves over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Schedule {
    Constant { lr: f64 },
    Decay { lr: f64, by: Decay },
    Plateau(Plateau),
}

impl Schedule {
    /// The rate of epoch `epoch` (from 0) at update `iteration` (from 0, over the whole run).
    pub fn lr(&self, epoch: u32, iteration: u64) -> f64 {
        match self {
            Schedule::Constant { lr } => *lr,
            Schedule::Decay { lr, by } => by.lr(*lr, epoch, iteration),
            Schedule::Plateau(p) => p.lr(),
        }
    }

    /// Takes the loss of the epoch that just ended; true when the rate was lowered because of it.
    pub fn report(&mut self, loss: f64) -> bool {
        match self {
            Schedule::Plateau(p) => p.report(loss),
            _ => false,
        }
    }

    /// Refuses rates and factors that are not positive numbers.
    pub fn check(&self) -> Result<()> {
        match self {
            Schedule::Constant { lr } => positive("learning rate", *lr),
            Schedule::Decay { lr, by } => positive("learning rate", *lr).and(by.check(*lr)),
            Schedule::Plateau(p) => Plateau::new(p.lr, p.rule).map(|_| ()),
        }
    }
}

fn positive(what: &str, v: f64) -> Result<()> {
    if v.is_finite() && v > 0.0 { Ok(()) } else { Err(Error::usage(format!("{what} {v} is not a number above 0"))) }
}

/// What [`EarlyStop`] says of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The lowest loss so far: keep these weights.
    Best,
    /// Not the lowest; go on.
    Continue,
    /// Not the lowest for `patience` epochs: stop and go back to the best weights.
    Stop,
}

/// Stops after `patience` successive epochs without a decrease of the loss (Parry & Vuong 2021: 6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyStop {
    /// Successive epochs without decrease after which to stop; 0 never stops.
    pub patience: u32,
    /// A decrease by no more than this does not count; Keras's `min_delta`.
    pub min_delta: f64,
    /// The lowest loss so far; None before the first finite one.
    pub best: Option<f64>,
    /// The epoch of the lowest loss.
    pub best_epoch: Option<u32>,
    /// Epochs since the lowest loss.
    pub since: u32,
}

impl EarlyStop {
    pub fn new(patience: u32, min_delta: f64) -> Self {
        Self { patience, min_delta, best: None, best_epoch: None, since: 0 }
    }

    /// Takes the loss of epoch `epoch`. A loss that is not finite is never the best.
    pub fn report(&mut self, epoch: u32, loss: f64) -> Verdict {
        if Threshold::Abs(self.min_delta).better(loss, self.best) {
            (self.best, self.best_epoch, self.since) = (Some(loss), Some(epoch), 0);
            return Verdict::Best;
        }
        self.since += 1;
        if self.patience > 0 && self.since >= self.patience { Verdict::Stop } else { Verdict::Continue }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    /// PyTorch's rates over the same losses: all bits equal.
    #[test]
    fn pytorch_golden() {
        let bytes = include_bytes!("../../tests/golden/lr_schedules.safetensors");
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let file = SafeTensors::deserialize(bytes).unwrap();
        let column = |name: &str| -> Vec<f64> {
            let t = file.tensor(name).unwrap();
            assert_eq!(t.dtype(), safetensors::Dtype::F64);
            t.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let mut cases = 0;
        for (case, text) in header.metadata().as_ref().unwrap() {
            let Ok(p) = serde_json::from_str::<serde_json::Value>(text) else { continue };
            let number = |key: &str| p[key].as_f64().unwrap();
            if !p.is_object() {
                continue;
            }
            cases += 1;
            let expected = column(&format!("{case}.lr"));
            if case == "step" {
                let every = number("step_size") as u32;
                let s = Schedule::Decay { lr: number("lr0"), by: Decay::Step { every, gamma: number("gamma") } };
                let got: Vec<f64> = (0..expected.len() as u32).map(|e| s.lr(e, 0)).collect();
                assert_eq!(got, expected);
                continue;
            }
            let x = number("threshold");
            let rule = PlateauRule {
                factor: number("factor"),
                wait: number("patience") as u32 + 1,
                threshold: if p["threshold_mode"] == "rel" { Threshold::Rel(x) } else { Threshold::Abs(x) },
                cooldown: number("cooldown") as u32,
                min_lr: number("min_lr"),
                eps: number("eps"),
            };
            let mut s = Plateau::new(number("lr0"), rule).unwrap();
            for (i, (loss, lr)) in column(&format!("{case}.loss")).into_iter().zip(expected).enumerate() {
                s.report(loss);
                assert_eq!(s.lr(), lr, "{case} epoch {i}");
                // A checkpoint between any two epochs changes nothing.
                s = serde_json::from_str(&serde_json::to_string(&s).unwrap()).unwrap();
            }
        }
        assert_eq!(cases, 4);
    }

    #[test]
    fn keras_goes_down_the_papers_three_rates() {
        let mut s = Plateau::new(4e-4, PlateauRule::keras()).unwrap();
        let mut rates = vec![];
        for loss in [2.0, 1.5, 1.5, 1.6, 1.7, 1.5].into_iter().chain([1.5; 12]) {
            s.report(loss);
            rates.push(s.lr());
        }
        // Best in the second epoch, so the fourth bad one is the sixth, then every fourth.
        assert_eq!(rates[..5], [4e-4; 5]);
        assert_eq!(rates[5..9], [4e-4 * 0.1; 4]);
        assert_eq!(rates[9..], [6e-6; 9]);
    }

    #[test]
    fn nan_is_a_bad_epoch_and_never_stored() {
        let mut s = Plateau::new(1.0, PlateauRule { wait: 2, min_lr: 0.0, ..PlateauRule::keras() }).unwrap();
        assert!(!s.report(f64::NAN));
        assert!(s.report(f64::INFINITY));
        assert!(!serde_json::to_string(&s).unwrap().contains("NaN"));
        let mut e = EarlyStop::new(2, 0.0);
        assert_eq!(e.report(0, f64::NAN), Verdict::Continue);
        assert_eq!((e.report(1, f64::NAN), e.best), (Verdict::Stop, None));
    }

    #[test]
    fn early_stop_after_six_epochs_without_decrease() {
        let mut e = EarlyStop::new(6, 0.0);
        assert_eq!(e.report(0, 1.0), Verdict::Best);
        assert_eq!(e.report(1, 0.5), Verdict::Best);
        for epoch in 2..7 {
            assert_eq!(e.report(epoch, 0.5), Verdict::Continue); // equal is not a decrease
        }
        let mut resumed: EarlyStop = serde_json::from_str(&serde_json::to_string(&e).unwrap()).unwrap();
        assert_eq!(resumed, e);
        assert_eq!(resumed.report(7, 0.6), Verdict::Stop);
        assert_eq!((resumed.best, resumed.best_epoch, resumed.since), (Some(0.5), Some(1), 6));
    }

    /// Keras's callbacks with `min_delta=0.1`: a smaller decrease is none, and the best loss stays what it was.
    #[test]
    fn a_small_decrease_does_not_count() {
        let losses = [1.0, 0.95, 0.91, 0.85, 0.8, 0.76];
        let mut e = EarlyStop::new(2, 0.1);
        let verdicts: Vec<Verdict> = (0..).zip(losses).map(|(i, l)| e.report(i, l)).collect();
        use Verdict::{Best, Continue, Stop};
        assert_eq!(verdicts, [Best, Continue, Stop, Best, Continue, Stop]);
        let rule = PlateauRule { wait: 2, threshold: Threshold::Abs(0.1), min_lr: 0.0, ..PlateauRule::keras() };
        let mut s = Plateau::new(1.0, rule).unwrap();
        assert_eq!(losses.map(|l| s.report(l)), [false, false, true, false, false, true]);
    }

    #[test]
    fn senseless_rules_are_refused() {
        let keras = PlateauRule::keras();
        assert!(Plateau::new(0.0, keras).is_err());
        assert!(Plateau::new(1e-3, PlateauRule { factor: 1.5, ..keras }).is_err());
        assert!(Plateau::new(1e-3, PlateauRule { min_lr: f64::NAN, ..keras }).is_err());
        let decay = |text: &str| Schedule::Decay { lr: 1.0, by: Decay::parse(text, 8).unwrap() };
        for text in ["step:0:0.5", "step:3:0", "steps:4,2:0.1", "cosine:2", "cosine:nan", "inverse:-1"] {
            assert!(decay(text).check().is_err(), "{text}");
        }
        for text in ["", "step", "step:1", "step:-1:0.5", "steps::0.1", "cosine:x", "linear:3"] {
            assert!(Decay::parse(text, 8).is_err(), "{text}");
        }
        assert!(Schedule::Decay { lr: 1.0, by: Decay::Cosine { epochs: 0, min: 0.0 } }.check().is_err());
    }

    #[test]
    fn decays_fall_as_they_say() {
        let rates = |text: &str| -> Vec<f64> {
            let s = Schedule::Decay { lr: 1.0, by: Decay::parse(text, 4).unwrap() };
            s.check().unwrap();
            // A checkpoint changes nothing.
            assert_eq!(serde_json::from_str::<Schedule>(&serde_json::to_string(&s).unwrap()).unwrap(), s);
            (0..6).map(|epoch| s.lr(epoch, 2 * epoch as u64)).collect()
        };
        assert_eq!(rates("step:2:0.5"), [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
        assert_eq!(rates("steps:1,4:0.5"), [1.0, 0.5, 0.5, 0.5, 0.25, 0.25]);
        assert_eq!(rates("inverse:0.5"), [1.0, 0.5, 1.0 / 3.0, 0.25, 0.2, 1.0 / 6.0]);
        let (cosine, half) = (rates("cosine:0.2"), 0.5f64.sqrt());
        for (got, want) in cosine.iter().zip([1.0, 0.6 + 0.4 * half, 0.6, 0.6 - 0.4 * half, 0.2, 0.2]) {
            approx::assert_abs_diff_eq!(*got, want, epsilon = 1e-15);
        }
    }
}
