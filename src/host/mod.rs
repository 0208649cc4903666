/*! Vector routines of the CPU: convolution and dense layers, forward and backward, and pointwise functions.

One register tile ([`tile`]) does nearly all the arithmetic: up to 6 rows times 4 vectors of 16 lanes, the row operand
broadcast from wherever it lies. Convolution is implicit: the tile is pointed at NHWC pixels (or at a row of zeros in
the padding), so that no patch matrix is ever written; 3x3 convolutions of stride 1 with enough channels are transformed
first ([`winograd`], [`winograd_wgrad`]), which leaves a quarter of the multiplications to the same tile. Nothing here
allocates; what a routine needs beyond its operands it asks for as scratch, or has on a thread's stack (at most 1.2 MiB).

**Bits.** The value of an element is fixed by the shapes alone: one chain of fused multiply-adds in a written order,
or fixed pieces of such chains added in a written order. It does not depend on the number of threads, on where in the
batch an image lies, on tile sizes, or on AVX2 against AVX-512. Only a target without fused multiply-add (the portable
level of plain x86-64) rounds differently. */

#![allow(clippy::needless_range_loop)] // Register blocks are indexed by constants; iterators hide the block.

pub mod ceiling;
pub mod conv;
pub mod dense;
mod depthwise;
pub mod norm;
pub mod pattern;
pub mod pointwise;
pub mod pool;
mod simd;
#[cfg(test)]
mod tests;
mod tile;
mod winograd;
mod winograd_wgrad;

use crate::par;
use simd::{V16, Vectorized};

/// The lanes of a vector.
const LANES: usize = 16;

/// An output that several tasks write, each its own part.
#[derive(Clone, Copy)]
struct Out(*mut f32);

// SAFETY: an address; the routine that shares it between tasks makes sure that no two write the same element.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    fn new(y: &mut [f32]) -> Self {
        Out(y.as_mut_ptr())
    }
    /// # Safety
    /// `i` must be inside the slice this was made from.
    #[inline(always)]
    unsafe fn at(self, i: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i) }
    }
    /// # Safety
    /// `i..i + n` must be inside the slice this was made from, and no other task may touch it.
    unsafe fn slice<'a>(self, i: usize, n: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(i), n) }
    }
}

/// Elements of [rows][columns]. Panics where that cannot be counted: what it is compared with would be shorter.
fn area(rows: usize, columns: usize) -> usize {
    rows.checked_mul(columns).expect("more elements than can be counted")
}

/// Cuts `total` into the fewest pieces of at most `most`, all but the last equal and a multiple of `unit`:
/// (pieces, size).
fn cut(total: usize, most: usize, unit: usize) -> (usize, usize) {
    let size = total.div_ceil(total.div_ceil(most).max(1)).next_multiple_of(unit).max(unit);
    (total.div_ceil(size), size)
}

/// Rows that [`column_sums`] adds up before it adds them to the running sum.
const SUM_ROWS: usize = 64;

/// (pieces, rows in each) of [`column_sums`].
fn sum_pieces(rows: usize, cols: usize) -> (usize, usize) {
    // A quarter of a megabyte pays for the hand-over; 64 pieces keep the scratch small.
    let size = (65536 / cols).max(rows.div_ceil(64)).next_multiple_of(SUM_ROWS);
    (rows.div_ceil(size).max(1), size)
}

/// Scratch of [`column_sums`] in elements.
pub fn column_sums_scratch(rows: usize, cols: usize) -> usize {
    (sum_pieces(rows, cols).0 - 1) * cols
}

/// y[j] = Σ_i x[i][j]: the gradient of a bias.
pub fn column_sums(simd: crate::launch::Simd, rows: usize, cols: usize, x: &[f32], y: &mut [f32], scratch: &mut [f32]) {
    assert_eq!((x.len(), y.len()), (area(rows, cols), cols));
    let (pieces, size) = sum_pieces(rows, cols);
    assert!(scratch.len() >= (pieces - 1) * cols);
    let (first, rest) = (Out::new(y), Out::new(scratch));
    par::tasks(pieces, |p| {
        let x = &x[p * size * cols..((p + 1) * size).min(rows) * cols];
        // SAFETY: piece 0 owns y, each other piece its own row of the scratch.
        let y = unsafe { if p == 0 { first.slice(0, cols) } else { rest.slice((p - 1) * cols, cols) } };
        simd::run(simd, Sums { x, y });
    });
    add_parts(y, &scratch[..(pieces - 1) * cols]);
}

/// y += the consecutive parts of `parts`, in order.
fn add_parts(y: &mut [f32], parts: &[f32]) {
    let n = y.len();
    if parts.is_empty() {
        return;
    }
    par::chunks_mut(y, |at, y| {
        for part in parts.chunks_exact(n) {
            y.iter_mut().zip(&part[at..]).for_each(|(y, p)| *y += p);
        }
    });
}

/// One piece of [`column_sums`].
struct Sums<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Vectorized for Sums<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (x, y) = (self.x, self.y);
        let cols = y.len();
        y.fill(0.0);
        for rows in x.chunks(SUM_ROWS * cols) {
            let n = rows.len() / cols;
            for j in (0..cols).step_by(4 * LANES) {
                let lanes = |v: usize| (cols - j).saturating_sub(v * LANES).min(LANES);
                let at = |i: usize, v: usize| i * cols + (j + v * LANES).min(cols);
                // SAFETY: `lanes` elements lie in the row from that offset on.
                unsafe {
                    let mut acc = [V::splat(0.0); 4];
                    for i in 0..n {
                        for v in 0..4 {
                            acc[v] = acc[v].add(V::load_part(rows.as_ptr().add(at(i, v)), lanes(v)));
                        }
                    }
                    for v in 0..4 {
                        let y = y.as_mut_ptr().add(at(0, v));
                        V::load_part(y, lanes(v)).add(acc[v]).store_part(y, lanes(v));
                    }
                }
            }
        }
    }
}
