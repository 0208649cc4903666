/*! Floor 8: what is solved for on tables of features instead of trained step by step. [`linear`] has least squares and
ridge regression, [`svm`] support vector machines, [`model`] what is kept of either: a file that rates rows of a table. All of it is host arithmetic in float64, the same on every device and
on any number of threads. */

pub mod linear;
pub mod model;
pub mod svm;

/// Rows that share a piece of work: the row that they are multiplied by comes from memory once for all of them.
const BLOCK: usize = 8;

/// `f(i, j, x_i x_j)` of the rows of [n, columns], as [n, n]: only j <= i, the lower half, is filled.
fn gram<T: Copy + Default + Send>(
    x: &[f64],
    columns: usize,
    f: impl Fn(usize, usize, f64) -> T + Send + Sync,
) -> Vec<T> {
    let n = x.len() / columns;
    let row = |i: usize| &x[i * columns..(i + 1) * columns];
    let mut out = vec![T::default(); n * n];
    crate::par::pieces_mut(&mut out, BLOCK * n, |piece, out| {
        for j in 0..n.min((piece + 1) * BLOCK) {
            for (i, out) in (piece * BLOCK..).zip(out.chunks_exact_mut(n)).filter(|(i, _)| j <= *i) {
                out[j] = f(i, j, dot(row(i), row(j)));
            }
        }
    });
    out
}

/// The sum of products, in eight parts that the compiler keeps in one vector.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        (0..8).for_each(|i| sums[i] += a[i] * b[i]);
    }
    sums.iter().sum::<f64>() + rest
}
