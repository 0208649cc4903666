/*! The same photograph twice, within a set or across sets: with one copy in training and the other in a test fold, a network
is praised for remembering. Copies of a file are found by its content, pictures that were saved anew, resized, brightened a
little or given another format by what they look like. Mirrored and cropped copies are not found. */

use super::cache::Source;
use super::decode::DecodeOptions;
use super::pictures::{fingerprints, records};
use crate::error::Result;
use crate::preprocess::Preprocess;
use crate::progress::Progress;
use rayon::prelude::*;
use std::collections::HashMap;
use std::f32::consts::PI;

/// Side of the small grey picture that is compared.
const SIDE: usize = 32;
/// Frequencies of it that make the fingerprint, in each direction.
const LOW: usize = 8;
/// Bits of 63 that may differ, by default. Of the 245,350 pairs of 701 OASIS photographs two are as near as 12, and none is
/// nearer; photographs saved anew as JPEG of quality 30 to 90, at a quarter to the full size, up to 30 % brighter, with
/// another gamma or in grey are within 12 bits of their original.
pub const DISTANCE: u32 = 12;
/// Least correlation of the small pictures. Within 12 bits, two that are one have 0.9 and more (cropped by 3 % on every side
/// mostly 0.8 and more), two that are not 0.55 at most.
const ALIKE: f64 = 0.8;

/// How two pictures are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// The same bytes.
    Exact,
    Similar,
}

/// Two pictures that are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The first of the two.
    pub a: usize,
    pub b: usize,
    pub kind: Likeness,
    /// Bits in which their fingerprints differ.
    pub distance: u32,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// By `a`, then `b`.
    pub pairs: Vec<Pair>,
    /// Pictures that cannot be read and were not compared, and why.
    pub bad: Vec<(usize, String)>,
}

/// Compares all with all: every picture is decoded once, and 17,000 of them make 144 million comparisons of one word.
pub fn find(sources: &[Source], distance: u32, progress: &dyn Progress) -> Result<Found> {
    let names = fingerprints(sources, progress)?;
    // Any preset whose picture is squeezed into the square: nothing of it may be cut off.
    let views = [Preprocess::preset("tensorflow")?.view(SIDE)];
    let mut prints = Vec::with_capacity(sources.len());
    let outcome = records(sources, &views, &DecodeOptions::default(), Some(&names), progress, &mut |rgb| {
        prints.push(look(rgb));
        Ok(())
    })?;
    let mut looks: Vec<Option<Look>> = vec![None; sources.len()];
    let mut copies = HashMap::<u128, Vec<usize>>::new();
    // Only what could be read: the name of another file is that of its error.
    for (&row, print) in outcome.rows.iter().zip(prints) {
        looks[row] = print;
        copies.entry(names[row]).or_default().push(row);
    }
    // A chain says as much as all pairs of the copies.
    let copy = |w: &[usize]| Pair { a: w[0], b: w[1], kind: Likeness::Exact, distance: 0 };
    let mut pairs: Vec<Pair> = copies.values().flat_map(|same| same.windows(2).map(copy)).collect();
    let similar = (0..looks.len()).into_par_iter().flat_map_iter(|a| {
        let (looks, names) = (&looks, &names);
        looks[a].iter().flat_map(move |x: &Look| {
            (a + 1..looks.len()).filter_map(move |b| {
                let y = looks[b].as_ref()?;
                let bits = (x.print ^ y.print).count_ones();
                let same = bits <= distance && names[a] != names[b] && correlation(&x.grey, &y.grey) >= ALIKE;
                same.then_some(Pair { a, b, kind: Likeness::Similar, distance: bits })
            })
        })
    });
    pairs.extend(similar.collect::<Vec<_>>());
    pairs.sort_by_key(|p| (p.a, p.b));
    Ok(Found { pairs, bad: outcome.bad })
}

/// What a picture looks like.
#[derive(Clone)]
struct Look {
    /// The perceptual hash of Zauner (2010): which of the lowest frequencies, without the mean, are above their median.
    print: u64,
    /// [SIDE, SIDE]
    grey: Vec<u8>,
}

/// `rgb` is `[SIDE, SIDE, 3]`. None for a picture of next to one colour, which looks like every other of those.
fn look(rgb: &[u8]) -> Option<Look> {
    let luma = |[r, g, b]: &[u8; 3]| (0.299 * *r as f32 + 0.587 * *g as f32 + 0.114 * *b as f32).round() as u8;
    let grey: Vec<u8> = rgb.as_chunks().0.iter().map(luma).collect();
    let wave = |f: usize, i: usize| (PI * f as f32 * (i as f32 + 0.5) / SIDE as f32).cos();
    // Rows first: [SIDE, LOW], then columns.
    let mut rows = [[0.0_f32; LOW]; SIDE];
    for (row, pixels) in rows.iter_mut().zip(grey.chunks(SIDE)) {
        for (f, sum) in row.iter_mut().enumerate() {
            *sum = pixels.iter().enumerate().map(|(x, &p)| p as f32 * wave(f, x)).sum();
        }
    }
    let at = |u: usize, v: usize| rows.iter().enumerate().map(|(y, row)| row[v] * wave(u, y)).sum::<f32>();
    let waves: Vec<f32> = (1..LOW * LOW).map(|i| at(i / LOW, i % LOW)).collect();
    // Half a grey level of contrast, in the units of these sums.
    if waves.iter().map(|w| w * w).sum::<f32>().sqrt() <= 0.5 * (SIDE * SIDE) as f32 / 2.0 {
        return None;
    }
    let mut sorted = waves.clone();
    sorted.sort_by(f32::total_cmp);
    let median = sorted[sorted.len() / 2];
    let print = waves.iter().enumerate().fold(0, |bits, (i, w)| bits | u64::from(*w > median) << i);
    Some(Look { print, grey })
}

/// Pearson's, of two small pictures.
fn correlation(a: &[u8], b: &[u8]) -> f64 {
    let mean = |x: &[u8]| x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let [mut ab, mut aa, mut bb] = [0.0; 3];
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x) - ma, f64::from(y) - mb);
        (ab, aa, bb) = (ab + x * y, aa + x * x, bb + y * y);
    }
    ab / (aa * bb).sqrt()
}

/// One common name for the groups that pairs connect, and for what was in none: given the groups of all pictures, those
/// after. Names stay as far as they can; a group of pictures that had none is called `similar-1`, `similar-2` ….
pub fn regroup(groups: &[Option<String>], pairs: &[Pair]) -> Vec<Option<String>> {
    let mut parent: Vec<usize> = (0..groups.len()).collect();
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    let mut first = HashMap::new();
    let together = groups.iter().enumerate().filter_map(|(i, g)| Some((*first.entry(g.as_ref()?).or_insert(i), i)));
    for (a, b) in together.collect::<Vec<_>>().into_iter().chain(pairs.iter().map(|p| (p.a, p.b))) {
        let (a, b) = (root(&mut parent, a), root(&mut parent, b));
        parent[a.max(b)] = a.min(b);
    }
    let roots: Vec<usize> = (0..groups.len()).map(|i| root(&mut parent, i)).collect();
    let mut names = HashMap::<usize, String>::new();
    for (i, group) in groups.iter().enumerate() {
        if let Some(group) = group {
            names.entry(roots[i]).or_insert_with(|| group.clone());
        }
    }
    let mut made = 0;
    for pair in pairs {
        names.entry(roots[pair.a]).or_insert_with(|| {
            made += 1;
            format!("similar-{made}")
        });
    }
    roots.iter().map(|r| names.get(r).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::imageops::{self, FilterType};
    use image::{DynamicImage, ImageFormat, RgbImage};
    use std::io::Cursor;

    /// Something with the spectrum of a photograph: waves whose height falls with their frequency.
    fn scene(seed: u64) -> RgbImage {
        let mut rng = crate::rng::Rng::new(seed, crate::rng::Stream::Folds, 0);
        let waves: Vec<[f32; 4]> = (0..40)
            .map(|_| {
                let [u, v, phase] = [0; 3].map(|_| rng.uniform());
                [u * 12.0 - 6.0, v * 12.0 - 6.0, phase * 6.3, 60.0 / (1.0 + u.hypot(v) * 12.0)]
            })
            .collect();
        RgbImage::from_fn(320, 240, |x, y| {
            let (x, y) = (x as f32 / 320.0 * 6.3, y as f32 / 240.0 * 6.3);
            let level: f32 = waves.iter().map(|[u, v, phase, height]| height * (u * x + v * y + phase).sin()).sum();
            image::Rgb([level + 110.0, level + 128.0, 0.8 * level + 140.0].map(|c| c.clamp(0.0, 255.0) as u8))
        })
    }

    fn png(image: &RgbImage) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
        bytes
    }

    #[test]
    fn copies_are_found_and_others_are_not() {
        let mut files: Vec<Vec<u8>> = (0..30).map(|seed| png(&scene(seed))).collect();
        files.push(files[3].clone());
        // Saved as a poor JPEG, at a third of the size, a little brighter.
        let small = imageops::resize(&scene(7), 107, 80, FilterType::Triangle);
        let brighter = DynamicImage::from(small).brighten(12).into_rgb8();
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 60).encode_image(&brighter).unwrap();
        files.push(jpeg);
        files.push(png(&RgbImage::from_pixel(64, 64, image::Rgb([200; 3]))));
        files.push(png(&RgbImage::from_pixel(64, 64, image::Rgb([20; 3]))));
        files.push(b"no picture".to_vec());
        files.push(b"no picture".to_vec());
        let sources: Vec<_> = files.iter().map(|bytes| Source::Memory { name: "x".into(), bytes }).collect();
        let found = find(&sources, DISTANCE, &()).unwrap();
        let pairs: Vec<_> = found.pairs.iter().map(|p| (p.a, p.b, p.kind)).collect();
        assert_eq!(pairs, [(3, 30, Likeness::Exact), (7, 31, Likeness::Similar)]);
        assert_eq!(found.bad.iter().map(|b| b.0).collect::<Vec<_>>(), [34, 35]);
    }

    #[test]
    fn groups_are_joined() {
        let pair = |a, b| Pair { a, b, kind: Likeness::Exact, distance: 0 };
        let groups = [Some("x"), None, Some("y"), Some("x"), None, None, Some("z"), None].map(|g| g.map(String::from));
        let after = regroup(&groups, &[pair(1, 3), pair(2, 3), pair(4, 5)]);
        let names: Vec<_> = after.iter().map(|g| g.as_deref().unwrap_or("-")).collect();
        assert_eq!(names, ["x", "x", "x", "x", "similar-1", "similar-1", "z", "-"]);
        assert_eq!(regroup(&groups, &[]), groups);
        let chain: Vec<_> = (0..7).map(|i| pair(i, i + 1)).collect();
        assert!(regroup(&groups, &chain).iter().all(|g| g.as_deref() == Some("x")));
    }
}
