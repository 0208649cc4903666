//! Reading golden files: one safetensors file per op, tensors `<case>.<name>`, parameters of each case as JSON.

use crate::error::{Error, Result};
use crate::files;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A tensor in the frameworks' layout, whatever its element type was.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub dims: Vec<usize>,
    pub data: Vec<f64>,
    /// Rounded to float32 when the file was made.
    pub rounded: bool,
}

/// A golden file.
pub(super) struct Golden {
    pub path: PathBuf,
    pub op: String,
    /// Parameters by case, in order of the names.
    pub cases: BTreeMap<String, Map<String, Json>>,
    tensors: BTreeMap<String, Tensor>,
}

/// A request that cannot be carried out as written: exit code 2.
pub(super) fn broken(path: &Path, place: &str, problem: impl Into<String>) -> Error {
    let e = Error::file(path, problem).as_usage();
    if place.is_empty() { e } else { e.at(place) }
}

impl Golden {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes =
            files::read(path, files::TENSORS).map_err(|e| Error::io(path, "read the golden file", e).as_usage())?;
        let bad = |e| broken(path, "", format!("not a golden file: {e}")).fix("make it again");
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(bad)?;
        let file = SafeTensors::deserialize(&bytes).map_err(bad)?;
        let mut meta: BTreeMap<String, String> = header.metadata().iter().flatten().map(own).collect();
        let op = meta.remove("op").ok_or_else(|| broken(path, "__metadata__", "`op` is missing"))?;
        let mut cases = BTreeMap::new();
        for (case, text) in meta.into_iter().filter(|(k, _)| k != "seed" && k != "torch") {
            match serde_json::from_str(&text) {
                Ok(Json::Object(parameters)) => cases.insert(case, parameters),
                Ok(_) => return Err(broken(path, &case, "the parameters are not a JSON object")),
                Err(e) => return Err(broken(path, &case, format!("the parameters are not JSON: {e}"))),
            };
        }
        if cases.is_empty() {
            return Err(broken(path, "__metadata__", "no case"));
        }
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let bytes = view.data();
            let data: Vec<f64> = match view.dtype() {
                Dtype::F64 => numbers(bytes, f64::from_le_bytes),
                Dtype::F32 => numbers(bytes, |b| f32::from_le_bytes(b) as f64),
                Dtype::I64 => numbers(bytes, |b| i64::from_le_bytes(b) as f64),
                Dtype::U8 => bytes.iter().map(|b| *b as f64).collect(),
                Dtype::BOOL => bytes.iter().map(|b| (*b != 0) as u8 as f64).collect(),
                other => return Err(broken(path, &name, format!("element type {other:?} is not one of ours"))),
            };
            if data.is_empty() {
                return Err(broken(path, &name, format!("the shape {:?} holds nothing", view.shape())));
            }
            let rounded = view.dtype() == Dtype::F32;
            tensors.insert(name, Tensor { dims: view.shape().to_vec(), data, rounded });
        }
        Ok(Self { path: path.into(), op, cases, tensors })
    }

    /// A tensor that may be absent.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
    /// A tensor that must be there.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.find(name).ok_or_else(|| broken(&self.path, name, "the tensor is missing"))
    }
    /// A tensor of this shape.
    pub fn shaped(&self, name: &str, dims: &[usize]) -> Result<&Tensor> {
        let t = self.get(name)?;
        if t.dims == dims {
            return Ok(t);
        }
        Err(broken(&self.path, name, format!("the shape is {:?} instead of {dims:?}", t.dims)))
    }
    /// Names of tensors that begin with `prefix`, without it.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.tensors.keys().filter_map(move |k| k.strip_prefix(prefix))
    }
}

fn own((k, v): (&String, &String)) -> (String, String) {
    (k.clone(), v.clone())
}

fn numbers<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.chunks_exact(N).map(|b| f(b.try_into().expect("whole elements"))).collect()
}

impl Tensor {
    /// [N,C,H,W] -> [N,H,W,C], and OIHW -> KRSC; fewer extents are the same in both worlds, more become one.
    pub fn ours(&self) -> Tensor {
        let &[a, b, c, d] = &self.dims[..] else {
            let dims = if self.dims.len() > 4 { vec![self.data.len()] } else { self.dims.clone() };
            return Tensor { dims, ..self.clone() };
        };
        let mut data = Vec::with_capacity(self.data.len());
        for (n, h, w) in each(a, c, d) {
            data.extend((0..b).map(|ch| self.data[((n * b + ch) * c + h) * d + w]));
        }
        Tensor { dims: vec![a, c, d, b], data, rounded: self.rounded }
    }
}

/// All (n, h, w) in order.
fn each(n: usize, h: usize, w: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..n * h * w).map(move |i| (i / (h * w), i / w % h, i % w))
}
