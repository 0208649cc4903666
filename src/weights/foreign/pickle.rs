/*! A pickle machine that can build nothing but weights: the opcodes that `torch.save` writes (protocols 2 to 5;
CPython's `Lib/pickletools.py` describes them) and the few globals a state dict is made of (PyTorch's
`torch/_utils.py`). It calls no function. What programs keep beside their weights (settings, paths, dates, NumPy's numbers)
is recognised by its global and becomes one value without content; nothing is made of it. Every other opcode or global is
refused by its name, and every value must be what the opcode that takes it expects.

Values live in tables and refer to each other by number, so a value that is there a million times, or that holds itself,
costs nothing, and nothing that a file holds is ever walked, copied or freed by recursion. Texts stay in the file. */

use super::super::header::MAX_RANK;
use super::Fault;
use safetensors::Dtype;
use std::collections::HashMap;

/// Most values a pickle may push and remember. A network of a thousand tensors with its optimizer has some 100,000.
const MAX_VALUES: usize = 1 << 19;
/// Most tuples, lists and dictionaries that are being built at once.
const MAX_DEPTH: usize = 64;
/// Longest name of a global, a storage or a tensor.
pub const MAX_NAME: usize = 256;

/// One value: itself, or its number in a table of the [`Heap`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pickled<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: little endian, two's complement.
    Long(&'a [u8]),
    /// No file needs the number.
    Float,
    Text(&'a str),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
    /// Something beside the weights. Nobody needs to know what.
    Other,
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Global {
    OrderedDict,
    Counter,
    Size,
    /// `_rebuild_tensor`: storage, offset, extents, strides; `_rebuild_tensor_v2`: and two or three more.
    Tensor(usize, usize),
    Parameter,
    Storage(Dtype),
    /// Whatever is called or made of it is [`Pickled::Other`].
    Other,
}

/// Values of many values.
#[derive(Default)]
pub struct Heap<'a> {
    rows: Vec<Vec<Pickled<'a>>>,
    dicts: Vec<Dict<'a>>,
    pub storages: Vec<Storage<'a>>,
    pub tensors: Vec<Tensor>,
}

#[derive(Default)]
struct Dict<'a> {
    items: Vec<(Pickled<'a>, Pickled<'a>)>,
    /// Such a one may have attributes (`_metadata`), which are not kept.
    ordered: bool,
    /// Whether any value is a tensor.
    tensors: bool,
}

impl<'a> Dict<'a> {
    fn extend(&mut self, items: impl IntoIterator<Item = (Pickled<'a>, Pickled<'a>)>) {
        let tensors = &mut self.tensors;
        self.items.extend(items.into_iter().inspect(|(_, v)| *tensors |= matches!(v, Pickled::Tensor(_))));
    }
}

/// A storage as the pickle describes it. Where its bytes are is the container's business.
#[derive(Debug, PartialEq)]
pub struct Storage<'a> {
    pub dtype: Dtype,
    pub key: &'a str,
    /// Elements of the whole storage.
    pub elements: usize,
    /// First and number of the elements that a view has; old files only.
    pub view: Option<(usize, usize)>,
}

/// A tensor as the pickle describes it. Not yet known to lie inside its storage.
#[derive(Debug, PartialEq)]
pub struct Tensor {
    /// Number in [`Heap::storages`].
    pub storage: usize,
    /// Elements before the first.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl<'a> Heap<'a> {
    /// The values of a tuple or list.
    pub fn row(&self, v: Pickled) -> Option<&[Pickled<'a>]> {
        let (Pickled::Tuple(i) | Pickled::List(i)) = v else { return None };
        self.rows.get(i).map(|r| r.as_slice())
    }

    /// Keys and values of a dictionary, in the writer's order.
    pub fn dict(&self, v: Pickled) -> Option<&[(Pickled<'a>, Pickled<'a>)]> {
        let Pickled::Dict(i) = v else { return None };
        self.dicts.get(i).map(|d| d.items.as_slice())
    }

    /// The same, if any of the values is a tensor. Not searched for: a file may ask this of one dictionary many times.
    pub fn weights(&self, v: Pickled) -> Option<&[(Pickled<'a>, Pickled<'a>)]> {
        let Pickled::Dict(i) = v else { return None };
        self.dicts.get(i).filter(|d| d.tensors).map(|d| d.items.as_slice())
    }

    fn add_row(&mut self, row: Vec<Pickled<'a>>) -> usize {
        self.rows.push(row);
        self.rows.len() - 1
    }

    fn add_dict(&mut self, items: Vec<(Pickled<'a>, Pickled<'a>)>, ordered: bool) -> Pickled<'a> {
        let mut dict = Dict { ordered, ..Dict::default() };
        dict.extend(items);
        self.dicts.push(dict);
        Pickled::Dict(self.dicts.len() - 1)
    }
}

/// One pickle that begins at `*at`, which is then behind it. Places of errors are bytes of `bytes`.
pub fn load<'a>(bytes: &'a [u8], at: &mut usize) -> Result<(Pickled<'a>, Heap<'a>), Fault> {
    let mut m = Machine {
        bytes,
        at: *at,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        heap: Heap::default(),
        values: 0,
    };
    loop {
        let start = m.at;
        if let Some(v) = m.step().map_err(|problem| Fault::at(start, problem))? {
            *at = m.at;
            return Ok((v, m.heap));
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Pickled<'a>>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<usize, Pickled<'a>>,
    heap: Heap<'a>,
    /// How much was made so far.
    values: usize,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a> {
    /// One instruction; the result when it is the last.
    fn step(&mut self) -> Step<Option<Pickled<'a>>> {
        let op = self.number(1)? as u8;
        let v = match op {
            0x80 => {
                let version = self.number(1)?;
                if !(2..=5).contains(&version) {
                    return Err(format!("pickle protocol {version}; 2 to 5 are supported"));
                }
                return Ok(None);
            }
            // Frame: how many bytes come in one piece.
            0x95 => {
                let n = self.number(8)?;
                self.left(n)?;
                return Ok(None);
            }
            b'.' => return self.pop().map(Some),
            b'(' => {
                if self.marks.len() == MAX_DEPTH {
                    return Err(format!("values nested more than {MAX_DEPTH} deep"));
                }
                self.marks.push(self.stack.len());
                return Ok(None);
            }
            b'N' => Pickled::None,
            0x88 => Pickled::Bool(true),
            0x89 => Pickled::Bool(false),
            b'K' => Pickled::Int(self.number(1)? as i64),
            b'M' => Pickled::Int(self.number(2)? as i64),
            b'J' => Pickled::Int(self.number(4)? as i32 as i64),
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                Pickled::Float
            }
            b'X' | b'T' => self.text(4)?,
            // Bytes, and integers too long for one byte of length: none of them is of a tensor.
            b'B' | 0x8b => {
                let n = self.number(4)?;
                self.take(n)?;
                Pickled::Other
            }
            b'C' => {
                let n = self.number(1)?;
                self.take(n)?;
                Pickled::Other
            }
            0x8e | 0x96 => {
                let n = self.number(8)?;
                self.take(n)?;
                Pickled::Other
            }
            // Sets: an empty one, one that cannot change of what is above the mark.
            0x8f => Pickled::Other,
            0x91 => {
                self.marked()?;
                Pickled::Other
            }
            // New objects, from a class and its arguments.
            0x81 | 0x92 => {
                let n = if op == 0x81 { 2 } else { 3 };
                match self.pops(n)?[0] {
                    Pickled::Global(Global::Other) => Pickled::Other,
                    v => return Err(format!("a new object of {}", what(v))),
                }
            }
            b'U' | 0x8c => self.text(1)?,
            b')' => Pickled::Tuple(self.heap.add_row(Vec::new())),
            b']' => Pickled::List(self.heap.add_row(Vec::new())),
            b'}' => self.heap.add_dict(Vec::new(), false),
            b't' => {
                let row = self.marked()?;
                Pickled::Tuple(self.heap.add_row(row))
            }
            0x85..=0x87 => {
                let row = self.pops(op as usize - 0x84)?;
                Pickled::Tuple(self.heap.add_row(row))
            }
            b'h' | b'j' => {
                let i = self.number(if op == b'h' { 1 } else { 4 })?;
                *self.memo.get(&i).ok_or_else(|| format!("value {i} was never remembered"))?
            }
            b'q' | b'r' | 0x94 => {
                let i = match op {
                    b'q' => self.number(1)?,
                    b'r' => self.number(4)?,
                    _ => self.memo.len(),
                };
                let v = self.pop()?;
                self.memo.insert(i, v);
                v
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                global(module, name)?
            }
            0x93 => match self.pops(2)?[..] {
                [Pickled::Text(module), Pickled::Text(name)] => global(module, name)?,
                _ => return Err("a global without a name".into()),
            },
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?
            }
            b'R' => {
                let (args, call) = (self.pop()?, self.pop()?);
                self.reduce(call, args)?
            }
            b'b' => {
                let (state, v) = (self.pop()?, self.pop()?);
                match (state, v) {
                    (Pickled::Dict(_), Pickled::Dict(i)) if self.heap.dicts[i].ordered => v,
                    (_, Pickled::Other) => v,
                    _ => return Err(format!("attributes for {}", what(v))),
                }
            }
            b's' | b'u' => {
                let items = if op == b's' { self.pops(2)? } else { self.marked()? };
                let (pairs, []) = items.as_chunks::<2>() else { return Err("a key without a value".into()) };
                let v = self.pop()?;
                match v {
                    Pickled::Dict(i) => self.heap.dicts[i].extend(pairs.iter().map(|p| (p[0], p[1]))),
                    Pickled::Other => {}
                    _ => return Err(format!("items for {}", what(v))),
                }
                v
            }
            b'a' | b'e' | 0x90 => {
                let items = if op == b'a' { self.pops(1)? } else { self.marked()? };
                let v = self.pop()?;
                match v {
                    Pickled::List(i) if op != 0x90 => self.heap.rows[i].extend(items),
                    Pickled::Other => {}
                    _ => return Err(format!("elements for {}", what(v))),
                }
                v
            }
            _ => return Err(format!("opcode {op:#04x} is not allowed in a weight file; {SAVE_LESS}")),
        };
        self.spend(1)?;
        self.stack.push(v);
        Ok(None)
    }

    /// Something is made; not too much of it may be.
    fn spend(&mut self, n: usize) -> Step<()> {
        self.values += n;
        if self.values > MAX_VALUES { Err(format!("more than {MAX_VALUES} values")) } else { Ok(()) }
    }

    fn left(&self, n: usize) -> Step<()> {
        let left = self.bytes.len() - self.at;
        if n > left { Err(format!("{n} bytes are announced, and {left} are left")) } else { Ok(()) }
    }

    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        self.left(n)?;
        let bytes = self.bytes;
        self.at += n;
        Ok(&bytes[self.at - n..self.at])
    }

    /// An unsigned number of at most 8 bytes.
    fn number(&mut self, n: usize) -> Step<usize> {
        let value = self.take(n)?.iter().rev().fold(0u64, |a, b| a << 8 | *b as u64);
        usize::try_from(value).map_err(|_| format!("{value} is too large"))
    }

    /// Its length in one byte, then the number.
    fn long(&mut self) -> Step<Pickled<'a>> {
        let n = self.number(1)?;
        let bytes = self.take(n)?;
        if n > 8 {
            return Ok(Pickled::Long(bytes));
        }
        // The last byte carries the sign.
        let mut wide = [if bytes.last().is_some_and(|b| *b > 127) { 255 } else { 0 }; 8];
        wide[..n].copy_from_slice(bytes);
        Ok(Pickled::Int(i64::from_le_bytes(wide)))
    }

    /// Its length in `n` bytes, then the text.
    fn text(&mut self, n: usize) -> Step<Pickled<'a>> {
        let n = self.number(n)?;
        std::str::from_utf8(self.take(n)?).map(Pickled::Text).map_err(|_| "a text that is not UTF-8".into())
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(MAX_NAME).position(|b| *b == b'\n').ok_or("a global without a name")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a global whose name is not UTF-8".into())
    }

    /// The last `n` values in their order, none of them below a mark.
    fn pops(&mut self, n: usize) -> Step<Vec<Pickled<'a>>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(n).filter(|from| *from >= floor).ok_or("a value is missing")?;
        Ok(self.stack.split_off(from))
    }

    fn pop(&mut self) -> Step<Pickled<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("a value is missing".into());
        }
        self.stack.pop().ok_or_else(String::new)
    }

    /// Everything above the last mark, which is removed.
    fn marked(&mut self) -> Step<Vec<Pickled<'a>>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    /// `('storage', class, key, location, elements)`, in old files with a view: None or (key, first, elements).
    fn storage(&mut self, id: Pickled<'a>) -> Step<Pickled<'a>> {
        let (dtype, key, elements, view) = match *self.heap.row(id).unwrap_or(&[]) {
            [Pickled::Text("module"), ..] => return Err(format!("a whole module, and no state dict; {SAVE_LESS}")),
            [
                Pickled::Text("storage"),
                Pickled::Global(Global::Storage(d)),
                Pickled::Text(key),
                Pickled::Text(_),
                n,
            ] => (d, key, n, Pickled::None),
            [
                Pickled::Text("storage"),
                Pickled::Global(Global::Storage(d)),
                Pickled::Text(key),
                Pickled::Text(_),
                n,
                view,
            ] => (d, key, n, view),
            _ => return Err("not the description of a storage".into()),
        };
        if key.len() > MAX_NAME {
            return Err(format!("a storage's key of {} bytes", key.len()));
        }
        let view = match (view, self.heap.row(view)) {
            (Pickled::None, _) => None,
            (_, Some([Pickled::Text(_), first, n])) => Some((count(*first)?, count(*n)?)),
            _ => return Err("not the description of a view".into()),
        };
        self.heap.storages.push(Storage { dtype, key, elements: count(elements)?, view });
        Ok(Pickled::Storage(self.heap.storages.len() - 1))
    }

    /// What `call(*args)` comes to.
    fn reduce(&mut self, call: Pickled<'a>, args: Pickled<'a>) -> Step<Pickled<'a>> {
        let (Pickled::Global(call), Pickled::Tuple(args)) = (call, args) else {
            return Err(format!("a call of {}", what(call)));
        };
        let args = self.heap.rows[args].as_slice();
        match (call, args) {
            (Global::Other, _) => Ok(Pickled::Other),
            (Global::OrderedDict, []) => Ok(self.heap.add_dict(Vec::new(), true)),
            // Python 2: a list of pairs, copied here, which therefore counts.
            (Global::OrderedDict, [pairs @ Pickled::List(_)]) => {
                let pair = |v: &Pickled<'a>| match self.heap.row(*v) {
                    Some([key, value]) => Ok((*key, *value)),
                    _ => Err("an OrderedDict of something else than pairs".to_string()),
                };
                let pairs = self.heap.row(*pairs).unwrap_or(&[]);
                let n = pairs.len();
                if n > MAX_VALUES - self.values {
                    return Err(format!("more than {MAX_VALUES} values"));
                }
                let items = pairs.iter().map(pair).collect::<Step<Vec<_>>>()?;
                self.spend(n)?;
                Ok(self.heap.add_dict(items, true))
            }
            (Global::Counter, [counts @ Pickled::Dict(_)]) => Ok(*counts),
            (Global::Size, [extents @ Pickled::Tuple(_)]) => Ok(*extents),
            (Global::Parameter, [tensor @ Pickled::Tensor(_), Pickled::Bool(_), Pickled::Dict(_)]) => Ok(*tensor),
            (Global::Tensor(least, most), [Pickled::Storage(storage), offset, shape, strides, ..])
                if (least..=most).contains(&args.len()) =>
            {
                let counts = |v: &Pickled<'a>| match (v, self.heap.row(*v)) {
                    (Pickled::Tuple(_), Some(row)) if row.len() <= MAX_RANK => row.iter().map(|n| count(*n)).collect(),
                    (Pickled::Tuple(_), _) => Err(format!("a tensor of more than {MAX_RANK} extents")),
                    _ => Err(format!("a tensor with {} for extents", what(*v))),
                };
                let (shape, strides): (Vec<_>, Vec<_>) = (counts(shape)?, counts(strides)?);
                if shape.len() != strides.len() {
                    return Err(format!("a tensor of {} extents and {} strides", shape.len(), strides.len()));
                }
                // Sixteen numbers twice are more than one value is reckoned with.
                let (tensor, n) =
                    (Tensor { storage: *storage, offset: count(*offset)?, shape, strides }, 2 * args.len());
                self.spend(n)?;
                self.heap.tensors.push(tensor);
                Ok(Pickled::Tensor(self.heap.tensors.len() - 1))
            }
            _ => {
                let args: Vec<_> = args.iter().take(8).map(|v| what(*v)).collect();
                Err(format!("a call with wrong arguments: {}", args.join(", ")))
            }
        }
    }
}

/// The remedy for everything that is more than weights.
pub const SAVE_LESS: &str =
    "load it where it was written and save only the weights: torch.save(model.state_dict(), file)";

/// The globals of weight files.
fn global<'a>(module: &str, name: &str) -> Step<Pickled<'a>> {
    Ok(Pickled::Global(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("collections", "Counter") => Global::Counter,
        ("torch", "Size") => Global::Size,
        ("torch._utils", "_rebuild_tensor") => Global::Tensor(4, 4),
        ("torch._utils", "_rebuild_tensor_v2") => Global::Tensor(6, 7),
        ("torch._utils", "_rebuild_parameter") => Global::Parameter,
        ("torch", "FloatStorage") => Global::Storage(Dtype::F32),
        ("torch", "DoubleStorage") => Global::Storage(Dtype::F64),
        ("torch", "HalfStorage") => Global::Storage(Dtype::F16),
        ("torch", "BFloat16Storage") => Global::Storage(Dtype::BF16),
        ("torch", "LongStorage") => Global::Storage(Dtype::I64),
        ("torch", "IntStorage") => Global::Storage(Dtype::I32),
        ("torch", "ShortStorage") => Global::Storage(Dtype::I16),
        ("torch", "CharStorage") => Global::Storage(Dtype::I8),
        ("torch", "ByteStorage") => Global::Storage(Dtype::U8),
        ("torch", "BoolStorage") => Global::Storage(Dtype::BOOL),
        _ if beside(module, name) => Global::Other,
        _ if module.len() + name.len() > MAX_NAME => return Err("a global with an endless name".into()),
        _ => return Err(format!("`{module}.{name}` is not allowed in a weight file; {SAVE_LESS}")),
    }))
}

/// What programs keep beside their weights, and what that is made of: data alone. Functions that run something are not in
/// it, although none would be called.
fn beside(module: &str, name: &str) -> bool {
    const NUMPY: [&str; 4] = ["scalar", "_reconstruct", "_frombuffer", "array"];
    const BUILT_IN: [&str; 13] = [
        "set",
        "frozenset",
        "complex",
        "bytearray",
        "bytes",
        "slice",
        "range",
        "list",
        "dict",
        "tuple",
        "int",
        "float",
        "str",
    ];
    // Bits, and one letter before them: float32, bfloat16, uint8, complex64.
    let number = |name: &str| {
        ["float", "bfloat", "int", "uint", "complex", "bool", "qint", "quint"]
            .contains(&name.trim_end_matches(|c: char| c.is_ascii_digit()))
    };
    match module {
        "argparse" => name == "Namespace",
        "types" => name == "SimpleNamespace",
        "collections" => ["defaultdict", "deque"].contains(&name),
        "datetime" => ["datetime", "date", "time", "timedelta", "timezone"].contains(&name),
        "decimal" => name == "Decimal",
        "fractions" => name == "Fraction",
        "uuid" => name == "UUID",
        "enum" => name == "Enum",
        "pathlib" | "pathlib._local" => name.ends_with("Path"),
        "builtins" | "__builtin__" => BUILT_IN.contains(&name) || ["object", "bool", "type"].contains(&name),
        "copy_reg" | "copyreg" => name == "_reconstructor",
        "_codecs" => name == "encode",
        "numpy" => ["dtype", "ndarray"].contains(&name) || number(name.trim_end_matches('_')),
        "numpy.core.multiarray" | "numpy._core.multiarray" | "numpy.core.numeric" | "numpy._core.numeric" => {
            NUMPY.contains(&name)
        }
        "numpy.dtypes" => name.ends_with("DType"),
        "torch" => ["device", "dtype"].contains(&name) || number(name),
        "easydict" => name == "EasyDict",
        "yacs.config" | "fvcore.common.config" | "detectron2.config.config" => name == "CfgNode",
        _ => {
            let package = module.split('.').next().unwrap_or_default();
            // Their containers of settings, whose names begin with a capital as those of functions do not.
            let class = name.starts_with(|c: char| c.is_ascii_uppercase());
            class
                && ["omegaconf", "ml_collections", "pytorch_lightning", "lightning", "lightning_fabric", "typing"]
                    .contains(&package)
        }
    }
}

/// A number of elements.
fn count(v: Pickled) -> Step<usize> {
    match v {
        Pickled::Int(n) => usize::try_from(n).map_err(|_| format!("{n} elements")),
        _ => Err(format!("{} instead of a number of elements", what(v))),
    }
}

/// A value in words.
pub fn what(v: Pickled) -> &'static str {
    match v {
        Pickled::None => "None",
        Pickled::Bool(_) => "a truth value",
        Pickled::Int(_) | Pickled::Long(_) | Pickled::Float => "a number",
        Pickled::Text(_) => "a text",
        Pickled::Tuple(_) => "a tuple",
        Pickled::List(_) => "a list",
        Pickled::Dict(_) => "a dictionary",
        Pickled::Global(_) => "a class or function",
        Pickled::Storage(_) => "a storage",
        Pickled::Tensor(_) => "a tensor",
        Pickled::Other => "an object",
    }
}
