//! The main job on the bundled photographs, from pretrained weights to a tested model.

use super::Output;
use super::config::{BUNDLED, Built, Choice, Compute, Data, Layer, Model, Run, Training};
use super::events::tell;
use super::listed::Listed;
use super::run::{Job, split};
use super::train::{Trained, train};
use crate::bundled;
use crate::error::Result;
use crate::report::folder::claim;
use crate::train::fit::Updates;
use crate::train::folds::Spread;
use crate::train::network::Precision;
use crate::weights::WeightFile;
use std::path::{Path, PathBuf};

/// The demonstration: first a head on frozen features, then that head and the last block of the VGG16.
pub struct Demo {
    /// Epochs of the pass end to end.
    pub epochs: u32,
    /// Side of the square image in pixels.
    pub image: usize,
    /// A VGG16 to begin with, instead of the bundled one.
    pub weights: Option<PathBuf>,
    /// Go on from the checkpoint in the output folder.
    pub resume: bool,
    pub seed: u64,
    pub precision: Precision,
    pub compute: Compute,
    pub output: Output,
}

/// Part of the photographs that is tested: whole themes that are not trained on.
const TEST: f64 = 0.2;

/// Splits by theme on which a head alone is tested, to say how much one split can tell.
const SPLITS: u64 = 10;

/// Convolutions that are not trained: all but those of the last block.
const FROZEN: [&str; 10] = [
    "object.conv1_1",
    "object.conv1_2",
    "object.conv2_1",
    "object.conv2_2",
    "object.conv3_1",
    "object.conv3_2",
    "object.conv3_3",
    "object.conv4_1",
    "object.conv4_2",
    "object.conv4_3",
];

impl Demo {
    pub fn run(&self) -> Result<Trained> {
        let (out, events) = (&self.output.folder, &*self.output.events);
        let manifest = bundled::unpack(out)?;
        tell!(events, "{} photographs of OASIS with their ratings, a VGG16, and a head", bundled::photographs()?.len());
        let head = out.join("head.safetensors");
        let (note, typical) = {
            let mut job = self.load(&manifest, &self.configuration(&["all"], 40, 1e-3))?;
            let (spread, typical) = self.spread(&mut job)?;
            let alone = self.alone(&mut job, typical, &head)?;
            (format!("{spread} {alone}"), typical)
        };
        tell!(events, "{note}");
        let mut job = self.load(&manifest, &self.configuration(&FROZEN, self.epochs, 2e-5))?;
        let _claim = claim(out)?;
        job.start = Some(WeightFile::open(&head)?);
        tell!(events, "end to end: the head and the last block of the VGG16");
        let notes = vec![
            note,
            "Photographs and ratings: OASIS (Kurdi, Lozano & Banaji 2017), a part of it. NOTICE in this folder says where \
             they come from."
                .into(),
        ];
        let all: Vec<usize> = (0..job.manifest.rows.len()).collect();
        let parts = split(&job.manifest, &all, TEST, typical)?;
        train(&mut job, &self.output, parts, self.resume, "Valence and arousal of photographs".into(), notes)
    }

    /// One tower, its blocks 4 and 5 side by side, and one hidden layer.
    fn configuration(&self, freeze: &[&str], epochs: u32, lr: f64) -> Run {
        let file = self.weights.as_ref().map_or(BUNDLED.into(), |path| path.display().to_string());
        Run {
            model: Model {
                features: vec!["object".into()],
                weights: [("object".into(), file)].into(),
                tower_output: vec!["block4+block5".parse().expect("blocks of a VGG16")],
                freeze: freeze.iter().map(|scope| scope.to_string()).collect(),
                standardize: Choice::Yes,
                head: Some(vec![Layer::Width(192)]),
                keep: 0.5,
                keep_features: 0.7,
                image: Some(self.image),
                ..Model::default()
            },
            train: Training {
                epochs,
                batch: 16,
                lr,
                optimizer: Updates::AdamW,
                weight_decay: 0.03,
                plateau: 0,
                patience: 0,
                test: TEST,
                val: 0.0,
                seed: self.seed,
                precision: self.precision,
                ..Training::default()
            },
            data: Data::default(),
            compute: self.compute.clone(),
        }
    }

    fn load(&self, manifest: &Path, run: &Run) -> Result<Job> {
        let built: Built = run.model.build(&run.data.targets(), run.train.seed)?;
        let listed = Listed::read(manifest, &run.data, &*self.output.events)?;
        Job::load(listed, built, &run.train, &run.data, &run.compute, &self.output)
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
    fn alone(&self, job: &mut Job, typical: u64, path: &Path) -> Result<String> {
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
