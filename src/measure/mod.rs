/*! Floor 11: what models cost, and whether their numbers are right. A [`model`] and a device go in; a serialisable result comes
out, with its `text` for people. [`bench`] and [`profile`] take the time of layers, steps and launches; [`kernels`] tells what a
GPU would be sent, and tunes its tiles; [`memory`] shows what lives when; [`scaling`] predicts a training step on several GPUs; [`agreement`] holds devices against each other, and
[`gradients`] holds gradients against differences of the loss. Like experiments they tell of their progress through
[`Events`](crate::experiment::Events). */

pub mod agreement;
pub mod bench;
pub mod gradients;
pub mod kernels;
pub mod memory;
pub mod model;
pub mod profile;
pub mod scaling;

use serde::Serialize;

/// What a network is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Pictures to outputs.
    Infer,
    /// Forward, adjoint and update of everything that is trained.
    Train,
}

impl Purpose {
    /// In a sentence.
    pub fn text(self) -> &'static str {
        match self {
            Purpose::Infer => "an inference",
            Purpose::Train => "a training step",
        }
    }
}
