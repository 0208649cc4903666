/*! Szegedy, Vanhoucke, Ioffe, Shlens & Wojna 2016, "Rethinking the Inception architecture for computer vision": v3,
without the auxiliary head, which evaluation does not use. Names are torchvision's. Keras's network differs in two
places: its batch norms have no scale (gamma), and its average pools divide by the pixels under the window, where
torchvision counts the padding. */

use super::{Body, Size};
use crate::graph::Value;
use crate::nn::{Conv, Net};
use crate::ops::norm::Convention;
use crate::shape::Window;

/// What versions differ in.
#[derive(Clone, Copy)]
pub(super) struct Version {
    norm: Convention,
    /// Average pools divide by nine at the border too.
    count_pad: bool,
}

pub(super) const TORCHVISION: Version =
    Version { norm: Convention { eps: 1e-3, ..Convention::TORCH }, count_pad: true };
pub(super) const KERAS: Version = Version { norm: Convention { scale: false, ..Convention::KERAS }, count_pad: false };

/// One layer of a branch.
enum Layer {
    /// Name, filters, rows x columns, stride; batch norm and ReLU. Stride 1 keeps the extent, stride 2 pads nothing.
    Conv(&'static str, usize, [usize; 2], usize),
    /// Both side by side, of the same input.
    Fork([(&'static str, usize, [usize; 2]); 2]),
    /// 3x3, keeps the extent.
    Average,
    /// 3x3, stride 2.
    Max,
}
use Layer::{Average, Conv as C, Fork, Max};

/// Branches side by side: the figures of the paper.
#[derive(Clone, Copy)]
enum Module {
    /// Figure 5; filters behind the pool.
    A(usize),
    /// Figure 10: from 35x35 to 17x17.
    B,
    /// Figure 6; filters within the 7x7 branches.
    C(usize),
    /// From 17x17 to 8x8.
    D,
    /// Figure 7.
    E,
}

#[rustfmt::skip]
const MODULES: [(&str, Module); 11] = [
    ("Mixed_5b", Module::A(32)), ("Mixed_5c", Module::A(64)), ("Mixed_5d", Module::A(64)),
    ("Mixed_6a", Module::B),
    ("Mixed_6b", Module::C(128)), ("Mixed_6c", Module::C(160)), ("Mixed_6d", Module::C(160)),
    ("Mixed_6e", Module::C(192)),
    ("Mixed_7a", Module::D),
    ("Mixed_7b", Module::E), ("Mixed_7c", Module::E),
];

impl Module {
    #[rustfmt::skip]
    fn branches(self) -> Vec<Vec<Layer>> {
        match self {
            Module::A(pooled) => vec![
                vec![C("branch1x1", 64, [1, 1], 1)],
                vec![C("branch5x5_1", 48, [1, 1], 1), C("branch5x5_2", 64, [5, 5], 1)],
                vec![
                    C("branch3x3dbl_1", 64, [1, 1], 1),
                    C("branch3x3dbl_2", 96, [3, 3], 1), C("branch3x3dbl_3", 96, [3, 3], 1),
                ],
                vec![Average, C("branch_pool", pooled, [1, 1], 1)],
            ],
            Module::B => vec![
                vec![C("branch3x3", 384, [3, 3], 2)],
                vec![
                    C("branch3x3dbl_1", 64, [1, 1], 1),
                    C("branch3x3dbl_2", 96, [3, 3], 1), C("branch3x3dbl_3", 96, [3, 3], 2),
                ],
                vec![Max],
            ],
            Module::C(c7) => vec![
                vec![C("branch1x1", 192, [1, 1], 1)],
                vec![
                    C("branch7x7_1", c7, [1, 1], 1),
                    C("branch7x7_2", c7, [1, 7], 1), C("branch7x7_3", 192, [7, 1], 1),
                ],
                vec![
                    C("branch7x7dbl_1", c7, [1, 1], 1),
                    C("branch7x7dbl_2", c7, [7, 1], 1), C("branch7x7dbl_3", c7, [1, 7], 1),
                    C("branch7x7dbl_4", c7, [7, 1], 1), C("branch7x7dbl_5", 192, [1, 7], 1),
                ],
                vec![Average, C("branch_pool", 192, [1, 1], 1)],
            ],
            Module::D => vec![
                vec![C("branch3x3_1", 192, [1, 1], 1), C("branch3x3_2", 320, [3, 3], 2)],
                vec![
                    C("branch7x7x3_1", 192, [1, 1], 1), C("branch7x7x3_2", 192, [1, 7], 1),
                    C("branch7x7x3_3", 192, [7, 1], 1), C("branch7x7x3_4", 192, [3, 3], 2),
                ],
                vec![Max],
            ],
            Module::E => vec![
                vec![C("branch1x1", 320, [1, 1], 1)],
                vec![
                    C("branch3x3_1", 384, [1, 1], 1),
                    Fork([("branch3x3_2a", 384, [1, 3]), ("branch3x3_2b", 384, [3, 1])]),
                ],
                vec![
                    C("branch3x3dbl_1", 448, [1, 1], 1), C("branch3x3dbl_2", 384, [3, 3], 1),
                    Fork([("branch3x3dbl_3a", 384, [1, 3]), ("branch3x3dbl_3b", 384, [3, 1])]),
                ],
                vec![Average, C("branch_pool", 192, [1, 1], 1)],
            ],
        }
    }
}

/// A builder of one version at one size.
#[derive(Clone, Copy)]
struct Builder {
    version: Version,
    size: Size,
}

pub(super) fn body(net: &mut Net, x: Value, version: Version, size: Size) -> Body {
    let b = Builder { version, size };
    let max = |net: &mut Net, name: &str, x| net.maxpool(name, x, Window::square(3, 2, 0));
    let x = b.conv(net, "Conv2d_1a_3x3", x, 32, Window::square(3, 2, 0));
    let x = b.conv(net, "Conv2d_2a_3x3", x, 32, Window::square(3, 1, 0));
    let x = b.conv(net, "Conv2d_2b_3x3", x, 64, Window::square(3, 1, 1));
    let x = max(net, "maxpool1", x);
    let x = b.conv(net, "Conv2d_3b_1x1", x, 80, Window::square(1, 1, 0));
    let x = b.conv(net, "Conv2d_4a_3x3", x, 192, Window::square(3, 1, 0));
    let mut x = max(net, "maxpool2", x);
    for (name, module) in MODULES {
        x = net.scope(name, |net| {
            let branch = |layers: Vec<Layer>| layers.iter().fold(x, |x, layer| b.layer(net, x, layer));
            let branches: Vec<Value> = module.branches().into_iter().map(branch).collect();
            net.concat("concat", &branches)
        });
    }
    let pooled = net.global_avgpool("avgpool", x);
    Body { map: x, last: net.dropout("dropout", pooled, 0.5) }
}

impl Builder {
    fn layer(self, net: &mut Net, x: Value, layer: &Layer) -> Value {
        // Keeps the extent.
        let same =
            |[r, s]: [usize; 2]| Window { size: [r, s], pad: [r / 2, s / 2, r / 2, s / 2], ..Window::square(1, 1, 0) };
        match *layer {
            C(name, k, size, 1) => self.conv(net, name, x, k, same(size)),
            C(name, k, [r, _], stride) => self.conv(net, name, x, k, Window::square(r, stride, 0)),
            Fork(forks) => {
                let both = forks.map(|(name, k, size)| self.conv(net, name, x, k, same(size)));
                net.concat("fork", &both)
            }
            Average => net.avgpool("average", x, same([3, 3]), self.version.count_pad),
            Max => net.maxpool("max", x, Window::square(3, 2, 0)),
        }
    }

    fn conv(self, net: &mut Net, name: &str, x: Value, filters: usize, window: Window) -> Value {
        let conv = Conv { filters: self.size.channels(filters), window, groups: 1, bias: false, relu: true };
        net.conv_bn(&format!("{name}.conv"), &format!("{name}.bn"), x, conv, self.version.norm)
    }
}
