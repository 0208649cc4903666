//! A parsed module: kernels as decoded instructions over register slots.

use super::isa::barrier::Barrier;
use super::isa::copy::{self, Copy};
use super::isa::memory::{Atomic, MemoryAccess};
use super::isa::warp::{Shuffle, Vote};
use super::isa::{matrix, mbarrier, tensor, wgmma};
use super::lanes::{Args, LaneLoop};
use crate::nvrtc::Target;
use std::collections::BTreeSet;

/// Fundamental types (PTX ISA 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[rustfmt::skip]
pub enum PtxType {
    Pred, B8, B16, B32, B64, B128, U8, U16, U32, U64, S8, S16, S32, S64, F16, F16x2, Bf16, Bf16x2, Tf32, F32, F64,
}

impl PtxType {
    /// From a suffix without its dot.
    #[rustfmt::skip]
    pub fn parse(s: &str) -> Option<PtxType> {
        use PtxType::*;
        Some(match s {
            "pred" => Pred, "b8" => B8, "b16" => B16, "b32" => B32, "b64" => B64, "b128" => B128,
            "u8" => U8, "u16" => U16, "u32" => U32, "u64" => U64, "s8" => S8, "s16" => S16, "s32" => S32, "s64" => S64,
            "f16" => F16, "f16x2" => F16x2, "bf16" => Bf16, "bf16x2" => Bf16x2, "tf32" => Tf32, "f32" => F32,
            "f64" => F64,
            _ => return None,
        })
    }
    #[rustfmt::skip]
    pub fn bytes(self) -> usize {
        use PtxType::*;
        match self {
            Pred | B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F16x2 | Bf16x2 | Tf32 | F32 => 4,
            B64 | U64 | S64 | F64 => 8,
            B128 => 16,
        }
    }
    /// Whether its registers are in the 64-bit bank.
    pub fn is_long(self) -> bool {
        self.bytes() == 8
    }
    pub fn is_signed(self) -> bool {
        matches!(self, PtxType::S8 | PtxType::S16 | PtxType::S32 | PtxType::S64)
    }
    pub fn is_float(self) -> bool {
        use PtxType::*;
        matches!(self, F16 | F16x2 | Bf16 | Bf16x2 | Tf32 | F32 | F64)
    }
}

/// State spaces (PTX ISA 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A predefined register (PTX ISA 10) that is constant for a thread, read as 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    Warps,
    /// %lanemask_eq, lt, le, gt, ge.
    LaneMask(std::cmp::Ordering, bool),
    /// Constant on this device: SM number and count, grid number, cluster position (a cluster is one block).
    Fixed(u32),
    /// %dynamic_smem_size, %total_smem_size.
    SharedBytes {
        total: bool,
    },
}

/// A condition on an instruction: a predicate slot, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guard {
    pub slot: u32,
    pub negated: bool,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Exec {
    /// Registers only, lane by lane.
    Lanes(LaneLoop),
    /// To an instruction.
    Branch(usize),
    /// To the instruction that the index in slot a picks.
    Switch(Box<[usize]>),
    Exit,
    /// Orders memory for the whole device, or the block only. Lanes here see stores at once: it matters to races.
    Fence {
        device: bool,
    },
    /// Orders what ordinary instructions have written for asynchronous ones.
    ProxyFence,
    /// A hint.
    Nothing,
    /// %clock, %clock64, %globaltimer: warp instructions so far.
    Clock {
        long: bool,
    },
    ActiveMask,
    Load(Box<MemoryAccess>),
    Store(Box<MemoryAccess>),
    Atomic(Box<Atomic>),
    Shuffle(Shuffle),
    Vote(Vote),
    Barrier(Barrier),
    WarpBarrier,
    Copy(Box<Copy>),
    CopyGroup(copy::CopyGroup),
    TensorCopy(Box<tensor::TensorCopy>),
    Mbarrier(Box<mbarrier::Operation>),
    /// Makes barriers that the warp has initialised known to asynchronous instructions.
    BarrierFence,
    Matrix(Box<matrix::Multiply>),
    MatrixMove(Box<matrix::MatrixMove>),
    Product(Box<wgmma::Product>),
    ProductOrder(wgmma::ProductOrder),
    Registers(wgmma::Registers),
    Trap,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    pub exec: Exec,
    pub args: Args,
    pub guard: Option<Guard>,
    /// Floating-point operations of one lane.
    pub flops: u32,
    /// Index into [`EntryPoint::places`].
    pub place: u32,
}

/// A 32-bit register that a statement names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touched {
    pub slot: u32,
    pub written: bool,
}

/// Where an instruction comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SourceLine {
    /// Line of the PTX text.
    pub ptx: u32,
    /// `.file` number and line, when compiled with line information.
    pub source: Option<(u32, u32)>,
}

/// A variable in shared memory.
#[derive(Clone, Debug)]
pub struct Shared {
    pub name: String,
    /// Its address in the shared space; see [`super::memory::SHARED_SHIFT`].
    pub address: u64,
    /// None: as large as the launch's dynamic shared memory.
    pub bytes: Option<usize>,
}

/// A module-scope variable, global or constant.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub init: Vec<u8>,
    pub constant: bool,
}

/// One `.entry`.
#[derive(Clone, Debug, Default)]
pub struct EntryPoint {
    pub name: String,
    pub code: Vec<Inst>,
    pub places: Vec<SourceLine>,
    pub param_bytes: usize,
    /// `.maxntid` or `.reqntid`; whether every dimension must be equal.
    pub max_threads: Option<([u32; 3], bool)>,
    /// `.minnctapersm`: blocks that a multiprocessor must have room for.
    pub resident: u32,
    /// For every instruction the registers of its statement; nothing where no product of a warpgroup has registers.
    pub touched: Vec<Box<[Touched]>>,
    pub shared: Vec<Shared>,
    /// Static shared bytes as the device lays them out.
    pub shared_bytes: usize,
    /// Bytes of local memory of one thread.
    pub local_bytes: usize,
    /// Registers per bank: 32-bit and narrower, 64-bit, predicates.
    pub slots: [usize; 3],
    /// Registers that hold a constant.
    pub words: Vec<(u32, u32)>,
    pub longs: Vec<(u32, u64)>,
    pub specials: Vec<(u32, Special)>,
}

/// A PTX module, parsed and decoded: what `cuModuleLoadData` makes of it on a device. Cheap to share between threads.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it is compiled for.
    pub(super) target: Target,
    pub(super) kernels: Vec<EntryPoint>,
    pub(super) variables: Vec<Variable>,
    /// `.file` numbers and names.
    pub(super) files: Vec<(u32, String)>,
    pub(super) opcodes: BTreeSet<String>,
}

impl Program {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        let target = Target::new(0);
        Self { target, kernels: vec![], variables: vec![], files: vec![], opcodes: BTreeSet::new() }
    }
    /// Names of the kernels, in the order of the text.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|k| k.name.as_str())
    }
    /// The kernel of that name.
    pub fn entry(&self, name: &str) -> Option<&EntryPoint> {
        self.kernels.iter().find(|k| k.name == name)
    }
    /// Every opcode with its suffixes that the text uses.
    pub fn opcodes(&self) -> impl Iterator<Item = &str> {
        self.opcodes.iter().map(String::as_str)
    }
    /// `file:line`, or the PTX line where there is no line information.
    pub(super) fn place(&self, place: SourceLine) -> String {
        match place.source {
            Some((file, line)) => match self.files.iter().find(|(n, _)| *n == file) {
                Some((_, name)) => format!("{name}:{line}"),
                None => format!("line {line}"),
            },
            None => format!("PTX line {}", place.ptx),
        }
    }
}
