//! Results on stdout, remarks on stderr. A reader that has seen enough (`| head`) is no error: the command ends quietly.
//! A remark that cannot be written is dropped: the job goes on.

use crate::error::{Error, Result};
use clap::Args;
use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

static QUIET: AtomicBool = AtomicBool::new(false);

/// Silences remarks and progress for the rest of the process.
pub fn hush() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether remarks and progress are silenced.
pub fn quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// A line on stderr, unless `--quiet` was given. One that cannot be written, to a full disk perhaps, is dropped: no job ends
/// for a remark.
pub fn remark(text: Arguments) {
    if !quiet() {
        let _ = writeln!(stderr().lock(), "{text}");
    }
}

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

/// `--wide`, of commands whose lines may be longer than a terminal's.
#[derive(Args, Clone, Copy, Debug)]
pub struct Wide {
    /// Whole lines, also where the terminal is narrower.
    #[arg(long)]
    wide: bool,
}

/// [`print`] for tables: on a terminal lines end where it ends, and a remark says so.
pub fn print_table(text: &str, wide: Wide) -> Result<()> {
    let columns = stdout().is_terminal().then(|| terminal_size::terminal_size_of(stdout())).flatten();
    let Some((terminal_size::Width(columns), _)) = columns.filter(|_| !wide.wide) else { return print(text) };
    let (text, cut) = fit(text, columns.into());
    print(&text)?;
    if cut > 0 {
        remark!("{cut} lines are cut at {columns} columns: --wide shows them whole");
    }
    Ok(())
}

/// Lines of at most so many columns, and how many were cut to them: their last character is then `…`.
fn fit(text: &str, columns: usize) -> (String, usize) {
    let (mut out, mut cut) = (String::new(), 0);
    for line in text.lines() {
        match line.chars().count() > columns {
            true => {
                cut += 1;
                out.extend(line.chars().take(columns.saturating_sub(1)).chain(['…']));
            }
            false => out.push_str(line),
        }
        out.push('\n');
    }
    (out, cut)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_where_the_terminal_ends() {
        assert_eq!(fit("abcde\nabcdef\n\n", 5), ("abcde\nabcd…\n\n".into(), 1));
        assert_eq!(fit("äöüäöü\n", 6), ("äöüäöü\n".into(), 0));
        assert_eq!(fit("", 80), (String::new(), 0));
    }
}
