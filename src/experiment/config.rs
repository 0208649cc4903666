/*! What an experiment is made of: typed, serialisable and free of any command line. The flags of `train` and the tables of
`study.toml` both become this, by the same names; [`Default`] is what happens where nothing is said. */

use super::events::{Events, tell};
use crate::data::features_table::FeatureTable;
use crate::data::manifest::TARGETS;
use crate::data::{Alpha, DecodeOptions};
use crate::device::{self, Checks, Device};
use crate::error::{Error, Result, option};
use crate::hash;
use crate::launch::choices::Tiles;
use crate::models::{Architecture, Base, Config, Described, Goal, OutAct, Standardize, Tower, TowerOutput};
use crate::ops::loss::Reduction;
use crate::preprocess::{Crop, Preprocess};
use crate::train::checkpoint;
use crate::train::fit::{AdamForm, Settings, SgdForm, Updates};
use crate::train::network::{Losses, Precision};
use crate::train::params::Initial;
use crate::train::schedule::{Decay, PlateauRule, Threshold};
use crate::weights::{TowerWeights, WeightFile};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Most epochs, updates and repetitions.
pub const MANY: u64 = 1_000_000;

/// Hidden layers of the paper's head.
pub const PAPER: [usize; 3] = [3000, 1000, 500];

/// Units of the hidden layer of [`Layer::BySize`].
pub const SMALL: usize = 64;

/// From so many pictures on [`Layer::BySize`] is that hidden layer. On parts of OASIS ridge had the smaller error with 180 and
/// fewer, the hidden layer with 350 (`src/train/README.md`).
pub const RIDGE_BELOW: usize = 250;

/// What `features` calls no tower at all.
pub const NONE: &str = "none";

/// What the weights of a tower are called that are inside the program.
pub const BUNDLED: &str = "bundled-tower";

/// Everything that a run is made of but its pictures. By default the paper's (Parry & Vuong 2021): three towers, trained end
/// to end from three weight files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Run {
    pub model: Model,
    pub train: Training,
    pub data: Data,
    pub compute: Compute,
}

/// The model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Model {
    /// One network for all targets, or one complete network for each.
    pub architecture: Architecture,
    /// Towers: object, scene and face of the paper, or networks: `resnet101` or, under a name of its own, `mine:resnet101`.
    #[serde(deserialize_with = "separated")]
    pub features: Vec<String>,
    /// Tables of features beside those of frozen towers, `FILE` or `NAME=FILE`. Where no tower is wanted `features` is [`NONE`].
    #[serde(deserialize_with = "list")]
    pub table: Vec<String>,
    /// Instead of `features`: this network alone, with a last layer for the ratings in place of its own.
    pub network: Option<Base>,
    /// Expression classes of the face tower: 5 or 9.
    pub face_classes: usize,
    /// What towers hand to the head; the last that is for a tower, or for all, holds.
    #[serde(deserialize_with = "list")]
    pub tower_output: Vec<OutputOf>,
    /// By tower, what multiplies its features.
    #[serde(deserialize_with = "by_tower")]
    pub scale: BTreeMap<String, f32>,
    /// By tower, the probability to KEEP a hidden unit of the dense layers of a VGG while it is trained.
    #[serde(deserialize_with = "by_tower")]
    pub tower_keep: BTreeMap<String, f32>,
    /// Whether features come to one scale before the head, by the training pictures.
    pub standardize: Choice,
    /// Hidden layers of the head; the paper's, or none of `network`.
    #[serde(deserialize_with = "some")]
    pub head: Option<Vec<Layer>>,
    /// Probability to KEEP a feature on its way to the head while training.
    pub keep_features: f32,
    /// Probability to KEEP a hidden unit of the head while training.
    pub keep: f32,
    pub out_act: OutAct,
    /// Side of the square image in pixels; 224, or that of `network`.
    pub image: Option<usize>,
    /// By tower, the side of a square of its own.
    #[serde(deserialize_with = "by_tower")]
    pub tower_image: BTreeMap<String, usize>,
    /// Towers that see only the face where the manifest has a box, and by how many percent of its sides it is enlarged.
    #[serde(deserialize_with = "by_tower")]
    pub crop: BTreeMap<String, u16>,
    /// Divides the channels of every convolution and the hidden dense layers of the towers.
    pub width: Option<usize>,
    /// By tower, the file of its weights, or [`BUNDLED`].
    #[serde(deserialize_with = "by_tower")]
    pub weights: BTreeMap<String, String>,
    /// Draw parameters that no file gives.
    pub init_missing: bool,
    /// Towers, `all`, or parts of towers (`resnet50.layer1`, `object.conv1*`) that are not trained.
    #[serde(deserialize_with = "separated")]
    pub freeze: Vec<String>,
    /// Preprocessing of towers whose weight file declares none.
    pub preprocess: Option<String>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            architecture: Architecture::Shared,
            features: ["object", "scene", "face"].map(String::from).to_vec(),
            table: vec![],
            network: None,
            face_classes: 5,
            tower_output: vec![],
            scale: BTreeMap::new(),
            tower_keep: BTreeMap::new(),
            standardize: Choice::Auto,
            head: None,
            keep_features: 1.0,
            keep: 0.5,
            out_act: OutAct::Linear,
            image: None,
            tower_image: BTreeMap::new(),
            crop: BTreeMap::new(),
            width: None,
            weights: BTreeMap::new(),
            init_missing: false,
            freeze: vec![],
            preprocess: None,
        }
    }
}

/// An entry of [`Model::head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Layer {
    /// A hidden layer of so many units.
    Width(usize),
    /// Alone: a linear head in closed form, its penalty chosen by inner folds.
    Ridge,
    /// Alone: inner folds choose among ridge, one hidden layer and the paper's head.
    Auto,
    /// Alone: ridge for fewer pictures than [`RIDGE_BELOW`], else one hidden layer of [`SMALL`].
    BySize,
    /// Alone: one layer joins features and ratings.
    None,
}

impl FromStr for Layer {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "ridge" => Ok(Layer::Ridge),
            "auto" => Ok(Layer::Auto),
            "by-size" => Ok(Layer::BySize),
            "none" => Ok(Layer::None),
            _ => {
                let width = text.parse().ok().filter(|n| (1..=MANY as usize).contains(n));
                width
                    .map(Layer::Width)
                    .ok_or_else(|| "widths like 192 or 3000,1000,500, ridge, auto, by-size or none".into())
            }
        }
    }
}

impl From<Layer> for String {
    fn from(layer: Layer) -> Self {
        match layer {
            Layer::Width(n) => n.to_string(),
            Layer::Ridge => "ridge".into(),
            Layer::Auto => "auto".into(),
            Layer::BySize => "by-size".into(),
            Layer::None => "none".into(),
        }
    }
}

/// What a tower hands to the head, or what all do: `softmax`, `face=pooled`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct OutputOf {
    tower: Option<String>,
    output: TowerOutput,
}

impl FromStr for OutputOf {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (tower, output) = match text.split_once('=') {
            Some((tower, output)) => (Some(tower.to_string()), output),
            None => (None, text),
        };
        Ok(Self { tower, output: output.parse()? })
    }
}

impl From<OutputOf> for String {
    fn from(of: OutputOf) -> Self {
        of.tower.map_or(String::new(), |tower| tower + "=") + &of.output.to_string()
    }
}

/// A choice that can be left to the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    #[default]
    Auto,
    Yes,
    MinMax,
    No,
}

/// How a head comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadChoice {
    /// The layers of [`Config::head`] are trained.
    Trained,
    /// It is linear and solved for.
    Ridge,
    /// Inner folds choose.
    Auto,
    /// The number of pictures decides between ridge and the trained layers.
    BySize,
}

/// The training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Training {
    /// Most epochs.
    pub epochs: u32,
    pub batch: usize,
    /// Learning rate.
    pub lr: f64,
    /// What makes updates of gradients: sgd, adam or adamw.
    pub optimizer: Updates,
    /// Of sgd, as the two that follow.
    pub momentum: f32,
    pub nesterov: bool,
    /// Keras's or PyTorch's convention: the two differ once the rate changes.
    pub sgd: SgdForm,
    /// Of adam and adamw: PyTorch's or Keras's convention of where eps is added.
    pub adam: AdamForm,
    /// Of adam and adamw: divides by the largest mean of squares so far.
    pub amsgrad: bool,
    /// With sgd and adam an L2 penalty, with adamw decoupled.
    pub weight_decay: f32,
    /// Epochs without a decrease of the monitored loss after which the rate is divided by ten; 0 keeps it.
    pub plateau: u32,
    /// Fixed schedule, in place of `plateau`: `step:EVERY:FACTOR`, `steps:EPOCH,..:FACTOR`, `cosine[:MIN]`, `inverse:D`.
    pub decay: Option<String>,
    /// Updates over which the rate rises in a line to its first value.
    pub warmup: u32,
    /// Epochs without a decrease of the monitored loss after which training stops; 0 never stops early.
    pub patience: u32,
    /// A decrease by no more than this does not count.
    pub min_delta: f64,
    /// Part of the pictures that is set apart before anything else, never trained on and never monitored.
    pub test: f64,
    /// Part of the training pictures that is held out and monitored; 0 monitors the training loss.
    pub val: f64,
    /// What chooses the best epoch, lowers the rate and stops.
    pub monitor: Monitor,
    /// How numbers are stored between ops and multiplied.
    pub precision: Precision,
    /// Changes each picture a little whenever it is trained on: `rotation=15,shift=0.1,shear=5,zoom=0.1,flip`.
    pub augment: Option<String>,
    /// Decides every random choice.
    pub seed: u64,
    /// By what the errors of the outputs are multiplied in the loss, where there are several kinds; 1 for what is not named.
    #[serde(deserialize_with = "separated")]
    pub loss_weights: Vec<LossWeight>,
    /// Whether a loss is the mean over the pictures of a batch, or the sum.
    pub reduction: Reduction,
    /// Minutes after which a checkpoint is written within an epoch, 0 after every update. No result depends on it.
    pub checkpoint_every: f64,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: 200,
            batch: 25,
            lr: 4e-4,
            optimizer: Updates::Sgd,
            momentum: 0.9,
            nesterov: false,
            sgd: SgdForm::Keras,
            adam: AdamForm::Torch,
            amsgrad: false,
            weight_decay: 0.0,
            plateau: 4,
            decay: None,
            warmup: 0,
            patience: 6,
            min_delta: 0.0,
            test: 0.0,
            val: 0.1,
            monitor: Monitor::Val,
            precision: Precision::default(),
            augment: None,
            seed: 1,
            loss_weights: vec![],
            reduction: Reduction::Mean,
            checkpoint_every: 5.0,
        }
    }
}

/// Which pictures are monitored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Monitor {
    /// A part of those that would be trained on.
    #[default]
    Val,
    /// None but those that are trained on.
    Train,
    /// Those that are tested: a leak.
    Test,
}

/// The weight of one kind of outputs in the loss: `ratings=1`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(into = "String")]
pub struct LossWeight {
    goal: Goal,
    weight: f32,
}

impl FromStr for LossWeight {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let form = || "write ratings=WEIGHT or classes=WEIGHT, as in ratings=1,classes=0.5".to_string();
        let (name, weight) = text.split_once('=').ok_or_else(form)?;
        let goal = match name {
            "ratings" => Goal::Ratings,
            "classes" => Goal::Classes,
            _ => return Err(form()),
        };
        let weight = weight.parse().ok().filter(|w: &f32| *w > 0.0 && w.is_finite());
        Ok(Self { goal, weight: weight.ok_or_else(|| format!("the weight of {name} is a number above 0"))? })
    }
}

impl LossWeight {
    fn name(self) -> &'static str {
        match self.goal {
            Goal::Ratings => "ratings",
            Goal::Classes => "classes",
        }
    }
}

impl From<LossWeight> for String {
    fn from(w: LossWeight) -> Self {
        format!("{}={}", w.name(), w.weight)
    }
}

/// Where the pictures lie while a network is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resident {
    /// On a GPU, if it has room for all of them.
    #[default]
    Auto,
    Yes,
    /// Those of each batch are sent.
    No,
}

/// The pictures, and what is learned of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Data {
    /// Columns of the manifest to predict: valence and arousal, and none where `label` is given alone.
    #[serde(deserialize_with = "some")]
    pub targets: Option<Vec<String>>,
    /// Tell the classes apart that this column names; with `targets` beside the ratings.
    pub label: Option<String>,
    /// Classes of `label` with fewer pictures are left out.
    pub min_count: usize,
    /// What names of `label` mean: a CSV with the columns from and to.
    pub label_map: Option<PathBuf>,
    /// Every class of `label` counts alike in training.
    pub balance: bool,
    /// Leave out pictures that cannot be read.
    pub skip_bad: bool,
    /// Do not turn pictures upright by their EXIF orientation.
    pub ignore_exif: bool,
    /// What to do with transparency.
    pub alpha: Alpha,
    /// Whether all pictures lie on the device while it trains.
    pub resident: Resident,
    /// Folder for resized pictures and features of frozen towers; `cache` in the output folder.
    pub cache: Option<PathBuf>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            targets: None,
            label: None,
            min_count: 2,
            label_map: None,
            balance: false,
            skip_bad: false,
            ignore_exif: false,
            alpha: Alpha::Drop,
            resident: Resident::Auto,
            cache: None,
        }
    }
}

impl Data {
    /// The ratings to predict.
    pub fn targets(&self) -> Vec<String> {
        match (&self.targets, &self.label) {
            (Some(targets), _) => targets.clone(),
            (None, Some(_)) => vec![],
            (None, None) => TARGETS.map(String::from).to_vec(),
        }
    }

    /// How the pictures are read.
    pub fn decode(&self) -> DecodeOptions {
        DecodeOptions { ignore_exif: self.ignore_exif, alpha: self.alpha, ..DecodeOptions::default() }
    }
}

/// Where to compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Compute {
    /// `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:N`, `sim` or `reference`.
    pub device: String,
    /// Threads that compute and that decode; all cores by default.
    pub threads: Option<usize>,
    /// Look for NaN and infinity after every op, and stop at the first one.
    pub check_finite: bool,
}

impl Default for Compute {
    fn default() -> Self {
        Self { device: "auto".into(), threads: None, check_finite: false }
    }
}

impl Compute {
    /// Lets whatever is parallel beside the device, such as decoding, keep to `threads`. To be called before it begins.
    pub fn bind_threads(&self, events: &dyn Events) {
        let Some(n) = self.threads else { return };
        // A pool that is there already stays.
        let made = rayon::ThreadPoolBuilder::new().num_threads(n).build_global().is_ok();
        let cores = std::thread::available_parallelism().map_or(n, usize::from);
        if made && n > cores {
            tell!(events, "note: {n} threads share {cores} cores: results are the same, and later");
        }
    }

    pub fn open(&self, events: &dyn Events) -> Result<Box<dyn Device>> {
        self.open_tiled(None, events)
    }

    /// With other tiles than those that were measured on its kind.
    pub fn open_tiled(&self, tiles: Option<Tiles>, events: &dyn Events) -> Result<Box<dyn Device>> {
        // A CPU computes on the same threads.
        self.bind_threads(events);
        let checks = if self.check_finite { Checks::Finite } else { Checks::None };
        device::open_tiled(&self.device, self.threads, checks, tiles)
    }
}

impl Run {
    /// Refuses what cannot be learned together, before anything is read.
    pub fn check(&self) -> Result<()> {
        self.train.settings()?;
        let (head, label) = (option("head"), option("label"));
        if self.data.label.is_none() {
            return match self.data.label_map {
                None => Ok(()),
                Some(_) => Err(Error::usage(format!("{} is for the names of {label}", option("label-map")))
                    .fix(format!("name their column with {label}"))),
            };
        }
        if matches!(self.model.head()?.0, HeadChoice::Ridge | HeadChoice::Auto) {
            return Err(Error::usage(format!("{head} ridge and {head} auto are for ratings, not for {label}"))
                .fix(format!("name widths in {head}, or {head} none")));
        }
        if !self.data.targets().is_empty() && self.model.architecture == Architecture::Split {
            let split = format!("{} split: ratings and classes share one network", option("architecture"));
            return Err(Error::usage(split).fix(format!("leave it out, or leave out {} or {label}", option("targets"))));
        }
        Ok(())
    }

    /// For small sets of pictures, without any weight file: blocks 4 and 5 of the bundled VGG16, frozen, and one hidden layer,
    /// with the settings of the bundled model (`src/bundled/affect.md`), or ridge for fewer pictures than [`RIDGE_BELOW`];
    /// tested on a fifth of the pictures.
    pub fn bundled() -> Self {
        let blocks = OutputOf { tower: None, output: "block4+block5".parse().expect("blocks of a VGG16") };
        let mut run = Self {
            model: Model {
                features: vec!["object".into()],
                tower_output: vec![blocks],
                freeze: vec!["all".into()],
                head: Some(vec![Layer::BySize]),
                keep_features: 0.5,
                ..Model::default()
            },
            train: Training {
                optimizer: Updates::AdamW,
                lr: 1e-3,
                weight_decay: 0.03,
                epochs: 60,
                batch: 16,
                plateau: 0,
                patience: 0,
                val: 0.0,
                test: 0.2,
                ..Training::default()
            },
            ..Self::default()
        };
        run.model.weights = run.model.bundled_weights();
        run
    }
}

impl Training {
    /// # Errors
    /// A number out of its range, a schedule or ranges of changes that cannot be read, and what does not go together.
    pub fn settings(&self) -> Result<Settings> {
        let ends = |n: usize| (1..=MANY as usize).contains(&n);
        if !ends(self.batch) || !ends(self.epochs as usize) {
            let (batch, epochs) = (option("batch"), option("epochs"));
            return Err(Error::usage(format!("{batch} and {epochs} must be at least 1 and at most {MANY}")));
        }
        for (name, part) in [("val", self.val), ("test", self.test)] {
            if !(0.0..1.0).contains(&part) {
                return Err(Error::usage(format!("{} {part} is not a part from 0 to below 1", option(name))));
            }
        }
        if !(self.min_delta.is_finite() && self.min_delta >= 0.0) {
            return Err(Error::usage(format!("{} {} is not a number from 0", option("min-delta"), self.min_delta)));
        }
        if self.optimizer != Updates::Sgd && self.nesterov {
            return Err(Error::usage(format!("{} is a form of sgd's momentum", option("nesterov")))
                .fix(format!("leave it out, or use {} sgd", option("optimizer"))));
        }
        let adam = matches!(self.optimizer, Updates::Adam | Updates::AdamW);
        let asked = [("amsgrad", self.amsgrad), ("adam", self.adam != AdamForm::Torch)];
        if let Some((name, _)) = asked.into_iter().find(|(_, asked)| *asked && !adam) {
            return Err(Error::usage(format!("{} is a form of Adam", option(name)))
                .fix(format!("leave it out, or use {} adam or adamw", option("optimizer"))));
        }
        self.every()?;
        let decay = self.decay.as_deref().map(|text| Decay::parse(text, self.epochs)).transpose()?;
        let plateau = self.plateau > 0 && decay.is_none();
        let settings = Settings {
            epochs: self.epochs,
            batch: self.batch,
            lr: self.lr,
            plateau: plateau.then(|| PlateauRule {
                wait: self.plateau,
                threshold: Threshold::Abs(self.min_delta),
                ..PlateauRule::keras()
            }),
            decay,
            warmup: self.warmup,
            optimizer: self.optimizer,
            momentum: self.momentum,
            nesterov: self.nesterov,
            form: self.sgd,
            adam: self.adam,
            amsgrad: self.amsgrad,
            weight_decay: self.weight_decay,
            patience: self.patience,
            min_delta: self.min_delta,
            seed: self.seed,
            precision: self.precision,
            augment: self.augment.as_deref().map(str::parse).transpose()?,
            losses: self.losses()?,
        };
        settings.check()?;
        Ok(settings)
    }

    fn losses(&self) -> Result<Losses> {
        let mut losses = Losses { reduction: self.reduction, ..Losses::default() };
        for (i, w) in self.loss_weights.iter().enumerate() {
            if self.loss_weights[..i].iter().any(|other| other.goal == w.goal) {
                return Err(
                    Error::usage(format!("{} names {} twice", option("loss-weights"), w.name())).fix("name each once")
                );
            }
            match w.goal {
                Goal::Ratings => losses.ratings = w.weight,
                Goal::Classes => losses.classes = w.weight,
            }
        }
        Ok(losses)
    }

    /// The time between two checkpoints within an epoch.
    pub fn every(&self) -> Result<Duration> {
        let day = 0.0..=1440.0;
        let wrong = || Error::usage(format!("{} is minutes from 0 to 1440", option("checkpoint-every")));
        day.contains(&self.checkpoint_every)
            .then(|| Duration::from_secs_f64(60.0 * self.checkpoint_every))
            .ok_or_else(wrong)
    }
}

/// A model that can be trained.
pub struct Built {
    pub config: Config,
    /// Where its first weights come from.
    pub initial: Initial,
    /// Towers, and parts of towers, that are not trained.
    pub frozen: Vec<String>,
    pub head: HeadChoice,
}

impl Model {
    /// What `head` asks for, and the hidden layers of the model to begin with.
    pub fn head(&self) -> Result<(HeadChoice, Vec<usize>)> {
        let width = |l: &Layer| if let Layer::Width(n) = l { Some(*n) } else { None };
        let head = match (&self.head, self.network) {
            (Some(head), _) => head.clone(),
            (None, Some(_)) => vec![Layer::None],
            (None, None) => PAPER.map(Layer::Width).to_vec(),
        };
        match (&head[..], head.iter().map(width).collect::<Option<Vec<usize>>>()) {
            (_, Some(widths)) => Ok((HeadChoice::Trained, widths)),
            ([Layer::None], _) => Ok((HeadChoice::Trained, vec![])),
            ([Layer::Ridge], _) => Ok((HeadChoice::Ridge, vec![])),
            ([Layer::Auto], _) => Ok((HeadChoice::Auto, PAPER.to_vec())),
            ([Layer::BySize], _) => Ok((HeadChoice::BySize, vec![SMALL])),
            _ => {
                let head = option("head");
                Err(Error::usage(format!("{head} ridge, auto, by-size and none stand alone"))
                    .fix(format!("or name widths: {head} 3000,1000,500")))
            }
        }
    }

    /// Refuses numbers that are out of their ranges.
    pub fn check(&self) -> Result<()> {
        let wrong = |name: &str, x: &dyn Display, range: &str| {
            Err(Error::usage(format!("{} {x} is not a number {range}", option(name))))
        };
        let keeps = [("keep", self.keep), ("keep-features", self.keep_features)];
        for (name, keep) in self.tower_keep.values().map(|keep| ("tower-keep", *keep)).chain(keeps) {
            if !(keep > 0.0 && keep <= 1.0) {
                return wrong(name, &keep, "above 0 and up to 1");
            }
        }
        let sides = self.tower_image.values().chain(&self.image).map(|side| ("image", *side, 0..=65_535));
        let others = [("width", self.width.unwrap_or(1), 1..=1024), ("face-classes", self.face_classes, 0..=1000)];
        match sides.chain(others).find(|(_, n, range)| !range.contains(n)) {
            Some((name, n, range)) => wrong(name, &n, &format!("from {} to {}", range.start(), range.end())),
            None => Ok(()),
        }
    }

    /// The model, of the sizes that its weight files have.
    ///
    /// # Errors
    /// A number out of its range, a tower or a network that is not there, a weight file that cannot be read or is of another
    /// network.
    pub fn build(&self, targets: &[String], seed: u64) -> Result<Built> {
        self.check()?;
        let width = self.width.unwrap_or(1);
        let none = self.network.is_none() && self.features.iter().any(|f| f == NONE);
        if none && (self.features.len() > 1 || self.table.is_empty()) {
            let (features, table) = (option("features"), option("table"));
            return Err(Error::usage(format!("{features} none stands alone, with a {table}"))
                .fix(format!("name towers, or add {table} FILE")));
        }
        let shown = if none { vec!["object".into()] } else { self.features() };
        let mut config = Config::published(self.architecture, &shown, self.face_classes)?;
        if none {
            config.towers.clear();
        }
        config.tower_output = if self.network.is_some() { TowerOutput::Penultimate } else { TowerOutput::Softmax };
        config.keep_features = self.keep_features;
        let (head, widths) = self.head()?;
        config.head = widths;
        config.keep = vec![self.keep; config.head.len()];
        let side = self.image.or(config.towers.first().and_then(|t| t.image)).unwrap_or(224);
        (config.out_act, config.image, config.targets) = (self.out_act, side, targets.to_vec());
        for t in &mut config.towers {
            t.image = t.image.filter(|_| self.image.is_none());
            t.width = width;
            t.dense.iter_mut().for_each(|d| *d = (*d / width).max(1));
            if let Some(p) = &self.preprocess {
                t.preprocess = Preprocess::preset(p)?;
            }
        }
        let mut initial = Initial::new(seed, self.init_missing);
        for (tower, file) in &self.weights {
            let t = of_option(&mut config.towers, tower, "weights")?;
            let weights = tower_weights(tower, file)?;
            if let Some(described) = Tower::described(&weights)? {
                // The towers of the paper are what their files say; a network that was asked for by its name is that one.
                if t.name == t.base.name() && t.base != described.base {
                    let features = option("features");
                    return Err(Error::file(weights.file.path(), format!("is {}, not {}", described.base, t.base))
                        .fix(format!("name the weights of {}, or add {features} {}", t.base, described.base)));
                }
                *t = Tower { name: t.name.clone(), ..described };
            }
            t.image = weights.image()?.or(t.image);
            match (weights.preprocess(), &self.preprocess) {
                (Ok(p), _) => t.preprocess = p,
                (Err(_), Some(_)) => {}
                (Err(e), None) => return Err(e),
            }
            initial.tower(tower, weights);
        }
        for (tower, side) in &self.tower_image {
            of_option(&mut config.towers, tower, "tower-image")?.image = Some(*side);
        }
        for (tower, margin) in &self.crop {
            of_option(&mut config.towers, tower, "crop")?.crop = Some(Crop { margin: *margin });
        }
        for of in &self.tower_output {
            match &of.tower {
                None => config.tower_output = of.output,
                Some(name) => {
                    of_option(&mut config.towers, name, "tower-output")?.output = Some(of.output);
                }
            }
        }
        for (tower, by) in &self.scale {
            of_option(&mut config.towers, tower, "scale")?.scale = *by;
        }
        for (tower, keep) in &self.tower_keep {
            let tower = of_option(&mut config.towers, tower, "tower-keep")?;
            if tower.dense.is_empty() {
                let problem =
                    format!("{} {}: its network has the dropout of its paper", option("tower-keep"), tower.name);
                return Err(Error::usage(problem).fix("leave it out: only VGGs have dense layers of their own"));
            }
            tower.keep = *keep;
        }
        config.separate_views();
        config.check_sides()?;
        config.check_outputs()?;
        for spec in &self.table {
            let (name, table) = FeatureTable::named(spec)?;
            let (_, sha256) = hash::of_file(&table.file)?;
            config.tables.push(Described { name: name.clone(), columns: table.columns.len(), sha256 });
            initial.tables.push((name, table));
        }
        let frozen = self.frozen()?;
        let trained = !config.towers.iter().all(|t| frozen.contains(&t.name));
        if trained && !config.tables.is_empty() {
            return Err(Error::usage(format!("{} goes beside towers that do not change", option("table")))
                .fix(format!("add {} all", option("freeze"))));
        }
        let probabilities =
            config.tables.is_empty() && config.towers.iter().all(|t| config.output(t) == TowerOutput::Softmax);
        config.standardize = match self.standardize {
            Choice::Auto if probabilities || self.network.is_some() && trained => Standardize::No,
            Choice::Auto | Choice::Yes => Standardize::Yes,
            Choice::MinMax => Standardize::MinMax,
            Choice::No => Standardize::No,
        };
        Ok(Built { config, initial, frozen, head })
    }

    /// What the towers are: their names, and the networks of those that have a name of their own.
    pub fn features(&self) -> Vec<String> {
        self.network.map_or_else(|| self.features.clone(), |network| vec![network.name().into()])
    }

    /// Names of the towers.
    pub fn towers(&self) -> Vec<String> {
        let named = self.features().into_iter().filter(|f| f != NONE);
        named.map(|f| f.split(':').next().unwrap_or_default().to_string()).collect()
    }

    /// The program's own convolutions for every tower.
    pub fn bundled_weights(&self) -> BTreeMap<String, String> {
        self.towers().into_iter().map(|tower| (tower, BUNDLED.to_string())).collect()
    }

    /// Names of the towers, and of parts of towers, that are not trained.
    fn frozen(&self) -> Result<Vec<String>> {
        let towers = self.towers();
        if self.freeze == ["all"] {
            return Ok(towers);
        }
        let of = |scope: &str| towers.iter().any(|t| *t == scope.split('.').next().unwrap_or_default());
        match self.freeze.iter().find(|f| !of(f)) {
            Some(f) => Err(Error::usage(format!("{} {f}: there is no such tower", option("freeze")))
                .fix(format!("choose from {}, or all", towers.join(", ")))),
            None => Ok(self.freeze.clone()),
        }
    }

    /// Refuses a run before anything is decoded if a tower has no weights.
    pub fn check_weights(&self) -> Result<()> {
        let towers = self.towers();
        let missing: Vec<&str> = towers.iter().filter(|t| !self.weights.contains_key(*t)).map(String::as_str).collect();
        if missing.is_empty() || self.init_missing {
            return Ok(());
        }
        let what = |tower: &&str| match *tower {
            "object" => "object=VGG16 trained on ImageNet".into(),
            "scene" => "scene=VGG16 trained on Places365".into(),
            "face" => "face=VGG19 trained on expressions".into(),
            other => format!("{other}=FILE"),
        };
        let files: Vec<String> = missing.iter().map(|t| format!("{} {}", option("weights"), what(t))).collect();
        let s = if missing.len() == 1 { "" } else { "s" };
        Err(Error::usage(format!("no weights for the {} tower{s}", missing.join(", "))).fix(format!(
            "give {} (`weights import` makes such files), {} to draw them at random, or {} bundled, which needs no file",
            files.join(", "),
            option("init-missing"),
            option("preset")
        )))
    }
}

/// The weights of a tower: a file of one, a model that has one of that name, or the program's own.
fn tower_weights(tower: &str, file: &str) -> Result<TowerWeights> {
    if file == BUNDLED && !Path::new(file).exists() {
        let (file, _) = checkpoint::bundled_tower()?.ok_or_else(|| {
            Error::usage("this program was built without the bundled VGG16")
                .fix(format!("name a file with {} TOWER=FILE", option("weights")))
        })?;
        return TowerWeights::new(file);
    }
    let file = WeightFile::open(file)?;
    match file.metadata().contains_key(checkpoint::CARD) {
        true => checkpoint::tower(file, tower),
        false => TowerWeights::new(file),
    }
}

/// The tower of that name, which an option speaks of.
fn of_option<'a>(towers: &'a mut [Tower], name: &str, said: &str) -> Result<&'a mut Tower> {
    let names: Vec<String> = towers.iter().map(|t| t.name.clone()).collect();
    towers.iter_mut().find(|t| t.name == name).ok_or_else(|| {
        Error::usage(format!("{}: there is no tower `{name}`", option(said)))
            .fix(format!("choose from {}", names.join(", ")))
    })
}

/// A setting that each tower may have one of: `TOWER=VALUE` where it is written in one word.
pub trait OfTower: Sized {
    /// How it is written.
    const FORM: &str;
    /// From what stands behind `=`; from nothing where there is none.
    fn read(text: Option<&str>) -> Option<Self>;
}

impl OfTower for String {
    const FORM: &str = "write TOWER=FILE, for example object=vgg16.safetensors";
    fn read(text: Option<&str>) -> Option<Self> {
        text.map(String::from)
    }
}

impl OfTower for f32 {
    const FORM: &str = "write TOWER=FACTOR, for example resnet101=0.75";
    fn read(text: Option<&str>) -> Option<Self> {
        text?.parse().ok().filter(|by: &f32| by.is_finite())
    }
}

impl OfTower for usize {
    const FORM: &str = "write TOWER=PIXELS, for example face=44";
    fn read(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }
}

impl OfTower for u16 {
    const FORM: &str = "write TOWER, or TOWER=PERCENT for a margin: face=20";
    fn read(text: Option<&str>) -> Option<Self> {
        text.unwrap_or("0").parse().ok()
    }
}

/// `TOWER=VALUE` taken apart.
fn of_tower<T: OfTower>(word: &str) -> Option<(String, T)> {
    let (tower, value) = word.split_once('=').map_or((word, None), |(tower, value)| (tower, Some(value)));
    Some((tower.to_string(), T::read(value)?))
}

/// What an option says of towers, by tower.
pub fn of_towers<T: OfTower>(said: &str, words: &[String]) -> Result<BTreeMap<String, T>> {
    let wrong = |word: &String| Error::usage(format!("{} {word}", option(said))).fix(T::FORM);
    words.iter().map(|word| of_tower(word).ok_or_else(|| wrong(word))).collect()
}

/// Texts as a file may have them: one, a list, or one for each tower; numbers count as texts.
struct Texts(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, a number, a list of these, or one for each tower")]
enum Written {
    One(Word),
    Several(Vec<Word>),
    ByTower(BTreeMap<String, Word>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a number")]
enum Word {
    Whole(i64),
    Number(f64),
    Text(String),
}

impl Word {
    fn text(self) -> String {
        match self {
            Word::Whole(n) => n.to_string(),
            Word::Number(x) => x.to_string(),
            Word::Text(text) => text,
        }
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Ok(Self(match Written::deserialize(from)? {
            Written::One(word) => vec![word.text()],
            Written::Several(words) => words.into_iter().map(Word::text).collect(),
            Written::ByTower(words) => words.into_iter().map(|(tower, w)| format!("{tower}={}", w.text())).collect(),
        }))
    }
}

fn list<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> std::result::Result<Vec<T>, D::Error> {
    Texts::deserialize(from)?.0.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

/// A list whose texts may have commas in them, too.
fn separated<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> std::result::Result<Vec<T>, D::Error> {
    let texts = Texts::deserialize(from)?.0;
    let words = texts.iter().flat_map(|text| text.split(','));
    words.map(|word| word.parse().map_err(serde::de::Error::custom)).collect()
}

fn some<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> std::result::Result<Option<Vec<T>>, D::Error> {
    separated(from).map(Some)
}

fn by_tower<'de, D, T>(from: D) -> std::result::Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: OfTower,
{
    let wrong = |word: &String| serde::de::Error::custom(format!("`{word}`: {}", T::FORM));
    Texts::deserialize(from)?.0.iter().map(|word| of_tower(word).ok_or_else(|| wrong(word))).collect()
}
