/*! Depthwise convolution: a filter sees one channel, so there is no matrix product, and all the work is to bring pixels
past the registers. Channels are the lanes: dst[c] is a chain of multiply-adds over (r, s) of src[c] * w[c], begun at the
bias, in which taps in the padding are left out. A channel may have several filters ([`Spread`]).

The geometry is that of [`super::conv`]: [`Gather`] forward and, phase by phase, for the input gradient. The weight
gradient sums over runs of [`RUN`] pixels of a row, adds these to a sum for each fixed piece of the batch's rows, and the
pieces in order. */

use super::conv::{Gather, phases};
use super::simd::{self, V16, Vectorized};
use super::{LANES, Out, add_parts, cut};
use crate::launch::Simd;
use crate::par;
use crate::shape::ConvShape;
use std::ops::Range;

/// Whether a convolution is run here: a channel of its own for each group, and too few filters on it to fill a vector.
pub fn takes(s: &ConvShape) -> bool {
    s.group_c() == 1 && s.group_k() < LANES
}

/// Elements of the output that one task makes, and pixels that it holds in registers.
const TASK: usize = 32 * 1024;
const BLOCK: usize = 4;

/// Which source channel lane `c` of the destination reads for term j: (c * mul + j) / div.
#[derive(Clone, Copy)]
struct Spread {
    mul: usize,
    div: usize,
    /// Products of one tap: the filters of a channel, for the input gradient.
    terms: usize,
}

impl Spread {
    fn plain(&self) -> bool {
        self.mul == 1 && self.div == 1
    }
    /// Lanes `c..c + n`.
    ///
    /// # Safety
    /// The channels that these lanes read must be readable from `pixel` on.
    #[inline(always)]
    unsafe fn load<V: V16>(&self, pixel: *const f32, c: usize, n: usize, j: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            if self.plain() {
                return V::load_part(pixel.add(c), n);
            }
            let mut lanes = [0.0; LANES];
            for (l, lane) in lanes.iter_mut().enumerate().take(n) {
                *lane = *pixel.add(((c + l) * self.mul + j) / self.div);
            }
            V::load(lanes.as_ptr())
        }
    }
}

/// [`super::conv::fprop`] where [`takes`] says so.
#[allow(clippy::too_many_arguments)] // The operands of a convolution.
pub fn fprop(
    simd: Simd,
    s: &ConvShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let g = Gather::forward(s);
    let packed = &mut scratch[..fprop_scratch(s)];
    let taps = g.taps[0] * g.taps[1];
    for (tap, row) in packed.chunks_exact_mut(s.k).enumerate() {
        row.iter_mut().zip(w[tap..].iter().step_by(taps)).for_each(|(p, w)| *p = *w);
    }
    let spread = Spread { mul: 1, div: s.group_k(), terms: 1 };
    correlate(simd, &g, spread, x, packed, bias, relu, y);
}

pub fn fprop_scratch(s: &ConvShape) -> usize {
    s.k * s.taps()[0] * s.taps()[1]
}

/// [`super::conv::transposed`] where [`takes`] says so.
#[allow(clippy::too_many_arguments)] // The operands of a convolution.
pub fn transposed(
    simd: Simd,
    s: &ConvShape,
    y: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
    x: &mut [f32],
    scratch: &mut [f32],
) {
    let (m, taps) = (s.group_k(), s.taps()[0] * s.taps()[1]);
    for phase in phases(s) {
        let g = &phase.gather;
        let packed = &mut scratch[..g.taps[0] * g.taps[1] * s.k];
        for (row, packed) in packed.chunks_exact_mut(s.c).enumerate() {
            let w = &w[row % m * taps + phase.tap(row / m)..];
            packed.iter_mut().zip(w.iter().step_by(m * taps)).for_each(|(p, w)| *p = *w);
        }
        let spread = Spread { mul: m, div: 1, terms: m };
        correlate(simd, g, spread, y, packed, bias, relu, x);
    }
}

pub fn dgrad_scratch(s: &ConvShape) -> usize {
    phases(s).map(|p| p.gather.taps[0] * p.gather.taps[1] * s.k).max().unwrap_or(0)
}

/// dst = act(bias + sum of source * weights); weights [taps * terms][destination channels].
#[allow(clippy::too_many_arguments)] // The operands of a convolution.
fn correlate(
    simd: Simd,
    g: &Gather,
    spread: Spread,
    src: &[f32],
    packed: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
    dst: &mut [f32],
) {
    let (src_c, dst_c) = (g.groups * g.src_c, g.groups * g.dst_c);
    assert_eq!(src.len(), g.n * g.src[0] * g.src[1] * src_c);
    assert_eq!(dst.len(), g.n * g.dst[0] * g.dst[1] * dst_c);
    assert_eq!(packed.len(), g.taps[0] * g.taps[1] * spread.terms * dst_c);
    let rows = g.n * g.out[0];
    let (pieces, size) = cut(rows, (TASK / (g.out[1] * dst_c)).max(1), 1);
    let dst = Out::new(dst);
    par::tasks(pieces, |i| {
        let rows = i * size..((i + 1) * size).min(rows);
        simd::run(simd, Rows { g, spread, src, packed, bias, relu, rows, dst });
    });
}

/// The taps whose pixel, `at` under the first and `step` further under each next, is inside `extent`.
#[inline(always)]
pub(super) fn inside(at: isize, step: isize, taps: usize, extent: usize) -> Range<usize> {
    let from = ((-at).max(0) + step - 1) / step;
    let to = ((extent as isize - at).max(0) + step - 1) / step;
    let to = (to as usize).min(taps);
    (from as usize).min(to)..to
}

/// Some output rows of [`correlate`].
struct Rows<'a> {
    g: &'a Gather,
    spread: Spread,
    src: &'a [f32],
    packed: &'a [f32],
    bias: Option<&'a [f32]>,
    relu: bool,
    rows: Range<usize>,
    dst: Out,
}

impl Vectorized for Rows<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let g = self.g;
        let dst_c = g.groups * g.dst_c;
        let whole = if self.spread.plain() { dst_c / LANES * LANES } else { 0 };
        for row in self.rows.clone() {
            let (n, p) = (row / g.out[0], row % g.out[0]);
            let h = p as isize * g.mul[0] + g.off[0];
            let taps = inside(h, g.step[0], g.taps[0], g.src[0]);
            let line = |r: usize| (n * g.src[0] + (h + r as isize * g.step[0]) as usize) * g.src[1];
            let mut q = 0;
            while q < g.out[1] {
                let w = q as isize * g.mul[1] + g.off[1];
                let last = w + (BLOCK - 1) as isize * g.mul[1] + 2;
                let fits = w >= 0 && last < g.src[1] as isize && q + BLOCK <= g.out[1];
                let blocks = whole > 0 && fits && g.taps[1] == 3 && g.step[1] == 1 && g.mul[1] <= 2;
                let (count, first) = if blocks { (BLOCK, whole) } else { (1, 0) };
                // SAFETY: the taps are inside the source, the pixels inside the destination, and this task's.
                unsafe {
                    if blocks && g.mul[1] == 1 {
                        self.block::<V, 1>(taps.clone(), line, w as usize, g.to(n, p, q), whole);
                    } else if blocks {
                        self.block::<V, 2>(taps.clone(), line, w as usize, g.to(n, p, q), whole);
                    }
                    for q in q..q + count {
                        let w = q as isize * g.mul[1] + g.off[1];
                        for c in (first..dst_c).step_by(LANES) {
                            self.pixel::<V>(taps.clone(), line, w, g.to(n, p, q) + c, c);
                        }
                    }
                }
                q += count;
            }
        }
    }
}

impl Rows<'_> {
    /// Where the sums of channels `c..c + n` begin.
    ///
    /// # Safety
    /// The destination must have them; a bias has an element for each ([`super::conv`] checks it).
    #[inline(always)]
    unsafe fn begin<V: V16>(&self, c: usize, n: usize) -> V {
        match self.bias {
            // SAFETY: the caller's promise.
            Some(b) => unsafe { V::load_part(b.as_ptr().add(c), n) },
            None => V::splat(0.0),
        }
    }
    #[inline(always)]
    fn end<V: V16>(&self, v: V) -> V {
        // In this order a NaN stays: max gives its second operand.
        if self.relu { V::splat(0.0).max(v) } else { v }
    }

    /// BLOCK pixels of a row whose three columns of taps are inside the source from column `w` on, MUL columns apart:
    /// the first `whole` channels. A source pixel is loaded once for all taps of a row.
    ///
    /// # Safety
    /// As said; `to` is where the first pixel goes, the others follow `every` pixels apart.
    #[inline(always)]
    unsafe fn block<V: V16, const MUL: usize>(
        &self,
        taps: Range<usize>,
        line: impl Fn(usize) -> usize,
        w: usize,
        to: usize,
        whole: usize,
    ) {
        let g = self.g;
        // Source and destination have one channel for each group.
        let channels = g.groups;
        // SAFETY: the caller's promise.
        unsafe {
            for c in (0..whole).step_by(LANES) {
                let mut acc = [self.begin::<V>(c, LANES); BLOCK];
                for r in taps.clone() {
                    let weights = self.packed.as_ptr().add(r * 3 * channels + c);
                    let weights =
                        [V::load(weights), V::load(weights.add(channels)), V::load(weights.add(2 * channels))];
                    let from = self.src.as_ptr().add((line(r) + w) * channels + c);
                    let mut pixels = [V::splat(0.0); 2 * (BLOCK - 1) + 3];
                    for (u, x) in pixels.iter_mut().enumerate().take(MUL * (BLOCK - 1) + 3) {
                        *x = V::load(from.add(u * channels));
                    }
                    for (s, weight) in weights.into_iter().enumerate() {
                        for (t, acc) in acc.iter_mut().enumerate() {
                            *acc = pixels[t * MUL + s].fma(weight, *acc);
                        }
                    }
                }
                for (t, acc) in acc.into_iter().enumerate() {
                    self.end(acc).store(self.dst.at(to + t * g.every[1] * channels + c));
                }
            }
        }
    }

    /// Up to 16 channels from `c` on of one pixel, any geometry.
    ///
    /// # Safety
    /// Rows `taps` must be inside the source, `to` inside the destination and this task's.
    #[inline(always)]
    unsafe fn pixel<V: V16>(&self, taps: Range<usize>, line: impl Fn(usize) -> usize, w: isize, to: usize, c: usize) {
        let g = self.g;
        let (src_c, dst_c) = (g.groups * g.src_c, g.groups * g.dst_c);
        let n = LANES.min(dst_c - c);
        // SAFETY: the caller's promise, and `inside`'s.
        unsafe {
            let mut acc = self.begin::<V>(c, n);
            for r in taps {
                for s in inside(w, g.step[1], g.taps[1], g.src[1]) {
                    let at = line(r) + (w + s as isize * g.step[1]) as usize;
                    for j in 0..self.spread.terms {
                        let row = (r * g.taps[1] + s) * self.spread.terms + j;
                        let weight = V::load_part(self.packed.as_ptr().add(row * dst_c + c), n);
                        acc = self.spread.load::<V>(self.src.as_ptr().add(at * src_c), c, n, j).fma(weight, acc);
                    }
                }
            }
            self.end(acc).store_part(self.dst.at(to), n);
        }
    }
}

/// Pixels of a row that are summed before they are added to the sum of a piece.
const RUN: usize = 16;

/// (pieces, rows of the batch in each) of the weight gradient.
fn pieces(s: &ConvShape) -> (usize, usize) {
    let rows = s.n * s.p;
    cut(rows, rows.div_ceil(32).max(4), 1)
}

/// [`super::conv::wgrad`] where [`takes`] says so.
pub fn wgrad(simd: Simd, s: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32], scratch: &mut [f32]) {
    let g = Gather::forward(s);
    assert_eq!(x.len(), s.n * s.h * s.w * s.c);
    assert_eq!(dy.len(), s.n * s.p * s.q * s.k);
    assert_eq!(dw.len(), s.k * s.taps()[0] * s.taps()[1]);
    let (pieces, size) = pieces(s);
    let scratch = &mut scratch[..wgrad_scratch(s)];
    let sums = Out::new(scratch);
    par::tasks(pieces, |i| {
        let rows = i * size..((i + 1) * size).min(s.n * s.p);
        // SAFETY: each piece has its own part of the scratch.
        let sums = unsafe { sums.slice(i * dw.len(), dw.len()) };
        simd::run(simd, Filters { g: &g, x, dy, rows, sums });
    });
    let (sum, rest) = scratch.split_at_mut(dw.len());
    add_parts(sum, rest);
    let taps = g.taps[0] * g.taps[1];
    for (tap, sums) in sum.chunks_exact(s.k).enumerate() {
        dw[tap..].iter_mut().step_by(taps).zip(sums).for_each(|(w, s)| *w = *s);
    }
}

pub fn wgrad_scratch(s: &ConvShape) -> usize {
    pieces(s).0 * s.k * s.taps()[0] * s.taps()[1]
}

/// The weight gradient of some rows of the batch's output, as [tap][filter].
struct Filters<'a> {
    g: &'a Gather,
    x: &'a [f32],
    dy: &'a [f32],
    rows: Range<usize>,
    sums: &'a mut [f32],
}

/// R x S taps on a run of output pixels.
struct Taps {
    /// First row and column.
    r: usize,
    s: usize,
    /// Row of pixels under the first row of taps, and from row to row.
    line: usize,
    line_step: usize,
    /// Pixel of dY, and column under tap column 0, of the run's first pixel; its length.
    dy: usize,
    w: isize,
    run: usize,
}

impl Vectorized for Filters<'_> {
    #[inline(always)]
    fn run<V: V16>(mut self) {
        let g = self.g;
        self.sums.fill(0.0);
        let k = g.groups * g.dst_c;
        let whole = if g.dst_c == 1 { k / LANES * LANES } else { 0 };
        for row in self.rows.clone() {
            let (n, p) = (row / g.out[0], row % g.out[0]);
            let h = p as isize * g.mul[0] + g.off[0];
            let taps = inside(h, g.step[0], g.taps[0], g.src[0]);
            for q in (0..g.out[1]).step_by(RUN) {
                // Threes while there are as many, then one by one: the sums of taps do not touch each other.
                let mut r = taps.start;
                while r < taps.end {
                    let high = if taps.end - r >= 3 { 3 } else { 1 };
                    let mut s = 0;
                    while s < g.taps[1] {
                        let wide = if g.taps[1] - s >= 3 { 3 } else { 1 };
                        let t = Taps {
                            r,
                            s,
                            line: (n * g.src[0] + (h + r as isize * g.step[0]) as usize) * g.src[1],
                            line_step: g.step[0] as usize * g.src[1],
                            dy: row * g.out[1] + q,
                            w: q as isize * g.mul[1] + g.off[1],
                            run: RUN.min(g.out[1] - q),
                        };
                        // SAFETY: these rows of taps are inside the image, the run inside dY.
                        unsafe {
                            match (high, wide) {
                                (3, 3) => self.taps::<V, 3, 3>(&t, whole),
                                (3, _) => self.taps::<V, 3, 1>(&t, whole),
                                (_, 3) => self.taps::<V, 1, 3>(&t, whole),
                                _ => self.taps::<V, 1, 1>(&t, whole),
                            }
                        }
                        s += wide;
                    }
                    r += high;
                }
            }
        }
    }
}

impl Filters<'_> {
    /// Adds the sums of a run to those of the piece.
    ///
    /// # Safety
    /// Rows r..r + R of taps must be inside the image, and the run inside dY.
    #[inline(always)]
    unsafe fn taps<V: V16, const R: usize, const S: usize>(&mut self, t: &Taps, whole: usize) {
        let g = self.g;
        let (c, k) = (g.groups, g.groups * g.dst_c);
        let under = |i: usize, s: usize| t.w + i as isize * g.mul[1] + (t.s + s) as isize * g.step[1];
        // Pixels whose taps are all inside.
        let first = (0..t.run).find(|i| under(*i, 0) >= 0).unwrap_or(t.run);
        let last = (first..t.run).rfind(|i| under(*i, S - 1) < g.src[1] as isize).map_or(first, |i| i + 1);
        // SAFETY: the caller's promise.
        unsafe {
            for ch in (0..k).step_by(LANES) {
                let n = LANES.min(k - ch);
                let mut acc = [[V::splat(0.0); S]; R];
                let dy = self.dy.as_ptr().add(t.dy * k + ch);
                for i in 0..t.run {
                    if ch >= whole || i < first || i >= last {
                        self.edge(t, i, ch, &mut acc);
                        continue;
                    }
                    let dy = V::load(dy.add(i * k));
                    let x = self.x.as_ptr().add((t.line + under(i, 0) as usize) * c + ch);
                    for r in 0..R {
                        for s in 0..S {
                            let x = x.add((r * t.line_step + s * g.step[1] as usize) * c);
                            acc[r][s] = V::load(x).fma(dy, acc[r][s]);
                        }
                    }
                }
                for (r, acc) in acc.iter().enumerate() {
                    for (s, &acc) in acc.iter().enumerate() {
                        let sum = self.sums.as_mut_ptr().add(((t.r + r) * g.taps[1] + t.s + s) * k + ch);
                        V::load_part(sum, n).add(acc).store_part(sum, n);
                    }
                }
            }
        }
    }

    /// Pixel `i` of the run, those of its taps that are inside; up to 16 filters from `ch` on.
    ///
    /// # Safety
    /// As for `taps`.
    #[inline(always)]
    unsafe fn edge<V: V16, const R: usize, const S: usize>(
        &self,
        t: &Taps,
        i: usize,
        ch: usize,
        acc: &mut [[V; S]; R],
    ) {
        let g = self.g;
        let (c, k) = (g.groups, g.groups * g.dst_c);
        let n = LANES.min(k - ch);
        let spread = Spread { mul: 1, div: g.dst_c, terms: 1 };
        // SAFETY: the caller's promise.
        unsafe {
            let dy = V::load_part(self.dy.as_ptr().add((t.dy + i) * k + ch), n);
            for s in 0..S {
                let w = t.w + i as isize * g.mul[1] + (t.s + s) as isize * g.step[1];
                if w >= 0 && w < g.src[1] as isize {
                    for r in 0..R {
                        let x = self.x.as_ptr().add((t.line + r * t.line_step + w as usize) * c);
                        acc[r][s] = spread.load::<V>(x, ch, n, 0).fma(dy, acc[r][s]);
                    }
                }
            }
        }
    }
}
