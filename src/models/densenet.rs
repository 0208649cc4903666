/*! Huang, Liu, van der Maaten & Weinberger 2017, "Densely connected convolutional networks", Table 1: DenseNet-BC with
growth 32. Norm and ReLU come before a convolution, and every layer sees all earlier ones of its block. Names are
torchvision's; Keras's network differs in its norms. */

use super::{Body, Size};
use crate::graph::Value;
use crate::nn::{Conv, Net};
use crate::ops::norm::Convention;
use crate::shape::Window;

/// Channels that a layer adds.
const GROWTH: usize = 32;
/// Channels of a layer's 1x1 convolution, in multiples of the growth.
const BOTTLENECK: usize = 4;
/// Channels of the first convolution.
const FIRST: usize = 64;

pub(super) fn body(net: &mut Net, x: Value, layers: [usize; 4], norms: Convention, size: Size) -> Body {
    let map = net.scope("features", |net| {
        let first =
            Conv { filters: size.channels(FIRST), window: Window::square(7, 2, 3), groups: 1, bias: false, relu: true };
        let x = net.conv_bn("conv0", "norm0", x, first, norms);
        let mut x = net.maxpool("pool0", x, Window::square(3, 2, 1));
        for (block, layers) in (1..).zip(layers) {
            for layer in 1..=layers {
                let new = net.scope(&format!("denseblock{block}.denselayer{layer}"), |net| {
                    let y = norm_relu_conv(net, ["norm1", "conv1"], norms, x, BOTTLENECK * size.channels(GROWTH), 1);
                    norm_relu_conv(net, ["norm2", "conv2"], norms, y, size.channels(GROWTH), 3)
                });
                x = net.concat(&format!("denseblock{block}.concat{layer}"), &[x, new]);
            }
            if block < 4 {
                x = net.scope(&format!("transition{block}"), |net| {
                    let half = net.g.ty(x).channels() / 2;
                    let x = norm_relu_conv(net, ["norm", "conv"], norms, x, half, 1);
                    net.avgpool("pool", x, Window::square(2, 2, 0), true)
                });
            }
        }
        net.batchnorm("norm5", x, norms, true)
    });
    Body { map, last: net.global_avgpool("pool", map) }
}

fn norm_relu_conv(
    net: &mut Net,
    [norm, conv]: [&str; 2],
    norms: Convention,
    x: Value,
    filters: usize,
    size: usize,
) -> Value {
    let x = net.batchnorm(norm, x, norms, true);
    let window = Window::square(size, 1, size / 2);
    net.conv(conv, x, Conv { filters, window, groups: 1, bias: false, relu: false })
}
