/*! deep-affect: valence and arousal of photographs, by a from-scratch training and inference engine.

| floor | modules | what |
|---|---|---|
| 0 | [`error`] [`shape`] [`rng`] [`par`] [`preprocess`] [`atomic`] [`progress`] | vocabulary |
| 1 | [`kernel`] [`host`] | what a launch is; vector routines of the CPU |
| 2 | [`graph`] [`weights`] [`data`] [`bundled`] | static graph; mapped weight files; ratings and pictures |
| 3 | [`ops`] | definition, adjoint and lowering of every op |
| 4 | [`plan`] | order, grouping, one arena |
| 5 | [`device`] | reference (float64), cpu (float32), session |
| 6 | [`nn`] | layers over the graph |
| 7 | [`models`] | networks as tables |
| 8 | [`train`] [`conform`] | the loop, checkpoints, metrics, the predictor; golden files of another framework |
| 9 | [`report`] | pages and tables for people |
| 10 | [`cli`] | commands |

A module imports only from lower floors and from its own; `tests/floors.rs` enforces it. */

pub mod atomic;
pub mod bundled;
pub mod cli;
pub mod conform;
pub mod data;
pub mod device;
pub mod error;
pub mod graph;
pub mod host;
pub mod kernel;
pub mod models;
pub mod nn;
pub mod ops;
pub mod par;
pub mod plan;
pub mod preprocess;
pub mod progress;
pub mod report;
pub mod rng;
pub mod shape;
pub mod train;
pub mod weights;
