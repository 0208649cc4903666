/*! One picture file to RGB bytes. The format is taken from the content, the size is checked before anything is allocated,
damaged files are refused rather than half used, and whatever the decoders do (long messages, panics) comes out as one
line.

Colours are what Pillow's `convert("RGB")` gives, which is what the published networks were trained on: alpha is dropped,
not blended. The one exception is 16-bit grey, which is scaled where Pillow clips it to white. EXIF orientation is applied,
because people rated upright pictures. */

use super::{exif, jpeg, rewrite, sniff, tiff};
use crate::error::{Error, Result};
use crate::files;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{Cursor, Read};
use std::path::Path;

/// Longest side, in pixels.
pub const MAX_SIDE: u32 = 30_000;
/// Largest picture, in pixels.
pub const MAX_PIXELS: u64 = 200_000_000;
/// Largest file, in bytes.
pub const MAX_FILE: u64 = 256 << 20;
/// Most memory one picture may take, in bytes.
pub const MAX_MEMORY: u64 = 1 << 30;

/// What to do with transparency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alpha {
    /// Whatever colour stands under it shows: Pillow's `convert("RGB")`, and what photographs want.
    #[default]
    Drop,
    /// Blended with white: drawings and emoji, whose transparent part hides black.
    White,
}

/// How to read pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DecodeOptions {
    /// Leave the picture as stored, as most published pipelines do.
    pub ignore_exif: bool,
    pub alpha: Alpha,
    /// Use a damaged JPEG as far as it goes.
    pub allow_damaged: bool,
}

/// A decoded picture, upright.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub w: u32,
    pub h: u32,
    /// `[h, w, 3]`.
    pub rgb: Vec<u8>,
    /// Remarks for a report: damaged, first frame of several, turned.
    pub notes: Vec<String>,
}

/// Decodes the bytes of a file. The error does not name the file: the caller knows it.
pub fn decode(bytes: &[u8], opts: &DecodeOptions) -> Result<Picture> {
    decode_within(bytes, opts, &mut |_| {})
}

/// [`decode`], telling `admit` how many bytes the picture will take before they are taken.
pub fn decode_within(bytes: &[u8], opts: &DecodeOptions, admit: &mut dyn FnMut(u64)) -> Result<Picture> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::job(format!("has {} MiB, and {} are read at most", bytes.len() >> 20, MAX_FILE >> 20))
            .fix("reduce the picture"));
    }
    let format = sniff::format(bytes)?;
    // tiff 0.11 panics on tiled planar files; a decoder's bug must not end the job.
    let caught = quiet::catch(|| {
        let (image, orientation, damage) = match format {
            ImageFormat::Jpeg => jpeg::decode(bytes, opts, admit)?,
            _ => other(bytes, format, admit)?,
        };
        let mut notes: Vec<String> = damage.into_iter().collect();
        if sniff::animated(format, bytes) {
            notes.push("several frames: the first is used".into());
        }
        let mut image = flatten(image, opts.alpha);
        if !opts.ignore_exif && orientation != Orientation::NoTransforms {
            notes.push(format!("turned upright (EXIF orientation {})", orientation.to_exif()));
            image.apply_orientation(orientation);
        }
        let (w, h) = (image.width(), image.height());
        Ok(Picture { w, h, rgb: image.into_rgb8().into_raw(), notes })
    });
    caught.unwrap_or_else(|| Err(unreadable(name(format), "the decoder gave up on it")))
}

/// Reads and decodes a file; the error names it.
pub fn decode_file(path: impl AsRef<Path>, opts: &DecodeOptions) -> Result<Picture> {
    let path = path.as_ref();
    decode(&read(path)?, opts).map_err(|e| Error::file(path, e.to_string()))
}

/// The bytes of a picture file, unless it is a folder, a device or larger than [`MAX_FILE`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
    if meta.is_dir() {
        return Err(Error::file(path, "is a folder, not a picture").fix("name a file"));
    }
    // Opening a pipe would wait for a writer.
    if !meta.is_file() {
        return Err(Error::file(path, "is not a regular file").fix("name a picture file"));
    }
    if meta.len() > MAX_FILE {
        return Err(Error::file(
            path,
            format!("has {} MiB, and {} are read at most", meta.len() >> 20, MAX_FILE >> 20),
        )
        .fix("reduce the picture"));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    // The file may have grown since: one byte past the limit is enough to be refused.
    let file = files::open(path).map_err(|e| Error::io(path, "read", e))?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    Ok(bytes)
}

/// Everything but JPEG: as it is, or written as the decoders want it.
fn other(
    bytes: &[u8],
    format: ImageFormat,
    admit: &mut dyn FnMut(u64),
) -> Result<(DynamicImage, Orientation, Option<String>)> {
    if format == ImageFormat::Tiff
        && let Some(read) = tiff::decode(bytes, admit)
    {
        return read.map(|(image, orientation)| (image, orientation, None));
    }
    let plain = plain(bytes, format, admit);
    if plain.is_ok() {
        return plain;
    }
    match format {
        ImageFormat::Bmp => rewrite::bmp(bytes).map(|b| (format, b.into())),
        ImageFormat::Ico => rewrite::png_of_icon(bytes).map(|b| (ImageFormat::Png, Cow::Borrowed(b))),
        _ => None,
    }
    .and_then(|(format, bytes)| self::plain(&bytes, format, admit).ok())
    .map_or(plain, Ok)
}

fn plain(
    bytes: &[u8],
    format: ImageFormat,
    admit: &mut dyn FnMut(u64),
) -> Result<(DynamicImage, Orientation, Option<String>)> {
    let say = |e: image::ImageError| unreadable(name(format), e);
    let (mut bytes, mut note) = (Cow::Borrowed(bytes), None);
    if format == ImageFormat::Png {
        png_size(&bytes)?;
        if let Some(ended) = png_ended(&bytes) {
            (bytes, note) =
                (Cow::Owned(ended), Some("the end of the PNG is missing, its pixels are whole".to_string()));
        }
    }
    // The decoder stops after the first frame and does not miss the rest. A lost padding byte is forgiven.
    if let (ImageFormat::WebP, Some(&size)) = (format, bytes.get(4..8).and_then(|b| b.first_chunk())) {
        let declared = u32::from_le_bytes(size) as u64 + 8;
        if declared > bytes.len() as u64 + 1 {
            let problem = format!("truncated WebP: {} of {declared} bytes", bytes.len());
            return Err(Error::job(problem).fix("copy or download it again"));
        }
    }
    let mut reader = ImageReader::with_format(Cursor::new(&*bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(say)?;
    let (w, h) = decoder.dimensions();
    check_size(w, h)?;
    let (pixels, len) = (w as u64 * h as u64, bytes.len() as u64);
    // The densest a complete file can be: GIF's longest code, the longest runs of BMP and TGA, a bit a pixel. Small
    // pictures are simply tried.
    let most = match format {
        ImageFormat::Gif | ImageFormat::Ico => 4096 * len,
        ImageFormat::Bmp => 256 * len,
        ImageFormat::Tga => 128 * len,
        ImageFormat::Pnm => 8 * len,
        _ => u64::MAX,
    };
    if pixels > most.saturating_add(4 << 20) {
        return Err(too_few_bytes(w, h, bytes.len()));
    }
    let memory = decoder.total_bytes().saturating_add(pixels * 3);
    if decoder.total_bytes() > MAX_MEMORY {
        return Err(too_large(w, h));
    }
    admit(memory);
    // Broken EXIF does not make a picture unusable.
    let exif = decoder.exif_metadata().ok().flatten();
    let orientation = match exif.as_deref().map(exif::orientation) {
        Some(stated) => stated.unwrap_or(Orientation::NoTransforms),
        None => decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    Ok((DynamicImage::from_decoder(decoder).map_err(say)?, orientation, note))
}

/// Refuses a PNG whose header promises more than its bytes can hold (deflate shrinks 1032:1 at best).
fn png_size(bytes: &[u8]) -> Result<()> {
    let Some(&[w0, w1, w2, w3, h0, h1, h2, h3, depth, colour]) = bytes.get(16..26).and_then(|b| b.first_chunk()) else {
        return Err(unreadable("PNG", "the header is missing"));
    };
    let (w, h) = (u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]));
    check_size(w, h)?;
    let channels = [1, 1, 3, 1, 2, 1, 4].get(colour as usize).copied().unwrap_or(1);
    let raw = h as u64 * (1 + (w as u64 * channels * depth as u64).div_ceil(8));
    if raw > (1032 * bytes.len() as u64).saturating_add(4 << 20) {
        return Err(too_few_bytes(w, h, bytes.len()));
    }
    Ok(())
}

/// A PNG whose chunks are whole up to where the file stops, with the end (IEND) that it lacks; None for any other. What
/// its pixels lack is found when they are decoded.
fn png_ended(bytes: &[u8]) -> Option<Vec<u8>> {
    const END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";
    let (mut at, mut data) = (8, false);
    while let Some(&[a, b, c, d, ref kind @ ..]) = bytes.get(at..at + 8).and_then(|h| h.first_chunk::<8>()) {
        let next = (u32::from_be_bytes([a, b, c, d]) as usize).checked_add(at + 12)?;
        if kind == b"IEND" || next > bytes.len() {
            break;
        }
        data |= kind == b"IDAT";
        at = next;
    }
    // At most the beginning of the end may stand behind the last whole chunk.
    (data && bytes.len() - at < END.len() && END.starts_with(&bytes[at..])).then(|| [&bytes[..at], END].concat())
}

/// RGB, or grey, in 8 bits.
fn flatten(image: DynamicImage, alpha: Alpha) -> DynamicImage {
    if alpha == Alpha::Drop || !image.color().has_alpha() {
        return image.into_rgb8().into();
    }
    let rgba = image.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let a = from[3] as u32;
        to.0 = [from[0], from[1], from[2]].map(|c| ((c as u32 * a + 255 * (255 - a) + 127) / 255) as u8);
    }
    rgb.into()
}

pub(super) fn check_size(w: u32, h: u32) -> Result<()> {
    if w == 0 || h == 0 {
        return Err(Error::job(format!("the picture has no pixels ({w} x {h})")).fix("export it again"));
    }
    if w > MAX_SIDE || h > MAX_SIDE || w as u64 * h as u64 > MAX_PIXELS {
        return Err(too_large(w, h));
    }
    Ok(())
}

pub(super) fn too_large(w: u32, h: u32) -> Error {
    let limits = format!("{MAX_SIDE} pixels a side, {} million and {} MiB", MAX_PIXELS / 1_000_000, MAX_MEMORY >> 20);
    Error::job(format!("the picture is too large ({w} x {h}; the limits are {limits})")).fix("reduce it")
}

pub(super) fn too_few_bytes(w: u32, h: u32, bytes: usize) -> Error {
    Error::job(format!("{w} x {h} pixels cannot be in {bytes} bytes: truncated, or made to exhaust memory"))
        .fix("copy or download it again")
}

pub(super) fn unreadable(format: &str, why: impl std::fmt::Display) -> Error {
    // Decoders quote what they met; a line is enough.
    let why: String = why.to_string().chars().take(200).collect();
    Error::job(format!("damaged or unusual {format}: {}", why.trim())).fix("open it in a viewer and save it again")
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Pnm => "PNM",
        ImageFormat::Tga => "TGA",
        ImageFormat::Ico => "icon",
        _ => "TIFF",
    }
}

/// Panics of others, caught without the message that the runtime prints by default: the library never prints.
pub(super) mod quiet {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
    use std::sync::Once;

    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }

    /// None if `f` panicked.
    pub fn catch<T>(f: impl FnOnce() -> T) -> Option<T> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = take_hook();
            set_hook(Box::new(move |info| {
                if !QUIET.get() {
                    before(info)
                }
            }));
        });
        let was = QUIET.replace(true);
        let result = catch_unwind(AssertUnwindSafe(f));
        QUIET.set(was);
        result.ok()
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
