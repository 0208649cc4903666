//! `compare`: one network on two devices, output by output.

use super::subject::{Chosen, Run, Scale, Subject};
use super::{Compute, output};
use crate::device::{self, Device};
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::table::text_table;
use crate::train::network::{Network, TRAIN};
use clap::Args;
use serde::Serialize;
use std::collections::HashMap;

#[derive(Args)]
pub struct Command {
    /// An inference, or one training step: loss, outputs and the gradient of every parameter.
    #[arg(long, value_enum, default_value_t = Run::Infer)]
    pass: Run,
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch: usize,
    /// The device that is believed.
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    against: String,
    /// Largest difference that is accepted, relative to the largest magnitude among the layer's tensors (float32 sums in
    /// another order differ, the more the deeper); 1e-4 of an inference and 1e-3 of a training step by default.
    #[arg(long, value_name = "X")]
    tolerance: Option<f64>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: Subject,
    #[command(flatten)]
    compute: Compute,
}

/// How far apart the devices are in one tensor.
#[derive(Serialize)]
struct Row {
    tensor: String,
    elements: usize,
    largest: f64,
    /// In any tensor of the layer: the gradient of a bias before a batch norm is zero, and what is left of it is rounding.
    largest_of_layer: f64,
    /// Relative to the largest magnitude of the layer; null where a number is missing on one side only.
    difference: Option<f64>,
    accepted: bool,
}

#[derive(Serialize)]
struct Comparison {
    model: String,
    pass: Run,
    batch: usize,
    device: String,
    against: String,
    tolerance: f64,
    tensors: Vec<Row>,
}

/// Named tensors of one device.
type Tensors = Vec<(String, Vec<f32>)>;

impl Command {
    pub fn run(self) -> Result<()> {
        if self.batch == 0 {
            return Err(Error::usage("--batch must be at least 1"));
        }
        self.compute.bind_threads();
        let chosen = self.model.choose(1, Scale::Full)?;
        let (against, want) = self.compute_on(&chosen, device::open(&self.against, self.compute.threads)?)?;
        let (device, got) = self.compute_on(&chosen, self.compute.open()?)?;
        let tolerance = self.tolerance.unwrap_or(match self.pass {
            Run::Infer => 1e-4,
            Run::Train => 1e-3,
        });
        let mut scales: HashMap<&str, f64> = HashMap::new();
        for (tensor, want) in &want {
            let scale = scales.entry(layer(tensor)).or_default();
            *scale = scale.max(largest(want));
        }
        let pairs = got.iter().zip(&want);
        let rows = pairs.map(|((t, got), (_, want))| row(t, got, want, scales[layer(t)], tolerance)).collect();
        let (model, pass, batch) = (chosen.name, self.pass, self.batch);
        let all = Comparison { model, pass, batch, device, against, tolerance, tensors: rows };
        let json = || serde_json::to_string_pretty(&all).expect("plain data") + "\n";
        output::print(&if self.json { json() } else { all.table() })?;
        match all.tensors.iter().find(|r| !r.accepted) {
            None => Ok(()),
            Some(r) => Err(Error::job(format!("{} differs on {} and {}", r.tensor, all.device, all.against))
                .fix("report it with what `doctor` says; `conform` finds the op")),
        }
    }

    /// The device's name and what it computes, from the same weights and pictures on every device.
    fn compute_on(&self, chosen: &Chosen, device: Box<dyn Device>) -> Result<(String, Tensors)> {
        let name = device.name();
        eprintln!("device: {name}");
        let tensors = match self.pass {
            Run::Infer => {
                let (mut session, outputs) = chosen.evaluation(self.batch, device)?;
                session.run(0)?;
                let one = |(i, v): (usize, &Value)| Ok((format!("output {i}"), session.read(*v)?));
                outputs.iter().enumerate().map(one).collect::<Result<_>>()?
            }
            Run::Train => {
                let mut net = chosen.training(self.batch, device, HYPER)?;
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

fn row(tensor: &str, got: &[f32], want: &[f32], largest_of_layer: f64, tolerance: f64) -> Row {
    let scale = if largest_of_layer > 0.0 { largest_of_layer } else { 1.0 };
    let apart = |(g, w): (&f32, &f32)| if g.to_bits() == w.to_bits() { 0.0 } else { (g - w).abs() as f64 / scale };
    // `f64::max` would drop a NaN.
    let worst = got.iter().zip(want).map(apart).fold(0.0, |m: f64, e| if m.is_nan() || e <= m { m } else { e });
    let difference = Some(worst).filter(|w| w.is_finite() && got.len() == want.len());
    let accepted = difference.is_some_and(|d| d <= tolerance);
    Row { tensor: tensor.into(), elements: want.len(), largest: largest(want), largest_of_layer, difference, accepted }
}

/// Rate -1 and momentum: from zero, v = momentum v - rate g leaves the gradient in every velocity.
const HYPER: [f32; 4] = [-1.0, 0.9, 0.0, 0.0];

/// Loss and gradients after one step.
fn trained(net: &Network) -> Result<Tensors> {
    let mut all = vec![];
    for part in &net.parts {
        all.push((format!("{}loss", part.prefix), net.session.read(part.loss)?));
        for (w, v) in part.params.iter().zip(&part.velocity) {
            all.push((format!("gradient of {}", net.session.graph.name(*w)), net.session.read(*v)?));
        }
    }
    Ok(all)
}

impl Comparison {
    fn table(&self) -> String {
        let header = ["tensor", "elements", "largest", "difference", ""].map(String::from);
        let row = |r: &Row| {
            let difference = r.difference.map_or("NaN".into(), |d| format!("{d:.1e}"));
            let verdict = if r.accepted { "" } else { "DIFFERS" };
            vec![r.tensor.clone(), r.elements.to_string(), format!("{:.3e}", r.largest), difference, verdict.into()]
        };
        let rows: Vec<_> = self.tensors.iter().map(row).collect();
        let worst = self.tensors.iter().filter_map(|r| r.difference).fold(0.0, f64::max);
        format!(
            "{}\n{}, {:?} at batch {}: {} against {}; largest difference {worst:.1e} of the largest magnitude in a layer, accepted {:.1e}\n",
            text_table(&header, &rows),
            self.model,
            self.pass,
            self.batch,
            self.device,
            self.against,
            self.tolerance
        )
    }
}
