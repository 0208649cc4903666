//! The whole network in miniature: forward, gradients, momentum steps with given dropout masks, loss curves.

use super::cases::{EXACT, U};
use super::golden::{Tensor, broken};
use super::noise::Noisy;
use super::{Checked, Context, Stop};
use crate::device::{Data, Device, Reference, Session};
use crate::error::Result;
use crate::graph::{Graph, Kind, Value};
use crate::models::{Architecture, Base, Config, OutAct, Standardize, Tower, TowerOutput, VGG16, VGG19};
use crate::nn::{Mode, Net};
use crate::ops::loss::{Mse, Reduction};
use crate::ops::optim::{Form, Sgd, hyper_type};
use crate::plan::Options;
use crate::preprocess::Preprocess;
use crate::shape::Type;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value as Json;

/// Runs of [`Noisy`] from which a tolerance is taken.
const DRAWS: u64 = 4;

/// Parameters of case `net`.
#[derive(Deserialize)]
struct Spec {
    towers: Vec<TowerSpec>,
    concat_order: Vec<String>,
    /// Features, hidden layers, outputs.
    fusion: Vec<usize>,
    batch: usize,
    image: [usize; 3],
    lr: f64,
    momentum: f64,
}

#[derive(Deserialize)]
struct TowerSpec {
    name: String,
    /// Channels, and "M" for a pool.
    conv: Vec<Json>,
    /// Flattened width, hidden layers, classes.
    dense: Vec<usize>,
}

/// Parameters of case `curve`.
#[derive(Deserialize)]
struct Curve {
    steps: usize,
    lr: f64,
    lr_of_curve_loss_lr4e4: f64,
    momentum: f64,
}

/// The network, and where its tensors are in the file.
struct Fused {
    config: Config,
    batch: usize,
    /// (name in the file, name in the graph) of every layer.
    layers: Vec<(String, String)>,
}

/// (tensor, numbers) as one device computed them.
type Results = Vec<(String, Vec<f64>)>;

/// The graph and its two plans: 0 is a training step, 1 an evaluation.
struct Built {
    session: Session,
    x: Value,
    y: Value,
    hyper: Value,
    mask: Option<Value>,
    loss: Value,
    features: Value,
    out: Value,
    params: Vec<Value>,
    grads: Vec<Value>,
}

impl TowerSpec {
    fn tower(&self) -> Option<Tower> {
        let width = 64 / self.conv.first()?.as_u64().filter(|c| [1, 2, 4, 8, 16, 32, 64].contains(c))? as usize;
        let is = |blocks: &[(usize, usize)]| {
            let block = |&(k, convs): &(usize, usize)| {
                let k = Json::from((k / width).max(1));
                std::iter::repeat_n(k, convs).chain([Json::from("M")])
            };
            blocks.iter().flat_map(block).eq(self.conv.iter().cloned())
        };
        let base = if is(&VGG16) {
            Base::VGG16
        } else if is(&VGG19) {
            Base::VGG19
        } else {
            return None;
        };
        let [_, dense @ .., classes] = &self.dense[..] else { return None };
        let (name, dense, classes) = (self.name.clone(), dense.to_vec(), *classes);
        let preprocess = Preprocess::preset("unit").ok()?;
        Some(Tower { name, width, dense, classes, keep: 1.0, preprocess, image: None, ..Tower::of(base) })
    }

    /// (name in the file, name in the graph) of every layer.
    fn layers(&self) -> Vec<(String, String)> {
        let (mut block, mut within, mut layers) = (1, 0, vec![]);
        for c in &self.conv {
            if c.is_string() {
                (block, within) = (block + 1, 0);
            } else {
                within += 1;
                let conv = format!("{}.conv{}", self.name, layers.len());
                layers.push((conv, format!("{}.conv{block}_{within}", self.name)));
            }
        }
        let fc = |j| (format!("{}.fc{j}", self.name), format!("{}.fc{}", self.name, j + 1));
        layers.extend((0..self.dense.len().saturating_sub(1)).map(fc));
        layers
    }
}

impl Fused {
    fn model(&self, net: &mut Net, x: Value) -> (Value, Value) {
        let member = &self.config.members()[0];
        let features = self.config.extract(net, member, &[x]);
        (features, self.config.predict(net, member, features)[0])
    }

    fn build(&self, context: &Context, masked: bool, device: Box<dyn Device>) -> Result<Built> {
        let (n, s, outputs) = (self.batch, self.config.image, self.config.targets.len());
        let mut g = Graph::default();
        let x = g.input("x", Type::f32(&[n, s, s, 3]));
        let y = g.input("y", Type::f32(&[n, outputs]));
        let rows = g.input("rows", Type::f32(&[n]));
        let hyper = g.input("hyper", hyper_type());
        let (features, out) = self.model(&mut Net::new(&mut g, Mode::Eval), x);
        let trained = if masked { self.model(&mut Net::new(&mut g, Mode::Masked { rows }), x).1 } else { out };
        let mask = g.find("head.drop1.mask");
        let loss = g.push1(Mse { reduction: Reduction::Mean }, &[trained, y, rows]);
        let params: Vec<Value> = g.of_kind(Kind::Param).collect();
        let grads = g.backward(loss, &params)?;
        let mut want = vec![loss];
        for (&w, &d) in params.iter().zip(&grads) {
            let v = g.state(&format!("{}.velocity", g.name(w)), g.ty(w));
            let op = Sgd { form: Form::Torch, nesterov: false, dampening: 0.0 };
            want.extend(g.push(op, &[w, v, d, hyper]));
        }
        want.extend(&grads);
        let mut session = Session::new(g, &[&want, &[out, features]], Options::default(), device)?;
        session.write(rows, Data::F64(&vec![1.0; n]))?;
        for (theirs, ours) in &self.layers {
            for part in ["weight", "bias"] {
                let (file, name) = (format!("w.{theirs}.{part}"), format!("{ours}.{part}"));
                let t = context.golden.get(&file)?.ours();
                match session.graph().find(&name) {
                    Some(v) if session.graph().dims(v) == t.dims => session.write(v, Data::F64(&t.data))?,
                    _ => return Err(broken(&context.golden.path, &file, "the shape is not that of the layer")),
                }
            }
        }
        Ok(Built { session, x, y, hyper, mask, loss, features, out, params, grads })
    }

    /// Inputs of step `s`.
    fn feed(&self, context: &Context, b: &mut Built, s: usize) -> Result<()> {
        let slice = |tensor: &str, v: Value| -> Result<Tensor> {
            let (t, n) = (context.golden.get(tensor)?, b.session.graph().ty(v).numel());
            match t.data.get(s * n..(s + 1) * n) {
                Some(data) if t.dims.get(1) == Some(&self.batch) => {
                    Ok(Tensor { dims: t.dims[2..].to_vec(), data: data.to_vec(), rounded: t.rounded })
                }
                _ => Err(broken(&context.golden.path, tensor, format!("the shape {:?} holds no step {s}", t.dims))),
            }
        };
        let [c, s_] = [3, self.config.image];
        let x = slice("x", b.x)?;
        let x = Tensor { dims: vec![self.batch, c, s_, s_], ..x }.ours();
        let y = slice("y", b.y)?;
        let mask = b.mask.map(|m| Ok::<_, crate::error::Error>((m, slice("mask", m)?))).transpose()?;
        b.session.write(b.x, Data::F64(&x.data))?;
        b.session.write(b.y, Data::F64(&y.data))?;
        if let Some((m, mask)) = mask {
            b.session.write(m, Data::F64(&mask.data))?;
        }
        Ok(())
    }

    /// Evaluation, then three momentum steps with the given masks.
    fn train(&self, context: &Context, [lr, momentum]: [f64; 2], device: Box<dyn Device>) -> Result<Results> {
        let mut b = self.build(context, true, device)?;
        self.feed(context, &mut b, 0)?;
        b.session.run(1)?;
        let mut results = vec![
            ("eval_out".to_string(), b.session.read64(b.out)?),
            ("eval_features".to_string(), b.session.read64(b.features)?),
        ];
        let steps = context.golden.get("loss3")?.data.len();
        let mut losses = vec![];
        for s in 0..steps {
            self.feed(context, &mut b, s)?;
            b.session.write(b.hyper, Data::F64(&[lr, momentum, 0.0, (s == 0) as u8 as f64]))?;
            b.session.run(0)?;
            losses.extend(b.session.read64(b.loss)?);
            if s == 0 {
                self.read(&mut results, &b, "grad", &b.grads)?;
            }
        }
        self.read(&mut results, &b, "w3", &b.params)?;
        results.push(("loss3".into(), losses));
        Ok(results)
    }

    /// Reads one value per parameter under the file's names.
    fn read(&self, results: &mut Results, b: &Built, prefix: &str, values: &[Value]) -> Result<()> {
        for (&p, &v) in b.params.iter().zip(values) {
            let (layer, part) = b.session.graph().name(p).rsplit_once('.').expect("layer.part");
            let theirs = &self.layers.iter().find(|l| l.1 == layer).expect("every layer is listed").0;
            results.push((format!("{prefix}.{theirs}.{part}"), b.session.read64(v)?));
        }
        Ok(())
    }

    /// The loss before each of several steps on the first batch, without dropout.
    fn curve(&self, context: &Context, c: &Curve, device: impl Fn() -> Result<Box<dyn Device>>) -> Result<Results> {
        let one = |(name, lr): (&str, f64)| -> Result<(String, Vec<f64>)> {
            let mut b = self.build(context, false, device()?)?;
            self.feed(context, &mut b, 0)?;
            let mut losses = vec![];
            for s in 0..c.steps {
                b.session.write(b.hyper, Data::F64(&[lr, c.momentum, 0.0, (s == 0) as u8 as f64]))?;
                b.session.run(0)?;
                losses.extend(b.session.read64(b.loss)?);
            }
            Ok((name.into(), losses))
        };
        [("curve_loss", c.lr), ("curve_loss_lr4e4", c.lr_of_curve_loss_lr4e4)].into_iter().map(one).collect()
    }
}

impl Context<'_> {
    pub(super) fn spec<T: for<'a> Deserialize<'a>>(&self, case: &str) -> Result<T> {
        let path = &self.golden.path;
        let p = self.golden.cases.get(case).ok_or_else(|| broken(path, case, "the parameters are missing"))?;
        serde_json::from_value(Json::Object(p.clone())).map_err(|e| broken(path, case, e.to_string()))
    }

    fn fused(&self, spec: &Spec) -> Result<Fused, Stop> {
        let unsupported = |what: &str| Stop::Unsupported(what.into());
        let by_name = |n: &String| spec.towers.iter().find(|t| &t.name == n);
        let order: Option<Vec<&TowerSpec>> = spec.concat_order.iter().map(by_name).collect();
        let order = order.ok_or_else(|| unsupported("concat_order"))?;
        let towers: Option<Vec<Tower>> = order.iter().map(|t| t.tower()).collect();
        // A flattened image of one pixel has no order of channels.
        let ([3, 32, 32], [_, head @ .., outputs]) = (spec.image, &spec.fusion[..]) else {
            return Err(unsupported("image"));
        };
        let config = Config {
            architecture: Architecture::Shared,
            towers: towers.ok_or_else(|| unsupported("towers"))?,
            tables: vec![],
            standardize: Standardize::No,
            tower_output: TowerOutput::Softmax,
            heads: 1,
            head: head.to_vec(),
            keep_features: 1.0,
            keep: (0..head.len()).map(|i| if i == 0 { 0.5 } else { 1.0 }).collect(),
            out_act: OutAct::Linear,
            image: 32,
            targets: (0..*outputs).map(|i| format!("target{i}")).collect(),
            classes: vec![],
        };
        let mut layers: Vec<(String, String)> = order.iter().flat_map(|t| t.layers()).collect();
        let ours = |j| if j == head.len() { "head.out".into() } else { format!("head.fc{}", j + 1) };
        layers.extend((0..=head.len()).map(|j| (format!("fusion.fc{j}"), ours(j))));
        Ok(Fused { config, batch: spec.batch, layers })
    }

    pub(super) fn tiny_fused(&self) -> Result<Vec<Checked>, Stop> {
        let spec: Spec = self.spec("net")?;
        let fused = self.fused(&spec)?;
        let curve: Curve = match self.case {
            "net" => return self.whole(|device| fused.train(self, [spec.lr, spec.momentum], device()?)),
            "curve" => self.spec("curve")?,
            other => return Err(Stop::Unsupported(other.into())),
        };
        self.whole(|device| fused.curve(self, &curve, device))
    }

    /// Compares everything `experiment` computes on the device with the file.
    pub(super) fn whole(
        &self,
        experiment: impl Fn(&(dyn Fn() -> Result<Box<dyn Device>> + Sync)) -> Result<Results> + Sync,
    ) -> Result<Vec<Checked>, Stop> {
        let got = experiment(&|| self.open())?;
        let spread = if self.exact { vec![0.0; got.len()] } else { spread(&experiment)? };
        let mut checked = vec![];
        for ((tensor, got), spread) in got.into_iter().zip(spread) {
            let want = self.golden.get(&tensor)?.ours();
            if want.data.len() != got.len() {
                return Err(broken(&self.golden.path, &tensor, format!("{} numbers are expected", got.len())).into());
            }
            let scale = want.data.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let rounded = if want.rounded { U } else { 0.0 };
            checked.push(Checked::new(tensor, &got, &want.data, spread + (EXACT + rounded) * scale));
        }
        Ok(checked)
    }
}

/// Three standard deviations, of the worst element of each result, under the errors of [`Noisy`].
fn spread(
    experiment: &(impl Fn(&(dyn Fn() -> Result<Box<dyn Device>> + Sync)) -> Result<Results> + Sync),
) -> Result<Vec<f64>> {
    let reference = experiment(&|| Ok(Box::new(Reference::new())))?;
    let draw = |seed| experiment(&move || Ok(Box::new(Noisy::new(seed))));
    let draws = (0..DRAWS).into_par_iter().map(draw).collect::<Result<Vec<Results>>>()?;
    let worst = |(t, (_, exact)): (usize, &(String, Vec<f64>))| {
        let variance = |i: usize| draws.iter().map(|d| (d[t].1[i] - exact[i]).powi(2)).sum::<f64>() / DRAWS as f64;
        3.0 * (0..exact.len()).map(variance).fold(0.0, f64::max).sqrt()
    };
    Ok(reference.iter().enumerate().map(worst).collect())
}
