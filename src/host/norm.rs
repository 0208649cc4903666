/*! Batch normalisation: sums over all pixels of a channel, and what is done to every pixel with them.

The pixels are cut into pieces that fit a cache. Within a piece a sum is chains of [`CHAIN`] float32 additions, added up
in float64; pieces are joined in float64, in order. No product is contracted with a sum, so every vector level gives the
same bits. */

use super::LANES;
use super::simd::{self, V16, Vectorized};
use crate::launch::Simd;
use crate::par;
use crate::shape::Type;

/// Additions in float32 before a float64 sum takes over: sums are good to CHAIN + 1 roundings of their magnitudes.
pub const CHAIN: usize = 32;

/// Elements of a piece: a quarter of a megabyte, which a core's second cache holds.
const PIECE: usize = 64 * 1024;

/// Vectors of channels that a chain takes at a time, where there are as many.
const WIDE: usize = 4;

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

/// Runs of pixels whose images all count or all do not: (first, end, count).
fn runs(e: Extents, rows: &[f32], [mut at, to]: [usize; 2]) -> impl Iterator<Item = (usize, usize, bool)> {
    std::iter::from_fn(move || {
        if at >= to {
            return None;
        }
        let (from, counts) = (at, rows[at / e.hw] > 0.0);
        at = ((from / e.hw + 1) * e.hw).min(to);
        while at < to && (rows[at / e.hw] > 0.0) == counts {
            at = (at + e.hw).min(to);
        }
        Some((from, at, counts))
    })
}

/// `n` elements from `at` on. A closure would do, but nothing makes the compiler inline one, and outside of the function
/// that carries the target features vectors are slow.
///
/// # Safety
/// There must be so many.
#[inline(always)]
unsafe fn part<V: V16>(x: &[f32], at: usize, n: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe { V::load_part(x.as_ptr().add(at), n) }
}

/// What is added up at a pixel.
trait Terms<const K: usize> {
    /// What the terms of a channel know of it.
    fn constant(&self, channel: usize) -> f32;
    /// The terms of K sums for `n` channels that begin at element `at` of the tensor.
    ///
    /// # Safety
    /// The tensor must have them.
    unsafe fn at<V: V16>(&self, at: usize, n: usize, constant: V) -> [V; K];
}

/// x
struct Plain<'a>(&'a [f32]);
/// x - k and its square
struct Shifted<'a>(&'a [f32], &'a [f64]);
/// dy and dy (x - mean)
struct Products<'a>(&'a [f32], &'a [f32], &'a [f32]);

impl Terms<1> for Plain<'_> {
    #[inline(always)]
    fn constant(&self, _: usize) -> f32 {
        0.0
    }
    #[inline(always)]
    unsafe fn at<V: V16>(&self, at: usize, n: usize, _: V) -> [V; 1] {
        // SAFETY: the caller's promise.
        [unsafe { part(self.0, at, n) }]
    }
}
impl Terms<2> for Shifted<'_> {
    #[inline(always)]
    fn constant(&self, channel: usize) -> f32 {
        self.1[channel] as f32
    }
    #[inline(always)]
    unsafe fn at<V: V16>(&self, at: usize, n: usize, k: V) -> [V; 2] {
        // SAFETY: the caller's promise.
        let x = unsafe { part::<V>(self.0, at, n) }.sub(k);
        [x, x.mul(x)]
    }
}
impl Terms<2> for Products<'_> {
    #[inline(always)]
    fn constant(&self, channel: usize) -> f32 {
        self.2[channel]
    }
    #[inline(always)]
    unsafe fn at<V: V16>(&self, at: usize, n: usize, mean: V) -> [V; 2] {
        // SAFETY: the caller's promise.
        let (x, dy) = unsafe { (part::<V>(self.0, at, n), part::<V>(self.1, at, n)) };
        [dy, x.sub(mean).mul(dy)]
    }
}

/// Adds the sums over pixels `from..to` to `sums` [K,C].
///
/// # Safety
/// The tensors of `terms` must have these pixels, of C channels.
#[inline(always)]
unsafe fn add_sums<V: V16, const K: usize>([from, to]: [usize; 2], c: usize, terms: impl Terms<K>, sums: &mut [f64]) {
    for first in (from..to).step_by(CHAIN) {
        let chain = [first, (first + CHAIN).min(to)];
        let mut c0 = 0;
        while c0 < c {
            // SAFETY: so many channels exist.
            c0 += unsafe {
                if c - c0 >= WIDE * LANES {
                    add_chain::<V, K, WIDE>(chain, c, c0, &terms, sums)
                } else {
                    add_chain::<V, K, 1>(chain, c, c0, &terms, sums)
                }
            };
        }
    }
}

/// One chain, `N` vectors of channels from `c0` on, or what is left of one; returns how many channels N vectors hold.
///
/// # Safety
/// As above, and so many channels must exist.
#[inline(always)]
unsafe fn add_chain<V: V16, const K: usize, const N: usize>(
    [from, to]: [usize; 2],
    c: usize,
    c0: usize,
    terms: &impl Terms<K>,
    sums: &mut [f64],
) -> usize {
    let n = LANES.min(c - c0);
    let mut lanes = [[0f32; LANES]; N];
    for v in 0..N {
        for l in 0..n {
            lanes[v][l] = terms.constant(c0 + v * LANES + l);
        }
    }
    let mut constants = [V::splat(0.0); N];
    let mut acc = [[V::splat(0.0); N]; K];
    // SAFETY: vectors have LANES lanes; the rest is the caller's promise.
    unsafe {
        for v in 0..N {
            constants[v] = V::load(lanes[v].as_ptr());
        }
        for pixel in from..to {
            for v in 0..N {
                let t = terms.at(pixel * c + c0 + v * LANES, n, constants[v]);
                for k in 0..K {
                    acc[k][v] = acc[k][v].add(t[k]);
                }
            }
        }
    }
    for k in 0..K {
        for v in 0..N {
            // SAFETY: as above.
            unsafe { acc[k][v].store(lanes[v].as_mut_ptr()) };
            let sums = &mut sums[k * c + c0 + v * LANES..][..n];
            for l in 0..n {
                sums[l] += lanes[v][l] as f64;
            }
        }
    }
    N * LANES
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
        for (from, to, counts) in runs(e, self.rows, self.range) {
            if counts {
                n[0] += (to - from) as f64;
                // SAFETY: these pixels are in x.
                unsafe { add_sums::<V, 1>([from, to], e.c, Plain(x), k) };
            }
        }
        if n[0] == 0.0 {
            return;
        }
        for k in &mut *k {
            *k = (*k / n[0]) as f32 as f64;
        }
        for (from, to, counts) in runs(e, self.rows, self.range) {
            if counts {
                // SAFETY: as above.
                unsafe { add_sums::<V, 2>([from, to], e.c, Shifted(x, k), sums) };
            }
        }
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
    assert_eq!((x.len(), rows.len()), (e.pixels() * e.c, e.n));
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
        let terms = Products(self.x, self.dy, self.mean);
        // SAFETY: the pixels of a piece are in x and dy.
        unsafe { add_sums::<V, 2>(self.range, self.mean.len(), terms, self.part) };
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
    fn run<V: V16>(mut self) {
        match self.rows {
            Some(rows) => {
                for (from, to, counts) in runs(self.e, rows, self.range) {
                    // SAFETY: the pixels of a piece are in x and dy, and are those of dx.
                    unsafe { self.pixels::<V>(from, to, counts) };
                }
            }
            // SAFETY: as above.
            None => unsafe { self.pixels::<V>(self.range[0], self.range[1], false) },
        }
    }
}

impl GradApply<'_> {
    /// Pixels `from..to`.
    ///
    /// # Safety
    /// x and dy must have them, and they must be in the piece.
    #[inline(always)]
    unsafe fn pixels<V: V16>(&mut self, from: usize, to: usize, counts: bool) {
        let ([a, b, d], c) = (self.coefficients, self.e.c);
        for pixel in from..to {
            for i in (0..c).step_by(LANES) {
                let (n, at) = (LANES.min(c - i), pixel * c + i);
                // SAFETY: the caller's promise; coefficients have an element for each channel.
                unsafe {
                    let through = if counts {
                        let z = part::<V>(self.x, at, n).sub(part(self.mean, i, n));
                        part::<V>(b, i, n).mul(z).add(part(d, i, n))
                    } else {
                        V::splat(0.0)
                    };
                    let dx = self.dx.as_mut_ptr().add((pixel - self.range[0]) * c + i);
                    part::<V>(a, i, n).mul(part(self.dy, at, n)).add(through).store_part(dx, n);
                }
            }
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
    assert_eq!((x.len(), dy.len(), ch.mean.len()), (dx.len(), e.pixels() * e.c, e.c));
    assert_eq!(dx.len(), dy.len());
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
