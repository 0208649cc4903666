/*! First values of what no file gives: weights drawn, scales one, biases zero. What a parameter gets depends on
the seed and its own name and shape, never on the order of parameters or the number of threads. */

use super::header::shape as show;
use crate::error::{Error, Result};
use crate::rng::{self, Stream, name_hash};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The limits between which weights are drawn uniformly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks":
    /// sqrt(6 / (fan_in + fan_out)).
    #[default]
    Glorot,
    /// He et al. 2015, "Delving deep into rectifiers": sqrt(6 / fan_in). Sixteen rectified layers drawn by Glorot's rule
    /// pass on a hundredth of their input and do not begin to learn.
    He,
}

/// Inputs and outputs of one unit: filters [K,R,S,C/groups] count every tap, dense weights are [out, in].
pub fn fans(shape: &[usize]) -> Option<[usize; 2]> {
    match *shape {
        [k, r, s, c] => Some([r * s * c, r * s * k]),
        [out, input] => Some([input, out]),
        _ => None,
    }
}

/// The parameter `name` (with its tower, or two towers would begin alike) of `shape` in our layout.
/// One extent: ones for what scales (the weight of a batch norm, a variance, an inverse deviation), zeros for what is added.
/// Other shapes are an error.
pub fn draw(name: &str, shape: &[usize], seed: u64, rule: Rule) -> Result<Vec<f32>> {
    let n = shape.iter().product();
    if shape.len() == 1 {
        let scales = ["weight", "running_var", "inverse"].contains(&name.rsplit('.').next().unwrap_or(name));
        return Ok(vec![scales as u8 as f32; n]);
    }
    let Some([fan_in, fan_out]) = fans(shape) else {
        return Err(Error::job(format!("cannot draw `{name}` of shape {}: neither filters nor dense", show(shape)))
            .fix("give it in a weight file"));
    };
    let fan = match rule {
        Rule::Glorot => fan_in + fan_out,
        Rule::He => fan_in,
    };
    let limit = (6.0 / fan as f64).sqrt() as f32;
    Ok(uniform(name, n, seed, |x| x * limit))
}

/// `n` numbers of the stream called `name`: `f` of numbers uniform in [-1, 1).
pub fn uniform(name: &str, n: usize, seed: u64, f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let stream = Stream::Init(name_hash(name));
    let mut out = vec![0.0; n];
    // Four words come at once; element i is word i % 4 of block i / 4, as rng::Rng would give them one after another.
    out.par_chunks_mut(4).with_min_len(4096).enumerate().for_each(|(i, to)| {
        let words = rng::block(seed, stream, 0, i as u64);
        for (y, word) in to.iter_mut().zip(words) {
            *y = f(2.0 * rng::uniform(word) - 1.0);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn limits_mean_and_variance() {
        let shape = [64, 3, 3, 32];
        let w = draw("scene.conv1_2.weight", &shape, 7, Rule::Glorot).unwrap();
        let limit = (6.0f64 / (9.0 * 96.0)).sqrt();
        let n = w.len() as f64;
        let mean = w.iter().map(|x| *x as f64).sum::<f64>() / n;
        let var = w.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / n;
        assert!(w.iter().all(|x| (*x as f64).abs() <= limit * (1.0 + 1e-6)));
        // Four standard errors of a uniform distribution's mean and second moment.
        assert!(mean.abs() < 4.0 * limit / (3.0 * n).sqrt(), "{mean}");
        assert!((var / (limit * limit / 3.0) - 1.0).abs() < 4.0 * (0.8 / n).sqrt(), "{var}");
    }

    #[test]
    fn depends_on_seed_and_name_only() {
        let a = draw("a.weight", &[7, 9], 1, Rule::Glorot).unwrap();
        assert_eq!(a, draw("a.weight", &[7, 9], 1, Rule::Glorot).unwrap());
        assert_ne!(a, draw("a.weight", &[7, 9], 2, Rule::Glorot).unwrap());
        assert_ne!(a, draw("b.weight", &[7, 9], 1, Rule::Glorot).unwrap());
        let mut r = Rng::new(1, Stream::Init(name_hash("a.weight")), 0);
        let limit = (6.0f64 / 16.0).sqrt() as f32;
        assert!(a.iter().all(|x| *x == (2.0 * r.uniform() - 1.0) * limit));
        assert_eq!(draw("a.bias", &[5], 1, Rule::Glorot).unwrap(), [0.0; 5]);
        assert_eq!(draw("a.running_var", &[2], 1, Rule::Glorot).unwrap(), [1.0; 2]);
        assert!(draw("a.odd", &[1, 2, 3], 1, Rule::Glorot).is_err());
    }
}
