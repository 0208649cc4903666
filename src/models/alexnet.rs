/*! Two networks go by the name AlexNet. Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep
convolutional neural networks": two groups, because it was cut over two GPUs, and local response norms. Krizhevsky 2014,
"One weird trick for parallelizing convolutional neural networks": one column, fewer filters, no norms; torchvision's.

The papers give the image as 224x224. The first one's 55x55 outputs need 227 (11x11 filters of stride 4, no padding);
torchvision takes 224 and pads by 2. */

use super::{Body, Size};
use crate::graph::Value;
use crate::nn::{Conv, Net};
use crate::ops::lrn::Lrn;
use crate::shape::Window;

/// What follows a convolution and its ReLU.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Nothing,
    /// 3x3 max-pool of stride 2.
    Pool,
    /// Local response norm, then the pool.
    NormPool,
}
use Then::{NormPool, Nothing, Pool};

pub(super) struct Table {
    /// Name; filters, side, stride, padding; groups; what follows.
    convs: [(&'static str, [usize; 4], usize, Then); 5],
    /// Dense layers, and whether dropout 0.5 comes before them; the last one gives the class scores.
    dense: [(&'static str, bool); 3],
}

#[rustfmt::skip]
pub(super) const TWO_GROUPS: Table = Table {
    convs: [
        ("conv1", [ 96, 11, 4, 0], 1, NormPool),
        ("conv2", [256,  5, 1, 2], 2, NormPool),
        ("conv3", [384,  3, 1, 1], 1, Nothing),
        ("conv4", [384,  3, 1, 1], 2, Nothing),
        ("conv5", [256,  3, 1, 1], 2, Pool),
    ],
    dense: [("fc6", false), ("fc7", true), ("fc8", true)],
};

#[rustfmt::skip]
pub(super) const ONE_COLUMN: Table = Table {
    convs: [
        ("features.0",  [ 64, 11, 4, 2], 1, Pool),
        ("features.3",  [192,  5, 1, 2], 1, Pool),
        ("features.6",  [384,  3, 1, 1], 1, Nothing),
        ("features.8",  [256,  3, 1, 1], 1, Nothing),
        ("features.10", [256,  3, 1, 1], 1, Pool),
    ],
    dense: [("classifier.1", true), ("classifier.4", true), ("classifier.6", false)],
};

/// Section 3.3 of the paper: alpha 1e-4, not divided by the five channels.
const NORM: Lrn = Lrn { size: 5, alpha: 5e-4, beta: 0.75, k: 2.0 };
/// Width of both hidden dense layers.
const HIDDEN: usize = 4096;

pub(super) fn body(net: &mut Net, mut x: Value, table: &Table, size: Size) -> Body {
    for &(name, [filters, side, stride, pad], groups, then) in &table.convs {
        let filters = size.channels(filters).next_multiple_of(groups);
        let window = Window::square(side, stride, pad);
        x = net.conv(name, x, Conv { filters, window, groups, bias: true, relu: true });
        if then == NormPool {
            x = net.lrn(&format!("{name}.norm"), x, NORM);
        }
        if then != Nothing {
            x = net.maxpool(&format!("{name}.pool"), x, Window::square(3, 2, 0));
        }
    }
    let map = x;
    for (i, (name, drop)) in table.dense.into_iter().enumerate() {
        if drop {
            x = net.dropout(&format!("{name}.drop"), x, 0.5);
        }
        if i < 2 {
            x = net.dense(name, x, size.channels(HIDDEN), true);
        }
    }
    Body { map, last: x }
}
