/*! Weight files of other programs, as they are published. Nothing is computed from them: [`super::import`] reads one once,
permutes it into our layout and writes a file of ours, and only that is ever mapped again.

| format | container | module |
|---|---|---|
| safetensors | header and data | [`super::file`] |
| PyTorch since 1.6 | zip, a pickle and one entry per storage | [`torch`] |
| PyTorch before | a stream of pickles and storages | [`torch`] |
| Keras `.h5`, `.weights.h5` | HDF5 | [`hdf5`], [`keras`] |
| Keras `.keras` | zip with HDF5 inside | [`keras`] |
| Caffe `.caffemodel` | protobuf | [`caffe`] |
| ONNX | protobuf | [`onnx`] |
| `.npz` | zip of `.npy` | [`npy`] |
| safetensors in shards | an index in JSON, files beside it | [`super::shards`] |

These files come from strangers. Every parser is a function of the file's bytes that takes nothing on trust: lengths are
held against the bytes that are there before anything is allocated, depth and counts have limits, no value is copied
before it is asked for, and what is not understood is refused by its name. The parsers are free of `unsafe`. */

#![forbid(unsafe_code)]

pub mod caffe;
pub mod hdf5;
pub mod keras;
pub mod npy;
pub mod onnx;
pub mod pickle;
pub mod proto;
#[cfg(test)]
mod testing;
pub mod torch;
pub mod zip;

use super::header::MAX_RANK;
use crate::error::Error;
use safetensors::Dtype;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

/// What a file is, told from its bytes and never from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Safetensors,
    TorchZip,
    TorchLegacy,
    Hdf5,
    Keras,
    Caffe,
    Onnx,
    Npz,
    Shards,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::TorchZip => "PyTorch zip",
            Format::TorchLegacy => "PyTorch legacy stream",
            Format::Hdf5 => "Keras HDF5",
            Format::Keras => "Keras zip",
            Format::Caffe => "caffemodel",
            Format::Onnx => "ONNX",
            Format::Npz => "npz",
            Format::Shards => "safetensors in shards",
        }
    }
}

/// First bytes of files that are no weights, and what they are.
pub const NOT_WEIGHTS: [(&[u8], &str); 5] = [
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<", "a web page or XML"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
];

/// What a file is, from its first bytes and, for archives, the names inside.
pub fn sniff(bytes: &[u8]) -> Result<Format, Fault> {
    if let Some((_, what)) = NOT_WEIGHTS.iter().find(|k| bytes.starts_with(k.0)) {
        return Err(Fault::at(0, format!("not a weight file but {what}")));
    }
    if bytes.starts_with(b"PK\x03\x04") {
        let names = zip::entries(bytes)?;
        let any = |end: &str| names.iter().any(|e| e.name.ends_with(end));
        return match (any("data.pkl"), any(".weights.h5"), any(".npy")) {
            (true, false, _) => Ok(Format::TorchZip),
            (false, true, _) => Ok(Format::Keras),
            (false, false, true) => Ok(Format::Npz),
            _ => Err(Fault::at(0, "a zip archive, but neither of PyTorch nor of Keras nor of NumPy")),
        };
    }
    if bytes.starts_with(b"\x93NUMPY") {
        let problem = "not a weight file but a single NumPy array, perhaps a pickled dictionary of layers";
        return Err(Fault::at(0, problem).fix(npy::UNPICKLE));
    }
    // The length of a header begins so as well, and goes on with zeros.
    if bytes.first() == Some(&b'{') && bytes.get(1) != Some(&0) {
        return Ok(Format::Shards);
    }
    if torch::is_legacy(bytes) {
        return Ok(Format::TorchLegacy);
    }
    if hdf5::is_hdf5(bytes) {
        return Ok(Format::Hdf5);
    }
    if bytes.get(8) == Some(&b'{') {
        return Ok(Format::Safetensors);
    }
    if bytes.first() == Some(&0x80) {
        return Err(Fault::at(0, format!("a pickle that torch.save did not write; {}", pickle::SAVE_LESS)));
    }
    if onnx::is_onnx(bytes) {
        return Ok(Format::Onnx);
    }
    if caffe::is_caffe(bytes) {
        return Ok(Format::Caffe);
    }
    Err(Fault::at(0, "neither safetensors, PyTorch, Keras, Caffe, ONNX nor npz"))
}

/// Takes a file of that format apart. Safetensors have a parser of their own ([`super::header`]).
pub fn read(format: Format, bytes: &[u8]) -> Result<Archive, Fault> {
    match format {
        Format::Safetensors | Format::Shards => Err(Fault::at(0, "is read by its own parser")),
        Format::TorchZip | Format::TorchLegacy => torch::read(bytes),
        Format::Hdf5 | Format::Keras => keras::read(bytes),
        Format::Caffe => caffe::read(bytes),
        Format::Onnx => onnx::read(bytes),
        Format::Npz => npy::read(bytes),
    }
}

/// A file taken apart: its arrays, in the writer's order, and what it says about itself.
#[derive(Debug)]
pub struct Archive {
    pub format: Format,
    pub arrays: Vec<Array>,
    pub notes: BTreeMap<String, String>,
    /// Names of the files in the same folder that hold values.
    pub beside: Vec<String>,
}

/// One array: what it is and where its values lie.
#[derive(Debug)]
pub struct Array {
    /// The writer's name: `features.0.weight`, `block1_conv1/kernel`, `conv1_1/0`.
    pub name: String,
    pub dtype: Dtype,
    /// Outermost first, in the writer's layout.
    pub shape: Vec<usize>,
    /// Elements from one index to the next, for each axis: [`row_major`] unless the writer says otherwise.
    pub strides: Vec<usize>,
    pub place: ArrayData,
}

/// Where an array's bytes are, little endian.
pub enum ArrayData {
    /// In the file, from the element whose indices are all 0; may be longer than the array needs.
    Mapped(Range<usize>),
    /// Packed: this makes the bytes of the file's when they are asked for, so that one array at a time is in memory. The
    /// number is how many there will be; strides hold for them as for mapped ones.
    Packed(usize, Unpack),
    /// In a file beside this one, by its number in [`Archive::beside`].
    Beside(usize, Range<usize>),
}

/// From the bytes of the whole file to those of one array.
pub type Unpack = Box<dyn Fn(&[u8]) -> Result<Vec<u8>, Fault> + Send + Sync>;

impl std::fmt::Debug for ArrayData {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            ArrayData::Mapped(r) => write!(f, "{r:?}"),
            ArrayData::Packed(n, _) => write!(f, "{n} bytes, packed"),
            ArrayData::Beside(file, r) => write!(f, "{r:?} of file {file}"),
        }
    }
}

/// Why a file is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `byte 137`, `entry data.pkl`, `tensor features.0.weight`.
    pub place: String,
    pub problem: String,
    /// None for the usual one.
    pub remedy: Option<&'static str>,
}

impl Fault {
    pub fn at(byte: usize, problem: impl Into<String>) -> Self {
        Self::of(format!("byte {byte}"), problem)
    }

    pub fn of(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into(), remedy: None }
    }

    /// What to do about it, where that is known.
    pub fn fix(self, remedy: &'static str) -> Self {
        Self { remedy: Some(remedy), ..self }
    }

    /// The error people see: with what to do about files that hold more than weights, else the usual remedy. Nobody can
    /// tell from the bytes whether a file is damaged or merely of another kind.
    pub fn error(self, path: &Path) -> Error {
        const USUAL: &str = "if it is as long as its publisher says, convert it to safetensors, else fetch it anew";
        let (problem, remedy) = match self.problem.strip_suffix(pickle::SAVE_LESS) {
            Some(problem) => (problem.trim_end_matches("; ").to_string(), pickle::SAVE_LESS),
            None => (self.problem, self.remedy.unwrap_or(USUAL)),
        };
        Error::file(path, problem).at(self.place).fix(remedy)
    }
}

/// Convolutions of a VGG in each block, by their number: VGG11, 13, 16, 19.
pub const BLOCKS: [[usize; 5]; 4] = [[1, 1, 2, 2, 2], [2, 2, 2, 2, 2], [2, 2, 3, 3, 3], [2, 2, 4, 4, 4]];

/// Bytes that the arrays of a small file may come to when each is read once, and how many times its length those of any
/// other. Real files hold each value once; a thousand views of one storage, or zeros that were deflated, are hours of
/// reading in a few kilobytes.
const FREE_BYTES: usize = 64 << 20;
const TIMES: usize = 100;
/// Most bytes of all names together: a network of a thousand tensors has some 40 KB.
const MAX_NAMES: usize = 4 << 20;

/// Strides of an array whose last index runs fastest.
pub fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        // An array that overflows is refused by `check`; until then any stride will do.
        strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
    }
    strides
}

impl Array {
    /// Bytes from the first to behind the last element that any index reaches, and no fewer than the elements need one
    /// by one: strides of 0 would make a terabyte of four bytes. None if they cannot be counted, 0 for an array without
    /// elements.
    fn extent(&self) -> Option<usize> {
        let size = self.dtype.bitsize().checked_div(8).filter(|b| b * 8 == self.dtype.bitsize())?;
        // A zero extent must not hide an overflow of the others.
        let dense = self.shape.iter().try_fold(size, |a, b| a.checked_mul((*b).max(1)))?;
        if self.shape.contains(&0) {
            return Some(0);
        }
        let last =
            self.shape.iter().zip(&self.strides).try_fold(0usize, |a, (n, s)| a.checked_add((n - 1).checked_mul(*s)?));
        Some(last?.checked_add(1)?.checked_mul(size)?.max(dense))
    }
}

impl Archive {
    /// What every parser's result must fulfil, whatever the parser believes: each element of each array lies inside the
    /// file, names are there and come once, and reading all of it is no more work than a file of that length deserves.
    /// Whoever opens the files beside it holds their ranges against their lengths.
    pub fn check(self, file: usize) -> Result<Self, Fault> {
        let (mut seen, mut names, mut work) = (HashSet::new(), 0usize, 0usize);
        for a in &self.arrays {
            let refuse = |problem: String| Err(Fault::of(format!("tensor `{}`", a.name), problem));
            if a.name.is_empty() || !seen.insert(a.name.as_str()) {
                return refuse("the name is empty or comes twice".into());
            }
            if a.shape.len() > MAX_RANK || a.strides.len() != a.shape.len() {
                return refuse(format!("{} extents, at most {MAX_RANK} are supported", a.shape.len()));
            }
            let Some(extent) = a.extent() else { return refuse("is too large".into()) };
            let there = match &a.place {
                ArrayData::Mapped(r) if r.start <= r.end && r.end <= file => r.len(),
                ArrayData::Mapped(r) => return refuse(format!("bytes {}..{} of a file of {file}", r.start, r.end)),
                ArrayData::Packed(n, _) => *n,
                ArrayData::Beside(i, r) if *i < self.beside.len() && r.start <= r.end => r.len(),
                ArrayData::Beside(i, r) => {
                    return refuse(format!("bytes {}..{} of file {i} beside it", r.start, r.end));
                }
            };
            if extent > there {
                return refuse(format!("needs {extent} bytes and has {there}"));
            }
            names += a.name.len();
            work = work.saturating_add(match &a.place {
                ArrayData::Mapped(_) => extent,
                ArrayData::Packed(n, _) => *n,
                // That file has a length of its own.
                ArrayData::Beside(..) => 0,
            });
            if names > MAX_NAMES || work > FREE_BYTES + TIMES * file {
                return refuse(format!(
                    "with the tensors before it {work} bytes of values and {names} of names, out of a file of {file} bytes"
                ));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_little_work() {
        let views = |n: usize, name: usize| {
            let array = |i: usize| Array {
                name: format!("{i:0name$}"),
                dtype: Dtype::F32,
                shape: vec![25_000],
                strides: vec![1],
                place: ArrayData::Mapped(0..100_000),
            };
            let arrays = (0..n).map(array).collect();
            Archive { format: Format::Npz, arrays, notes: BTreeMap::new(), beside: vec![] }.check(100_000)
        };
        // 64 MiB and a hundred times 100 KB: 771 of them.
        assert!(views(771, 4).is_ok());
        let e = views(772, 4).unwrap_err();
        assert!(e.problem.contains("77200000 bytes of values") && e.place == "tensor `0771`", "{e:?}");
        assert!(views(700, 7000).unwrap_err().problem.contains("of names"));
    }
}
