//! Grad-CAM against PyTorch, on every device; batches; what a request may name.

mod common;

use deep_affect::data::Alpha;
use deep_affect::device::{self, Device};
use deep_affect::models::{Architecture, Base, Config, OutAct, Standardize, Tower, TowerOutput};
use deep_affect::preprocess::Preprocess;
use deep_affect::train::checkpoint::{self, CARD, Card};
use deep_affect::train::fit::{Settings, State};
use deep_affect::train::gradcam::{Class, Explained, Explainer, Sign, Target};
use deep_affect::train::network::Task;
use deep_affect::weights::write::{Entry, write};
use deep_affect::weights::{LAYOUT, WeightFile};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The maps that `tests/golden/make_gradcam.py` made, and the model they are of.
struct Golden {
    file: Arc<WeightFile>,
    maps: BTreeMap<String, Spec>,
}

#[derive(Deserialize)]
struct Spec {
    tower: String,
    layer: String,
    target: String,
    classes: Option<Vec<usize>>,
}

/// As in the script.
fn config(architecture: Architecture, tower_output: TowerOutput) -> Config {
    let tower = |name: &str, base, width, classes| Tower {
        name: name.into(),
        width,
        dense: vec![8],
        classes,
        keep: 1.0,
        preprocess: Preprocess::preset("unit").unwrap(),
        image: None,
        ..Tower::of(base)
    };
    Config {
        architecture,
        towers: vec![tower("object", Base::VGG16, 32, 7), tower("face", Base::VGG19, 64, 5)],
        tables: vec![],
        tower_output,
        heads: 1,
        standardize: Standardize::No,
        head: vec![6],
        keep_features: 1.0,
        keep: vec![1.0],
        out_act: OutAct::Linear,
        image: 64,
        targets: vec!["valence".into(), "arousal".into()],
        classes: vec![],
    }
}

impl Golden {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gradcam/maps.safetensors");
        let file = WeightFile::open(path).unwrap();
        let maps = serde_json::from_str(&file.metadata()["maps"]).unwrap();
        Self { file, maps }
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        self.file.tensor(name).unwrap().to_f32().unwrap().into_owned()
    }

    fn pixels(&self) -> Vec<u8> {
        self.file.tensor("pixels").unwrap().bytes.to_vec()
    }

    /// A checkpoint whose parameters are the file's; for a split model each member has all of them, and for other
    /// features than classes what of them fits.
    fn checkpoint(&self, config: Config) -> Arc<WeightFile> {
        let task = Task::EndToEnd { config: config.clone(), frozen: vec![] };
        let (g, ..) = task.evaluation(1, Default::default()).unwrap();
        let mut tensors = vec![];
        for v in g.stored() {
            let (name, dims) = (g.name(v), g.dims(v));
            let n: usize = dims.iter().product();
            let own = config.members().iter().find_map(|m| name.strip_prefix(&m.prefix)).unwrap_or(name);
            let mut x = self.tensor(&format!("param.{own}"));
            x.resize(n, 0.125);
            tensors.push((name.to_string(), dims.to_vec(), x));
        }
        let settings = Settings::default();
        let card = Card {
            format: checkpoint::FORMAT.into(),
            state: State { finished: true, ..State::new(&settings, config.members().len()).unwrap() },
            task,
            settings,
            train_mean: vec![5.0, 5.0],
            classes: vec![],
            data: String::new(),
            made_by: "a test".into(),
            alpha: Alpha::Drop,
            origin: Default::default(),
            tower_classes: BTreeMap::from([(
                "face".into(),
                ["joy", "grief", "fear", "anger", "no face"].map(String::from).to_vec(),
            )]),
        };
        let metadata = [(CARD, serde_json::to_string(&card).unwrap()), (LAYOUT, "KRSC".into())];
        let metadata = metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        let entries: Vec<Entry> = tensors.iter().map(|(n, s, x)| Entry::f32(n, s, x)).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), &metadata, &entries).unwrap();
        WeightFile::open(file.path()).unwrap()
    }

    /// All maps of one layer, by one device.
    fn explained(&self, layer: Option<&str>, device: Box<dyn Device>) -> (Explainer, Vec<Explained>) {
        let file = self.checkpoint(config(Architecture::Shared, TowerOutput::Softmax));
        let targets = ["valence", "arousal", "class", "class:3"].map(|t| t.parse().unwrap());
        let mut e = Explainer::new(&file, &targets, layer, 3, device).unwrap();
        let all = e.explain(&self.pixels()).unwrap();
        (e, all)
    }
}

/// 1e-4 of the largest number of the map.
fn check(device: &str, layers: &[Option<&str>]) {
    let golden = Golden::read();
    let mut checked = 0;
    for &layer in layers {
        let (e, pictures) = golden.explained(layer, device::open(device, Some(2)).unwrap());
        let ratings: Vec<f32> = pictures.iter().flat_map(|p| p.ratings.clone()).collect();
        for (got, want) in ratings.iter().zip(golden.tensor("ratings")) {
            assert!((got - want).abs() <= 1e-5, "{got} {want}");
        }
        for (p, picture) in pictures.iter().enumerate() {
            for map in &picture.maps {
                let (tower, target) = (&e.towers[map.tower], e.targets[map.target].to_string());
                let fits = |s: &&Spec| s.tower == tower.name && s.layer == tower.layer && s.target == target;
                let (key, spec) = golden.maps.iter().find(|(_, s)| fits(s)).expect("every map is in the file");
                assert_eq!(map.class, spec.classes.as_ref().map(|c| c[p]));
                let value = match map.class {
                    None => picture.ratings[map.target],
                    Some(class) => {
                        let all = golden.tensor(&format!("probabilities.{}", tower.name));
                        all[p * (all.len() / 3) + class]
                    }
                };
                assert!((map.value - value).abs() <= 1e-5);
                let want = golden.tensor(key);
                let want = &want[p * want.len() / 3..(p + 1) * want.len() / 3];
                assert_eq!(map.size.iter().product::<usize>(), want.len());
                let scale = want.iter().fold(0f32, |m, x| m.max(x.abs()));
                assert!(scale > 0.0);
                let error = map.signed.iter().zip(want).map(|(g, w)| (g - w).abs());
                let error = error.fold(0.0, |m: f32, e| if m.is_nan() || e <= m { m } else { e }) / scale;
                assert!(error <= 1e-4, "{device} {} {} {target}: off by {error}", tower.name, tower.layer);
                checked += 1;
            }
        }
    }
    assert_eq!(checked, layers.len() * 3 * 8);
}

#[test]
fn reference_agrees_with_pytorch() {
    check("reference", &[None, Some("conv3_3"), Some("block2_conv2")]);
}

#[test]
fn cpu_agrees_with_pytorch() {
    check("cpu", &[None, Some("conv3_3"), Some("block2_conv2")]);
}

#[test]
fn sim_agrees_with_pytorch() {
    if common::have("sim") {
        check("sim", &[None]);
    }
}

#[test]
fn cuda_agrees_with_pytorch() {
    if common::have("cuda") {
        check("cuda", &[None, Some("conv3_3"), Some("block2_conv2")]);
    }
}

#[test]
fn a_batch_has_the_bits_of_its_pictures() {
    let golden = Golden::read();
    let (_, together) = golden.explained(None, common::cpu());
    let file = golden.checkpoint(config(Architecture::Shared, TowerOutput::Softmax));
    let targets = ["valence", "arousal", "class", "class:3"].map(|t| t.parse().unwrap());
    let mut one = Explainer::new(&file, &targets, None, 1, common::cpu()).unwrap();
    let pixels = golden.pixels();
    let alone: Vec<Explained> =
        pixels.chunks(pixels.len() / 3).flat_map(|picture| one.explain(picture).unwrap()).collect();
    assert_eq!(alone, together);
    // In pieces: two and a padded one.
    let mut two = Explainer::new(&file, &targets, None, 2, common::cpu()).unwrap();
    assert_eq!(two.explain(&pixels).unwrap(), together);
    assert!(two.explain(&pixels[1..]).unwrap_err().to_string().contains("not whole pictures"));
    assert!(two.explain(&[]).unwrap().is_empty());
}

#[test]
fn the_signs_are_the_two_sides_of_one_map() {
    let (_, pictures) = Golden::read().explained(None, common::cpu());
    for map in pictures.iter().flat_map(|p| &p.maps) {
        let (plus, minus) = (map.rectified(Sign::Plus), map.rectified(Sign::Minus));
        for ((x, p), m) in map.signed.iter().zip(&plus).zip(&minus) {
            assert_eq!((*p, *m), (x.max(0.0), (-x).max(0.0)));
        }
    }
}

/// Each member of a split model has towers of its own; here they have the same weights.
#[test]
fn a_split_model_is_explained_member_by_member() {
    let golden = Golden::read();
    let split = golden.checkpoint(config(Architecture::Split, TowerOutput::Softmax));
    let targets = ["arousal".parse().unwrap(), Target::Class(Class::Index(6))];
    let mut e = Explainer::new(&split, &targets, Some("conv3_3"), 3, common::cpu()).unwrap();
    let names: Vec<&str> = e.towers.iter().map(|t| &*t.name).collect();
    assert_eq!(names, ["valence.object", "valence.face", "arousal.object", "arousal.face"]);
    let all = e.explain(&golden.pixels()).unwrap();
    let looked = |target: usize| all[0].maps.iter().filter(|m| m.target == target).map(|m| m.tower).collect::<Vec<_>>();
    assert_eq!(looked(0), [2, 3]);
    // Only the object towers have seven classes.
    assert_eq!(looked(1), [0, 2]);
    assert_eq!(all[1].maps[2].signed, all[1].maps[3].signed);
}

#[test]
fn block_features_are_explained_by_the_last_convolution_that_there_is() {
    let golden = Golden::read();
    for (output, layer) in [
        ("block3".parse().unwrap(), ["conv3_3", "conv3_4"]),
        ("block4".parse().unwrap(), ["conv4_3", "conv4_4"]),
        ("block4+block5".parse().unwrap(), ["conv5_3", "conv5_4"]),
        (TowerOutput::POOLED, ["conv5_3", "conv5_4"]),
    ] {
        let file = golden.checkpoint(config(Architecture::Shared, output));
        let mut e = Explainer::new(&file, &["valence".parse().unwrap()], None, 3, common::cpu()).unwrap();
        assert_eq!(e.towers.iter().map(|t| &*t.layer).collect::<Vec<_>>(), layer);
        let all = e.explain(&golden.pixels()).unwrap();
        assert!(all.iter().all(|p| p.maps.len() == 2 && p.maps.iter().all(|m| m.signed.iter().any(|x| *x != 0.0))));
        // Pooled activations have no classes.
        let e = Explainer::new(&file, &["class".parse().unwrap()], None, 1, common::cpu()).err().unwrap();
        let want = "the model has no target `class`: its towers hand on averaged activations, not classes; choose from \
                    valence, arousal";
        assert_eq!((e.to_string().as_str(), e.exit_code()), (want, 2));
    }
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let file = Golden::read().checkpoint(config(Architecture::Shared, TowerOutput::Softmax));
    let complaint = |target: &str, layer| {
        let e = Explainer::new(&file, &[target.parse().unwrap()], layer, 1, common::cpu()).err().unwrap();
        assert_eq!(e.exit_code(), 2, "{e}");
        e.to_string()
    };
    let e = complaint("valence", Some("conv6_1"));
    assert!(e.contains("the object tower has no convolution `conv6_1`; choose from conv1_1, conv1_2, conv2_1"), "{e}");
    // The object tower is a VGG16.
    assert!(complaint("valence", Some("block5_conv4")).contains("conv5_2, conv5_3"));
    let there = "choose from valence, arousal, class, class:0 to class:6 of object, class:0 to class:4 of face (joy, grief, \
                 fear, anger, no face)";
    for target in ["dominance", "class:7", "class:horse"] {
        let e = complaint(target, None);
        assert_eq!(e, format!("the model has no target `{target}`; {there}"));
    }
    let e = Explainer::new(&file, &["class:anger".parse().unwrap()], None, 1, common::cpu()).unwrap();
    assert_eq!(e.towers[1].classes[3], "anger");
}
