/*! The definition as a device: float64, one op at a time, inside the very arena that the plan laid out, so a mistake of
the plan is a wrong number and not a latent one. */

use super::layout::{decode, expect, loaded, settable, storage};
use super::{Bytes, Checks, Data, DataMut, Demand, Device, Probe, Spec, Usage, finite, meant_for};
use crate::error::{Error, Result};
use crate::graph::{Graph, Io, Value};
use crate::plan::{Options, Place, Plan};
use crate::ranks::{Communicator, Peers};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

#[derive(Default)]
pub struct Reference {
    graph: Graph,
    plans: Vec<Plan>,
    /// One slot per `grain` bytes of the plan's arena: one at least for every element.
    arena: Vec<f64>,
    grain: usize,
    persistent: Vec<Vec<f64>>,
    checks: Checks,
    last: usize,
    peers: Peers,
}

impl Reference {
    pub fn new() -> Self {
        Self::default()
    }
    /// Chosen checks; outputs are poisoned whatever they are.
    pub fn with(checks: Checks) -> Self {
        Self { checks, ..Self::default() }
    }
    fn get(&self, plan: usize, v: Value) -> Option<&[f64]> {
        let n = self.graph.ty(v).numel();
        match self.plans.get(plan).map_or(Place::Nowhere, |p| p.place(v)) {
            Place::Arena(at) => Some(&self.arena[at / self.grain..][..n]),
            Place::Persistent(root) => Some(&self.persistent[root.i()]),
            Place::Nowhere => self.persistent.get(v.i()).filter(|p| p.len() == n).map(Vec::as_slice),
        }
    }
}

impl Device for Reference {
    fn spec(&self) -> Spec {
        Spec { name: "reference (float64 definition)".into(), options: Options::default(), gpu: None }
    }
    fn connect(&mut self, peers: Arc<dyn Communicator>) -> Result<()> {
        self.peers = Some(peers);
        Ok(())
    }
    fn load(&mut self, g: &Graph, plans: &[Plan]) -> Result<()> {
        (self.graph, self.plans) = (Graph::default(), vec![]);
        plans.iter().try_for_each(|p| p.check(g))?;
        meant_for(g, plans, self.peers.as_ref().map_or(1, |p| p.ranks()))?;
        let is_temp = |v: Value| g.kind(v) == crate::graph::Kind::Temp;
        let size = |v: Value| if is_temp(v) { 0 } else { g.ty(v).numel() };
        self.persistent = g.values().map(|v| vec![0.0; size(v)]).collect();
        self.grain = Demand::grain(g);
        self.arena = vec![f64::NAN; plans.iter().map(|p| p.arena_bytes()).max().unwrap_or(0) / self.grain];
        (self.graph, self.plans) = (g.clone(), plans.to_vec());
        Ok(())
    }
    fn write(&mut self, v: Value, data: Data) -> Result<()> {
        settable(&self.graph, v)?;
        expect(&self.graph, v, data.len())?;
        let dtype = self.graph.ty(v).dtype;
        self.persistent[v.i()] = (0..data.len()).map(|i| dtype.round(data.at(i))).collect();
        Ok(())
    }
    fn bind(&mut self, v: Value, bytes: Bytes, range: Range<usize>) -> Result<bool> {
        let bytes = storage(&self.graph, v, self.graph.ty(v).dtype, &bytes, range)?;
        // Aligned for any element type.
        let mut copy = vec![0u64; bytes.len().div_ceil(8)];
        let copy = &mut bytemuck::cast_slice_mut(&mut copy)[..bytes.len()];
        copy.copy_from_slice(bytes);
        self.write(v, Data::F64(&decode(self.graph.ty(v).dtype, copy))).map(|()| false)
    }
    fn read(&self, v: Value, into: DataMut) -> Result<()> {
        expect(&self.graph, v, into.len())?;
        let got = self.get(self.last, v).ok_or_else(|| Error::job("this value was not computed by the last plan"))?;
        into.fill(got.iter().copied());
        Ok(())
    }
    fn run(&mut self, plan: usize, mut probe: Option<&mut dyn FnMut(Probe)>) -> Result<()> {
        loaded(plan, self.plans.len())?;
        self.last = plan;
        for node in self.plans[plan].steps().to_vec().into_iter().flatten() {
            let start = Instant::now();
            let n = self.graph.nodes()[node].clone();
            let (ti, to) = self.graph.io(&n);
            let io = Io { ins: &ti, outs: &to };
            let ins: Vec<&[f64]> = n.ins.iter().map(|v| self.get(plan, *v).expect("planned")).collect();
            // Poison: an element the definition forgets to write is NaN in the result.
            let mut outs: Vec<Vec<f64>> = to.iter().map(|t| vec![f64::NAN; t.numel()]).collect();
            n.op.eval(&io, &ins, &mut outs);
            if let Some(c) = n.op.collective().filter(|c| c.ranks > 1) {
                let peers = self.peers.as_ref().expect("without them nothing was loaded");
                let mut values: Vec<&mut [f64]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
                peers.exchange64(c.exchange, c.bucket, &mut values)?;
            }
            for (y, t) in outs.iter_mut().zip(&to).filter(|(_, t)| t.dtype.is_half()) {
                y.iter_mut().for_each(|y| *y = t.dtype.round(*y));
            }
            for (v, out) in n.outs.iter().zip(&outs) {
                match self.plans[plan].place(*v) {
                    Place::Arena(at) => self.arena[at / self.grain..][..out.len()].copy_from_slice(out),
                    Place::Persistent(root) => self.persistent[root.i()].copy_from_slice(out),
                    Place::Nowhere => unreachable!("a plan places every operand of its nodes"),
                }
            }
            if self.checks == Checks::Finite {
                let outs: Vec<_> = n.outs.iter().map(|v| v.buf()).collect();
                let bad = |v| self.get(plan, v)?.iter().enumerate().find(|(_, x)| !x.is_finite()).map(|(i, x)| (i, *x));
                finite::check(&self.graph, node, &outs, bad)?;
            }
            if let Some(probe) = &mut probe {
                let seconds = start.elapsed().as_secs_f64();
                let cost = n.op.cost(&io);
                probe(Probe {
                    node,
                    label: &n.label,
                    name: n.op.name(),
                    cost,
                    definition: true,
                    seconds,
                    counted: None,
                });
            }
        }
        Ok(())
    }
    fn memory(&self) -> Usage {
        let persistent = self.persistent.iter().map(|p| p.len() * 8).sum();
        Usage { persistent, arena: self.arena.len() * 8, free: None }
    }
    fn demand(&self, g: &Graph, plans: &[Plan]) -> Result<Demand> {
        Ok(Demand::float64(g, plans))
    }
}
