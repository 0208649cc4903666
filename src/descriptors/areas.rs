/*! Which parts of a picture belong to which class: areas of a label map that another program made, one map a picture, as PNG (grey,
8 or 16 bits) or `.npy` [h, w] of whole numbers. */

use crate::error::{Error, Result, option};
use crate::files;
use crate::weights::foreign::{ArrayData, npy};
use image::{ColorType, ImageFormat, ImageReader, Limits};
use safetensors::Dtype;
use std::collections::HashMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// Endings of label maps, in the order they are looked for.
const ENDINGS: [&str; 2] = ["png", "npy"];

/// The map of each picture, given by its path from a manifest: the same path below `folder`, or the file's stem in it, with
/// another ending.
///
/// # Errors
/// Pictures without a map; pictures that share one.
pub fn maps(folder: &Path, pictures: &[&str]) -> Result<Vec<PathBuf>> {
    let (mut found, mut owner) = (vec![], HashMap::new());
    for (i, picture) in pictures.iter().enumerate() {
        let path = Path::new(picture);
        let stem = path.file_stem().map(PathBuf::from).unwrap_or_default();
        let with = |p: &Path, ending: &str| {
            // Not `with_extension`: a stem may hold a dot.
            folder.join(format!("{}.{ending}", p.display()))
        };
        let places = [path.with_file_name(&stem), stem];
        let candidates = places.iter().flat_map(|p| ENDINGS.map(|e| with(p, e)));
        let Some(map) = candidates.into_iter().find(|p| p.is_file()) else {
            return Err(Error::file(folder, format!("no label map of `{picture}`"))
                .fix("give one PNG or .npy of the same name a picture"));
        };
        if let Some(other) = owner.insert(map.clone(), i) {
            let problem = format!("is the label map of both `{}` and `{picture}`", pictures[other]);
            return Err(Error::file(map, problem).fix("put the maps in folders as the pictures are"));
        }
        found.push(map);
    }
    Ok(found)
}

/// Parts of the pixels in each of the classes 0 to `classes` - 1 of a map of a picture of `w` x `h`.
///
/// # Errors
/// A map of another size, a class that is none of these, a file that is no label map.
pub fn parts(map: &Path, (w, h): (u32, u32), classes: usize) -> Result<Vec<f64>> {
    let bytes = files::read(map, files::TENSORS).map_err(|e| Error::io(map, "read the label map", e))?;
    let npy = map.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy"));
    let read = if npy { of_npy(&bytes) } else { of_png(&bytes) };
    let (size, labels) = read.map_err(|problem| {
        Error::file(map, problem).fix("save class numbers as a grey PNG of 8 or 16 bits, or as .npy [height, width]")
    })?;
    if size != [w as usize, h as usize] {
        let [mw, mh] = size;
        return Err(Error::file(map, format!("is of {mw} x {mh} pixels, its picture of {w} x {h}"))
            .fix("make it of the picture at its own size"));
    }
    let mut counts = vec![0u64; classes];
    for (i, label) in labels.iter().enumerate() {
        match usize::try_from(*label).ok().and_then(|c| counts.get_mut(c)) {
            Some(count) => *count += 1,
            None => {
                return Err(Error::file(map, format!("class {label}, and there are 0 to {}", classes - 1))
                    .at(format!("row {}, column {}", i / w as usize + 1, i % w as usize + 1))
                    .fix(format!("give {} as many as there are, and let them begin with 0", option("classes"))));
            }
        }
    }
    Ok(counts.iter().map(|c| *c as f64 / labels.len() as f64).collect())
}

/// Width and height, and the labels row by row.
type Map = ([usize; 2], Vec<i64>);

fn of_png(bytes: &[u8]) -> Result<Map, String> {
    let say = |e: image::ImageError| format!("is no PNG: {e}").chars().take(200).collect::<String>();
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    let mut limits = Limits::default();
    limits.max_alloc = Some(files::TENSORS);
    reader.limits(limits);
    let image = reader.decode().map_err(say)?;
    let size = [image.width() as usize, image.height() as usize];
    let labels = match image.color() {
        ColorType::L8 => image.into_luma8().into_raw().into_iter().map(i64::from).collect(),
        ColorType::L16 => image.into_luma16().into_raw().into_iter().map(i64::from).collect(),
        other => return Err(format!("is a picture of {other:?}, not of class numbers")),
    };
    Ok((size, labels))
}

fn of_npy(bytes: &[u8]) -> Result<Map, String> {
    let array = npy::single(bytes)?;
    let (&[h, w], &[down, right], ArrayData::Mapped(range)) = (&array.shape[..], &array.strides[..], array.place)
    else {
        return Err(format!("has the shape {:?}", array.shape));
    };
    let bytes = &bytes[range];
    fn all<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> i64) -> Vec<i64> {
        bytes.as_chunks().0.iter().map(|b| f(*b)).collect()
    }
    let values = match array.dtype {
        Dtype::U8 => all(bytes, |[b]| b.into()),
        Dtype::I8 => all(bytes, |[b]| (b as i8).into()),
        Dtype::U16 => all(bytes, |b| u16::from_le_bytes(b).into()),
        Dtype::I16 => all(bytes, |b| i16::from_le_bytes(b).into()),
        Dtype::U32 => all(bytes, |b| u32::from_le_bytes(b).into()),
        Dtype::I32 => all(bytes, |b| i32::from_le_bytes(b).into()),
        Dtype::I64 => all(bytes, i64::from_le_bytes),
        other => return Err(format!("has elements of {other:?}, not whole numbers")),
    };
    Ok(([w, h], (0..h * w).map(|i| values[i / w * down + i % w * right]).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageBuffer, Luma, RgbImage};

    fn numpy(descr: &str, shape: [usize; 2], fortran: bool, data: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let mut head =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({}, {}), }}", shape[0], shape[1]);
        head += &" ".repeat(63 - (head.len() + 10) % 64);
        head.push('\n');
        [b"\x93NUMPY\x01\x00", &(head.len() as u16).to_le_bytes()[..], head.as_bytes(), data].concat()
    }

    #[test]
    fn parts_of_maps_of_every_kind() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        GrayImage::from_raw(3, 2, vec![0, 1, 1, 2, 2, 2]).unwrap().save(file("a.png")).unwrap();
        let deep: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_raw(3, 2, vec![0u16, 1, 1, 2, 2, 2]).unwrap();
        deep.save(file("b.png")).unwrap();
        std::fs::write(file("c.npy"), numpy("|u1", [2, 3], false, &[0, 1, 1, 2, 2, 2])).unwrap();
        let columns: Vec<u8> = [0i32, 2, 1, 2, 1, 2].iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(file("d.npy"), numpy("<i4", [2, 3], true, &columns)).unwrap();
        for name in ["a.png", "b.png", "c.npy", "d.npy"] {
            let parts = parts(&file(name), (3, 2), 4).unwrap();
            assert_eq!(parts, [1.0 / 6.0, 2.0 / 6.0, 0.5, 0.0], "{name}");
        }
        let say = |name: &str, size, classes| parts(&file(name), size, classes).unwrap_err().to_string();
        assert!(say("a.png", (2, 3), 4).contains("is of 3 x 2 pixels, its picture of 2 x 3"));
        assert!(say("a.png", (3, 2), 2).contains("row 2, column 1: class 2, and there are 0 to 1"));
        std::fs::write(file("e.npy"), numpy("|i1", [1, 1], false, &[255])).unwrap();
        assert!(say("e.npy", (1, 1), 2).contains("class -1"));
        std::fs::write(file("f.npy"), numpy("<f4", [1, 1], false, &[0; 4])).unwrap();
        assert!(say("f.npy", (1, 1), 2).contains("not whole numbers"));
        RgbImage::new(3, 2).save(file("g.png")).unwrap();
        assert!(say("g.png", (3, 2), 2).contains("a picture of Rgb8, not of class numbers"));
        std::fs::write(file("h.png"), "no").unwrap();
        assert!(say("h.png", (3, 2), 2).contains("is no PNG"));
    }

    #[test]
    fn maps_have_the_names_of_their_pictures() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["sub/a.png", "b.v2.npy", "c.png"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let of = |pictures: &[&str]| maps(dir.path(), pictures);
        let names = ["sub/a.png", "b.v2.npy"].map(|n| dir.path().join(n));
        assert_eq!(of(&["sub/a.jpg", "elsewhere/b.v2.jpeg"]).unwrap(), names);
        assert!(of(&["d.jpg"]).unwrap_err().to_string().contains("no label map of `d.jpg`"));
        assert!(of(&["x/c.jpg", "y/c.jpg"]).unwrap_err().to_string().contains("of both `x/c.jpg` and `y/c.jpg`"));
    }
}
