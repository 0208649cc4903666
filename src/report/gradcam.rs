/*! Grad-CAM for people (Parry & Vuong 2021, Figure 7): each map in colour over the square that the tower saw, with a
caption. [`pictures`] makes overlays and what their captions say, [`figure`] the HTML of one picture for any page that has
[`STYLE`], [`page`] a sheet of its own. */

use super::{data_uri, png, render};
use crate::error::{Error, Result};
use crate::preprocess::{record, squares};
use crate::table::number;
use crate::train::gradcam::{Class, Explainer, Map, Sign, Target};
use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;

/// One rating of a picture, points of the 1 to 9 scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Rated {
    pub target: String,
    pub predicted: f32,
    /// None where nobody rated the picture.
    pub truth: Option<f32>,
}

impl Rated {
    /// 100 (1 - |predicted - true| / 9), as in the paper.
    pub fn accuracy9_percent(&self) -> Option<f64> {
        self.truth.map(|t| 100.0 * (1.0 - f64::from(self.predicted - t).abs() / 9.0))
    }
}

/// One map over the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    /// A PNG file, [side, side] of the tower's view: half photograph, half colour.
    pub png: Vec<u8>,
    /// `object`; in a split model `valence.object`.
    pub tower: String,
    /// As its weights are called: `conv5_3`.
    pub layer: String,
    pub target: Target,
    pub sign: Sign,
    /// Name of the explained class, where it is known.
    pub class: Option<String>,
    /// The largest number of the map, which has the brightest colour; 0 where nothing has this sign.
    pub peak: f32,
    /// Index into the maps of the picture.
    pub map: usize,
}

/// A picture and what is explained of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pub name: String,
    /// The square that the first tower saw, a PNG file.
    pub photo: Vec<u8>,
    pub rated: Vec<Rated>,
    pub overlays: Vec<Overlay>,
    /// Before colour and ReLU, for programs.
    pub maps: Vec<Map>,
}

/// Explains pictures, given as [`Explainer::explain`] takes them; of each the name and, where it was rated, one rating for
/// each of the model's targets.
pub fn pictures(
    explainer: &mut Explainer,
    pixels: &[u8],
    known: &[(String, Option<Vec<f32>>)],
    signs: &[Sign],
) -> Result<Vec<Picture>> {
    let views = explainer.config.views();
    let explained = explainer.explain(pixels)?;
    if explained.len() != known.len() {
        return Err(Error::job(format!("{} pictures have {} names", explained.len(), known.len())));
    }
    let mut all = vec![];
    for ((pixels, explained), (name, truth)) in pixels.chunks_exact(record(&views)).zip(explained).zip(known) {
        let square = |view: usize| squares(pixels, &views, view);
        let rated = |(i, target): (usize, &String)| {
            let truth = truth.as_ref().map(|t| t[i]);
            Rated { target: target.clone(), predicted: explained.ratings[i], truth }
        };
        let mut overlays = vec![];
        for (i, map) in explained.maps.iter().enumerate() {
            let tower = &explainer.towers[map.tower];
            for &sign in signs {
                let (side, values) = (views[tower.view].side, map.rectified(sign));
                overlays.push(Overlay {
                    png: png(over(&square(tower.view), side, &values, map.size), [side; 2])?,
                    tower: tower.name.clone(),
                    layer: tower.layer.clone(),
                    target: explainer.targets[map.target].clone(),
                    sign,
                    class: map.class.and_then(|c| tower.classes.get(c).cloned()),
                    peak: values.iter().fold(0.0, |m, x| m.max(*x)),
                    map: i,
                });
            }
        }
        all.push(Picture {
            name: name.clone(),
            photo: png(square(0).to_vec(), [views[0].side; 2])?,
            rated: explainer.config.targets.iter().enumerate().map(rated).collect(),
            overlays,
            maps: explained.maps,
        });
    }
    Ok(all)
}

/// A square [side, side, 3] and over it, half and half, the colours of a map [height, width] without negative numbers:
/// from 0 to its largest, resampled bilinearly between the centres of its pixels.
fn over(square: &[u8], side: usize, map: &[f32], [height, width]: [usize; 2]) -> Vec<u8> {
    let largest = map.iter().fold(0.0, |m: f32, x| m.max(*x));
    let scale = if largest > 0.0 { 255.0 / largest } else { 0.0 };
    let [rows, columns] = [height, width].map(|n| (0..side).map(|i| between(i, side, n)).collect::<Vec<_>>());
    let mut out = Vec::with_capacity(square.len());
    for (square, &(top, bottom, down)) in square.chunks_exact(side * 3).zip(&rows) {
        for (pixel, &(left, right, across)) in square.chunks_exact(3).zip(&columns) {
            let row = |y: usize| map[y * width + left] * (1.0 - across) + map[y * width + right] * across;
            let value = row(top) * (1.0 - down) + row(bottom) * down;
            let [_, colour @ ..] = VIRIDIS[(value * scale).round() as usize & 255].to_be_bytes();
            out.extend(pixel.iter().zip(colour).map(|(p, c)| (u16::from(*p) + u16::from(c)).div_ceil(2) as u8));
        }
    }
    out
}

/// Pixel `i` of `side` among `n`: the two it lies between, and how far it is from the first.
fn between(i: usize, side: usize, n: usize) -> (usize, usize, f32) {
    let at = ((i as f32 + 0.5) * n as f32 / side as f32 - 0.5).clamp(0.0, (n - 1) as f32);
    let first = at as usize;
    (first, (first + 1).min(n - 1), at - first as f32)
}

#[derive(Serialize)]
struct Tile {
    image: String,
    title: String,
    lines: Vec<String>,
}

/// The HTML of one picture: the photograph with its ratings, then the overlays with their captions. `image` gives the
/// address of the photograph (None) and of each overlay, `src` of an `<img>`; None embeds the files.
pub fn figure(p: &Picture, image: Option<&dyn Fn(Option<usize>) -> String>) -> Result<String> {
    let address = |which: Option<usize>, file: &[u8]| match image {
        Some(image) => Ok(image(which)),
        None => data_uri(file),
    };
    let points = |v: f32| number(Some(v.into()), 2);
    let rating = |r: &Rated| match (r.truth, r.accuracy9_percent()) {
        (Some(truth), Some(accuracy)) => {
            let accuracy = number(Some(accuracy), 1);
            format!("{} {}, rated {}, accuracy {accuracy} %", r.target, points(r.predicted), points(truth))
        }
        _ => format!("{} {}", r.target, points(r.predicted)),
    };
    let lines = p.rated.iter().map(rating).collect();
    let mut tiles = vec![Tile { image: address(None, &p.photo)?, title: "photograph".into(), lines }];
    for (i, o) in p.overlays.iter().enumerate() {
        let map = &p.maps[o.map];
        let (what, [plus, minus]) = match &o.target {
            Target::Rating(name) => (name.clone(), ["raises", "lowers"]),
            Target::Class(_) => {
                let index = map.class.map_or(String::new(), |c| c.to_string());
                let percent = number(Some(100.0 * f64::from(map.value)), 1);
                let top = if o.target == Target::Class(Class::Top) { "top class" } else { "class" };
                (format!("{top} {} ({percent} %)", o.class.clone().unwrap_or(index)), ["speaks for", "speaks against"])
            }
        };
        let does = if o.sign == Sign::Plus { plus } else { minus };
        let line = if o.peak > 0.0 { format!("what {does} {what}") } else { format!("nothing here {does} {what}") };
        tiles.push(Tile {
            image: address(Some(i), &o.png)?,
            title: o.tower.clone(),
            lines: vec![line, format!("{}, peak {:.2e}", o.layer, o.peak)],
        });
    }
    render(include_str!("gradcam_figure.html"), context! { name => p.name.as_str(), tiles => Serde(tiles) })
}

/// A map before its ReLU as a NumPy file: float32, [height, width].
pub fn npy(map: &Map) -> Vec<u8> {
    let [height, width] = map.size;
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({height}, {width}), }}");
    // Magic, version and length take 10 bytes, a line break ends the header, and numbers begin at a multiple of 64.
    header += &" ".repeat((10 + header.len() + 1).next_multiple_of(64) - (10 + header.len() + 1));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(map.signed.iter().flat_map(|x| x.to_le_bytes()));
    file
}

/// What the page around [`figure`]s has to have in its `<style>`.
pub const STYLE: &str = include_str!("gradcam.css");

/// A page of its own around some [`figure`]s, which needs nothing but the files that they name. `facts` are the lines of
/// its head.
pub fn page(title: &str, facts: &[String], figures: &[String]) -> Result<String> {
    render(
        include_str!("gradcam_page.html"),
        context! { title, facts => Serde(facts), figures => Serde(figures), style => STYLE },
    )
}

/// matplotlib's `viridis` (van der Walt & Smith 2015, CC0), 0xRRGGBB, its numbers in [0, 1] rounded to bytes.
const VIRIDIS: [u32; 256] = [
    0x440154, 0x440256, 0x450457, 0x450559, 0x46075a, 0x46085c, 0x460a5d, 0x460b5e, 0x470d60, 0x470e61, 0x471063,
    0x471164, 0x471365, 0x481467, 0x481668, 0x481769, 0x48186a, 0x481a6c, 0x481b6d, 0x481c6e, 0x481d6f, 0x481f70,
    0x482071, 0x482173, 0x482374, 0x482475, 0x482576, 0x482677, 0x482878, 0x482979, 0x472a7a, 0x472c7a, 0x472d7b,
    0x472e7c, 0x472f7d, 0x46307e, 0x46327e, 0x46337f, 0x463480, 0x453581, 0x453781, 0x453882, 0x443983, 0x443a83,
    0x443b84, 0x433d84, 0x433e85, 0x423f85, 0x424086, 0x424186, 0x414287, 0x414487, 0x404588, 0x404688, 0x3f4788,
    0x3f4889, 0x3e4989, 0x3e4a89, 0x3e4c8a, 0x3d4d8a, 0x3d4e8a, 0x3c4f8a, 0x3c508b, 0x3b518b, 0x3b528b, 0x3a538b,
    0x3a548c, 0x39558c, 0x39568c, 0x38588c, 0x38598c, 0x375a8c, 0x375b8d, 0x365c8d, 0x365d8d, 0x355e8d, 0x355f8d,
    0x34608d, 0x34618d, 0x33628d, 0x33638d, 0x32648e, 0x32658e, 0x31668e, 0x31678e, 0x31688e, 0x30698e, 0x306a8e,
    0x2f6b8e, 0x2f6c8e, 0x2e6d8e, 0x2e6e8e, 0x2e6f8e, 0x2d708e, 0x2d718e, 0x2c718e, 0x2c728e, 0x2c738e, 0x2b748e,
    0x2b758e, 0x2a768e, 0x2a778e, 0x2a788e, 0x29798e, 0x297a8e, 0x297b8e, 0x287c8e, 0x287d8e, 0x277e8e, 0x277f8e,
    0x27808e, 0x26818e, 0x26828e, 0x26828e, 0x25838e, 0x25848e, 0x25858e, 0x24868e, 0x24878e, 0x23888e, 0x23898e,
    0x238a8d, 0x228b8d, 0x228c8d, 0x228d8d, 0x218e8d, 0x218f8d, 0x21908d, 0x21918c, 0x20928c, 0x20928c, 0x20938c,
    0x1f948c, 0x1f958b, 0x1f968b, 0x1f978b, 0x1f988b, 0x1f998a, 0x1f9a8a, 0x1e9b8a, 0x1e9c89, 0x1e9d89, 0x1f9e89,
    0x1f9f88, 0x1fa088, 0x1fa188, 0x1fa187, 0x1fa287, 0x20a386, 0x20a486, 0x21a585, 0x21a685, 0x22a785, 0x22a884,
    0x23a983, 0x24aa83, 0x25ab82, 0x25ac82, 0x26ad81, 0x27ad81, 0x28ae80, 0x29af7f, 0x2ab07f, 0x2cb17e, 0x2db27d,
    0x2eb37c, 0x2fb47c, 0x31b57b, 0x32b67a, 0x34b679, 0x35b779, 0x37b878, 0x38b977, 0x3aba76, 0x3bbb75, 0x3dbc74,
    0x3fbc73, 0x40bd72, 0x42be71, 0x44bf70, 0x46c06f, 0x48c16e, 0x4ac16d, 0x4cc26c, 0x4ec36b, 0x50c46a, 0x52c569,
    0x54c568, 0x56c667, 0x58c765, 0x5ac864, 0x5cc863, 0x5ec962, 0x60ca60, 0x63cb5f, 0x65cb5e, 0x67cc5c, 0x69cd5b,
    0x6ccd5a, 0x6ece58, 0x70cf57, 0x73d056, 0x75d054, 0x77d153, 0x7ad151, 0x7cd250, 0x7fd34e, 0x81d34d, 0x84d44b,
    0x86d549, 0x89d548, 0x8bd646, 0x8ed645, 0x90d743, 0x93d741, 0x95d840, 0x98d83e, 0x9bd93c, 0x9dd93b, 0xa0da39,
    0xa2da37, 0xa5db36, 0xa8db34, 0xaadc32, 0xaddc30, 0xb0dd2f, 0xb2dd2d, 0xb5de2b, 0xb8de29, 0xbade28, 0xbddf26,
    0xc0df25, 0xc2df23, 0xc5e021, 0xc8e020, 0xcae11f, 0xcde11d, 0xd0e11c, 0xd2e21b, 0xd5e21a, 0xd8e219, 0xdae319,
    0xdde318, 0xdfe318, 0xe2e418, 0xe5e419, 0xe7e419, 0xeae51a, 0xece51b, 0xefe51c, 0xf1e51d, 0xf4e61e, 0xf6e620,
    0xf8e621, 0xfbe723, 0xfde725,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_from_dark_blue_to_yellow() {
        assert_eq!((VIRIDIS[0], VIRIDIS[127], VIRIDIS[255]), (0x440154, 0x21908d, 0xfde725));
        // Lightness rises all the way: that is what the map was made for.
        let luma = |c: u32| {
            let [_, r, g, b] = c.to_be_bytes().map(u32::from);
            2126 * r + 7152 * g + 722 * b
        };
        assert!(VIRIDIS.windows(2).all(|w| luma(w[0]) <= luma(w[1]) + 7152));
        assert!(luma(VIRIDIS[0]) < luma(VIRIDIS[127]) && luma(VIRIDIS[127]) < luma(VIRIDIS[255]));
    }

    #[test]
    fn an_overlay_is_half_photograph_half_colour() {
        let black = [0u8; 4 * 4 * 3];
        // Columns of a map [1, 2], between whose centres the colour runs: at 0, 1/4, 3/4, 1 of the way.
        let out = over(&black, 4, &[0.0, 5.0], [1, 2]);
        let half = |i: usize| VIRIDIS[i].to_be_bytes().map(|c| c.div_ceil(2));
        for (x, index) in [(0, 0), (1, 64), (2, 191), (3, 255)] {
            assert_eq!(out[x * 3..x * 3 + 3], half(index)[1..], "{x}");
        }
        assert_eq!(out[..12], out[36..]);
        // Nothing of this sign: dark everywhere, and no division by zero.
        assert!(over(&black, 4, &[0.0; 4], [2, 2]).chunks_exact(3).all(|p| p == &half(0)[1..]));
        let white = over(&[255; 12], 2, &[1.0], [1, 1]);
        assert_eq!(white[..3], [254, 243, 146]);
    }

    fn example() -> Picture {
        let map = |class, value| Map { tower: 0, target: 0, class, value, size: [1, 1], signed: vec![0.5] };
        let overlay = |target: Target, sign, class: Option<&str>, peak, map| Overlay {
            png: b"\x89PNG".to_vec(),
            tower: "object".into(),
            layer: "conv5_3".into(),
            target,
            sign,
            class: class.map(String::from),
            peak,
            map,
        };
        Picture {
            name: "<b>.png".into(),
            photo: b"\x89PNG".to_vec(),
            rated: vec![Rated { target: "valence".into(), predicted: 4.0, truth: Some(4.9) }],
            overlays: vec![
                overlay(Target::Rating("valence".into()), Sign::Plus, None, 0.5, 0),
                overlay(Target::Rating("valence".into()), Sign::Minus, None, 0.0, 0),
                overlay(Target::Class(Class::Top), Sign::Plus, Some("tench"), 0.5, 1),
                overlay(Target::Class(Class::Index(7)), Sign::Minus, None, 0.5, 1),
            ],
            maps: vec![map(None, 4.0), map(Some(7), 0.125)],
        }
    }

    #[test]
    fn captions_say_what_is_shown() {
        let html = figure(&example(), None).unwrap();
        for part in [
            "&lt;b&gt;.png",
            "valence 4.00, rated 4.90, accuracy 90.0 %",
            "what raises valence",
            "nothing here lowers valence",
            "what speaks for top class tench (12.5 %)",
            "what speaks against class 7 (12.5 %)",
            "conv5_3, peak 5.00e-1",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert_eq!(html.matches("data:image/png;base64,iVBORw==").count(), 5);
    }

    #[test]
    fn a_page_loads_nothing_from_elsewhere() {
        let name = |which: Option<usize>| format!("a&b-{which:?}.png");
        let figure = figure(&example(), Some(&name)).unwrap();
        let page = page("a <title>", &["model.safetensors".into()], &[figure]).unwrap();
        assert!(page.contains("a &lt;title&gt;") && page.contains("a&amp;b-Some(3).png"), "{page}");
        assert!(!page.contains("://") && !page.contains("<script") && page.contains("default-src 'none'"));
    }
}
