/*! Does what a tower is shown look like what it was made for? A wrong scale or mean is the classic silent error: every
number stays finite and every answer is wrong. The first convolution tells: an import records the mean and deviation of
its outputs over pictures with the statistics of photographs, prepared as the origin of the weights prescribes, and
training compares them with those over its own pictures, prepared as it will prepare them. */

use crate::error::Result;
use crate::preprocess::{Order, Preprocess};
use crate::rng::{Rng, Stream};
use crate::weights::TowerWeights;
use serde::{Deserialize, Serialize};

/// Metadata key of a tower file: JSON of [`Statistics`].
pub const ACTIVATIONS: &str = "activations";
/// The first convolution, which has three input channels.
pub const LAYER: &str = "conv1_1";

/// Of one filter's outputs, before batch norm and ReLU, over pixels and pictures; of all filters, the root mean square.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub mean: f64,
    pub std: f64,
}

/// How far the deviation may be from what was recorded: sets of photographs stay within a factor of two.
const FACTOR: f64 = 4.0;
/// How far the mean may be, in deviations: half of one is a set of dark photographs, two are pictures whose mean was not
/// subtracted.
const SHIFT: f64 = 1.5;

impl Statistics {
    /// Of 3x3 filters [K,3,3,3] with `bias` over u8 RGB squares [n, side, side, 3]. None if the shapes do not fit.
    pub fn of<'a>(
        weight: &[f32],
        bias: &[f32],
        p: &Preprocess,
        squares: impl Iterator<Item = &'a [u8]>,
        side: usize,
    ) -> Option<Self> {
        /// Pixels left out between two that are looked at, in both directions.
        const STEP: usize = 3;
        if weight.len() != bias.len() * 27 || side < 3 {
            return None;
        }
        let mut n = 0.0;
        let mut sums = vec![[0.0; 2]; bias.len()];
        for s in squares.filter(|s| s.len() == side * side * 3) {
            let value = |y: usize, x: usize, c: usize| {
                let from = if p.order == Order::Bgr { 2 - c } else { c };
                (f64::from(s[(y * side + x) * 3 + from]) * f64::from(p.scale) - f64::from(p.mean[c]))
                    / f64::from(p.std[c])
            };
            for y in (1..side - 1).step_by(STEP) {
                for x in (1..side - 1).step_by(STEP) {
                    let mut seen = [0.0; 27];
                    for (i, v) in seen.iter_mut().enumerate() {
                        *v = value(y + i / 9 - 1, x + i / 3 % 3 - 1, i % 3);
                    }
                    n += 1.0;
                    for ((w, b), [sum, square]) in weight.chunks_exact(27).zip(bias).zip(&mut sums) {
                        let a = w.iter().zip(&seen).fold(f64::from(*b), |a, (w, v)| a + f64::from(*w) * v);
                        (*sum, *square) = (*sum + a, *square + a * a);
                    }
                }
            }
        }
        let filters = bias.len() as f64;
        let mean = sums.iter().map(|s| (s[0] / n).powi(2)).sum::<f64>();
        let square = sums.iter().map(|s| s[1] / n).sum::<f64>();
        let (mean, std) = ((mean / filters).sqrt(), ((square - mean).max(0.0) / filters).sqrt());
        (n > 0.0 && mean.is_finite() && std.is_finite()).then_some(Self { mean, std })
    }

    /// What is strange about `seen`, if anything is.
    pub fn complaint(&self, seen: &Self) -> Option<String> {
        let ratio = seen.std / self.std;
        let shift = (seen.mean - self.mean).abs() / self.std.max(seen.std);
        // NaN is strange too.
        if (1.0 / FACTOR..=FACTOR).contains(&ratio) && shift <= SHIFT {
            return None;
        }
        Some(format!(
            "{LAYER} gives {:.3} and deviates by {:.3} on these pictures, and {:.3} and {:.3} on photographs prepared as for these weights: \
             look at the preprocessing and at the pictures",
            seen.mean, seen.std, self.mean, self.std
        ))
    }
}

/// Side of a reference picture in pixels.
pub const SIDE: usize = 64;

/// Eight pictures [SIDE, SIDE, 3] with the statistics of photographs: brightness 115 +- 55 of 255, a spectrum that falls
/// with the frequency, channels that go together (Ruderman & Bialek 1994, "Statistics of natural images"). The same on
/// every machine.
pub fn reference_pictures() -> Vec<Vec<u8>> {
    (0..8).map(picture).collect()
}

fn picture(which: u32) -> Vec<u8> {
    let mut rng = Rng::new(0, Stream::Init(0x7069_6300 + which), 0);
    let mut planes = vec![[0.0f64; 3]; SIDE * SIDE];
    let mut cells = 2;
    while cells <= SIDE {
        // Bilinear noise on a grid; each octave of half the size has half the amplitude.
        let grid: Vec<[f64; 3]> = (0..(cells + 1) * (cells + 1))
            .map(|_| {
                let [light, red, blue] = [0; 3].map(|_| 2.0 * f64::from(rng.uniform()) - 1.0);
                [light + 0.2 * red, light, light + 0.2 * blue]
            })
            .collect();
        for (i, p) in planes.iter_mut().enumerate() {
            let at = |v: usize| (v * cells) as f64 / SIDE as f64;
            let (y, x) = (at(i / SIDE), at(i % SIDE));
            let (fy, fx) = (y.fract(), x.fract());
            let corner = |dy: usize, dx: usize| grid[(y as usize + dy) * (cells + 1) + x as usize + dx];
            for (c, value) in p.iter_mut().enumerate() {
                let top = corner(0, 0)[c] * (1.0 - fx) + corner(0, 1)[c] * fx;
                let bottom = corner(1, 0)[c] * (1.0 - fx) + corner(1, 1)[c] * fx;
                *value += (top * (1.0 - fy) + bottom * fy) * 2.0 / cells as f64;
            }
        }
        cells *= 2;
    }
    let light = |p: &[f64; 3]| p[1];
    let n = planes.len() as f64;
    let mean = planes.iter().map(light).sum::<f64>() / n;
    let std = (planes.iter().map(|p| (light(p) - mean).powi(2)).sum::<f64>() / n).sqrt();
    planes.iter().flat_map(|p| p.map(|v| (115.0 + 55.0 * (v - mean) / std).clamp(0.0, 255.0) as u8)).collect()
}

/// What to say about a tower that is about to be trained on these squares; None if it is as expected, or if the file does
/// not tell.
pub fn check<'a>(
    weights: &TowerWeights,
    p: &Preprocess,
    squares: impl Iterator<Item = &'a [u8]>,
    side: usize,
) -> Result<Option<String>> {
    let Some(text) = weights.file.metadata().get(ACTIVATIONS) else { return Ok(None) };
    let Ok(recorded) = serde_json::from_str::<Statistics>(text) else { return Ok(None) };
    let [weight, bias] = ["weight", "bias"].map(|part| weights.load(&format!("{LAYER}.{part}")));
    let seen = Statistics::of(&weight?, &bias?, p, squares, side);
    Ok(seen.and_then(|seen| recorded.complaint(&seen)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::init::{Rule, draw};

    #[test]
    fn the_sum_by_hand() {
        let p = Preprocess {
            order: Order::Bgr,
            scale: 1.0,
            mean: [1.0; 3],
            std: [2.0; 3],
            ..Preprocess::preset("unit").unwrap()
        };
        // One filter that looks at the centre's first channel, which is blue.
        let mut w = vec![0.0; 27];
        w[4 * 3] = 10.0;
        let picture: Vec<u8> = (0..27).collect();
        let s = Statistics::of(&w, &[0.5], &p, [&picture[..]].into_iter(), 3).unwrap();
        assert_eq!((s.mean, s.std), ((14.0f64 - 1.0) / 2.0 * 10.0 + 0.5, 0.0));
        assert_eq!(Statistics::of(&w, &[0.5, 0.0], &p, [&picture[..]].into_iter(), 3), None);
        assert_eq!(Statistics::of(&w, &[0.5], &p, std::iter::empty(), 3), None);
    }

    #[test]
    fn other_preprocessings_are_told_apart() {
        let pictures = reference_pictures();
        let squares = || pictures.iter().map(|p| &p[..]);
        let light: Vec<f64> = squares().flatten().map(|b| f64::from(*b)).collect();
        let mean = light.iter().sum::<f64>() / light.len() as f64;
        assert!((100.0..130.0).contains(&mean), "{mean}");
        let w = draw("w", &[64, 3, 3, 3], 1, Rule::He).unwrap();
        let of =
            |name: &str| Statistics::of(&w, &[0.0; 64], &Preprocess::preset(name).unwrap(), squares(), SIDE).unwrap();
        for (made_for, shown, fine) in [
            ("keras", "keras", true),
            ("keras", "caffe-places", true),
            ("keras", "torch", false),
            ("torch", "keras", false),
            ("torch", "fer2013", false),
            ("unit", "caffe", false),
        ] {
            assert_eq!(of(made_for).complaint(&of(shown)).is_none(), fine, "{made_for} {shown}");
        }
        let dark =
            Statistics::of(&w, &[0.0; 64], &Preprocess::preset("torch").unwrap(), [&[0u8; 300][..]].into_iter(), 10);
        assert!(of("torch").complaint(&dark.unwrap()).is_some());
    }
}
