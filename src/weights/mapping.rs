/*! A file in the address space ([`crate::mapped`]), or bytes of the program. Whether the file is still the one that was
opened, by length and modification time, is looked at each time a tensor is handed out. */

use crate::error::{Error, Result};
use crate::files;
use crate::mapped::{CHANGED, Mapped, REMEDY};
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes that stay where they are, and where they came from.
pub struct Mapping {
    path: PathBuf,
    backing: Backing,
}

enum Backing {
    /// The stamp is the file's length and time when it was mapped.
    Mapped {
        file: File,
        map: Mapped,
        stamp: (u64, Option<SystemTime>),
    },
    Static(&'static [u8]),
}

fn stamp(file: &File) -> std::io::Result<(u64, Option<SystemTime>)> {
    let m = file.metadata()?;
    Ok((m.len(), m.modified().ok()))
}

impl Mapping {
    /// Maps a regular file that is not empty, read-only.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io(path, "read the weights", e);
        let file = files::open(path).map_err(|e| match e.kind() {
            ErrorKind::IsADirectory => {
                Error::file(path, "cannot read the weights: it is a folder").fix("name a weight file")
            }
            _ => io(e),
        })?;
        let stamp = stamp(&file).map_err(io)?;
        if stamp.0 < 8 {
            // Nothing can be mapped of an empty file, and no format begins so.
            return Err(Error::file(path, format!("only {} bytes long, not a weight file", stamp.0))
                .fix("it may be a failed download: fetch it again"));
        }
        let map = Mapped::new(path, &file).map_err(|e| Error::io(path, "map the weights", e))?;
        if map.len() as u64 != stamp.0 {
            return Err(changed(path));
        }
        Ok(Self { path: path.into(), backing: Backing::Mapped { file, map, stamp } })
    }

    /// Bytes inside the program; `name` stands for the path in messages.
    pub fn of_static(name: &str, bytes: &'static [u8]) -> Self {
        Self { path: name.into(), backing: Backing::Static(bytes) }
    }

    /// Whether the bytes are part of the program.
    pub fn is_static(&self) -> bool {
        matches!(self.backing, Backing::Static(_))
    }

    /// As it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it. Read [`Mapping::unchanged`] first when time has passed since it was opened.
    pub fn bytes(&self) -> &[u8] {
        match &self.backing {
            Backing::Mapped { map, .. } => map,
            Backing::Static(bytes) => bytes,
        }
    }

    /// Fails if the file was truncated, extended or written to since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        let Backing::Mapped { file, stamp: before, .. } = &self.backing else { return Ok(()) };
        let now = stamp(file).map_err(|e| Error::io(&self.path, "read the weights", e))?;
        if now == *before { Ok(()) } else { Err(changed(&self.path)) }
    }

    /// Has the system bring these ranges of [`Mapping::bytes`] into memory, in their order: computing threads that find a
    /// page missing wait for one small read at a time. Where the system cannot do that (before Linux 5.14), pages come as
    /// they are touched.
    pub fn populate(&self, ranges: impl Iterator<Item = Range<usize>>) {
        // What is part of the program is read with it.
        let Backing::Mapped { map, .. } = &self.backing else { return };
        /// Neighbours closer than this are one read: what lies between costs less than asking twice.
        const GAP: usize = 64 << 10;
        let mut reads: Vec<Range<usize>> = vec![];
        for range in ranges {
            match reads.last_mut() {
                Some(last) if last.end <= range.start && range.start - last.end < GAP => last.end = range.end,
                _ => reads.push(range),
            }
        }
        for r in reads {
            // A page that cannot be read is an error here and not a signal: whoever needs it finds out.
            #[cfg(target_os = "linux")]
            let _ = map.map().advise_range(memmap2::Advice::PopulateRead, r.start, r.len());
            #[cfg(all(unix, not(target_os = "linux")))]
            let _ = map.map().advise_range(memmap2::Advice::WillNeed, r.start, r.len());
            #[cfg(not(unix))]
            let _ = (map, r);
        }
    }

    /// Tells the system that a range of [`Mapping::bytes`] was copied and is not needed soon: its pages no longer count as
    /// this process's memory. Whoever reads the range again reads the file again.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Backing::Mapped { map, .. } = &self.backing {
            // SAFETY: the mapping is read-only and shared, so its pages hold what the file holds: those that are dropped come
            // back with the same bytes.
            let _ = unsafe {
                map.map().unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

fn changed(path: &Path) -> Error {
    Error::file(path, CHANGED).fix(REMEDY)
}
