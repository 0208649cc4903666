/*! The directory of a zip file, as far as weight files need it: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header),
4.3.12 (directory), 4.3.14 to 4.3.16 (its end, also in the 64-bit form that PyTorch always writes) and 4.5.3 (64-bit
sizes). Entries are stored, and then a range of the file's bytes, or deflated, and then unpacked when asked for.

Refused: encryption, other compressions, archives in parts or with anything before or behind them, names that come
twice, entries that overlap each other or the directory, local headers that name another entry than the directory does.
Checksums are checked by [`ZipEntry::read`] and whenever an entry is unpacked, and all of them by [`verify`], once for an
import: a stored array's bytes are otherwise used where they lie. */

use super::{ArrayData, Fault};
use flate2::{Crc, read::DeflateDecoder};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashSet;
use std::io::Read;
use std::ops::Range;

/// Most entries: an archive has one per storage, and the largest networks have some thousand.
const MAX_ENTRIES: u64 = 1 << 15;
/// Longest name.
const MAX_NAME: usize = 256;
/// Bytes that a deflated entry may always unpack to: an array of zeros is a thousandth of its size.
const FREE: usize = 64 << 20;
/// How many times its size a larger one may unpack to. Trained weights hardly shrink at all.
const RATIO: usize = 8;

/// One file of the archive.
#[derive(Clone, Debug)]
pub struct ZipEntry {
    pub name: String,
    /// Its bytes as they stand in the archive.
    pub packed: Range<usize>,
    /// How many they are when unpacked.
    pub size: usize,
    pub deflated: bool,
    crc: u32,
}

/// All entries, in the order of the directory. Errors name the entry, or the byte.
pub fn entries(bytes: &[u8]) -> Result<Vec<ZipEntry>, Fault> {
    entries_within(bytes, RATIO)
}

/// [`entries`] that may unpack to `ratio` times their size: text shrinks more than weights.
pub fn entries_within(bytes: &[u8], ratio: usize) -> Result<Vec<ZipEntry>, Fault> {
    let end = End::find(bytes)?;
    if end.entries > MAX_ENTRIES {
        return Err(Fault::at(end.at, format!("{} entries, at most {MAX_ENTRIES} are supported", end.entries)));
    }
    let (mut at, mut all, mut names) = (end.directory.start, Vec::new(), HashSet::new());
    // What each entry occupies with its local header, to see that no two share a byte.
    let mut taken = Vec::new();
    for _ in 0..end.entries {
        let record = bytes.get(at..end.directory.end).filter(|r| r.starts_with(b"PK\x01\x02"));
        let Some(record) = record.filter(|r| r.len() >= 46) else {
            return Err(Fault::at(at, "the directory of the zip archive is damaged"));
        };
        let [name, extra, comment] = [28, 30, 32].map(|i| u16_at(record, i).unwrap_or(0) as usize);
        let Some(record) = record.get(..46 + name + extra + comment) else {
            return Err(Fault::at(at, "the directory of the zip archive is truncated"));
        };
        if name > MAX_NAME {
            return Err(Fault::at(at, format!("the name of an entry has {name} bytes")));
        }
        let raw = &record[46..46 + name];
        if !names.insert(raw) {
            return Err(Fault::of(place(&String::from_utf8_lossy(raw)), "is there twice"));
        }
        all.push(entry(bytes, at, record, [name, extra, ratio], &mut taken)?);
        at += record.len();
    }
    if at != end.directory.end {
        return Err(Fault::at(at, "the directory of the zip archive holds more than its end says"));
    }
    taken.push(end.directory.start..bytes.len());
    taken.sort_by_key(|r| r.start);
    if let Some(w) = taken.windows(2).find(|w| w[0].end > w[1].start) {
        return Err(Fault::at(w[1].start, "two parts of the zip archive overlap"));
    }
    Ok(all)
}

/// Fails where the sum of a stored entry is another one than the archive says. Nothing is to be said of a file that is no
/// archive; deflated entries are summed when they are unpacked.
pub fn verify(bytes: &[u8]) -> Result<(), Fault> {
    if !bytes.starts_with(b"PK\x03\x04") {
        return Ok(());
    }
    entries(bytes)?.par_iter().filter(|e| !e.deflated).try_for_each(|e| e.read(bytes).map(drop))
}

/// One record of the directory and the local header it leads to.
fn entry(
    bytes: &[u8],
    at: usize,
    record: &[u8],
    [name, extra, ratio]: [usize; 3],
    taken: &mut Vec<Range<usize>>,
) -> Result<ZipEntry, Fault> {
    let raw = record.get(46..46 + name).unwrap_or(&[]);
    let Ok(name) = std::str::from_utf8(raw) else {
        return Err(Fault::at(at, "the name of an entry is not UTF-8"));
    };
    let refuse = |problem: &str| Fault::of(place(name), problem);
    let [flags, method] = [8, 10].map(|i| u16_at(record, i).unwrap_or(0));
    let [crc, packed, size, local] = [16, 20, 24, 42].map(|i| u32_at(record, i).unwrap_or(0));
    if flags & 0x2041 != 0 {
        return Err(refuse("is encrypted"));
    }
    if method != 0 && method != 8 {
        return Err(refuse(&format!("is compressed by method {method}; only deflate is supported")));
    }
    let mut wide = wide(record.get(46 + raw.len()..46 + raw.len() + extra).unwrap_or(&[]));
    // Sizes that do not fit 32 bits are all ones there, and stand in the extra field in this order.
    let mut full = |n: u32| if n == u32::MAX { wide.next() } else { Some(n as u64) };
    let (Some(size), Some(packed), Some(local)) = (full(size), full(packed), full(local)) else {
        return Err(refuse("has no 64-bit size where it needs one"));
    };
    let outside = || refuse(&format!("{packed} bytes, which are not in the file"));
    let start = usize::try_from(local).map_err(|_| outside())?;
    let header = bytes.get(start..).filter(|h| h.starts_with(b"PK\x03\x04")).ok_or_else(outside)?;
    let (Some(method2), Some(n), Some(m)) = (u16_at(header, 8), u16_at(header, 26), u16_at(header, 28)) else {
        return Err(outside());
    };
    if method2 != method || header.get(30..30 + n as usize) != Some(raw) {
        return Err(refuse("its local header says something else than the directory"));
    }
    let data = start + 30 + n as usize + m as usize;
    let end = usize::try_from(packed).ok().and_then(|n| data.checked_add(n)).filter(|e| *e <= bytes.len());
    let (end, size) = end.zip(usize::try_from(size).ok()).ok_or_else(outside)?;
    let deflated = method == 8;
    if !deflated && size != end - data {
        return Err(refuse(&format!("is stored, {size} bytes as {packed}")));
    }
    if deflated && size > FREE && size / ratio > end - data {
        return Err(refuse(&format!("{packed} bytes would unpack to {size}, more than {ratio} times as many")));
    }
    taken.push(start..end);
    Ok(ZipEntry { name: name.into(), packed: data..end, size, deflated, crc })
}

impl ZipEntry {
    /// Its bytes, the checksum checked; borrowed if they are stored. For entries that are small or needed whole.
    pub fn read<'a>(&self, file: &'a [u8]) -> Result<Cow<'a, [u8]>, Fault> {
        let Some(packed) = file.get(self.packed.clone()) else {
            return Err(Fault::of(place(&self.name), "is no longer in the file"));
        };
        let bytes = if self.deflated { Cow::Owned(self.inflate(packed)?) } else { Cow::Borrowed(packed) };
        let mut crc = Crc::new();
        crc.update(&bytes);
        // PyTorch can be told to sum nothing (`torch.serialization.set_crc32_options`) and then writes 0.
        if crc.sum() != self.crc && (self.crc != 0 || self.deflated) {
            return Err(Fault::of(place(&self.name), "is damaged: its checksum is another one"));
        }
        Ok(bytes)
    }

    /// At most `size` bytes are made of it, whatever it holds.
    fn inflate(&self, packed: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::with_capacity(self.size);
        let mut stream = DeflateDecoder::new(packed);
        let whole = stream.by_ref().take(self.size as u64).read_to_end(&mut out);
        if whole.ok() != Some(self.size) || !matches!(stream.read(&mut [0]), Ok(0)) {
            return Err(Fault::of(place(&self.name), format!("is damaged: it does not unpack to {} bytes", self.size)));
        }
        Ok(out)
    }

    /// The first bytes, at most `n` and fewer if it is shorter; for headers. No checksum.
    pub fn head(&self, file: &[u8], n: usize) -> Vec<u8> {
        let packed = file.get(self.packed.clone()).unwrap_or(&[]);
        let mut out = Vec::new();
        let stream: &mut dyn Read = if self.deflated { &mut DeflateDecoder::new(packed) } else { &mut { packed } };
        // A stream that breaks later is refused when all of it is read.
        stream.take(n.min(self.size) as u64).read_to_end(&mut out).ok();
        out
    }

    /// Its bytes from `skip` on as the place of an array.
    pub fn place(&self, skip: usize) -> ArrayData {
        let skip = skip.min(self.size);
        if !self.deflated {
            return ArrayData::Mapped(self.packed.start + skip..self.packed.end);
        }
        let entry = self.clone();
        ArrayData::Packed(
            self.size - skip,
            Box::new(move |file| {
                let mut bytes = entry.read(file)?.into_owned();
                bytes.drain(..skip);
                Ok(bytes)
            }),
        )
    }
}

/// The end of the archive: where the directory lies and how many entries it has.
struct End {
    at: usize,
    directory: Range<usize>,
    entries: u64,
}

impl End {
    /// The record is 22 bytes long, ends the file with its comment of at most 64 KiB, and is looked for from the end.
    fn find(bytes: &[u8]) -> Result<Self, Fault> {
        let first = bytes.len().saturating_sub(22 + u16::MAX as usize);
        let last = bytes.len().saturating_sub(22);
        let ends = |at: &usize| {
            bytes[*at..].starts_with(b"PK\x05\x06")
                && u16_at(bytes, *at + 20).is_some_and(|comment| *at + 22 + comment as usize == bytes.len())
        };
        let Some(at) = (first..=last).rev().find(ends) else {
            return Err(Fault::at(bytes.len(), "the zip archive has no end; it may be truncated"));
        };
        let damaged = |at| Fault::at(at, "the end of the zip archive is damaged");
        let record = bytes.get(at..).unwrap_or(&[]);
        let field = |i| u16_at(record, i).unwrap_or(0);
        let parts = field(4) | field(6);
        let (mut entries, mut size, mut start) =
            (field(10) as u64, u32_at(record, 12).unwrap_or(0) as u64, u32_at(record, 16).unwrap_or(0) as u64);
        let mut behind = at;
        let locator = at.checked_sub(20).filter(|l| bytes[*l..].starts_with(b"PK\x06\x07"));
        if let Some(locator) = locator {
            let wide = u64_at(bytes, locator + 8).and_then(|w| usize::try_from(w).ok()).ok_or(damaged(locator))?;
            let record = bytes.get(wide..locator).filter(|r| r.starts_with(b"PK\x06\x06")).ok_or(damaged(locator))?;
            let field = |i| u64_at(record, i).ok_or(damaged(wide));
            (entries, size, start, behind) = (field(32)?, field(40)?, field(48)?, wide);
        } else if parts != 0 || field(8) != field(10) {
            return Err(Fault::at(at, "the zip archive comes in parts; only whole ones are supported"));
        }
        let directory = usize::try_from(start).ok().zip(usize::try_from(start.saturating_add(size)).ok());
        let directory = directory.map(|(a, b)| a..b).filter(|d| d.end == behind).ok_or(damaged(at))?;
        Ok(Self { at, directory, entries })
    }
}

/// The numbers of the 64-bit extra field; none if there is no such field.
fn wide(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut found: &[u8] = &[];
    while let (Some(id), Some(n)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some(field) = extra.get(4..4 + n as usize) else { break };
        if id == 1 {
            found = field;
            break;
        }
        extra = &extra[4 + field.len()..];
    }
    found.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b))
}

/// How errors name an entry.
pub fn place(name: &str) -> String {
    format!("entry `{name}`")
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*b.get(at..)?.first_chunk()?))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*b.get(at..)?.first_chunk()?))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*b.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::super::testing::archive;
    use super::*;

    /// Where the record of an entry in the directory is.
    fn record(file: &[u8], nth: usize) -> usize {
        let mut found = file.windows(4).enumerate().filter(|(_, w)| *w == b"PK\x01\x02");
        found.nth(nth).unwrap().0
    }

    #[test]
    fn entries_are_found_and_unpacked() {
        let text = b"the same again, the same again, the same again".as_slice();
        for wide in [false, true] {
            let file = archive(&[("a", b"stored"), ("b.z", text), ("c/", b"")], wide);
            let all = entries(&file).unwrap();
            assert_eq!(
                all.iter().map(|e| (e.name.as_str(), e.size)).collect::<Vec<_>>(),
                [("a", 6), ("b.z", 46), ("c/", 0)]
            );
            assert!(matches!(all[0].read(&file).unwrap(), Cow::Borrowed(b"stored")));
            assert_eq!(*all[1].read(&file).unwrap(), *text);
            assert_eq!((all[0].head(&file, 2), all[1].head(&file, 8)), (b"st".to_vec(), b"the same".to_vec()));
            assert!(matches!(all[0].place(2), ArrayData::Mapped(r) if file[r.clone()] == *b"ored"));
            let ArrayData::Packed(n, unpack) = all[1].place(4) else { panic!("deflated") };
            assert_eq!((n, &unpack(&file).unwrap()[..]), (42, &text[4..]));
            // A comment may follow.
            let mut file = archive(&[("a", b"stored")], wide);
            let end = file.len() - 2;
            file[end] = 5;
            file.extend(b"hello");
            assert_eq!(entries(&file).unwrap().len(), 1);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = archive(&[("a", b"stored"), ("b.z", &[b'x'; 1000])], false);
        let (a, b) = (record(&good, 0), record(&good, 1));
        let patched = |changes: &[(usize, &[u8])]| {
            let mut file = good.clone();
            changes.iter().for_each(|(at, bytes)| file[*at..at + bytes.len()].copy_from_slice(bytes));
            file
        };
        let end = good.len() - 22;
        for (file, want) in [
            (patched(&[(a + 8, &[1])]), "entry `a`: is encrypted"),
            (patched(&[(a + 10, &[93])]), "entry `a`: is compressed by method 93"),
            (patched(&[(a + 10, &[8])]), "entry `a`: its local header says something else"),
            (patched(&[(a + 46, b"c")]), "entry `c`: its local header says something else"),
            (patched(&[(a + 24, &[7])]), "entry `a`: is stored, 7 bytes as 6"),
            (patched(&[(a + 20, &[0, 1, 1])]), "entry `a`: 65792 bytes, which are not in the file"),
            (patched(&[(a + 42, &[1])]), "entry `a`: 6 bytes, which are not in the file"),
            (patched(&[(a + 20, &[60]), (a + 24, &[60])]), "two parts of the zip archive overlap"),
            (patched(&[(b + 24, &[0, 0, 0, 5])]), " bytes would unpack to 83886080, more than 8 times as many"),
            (patched(&[(b + 24, &[255; 4])]), "entry `b.z`: has no 64-bit size"),
            (patched(&[(a, b"x")]), "the directory of the zip archive is damaged"),
            (patched(&[(b + 30, &[9])]), "the directory of the zip archive is truncated"),
            (patched(&[(end + 10, &[1]), (end + 8, &[1])]), "holds more than its end says"),
            (patched(&[(end + 4, &[1])]), "comes in parts"),
            (patched(&[(end + 12, &[0])]), "the end of the zip archive is damaged"),
            (patched(&[(end, b"x")]), "has no end; it may be truncated"),
            (archive(&[("a", b"1"), ("a", b"2")], true), "is there twice"),
            (archive(&[(&"n".repeat(257), b"")], false), "the name of an entry has 257 bytes"),
            ([good.as_slice(), b"x"].concat(), "has no end"),
            ([b"x", good.as_slice()].concat(), "the end of the zip archive is damaged"),
            (Vec::new(), "has no end"),
        ] {
            let fault = entries(&file).expect_err(want);
            let line = format!("{}: {}", fault.place, fault.problem);
            assert!(line.contains(want), "{line}");
        }
        let read = |file: Vec<u8>, nth: usize| entries(&file).unwrap()[nth].read(&file).map(drop).unwrap_err().problem;
        assert_eq!(read(patched(&[(31, b"S")]), 0), "is damaged: its checksum is another one");
        assert_eq!(verify(&patched(&[(31, b"S")])).unwrap_err().place, "entry `a`");
        assert!(verify(&good).is_ok() && verify(b"no archive").is_ok());
        assert_eq!(read(patched(&[(b + 16, &[0])]), 1), "is damaged: its checksum is another one");
        for size in [999u16, 1001] {
            let problem = read(patched(&[(b + 24, &size.to_le_bytes())]), 1);
            assert_eq!(problem, format!("is damaged: it does not unpack to {size} bytes"));
        }
        // PyTorch without checksums.
        let file = patched(&[(a + 16, &[0; 4])]);
        assert!(entries(&file).unwrap()[0].read(&file).is_ok());
    }
}
