/*! Ratings and pictures: what stands between a folder of photographs and the `[n, size, size, 3]` bytes a network is fed.
[`decode`] and [`resize`] turn files into squares. Everything here reads files that others made, so every function answers
bad input with one line and none of them panics. */

pub mod atomic;
pub mod decode;
pub mod hash;
mod jpeg;
pub mod resize;
mod sniff;
