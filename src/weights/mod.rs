/*! Weight files: imported once, mapped for ever. [`foreign`] takes other programs' files apart, [`names`] knows what their
tensors are called here and how their layouts become ours, [`strided`] sees an array in another layout without moving it,
[`mod@import`] writes a file of ours from them, [`store`] says
in how many bits. [`mapping`] maps, [`mod@file`] validates and hands out tensors, [`declared`] reads
what a header says about preprocessing, [`origin`] whose numbers stand under torchvision's names, [`shards`] joins what
comes in several files, [`tower`] matches a file to what a network wants, [`init`] draws what is missing,
[`mod@write`] makes files of ours, [`mod@inspect`] shows what is inside, [`mod@diff`] what differs.

Files of ours, as a list of invariants:

* A valid safetensors file: 8 bytes header length (little endian), JSON header, tensors without holes or overlap.
* The header ends in spaces so that the data begins at a multiple of 64 bytes; every tensor whose size is a multiple of
  64 bytes begins at such a multiple, every other one at least at a multiple of its element's size.
* Metadata `layout` is `KRSC`: filters [K,R,S,C/groups], dense weights [out, in], the input flattened in H,W,C order.
* Metadata `preprocess` is the JSON of [`crate::preprocess::Preprocess`], `image` the side of its squares in pixels.
* A tower's names come without the tower: `conv1_1.weight`, `conv1_1.bias`, ..., `fc1.weight`, ...
* Filters and dense weights are float32, or narrower by the rules of [`store`]; all else is float32.
* Files are replaced by rename ([`crate::atomic`]), never overwritten in place: someone may have them mapped. */

mod applications;
pub mod declared;
pub mod diff;
pub mod file;
pub mod foreign;
pub mod header;
pub mod import;
pub mod init;
pub mod inspect;
pub mod mapping;
pub mod names;
mod origin;
mod shards;
pub mod store;
pub mod strided;
pub mod sums;
pub mod tower;
pub mod write;

pub use file::{Tensor, WeightFile};
pub use safetensors::Dtype;
pub use tower::{Matched, TowerWeights};

/// Metadata key: layout of filters and dense weights, `KRSC` in files of ours.
pub const LAYOUT: &str = "layout";
/// Metadata key: JSON of [`crate::preprocess::Preprocess`].
pub const PREPROCESS: &str = "preprocess";
/// Metadata key: side in pixels of the squares that a tower was trained on, a decimal number.
pub const IMAGE: &str = "image";
/// Metadata key: a text for people, in Markdown: data, figures, origin, terms, limits.
pub const ABOUT: &str = "about";
/// Metadata key: JSON list of class names, in the order of the outputs.
pub const CLASSES: &str = "classes";
