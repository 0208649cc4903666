//! What the integration tests share: drawing inputs, running one op, comparing.
#![allow(dead_code)] // Each test binary uses its part.

pub mod devices;

use deep_affect::data::{DecodeOptions, LoadOptions, Pictures};
use deep_affect::device::{Checks, Cpu, Data, Device, Reference, Session};
use deep_affect::error::Result;
use deep_affect::graph::{Description, Graph, Io, Kind, Node, Op, Value};
use deep_affect::launch::{Products, Simd};
use deep_affect::models::{Architecture, Config};
use deep_affect::nn::{Mode, Net};
use deep_affect::ops::{Bound, Case, Draw, arith, dropout, loss, optim, pattern};
use deep_affect::plan::Options;
use deep_affect::preprocess::{Preprocess, Resize, View};
use deep_affect::rng::{Rng, Stream};
use deep_affect::shape::{DType, Type};
use deep_affect::train::network::{self, Method, Network, Precision, Task};
use deep_affect::train::params::Initial;
use std::sync::Arc;

/// Small integers instead of reals: sums of their products are exact in float32, so every difference is a bug.
#[derive(Clone, Copy, PartialEq)]
pub enum Numbers {
    Reals,
    Integers,
}

/// The inputs of a case.
pub fn draw(case: &Case, seed: u64, numbers: Numbers) -> Vec<Vec<f64>> {
    let one = |(i, (t, draw)): (usize, (&Type, &Draw))| -> Vec<f64> {
        let mut rng = Rng::new(seed, Stream::Test(i as u32), 0);
        let n = t.numel();
        match *draw {
            Draw::Uniform if numbers == Numbers::Integers => (0..n).map(|_| rng.below(7) as f64 - 3.0).collect(),
            Draw::Uniform => (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f64).collect(),
            // Whole numbers hit the kinks.
            Draw::Within(x) if numbers == Numbers::Integers => {
                (0..n).map(|_| rng.below(2 * x as usize + 1) as f64 - x as f64).collect()
            }
            Draw::Within(x) => (0..n).map(|_| (x * (rng.uniform() * 2.0 - 1.0)) as f64).collect(),
            Draw::Distinct => {
                let mut x: Vec<f64> = (0..n).map(|j| (j as f64 - n as f64 / 2.0) / 64.0).collect();
                rng.shuffle(&mut x);
                x
            }
            Draw::Below(k) => (0..n).map(|_| rng.below(k as usize) as f64).collect(),
            Draw::Mask => (0..n).map(|_| rng.below(2) as f64).collect(),
            Draw::Positive => (0..n).map(|_| (0.25 + rng.uniform()) as f64).collect(),
            Draw::Infinite => (0..n).map(|j| if j + 1 == n { f64::INFINITY } else { 1.0 }).collect(),
            Draw::Hyper(h) => h.iter().map(|x| *x as f64).collect(),
            Draw::Programs => pattern::sample(t.dims()[0], &mut rng).into_iter().map(f64::from).collect(),
        }
    };
    case.ins.iter().zip(&case.draws).enumerate().map(one).collect()
}

/// A graph of the one op of a case; inputs are persistent, so in-place updates work.
pub fn graph_of(case: &Case) -> (Graph, Vec<Value>, Vec<Value>) {
    let mut g = Graph::default();
    let ins: Vec<Value> = case.ins.iter().enumerate().map(|(i, t)| g.state(&format!("in{i}"), *t)).collect();
    let outs = g.push_arc(case.op.clone(), &ins);
    (g, ins, outs)
}

/// Runs a case on a device and returns its outputs.
pub fn run(case: &Case, device: Box<dyn Device>, options: Options, x: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
    let (g, ins, outs) = graph_of(case);
    let mut s = Session::new(g, &[&outs], options, device)?;
    for (v, x) in ins.iter().zip(x) {
        s.write(*v, Data::F64(x))?;
    }
    s.run(0)?;
    outs.iter().map(|v| s.read64(*v)).collect()
}

pub fn reference() -> Box<dyn Device> {
    Box::new(Reference::new())
}
pub fn cpu() -> Box<dyn Device> {
    Box::new(Cpu::new(Some(2)).unwrap())
}
pub fn checked(simd: Simd, threads: usize) -> Box<dyn Device> {
    Box::new(Cpu::with(simd, Some(threads), Checks::Poison).unwrap())
}

/// The error bound of each output element of a case: derived, never tuned.
pub fn bounds(case: &Case, x: &[Vec<f64>], y: &[Vec<f64>]) -> Vec<Vec<f64>> {
    bounds_by(Products::Float32, case, x, y)
}

/// [`bounds`] where float32 numbers are multiplied so.
pub fn bounds_by(products: Products, case: &Case, x: &[Vec<f64>], y: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut bounds = float_bounds(products, case, x, y);
    if case.bound != Bound::Exact {
        // The definition rounds to storage as the routine does; next to a tie they may part by one unit.
        let (g, _, outs) = graph_of(case);
        // What is stored as float32 may have been rounded before.
        let rounded =
            |v| if case.op.name() == "dense.mixed" && case.ins[1].dtype.is_half() { case.ins[1] } else { g.ty(v) };
        for ((b, y), t) in bounds.iter_mut().zip(y).zip(outs.iter().map(|v| rounded(*v).dtype)) {
            let exponent = |y: f64| y.log2().floor().max(-126.0) as i32;
            let unit = |y: f64| match t {
                DType::F16 => 2f64.powi((exponent(y) - 10).max(-24)),
                DType::BF16 => 2f64.powi(exponent(y) - 7),
                _ => 0.0,
            };
            b.iter_mut().zip(y).for_each(|(b, y)| *b += unit(y.abs() + *b));
        }
    }
    bounds
}

/// [`bounds`] of float32 arithmetic.
fn float_bounds(products: Products, case: &Case, x: &[Vec<f64>], y: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let u = 2f64.powi(-24);
    match case.bound {
        Bound::Exact => y.iter().map(|y| vec![0.0; y.len()]).collect(),
        Bound::Ulps(n) => y
            .iter()
            .map(|y| {
                let scale = y.iter().fold(0f64, |m, y| m.max(y.abs()));
                vec![n as f64 * u * scale.max(f32::MIN_POSITIVE as f64); y.len()]
            })
            .collect(),
        // |a| and |b| instead of a and b: the definition itself computes the sum of |a||b|.
        Bound::Dot(terms) => {
            let mut magnitudes: Vec<Vec<f64>> = x.iter().map(|x| x.iter().map(|x| x.abs()).collect()).collect();
            // A step goes down: of a negative rate, magnitudes add up.
            let settings = magnitudes.iter_mut().zip(&case.draws).filter(|(_, d)| matches!(d, Draw::Hyper(_)));
            settings.for_each(|(hyper, _)| hyper[0] = -hyper[0]);
            let selects = case.op.name().starts_with("maxpool");
            // Where the inputs select (pooling), magnitudes would select others: only the gradient is made positive.
            let inputs: Vec<Vec<f64>> = if selects { vec![x[0].clone(), magnitudes[1].clone()] } else { magnitudes };
            let sums = run(case, reference(), Options::default(), &inputs).unwrap();
            // `kernels/mma/factor.cuh`; the parts of a sum are added, then the bias.
            let added = terms.div_ceil(8) + terms.div_ceil(128) + 2;
            let unit = match products {
                Products::Float32 => (terms + 2) as f64 * u,
                Products::Tf32x3 => (8 + 26 + added) as f64 * u,
                Products::Tf32 => 2f64.powi(-10) + 2f64.powi(-22) + (3 * terms + added) as f64 * u,
            };
            sums.iter().map(|s| s.iter().map(|s| unit * s.abs()).collect()).collect()
        }
    }
}

/// The first element outside its bound, in words. NaN is outside every bound.
pub fn compare(got: &[Vec<f64>], want: &[Vec<f64>], bound: &[Vec<f64>]) -> Option<String> {
    for (o, ((g, w), b)) in got.iter().zip(want).zip(bound).enumerate() {
        for i in 0..w.len() {
            let (nan, err) = (w[i].is_nan() && g[i].is_nan(), (g[i] - w[i]).abs());
            if !(nan || err <= b[i]) {
                return Some(format!(
                    "output {o} element {i}: {} instead of {}, error {err:e} > {:e}",
                    g[i], w[i], b[i]
                ));
            }
        }
    }
    None
}

/// Fails with every complaint at once.
pub fn report(checked: usize, complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} of {checked} fail:\n{}", complaints.len(), complaints.join("\n"));
    println!("{checked} checked");
}

/// sum of c * y over several tensors: makes any outputs one scalar that can be differentiated. A test's own op, so that
/// gradients are not checked with the ops under test.
#[derive(Debug)]
pub struct Probe(pub Vec<Vec<f64>>);
#[derive(Debug)]
struct ProbeGrad(Vec<f64>, Type);

impl Op for Probe {
    fn describe(&self) -> Description {
        Description::of("test.probe")
    }
    fn infer(&self, _: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![Type::f32(&[1])])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0][0] = ins.iter().zip(&self.0).map(|(y, c)| y.iter().zip(c).map(|(y, c)| y * c).sum::<f64>()).sum();
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let one = |(c, v): (&Vec<f64>, &Value)| Some(g.push1(ProbeGrad(c.clone(), g.ty(*v)), &[dy[0].unwrap()]));
        Ok(self.0.iter().zip(&n.ins).map(one).collect())
    }
}
impl Op for ProbeGrad {
    fn describe(&self) -> Description {
        Description::of("test.probe_grad")
    }
    fn infer(&self, _: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![self.1])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].iter_mut().zip(&self.0).for_each(|(o, c)| *o = c * ins[0][0]);
    }
}

/// Every case of every op; with `FAMILY=name` in the environment those of one family, with `CASES=text` those whose name
/// begins so.
pub fn cases() -> Vec<(String, Case)> {
    let (family, begin) = (std::env::var("FAMILY").ok(), std::env::var("CASES").unwrap_or_default());
    let families = deep_affect::ops::ALL.iter().filter(|f| family.as_ref().is_none_or(|name| name == f.name));
    let named = families.flat_map(|f| (f.cases)()).map(|c| (format!("{} [{}]", c.op.name(), c.label), c));
    named.filter(|(name, _)| name.starts_with(&begin)).collect()
}

/// Whether all cases are asked for: only then can a family be missed.
pub fn all_cases() -> bool {
    let chosen = ["CASES", "FAMILY"].iter().any(|v| std::env::var_os(v).is_some());
    if chosen {
        println!("not checked: what all cases together must hold, because only some are asked for");
    }
    !chosen
}

/// Whether a device that not every machine has can be used; [`devices::without`] says what happens where not.
pub fn have(device: &str) -> bool {
    if devices::skipped(device) {
        devices::without(device, &"SKIP_DEVICES has it");
        return false;
    }
    deep_affect::device::open(device, None).map_err(|e| devices::without(device, &e)).is_ok()
}

/// Runs `check` on every item on all cores and returns what it complains about.
pub fn each<T: Sync>(items: &[T], check: impl Fn(&T) -> Option<String> + Sync) -> Vec<String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    found.lock().unwrap().extend(check(item));
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// The bits that four training steps and the inferences between them leave, run by run: losses, weights, velocities,
/// predictions. A GPU replays what it recorded in the second run, or is sent every launch by itself.
pub fn steps(device: Box<dyn Device>, precision: Precision, replays: bool) -> Vec<Vec<u32>> {
    let task = Task::EndToEnd { config: small(Architecture::Shared, 16, 0.5), frozen: vec![] };
    let sgd = optim::Sgd { form: optim::Form::Keras, nesterov: false, dampening: 0.0 };
    let mut net = Network::new(&task, 2, Method { precision, ..sgd.into() }, device).unwrap();
    let s = &mut net.session;
    let params: Vec<Value> = s.graph().stored().collect();
    task.prefixes().iter().for_each(|p| Initial::new(5, true).fill(s, &params, p, &[]).unwrap());
    let pixels = |n: usize| -> Vec<u8> {
        let mut rng = Rng::new(4, Stream::Test(0), 0);
        (0..n).map(|_| rng.below(256) as u8).collect()
    };
    let numel = |s: &Session, v: Value| s.graph().ty(v).numel();
    net.x.iter().for_each(|x| s.write(*x, Data::U8(&pixels(numel(s, *x)))).unwrap());
    s.write(net.weight, Data::F32(&[1.0; 2])).unwrap();
    let mut all = vec![];
    for step in 0..4 {
        s.write(net.state, Data::U32(&[7, 0, step, 0])).unwrap();
        for part in &net.parts {
            let y = part.terms[0].y;
            s.write(y, Data::F32(&vec![0.5 + step as f32; numel(s, y)])).unwrap();
            s.write(part.hyper, Data::F32(&[0.01, 0.9, 0.0, (step == 0) as u8 as f32])).unwrap();
        }
        for plan in [network::TRAIN, network::EVAL] {
            match replays {
                true => s.run(plan).unwrap(),
                false => s.profile(plan, &mut |_| {}).unwrap(),
            }
            let wanted = net.parts.iter().flat_map(|p| match plan {
                network::TRAIN => [&[p.loss], &p.params[..], &p.velocity].concat(),
                _ => vec![p.terms[0].output],
            });
            all.push(wanted.flat_map(|v| s.read(v).unwrap()).map(f32::to_bits).collect::<Vec<u32>>());
        }
    }
    assert!(all.windows(3).all(|w| w[0] != w[2]), "no step changes anything");
    all
}

/// Pictures of 32 x 32, each with a colour and a gradient of its own.
pub fn pictures(n: u32) -> Pictures {
    let png = |i: u32| {
        let pixel = |x: u32, y: u32| image::Rgb([(i * 37) as u8, (x * (i % 7 + 1)) as u8, (y * 8) as u8 ^ i as u8]);
        let mut out = std::io::Cursor::new(vec![]);
        image::RgbImage::from_fn(32, 32, pixel).write_to(&mut out, image::ImageFormat::Png).unwrap();
        (i.to_string(), out.into_inner())
    };
    let files: Vec<_> = (0..n).map(png).collect();
    let items: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let view = View { side: 32, resize: Resize::SquashNearest, grey: false, crop: None };
    let options = LoadOptions { views: vec![view], decode: DecodeOptions::default(), cache_dir: None };
    Pictures::from_bytes(&items, &options, &()).unwrap().accept(false).unwrap()
}

/// A shared handle, for graphs that push the op of a case.
pub fn op_of(case: &Case) -> Arc<dyn Op> {
    case.op.clone()
}

/// A fused network small enough for float64: towers of `1 / width`, one dense layer each, head 6-5.
pub fn small(architecture: Architecture, width: usize, keep: f32) -> Config {
    let names = ["object", "scene", "face"].map(String::from);
    let mut c = Config::published(architecture, &names, 5).unwrap();
    for t in &mut c.towers {
        (t.width, t.dense, t.classes, t.keep, t.l2) = (width, vec![8], 7, 1.0, 0.0);
        t.preprocess = Preprocess::preset("unit").unwrap();
    }
    (c.head, c.keep, c.image) = (vec![6, 5], vec![keep, 1.0], 32);
    c
}

/// A graph that trains a model: every member has its own loss on its own targets; `total` is their sum.
pub struct Training {
    pub graph: Graph,
    pub image: Value,
    pub targets: Vec<Value>,
    pub rows: Value,
    pub hyper: Value,
    /// Dropout: masks of [`Mode::Masked`], or the generator's state.
    pub masks: Vec<Value>,
    pub state: Value,
    pub params: Vec<Value>,
    pub grads: Vec<Value>,
    pub total: Value,
    /// The loss and every weight and velocity after the step.
    pub step: Vec<Value>,
    /// Predictions without dropout.
    pub eval: Vec<Value>,
}

pub fn training(c: &Config, n: usize, masked: bool) -> Training {
    let mut g = Graph::default();
    let image = g.input("image", Type::new(DType::U8, &[n, c.image, c.image, 3]));
    let (rows, hyper) = (g.input("rows", Type::f32(&[n])), g.input("hyper", optim::hyper_type()));
    let state = g.input("dropout", dropout::state_type());
    let mode = if masked { Mode::Masked { rows } } else { Mode::Train { state, rows } };
    let (mut targets, mut losses, mut eval) = (vec![], vec![], vec![]);
    for m in c.members() {
        eval.extend(c.forward(&mut Net::new(&mut g, Mode::Eval), &m, &[image]));
        let mut net = Net::new(&mut g, mode);
        let y = c.forward(&mut net, &m, &[image])[0];
        let penalty = net.take_penalty();
        let t = g.input(&format!("{}targets", m.prefix), Type::f32(&[n, m.targets.len()]));
        losses.push(g.push1(loss::Mse { reduction: loss::Reduction::Mean }, &[y, t, rows]));
        losses.extend(penalty);
        targets.push(t);
    }
    let total = losses.into_iter().reduce(|a, b| g.push1(arith::Add, &[a, b])).unwrap();
    let params: Vec<Value> = g.of_kind(Kind::Param).collect();
    let grads = g.backward(total, &params).unwrap();
    let mut step = vec![total];
    for (&w, &d) in params.iter().zip(&grads) {
        let v = g.state(&format!("{}.velocity", g.name(w)), g.ty(w));
        let sgd = optim::Sgd { form: optim::Form::Torch, nesterov: false, dampening: 0.0 };
        step.extend(g.push(sgd, &[w, v, d, hyper]));
    }
    let masks = g.of_kind(Kind::Input).filter(|v| g.name(*v).ends_with(".mask")).collect();
    Training { graph: g, image, targets, rows, hyper, masks, state, params, grads, total, step, eval }
}

impl Training {
    /// Writes pictures, targets of about `scale`, masks and weights of a size that keeps signals alive.
    pub fn fill(&self, s: &mut Session, seed: u64, scale: f32) {
        let mut stream = 0;
        let mut draw = |n: usize, f: &mut dyn FnMut(&mut Rng) -> f32| -> Vec<f32> {
            stream += 1;
            let mut rng = Rng::new(seed, Stream::Test(stream), 0);
            (0..n).map(|_| f(&mut rng)).collect()
        };
        let n = |v: Value| self.graph.ty(v).numel();
        // Each picture has a colour of its own, and grain.
        let pixels = self.graph.ty(self.image).row();
        let colours = draw(3 * self.graph.dims(self.image)[0], &mut |r| r.below(192) as f32);
        let grain = draw(n(self.image), &mut |r| r.below(64) as f32);
        let bytes: Vec<u8> =
            grain.iter().enumerate().map(|(i, x)| (x + colours[i / pixels * 3 + i % 3]) as u8).collect();
        s.write(self.image, Data::U8(&bytes)).unwrap();
        s.write(self.rows, Data::F32(&vec![1.0; n(self.rows)])).unwrap();
        for t in &self.targets {
            s.write(*t, Data::F32(&draw(n(*t), &mut |r| scale * (0.5 + r.uniform())))).unwrap();
        }
        for m in &self.masks {
            s.write(*m, Data::F32(&draw(n(*m), &mut |r| (r.below(4) > 0) as u8 as f32))).unwrap();
        }
        for w in &self.params {
            let t = self.graph.ty(*w);
            let size = (6.0 / t.row() as f32).sqrt();
            let mut one = |r: &mut Rng| {
                if t.dims().len() == 1 { 0.05 + 0.1 * r.uniform() } else { size * (2.0 * r.uniform() - 1.0) }
            };
            s.write(*w, Data::F32(&draw(t.numel(), &mut one))).unwrap();
        }
    }
    /// Rate, momentum and the number of the step.
    pub fn settings(&self, s: &mut Session, lr: f32, momentum: f32, step: u32) {
        s.write(self.hyper, Data::F32(&[lr, momentum, 0.0, (step == 0) as u8 as f32])).unwrap();
        s.write(self.state, Data::U32(&[7, 0, step, 0])).unwrap();
    }
}
