/*! PTX text to [`Program`] (PTX ISA 4, 5, 11): directives, scopes, names; what an instruction means is in `isa`. */

use super::isa;
use super::lex::{self, Token, TokenKind};
use super::memory::{SHARED_SHIFT, variable_address};
use super::program::{
    EntryPoint, Exec, Guard, Inst, Program, PtxType, Shared, SourceLine, Space, Special, Touched, Variable,
};
use crate::error::{Error, Result};
use std::cell::RefCell;
use std::collections::HashMap;

/// An operand as written.
#[derive(Clone, Debug)]
pub enum PtxOperand<'a> {
    /// A register, variable, label or number.
    Name(&'a str),
    /// `!%p`
    Not(&'a str),
    /// `-1`
    Minus(&'a str),
    /// `d|p`
    Pair(&'a str, &'a str),
    /// `{a, b}`
    List(Vec<PtxOperand<'a>>),
    /// `[base+offset]`
    Address(&'a str, i64),
    /// `[base, {a, b}]`
    Tensor(&'a str, Vec<PtxOperand<'a>>),
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
enum Name {
    Register(PtxType, u32),
    /// A variable: its address in its space.
    Variable(Space, u64),
}

/// A pair of braces: its names, its labels, and branches to labels not seen yet.
#[derive(Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Name>,
    /// `%r<9>`: type, first slot and count of `%r0` to `%r8`.
    ranges: HashMap<&'a str, (PtxType, u32, u32)>,
    labels: HashMap<&'a str, usize>,
    tables: HashMap<&'a str, Vec<&'a str>>,
    jumps: Vec<(usize, &'a str, u32)>,
    /// Whether this is the body of a function, at whose end `ret` arrives.
    function: bool,
}

/// A kernel under construction.
#[derive(Default)]
pub struct Frame<'a> {
    pub kernel: EntryPoint,
    scopes: Vec<Scope<'a>>,
    words: HashMap<u32, u32>,
    longs: HashMap<u64, u32>,
    specials: HashMap<Special, u32>,
    carry: Option<u32>,
    source: Option<(u32, u32)>,
    /// Functions being expanded around the statement being decoded.
    pub calls: usize,
    /// 32-bit registers of the statement being decoded.
    touched: RefCell<Vec<Touched>>,
    /// Guard and PTX line of the statement being decoded.
    guard: Option<Guard>,
    line: u32,
}

impl<'a> Frame<'a> {
    fn name(&self, name: &str) -> Option<Name> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: Option<u32> = name[stem.len()..].parse().ok();
        self.scopes.iter().rev().find_map(|s| {
            let ranged = || {
                let &(ty, first, count) = s.ranges.get(stem)?;
                number.filter(|n| *n < count).map(|n| Name::Register(ty, first + n))
            };
            s.names.get(name).copied().or_else(ranged)
        })
    }
    fn declare(&mut self, name: &'a str, what: Name) {
        self.scopes.last_mut().expect("inside a scope").names.insert(name, what);
    }
    /// A new register of the bank of `ty`.
    pub fn slot(&mut self, ty: PtxType) -> u32 {
        let n = &mut self.kernel.slots[if ty == PtxType::Pred { 2 } else { ty.is_long() as usize }];
        *n += 1;
        *n as u32 - 1
    }
    /// A register that holds a constant.
    pub fn constant(&mut self, value: u64, ty: PtxType) -> u32 {
        let slot = if ty.is_long() { self.longs.get(&value) } else { self.words.get(&(value as u32)) };
        if let Some(&slot) = slot {
            return slot;
        }
        let slot = self.slot(ty);
        if ty.is_long() {
            self.longs.insert(value, slot);
            self.kernel.longs.push((slot, value));
        } else {
            self.words.insert(value as u32, slot);
            self.kernel.words.push((slot, value as u32));
        }
        slot
    }
    /// A register that holds a predefined value.
    fn special(&mut self, special: Special) -> u32 {
        if let Some(&slot) = self.specials.get(&special) {
            return slot;
        }
        let slot = self.slot(PtxType::B32);
        self.specials.insert(special, slot);
        self.kernel.specials.push((slot, special));
        slot
    }
    /// Type and slot of a declared register.
    pub fn register(&self, name: &str) -> Option<(PtxType, u32)> {
        match self.name(name)? {
            Name::Register(ty, slot) => {
                if is_word(ty) {
                    self.touched.borrow_mut().push(Touched { slot, written: false });
                }
                Some((ty, slot))
            }
            Name::Variable(..) => None,
        }
    }
    /// The statement writes a register that it has named.
    pub fn note_written(&mut self, ty: PtxType, slot: u32) {
        let named = self.touched.get_mut().iter_mut().rev().find(|t| is_word(ty) && t.slot == slot);
        named.into_iter().for_each(|t| t.written = true);
    }
    /// Space and address of a variable.
    pub fn variable(&self, name: &str) -> Option<(Space, u64)> {
        match self.name(name)? {
            Name::Variable(space, address) => Some((space, address)),
            Name::Register(..) => None,
        }
    }
    /// The predicate that holds the carry of extended-precision arithmetic.
    pub fn carry(&mut self) -> u32 {
        let slot = self.carry.unwrap_or_else(|| self.slot(PtxType::Pred));
        self.carry = Some(slot);
        slot
    }
    /// The slot of a predefined 32-bit register.
    pub fn predefined(&mut self, name: &str) -> Option<u32> {
        use std::cmp::Ordering::*;
        let axis = |s: &str| ["x", "y", "z"].iter().position(|a| *a == s);
        let (base, dim) = match name.rsplit_once('.') {
            Some((base, dim)) => (base, axis(dim)?),
            None => (name, 0),
        };
        let special = match base {
            "%tid" => Special::Tid(dim),
            "%ntid" => Special::Ntid(dim),
            "%ctaid" | "%clusterid" => Special::Ctaid(dim),
            "%nctaid" | "%nclusterid" => Special::Nctaid(dim),
            "%laneid" => Special::Lane,
            "%warpid" => Special::Warp,
            "%nwarpid" => Special::Warps,
            "%lanemask_eq" => Special::LaneMask(Equal, false),
            "%lanemask_lt" => Special::LaneMask(Less, false),
            "%lanemask_le" => Special::LaneMask(Less, true),
            "%lanemask_gt" => Special::LaneMask(Greater, false),
            "%lanemask_ge" => Special::LaneMask(Greater, true),
            "%smid" | "%gridid" | "%cluster_ctaid" | "%cluster_ctarank" => Special::Fixed(0),
            "%nsmid" | "%cluster_nctaid" | "%cluster_nctarank" => Special::Fixed(1),
            "WARP_SZ" => Special::Fixed(32),
            "%dynamic_smem_size" => Special::SharedBytes { total: false },
            "%total_smem_size" => Special::SharedBytes { total: true },
            _ => return None,
        };
        Some(self.special(special))
    }
    /// Appends an instruction of the statement being decoded.
    pub fn push(&mut self, mut inst: Inst) {
        let place = SourceLine { ptx: self.line, source: self.source };
        if self.kernel.places.last() != Some(&place) {
            self.kernel.places.push(place);
        }
        (inst.guard, inst.place) = (self.guard, self.kernel.places.len() as u32 - 1);
        self.kernel.code.push(inst);
    }
    /// A branch target: known later. The next instruction pushed is the branch.
    pub fn jump(&mut self, label: &'a str) {
        let (at, line) = (self.kernel.code.len(), self.line);
        self.scopes.last_mut().expect("inside a scope").jumps.push((at, label, line));
    }

    /// Closes a scope: its branches are resolved, or handed to the scope around it.
    fn close(&mut self) -> Result<()> {
        let mut scope = self.scopes.pop().expect("an open scope");
        if scope.function {
            scope.labels.insert(RETURN, self.kernel.code.len());
        }
        for (at, label, line) in scope.jumps {
            let find = |label: &str| scope.labels.get(label).copied();
            let resolved = match scope.tables.get(label) {
                Some(table) => table.iter().map(|l| find(l)).collect::<Option<Vec<_>>>(),
                None => find(label).map(|to| vec![to]),
            };
            match (resolved, self.scopes.len()) {
                (Some(to), _) => {
                    self.kernel.code[at].exec = match &self.kernel.code[at].exec {
                        Exec::Switch(_) => Exec::Switch(to.into()),
                        _ => Exec::Branch(to[0]),
                    }
                }
                (None, 0 | 1) => return Err(Error::usage(format!("PTX line {line}: label {label} is not defined"))),
                (None, _) => self.scopes.last_mut().expect("checked").jumps.push((at, label, line)),
            }
        }
        Ok(())
    }
}

/// A variable's declaration, without its initialiser.
struct Declared<'a> {
    name: &'a str,
    ty: PtxType,
    align: usize,
    /// Elements; None for `[]`.
    count: Option<usize>,
}

impl Declared<'_> {
    fn bytes(&self) -> usize {
        self.ty.bytes() * self.count.unwrap_or(0)
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    program: Program,
    globals: HashMap<&'a str, Name>,
    /// Module-scope shared variables: every kernel has them.
    shared: Vec<Declared<'a>>,
    functions: HashMap<&'a str, Function<'a>>,
}

/// A `.func`: names of its result and parameters, and the token after the brace that opens its body.
#[derive(Clone)]
struct Function<'a> {
    formals: Vec<&'a str>,
    results: usize,
    body: usize,
}

/// Where `ret` goes in a function that is expanded where it is called; no label can have this name.
pub const RETURN: &str = "%return";
/// Most bytes of a variable, and most registers under one name: more is a mistake in the text.
const LARGEST: usize = 1 << 28;
const REGISTERS: u32 = 1 << 20;
/// Deepest nesting of calls: there is no stack for recursion.
const DEPTH: usize = 16;

/// Parses and decodes a module.
pub fn parse(text: &str) -> Result<Program> {
    let tokens = lex::tokens(text)?;
    let mut p = Parser {
        tokens,
        at: 0,
        program: Program::new(),
        globals: HashMap::new(),
        shared: vec![],
        functions: HashMap::new(),
    };
    // Functions may be defined after the kernels that call them.
    for i in 0..p.tokens.len() {
        if p.tokens[i].is(".func") {
            p.at = i + 1;
            p.function()?;
        }
    }
    p.at = 0;
    while let Some(token) = p.peek() {
        p.module(token)?;
    }
    Ok(p.program)
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }
    fn next(&mut self) -> Result<Token<'a>> {
        let t = self.peek().ok_or_else(|| Error::usage("the PTX text ends inside a statement"))?;
        self.at += 1;
        Ok(t)
    }
    fn fail<T>(&self, problem: impl std::fmt::Display) -> Result<T> {
        let line = self.tokens.get(self.at.saturating_sub(1)).map_or(0, |t| t.line);
        Err(Error::usage(format!("PTX line {line}: {problem}")))
    }
    fn eat(&mut self, text: &str) -> bool {
        let found = self.peek().is_some_and(|t| t.is(text));
        self.at += found as usize;
        found
    }
    fn expect(&mut self, text: &str) -> Result<()> {
        let t = self.next()?;
        if t.is(text) { Ok(()) } else { self.fail(format!("expected `{text}`, found `{}`", t.text)) }
    }
    fn word(&mut self) -> Result<&'a str> {
        let t = self.next()?;
        if t.kind == TokenKind::Word { Ok(t.text) } else { self.fail(format!("expected a word, found `{}`", t.text)) }
    }
    fn number(&mut self) -> Result<u64> {
        let w = self.word()?;
        lex::integer(w).map_or_else(|| self.fail(format!("expected a number, found `{w}`")), Ok)
    }
    fn skip_line(&mut self, line: u32) {
        while self.peek().is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }
    fn skip_past(&mut self, text: &str) -> Result<()> {
        while !self.next()?.is(text) {}
        Ok(())
    }

    /// One module-scope directive.
    fn module(&mut self, token: Token<'a>) -> Result<()> {
        self.at += 1;
        match token.text {
            ".version" => self.skip_line(token.line),
            ".target" => {
                self.program.target = self.word()?.parse()?;
                self.skip_line(token.line);
            }
            ".address_size" => match self.number()? {
                64 => {}
                n => return self.fail(format!("{n}-bit addresses are not supported")),
            },
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".file" => {
                let number = self.number()? as u32;
                let name = self.next()?.text.to_string();
                self.program.files.push((number, name));
                self.skip_line(token.line);
            }
            ".section" => self.skip_past("}")?,
            ".pragma" => self.skip_past(";")?,
            ".entry" => self.entry()?,
            ".func" => self.function()?,
            ".global" | ".const" => self.variable(token.text == ".const")?,
            ".shared" => {
                let declared = self.declaration()?;
                self.shared.push(declared);
                self.expect(";")?;
            }
            other => return self.fail(format!("`{other}` at module scope is not supported")),
        }
        Ok(())
    }

    /// `[.align n] .type name [count]…`, after the state space.
    fn declaration(&mut self) -> Result<Declared<'a>> {
        let (mut align, mut ty, mut vector) = (0, None, 1usize);
        loop {
            let w = self.word()?;
            match w.strip_prefix('.') {
                Some("align") => align = self.number()? as usize,
                Some("attribute") => self.skip_past(")")?,
                Some("v2") => vector = 2,
                Some("v4") => vector = 4,
                Some("ptr") => {}
                Some("global" | "const" | "shared" | "local") => {}
                Some(t) => ty = Some(PtxType::parse(t).map_or_else(|| self.fail(format!("unknown type .{t}")), Ok)?),
                None => {
                    let Some(ty) = ty else { return self.fail(format!("`{w}` has no type")) };
                    let (mut count, mut open) = (vector, false);
                    while self.eat("[") {
                        if self.eat("]") {
                            open = true;
                            continue;
                        }
                        count = count.saturating_mul(self.number()? as usize);
                        self.expect("]")?;
                    }
                    if count.saturating_mul(ty.bytes()) > LARGEST || align > LARGEST {
                        return self.fail(format!("`{w}` is larger than {LARGEST} bytes"));
                    }
                    let align = align.max(ty.bytes() * vector);
                    return Ok(Declared { name: w, ty, align, count: (!open).then_some(count) });
                }
            }
        }
    }

    /// A module-scope variable and its initialiser.
    fn variable(&mut self, constant: bool) -> Result<()> {
        let d = self.declaration()?;
        let mut values = vec![];
        if self.eat("=") {
            let mut depth = 0;
            loop {
                let t = self.next()?;
                match t.text {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    "," => {}
                    "-" => {
                        let w = self.word()?;
                        values.push(self.literal(w, true, d.ty)?);
                    }
                    w => values.push(self.literal(w, false, d.ty)?),
                }
                if depth == 0 {
                    break;
                }
            }
        }
        self.expect(";")?;
        let size = d.ty.bytes();
        let mut init = vec![0; size * d.count.unwrap_or(values.len())];
        if values.len() * size > init.len() {
            return self.fail(format!("{} has more values than elements", d.name));
        }
        for (to, v) in init.chunks_exact_mut(size).zip(values) {
            to.copy_from_slice(&v.to_le_bytes()[..size]);
        }
        let space = if constant { Space::Const } else { Space::Global };
        self.globals.insert(d.name, Name::Variable(space, variable_address(self.program.variables.len())));
        self.program.variables.push(Variable { name: d.name.to_string(), init, constant });
        Ok(())
    }

    fn literal(&self, word: &str, negative: bool, ty: PtxType) -> Result<u64> {
        literal(word, negative, ty).map_or_else(|| self.fail(format!("`{word}` is not a value of type {ty:?}")), Ok)
    }

    /// `.func (result) name (params) { body }`: noted, and expanded where it is called.
    fn function(&mut self) -> Result<()> {
        let mut formals = vec![];
        self.formals(&mut formals)?;
        let results = formals.len();
        let name = self.word()?;
        self.formals(&mut formals)?;
        while self.peek().is_some_and(|t| t.text.starts_with('.')) {
            self.at += 1;
        }
        if self.eat(";") {
            return Ok(());
        }
        self.expect("{")?;
        self.functions.insert(name, Function { formals, results, body: self.at });
        let mut depth = 1;
        while depth > 0 {
            let t = self.next()?;
            depth += t.is("{") as usize;
            depth -= t.is("}") as usize;
        }
        Ok(())
    }

    /// `(.param declarations)`, or nothing.
    fn formals(&mut self, names: &mut Vec<&'a str>) -> Result<()> {
        if self.eat("(") {
            while !self.eat(")") {
                if !self.eat(".param") {
                    return self.fail("only .param arguments of functions are supported");
                }
                names.push(self.declaration()?.name);
                self.eat(",");
            }
        }
        Ok(())
    }

    /// `call (result), name, (arguments);` — the body is expanded here, its parameters being the caller's variables.
    fn call(&mut self, f: &mut Frame<'a>) -> Result<()> {
        let mut actuals = vec![];
        self.actuals(&mut actuals)?;
        let results = actuals.len();
        self.eat(",");
        let name = self.word()?;
        if self.eat(",") {
            self.actuals(&mut actuals)?;
        }
        self.expect(";")?;
        let Some(function) = self.functions.get(name).cloned() else {
            return self.fail(format!("the function `{name}` has no body here"));
        };
        if f.guard.is_some() || f.calls == DEPTH {
            return self.fail(format!("a call of `{name}` that is conditional or recursive is not supported"));
        }
        if results != function.results || actuals.len() != function.formals.len() {
            return self.fail(format!("`{name}` is called with other arguments than it has"));
        }
        let mut scope = Scope { function: true, ..Scope::default() };
        for (formal, actual) in function.formals.iter().zip(actuals) {
            let Some(variable) = f.name(actual) else { return self.fail(format!("`{actual}` is not declared")) };
            scope.names.insert(formal, variable);
        }
        let (back, depth) = (std::mem::replace(&mut self.at, function.body), f.scopes.len());
        f.scopes.push(scope);
        f.calls += 1;
        while f.scopes.len() > depth {
            self.statement(f)?;
        }
        f.calls -= 1;
        self.at = back;
        Ok(())
    }

    fn actuals(&mut self, names: &mut Vec<&'a str>) -> Result<()> {
        if self.eat("(") {
            while !self.eat(")") {
                names.push(self.word()?);
                self.eat(",");
            }
        }
        Ok(())
    }

    /// `.entry name (params) directives { body }`
    fn entry(&mut self) -> Result<()> {
        let mut f =
            Frame { scopes: vec![Scope { names: self.globals.clone(), ..Scope::default() }], ..Frame::default() };
        f.kernel.name = self.word()?.to_string();
        if self.eat("(") {
            while !self.eat(")") {
                self.expect(".param")?;
                let d = self.declaration()?;
                let offset = f.kernel.param_bytes.next_multiple_of(d.align);
                f.declare(d.name, Name::Variable(Space::Param, offset as u64));
                f.kernel.param_bytes = offset + d.bytes();
                self.eat(",");
            }
        }
        while !self.eat("{") {
            match self.word()? {
                w @ (".maxntid" | ".reqntid") => {
                    let mut dims = [1; 3];
                    for d in &mut dims {
                        *d = self.number()? as u32;
                        if !self.eat(",") {
                            break;
                        }
                    }
                    f.kernel.max_threads = Some((dims, w == ".reqntid"));
                }
                ".minnctapersm" => f.kernel.resident = self.number()? as u32,
                ".maxnreg" | ".maxnctapersm" | ".maxclusterrank" => drop(self.number()?),
                ".noreturn" | ".explicitcluster" => {}
                ".pragma" => self.skip_past(";")?,
                w => return self.fail(format!("`{w}` on an entry is not supported")),
            }
        }
        for d in std::mem::take(&mut self.shared) {
            shared(&mut f, &d);
            self.shared.push(d);
        }
        f.scopes.push(Scope::default());
        while f.scopes.len() > 1 {
            self.statement(&mut f)?;
        }
        f.guard = None;
        f.push(Inst::new(Exec::Exit));
        let watched = f.kernel.code.iter().any(|inst| matches!(inst.exec, Exec::Product(_)));
        f.kernel.touched.resize(if watched { f.kernel.code.len() } else { 0 }, Box::default());
        self.program.kernels.push(f.kernel);
        Ok(())
    }

    /// One statement of a body.
    fn statement(&mut self, f: &mut Frame<'a>) -> Result<()> {
        let token = self.next()?;
        f.line = token.line;
        match token.text {
            "{" => f.scopes.push(Scope::default()),
            "}" => f.close()?,
            ";" => {}
            ".loc" => {
                let (file, line) = (self.number()? as u32, self.number()? as u32);
                // Line 0 is the compiler's own code: it belongs to what came before.
                if line != 0 {
                    f.source = Some((file, line));
                }
                self.skip_line(token.line);
            }
            ".pragma" => self.skip_past(";")?,
            ".reg" => self.registers(f)?,
            ".shared" => {
                let d = self.declaration()?;
                shared(f, &d);
                self.expect(";")?;
            }
            // Arguments of calls live in the caller's local memory.
            ".local" | ".param" => {
                let d = self.declaration()?;
                let offset = f.kernel.local_bytes.next_multiple_of(d.align);
                f.declare(d.name, Name::Variable(Space::Local, offset as u64));
                f.kernel.local_bytes = offset + d.bytes();
                self.expect(";")?;
            }
            w if token.kind == TokenKind::Word && self.eat(":") => {
                if self.eat(".branchtargets") {
                    let mut labels = vec![self.word()?];
                    while self.eat(",") {
                        labels.push(self.word()?);
                    }
                    self.expect(";")?;
                    f.scopes.last_mut().expect("a scope").tables.insert(w, labels);
                } else {
                    let at = f.kernel.code.len();
                    f.scopes.last_mut().expect("a scope").labels.insert(w, at);
                }
            }
            w if w.starts_with('.') => return self.fail(format!("`{w}` in a body is not supported")),
            _ => {
                self.at -= 1;
                self.instruction(f)?;
            }
        }
        Ok(())
    }

    /// `.reg .type name, name<n>;`
    fn registers(&mut self, f: &mut Frame<'a>) -> Result<()> {
        let w = self.word()?;
        let Some(ty) = w.strip_prefix('.').and_then(PtxType::parse) else {
            return self.fail(format!("unknown type {w}"));
        };
        if ty == PtxType::B128 {
            return self.fail("128-bit registers are not supported");
        }
        loop {
            let name = self.word()?;
            if self.eat("<") {
                let count = u32::try_from(self.number()?).unwrap_or(u32::MAX);
                self.expect(">")?;
                if count == 0 || count > REGISTERS {
                    return self.fail(format!("{count} registers `{name}`"));
                }
                let first = f.slot(ty);
                for _ in 1..count {
                    f.slot(ty);
                }
                f.scopes.last_mut().expect("a scope").ranges.insert(name, (ty, first, count));
            } else {
                let slot = f.slot(ty);
                f.declare(name, Name::Register(ty, slot));
            }
            if !self.eat(",") {
                return self.expect(";");
            }
        }
    }

    /// `[@[!]p] opcode operands;`
    fn instruction(&mut self, f: &mut Frame<'a>) -> Result<()> {
        f.guard = None;
        if self.eat("@") {
            let negated = self.eat("!");
            let name = self.word()?;
            let Some((PtxType::Pred, slot)) = f.register(name) else {
                return self.fail(format!("`{name}` is no predicate"));
            };
            f.guard = Some(Guard { slot, negated });
        }
        let opcode = self.word()?;
        if opcode == "call" || opcode == "call.uni" {
            return self.call(f);
        }
        let mut operands = vec![];
        while !self.eat(";") {
            operands.push(self.operand()?);
            if !self.eat(",") {
                self.expect(";")?;
                break;
            }
        }
        self.program.opcodes.insert(opcode.to_string());
        f.touched.get_mut().clear();
        isa::decode(f, opcode, operands).map_err(|e| e.at(format!("PTX line {}: {opcode}", f.line)))?;
        f.kernel.touched.resize(f.kernel.code.len(), f.touched.get_mut()[..].into());
        Ok(())
    }

    fn operand(&mut self) -> Result<PtxOperand<'a>> {
        if self.eat("{") {
            let mut list = vec![];
            while !self.eat("}") {
                list.push(self.operand()?);
                self.eat(",");
            }
            return Ok(PtxOperand::List(list));
        }
        if self.eat("[") {
            let base = self.word()?;
            if self.eat(",") {
                let PtxOperand::List(corner) = self.operand()? else { return self.fail("expected coordinates") };
                self.expect("]")?;
                return Ok(PtxOperand::Tensor(base, corner));
            }
            let mut offset = 0i64;
            while !self.eat("]") {
                let plus = self.eat("+");
                let minus = self.eat("-");
                if !plus && !minus {
                    return self.fail("expected an offset");
                }
                let n = self.number()? as i64;
                offset = offset.wrapping_add(if minus { n.wrapping_neg() } else { n });
            }
            return Ok(PtxOperand::Address(base, offset));
        }
        if self.eat("!") {
            return Ok(PtxOperand::Not(self.word()?));
        }
        if self.eat("-") {
            return Ok(PtxOperand::Minus(self.word()?));
        }
        let word = self.word()?;
        if self.eat("|") {
            return Ok(PtxOperand::Pair(word, self.word()?));
        }
        if self.eat("+") {
            return Ok(PtxOperand::Address(word, self.number()? as i64));
        }
        Ok(PtxOperand::Name(word))
    }
}

/// Whether registers of a type are in the 32-bit bank.
fn is_word(ty: PtxType) -> bool {
    ty != PtxType::Pred && !ty.is_long()
}

/// The bits of a literal as a value of `ty`.
pub fn literal(word: &str, negative: bool, ty: PtxType) -> Option<u64> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let float = lex::float(word).map(|v| if negative { -v } else { v });
    let integer = lex::integer(word).map(|v| if negative { v.wrapping_neg() } else { v });
    // A hexadecimal literal keeps its bits, NaN payloads included.
    let bits = |prefix: [&str; 2]| {
        prefix.iter().find_map(|p| word.strip_prefix(p)).and_then(|d| u64::from_str_radix(d, 16).ok())
    };
    match ty {
        PtxType::F32 | PtxType::B32 | PtxType::Tf32 if !negative && bits(["0f", "0F"]).is_some() => bits(["0f", "0F"]),
        PtxType::F64 | PtxType::B64 if !negative && bits(["0d", "0D"]).is_some() => bits(["0d", "0D"]),
        PtxType::F32 | PtxType::Tf32 => Some((float? as f32).to_bits().into()),
        PtxType::F64 => Some(float?.to_bits()),
        PtxType::F16 | PtxType::Bf16 | PtxType::F16x2 | PtxType::Bf16x2 | PtxType::B16 if integer.is_none() => None,
        _ => integer.map(|v| v & (u64::MAX >> (64 - 8 * ty.bytes().min(8)))),
    }
}

/// Lays out a shared variable. Each has its own range of addresses, so that an access past its end cannot reach the
/// next one; within the range it starts where the device would put it.
fn shared<'a>(f: &mut Frame<'a>, d: &Declared<'a>) {
    let k = &mut f.kernel;
    let offset = k.shared_bytes.next_multiple_of(d.align);
    let address = (k.shared.len() as u64) << SHARED_SHIFT | (offset % (1 << SHARED_SHIFT)) as u64;
    k.shared.push(Shared { name: d.name.to_string(), address, bytes: d.count.map(|_| d.bytes()) });
    k.shared_bytes = offset + d.bytes();
    f.declare(d.name, Name::Variable(Space::Shared, address));
}
