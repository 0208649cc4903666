/*! deep-affect: valence and arousal of photographs, by a from-scratch training and inference engine.

| floor | modules | what |
|---|---|---|
| 0 | [`error`] [`files`] [`shape`] [`rng`] [`hash`] [`par`] [`preprocess`] [`atomic`] [`memory`] [`mapped`] [`progress`] [`table`] | vocabulary |
| 1 | [`launch`] [`nvrtc`] [`host`] [`sim`] | what a launch is; the compiler of kernels; CPU vector routines; a GPU in software |
| 2 | [`graph`] [`weights`] [`data`] [`bundled`] | static graph; mapped weight files; ratings and pictures |
| 3 | [`ops`] | definition, adjoint and lowering of every op |
| 4 | [`plan`] | order, grouping, one arena, what lives when |
| 5 | [`device`] | reference (float64), cpu (float32), session |
| 6 | [`nn`] | layers over the graph |
| 7 | [`models`] | networks as tables |
| 8 | [`solve`] [`train`] [`conform`] [`export`] | linear models and support vector machines on tables of features; the loop, checkpoints, metrics, the predictor; golden files of another framework; models for other programs |
| 9 | [`report`] | pages and tables for people |
| 10 | [`cli`] | commands |

A module imports only from lower floors and from its own; `tests/floors.rs` enforces it.

A photograph is rated in three lines:

```no_run
let mut model = deep_affect::Predictor::bundled()?;   // or Predictor::open("checkpoint.safetensors", 1, device)
let ratings = model.rate("photo.jpg")?;
println!("valence {:.1}, arousal {:.1}", ratings[0], ratings[1]);
# Ok::<(), deep_affect::Error>(())
```

The engine below it, on numbers:

```
use deep_affect::device::{self, Data, Session};
use deep_affect::graph::Graph;
use deep_affect::nn::{Mode, Net};
use deep_affect::plan::Options;
use deep_affect::shape::Type;

// y = relu(x w^T + b), and its gradient with respect to w, planned and run on the CPU.
let mut g = Graph::default();
let x = g.input("x", Type::f32(&[1, 2]));
let y = Net::new(&mut g, Mode::Eval).dense("layer", x, 1, true);
let w = g.find("layer.weight").unwrap();
let dw = g.backward(y, &[w])?[0];
let mut s = Session::new(g, &[&[y, dw]], Options::default(), device::open("cpu", None)?)?;
s.write(x, Data::F32(&[3.0, 4.0]))?;
s.write(w, Data::F32(&[2.0, 1.0]))?;
s.run(0)?;
assert_eq!(s.read(y)?, [10.0]);
assert_eq!(s.read(dw)?, [3.0, 4.0]);
# Ok::<(), deep_affect::error::Error>(())
```
*/

// Shapes are written as [N,H,W,C], which rustdoc takes for links; module pages name their private parts.
// A remark that cannot be written must not end a job, as `eprintln!` does.
#![cfg_attr(not(test), deny(clippy::print_stderr))]
#![allow(rustdoc::broken_intra_doc_links, rustdoc::private_intra_doc_links)]

pub mod atomic;
pub mod bundled;
pub mod cli;
pub mod conform;
pub mod data;
pub mod device;
pub mod error;
pub mod export;
pub mod files;
pub mod graph;
pub mod hash;
pub mod host;
pub mod launch;
pub mod mapped;
pub mod memory;
pub mod models;
pub mod nn;
pub mod nvrtc;
pub mod ops;
pub mod par;
pub mod plan;
pub mod preprocess;
pub mod progress;
pub mod report;
pub mod rng;
pub mod shape;
pub mod sim;
pub mod solve;
pub mod table;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
pub use train::predictor::Predictor;

/// Version of the program and, of a release, the commit it was built on.
pub const VERSION: &str = env!("DEEP_AFFECT_VERSION");
