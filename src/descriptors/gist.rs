/*! GIST, the spatial envelope (Oliva & Torralba 2001), as Douze et al. 2009 compute it (LEAR's `gist.c`, from which nothing is
taken: this is the formula): means of 32 oriented band-pass filters' magnitudes over 4 x 4 blocks of a square of grey.

A filter is given by what it does to each frequency, so every response is a transform there and back. Of the low pass before
them (a Gaussian of frequencies, 4.8 wide) only some 27 frequencies a direction let anything through: it is four products with
their cosines and sines, for any length. Weights below [`NOTHING`] count as none: 1e-12 of a response. */

use super::fourier::{Four, LANES, Transform};
use std::f64::consts::{LN_2, PI, TAU};

/// Blocks a direction.
const BLOCKS: usize = 4;
const SCALES: usize = 4;
const ORIENTATIONS: usize = 8;
/// Numbers of a picture.
pub const WIDTH: usize = SCALES * ORIENTATIONS * BLOCKS * BLOCKS;
/// Sides are whole multiples of this, so that four rows never belong to two blocks.
pub const STEP: usize = LANES * BLOCKS;
/// The square of Kim et al. is not given; Oliva & Torralba's is of 256.
pub const SIDE: usize = 256;
/// Pixels that the picture is continued by, mirrored, before the low pass.
const PAD: usize = 5;
/// Weights below this count as none.
const NOTHING: f64 = 1e-15;

/// What is the same for every picture of one side.
pub struct Gist {
    side: usize,
    transform: Transform,
    filters: Vec<Vec<Panel>>,
    /// [frequencies, side + 2 PAD], and its transpose.
    waves: [Vec<f64>; 2],
}

/// A filter's weights for four rows of frequencies.
struct Panel {
    /// The first row / 4.
    group: usize,
    /// [columns], each of four rows.
    weights: Vec<[f64; LANES]>,
}

impl Gist {
    /// `side` is a multiple of [`STEP`].
    pub fn new(side: usize) -> Self {
        assert!(side > 0 && side.is_multiple_of(STEP), "a multiple of {STEP}");
        let filter = |i: usize| filter(side, i / ORIENTATIONS, i % ORIENTATIONS);
        let filters = (0..SCALES * ORIENTATIONS).map(filter).collect();
        Self { side, transform: Transform::new(side), filters, waves: waves(side + 2 * PAD) }
    }

    /// [`WIDTH`] numbers of a picture of grey levels [side, side]: by scale, orientation, column of blocks, row of blocks.
    pub fn of(&self, grey: &[u8]) -> Vec<f64> {
        assert_eq!(grey.len(), self.side * self.side);
        let picture = self.prefiltered(grey);
        let (n, groups) = (self.side, self.side / LANES);
        let mut stage = Stage::new(self);
        // The picture's frequencies, conjugate, by groups of four rows.
        for group in 0..groups {
            let row = |i: usize| &picture[(group * LANES + i) * n..];
            let pixel = |x: usize| Four { re: [0, 1, 2, 3].map(|i| row(i)[x]), im: [0.0; LANES] };
            stage.rows(group, (0..n).map(pixel));
        }
        // The columns come out four at a time, which are turned round to lie in rows.
        let mut frequencies = vec![Four::default(); n * n / LANES];
        let all: Vec<usize> = (0..groups).collect();
        for four in 0..groups {
            for (y, z) in stage.columns(&all, four).iter().enumerate() {
                for i in 0..LANES {
                    let to = &mut frequencies[y / LANES * n + four * LANES + i];
                    (to.re[y % LANES], to.im[y % LANES]) = (z.re[i], z.im[i]);
                }
            }
        }
        let mut means = vec![0.0; WIDTH];
        let (block, whole) = (n / BLOCKS, (n * n) as f64);
        for (panels, means) in self.filters.iter().zip(means.chunks_exact_mut(BLOCKS * BLOCKS)) {
            for p in panels {
                let row = frequencies[p.group * n..].iter().zip(&p.weights);
                let passed = |(f, w): (&Four, &[f64; LANES])| Four {
                    re: [0, 1, 2, 3].map(|i| f.re[i] * w[i]),
                    im: [0, 1, 2, 3].map(|i| -f.im[i] * w[i]),
                };
                stage.rows(p.group, row.map(passed));
            }
            let used: Vec<usize> = panels.iter().map(|p| p.group).collect();
            for four in 0..groups {
                let column = four * LANES / block * BLOCKS;
                for (row, z) in stage.columns(&used, four).chunks_exact(block).enumerate() {
                    let mut sums = [0.0; LANES];
                    for z in z {
                        (0..LANES).for_each(|i| sums[i] += (z.re[i] * z.re[i] + z.im[i] * z.im[i]).sqrt());
                    }
                    means[column + row] += sums.iter().sum::<f64>();
                }
            }
            means.iter_mut().for_each(|m| *m /= whole * (block * block) as f64);
        }
        means
    }

    /// The logarithm without its low pass, divided by the local deviation: [side, side].
    pub fn prefiltered(&self, grey: &[u8]) -> Vec<f64> {
        let (side, n) = (self.side, self.side + 2 * PAD);
        let logs: Vec<f64> = (0..=255u8).map(|g| (f64::from(g) + 1.0).ln()).collect();
        let mirrored = |i: usize| match i.checked_sub(PAD) {
            None => PAD - 1 - i,
            Some(i) if i >= side => 2 * side - 1 - i,
            Some(i) => i,
        };
        let columns: Vec<usize> = (0..n).map(mirrored).collect();
        let line = |y: usize| columns.iter().map(move |&x| (y, x));
        let mut y: Vec<f64> =
            (0..n).map(mirrored).flat_map(line).map(|(y, x)| logs[grey[y * side + x] as usize]).collect();
        let low = self.low_pass(&y, n);
        y.iter_mut().zip(low).for_each(|(y, low)| *y -= low);
        let squares: Vec<f64> = y.iter().map(|y| y * y).collect();
        let power = self.low_pass(&squares, n);
        let inside = |row: usize| (row * n + PAD)..(row * n + PAD + side);
        let one = |i: usize| y[i] / (0.2 + power[i].abs().sqrt());
        (PAD..PAD + side).flat_map(inside).map(one).collect()
    }

    fn low_pass(&self, x: &[f64], n: usize) -> Vec<f64> {
        let [waves, transposed] = &self.waves;
        let k = waves.len() / n;
        let inner = product(&product(waves, x, n), transposed, n);
        product(transposed, &product(&inner, waves, k), k)
    }
}

/// Sides of a square that is transformed first along rows, then along columns.
struct Stage<'a> {
    gist: &'a Gist,
    /// [groups of rows, columns], by rows transformed.
    rows: Vec<Four>,
    line: Vec<Four>,
    spare: Vec<Four>,
}

impl<'a> Stage<'a> {
    fn new(gist: &'a Gist) -> Self {
        let n = gist.side;
        let [line, spare] = [(); 2].map(|()| vec![Four::default(); n]);
        Self { gist, rows: vec![Four::default(); n * n / LANES], line, spare }
    }

    /// Transforms four rows.
    fn rows(&mut self, group: usize, row: impl Iterator<Item = Four>) {
        let n = self.gist.side;
        self.line.iter_mut().zip(row).for_each(|(to, x)| *to = x);
        self.gist.transform.run(&mut self.line, &mut self.spare);
        self.rows[group * n..(group + 1) * n].copy_from_slice(&self.line);
    }

    /// The transform of four columns over the rows of some groups, the others being zero.
    fn columns(&mut self, groups: &[usize], four: usize) -> &[Four] {
        let n = self.gist.side;
        self.line.fill(Four::default());
        for &g in groups {
            let from = &self.rows[g * n + four * LANES..][..LANES];
            for (i, to) in self.line[g * LANES..][..LANES].iter_mut().enumerate() {
                *to = Four { re: [0, 1, 2, 3].map(|j| from[j].re[i]), im: [0, 1, 2, 3].map(|j| from[j].im[i]) };
            }
        }
        self.gist.transform.run(&mut self.line, &mut self.spare);
        &self.line
    }
}

/// Frequencies of a transform of `n`, from 0 up and then from -n / 2.
fn frequency(i: usize, n: usize) -> f64 {
    if i < n.div_ceil(2) { i as f64 } else { i as f64 - n as f64 }
}

/// One transfer function, without the groups of rows that it lets nothing through of.
fn filter(n: usize, scale: usize, orientation: usize) -> Vec<Panel> {
    let f0 = 0.3 / 1.85f64.powi(scale as i32) * n as f64;
    let weight = |x: usize, y: usize| {
        let (fx, fy) = (frequency(x, n), frequency(y, n));
        let mut angle = fy.atan2(fx) + PI / ORIENTATIONS as f64 * orientation as f64;
        angle += if angle < -PI {
            TAU
        } else if angle > PI {
            -TAU
        } else {
            0.0
        };
        let off = fx.hypot(fy) / f0 - 1.0;
        (-10.0 * 0.35 * off * off - TAU * angle * angle).exp()
    };
    let panel = |group: usize| Panel {
        group,
        weights: (0..n).map(|x| [0, 1, 2, 3].map(|i| weight(x, group * LANES + i))).collect(),
    };
    let counts = |p: &Panel| p.weights.iter().flatten().any(|w| *w >= NOTHING);
    (0..n / LANES).map(panel).filter(counts).collect()
}

/// Rows b with sum_b b_y b_x the low pass exp(-f^2 / s^2), s = 4 / sqrt(ln 2), of an even length: [frequencies, n], and its
/// transpose.
fn waves(n: usize) -> [Vec<f64>; 2] {
    let spread = 16.0 / LN_2;
    let mut rows = vec![];
    for f in 0..=n / 2 {
        let passed = (-((f * f) as f64) / spread).exp();
        if passed < NOTHING {
            break;
        }
        // 0 and n / 2 are one frequency each, the others two, +f and -f.
        let single = f == 0 || 2 * f == n;
        let size = (if single { passed } else { 2.0 * passed } / n as f64).sqrt();
        let at = |i: usize| TAU * (f * i % n) as f64 / n as f64;
        rows.extend((0..n).map(|i| size * at(i).cos()));
        if !single {
            rows.extend((0..n).map(|i| size * at(i).sin()));
        }
    }
    let k = rows.len() / n;
    let transposed = (0..n).flat_map(|i| (0..k).map(move |j| (j, i))).map(|(j, i)| rows[j * n + i]).collect();
    [rows, transposed]
}

/// [m, k] times [k, n].
fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let (m, n) = (a.len() / k, b.len() / k);
    let mut out = vec![0.0; m * n];
    for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        // Four rows at a time: a sum is read and written a quarter as often.
        for (a, b) in a.chunks(4).zip(b.chunks(4 * n)) {
            if let ([a0, a1, a2, a3], Some((b0, rest))) = (a, b.split_at_checked(n)) {
                let (b1, rest) = rest.split_at(n);
                let (b2, b3) = rest.split_at(n);
                for ((((o, b0), b1), b2), b3) in out.iter_mut().zip(b0).zip(b1).zip(b2).zip(b3) {
                    *o += a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3;
                }
            } else {
                for (a, b) in a.iter().zip(b.chunks_exact(n)) {
                    out.iter_mut().zip(b).for_each(|(o, b)| *o += a * b);
                }
            }
        }
    }
    out
}
