//! Towers with squares of their own: sides, resize rules and grey, all from one decoded photograph.

mod common;
use common::small;
use deep_affect::data::{Alpha, DecodeOptions, LoadOptions, Pictures};
use deep_affect::device::{Cpu, Data, Device, Session};
use deep_affect::error::{Kind, Result};
use deep_affect::graph::{Graph, Value};
use deep_affect::models::{Architecture, Config, Tower, TowerOutput};
use deep_affect::nn::{Mode, Net};
use deep_affect::ops::optim::{Form, Sgd};
use deep_affect::preprocess::{Preprocess, Resize, View};
use deep_affect::shape::{DType, Type};
use deep_affect::train::checkpoint::{self, Card};
use deep_affect::train::features;
use deep_affect::train::fit::{self, Best, Inputs, Samples, Settings, State, Targets, Watch};
use deep_affect::train::network::{Method, Network, Precision, Task};
use deep_affect::train::params::Initial;
use deep_affect::train::predictor::Predictor;
use deep_affect::weights::WeightFile;
use deep_affect::weights::init::Rule;
use std::path::Path;
use std::sync::Arc;

fn cpu() -> Box<dyn Device> {
    Box::new(Cpu::new(Some(2)).unwrap())
}

/// 64 pixels by two rules, and 44 grey ones for a tower without hidden dense layers.
fn config(architecture: Architecture) -> Config {
    let mut c = small(architecture, 32, 0.5);
    c.image = 64;
    let presets = ["unit", "torch", "fer2013"].map(|p| Preprocess::preset(p).unwrap());
    c.towers.iter_mut().zip(presets).for_each(|(t, p)| t.preprocess = p);
    (c.towers[2].image, c.towers[2].dense) = (Some(44), vec![]);
    c.separate_views();
    c
}

const VIEWS: [View; 3] = [
    View { side: 64, resize: Resize::SquashBilinear, grey: false, crop: None },
    View { side: 64, resize: Resize::CropBilinear, grey: false, crop: None },
    View { side: 44, resize: Resize::SquashBilinear, grey: true, crop: None },
];

/// Seven photographs of 90 x 70, each with colours and an edge of its own.
fn pictures(views: &[View]) -> Pictures {
    let png = |i: u32| {
        let pixel = |x: u32, y: u32| match x + i * y > 70 {
            true => image::Rgb([(i * 37) as u8, (x * 2) as u8, 200 - y as u8]),
            false => image::Rgb([(x * (i % 3 + 1)) as u8, (y * 3) as u8, (x ^ y) as u8]),
        };
        let mut out = std::io::Cursor::new(vec![]);
        image::RgbImage::from_fn(90, 70, pixel).write_to(&mut out, image::ImageFormat::Png).unwrap();
        out.into_inner()
    };
    let files: Vec<_> = (0..7).map(png).collect();
    let items: Vec<(&str, &[u8])> = files.iter().map(|b| ("a picture", b.as_slice())).collect();
    let options = LoadOptions { views: views.to_vec(), decode: DecodeOptions::default(), cache_dir: None };
    Pictures::from_bytes(&items, &options, &()).unwrap().accept(false).unwrap()
}

fn samples(pictures: &Pictures) -> Samples<'_> {
    let ratings = (0..2 * pictures.len()).map(|i| 1.0 + (i * i % 17) as f32 / 4.0).collect();
    Samples { inputs: Inputs::Pictures(pictures), targets: Targets::ratings(ratings), weight: vec![1.0; 7] }
}

fn initial() -> Initial {
    let mut initial = Initial::new(5, true);
    initial.rule = Rule::He;
    initial
}

fn begun(task: &Task, method: Method) -> Network {
    let mut net = Network::new(task, 3, method, cpu()).unwrap();
    let params = net.stored();
    for part in &net.parts {
        initial().fill(&mut net.session, &params, &part.prefix, &[]).unwrap();
    }
    net
}

fn settings(augment: Option<&str>) -> Settings {
    let augment = augment.map(|a| a.parse().unwrap());
    Settings { epochs: 2, batch: 3, lr: 1e-3, patience: 0, seed: 11, augment, ..Settings::default() }
}

fn method(s: &Settings, resident: Option<usize>) -> Method {
    let sgd = Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 };
    Method { augment: s.augment, resident, ..sgd.into() }
}

fn save(path: &Path, task: &Task, s: &Settings, state: &State, net: &Network, best: &Best) -> Result<()> {
    let card = Card {
        format: checkpoint::FORMAT.into(),
        task: task.clone(),
        settings: s.clone(),
        state: state.clone(),
        train_mean: vec![0.0; 2],
        classes: vec![],
        data: String::new(),
        made_by: "a test".into(),
        alpha: Alpha::Drop,
        tower_classes: Default::default(),
        origin: Default::default(),
    };
    checkpoint::save(path, &card, net, best, &[])
}

/// Parameters and velocities, bit for bit.
fn bits(net: &Network) -> Vec<Vec<u32>> {
    let all = net.stored().into_iter().chain(net.parts.iter().flat_map(|p| p.memory()));
    all.map(|v| net.session.read(v).unwrap().iter().map(|x| x.to_bits()).collect()).collect()
}

/// Stops after two updates, and then writes a checkpoint.
struct Stopper<'a>(u32, &'a Path, &'a Task, &'a Settings);

impl Watch for Stopper<'_> {
    fn step(&mut self, _: &State, _: u32, _: f64) -> bool {
        self.0 += 1;
        self.0 == 2
    }
    fn keep(&mut self, net: &Network, state: &State, best: &Best) -> Result<()> {
        if self.0 == 2 { save(self.1, self.2, self.3, state, net, best) } else { Ok(()) }
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    let c = config(Architecture::Split);
    assert_eq!(c.views(), VIEWS);
    let (task, pictures) = (Task::EndToEnd { config: c, frozen: vec![] }, pictures(&VIEWS));
    let (data, rows): (_, [&[usize]; 2]) = (samples(&pictures), [&[0, 1, 2, 3, 4], &[5, 6]]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    let ranges = Some("rotation=15,shift=0.1,shear=5,zoom=0.1,flip");
    let mut sent = vec![];
    for (augment, resident) in [(None, None), (ranges, None), (None, Some(7)), (ranges, Some(7))] {
        let s = settings(augment);
        let mut whole = begun(&task, method(&s, resident));
        let before = bits(&whole);
        let (mut state, mut best) = (State::new(&s, 2).unwrap(), vec![]);
        fit::fit(&mut whole, &data, rows, &s, &mut state, &mut best, &mut ()).unwrap();
        let want = (bits(&whole), state, best);
        assert!(want.0.iter().zip(&before).all(|(a, b)| a != b), "every tower learns: {augment:?}");

        let mut net = begun(&task, method(&s, resident));
        let (mut state, mut best) = (State::new(&s, 2).unwrap(), vec![]);
        let mut stop = Stopper(0, &path, &task, &s);
        let e = fit::fit(&mut net, &data, rows, &s, &mut state, &mut best, &mut stop).unwrap_err();
        assert_eq!(e.kind(), Kind::Interrupted, "{e}");
        let file = WeightFile::open(&path).unwrap();
        let card = checkpoint::card(&file).unwrap();
        assert_eq!(card.task, task);
        let mut net = Network::new(&task, 3, method(&s, resident), cpu()).unwrap();
        (state, best) = (card.state, checkpoint::restore(&file, &mut net).unwrap());
        fit::fit(&mut net, &data, rows, &s, &mut state, &mut best, &mut ()).unwrap();
        assert!((bits(&net), state, best) == want, "{augment:?}, {resident:?}: other bits after resuming");

        // Where the pictures lie changes no bit, and augmentation does.
        match resident {
            None => sent.push(want),
            Some(_) => assert!(sent[usize::from(augment.is_some())] == want, "{augment:?}"),
        }
    }
    assert!(sent[0].0 != sent[1].0);
}

/// What a tower makes of squares when there is nothing else.
fn alone(file: &Arc<WeightFile>, tower: &Tower, squares: &Pictures) -> Vec<f32> {
    let (n, side) = (squares.len(), squares.views()[0].side);
    let mut g = Graph::default();
    let x = g.input("x", Type::new(DType::U8, &[n, side, side, 3]));
    let y = tower.build(&mut Net::new(&mut g, Mode::Eval), x, TowerOutput::Softmax);
    run(file, g, &[(x, Data::U8(squares.bytes()))], y)
}

fn run(file: &Arc<WeightFile>, g: Graph, inputs: &[(Value, Data)], y: Value) -> Vec<f32> {
    let mut s = Session::new(g, &[&[y]], Default::default(), cpu()).unwrap();
    checkpoint::bind(file, &mut s).unwrap();
    inputs.iter().for_each(|(v, x)| s.write(*v, *x).unwrap());
    s.run(0).unwrap();
    s.read(y).unwrap()
}

#[test]
fn predictions_are_those_of_each_tower_alone_on_its_own_square() {
    let c = config(Architecture::Shared);
    let (task, s) = (Task::EndToEnd { config: c.clone(), frozen: vec![] }, settings(None));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.safetensors");
    let state = State { finished: true, ..State::new(&s, 1).unwrap() };
    save(&path, &task, &s, &state, &begun(&task, method(&s, None)), &vec![]).unwrap();
    let (file, all) = (WeightFile::open(&path).unwrap(), pictures(&VIEWS));
    let squares = VIEWS.map(|v| pictures(&[v]));

    let towers: Vec<Vec<f32>> = c.towers.iter().zip(&squares).map(|(t, p)| alone(&file, t, p)).collect();
    let row = |i| c.towers.iter().zip(&towers).flat_map(move |(t, y)| &y[i * t.classes..][..t.classes]);
    let joined: Vec<f32> = (0..7).flat_map(row).copied().collect();
    let (g, x, y) = Task::Head { config: c.clone() }.evaluation(7, Precision::Float32).unwrap();
    let want = run(&file, g, &[(x[0], Data::F32(&joined))], y[0]);
    // No two pictures alike, so that a mixed-up square would show.
    let distinct: std::collections::HashSet<u32> = want.iter().map(|y| y.to_bits()).collect();
    assert_eq!(distinct.len(), want.len(), "{want:?}");

    // In batches with and without padding.
    for batch in [1, 3, 7] {
        let got = Predictor::new(&file, batch, cpu()).unwrap().predict(all.bytes()).unwrap();
        assert_eq!(got, want, "batch {batch}");
    }
    // Frozen towers see the same.
    let rows: Vec<usize> = (0..7).collect();
    let (extracted, _) = features::extract(&c, &initial(), &all, &rows, 3, cpu(), &()).unwrap();
    assert_eq!(extracted[0].1, joined);
    // A square of another view is another picture.
    let shared = Config { towers: c.towers.iter().map(|t| Tower { image: None, ..t.clone() }).collect(), ..c };
    assert_eq!(shared.views(), VIEWS[..1]);
}

#[test]
fn models_from_before_are_read_and_written_as_they_were() {
    let mut c = small(Architecture::Shared, 16, 0.5);
    c.towers[1].preprocess = Preprocess::preset("torch").unwrap();
    let text = serde_json::to_string(&c).unwrap();
    assert!(!text.contains("grey") && text.matches("\"image\"").count() == 1, "{text}");
    let back: Config = serde_json::from_str(&text).unwrap();
    assert_eq!((&back, serde_json::to_string(&back).unwrap()), (&c, text));
    // One square for all, by the rule of the first tower, whatever the others were trained on.
    assert_eq!(back.views(), [View { side: 32, resize: Resize::SquashBilinear, grey: false, crop: None }]);
    // A model that is made now gives each its own, and equal ones once.
    c.separate_views();
    let own = View { side: 32, resize: Resize::CropBilinear, grey: false, crop: None };
    assert_eq!((c.views(), c.towers[1].image, c.towers[2].image), (vec![back.views()[0], own], Some(32), None));
}

#[test]
fn a_square_that_pools_to_nothing_is_refused() {
    let mut c = config(Architecture::Shared);
    for side in [31, 4097] {
        c.towers[2].image = Some(side);
        let task = Task::EndToEnd { config: c.clone(), frozen: vec![] };
        let e = task.evaluation(1, Precision::Float32).err().unwrap();
        assert!(
            e.to_string().contains(&format!("the face tower takes images of 32 to 4096 pixels, not {side}")),
            "{e}"
        );
    }
}
