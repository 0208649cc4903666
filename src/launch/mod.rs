/*! Floor 1: what a launch is. Plain data about one piece of work on a device: which code, which buffers, what it costs.

An op is lowered to launches for one [`Arch`]. On the host the code is a Rust closure over slices of the planned arena, on a
GPU the call of a kernel; plan, profiler and tests see one kind of list. */

pub mod choices;
pub mod estimate;
pub mod gpu;
pub mod half;
pub mod links;
pub mod tensor_map;

pub use choices::{Choices, Products, Warpgroups};

use crate::error::{Error, Result};
use crate::shape::DType;
use bytemuck::Pod;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Vector instructions that this machine has. Only [`Simd::available`] makes one of a level above the baseline, so that
/// routines may use its instructions without asking.
///
/// ```compile_fail
/// use deep_affect::launch::{Level, Simd};
/// let wish = Simd(Level::Avx512);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Simd(Level);

/// Levels of vector instructions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Level {
    /// Whatever the compiler's baseline offers.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F.
    Avx512,
}

impl std::fmt::Debug for Simd {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Simd {
    /// What runs everywhere.
    pub const PORTABLE: Simd = Simd(Level::Portable);

    pub fn level(self) -> Level {
        self.0
    }
    /// Every level this machine can run, best last.
    pub fn available() -> Vec<Simd> {
        #[allow(unused_mut)]
        let mut levels = vec![Simd::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            // Every processor with AVX2 has F16C, which is a flag of its own.
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                levels.push(Simd(Level::Avx2));
                if is_x86_feature_detected!("avx512f") {
                    levels.push(Simd(Level::Avx512));
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
    /// What all ranks do together. The device does it, with whoever it is connected with ([`crate::ranks`]).
    Collective(Collective),
}

/// What the ranks of a job do together with the launch's buffers, in place. It may go on beside the launches after it; a device
/// waits for it before any of them that touches one of its buffers, and before a run ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Collective {
    pub exchange: Exchange,
    /// Which values: every rank comes to the same ones in the same order.
    pub bucket: u32,
    /// How many ranks take part. With one there is nothing to do.
    pub ranks: usize,
}

/// How ranks exchange a bucket of values. Each rank has a share of it ([`crate::ranks::shares`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exchange {
    /// Every number becomes the sum of what the ranks have there, on all ranks.
    AllReduce,
    /// The numbers of a rank's share do; all others stay as they are.
    ReduceScatter,
    /// Every number becomes what the rank has there in whose share it is. After [`Exchange::ReduceScatter`] that is
    /// [`Exchange::AllReduce`].
    AllGather,
}

/// A host routine: reads and writes only what its [`Operands`] hands out.
pub type Routine = Arc<dyn Fn(&Operands) + Send + Sync>;

/// A piece of memory: an address and nothing more. The [`Operands`] that holds it says who may read or write.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    at: *mut u8,
    bytes: usize,
    writable: bool,
    stored: Option<DType>,
}

// SAFETY: whoever dereferences the address promises that it may ([`Operands::new`]).
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// Memory to be read and written.
    pub fn new(at: *mut u8, bytes: usize) -> Self {
        Self { at, bytes, writable: true, stored: None }
    }
    /// Memory to be read.
    pub fn read_only(bytes: &[u8]) -> Self {
        Self { at: bytes.as_ptr().cast_mut(), bytes: bytes.len(), writable: false, stored: None }
    }
    /// The same, holding numbers of another type than those of its value.
    pub fn stored_as(self, stored: DType) -> Self {
        Self { stored: Some(stored), ..self }
    }
    /// `bytes` bytes of it, from `at` on; None where it has fewer.
    pub fn part(self, at: usize, bytes: usize) -> Option<Self> {
        let inside = at.checked_add(bytes).is_some_and(|to| to <= self.bytes);
        inside.then(|| Self { at: self.at.wrapping_add(at), bytes, ..self })
    }
    fn touches(&self, other: &Slot) -> bool {
        let (a, b) = (self.at as usize, other.at as usize);
        a < b + other.bytes && b < a + self.bytes && self.bytes.min(other.bytes) > 0
    }
}

/// The operands of one launch. An input that an op declares as the storage of an output ([`crate::graph::Description::in_place`]) is
/// read through the output.
pub struct Operands {
    ins: Vec<Slot>,
    outs: Vec<Slot>,
    scratch: Slot,
    aliased: Vec<usize>,
    /// Whether a routine holds it: each output, and last the scratch memory.
    taken: Vec<AtomicBool>,
}

impl Operands {
    /// Fails where outputs and scratch memory are not apart from each other and from every input but those in `aliased`, and
    /// where one of them may not be written.
    ///
    /// # Safety
    /// While a routine is run on this, every slot must be valid for reads, and for writes if it is an output or the scratch
    /// memory, and nothing else may write the inputs or touch the others.
    pub unsafe fn new(ins: Vec<Slot>, outs: Vec<Slot>, scratch: Slot, aliased: Vec<usize>) -> Result<Self> {
        let written = || outs.iter().chain([&scratch]);
        let read = ins.iter().enumerate().filter(|(i, _)| !aliased.contains(i)).map(|(_, s)| s);
        let shared = |(o, slot): (usize, &Slot)| written().skip(o + 1).chain(read.clone()).any(|s| s.touches(slot));
        if written().any(|s| !s.writable) || written().enumerate().any(shared) {
            return Err(Error::job("what it writes is not its own"));
        }
        let taken = written().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { ins, outs, scratch, aliased, taken })
    }
    /// Runs a routine on these operands.
    pub fn run(&mut self, routine: &Routine) {
        self.with(|operands| routine(operands))
    }
    /// [`Operands::run`] of what is known nowhere else.
    pub fn with<R>(&mut self, work: impl FnOnce(&Self) -> R) -> R {
        // What a routine before it was handed was borrowed from this, and is no longer held.
        self.taken.iter_mut().for_each(|t| *t.get_mut() = false);
        work(self)
    }
    /// All outputs; they are taken by that.
    pub fn outputs<T: Pod>(&self) -> Vec<&mut [T]> {
        (0..self.outs.len()).map(|i| self.output(i)).collect()
    }
    /// Whether one of the two touches memory that the other touches too, to read or to write.
    pub fn meets(&self, other: &Operands) -> bool {
        let all = |o: &Self| o.ins.iter().chain(&o.outs).chain([&o.scratch]).copied().collect::<Vec<_>>();
        let others = all(other);
        all(self).iter().any(|slot| others.iter().any(|o| slot.touches(o)))
    }
    /// Input `i`. Panics for an input that shares its storage with an output: read it through [`Operands::output`].
    pub fn input<T: Pod>(&self, i: usize) -> &[T] {
        assert!(!self.aliased.contains(&i), "input {i} is updated in place: read it through its output");
        let s = self.ins[i];
        assert!((s.at as usize).is_multiple_of(align_of::<T>()));
        // SAFETY: the slot can be read and nothing writes it during this launch (Operands::new); it is aligned, and any bits are
        // a T.
        unsafe { std::slice::from_raw_parts(s.at as *const T, s.bytes / size_of::<T>()) }
    }
    /// The type of the numbers of input `i` where it is another than that of its value: only of inputs in
    /// [`crate::graph::Description::narrow`].
    pub fn stored_as(&self, i: usize) -> Option<DType> {
        self.ins[i].stored
    }
    /// Output `i`. A routine takes each output once: it panics the second time.
    #[allow(clippy::mut_from_ref)] // Each slot is handed out once: see `take`.
    pub fn output<T: Pod>(&self, i: usize) -> &mut [T] {
        self.take(i, self.outs[i])
    }
    /// The scratch memory this launch asked for. A routine takes it once: it panics the second time.
    #[allow(clippy::mut_from_ref)] // As for outputs.
    pub fn scratch<T: Pod>(&self) -> &mut [T] {
        self.take(self.outs.len(), self.scratch)
    }
    #[allow(clippy::mut_from_ref)] // As for outputs.
    fn take<T: Pod>(&self, i: usize, s: Slot) -> &mut [T] {
        assert!(!self.taken[i].swap(true, Ordering::Relaxed), "slot {i} is taken a second time");
        assert!((s.at as usize).is_multiple_of(align_of::<T>()));
        // SAFETY: the slot can be written and is apart from every other (Operands::new); it is handed out once, to a borrower of
        // this (the flag above; `run` clears it when nobody borrows); it is aligned, and any bits are a T.
        unsafe { std::slice::from_raw_parts_mut(s.at as *mut T, s.bytes / size_of::<T>()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(bytes: &mut [u64]) -> Slot {
        Slot::new(bytes.as_mut_ptr().cast(), size_of_val(bytes))
    }

    /// SAFETY of every block here: the slots are those of arrays that live on.
    fn host(ins: Vec<Slot>, outs: Vec<Slot>, scratch: Slot, aliased: Vec<usize>) -> Result<Operands> {
        // SAFETY: as above.
        unsafe { Operands::new(ins, outs, scratch, aliased) }
    }

    #[test]
    fn what_is_written_is_apart_from_all_else() {
        let (mut a, mut b, mut c) = ([1u64; 4], [2u64; 4], [3u64; 4]);
        let read = Slot::read_only(bytemuck::bytes_of(&[4u64; 4]));
        let [a, b, c] = [&mut a, &mut b, &mut c].map(|x| slot(x));
        let none = Slot { bytes: 0, ..a };
        assert!(host(vec![a, a, read], vec![b], c, vec![]).is_ok());
        assert!(host(vec![a, c], vec![a, b], none, vec![0]).is_ok());
        // Twice the same output; an output that is an input; scratch memory that is one; one that lies in another by a byte.
        assert!(host(vec![], vec![a, a], c, vec![]).is_err());
        assert!(host(vec![a], vec![a], c, vec![]).is_err());
        assert!(host(vec![a, a], vec![a], c, vec![0]).is_err());
        assert!(host(vec![a], vec![b], a, vec![]).is_err());
        assert!(host(vec![], vec![b], b, vec![]).is_err());
        assert!(host(vec![], vec![a, Slot { at: a.at.wrapping_add(31), ..b }], none, vec![]).is_err());
        // What may only be read.
        assert!(host(vec![], vec![read], c, vec![]).is_err() && host(vec![], vec![], read, vec![]).is_err());
    }

    #[test]
    fn slots_are_taken_once_a_run() {
        let (mut y, mut z) = ([0f64; 4], [0f64; 4]);
        let [out, scratch] = [&mut y, &mut z].map(|x| slot(bytemuck::cast_slice_mut(x)));
        let mut h = host(vec![], vec![out], scratch, vec![]).unwrap();
        let once: Routine = Arc::new(|h| {
            h.output::<f64>(0)[3] += 1.0;
            h.scratch::<u8>()[31] += 1;
        });
        (0..3).for_each(|_| h.run(&once));
        let twice: [Routine; 2] = [
            Arc::new(|h| assert!(h.output::<f64>(0).len() != h.output::<u8>(0).len())),
            Arc::new(|h| assert!(h.scratch::<f64>().len() != h.scratch::<u8>().len())),
        ];
        for routine in twice {
            let run = std::panic::AssertUnwindSafe(|| h.run(&routine));
            let e = std::panic::catch_unwind(run).unwrap_err();
            assert!(e.downcast_ref::<String>().unwrap().contains("a second time"));
        }
        assert_eq!((y[3], z[3].to_bits()), (3.0, 3 << 56));
    }
}
