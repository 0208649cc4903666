/*! Compiled units on disk, so that a program starts without compiling, and a machine without NVRTC starts at all. An entry
is named by everything that the code depends on, so it is never out of date; it carries a checksum against damage and is
compiled again when that does not hold. Entries are written by rename only: any number of processes may share a folder.

**What is trusted.** An entry is code, and a checksum that everybody can compute says nothing about who wrote it. So entries are
read as ssh reads its files ([`files::read_own`]): the folder is made for its user alone, and a folder or an entry that
belongs to anybody but this user and root, or that others can write, is named in one line and not used; everything is then
compiled. What root or the user put there themselves, such as the folder of `kernels export` carried to another machine, is used.

An entry is a cubin with something behind it, which `cuobjdump` and `nvdisasm` read as it is: the cubin, the PTX, a JSON
tail with the rest, and 32 bytes of lengths of the three and a checksum, little-endian. */

use super::library;
use super::source::KernelText;
use super::{Compiled, Resources, Target, Unit, Version, available, compile_source, options};
use crate::atomic;
use crate::error::{Error, Result};
use crate::files;
use crate::hash::{Fnv, checksum};
use crate::progress;
use rayon::prelude::*;
use std::env;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

/// The folder of everything that can be made again.
const FOLDER: &str = "DEEP_AFFECT_CACHE";

/// Raised whenever the same bytes would mean something else.
const LAYOUT: u64 = 1;

/// Bytes behind the JSON tail.
const FOOTER: usize = 32;

/// Most bytes of an entry; the largest unit has less than one MiB.
const MOST: u64 = 64 << 20;

/// A folder of compiled units, or none: then everything is compiled every time.
#[derive(Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
    /// Permissions of folders that are made.
    mode: u32,
    /// A folder that cannot be written is said once.
    unwritable: AtomicBool,
}

impl Cache {
    /// `kernels` in `$DEEP_AFFECT_CACHE`, else in the user's cache folder (XDG Base Directory Specification 0.8, which also has
    /// relative paths ignored).
    pub fn open() -> Self {
        let named = files::named_by(FOLDER).unwrap_or_else(|why| {
            static SAID: Once = Once::new();
            SAID.call_once(|| progress::watcher().note(&why));
            None
        });
        let user = || {
            let set = files::named_by("XDG_CACHE_HOME").ok().flatten();
            set.or_else(|| Some(env::home_dir().filter(|h| h.is_absolute())?.join(".cache")))
        };
        let folder = named.or_else(|| Some(user()?.join("deep-affect")));
        folder.map_or_else(Self::default, |f| Self { mode: 0o700, ..Self::within(f) })
    }

    /// `kernels` in another folder, which others may read.
    pub fn within(folder: impl AsRef<Path>) -> Self {
        Self { folder: Some(folder.as_ref().join("kernels")), mode: 0o755, ..Self::default() }
    }

    /// Where the entries are.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Where something else of the kind is kept: `tiles` beside `kernels`.
    pub fn beside(&self, name: &str) -> Option<Self> {
        let folder = Some(self.folder()?.with_file_name(name));
        Some(Self { folder, mode: self.mode, ..Self::default() })
    }

    /// Why nothing in the folder is used, if that is so.
    pub fn distrusted(&self) -> Option<String> {
        files::distrusted(self.folder()?)
    }

    /// The folder, unless what is in it is not trusted, which is said once.
    fn trusted(&self) -> Option<&Path> {
        let Some(why) = self.distrusted() else { return self.folder() };
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            progress::watcher().note(&format!("compiled kernels and measured tiles are not used: {why}"))
        });
        None
    }

    /// How many entries there are that may be used.
    pub fn entries(&self) -> usize {
        let names = self.trusted().and_then(|f| fs::read_dir(f).ok()).into_iter().flatten().flatten();
        names.filter(|e| e.path().extension().is_some_and(|e| e == "cubin")).count()
    }

    /// Makes the folder, with permissions of its own.
    pub fn make(&self) -> Result<()> {
        let Some(folder) = self.folder() else { return Ok(()) };
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, self.mode);
        builder.create(folder).map_err(|e| Error::io(folder, "make this folder", e))
    }

    /// The bytes of a file in the folder; None where there is none, or none that is trusted: that goes, with a remark.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.trusted()?.join(name);
        match files::read_own(&path, MOST) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => {
                progress::watcher().note(&format!("{}: not used: {e}", path.display()));
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Whether an entry could not be written.
    pub fn is_unwritable(&self) -> bool {
        self.unwritable.load(Ordering::Relaxed)
    }

    /// An entry, compiled by `version`, or by the newest that fits the driver, or by the newest. None if there is none; a
    /// remark if it is damaged.
    fn read(&self, key: &Key, version: Option<Version>) -> Option<Compiled> {
        let name = match version {
            Some(version) => key.file(version),
            None => key.file(key.versions(self.folder()?).max_by_key(|v| (library::served(*v), *v))?),
        };
        let found = decode(&self.bytes(&name)?);
        if found.is_none() {
            progress::watcher().note(&format!("{}: damaged, and made again", self.folder()?.join(name).display()));
        }
        found
    }

    fn write(&self, key: &Key, version: Version, compiled: &Compiled) {
        let Some(folder) = self.trusted() else { return };
        let path = folder.join(key.file(version));
        let written = self.make().and_then(|()| atomic::write_own(&path, |w| w.write_all(&encode(compiled))));
        if let Err(e) = written
            && !self.unwritable.swap(true, Ordering::Relaxed)
        {
            progress::watcher().note(&format!("compiled kernels are not kept: {e}"));
        }
    }
}

/// Units for one target, from the cache or compiled, on all threads. A long wait is told to the
/// [watcher](progress::watch). Without NVRTC everything must be in the cache, made by any version.
pub fn compile_all(units: &[Unit], target: Target, cache: &Cache) -> Result<Vec<Arc<Compiled>>> {
    let version = available();
    let known = version.as_ref().ok().copied();
    let keyed = |unit: &Unit| {
        let source = KernelText::open(unit.source)?;
        let key = Key::new(unit, &source, target);
        let found = cache.read(&key, known);
        Ok((source, key, found))
    };
    let looked: Vec<_> = units.par_iter().map(keyed).collect::<Result<_>>()?;
    let missing = looked.iter().filter(|l| l.2.is_none()).count();
    if missing == 0 {
        return Ok(looked.into_iter().flat_map(|l| l.2).map(Arc::new).collect());
    }
    let version = version?;
    let watcher = progress::watcher();
    watcher.start("kernels", missing as u64);
    let complete = |(unit, (source, key, found)): (&Unit, (KernelText, Key, Option<Compiled>))| {
        if let Some(found) = found {
            return Ok(Arc::new(found));
        }
        if watcher.stopped() {
            return Err(Error::interrupted("stopped while kernels were compiled; those that are done are kept"));
        }
        let compiled = compile_source(unit, &source, target)?;
        cache.write(&key, version, &compiled);
        watcher.inc();
        Ok(Arc::new(compiled))
    };
    let all = units.par_iter().zip(looked).with_max_len(1).map(complete).collect();
    watcher.done();
    all
}

/// What the code of an entry depends on, but for the version of the compiler.
struct Key {
    /// For people: the source's name and the target.
    stem: String,
    hash: u128,
}

impl Key {
    fn new(unit: &Unit, source: &KernelText, target: Target) -> Self {
        let mut hash = Fnv::default();
        hash.update(&LAYOUT.to_le_bytes()).field(unit.source.as_bytes()).field(source.text.as_bytes());
        hash.field(source.root.as_bytes());
        hash.update(&(source.headers.len() as u64).to_le_bytes());
        for (name, text) in &source.headers {
            hash.field(name.as_bytes()).field(text.as_bytes());
        }
        for option in options(unit, target) {
            hash.field(option.as_bytes());
        }
        let stem = format!("{}-{target}", unit.source.trim_end_matches(".cu").replace('/', "-"));
        Self { stem, hash: hash.finish() }
    }

    fn prefix(&self) -> String {
        format!("{}-{:032x}-", self.stem, self.hash)
    }

    fn file(&self, version: Version) -> String {
        format!("{}{version}.cubin", self.prefix())
    }

    /// Of the entries in a folder.
    fn versions(&self, folder: &Path) -> impl Iterator<Item = Version> {
        let prefix = self.prefix();
        let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name());
        names.filter_map(move |name| name.to_str()?.strip_prefix(&prefix)?.strip_suffix(".cubin")?.parse().ok())
    }
}

/// The JSON tail.
#[derive(serde::Serialize, serde::Deserialize)]
struct Tail {
    resources: Vec<Resources>,
    warnings: Vec<String>,
}

fn encode(c: &Compiled) -> Vec<u8> {
    let tail = Tail { resources: c.resources.clone(), warnings: c.warnings.clone() };
    let tail = serde_json::to_vec(&tail).expect("numbers and strings");
    let parts = [&c.cubin[..], c.ptx.as_bytes(), &tail];
    let lengths = parts.map(|p| (p.len() as u64).to_le_bytes());
    let mut bytes = [parts.concat(), lengths.concat()].concat();
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

/// None if these are not the bytes that [`encode`] made.
fn decode(bytes: &[u8]) -> Option<Compiled> {
    let (content, footer) = bytes.split_at_checked(bytes.len().checked_sub(FOOTER)?)?;
    let word = |i: usize| u64::from_le_bytes(footer[8 * i..8 * i + 8].try_into().expect("8 bytes"));
    if checksum(&bytes[..bytes.len() - 8]) != word(3) {
        return None;
    }
    let (cubin, rest) = content.split_at_checked(usize::try_from(word(0)).ok()?)?;
    let (ptx, tail) = rest.split_at_checked(usize::try_from(word(1)).ok()?)?;
    let Tail { resources, warnings } = serde_json::from_slice(tail).ok()?;
    Some(Compiled { cubin: cubin.to_vec(), ptx: String::from_utf8(ptx.to_vec()).ok()?, resources, warnings })
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
