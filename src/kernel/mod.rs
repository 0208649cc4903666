/*! Floor 1: what a launch is. Plain data about one piece of work on a device: which code, which buffers, what it costs.

An op is lowered to launches for one [`Arch`]. On the host the code is a Rust closure over slices of the planned arena, on a
GPU the call of a kernel; plan, profiler and tests see one kind of list. */

pub mod choices;
pub mod estimate;
pub mod gpu;
pub mod half;

pub use choices::{Choices, Products};

use bytemuck::Pod;
use std::sync::Arc;

/// Vector instructions of a host, found at run time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Simd {
    /// Whatever the compiler's baseline offers.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F.
    Avx512,
}

impl Simd {
    /// Every level this machine can run, best last.
    pub fn available() -> Vec<Simd> {
        #[allow(unused_mut)]
        let mut levels = vec![Simd::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Simd::Avx2);
                if is_x86_feature_detected!("avx512f") {
                    levels.push(Simd::Avx512);
                }
            }
        }
        levels
    }
    /// The best level this machine can run.
    pub fn detect() -> Simd {
        *Self::available().last().expect("portable is always there")
    }
}

/// What a launch is made for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Arch<'a> {
    Host(Simd),
    Gpu(&'a Choices),
}

/// Work and least possible memory traffic of one launch: the roofline model.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Cost {
    /// Floating-point operations, two per multiply-add.
    pub flops: f64,
    /// Bytes that must be read.
    pub read: f64,
    /// Bytes that must be written.
    pub write: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, o: Self) {
        self.flops += o.flops;
        self.read += o.read;
        self.write += o.write;
    }
}

/// The storage of one value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Buf(pub u32);

/// One piece of work on one device.
#[derive(Clone)]
pub struct Launch {
    /// The op's name: `conv.fprop`.
    pub name: &'static str,
    /// The first op instance it computes, of those that were lowered together.
    pub member: usize,
    pub code: Code,
    pub ins: Vec<Buf>,
    pub outs: Vec<Buf>,
    /// Bytes of scratch memory it needs; contents are undefined when it starts.
    pub scratch: usize,
    pub cost: Cost,
}

/// What a launch runs.
#[derive(Clone)]
pub enum Code {
    /// A fast host routine.
    Host(Routine),
    /// The op's float64 definition, because there is no routine for this arch. The profiler says so.
    Definition(Routine),
    /// A kernel of a GPU.
    Kernel(gpu::Call),
}

/// A host routine: reads and writes only what its [`Host`] hands out.
pub type Routine = Arc<dyn Fn(&Host) + Send + Sync>;

/// A typed window of the arena, handed to a routine.
#[derive(Clone, Copy)]
pub struct Slot {
    at: *mut u8,
    bytes: usize,
}

// SAFETY: a slot is only an address; the `Host` that holds it decides who may read or write.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// # Safety
    /// `at` must be valid for reads and writes of `bytes` bytes while the slot is used, and aligned to 64 bytes unless
    /// it is a read-only mapping.
    pub unsafe fn new(at: *mut u8, bytes: usize) -> Self {
        Self { at, bytes }
    }
}

/// The operands of one launch. The plan guarantees that outputs overlap neither each other nor any input, except an
/// input that the op declares as the same storage ([`crate::graph::Op::alias`]): that one is read through the output.
pub struct Host {
    ins: Vec<Slot>,
    outs: Vec<Slot>,
    scratch: Slot,
    aliased: Vec<usize>,
}

impl Host {
    /// # Safety
    /// The slots must be as the plan promises: outputs disjoint from everything but the inputs listed in `aliased`.
    pub unsafe fn new(ins: Vec<Slot>, outs: Vec<Slot>, scratch: Slot, aliased: Vec<usize>) -> Self {
        Self { ins, outs, scratch, aliased }
    }
    /// Input `i`. Panics for an input that shares its storage with an output: read it through [`Host::output`].
    pub fn input<T: Pod>(&self, i: usize) -> &[T] {
        assert!(!self.aliased.contains(&i), "input {i} is updated in place: read it through its output");
        let s = self.ins[i];
        debug_assert!((s.at as usize).is_multiple_of(align_of::<T>()));
        // SAFETY: the slot is valid (Slot::new) and nothing writes it during this launch (Host::new).
        unsafe { std::slice::from_raw_parts(s.at as *const T, s.bytes / size_of::<T>()) }
    }
    /// Output `i`. A routine takes each output once.
    #[allow(clippy::mut_from_ref)] // Disjointness is the plan's promise, not the borrow checker's: see Host::new.
    pub fn output<T: Pod>(&self, i: usize) -> &mut [T] {
        Self::exclusive(self.outs[i])
    }
    /// The scratch memory this launch asked for. A routine takes it once.
    #[allow(clippy::mut_from_ref)] // As for outputs.
    pub fn scratch<T: Pod>(&self) -> &mut [T] {
        Self::exclusive(self.scratch)
    }
    fn exclusive<'a, T: Pod>(s: Slot) -> &'a mut [T] {
        debug_assert!((s.at as usize).is_multiple_of(align_of::<T>()));
        // SAFETY: the slot is valid (Slot::new), disjoint from every other (Host::new), and taken once per launch.
        unsafe { std::slice::from_raw_parts_mut(s.at as *mut T, s.bytes / size_of::<T>()) }
    }
}
