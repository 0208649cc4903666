//! `demo`: the main job on the bundled photographs, from pretrained weights to a tested model.

use super::Compute;
use super::flags::{Checkpoints, DataFlags, HeadChoice, Monitor, Resident, TrainFlags};
use super::job::{Job, split};
use super::ranges::{MANY, whole};
use super::train::{CHECKPOINT, train};
use crate::bundled;
use crate::data::Alpha;
use crate::error::{Error, Result};
use crate::models::{Architecture, Config, Standardize};
use crate::ops::loss::Reduction;
use crate::report::folder::claim;
use crate::train::fit::{SgdForm, Updates};
use crate::train::folds::Spread;
use crate::train::network::Precision;
use crate::train::params::Initial;
use crate::weights::{TowerWeights, WeightFile};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Command {
    /// Folder for everything the demo leaves.
    #[arg(long, default_value = "demo", value_name = "DIR")]
    out: PathBuf,
    /// Epochs of the pass end to end.
    #[arg(long, value_parser = whole::<u32>(1..=MANY), default_value_t = 2, value_name = "N")]
    epochs: u32,
    /// Side of the square image in pixels, at least 32.
    #[arg(long, value_parser = whole::<usize>(32..=4096), default_value_t = 160, value_name = "PIXELS")]
    image: usize,
    /// A VGG16 to begin with, instead of the bundled one.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Go on from the checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    /// Decides which themes are tested, and every random choice of the training.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    compute: Compute,
}

/// Part of the photographs that is tested: whole themes that are not trained on.
const TEST: f64 = 0.2;

/// Splits by theme on which a head alone is tested, to say how much one split can tell.
const SPLITS: u64 = 10;

/// Convolutions that are not trained: all but those of the last block.
const FROZEN: [&str; 10] =
    ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv4_1", "conv4_2", "conv4_3"];

impl Command {
    pub fn run(self) -> Result<()> {
        let manifest = bundled::unpack(&self.out)?;
        let data = DataFlags {
            targets: None,
            label: None,
            min_count: 1,
            label_map: None,
            balance: false,
            skip_bad: false,
            ignore_exif: false,
            alpha: Alpha::Drop,
            resident: Resident::Auto,
            cache: None,
        };
        remark!("{} photographs of OASIS with their ratings, a VGG16, and a head", bundled::photographs()?.len());
        let head = self.out.join("head.safetensors");
        let (note, typical) = {
            let (config, initial) = self.model()?;
            let frozen = vec![config.towers[0].name.clone()];
            let model = (config, initial, frozen);
            let mut job = Job::load(
                &manifest,
                &self.out,
                model,
                HeadChoice::Trained,
                &self.flags(40, 1e-3),
                &data,
                &self.compute,
            )?;
            let (spread, typical) = self.spread(&mut job)?;
            let alone = self.alone(&mut job, typical, &head)?;
            (format!("{spread} {alone}"), typical)
        };
        remark!("{note}");
        let (config, initial) = self.model()?;
        let frozen = FROZEN.map(|layer| format!("{}.{layer}", config.towers[0].name)).to_vec();
        let model = (config, initial, frozen);
        let flags = self.flags(self.epochs, 2e-5);
        let mut job = Job::load(&manifest, &self.out, model, HeadChoice::Trained, &flags, &data, &self.compute)?;
        let _claim = claim(&self.out)?;
        job.start = Some(WeightFile::open(&head)?);
        remark!("end to end: the head and the last block of the VGG16");
        let notes = vec![
            note,
            "Photographs and ratings: OASIS (Kurdi, Lozano & Banaji 2017), a part of it. NOTICE in this folder says where \
             they come from."
                .into(),
        ];
        let all: Vec<usize> = (0..job.manifest.rows.len()).collect();
        let parts = split(&job.manifest, &all, TEST, typical)?;
        train(&mut job, &self.out, parts, self.resume, "Valence and arousal of photographs".into(), notes)?;
        remark!("next: deep-affect predict --model {} PICTURE", self.out.join(CHECKPOINT).display());
        Ok(())
    }

    /// One tower, its blocks 4 and 5 side by side, and one hidden layer.
    fn model(&self) -> Result<(Config, Initial)> {
        let mut config = Config::published(Architecture::Shared, &["object".into()], 5)?;
        config.tower_output = "block4+block5".parse().map_err(Error::job)?;
        config.standardize = Standardize::Yes;
        (config.head, config.keep, config.keep_features) = (vec![192], vec![0.5], 0.7);
        config.image = self.image;
        config.check_sides()?;
        let file = match &self.weights {
            Some(path) => WeightFile::open(path)?,
            None => {
                let bytes = bundled::tower().ok_or_else(|| {
                    Error::job("this program was built without the bundled VGG16").fix("name one with --weights FILE")
                })?;
                WeightFile::from_static("the bundled VGG16", bytes)?
            }
        };
        let weights = TowerWeights::new(file)?;
        let tower = &mut config.towers[0];
        tower.preprocess = weights.preprocess()?;
        let mut initial = Initial::new(self.seed, false);
        initial.tower(&tower.name, weights);
        Ok((config, initial))
    }

    fn flags(&self, epochs: u32, lr: f64) -> TrainFlags {
        TrainFlags {
            precision: self.precision,
            augment: None,
            epochs,
            batch: 16,
            lr,
            optimizer: Updates::AdamW,
            momentum: 0.9,
            nesterov: false,
            sgd: SgdForm::Keras,
            weight_decay: 0.03,
            plateau: 0,
            decay: None,
            warmup: 0,
            patience: 0,
            min_delta: 0.0,
            test: TEST,
            val: 0.0,
            monitor: Monitor::Val,
            seed: self.seed,
            loss_weights: vec![],
            reduction: Reduction::Mean,
            checkpoints: Checkpoints::default(),
        }
    }

    /// Trains a head on each of several splits by theme and says how well it predicts the other themes. And the seed of the
    /// split that is most like all of them, whose r are nearest to the means: one that is lucky or unlucky shows little.
    fn spread(&self, job: &mut Job) -> Result<(String, u64)> {
        let all: Vec<usize> = (0..job.manifest.rows.len()).collect();
        let mut r: Vec<Vec<Option<f64>>> = vec![vec![]; job.config.targets.len()];
        for s in 0..SPLITS {
            let [rest, test] = split(&job.manifest, &all, TEST, self.seed + s)?;
            let label = format!("split {} of {SPLITS}", s + 1);
            let (mut net, ..) = job.run([&rest, &[]], &label, None, false)?;
            let y = job.predict(&mut net, &test)?.ratings;
            job.recycle(net);
            let m = job.measure(&test, &y, &rest)?;
            r.iter_mut().zip(&m.dimensions).for_each(|(r, d)| r.push(d.model.pearson_r));
        }
        let spreads: Vec<Spread> = r.iter().map(|r| Spread::of(r)).collect();
        let far = |&s: &u64| -> f64 {
            let squares = r.iter().zip(&spreads).map(|(r, all)| Some((r[s as usize]? - all.mean?).powi(2)));
            squares.sum::<Option<f64>>().unwrap_or(f64::INFINITY)
        };
        let typical = (0..SPLITS).min_by(|a, b| far(a).total_cmp(&far(b))).expect("ten splits");
        let of = |(target, s): (&String, &Spread)| match (s.mean, s.sd) {
            (Some(mean), Some(sd)) => format!("{target} {mean:.2} (SD {sd:.2})"),
            _ => format!("{target} undefined"),
        };
        let all: Vec<String> = job.config.targets.iter().zip(&spreads).map(of).collect();
        let note = format!("A head on frozen features, over {SPLITS} splits by theme: test r of {}.", all.join(", "));
        Ok((note, self.seed + typical))
    }

    /// Trains the head that the pass end to end begins with, and says how well it does on its split.
    fn alone(&self, job: &mut Job, typical: u64, path: &std::path::Path) -> Result<String> {
        let all: Vec<usize> = (0..job.manifest.rows.len()).collect();
        let [rest, test] = split(&job.manifest, &all, TEST, typical)?;
        let resume = self.resume && path.exists();
        let (mut net, ..) = job.run([&rest, &[]], "head", Some(path), resume)?;
        let y = job.predict(&mut net, &test)?.ratings;
        job.recycle(net);
        let m = job.measure(&test, &y, &rest)?;
        let of = |d: &crate::train::metrics::Dimension| {
            let r = d.model.pearson_r.map_or("undefined".into(), |r| format!("{r:.2}"));
            format!("{} r {r}, MSE {:.2} (training mean {:.2})", d.name, d.model.mse, d.baseline.mse)
        };
        let all: Vec<String> = m.dimensions.iter().map(of).collect();
        Ok(format!(
            "On the split most like all, the one below, before the last block was trained too: {}.",
            all.join("; ")
        ))
    }
}
