/*! What a GPU is sent: kernels, which are functions of the files in `kernels/`, and calls of them. No driver in this file.

Every kernel takes two parameters by value: the addresses of its operands for up to [`GROUP`] equal instances of an op
(`Operands<N>` of `kernels/common.cuh`; `blockIdx.z` picks the instance), and a struct of numbers that [`cuda_struct!`]
declares for both languages. Nothing that changes from step to step is among the numbers: it is data in an operand, so that
a step can be recorded once and replayed. */

use super::Buf;
use super::choices::Product;
use super::estimate::Price;
use super::tensor_map::{self, TensorMap};
use crate::error::Result;
use bytemuck::NoUninit;

/// Instances of an op that one launch can compute.
pub const GROUP: usize = 4;

/// A `__global__` function, by what it takes to compile it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Its name, which is C's and therefore unique.
    pub entry: &'static str,
    /// The file under `kernels/`. Kernels of one file have the same constants and are compiled together.
    pub source: &'static str,
    /// Threads of a block; `THREADS` in the source.
    pub threads: u32,
    /// Operands of one instance.
    pub operands: usize,
    /// The declaration of its struct of numbers, [`CudaStruct::TEXT`].
    pub args: &'static str,
    /// Names of its compile-time constants.
    pub consts: &'static [&'static str],
    /// Every choice of their values; one empty choice where there are none.
    pub variants: &'static [&'static [i64]],
}

impl Kernel {
    /// Whether it multiplies on tensor cores: those of two folders do.
    pub fn on_tensor_cores(&self) -> bool {
        ["mma/", "sm90/"].iter().any(|folder| self.source.starts_with(folder))
    }
}

/// The only variant of a kernel without constants.
pub const PLAIN: &[&[i64]] = &[&[]];

/// Kernels that move [`VECTOR`] neighbours at once: four where the innermost extent allows it ([`vector`]).
pub const VECTOR: (&[&str], &[&[i64]]) = (&["VECTOR"], &[&[1], &[4]]);

/// Kernels whose activations lie in memory as any of the floating-point types ([`crate::shape::DType::code`]).
pub const STORED: (&[&str], &[&[i64]]) = (&["STORAGE"], &[&[0], &[1], &[2]]);

/// [`VECTOR`] and [`STORED`] together.
pub const VECTOR_STORED: (&[&str], &[&[i64]]) =
    (&["VECTOR", "STORAGE"], &[&[1, 0], &[4, 0], &[1, 1], &[4, 1], &[1, 2], &[4, 2]]);

/// The widest choice of [`VECTOR`] that divides each of `extents`.
pub fn vector(extents: &[usize]) -> usize {
    if extents.iter().all(|n| n.is_multiple_of(4)) { 4 } else { 1 }
}

/// What kernels can count in 32 bits, although they run on to the end of a tile, and to that of a part of a sum: at most 264
/// parts of up to 65 terms too many.
pub const COUNTABLE: usize = (1 << 31) - (1 << 16);

/// Blocks of a launch along x and y, at most: of every GPU (CUDA Programming Guide, "Technical Specifications per Compute
/// Capability").
pub const GRID: [u32; 2] = [i32::MAX as u32, 65535];

/// A number of elements that kernels can count in 32 bits, twice it included. A plan has refused what is larger.
pub fn count(n: usize) -> u32 {
    assert!(n < 1 << 31, "{n} elements in one tensor: a kernel counts to 2^31");
    n as u32
}

impl Kernel {
    /// A kernel with blocks of 256 threads and without constants.
    pub const fn new(source: &'static str, entry: &'static str, operands: usize, args: &'static str) -> Self {
        Self { entry, source, threads: 256, operands, args, consts: &[], variants: PLAIN }
    }

    /// The same, compiled for every one of `variants` of `consts`.
    pub const fn with(self, (consts, variants): (&'static [&'static str], &'static [&'static [i64]])) -> Self {
        Self { consts, variants, ..self }
    }

    /// Bytes of shared memory that a launch gives to each block, besides what the source declares: its constant `SHARED`.
    pub fn shared(&self, consts: &[i64]) -> u32 {
        self.constant(consts, "SHARED").map_or(0, |bytes| bytes as u32)
    }

    /// The value of one constant in a choice of all.
    pub fn constant(&self, consts: &[i64], name: &str) -> Option<i64> {
        self.consts.iter().position(|c| *c == name).map(|i| consts[i])
    }

    /// What the source is compiled with, for one choice of constants.
    pub fn defines(&self, consts: &[i64]) -> Vec<(&'static str, i64)> {
        let threads = ("THREADS", self.threads as i64);
        self.consts.iter().copied().zip(consts.iter().copied()).chain([threads]).collect()
    }
}

/// What a launch does with an operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    Read,
    /// Writes all of it; what was there before means nothing.
    Write,
    /// Reads and writes what is there.
    Update,
}

/// Where an operand lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Location {
    Value(Buf),
    /// Bytes from the beginning of the scratch memory that the launches of one op share.
    Scratch(usize),
    /// Bytes from the beginning of the counts that all launches share: zero when a launch begins, and again when it ends.
    Counts(usize),
}

/// One operand of one instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CallOperand {
    pub place: Location,
    pub bytes: usize,
    pub access: Access,
}

/// One launch of a kernel.
#[derive(Clone, Debug)]
pub struct Call {
    pub kernel: &'static Kernel,
    /// One of the kernel's variants.
    pub consts: &'static [i64],
    /// Blocks along x and y; z counts the instances.
    pub grid: [u32; 2],
    /// By instance.
    pub operands: Vec<Vec<CallOperand>>,
    /// The bytes of the kernel's struct of numbers.
    pub args: Vec<u8>,
    /// Tensor maps and the operand that each is of: a third parameter of kernels that have some (`Maps<N>` of
    /// `kernels/sm90/hopper.cuh`).
    pub maps: Vec<(usize, TensorMap)>,
    /// What it computes, where other variants of the kernel would compute the same.
    pub product: Option<Product>,
    /// What a tile of that costs.
    pub price: Option<Box<Price>>,
}

impl Call {
    /// The block of parameters: addresses, [`GROUP`] rows of them, then the numbers, and as many rows of tensor maps. `address`
    /// is asked for each operand, `encode` for each map of a tensor at an address.
    pub fn params(
        &self,
        mut address: impl FnMut(usize, usize) -> u64,
        mut encode: impl FnMut(&TensorMap, u64) -> Result<[u8; tensor_map::BYTES]>,
    ) -> Result<Vec<u8>> {
        let mut params = Vec::with_capacity(GROUP * self.kernel.operands * 8 + self.args.len());
        for instance in 0..GROUP {
            for operand in 0..self.kernel.operands {
                let known = instance < self.operands.len();
                let at = if known { address(instance, operand) } else { 0 };
                params.extend(at.to_le_bytes());
            }
        }
        params.extend(&self.args);
        if self.maps.is_empty() {
            return Ok(params);
        }
        params.resize(params.len().next_multiple_of(64), 0);
        for instance in 0..GROUP {
            for (operand, map) in &self.maps {
                let known = instance < self.operands.len();
                params.extend(if known { encode(map, address(instance, *operand))? } else { [0; tensor_map::BYTES] });
            }
        }
        Ok(params)
    }
}

/// A struct that host and kernels declare alike.
pub trait CudaStruct: NoUninit {
    /// Its declaration in CUDA C++.
    const TEXT: &'static str;
}

/// Declares a `#[repr(C)]` struct of numbers and the same struct in CUDA C++ ([`CudaStruct::TEXT`], which
/// `kernels/args.cuh` collects). A struct with padding does not compile: `f64` fields go first.
#[macro_export]
macro_rules! cuda_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $ty:tt),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod)]
        $vis struct $name { $($(#[$field_meta])* pub $field: $ty),* }
        impl $crate::launch::gpu::CudaStruct for $name {
            const TEXT: &'static str = concat!(
                "struct ", stringify!($name), " {\n",
                $("    ", $crate::cuda_struct!(@declare $field $ty), ";\n",)*
                "};\n"
            );
        }
    };
    (@declare $field:ident [$ty:tt; $n:literal]) => {
        concat!($crate::cuda_struct!(@type $ty), " ", stringify!($field), "[", $n, "]")
    };
    (@declare $field:ident $ty:tt) => { concat!($crate::cuda_struct!(@type $ty), " ", stringify!($field)) };
    (@type i32) => { "int" };
    (@type u32) => { "unsigned" };
    (@type f32) => { "float" };
    (@type f64) => { "double" };
    (@type u64) => { "unsigned long long" };
    (@type Divisor) => { "Divisor" };
    (@type Gemm) => { "Gemm" };
    (@type Descent) => { "Descent" };
}

cuda_struct! {
    /// For kernels that only need to know where to stop.
    pub struct Count {
        /// Elements of an instance.
        n: u32,
    }
}

cuda_struct! {
    /// n / by for every n < 2^31 by one multiplication, for GPUs have no instruction for division: the high half of
    /// 2 n factor, shifted. `n / d` and `n % d` in `kernels/common.cuh`.
    pub struct Divisor {
        by: u32,
        /// ceil(2^(31 + shift) / by), at most 2^32 - 1 (Granlund & Montgomery 1994, theorem 4.2).
        factor: u32,
        /// ceil(log2(by))
        shift: u32,
    }
}

impl Divisor {
    pub fn new(by: usize) -> Self {
        assert!((1..1 << 31).contains(&by), "division by {by}");
        let shift = by.next_power_of_two().trailing_zeros();
        Self { by: by as u32, factor: (1u64 << (31 + shift)).div_ceil(by as u64) as u32, shift }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    cuda_struct! {
        struct Mixed { eps: f64, n: i32, scale: f32, pad: [u32; 2] }
    }

    #[test]
    fn one_declaration_serves_both_languages() {
        assert_eq!(
            Mixed::TEXT,
            "struct Mixed {\n    double eps;\n    int n;\n    float scale;\n    unsigned pad[2];\n};\n"
        );
        assert_eq!(size_of::<Mixed>(), 24);
    }

    #[test]
    fn divisors_divide() {
        let divide = |n: u32, d: Divisor| ((2 * n as u64 * d.factor as u64) >> 32 >> d.shift) as u32;
        let edges = |n: u32| [n.saturating_sub(1), n, n + 1];
        let powers = || (0..31).flat_map(|shift| edges(1 << shift)).chain([3, 7, 641, 12_345_679]);
        for by in powers().filter(|by| *by > 0) {
            let d = Divisor::new(by as usize);
            let multiples = powers().filter_map(|q| q.checked_mul(by)).filter(|n| *n < 1 << 31).flat_map(edges);
            for n in powers().chain(multiples).filter(|n| *n < 1 << 31).chain([i32::MAX as u32]) {
                assert_eq!(divide(n, d), n / by, "{n} / {by}");
            }
        }
    }
}
