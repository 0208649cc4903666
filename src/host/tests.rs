/*! Every routine against loops in float64, on shapes chosen to be awkward. */

use super::norm::{self, Channels, Extents};
use super::{column_sums, column_sums_scratch, conv, dense};
use crate::launch::Simd;
use crate::shape::{ConvShape, Window};

const EPS: f64 = 1.0 / (1 << 24) as f64;
/// None for a sanitizer (`tests/soundness.sh`), which knows where allocations end and not what lies in them.
const MARGIN: usize = if option_env!("SANITIZED").is_some() { 0 } else { 37 };
/// Multiply-adds of a shape for Miri, which is slow.
const FEW: usize = 4000;
const CANARY: u32 = 0x7fc1_2345;

/// A buffer of NaN between margins that nobody may touch.
struct Guarded(Vec<f32>);

impl Guarded {
    fn new(n: usize) -> Self {
        let mut v = vec![f32::from_bits(CANARY); n + 2 * MARGIN];
        v[MARGIN..MARGIN + n].fill(f32::NAN);
        Self(v)
    }
    fn get(&mut self) -> &mut [f32] {
        let n = self.0.len();
        &mut self.0[MARGIN..n - MARGIN]
    }
    fn done(self) -> Vec<f32> {
        let n = self.0.len();
        let ok = |v: &[f32]| v.iter().all(|v| v.to_bits() == CANARY);
        assert!(ok(&self.0[..MARGIN]) && ok(&self.0[n - MARGIN..]), "wrote outside its output");
        self.0[MARGIN..n - MARGIN].to_vec()
    }
}

/// Runs `f(output, scratch)` on guarded buffers.
fn guarded(n: usize, scratch: usize, f: impl FnOnce(&mut [f32], &mut [f32])) -> Vec<f32> {
    let (mut y, mut s) = (Guarded::new(n), Guarded::new(scratch));
    f(y.get(), s.get());
    s.done();
    y.done()
}

/// Whole numbers within 3, whose sums of products float32 holds exactly; or floats.
fn values(seed: u64, n: usize, whole: bool) -> Vec<f32> {
    let mut rng = Lcg(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..n)
        .map(|_| if whole { (rng.next() % 7) as f32 - 3.0 } else { rng.next() as f32 / (1u32 << 31) as f32 - 1.0 })
        .collect()
}

struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }
}

/// Calls f(index in y, in x, in w) for every product of the convolution.
fn products(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let ([rr, ss], cg, kg) = (s.taps(), s.group_c(), s.group_k());
    for n in 0..s.n {
        for p in 0..s.p {
            for q in 0..s.q {
                for r in 0..rr {
                    for t in 0..ss {
                        let (Some(h), Some(w)) = (s.window.input(0, p, r, s.h), s.window.input(1, q, t, s.w)) else {
                            continue;
                        };
                        for k in 0..s.k {
                            for c in 0..cg {
                                f(
                                    ((n * s.p + p) * s.q + q) * s.k + k,
                                    ((n * s.h + h) * s.w + w) * s.c + k / kg * cg + c,
                                    ((k * rr + r) * ss + t) * cg + c,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Value and sum of magnitudes of each element.
type Exact = Vec<(f64, f64)>;

fn accumulate(y: &mut (f64, f64), a: f32, b: f32) {
    y.0 += a as f64 * b as f64;
    y.1 += (a as f64 * b as f64).abs();
}

/// `terms`: roundings an element may have seen.
fn check(what: &str, got: &[f32], want: &Exact, whole: bool, terms: usize) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &(v, magnitude))) in got.iter().zip(want).enumerate() {
        let bound = if whole { 0.0 } else { (terms + 2) as f64 * EPS * magnitude };
        assert!((g as f64 - v).abs() <= bound, "{what}: element {i} is {g}, not {v} within {bound:e}");
    }
}

fn conv_shapes() -> Vec<ConvShape> {
    let window = |size, stride, pad, dilation| Window { size, stride, pad, dilation, ceil: false };
    let mut all = Vec::new();
    let mut add = |x: [usize; 4], k, w, groups| all.push(ConvShape::new(&x, k, w, groups).unwrap());
    let same = Window::square(3, 1, 1);
    for c in [1, 3, 5, 16, 17, 64, 65] {
        for k in [1, 3, 5, 16, 17, 64, 65] {
            add([2, 5, 7, c], k, same, 1);
        }
    }
    add([1, 1, 1, 3], 5, same, 1);
    add([1, 1, 1, 7], 9, Window::square(1, 1, 0), 1);
    add([3, 1, 1, 70], 130, Window::square(1, 1, 0), 1);
    add([1, 9, 8, 17], 19, window([3, 2], [2, 1], [1, 0, 2, 1], [1, 1]), 1);
    add([2, 11, 12, 5], 7, window([3, 3], [1, 1], [2, 2, 2, 2], [2, 2]), 1);
    add([1, 13, 12, 6], 4, window([2, 4], [3, 2], [0, 3, 4, 0], [2, 3]), 2);
    add([2, 6, 7, 9], 12, same, 3);
    add([1, 6, 6, 34], 40, same, 2);
    add([2, 7, 5, 21], 21, same, 21);
    // One channel under each filter: whole vectors of them and a rest, several filters on one, windows of every kind.
    add([2, 9, 23, 37], 37, same, 37);
    add([1, 10, 19, 32], 32, Window::square(3, 2, 1), 32);
    add([2, 9, 8, 19], 19, window([3, 2], [2, 1], [1, 0, 2, 1], [1, 1]), 19);
    add([1, 12, 11, 17], 17, window([5, 7], [1, 2], [2, 3, 2, 3], [2, 1]), 17);
    add([1, 11, 13, 16], 16, window([2, 4], [3, 2], [0, 3, 4, 0], [2, 3]), 16);
    add([2, 9, 8, 20], 40, same, 20);
    add([1, 9, 7, 6], 90, Window::square(3, 2, 1), 6);
    add([1, 9, 7, 2], 32, same, 2);
    add([1, 10, 10, 18], 18, window([1, 2], [3, 4], [0; 4], [1, 1]), 18);
    add([1, 2, 3, 20], 20, window([3, 3], [1, 1], [5, 4, 3, 6], [1, 1]), 20);
    add([1, 7, 5, 4], 12, window([5, 3], [2, 1], [2, 1, 2, 1], [1, 1]), 4);
    add([1, 20, 21, 3], 64, window([11, 11], [4, 4], [2, 2, 2, 2], [1, 1]), 1);
    add([1, 14, 15, 1], 6, window([11, 11], [1, 1], [0, 0, 0, 0], [1, 1]), 1);
    add([1, 14, 15, 20], 18, window([7, 9], [1, 1], [3, 4, 3, 4], [1, 1]), 1);
    // More channels than one piece of the reduction, more pixels than one task, more columns than one task.
    add([1, 3, 4, 800], 20, same, 1);
    add([2, 14, 14, 100], 200, same, 1);
    add([3, 40, 40, 8], 10, same, 1);
    add([1, 70, 70, 3], 20, same, 1);
    // As many filters as one task of the weight gradient takes, and whole vectors of channels on wide images.
    add([1, 5, 8, 3], 96, same, 1);
    add([2, 5, 41, 64], 192, same, 1);
    add([1, 9, 43, 128], 12, window([3, 3], [2, 2], [1, 2, 0, 1], [1, 2]), 2);
    add([1, 3, 24, 64], 3, window([1, 5], [1, 1], [0, 30, 0, 28], [1, 3]), 1);
    // Transformed: even and odd sides, padding of every width, channels that fill no vector, more than one panel and block.
    add([1, 10, 10, 32], 32, same, 1);
    add([2, 11, 13, 40], 50, same, 1);
    add([1, 12, 13, 33], 70, window([3, 3], [1, 1], [0; 4], [1, 1]), 1);
    add([1, 9, 14, 64], 130, window([3, 3], [1, 1], [2, 0, 3, 4], [1, 1]), 1);
    add([1, 9, 14, 64], 130, window([3, 3], [1, 1], [2, 0, 1, 2], [1, 1]), 1);
    add([3, 14, 15, 48], 36, same, 1);
    add([2, 7, 7, 64], 96, same, 1);
    add([1, 7, 7, 33], 962, same, 1);
    add([1, 7, 7, 962], 33, same, 1);
    // The transformed gradient of the filters: tiles with a rest, more of them than one part has, more than one block of filters.
    add([3, 7, 7, 17], 33, same, 1);
    add([1, 70, 70, 16], 16, same, 1);
    add([1, 13, 14, 70], 100, same, 1);
    // Strided past taps, so that input pixels exist that no output sees.
    add([1, 10, 10, 3], 4, window([1, 2], [3, 4], [0; 4], [1, 1]), 1);
    // Padding wider than the image.
    add([1, 2, 3, 4], 5, window([3, 3], [1, 1], [5, 4, 3, 6], [1, 1]), 1);
    all.retain(|s| !cfg!(miri) || s.flops() <= 2.0 * FEW as f64);
    all
}

fn name(what: &str, simd: Simd, s: &ConvShape) -> String {
    format!("{what} {simd:?} {s:?}")
}

#[test]
fn convolutions_equal_the_definition() {
    for (i, s) in conv_shapes().iter().enumerate() {
        for whole in [true, false] {
            let cg = s.group_c();
            let x = values(i as u64 + 1, s.n * s.h * s.w * s.c, whole);
            let w = values(i as u64 + 1000, s.k * s.taps()[0] * s.taps()[1] * cg, whole);
            let bias = values(i as u64 + 2000, s.k, whole);
            let dy = values(i as u64 + 3000, s.n * s.p * s.q * s.k, whole);
            let mut y = vec![(0.0, 0.0); dy.len()];
            let mut with_bias: Exact =
                (0..y.len()).map(|i| (bias[i % s.k] as f64, bias[i % s.k].abs() as f64)).collect();
            let mut dx = vec![(0.0, 0.0); x.len()];
            let mut dw = vec![(0.0, 0.0); w.len()];
            products(s, |iy, ix, iw| {
                accumulate(&mut y[iy], x[ix], w[iw]);
                accumulate(&mut with_bias[iy], x[ix], w[iw]);
                accumulate(&mut dx[ix], dy[iy], w[iw]);
                accumulate(&mut dw[iw], dy[iy], x[ix]);
            });
            let taps = s.taps()[0] * s.taps()[1];
            for simd in Simd::available() {
                let got =
                    guarded(y.len(), conv::fprop_scratch(s), |y, t| conv::fprop(simd, s, &x, &w, None, false, y, t));
                check(&name("fprop", simd, s), &got, &y, whole, taps * cg);
                let got = guarded(y.len(), conv::fprop_scratch(s), |y, t| {
                    conv::fprop(simd, s, &x, &w, Some(&bias), true, y, t)
                });
                let clipped = with_bias.iter().map(|y| (y.0.max(0.0), y.1)).collect();
                check(&name("fprop+bias+relu", simd, s), &got, &clipped, whole, taps * cg + 1);
                let got = guarded(dx.len(), conv::dgrad_scratch(s), |y, t| conv::dgrad(simd, s, &dy, &w, y, t));
                check(&name("dgrad", simd, s), &got, &dx, whole, taps * s.group_k());
                let got = guarded(dw.len(), conv::wgrad_scratch(s), |y, t| conv::wgrad(simd, s, &x, &dy, y, t));
                check(&name("wgrad", simd, s), &got, &dw, whole, s.n * s.p * s.q);
            }
        }
    }
}

/// What `winograd.rs` states, from matrices in their usual scale.
#[test]
fn transformed_convolutions_stay_within_their_own_bound() {
    const B: [[f64; 6]; 6] = [
        [4.0, 0.0, 5.0, 0.0, 1.0, 0.0],
        [0.0, 4.0, 4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, 4.0, 1.0, 1.0, 0.0],
        [0.0, 2.0, 1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, 1.0, 2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, 5.0, 0.0, 1.0],
    ];
    const G: [[f64; 3]; 6] = [
        [1.0 / 4.0, 0.0, 0.0],
        [1.0 / 6.0; 3],
        [1.0 / 6.0; 3],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    const A: [[f64; 6]; 4] = [
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, 1.0, 2.0, 2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        [0.0, 1.0, 1.0, 8.0, 8.0, 1.0],
    ];
    /// m x mᵀ
    fn around<const N: usize, const M: usize>(m: &[[f64; N]; M], x: [[f64; N]; N]) -> [[f64; M]; M] {
        let half = m.map(|m| std::array::from_fn(|j| (0..N).map(|i| m[i] * x[i][j]).sum::<f64>()));
        half.map(|row: [f64; N]| std::array::from_fn(|j| (0..N).map(|i| m[j][i] * row[i]).sum()))
    }
    let (c, k, side) = (70, 34, 11);
    let s = ConvShape::new(&[1, side, side, c], k, Window::square(3, 1, 1), 1).unwrap();
    let (x, w) = (values(1, side * side * c, false), values(2, k * 9 * c, false));
    let mut want = vec![(0.0, 0.0); side * side * k];
    products(&s, |iy, ix, iw| accumulate(&mut want[iy], x[ix], w[iw]));
    for simd in Simd::available() {
        let got = guarded(want.len(), conv::fprop_scratch(&s), |y, t| conv::fprop(simd, &s, &x, &w, None, false, y, t));
        for (tile, k_) in (0..9).flat_map(|t| (0..k).map(move |k| (t, k))) {
            let (top, left) = (tile / 3 * 4, tile % 3 * 4);
            let mut sums = [[0.0; 6]; 6];
            for ch in 0..c {
                // One pixel of padding on each side.
                let pixel = |y: usize, x_: usize| {
                    let inside = (1..=side).contains(&y) && (1..=side).contains(&x_);
                    if inside { x[((y - 1) * side + x_ - 1) * c + ch].abs() as f64 } else { 0.0 }
                };
                let d = around(&B, std::array::from_fn(|i| std::array::from_fn(|j| pixel(top + i, left + j))));
                let tap = |i: usize, j: usize| w[((k_ * 3 + i) * 3 + j) * c + ch].abs() as f64;
                let g = around(&G, std::array::from_fn(|i| std::array::from_fn(|j| tap(i, j))));
                sums.iter_mut()
                    .flatten()
                    .zip(d.iter().flatten().zip(g.iter().flatten()))
                    .for_each(|(s, (d, g))| *s += d * g);
            }
            let bound = around(&A, sums);
            for (y, x) in (0..16).map(|i| (top + i / 4, left + i % 4)).filter(|(y, x)| *y < side && *x < side) {
                let (at, bound) = ((y * side + x) * k + k_, (c + 17) as f64 * EPS * bound[y - top][x - left]);
                assert!(
                    (got[at] as f64 - want[at].0).abs() <= bound,
                    "{simd:?} {y} {x} {k_}: {} {:?}",
                    got[at],
                    want[at]
                );
            }
        }
    }
}

const DENSE: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (1, 3, 5),
    (2, 17, 16),
    (3, 64, 65),
    (5, 100, 33),
    (7, 1025, 19),
    (4, 2048, 16),
    (1, 2049, 37),
    (9, 5000, 50),
    (25, 300, 41),
    (70, 130, 25),
    (6, 2031, 1),
];

#[test]
fn dense_layers_equal_the_definition() {
    for (i, &(n, inputs, outputs)) in DENSE.iter().enumerate() {
        if cfg!(miri) && n * inputs * outputs > FEW {
            continue;
        }
        for whole in [true, false] {
            let x = values(i as u64 + 1, n * inputs, whole);
            let w = values(i as u64 + 100, outputs * inputs, whole);
            let bias = values(i as u64 + 200, outputs, whole);
            let dy = values(i as u64 + 300, n * outputs, whole);
            let mut y = vec![(0.0, 0.0); n * outputs];
            let mut dx = vec![(0.0, 0.0); n * inputs];
            let mut dw = vec![(0.0, 0.0); outputs * inputs];
            for b in 0..n {
                for o in 0..outputs {
                    for i in 0..inputs {
                        accumulate(&mut y[b * outputs + o], x[b * inputs + i], w[o * inputs + i]);
                        accumulate(&mut dx[b * inputs + i], dy[b * outputs + o], w[o * inputs + i]);
                        accumulate(&mut dw[o * inputs + i], dy[b * outputs + o], x[b * inputs + i]);
                    }
                }
            }
            let clipped = y.iter().enumerate().map(|(i, y)| {
                let b = bias[i % outputs] as f64;
                ((y.0 + b).max(0.0), y.1 + b.abs())
            });
            let clipped: Exact = clipped.collect();
            for simd in Simd::available() {
                let what = |s: &str| format!("dense {s} {simd:?} {n} {inputs} {outputs}");
                let got = guarded(y.len(), 0, |y, _| dense::fprop(simd, n, inputs, outputs, &x, &w, None, false, y));
                check(&what("fprop"), &got, &y, whole, inputs);
                let got =
                    guarded(y.len(), 0, |y, _| dense::fprop(simd, n, inputs, outputs, &x, &w, Some(&bias), true, y));
                check(&what("fprop+bias+relu"), &got, &clipped, whole, inputs + 1);
                let got = guarded(dx.len(), 0, |y, _| dense::dgrad(simd, n, inputs, outputs, &dy, &w, y));
                check(&what("dgrad"), &got, &dx, whole, outputs);
                let got = guarded(dw.len(), 0, |y, _| dense::wgrad(simd, n, inputs, outputs, &x, &dy, y));
                check(&what("wgrad"), &got, &dw, whole, n);
            }
        }
    }
}

/// In 16 bits: every number of each type is read as what it is, and a layer of them has the bits of the same in float32.
#[test]
fn weights_in_sixteen_bits_have_the_bits_of_their_numbers() {
    fn same<W: super::simd::Stored>(name: &str, stored: fn(u16) -> W, wide: fn(W) -> f32) {
        for (n, inputs, outputs) in [(1, 65, 5), (3, 2061, 9), (5, 4096, 4), (8, 16, 17)] {
            let x = values(1, n * inputs, false);
            let bias = values(2, outputs, false);
            // All finite numbers, subnormal ones among them, in turn.
            let finite = |i: &u16| wide(stored(*i)).is_finite();
            let w: Vec<W> =
                (0..=u16::MAX).filter(finite).cycle().step_by(257).take(inputs * outputs).map(stored).collect();
            let w32: Vec<f32> = w.iter().map(|w| wide(*w)).collect();
            for simd in Simd::available() {
                let of = |y: &mut [f32]| dense::fprop(simd, n, inputs, outputs, &x, &w, Some(&bias), false, y);
                let of32 = |y: &mut [f32]| dense::fprop(simd, n, inputs, outputs, &x, &w32, Some(&bias), false, y);
                let [got, want] =
                    [guarded(n * outputs, 0, |y, _| of(y)), guarded(n * outputs, 0, |y, _| of32(y))].map(|y| bits(&y));
                assert!(got == want, "{name} {simd:?} {n} {inputs} {outputs}");
            }
        }
    }
    same("bf16", half::bf16::from_bits, half::bf16::to_f32);
    same("f16", half::f16::from_bits, half::f16::to_f32);
}

#[test]
fn column_sums_equal_the_definition() {
    for (rows, cols) in [(1, 1), (3, 65), (130, 17), (5000, 64), (70000, 3), (2000, 257)] {
        for whole in [true, false] {
            let x = values(rows as u64, rows * cols, whole);
            let mut want = vec![(0.0, 0.0); cols];
            x.iter().enumerate().for_each(|(i, x)| accumulate(&mut want[i % cols], *x, 1.0));
            for simd in Simd::available() {
                let got =
                    guarded(cols, column_sums_scratch(rows, cols), |y, t| column_sums(simd, rows, cols, &x, y, t));
                check(&format!("sums {simd:?} {rows} {cols}"), &got, &want, whole, rows);
            }
        }
    }
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// Everything that may not depend on threads or level, for one convolution and one dense layer.
fn everything(simd: Simd, s: &ConvShape, dims: (usize, usize, usize)) -> Vec<Vec<u32>> {
    let x = values(1, s.n * s.h * s.w * s.c, false);
    let w = values(2, s.k * s.taps()[0] * s.taps()[1] * s.group_c(), false);
    let dy = values(3, s.n * s.p * s.q * s.k, false);
    let bias = values(4, s.k, false);
    let (n, inputs, outputs) = dims;
    let dense_x = values(5, n * inputs, false);
    let dense_w = values(6, inputs * outputs, false);
    let dense_dy = values(7, n * outputs, false);
    let rows = s.n * s.p * s.q;
    [
        guarded(dy.len(), conv::fprop_scratch(s), |y, t| conv::fprop(simd, s, &x, &w, Some(&bias), true, y, t)),
        guarded(x.len(), conv::dgrad_scratch(s), |y, t| conv::dgrad(simd, s, &dy, &w, y, t)),
        guarded(w.len(), conv::wgrad_scratch(s), |y, t| conv::wgrad(simd, s, &x, &dy, y, t)),
        guarded(s.k, conv::bias_grad_scratch(rows, s.k), |y, t| conv::bias_grad(simd, rows, s.k, &dy, y, t)),
        guarded(n * outputs, 0, |y, _| dense::fprop(simd, n, inputs, outputs, &dense_x, &dense_w, None, false, y)),
        guarded(n * inputs, 0, |y, _| dense::dgrad(simd, n, inputs, outputs, &dense_dy, &dense_w, y)),
        guarded(inputs * outputs, 0, |y, _| dense::wgrad(simd, n, inputs, outputs, &dense_x, &dense_dy, y)),
    ]
    .iter()
    .map(|v| bits(v))
    .collect()
}

#[test]
fn bits_depend_on_neither_threads_nor_vector_level() {
    let shapes = [
        ConvShape::new(&[3, 29, 31, 24], 70, Window::square(3, 1, 1), 1).unwrap(),
        ConvShape::new(&[2, 15, 14, 36], 54, Window { stride: [2, 1], ..Window::square(3, 1, 1) }, 3).unwrap(),
        ConvShape::new(&[2, 60, 60, 3], 64, Window::square(3, 1, 1), 1).unwrap(),
        ConvShape::new(&[5, 29, 31, 40], 70, Window::square(3, 1, 1), 1).unwrap(),
        ConvShape::new(&[3, 29, 31, 70], 70, Window::square(3, 1, 1), 70).unwrap(),
    ];
    for (s, dims) in shapes.iter().zip([(7, 5000, 150), (1, 3000, 77), (13, 2100, 40), (1, 1, 1), (1, 1, 1)]) {
        let fused = |l: &Simd| *l != Simd::PORTABLE || super::simd::PORTABLE_FMA;
        let mut first = None;
        for simd in Simd::available().into_iter().filter(fused) {
            for threads in [1, 2, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let got = pool.install(|| everything(simd, s, dims));
                let first = first.get_or_insert_with(|| got.clone());
                for (i, (a, b)) in first.iter().zip(&got).enumerate() {
                    assert!(a == b, "output {i} differs with {threads} threads, {simd:?}");
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_batch() {
    for simd in Simd::available() {
        let strided = Window { stride: [1, 2], ..Window::square(3, 1, 1) };
        let same = Window::square(3, 1, 1);
        for (c, window, groups) in [(20, same, 1), (20, strided, 1), (20, strided, 20), (36, same, 1)] {
            let all = ConvShape::new(&[7, 13, 11, c], 40, window, groups).unwrap();
            let one = ConvShape { n: 1, ..all };
            let x = values(1, all.n * all.h * all.w * all.c, false);
            let w = values(2, all.k * 9 * all.group_c(), false);
            let dy = values(3, all.n * all.p * all.q * all.k, false);
            let fprop = |s: &ConvShape, x: &[f32]| {
                guarded(s.n * s.p * s.q * s.k, conv::fprop_scratch(s), |y, t| {
                    conv::fprop(simd, s, x, &w, None, false, y, t)
                })
            };
            let dgrad = |s: &ConvShape, dy: &[f32]| {
                guarded(s.n * s.h * s.w * s.c, conv::dgrad_scratch(s), |y, t| conv::dgrad(simd, s, dy, &w, y, t))
            };
            let (y, dx) = (fprop(&all, &x), dgrad(&all, &dy));
            let (xs, ys) = (x.len() / 7, dy.len() / 7);
            for i in 0..7 {
                assert_eq!(bits(&fprop(&one, &x[i * xs..][..xs])), bits(&y[i * ys..][..ys]));
                assert_eq!(bits(&dgrad(&one, &dy[i * ys..][..ys])), bits(&dx[i * xs..][..xs]));
            }
        }
        let (n, inputs, outputs) = (7, 4100, 70);
        let x = values(1, n * inputs, false);
        let w = values(2, outputs * inputs, false);
        let dy = values(3, n * outputs, false);
        let fprop = |n: usize, x: &[f32]| {
            guarded(n * outputs, 0, |y, _| dense::fprop(simd, n, inputs, outputs, x, &w, None, false, y))
        };
        let dgrad =
            |n: usize, dy: &[f32]| guarded(n * inputs, 0, |y, _| dense::dgrad(simd, n, inputs, outputs, dy, &w, y));
        let (y, dx) = (fprop(n, &x), dgrad(n, &dy));
        for i in 0..n {
            assert_eq!(bits(&fprop(1, &x[i * inputs..][..inputs])), bits(&y[i * outputs..][..outputs]));
            assert_eq!(bits(&dgrad(1, &dy[i * outputs..][..outputs])), bits(&dx[i * inputs..][..inputs]));
        }
    }
}

/// So many tiles that a task has several blocks of them and goes on with the filters that it has turned.
#[test]
fn bits_do_not_depend_on_how_many_blocks_share_filters() {
    let all = ConvShape::new(&[112, 20, 20, 32], 32, Window::square(3, 1, 1), 1).unwrap();
    let one = ConvShape { n: 1, ..all };
    let (size, w) = (20 * 20 * 32, values(1, 32 * 9 * 32, false));
    let x = values(2, 112 * size, false);
    for simd in Simd::available() {
        let of = |s: &ConvShape, x: &[f32]| {
            guarded(s.n * size, conv::fprop_scratch(s), |y, t| conv::fprop(simd, s, x, &w, None, false, y, t))
        };
        let y = of(&all, &x);
        for i in [0, 3, 50, 111] {
            let part = i * size..(i + 1) * size;
            assert_eq!(bits(&of(&one, &x[part.clone()])), bits(&y[part]), "{simd:?} {i}");
        }
    }
}

/// Four vectors of channels at a time, one, a part of one: a channel does not know in which company it is.
#[test]
fn batch_norm_takes_each_channel_alone() {
    let (images, hw, c) = (3, 37, 83);
    let (x, dy) = (values(1, images * hw * c, false), values(2, images * hw * c, false));
    let (gamma, beta, rows) = (values(3, c, false), values(4, c, false), [1.0, 0.0, 2.0]);
    // Of the channels from `first` on: mean, variance, y, dx, dgamma, dbeta.
    let run = |simd, first: usize, count: usize| {
        let some = |v: &[f32]| v.chunks_exact(c).flat_map(|v| v[first..first + count].to_vec()).collect::<Vec<_>>();
        let [x, dy, gamma, beta] = [&x, &dy, &gamma, &beta].map(|v| some(v));
        let e = Extents { n: images, hw, c: count };
        let mut scratch = vec![0.0; e.scratch()];
        let [mut mean, mut var, mut dgamma, mut dbeta] = [count; 4].map(Guarded::new);
        let [mut y, mut dx] = [x.len(); 2].map(Guarded::new);
        norm::moments(simd, e, &x, &rows, mean.get(), var.get(), &mut scratch);
        let (mean, var) = (mean.done(), var.done());
        let of = Channels { mean: &mean, var: &var, gamma: &gamma, eps: 1e-3 };
        norm::normalize(simd, e, &x, of, &beta, true, y.get(), &mut scratch);
        let outs = [dx.get(), dgamma.get(), dbeta.get()];
        norm::grad(simd, e, &x, of, &dy, Some(&rows), None, outs, &mut scratch);
        [mean, var, y.done(), dx.done(), dgamma.done(), dbeta.done()]
    };
    let portable = run(Simd::PORTABLE, 0, c);
    for simd in Simd::available() {
        let all = run(simd, 0, c);
        assert_eq!(all.each_ref().map(|v| bits(v)), portable.each_ref().map(|v| bits(v)), "{simd:?}");
        for channel in [0, 15, 16, 63, 64, 79, 80, 82] {
            for (all, alone) in all.iter().zip(run(simd, channel, 1)) {
                let own: Vec<f32> = all.iter().skip(channel).step_by(c).copied().collect();
                assert_eq!(bits(&own), bits(&alone), "{simd:?}, channel {channel}");
            }
        }
    }
}

#[test]
fn nan_is_not_hidden_by_relu() {
    let s = ConvShape::new(&[1, 3, 3, 2], 3, Window::square(3, 1, 1), 1).unwrap();
    for simd in Simd::available() {
        let mut x = vec![1.0; 18];
        x[8] = f32::NAN;
        let w = vec![0.5; 54];
        let y = guarded(27, conv::fprop_scratch(&s), |y, t| conv::fprop(simd, &s, &x, &w, None, true, y, t));
        assert!(y.iter().all(|y| y.is_nan()), "{simd:?}");
        let y = guarded(3, 0, |y, _| dense::fprop(simd, 1, 18, 3, &x, &w, None, true, y));
        assert!(y.iter().all(|y| y.is_nan()), "{simd:?}");
    }
}

/// Whatever part of a tile it lies in: what is not finite is not finite in any output that sees it.
#[test]
fn transforms_hide_nothing() {
    let s = ConvShape::new(&[1, 8, 8, 32], 32, Window::square(3, 1, 1), 1).unwrap();
    let w = values(1, 32 * 9 * 32, false);
    for (simd, bad) in Simd::available().into_iter().flat_map(|s| [(s, f32::NAN), (s, f32::INFINITY)]) {
        for pixel in 0..64 {
            let mut x = values(2, 64 * 32, false);
            x[pixel * 32 + 7] = bad;
            let y = guarded(64 * 32, conv::fprop_scratch(&s), |y, t| conv::fprop(simd, &s, &x, &w, None, false, y, t));
            for at in (0usize..64).filter(|at| (at / 8).abs_diff(pixel / 8) <= 1 && (at % 8).abs_diff(pixel % 8) <= 1) {
                assert!(
                    y[at * 32..][..32].iter().all(|y| !y.is_finite()),
                    "{simd:?}: {bad} in {pixel} is hidden in {at}"
                );
            }
        }
    }
}

/// The control of `tests/soundness.sh`: a read behind the end of an input, which a sanitizer or Miri must stop.
#[test]
#[ignore = "reads memory that is not its own"]
fn an_access_out_of_bounds() {
    use super::simd::{Portable, V16};
    let x = std::hint::black_box(vec![1.0; 15]);
    // SAFETY: there is none: sixteen elements of fifteen.
    std::hint::black_box(unsafe { Portable::load(x.as_ptr()) }.sum());
}
