/*! He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition", Table 1. A shortcut that changes shape is a
1x1 convolution (the paper's option B). torchvision has the stride of a bottleneck at its 3x3 convolution ([`body`]);
keras.applications at the first 1x1, as the paper does, and its convolutions have biases ([`keras`]). */

use super::{Body, Size};
use crate::graph::Value;
use crate::nn::{Conv, Net};
use crate::ops::norm::Convention;
use crate::shape::Window;

/// Channels of the four stages, before a bottleneck's expansion.
const STAGES: [usize; 4] = [64, 128, 256, 512];

/// The convolutions of a residual block: (size, multiple of the stage's channels, carries the stride).
type Block = &'static [(usize, usize, bool)];
/// Two 3x3.
pub(super) const BASIC: Block = &[(3, 1, true), (3, 1, false)];
/// 1x1, 3x3, 1x1 to four times the channels.
pub(super) const BOTTLENECK: Block = &[(1, 1, false), (3, 1, true), (1, 4, false)];

pub(super) fn body(net: &mut Net, x: Value, block: Block, repeats: [usize; 4], size: Size) -> Body {
    let x = conv(net, ["conv1", "bn1"], x, size.channels(64), Window::square(7, 2, 3), true);
    let mut x = net.maxpool("maxpool", x, Window::square(3, 2, 1));
    for (stage, (channels, repeats)) in (1..).zip(STAGES.into_iter().zip(repeats)) {
        for i in 0..repeats {
            let stride = if stage > 1 && i == 0 { 2 } else { 1 };
            x = net.scope(&format!("layer{stage}.{i}"), |net| residual(net, x, block, size.channels(channels), stride));
        }
    }
    Body { map: x, last: net.global_avgpool("avgpool", x) }
}

/// Norms of keras.applications: the eps of its ResNets and DenseNets.
pub(super) const APPLICATIONS: Convention = Convention { eps: 1.001e-5, ..Convention::KERAS };

/// Bottlenecks as keras.applications builds and names them: stages 2 to 5, blocks from 1.
pub(super) fn keras(net: &mut Net, x: Value, repeats: [usize; 4], size: Size) -> Body {
    let conv = |net: &mut Net, name: &str, x, filters, window, relu| {
        let conv = Conv { filters, window, groups: 1, bias: true, relu };
        net.conv_bn(&format!("{name}_conv"), &format!("{name}_bn"), x, conv, APPLICATIONS)
    };
    let x = conv(net, "conv1", x, size.channels(64), Window::square(7, 2, 3), true);
    // Keras pads with zeros, which are no larger than what a ReLU gives.
    let mut x = net.maxpool("pool1_pool", x, Window::square(3, 2, 1));
    for (stage, (channels, repeats)) in (2..).zip(STAGES.into_iter().zip(repeats)) {
        let channels = size.channels(channels);
        for block in 1..=repeats {
            let name = format!("conv{stage}_block{block}");
            let first = Window::square(1, if stage > 2 && block == 1 { 2 } else { 1 }, 0);
            let y = conv(net, &format!("{name}_1"), x, channels, first, true);
            let y = conv(net, &format!("{name}_2"), y, channels, Window::square(3, 1, 1), true);
            let y = conv(net, &format!("{name}_3"), y, 4 * channels, Window::square(1, 1, 0), false);
            let shortcut = if block == 1 { conv(net, &format!("{name}_0"), x, 4 * channels, first, false) } else { x };
            let sum = net.add(&format!("{name}_add"), y, shortcut);
            x = net.relu(sum);
        }
    }
    Body { map: x, last: net.global_avgpool("avg_pool", x) }
}

fn residual(net: &mut Net, x: Value, block: Block, channels: usize, stride: usize) -> Value {
    let mut y = x;
    for (i, &(size, times, strided)) in (1..).zip(block) {
        let window = Window::square(size, if strided { stride } else { 1 }, size / 2);
        y = conv(net, [&format!("conv{i}"), &format!("bn{i}")], y, channels * times, window, i < block.len());
    }
    let shortcut = if net.g.ty(x).shape == net.g.ty(y).shape {
        x
    } else {
        let channels = net.g.ty(y).channels();
        conv(net, ["downsample.0", "downsample.1"], x, channels, Window::square(1, stride, 0), false)
    };
    let sum = net.add("add", y, shortcut);
    net.relu(sum)
}

fn conv(net: &mut Net, [conv, bn]: [&str; 2], x: Value, filters: usize, window: Window, relu: bool) -> Value {
    net.conv_bn(conv, bn, x, Conv { filters, window, groups: 1, bias: false, relu }, Convention::TORCH)
}
