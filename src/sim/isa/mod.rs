/*! The instructions: one file per family, in which each is spelled and defined on one page.

`decode` gives a statement to the family of its opcode. A family takes the modifiers it knows, resolves the operands
and appends instructions; a modifier that is left over makes the instruction unknown, so nothing is ever half
understood. */

pub mod barrier;
mod bits;
mod carry;
mod compare;
mod control;
mod convert;
pub mod copy;
mod float;
mod half;
mod integer;
pub mod matrix;
pub mod mbarrier;
pub mod memory;
mod special;
pub mod tensor;
pub mod warp;
pub mod wgmma;

use super::lanes::{Args, LaneLoop};
use super::parse::{Frame, PtxOperand, literal};
use super::program::{Exec, Inst, PtxType, Space};
use crate::error::{Error, Result};

/// A family: true if it knows the instruction.
type Family = fn(&mut Line) -> Result<bool>;

/// First words of opcodes, and who knows them.
#[rustfmt::skip]
const FAMILIES: &[(&[&str], Family)] = &[
    (&["add", "sub", "mul", "mad", "div", "rem", "abs", "neg", "min", "max", "sad", "dp4a"], integer::decode),
    (&["add", "sub", "mad", "addc", "subc", "madc"], carry::decode),
    (&["add", "sub", "mul", "mad", "fma", "div", "abs", "neg", "min", "max", "sqrt", "rcp", "copysign", "testp"], float::decode),
    (&["add", "sub", "mul", "fma", "abs", "neg", "min", "max", "ex2", "tanh"], half::decode),
    (&["ex2", "lg2", "rcp", "rsqrt", "sqrt", "sin", "cos", "tanh", "div"], special::decode),
    (&["and", "or", "xor", "not", "cnot", "shl", "shr", "shf", "prmt", "lop3", "bfe", "bfi", "bfind", "clz", "popc", "brev", "fns", "bmsk", "szext"], bits::decode),
    (&["setp", "set", "selp", "slct"], compare::decode),
    (&["cvt", "cvta", "mov"], convert::decode),
    (&["bra", "brx", "ret", "exit", "trap", "nanosleep", "brkpt", "pmevent", "griddepcontrol", "discard", "applypriority", "prefetch", "prefetchu", "isspacep"], control::decode),
    (&["ld", "ldu", "st", "atom", "red"], memory::decode),
    (&["shfl", "vote", "match", "activemask", "redux", "elect"], warp::decode),
    (&["bar", "barrier", "membar", "fence"], barrier::decode),
    (&["cp"], copy::decode),
    (&["mbarrier"], mbarrier::decode),
    (&["mma", "ldmatrix", "stmatrix"], matrix::decode),
    (&["wgmma"], wgmma::decode),
    (&["setmaxnreg"], wgmma::decode_registers),
];

/// Appends the instructions of one statement.
pub fn decode<'a>(frame: &mut Frame<'a>, opcode: &'a str, args: Vec<PtxOperand<'a>>) -> Result<()> {
    let mut parts = opcode.split('.');
    let base = parts.next().unwrap_or_default();
    let (types, mods): (Vec<&str>, Vec<&str>) = parts.partition(|m| PtxType::parse(m).is_some());
    let types: Vec<PtxType> = types.into_iter().filter_map(PtxType::parse).collect();
    let start = frame.kernel.code.len();
    for (_, family) in FAMILIES.iter().filter(|(words, _)| words.contains(&base)) {
        let mut line = Line { frame, base, mods: mods.clone(), types: types.clone(), args: args.clone() };
        if family(&mut line)? && line.mods.is_empty() {
            return Ok(());
        }
        frame.kernel.code.truncate(start);
    }
    Err(Error::usage("the simulator does not know this instruction"))
}

/// A statement being decoded.
pub struct Line<'f, 'a> {
    pub frame: &'f mut Frame<'a>,
    pub base: &'a str,
    /// Suffixes that are not types and nobody has taken yet.
    pub mods: Vec<&'a str>,
    pub types: Vec<PtxType>,
    pub args: Vec<PtxOperand<'a>>,
}

impl<'a> Line<'_, 'a> {
    /// Takes a modifier.
    pub fn take(&mut self, name: &str) -> bool {
        let at = self.mods.iter().position(|m| *m == name);
        at.map(|i| self.mods.remove(i)).is_some()
    }
    /// Takes the modifier that is in the table, if there is one.
    pub fn one_of<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        table.iter().find(|(name, _)| self.take(name)).map(|(_, v)| *v)
    }
    /// The only type, or the last.
    pub fn ty(&self) -> PtxType {
        self.types.last().copied().unwrap_or(PtxType::B32)
    }
    /// Operand `i` must be there.
    pub fn arg(&self, i: usize) -> Result<&PtxOperand<'a>> {
        self.args.get(i).ok_or_else(|| Error::usage(format!("operand {} is missing", i + 1)))
    }
    /// Slot of a destination of type `ty`; `_` is a register nobody reads.
    pub fn dst(&mut self, i: usize, ty: PtxType) -> Result<u32> {
        let operand = self.arg(i)?.clone();
        self.to(&operand, ty)
    }
    pub fn to(&mut self, operand: &PtxOperand<'a>, ty: PtxType) -> Result<u32> {
        match *operand {
            PtxOperand::Name("_") => Ok(self.frame.slot(ty)),
            PtxOperand::Name(name) => match self.frame.register(name) {
                Some((have, slot)) if same_bank(have, ty) => {
                    self.frame.note_written(have, slot);
                    Ok(slot)
                }
                Some((have, _)) => Err(Error::usage(format!("{name} is a {have:?} register, not one for {ty:?}"))),
                None => Err(Error::usage(format!("{name} is not a register"))),
            },
            _ => Err(Error::usage("a destination must be a register")),
        }
    }
    /// Slot of a source of type `ty`: a register, a constant, a predefined register, or a variable's address.
    pub fn src(&mut self, i: usize, ty: PtxType) -> Result<u32> {
        let operand = self.arg(i)?.clone();
        self.from(&operand, ty)
    }
    pub fn from(&mut self, operand: &PtxOperand<'a>, ty: PtxType) -> Result<u32> {
        let wrong = |what: &str| Error::usage(format!("`{what}` is not a value of type {ty:?}"));
        match *operand {
            PtxOperand::Name(name) => {
                if let Some((have, slot)) = self.frame.register(name) {
                    if same_bank(have, ty) {
                        return Ok(slot);
                    }
                    // A register may be wider than the instruction's type (PTX ISA 9.4.1).
                    if have.is_long() && ty != PtxType::Pred {
                        let d = self.frame.slot(ty);
                        self.frame.push(Inst::lanes(convert::narrow(), Args { d, a: slot, ..Args::default() }));
                        return Ok(d);
                    }
                    return Err(wrong(name));
                }
                if let Some((_, address)) = self.frame.variable(name) {
                    return Ok(self.frame.constant(address, ty));
                }
                if let Some(value) = literal(name, false, ty) {
                    return Ok(self.frame.constant(value, ty));
                }
                if ty.bytes() == 4
                    && let Some(slot) = self.frame.predefined(name)
                {
                    return Ok(slot);
                }
                Err(wrong(name))
            }
            PtxOperand::Minus(word) => {
                let value = literal(word, true, ty).ok_or_else(|| wrong(word))?;
                Ok(self.frame.constant(value, ty))
            }
            PtxOperand::Address(name, offset) if self.frame.variable(name).is_some() => {
                let address = self.frame.variable(name).map_or(0, |v| v.1);
                Ok(self.frame.constant(address.wrapping_add(offset as u64), ty))
            }
            _ => Err(Error::usage("expected a register or a constant")),
        }
    }
    /// Bytes of the register that operand `i` names.
    pub fn register_bytes(&self, i: usize) -> usize {
        match self.args.get(i) {
            Some(PtxOperand::Name(name)) => self.frame.register(name).map_or(0, |(ty, _)| ty.bytes()),
            _ => 0,
        }
    }
    /// Slot of a predicate, and whether it is negated.
    pub fn pred(&mut self, i: usize) -> Result<(u32, bool)> {
        let (name, negated) = match *self.arg(i)? {
            PtxOperand::Name(name) => (name, false),
            PtxOperand::Not(name) => (name, true),
            _ => return Err(Error::usage("expected a predicate")),
        };
        match self.frame.register(name) {
            Some((PtxType::Pred, slot)) => Ok((slot, negated)),
            _ => Err(Error::usage(format!("{name} is not a predicate"))),
        }
    }
    /// An integer that must be written in the text.
    pub fn literal(&self, i: usize) -> Result<u64> {
        match *self.arg(i)? {
            PtxOperand::Name(w) => super::lex::integer(w),
            _ => None,
        }
        .ok_or_else(|| Error::usage(format!("operand {} must be a number", i + 1)))
    }
    /// Registers of a list, or of one operand.
    pub fn list(&self, i: usize) -> Result<Vec<PtxOperand<'a>>> {
        Ok(match self.arg(i)? {
            PtxOperand::List(list) => list.clone(),
            one => vec![one.clone()],
        })
    }
    /// Slots of the `n` 32-bit registers of a list.
    pub fn words(&mut self, i: usize, n: usize, write: bool) -> Result<Vec<u32>> {
        let list = self.list(i)?;
        if list.len() != n {
            return Err(Error::usage(format!("{} registers instead of {n}", list.len())));
        }
        list.iter().map(|o| if write { self.to(o, PtxType::B32) } else { self.from(o, PtxType::B32) }).collect()
    }
    /// Slot, bank (true: 64-bit) and offset of an address operand. A variable's address is folded into a constant.
    pub fn address(&mut self, i: usize) -> Result<(u32, bool, i64)> {
        let PtxOperand::Address(base, offset) = *self.arg(i)? else { return Err(Error::usage("expected an address")) };
        if let Some((ty, slot)) = self.frame.register(base) {
            return Ok((slot, ty.is_long(), offset));
        }
        let address = match self.frame.variable(base) {
            Some((_, address)) => address,
            None => super::lex::integer(base).ok_or_else(|| Error::usage(format!("{base} is not an address")))?,
        };
        Ok((self.frame.constant(address.wrapping_add(offset as u64), PtxType::B64), true, 0))
    }
    /// Takes the state space; generic if there is none.
    pub fn space(&mut self) -> Space {
        let table = [
            ("global", Space::Global),
            ("const", Space::Const),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("local", Space::Local),
            ("param", Space::Param),
            ("param::entry", Space::Param),
        ];
        self.one_of(&table).unwrap_or(Space::Generic)
    }
    pub fn push(&mut self, exec: Exec, args: Args) -> Result<bool> {
        self.frame.push(Inst { args, ..Inst::new(exec) });
        Ok(true)
    }
    /// Appends a lane loop over `n` sources of type `from` to a destination of type `to`, operands in order.
    pub fn map(&mut self, body: LaneLoop, to: PtxType, from: PtxType, n: usize, mode: u32, flops: u32) -> Result<bool> {
        self.expect(n + 1)?;
        let mut args = Args { d: self.dst(0, to)?, mode, ..Args::default() };
        for (i, slot) in [&mut args.a, &mut args.b, &mut args.c, &mut args.e].into_iter().enumerate().take(n) {
            *slot = self.src(i + 1, from)?;
        }
        self.frame.push(Inst { flops, ..Inst::lanes(body, args) });
        Ok(true)
    }
    /// The number of operands must be `n`.
    pub fn expect(&self, n: usize) -> Result<()> {
        match self.args.len() {
            m if m == n => Ok(()),
            m => Err(Error::usage(format!("{m} operands instead of {n}"))),
        }
    }
}

fn same_bank(a: PtxType, b: PtxType) -> bool {
    (a == PtxType::Pred) == (b == PtxType::Pred) && a.is_long() == b.is_long()
}

impl Inst {
    pub fn new(exec: Exec) -> Inst {
        Inst { exec, args: Args::default(), guard: None, flops: 0, place: 0 }
    }
    pub fn lanes(body: LaneLoop, args: Args) -> Inst {
        Inst { args, ..Inst::new(Exec::Lanes(body)) }
    }
}
