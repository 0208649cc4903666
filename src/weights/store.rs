/*! How weight files of ours store numbers: float32, or narrower where nobody sees the difference.

Filters and dense weights (tensors `w` of two or more axes, the first of which counts filters or units) may be stored as

* **float16** (`F16`): every value rounded to the nearest, ties to even. Values beyond 65,504 are refused.
* **8 bits a filter** (`I8`, and a float32 tensor `NAME.scale` with one number a filter beside it):
  `scale[k] = max_i |w[k,i]| / 127` in float32, `q[k,i]` = `w[k,i] / scale[k]` in float64, rounded to the nearest, ties to
  even, and kept within -127 to 127. What is computed with is `q[k,i] * scale[k]`, rounded once to float32. It is off by at
  most half a scale. A filter of zeros has scale 0 and q 0, and so has one whose scale is too small for float32.

Everything else (biases, batch norm) stays float32: it is small, and each number of it counts for a whole channel.

Files with `I8` values are read as the numbers that they stand for by everything here: [`super::file`] and
[`super::import`]; the scales are part of their tensor and are not listed. Values are widened as they are read: 14.7
million take a few milliseconds, and every device computes with the same float32 numbers. */

use half::f16;
use rayon::prelude::*;
use safetensors::Dtype;
use std::io::{self, Write};

/// How large tensors are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// 4 bytes a weight, mapped and used as they lie.
    #[default]
    Float32,
    /// 2 bytes a weight.
    F16,
    /// 1 byte a weight and 4 a filter.
    Int8,
}

/// Largest magnitude of a stored 8-bit value.
const LARGEST: f32 = 127.0;

/// Name of the scales of a tensor.
pub fn scale_name(tensor: &str) -> String {
    format!("{tensor}.scale")
}

impl Store {
    /// Element type of a tensor of this shape.
    pub fn dtype(self, shape: &[usize]) -> Dtype {
        match self {
            Store::F16 if shape.len() >= 2 => Dtype::F16,
            Store::Int8 if shape.len() >= 2 => Dtype::I8,
            _ => Dtype::F32,
        }
    }
}

/// `max |w| / 127`.
fn scale(filter: &[f32]) -> f32 {
    filter.iter().fold(0.0f32, |m, x| m.max(x.abs())) / LARGEST
}

/// The 8 bits of a weight.
fn quantised(w: f32, scale: f32) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    let largest = f64::from(LARGEST);
    (f64::from(w) / f64::from(scale)).round_ties_even().clamp(-largest, largest) as i8
}

/// What of a filter is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Values,
    /// One a filter.
    Scales,
}

/// Takes filters of float32 values, little endian, and writes them as a [`Store`] has them. Whole filters only: flush fails
/// where a part of one is left.
pub struct Narrow<'a> {
    to: &'a mut dyn Write,
    dtype: Dtype,
    what: What,
    /// Bytes of a filter.
    row: usize,
    /// The beginning of a filter.
    held: Vec<u8>,
}

impl<'a> Narrow<'a> {
    /// For a tensor of this shape, of element type `dtype` when it is written.
    pub fn new(to: &'a mut dyn Write, dtype: Dtype, what: What, shape: &[usize]) -> Self {
        let row = 4 * shape.iter().skip(1).product::<usize>().max(1);
        Self { to, dtype, what, row, held: vec![] }
    }

    fn filters(&mut self, bytes: &[u8]) -> io::Result<()> {
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let mut out = vec![];
        for filter in values.chunks(self.row / 4) {
            match (self.dtype, self.what) {
                (Dtype::I8, What::Scales) => out.extend(scale(filter).to_le_bytes()),
                (Dtype::I8, What::Values) => {
                    let scale = scale(filter);
                    out.extend(filter.iter().map(|w| quantised(*w, scale) as u8));
                }
                (Dtype::F16, _) => {
                    if let Some(w) = filter.iter().find(|w| !f16::from_f32(**w).is_finite()) {
                        let why = format!("{w} is beyond the range of float16; store it as float32 or int8");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                    }
                    out.extend(filter.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()));
                }
                _ => out.extend(filter.iter().flat_map(|w| w.to_le_bytes())),
            }
        }
        self.to.write_all(&out)
    }
}

impl Write for Narrow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        let whole = self.held.len() / self.row * self.row;
        let rest = self.held.split_off(whole);
        let filters = std::mem::replace(&mut self.held, rest);
        self.filters(&filters)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.held.len() {
            0 => self.to.flush(),
            n => Err(io::Error::other(format!("{n} bytes are not a whole filter"))),
        }
    }
}

/// One scale a filter, of a part of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// Of the whole tensor: float32, little endian.
    bytes: &'a [u8],
    /// Values of a filter.
    row: usize,
    /// Index of the part's first value.
    first: usize,
}

impl<'a> Scales<'a> {
    /// Of a tensor with these extents. None if that has not one filter for each scale.
    pub fn new(bytes: &'a [u8], shape: &[usize]) -> Option<Self> {
        let row = shape.iter().skip(1).product::<usize>().max(1);
        (shape.len() >= 2 && bytes.len() == 4 * shape[0]).then_some(Self { bytes, row, first: 0 })
    }

    /// Of what begins `values` later.
    pub fn from(self, values: usize) -> Self {
        Self { first: self.first + values, ..self }
    }

    fn of(&self, filter: usize) -> f32 {
        f32::from_le_bytes(self.bytes[4 * filter..][..4].try_into().expect("4 bytes"))
    }

    /// Multiplies values by their scales, each of which begins where the part does.
    pub fn apply(&self, values: &mut [f32]) {
        self.walk(values.len(), |range, scale| values[range].iter_mut().for_each(|x| *x *= scale));
    }

    /// The numbers that `q` stand for.
    pub fn widen(&self, q: &[u8], out: &mut [f32]) {
        /// Values that a thread converts at a time.
        const SHARE: usize = 1 << 17;
        out.par_chunks_mut(SHARE).zip(q.par_chunks(SHARE)).enumerate().for_each(|(i, (out, q))| {
            self.from(i * SHARE).walk(out.len(), |range, scale| {
                out[range.clone()].iter_mut().zip(&q[range]).for_each(|(x, q)| *x = f32::from(*q as i8) * scale);
            });
        });
    }

    /// The stretches of `n` values that have one scale.
    fn walk(&self, n: usize, mut f: impl FnMut(std::ops::Range<usize>, f32)) {
        let mut at = 0;
        while at < n {
            let (filter, inside) = ((self.first + at) / self.row, (self.first + at) % self.row);
            let end = n.min(at + self.row - inside);
            f(at..end, self.of(filter));
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    fn narrow(dtype: Dtype, what: What, shape: &[usize], values: &[f32], piece: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![];
        let mut w = Narrow::new(&mut out, dtype, what, shape);
        bytemuck::cast_slice::<f32, u8>(values).chunks(piece).try_for_each(|b| w.write_all(b))?;
        w.flush()?;
        Ok(out)
    }

    #[test]
    fn eight_bits_by_hand() {
        let w = [1.27, -0.005, 0.015, 0.0, 0.0, 0.0, 254.0, -254.0, 1.0];
        let scales = narrow(Dtype::I8, What::Scales, &[3, 3], &w, 5).unwrap();
        let scales: Vec<f32> = bytemuck::pod_collect_to_vec(&scales);
        assert_eq!(scales, [1.27 / 127.0, 0.0, 2.0]);
        let q = narrow(Dtype::I8, What::Values, &[3, 3], &w, 5).unwrap();
        // 1 / 2 is a tie, which goes to even. -0.005 and 0.015 in float32 over 0.01 in float32 are none.
        let by_hand = [-0.005f32, 0.015].map(|w| (f64::from(w) / f64::from(scales[0])).round_ties_even() as i8);
        let q: Vec<i8> = q.into_iter().map(|b| b as i8).collect();
        assert_eq!(q, [127, by_hand[0], by_hand[1], 0, 0, 0, 127, -127, 0]);
    }

    /// What is read is within half a scale of what was written, in whatever pieces it is read.
    #[test]
    fn eight_bits_come_back_within_half_a_scale() {
        let (shape, mut rng) = ([37usize, 3, 3, 11], Rng::new(1, Stream::Test(0), 0));
        let n: usize = shape.iter().product();
        let w: Vec<f32> = (0..n).map(|i| (rng.uniform() - 0.5) * ((i / 99) as f32 - 3.0)).collect();
        let q = narrow(Dtype::I8, What::Values, &shape, &w, 1001).unwrap();
        let bytes = narrow(Dtype::I8, What::Scales, &shape, &w, 1001).unwrap();
        let scales = Scales::new(&bytes, &shape).unwrap();
        let mut back = vec![f32::NAN; n];
        scales.widen(&q, &mut back);
        for (i, (w, x)) in w.iter().zip(&back).enumerate() {
            let scale = scales.of(i / 99);
            // One rounding of the product, of at most 127 scales, beside the rounding to 8 bits.
            let tolerance = 0.5 * scale * (1.0 + 127.0 * f32::EPSILON);
            assert!((w - x).abs() <= tolerance, "{i}: {w} {x}");
        }
        for (first, len) in [(0, 1), (98, 2), (50, 400), (n - 1, 1)] {
            let mut part: Vec<f32> = q[first..first + len].iter().map(|b| f32::from(*b as i8)).collect();
            scales.from(first).apply(&mut part);
            assert_eq!(part, back[first..first + len]);
        }
        // Again from what was read: the same 8 bits, so converting twice changes nothing more.
        assert_eq!(narrow(Dtype::I8, What::Values, &shape, &back, 99).unwrap(), q);
    }

    #[test]
    fn more_than_a_thread_takes_at_once() {
        let shape = [3usize, 100_000];
        let q: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let bytes: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|s| s.to_le_bytes()).collect();
        let mut out = vec![0.0; q.len()];
        Scales::new(&bytes, &shape).unwrap().widen(&q, &mut out);
        let want = |i: usize| f32::from(q[i] as i8) * (1 + i / 100_000) as f32;
        assert!((0..q.len()).all(|i| out[i] == want(i)));
    }

    #[test]
    fn half_precision_rounds_and_refuses() {
        let out = narrow(Dtype::F16, What::Values, &[1, 3], &[1.0, 1.0 + 1.0 / 2048.0, -65504.0], 12).unwrap();
        let back: Vec<f32> = out.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect();
        assert_eq!(back, [1.0, 1.0, -65504.0]);
        let e = narrow(Dtype::F16, What::Values, &[1, 2], &[1.0, 65520.0], 8).unwrap_err().to_string();
        assert!(e.contains("65520 is beyond the range of float16"), "{e}");
        assert!(narrow(Dtype::F32, What::Values, &[2, 2], &[1.0; 3], 12).is_err(), "half a filter");
    }

    #[test]
    fn only_what_is_large_is_narrowed() {
        for (store, dtype) in [(Store::Float32, Dtype::F32), (Store::F16, Dtype::F16), (Store::Int8, Dtype::I8)] {
            assert_eq!([store.dtype(&[64, 3, 3, 3]), store.dtype(&[5, 7])], [dtype; 2]);
            assert_eq!([store.dtype(&[64]), store.dtype(&[])], [Dtype::F32; 2]);
        }
        let four = [0; 4];
        assert!(Scales::new(&four, &[1, 9]).is_some());
        assert!(Scales::new(&four, &[2, 9]).is_none() && Scales::new(&four, &[1]).is_none());
    }
}
