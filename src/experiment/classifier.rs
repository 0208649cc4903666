//! One tower as a classifier of pictures, from its settings to its file.

use super::Output;
use super::checkpointed::{CheckpointedRun, fingerprint, origin, resident};
use super::config::{Compute, Resident};
use super::events::{Events, tell};
use super::run::{load_pictures, made_by, split};
use crate::atomic;
use crate::data::{Alpha, DecodeOptions, LoadOptions, Manifest, Pictures};
use crate::device::Device;
use crate::error::{Error, Result, option};
use crate::models::{Base, TOWER, Tower};
use crate::preprocess::Preprocess;
use crate::report::folder::{claim_file, prepare};
use crate::train::checkpoint::{self, Card};
use crate::train::confusion::{Confusion, likeliest};
use crate::train::fit::{self, Inputs, Samples, Settings, State, Targets};
use crate::train::network::{Method, Network, Task};
use crate::train::params::Initial;
use crate::train::stored::{self, Stored};
use crate::weights::init::Rule;
use crate::weights::{CLASSES, IMAGE, LAYOUT, PREPROCESS, TowerWeights};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The network, and how its pictures are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TowerSettings {
    /// Convolutions of the tower; by default those of the weights that it begins with, else the published ones.
    pub base: Option<Base>,
    /// Divides the channels of every convolution, and the hidden dense layers that `dense` does not name.
    pub width: Option<usize>,
    /// Hidden dense layers; the published ones by default.
    pub dense: Option<Vec<usize>>,
    /// Average the last feature map over the image before the dense layers: for VGGs.
    pub global_pooling: bool,
    /// Probability to keep a hidden dense unit while training.
    pub keep: Option<f32>,
    /// Side of the square image in pixels; that of the network's paper by default.
    pub image: Option<usize>,
    /// By default what the weights declare, else unit.
    pub preprocess: Option<String>,
    /// How the first weights are drawn.
    pub init: Rule,
    /// Every class counts alike, however many pictures it has.
    pub balance: bool,
    pub alpha: Alpha,
    /// Do not turn pictures upright by their EXIF orientation.
    pub ignore_exif: bool,
    /// Leave out pictures that cannot be read instead of stopping before the first step.
    pub skip_bad: bool,
}

impl TowerSettings {
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
            let pooling = option("global-pooling");
            return Err(Error::usage(format!("{pooling}: {} pools so as it was published", tower.base))
                .fix("leave it out: it is for VGGs"));
        }
        tower.average = self.global_pooling;
        if !(tower.keep > 0.0 && tower.keep <= 1.0) {
            return Err(Error::usage(format!("{} {} is not a number above 0 and up to 1", option("keep"), tower.keep)));
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
    pub events: Arc<dyn Events>,
}

/// Where a [`Classifier`] comes from.
pub struct LabelledPictures<'a> {
    pub manifest: &'a Manifest,
    /// The class of each row.
    pub y: &'a [usize],
    pub classes: Vec<String>,
    pub tower: Tower,
    pub initial: Initial,
    pub settings: Settings,
    /// Where bad pictures are listed.
    pub output: &'a Output,
    pub cache: Option<PathBuf>,
    /// The time between checkpoints within an epoch.
    pub every: Duration,
}

impl Classifier {
    /// Decodes the pictures and opens the device.
    pub fn load(from: LabelledPictures, flags: &TowerSettings, compute: &Compute) -> Result<Self> {
        let LabelledPictures { manifest, y, classes, tower, mut initial, settings, output, cache, every } = from;
        initial.rule = flags.init;
        let decode = DecodeOptions { ignore_exif: flags.ignore_exif, alpha: flags.alpha, ..DecodeOptions::default() };
        let options = LoadOptions { views: vec![tower.view(flags.side(&tower))], decode, cache_dir: cache };
        let (manifest, pictures) = load_pictures(manifest, &options, flags.skip_bad, output)?;
        let y = pictures.rows().iter().map(|&r| y[r]).collect();
        let events = output.events.clone();
        let device = compute.open(&*events)?;
        let device_name = device.name();
        tell!(events, "device: {device_name}");
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
            events,
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
        let kept = resident(Resident::Auto, &self.pictures, &card.task, batch, method, &*device, &*self.events);
        let mut net = Network::new(&card.task, batch, Method { resident: kept, ..method }, device)?;
        let samples = &self.samples(rows[0]);
        let (checkpoint, every, events) = (Some(checkpoint), self.every, &*self.events);
        let run = CheckpointedRun { label, card, samples, rows, checkpoint, every, resume, extra: &[], events };
        let (state, _) = run.execute(&mut net, |net| {
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
        Some(d) if (d.base, d.width) != (tower.base, tower.width) => Err(Error::file(
            file.file.path(),
            format!("has other convolutions than {} and {} ask for", option("base"), option("width")),
        )
        .fix("leave these out, or name another file")),
        _ => Ok(()),
    }
}

/// One tower that learns the classes of a manifest, and becomes a file of weights.
pub struct Pretraining {
    pub manifest: PathBuf,
    /// Column of class names; rows where it is empty are left out.
    pub label: String,
    /// Which tower: object, scene, face, or a network by its name.
    pub tower: String,
    /// The weight file to write.
    pub out: PathBuf,
    /// Go on from OUT.checkpoint.
    pub resume: bool,
    /// Classes with fewer pictures are left out.
    pub min_count: usize,
    /// Begin from these weights; what the file lacks is drawn.
    pub weights: Option<PathBuf>,
    pub settings: Settings,
    /// The time between checkpoints within an epoch.
    pub every: Duration,
    /// Part of the pictures that is set apart.
    pub test: f64,
    /// Part of the rest that is monitored.
    pub val: f64,
    pub network: TowerSettings,
    pub compute: Compute,
}

impl Pretraining {
    /// Trains, writes the file, and says how many pictures are told right.
    pub fn run(&self, events: Arc<dyn Events>) -> Result<String> {
        self.compute.bind_threads(&*events);
        self.settings.check()?;
        let folder = self.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        prepare(folder)?;
        let _claim = claim_file(&self.out)?;
        let output = Output { events: events.clone(), ..Output::silent(folder) };
        let manifest = Manifest::read(&self.manifest, &[])?;
        let labels = manifest.labels(&self.label)?;
        // The test part is taken from all rows, so that it is the one `train` takes, whatever the labels.
        let all: Vec<usize> = (0..manifest.rows.len()).collect();
        let [rest, test] = split(&manifest, &all, self.test, self.settings.seed)?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        labels.iter().flatten().for_each(|l| *counts.entry(l).or_default() += 1);
        let classes: Vec<&str> = counts.iter().filter(|c| *c.1 >= self.min_count).map(|c| *c.0).collect();
        if classes.len() < 2 {
            return Err(Error::file(
                &self.manifest,
                format!("fewer than two classes with {} pictures", self.min_count),
            )
            .at(format!("column {}", self.label))
            .fix(format!("lower {} or name another column", option("min-count"))));
        }
        let class = |i: usize| labels[i].as_deref().and_then(|l| classes.binary_search(&l).ok());
        let (usable, y): (Vec<usize>, Vec<usize>) = all.iter().filter_map(|&i| Some((i, class(i)?))).unzip();
        let file = weights(self.weights.as_deref())?;
        let tower = self.network.tower(&self.tower, classes.len(), file.as_ref())?;
        if let Some(file) = &file {
            fits(&tower, file)?;
        }
        let mut initial = Initial::new(self.settings.seed, true);
        file.into_iter().for_each(|f| initial.tower(&self.tower, f));
        let origin = LabelledPictures {
            manifest: &manifest.select(&usable),
            y: &y,
            classes: classes.iter().map(|c| c.to_string()).collect(),
            tower,
            initial,
            settings: self.settings.clone(),
            output: &output,
            cache: None,
            every: self.every,
        };
        let mut job = Classifier::load(origin, &self.network, &self.compute)?;
        let [rest, test] = [rest, test].map(|rows| {
            let kept = (0..usable.len()).filter(|&i| rows.binary_search(&usable[i]).is_ok());
            job.within(&kept.collect::<Vec<_>>())
        });
        let [train, val] = split(&job.manifest, &rest, self.val, self.settings.seed)?;
        let mut kept = self.out.clone().into_os_string();
        kept.push(".checkpoint");
        let kept = PathBuf::from(kept);
        let (mut net, state) = job.run([&train, &val], "pretrain", &kept, self.resume)?;

        let mut report = format!("{} classes, {} epochs\n", classes.len(), state.epoch);
        for (name, rows) in [("training", &train), ("monitored", &val), ("test", &test)] {
            let confusion = job.confusion(rows, &job.predict(&mut net, rows)?);
            if let (n, Some(all), Some(mean)) = (rows.len(), confusion.accuracy(), confusion.class_accuracy()) {
                report.push_str(&format!("{name:>10}: {n:4} pictures, {all:.1} % right, {mean:.1} % over classes\n"));
            }
        }
        job.save(&self.out, net.stored().into_iter().map(|v| Stored::of(&net.session, v)))?;
        atomic::forget_previous(&kept)?;
        std::fs::remove_file(&kept).map_err(|e| Error::io(&kept, "remove", e))?;
        Ok(report)
    }
}
