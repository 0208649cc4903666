//! What the integration tests share: drawing inputs, running one op, comparing.
#![allow(dead_code)] // Each test binary uses its part.

use deep_affect::device::{Checks, Cpu, Data, Device, Reference, Session};
use deep_affect::error::Result;
use deep_affect::graph::{Graph, Io, Node, Op, Value};
use deep_affect::kernel::Simd;
use deep_affect::ops::{Bound, Case, Draw};
use deep_affect::plan::Options;
use deep_affect::rng::{Rng, Stream};
use deep_affect::shape::Type;
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
            Draw::Distinct => {
                let mut x: Vec<f64> = (0..n).map(|j| (j as f64 - n as f64 / 2.0) / 64.0).collect();
                rng.shuffle(&mut x);
                x
            }
            Draw::Below(k) => (0..n).map(|_| rng.below(k as usize) as f64).collect(),
            Draw::Mask => (0..n).map(|_| rng.below(2) as f64).collect(),
            Draw::Positive => (0..n).map(|_| 0.25 + rng.uniform() as f64).collect(),
            Draw::Hyper(h) => h.iter().map(|x| *x as f64).collect(),
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
            let magnitudes: Vec<Vec<f64>> = x.iter().map(|x| x.iter().map(|x| x.abs()).collect()).collect();
            let selects = case.op.name().starts_with("maxpool");
            // Where the inputs select (pooling), magnitudes would select others: only the gradient is made positive.
            let inputs: Vec<Vec<f64>> = if selects { vec![x[0].clone(), magnitudes[1].clone()] } else { magnitudes };
            let sums = run(case, reference(), Options::default(), &inputs).unwrap();
            sums.iter().map(|s| s.iter().map(|s| (terms + 2) as f64 * u * s.abs()).collect()).collect()
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
    fn name(&self) -> &'static str {
        "test.probe"
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
    fn name(&self) -> &'static str {
        "test.probe_grad"
    }
    fn infer(&self, _: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![self.1])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].iter_mut().zip(&self.0).for_each(|(o, c)| *o = c * ins[0][0]);
    }
}

/// Every case of every op.
pub fn cases() -> Vec<(String, Case)> {
    let all = deep_affect::ops::ALL.iter().flat_map(|f| (f.cases)());
    all.map(|c| (format!("{} [{}]", c.op.name(), c.label), c)).collect()
}

/// A shared handle, for graphs that push the op of a case.
pub fn op_of(case: &Case) -> Arc<dyn Op> {
    case.op.clone()
}
