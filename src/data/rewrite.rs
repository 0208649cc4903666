/*! Files that viewers open and the decoders refuse, written as these want them. Nothing is made up: what is missing stays
missing, and a damaged file is refused after it as before. */

/// A BMP of OS/2 2.x with the header of Windows, whose 40 bytes mean the same; palette and pixels stay. Its compressions of
/// other numbers' meaning are left alone. None for any other BMP.
pub fn bmp(bytes: &[u8]) -> Option<Vec<u8>> {
    const FILE: usize = 14;
    const WINDOWS: usize = 40;
    let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let (pixels, header) = (number(10)?, number(FILE)?);
    let compression = number(FILE + 16)?;
    if header != 64 || compression > 2 || pixels < FILE + header || pixels > bytes.len() {
        return None;
    }
    let mut out = bytes.to_vec();
    out[FILE..FILE + 4].copy_from_slice(&(WINDOWS as u32).to_le_bytes());
    out.copy_within(FILE + header..pixels, FILE + WINDOWS);
    Some(out)
}

/// The largest picture of an icon, if it is a PNG.
pub fn png_of_icon(bytes: &[u8]) -> Option<&[u8]> {
    let entries = u16::from_le_bytes(*bytes.get(4..)?.first_chunk()?) as usize;
    let list = bytes.get(6..6 + 16 * entries)?;
    // 0 stands for 256.
    let side = |b: u8| if b == 0 { 256 } else { b as u32 };
    let largest = list.as_chunks::<16>().0.iter().max_by_key(|e| (side(e[0]) * side(e[1]), e[6]))?;
    let number = |at: usize| largest[at..].first_chunk().map(|b| u32::from_le_bytes(*b) as usize);
    let start = number(12)?;
    bytes.get(start..start.checked_add(number(8)?)?).filter(|p| p.starts_with(b"\x89PNG\r\n\x1a\n"))
}

#[cfg(test)]
mod tests {
    use super::super::decode::{DecodeOptions, decode};
    use super::*;
    use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
    use std::io::Cursor;

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut out = vec![];
        image.into().write_to(&mut Cursor::new(&mut out), format).unwrap();
        out
    }

    fn rgb(bytes: &[u8]) -> Option<Vec<u8>> {
        decode(bytes, &DecodeOptions::default()).ok().map(|p| p.rgb)
    }

    fn picture() -> RgbaImage {
        RgbaImage::from_fn(5, 3, |x, y| image::Rgba([50 * x as u8, 80 * y as u8, 7, 255]))
    }

    #[test]
    fn a_bmp_of_os2() {
        let windows = encoded(RgbImage::from_fn(4, 2, |x, y| image::Rgb([x as u8, y as u8, 9])), ImageFormat::Bmp);
        let pixels = u32::from_le_bytes(windows[10..14].try_into().unwrap()) as usize;
        let header = windows[14] as usize;
        let mut os2 = windows[..14 + 40].to_vec();
        os2[14] = 64;
        os2[30] = 0;
        os2.extend([0; 24]);
        let start = os2.len() as u32;
        os2[10..14].copy_from_slice(&start.to_le_bytes());
        os2.extend_from_slice(&windows[pixels..]);
        assert!(header >= 40 && bmp(&windows).is_none());
        assert_eq!(rgb(&os2).unwrap(), rgb(&windows).unwrap());
        assert!(rgb(&os2[..os2.len() - 9]).is_none());
    }

    #[test]
    fn an_icon_of_a_png_without_alpha() {
        let png = encoded(picture(), ImageFormat::Png);
        let plain = encoded(DynamicImage::from(picture()).into_rgb8(), ImageFormat::Png);
        let icon = |png: &[u8]| {
            let mut out = b"\0\0\x01\0\x01\0\x05\x03\0\0\x01\0\x20\0".to_vec();
            out.extend((png.len() as u32).to_le_bytes());
            out.extend(22u32.to_le_bytes());
            [out, png.to_vec()].concat()
        };
        let want = rgb(&png).unwrap();
        assert_eq!((rgb(&icon(&png)), rgb(&icon(&plain))), (Some(want.clone()), Some(want)));
        assert_eq!(rgb(&icon(&plain)[..60]), None);
    }
}
