/*! Floor 6: layers over the graph. A [`Net`] gives parameters their names by scope; the names are the keys of the weight
files. */

use crate::graph::{Graph, Value};
use crate::ops::{activation, arith, conv, dense, dropout, image, layout, loss, pool, softmax, upsample};
use crate::preprocess::Preprocess;
use crate::rng::name_hash;
use crate::shape::{Type, Window};

/// What a network is built for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// No dropout.
    Eval,
    /// Dropout masks from the generator whose state (seed, step) is this input.
    Train { state: Value },
    /// Dropout masks are inputs called `<layer>.mask`: for comparison with another framework.
    Masked,
}

/// What a convolution layer is: K filters of a window, in groups, with or without bias and ReLU.
pub use conv::Fprop as Conv;

/// A builder of layers.
pub struct Net<'g> {
    pub g: &'g mut Graph,
    mode: Mode,
    scope: String,
    penalties: Vec<Value>,
}

impl<'g> Net<'g> {
    pub fn new(g: &'g mut Graph, mode: Mode) -> Self {
        Self { g, mode, scope: String::new(), penalties: vec![] }
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

    /// u8 RGB images [N,H,W,3] -> what a network was trained on.
    pub fn normalize(&mut self, x: Value, p: &Preprocess) -> Value {
        self.layer("image");
        self.g.push1(image::Normalize::from(p), &[x])
    }

    /// x [N,H,W,C] -> [N,P,Q,K].
    pub fn conv(&mut self, name: &str, x: Value, conv: Conv) -> Value {
        let layer = self.layer(name);
        let c = self.g.dims(x).last().unwrap_or(&0) / conv.groups.max(1);
        let ins = self.weights(&layer, x, &[conv.filters, conv.window.kernel[0], conv.window.kernel[1], c], conv.bias);
        self.g.push1(conv, &ins)
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

    /// Bilinear resampling [N,H,W,C] -> [N,P,Q,C].
    pub fn upsample(&mut self, name: &str, x: Value, grid: upsample::Grid) -> Value {
        self.layer(name);
        self.g.push1(upsample::Bilinear { grid }, &[x])
    }

    /// x [N,...] -> x w^T + b [N,out], through ReLU if asked.
    pub fn dense(&mut self, name: &str, x: Value, out: usize, relu: bool) -> Value {
        let layer = self.layer(name);
        let width = self.g.ty(x).row();
        let ins = self.weights(&layer, x, &[out, width], true);
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

    pub fn relu(&mut self, x: Value) -> Value {
        self.g.push1(activation::Relu, &[x])
    }

    pub fn softmax(&mut self, name: &str, x: Value) -> Value {
        self.layer(name);
        self.g.push1(softmax::Softmax, &[x])
    }

    /// Rows [N,F], or the channels of images [N,H,W,C], side by side; one alone is itself.
    pub fn concat(&mut self, name: &str, xs: &[Value]) -> Value {
        self.layer(name);
        if let [x] = xs { *x } else { self.g.push1(layout::Concat, xs) }
    }

    /// x [N,C] -> (x - mean) / deviation, by statistics that are stored as parameters and never trained.
    pub fn standardize(&mut self, name: &str, x: Value) -> Value {
        let layer = self.layer(name);
        let t = Type::f32(&[self.g.ty(x).row()]);
        let [mean, inverse] = ["mean", "inverse"].map(|p| self.g.param(&format!("{layer}.{p}"), t));
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
            Mode::Train { state } => {
                // The name makes the stream: members of a split model draw apart.
                self.g.push1(dropout::Mask { keep, layer: name_hash(&layer), ty }, &[state])
            }
            Mode::Masked => self.g.input(&format!("{layer}.mask"), ty),
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

    /// The sum of all penalties so far [1], and forgets them.
    pub fn take_penalty(&mut self) -> Option<Value> {
        let penalties = std::mem::take(&mut self.penalties);
        penalties.into_iter().reduce(|a, b| self.g.push1(arith::Add, &[a, b]))
    }
}
