/*! A tower: a network as a source of features, on its own or beside others. */

use super::vgg::{self, Blocks, VGG11, VGG13, VGG16, VGG19, hidden, vgg};
use super::{Body, Network, Size, find};
use crate::error::{Error, Result, option};
use crate::graph::{Graph, Value};
use crate::nn::{Mode, Net};
use crate::preprocess::{Crop, Preprocess, View};
use crate::shape::{DType, Type};
use crate::weights::TowerWeights;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::str::FromStr;

/// What a tower hands to the head. In files and on the command line: `softmax`, `penultimate`, `pooled`, `block4+block5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TowerOutput {
    /// Class probabilities.
    Softmax,
    /// What its last dense layer reads: the network as it was published, with another last layer.
    Penultimate,
    /// The output of the last convolution of each of these blocks, averaged over the image, side by side from the first
    /// block to the last. Early blocks tell textures, late ones things. Networks other than VGGs have the last alone.
    Pooled(Stages),
}

/// Some of a network's five blocks, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages([bool; 5]);

impl Stages {
    /// Indices of the blocks, from 0, in order.
    pub fn indices(self) -> impl DoubleEndedIterator<Item = usize> {
        (0..5).filter(move |i| self.0[*i])
    }

    /// Index of the last one.
    fn last(self) -> usize {
        self.indices().next_back().expect("at least one block")
    }
}

impl TowerOutput {
    /// The last feature map of the network alone.
    pub const POOLED: Self = TowerOutput::Pooled(Stages([false, false, false, false, true]));
}

impl FromStr for TowerOutput {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "softmax" => return Ok(TowerOutput::Softmax),
            "penultimate" => return Ok(TowerOutput::Penultimate),
            _ => {}
        }
        let mut stages = [false; 5];
        for name in text.split('+') {
            let number = if name == "pooled" { Some("5") } else { name.strip_prefix("block") };
            let block = number.and_then(|n| n.parse::<usize>().ok()).filter(|n| (1..=5).contains(n));
            match block {
                Some(n) if !stages[n - 1] => stages[n - 1] = true,
                Some(n) => return Err(format!("block {n} is named twice")),
                None => {
                    return Err(format!(
                        "`{name}` is not softmax, penultimate, pooled or block1 to block5, joined by + as in block4+block5"
                    ));
                }
            }
        }
        Ok(TowerOutput::Pooled(Stages(stages)))
    }
}

impl std::fmt::Display for TowerOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            TowerOutput::Softmax => f.write_str("softmax"),
            TowerOutput::Penultimate => f.write_str("penultimate"),
            pooled if *pooled == TowerOutput::POOLED => f.write_str("pooled"),
            TowerOutput::Pooled(stages) => {
                let names: Vec<String> = stages.indices().map(|i| format!("block{}", i + 1)).collect();
                f.write_str(&names.join("+"))
            }
        }
    }
}

impl TryFrom<String> for TowerOutput {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<TowerOutput> for String {
    fn from(output: TowerOutput) -> Self {
        output.to_string()
    }
}

/// The network of a tower, by its name: any of [`super::ALL`] that is one network on one image. Of a VGG the widths of the
/// dense layers are the tower's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base(&'static str);

impl Base {
    pub const VGG16: Self = Base("vgg16");
    pub const VGG19: Self = Base("vgg19");
    pub const VGG16_BN: Self = Base("vgg16-bn");
    pub const VGG19_BN: Self = Base("vgg19-bn");

    pub fn name(self) -> &'static str {
        self.0
    }

    /// Its table.
    pub fn network(self) -> &'static Network {
        find(self.0).expect("a base is made of a network's name")
    }

    /// Channels and convolutions of its blocks, and whether a batch norm follows each convolution, if it is a VGG.
    fn vgg(self) -> Option<(&'static Blocks, bool)> {
        let blocks = match self.0.strip_suffix("-bn").unwrap_or(self.0) {
            "vgg11" => &VGG11,
            "vgg13" => &VGG13,
            "vgg16" => &VGG16,
            "vgg19" => &VGG19,
            _ => return None,
        };
        Some((blocks, self.0.ends_with("-bn")))
    }

    /// Whether it is a VGG with batch norm.
    pub fn norm(self) -> bool {
        self.vgg().is_some_and(|v| v.1)
    }
}

impl FromStr for Base {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match find(name) {
            Ok(n) if n.name != "deep-affect" => Ok(Base(n.name)),
            _ => {
                let names: Vec<&str> = super::ALL.iter().map(|n| n.name).filter(|n| *n != "deep-affect").collect();
                Err(format!("there is no network `{name}`; choose one of {}", names.join(", ")))
            }
        }
    }
}

impl Serialize for Base {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// Largest side of a tower's image in pixels: a square of it has 48 MiB.
const LARGEST_SIDE: usize = 4096;

/// One feature extractor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tower {
    /// `object`, `scene`, `face` or the name of its network: the scope of its parameters.
    pub name: String,
    pub base: Base,
    /// Divides the published channel counts; 1 is the published network.
    pub width: usize,
    /// Hidden dense layers of a VGG; other networks have those of their paper.
    pub dense: Vec<usize>,
    pub classes: usize,
    /// The dense layers of a VGG read the last feature map averaged over the image, instead of flattened: global average
    /// pooling.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub average: bool,
    /// Keep probability after each hidden dense layer of a VGG; 1 is no dropout.
    pub keep: f32,
    /// L2 penalty on the convolutions of a VGG.
    pub l2: f32,
    pub preprocess: Preprocess,
    /// Side in pixels of the square that is made for this tower, by its own rule. None: it looks at what the model's
    /// towers share, [`super::Config::image`] pixels by the rule of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<usize>,
    /// Of photographs with a box around a face it sees only that, enlarged (the paper's Figure 8, future work there).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// What it hands to the head, where that is not [`super::Config::tower_output`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<TowerOutput>,
    /// By what its features are multiplied on their way to the head: a convex combination of two networks is α and 1 - α
    /// (Rapolu et al., section 3.1).
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub scale: f32,
}

fn whole() -> f32 {
    1.0
}

fn is_whole(scale: &f32) -> bool {
    *scale == whole()
}

/// Metadata key of a tower file: JSON of [`Tower`].
pub const TOWER: &str = "tower";

impl Tower {
    /// The tower that a file of `pretrain` describes in its header, if it does.
    pub fn described(weights: &TowerWeights) -> Result<Option<Self>> {
        let Some(text) = weights.file.metadata().get(TOWER) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|e| {
            Error::file(weights.file.path(), format!("its description of the tower cannot be read: {e}")).at("header")
        })
    }

    /// The published tower of that name: object (VGG16, 1000 ImageNet classes), scene (VGG16-Places365, whose Keras
    /// model trains with L2 0.0002 on the convolutions and dropout), face (VGG19 with 2048-1024-512), or a network of
    /// [`super::ALL`] as [`Tower::of`] makes it.
    pub fn published(name: &str, face_classes: usize) -> Result<Self> {
        let tower = |base, dense: &[usize], classes, keep, l2, preset| Self {
            name: name.into(),
            dense: dense.to_vec(),
            classes,
            keep,
            l2,
            preprocess: Preprocess::preset(preset).expect("a preset of ours"),
            image: None,
            ..Self::of(base)
        };
        match name {
            "object" => Ok(tower(Base::VGG16, &[4096, 4096], 1000, 1.0, 0.0, "keras")),
            "scene" => Ok(tower(Base::VGG16, &[4096, 4096], 365, 0.5, 2e-4, "caffe-places")),
            "face" => Ok(tower(Base::VGG19, &[2048, 1024, 512], face_classes, 1.0, 0.0, "keras")),
            _ => Self::named(name).ok_or_else(|| {
                Error::usage(format!("unknown feature `{name}`"))
                    .fix(format!("choose from object, scene, face, or a network: {}", super::names()))
            }),
        }
    }

    /// `resnet101`, or `objects:resnet101` under a name of its own.
    fn named(text: &str) -> Option<Self> {
        let (name, network) = text.split_once(':').unwrap_or((text, text));
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let tower = Self::of(network.parse().ok().filter(|_| plain)?);
        Some(Self { name: name.into(), ..tower })
    }

    /// A network as it was published, on the image that it was published with.
    pub fn of(base: Base) -> Self {
        let network = base.network();
        Self {
            name: base.name().into(),
            base,
            width: 1,
            dense: if base.vgg().is_some() { vgg::HIDDEN.to_vec() } else { vec![] },
            classes: network.outputs,
            average: false,
            keep: 0.5,
            l2: 0.0,
            preprocess: Preprocess::preset(network.preprocess).expect("a preset of ours"),
            image: Some(network.image),
            crop: None,
            output: None,
            scale: 1.0,
        }
    }

    /// What it sees of a photograph by its own rule.
    pub fn view(&self, side: usize) -> View {
        View { crop: self.crop, ..self.preprocess.view(side) }
    }

    /// u8 images [N,S,S,3], or floats that are already normalised, -> features [N, [`Tower::features`]].
    pub fn build(&self, net: &mut Net, image: Value, output: TowerOutput) -> Value {
        let features = match output {
            TowerOutput::Softmax => {
                let x = self.logits(net, image);
                net.scope(&self.name, |net| net.softmax("softmax", x))
            }
            TowerOutput::Penultimate => net.scope(&self.name, |net| self.body(net, image).last),
            TowerOutput::Pooled(stages) => net.scope(&self.name, |net| {
                let maps = match self.base.vgg() {
                    Some(_) => {
                        let blocks = self.convolutions(net, image, stages.last()).0;
                        stages.indices().map(|i| blocks[i]).collect()
                    }
                    None => vec![self.body(net, image).map],
                };
                let pooled: Vec<Value> = maps.into_iter().map(|map| net.global_avgpool("pooled", map)).collect();
                net.concat("pooled", &pooled)
            }),
        };
        if self.scale == 1.0 { features } else { net.scope(&self.name, |net| net.scale(features, self.scale)) }
    }

    /// u8 images [N,S,S,3], or floats that are already normalised, -> class scores [N, classes] before the softmax.
    pub fn logits(&self, net: &mut Net, image: Value) -> Value {
        net.scope(&self.name, |net| {
            let body = self.body(net, image);
            net.dense(&self.top(), body.last, self.classes, false)
        })
    }

    /// Name of its last dense layer.
    pub fn top(&self) -> String {
        match self.base.vgg() {
            Some(_) => format!("fc{}", self.dense.len() + 1),
            None => self.base.network().top.into(),
        }
    }

    /// Everything but the last dense layer.
    fn body(&self, net: &mut Net, image: Value) -> Body {
        match self.base.vgg() {
            Some(_) => {
                let map = self.convolutions(net, image, 4).1;
                let read = if self.average { net.global_avgpool("pooled", map) } else { map };
                Body { map, last: hidden(net, read, &self.dense, self.keep) }
            }
            None => {
                let x = self.normalized(net, image);
                (self.base.network().body)(net, x, Size { width: self.width, outputs: self.classes })
            }
        }
    }

    fn normalized(&self, net: &mut Net, image: Value) -> Value {
        match net.g.ty(image).dtype {
            DType::U8 => net.normalize(image, &self.preprocess),
            _ => image,
        }
    }

    /// A VGG up to the block of index `last`: what nothing reads has no parameters to be trained.
    fn convolutions(&self, net: &mut Net, image: Value, last: usize) -> (Vec<Value>, Value) {
        let (blocks, norm) = self.base.vgg().expect("asked of VGGs");
        let x = self.normalized(net, image);
        let blocks = &blocks[..=last];
        let built = vgg(net, x, blocks, norm, self.width);
        if self.l2 > 0.0 {
            for (b, &(_, convs)) in (1..).zip(blocks) {
                (1..=convs).for_each(|c| net.l2(&format!("conv{b}_{c}"), self.l2));
            }
        }
        built
    }

    /// Refuses sides that this tower cannot take: its pools must leave a pixel.
    pub fn check_side(&self, side: usize) -> Result<()> {
        let least = self.base.network().smallest;
        if (least..=LARGEST_SIDE).contains(&side) {
            return Ok(());
        }
        let takes = format!("takes images of {least} to {LARGEST_SIDE} pixels, not {side}");
        Err(Error::usage(format!("the {} tower {takes}", self.name)).fix(format!(
            "change {}, or its side in {}",
            option("image"),
            option("tower-image")
        )))
    }

    /// Refuses an output that its network does not have.
    pub fn check_output(&self, output: TowerOutput) -> Result<()> {
        match output {
            TowerOutput::Pooled(_) if output != TowerOutput::POOLED && self.base.vgg().is_none() => {
                Err(Error::usage(format!("the {} tower is no VGG and has no `{output}`", self.name))
                    .fix("choose softmax, penultimate or pooled"))
            }
            _ => Ok(()),
        }
    }

    /// Width of the features.
    pub fn features(&self, output: TowerOutput) -> usize {
        match (output, self.base.vgg()) {
            (TowerOutput::Softmax, _) => self.classes,
            (TowerOutput::Pooled(stages), Some((blocks, _))) => {
                stages.indices().map(|i| (blocks[i].0 / self.width).max(1)).sum()
            }
            (TowerOutput::Penultimate, Some(_)) if !self.dense.is_empty() => self.dense[self.dense.len() - 1],
            // The widths of other networks are what their builders come to.
            _ => {
                let mut g = Graph::default();
                let side = self.image.unwrap_or(self.base.network().smallest);
                let image = g.input("image", Type::new(DType::U8, &[1, side, side, 3]));
                let features = self.build(&mut Net::new(&mut g, Mode::Eval), image, output);
                g.ty(features).row()
            }
        }
    }
}
