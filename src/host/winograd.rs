/*! 3x3 convolution of stride 1 with 2.25 times fewer multiplications: Winograd's minimal filtering F(2x2, 3x3)
(Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4.1), forward and for the gradient of
the input, which is the same with the filter turned by 180 degrees.

A tile of 2x2 outputs needs 4x4 inputs d and one 3x3 filter g per channel pair:

```text
Y = Aᵀ [ Σ over c of (G g Gᵀ) ⊙ (Bᵀ d B) ] A

Bᵀ = | 1  0 -1  0 |   G = | 1    0    0  |   Aᵀ = | 1  1  1  0 |
     | 0  1  1  0 |       | 1/2  1/2  1/2|        | 0  1 -1 -1 |
     | 0 -1  1  0 |       | 1/2 -1/2  1/2|
     | 0  1  0 -1 |       | 0    0    1  |
```

so that the sum over channels is sixteen matrix products, done by the one register tile.

**Rounding.** All factors are 0, ±1 and ±1/2: whole numbers stay exact, and each output is off by at most
(C + 12) 2^-24 times Σ over c of the absolute values of the same formula, in which the whole 4x4 tile counts and not
only the 3x3 window of the output. A NaN or infinity therefore reaches all four outputs of the tiles that read it.
**Bits** depend on the shape of one image alone, like those of every other routine: tiles never span two images, and
which shapes come here ([`suits`]) does not depend on the batch. */

use super::simd::{self, V16, Vectorized};
use super::tile::{self, Begin, HostTile, ROWS, Stretch, extent, tile};
use super::{LANES, Out, cut};
use crate::launch::Simd;
use crate::par;
use crate::shape::{ConvShape, Window};
use std::mem::MaybeUninit;

/// Points of a transformed tile: 4 x 4.
const POINTS: usize = 16;
/// Tiles of one task: its transformed outputs, 16 x 48 x 64 x 4 = 192 KiB, stay in the second-level cache.
const BLOCK: usize = 48;
/// What is put between the points of a transformed matrix: their distance would otherwise be a multiple of 4 KiB for the
/// usual numbers of channels, and the sixteen streams of a transform would fight for one set of the first-level cache.
const SKEW: usize = LANES;
/// From point to point of a task's products.
const PRODUCT_STEP: usize = BLOCK * 4 * LANES + SKEW;
/// Source channels of one task of the filters' transform.
const CHANNELS: usize = 128;
/// Bytes of transformed filters at a time, and of transformed inputs: together a few megabytes of the last-level cache.
const FILTER_BYTES: usize = 8 << 20;
const INPUT_BYTES: usize = 4 << 20;

/// Whether a convolution is worth transforming: 3x3, dense in every sense, with enough channels on both sides to pay
/// for the transforms and enough pixels to pay for that of the filters. The batch must not enter here.
pub fn suits(s: &ConvShape) -> bool {
    let w = &s.window;
    let plain = Window { pad: w.pad, ..Window::square(3, 1, 0) } == *w;
    plain && s.groups == 1 && s.c >= 32 && s.k >= 32 && s.p * s.q >= 100
}

/// A convolution seen from its output: forward, or turned for the gradient of the input.
pub struct Winograd {
    n: usize,
    /// Height and width.
    out: [usize; 2],
    src: [usize; 2],
    src_c: usize,
    dst_c: usize,
    /// Source coordinates under tap (0, 0) of output (0, 0).
    off: [isize; 2],
    turned: bool,
}

impl Winograd {
    pub fn forward(s: &ConvShape) -> Self {
        let off = [0, 1].map(|a| -(s.window.pad[a] as isize));
        Self { n: s.n, out: [s.p, s.q], src: [s.h, s.w], src_c: s.c, dst_c: s.k, off, turned: false }
    }
    pub fn backward(s: &ConvShape) -> Self {
        let off = [0, 1].map(|a| s.window.pad[a] as isize - 2);
        Self { n: s.n, out: [s.h, s.w], src: [s.p, s.q], src_c: s.k, dst_c: s.c, off, turned: true }
    }
    fn tiles(&self) -> [usize; 2] {
        self.out.map(|x| x.div_ceil(2))
    }
    /// From point to point of transformed filters, of a panel of `width` output channels.
    fn filter_step(&self, width: usize) -> usize {
        self.src_c * width + SKEW
    }
    /// From point to point of transformed inputs, of a block of `size` tiles.
    fn input_step(&self, size: usize) -> usize {
        self.src_c * size + SKEW
    }
    /// Panels of `width` output channels that are in work at a time.
    fn panels(&self, width: usize) -> usize {
        (FILTER_BYTES / (4 * POINTS * self.filter_step(width))).clamp(1, self.dst_c.div_ceil(width))
    }
    /// Tiles that are in work at a time, whole blocks of them: (blocks in all, tiles of each, blocks at a time).
    fn blocks(&self) -> (usize, usize, usize) {
        let (blocks, size) = cut(self.n * self.tiles()[0] * self.tiles()[1], BLOCK, ROWS);
        (blocks, size, (INPUT_BYTES / (4 * POINTS * self.input_step(size))).clamp(1, blocks))
    }
    /// Elements of scratch at any level.
    pub fn scratch(&self) -> usize {
        let filters = |vectors| self.panels(vectors * LANES) * self.filter_step(vectors * LANES);
        let (_, size, at_once) = self.blocks();
        POINTS * (filters(1).max(filters(4)) + at_once * self.input_step(size))
    }

    /// dst [N,P,Q,K] = act(bias + src * w), w [K,3,3,C] of the forward convolution.
    #[allow(clippy::too_many_arguments)] // The operands of a convolution.
    pub fn run(
        &self,
        simd: Simd,
        src: &[f32],
        w: &[f32],
        bias: Option<&[f32]>,
        relu: bool,
        dst: &mut [f32],
        scratch: &mut [f32],
    ) {
        assert_eq!(src.len(), self.n * self.src[0] * self.src[1] * self.src_c);
        assert_eq!(dst.len(), self.n * self.out[0] * self.out[1] * self.dst_c);
        assert_eq!(w.len(), 9 * self.src_c * self.dst_c);
        assert!(bias.is_none_or(|b| b.len() == self.dst_c));
        let (_, vectors) = extent(simd);
        let width = vectors * LANES;
        let most = self.panels(width);
        let panels = self.dst_c.div_ceil(width);
        let (blocks, size, at_once) = self.blocks();
        let (filters, inputs) = scratch.split_at_mut(most * POINTS * self.filter_step(width));
        assert!(inputs.len() >= at_once * POINTS * self.input_step(size));
        let tiles = self.n * self.tiles()[0] * self.tiles()[1];
        let dst = Out::new(dst);
        for first_panel in (0..panels).step_by(most) {
            let here = most.min(panels - first_panel);
            self.filters(simd, w, first_panel, here, width, filters);
            for first_block in (0..blocks).step_by(at_once) {
                let count = at_once.min(blocks - first_block);
                self.inputs(
                    simd,
                    src,
                    first_block * size,
                    (count * size).min(tiles - first_block * size),
                    size,
                    inputs,
                );
                let (filters, inputs) = (&*filters, &*inputs);
                par::tasks(count * here, |i| {
                    let (block, panel) = (i / here, i % here);
                    let first = (first_block + block) * size;
                    let task = Task {
                        what: self,
                        first,
                        tiles: size.min(tiles - first),
                        input: &inputs[block * POINTS * self.input_step(size)..],
                        filter: &filters[panel * POINTS * self.filter_step(width)..],
                        channel: (first_panel + panel) * width,
                        width,
                        size,
                        bias,
                        relu,
                        dst,
                    };
                    task.run(simd);
                });
            }
        }
    }

    /// G g Gᵀ of `here` panels: [panel][point][src_c][width].
    fn filters(&self, simd: Simd, w: &[f32], panel: usize, here: usize, width: usize, out: &mut [f32]) {
        let (step, pieces) = (self.filter_step(width), cut(self.src_c, CHANNELS, LANES));
        let (lanes, out) = (width / LANES, Out::new(out));
        par::tasks(here * lanes * pieces.0, |i| {
            let (p, lane, from) = (i / pieces.0 / lanes, i / pieces.0 % lanes * LANES, i % pieces.0 * pieces.1);
            let channels = from..(from + pieces.1).min(self.src_c);
            // SAFETY: lanes `lane`.. of the channels' rows, of every point of panel p: this task's own part of `out`.
            let out = unsafe { out.at(p * POINTS * step + lane) };
            simd::run(simd, Filter { what: self, w, first: (panel + p) * width + lane, channels, out, width });
        });
    }

    /// Bᵀ d B of `count` tiles from `first` on, in blocks of `size`: [block][point][tile][src_c].
    fn inputs(&self, simd: Simd, src: &[f32], first: usize, count: usize, size: usize, out: &mut [f32]) {
        let out = Out::new(out);
        par::tasks(count.div_ceil(ROWS), |i| {
            simd::run(simd, Input { what: self, src, first, tiles: i * ROWS..((i + 1) * ROWS).min(count), size, out });
        });
    }

    /// Image, row and column of a tile.
    fn place(&self, tile: usize) -> [usize; 3] {
        let [h, w] = self.tiles();
        [tile / w / h, tile / w % h, tile % w]
    }
}

/// One side of G g Gᵀ.
#[inline(always)]
fn filter_side<V: V16>(a: V, b: V, c: V) -> [V; 4] {
    let (half, sum) = (V::splat(0.5), a.add(c));
    [a, half.fma(sum.add(b), V::splat(0.0)), half.fma(sum.sub(b), V::splat(0.0)), c]
}

/// One side of Bᵀ d B.
#[inline(always)]
fn input_side<V: V16>(a: V, b: V, c: V, d: V) -> [V; 4] {
    [a.sub(c), b.add(c), c.sub(b), b.sub(d)]
}

/// One side of Aᵀ M A.
#[inline(always)]
fn output_side<V: V16>(a: V, b: V, c: V, d: V) -> [V; 2] {
    [a.add(b).add(c), b.sub(c).sub(d)]
}

/// Sixteen output channels times a range of source channels of the filters.
struct Filter<'a> {
    what: &'a Winograd,
    w: &'a [f32],
    /// First output channel.
    first: usize,
    channels: std::ops::Range<usize>,
    out: *mut f32,
    width: usize,
}

impl Vectorized for Filter<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (what, w, zero) = (self.what, self.w.as_ptr(), V::splat(0.0));
        let step = what.filter_step(self.width);
        let lanes = what.dst_c.saturating_sub(self.first).min(LANES);
        for first in self.channels.clone().step_by(LANES) {
            let channels = (self.channels.end - first).min(LANES);
            // [tap][source channel], lanes are output channels.
            let mut g = [[zero; LANES]; 9];
            for (tap, g) in g.iter_mut().enumerate() {
                // SAFETY: indices stay below the extents of w [dst_c][9][src_c], or of w [src_c][9][dst_c] when turned.
                unsafe {
                    if what.turned {
                        for (c, g) in g.iter_mut().enumerate().take(channels) {
                            let at = ((first + c) * 9 + 8 - tap) * what.dst_c + self.first;
                            *g = V::load_part(w.wrapping_add(at), lanes);
                        }
                    } else {
                        for (k, g) in g.iter_mut().enumerate().take(lanes) {
                            let row = w.add(((self.first + k) * 9 + tap) * what.src_c + first);
                            *g = V::load_part(row, channels);
                            // A line of each of 144 rows is no pattern that hardware guesses.
                            V::prefetch(row.wrapping_add(2 * LANES));
                        }
                        V::transpose(g);
                    }
                }
            }
            for c in 0..channels {
                let mut columns = [[zero; 4]; 3];
                for s in 0..3 {
                    columns[s] = filter_side(g[s][c], g[3 + s][c], g[6 + s][c]);
                }
                for r in 0..4 {
                    let row = filter_side(columns[0][r], columns[1][r], columns[2][r]);
                    for s in 0..4 {
                        // SAFETY: point (r, s), source channel first + c of this task's panel.
                        unsafe { row[s].store(self.out.add((r * 4 + s) * step + (first + c) * self.width)) };
                    }
                }
            }
        }
    }
}

/// A few neighbouring tiles of the input.
struct Input<'a> {
    what: &'a Winograd,
    src: &'a [f32],
    first: usize,
    /// Counted from `first`.
    tiles: std::ops::Range<usize>,
    size: usize,
    out: Out,
}

impl Vectorized for Input<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (what, [h, w], step) = (self.what, self.what.src, self.what.input_step(self.size));
        // Per tile: its place in `out`, whether it continues the row of its left neighbour, and where its pixels begin
        // (usize::MAX: in the padding).
        let mut tiles = [(0, false, [usize::MAX; POINTS]); ROWS];
        for (t, (to, goes_on, from)) in self.tiles.clone().zip(&mut tiles) {
            let [n, i, j] = what.place(self.first + t);
            *to = t / self.size * POINTS * step + t % self.size * what.src_c;
            *goes_on = t > self.tiles.start && j > 0;
            for (e, from) in from.iter_mut().enumerate() {
                let y = (2 * i + e / 4) as isize + what.off[0];
                let x = (2 * j + e % 4) as isize + what.off[1];
                if y >= 0 && x >= 0 && y < h as isize && x < w as isize {
                    *from = ((n * h + y as usize) * w + x as usize) * what.src_c;
                }
            }
        }
        for c in (0..what.src_c).step_by(LANES) {
            let lanes = (what.src_c - c).min(LANES);
            let mut columns = [[V::splat(0.0); 4]; 4];
            for (to, goes_on, from) in &tiles[..self.tiles.len()] {
                // Neighbours share two columns.
                if *goes_on {
                    (columns[0], columns[1]) = (columns[2], columns[3]);
                }
                for s in if *goes_on { 2..4 } else { 0..4 } {
                    let mut d = [V::splat(0.0); 4];
                    for r in 0..4 {
                        if from[r * 4 + s] != usize::MAX {
                            // SAFETY: the pixel is inside the source, `lanes` of its channels from c on exist.
                            d[r] = unsafe { V::load_part(self.src.as_ptr().add(from[r * 4 + s] + c), lanes) };
                        }
                    }
                    columns[s] = input_side(d[0], d[1], d[2], d[3]);
                }
                for r in 0..4 {
                    let row = input_side(columns[0][r], columns[1][r], columns[2][r], columns[3][r]);
                    for s in 0..4 {
                        // SAFETY: point (r, s) of this tile, which no other task writes.
                        unsafe { row[s].store_part(self.out.at(to + (r * 4 + s) * step + c), lanes) };
                    }
                }
            }
        }
    }
}

/// One block of tiles times one panel of output channels.
struct Task<'a> {
    what: &'a Winograd,
    first: usize,
    tiles: usize,
    /// [point][size][src_c]
    input: &'a [f32],
    /// [point][src_c][width]
    filter: &'a [f32],
    channel: usize,
    width: usize,
    size: usize,
    bias: Option<&'a [f32]>,
    relu: bool,
    dst: Out,
}

impl Task<'_> {
    fn run(&self, simd: Simd) {
        let (c, width) = (self.what.src_c, self.width);
        let (input_step, filter_step) = (self.what.input_step(self.size), self.what.filter_step(width));
        // [point][tile][width]; written before it is read, so zeroing it would be wasted.
        let mut products = [const { MaybeUninit::<f32>::uninit() }; POINTS * PRODUCT_STEP];
        let products = products.as_mut_ptr().cast::<f32>();
        let exist = (self.what.dst_c - self.channel).min(width);
        // Vectors that hold channels: the last panel may need fewer.
        let vectors = exist.div_ceil(LANES);
        let (most, _) = extent(simd);
        for e in 0..POINTS {
            for t in (0..self.tiles).step_by(most) {
                let rows = most.min(self.tiles - t);
                let row = |i: usize| self.input[e * input_step + (t + i.min(rows - 1)) * c..][..c].as_ptr();
                let a = std::array::from_fn(row);
                let stretch = Stretch { a, b: self.filter[e * filter_step..][..c * width].as_ptr(), len: c };
                // SAFETY: rows of c elements, c rows of `width` elements, and a part of `products` of that many rows.
                unsafe {
                    tile(
                        simd,
                        rows,
                        vectors,
                        &HostTile {
                            stretches: &[stretch],
                            a_step: 1,
                            b_step: width,
                            begin: Begin::Zero,
                            dst: tile::rows(products.add(e * PRODUCT_STEP + t * width), width),
                            last: LANES,
                            add: false,
                            relu: false,
                            stream: false,
                        },
                    );
                }
            }
        }
        simd::run(simd, Output { task: self, products, exist });
    }
}

/// Aᵀ M A of a finished task, with bias and ReLU.
struct Output<'a> {
    task: &'a Task<'a>,
    products: *const f32,
    exist: usize,
}

impl Vectorized for Output<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (task, what) = (self.task, self.task.what);
        let zero = V::splat(0.0);
        for k in (0..self.exist).step_by(LANES) {
            let lanes = (self.exist - k).min(LANES);
            // SAFETY: `lanes` channels exist from there on.
            let bias = task.bias.map_or(zero, |b| unsafe { V::load_part(b[task.channel + k..].as_ptr(), lanes) });
            for t in 0..task.tiles {
                let mut columns = [[zero; 2]; 4];
                for s in 0..4 {
                    let mut m = [zero; 4];
                    for r in 0..4 {
                        let at = (r * 4 + s) * PRODUCT_STEP + t * task.width + k;
                        // SAFETY: every point of the task's tiles has been written, in rows of `width` >= k + 16.
                        m[r] = unsafe { V::load(self.products.add(at)) };
                    }
                    columns[s] = output_side(m[0], m[1], m[2], m[3]);
                }
                let [n, i, j] = what.place(task.first + t);
                for r in 0..2 {
                    let row = output_side(columns[0][r], columns[1][r], columns[2][r], columns[3][r]);
                    for s in 0..2 {
                        let (y, x) = (2 * i + r, 2 * j + s);
                        if y < what.out[0] && x < what.out[1] {
                            let v = row[s].add(bias);
                            // In this order a NaN stays: max gives its second operand.
                            let v = if task.relu { zero.max(v) } else { v };
                            let at = ((n * what.out[0] + y) * what.out[1] + x) * what.dst_c + task.channel + k;
                            // SAFETY: an output pixel's channels that only this task writes.
                            unsafe { v.store_part(task.dst.at(at), lanes) };
                        }
                    }
                }
            }
        }
    }
}
