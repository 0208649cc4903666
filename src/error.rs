/*! One error type for the whole crate: what went wrong, where, and what to do about it, on one line.

Library code never prints and never exits; it returns an [`Error`]. The command line prints it once
(`error: …`) and turns its [`Kind`] into the exit code: 2 for a request that cannot be carried out as written,
1 for a job that failed. */

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A path as text from which its bytes can be had again: where it is not UTF-8, a byte that is no text is `\xNN` and a
/// backslash is doubled.
pub fn path_text(path: &Path) -> String {
    if let Some(text) = path.to_str() {
        return text.into();
    }
    let one = |chunk: std::str::Utf8Chunk| {
        let bad: String = chunk.invalid().iter().map(|b| format!("\\x{b:02x}")).collect();
        chunk.valid().replace('\\', "\\\\") + &bad
    };
    path.as_os_str().as_encoded_bytes().utf8_chunks().map(one).collect()
}

/// Most characters of a line for people.
const MAX_LINE: usize = 4000;

/// A character as a terminal may have it. File names, cells and what decoders say are not ours: they must neither break a line
/// nor steer the terminal, nor turn the direction of what is read (Unicode Technical Report 36, section 2.6).
pub fn shown(c: char) -> char {
    match c {
        _ if c.is_control() => ' ',
        // Separators of lines and paragraphs; marks, embeddings, overrides and isolates of direction; annotations; tags.
        '\u{2028}' | '\u{2029}' => ' ',
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => ' ',
        _ => c,
    }
}

/// All of a text that is not ours, such as the name of a file: it neither breaks a line nor steers a terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// A text as one line of a terminal: [`shown`], and of a very long one its beginning and its end, where what is ours stands.
pub fn line(text: &str) -> String {
    shortened(text).chars().map(shown).collect()
}

/// All of a text, or its beginning and its end.
fn shortened(text: &str) -> Cow<'_, str> {
    const END: usize = MAX_LINE / 2;
    // Whether there are so many characters is seen at the first of too many: a cell may have hundreds of MB.
    if text.len() <= MAX_LINE || text.chars().nth(MAX_LINE).is_none() {
        return text.into();
    }
    let head = text.char_indices().nth(END).map_or(text.len(), |c| c.0);
    let tail = text.char_indices().rev().nth(END - 1).map_or(0, |c| c.0);
    format!("{} … {}", &text[..head], &text[tail..]).into()
}

/// Stands before the name of an option in a message, as long as nobody knows how options are written where it is read.
const OPTION: char = '\u{1}';

/// The name of an option, to stand in a message: `lr` for a library's user, `--lr` on a command line.
pub fn option(name: &str) -> String {
    format!("{OPTION}{name}")
}

/// A message that knows which of its words are names of options. Displays without dashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(String);

impl Message {
    /// A message with names of [`option`]; of an error within, `{:#}` keeps them.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// As a command line says it.
    pub fn dashed(&self) -> String {
        self.0.replace(OPTION, "--")
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.replace(OPTION, ""))
    }
}

/// Who has to act, and therefore the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong (flag, column, range): exit code 2.
    Usage,
    /// The request is fine and could not be carried out (file, data, device): exit code 1.
    Job,
    /// A benchmark was slower than it may be: exit code 3.
    Slower,
    /// The user stopped the job; what was promised to be kept was kept: exit code 130, and of the program 143 where it was
    /// terminated ([`crate::cli::exit_code`]).
    Interrupted,
}

/// What went wrong, where, and the remedy. Displays as one line without control characters; `{:#}` is for a [`Message`].
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    file: Option<String>,
    place: Option<String>,
    problem: String,
    remedy: Option<String>,
    io: Option<Arc<std::io::Error>>,
}

impl Error {
    fn new(kind: Kind, problem: impl Into<String>) -> Self {
        // What a message quotes may be a whole file.
        let problem = shortened(&problem.into()).into_owned();
        Self { kind, file: None, place: None, problem, remedy: None, io: None }
    }

    /// A request that cannot be carried out as written.
    pub fn usage(problem: impl Into<String>) -> Self {
        Self::new(Kind::Usage, problem)
    }

    /// A job that failed for a reason that has no file.
    pub fn job(problem: impl Into<String>) -> Self {
        Self::new(Kind::Job, problem)
    }

    /// A benchmark that was slower than it may be.
    pub fn slower(problem: impl Into<String>) -> Self {
        Self::new(Kind::Slower, problem)
    }

    /// The user asked to stop.
    pub fn interrupted(problem: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted, problem)
    }

    /// Something about one file.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        let mut e = Self::new(Kind::Job, problem);
        e.file = Some(path_text(path.as_ref()));
        e
    }

    /// An I/O error of one file, in the words people know, with the usual remedy.
    pub fn io(path: impl AsRef<Path>, doing: &str, e: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let remedy = match e.kind() {
            K::NotFound => Some("check the path"),
            K::PermissionDenied => Some("check the permissions of the file and of its folder"),
            K::IsADirectory => Some("name a file, not a folder"),
            K::NotADirectory => Some("a part of the path is a file, not a folder"),
            K::StorageFull | K::QuotaExceeded => Some("free some space; nothing was overwritten"),
            K::ReadOnlyFilesystem => Some("choose a folder that can be written"),
            _ => None,
        };
        let mut err = Self::file(path, format!("cannot {doing}: {e}"));
        err.remedy = remedy.map(String::from);
        err.io = Some(Arc::new(e));
        err
    }

    /// Where in the file: a line, a byte, a tensor, a column.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// What the reader can do about it.
    pub fn fix(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Makes this a request error (exit code 2).
    pub fn as_usage(mut self) -> Self {
        self.kind = Kind::Usage;
        self
    }

    /// Who has to act.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The file it is about, as [`path_text`].
    pub fn path(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Where in the file.
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// What went wrong, without file, place and remedy.
    pub fn problem(&self) -> String {
        self.problem.replace(OPTION, "")
    }

    /// What can be done about it.
    pub fn remedy(&self) -> Option<String> {
        Some(self.remedy.as_ref()?.replace(OPTION, ""))
    }

    /// What the system said, where it was asked.
    pub fn cause(&self) -> Option<&std::io::Error> {
        self.io.as_deref()
    }

    /// The option that the problem is about, if it names one.
    pub fn about(&self) -> Option<&str> {
        let (_, rest) = self.problem.split_once(OPTION)?;
        Some(rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or(rest))
    }

    /// 2 for a wrong request, 1 for a failed job, 3 for a slow benchmark, 130 for an interrupted job.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Job => 1,
            Kind::Slower => 3,
            Kind::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut line = String::new();
        for part in [&self.file, &self.place].into_iter().flatten() {
            line.push_str(part);
            line.push_str(": ");
        }
        line.push_str(&self.problem);
        if let Some(r) = &self.remedy {
            line.push_str("; ");
            line.push_str(r);
        }
        // To stand in another message, names of options stay known as such.
        if f.alternate() {
            let parts: Vec<String> = line.split(OPTION).map(self::line).collect();
            return f.write_str(&parts.join(&OPTION.to_string()));
        }
        f.write_str(&self::line(&line.replace(OPTION, "")))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.io.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_is_inside() {
        let e = Error::file("a\nb.png", "bad\u{1b}[31m header\r\n").at("byte 12").fix("export it again");
        assert_eq!(e.to_string(), "a b.png: byte 12: bad [31m header  ; export it again");
        assert_eq!(e.exit_code(), 1);
        assert_eq!(e.as_usage().exit_code(), 2);
        let e = Error::file("a.pth", "x".repeat(1 << 20)).fix("the remedy").to_string();
        assert!(e.starts_with("a.pth: xx") && e.ends_with("; the remedy") && e.len() < 4100);
        let letters = "é".repeat(MAX_LINE);
        assert_eq!(line(&letters), letters);
        let cut = line(&(letters + "ü"));
        assert!(cut.starts_with("éé") && cut.ends_with("éü") && cut.chars().count() == MAX_LINE + 3, "{cut}");
        // "gpj.exe" to the eye, and ".exe" all the same; a line of its own; a colour.
        assert_eq!(line("\u{202e}gpj\u{2069}.exe\u{2028}error: no\u{9b}31m"), " gpj .exe error: no 31m");
        let e = Error::usage(format!("{} 0", option("lr"))).fix(format!("raise {}\u{7}", option("lr")));
        assert_eq!((e.to_string(), e.about()), ("lr 0; raise lr ".into(), Some("lr")));
        assert_eq!(Message::new(format!("{e:#}")).dashed(), "--lr 0; raise --lr ");
        assert_eq!(line("ein Bild, 絵, صورة, 👩\u{200d}🚀"), "ein Bild, 絵, صورة, 👩\u{200d}🚀");
    }
}
