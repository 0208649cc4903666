/*! An array as somebody wrote it, seen in our order: which axes it has, how far apart their elements lie, and a way to
write it out row by row as float32 that needs neither a copy of the whole nor an order of the source.

Every foreign layout becomes ours by splitting an axis and exchanging axes: OIHW filters are `[K,C,R,S] -> [K,R,S,C]`,
HWIO ones `[R,S,C,K] -> [K,R,S,C]`, a dense layer behind a C,H,W flatten `[out, C*H*W] -> [out, C,H,W] -> [out, H,W,C]`,
Keras's `[in, out] -> [out, in]`. None of it moves a value: strides do. */

use super::store::Scales;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use std::io::{self, Write};

/// How an array of somebody's becomes ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Axes {
    /// The array's axes after one of them was split; empty to take them as they are.
    pub split: Vec<usize>,
    /// Which of them comes first, second, ...; empty for the order they have.
    pub order: Vec<usize>,
}

impl Axes {
    pub fn order(order: &[usize]) -> Self {
        Self { split: vec![], order: order.to_vec() }
    }

    /// [out, c*h*w] with the input in C,H,W order.
    pub fn chw(out: usize, c: usize, h: usize, w: usize) -> Self {
        Self { split: vec![out, c, h, w], order: vec![0, 2, 3, 1] }
    }
}

/// Elements `size` bytes apart in units of `strides`, from the first byte on.
#[derive(Clone)]
pub struct Strided<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// One for each index of the outermost axis, little endian: by what 8-bit values are to be multiplied.
    scales: Option<&'a [u8]>,
}

/// Side of the squares in which two axes are exchanged: 16 floats are a cache line.
const TILE: usize = 16;
/// Floats written at a time: what an import holds in memory beside the mapped file.
const BLOCK: usize = 2 << 20;

impl<'a> Strided<'a> {
    /// None for an element type that weights do not have, or where an element would lie outside `bytes`.
    pub fn new(bytes: &'a [u8], dtype: Dtype, shape: &[usize], strides: &[usize]) -> Option<Self> {
        Self::scaled(bytes, dtype, shape, strides, None)
    }

    /// The same of 8-bit values with their scales ([`super::store`]), without which they are no weights.
    pub fn scaled(
        bytes: &'a [u8],
        dtype: Dtype,
        shape: &[usize],
        strides: &[usize],
        scales: Option<&'a [u8]>,
    ) -> Option<Self> {
        let size = match dtype {
            Dtype::I8 if Scales::new(scales?, shape).is_some() => 1,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            _ => return None,
        };
        shape.iter().try_fold(size, |a: usize, n| a.checked_mul((*n).max(1)))?;
        if !shape.contains(&0) {
            let reach = |a: usize, (n, s): (&usize, &usize)| a.checked_add((n - 1).checked_mul(*s)?);
            let last = shape.iter().zip(strides).try_fold(0, reach)?;
            if last.checked_add(1)?.checked_mul(size)? > bytes.len() {
                return None;
            }
        }
        (shape.len() == strides.len()).then(|| Self {
            bytes,
            dtype,
            shape: shape.into(),
            strides: strides.into(),
            scales,
        })
    }

    /// The same elements with other axes. None if a split is not one of this shape, or where scales would no longer belong to
    /// the outermost axis.
    pub fn by(mut self, axes: &Axes) -> Option<Self> {
        let filters = self.shape.first().copied();
        if !axes.split.is_empty() {
            // The axes before and behind the one that was split stay.
            let (old, new) = (&self.shape, &axes.split);
            let head = old.iter().zip(new).take_while(|(a, b)| a == b).count().min(old.len().saturating_sub(1));
            let tail = old.len() - head - 1;
            let parts = new.get(head..new.len().checked_sub(tail)?)?;
            if parts.iter().try_fold(1usize, |a, b| a.checked_mul(*b))? != old[head]
                || new[new.len() - tail..] != old[head + 1..]
            {
                return None;
            }
            let mut inner = self.strides[head];
            let mut strides: Vec<usize> = vec![];
            for n in parts.iter().rev() {
                strides.insert(0, inner);
                inner = inner.checked_mul((*n).max(1))?;
            }
            self.strides.splice(head..head + 1, strides);
            self.shape = new.clone();
        }
        if !axes.order.is_empty() {
            let mut seen = axes.order.clone();
            seen.sort_unstable();
            if !seen.iter().copied().eq(0..self.shape.len()) {
                return None;
            }
            self.shape = axes.order.iter().map(|a| self.shape[*a]).collect();
            self.strides = axes.order.iter().map(|a| self.strides[*a]).collect();
        }
        let turned = axes.order.first().is_some_and(|a| *a != 0) || self.shape.first().copied() != filters;
        (self.scales.is_none() || !turned).then_some(self)
    }

    /// Outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where the values lie as they are wanted: float32, one behind the other, aligned.
    pub fn as_f32(&self) -> Option<&'a [f32]> {
        let flat = self.flat();
        let straight = flat.is_empty() || (flat.len() == 1 && flat[0].1 == 1);
        let bytes = self.bytes.get(..self.numel() * 4)?;
        (self.dtype == Dtype::F32 && straight).then(|| bytemuck::try_cast_slice(bytes).ok())?
    }

    /// (extent, stride) outermost first: single axes left out, neighbours that step alike joined.
    fn flat(&self) -> Vec<(usize, usize)> {
        let mut flat: Vec<(usize, usize)> = vec![];
        for (&n, &s) in self.shape.iter().zip(&self.strides).filter(|(n, _)| **n != 1) {
            match flat.last_mut() {
                Some(last) if n.checked_mul(s) == Some(last.1) => *last = (last.0 * n, s),
                _ => flat.push((n, s)),
            }
        }
        flat
    }

    /// All values in row-major order. `out` has [`Strided::numel`] places.
    pub fn read(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.numel(), "as many places as values");
        if let Some(values) = self.as_f32() {
            return out.copy_from_slice(values);
        }
        if out.is_empty() {
            return;
        }
        let mut flat = self.flat();
        // Always an axis to share out and one to walk along.
        while flat.len() < 2 {
            flat.insert(0, (1, 0));
        }
        match self.dtype {
            Dtype::F16 => read(self.bytes, &flat, out, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => read(self.bytes, &flat, out, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => read(self.bytes, &flat, out, |b: [u8; 8]| f64::from_le_bytes(b) as f32),
            Dtype::I8 => read(self.bytes, &flat, out, |b: [u8; 1]| f32::from(b[0] as i8)),
            _ => read(self.bytes, &flat, out, f32::from_le_bytes),
        }
        if let Some(scales) = self.scales.and_then(|s| Scales::new(s, &self.shape)) {
            scales.apply(out);
        }
    }

    /// The rows `[first, first + rows)` of the outermost axis.
    pub fn rows(&self, first: usize, rows: usize) -> Strided<'a> {
        let size = self.dtype.bitsize() / 8;
        let mut part = self.clone();
        part.bytes = &self.bytes[first * self.strides[0] * size..];
        part.scales = self.scales.map(|s| &s[4 * first..4 * (first + rows)]);
        part.shape[0] = rows;
        part
    }

    /// Writes the values in row-major order, little endian, a few rows at a time. `each` sees every block of whole rows
    /// of the outermost axis, with the index of its first, before it is written.
    pub fn write(
        &self,
        w: &mut dyn Write,
        mut each: impl FnMut(usize, &mut [f32]) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.numel() == 0 {
            return Ok(());
        }
        let whole = if self.shape.is_empty() {
            Strided { shape: vec![1], strides: vec![1], ..self.clone() }
        } else {
            self.clone()
        };
        let row: usize = whole.shape[1..].iter().product();
        let step = (BLOCK / row).clamp(1, whole.shape[0]);
        let mut block = vec![0.0; step * row];
        for first in (0..whole.shape[0]).step_by(step) {
            let rows = step.min(whole.shape[0] - first);
            let block = &mut block[..rows * row];
            whole.rows(first, rows).read(block);
            each(first, block)?;
            w.write_all(bytemuck::cast_slice(block))?;
        }
        Ok(())
    }
}

/// `out` in row-major order from (extent, stride) axes, two or more. Rows are shared out among threads.
fn read<const N: usize>(
    bytes: &[u8],
    axes: &[(usize, usize)],
    out: &mut [f32],
    value: impl Fn([u8; N]) -> f32 + Copy + Sync,
) {
    let at = |i: usize| value(bytes[i * N..][..N].try_into().expect("N bytes"));
    let (rows, row_stride) = axes[0];
    let row = out.len() / rows;
    let (columns, stride) = axes[axes.len() - 1];
    // Between the outermost and the innermost axis.
    let middle = &axes[1..axes.len() - 1];
    // Where two axes are exchanged, squares of them are read and written by cache lines: the innermost with the one whose
    // neighbours are neighbours in the source.
    let share = if row_stride == 1 { TILE } else { 1 };
    out.par_chunks_mut(row * share).enumerate().for_each(|(chunk, out)| {
        let first = chunk * share;
        let group = out.len() / row;
        let mut index = vec![0; middle.len()];
        let near = middle.len().checked_sub(1).filter(|m| middle[*m].1 == 1);
        for line in (0..row).step_by(columns * near.map_or(1, |m| middle[m].0)) {
            let base = first * row_stride + index.iter().zip(middle).map(|(i, a)| i * a.1).sum::<usize>();
            match near {
                Some(m) => {
                    let pixels = middle[m].0;
                    for c in (0..columns).step_by(TILE) {
                        for p in 0..pixels {
                            let to = &mut out[line + p * columns..][..columns];
                            for (c, y) in to.iter_mut().enumerate().skip(c).take(TILE) {
                                *y = at(base + p + c * stride);
                            }
                        }
                    }
                }
                None => {
                    for c in 0..columns {
                        for g in 0..group {
                            out[g * row + line + c] = at(base + g * row_stride + c * stride);
                        }
                    }
                }
            }
            let counted = near.unwrap_or(middle.len());
            for (i, a) in index[..counted].iter_mut().zip(&middle[..counted]).rev() {
                *i += 1;
                if *i < a.0 {
                    break;
                }
                *i = 0;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition, one element at a time.
    fn slow(values: &[f32], shape: &[usize], axes: &Axes) -> Vec<f32> {
        let split = if axes.split.is_empty() { shape } else { &axes.split };
        let order: Vec<usize> = if axes.order.is_empty() { (0..split.len()).collect() } else { axes.order.clone() };
        let ours: Vec<usize> = order.iter().map(|a| split[*a]).collect();
        (0..values.len())
            .map(|mut i| {
                let mut index = vec![0; split.len()];
                for (a, n) in order.iter().zip(&ours).rev() {
                    index[*a] = i % n;
                    i /= n;
                }
                values[index.iter().zip(split).fold(0, |at, (i, n)| at * n + i)]
            })
            .collect()
    }

    fn check(shape: &[usize], axes: &Axes) {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let strides = crate::weights::foreign::row_major(shape);
        // One byte in front: foreign data are aligned to nothing.
        let bytes: Vec<u8> = std::iter::once(0).chain(values.iter().flat_map(|x| x.to_le_bytes())).collect();
        let view = Strided::new(&bytes[1..], Dtype::F32, shape, &strides).unwrap().by(axes).unwrap();
        let want = slow(&values, shape, axes);
        let mut out = vec![f32::NAN; n];
        view.read(&mut out);
        assert_eq!(out, want, "{shape:?} {axes:?}");
        let mut written = vec![];
        view.write(&mut written, |_, _| Ok(())).unwrap();
        assert_eq!(written, bytemuck::cast_slice::<f32, u8>(&want), "{shape:?} {axes:?}");
    }

    #[test]
    fn every_layout_comes_out_as_defined() {
        let orders: [&[usize]; 6] = [&[], &[0, 2, 3, 1], &[3, 0, 1, 2], &[1, 0, 2, 3], &[3, 2, 1, 0], &[2, 0, 3, 1]];
        for shape in [[5, 3, 3, 3], [33, 17, 3, 2], [3, 3, 20, 35], [1, 4, 1, 6], [2, 1, 7, 1]] {
            for order in orders {
                check(&shape, &Axes::order(order));
            }
        }
        check(&[], &Axes::default());
        check(&[7], &Axes::default());
        check(&[40, 50], &Axes::order(&[1, 0]));
        check(&[6, 5 * 3 * 2], &Axes::chw(6, 5, 3, 2));
        check(&[6, 40 * 7 * 7], &Axes::chw(6, 40, 7, 7));
        check(&[0, 4], &Axes::order(&[1, 0]));
    }

    #[test]
    fn large_arrays_are_written_by_blocks_of_whole_rows() {
        let (rows, columns) = (700, 4001);
        let bytes: Vec<u8> = (0..rows * columns).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view =
            Strided::new(&bytes, Dtype::F32, &[columns, rows], &[rows, 1]).unwrap().by(&Axes::order(&[1, 0])).unwrap();
        let (mut out, mut next, mut blocks) = (vec![], 0, 0);
        view.write(&mut out, |first, block| {
            assert_eq!((first, block.len() % columns), (next, 0));
            (next, blocks) = (next + block.len() / columns, blocks + 1);
            Ok(())
        })
        .unwrap();
        assert!(next == rows && blocks > 1);
        let out: Vec<f32> = bytemuck::pod_collect_to_vec(&out);
        assert!(out.iter().enumerate().all(|(i, x)| *x == (i % columns * rows + i / columns) as f32));
    }

    #[test]
    fn other_types_and_strides() {
        let half: Vec<u8> = [1.5f32, -2.0, 0.25].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let mut out = [0.0; 3];
        Strided::new(&half, Dtype::F16, &[3], &[1]).unwrap().read(&mut out);
        assert_eq!(out, [1.5, -2.0, 0.25]);
        // A broadcast array, and one with gaps.
        let bytes: Vec<u8> = (0..5).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let mut out = [0.0; 4];
        Strided::new(&bytes, Dtype::F32, &[2, 2], &[0, 1]).unwrap().read(&mut out);
        assert_eq!(out, [0.0, 1.0, 0.0, 1.0]);
        Strided::new(&bytes, Dtype::F32, &[2, 2], &[1, 3]).unwrap().read(&mut out);
        assert_eq!(out, [0.0, 3.0, 1.0, 4.0]);
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let bytes = [0; 16];
        assert!(Strided::new(&bytes, Dtype::F32, &[4], &[1]).is_some());
        assert!(Strided::new(&bytes, Dtype::F32, &[5], &[1]).is_none());
        assert!(Strided::new(&bytes, Dtype::F32, &[2, 2], &[3, 1]).is_none());
        assert!(Strided::new(&bytes, Dtype::F32, &[usize::MAX, 2], &[0, 1]).is_none());
        assert!(Strided::new(&bytes, Dtype::I64, &[1], &[1]).is_none());
        let v = Strided::new(&bytes, Dtype::F32, &[2, 2], &[2, 1]).unwrap();
        assert!(v.clone().by(&Axes { split: vec![2, 3], order: vec![] }).is_none());
        assert!(v.clone().by(&Axes { split: vec![3, 2], order: vec![] }).is_none());
        assert!(v.clone().by(&Axes::order(&[0, 0])).is_none());
        assert!(v.by(&Axes { split: vec![2, 2, 1], order: vec![0, 2, 1] }).is_some());
    }
}
