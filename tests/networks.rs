//! Every published network: parameter counts, size limits, gradients, a few steps of training.

mod common;
use common::*;
use deep_affect::conform::{self, Status};
use deep_affect::device::{Data, Device, Session};
use deep_affect::graph::{Graph, Kind, Value};
use deep_affect::models::{self, Network, Size};
use deep_affect::nn::{Mode, Net};
use deep_affect::ops::{dropout, loss, optim};
use deep_affect::plan::Options;
use deep_affect::rng::{Rng, Stream};
use deep_affect::shape::Type;
use deep_affect::weights::init::{self, Rule};
use std::collections::BTreeSet;
use std::path::Path;

/// A network on `n` images of side `image`: graph, images, outputs.
fn built(network: &Network, mode: Mode, n: usize, image: usize, size: Size) -> (Graph, Value, Value) {
    let mut g = Graph::default();
    let x = g.input("image", Type::f32(&[n, image, image, 3]));
    let y = network.build(&mut Net::new(&mut g, mode), x, size);
    (g, x, y)
}

#[test]
fn published_parameter_counts() {
    for network in models::ALL {
        let (g, _, y) = built(network, Mode::Eval, 1, network.image, network.size());
        g.check().unwrap();
        assert_eq!(g.dims(y), [1, network.outputs], "{}", network.name);
        let count = |kind| g.of_kind(kind).map(|v| g.ty(v).numel()).sum::<usize>();
        assert_eq!(count(Kind::Param), network.parameters, "{}", network.name);
        assert_eq!(count(Kind::Statistic), network.statistics, "{}", network.name);
    }
}

#[test]
fn smallest_images() {
    for network in models::ALL {
        let size = Size { width: 16, outputs: 3 };
        let (g, _, y) = built(network, Mode::Eval, 2, network.smallest, size);
        g.check().unwrap();
        assert_eq!(g.dims(y), [2, 3], "{}", network.name);
        if network.smallest > 1 {
            let (g, ..) = built(network, Mode::Eval, 2, network.smallest - 1, size);
            let e = g.check().expect_err(network.name).to_string();
            assert!(e.contains("does not fit"), "{}: {e}", network.name);
        }
    }
}

/// A network that trains on one fixed batch, narrow enough for the definition.
struct Tiny {
    s: Session,
    loss: Value,
    params: Vec<Value>,
    grads: Vec<Value>,
    statistics: Vec<Value>,
}

/// Plans: 0 a step of SGD and the statistics, 1 the loss alone, 2 the gradients.
fn tiny(network: &Network, device: Box<dyn Device>) -> Tiny {
    const N: usize = 4;
    let mut g = Graph::default();
    let side = network.smallest.max(33);
    let x = g.input("image", Type::f32(&[N, side, side, 3]));
    let (target, rows) = (g.input("target", Type::f32(&[N, 3])), g.input("rows", Type::f32(&[N])));
    let (hyper, state) = (g.input("hyper", optim::hyper_type()), g.input("state", dropout::state_type()));
    let mut net = Net::new(&mut g, Mode::Train { state, rows });
    let y = network.build(&mut net, x, Size { width: 16, outputs: 3 });
    let updates = net.take_updates();
    let loss = g.push1(loss::Mse { reduction: loss::Reduction::Mean }, &[y, target, rows]);
    let params: Vec<Value> = g.of_kind(Kind::Param).collect();
    let grads = g.backward(loss, &params).unwrap();
    let mut step = vec![loss];
    for (&w, &d) in params.iter().zip(&grads) {
        let v = g.state(&format!("{}.velocity", g.name(w)), g.ty(w));
        let sgd = optim::Sgd { form: optim::Form::Torch, nesterov: false, dampening: 0.0 };
        step.extend(g.push(sgd, &[w, v, d, hyper]));
    }
    step.extend(updates.into_iter().map(|(_, new)| new));
    let statistics: Vec<Value> = g.of_kind(Kind::Statistic).collect();
    let gradients: Vec<Value> = grads.iter().copied().chain([loss]).collect();
    let mut s = Session::new(g, &[&step, &[loss], &gradients], Options::default(), device).unwrap();
    let mut draw = |stream, v: Value| {
        let mut rng = Rng::new(1, Stream::Test(stream), 0);
        let x: Vec<f32> = (0..s.graph().ty(v).numel()).map(|_| 2.0 * rng.uniform() - 1.0).collect();
        s.write(v, Data::F32(&x)).unwrap();
    };
    draw(0, x);
    draw(1, target);
    s.write(rows, Data::F32(&[1.0; N])).unwrap();
    s.write(hyper, Data::F32(&[0.001, 0.9, 0.0, 0.0])).unwrap();
    // The same dropout in every step.
    s.write(state, Data::U32(&[7, 0, 0, 0])).unwrap();
    for &v in params.iter().chain(&statistics) {
        let (name, dims) = (s.graph().name(v).to_string(), s.graph().dims(v).to_vec());
        let one = dims.len() == 1 && !name.ends_with("bias") && !name.ends_with("mean");
        let x = if one { vec![1.0; dims[0]] } else { init::draw(&name, &dims, 2, Rule::He).unwrap() };
        s.write(v, Data::F32(&x)).unwrap();
    }
    Tiny { s, loss, params, grads, statistics }
}

/// The derivative in one random direction, central differences in float64. Tensors take steps that change the loss
/// alike, no element more than 1e-6.
#[test]
fn gradients_in_a_random_direction() {
    let mut complaints = vec![];
    for network in models::ALL {
        let mut t = tiny(network, reference());
        t.s.run(2).unwrap();
        let grads: Vec<Vec<f64>> = t.grads.iter().map(|d| t.s.read64(*d).unwrap()).collect();
        let at: Vec<Vec<f64>> = t.params.iter().map(|w| t.s.read64(*w).unwrap()).collect();
        let norms: Vec<f64> = grads.iter().map(|d| d.iter().map(|d| d * d).sum::<f64>().sqrt()).collect();
        let least = 1e-3 * norms.iter().fold(0.0f64, |a, b| a.max(*b));
        let mut direction: Vec<Vec<f64>> = vec![];
        let mut analytic = 0.0;
        for (i, (d, norm)) in grads.iter().zip(&norms).enumerate() {
            let mut rng = Rng::new(3, Stream::Test(i as u32), 0);
            let step = |_: &f64| (2.0 * rng.uniform() as f64 - 1.0) / (norm + least);
            direction.push(d.iter().map(step).collect());
            analytic += d.iter().zip(&direction[i]).map(|(d, r)| d * r).sum::<f64>();
        }
        let eps = 1e-6 / direction.iter().flatten().fold(0.0f64, |m, r| m.max(r.abs()));
        let mut probe = |eps: f64| {
            for ((w, at), r) in t.params.iter().zip(&at).zip(&direction) {
                let moved: Vec<f64> = at.iter().zip(r).map(|(x, r)| x + eps * r).collect();
                t.s.write(*w, Data::F64(&moved)).unwrap();
            }
            t.s.run(1).unwrap();
            t.s.read64(t.loss).unwrap()[0]
        };
        let numeric = (probe(eps) - probe(-eps)) / (2.0 * eps);
        let error = (analytic - numeric).abs() / numeric.abs();
        println!("{}: {} tensors, {analytic:.6} against {numeric:.6}, {error:.1e}", network.name, at.len());
        let close = error <= 1e-4;
        if !close {
            complaints.push(format!("{}: {analytic} against {numeric}", network.name));
        }
    }
    report(models::ALL.len(), complaints);
}

#[test]
fn learns_one_batch() {
    let mut complaints = vec![];
    for network in models::ALL {
        let mut t = tiny(network, cpu());
        let before: Vec<Vec<f32>> = t.statistics.iter().map(|v| t.s.read(*v).unwrap()).collect();
        let mut losses = vec![];
        for _ in 0..60 {
            t.s.run(0).unwrap();
            losses.extend(t.s.read(t.loss).unwrap());
        }
        println!("{}: {:?}", network.name, [losses[0], losses[20], losses[59]]);
        let learnt = losses[59] < 0.5 * losses[0];
        if !learnt {
            complaints.push(format!("{}: {losses:?}", network.name));
        }
        for (v, before) in t.statistics.iter().zip(&before) {
            if t.s.read(*v).unwrap() == *before {
                complaints.push(format!("{}: {} does not move", network.name, t.s.graph().name(*v)));
            }
        }
    }
    report(models::ALL.len(), complaints);
}

/// The files of `tests/golden/networks`, one for each network: its own framework's output.
fn conforms(folder: &str, device: &str) {
    let mut left: BTreeSet<&str> = models::ALL.iter().map(|n| n.name).collect();
    // The published fused model has no other framework; `tiny_fused` stands for it.
    left.remove("deep-affect");
    let mut complaints = vec![];
    for name in left {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/networks/{folder}/{name}.safetensors"));
        let start = std::time::Instant::now();
        let rows = conform::run(&[file], device).unwrap();
        println!("{name} {:?} {:.1} s", rows[0].max_error, start.elapsed().as_secs_f64());
        if rows.len() != 1 || rows[0].status != Status::Pass {
            complaints.push(format!("{name}: {rows:?}"));
        }
    }
    report(models::ALL.len() - 1, complaints);
}

#[test]
fn published_size_agrees_with_the_frameworks() {
    conforms("full", "cpu");
}

/// On small images: the definition would take minutes for the published ones.
#[test]
fn definition_agrees_with_the_frameworks() {
    conforms("small", "reference");
}

#[test]
fn unknown_names_are_answered_with_the_list() {
    let e = models::find("vgg17").err().unwrap().to_string();
    assert!(models::ALL.iter().all(|n| e.contains(n.name)), "{e}");
    assert!(models::ALL.iter().all(|n| models::find(n.name).unwrap().name == n.name));
}
