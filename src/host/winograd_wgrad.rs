/*! The gradient of the filters of a 3x3 convolution of stride 1 with four times fewer multiplications: Winograd's minimal
filtering F(3x3, 4x4), the transpose of F(4x4, 3x3) (Lavin & Gray 2016, "Fast algorithms for convolutional neural networks",
section 4.3). A tile of 4x4 of dY and the 6x6 inputs d that it meets give

```text
576 dW = Gᵀ [ Σ over tiles of (A dY Aᵀ) ⊙ (Bᵀ d B) ] G

Bᵀ = | 4  0 -5  0  1  0 |   A = | 1  0  0  0 |   G = |  6  0  0 |
     | 0 -4 -4  1  1  0 |       | 1  1  1  1 |       | -4 -4 -4 |
     | 0  4 -4 -1  1  0 |       | 1 -1  1 -1 |       | -4  4 -4 |
     | 0 -2 -1  2  1  0 |       | 1  2  4  8 |       |  1  2  4 |
     | 0  2 -1 -2  1  0 |       | 1 -2  4 -8 |       |  1 -2  4 |
     | 0  4  0 -5  0  1 |       | 0  0  0  1 |       |  0  0 24 |
```

(their G is this one divided by 24). The sum over tiles, of all images, is thirty-six matrix products [K x tiles] [tiles x C],
done by the one register tile; the way back is gone once. A task has a block of filters, a panel of channels and a run of
tiles, and takes one row of the 6x6 points after another: what it works on (390 KiB) stays in the second-level cache.

**Rounding.** All factors are whole numbers, and the division at the end gives whole results exactly: whole numbers
stay exact as long as no sum on the way leaves 2^24. A tile's product has seen at most six roundings in each factor; the sum
over tiles adds at most two more than there are tiles; the way back thirteen. Each element is off by at most (tiles + 28) 2^-24
times the same formula on absolute values. Against the sum of |x dY| of its own products the error of 784 or 3136 of
them is 1 to 2 times 2^-24 (root of the mean square; one chain per 160 products: 0.1 to 0.2), where the bound of the direct
sum allows as many as there are products. A NaN or infinity reaches all nine taps. **Bits** depend on the shape alone: blocks
of tiles are added in order, and so are the parts. */

use super::simd::{self, V16, Vectorized};
use super::tile::{self, Begin, HostTile, ROWS, Stretch, extent, tile};
use super::{LANES, Out, add_parts, cut};
use crate::launch::Simd;
use crate::par;
use crate::shape::{ConvShape, Window};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Rows and columns of a tile of dY, and of the inputs under it.
const SIDE: usize = 4;
const POINTS: usize = SIDE + 2;
/// Tiles of one chain of multiply-adds: 6 x 64 x (64 + 96) x 4 = 240 KiB of transformed operands.
const TILES: usize = 64;
/// Filters and channels of one task: 6 x 96 x 64 x 4 = 144 KiB of sums.
const FILTERS: usize = 96;
const CHANNELS: usize = 4 * LANES;
/// What is put between the points of a transformed operand (see [`super::winograd`]).
const SKEW: usize = LANES;

/// The matrix that one of the two factors is multiplied with from both sides: tiles of N x N become POINTS x POINTS.
trait Factor<const N: usize> {
    const MATRIX: [[f32; N]; POINTS];
}

/// Bᵀ, for the inputs.
struct Inputs;

impl Factor<POINTS> for Inputs {
    const MATRIX: [[f32; POINTS]; POINTS] = [
        [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
    ];
}

/// A, for dY.
struct Outputs;

impl Factor<SIDE> for Outputs {
    const MATRIX: [[f32; SIDE]; POINTS] = [
        [1.0, 0.0, 0.0, 0.0],
        [1.0; 4],
        [1.0, -1.0, 1.0, -1.0],
        [1.0, 2.0, 4.0, 8.0],
        [1.0, -2.0, 4.0, -8.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
}

/// G, and the square of what it is too large by, whose inverse float32 has within 2^-27 of itself: whole quotients come out
/// whole.
const FILTER: [[f32; 3]; POINTS] =
    [[6.0, 0.0, 0.0], [-4.0; 3], [-4.0, 4.0, -4.0], [1.0, 2.0, 4.0], [1.0, -2.0, 4.0], [0.0, 0.0, 24.0]];
const SCALE: f32 = 576.0;

/// Whether the gradient of the filters is worth transforming: 3x3, dense in every sense, whole vectors of channels on both
/// sides, and pixels enough in tiles that are not half empty. Measured with AVX-512 on 16 to 512 channels: from 1.4 times
/// the direct sum's speed at 128 pixels to 2.5 times at 3136; nothing is won at 64, and below it is slower.
pub fn suits(s: &ConvShape) -> bool {
    let (w, pixels) = (&s.window, s.n * s.p * s.q);
    let plain = Window { pad: w.pad, ..Window::square(3, 1, 0) } == *w;
    let filled = pixels >= 100 && tiles(s) * SIDE * SIDE <= 2 * pixels;
    plain && s.groups == 1 && s.c >= LANES && s.k >= LANES && filled
}

/// How the work is cut into tasks.
struct Cuts {
    filters: (usize, usize),
    panels: usize,
    /// Runs of tiles with a sum of their own: (number, tiles in each).
    parts: (usize, usize),
}

fn tiles(s: &ConvShape) -> usize {
    s.n * s.p.div_ceil(SIDE) * s.q.div_ceil(SIDE)
}

fn cuts(s: &ConvShape) -> Cuts {
    let (filters, panels) = (cut(s.k, FILTERS, ROWS), s.c.div_ceil(CHANNELS));
    // With few filters and channels there is too little to share out: tiles are, at the price of a sum of sums.
    let want = 32usize.div_ceil(filters.0 * panels).min(tiles(s).div_ceil(4 * TILES));
    Cuts { filters, panels, parts: cut(tiles(s), tiles(s).div_ceil(want).max(1), TILES) }
}

/// Elements of scratch at any level.
pub fn scratch(s: &ConvShape) -> usize {
    (cuts(s).parts.0 - 1) * s.k * 9 * s.c
}

/// Memory of a task that is written before it is read; vectors in it are aligned.
#[repr(align(64))]
struct Room<const N: usize>(MaybeUninit<[f32; N]>);

impl<const N: usize> Room<N> {
    fn at(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}

/// dw [K,3,3,C] from x [N,H,W,C] and dy [N,P,Q,K].
pub fn run(simd: Simd, s: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32], scratch: &mut [f32]) {
    let Cuts { filters, panels, parts } = cuts(s);
    let size = dw.len();
    assert_eq!((x.len(), dy.len(), size), (s.n * s.h * s.w * s.c, s.n * s.p * s.q * s.k, s.k * 9 * s.c));
    let scratch = &mut scratch[..(parts.0 - 1) * size];
    let (first, rest) = (Out::new(dw), Out::new(scratch));
    par::tasks(parts.0 * filters.0 * panels, |i| {
        let (i, panel) = (i / panels, i % panels);
        let (part, block) = (i / filters.0, i % filters.0);
        let range = part * parts.1..((part + 1) * parts.1).min(tiles(s));
        let (filter, channel) = (block * filters.1, panel * CHANNELS);
        // Part 0 sums in dw itself.
        let (dw, at) = if part == 0 { (first, 0) } else { (rest, (part - 1) * size) };
        let (kept, exist) = (filters.1.min(s.k - filter), CHANNELS.min(s.c - channel));
        Task { s, x, dy, filter, kept, channel, exist, dw, at }.run(simd, range);
    });
    add_parts(dw, scratch);
}

/// Some filters' gradient for some channels.
#[derive(Clone, Copy)]
struct Task<'a> {
    s: &'a ConvShape,
    x: &'a [f32],
    dy: &'a [f32],
    filter: usize,
    kept: usize,
    channel: usize,
    exist: usize,
    /// Of this part, which begins at `at`.
    dw: Out,
    at: usize,
}

impl Task<'_> {
    fn run(self, simd: Simd, tiles: std::ops::Range<usize>) {
        let mut xs = Room::<{ POINTS * (TILES * CHANNELS + SKEW) }>(MaybeUninit::uninit());
        let mut dys = Room::<{ POINTS * (TILES * FILTERS + SKEW) }>(MaybeUninit::uninit());
        let mut sums = Room::<{ POINTS * FILTERS * CHANNELS }>(MaybeUninit::uninit());
        let room = [xs.at(), dys.at(), sums.at()];
        self.row::<0>(simd, tiles.clone(), room);
        self.row::<1>(simd, tiles.clone(), room);
        self.row::<2>(simd, tiles.clone(), room);
        self.row::<3>(simd, tiles.clone(), room);
        self.row::<4>(simd, tiles.clone(), room);
        self.row::<5>(simd, tiles.clone(), room);
    }

    /// Row R of the points.
    fn row<const R: usize>(self, simd: Simd, tiles: std::ops::Range<usize>, [xs, dys, sums]: [*mut f32; 3]) {
        let (s, mut places) = (self.s, [Place::default(); TILES]);
        for first in tiles.clone().step_by(TILES) {
            let places = &mut places[..TILES.min(tiles.end - first)];
            self.places(first, places);
            let (channels, off) = ((self.channel, self.exist), [0, 1].map(|a| s.window.pad[a]));
            let x = Image { src: self.x, extent: [s.h, s.w, s.c], off, channels };
            simd::run(
                simd,
                Transform::<Inputs, POINTS, CHANNELS, R> { image: x, places, out: xs, factor: PhantomData },
            );
            let dy = Image { src: self.dy, extent: [s.p, s.q, s.k], off: [0; 2], channels: (self.filter, self.kept) };
            simd::run(
                simd,
                Transform::<Outputs, SIDE, FILTERS, R> { image: dy, places, out: dys, factor: PhantomData },
            );
            self.products(simd, places.len(), first > tiles.start, [xs, dys, sums]);
        }
        simd::run(simd, Back::<R> { task: self, sums });
    }

    /// The sums of a block's products at a row of points: [point][FILTERS][CHANNELS].
    fn products(self, simd: Simd, count: usize, add: bool, [xs, dys, sums]: [*mut f32; 3]) {
        let (rows, vectors) = extent(simd);
        for s in 0..POINTS {
            for c in (0..self.exist).step_by(vectors * LANES) {
                let vectors = vectors.min((self.exist - c).div_ceil(LANES));
                let b = xs.wrapping_add(s * (TILES * CHANNELS + SKEW) + c).cast_const();
                for f in (0..self.kept).step_by(rows) {
                    let a = dys.wrapping_add(s * (TILES * FILTERS + SKEW) + f).cast_const();
                    let a = std::array::from_fn(|i| a.wrapping_add(i));
                    let dst = sums.wrapping_add((s * FILTERS + f) * CHANNELS + c);
                    // SAFETY: `count` tiles of both operands have been written, in whole vectors; the sums are this task's own,
                    // and have been written when they are added to.
                    unsafe {
                        tile(
                            simd,
                            rows.min(self.kept - f),
                            vectors,
                            &HostTile {
                                stretches: &[Stretch { a, b, len: count }],
                                a_step: FILTERS,
                                b_step: CHANNELS,
                                begin: Begin::Zero,
                                dst: tile::rows(dst, CHANNELS),
                                last: LANES,
                                add,
                                relu: false,
                                stream: false,
                            },
                        );
                    }
                }
            }
        }
    }

    /// The tiles from `first` on.
    fn places(&self, first: usize, places: &mut [Place]) {
        let [h, w] = [self.s.p.div_ceil(SIDE), self.s.q.div_ceil(SIDE)];
        let (mut image, mut i, mut j) = (first / w / h, first / w % h, first % w);
        for place in places {
            *place = Place { image, row: i * SIDE, column: j * SIDE };
            j += 1;
            if j == w {
                (i, j) = (i + 1, 0);
                if i == h {
                    (image, i) = (image + 1, 0);
                }
            }
        }
    }
}

/// Where a tile of dY begins.
#[derive(Clone, Copy, Default)]
struct Place {
    image: usize,
    row: usize,
    column: usize,
}

/// An image that is cut into tiles.
struct Image<'a> {
    src: &'a [f32],
    /// Height, width, channels.
    extent: [usize; 3],
    /// How far above and to the left of a tile of dY a tile of this image begins.
    off: [usize; 2],
    /// The first channel, and how many.
    channels: (usize, usize),
}

/// Row R of the points of some tiles: [point][tile][WIDTH], zeros behind the channels up to the end of a vector.
struct Transform<'a, F, const N: usize, const WIDTH: usize, const R: usize> {
    image: Image<'a>,
    places: &'a [Place],
    out: *mut f32,
    factor: PhantomData<F>,
}

impl<F: Factor<N>, const N: usize, const WIDTH: usize, const R: usize> Vectorized for Transform<'_, F, N, WIDTH, R> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let Image { src, extent: [height, width, channels], off, channels: (first, exist) } = self.image;
        for (t, place) in self.places.iter().enumerate() {
            let (row, column) = (place.row.wrapping_sub(off[0]), place.column.wrapping_sub(off[1]));
            let from = (place.image * height).wrapping_add(row).wrapping_mul(width).wrapping_add(column);
            let from = src.as_ptr().wrapping_add(from.wrapping_mul(channels).wrapping_add(first));
            let whole = row < height && row + N <= height && column < width && column + N <= width;
            for c in (0..exist).step_by(LANES) {
                let lanes = (exist - c).min(LANES);
                let at = |h: usize, w: usize| from.wrapping_add((h * width + w) * channels + c);
                let points: [V; POINTS] = if whole && lanes == LANES {
                    // SAFETY: all pixels of the tile are inside of the image, and sixteen of their channels exist.
                    points::<V, F, N, R>(|h, w| unsafe { V::load(at(h, w)) })
                } else {
                    points::<V, F, N, R>(|h, w| {
                        if row.wrapping_add(h) < height && column.wrapping_add(w) < width {
                            // SAFETY: the pixel is inside of the image, `lanes` of its channels from there on exist.
                            unsafe { V::load_part(at(h, w), lanes) }
                        } else {
                            V::splat(0.0)
                        }
                    })
                };
                for (s, point) in points.iter().enumerate() {
                    // SAFETY: point s of tile t; channels are rounded up to whole vectors, of which WIDTH has room.
                    unsafe { point.store(self.out.add(s * (TILES * WIDTH + SKEW) + t * WIDTH + c)) };
                }
            }
        }
    }
}

/// Row R of the points of a tile of pixels.
#[inline(always)]
fn points<V: V16, F: Factor<N>, const N: usize, const R: usize>(pixel: impl Fn(usize, usize) -> V) -> [V; POINTS] {
    let (mut columns, mut points) = ([V::splat(0.0); N], [V::splat(0.0); POINTS]);
    for (w, column) in columns.iter_mut().enumerate() {
        for (h, factor) in F::MATRIX[R].iter().enumerate() {
            if *factor != 0.0 {
                *column = V::splat(*factor).fma(pixel(h, w), *column);
            }
        }
    }
    for (point, factors) in points.iter_mut().zip(&F::MATRIX) {
        *point = dot(factors, &columns);
    }
    points
}

/// Σ factor * x, without those that are zero.
#[inline(always)]
fn dot<V: V16, const N: usize>(factors: &[f32; N], x: &[V; N]) -> V {
    let mut sum = V::splat(0.0);
    for (i, factor) in factors.iter().enumerate() {
        if *factor != 0.0 {
            sum = V::splat(*factor).fma(x[i], sum);
        }
    }
    sum
}

/// What row R of the points contributes to dW.
struct Back<'a, const R: usize> {
    task: Task<'a>,
    /// [point][FILTERS][CHANNELS]
    sums: *const f32,
}

impl<const R: usize> Vectorized for Back<'_, R> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (task, c_all) = (&self.task, self.task.s.c);
        for k in 0..task.kept {
            for c in (0..task.exist).step_by(LANES) {
                let lanes = (task.exist - c).min(LANES);
                let mut m = [V::splat(0.0); POINTS];
                for (s, m) in m.iter_mut().enumerate() {
                    // SAFETY: the sums of these filters and channels have been written, in whole vectors.
                    *m = unsafe { V::load(self.sums.add((s * FILTERS + k) * CHANNELS + c)) };
                }
                for column in 0..3 {
                    let m = dot(&FILTER.map(|g| g[column]), &m);
                    for (row, factor) in FILTER[R].iter().enumerate() {
                        let at = ((task.filter + k) * 9 + row * 3 + column) * c_all + task.channel + c;
                        // SAFETY: `lanes` channels of a tap that this task alone writes; the first row of points begins it.
                        unsafe {
                            let dw = task.dw.at(task.at + at);
                            let sum = if R == 0 { V::splat(0.0) } else { V::load_part(dw, lanes) };
                            let sum = V::splat(*factor).fma(m, sum);
                            if R + 1 == POINTS { sum.mul(V::splat(1.0 / SCALE)) } else { sum }.store_part(dw, lanes);
                        }
                    }
                }
            }
        }
    }
}
