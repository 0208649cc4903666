//! Batch norm in a network: folding, rows that do not count, and statistics that a stopped run takes up again.
#![allow(clippy::neg_cmp_op_on_partial_ord)] // `!(err <= tol)`: NaN must fail.

mod common;
use common::*;
use deep_affect::data::Alpha;
use deep_affect::device::{Data, Device, Session};
use deep_affect::error::Kind;
use deep_affect::graph::{self, Graph, Value};
use deep_affect::models::{Config, Goal};
use deep_affect::nn::{Conv, Mode, Net};
use deep_affect::ops::arith::Add;
use deep_affect::ops::dropout;
use deep_affect::ops::loss::{Mse, Reduction};
use deep_affect::ops::norm::Convention;
use deep_affect::ops::optim::{self, Form, Sgd};
use deep_affect::plan::Options;
use deep_affect::rng::{Rng, Stream};
use deep_affect::shape::{Type, Window};
use deep_affect::train::checkpoint::{self, Card};
use deep_affect::train::fit::{self, Best, Inputs, Samples, Settings, State, Targets, Watch};
use deep_affect::train::network::{Losses, Network, Part, Task, Term};
use deep_affect::weights::WeightFile;
use std::path::PathBuf;

fn numbers(stream: u32, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(3, Stream::Test(stream), 0);
    (0..n).map(|_| 2.0 * rng.uniform() - 1.0).collect()
}

const CONVS: [(&str, usize, usize, bool); 3] = [("a", 19, 1, false), ("b", 24, 1, true), ("c", 24, 24, false)];

/// Three convolutions with batch norms: plain, with a bias, depthwise.
fn tower(net: &mut Net, mut x: Value) -> Value {
    for (name, filters, groups, bias) in CONVS {
        let conv = Conv { filters, window: Window::square(3, 1, 1), groups, bias, relu: name != "c" };
        x = net.conv_bn(name, &format!("{name}_bn"), x, conv, Convention::KERAS);
    }
    x
}

/// Weights and statistics; variances are positive.
fn fill(s: &mut Session, seed: u32) {
    for (i, v) in (seed..).zip(s.graph().stored().collect::<Vec<_>>()) {
        let mut x = numbers(i, s.graph().ty(v).numel());
        if s.graph().name(v).ends_with("running_var") {
            x.iter_mut().for_each(|x| *x = 0.5 + x.abs());
        }
        s.write(v, Data::F32(&x)).unwrap();
    }
}

struct Towers {
    s: Session,
    x: Value,
    /// Folded, unfolded.
    y: [Value; 2],
}

/// Plans: both, folded alone, unfolded alone, an update of a weight.
fn towers(device: Box<dyn Device>) -> Towers {
    let mut g = Graph::default();
    let x = g.input("x", Type::f32(&[2, 7, 5, 3]));
    let folded = tower(&mut Net::new(&mut g, Mode::Eval), x);
    // A second use finds the folded filters that are there.
    let again = tower(&mut Net::new(&mut g, Mode::Eval), x);
    let twice = g.push1(Add, &[folded, again]);
    let unfolded = tower(&mut Net::new(&mut g, Mode::Eval).unfolded(), x);
    let (w, hyper) = (g.find("a.weight").unwrap(), g.input("hyper", optim::hyper_type()));
    let (v, d) = (g.state("v", g.ty(w)), g.input("d", g.ty(w)));
    let sgd = Sgd { form: Form::Torch, nesterov: false, dampening: 0.0 };
    let step = g.push(sgd, &[w, v, d, hyper]);
    let want: [&[Value]; 4] = [&[folded, unfolded, twice], &[folded], &[unfolded], &step];
    let mut s = Session::new(g, &want, Options::default(), device).unwrap();
    s.write(x, Data::F32(&numbers(99, 2 * 7 * 5 * 3))).unwrap();
    s.write(d, Data::F32(&numbers(98, 19 * 3 * 3 * 3))).unwrap();
    s.write(hyper, Data::F32(&[0.5, 0.0, 0.0, 0.0])).unwrap();
    fill(&mut s, 0);
    Towers { s, x, y: [folded, unfolded] }
}

/// The largest difference and the largest value.
fn apart(t: &mut Towers) -> [f64; 2] {
    t.s.run(0).unwrap();
    let [a, b] = t.y.map(|y| t.s.read64(y).unwrap());
    let worst = a.iter().zip(&b).map(|(a, b)| if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() });
    [worst.fold(0.0, f64::max), b.iter().fold(0.0, |m, b| m.max(b.abs()))]
}

#[test]
fn folded_convolutions_compute_what_unfolded_ones_do() {
    let mut exact = towers(reference());
    let [error, scale] = apart(&mut exact);
    assert!(error <= 1e-12 * scale, "{error} of {scale}");
    // In float32 a layer of L products is off by (L + 10) u of its magnitudes either way. Magnitudes are what the layers
    // compute of |x|, with every weight positive and no mean to subtract.
    let mut bound = towers(reference());
    let values: Vec<Value> = bound.s.graph().stored().chain([bound.x]).collect();
    for v in values {
        let (name, x) = (bound.s.graph().name(v).to_string(), bound.s.read(v).unwrap());
        let sign = if name.ends_with("running_mean") { -1.0 } else { 1.0 };
        bound.s.write(v, Data::F32(&x.iter().map(|x| sign * x.abs()).collect::<Vec<_>>())).unwrap();
    }
    bound.s.run(2).unwrap();
    let magnitude = bound.s.read64(bound.y[1]).unwrap().into_iter().fold(0.0, f64::max);
    let products = 9.0 * (3.0 + 19.0 + 1.0) + 30.0;
    let [error, scale] = apart(&mut towers(cpu()));
    let bound = 2.0 * products * 2f64.powi(-24) * magnitude;
    println!("error {error:.1e} of {scale:.1e}, bound {bound:.1e}");
    assert!(error <= bound, "{error} > {bound}");
    assert!(bound < 1e-2 * scale, "the bound says nothing");
}

/// Whatever changes a weight, the folded filters follow; they are not made again without need.
#[test]
fn folded_filters_follow_their_weights() {
    let mut t = towers(cpu());
    let folded = |t: &mut Towers| {
        t.s.run(1).unwrap();
        t.s.read(t.y[0]).unwrap()
    };
    let first = folded(&mut t);
    assert_eq!(first, folded(&mut t));
    let state = t.s.graph().find("a.folded.weight").unwrap();
    let own = t.s.plans().len() - 1;
    let before = t.s.read(state).unwrap();
    t.s.run(own).unwrap();
    assert_eq!(before, t.s.read(state).unwrap(), "preparing twice changes nothing");
    // A plan that updates a weight in place.
    t.s.run(3).unwrap();
    let stepped = folded(&mut t);
    assert_ne!(first, stepped);
    // Weights from outside.
    fill(&mut t.s, 50);
    assert_ne!(stepped, folded(&mut t));
    fill(&mut t.s, 0);
    assert_eq!(first, folded(&mut t));
    let [error, scale] = apart(&mut t);
    assert!(error <= 1e-4 * scale);
}

/// A graph in training mode over 5 rows, of which the first three count.
fn masked(garbage: f32, device: Box<dyn Device>) -> Vec<Vec<f32>> {
    let mut g = Graph::default();
    let (x, rows) = (g.input("x", Type::f32(&[5, 4, 3, 18])), g.input("rows", Type::f32(&[5])));
    let mut net = Net::new(&mut g, Mode::Masked { rows });
    let y = net.batchnorm("bn", x, Convention::TORCH, true);
    let (statistics, new): (Vec<Value>, Vec<Value>) = net.take_updates().into_iter().unzip();
    let want: Vec<Value> = [y].into_iter().chain(new).collect();
    let mut s = Session::new(g, &[&want], Options::default(), device).unwrap();
    let mut data = numbers(0, 5 * 4 * 3 * 18);
    data[3 * 4 * 3 * 18..].iter_mut().for_each(|x| *x += garbage);
    s.write(x, Data::F32(&data)).unwrap();
    s.write(rows, Data::F32(&[0.5, 2.0, 1.0, 0.0, 0.0])).unwrap();
    fill(&mut s, 1);
    s.run(0).unwrap();
    let y = s.read(y).unwrap();
    let mut results = vec![y[..3 * 4 * 3 * 18].to_vec()];
    results.extend(statistics.iter().map(|v| s.read(*v).unwrap()));
    results
}

#[test]
fn rows_that_do_not_count_move_nothing() {
    for device in [reference, cpu] {
        assert_eq!(masked(0.0, device()), masked(1e6, device()));
    }
}

/// features [4,6] -> dense, batch norm, dense: a network as the training loop knows it.
fn network() -> Network {
    let (mut g, batch) = (Graph::default(), 4);
    let x = g.input("x", Type::f32(&[batch, 6]));
    let (weight, state) = (g.input("weight", Type::f32(&[batch])), g.input("dropout", dropout::state_type()));
    let model = |net: &mut Net| {
        let h = net.dense("fc1", x, 8, false);
        let h = net.batchnorm("bn1", h, Convention::TORCH, true);
        net.dense("out", h, 1, false)
    };
    let output = model(&mut Net::new(&mut g, Mode::Eval));
    let mut net = Net::new(&mut g, Mode::Train { state, rows: weight });
    let prediction = model(&mut net);
    let (statistics, mut updates): (Vec<Value>, Vec<Value>) = net.take_updates().into_iter().unzip();
    let y = g.input("rating", Type::f32(&[batch, 1]));
    let loss = g.push1(Mse { reduction: Reduction::Mean }, &[prediction, y, weight]);
    let params: Vec<Value> = g.of_kind(graph::Kind::Param).collect();
    let grads = g.backward(loss, &params).unwrap();
    let hyper = g.input("hyper", optim::hyper_type());
    let mut velocity = vec![];
    for (&w, &d) in params.iter().zip(&grads) {
        velocity.push(g.state(&format!("velocity.{}", g.name(w)), g.ty(w)));
        let sgd = Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 };
        updates.extend(g.push(sgd, &[w, *velocity.last().unwrap(), d, hyper]));
    }
    updates.push(loss);
    let own = params.iter().map(|v| 0..g.ty(*v).numel()).collect();
    let session = Session::new(g, &[&updates, &[output]], Options::default(), cpu()).unwrap();
    let (prefix, targets, penalty) = (String::new(), vec![0], None);
    let names = vec!["rating".to_string()];
    let term = Term { goal: Goal::Ratings, names, y, output, prediction, weight: 1.0 };
    let parts = vec![Part {
        prefix,
        targets,
        terms: vec![term],
        hyper,
        scaling: None,
        share: None,
        loss,
        penalty,
        own,
        params,
        velocity,
        squares: vec![],
        remembers: &["velocity"],
        statistics,
    }];
    let losses = Losses::default();
    let (whole, peers, sharded, portion, rows) = (batch, None, false, None, None);
    let x = vec![x];
    let mut net = Network {
        session,
        batch,
        whole,
        peers,
        sharded,
        x,
        tables: vec![],
        rows,
        weight,
        portion,
        state,
        parts,
        losses,
    };
    fill(&mut net.session, 7);
    net
}

/// Asks to stop after some updates, and then writes a checkpoint.
struct Stopper {
    left: u32,
    path: PathBuf,
    card: Card,
}

impl Watch for Stopper {
    fn step(&mut self, _: &State, _: u32, _: f64) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }
    fn keep(&mut self, net: &Network, state: &State, best: &Best) -> deep_affect::error::Result<()> {
        self.card.state = state.clone();
        checkpoint::save(&self.path, &self.card, net, best, &[])
    }
}

/// Ten rows in batches of four: every epoch ends in a batch that is half padding.
#[test]
fn statistics_survive_a_stop_bit_for_bit() {
    let rows = 14;
    let inputs = Inputs::Features(vec![(6, numbers(70, 6 * rows))]);
    let samples = Samples { inputs, targets: Targets::ratings(numbers(71, rows)), weight: vec![1.0; rows] };
    let (train, val): (Vec<usize>, Vec<usize>) = ((0..10).collect(), (10..rows).collect());
    let settings = Settings { epochs: 4, batch: 4, lr: 0.02, ..Settings::default() };
    let bits = |net: &Network| -> Vec<Vec<u32>> {
        let read = |v| net.session.read(v).unwrap().iter().map(|x| x.to_bits()).collect();
        net.stored().into_iter().map(read).collect()
    };
    let fresh = network();
    let began = bits(&fresh);
    let mut whole = fresh;
    let mut state = State::new(&settings, 1).unwrap();
    fit::fit(&mut whole, &samples, [&train, &val], &settings, &mut state, &mut vec![], &mut ()).unwrap();
    let mean = whole.stored().iter().position(|v| whole.session.graph().name(*v) == "bn1.running_mean").unwrap();
    assert_ne!(began[mean], bits(&whole)[mean], "the statistics moved");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stopped.safetensors");
    for left in [2, 5, 8] {
        let (mut net, mut state, mut best) = (network(), State::new(&settings, 1).unwrap(), vec![]);
        let config = Config::published(deep_affect::models::Architecture::Shared, &["object".into()], 5).unwrap();
        let card = Card {
            format: checkpoint::FORMAT.into(),
            task: Task::Head { config },
            settings: settings.clone(),
            state: state.clone(),
            train_mean: vec![0.0],
            classes: vec![],
            data: String::new(),
            made_by: "a test".into(),
            alpha: Alpha::Drop,
            tower_classes: Default::default(),
            origin: Default::default(),
        };
        let mut stopper = Stopper { left, path: path.clone(), card };
        let e = fit::fit(&mut net, &samples, [&train, &val], &settings, &mut state, &mut best, &mut stopper);
        assert_eq!(e.unwrap_err().kind(), Kind::Interrupted);
        let file = WeightFile::open(&path).unwrap();
        let (mut net, mut state) = (network(), checkpoint::card(&file).unwrap().state);
        let mut best = checkpoint::restore(&file, &mut net).unwrap();
        fit::fit(&mut net, &samples, [&train, &val], &settings, &mut state, &mut best, &mut ()).unwrap();
        assert_eq!(bits(&whole), bits(&net), "stopped after {left} updates");
    }
}
