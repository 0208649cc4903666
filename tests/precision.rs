//! Training with activations in 16 bits: the curve of float32, master weights that any precision takes up, steps that
//! overflow and are not taken, and kernels that do what the definition does.

#![allow(clippy::neg_cmp_op_on_partial_ord)] // `!(err <= tol)`: NaN must fail.

mod common;
use common::*;
use deep_affect::device::{self, Data, Device};
use deep_affect::models::{Architecture, Config};
use deep_affect::ops::optim::{Form, Sgd};
use deep_affect::rng::{Rng, Stream};
use deep_affect::train::fit::LossScale;
use deep_affect::train::network::{Method, Network, Precision, TRAIN, Task};
use deep_affect::train::params::Initial;
use deep_affect::weights::init::Rule;

const HALVES: [Precision; 2] = [Precision::Bf16, Precision::Fp16];
const BATCH: usize = 4;
/// A blob of a colour for each of these.
const PICTURES: usize = 24;

/// Widths that tensor cores take, and some that they do not.
fn config() -> Config {
    let mut c = small(Architecture::Shared, 8, 1.0);
    for t in &mut c.towers {
        (t.dense, t.classes) = (vec![32], 8);
    }
    (c.head, c.keep) = (vec![32, 12], vec![1.0; 2]);
    c
}

fn network(precision: Precision, device: Box<dyn Device>) -> Network {
    let task = Task::EndToEnd { config: config(), frozen: vec![] };
    let sgd = Sgd { form: Form::Keras, nesterov: false, dampening: 0.0 };
    let mut net = Network::new(&task, BATCH, Method { precision, ..sgd.into() }, device).unwrap();
    let mut initial = Initial::new(5, true);
    initial.rule = Rule::He;
    let params = net.stored();
    initial.fill(&mut net.session, &params, "", &[]).unwrap();
    net.session.write(net.weight, Data::F32(&[1.0; BATCH])).unwrap();
    net
}

/// Picture `i` and its ratings, which depend on its colour.
fn sample(i: usize) -> (Vec<u8>, [f32; 2]) {
    let mut rng = Rng::new(i as u64, Stream::Test(0), 0);
    let colour = [0; 3].map(|_| rng.below(200) as i32);
    // Noise, so that there are few ties: 16 bits tell fewer numbers apart.
    let pixels = (0..32 * 32).flat_map(|_| colour).map(|c| (c + rng.below(56) as i32) as u8).collect();
    (pixels, [1.0 + colour[0] as f32 / 25.0, 1.0 + colour[1] as f32 / 25.0])
}

/// Runs a step, and returns its loss.
fn step(net: &mut Network, step: usize, scale: f32) -> f64 {
    let rows: Vec<_> = (0..BATCH).map(|i| sample((step * BATCH + i) % PICTURES)).collect();
    let pixels: Vec<u8> = rows.iter().flat_map(|r| r.0.clone()).collect();
    let ratings: Vec<f32> = rows.iter().flat_map(|r| r.1).collect();
    net.session.write(net.x[0], Data::U8(&pixels)).unwrap();
    let part = &net.parts[0];
    net.session.write(part.terms[0].y, Data::F32(&ratings)).unwrap();
    net.session.write(part.hyper, Data::F32(&[1e-4, 0.9, 0.0, (step == 0) as u8 as f32])).unwrap();
    if let Some(scaling) = part.scaling {
        net.session.write(scaling.scale, Data::F32(&[scale])).unwrap();
    }
    net.session.run(TRAIN).unwrap();
    net.session.read(part.loss).unwrap()[0] as f64
}

/// How often the gradients of the last step counted.
fn by(net: &Network) -> f32 {
    net.parts[0].scaling.map_or(1.0, |s| net.session.read(s.by).unwrap()[0])
}

fn weights(net: &Network) -> Vec<Vec<f32>> {
    net.stored().into_iter().map(|v| net.session.read(v).unwrap()).collect()
}

/// Mean losses of 200 steps, each over one pass through the pictures: a batch's own loss is too small for a ratio, once it
/// has been learned.
#[test]
fn sixteen_bits_follow_the_curve_of_float32() {
    const STEPS: usize = 200;
    let curve = |precision| -> Vec<f64> {
        let mut net = network(precision, cpu());
        let mut scale = LossScale::default();
        let one = |i| {
            let loss = step(&mut net, i, scale.scale);
            scale = scale.next(by(&net) != 0.0);
            loss
        };
        let losses: Vec<f64> = (0..STEPS).map(one).collect();
        losses.windows(PICTURES / BATCH).map(|l| l.iter().sum::<f64>() / l.len() as f64).collect()
    };
    let want = curve(Precision::Float32);
    println!("float32: {:.3} to {:.3}", want[0], want[want.len() - 1]);
    assert!(want[want.len() - 1] < 0.6 * want[0], "it should learn something: {want:?}");
    for precision in HALVES {
        let got = curve(precision);
        let apart = got.iter().zip(&want).map(|(g, w)| (g - w).abs() / w);
        let worst = apart.fold(0.0, |m: f64, e| if e <= m { m } else { e });
        println!("{precision:?}: at most {:.2} % from float32", 100.0 * worst);
        assert!(worst <= 0.01, "{precision:?}: {worst}");
    }
}

#[test]
fn master_weights_go_from_one_precision_to_another() {
    for precision in HALVES {
        let mut half = network(precision, cpu());
        for i in 0..3 {
            step(&mut half, i, 1024.0);
        }
        let mut whole = network(Precision::Float32, cpu());
        for (to, from) in whole.stored().into_iter().zip(weights(&half)) {
            whole.session.write(to, Data::F32(&from)).unwrap();
        }
        // Weights from outside: the copies that multiply are made anew.
        let mut again = network(precision, cpu());
        for (to, from) in again.stored().into_iter().zip(weights(&half)) {
            again.session.write(to, Data::F32(&from)).unwrap();
        }
        let [a, b, c] = [&mut half, &mut whole, &mut again].map(|net| step(net, 3, 1024.0));
        assert!(a == c, "{precision:?}: {a} and, from the same weights, {c}");
        assert!((a - b).abs() <= 0.01 * b && a != b, "{precision:?}: {a} and in float32 {b}");
    }
}

#[test]
fn a_step_that_overflows_is_not_taken() {
    let mut net = network(Precision::Fp16, cpu());
    step(&mut net, 0, 1024.0);
    assert_eq!(by(&net), 1.0 / 1024.0);
    let before = weights(&net);
    let loss = step(&mut net, 1, 2f32.powi(60));
    assert!(loss.is_finite() && by(&net) == 0.0);
    assert!(weights(&net) == before);
    step(&mut net, 1, 1024.0);
    assert!(weights(&net) != before);
}

/// A power of two more or less in the scale changes no bit, as long as nothing leaves the range.
#[test]
fn the_scale_of_the_loss_cancels() {
    let after = |scale: f32| {
        let mut net = network(Precision::Fp16, cpu());
        step(&mut net, 0, scale);
        weights(&net)
    };
    let (a, b) = (after(4096.0), after(8192.0));
    let apart = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(apart <= 1e-6, "{apart}");
}

/// As near to the definition, which rounds to 16 bits where the kernels do, as the CPU is, up to a factor that covers another
/// order of sums and values that fall to the other side of a tie.
#[test]
fn kernels_train_as_the_cpu_does() {
    // Where the CPU computes in float32: fp16 has as many bits as tf32.
    let twins = [(Precision::Tf32, Precision::Fp16), (Precision::Tf32x3, Precision::Float32)];
    for name in ["sim", "cuda"].into_iter().filter(|d| have(d)) {
        for (precision, twin) in HALVES.map(|p| (p, p)).into_iter().chain(twins) {
            let after = |precision: Precision, device: Box<dyn Device>| -> Vec<Vec<f64>> {
                let mut net = network(precision, device);
                step(&mut net, 0, 1024.0);
                let velocities = net.parts[0].velocity.iter();
                velocities.map(|v| net.session.read64(*v).unwrap()).collect()
            };
            let want = after(precision, reference());
            let (cpu, got) = (after(twin, cpu()), after(precision, device::open(name, None).unwrap()));
            let apart = |y: &[Vec<f64>]| -> Vec<f64> {
                let one = |(y, w): (&Vec<f64>, &Vec<f64>)| {
                    let square = |x: f64| x * x;
                    let apart: f64 = y.iter().zip(w).map(|(y, w)| square(y - w)).sum();
                    (apart / w.iter().copied().map(square).sum::<f64>().max(1e-24)).sqrt()
                };
                y.iter().zip(&want).map(one).collect()
            };
            let [theirs, own] =
                [&cpu, &got].map(|y| apart(y).into_iter().fold(0.0, |m: f64, e| if e <= m { m } else { e }));
            println!("{precision:?} on {name}: gradients {own:.1e} from the definition, the CPU's {theirs:.1e}");
            let least = if precision == Precision::Tf32x3 { 1e-6 } else { 1e-3 };
            assert!(own <= 4.0 * theirs + least, "{precision:?} on {name}: {own:e} where the CPU has {theirs:e}");
        }
    }
}
