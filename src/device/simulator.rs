/*! The simulator as a driver: kernels compiled by NVRTC for one architecture, their PTX run by [`crate::sim`]. Each operand
of a launch gets an address range of its own, so that a kernel can touch nothing else, and begins there where it lies in the
arena, so that addresses are aligned as on a GPU. What a kernel leaves unwritten of an output is an error. */

use super::Counted;
use super::gpu::{Driver, Span, Step, StepTime, Work};
use super::memory::Memory;
use crate::error::{Error, Result};
use crate::launch::Collective;
use crate::launch::estimate::Limits;
use crate::launch::gpu::{Access, Call};
use crate::nvrtc::{self, Cache, Target, Unit};
use crate::ranks::{Communicator, Peers};
use crate::sim::{self, Counters, Grid, Program, RunOptions};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

/// Programs of this process: many small sessions share few kernels.
static PROGRAMS: LazyLock<Mutex<Programs>> = LazyLock::new(Mutex::default);

type Programs = BTreeMap<(Unit, Target), Arc<Program>>;

/// A GPU in software.
pub struct Simulator {
    target: Target,
    options: RunOptions,
    memory: Memory,
    /// One byte for each of `memory`, not zero where nothing was written; empty without checks.
    blank: Memory,
    /// Steps; of kernels with their program.
    plans: Vec<Vec<(Step, Option<Arc<Program>>)>>,
    peers: Peers,
}

impl Simulator {
    /// What is compiled for where nothing else is asked for: the oldest architecture with asynchronous copies.
    pub const TARGET: Target = Target::new(80);

    /// Fails where NVRTC is missing.
    pub fn new(target: Target, options: RunOptions) -> Result<Self> {
        nvrtc::available()?;
        let [memory, blank] = [Memory::sparse(0)?, Memory::sparse(0)?];
        Ok(Self { target, options, memory, blank, plans: vec![], peers: None })
    }

    fn launch(&mut self, plan: usize, step: usize, count: bool) -> Result<Counters> {
        let (step, program) = &self.plans[plan][step];
        let (Work::Kernel(call), Some(program)) = (&step.work, program) else {
            let Work::Collective(c) = step.work else { unreachable!("every kernel has its program") };
            return self.exchange(c, step.windows.concat()).map(|()| Counters::default());
        };
        // Equal operands are one window; what any of them may do, all may.
        let mut windows: Vec<Span> = step.windows.iter().flatten().copied().collect();
        windows.sort_by_key(|w| (w.at, w.bytes));
        windows.dedup_by(|b, a| {
            let same = a.at == b.at && a.bytes == b.bytes;
            if same && a.access != b.access {
                a.access = Access::Update;
            }
            same
        });
        if let Some(w) = windows.windows(2).find(|w| w[0].at + w[0].bytes > w[1].at) {
            return Err(Error::job(format!("{}: operands overlap: {:?} and {:?}", step.label, w[0], w[1])));
        }
        let address = |instance: usize, operand: usize| {
            let w = step.windows[instance][operand];
            let i = windows.partition_point(|o| (o.at, o.bytes) < (w.at, w.bytes));
            sim::address(i) + w.at as u64
        };
        let params = call.params(address, sim::tensor_map)?;
        let expected = program.entry(call.kernel.entry).map(|k| k.param_bytes);
        if expected != Some(params.len()) {
            let text = format!("{}: {} bytes of parameters, the kernel takes {expected:?}", step.label, params.len());
            return Err(Error::job(text));
        }
        let names: Vec<String> = windows.iter().map(|w| name(step, w)).collect();
        let whole = self.options.only.is_none();
        let (mut memory, mut blank) = (self.memory.bytes_mut(), self.blank.bytes_mut());
        if !blank.is_empty() && whole {
            let outputs = windows.iter().filter(|w| w.access == Access::Write);
            outputs.for_each(|w| blank[w.at..w.at + w.bytes].fill(1));
        }
        let mut at = 0;
        let mut ranges = vec![];
        for (w, name) in windows.iter().zip(&names) {
            let access = match w.access {
                Access::Read => sim::Rights::Read,
                Access::Write => sim::Rights::Write,
                Access::Update => sim::Rights::Update,
            };
            let [data, blank] = [&mut memory, &mut blank].map(|m| cut(m, w.at - at, w.bytes));
            ranges.push(sim::Buffer { name, at: w.at, data, blank, access });
            at = w.at + w.bytes;
        }
        let Call { kernel, consts, .. } = call;
        let grid = Grid { grid: step.grid(), block: [kernel.threads, 1, 1], shared_bytes: kernel.shared(consts) };
        let options = RunOptions { count, ..self.options };
        let counters = sim::launch(program, kernel.entry, grid, &params, &mut ranges, options)
            .map_err(|fault| Error::job(format!("{}: {fault}", step.label)))?;
        let outputs = windows.iter().zip(&ranges).filter(|(w, _)| whole && w.access == Access::Write && w.value);
        for (_, r) in outputs {
            if let Some(i) = r.blank.iter().position(|b| *b != 0) {
                let text = format!("{}: {} leaves byte {i} of {} unwritten", step.label, kernel.entry, r.name);
                return Err(Error::job(text));
            }
        }
        Ok(counters)
    }

    /// Exchanges with the other ranks what lies in some windows.
    fn exchange(&mut self, c: Collective, mut windows: Vec<Span>) -> Result<()> {
        let Some(peers) = self.peers.clone().filter(|_| c.ranks > 1) else { return Ok(()) };
        let mut order: Vec<usize> = (0..windows.len()).collect();
        order.sort_by_key(|i| windows[*i].at);
        windows.sort_by_key(|w| w.at);
        let (mut memory, mut at, mut parts) = (self.memory.bytes_mut(), 0, vec![]);
        for (w, i) in windows.iter().zip(order) {
            parts.push((i, bytemuck::cast_slice_mut::<u8, f32>(cut(&mut memory, w.at - at, w.bytes))));
            at = w.at + w.bytes;
        }
        // In the order of the bucket, which is that of the other ranks.
        parts.sort_by_key(|p| p.0);
        peers.exchange(c.exchange, c.bucket, &mut parts.into_iter().map(|p| p.1).collect::<Vec<_>>())
    }
}

/// Takes `bytes` bytes off the front of a slice, after skipping some; nothing of an empty one.
fn cut<'a>(from: &mut &'a mut [u8], skip: usize, bytes: usize) -> &'a mut [u8] {
    if from.is_empty() {
        return &mut [];
    }
    let (part, rest) = std::mem::take(from)[skip..].split_at_mut(bytes);
    *from = rest;
    part
}

/// `operand 2`, or `operand 2 of instance 1` in a group.
fn name(step: &Step, window: &Span) -> String {
    for (instance, windows) in step.windows.iter().enumerate() {
        if let Some(operand) = windows.iter().position(|w| w.at == window.at) {
            return match step.windows.len() {
                1 => format!("operand {operand}"),
                _ => format!("operand {operand} of instance {instance}"),
            };
        }
    }
    unreachable!("made from the operands")
}

impl Driver for Simulator {
    fn name(&self) -> String {
        let checks = if self.options.checks { "checked" } else { "unchecked" };
        format!("sim ({}, {checks})", self.target)
    }

    fn target(&self) -> Target {
        self.target
    }

    fn model(&self) -> String {
        format!("simulator, {}", self.target)
    }

    fn limits(&self) -> Limits {
        Limits { shared: nvrtc::shared_memory(self.target), ..Limits::default() }
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn free(&self) -> Option<usize> {
        None
    }

    fn connect(&mut self, peers: Arc<dyn Communicator>) -> Result<()> {
        self.peers = Some(peers);
        Ok(())
    }

    fn load(&mut self, bytes: usize, plans: Vec<Vec<Step>>) -> Result<()> {
        plans.iter().flatten().try_for_each(|step| step.within(bytes))?;
        let unit = |step: &Step| step.call().map(|call| Unit::of(call.kernel, call.consts));
        let mut programs = PROGRAMS.lock().expect("no panic while it is held");
        let needed: BTreeSet<Unit> = plans.iter().flatten().filter_map(unit).collect();
        let missing: Vec<Unit> =
            needed.into_iter().filter(|u| !programs.contains_key(&(u.clone(), self.target))).collect();
        let compiled = nvrtc::compile_all(&missing, self.target, &Cache::open())?;
        for (unit, compiled) in missing.into_iter().zip(compiled) {
            programs.insert((unit, self.target), Arc::new(Program::parse(&compiled.ptx)?));
        }
        let program = |step: Step| {
            let program = unit(&step).map(|unit| programs[&(unit, self.target)].clone());
            (step, program)
        };
        self.plans.clear();
        self.memory = Memory::sparse(bytes)?;
        // Zeroed memory counts as written, as it does on a GPU.
        self.blank = Memory::sparse(if self.options.checks { bytes } else { 0 })?;
        self.plans = plans.into_iter().map(|p| p.into_iter().map(program).collect()).collect();
        Ok(())
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        self.memory.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        if let Some(blank) = self.blank.bytes_mut().get_mut(at..at + bytes.len()) {
            blank.fill(0);
        }
        Ok(())
    }

    fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&self.memory.bytes()[at..at + into.len()]);
        Ok(())
    }

    /// Collectives run as late as they may: at the first step that awaits them, or at the end.
    fn run(&mut self, plan: usize) -> Result<()> {
        let (mut waiting, mut done) = (VecDeque::new(), 0);
        for step in 0..self.plans[plan].len() {
            let next = &self.plans[plan][step].0;
            if let Work::Collective(_) = next.work {
                waiting.push_back(step);
                continue;
            }
            let awaited = next.awaited;
            while done < awaited {
                let collective = waiting.pop_front().expect("a step awaits what was before it");
                self.launch(plan, collective, false)?;
                done += 1;
            }
            self.launch(plan, step, false)?;
        }
        waiting.into_iter().try_for_each(|step| self.launch(plan, step, false).map(drop))
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn step(&mut self, plan: usize, step: usize) -> Result<StepTime> {
        let start = Instant::now();
        let counters = self.launch(plan, step, true)?;
        let seconds = start.elapsed().as_secs_f64();
        let (step, _) = &self.plans[plan][step];
        let blocks = step.grid().iter().map(|n| *n as u64).product();
        let counted = step.call().map(|call| Counted { kernel: call.kernel.entry, blocks, counters });
        Ok(StepTime { seconds, counted })
    }
}
