//! Results on stdout, remarks on stderr. A reader that has seen enough (`| head`) is no error: the command ends quietly.
//! A remark that cannot be written is dropped: the job goes on. What a terminal gets does not steer it, wherever the text came
//! from; a file or a program gets results as they are.

use crate::error::{self, Error, Message, Result, shown};
use clap::Args;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};
use std::ops::ControlFlow;
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

/// A line on stderr, unless `--quiet` was given. A break before it stays: a terminal shows `^C` where its user stopped a job.
pub fn remark(text: Arguments) {
    if !quiet() {
        let text = text.to_string();
        match text.strip_prefix('\n') {
            Some(rest) => say(&["", rest]),
            None => say(&[&text]),
        }
    }
}

/// Lines on stderr, in one write: others write there, too. Where it cannot be written, on a full disk perhaps, they are dropped:
/// no job ends for what it says, and the exit code still tells.
pub fn say(lines: &[&str]) {
    let text: String = lines.iter().map(|line| error::line(line) + "\n").collect();
    let _ = stderr().lock().write_all(text.as_bytes());
}

/// An error as a command line says it: names of options have their dashes.
pub fn dashed(e: &Error) -> String {
    Message::new(format!("{e:#}")).dashed()
}

/// Writes to stdout and flushes, so that a reader sees each result when it is there.
/// Breaks where nobody reads any more, which is no error.
pub fn write(text: &str) -> Result<ControlFlow<()>> {
    let mut out = stdout().lock();
    let text = if out.is_terminal() { steadied(text) } else { text.into() };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(e) => Err(Error::io("standard output", "write", e)),
    }
}

/// [`write`] for a command's last words.
pub fn print(text: &str) -> Result<()> {
    write(text).map(drop)
}

/// A result, as one JSON object or as the text for people.
pub fn print_result<T: Serialize>(result: &T, json: bool, text: impl FnOnce(&T) -> String) -> Result<()> {
    let json = json.then(|| serde_json::to_string_pretty(result).expect("plain data") + "\n");
    print(&json.unwrap_or_else(|| text(result)))
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

/// Lines and columns for a terminal, and nothing that steers it.
fn steadied(text: &str) -> Cow<'_, str> {
    let kept = |c: char| matches!(c, '\n' | '\t') || shown(c) == c;
    match text.chars().all(kept) {
        true => text.into(),
        false => text.chars().map(|c| if kept(c) { c } else { shown(c) }).collect(),
    }
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

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(steadied("a\tb\nc\u{1b}[2J\u{202e}d\r\n"), "a\tb\nc [2J d \n");
        assert!(matches!(steadied("as it is\n"), Cow::Borrowed(_)));
    }
}
