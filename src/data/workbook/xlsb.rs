/*! Excel's binary workbooks (.xlsb): a zip as [`super::xlsx`] with records instead of XML, [MS-XLSB] section 2.4. */

use super::xls::short_number;
use super::{Fault, MAX_CELLS, Parts, Rows, Sheet, number, pick, xlsx};

pub fn rows(parts: &Parts, sheet: Option<&str>) -> Result<Rows, Fault> {
    let (book, mut names, mut ids) = (parts.part("xl/workbook.bin")?.unwrap_or_default(), vec![], vec![]);
    for record in Records(&book) {
        let (kind, mut body) = record?;
        if kind == 0x9c {
            body.take(8)?;
            ids.push(body.text()?);
            names.push(body.text()?);
        }
    }
    let id = &ids[pick(names, sheet)?];
    let relations = xlsx::relations(parts, "xl/_rels/workbook.bin.rels", "xl/")?;
    let path = relations.get(id).ok_or_else(|| Fault::of(format!("the sheet `{id:.40}` is nowhere in it")))?;
    let mut strings = vec![];
    for record in Records(&parts.part("xl/sharedStrings.bin")?.unwrap_or_default()) {
        let (kind, mut body) = record?;
        if kind == 0x13 {
            body.take(1)?;
            strings.push(body.text()?);
            if strings.len() > MAX_CELLS {
                return Err(Fault::TooLarge);
            }
        }
    }
    let part = parts.part(path)?.ok_or_else(|| Fault::of(format!("`{path:.80}` is missing")))?;
    cells(&part, &strings)
}

fn cells(part: &[u8], strings: &[String]) -> Result<Rows, Fault> {
    let (mut sheet, mut row, mut data) = (Sheet::of(part.len()), 0, false);
    for record in Records(part) {
        let (kind, mut body) = record?;
        match kind {
            0x91 => data = true,
            0x92 => return Ok(sheet.rows()),
            _ if !data => {}
            0x00 => row = body.u32()? as u64,
            // A cell: its column, its format, its value.
            0x02..=0x0a => {
                let column = body.u32()? as usize;
                body.take(4)?;
                let text = match kind {
                    0x02 => number(short_number(body.u32()?)),
                    0x04 | 0x0a => (body.take(1)?[0] != 0).to_string(),
                    0x05 | 0x09 => number(f64::from_bits(body.u32()? as u64 | (body.u32()? as u64) << 32)),
                    0x06 | 0x08 => body.text()?,
                    0x07 => strings.get(body.u32()? as usize).cloned().unwrap_or_default(),
                    _ => String::new(),
                };
                sheet.put(row, column, text)?;
            }
            _ => {}
        }
    }
    Err(Fault::of("it ends within a sheet"))
}

struct Records<'a>(&'a [u8]);
struct Body<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(u32, Body<'a>), Fault>;
    fn next(&mut self) -> Option<Self::Item> {
        // Seven bits a byte, the lowest first, as long as the eighth is set.
        let mut count = |most: u32| {
            let mut n = 0;
            for i in 0..most {
                let (&b, rest) = self.0.split_first()?;
                self.0 = rest;
                n |= ((b & 0x7f) as u32) << (7 * i);
                if b < 0x80 {
                    break;
                }
            }
            Some(n)
        };
        let kind = count(2)?;
        let body = count(4).and_then(|length| self.0.split_at_checked(length as usize));
        let Some((body, rest)) = body else {
            self.0 = &[];
            return Some(Err(Fault::of("it ends within a record")));
        };
        self.0 = rest;
        Some(Ok((kind, Body(body))))
    }
}

impl<'a> Body<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let taken = self.0.split_at_checked(n);
        let (taken, rest) = taken.ok_or_else(|| Fault::of("a record of it is shorter than what it holds"))?;
        self.0 = rest;
        Ok(taken)
    }
    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(self.take(4)?.first_chunk().map_or(0, |b| u32::from_le_bytes(*b)))
    }
    /// Its length in UTF-16 units, then those; all ones for none.
    fn text(&mut self) -> Result<String, Fault> {
        let length = match self.u32()? {
            u32::MAX => 0,
            n => n as usize,
        };
        let units = self.take(length.saturating_mul(2))?.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
        Ok(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
    }
}
