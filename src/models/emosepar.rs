/*! Noguera 2018, a network for valence and arousal: section 6.2.1 and the listing in the appendix. Its text names no
activation behind the second separable convolution of a block, and neither does the listing have one. */

use super::{Body, Size};
use crate::graph::Value;
use crate::nn::{Conv, Net};
use crate::ops::norm::Convention;
use crate::shape::Window;

/// Filters of the first convolution.
const FIRST: usize = 32;
/// Filters of both separable convolutions of a block. A 3x3 pool of stride 2 comes before each block.
const BLOCKS: [usize; 3] = [128, 256, 512];

pub(super) fn body(net: &mut Net, x: Value, size: Size) -> Body {
    let filters = size.channels(FIRST);
    let first = Conv { filters, window: Window::square(3, 1, 0), groups: 1, bias: false, relu: true };
    let mut x = net.conv_bn("conv", "conv_bn", x, first, Convention::KERAS);
    for (block, filters) in (1..).zip(BLOCKS) {
        x = net.maxpool(&format!("pool{block}"), x, Window::square(3, 2, 0));
        for (i, relu) in [(1, true), (2, false)] {
            let name = format!("block{block}_sepconv{i}");
            x = net.separable(&name, x, Conv { filters: size.channels(filters), bias: true, relu: false, ..first });
            x = net.batchnorm(&format!("{name}_bn"), x, Convention::KERAS, relu);
        }
    }
    let pooled = net.global_avgpool("avg_pool", x);
    Body { map: x, last: net.dropout("dropout", pooled, 0.5) }
}
