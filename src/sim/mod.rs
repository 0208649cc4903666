/*! A GPU in software: parses the PTX that NVRTC writes and runs it block by block, warps in lockstep.

What runs is the compiler's own output, inline PTX included, so a kernel that is right here and assembles is right on a
device as far as values, addresses and synchronisation go. Results of correctly rounded instructions equal a device's
bit for bit; approximate ones (`ex2.approx` and its kin) are computed in f64 and rounded once. What is not modelled:
timing, occupancy, weak memory order.

| part | what |
|---|---|
| `lex` `parse` `program` | text to decoded instructions over register slots |
| `isa` | the instructions, one file per family |
| `lanes` `round` | lane loops over 32-lane registers; exact rounding |
| `memory` `shadow` | address ranges, bounds, alignment, what was written; races |
| `run` `counters` | warps, divergence, barriers; what a launch did |

Measured on one core of an AVX2 machine with other work beside it, a tiled float32 GEMM of 256x256x256: 600 M thread
instructions per second, 135 M with every check and counter on.

Divergent groups of a warp run lowest instruction first and merge when they meet, which is one of the orders that
independent thread scheduling allows and needs no control-flow graph.

```
use deep_affect::sim::{self, Rights, Grid, RunOptions, Program, Buffer};

let ptx = "
.version 9.0
.target sm_80
.address_size 64
.visible .entry double(.param .u64 y)
{
    .reg .f32 %f<3>;
    .reg .b32 %r<2>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [y];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.f32 %f1, [%rd3];
    add.f32 %f2, %f1, %f1;
    st.global.f32 [%rd3], %f2;
    ret;
}";
let program = Program::parse(ptx)?;
let mut y = [1.5f32, 2.0, 3.0];
let window = Buffer { name: "y", at: 0, data: bytemuck::cast_slice_mut(&mut y), blank: &mut [], access: Rights::Update };
let grid = Grid { grid: [1, 1, 1], block: [3, 1, 1], shared_bytes: 0 };
let params = sim::address(0).to_le_bytes();
sim::launch(&program, "double", grid, &params, &mut [window], RunOptions::default())?;
assert_eq!(y, [3.0, 4.0, 6.0]);
# Ok::<(), deep_affect::error::Error>(())
```
*/

// Loops over lanes index several rows at once.
#![allow(clippy::needless_range_loop)]

mod counters;
mod isa;
mod lanes;
mod lex;
mod memory;
mod parse;
mod program;
mod round;
mod run;
mod shadow;

#[cfg(test)]
mod tensor_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wgmma_tests;

pub use counters::Counters;
pub use isa::tensor::encode as tensor_map;
pub use memory::address;
pub use program::{EntryPoint, Program, Shared};

use crate::error::{Error, Result};
use std::fmt;

/// What a kernel may do with an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Writing is a fault.
    Read,
    /// What the kernel has written it may read.
    Write,
    /// Both.
    Update,
}

/// One operand's memory for a launch: its own address range, so that an access past its end cannot land in a neighbour.
pub struct Buffer<'a> {
    /// For faults.
    pub name: &'a str,
    /// Bytes from [`address`] on to where it begins: a place in an arena, so that addresses are aligned as there.
    pub at: usize,
    pub data: &'a mut [u8],
    /// One byte per byte of `data`, not zero where it holds nothing; empty if everything holds something. Kept up to date.
    pub blank: &'a mut [u8],
    pub access: Rights,
}

/// Shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub shared_bytes: u32,
}

/// The order of blocks, and of the warps of a block between barriers. No correct kernel depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BlockOrder {
    #[default]
    Forward,
    Reverse,
    Shuffled(u64),
}

#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Looks for unwritten reads, races and misused synchronisation as well; bounds and alignment are always checked.
    pub checks: bool,
    /// Counts sectors and bank conflicts ([`Counters`]), which costs time.
    pub count: bool,
    pub order: BlockOrder,
    /// Instructions of one warp after which it is taken to run for ever; by default a minute's worth.
    pub patience: u64,
    /// Only these blocks run, counted x first, then y and z, where the launch has them: of one that would take hours.
    pub only: Option<&'static [u64]>,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions { checks: false, count: false, order: BlockOrder::Forward, patience: 1 << 30, only: None }
    }
}

/// What a kernel did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// The launch itself: no such kernel, wrong block size, parameters missing.
    Launch,
    OutOfBounds,
    Misaligned,
    /// A write to an operand that is only read.
    ReadOnly,
    /// A read of memory that holds nothing.
    Unwritten,
    /// Two threads, at least one of them writing, and nothing that orders them.
    Race,
    /// A barrier that not all its threads reach.
    Barrier,
    /// Warp-level instructions that not all their members execute.
    Divergence,
    /// What an asynchronous instruction reads or leaves, used before it was waited for, or not made ready for it.
    Async,
    /// No end in sight.
    Endless,
    /// The kernel's own trap.
    Trap,
}

/// A fault: what, and exactly where.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    pub kernel: String,
    /// Block and thread, where there is one.
    pub thread: Option<([u32; 3], [u32; 3])>,
    /// `file:line` with line information, else the line of the PTX text.
    pub place: Option<String>,
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.kernel)?;
        if let Some(place) = &self.place {
            write!(f, " at {place}")?;
        }
        if let Some((b, t)) = self.thread {
            write!(f, ", block ({},{},{}) thread ({},{},{})", b[0], b[1], b[2], t[0], t[1], t[2])?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::job(fault.to_string())
    }
}

impl Program {
    /// Parses a module. An instruction that the simulator does not know is an error here, with its line.
    pub fn parse(ptx: &str) -> Result<Program> {
        parse::parse(ptx)
    }
}

/// Runs a kernel to its end. `params` is the parameter block as a driver lays it out: each parameter at its natural
/// alignment, pointers made with [`address`].
pub fn launch(
    program: &Program,
    entry: &str,
    grid: Grid,
    params: &[u8],
    windows: &mut [Buffer],
    options: RunOptions,
) -> Result<Counters, Fault> {
    run::launch(program, entry, grid, params, windows, options)
}
