/*! A trained model in use: open a checkpoint, give it pictures, get ratings. */

use super::checkpoint::{self, Card};
use super::fit::State;
use super::network::{Precision, Task};
use crate::device::{Data, Device, Probe, Room, Session};
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::models::Config;
use crate::preprocess::{self, View, record};
use crate::weights::WeightFile;
use std::path::Path;
use std::sync::Arc;

/// A model and the device that runs it. Ratings do not depend on the batch a picture comes in.
pub struct Predictor {
    pub card: Card,
    pub config: Config,
    session: Session,
    batch: usize,
    images: Vec<Value>,
    views: Vec<View>,
    outputs: Vec<(Vec<usize>, Value)>,
}

impl Predictor {
    /// Opens a checkpoint; `batch` pictures go through at once.
    pub fn open(path: impl AsRef<Path>, batch: usize, device: Box<dyn Device>) -> Result<Self> {
        Self::new(&WeightFile::open(path)?, batch, device)
    }

    /// The same for a file that is already mapped.
    pub fn new(file: &Arc<WeightFile>, batch: usize, device: Box<dyn Device>) -> Result<Self> {
        Self::within(Precision::Float32, file, batch, device)
    }

    /// The same with numbers of another precision.
    pub fn within(precision: Precision, file: &Arc<WeightFile>, batch: usize, device: Box<dyn Device>) -> Result<Self> {
        let card = checkpoint::card(file)?;
        let config = card.config().map_err(|e| Error::file(file.path(), e.to_string()))?.clone();
        let members = config.members();
        let (g, images, want) =
            Task::EndToEnd { config: config.clone(), frozen: vec![] }.evaluation(batch, precision)?;
        checkpoint::read_ahead(file, &g);
        let outputs = members.into_iter().map(|m| m.targets).zip(want.iter().copied()).collect();
        let room = Room { mapped: true, beside: 0 };
        let options = device.options();
        let mut session = Session::within(room, g, &[&want], options, device)?;
        checkpoint::bind(file, &mut session)?;
        Ok(Self { card, views: config.views(), config, session, batch, images, outputs })
    }

    /// `cpu (avx512, 2 threads)`.
    pub fn device(&self) -> String {
        self.session.device().name()
    }

    /// Where the training stood.
    pub fn state(&self) -> &State {
        &self.card.state
    }

    /// Ratings [n, targets] in the order of `config.targets`, of the u8 RGB squares of n pictures: of each what
    /// `config.views()` show, one after another.
    pub fn predict(&mut self, squares: &[u8]) -> Result<Vec<f32>> {
        self.run(squares, None)
    }

    /// [`Predictor::predict`], hearing about every launch.
    pub fn profile(&mut self, squares: &[u8], probe: &mut dyn FnMut(Probe)) -> Result<Vec<f32>> {
        self.run(squares, Some(probe))
    }

    fn run(&mut self, squares: &[u8], mut probe: Option<&mut dyn FnMut(Probe)>) -> Result<Vec<f32>> {
        let size = record(&self.views);
        if !squares.len().is_multiple_of(size) {
            return Err(Error::job(format!("{} bytes are not whole pictures of {size}", squares.len())));
        }
        let targets = self.config.targets.len();
        let mut all = vec![0.0; squares.len() / size * targets];
        for (chunk, all) in squares.chunks(size * self.batch).zip(all.chunks_mut(self.batch * targets)) {
            for (i, (&image, view)) in self.images.iter().zip(&self.views).enumerate() {
                let mut pixels = preprocess::squares(chunk, &self.views, i);
                if chunk.len() < size * self.batch {
                    pixels.to_mut().resize(view.bytes() * self.batch, 0);
                }
                self.session.write(image, Data::U8(&pixels))?;
            }
            match &mut probe {
                Some(probe) => self.session.profile(0, probe)?,
                None => self.session.run(0)?,
            }
            for (which, v) in &self.outputs {
                let y = self.session.read(*v)?;
                for (all, y) in all.chunks_exact_mut(targets).zip(y.chunks_exact(which.len())) {
                    which.iter().zip(y).for_each(|(t, y)| all[*t] = *y);
                }
            }
        }
        Ok(all)
    }
}
