/*! Batch normalisation: sums over all pixels of a channel, and what is done to every pixel with them.

The pixels are cut into pieces that fit a cache. Within a piece a sum is chains of [`CHAIN`] float32 additions, added up
in float64; pieces are joined in float64, in order. Loops over channels are plain: no operation is contracted, so every
vector level gives the same bits. */

use super::simd::{self, V16, Vectorized};
use crate::launch::Simd;
use crate::par;
use crate::shape::Type;

/// Additions in float32 before a float64 sum takes over: sums are good to CHAIN + 1 roundings of their magnitudes.
pub const CHAIN: usize = 32;

/// Elements of a piece: a quarter of a megabyte, which a core's second cache holds.
const PIECE: usize = 64 * 1024;

/// What of a tensor matters here: [N,..,C] with N images of `hw` pixels.
#[derive(Clone, Copy, Debug)]
pub struct Extents {
    pub n: usize,
    pub hw: usize,
    pub c: usize,
}

impl Extents {
    pub fn new(x: &Type) -> Self {
        Self { n: x.dims()[0], hw: x.row() / x.channels(), c: x.channels() }
    }
    fn pixels(&self) -> usize {
        self.n * self.hw
    }
    /// Pixels in a piece.
    fn piece(&self) -> usize {
        (PIECE / self.c).clamp(1, self.pixels().max(1))
    }
    fn pieces(&self) -> usize {
        self.pixels().div_ceil(self.piece())
    }
    /// Pixels of piece `p`.
    fn range(&self, p: usize) -> [usize; 2] {
        [p * self.piece(), ((p + 1) * self.piece()).min(self.pixels())]
    }
    /// Numbers that a piece hands over: three for each channel, and its pixels.
    fn part(&self) -> usize {
        3 * self.c + 1
    }
    /// Scratch of every routine here, in float64 elements: the parts and three coefficients for each channel.
    pub fn scratch(&self) -> usize {
        self.pieces() * self.part() + 3 * self.c
    }
    /// The same scratch as (parts, coefficients).
    fn split<'a>(&self, scratch: &'a mut [f64]) -> (&'a mut [f64], [&'a mut [f32]; 3]) {
        let (parts, rest) = scratch.split_at_mut(self.pieces() * self.part());
        let (a, rest) = bytemuck::cast_slice_mut(rest).split_at_mut(self.c);
        let (b, rest) = rest.split_at_mut(self.c);
        (parts, [a, b, &mut rest[..self.c]])
    }
}

/// Pixels of the images that count, by weight.
pub fn counted(e: Extents, rows: &[f32]) -> usize {
    rows.iter().filter(|w| **w > 0.0).count() * e.hw
}

/// Runs of pixels in `from..to` whose images all count or all do not: `f(first, end, count)`.
#[inline(always)]
fn runs(e: Extents, rows: &[f32], [from, to]: [usize; 2], mut f: impl FnMut(usize, usize, bool)) {
    let mut at = from;
    while at < to {
        let counts = rows[at / e.hw] > 0.0;
        let mut end = ((at / e.hw + 1) * e.hw).min(to);
        while end < to && (rows[end / e.hw] > 0.0) == counts {
            end = (end + e.hw).min(to);
        }
        f(at, end, counts);
        at = end;
    }
}

/// What is added up at a pixel.
trait Terms<const K: usize> {
    /// The terms of K sums for the `L` channels from `c0` on; they begin at element `at` of the tensor.
    fn at<const L: usize>(&self, at: usize, c0: usize) -> [[f32; L]; K];
}

#[inline(always)]
fn lanes<const L: usize>(x: &[f32], at: usize) -> &[f32; L] {
    x[at..][..L].try_into().expect("L elements")
}

/// x
struct Plain<'a>(&'a [f32]);
/// x - k and its square
struct Shifted<'a>(&'a [f32], &'a [f64]);
/// dy and dy (x - mean)
struct Products<'a>(&'a [f32], &'a [f32], &'a [f32]);

impl Terms<1> for Plain<'_> {
    #[inline(always)]
    fn at<const L: usize>(&self, at: usize, _: usize) -> [[f32; L]; 1] {
        [*lanes(self.0, at)]
    }
}
impl Terms<2> for Shifted<'_> {
    #[inline(always)]
    fn at<const L: usize>(&self, at: usize, c0: usize) -> [[f32; L]; 2] {
        let (mut x, k) = (*lanes::<L>(self.0, at), &self.1[c0..][..L]);
        (0..L).for_each(|l| x[l] -= k[l] as f32);
        [x, x.map(|x| x * x)]
    }
}
impl Terms<2> for Products<'_> {
    #[inline(always)]
    fn at<const L: usize>(&self, at: usize, c0: usize) -> [[f32; L]; 2] {
        let (mut x, dy, mean) = (*lanes::<L>(self.0, at), *lanes::<L>(self.1, at), lanes::<L>(self.2, c0));
        (0..L).for_each(|l| x[l] = (x[l] - mean[l]) * dy[l]);
        [dy, x]
    }
}

/// Adds the sums over pixels `from..to` to `sums` [K,C].
#[inline(always)]
fn add_sums<const K: usize>([from, to]: [usize; 2], c: usize, terms: impl Terms<K>, sums: &mut [f64]) {
    for first in (from..to).step_by(CHAIN) {
        let chain = [first, (first + CHAIN).min(to)];
        let mut c0 = 0;
        while c0 < c {
            // Fixed widths, so that the loops over channels become vector instructions.
            c0 += match c - c0 {
                32.. => add_chain::<K, 32>(chain, c, c0, &terms, sums),
                8.. => add_chain::<K, 8>(chain, c, c0, &terms, sums),
                _ => add_chain::<K, 1>(chain, c, c0, &terms, sums),
            };
        }
    }
}

/// One chain, `L` channels from `c0` on; returns `L`.
#[inline(always)]
fn add_chain<const K: usize, const L: usize>(
    [from, to]: [usize; 2],
    c: usize,
    c0: usize,
    terms: &impl Terms<K>,
    sums: &mut [f64],
) -> usize {
    let mut acc = [[0f32; L]; K];
    for pixel in from..to {
        let t = terms.at::<L>(pixel * c + c0, c0);
        for k in 0..K {
            for l in 0..L {
                acc[k][l] += t[k][l];
            }
        }
    }
    for k in 0..K {
        sums[k * c + c0..][..L].iter_mut().zip(acc[k]).for_each(|(s, a)| *s += a as f64);
    }
    L
}

/// One piece of [`moments`]: the sums of x - k and of its square, k being about the mean of the piece, and k.
struct Moments<'a> {
    e: Extents,
    rows: &'a [f32],
    range: [usize; 2],
    x: &'a [f32],
    part: &'a mut [f64],
}

impl Vectorized for Moments<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (e, x) = (self.e, self.x);
        self.part.fill(0.0);
        let (sums, rest) = self.part.split_at_mut(2 * e.c);
        let (k, n) = rest.split_at_mut(e.c);
        let mut pixels = 0;
        runs(e, self.rows, self.range, |from, to, counts| pixels += if counts { to - from } else { 0 });
        if pixels == 0 {
            return;
        }
        n[0] = pixels as f64;
        runs(e, self.rows, self.range, |from, to, counts| {
            if counts {
                add_sums([from, to], e.c, Plain(x), k);
            }
        });
        k.iter_mut().for_each(|k| *k = (*k / n[0]) as f32 as f64);
        runs(e, self.rows, self.range, |from, to, counts| {
            if counts {
                add_sums([from, to], e.c, Shifted(x, k), sums);
            }
        });
    }
}

/// Mean and variance [C] of the pixels of images with a positive weight; NaN where there are none. Each piece makes two
/// passes, so that the variance does not suffer from a large mean.
pub fn moments(
    simd: Simd,
    e: Extents,
    x: &[f32],
    rows: &[f32],
    mean: &mut [f32],
    var: &mut [f32],
    scratch: &mut [f64],
) {
    let (parts, _) = e.split(scratch);
    par::pieces_mut(parts, e.part(), |p, part| simd::run(simd, Moments { e, rows, range: e.range(p), x, part }));
    let n = counted(e, rows) as f64;
    for c in 0..e.c {
        // Mean and sum of squared deviations of a piece, for pieces that have pixels.
        let of = |part: &[f64]| {
            let (np, s, q, k) = (part[3 * e.c], part[c], part[e.c + c], part[2 * e.c + c]);
            (np > 0.0).then(|| (np, k + s / np, q - s * s / np))
        };
        let all = || parts.chunks_exact(e.part()).filter_map(of);
        let m = all().map(|(np, mean, _)| np * mean).sum::<f64>() / n;
        let squares: f64 = all().map(|(np, mean, q)| q + np * (mean - m).powi(2)).sum();
        (mean[c], var[c]) = (m as f32, (squares / n).max(0.0) as f32);
    }
}

/// y = (x - mean) scale + shift, through ReLU if asked, for one piece.
struct Affine<'a> {
    x: &'a [f32],
    coefficients: [&'a [f32]; 3],
    relu: bool,
    y: &'a mut [f32],
}

impl Vectorized for Affine<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let [mean, scale, shift] = self.coefficients;
        let c = mean.len();
        let (scale, shift) = (&scale[..c], &shift[..c]);
        for (x, y) in self.x.chunks_exact(c).zip(self.y.chunks_exact_mut(c)) {
            for i in 0..c {
                let z = (x[i] - mean[i]) * scale[i] + shift[i];
                y[i] = if self.relu && z < 0.0 { 0.0 } else { z };
            }
        }
    }
}

/// Mean, variance and gamma, [C] each.
#[derive(Clone, Copy)]
pub struct Channels<'a> {
    pub mean: &'a [f32],
    pub var: &'a [f32],
    pub gamma: &'a [f32],
    pub eps: f64,
}

impl Channels<'_> {
    /// 1 / sqrt(variance + eps)
    fn inverse(&self, c: usize) -> f64 {
        1.0 / (self.var[c] as f64 + self.eps).sqrt()
    }
}

/// y = gamma (x - mean) / sqrt(variance + eps) + beta, through ReLU if asked.
#[allow(clippy::too_many_arguments)]
pub fn normalize(
    simd: Simd,
    e: Extents,
    x: &[f32],
    ch: Channels,
    beta: &[f32],
    relu: bool,
    y: &mut [f32],
    scratch: &mut [f64],
) {
    let (_, [scale, ..]) = e.split(scratch);
    (0..e.c).for_each(|c| scale[c] = (ch.gamma[c] as f64 * ch.inverse(c)) as f32);
    let coefficients = [ch.mean, scale, beta];
    par::pieces_mut(y, e.piece() * e.c, |p, y| {
        let x = &x[e.range(p)[0] * e.c..][..y.len()];
        simd::run(simd, Affine { x, coefficients, relu, y });
    });
}

/// One piece of the sums of [`grad`].
struct GradSums<'a> {
    range: [usize; 2],
    x: &'a [f32],
    dy: &'a [f32],
    mean: &'a [f32],
    part: &'a mut [f64],
}

impl Vectorized for GradSums<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        self.part.fill(0.0);
        add_sums(self.range, self.mean.len(), Products(self.x, self.dy, self.mean), self.part);
    }
}

/// dx = a dy + b (x - mean) + d for one piece; a dy alone for images that do not count, and for all without `rows`.
struct GradApply<'a> {
    e: Extents,
    rows: Option<&'a [f32]>,
    range: [usize; 2],
    x: &'a [f32],
    dy: &'a [f32],
    mean: &'a [f32],
    coefficients: [&'a [f32]; 3],
    dx: &'a mut [f32],
}

impl Vectorized for GradApply<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let ([a, b, d], mean, c, dx) = (self.coefficients, self.mean, self.e.c, self.dx);
        let (a, b, d, mean) = (&a[..c], &b[..c], &d[..c], &mean[..c]);
        let mut run = |from: usize, to: usize, counts: bool| {
            let (x, dy) = (&self.x[from * c..to * c], &self.dy[from * c..to * c]);
            let dx = &mut dx[(from - self.range[0]) * c..][..dy.len()];
            for ((x, dy), dx) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
                for i in 0..c {
                    dx[i] = a[i] * dy[i] + if counts { b[i] * (x[i] - mean[i]) + d[i] } else { 0.0 };
                }
            }
        };
        match self.rows {
            Some(rows) => runs(self.e, rows, self.range, run),
            None => run(self.range[0], self.range[1], false),
        }
    }
}

/// The adjoint of [`normalize`]. With `rows`, mean and variance are those of the images that count, and the gradient goes
/// through them; `moments` is what else depends on the mean and the variance.
#[allow(clippy::too_many_arguments)]
pub fn grad(
    simd: Simd,
    e: Extents,
    x: &[f32],
    ch: Channels,
    dy: &[f32],
    rows: Option<&[f32]>,
    moments: Option<[&[f32]; 2]>,
    [dx, dgamma, dbeta]: [&mut [f32]; 3],
    scratch: &mut [f64],
) {
    let (parts, [a, b, d]) = e.split(scratch);
    par::pieces_mut(parts, e.part(), |p, part| {
        simd::run(simd, GradSums { range: e.range(p), x, dy, mean: ch.mean, part });
    });
    let n = rows.map_or(1.0, |rows| counted(e, rows) as f64);
    for c in 0..e.c {
        let sum = |at: usize| parts.chunks_exact(e.part()).map(|p| p[at]).sum::<f64>();
        let (s, q, inverse, gamma) = (sum(c), sum(e.c + c), ch.inverse(c), ch.gamma[c] as f64);
        (dbeta[c], dgamma[c], a[c]) = (s as f32, (q * inverse) as f32, (gamma * inverse) as f32);
        let [dmean, dvar] = moments.map_or([0.0; 2], |m| m.map(|m| m[c] as f64));
        b[c] = ((2.0 * dvar - gamma * inverse.powi(3) * q) / n) as f32;
        d[c] = ((dmean - gamma * inverse * s) / n) as f32;
    }
    let coefficients = [&*a, &*b, &*d];
    par::pieces_mut(dx, e.piece() * e.c, |p, dx| {
        simd::run(simd, GradApply { e, rows, range: e.range(p), x, dy, mean: ch.mean, coefficients, dx });
    });
}
