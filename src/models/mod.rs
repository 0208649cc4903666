/*! Floor 7: networks as tables. A model names layers and widths; it never sees a kernel or a device. [`ALL`] lists
them; each file holds one family as a table that can be held against its paper, and a short builder.

Parameters are called as in torchvision, so that its state dicts map by name, and as Keras's layers where Keras is the
source. VGG's are `conv1_1 ... conv5_4`, `fc1 ... fc3`, after the table of the paper: [`crate::weights::names`] knows
torchvision's. */

mod alexnet;
mod config;
mod densenet;
mod emosepar;
mod expressions;
mod generator;
mod inception;
mod resnet;
mod tower;
mod vgg;
mod xception;

pub use config::{Architecture, Config, Described, Goal, HEAD, Member, OutAct, STATISTICS, Standardize};
pub use expressions::{FIVE, NINE, expression, expressions};
pub use generator::{Discriminator, Generator};
pub use tower::{Base, Stages, TOWER, Tower, TowerOutput};
pub use vgg::{Blocks, VGG11, VGG13, VGG16, VGG19, vgg};

use crate::error::{Error, Result};
use crate::graph::Value;
use crate::nn::Net;
use crate::ops::norm::Convention;

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
    /// What was done to the pictures that its published weights were trained on: a name of
    /// [`crate::preprocess::PRESETS`].
    pub preprocess: &'static str,
    /// Images [N,S,S,3] that are already normalised -> everything but the last dense layer.
    pub body: fn(&mut Net, Value, Size) -> Body,
    /// Name of that layer, whose outputs are class scores before the softmax.
    pub top: &'static str,
}

/// A network without its last dense layer.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// The last feature map [N,H,W,C], before it is averaged or flattened; of `deep-affect` the features of its towers.
    pub map: Value,
    /// What the last dense layer reads, [N,features]; its dropout has been applied.
    pub last: Value,
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
    /// Images [N,S,S,3] that are already normalised -> [N,outputs], class scores before the softmax.
    pub fn build(&self, net: &mut Net, x: Value, size: Size) -> Value {
        let body = (self.body)(net, x, size);
        net.dense(self.top, body.last, size.outputs, false)
    }

    /// The published size.
    pub fn size(&self) -> Size {
        Size { width: 1, outputs: self.outputs }
    }
}

const SIMONYAN: &str = "Simonyan & Zisserman 2014, Very deep convolutional networks for large-scale image recognition";
const NORMED: &str = "Simonyan & Zisserman 2014, with the batch norm of torchvision behind every convolution";
const HE: &str =
    "He, Zhang, Ren & Sun 2015, Deep residual learning for image recognition: stride at the 3x3 convolutions";
const HUANG: &str = "Huang, Liu, van der Maaten & Weinberger 2017, Densely connected convolutional networks";
const SZEGEDY: &str = "Szegedy, Vanhoucke, Ioffe, Shlens & Wojna 2016, Rethinking the Inception architecture for \
                       computer vision: v3 without the auxiliary head";

/// Every network, once.
pub const ALL: &[Network] = &[
    Network {
        name: "alexnet",
        about: "Krizhevsky, Sutskever & Hinton 2012, ImageNet classification with deep convolutional neural networks: \
                two groups, local response norms",
        image: 227,
        smallest: 67,
        outputs: 1000,
        parameters: 60_965_224,
        statistics: 0,
        preprocess: "caffe",
        body: |net, x, size| alexnet::body(net, x, &alexnet::TWO_GROUPS, size),
        top: "fc8",
    },
    Network {
        name: "alexnet-torchvision",
        about: "Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks: one column, no norms",
        image: 224,
        smallest: 63,
        outputs: 1000,
        parameters: 61_100_840,
        statistics: 0,
        preprocess: "torch",
        body: |net, x, size| alexnet::body(net, x, &alexnet::ONE_COLUMN, size),
        top: "classifier.6",
    },
    Network {
        name: "vgg11",
        about: SIMONYAN,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 132_863_336,
        statistics: 0,
        preprocess: "keras",
        body: |net, x, size| vgg::body(net, x, &VGG11, false, size),
        top: "fc3",
    },
    Network {
        name: "vgg13",
        about: SIMONYAN,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 133_047_848,
        statistics: 0,
        preprocess: "keras",
        body: |net, x, size| vgg::body(net, x, &VGG13, false, size),
        top: "fc3",
    },
    Network {
        name: "vgg16",
        about: SIMONYAN,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 138_357_544,
        statistics: 0,
        preprocess: "keras",
        body: |net, x, size| vgg::body(net, x, &VGG16, false, size),
        top: "fc3",
    },
    Network {
        name: "vgg19",
        about: SIMONYAN,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 143_667_240,
        statistics: 0,
        preprocess: "keras",
        body: |net, x, size| vgg::body(net, x, &VGG19, false, size),
        top: "fc3",
    },
    Network {
        name: "vgg16-bn",
        about: NORMED,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 138_365_992,
        statistics: 8_448,
        preprocess: "torch",
        body: |net, x, size| vgg::body(net, x, &VGG16, true, size),
        top: "fc3",
    },
    Network {
        name: "vgg19-bn",
        about: NORMED,
        image: 224,
        smallest: 32,
        outputs: 1000,
        parameters: 143_678_248,
        statistics: 11_008,
        preprocess: "torch",
        body: |net, x, size| vgg::body(net, x, &VGG19, true, size),
        top: "fc3",
    },
    Network {
        name: "resnet18",
        about: HE,
        image: 224,
        smallest: 1,
        outputs: 1000,
        parameters: 11_689_512,
        statistics: 9_600,
        preprocess: "torch",
        body: |net, x, size| resnet::body(net, x, resnet::BASIC, [2, 2, 2, 2], size),
        top: "fc",
    },
    Network {
        name: "resnet50",
        about: HE,
        image: 224,
        smallest: 1,
        outputs: 1000,
        parameters: 25_557_032,
        statistics: 53_120,
        preprocess: "torch",
        body: |net, x, size| resnet::body(net, x, resnet::BOTTLENECK, [3, 4, 6, 3], size),
        top: "fc",
    },
    Network {
        name: "resnet101",
        about: HE,
        image: 224,
        smallest: 1,
        outputs: 1000,
        parameters: 44_549_160,
        statistics: 105_344,
        preprocess: "torch",
        body: |net, x, size| resnet::body(net, x, resnet::BOTTLENECK, [3, 4, 23, 3], size),
        top: "fc",
    },
    Network {
        name: "resnet101-keras",
        about: "He, Zhang, Ren & Sun 2015, as keras.applications has it: stride at the first 1x1 convolutions, with biases, eps \
                1.001e-5",
        image: 224,
        smallest: 1,
        outputs: 1000,
        parameters: 44_601_832,
        statistics: 105_344,
        preprocess: "keras",
        body: |net, x, size| resnet::keras(net, x, [3, 4, 23, 3], size),
        top: "predictions",
    },
    Network {
        name: "densenet121",
        about: HUANG,
        image: 224,
        smallest: 29,
        outputs: 1000,
        parameters: 7_978_856,
        statistics: 83_648,
        preprocess: "torch",
        body: |net, x, size| densenet::body(net, x, [6, 12, 24, 16], Convention::TORCH, size),
        top: "classifier",
    },
    Network {
        name: "densenet201",
        about: HUANG,
        image: 224,
        smallest: 29,
        outputs: 1000,
        parameters: 20_013_928,
        statistics: 229_056,
        preprocess: "torch",
        body: |net, x, size| densenet::body(net, x, [6, 12, 48, 32], Convention::TORCH, size),
        top: "classifier",
    },
    Network {
        name: "densenet201-keras",
        about: "Huang, Liu, van der Maaten & Weinberger 2017, as keras.applications has it: eps 1.001e-5",
        image: 224,
        smallest: 29,
        outputs: 1000,
        parameters: 20_013_928,
        statistics: 229_056,
        preprocess: "torch",
        body: |net, x, size| densenet::body(net, x, [6, 12, 48, 32], resnet::APPLICATIONS, size),
        top: "classifier",
    },
    Network {
        name: "inception-v3",
        about: SZEGEDY,
        image: 299,
        smallest: 75,
        outputs: 1000,
        parameters: 23_834_568,
        statistics: 34_432,
        preprocess: "unit",
        body: |net, x, size| inception::body(net, x, inception::TORCHVISION, size),
        top: "fc",
    },
    Network {
        name: "inception-v3-keras",
        about: SZEGEDY,
        image: 299,
        smallest: 75,
        outputs: 1000,
        parameters: 23_817_352,
        statistics: 34_432,
        preprocess: "unit",
        body: |net, x, size| inception::body(net, x, inception::KERAS, size),
        top: "fc",
    },
    Network {
        name: "xception",
        about: "Chollet 2017, Xception: deep learning with depthwise separable convolutions",
        image: 299,
        smallest: 7,
        outputs: 1000,
        parameters: 22_855_952,
        statistics: 54_528,
        preprocess: "unit",
        body: xception::body,
        top: "predictions",
    },
    Network {
        name: "emosepar",
        about: "Noguera 2018, a small network of separable convolutions for valence and arousal",
        image: 150,
        smallest: 73,
        outputs: 2,
        parameters: 531_138,
        statistics: 3_648,
        preprocess: "noguera",
        body: emosepar::body,
        top: "dense",
    },
    Network {
        name: "deep-affect",
        about: "Parry & Vuong 2021, Deep Affect: object and scene (VGG16), face (VGG19, five classes), one shared head",
        image: 224,
        smallest: 32,
        outputs: 2,
        parameters: 355_761_192,
        statistics: 0,
        preprocess: "keras",
        body: config::body,
        top: "head.out",
    },
];

/// The names of [`ALL`], for messages.
pub fn names() -> String {
    ALL.iter().map(|n| n.name).collect::<Vec<_>>().join(", ")
}

/// A network of [`ALL`] by its name.
pub fn find(name: &str) -> Result<&'static Network> {
    ALL.iter()
        .find(|n| n.name == name)
        .ok_or_else(|| Error::usage(format!("unknown network `{name}`")).fix(format!("choose one of {}", names())))
}
