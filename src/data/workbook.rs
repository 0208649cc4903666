/*! Workbooks of Excel (.xls, .xlsx, .xlsb) and OpenDocument (.ods), as rows of text. The kind is taken from the content,
and one that is locked, damaged or made to exhaust memory is refused in one line. */

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
