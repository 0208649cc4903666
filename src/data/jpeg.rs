/*! JPEG, decoded strictly. `image` asks the same decoder to be lenient and then accepts most truncated files as
half-grey pictures; strict mode refuses them. The few files that only open leniently are called damaged and used only on
request. A walk over the markers before the first allocation finds the size, the colour models, and stray bytes between the
headers, which are left out as libjpeg does. */

use super::decode::{DecodeOptions, MAX_MEMORY, MAX_SIDE, check_size, unreadable};
use super::{arithmetic, exif};
use crate::error::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use std::borrow::Cow;
use std::ops::Range;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

/// A complete Huffman-coded JPEG spends at least one bit on each 8x8 block, hence at most this many pixels per byte.
const PIXELS_PER_BYTE: u64 = 512;
/// An arithmetic-coded one may spend far less where a picture is flat.
const ARITHMETIC_PIXELS_PER_BYTE: u64 = 64 * PIXELS_PER_BYTE;

/// What the markers before the first scan say.
#[derive(Default)]
struct Frame {
    width: u32,
    height: u32,
    components: u8,
    precision: u8,
    /// 0xC0-0xCF.
    sof: u8,
    /// Bytes between the headers that belong to none.
    stray: Vec<Range<usize>>,
    /// Where a colour transform of Adobe's stands that is none that there is.
    transforms: Vec<usize>,
    /// Where the first scan says which coefficients it has.
    band: usize,
}

fn walk(bytes: &[u8]) -> Result<Frame> {
    let truncated = || Error::job("the JPEG ends before its picture begins").fix("copy or download it again");
    let mut frame = Frame::default();
    let mut i = 2;
    // Where the next header should begin.
    let mut next = i;
    while let Some(offset) = bytes[i..].iter().position(|&b| b == 0xff) {
        i += offset;
        // Any number of 0xff may stand before a marker.
        i += bytes[i..].iter().position(|&b| b != 0xff).ok_or_else(truncated)?;
        let marker = bytes[i];
        i += 1;
        if matches!(marker, 0x00 | 0x01 | 0xd0..=0xd8) {
            continue;
        }
        if next < i - 2 {
            frame.stray.push(next..i - 2);
        }
        match marker {
            0xd9 => break,
            0xda if frame.sof == 0 => return Err(truncated()),
            0xda => {
                let components = *bytes.get(i + 2).ok_or_else(truncated)?;
                return Ok(Frame { band: i + 3 + 2 * components as usize, ..frame });
            }
            _ => {}
        }
        let length = bytes.get(i..i + 2).map(|b| u16::from_be_bytes([b[0], b[1]]) as usize).ok_or_else(truncated)?;
        let body = bytes.get(i + 2..i + length.max(2)).ok_or_else(truncated)?;
        match marker {
            0xc4 | 0xc8 | 0xcc => {}
            0xc0..=0xcf => {
                let [precision, h0, h1, w0, w1, components, ..] = *body else { return Err(truncated()) };
                let (width, height) = (u16::from_be_bytes([w0, w1]) as u32, u16::from_be_bytes([h0, h1]) as u32);
                frame = Frame { width, height, components, precision, sof: marker, ..frame };
            }
            0xee if body.starts_with(b"Adobe") => {
                frame.transforms.extend(body.get(11).filter(|t| **t > 2).map(|_| i + 2 + 11));
            }
            _ => {}
        }
        i += length.max(2);
        next = i;
    }
    Err(truncated())
}

/// The picture, its orientation, and a remark if it had to be read leniently.
/// `admit` is told the memory needed before any is taken.
pub fn decode(
    bytes: &[u8],
    opts: &DecodeOptions,
    admit: &mut dyn FnMut(u64),
) -> Result<(DynamicImage, Orientation, Option<String>)> {
    let frame = walk(bytes)?;
    check_size(frame.width, frame.height)?;
    let refuse = |what: &str| Err(Error::job(format!("is {what}, which is not read")).fix("save it as an RGB JPEG"));
    match frame.sof {
        0xc0..=0xc2 | 0xc9 | 0xca => {}
        0xc3 | 0xc7 | 0xcb | 0xcf => return refuse("a lossless JPEG"),
        _ => return refuse("a hierarchical JPEG"),
    }
    if frame.precision != 8 {
        return refuse(&format!("a {}-bit JPEG", frame.precision));
    }
    let arithmetic = matches!(frame.sof, 0xc9 | 0xca);
    let pixels = frame.width as u64 * frame.height as u64;
    let most = if arithmetic { ARITHMETIC_PIXELS_PER_BYTE } else { PIXELS_PER_BYTE };
    if pixels > (bytes.len() as u64).saturating_mul(most) + 65_536 {
        return Err(super::decode::too_few_bytes(frame.width, frame.height, bytes.len()));
    }
    // Coefficients of 16 bits of every component are held besides the pixels, where several scans may make them.
    let memory = pixels * if arithmetic || frame.sof == 0xc2 { 3 + 2 * frame.components as u64 } else { 3 };
    if memory > MAX_MEMORY {
        return Err(super::decode::too_large(frame.width, frame.height));
    }
    admit(memory);
    let (mut bytes, mut note) = (Cow::Borrowed(bytes), None);
    for at in frame.transforms {
        // What libjpeg takes it for: YCbCr, and YCCK with a fourth component.
        bytes.to_mut()[at] = if frame.components == 4 { 2 } else { 1 };
        note = Some("its colour transform is none that there is, and taken for YCbCr".to_string());
    }
    // A sequential scan has all coefficients of its components, whatever it says.
    if frame.sof <= 0xc1 && bytes.get(frame.band..frame.band + 3).is_some_and(|b| b != [0, 63, 0]) {
        bytes.to_mut()[frame.band..frame.band + 3].copy_from_slice(&[0, 63, 0]);
    }
    if !frame.stray.is_empty() {
        bytes = Cow::Owned(without(&bytes, &frame.stray));
        note = Some("stray bytes between its headers are passed over".to_string());
    }
    let mut damage = None;
    if arithmetic {
        let (huffman, damaged) = arithmetic::huffman(&bytes).map_err(|why| unreadable("JPEG", why))?;
        (bytes, damage) = (Cow::Owned(huffman), damaged);
    }
    let strict = match damage {
        Some(damage) => Err(damage),
        None => run(&bytes, true),
    };
    match strict {
        Ok((image, orientation)) => Ok((image, orientation, note)),
        Err(strict) => match run(&bytes, false) {
            Ok((image, orientation)) if opts.allow_damaged => {
                Ok((image, orientation, Some(format!("damaged, used as far as it goes: {strict}"))))
            }
            Ok(_) => Err(Error::job(format!("damaged JPEG: {strict}"))
                .fix("copy it again, or allow damaged files to use it as far as it goes")),
            Err(_) => Err(unreadable("JPEG", strict)),
        },
    }
}

/// The bytes without those at `ranges`, which ascend.
fn without(bytes: &[u8], ranges: &[Range<usize>]) -> Vec<u8> {
    let (mut kept, mut from) = (Vec::with_capacity(bytes.len()), 0);
    for range in ranges {
        kept.extend_from_slice(&bytes[from..range.start]);
        from = range.end;
    }
    kept.extend_from_slice(&bytes[from..]);
    kept
}

fn run(bytes: &[u8], strict: bool) -> Result<(DynamicImage, Orientation), String> {
    let options = DecoderOptions::default()
        .set_strict_mode(strict)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    // The decoder's Display is its Debug: some messages come in quotes.
    let say = |e: zune_jpeg::errors::DecodeErrors| e.to_string().trim_matches('"').to_string();
    decoder.decode_headers().map_err(say)?;
    let gray = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let space = if gray { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(space));
    let pixels = decoder.decode().map_err(say)?;
    let (w, h) = decoder.dimensions().ok_or("no dimensions")?;
    let (w, h) = (w as u32, h as u32);
    let image = if gray {
        GrayImage::from_raw(w, h, pixels).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(w, h, pixels).map(DynamicImage::from)
    };
    let orientation = decoder.exif().and_then(|e| exif::orientation(e));
    Ok((image.ok_or("fewer pixels than declared")?, orientation.unwrap_or(Orientation::NoTransforms)))
}
