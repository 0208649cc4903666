//! A table of one row a picture, by a description of its columns.

use super::Scale;
use super::records::{Record, Records, onto_nine, shown, spread_onto_nine};
use crate::data::manifest::TARGETS;
use crate::data::table::{Table, missing};
use crate::error::{Error, Result};

/// What a column is called in the copies that go round; the first that the table has is taken.
pub type Names<'a> = &'a [&'a str];

/// The columns of one rated quantity.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rated<'a> {
    pub mean: Names<'a>,
    /// Standard deviation of the raters, and how many they were: kept where the table has them.
    pub sd: Names<'a>,
    pub n: Names<'a>,
}

/// Which rows stay together.
#[derive(Clone, Copy, Debug, Default)]
pub enum Group<'a> {
    #[default]
    None,
    Column(&'a str),
    /// A column without the number at its end: `Beach 1`, `Beach 2` → `Beach`.
    Theme(&'a str),
}

/// A further column that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    pub from: Names<'a>,
    /// Its name in the manifest.
    pub to: &'a str,
    /// What is written for another text.
    pub renamed: &'a [(&'a str, &'a str)],
    /// A table without it is the wrong table.
    pub needed: bool,
}

impl<'a> Keep<'a> {
    /// Kept as it is, where the table has it.
    pub const fn new(to: &'a str, from: Names<'a>) -> Self {
        Self { from, to, renamed: &[], needed: false }
    }
}

/// The columns.
#[derive(Clone, Copy, Debug)]
pub struct Sheet<'a> {
    /// Names the picture: a path, a file name, or an id that is a file name without its ending.
    pub key: Names<'a>,
    /// No names: not rated.
    pub valence: Rated<'a>,
    pub arousal: Rated<'a>,
    pub dominance: Rated<'a>,
    pub group: Group<'a>,
    pub keep: &'a [Keep<'a>],
}

impl<'a> Sheet<'a> {
    /// A key, and nothing else.
    pub const fn key(key: Names<'a>) -> Self {
        const NONE: Rated<'static> = Rated { mean: &[], sd: &[], n: &[] };
        Sheet { key, valence: NONE, arousal: NONE, dominance: NONE, group: Group::None, keep: &[] }
    }

    /// What a header must have.
    pub fn needs(&self) -> Vec<Names<'a>> {
        let mut all = vec![self.key, self.valence.mean, self.arousal.mean, self.dominance.mean];
        all.extend(self.keep.iter().filter(|k| k.needed).map(|k| k.from));
        // A position says nothing of a header.
        all.retain(|names| !names.is_empty() && !names.iter().any(|n| n.starts_with('#')));
        all
    }

    /// What is rated, by the name that the manifest has for it.
    pub fn rated(&self) -> [(&'static str, Rated<'a>); 3] {
        let [valence, arousal] = TARGETS;
        [(valence, self.valence), (arousal, self.arousal), ("dominance", self.dominance)]
    }

    /// The rows that have what they need. `scales` are those of [`Sheet::rated`]. Ratings are read before pictures are
    /// looked for: a wrong scale must stop the import wherever it shows, with or without the pictures.
    pub fn read(&self, table: &Table, scales: [Scale; 3]) -> Result<Records> {
        let key = table.any(self.key)?;
        let mut out = Records { file: table.path.clone(), ..Records::default() };
        let (mut means, mut spreads, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for ((name, rated), scale) in self.rated().into_iter().zip(scales) {
            if rated.mean.is_empty() {
                continue;
            }
            out.targets.push(name.into());
            means.push((table.any(rated.mean)?, scale));
            spreads.extend(table.any(rated.sd).ok().map(|column| (column, scale, format!("{name}_sd"))));
            texts.extend(table.any(rated.n).ok().map(|column| (column, format!("{name}_n"), &[][..])));
        }
        for keep in self.keep {
            match table.any(keep.from) {
                Ok(column) => texts.push((column, keep.to.into(), keep.renamed)),
                Err(e) if keep.needed => return Err(e),
                Err(_) => {}
            }
        }
        let group = match self.group {
            Group::None => None,
            Group::Column(name) | Group::Theme(name) => Some(table.column(name)?),
        };
        out.extras = spreads.iter().map(|s| s.2.clone()).chain(texts.iter().map(|t| t.1.clone())).collect();
        for (line, fields) in &table.rows {
            let text = |column: usize| Some(fields[column].trim().to_string()).filter(|t| !t.is_empty());
            let mut row = Record { place: format!("line {line}"), key: fields[key].clone(), ..Record::default() };
            let mut missing = None;
            for &(column, scale) in &means {
                match rating(table, *line, &fields[column], column, scale)? {
                    Some(value) => row.ratings.push(value),
                    None => missing = Some(format!("no rating in column {}", name(table, column))),
                }
            }
            if let Some(reason) = missing {
                out.dropped.push((format!("{} `{}`", row.place, row.key.trim()), reason));
                continue;
            }
            row.group = group.and_then(text).map(|g| match self.group {
                Group::Theme(_) => theme(&g).to_string(),
                _ => g,
            });
            let spread =
                |column: usize, scale| table.number(&fields[column]).map(|v| shown(spread_onto_nine(v, scale)));
            row.extras = spreads.iter().map(|&(column, scale, _)| spread(column, scale)).collect();
            row.extras.extend(texts.iter().map(|&(column, _, renamed)| {
                let text = text(column)?;
                let other = renamed.iter().find(|(from, _)| from.eq_ignore_ascii_case(&text));
                Some(other.map_or(text, |(_, to)| to.to_string()))
            }));
            out.rows.push(row);
        }
        out.notes.extend(table.note.iter().map(|n| format!("the table {n}")));
        Ok(out)
    }
}

fn name(table: &Table, column: usize) -> String {
    Some(table.header[column].clone()).filter(|h| !h.is_empty()).unwrap_or_else(|| format!("#{}", column + 1))
}

/// A rating on 1-9, None if there is none, or the error that stops the import.
pub fn rating(table: &Table, line: u64, text: &str, column: usize, scale: Scale) -> Result<Option<f64>> {
    let text = text.trim();
    if missing(text) {
        return Ok(None);
    }
    let (lo, hi) = scale;
    let (problem, remedy) = match table.number(text) {
        Some(value) if (lo..=hi).contains(&value) => return Ok(Some(onto_nine(value, scale))),
        Some(_) => (format!("`{text}` is outside the scale {lo}:{hi}"), "declare the scale the ratings were given on"),
        None => (format!("`{text}` is not a number"), "check the column and the delimiter"),
    };
    Err(Error::file(&table.path, problem).at(format!("line {line}, column {}", name(table, column))).fix(remedy))
}

/// `Beach 12 ` → `Beach`.
fn theme(text: &str) -> &str {
    let bare = text.trim().trim_end_matches(|c: char| c.is_ascii_digit()).trim_end();
    if bare.is_empty() { text.trim() } else { bare }
}
