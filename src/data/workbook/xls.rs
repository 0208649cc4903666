/*! Excel's workbooks before 2007 (.xls): a stream of records ([MS-XLS] section 2.4), of Excel 97 and later and of Excel 5
and 95. Cells are what they hold and not how they are shown, as in [`super::xlsx`]. */

use super::super::table::windows;
use super::compound::Compound;
use super::{Fault, MAX_CELLS, Rows, Sheet, number, pick};

pub fn rows(bytes: &[u8], sheet: Option<&str>) -> Result<Rows, Fault> {
    let file = Compound::new(bytes)?;
    let stream = match file.stream("Workbook")? {
        Some(stream) => stream,
        None => match file.stream("Book")? {
            Some(stream) => stream,
            // A locked .xlsx is a compound file as well, with this stream in it.
            None if file.stream("EncryptedPackage")?.is_some() => return Err(Fault::Locked),
            None => return Err(Fault::of("no part of it is a workbook")),
        },
    };
    let (mut text, mut names, mut starts, mut strings) = (Text { wide: true, page: 1252 }, vec![], vec![], vec![]);
    for record in Records(&stream) {
        let mut r = record?;
        match r.kind {
            FILE_PASS => return Err(Fault::Locked),
            CODE_PAGE => text.page = r.u16()?,
            // Excel 97's streams are of version 0x600.
            BOF => text.wide = r.u16()? >= 0x600,
            SHEET => {
                starts.push(r.u32()? as usize);
                r.skip(2)?;
                let length = r.u8()? as usize;
                let wide = text.wide && r.u8()? & 1 != 0;
                let name = text.read(&mut r, length, wide)?;
                names.push(name.replace('\0', ""));
            }
            STRINGS => strings = shared(&mut r, &text)?,
            EOF => break,
            _ => {}
        }
    }
    let start = starts[pick(names, sheet)?];
    cells(stream.get(start..).ok_or_else(|| Fault::of("it ends before its sheet"))?, &text, &strings)
}

const FILE_PASS: u16 = 0x2f;
const CODE_PAGE: u16 = 0x42;
const SHEET: u16 = 0x85;
const STRINGS: u16 = 0xfc;
const BOF: u16 = 0x809;
const EOF: u16 = 0x0a;
const CONTINUE: u16 = 0x3c;

/// How texts are written.
struct Text {
    /// In Excel 97 and later: Latin-1 or UTF-16, as each text says; before in a code page.
    wide: bool,
    page: u16,
}

impl Text {
    /// A text of so many characters, which goes on in the next part of its record with a byte of its own.
    fn read(&self, r: &mut Record, length: usize, mut wide: bool) -> Result<String, Fault> {
        if !self.wide {
            return self.old(r.take(length)?);
        }
        let mut units = Vec::new();
        while units.len() < length {
            if r.now.is_empty() {
                r.turn()?;
                wide = r.u8()? & 1 != 0;
                continue;
            }
            let most = length - units.len();
            if wide {
                let n = most.min(r.now.len() / 2).max(1);
                units.extend(r.take(2 * n)?.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)));
            } else {
                units.extend(r.take(most.min(r.now.len()))?.iter().map(|b| *b as u16));
            }
        }
        Ok(String::from_utf16_lossy(&units))
    }

    /// A text with its length before it.
    fn counted(&self, r: &mut Record) -> Result<String, Fault> {
        let length = r.u16()? as usize;
        // An empty text may lack the byte.
        let wide = self.wide && length > 0 && r.u8()? & 1 != 0;
        self.read(r, length, wide)
    }

    fn old(&self, bytes: &[u8]) -> Result<String, Fault> {
        match self.page {
            _ if bytes.is_ascii() => {}
            // Windows' western page, the same under Excel's own number, and Unicode, whose bytes are Latin-1.
            1252 | 0x8001 | 1200 => {}
            page => return Err(Fault::of(format!("its texts are in code page {page}, which is not read"))),
        }
        Ok(windows(bytes))
    }
}

/// One record with the parts that continue it.
struct Record<'a> {
    kind: u16,
    now: &'a [u8],
    rest: Vec<&'a [u8]>,
}

struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Fault>;
    fn next(&mut self) -> Option<Self::Item> {
        // Sectors are filled up with zeros.
        if self.0.len() < 4 {
            return None;
        }
        let part = |s: &mut Self| {
            let (kind, length) = (u16_at(s.0, 0), u16_at(s.0, 2) as usize);
            let body = s.0.get(4..4 + length)?;
            s.0 = &s.0[4 + length..];
            Some((kind, body))
        };
        let Some((kind, now)) = part(self) else { return Some(Err(Fault::of("it ends within a record"))) };
        let mut rest = vec![];
        while self.0.len() > 4 && u16_at(self.0, 0) == CONTINUE {
            match part(self) {
                Some((_, body)) => rest.push(body),
                None => return Some(Err(Fault::of("it ends within a record"))),
            }
        }
        rest.reverse();
        Some(Ok(Record { kind, now, rest }))
    }
}

impl<'a> Record<'a> {
    fn short() -> Fault {
        Fault::of("a record of it is shorter than what it holds")
    }
    /// Goes on to the next part.
    fn turn(&mut self) -> Result<(), Fault> {
        self.now = self.rest.pop().ok_or_else(Self::short)?;
        Ok(())
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.now.split_at_checked(n).ok_or_else(Self::short)?;
        self.now = rest;
        Ok(taken)
    }
    /// Over the ends of parts.
    fn skip(&mut self, mut n: usize) -> Result<(), Fault> {
        while n > self.now.len() {
            n -= self.now.len();
            self.turn()?;
        }
        self.take(n).map(drop)
    }
    fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }
    fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16_at(self.take(2)?, 0))
    }
    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(self.u16()? as u32 | (self.u16()? as u32) << 16)
    }
    fn f64(&mut self) -> Result<f64, Fault> {
        Ok(f64::from_bits(self.u32()? as u64 | (self.u32()? as u64) << 32))
    }
    /// Row and column of a cell; its format is passed over.
    fn place(&mut self) -> Result<(u64, usize), Fault> {
        let place = (self.u16()? as u64, self.u16()? as usize);
        self.u16().map(|_| place)
    }
    /// A number in four bytes: the upper half of a double, or an integer, and a hundred times as large or not.
    fn short_number(&mut self) -> Result<String, Fault> {
        Ok(number(short_number(self.u32()?)))
    }
}

pub fn short_number(bits: u32) -> f64 {
    let value = if bits & 2 != 0 { ((bits as i32) >> 2) as f64 } else { f64::from_bits(((bits & !3) as u64) << 32) };
    if bits & 1 != 0 { value / 100.0 } else { value }
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

/// The texts that cells point to.
fn shared(r: &mut Record, text: &Text) -> Result<Vec<String>, Fault> {
    r.skip(8)?;
    let mut all = vec![];
    loop {
        if r.now.is_empty() {
            if r.rest.is_empty() {
                return Ok(all);
            }
            r.turn()?;
            continue;
        }
        let (length, flags) = (r.u16()? as usize, r.u8()?);
        // Where its font changes, and how it is pronounced, stand behind it.
        let fonts = if flags & 8 != 0 { r.u16()? as usize } else { 0 };
        let spoken = if flags & 4 != 0 { r.u32()? as usize } else { 0 };
        all.push(text.read(r, length, flags & 1 != 0)?);
        r.skip(4 * fonts)?;
        r.skip(spoken)?;
        if all.len() > MAX_CELLS {
            return Err(Fault::TooLarge);
        }
    }
}

fn cells(stream: &[u8], text: &Text, strings: &[String]) -> Result<Rows, Fault> {
    let (mut sheet, mut formula, mut depth) = (Sheet::of(stream.len()), (0, 0), 0);
    for record in Records(stream) {
        let mut r = record?;
        match r.kind {
            // A chart within the sheet has cells of its own.
            BOF => depth += 1,
            EOF if depth <= 1 => break,
            EOF => depth -= 1,
            _ if depth > 1 => {}
            0x203 => {
                let (row, column) = r.place()?;
                sheet.put(row, column, number(r.f64()?))?;
            }
            0x27e => {
                let (row, column) = r.place()?;
                sheet.put(row, column, r.short_number()?)?;
            }
            // Several of them in a row, each with its format.
            0xbd => {
                let (row, first) = (r.u16()? as u64, r.u16()? as usize);
                for column in first.. {
                    if r.now.len() < 8 {
                        break;
                    }
                    r.u16()?;
                    sheet.put(row, column, r.short_number()?)?;
                }
            }
            0xfd => {
                let (row, column) = r.place()?;
                let string = strings.get(r.u32()? as usize);
                sheet.put(row, column, string.cloned().unwrap_or_default())?;
            }
            // A text in the cell itself, with and without fonts.
            0x204 | 0xd6 => {
                let (row, column) = r.place()?;
                sheet.put(row, column, text.counted(&mut r)?)?;
            }
            0x205 => {
                let (row, column) = r.place()?;
                let (value, error) = (r.u8()?, r.u8()?);
                let value = if error == 0 { (value != 0).to_string() } else { String::new() };
                sheet.put(row, column, value)?;
            }
            // A formula's last value: a number, or what the last two bytes say it is instead.
            0x06 => {
                formula = r.place()?;
                let value = r.f64()?.to_bits();
                match value.to_le_bytes() {
                    [1, _, b, .., 0xff, 0xff] => sheet.put(formula.0, formula.1, (b != 0).to_string())?,
                    // A text follows in a record of its own; an error and an empty text are nothing.
                    [.., 0xff, 0xff] => {}
                    _ => sheet.put(formula.0, formula.1, number(f64::from_bits(value)))?,
                }
            }
            0x207 => sheet.put(formula.0, formula.1, text.counted(&mut r)?)?,
            _ => {}
        }
    }
    Ok(sheet.rows())
}
