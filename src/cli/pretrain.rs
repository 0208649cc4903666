//! `pretrain`: one tower as a classifier, saved as a weight file for `train --weights`.

use super::classifier::{Classifier, Origin, TowerFlags, fits, weights};
use super::flags::Checkpoints;
use super::job::split;
use super::ranges::{MANY, number, whole};
use super::{Compute, output};
use crate::atomic;
use crate::data::Manifest;
use crate::error::{Error, Result};
use crate::report::folder::{claim_file, prepare};
use crate::train::fit::Settings;
use crate::train::network::Precision;
use crate::train::params::Initial;
use crate::train::schedule::PlateauRule;
use crate::train::stored::Stored;
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Command {
    /// Manifest of pictures with a column of class names.
    manifest: PathBuf,
    /// Column of class names; rows where it is empty are left out.
    #[arg(long, value_name = "COLUMN")]
    label: String,
    /// Which tower: object (VGG16), scene (VGG16), face (VGG19), or a network by its name.
    #[arg(long, value_name = "NAME")]
    tower: String,
    /// The weight file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Go on from OUT.checkpoint, which a run that was stopped or killed left.
    #[arg(long)]
    resume: bool,
    /// Classes with fewer pictures are left out.
    #[arg(long, value_parser = whole::<usize>(0..=1_000_000_000), default_value_t = 8, value_name = "N")]
    min_count: usize,
    /// Begin from these weights; what the file lacks is drawn.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    #[arg(long, value_parser = whole::<u32>(0..=MANY), default_value_t = 60, value_name = "N")]
    epochs: u32,
    #[arg(long, value_parser = whole::<usize>(0..=MANY), default_value_t = 25, value_name = "N")]
    batch: usize,
    #[arg(long, value_parser = number::<f64>(0.0, 1e6), default_value_t = 0.01, value_name = "RATE")]
    lr: f64,
    /// Epochs without a decrease of the monitored loss after which training stops.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), default_value_t = 8, value_name = "N")]
    patience: u32,
    /// Part of the pictures that is set apart, as `train --test` with the same seed sets it apart.
    #[arg(long, value_parser = number::<f64>(0.0, 1.0), default_value_t = 0.0, value_name = "PART")]
    test: f64,
    #[arg(long, value_parser = number::<f64>(0.0, 1.0), default_value_t = 0.1, value_name = "PART")]
    val: f64,
    /// Changes each picture a little whenever it is trained on, as `train --augment` does.
    #[arg(long, value_name = "RANGES")]
    augment: Option<String>,
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    checkpoints: Checkpoints,
    #[command(flatten)]
    network: TowerFlags,
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
            augment: self.augment.as_deref().map(str::parse).transpose()?,
            ..Settings::default()
        };
        settings.check()?;
        let folder = self.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        prepare(folder)?;
        let _claim = claim_file(&self.out)?;
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
        let class = |i: usize| labels[i].as_deref().and_then(|l| classes.binary_search(&l).ok());
        let (usable, y): (Vec<usize>, Vec<usize>) = all.iter().filter_map(|&i| Some((i, class(i)?))).unzip();
        let file = weights(self.weights.as_deref())?;
        let tower = self.network.tower(&self.tower, classes.len(), file.as_ref())?;
        if let Some(file) = &file {
            fits(&tower, file)?;
        }
        let mut initial = Initial::new(self.seed, true);
        file.into_iter().for_each(|f| initial.tower(&self.tower, f));
        let origin = Origin {
            manifest: &manifest.select(&usable),
            y: &y,
            classes: classes.iter().map(|c| c.to_string()).collect(),
            tower,
            initial,
            settings,
            out: folder,
            cache: None,
            every: self.checkpoints.every(),
        };
        let mut job = Classifier::load(origin, &self.network, &self.compute)?;
        let [rest, test] = [rest, test].map(|rows| {
            let kept = (0..usable.len()).filter(|&i| rows.binary_search(&usable[i]).is_ok());
            job.within(&kept.collect::<Vec<_>>())
        });
        let [train, val] = split(&job.manifest, &rest, self.val, self.seed)?;
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
        output::print(&report)?;
        remark!("wrote {}", self.out.display());
        Ok(())
    }
}
