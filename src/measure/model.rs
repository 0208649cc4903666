//! A model to be looked at, measured or verified: the fused one, a network by its name, or that of a file.

use super::Purpose;
use crate::data::manifest::TARGETS;
use crate::device::{Data, Device, Session};
use crate::error::{Error, Result};
use crate::experiment::config::{Built, Layer, Model, PAPER};
use crate::graph::{Graph, Value};
use crate::host::ceiling::Ceilings;
use crate::launch::Products;
use crate::models::{self, TOWER};
use crate::ops::optim::{Form, Sgd};
use crate::preprocess::Preprocess;
use crate::rng::{Rng, Stream};
use crate::train::checkpoint;
use crate::train::fit::LossScale;
use crate::train::network::{Blueprint, Method, Network, Precision, TRAIN, Task};
use crate::train::params::Initial;
use crate::weights::WeightFile;
use std::path::Path;
use std::sync::Arc;

/// The plain update that `train` uses by default.
const SGD: Sgd = Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 };

/// A model and where its weights come from.
#[derive(Clone)]
pub struct ResolvedModel {
    pub name: String,
    pub task: Task,
    initial: Arc<Initial>,
    file: Option<Arc<WeightFile>>,
    pub precision: Precision,
}

/// How small a model is made where the flags do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelScale {
    /// As published.
    Full,
    /// Full width on the smallest image.
    SmallImage,
    /// A few channels on a small image, and no more of everything else than it takes.
    Tiny,
}

/// What the fused model is called.
const FUSED: &str = "deep-affect";

impl ResolvedModel {
    /// [`FUSED`], shaped by a configuration; another network by its name, of that image and width; or a model file.
    pub fn new(name: &str, model: &Model, precision: Precision, seed: u64, scale: ModelScale) -> Result<Self> {
        let initial = Arc::new(Initial::new(seed, true));
        if name == FUSED {
            return Self::fused(model.clone(), precision, seed, scale);
        }
        let path = Path::new(name);
        if let (false, Ok(n)) = (path.exists(), models::find(name)) {
            let (image, width) = match scale {
                ModelScale::Full => (n.image, 1),
                ModelScale::SmallImage => (n.smallest, 1),
                ModelScale::Tiny => (n.smallest.max(TINY_IMAGE), TINY),
            };
            let task = Task::Classifier {
                network: name.into(),
                width: model.width.unwrap_or(width),
                classes: if scale == ModelScale::Tiny { n.outputs.min(5) } else { n.outputs },
                image: model.image.unwrap_or(image),
            };
            return Ok(Self { name: name.into(), task, initial, file: None, precision });
        }
        if !path.exists() && path.extension().is_none() {
            return Err(Error::usage(format!("there is no network and no file `{name}`"))
                .fix(format!("name a file or one of {}", models::names())));
        }
        let file = checkpoint::open(path)?;
        let (file, task) = match file.metadata().contains_key(TOWER) {
            true => checkpoint::of_tower(file)?,
            false => (file.clone(), checkpoint::card(&file)?.task),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, task, initial, file: Some(file), precision })
    }

    fn fused(mut model: Model, precision: Precision, seed: u64, scale: ModelScale) -> Result<Self> {
        if scale != ModelScale::Full {
            model.image.get_or_insert(TINY_IMAGE);
        }
        if scale == ModelScale::Tiny {
            model.width.get_or_insert(4 * TINY);
            let small = |l: &Layer| if let Layer::Width(w) = l { Layer::Width((w / 200).max(4)) } else { *l };
            model.head = Some(model.head.unwrap_or(PAPER.map(Layer::Width).to_vec()).iter().map(small).collect());
        }
        let Built { mut config, mut initial, frozen, .. } = model.build(&TARGETS.map(String::from), seed)?;
        if scale == ModelScale::Tiny {
            for t in &mut config.towers {
                t.dense.iter_mut().for_each(|d| *d = 8);
                t.classes = 7;
                // Drawn weights on pixels of up to 255 saturate the softmax, and no gradient is left.
                t.preprocess = Preprocess::preset("unit")?;
            }
        }
        initial.init_missing = true;
        Ok(Self {
            name: FUSED.into(),
            task: Task::EndToEnd { config, frozen },
            initial: initial.into(),
            file: None,
            precision,
        })
    }
}

/// Divides the channels of a network that is to be tiny.
const TINY: usize = 16;

/// Side of a tiny network's image, where its network takes that. Residual networks take one pixel too; batch norm then has four
/// numbers to norm by, and in the deepest the loss bends within any difference that float64 can tell.
const TINY_IMAGE: usize = 32;

impl ResolvedModel {
    /// Whether the weights are those of a file, and not drawn.
    pub fn trained(&self) -> bool {
        self.file.is_some()
    }

    /// The same with other numbers.
    pub fn in_precision(&self, precision: Precision) -> Self {
        Self { precision, ..self.clone() }
    }

    fn method(&self) -> Method {
        Method { precision: self.precision, ..SGD.into() }
    }

    /// What a device can do at most with such numbers; None where nobody measures it: of tf32's products.
    pub fn ceilings(&self, device: &mut dyn Device) -> Result<Option<Ceilings>> {
        match self.precision.products() {
            Products::Float32 => device.ceilings(),
            Products::Tf32x3 | Products::Tf32 => Ok(None),
        }
    }

    /// The training step, neither planned nor allocated.
    pub fn blueprint(&self, batch: usize) -> Result<Blueprint> {
        self.ranked(batch, 1, false)
    }

    /// The same of the last of several ranks that share a batch, and what the optimiser remembers where it is `sharded`.
    pub fn ranked(&self, batch: usize, ranks: usize, sharded: bool) -> Result<Blueprint> {
        Blueprint::new(&self.task, batch, Method { ranks, rank: ranks - 1, sharded, ..self.method() })
    }

    /// Graph and wanted values of the evaluation, or of the training step and all that goes with it.
    pub fn graph(&self, purpose: Purpose, batch: usize) -> Result<(Graph, Vec<Vec<Value>>, usize)> {
        match purpose {
            Purpose::Infer => {
                let (g, _, outputs) = self.task.whole().evaluation(batch, self.precision)?;
                Ok((g, vec![outputs], 0))
            }
            Purpose::Train => {
                let b = self.blueprint(batch)?;
                let best = b.best_bytes();
                Ok((b.graph, b.want, best))
            }
        }
    }

    /// The evaluation with its weights and random pictures, and its outputs.
    pub fn evaluation(&self, batch: usize, device: Box<dyn Device>) -> Result<(Session, Vec<Value>)> {
        let (mut session, inputs, outputs) = self.prepared(batch, device)?;
        for x in inputs {
            session.write(x, Data::U8(&pixels(session.graph().ty(x).numel())))?;
        }
        Ok((session, outputs))
    }

    /// The evaluation with its weights, its inputs, which nothing has been written to, and its outputs.
    pub fn prepared(&self, batch: usize, device: Box<dyn Device>) -> Result<(Session, Vec<Value>, Vec<Value>)> {
        let (g, x, outputs) = self.task.whole().evaluation(batch, self.precision)?;
        let options = device.options(self.precision.products());
        let mut session = Session::new(g, &[&outputs], options, device)?;
        self.fill(&mut session)?;
        Ok((session, x, outputs))
    }

    /// The training network with its weights, random pictures and the settings of every update.
    pub fn training(&self, batch: usize, device: Box<dyn Device>, hyper: [f32; 4]) -> Result<Network> {
        let mut net = Network::new(&self.task, batch, self.method(), device)?;
        self.fill(&mut net.session)?;
        for &x in &net.x {
            net.session.write(x, Data::U8(&pixels(net.session.graph().ty(x).numel())))?;
        }
        net.session.write(net.weight, Data::F32(&vec![1.0; batch]))?;
        for part in &net.parts {
            net.session.write(part.hyper, Data::F32(&hyper))?;
            if let Some(scaling) = part.scaling {
                net.session.write(scaling.scale, Data::F32(&[LossScale::default().scale]))?;
            }
        }
        Ok(net)
    }

    /// [`ResolvedModel::evaluation`] or [`ResolvedModel::training`], to be measured, and the plan to run.
    pub fn measured(&self, purpose: Purpose, batch: usize, device: Box<dyn Device>) -> Result<(Session, usize)> {
        Ok(match purpose {
            // As `predict` does it.
            Purpose::Infer => {
                let (precision, halves) = self.precision.of_prediction(&*device);
                let (mut session, _) = self.in_precision(precision).evaluation(batch, device)?;
                if let Some(half) = halves {
                    checkpoint::narrow(&mut session, half, |_| {})?;
                }
                (session, 0)
            }
            // A rate of zero: the arithmetic and the traffic of an update, and the same numbers every run.
            Purpose::Train => (self.training(batch, device, [0.0, 0.9, 0.0, 0.0])?.session, TRAIN),
        })
    }

    /// The first values of the parameters.
    pub fn fill(&self, session: &mut Session) -> Result<()> {
        if let Some(file) = &self.file {
            checkpoint::read_ahead(file, session.graph()).done()?;
            return checkpoint::bind(file, session);
        }
        let params: Vec<Value> = session.graph().stored().collect();
        self.task.prefixes().iter().try_for_each(|p| self.initial.fill(session, &params, p, &[]))
    }
}

/// The first `n` bytes of random pictures.
pub fn pixels(n: usize) -> Vec<u8> {
    let mut rng = Rng::new(1, Stream::Test(0), 0);
    (0..n).map(|_| rng.below(256) as u8).collect()
}
