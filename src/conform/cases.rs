/*! Single ops. A case becomes a graph whose inputs are the case's tensors and whose gradients are those of the op's own
adjoint.

# Tolerances of a float32 device
u = 2^-24. Absolute errors are divided by the largest expected magnitude at the end.

* Selections and copies (relu, max, concatenation, flattening): none.
* Sums of L products, in any order, with or without fused multiply-add: (L + 2) u times the largest sum of |a||b|, which
  is the definition evaluated on absolute values.
* Softmax, relative to the largest probability: rounding x - max by u t (t its size) moves exp(-t) by u t exp(-t) <= u / e;
  exp is good to two u; the sum of c terms to c - 1 + 2 and the mean of t, which is at most ln c; the division to 1.
  Together below c + 16.
* Its gradient y (gy - dot): y is off by (c + 16) u of itself, the dot product by that and c more of S, the sum of y |gy|,
  the difference and the product by 4 u: y u ((c + 20) |gy - dot| + (2 c + 18) S), at its largest.
* Log-softmax is computed in float64 and rounded once: u. Its gradient gy - exp(y) sum(gy) sees y rounded: |y| exp(y) is at
  most 1 / e, so u (|sum(gy)| / e + its own size), at its largest.
* Other activations: [`Act::bounds`], except that the gradient of silu is compared with gy: 18 u of the largest.
* Batch norm: a routine's sums are good to L = [`norm::CHAIN`] + 2 u of their magnitudes. The mean is then off by L u of a
  deviation, and the variance by L u of itself: L (1 + z / 2) u of y, z at most 5 deviations. Sums of gradients over n
  pixels have terms of both signs, and their magnitudes add up to about sqrt(n) of the sum: L sqrt(n) u. The running
  statistics are off by what the batch's are.
* Losses are summed in float64 and rounded once: 2 u of the loss. Gradients of mse are two products and a difference:
  4 u of the largest. Those of cross-entropy are computed in float64 and rounded once: 2 u of the largest.
* Dropout: 1 / (1 - p) comes from a rounded attribute and a rounded division, 2 u of the largest.
* SGD: weights and velocities are polynomials in w, g and the settings. A step passes each of their terms through at most
  13 roundings (settings 4, g + decay w 2, velocity 4, weight 3), so after k steps the error is at most 13 k u times the
  polynomial with every term positive, which is the definition run on |w|, |g| and a negative rate.
* Adam, after k steps: each term of the two means has passed at most 2 k + 5 roundings, two of them of the penalty, the quotient
  of their corrections and the root the same and half of it and 8 more, each product with the rate 2 and the weight 4 a step:
  (7 k + 21) u times the same definition run on |w|, |g| and a negative rate. */

use super::golden::{Tensor, broken};
use super::{Checked, Context, Stop};
use crate::device::{Data, Reference, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Value};
use crate::ops::activation::Act;
use crate::ops::adam::{Adam, Epsilon, WeightDecay};
use crate::ops::loss::{CrossEntropy, Of, Reduction};
use crate::ops::norm::Convention;
use crate::ops::optim::{Form, Sgd, hyper_type};
use crate::ops::{Bound, activation, conv, dense, dropout, layout, loss, lrn, norm, pool, softmax, upsample};
use crate::plan::Options;
use crate::shape::{DType, Type, Window};
use crate::train::schedule::{Decay, Plateau, PlateauRule, Schedule, Threshold};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// Rounding to float32.
pub(super) const U: f64 = 1.0 / (1 << 24) as f64;
/// What two float64 computations may differ by, relative to the largest magnitude: a few thousand roundings.
pub(super) const EXACT: f64 = 1e-12;

type Answer = Result<Vec<Checked>, Stop>;

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| x.abs().max(m))
}

/// A graph of one op and what is expected of it.
struct Trial {
    g: Graph,
    inputs: Vec<Input>,
    wants: Vec<Want>,
}

struct Input {
    value: Value,
    data: Vec<f64>,
    /// Decides what is selected: stays as it is where magnitudes are asked for.
    selects: bool,
}

struct Want {
    tensor: String,
    value: Value,
    expected: Vec<f64>,
    bound: Slack,
}

/// Allowed absolute error on a float32 device.
enum Slack {
    Op(Bound),
    Absolute(f64),
}

impl Trial {
    fn new() -> Self {
        Self { g: Graph::default(), inputs: vec![], wants: vec![] }
    }
    fn input_as(&mut self, name: &str, t: &Tensor, dtype: DType, selects: bool) -> Value {
        let t = t.ours();
        let value = self.g.state(name, Type::new(dtype, &t.dims));
        self.inputs.push(Input { value, data: t.data, selects });
        value
    }
    fn input(&mut self, name: &str, t: &Tensor) -> Value {
        self.input_as(name, t, DType::F32, false)
    }
}

impl Context<'_> {
    pub(super) fn check(&self) -> Answer {
        match &*self.golden.op {
            "conv2d" | "conv2d_depthwise" => self.conv2d(),
            "conv_transpose2d" => self.conv_transpose2d(),
            "local_response_norm" => self.local_response_norm(),
            "upsample_bilinear2d" => self.upsample_bilinear2d(),
            "maxpool2d" => self.maxpool2d(),
            "avgpool2d" => self.avgpool2d(),
            "adaptive_avgpool2d" => self.adaptive_avgpool2d(),
            "linear" => self.linear(),
            "activations" => self.activation(),
            "batchnorm2d" => self.batchnorm2d(),
            "dropout" => self.dropout(),
            "concat_flatten" => self.concat_flatten(),
            "softmax" => self.softmax(),
            "cross_entropy" => self.cross_entropy(),
            "mse" => self.mse(),
            "sgd" => self.sgd(),
            "adam" => self.adam(),
            "lr_schedules" => self.lr_schedule(),
            "tiny_fused" => self.tiny_fused(),
            "network" => self.network(),
            "svm" => self.svm(),
            "metrics" => self.metrics(),
            "emosepar" => self.emosepar(),
            "keras_sgd" => self.keras_sgd(),
            "imagedatagenerator" => self.imagedatagenerator(),
            "resize_opencv" => self.resize_opencv(),
            "fusion" => self.fusion(),
            "lowlevel" => self.lowlevel(),
            "cppn" => self.cppn(),
            "mapelites" => self.mapelites(),
            "cgan" => self.cgan(),
            other => Err(Stop::Unsupported(other.into())),
        }
    }

    pub(super) fn name(&self, tensor: &str) -> String {
        format!("{}.{tensor}", self.case)
    }
    pub(super) fn get(&self, tensor: &str) -> Result<&Tensor> {
        self.golden.get(&self.name(tensor))
    }
    pub(super) fn find(&self, tensor: &str) -> Option<&Tensor> {
        self.golden.find(&self.name(tensor))
    }
    pub(super) fn wrong(&self, tensor: &str, problem: impl Into<String>) -> Error {
        broken(&self.golden.path, &self.name(tensor), problem)
    }
    /// A tensor with `rank` extents.
    pub(super) fn ranked(&self, tensor: &str, rank: usize) -> Result<&Tensor> {
        let t = self.get(tensor)?;
        if t.dims.len() == rank {
            return Ok(t);
        }
        Err(self.wrong(tensor, format!("the shape is {:?}, {rank} extents are needed", t.dims)))
    }

    pub(super) fn parameters(&self) -> &Map<String, Json> {
        &self.golden.cases[self.case]
    }
    /// Refuses parameters that change the result and are not in `known`.
    pub(super) fn knows(&self, known: &[&str]) -> Result<(), Stop> {
        for (k, v) in self.parameters() {
            let off = matches!(v, Json::Null | Json::Bool(false)) || v.as_f64() == Some(0.0);
            if !off && !known.contains(&&**k) && k != "note" && k != "layout" {
                return Err(Stop::Unsupported(k.clone()));
            }
        }
        Ok(())
    }
    pub(super) fn text(&self, key: &str) -> &str {
        self.parameters().get(key).and_then(Json::as_str).unwrap_or("")
    }
    pub(super) fn bad_parameter(&self, key: &str, wanted: &str) -> Error {
        broken(&self.golden.path, self.case, format!("parameter `{key}` must be {wanted}"))
    }
    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.parameters().get(key) {
            None | Some(Json::Null) => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.bad_parameter(key, "a number")),
        }
    }
    pub(super) fn flag(&self, key: &str) -> bool {
        self.parameters().get(key).and_then(Json::as_bool).unwrap_or(false)
    }
    /// One whole number for both axes, or one for each.
    pub(super) fn pair(&self, key: &str, default: usize) -> Result<[usize; 2]> {
        let whole = |v: &Json| v.as_u64().filter(|n| *n < 1 << 16).map(|n| n as usize);
        let pair = match self.parameters().get(key) {
            None => Some([default; 2]),
            Some(Json::Array(a)) if a.len() == 2 => whole(&a[0]).zip(whole(&a[1])).map(|(a, b)| [a, b]),
            Some(v) => whole(v).map(|n| [n; 2]),
        };
        pair.ok_or_else(|| self.bad_parameter(key, "a whole number below 65536 or a pair of them"))
    }

    /// Pushes `op`, and its adjoint if the case has an upstream gradient: wants the tensor `y` and, for each input, its
    /// `g<input>`, with the bounds given.
    fn op(&self, t: &mut Trial, op: impl Op + 'static, ins: &[(&str, Value)], y: Bound, grads: &[Bound]) -> Result<()> {
        let values: Vec<Value> = ins.iter().map(|i| i.1).collect();
        let out = t.g.push_arc(Arc::new(op), &values)[0];
        t.g.check().map_err(|e| broken(&self.golden.path, self.case, e.to_string()))?;
        self.want(t, "y", out, y)?;
        let wanted: Vec<String> = ins.iter().map(|(n, _)| format!("g{n}")).collect();
        if !wanted.iter().any(|w| self.find(w).is_some()) {
            return Ok(());
        }
        let gy = t.input("gy", self.get("gy")?);
        if t.g.ty(gy) != t.g.ty(out) {
            return Err(self.wrong("gy", "the shape differs from that of y"));
        }
        let node = t.g.nodes().last().expect("just pushed").clone();
        let mut dy = vec![None; node.outs.len()];
        dy[0] = Some(gy);
        let d = node.op.grad(&mut t.g, &node, &dy)?;
        for ((name, d), bound) in wanted.iter().zip(d).zip(grads) {
            if let (Some(d), Some(_)) = (d, self.find(name)) {
                self.want(t, name, d, *bound)?;
            }
        }
        Ok(())
    }

    fn want(&self, t: &mut Trial, tensor: &str, value: Value, bound: Bound) -> Result<()> {
        self.want_within(t, tensor, value, Slack::Op(bound))
    }
    fn want_within(&self, t: &mut Trial, tensor: &str, value: Value, bound: Slack) -> Result<()> {
        let expected = self.get(tensor)?.ours();
        let dims = t.g.dims(value);
        if expected.dims != dims && !(expected.dims.is_empty() && dims == [1]) {
            return Err(
                self.wrong(tensor, format!("the shape (channels last) is {:?} instead of {dims:?}", expected.dims))
            );
        }
        t.wants.push(Want { tensor: tensor.into(), value, expected: expected.data, bound });
        Ok(())
    }

    /// Runs the graph and compares. `attribute` is the relative error of a result because an attribute is a float32.
    fn compare(&self, t: Trial, attribute: f64) -> Answer {
        let want: Vec<Value> = t.wants.iter().map(|w| w.value).collect();
        let mut s = Session::new(t.g.clone(), &[&want], Options::default(), self.open()?)?;
        for i in &t.inputs {
            s.write(i.value, Data::F64(&i.data))?;
        }
        s.run(0)?;
        let dots = t.wants.iter().any(|w| matches!(w.bound, Slack::Op(Bound::Dot(_))));
        let mut magnitudes = None;
        if dots && !self.exact {
            let mut s = Session::new(t.g, &[&want], Options::default(), Box::new(Reference::new()))?;
            for i in &t.inputs {
                let data: Vec<f64> = i.data.iter().map(|x| if i.selects { *x } else { x.abs() }).collect();
                s.write(i.value, Data::F64(&data))?;
            }
            s.run(0)?;
            magnitudes = Some(s);
        }
        let mut checked = vec![];
        for mut w in t.wants {
            if !self.exact {
                // What float32 cannot hold is expected as zero.
                w.expected.iter_mut().filter(|y| y.abs() < f32::MIN_POSITIVE as f64).for_each(|y| *y = 0.0);
            }
            let scale = largest(&w.expected);
            let slack = match w.bound {
                _ if self.exact => (EXACT + attribute) * scale,
                Slack::Absolute(x) => x,
                Slack::Op(Bound::Exact) => 0.0,
                Slack::Op(Bound::Ulps(n)) => n as f64 * U * scale,
                Slack::Op(Bound::Dot(terms)) => {
                    let sums = magnitudes.as_ref().expect("run above").read64(w.value)?;
                    (terms + 2) as f64 * U * largest(&sums)
                }
            };
            checked.push(Checked::new(w.tensor, &s.read64(w.value)?, &w.expected, slack));
        }
        Ok(checked)
    }

    fn conv2d(&self) -> Answer {
        self.knows(&["stride", "padding", "dilation", "groups", "bias"])?;
        let mut t = Trial::new();
        let (x, w) = (t.input("x", self.ranked("x", 4)?), t.input("w", self.ranked("w", 4)?));
        let mut ins = vec![("x", x), ("w", w)];
        if self.find("b").is_some() {
            ins.push(("b", t.input("b", self.ranked("b", 1)?)));
        }
        let &[filters, r, s, group_c] = t.g.dims(w) else { unreachable!("four extents") };
        let ([top, left], [groups, _]) = (self.pair("padding", 0)?, self.pair("groups", 1)?);
        let (stride, dilation) = (self.pair("stride", 1)?, self.pair("dilation", 1)?);
        let window = Window { size: [r, s], stride, pad: [top, left, top, left], dilation, ceil: false };
        let op = conv::Fprop { filters, window, groups, bias: ins.len() == 3, relu: false };
        let gy: usize = self.ranked("y", 4)?.dims.iter().product();
        let rows = gy / filters;
        let per_group = filters / groups.max(1);
        let grads = [Bound::Dot(r * s * per_group), Bound::Dot(rows), Bound::Dot(rows)];
        self.op(&mut t, op, &ins, Bound::Dot(r * s * group_c + 1), &grads)?;
        self.compare(t, 0.0)
    }

    fn conv_transpose2d(&self) -> Answer {
        self.knows(&["stride", "padding", "output_padding", "dilation", "groups", "bias"])?;
        let mut t = Trial::new();
        let (x, w) = (t.input("x", self.ranked("x", 4)?), t.input("w", self.ranked("w", 4)?));
        let mut ins = vec![("x", x), ("w", w)];
        if self.find("b").is_some() {
            ins.push(("b", t.input("b", self.ranked("b", 1)?)));
        }
        let &[k, r, s, group_c] = t.g.dims(w) else { unreachable!("four extents") };
        let ([top, left], [groups, _]) = (self.pair("padding", 0)?, self.pair("groups", 1)?);
        let (stride, dilation) = (self.pair("stride", 1)?, self.pair("dilation", 1)?);
        let window = Window { size: [r, s], stride, pad: [top, left, top, left], dilation, ceil: false };
        let (channels, output_pad) = (group_c.saturating_mul(groups), self.pair("output_padding", 0)?);
        let op = conv::Transposed { channels, window, output_pad, groups, bias: ins.len() == 3, relu: false };
        let (pixels, per_group) = (self.ranked("y", 4)?.data.len() / channels.max(1), k / groups.max(1));
        let grads = [r * s * group_c, t.g.ty(x).numel() / k, pixels].map(Bound::Dot);
        self.op(&mut t, op, &ins, Bound::Dot(r * s * per_group + 1), &grads)?;
        self.compare(t, 0.0)
    }

    fn local_response_norm(&self) -> Answer {
        self.knows(&["size", "alpha", "beta", "k"])?;
        let mut t = Trial::new();
        let x = t.input("x", self.ranked("x", 4)?);
        let ([size, _], alpha) = (self.pair("size", 5)?, self.number("alpha", 1e-4)?);
        let op = lrn::Lrn { size, alpha, beta: self.number("beta", 0.75)?, k: self.number("k", 1.0)? };
        // As in the op's own cases.
        let bound = |n: usize| Bound::Ulps(n * (size + 8));
        self.op(&mut t, op, &[("x", x)], bound(1), &[bound(4)])?;
        self.compare(t, 0.0)
    }

    fn upsample_bilinear2d(&self) -> Answer {
        self.knows(&["output_size", "align_corners"])?;
        let mut t = Trial::new();
        let x = t.input("x", self.ranked("x", 4)?);
        let out = self.pair("output_size", 1)?;
        let grid = upsample::Grid { out, align_corners: self.flag("align_corners") };
        // No pixel is under more outputs than there are.
        self.op(&mut t, upsample::Bilinear { grid }, &[("x", x)], Bound::Dot(4), &[Bound::Dot(out[0] * out[1])])?;
        self.compare(t, 0.0)
    }

    fn batchnorm2d(&self) -> Answer {
        self.knows(&["training", "momentum", "eps"])?;
        let (eps, momentum) = (self.number("eps", 1e-5)?, self.number("momentum", 0.1)?);
        let mut t = Trial::new();
        let x = t.input("x", self.ranked("x", 4)?);
        let mut ins = vec![("x", x)];
        for name in ["w", "b", "running_mean", "running_var"] {
            ins.push((name, t.input(name, self.ranked(name, 1)?)));
        }
        let &[n, h, w, _] = t.g.dims(x) else { unreachable!("four extents") };
        let l = norm::CHAIN + 2;
        let (y, sums) = (Bound::Ulps(4 * l), Bound::Ulps(l * ((n * h * w) as f64).sqrt() as usize));
        let mut after = [ins[3].1, ins[4].1];
        if self.flag("training") {
            let ones = Tensor { dims: vec![n], data: vec![1.0; n], rounded: false };
            let rows = t.input("rows", &ones);
            ins.truncate(3);
            ins.push(("rows", rows));
            self.op(&mut t, norm::Train { eps, relu: false }, &ins, y, &[sums; 3])?;
            let batch = t.g.nodes()[0].outs.clone();
            let convention = Convention { eps, momentum, unbiased: true, scale: true };
            let update = norm::Update { convention, pixels: h * w };
            let new = t.g.push(update, &[after[0], after[1], batch[1], batch[2], rows]);
            after = [new[0], new[1]];
        } else {
            self.op(&mut t, norm::Eval { eps, relu: false }, &ins, y, &[sums; 3])?;
        }
        self.want(&mut t, "running_mean_after", after[0], Bound::Ulps(l))?;
        self.want(&mut t, "running_var_after", after[1], Bound::Ulps(l))?;
        self.compare(t, 0.0)
    }

    fn linear(&self) -> Answer {
        self.knows(&["bias"])?;
        let mut t = Trial::new();
        let (x, w) = (t.input("x", self.ranked("x", 2)?), t.input("w", self.ranked("w", 2)?));
        let mut ins = vec![("x", x), ("w", w)];
        if self.find("b").is_some() {
            ins.push(("b", t.input("b", self.ranked("b", 1)?)));
        }
        let (n, &[out, width]) = (t.g.dims(x)[0], t.g.dims(w)) else { unreachable!("two extents") };
        let op = dense::Fprop { bias: ins.len() == 3, relu: false };
        self.op(&mut t, op, &ins, Bound::Dot(width + 1), &[Bound::Dot(out), Bound::Dot(n), Bound::Dot(n)])?;
        self.compare(t, 0.0)
    }

    fn maxpool2d(&self) -> Answer {
        self.knows(&["kernel", "stride", "padding", "ceil_mode", "dilation"])?;
        let kernel = self.pair("kernel", 1)?;
        let (stride, [top, left]) = (self.pair("stride", kernel[0])?, self.pair("padding", 0)?);
        let (dilation, ceil) = (self.pair("dilation", 1)?, self.flag("ceil_mode"));
        let window = Window { size: kernel, stride, pad: [top, left, top, left], dilation, ceil };
        let trial = || -> Result<(Trial, Value)> {
            let mut t = Trial::new();
            let x = t.input_as("x", self.ranked("x", 4)?, DType::F32, true);
            Ok((t, x))
        };
        let (mut t, x) = trial()?;
        let taps = kernel[0].saturating_mul(kernel[1]);
        self.op(&mut t, pool::MaxPool { window }, &[("x", x)], Bound::Exact, &[Bound::Dot(taps)])?;
        let out = t.g.ty(t.g.nodes()[0].outs[0]);
        let mut checked = self.compare(t, 0.0)?;
        // The engine keeps no indices: with upstream gradients of one, each pixel gets the number of windows it won.
        if let Some(index) = self.find("index").map(Tensor::ours) {
            if index.dims != out.dims() {
                return Err(self.wrong("index", "the shape differs from that of y").into());
            }
            let (mut t, x) = trial()?;
            let ones = Tensor { dims: self.get("y")?.dims.clone(), data: vec![1.0; out.numel()], rounded: false };
            let ones = t.input("ones", &ones);
            let value = t.g.push1(pool::MaxPoolGrad { window }, &[x, ones]);
            let &[_, h, w, c] = t.g.dims(x) else { unreachable!("four extents") };
            let mut expected = vec![0.0; t.g.ty(x).numel()];
            for (at, i) in index.data.iter().enumerate() {
                if !(*i >= 0.0 && *i < (h * w) as f64) {
                    return Err(self.wrong("index", format!("{i} is not a pixel of x")).into());
                }
                expected[(at / out.row() * h * w + *i as usize) * c + at % c] += 1.0;
            }
            t.wants.push(Want { tensor: "index".into(), value, expected, bound: Slack::Op(Bound::Exact) });
            checked.extend(self.compare(t, 0.0)?);
        }
        Ok(checked)
    }

    fn avgpool2d(&self) -> Answer {
        self.knows(&["kernel", "stride", "padding", "ceil_mode", "count_include_pad"])?;
        let kernel = self.pair("kernel", 1)?;
        let (stride, [top, left]) = (self.pair("stride", kernel[0])?, self.pair("padding", 0)?);
        let pad = [top, left, top, left];
        let window = Window { size: kernel, stride, pad, dilation: [1; 2], ceil: self.flag("ceil_mode") };
        let count_pad = !matches!(self.parameters().get("count_include_pad"), Some(Json::Bool(false)));
        self.means(pool::Over::Window { window, count_pad })
    }

    fn adaptive_avgpool2d(&self) -> Answer {
        self.knows(&["output_size"])?;
        self.means(pool::Over::Adaptive { out: self.pair("output_size", 1)? })
    }

    fn means(&self, over: pool::Over) -> Answer {
        let mut t = Trial::new();
        let x = t.input("x", self.ranked("x", 4)?);
        // No output is the mean of more pixels, and no pixel is under more outputs, than there are.
        let &[_, h, w, _] = t.g.dims(x) else { unreachable!("four extents") };
        let &[_, _, p, q] = &self.ranked("y", 4)?.dims[..] else { unreachable!("four extents") };
        self.op(&mut t, pool::AvgPool { over }, &[("x", x)], Bound::Dot(h * w), &[Bound::Dot(p * q)])?;
        self.compare(t, 0.0)
    }

    fn activation(&self) -> Answer {
        self.knows(&["negative_slope", "alpha", "beta", "threshold", "approximate"])?;
        let mut t = Trial::new();
        let x = t.input("x", self.get("x")?);
        let act = match self.case {
            "relu" => {
                self.op(&mut t, activation::Relu, &[("x", x)], Bound::Exact, &[Bound::Exact])?;
                return self.compare(t, 0.0);
            }
            "leaky_relu" => Act::LeakyRelu { slope: self.number("negative_slope", 0.01)? },
            "elu" => Act::Elu { alpha: self.number("alpha", 1.0)? },
            "sigmoid" => Act::Sigmoid,
            "tanh" => Act::Tanh,
            "gelu" => match self.parameters().get("approximate").and_then(Json::as_str) {
                None | Some("none") => Act::Gelu,
                Some("tanh") => Act::GeluTanh,
                Some(other) => return Err(Stop::Unsupported(format!("gelu by {other}"))),
            },
            "silu" => Act::Silu,
            "softplus" => {
                let (beta, threshold) = (self.number("beta", 1.0)?, self.number("threshold", 20.0)?);
                Act::Softplus { beta, threshold }
            }
            "relu6" => Act::Relu6,
            other => return Err(Stop::Unsupported(other.into())),
        };
        let [y, gx] = act.bounds();
        self.op(&mut t, activation::Activate { act }, &[("x", x)], y, &[gx])?;
        if let (Act::Silu, Some(gx)) = (act, t.wants.iter_mut().find(|w| w.tensor == "gx")) {
            gx.bound = Slack::Absolute(18.0 * U * largest(&self.get("gy")?.data));
        }
        self.compare(t, 0.0)
    }

    fn dropout(&self) -> Answer {
        self.knows(&["p"])?;
        let p = self.number("p", 0.5)?;
        if !(0.0..1.0).contains(&p) {
            return Err(self.bad_parameter("p", "from 0 up and below 1").into());
        }
        let mut t = Trial::new();
        let ins = [("x", t.input("x", self.get("x")?)), ("mask", t.input("mask", self.get("mask")?))];
        let keep = (1.0 - p) as f32;
        self.op(&mut t, dropout::Apply { keep }, &ins, Bound::Ulps(2), &[Bound::Ulps(2), Bound::Exact])?;
        self.compare(t, (keep as f64 / (1.0 - p) - 1.0).abs())
    }

    fn concat_flatten(&self) -> Answer {
        let mut t = Trial::new();
        if let Some(order) = self.case.strip_prefix("flatten_") {
            let chw = match order {
                "nchw" => true,
                "nhwc" => false,
                _ => return Err(Stop::Unsupported(self.case.into())),
            };
            let x = t.input("x", self.ranked("x", 4)?);
            self.op(&mut t, layout::Flatten { chw }, &[("x", x)], Bound::Exact, &[Bound::Exact])?;
        } else if self.case == "concat_axis1" {
            let prefix = self.name("");
            let names: Vec<&str> = self.golden.names(&prefix).filter(|n| n.len() == 1 && *n != "y").collect();
            let mut ins = vec![];
            for n in names {
                ins.push((n, t.input(n, self.ranked(n, 2)?)));
            }
            if ins.is_empty() {
                return Err(self.wrong("a", "the tensor is missing").into());
            }
            let exact = vec![Bound::Exact; ins.len()];
            self.op(&mut t, layout::Concat, &ins, Bound::Exact, &exact)?;
        } else {
            return Err(Stop::Unsupported(self.case.into()));
        }
        self.compare(t, 0.0)
    }

    fn softmax(&self) -> Answer {
        self.knows(&["dim"])?;
        if self.number("dim", 1.0)? != 1.0 {
            return Err(Stop::Unsupported("dim".into()));
        }
        let mut t = Trial::new();
        let x = t.input("x", self.ranked("x", 2)?);
        let c = t.g.dims(x)[1];
        self.op(&mut t, softmax::Softmax, &[("x", x)], Bound::Ulps(c + 16), &[Bound::Exact])?;
        if let Some(gx) = t.wants.iter_mut().find(|w| w.tensor == "gx") {
            let (y, gy) = (&self.get("y")?.data, &self.get("gy")?.data);
            let row = |(y, gy): (&[f64], &[f64])| {
                let dot: f64 = y.iter().zip(gy).map(|(y, gy)| y * gy).sum();
                let sum: f64 = y.iter().zip(gy).map(|(y, gy)| (y * gy).abs()).sum();
                let one = |(y, gy): (&f64, &f64)| {
                    y.abs() * U * ((c + 20) as f64 * (gy - dot).abs() + (2 * c + 18) as f64 * sum)
                };
                y.iter().zip(gy).map(one).fold(0.0, f64::max)
            };
            gx.bound = Slack::Absolute(y.chunks(c).zip(gy.chunks(c)).map(row).fold(0.0, f64::max));
        }
        if self.find("log_y").is_some() {
            let y = t.g.push1(softmax::LogSoftmax, &[x]);
            self.want(&mut t, "log_y", y, Bound::Ulps(1))?;
            if self.find("log_gx").is_some() {
                let upstream = self.get("gy")?;
                let gy = t.input("log_gy", upstream);
                let d = t.g.push1(softmax::LogSoftmaxGrad, &[y, gy]);
                let sum = upstream.data.chunks(c).map(|gy| gy.iter().sum::<f64>().abs()).fold(0.0, f64::max);
                let slack = U * (sum / std::f64::consts::E + largest(&self.get("log_gx")?.data));
                self.want_within(&mut t, "log_gx", d, Slack::Absolute(slack))?;
            }
        }
        self.compare(t, 0.0)
    }

    fn reduction(&self) -> Result<Reduction, Stop> {
        match self.parameters().get("reduction").and_then(Json::as_str) {
            Some("mean") | None => Ok(Reduction::Mean),
            Some("sum") => Ok(Reduction::Sum),
            Some(other) => Err(Stop::Unsupported(format!("reduction {other}"))),
        }
    }

    /// Pushes a scalar loss of (x, target, row weights of one, others) and its gradient `gx`, or what x is called.
    fn loss(&self, mut t: Trial, op: impl Op + 'static, target: Value, others: &[Value], gx: (&str, Slack)) -> Answer {
        let x = t.inputs[0].value;
        let rows = t.g.dims(x)[0];
        let ones = Tensor { dims: vec![rows], data: vec![1.0; rows], rounded: false };
        let w = t.input("rows", &ones);
        let value = t.g.push1(op, &[&[x, target, w], others].concat());
        t.g.check().map_err(|e| broken(&self.golden.path, self.case, e.to_string()))?;
        self.want(&mut t, "loss", value, Bound::Ulps(2))?;
        if self.find(gx.0).is_some() {
            let d = t.g.backward(value, &[x])?[0];
            self.want_within(&mut t, gx.0, d, gx.1)?;
        }
        self.compare(t, 0.0)
    }

    fn cross_entropy(&self) -> Answer {
        self.knows(&["reduction", "label_smoothing", "ignore_index", "weighted"])?;
        let whole = |i: f64| i.fract() == 0.0 && i.abs() < (1u64 << 31) as f64;
        let ignore = match self.parameters().get("ignore_index") {
            None | Some(Json::Null) => None,
            Some(v) => {
                let i = v.as_f64().filter(|i| whole(*i));
                Some(i.ok_or_else(|| self.bad_parameter("ignore_index", "a whole number"))? as i32)
            }
        };
        let (x_name, of) = if self.find("p").is_some() { ("p", Of::Probabilities) } else { ("x", Of::Logits) };
        let smoothing = self.number("label_smoothing", 0.0)?;
        let op = CrossEntropy { of, reduction: self.reduction()?, smoothing, ignore };
        let mut t = Trial::new();
        let x = t.input(x_name, self.ranked(x_name, 2)?);
        let c = t.g.dims(x)[1];
        let to = self.get("target")?;
        let soft = to.dims.len() == 2;
        let class = |l: &f64| whole(*l) && (0.0..c as f64).contains(l) || ignore.is_some_and(|i| *l == i as f64);
        if let Some(l) = to.data.iter().find(|l| !soft && !class(l)) {
            return Err(self.wrong("target", format!("{l} is not one of {c} classes")).into());
        }
        let target = t.input_as("target", to, if soft { DType::F32 } else { DType::I32 }, true);
        let mut others = vec![];
        if self.flag("weighted") {
            others.push(t.input("weight", self.ranked("weight", 1)?));
        }
        self.loss(t, op, target, &others, (&format!("g{x_name}"), Slack::Op(Bound::Ulps(2))))
    }

    fn mse(&self) -> Answer {
        self.knows(&["reduction"])?;
        let reduction = self.reduction()?;
        let mut t = Trial::new();
        t.input("x", self.ranked("x", 2)?);
        let target = t.input("target", self.ranked("target", 2)?);
        let slack = self.find("gx").map_or(0.0, |gx| 4.0 * U * largest(&gx.data));
        self.loss(t, loss::Mse { reduction }, target, &[], ("gx", Slack::Absolute(slack)))
    }

    /// Weights, the gradients of each step, and its rate.
    fn descent(&self) -> Result<(&Tensor, &Tensor, Vec<f64>), Stop> {
        let (w0, grads) = (self.get("w")?, self.get("grads")?);
        let steps = grads.dims.first().copied().unwrap_or(0);
        if grads.dims.get(1..) != Some(&w0.dims[..]) {
            return Err(self.wrong("grads", format!("the shape is {:?}, not [steps, ..] of w", grads.dims)).into());
        }
        let lr: Vec<f64> = match self.parameters().get("lr") {
            Some(Json::Array(a)) => a.iter().filter_map(Json::as_f64).collect(),
            Some(v) => vec![v.as_f64().unwrap_or(f64::NAN); steps],
            None => vec![],
        };
        if lr.len() != steps || lr.iter().any(|r| !r.is_finite()) {
            return Err(self.bad_parameter("lr", "a number, or one for each step").into());
        }
        Ok((w0, grads, lr))
    }

    /// The first `N` inputs of an optimiser, w and averages that begin at 0, after each step; then the sizes of the terms that
    /// they are sums of: the same of magnitudes, climbing. The other inputs are the gradient and `hyper(step, sign of the rate)`.
    fn descended<const N: usize>(
        &self,
        op: impl Op + 'static,
        w0: &Tensor,
        grads: &Tensor,
        hyper: impl Fn(usize, f64) -> [f64; 4],
    ) -> Result<[[Vec<f64>; N]; 2]> {
        let n = w0.data.len();
        let mut g = Graph::default();
        let state: [Value; N] = std::array::from_fn(|i| g.state(&format!("state{i}"), Type::f32(&[n])));
        let [grad, settings] = [("grad", Type::f32(&[n])), ("hyper", hyper_type())].map(|(name, t)| g.state(name, t));
        let outs = g.push(op, &[&state[..], &[grad, settings]].concat());
        let descend = |device, w: Vec<f64>, grads: &[f64], sign: f64| -> Result<[Vec<f64>; N]> {
            let mut s = Session::new(g.clone(), &[&outs], Options::default(), device)?;
            s.write(state[0], Data::F64(&w))?;
            for average in &state[1..] {
                s.write(*average, Data::F64(&vec![0.0; n]))?;
            }
            let mut after = [const { vec![] }; N];
            for (i, x) in grads.chunks(n).enumerate() {
                s.write(grad, Data::F64(x))?;
                s.write(settings, Data::F64(&hyper(i, sign)))?;
                s.run(0)?;
                for (a, v) in after.iter_mut().zip(state) {
                    a.extend(s.read64(v)?);
                }
            }
            Ok(after)
        };
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
        Ok([
            descend(self.open()?, w0.data.clone(), &grads.data, 1.0)?,
            descend(Box::new(Reference::new()), abs(&w0.data), &abs(&grads.data), -1.0)?,
        ])
    }

    fn adam(&self) -> Answer {
        self.knows(&["lr", "betas", "eps", "weight_decay", "decoupled", "uncorrected", "amsgrad"])?;
        let (w0, grads, lr) = self.descent()?;
        let steps = lr.len();
        let pair = |b: &Json| b.as_array()?.iter().map(Json::as_f64).collect::<Option<Vec<f64>>>()?.try_into().ok();
        let betas: Option<[f64; 2]> = self.parameters().get("betas").and_then(pair);
        let Some([beta1, beta2]) = betas.filter(|b| b.iter().all(|b| (0.0..1.0).contains(b))) else {
            return Err(self.bad_parameter("betas", "two numbers from 0 to below 1").into());
        };
        let op = Adam {
            beta1,
            beta2,
            eps: self.number("eps", f64::NAN)?,
            decay: if self.flag("decoupled") { WeightDecay::Decoupled } else { WeightDecay::Penalty },
            epsilon: if self.flag("uncorrected") { Epsilon::Uncorrected } else { Epsilon::Corrected },
            amsgrad: self.flag("amsgrad"),
            ..Adam::default()
        };
        let decay = self.number("weight_decay", f64::NAN)?;

        let hyper = |i: usize, sign: f64| op.hyper(sign * lr[i], decay, i as u32 + 1);
        let [got, terms] = if op.amsgrad {
            self.descended::<4>(op, w0, grads, hyper)?.map(Vec::from)
        } else {
            self.descended::<3>(op, w0, grads, hyper)?.map(Vec::from)
        };
        let mut dims = vec![steps];
        dims.extend(&w0.dims);
        let relative = if self.exact { EXACT } else { (7 * steps + 21) as f64 * U };
        let checked = ["w_after", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"].into_iter().zip(got).zip(terms);
        let check = |((tensor, got), terms): ((&'static str, Vec<f64>), Vec<f64>)| {
            let want = self.golden.shaped(&self.name(tensor), &dims)?;
            Ok(Checked::new(tensor, &got, &want.data, relative * largest(&terms)))
        };
        checked.map(check).collect()
    }

    fn sgd(&self) -> Answer {
        self.knows(&["lr", "momentum", "weight_decay", "nesterov", "dampening"])?;
        let (w0, grads, lr) = self.descent()?;
        let steps = lr.len();
        let (momentum, decay) = (self.number("momentum", 0.0)?, self.number("weight_decay", 0.0)?);
        let dampening = self.number("dampening", 0.0)?;
        let form = if self.case.ends_with("_keras") { Form::Keras } else { Form::Torch };
        let op = Sgd { form, nesterov: self.flag("nesterov"), dampening: dampening as f32 };

        let hyper = |i: usize, sign: f64| [sign * lr[i], momentum, decay, (i == 0) as u8 as f64];
        let [got, terms] = self.descended::<2>(op, w0, grads, hyper)?;
        let mut dims = vec![steps];
        dims.extend(&w0.dims);
        let mut checked = vec![];
        // The factor 1 - dampening enters a term at most once in a step.
        let rounded = ((1.0 - op.dampening as f64) / (1.0 - dampening) - 1.0).abs() * steps as f64;
        for ((tensor, got), terms) in ["w_after", "velocity"].into_iter().zip(got).zip(terms) {
            if tensor == "velocity" && self.find(tensor).is_none() {
                continue;
            }
            let want = self.golden.shaped(&self.name(tensor), &dims)?;
            let relative = if self.exact { EXACT + rounded } else { (13 * steps) as f64 * U };
            checked.push(Checked::new(tensor, &got, &want.data, relative * largest(&terms)));
        }
        Ok(checked)
    }

    /// Schedules are host arithmetic in float64 on every device.
    fn lr_schedule(&self) -> Answer {
        let lr0 = self.number("lr0", f64::NAN)?;
        let want = self.ranked("lr", 1)?;
        let epochs = want.data.len();
        let whole = |key| -> Result<u32> { Ok(self.number(key, 0.0)?.clamp(0.0, 1e6) as u32) };
        let got: Vec<f64> = if self.case == "step" {
            self.knows(&["lr0", "step_size", "gamma"])?;
            let by = Decay::Step { every: whole("step_size")?, gamma: self.number("gamma", 0.1)? };
            let schedule = Schedule::Decay { lr: lr0, by };
            schedule.check()?;
            (0..epochs as u32).map(|e| schedule.lr(e, 0)).collect()
        } else if self.case.starts_with("plateau") {
            self.knows(&[
                "lr0",
                "factor",
                "patience",
                "threshold",
                "threshold_mode",
                "cooldown",
                "min_lr",
                "eps",
                "mode",
            ])?;
            let text = |key| self.parameters().get(key).and_then(Json::as_str);
            if text("mode").is_some_and(|m| m != "min") {
                return Err(Stop::Unsupported("mode".into()));
            }
            let by = self.number("threshold", 1e-4)?;
            let rule = PlateauRule {
                factor: self.number("factor", 0.1)?,
                wait: whole("patience")? + 1,
                threshold: if text("threshold_mode") == Some("abs") { Threshold::Abs(by) } else { Threshold::Rel(by) },
                cooldown: whole("cooldown")?,
                min_lr: self.number("min_lr", 0.0)?,
                eps: self.number("eps", 1e-8)?,
            };
            let mut plateau = Plateau::new(lr0, rule)?;
            let losses = &self.golden.shaped(&self.name("loss"), &want.dims)?.data;
            let report = |l: &f64| {
                plateau.report(*l);
                plateau.lr()
            };
            losses.iter().map(report).collect()
        } else {
            return Err(Stop::Unsupported(self.case.into()));
        };
        Ok(vec![Checked::new("lr", &got, &want.data, EXACT * largest(&want.data))])
    }
}
