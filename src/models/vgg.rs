//! Simonyan & Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", Table 1.

use crate::graph::Value;
use crate::nn::Net;
use crate::shape::Window;

/// (channels, convolutions) per block; every block ends in a 2x2 max-pool of stride 2.
pub type Blocks = [(usize, usize); 5];

/// Configuration D.
pub const VGG16: Blocks = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)];
/// Configuration E.
pub const VGG19: Blocks = [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)];

/// x [N,S,S,3] -> the output of every block before its pool, and of the last pool: [N,S/32,S/32,512] at full width.
/// Channels are divided by `width` (1 is the published network).
pub fn vgg(net: &mut Net, mut x: Value, blocks: &Blocks, width: usize) -> (Vec<Value>, Value) {
    let mut stages = vec![];
    for (b, &(k, convs)) in (1..).zip(blocks) {
        for c in 1..=convs {
            x = net.conv_relu(&format!("conv{b}_{c}"), x, (k / width).max(1), Window::square(3, 1, 1));
        }
        stages.push(x);
        x = net.maxpool(&format!("pool{b}"), x, Window::square(2, 2, 0));
    }
    (stages, x)
}
