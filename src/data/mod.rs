/*! Ratings and pictures: what stands between a folder of photographs and the `[n, side, side, 3]` bytes a network is fed.
[`import`] turns published rating tables into one [`manifest`] each, [`merge`] joins them, and [`duplicates`] finds what they
have in common; [`decode`] and [`resize`] turn files into squares;
[`cache`] keeps the squares in one mapped file; [`features_table`] has numbers of pictures instead; [`tar`] takes them out of archives; [`boxes`] say where faces are, [`labels`] what classes pictures are of; [`folds`] deals the rows out without separating near-duplicates. Everything
here reads files that others made, so every function answers bad input with one line and none of them panics. */

mod arithmetic;
pub mod boxes;
pub mod cache;
mod compose;
pub mod decode;
pub mod duplicates;
mod exif;
pub mod features_table;
mod fields;
pub mod folds;
pub mod import;
mod join;
mod jpeg;
pub mod labels;
pub mod manifest;
pub mod merge;
mod pictures;
pub mod resize;
mod rewrite;
mod sniff;
pub mod table;
pub mod tar;
mod tiff;
pub mod walk;
mod workbook;

pub use boxes::Boxes;
pub use cache::{Bad, LoadOptions, Loaded, Pictures, Source};
pub use decode::{Alpha, DecodeOptions, Picture};
pub use labels::{LabelMap, Labels};
pub use manifest::{Manifest, Row};
pub use pictures::each;
