/*! He, Zhang, Ren & Sun 2015, "Deep residual learning for image recognition", Table 1, as torchvision builds them: the
stride of a bottleneck is at its 3x3 convolution (the paper has it at the first 1x1), and a shortcut that changes shape
is a 1x1 convolution (the paper's option B). */

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
