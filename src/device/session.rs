//! A graph, its plans and the device that holds their storage.

use super::{Data, Device, Probe};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::plan::{Options, Plan};
use std::ops::Range;
use std::sync::Arc;

pub struct Session {
    pub graph: Graph,
    pub plans: Vec<Plan>,
    device: Box<dyn Device>,
}

impl Session {
    /// One plan per list of wanted values, in order.
    pub fn new(graph: Graph, want: &[&[Value]], options: Options, mut device: Box<dyn Device>) -> Result<Self> {
        let plans = want.iter().map(|w| Plan::new(&graph, w, options)).collect::<Result<Vec<_>>>()?;
        device.load(&graph, &plans)?;
        Ok(Self { graph, plans, device })
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
        self.expect(v, data.len())?;
        self.device.write(v, data)
    }
    /// Sets a weight from a mapping, without a copy where the device can do that.
    pub fn bind(&mut self, v: Value, bytes: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Result<()> {
        self.expect(v, range.len() / 4)?;
        self.device.bind(v, bytes, range)
    }
    fn expect(&self, v: Value, got: usize) -> Result<()> {
        let t = self.graph.ty(v);
        if got == t.numel() {
            return Ok(());
        }
        Err(Error::job(format!("{} takes {:?}, {} numbers, not {got}", self.graph.name(v), t.shape, t.numel())))
    }
    /// A persistent value, or a wanted one of the plan that ran last.
    pub fn read(&self, v: Value) -> Result<Vec<f32>> {
        let mut into = vec![0.0; self.graph.ty(v).numel()];
        self.device.read(v, &mut into)?;
        Ok(into)
    }
    /// [`Session::read`] in float64.
    pub fn read64(&self, v: Value) -> Result<Vec<f64>> {
        self.device.read64(v)
    }
    /// Runs a plan.
    pub fn run(&mut self, plan: usize) -> Result<()> {
        self.device.run(plan, None)
    }
    /// Runs a plan and hears about every launch.
    pub fn profile(&mut self, plan: usize, probe: &mut dyn FnMut(Probe)) -> Result<()> {
        self.device.run(plan, Some(probe))
    }
}
