/*! Max pooling over the pixels of x [N,H,W,C]: the largest value of each window, and where its gradient goes.

Loops over channels are plain, of fixed widths, and only compare and add: every vector level gives the same bits. */

use super::LANES;
use super::depthwise::inside;
use super::simd::{self, V16, Vectorized};
use crate::launch::Simd;
use crate::par;
use crate::shape::Window;
use std::ops::Range;

/// Input rows of one task of the gradient.
const BAND: usize = 16;
/// Vectors of channels that a window takes at a time, where it has as many.
const WIDE: usize = 4;

/// Windows over an image.
#[derive(Clone, Copy)]
pub struct Windows {
    pub window: Window,
    /// N, H, W, C
    pub x: [usize; 4],
    /// N, P, Q, C
    pub y: [usize; 4],
}

/// One window: its taps that are inside the image, and the element of x under tap (0, 0), which need not exist.
struct Taps {
    rows: Range<usize>,
    columns: Range<usize>,
    origin: isize,
}

impl Windows {
    /// y = the largest value of each window: the first of equal ones, a NaN before everything, -infinity where a window holds
    /// no pixel.
    pub fn max(&self, simd: Simd, x: &[f32], y: &mut [f32]) {
        let [n, p, q, c] = self.y;
        assert_eq!(x.len(), self.x.iter().product::<usize>());
        par::rows_mut(y, q * c, n * p, |row, y| simd::run(simd, MaxRow { of: self, x, row, y }));
    }

    /// dx = dy at the winner of each window, found again in x; what a pixel wins is added up window by window.
    pub fn max_grad(&self, simd: Simd, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let ([n, h, w, c], stride) = (self.x, self.window.stride[0]);
        assert_eq!((x.len(), dy.len()), (n * h * w * c, self.y.iter().product::<usize>()));
        let span = self.window.dilation[0] * (self.window.size[0] - 1) + 1;
        // A task owns a band of input rows, finds the winners of every window that reaches into it and keeps those in its
        // rows: no two tasks write the same element, and the order of additions is fixed. A window reaches into two bands
        // at most, and into one where windows tile the image.
        let band = BAND.max(span).next_multiple_of(stride);
        par::bands_mut(dx, h * w * c, band * w * c, |image, at, dx| {
            let own = at / (w * c)..(at + dx.len()) / (w * c);
            let first = (own.start + self.window.pad[0] + 1).saturating_sub(span).div_ceil(stride);
            let rows = first..(own.end + self.window.pad[0]).div_ceil(stride).min(self.y[1]);
            simd::run(simd, GradBand { of: self, x, dy, image, rows, own, dx });
        });
    }

    /// The window of output (p, q) of an image.
    #[inline(always)]
    fn taps(&self, image: usize, p: usize, q: usize) -> Taps {
        let ([_, h, w, c], win) = (self.x, &self.window);
        let first = |axis: usize, o: usize| (o * win.stride[axis]) as isize - win.pad[axis] as isize;
        let reach =
            |axis: usize, o, extent| inside(first(axis, o), win.dilation[axis] as isize, win.size[axis], extent);
        let origin = ((image * h) as isize + first(0, p)) * w as isize + first(1, q);
        Taps { rows: reach(0, p, h), columns: reach(1, q, w), origin: origin * c as isize }
    }

    /// The element of x under a tap that is inside the image.
    #[inline(always)]
    fn under(&self, t: &Taps, r: usize, s: usize) -> usize {
        let [_, _, w, c] = self.x;
        (t.origin + ((r * self.window.dilation[0] * w + s * self.window.dilation[1]) * c) as isize) as usize
    }
}

/// One output row of [`Windows::max`].
struct MaxRow<'a> {
    of: &'a Windows,
    x: &'a [f32],
    row: usize,
    y: &'a mut [f32],
}

impl Vectorized for MaxRow<'_> {
    #[inline(always)]
    fn run<V: V16>(mut self) {
        let [_, p, q, c] = self.of.y;
        for q in 0..q {
            let t = self.of.taps(self.row / p, self.row % p, q);
            let mut c0 = 0;
            while c0 < c {
                // SAFETY: the taps are inside x, and so many channels exist in it and in the row.
                c0 += unsafe {
                    if c - c0 >= WIDE * LANES {
                        self.window::<V, WIDE>(&t, q, c0)
                    } else {
                        self.window::<V, 1>(&t, q, c0)
                    }
                };
            }
        }
    }
}

impl MaxRow<'_> {
    /// N vectors of channels from `c0` on, or what is left of one; returns how many channels N vectors hold.
    ///
    /// # Safety
    /// The taps must be inside x, and so many channels must exist.
    #[inline(always)]
    unsafe fn window<V: V16, const N: usize>(&mut self, t: &Taps, q: usize, c0: usize) -> usize {
        let n = LANES.min(self.of.y[3] - c0);
        let mut best = [V::splat(f32::NEG_INFINITY); N];
        // SAFETY: the caller's promise.
        unsafe {
            for r in t.rows.clone() {
                for s in t.columns.clone() {
                    let x = self.x.as_ptr().add(self.of.under(t, r, s) + c0);
                    for (v, best) in best.iter_mut().enumerate() {
                        let x = V::load_part(x.add(v * LANES), n);
                        // A NaN replaces the maximum, and stays: nothing is greater.
                        *best = x.nan_or(x.max(*best));
                    }
                }
            }
            let y = self.y.as_mut_ptr().add(q * self.of.y[3] + c0);
            for (v, best) in best.into_iter().enumerate() {
                best.store_part(y.add(v * LANES), n);
            }
        }
        N * LANES
    }
}

/// A band of input rows of [`Windows::max_grad`].
struct GradBand<'a> {
    of: &'a Windows,
    x: &'a [f32],
    dy: &'a [f32],
    image: usize,
    /// Output rows whose windows reach into the band.
    rows: Range<usize>,
    /// Input rows of the band, which `dx` holds.
    own: Range<usize>,
    dx: &'a mut [f32],
}

impl Vectorized for GradBand<'_> {
    #[inline(always)]
    fn run<V: V16>(mut self) {
        let (win, [_, p, q, c]) = (self.of.window, self.of.y);
        self.dx.fill(0.0);
        for i in self.rows.clone() {
            // Of the taps inside the image those in the band.
            let first = (i * win.stride[0]) as isize - win.pad[0] as isize - self.own.start as isize;
            let kept = inside(first, win.dilation[0] as isize, win.size[0], self.own.len());
            for j in 0..q {
                let t = self.of.taps(self.image, i, j);
                if t.rows.is_empty() || t.columns.is_empty() {
                    continue;
                }
                let at = ((self.image * p + i) * q + j) * c;
                let mut c0 = 0;
                while c0 < c {
                    // SAFETY: the taps are inside x, those of `kept` in the band's rows, and so many channels exist.
                    c0 += unsafe {
                        if c - c0 >= WIDE * LANES {
                            self.window::<V, WIDE>(&t, &kept, at, c0)
                        } else {
                            self.window::<V, 1>(&t, &kept, at, c0)
                        }
                    };
                }
            }
        }
    }
}

impl GradBand<'_> {
    /// N vectors of channels from `c0` on, or what is left of one, of the window whose dy begins at `at`: adds dy to the
    /// winners, where they are in rows `kept` of the taps; returns as above.
    ///
    /// # Safety
    /// The taps must be inside x, rows `kept` of them in the band, and so many channels must exist.
    #[inline(always)]
    unsafe fn window<V: V16, const N: usize>(&mut self, t: &Taps, kept: &Range<usize>, at: usize, c0: usize) -> usize {
        let n = LANES.min(self.of.y[3] - c0);
        let (of, [_, h, w, c]) = (self.of, self.of.x);
        let columns = of.window.size[1];
        let (r, s) = (t.rows.start, t.columns.start);
        // SAFETY: the caller's promise.
        unsafe {
            let x = self.x.as_ptr().add(c0);
            // The first tap begins, and takes part once more: it does not win over itself.
            let (mut best, mut won) = ([V::splat(0.0); N], [V::splat((r * columns + s) as f32); N]);
            for (v, best) in best.iter_mut().enumerate() {
                *best = V::load_part(x.add(of.under(t, r, s) + v * LANES), n);
            }
            for r in t.rows.clone() {
                for s in t.columns.clone() {
                    let (x, tap) = (x.add(of.under(t, r, s)), V::splat((r * columns + s) as f32));
                    for v in 0..N {
                        // The first of equal values wins; a NaN wins over everything but an earlier one.
                        (best[v], won[v]) = V::load_part(x.add(v * LANES), n).winner(tap, best[v], won[v]);
                    }
                }
            }
            let dy = self.dy.as_ptr().add(at + c0);
            let mut gradient = [V::splat(0.0); N];
            for (v, gradient) in gradient.iter_mut().enumerate() {
                *gradient = V::load_part(dy.add(v * LANES), n);
            }
            let band = (self.image * h + self.own.start) * w * c;
            for r in kept.clone() {
                for s in t.columns.clone() {
                    let dx = self.dx.as_mut_ptr().add(of.under(t, r, s) + c0 - band);
                    let tap = V::splat((r * columns + s) as f32);
                    for v in 0..N {
                        let dx = dx.add(v * LANES);
                        V::load_part(dx, n).add(gradient[v].where_equal(won[v], tap)).store_part(dx, n);
                    }
                }
            }
        }
        N * LANES
    }
}
