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
        }
    }
}

/// First bytes of files that are no weights, and what they are.
pub const NOT_WEIGHTS: [(&[u8], &str); 6] = [
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<", "a web page or XML"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"\x93NUMPY", "a single NumPy array, not the archive of a network's"),
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
        return Err(Fault::at(0, "a pickle that torch.save did not write"));
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
        Format::Safetensors => Err(Fault::at(0, "is read by its own parser")),
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
    pub place: Place,
}

/// Where an array's bytes are, little endian.
pub enum Place {
    /// In the file, from the element whose indices are all 0; may be longer than the array needs.
    Mapped(Range<usize>),
    /// Packed: this makes the bytes of the file's when they are asked for, so that one array at a time is in memory. The
    /// number is how many there will be; strides hold for them as for mapped ones.
    Packed(usize, Unpack),
}

/// From the bytes of the whole file to those of one array.
pub type Unpack = Box<dyn Fn(&[u8]) -> Result<Vec<u8>, Fault> + Send + Sync>;

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Place::Mapped(r) => write!(f, "{r:?}"),
            Place::Packed(n, _) => write!(f, "{n} bytes, packed"),
        }
    }
}

/// Why a file is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `byte 137`, `entry data.pkl`, `tensor features.0.weight`.
    pub place: String,
    pub problem: String,
}

impl Fault {
    pub fn at(byte: usize, problem: impl Into<String>) -> Self {
        Self { place: format!("byte {byte}"), problem: problem.into() }
    }

    pub fn of(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }

    /// The error people see: with what to do about files that hold more than weights, else the usual remedy.
    pub fn error(self, path: &Path) -> Error {
        let (problem, remedy) = match self.problem.strip_suffix(pickle::SAVE_LESS) {
            Some(problem) => (problem.trim_end_matches("; ").to_string(), pickle::SAVE_LESS),
            None => (self.problem, "fetch the file again, or convert it to safetensors"),
        };
        Error::file(path, problem).at(self.place).fix(remedy)
    }
}

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
    /// file, names are there and come once.
    pub fn check(self, file: usize) -> Result<Self, Fault> {
        let mut seen = HashSet::new();
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
                Place::Mapped(r) if r.start <= r.end && r.end <= file => r.len(),
                Place::Mapped(r) => return refuse(format!("bytes {}..{} of a file of {file}", r.start, r.end)),
                Place::Packed(n, _) => *n,
            };
            if extent > there {
                return refuse(format!("needs {extent} bytes and has {there}"));
            }
        }
        Ok(self)
    }
}
