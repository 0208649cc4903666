/*! Checksums of our own files. Metadata `checksums` is one string of hexadecimal digits, sixteen for each sum: first that of
the header, in which this string is all zeros, then that of every tensor that has bytes, in the order of their data
([`hash::combined`]). They find what disks, memory and networks do to a file, and files that someone has changed without
saying so; they are not meant against an adversary. Files of other programs, and ours from before, have none. */

use super::header::{Header, Info};
use crate::error::{Error, Result};
use crate::hash::{self, PIECE, checksum, combined};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// Metadata key.
pub const CHECKSUMS: &str = "checksums";

/// Digits of a sum.
const DIGITS: usize = 16;

/// The string for so many tensors before the sums are known.
pub fn blank(tensors: usize) -> String {
    "0".repeat(DIGITS * (1 + tensors))
}

/// Where the digits are in a header. No other place can look like it: in a string the quotes would be escaped.
fn digits(header: &[u8]) -> Option<Range<usize>> {
    let key = format!("\"{CHECKSUMS}\":\"");
    let start = header.windows(key.len()).position(|w| w == key.as_bytes())? + key.len();
    let length = header[start..].iter().position(|b| *b == b'"')?;
    Some(start..start + length)
}

/// Puts the sums of tensors into a header that was made with [`blank`], and its own before them.
pub fn seal(header: &mut [u8], tensors: &[u64]) {
    let place = digits(header).expect("made with a place for them");
    let all = [&[checksum(header)], tensors].concat();
    let text: String = all.iter().map(|sum| format!("{sum:0DIGITS$x}")).collect();
    header[place].copy_from_slice(text.as_bytes());
}

/// The sum of what begins at each byte of the file.
pub struct Sums(BTreeMap<usize, u64>);

/// What of a file belongs to a tensor.
fn ranges(t: &Info) -> impl Iterator<Item = &Range<usize>> {
    [&t.range].into_iter().chain(&t.scales).filter(|r| !r.is_empty())
}

/// Takes the sums out of the header of `file`; None where it has none. Fails if the header is not as it was written.
pub fn take(path: &Path, file: &[u8], header: &mut Header) -> Result<Option<Sums>> {
    let Some(stated) = header.metadata.remove(CHECKSUMS) else { return Ok(None) };
    let start = header.tensors.iter().flat_map(ranges).map(|r| r.start).min().unwrap_or(file.len());
    read(&file[8..start], &stated, &header.tensors).map(Some).ok_or_else(|| damaged(path, "its header".into()))
}

fn read(header: &[u8], stated: &str, tensors: &[Info]) -> Option<Sums> {
    // One spelling alone: no flipped bit is to pass.
    let number = |d: &[u8]| {
        let n = u64::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok()?;
        (format!("{n:0DIGITS$x}").as_bytes() == d).then_some(n)
    };
    let mut sums = stated.as_bytes().chunks(DIGITS).map(number).collect::<Option<Vec<u64>>>()?.into_iter();
    let mut blank = header.to_vec();
    blank[digits(header)?].fill(b'0');
    let places: BTreeSet<usize> = tensors.iter().flat_map(ranges).map(|r| r.start).collect();
    (sums.next()? == checksum(&blank) && sums.len() == places.len())
        .then(|| Sums(places.into_iter().zip(sums).collect()))
}

impl Sums {
    /// Fails if a tensor of `file` is not as it was written.
    pub fn check(&self, path: &Path, file: &[u8], t: &Info) -> Result<()> {
        if ranges(t).all(|r| self.0.get(&r.start) == Some(&of(&file[r.clone()]))) {
            return Ok(());
        }
        Err(damaged(path, format!("tensor `{}`", t.name)))
    }
}

/// [`hash::Sum`] of bytes that are all there, by all cores.
fn of(bytes: &[u8]) -> u64 {
    combined(&bytes.par_chunks(PIECE).map(hash::checksum).collect::<Vec<_>>())
}

/// What is not as it was written.
fn damaged(path: &Path, what: String) -> Error {
    Error::file(path, format!("{what} is not as it was written: the file is damaged"))
        .fix(format!("use another copy; whoever changed it on purpose removes `{CHECKSUMS}` from its metadata"))
}

#[cfg(test)]
mod tests {
    use super::super::WeightFile;
    use super::super::write::{Entry, write, write_to};
    use super::*;
    use crate::hash::PIECE;

    fn entries(large: &[f32]) -> [Entry<'_>; 4] {
        [
            Entry::f32("a.weight", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            Entry::f32("a.bias", &[2], &[0.5, -0.5]),
            Entry::f32("none", &[0], &[]),
            Entry::f32("large", &[large.len()], large),
        ]
    }

    /// Opens the file and looks at all of it.
    fn look(path: &Path) -> Result<()> {
        WeightFile::open(path)?.all_intact()
    }

    #[test]
    fn no_flipped_bit_passes() {
        let dir = tempfile::tempdir().unwrap();
        let (p, q) = (dir.path().join("w.safetensors"), dir.path().join("damaged.safetensors"));
        let metadata = BTreeMap::from([("layout".to_string(), "KRSC".to_string())]);
        write(&p, &metadata, &entries(&[7.0; 6])).unwrap();
        let good = std::fs::read(&p).unwrap();
        let w = WeightFile::open(&p).unwrap();
        assert_eq!(w.metadata(), &metadata);
        assert!(w.has_sums() && w.all_intact().is_ok());
        let key = good.windows(CHECKSUMS.len()).position(|b| b == CHECKSUMS.as_bytes()).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&q, &bytes).unwrap();
            match look(&q) {
                Err(e) => assert!(!e.to_string().contains('\n'), "{e}"),
                // Without their name there are no sums; everything else is as it was.
                Ok(()) => assert!((key..key + CHECKSUMS.len()).contains(&(bit / 8)), "bit {bit} passes"),
            }
        }
        // Blocks that were never written, and tensors in each other's place.
        let [data, other] = ["large", "a.weight"].map(|n| w.info(n).unwrap().range.clone());
        let (mut blank, mut swapped) = (good.clone(), good.clone());
        blank[data.clone()].fill(0);
        swapped[data.clone()].copy_from_slice(&good[other.clone()]);
        swapped[other].copy_from_slice(&good[data]);
        for bytes in [blank, swapped] {
            std::fs::write(&q, &bytes).unwrap();
            let e = look(&q).unwrap_err().to_string();
            assert!(e.contains("damaged.safetensors: tensor `") && e.contains("` is not as it was written"), "{e}");
        }
    }

    #[test]
    fn every_piece_of_a_large_tensor_counts() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("w.safetensors");
        let large: Vec<f32> = (0..PIECE / 4 * 2 + 77).map(|i| i as f32).collect();
        write(&p, &BTreeMap::new(), &entries(&large)).unwrap();
        let good = std::fs::read(&p).unwrap();
        let range = WeightFile::open(&p).unwrap().info("large").unwrap().range.clone();
        for at in [0, PIECE - 1, PIECE, 2 * PIECE, range.len() - 1] {
            let mut bytes = good.clone();
            bytes[range.start + at] ^= 16;
            std::fs::write(&p, &bytes).unwrap();
            assert!(look(&p).is_err(), "byte {at}");
        }
        std::fs::write(&p, &good).unwrap();
        look(&p).unwrap();
    }

    #[test]
    fn files_without_sums_are_read_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("w.safetensors");
        let mut bytes = vec![];
        write_to(&mut bytes, &BTreeMap::new(), &entries(&[7.0; 9])).unwrap();
        std::fs::write(&p, &bytes).unwrap();
        let w = WeightFile::open(&p).unwrap();
        assert!(!w.has_sums() && w.all_intact().is_ok());
    }
}
