/*! Frozen towers run once instead of in every step: features of every picture, per member of the model. */

use super::params::Initial;
use crate::data::Pictures;
use crate::data::features_table::Joined;
use crate::device::{Data, Device, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::hash::{self, Fnv};
use crate::models::{Config, Member, Standardize, Tower};
use crate::nn::{Mode, Net};
use crate::progress::Progress;
use crate::shape::{DType, Type};
use crate::train::stored::Stored;
use crate::weights::write::Entry;
use crate::weights::{LAYOUT, WeightFile, write};
use std::collections::BTreeMap;
use std::path::Path;

/// Features of every picture for each member: width, then one row after another; and the towers' weights, to be stored
/// with the head that is trained on them. Those of files stay in the files.
pub struct Extracted {
    pub members: Vec<Rows>,
    pub towers: Vec<Stored<'static>>,
}

/// Width, then one row of features after another.
pub type Rows = (usize, Vec<f32>);

/// One tower of one member, over some of the pictures of a model.
struct Extraction<'a> {
    config: &'a Config,
    member: &'a Member,
    tower: &'a Tower,
    initial: &'a Initial,
    pictures: &'a Pictures,
    rows: &'a [usize],
}

/// Runs the towers of `config` over some of the pictures: features for each member. `batch` saves time and changes no bit.
pub fn extract(
    config: &Config,
    initial: &Initial,
    pictures: &Pictures,
    rows: &[usize],
    batch: usize,
    device: Box<dyn Device>,
    progress: &dyn Progress,
) -> Result<(Vec<Rows>, Box<dyn Device>)> {
    let mut run = |e: &Extraction, device| e.run(batch, device, progress);
    every(config, initial, pictures, rows, device, &mut run)
}

/// [`extract`] over all pictures, but for towers whose features of exactly these pictures the cache folder has: models
/// that share a tower run it once.
pub fn cached(
    config: &Config,
    initial: &Initial,
    pictures: &Pictures,
    batch: usize,
    device: Box<dyn Device>,
    cache: &Path,
    progress: &dyn Progress,
) -> Result<(Extracted, Box<dyn Device>)> {
    let all: Vec<usize> = (0..pictures.len()).collect();
    let mut towers = vec![];
    let mut run = |e: &Extraction, device: Box<dyn Device>| {
        towers.extend(initial.stored(&e.graph(1).0, e.member, e.tower));
        let key = e.key(&device.name());
        let path = cache.join(format!("features-{}.safetensors", &key[..16]));
        if let Some(rows) = read(&path, &key) {
            return Ok((rows, device));
        }
        let (rows, device) = e.run(batch, device, progress)?;
        write(&path, key, &rows)?;
        Ok((rows, device))
    };
    let (members, device) = every(config, initial, pictures, &all, device, &mut run)?;
    Ok((Extracted { members, towers }, device))
}

type Run<'a> = dyn FnMut(&Extraction, Box<dyn Device>) -> Result<(Rows, Box<dyn Device>)> + 'a;

/// Lets every tower of every member be run, and lays their features side by side as the head takes them.
fn every(
    config: &Config,
    initial: &Initial,
    pictures: &Pictures,
    rows: &[usize],
    mut device: Box<dyn Device>,
    run: &mut Run,
) -> Result<(Vec<Rows>, Box<dyn Device>)> {
    let mut all = vec![];
    for member in &config.members() {
        let mut parts: Vec<Rows> = vec![];
        for tower in &config.towers {
            let seen;
            (seen, device) = run(&Extraction { config, member, tower, initial, pictures, rows }, device)?;
            parts.push(seen);
        }
        let row = |i: usize| parts.iter().flat_map(move |(width, x)| &x[i * width..(i + 1) * width]).copied();
        all.push((config.features(), (0..rows.len()).flat_map(row).collect()));
    }
    Ok((all, device))
}

impl Extraction<'_> {
    /// Index of what this tower sees among what there is of each picture.
    fn view(&self) -> usize {
        let (view, views) = (self.config.view(self.tower), self.config.views());
        assert_eq!(views.len(), self.pictures.views().len(), "the pictures are those of the model");
        views.iter().position(|v| *v == view).expect("a view of the model")
    }

    /// The tower, its input and its features.
    fn graph(&self, batch: usize) -> (Graph, Value, Value) {
        let side = self.pictures.views()[self.view()].side;
        let mut g = Graph::default();
        let image = g.input("image", Type::new(DType::U8, &[batch, side, side, 3]));
        let mut net = Net::new(&mut g, Mode::Eval);
        let features = self.config.tower(&mut net, self.member, self.tower, image);
        net.take_penalty();
        (g, image, features)
    }

    /// The features, and the device that computed them.
    fn run(&self, batch: usize, device: Box<dyn Device>, progress: &dyn Progress) -> Result<(Rows, Box<dyn Device>)> {
        let (view, prefix) = (self.view(), &self.member.prefix);
        self.tower.check_side(self.pictures.views()[view].side)?;
        let (g, image, features) = self.graph(batch);
        let options = device.spec().options;
        let mut session = Session::new(g, &[&[features]], options, device)?;
        self.initial.check(&session, &[prefix], std::slice::from_ref(self.tower), true)?;
        let params: Vec<Value> = session.graph().stored().collect();
        self.initial.fill(&mut session, &params, prefix, &[])?;
        let (width, mut all) = (session.graph().ty(features).row(), vec![]);
        let bytes = self.pictures.views()[view].bytes();
        let mut squares = vec![0; batch * bytes];
        progress.start(&format!("{prefix}{}", self.tower.name), self.rows.len() as u64);
        for chunk in self.rows.chunks(batch) {
            if progress.stopped() {
                progress.done();
                return Err(Error::interrupted("stopped while computing features"));
            }
            self.pictures.gather(chunk, view, &mut squares[..chunk.len() * bytes]);
            session.write(image, Data::U8(&squares))?;
            session.run(0)?;
            all.extend_from_slice(&session.read(features)?[..chunk.len() * width]);
            chunk.iter().for_each(|_| progress.inc());
        }
        progress.done();
        let device = session.into_device();
        self.initial.release(self.tower);
        Ok(((width, all), device))
    }

    /// Everything the features depend on: the tower, the content of its weights, the device, the program, the pixels.
    fn key(&self, device: &str) -> String {
        let (mut h, view) = (Fnv::default(), self.view());
        let tower = serde_json::to_vec(&(self.tower, self.config.output(self.tower))).expect("plain data");
        // The device without its number of threads: those change no bit.
        let device = device.split(',').next().unwrap_or(device);
        let source = self.initial.source(&self.graph(1).0, self.member, self.tower);
        h.field(&tower).field(source.as_bytes()).field(device.as_bytes()).field(crate::VERSION.as_bytes());
        h.field(format!("{:?}", self.pictures.views()[view]).as_bytes());
        (0..self.pictures.len()).for_each(|i| {
            h.update(&hash::checksum(self.pictures.square(i, view)).to_le_bytes());
        });
        format!("{:032x}", h.finish())
    }
}

/// The tensor of features in a cache file.
const FEATURES: &str = "features";

fn write(path: &Path, key: String, (width, x): &Rows) -> Result<()> {
    let shape = [x.len() / width, *width];
    let metadata = BTreeMap::from([("key".to_string(), key), (LAYOUT.to_string(), "KRSC".to_string())]);
    write::write(path, &metadata, &[Entry::f32(FEATURES, &shape, x)])
}

/// Features from the cache; None when the file is not there, is of other pictures or weights, or is damaged: they are
/// then made again.
fn read(path: &Path, key: &str) -> Option<Rows> {
    let file = WeightFile::open(path).ok()?;
    if file.metadata().get("key").map(String::as_str) != Some(key) {
        return None;
    }
    file.intact(FEATURES).ok()?;
    let t = file.tensor(FEATURES).ok()?;
    Some((*t.shape.get(1)?, t.to_f32().ok()?.into_owned()))
}

/// Lays the columns of tables behind the features of a member, for the same rows.
pub fn beside((width, x): &mut Rows, table: &Joined) {
    let more = table.columns.len();
    let own = *width - more;
    let rows = table.values.chunks_exact(more).enumerate();
    *x = rows.flat_map(|(i, row)| x[i * own..(i + 1) * own].iter().chain(row)).copied().collect();
}

/// What is taken from each feature, and by what it is multiplied then, over some rows: mean and 1 / standard deviation, or
/// minimum and 1 / range. A feature that does not vary is left at its scale.
pub fn statistics(features: &Rows, rows: &[usize], how: Standardize) -> [Vec<f32>; 2] {
    let (width, x) = features;
    if how == Standardize::MinMax {
        let (mut least, mut most) = (vec![f32::INFINITY; *width], vec![f32::NEG_INFINITY; *width]);
        for row in rows.iter().map(|i| &x[i * width..(i + 1) * width]) {
            row.iter().zip(&mut least).zip(&mut most).for_each(|((x, l), m)| (*l, *m) = (l.min(*x), m.max(*x)));
        }
        let range = least.iter().zip(&most).map(|(l, m)| f64::from(*m) - f64::from(*l));
        let inverse = range.map(|r| if r > 1e-6 { (1.0 / r) as f32 } else { 1.0 }).collect();
        return [least, inverse];
    }
    let (mut mean, mut square) = (vec![0f64; *width], vec![0f64; *width]);
    for &i in rows {
        x[i * width..(i + 1) * width].iter().zip(&mut mean).for_each(|(x, m)| *m += *x as f64 / rows.len() as f64);
    }
    for &i in rows {
        let row = x[i * width..(i + 1) * width].iter().zip(&mean);
        row.zip(&mut square).for_each(|((x, m), s)| *s += (*x as f64 - m).powi(2) / rows.len() as f64);
    }
    let inverse = square.iter().map(|s| if *s > 1e-12 { (1.0 / s.sqrt()) as f32 } else { 1.0 }).collect();
    [mean.into_iter().map(|m| m as f32).collect(), inverse]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_by_hand() {
        // Rows (1, 7), (5, 7), (2, 0): the last does not count.
        let features = (2, vec![1.0, 7.0, 5.0, 7.0, 2.0, 0.0]);
        let of = |how| statistics(&features, &[0, 1], how);
        assert_eq!(of(Standardize::Yes), [vec![3.0, 7.0], vec![0.5, 1.0]]);
        assert_eq!(of(Standardize::MinMax), [vec![1.0, 7.0], vec![0.25, 1.0]]);
    }
}
