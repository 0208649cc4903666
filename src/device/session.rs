//! A graph, its plans and the device that holds their storage.

use super::MemoryHints;
use super::layout::{expect, loaded};
use super::{Bytes, Data, DataMut, Device, Probe};
use crate::error::Result;
use crate::graph::{Graph, Value};
use crate::plan::{Options, Plan};
use crate::shape::DType;
use std::borrow::Cow;
use std::ops::Range;

pub struct Session {
    graph: Graph,
    plans: Vec<Plan>,
    device: Box<dyn Device>,
    prepare: Option<Prepare>,
}

/// State that is computed from weights ([`Graph::prepare`]).
struct Prepare {
    plan: usize,
    /// Whether the state belongs to the present weights.
    done: bool,
    /// By plan: reads the state; changes what the state is made from.
    roles: Vec<[bool; 2]>,
}

impl Session {
    /// One plan per list of wanted values, in order.
    pub fn new(graph: Graph, want: &[&[Value]], options: Options, device: Box<dyn Device>) -> Result<Self> {
        Self::within(MemoryHints::default(), graph, want, options, device)
    }
    /// [`Session::new`] for a caller who knows more about memory.
    pub fn within(
        hints: MemoryHints,
        graph: Graph,
        want: &[&[Value]],
        options: Options,
        mut device: Box<dyn Device>,
    ) -> Result<Self> {
        let (graph, mut plans) = Plan::all(graph, want, options)?;
        let read = |plan: &Plan, state: Value| plan.live(state).is_some();
        let (states, outs): (Vec<Value>, Vec<Value>) =
            graph.prepared().iter().filter(|(state, _)| plans.iter().any(|p| read(p, *state))).copied().unzip();
        let mut prepare = None;
        if !outs.is_empty() {
            let own = Plan::new(&graph, &outs, options)?;
            let role = |p: &Plan| {
                let updates = p.updates(&graph);
                // A plan that changes a weight and the state that is made from it keeps them together.
                let stale = states.iter().zip(&outs).filter(|(state, _)| !updates.contains(state));
                let from =
                    |(_, out): (_, &Value)| graph.needed(&[*out]).into_iter().flat_map(|n| &graph.nodes()[n].ins);
                [states.iter().any(|s| read(p, *s)), stale.flat_map(from).any(|v| updates.contains(v))]
            };
            let roles = plans.iter().map(role).chain([[false; 2]]).collect();
            prepare = Some(Prepare { plan: plans.len(), done: false, roles });
            plans.push(own);
        }
        super::fits(&*device, &graph, &plans, hints)?;
        device.load(&graph, &plans)?;
        Ok(Self { graph, plans, device, prepare })
    }
    /// The graph as it runs: its values are those of the graph that the session was made from, ops may be fused.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
    /// Those that were asked for, in order; behind them there may be the session's own, which fills prepared state.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }
    /// Gives the device back, for another graph.
    pub fn into_device(self) -> Box<dyn Device> {
        self.device
    }
    /// Sets an input, weight or state.
    pub fn write(&mut self, v: Value, data: Data) -> Result<()> {
        expect(&self.graph, v, data.len())?;
        self.changed(v);
        self.device.write(v, data)
    }
    /// Sets a weight from a mapping, without a copy where the device can do that: then true, and the mapping is what it
    /// reads.
    pub fn bind(&mut self, v: Value, bytes: Bytes, range: Range<usize>) -> Result<bool> {
        self.graph.own(&[v])?;
        self.changed(v);
        self.device.bind(v, bytes, range)
    }
    /// [`Device::takes`]
    pub fn takes(&self, v: Value, dtype: DType) -> bool {
        self.graph.own(&[v]).is_ok() && self.device.takes(v, dtype)
    }
    /// Sets a weight from a mapping of numbers in a type that the device [`Session::takes`].
    pub fn bind_as(&mut self, v: Value, dtype: DType, bytes: Bytes, range: Range<usize>) -> Result<()> {
        self.graph.own(&[v])?;
        self.changed(v);
        self.device.bind_as(v, dtype, bytes, range)
    }
    /// Prepared state has to be made again if it is made from `v`.
    fn changed(&mut self, v: Value) {
        if let Some(p) = &mut self.prepare {
            p.done &= self.plans[p.plan].live(v).is_none();
        }
    }
    /// Makes prepared state that `plan` reads and that is not of the present weights.
    fn prepare_for(&mut self, plan: usize) -> Result<()> {
        loaded(plan, self.plans.len())?;
        let Some(p) = &mut self.prepare else { return Ok(()) };
        let [reads, changes] = p.roles[plan];
        if reads && !p.done {
            self.device.run(p.plan, None)?;
            p.done = true;
        }
        p.done &= !changes;
        Ok(())
    }
    /// A persistent value, or a wanted one of the plan that ran last.
    pub fn read(&self, v: Value) -> Result<Vec<f32>> {
        let mut into = vec![0.0; self.graph.ty(v).numel()];
        self.device.read(v, DataMut::F32(&mut into))?;
        Ok(into)
    }
    /// [`Session::read`] without a copy where the device has the value in this machine's memory.
    pub fn values(&self, v: Value) -> Result<Cow<'_, [f32]>> {
        match self.device.lend(v) {
            Some(x) => Ok(Cow::Borrowed(x)),
            None => self.read(v).map(Cow::Owned),
        }
    }
    /// [`Session::read`] in float64.
    pub fn read64(&self, v: Value) -> Result<Vec<f64>> {
        let mut into = vec![0.0; self.graph.ty(v).numel()];
        self.device.read(v, DataMut::F64(&mut into))?;
        Ok(into)
    }
    /// Runs a plan.
    pub fn run(&mut self, plan: usize) -> Result<()> {
        self.prepare_for(plan)?;
        self.device.run(plan, None)
    }
    /// Waits until every run is done.
    pub fn wait(&self) -> Result<()> {
        self.device.wait()
    }
    /// Runs a plan and hears about every launch.
    pub fn profile(&mut self, plan: usize, probe: &mut dyn FnMut(Probe)) -> Result<()> {
        self.prepare_for(plan)?;
        self.device.run(plan, Some(probe))
    }
}
