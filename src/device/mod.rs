/*! Floor 5: what executes plans. One object-safe trait, so that models, training and the command line are not generic
over anything; dispatch of ops is not in it. */

pub mod ceiling;
mod cpu;
pub mod cuda;
mod demand;
mod finite;
mod flight;
pub mod gpu;
mod layout;
mod memory;
mod reference;
mod session;
mod simulator;
pub mod trial;
pub mod tuning;

pub use cpu::Cpu;
pub use cuda::Cuda;
pub use demand::{Demand, MemoryHints, available, fits};
pub use gpu::Gpu;
pub use reference::Reference;
pub use session::Session;
pub use simulator::Simulator;

use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::host::ceiling::Ceilings;
use crate::launch::choices::Tiles;
use crate::launch::estimate::Limits;
use crate::launch::{Products, Simd};
use crate::plan::{Options, Plan, Scheduled};
use crate::progress;
use crate::ranks::Communicator;
use crate::shape::DType;
use crate::sim::{self, Counters};
use std::ops::Range;
use std::sync::Arc;

/// What a run checks besides computing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checks {
    #[default]
    None,
    /// After each launch its outputs are looked through; the first NaN or infinity ends the run.
    Finite,
    /// Outputs are filled with NaN before each launch and guard bands are looked at after it. For tests: slow.
    Poison,
}

/// Values from outside, in their own element type.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    F32(&'a [f32]),
    /// Exact on the reference device, rounded once elsewhere.
    F64(&'a [f64]),
    U8(&'a [u8]),
    I32(&'a [i32]),
    U32(&'a [u32]),
}

impl Data<'_> {
    pub fn len(&self) -> usize {
        match self {
            Data::F32(x) => x.len(),
            Data::F64(x) => x.len(),
            Data::U8(x) => x.len(),
            Data::I32(x) => x.len(),
            Data::U32(x) => x.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Element `i` as a number.
    pub fn at(&self, i: usize) -> f64 {
        match self {
            Data::F32(x) => x[i] as f64,
            Data::F64(x) => x[i],
            Data::U8(x) => x[i] as f64,
            Data::I32(x) => x[i] as f64,
            Data::U32(x) => x[i] as f64,
        }
    }
}

/// One launch as it was measured.
pub struct Probe<'a> {
    /// Of the graph: the first one, when a launch computes several.
    pub node: usize,
    /// The layer: `object.conv1_1`.
    pub label: &'a str,
    /// The op: `conv.fprop`.
    pub name: &'static str,
    pub cost: crate::launch::Cost,
    /// No fast routine: the definition ran.
    pub definition: bool,
    pub seconds: f64,
    /// What the simulator counted.
    pub counted: Option<Counted>,
}

/// What a launch of a kernel did, by the simulator's count.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub kernel: &'static str,
    pub blocks: u64,
    pub counters: Counters,
}

/// Memory that somebody else keeps, and that nobody changes while it is shared: of a mapped file.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Where numbers that are read go; each is rounded to what it finds there.
#[derive(Debug)]
pub enum DataMut<'a> {
    F32(&'a mut [f32]),
    /// Exact on the reference device.
    F64(&'a mut [f64]),
}

impl DataMut<'_> {
    pub fn len(&self) -> usize {
        match self {
            DataMut::F32(x) => x.len(),
            DataMut::F64(x) => x.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills it from its beginning.
    pub(crate) fn fill(self, numbers: impl IntoIterator<Item = f64>) {
        match self {
            DataMut::F32(x) => x.iter_mut().zip(numbers).for_each(|(d, s)| *d = s as f32),
            DataMut::F64(x) => x.iter_mut().zip(numbers).for_each(|(d, s)| *d = s),
        }
    }
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct Spec {
    /// For people: `cpu (avx512, 2 threads)`.
    pub name: String,
    /// How plans for it are best made.
    pub options: Options,
    /// Where it runs kernels.
    pub gpu: Option<GpuSpec>,
}

/// What choices among kernels depend on.
#[derive(Clone, Debug)]
pub struct GpuSpec {
    /// Whose choices are kept together: `NVIDIA H100 80GB HBM3, sm_90a`.
    pub model: String,
    pub limits: Limits,
    /// Whether it has a clock to choose by: its seconds are those of a GPU.
    pub has_clock: bool,
}

/// Memory of a device in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Allocated for inputs, weights and state.
    pub persistent: usize,
    /// Allocated for temporaries and scratch.
    pub arena: usize,
    /// What can still be allocated of memory of its own; None where it uses the machine's.
    pub free: Option<usize>,
}

/// Storage for one graph and the means to run its plans. Every method that takes a value fails for one of another graph.
pub trait Device: Send {
    fn spec(&self) -> Spec;
    fn memory(&self) -> Usage;
    /// The launches that a plan becomes; none where it runs op by op.
    fn launches(&self, _g: &Graph, _plan: &Plan) -> Result<Vec<Scheduled>> {
        Ok(vec![])
    }
    /// Lets it do with the other ranks of a job what plans do together. To be called before [`Device::load`], which fails where a
    /// plan is for another number of ranks.
    fn connect(&mut self, _peers: Arc<dyn Communicator>) -> Result<()> {
        Err(Error::job(format!("{} does not compute with other ranks", self.spec().name)))
    }
    /// Bytes that [`Device::load`] would allocate.
    fn demand(&self, g: &Graph, plans: &[Plan]) -> Result<Demand>;
    /// Allocates once, prepares every plan. Fails for a plan of another graph. After a failure nothing is loaded.
    fn load(&mut self, g: &Graph, plans: &[Plan]) -> Result<()>;
    /// Sets a persistent value. Fails where there are more or fewer numbers than it has.
    fn write(&mut self, v: Value, data: Data) -> Result<()>;
    /// Lets a persistent value live in a read-only mapping, without a copy, where the device can do that and no plan
    /// updates the value; otherwise copies. True if it lives there. Fails where `range` is not as long as the value.
    fn bind(&mut self, v: Value, bytes: Bytes, range: Range<usize>) -> Result<bool>;
    /// Whether a value of float32 may be stored as `dtype` ([`Device::bind_as`]): where every routine that reads it makes
    /// float32 of it as it reads, and no plan updates it.
    fn takes(&self, _v: Value, _dtype: DType) -> bool {
        false
    }
    /// [`Device::bind`] to numbers of a type that it [`Device::takes`]. What is computed has the bits of the same numbers in
    /// float32.
    fn bind_as(&mut self, v: Value, dtype: DType, _bytes: Bytes, _range: Range<usize>) -> Result<()> {
        Err(Error::job(format!("value {} cannot be stored as {dtype:?} on {}", v.i(), self.spec().name)))
    }
    /// Reads a persistent value, or a wanted temporary of the plan that ran last, all of it.
    fn read(&self, v: Value, into: DataMut) -> Result<()>;
    /// What [`Device::read`] would copy, where a float32 value lies in this machine's memory.
    fn lend(&self, _v: Value) -> Option<&[f32]> {
        None
    }
    /// Runs one of the plans that were loaded. `probe` is called after each launch.
    fn run(&mut self, plan: usize, probe: Option<&mut dyn FnMut(Probe)>) -> Result<()>;
    /// Waits until everything that was asked for is done: a run may return before that.
    fn wait(&self) -> Result<()> {
        Ok(())
    }
    /// Measures what the device can do at most; None where that means nothing. What was loaded may be gone.
    fn ceilings(&mut self) -> Result<Option<Ceilings>> {
        Ok(None)
    }
}

impl dyn Device + '_ {
    /// [`Spec::name`]
    pub fn name(&self) -> String {
        self.spec().name
    }
    /// How plans for it are best made that multiply by `products`.
    pub fn options(&self, products: Products) -> Options {
        Options { products, ..self.spec().options }
    }
}

/// Names that [`open`] understands, for help texts.
pub const NAMES: &str = "auto, cpu, cuda, sim, reference";

/// A device by name; `threads` is None for all cores. `auto` is the best device there is.
pub fn open(name: &str, threads: Option<usize>) -> Result<Box<dyn Device>> {
    open_with(name, threads, Checks::None)
}

/// [`open`], with checks besides the computation.
pub fn open_with(name: &str, threads: Option<usize>, checks: Checks) -> Result<Box<dyn Device>> {
    open_tiled(name, threads, checks, None)
}

/// [`open_with`], and of a GPU with these `tiles` in place of those that were measured on its kind.
pub fn open_tiled(name: &str, threads: Option<usize>, checks: Checks, tiles: Option<Tiles>) -> Result<Box<dyn Device>> {
    match name {
        "auto" => match Cuda::new(0) {
            Ok(cuda) => Ok(tiled(cuda, checks, tiles)),
            Err(e) => {
                // Without a driver there is nothing to remark.
                if cuda::driver().is_ok() {
                    progress::watcher().note(&format!("computing on the CPU: {e}"));
                }
                open_with("cpu", threads, checks)
            }
        },
        "cpu" => Ok(Box::new(Cpu::with(Simd::detect(), threads, checks)?)),
        "sim" => {
            let options = sim::RunOptions { checks: true, ..sim::RunOptions::default() };
            Ok(tiled(Simulator::new(Simulator::TARGET, options)?, checks, tiles))
        }
        "reference" => Ok(Box::new(Reference::with(checks))),
        _ => match cuda_ordinal(name) {
            Some(ordinal) => Ok(tiled(Cuda::new(ordinal)?, checks, tiles)),
            None => Err(Error::usage(format!("unknown device `{name}`")).fix(format!("choose one of {NAMES}"))),
        },
    }
}

/// A GPU with `tiles`, or with those that were measured on its kind.
fn tiled(driver: impl gpu::Driver + 'static, checks: Checks, tiles: Option<Tiles>) -> Box<dyn Device> {
    let measured = || match tuning::TileTable::of(&driver.model()) {
        Ok(table) => table.map(tuning::TileTable::tiles),
        Err(e) => {
            progress::watcher().note(&format!("tiles by the rule: {e}"));
            None
        }
    };
    let tiles = tiles.or_else(measured).unwrap_or_default();
    Box::new(Gpu::new(driver, checks, tiles).with_trusted_warpgroups())
}

/// Refuses plans that are for another number of ranks than there are.
fn meant_for(g: &Graph, plans: &[Plan], ranks: usize) -> Result<()> {
    let nodes = plans.iter().flat_map(Plan::steps).flatten();
    let of = |node: &usize| Some(g.nodes()[*node].op.collective()?.ranks);
    match nodes.filter_map(of).find(|n| *n != ranks) {
        None => Ok(()),
        Some(n) => Err(Error::job(format!("a plan for {n} ranks, on a device that knows of {ranks}"))),
    }
}

/// `cuda` and `cuda:0` are the first GPU, `cuda:1` is the next.
pub fn cuda_ordinal(name: &str) -> Option<usize> {
    match name.strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    }
}
