//! Flags of the commands that train: the model, the training, the data.

use super::Compute;
use super::preset::{BUNDLED, Preset};
use super::ranges::{MANY, number, whole};
use crate::data::Alpha;
use crate::data::manifest::TARGETS;
use crate::error::{Error, Result};
use crate::models::{Architecture, Base, Config, Goal, OutAct, Standardize, Tower, TowerOutput};
use crate::ops::loss::Reduction;
use crate::preprocess::{Crop, Preprocess};
use crate::train::checkpoint;
use crate::train::fit::{Settings, SgdForm, Updates};
use crate::train::network::{Losses, Precision};
use crate::train::params::Initial;
use crate::train::schedule::{Decay, PlateauRule, Threshold};
use crate::weights::{TowerWeights, WeightFile};
use clap::Args;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Hidden layers of the paper's head.
pub const PAPER: [usize; 3] = [3000, 1000, 500];

/// Everything that a run of the fused model is made of.
#[derive(Args, Clone, Debug)]
pub struct RunFlags {
    /// Defaults of the flags below.
    #[arg(long, value_enum, value_name = "DEFAULTS")]
    pub preset: Option<Preset>,
    #[command(flatten)]
    pub model: ModelFlags,
    #[command(flatten)]
    pub train: TrainFlags,
    #[command(flatten)]
    pub data: DataFlags,
    #[command(flatten)]
    pub compute: Compute,
}

/// The model.
#[derive(Args, Clone, Debug)]
pub struct ModelFlags {
    /// One network for all targets, or one complete network for each.
    #[arg(long, value_enum, default_value_t = Architecture::Shared)]
    pub architecture: Architecture,
    /// Towers to use: object, scene and face of the paper, or networks by name, as in resnet101 or, under a name of its own,
    /// objects:resnet101.
    #[arg(long, value_delimiter = ',', default_value = "object,scene,face", value_name = "NAMES")]
    pub features: Vec<String>,
    /// This network alone, with a last layer for the ratings in place of its own: `--features NAME --tower-output penultimate
    /// --head none --standardize no`, on the square that it was published with.
    #[arg(long, value_name = "NAME", conflicts_with = "features")]
    pub network: Option<Base>,
    /// Expression classes of the face tower: 5, or 9 with surprise, disgust, contempt and neutral.
    #[arg(long, value_parser = whole::<usize>(0..=1000), default_value_t = 5, value_name = "N")]
    pub face_classes: usize,
    /// What towers hand to the head: softmax (class probabilities, the default), penultimate (what the last dense layer
    /// reads), pooled (the last convolution averaged over the image, for towers without dense layers), and of VGGs block1 to
    /// block5 (the same of a block) or several, as in block4+block5. TOWER=OUTPUT is for one tower; repeatable.
    #[arg(long, value_name = "OUTPUT")]
    pub tower_output: Vec<OutputOf>,
    /// Multiplies what a tower hands to the head: α and 1 - α join two networks by a convex combination; repeatable.
    #[arg(long, value_name = "TOWER=FACTOR")]
    pub scale: Vec<String>,
    /// Probability to KEEP a hidden unit of the dense layers of a VGG while it is trained; repeatable. Of the scene tower 0.5
    /// by default, of the other towers of the paper 1, of --network 0.5.
    #[arg(long, value_name = "TOWER=P")]
    pub tower_keep: Vec<String>,
    /// Whether features come to one scale before the head, by the training pictures: yes takes their mean from them and
    /// divides by their deviation, minmax brings their range to 0 to 1. By default yes, but for class probabilities, and for
    /// --network where it is trained.
    #[arg(long, value_enum, default_value_t = Choice::Auto, value_name = "WHETHER")]
    pub standardize: Choice,
    /// Hidden layers of the head. On frozen towers also `ridge`, a linear head in closed form, its penalty chosen by inner
    /// folds of the pictures that are trained on; or `auto`, chosen so among ridge, one hidden layer of 192 and the
    /// paper's 3000,1000,500, which is the default; `none` joins features and ratings by one layer.
    #[arg(long, value_delimiter = ',', value_name = "WIDTHS")]
    pub head: Option<Vec<Layer>>,
    /// Probability to KEEP a feature on its way to the head while training; 1 is no dropout.
    #[arg(long, value_parser = number::<f32>(0.0, 1.0), default_value_t = 1.0, value_name = "P")]
    pub keep_features: f32,
    /// Probability to KEEP a hidden unit of the head while training; 1 is no dropout.
    #[arg(long, value_parser = number::<f32>(0.0, 1.0), default_value_t = 0.5, value_name = "P")]
    pub keep: f32,
    /// Activation of the output layer.
    #[arg(long, value_enum, default_value_t = OutAct::Linear)]
    pub out_act: OutAct,
    /// Side of the square image in pixels, at least 32; 224 by default.
    #[arg(long, value_parser = whole::<usize>(0..=65_535), value_name = "PIXELS")]
    pub image: Option<usize>,
    /// The same for one tower, which then gets a square of its own; repeatable: `--tower-image face=44`. By default
    /// what its weight file states, else --image.
    #[arg(long, value_name = "TOWER=PIXELS")]
    pub tower_image: Vec<String>,
    /// This tower sees only the face where the manifest has a box around it (columns face_x, face_y, face_width and
    /// face_height, in pixels of the upright picture): enlarged, and with =PERCENT so much of its sides around it;
    /// repeatable. Other pictures it sees whole. By default what its weight file states.
    #[arg(long, value_name = "TOWER[=PERCENT]")]
    pub crop: Vec<String>,
    /// Divides the channels of every convolution and the hidden dense layers of the towers: for small experiments.
    /// 1 by default.
    #[arg(long, value_parser = whole::<usize>(0..=1024), value_name = "N")]
    pub width: Option<usize>,
    /// Weights of a tower; repeatable: `--weights object=vgg16.safetensors`. A model of `train` gives its tower of that name.
    /// `bundled-tower` is the program's own VGG16, without
    /// dense layers.
    #[arg(long = "weights", value_name = "TOWER=FILE")]
    pub weights: Vec<String>,
    /// Draw parameters that no file gives (Glorot uniform, seeded).
    #[arg(long)]
    pub init_missing: bool,
    /// Towers that are not trained: names, or `all`, or parts of one: `resnet50.layer1` and all below it, `object.conv1*`
    /// and all that begins so. When all towers are frozen their features are computed once.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub freeze: Vec<String>,
    /// Preprocessing of towers whose weight file does not state one: keras, torch, caffe-places, unit,
    /// fer2013.
    #[arg(long, value_name = "NAME")]
    pub preprocess: Option<String>,
}

/// What `--head` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Width(usize),
    Ridge,
    Auto,
    None,
}

/// What a tower hands to the head, or what all do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputOf {
    tower: Option<String>,
    output: TowerOutput,
}

impl From<TowerOutput> for OutputOf {
    fn from(output: TowerOutput) -> Self {
        Self { tower: None, output }
    }
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

/// A choice that can be left to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    Auto,
    Yes,
    #[value(name = "minmax")]
    MinMax,
    No,
}

impl FromStr for Layer {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "ridge" => Ok(Layer::Ridge),
            "auto" => Ok(Layer::Auto),
            "none" => Ok(Layer::None),
            _ => {
                let width = text.parse().ok().filter(|n| (1..=MANY as usize).contains(n));
                width.map(Layer::Width).ok_or_else(|| "widths like 192 or 3000,1000,500, ridge, auto or none".into())
            }
        }
    }
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
}

/// The training.
#[derive(Args, Clone, Debug)]
pub struct TrainFlags {
    /// Most epochs.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), default_value_t = 200, value_name = "N")]
    pub epochs: u32,
    #[arg(long, value_parser = whole::<usize>(0..=MANY), default_value_t = 25, value_name = "N")]
    pub batch: usize,
    /// Learning rate.
    #[arg(long, value_parser = number::<f64>(0.0, 1e6), default_value_t = 4e-4, value_name = "RATE")]
    pub lr: f64,
    /// What makes updates of gradients. Small heads on frozen towers do well with adamw, --lr 1e-3 and --weight-decay .03.
    #[arg(long, value_enum, default_value_t = Updates::Sgd, value_name = "RULE")]
    pub optimizer: Updates,
    /// Of sgd.
    #[arg(long, value_parser = number::<f32>(0.0, 1.0), default_value_t = 0.9, value_name = "M")]
    pub momentum: f32,
    /// Of sgd.
    #[arg(long)]
    pub nesterov: bool,
    /// SGD convention (Keras or PyTorch): the two differ once the rate changes.
    #[arg(long, value_enum, default_value_t = SgdForm::Keras)]
    pub sgd: SgdForm,
    /// With sgd an L2 penalty: D times the weights is added to the gradient, whatever --sgd says, as PyTorch's weight_decay
    /// does and a kernel_regularizer of L2(D/2) in Keras. With adamw decoupled, as the weight_decay of Keras's optimisers
    /// is: the rate times D times the weights is taken from the weights.
    #[arg(long, value_parser = number::<f32>(0.0, 1e6), default_value_t = 0.0, value_name = "D")]
    pub weight_decay: f32,
    /// Epochs without a decrease of the monitored loss after which the rate is divided by ten (not below 6e-6); 0 keeps it.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), default_value_t = 4, value_name = "N")]
    pub plateau: u32,
    /// Fixed schedule; replaces --plateau: step:EVERY:FACTOR or steps:EPOCH,EPOCH,..:FACTOR multiply it by FACTOR every so
    /// many epochs or after those, cosine[:MIN] ends at MIN (or 0) after --epochs, inverse:D divides by 1 + D x updates.
    #[arg(long, value_name = "DECAY", conflicts_with = "plateau")]
    pub decay: Option<String>,
    /// Updates over which the rate rises in a line to its first value.
    #[arg(long, value_parser = whole::<u32>(0..=1_000_000_000), default_value_t = 0, value_name = "N")]
    pub warmup: u32,
    /// Epochs without a decrease of the monitored loss after which training stops; 0 never stops early.
    #[arg(long, value_parser = whole::<u32>(0..=MANY), default_value_t = 6, value_name = "N")]
    pub patience: u32,
    /// A decrease of the monitored loss by no more than this does not count, for --patience and --plateau: the min_delta of
    /// Keras, which is 1e-4 by default in its ReduceLROnPlateau.
    #[arg(long, value_parser = number::<f64>(0.0, 1e6), default_value_t = 0.0, value_name = "D")]
    pub min_delta: f64,
    /// Part of the pictures that is set apart before anything else, never trained on and never monitored; groups stay
    /// together. The report then shows these.
    #[arg(long, value_parser = number::<f64>(0.0, 1.0), default_value_t = 0.0, value_name = "PART")]
    pub test: f64,
    /// Part of the training pictures that is held out and monitored; 0 monitors the training loss.
    #[arg(long, value_parser = number::<f64>(0.0, 1.0), default_value_t = 0.1, value_name = "PART")]
    pub val: f64,
    /// What chooses the best epoch, lowers the rate and stops: the loss of the part --val, of the training itself, or of the
    /// test pictures, as papers without a third part do. The last is a leak, which every report then names.
    #[arg(long, value_enum, default_value_t, value_name = "PART")]
    pub monitor: Monitor,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores, with weights and their updates in float32.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    pub precision: Precision,
    /// Changes each picture a little whenever it is trained on, by RANGES like rotation=15,shift=0.1,shear=5,zoom=0.1,flip:
    /// turned and sheared by at most so many degrees, shifted by at most such a part of its side (shift-x and shift-y for one
    /// direction), zoomed by 1 - zoom to 1 + zoom in either direction, mirrored left to right (flip) or upside down
    /// (flip-y) half of the time. Pixels at the edge go on outside. Off by default.
    #[arg(long, value_name = "RANGES")]
    pub augment: Option<String>,
    /// Decides every random choice: initial weights, order, masks, folds, augmentation.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// By what the errors of the outputs are multiplied in the loss, where there are several kinds: ratings=1,classes=0.5; 1
    /// for what is not named. Ratings have the squared error, classes the cross-entropy.
    #[arg(long, value_delimiter = ',', value_name = "OUTPUTS=WEIGHT", value_parser = loss_weight)]
    pub loss_weights: Vec<LossWeight>,
    /// Whether a loss is the mean over the pictures of a batch, and of ratings over these too, or the sum: with sum the rate
    /// means that of one picture.
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub reduction: Reduction,
    #[command(flatten)]
    pub checkpoints: Checkpoints,
}

/// Which pictures are monitored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Monitor {
    /// A part of those that would be trained on.
    #[default]
    Val,
    /// None but those that are trained on.
    Train,
    /// Those that are tested: a leak.
    Test,
}

/// What a part of `--loss-weights` says: of which outputs, and by what.
pub type LossWeight = (Goal, f32);

fn loss_weight(text: &str) -> std::result::Result<LossWeight, String> {
    let form = || "write ratings=WEIGHT or classes=WEIGHT, as in ratings=1,classes=0.5".to_string();
    let (name, weight) = text.split_once('=').ok_or_else(form)?;
    let goal = match name {
        "ratings" => Goal::Ratings,
        "classes" => Goal::Classes,
        _ => return Err(form()),
    };
    let weight = weight.parse().ok().filter(|w: &f32| *w > 0.0 && w.is_finite());
    Ok((goal, weight.ok_or_else(|| format!("the weight of {name} is a number above 0"))?))
}

/// When checkpoints are written.
#[derive(Args, Clone, Copy, Debug)]
pub struct Checkpoints {
    /// Minutes after which a checkpoint is written within an epoch, 0 after every update; at the end of an epoch one is
    /// written after half a minute. No result depends on it.
    #[arg(long, value_parser = minutes, default_value_t = MINUTES, value_name = "MINUTES")]
    checkpoint_every: f64,
}

const MINUTES: f64 = 5.0;

fn minutes(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|m| (0.0..=1440.0).contains(m)).ok_or_else(|| "minutes from 0 to 1440".into())
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { checkpoint_every: MINUTES }
    }
}

impl Checkpoints {
    /// The time between two within an epoch.
    pub fn every(self) -> Duration {
        Duration::from_secs_f64(60.0 * self.checkpoint_every)
    }
}

/// Where the pictures lie while a network is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Resident {
    /// On a GPU, if it has room for all of them.
    Auto,
    Yes,
    /// Those of each batch are sent.
    No,
}

/// The data.
#[derive(Args, Clone, Debug)]
pub struct DataFlags {
    /// Columns of the manifest to predict: valence,arousal by default, and none by default where --label is given.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub targets: Option<Vec<String>>,
    /// Tell the classes apart that this column names; rows where it is empty are left out. With --targets beside the ratings,
    /// by a last layer of its own on the same network.
    #[arg(long, value_name = "COLUMN")]
    pub label: Option<String>,
    /// Classes of --label with fewer pictures are left out.
    #[arg(long, value_parser = whole::<usize>(1..=1_000_000_000), default_value_t = 2, value_name = "N")]
    pub min_count: usize,
    /// What names of --label mean: a CSV with the columns from and to. Other names stay as they are.
    #[arg(long, value_name = "FILE")]
    pub label_map: Option<PathBuf>,
    /// Every class of --label counts alike in training, however many pictures it has: so do its pictures in every loss.
    #[arg(long)]
    pub balance: bool,
    /// Leave out pictures that cannot be read instead of stopping before the first step.
    #[arg(long)]
    pub skip_bad: bool,
    /// Do not turn pictures upright by their EXIF orientation.
    #[arg(long)]
    pub ignore_exif: bool,
    /// What to do with transparency: drop it (as the published networks' pipelines do), or lay drawings over white.
    #[arg(long, value_enum, default_value_t = Alpha::Drop)]
    pub alpha: Alpha,
    /// Whether all pictures lie on the device while it trains, instead of being sent batch by batch.
    #[arg(long, value_enum, default_value_t = Resident::Auto)]
    pub resident: Resident,
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
        if !(self.min_delta.is_finite() && self.min_delta >= 0.0) {
            return Err(Error::usage(format!("--min-delta {} is not a number from 0", self.min_delta)));
        }
        if self.optimizer != Updates::Sgd && self.nesterov {
            return Err(
                Error::usage("--nesterov is a form of sgd's momentum").fix("leave it out, or use --optimizer sgd")
            );
        }
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
}

impl TrainFlags {
    fn losses(&self) -> Result<Losses> {
        let mut losses = Losses { reduction: self.reduction, ..Losses::default() };
        for (i, &(goal, weight)) in self.loss_weights.iter().enumerate() {
            let (name, to) = match goal {
                Goal::Ratings => ("ratings", &mut losses.ratings),
                Goal::Classes => ("classes", &mut losses.classes),
            };
            if self.loss_weights[..i].iter().any(|w| w.0 == goal) {
                return Err(Error::usage(format!("--loss-weights names {name} twice")).fix("name each once"));
            }
            *to = weight;
        }
        Ok(losses)
    }
}

impl DataFlags {
    /// The ratings to predict.
    pub fn targets(&self) -> Vec<String> {
        match (&self.targets, &self.label) {
            (Some(targets), _) => targets.clone(),
            (None, Some(_)) => vec![],
            (None, None) => TARGETS.map(String::from).to_vec(),
        }
    }
}

impl ModelFlags {
    /// What `--head` asks for, and the hidden layers of the model to begin with.
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
            _ => Err(Error::usage("--head ridge, --head auto and --head none stand alone")
                .fix("or name widths: --head 3000,1000,500")),
        }
    }

    /// The model, where its first weights come from, and the towers that are not trained.
    pub fn model(&self, targets: &[String], seed: u64) -> Result<(Config, Initial, Vec<String>)> {
        let width = self.width.unwrap_or(1);
        if width == 0 || ![self.keep, self.keep_features].iter().all(|keep| *keep > 0.0 && *keep <= 1.0) {
            return Err(Error::usage("--width must be at least 1, --keep and --keep-features in (0, 1]"));
        }
        let mut config = Config::published(self.architecture, &self.features(), self.face_classes)?;
        config.tower_output = if self.network.is_some() { TowerOutput::Penultimate } else { TowerOutput::Softmax };
        config.keep_features = self.keep_features;
        config.head = self.head()?.1;
        config.keep = vec![self.keep; config.head.len()];
        let side = self.image.or(config.towers[0].image).unwrap_or(224);
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
        for spec in &self.weights {
            let Some((tower, file)) = spec.split_once('=') else {
                return Err(Error::usage(format!("--weights {spec}"))
                    .fix("write TOWER=FILE, for example object=vgg16.safetensors"));
            };
            let t = named(&mut config.towers, tower, &format!("--weights {spec}"))?;
            let weights = tower_weights(tower, file)?;
            if let Some(described) = Tower::described(&weights)? {
                // The towers of the paper are what their files say; a network that was asked for by its name is that one.
                if t.name == t.base.name() && t.base != described.base {
                    return Err(Error::file(weights.file.path(), format!("is {}, not {}", described.base, t.base))
                        .fix(format!("name the weights of {}, or add --features {}", t.base, described.base)));
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
        for spec in &self.tower_image {
            let pair = spec.split_once('=').and_then(|(tower, side)| Some((tower, side.parse().ok()?)));
            let (tower, side) = pair.ok_or_else(|| {
                Error::usage(format!("--tower-image {spec}")).fix("write TOWER=PIXELS, for example face=44")
            })?;
            named(&mut config.towers, tower, &format!("--tower-image {spec}"))?.image = Some(side);
        }
        for spec in &self.crop {
            let (tower, margin) = spec.split_once('=').unwrap_or((spec, "0"));
            let margin = margin.parse().map_err(|_| {
                Error::usage(format!("--crop {spec}")).fix("write TOWER, or TOWER=PERCENT for a margin: face=20")
            })?;
            named(&mut config.towers, tower, &format!("--crop {spec}"))?.crop = Some(Crop { margin });
        }
        for spec in &self.tower_output {
            match &spec.tower {
                None => config.tower_output = spec.output,
                Some(name) => {
                    named(&mut config.towers, name, &format!("--tower-output {name}="))?.output = Some(spec.output);
                }
            }
        }
        for spec in &self.scale {
            let pair = spec.split_once('=').and_then(|(tower, by)| Some((tower, by.parse::<f32>().ok()?)));
            let (tower, by) = pair.filter(|(_, by)| by.is_finite()).ok_or_else(|| {
                Error::usage(format!("--scale {spec}")).fix("write TOWER=FACTOR, for example resnet101=0.75")
            })?;
            named(&mut config.towers, tower, &format!("--scale {spec}"))?.scale = by;
        }
        for spec in &self.tower_keep {
            let pair = spec.split_once('=').and_then(|(tower, keep)| Some((tower, keep.parse::<f32>().ok()?)));
            let (tower, keep) = pair.filter(|(_, keep)| *keep > 0.0 && *keep <= 1.0).ok_or_else(|| {
                Error::usage(format!("--tower-keep {spec}")).fix("write TOWER=P with P above 0 and up to 1: face=0.5")
            })?;
            let tower = named(&mut config.towers, tower, &format!("--tower-keep {spec}"))?;
            if tower.dense.is_empty() {
                return Err(Error::usage(format!("--tower-keep {spec}: its network has the dropout of its paper"))
                    .fix("leave it out: only VGGs have dense layers of their own"));
            }
            tower.keep = keep;
        }
        config.separate_views();
        config.check_sides()?;
        config.check_outputs()?;
        let frozen = self.frozen()?;
        let trained = !config.towers.iter().all(|t| frozen.contains(&t.name));
        let probabilities = config.towers.iter().all(|t| config.output(t) == TowerOutput::Softmax);
        config.standardize = match self.standardize {
            Choice::Auto if probabilities || self.network.is_some() && trained => Standardize::No,
            Choice::Auto | Choice::Yes => Standardize::Yes,
            Choice::MinMax => Standardize::MinMax,
            Choice::No => Standardize::No,
        };
        Ok((config, initial, frozen))
    }

    /// What the towers are: their names, and the networks of those that have a name of their own.
    pub fn features(&self) -> Vec<String> {
        self.network.map_or_else(|| self.features.clone(), |network| vec![network.name().into()])
    }

    /// Names of the towers.
    pub fn towers(&self) -> Vec<String> {
        self.features().iter().map(|f| f.split(':').next().unwrap_or_default().to_string()).collect()
    }

    /// Names of the towers, and of parts of towers, that are not trained.
    fn frozen(&self) -> Result<Vec<String>> {
        let towers = self.towers();
        if self.freeze == ["all"] {
            return Ok(towers);
        }
        let of = |scope: &str| towers.iter().any(|t| *t == scope.split('.').next().unwrap_or_default());
        match self.freeze.iter().find(|f| !of(f)) {
            Some(f) => Err(Error::usage(format!("--freeze {f}: there is no such tower"))
                .fix(format!("choose from {}, or all", towers.join(", ")))),
            None => Ok(self.freeze.clone()),
        }
    }
}

/// The weights of a tower: a file of one, a model that has one of that name, or the program's own.
fn tower_weights(tower: &str, file: &str) -> Result<TowerWeights> {
    if file == BUNDLED && !Path::new(file).exists() {
        return bundled();
    }
    let file = WeightFile::open(file)?;
    match file.metadata().contains_key(checkpoint::CARD) {
        true => checkpoint::tower(file, tower),
        false => TowerWeights::new(file),
    }
}

/// The weights of the program's own tower.
fn bundled() -> Result<TowerWeights> {
    let (file, _) = checkpoint::bundled_tower()?.ok_or_else(|| {
        Error::usage("this program was built without the bundled VGG16").fix("name a file with --weights TOWER=FILE")
    })?;
    TowerWeights::new(file)
}

/// The tower of that name.
fn named<'a>(towers: &'a mut [Tower], name: &str, flag: &str) -> Result<&'a mut Tower> {
    let names: Vec<String> = towers.iter().map(|t| t.name.clone()).collect();
    towers.iter_mut().find(|t| t.name == name).ok_or_else(|| {
        Error::usage(format!("{flag}: there is no tower `{name}`")).fix(format!("choose from {}", names.join(", ")))
    })
}
