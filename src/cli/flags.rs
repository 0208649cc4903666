//! Flags of the commands that train: the model, the training, the data.

use super::Compute;
use super::preset::Preset;
use super::ranges::{MANY, number, whole};
use crate::data::Alpha;
use crate::error::{Error, Result};
use crate::experiment::config::{
    Choice, Data, Layer, LossWeight, Model, Monitor, OutputOf, Resident, Run, Training, of_towers,
};
use crate::models::{Architecture, Base, OutAct};
use crate::ops::loss::Reduction;
use crate::train::fit::{AdamForm, SgdForm, Updates};
use crate::train::network::Precision;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

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
    /// objects:resnet101; `none` leaves the features of --table.
    #[arg(long, value_delimiter = ',', default_value = "object,scene,face", value_name = "NAMES")]
    pub features: Vec<String>,
    /// Features that were computed before (see `features`), laid beside those of frozen towers, or alone where no tower is
    /// named: safetensors, a CSV with a column path, or .npy with a row for each of the manifest's. NAME= before a file
    /// begins the names of its columns; repeatable.
    #[arg(long, value_name = "[NAME=]FILE")]
    pub table: Vec<String>,
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
    /// paper's 3000,1000,500, which is the default; or `by-size`, ridge below 250 pictures and one hidden layer of 64 from there
    /// on; `none` joins features and ratings by one layer.
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
    /// Of adam and adamw.
    #[arg(long, value_enum, default_value_t = AdamForm::Torch, value_name = "FORM")]
    pub adam: AdamForm,
    /// Of adam and adamw: divide by the largest mean of squares so far (Reddi, Kale & Kumar 2018).
    #[arg(long)]
    pub amsgrad: bool,
    /// With sgd and adam an L2 penalty: D times the weights is added to the gradient, whatever --sgd says, as PyTorch's weight_decay
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
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
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
    #[arg(long, value_delimiter = ',', value_name = "OUTPUTS=WEIGHT")]
    pub loss_weights: Vec<LossWeight>,
    /// Whether a loss is the mean over the pictures of a batch, and of ratings over these too, or the sum: with sum the rate
    /// means that of one picture.
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub reduction: Reduction,
    #[command(flatten)]
    pub checkpoints: Checkpoints,
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

impl Checkpoints {
    /// The time between two within an epoch.
    pub fn every(self) -> Duration {
        Duration::from_secs_f64(60.0 * self.checkpoint_every)
    }
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

impl TryFrom<RunFlags> for Run {
    type Error = Error;

    fn try_from(flags: RunFlags) -> Result<Self> {
        let RunFlags { preset: _, model, train, data, compute } = flags;
        Ok(Self { model: model.try_into()?, train: train.into(), data: data.into(), compute: compute.into() })
    }
}

impl TryFrom<ModelFlags> for Model {
    type Error = Error;

    fn try_from(f: ModelFlags) -> Result<Self> {
        Ok(Self {
            architecture: f.architecture,
            features: f.features,
            table: f.table,
            network: f.network,
            face_classes: f.face_classes,
            tower_output: f.tower_output,
            scale: of_towers("scale", &f.scale)?,
            tower_keep: of_towers("tower-keep", &f.tower_keep)?,
            standardize: f.standardize,
            head: f.head,
            keep_features: f.keep_features,
            keep: f.keep,
            out_act: f.out_act,
            image: f.image,
            tower_image: of_towers("tower-image", &f.tower_image)?,
            crop: of_towers("crop", &f.crop)?,
            width: f.width,
            weights: of_towers("weights", &f.weights)?,
            init_missing: f.init_missing,
            freeze: f.freeze,
            preprocess: f.preprocess,
        })
    }
}

impl From<TrainFlags> for Training {
    fn from(f: TrainFlags) -> Self {
        Self {
            epochs: f.epochs,
            batch: f.batch,
            lr: f.lr,
            optimizer: f.optimizer,
            momentum: f.momentum,
            nesterov: f.nesterov,
            adam: f.adam,
            amsgrad: f.amsgrad,
            sgd: f.sgd,
            weight_decay: f.weight_decay,
            plateau: f.plateau,
            decay: f.decay,
            warmup: f.warmup,
            patience: f.patience,
            min_delta: f.min_delta,
            test: f.test,
            val: f.val,
            monitor: f.monitor,
            precision: f.precision,
            augment: f.augment,
            seed: f.seed,
            loss_weights: f.loss_weights,
            reduction: f.reduction,
            checkpoint_every: f.checkpoints.checkpoint_every,
        }
    }
}

impl From<DataFlags> for Data {
    fn from(f: DataFlags) -> Self {
        Self {
            targets: f.targets,
            label: f.label,
            min_count: f.min_count,
            label_map: f.label_map,
            balance: f.balance,
            skip_bad: f.skip_bad,
            ignore_exif: f.ignore_exif,
            alpha: f.alpha,
            resident: f.resident,
            cache: f.cache,
        }
    }
}
