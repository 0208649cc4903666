/*! The files of a tar archive, one after another, from a file or a pipe: POSIX ustar with pax headers (IEEE Std 1003.1, `pax`),
GNU's long names, and the form of V7 before them. Nothing is written anywhere: a name is a name, whatever it says. Archives
that stand one behind another are read as one.

What is cut off is told from what has ended by the blocks of zeros that close every archive. */

use super::decode::MAX_FILE;
use crate::error::{Error, Result};
use crate::files;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Bytes of a header, and what contents are filled up to.
const BLOCK: usize = 512;
/// Most bytes of a long name or of a pax header.
const MAX_NAME: u64 = 1 << 20;
/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// Something in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// Of its content.
    pub bytes: u64,
    /// No folder, link or device.
    pub file: bool,
}

/// An archive that is being read.
pub struct Archive {
    from: From,
    path: PathBuf,
    /// Bytes read or passed over so far.
    at: u64,
    /// The entry that is being read, and how much of its content and of what fills its last block is still to come.
    open: Option<(String, u64, u64)>,
    /// The last entry whose content was whole.
    whole: Option<String>,
    /// The last block was zeros.
    closed: bool,
}

enum From {
    /// With its length in bytes.
    File(BufReader<File>, u64),
    Pipe(Box<dyn Read + Send>),
}

/// What stands before an entry and is about it.
#[derive(Default)]
struct Ahead {
    name: Option<String>,
    bytes: Option<u64>,
}

impl Archive {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be read, or is something else than a file.
    pub fn open(path: &Path) -> Result<Self> {
        let read = |e| Error::io(path, "read", e);
        let file = files::open(path).map_err(read)?;
        let bytes = file.metadata().map_err(read)?.len();
        Ok(Self::new(From::File(BufReader::with_capacity(BUFFER, file), bytes), path))
    }

    /// What comes out of a pipe; `path` stands for it in messages.
    pub fn pipe(path: &Path, from: impl Read + Send + 'static) -> Self {
        Self::new(From::Pipe(Box::new(BufReader::with_capacity(BUFFER, from))), path)
    }

    fn new(from: From, path: &Path) -> Self {
        Self { from, path: path.into(), at: 0, open: None, whole: None, closed: false }
    }

    /// The next entry; None at the end. What was not read of the one before is passed over.
    ///
    /// # Errors
    /// A file that is no archive, is damaged (with the byte) or truncated (with the last entry that is whole).
    pub fn entry(&mut self) -> Result<Option<Entry>> {
        self.leave()?;
        let mut ahead = Ahead::default();
        loop {
            let mut block = [0; BLOCK];
            match self.fill(&mut block)? {
                0 if self.closed => return Ok(None),
                BLOCK => {}
                _ => return Err(self.cut()),
            }
            self.closed = block == [0; BLOCK];
            if self.closed {
                continue;
            }
            if !sums(&block) {
                return Err(self.damaged());
            }
            let (kind, own) = (block[156], name(&block));
            let stated = number(&block[124..136]).ok_or_else(|| self.damaged())?;
            let bytes = ahead.bytes.unwrap_or(stated);
            match kind {
                b'L' | b'x' | b'K' | b'g' => {
                    let text = self.header(own, stated)?;
                    match kind {
                        b'L' => ahead.name = Some(until_zero(&text)),
                        b'x' => pax(&text, &mut ahead).ok_or_else(|| self.damaged())?,
                        // The target of a link, and what holds for all entries, such as a comment.
                        _ => {}
                    }
                }
                b'S' => {
                    return Err(Error::file(&self.path, format!("stores `{own}` as a sparse file, which is not read"))
                        .fix("make the archive without --sparse"));
                }
                _ => {
                    let name = ahead.name.unwrap_or(own);
                    // As V7 wrote folders.
                    let file = matches!(kind, b'0' | b'7') || kind == 0 && !name.ends_with('/');
                    // Links, devices and folders have no content, whatever size they state.
                    let bytes = if matches!(kind, b'1'..=b'6') { 0 } else { bytes };
                    self.begin(name.clone(), bytes)?;
                    return Ok(Some(Entry { name, bytes, file }));
                }
            }
        }
    }

    /// The content of the entry that was given last, of at most [`MAX_FILE`] bytes.
    ///
    /// # Errors
    /// [`Archive::entry`]'s.
    pub fn content(&mut self) -> Result<Vec<u8>> {
        let left = self.open.as_ref().map_or(0, |o| o.1).min(MAX_FILE);
        let mut content = vec![];
        let path = &self.path;
        let read = match &mut self.from {
            From::File(file, _) => file.take(left).read_to_end(&mut content),
            From::Pipe(pipe) => pipe.take(left).read_to_end(&mut content),
        };
        self.at += read.map_err(|e| Error::io(path, "read", e))? as u64;
        if let Some(open) = &mut self.open {
            open.1 -= content.len() as u64;
        }
        match content.len() as u64 == left {
            true => Ok(content),
            false => Err(self.cut()),
        }
    }

    /// The content of a header about the next entry.
    fn header(&mut self, name: String, bytes: u64) -> Result<Vec<u8>> {
        if bytes > MAX_NAME {
            return Err(self.damaged());
        }
        let whole = self.whole.take();
        self.begin(name, bytes)?;
        let text = self.content().and_then(|text| self.leave().map(|()| text));
        // It is no entry.
        self.whole = whole;
        text.map_err(|_| self.cut())
    }

    fn begin(&mut self, name: String, bytes: u64) -> Result<()> {
        let filled = bytes.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| self.damaged())?;
        self.open = Some((name, bytes, filled - bytes));
        Ok(())
    }

    /// Passes over what is left of an entry. What fills its last block may be missing: that is noticed at the next header.
    fn leave(&mut self) -> Result<()> {
        let Some((_, content, fill)) = self.open.clone() else { return Ok(()) };
        if self.skip(content)? < content {
            return Err(self.cut());
        }
        self.whole = self.open.take().map(|o| o.0);
        self.skip(fill).map(drop)
    }

    /// Passes over `n` bytes, or over as many as there are.
    fn skip(&mut self, n: u64) -> Result<u64> {
        let passed = match &mut self.from {
            From::File(file, bytes) => {
                let n = n.min(bytes.saturating_sub(self.at));
                file.seek_relative(n as i64).map(|()| n)
            }
            From::Pipe(pipe) => io::copy(&mut pipe.take(n), &mut io::sink()),
        };
        let n = passed.map_err(|e| Error::io(&self.path, "read", e))?;
        self.at += n;
        Ok(n)
    }

    /// Reads a block, or as much of it as there is.
    fn fill(&mut self, block: &mut [u8]) -> Result<usize> {
        let mut n = 0;
        while n < block.len() {
            let read = match &mut self.from {
                From::File(file, _) => file.read(&mut block[n..]),
                From::Pipe(pipe) => pipe.read(&mut block[n..]),
            };
            match read {
                Ok(0) => break,
                Ok(read) => n += read,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(&self.path, "read", e)),
            }
        }
        self.at += n as u64;
        Ok(n)
    }

    fn cut(&self) -> Error {
        let place = match &self.open {
            Some((name, left, _)) if *left > 0 => format!("is truncated inside `{name}`"),
            _ if self.at == 0 => "is empty".into(),
            _ => "is truncated: it has no end".into(),
        };
        let whole = match &self.whole {
            Some(name) => format!(", and `{name}` is its last whole entry"),
            None => ", and no entry of it is whole".into(),
        };
        Error::file(&self.path, place + &whole).fix("copy or download it again")
    }

    fn damaged(&self) -> Error {
        match &self.whole {
            None if self.at <= BLOCK as u64 => Error::file(&self.path, "is no tar archive")
                .fix("name one, or take away its compression first, as `gzip -dc FILE` does"),
            whole => {
                let behind = whole.as_ref().map_or(String::new(), |w| format!(", behind `{w}`"));
                let byte = self.at.saturating_sub(BLOCK as u64);
                Error::file(&self.path, format!("is damaged at byte {byte}{behind}")).fix("copy or download it again")
            }
        }
    }
}

/// Whether a header has the sum that it states: of its bytes, with spaces where the sum stands. Some old programs added signed
/// bytes.
fn sums(block: &[u8; BLOCK]) -> bool {
    let one = |i: usize| if (148..156).contains(&i) { b' ' } else { block[i] };
    let unsigned: u64 = (0..BLOCK).map(|i| u64::from(one(i))).sum();
    let signed: i64 = (0..BLOCK).map(|i| i64::from(one(i) as i8)).sum();
    number(&block[148..156]).is_some_and(|stated| stated == unsigned || i64::try_from(stated) == Ok(signed))
}

/// A number in octal digits, or (GNU) in big-endian bytes behind a byte of 0x80; None for anything else.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let digit = |n: u64, b: &u8| n.checked_mul(256)?.checked_add((*b).into());
        return field[1..].iter().try_fold(u64::from(field[0] & 0x7f), digit);
    }
    let text = until_zero(field);
    let digits = text.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// The name in a header, behind its prefix where POSIX has one.
fn name(block: &[u8; BLOCK]) -> String {
    let name = until_zero(&block[..100]);
    let prefix = if &block[257..263] == b"ustar\0" { until_zero(&block[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

fn until_zero(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Takes name and size from the records of a pax header, `25 path=folder/a.jpg\n`, whose number is the length of all of it.
/// None where they are none.
fn pax(mut text: &[u8], ahead: &mut Ahead) -> Option<()> {
    while !text.is_empty() {
        let space = text.iter().position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
        let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        let (key, value) = (&record[..equals], String::from_utf8_lossy(&record[equals + 1..]));
        match key {
            b"path" => ahead.name = Some(value.into_owned()),
            b"size" => ahead.bytes = Some(value.parse().ok()?),
            _ => {}
        }
        text = &text[length..];
    }
    Some(())
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
