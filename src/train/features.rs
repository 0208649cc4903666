/*! Frozen towers run once instead of in every step: features of every picture, per member of the model. */

use super::params::Initial;
use crate::data::Pictures;
use crate::device::{Data, Device, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::hash::Fnv;
use crate::models::Config;
use crate::nn::{Mode, Net};
use crate::progress::Progress;
use crate::train::checkpoint::Stored;
use crate::train::network::Task;
use crate::weights::write::Entry;
use crate::weights::{LAYOUT, WeightFile, write};
use std::collections::BTreeMap;
use std::path::Path;

/// Features of every picture for each member: width, then one row after another; and the towers' weights, to be stored
/// with the head that is trained on them.
pub struct Extracted {
    pub members: Vec<Rows>,
    pub towers: Vec<Stored>,
}

/// Width, then one row of features after another.
pub type Rows = (usize, Vec<f32>);

/// Runs the towers of `config` over some of the pictures: features for each member, and the session that holds the towers.
pub fn extract(
    config: &Config,
    initial: &Initial,
    pictures: &Pictures,
    rows: &[usize],
    batch: usize,
    device: Box<dyn Device>,
    progress: &dyn Progress,
) -> Result<(Vec<Rows>, Session)> {
    let mut g = Graph::default();
    let images = Task::EndToEnd { config: config.clone(), frozen: vec![] }.inputs(&mut g, batch)?;
    assert_eq!(images.len(), pictures.views().len(), "the pictures are those of the model");
    let mut net = Net::new(&mut g, Mode::Eval);
    let features: Vec<Value> = config.members().iter().map(|m| config.extract(&mut net, m, &images)).collect();
    net.take_penalty();
    let options = device.options();
    let mut session = Session::new(g, &[&features], options, device)?;
    let params: Vec<Value> = session.graph.stored().collect();
    let members = config.members();
    let prefixes: Vec<&str> = members.iter().map(|m| m.prefix.as_str()).collect();
    initial.check(&session, &prefixes, &config.towers, true)?;
    for prefix in &prefixes {
        initial.fill(&mut session, &params, prefix, &[])?;
    }
    let mut all: Vec<Rows> = features.iter().map(|f| (session.graph.ty(*f).row(), vec![])).collect();
    let mut squares: Vec<Vec<u8>> = pictures.views().iter().map(|v| vec![0; batch * v.bytes()]).collect();
    progress.start("features", rows.len() as u64);
    for chunk in rows.chunks(batch) {
        if progress.stopped() {
            progress.done();
            return Err(Error::interrupted("stopped while computing features"));
        }
        for (view, (&image, squares)) in images.iter().zip(&mut squares).enumerate() {
            let filled = chunk.len() * pictures.views()[view].bytes();
            pictures.gather(chunk, view, &mut squares[..filled]);
            session.write(image, Data::U8(squares))?;
        }
        session.run(0)?;
        for (v, (width, all)) in features.iter().zip(&mut all) {
            all.extend_from_slice(&session.read(*v)?[..chunk.len() * *width]);
        }
        chunk.iter().for_each(|_| progress.inc());
    }
    progress.done();
    Ok((all, session))
}

/// [`extract`], unless the cache folder has the features of exactly these pictures, towers and weights.
pub fn cached(
    config: &Config,
    initial: &Initial,
    pictures: &Pictures,
    batch: usize,
    device: Box<dyn Device>,
    cache: &Path,
    progress: &dyn Progress,
) -> Result<(Extracted, Box<dyn Device>)> {
    let key = key(config, initial, pictures, &device.name());
    let path = cache.join(format!("features-{}.safetensors", &key[..16]));
    if let Some(found) = read(&path, &key, config) {
        return Ok((found, device));
    }
    let all: Vec<usize> = (0..pictures.len()).collect();
    let (members, session) = extract(config, initial, pictures, &all, batch, device, progress)?;
    let g = &session.graph;
    let stored = g.stored().map(|v| Ok((g.name(v).into(), g.dims(v).into(), session.read(v)?)));
    let extracted = Extracted { members, towers: stored.collect::<Result<_>>()? };
    let rows = pictures.len();
    let mut entries: Vec<Entry> = extracted.towers.iter().map(|(n, s, x)| Entry::f32(n, s, x)).collect();
    for (i, (width, x)) in extracted.members.iter().enumerate() {
        entries.push(Entry::f32(&format!("features.{i}"), &[rows, *width], x));
    }
    let metadata = BTreeMap::from([("key".to_string(), key), (LAYOUT.to_string(), "KRSC".to_string())]);
    write::write(&path, &metadata, &entries)?;
    Ok((extracted, session.into_device()))
}

/// Everything the features depend on.
fn key(config: &Config, initial: &Initial, pictures: &Pictures, device: &str) -> String {
    let mut h = Fnv::default();
    let towers = serde_json::to_vec(&(&config.towers, config.architecture, config.tower_output)).expect("plain data");
    // The device without its number of threads: those change no bit.
    let device = device.split(',').next().unwrap_or(device);
    h.field(&towers).field(initial.fingerprint().as_bytes()).field(device.as_bytes());
    h.field(&(config.image as u64).to_le_bytes()).field(pictures.bytes());
    format!("{:032x}", h.finish())
}

/// Features from the cache; None when the file is not there, is of another run, or is damaged: it is then made again.
fn read(path: &Path, key: &str, config: &Config) -> Option<Extracted> {
    let file = WeightFile::open(path).ok()?;
    if file.metadata().get("key").map(String::as_str) != Some(key) {
        return None;
    }
    let mut members = vec![];
    for i in 0..config.members().len() {
        let t = file.tensor(&format!("features.{i}")).ok()?;
        members.push((*t.shape.get(1)?, t.to_f32().ok()?.into_owned()));
    }
    let stored = file.names().filter(|n| !n.starts_with("features.")).map(String::from).collect::<Vec<_>>();
    let tower = |n: String| {
        let t = file.tensor(&n).ok()?;
        Some((n, t.shape.clone(), t.to_f32().ok()?.into_owned()))
    };
    let towers = stored.into_iter().map(tower).collect::<Option<_>>()?;
    Some(Extracted { members, towers })
}

/// Mean and 1 / standard deviation of each feature over some rows; a feature that does not vary is left at its scale.
pub fn statistics(features: &Rows, rows: &[usize]) -> [Vec<f32>; 2] {
    let (width, x) = features;
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
