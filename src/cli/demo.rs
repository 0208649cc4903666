//! `demo`: the main job on the bundled set.

use super::Compute;
use super::flags::{DataFlags, HeadChoice, Resident, TrainFlags};
use super::job::Job;
use super::train::train;
use crate::bundled;
use crate::data::Alpha;
use crate::error::{Error, Result};
use crate::models::{Architecture, Config, OutAct, Tower, TowerOutput};
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
    /// Most epochs.
    #[arg(long, default_value_t = 12, value_name = "N")]
    epochs: u32,
    /// Go on from the checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    compute: Compute,
}

/// Part of the emoji that is never trained on; the bundled towers were made without them too.
pub const TEST: f64 = 0.2;

impl Command {
    pub fn run(self) -> Result<()> {
        let manifest = bundled::unpack(&self.out.join("emoji"))?;
        let (config, initial) = model(self.seed)?;
        let flags = TrainFlags {
            precision: self.precision,
            augment: None,
            epochs: self.epochs,
            batch: 25,
            lr: 0.03,
            optimizer: crate::train::fit::Updates::Sgd,
            momentum: 0.9,
            nesterov: false,
            sgd: crate::train::fit::SgdForm::Keras,
            weight_decay: 0.0,
            plateau: 4,
            decay: None,
            warmup: 0,
            patience: 6,
            test: TEST,
            val: 0.1,
            seed: self.seed,
        };
        let data = DataFlags {
            targets: config.targets.clone(),
            skip_bad: false,
            ignore_exif: false,
            alpha: Alpha::White,
            resident: Resident::Auto,
            cache: None,
        };
        eprintln!("the main job on {} drawings of emoji, rated by how people use them", bundled::emoji()?.len());
        let model = (config, initial, vec![]);
        let mut job = Job::load(&manifest, &self.out, model, HeadChoice::Trained, &flags, &data, &self.compute)?;
        let notes = vec![
            "A demonstration on drawings: valence is the sentiment of the tweets an emoji was used in, intensity how \
             rarely that use was neutral. Nothing here was rated as arousal, and the model knows no photographs."
                .into(),
            "Drawings: Twemoji (CC BY 4.0) and Noto Emoji (Apache 2.0); labels: Emoji Sentiment Ranking (CC BY-SA 4.0). \
             See emoji/NOTICE in this folder."
                .into(),
        ];
        let title = "Deep Affect in miniature".into();
        train(&mut job, &self.out, TEST, self.resume, title, notes)?;
        eprintln!("next: deep-affect predict --model {} PICTURE", self.out.join(super::train::CHECKPOINT).display());
        Ok(())
    }
}

/// The fused network at an eighth of its width on 64x64 pixels, its towers from the bundled files.
pub fn model(seed: u64) -> Result<(Config, Initial)> {
    let mut initial = Initial::new(seed, false);
    let mut towers = vec![];
    for (name, bytes) in bundled::towers() {
        let weights = TowerWeights::new(WeightFile::from_static(&format!("bundled {name} tower"), bytes)?)?;
        let tower = Tower::described(&weights)?
            .ok_or_else(|| Error::job(format!("the bundled {name} tower is undescribed")))?;
        towers.push(tower);
        initial.tower(name, weights);
    }
    let config = Config {
        architecture: Architecture::Shared,
        towers,
        tower_output: TowerOutput::Softmax,
        standardize: false,
        head: vec![256, 128, 64],
        keep_features: 1.0,
        keep: vec![0.9; 3],
        out_act: OutAct::Linear,
        image: 64,
        targets: vec!["valence".into(), "intensity".into()],
    };
    Ok((config, initial))
}
