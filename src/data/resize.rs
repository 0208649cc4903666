/*! A picture of any size to the square a network was trained on, u8 to u8. Antialiased bilinear is Pillow's to within one
level, two in a rare pixel (two passes, each rounded to u8); nearest is Pillow's to the bit, because Keras resizes with it; crops are placed as
torchvision places them; OpenCV's bilinear is OpenCV's to the bit. Grey is Pillow's `convert("L")` to the bit. */

use crate::error::{Error, Result};
use crate::preprocess::{Resize, View};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

/// What `view` shows of a picture: `rgb` is `[h, w, 3]`, `out` is `[side, side, 3]`. An error means sizes that contradict
/// each other.
pub fn view(rgb: &[u8], w: u32, h: u32, view: &View, out: &mut [u8]) -> Result<()> {
    resize(rgb, w, h, view.resize, view.side as u32, out)?;
    if view.grey {
        out.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = [luma(*pixel); 3]);
    }
    Ok(())
}

/// 0.299 R + 0.587 G + 0.114 B, in whole 65536ths as Pillow has them, rounded.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((19_595 * r as u32 + 38_470 * g as u32 + 7_471 * b as u32 + 0x8000) >> 16) as u8
}

/// [`luma`] of every pixel: `[h, w, 3]` to `[h, w]`.
pub fn grey(rgb: &[u8]) -> Vec<u8> {
    rgb.as_chunks().0.iter().map(|pixel| luma(*pixel)).collect()
}

/// A grey picture `[h, w]` squashed to `[size, size]`, antialiased bilinear.
pub fn squash_grey(grey: &[u8], w: u32, h: u32, size: u32) -> Result<Vec<u8>> {
    let mut out = vec![0; size as usize * size as usize];
    antialiased::<U8>(grey, [w, h], ResizeOptions::new(), size, &mut out)?;
    Ok(out)
}

/// Bilinear and antialiased, of pixels of one type. (Called by a type that is known only at run time, the crate is compiled
/// for all of its types: three quarters of a minute more, and not always to the same bytes.)
fn antialiased<P: PixelTrait>(
    from: &[u8],
    [w, h]: [u32; 2],
    options: ResizeOptions,
    size: u32,
    out: &mut [u8],
) -> Result<()> {
    let say = |e: &dyn std::fmt::Display| Error::job(format!("cannot resize {w} x {h} to {size} x {size}: {e}"));
    let from = TypedImageRef::<P>::from_buffer(w, h, from).map_err(|e| say(&e))?;
    let mut to = TypedImage::<P>::from_buffer(size, size, out).map_err(|e| say(&e))?;
    let options = options.resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
    Resizer::new().resize_typed(&from, &mut to, &options).map_err(|e| say(&e))
}

/// `rgb` is `[h, w, 3]`, `out` is `[size, size, 3]`.
fn resize(rgb: &[u8], w: u32, h: u32, rule: Resize, size: u32, out: &mut [u8]) -> Result<()> {
    let square = size as usize * size as usize * 3;
    if rgb.is_empty() || rgb.len() != w as usize * h as usize * 3 || out.len() != square || square == 0 {
        return Err(Error::job(format!("{} bytes cannot be resized from {w} x {h} to {size} x {size}", rgb.len())));
    }
    // The whole picture becomes `full` wide and high, of which the square is cut out.
    let large = (size as f64 * 8.0 / 7.0).round();
    let full = match rule {
        Resize::SquashNearest => {
            nearest(rgb, w as usize, h as usize, size as usize, out);
            return Ok(());
        }
        Resize::SquashOpencv => {
            opencv(rgb, w as usize, h as usize, size as usize, out);
            return Ok(());
        }
        Resize::SquashBilinear => [size as f64; 2],
        Resize::SquashCropBilinear => [large; 2],
        // torchvision: int(size * long / short).
        Resize::CropBilinear => {
            let short = w.min(h) as f64;
            [w, h].map(|side| (large * side as f64 / short).floor())
        }
    };
    // Only the part that stays is computed: the filter sees the same pixels under the same weights, and a picture of
    // 30000 x 1 does not become one of 7680000 x 256 first. Python rounds the margin half to even.
    let [(left, width), (top, height)] = [(full[0], w), (full[1], h)].map(|(full, side)| {
        let scale = side as f64 / full;
        let margin = ((full - size as f64) / 2.0).round_ties_even();
        let start = margin * scale;
        (start, (size as f64 * scale).min(side as f64 - start))
    });
    antialiased::<U8x3>(rgb, [w, h], ResizeOptions::new().crop(left, top, width, height), size, out)
}

/// OpenCV's `INTER_LINEAR` of bytes, to the bit: two taps a direction at half-pixel centres, weights in whole 2048ths,
/// rows first without rounding, columns with the 20 bits that its vector code keeps (`imgproc/src/resize.cpp`).
fn opencv(rgb: &[u8], w: usize, h: usize, size: usize, out: &mut [u8]) {
    /// Where the two taps are and what each counts, in 2048ths.
    struct Taps {
        at: [usize; 2],
        weight: [i32; 2],
    }
    // Beyond the first and the last column one tap counts alone; beyond the edge rows both are that row. That is the same
    // but for rounding.
    let taps = |side: usize, alone: bool| -> Vec<Taps> {
        let last = side as i64 - 1;
        let one = |i: usize| {
            let at = ((i as f64 + 0.5) * (side as f64 / size as f64) - 0.5) as f32;
            let (floor, part) = (at.floor() as i64, at - at.floor());
            let part = if alone && !(0..last).contains(&floor) { 0.0 } else { part };
            let (first, second) = (floor.clamp(0, last), (floor + 1).clamp(0, last));
            let weight = [1.0 - part, part].map(|x| (x * 2048.0).round_ties_even() as i32);
            Taps { at: [first as usize, second as usize], weight }
        };
        (0..size).map(one).collect()
    };
    let columns = taps(w, true);
    let along = |y: usize| -> Vec<i32> {
        let row = &rgb[y * w * 3..(y + 1) * w * 3];
        let pixel =
            |t: &Taps| [0, 1, 2].map(|c| (0..2).map(|i| i32::from(row[t.at[i] * 3 + c]) * t.weight[i]).sum::<i32>());
        columns.iter().flat_map(pixel).collect()
    };
    for (out, t) in out.chunks_exact_mut(size * 3).zip(taps(h, false)) {
        let [first, second] = t.at.map(along);
        for (out, (a, b)) in out.iter_mut().zip(first.into_iter().zip(second)) {
            let part = |x: i32, weight: i32| (weight * (x >> 4)) >> 16;
            *out = ((part(a, t.weight[0]) + part(b, t.weight[1]) + 2) >> 2) as u8;
        }
    }
}

/// Pillow's nearest: the source position is accumulated in f64 from half a step, and truncated.
fn nearest(rgb: &[u8], w: usize, h: usize, size: usize, out: &mut [u8]) {
    let positions = |side: usize| {
        let step = side as f64 / size as f64;
        let mut at = step * 0.5;
        let next = move |_| {
            let here = (at as usize).min(side - 1);
            at += step;
            here
        };
        (0..size).map(next).collect::<Vec<_>>()
    };
    let columns = positions(w);
    for (row, y) in out.chunks_exact_mut(size * 3).zip(positions(h)) {
        let from = &rgb[y * w * 3..(y + 1) * w * 3];
        for (pixel, &x) in row.chunks_exact_mut(3).zip(&columns) {
            pixel.copy_from_slice(&from[x * 3..x * 3 + 3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    fn picture(w: u32, h: u32) -> Vec<u8> {
        let mut rng = Rng::new(1, Stream::Test(w * 1000 + h), 0);
        (0..w * h * 3).map(|_| rng.word() as u8).collect()
    }
    fn square(rgb: &[u8], w: u32, h: u32, rule: Resize, size: u32) -> Vec<u8> {
        let mut out = vec![0; (size * size * 3) as usize];
        resize(rgb, w, h, rule, size, &mut out).unwrap();
        out
    }
    /// Triangle filter of Pillow's Resample.c in f64, one axis: `[n, side, c]` to `[n, full, c]`, rounded to u8.
    fn triangle(from: &[f64], side: usize, full: usize, c: usize) -> Vec<f64> {
        let scale = side as f64 / full as f64;
        let support = scale.max(1.0);
        let mut out = Vec::new();
        for line in from.chunks(side * c) {
            for x in 0..full {
                let centre = (x as f64 + 0.5) * scale;
                let (lo, hi) = ((centre - support + 0.5).max(0.0) as usize, (centre + support + 0.5) as usize);
                let weight = |i: usize| (1.0 - ((i as f64 + 0.5 - centre) / support).abs()).max(0.0);
                let taps: Vec<usize> = (lo..hi.min(side)).collect();
                let total: f64 = taps.iter().map(|&i| weight(i)).sum();
                for k in 0..c {
                    let sum: f64 = taps.iter().map(|&i| weight(i) * line[i * c + k]).sum();
                    out.push((sum / total).round());
                }
            }
        }
        out
    }
    /// The whole picture at `fw` x `fh`, then the square at the rounded margins.
    fn whole_then_crop(rgb: &[u8], w: usize, h: usize, fw: usize, fh: usize, size: usize) -> Vec<u8> {
        let rgb: Vec<f64> = rgb.iter().map(|&b| b as f64).collect();
        let wide = triangle(&rgb, w, fw, 3);
        let full = triangle(&wide, h, fh, fw * 3);
        let margin = |full: usize| ((full - size) as f64 / 2.0).round_ties_even() as usize;
        let (x, y) = (margin(fw), margin(fh));
        let rows = (y..y + size).flat_map(|y| full[(y * fw + x) * 3..(y * fw + x + size) * 3].iter());
        rows.map(|&v| v as u8).collect()
    }
    fn worst(a: &[u8], b: &[u8]) -> u8 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn bilinear_is_the_triangle_filter() {
        for (w, h) in [(80, 60), (45, 101), (20, 17), (56, 56), (300, 9)] {
            let rgb = picture(w, h);
            let (w_, h_) = (w as usize, h as usize);
            let squash = square(&rgb, w, h, Resize::SquashBilinear, 28);
            assert!(worst(&squash, &whole_then_crop(&rgb, w_, h_, 28, 28, 28)) <= 1, "{w} {h}");
            let cut = square(&rgb, w, h, Resize::SquashCropBilinear, 28);
            assert!(worst(&cut, &whole_then_crop(&rgb, w_, h_, 32, 32, 28)) <= 1, "{w} {h}");
            let (fw, fh) = if w < h { (32, 32 * h_ / w_) } else { (32 * w_ / h_, 32) };
            let crop = square(&rgb, w, h, Resize::CropBilinear, 28);
            assert!(worst(&crop, &whole_then_crop(&rgb, w_, h_, fw, fh, 28)) <= 1, "{w} {h}");
        }
    }

    #[test]
    fn nearest_takes_the_pixel_under_the_centre() {
        let rgb: Vec<u8> = (0..8).flat_map(|x| [x, x, x]).collect();
        let out = square(&rgb, 8, 1, Resize::SquashNearest, 3);
        assert_eq!(out.iter().step_by(3).take(3).copied().collect::<Vec<_>>(), [1, 4, 6]);
        let rgb = picture(5, 7);
        let out = square(&rgb, 5, 7, Resize::SquashNearest, 10);
        for (i, p) in out.chunks(3).enumerate() {
            let (x, y) = ((2 * (i % 10) + 1) * 5 / 20, (2 * (i / 10) + 1) * 7 / 20);
            assert_eq!(p, &rgb[(y * 5 + x) * 3..(y * 5 + x) * 3 + 3], "{i}");
        }
    }

    #[test]
    fn grey_is_the_luma_in_every_channel() {
        let see = |rgb: &[u8], grey| {
            let mut out = [0; 3];
            view(rgb, 1, 1, &View { side: 1, resize: Resize::SquashBilinear, grey, crop: None }, &mut out).unwrap();
            out
        };
        // Pillow's `convert("L")`.
        for (rgb, l) in [([255, 0, 0], 76), ([0, 255, 0], 150), ([0, 0, 255], 29), ([255; 3], 255), ([1, 2, 3], 2)] {
            assert_eq!((see(&rgb, true), see(&rgb, false)), ([l; 3], rgb));
        }
    }

    #[test]
    fn extreme_shapes_cost_nothing_extra() {
        for rule in [Resize::SquashNearest, Resize::SquashBilinear, Resize::CropBilinear, Resize::SquashCropBilinear] {
            for (w, h) in [(30_000, 1), (1, 30_000), (1, 1)] {
                let out = square(&vec![77; (w * h * 3) as usize], w, h, rule, 56);
                assert!(out.iter().all(|&b| b == 77));
            }
        }
        let mut out = [0; 12];
        assert!(resize(&[0; 9], 2, 2, Resize::SquashNearest, 2, &mut out).is_err());
    }
}
