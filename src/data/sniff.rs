/*! What a file is, by its first bytes: endings lie (OASIS ships a PNG called `.jpg`). Formats that are not read are
recognised too, because "is a HEIC picture" helps and "unknown format" does not. */

use crate::error::{Error, Result};
use crate::files;
use image::ImageFormat;
use std::io::Read;
use std::path::Path;

/// Endings of the formats that are read, for listing folders and for joining by name.
pub const ENDINGS: [&str; 19] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "pam",
    "tga", "ico", "cur",
];

/// Endings of pictures that are not read; a folder listing names them instead of dropping them.
pub const UNREAD_ENDINGS: [&str; 15] =
    ["avif", "heic", "heif", "hif", "jxl", "jp2", "svg", "psd", "exr", "hdr", "cr2", "nef", "arw", "dng", "qoi"];

/// The format, if it is one of those read.
pub fn format(bytes: &[u8]) -> Result<ImageFormat> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|b| b.starts_with(magic));
    let read = if starts(b"\xff\xd8\xff") {
        Some(ImageFormat::Jpeg)
    } else if starts(b"\x89PNG\r\n\x1a\n") {
        Some(ImageFormat::Png)
    } else if starts(b"RIFF") && at(8, b"WEBP") {
        Some(ImageFormat::WebP)
    } else if starts(b"GIF87a") || starts(b"GIF89a") {
        Some(ImageFormat::Gif)
    } else if starts(b"BM") {
        Some(ImageFormat::Bmp)
    } else if (starts(b"II*\0") && !at(8, b"CR")) || starts(b"MM\0*") || starts(b"II+\0") || starts(b"MM\0+") {
        Some(ImageFormat::Tiff)
    } else if matches!(bytes, [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n' | b'#', ..]) {
        Some(ImageFormat::Pnm)
    } else if starts(b"\0\0\x01\0") || starts(b"\0\0\x02\0") && !bytes.ends_with(b"TRUEVISION-XFILE.\0") && icons(bytes)
    {
        Some(ImageFormat::Ico)
    } else if tga(bytes) {
        Some(ImageFormat::Tga)
    } else {
        None
    };
    if let Some(format) = read {
        return Ok(format);
    }
    if bytes.is_empty() {
        return Err(Error::job("the file is empty").fix("copy or download it again"));
    }
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).to_ascii_lowercase();
    let text = head.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return Err(Error::job("is a web page, not a picture").fix("download the picture itself"));
    }
    if text.starts_with("version https://git-lfs") {
        return Err(Error::job("is a Git LFS pointer, not the picture").fix("run `git lfs pull`"));
    }
    let name = match bytes {
        _ if at(4, b"ftypavif") || at(4, b"ftypavis") => "an AVIF picture",
        _ if at(4, b"ftyphei") || at(4, b"ftyphev") || at(4, b"ftypmif1") || at(4, b"ftypmsf1") => "a HEIC picture",
        _ if at(4, b"ftypcrx") || (starts(b"II*\0") && at(8, b"CR")) => "a Canon RAW picture",
        _ if at(4, b"ftyp") => "a video",
        _ if starts(b"\xff\x0a") || at(4, b"JXL \r\n") => "a JPEG XL picture",
        _ if at(4, b"jP  \r\n") || starts(b"\xff\x4f\xff\x51") => "a JPEG 2000 picture",
        _ if text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg")) => "an SVG drawing",
        _ if starts(b"%PDF") => "a PDF document",
        _ if starts(b"%!PS") => "a PostScript document",
        _ if starts(b"8BPS") => "a Photoshop document (PSD)",
        _ if starts(b"gimp xcf") => "a GIMP document (XCF)",
        _ if starts(b"/* XPM */") => "an XPM icon",
        _ if text.starts_with("#define ") && text.contains("_width ") => "an XBM bitmap",
        _ if starts(b"BLP1") || starts(b"BLP2") => "a BLP texture",
        _ if starts(b"\xb1\x68\xde\x3a") || matches!(bytes, [0x0a, 0..=5, 0..=1, 1 | 2 | 4 | 8, ..]) => "a PCX picture",
        _ if starts(b"\x01\xda") => "an SGI picture",
        _ if starts(b"\x59\xa6\x6a\x95") => "a Sun raster",
        _ if starts(b"SIMPLE  =") => "a FITS picture",
        _ if starts(b"icns") => "a set of Apple's icons",
        _ if starts(b"AT&TFORM") => "a DjVu document",
        _ if starts(b"\xd7\xcd\xc6\x9a") || (starts(b"\x01\0\0\0") && at(40, b" EMF")) => "a Windows metafile",
        _ if starts(b"\x8aMNG") || starts(b"\x8bJNG") => "an MNG or JNG picture",
        _ if starts(b"\x76\x2f\x31\x01") => "an OpenEXR picture",
        _ if starts(b"#?RADIANCE") => "a Radiance HDR picture",
        _ if starts(b"DDS ") => "a DDS texture",
        _ if starts(b"qoif") => "a QOI picture",
        _ if starts(b"FUJIFILM") => "a Fujifilm RAW picture",
        _ if starts(b"PK\x03\x04") => "a zip archive",
        _ => {
            return Err(Error::job("is not a picture of a known format")
                .fix("JPEG, PNG, WebP, GIF, BMP, TIFF, PNM, TGA and icons are read, whatever the file is called"));
        }
    };
    Err(Error::job(format!("is {name}, which is not read")).fix("save it as JPEG or PNG"))
}

/// Whether what looks like a list of cursors is one: some, the first behind the list. A TGA begins alike.
fn icons(bytes: &[u8]) -> bool {
    let Some(&[a, b, _, _, _, _, _, _, _, _, _, _, _, _, o0, o1, o2, o3]) =
        bytes.get(4..22).and_then(|b| b.first_chunk())
    else {
        return false;
    };
    let (n, offset) = (u16::from_le_bytes([a, b]) as usize, u32::from_le_bytes([o0, o1, o2, o3]) as usize);
    n > 0 && (6 + 16 * n..bytes.len()).contains(&offset)
}

/// Whether this may be a TGA, which begins with no mark of its own: every field of its header has one of the few values
/// that mean something.
fn tga(bytes: &[u8]) -> bool {
    let Some(&[_, map, kind, _, _, m0, m1, map_bits, _, _, _, _, w0, w1, h0, h1, bits, flags]) = bytes.first_chunk()
    else {
        return false;
    };
    let mapped = match kind {
        1 | 9 => map == 1 && (m0 | m1) != 0 && matches!(map_bits, 15 | 16 | 24 | 32) && bits == 8,
        2 | 10 => map <= 1 && matches!(bits, 15 | 16 | 24 | 32),
        3 | 11 => map <= 1 && matches!(bits, 8 | 16),
        _ => false,
    };
    mapped && (w0 | w1) != 0 && (h0 | h1) != 0 && flags & 0xc0 == 0
}

/// Why a picture file is left out, told by its first bytes.
pub fn refusal(path: &Path) -> String {
    let mut head = Vec::new();
    let read = files::open(path).and_then(|f| f.take(4096).read_to_end(&mut head));
    match read.map(|_| format(&head)) {
        Ok(Ok(_)) => "has another format than its ending says; rename it".into(),
        Ok(Err(e)) => e.to_string(),
        Err(e) => format!("cannot be read: {e}"),
    }
}

/// True if the file holds several frames, by a glance at its headers; used for a remark only.
pub fn animated(format: ImageFormat, bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(4096)];
    let has = |magic: &[u8]| head.windows(magic.len()).any(|w| w == magic);
    match format {
        ImageFormat::Gif => has(b"NETSCAPE2.0"),
        ImageFormat::Png => has(b"acTL"),
        ImageFormat::WebP => bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|flags| flags & 2 != 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_without_a_mark_of_their_own() {
        let tga = |kind: u8, bits: u8| [0, 0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, bits, 0, 1, 2, 3, 4, 5, 6];
        assert_eq!(format(&tga(2, 24)).unwrap(), ImageFormat::Tga);
        assert_eq!(format(&tga(10, 32)).unwrap(), ImageFormat::Tga);
        assert!(format(&tga(2, 25)).is_err() && format(&tga(7, 24)).is_err());
        assert_eq!(format(b"P6\n1 1\n255\n...").unwrap(), ImageFormat::Pnm);
        assert_eq!(format(b"\0\0\x01\0\x01\0").unwrap(), ImageFormat::Ico);
    }

    #[test]
    fn others_are_refused_by_name() {
        for (bytes, name) in [
            (&b""[..], "empty"),
            (b"\0\0\0\x20ftypavif", "AVIF"),
            (b"\0\0\0\x20ftypheic", "HEIC"),
            (b"\xff\x0a123", "JPEG XL"),
            (b"<?xml version='1.0'?><svg>", "SVG"),
            (b"%PDF-1.7", "PDF"),
            (b"8BPS\0\x01", "Photoshop document (PSD)"),
            (b"DDS |\0\0\0", "DDS texture"),
            (b"qoif\0\0\0\x01", "QOI"),
            (b"#define a_width 8\n", "XBM"),
            (b"\x0a\x05\x01\x08", "PCX"),
            (b"\n<!DOCTYPE html>", "web page"),
            (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
            (b"hello", "not a picture"),
        ] {
            let e = format(bytes).unwrap_err().to_string();
            assert!(e.contains(name), "{e}");
        }
    }
}
