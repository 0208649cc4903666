/*! A model: towers that look at one photograph, their features side by side, and a dense network that predicts ratings or
tells classes apart. Parry & Vuong 2021, *Deep Affect*, is three VGGs and ratings ([`Config::published`]); one tower and no
hidden layer is a network as it was published, with another last layer. */

use super::{Body, Size, Tower, TowerOutput};
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::nn::Net;
use crate::preprocess::{Preprocess, View};
use serde::{Deserialize, Serialize};

/// One network for all targets, or one complete network for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    Shared,
    Split,
}

/// Activation of the output layer. The paper's text says ReLU everywhere; a rating is linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutAct {
    Linear,
    Relu,
}

/// How features come to one scale before the head, by statistics of the training pictures. In files `false`, `true` or
/// `"minmax"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum Standardize {
    No,
    /// Less their mean, by their standard deviation.
    Yes,
    /// Less their minimum, by their range: 0 to 1.
    MinMax,
}

/// [`Standardize`] as files have it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Whether(bool),
    How(How),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum How {
    MinMax,
}

impl From<Written> for Standardize {
    fn from(w: Written) -> Self {
        match w {
            Written::Whether(false) => Standardize::No,
            Written::Whether(true) => Standardize::Yes,
            Written::How(How::MinMax) => Standardize::MinMax,
        }
    }
}

impl From<Standardize> for Written {
    fn from(s: Standardize) -> Self {
        match s {
            Standardize::No => Written::Whether(false),
            Standardize::Yes => Written::Whether(true),
            Standardize::MinMax => Written::How(How::MinMax),
        }
    }
}

/// What a model is asked for, by a last layer for each: numbers, classes that exclude each other, or both on one trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// [N, targets of the member] in points.
    Ratings,
    /// Class scores [N, classes] before the softmax.
    Classes,
}

/// The whole model, as stored in checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub architecture: Architecture,
    pub towers: Vec<Tower>,
    /// Features from tables, behind those of the towers: of pictures that somebody has described before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Described>,
    pub tower_output: TowerOutput,
    /// Whether features come to one scale before the head. Probabilities are used as they are (the paper's "normalised to
    /// [0,1]"); averaged activations need it.
    pub standardize: Standardize,
    /// Heads on the same features whose mean the ratings are, each trained without some of the pictures
    /// ([`crate::train::merge`]). A model that is trained has one.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub heads: usize,
    /// Hidden layers of the head.
    pub head: Vec<usize>,
    /// Probability to KEEP each feature on its way to the head while training.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub keep_features: f32,
    /// Probability to KEEP each hidden unit of the head (the paper's "retained with p = 0.5"), one per hidden layer.
    pub keep: Vec<f32>,
    pub out_act: OutAct,
    /// Side in pixels of the square that all towers look at, but for those with one of their own.
    pub image: usize,
    /// Ratings that are predicted, in the order of the outputs; none where only classes are told apart.
    pub targets: Vec<String>,
    /// Classes that are told apart, in the order of the outputs; none where only ratings are predicted. Beside ratings they
    /// have a layer of their own on the same trunk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
}

/// A table of features ([`crate::data::features_table`]) as a part of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Described {
    /// What the beginning of its columns' names is; empty where the table has no name.
    pub name: String,
    pub columns: usize,
    /// Of its file.
    pub sha256: String,
}

/// No dropout.
fn all() -> f32 {
    1.0
}

fn is_all(keep: &f32) -> bool {
    *keep == all()
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

/// Names, within a member, of the statistics that [`Config::standardize`] needs.
pub const STATISTICS: [&str; 2] = ["head.features.mean", "head.features.inverse"];

/// Scope, within a member, of the only head.
pub const HEAD: &str = "head";

/// An independently trained part of the model: everything for `shared`, one target for `split`.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Prefix of its parameter names, with the dot; empty for `shared`.
    pub prefix: String,
    /// Indices into the targets; none where it only tells classes apart.
    pub targets: Vec<usize>,
}

impl Config {
    /// The published model: 224x224, 3000-1000-500, keep 0.5, linear outputs valence and arousal.
    pub fn published(architecture: Architecture, features: &[String], face_classes: usize) -> Result<Self> {
        if features.is_empty() {
            return Err(Error::usage("no features").fix("name at least one of object, scene, face"));
        }
        let towers = features.iter().map(|f| Tower::published(f, face_classes)).collect::<Result<_>>()?;
        Ok(Self {
            architecture,
            towers,
            tables: vec![],
            tower_output: TowerOutput::Softmax,
            standardize: Standardize::No,
            heads: 1,
            head: vec![3000, 1000, 500],
            keep_features: 1.0,
            keep: vec![0.5; 3],
            out_act: OutAct::Linear,
            image: 224,
            targets: vec!["valence".into(), "arousal".into()],
            classes: vec![],
        })
    }

    /// What a tower of this model sees of a photograph.
    pub fn view(&self, tower: &Tower) -> View {
        match tower.image {
            Some(side) => tower.view(side),
            None => View { crop: tower.crop, ..self.towers[0].preprocess.view(self.image) },
        }
    }

    /// Everything that is seen of a photograph, once, in the order of the towers: what becomes of one decoded picture,
    /// and the order of the inputs of [`Config::forward`].
    pub fn views(&self) -> Vec<View> {
        let mut views = vec![];
        for v in self.towers.iter().map(|t| self.view(t)) {
            if !views.contains(&v) {
                views.push(v);
            }
        }
        views
    }

    /// Gives every tower a square by its own rule, of its own side where it has one: towers that agree with the first
    /// share one.
    pub fn separate_views(&mut self) {
        let Some(shared) = self.towers.first().map(|t| t.preprocess.view(self.image)) else { return };
        for t in &mut self.towers {
            let own = t.preprocess.view(t.image.unwrap_or(shared.side));
            t.image = (own != shared).then_some(own.side);
        }
    }

    /// Whether its parameters fit squares of any side: no tower goes on to layers that read a whole map.
    pub fn any_side(&self) -> bool {
        self.towers.iter().all(|t| !matches!(self.output(t), TowerOutput::Softmax | TowerOutput::Penultimate))
    }

    /// The same model for squares of another side.
    ///
    /// # Errors
    /// A side that a tower cannot take, or a model that takes only its own.
    pub fn sized(&self, side: usize) -> Result<Self> {
        let mut other = self.clone();
        other.image = side;
        other.towers.iter_mut().for_each(|t| t.image = None);
        other.check_sides()?;
        if other.views() != self.views() && !self.any_side() {
            return Err(Error::usage(format!("the model takes pictures of {} pixels, not {side}", self.image))
                .fix("leave the side to the model"));
        }
        Ok(other)
    }

    /// Refuses sides that a tower cannot take.
    pub fn check_sides(&self) -> Result<()> {
        self.towers.iter().try_for_each(|t| t.check_side(self.view(t).side))
    }

    /// What a tower of this model hands to the head.
    pub fn output(&self, tower: &Tower) -> TowerOutput {
        tower.output.unwrap_or(self.tower_output)
    }

    /// Refuses outputs that a tower does not have.
    pub fn check_outputs(&self) -> Result<()> {
        self.towers.iter().try_for_each(|t| t.check_output(self.output(t)))
    }

    /// Width of the concatenated features of one member.
    pub fn features(&self) -> usize {
        let towers = self.towers.iter().map(|t| t.features(self.output(t)));
        towers.chain(self.tables.iter().map(|t| t.columns)).sum()
    }

    /// Refuses pictures for a model that was trained on tables.
    pub fn check_seen(&self) -> Result<()> {
        match &self.tables[..] {
            [] => Ok(()),
            tables => {
                let columns: usize = tables.iter().map(|t| t.columns).sum();
                Err(Error::job(format!("reads {columns} features from tables, which no picture has in it"))
                    .fix("judge it where it was trained, with the same table: cross-validate, or train with a part that is tested"))
            }
        }
    }

    /// The independently trained parts.
    pub fn members(&self) -> Vec<Member> {
        match self.architecture {
            // Classes exclude each other: there is nothing to be split.
            _ if !self.classes.is_empty() => vec![self.whole()],
            Architecture::Shared => vec![self.whole()],
            Architecture::Split => {
                let member = |(i, t): (usize, &String)| Member { prefix: format!("{t}."), targets: vec![i] };
                self.targets.iter().enumerate().map(member).collect()
            }
        }
    }

    /// The member that gives everything.
    fn whole(&self) -> Member {
        Member { prefix: String::new(), targets: (0..self.targets.len()).collect() }
    }

    /// What every member is asked for, in the order of [`Config::predict`].
    pub fn goals(&self) -> Vec<Goal> {
        let ratings = (!self.targets.is_empty()).then_some(Goal::Ratings);
        ratings.into_iter().chain((!self.classes.is_empty()).then_some(Goal::Classes)).collect()
    }

    /// The last layer of a head for a goal. Classes alone take the place of ratings.
    fn last_layer(&self, goal: Goal) -> &'static str {
        match goal {
            Goal::Classes if !self.targets.is_empty() => "classes",
            _ => "out",
        }
    }

    /// Runs `f` inside a member's scope.
    fn within<T>(net: &mut Net, m: &Member, f: impl FnOnce(&mut Net) -> T) -> T {
        match m.prefix.strip_suffix('.') {
            Some(name) => net.scope(name, f),
            None => f(net),
        }
    }

    /// u8 images [N,S,S,3], one for each of [`Config::views`], -> features [N,F] of one member.
    pub fn extract(&self, net: &mut Net, m: &Member, images: &[Value]) -> Value {
        let views = self.views();
        let image = |t| images[views.iter().position(|v| *v == self.view(t)).expect("a view of the model")];
        let f: Vec<Value> = self.towers.iter().map(|t| self.tower(net, m, t, image(t))).collect();
        Self::within(net, m, |net| net.concat("features", &f))
    }

    /// u8 images [N,S,S,3] of a tower's view -> its features, for one member.
    pub fn tower(&self, net: &mut Net, m: &Member, tower: &Tower, image: Value) -> Value {
        Self::within(net, m, |net| tower.build(net, image, self.output(tower)))
    }

    /// Features [N,F] -> what each of [`Config::goals`] asks for.
    pub fn predict(&self, net: &mut Net, m: &Member, features: Value) -> Vec<Value> {
        let each: Vec<Vec<Value>> = (0..self.heads).map(|i| self.one_head(net, m, features, i)).collect();
        let mean = |net: &mut Net, goal: usize| {
            let of: Vec<Value> = each.iter().map(|head| head[goal]).collect();
            Self::within(net, m, |net| net.mean("heads", &of))
        };
        (0..self.goals().len()).map(|goal| mean(net, goal)).collect()
    }

    /// Scope of a head's parameters within a member; its ratings, or classes alone, are those of the layer `out` in it.
    pub fn head_name(&self, i: usize) -> String {
        if self.heads == 1 { HEAD.into() } else { format!("{HEAD}{}", i + 1) }
    }

    fn one_head(&self, net: &mut Net, m: &Member, features: Value, i: usize) -> Vec<Value> {
        Self::within(net, m, |net| {
            net.scope(&self.head_name(i), |net| {
                let x = self.hidden(net, features);
                let last = |goal: Goal| {
                    // Scores of classes are logarithms: beside ratings they take no part in how those are activated.
                    let (width, relu) = match goal {
                        Goal::Ratings => (m.targets.len(), self.out_act == OutAct::Relu),
                        Goal::Classes => (self.classes.len(), self.out_act == OutAct::Relu && self.targets.is_empty()),
                    };
                    net.dense(self.last_layer(goal), x, width, relu)
                };
                self.goals().into_iter().map(last).collect()
            })
        })
    }

    /// A head without its last layer.
    fn hidden(&self, net: &mut Net, features: Value) -> Value {
        let mut x = match self.standardize {
            Standardize::No => features,
            Standardize::Yes | Standardize::MinMax => net.standardize("features", features),
        };
        x = net.dropout("drop0", x, self.keep_features);
        for (i, (&k, &keep)) in (1..).zip(self.head.iter().zip(&self.keep)) {
            x = net.dense(&format!("fc{i}"), x, k, true);
            x = net.dropout(&format!("drop{i}"), x, keep);
        }
        x
    }

    /// Pictures [N,H,W,3] that a network made, RGB in [-1, 1], to all ratings [N, targets]. Every tower sees a whole picture,
    /// bilinearly on its side, and all of it can be differentiated; in [`crate::nn::Mode::Eval`] what is learned stays.
    pub fn rate_made(&self, net: &mut Net, pictures: Value) -> Value {
        let mut each = vec![];
        for m in self.members() {
            let mut features = vec![];
            for t in &self.towers {
                let view = self.view(t);
                let seen = net.seen(pictures, view.side, &Preprocess { grey: view.grey, ..t.preprocess.clone() });
                features.push(self.tower(net, &m, t, seen));
            }
            let features = Self::within(net, &m, |net| net.concat("features", &features));
            each.push(self.predict(net, &m, features)[0]);
        }
        net.concat("ratings", &each)
    }

    /// Images, one for each of [`Config::views`], to what one member is asked for.
    pub fn forward(&self, net: &mut Net, m: &Member, images: &[Value]) -> Vec<Value> {
        let features = self.extract(net, m, images);
        self.predict(net, m, features)
    }
}

/// The published network with five face classes and one head, every layer but the output divided by the width. One
/// image goes to all towers, so it must be normalised as all of them expect.
pub(super) fn body(net: &mut Net, image: Value, size: Size) -> Body {
    let features = ["object", "scene", "face"].map(String::from);
    let mut c = Config::published(Architecture::Shared, &features, 5).expect("features of ours");
    for t in &mut c.towers {
        t.width = size.width;
        t.dense.iter_mut().chain([&mut t.classes]).for_each(|k| *k = size.channels(*k));
    }
    c.head.iter_mut().for_each(|k| *k = size.channels(*k));
    c.targets = (0..size.outputs).map(|i| format!("target{i}")).collect();
    let features = c.extract(net, &c.members()[0], &[image]);
    Body { map: features, last: net.scope(HEAD, |net| c.hidden(net, features)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Graph, Kind};
    use crate::nn::Mode;
    use crate::shape::{DType, Type};

    fn count(g: &Graph, prefix: &str) -> usize {
        g.of_kind(Kind::Param).filter(|v| g.name(*v).starts_with(prefix)).map(|v| g.ty(v).numel()).sum()
    }

    fn built(architecture: Architecture, features: &[&str], face: usize) -> Graph {
        let features: Vec<String> = features.iter().map(|f| f.to_string()).collect();
        let c = Config::published(architecture, &features, face).unwrap();
        let mut g = Graph::default();
        let image = g.input("image", Type::new(DType::U8, &[1, c.image, c.image, 3]));
        let mut net = Net::new(&mut g, Mode::Eval);
        for m in c.members() {
            c.forward(&mut net, &m, &[image]);
        }
        g.check().unwrap();
        g
    }

    #[test]
    fn published_parameter_counts() {
        let g = built(Architecture::Shared, &["object", "scene", "face"], 5);
        assert_eq!(count(&g, "object."), 138_357_544);
        assert_eq!(count(&g, "scene."), 135_755_949);
        assert_eq!(count(&g, "face."), 74_032_197);
        assert_eq!(count(&g, "head."), 7_615_502);
        assert_eq!(count(&g, ""), 355_761_192);
        assert_eq!(count(&built(Architecture::Shared, &["face"], 9), "face."), 74_034_249);
    }

    #[test]
    fn how_features_are_scaled_is_read_as_it_was_written() {
        for (how, text) in [(Standardize::No, "false"), (Standardize::Yes, "true"), (Standardize::MinMax, "\"minmax\"")]
        {
            assert_eq!(serde_json::to_string(&how).unwrap(), text);
            assert_eq!(serde_json::from_str::<Standardize>(text).unwrap(), how);
        }
        assert!(serde_json::from_str::<Standardize>("\"no\"").is_err());
    }

    #[test]
    fn tower_outputs_have_names() {
        for text in ["softmax", "pooled", "block1", "block4", "block3+block5", "block1+block2+block3+block4+block5"] {
            let output: TowerOutput = text.parse().unwrap();
            assert_eq!(output.to_string(), text);
            let json = serde_json::to_string(&output).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<TowerOutput>(&json).unwrap(), output);
        }
        let parse = |text: &str| text.parse::<TowerOutput>();
        assert_eq!(parse("block5"), Ok(TowerOutput::POOLED));
        // The order is the network's.
        assert_eq!(parse("pooled+block4"), parse("block4+block5"));
        for text in ["", "block0", "block6", "block4+", "block4,block5", "softmax+block4", "block4+block4"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let tower = Tower::published("object", 5).unwrap();
        let width = |text: &str| tower.features(parse(text).unwrap());
        assert_eq!(
            ["softmax", "pooled", "block3", "block4+block5", "block1+block3"].map(width),
            [1000, 512, 256, 1024, 320]
        );
    }

    #[test]
    fn split_is_two_complete_networks() {
        let g = built(Architecture::Split, &["object", "scene", "face"], 9);
        // 1374 features, one output each
        let head = 1374 * 3000 + 3000 + 3000 * 1000 + 1000 + 1000 * 500 + 500 + 500 + 1;
        let one = 138_357_544 + 135_755_949 + 74_034_249 + head;
        assert_eq!(count(&g, "valence."), one);
        assert_eq!(count(&g, "arousal."), one);
        assert_eq!(count(&g, ""), 2 * one);
    }
}
