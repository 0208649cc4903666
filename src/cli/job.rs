//! What `train`, `cross-validate` and `demo` share: flags, pictures, towers, one training run.

use super::{Bar, Compute, stopped};
use crate::data::manifest::TARGETS;
use crate::data::{Alpha, DecodeOptions, LoadOptions, Manifest, Pictures, folds, hash};
use crate::device::{Data, Device};
use crate::error::{Error, Result};
use crate::models::{Architecture, Config, OutAct, STATISTICS, Tower, TowerOutput};
use crate::ops::optim::Sgd;
use crate::plan::Options;
use crate::preprocess::Preprocess;
use crate::progress::Progress;
use crate::report::folder::prepare;
use crate::train::checkpoint::{self, Card, Stored};
use crate::train::features::{self, Extracted};
use crate::train::fit::{self, Best, Inputs, Samples, Settings, SgdForm, State, Targets, Watch};
use crate::train::network::{Network, Task};
use crate::train::params::Initial;
use crate::train::schedule::PlateauRule;
use crate::weights::{TowerWeights, WeightFile};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The model.
#[derive(Args, Clone, Debug)]
pub struct ModelFlags {
    /// One network for all targets, or one complete network for each.
    #[arg(long, value_enum, default_value_t = Architecture::Shared)]
    pub architecture: Architecture,
    /// Towers to use.
    #[arg(long, value_delimiter = ',', default_value = "object,scene,face", value_name = "NAMES")]
    pub features: Vec<String>,
    /// Expression classes of the face tower: 5, or 9 with surprise, disgust, contempt and neutral.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub face_classes: usize,
    /// What a tower hands to the head: class probabilities, or its last convolution averaged over the image (for towers
    /// without dense layers).
    #[arg(long, value_enum, default_value_t = TowerOutput::Softmax)]
    pub tower_output: TowerOutput,
    /// Hidden layers of the head.
    #[arg(long, value_delimiter = ',', default_value = "3000,1000,500", value_name = "WIDTHS")]
    pub head: Vec<usize>,
    /// Probability to KEEP a hidden unit of the head while training; 1 is no dropout.
    #[arg(long, default_value_t = 0.5, value_name = "P")]
    pub keep: f32,
    /// Activation of the output layer.
    #[arg(long, value_enum, default_value_t = OutAct::Linear)]
    pub out_act: OutAct,
    /// Side of the square image in pixels, a multiple of 32.
    #[arg(long, default_value_t = 224, value_name = "PIXELS")]
    pub image: usize,
    /// Divides the channels of every convolution and the hidden dense layers of the towers: for small experiments.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub width: usize,
    /// Weights of a tower; repeatable: `--weights object=vgg16.safetensors`.
    #[arg(long = "weights", value_name = "TOWER=FILE")]
    pub weights: Vec<String>,
    /// Draw parameters that no file gives (Glorot uniform, seeded).
    #[arg(long)]
    pub init_missing: bool,
    /// Towers that are not trained: names, or `all`. When all are frozen their features are computed once.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub freeze: Vec<String>,
    /// Preprocessing of towers whose weight file does not state one: keras, torch, caffe-places, unit.
    #[arg(long, value_name = "NAME")]
    pub preprocess: Option<String>,
}

/// The training.
#[derive(Args, Clone, Debug)]
pub struct TrainFlags {
    /// Most epochs.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub epochs: u32,
    #[arg(long, default_value_t = 25, value_name = "N")]
    pub batch: usize,
    /// Learning rate.
    #[arg(long, default_value_t = 4e-4, value_name = "RATE")]
    pub lr: f64,
    #[arg(long, default_value_t = 0.9, value_name = "M")]
    pub momentum: f32,
    #[arg(long)]
    pub nesterov: bool,
    /// Whose SGD: the two differ once the rate changes.
    #[arg(long, value_enum, default_value_t = SgdForm::Keras)]
    pub sgd: SgdForm,
    #[arg(long, default_value_t = 0.0, value_name = "D")]
    pub weight_decay: f32,
    /// Epochs without a decrease of the monitored loss after which the rate is divided by ten (not below 6e-6); 0 keeps it.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub plateau: u32,
    /// Epochs without a decrease of the monitored loss after which training stops; 0 never stops early.
    #[arg(long, default_value_t = 6, value_name = "N")]
    pub patience: u32,
    /// Part of the pictures that is set apart before anything else, never trained on and never monitored; groups stay
    /// together. The report then shows these.
    #[arg(long, default_value_t = 0.0, value_name = "PART")]
    pub test: f64,
    /// Part of the training pictures that is held out and monitored; 0 monitors the training loss.
    #[arg(long, default_value_t = 0.1, value_name = "PART")]
    pub val: f64,
    /// Decides every random choice: initial weights, order, masks, folds.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// The data.
#[derive(Args, Clone, Debug)]
pub struct DataFlags {
    /// Columns of the manifest to predict.
    #[arg(long, value_delimiter = ',', default_values_t = TARGETS.map(String::from), value_name = "COLUMNS")]
    pub targets: Vec<String>,
    /// Leave out pictures that cannot be read instead of stopping before the first step.
    #[arg(long)]
    pub skip_bad: bool,
    /// Do not turn pictures upright by their EXIF orientation.
    #[arg(long)]
    pub ignore_exif: bool,
    /// What to do with transparency: drop it (as the published networks' pipelines do), or lay drawings over white.
    #[arg(long, value_enum, default_value_t = Alpha::Drop)]
    pub alpha: Alpha,
    /// Folder for resized pictures and features of frozen towers; by default `cache` in the output folder.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl TrainFlags {
    pub fn settings(&self) -> Result<Settings> {
        if self.batch == 0 || self.epochs == 0 {
            return Err(Error::usage("--batch and --epochs must be at least 1"));
        }
        for (name, part) in [("val", self.val), ("test", self.test)] {
            if !(0.0..1.0).contains(&part) {
                return Err(Error::usage(format!("--{name} {part} is not a part from 0 to below 1")));
            }
        }
        Ok(Settings {
            epochs: self.epochs,
            batch: self.batch,
            lr: self.lr,
            plateau: (self.plateau > 0).then(|| PlateauRule { wait: self.plateau, ..PlateauRule::keras() }),
            momentum: self.momentum,
            nesterov: self.nesterov,
            form: self.sgd,
            weight_decay: self.weight_decay,
            patience: self.patience,
            seed: self.seed,
        })
    }
}

impl ModelFlags {
    /// The model, where its first weights come from, and the towers that are not trained.
    pub fn model(&self, targets: &[String], seed: u64) -> Result<(Config, Initial, Vec<String>)> {
        if self.image == 0 || !self.image.is_multiple_of(32) {
            return Err(Error::usage(format!("--image {} is not a multiple of 32", self.image))
                .fix("five 2x2 pools halve the image five times"));
        }
        if self.width == 0 || !(self.keep > 0.0 && self.keep <= 1.0) {
            return Err(Error::usage("--width must be at least 1 and --keep in (0, 1]"));
        }
        let mut config = Config::published(self.architecture, &self.features, self.face_classes)?;
        config.tower_output = self.tower_output;
        config.standardize = self.tower_output == TowerOutput::Pooled;
        (config.head, config.keep) = (self.head.clone(), vec![self.keep; self.head.len()]);
        (config.out_act, config.image, config.targets) = (self.out_act, self.image, targets.to_vec());
        for t in &mut config.towers {
            t.width = self.width;
            t.dense.iter_mut().for_each(|d| *d = (*d / self.width).max(1));
            if let Some(p) = &self.preprocess {
                t.preprocess = Preprocess::preset(p)?;
            }
        }
        let mut initial = Initial::new(seed, self.init_missing);
        for spec in &self.weights {
            let Some((tower, file)) = spec.split_once('=') else {
                return Err(Error::usage(format!("--weights {spec}"))
                    .fix("write TOWER=FILE, for example object=vgg16.safetensors"));
            };
            let Some(t) = config.towers.iter_mut().find(|t| t.name == tower) else {
                return Err(Error::usage(format!("--weights {spec}: there is no tower `{tower}`"))
                    .fix(format!("choose from {}", self.features.join(", "))));
            };
            let weights = TowerWeights::open(file)?;
            if let Some(described) = described_tower(&weights)? {
                *t = Tower { name: t.name.clone(), ..described };
            }
            match (weights.preprocess(), &self.preprocess) {
                (Ok(p), _) => t.preprocess = p,
                (Err(_), Some(_)) => {}
                (Err(e), None) => return Err(e),
            }
            initial.tower(tower, weights);
        }
        Ok((config, initial, self.frozen()?))
    }

    /// Names of the towers that are not trained.
    fn frozen(&self) -> Result<Vec<String>> {
        if self.freeze == ["all"] {
            return Ok(self.features.clone());
        }
        match self.freeze.iter().find(|f| !self.features.contains(f)) {
            Some(f) => Err(Error::usage(format!("--freeze {f}: there is no such tower"))
                .fix(format!("choose from {}, or all", self.features.join(", ")))),
            None => Ok(self.freeze.clone()),
        }
    }
}

/// The tower that a file of `pretrain` describes in its header.
pub fn described_tower(weights: &TowerWeights) -> Result<Option<Tower>> {
    let Some(text) = weights.file.metadata().get(TOWER) else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|e| {
        Error::file(weights.file.path(), format!("its description of the tower cannot be read: {e}")).at("header")
    })
}

/// Metadata key of a tower file: JSON of [`Tower`].
pub const TOWER: &str = "tower";

/// Splits rows by a part, groups kept together: [rest, part]. A row without a group is its own.
pub fn split(manifest: &Manifest, rows: &[usize], part: f64, seed: u64) -> Result<[Vec<usize>; 2]> {
    if part == 0.0 {
        return Ok([rows.to_vec(), vec![]]);
    }
    let groups: Vec<Option<String>> = rows.iter().map(|&i| manifest.rows[i].group.clone()).collect();
    let taken = folds::split(&groups, part, seed, groups.iter().any(Option::is_some))?;
    let pick = |which| rows.iter().zip(&taken).filter(|(_, t)| **t == which).map(|(r, _)| *r).collect();
    Ok([pick(false), pick(true)])
}

/// Everything that is loaded before the first step.
pub struct Job {
    pub config: Config,
    pub initial: Initial,
    pub frozen: Vec<String>,
    pub settings: Settings,
    pub val: f64,
    pub alpha: Alpha,
    pub manifest: Manifest,
    pub pictures: Pictures,
    pub extracted: Option<Extracted>,
    device: Option<Box<dyn Device>>,
    pub device_name: String,
}

impl Job {
    /// Reads the manifest, decodes the pictures, runs frozen towers. Every bad picture is listed in
    /// `bad-pictures.csv` of the output folder.
    pub fn load(
        manifest: &Path,
        out: &Path,
        (config, initial, frozen): (Config, Initial, Vec<String>),
        train: &TrainFlags,
        data: &DataFlags,
        compute: &Compute,
    ) -> Result<Self> {
        let settings = train.settings()?;
        let targets: Vec<&str> = data.targets.iter().map(String::as_str).collect();
        let manifest = Manifest::read(manifest, &targets)?;
        prepare(out)?;
        let cache = data.cache.clone().unwrap_or_else(|| out.join("cache"));
        let bar = Bar::new();
        let options = LoadOptions {
            size: config.image as u32,
            resize: config.towers[0].preprocess.resize,
            decode: DecodeOptions { ignore_exif: data.ignore_exif, alpha: data.alpha, ..DecodeOptions::default() },
            cache_dir: Some(cache.clone()),
        };
        let (manifest, pictures) = load_pictures(&manifest, &options, data.skip_bad, out, &bar)?;
        let device = compute.open()?;
        let device_name = device.name();
        eprintln!("device: {device_name}");
        let mut job = Self {
            config,
            initial,
            frozen,
            settings,
            val: train.val,
            alpha: data.alpha,
            manifest,
            pictures,
            extracted: None,
            device: Some(device),
            device_name,
        };
        if job.config.towers.iter().all(|t| job.frozen.contains(&t.name)) {
            job.extract(&cache, &bar)?;
        }
        Ok(job)
    }

    /// Runs the frozen towers over every picture, or finds their features in the cache.
    fn extract(&mut self, cache: &Path, bar: &Bar) -> Result<()> {
        let device = self.device.take().expect("a device between runs");
        // Batches only save time: features do not depend on them.
        let (extracted, device) = features::cached(&self.config, &self.initial, &self.pictures, 4, device, cache, bar)?;
        (self.extracted, self.device) = (Some(extracted), Some(device));
        Ok(())
    }

    fn task(&self) -> Task {
        match self.extracted {
            Some(_) => Task::Head { config: self.config.clone() },
            None => Task::EndToEnd { config: self.config.clone(), frozen: self.frozen.clone() },
        }
    }

    /// All rows, as the loop takes them.
    pub fn samples(&self) -> Samples<'_> {
        let inputs = match &self.extracted {
            Some(e) => Inputs::Features(e.members.clone()),
            None => Inputs::Pictures(&self.pictures),
        };
        let ratings = self.manifest.rows.iter().flat_map(|r| r.targets.clone()).collect();
        let weight = self.manifest.rows.iter().map(|r| r.weight).collect();
        Samples { inputs, targets: Targets::Ratings(self.config.targets.len(), ratings), weight }
    }

    /// Splits rows into those that are trained on and those that are monitored.
    pub fn hold_out(&self, rows: &[usize]) -> Result<[Vec<usize>; 2]> {
        split(&self.manifest, rows, self.val, self.settings.seed)
    }

    /// Means of the targets over some rows.
    pub fn means(&self, rows: &[usize]) -> Vec<f64> {
        let mean = |t| rows.iter().map(|&i| self.manifest.rows[i].targets[t] as f64).sum::<f64>() / rows.len() as f64;
        (0..self.config.targets.len()).map(mean).collect()
    }

    /// What a resumed run must have in common with the one it continues.
    fn fingerprint(&self, [train, val]: [&[usize]; 2]) -> String {
        let mut text = String::new();
        for (which, rows) in [("train", train), ("val", val)] {
            for &i in rows {
                let (r, pixels) = (&self.manifest.rows[i], hash::checksum(self.pictures.image(i)));
                text.push_str(&format!("{which} {} {:?} {} {pixels:x}\n", r.path, r.targets, r.weight));
            }
        }
        format!("{:032x}", hash::content(text.as_bytes()))
    }

    /// Trains on some rows, monitoring others. With `checkpoint` the run is kept there; with `resume` it goes on from
    /// there; of a finished run only the weights are read. Afterwards the network holds the best weights. Also returns
    /// the number of updates that were made here.
    pub fn run(
        &mut self,
        [train, val]: [&[usize]; 2],
        label: &str,
        checkpoint: Option<&Path>,
        resume: bool,
    ) -> Result<(Network, State, u32)> {
        let s = self.settings.clone();
        let sgd = Sgd { form: s.form.into(), nesterov: s.nesterov, dampening: 0.0 };
        let device = self.device.take().expect("a device between runs");
        let task = self.task();
        let mut net = Network::new(&task, s.batch, sgd, Options::default(), device)?;
        let means = self.means(train);
        let mut card = Card {
            format: checkpoint::FORMAT.into(),
            task,
            settings: s.clone(),
            state: State::new(&s, net.parts.len())?,
            train_mean: means.clone(),
            classes: vec![],
            data: self.fingerprint([train, val]),
            made_by: format!("deep-affect {} on {}", env!("CARGO_PKG_VERSION"), self.device_name),
            alpha: self.alpha,
        };
        let mut best: Best = vec![];
        match checkpoint.filter(|_| resume) {
            Some(path) => {
                let file = WeightFile::open(path)?;
                let old = checkpoint::card(&file)?;
                let wrong = |what: &str| {
                    Err(Error::file(path, format!("was trained {what}")).fix("resume with the command of that run"))
                };
                if old.data != card.data {
                    return wrong("on other data");
                }
                // More epochs may be asked for; everything else must be as it was.
                if (Settings { epochs: s.epochs, ..old.settings.clone() }) != s || old.task != card.task {
                    return wrong("with other settings");
                }
                if old.state.finished && s.epochs > old.settings.epochs {
                    return Err(Error::file(
                        path,
                        "is of a finished run, which cannot go on: only its weights were kept",
                    )
                    .fix("train anew with more --epochs, or resume with those of that run to write its report"));
                }
                card.state = old.state;
                best = checkpoint::restore(&file, &mut net)?;
                card.state.finished |= card.state.epoch >= s.epochs;
            }
            None => {
                if self.extracted.is_none() {
                    let members = self.config.members();
                    let prefixes: Vec<&str> = members.iter().map(|m| m.prefix.as_str()).collect();
                    let pooled = self.config.tower_output == TowerOutput::Pooled;
                    self.initial.check(&net.session, &prefixes, &self.config.towers, pooled)?;
                }
                let params = net.params();
                for part in &net.parts {
                    let means: Vec<f32> = part.targets.iter().map(|&t| means[t] as f32).collect();
                    self.initial.fill(&mut net.session, &params, &part.prefix, &means)?;
                }
                if self.config.standardize {
                    self.standardize(&mut net, train)?;
                }
            }
        }
        let samples = self.samples();
        let mut state = card.state.clone();
        let mut keeper = Keeper {
            bar: Bar::new(),
            checkpoint,
            card,
            extra: self.extracted.as_ref().map_or(&[], |e| e.towers.as_slice()),
            saved: None,
        };
        keeper.bar.start(label, s.epochs.saturating_sub(state.epoch) as u64 * train.len().div_ceil(s.batch) as u64);
        let before = state.step;
        let result = fit::fit(&mut net, &samples, [train, val], &s, &mut state, &mut best, &mut keeper);
        keeper.bar.done();
        result?;
        if let Some(path) = checkpoint {
            keeper.card.state = state.clone();
            checkpoint::save(path, &keeper.card, &net, &best, keeper.extra)?;
        }
        let updates = state.step - before;
        Ok((net, state, updates))
    }

    /// Writes the statistics of the features over the training rows. Towers that are trained have no features yet: those
    /// of a sample of pictures, through the initial weights, stand for them.
    fn standardize(&self, net: &mut Network, train: &[usize]) -> Result<()> {
        /// Pictures that stand for all of them.
        const SAMPLE: usize = 64;
        let sampled;
        let (members, rows): (&[(usize, Vec<f32>)], Vec<usize>) = match &self.extracted {
            Some(e) => (&e.members, train.to_vec()),
            None => {
                let rows: Vec<usize> = train.iter().copied().step_by(train.len().div_ceil(SAMPLE)).collect();
                let device = crate::device::open("cpu", None)?;
                let e = features::extract(&self.config, &self.initial, &self.pictures, &rows, 4, device, &Bar::new())?;
                sampled = e.0.members;
                (&sampled, (0..rows.len()).collect())
            }
        };
        for (part, features) in self.config.members().iter().zip(members) {
            for (name, x) in STATISTICS.iter().zip(features::statistics(features, &rows)) {
                let v = net.session.graph.find(&format!("{}{name}", part.prefix)).expect("the head asked for it");
                net.session.write(v, Data::F32(&x))?;
            }
        }
        Ok(())
    }

    /// Takes the device back from a network that is done.
    pub fn recycle(&mut self, net: Network) {
        self.device = Some(net.session.into_device());
    }
}

/// Decodes what a manifest lists; bad pictures are written to `bad-pictures.csv` and, if allowed, left out.
pub fn load_pictures(
    manifest: &Manifest,
    options: &LoadOptions,
    skip_bad: bool,
    out: &Path,
    bar: &Bar,
) -> Result<(Manifest, Pictures)> {
    let loaded = Pictures::load(&manifest.sources(), options, bar)?;
    if let Some(note) = &loaded.rebuilt {
        eprintln!("{note}");
    }
    if !loaded.bad.is_empty() {
        let path = out.join("bad-pictures.csv");
        let mut csv = csv::Writer::from_writer(vec![]);
        let rows = loaded.bad.iter().map(|b| [b.path.as_str(), b.reason.as_str()]);
        for row in [["path", "reason"]].into_iter().chain(rows) {
            csv.write_record(row).expect("memory does not fail");
        }
        let text = csv.into_inner().expect("memory does not fail");
        crate::atomic::write(&path, |w| w.write_all(&text))?;
        eprintln!("{} pictures cannot be used: see {}", loaded.bad.len(), path.display());
    }
    let pictures = loaded.accept(skip_bad)?;
    Ok((manifest.select(pictures.rows()), pictures))
}

/// Seconds between two checkpoints within a run: a small network must not spend its time on the disk.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Watches a run: the bar, the checkpoint, Ctrl-C.
struct Keeper<'a> {
    bar: Bar,
    checkpoint: Option<&'a Path>,
    card: Card,
    extra: &'a [Stored],
    /// When this run last wrote one.
    saved: Option<Instant>,
}

impl Watch for Keeper<'_> {
    fn step(&mut self, state: &State, _: u32, loss: f64) -> bool {
        let val = state.history.last().map_or(String::new(), |e| match e.val_loss {
            Some(v) => format!(", epoch {}: train {:.4}, val {v:.4}", e.epoch, e.train_loss),
            None => format!(", epoch {}: train {:.4}", e.epoch, e.train_loss),
        });
        self.bar.message(format!("loss {loss:.4}{val}"));
        self.bar.inc();
        stopped()
    }
    fn keep(&mut self, net: &Network, state: &State, best: &Best) -> Result<()> {
        let Some(path) = self.checkpoint else { return Ok(()) };
        if state.finished || !(stopped() || self.saved.is_none_or(|t| t.elapsed() >= SAVE_EVERY)) {
            return Ok(());
        }
        self.card.state = state.clone();
        checkpoint::save(path, &self.card, net, best, self.extra)?;
        self.saved = Some(Instant::now());
        Ok(())
    }
}
