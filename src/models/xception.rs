/*! Chollet 2017, "Xception: deep learning with depthwise separable convolutions", Figure 5, as Keras builds it. Names
are those of Keras's layers; its shortcut convolutions, which have none, are `blockN_residual`. */

use super::{Body, Size};
use crate::graph::Value;
use crate::nn::{Conv, Net};
use crate::ops::norm::Convention;
use crate::shape::Window;

/// Separable convolutions of blocks 2 to 13. Where the width changes, a pool of stride 2 ends the block and a strided
/// 1x1 convolution is its shortcut; elsewhere (the middle flow) the shortcut is the input.
#[rustfmt::skip]
const BLOCKS: [&[usize]; 12] = [
    &[128, 128], &[256, 256], &[728, 728],
    &[728; 3], &[728; 3], &[728; 3], &[728; 3], &[728; 3], &[728; 3], &[728; 3], &[728; 3],
    &[728, 1024],
];
/// Separable convolutions of block 14, which has no shortcut.
const LAST: [usize; 2] = [1536, 2048];

pub(super) fn body(net: &mut Net, x: Value, size: Size) -> Body {
    let x = conv(net, "block1_conv1", x, size.channels(32), Window::square(3, 2, 0), true);
    let mut x = conv(net, "block1_conv2", x, size.channels(64), Window::square(3, 1, 0), true);
    for (block, widths) in (2..).zip(BLOCKS) {
        let mut y = x;
        for (i, &k) in (1..).zip(widths) {
            // The first ReLU of block 2 is that of the convolution before it.
            let rectified = if (block, i) == (2, 1) { y } else { net.relu(y) };
            y = sepconv(net, &format!("block{block}_sepconv{i}"), rectified, size.channels(k), false);
        }
        if widths.len() == 2 {
            let (k, dims) = (size.channels(widths[1]), net.g.dims(x).to_vec());
            y = net.maxpool(&format!("block{block}_pool"), y, Window::same(3, 2, &dims));
            x = conv(net, &format!("block{block}_residual"), x, k, Window::same(1, 2, &dims), false);
        }
        x = net.add(&format!("block{block}_add"), x, y);
    }
    for (i, k) in (1..).zip(LAST) {
        x = sepconv(net, &format!("block14_sepconv{i}"), x, size.channels(k), true);
    }
    Body { map: x, last: net.global_avgpool("avg_pool", x) }
}

fn sepconv(net: &mut Net, name: &str, x: Value, filters: usize, relu: bool) -> Value {
    let separable = Conv { filters, window: Window::square(3, 1, 1), groups: 1, bias: false, relu: false };
    let y = net.separable(name, x, separable);
    net.batchnorm(&format!("{name}_bn"), y, Convention::KERAS, relu)
}

fn conv(net: &mut Net, name: &str, x: Value, filters: usize, window: Window, relu: bool) -> Value {
    let conv = Conv { filters, window, groups: 1, bias: false, relu };
    net.conv_bn(name, &format!("{name}_bn"), x, conv, Convention::KERAS)
}
