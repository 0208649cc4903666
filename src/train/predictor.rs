/*! A trained model in use: open a checkpoint, give it pictures, get ratings. */

use super::checkpoint::{self, Card};
use super::fit::State;
use super::network::{Precision, Task};
use crate::bundled;
use crate::data::{DecodeOptions, LoadOptions, Pictures, Source};
use crate::device::{self, Data, Device, MemoryHints, Probe, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Role, Value};
use crate::host::pattern::{self, Drawing, Program};
use crate::models::{Config, Member};
use crate::nn::{Mode, Net};
use crate::preprocess::{self, View, record};
use crate::weights::WeightFile;
use crate::weights::file::Ahead;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What [`Classes::tower`] is for the classes that the model itself tells apart.
pub const CLASS: &str = "class";

/// What a tower that classifies, or a model that does, says of every picture.
pub struct Classes {
    /// `object`; in a split model `valence.object`; [`CLASS`] of the model itself.
    pub tower: String,
    /// In the order of the outputs; empty where they are not known.
    pub names: Vec<String>,
    /// How many there are.
    pub count: usize,
    probabilities: Value,
}

/// What a model says of n pictures.
pub struct Seen {
    /// n.
    pub pictures: usize,
    /// [n, targets].
    pub ratings: Vec<f32>,
    /// Of a model with several heads, whose mean the ratings are: [n, targets] by each.
    pub heads: Vec<Vec<f32>>,
    /// For each of [`Predictor::classes`] the probabilities [n, count].
    pub classes: Vec<Vec<f32>>,
}

/// A model and the device that runs it. Ratings do not depend on the batch a picture comes in.
pub struct Predictor {
    pub card: Card,
    pub config: Config,
    session: Session,
    batch: usize,
    images: Vec<Value>,
    views: Vec<View>,
    outputs: Vec<(Vec<usize>, Value)>,
    /// Of a model with several heads: each head's own, as many a head as `outputs`.
    heads: Vec<(Vec<usize>, Value)>,
    /// Until the first ratings: whether the weights are as they were written.
    ahead: Option<Ahead>,
    /// What [`Predictor::see`] answers beside ratings: what the model itself tells apart, and what its towers do if
    /// [`Predictor::seeing`] made it.
    pub classes: Vec<Classes>,
}

impl Predictor {
    /// Opens a checkpoint; `batch` pictures go through at once.
    pub fn open(path: impl AsRef<Path>, batch: usize, device: Box<dyn Device>) -> Result<Self> {
        Self::new(&checkpoint::open(path)?, batch, device)
    }

    /// The model inside the program, on the processor, one picture at a time.
    ///
    /// # Errors
    /// A program that was built without one.
    pub fn bundled() -> Result<Self> {
        let bytes = bundled::model()
            .ok_or_else(|| Error::usage("this program has no bundled model").fix("open a checkpoint of `train`"))?;
        let file = checkpoint::complete(WeightFile::from_static("bundled model", bytes)?)?;
        Self::new(&file, 1, device::open("cpu", None)?)
    }

    /// The same for a file that is already mapped.
    pub fn new(file: &Arc<WeightFile>, batch: usize, device: Box<dyn Device>) -> Result<Self> {
        Self::within(Precision::Float32, file, batch, device)
    }

    /// The same with numbers of another precision ([`Precision::of_prediction`]).
    pub fn within(precision: Precision, file: &Arc<WeightFile>, batch: usize, device: Box<dyn Device>) -> Result<Self> {
        Self::build(precision, file, batch, device, false, Images::Own)
    }

    /// The same for [`Predictor::see`]. Where towers hand on averaged activations there are no classes to see.
    pub fn seeing(precision: Precision, file: &Arc<WeightFile>, batch: usize, device: Box<dyn Device>) -> Result<Self> {
        Self::build(precision, file, batch, device, true, Images::Own)
    }

    /// The same on squares of another side than the model was trained on.
    pub fn sized(side: usize, file: &Arc<WeightFile>, batch: usize, device: Box<dyn Device>) -> Result<Self> {
        Self::build(Precision::Float32, file, batch, device, false, Images::Side(side))
    }

    /// The same on pictures that the device draws ([`Predictor::see_programs`]): as they are, so that every view of the model
    /// must be of their side and in colours ([`draws`]).
    pub fn drawing(how: Drawing, file: &Arc<WeightFile>, batch: usize, device: Box<dyn Device>) -> Result<Self> {
        Self::build(Precision::Float32, file, batch, device, false, Images::Drawn(how))
    }

    fn build(
        precision: Precision,
        file: &Arc<WeightFile>,
        batch: usize,
        device: Box<dyn Device>,
        seeing: bool,
        images: Images,
    ) -> Result<Self> {
        let card = checkpoint::card(file)?;
        let config = card.config().map_err(|e| Error::file(file.path(), e.to_string()))?;
        let config = match images {
            Images::Own => config.clone(),
            Images::Side(side) => config.sized(side)?,
            Images::Drawn(how) if draws(config, how.side) => config.sized(how.side)?,
            Images::Drawn(_) => return Err(Error::job("the model looks at other pictures than those that are drawn")),
        };
        let members = config.members();
        let (precision, halves) = precision.of_prediction(&*device);
        let task = Task::EndToEnd { config: config.clone(), frozen: vec![] };
        let (mut g, images, mut want) = match images {
            Images::Drawn(how) => task.drawn(batch, how)?,
            _ => task.evaluation(batch, precision)?,
        };
        let ahead = Some(checkpoint::read_ahead(file, &g));
        let mut classes = vec![];
        for (m, t) in members.iter().flat_map(|m| config.towers.iter().map(move |t| (m, t))).filter(|_| seeing) {
            let tower = format!("{}{}", m.prefix, t.name);
            if let Some(softmax) = softmax(&g, &tower) {
                let (names, count, probabilities) = (card.class_names(t), t.classes, softmax.outs[0]);
                classes.push(Classes { tower, names, count, probabilities });
            }
        }
        if !config.classes.is_empty() {
            let scores = want.pop().expect("of the classes, behind the ratings");
            let probabilities = Net::new(&mut g, Mode::Eval).softmax(CLASS, scores);
            let (names, count) = (config.classes.clone(), config.classes.len());
            classes.push(Classes { tower: CLASS.into(), names, count, probabilities });
        }
        let mut heads = vec![];
        if config.heads > 1 {
            let all = (0..config.heads).flat_map(|i| members.iter().map(move |m| (i, m)));
            heads.extend(all.map(|(i, m)| (m.targets.clone(), of_head(&g, &config, m, i))));
        }
        let outputs = members.into_iter().map(|m| m.targets).zip(want.iter().copied()).collect();
        let beside = classes.iter().map(|c| c.probabilities).chain(heads.iter().map(|h| h.1));
        let want: Vec<Value> = want.into_iter().chain(beside).collect();
        // Copies in 16 bits lie beside the mapping.
        let copies = checkpoint::narrowed(&g).filter(|_| halves.is_some()).map(|v| 2 * g.ty(v).numel());
        let hints = MemoryHints { weights_mapped: true, reserved_bytes: copies.sum() };
        let options = device.options(precision.products());
        let mut session = Session::within(hints, g, &[&want], options, device)?;
        checkpoint::bind(file, &mut session)?;
        if let Some(half) = halves {
            let done = |name: &str| {
                file.own(&checkpoint::name_of(file, name)).into_iter().for_each(|t| file.release(t.range.clone()))
            };
            checkpoint::narrow(&mut session, half, done)?;
        }
        Ok(Self { card, views: config.views(), config, session, batch, images, outputs, heads, ahead, classes })
    }

    /// `cpu (avx512, 2 threads)`.
    pub fn device(&self) -> String {
        self.session.device().name()
    }

    /// Where the training stood.
    pub fn state(&self) -> &State {
        &self.card.state
    }

    /// Ratings of a picture file in points of the scale, in the order of `config.targets`.
    pub fn rate(&mut self, picture: impl AsRef<Path>) -> Result<Vec<f32>> {
        let decode = DecodeOptions { alpha: self.card.alpha, ..DecodeOptions::default() };
        let options = LoadOptions { views: self.views.clone(), decode, cache_dir: None };
        let loaded = Pictures::load(&[Source::File(picture.as_ref().into())], &options, &())?;
        if let Some(bad) = loaded.bad.first() {
            return Err(Error::file(&bad.path, &bad.reason));
        }
        self.predict(loaded.accept(false)?.bytes())
    }

    /// Ratings [n, targets] in the order of `config.targets`, of the u8 RGB squares of n pictures: of each what
    /// `config.views()` show, one after another.
    pub fn predict(&mut self, squares: &[u8]) -> Result<Vec<f32>> {
        Ok(self.run(squares, None)?.ratings)
    }

    /// [`Predictor::predict`], and what else the model says.
    pub fn see(&mut self, squares: &[u8]) -> Result<Seen> {
        self.run(squares, None)
    }

    /// [`Predictor::predict`], hearing about every launch.
    pub fn profile(&mut self, squares: &[u8], probe: &mut dyn FnMut(Probe)) -> Result<Vec<f32>> {
        Ok(self.run(squares, Some(probe))?.ratings)
    }

    /// [`Predictor::see`] of the pictures that programs draw, for a model that was made by [`Predictor::drawing`].
    pub fn see_programs(&mut self, programs: &[Program]) -> Result<Seen> {
        let (programs_of, batch) = (self.images[0], self.batch);
        self.pieces(programs.len(), None, &mut |session, piece| {
            session.write(programs_of, Data::U32(&pattern::rooms(batch, &programs[piece])))
        })
    }

    fn run(&mut self, squares: &[u8], probe: Option<&mut dyn FnMut(Probe)>) -> Result<Seen> {
        let size = record(&self.views);
        if !squares.len().is_multiple_of(size) {
            return Err(Error::job(format!("{} bytes are not whole pictures of {size}", squares.len())));
        }
        let (images, views, batch) = (self.images.clone(), self.views.clone(), self.batch);
        self.pieces(squares.len() / size, probe, &mut |session, piece| {
            let chunk = &squares[piece.start * size..piece.end * size];
            for (i, (&image, view)) in images.iter().zip(&views).enumerate() {
                let mut pixels = preprocess::squares(chunk, &views, i);
                if piece.len() < batch {
                    pixels.to_mut().resize(view.bytes() * batch, 0);
                }
                session.write(image, Data::U8(&pixels))?;
            }
            Ok(())
        })
    }

    /// Runs n pictures through the model, a batch at a time, each of which `write` puts where the model reads it.
    fn pieces(
        &mut self,
        pictures: usize,
        mut probe: Option<&mut dyn FnMut(Probe)>,
        write: &mut dyn FnMut(&mut Session, Range<usize>) -> Result<()>,
    ) -> Result<Seen> {
        let targets = self.config.targets.len();
        let members = self.outputs.len().max(1);
        let mut seen = Seen {
            pictures,
            ratings: vec![0.0; pictures * targets],
            heads: vec![vec![0.0; pictures * targets]; self.heads.len() / members],
            classes: vec![vec![]; self.classes.len()],
        };
        for first in (0..pictures).step_by(self.batch) {
            let piece = first..pictures.min(first + self.batch);
            let (rows, here) = (first * targets.., piece.len());
            write(&mut self.session, piece)?;
            match &mut probe {
                Some(probe) => self.session.profile(0, probe)?,
                None => self.session.run(0)?,
            }
            let into = |(which, v): &(Vec<usize>, Value), all: &mut Vec<f32>| -> Result<()> {
                let y = self.session.read(*v)?;
                for (all, y) in all[rows.clone()].chunks_exact_mut(targets).zip(y.chunks_exact(which.len())) {
                    which.iter().zip(y).for_each(|(t, y)| all[*t] = *y);
                }
                Ok(())
            };
            self.outputs.iter().try_for_each(|o| into(o, &mut seen.ratings))?;
            for (head, all) in self.heads.chunks(members).zip(&mut seen.heads) {
                head.iter().try_for_each(|o| into(o, all))?;
            }
            for (seen, c) in seen.classes.iter_mut().zip(&self.classes) {
                seen.extend_from_slice(&self.session.read(c.probabilities)?[..here * c.count]);
            }
        }
        // It was checked while it was used: no rating leaves before that has ended well.
        self.ahead.take().map_or(Ok(()), Ahead::done)?;
        Ok(seen)
    }
}

/// Which pictures a model sees.
enum Images {
    /// Squares of the side that it was trained on.
    Own,
    /// Squares of another side.
    Side(usize),
    /// Those that the device draws.
    Drawn(Drawing),
}

/// Whether a model can see pictures of a side as they are drawn.
pub fn draws(config: &Config, side: usize) -> bool {
    config.sized(side).is_ok_and(|c| c.views().iter().all(|v| v.side == side && !v.grey && v.crop.is_none()))
}

/// What one of several heads gives for a member.
fn of_head(g: &Graph, config: &Config, m: &Member, head: usize) -> Value {
    let label = format!("{}{}.out", m.prefix, config.head_name(head));
    let mut of = g.nodes().iter().filter(|n| n.label == label);
    of.next_back().expect("every head ends in a layer of that name").outs[0]
}

/// Where a tower turns class scores into probabilities, if it does.
pub(super) fn softmax<'g>(g: &'g Graph, tower: &str) -> Option<&'g Node> {
    let of = |n: &&Node| n.plays(Role::Softmax) && n.label.strip_prefix(tower) == Some(".softmax");
    g.nodes().iter().find(of)
}

/// Indices of the n largest, the largest first; of equal ones the first.
pub fn largest(x: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
    order.truncate(n);
    order
}
