/*! CUDA as a [`Driver`]: one allocation and one stream of one GPU, and where there are other ranks a second stream, on which NCCL
exchanges values with them. Everything is asked for in the order of the stream, and only reading waits. From its second run on a plan is replayed as one graph: its launches never change, because what does
change is data. A driver that does not record is given them one by one. Reference: CUDA Driver API 13.0; of it only functions
that drivers of CUDA 12.0 have. */

mod card;
mod nccl;
mod nvtx;

pub use card::{Card, cards, driver};

use super::gpu::{Driver, Span, Step, StepTime, Work};
use super::trial;
use crate::error::{Error, Result, option};
use crate::launch::estimate::Limits;
use crate::launch::gpu::Call;
use crate::nvrtc::{self, Cache, Compiled, Target, Unit};
use crate::progress;
use crate::ranks::{Communicator, Peers};
use card::failed;
use cudarc::driver::result::{self, DriverError, event, graph, module, stream};
use cudarc::driver::sys;
use nccl::{Message, Nccl};
use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

/// `0` sends every launch of every run by itself.
const GRAPHS: &str = "DEEP_AFFECT_GRAPHS";

/// Bytes of one of the two staging buffers.
const STAGING: usize = 8 << 20;

/// How long a look lasts whether the GPU is done, where other ranks may be lost meanwhile.
const LOOK: Duration = Duration::from_micros(20);

/// Bytes of shared memory that every kernel may ask for.
const DEFAULT_SHARED: u32 = 48 << 10;
const MOST_SHARED: sys::CUfunction_attribute =
    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

/// What a driver says of code that a later one would load.
const TOO_NEW: [sys::CUresult; 4] = [
    sys::CUresult::CUDA_ERROR_INVALID_IMAGE,
    sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
    sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
    sys::CUresult::CUDA_ERROR_INVALID_SOURCE,
];

/// A GPU with what it holds.
pub struct Cuda {
    card: Card,
    target: Target,
    /// The driver translates PTX, because no architecture of [`Target::ALL`] runs on this GPU as it is.
    translate: bool,
    /// Whether plans are recorded; not any more once that has failed.
    graphs: bool,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Around a measured launch.
    events: [sys::CUevent; 2],
    staging: [Staging; 2],
    /// The staging buffer that is filled next.
    next: usize,
    arena: sys::CUdeviceptr,
    bytes: usize,
    modules: Vec<sys::CUmodule>,
    plans: Vec<Recorded>,
    peers: Peers,
    nccl: Option<Nccl>,
}

/// A pinned buffer, and the event after which it may be filled again.
#[derive(Clone, Copy)]
struct Staging {
    at: *mut u8,
    free: sys::CUevent,
}

/// A plan as the driver takes it.
struct Recorded {
    launches: Vec<Launch>,
    /// Whether it ran: the second run records, so that the first one's errors have a name.
    ran: bool,
    graph: Option<sys::CUgraphExec>,
}

struct Launch {
    label: String,
    /// [`Launch::label`] for a profiler.
    range: CString,
    /// How many of the plan's collectives it waits for.
    awaited: usize,
    work: Sent,
}

enum Sent {
    Kernel(Kernel),
    /// What all ranks do together.
    Collective(Vec<Message>),
}

struct Kernel {
    function: sys::CUfunction,
    grid: [u32; 3],
    threads: u32,
    /// Bytes for each block, besides what the kernel declares.
    shared: u32,
    params: Vec<u8>,
}

// SAFETY: handles of the driver belong to a process, not to a thread; each method makes the context current first.
unsafe impl Send for Cuda {}

impl Cuda {
    /// Takes hold of a GPU. Fails where driver, GPU or anything to compile with are missing.
    pub fn new(ordinal: usize) -> Result<Self> {
        let card = Card::find(ordinal)?;
        let (target, translate) = Target::of_device(card.compute);
        if Cache::open().entries() == 0 {
            nvrtc::available()?;
        }
        let graphs = env::var_os(GRAPHS).is_none_or(|v| v != "0");
        // SAFETY: a device that the driver has given. Released when this is dropped.
        let context = unsafe { result::primary_ctx::retain(card.device) }.map_err(failed("taking hold of the GPU"))?;
        // From here on dropping gives back what there is, so that no error loses anything.
        let mut cuda = Self {
            card,
            target,
            translate,
            graphs,
            context,
            stream: null_mut(),
            events: [null_mut(); 2],
            staging: [Staging { at: null_mut(), free: null_mut() }; 2],
            next: 0,
            arena: 0,
            bytes: 0,
            modules: vec![],
            plans: vec![],
            peers: None,
            nccl: None,
        };
        cuda.bind()?;
        cuda.prepare().map_err(failed("preparing the GPU"))?;
        Ok(cuda)
    }

    fn prepare(&mut self) -> Result<(), DriverError> {
        self.stream = stream::create(stream::StreamKind::NonBlocking)?;
        for event in &mut self.events {
            *event = event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        }
        for staging in &mut self.staging {
            staging.free = event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            // SAFETY: freed once, when this is dropped.
            staging.at = unsafe { result::malloc_host(STAGING, 0) }?.cast();
        }
        Ok(())
    }

    /// Makes the context that of this thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: retained until this is dropped.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("using the GPU"))
    }

    /// Waits for everything; errors of launches that nobody waited for come out here, and so does the loss of another rank.
    fn settle(&self, what: &str) -> Result<()> {
        if let (Some(peers), Some(_)) = (&self.peers, &self.nccl) {
            // A collective that a rank does not come to would be waited for for ever.
            // SAFETY: the stream lives until this is dropped.
            while unsafe { sys::cuStreamQuery(self.stream) } == sys::CUresult::CUDA_ERROR_NOT_READY {
                peers.alive()?;
                std::thread::sleep(LOOK);
            }
        }
        // SAFETY: the stream lives until this is dropped.
        unsafe { stream::synchronize(self.stream) }
            .map_err(|e| failed(what)(e).fix(format!("CUDA_LAUNCH_BLOCKING=1 {GRAPHS}=0 names the launch that failed")))
    }

    /// Gives back plans and memory.
    fn unload(&mut self) {
        for plan in self.plans.drain(..) {
            if let Some(exec) = plan.graph {
                // SAFETY: made by `record`, destroyed once. Errors here and below repeat those of the work before.
                let _ = unsafe { graph::exec_destroy(exec) };
            }
        }
        for m in self.modules.drain(..) {
            // SAFETY: loaded by `functions`, unloaded once; nothing of it runs, because the stream was waited for.
            let _ = unsafe { module::unload(m) };
        }
        if self.arena != 0 {
            // SAFETY: allocated by `load`, freed once.
            let _ = unsafe { result::free_sync(self.arena) };
            (self.arena, self.bytes) = (0, 0);
        }
    }

    /// What the steps call, compiled and loaded: by unit, the handle of its module.
    fn load_modules(&mut self, units: Vec<Unit>) -> Result<BTreeMap<Unit, sys::CUmodule>> {
        let compiled = nvrtc::compile_all(&units, self.target, &Cache::open())?;
        let mut modules = BTreeMap::new();
        for (unit, compiled) in units.into_iter().zip(compiled) {
            let module = self.load_module(&unit, &compiled)?;
            self.modules.push(module);
            modules.insert(unit, module);
        }
        Ok(modules)
    }

    /// The code of a unit; where the driver does not take it, its PTX, which the driver translates.
    fn load_module(&self, unit: &Unit, compiled: &Compiled) -> Result<sys::CUmodule> {
        // SAFETY: an ELF file, or below text that ends with zero; the driver copies it.
        let load = |image: *const c_void| unsafe { module::load_data(image) };
        if !self.translate {
            match load(compiled.cubin.as_ptr().cast()) {
                Err(DriverError(code)) if TOO_NEW.contains(&code) => {}
                loaded => return loaded.map_err(failed(format!("loading {unit} for {}", self.target))),
            }
        }
        let ptx = CString::new(compiled.ptx.as_str()).map_err(|_| Error::job("PTX with a zero byte"))?;
        load(ptx.as_ptr().cast()).map_err(|DriverError(code)| {
            let failure = failed(format!("translating {unit} for {}", self.target))(DriverError(code));
            match (TOO_NEW.contains(&code), card::driver(), compiled.release()) {
                (true, Ok(driver), Some(release)) => failure.fix(nvrtc::mismatch(release, driver)),
                _ => failure,
            }
        })
    }

    /// Allocates the arena, zeroed, unless there is too little memory.
    fn allocate(&mut self, bytes: usize) -> Result<()> {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let (free, total) = result::mem_get_info().map_err(failed("asking for free memory"))?;
        if bytes > free {
            let (needed, free, total) = (mib(bytes), free >> 20, total >> 20);
            return Err(Error::job(format!(
                "{needed} MiB of GPU memory are needed, and {free} of {total} MiB are free"
            ))
            .fix(format!(
                "lower {} or {}, or raise {}; `deep-affect plan` shows what a choice needs",
                option("batch"),
                option("image"),
                option("width")
            )));
        }
        let doing = || format!("allocating {} MiB on the GPU", mib(bytes));
        // SAFETY: freed by `unload`; filled below before anything reads it. CUDA refuses to allocate nothing.
        self.arena = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(failed(doing()))?;
        self.bytes = bytes;
        // SAFETY: the allocation has so many bytes.
        unsafe { result::memset_d8_async(self.arena, 0, bytes.max(1), self.stream) }.map_err(failed(doing()))
    }

    fn launch(&self, launch: &Launch, kernel: &Kernel) -> Result<()> {
        let Kernel { function, grid, threads, shared, params } = kernel;
        let mut size = params.len();
        // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END.
        let mut extra: [*mut c_void; 5] = [
            sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize as _,
            params.as_ptr().cast_mut().cast(),
            sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize as _,
            (&raw mut size).cast(),
            sys::CU_LAUNCH_PARAM_END_AS_INT as usize as _,
        ];
        // SAFETY: the function is in a loaded module; the parameters are those that its source declares and are copied;
        // every address in them is that of an operand inside the arena (`load`).
        unsafe {
            sys::cuLaunchKernel(
                *function,
                grid[0],
                grid[1],
                grid[2],
                *threads,
                1,
                1,
                *shared,
                self.stream,
                null_mut(),
                extra.as_mut_ptr(),
            )
        }
        .result()
        .map_err(|e| failed(&*launch.label)(e))
    }

    /// [`Cuda::launch`] under the name of its layer, which a recording would not keep.
    fn named(&self, launch: &Launch, kernel: &Kernel) -> Result<()> {
        let _range = nvtx::Range::new(&launch.range);
        self.launch(launch, kernel)
    }

    /// Sends the launches of a plan, kernels by `kernel`. Collectives go on beside the kernels after them, as far as these may.
    fn send(&self, plan: &Recorded, kernel: impl Fn(&Self, &Launch, &Kernel) -> Result<()>) -> Result<()> {
        let (mut begun, mut awaited) = (0, 0);
        for launch in &plan.launches {
            if launch.awaited > awaited {
                awaited = launch.awaited;
                self.await_collectives(awaited)?;
            }
            match &launch.work {
                Sent::Kernel(k) => kernel(self, launch, k)?,
                Sent::Collective(messages) => {
                    self.exchange(begun, messages)?;
                    begun += 1;
                }
            }
        }
        // A run ends with its collectives.
        if begun > awaited { self.await_collectives(begun) } else { Ok(()) }
    }

    /// Begins a plan's collective of this place among its collectives.
    fn exchange(&self, place: usize, messages: &[Message]) -> Result<()> {
        let Some(nccl) = &self.nccl else { return Ok(()) };
        // SAFETY: parts of windows of the arena (`load`); whatever touches these waits for the collective ([`Step::awaited`]).
        unsafe { nccl.exchange(place, messages, self.stream) }
    }

    /// Lets what follows wait for the first `n` collectives of a plan.
    fn await_collectives(&self, n: usize) -> Result<()> {
        self.nccl.as_ref().map_or(Ok(()), |nccl| nccl.await_one(n - 1, self.stream))
    }

    /// All launches of a plan as one graph.
    fn record(&self, plan: &Recorded) -> Result<sys::CUgraphExec> {
        let doing = "recording a plan as a graph";
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours, and nothing but the launches happens until the capture ends.
        unsafe { stream::begin_capture(self.stream, mode) }.map_err(failed(doing))?;
        let launched = self.send(plan, Self::launch);
        // SAFETY: as above. A failed launch ends the capture too, or the stream could not be used again.
        let captured = unsafe { stream::end_capture(self.stream) };
        launched?;
        let captured = captured.map_err(failed(doing))?;
        // SAFETY: the graph has just been made, and is not needed once there is something executable of it.
        unsafe {
            let exec = graph::instantiate(captured, sys::CUgraphInstantiate_flags(0));
            let _ = graph::destroy(captured);
            exec.map_err(failed(doing))
        }
    }
}

impl Driver for Cuda {
    fn name(&self) -> String {
        let Card { ordinal, name, compute, .. } = &self.card;
        format!("cuda:{ordinal} ({name}, sm_{compute})")
    }

    fn target(&self) -> Target {
        self.target
    }

    fn model(&self) -> String {
        format!("{}, {}", self.card.name, self.target)
    }

    fn limits(&self) -> Limits {
        let shared = nvrtc::shared_memory(self.target);
        Limits { multiprocessors: self.card.multiprocessors, shared, ..Limits::default() }
    }

    fn has_clock(&self) -> bool {
        true
    }

    fn trusts_warpgroups(&self) -> bool {
        self.target == Target::HOPPER && trial::trusted(self.card.ordinal, &self.model())
    }

    fn free(&self) -> Option<usize> {
        self.bind().ok()?;
        result::mem_get_info().ok().map(|(free, _)| free)
    }

    fn connect(&mut self, peers: Arc<dyn Communicator>) -> Result<()> {
        self.bind()?;
        if peers.ranks() > 1 {
            self.nccl = Some(Nccl::meet(&*peers)?);
        }
        self.peers = Some(peers);
        Ok(())
    }

    fn load(&mut self, bytes: usize, plans: Vec<Vec<Step>>) -> Result<()> {
        plans.iter().flatten().try_for_each(|step| step.within(bytes))?;
        self.bind()?;
        self.settle("the work before")?;
        self.unload();
        let unit = |call: &Call| Unit::of(call.kernel, call.consts);
        let mut units: Vec<Unit> = plans.iter().flatten().filter_map(Step::call).map(unit).collect();
        units.sort();
        units.dedup();
        let modules = self.load_modules(units)?;
        self.allocate(bytes)?;
        let kernel = |step: &Step, call: &Call| -> Result<Kernel> {
            let entry = CString::new(call.kernel.entry).expect("a name of C");
            // SAFETY: loaded above, unloaded with the plans.
            let function = unsafe { module::get_function(modules[&unit(call)], entry) };
            let function = function.map_err(|e| failed(format!("finding {}", call.kernel.entry))(e))?;
            let shared = call.kernel.shared(call.consts);
            if shared > DEFAULT_SHARED {
                // SAFETY: the function was found above; the number bounds what its launches may ask for.
                unsafe { result::function::set_function_attribute(function, MOST_SHARED, shared as i32) }
                    .map_err(failed(format!("giving {shared} bytes of shared memory to {}", call.kernel.entry)))?;
            }
            let (grid, threads) = (step.grid(), call.kernel.threads);
            let params = step.params(self.arena, card::tensor_map)?;
            Ok(Kernel { function, grid, threads, shared, params })
        };
        let launch = |step: Step| {
            let work = match &step.work {
                Work::Kernel(call) => Sent::Kernel(kernel(&step, call)?),
                Work::Collective(c) => {
                    let value = |w: &Span| (self.arena + w.at as u64, w.bytes / size_of::<f32>());
                    let values: Vec<_> = step.windows.iter().flatten().map(value).collect();
                    Sent::Collective(Message::all(*c, &values))
                }
            };
            let range = CString::new(step.label.as_str()).unwrap_or_default();
            Ok(Launch { work, range, awaited: step.awaited, label: step.label })
        };
        let recorded = |plan: Vec<Step>| {
            let launches = plan.into_iter().map(launch).collect::<Result<_>>()?;
            Ok(Recorded { launches, ran: false, graph: None })
        };
        self.plans = plans.into_iter().map(recorded).collect::<Result<_>>()?;
        let collectives = |p: &Recorded| p.launches.iter().filter(|l| matches!(l.work, Sent::Collective(_))).count();
        let most = self.plans.iter().map(collectives).max().unwrap_or(0);
        self.nccl.as_mut().map_or(Ok(()), |nccl| nccl.expect(most))
    }

    /// Copies into one of two pinned buffers, from which the GPU fetches while the other is filled.
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        assert!(at <= self.bytes && bytes.len() <= self.bytes - at, "a window of the arena");
        self.bind()?;
        for (i, piece) in bytes.chunks(STAGING).enumerate() {
            let Staging { at: buffer, free } = self.staging[self.next];
            self.next ^= 1;
            let to = self.arena + (at + i * STAGING) as u64;
            let copied = || {
                // SAFETY: the event says that the GPU has fetched what was in the buffer before, and the buffer has room
                // for a piece; the piece's place in the arena was checked above.
                unsafe {
                    event::synchronize(free)?;
                    std::ptr::copy_nonoverlapping(piece.as_ptr(), buffer, piece.len());
                    let pinned = std::slice::from_raw_parts(buffer, piece.len());
                    result::memcpy_htod_async(to, pinned, self.stream)?;
                    event::record(free, self.stream)
                }
            };
            copied().map_err(failed("copying to the GPU"))?;
        }
        Ok(())
    }

    fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        assert!(at <= self.bytes && into.len() <= self.bytes - at, "a window of the arena");
        self.bind()?;
        // SAFETY: inside the arena; `into` outlives the wait.
        unsafe { result::memcpy_dtoh_async(into, self.arena + at as u64, self.stream) }
            .map_err(failed("copying from the GPU"))?;
        self.settle("the work on the GPU")
    }

    fn run(&mut self, plan: usize) -> Result<()> {
        self.bind()?;
        let recorded = &self.plans[plan];
        if self.graphs && recorded.ran && recorded.graph.is_none() && !recorded.launches.is_empty() {
            match self.record(recorded) {
                Ok(graph) => self.plans[plan].graph = Some(graph),
                Err(e) => {
                    // Slower, and the same numbers. An error of the work itself comes back from the launches below.
                    self.graphs = false;
                    progress::watcher().note(&format!("launches are sent one by one: {e}"));
                }
            }
        }
        self.plans[plan].ran = true;
        match &self.plans[plan].graph {
            // SAFETY: recorded for this stream; the arena it refers to lives as long as it.
            Some(exec) => unsafe { graph::launch(*exec, self.stream) }.map_err(failed("replaying a plan")),
            None => self.send(&self.plans[plan], Self::named),
        }
    }

    fn wait(&self) -> Result<()> {
        self.bind()?;
        self.settle("the work on the GPU")
    }

    fn step(&mut self, plan: usize, step: usize) -> Result<StepTime> {
        self.bind()?;
        let launch = &self.plans[plan].launches[step];
        let [start, end] = self.events;
        let named = |e| failed(&*launch.label)(e);
        // SAFETY: the events and the stream live until this is dropped.
        unsafe { event::record(start, self.stream) }.map_err(named)?;
        match &launch.work {
            Sent::Kernel(kernel) => self.named(launch, kernel)?,
            Sent::Collective(messages) => {
                self.exchange(0, messages)?;
                self.await_collectives(1)?;
            }
        }
        // SAFETY: as above; the time is asked for after both have happened.
        let milliseconds = unsafe {
            event::record(end, self.stream).map_err(named)?;
            event::synchronize(end).map_err(named)?;
            card::elapsed(start, end).map_err(named)?
        };
        Ok(StepTime { seconds: milliseconds as f64 / 1e3, counted: None })
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            if self.settle("the work before").is_err() {
                // Without the ranks that it waits for no collective ends by itself.
                self.nccl = None;
                let _ = self.settle("the work before");
            }
            self.unload();
            self.nccl = None;
            // SAFETY: each was made by `new` and is given back once; null where `new` did not come so far.
            unsafe {
                for staging in self.staging {
                    if !staging.at.is_null() {
                        let _ = result::free_host(staging.at.cast());
                    }
                }
                let events = self.events.into_iter().chain(self.staging.map(|s| s.free));
                for event in events.filter(|e| !e.is_null()) {
                    let _ = event::destroy(event);
                }
                if !self.stream.is_null() {
                    let _ = stream::destroy(self.stream);
                }
            }
        }
        // SAFETY: retained by `new`, released once.
        let _ = unsafe { result::primary_ctx::release(self.card.device) };
    }
}
