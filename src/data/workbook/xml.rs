/*! XML as far as workbooks need it: elements, attributes, text and the five entities, of a document that is whole in
memory. Names keep their prefix. A document type definition, which no workbook has, is refused, and its entities with it. */

use super::Fault;
use std::borrow::Cow;

/// A place in a document, from which elements and text are read one after the other.
#[derive(Clone)]
pub struct Xml<'a> {
    text: &'a str,
    /// The name of an element that was closed where it was opened.
    closed: Option<&'a str>,
}

pub enum Event<'a> {
    Start(Tag<'a>),
    End(&'a str),
    Text(Cow<'a, str>),
}

#[derive(Clone, Copy)]
pub struct Tag<'a> {
    pub name: &'a str,
    attributes: &'a str,
}

impl<'a> Xml<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text: text.trim_start_matches('\u{feff}'), closed: None }
    }

    /// Bytes that were not read yet.
    pub fn left(&self) -> usize {
        self.text.len()
    }

    /// None at the end of the document.
    pub fn next(&mut self) -> Result<Option<Event<'a>>, Fault> {
        if let Some(name) = self.closed.take() {
            return Ok(Some(Event::End(name)));
        }
        loop {
            let Some(rest) = self.text.strip_prefix('<') else {
                if self.text.is_empty() {
                    return Ok(None);
                }
                let (text, rest) = self.text.split_at(self.text.find('<').unwrap_or(self.text.len()));
                self.text = rest;
                return Ok(Some(Event::Text(unescaped(text)?)));
            };
            let to = |end: &str| rest.split_once(end).ok_or_else(|| Fault::of("its XML ends within a mark"));
            if rest.starts_with("!--") {
                self.text = to("-->")?.1;
            } else if rest.starts_with('?') {
                self.text = to("?>")?.1;
            } else if let Some(data) = rest.strip_prefix("![CDATA[") {
                let (text, rest) = data.split_once("]]>").ok_or_else(|| Fault::of("its XML ends within a text"))?;
                self.text = rest;
                return Ok(Some(Event::Text(text.into())));
            } else if rest.starts_with('!') {
                return Err(Fault::of("its XML has a document type of its own"));
            } else if let Some(name) = rest.strip_prefix('/') {
                let (name, rest) = name.split_once('>').ok_or_else(|| Fault::of("its XML ends within a mark"))?;
                self.text = rest;
                return Ok(Some(Event::End(name.trim_ascii_end())));
            } else {
                let end = end_of(rest).ok_or_else(|| Fault::of("its XML ends within a mark"))?;
                let (inner, closed) = match rest[..end].strip_suffix('/') {
                    Some(inner) => (inner, true),
                    None => (&rest[..end], false),
                };
                let (name, attributes) =
                    inner.split_at(inner.find(|c: char| c.is_ascii_whitespace()).unwrap_or(inner.len()));
                self.text = &rest[end + 1..];
                self.closed = closed.then_some(name);
                return Ok(Some(Event::Start(Tag { name, attributes })));
            }
        }
    }

    /// Leaves the element that was just opened, whatever is in it.
    pub fn skip(&mut self) -> Result<(), Fault> {
        self.inside(|_| Ok(()))
    }

    /// Calls `with` on everything within the element that was just opened, up to its end.
    pub fn inside(&mut self, mut with: impl FnMut(&Event<'a>) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut depth = 0usize;
        loop {
            let event = self.next()?.ok_or_else(|| Fault::of("its XML ends within an element"))?;
            match event {
                Event::Start(_) => depth += 1,
                Event::End(_) if depth == 0 => return Ok(()),
                Event::End(_) => depth -= 1,
                Event::Text(_) => {}
            }
            with(&event)?;
        }
    }

    /// The text of the element that was just opened.
    pub fn content(&mut self) -> Result<String, Fault> {
        let mut all = String::new();
        self.inside(|event| {
            if let Event::Text(text) = event {
                all.push_str(text);
            }
            Ok(())
        })?;
        Ok(all)
    }
}

impl<'a> Tag<'a> {
    /// The name without its prefix.
    pub fn local(&self) -> &'a str {
        local(self.name)
    }

    /// The value of an attribute by its name with the prefix, or by `:name` with any.
    pub fn attribute(&self, wanted: &str) -> Result<Option<Cow<'a, str>>, Fault> {
        let mut rest = self.attributes.trim_ascii_start();
        while !rest.is_empty() {
            let damaged = || Fault::of(format!("an attribute of `{}` is damaged", self.name));
            let (name, value) = rest.split_once('=').ok_or_else(damaged)?;
            let value = value.trim_ascii_start();
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or_else(damaged)?;
            let (value, behind) = value[1..].split_once(quote).ok_or_else(damaged)?;
            let name = name.trim_ascii_end();
            if name == wanted || wanted.starts_with(':') && name.ends_with(wanted) {
                return unescaped(value).map(Some);
            }
            rest = behind.trim_ascii_start();
        }
        Ok(None)
    }
}

/// A name without its prefix.
pub fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |n| n.1)
}

/// Where a mark ends: at the first `>` that stands in no value.
fn end_of(mark: &str) -> Option<usize> {
    let mut within = None;
    mark.bytes().position(|b| {
        match within {
            Some(quote) if quote == b => within = None,
            None if b == b'"' || b == b'\'' => within = Some(b),
            None => return b == b'>',
            Some(_) => {}
        }
        false
    })
}

/// Text with its entities replaced, and lines that end as everywhere.
fn unescaped(text: &str) -> Result<Cow<'_, str>, Fault> {
    let mut text = Cow::Borrowed(text);
    if text.contains('\r') {
        text = Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n"));
    }
    if !text.contains('&') {
        return Ok(text);
    }
    let mut pieces = text.split('&');
    let mut out = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let unknown = || Fault::of(format!("its XML has an unknown entity `&{:.20}`", piece.escape_debug()));
        let (name, rest) = piece.split_once(';').ok_or_else(unknown)?;
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let code = match name.strip_prefix("#x").or(name.strip_prefix("#X")) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => name.strip_prefix('#').and_then(|n| n.parse().ok()),
                };
                code.and_then(char::from_u32).ok_or_else(unknown)?
            }
        });
        out.push_str(rest);
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_attributes_and_text() {
        let text = "\u{feff}<?xml version='1.0'?><!-- <x> --><a:b one='1 &gt; 0' r:two = \"a>b\"><c/>x &amp; &#228;&#xe4;\r\n\
                    <![CDATA[<&]]></a:b>";
        let (mut xml, mut seen) = (Xml::new(text), vec![]);
        while let Some(event) = xml.next().unwrap() {
            seen.push(match event {
                Event::Start(tag) => {
                    let [one, two, none] = ["one", ":two", "three"].map(|n| tag.attribute(n).unwrap());
                    format!("<{} {one:?} {two:?} {none:?}", tag.local())
                }
                Event::End(name) => format!("/{name}"),
                Event::Text(text) => text.into_owned(),
            });
        }
        let first = r#"<b Some("1 > 0") Some("a>b") None"#;
        assert_eq!(seen, [first, "<c None None None", "/c", "x & ää\n", "<&", "/a:b"]);
        for damaged in
            ["<a", "<a b='>", "<!DOCTYPE a>", "<a>&what;</a>", "<!-- ", "<![CDATA[", "<a><b>", "</a", "&#x110000;"]
        {
            let mut xml = Xml::new(damaged);
            let all = std::iter::from_fn(|| xml.next().transpose()).collect::<Result<Vec<_>, _>>();
            assert!(all.is_err() || Xml::new(damaged).content().is_err(), "{damaged}");
        }
        assert!(matches!(Xml::new("<a b>").next(), Ok(Some(Event::Start(t))) if t.attribute("b").is_err()));
    }
}
