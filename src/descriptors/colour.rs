/*! What colours a picture has (Kim et al. 2018): means in RGB and HSV, the commonest of 512 colours, and what Valdez & Mehrabian
1994 found of pleasure, arousal and dominance.

HSV is the hexcone: v = max / 255, s = (max - min) / max, h in [0, 1) from red over green and blue. A grey pixel has no hue; it
counts as hue 0, that of red, and a grey picture's mean hue is 0. Black has saturation 0. */

use serde::{Deserialize, Serialize};

/// Names of the columns, in order.
pub const COLUMNS: [&str; 11] = [
    "red",
    "green",
    "blue",
    "hue",
    "saturation",
    "value",
    "histogram_bin",
    "histogram_part",
    "pleasure",
    "arousal",
    "dominance",
];
/// What Valdez & Mehrabian 1994 found of people who looked at patches of colour: weights of brightness and saturation.
pub const FOUND: [(&str, [f64; 2]); 3] =
    [("pleasure", [0.69, 0.22]), ("arousal", [-0.31, 0.60]), ("dominance", [-0.76, 0.32])];
/// Bins a direction of the histogram.
const BINS: usize = 8;

/// Signs of brightness in arousal and dominance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signs {
    /// Valdez & Mehrabian's: darker colours arouse more and dominate more.
    #[default]
    Original,
    /// As Kim et al. print them: plus throughout.
    Paper,
}

/// What brightness and saturation are in the three formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Space {
    /// Luminance .2126 R + .7152 G + .0722 B and max - min, as Machajdik & Hanbury 2010 use the formulas.
    #[default]
    Ihsl,
    /// V and S of HSV.
    Hsv,
}

/// Sums over the pixels of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Colours {
    /// Means, each of 0 to 1.
    pub rgb: [f64; 3],
    pub hsv: [f64; 3],
    /// Mean of (max - min) / 255.
    pub chroma: f64,
    /// Parts of the pixels; bin (h * 8 + s) * 8 + v, each the floor of 8 times the value, at most 7.
    pub histogram: Vec<f64>,
}

impl Colours {
    /// Of [pixels, 3], at least one.
    pub fn of(rgb: &[u8]) -> Self {
        let pixels = rgb.as_chunks::<3>().0;
        let (mut sums, mut hues, mut chroma) = ([0u64; 3], [0.0; 2], 0);
        let mut counts = [0u64; BINS * BINS * BINS];
        for p in pixels {
            let (max, min) = (p[0].max(p[1]).max(p[2]), p[0].min(p[1]).min(p[2]));
            let hsv = hsv(*p, max, min);
            sums.iter_mut().zip(p).for_each(|(sum, x)| *sum += u64::from(*x));
            hues.iter_mut().zip(hsv).for_each(|(sum, x)| *sum += x);
            chroma += u64::from(max - min);
            let bin = hsv.iter().fold(0, |bin, x| bin * BINS + ((x * BINS as f64) as usize).min(BINS - 1));
            counts[bin] += 1;
        }
        let n = pixels.len() as f64;
        let rgb = sums.map(|s| s as f64 / n / 255.0);
        // The mean of the largest of each pixel is a sum of whole numbers too, by hexcone v.
        let v = pixels.iter().map(|p| u64::from(p[0].max(p[1]).max(p[2]))).sum::<u64>() as f64 / n / 255.0;
        Self {
            rgb,
            hsv: [hues[0] / n, hues[1] / n, v],
            chroma: chroma as f64 / n / 255.0,
            histogram: counts.iter().map(|c| *c as f64 / n).collect(),
        }
    }

    /// The largest bin, the first of equal ones, and its part of the pixels.
    pub fn commonest(&self) -> (usize, f64) {
        let first = |best: usize, i: usize| if self.histogram[i] > self.histogram[best] { i } else { best };
        let bin = (0..self.histogram.len()).fold(0, first);
        (bin, self.histogram[bin])
    }

    /// Brightness and saturation, means over the pixels.
    pub fn brightness_saturation(&self, space: Space) -> [f64; 2] {
        let [r, g, b] = self.rgb;
        match space {
            Space::Ihsl => [0.2126 * r + 0.7152 * g + 0.0722 * b, self.chroma],
            Space::Hsv => [self.hsv[2], self.hsv[1]],
        }
    }

    /// Pleasure, arousal and dominance by [`FOUND`].
    pub fn pad(&self, signs: Signs, space: Space) -> [f64; 3] {
        let [y, s] = self.brightness_saturation(space);
        FOUND.map(|(_, [brightness, saturation])| {
            let brightness = if signs == Signs::Paper { brightness.abs() } else { brightness };
            brightness * y + saturation * s
        })
    }

    /// The numbers of [`COLUMNS`].
    pub fn numbers(&self, signs: Signs, space: Space) -> Vec<f64> {
        let (bin, part) = self.commonest();
        let last = (self.histogram.len() - 1) as f64;
        [&self.rgb[..], &self.hsv, &[bin as f64 / last, part], &self.pad(signs, space)].concat()
    }
}

/// From whole numbers, so that hue and saturation do not depend on a scale.
fn hsv(rgb: [u8; 3], max: u8, min: u8) -> [f64; 3] {
    let value = f64::from(max) / 255.0;
    if max == min {
        return [0.0, 0.0, value];
    }
    let ([r, g, b], d) = (rgb.map(f64::from), f64::from(max - min));
    let turn = if rgb[0] == max {
        (g - b) / d
    } else if rgb[1] == max {
        2.0 + (b - r) / d
    } else {
        4.0 + (r - g) / d
    } / 6.0;
    [turn.rem_euclid(1.0), d / f64::from(max), value]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_has_hue_0_and_a_frame_of_every_hue_has_its_own() {
        let grey = Colours::of(&[128; 12]);
        assert_eq!(grey.hsv, [0.0, 0.0, 128.0 / 255.0]);
        assert_eq!(grey.commonest(), (4, 1.0));
        for (rgb, hue) in [([255, 0, 0], 0.0), ([255, 255, 0], 1.0), ([0, 255, 0], 2.0), ([255, 0, 255], 5.0)] {
            assert_eq!(Colours::of(&rgb).hsv, [hue / 6.0, 1.0, 1.0], "{rgb:?}");
        }
        // Just below a whole turn.
        assert!((Colours::of(&[255, 0, 1]).hsv[0] - (1.0 - 1.0 / 255.0 / 6.0)).abs() < 1e-15);
        assert_eq!(Colours::of(&[0, 0, 0, 255, 255, 255]).commonest(), (0, 0.5));
    }

    #[test]
    fn signs_of_brightness() {
        let dark = Colours { rgb: [1.0; 3], hsv: [0.0; 3], chroma: 0.0, histogram: vec![1.0] };
        assert_eq!(dark.pad(Signs::Original, Space::Ihsl), [0.69, -0.31, -0.76]);
        assert_eq!(dark.pad(Signs::Paper, Space::Ihsl), [0.69, 0.31, 0.76]);
    }
}
