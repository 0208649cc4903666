//! Pictures are made here by `image`'s encoders; what they cannot make (EXIF, CMYK headers, bombs) is spliced in.

use super::*;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageBuffer, Rgba, RgbaImage};
use proptest::prelude::*;

fn photo(w: u32, h: u32) -> RgbImage {
    RgbImage::from_fn(w, h, |x, y| image::Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]))
}
fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.into().write_to(&mut out, format).unwrap();
    out.into_inner()
}
fn jpeg() -> Vec<u8> {
    let mut out = Vec::new();
    JpegEncoder::new_with_quality(&mut out, 90).encode_image(&photo(70, 50)).unwrap();
    out
}
/// Puts a marker segment behind SOI.
fn with_segment(jpeg: &[u8], marker: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, marker], &length, body, &jpeg[2..]].concat()
}
fn refused(bytes: &[u8]) -> String {
    one_line(decode(bytes, &DecodeOptions::default()).expect_err("refused"))
}
fn one_line(e: Error) -> String {
    let line = e.to_string();
    assert!(!line.is_empty() && !line.chars().any(char::is_control), "{line:?}");
    line
}

#[test]
fn lossless_formats_are_exact() {
    let rgb = photo(33, 21);
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
        let picture = decode(&encode(rgb.clone(), format), &DecodeOptions::default()).unwrap();
        assert_eq!((picture.w, picture.h), (33, 21));
        assert!(picture.rgb == *rgb.as_raw(), "{format:?}");
        assert!(picture.notes.is_empty());
    }
    let picture = decode(&jpeg(), &DecodeOptions::default()).unwrap();
    assert_eq!((picture.w, picture.h, picture.rgb.len()), (70, 50, 70 * 50 * 3));
}

#[test]
fn animated_gif_gives_its_first_frame() {
    let mut out = Vec::new();
    {
        let mut gif = image::codecs::gif::GifEncoder::new(&mut out);
        gif.set_repeat(image::codecs::gif::Repeat::Infinite).unwrap();
        for shade in [10, 200] {
            let frame = RgbaImage::from_pixel(8, 8, Rgba([shade, shade, shade, 255]));
            gif.encode_frame(image::Frame::new(frame)).unwrap();
        }
    }
    let picture = decode(&out, &DecodeOptions::default()).unwrap();
    assert!(picture.rgb.iter().all(|&b| b == 10));
    assert!(picture.notes[0].contains("the first is used"));
}

#[test]
fn sixteen_bits_are_scaled_not_clipped() {
    let grey: ImageBuffer<image::Luma<u16>, _> = ImageBuffer::from_fn(16, 1, |x, _| image::Luma([x as u16 * 4369]));
    let picture = decode(&encode(grey, ImageFormat::Png), &DecodeOptions::default()).unwrap();
    for (x, p) in picture.rgb.chunks(3).enumerate() {
        assert_eq!(p, [x as u8 * 17; 3]);
    }
    let rgb: ImageBuffer<image::Rgb<u16>, _> = ImageBuffer::from_pixel(2, 2, image::Rgb([65535, 257, 32896]));
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        let picture = decode(&encode(rgb.clone(), format), &DecodeOptions::default()).unwrap();
        assert_eq!(picture.rgb[..3], [255, 1, 128]);
    }
}

#[test]
fn alpha_is_dropped_or_blended_with_white() {
    let drawing = RgbaImage::from_fn(3, 1, |x, _| Rgba([200, 0, 100, [0, 51, 255][x as usize]]));
    let png = encode(drawing, ImageFormat::Png);
    let dropped = decode(&png, &DecodeOptions::default()).unwrap();
    assert_eq!(dropped.rgb, [200, 0, 100].repeat(3));
    let white = decode(&png, &DecodeOptions { alpha: Alpha::White, ..Default::default() }).unwrap();
    assert_eq!(white.rgb, [255, 255, 255, 244, 204, 224, 200, 0, 100]);
}

#[test]
fn exif_turns_the_picture_upright() {
    // TIFF header, one entry: orientation (0x0112), short, 1 value.
    let exif =
        |n: u8| [&b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..], &[n, 0, 0, 0, 0, 0, 0]].concat();
    let upright = decode(&jpeg(), &DecodeOptions::default()).unwrap();
    let turned = with_segment(&jpeg(), 0xe1, &exif(6));
    let picture = decode(&turned, &DecodeOptions::default()).unwrap();
    assert_eq!((picture.w, picture.h), (50, 70));
    assert!(picture.notes[0].contains("orientation 6"));
    // 90 degrees clockwise: the left edge becomes the top edge.
    for i in 0..50_usize {
        let from = &upright.rgb[(49 - i) * 70 * 3..][..3];
        assert_eq!(&picture.rgb[i * 3..i * 3 + 3], from);
    }
    let as_stored = decode(&turned, &DecodeOptions { ignore_exif: true, ..Default::default() }).unwrap();
    assert_eq!(as_stored.rgb, upright.rgb);
    // A nonsense orientation is no orientation.
    assert_eq!(decode(&with_segment(&jpeg(), 0xe1, &exif(77)), &DecodeOptions::default()).unwrap().rgb, upright.rgb);
}

#[test]
fn truncated_files_are_refused_at_every_cut() {
    for (bytes, name) in [
        (jpeg(), "jpeg"),
        (encode(photo(70, 50), ImageFormat::Png), "png"),
        (encode(photo(70, 50), ImageFormat::Bmp), "bmp"),
        (encode(photo(70, 50), ImageFormat::WebP), "webp"),
    ] {
        for i in 0..50 {
            let cut = bytes.len() * i / 50;
            assert!(decode(&bytes[..cut], &DecodeOptions::default()).is_err(), "{name} cut at {cut}");
        }
        decode(&bytes, &DecodeOptions::default()).unwrap();
    }
}

#[test]
fn damage_is_used_only_on_request() {
    let bytes = jpeg();
    let cut = &bytes[..bytes.len() * 3 / 4];
    assert!(refused(cut).contains("damaged JPEG"));
    let picture = decode(cut, &DecodeOptions { allow_damaged: true, ..Default::default() }).unwrap();
    assert_eq!((picture.w, picture.h), (70, 50));
    assert!(picture.notes[0].contains("damaged"));
}

/// Mean of each channel.
fn mean(picture: &Picture) -> [f64; 3] {
    let n = (picture.rgb.len() / 3) as f64;
    [0, 1, 2].map(|c| picture.rgb.iter().skip(c).step_by(3).map(|v| f64::from(*v)).sum::<f64>() / n)
}

#[test]
fn ycck_is_what_pillow_makes_of_it() {
    // 64 x 40, made by Pillow's encoder with Adobe's transform 2; the means are Pillow 13's.
    let picture = decode(include_bytes!("../../tests/pictures/ycck.jpg"), &DecodeOptions::default()).unwrap();
    for (ours, pillow) in mean(&picture).into_iter().zip([120.0, 120.0, 158.0]) {
        assert!((ours - pillow).abs() <= 1.0, "{ours} {pillow}");
    }
}

#[test]
fn arithmetic_coding_gives_what_huffman_codes_give() {
    let want = decode(include_bytes!("../../tests/pictures/huffman.jpg"), &DecodeOptions::default()).unwrap();
    for bytes in ARITHMETIC {
        assert!(decode(bytes, &DecodeOptions::default()).unwrap() == want);
        for cut in 2..bytes.len() {
            refused(&bytes[..cut]);
        }
        let cut = &bytes[..bytes.len() - 90];
        let picture = decode(cut, &DecodeOptions { allow_damaged: true, ..Default::default() }).unwrap();
        assert!(picture.rgb != want.rgb && picture.notes[0].contains("end early"), "{:?}", picture.notes);
    }
}

/// The coefficients of `huffman.jpg` with restarts, progressive, and a scan for each component.
const ARITHMETIC: [&[u8]; 3] = [
    include_bytes!("../../tests/pictures/arithmetic-sequential.jpg"),
    include_bytes!("../../tests/pictures/arithmetic-progressive.jpg"),
    include_bytes!("../../tests/pictures/arithmetic-scans.jpg"),
];

#[test]
fn headers_are_read_as_libjpeg_reads_them() {
    let plain = decode(&jpeg(), &DecodeOptions::default()).unwrap();
    // Stray bytes behind the first header.
    let jpeg = jpeg();
    let (first, rest) = jpeg.split_at(4 + usize::from(jpeg[5]));
    let stray = [first, b"stray\0\0\0", rest].concat();
    let picture = decode(&stray, &DecodeOptions::default()).unwrap();
    assert!(picture.rgb == plain.rgb && picture.notes[0].contains("stray bytes"), "{:?}", picture.notes);
    // Coefficients that there are not.
    let mut band = jpeg.clone();
    let scan = band.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    let components = usize::from(band[scan + 4]);
    band[scan + 5 + 2 * components..][..3].fill(0xee);
    assert!(decode(&band, &DecodeOptions::default()).unwrap() == plain);
    // A colour transform that there is not, said twice.
    let adobe = b"Adobe\0\x64\0\0\0\0\x33";
    let adobe = with_segment(&with_segment(&jpeg, 0xee, adobe), 0xee, adobe);
    let picture = decode(&adobe, &DecodeOptions::default()).unwrap();
    assert!(picture.rgb == plain.rgb && picture.notes[0].contains("YCbCr"), "{:?}", picture.notes);
}

#[test]
fn a_png_may_lack_its_end_but_no_pixel() {
    let whole = encode(photo(70, 50), ImageFormat::Png);
    let pixels = decode(&whole, &DecodeOptions::default()).unwrap().rgb;
    for cut in 1..=12 {
        let picture = decode(&whole[..whole.len() - cut], &DecodeOptions::default()).unwrap();
        assert!(picture.rgb == pixels && picture.notes[0].contains("its pixels are whole"), "{cut}");
    }
    assert!(decode(&whole[..whole.len() - 13], &DecodeOptions::default()).is_err());
}

#[test]
fn older_formats_are_read() {
    for format in [ImageFormat::Pnm, ImageFormat::Tga, ImageFormat::Ico] {
        // Icons have transparency.
        let image = DynamicImage::from(photo(33, 21));
        let image = if format == ImageFormat::Ico { image.into_rgba8().into() } else { image };
        let picture = decode(&encode(image, format), &DecodeOptions::default()).unwrap();
        assert!((picture.w, picture.h) == (33, 21) && picture.rgb == *photo(33, 21).as_raw(), "{format:?}");
    }
}

#[test]
fn what_would_come_out_wrong_is_refused_by_name() {
    let mut hierarchical = jpeg();
    let sof = hierarchical.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    hierarchical[sof + 1] = 0xcd;
    assert!(refused(&hierarchical).contains("hierarchical"));
    assert!(refused(b"\0\0\0\x20ftypheic....").contains("HEIC"));
    let mut webp = encode(photo(9, 9), ImageFormat::WebP);
    webp[5] += 1;
    assert!(refused(&webp).contains("truncated WebP"));
}

#[test]
fn headers_that_promise_too_much_are_refused_before_memory_is_taken() {
    let mut taken = 0;
    let mut try_size = |w: u32, h: u32| {
        let mut png = encode(photo(4, 4), ImageFormat::Png);
        png[16..20].copy_from_slice(&w.to_be_bytes());
        png[20..24].copy_from_slice(&h.to_be_bytes());
        one_line(decode_within(&png, &DecodeOptions::default(), &mut |n| taken += n).unwrap_err())
    };
    assert!(try_size(60_000, 60_000).contains("60000 x 60000"));
    assert!(try_size(30_000, 20_000).contains("too large"));
    assert!(try_size(10_000, 10_000).contains("cannot be in"));
    assert!(try_size(0, 5).contains("no pixels"));
    let mut bomb = jpeg();
    let sof = bomb.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bomb[sof + 5..sof + 9].copy_from_slice(&[0x2e, 0xe0, 0x2e, 0xe0]);
    let e = decode_within(&bomb, &DecodeOptions::default(), &mut |n| taken += n).unwrap_err();
    assert!(one_line(e).contains("12000 x 12000"));
    assert_eq!(taken, 0);
}

#[test]
fn a_file_error_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [("missing.jpg", None), ("text.jpg", Some("hello")), ("empty.png", Some(""))] {
        let path = dir.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let e = one_line(decode_file(&path, &DecodeOptions::default()).unwrap_err());
        assert!(e.contains(name), "{e}");
    }
    assert!(one_line(decode_file(dir.path(), &DecodeOptions::default()).unwrap_err()).contains("folder"));
}

#[test]
fn a_panic_of_a_decoder_is_caught_and_silent() {
    assert_eq!(quiet::catch(|| -> u8 { panic!("decoder bug") }), None);
    assert_eq!(quiet::catch(|| 3), Some(3));
}

fn seeds() -> Vec<Vec<u8>> {
    let small = photo(19, 13);
    let mut seeds: Vec<_> = [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Pnm,
        ImageFormat::Tga,
    ]
    .map(|f| encode(small.clone(), f))
    .into();
    seeds.push(jpeg());
    let mut grey = Vec::new();
    JpegEncoder::new(&mut grey).encode(&[90; 256], 16, 16, ExtendedColorType::L8).unwrap();
    seeds.push(grey);
    seeds.extend(ARITHMETIC.map(Vec::from));
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn mutated_files_give_a_picture_or_one_line(
        which in 0..12_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        allow_damaged: bool,
    ) {
        let mut bytes = seeds().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match decode(&bytes, &DecodeOptions { allow_damaged, ..Default::default() }) {
            Ok(p) => prop_assert_eq!(p.rgb.len(), p.w as usize * p.h as usize * 3),
            Err(e) => { one_line(e); }
        }
    }
}
