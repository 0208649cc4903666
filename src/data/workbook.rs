/*! Workbooks of Excel (.xls, .xlsx, .xlsb) and OpenDocument (.ods), as rows of text. The kind is taken from the content,
and one that is locked or damaged is refused in one line. What that does not cover: the reader sets memory aside for as many
cells and strings as a file says it has, so a file that lies about it can end the program; nothing is written before. */

use super::decode::quiet;
use crate::error::{Error, Result};
use calamine::{Data, DataRef, Ods, OdsError, Reader, Xls, XlsError, Xlsb, Xlsx, XlsxError};
use std::io::Cursor;
use std::path::Path;

/// Most cells of a sheet, and most columns: a far larger one is not a table of ratings.
const MAX_CELLS: usize = 20_000_000;
const MAX_COLUMNS: u32 = 4096;

/// True for the containers that workbooks come in: zip (.xlsx, .xlsb, .ods) and Microsoft's compound file (.xls).
pub fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\xd0\xcf\x11\xe0")
}

/// Line number (the first is 1) and cells of every row that has any.
pub fn rows(path: &Path, bytes: &[u8], sheet: Option<&str>) -> Result<Vec<(u64, Vec<String>)>> {
    // Young parsers of hostile formats: whatever they do is one line here.
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
        Fault::TooLarge => {
            Error::file(path, format!("has a sheet of more than {MAX_CELLS} cells or {MAX_COLUMNS} columns"))
                .fix("keep the columns that are needed")
        }
    })
}

enum Fault {
    Locked,
    Damaged(String),
    NoSheet(Vec<String>),
    TooLarge,
}

impl Fault {
    fn of(e: impl std::fmt::Display) -> Self {
        // Parsers quote what they met; a line is enough.
        Fault::Damaged(e.to_string().chars().take(200).collect())
    }
}

type Rows = Vec<(u64, Vec<String>)>;

fn open(bytes: &[u8], sheet: Option<&str>) -> Result<Rows, Fault> {
    let file = || Cursor::new(bytes);
    if !bytes.starts_with(b"PK") {
        if circular(bytes) {
            return Err(Fault::Damaged("its sectors go round in a circle".into()));
        }
        return match Xls::new(file()) {
            Ok(book) => range(book, sheet),
            Err(XlsError::Password) => Err(Fault::Locked),
            // A locked .xlsx is a compound file as well, with these streams in it.
            Err(_) if holds(bytes, "EncryptedPackage") => Err(Fault::Locked),
            Err(e) => Err(Fault::of(e)),
        };
    }
    // The names of a zip's entries stand in it as they are.
    let has = |name: &[u8]| bytes.windows(name.len()).any(|w| w == name);
    if has(b"opendocument.spreadsheet") {
        return match Ods::new(file()) {
            Ok(book) => range(book, sheet),
            Err(OdsError::Password) => Err(Fault::Locked),
            Err(e) => Err(Fault::of(e)),
        };
    }
    if has(b"xl/workbook.bin") {
        return range(Xlsb::new(file()).map_err(Fault::of)?, sheet);
    }
    let mut book = match Xlsx::new(file()) {
        Ok(book) => book,
        Err(XlsxError::Password) => return Err(Fault::Locked),
        Err(e) => return Err(Fault::of(e)),
    };
    // Cell by cell: a range would be as large as its last cell says.
    let name = pick(book.sheet_names(), sheet)?;
    let mut cells = book.worksheet_cells_reader(&name).map_err(Fault::of)?;
    let (mut rows, mut size) = (Rows::new(), 0);
    while let Some(cell) = cells.next_cell().map_err(Fault::of)? {
        let (line, column) = (cell.get_position().0 as u64 + 1, cell.get_position().1);
        let text = match cell.get_value() {
            DataRef::SharedString(s) => s.to_string(),
            other => text(&Data::from(other.clone())),
        };
        if text.is_empty() {
            continue;
        }
        if rows.last().is_none_or(|r| r.0 != line) {
            rows.push((line, Vec::new()));
        }
        let row = &mut rows.last_mut().expect("it was just pushed").1;
        size += (column as usize + 1).saturating_sub(row.len());
        if size > MAX_CELLS || column >= MAX_COLUMNS {
            return Err(Fault::TooLarge);
        }
        row.resize(row.len().max(column as usize + 1), String::new());
        row[column as usize] = text;
    }
    Ok(rows)
}

/// True for a compound file whose chains of sectors ([MS-CFB] sections 2.3 to 2.5) do not end: the reader would follow
/// them until memory is full. What is damaged otherwise is left to it.
fn circular(bytes: &[u8]) -> bool {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let size = if bytes.get(30) == Some(&12) { 4096 } else { 512 };
    let sector = |id: u32| {
        let start = (id as usize).saturating_add(1).saturating_mul(size);
        (start..start.saturating_add(size)).step_by(4).map_while(number).collect::<Vec<u32>>()
    };
    // Where the table of sectors lies: first in the header, then in sectors whose last number names the next.
    let mut lies: Vec<u32> = (76..512).step_by(4).map_while(number).collect();
    let mut next = number(68).unwrap_or(NO_SECTOR);
    for _ in 0..bytes.len() / size {
        if next >= NO_SECTOR {
            break;
        }
        lies.extend(sector(next));
        next = lies.pop().unwrap_or(NO_SECTOR);
    }
    let table: Vec<u32> =
        lies.into_iter().filter(|id| *id < NO_SECTOR).take(bytes.len() / size).flat_map(sector).collect();
    if has_circle(&table) {
        return true;
    }
    let (mut small, mut next) = (vec![], number(60).unwrap_or(NO_SECTOR));
    while let Some(&after) = table.get(next as usize) {
        small.extend(sector(next));
        next = after;
    }
    has_circle(&small)
}

/// Numbers from here on name no sector.
const NO_SECTOR: u32 = 0xffff_fffa;

/// Whether following the numbers of a table from any of its places leads back to a place.
fn has_circle(table: &[u32]) -> bool {
    // The walk that came by first; 0 for none.
    let mut seen = vec![0; table.len()];
    (0..table.len()).any(|start| {
        let (walk, mut at) = (start + 1, start);
        loop {
            match seen.get_mut(at) {
                Some(by @ 0) => *by = walk,
                Some(by) => return *by == walk,
                None => return false,
            }
            at = table[at] as usize;
        }
    })
}

/// A sheet that is read as a whole.
fn range<'a, R: Reader<Cursor<&'a [u8]>>>(mut book: R, sheet: Option<&str>) -> Result<Rows, Fault> {
    let name = pick(book.sheet_names(), sheet)?;
    let range =
        book.worksheet_range(&name).map_err(|e| Fault::Damaged(format!("{e:?}").chars().take(200).collect()))?;
    let Some((top, left)) = range.start() else { return Ok(Rows::new()) };
    if range.width() > MAX_COLUMNS as usize || range.width().saturating_mul(range.height()) > MAX_CELLS {
        return Err(Fault::TooLarge);
    }
    let row = |(i, cells): (usize, &[Data])| {
        let mut row = vec![String::new(); left as usize];
        row.extend(cells.iter().map(text));
        while row.last().is_some_and(String::is_empty) {
            row.pop();
        }
        (top as u64 + i as u64 + 1, row)
    };
    Ok(range.rows().enumerate().map(row).filter(|r| !r.1.is_empty()).collect())
}

/// The sheet by name, or by place as `#2`; the first by default.
fn pick(names: Vec<String>, sheet: Option<&str>) -> Result<String, Fault> {
    let wanted = sheet.unwrap_or("#1");
    let place = wanted.strip_prefix('#').and_then(|n| n.parse::<usize>().ok());
    let by_name = names.iter().find(|n| n.trim().eq_ignore_ascii_case(wanted.trim()));
    let found = by_name.or_else(|| names.get(place?.checked_sub(1)?)).cloned();
    found.ok_or(Fault::NoSheet(names))
}

/// What a person sees, as far as numbers go: 1120 and 2055.1, with as many digits as there are. A formula that failed is
/// an empty cell.
fn text(cell: &Data) -> String {
    match cell {
        Data::Error(_) => String::new(),
        cell => cell.to_string(),
    }
}

/// Names in a compound file are UTF-16.
fn holds(bytes: &[u8], name: &str) -> bool {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    bytes.windows(name.len()).any(|w| w == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_of_sectors_are_found() {
        for (table, circle) in [
            (&[1, 2, 0xffff_fffe][..], false),
            (&[1, 2, 0], true),
            (&[0], true),
            (&[2, 2, 0xffff_fffe], false),
            (&[0xffff_ffff, 9, 1], false),
            (&[], false),
        ] {
            assert_eq!(has_circle(table), circle, "{table:?}");
        }
        let mut book = include_bytes!("../../tests/sets/naps.xls").to_vec();
        assert!(!circular(&book) && rows(Path::new("naps.xls"), &book, None).is_ok());
        // The first sector of the directory is followed by itself.
        let directory = u32::from_le_bytes(book[48..52].try_into().unwrap()) as usize;
        let table = u32::from_le_bytes(book[76..80].try_into().unwrap()) as usize;
        book[(table + 1) * 512 + 4 * directory..][..4].copy_from_slice(&(directory as u32).to_le_bytes());
        let e = rows(Path::new("naps.xls"), &book, None).unwrap_err().to_string();
        assert!(e.contains("naps.xls") && e.contains("in a circle"), "{e}");
        (0..book.len()).step_by(97).for_each(|cut| assert!(!circular(&book[..cut]) || cut > 512));
    }
}
