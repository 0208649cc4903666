/*! From a decoded photograph to what a network was trained on. Two halves with one name: the resize rule, applied to the
u8 pixels before they reach the engine, and the channel order, scale, mean and deviation, applied by each tower itself.
Both are recorded in the weight file: a wrong preset is the classic silent error. */

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

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
    pub order: Order,
    /// Applied to the bytes 0-255 first.
    pub scale: f32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Name, rule, source.
pub const PRESETS: [(&str, Preprocess, &str); 4] = [
    (
        "keras",
        Preprocess {
            resize: Resize::SquashNearest,
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
            order: Order::Rgb,
            scale: 1.0 / 255.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        },
        "torchvision and timm tv_in1k",
    ),
    (
        "caffe-places",
        Preprocess {
            resize: Resize::SquashCropBilinear,
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
            order: Order::Rgb,
            scale: 1.0 / 127.5,
            mean: [1.0; 3],
            std: [1.0; 3],
        },
        "pixels in [-1, 1]: towers trained here from scratch",
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
    /// The preset's name, or `custom`.
    pub fn name(&self) -> &'static str {
        PRESETS.iter().find(|p| &p.1 == self).map_or("custom", |p| p.0)
    }
}
