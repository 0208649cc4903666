/*! Delimited text to records. Strict about quotes, because a quote that is never closed makes one record of many lines, and
every picture in them gets somebody else's rating or none: a text that begins with a quote ends with one, and behind that
comes a delimiter or the end of the line. */

/// What delimits fields, and what text with delimiters stands in.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    pub delimiter: u8,
    pub quote: u8,
}

/// The one of semicolon, tab and comma that is most frequent in the line; of equals the comma before the tab.
pub fn delimiter_of(line: &str) -> u8 {
    let count = |d: u8| line.bytes().filter(|&b| b == d).count();
    [b';', b'\t', b','].into_iter().max_by_key(|&d| count(d)).unwrap_or(b',')
}

/// The line that a record begins on (the first is 1), and its fields.
pub type Record = (u64, Vec<String>);

/// Why the text is refused: the line of the quote, and what is wrong with it.
pub type Stray = (u64, String);

/// All records of `text`, whose lines end in `\n`; empty lines are none. A quote within a quoted text is doubled, or has a
/// backslash before it as R writes it.
pub fn records(text: &str, dialect: Dialect) -> Result<Vec<Record>, Stray> {
    let (mut all, mut at, mut line): (Vec<Record>, usize, u64) = (Vec::new(), 0, 1);
    while at < text.len() {
        let (start, first) = (at, line);
        let mut fields = Vec::new();
        loop {
            let (field, end) = field(text, at, dialect).map_err(|e| (line, e))?;
            line += text[at..end].matches('\n').count() as u64;
            fields.push(field);
            at = end + 1;
            if text.as_bytes().get(end) != Some(&dialect.delimiter) {
                break;
            }
        }
        let whole = &text[start..(at - 1).min(text.len())];
        if let (Some(header), true) = (all.first(), line > first)
            && let Some(row) = rows_within(whole, header.1.len(), dialect)
        {
            let problem = format!("a quote that begins here takes in line {}, a row by itself", first + row);
            return Err((first, problem));
        }
        line += 1;
        if !whole.is_empty() {
            all.push((first, fields));
        }
    }
    Ok(all)
}

/// The field that begins at `at`, and where the delimiter or the end of the line behind it is.
fn field(text: &str, at: usize, Dialect { delimiter, quote }: Dialect) -> Result<(String, usize), String> {
    let bytes = text.as_bytes();
    let ends = |i: usize| bytes.get(i).is_none_or(|b| *b == delimiter || *b == b'\n');
    if bytes.get(at) != Some(&quote) {
        let end = (at..).find(|&i| ends(i)).unwrap_or(bytes.len());
        return Ok((text[at..end].into(), end));
    }
    let (mut field, mut from, mut i) = (String::new(), at + 1, at + 1);
    loop {
        i += bytes.get(i..).and_then(|b| b.iter().position(|b| *b == quote)).ok_or("a quote is never closed")?;
        // Spaces may stand between the closing quote and the delimiter.
        let spaces = bytes[i + 1..].iter().take_while(|b| **b == b' ' && delimiter != b' ').count();
        match bytes.get(i + 1) {
            // Behind a backslash and before the end, the second one closes: `"so \"he\" said \"it\""`.
            Some(next) if *next == quote && !(bytes[i - 1] == b'\\' && ends(i + 2)) => {
                field.push_str(&text[from..=i]);
                i += 2;
            }
            _ if ends(i + 1 + spaces) => {
                field.push_str(&text[from..i]);
                return Ok((field, i + 1 + spaces));
            }
            _ if bytes[i - 1] == b'\\' && i > from => {
                field.push_str(&text[from..i - 1]);
                field.push(char::from(quote));
                i += 1;
            }
            _ => return Err("a quote is not closed before the next one".into()),
        }
        from = i;
    }
}

/// Which line of a record of several (0 is its first) is a row of `width` fields by itself: one between the others, or the
/// last where the first is one as well. A row has a number in it; lines of prose that have as many delimiters seldom do.
fn rows_within(record: &str, width: usize, dialect: Dialect) -> Option<u64> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(char::from(dialect.delimiter)).collect();
        fields.len() == width && fields.iter().any(|f| f.trim().replace(',', ".").parse::<f64>().is_ok())
    };
    let lines: Vec<bool> = record.lines().map(row).collect();
    let (first, rest) = lines.split_first()?;
    let (last, inner) = rest.split_last()?;
    let within = inner.iter().position(|row| *row).map(|i| i as u64 + 1);
    within.or((*first && *last).then_some(lines.len() as u64 - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMA: Dialect = Dialect { delimiter: b',', quote: b'"' };

    fn all(text: &str) -> Vec<(u64, String)> {
        records(text, COMMA).unwrap().into_iter().map(|(line, fields)| (line, fields.join("|"))).collect()
    }

    #[test]
    fn quotes_and_lines() {
        let text = "a,b,c\n\n1,\"x, \"\"y\"\"\nz\" ,3\n,\"\",5\" disk\n\"he \\\"said\\\" so\",\"C:\\\",é\n";
        let want = [(1, "a|b|c"), (3, "1|x, \"y\"\nz|3"), (5, "||5\" disk"), (6, "he \"said\" so|C:\\|é")];
        assert_eq!(all(text), want.map(|(line, text)| (line, text.to_string())));
        assert_eq!(all("a,b"), [(1, "a|b".into())]);
        assert_eq!(all("a,\n"), [(1, "a|".into())]);
        assert_eq!(all("a\n\"b\""), [(1, "a".into()), (2, "b".into())]);
        assert!(all("").is_empty() && all("\n\n").is_empty());
    }

    #[test]
    fn a_quote_that_is_not_closed_is_named_by_its_line() {
        for (text, line, problem) in [
            // Never, by the next quote of another row, and by one that happens to stand before a delimiter.
            ("f,t,v\na,\"x,1\nb,y,2\n", 2, "never closed"),
            ("f,t,v\na,x,1\nb,\"x,1\nc,y,2\nd,\"z,3\n", 3, "not closed before the next"),
            ("f,t,v\na,\"x,1\nb,y,2\nc,z\",3\n", 2, "takes in line 3, a row by itself"),
            ("f,t,v\na,\"x,1\nb,z\",3\n", 2, "takes in line 3, a row by itself"),
            ("f,t,v\na,\"x\"y,1\n", 2, "not closed before the next"),
        ] {
            let (at, why) = records(text, COMMA).unwrap_err();
            assert!(at == line && why.contains(problem), "{text:?}: {at}: {why}");
        }
    }

    #[test]
    fn a_backslash_may_stand_before_a_quote() {
        assert_eq!(all("\"\\\"it\\\"\",2\n"), [(1, "\"it\"|2".into())]);
    }

    #[test]
    fn prose_of_several_lines_is_no_row() {
        for text in ["f,t,v\na,\"one, two, three\nfour, five, six\nseven\",1\n", "f,t\na,\"1, 2\nb\"\n"] {
            assert_eq!(records(text, COMMA).unwrap().len(), 2, "{text:?}");
        }
    }
}
