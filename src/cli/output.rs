//! Results on stdout. A reader that has seen enough (`| head`) is no error: the command ends quietly.

use crate::error::{Error, Result};
use std::fmt;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::{Path, PathBuf};

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Listens,
    /// Nobody reads any more: stop, successfully.
    Gone,
}

/// Writes to stdout and flushes, so that a reader sees each result when it is there.
pub fn write(text: &str) -> Result<Reader> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Listens),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(e) => Err(Error::io("standard output", "write", e)),
    }
}

/// [`write`] for a command's last words.
pub fn print(text: &str) -> Result<()> {
    write(text).map(drop)
}

/// A line on stderr. One that cannot be written, to a full disk perhaps, is dropped: no job ends for a remark.
pub fn remark(text: fmt::Arguments) {
    let _ = writeln!(stderr().lock(), "{text}");
}

/// Names of files are not ours: they must not break the line or steer the terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `set.csv` to `set.WHAT.csv`, for a list beside a result.
pub fn beside(out: &Path, what: &str) -> Result<PathBuf> {
    let Some(stem) = out.file_stem().filter(|_| !out.is_dir()) else {
        return Err(Error::file(out, "is a folder, and a file is to be written there").fix("name a file in --out"));
    };
    let mut name = stem.to_os_string();
    name.push(format!(".{what}.csv"));
    Ok(out.with_file_name(name))
}
