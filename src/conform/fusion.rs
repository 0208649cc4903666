//! Rapolu et al.: pooled features of two networks joined by a convex weight, beside the probabilities of a third, under a
//! softmax; loss and gradients of the head.

use super::{Checked, Context, Stop};
use crate::device::{Data, Device, Session};
use crate::error::Result;
use crate::graph::{Graph, Kind, Role, Value};
use crate::models;
use crate::nn::{Mode, Net};
use crate::ops::arith::Scale;
use crate::ops::layout::Concat;
use crate::ops::loss::{CrossEntropy, Of, Reduction};
use crate::plan::Options;
use crate::shape::{DType, Type};

impl Context<'_> {
    pub(super) fn fusion(&self) -> Result<Vec<Checked>, Stop> {
        let value = self.number("value", f64::NAN)?;
        // How much each of the three parts counts.
        let parts = match self.text("kind") {
            "alpha" => [value, 1.0 - value, 1.0],
            "beta" => [1.0 - value, 1.0 - value, value],
            "" if self.find("n").is_some() => return self.pooled_widths(),
            other => return Err(Stop::Unsupported(format!("kind {other}"))),
        };
        self.whole(|device| self.head(parts, device()?))
    }

    fn head(&self, parts: [f64; 3], device: Box<dyn Device>) -> Result<Vec<(String, Vec<f64>)>> {
        let mut g = Graph::default();
        let (mut data, mut scaled) = (vec![], vec![]);
        for (tensor, by) in ["x1", "x2", "s"].into_iter().zip(parts) {
            let t = self.ranked(tensor, 2)?;
            let x = g.input(tensor, Type::f32(&t.dims));
            data.push((x, t));
            scaled.push(g.push1(Scale { by: by as f32 }, &[x]));
        }
        let (labels, w, b) = (self.ranked("y", 1)?, self.ranked("w", 2)?, self.ranked("b", 1)?);
        let (n, k) = (labels.dims[0], b.dims[0]);
        let y = g.input("y", Type::new(DType::I32, &[n]));
        let rows = g.input("rows", Type::f32(&[n]));
        let fused = g.push1(Concat, &scaled);
        g.check().map_err(|e| self.wrong("x1", e.to_string()))?;
        let scores = Net::new(&mut g, Mode::Eval).dense("head", fused, k, false);
        let op = CrossEntropy { of: Of::Logits, reduction: Reduction::Mean, smoothing: 0.0, ignore: None };
        let loss = g.push1(op, &[scores, y, rows]);
        g.check().map_err(|e| self.wrong("y", e.to_string()))?;
        let params: Vec<Value> = g.of_kind(Kind::Param).collect();
        let grads = g.backward(loss, &params)?;
        let want = [vec![fused, loss], grads.clone()].concat();
        let mut s = Session::new(g, &[&want], Options::default(), device)?;
        for (v, t) in data {
            s.write(v, Data::F64(&t.data))?;
        }
        for (&p, t) in params.iter().zip([w, b]) {
            if s.graph().dims(p) != t.dims {
                return Err(self.wrong("w", format!("{:?} instead of {:?}", t.dims, s.graph().dims(p))));
            }
            s.write(p, Data::F64(&t.data))?;
        }
        let class = |l: &f64| (*l >= 0.0 && *l < k as f64 && l.fract() == 0.0).then_some(*l as i32);
        let classes: Option<Vec<i32>> = labels.data.iter().map(class).collect();
        s.write(y, Data::I32(&classes.ok_or_else(|| self.wrong("y", format!("not all are one of {k} classes")))?))?;
        s.write(rows, Data::F64(&vec![1.0; n]))?;
        s.run(0)?;
        let values = [("fused", fused), ("loss", loss), ("gw", grads[0]), ("gb", grads[1])];
        values.into_iter().map(|(name, v)| Ok((self.name(name), s.read64(v)?))).collect()
    }

    /// How many features the networks of the paper have, and all of them together.
    fn pooled_widths(&self) -> Result<Vec<Checked>, Stop> {
        let width = |name: &str| -> Result<f64> {
            let network = models::find(name)?;
            let mut g = Graph::default();
            let x = g.input("x", Type::f32(&[1, network.image, network.image, 3]));
            network.build(&mut Net::new(&mut g, Mode::Eval), x, network.size());
            // The last product is that of the classes.
            let top = g.nodes().iter().rev().find(|n| n.plays(Role::Dense)).expect("a classifier");
            Ok(g.ty(top.ins[0]).row() as f64)
        };
        let (resnet, densenet) = (width("resnet101")?, width("densenet201")?);
        let classes = models::find("resnet101")?.outputs as f64;
        let got = [resnet, densenet, classes, resnet + densenet + classes];
        Ok(vec![Checked::new("n", &got, &self.get("n")?.data, 0.0)])
    }
}
