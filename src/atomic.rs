/*! Replacing a file so that a crash leaves the old one or the new one, never a mixture: a temporary file in the same
folder, written, fsynced, renamed over the target, and the folder fsynced. Weight files, checkpoints, manifests, reports
and the cache of pictures all go through [`write()`] or [`write_file`]; it is also what makes it safe to save over a file
that is mapped, because the mapping keeps the old file alive. */

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes gathered before they go to the system.
pub const BUFFER: usize = 1 << 20;

/// Replaces `path` by what `fill` writes.
///
/// When this returns Ok the new content survives a power failure; on any error the old content is untouched and the
/// temporary file is removed. A symbolic link is followed and kept; permissions of a file that existed are kept. A
/// device or a pipe (`/dev/stdout`) cannot be replaced and is written directly. Temporary files that a killed process
/// left for the same target are removed on the way.
pub fn write(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    write_file(path, |file| {
        let mut w = BufWriter::with_capacity(BUFFER, file);
        fill(&mut w).and_then(|()| w.flush()).map_err(|e| Error::io(path, "write", e))
    })
}

/// [`write()`] for content whose beginning is known last: `fill` gets the empty file itself, may go back in it, and may
/// fail for reasons of its own.
pub fn write_file<T>(path: impl AsRef<Path>, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    replace(path.as_ref(), false, fill)
}

/// [`write_file`]; the file that is replaced is kept under the name of [`previous`], in place of what had that name. The new
/// file takes its place first: at any instant at least one of the two names leads to another file than the one that is
/// replaced, so a crash does not leave a file that is damaged under both.
pub fn write_keeping<T>(path: impl AsRef<Path>, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    replace(path.as_ref(), true, fill)
}

/// Where [`write_keeping`] keeps what was there before: `NAME.previous` beside the file, or beside what a link leads to.
pub fn previous(path: &Path) -> PathBuf {
    let mut name = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()).into_os_string();
    name.push(".previous");
    name.into()
}

/// Bytes that the disk still takes where `path` is or is to be; None where the system does not tell.
pub fn room(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = std::ffi::CString::new(fs::canonicalize(folder).ok()?.as_os_str().as_bytes()).ok()?;
        // SAFETY: zeros are valid for the structure, which the system fills; both pointers are of living variables.
        let (failed, s) = unsafe {
            let mut s = std::mem::zeroed::<libc::statvfs>();
            (libc::statvfs(folder.as_ptr(), &mut s) != 0, s)
        };
        // Some network file systems say that they have no blocks at all. Other systems than Linux count in 32 bits.
        #[allow(clippy::unnecessary_cast)]
        (!failed && s.f_blocks > 0).then(|| s.f_bavail as u64 * s.f_frsize as u64)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Removes what [`write_keeping`] kept, where a job is done and no more than its result is wanted.
pub fn forget_previous(path: &Path) -> Result<()> {
    let before = previous(path);
    match fs::remove_file(&before) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(&before, "remove", e)),
        _ => Ok(()),
    }
}

fn replace<T>(path: &Path, keep: bool, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let failed = |e| Error::io(path, "write", e);
    // A rename would replace the link, not the file behind it.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let old = fs::metadata(&target).ok();
    if old.as_ref().is_some_and(|m| m.is_dir()) {
        return Err(Error::file(path, "cannot write: it is a folder").fix("name a file inside it"));
    }
    if old.as_ref().is_some_and(|m| !m.is_file()) {
        return fill(&mut fs::OpenOptions::new().write(true).open(&target).map_err(failed)?);
    }
    let Some(name) = target.file_name().and_then(|n| n.to_str()) else {
        return Err(Error::file(path, "cannot write: the path names no file").fix("name a file"));
    };
    let folder = match target.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let prefix = format!(".{name}.");
    remove_stale(folder, &prefix);

    let (mut file, temp) = create(folder, &prefix).map_err(|e| Error::io(path, "create a file beside it", e))?;
    let temp = Temporary { path: temp, renamed: false };
    if let Some(m) = &old {
        file.set_permissions(m.permissions()).map_err(failed)?;
    }
    let made = fill(&mut file)?;
    file.sync_all().map_err(failed)?;
    let before = match keep && old.is_some() {
        true => Some(second_name(&target, folder, &prefix).map_err(|e| Error::io(path, "keep the file before", e))?),
        false => None,
    };
    if let Err(e) = temp.rename(&target) {
        // Where files have one name only, it is given back.
        before.map(|b| b.rename(&target));
        return Err(failed(e));
    }
    // `file` stays open, and with it locked, until the temporary name is gone: also on the ways out above.
    drop(file);
    settle(path, folder)?;
    if let Some(before) = before {
        before.rename(&previous(&target)).map_err(|e| Error::io(path, "keep the file before", e))?;
        settle(path, folder)?;
    }
    Ok(made)
}

/// Without this a rename may be lost in a power failure. Windows cannot open folders and needs no such call.
fn settle(path: &Path, folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder)
        .and_then(|d| d.sync_all())
        .map_err(|e| Error::io(path, "make the new file durable (it is complete and in place)", e))?;
    #[cfg(not(unix))]
    let _ = (path, folder);
    Ok(())
}

/// Gives a file a second name beside it; where the system has no second names, instead of its own.
fn second_name(target: &Path, folder: &Path, prefix: &str) -> io::Result<Temporary> {
    let (reserved, path) = create(folder, prefix)?;
    let name = Temporary { path, renamed: false };
    fs::remove_file(&name.path)?;
    drop(reserved);
    fs::hard_link(target, &name.path).or_else(|_| fs::rename(target, &name.path))?;
    Ok(name)
}

/// Removes its file unless it was renamed: also when `fill` panics.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A new locked file `<prefix><process>-<n>.tmp`. The lock tells [`remove_stale`] that its writer lives.
fn create(folder: &Path, prefix: &str) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let temp = folder.join(format!("{prefix}{}-{n}.tmp", std::process::id()));
        let file = match File::create_new(&temp) {
            // Process numbers come round again: a leftover may have this name and no lock support to tell it is stale.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other?,
        };
        // Some network file systems have no locks: then nothing is ever found stale, which is safe.
        let _ = file.lock();
        // Between creation and lock another process may have taken it for a leftover.
        if temp.exists() {
            return Ok((file, temp));
        }
    }
}

/// Removes the temporary files of this target whose writers died, which is when their lock can be had.
fn remove_stale(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(middle) = name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_suffix(".tmp")) else { continue };
        let ours = middle.split_once('-').is_some_and(|(a, b)| {
            let number = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
            number(a) && number(b)
        });
        if !ours {
            continue;
        }
        if let Ok(f) = File::open(entry.path())
            && f.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut v: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        v.sort();
        v
    }

    #[test]
    fn replaces_whole_files() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("a.bin");
        write(&p, |w| w.write_all(b"one")).unwrap();
        write(&p, |w| w.write_all(b"two, longer")).unwrap();
        assert_eq!(fs::read(&p).unwrap(), b"two, longer");
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("a.bin");
        write(&p, |w| w.write_all(b"old")).unwrap();
        for after in [0, 1, BUFFER - 1, BUFFER, 3 * BUFFER + 5] {
            let e = write(&p, |w| {
                w.write_all(&vec![7; after])?;
                Err(io::ErrorKind::StorageFull.into())
            });
            let e = e.unwrap_err().to_string();
            assert!(e.contains("a.bin") && e.contains("nothing was overwritten"), "{e}");
            assert_eq!(fs::read(&p).unwrap(), b"old");
            assert_eq!(names(dir.path()), ["a.bin"]);
        }
    }

    #[test]
    fn the_beginning_may_come_last() {
        use std::io::Seek;
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("a.txt");
        write(&p, |w| w.write_all(b"old")).unwrap();
        let half = write_file(&p, |f| {
            f.write_all(b"new, but not fin").unwrap();
            assert_eq!(fs::read(&p).unwrap(), b"old");
            Err::<(), _>(Error::interrupted("stopped here"))
        });
        assert_eq!(half.unwrap_err().to_string(), "stopped here");
        assert_eq!((fs::read(&p).unwrap(), names(dir.path())), (b"old".to_vec(), vec!["a.txt".to_string()]));
        let made = write_file(&p, |f| {
            f.write_all(b"01234").unwrap();
            f.rewind().unwrap();
            f.write_all(b"x").unwrap();
            Ok(7)
        });
        assert_eq!((made.unwrap(), fs::read(&p).unwrap()), (7, b"x1234".to_vec()));
        assert_eq!(names(dir.path()), ["a.txt"]);
    }

    #[test]
    fn a_panic_while_writing_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("a.bin");
        write(&p, |w| w.write_all(b"old")).unwrap();
        let r = std::panic::catch_unwind(|| write(&p, |_| panic!("in the middle")));
        assert!(r.is_err());
        assert_eq!(fs::read(&p).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("a.bin");
        for n in [".a.bin.123-0.tmp", ".a.bin.mine.tmp", ".b.bin.123-0.tmp"] {
            fs::write(dir.path().join(n), b"half").unwrap();
        }
        let living = File::create(dir.path().join(".a.bin.77-1.tmp")).unwrap();
        living.lock().unwrap();
        write(&p, |w| w.write_all(b"new")).unwrap();
        assert_eq!(names(dir.path()), [".a.bin.77-1.tmp", ".a.bin.mine.tmp", ".b.bin.123-0.tmp", "a.bin"]);
    }

    #[test]
    fn writers_of_one_file_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("a.bin");
        std::thread::scope(|s| {
            for t in 0..4u8 {
                let p = &p;
                s.spawn(move || {
                    for _ in 0..25 {
                        write(p, |w| w.write_all(&[t; 4096])).unwrap();
                    }
                });
            }
        });
        let got = fs::read(&p).unwrap();
        assert!(got.len() == 4096 && got.iter().all(|b| *b == got[0]));
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    fn the_file_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("a.bin");
        let before = previous(&p);
        let put = |text: &[u8]| write_keeping(&p, |f| f.write_all(text).map_err(|e| Error::io(&p, "write", e)));
        put(b"one").unwrap();
        assert_eq!(names(dir.path()), ["a.bin"]);
        for [old, new] in [["one", "two"], ["two", "three"]] {
            put(new.as_bytes()).unwrap();
            assert_eq!((fs::read(&p).unwrap(), fs::read(&before).unwrap()), (new.into(), old.into()));
        }
        let failed = write_keeping(&p, |_| Err::<(), _>(Error::job("no")));
        assert!(failed.is_err());
        assert_eq!((fs::read(&p).unwrap(), fs::read(&before).unwrap()), (b"three".to_vec(), b"two".to_vec()));
        assert_eq!(names(dir.path()), ["a.bin", "a.bin.previous"]);
        // The instant between the two renames, held still by a name that cannot be taken: the new file is in place.
        fs::remove_file(&before).unwrap();
        fs::create_dir_all(before.join("in the way")).unwrap();
        let e = put(b"four").unwrap_err().to_string();
        assert!(e.contains("a.bin: cannot keep the file before: "), "{e}");
        assert_eq!((fs::read(&p).unwrap(), names(dir.path()).len()), (b"four".to_vec(), 2));
    }

    #[test]
    fn folders_and_missing_folders_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let e = write(dir.path(), |_| Ok(())).unwrap_err().to_string();
        assert!(e.contains("it is a folder"), "{e}");
        let e = write(dir.path().join("no/such/a.bin"), |_| Ok(())).unwrap_err().to_string();
        assert!(e.contains("no/such/a.bin") && e.contains("check the path"), "{e}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_permissions_kept_and_devices_written_directly() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (p, l) = (dir.path().join("a.bin"), dir.path().join("link"));
        fs::write(&p, b"old").unwrap();
        fs::set_permissions(&p, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&p, &l).unwrap();
        write(&l, |w| w.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&l).unwrap().is_symlink());
        assert_eq!(fs::read(&p).unwrap(), b"new");
        assert_eq!(fs::metadata(&p).unwrap().permissions().mode() & 0o777, 0o640);
        if Path::new("/dev/full").exists() {
            let e = write("/dev/full", |w| w.write_all(&[0; 10])).unwrap_err().to_string();
            assert!(e.contains("/dev/full") && Path::new("/dev/full").exists(), "{e}");
        }
    }
}
