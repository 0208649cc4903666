//! Bits that do not move: predictions over runs, threads, batches, places in the batch and vector levels; training over
//! runs, threads and vector levels. All of it through the paths that the commands use.

mod common;
use common::small;
use deep_affect::data::{Alpha, DecodeOptions, LoadOptions, Pictures};
use deep_affect::device::{Checks, Cpu, Data, Device, Session};
use deep_affect::graph::{Kind, Value};
use deep_affect::launch::Simd;
use deep_affect::models::{self, Architecture, Config};
use deep_affect::ops::optim::{Form, Sgd};
use deep_affect::plan::Options;
use deep_affect::preprocess::{Resize, View};
use deep_affect::rng::{Rng, Stream};
use deep_affect::train::checkpoint::{self, Card};
use deep_affect::train::fit::{self, Inputs, Samples, Settings, State, Targets};
use deep_affect::train::network::{Network, Precision, Task};
use deep_affect::train::params::Initial;
use deep_affect::train::predictor::Predictor;
use deep_affect::weights::init::Rule;
use std::path::Path;

const THREADS: [usize; 3] = [1, 2, 4];
const BATCHES: [usize; 4] = [1, 2, 7, 32];
const SGD: Sgd = Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 };

fn cpu(simd: Simd, threads: usize) -> Box<dyn Device> {
    Box::new(Cpu::with(simd, Some(threads), Checks::None).unwrap())
}

/// The levels that promise equal bits: all that multiply and add with one rounding.
fn fused_levels() -> Vec<Simd> {
    Simd::available().into_iter().filter(|s| *s != Simd::PORTABLE).collect()
}

/// Random squares of u8 RGB.
fn squares(n: usize, side: usize) -> Vec<u8> {
    let mut rng = Rng::new(4, Stream::Test(0), 0);
    (0..n * side * side * 3).map(|_| rng.below(256) as u8).collect()
}

/// Drawn weights for everything that a session trains or reads.
fn fill(s: &mut Session, prefixes: &[&str]) {
    let mut initial = Initial::new(5, true);
    initial.rule = Rule::He;
    let params: Vec<Value> = s.graph().stored().collect();
    prefixes.iter().for_each(|p| initial.fill(s, &params, p, &[]).unwrap());
}

fn network(task: &Task, batch: usize, device: Box<dyn Device>) -> Network {
    let mut net = Network::new(task, batch, SGD, device).unwrap();
    let prefixes: Vec<String> = net.parts.iter().map(|p| p.prefix.clone()).collect();
    fill(&mut net.session, &prefixes.iter().map(String::as_str).collect::<Vec<_>>());
    net
}

fn end_to_end(config: &Config) -> Task {
    Task::EndToEnd { config: config.clone(), frozen: vec![] }
}

/// A finished checkpoint of drawn weights.
fn save(config: &Config, path: &Path) {
    let task = end_to_end(config);
    let net = network(&task, 1, cpu(Simd::detect(), 2));
    let settings = Settings::default();
    let card = Card {
        format: checkpoint::FORMAT.into(),
        task,
        state: State { finished: true, ..State::new(&settings, net.parts.len()).unwrap() },
        settings,
        train_mean: vec![5.0; 2],
        classes: vec![],
        data: String::new(),
        made_by: "a test".into(),
        alpha: Alpha::Drop,
        tower_classes: Default::default(),
        origin: Default::default(),
    };
    checkpoint::save(path, &card, &net, &vec![], &[]).unwrap();
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// `answer(threads, batch, pictures)` gives `width` numbers a picture. Those of one picture alone on one thread are the
/// truth for every run, thread count, batch and place. Returns them.
fn same_everywhere(
    what: &str,
    side: usize,
    batches: &[usize],
    mut answer: impl FnMut(usize, usize, &[u8]) -> Vec<f32>,
) -> Vec<u32> {
    let n = *batches.iter().max().unwrap();
    let (x, size) = (squares(n, side), side * side * 3);
    let truth = bits(&answer(1, 1, &x));
    let width = truth.len() / n;
    let distinct: std::collections::BTreeSet<&[u32]> = truth.chunks(width).collect();
    assert!(distinct.len() == n, "{what}: {} answers to {n} pictures: the test is blind", distinct.len());
    assert!(truth.iter().all(|b| f32::from_bits(*b).is_finite()), "{what}");
    for threads in THREADS {
        for &batch in batches {
            let got = bits(&answer(threads, batch, &x));
            assert!(got == truth, "{what}: {threads} threads, batch {batch}");
        }
    }
    // Every picture in every place of the largest batch.
    for shift in 1..n {
        let turned = [&x[shift * size..], &x[..shift * size]].concat();
        let got = bits(&answer(2, n, &turned));
        assert!(got == [&truth[shift * width..], &truth[..shift * width]].concat(), "{what}: moved by {shift}");
    }
    truth
}

#[test]
fn predictions_of_the_fused_model() {
    for (architecture, width) in [(Architecture::Shared, 16), (Architecture::Split, 64)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        save(&small(architecture, width, 0.5), &path);
        let mut levels = vec![];
        for simd in Simd::available() {
            let mut open: Vec<((usize, usize), Predictor)> = vec![];
            let answer = |threads, batch, x: &[u8]| {
                let key = (threads, batch);
                if !open.iter().any(|o| o.0 == key) {
                    open.push((key, Predictor::open(&path, batch, cpu(simd, threads)).unwrap()));
                }
                open.iter_mut().find(|o| o.0 == key).unwrap().1.predict(x).unwrap()
            };
            levels.push((simd, same_everywhere(&format!("{architecture:?} {simd:?}"), 32, &BATCHES, answer)));
        }
        levels.retain(|l| fused_levels().contains(&l.0));
        assert!(levels.windows(2).all(|w| w[0].1 == w[1].1), "{architecture:?}: the vector levels differ");
    }
}

/// Layers as wide as the published ones, where routines cut their work into pieces.
#[test]
fn predictions_at_full_width() {
    let mut c = small(Architecture::Shared, 1, 1.0);
    c.towers.truncate(1);
    c.towers[0].dense = vec![4096];
    let task = end_to_end(&c);
    let mut levels = vec![];
    for simd in fused_levels() {
        let at = |threads: usize, batch: usize, x: &[u8]| {
            let (g, image, outputs) = task.evaluation(batch, Precision::Float32).unwrap();
            let mut s = Session::new(g, &[&outputs], Options::default(), cpu(simd, threads)).unwrap();
            fill(&mut s, &[""]);
            let one = |x: &[u8]| {
                s.write(image[0], Data::U8(x)).unwrap();
                s.run(0).unwrap();
                s.read(outputs[0]).unwrap()
            };
            x.chunks(batch * 32 * 32 * 3).flat_map(one).collect::<Vec<f32>>()
        };
        let x = squares(4, 32);
        let truth = bits(&at(1, 1, &x));
        for (threads, batch) in [(2, 1), (4, 2), (2, 4)] {
            assert!(bits(&at(threads, batch, &x)) == truth, "{simd:?}: {threads} threads, batch {batch}");
        }
        levels.push(truth);
    }
    assert!(levels.windows(2).all(|w| w[0] == w[1]), "the vector levels differ");
}

fn classifier(n: &models::Network) -> Task {
    Task::Classifier { network: n.name.into(), width: 16, classes: 5, image: side(n) }
}

/// Large enough that filters see more than their centre.
fn side(n: &models::Network) -> usize {
    n.smallest.max(32)
}

#[test]
fn predictions_of_every_network() {
    for n in models::ALL {
        let task = classifier(n);
        let mut levels = vec![];
        for simd in fused_levels() {
            let mut open: Vec<((usize, usize), Session, Value, Value)> = vec![];
            let answer = |threads, batch: usize, x: &[u8]| {
                let key = (threads, batch);
                if !open.iter().any(|o| o.0 == key) {
                    let (g, image, outputs) = task.evaluation(batch, Precision::Float32).unwrap();
                    let mut s = Session::new(g, &[&outputs], Options::default(), cpu(simd, threads)).unwrap();
                    fill(&mut s, &[""]);
                    open.push((key, s, image[0], outputs[0]));
                }
                let (_, s, image, output) = open.iter_mut().find(|o| o.0 == key).unwrap();
                let size = batch * side(n) * side(n) * 3;
                let mut all = vec![];
                for piece in x.chunks(size) {
                    let mut whole = piece.to_vec();
                    whole.resize(size, 0);
                    s.write(*image, Data::U8(&whole)).unwrap();
                    s.run(0).unwrap();
                    all.extend_from_slice(&s.read(*output).unwrap()[..5 * batch * piece.len() / size]);
                }
                all
            };
            levels.push(same_everywhere(&format!("{} {simd:?}", n.name), side(n), &[1, 2, 7], answer));
        }
        assert!(levels.windows(2).all(|w| w[0] == w[1]), "{}: the vector levels differ", n.name);
        println!("{}", n.name);
    }
}

fn pictures(n: usize, side: usize) -> Pictures {
    let file = |square: &[u8]| {
        let mut png = std::io::Cursor::new(vec![]);
        let image = image::RgbImage::from_raw(side as u32, side as u32, square.to_vec()).unwrap();
        image.write_to(&mut png, image::ImageFormat::Png).unwrap();
        png.into_inner()
    };
    let files: Vec<Vec<u8>> = squares(n, side).chunks(side * side * 3).map(file).collect();
    let items: Vec<(&str, &[u8])> = files.iter().map(|b| ("a picture", b.as_slice())).collect();
    let view = View { side, resize: Resize::SquashNearest, grey: false, crop: None };
    let options = LoadOptions { views: vec![view], decode: DecodeOptions::default(), cache_dir: None };
    Pictures::from_bytes(&items, &options, &()).unwrap().accept(false).unwrap()
}

/// Weights, velocities and everything else that a run of three updates leaves, as bits.
fn trained(task: &Task, pictures: &Pictures, device: Box<dyn Device>) -> Vec<u32> {
    let n = pictures.len();
    let mut net = network(task, n.div_ceil(3), device);
    let targets = match task {
        Task::EndToEnd { .. } => Targets::ratings((0..2 * n).map(|i| 2.0 + (i * i % 17) as f32 / 4.0).collect()),
        _ => Targets::labels((0..n).map(|i| (i % 5) as i32).collect()),
    };
    let data = Samples { inputs: Inputs::Pictures(pictures), targets, weight: vec![1.0; n] };
    let s = Settings { epochs: 1, batch: net.batch, lr: 1e-3, plateau: None, patience: 0, ..Settings::default() };
    let mut state = State::new(&s, net.parts.len()).unwrap();
    let rows: Vec<usize> = (0..n).collect();
    let tensors = |net: &Network| -> Vec<Vec<f32>> {
        net.parts.iter().flat_map(|p| &p.params).map(|v| net.session.read(*v).unwrap()).collect()
    };
    let before = tensors(&net);
    fit::fit(&mut net, &data, [&rows, &[]], &s, &mut state, &mut vec![], &mut ()).unwrap();
    assert_eq!(state.step, 3);
    let after = weights(&net);
    assert!(after.iter().all(|b| f32::from_bits(*b).is_finite()));
    let moved = before.iter().zip(tensors(&net)).filter(|(a, b)| *a != b).count();
    assert!(2 * moved > before.len(), "only {moved} of {} tensors moved", before.len());
    after
}

fn weights(net: &Network) -> Vec<u32> {
    let g = net.session.graph();
    g.stored().chain(g.of_kind(Kind::State)).flat_map(|v| bits(&net.session.read(v).unwrap())).collect()
}

/// Two runs, and runs on other threads and vector levels, leave the same weights.
fn trains_alike(what: &str, task: &Task, pictures: &Pictures) {
    let mut levels = vec![];
    for simd in Simd::available() {
        let first = trained(task, pictures, cpu(simd, 1));
        for threads in THREADS {
            assert!(trained(task, pictures, cpu(simd, threads)) == first, "{what} {simd:?}: {threads} threads");
        }
        if fused_levels().contains(&simd) {
            levels.push(first);
        }
    }
    assert!(levels.windows(2).all(|w| w[0] == w[1]), "{what}: the vector levels differ");
}

#[test]
fn training_the_fused_model() {
    for (architecture, width) in [(Architecture::Shared, 16), (Architecture::Split, 64)] {
        let mut c = small(architecture, width, 0.5);
        (c.towers[1].l2, c.towers[1].keep) = (2e-4, 0.5);
        trains_alike(&format!("{architecture:?}"), &end_to_end(&c), &pictures(20, 32));
    }
}

#[test]
fn training_every_network() {
    for n in models::ALL {
        trains_alike(n.name, &classifier(n), &pictures(11, side(n)));
        println!("{}", n.name);
    }
}
