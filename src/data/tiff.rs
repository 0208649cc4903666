/*! TIFF pictures that `image` leaves to its decoder: palettes, greys of 2 and 4 bits, and YCbCr, as scanners and JPEG in TIFF
write them. Pixels are what Pillow makes of them. */

use super::decode::{MAX_MEMORY, check_size, too_large, unreadable};
use crate::error::Result;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use std::io::Cursor;
use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

/// What numbers of tag 262 mean.
const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;
const YCBCR: u16 = 6;

/// The picture and how it is to be turned; None if it is of a kind that `image` reads, or that nobody here does.
pub fn decode(bytes: &[u8], admit: &mut dyn FnMut(u64)) -> Option<Result<(DynamicImage, Orientation)>> {
    let (at, meaning) = meaning(bytes)?;
    // Indices and inverted greys are decoded as greys: the decoder knows no palette, and inverts bytes alone.
    let mut bytes = bytes.to_vec();
    if meaning == PALETTE || meaning == WHITE_IS_ZERO {
        let value = if bytes[0] == b'I' { BLACK_IS_ZERO.to_le_bytes() } else { BLACK_IS_ZERO.to_be_bytes() };
        bytes[at..at + 2].copy_from_slice(&value);
    }
    let mut limits = Limits::default();
    (limits.decoding_buffer_size, limits.intermediate_buffer_size) = (MAX_MEMORY as usize, MAX_MEMORY as usize);
    let mut file = Decoder::new(Cursor::new(bytes)).ok()?.with_limits(limits);
    let bits = match (meaning, file.colortype().ok()?) {
        (WHITE_IS_ZERO | BLACK_IS_ZERO, ColorType::Gray(bits @ (2 | 4))) => bits,
        (PALETTE, ColorType::Gray(bits @ (1 | 2 | 4 | 8))) => bits,
        (YCBCR, ColorType::YCbCr(8)) => 8,
        _ => return None,
    };
    // The lowest bit of a byte may come first, which the decoder does not heed.
    let reversed = file.find_tag_unsigned::<u16>(Tag::FillOrder).ok()? == Some(2);
    if reversed && file.find_tag_unsigned::<u16>(Tag::Compression).ok()?.is_some_and(|c| c != 1) {
        return None;
    }
    Some(pixels(&mut file, meaning, bits, reversed, admit))
}

fn pixels(
    file: &mut Decoder<Cursor<Vec<u8>>>,
    meaning: u16,
    bits: u8,
    reversed: bool,
    admit: &mut dyn FnMut(u64),
) -> Result<(DynamicImage, Orientation)> {
    let say = |e: tiff::TiffError| unreadable("TIFF", e);
    let (w, h) = file.dimensions().map_err(say)?;
    check_size(w, h)?;
    let count = w as u64 * h as u64;
    if 2 * 3 * count > MAX_MEMORY {
        return Err(too_large(w, h));
    }
    admit(2 * 3 * count);
    let orientation = file.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    let orientation = orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    let colours = match meaning {
        PALETTE => file.get_tag_u16_vec(Tag::ColorMap).map_err(say)?,
        _ => vec![],
    };
    let fewer = || unreadable("TIFF", "fewer pixels than declared");
    let DecodingResult::U8(mut data) = file.read_image().map_err(say)? else { return Err(fewer()) };
    if reversed {
        data.iter_mut().for_each(|b| *b = b.reverse_bits());
    }
    let image: Option<DynamicImage> = if meaning == YCBCR {
        if data.len() as u64 != 3 * count {
            return Err(fewer());
        }
        let rgb = data.as_chunks::<3>().0.iter().flat_map(|c| rgb(*c)).collect();
        RgbImage::from_raw(w, h, rgb).map(Into::into)
    } else {
        // Rows begin at whole bytes.
        let row = (w as usize * bits as usize).div_ceil(8);
        if data.len() != row * h as usize {
            return Err(fewer());
        }
        let (per, top) = (8 / bits as usize, ((1u16 << bits) - 1) as u8);
        let value = |row: &[u8], x: usize| row[x / per] >> (bits as usize * (per - 1 - x % per)) & top;
        let values = data.chunks(row).flat_map(|row| (0..w as usize).map(move |x| value(row, x)));
        if meaning == PALETTE {
            // All reds, then all greens, then all blues, in 16 bits.
            let n = 1 << bits;
            if colours.len() < 3 * n {
                return Err(unreadable("TIFF", format!("a palette of {} numbers, not {}", colours.len(), 3 * n)));
            }
            let rgb =
                values.flat_map(|v| [0, n, 2 * n].map(|first| (colours[first + v as usize] >> 8) as u8)).collect();
            RgbImage::from_raw(w, h, rgb).map(Into::into)
        } else {
            let grey = |v: u8| if meaning == WHITE_IS_ZERO { top - v } else { v } * (255 / top);
            GrayImage::from_raw(w, h, values.map(grey).collect()).map(Into::into)
        }
    };
    Ok((image.ok_or_else(fewer)?, orientation))
}

/// JFIF's conversion in libjpeg's integers, 16 bits behind the point.
fn rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let [y, cb, cr] = [y as i32, cb as i32 - 128, cr as i32 - 128];
    let parts = [91881 * cr, -22554 * cb - 46802 * cr, 116_130 * cb];
    parts.map(|p| (y + ((p + 32768) >> 16)).clamp(0, 255) as u8)
}

/// Where the first directory says what its numbers mean (tag 262), and what it says.
fn meaning(bytes: &[u8]) -> Option<(usize, u16)> {
    let little = bytes.starts_with(b"II*\0");
    if !little && !bytes.starts_with(b"MM\0*") {
        return None;
    }
    let u16_at = |at: usize| {
        let b = *bytes.get(at..)?.first_chunk::<2>()?;
        Some(if little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) })
    };
    let first = *bytes.get(4..)?.first_chunk::<4>()?;
    let start = if little { u32::from_le_bytes(first) } else { u32::from_be_bytes(first) } as usize;
    let entries = u16_at(start)? as usize;
    let entry = (0..entries).map(|i| start + 2 + 12 * i).find(|at| u16_at(*at) == Some(262))?;
    // One number of 16 bits stands in the entry itself.
    (u16_at(entry + 2)? == 3).then(|| Some((entry + 8, u16_at(entry + 8)?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TIFF of one strip, little endian: tag, type (3 for 16 bits, 4 for 32), values.
    fn file(w: u16, h: u16, bits: u16, meaning: u16, strip: &[u8], more: &[(u16, &[u16])]) -> Vec<u8> {
        let (directory, strip_at) = (8 + strip.len(), 8u32);
        let mut tags: Vec<(u16, u16, Vec<u16>)> = [(256, w), (257, h), (258, bits), (259, 1), (262, meaning), (277, 1)]
            .map(|(tag, v)| (tag, 3, vec![v]))
            .to_vec();
        tags.push((273, 4, vec![strip_at as u16, 0]));
        tags.push((279, 4, vec![strip.len() as u16, 0]));
        tags.extend(more.iter().map(|(tag, v)| (*tag, 3, v.to_vec())));
        tags.sort();
        let mut out =
            [b"II*\0", &(directory as u32).to_le_bytes()[..], strip, &(tags.len() as u16).to_le_bytes()].concat();
        let (mut far, mut far_at) = (vec![], directory + 2 + 12 * tags.len() + 4);
        for (tag, kind, values) in tags {
            let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let count = if kind == 4 { 1 } else { values.len() as u32 };
            out.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            out.extend(count.to_le_bytes());
            if raw.len() <= 4 {
                out.extend(raw.iter().copied().chain([0; 4]).take(4));
            } else {
                out.extend((far_at as u32).to_le_bytes());
                far_at += raw.len();
                far.extend(raw);
            }
        }
        out.extend([0; 4]);
        out.extend(far);
        out
    }

    fn read(bytes: &[u8]) -> Option<Result<Vec<u8>>> {
        decode(bytes, &mut |_| {}).map(|r| r.map(|(image, _)| image.into_rgb8().into_raw()))
    }

    #[test]
    fn palettes_and_narrow_greys() {
        // 3 x 2 indices of two bits, rows at whole bytes; reds, greens, blues.
        let map: Vec<u16> = [[0, 0xff00, 0x8000, 1], [0, 0, 0x4000, 2], [0x1000, 0, 0, 3]].concat();
        let indexed = file(3, 2, 2, PALETTE, &[0b00_01_10_00, 0b11_00_01_11], &[(320, &map)]);
        let [a, b, c, d] = [[0, 0, 16], [255, 0, 0], [128, 64, 0], [0, 0, 0]];
        assert_eq!(read(&indexed).unwrap().unwrap(), [a, b, c, d, a, b].concat());
        let grey = |meaning| read(&file(2, 1, 4, meaning, &[0x3f], &[])).unwrap().unwrap();
        assert_eq!(grey(BLACK_IS_ZERO), [51, 51, 51, 255, 255, 255]);
        assert_eq!(grey(WHITE_IS_ZERO), [204, 204, 204, 0, 0, 0]);
        assert_eq!(
            read(&file(2, 1, 4, BLACK_IS_ZERO, &[0xfc], &[(266, &[2])])).unwrap().unwrap(),
            [51, 51, 51, 255, 255, 255]
        );
        // What `image` reads, it reads.
        assert!(read(&file(2, 1, 8, BLACK_IS_ZERO, &[1, 2], &[])).is_none() && read(b"II*\0").is_none());
        // Cut, without its palette, with too small a one.
        for bad in [
            file(30, 20, 2, PALETTE, &[1, 2], &[(320, &map)]),
            file(3, 2, 2, PALETTE, &[1, 2], &[]),
            file(3, 2, 2, PALETTE, &[1, 2], &[(320, &map[..9])]),
        ] {
            assert!(read(&bad).is_none_or(|r| r.is_err()));
        }
    }

    #[test]
    fn colours_of_jpeg() {
        for (ycc, want) in [
            ([76, 85, 255], [254, 0, 0]),
            ([150, 44, 21], [0, 255, 1]),
            ([29, 255, 107], [0, 0, 254]),
            ([128; 3], [128; 3]),
        ] {
            assert_eq!(rgb(ycc), want, "{ycc:?}");
        }
    }
}
