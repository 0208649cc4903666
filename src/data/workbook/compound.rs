/*! Microsoft's compound file ([MS-CFB]), in which .xls workbooks and locked ones lie: a small file system of sectors. Every
chain of sectors is followed for at most as many steps as there are sectors. */

use super::Fault;

pub struct Compound<'a> {
    bytes: &'a [u8],
    /// Bytes of a sector.
    size: usize,
    /// The sector that follows each.
    next: Vec<u32>,
    /// The same of the small sectors, of 64 bytes, in which short streams lie, and those themselves.
    next_small: Vec<u32>,
    small: Vec<u8>,
    /// Streams shorter than this lie in small sectors.
    short: u32,
    /// Entries of the directory.
    directory: Vec<u8>,
}

/// Numbers from here on name no sector.
const NO_SECTOR: u32 = 0xffff_fffa;
const SMALL: usize = 64;
const ENTRY: usize = 128;

impl<'a> Compound<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, Fault> {
        if bytes.len() < 512 {
            return Err(Fault::of("it ends within its header"));
        }
        let size = if bytes[30] == 12 { 4096 } else { 512 };
        let mut file = Self {
            bytes,
            size,
            next: vec![],
            next_small: vec![],
            small: vec![],
            short: number(bytes, 56),
            directory: vec![],
        };
        // Where the table of sectors lies: first in the header, then in sectors whose last number names the next.
        let mut lies: Vec<u32> = (76..512).step_by(4).map(|at| number(bytes, at)).collect();
        let mut at = number(bytes, 68);
        for _ in 0..bytes.len() / size {
            if at >= NO_SECTOR {
                break;
            }
            lies.extend(numbers(file.sector(at)?));
            at = lies.pop().unwrap_or(NO_SECTOR);
        }
        for at in lies.into_iter().filter(|at| *at < NO_SECTOR).take(bytes.len() / size) {
            file.next.extend(numbers(file.sector(at)?));
        }
        file.directory = file.chain(number(bytes, 48))?;
        file.next_small = numbers(&file.chain(number(bytes, 60))?).collect();
        // The first entry is the root, whose stream the small sectors are.
        if let Some(root) = file.directory.get(..ENTRY) {
            file.small = file.chain(number(root, 116))?;
        }
        Ok(file)
    }

    fn sector(&self, at: u32) -> Result<&'a [u8], Fault> {
        let start = (at as usize).saturating_add(1).saturating_mul(self.size);
        let end = start.saturating_add(self.size).min(self.bytes.len());
        self.bytes.get(start..end).ok_or_else(|| Fault::of("it ends before its last sector"))
    }

    /// The bytes of a chain of sectors.
    fn chain(&self, first: u32) -> Result<Vec<u8>, Fault> {
        let (mut all, mut at) = (vec![], first);
        for _ in 0..=self.next.len() {
            if at >= NO_SECTOR {
                return Ok(all);
            }
            all.extend_from_slice(self.sector(at)?);
            at = *self.next.get(at as usize).ok_or_else(|| Fault::of("a sector of it is in no table"))?;
        }
        Err(Fault::of("its sectors go round in a circle"))
    }

    /// The bytes of the stream of this name, if there is one.
    pub fn stream(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        // Names are UTF-16 with a zero behind, and some writers use other letters.
        let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let named = |e: &&[u8]| e[66] == 2 && e[..64].get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(&name));
        let Some(entry) = self.directory.as_chunks::<ENTRY>().0.iter().map(|e| &e[..]).find(named) else {
            return Ok(None);
        };
        let (first, length) = (number(entry, 116), number(entry, 120));
        if length >= self.short {
            let mut all = self.chain(first)?;
            all.truncate(length as usize);
            return Ok(Some(all));
        }
        let (mut all, mut at) = (Vec::new(), first);
        while all.len() < length as usize {
            let sector = self.small.get((at as usize).saturating_mul(SMALL)..);
            let sector = sector.and_then(|s| s.get(..SMALL.min(s.len())).filter(|s| !s.is_empty()));
            all.extend_from_slice(sector.ok_or_else(|| Fault::of("it ends before its last sector"))?);
            at = self.next_small.get(at as usize).copied().unwrap_or(NO_SECTOR);
        }
        all.truncate(length as usize);
        Ok(Some(all))
    }
}

/// Zero behind the end.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b))
}
