//! Which way up a picture is to be shown, from its EXIF data (JEITA CP-3451, section 4.6: the tags of a TIFF file).

use image::metadata::Orientation;

/// The tag, and the types it is found with: by the standard SHORT, of some cameras BYTE or LONG.
const TAG: u32 = 0x112;
const BYTE: u32 = 1;
const SHORT: u32 = 3;
const LONG: u32 = 4;
/// The two words that WebP and PNG files of some programs have before the data, as JPEG has.
const PREFIX: &[u8] = b"Exif\0\0";

/// The orientation of the first image; None where nothing sensible is said.
pub fn orientation(exif: &[u8]) -> Option<Orientation> {
    let exif = exif.strip_prefix(PREFIX).unwrap_or(exif);
    let little = match exif.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    // `n` bytes as one number.
    let number = |at: usize, n: usize| {
        let bytes = exif.get(at..at.checked_add(n)?)?;
        let add = |sum: u32, b: &u8| sum << 8 | u32::from(*b);
        Some(if little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) })
    };
    let start = number(4, 4)? as usize;
    for i in 0..number(start, 2)? as usize {
        let entry = start.checked_add(2 + 12 * i)?;
        if number(entry, 2)? != TAG || number(entry + 4, 4)? != 1 {
            continue;
        }
        let value = match number(entry + 2, 2)? {
            BYTE => number(entry + 8, 1)?,
            SHORT => number(entry + 8, 2)?,
            LONG => number(entry + 8, 4)?,
            _ => continue,
        };
        return Orientation::from_exif(u8::try_from(value).ok()?);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_in_both_orders() {
        for (kind, width) in [(1u16, 1), (3, 2), (4, 4)] {
            for little in [true, false] {
                let word = |v: u16| if little { v.to_le_bytes() } else { v.to_be_bytes() };
                let long = |v: u32| if little { v.to_le_bytes() } else { v.to_be_bytes() };
                let mut value = vec![0; 4];
                value[if little { 0 } else { width - 1 }] = 6;
                let entry = |tag: u16, value: &[u8]| [&word(tag)[..], &word(kind), &long(1), value].concat();
                let head: &[u8] = if little { b"II*\0" } else { b"MM\0*" };
                let exif = [head, &long(8), &word(2), &entry(0x10f, &[1; 4]), &entry(0x112, &value), &[0; 4]].concat();
                assert_eq!(orientation(&exif), Some(Orientation::Rotate90), "{kind} {little}");
                assert_eq!(orientation(&[PREFIX, &exif].concat()), Some(Orientation::Rotate90));
                for cut in 0..exif.len() - 7 {
                    assert_eq!(orientation(&exif[..cut]), None);
                }
            }
        }
        assert_eq!(orientation(b"MM\0*\xff\xff\xff\xff"), None);
        // A nonsense orientation is none.
        assert_eq!(orientation(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x4d\0\0\0"), None);
    }
}
