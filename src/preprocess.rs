/*! From a decoded photograph to what a network was trained on. Two halves with one name: the [`View`], a square of u8
pixels made before they reach the engine, and the channel order, scale, mean and deviation, applied by each tower itself.
Both are recorded in the weight file: a wrong preset is the classic silent error. */

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// How a photograph of any size becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Nearest neighbour straight to the square, aspect not kept (Keras `load_img`).
    SquashNearest,
    /// Antialiased bilinear straight to the square, aspect not kept.
    SquashBilinear,
    /// Antialiased bilinear so that the short side is 8/7 of the square, then the centre (torchvision: 256, crop 224).
    CropBilinear,
    /// Antialiased bilinear to a square of 8/7, then the centre (Caffe's Places: 256x256, crop 224).
    SquashCropBilinear,
    /// Bilinear between the four nearest pixels straight to the square, however much smaller that is, aspect not kept
    /// (OpenCV's `resize`, `INTER_LINEAR`).
    SquashOpencv,
}

/// The square that a tower sees of a photograph: what pixels become before the engine has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// In pixels.
    pub side: usize,
    pub resize: Resize,
    /// All three channels are the luma.
    pub grey: bool,
    /// Only the picture's [`Area`] is seen, where it has one.
    pub crop: Option<Crop>,
}

/// How much is seen of the surroundings of an [`Area`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crop {
    /// On every side, in percent of the area's width or height.
    pub margin: u16,
}

/// What of a photograph is seen by those who look at its face only: in pixels of the upright picture, from its upper left
/// corner. It need not lie within.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Area {
    /// The pixels of a picture of w x h that it touches, with its surroundings: left, top, width, height. None if the area
    /// itself touches none.
    pub fn within(&self, w: u32, h: u32, crop: Crop) -> Option<[u32; 4]> {
        let clip = |from: f64, length: f64, side: u32| {
            let touched = |margin: f64| {
                let (from, to) =
                    ((from - margin).floor().max(0.0), (from + length + margin).ceil().min(f64::from(side)));
                (to - from >= 1.0).then_some((from as u32, (to - from) as u32))
            };
            touched(0.0).and(touched(length * f64::from(crop.margin) / 100.0))
        };
        let ((x, width), (y, height)) = (clip(self.x, self.width, w)?, clip(self.y, self.height, h)?);
        Some([x, y, width, height])
    }
}

impl View {
    /// Bytes of the square, [side, side, 3].
    pub fn bytes(&self) -> usize {
        self.side * self.side * 3
    }
}

/// Bytes of one picture: its squares, one view after another.
pub fn record(views: &[View]) -> usize {
    views.iter().map(View::bytes).sum()
}

/// The squares [n, side, side, 3] of one view out of n records, without a copy where it is the only one.
pub fn squares<'a>(records: &'a [u8], views: &[View], which: usize) -> Cow<'a, [u8]> {
    if views.len() == 1 {
        return Cow::Borrowed(records);
    }
    let (from, length) = (record(&views[..which]), views[which].bytes());
    let mut squares = Vec::with_capacity(records.len() / record(views) * length);
    records.chunks_exact(record(views)).for_each(|r| squares.extend_from_slice(&r[from..][..length]));
    Cow::Owned(squares)
}

/// `224`, or `224 and 44`: each side once.
pub fn sides(views: &[View]) -> String {
    let first = |(i, v): &(usize, &View)| views[..*i].iter().all(|before| before.side != v.side);
    let sides: Vec<String> = views.iter().enumerate().filter(first).map(|(_, v)| v.side.to_string()).collect();
    sides.join(" and ")
}

/// Channel order a network was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Rgb,
    Bgr,
}

/// y[c] = (pixel[order(c)] * scale - mean[c]) / std[c], with mean and std in the network's own channel order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    pub resize: Resize,
    /// The picture becomes its luma, in all three channels, before anything else is done to its numbers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grey: bool,
    pub order: Order,
    /// Applied to the bytes 0-255 first.
    pub scale: f32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Name, rule, source.
pub const PRESETS: [(&str, Preprocess, &str); 8] = [
    (
        "keras",
        Preprocess {
            resize: Resize::SquashNearest,
            grey: false,
            order: Order::Bgr,
            scale: 1.0,
            mean: [103.939, 116.779, 123.68],
            std: [1.0; 3],
        },
        "keras.applications vgg16/vgg19, imagenet_utils mode `caffe`",
    ),
    (
        "torch",
        Preprocess {
            resize: Resize::CropBilinear,
            grey: false,
            order: Order::Rgb,
            scale: 1.0 / 255.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        },
        "torchvision and timm tv_in1k",
    ),
    (
        "caffe",
        Preprocess {
            resize: Resize::CropBilinear,
            grey: false,
            order: Order::Bgr,
            scale: 1.0,
            mean: [103.939, 116.779, 123.68],
            std: [1.0; 3],
        },
        "VGG_ILSVRC_16_layers and VGG_ILSVRC_19_layers: short side 256, centre 224",
    ),
    (
        "tensorflow",
        Preprocess {
            resize: Resize::SquashBilinear,
            grey: false,
            order: Order::Rgb,
            scale: 1.0,
            mean: [123.68, 116.779, 103.939],
            std: [1.0; 3],
        },
        "vgg16_weights.npz: the same numbers for pictures in RGB",
    ),
    (
        "caffe-places",
        Preprocess {
            resize: Resize::SquashCropBilinear,
            grey: false,
            order: Order::Bgr,
            scale: 1.0,
            mean: [104.051, 112.514, 116.676],
            std: [1.0; 3],
        },
        "VGG16-Places365: average of places365CNN_mean.binaryproto",
    ),
    (
        "unit",
        Preprocess {
            resize: Resize::SquashBilinear,
            grey: false,
            order: Order::Rgb,
            scale: 1.0 / 127.5,
            mean: [1.0; 3],
            std: [1.0; 3],
        },
        "pixels in [-1, 1]: towers trained here from scratch",
    ),
    (
        "fer2013",
        Preprocess {
            resize: Resize::SquashBilinear,
            grey: true,
            order: Order::Rgb,
            scale: 1.0 / 255.0,
            mean: [0.0; 3],
            std: [1.0; 3],
        },
        "networks of the FER2013 faces: torchvision's `ToTensor` of grey pictures, the channel three times",
    ),
    (
        "noguera",
        Preprocess {
            resize: Resize::SquashOpencv,
            grey: false,
            order: Order::Bgr,
            scale: 1.0,
            mean: [0.0; 3],
            std: [1.0; 3],
        },
        "Noguera 2018, appendix: `cv2.imread` and `cv2.resize`, nothing else",
    ),
];

impl Preprocess {
    /// A preset by name.
    pub fn preset(name: &str) -> Result<Self> {
        PRESETS.iter().find(|p| p.0 == name).map(|p| p.1.clone()).ok_or_else(|| {
            let names: Vec<_> = PRESETS.iter().map(|p| p.0).collect();
            Error::usage(format!("unknown preprocessing `{name}`")).fix(format!("choose one of {}", names.join(", ")))
        })
    }
    /// The square of a photograph that this is for.
    pub fn view(&self, side: usize) -> View {
        View { side, resize: self.resize, grey: self.grey, crop: None }
    }
    /// The preset's name, or `custom`.
    pub fn name(&self) -> &'static str {
        PRESETS.iter().find(|p| &p.1 == self).map_or("custom", |p| p.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_is_clipped_to_its_picture() {
        let area = |x, y, width, height| Area { x, y, width, height };
        let within = |a: Area, margin| a.within(100, 50, Crop { margin });
        assert_eq!(within(area(10.0, 20.0, 30.0, 10.0), 0), Some([10, 20, 30, 10]));
        assert_eq!(within(area(10.0, 20.0, 30.0, 10.0), 50), Some([0, 15, 55, 20]));
        assert_eq!(within(area(-5.0, 45.5, 20.2, 100.0), 0), Some([0, 45, 16, 5]));
        assert_eq!(within(area(99.5, 0.0, 0.1, 50.0), 0), Some([99, 0, 1, 50]));
        // A margin does not bring in what lies outside.
        for a in [area(100.0, 0.0, 9.0, 9.0), area(-9.0, 0.0, 9.0, 9.0), area(0.0, 60.0, 9.0, 9.0)] {
            assert_eq!((within(a, 0), within(a, 1000)), (None, None));
        }
        assert_eq!(within(area(-1e300, -1e300, 2e300, 2e300), u16::MAX), Some([0, 0, 100, 50]));
    }
}
