/*! Floor 7: networks as tables. A model names layers and widths; it never sees a kernel or a device. */

mod fused;
mod vgg;

pub use fused::{Architecture, Base, Config, Member, OutAct, STATISTICS, Tower, TowerOutput};
pub use vgg::{Blocks, VGG16, VGG19, vgg};
