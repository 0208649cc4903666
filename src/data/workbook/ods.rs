/*! OpenDocument's spreadsheets (.ods): one XML part, OpenDocument 1.2 part 1, section 9. A cell is its value, and its text
where it has none. Repeated cells and rows are written out as far as they hold something. */

use super::xml::{Event, Tag, Xml};
use super::{Fault, MAX_COLUMNS, Parts, Rows, Sheet, number, pick};

pub fn rows(parts: &Parts, sheet: Option<&str>) -> Result<Rows, Fault> {
    // The list of parts names how each was encrypted.
    if parts.text("META-INF/manifest.xml")?.is_some_and(|m| m.contains("encryption-data")) {
        return Err(Fault::Locked);
    }
    let text = parts.text("content.xml")?.ok_or_else(|| Fault::of("no part of it is a workbook"))?;
    let (mut xml, mut names, mut tables) = (Xml::new(&text), vec![], vec![]);
    while let Some(event) = xml.next()? {
        match event {
            Event::Start(tag) if tag.name == "table:table" => {
                if let Some(name) = tag.attribute("table:name")? {
                    names.push(name.into_owned());
                    tables.push(xml.clone());
                }
                xml.skip()?;
            }
            _ => {}
        }
    }
    table(&mut tables[pick(names, sheet)?])
}

/// How often a row or a cell stands there.
fn repeated(tag: &Tag, attribute: &str) -> Result<usize, Fault> {
    let Some(n) = tag.attribute(attribute)? else { return Ok(1) };
    n.parse().map_err(|_| Fault::of(format!("a row or a cell is repeated `{n:.20}` times")))
}

fn table(xml: &mut Xml) -> Result<Rows, Fault> {
    let (mut sheet, mut line, mut depth) = (Sheet::of(xml.left()), 0u64, 0);
    loop {
        match xml.next()?.ok_or_else(|| Fault::of("its XML ends within an element"))? {
            Event::Start(tag) if tag.name == "table:table-row" => {
                let times = repeated(&tag, "table:number-rows-repeated")?;
                let cells = row(xml)?;
                if let Some((first, wide, _)) = cells.last() {
                    // A few bytes can stand for any number of cells: counted before the first is made.
                    if times.saturating_mul(first + wide) > sheet.cells {
                        return Err(Fault::TooLarge);
                    }
                    for line in (line..).take(times) {
                        for (first, wide, text) in &cells {
                            (*first..first + wide).try_for_each(|column| sheet.put(line, column, text.clone()))?;
                        }
                    }
                }
                line = line.saturating_add(times as u64);
            }
            // A table within a drawing is none of this sheet.
            Event::Start(tag) if matches!(tag.name, "table:table" | "table:shapes") => xml.skip()?,
            // Rows stand in groups, and those that are repeated on every page in one of their own.
            Event::Start(_) => depth += 1,
            Event::End(_) if depth == 0 => return Ok(sheet.rows()),
            Event::End(_) => depth -= 1,
            Event::Text(_) => {}
        }
    }
}

/// First columns, numbers of columns and texts of the row that was just opened. A text is there once, however often it is
/// repeated.
fn row(xml: &mut Xml) -> Result<Vec<(usize, usize, String)>, Fault> {
    let (mut cells, mut column) = (vec![], 0usize);
    loop {
        match xml.next()?.ok_or_else(|| Fault::of("its XML ends within an element"))? {
            Event::Start(tag) if matches!(tag.name, "table:table-cell" | "table:covered-table-cell") => {
                let times = repeated(&tag, "table:number-columns-repeated")?;
                let text = cell(xml, &tag)?;
                if !text.is_empty() {
                    // One more than there may be is refused when it is put into the sheet.
                    cells.push((column.min(MAX_COLUMNS), times.min(MAX_COLUMNS + 1), text));
                }
                column = column.saturating_add(times);
            }
            Event::Start(_) => xml.skip()?,
            Event::End(_) => return Ok(cells),
            Event::Text(_) => {}
        }
    }
}

/// The value of the cell that was just opened; what stands in it if that is a text, or an error.
fn cell(xml: &mut Xml, tag: &Tag) -> Result<String, Fault> {
    let mut value = None;
    if let Some(n) = tag.attribute("office:value")? {
        value = Some(number(n.parse().map_err(|_| Fault::of(format!("a cell holds `{n:.20}` as a number")))?));
    }
    for name in ["office:string-value", "office:date-value", "office:time-value"] {
        if value.is_none() {
            value = tag.attribute(name)?.map(|text| text.into_owned());
        }
    }
    if let Some(b) = tag.attribute("office:boolean-value")?.filter(|_| value.is_none()) {
        value = Some(b.eq_ignore_ascii_case("true").to_string());
    }
    let says = |attribute: &str, what: &str| Ok(tag.attribute(attribute)?.is_some_and(|v| v == what));
    let text = value.is_none() && says("office:value-type", "string")?;
    let error = value.as_ref().is_some_and(String::is_empty) && says("calcext:value-type", "error")?;
    if text || error {
        return text_of(xml);
    }
    xml.skip()?;
    Ok(value.unwrap_or_default())
}

/// The paragraphs of the cell that was just opened, without remarks on it.
fn text_of(xml: &mut Xml) -> Result<String, Fault> {
    let (mut all, mut first, mut depth) = (String::new(), true, 0);
    loop {
        match xml.next()?.ok_or_else(|| Fault::of("its XML ends within an element"))? {
            Event::Start(tag) if tag.name == "office:annotation" => xml.skip()?,
            Event::Start(tag) => {
                depth += 1;
                match tag.name {
                    "text:p" if first => first = false,
                    "text:p" | "text:line-break" => all.push('\n'),
                    "text:tab" => all.push('\t'),
                    "text:s" => all.extend(std::iter::repeat_n(' ', repeated(&tag, "text:c")?.min(MAX_COLUMNS))),
                    _ => {}
                }
            }
            Event::End(_) if depth == 0 => return Ok(all),
            Event::End(_) => depth -= 1,
            Event::Text(text) => all.push_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows: &str) -> Result<Rows, Fault> {
        table(&mut Xml::new(&format!("{rows}</table:table>")))
    }

    #[test]
    fn values_texts_and_what_is_repeated() {
        let rows = read(
            "<table:table-column/><table:table-row table:number-rows-repeated='3'><table:table-cell \
             table:number-columns-repeated='9'/></table:table-row><table:table-header-rows><table:table-row \
             table:number-rows-repeated='2'><table:table-cell/><table:table-cell table:number-columns-repeated='2' \
             office:value-type='float' office:value='2.50'><text:p>2,5</text:p></table:table-cell></table:table-row>\
             </table:table-header-rows><table:table-row><table:covered-table-cell office:value-type='string'>\
             <office:annotation><text:p>no</text:p></office:annotation><text:p>a<text:s text:c='2'/>b</text:p><text:p>c</text:p>\
             </table:covered-table-cell></table:table-row><table:table-row table:number-rows-repeated='1048576'>\
             <table:table-cell table:number-columns-repeated='16384'/></table:table-row>",
        );
        let number = ["", "2.5", "2.5"].map(String::from).to_vec();
        let want = [(4, number.clone()), (5, number), (6, vec!["a  b\nc".into()])];
        assert_eq!(rows.unwrap(), want);
        let cell = "<table:table-cell office:value-type='string' office:string-value='x'";
        for many in ["columns-repeated='5000'/></table:table-row>", "columns-repeated='4000'/></table:table-row>"] {
            let row = format!("<table:table-row table:number-rows-repeated='99999999999'>{cell} table:number-{many}");
            assert!(matches!(read(&row), Err(Fault::TooLarge)), "{many}");
        }
        for bad in [
            "<table:table-row table:number-rows-repeated='-1'/>",
            "<table:table-row><table:table-cell office:value='x'/>",
        ] {
            assert!(matches!(read(bad), Err(Fault::Damaged(_))), "{bad}");
        }
    }
}
