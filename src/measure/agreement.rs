//! One network on two devices, or on one device in two ways, output by output.

use super::Purpose;
use super::model::{ResolvedModel, pixels};
use crate::device::{self, Data, Device, Session};
use crate::error::Result;
use crate::experiment::Events;
use crate::experiment::config::Compute;
use crate::experiment::events::tell;
use crate::graph::Value;
use crate::table::text_table;
use crate::train::network::{Network, Precision, TRAIN};
use serde::Serialize;
use std::collections::HashMap;

/// How far apart the devices are in one tensor.
#[derive(Serialize)]
pub struct TensorAgreement {
    pub tensor: String,
    elements: usize,
    largest: f64,
    /// In any tensor of the layer: the gradient of a bias before a batch norm is zero, and what is left of it is rounding.
    largest_of_layer: f64,
    /// Relative to the largest magnitude of the layer; null where a number is missing on one side only. In 16 bits the root
    /// of the mean square, relative to that of the tensor, unless a tolerance is given.
    difference: Option<f64>,
    /// The largest difference that is accepted.
    tolerance: f64,
    pub accepted: bool,
}

/// One network, computed twice.
#[derive(Serialize)]
pub struct Agreement {
    model: String,
    pass: Purpose,
    batch: usize,
    pub device: String,
    pub against: String,
    pub tensors: Vec<TensorAgreement>,
}

/// Named tensors of one device.
type Tensors = Vec<(String, Vec<f32>)>;

/// What a device is held against.
#[derive(Clone, Copy, Debug)]
pub enum Against<'a> {
    /// Another device. What is accepted is relative to the largest magnitude among the layer's tensors: 1e-4 of an inference
    /// and 1e-3 of a training step without a number; in 16 bits twice the distance to the same in float32.
    Device { name: &'a str, tolerance: Option<f64> },
    /// Itself, launch by launch: every bit is equal.
    LaunchByLaunch,
    /// Itself, so many pictures at a time: every bit is equal.
    Pieces(usize),
}

/// A network that is to be computed twice.
pub struct AgreementCheck<'a> {
    pub model: &'a ResolvedModel,
    pub purpose: Purpose,
    pub batch: usize,
    pub against: Against<'a>,
    pub compute: &'a Compute,
    pub events: &'a dyn Events,
}

impl AgreementCheck<'_> {
    /// # Errors
    /// What a device refuses: that it disagrees is a result.
    pub fn run(&self) -> Result<Agreement> {
        match self.against {
            Against::Device { name, tolerance } => self.with_another(name, tolerance),
            Against::LaunchByLaunch => self.with_itself(None),
            Against::Pieces(n) => self.with_itself(Some(n)),
        }
    }

    /// Two devices.
    fn with_another(&self, reference: &str, tolerance: Option<f64>) -> Result<Agreement> {
        let reference = || device::open(reference, self.compute.threads);
        let (against, want) = self.compute_on(self.model, reference()?)?;
        let (device, got) = self.compute_on(self.model, self.compute.open(self.events)?)?;
        let accepted = tolerance.unwrap_or(match self.purpose {
            Purpose::Infer => 1e-4,
            Purpose::Train => 1e-3,
        });
        let mut scales: HashMap<&str, f64> = HashMap::new();
        for (tensor, want) in &want {
            let scale = scales.entry(layer(tensor)).or_default();
            *scale = scale.max(largest(want));
        }
        let pairs = got.iter().zip(&want);
        // The same in float32; of tf32, which the CPU computes in float32, in fp16, which has as many bits.
        let other = match self.model.precision {
            _ if tolerance.is_some() => None,
            Precision::Float32 | Precision::Tf32x3 => None,
            Precision::Tf32 => Some(Precision::Fp16),
            Precision::Bf16 | Precision::Fp16 => Some(Precision::Float32),
        };
        let rows = if let Some(precision) = other {
            let (_, other) = self.compute_on(&self.model.in_precision(precision), reference()?)?;
            let tolerance = rounding(&want, &other, self.model.precision);
            pairs.map(|((t, got), (_, want))| rounded(t, got, want, scales[layer(t)], tolerance)).collect()
        } else {
            pairs.map(|((t, got), (_, want))| row(t, got, want, scales[layer(t)], accepted)).collect()
        };
        let (model, pass, batch) = (self.model.name.clone(), self.purpose, self.batch);
        Ok(Agreement { model, pass, batch, device, against, tensors: rows })
    }

    /// One device, computing the same in two ways that must not differ in a bit.
    fn with_itself(&self, pieces: Option<usize>) -> Result<Agreement> {
        let open = || self.compute.open(self.events);
        let device = open()?;
        let name = device.name();
        tell!(self.events, "device: {name}");
        let (against, got, want) = match pieces {
            Some(n) => {
                let got = self.in_pieces(self.batch, device)?;
                (format!("{n} pictures at a time"), got, self.in_pieces(n, open()?)?)
            }
            None => {
                let got = self.several(true, device)?;
                ("the same launch by launch".into(), got, self.several(false, open()?)?)
            }
        };
        let tensors = got.iter().zip(&want).map(|((t, got), (_, want))| exact(t, got, want)).collect();
        let (model, pass, batch) = (self.model.name.clone(), self.purpose, self.batch);
        Ok(Agreement { model, pass, batch, device: name, against, tensors })
    }

    /// The outputs of the batch, computed `n` pictures at a time.
    fn in_pieces(&self, n: usize, device: Box<dyn Device>) -> Result<Tensors> {
        let (mut session, inputs, outputs) = self.model.prepared(n, device)?;
        let mut all: Tensors = (0..outputs.len()).map(|i| (format!("output {i}"), vec![])).collect();
        let bytes = |v: &Value, pictures: usize| session.graph().ty(*v).row() * pictures;
        let pictures: Vec<Vec<u8>> = inputs.iter().map(|x| pixels(bytes(x, self.batch))).collect();
        let rows: Vec<usize> = inputs.iter().map(|x| bytes(x, 1)).collect();
        for first in (0..self.batch).step_by(n) {
            let some = n.min(self.batch - first);
            for ((x, row), pictures) in inputs.iter().zip(&rows).zip(&pictures) {
                let mut piece = pictures[first * row..(first + some) * row].to_vec();
                // Pictures that nobody looks at fill the last piece.
                piece.resize(n * row, 0);
                session.write(*x, Data::U8(&piece))?;
            }
            session.run(0)?;
            for ((_, all), v) in all.iter_mut().zip(&outputs) {
                let output = session.read(*v)?;
                all.extend(&output[..output.len() / n * some]);
            }
        }
        Ok(all)
    }

    /// What is left of [`RUNS`] runs that differ in their pictures, or in the masks of dropout: replayed from the second on
    /// where the device does that, or launch by launch.
    fn several(&self, replayed: bool, device: Box<dyn Device>) -> Result<Tensors> {
        let run = |session: &mut Session, plan: usize| match replayed {
            true => session.run(plan),
            false => session.profile(plan, &mut |_| {}),
        };
        let mut all = vec![];
        match self.purpose {
            Purpose::Infer => {
                let (mut session, inputs, outputs) = self.model.prepared(self.batch, device)?;
                for i in 0..RUNS {
                    for x in &inputs {
                        let n = session.graph().ty(*x).numel();
                        session.write(*x, Data::U8(&pixels(n + RUNS)[i..n + i]))?;
                    }
                    run(&mut session, 0)?;
                    for (k, v) in outputs.iter().enumerate() {
                        all.push((format!("output {k} of run {i}"), session.read(*v)?));
                    }
                }
            }
            Purpose::Train => {
                let mut net = self.model.training(self.batch, device, SMALL_STEPS)?;
                for i in 0..RUNS {
                    net.session.write(net.state, Data::U32(&[1, 0, i as u32, 0]))?;
                    run(&mut net.session, TRAIN)?;
                    for part in &net.parts {
                        all.push((format!("{}loss of run {i}", part.prefix), net.session.read(part.loss)?));
                    }
                }
                for v in net.parts.iter().flat_map(|p| p.params.iter().chain(&p.velocity)) {
                    all.push((net.session.graph().name(*v).into(), net.session.read(*v)?));
                }
            }
        }
        Ok(all)
    }

    /// The device's name and what it computes, from the same weights and pictures on every device.
    fn compute_on(&self, model: &ResolvedModel, device: Box<dyn Device>) -> Result<(String, Tensors)> {
        let name = device.name();
        tell!(self.events, "device: {name}");
        let tensors = match self.purpose {
            Purpose::Infer => {
                let (mut session, outputs) = model.evaluation(self.batch, device)?;
                session.run(0)?;
                let one = |(i, v): (usize, &Value)| Ok((format!("output {i}"), session.read(*v)?));
                outputs.iter().enumerate().map(one).collect::<Result<_>>()?
            }
            Purpose::Train => {
                let mut net = model.training(self.batch, device, HYPER)?;
                net.session.run(TRAIN)?;
                trained(&net)?
            }
        };
        Ok((name, tensors))
    }
}

/// What a tensor's name has before its last point.
fn layer(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or(tensor, |(layer, _)| layer)
}

fn largest(x: &[f32]) -> f64 {
    x.iter().fold(0f64, |m, x| m.max(x.abs() as f64))
}

fn row(tensor: &str, got: &[f32], want: &[f32], largest_of_layer: f64, tolerance: f64) -> TensorAgreement {
    let scale = if largest_of_layer > 0.0 { largest_of_layer } else { 1.0 };
    let apart = |(g, w): (&f32, &f32)| if g.to_bits() == w.to_bits() { 0.0 } else { (g - w).abs() as f64 / scale };
    // `f64::max` would drop a NaN.
    let worst = got.iter().zip(want).map(apart).fold(0.0, |m: f64, e| if m.is_nan() || e <= m { m } else { e });
    let difference = Some(worst).filter(|w| w.is_finite() && got.len() == want.len());
    let accepted = difference.is_some_and(|d| d <= tolerance);
    let (tensor, elements, largest) = (tensor.into(), want.len(), largest(want));
    TensorAgreement { tensor, elements, largest, largest_of_layer, difference, tolerance, accepted }
}

/// Bits that must be equal, of numbers that must be there.
fn exact(tensor: &str, got: &[f32], want: &[f32]) -> TensorAgreement {
    let same = got.len() == want.len() && got.iter().zip(want).all(|(g, w)| g.to_bits() == w.to_bits());
    let finite = want.iter().all(|w| w.is_finite());
    TensorAgreement { accepted: same && finite, ..row(tensor, got, want, largest(want), 0.0) }
}

/// The same in 16 bits, by the root of the mean square: single elements say nothing where a ReLU or a maximum goes the other
/// way.
fn rounded(tensor: &str, got: &[f32], want: &[f32], largest_of_layer: f64, tolerance: f64) -> TensorAgreement {
    let difference = Some(distance(got, want)).filter(|d| d.is_finite() && got.len() == want.len());
    let accepted = difference.is_some_and(|d| d <= tolerance);
    let (tensor, elements, largest) = (tensor.into(), want.len(), largest(want));
    TensorAgreement { tensor, elements, largest, largest_of_layer, difference, tolerance, accepted }
}

/// What is accepted in 16 bits. Devices round alike but where their float32 sums lie on the two sides of a tie; the first such
/// elements make more in every layer after them, until the roundings of two devices are as good as independent: then they are
/// sqrt(2) as far from each other as each is from `other`, the same in float32. Twice the distance of the tensor that is
/// farthest from it, because a ReLU that goes the other way in one of the three changes the gradients of all layers before it;
/// and, where a few elements say little about that distance, four times what one rounding is at most.
fn rounding(want: &Tensors, other: &Tensors, precision: Precision) -> f64 {
    let one = if precision == Precision::Bf16 { 2f64.powi(-8) } else { 2f64.powi(-11) };
    let farthest = want.iter().zip(other).map(|((_, want), (_, other))| distance(want, other)).fold(0.0, f64::max);
    4.0 * one + 2.0 * farthest
}

/// The distance of two tensors, relative to the larger of their norms.
fn distance(x: &[f32], y: &[f32]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let largest = [x, y].map(|x| norm(&mut x.iter().map(|x| *x as f64))).into_iter().fold(f64::MIN_POSITIVE, f64::max);
    norm(&mut x.iter().zip(y).map(|(x, y)| *x as f64 - *y as f64)) / largest
}

/// Runs of a device that is held against itself.
const RUNS: usize = 4;

/// An update that moves every weight and leaves the network where its numbers are finite.
const SMALL_STEPS: [f32; 4] = [1e-6, 0.9, 0.0, 0.0];

/// Rate -1 and momentum: from zero, v = momentum v - rate g leaves the gradient in every velocity.
const HYPER: [f32; 4] = [-1.0, 0.9, 0.0, 0.0];

/// Loss and gradients after one step.
fn trained(net: &Network) -> Result<Tensors> {
    let mut all = vec![];
    for part in &net.parts {
        all.push((format!("{}loss", part.prefix), net.session.read(part.loss)?));
        for (w, v) in part.params.iter().zip(&part.velocity) {
            all.push((format!("gradient of {}", net.session.graph().name(*w)), net.session.read(*v)?));
        }
    }
    Ok(all)
}

impl Agreement {
    /// The table for people.
    pub fn text(&self) -> String {
        let header = ["tensor", "elements", "largest", "difference", "accepted", ""].map(String::from);
        let row = |r: &TensorAgreement| {
            let difference = r.difference.map_or("NaN".into(), |d| format!("{d:.1e}"));
            let verdict = if r.accepted { "" } else { "DIFFERS" };
            vec![
                r.tensor.clone(),
                r.elements.to_string(),
                format!("{:.3e}", r.largest),
                difference,
                format!("{:.1e}", r.tolerance),
                verdict.into(),
            ]
        };
        let rows: Vec<_> = self.tensors.iter().map(row).collect();
        let worst = self.tensors.iter().filter_map(|r| r.difference).fold(0.0, f64::max);
        format!(
            "{}\n{}, {:?} at batch {}: {} against {}; largest difference {worst:.1e}\n",
            text_table(&header, &rows),
            self.model,
            self.pass,
            self.batch,
            self.device,
            self.against
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_is_a_difference_where_bits_are_promised() {
        let accepted = |got: &[f32], want: &[f32]| exact("x", got, want).accepted;
        assert!(accepted(&[1.0, -0.0], &[1.0, -0.0]));
        assert!(!accepted(&[1.0, 0.0], &[1.0, -0.0]));
        assert!(!accepted(&[1.0], &[f32::from_bits(1.0f32.to_bits() + 1)]));
        assert!(!accepted(&[1.0], &[1.0, 2.0]));
        // The same NaN on both sides says nothing about the rest of the network.
        assert!(!accepted(&[f32::NAN], &[f32::NAN]));
    }
}
