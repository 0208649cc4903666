/*! Rating tables as people hand them on: comma, tab or semicolon; Windows, Unix or lone-return line ends; with or without a
byte order mark; in UTF-8, UTF-16 or something older; with prose above the header; or a workbook. Read whole, as text, with
the line of every row, so that a complaint can name it. */

use super::fields::{self, Dialect, records};
use super::workbook;
use crate::error::{Error, Result};
use crate::files;
use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Rows among which a header is looked for.
const MAX_PROSE: usize = 40;

/// How to read a table.
#[derive(Clone, Debug, Default)]
pub struct TableOptions<'a> {
    /// None takes the one of comma, tab and semicolon that is most frequent in the header.
    pub delimiter: Option<u8>,
    /// What text with delimiters stands in; None is `"`.
    pub quote: Option<u8>,
    /// The sheet of a workbook, by name or as `#1`, `#2` …; None takes the first.
    pub sheet: Option<&'a str>,
    /// Lines above the header.
    pub skip_rows: usize,
    /// Further rows of the header: the names of a column are joined, those of merged cells go for all of them.
    pub more_header: usize,
    /// The header is the first row that has one of the names of each of these; where none has, the widest row is it. If
    /// there is nothing to find, it is the first row.
    pub find: &'a [&'a [&'a str]],
    /// Rows shorter than the header are filled with empty fields instead of refused.
    pub ragged: bool,
}

impl TableOptions<'_> {
    fn dialect(&self, delimiter: u8) -> Dialect {
        Dialect { delimiter, quote: self.quote.unwrap_or(b'"') }
    }
}

/// A header and its rows.
#[derive(Clone, Debug)]
pub struct Table {
    pub path: PathBuf,
    pub header: Vec<String>,
    /// Line number in the file (the first line is 1), and one text for each column.
    pub rows: Vec<(u64, Vec<String>)>,
    pub delimiter: u8,
    /// Set if the text had to be guessed.
    pub note: Option<String>,
}

/// A delimiter by name or as itself.
pub fn delimiter(name: &str) -> Result<u8> {
    match name {
        "comma" => Ok(b','),
        "tab" | "\\t" => Ok(b'\t'),
        "semicolon" => Ok(b';'),
        _ => match name.as_bytes() {
            [b] if b.is_ascii() && !b.is_ascii_alphanumeric() && !matches!(b, b'"' | b'\n' | b'\r') => Ok(*b),
            _ => Err(Error::usage(format!("unknown delimiter `{name}`")).fix("choose comma, tab or semicolon")),
        },
    }
}

impl Table {
    pub fn read(path: impl AsRef<Path>, opts: &TableOptions) -> Result<Self> {
        let path = path.as_ref();
        let bytes = files::read(path, files::TABLE).map_err(|e| match e.kind() {
            ErrorKind::IsADirectory => Error::file(path, "is a folder, not a table").fix("name the CSV file"),
            _ => Error::io(path, "read", e),
        })?;
        Self::parse(path, &bytes, opts)
    }

    /// `path` is only for the messages.
    pub fn parse(path: &Path, bytes: &[u8], opts: &TableOptions) -> Result<Self> {
        let empty = || {
            Error::file(path, format!("nothing is left after {} lines", opts.skip_rows))
                .fix("check the file and the number of lines to skip")
        };
        let (rows, delimiter, note) = if workbook::is(bytes) {
            let mut rows = workbook::rows(path, bytes, opts.sheet)?;
            rows.retain(|(line, _)| *line > opts.skip_rows as u64);
            let first: Vec<_> = rows.iter().take(MAX_PROSE).map(|r| &r.1[..]).collect();
            let skip = header(&first, opts.find);
            // No delimiter: a comma within a cell is a decimal one.
            (rows.split_off(skip.min(rows.len())), 0, None)
        } else if let Some(sheet) = opts.sheet {
            return Err(Error::file(path, format!("is text and has no sheet `{sheet}`"))
                .fix("leave the sheet out, or name a workbook")
                .as_usage());
        } else {
            let (text, note) = text(path, bytes)?;
            // A lone return would count as no line at all.
            let text = text.replace("\r\n", "\n").replace('\r', "\n");
            let mut body = text.as_str();
            let next = |body: &str| body.find('\n').map_or(body.len(), |i| i + 1);
            (0..opts.skip_rows).for_each(|_| body = &body[next(body)..]);
            let lines: Vec<_> = body.lines().take(MAX_PROSE).map(|line| fields_of(line, opts)).collect();
            let skip = header(&lines.iter().map(|l| &l[..]).collect::<Vec<_>>(), opts.find);
            (0..skip).for_each(|_| body = &body[next(body)..]);
            let first = body.lines().find(|l| !l.trim().is_empty()).ok_or_else(empty)?;
            let delimiter = delimiter_of(first, opts);
            let above = (opts.skip_rows + skip) as u64;
            let mut rows = records(body, opts.dialect(delimiter)).map_err(|(line, problem)| {
                Error::file(path, problem)
                    .at(format!("line {}", line + above))
                    .fix("close the quote, double it if it belongs to the text, or remove it")
            })?;
            rows.iter_mut().for_each(|r| r.0 += above);
            (rows, delimiter, note)
        };
        let mut rows = rows.into_iter();
        let mut header: Vec<String> = rows.next().ok_or_else(empty)?.1.iter().map(|h| spaced(h)).collect();
        for (_, more) in rows.by_ref().take(opts.more_header) {
            // Only the first of merged cells has the text.
            for i in 1..header.len() {
                if header[i].is_empty() {
                    header[i] = header[i - 1].clone();
                }
            }
            header.resize(header.len().max(more.len()), String::new());
            let joined =
                header.iter().enumerate().map(|(i, h)| spaced(&format!("{h} {}", more.get(i).map_or("", |m| m))));
            header = joined.collect();
        }
        while header.last().is_some_and(String::is_empty) && header.len() > 1 {
            header.pop();
        }
        let mut kept = Vec::new();
        for (line, mut fields) in rows {
            // Spreadsheets leave rows of nothing but delimiters.
            if fields.iter().all(|f| f.trim().is_empty()) {
                continue;
            }
            while fields.len() > header.len() && fields.last().is_some_and(|f| f.trim().is_empty()) {
                fields.pop();
            }
            if fields.len() > header.len() || (fields.len() < header.len() && !opts.ragged) {
                return Err(Error::file(path, format!("{} fields under {} columns", fields.len(), header.len()))
                    .at(format!("line {line}"))
                    .fix("look for a stray quote or delimiter there"));
            }
            fields.resize(header.len(), String::new());
            kept.push((line, fields));
        }
        Ok(Self { path: path.to_path_buf(), header, rows: kept, delimiter, note })
    }

    /// The first of `names` that is a column. The error is about the first name.
    pub fn any(&self, names: &[&str]) -> Result<usize> {
        let mut problem = None;
        for name in names {
            match self.column(name) {
                Ok(column) => return Ok(column),
                Err(e) => problem = problem.or(Some(e)),
            }
        }
        Err(problem.unwrap_or_else(|| Error::file(&self.path, "no column is named")))
    }

    /// A column by name (capitals and spaces around it do not matter where that is unambiguous), as `#1`, `#2` … for
    /// columns without a name, or as pandas and R tell columns of one name apart: `M`, `M.1`, `M.2` ….
    pub fn column(&self, name: &str) -> Result<usize> {
        let found = named(&self.header, name);
        match found[..] {
            [i] => Ok(i),
            [] => Err(Error::file(&self.path, format!("no column `{name}`"))
                .fix(format!("choose one of: {}", self.columns()))
                .as_usage()),
            _ => Err(Error::file(&self.path, format!("{} columns are called `{name}`", found.len()))
                .fix(format!("name one by its position, such as #{}", found[0] + 1))
                .as_usage()),
        }
    }

    fn columns(&self) -> String {
        let name = |(i, h): (usize, &String)| if h.is_empty() { format!("#{}", i + 1) } else { h.clone() };
        self.header.iter().enumerate().map(name).collect::<Vec<_>>().join(", ")
    }

    /// A finite number. A decimal comma is one where the comma does not delimit.
    pub fn number(&self, text: &str) -> Option<f64> {
        let text = text.trim();
        let comma = self.delimiter != b',' && text.matches(',').count() == 1 && !text.contains('.');
        let value: f64 = if comma { text.replace(',', ".").parse() } else { text.parse() }.ok()?;
        value.is_finite().then_some(value)
    }
}

/// The columns that `name` means.
fn named(header: &[String], name: &str) -> Vec<usize> {
    let all = |same: &dyn Fn(&str) -> bool| -> Vec<usize> { (0..header.len()).filter(|&i| same(&header[i])).collect() };
    let mut found = all(&|h| h == name);
    if found.is_empty() {
        found = all(&|h| h.trim().eq_ignore_ascii_case(name.trim()));
    }
    let place = name.strip_prefix('#').and_then(|n| n.parse::<usize>().ok());
    if found.is_empty() && place.is_some_and(|n| (1..=header.len()).contains(&n)) {
        found.extend(place.map(|n| n - 1));
    }
    if let (true, Some((name, n))) = (found.is_empty(), name.rsplit_once('.')) {
        found.extend(n.parse::<usize>().ok().and_then(|n| all(&|h| h == name).get(n).copied()));
    }
    found
}

/// Which of the first rows is the header.
fn header(rows: &[&[String]], find: &[&[&str]]) -> usize {
    let has = |row: &[String], names: &[&str]| names.iter().any(|name| !named(row, name).is_empty());
    let found = rows.iter().position(|row| find.iter().all(|names| has(row, names)));
    let width = |i: &usize| rows[*i].iter().filter(|f| !f.trim().is_empty()).count();
    // Of equals the first, hence the reversal: `max_by_key` takes the last.
    found.unwrap_or_else(|| (0..rows.len()).rev().max_by_key(width).unwrap_or(0))
}

/// One line, taken apart for itself. A quote that is not closed is the business of whoever reads the whole.
fn fields_of(line: &str, opts: &TableOptions) -> Vec<String> {
    let delimiter = delimiter_of(line, opts);
    let bare = || line.split(char::from(delimiter)).map(String::from).collect();
    records(line, opts.dialect(delimiter)).map_or_else(|_| bare(), |mut all| all.pop().map_or(Vec::new(), |r| r.1))
}

fn delimiter_of(line: &str, opts: &TableOptions) -> u8 {
    opts.delimiter.unwrap_or_else(|| fields::delimiter_of(line))
}

/// Without spaces around it, and with single ones for line breaks and the like within.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The bytes as text, and a remark if the encoding was guessed.
fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Cow<'a, str>, Option<String>)> {
    let utf16 = |word: fn([u8; 2]) -> u16| {
        let words = bytes[2..].chunks_exact(2).map(|b| word([b[0], b[1]]));
        let text = char::decode_utf16(words).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>();
        Ok((Cow::Owned(text), Some("read as UTF-16".into())))
    };
    match bytes {
        [0xff, 0xfe, ..] => return utf16(u16::from_le_bytes),
        [0xfe, 0xff, ..] => return utf16(u16::from_be_bytes),
        _ => {}
    }
    if bytes.contains(&0) {
        return Err(Error::file(path, "is not a text table").fix("name a CSV file"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok((Cow::Borrowed(text.trim_start_matches('\u{feff}')), None)),
        // Every byte is a character there: names of western languages come out right, numbers always.
        Err(_) => Ok((Cow::Owned(windows(bytes)), Some("is not UTF-8: read as Windows-1252".into()))),
    }
}

/// What Windows-1252 has at 0x80 to 0x9f, where Latin-1 has control characters; five places are empty and stay those. The
/// two agree in all other bytes.
const WINDOWS: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";

pub(super) fn windows(bytes: &[u8]) -> String {
    let of = |&b: &u8| match b {
        0x80..=0x9f => WINDOWS.chars().nth(usize::from(b) - 0x80).unwrap_or(char::from(b)),
        _ => char::from(b),
    };
    bytes.iter().map(of).collect()
}

/// Whether a field says that there is no value: empty, or what R, pandas, SPSS and spreadsheets write for it, the errors
/// of their formulas included.
pub fn missing(text: &str) -> bool {
    const ALSO: [&str; 8] = ["", ".", "-", "?", "none", "null", "nil", "missing"];
    let text = text.trim().trim_matches(['<', '>']).to_ascii_lowercase();
    let bare = text.trim_start_matches(['#', '-', '+']);
    ALSO.contains(&text.as_str())
        || ["na", "n/a", "n.a.", "nan", "1.#ind", "1.#qnan"].contains(&bare)
        || (text.starts_with('#') && text.ends_with(['!', '?']))
}

/// A CSV field, quoted if it has to be.
pub fn quoted(field: &str) -> Cow<'_, str> {
    let plain = !field.contains(['"', ',', '\n', '\r', ';', '\t']) && field.trim() == field;
    if plain { Cow::Borrowed(field) } else { Cow::Owned(format!("\"{}\"", field.replace('"', "\"\""))) }
}

/// A line of CSV.
pub fn csv_line<T: AsRef<str>>(cells: impl IntoIterator<Item = T>) -> String {
    cells.into_iter().map(|c| quoted(c.as_ref()).into_owned()).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8], opts: TableOptions) -> Result<Table> {
        Table::parse(Path::new("t.csv"), bytes, &opts)
    }
    fn table(text: &str) -> Table {
        parse(text.as_bytes(), TableOptions::default()).unwrap()
    }

    #[test]
    fn every_line_end_and_delimiter() {
        for end in ["\n", "\r\n", "\r"] {
            for d in [",", ";", "\t"] {
                let t = table(&[" a ", d, "b", end, "1", d, "\"x y\"", end, end, d, end, "2", d, "z"].concat());
                assert_eq!(t.header, ["a", "b"]);
                assert_eq!(t.rows, [(2, vec!["1".into(), "x y".into()]), (5, vec!["2".into(), "z".into()])]);
            }
        }
    }

    #[test]
    fn every_encoding() {
        let utf16: Vec<u8> = "\u{feff}n,v\né,1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let quotes = parse(b"n,v\nit\x92s \x96 \x80\x8d,1\n", TableOptions::default()).unwrap();
        assert_eq!(quotes.rows[0].1[0], "it’s – €\u{8d}");
        for bytes in [&b"\xef\xbb\xbfn,v\n\xc3\xa9,1\n"[..], b"n,v\n\xe9,1\n", &utf16] {
            let t = parse(bytes, TableOptions::default()).unwrap();
            assert_eq!((t.column("n").unwrap(), t.rows[0].1[0].as_str()), (0, "é"));
        }
        for (bytes, word) in
            [(&b"PK\x03\x04"[..], "workbook"), (b"\xd0\xcf\x11\xe0", "workbook"), (b"a\0b", "text"), (b"", "left")]
        {
            let e = parse(bytes, TableOptions::default()).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
    }

    #[test]
    fn columns_by_name_and_place() {
        let t = table(",Theme,x,x\n1,2,3,4\n");
        assert_eq!((t.column("#1").unwrap(), t.column("").unwrap(), t.column("theme ").unwrap()), (0, 0, 1));
        let e = t.column("Valence").unwrap_err();
        assert_eq!(e.to_string(), "t.csv: no column `Valence`; choose one of: #1, Theme, x, x");
        assert_eq!(e.exit_code(), 2);
        assert!(t.column("x").unwrap_err().to_string().contains("#3"));
        assert_eq!((t.column("x.0").unwrap(), t.column("x.1").unwrap(), t.any(&["y", "theme"]).unwrap()), (2, 3, 1));
        assert!(t.column("x.2").is_err() && t.any(&[]).is_err());
        assert!(t.any(&["y", "z"]).unwrap_err().to_string().contains("no column `y`"));
    }

    #[test]
    fn the_header_is_found() {
        let text = b"Ratings, all of them\n\na;b\nname;M;M\n;1;2\nx;3;4\n";
        let find: &[&[&str]] = &[&["id", "Name"], &["M.1"]];
        let t = parse(text, TableOptions { find, ..Default::default() }).unwrap();
        assert_eq!((t.header.as_slice(), t.rows[1].0), (&["name", "M", "M"].map(String::from)[..], 6));
        // The widest row where none fits, so that the complaint lists what is there.
        let t = parse(text, TableOptions { find: &[&["id"]], ..Default::default() }).unwrap();
        assert_eq!(t.header, ["name", "M", "M"]);
        let t = parse(b"x;V;;A\n;M;SD;M\n1;2;3;4\n", TableOptions { more_header: 1, ..Default::default() }).unwrap();
        assert_eq!(t.header, ["x", "V M", "V SD", "A M"]);
    }

    #[test]
    fn ragged_rows_are_named() {
        let e = parse(b"prose\na,b\n1,2\n1\n", TableOptions { skip_rows: 1, ..Default::default() }).unwrap_err();
        assert!(e.to_string().starts_with("t.csv: line 4: 1 fields under 2 columns"), "{e}");
        let t = parse(b"a,b\n1\n", TableOptions { ragged: true, ..Default::default() }).unwrap();
        assert_eq!(t.rows[0].1, ["1", ""]);
        let e = parse(b"prose \"\na,b\n\"1,2\n3,4\n", TableOptions { skip_rows: 1, ..Default::default() }).unwrap_err();
        assert!(e.to_string().starts_with("t.csv: line 3: a quote is never closed; close the quote"), "{e}");
    }

    #[test]
    fn numbers() {
        let (comma, semicolon) = (table("a,b\n1,2"), table("a;b\n1;2"));
        assert_eq!((comma.number(" 4.5 "), semicolon.number("4,5")), (Some(4.5), Some(4.5)));
        assert_eq!(
            (comma.number("4,5"), comma.number("nan"), comma.number("inf"), comma.number("")),
            (None, None, None, None)
        );
    }

    #[test]
    fn what_is_missing() {
        for text in
            ["", " ", ".", "-", "NA", "n/a", "#N/A", "#DIV/0!", "#NULL!", "#NAME?", "NaN", "<NA>", "-1.#IND", "None"]
        {
            assert!(missing(text), "{text}");
        }
        for text in ["0", "-1", "x", "Nancy", "#1", "inf", "#"] {
            assert!(!missing(text), "{text}");
        }
    }

    #[test]
    fn quoting_survives_a_round_trip() {
        for field in ["plain", "a,b", "say \"hi\"", " spaced ", "two\nlines", "semi;colon"] {
            assert_eq!(table(&format!("x,y\n{},1\n", quoted(field))).rows[0].1[0], field);
        }
    }
}
