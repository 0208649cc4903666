/*! Files that are either complete or absent: written under another name in the same folder, synced, renamed. A reader, a
crash or a full disk never meets half a file, and a file that stood there before stays until the new one is whole. */

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file on its way to `path`; removed again unless [`commit`](Self::commit) succeeds.
pub struct Atomic {
    path: PathBuf,
    temp: PathBuf,
    file: File,
    kept: bool,
}

impl Atomic {
    /// Opens a temporary neighbour of `path`. Fails early where the folder is missing or cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = path.as_ref().to_path_buf();
        if path.is_dir() {
            return Err(Error::file(&path, "is a folder, and a file is to be written there").fix("name a file"));
        }
        let name = path.file_name().ok_or_else(|| Error::file(&path, "is not a file name").fix("name a file"))?;
        let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let temp = path.with_file_name(format!(".{}.{pid}-{n}.tmp", name.to_string_lossy()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&temp)
            .map_err(|e| Error::io(&path, "write", e))?;
        Ok(Self { path, temp, file, kept: false })
    }
    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.path, "write", e))
    }
    /// Writes over what is already there, from `offset`.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let run = |f: &mut File| {
            f.seek(SeekFrom::Start(offset))?;
            f.write_all(bytes)?;
            f.seek(SeekFrom::End(0))
        };
        run(&mut self.file).map(drop).map_err(|e| Error::io(&self.path, "write", e))
    }
    /// Syncs the bytes, gives the file its name, syncs the folder.
    pub fn commit(mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.path, "sync", e))?;
        std::fs::rename(&self.temp, &self.path).map_err(|e| Error::io(&self.path, "replace", e))?;
        self.kept = true;
        sync_folder(&self.path).map_err(|e| Error::io(&self.path, "sync the folder of", e))
    }
}

impl Drop for Atomic {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.temp);
        }
    }
}

/// Without it a power cut can forget the rename. Only Unix lets a folder be opened and synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Writes a whole file.
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let mut file = Atomic::create(path)?;
    file.write(bytes)?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write(&path, b"old").unwrap();
        let mut half = Atomic::create(&path).unwrap();
        half.write(b"new, but not fin").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(half);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        let mut whole = Atomic::create(&path).unwrap();
        whole.write(b"0123").unwrap();
        whole.write_at(1, b"x").unwrap();
        whole.write(b"4").unwrap();
        whole.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"0x234");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn one_line_when_it_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_path_buf(), dir.path().join("none/a.txt")] {
            let e = write(&path, b"x").unwrap_err().to_string();
            assert!(e.contains(path.to_str().unwrap()) && !e.contains('\n'), "{e}");
        }
    }
}
