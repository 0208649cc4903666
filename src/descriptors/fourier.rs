//! Discrete Fourier transforms of any length, of four columns at once.
//!
//! Stockham's self-sorting form with radices 4, 2, 3, 5 …: no bit reversal, and every number is four lanes wide, which is what
//! the compiler puts in one vector register. `rustfft` is faster by a transform, and seven crates.

use std::f64::consts::TAU;
use std::ops::{Add, Sub};

/// Lanes: columns that are transformed together.
pub const LANES: usize = 4;

/// Complex numbers of four columns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Four {
    pub re: [f64; LANES],
    pub im: [f64; LANES],
}

/// A lane of each.
fn each(f: impl Fn(usize) -> f64) -> [f64; LANES] {
    [f(0), f(1), f(2), f(3)]
}

impl Add for Four {
    type Output = Four;
    #[inline(always)]
    fn add(self, b: Four) -> Four {
        Four { re: each(|i| self.re[i] + b.re[i]), im: each(|i| self.im[i] + b.im[i]) }
    }
}

impl Sub for Four {
    type Output = Four;
    #[inline(always)]
    fn sub(self, b: Four) -> Four {
        Four { re: each(|i| self.re[i] - b.re[i]), im: each(|i| self.im[i] - b.im[i]) }
    }
}

impl Four {
    /// Times one complex number.
    #[inline(always)]
    fn times(self, [re, im]: [f64; 2]) -> Four {
        Four { re: each(|i| self.re[i] * re - self.im[i] * im), im: each(|i| self.re[i] * im + self.im[i] * re) }
    }
    /// Times i.
    #[inline(always)]
    fn turned(self) -> Four {
        Four { re: each(|i| -self.im[i]), im: self.re }
    }
}

/// A transform of one length: y_k = sum_j x_j e^(+2 pi i j k / n), not divided by n.
pub struct Transform {
    n: usize,
    /// Of each pass.
    radices: Vec<usize>,
    /// e^(2 pi i k / n)
    roots: Vec<[f64; 2]>,
}

impl Transform {
    pub fn new(n: usize) -> Self {
        let (mut radices, mut rest) = (vec![], n);
        for radix in [4].into_iter().chain(2..=n) {
            while rest > 1 && rest % radix == 0 {
                radices.push(radix);
                rest /= radix;
            }
        }
        let root = |k: usize| (TAU * k as f64 / n as f64).sin_cos();
        let roots = (0..n).map(root).map(|(sin, cos)| [cos, sin]).collect();
        Self { n, radices, roots }
    }

    /// Transforms `x` in place; `spare` is as long. The work is n times the sum of the radices.
    pub fn run(&self, x: &mut Vec<Four>, spare: &mut Vec<Four>) {
        let (n, mut stride) = (self.n, 1);
        for &radix in &self.radices {
            // `stride` sequences are interleaved, of n / stride numbers each; this pass leaves `radix` times as many.
            let twiddle = |p: usize, j: usize| self.roots[stride * p * j];
            let outs = spare.chunks_exact_mut(radix * stride).enumerate();
            if radix == 4 {
                let quarters: [&[Four]; 4] = [0, 1, 2, 3].map(|k| &x[k * n / 4..(k + 1) * n / 4]);
                for (p, out) in outs {
                    let [a, b, c, d] = quarters.map(|x| &x[p * stride..(p + 1) * stride]);
                    let [y0, y1, y2, y3] = quartered(out);
                    let w = [1, 2, 3].map(|j| twiddle(p, j));
                    for i in 0..stride {
                        let (even, odd, sum, turned) = (a[i] + c[i], a[i] - c[i], b[i] + d[i], (b[i] - d[i]).turned());
                        y0[i] = even + sum;
                        let [z1, z2, z3] = [odd + turned, even - sum, odd - turned];
                        // The first power of every root is 1.
                        [y1[i], y2[i], y3[i]] =
                            if p == 0 { [z1, z2, z3] } else { [z1.times(w[0]), z2.times(w[1]), z3.times(w[2])] };
                    }
                }
            } else {
                for (p, out) in outs {
                    for (at, y) in out.iter_mut().enumerate() {
                        let (j, i) = (at / stride, p * stride + at % stride);
                        let term = |k: usize| x[k * n / radix + i].times(self.roots[j * k % radix * (n / radix)]);
                        *y = (1..radix).fold(x[i], |sum, k| sum + term(k)).times(twiddle(p, j));
                    }
                }
            }
            std::mem::swap(x, spare);
            stride *= radix;
        }
    }
}

/// Four equal parts.
fn quartered(x: &mut [Four]) -> [&mut [Four]; 4] {
    let n = x.len() / 4;
    let (ab, cd) = x.split_at_mut(2 * n);
    let ((a, b), (c, d)) = (ab.split_at_mut(n), cd.split_at_mut(n));
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum itself, in lanes that differ.
    #[test]
    fn transforms_are_the_sum() {
        for n in [1, 2, 3, 4, 5, 8, 12, 16, 30, 48, 77, 96] {
            let at = |j: usize, lane: usize| [(j * (lane + 3) % 17) as f64 - 8.0, (j * j % (lane + 5)) as f64];
            let one = |j| Four { re: each(|l| at(j, l)[0]), im: each(|l| at(j, l)[1]) };
            let mut x: Vec<Four> = (0..n).map(one).collect();
            Transform::new(n).run(&mut x, &mut vec![Four::default(); n]);
            for (k, lane) in (0..n).flat_map(|k| (0..LANES).map(move |l| (k, l))) {
                let (mut re, mut im) = (0.0, 0.0);
                for j in 0..n {
                    let ([a, b], (sin, cos)) = (at(j, lane), (TAU * (j * k % n) as f64 / n as f64).sin_cos());
                    (re, im) = (re + a * cos - b * sin, im + a * sin + b * cos);
                }
                let error = (x[k].re[lane] - re).abs().max((x[k].im[lane] - im).abs());
                assert!(error <= 1e-11, "{n}: {k}, {lane}: {error}");
            }
        }
    }
}
