/*! Local binary patterns (Ojala et al. 2002): each pixel's eight neighbours, 1 where they are as bright as it or brighter, read as
a ring. The 58 rings with at most two changes between neighbours have a bin each, all others share one; the numbering is that
of scikit-image's `nri_uniform`: 0 no neighbour, 1 + 8 (n - 1) + rotation of n neighbours, 57 all, 58 not uniform.

On the circle of radius 1 a diagonal neighbour lies between four pixels. Whether it reaches its centre in a flat place is a
matter of rounding, so the interpolation is scikit-image's, operation by operation. */

use serde::{Deserialize, Serialize};

/// Numbers of a picture.
pub const WIDTH: usize = 59;
const NEIGHBOURS: usize = 8;
/// Where the neighbours are, from the right counterclockwise: row and column.
const AROUND: [(i32, i32); NEIGHBOURS] = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)];
/// sin and cos of 45 degrees to the five decimals that scikit-image keeps.
const DIAGONAL: f64 = 70_711.0 / 100_000.0;

/// Which neighbours are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Eight points on the circle of radius 1, between pixels; what lies outside the picture is black. All pixels count.
    #[default]
    Circle,
    /// The eight pixels around; only pixels that have them all count.
    Square,
}

/// Parts of the pixels in each of [`WIDTH`] bins, of grey levels [h, w] of at least 3 x 3.
pub fn histogram(grey: &[u8], w: usize, form: Form) -> Vec<f64> {
    let (h, bins) = (grey.len() / w, bins());
    let mut counts = [0u64; WIDTH];
    match form {
        Form::Square => {
            for (y, x) in (1..h - 1).flat_map(|y| (1..w - 1).map(move |x| (y, x))) {
                let centre = grey[y * w + x];
                let bit = |(dy, dx): (i32, i32)| {
                    let at = (y as i32 + dy) as usize * w + (x as i32 + dx) as usize;
                    grey[at] >= centre
                };
                counts[bins[ring(AROUND.map(bit))]] += 1;
            }
        }
        Form::Circle => {
            // A frame of black, so that every point lies between four pixels.
            let wide = w + 2;
            let mut framed = vec![0.0; wide * (h + 2)];
            for (row, to) in grey.chunks_exact(w).zip(framed.chunks_exact_mut(wide).skip(1)) {
                to[1..=w].iter_mut().zip(row).for_each(|(to, g)| *to = f64::from(*g));
            }
            let columns: Vec<[Between; 2]> = (0..w).map(diagonal).collect();
            for y in 0..h {
                let rows = diagonal(y);
                for (x, columns) in columns.iter().enumerate() {
                    let centre = framed[(y + 1) * wide + x + 1];
                    let bit = |(dy, dx): (i32, i32)| {
                        if dy == 0 || dx == 0 {
                            let at = (y as i32 + 1 + dy) as usize * wide + (x as i32 + 1 + dx) as usize;
                            return framed[at] >= centre;
                        }
                        let (r, c) = (&rows[usize::from(dy > 0)], &columns[usize::from(dx > 0)]);
                        let along = |row: usize| {
                            let at = row * wide + c.first;
                            (1.0 - c.part) * framed[at] + c.part * framed[at + 1]
                        };
                        let (top, bottom) = (along(r.first), along(r.first + 1));
                        (1.0 - r.part) * top + r.part * bottom - centre >= 0.0
                    };
                    counts[bins[ring(AROUND.map(bit))]] += 1;
                }
            }
        }
    }
    let all = counts.iter().sum::<u64>() as f64;
    counts.iter().map(|c| *c as f64 / all).collect()
}

/// A place between two rows or columns of the framed picture.
struct Between {
    first: usize,
    /// How much the second counts.
    part: f64,
}

/// The places before and after row or column `i` that diagonal neighbours have.
fn diagonal(i: usize) -> [Between; 2] {
    [-DIAGONAL, DIAGONAL].map(|by| {
        let at = i as f64 + by;
        Between { first: (at.floor() + 1.0) as usize, part: at - at.floor() }
    })
}

fn ring(bits: [bool; NEIGHBOURS]) -> usize {
    (0..NEIGHBOURS).map(|i| usize::from(bits[i]) << i).sum()
}

/// The bin of each of the 256 rings.
fn bins() -> [usize; 256] {
    std::array::from_fn(|ring| {
        let bit = |i: usize| ring >> i & 1;
        let ones = (0..NEIGHBOURS).map(bit).sum::<usize>();
        // Without the step from the last to the first, as scikit-image counts.
        let changes = (1..NEIGHBOURS).filter(|&i| bit(i) != bit(i - 1)).count();
        let first = |value: usize| (0..NEIGHBOURS).find(|&i| bit(i) == value).unwrap_or(0);
        let rotation = || if first(1) == 0 { ones - first(0) } else { NEIGHBOURS - first(1) };
        match (changes, ones) {
            (3.., _) => WIDTH - 1,
            (_, 0) => 0,
            (_, NEIGHBOURS) => WIDTH - 2,
            _ => 1 + (ones - 1) * NEIGHBOURS + rotation(),
        }
    })
}
