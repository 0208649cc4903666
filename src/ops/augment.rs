/*! Augmentation: each picture of a batch under one random affine map, with the conventions of Keras's
`ImageDataGenerator`. What a map is drawn from is a function of (seed, step, row of the data set) and of nothing else, so a
resumed run sees what it would have seen, wherever in its batch a picture lies.

Angles are drawn in float32 in one order of operations, without fused ones, and become a map of whole numbers
([`Affine`]); pixels are means with weights of whole 256ths. Every device has the same bits. */

use super::{Bound, Case, Draw, Family, dropout};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches};
use crate::launch::gpu::{CudaStruct, Divisor, Kernel, count};
use crate::launch::{Launch, Simd};
use crate::par;
use crate::rng::{Stream, block, uniform};
use crate::shape::{DType, Type};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

crate::cuda_struct! {
    /// Pixels of a picture and its side, and [`Augment`].
    pub struct Augmentation {
        pixels: u32,
        side: Divisor,
        stream: u32,
        rotation: f32,
        shift: [f32; 2],
        shear: f32,
        zoom: f32,
        flip: [u32; 2],
    }
}

static AUGMENT: Kernel = Kernel::new("augment.cu", "image_augment", 4, Augmentation::TEXT);

/// y [N,S,S,3] = pictures x [N,S,S,3], each turned, shifted, sheared, zoomed and flipped by what is drawn for it; bytes.
/// Between pixels it is bilinear, and pixels at the edge go on outside. Inputs x, rows U32 [N], and the generator's state.
/// Ranges of zero leave every byte as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Largest angle in degrees, either way.
    pub rotation: f32,
    /// Farthest shift as a part of the side, either way: along x, along y.
    pub shift: [f32; 2],
    /// Largest angle in degrees, either way, by which the y axis leans.
    pub shear: f32,
    /// x and y are scaled by factors of their own from 1 - zoom to 1 + zoom.
    pub zoom: f32,
    /// Whether half of the pictures are mirrored: left to right, upside down.
    pub flip: [bool; 2],
}

/// What one picture goes through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Degrees.
    pub rotation: f32,
    pub shear: f32,
    /// Pixels, along x and along y, as all that follow.
    pub shift: [f32; 2],
    pub zoom: [f32; 2],
    pub flip: [bool; 2],
}

/// Where pixel (x, y) comes from, in 65536ths of a pixel: along x and along y, each [a, b, k] for a x + b y + k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Affine {
    x: [i32; 3],
    y: [i32; 3],
}

/// The largest side for which an [`Affine`] counts in 32 bits.
const MAX_SIDE: usize = 4096;

/// The sine and cosine of an angle in degrees, good to 1e-6; those of quarter turns are exact.
fn turn(degrees: f32) -> [f32; 2] {
    let quarters = (degrees * (1.0 / 90.0)).round_ties_even();
    let t = (degrees - quarters * 90.0) * 0.017_453_292;
    let t2 = t * t;
    // Taylor's series, for at most an eighth of a turn.
    let odd = -1.0 / 6.0 + t2 * (1.0 / 120.0 + t2 * (-1.0 / 5040.0 + t2 * (1.0 / 362_880.0)));
    let even = -1.0 / 2.0 + t2 * (1.0 / 24.0 + t2 * (-1.0 / 720.0 + t2 * (1.0 / 40320.0)));
    let (s, c) = (t + t * (t2 * odd), 1.0 + t2 * even);
    match quarters as i32 & 3 {
        0 => [s, c],
        1 => [c, -s],
        2 => [-s, -c],
        _ => [-c, s],
    }
}

impl Change {
    /// Keras's product: rotation, shift, shear, zoom about the centre of the picture, then the flips.
    fn affine(&self, side: usize) -> Affine {
        self.affine_of([side; 2])
    }

    /// The same of pictures [h, w], of which the op has none: Keras then takes (h - 1) / 2 for the x of the centre, and
    /// (w - 1) / 2 for its y.
    fn affine_of(&self, [h, w]: [usize; 2]) -> Affine {
        let ([s, c], [s_lean, c_lean]) = (turn(self.rotation), turn(self.rotation + self.shear));
        let whole = |x: f32| (x * 65536.0).round_ties_even() as i32;
        let [tx, ty] = self.shift;
        let [zx, zy] = self.zoom;
        let (high, wide) = (h as i32 - 1, w as i32 - 1);
        let row = |along_x: f32, along_y: f32, shift: f32, [own_x, own_y]: [i32; 2]| {
            let (mut a, mut b) = (whole(zx * along_x), whole(zy * along_y));
            // The centre stays but for the shift; then the picture is read from its other end.
            let mut k = ((high * (own_x - a) + wide * (own_y - b)) >> 1) + whole(shift);
            if self.flip[0] {
                (a, k) = (-a, k + a * wide);
            }
            if self.flip[1] {
                (b, k) = (-b, k + b * high);
            }
            [a, b, k]
        };
        Affine { x: row(c, -s_lean, c * tx - s * ty, [65536, 0]), y: row(s, c_lean, s * tx + c * ty, [0, 65536]) }
    }

    /// A picture [h, w, channels] of any numbers under this change, not rounded: for comparison with Keras.
    pub fn apply(&self, x: &[f64], [h, w]: [usize; 2], channels: usize) -> Vec<f64> {
        let map = self.affine_of([h, w]);
        let one = |at: usize| {
            let (i, j, ch) = (at / channels / w, at / channels % w, at % channels);
            let ([left, right], along) = Affine::around(map.x, j, i, w);
            let ([top, bottom], down) = Affine::around(map.y, j, i, h);
            between(along, down, |below, beyond| {
                let (row, column) = (if below { bottom } else { top }, if beyond { right } else { left });
                x[(row * w + column) * channels + ch]
            })
        };
        (0..h * w * channels).map(one).collect()
    }
}

/// Bilinear between four pixels, `x(below, right)`, by weights in 256ths.
fn between(along: i32, down: i32, x: impl Fn(bool, bool) -> f64) -> f64 {
    let (along, down) = (along as f64 / 256.0, down as f64 / 256.0);
    let row = |below| (1.0 - along) * x(below, false) + along * x(below, true);
    (1.0 - down) * row(false) + down * row(true)
}

impl Affine {
    /// The two positions along an axis that output pixel (x, y) lies between, and the weight of the second in 256ths.
    fn around([a, b, k]: [i32; 3], x: usize, y: usize, side: usize) -> ([usize; 2], i32) {
        let at = (a * x as i32 + b * y as i32 + k).clamp(0, (side as i32 - 1) << 16);
        let at = (at + 128) >> 8;
        let low = (at >> 8) as usize;
        ([low, (low + 1).min(side - 1)], at & 255)
    }
}

impl FromStr for Augment {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut all = Self::default();
        for part in text.split(',') {
            let bad = || {
                Error::usage(format!("`{part}` is not an augmentation")).fix(
                    "write rotation=DEGREES, shift=PART, shift-x=PART, shift-y=PART, shear=DEGREES, zoom=PART, flip, flip-y, \
                     with commas between them",
                )
            };
            let (name, range) = match part.split_once('=') {
                Some((name, range)) => (name, Some(range.parse().map_err(|_| bad())?)),
                None => (part, None),
            };
            match (name, range) {
                ("rotation", Some(range)) => all.rotation = range,
                ("shift", Some(range)) => all.shift = [range; 2],
                ("shift-x", Some(range)) => all.shift[0] = range,
                ("shift-y", Some(range)) => all.shift[1] = range,
                ("shear", Some(range)) => all.shear = range,
                ("zoom", Some(range)) => all.zoom = range,
                ("flip", None) => all.flip[0] = true,
                ("flip-y", None) => all.flip[1] = true,
                _ => return Err(bad()),
            }
        }
        all.check()?;
        Ok(all)
    }
}

impl Augment {
    /// What is drawn for a row of the data set.
    pub fn change(&self, state: [u32; 3], row: u32, side: usize) -> Change {
        let seed = state[0] as u64 | (state[1] as u64) << 32;
        let words = [0, 1].map(|half| block(seed, Stream::Augment, state[2], 2 * row as u64 + half));
        // In [-1, 1), exactly.
        let [rotation, along_x, along_y, shear] = words[0].map(|w| uniform(w) * 2.0 - 1.0);
        let [wide, high, ..] = words[1].map(|w| uniform(w) * 2.0 - 1.0);
        let heads = |i: usize| words[1][i] >> 31 == 1;
        Change {
            rotation: self.rotation * rotation,
            shear: self.shear * shear,
            shift: [self.shift[0] * side as f32 * along_x, self.shift[1] * side as f32 * along_y],
            zoom: [1.0 + self.zoom * wide, 1.0 + self.zoom * high],
            flip: [self.flip[0] && heads(2), self.flip[1] && heads(3)],
        }
    }

    /// Refuses ranges that make no picture.
    pub fn check(&self) -> Result<()> {
        let [x, y] = self.shift;
        let within = [(self.rotation, 180.0), (x, 1.0), (y, 1.0), (self.shear, 89.0), (self.zoom, 0.99)];
        if within.iter().all(|(range, most)| (0.0..=*most).contains(range)) {
            return Ok(());
        }
        Err(Error::usage("rotations go to 180 degrees, shifts to 1, shears to 89 degrees and zooms to 0.99, from 0 up"))
    }
}

impl Op for Augment {
    fn describe(&self) -> Description {
        Description::of("image.augment")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        self.check()?;
        match (ins[0].dtype, ins[0].dims()) {
            (DType::U8, &[n, side, wide, 3])
                if side == wide
                    && (1..=MAX_SIDE).contains(&side)
                    && ins[1..] == [Type::new(DType::U32, &[n]), dropout::state_type()] =>
            {
                Ok(vec![ins[0]])
            }
            _ => Err(Error::job("u8 pictures [N,S,S,3], their rows (U32 [N]) and the generator's state are needed")),
        }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let (side, state) = (io.ins[0].dims()[1], [0, 1, 2].map(|i| ins[2][i] as u32));
        for (at, y) in outs[0].iter_mut().enumerate() {
            let (n, i, j, ch) = (at / 3 / side / side, at / 3 / side % side, at / 3 % side, at % 3);
            let map = self.change(state, ins[1][n] as u32, side).affine(side);
            let ([left, right], along) = Affine::around(map.x, j, i, side);
            let ([top, bottom], down) = Affine::around(map.y, j, i, side);
            let x = |below: bool, beyond: bool| {
                let (a, b) = (if below { bottom } else { top }, if beyond { right } else { left });
                ins[0][((n * side + a) * side + b) * 3 + ch]
            };
            // No rounding until here.
            *y = (between(along, down, x) + 0.5).floor();
        }
    }
    /// Bytes have no gradient.
    fn grad(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None; 3])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, n, side) = (*self, io.ins[0].dims()[0], io.ins[0].dims()[1]);
        host_launches(self, io, group, 0, move |h| {
            let (x, rows) = (h.input::<u8>(0), h.input::<u32>(1));
            let state: [u32; 3] = h.input(2)[..3].try_into().expect("seed and step");
            par::rows_mut(h.output::<u8>(0), side * 3, n * side, |line, y| {
                let (n, i) = (line / side, line % side);
                let map = op.change(state, rows[n], side).affine(side);
                let x = &x[n * side * side * 3..][..side * side * 3];
                for (j, y) in y.chunks_exact_mut(3).enumerate() {
                    let ([left, right], along) = Affine::around(map.x, j, i, side);
                    let ([top, bottom], down) = Affine::around(map.y, j, i, side);
                    let pixel = |a: usize, b: usize| &x[(a * side + b) * 3..][..3];
                    let (x0, x1) = (pixel(top, left), pixel(top, right));
                    let (x2, x3) = (pixel(bottom, left), pixel(bottom, right));
                    let mix = |a: i32, b: i32, part: i32| a * (256 - part) + b * part;
                    for (ch, y) in y.iter_mut().enumerate() {
                        let above = mix(x0[ch] as i32, x1[ch] as i32, along);
                        let below = mix(x2[ch] as i32, x3[ch] as i32, along);
                        *y = ((mix(above, below, down) + 32768) >> 16) as u8;
                    }
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let &[n, side, ..] = io.ins[0].dims() else { unreachable!("checked by infer") };
        let args = Augmentation {
            pixels: count(side * side),
            side: Divisor::new(side),
            stream: Stream::Augment.word(),
            rotation: self.rotation,
            shift: self.shift.map(|part| part * side as f32),
            shear: self.shear,
            zoom: self.zoom,
            flip: self.flip.map(u32::from),
        };
        let grid = [(side * side).div_ceil(AUGMENT.threads as usize), n];
        gpu.call(&AUGMENT, &[], grid, &[In(0), In(1), In(2), Out(0)], args).done()
    }
    /// Bytes of a picture.
    fn counted(&self, io: &Io) -> usize {
        io.ins[0].row()
    }
}

pub const FAMILY: Family = Family { name: "augment", ops: &["image.augment"], kernels: &[&AUGMENT], fuse: &[], cases };

fn cases() -> Vec<Case> {
    let none = Augment::default();
    let every = Augment { rotation: 80.0, shift: [0.2, 0.1], shear: 12.0, zoom: 0.2, flip: [true, true] };
    let wild = Augment { rotation: 180.0, shift: [1.0, 1.0], shear: 89.0, zoom: 0.99, flip: [true, false] };
    let of = |(op, n, side): (Augment, usize, usize)| {
        let ins = [Type::new(DType::U8, &[n, side, side, 3]), Type::new(DType::U32, &[n]), dropout::state_type()];
        let case = Case::new(format!("{op:?} x {n}x{side}"), op, &ins, &[], Bound::Exact);
        case.draw(1, Draw::Below(70_000)).draw(2, Draw::Below(1000))
    };
    let slight = Augment { rotation: 15.0, shift: [0.1, 0.1], shear: 5.0, zoom: 0.1, flip: [true, false] };
    [(none, 2, 5), (every, 3, 17), (every, 2, 32), (wild, 5, 19), (slight, 1, 1), (slight, 4, 24)].map(of).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Change = Change { rotation: 0.0, shear: 0.0, shift: [0.0; 2], zoom: [1.0; 2], flip: [false; 2] };

    /// Where each pixel of a square of four comes from, or None between pixels.
    fn sources(change: Change) -> Vec<(usize, usize)> {
        let map = change.affine(4);
        let one = |at: usize| {
            let [x, y] = [map.x, map.y].map(|axis| {
                let ([low, _], part) = Affine::around(axis, at % 4, at / 4, 4);
                assert_eq!(part, 0, "{change:?}");
                low
            });
            (x, y)
        };
        (0..16).map(one).collect()
    }

    fn expect(change: Change, source: impl Fn(usize, usize) -> (usize, usize)) {
        let want: Vec<_> = (0..16).map(|at| source(at % 4, at / 4)).collect();
        assert_eq!(sources(change), want, "{change:?}");
    }

    #[test]
    fn whole_pixels_move_exactly() {
        expect(STILL, |x, y| (x, y));
        expect(Change { rotation: 90.0, ..STILL }, |x, y| (3 - y, x));
        expect(Change { rotation: -90.0, ..STILL }, |x, y| (y, 3 - x));
        expect(Change { rotation: 180.0, ..STILL }, |x, y| (3 - x, 3 - y));
        expect(Change { flip: [true, false], ..STILL }, |x, y| (3 - x, y));
        expect(Change { flip: [false, true], ..STILL }, |x, y| (x, 3 - y));
        expect(Change { flip: [true, true], ..STILL }, |x, y| (3 - x, 3 - y));
        // The edge goes on.
        expect(Change { shift: [1.0, -2.0], ..STILL }, |x, y| ((x + 1).min(3), y.saturating_sub(2)));
        // Shifted, then turned; mirrored last.
        expect(Change { rotation: 90.0, shift: [1.0, 0.0], ..STILL }, |x, y| (3 - y, (x + 1).min(3)));
        expect(Change { rotation: 90.0, flip: [true, false], ..STILL }, |x, y| (3 - y, 3 - x));
        // Every other pixel of a picture twice as far away, from its centre out.
        let far = Change { zoom: [1.0, 3.0], ..STILL };
        expect(far, |x, y| (x, [0, 0, 3, 3][y]));
    }

    #[test]
    fn squares_of_every_side_go_through_the_same() {
        let op = Augment { rotation: 30.0, shift: [0.2, 0.1], shear: 10.0, zoom: 0.2, flip: [true, true] };
        for row in 0..100 {
            let maps = [224, 44].map(|side| (side, op.change([7, 0, 3], row, side).affine(side)));
            let [(_, a), (_, b)] = maps;
            assert_eq!([&a.x[..2], &a.y[..2]], [&b.x[..2], &b.y[..2]], "row {row}");
            // How far off the centre the centre comes from, as a part of the side.
            let [a, b] = maps.map(|(side, map)| {
                let centre = (side as f64 - 1.0) / 2.0;
                [map.x, map.y].map(|k| {
                    let [a, b, k] = k.map(|k| k as f64 / 65536.0);
                    ((a + b) * centre + k - centre) / side as f64
                })
            });
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "row {row}: {a:?} {b:?}");
            assert!(a != [0.0; 2], "row {row} should be shifted");
        }
    }

    #[test]
    fn turns_are_good_to_a_millionth() {
        for i in -3600..=3600 {
            let degrees = i as f32 * 0.1;
            let (sin, cos) = (degrees as f64).to_radians().sin_cos();
            let [s, c] = turn(degrees);
            assert!((s as f64 - sin).abs() < 1e-6 && (c as f64 - cos).abs() < 1e-6, "{degrees}: {s} {c}");
        }
    }

    #[test]
    fn ranges_are_written_as_in_the_help() {
        let parse = |text: &str| text.parse::<Augment>().map_err(|e| e.to_string());
        let want = Augment { rotation: 15.0, shift: [0.1, 0.2], shear: 5.0, zoom: 0.25, flip: [true, false] };
        assert_eq!(parse("rotation=15,shift=0.1,shift-y=0.2,shear=5,zoom=0.25,flip"), Ok(want));
        assert_eq!(parse("flip-y"), Ok(Augment { flip: [false, true], ..Augment::default() }));
        for bad in ["", "rotate=3", "flip=1", "zoom", "zoom=x", "shift=0.1,,flip"] {
            let e = parse(bad).unwrap_err();
            assert!(e.contains("is not an augmentation") && e.lines().count() == 1, "{bad}: {e}");
        }
        for bad in ["rotation=181", "zoom=1", "shear=-1", "shift=nan", "shift-x=inf"] {
            assert!(parse(bad).unwrap_err().contains("from 0 up"), "{bad}");
        }
    }

    #[test]
    fn draws_reach_the_ends_of_their_ranges() {
        let op = Augment { rotation: 20.0, shift: [0.1, 0.2], shear: 5.0, zoom: 0.3, flip: [true, true] };
        let all: Vec<Change> = (0..4000).map(|row| op.change([7, 0, 3], row, 100)).collect();
        let spread = |f: fn(&Change) -> f32, low: f32, high: f32| {
            let at = all.iter().map(|c| (f(c) - low) / (high - low));
            let (least, most) = at.clone().fold((1.0f32, 0.0f32), |(a, b), x| (a.min(x), b.max(x)));
            let mean = at.sum::<f32>() / all.len() as f32;
            assert!((0.0..0.01).contains(&least) && (0.99..1.0).contains(&most), "{least} to {most}");
            assert!((mean - 0.5).abs() < 0.02, "{mean}");
        };
        spread(|c| c.rotation, -20.0, 20.0);
        spread(|c| c.shift[0], -10.0, 10.0);
        spread(|c| c.shift[1], -20.0, 20.0);
        spread(|c| c.shear, -5.0, 5.0);
        spread(|c| c.zoom[0], 0.7, 1.3);
        spread(|c| c.zoom[1], 0.7, 1.3);
        for axis in [0, 1] {
            let mirrored = all.iter().filter(|c| c.flip[axis]).count();
            assert!((1850..2150).contains(&mirrored), "{mirrored} of 4000");
        }
        assert_ne!(op.change([7, 0, 3], 5, 100), op.change([7, 0, 4], 5, 100));
        assert_ne!(op.change([7, 0, 3], 5, 100), op.change([8, 0, 3], 5, 100));
    }
}
