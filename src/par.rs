/*! Parallel loops whose results cannot depend on the number of threads: work is cut by size, never by thread count, and
no two pieces write the same element. */

use crate::error::{Error, Result};
use rayon::prelude::*;
use std::thread::{Builder, Scope};

/// Elements per piece of an elementwise loop: 64 KiB of f32, large enough to pay for the hand-over.
const GRAIN: usize = 16 * 1024;

/// Starts a thread for work that goes on beside the caller's.
///
/// # Errors
/// The system has no more threads, or no memory for one.
pub fn beside<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<()> {
    let started = Builder::new().spawn_scoped(scope, work);
    started
        .map(drop)
        .map_err(|e| Error::job(format!("cannot start a thread: {e}")).fix("allow more memory or processes"))
}

/// Calls `f(offset, piece)` for consecutive pieces of `y`.
pub fn chunks_mut<T: Send>(y: &mut [T], f: impl Fn(usize, &mut [T]) + Send + Sync) {
    if y.len() <= GRAIN {
        return f(0, y);
    }
    y.par_chunks_mut(GRAIN).enumerate().for_each(|(i, piece)| f(i * GRAIN, piece));
}

/// Calls `f(offset, piece of a, piece of b)` for consecutive pieces of two equally long slices.
pub fn chunks2_mut<T: Send>(a: &mut [T], b: &mut [T], f: impl Fn(usize, &mut [T], &mut [T]) + Send + Sync) {
    assert_eq!(a.len(), b.len());
    if a.len() <= GRAIN {
        return f(0, a, b);
    }
    let pieces = a.par_chunks_mut(GRAIN).zip(b.par_chunks_mut(GRAIN)).enumerate();
    pieces.for_each(|(i, (a, b))| f(i * GRAIN, a, b));
}

/// Calls `f(offset, pieces)` for consecutive pieces of three equally long slices.
pub fn chunks3_mut<T: Send>(
    a: &mut [T],
    b: &mut [T],
    c: &mut [T],
    f: impl Fn(usize, &mut [T], &mut [T], &mut [T]) + Send + Sync,
) {
    assert!(a.len() == b.len() && a.len() == c.len());
    if a.len() <= GRAIN {
        return f(0, a, b, c);
    }
    let pieces = a.par_chunks_mut(GRAIN).zip(b.par_chunks_mut(GRAIN)).zip(c.par_chunks_mut(GRAIN)).enumerate();
    pieces.for_each(|(i, ((a, b), c))| f(i * GRAIN, a, b, c));
}

/// [`chunks3_mut`] of four slices.
pub fn chunks4_mut<T: Send>(
    a: &mut [T],
    b: &mut [T],
    c: &mut [T],
    d: &mut [T],
    f: impl Fn(usize, &mut [T], &mut [T], &mut [T], &mut [T]) + Send + Sync,
) {
    assert!([b.len(), c.len(), d.len()] == [a.len(); 3]);
    let pieces = a.par_chunks_mut(GRAIN).zip(b.par_chunks_mut(GRAIN)).zip(c.par_chunks_mut(GRAIN));
    let pieces = pieces.zip(d.par_chunks_mut(GRAIN)).enumerate();
    pieces.for_each(|(i, (((a, b), c), d))| f(i * GRAIN, a, b, c, d));
}

/// Calls `f(i, piece)` for consecutive pieces of `size` elements of `y`, one piece of work each.
pub fn pieces_mut<T: Send>(y: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Send + Sync) {
    if y.len() <= size {
        return y.chunks_mut(size.max(1)).enumerate().for_each(|(i, piece)| f(i, piece));
    }
    y.par_chunks_mut(size).with_max_len(1).enumerate().for_each(|(i, piece)| f(i, piece));
}

/// Calls `f(i)` for `0..n`, one piece of work each.
pub fn tasks(n: usize, f: impl Fn(usize) + Send + Sync) {
    if n <= 1 {
        return (0..n).for_each(f);
    }
    (0..n).into_par_iter().with_max_len(1).for_each(f);
}

/// Calls `f(row, elements)` for each of `rows` rows of `width` elements of `y`, a few rows per piece of work.
pub fn rows_mut<T: Send>(y: &mut [T], width: usize, rows: usize, f: impl Fn(usize, &mut [T]) + Send + Sync) {
    heavy_rows_mut(y, width, rows, width, f);
}

/// [`rows_mut`] where a row takes the work of `work` elements, not of its own few.
pub fn heavy_rows_mut<T: Send>(
    y: &mut [T],
    width: usize,
    rows: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    assert_eq!(y.len(), width * rows, "whole rows");
    if width == 0 {
        return;
    }
    let per_piece = (GRAIN / work.max(1)).max(1);
    let piece = |i: usize, piece: &mut [T]| {
        piece.chunks_exact_mut(width).enumerate().for_each(|(j, row)| f(i * per_piece + j, row))
    };
    if rows <= per_piece {
        return piece(0, y);
    }
    y.par_chunks_mut(per_piece * width).enumerate().for_each(|(i, y)| piece(i, y));
}

/// Calls `f(image, offset in it, elements)` for consecutive bands of each image, images of `image` elements.
pub fn bands_mut<T: Send>(y: &mut [T], image: usize, band: usize, f: impl Fn(usize, usize, &mut [T]) + Send + Sync) {
    if image == 0 {
        return;
    }
    let each = |(n, y): (usize, &mut [T])| {
        y.par_chunks_mut(band).enumerate().for_each(|(i, y)| f(n, i * band, y));
    };
    y.par_chunks_mut(image).enumerate().for_each(each);
}
