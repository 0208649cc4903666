/*! Parallel loops whose results cannot depend on the number of threads: work is cut by size, never by thread count, and
no two pieces write the same element. */

use rayon::prelude::*;

/// Elements per piece of an elementwise loop: 64 KiB of f32, large enough to pay for the hand-over.
const GRAIN: usize = 16 * 1024;

/// Calls `f(offset, piece)` for consecutive pieces of `y`.
pub fn chunks_mut<T: Send>(y: &mut [T], f: impl Fn(usize, &mut [T]) + Send + Sync) {
    if y.len() <= GRAIN {
        return f(0, y);
    }
    y.par_chunks_mut(GRAIN).enumerate().for_each(|(i, piece)| f(i * GRAIN, piece));
}

/// Calls `f(i)` for `0..n`, one piece of work each.
pub fn tasks(n: usize, f: impl Fn(usize) + Send + Sync) {
    if n <= 1 {
        return (0..n).for_each(f);
    }
    (0..n).into_par_iter().with_max_len(1).for_each(f);
}
