/*! numpy's `.npz`: a zip archive, stored (`savez`) or deflated (`savez_compressed`), of one `.npy` for each array
(numpy's `numpy/lib/_format_impl.py`, versions 1.0 to 3.0): a magic number, the length of the header, the header, a
Python dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, and the elements to the end.

Numbers and truth values, little endian, in both orders; the transpose of a matrix comes with strides. Everything else
(objects, which are pickles, texts, structures, big endian) is refused by its name. The names are those in the archive
without `.npy`. Checksums are checked where an entry is deflated. */

use super::zip::{self, ZipEntry};
use super::{Archive, Array, ArrayData, Fault, Format, row_major};
use safetensors::Dtype;
use std::collections::BTreeMap;

/// What to do about the dictionaries of layers that TensorFlow's ports keep in one `.npy`: as a `.npz` they are read.
pub const UNPICKLE: &str = "if you trust it, make an archive of it with Python: import numpy as n; d = n.load('w.npy', \
    allow_pickle=True, encoding='latin1').item(); n.savez('w.npz', **{f'{k}_{p}': v for k, x in d.items() for p, v in \
    zip('Wb', x)})";

/// Longest header that numpy itself reads.
const MAX_HEADER: usize = 10_000;

/// An archive of arrays. Peak memory is one header; an array that is deflated is unpacked when it is asked for.
pub fn read(bytes: &[u8]) -> Result<Archive, Fault> {
    let array = |e: &ZipEntry| array(e, bytes).map_err(|problem| Fault::of(zip::place(&e.name), problem));
    let arrays = zip::entries(bytes)?.iter().map(array).collect::<Result<Vec<_>, _>>()?;
    Archive { format: Format::Npz, arrays, notes: BTreeMap::new(), beside: Vec::new() }.check(bytes.len())
}

/// One `.npy`.
fn array(entry: &ZipEntry, bytes: &[u8]) -> Result<Array, String> {
    let name = entry.name.strip_suffix(".npy").ok_or("is no .npy, so the archive is no .npz")?;
    let head = entry.head(bytes, MAX_HEADER + 12);
    let (text, skip) = head_text(&head)?;
    let (descr, fortran, shape) = header(text)?;
    let dtype = dtype(descr)?;
    let elements = shape.iter().try_fold(dtype.bitsize() / 8, |a, b| a.checked_mul(*b)).ok_or("is too large")?;
    if entry.size != skip.checked_add(elements).ok_or("is too large")? {
        return Err(format!("has {} bytes of elements, its shape needs {elements}", entry.size - skip));
    }
    let strides = if fortran { column_major(&shape) } else { row_major(&shape) };
    Ok(Array { name: name.into(), dtype, shape, strides, place: entry.place(skip) })
}

/// The array of a `.npy` file, in place.
pub fn single(bytes: &[u8]) -> Result<Array, String> {
    let (text, skip) = head_text(bytes)?;
    let (descr, fortran, shape) = header(text)?;
    let dtype = dtype(descr)?;
    let elements = shape.iter().try_fold(dtype.bitsize() / 8, |a, b| a.checked_mul(*b)).ok_or("is too large")?;
    if bytes.len() - skip != elements {
        return Err(format!("has {} bytes of elements, its shape needs {elements}", bytes.len() - skip));
    }
    let strides = if fortran { column_major(&shape) } else { row_major(&shape) };
    Ok(Array { name: String::new(), dtype, shape, strides, place: ArrayData::Mapped(skip..bytes.len()) })
}

/// The one value of a `.npy` without extents, as text: data sets keep numbers, and numbers as texts, in files of their own.
pub fn scalar(bytes: &[u8]) -> Result<String, String> {
    let (text, skip) = head_text(bytes)?;
    let (descr, _, shape) = header(text)?;
    if shape.iter().any(|&n| n != 1) {
        return Err(format!("has the shape {shape:?}; one value is expected"));
    }
    let value = &bytes[skip..];
    let short = || format!("has {} bytes of elements, too few for `{descr}`", value.len());
    fn first<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
        value.first_chunk().copied()
    }
    let number = match descr {
        "<f4" => first(value).map(|b| f32::from_le_bytes(b).to_string()),
        "<f8" => first(value).map(|b| f64::from_le_bytes(b).to_string()),
        "<i4" => first(value).map(|b| i32::from_le_bytes(b).to_string()),
        "<i8" => first(value).map(|b| i64::from_le_bytes(b).to_string()),
        "|u1" => first(value).map(|b| u8::from_le_bytes(b).to_string()),
        _ => {
            let Some(n) = descr.strip_prefix("<U").and_then(|n| n.parse::<usize>().ok()) else {
                return Err(format!("holds `{descr}`; only little endian numbers and texts are supported"));
            };
            let text = n.checked_mul(4).and_then(|n| value.get(..n));
            // Four bytes a character, filled up with zeros.
            let chars = text.map(|t| t.as_chunks().0.iter().map(|&b| char::from_u32(u32::from_le_bytes(b))));
            chars.and_then(|c| c.filter(|c| *c != Some('\0')).collect())
        }
    };
    number.ok_or_else(short)
}

/// The header of a `.npy` as text, and where its elements begin.
fn head_text(head: &[u8]) -> Result<(&str, usize), String> {
    let (version, rest) = match head {
        [0x93, b'N', b'U', b'M', b'P', b'Y', major @ 1..=3, 0, rest @ ..] => (*major, rest),
        [0x93, b'N', b'U', b'M', b'P', b'Y', major, minor, ..] => {
            return Err(format!("version {major}.{minor} of .npy; 1.0 to 3.0 are supported"));
        }
        _ => return Err("has no .npy header".into()),
    };
    // The length is of two bytes in version 1 and of four later.
    let width = if version == 1 { 2 } else { 4 };
    let n = rest.iter().take(width).rev().fold(0, |a, b| a << 8 | *b as usize);
    if n > MAX_HEADER {
        return Err(format!("a header of {n} bytes, at most {MAX_HEADER} are supported"));
    }
    let text = rest.get(width..width + n).ok_or("ends within its header")?;
    Ok((std::str::from_utf8(text).map_err(|_| "has a header that is not UTF-8")?, 8 + width + n))
}

/// Strides of an array whose first index runs fastest.
fn column_major(shape: &[usize]) -> Vec<usize> {
    let backwards: Vec<usize> = shape.iter().rev().copied().collect();
    row_major(&backwards).into_iter().rev().collect()
}

/// Element type as numpy calls it, whether the first index runs fastest, extents.
fn header(text: &str) -> Result<(&str, bool, Vec<usize>), String> {
    let bad = || "has a header that is not numpy's".to_string();
    let body = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(bad)?;
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    let mut rest = body.trim_start();
    while !rest.is_empty() {
        let (key, value) = rest.split_once(':').ok_or_else(bad)?;
        let value = value.trim_start();
        // No value holds a bracket within a bracket, but that of a structure, which is refused.
        let end = match value.chars().next() {
            Some('(') => value.find(')').map(|i| i + 1),
            Some('[') => return Err("holds structures; only numbers are supported".into()),
            _ => Some(value.find(',').unwrap_or(value.len())),
        };
        let (value, after) = value.split_at(end.ok_or_else(bad)?);
        let slot = match key.trim().trim_matches(['\'', '"']) {
            "descr" => &mut descr,
            "fortran_order" => &mut fortran,
            "shape" => &mut shape,
            _ => return Err(bad()),
        };
        if slot.replace(value.trim()).is_some() {
            return Err(bad());
        }
        let after = after.trim_start();
        rest = after.strip_prefix(',').unwrap_or(after).trim_start();
    }
    let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else { return Err(bad()) };
    let fortran = match fortran {
        "True" => true,
        "False" => false,
        _ => return Err(bad()),
    };
    let shape = shape.strip_prefix('(').and_then(|s| s.strip_suffix(')')).ok_or_else(bad)?;
    let extents = shape.trim().strip_suffix(',').unwrap_or(shape).split(',').map(str::trim);
    // Python 2 writes `3L`.
    let extent = |s: &str| s.strip_suffix('L').unwrap_or(s).parse().map_err(|_| bad());
    let shape = if shape.trim().is_empty() { Vec::new() } else { extents.map(extent).collect::<Result<_, _>>()? };
    Ok((descr.trim_matches(['\'', '"']), fortran, shape))
}

/// numpy's names of types.
fn dtype(descr: &str) -> Result<Dtype, String> {
    Ok(match descr {
        "<f2" => Dtype::F16,
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        "|b1" => Dtype::BOOL,
        "|i1" => Dtype::I8,
        "<i2" => Dtype::I16,
        "<i4" => Dtype::I32,
        "<i8" => Dtype::I64,
        "|u1" => Dtype::U8,
        "<u2" => Dtype::U16,
        "<u4" => Dtype::U32,
        "<u8" => Dtype::U64,
        _ => return Err(format!("holds `{descr}`; only little endian numbers are supported")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fixture, reference, tensors, torment, values};
    use super::*;

    const FIXTURES: [&str; 4] = ["ours.npz", "ours-compressed.npz", "torchvision.npz", "torchvision-compressed.npz"];

    #[test]
    fn stored_and_deflated_arrays_hold_the_same_values() {
        let plain = reference("torchvision.safetensors");
        for name in ["torchvision.npz", "torchvision-compressed.npz"] {
            let file = fixture(name);
            assert_eq!(tensors(&read(&file).unwrap(), &file), plain, "{name}");
        }
        let file = fixture("torchvision-compressed.npz");
        let archive = read(&file).unwrap();
        let fc1 = archive.arrays.iter().find(|a| a.name == "classifier.0.weight").unwrap();
        assert_eq!((&fc1.shape[..], &fc1.strides[..]), (&[8, 28][..], &[1, 8][..]));
        // Our names come in the order of torchvision's.
        for name in ["ours.npz", "ours-compressed.npz"] {
            let (ours, other) = (fixture(name), read(&fixture("torchvision.npz")).unwrap());
            let archive = read(&ours).unwrap();
            assert_eq!((archive.arrays.len(), archive.arrays[0].name.as_str()), (32, "conv1_1.weight"));
            for (a, b) in archive.arrays.iter().zip(&other.arrays) {
                assert_eq!(
                    (&a.shape, &values(a, &ours).unwrap()),
                    (&plain[&b.name].0, &plain[&b.name].1),
                    "{}",
                    a.name
                );
            }
        }
    }

    #[test]
    fn headers() {
        let head = |descr: &str, order: &str, shape: &str| {
            let text = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}   \n");
            let (descr, fortran, shape) = header(&text)?;
            Ok::<_, String>((dtype(descr)?, fortran, shape))
        };
        assert_eq!(head("'<f4'", "False", "(3, 4)").unwrap(), (Dtype::F32, false, vec![3, 4]));
        assert_eq!(head("'<f8'", "True", "(3L,)").unwrap(), (Dtype::F64, true, vec![3]));
        assert_eq!(head("'|b1'", "False", "()").unwrap(), (Dtype::BOOL, false, vec![]));
        assert_eq!(header("{\"shape\":(2,1),\"fortran_order\":False,\"descr\":\"<i8\"}").unwrap().2, [2, 1]);
        for (descr, order, shape, want) in [
            ("'>f4'", "False", "(3,)", "holds `>f4`; only little endian numbers"),
            ("'|O'", "False", "(3,)", "holds `|O`"),
            ("'<U12'", "False", "()", "holds `<U12`"),
            ("[('a', '<f4')]", "False", "(3,)", "holds structures"),
            ("'<f4'", "Maybe", "(3,)", "not numpy's"),
            ("'<f4'", "False", "(3, -1)", "not numpy's"),
            ("'<f4'", "False", "(3, , 4)", "not numpy's"),
            ("'<f4'", "False", "(3", "not numpy's"),
            ("'<f4'", "False", "3", "not numpy's"),
            ("'<f4'", "False", "(3,), 'shape': (4,)", "not numpy's"),
            ("'<f4'", "False", "(3,), 'x': 1", "not numpy's"),
        ] {
            let problem = head(descr, order, shape).expect_err(descr);
            assert!(problem.contains(want), "{problem}");
        }
        assert!(header("").is_err() && header("{}").is_err() && header("{'descr': '<f4'}").is_err());
    }

    #[test]
    fn single_values() {
        let file = |descr: &str, shape: &str, value: &[u8]| {
            let head = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
            [b"\x93NUMPY\x01\x00", &(head.len() as u16).to_le_bytes()[..], head.as_bytes(), value].concat()
        };
        let text: Vec<u8> = "-0.5\0".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        for (bytes, value) in [
            (file("<U5", "()", &text), "-0.5"),
            (file("<f8", "()", &0.25_f64.to_le_bytes()), "0.25"),
            (file("<f4", "(1,)", &(-2_f32).to_le_bytes()), "-2"),
            (file("<i8", "()", &7_i64.to_le_bytes()), "7"),
        ] {
            assert_eq!(scalar(&bytes).as_deref(), Ok(value));
            for n in 0..bytes.len() {
                assert!(scalar(&bytes[..n]).is_err());
            }
        }
        for (bytes, problem) in [
            (file("<f8", "(2,)", &[0; 16]), "the shape [2]"),
            (file("|O", "()", b"x"), "holds `|O`"),
            (file("<U1", "()", &u32::MAX.to_le_bytes()), "too few"),
            (b"no".to_vec(), "no .npy header"),
        ] {
            let e = scalar(&bytes).unwrap_err();
            assert!(e.contains(problem), "{e}");
        }
    }

    #[test]
    fn damaged_files_are_refused_or_whole() {
        for name in FIXTURES {
            torment(read, &fixture(name), 2000);
        }
    }
}
