/*! 3x3 convolution of stride 1 with four times fewer multiplications: Winograd's minimal filtering F(4x4, 3x3)
(Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4.2), forward and for the gradient of
the input, which is the same with the filter turned by 180 degrees.

A tile of 4x4 outputs needs 6x6 inputs d and one 3x3 filter g per channel pair:

```text
576 Y = Aᵀ [ Σ over c of (G g Gᵀ) ⊙ (Bᵀ d B) ] A

Bᵀ = | 4  0 -5  0  1  0 |   G = | 1  0  0 |   Aᵀ = | 6 -4 -4  1  1  0 |
     | 0 -4 -4  1  1  0 |       | 1  1  1 |        | 0 -4  4  2 -2  0 |
     | 0  4 -4 -1  1  0 |       | 1 -1  1 |        | 0 -4 -4  4  4  0 |
     | 0 -2 -1  2  1  0 |       | 1  2  4 |        | 0 -4  4  8 -8 24 |
     | 0  2 -1 -2  1  0 |       | 1 -2  4 |
     | 0  4  0 -5  0  1 |       | 0  0  1 |
```

(their G has the columns of this Aᵀ divided by 24, which is cheaper done once, to sums). The sum over channels is thirty-six
matrix products, done by the one register tile. A task has a block of tiles and one or two panels of output channels, and
takes 32 source channels after another: it transforms them of both operands and adds their products to the chains that it
has begun. What it works on (1.2 MiB, 0.8 MiB of one panel) stays in the second-level cache; nothing is transformed ahead, because
to transform a filter takes less time than to fetch 36 points of it.

**Rounding.** All factors are whole numbers, and the division at the end gives whole results exactly: whole numbers stay exact as
long as no sum on the way leaves 2^24. A point of a filter and one of the inputs have seen at most four roundings each,
their sum C more, the way back six, the division and the bias one each, and the divisor's inverse is off by an eighth of one:
each output is off by at most (C + 17) 2^-24 times the same formula on absolute values, in which the whole 6x6 tile counts and
not only the 3x3 window of the output. Against the sum of |x w| of its own products alone the error of uniform numbers is 1.4
times 2^-24 (root of the mean square, 32 to 512 channels; at most 22 times), where the bound of the direct sum allows as many as
there are products. A NaN or infinity leaves no output finite that sees it, and few of its tile.
**Bits** depend on the shape of one image alone, like those of every other routine: an output is one chain over the
source channels at each point, tiles never span two images, and which shapes come here ([`suits`]) does not depend on the
batch. */

use super::simd::{self, V16, Vectorized};
use super::tile::{self, Begin, HostTile, ROWS, Stretch, extent, tile};
use super::{LANES, Out, cut};
use crate::launch::Simd;
use crate::par;
use crate::shape::{ConvShape, Window};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows and columns of a tile of outputs, of its points and of the inputs under it.
const SIDE: usize = 4;
const WIDE: usize = SIDE + 2;
/// Tiles of a block; output channels of a panel; panels of a task.
const BLOCK: usize = 42;
const PANEL: usize = 4 * LANES;
const PANELS: usize = 2;
/// Source channels that are transformed at a time, and how many times as many a task keeps turned filters of.
const CHANNELS: usize = 2 * LANES;
const KEPT: usize = 2;
/// What is put between the points of a transformed matrix: their distance would otherwise be a multiple of 4 KiB, and the
/// streams of a transform would fight for one set of the first-level cache.
const SKEW: usize = LANES;
/// From point to point, and from tap to tap, of what a task works on.
const INPUT_STEP: usize = BLOCK * CHANNELS + SKEW;
const FILTER_STEP: usize = CHANNELS * PANEL + SKEW;
const PRODUCT_STEP: usize = BLOCK * PANEL + SKEW;
const TAPS: usize = 9 * FILTER_STEP;
const PRODUCTS: usize = WIDE * WIDE * PRODUCT_STEP;

/// Whether a convolution is worth transforming: 3x3, dense in every sense, with enough channels on both sides to pay
/// for the transforms, and enough pixels, in tiles that are not half empty, to pay for that of the filters. No output may see
/// padding alone: zero is not a sum of what else its tile has. The batch must not enter here.
pub fn suits(s: &ConvShape) -> bool {
    let (w, pixels) = (&s.window, s.p * s.q);
    let plain = Window { pad: w.pad, ..Window::square(3, 1, 0) } == *w;
    let filled = pixels >= 49 && s.p.div_ceil(SIDE) * s.q.div_ceil(SIDE) * SIDE * SIDE <= 2 * pixels;
    plain && w.pad.iter().all(|pad| *pad <= 2) && s.groups == 1 && s.c >= 32 && s.k >= 32 && filled
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
        self.out.map(|x| x.div_ceil(SIDE))
    }
    /// (blocks of tiles, tiles of each).
    fn blocks(&self) -> (usize, usize) {
        cut(self.n * self.tiles()[0] * self.tiles()[1], BLOCK, ROWS)
    }
    /// dst [N,P,Q,K] = act(bias + src * w), w [K,3,3,C] of the forward convolution.
    #[allow(clippy::too_many_arguments)] // The operands of a convolution.
    pub fn run(&self, simd: Simd, src: &[f32], w: &[f32], bias: Option<&[f32]>, relu: bool, dst: &mut [f32]) {
        assert_eq!(src.len(), self.n * self.src[0] * self.src[1] * self.src_c);
        assert_eq!(dst.len(), self.n * self.out[0] * self.out[1] * self.dst_c);
        assert_eq!(w.len(), 9 * self.src_c * self.dst_c);
        assert!(bias.is_none_or(|b| b.len() == self.dst_c));
        let (blocks, size) = self.blocks();
        let tiles = self.n * self.tiles()[0] * self.tiles()[1];
        let panels = self.dst_c.div_ceil(PANEL);
        // Panels that share what is transformed of the inputs, where that leaves tasks enough.
        let wide = if blocks * panels < 16 { 1 } else { panels.min(PANELS) };
        // Blocks that share the turned filters, where these are all.
        let keeps = wide == 1 && self.src_c <= KEPT * CHANNELS;
        let run = if keeps { (blocks * panels / 32).clamp(1, 8) } else { 1 };
        let (runs, groups) = (blocks.div_ceil(run), panels.div_ceil(wide));
        let dst = Out::new(dst);
        par::tasks(runs * groups, |i| {
            let (first, channel) = (i / groups * run * size, i % groups * wide * PANEL);
            let exist = (wide * PANEL).min(self.dst_c - channel);
            let task = Task { what: self, src, w, channel, exist, keeps, bias, relu, dst };
            task.run(simd, first..(first + run * size).min(tiles), size);
        });
    }

    /// Image, row and column of a tile.
    fn place(&self, tile: usize) -> [usize; 3] {
        let [h, w] = self.tiles();
        [tile / w / h, tile / w % h, tile % w]
    }
}

/// G.
const FILTER: [[f32; 3]; WIDE] =
    [[1.0, 0.0, 0.0], [1.0; 3], [1.0, -1.0, 1.0], [1.0, 2.0, 4.0], [1.0, -2.0, 4.0], [0.0, 0.0, 1.0]];

/// One side of G g Gᵀ.
#[inline(always)]
fn filter_side<V: V16>([a, b, c]: [V; 3]) -> [V; WIDE] {
    let (sum, wide) = (a.add(c), V::splat(4.0).fma(c, a));
    [a, sum.add(b), sum.sub(b), V::splat(2.0).fma(b, wide), V::splat(-2.0).fma(b, wide), c]
}

/// One side of Bᵀ d B.
#[inline(always)]
fn input_side<V: V16>(d: [V; WIDE]) -> [V; WIDE] {
    let (four, five, two) = (V::splat(4.0), V::splat(-5.0), V::splat(2.0));
    let less = V::splat(-4.0);
    let (even, odd) = (less.fma(d[2], d[4]), less.fma(d[1], d[3]));
    let (wide, turn) = (d[4].sub(d[2]), d[3].sub(d[1]));
    [
        four.fma(d[0], five.fma(d[2], d[4])),
        even.add(odd),
        even.sub(odd),
        two.fma(turn, wide),
        V::splat(-2.0).fma(turn, wide),
        four.fma(d[1], five.fma(d[3], d[5])),
    ]
}

/// One side of Aᵀ M A.
#[inline(always)]
fn output_side<V: V16>(m: [V; WIDE]) -> [V; SIDE] {
    let (less, two, four) = (V::splat(-4.0), V::splat(2.0), V::splat(4.0));
    let (near, far) = (m[1].add(m[2]), m[3].add(m[4]));
    let (near_odd, far_odd) = (m[1].sub(m[2]), m[3].sub(m[4]));
    let odd = less.mul(near_odd);
    [
        V::splat(6.0).fma(m[0], less.fma(near, far)),
        two.fma(far_odd, odd),
        four.mul(far.sub(near)),
        V::splat(24.0).fma(m[5], V::splat(8.0).fma(far_odd, odd)),
    ]
}

/// Filters as they are, source channels by output channels: [tap][CHANNELS][PANEL].
struct Turn<'a> {
    task: &'a Task<'a>,
    /// Of a panel, counted from the task's first channel.
    lanes: Range<usize>,
    channels: Range<usize>,
    out: *mut f32,
}

impl Vectorized for Turn<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (task, what) = (self.task, self.task.what);
        for lane in self.lanes.clone().step_by(LANES) {
            let lanes = (self.lanes.end - lane).min(LANES);
            for tap in 0..9 {
                for c in self.channels.clone().step_by(LANES) {
                    let channels = (self.channels.end - c).min(LANES);
                    // [source channel], lanes are output channels.
                    let mut g = [V::splat(0.0); LANES];
                    // SAFETY: sixteen, or as many as there are, of either kind of channels.
                    unsafe {
                        if what.turned {
                            for (i, g) in g.iter_mut().enumerate().take(channels) {
                                *g = V::load_part(task.filter(c + i, tap, lane), lanes);
                            }
                        } else {
                            for (i, g) in g.iter_mut().enumerate().take(lanes) {
                                *g = V::load_part(task.filter(c, tap, lane + i), channels);
                            }
                            V::transpose(&mut g);
                        }
                        let to = self
                            .out
                            .add(tap * FILTER_STEP + (c - self.channels.start) * PANEL + lane - self.lanes.start);
                        for (i, g) in g.iter().enumerate().take(channels) {
                            g.store(to.add(i * PANEL));
                        }
                    }
                }
            }
        }
    }
}

/// A row of G g Gᵀ: [point][CHANNELS][PANEL].
struct Filter {
    row: usize,
    channels: usize,
    vectors: usize,
    /// [tap][CHANNELS][PANEL]
    taps: *const f32,
    out: *mut f32,
}

impl Vectorized for Filter {
    #[inline(always)]
    fn run<V: V16>(self) {
        let factors = FILTER[self.row].map(V::splat);
        for c in 0..self.channels {
            for v in 0..self.vectors {
                let at = c * PANEL + v * LANES;
                let column = |s: usize| {
                    // SAFETY: taps (0, s) to (2, s) of the channel, in whole vectors.
                    let tap = |r: usize| unsafe { V::load(self.taps.add((3 * r + s) * FILTER_STEP + at)) };
                    factors[2].fma(tap(2), factors[1].fma(tap(1), factors[0].mul(tap(0))))
                };
                for (s, point) in filter_side([column(0), column(1), column(2)]).iter().enumerate() {
                    // SAFETY: point s of the channel, in whole vectors.
                    unsafe { point.store(self.out.add(s * FILTER_STEP + at)) };
                }
            }
        }
    }
}

/// Some tiles of the input: [point][tile][CHANNELS].
struct Input<'a> {
    what: &'a Winograd,
    src: &'a [f32],
    places: &'a [Place],
    channels: Range<usize>,
    out: *mut f32,
}

/// Where a tile's inputs begin.
#[derive(Clone, Copy, Default)]
struct Place {
    image: usize,
    row: isize,
    column: isize,
    /// Whether all its pixels are inside of the image, and whether it continues its left neighbour.
    whole: bool,
    goes_on: bool,
}

impl Vectorized for Input<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (what, [h, w]) = (self.what, self.what.src);
        let zero = V::splat(0.0);
        // Vertically transformed, of each vector of channels.
        let mut columns = [[[zero; WIDE]; WIDE]; CHANNELS / LANES];
        for (t, place) in self.places.iter().enumerate() {
            let from = (place.image * h) as isize + place.row;
            let from = (from * w as isize + place.column) * what.src_c as isize;
            for (c, columns) in self.channels.clone().step_by(LANES).zip(&mut columns) {
                let lanes = (self.channels.end - c).min(LANES);
                let from = self.src.as_ptr().wrapping_offset(from + c as isize);
                let first = if place.goes_on {
                    (columns[0], columns[1]) = (columns[SIDE], columns[SIDE + 1]);
                    2
                } else {
                    0
                };
                let pixel = |r: usize, s: usize| from.wrapping_add((r * w + s) * what.src_c);
                if place.whole && lanes == LANES {
                    for s in first..WIDE {
                        // SAFETY: all pixels of the tile are inside of the image, and sixteen of their channels exist.
                        columns[s] = input_side(std::array::from_fn(|r| unsafe { V::load(pixel(r, s)) }));
                    }
                } else {
                    for s in first..WIDE {
                        columns[s] = input_side(std::array::from_fn(|r| {
                            let (y, x) = (place.row + r as isize, place.column + s as isize);
                            if y >= 0 && x >= 0 && y < h as isize && x < w as isize {
                                // SAFETY: the pixel is inside of the image, `lanes` of its channels from c on exist.
                                unsafe { V::load_part(pixel(r, s), lanes) }
                            } else {
                                zero
                            }
                        }));
                    }
                }
                let to = self.out.wrapping_add(t * CHANNELS + c - self.channels.start);
                for r in 0..WIDE {
                    let row = input_side(std::array::from_fn(|s| columns[s][r]));
                    for s in 0..WIDE {
                        // SAFETY: point (r, s) of this tile, in whole vectors, of which CHANNELS has room.
                        unsafe { row[s].store(to.add((r * WIDE + s) * INPUT_STEP)) };
                    }
                }
            }
        }
    }
}

/// What a task works on, written before it is read. It is made where it stays: a copy would be more than a stack has.
#[repr(C, align(64))]
struct Room {
    inputs: [f32; WIDE * WIDE * INPUT_STEP],
    taps: [f32; KEPT * TAPS],
    filters: [f32; WIDE * FILTER_STEP],
    products: [f32; PANELS * PRODUCTS],
}

/// Blocks of tiles times one panel of output channels.
struct Task<'a> {
    what: &'a Winograd,
    src: &'a [f32],
    w: &'a [f32],
    /// The first output channel, and how many.
    channel: usize,
    exist: usize,
    /// Whether all blocks go on with the filters that the first turned.
    keeps: bool,
    bias: Option<&'a [f32]>,
    relu: bool,
    dst: Out,
}

impl Task<'_> {
    fn run(&self, simd: Simd, tiles: Range<usize>, size: usize) {
        let mut room = MaybeUninit::<Room>::uninit();
        let room = room.as_mut_ptr();
        // SAFETY: addresses of parts of it.
        let (inputs, taps) =
            unsafe { ((&raw mut (*room).inputs).cast::<f32>(), (&raw mut (*room).taps).cast::<f32>()) };
        // SAFETY: as above.
        let (filters, products) =
            unsafe { ((&raw mut (*room).filters).cast::<f32>(), (&raw mut (*room).products).cast::<f32>()) };
        let (what, src, all) = (self.what, self.src, self.what.src_c);
        let mut places = [Place::default(); BLOCK];
        for first in tiles.clone().step_by(size) {
            let places = &mut places[..size.min(tiles.end - first)];
            self.places(first, places);
            let places = &*places;
            for c in (0..all).step_by(CHANNELS) {
                let channels = c..(c + CHANNELS).min(all);
                simd::run(simd, Input { what, src, places, channels: channels.clone(), out: inputs });
                for (panel, from) in (0..self.exist).step_by(PANEL).enumerate() {
                    let lanes = from..(from + PANEL).min(self.exist);
                    let taps = taps.wrapping_add(if self.keeps { c / CHANNELS * TAPS } else { 0 });
                    if !self.keeps || first == tiles.start {
                        let (lanes, channels) = (lanes.clone(), channels.clone());
                        simd::run(simd, Turn { task: self, lanes, channels, out: taps });
                    }
                    let products = products.wrapping_add(panel * PRODUCTS);
                    for row in 0..WIDE {
                        let (channels, vectors) = (channels.len(), lanes.len().div_ceil(LANES));
                        simd::run(simd, Filter { row, channels, vectors, taps, out: filters });
                        for s in 0..WIDE {
                            let point = Point {
                                inputs: inputs.wrapping_add((row * WIDE + s) * INPUT_STEP),
                                filters: filters.wrapping_add(s * FILTER_STEP),
                                products: products.wrapping_add((row * WIDE + s) * PRODUCT_STEP),
                                tiles: places.len(),
                                channels,
                                vectors,
                                begin: if c > 0 { Begin::Dst } else { Begin::Zero },
                            };
                            // SAFETY: what it multiplies has been written, and products before they are added to.
                            unsafe { point.run(simd) };
                        }
                    }
                }
            }
            simd::run(simd, Output { task: self, places, products });
        }
    }

    /// Weights of tap `tap`, source channel `c` and output channel `k` of this panel; further ones of the kind that is last in
    /// memory lie behind it.
    #[inline(always)]
    fn filter(&self, c: usize, tap: usize, k: usize) -> *const f32 {
        let (what, k) = (self.what, self.channel + k);
        let at = if what.turned { (c * 9 + 8 - tap) * what.dst_c + k } else { (k * 9 + tap) * what.src_c + c };
        self.w.as_ptr().wrapping_add(at)
    }

    fn places(&self, first: usize, places: &mut [Place]) {
        let (what, [h, w]) = (self.what, self.what.src.map(|x| x as isize));
        for (t, place) in places.iter_mut().enumerate() {
            let [image, i, j] = what.place(first + t);
            let (row, column) = ((SIDE * i) as isize + what.off[0], (SIDE * j) as isize + what.off[1]);
            let wide = WIDE as isize;
            let whole = row >= 0 && column >= 0 && row + wide <= h && column + wide <= w;
            *place = Place { image, row, column, whole, goes_on: t > 0 && j > 0 };
        }
    }
}

/// One point of a block of tiles and a panel of output channels.
struct Point {
    /// [tile][CHANNELS]
    inputs: *const f32,
    /// [CHANNELS][PANEL]
    filters: *const f32,
    /// [tile][PANEL]
    products: *mut f32,
    tiles: usize,
    channels: usize,
    vectors: usize,
    begin: Begin,
}

impl Point {
    /// products = begin + inputs * filters.
    ///
    /// # Safety
    /// Both operands, and the products if they are begun with, must have been written, and nobody else may touch the products.
    unsafe fn run(&self, simd: Simd) {
        let (rows, most) = extent(simd);
        for v in (0..self.vectors).step_by(most) {
            for t in (0..self.tiles).step_by(rows) {
                let a = self.inputs.wrapping_add(t * CHANNELS);
                let a = std::array::from_fn(|i| a.wrapping_add(i * CHANNELS));
                let stretch = Stretch { a, b: self.filters.wrapping_add(v * LANES), len: self.channels };
                let dst = self.products.wrapping_add(t * PANEL + v * LANES);
                // SAFETY: as many elements as channels in each row, as many rows of whole vectors; the caller's promise.
                unsafe {
                    tile(
                        simd,
                        rows.min(self.tiles - t),
                        most.min(self.vectors - v),
                        &HostTile {
                            stretches: &[stretch],
                            a_step: 1,
                            b_step: PANEL,
                            begin: self.begin,
                            dst: tile::rows(dst, PANEL),
                            last: LANES,
                            add: false,
                            relu: false,
                            stream: false,
                        },
                    );
                }
            }
        }
    }
}

/// Aᵀ M A of a finished task, with bias and ReLU.
struct Output<'a> {
    task: &'a Task<'a>,
    places: &'a [Place],
    products: *const f32,
}

/// The square of what Aᵀ is too large by, whose inverse float32 has within 2^-27 of itself: whole quotients come out whole.
const SCALE: f32 = 576.0;

impl Vectorized for Output<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (task, what) = (self.task, self.task.what);
        let zero = V::splat(0.0);
        for (t, place) in self.places.iter().enumerate() {
            for k in (0..task.exist).step_by(LANES) {
                let lanes = (task.exist - k).min(LANES);
                // SAFETY: `lanes` channels exist from there on.
                let bias = task.bias.map_or(zero, |b| unsafe { V::load_part(b[task.channel + k..].as_ptr(), lanes) });
                let from = k / PANEL * PRODUCTS + t * PANEL + k % PANEL;
                let mut columns = [[zero; SIDE]; WIDE];
                for s in 0..WIDE {
                    columns[s] = output_side(std::array::from_fn(|r| {
                        // SAFETY: every point of the task's tiles has been written, in whole vectors.
                        unsafe { V::load(self.products.add(from + (r * WIDE + s) * PRODUCT_STEP)) }
                    }));
                }
                let (i, j) = ((place.row - what.off[0]) as usize, (place.column - what.off[1]) as usize);
                for r in 0..SIDE {
                    let row = output_side(std::array::from_fn(|s| columns[s][r]));
                    for s in 0..SIDE {
                        let (y, x) = (i + r, j + s);
                        if y < what.out[0] && x < what.out[1] {
                            let v = row[s].mul(V::splat(1.0 / SCALE)).add(bias);
                            // In this order a NaN stays: max gives its second operand.
                            let v = if task.relu { zero.max(v) } else { v };
                            let at =
                                ((place.image * what.out[0] + y) * what.out[1] + x) * what.dst_c + task.channel + k;
                            // SAFETY: an output pixel's channels that only this task writes.
                            unsafe { v.store_part(task.dst.at(at), lanes) };
                        }
                    }
                }
            }
        }
    }
}
