//! `pretrain`: one tower as a classifier, saved as a weight file for `train --weights`.

use super::job::{load_pictures, split};
use super::{Bar, Compute, output, stopped};
use crate::data::{Alpha, DecodeOptions, LoadOptions, Manifest};
use crate::error::{Error, Result};
use crate::models::{TOWER, Tower};
use crate::ops::optim::Sgd;
use crate::preprocess::Preprocess;
use crate::progress::Progress;
use crate::report::folder::prepare;
use crate::train::fit::{self, Inputs, Samples, Settings, State, Targets, Watch};
use crate::train::network::{Method, Network, Precision, Task};
use crate::train::params::Initial;
use crate::train::schedule::PlateauRule;
use crate::weights::init::Rule;
use crate::weights::write::{Entry, write};
use crate::weights::{CLASSES, IMAGE, LAYOUT, PREPROCESS, TowerWeights};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures with a column of class names.
    manifest: PathBuf,
    /// Column of class names; rows where it is empty are left out.
    #[arg(long, value_name = "COLUMN")]
    label: String,
    /// Which tower: object (VGG16), scene (VGG16) or face (VGG19).
    #[arg(long, value_name = "NAME")]
    tower: String,
    /// The weight file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Classes with fewer pictures are left out.
    #[arg(long, default_value_t = 8, value_name = "N")]
    min_count: usize,
    /// Every class counts alike, however many pictures it has.
    #[arg(long)]
    balance: bool,
    /// Divides the channels of every convolution.
    #[arg(long, default_value_t = 1, value_name = "N")]
    width: usize,
    /// Hidden dense layers; the published ones by default.
    #[arg(long, value_delimiter = ',', value_name = "WIDTHS")]
    dense: Option<Vec<usize>>,
    /// Probability to keep a hidden dense unit while training.
    #[arg(long, value_name = "P")]
    keep: Option<f32>,
    /// Side of the square image in pixels.
    #[arg(long, default_value_t = 224, value_name = "PIXELS")]
    image: usize,
    /// Preprocessing: keras, torch, caffe-places, unit, fer2013.
    #[arg(long, default_value = "unit", value_name = "NAME")]
    preprocess: String,
    /// How the first weights are drawn.
    #[arg(long, value_enum, default_value_t = Rule::He)]
    init: Rule,
    /// Begin from these weights; what the file lacks is drawn.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    #[arg(long, default_value_t = 60, value_name = "N")]
    epochs: u32,
    #[arg(long, default_value_t = 25, value_name = "N")]
    batch: usize,
    #[arg(long, default_value_t = 0.01, value_name = "RATE")]
    lr: f64,
    /// Epochs without a decrease of the monitored loss after which training stops.
    #[arg(long, default_value_t = 8, value_name = "N")]
    patience: u32,
    /// Part of the pictures that is set apart, as `train --test` with the same seed sets it apart.
    #[arg(long, default_value_t = 0.0, value_name = "PART")]
    test: f64,
    #[arg(long, default_value_t = 0.1, value_name = "PART")]
    val: f64,
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// What to do with transparency: drop it, or lay drawings over white.
    #[arg(long, value_enum, default_value_t = Alpha::Drop)]
    alpha: Alpha,
    #[arg(long)]
    skip_bad: bool,
    /// How numbers are stored between ops.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    compute: Compute,
}

impl Command {
    pub fn run(self) -> Result<()> {
        self.compute.bind_threads();
        let settings = Settings {
            epochs: self.epochs,
            batch: self.batch.max(1),
            lr: self.lr,
            plateau: Some(PlateauRule::keras()),
            patience: self.patience,
            seed: self.seed,
            precision: self.precision,
            ..Settings::default()
        };
        let folder = match self.out.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => std::path::Path::new("."),
        };
        prepare(folder)?;
        let manifest = Manifest::read(&self.manifest, &[])?;
        let labels = manifest.labels(&self.label)?;
        // The test part is taken from all rows, so that it is the one `train` takes, whatever the labels.
        let all: Vec<usize> = (0..manifest.rows.len()).collect();
        let [rest, test] = split(&manifest, &all, self.test, self.seed)?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        labels.iter().flatten().for_each(|l| *counts.entry(l).or_default() += 1);
        let classes: Vec<&str> = counts.iter().filter(|c| *c.1 >= self.min_count).map(|c| *c.0).collect();
        if classes.len() < 2 {
            return Err(Error::file(
                &self.manifest,
                format!("fewer than two classes with {} pictures", self.min_count),
            )
            .at(format!("column {}", self.label))
            .fix("lower --min-count or name another column"));
        }
        let class = |i: &usize| labels[*i].as_deref().and_then(|l| classes.binary_search(&l).ok());
        let usable: Vec<usize> = all.iter().copied().filter(|i| class(i).is_some()).collect();
        let mut tower = Tower::published(&self.tower, classes.len())?;
        (tower.width, tower.classes) = (self.width.max(1), classes.len());
        tower.preprocess = Preprocess::preset(&self.preprocess)?;
        tower.dense = self.dense.clone().unwrap_or(tower.dense);
        tower.keep = self.keep.unwrap_or(tower.keep);
        tower.check_side(self.image)?;
        let options = LoadOptions {
            views: vec![tower.preprocess.view(self.image)],
            decode: DecodeOptions { alpha: self.alpha, ..DecodeOptions::default() },
            cache_dir: None,
        };
        let bar = Bar::new();
        let (kept, pictures) = load_pictures(&manifest.select(&usable), &options, self.skip_bad, folder, &bar)?;
        let origin: Vec<usize> = pictures.rows().iter().map(|&r| usable[r]).collect();
        let y: Vec<i32> = origin.iter().map(|i| class(i).expect("usable") as i32).collect();
        let within = |rows: &[usize]| -> Vec<usize> {
            (0..origin.len()).filter(|&i| rows.binary_search(&origin[i]).is_ok()).collect()
        };
        let test = within(&test);
        let [train, val] = split(&kept, &within(&rest), self.val, self.seed)?;
        let size = |c: i32| train.iter().filter(|&&i| y[i] == c).count().max(1);
        let even = train.len() as f32 / classes.len() as f32;
        let weight = y.iter().map(|&c| if self.balance { even / size(c) as f32 } else { 1.0 }).collect();
        let samples = Samples { inputs: Inputs::Pictures(&pictures), targets: Targets::Labels(y.clone()), weight };

        let mut initial = Initial::new(self.seed, true);
        initial.rule = self.init;
        if let Some(file) = &self.weights {
            initial.tower(&self.tower, TowerWeights::open(file)?);
        }
        let task = Task::Tower { tower: tower.clone(), image: self.image };
        let sgd = Sgd { form: settings.form.into(), nesterov: false, dampening: 0.0 };
        let mut net = Network::new(
            &task,
            settings.batch,
            Method { precision: settings.precision, ..sgd.into() },
            self.compute.open()?,
        )?;
        initial.check(&net.session, &[""], &[tower.clone()], true)?;
        let params = net.stored();
        initial.fill(&mut net.session, &params, "", &[])?;
        let mut state = State::new(&settings, 1)?;
        bar.start("pretrain", settings.epochs as u64 * train.len().div_ceil(settings.batch) as u64);
        let mut watch = Watcher { bar: &bar };
        let result = fit::fit(&mut net, &samples, [&train, &val], &settings, &mut state, &mut vec![], &mut watch);
        bar.done();
        result?;

        let mut report = format!("{} classes, {} epochs\n", classes.len(), state.epoch);
        for (name, rows) in [("training", &train), ("monitored", &val), ("test", &test)] {
            if let Some([all, mean]) = accuracy(&mut net, &samples, rows, &y)? {
                let n = rows.len();
                report.push_str(&format!("{name:>10}: {n:4} pictures, {all:.1} % right, {mean:.1} % over classes\n"));
            }
        }
        save(&self.out, &net, (&tower, self.image), &classes)?;
        output::print(&report)?;
        eprintln!("wrote {}", self.out.display());
        Ok(())
    }
}

/// Rows whose largest score is their class, in percent: of all rows, and the mean over classes; None for no rows.
fn accuracy(net: &mut Network, samples: &Samples, rows: &[usize], y: &[i32]) -> Result<Option<[f64; 2]>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let scores = fit::outputs(net, samples, rows)?.remove(0);
    let classes = scores.len() / rows.len();
    let best = |s: &[f32]| (0..s.len()).max_by(|&a, &b| s[a].total_cmp(&s[b])).unwrap_or(0);
    let mut counts = vec![[0.0; 2]; classes];
    for (&i, s) in rows.iter().zip(scores.chunks_exact(classes)) {
        let class = y[i] as usize;
        counts[class][0] += 1.0;
        counts[class][1] += f64::from(u8::from(best(s) == class));
    }
    let right: f64 = counts.iter().map(|c| c[1]).sum();
    let seen: Vec<f64> = counts.iter().filter(|c| c[0] > 0.0).map(|c| c[1] / c[0]).collect();
    Ok(Some([100.0 * right / rows.len() as f64, 100.0 * seen.iter().sum::<f64>() / seen.len() as f64]))
}

/// Writes the tower under its own names.
fn save(path: &std::path::Path, net: &Network, (tower, image): (&Tower, usize), classes: &[&str]) -> Result<()> {
    let prefix = format!("{}.", tower.name);
    let mut tensors = vec![];
    for v in net.stored() {
        let g = &net.session.graph;
        let name = g.name(v).strip_prefix(&prefix).expect("a parameter of the tower");
        tensors.push((name.to_string(), g.dims(v).to_vec(), net.session.read(v)?));
    }
    let entries: Vec<Entry> = tensors.iter().map(|(n, s, x)| Entry::f32(n, s, x)).collect();
    let metadata = BTreeMap::from([
        (LAYOUT.to_string(), "KRSC".to_string()),
        (PREPROCESS.to_string(), json(&tower.preprocess)),
        (IMAGE.to_string(), image.to_string()),
        (TOWER.to_string(), json(tower)),
        (CLASSES.to_string(), json(&classes)),
    ]);
    write(path, &metadata, &entries)
}

fn json(x: &impl serde::Serialize) -> String {
    serde_json::to_string(x).expect("plain data")
}

struct Watcher<'a> {
    bar: &'a Bar,
}

impl Watch for Watcher<'_> {
    fn step(&mut self, state: &State, _: u32, loss: f64) -> bool {
        if let Some(e) = state.history.last() {
            let val = e.val_loss.map_or(String::new(), |v| format!(", val {v:.3}"));
            self.bar.message(format!("loss {loss:.3}, epoch {}: train {:.3}{val}", e.epoch, e.train_loss));
        }
        self.bar.inc();
        stopped()
    }
}
