/*! Floor 7: networks as tables. A model names layers and widths; it never sees a kernel or a device. [`ALL`] lists them;
each file holds one family as a table that can be held against its paper, and a short builder.

Parameters are called as in torchvision, so that its state dicts map by name, and as Keras's layers where Keras is the
source. VGG's are `conv1_1 ... conv5_4`, `fc1 ... fc3`, after the table of the paper: [`crate::weights::names`] knows the
others'. */

mod fused;
mod vgg;

pub use fused::{Architecture, Base, Config, Member, OutAct, STATISTICS, Tower, TowerOutput};
pub use vgg::{Blocks, VGG11, VGG13, VGG16, VGG19, classifier, vgg};

use crate::error::{Error, Result};
use crate::graph::Value;
use crate::nn::Net;

/// A published network.
pub struct Network {
    pub name: &'static str,
    /// Authors, year, title, and what differs between its versions.
    pub about: &'static str,
    /// Side of the square image it was published with, in pixels.
    pub image: usize,
    /// Side of the smallest image that it can take.
    pub smallest: usize,
    pub outputs: usize,
    /// Published count of learned parameters at that size.
    pub parameters: usize,
    /// Running means and variances of its batch norms, not among `parameters`: Keras adds the two, torchvision counts
    /// only `parameters`.
    pub statistics: usize,
    /// Images [N,S,S,3] that are already normalised -> [N,outputs], class scores before the softmax.
    pub build: fn(&mut Net, Value, Size) -> Value,
}

/// How large a network is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Divides the published channel counts; 1 is the published network, more is for tests and small machines.
    pub width: usize,
    pub outputs: usize,
}

impl Size {
    /// Channels left of a published count.
    pub fn channels(&self, published: usize) -> usize {
        (published / self.width).max(1)
    }
}

impl Network {
    /// The published size.
    pub fn size(&self) -> Size {
        Size { width: 1, outputs: self.outputs }
    }
}

const SIMONYAN: &str = "Simonyan & Zisserman 2014, Very deep convolutional networks for large-scale image recognition";

/// Every network, once.
pub const ALL: &[Network] = &[
    Network {
        name: "vgg11",
        about: SIMONYAN,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 132_863_336,
        statistics: 0,
        build: |net, x, size| vgg::build(net, x, &VGG11, size),
    },
    Network {
        name: "vgg13",
        about: SIMONYAN,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 133_047_848,
        statistics: 0,
        build: |net, x, size| vgg::build(net, x, &VGG13, size),
    },
    Network {
        name: "vgg16",
        about: SIMONYAN,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 138_357_544,
        statistics: 0,
        build: |net, x, size| vgg::build(net, x, &VGG16, size),
    },
    Network {
        name: "vgg19",
        about: SIMONYAN,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 143_667_240,
        statistics: 0,
        build: |net, x, size| vgg::build(net, x, &VGG19, size),
    },
    Network {
        name: "deep-affect",
        about: "Parry & Vuong 2021, Deep Affect: object and scene (VGG16), face (VGG19, five classes), one shared head",
        image: 224,
        smallest: 32,
        outputs: 2,
        parameters: 355_761_192,
        statistics: 0,
        build: fused::build,
    },
];

/// A network of [`ALL`] by its name.
pub fn find(name: &str) -> Result<&'static Network> {
    ALL.iter().find(|n| n.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|n| n.name).collect();
        Error::usage(format!("unknown network `{name}`")).fix(format!("choose one of {}", names.join(", ")))
    })
}
