/*! Replacing a file so that a crash leaves the old one or the new one, never a mixture: a temporary file in the same
folder, written, fsynced, renamed over the target, and the folder fsynced. Weight files, checkpoints, manifests, reports
and the cache of pictures all go through [`write()`] or [`write_file`]; it is also what makes it safe to save over a file
that is mapped, because the mapping keeps the old file alive. */

use crate::error::{Error, Result};
use crate::files;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes gathered before they go to the system.
pub const BUFFER: usize = 1 << 20;

/// Replaces `path` by what `fill` writes.
///
/// When this returns Ok the new content survives a power failure; on any error the old content is untouched and the
/// temporary file is removed. A symbolic link is followed and kept, also one that leads to a file that is not there yet.
/// Permissions of a file that existed are those of the new one from its first byte on. A device or a pipe that somebody
/// reads (`/dev/stdout`) cannot be replaced and is written directly. Temporary files that a killed process left for the same
/// target are removed on the way; what else lies there under such a name is neither opened nor written.
pub fn write(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    write_file(path, |file| buffered(path, file, fill))
}

/// [`write()`] of a file that is [trusted](files) afterwards: nobody but its owner may write it, whatever there was before and
/// whatever the umask leaves to others.
pub fn write_own(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    replace(path, Before { keep: false, mode: Some(0o644) }, |file| buffered(path, file, fill))
}

fn buffered(path: &Path, file: &mut File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut w = BufWriter::with_capacity(BUFFER, file);
    fill(&mut w).and_then(|()| w.flush()).map_err(|e| Error::io(path, "write", e))
}

/// [`write()`] for content whose beginning is known last: `fill` gets the empty file itself, may go back in it, and may
/// fail for reasons of its own.
pub fn write_file<T>(path: impl AsRef<Path>, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    replace(path.as_ref(), Before { keep: false, mode: None }, fill)
}

/// [`write_file`]; the file that is replaced is kept under the name of [`previous`], in place of what had that name. The new
/// file takes its place first: at any instant at least one of the two names leads to another file than the one that is
/// replaced, so a crash does not leave a file that is damaged under both.
pub fn write_keeping<T>(path: impl AsRef<Path>, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    replace(path.as_ref(), Before { keep: true, mode: None }, fill)
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

/// Whether a file can be written there, as far as can be told without one: to be asked before a long job, not after it.
pub fn writable(path: &Path) -> Result<()> {
    let failed = |e| Error::io(path, "write", e);
    let target = behind(path).map_err(failed)?;
    match fs::metadata(&target) {
        Ok(m) if !m.is_file() && !m.is_dir() => device(&target).map(drop).map_err(failed),
        _ => probe(folder_of(&target)).map_err(failed),
    }
}

/// Makes a file in a folder and removes it: whether others can be written there. What a process left that was killed between
/// the two goes, too.
pub fn probe(folder: &Path) -> io::Result<()> {
    const NAME: &str = ".probe.";
    remove_stale(folder, NAME);
    create(folder, NAME, 0o600).and_then(|(_, path)| fs::remove_file(path))
}

/// Removes what [`write_keeping`] kept, where a job is done and no more than its result is wanted.
pub fn forget_previous(path: &Path) -> Result<()> {
    let before = previous(path);
    match fs::remove_file(&before) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(&before, "remove", e)),
        _ => Ok(()),
    }
}

/// What becomes of the file that is replaced.
struct Before {
    /// It is kept under the name of [`previous`].
    keep: bool,
    /// Permissions of the new file; None takes those of the old one.
    mode: Option<u32>,
}

fn replace<T>(path: &Path, before: Before, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let failed = |e| Error::io(path, "write", e);
    // A rename would replace the link, not the file behind it.
    let target = behind(path).map_err(failed)?;
    let old = fs::metadata(&target).ok();
    if old.as_ref().is_some_and(|m| m.is_dir()) {
        return Err(Error::file(path, "cannot write: it is a folder").fix("name a file inside it"));
    }
    if old.as_ref().is_some_and(|m| !m.is_file()) {
        return fill(&mut device(&target).map_err(failed)?);
    }
    let Some(name) = target.file_name().and_then(|n| n.to_str()) else {
        return Err(Error::file(path, "cannot write: the path names no file").fix("name a file"));
    };
    let folder = folder_of(&target);
    let prefix = format!(".{name}.");
    remove_stale(folder, &prefix);

    let mode = before.mode.or_else(|| Some(mode_of(old.as_ref()?)));
    let made = create(folder, &prefix, mode.unwrap_or(0o666));
    let (mut file, temp) = made.map_err(|e| Error::io(path, "create a file beside it", e))?;
    let temp = Temporary { path: temp, renamed: false };
    // What the umask took away the old file had.
    if let Some(m) = old.as_ref().filter(|_| before.mode.is_none()) {
        file.set_permissions(m.permissions()).map_err(failed)?;
    }
    let made = fill(&mut file)?;
    file.sync_all().map_err(failed)?;
    let before = match before.keep && old.is_some() {
        true => Some(second_name(&target, folder, &prefix).map_err(|e| Error::io(path, "keep the file before", e))?),
        false => None,
    };
    if let Err(e) = temp.rename(&target) {
        // Where files have one name only, it is given back. A second name is removed: renaming one name of a file to
        // another does nothing, and says so to nobody.
        before.filter(|_| !target.exists()).map(|b| b.rename(&target));
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

/// The path of what is to be replaced: behind every link, whether something is there yet or not.
fn behind(path: &Path) -> io::Result<PathBuf> {
    let mut at = path.to_path_buf();
    loop {
        let missing = match fs::canonicalize(&at) {
            Ok(target) => return Ok(target),
            Err(e) => e,
        };
        match fs::read_link(&at) {
            // Links that lead in a circle are an error of another kind.
            Ok(to) if missing.kind() == io::ErrorKind::NotFound => at = at.parent().unwrap_or(Path::new("")).join(to),
            Ok(_) => return Err(missing),
            Err(_) => return Ok(at),
        }
    }
}

/// A device, or a pipe that has a reader: opening one that has none would wait for it.
fn device(path: &Path) -> io::Result<File> {
    let mut how = OpenOptions::new();
    how.write(true);
    #[cfg(unix)]
    let _reader = {
        use std::os::unix::fs::OpenOptionsExt;
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        opened.map_err(|e| match e.raw_os_error() {
            Some(libc::ENXIO) => io::Error::new(e.kind(), "it is a pipe that nobody reads; start its reader first"),
            _ => e,
        })?
    };
    how.open(path)
}

fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Permissions; all where the system has no such numbers.
fn mode_of(meta: &fs::Metadata) -> u32 {
    #[cfg(unix)]
    return std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
    #[cfg(not(unix))]
    {
        let _ = meta;
        0o666
    }
}

/// Without this a rename may be lost in a power failure. Windows cannot open folders and needs no such call.
fn settle(path: &Path, folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|d| d.sync_all()).map_err(|e| {
        Error::file(path, format!("cannot make the new file durable: {e}")).fix(
            "it is complete and in place, and may be lost if the power fails: free some space, or look at the disk",
        )
    })?;
    #[cfg(not(unix))]
    let _ = (path, folder);
    Ok(())
}

/// Gives a file a second name beside it; where the system has no second names, instead of its own.
fn second_name(target: &Path, folder: &Path, prefix: &str) -> io::Result<Temporary> {
    let (reserved, path) = create(folder, prefix, 0o600)?;
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

/// A new locked file `<prefix><process>-<n>.tmp` with at most these permissions. The lock tells [`remove_stale`] that its
/// writer lives. A name that something has already, a link or a pipe perhaps, is left alone.
fn create(folder: &Path, prefix: &str, mode: u32) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let temp = folder.join(format!("{prefix}{}-{n}.tmp", std::process::id()));
        let mut how = OpenOptions::new();
        how.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut how, mode);
        #[cfg(not(unix))]
        let _ = mode;
        let file = match how.open(&temp) {
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
        if let Ok(f) = files::open_itself(&entry.path())
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
        fs::write(dir.path().join(".probe.123-0.tmp"), b"").unwrap();
        writable(&p).unwrap();
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

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_yet_is_followed_and_one_to_itself_refused() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        symlink("b", path("a")).unwrap();
        symlink(path("c"), path("b")).unwrap();
        write(path("a"), |w| w.write_all(b"new")).unwrap();
        assert_eq!(names(dir.path()), ["a", "b", "c"]);
        assert!(fs::symlink_metadata(path("a")).unwrap().is_symlink());
        assert!(fs::symlink_metadata(path("c")).unwrap().is_file() && fs::read(path("a")).unwrap() == b"new");
        symlink("round", path("round")).unwrap();
        assert!(write(path("round"), |_| Ok(())).is_err());
        symlink("no/such/file", path("astray")).unwrap();
        assert!(write(path("astray"), |_| Ok(())).unwrap_err().to_string().contains("check the path"));
        assert_eq!(names(dir.path()), ["a", "astray", "b", "c", "round"]);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_may_read_half_of_what_is_secret() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("a.bin");
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        let temporary = || {
            let name = names(dir.path()).into_iter().find(|n| n.ends_with(".tmp")).unwrap();
            mode(&dir.path().join(name))
        };
        for secret in [0o600, 0o640, 0o666] {
            fs::write(&p, b"old").unwrap();
            fs::set_permissions(&p, fs::Permissions::from_mode(secret)).unwrap();
            let (folder, made) = (dir.path(), create(dir.path(), ".b.", secret).unwrap());
            assert_eq!(mode(&made.1) & !secret, 0, "{secret:o}, the moment it is there");
            fs::remove_file(made.1).unwrap();
            assert_eq!(write_file(&p, |_| Ok(temporary())).unwrap(), secret);
            write_own(folder.join("own"), |_| Ok(())).unwrap();
            assert_eq!((mode(&p), mode(&folder.join("own")) & 0o022), (secret, 0));
        }
        fs::set_permissions(dir.path().join("own"), fs::Permissions::from_mode(0o666)).unwrap();
        write_own(dir.path().join("own"), |_| Ok(())).unwrap();
        assert_eq!(mode(&dir.path().join("own")) & 0o022, 0, "what others could write they cannot any more");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_planted_under_a_temporary_name_is_neither_opened_nor_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let pipe =
            |name: &str| assert!(std::process::Command::new("mkfifo").arg(path(name)).status().unwrap().success());
        pipe(".a.bin.1-1.tmp");
        fs::write(path("precious"), b"precious").unwrap();
        std::os::unix::fs::symlink(path("precious"), path(".a.bin.2-2.tmp")).unwrap();
        // The next name of this process; other tests take some meanwhile, so a few of them.
        let next = create(dir.path(), ".a.bin.", 0o600).unwrap().1;
        let (stem, n) = next.to_str().unwrap().trim_end_matches(".tmp").rsplit_once('-').unwrap();
        let n: u64 = n.parse().unwrap();
        fs::remove_file(&next).unwrap();
        (n..n + 500).for_each(|n| std::os::unix::fs::symlink(path("precious"), format!("{stem}-{n}.tmp")).unwrap());
        write(path("a.bin"), |w| w.write_all(b"new")).unwrap();
        assert_eq!(
            (fs::read(path("a.bin")).unwrap(), fs::read(path("precious")).unwrap()),
            (b"new".into(), b"precious".into())
        );
        // A pipe as the target: nobody reads it, and then somebody does.
        pipe("pipe");
        let e = write(path("pipe"), |_| Ok(())).unwrap_err().to_string();
        assert!(e.ends_with("pipe: cannot write: it is a pipe that nobody reads; start its reader first"), "{e}");
        assert_eq!(writable(&path("pipe")).unwrap_err().to_string(), e);
        let others = ["a.bin", "new.bin", "no/such.bin"].map(|name| writable(&path(name)).is_ok());
        assert_eq!((others, writable(Path::new("/dev/null")).is_ok()), ([true, true, false], true));
        let reader = std::process::Command::new("cat").arg(path("pipe")).stdout(std::process::Stdio::piped()).spawn();
        while write(path("pipe"), |w| w.write_all(b"heard")).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(reader.unwrap().wait_with_output().unwrap().stdout, b"heard");
    }
}
