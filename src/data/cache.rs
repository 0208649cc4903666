/*! The resized set: of every picture a record of its squares `[side, side, 3]`, one for each view, mapped from one file or
held in memory. The file is named by what it was made from (the content of every picture, views, options), so it is never
out of date; it carries checksums and is rebuilt, never trusted, when they do not hold. It is written by rename only: a
mapping of an older file stays valid.

Layout, little-endian: 128 bytes of header (magic, side of the first view, n, length of the tail, key, checksum of the
tail, checksum of the header), the records from byte 128 on (a multiple of 64), a JSON tail with the rows, a checksum of
each record and what happened to the rest. */

pub use super::pictures::Source;

use super::decode::DecodeOptions;
use super::pictures::{Outcome, fingerprints, records};
use crate::atomic;
use crate::error::{Error, Result, option};
use crate::files;
use crate::hash;
use crate::mapped::Mapped;
use crate::preprocess::{self, View};
use crate::progress::Progress;
use rayon::prelude::*;
use std::borrow::Cow;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Raised whenever the same pictures would give other bytes: layout, decoders, filters.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"DAPICS\r\n";
const HEADER: usize = 128;
/// Largest side of a square: 48 MiB a picture.
const MAX_SIDE: usize = 4096;

/// How pictures become squares, and where the squares are kept.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// What is made of each picture; at least one.
    pub views: Vec<View>,
    pub decode: DecodeOptions,
    /// None keeps the squares in memory.
    pub cache_dir: Option<PathBuf>,
}

/// A picture that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Its index among the sources: the manifest's row.
    pub row: usize,
    pub path: String,
    pub reason: String,
}

/// What loading gave: to be looked at, reported, and then [`accept`](Self::accept)ed.
#[derive(Debug)]
pub struct Loaded {
    pictures: Pictures,
    /// Every picture that could not be used, in the order of the sources.
    pub bad: Vec<Bad>,
    /// Remarks about pictures that could: row, text.
    pub notes: Vec<(usize, String)>,
    /// Set if a cache file was there and had to be made again.
    pub rebuilt: Option<String>,
    /// True if nothing had to be decoded.
    pub cached: bool,
}

/// The pictures that exist. Index `i` counts them; [`rows`](Self::rows) says which source each came from.
#[derive(Debug)]
pub struct Pictures {
    store: Store,
    views: Vec<View>,
    rows: Vec<usize>,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    /// Boxed, so that what is handed from thread to thread stays small.
    Mapped(Box<Mapped>),
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Tail {
    outcome: Outcome,
    checksums: Vec<u64>,
}

impl Loaded {
    /// The pictures, unless some are bad and `skip_bad` is false, or none is good. The error names the first and the
    /// number; [`bad`](Self::bad) has them all.
    pub fn accept(self, skip_bad: bool) -> Result<Pictures> {
        let Some(first) = self.bad.first() else { return Ok(self.pictures) };
        let total = self.bad.len() + self.pictures.len();
        let e = Error::file(&first.path, &first.reason);
        if self.pictures.is_empty() {
            return Err(Error::job(format!("none of {total} pictures can be used, the first because: {e:#}")));
        }
        if skip_bad {
            return Ok(self.pictures);
        }
        Err(Error::job(format!("{} of {total} pictures cannot be used, the first is {e:#}", self.bad.len()))
            .fix(format!("repair or remove them, or give {} to go on without them", option("skip-bad"))))
    }
    /// How many squares there are.
    pub fn usable(&self) -> usize {
        self.pictures.len()
    }
}

impl Pictures {
    /// Loads every source: from the cache folder if there is a file for exactly these contents, by decoding otherwise.
    /// Errors are about the job (folder, disk, interruption); bad pictures are in the result.
    pub fn load(sources: &[Source], opts: &LoadOptions, progress: &dyn Progress) -> Result<Loaded> {
        if opts.views.is_empty() || opts.views.iter().any(|v| !(1..=MAX_SIDE).contains(&v.side)) {
            let sides = preprocess::sides(&opts.views);
            return Err(
                Error::usage(format!("pictures of {sides} pixels a side")).fix(format!("choose 1 to {MAX_SIDE}"))
            );
        }
        if sources.is_empty() {
            return Err(Error::usage("there are no pictures to load").fix("name a manifest or folder that has some"));
        }
        match &opts.cache_dir {
            Some(dir) => from_cache(sources, opts, dir, progress),
            None => {
                let mut pixels = Vec::new();
                let sink = &mut |record: &[u8]| {
                    pixels.extend_from_slice(record);
                    Ok(())
                };
                let outcome = records(sources, &opts.views, &opts.decode, None, progress, sink)?;
                Ok(loaded(Store::Memory(pixels), opts, outcome, sources))
            }
        }
    }

    /// Encoded pictures in memory (the bundled photographs), through the same decoders.
    pub fn from_bytes(items: &[(&str, &[u8])], opts: &LoadOptions, progress: &dyn Progress) -> Result<Loaded> {
        let sources: Vec<_> =
            items.iter().map(|(name, bytes)| Source::Memory { name: name.to_string(), bytes }).collect();
        Self::load(&sources, opts, progress)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// What there is of each picture.
    pub fn views(&self) -> &[View] {
        &self.views
    }
    /// The source (manifest row) of each picture, ascending: `manifest.select(pictures.rows())` is the matching list.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }
    /// All records: of the only view, `[n, side, side, 3]`.
    pub fn bytes(&self) -> &[u8] {
        let length = self.len() * self.record();
        match &self.store {
            Store::Memory(pixels) => &pixels[..length],
            Store::Mapped(map) => &map[HEADER..HEADER + length],
        }
    }
    /// Picture `i` (< [`len`](Self::len)): its squares, one view after another.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.bytes()[i * self.record()..(i + 1) * self.record()]
    }
    /// What one view shows of picture `i`, `[side, side, 3]`.
    pub fn square(&self, i: usize, view: usize) -> &[u8] {
        &self.image(i)[preprocess::record(&self.views[..view])..][..self.views[view].bytes()]
    }
    /// What one view shows of all of them, `[n, side, side, 3]`: without a copy where it is the only one.
    pub fn squares(&self, view: usize) -> Cow<'_, [u8]> {
        preprocess::squares(self.bytes(), &self.views, view)
    }
    /// Copies what one view shows of some into a batch, `out` = `[indices.len(), side, side, 3]`.
    pub fn gather(&self, indices: &[usize], view: usize, out: &mut [u8]) {
        let square = self.views[view].bytes();
        assert_eq!(out.len(), indices.len() * square, "the batch has the size of its pictures");
        for (to, &i) in out.chunks_exact_mut(square).zip(indices) {
            to.copy_from_slice(self.square(i, view));
        }
    }
    fn record(&self) -> usize {
        preprocess::record(&self.views)
    }
}

fn loaded(store: Store, opts: &LoadOptions, outcome: Outcome, sources: &[Source]) -> Loaded {
    let bad = outcome.bad.into_iter().map(|(row, reason)| Bad { row, path: sources[row].name(), reason }).collect();
    let pictures = Pictures { store, views: opts.views.clone(), rows: outcome.rows };
    Loaded { pictures, bad, notes: outcome.notes, rebuilt: None, cached: false }
}

fn from_cache(sources: &[Source], opts: &LoadOptions, dir: &Path, progress: &dyn Progress) -> Result<Loaded> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create the cache folder", e))?;
    let names = fingerprints(sources, progress)?;
    let key = key(&names, sources, opts);
    let path = dir.join(format!("pictures-{key:032x}.u8"));
    let rebuilt = match open(&path, key, &opts.views, sources.len()) {
        Ok(Some((map, outcome))) => {
            return Ok(Loaded { cached: true, ..loaded(Store::Mapped(map.into()), opts, outcome, sources) });
        }
        Ok(None) => None,
        Err(why) => Some(format!("{}: {why}; it was made again", path.display())),
    };
    remove_leftovers(dir);
    atomic::write_file(&path, |file| {
        let failed = |e| Error::io(&path, "write", e);
        file.write_all(&[0; HEADER]).map_err(failed)?;
        let mut checksums = Vec::with_capacity(sources.len());
        let sink = &mut |record: &[u8]| {
            checksums.push(hash::checksum(record));
            file.write_all(record).map_err(failed)
        };
        let outcome = records(sources, &opts.views, &opts.decode, Some(&names), progress, sink)?;
        let n = outcome.rows.len();
        let tail = Tail { outcome, checksums };
        let tail = serde_json::to_vec(&tail).map_err(|e| Error::file(&path, format!("cannot write: {e}")))?;
        let header = header(key, &opts.views, n, &tail);
        file.write_all(&tail).and_then(|()| file.rewind()).and_then(|()| file.write_all(&header)).map_err(failed)
    })?;
    let (map, outcome) = open(&path, key, &opts.views, sources.len())
        .and_then(|found| found.ok_or_else(|| "it vanished".into()))
        .map_err(|why| Error::file(&path, format!("cannot read back what was written: {why}")).fix("check the disk"))?;
    Ok(Loaded { rebuilt, ..loaded(Store::Mapped(map.into()), opts, outcome, sources) })
}

fn key(names: &[u128], sources: &[Source], opts: &LoadOptions) -> u128 {
    let mut h = hash::Fnv::default();
    let view = |v: &View| {
        let crop = v.crop.map_or(String::new(), |c| format!(" {c:?}"));
        format!("{} {:?}{}{crop}", v.side, v.resize, if v.grey { " grey" } else { "" })
    };
    let views: Vec<String> = opts.views.iter().map(view).collect();
    h.update(&VERSION.to_le_bytes()).field(format!("{} {:?}", views.join(", "), opts.decode).as_bytes());
    for name in names {
        h.update(&name.to_le_bytes());
    }
    // Boxes make a difference only where somebody looks into them.
    if opts.views.iter().any(|v| v.crop.is_some()) {
        for source in sources {
            h.field(format!("{:?}", source.face()).as_bytes());
        }
    }
    h.finish()
}

fn header(key: u128, views: &[View], n: usize, tail: &[u8]) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    h[..8].copy_from_slice(&MAGIC);
    h[8..16].copy_from_slice(&(views[0].side as u64).to_le_bytes());
    h[16..24].copy_from_slice(&(n as u64).to_le_bytes());
    h[24..32].copy_from_slice(&(tail.len() as u64).to_le_bytes());
    h[32..48].copy_from_slice(&key.to_le_bytes());
    h[48..56].copy_from_slice(&hash::checksum(tail).to_le_bytes());
    let sum = hash::checksum(&h[..HEADER - 8]);
    h[HEADER - 8..].copy_from_slice(&sum.to_le_bytes());
    h
}

/// The mapped file if it is there and whole; None if it is not there; why not otherwise.
fn open(path: &Path, key: u128, views: &[View], sources: usize) -> Result<Option<(Mapped, Outcome)>, String> {
    let file = match files::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| e.to_string())?,
    };
    let map = Mapped::new(path, &file).map_err(|e| e.to_string())?;
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| map[at + i]));
    if map.len() < HEADER || map[..8] != MAGIC || word(HEADER - 8) != hash::checksum(&map[..HEADER - 8]) {
        return Err("the header is damaged".into());
    }
    let found = (u128::from_le_bytes(std::array::from_fn(|i| map[32 + i])), word(8));
    if found != (key, views[0].side as u64) {
        return Err("it was made from something else".into());
    }
    let (record, n) = (preprocess::record(views), word(16) as usize);
    let pixels = HEADER.checked_add(n.checked_mul(record).ok_or("the header is damaged")?);
    let tail = pixels.and_then(|p| map.get(p..)).filter(|t| t.len() as u64 == word(24)).ok_or("its length is wrong")?;
    if hash::checksum(tail) != word(48) {
        return Err("its list of pictures is damaged".into());
    }
    let Tail { outcome, checksums } = serde_json::from_slice(tail).map_err(|e| e.to_string())?;
    let listed = outcome.rows.iter().chain(outcome.bad.iter().chain(&outcome.notes).map(|(row, _)| row));
    if outcome.rows.len() != n || checksums.len() != n || listed.into_iter().any(|&row| row >= sources) {
        return Err("its list of pictures is damaged".into());
    }
    let whole = map[HEADER..HEADER + n * record].par_chunks(record).zip(&checksums);
    if !whole.into_par_iter().all(|(pixels, &sum)| hash::checksum(pixels) == sum) {
        return Err("its pixels are damaged".into());
    }
    Ok(Some((map, outcome)))
}

/// Removes what killed runs left half-written, for other sets of pictures too. A running one touches its file all the
/// time.
fn remove_leftovers(dir: &Path) {
    let old = SystemTime::now() - Duration::from_secs(3600);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| n.starts_with(".pictures-") && n.ends_with(".tmp"));
        if ours && entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| t < old) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
