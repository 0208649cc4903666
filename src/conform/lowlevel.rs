/*! Colours, GIST and local binary patterns against colorsys, scikit-image and LEAR's GIST: host arithmetic in float64, the same on
every device. Parts of pixels are whole numbers over whole numbers, and means of a few thousand of them agree to [`EXACT`]; GIST
is transforms of up to 256 x 256, 1e-9; LEAR's own is float32, 1e-6. Photographs are looked for beside the file and where
`make_features.py` has them; another decoder moves their colours by a third of a level. */

use super::cases::EXACT;
use super::golden::Tensor;
use super::{Checked, Context, Stop};
use crate::data::decode::{DecodeOptions, Picture, decode_file};
use crate::data::resize;
use crate::descriptors::colour::{Colours, Signs, Space};
use crate::descriptors::gist::{self, Gist};
use crate::descriptors::lbp::{self, Form};
use crate::error::Result;

/// Of GIST in float64, and of one that was computed in float32.
const GIST: [f64; 2] = [1e-9, 1e-6];
/// Rounding of what the file keeps in float32.
const ROUNDED: f64 = 1e-6;

/// What numbers of photographs may be off by, whose pixels another decoder made: means and parts, bins of patterns.
const DECODED: [f64; 2] = [2e-3, 5e-3];
/// Where photographs are, from the folder of the file.
const FOLDERS: [&str; 2] = ["", "../../data/oasis/images"];

impl Context<'_> {
    pub(super) fn lowlevel(&self) -> Result<Vec<Checked>, Stop> {
        match self.text("kind") {
            "synthetic" => {
                let x = self.ranked("x", 3)?;
                let (h, w) = (x.dims[0] as u32, x.dims[1] as u32);
                let picture = Picture { w, h, rgb: bytes(x), notes: vec![] };
                self.described(&picture, [EXACT; 2], None)
            }
            "gist" => {
                let grey = self.ranked("grey", 2)?;
                let side = grey.dims[0];
                if grey.dims[1] != side || !side.is_multiple_of(gist::STEP) {
                    return Err(Stop::Unsupported(format!("a square of {:?} grey levels", grey.dims)));
                }
                let gist = Gist::new(side);
                let mut checked = self.gist(&gist.of(&bytes(grey)), GIST)?;
                let filtered = self.get("prefiltered")?;
                if filtered.data.len() == side * side {
                    checked.push(Checked::new("prefiltered", &gist.prefiltered(&bytes(grey)), &filtered.data, ROUNDED));
                }
                Ok(checked)
            }
            "photo" => {
                let (name, folder) = (self.text("file"), self.golden.path.parent().unwrap_or("".as_ref()));
                let places = FOLDERS.map(|f| folder.join(f).join(name));
                let Some(file) = places.iter().find(|p| p.is_file()) else {
                    return Err(Stop::Unsupported("photographs that are not beside the file".into()));
                };
                let picture = decode_file(file, &DecodeOptions::default())?;
                let side = gist::SIDE as u32;
                let square = resize::squash_grey(&resize::grey(&picture.rgb), picture.w, picture.h, side)?;
                self.described(&picture, DECODED, Some(&Gist::new(gist::SIDE).of(&square)))
            }
            other => Err(Stop::Unsupported(format!("kind {other}"))),
        }
    }

    /// Colours and patterns of a picture. Its hue and the label of its commonest colour only where the pixels are the same: of
    /// what is nearly grey a level decides them, and means of V and S are in `pad_hsv`.
    fn described(
        &self,
        picture: &Picture,
        [means, bins]: [f64; 2],
        gist: Option<&[f64]>,
    ) -> Result<Vec<Checked>, Stop> {
        let colours = Colours::of(&picture.rgb);
        let (label, value) = colours.commonest();
        let mut checked = vec![];
        let mut check = |tensor: &str, got: &[f64], slack: f64| -> Result<()> {
            if let Some(want) = self.find(tensor) {
                checked.push(Checked::new(tensor, got, &want.data, slack));
            }
            Ok(())
        };
        self.get("mean_rgb")?;
        check("mean_rgb", &colours.rgb, means)?;
        if gist.is_none() {
            check("mean_hsv", &colours.hsv, means)?;
            check("histogram_label", &[label as f64], 0.0)?;
        }
        check("histogram_value", &[value], means)?;
        check("pad", &colours.pad(Signs::Original, Space::Ihsl), means)?;
        check("pad_paper_signs", &colours.pad(Signs::Paper, Space::Ihsl), means)?;
        check("pad_hsv", &colours.pad(Signs::Original, Space::Hsv), means)?;
        if picture.w.min(picture.h) >= 3 && self.find("lbp").is_some() {
            let grey = resize::grey(&picture.rgb);
            if self.find("grey").is_some() {
                let levels: Vec<f64> = grey.iter().map(|g| f64::from(*g)).collect();
                check("grey", &levels, 0.0)?;
            }
            check("lbp", &lbp::histogram(&grey, picture.w as usize, Form::Circle), bins)?;
            check("lbp_square", &lbp::histogram(&grey, picture.w as usize, Form::Square), bins)?;
        }
        if let Some(gist) = gist {
            checked.extend(self.gist(gist, [means; 2])?);
        }
        Ok(checked)
    }

    fn gist(&self, got: &[f64], [exact, single]: [f64; 2]) -> Result<Vec<Checked>> {
        let mut checked = vec![Checked::new("gist", got, &self.get("gist")?.data, exact)];
        checked.extend(self.find("gist_lear").map(|want| Checked::new("gist_lear", got, &want.data, single)));
        Ok(checked)
    }
}

/// Whole numbers of a tensor as bytes.
fn bytes(t: &Tensor) -> Vec<u8> {
    t.data.iter().map(|x| *x as u8).collect()
}
