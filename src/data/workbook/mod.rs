/*! Workbooks of Excel (.xls, .xlsx, .xlsb) and OpenDocument (.ods), as rows of text. The kind is taken from the content,
and one that is locked or damaged is refused in one line. Memory is taken for cells that are there, never for as many as a
file says it has. */

mod compound;
mod ods;
mod xls;
mod xlsb;
mod xlsx;
mod xml;

use super::decode::quiet;
use crate::error::{Error, Result};
use crate::weights::foreign::zip::{self, ZipEntry};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Most cells of a sheet with the empty ones between them, and most columns: a far larger one is not a table of ratings.
const MAX_CELLS: usize = 20_000_000;
const MAX_COLUMNS: usize = 4096;
/// Most bytes of all texts of a sheet: a text that stands in the file once can be in every cell.
const MAX_TEXT: usize = 256 << 20;
/// Cells, and bytes of texts, that any sheet may have, and how many more for each byte it is read from: a few bytes can stand
/// for any number of cells, and those of a real table take ten and more each.
const FREE_CELLS: usize = 1 << 19;
const CELLS_PER_BYTE: usize = 4;
const FREE_TEXT: usize = 16 << 20;
const TEXT_PER_BYTE: usize = 64;
/// Most bytes that a part of a workbook may unpack to, and how many times its size a larger one than 64 MiB.
const MAX_PART: usize = 512 << 20;
const MAX_RATIO: usize = 64;

/// True for the containers that workbooks come in: zip (.xlsx, .xlsb, .ods) and Microsoft's compound file (.xls).
pub fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\xd0\xcf\x11\xe0")
}

/// Line number (the first is 1) and cells of every row that has any.
pub fn rows(path: &Path, bytes: &[u8], sheet: Option<&str>) -> Result<Vec<(u64, Vec<String>)>> {
    // Readers of hostile formats: whatever they do is one line here.
    let read =
        quiet::catch(|| open(bytes, sheet)).unwrap_or_else(|| Err(Fault::Damaged("the reader gave up on it".into())));
    read.map_err(|fault| match fault {
        Fault::Locked => {
            Error::file(path, "is locked by a password").fix("open it, save it without one, and name that file")
        }
        Fault::Damaged(why) => Error::file(path, format!("is no workbook that can be read: {why}"))
            .fix("open it, choose File > Save As > CSV UTF-8 (comma delimited), and name that file"),
        Fault::NoSheet(names) => Error::file(path, format!("has no sheet `{}`", sheet.unwrap_or("#1")))
            .fix(format!("choose one of: {}", names.join(", ")))
            .as_usage(),
        Fault::TooLarge => Error::file(
            path,
            format!(
                "has a sheet of more than {MAX_CELLS} cells, {MAX_COLUMNS} columns or {} MiB, or of far more than its bytes",
                MAX_PART >> 20
            ),
        )
        .fix("keep the columns that are needed"),
    })
}

#[derive(Debug)]
enum Fault {
    Locked,
    Damaged(String),
    NoSheet(Vec<String>),
    TooLarge,
}

impl Fault {
    fn of(why: impl Into<String>) -> Self {
        // Some quote what they met; a line is enough.
        Fault::Damaged(why.into().chars().take(200).collect())
    }
}

type Rows = Vec<(u64, Vec<String>)>;

fn open(bytes: &[u8], sheet: Option<&str>) -> Result<Rows, Fault> {
    if !bytes.starts_with(b"PK") {
        return xls::rows(bytes, sheet);
    }
    let entries =
        zip::entries_within(bytes, MAX_RATIO).map_err(|f| Fault::of(format!("{}: {}", f.place, f.problem)))?;
    let parts = Parts { bytes, entries };
    if parts.find("content.xml").is_some() {
        ods::rows(&parts, sheet)
    } else if parts.find("xl/workbook.bin").is_some() {
        xlsb::rows(&parts, sheet)
    } else {
        xlsx::rows(&parts, sheet)
    }
}

/// The parts of a zipped workbook.
struct Parts<'a> {
    bytes: &'a [u8],
    entries: Vec<ZipEntry>,
}

impl<'a> Parts<'a> {
    /// Some writers use other letters and backslashes.
    fn find(&self, path: &str) -> Option<&ZipEntry> {
        self.entries.iter().find(|e| e.name.replace('\\', "/").eq_ignore_ascii_case(path))
    }

    /// The bytes of a part, if there is one.
    fn part(&self, path: &str) -> Result<Option<Cow<'a, [u8]>>, Fault> {
        let Some(entry) = self.find(path) else { return Ok(None) };
        if entry.size > MAX_PART {
            return Err(Fault::TooLarge);
        }
        let read = entry.read(self.bytes).map_err(|f| Fault::of(format!("{}: {}", f.place, f.problem)));
        read.map(Some)
    }

    /// The same as text.
    fn text(&self, path: &str) -> Result<Option<String>, Fault> {
        let Some(bytes) = self.part(path)? else { return Ok(None) };
        let text = String::from_utf8(bytes.into_owned());
        text.map(Some).map_err(|_| Fault::of(format!("`{path:.80}` is not UTF-8")))
    }
}

/// The cells of a sheet as they come.
struct Sheet {
    rows: BTreeMap<u64, Vec<String>>,
    /// How many more it may have, with the empty ones between them, and how many more bytes of texts.
    cells: usize,
    text: usize,
}

impl Sheet {
    /// Of a part of so many bytes.
    fn of(bytes: usize) -> Self {
        let most = |all: usize, free, each| all.min(bytes.saturating_mul(each).saturating_add(free));
        let cells = most(MAX_CELLS, FREE_CELLS, CELLS_PER_BYTE);
        Self { rows: BTreeMap::new(), cells, text: most(MAX_TEXT, FREE_TEXT, TEXT_PER_BYTE) }
    }

    /// Puts a text into a cell, both counted from 0. An empty one is none.
    fn put(&mut self, line: u64, column: usize, text: String) -> Result<(), Fault> {
        if text.is_empty() {
            return Ok(());
        }
        if column >= MAX_COLUMNS {
            return Err(Fault::TooLarge);
        }
        let row = self.rows.entry(line + 1).or_default();
        let more = (column + 1).saturating_sub(row.len());
        self.cells = self.cells.checked_sub(more).ok_or(Fault::TooLarge)?;
        self.text = self.text.checked_sub(text.len()).ok_or(Fault::TooLarge)?;
        row.resize(row.len().max(column + 1), String::new());
        row[column] = text;
        Ok(())
    }

    fn rows(self) -> Rows {
        self.rows.into_iter().collect()
    }
}

/// What a person sees, as far as numbers go: 1120 and 2055.1, with as many digits as there are.
fn number(n: f64) -> String {
    n.to_string()
}

/// The sheet by name, or by place as `#2`; the first by default.
fn pick(names: Vec<String>, sheet: Option<&str>) -> Result<usize, Fault> {
    let wanted = sheet.unwrap_or("#1");
    let place = wanted.strip_prefix('#').and_then(|n| n.parse::<usize>().ok());
    let by_name = names.iter().position(|n| n.trim().eq_ignore_ascii_case(wanted.trim()));
    let found = by_name.or_else(|| place?.checked_sub(1).filter(|i| *i < names.len()));
    found.ok_or(Fault::NoSheet(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_in_a_circle_are_refused() {
        let mut book = include_bytes!("../../../tests/sets/naps.xls").to_vec();
        assert!(rows(Path::new("naps.xls"), &book, None).is_ok());
        // The first sector of the directory is followed by itself.
        let directory = u32::from_le_bytes(book[48..52].try_into().unwrap()) as usize;
        let table = u32::from_le_bytes(book[76..80].try_into().unwrap()) as usize;
        book[(table + 1) * 512 + 4 * directory..][..4].copy_from_slice(&(directory as u32).to_le_bytes());
        let e = rows(Path::new("naps.xls"), &book, None).unwrap_err().to_string();
        assert!(e.contains("naps.xls") && e.contains("in a circle"), "{e}");
    }

    /// A cell takes what stands before it in its row, a text what it takes in every cell.
    #[test]
    fn cells_and_texts_have_limits() {
        let mut sheet = Sheet::of(MAX_TEXT);
        assert!(matches!(sheet.put(0, MAX_COLUMNS, "x".into()), Err(Fault::TooLarge)));
        let long = "x".repeat(MAX_TEXT / 4);
        assert!((0..4).all(|line| sheet.put(line, 0, long.clone()).is_ok()));
        assert!(matches!(sheet.put(4, 0, "x".into()), Err(Fault::TooLarge)));
        // What a few bytes say.
        let mut sheet = Sheet::of(1000);
        let lines = ((FREE_CELLS + CELLS_PER_BYTE * 1000) / MAX_COLUMNS) as u64;
        assert!((0..lines).all(|line| sheet.put(line, MAX_COLUMNS - 1, "x".into()).is_ok()));
        assert!(matches!(sheet.put(lines, MAX_COLUMNS - 1, "x".into()), Err(Fault::TooLarge)));
        let long = "x".repeat(FREE_TEXT);
        assert!(Sheet::of(1000).put(0, 0, long.clone()).is_ok());
        assert!(matches!(Sheet::of(1000).put(0, 0, long.repeat(2)), Err(Fault::TooLarge)));
    }
}
