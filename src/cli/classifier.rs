//! What `pretrain` and `train-face` share: a tower as a classifier of pictures, from its flags to its file.

use super::flags::Resident;
use super::job::{load_pictures, made_by};
use super::kept::{Run, fingerprint, origin, resident};
use super::ranges::{MANY, number, whole};
use super::{Bar, Compute};
use crate::data::{Alpha, DecodeOptions, LoadOptions, Manifest, Pictures};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::{Base, TOWER, Tower};
use crate::preprocess::Preprocess;
use crate::train::checkpoint::{self, Card};
use crate::train::confusion::{Confusion, likeliest};
use crate::train::fit::{self, Inputs, Samples, Settings, State, Targets};
use crate::train::network::{Method, Network, Task};
use crate::train::params::Initial;
use crate::train::stored::{self, Stored};
use crate::weights::init::Rule;
use crate::weights::{CLASSES, IMAGE, LAYOUT, PREPROCESS, TowerWeights};
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The network, and how its pictures are read.
#[derive(Args, Clone, Debug)]
pub struct TowerFlags {
    /// Convolutions of the tower; by default those of --weights, else the published ones.
    #[arg(long, value_name = "NAME")]
    base: Option<Base>,
    /// Divides the channels of every convolution, and the hidden dense layers that --dense does not name. By default that
    /// of --weights, else 1.
    #[arg(long, value_parser = whole::<usize>(0..=1024), value_name = "N")]
    width: Option<usize>,
    /// Hidden dense layers; the published ones by default.
    #[arg(long, value_parser = whole::<usize>(1..=MANY), value_delimiter = ',', value_name = "WIDTHS")]
    dense: Option<Vec<usize>>,
    /// Average the last feature map over the image before the dense layers, instead of flattening it: global average pooling,
    /// for VGGs.
    #[arg(long)]
    global_pooling: bool,
    /// Probability to keep a hidden dense unit while training.
    #[arg(long, value_parser = number::<f32>(0.0, 1.0), value_name = "P")]
    keep: Option<f32>,
    /// Side of the square image in pixels; that of the network's paper by default, 224 for VGGs.
    #[arg(long, value_parser = whole::<usize>(0..=65_535), value_name = "PIXELS")]
    image: Option<usize>,
    /// Preprocessing: keras, torch, caffe-places, unit, fer2013. By default what --weights states, else unit.
    #[arg(long, value_name = "NAME")]
    preprocess: Option<String>,
    /// How the first weights are drawn.
    #[arg(long, value_enum, default_value_t = Rule::He)]
    init: Rule,
    /// Every class counts alike, however many pictures it has.
    #[arg(long)]
    balance: bool,
    /// What to do with transparency: drop it, or lay drawings over white.
    #[arg(long, value_enum, default_value_t = Alpha::Drop)]
    alpha: Alpha,
    /// Do not turn pictures upright by their EXIF orientation.
    #[arg(long)]
    ignore_exif: bool,
    /// Leave out pictures that cannot be read instead of stopping before the first step.
    #[arg(long)]
    skip_bad: bool,
}

impl TowerFlags {
    /// The tower of that name, as wide as the file it begins from if there is one.
    pub fn tower(&self, name: &str, classes: usize, from: Option<&TowerWeights>) -> Result<Tower> {
        let mut tower = Tower::published(name, classes)?;
        tower.classes = classes;
        tower.preprocess = Preprocess::preset(self.preprocess.as_deref().unwrap_or("unit"))?;
        if let Some(file) = from {
            if let Some(described) = Tower::described(file)? {
                (tower.base, tower.width) = (described.base, described.width);
            }
            if self.preprocess.is_none() {
                tower.preprocess = file.preprocess()?;
            }
        }
        (tower.base, tower.width) = (self.base.unwrap_or(tower.base), self.width.unwrap_or(tower.width).max(1));
        tower.dense.iter_mut().for_each(|d| *d = (*d / tower.width).max(1));
        tower.dense = self.dense.clone().unwrap_or(tower.dense);
        tower.keep = self.keep.unwrap_or(tower.keep);
        if self.global_pooling && tower.base.network().top != "fc3" {
            return Err(Error::usage(format!("--global-pooling: {} pools so as it was published", tower.base))
                .fix("leave it out: it is for VGGs"));
        }
        tower.average = self.global_pooling;
        if !(tower.keep > 0.0 && tower.keep <= 1.0) {
            return Err(Error::usage(format!("--keep {} is not a number above 0 and up to 1", tower.keep)));
        }
        tower.image = None;
        tower.check_side(self.side(&tower))?;
        Ok(tower)
    }

    /// Side of the images that a tower is trained on.
    fn side(&self, tower: &Tower) -> usize {
        self.image.unwrap_or(tower.base.network().image)
    }
}

/// Labelled pictures, and the tower that learns them.
pub struct Classifier {
    tower: Tower,
    image: usize,
    pub classes: Vec<String>,
    pub settings: Settings,
    initial: Initial,
    balance: bool,
    alpha: Alpha,
    /// The rows that have a picture.
    pub manifest: Manifest,
    pictures: Pictures,
    /// The class of each.
    pub y: Vec<usize>,
    every: Duration,
    device: Option<Box<dyn Device>>,
    device_name: String,
}

/// Where a [`Classifier`] comes from.
pub struct Origin<'a> {
    pub manifest: &'a Manifest,
    /// The class of each row.
    pub y: &'a [usize],
    pub classes: Vec<String>,
    pub tower: Tower,
    pub initial: Initial,
    pub settings: Settings,
    /// Where bad pictures are listed.
    pub out: &'a Path,
    pub cache: Option<PathBuf>,
    /// The time between checkpoints within an epoch.
    pub every: Duration,
}

impl Classifier {
    /// Decodes the pictures and opens the device.
    pub fn load(from: Origin, flags: &TowerFlags, compute: &Compute) -> Result<Self> {
        let Origin { manifest, y, classes, tower, mut initial, settings, out, cache, every } = from;
        initial.rule = flags.init;
        let decode = DecodeOptions { ignore_exif: flags.ignore_exif, alpha: flags.alpha, ..DecodeOptions::default() };
        let options = LoadOptions { views: vec![tower.view(flags.side(&tower))], decode, cache_dir: cache };
        let (manifest, pictures) = load_pictures(manifest, &options, flags.skip_bad, out, &Bar::new())?;
        let y = pictures.rows().iter().map(|&r| y[r]).collect();
        let device = compute.open()?;
        let device_name = device.name();
        remark!("device: {device_name}");
        Ok(Self {
            image: flags.side(&tower),
            tower,
            classes,
            settings,
            initial,
            balance: flags.balance,
            alpha: flags.alpha,
            manifest,
            pictures,
            y,
            every,
            device: Some(device),
            device_name,
        })
    }

    /// The rows of the loaded manifest that came from these rows of the one it was loaded from.
    pub fn within(&self, rows: &[usize]) -> Vec<usize> {
        let loaded = self.pictures.rows();
        (0..loaded.len()).filter(|&i| rows.binary_search(&loaded[i]).is_ok()).collect()
    }

    /// All rows, as the loop takes them; what a class counts depends on those that are trained on.
    fn samples(&self, train: &[usize]) -> Samples<'_> {
        let size = |c: usize| train.iter().filter(|&&i| self.y[i] == c).count().max(1) as f32;
        let even = train.len() as f32 / self.classes.len() as f32;
        let counts: Vec<f32> =
            (0..self.classes.len()).map(|c| if self.balance { even / size(c) } else { 1.0 }).collect();
        Samples {
            inputs: Inputs::Pictures(&self.pictures),
            targets: Targets::labels(self.y.iter().map(|&c| c as i32).collect()),
            weight: self.y.iter().map(|&c| counts[c]).collect(),
        }
    }

    /// What is trained on some rows and monitored on others, before its first step.
    pub fn card(&self, rows: [&[usize]; 2]) -> Result<Card> {
        let of = |i: usize| format!("{} {} {}", self.manifest.rows[i].path, self.classes[self.y[i]], self.balance);
        Ok(Card {
            format: checkpoint::FORMAT.into(),
            task: Task::Tower { tower: self.tower.clone(), image: self.image },
            settings: self.settings.clone(),
            state: State::new(&self.settings, 1)?,
            train_mean: vec![],
            classes: self.classes.clone(),
            tower_classes: BTreeMap::new(),
            origin: origin(rows, &self.pictures, self.initial.sums()),
            data: fingerprint(rows, &self.pictures, of),
            made_by: made_by(&self.device_name),
            alpha: self.alpha,
        })
    }

    /// Trains on some rows, monitoring others, and keeps the run where `checkpoint` says, from where it goes on with
    /// `resume`. Afterwards the network holds the best weights.
    pub fn run(
        &mut self,
        rows: [&[usize]; 2],
        label: &str,
        checkpoint: &Path,
        resume: bool,
    ) -> Result<(Network, State)> {
        let device = self.device.take().expect("a device between runs");
        let card = self.card(rows)?;
        let (batch, method) = (self.settings.batch, self.settings.method());
        let counts = self.samples(rows[0]).weight;
        let method = Method { weighted: rows[0].iter().any(|&i| counts[i] != counts[rows[0][0]]), ..method };
        let kept = resident(Resident::Auto, &self.pictures, &card.task, batch, method, &*device);
        let mut net = Network::new(&card.task, batch, Method { resident: kept, ..method }, device)?;
        let samples = &self.samples(rows[0]);
        let checkpoint = Some(checkpoint);
        let run = Run { label, card, samples, rows, checkpoint, every: self.every, resume, extra: &[] };
        let (state, _) = run.go(&mut net, |net| {
            self.initial.check(&net.session, &[""], std::slice::from_ref(&self.tower), true)?;
            let params = net.stored();
            self.initial.fill(&mut net.session, &params, "", &[])
        })?;
        Ok((net, state))
    }

    /// The class that each of some rows is taken for.
    pub fn predict(&self, net: &mut Network, rows: &[usize]) -> Result<Vec<usize>> {
        let scores = fit::said(net, &self.samples(&[]), rows)?.scores;
        Ok(scores.chunks_exact(self.classes.len()).map(likeliest).collect())
    }

    /// How often each class is taken for each.
    pub fn confusion(&self, rows: &[usize], predicted: &[usize]) -> Confusion {
        Confusion::of(&self.classes, rows.iter().map(|&i| self.y[i]).zip(predicted.iter().copied()))
    }

    /// Takes the device back from a network that is done.
    pub fn recycle(&mut self, net: Network) {
        self.device = Some(net.session.into_device());
    }

    /// Writes the tower as `train --weights` takes it, with the weights of a network, or of a checkpoint, by their names
    /// there.
    pub fn save<'a>(&self, path: &Path, weights: impl Iterator<Item = Stored<'a>>) -> Result<()> {
        let prefix = format!("{}.", self.tower.name);
        let renamed = |mut t: Stored<'a>| {
            t.name = t.name.strip_prefix(&prefix).expect("a parameter of the tower").to_string();
            t
        };
        let tensors: Vec<Stored> = weights.map(renamed).collect();
        let metadata = BTreeMap::from([
            (LAYOUT.to_string(), "KRSC".to_string()),
            (PREPROCESS.to_string(), json(&self.tower.preprocess)),
            (IMAGE.to_string(), self.image.to_string()),
            (TOWER.to_string(), json(&self.tower)),
            (CLASSES.to_string(), json(&self.classes)),
        ]);
        stored::write(path, &metadata, &tensors)
    }
}

fn json(x: &impl serde::Serialize) -> String {
    serde_json::to_string(x).expect("plain data")
}

/// Opens the file that a tower begins from.
pub fn weights(path: Option<&Path>) -> Result<Option<TowerWeights>> {
    path.map(TowerWeights::open).transpose()
}

/// Refuses a file that is of another network than the flags ask for.
pub fn fits(tower: &Tower, file: &TowerWeights) -> Result<()> {
    match Tower::described(file)? {
        Some(d) if (d.base, d.width) != (tower.base, tower.width) => {
            Err(Error::file(file.file.path(), "has other convolutions than --base and --width ask for")
                .fix("leave these out, or name another file"))
        }
        _ => Ok(()),
    }
}
