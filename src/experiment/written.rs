//! Settings as people write them in a TOML file: read by their names, every mistake with its line and the nearest right word.

use crate::error::{Error, Result, line};
use serde::de::{Deserialize, Deserializer, Visitor, value};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// A file of settings.
pub struct Written<'a> {
    pub path: &'a Path,
    pub text: &'a str,
    /// What of the file it is about, in messages.
    pub within: Option<String>,
}

impl<'a> Written<'a> {
    /// Its tables and values, and where they stand.
    pub fn parse(&self) -> Result<DeTable<'a>> {
        let table = DeTable::parse(self.text).map_err(|e| self.wrong(e.span(), e.message()))?;
        Ok(table.into_inner())
    }

    /// What is wrong at a place of the text.
    pub fn wrong(&self, at: Option<Range<usize>>, problem: impl Into<String>) -> Error {
        let line = at.map_or(1, |at| self.text[..at.start].matches('\n').count() + 1);
        let within = self.within.as_ref().map_or(String::new(), |what| format!(", {what}"));
        Error::file(self.path, problem).at(format!("line {line}{within}"))
    }

    /// A value that must be a table.
    pub fn table(&self, value: Spanned<DeValue<'a>>) -> Result<DeTable<'a>> {
        let at = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Ok(table),
            _ => Err(self.wrong(Some(at), "this is no table of settings").fix("begin one with [train] or [[model]]")),
        }
    }

    /// A table that has nothing but the fields of a struct.
    pub fn read<T: Deserialize<'a>>(&self, mut table: DeTable<'a>) -> Result<T> {
        self.known(&table, fields::<T>())?;
        self.part(&mut table)
    }

    /// The fields of a struct, taken out of a table that may have others.
    pub fn part<T: Deserialize<'a>>(&self, table: &mut DeTable<'a>) -> Result<T> {
        let own: DeTable = fields::<T>().iter().filter_map(|f| table.remove_entry(*f)).collect();
        let own = Spanned::new(0..0, DeValue::Table(own));
        T::deserialize(ValueDeserializer::from(own))
            .map_err(|e| self.wrong(e.span(), e.message()).fix("`deep-affect study init` writes an example"))
    }

    /// Refuses a name that is none of these.
    pub fn known(&self, table: &DeTable, names: &[&str]) -> Result<()> {
        let Some((key, _)) = table.iter().find(|(key, _)| !names.contains(&&**key.get_ref())) else { return Ok(()) };
        let e = self.wrong(Some(key.span()), format!("unknown setting `{}`", line(key.get_ref())));
        Err(match nearest(key.get_ref(), names) {
            Some(name) => e.fix(format!("did you mean `{name}`?")),
            None => e.fix(format!("there are {}", names.join(", "))),
        })
    }
}

/// Names of a struct's fields as they are written.
pub fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    /// Asks a struct what it wants, and has nothing to give.
    struct Asked<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
            Err(serde::de::Error::custom("no struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, value::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
            seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    let _ = T::deserialize(Asked(&mut names));
    names
}

/// The name that a word is a slip of: at most every third letter is another, lacks or is too many.
fn nearest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    /// No name is as long; whoever wrote this meant no name.
    const LONG: usize = 40;
    if word.len() > LONG {
        return None;
    }
    let near = names.iter().map(|name| (distance(word, name), *name)).min()?;
    (near.0 <= word.chars().count().div_ceil(3)).then_some(near.1)
}

/// Letters that are replaced, left out or added between two words (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::config::Training;

    #[test]
    fn a_slip_finds_its_word() {
        assert_eq!([distance("", "ab"), distance("kitten", "sitting"), distance("lr", "lr")], [2, 3, 0]);
        let names = fields::<Training>();
        assert!(["lr", "weight-decay", "checkpoint-every"].iter().all(|n| names.contains(n)), "{names:?}");
        assert_eq!(nearest("epoch", names), Some("epochs"));
        assert_eq!(nearest("weigth_decay", names), Some("weight-decay"));
        assert_eq!(nearest("colour", names), None);
    }
}
