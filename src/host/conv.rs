/*! Convolution: forward, gradient of the input, gradient of the weights.

Forward and input gradient are one routine, [`gather`]: every output element is a single chain of multiply-adds over
(r, s, c), begun at the bias, whose operands lie in the source image under the filter's taps. For the input gradient
the source is dY and the filter is turned by 180 degrees; the order of the chain is that of the turned filter. Of a
strided filter, a pixel meets only every stride-th tap: pixels that meet the same taps form a [`Phase`], and each phase
is an ordinary correlation with those taps.

Filters that see one channel go to [`super::depthwise`].

The weight gradient is a chain over pixels instead. Pixels are taken in fixed tiles of [`PIXELS`], a tile's chains
start at zero and are added to a running sum: more accurate than one chain of a hundred thousand terms. That of 3x3 filters
at stride 1 is transformed where it pays ([`winograd_wgrad`]). */

use super::simd::{self, Portable, V16, Vectorized};
use super::tile::{self, Begin, HostTile, ROWS, Stretch, extent, tile};
use super::winograd::{self, Winograd};
use super::{LANES, Out, add_parts, cut, depthwise, winograd_wgrad};
use crate::launch::Simd;
use crate::par;
use crate::shape::ConvShape;

pub use super::{column_sums as bias_grad, column_sums_scratch as bias_grad_scratch};

/// Source of a tap that lies in the padding.
static ZEROS: [f32; DEPTH] = [0.0; DEPTH];
const EMPTY: Stretch = Stretch { a: [ZEROS.as_ptr(); ROWS], b: ZEROS.as_ptr(), len: 0 };
/// Rows of packed weights that stay in the second-level cache while a block of pixels passes by: 768 x 64 x 4 = 192 KiB.
const DEPTH: usize = 768;
/// Stretches of one tile: a piece of at most DEPTH rows touches at most this many taps (see [`Gather::pieces`]).
const TAPS: usize = 34;
/// Output pixels of one task.
const BLOCK: usize = 192;

/// Panics where extents were put together by hand and do not fit together: what is read and written follows from them.
fn whole(shape: &ConvShape) {
    shape.check().unwrap_or_else(|e| panic!("{e}"));
}

/// y = act(bias + x * w): x [N,H,W,C], w [K,R,S,C/groups], y [N,P,Q,K].
#[allow(clippy::too_many_arguments)] // The operands of a convolution.
pub fn fprop(
    simd: Simd,
    shape: &ConvShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    whole(shape);
    assert!(bias.is_none_or(|b| b.len() == shape.k));
    if depthwise::takes(shape) {
        return depthwise::fprop(simd, shape, x, w, bias, relu, y, scratch);
    }
    if winograd::suits(shape) {
        return Winograd::forward(shape).run(simd, x, w, bias, relu, y);
    }
    let g = Gather::forward(shape);
    let packed = &mut scratch[..g.packed()];
    assert_eq!(w.len(), shape.k * g.depth());
    let depth = g.depth();
    g.pack(simd, packed, |panel, rows, width, out| {
        let k = panel.group * g.dst_c + panel.first;
        simd::run(simd, Turn { w: &w[k * depth..(k + panel.exist) * depth], depth, rows, width, out });
    });
    gather(simd, &g, x, packed, bias, relu, y);
}

/// Scratch of [`fprop`] in elements.
pub fn fprop_scratch(shape: &ConvShape) -> usize {
    if depthwise::takes(shape) {
        return depthwise::fprop_scratch(shape);
    }
    if winograd::suits(shape) { 0 } else { Gather::forward(shape).packed() }
}

/// dx = the gradient of the input: dy [N,P,Q,K], w [K,R,S,C/groups], dx [N,H,W,C].
pub fn dgrad(simd: Simd, shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32], scratch: &mut [f32]) {
    transposed(simd, shape, dy, w, None, false, dx, scratch);
}

/// x = act(bias + the transpose of the convolution applied to y), a bias for each of C channels; scratch as [`dgrad`].
#[allow(clippy::too_many_arguments)] // The operands of a convolution.
pub fn transposed(
    simd: Simd,
    shape: &ConvShape,
    y: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
    x: &mut [f32],
    scratch: &mut [f32],
) {
    whole(shape);
    assert!(bias.is_none_or(|b| b.len() == shape.c));
    let (taps, kg, cg) = (shape.taps()[0] * shape.taps()[1], shape.group_k(), shape.group_c());
    assert_eq!(w.len(), shape.k * taps * cg);
    if depthwise::takes(shape) {
        return depthwise::transposed(simd, shape, y, w, bias, relu, x, scratch);
    }
    if winograd::suits(shape) {
        return Winograd::backward(shape).run(simd, y, w, bias, relu, x);
    }
    for phase in phases(shape) {
        let g = &phase.gather;
        let packed = &mut scratch[..g.packed()];
        g.pack(simd, packed, |panel, rows, width, out| {
            // Row (r, s, k) of the turned filter is a run of c in w.
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                let (tap, k) = (phase.tap(row / kg), panel.group * kg + row % kg);
                let at = (k * taps + tap) * cg + panel.first;
                out[..panel.exist].copy_from_slice(&w[at..at + panel.exist]);
                out[panel.exist..].fill(0.0);
            }
        });
        gather(simd, g, y, packed, bias, relu, x);
    }
}

/// Scratch of [`dgrad`] in elements.
pub fn dgrad_scratch(shape: &ConvShape) -> usize {
    if depthwise::takes(shape) {
        return depthwise::dgrad_scratch(shape);
    }
    if winograd::suits(shape) {
        return 0;
    }
    phases(shape).map(|p| p.gather.packed()).max().unwrap_or(0)
}

/// A correlation over a source image: under tap t of output o lies source pixel o * mul + off + t * step, per axis.
pub(super) struct Gather {
    pub n: usize,
    pub out: [usize; 2],
    pub src: [usize; 2],
    pub groups: usize,
    /// Channels of one group.
    pub src_c: usize,
    pub dst_c: usize,
    pub taps: [usize; 2],
    pub mul: [isize; 2],
    pub off: [isize; 2],
    pub step: [isize; 2],
    /// Output o is pixel first + o * every of an image of `dst` pixels.
    pub dst: [usize; 2],
    pub first: [usize; 2],
    pub every: [usize; 2],
}

/// The pixels of the input gradient that are equal modulo the stride, and the taps of the turned filter that they meet.
pub(super) struct Phase {
    pub gather: Gather,
    /// S
    columns: usize,
    /// Row and column in the filter of this phase's first tap, and how far back the next one lies.
    last: [usize; 2],
    back: [usize; 2],
}

impl Phase {
    /// The filter's index of tap (r, s) of the phase.
    pub fn tap(&self, i: usize) -> usize {
        let at = [i / self.gather.taps[1], i % self.gather.taps[1]];
        let [r, s] = [0, 1].map(|a| self.last[a] - at[a] * self.back[a]);
        r * self.columns + s
    }
}

/// All phases with pixels; those without taps are there, too: nothing is added to their bias.
pub(super) fn phases(s: &ConvShape) -> impl Iterator<Item = Phase> {
    let s = *s;
    let w = s.window;
    let count = [w.stride[0].min(s.h), w.stride[1].min(s.w)];
    (0..count[0] * count[1]).map(move |i| {
        let first = [i / count[1], i % count[1]];
        let mut gather = Gather {
            n: s.n,
            out: [0, 1].map(|a| ([s.h, s.w][a] - first[a]).div_ceil(w.stride[a])),
            src: [s.p, s.q],
            groups: s.groups,
            src_c: s.group_k(),
            dst_c: s.group_c(),
            taps: [0; 2],
            mul: [1; 2],
            off: [0; 2],
            step: [1; 2],
            dst: [s.h, s.w],
            first,
            every: w.stride,
        };
        let (mut last, mut back) = ([0; 2], [1; 2]);
        for a in 0..2 {
            // Under turned tap t of pixel h lies dY at (h + pad - (taps - 1 - t) * dilation) / stride, if that is whole.
            let at = |t: usize| {
                (first[a] + w.pad[a] + t * w.dilation[a]) as isize - (w.dilation[a] * (w.size[a] - 1)) as isize
            };
            let stride = w.stride[a] as isize;
            let mut met = (0..w.size[a]).filter(|t| at(*t) % stride == 0);
            let Some(t) = met.next() else { continue };
            (gather.taps[a], gather.off[a], last[a]) = (1, at(t) / stride, w.size[a] - 1 - t);
            if let Some(next) = met.next() {
                (gather.step[a], back[a]) = ((at(next) - at(t)) / stride, next - t);
                gather.taps[a] = 2 + met.count();
            }
        }
        Phase { gather, columns: w.size[1], last, back }
    })
}

/// Up to 16 * vectors neighbouring output channels of one group.
struct Panel {
    group: usize,
    /// First channel in the group, and how many exist.
    first: usize,
    exist: usize,
    /// Where its packed weights begin.
    at: usize,
}

impl Gather {
    pub fn forward(s: &ConvShape) -> Self {
        let w = &s.window;
        Self {
            n: s.n,
            out: [s.p, s.q],
            src: [s.h, s.w],
            groups: s.groups,
            src_c: s.group_c(),
            dst_c: s.group_k(),
            taps: w.size,
            mul: [0, 1].map(|a| w.stride[a] as isize),
            off: [0, 1].map(|a| -(w.pad[a] as isize)),
            step: [0, 1].map(|a| w.dilation[a] as isize),
            dst: [s.p, s.q],
            first: [0; 2],
            every: [1; 2],
        }
    }
    /// Length of a chain.
    fn depth(&self) -> usize {
        self.taps[0] * self.taps[1] * self.src_c
    }
    /// Elements of the packed weights at any level.
    fn packed(&self) -> usize {
        self.groups * self.dst_c.next_multiple_of(LANES) * self.depth()
    }
    /// Panels of one group when a panel has `vectors` vectors.
    fn panels(&self, vectors: usize) -> usize {
        self.dst_c.div_ceil(vectors * LANES)
    }
    fn panel(&self, i: usize, vectors: usize) -> Panel {
        let (group, first) = (i / self.panels(vectors), i % self.panels(vectors) * vectors * LANES);
        Panel {
            group,
            first,
            exist: (self.dst_c - first).min(vectors * LANES),
            at: (group * self.dst_c.next_multiple_of(LANES) + first) * self.depth(),
        }
    }
    /// The chain is cut into pieces of this many rows: at most DEPTH, and so few taps that a tile's stretches are at
    /// most TAPS (32 whole taps, or at most 768 / 25 + 2 broken ones).
    fn piece(&self) -> usize {
        let most = if self.src_c <= DEPTH / 32 { 32 * self.src_c } else { DEPTH };
        cut(self.depth(), most, 1).1
    }
    /// Whether the taps of one filter row are neighbours in memory under this pixel: one run instead of S.
    fn inner(&self, p: &Pixel) -> bool {
        self.groups == 1 && self.step[1] == 1 && p.w >= 0 && p.w + self.taps[1] as isize <= self.src[1] as isize
    }
    /// Where the channels of output (p, q) of image n begin.
    pub fn to(&self, n: usize, p: usize, q: usize) -> usize {
        let [h, w] = [self.first[0] + p * self.every[0], self.first[1] + q * self.every[1]];
        ((n * self.dst[0] + h) * self.dst[1] + w) * self.groups * self.dst_c
    }
    /// The output pixels from `first` on.
    fn pixels(&self, first: usize, group: usize, at: &mut [Pixel]) {
        let image = self.src[0] * self.src[1] * self.groups * self.src_c;
        let (n, pq) = (first / (self.out[0] * self.out[1]), first % (self.out[0] * self.out[1]));
        let (mut n, mut p, mut q) = (n, pq / self.out[1], pq % self.out[1]);
        for at in at {
            *at = Pixel {
                h: p as isize * self.mul[0] + self.off[0],
                w: q as isize * self.mul[1] + self.off[1],
                image: n * image + group * self.src_c,
                to: self.to(n, p, q),
            };
            q += 1;
            if q == self.out[1] {
                (p, q) = (p + 1, 0);
                if p == self.out[0] {
                    (n, p) = (n + 1, 0);
                }
            }
        }
    }
    /// Packs every panel: `fill(panel, rows, width, out)` writes rows of `width` elements.
    fn pack(
        &self,
        simd: Simd,
        packed: &mut [f32],
        fill: impl Fn(&Panel, std::ops::Range<usize>, usize, &mut [f32]) + Send + Sync,
    ) {
        assert_eq!(packed.len(), self.packed());
        let vectors = extent(simd).1;
        let (pieces, size) = cut(self.depth(), 256, 16);
        let out = Out::new(packed);
        par::tasks(self.groups * self.panels(vectors) * pieces, |i| {
            let panel = self.panel(i / pieces, vectors);
            let first = i % pieces * size;
            let rows = first..(first + size).min(self.depth());
            let width = panel.exist.next_multiple_of(LANES);
            // SAFETY: panels and their rows are disjoint and inside `packed`.
            let out = unsafe { out.slice(panel.at + first * width, rows.len() * width) };
            fill(&panel, rows, width, out);
        });
    }
}

/// Filters [exist][depth] to packed rows [rows][width]: a transposition.
struct Turn<'a> {
    w: &'a [f32],
    depth: usize,
    rows: std::ops::Range<usize>,
    width: usize,
    out: &'a mut [f32],
}

impl Vectorized for Turn<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (exist, width) = (self.w.len() / self.depth, self.width);
        for i in (0..self.rows.len()).step_by(LANES) {
            let count = LANES.min(self.rows.len() - i);
            for k in (0..width).step_by(LANES) {
                let mut square = [V::splat(0.0); LANES];
                // SAFETY: filters below `exist` have `count` elements from there on; `out` has rows.len() rows.
                unsafe {
                    for (j, v) in square.iter_mut().enumerate().take(exist - k) {
                        *v = V::load_part(self.w.as_ptr().add((k + j) * self.depth + self.rows.start + i), count);
                    }
                    V::transpose(&mut square);
                    for (j, v) in square.iter().enumerate().take(count) {
                        v.store(self.out.as_mut_ptr().add((i + j) * width + k));
                    }
                }
            }
        }
    }
}

/// An output pixel: the source coordinates under tap (0, 0), where its image begins, and where the output goes.
#[derive(Clone, Copy, Default)]
struct Pixel {
    h: isize,
    w: isize,
    image: usize,
    to: usize,
}

/// dst = act(bias + source * packed weights).
fn gather(simd: Simd, g: &Gather, src: &[f32], packed: &[f32], bias: Option<&[f32]>, relu: bool, dst: &mut [f32]) {
    let pixels = g.n * g.out[0] * g.out[1];
    let (src_c, dst_c) = (g.groups * g.src_c, g.groups * g.dst_c);
    assert_eq!(src.len(), g.n * g.src[0] * g.src[1] * src_c);
    assert_eq!(dst.len(), g.n * g.dst[0] * g.dst[1] * dst_c);
    assert_eq!(packed.len(), g.packed());
    let (rows, vectors) = extent(simd);
    let panels = g.groups * g.panels(vectors);
    let (blocks, block) = cut(pixels, BLOCK, rows);
    let piece = g.piece();
    let dst = Out::new(dst);
    par::tasks(blocks * panels, |i| {
        let (first, panel) = (i / panels * block, g.panel(i % panels, vectors));
        let count = block.min(pixels - first);
        let mut at = [Pixel::default(); BLOCK];
        g.pixels(first, panel.group, &mut at[..count]);
        let channel = panel.group * g.dst_c + panel.first;
        if g.depth() == 0 {
            for p in &at[..count] {
                // SAFETY: this task owns these pixels' channels.
                let y = unsafe { dst.slice(p.to + channel, panel.exist) };
                let bias = |i| bias.map_or(0.0, |b| if relu && b[channel + i] < 0.0 { 0.0 } else { b[channel + i] });
                y.iter_mut().enumerate().for_each(|(i, y)| *y = bias(i));
            }
        }
        let width = panel.exist.next_multiple_of(LANES);
        let mut stretches = [EMPTY; TAPS];
        let mut from = 0;
        while from < g.depth() {
            let to = (from + piece).min(g.depth());
            let mut tiles = at[..count].chunks(rows).peekable();
            while let Some(at) = tiles.next() {
                if from == 0 && width < dst_c {
                    // What the next tile writes lies in pieces of rows, which no hardware foresees.
                    for p in tiles.peek().into_iter().copied().flatten() {
                        for c in (0..width).step_by(LANES) {
                            Portable::prefetch(dst.0.wrapping_add(p.to + channel + c));
                        }
                    }
                }
                let inner = at.iter().all(|p| g.inner(p));
                let mut used = 0;
                let mut row = from;
                while row < to {
                    let (tap, c) = (row / g.src_c, row % g.src_c);
                    let (r, s) = ((tap / g.taps[1]) as isize, (tap % g.taps[1]) as isize);
                    let run = if inner { (g.taps[1] - s as usize) * g.src_c - c } else { g.src_c - c };
                    let stretch = &mut stretches[used];
                    stretch.len = run.min(to - row);
                    stretch.b = packed[panel.at + row * width..].as_ptr();
                    for (a, p) in stretch.a.iter_mut().zip(at) {
                        let (h, w) = (p.h + r * g.step[0], p.w + s * g.step[1]);
                        let inside = h >= 0 && w >= 0 && h < g.src[0] as isize && w < g.src[1] as isize;
                        *a = if inside {
                            // SAFETY: the pixel is inside the source; its group's channels from c on are the stretch.
                            unsafe { src.as_ptr().add(p.image + (h as usize * g.src[1] + w as usize) * src_c + c) }
                        } else {
                            ZEROS.as_ptr()
                        };
                    }
                    row += stretch.len;
                    used += 1;
                }
                // SAFETY: stretches stay inside the source or ZEROS (a piece is at most DEPTH long); the packed panel
                // has `width` columns; this task owns these pixels' channels.
                unsafe {
                    let mut y = [std::ptr::null_mut(); ROWS];
                    y.iter_mut().zip(at).for_each(|(y, p)| *y = dst.at(p.to + channel));
                    tile(
                        simd,
                        at.len(),
                        width / LANES,
                        &HostTile {
                            stretches: &stretches[..used],
                            a_step: 1,
                            b_step: width,
                            begin: match bias {
                                _ if from > 0 => Begin::Dst,
                                Some(b) => Begin::Row(b.as_ptr().add(channel)),
                                None => Begin::Zero,
                            },
                            dst: y,
                            last: panel.exist - (width - LANES),
                            add: false,
                            relu: relu && to == g.depth(),
                            stream: false,
                        },
                    );
                }
            }
            from = to;
        }
    });
}

/// Pixels of one tile of the weight gradient: 96 x 64 x 4 = 24 KiB of gathered x stay in the first-level cache.
const PIXELS: usize = 160;
/// Filters and columns (r, s, c) of one task.
const FILTERS: usize = 96;
const COLUMNS: usize = 576;
const WIDTH: usize = 4 * LANES;
/// Columns of a task whose tiles of one vector pay for interleaving dY.
const OFTEN: usize = 16 * LANES;
/// Pixels of a row that pay for starting a stretch of a chain.
const WIDE: usize = 8;

/// How the weight gradient is cut into tasks.
struct Cuts {
    filters: (usize, usize),
    columns: (usize, usize),
    /// Runs of tiles with a sum of their own: (number, pixels in each).
    parts: (usize, usize),
}

fn cuts(s: &ConvShape) -> Cuts {
    let pixels = s.n * s.p * s.q;
    let filters = cut(s.group_k(), FILTERS, ROWS);
    let columns = cut(s.taps()[0] * s.taps()[1] * s.group_c(), COLUMNS, WIDTH);
    // With few filters and columns there is too little to share out: pixels are, at the price of a sum of sums.
    let want = 32usize.div_ceil(s.groups * filters.0 * columns.0).min(pixels.div_ceil(1024));
    Cuts { filters, columns, parts: cut(pixels, pixels.div_ceil(want.max(1)).max(1), PIXELS) }
}

/// dw = the gradient of the weights: x [N,H,W,C], dy [N,P,Q,K], dw [K,R,S,C/groups].
pub fn wgrad(simd: Simd, shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32], scratch: &mut [f32]) {
    whole(shape);
    let s = shape;
    if depthwise::takes(s) {
        return depthwise::wgrad(simd, s, x, dy, dw, scratch);
    }
    if winograd_wgrad::suits(s) {
        return winograd_wgrad::run(simd, s, x, dy, dw, scratch);
    }
    let g = Gather::forward(s);
    let (pixels, depth) = (s.n * s.p * s.q, g.depth());
    assert_eq!(x.len(), s.n * s.h * s.w * s.c);
    assert_eq!(dy.len(), pixels * s.k);
    assert_eq!(dw.len(), s.k * depth);
    assert!(scratch.len() >= wgrad_scratch(s));
    let Cuts { filters, columns, parts } = cuts(s);
    let (rows, vectors) = extent(simd);
    let extra = (parts.0 - 1) * dw.len();
    // Whole panels of one tap on wide images are read where they lie, row by row, the padding left out; everything else
    // is gathered first. The choice must not depend on the level: leaving out and adding zero differ for infinities.
    let direct = g.src_c.is_multiple_of(WIDTH) && s.q >= WIDE;
    // dY is read where it lies, but for narrow tiles that come by so often that it pays to lay their filters side by side.
    let interleaved = vectors == 1 && columns.1 >= OFTEN;
    let (sum, rest, size) = (Out::new(dw), Out::new(scratch), dw.len());
    par::tasks(parts.0 * s.groups * filters.0 * columns.0, |i| {
        let (i, column) = (i / columns.0, i % columns.0 * columns.1);
        let (i, filter) = (i / filters.0, i % filters.0 * filters.1);
        let (part, group) = (i / s.groups, i % s.groups);
        let column_end = (column + columns.1).min(depth);
        let kept = filters.1.min(s.group_k() - filter);
        // Part 0 sums in dw itself.
        let (sum, at) = if part == 0 { (sum, 0) } else { (rest, (part - 1) * size) };
        let mut xs = [0.0f32; PIXELS * WIDTH];
        let mut dys = [0.0f32; PIXELS * FILTERS];
        let mut pixel = [Pixel::default(); PIXELS];
        let mut runs = [PixelRun { first: 0, x: ZEROS.as_ptr(), len: 0 }; PIXELS];
        let mut stretches = [EMPTY; PIXELS];
        let end = ((part + 1) * parts.1).min(pixels);
        let mut first = part * parts.1;
        let mut fresh = true;
        while first < end {
            let count = PIXELS.min(end - first);
            let from = &dy[first * s.k + group * s.group_k() + filter..];
            match rows {
                _ if !interleaved => {}
                ROWS => interleave::<ROWS>(from, s.k, count, kept, &mut dys),
                2 => interleave::<2>(from, s.k, count, kept, &mut dys),
                _ => unreachable!("{rows} rows"),
            }
            g.pixels(first, group, &mut pixel[..count]);
            for column in (column..column_end).step_by(vectors * LANES) {
                let exist = (column_end - column).min(vectors * LANES);
                let width = exist.next_multiple_of(LANES);
                let used = if direct {
                    g.rows_under(x, &pixel[..count], column, &mut runs)
                } else {
                    simd::run(simd, Columns { g: &g, x, at: &pixel[..count], column, exist, width, xs: &mut xs });
                    runs[0] = PixelRun { first: 0, x: xs.as_ptr(), len: count };
                    1
                };
                for f in (0..kept).step_by(rows) {
                    let k = group * s.group_k() + filter + f;
                    let (a, a_step) =
                        if interleaved { (dys[f * PIXELS..].as_ptr(), rows) } else { (from[f..].as_ptr(), s.k) };
                    for (stretch, run) in stretches.iter_mut().zip(&runs[..used]) {
                        let a = std::array::from_fn(|i| a.wrapping_add(run.first * a_step + i));
                        *stretch = Stretch { a, b: run.x, len: run.len };
                    }
                    // SAFETY: dY and x lie in this task's buffers or in pixels that exist; the task owns these filters'
                    // columns of its part.
                    unsafe {
                        tile(
                            simd,
                            rows.min(kept - f),
                            width / LANES,
                            &HostTile {
                                stretches: &stretches[..used],
                                a_step,
                                b_step: if direct { s.window.stride[1] * s.c } else { width },
                                begin: Begin::Zero,
                                dst: tile::rows(sum.at(at + k * depth + column), depth),
                                last: exist - (width - LANES),
                                add: !fresh,
                                relu: false,
                                stream: false,
                            },
                        );
                    }
                }
            }
            first += count;
            fresh = false;
        }
    });
    add_parts(dw, &scratch[..extra]);
}

/// Scratch of [`wgrad`] in elements.
pub fn wgrad_scratch(shape: &ConvShape) -> usize {
    if depthwise::takes(shape) {
        return depthwise::wgrad_scratch(shape);
    }
    if winograd_wgrad::suits(shape) {
        return winograd_wgrad::scratch(shape);
    }
    (cuts(shape).parts.0 - 1) * shape.k * shape.taps()[0] * shape.taps()[1] * shape.group_c()
}

/// Neighbouring pixels of a tile's row that lie under one tap.
#[derive(Clone, Copy)]
struct PixelRun {
    first: usize,
    x: *const f32,
    len: usize,
}

impl Gather {
    /// The pixels of `at` whose tap of column (r, s, c) is inside the image, row by row.
    fn rows_under(&self, x: &[f32], at: &[Pixel], column: usize, runs: &mut [PixelRun; PIXELS]) -> usize {
        let (tap, c) = (column / self.src_c, column % self.src_c);
        let (r, s) = ((tap / self.taps[1]) as isize, (tap % self.taps[1]) as isize);
        let (height, wide, step) = (self.src[0] as isize, self.src[1] as isize, self.mul[1]);
        let (mut t, mut used) = (0, 0);
        while t < at.len() {
            let p = &at[t];
            let q = ((p.w - self.off[1]) / step) as usize;
            let count = (self.out[1] - q).min(at.len() - t);
            let (h, w) = (p.h + r * self.step[0], p.w + s * self.step[1]);
            if h >= 0 && h < height {
                // Pixels i of the row with 0 <= w + i * step < wide.
                let begin = ((-w).max(0) + step - 1) / step;
                let end = (((wide - w).max(0) + step - 1) / step).min(count as isize);
                if begin < end {
                    let from = (h * wide + w + begin * step) as usize * self.groups * self.src_c;
                    let x = x[p.image + from + c..].as_ptr();
                    runs[used] = PixelRun { first: t + begin as usize, x, len: (end - begin) as usize };
                    used += 1;
                }
            }
            t += count;
        }
        used
    }
}

/// dY of some pixels, as [filters / R][pixel][R].
fn interleave<const R: usize>(dy: &[f32], step: usize, count: usize, kept: usize, out: &mut [f32]) {
    for t in 0..count {
        let from = &dy[t * step..][..kept];
        let (whole, rest) = from.as_chunks::<R>();
        for (b, from) in whole.iter().enumerate() {
            out[(b * PIXELS + t) * R..][..R].copy_from_slice(from);
        }
        if !rest.is_empty() {
            out[(whole.len() * PIXELS + t) * R..][..rest.len()].copy_from_slice(rest);
        }
    }
}

/// Columns (r, s, c) from `column` on of some pixels' patches, as [pixel][width]; zeros behind `exist`.
struct Columns<'a> {
    g: &'a Gather,
    x: &'a [f32],
    at: &'a [Pixel],
    column: usize,
    exist: usize,
    width: usize,
    xs: &'a mut [f32],
}

/// A run of columns: tap, first channel, and where it goes.
#[derive(Clone, Copy, Default)]
struct Run {
    r: isize,
    s: isize,
    c: usize,
    to: usize,
    len: usize,
}

impl Columns<'_> {
    /// The runs of these columns, when a run may be as long as `whole` taps allow.
    fn runs(&self, merged: bool, runs: &mut [Run; WIDTH]) -> usize {
        let g = self.g;
        let (mut used, mut to) = (0, 0);
        while to < self.exist {
            let (tap, c) = ((self.column + to) / g.src_c, (self.column + to) % g.src_c);
            let (r, s) = (tap / g.taps[1], tap % g.taps[1]);
            let len = if merged { (g.taps[1] - s) * g.src_c - c } else { g.src_c - c };
            let len = len.min(self.exist - to);
            runs[used] = Run { r: r as isize * g.step[0], s: s as isize * g.step[1], c, to, len };
            to += len;
            used += 1;
        }
        used
    }
}

impl Vectorized for Columns<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let g = self.g;
        let src_c = g.groups * g.src_c;
        let (mut short, mut long) = ([Run::default(); WIDTH], [Run::default(); WIDTH]);
        let (shorts, longs) = (self.runs(false, &mut short), self.runs(true, &mut long));
        assert!(self.at.len() * self.width <= self.xs.len());
        if shorts == 1 && self.exist == WIDTH {
            // The usual case: all channels of one tap, or 64 of them.
            let run = short[0];
            for (t, p) in self.at.iter().enumerate() {
                let (h, w) = (p.h + run.r, p.w + run.s);
                let inside = h >= 0 && w >= 0 && h < g.src[0] as isize && w < g.src[1] as isize;
                let from = p
                    .image
                    .wrapping_add((h as usize).wrapping_mul(g.src[1]).wrapping_add(w as usize).wrapping_mul(src_c));
                // SAFETY: 64 channels of a pixel that exists, or zeros; row t of xs.
                unsafe {
                    let from = if inside { self.x.as_ptr().add(from + run.c) } else { ZEROS.as_ptr() };
                    let out = self.xs.as_mut_ptr().add(t * WIDTH);
                    for i in (0..WIDTH).step_by(LANES) {
                        V::load(from.add(i)).store(out.add(i));
                    }
                }
            }
            return;
        }
        for (t, p) in self.at.iter().enumerate() {
            // SAFETY: runs stay inside `width` columns of xs and, where the pixel exists, inside its taps' channels.
            unsafe {
                let out = self.xs.as_mut_ptr().add(t * self.width);
                // Runs that are not whole vectors are followed by the next run, the last one by these zeros.
                V::splat(0.0).store(out.add(self.width - LANES));
                for run in if longs < shorts && g.inner(p) { &long[..longs] } else { &short[..shorts] } {
                    let (h, w) = (p.h + run.r, p.w + run.s);
                    let out = out.add(run.to);
                    if h >= 0 && w >= 0 && h < g.src[0] as isize && w < g.src[1] as isize {
                        let from = p.image + (h as usize * g.src[1] + w as usize) * src_c + run.c;
                        let from = self.x.as_ptr().add(from);
                        for i in (0..run.len).step_by(LANES) {
                            V::load_part(from.add(i), run.len - i).store_part(out.add(i), run.len - i);
                        }
                    } else {
                        for i in (0..run.len).step_by(LANES) {
                            V::splat(0.0).store_part(out.add(i), run.len - i);
                        }
                    }
                }
            }
        }
    }
}
