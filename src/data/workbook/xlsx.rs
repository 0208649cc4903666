/*! Excel's workbooks since 2007 (.xlsx, .xlsm): a zip of XML parts, ECMA-376 part 1, section 18. Cells are what
they hold and not how they are shown: a date is its number, a formula its last value. */

use super::xml::{Event, Xml, local};
use super::{Fault, MAX_CELLS, Parts, Rows, Sheet, number, pick};
use std::collections::HashMap;

pub fn rows(parts: &Parts, sheet: Option<&str>) -> Result<Rows, Fault> {
    let top = relations(parts, "_rels/.rels", "")?;
    let path = top.get(BOOK).map_or("xl/workbook.xml", |path| path.as_str());
    let book = parts.text(path)?.ok_or_else(|| Fault::of("no part of it is a workbook"))?;
    let (mut xml, mut names, mut ids) = (Xml::new(&book), vec![], vec![]);
    while let Some(event) = xml.next()? {
        match event {
            Event::Start(tag) if tag.local() == "sheet" => {
                names.push(tag.attribute("name")?.unwrap_or_default().into_owned());
                ids.push(tag.attribute(":id")?.unwrap_or_default().into_owned());
            }
            _ => {}
        }
    }
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (&path[..=folder.len()], name));
    let relations = relations(parts, &format!("{folder}_rels/{name}.rels"), folder)?;
    let id = &ids[pick(names, sheet)?];
    let path = relations.get(id).ok_or_else(|| Fault::of(format!("the sheet `{id:.40}` is nowhere in it")))?;
    let strings = match relations.get(STRINGS).map(|path| parts.text(path)).transpose()?.flatten() {
        Some(text) => strings(&text)?,
        None => vec![],
    };
    let text = parts.text(path)?.ok_or_else(|| Fault::of(format!("`{path:.80}` is missing")))?;
    cells(&text, &strings)
}

/// What relations are for, by the ends of their types.
const BOOK: &str = "/officeDocument";
const STRINGS: &str = "/sharedStrings";

/// Where the parts lie that a part in `folder` names: by the ids that it names them with, and by [`BOOK`] and [`STRINGS`].
pub fn relations(parts: &Parts, path: &str, folder: &str) -> Result<HashMap<String, String>, Fault> {
    let (text, mut found) = (parts.text(path)?.unwrap_or_default(), HashMap::new());
    let mut xml = Xml::new(&text);
    while let Some(event) = xml.next()? {
        let Event::Start(tag) = event else { continue };
        let (Some(id), Some(target)) = (tag.attribute("Id")?, tag.attribute("Target")?) else { continue };
        let target = match target.strip_prefix('/') {
            Some(whole) => whole.to_string(),
            None => format!("{folder}{}", target.trim_start_matches("./")),
        };
        let kind = tag.attribute("Type")?.unwrap_or_default();
        if let Some(kind) = [BOOK, STRINGS].iter().find(|end| kind.ends_with(**end)) {
            found.insert(kind.to_string(), target.clone());
        }
        found.insert(id.into_owned(), target);
    }
    Ok(found)
}

/// The texts that cells point to.
fn strings(text: &str) -> Result<Vec<String>, Fault> {
    let (mut xml, mut all) = (Xml::new(text), vec![]);
    while let Some(event) = xml.next()? {
        if matches!(event, Event::Start(tag) if tag.local() == "si") {
            all.push(string(&mut xml)?);
            if all.len() > MAX_CELLS {
                return Err(Fault::TooLarge);
            }
        }
    }
    Ok(all)
}

/// The text of an element of runs, how it is pronounced left out.
fn string(xml: &mut Xml) -> Result<String, Fault> {
    let (mut all, mut now, mut kept, mut spoken) = (String::new(), None::<String>, false, false);
    xml.inside(|event| {
        match event {
            Event::Start(tag) if tag.local() == "rPh" => spoken = true,
            Event::Start(tag) if tag.local() == "t" && !spoken => {
                kept = tag.attribute("xml:space")?.is_some_and(|s| s == "preserve");
                now = Some(String::new());
            }
            Event::Text(text) => now.iter_mut().for_each(|now| now.push_str(text)),
            Event::End(name) if local(name) == "rPh" => spoken = false,
            Event::End(name) if local(name) == "t" => {
                let text = now.take().unwrap_or_default();
                let trimmed = text.trim_matches([' ', '\t', '\r', '\n']);
                all.push_str(&unescaped(if kept { &text } else { trimmed }));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(all)
}

/// Excel writes what XML cannot hold as `_x000D_`: four digits of a unit of UTF-16.
fn unescaped(text: &str) -> String {
    if !text.contains("_x") {
        return text.into();
    }
    let (mut units, mut rest) = (Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        let digits = rest.strip_prefix("_x").and_then(|r| r.get(..5)?.strip_suffix('_'));
        match digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).map(|d| u16::from_str_radix(d, 16)) {
            Some(Ok(unit)) => (units.push(unit), rest = &rest[7..]).1,
            _ => {
                units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    String::from_utf16_lossy(&units)
}

fn cells(text: &str, strings: &[String]) -> Result<Rows, Fault> {
    let (mut xml, mut sheet) = (Xml::new(text), Sheet::of(text.len()));
    // Where the next cell is that does not say so, from 0.
    let (mut line, mut column, mut data) = (0, 0, false);
    while let Some(event) = xml.next()? {
        match event {
            Event::Start(tag) if tag.local() == "sheetData" => data = true,
            Event::End(name) if local(name) == "sheetData" => return Ok(sheet.rows()),
            Event::Start(tag) if tag.local() == "row" => {
                if let Some(r) = tag.attribute("r")? {
                    let stated = r.parse().ok().and_then(|r: u64| r.checked_sub(1));
                    line = stated.ok_or_else(|| Fault::of(format!("a row is called `{r:.20}`")))?;
                }
            }
            Event::End(name) if local(name) == "row" => (line, column) = (line + 1, 0),
            Event::Start(tag) if tag.local() == "c" => {
                let (mut row, kind) = (line, tag.attribute("t")?.unwrap_or_default());
                if let Some(r) = tag.attribute("r")? {
                    (row, column) = position(&r).ok_or_else(|| Fault::of(format!("a cell is called `{r:.20}`")))?;
                }
                sheet.put(row, column, value(&mut xml, &kind, strings)?)?;
                column += 1;
            }
            _ => {}
        }
    }
    Err(Fault::of(if data { "its XML ends within an element" } else { "the sheet has no cells, as a chart has none" }))
}

/// What the cell that was just opened holds.
fn value(xml: &mut Xml, kind: &str, strings: &[String]) -> Result<String, Fault> {
    let (mut value, mut text) = (String::new(), String::new());
    loop {
        match xml.next()?.ok_or_else(|| Fault::of("its XML ends within an element"))? {
            Event::Start(tag) if tag.local() == "v" => value = xml.content()?,
            Event::Start(tag) if tag.local() == "is" => text = string(xml)?,
            Event::Start(_) => xml.skip()?,
            Event::End(_) => break,
            Event::Text(_) => {}
        }
    }
    Ok(match kind {
        "inlineStr" | "is" => text,
        _ if value.is_empty() => text,
        "s" => {
            let string = value.parse().ok().and_then(|i: usize| strings.get(i));
            string
                .ok_or_else(|| Fault::of(format!("a cell points to the text `{value:.20}`, which there is not")))?
                .clone()
        }
        "b" => (value != "0" && value != "false").to_string(),
        "d" => value,
        "e" => String::new(),
        "str" => unescaped(&value),
        _ => match value.parse() {
            Ok(n) => number(n),
            // As Excel does where a cell has no kind.
            Err(_) if kind.is_empty() => value,
            Err(_) => return Err(Fault::of(format!("a cell holds `{value:.20}` as a number"))),
        },
    })
}

/// `B3` as row 2 and column 1.
fn position(name: &str) -> Option<(u64, usize)> {
    let name = name.replace('$', "");
    let (letters, digits) = name.split_at(name.find(|c: char| c.is_ascii_digit())?);
    let column = letters.bytes().try_fold(0usize, |n, b| {
        let digit = b.is_ascii_alphabetic().then(|| (b.to_ascii_uppercase() - b'A') as usize + 1)?;
        (n < 1 << 20).then_some(26 * n + digit)
    })?;
    Some((digits.parse::<u64>().ok()?.checked_sub(1)?, column.checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_what_they_say() {
        assert_eq!(
            ["A1", "b3", "$AA$10", "A0", "1", "A", "é1"].map(position),
            [Some((0, 0)), Some((2, 1)), Some((9, 26)), None, None, None, None]
        );
        assert_eq!(unescaped("a_x000D_b_xD83D__xDE00__x005F_x000D__xZZ"), "a\rb😀_x000D__xZZ");
        let shared = strings(
            "<sst><si><t> a </t></si><si><r><t xml:space='preserve'>b </t></r><r><t>c</t></r><rPh><t>d</t></rPh></si></sst>",
        );
        assert_eq!(shared.as_ref().ok().map(|s| s.join("|")), Some("a|b c".into()));
        let sheet = "<x:worksheet><x:sheetData><x:row r='2'><x:c t='s'><x:v>1</x:v></x:c><x:c r='D2'><x:f>1+1</x:f><x:v>2.50\
                     </x:v></x:c><x:c t='b'><x:v>1</x:v></x:c><x:c t='e'><x:v>#N/A</x:v></x:c><x:c t='inlineStr'><x:is><x:t>e\
                     </x:t></x:is></x:c></x:row><x:row><x:c><x:v>n/a</x:v></x:c></x:row></x:sheetData></x:worksheet>";
        let rows = cells(sheet, &shared.ok().unwrap()).ok().unwrap();
        let want = [(2, ["b c", "", "", "2.5", "true", "", "e"].map(String::from).to_vec()), (3, vec!["n/a".into()])];
        assert_eq!(rows, want);
        for bad in [
            "<c t='s'><v>7</v></c>",
            "<c t='n'><v>x</v></c>",
            "<c r='7'/>",
            "<row r='0'/>",
            "<c r='XFE1048576'/>x",
            "<c",
        ] {
            let ends = cells(&format!("<sheetData>{bad}"), &[]);
            assert!(ends.is_err(), "{bad}");
        }
        // A name of a cell takes no memory of its own.
        assert!(matches!(cells("<sheetData><c r='ZZZZ1'><v>1</v></c></sheetData>", &[]), Err(Fault::TooLarge)));
    }
}
