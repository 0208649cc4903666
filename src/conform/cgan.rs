/*! A conditional generator under a frozen regressor, against PyTorch: all that one step makes of a tiny one with a discriminator,
five alternating steps of Adam, and ten of SGD where the regressor alone pulls. What runs is what `generate` runs
([`crate::train::generate`]). A float32 device is held to 1e-4 of the largest number of each tensor, as in [`super::network`]. */

use super::{Checked, Context, Stop};
use crate::device::{Data, Session};
use crate::error::Result;
use crate::graph::{Graph, Value};
use crate::models::{Discriminator, Generator};
use crate::nn::{Mode, Net};
use crate::ops::adam::Adam;
use crate::ops::colours::Colours;
use crate::ops::optim::{Form, Sgd};
use crate::plan::Options;
use crate::shape::Window;
use crate::train::generate::{Batch, Blueprint, Design, GENERATOR};
use crate::train::network::Optimizer;

/// The case that holds the parameters all cases begin with.
const START: &str = "losses";

/// Our scopes, and what the file calls them.
const SCOPES: [(&str, &str); 3] = [(GENERATOR, "G"), (crate::train::generate::DISCRIMINATOR, "D"), ("regressor", "R")];

/// The file's name of a parameter.
fn theirs(name: &str) -> String {
    let scope = SCOPES.iter().find_map(|(own, their)| Some((their, name.strip_prefix(own)?.strip_prefix('.')?)));
    scope.map_or_else(|| name.into(), |(their, rest)| format!("{their}.{rest}"))
}

impl Context<'_> {
    pub(super) fn cgan(&self) -> Result<Vec<Checked>, Stop> {
        let start = Context { case: START, ..*self };
        match self.case {
            START => self.one_step(),
            "adam" => {
                let beta = |name| self.number(name, f64::NAN);
                let adam = Adam { beta1: beta("beta1")?, beta2: beta("beta2")?, eps: beta("eps")?, ..Adam::default() };
                let (lr, steps) = (self.number("lr", f64::NAN)?, self.number("steps", f64::NAN)?);
                let hyper = |t| adam.hyper(lr, 0.0, t);
                self.steps(&start, Optimizer::Adam(adam), true, steps as u32, hyper)
            }
            "guided" => {
                let sgd = Sgd { form: Form::Torch, nesterov: false, dampening: 0.0 };
                let (lr, momentum) = (self.number("lr", f64::NAN)?, self.number("momentum", f64::NAN)?);
                let hyper = |t| [lr, momentum, 0.0, f64::from(u8::from(t == 1))];
                let steps = self.number("steps", f64::NAN)?;
                self.steps(&start, Optimizer::Sgd(sgd), false, steps as u32, hyper)
            }
            other => Err(Stop::Unsupported(format!("case {other}"))),
        }
    }

    /// The networks of the file.
    fn blueprint(&self, optimizer: Optimizer, opposed: bool) -> Result<Blueprint> {
        let width = |tensor: &str| Ok::<usize, crate::error::Error>(self.get(tensor)?.dims[0]);
        let (z, c) = (self.ranked("z", 2)?, self.ranked("c", 2)?);
        let first = width("G.up1.weight")?;
        let start = (width("G.fc.weight")? / first).isqrt();
        let design = Design {
            generator: Generator { start, channels: vec![first, width("G.up2.weight")?], norm: false },
            discriminator: match opposed {
                true => Some(Discriminator { channels: vec![width("D.conv1.weight")?, width("D.conv2.weight")?] }),
                false => None,
            },
            noise: z.dims[1],
            conditions: c.dims[1],
            batch: z.dims[0],
            guide: if opposed { self.number("lambda", f64::NAN)? } else { 1.0 },
            diversity: 0.0,
            optimizer,
        };
        let (filters, targets) = (width("R.conv.weight")?, c.dims[1]);
        let mut rate = |g: &mut Graph, x: Value| {
            // (x + 1) / 2
            let by = [0, 1, 2].map(|c| [0, 1, 2].map(|k| if c == k { 0.5 } else { 0.0 }));
            let x = g.push1(Colours { by, add: [0.5; 3] }, &[x]);
            Ok(Net::new(g, Mode::Eval).scope("regressor", |net| {
                let x = net.conv_relu("conv", x, filters, Window::square(3, 1, 1));
                let x = net.global_avgpool("pooled", x);
                net.dense("fc", x, targets, false)
            }))
        };
        Blueprint::new(&design, &mut rate)
    }

    /// Writes all parameters.
    fn begin(&self, s: &mut Session) -> Result<()> {
        for v in s.graph().stored().collect::<Vec<_>>() {
            let name = theirs(s.graph().name(v));
            let t = self.get(&name)?.ours();
            if t.dims != s.graph().dims(v) {
                return Err(self.wrong(&name, format!("{:?} instead of {:?}", t.dims, s.graph().dims(v))));
            }
            s.write(v, Data::F64(&t.data))?;
        }
        Ok(())
    }

    /// What one step computes before anything is updated.
    fn one_step(&self) -> Result<Vec<Checked>, Stop> {
        let mut b = self.blueprint(Optimizer::Adam(Adam::default()), true)?;
        let (Some(real), Some((fooled, said)), Some(opponent)) = (b.real, b.adversarial, &b.discriminator) else {
            return Err(self.wrong("real", "there is no discriminator").into());
        };
        // The maps between the layers, by who makes them.
        let made = |label: &str, op: &str| {
            let label = format!("{GENERATOR}.{label}");
            let mut of = b.graph.nodes().iter().filter(|n| n.label == label && n.op.name() == op);
            of.next().map(|n| n.outs[0]).ok_or_else(|| self.wrong(label.as_str(), "no layer of that name"))
        };
        let (h, u) = (made("fc", "unflatten")?, made("up1", "conv.transposed")?);
        let scalars = [("loss_d", opponent.loss), ("loss_adversarial", fooled), ("loss_guide", b.guide)];
        let mut all = vec![("h", h), ("u", u), ("image", b.made), ("ratings", b.ratings)];
        all.extend([("logit_real", said[0]), ("logit_fake", said[1]), ("loss_g", b.generator.loss)]);
        all.extend(scalars);
        let mut all: Vec<(String, Value)> = all.into_iter().map(|(name, v)| (name.into(), v)).collect();
        let wrt = [&b.generator.params[..], &[b.made]].concat();
        let (whole, guide, against) = (b.generator.loss, b.guide, opponent.loss);
        let (own, others) = (b.generator.params.clone(), opponent.params.clone());
        for (prefix, loss, wrt) in [("grad_g", whole, &wrt), ("grad_guide", guide, &own), ("grad_d", against, &others)]
        {
            for (v, d) in wrt.iter().zip(b.graph.backward(loss, wrt)?) {
                let name =
                    if *v == b.made { "grad_image".into() } else { format!("{prefix}.{}", theirs(b.graph.name(*v))) };
                all.push((name, d));
            }
        }
        let want: Vec<Value> = all.iter().map(|x| x.1).collect();
        let mut s = Session::new(b.graph.clone(), &[&want], Options::default(), self.open()?)?;
        self.begin(&mut s)?;
        for (v, tensor) in [(b.noise, "z"), (b.condition, "c"), (b.wanted, "c"), (real, "real")] {
            s.write(v, Data::F64(&self.get(tensor)?.ours().data))?;
        }
        s.run(0)?;
        all.into_iter().map(|(name, v)| Ok(self.within(&name, &s.read64(v)?, None)?)).collect()
    }

    /// Alternating steps from the parameters of `start`: the losses of each, and what becomes of the parameters.
    fn steps(
        &self,
        start: &Context,
        optimizer: Optimizer,
        opposed: bool,
        steps: u32,
        hyper: impl Fn(u32) -> [f64; 4],
    ) -> Result<Vec<Checked>, Stop> {
        let b = start.blueprint(optimizer, opposed)?;
        let mut s = b.session(Options::default(), self.open()?)?;
        start.begin(&mut s)?;
        let [noise, condition, real] = ["z", "c", "real"].map(|tensor| start.get(tensor).map(|t| t.ours().data));
        let (noise, condition, real) = (noise?, condition?, real?);
        let batch = Batch {
            noise: Data::F64(&noise),
            condition: Data::F64(&condition),
            wanted: Data::F64(&condition),
            real: Data::F64(&real),
        };
        let mut curve = vec![];
        for t in 1..=steps {
            let l = b.step(&mut s, &batch, hyper(t))?;
            curve.extend(l.discriminator.into_iter().chain(l.adversarial).chain([l.guide]));
        }
        let mut checked = vec![self.within("curve", &curve, None)?];
        let sides = [Some(&b.generator), b.discriminator.as_ref()];
        for &v in sides.into_iter().flatten().flat_map(|side| &side.params) {
            let name = format!("after.{}", theirs(s.graph().name(v)));
            checked.push(self.within(&name, &s.read64(v)?, None)?);
        }
        Ok(checked)
    }
}
