/*! Whole networks of [`models::ALL`], against the framework they come from. `tests/golden/make_networks.py` writes
the files. Hundreds of megabytes of weights fit no repository, so a file may leave them and the image out: both sides
draw them by [`draw`], element i of a tensor in our layout from word i of the stream ([`crate::rng::Stream::Init`]) that
the parameter's name gives. A file that has them is for weights that someone trained.

The tolerance of float32 is 1e-4 of the largest output. The size of an honest error cannot be had as for the small
network ([`super::noise`]): the definition would run for minutes for each draw. The reference device, in float64 like
the framework, is held to what it is held to elsewhere. */

use super::cases::EXACT;
use super::golden::{Tensor, broken};
use super::{Checked, Context, Stop};
use crate::device::{Data, Session};
use crate::graph::{Graph, Role, Value};
use crate::models;
use crate::nn::{Mode, Net};
use crate::plan::Options;
use crate::shape::Type;
use crate::weights::init;
use serde::Deserialize;
use std::borrow::Cow;

/// Relative to the largest output, in float32.
const TOLERANCE: f64 = 1e-4;

/// Parameters of a case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    network: String,
    /// Side of the image.
    image: usize,
    /// Of the values that the file leaves out.
    seed: Option<u64>,
}

/// A parameter or the image, in our layout. Filters and dense weights as He et al. 2015 draw them, so that numbers keep
/// their size through ReLU networks of any depth (depthwise filters pass theirs on to the next convolution, without a
/// ReLU); scales and variances around 1, biases and means around 0. The norm that closes a bottleneck adds little, or
/// 33 of them would double the variance 33 times.
fn draw(name: &str, dims: &[usize], seed: u64) -> Vec<f32> {
    let part = name.rsplit('.').next();
    let (centre, half) = match *dims {
        _ if name == IMAGE => (0.0, 2.0),
        [_] if name.ends_with(".bn3.weight") || name.ends_with("_3_bn.weight") => (0.25, 0.0625),
        [_] if part == Some("weight") || part == Some("running_var") => (1.0, 0.25),
        [_] => (0.0, 0.125),
        [_, ref unit @ ..] => {
            let gain = if dims.len() == 4 && dims[3] == 1 { 3.0 } else { 6.0 };
            (0.0, (gain / unit.iter().product::<usize>() as f64).sqrt() as f32)
        }
        [] => (0.0, 0.0),
    };
    init::uniform(name, dims.iter().product(), seed, |x| centre + half * x)
}

const IMAGE: &str = "image";

impl Context<'_> {
    pub(super) fn network(&self) -> Result<Vec<Checked>, Stop> {
        let spec: Spec = self.spec(self.case)?;
        let Ok(network) = models::find(&spec.network) else { return Err(Stop::Unsupported(spec.network)) };
        let y = self.ranked("y", 2)?;
        let size = models::Size { outputs: y.dims[1], ..network.size() };
        let mut g = Graph::default();
        let x = g.input(IMAGE, Type::f32(&[y.dims[0], spec.image, spec.image, 3]));
        let out = network.build(&mut Net::new(&mut g, Mode::Eval), x, size);
        g.check().map_err(|e| broken(&self.golden.path, self.case, e.to_string()))?;
        let mut s = Session::new(g, &[&[out]], Options::default(), self.open()?)?;
        let stored: Vec<Value> = s.graph().stored().collect();
        for v in stored.into_iter().chain([x]) {
            let (name, dims) = (s.graph().name(v).to_string(), s.graph().dims(v).to_vec());
            let tensor = if v == x { "x".into() } else { format!("param.{name}") };
            match (self.find(&tensor), spec.seed) {
                (Some(t), _) => {
                    let t = flattened(s.graph(), v, t).ours();
                    if t.data.len() != s.graph().ty(v).numel() {
                        return Err(self
                            .wrong(&tensor, format!("the shape is {:?} instead of {dims:?}", t.dims))
                            .into());
                    }
                    s.write(v, Data::F64(&t.data))?;
                }
                (None, Some(seed)) => s.write(v, Data::F32(&draw(&name, &dims, seed)))?,
                (None, None) => return Err(self.wrong(&tensor, "the tensor is missing, and so is a seed").into()),
            }
        }
        s.run(0)?;
        let scale = y.data.iter().fold(0.0f64, |m, y| m.max(y.abs()));
        let tolerance = if self.exact && !y.rounded { EXACT } else { TOLERANCE };
        Ok(vec![Checked::new("y", &s.read64(out)?, &y.data, tolerance * scale)])
    }
}

/// Dense weights of an image are [out, C H W] in torch: as [out,C,H,W] they are permuted like filters.
fn flattened<'a>(g: &Graph, v: Value, t: &'a Tensor) -> Cow<'a, Tensor> {
    let user = g.nodes().iter().find(|n| n.plays(Role::Dense) && n.ins[1] == v);
    match (user.map(|n| g.dims(n.ins[0])), &t.dims[..]) {
        (Some(&[_, h, w, c]), &[out, width]) if width == c * h * w => {
            Cow::Owned(Tensor { dims: vec![out, c, h, w], ..t.clone() })
        }
        _ => Cow::Borrowed(t),
    }
}
