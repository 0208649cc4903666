/*! Values in chunks of equal extents, which cover the array as a grid and may stand out beyond its ends (III.A.1, chunked
raw data nodes). Every chunk must be there; one that was never written would be a fill value, and no weight is. */

use super::values::Filter;
use super::{Fault, Reader};
use flate2::read::ZlibDecoder;
use std::borrow::Cow;
use std::io::Read;
use std::ops::Range;

/// Bytes that all chunked arrays together may always unpack to: an array of zeros is a thousandth of its size.
const FREE: usize = 64 << 20;
/// How many times its size a larger file's arrays may unpack to. Trained weights hardly shrink at all.
const RATIO: usize = 8;

/// An array in chunks.
pub(super) struct Chunks {
    shape: Vec<usize>,
    chunk: Vec<usize>,
    /// Bytes of an element.
    element: usize,
    filters: Vec<Filter>,
    /// Of the whole file, in the order of the grid, the last axis fastest; with a bit for each filter left out.
    parts: Vec<(Range<usize>, u64)>,
}

impl Chunks {
    /// All chunks of the B-tree at `tree`, none missing, none twice.
    pub(super) fn find(
        reader: &mut Reader,
        tree: usize,
        shape: &[usize],
        chunk: &[usize],
        element: usize,
        filters: Vec<Filter>,
    ) -> Result<Self, Fault> {
        let refuse = |problem: String| Err(Fault::at(reader.base.saturating_add(tree), problem));
        let product = |of: &[usize]| of.iter().try_fold(element, |a, n| a.checked_mul(*n));
        let (Some(size), Some(whole)) = (product(shape), product(chunk)) else {
            return refuse("chunks of more bytes than can be counted".into());
        };
        if chunk.contains(&0) || whole > size.max(FREE) {
            return refuse(format!("chunks of {whole} bytes for an array of {size}"));
        }
        let grid: Vec<usize> = shape.iter().zip(chunk).map(|(n, c)| n.div_ceil(*c)).collect();
        let key = 8 + 8 * (shape.len() + 1);
        let mut found = Vec::new();
        let mut packed = 0usize;
        for (key, at) in reader.leaves(tree, 1, key)? {
            let mut c = reader.cursor(key, "chunk")?;
            let (bytes, mask) = (c.size(4)?, c.number(4)?);
            let mut cell = 0usize;
            for ((n, c0), g) in shape.iter().zip(chunk).zip(&grid) {
                let origin = c.size(8)?;
                if origin >= *n || origin % c0 != 0 {
                    return Err(c.fault(format!("begins at {origin} of {n} in steps of {c0}")));
                }
                cell = cell.saturating_mul(*g).saturating_add(origin / c0);
            }
            let range = reader.cursor_from(at, "chunk")?.range(bytes)?;
            packed = packed.saturating_add(bytes);
            found.push((cell, (reader.base + range.start..reader.base + range.end, mask)));
        }
        found.sort_by_key(|f| f.0);
        let cells = grid.iter().try_fold(1usize, |a, n| a.checked_mul(*n));
        if cells != Some(found.len()) || found.iter().enumerate().any(|(i, f)| f.0 != i) {
            let problem = format!("{} chunks for a grid of {grid:?}; none may be missing or come twice", found.len());
            return Err(Fault::at(reader.base.saturating_add(tree), problem));
        }
        let before = reader.packed;
        reader.packed = (before.0.saturating_add(packed), before.1.saturating_add(size));
        let (packed, unpacked) = reader.packed;
        if packed > reader.bytes.len() || (unpacked > FREE && unpacked / RATIO > packed) {
            let problem =
                format!("chunks of {packed} bytes would unpack to {unpacked}, more than {RATIO} times as many");
            return Err(Fault::at(reader.base.saturating_add(tree), problem));
        }
        let parts = found.into_iter().map(|f| f.1).collect();
        Ok(Self { shape: shape.to_vec(), chunk: chunk.to_vec(), element, filters, parts })
    }

    /// The array's bytes, row-major.
    pub(super) fn unpack(&self, file: &[u8]) -> Result<Vec<u8>, Fault> {
        let product = |of: &[usize]| of.iter().product::<usize>() * self.element;
        let mut out = vec![0; product(&self.shape)];
        let grid: Vec<usize> = self.shape.iter().zip(&self.chunk).map(|(n, c)| n.div_ceil(*c)).collect();
        for (i, (range, mask)) in self.parts.iter().enumerate() {
            let refuse = |problem: &str| Fault::at(range.start, problem);
            let packed = file.get(range.clone()).ok_or_else(|| refuse("the chunk is no longer in the file"))?;
            let chunk = self.undo(packed, *mask, product(&self.chunk)).ok_or_else(|| refuse("the chunk is damaged"))?;
            let mut origin = unravel(i, &grid);
            origin.iter_mut().zip(&self.chunk).for_each(|(o, c)| *o *= c);
            self.scatter(&chunk, &origin, &mut out);
        }
        Ok(out)
    }

    /// A chunk as it was before its filters; None unless that makes `whole` bytes.
    fn undo<'a>(&self, packed: &'a [u8], mask: u64, whole: usize) -> Option<Cow<'a, [u8]>> {
        let mut bytes = Cow::Borrowed(packed);
        for (i, filter) in self.filters.iter().enumerate().rev() {
            if i < 32 && mask >> i & 1 != 0 {
                continue;
            }
            bytes = Cow::Owned(match filter {
                Filter::Deflate => {
                    let mut out = Vec::new();
                    // One byte more than there may be, to see that there is none.
                    ZlibDecoder::new(&*bytes).take(whole as u64 + 1).read_to_end(&mut out).ok()?;
                    out
                }
                Filter::Shuffle(n) => {
                    // What does not fill an element stays behind as it is.
                    let (count, mut out) = (bytes.len() / n, bytes.to_vec());
                    for (i, plane) in bytes.chunks_exact(count.max(1)).take(*n).enumerate() {
                        out.iter_mut().skip(i).step_by(*n).zip(plane).for_each(|(to, from)| *to = *from);
                    }
                    out
                }
            });
        }
        Some(bytes).filter(|b| b.len() == whole)
    }

    /// Copies what lies inside the array, a run of the last axis at a time.
    fn scatter(&self, chunk: &[u8], origin: &[usize], out: &mut [u8]) {
        let inside: Vec<usize> =
            self.shape.iter().zip(&self.chunk).zip(origin).map(|((n, c), o)| (n - o).min(*c)).collect();
        let Some((run, rows)) = inside.split_last() else { return };
        for row in 0..rows.iter().product() {
            let (mut from, mut to) = (0, 0);
            let index = unravel(row, rows).into_iter().chain([0]);
            for (a, i) in index.enumerate() {
                from = from * self.chunk[a] + i;
                to = to * self.shape[a] + origin[a] + i;
            }
            let [from, to, run] = [from, to, *run].map(|n| n * self.element);
            if let (Some(from), Some(to)) = (chunk.get(from..from + run), out.get_mut(to..to + run)) {
                to.copy_from_slice(from);
            }
        }
    }
}

/// The indices of element `i` of a row-major array.
fn unravel(mut i: usize, extents: &[usize]) -> Vec<usize> {
    let mut indices = vec![0; extents.len()];
    for (index, n) in indices.iter_mut().zip(extents).rev() {
        (*index, i) = (i % n, i / n);
    }
    indices
}
