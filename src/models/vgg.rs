//! Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", Table 1.

use super::{Body, Size};
use crate::graph::Value;
use crate::nn::{Conv, Net};
use crate::ops::norm::Convention;
use crate::shape::Window;

/// (channels, convolutions) per block; every block ends in a 2x2 max-pool of stride 2.
pub type Blocks = [(usize, usize); 5];

/// Configuration A.
pub const VGG11: Blocks = [(64, 1), (128, 1), (256, 2), (512, 2), (512, 2)];
/// Configuration B.
pub const VGG13: Blocks = [(64, 2), (128, 2), (256, 2), (512, 2), (512, 2)];
/// Configuration D.
pub const VGG16: Blocks = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)];
/// Configuration E.
pub const VGG19: Blocks = [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)];
/// Hidden dense layers of all of them.
pub(super) const HIDDEN: [usize; 2] = [4096, 4096];

/// x [N,S,S,3] -> the output of every block before its pool, and of the last pool: [N,S/32,S/32,512] at full width.
/// Channels are divided by `width` (1 is the published network). With `norm`, a batch norm `normB_I` stands between each
/// `convB_I` and its ReLU, as in torchvision's `_bn` networks.
pub fn vgg(net: &mut Net, mut x: Value, blocks: &[(usize, usize)], norm: bool, width: usize) -> (Vec<Value>, Value) {
    let mut stages = vec![];
    for (b, &(k, convs)) in (1..).zip(blocks) {
        for c in 1..=convs {
            let conv = Conv {
                filters: (k / width).max(1),
                window: Window::square(3, 1, 1),
                groups: 1,
                bias: true,
                relu: true,
            };
            let name = format!("conv{b}_{c}");
            x = match norm {
                true => net.conv_bn(&name, &format!("norm{b}_{c}"), x, conv, Convention::TORCH),
                false => net.conv(&name, x, conv),
            };
        }
        stages.push(x);
        x = net.maxpool(&format!("pool{b}"), x, Window::square(2, 2, 0));
    }
    (stages, x)
}

/// Hidden dense layers `fc1`, `fc2`, ...: a ReLU and dropout after each. x [N,...] -> [N, the last width].
pub fn hidden(net: &mut Net, mut x: Value, widths: &[usize], keep: f32) -> Value {
    for (i, &k) in (1..).zip(widths) {
        x = net.dense(&format!("fc{i}"), x, k, true);
        x = net.dropout(&format!("drop{i}"), x, keep);
    }
    x
}

/// The network up to its last dense layer, dropout 0.5 behind each hidden one.
pub(super) fn body(net: &mut Net, x: Value, blocks: &Blocks, norm: bool, size: Size) -> Body {
    let map = vgg(net, x, blocks, norm, size.width).1;
    Body { map, last: hidden(net, map, &HIDDEN.map(|k| size.channels(k)), 0.5) }
}
