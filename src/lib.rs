/*! deep-affect: valence and arousal of photographs, by a from-scratch training and inference engine.

| floor | modules | what |
|---|---|---|
| 0 | [`error`] [`files`] [`shape`] [`rng`] [`hash`] [`par`] [`preprocess`] [`atomic`] [`memory`] [`mapped`] [`progress`] [`table`] | vocabulary |
| 1 | [`launch`] [`nvrtc`] [`host`] [`sim`] [`ranks`] | what a launch is; the compiler of kernels; CPU vector routines; a GPU in software; processes that train together |
| 2 | [`graph`] [`weights`] [`data`] [`descriptors`] [`bundled`] | static graph; mapped weight files; ratings and pictures; colours, textures and areas of pictures |
| 3 | [`ops`] | definition, adjoint and lowering of every op |
| 4 | [`plan`] | order, grouping, one arena, what lives when |
| 5 | [`device`] | reference (float64), cpu (float32), session |
| 6 | [`nn`] | layers over the graph |
| 7 | [`models`] | networks as tables |
| 8 | [`solve`] [`evolve`] [`train`] [`conform`] [`export`] | linear models and support vector machines on tables of features; pictures that a model is made to see; the loop, checkpoints, metrics, the predictor; golden files of another framework; models for other programs |
| 9 | [`report`] | pages and tables for people |
| 10 | [`experiment`] | typed configuration; runs, cross-validations and studies; predictions, features and solved models |
| 11 | [`measure`] | speed, memory, agreement and gradients of models |
| 12 | [`cli`] | commands |

A module imports only from lower floors and from its own; `tests/floors.rs` enforces it. Modules without a page here serve the
program, its tests and its benchmarks, and may change in any version.

A photograph is rated in three lines:

```no_run
let mut model = deep_affect::Predictor::bundled()?;   // or Predictor::open("checkpoint.safetensors", 1, device)
let ratings = model.rate("photo.jpg")?;
println!("valence {:.1}, arousal {:.1}", ratings[0], ratings[1]);
# Ok::<(), deep_affect::Error>(())
```

A model is trained on a manifest, a CSV of pictures and their ratings, and left with a report in a folder:

```no_run
use deep_affect::Trainer;
use deep_affect::experiment::config::Layer;

let mut trainer = Trainer::new("ratings.csv", "results"); // a small head on the VGG16 inside the program
trainer.run.train.epochs = 30;
trainer.run.train.seed = 7;
trainer.run.model.head = Some(vec![Layer::Width(128)]);
trainer.run.compute.device = "cpu".into();
let judged = trainer.train()?; // on pictures that were set apart; `cross_validate` judges all, over folds
println!("{}", serde_json::to_string_pretty(&judged).unwrap());
# Ok::<(), deep_affect::Error>(())
```

Several models over the same folds, and a paper's tables of them, are a [`Study`]:

```no_run
let found = deep_affect::Study::open("study.toml", "results")?.run(false)?;
print!("{}", found.tables);
# Ok::<(), deep_affect::Error>(())
```

What goes wrong says who has to act and which file it is about:

```
use deep_affect::error::Kind;
# let device = deep_affect::device::open("cpu", None)?;
let e = deep_affect::Predictor::open("missing.safetensors", 1, device).err().unwrap();
assert_eq!((e.kind(), e.path()), (Kind::Job, Some("missing.safetensors")));
assert!(e.cause().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound));
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
# Conventions

**Letters.** N pictures of H x W pixels and C channels; a convolution has K filters of R x S taps and makes P x Q pixels; a dense
layer takes I numbers and gives O. x is what an op reads, y what it makes, w a weight, b a bias; d in front is the gradient of
the loss: dy, dx, dw. A product of matrices is [m,depth] by [depth,n]. u is 2^-24, the rounding of float32.

**Layouts.** The last extent is innermost. Images are [N,H,W,C], filters [K,R,S,C/groups], dense weights [O,I], padding [top,left,
bottom,right]. Pictures are RGB bytes, row by row. Sizes in memory are bytes, and names that hold them say so.

**Names.** Ops are called `family.pass` (`conv.dgrad`), their parameters `tower.layer.weight`; programs tell ops apart by their
[`Role`](graph::Role), never by name. The words of the field, one meaning each:

| word | meaning |
|---|---|
| op, node, value | what is computed; one use of it in a graph; what it reads or writes |
| instance, group | one node among equal ones; those that one launch computes |
| plan | order, places and lifetimes of values, fixed before anything runs |
| launch | one piece of work of a device: a host routine, or the call of a kernel |
| kernel | a function of a GPU, and nothing else |
| tile | the part of a product of matrices that one block of threads computes |
| device, session | what runs plans; a device that holds a graph and its plans |
| rank, collective | one of several processes that train one model; a launch that all ranks do together |
| definition | the float64 evaluation of an op, in plain loops: what all else is compared with |
| case | an instance of an op that every check runs on |

**Comments** are whole sentences in plain English that say what is so, and why: shapes, units, the source of a constant. They
name what a thing is before what it is not, and leave to the code what the code says.

**Errors** are one line: the file, the place, the problem, the remedy ([`error::Error`] has them apart). Names of options stand
without dashes in the library, and a program adds its own.
*/

// Shapes are written as [N,H,W,C], which rustdoc takes for links; module pages name their private parts.
// A remark that cannot be written must not end a job, as `eprintln!` does.
#![cfg_attr(not(test), deny(clippy::print_stderr))]
#![allow(rustdoc::broken_intra_doc_links, rustdoc::private_intra_doc_links)]

// What a library is used by: ten modules at most.
pub mod data;
#[doc(hidden)]
pub mod descriptors;
pub mod device;
pub mod error;
pub mod experiment;
pub mod graph;
pub mod models;
pub mod nn;
pub mod plan;
pub mod shape;
pub mod train;

// What the program, the tests and the benchmarks use besides.
#[doc(hidden)]
pub mod atomic;
#[doc(hidden)]
pub mod bundled;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod conform;
#[doc(hidden)]
pub mod export;
#[doc(hidden)]
pub mod hash;
#[doc(hidden)]
pub mod host;
#[doc(hidden)]
pub mod launch;
#[doc(hidden)]
pub mod mapped;
#[doc(hidden)]
pub mod measure;
#[doc(hidden)]
pub mod nvrtc;
#[doc(hidden)]
pub mod ops;
#[doc(hidden)]
pub mod preprocess;
#[doc(hidden)]
pub mod progress;
#[doc(hidden)]
pub mod ranks;
#[doc(hidden)]
pub mod rng;
#[doc(hidden)]
pub mod sim;
#[doc(hidden)]
pub mod solve;
#[doc(hidden)]
pub mod weights;

mod evolve;
mod files;
mod memory;
mod par;
mod report;
mod table;

pub use error::{Error, Result};
pub use experiment::{Study, Trainer};
pub use train::predictor::Predictor;

/// Version of the program and, of a release, the commit it was built on.
pub const VERSION: &str = env!("DEEP_AFFECT_VERSION");
