/*! A generator of pictures that a frozen model rates as asked: one graph with a step of the generator, its pictures, and, where
photographs have a say too, a step of the discriminator. Steps alternate; whoever has no turn stays as it is.

The generator's loss is a sum of up to three terms: the squared error of what the frozen model says, by [`Design::guide`]; less how
far pictures of one condition are apart for two noises, by [`Design::diversity`] ([`Apart`]); and against a discriminator
softplus(-D), which Goodfellow et al. 2014 call non-saturating. The discriminator's is softplus(-D) of photographs and softplus(D) of
made pictures, both means over the batch: the cross-entropy of two classes, one of which scores zero. */

use super::network::Optimizer;
use crate::device::{Data, Device, MemoryHints, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Kind, Value};
use crate::models::{Discriminator, Generator};
use crate::nn::{Mode, Net};
use crate::ops::arith::{Add, Fill, Mul};
use crate::ops::layout::Concat;
use crate::ops::loss::{Apart, CrossEntropy, Mse, Reduction};
use crate::ops::optim::hyper_type;
use crate::plan::Options;
use crate::shape::Type;
use serde::{Deserialize, Serialize};

/// Scopes of what is trained.
pub const GENERATOR: &str = "generator";
pub const DISCRIMINATOR: &str = "discriminator";

/// Plans by index: a step of the generator, pictures by its running statistics, a step of the discriminator.
pub const STEP: usize = 0;
pub const PICTURES: usize = 1;
pub const OPPONENT: usize = 2;

/// What is trained, and on what.
#[derive(Clone, Debug, PartialEq)]
pub struct Design {
    pub generator: Generator,
    pub discriminator: Option<Discriminator>,
    /// Numbers of noise beside the condition.
    pub noise: usize,
    pub conditions: usize,
    /// Even where diversity counts: rows 2p and 2p + 1 are a pair.
    pub batch: usize,
    /// By what the error of the frozen model's ratings counts.
    pub guide: f64,
    /// By what the distance of pairs counts; 0 leaves it out.
    pub diversity: f64,
    pub optimizer: Optimizer,
}

/// One of the two that are trained.
pub struct Side {
    pub params: Vec<Value>,
    /// What the optimiser remembers: a velocity of each parameter, or its two means.
    pub memory: Vec<Value>,
    /// Input [4], [`hyper_type`].
    pub hyper: Value,
    /// What is differentiated [1].
    pub loss: Value,
}

/// The graph and what a step touches of it.
pub struct Blueprint {
    pub graph: Graph,
    pub want: Vec<Vec<Value>>,
    /// Input [N, noise].
    pub noise: Value,
    /// Input [N, conditions]: as the generator reads it, about -1 to 1.
    pub condition: Value,
    /// Input [N, conditions]: the same in points, as the frozen model is to rate.
    pub wanted: Value,
    /// Input [N / 2]: what the distance of each pair counts.
    pub pairs: Option<Value>,
    /// Input [N,S,S,3] in [-1, 1]: photographs of the conditions.
    pub real: Option<Value>,
    /// What a step makes [N,S,S,3], by the statistics of its batch.
    pub made: Value,
    /// The same by running statistics.
    pub pictures: Value,
    /// What the frozen model says of `made` [N, conditions].
    pub ratings: Value,
    /// Mean squared error of `ratings` [1].
    pub guide: Value,
    /// Of pairs [1].
    pub apart: Option<Value>,
    /// softplus(-D) of `made` [1], and what D says of photographs and of `made` [N,1].
    pub adversarial: Option<(Value, [Value; 2])>,
    pub generator: Side,
    pub discriminator: Option<Side>,
}

/// The mean cross-entropy of "photograph" against "made", where the first scores what the discriminator says and the other zero.
fn sorted(g: &mut Graph, said: Value, real: bool) -> Value {
    let ty = g.ty(said);
    let [zero, one] = [0.0, 1.0].map(|value| g.push1(Fill { value, ty }, &[]));
    let scores = g.push1(Concat, &[zero, said]);
    let truth = g.push1(Concat, &if real { [zero, one] } else { [one, zero] });
    let rows = g.push1(Fill { value: 1.0, ty: Type::f32(&ty.dims()[..1]) }, &[]);
    g.push1(CrossEntropy::default(), &[scores, truth, rows])
}

/// Appends the updates of everything in a scope by the gradients of `loss`.
fn updated(g: &mut Graph, scope: &str, loss: Value, optimizer: Optimizer) -> Result<(Side, Vec<Value>)> {
    let prefix = format!("{scope}.");
    let params: Vec<Value> = g.of_kind(Kind::Param).filter(|v| g.name(*v).starts_with(&prefix)).collect();
    let grads = g.backward(loss, &params)?;
    let hyper = g.input(&format!("{scope}.hyper"), hyper_type());
    let (mut memory, mut updates) = (vec![], vec![]);
    for (&w, d) in params.iter().zip(grads) {
        let (name, ty) = (g.name(w).to_string(), g.ty(w));
        let own: Vec<Value> = match optimizer {
            Optimizer::Sgd(_) => vec![g.state(&format!("velocity.{name}"), ty)],
            Optimizer::Adam(adam) => adam.memory().iter().map(|m| g.state(&format!("{m}.{name}"), ty)).collect(),
        };
        let ins = [&[w], &own[..], &[d, hyper]].concat();
        updates.extend(match optimizer {
            Optimizer::Sgd(sgd) => g.push(sgd, &ins),
            Optimizer::Adam(adam) => g.push(adam, &ins),
        });
        memory.extend(own);
    }
    Ok((Side { params, memory, hyper, loss }, updates))
}

impl Blueprint {
    /// Builds and differentiates. `rate` appends the frozen model: pictures [N,S,S,3] in [-1, 1] to ratings [N, conditions].
    ///
    /// # Errors
    /// Sizes that do not fit together, and what `rate` says.
    pub fn new(design: &Design, rate: &mut dyn FnMut(&mut Graph, Value) -> Result<Value>) -> Result<Self> {
        let n = design.batch;
        if n == 0 || design.diversity != 0.0 && !n.is_multiple_of(2) {
            return Err(Error::usage(format!("a batch of {n} has no pairs to be compared")).fix("take an even batch"));
        }
        let mut g = Graph::default();
        let noise = g.input("noise", Type::f32(&[n, design.noise]));
        let [condition, wanted] = ["condition", "wanted"].map(|v| g.input(v, Type::f32(&[n, design.conditions])));
        let rows = g.push1(Fill { value: 1.0, ty: Type::f32(&[n]) }, &[]);
        let mut net = Net::new(&mut g, Mode::Masked { rows });
        let made = net.scope(GENERATOR, |net| design.generator.build(net, noise, condition));
        let (statistics, mut want): (Vec<Value>, Vec<Value>) = net.take_updates().into_iter().unzip();
        debug_assert_eq!(statistics.len(), want.len());
        let pictures =
            Net::new(&mut g, Mode::Eval).scope(GENERATOR, |net| design.generator.build(net, noise, condition));
        let ratings = rate(&mut g, made)?;
        g.set_label("loss");
        let guide = g.push1(Mse { reduction: Reduction::Mean }, &[ratings, wanted, rows]);
        let mut terms = vec![(design.guide, guide)];
        let mut apart = None;
        let pairs = (design.diversity != 0.0).then(|| g.input("pairs", Type::f32(&[n / 2])));
        if let Some(pairs) = pairs {
            let distance = g.push1(Apart, &[made, pairs]);
            terms.push((-design.diversity, distance));
            apart = Some(distance);
        }
        let (mut real, mut adversarial, mut opponent) = (None, None, None);
        if let Some(d) = &design.discriminator {
            let photographs = g.input("real", g.ty(made));
            let mut net = Net::new(&mut g, Mode::Masked { rows });
            let said = [photographs, made].map(|x| net.scope(DISCRIMINATOR, |net| d.build(net, x, condition)));
            g.set_label("loss");
            let told = [(said[0], true), (said[1], false)].map(|(said, real)| sorted(&mut g, said, real));
            opponent = Some(g.push1(Add, &told));
            let fooled = sorted(&mut g, said[1], true);
            terms.push((1.0, fooled));
            (real, adversarial) = (Some(photographs), Some((fooled, said)));
        }
        let mut weighted = |(by, v): (f64, Value)| match by {
            1.0 => v,
            // A factor that is exact in float64.
            value => {
                let by = g.push1(Fill { value, ty: Type::f32(&[1]) }, &[]);
                g.push1(Mul, &[v, by])
            }
        };
        let scaled: Vec<Value> = terms.into_iter().map(&mut weighted).collect();
        let loss = scaled[1..].iter().fold(scaled[0], |sum, v| g.push1(Add, &[sum, *v]));
        g.check()?;
        let (generator, updates) = updated(&mut g, GENERATOR, loss, design.optimizer)?;
        want.extend(updates.into_iter().chain([guide, loss]).chain(apart).chain(adversarial.map(|a| a.0)));
        let mut want = vec![want, vec![pictures]];
        let discriminator = match opponent {
            None => None,
            Some(loss) => {
                let (side, mut updates) = updated(&mut g, DISCRIMINATOR, loss, design.optimizer)?;
                updates.push(loss);
                want.push(updates);
                Some(side)
            }
        };
        Ok(Self {
            graph: g,
            want,
            noise,
            condition,
            wanted,
            pairs,
            real,
            made,
            pictures,
            ratings,
            guide,
            apart,
            adversarial,
            generator,
            discriminator,
        })
    }

    /// Plans and allocates; weights are not written.
    pub fn session(&self, options: Options, device: Box<dyn Device>) -> Result<Session> {
        let want: Vec<&[Value]> = self.want.iter().map(Vec::as_slice).collect();
        let hints = MemoryHints { weights_mapped: true, reserved_bytes: 0 };
        Session::within(hints, self.graph.clone(), &want, options, device)
    }

    /// Everything that is trained, measured or remembered on the way, in the order it was made: what a checkpoint holds.
    pub fn kept(&self) -> Vec<Value> {
        let scopes = [GENERATOR, DISCRIMINATOR].map(|s| format!("{s}."));
        let own = |v: &Value| scopes.iter().any(|s| self.graph.name(*v).starts_with(s));
        let sides = [Some(&self.generator), self.discriminator.as_ref()];
        let memory = sides.into_iter().flatten().flat_map(|s| s.memory.clone());
        self.graph.stored().filter(own).chain(memory).collect()
    }

    /// Everything of the frozen model.
    pub fn frozen(&self) -> Vec<Value> {
        let kept = self.kept();
        self.graph.stored().filter(|v| !kept.contains(v)).collect()
    }
}

/// What a step was given.
pub struct Batch<'a> {
    pub noise: Data<'a>,
    pub condition: Data<'a>,
    pub wanted: Data<'a>,
    /// Photographs of the conditions, in [-1, 1], where there is a discriminator.
    pub real: Data<'a>,
}

/// The losses of a step, each before it is weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Losses {
    /// Points².
    pub guide: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<f64>,
    /// Nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adversarial: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discriminator: Option<f64>,
}

impl Blueprint {
    /// One step of the discriminator, if there is one, and one of the generator, on the same batch and by the same settings.
    pub fn step(&self, s: &mut Session, batch: &Batch, hyper: [f64; 4]) -> Result<Losses> {
        s.write(self.noise, batch.noise)?;
        s.write(self.condition, batch.condition)?;
        s.write(self.wanted, batch.wanted)?;
        let one = |s: &Session, v: Value| Ok::<f64, Error>(s.read64(v)?[0]);
        let mut losses = Losses::default();
        if let (Some(d), Some(real)) = (&self.discriminator, self.real) {
            s.write(real, batch.real)?;
            s.write(d.hyper, Data::F64(&hyper))?;
            s.run(OPPONENT)?;
            losses.discriminator = Some(one(s, d.loss)?);
        }
        if let Some(pairs) = self.pairs {
            let z = self.graph.ty(self.noise).row();
            s.write(pairs, Data::F64(&distances(batch.noise, z)))?;
        }
        s.write(self.generator.hyper, Data::F64(&hyper))?;
        s.run(STEP)?;
        losses.guide = one(s, self.guide)?;
        losses.apart = self.apart.map(|v| one(s, v)).transpose()?;
        losses.adversarial = self.adversarial.map(|a| one(s, a.0)).transpose()?;
        Ok(losses)
    }
}

/// 1 over the mean absolute difference of the noises, z numbers each, of each pair; 0 where they are the same.
fn distances(noise: Data, z: usize) -> Vec<f64> {
    let pair = |p: usize| {
        let far = (0..z).map(|i| (noise.at(2 * p * z + i) - noise.at((2 * p + 1) * z + i)).abs()).sum::<f64>();
        if far > 0.0 { z as f64 / far } else { 0.0 }
    };
    (0..noise.len() / (2 * z)).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_count_by_how_near_their_noises_are() {
        let noise = [1.0, 2.0, 1.0, 4.0, 0.5, 0.5, 0.5, 0.5];
        assert_eq!(distances(Data::F32(&noise), 2), [1.0, 0.0]);
    }
}
