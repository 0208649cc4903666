//! What the tests of the parsers share: fixtures, values in the writer's order, damaged files.

use super::{Archive, Array, ArrayData, Fault};
use crate::rng::philox;
use crate::weights::header;
use flate2::{Compression, Crc, write::DeflateEncoder};
use half::{bf16, f16};
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// A parser.
pub type Read = fn(&[u8]) -> Result<Archive, Fault>;
/// Name -> extents and values, the last index fastest.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every value of an array; a parser that let through what is not there panics here.
pub fn values(a: &Array, file: &[u8]) -> Result<Vec<f64>, Fault> {
    let bytes = match &a.place {
        ArrayData::Mapped(r) => Cow::Borrowed(&file[r.clone()]),
        ArrayData::Packed(n, unpack) => {
            let bytes = unpack(file)?;
            assert_eq!(bytes.len(), *n, "{}", a.name);
            Cow::Owned(bytes)
        }
        ArrayData::Beside(i, _) => panic!("{}: in file {i} beside it", a.name),
    };
    let size = a.dtype.bitsize() / 8;
    let element = |i: usize| {
        let b = &bytes[i * size..][..size];
        match a.dtype {
            Dtype::F32 => f32::from_le_bytes(b.try_into().unwrap()) as f64,
            Dtype::F64 => f64::from_le_bytes(b.try_into().unwrap()),
            Dtype::F16 => f16::from_le_bytes(b.try_into().unwrap()).to_f64(),
            Dtype::BF16 => bf16::from_le_bytes(b.try_into().unwrap()).to_f64(),
            // Integers of the fixtures are small and positive.
            _ => b.iter().rev().fold(0.0, |v, b| v * 256.0 + *b as f64),
        }
    };
    let count = a.shape.iter().product();
    let at = |i: usize| {
        let axes = a.shape.iter().zip(&a.strides).rev();
        axes.fold((i, 0), |(rest, at), (n, s)| (rest / n, at + rest % n * s)).1
    };
    Ok((0..count).map(|i| element(at(i))).collect())
}

pub fn tensors(archive: &Archive, file: &[u8]) -> Tensors {
    let one = |a: &Array| (a.name.clone(), (a.shape.clone(), values(a, file).unwrap()));
    archive.arrays.iter().map(one).collect()
}

/// A safetensors fixture.
pub fn reference(name: &str) -> Tensors {
    let file = fixture(name);
    let header = header::parse(Path::new(name), &file).unwrap();
    let arrays = header.tensors.into_iter().map(|t| Array {
        name: t.name,
        dtype: t.dtype,
        strides: super::row_major(&t.shape),
        shape: t.shape,
        place: ArrayData::Mapped(t.range),
    });
    arrays.map(|a| (a.name.clone(), (a.shape.clone(), values(&a, &file).unwrap()))).collect()
}

/// A zip archive of these entries; a name that ends in `.z` is deflated. `wide` writes the 64-bit end.
pub fn archive(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let mut crc = Crc::new();
        crc.update(data);
        let mut packed = data.to_vec();
        if name.ends_with(".z") {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(data).unwrap();
            packed = encoder.finish().unwrap();
        }
        let method = if name.ends_with(".z") { 8u16 } else { 0 };
        let mut common = [20u16, 0, method, 0, 0].map(u16::to_le_bytes).concat();
        common.extend([crc.sum(), packed.len() as u32, data.len() as u32].map(u32::to_le_bytes).concat());
        common.extend([name.len() as u16, 0].map(u16::to_le_bytes).concat());
        let start = file.len() as u32;
        directory.extend([b"PK\x01\x02\x14\x00".as_slice(), &common, &[0; 10], &start.to_le_bytes()].concat());
        directory.extend(name.bytes());
        file.extend([b"PK\x03\x04".as_slice(), &common, name.as_bytes(), &packed].concat());
    }
    let (start, size, n) = (file.len(), directory.len(), entries.len());
    file.extend(directory);
    if wide {
        let at = file.len() as u64;
        file.extend([b"PK\x06\x06".as_slice(), &44u64.to_le_bytes(), &[0; 12]].concat());
        file.extend([n, n, size, start].map(|v| (v as u64).to_le_bytes()).concat());
        file.extend([b"PK\x06\x07\0\0\0\0".as_slice(), &at.to_le_bytes(), &1u32.to_le_bytes()].concat());
    }
    file.extend([b"PK\x05\x06\0\0\0\0".as_slice(), &[n as u16, n as u16].map(u16::to_le_bytes).concat()].concat());
    file.extend([size as u32, start as u32, 0].map(u32::to_le_bytes).concat());
    file.truncate(file.len() - 2);
    file
}

/// Damages a file in `count` ways, always the same ones, and cuts it at every 37th byte. Each result is refused in one
/// line, or all its values are there; neither takes longer than a second.
pub fn torment(read: Read, file: &[u8], count: u32) {
    for n in (0..file.len()).step_by(37) {
        assert!(try_one(read, &file[..n]).is_err(), "cut at byte {n}");
    }
    for i in 0..count {
        let mut bytes = file.to_vec();
        let [how, ..] = philox([7, 0], [i, 0, 0, 0]);
        for change in 0..=how % 3 {
            let [kind, a, b, value] = philox([7, 1], [i, change, 0, 0]);
            let (a, b) = (a as usize % bytes.len(), b as usize % bytes.len());
            let n = (value as usize % 64).min(bytes.len() - a.max(b));
            match kind % 6 {
                0 => bytes[a] ^= 1 << (value % 8),
                1 => bytes[a] = [0, 1, 0x7f, 0x80, 0xff, b'.', b'R', b'('][value as usize % 8],
                2 => bytes[a..a + n].fill([0, 0xff][value as usize / 64 % 2]),
                3 => bytes.copy_within(b..b + n, a),
                4 => drop(bytes.drain(a..a + n)),
                _ => bytes[a] = bytes[a].wrapping_add(value as u8 | 1),
            }
        }
        let _ = try_one(read, &bytes);
    }
}

fn try_one(read: Read, bytes: &[u8]) -> Result<(), Fault> {
    let start = Instant::now();
    let result = read(bytes).and_then(|a| a.arrays.iter().try_for_each(|a| values(a, bytes).map(drop)));
    assert!(start.elapsed().as_secs_f64() < 1.0, "{:?}", result);
    if let Err(f) = &result {
        let line = f.clone().error(Path::new("file")).to_string();
        assert!(!line.contains('\n') && line.len() < 1000 && !f.problem.is_empty(), "{line}");
    }
    result
}

/// Extents and values in the order of torchvision's networks: by the number of the layer, the weight before the bias.
pub fn in_order(tensors: &Tensors) -> Vec<(Vec<usize>, Vec<f64>)> {
    let mut all: Vec<_> = tensors.clone().into_iter().collect();
    all.sort_by_key(|(name, _)| {
        let mut parts = name.split('.');
        let (block, number) = (parts.next().unwrap() == "classifier", parts.next().unwrap().parse::<usize>().unwrap());
        (block, number, name.ends_with("bias"))
    });
    all.into_iter().map(|t| t.1).collect()
}
