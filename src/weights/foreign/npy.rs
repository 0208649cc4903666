/*! numpy's `.npz`: a zip archive, stored (`savez`) or deflated (`savez_compressed`), of one `.npy` for each array
(numpy's `numpy/lib/_format_impl.py`, versions 1.0 to 3.0): a magic number, the length of the header, the header, a
Python dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, and the elements to the end.

Numbers and truth values, little endian, in both orders; the transpose of a matrix comes with strides. Everything else
(objects, which are pickles, texts, structures, big endian) is refused by its name. The names are those in the archive
without `.npy`. Checksums are checked where an entry is deflated. */

use super::zip::{self, Entry};
use super::{Archive, Array, Fault, Format, row_major};
use safetensors::Dtype;
use std::collections::BTreeMap;

/// Longest header that numpy itself reads.
const MAX_HEADER: usize = 10_000;

/// An archive of arrays. Peak memory is one header; an array that is deflated is unpacked when it is asked for.
pub fn read(bytes: &[u8]) -> Result<Archive, Fault> {
    let array = |e: &Entry| array(e, bytes).map_err(|problem| Fault::of(zip::place(&e.name), problem));
    let arrays = zip::entries(bytes)?.iter().map(array).collect::<Result<Vec<_>, _>>()?;
    Archive { format: Format::Npz, arrays, notes: BTreeMap::new() }.check(bytes.len())
}

/// One `.npy`.
fn array(entry: &Entry, bytes: &[u8]) -> Result<Array, String> {
    let name = entry.name.strip_suffix(".npy").ok_or("is no .npy, so the archive is no .npz")?;
    let head = entry.head(bytes, MAX_HEADER + 12);
    let (version, rest) = match head.as_slice() {
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
    let text = std::str::from_utf8(text).map_err(|_| "has a header that is not UTF-8")?;
    let (dtype, fortran, shape) = header(text)?;
    let elements = shape.iter().try_fold(dtype.bitsize() / 8, |a, b| a.checked_mul(*b)).ok_or("is too large")?;
    let skip = 8 + width + n;
    if entry.size != skip.checked_add(elements).ok_or("is too large")? {
        return Err(format!("has {} bytes of elements, its shape needs {elements}", entry.size - skip));
    }
    let strides = if fortran { column_major(&shape) } else { row_major(&shape) };
    Ok(Array { name: name.into(), dtype, shape, strides, place: entry.place(skip) })
}

/// Strides of an array whose first index runs fastest.
fn column_major(shape: &[usize]) -> Vec<usize> {
    let backwards: Vec<usize> = shape.iter().rev().copied().collect();
    row_major(&backwards).into_iter().rev().collect()
}

/// Element type, whether the first index runs fastest, extents.
fn header(text: &str) -> Result<(Dtype, bool, Vec<usize>), String> {
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
    Ok((dtype(descr.trim_matches(['\'', '"']))?, fortran, shape))
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
            header(&format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}   \n"))
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
    fn damaged_files_are_refused_or_whole() {
        for name in FIXTURES {
            torment(read, &fixture(name), 2000);
        }
    }
}
