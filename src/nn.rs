/*! Floor 6: layers over the graph. A [`Net`] gives parameters their names by scope; the names are the keys of the weight
files. */

use crate::graph::{Graph, Value};
use crate::ops::norm::{self, Convention};
use crate::ops::{
    activation, arith, cast, colours, conv, dense, dropout, image, layout, loss, lrn, pool, softmax, upsample,
};
use crate::preprocess::Preprocess;
use crate::rng::name_hash;
use crate::shape::{DType, Type, Window};

/// What a network is built for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// No dropout; running statistics.
    Eval,
    /// Dropout masks from the generator whose state (seed, step) is this input; statistics of the rows [N] with a positive
    /// weight.
    Train { state: Value, rows: Value },
    /// Like [`Mode::Train`], with dropout masks that are inputs called `<layer>.mask`: for comparison with another
    /// framework.
    Masked { rows: Value },
}

/// What a convolution layer is: K filters of a window, in groups, with or without bias and ReLU.
pub use conv::Fprop as Conv;

/// A builder of layers.
pub struct Net<'g> {
    pub g: &'g mut Graph,
    mode: Mode,
    scope: String,
    penalties: Vec<Value>,
    updates: Vec<(Value, Value)>,
    fold: bool,
    frozen: Vec<String>,
    storage: DType,
}

impl<'g> Net<'g> {
    pub fn new(g: &'g mut Graph, mode: Mode) -> Self {
        Self {
            g,
            mode,
            scope: String::new(),
            penalties: vec![],
            updates: vec![],
            fold: true,
            frozen: vec![],
            storage: DType::F32,
        }
    }

    /// Leaves convolutions and their batch norms apart in evaluation, so that it can be differentiated.
    pub fn unfolded(mut self) -> Self {
        self.fold = false;
        self
    }

    /// Names scopes (`object.`) whose statistics stay as they are: their batch norms use the running ones in training
    /// too, as in Keras where a layer is not trainable.
    pub fn freeze(mut self, scopes: Vec<String>) -> Self {
        self.frozen = scopes;
        self
    }

    /// How activations and the weights that multiply them lie in memory, where tensor cores can take them: convolutions
    /// without groups, and dense layers whose widths are multiples of eight. Everything else stays float32, weights too:
    /// what multiplies is a copy.
    pub fn stored_as(mut self, storage: DType) -> Self {
        self.storage = storage;
        self
    }

    /// Builds a part whose parameter names begin with `name.`.
    pub fn scope<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        let len = self.scope.len();
        self.scope.push_str(name);
        self.scope.push('.');
        let result = f(self);
        self.scope.truncate(len);
        result
    }

    /// Names the layer that the next ops belong to.
    fn layer(&mut self, name: &str) -> String {
        let label = format!("{}{name}", self.scope);
        self.g.set_label(&label);
        label
    }

    /// The inputs of a layer: x, its weight and, with `bias`, its bias [K].
    fn weights(&mut self, layer: &str, x: Value, w: &[usize], bias: bool) -> Vec<Value> {
        let mut ins = vec![x, self.g.param(&format!("{layer}.weight"), Type::f32(w))];
        if bias {
            ins.push(self.g.param(&format!("{layer}.bias"), Type::f32(&w[..1])));
        }
        ins
    }

    /// x as another type.
    fn cast(&mut self, x: Value, to: DType) -> Value {
        if self.g.ty(x).dtype == to { x } else { self.g.push1(cast::Cast { to }, &[x]) }
    }

    /// x in float32.
    pub fn wide(&mut self, x: Value) -> Value {
        self.cast(x, DType::F32)
    }

    /// x and the weight of a product on tensor cores. `source` is what the copy of the weight is made from, where it is not
    /// the weight itself.
    fn narrow(&mut self, layer: &str, ins: &mut [Value], source: Option<Value>) {
        let (w, name) = (ins[1], format!("{layer}.weight.copy"));
        let known = self.g.find(&name).is_some();
        let copy = self.g.state(&name, self.g.ty(w).of(self.storage));
        if !known {
            let out = self.g.push1(cast::Copy, &[source.unwrap_or(w), copy]);
            self.g.prepare(copy, out);
        }
        ins[0] = self.cast(ins[0], self.storage);
        ins[1] = copy;
    }

    /// Whether a convolution runs on tensor cores.
    fn narrows(&self, conv: &Conv) -> bool {
        self.storage.is_half() && conv.groups == 1
    }

    /// u8 RGB images [N,H,W,3] -> what a network was trained on.
    pub fn normalize(&mut self, x: Value, p: &Preprocess) -> Value {
        self.layer("image");
        self.g.push1(image::Normalize::from(p), &[x])
    }

    /// RGB pictures [N,H,W,3] in [-1, 1], which a network made, -> what another was trained on, enlarged or reduced bilinearly to
    /// its side. Unlike [`Net::normalize`] it can be differentiated.
    pub fn seen(&mut self, x: Value, side: usize, p: &Preprocess) -> Value {
        self.layer("image");
        let resized = match *self.g.dims(x) {
            [_, h, w, _] if [h, w] == [side; 2] => x,
            _ => {
                let grid = upsample::Grid { out: [side; 2], align_corners: false };
                self.g.push1(upsample::Bilinear { grid }, &[x])
            }
        };
        self.g.push1(colours::Colours::seen_by(p), &[resized])
    }

    /// x [N,H,W,C] -> [N,P,Q,K].
    pub fn conv(&mut self, name: &str, x: Value, conv: Conv) -> Value {
        let layer = self.layer(name);
        let mut ins = self.conv_weights(&layer, x, &conv);
        match self.narrows(&conv) {
            true => self.narrow(&layer, &mut ins, None),
            false => ins[0] = self.wide(x),
        }
        self.g.push1(conv, &ins)
    }

    fn conv_weights(&mut self, layer: &str, x: Value, conv: &Conv) -> Vec<Value> {
        let c = self.g.dims(x).last().unwrap_or(&0) / conv.groups.max(1);
        let w = [conv.filters, conv.window.size[0], conv.window.size[1], c];
        self.weights(layer, x, &w, conv.bias)
    }

    /// x [N,H,W,C] -> relu(x * w + b) [N,P,Q,k].
    pub fn conv_relu(&mut self, name: &str, x: Value, k: usize, window: Window) -> Value {
        self.conv(name, x, Conv { filters: k, window, groups: 1, bias: true, relu: true })
    }

    /// A filter for each channel over `conv.window`, without a bias (`<name>.depthwise`), and a 1x1 convolution of what
    /// comes out to `conv.filters`, with the bias and ReLU asked for (`<name>.pointwise`).
    pub fn separable(&mut self, name: &str, x: Value, conv: Conv) -> Value {
        let c = *self.g.dims(x).last().unwrap_or(&0);
        self.scope(name, |net| {
            let depthwise = Conv { filters: c, groups: c, bias: false, relu: false, ..conv };
            let x = net.conv("depthwise", x, depthwise);
            net.conv("pointwise", x, Conv { window: Window::square(1, 1, 0), groups: 1, ..conv })
        })
    }

    /// The transpose of a convolution without groups: x [N,P,Q,K] -> [N,H,W,channels], H = (P - 1) stride + size less the padding.
    pub fn transposed(
        &mut self,
        name: &str,
        x: Value,
        channels: usize,
        window: Window,
        bias: bool,
        relu: bool,
    ) -> Value {
        let layer = self.layer(name);
        let k = *self.g.dims(x).last().unwrap_or(&0);
        let [r, s] = window.size;
        let mut ins = vec![self.wide(x), self.g.param(&format!("{layer}.weight"), Type::f32(&[k, r, s, channels]))];
        if bias {
            ins.push(self.g.param(&format!("{layer}.bias"), Type::f32(&[channels])));
        }
        self.g.push1(conv::Transposed { channels, window, output_pad: [0; 2], groups: 1, bias, relu }, &ins)
    }

    /// Rows [N, C H W] as images [N,H,W,C], in PyTorch's order.
    pub fn unflatten(&mut self, x: Value, [h, w, c]: [usize; 3]) -> Value {
        let to = Type::f32(&[*self.g.dims(x).first().unwrap_or(&0), h, w, c]);
        self.g.push1(layout::Unflatten { chw: true, x: to }, &[x])
    }

    /// Numbers [N,C] as images [N,H,W,C] of one value for each channel: one pixel, enlarged.
    pub fn planes(&mut self, x: Value, out: [usize; 2]) -> Value {
        let pixel = self.unflatten(x, [1, 1, self.g.ty(x).row()]);
        self.g.push1(upsample::Bilinear { grid: upsample::Grid { out, align_corners: true } }, &[pixel])
    }

    /// Bilinear resampling [N,H,W,C] -> [N,P,Q,C].
    pub fn upsample(&mut self, name: &str, x: Value, grid: upsample::Grid) -> Value {
        self.layer(name);
        let x = self.wide(x);
        self.g.push1(upsample::Bilinear { grid }, &[x])
    }

    /// x [N,..,C] -> gamma (x - mean) / deviation + beta, through ReLU if asked; parameters `weight` and `bias`, statistics
    /// `running_mean` and `running_var`.
    pub fn batchnorm(&mut self, name: &str, x: Value, convention: Convention, relu: bool) -> Value {
        let layer = self.layer(name);
        let x = self.wide(x);
        let x_ = self.g.ty(x);
        let [gamma, beta, mean, var] = self.norm(&layer, x_.channels(), convention.scale);
        let eps = convention.eps;
        let Some(rows) = self.rows(&layer) else {
            return self.g.push1(norm::Eval { eps, relu }, &[x, gamma, beta, mean, var]);
        };
        let y = self.g.push(norm::Train { eps, relu }, &[x, gamma, beta, rows]);
        let update = norm::Update { convention, pixels: x_.row() / x_.channels() };
        let new = self.g.push(update, &[mean, var, y[1], y[2], rows]);
        self.updates.extend([mean, var].into_iter().zip(new));
        y[0]
    }

    /// gamma, beta, mean and variance of a batch norm.
    fn norm(&mut self, layer: &str, channels: usize, scale: bool) -> [Value; 4] {
        let t = Type::f32(&[channels]);
        let gamma = match scale {
            true => self.g.param(&format!("{layer}.weight"), t),
            false => self.g.push1(arith::Fill { value: 1.0, ty: t }, &[]),
        };
        let beta = self.g.param(&format!("{layer}.bias"), t);
        let [mean, var] = ["running_mean", "running_var"].map(|p| self.g.statistic(&format!("{layer}.{p}"), t));
        [gamma, beta, mean, var]
    }

    /// The weights of the rows of a batch, where a layer uses the statistics of the batch.
    fn rows(&self, layer: &str) -> Option<Value> {
        match self.mode {
            Mode::Eval => None,
            _ if self.frozen.iter().any(|f| layer.starts_with(f)) => None,
            Mode::Train { rows, .. } | Mode::Masked { rows } => Some(rows),
        }
    }

    /// A convolution and the batch norm `bn` behind it, then ReLU if `conv` says so. In evaluation one convolution, by
    /// filters that are folded when the weights are loaded.
    pub fn conv_bn(&mut self, name: &str, bn: &str, x: Value, conv: Conv, convention: Convention) -> Value {
        if self.mode != Mode::Eval || !self.fold {
            let y = self.conv(name, x, Conv { relu: false, ..conv });
            return self.batchnorm(bn, y, convention, conv.relu);
        }
        let layer = self.layer(bn);
        let [gamma, beta, mean, var] = self.norm(&layer, conv.filters, convention.scale);
        let layer = self.layer(name);
        let mut ins = self.conv_weights(&layer, x, &conv);
        let (b, w) = (if conv.bias { ins.pop() } else { None }, ins[1]);
        let name = format!("{layer}.folded");
        let known = self.g.find(&format!("{name}.weight")).is_some();
        let w_ = self.g.state(&format!("{name}.weight"), self.g.ty(w));
        let b_ = self.g.state(&format!("{name}.bias"), self.g.ty(beta));
        let mut folded = None;
        if !known {
            let mut from = vec![w_, b_, w, gamma, beta, mean, var];
            from.extend(b);
            let outs = self.g.push(norm::Fold { eps: convention.eps, bias: conv.bias }, &from);
            folded = Some(outs[0]);
            [w_, b_].into_iter().zip(outs).for_each(|(state, out)| self.g.prepare(state, out));
        }
        let mut ins = [x, w_, b_];
        match self.narrows(&conv) {
            true => self.narrow(&name, &mut ins, folded),
            false => ins[0] = self.wide(x),
        }
        self.g.push1(Conv { bias: true, ..conv }, &ins)
    }

    /// Local response normalisation across channels.
    pub fn lrn(&mut self, name: &str, x: Value, lrn: lrn::Lrn) -> Value {
        self.layer(name);
        let x = self.wide(x);
        self.g.push1(lrn, &[x])
    }

    /// x [N,...] -> x w^T + b [N,out], through ReLU if asked.
    pub fn dense(&mut self, name: &str, x: Value, out: usize, relu: bool) -> Value {
        let layer = self.layer(name);
        let width = self.g.ty(x).row();
        let mut ins = self.weights(&layer, x, &[out, width], true);
        match self.storage.is_half() && [out, width].iter().all(|n| n.is_multiple_of(8)) {
            true => self.narrow(&layer, &mut ins, None),
            false => ins[0] = self.wide(x),
        }
        self.g.push1(dense::Fprop { bias: true, relu }, &ins)
    }

    pub fn maxpool(&mut self, name: &str, x: Value, window: Window) -> Value {
        self.layer(name);
        self.g.push1(pool::MaxPool { window }, &[x])
    }

    /// Means over windows; `count_pad`: whether padding counts as zeros, as it does in PyTorch unless told otherwise.
    pub fn avgpool(&mut self, name: &str, x: Value, window: Window, count_pad: bool) -> Value {
        self.layer(name);
        self.g.push1(pool::AvgPool { over: pool::Over::Window { window, count_pad } }, &[x])
    }

    /// [N,H,W,C] -> [N,P,Q,C] of given extents.
    pub fn adaptive_avgpool(&mut self, name: &str, x: Value, out: [usize; 2]) -> Value {
        self.layer(name);
        self.g.push1(pool::AvgPool { over: pool::Over::Adaptive { out } }, &[x])
    }

    /// [N,H,W,C] -> [N,C].
    pub fn global_avgpool(&mut self, name: &str, x: Value) -> Value {
        self.layer(name);
        self.g.push1(pool::AvgPool { over: pool::Over::Image }, &[x])
    }

    /// a + b, equal shapes.
    pub fn add(&mut self, name: &str, a: Value, b: Value) -> Value {
        self.layer(name);
        let [a, b] = [a, b].map(|x| self.wide(x));
        self.g.push1(arith::Add, &[a, b])
    }

    pub fn relu(&mut self, x: Value) -> Value {
        self.g.push1(activation::Relu, &[x])
    }

    pub fn activate(&mut self, x: Value, act: activation::Act) -> Value {
        let x = self.wide(x);
        self.g.push1(activation::Activate { act }, &[x])
    }

    /// a b, element by element.
    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        let [a, b] = [a, b].map(|x| self.wide(x));
        self.g.push1(arith::Mul, &[a, b])
    }

    /// by x.
    pub fn scale(&mut self, x: Value, by: f32) -> Value {
        let x = self.wide(x);
        self.g.push1(arith::Scale { by }, &[x])
    }

    pub fn softmax(&mut self, name: &str, x: Value) -> Value {
        self.layer(name);
        let x = self.wide(x);
        self.g.push1(softmax::Softmax, &[x])
    }

    pub fn log_softmax(&mut self, name: &str, x: Value) -> Value {
        self.layer(name);
        let x = self.wide(x);
        self.g.push1(softmax::LogSoftmax, &[x])
    }

    /// Rows [N,F], or the channels of images [N,H,W,C], side by side; one alone is itself.
    pub fn concat(&mut self, name: &str, xs: &[Value]) -> Value {
        self.layer(name);
        let xs: Vec<Value> = xs.iter().map(|x| self.wide(*x)).collect();
        if let [x] = xs[..] { x } else { self.g.push1(layout::Concat, &xs) }
    }

    /// The mean of values of equal shapes.
    pub fn mean(&mut self, name: &str, xs: &[Value]) -> Value {
        let sum = xs[1..].iter().fold(xs[0], |sum, x| self.add(name, sum, *x));
        match xs.len() {
            1 => sum,
            n => self.g.push1(arith::Scale { by: 1.0 / n as f32 }, &[sum]),
        }
    }

    /// x [N,C] -> (x - mean) / deviation, by statistics of the training set that are stored with the weights.
    pub fn standardize(&mut self, name: &str, x: Value) -> Value {
        let layer = self.layer(name);
        let x = self.wide(x);
        let t = Type::f32(&[self.g.ty(x).row()]);
        let [mean, inverse] = ["mean", "inverse"].map(|p| self.g.statistic(&format!("{layer}.{p}"), t));
        self.g.push1(arith::Standardize, &[x, mean, inverse])
    }

    /// Keeps each element with probability `keep` while training; does nothing in evaluation.
    pub fn dropout(&mut self, name: &str, x: Value, keep: f32) -> Value {
        if self.mode == Mode::Eval || keep >= 1.0 {
            return x;
        }
        let layer = self.layer(name);
        let ty = self.g.ty(x);
        let mask = match self.mode {
            Mode::Train { state, .. } => {
                // The name makes the stream: members of a split model draw apart.
                self.g.push1(dropout::Mask { keep, layer: dropout::Layer(name_hash(&layer)), ty }, &[state])
            }
            Mode::Masked { .. } => self.g.input(&format!("{layer}.mask"), ty),
            Mode::Eval => unreachable!("returned above"),
        };
        self.g.push1(dropout::Apply { keep }, &[x, mask])
    }

    /// Adds lambda * sum of squares of a layer's weight to the penalty.
    pub fn l2(&mut self, name: &str, lambda: f32) {
        let layer = self.layer(name);
        if let Some(w) = self.g.find(&format!("{layer}.weight")) {
            let p = self.g.push1(loss::L2 { lambda }, &[w]);
            self.penalties.push(p);
        }
    }

    /// (statistic, new value) of every batch norm so far, and forgets them: a training step has to want the new values.
    pub fn take_updates(&mut self) -> Vec<(Value, Value)> {
        std::mem::take(&mut self.updates)
    }

    /// The sum of all penalties so far [1], and forgets them.
    pub fn take_penalty(&mut self) -> Option<Value> {
        let penalties = std::mem::take(&mut self.penalties);
        penalties.into_iter().reduce(|a, b| self.g.push1(arith::Add, &[a, b]))
    }
}
