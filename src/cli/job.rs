//! What `train`, `cross-validate` and `demo` share: pictures, towers, one training run.

use super::flags::{DataFlags, Resident, RunFlags, TrainFlags};
use super::{Bar, Compute, stopped};
use crate::data::{Alpha, DecodeOptions, LoadOptions, Manifest, Pictures, folds};
use crate::device::{Data, Device};
use crate::error::{Error, Result};
use crate::hash;
use crate::models::{Config, STATISTICS, TowerOutput};
use crate::ops::optim::Sgd;
use crate::progress::Progress;
use crate::report::folder::prepare;
use crate::train::checkpoint::{self, Card, Stored};
use crate::train::features::{self, Extracted};
use crate::train::fit::{self, Best, Inputs, Samples, Settings, State, Targets, Watch};
use crate::train::network::{Blueprint, Method, Network, Task};
use crate::train::params::Initial;
use crate::weights::WeightFile;
use std::path::Path;
use std::time::{Duration, Instant};

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
    resident: Resident,
    device: Option<Box<dyn Device>>,
    pub device_name: String,
    compute: Compute,
}

impl Job {
    /// [`Job::load`] with the model that the flags describe.
    pub fn of_flags(manifest: &Path, out: &Path, f: &RunFlags) -> Result<Self> {
        let model = f.model.model(&f.data.targets, f.train.seed)?;
        Self::load(manifest, out, model, &f.train, &f.data, &f.compute)
    }

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
        compute.bind_threads();
        let settings = train.settings()?;
        if config.towers.iter().all(|t| frozen.contains(&t.name)) {
            let what = [(settings.augment.is_some(), "--augment"), (data.resident == Resident::Yes, "--resident yes")];
            if let Some((_, flag)) = what.into_iter().find(|w| w.0) {
                return Err(Error::usage(format!(
                    "{flag}: all towers are frozen, so pictures are looked at only once"
                ))
                .fix(format!("train a tower, or leave out {flag}")));
            }
        }
        let targets: Vec<&str> = data.targets.iter().map(String::as_str).collect();
        let manifest = Manifest::read(manifest, &targets)?;
        prepare(out)?;
        let cache = data.cache.clone().unwrap_or_else(|| out.join("cache"));
        let bar = Bar::new();
        let options = LoadOptions {
            views: config.views(),
            decode: DecodeOptions { ignore_exif: data.ignore_exif, alpha: data.alpha, ..DecodeOptions::default() },
            cache_dir: Some(cache.clone()),
        };
        let (manifest, pictures) = load_pictures(&manifest, &options, data.skip_bad, out, &bar)?;
        for remark in initial.remarks(&config, &pictures)? {
            eprintln!("warning: {remark}");
        }
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
            resident: data.resident,
            device: Some(device),
            device_name,
            compute: compute.clone(),
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
    pub fn fingerprint(&self, [train, val]: [&[usize]; 2]) -> String {
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
        let method = Method { precision: s.precision, augment: s.augment, ..sgd.into() };
        let device = self.device.take().expect("a device between runs");
        let task = self.task();
        let method = Method { resident: self.resident(&task, method, &*device), ..method };
        let mut net = Network::new(&task, s.batch, method, device)?;
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
            tower_classes: self.initial.class_names(),
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
                // More epochs may be asked for, and another precision; everything else must be as it was.
                let (epochs, precision) = (s.epochs, s.precision);
                if (Settings { epochs, precision, ..old.settings.clone() }) != s || old.task != card.task {
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
                    let pooled = self.config.tower_output != TowerOutput::Softmax;
                    self.initial.check(&net.session, &prefixes, &self.config.towers, pooled)?;
                }
                let params = net.stored();
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

    /// How many pictures are to lie on the device: all, if that was asked for or if it has memory of its own for them.
    fn resident(&self, task: &Task, method: Method, device: &dyn Device) -> Option<usize> {
        let all = Some(self.pictures.len());
        let there = || Blueprint::new(task, self.settings.batch, Method { resident: all, ..method });
        let kept = match self.resident {
            Resident::No => false,
            Resident::Yes => true,
            Resident::Auto => device.own_memory().is_some() && there().is_ok_and(|b| b.fits(device).is_ok()),
        };
        if kept {
            let size = self.pictures.bytes().len().div_ceil(1 << 20);
            eprintln!("all {} pictures ({size} MiB) lie on the device", self.pictures.len());
        }
        all.filter(|_| kept)
    }

    /// Writes the statistics of the features over the training rows. Towers that are trained have no features yet: those
    /// of a sample of pictures, through the initial weights, stand for them.
    fn standardize(&self, net: &mut Network, train: &[usize]) -> Result<()> {
        /// Pictures that stand for all of them.
        const SAMPLE: usize = 64;
        let sampled;
        let (members, rows): (&[features::Rows], Vec<usize>) = match &self.extracted {
            Some(e) => (&e.members, train.to_vec()),
            None => {
                let rows: Vec<usize> = train.iter().copied().step_by(train.len().div_ceil(SAMPLE)).collect();
                let device = self.compute.open()?;
                let extracted =
                    features::extract(&self.config, &self.initial, &self.pictures, &rows, 4, device, &Bar::new())?;
                sampled = extracted.0;
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
