/*! What Keras and OpenCV compute for Noguera 2018: a training step of Emosepar, SGD whose rate decays by the update, the maps of
`ImageDataGenerator`, and `cv2.resize`.

Tolerances of a float32 device: the linear model under SGD as in [`super::noise`]; the network 1e-4 of the largest number
of each tensor, as in [`super::network`]. What a batch norm takes away again, a bias in front of it, has no gradient but for
rounding, which is held against the gradient of the weights beside it. Keras's momentum, and
the rates of its schedules, pass through float32. Pictures: positions are whole 256ths of a pixel, of maps of whole 65536ths
and of sines good to 1e-6, so a value is off by at most that part of the steepest slope. */

use super::cases::{EXACT, U};
use super::golden::broken;
use super::{Checked, Context, Stop};
use crate::data::resize;
use crate::device::{Data, Device, Session};
use crate::error::Result;
use crate::graph::{Graph, Kind, Value};
use crate::models;
use crate::nn::{Mode, Net};
use crate::ops::augment::{Augment, Change};
use crate::ops::loss::{Mse, Reduction};
use crate::ops::optim::{Form, Sgd, hyper_type};
use crate::plan::Options;
use crate::preprocess::{Resize, View};
use crate::shape::Type;
use crate::train::schedule::{Decay, Schedule};

/// Of a network in float32, relative.
const NETWORK: f64 = 1e-4;

/// A gradient below this part of that of the weights beside it is rounding of float64.
const ROUNDING: f64 = 1e-9;

/// The network's name.
const EMOSEPAR: &str = "emosepar";

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

impl Context<'_> {
    pub(super) fn emosepar(&self) -> Result<Vec<Checked>, Stop> {
        match self.text("kind") {
            "counts" => self.emosepar_counts(),
            "step" => self.emosepar_step(),
            other => Err(Stop::Unsupported(format!("kind {other}"))),
        }
    }

    /// All numbers, those that are trained, and the running statistics.
    fn emosepar_counts(&self) -> Result<Vec<Checked>, Stop> {
        let network = models::find(EMOSEPAR)?;
        let mut g = Graph::default();
        let side = self.pair("image", network.image)?;
        let x = g.input("x", Type::f32(&[1, side[0], side[1], 3]));
        network.build(&mut Net::new(&mut g, Mode::Eval).unfolded(), x, network.size());
        let sum = |kind| g.of_kind(kind).map(|v| g.ty(v).numel() as f64).sum::<f64>();
        let (trained, statistics) = (sum(Kind::Param), sum(Kind::Statistic));
        let counts = [trained + statistics, trained, statistics];
        Ok(vec![Checked::new("total", &counts, &self.get("total")?.data, 0.0)])
    }

    /// One step in training mode with a given mask, and an evaluation before it.
    fn emosepar_step(&self) -> Result<Vec<Checked>, Stop> {
        let network = models::find(EMOSEPAR)?;
        let (x, y, mask) = (self.ranked("x", 4)?, self.ranked("y", 2)?, self.ranked("mask", 2)?);
        let n = x.dims[0];
        let size = models::Size { width: self.pair("width", 1)?[0], ..network.size() };
        let mut g = Graph::default();
        let image = g.state("x", Type::f32(&[n, x.dims[2], x.dims[3], 3]));
        let rows = g.input("rows", Type::f32(&[n]));
        let target = g.input("y", Type::f32(&[n, 2]));
        let evaluated = network.build(&mut Net::new(&mut g, Mode::Eval).unfolded(), image, size);
        let mut net = Net::new(&mut g, Mode::Masked { rows });
        let trained = network.build(&mut net, image, size);
        let updates = net.take_updates();
        g.check().map_err(|e| broken(&self.golden.path, self.case, e.to_string()))?;
        let loss = g.push1(Mse { reduction: Reduction::Mean }, &[trained, target, rows]);
        let params: Vec<Value> = g.of_kind(Kind::Param).collect();
        let grads = g.backward(loss, &[&[image], &params[..]].concat())?;
        let drop = g.find("dropout.mask").ok_or_else(|| self.wrong("mask", "the network has no dropout"))?;
        let mut want = [vec![trained, loss], grads.clone()].concat();
        want.extend(updates.iter().map(|u| u.1));
        let mut s = Session::new(g, &[&want, &[evaluated]], Options::default(), self.open()?)?;
        let given = s.graph().stored().filter(|v| *v != image).collect::<Vec<_>>();
        for v in given {
            let (name, dims) = (format!("param.{}", s.graph().name(v)), s.graph().dims(v).to_vec());
            let t = self.get(&name)?.ours();
            if t.dims != dims {
                return Err(self.wrong(&name, format!("the shape is {:?} instead of {dims:?}", t.dims)).into());
            }
            s.write(v, Data::F64(&t.data))?;
        }
        // Theirs is divided by the probability to keep.
        let kept: Vec<f64> = mask.data.iter().map(|m| f64::from(u8::from(*m > 0.0))).collect();
        if mask.data.len() != s.graph().ty(drop).numel() || y.dims != [n, 2] {
            return Err(self.wrong("mask", "mask and y do not fit x").into());
        }
        s.write(image, Data::F64(&x.ours().data))?;
        s.write(rows, Data::F64(&vec![1.0; n]))?;
        s.write(target, Data::F64(&y.data))?;
        s.write(drop, Data::F64(&kept))?;
        // The step changes the statistics.
        s.run(1)?;
        let mut checked = vec![self.within("eval", &s.read64(evaluated)?, None)?];
        s.run(0)?;
        for (tensor, value) in [("train", trained), ("loss", loss), ("gx", grads[0])] {
            checked.push(self.within(tensor, &s.read64(value)?, None)?);
        }
        for (&p, &d) in params.iter().zip(&grads[1..]) {
            let name = format!("grad.{}", s.graph().name(p));
            let beside = name.strip_suffix("bias").map(|layer| format!("{layer}weight"));
            checked.push(self.within(&name, &s.read64(d)?, beside.as_deref())?);
        }
        for (stat, new) in updates {
            let name = format!("after.{}", s.graph().name(stat));
            checked.push(self.within(&name, &s.read64(new)?, None)?);
        }
        Ok(checked)
    }

    /// Against a tensor of the file; errors are relative to its largest number. What is nothing but rounding beside another
    /// tensor is held against that one.
    pub(super) fn within(&self, tensor: &str, got: &[f64], beside: Option<&str>) -> Result<Checked> {
        let want = self.get(tensor)?.ours();
        let own = largest(&want.data);
        let beside = beside.map_or(Ok(0.0), |b| self.get(b).map(|t| largest(&t.data)))?;
        let scale = if own < ROUNDING * beside { beside } else { own };
        let relative = if self.exact { EXACT } else { NETWORK } + if want.rounded { U } else { 0.0 };
        let mut checked = Checked::new(tensor, got, &want.data, relative * scale);
        (checked.error, checked.tolerance) = (checked.error * own / scale, checked.tolerance * own / scale);
        Ok(checked)
    }

    /// Ten updates of a linear model.
    pub(super) fn keras_sgd(&self) -> Result<Vec<Checked>, Stop> {
        self.knows(&["kind", "lr", "decay", "momentum", "nesterov", "rule"])?;
        let (lr, decay) = (self.number("lr", f64::NAN)?, self.number("decay", 0.0)?);
        let by = Decay::InverseTime { decay };
        let schedule = if decay > 0.0 { Schedule::Decay { lr, by } } else { Schedule::Constant { lr } };
        schedule.check()?;
        let rate = self.ranked("rate", 1)?;
        let rates: Vec<f64> = (0..rate.data.len() as u64).map(|i| schedule.lr(0, i)).collect();
        // Three roundings: of the rate, of 1 + decay * updates, of their quotient.
        let mut checked = vec![Checked::new("rate", &rates, &rate.data, 3.0 * U * largest(&rate.data))];
        checked.extend(self.whole(|device| self.descend(&rate.data, device()?))?);
        Ok(checked)
    }

    fn descend(&self, rates: &[f64], device: Box<dyn Device>) -> Result<Vec<(String, Vec<f64>)>> {
        let (x, y) = (self.ranked("x", 3)?, self.ranked("y", 3)?);
        let (w0, b0) = (self.ranked("w0", 2)?, self.ranked("b0", 1)?);
        let (&[steps, n, width], &[outputs, _]) = (&x.dims[..], &w0.dims[..]) else {
            unreachable!("ranks are checked")
        };
        if y.dims != [steps, n, outputs] || w0.dims[1] != width || b0.dims != [outputs] || steps != rates.len() {
            return Err(self.wrong("x", "x, y, w0, b0 and rate do not fit together"));
        }
        let mut g = Graph::default();
        let x_ = g.input("x", Type::f32(&[n, width]));
        let y_ = g.input("y", Type::f32(&[n, outputs]));
        let rows = g.input("rows", Type::f32(&[n]));
        let hyper = g.input("hyper", hyper_type());
        let out = Net::new(&mut g, Mode::Eval).dense("layer", x_, outputs, false);
        let loss = g.push1(Mse { reduction: Reduction::Mean }, &[out, y_, rows]);
        let params: Vec<Value> = g.of_kind(Kind::Param).collect();
        let grads = g.backward(loss, &params)?;
        let mut want = vec![loss];
        let sgd = Sgd { form: Form::Keras, nesterov: self.flag("nesterov"), dampening: 0.0 };
        for (&p, &d) in params.iter().zip(&grads) {
            let v = g.state(&format!("{}.velocity", g.name(p)), g.ty(p));
            want.extend(g.push(sgd, &[p, v, d, hyper]));
        }
        let mut s = Session::new(g, &[&want], Options::default(), device)?;
        s.write(rows, Data::F64(&vec![1.0; n]))?;
        let state = |s: &Session, name: &str| s.graph().find(name).expect("just built");
        let (w, b) = (state(&s, "layer.weight"), state(&s, "layer.bias"));
        s.write(w, Data::F64(&w0.data))?;
        s.write(b, Data::F64(&b0.data))?;
        let momentum = f64::from(self.number("momentum", 0.0)? as f32);
        let [mut ws, mut bs, mut losses] = [const { vec![] }; 3];
        for (i, rate) in rates.iter().enumerate() {
            s.write(x_, Data::F64(&x.data[i * n * width..(i + 1) * n * width]))?;
            s.write(y_, Data::F64(&y.data[i * n * outputs..(i + 1) * n * outputs]))?;
            s.write(hyper, Data::F64(&[*rate, momentum, 0.0, f64::from(u8::from(i == 0))]))?;
            s.run(0)?;
            losses.extend(s.read64(loss)?);
            ws.extend(s.read64(w)?);
            bs.extend(s.read64(b)?);
        }
        Ok([("w", ws), ("b", bs), ("loss", losses)].map(|(name, values)| (self.name(name), values)).into())
    }

    /// Pictures under stated maps, by the arithmetic that every device shares.
    pub(super) fn imagedatagenerator(&self) -> Result<Vec<Checked>, Stop> {
        if self.find("x").is_none() {
            return self.draws();
        }
        let x = self.ranked("x", 3)?;
        let &[h, w, channels] = &x.dims[..] else { unreachable!("three extents") };
        let number = |key, default| -> Result<f32> { Ok(self.number(key, default)? as f32) };
        let change = Change {
            rotation: number("theta", 0.0)?,
            shear: number("shear", 0.0)?,
            shift: [number("tx", 0.0)?, number("ty", 0.0)?],
            zoom: [number("zx", 1.0)?, number("zy", 1.0)?],
            flip: [self.flag("flip_horizontal"), self.flag("flip_vertical")],
        };
        let got = change.apply(&x.data, [h, w], channels);
        let slope = |by: usize, inside: &dyn Fn(usize) -> bool| {
            let pairs = (by..x.data.len()).filter(|i| inside(i / channels));
            pairs.map(|i| (x.data[i] - x.data[i - by]).abs()).fold(0.0, f64::max)
        };
        let steepest = slope(channels, &|p| p % w > 0) + slope(channels * w, &|p| p >= w);
        let off = 1.0 / 512.0 + h.max(w) as f64 * (1.0 / 65536.0 + 2e-6);
        Ok(vec![Checked::new("y", &got, &self.get("y")?.data, off * steepest + EXACT * largest(&x.data))])
    }

    /// Bytes as OpenCV has them, to the bit, and its formula in float64: weights of whole 2048ths, cut and rounded on the way,
    /// stay within a level of it.
    pub(super) fn resize_opencv(&self) -> Result<Vec<Checked>, Stop> {
        let (x, y) = (self.ranked("x", 3)?, self.ranked("y", 3)?);
        let (&[h, w, 3], &[side, wide, 3]) = (&x.dims[..], &y.dims[..]) else {
            return Err(self.wrong("x", "x and y are not pictures [h,w,3]").into());
        };
        if side != wide {
            return Err(Stop::Unsupported("pictures that are not square".into()));
        }
        let rgb: Vec<u8> = x.data.iter().map(|x| *x as u8).collect();
        let mut out = vec![0; side * side * 3];
        let view = View { side, resize: Resize::SquashOpencv, grey: false, crop: None };
        resize::view(&rgb, w as u32, h as u32, &view, &mut out)?;
        let got: Vec<f64> = out.into_iter().map(f64::from).collect();
        let exact = Checked::new("exact", &got, &self.get("exact")?.data, 1.0);
        Ok(vec![Checked::new("y", &got, &y.data, 0.0), exact])
    }

    /// How many of as many draws as Keras made lie where its own lie, and go as far: all.
    fn draws(&self) -> Result<Vec<Checked>, Stop> {
        let n = self.get("n")?;
        let ends = |key: &str| -> Result<[f64; 2]> {
            let ends = self.parameters().get(key).and_then(|v| v.as_array());
            let ends: Vec<f64> = ends.into_iter().flatten().filter_map(|v| v.as_f64()).collect();
            ends.try_into().map_err(|_| self.bad_parameter(key, "two numbers"))
        };
        const SIDE: usize = 150;
        let op = Augment { rotation: 80.0, shift: [0.2; 2], shear: 0.2, zoom: 0.2, flip: [true; 2] };
        let changes: Vec<Change> = (0..n.data[0] as u32).map(|row| op.change([7, 0, 0], row, SIDE)).collect();
        let mut all = changes.len() as f64;
        let of = |c: &Change| [c.rotation, c.shift[0], c.shift[1], c.shear, c.zoom[0], c.zoom[1]];
        for (i, key) in ["theta", "tx", "ty", "shear", "zx", "zy"].into_iter().enumerate() {
            let [low, high] = ends(key)?;
            // Of 2000 draws from a range the farthest is within a hundredth of its end, but for once in 20,000 times.
            let reach = (high - low) / 200.0;
            let got = changes.iter().map(|c| f64::from(of(c)[i]));
            let (least, most) = got.fold((high, low), |(l, m), v| (l.min(v), m.max(v)));
            if (least - low).abs() > reach || (most - high).abs() > reach {
                all = 0.0;
            }
        }
        Ok(vec![Checked::new("n", &[all], &n.data, 0.0)])
    }
}
