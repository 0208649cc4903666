/*! A network that makes pictures of noise and a condition, and one that tells them from photographs: Radford, Metz & Chintala
2016, *Unsupervised representation learning with deep convolutional generative adversarial networks*, with the condition beside
the noise and, for the discriminator, as constant planes beside the colours (Mirza & Osindero 2014). Weights are laid out as
PyTorch flattens, so that they go from one program to the other without a permutation. */

use crate::graph::Value;
use crate::nn::Net;
use crate::ops::activation::Act;
use crate::ops::layout::Flatten;
use crate::ops::norm::Convention;
use crate::shape::Window;
use serde::{Deserialize, Serialize};

/// Doubles the side of an image, or halves it.
fn step() -> Window {
    Window::square(4, 2, 1)
}

/// Noise [N,Z] and condition [N,C] -> RGB pictures in [-1, 1].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generator {
    /// Side of the first map; each layer doubles it.
    pub start: usize,
    /// Channels of the maps, from the first on.
    pub channels: Vec<usize>,
    /// A batch norm behind every layer but the last, which then need no bias of their own.
    pub norm: bool,
}

impl Generator {
    /// From a map of 4 x 4 pixels to pictures of `side`, a power of two from 8 up: `last` channels at half the side, twice as many
    /// at a quarter of it and so on, at most 512.
    pub fn of(side: usize, last: usize) -> Self {
        let doublings = (side / 4).max(2).ilog2();
        let channels = (0..doublings).rev().map(|i| (last << i).min(512.max(last))).collect();
        Self { start: 4, channels, norm: true }
    }

    /// Side of the pictures.
    pub fn side(&self) -> usize {
        self.start << self.channels.len()
    }

    /// Dense, ReLU; transposed convolutions 4x4/2 with ReLU; the last with tanh.
    pub fn build(&self, net: &mut Net, noise: Value, condition: Value) -> Value {
        let [side, first] = [self.start, self.channels[0]];
        let x = net.concat("noise", &[noise, condition]);
        let x = net.dense("fc", x, side * side * first, true);
        let mut x = net.unflatten(x, [side, side, first]);
        for (i, &k) in (1..).zip(&self.channels[1..]) {
            x = net.transposed(&format!("up{i}"), x, k, step(), !self.norm, !self.norm);
            if self.norm {
                x = net.batchnorm(&format!("bn{i}"), x, Convention::TORCH, true);
            }
        }
        let x = net.transposed(&format!("up{}", self.channels.len()), x, 3, step(), true, false);
        net.activate(x, Act::Tanh)
    }
}

/// Pictures [N,S,S,3] in [-1, 1] and their conditions [N,C] -> one number each [N,1], large where it takes them for photographs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discriminator {
    /// Filters of the convolutions, each of which halves the side.
    pub channels: Vec<usize>,
}

impl Discriminator {
    /// What [`Generator::of`] has, the other way round.
    pub fn facing(generator: &Generator) -> Self {
        Self { channels: generator.channels.iter().rev().copied().collect() }
    }

    /// Convolutions 4x4/2 with leaky ReLU; dense.
    pub fn build(&self, net: &mut Net, pictures: Value, condition: Value) -> Value {
        let &[_, h, w, _] = net.g.dims(pictures) else { return pictures };
        let planes = net.planes(condition, [h, w]);
        let mut x = net.concat("conditions", &[pictures, planes]);
        for (i, &filters) in (1..).zip(&self.channels) {
            let conv = crate::nn::Conv { filters, window: step(), groups: 1, bias: true, relu: false };
            x = net.conv(&format!("conv{i}"), x, conv);
            x = net.activate(x, Act::LeakyRelu { slope: 0.2 });
        }
        let x = net.g.push1(Flatten { chw: true }, &[x]);
        net.dense("fc", x, 1, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Graph, Kind};
    use crate::nn::Mode;
    use crate::shape::Type;

    /// The sizes of the plan of the project: 4x4x256 to 64x64 by layers of 128, 64, 32 and 3.
    #[test]
    fn sizes_are_those_of_dcgan() {
        let made = Generator::of(64, 32);
        assert_eq!((made.channels.as_slice(), made.side()), ([256, 128, 64, 32].as_slice(), 64));
        assert_eq!(Discriminator::facing(&made).channels, [32, 64, 128, 256]);
        assert_eq!(Generator::of(8, 6).channels, [6]);
        assert_eq!(Generator::of(256, 32).channels, [512, 512, 256, 128, 64, 32]);
        let mut g = Graph::default();
        let [noise, condition] = [100, 2].map(|n| g.input(&format!("in{n}"), Type::f32(&[3, n])));
        let picture = made.build(&mut Net::new(&mut g, Mode::Eval), noise, condition);
        g.check().unwrap();
        assert_eq!(g.dims(picture), [3, 64, 64, 3]);
        let numbers: usize = g.of_kind(Kind::Param).map(|v| g.ty(v).numel()).sum();
        let layers = |sizes: &[usize]| sizes.windows(2).map(|p| 16 * p[0] * p[1]).sum::<usize>();
        assert_eq!(numbers, 102 * 4096 + 4096 + layers(&[256, 128, 64, 32, 3]) + 2 * (128 + 64 + 32) + 3);
    }
}
