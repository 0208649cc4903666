/*! The compiler of kernels: NVRTC, opened at run time if it is there. It needs neither a GPU nor a driver, and it runs its
assembler too: what compiles for an [`Target`] is what that GPU executes. Reference: NVRTC 13.0 documentation; options in
its section "Supported Compile Options". */

mod cache;
mod library;
mod log;
mod occupancy;
mod source;

pub use cache::{Cache, compile_all};
pub use library::not_in_the_current_folder;
pub use occupancy::{occupancy, resident, shared_memory};
pub use source::{fingerprint, sources, whole};

use crate::error::{Error, Result};
use crate::launch::gpu::Kernel;
use crate::shape::DType;
use library::{Failure, Nvrtc};
use source::KernelText;
use std::fmt;
use std::str::FromStr;

/// A version of NVRTC, and of the CUDA it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self { major: major.parse()?, minor: minor.parse()? })
    }
}

/// A GPU architecture that code is assembled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Ten times the compute capability.
    pub compute: u32,
    /// With the instructions that only this very architecture has (`sm_90a`): the code runs nowhere else.
    pub specific: bool,
}

impl Target {
    /// With the instructions that Hopper alone has: those of `kernels/sm90`.
    pub const HOPPER: Target = Target { compute: 90, specific: true };

    /// Everything the kernels are made for.
    pub const ALL: [Target; 7] = [
        Target::new(75),
        Target::new(80),
        Target::new(86),
        Target::new(89),
        Self::HOPPER,
        Target::new(100),
        Target::new(120),
    ];

    pub const fn new(compute: u32) -> Self {
        Self { compute, specific: false }
    }

    /// Whether its tensor cores multiply numbers of this type, float32 as tf32: those of Turing (7.5) know fp16 alone.
    pub fn multiplies(self, storage: DType) -> bool {
        self.compute >= if storage == DType::F16 { 75 } else { 80 }
    }

    /// The first NVRTC that compiles for it, of those that compile the kernels at all (CUDA release notes 12.0 and 12.8).
    pub fn since(self) -> Version {
        Version { major: 12, minor: if self.compute >= 100 { 8 } else { 0 } }
    }

    /// What a GPU of a compute capability (times ten) is given: code of its own architecture or of an earlier one with
    /// the same first digits; failing that, what an earlier one's PTX becomes when the driver translates it (true).
    pub fn of_device(compute: u32) -> (Self, bool) {
        let earlier = || Self::ALL.into_iter().rev().filter(|t| t.compute <= compute && !t.specific);
        let own = Self::ALL.into_iter().find(|t| t.compute == compute);
        let near = || own.or_else(|| earlier().find(|t| t.compute / 10 == compute / 10));
        match near() {
            Some(target) => (target, false),
            None => (earlier().next().unwrap_or(Self::ALL[0]), true),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "sm_{}{}", self.compute, if self.specific { "a" } else { "" })
    }
}

impl FromStr for Target {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let number = text.strip_prefix("sm_").unwrap_or(text);
        let compute = number.strip_suffix('a').unwrap_or(number).parse();
        let unknown = |_| Error::usage(format!("`{text}` is no architecture")).fix("write it like sm_89 or sm_90a");
        compute.map(|compute| Self { compute, specific: number.ends_with('a') }).map_err(unknown)
    }
}

/// One source with one choice of constants: what is compiled at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit {
    /// Path under `kernels/`.
    pub source: &'static str,
    pub defines: Vec<(&'static str, i64)>,
}

impl Unit {
    /// What holds `kernel`, for one of its variants.
    pub fn of(kernel: &Kernel, consts: &[i64]) -> Self {
        Self { source: kernel.source, defines: kernel.defines(consts) }
    }

    /// Whether an architecture has its instructions, and a block the shared memory.
    pub fn runs_on(&self, target: Target) -> bool {
        let shared = self.defines.iter().find(|d| d.0 == "SHARED").map_or(0, |d| d.1 as usize);
        if shared > shared_memory(target) || self.source.starts_with("sm90/") && target != Target::HOPPER {
            return false;
        }
        let products = |d: &DType| self.source.starts_with("mma/") && self.defines.contains(&("STORAGE", d.code()));
        [DType::F16, DType::BF16, DType::F32].iter().filter(|d| products(d)).all(|d| target.multiplies(*d))
    }
}

/// `dense.cu M=64 N=64 THREADS=256`.
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.source)?;
        self.defines.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// What one kernel takes on one architecture, by the assembler's word.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    /// The kernel's name.
    pub entry: String,
    /// Of a thread.
    pub registers: u32,
    /// Bytes of a block, declared in the source.
    pub shared: u32,
    /// Bytes of a thread.
    pub stack: u32,
    /// Bytes that a thread writes to memory because registers ran out.
    pub spill_stores: u32,
    pub spill_loads: u32,
    /// Of a block.
    pub barriers: u32,
}

/// A unit, compiled for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The ELF file that the driver loads.
    pub cubin: Vec<u8>,
    /// What the cubin was assembled from, with the lines of the source; for newer GPUs and for the simulator.
    pub ptx: String,
    /// By kernel.
    pub resources: Vec<Resources>,
    /// What compiler and assembler remarked, spills and lost performance included; none in a good kernel.
    pub warnings: Vec<String>,
}

impl Compiled {
    /// The CUDA of the NVRTC that made it, which the PTX says in its first lines.
    pub fn release(&self) -> Option<Version> {
        let (_, rest) = self.ptx.split_once("Cuda compilation tools, release ")?;
        rest.split_once(',')?.0.parse().ok()
    }
}

/// Tells of the driver whose CUDA code is compiled for: an NVRTC of the same major version is preferred then. The first call
/// of a process counts, if it comes before anything is compiled.
pub fn serve(driver: Version) {
    let _ = library::DRIVER.set(driver);
}

/// Whether a driver loads the code that a version of NVRTC assembles: it does for all of its own major version and of earlier
/// ones. PTX it translates from no later version than its own. (CUDA Compatibility, "Minor Version Compatibility".)
pub fn fits(nvrtc: Version, driver: Version) -> bool {
    nvrtc.major <= driver.major
}

/// What to install where the code of `nvrtc` and a driver do not fit.
pub fn mismatch(nvrtc: Version, driver: Version) -> String {
    format!(
        "this driver serves CUDA {driver} and the code is of NVRTC {nvrtc}: `pip install '{}'` and set DEEP_AFFECT_NVRTC, \
         or install a driver for CUDA {nvrtc}",
        library::wheel()
    )
}

/// The version of NVRTC, or what is missing and what to install.
pub fn available() -> Result<Version> {
    Nvrtc::get().map(|nvrtc| nvrtc.version)
}

/// Compiles a unit. An error names file and line and has the compiler's log.
pub fn compile(unit: &Unit, target: Target) -> Result<Compiled> {
    compile_source(unit, &KernelText::open(unit.source)?, target)
}

fn compile_source(unit: &Unit, source: &KernelText, target: Target) -> Result<Compiled> {
    if !unit.runs_on(target) {
        return Err(Error::job(format!("{target} does not support {unit}")).fix("use fp16 or float32"));
    }
    let nvrtc = Nvrtc::get()?;
    if nvrtc.version < target.since() {
        let (is, first) = (nvrtc.version, target.since());
        return Err(Error::job(format!("NVRTC {is} does not know {target}, which {first} is the first to know"))
            .fix(format!("`pip install '{}'` and set DEEP_AFFECT_NVRTC", library::wheel())));
    }
    let texts: Vec<_> = source.headers.iter().map(|(name, text)| (name, source.placed(name, text))).collect();
    let headers: Vec<_> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let text = source.placed(unit.source, &source.text);
    let output = nvrtc.compile(unit.source, &text, &headers, &options(unit, target));
    let output = output.map_err(|failure| match failure {
        Failure::Log(log) => {
            log::error(unit.source, &log.replace(&source.root, "")).fix(format!("this was {unit} for {target}"))
        }
        Failure::Code(code) => Error::job(format!("NVRTC cannot compile {unit} for {target}: its error {code}")),
    })?;
    let (resources, warnings) = log::read(&output.log.replace(&source.root, ""));
    // The simulator calls files by their names under `kernels/`.
    let ptx = output.ptx.replace(&format!("\"{}", source.root), "\"");
    Ok(Compiled { cubin: output.cubin, ptx, resources, warnings })
}

/// No fast mathematics: division, square root and denormal numbers are IEEE's, as on the CPU.
fn options(unit: &Unit, target: Target) -> Vec<String> {
    let fixed = [
        "-std=c++17",
        "-default-device",
        // Source lines in PTX and cubin: the simulator and the profilers name them. It does not change the code.
        "-lineinfo",
        "--ptxas-options=-v",
        "--ptxas-options=--warn-on-spills",
    ];
    let defines = unit.defines.iter().map(|(name, value)| format!("--define-macro={name}={value}"));
    let architecture = format!("--gpu-architecture={target}");
    std::iter::once(architecture).chain(fixed.map(String::from)).chain(defines).collect()
}

#[cfg(test)]
mod tests;
