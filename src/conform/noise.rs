/*! How far float32 takes a whole network from its float64 definition. A worst-case bound of a deep network with ReLU and
max-pooling says nothing: it lets every rounding of forty layers point the same way. Their natural size is used instead.
[`Noisy`] runs the definition and moves every element of every op's output by the size of its rounding error, up or down
at random; three standard deviations of what comes out, of the worst element of each tensor, are the tolerance.

The size of an error: a sum of L products is L roundings of partial sums, each at most u times the partial sum, and
independent ones add like the square root (Higham & Mary 2019, "A new approach to probabilistic rounding error
analysis"). A partial sum is a drift of at most |y| and a walk of about the root of the sum of squared products, which is
the definition run on squares. So: sqrt(L + 2) u (|y| + sqrt(sum of a^2 b^2)). The variance of one rounding is a third of
what this takes it for, and routines that add in lanes round less. Everything else is a few u of its own result. */

use super::cases::U;
use crate::device::{Bytes, Data, DataMut, Demand, Device, Probe, Spec, Usage};
use crate::error::{Error, Result};
use crate::graph::{Graph, Io, Kind, Node, Value};
use crate::launch::Buf;
use crate::plan::{Options, Place, Plan};
use crate::rng::{Stream, block};
use std::ops::Range;

/// The float64 definition with errors as large as float32 may make them.
pub(super) struct Noisy {
    seed: u64,
    runs: u32,
    graph: Graph,
    plans: Vec<Plan>,
    values: Vec<Vec<f64>>,
}

impl Noisy {
    pub fn new(seed: u64) -> Self {
        Self { seed, runs: 0, graph: Graph::default(), plans: vec![], values: vec![] }
    }
    /// Where the plan keeps a value.
    fn home(&self, plan: usize, v: Value) -> usize {
        match self.plans[plan].place(v) {
            Place::Persistent(root) => root.buf().0 as usize,
            _ => v.buf().0 as usize,
        }
    }
    fn value(&self, plan: usize, v: Value) -> &[f64] {
        &self.values[self.home(plan, v)]
    }

    /// The size of the error of each element of each output.
    fn errors(&self, n: &Node, io: &Io, ins: &[&[f64]], outs: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
        let last = |i: usize| io.ins[i].dims().last().copied().unwrap_or(1);
        // So many u of the element itself.
        let own = |n: f64| outs.iter().map(|y| y.iter().map(|y| n * U * y.abs()).collect()).collect();
        let terms = match n.op.name() {
            "conv.fprop" | "dense.fprop" => io.ins[1].row() + 1,
            "conv.dgrad" => io.ins[1].numel() / last(1),
            "dense.dgrad" => io.ins[1].dims()[0],
            "conv.wgrad" | "dense.wgrad" => io.ins[1].numel() / last(1),
            "bias.grad" => io.ins[0].numel() / last(0),
            "scale" => return Ok(own(1.0)),
            "relu.grad" | "maxpool" | "maxpool.grad" | "concat" | "slice" | "fill" => return Ok(own(0.0)),
            // The exponent's argument (a few units, rounded), exp, the sum, the division.
            "softmax" => return Ok(own((last(0) as f64).sqrt() + 16.0)),
            "softmax.grad" => {
                let largest = ins[1].iter().fold(0.0f64, |m, dy| m.max(dy.abs()));
                let each = |y: &f64| ((last(0) as f64).sqrt() + 4.0) * U * y * largest;
                return Ok(vec![ins[0].iter().map(each).collect()]);
            }
            "mse" | "dropout" | "cross_entropy" | "cross_entropy.grad" => return Ok(own(2.0)),
            "mse.grad" => return Ok(own(4.0)),
            // Rounded settings included: rate, momentum; three products, two sums.
            "sgd" => {
                // The terms of the velocity are what it is of magnitudes, with a rate that climbs.
                let [lr, momentum, decay, _] = *ins[3] else { unreachable!("four settings") };
                let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
                let (hyper, [w, v, g]) = ([-lr, momentum, decay, 0.0], [0, 1, 2].map(|i| abs(ins[i])));
                let mut terms = vec![vec![f64::NAN; w.len()]; 2];
                n.op.eval(io, &[&w, &v, &g, &hyper], &mut terms);
                let v = |i: usize| 3.0 * U * terms[1][i];
                let w = |i: usize| U * (ins[0][i].abs() + 3.0 * (outs[0][i] - ins[0][i]).abs());
                return Ok(vec![(0..ins[0].len()).map(w).collect(), (0..ins[0].len()).map(v).collect()]);
            }
            other => return Err(Error::job(format!("{other} has no model of its rounding errors"))),
        };
        let squares: Vec<Vec<f64>> = ins.iter().map(|x| x.iter().map(|x| x * x).collect()).collect();
        let squares: Vec<&[f64]> = squares.iter().map(Vec::as_slice).collect();
        let mut sums: Vec<Vec<f64>> = outs.iter().map(|y| vec![f64::NAN; y.len()]).collect();
        n.op.eval(io, &squares, &mut sums);
        let size = ((terms + 2) as f64).sqrt() * U;
        // Behind a ReLU an exact 0 stays 0.
        let error = |(s, y): (f64, &f64)| if *y == 0.0 { 0.0 } else { size * (y.abs() + s.sqrt()) };
        Ok(sums.into_iter().zip(outs).map(|(s, y)| s.into_iter().zip(y).map(error).collect()).collect())
    }
}

impl Device for Noisy {
    fn spec(&self) -> Spec {
        Spec { name: "float64 definition with float32 errors".into(), options: Options::default(), gpu: None }
    }
    fn load(&mut self, g: &Graph, plans: &[Plan]) -> Result<()> {
        let size = |v| if g.kind(v) == Kind::Temp { 0 } else { g.ty(v).numel() };
        self.values = g.values().map(|v| vec![0.0; size(v)]).collect();
        (self.graph, self.plans) = (g.clone(), plans.to_vec());
        Ok(())
    }
    fn write(&mut self, v: Value, data: Data) -> Result<()> {
        let Buf(i) = v.buf();
        // Rounded as a float32 device rounds it.
        self.values[i as usize] = (0..data.len()).map(|i| data.at(i) as f32 as f64).collect();
        Ok(())
    }
    fn bind(&mut self, _: Value, _: Bytes, _: Range<usize>) -> Result<bool> {
        Err(Error::job("not a device to bind weights on"))
    }
    fn read(&self, v: Value, into: DataMut) -> Result<()> {
        into.fill(self.values[v.buf().0 as usize].iter().copied());
        Ok(())
    }
    fn run(&mut self, plan: usize, _: Option<&mut dyn FnMut(Probe)>) -> Result<()> {
        self.runs += 1;
        for node in self.plans[plan].steps().to_vec().into_iter().flatten() {
            let n = self.graph.nodes()[node].clone();
            let (ti, to) = self.graph.io(&n);
            let io = Io { ins: &ti, outs: &to };
            let ins: Vec<&[f64]> = n.ins.iter().map(|v| self.value(plan, *v)).collect();
            let mut outs: Vec<Vec<f64>> = to.iter().map(|t| vec![f64::NAN; t.numel()]).collect();
            n.op.eval(&io, &ins, &mut outs);
            let errors = self.errors(&n, &io, &ins, &outs)?;
            for ((v, mut out), errors) in n.outs.iter().zip(outs).zip(errors) {
                for (i, (y, e)) in out.iter_mut().zip(errors).enumerate() {
                    let word = block(self.seed, Stream::Test(v.buf().0), self.runs, i as u64 / 128)[i / 32 % 4];
                    *y += if word >> (i % 32) & 1 == 0 { e } else { -e };
                }
                let home = self.home(plan, *v);
                self.values[home] = out;
            }
        }
        Ok(())
    }
    fn memory(&self) -> Usage {
        Usage { persistent: self.values.iter().map(|v| 8 * v.len()).sum(), arena: 0, free: None }
    }
    fn demand(&self, g: &Graph, plans: &[Plan]) -> Result<Demand> {
        Ok(Demand::float64(g, plans))
    }
}
