/*! Which tensors of two weight files differ, and by how much, whoever wrote them: where both are known networks, names
and layouts are ours first, so that a torchvision file and what was imported from it are equal. */

use super::foreign::Array;
use super::header::shape;
use super::import::Foreign;
use super::names::NamedTensor;
use super::strided::Strided;
use crate::error::{Result, clean};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// One tensor of either file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDiff {
    /// Under our name where it has one.
    pub name: String,
    pub what: TensorDifference,
}

impl TensorDiff {
    /// A row of a table: name, values, those that differ, the largest difference, the relative one, a remark.
    pub fn cells(&self) -> Vec<String> {
        let mut cells = vec![clean(&self.name)];
        let (numbers, remark) = match &self.what {
            TensorDifference::OnlyFirst => (None, "only in the first".into()),
            TensorDifference::OnlySecond => (None, "only in the second".into()),
            TensorDifference::Shapes(a, b) => (None, format!("{} and {}", shape(a), shape(b))),
            TensorDifference::NoNumbers => (None, "not compared: no floating-point numbers".into()),
            TensorDifference::Values { elements, unequal, largest, relative } => (
                Some([elements.to_string(), unequal.to_string(), format!("{largest:.3e}"), format!("{relative:.3e}")]),
                String::new(),
            ),
        };
        cells.extend(numbers.unwrap_or_else(|| ["-"; 4].map(String::from)));
        cells.push(remark);
        cells
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let mut value = match &self.what {
            TensorDifference::OnlyFirst => json!({ "status": "only-first" }),
            TensorDifference::OnlySecond => json!({ "status": "only-second" }),
            TensorDifference::Shapes(a, b) => json!({ "status": "shapes", "first_shape": a, "second_shape": b }),
            TensorDifference::NoNumbers => json!({ "status": "not-compared" }),
            TensorDifference::Values { elements, unequal, largest, relative } => json!({
                "status": if *unequal == 0 { "equal" } else { "differs" },
                "values": elements,
                "unequal": unequal,
                "largest_difference": largest,
                "relative_rms": relative,
            }),
        };
        value["name"] = json!(self.name);
        value
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum TensorDifference {
    OnlyFirst,
    OnlySecond,
    Shapes(Vec<usize>, Vec<usize>),
    /// Element types that weights do not have: not compared.
    NoNumbers,
    /// Over all elements; two NaN are equal.
    Values {
        elements: usize,
        unequal: usize,
        /// Largest |a - b|; NaN where one of the two is NaN.
        largest: f64,
        /// Root of the mean of (a - b)^2 over that of a^2.
        relative: f64,
    },
}

impl TensorDifference {
    pub fn equal(&self) -> bool {
        matches!(self, TensorDifference::Values { unequal: 0, .. })
    }
}

/// Compares every tensor of both files, sorted by name.
pub fn diff(a: impl AsRef<Path>, b: impl AsRef<Path>) -> Result<Vec<TensorDiff>> {
    let (a, b) = (Foreign::open(a)?, Foreign::open(b)?);
    let (mine, theirs) = (by_name(&a), by_name(&b));
    let mut rows = vec![];
    for (name, x) in &mine {
        let what = match theirs.get(name) {
            Some(y) => compare((&a, *x), (&b, *y))?,
            None => TensorDifference::OnlyFirst,
        };
        rows.push(TensorDiff { name: name.to_string(), what });
    }
    let second = theirs.keys().filter(|n| !mine.contains_key(*n));
    rows.extend(second.map(|n| TensorDiff { name: n.to_string(), what: TensorDifference::OnlySecond }));
    rows.sort_by(|x, y| x.name.cmp(&y.name));
    Ok(rows)
}

/// An array of a file, and what it is called here.
type Named<'a> = (&'a Array, &'a NamedTensor);

fn by_name(f: &Foreign) -> BTreeMap<&str, Named<'_>> {
    f.arrays().map(|(array, source)| (&source.ours[..], (array, source))).collect()
}

/// Values held at a time of each file.
const ROWS: usize = 1 << 20;

fn compare((a, (x, sx)): (&Foreign, Named), (b, (y, sy)): (&Foreign, Named)) -> Result<TensorDifference> {
    if sx.shape != sy.shape {
        return Ok(TensorDifference::Shapes(sx.shape.clone(), sy.shape.clone()));
    }
    if !is_float(a, x) || !is_float(b, y) {
        return Ok(TensorDifference::NoNumbers);
    }
    a.view(x, &sx.axes, |x| b.view(y, &sy.axes, |y| values(&x, &y)))?
}

fn is_float(file: &Foreign, array: &Array) -> bool {
    use safetensors::Dtype as D;
    matches!(array.dtype, D::F16 | D::BF16 | D::F32 | D::F64) || file.scales_of(array).is_some()
}

/// Both have the same shape.
fn values(x: &Strided, y: &Strided) -> TensorDifference {
    let (mut unequal, mut largest, mut square, mut scale) = (0, 0.0f64, 0.0, 0.0);
    let row = x.numel().checked_div(x.shape().first().copied().unwrap_or(1)).unwrap_or(0);
    let step = (ROWS / row.max(1)).max(1);
    let rows = x.shape().first().copied().unwrap_or(1);
    let (mut p, mut q) = (vec![], vec![]);
    for first in (0..if row == 0 { 0 } else { rows }).step_by(step) {
        let n = step.min(rows - first);
        let read = |v: &Strided, out: &mut Vec<f32>| {
            out.resize(n * row, 0.0);
            if v.shape().is_empty() { v.read(out) } else { v.rows(first, n).read(out) }
        };
        read(x, &mut p);
        read(y, &mut q);
        for (&a, &b) in p.iter().zip(&q) {
            scale += f64::from(a) * f64::from(a);
            if a == b || (a.is_nan() && b.is_nan()) {
                continue;
            }
            unequal += 1;
            let d = f64::from(a) - f64::from(b);
            square += d * d;
            // NaN stays once it is there.
            largest = if largest.is_nan() || d.is_nan() { f64::NAN } else { largest.max(d.abs()) };
        }
    }
    let relative = if unequal == 0 { 0.0 } else { (square / scale).sqrt() };
    TensorDifference::Values { elements: x.numel(), unequal, largest, relative }
}
