/*! Dense layers: x [N, in], w [out, in], y [N, out].

Forward, both operands run along `in`: sixteen partial sums per output over pieces of [`CHUNK`] inputs, each piece's
partial sums added up in one order. Weights may be stored in 16 bits: they are widened in registers, so that the bits are
those of the same numbers in float32, for half of the bytes. The two gradients are register tiles. With few images all three move weights at
the speed of memory, and every weight is touched once. */

use super::simd::{self, Stored, V16, Vectorized};
use super::tile::{self, Begin, HostTile, ROWS, Stretch, extent, tile};
use super::{LANES, Out, area};
use crate::launch::Simd;
use crate::par;

pub use super::{column_sums as bias_grad, column_sums_scratch as bias_grad_scratch};

/// Inputs that are summed in lanes before the lanes are added up. Part of the definition of the result.
const CHUNK: usize = 2048;
/// Outputs of one task, and of one block of it.
const OUTPUTS: usize = 16;
const BLOCK: usize = 4;

/// y = act(bias + x w^T).
#[allow(clippy::too_many_arguments)] // The operands of a dense layer.
pub fn fprop<W: Stored>(
    simd: Simd,
    n: usize,
    inputs: usize,
    outputs: usize,
    x: &[f32],
    w: &[W],
    bias: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
) {
    assert_eq!((x.len(), w.len(), y.len()), (area(n, inputs), area(outputs, inputs), area(n, outputs)));
    assert!(bias.is_none_or(|b| b.len() == outputs));
    let y = Out::new(y);
    par::tasks(outputs.div_ceil(OUTPUTS), |i| {
        let first = i * OUTPUTS;
        let last = (first + OUTPUTS).min(outputs);
        simd::run(simd, Dots { n, inputs, outputs, x, w, bias, relu, y, range: (first, last) });
    });
}

/// One task of [`fprop`]: the outputs in `range` of all images.
struct Dots<'a, W> {
    n: usize,
    inputs: usize,
    outputs: usize,
    x: &'a [f32],
    w: &'a [W],
    bias: Option<&'a [f32]>,
    relu: bool,
    y: Out,
    range: (usize, usize),
}

impl<W: Stored> Dots<'_, W> {
    /// Adds the chunk at `i` to outputs o.. of images n..
    ///
    /// # Safety
    /// All of them must exist, and the task must own them.
    #[inline(always)]
    unsafe fn block<V: V16, const O: usize, const N: usize>(&self, o: usize, n: usize, i: usize) {
        let len = CHUNK.min(self.inputs - i);
        // SAFETY: rows o..o + O of w, n..n + N of x, from column i on.
        unsafe {
            let w: [*const W; O] = std::array::from_fn(|j| self.w.as_ptr().add((o + j) * self.inputs + i));
            let x: [*const f32; N] = std::array::from_fn(|j| self.x.as_ptr().add((n + j) * self.inputs + i));
            let mut acc = [[V::splat(0.0); O]; N];
            let mut at = 0;
            while at + LANES <= len {
                let w: [V; O] = std::array::from_fn(|j| W::load(w[j].add(at)));
                for b in 0..N {
                    let x = V::load(x[b].add(at));
                    for a in 0..O {
                        acc[b][a] = x.fma(w[a], acc[b][a]);
                    }
                }
                at += LANES;
            }
            if at < len {
                let w: [V; O] = std::array::from_fn(|j| W::load_part(w[j].add(at), len - at));
                for b in 0..N {
                    let x = V::load_part(x[b].add(at), len - at);
                    for a in 0..O {
                        acc[b][a] = x.fma(w[a], acc[b][a]);
                    }
                }
            }
            for b in 0..N {
                for a in 0..O {
                    let y = self.y.at((n + b) * self.outputs + o + a);
                    let begin = if i == 0 { self.bias.map_or(0.0, |bias| bias[o + a]) } else { *y };
                    let sum = begin + acc[b][a].sum();
                    // Written so that a NaN stays.
                    *y = if self.relu && i + len == self.inputs && sum < 0.0 { 0.0 } else { sum };
                }
            }
        }
    }
}

impl<W: Stored> Vectorized for Dots<'_, W> {
    #[inline(always)]
    fn run<V: V16>(self) {
        // With one block of images each weight is read once, so a block of rows may as well run to its end; with more,
        // a chunk of all images must stay in the cache while the rows pass by.
        let few = self.n <= BLOCK;
        let span = if few { self.inputs } else { CHUNK };
        for from in (0..self.inputs).step_by(span) {
            for o in (self.range.0..self.range.1).step_by(BLOCK) {
                for i in (from..(from + span).min(self.inputs)).step_by(CHUNK) {
                    let rows = BLOCK.min(self.range.1 - o);
                    for n in (0..self.n).step_by(BLOCK) {
                        // SAFETY: the block is inside the operands, and its outputs are in this task's range.
                        unsafe {
                            match (rows, BLOCK.min(self.n - n)) {
                                (4, 1) => self.block::<V, 4, 1>(o, n, i),
                                (4, 2) => self.block::<V, 4, 2>(o, n, i),
                                (4, 3) => self.block::<V, 4, 3>(o, n, i),
                                (4, 4) => self.block::<V, 4, 4>(o, n, i),
                                (rows, images) => {
                                    for a in 0..rows {
                                        for b in 0..images {
                                            self.block::<V, 1, 1>(o + a, n + b, i);
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Inputs of one task of the gradients, and columns of one tile at most.
const SPAN: usize = 1024;
const WIDTH: usize = 4 * LANES;

/// Columns between what is copied and what is fetched for later.
const AHEAD: usize = WIDTH;

/// Copies `len` rows of `step` elements, columns i..i + exist, to rows of whole vectors: rows that lie a power of two
/// apart would push each other out of the first-level cache while they are used again and again.
struct Gathered<'a> {
    from: &'a [f32],
    step: usize,
    len: usize,
    exist: usize,
    to: &'a mut [f32],
}

impl Vectorized for Gathered<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let width = self.exist.next_multiple_of(LANES);
        assert!(self.len * width <= self.to.len() && (self.len - 1) * self.step + self.exist <= self.from.len());
        for j in 0..self.len {
            for i in (0..self.exist).step_by(LANES) {
                // SAFETY: inside both, just checked.
                unsafe {
                    let from = self.from.as_ptr().add(j * self.step + i);
                    // No hardware foresees the next columns of rows this far apart.
                    V::prefetch(from.wrapping_add(AHEAD));
                    let v = V::load_part(from, self.exist - i);
                    v.store(self.to.as_mut_ptr().add(j * width + i));
                }
            }
        }
    }
}

/// Outputs whose weights are taken at a time.
const DEPTH: usize = 32;
const FEW: usize = 8;

/// dx = dy w, one chain over the outputs.
#[allow(clippy::too_many_arguments)] // The operands of a dense layer.
pub fn dgrad(simd: Simd, n: usize, inputs: usize, outputs: usize, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    assert_eq!((dx.len(), w.len(), dy.len()), (area(n, inputs), area(outputs, inputs), area(n, outputs)));
    let (rows, vectors) = extent(simd);
    let dx = Out::new(dx);
    par::tasks(inputs.div_ceil(SPAN), |i| {
        let (first, last) = (i * SPAN, ((i + 1) * SPAN).min(inputs));
        // Weights that are used once are streamed where they lie, a few rows at a time; else copied for the reuse.
        let once = n <= rows;
        let depth = if once { FEW } else { DEPTH };
        let mut packed = [0.0; DEPTH * WIDTH];
        for o in (0..outputs).step_by(depth) {
            let len = depth.min(outputs - o);
            let mut i = first;
            while i < last {
                let exist = (last - i).min(vectors * LANES);
                let width = exist.next_multiple_of(LANES);
                let from = &w[o * inputs + i..];
                let (b, b_step) = if once && exist == width {
                    (from.as_ptr(), inputs)
                } else {
                    simd::run(simd, Gathered { from, step: inputs, len, exist, to: &mut packed });
                    (packed.as_ptr(), width)
                };
                for n0 in (0..n).step_by(rows) {
                    let images = rows.min(n - n0);
                    let mut stretch = Stretch { a: [std::ptr::null(); ROWS], b, len };
                    for (j, a) in stretch.a.iter_mut().enumerate().take(images) {
                        *a = dy[(n0 + j) * outputs + o..].as_ptr();
                    }
                    // SAFETY: rows n0.. of dy and o.. of w (or their copy) exist; this task owns columns first..last
                    // of dx.
                    unsafe {
                        let y = dx.at(n0 * inputs + i);
                        tile(
                            simd,
                            images,
                            width / LANES,
                            &HostTile {
                                stretches: &[stretch],
                                a_step: 1,
                                b_step,
                                begin: if o == 0 { Begin::Zero } else { Begin::Dst },
                                dst: tile::rows(y, inputs),
                                last: exist - (width - LANES),
                                add: false,
                                relu: false,
                                stream: false,
                            },
                        );
                    }
                }
                i += width;
            }
        }
    });
}

/// Filters of one task of the weight gradient.
const FILTERS: usize = 48;
/// Images summed at a time: their columns of x stay in the cache.
const IMAGES: usize = 64;
/// Gradients larger than this (in elements) are written past the caches.
const LARGE: usize = 4 << 20;

/// dw = dy^T x, one chain over the images.
#[allow(clippy::too_many_arguments)] // The operands of a dense layer.
pub fn wgrad(simd: Simd, n: usize, inputs: usize, outputs: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    assert_eq!((x.len(), dw.len(), dy.len()), (area(n, inputs), area(outputs, inputs), area(n, outputs)));
    let (rows, vectors) = extent(simd);
    let aligned = (dw.as_ptr() as usize).is_multiple_of(64) && inputs.is_multiple_of(LANES);
    let stream = dw.len() >= LARGE && n <= IMAGES && aligned;
    let dw = Out::new(dw);
    let spans = inputs.div_ceil(SPAN);
    par::tasks(spans * outputs.div_ceil(FILTERS), |t| {
        let (first, o_first) = (t % spans * SPAN, t / spans * FILTERS);
        let (last, o_last) = ((first + SPAN).min(inputs), (o_first + FILTERS).min(outputs));
        let mut packed = [0.0; IMAGES * WIDTH];
        for n0 in (0..n).step_by(IMAGES) {
            let len = IMAGES.min(n - n0);
            let mut i = first;
            while i < last {
                let exist = (last - i).min(vectors * LANES);
                let width = exist.next_multiple_of(LANES);
                simd::run(simd, Gathered { from: &x[n0 * inputs + i..], step: inputs, len, exist, to: &mut packed });
                let b = packed.as_ptr();
                for o in (o_first..o_last).step_by(rows) {
                    let filters = rows.min(o_last - o);
                    let mut stretch = Stretch { a: [std::ptr::null(); ROWS], b, len };
                    for (j, a) in stretch.a.iter_mut().enumerate().take(filters) {
                        *a = dy[n0 * outputs + o + j..].as_ptr();
                    }
                    // SAFETY: images n0.. exist in dy and in the copy of x; this task owns these filters' columns of
                    // dw, which are aligned if `stream`.
                    unsafe {
                        let y = dw.at(o * inputs + i);
                        tile(
                            simd,
                            filters,
                            width / LANES,
                            &HostTile {
                                stretches: &[stretch],
                                a_step: outputs,
                                b_step: width,
                                begin: if n0 == 0 { Begin::Zero } else { Begin::Dst },
                                dst: tile::rows(y, inputs),
                                last: exist - (width - LANES),
                                add: false,
                                relu: false,
                                stream,
                            },
                        );
                    }
                }
                i += width;
            }
        }
        if stream {
            simd::stream_end();
        }
    });
}
