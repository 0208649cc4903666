/*! Floor 8: training. [`network`] turns a model into the plans of a step, [`params`] knows where initial values come from,
[`fit`] is the loop, [`ridge`] a head without it (of [`crate::solve`]), [`solved`] judges solved models over folds, [`checkpoint`] its memory on disk, [`stored`] how tensors come there, [`features`] the towers run once instead of in every step,
[`predictor`] a trained model in use, [`gradcam`] where its towers look, [`interval`] how far off it may be, [`family`] which models are of one run, [`merge`] one model of several, [`first_layer`] whether pictures are prepared as its weights expect, [`gradcheck`] whether its gradient is one, [`generate`] a network that makes pictures for it; [`metrics`], [`confusion`], [`folds`] and [`schedule`] measure and steer, [`class_means`] tells classes by ratings, [`paired`] tells whether one model is better than another, [`resampled`] how sure a measure is. */

pub mod cell;
pub mod checkpoint;
pub mod class_means;
pub mod classified;
pub mod confusion;
pub mod family;
pub mod features;
pub mod first_layer;
pub mod fit;
pub mod folds;
pub mod generate;
pub mod gradcam;
pub mod gradcheck;
pub mod interval;
pub mod merge;
pub mod metrics;
pub mod narrow;
pub mod network;
pub mod paired;
pub mod params;
pub mod predictor;
pub mod resampled;
pub mod schedule;
pub mod solved;
pub mod stored;
mod student;

pub use crate::solve::linear as ridge;
