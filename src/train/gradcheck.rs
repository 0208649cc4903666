/*! The gradient of a whole training step against differences of its loss, in float64 by the definition of every op.

A loss with ReLUs and maxima has kinks. Where the derivatives from the left and from the right disagree at every step
size, or no two steps agree, there is no derivative to compare with: such points are counted, never passed over. */

#![allow(clippy::neg_cmp_op_on_partial_ord)] // `!(err <= tol)`: NaN must fail.

use crate::device::{Data, Reference, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Io, Kind, Value};
use crate::ops::dropout;
use crate::plan::Options;
use crate::progress::Progress;
use crate::rng::{Rng, Stream};
use crate::shape::DType;
use crate::train::network::{Blueprint, Part};
use rayon::prelude::*;
use serde::Serialize;
use std::borrow::Cow;

/// Largest relative error of a gradient. Central differences in float64 with these steps are good to about 1e-8.
pub const TOLERANCE: f64 = 1e-4;
/// Steps of a weight, or along a direction; a smaller one is tried where the loss is not straight within the larger.
const STEPS: [f64; 6] = [1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10];
/// How many of them are large: their differences count whatever the rounding of the loss. It hides most of those of a small one,
/// which counts where gradients are large enough.
const LARGE: usize = 3;
/// How many times as many points are tried in a tensor where every one so far lies on a kink.
const MORE: usize = 8;
/// Rounding errors of the loss in units of its last place: a chain of some hundred ops.
const ROUNDINGS: f64 = 64.0;
/// A step within which a loss is a straight line: what it does besides is rounding. Batch norms of few pixels enlarge that.
const TINY: f64 = 1e-13;

/// How many numbers of what.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Elements checked in each tensor.
    pub elements: usize,
    pub seed: u64,
}

/// What came out for one tensor, or for one direction through all of them.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    pub name: String,
    pub shape: Vec<usize>,
    pub elements: usize,
    pub checked: usize,
    /// Points without a derivative.
    pub kinks: usize,
    /// Points whose gradient is outside the tolerance.
    pub wrong: usize,
    /// Largest magnitude of a checked gradient.
    pub largest_gradient: f64,
    pub max_relative_error: f64,
    /// The worst point: element, gradient, difference quotient.
    pub worst: Option<(usize, f64, f64)>,
}

impl Checked {
    /// Nothing is wrong, and something was compared.
    pub fn passed(&self) -> bool {
        self.wrong == 0 && self.kinks < self.checked
    }
    /// No checked gradient is larger than the noise of the differences: right, and no evidence of much.
    pub fn silent(&self) -> bool {
        self.largest_gradient == 0.0
    }
    fn add(&mut self, element: usize, p: Point) {
        self.checked += 1;
        match p {
            Point::Kink => self.kinks += 1,
            Point::Compared { gradient, numeric, error, signal } => {
                if signal {
                    self.largest_gradient = self.largest_gradient.max(gradient.abs());
                }
                let wrong = !(error <= TOLERANCE);
                self.wrong += wrong as usize;
                // NaN is worse than anything.
                if self.worst.is_none() || !(error <= self.max_relative_error) {
                    (self.max_relative_error, self.worst) = (error, Some((element, gradient, numeric)));
                }
            }
        }
    }
}

/// One comparison.
enum Point {
    Kink,
    Compared { gradient: f64, numeric: f64, error: f64, signal: bool },
}

/// Compares a gradient with differences of `loss(step)` around `centre` = loss(0). Wrong is what two steps agree about: one alone
/// may have a kink on either side, or a third derivative in deep networks whose batches have few pixels.
fn compare(gradient: f64, centre: f64, loss: impl Fn(f64) -> f64) -> Point {
    let mut last = Point::Kink;
    // The slope of the step before, if the loss was smooth there.
    let mut before: Option<f64> = None;
    let mut rounding = ROUNDINGS * f64::EPSILON * centre.abs();
    for (i, h) in STEPS.into_iter().enumerate() {
        let (up, down) = (loss(h), loss(-h));
        let numeric = (up - down) / (2.0 * h);
        if !gradient.is_finite() {
            return Point::Compared { gradient, numeric, error: f64::NAN, signal: true };
        }
        let differs =
            |noise: f64| (gradient - numeric).abs() / gradient.abs().max(numeric.abs()).max(noise / TOLERANCE);
        // A point that fails is worth measuring how the loss rounds there.
        if i == 0 && !(differs(rounding / h) <= TOLERANCE) {
            let bend = |k| (loss(TINY * k) + loss(-TINY * k) - 2.0 * centre).abs();
            rounding = [1.0, 2.0, 3.0, 4.0].into_iter().map(|k| 4.0 * bend(k)).fold(rounding, f64::max);
        }
        let (noise, error) = (rounding / h, differs(rounding / h));
        let (size, signal) = (gradient.abs().max(numeric.abs()), numeric.abs() > noise);
        // Where rounding hides what the tolerance allows, a smaller step tells nothing.
        if i >= LARGE && size * TOLERANCE <= noise {
            break;
        }
        let compared = Point::Compared { gradient, numeric, error, signal };
        if error <= TOLERANCE {
            return compared;
        }
        // A smooth loss has equal slopes on both sides, up to its curvature.
        let (right, left) = ((up - centre) / h, (centre - down) / h);
        let agree = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()) + 2.0 * noise;
        let smooth = agree(right, left);
        if smooth && before.is_some_and(|slope| agree(slope, numeric)) {
            return compared;
        }
        before = smooth.then_some(numeric);
        last = if (right - left).is_finite() { Point::Kink } else { compared };
    }
    last
}

/// Writes the weights of a session.
pub type Fill<'a> = &'a dyn Fn(&mut Session) -> Result<()>;

/// A training step in float64, ready to be differentiated both ways.
pub struct Subject {
    graph: Graph,
    parts: Vec<Part>,
    /// By part: the gradient of each of its parameters.
    grads: Vec<Vec<Value>>,
    session: Session,
}

impl Subject {
    /// `fill` gives weights; None draws them, of a size that keeps signals alive. Pictures, targets and dropout masks are
    /// drawn.
    pub fn new(b: Blueprint, fill: Option<Fill>, seed: u64) -> Result<Self> {
        let Blueprint { graph, parts, x, weight, state, .. } = b;
        // The update of each weight has its gradient as third input.
        let update = |w: &Value| {
            let updates =
                |n: &&crate::graph::Node| n.op.in_place().first().is_some_and(|a| n.ins[a.1] == *w) && n.ins.len() == 4;
            graph.nodes().iter().find(updates).map(|n| n.ins[2])
        };
        let grads: Vec<Vec<Value>> = parts
            .iter()
            .map(|p| p.params.iter().map(|w| update(w).expect("every parameter is updated")).collect())
            .collect();
        let want: Vec<Value> = grads.iter().flatten().copied().chain(parts.iter().map(|p| p.loss)).collect();
        let mut s = Session::new(graph.clone(), &[&want], Options::default(), Box::new(Reference::new()))?;
        match fill {
            Some(fill) => fill(&mut s)?,
            None => draw(&mut s, seed)?,
        }
        let mut stream = 0;
        let mut uniform = |n: usize| -> Vec<f64> {
            stream += 1;
            let mut rng = Rng::new(seed, Stream::Test(stream), 1);
            (0..n).map(|_| rng.uniform() as f64).collect()
        };
        for &v in &x {
            let t = graph.ty(v);
            // Each picture has a colour of its own, and grain.
            let (colours, grain) = (uniform(3 * t.dims()[0]), uniform(t.numel()));
            let at = |i: usize| (colours[i / t.row() * 3 + i % 3] * 160.0 + grain[i] * 95.0).floor();
            let values: Vec<f64> = match t.dtype {
                DType::U8 => (0..t.numel()).map(at).collect(),
                _ => grain,
            };
            s.write(v, Data::F64(&values))?;
        }
        s.write(weight, Data::F64(&vec![1.0; graph.ty(weight).numel()]))?;
        s.write(state, Data::F64(&vec![seed as u32 as f64; graph.ty(state).numel()]))?;
        for term in parts.iter().flat_map(|p| &p.terms) {
            let t = graph.ty(term.y);
            let y: Vec<f64> = match t.dtype {
                // Class 0, 1, …: any network has as many.
                DType::I32 => (0..t.numel()).map(|i| (i % graph.ty(term.output).row()) as f64).collect(),
                _ => uniform(t.numel()).iter().map(|u| 2.0 + 6.0 * u).collect(),
            };
            s.write(term.y, Data::F64(&y))?;
        }
        debug_assert_eq!(graph.ty(state), dropout::state_type());
        Ok(Self { graph, parts, grads, session: s })
    }

    /// Number of parameter tensors.
    pub fn tensors(&self) -> usize {
        self.grads.iter().map(Vec::len).sum()
    }

    /// Checks elements of every parameter tensor: all of a small one, else a seeded sample.
    pub fn elements(mut self, amount: Amount, progress: &dyn Progress) -> Result<Vec<Checked>> {
        self.session.run(0)?;
        let mut all = vec![];
        progress.start("tensors", self.tensors() as u64);
        for (part, grads) in self.parts.iter().zip(&self.grads) {
            let e = Evaluator::new(&self.graph, part.loss, &self.session)?;
            for (&w, &d) in part.params.iter().zip(grads) {
                if progress.stopped() {
                    progress.done();
                    return Err(Error::interrupted("stopped while checking gradients"));
                }
                let (x, d) = (self.session.read64(w)?, self.session.read64(d)?);
                let mut which: Vec<usize> = (0..x.len()).collect();
                if x.len() > amount.elements {
                    // Half of them where the gradient is largest, the others anywhere: zeros may be wrong, too.
                    Rng::new(amount.seed, Stream::Test(w.buf().0), 2).shuffle(&mut which);
                    let (_, rest) = which.split_at_mut(amount.elements / 2);
                    rest.sort_by(|&i, &j| d[j].abs().total_cmp(&d[i].abs()));
                }
                let one = |&i: &usize| {
                    let at = |h: f64| {
                        let mut x = x.clone();
                        x[i] += h;
                        e.loss(&|v| v == w, &|_| Cow::Borrowed(x.as_slice()))
                    };
                    (i, compare(d[i], e.centre, at))
                };
                let mut c = self.checked(w);
                for which in which.chunks(amount.elements).take(MORE) {
                    let points: Vec<(usize, Point)> = which.par_iter().map(one).collect();
                    points.into_iter().for_each(|(i, p)| c.add(i, p));
                    if c.kinks < c.checked {
                        break;
                    }
                }
                all.push(c);
                progress.inc();
            }
        }
        progress.done();
        Ok(all)
    }

    /// Checks derivatives along random directions through all parameters of each part: for networks too large for
    /// anything else. `say` hears once how many seconds one loss takes, and how many will be computed at least.
    pub fn directions(mut self, directions: usize, seed: u64, say: &dyn Fn(f64, usize)) -> Result<Vec<Checked>> {
        self.session.run(0)?;
        let mut all = vec![];
        for (p, (part, grads)) in self.parts.iter().zip(&self.grads).enumerate() {
            // A weight moves in proportion to the size of its tensor.
            let direction = |w: Value, which: usize, x: &[f64]| {
                let size = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
                let mut rng = Rng::new(seed, Stream::Test(w.buf().0), 3 + which as u32);
                (0..x.len()).map(move |_| size * (2.0 * rng.uniform() as f64 - 1.0)).collect::<Vec<f64>>()
            };
            let mut slopes = vec![0.0; directions];
            for (&w, &d) in part.params.iter().zip(grads) {
                let (x, d) = (self.session.read64(w)?, self.session.read64(d)?);
                for (which, slope) in slopes.iter_mut().enumerate() {
                    *slope += direction(w, which, &x).iter().zip(&d).map(|(u, d)| u * d).sum::<f64>();
                }
            }
            let start = std::time::Instant::now();
            let e = Evaluator::new(&self.graph, part.loss, &self.session)?;
            if p == 0 {
                say(start.elapsed().as_secs_f64(), 2 * directions * self.parts.len());
            }
            for (which, slope) in slopes.into_iter().enumerate() {
                let at = |h: f64| {
                    let moved = |v: Value| {
                        let x = e.value(v);
                        let u = direction(v, which, x);
                        Cow::Owned(x.iter().zip(u).map(|(x, u)| x + h * u).collect())
                    };
                    e.loss(&|v| part.params.contains(&v), &moved)
                };
                let mut c = Checked {
                    name: format!("{}direction {}", part.prefix, which + 1),
                    shape: vec![],
                    elements: part.params.iter().map(|v| self.graph.ty(*v).numel()).sum(),
                    ..self.checked(part.loss)
                };
                c.add(which, compare(slope, e.centre, at));
                all.push(c);
            }
        }
        Ok(all)
    }

    fn checked(&self, w: Value) -> Checked {
        Checked {
            name: self.graph.name(w).to_string(),
            shape: self.graph.dims(w).to_vec(),
            elements: self.graph.ty(w).numel(),
            checked: 0,
            kinks: 0,
            wrong: 0,
            largest_gradient: 0.0,
            max_relative_error: 0.0,
            worst: None,
        }
    }
}

/// Weights of a size that keeps signals alive, and biases that keep ReLUs off their kink.
fn draw(s: &mut Session, seed: u64) -> Result<()> {
    for v in s.graph().stored().collect::<Vec<_>>() {
        let (t, mut rng) = (s.graph().ty(v), Rng::new(seed, Stream::Test(v.buf().0), 0));
        let size = (6.0 / t.row() as f32).sqrt();
        let bias = s.graph().name(v).ends_with("bias") || s.graph().name(v).ends_with("mean");
        let one = |_| match t.dims().len() {
            1 if bias => 0.05 + 0.1 * rng.uniform(),
            // Scales and variances.
            1 => 0.75 + 0.5 * rng.uniform(),
            _ => size * (2.0 * rng.uniform() - 1.0),
        };
        let x: Vec<f32> = (0..t.numel()).map(one).collect();
        s.write(v, Data::F32(&x))?;
    }
    Ok(())
}

/// Evaluates the loss by the definitions, remembering every value, so that a change costs only what depends on it.
struct Evaluator<'a> {
    g: &'a Graph,
    loss: Value,
    /// Nodes that lead to the loss, in order.
    nodes: Vec<usize>,
    /// By value; empty where it does not lead to the loss.
    base: Vec<Vec<f64>>,
    centre: f64,
}

impl<'a> Evaluator<'a> {
    /// Takes what is persistent from a session whose plan computed the same loss.
    fn new(g: &'a Graph, loss: Value, s: &Session) -> Result<Self> {
        let nodes = g.needed(&[loss]);
        let mut base = vec![vec![]; g.len()];
        for &v in nodes.iter().flat_map(|&i| &g.nodes()[i].ins) {
            if g.kind(v) != Kind::Temp && base[v.i()].is_empty() {
                base[v.i()] = s.read64(v)?;
            }
        }
        let mut e = Self { g, loss, nodes, base, centre: 0.0 };
        for k in 0..e.nodes.len() {
            let outs = e.eval(e.nodes[k], |v| &e.base[v.i()]);
            let n = &g.nodes()[e.nodes[k]];
            n.outs.iter().zip(outs).for_each(|(o, y)| e.base[o.i()] = y);
        }
        e.centre = e.base[loss.i()][0];
        match s.read64(loss)?[0] {
            planned if planned.to_bits() == e.centre.to_bits() => Ok(e),
            planned => Err(Error::job(format!("the plan computes the loss {planned}, the graph {}", e.centre))),
        }
    }

    fn eval<'b>(&self, node: usize, value: impl Fn(Value) -> &'b [f64]) -> Vec<Vec<f64>> {
        let n = &self.g.nodes()[node];
        let (ti, to) = self.g.io(n);
        let ins: Vec<&[f64]> = n.ins.iter().map(|v| value(*v)).collect();
        let mut outs: Vec<Vec<f64>> = to.iter().map(|t| vec![f64::NAN; t.numel()]).collect();
        n.op.eval(&Io { ins: &ti, outs: &to }, &ins, &mut outs);
        outs
    }

    fn value(&self, v: Value) -> &[f64] {
        &self.base[v.i()]
    }

    /// The loss when the persistent values that `is` names are what `make` says.
    fn loss<'b>(&self, is: &dyn Fn(Value) -> bool, make: &dyn Fn(Value) -> Cow<'b, [f64]>) -> f64 {
        let mut changed: std::collections::HashMap<Value, Vec<f64>> = Default::default();
        for &node in &self.nodes {
            let n = &self.g.nodes()[node];
            let moved: Vec<(Value, Cow<[f64]>)> = n.ins.iter().filter(|v| is(**v)).map(|v| (*v, make(*v))).collect();
            if moved.is_empty() && !n.ins.iter().any(|v| changed.contains_key(v)) {
                continue;
            }
            let outs = self.eval(node, |v| match moved.iter().find(|m| m.0 == v) {
                Some((_, x)) => x,
                None => changed.get(&v).unwrap_or_else(|| &self.base[v.i()]),
            });
            for (o, y) in n.outs.iter().zip(outs) {
                // Behind a ReLU that is off nothing has changed.
                if y != self.base[o.i()] {
                    changed.insert(*o, y);
                }
            }
        }
        changed.get(&self.loss).map_or(self.centre, |y| y[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(gradient: f64, loss: impl Fn(f64) -> f64) -> &'static str {
        match compare(gradient, loss(0.0), loss) {
            Point::Kink => "kink",
            Point::Compared { error, .. } if error <= TOLERANCE => "right",
            Point::Compared { .. } => "wrong",
        }
    }

    #[test]
    fn right_wrong_and_neither() {
        let smooth = |h: f64| 25.0 + (1.0 + h).powi(3) - h;
        assert_eq!(verdict(2.0, smooth), "right");
        assert_eq!(verdict(2.001, smooth), "wrong");
        assert_eq!(verdict(f64::NAN, smooth), "wrong");
        assert_eq!(verdict(0.0, |_| 25.0), "right");
        assert_eq!(verdict(1.0, |_| f64::NAN), "wrong");
        // A kink exactly here, and one within the first step only.
        assert_eq!(verdict(0.0, |h| 1.0 + h.max(0.0)), "kink");
        assert_eq!(verdict(0.0, |h| 1.0 + (h - 3e-6).max(0.0)), "right");
        assert_eq!(verdict(0.5, |h| 1.0 + (h - 3e-6).max(0.0)), "wrong");
        // Nothing but rounding, more than of one loss: what is added before a batch norm.
        let rounded = |slope: f64| move |h: f64| 25.0 + slope * h + 2e-12 * (1e16 * h + 1.0).sin();
        assert_eq!([verdict(1e-18, rounded(0.0)), verdict(1e-18, rounded(0.01))], ["right", "wrong"]);
        // A third derivative, which slopes on both sides agree about; a kink nearer than 1e-7, where the gradient is large.
        let bent = |h: f64| 1.0 + h + 1e9 * h.powi(3);
        assert_eq!([verdict(1.0, bent), verdict(1.01, bent)], ["right", "wrong"]);
        let near = |h: f64| 1.0 + 1e4 * h + 1e4 * (h - 3e-8).max(0.0);
        assert_eq!([verdict(1e4, near), verdict(1.01e4, near)], ["right", "wrong"]);
        // The same where rounding hides it.
        assert_eq!(verdict(1e-4, |h| 1.0 + 1e-4 * h + 1e-4 * (h.abs() - 3e-8).max(0.0) * h.signum().max(0.0)), "kink");
    }
}
