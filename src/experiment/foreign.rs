//! Another program's weights as a file of ours: which tower they are, how its pictures were prepared, under which terms.

use super::events::{Events, tell};
use crate::bundled;
use crate::error::{Error, Result, clean, option};
use crate::files;
use crate::graph::{Graph, Value};
use crate::memory::peak_mib;
use crate::models::{self, Base, TOWER, Tower};
use crate::nn::{Mode, Net};
use crate::preprocess::{PRESETS, Preprocess};
use crate::shape::{DType, Type};
use crate::train::first_layer::{self, ACTIVATIONS, LAYER, Statistics};
use crate::weights::import::{Foreign, Norm};
use crate::weights::names::Lineage;
use crate::weights::store::Store;
use crate::weights::{CLASSES, PREPROCESS};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// A file to be converted, and what is known of it.
pub struct WeightImport {
    /// safetensors, .pth, .h5, .weights.h5, .keras, .caffemodel, .onnx or .npz: told by its content.
    pub file: PathBuf,
    /// What it is: a network's name.
    pub network: String,
    /// The file to write.
    pub out: PathBuf,
    /// How its pictures were prepared, where the file and its origin do not say.
    pub preprocess: Option<String>,
    /// Side of its pictures in pixels, where dense layers were trained for another than the published one.
    pub image: Option<usize>,
    /// How filters and dense weights are stored.
    pub store: Store,
    /// Make batch norm a part of the convolutions.
    pub fold_batch_norm: bool,
    /// A file of the names of the classes, one a line, in the order of the outputs.
    pub classes: Option<PathBuf>,
    /// Terms of the weights; known origins bring theirs.
    pub licence: Option<String>,
    /// What asked for the work, in words: goes into the header.
    pub command: String,
}

/// What was converted.
#[derive(Serialize)]
pub struct ImportedWeights {
    file: String,
    out: String,
    format: &'static str,
    kind: String,
    network: String,
    tensors: usize,
    parameters: usize,
    /// The preset's name.
    preprocess: String,
    licence: String,
    source_sha256: String,
    source_bytes: usize,
    seconds: f64,
    peak_memory_mib: Option<f64>,
    /// The network whose convolutions it has.
    #[serde(skip)]
    pub base: String,
    /// Whether it tells classes apart.
    #[serde(skip)]
    pub classifies: bool,
}

/// Networks that people hold under a name of their own.
struct Known {
    name: &'static str,
    base: Base,
    /// Probability to keep a unit of the hidden dense layers in training.
    keep: f32,
    /// L2 penalty on the convolutions.
    l2: f32,
    /// Side of its pictures in pixels where it is not 224.
    image: Option<usize>,
    /// Prepared so, whoever wrote the file.
    preset: Option<&'static str>,
    /// The published file has batch norm that the tower does without.
    fold: bool,
    /// Names of its classes, by the set's.
    classes: &'static str,
}

const KNOWN: [Known; 7] = [
    known("vgg16", Base::VGG16, "imagenet"),
    known("vgg19", Base::VGG19, "imagenet"),
    known("vgg16-bn", Base::VGG16_BN, "imagenet"),
    known("vgg19-bn", Base::VGG19_BN, "imagenet"),
    // Its Keras model trains with L2 0.0002 on the convolutions and dropout.
    Known { keep: 0.5, l2: 2e-4, ..known("vgg16-places365", Base::VGG16, "places365") },
    Known { keep: 0.5, l2: 2e-4, ..known("vgg16-hybrid1365", Base::VGG16, "hybrid1365") },
    // WuJie1010/Facial-Expression-Recognition.Pytorch: 48x48 grey faces, a crop of 44, no mean and no deviation.
    Known { image: Some(44), preset: Some("fer2013"), fold: true, ..known("vgg19-fer2013", Base::VGG19, "fer2013") },
];

const fn known(name: &'static str, base: Base, classes: &'static str) -> Known {
    Known { name, base, keep: 1.0, l2: 0.0, image: None, preset: None, fold: false, classes }
}

/// Terms of the published weights that a file of this kind most likely is; nobody can tell from the numbers.
fn licence(lineage: Lineage, network: &str) -> &'static str {
    match (lineage, network) {
        (Lineage::Torchvision | Lineage::Timm, "vgg16" | "vgg19" | "vgg16-bn" | "vgg19-bn") => {
            "BSD-3-Clause if these are torchvision's published weights"
        }
        (Lineage::Keras | Lineage::Caffe | Lineage::Tensorflow, "vgg16" | "vgg19") => {
            "CC BY 4.0 if these are Oxford's published weights"
        }
        (Lineage::Caffe, "vgg16-places365" | "vgg16-hybrid1365") => {
            "CC BY if these are the published weights of Places365"
        }
        (Lineage::Keras, "vgg16-places365" | "vgg16-hybrid1365") => {
            "GPL-3.0 if this is the published Keras port of Places365"
        }
        _ => "unknown: ask whoever published the file",
    }
}

impl WeightImport {
    /// Converts the file.
    ///
    /// # Errors
    /// A file that is ours already or of another network, and pictures that nobody knows how to prepare.
    pub fn run(&self, events: &dyn Events) -> Result<ImportedWeights> {
        let start = Instant::now();
        let foreign = Foreign::open(&self.file)?;
        let lineage = foreign.kind().lineage;
        if lineage == Lineage::Ours {
            return Err(Error::file(&self.file, "is a file of this program already").fix("use it as it is"));
        }
        let known = KNOWN.iter().find(|k| k.name == self.network);
        let fold = self.fold_batch_norm || known.is_some_and(|k| k.fold);
        let norm =
            if fold { Norm::Fold { eps: if lineage == Lineage::Keras { 1e-3 } else { 1e-5 } } } else { Norm::Keep };
        let preprocess = self.preprocess(&foreign, known)?;
        let mut metadata = BTreeMap::from([
            (PREPROCESS.to_string(), json(&preprocess)),
            ("network".to_string(), self.network.clone()),
            ("made_by".to_string(), self.command.clone()),
            ("licence".to_string(), self.licence(&foreign)),
        ]);
        let wanted = match known {
            Some(known) => {
                let mut tower = tower(&foreign, known, preprocess.clone());
                tower.image = self.image.or(tower.image);
                metadata.insert(TOWER.into(), json(&tower));
                wanted_of_tower(&tower)
            }
            None => {
                let mut tower = Tower::of(self.network.parse::<Base>().map_err(|_| unknown(&self.network))?);
                let last = foreign.shape(&format!("{}.weight", tower.top()));
                tower.classes = last.and_then(|s| s.first().copied()).unwrap_or(tower.classes);
                tower.preprocess = preprocess.clone();
                tower.image = self.image.or(tower.image);
                metadata.insert(TOWER.into(), json(&tower));
                wanted_of_tower(&tower)
            }
        };
        self.suggest_folding(&foreign, norm)?;
        foreign.check(&wanted, norm)?;
        if let Some(names) = self.class_names(&foreign, known)? {
            metadata.insert(CLASSES.into(), json(&names));
        }
        if let Some(expected) = self.expected(&foreign, known, norm, &preprocess, events)? {
            metadata.insert(ACTIVATIONS.into(), json(&expected));
        }
        let digest = foreign.write(&self.out, &wanted, norm, self.store, &metadata, events)?;
        let written: Vec<_> = wanted.iter().filter(|w| foreign.shape(&w.0).is_some()).collect();
        let preset = serde_json::from_str::<Preprocess>(&metadata[PREPROCESS]).map_or("custom", |p| p.name());
        Ok(ImportedWeights {
            file: self.file.display().to_string(),
            out: self.out.display().to_string(),
            format: foreign.format().name(),
            kind: foreign.kind().describe(),
            network: self.network.clone(),
            tensors: written.len(),
            parameters: written.iter().map(|w| w.1.iter().product::<usize>()).sum(),
            preprocess: preset.into(),
            licence: metadata["licence"].clone(),
            source_sha256: digest,
            source_bytes: foreign.len(),
            seconds: start.elapsed().as_secs_f64(),
            peak_memory_mib: peak_mib(),
            base: known.map_or(&*self.network, |k| k.base.name()).into(),
            classifies: foreign.kind().classes.is_some(),
        })
    }

    /// What was given, else what the file says, else what its kind implies.
    fn licence(&self, foreign: &Foreign) -> String {
        let stated =
            self.licence.as_ref().or_else(|| ["licence", "license"].iter().find_map(|k| foreign.notes().get(*k)));
        stated.cloned().unwrap_or_else(|| licence(foreign.kind().lineage, &self.network).into())
    }

    /// What was given, else what the file or its origin says; never a guess.
    fn preprocess(&self, foreign: &Foreign, known: Option<&Known>) -> Result<Preprocess> {
        if let Some(name) = &self.preprocess {
            return Preprocess::preset(name);
        }
        if let Some(preset) = known.and_then(|k| k.preset) {
            return Preprocess::preset(preset);
        }
        let places = self.network.starts_with("vgg16-places") || self.network.starts_with("vgg16-hybrid");
        if places && foreign.kind().lineage == Lineage::Caffe {
            return Preprocess::preset("caffe-places");
        }
        let stated = if places { None } else { foreign.preprocess()? };
        stated.ok_or_else(|| {
            let names = PRESETS.map(|p| p.0).join(", ");
            let why = if places { ": published ports of Places365 contradict each other" } else { "" };
            Error::file(&self.file, format!("does not say how its pictures were prepared{why}"))
                .fix(format!("add {} with one of {names}", option("preprocess")))
        })
    }

    /// What the first layer gives for photographs that are prepared as the origin of the weights prescribes. Warns if
    /// that is far from what it gives for photographs prepared as was asked for.
    fn expected(
        &self,
        foreign: &Foreign,
        known: Option<&Known>,
        norm: Norm,
        p: &Preprocess,
        events: &dyn Events,
    ) -> Result<Option<Statistics>> {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{LAYER}.{part}"));
        if foreign.shape(&weight).is_none() {
            return Ok(None);
        }
        let (weight, bias) = (foreign.parameter(&weight, norm)?, foreign.parameter(&bias, norm)?);
        let pictures = first_layer::reference_pictures();
        let of = |p: &Preprocess| Statistics::of(&weight, &bias, p, pictures.iter().map(|x| &x[..]), first_layer::SIDE);
        let origin = match known.and_then(|k| k.preset) {
            Some(preset) => Some(Preprocess::preset(preset)?),
            None => foreign.preprocess()?,
        };
        let expected = of(origin.as_ref().unwrap_or(p));
        if let (Some(expected), Some(seen)) = (expected, of(p))
            && let Some(complaint) = expected.complaint(&seen)
        {
            tell!(events, "warning: {} {}: {complaint}", option("preprocess"), p.name());
        }
        Ok(expected)
    }

    /// Batch norm that a plain network has no place for.
    fn suggest_folding(&self, foreign: &Foreign, norm: Norm) -> Result<()> {
        let has = foreign.arrays().any(|(_, s)| s.ours.starts_with("norm"));
        if has && norm == Norm::Keep && KNOWN.iter().any(|k| k.name == self.network && !k.base.norm()) {
            return Err(Error::file(&self.file, format!("has batch norm, which {} has not", self.network))
                .fix(format!("import it {} {}-bn, or add {}", option("as"), self.network, option("fold-batch-norm"))));
        }
        Ok(())
    }

    /// As many names as outputs: the user's, else the published ones where the count is theirs.
    fn class_names(&self, foreign: &Foreign, known: Option<&Known>) -> Result<Option<Vec<String>>> {
        let count = foreign.kind().classes;
        let Some(path) = &self.classes else {
            // What has no name of its own here was published for ImageNet, if it has that many classes.
            let names = bundled::classes(known.map_or("imagenet", |k| k.classes)).filter(|n| Some(n.len()) == count);
            return Ok(names.map(|n| n.into_iter().map(String::from).collect()));
        };
        let text = files::text(path, files::PAGE).map_err(|e| Error::io(path, "read the class names", e))?;
        let names: Vec<String> = text.lines().map(|l| l.trim().to_string()).filter(|l| !l.is_empty()).collect();
        if Some(names.len()) != count {
            let problem = format!("{} names for {} classes", names.len(), count.unwrap_or(0));
            return Err(Error::file(path, problem).fix("write one name a line, in the order of the network's outputs"));
        }
        Ok(Some(names))
    }
}

impl ImportedWeights {
    /// The same for people.
    pub fn text(&self) -> String {
        let rate = self.source_bytes as f64 / 1e6 / self.seconds;
        format!(
            "{}: {}, {} ({} tensors, {} parameters)\npreprocessing: {}\nlicence: {}\nsha256: {}\n\
             wrote {} in {:.2} s ({rate:.0} MB/s)\n",
            clean(&self.file),
            self.format,
            self.kind,
            self.tensors,
            self.parameters,
            self.preprocess,
            clean(&self.licence),
            self.source_sha256,
            clean(&self.out),
            self.seconds
        )
    }
}

fn json(x: &impl serde::Serialize) -> String {
    serde_json::to_string(x).expect("plain data")
}

/// The tower that the file's dense layers make of a base.
fn tower(foreign: &Foreign, known: &Known, preprocess: Preprocess) -> Tower {
    let rows = |i: usize| foreign.shape(&format!("fc{i}.weight")).and_then(|s| s.first().copied());
    let mut dense: Vec<usize> = (1..).map_while(rows).collect();
    // Without a classifier the published one is described: its layers will be drawn, or are not used.
    let classes = dense.pop().unwrap_or_else(|| {
        dense = vec![4096, 4096];
        1000
    });
    Tower {
        name: known.name.into(),
        dense,
        classes,
        keep: known.keep,
        l2: known.l2,
        preprocess,
        image: known.image,
        ..Tower::of(known.base)
    }
}

/// Names and shapes of a tower's parameters.
fn wanted_of_tower(tower: &Tower) -> Vec<(String, Vec<usize>)> {
    let side = tower.image.unwrap_or(224);
    let scope = format!("{}.", tower.name);
    let wanted = wanted(side, |net, x| tower.logits(net, x));
    wanted.into_iter().filter_map(|(n, s)| Some((n.strip_prefix(&scope)?.to_string(), s))).collect()
}

fn unknown(name: &str) -> Error {
    let known: Vec<_> = KNOWN.iter().map(|k| k.name).collect();
    Error::usage(format!("unknown network `{name}`")).fix(format!(
        "choose one of {}, {}",
        known.join(", "),
        models::names()
    ))
}

fn wanted(side: usize, build: impl FnOnce(&mut Net, Value) -> Value) -> Vec<(String, Vec<usize>)> {
    let mut g = Graph::default();
    let x = g.input("image", Type::new(DType::F32, &[1, side, side, 3]));
    build(&mut Net::new(&mut g, Mode::Eval), x);
    g.stored().map(|v| (g.name(v).to_string(), g.dims(v).to_vec())).collect()
}
