/*! Numbers that describe a picture without a network (Kim et al. 2018): its colours, their names, GIST and local binary patterns,
and what parts of it belong to which class of a label map. Everything is float64 on one thread a picture, so it is the same on
any number of threads. */

pub mod areas;
pub mod colour;
mod fourier;
pub mod gist;
pub mod lbp;
pub mod names;

use crate::data::{Picture, resize};
use crate::error::{Error, Result, option};
use gist::Gist;
use names::ColourNames;
use serde::{Deserialize, Serialize};

/// What is described, in the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// 11 numbers: means of RGB and HSV, the commonest of 512 colours, pleasure, arousal, dominance.
    Colour,
    /// 11 numbers: how likely each of eleven names is the name of its colours.
    Names,
    /// 512 numbers: the spatial envelope.
    Gist,
    /// 59 numbers: local binary patterns.
    Lbp,
}

/// How pictures are described.
pub struct Descriptors {
    kinds: Vec<Kind>,
    signs: colour::Signs,
    space: colour::Space,
    names: Option<ColourNames>,
    gist: Option<(Gist, u32)>,
    form: lbp::Form,
}

impl Descriptors {
    /// Some kinds, each counted once; `names` is what [`Kind::Names`] needs, `gist_side` a multiple of [`gist::STEP`].
    ///
    /// # Errors
    /// Names are asked for without a table; another side.
    pub fn new(
        kinds: &[Kind],
        (signs, space): (colour::Signs, colour::Space),
        names: Option<ColourNames>,
        gist_side: usize,
        form: lbp::Form,
    ) -> Result<Self> {
        let mut kinds = kinds.to_vec();
        kinds.sort();
        kinds.dedup();
        if kinds.contains(&Kind::Names) && names.is_none() {
            return Err(
                Error::usage("colour names need their table").fix(format!("give {} FILE", option("colour-names")))
            );
        }
        if gist_side == 0 || !gist_side.is_multiple_of(gist::STEP) {
            return Err(Error::usage(format!("a side of {gist_side} pixels for GIST"))
                .fix(format!("take a multiple of {}", gist::STEP)));
        }
        let gist = kinds.contains(&Kind::Gist).then(|| (Gist::new(gist_side), gist_side as u32));
        Ok(Self { kinds, signs, space, names, gist, form })
    }

    /// Names of the numbers.
    pub fn columns(&self) -> Vec<String> {
        let counted = |what: &str, from: usize, n: usize| (from..from + n).map(|i| format!("{what}.{i}")).collect();
        let of = |kind: &Kind| -> Vec<String> {
            match kind {
                Kind::Colour => colour::COLUMNS.map(|c| format!("colour.{c}")).into(),
                Kind::Names => names::NAMES.map(|n| format!("name.{n}")).into(),
                Kind::Gist => counted("gist", 1, gist::WIDTH),
                // As scikit-image numbers them.
                Kind::Lbp => counted("lbp", 0, lbp::WIDTH),
            }
        };
        self.kinds.iter().flat_map(of).collect()
    }

    /// The numbers of a picture.
    ///
    /// # Errors
    /// The picture is smaller than what is asked of it.
    pub fn of(&self, picture: &Picture) -> Result<Vec<f64>> {
        let Picture { w, h, rgb, .. } = picture;
        for (kind, what, least) in
            [(Kind::Gist, "the 4 x 4 blocks of GIST", 4), (Kind::Lbp, "the 3 x 3 pixels of a local binary pattern", 3)]
        {
            if self.kinds.contains(&kind) && *w.min(h) < least {
                return Err(
                    Error::job(format!("{w} x {h} pixels, smaller than {what}")).fix("leave it out of the manifest")
                );
            }
        }
        let textured = self.kinds.iter().any(|k| [Kind::Gist, Kind::Lbp].contains(k));
        let grey = if textured { resize::grey(rgb) } else { vec![] };
        let mut all = vec![];
        for kind in &self.kinds {
            match (kind, &self.names, &self.gist) {
                (Kind::Colour, ..) => all.extend(colour::Colours::of(rgb).numbers(self.signs, self.space)),
                (Kind::Names, Some(names), _) => all.extend(names.of(rgb)),
                (Kind::Gist, _, Some((gist, side))) => {
                    all.extend(gist.of(&resize::squash_grey(&grey, *w, *h, *side)?));
                }
                (Kind::Lbp, ..) => all.extend(lbp::histogram(&grey, *w as usize, self.form)),
                (Kind::Names | Kind::Gist, ..) => return Err(Error::job(format!("{kind:?} without what it needs"))),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(w: u32, h: u32) -> Picture {
        Picture { w, h, rgb: (0..w * h * 3).map(|i| (i * 37 % 251) as u8).collect(), notes: vec![] }
    }

    fn of(kinds: &[Kind]) -> Result<Descriptors> {
        Descriptors::new(kinds, Default::default(), None, 32, lbp::Form::Circle)
    }

    #[test]
    fn a_column_a_number_in_a_fixed_order() {
        let all = of(&[Kind::Lbp, Kind::Gist, Kind::Colour, Kind::Gist]).unwrap();
        let columns = all.columns();
        assert_eq!((columns.len(), &*columns[0], &*columns[11]), (11 + 512 + 59, "colour.red", "gist.1"));
        let numbers = all.of(&picture(9, 7)).unwrap();
        assert_eq!(numbers.len(), columns.len());
        let lbp = of(&[Kind::Lbp]).unwrap().of(&picture(9, 7)).unwrap();
        assert_eq!(numbers[11 + 512..], lbp);
        assert!((lbp.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_described_is_said() {
        let say = |kind, w, h| of(&[kind]).unwrap().of(&picture(w, h)).unwrap_err().to_string();
        assert!(say(Kind::Lbp, 2, 9).contains("2 x 9 pixels, smaller than the 3 x 3 pixels of a local binary pattern"));
        assert!(say(Kind::Gist, 9, 3).contains("smaller than the 4 x 4 blocks of GIST; leave it out"));
        assert!(of(&[Kind::Colour]).unwrap().of(&picture(1, 1)).is_ok());
        let e = of(&[Kind::Names]).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains("give colour-names FILE"), "{e}");
    }
}
