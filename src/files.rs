/*! How files are opened that somebody names, and which of them are believed.

Where a file is meant nothing else will do: a pipe would make its reader wait for a writer that may never come, a device
such as `/dev/zero` never ends. [`open`] takes regular files alone, and [`read`] and [`text`] no more of them than their reader
expects. Standard input is read where a command says so (`-`), and nowhere else.

**Trust.** Compiled kernels are code, and a table of tiles chooses code: [`read_own`] takes them as ssh takes its files, from this
user or root alone. Neither the file nor its folder may belong to anybody else or be writable by others. On Windows the
user's own folder is closed to others by its access list, and nothing is checked. */

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Most bytes of a page of settings, of results in JSON or of a list of names: none comes near.
pub const PAGE: u64 = 64 << 20;

/// Most bytes of a table of ratings.
pub const TABLE: u64 = 256 << 20;

/// Most bytes of a file of tensors that is read and not mapped.
pub const TENSORS: u64 = 1 << 30;

/// A regular file, to be read. Never waits.
///
/// # Errors
/// What the system says; or that it is something else than a file, with the remedy.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    regular(path.as_ref(), OpenOptions::new().read(true), Links::Followed)
}

/// A regular file that may be missing, to be locked: it is made, and what is in it stays.
pub fn to_lock(path: &Path) -> io::Result<File> {
    regular(path, OpenOptions::new().create(true).append(true), Links::Followed)
}

/// [`open`] for a name in a folder where others may have put something: a link is refused, too.
pub fn open_itself(path: &Path) -> io::Result<File> {
    regular(path, OpenOptions::new().read(true), Links::Refused)
}

/// All bytes of a regular file of at most `most` bytes.
pub fn read(path: impl AsRef<Path>, most: u64) -> io::Result<Vec<u8>> {
    all(&mut open(path)?, most)
}

/// [`read`] for text in UTF-8.
pub fn text(path: impl AsRef<Path>, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is no text in UTF-8"))
}

/// [`read`] for what is run or chooses what is run: of a file that is [trusted](self), itself and its folder.
///
/// # Errors
/// [`ErrorKind::PermissionDenied`] with the reason where it is not.
pub fn read_own(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = open_itself(path)?;
    let denied = |why: &str| io::Error::new(ErrorKind::PermissionDenied, why);
    match strangers(&file.metadata()?) {
        Some(why) => Err(denied(why)),
        None => all(&mut file, most),
    }
}

/// Why a folder of files that are run is not [trusted](self), in words and with the remedy; None if it is, or is not there.
/// Whoever can write the folder above can put another in its place, so that is looked at as well; one whose entries are
/// their owners' alone, as those of `/tmp` are, will do.
pub fn distrusted(folder: &Path) -> Option<String> {
    let above = folder.parent().into_iter();
    above.chain([folder]).find_map(|dir| {
        let meta = fs::metadata(dir).ok()?;
        let why = strangers(&meta).filter(|_| dir == folder || !sticky(&meta))?;
        let remedy = "`chmod go-w` it if it is yours, or set DEEP_AFFECT_CACHE to another folder";
        Some(format!("{}: {why}; {remedy}", dir.display()))
    })
}

/// Whether a folder that lies `depth` folders below the program's or one above it was put there by root, this user or whoever
/// owns the program: a library in it is code as the program is. Group permissions are what `pip` leaves by the umask and say
/// nothing about strangers.
pub fn beside_program(folder: &Path, depth: usize, program: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let Ok(program) = fs::metadata(program) else { return false };
        let known = |m: &Metadata| [0, me(), program.uid()].contains(&m.uid());
        let closed = |m: &Metadata| m.mode() & 0o002 == 0 || m.mode() & 0o1000 != 0;
        folder.ancestors().take(depth + 1).all(|f| fs::metadata(f).is_ok_and(|m| known(&m) && closed(&m)))
    }
    #[cfg(not(unix))]
    {
        let _ = (folder, depth, program);
        true
    }
}

/// The folder that a variable of the environment names; one that is set to nothing is not set.
///
/// # Errors
/// The reason why it is not used: a relative path would lead into whatever folder a command is started in.
pub fn named_by(variable: &str) -> Result<Option<PathBuf>, String> {
    let Some(path) = std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from) else { return Ok(None) };
    match path.is_absolute() {
        true => Ok(Some(path)),
        false => Err(format!("{variable}={} is not used: it is a relative path; write it out from /", path.display())),
    }
}

/// Whether a symbolic link may lead to the file.
#[derive(Clone, Copy, PartialEq)]
enum Links {
    Followed,
    Refused,
}

fn regular(path: &Path, how: &mut OpenOptions, links: Links) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A pipe is opened at once, and found out below; no device becomes this process's terminal.
        let link = if links == Links::Refused { libc::O_NOFOLLOW } else { 0 };
        how.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | link);
    }
    #[cfg(not(unix))]
    if links == Links::Refused && fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is a link"));
    }
    let file = how.open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        let what = if is_pipe(&meta) { "a pipe" } else { "a device" };
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("it is {what}; save what comes from it to a file"),
        ));
    }
    Ok(file)
}

fn is_pipe(meta: &Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::FileTypeExt::is_fifo(&meta.file_type());
    #[cfg(not(unix))]
    return !meta.is_file();
}

fn all(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let large = || {
        let problem = format!("it has more than {} MiB, the most that is read of such a file", most >> 20);
        io::Error::new(ErrorKind::FileTooLarge, problem)
    };
    let length = file.metadata()?.len();
    if length > most {
        return Err(large());
    }
    let mut bytes = vec![];
    bytes.try_reserve_exact(length as usize).map_err(|_| ErrorKind::OutOfMemory)?;
    // It may have grown since: one byte past the limit is enough to be refused.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(large()) } else { Ok(bytes) }
}

/// Whose files are this user's.
#[cfg(unix)]
fn me() -> u32 {
    // SAFETY: it has no argument and cannot fail.
    unsafe { libc::geteuid() }
}

/// Who else can have written it, if anybody.
#[cfg(unix)]
fn strangers(meta: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::MetadataExt;
    if ![0, me()].contains(&meta.uid()) {
        return Some("it belongs to another user");
    }
    (meta.mode() & 0o022 != 0).then_some("others can write it")
}

#[cfg(not(unix))]
fn strangers(_: &Metadata) -> Option<&'static str> {
    None
}

/// Whether entries of a folder can be replaced by their owners alone.
fn sticky(meta: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let root_or_me = strangers(meta) != Some("it belongs to another user");
        root_or_me && meta.mode() & 0o1000 != 0
    }
    #[cfg(not(unix))]
    {
        let _ = meta;
        true
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_files_are_files_and_no_more_of_them_than_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "four").unwrap();
        symlink(path("file"), path("link")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        let say = |r: io::Result<Vec<u8>>| r.unwrap_err().to_string();
        for name in ["file", "link"] {
            assert_eq!(read(path(name), 4).unwrap(), b"four");
            assert!(say(read(path(name), 3)).contains("more than 0 MiB"));
        }
        // Without a writer, this would wait for ever.
        assert_eq!(say(read(path("pipe"), 4)), "it is a pipe; save what comes from it to a file");
        assert_eq!(say(read("/dev/zero", 4)), "it is a device; save what comes from it to a file");
        assert_eq!(read(dir.path(), 4).unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(read(path("none"), 4).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(open_itself(&path("file")).is_ok() && open_itself(&path("link")).is_err());
        assert!(to_lock(&path("pipe")).is_err() && to_lock(&path("new")).is_ok());
        // The length that a file says it has is not what is read: this one says 0.
        assert!(say(read("/proc/self/status", 16)).contains("more than"));
    }

    #[test]
    fn what_others_can_write_is_not_believed() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("file");
        fs::write(&file, "code").unwrap();
        for (m, good) in [(0o600, true), (0o644, true), (0o444, true), (0o620, false), (0o602, false)] {
            mode(&file, m);
            assert_eq!(read_own(&file, 9).is_ok(), good, "{m:o}");
        }
        mode(&file, 0o600);
        symlink(&file, folder.join("link")).unwrap();
        assert!(read_own(&folder.join("link"), 9).is_err());
        // Folder, the one above, and whether the folder is believed.
        let all = [
            (0o700, 0o700, true),
            (0o755, 0o755, true),
            (0o775, 0o700, false),
            (0o1777, 0o700, false),
            (0o700, 0o775, false),
            (0o700, 0o777, false),
            (0o700, 0o1777, true),
        ];
        for (inner, outer, good) in all {
            mode(&folder, inner);
            mode(top.path(), outer);
            assert_eq!(distrusted(&folder).is_none(), good, "{inner:o} in {outer:o}");
        }
        let why = distrusted(&folder.join("none"));
        assert!(why.is_none(), "{why:?}");
        // Somebody else's. Only root can make such a file.
        if me() == 0 {
            std::os::unix::fs::chown(&file, Some(4321), None).unwrap();
            assert_eq!(read_own(&file, 9).unwrap_err().to_string(), "it belongs to another user");
            std::os::unix::fs::chown(&folder, Some(4321), None).unwrap();
            assert!(distrusted(&folder).unwrap().contains("folder: it belongs to another user; "));
            // Beside a program of the same owner it is as good as the program.
            assert!(!beside_program(&folder, 1, Path::new("/")) && beside_program(&folder, 1, &file));
            mode(&folder, 0o777);
            assert!(!beside_program(&folder, 1, &file));
        }
    }
}
