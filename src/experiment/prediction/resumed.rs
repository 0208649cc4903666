/*! An answer that a kill does not undo. Rows go to `FILE.part`, and the file has its own name when all are there. `FILE.json`
says how the rows are made, and at the end how many there are. Who comes back keeps the rows that are whole, finds the same
pictures before them, and goes on behind: every picture has one row, and the file has the bytes of a run that was never stopped. */

use super::inputs::{Input, Items};
use super::writer::AnswerFormat;
use super::{Failures, failed_too};
use crate::atomic;
use crate::error::{Error, Result, option};
use crate::files;
use crate::hash;
use crate::report::folder::{Claim, claim_file};
use crate::train::checkpoint::differing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Everything that decides the rows of a file, by what people call it.
pub(super) type Basis = BTreeMap<String, String>;

/// The file beside an answer.
#[derive(Default, Serialize, Deserialize)]
struct Record {
    made_of: Basis,
    /// None until all are there.
    rows: Option<usize>,
    unusable: usize,
    /// Path and reason.
    first_unusable: Option<(String, String)>,
}

/// What was found where an answer is to go.
pub(super) enum Found {
    /// All of it: its rows, and those without an answer.
    Complete(usize, Failures),
    Begun(Box<Part>),
}

/// An answer that is being written.
pub(super) struct Part {
    out: PathBuf,
    part: PathBuf,
    record: PathBuf,
    made_of: Basis,
    file: File,
    /// Of the pictures that have a row: [`hash::checksum`] of the name.
    done: Vec<u64>,
    pub failed: Failures,
    _claim: Claim,
}

/// Cells that every row has, by which one that was cut off is told from one that is whole.
pub(super) struct Columns<'a> {
    pub format: AnswerFormat,
    pub names: &'a [String],
    /// The last cell.
    pub model: &'a str,
}

impl Part {
    /// Looks at what is there, and cuts off a row that is not whole.
    ///
    /// # Errors
    /// Another process writes it; it was made otherwise; nothing says how it was made.
    pub fn open(out: &Path, made_of: Basis, columns: &Columns) -> Result<Found> {
        let beside = |ending: &str| {
            let mut name = out.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let claim = claim_file(out)?;
        let (part, record) = (beside(".part"), beside(".json"));
        let another = format!("name another file in {}, or remove it", option("out"));
        if let Some(there) = [out, &part].into_iter().find(|p| p.exists() && !record.exists()) {
            let problem = format!("is there already, and no {} says how it was made", record.display());
            return Err(Error::file(there, problem).fix(another));
        }
        if record.exists() {
            let text = files::text(&record, files::PAGE).map_err(|e| Error::io(&record, "read", e))?;
            let old: Record = serde_json::from_str(&text).map_err(|e| {
                Error::file(&record, format!("is damaged: {e}")).fix("remove it and the file that it is about")
            })?;
            let what = differing(&old.made_of, &made_of);
            if !what.is_empty() {
                return Err(Error::file(out, format!("was begun with other {}", what.join(", "))).fix(another));
            }
            if let (true, Some(rows)) = (out.exists(), old.rows) {
                let first = old.first_unusable.map(|(path, why)| (old.unusable, Error::file(path, why)));
                return Ok(Found::Complete(rows, first));
            }
        }
        let io = |e| Error::io(&part, "open", e);
        let file = files::to_lock(&part).map_err(io)?;
        let (mut done, mut failed) = (vec![], None);
        let end = rows(&part, columns, &mut |path, why| {
            done.push(hash::checksum(path.as_bytes()));
            if !why.is_empty() {
                failed_too(&mut failed, Error::file(path, why));
            }
        })?;
        file.set_len(end).map_err(io)?;
        let part = Self { out: out.into(), part, record, made_of, file, done, failed, _claim: claim };
        part.say(None)?;
        Ok(Found::Begun(Box::new(part)))
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.done.len()
    }

    /// Whether not even a header is there.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.file.metadata().map_err(|e| Error::io(&self.part, "read", e))?.len() == 0)
    }

    /// The pictures behind those that have a row, which must be the first.
    pub fn rest(&mut self, items: Items) -> Items {
        let done = std::mem::take(&mut self.done).into_iter();
        Box::new(Rest { items, done, row: 0, part: self.part.clone() })
    }

    pub fn write(&mut self, text: &str) -> Result<()> {
        self.file.write_all(text.as_bytes()).map_err(|e| Error::io(&self.part, "write", e))
    }

    /// Gives the file its name.
    pub fn finish(self, rows: usize, failed: &Failures) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.part, "write", e))?;
        self.say(Some((rows, failed)))?;
        std::fs::rename(&self.part, &self.out).map_err(|e| Error::io(&self.out, "write", e))
    }

    fn say(&self, ended: Option<(usize, &Failures)>) -> Result<()> {
        let mut record = Record { made_of: self.made_of.clone(), ..Record::default() };
        if let Some((rows, failed)) = ended {
            record.rows = Some(rows);
            record.unusable = failed.as_ref().map_or(0, |f| f.0);
            let path = |e: &Error| e.path().unwrap_or_default().to_string();
            record.first_unusable = failed.as_ref().map(|f| (path(&f.1), f.1.problem()));
        }
        let json = serde_json::to_string_pretty(&record).expect("plain data") + "\n";
        atomic::write(&self.record, |w| w.write_all(json.as_bytes()))
    }
}

/// Tells path and error of each whole row, and returns how many bytes they take, with their header.
fn rows(part: &Path, columns: &Columns, each: &mut dyn FnMut(&str, &str)) -> Result<u64> {
    let failed = |e| Error::io(part, "read", e);
    let file = files::open(part).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut from = BufReader::new(file);
    let mut end = 0;
    if columns.format == AnswerFormat::Jsonl {
        let mut text = vec![];
        while from.read_until(b'\n', &mut text).map_err(failed)? > 0 {
            let row = serde_json::from_slice::<serde_json::Value>(&text).ok().filter(|_| text.ends_with(b"\n"));
            let Some(path) = row.as_ref().and_then(|r| r["path"].as_str()) else { break };
            each(path, row.as_ref().and_then(|r| r["error"].as_str()).unwrap_or_default());
            end += text.len() as u64;
            text.clear();
        }
        return Ok(end);
    }
    let last_ends = ends_a_line(part).map_err(failed)?;
    let mut from = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(from);
    let (mut row, n) = (csv::StringRecord::new(), columns.names.len());
    let error = columns.names.iter().position(|c| c == "error").expect("every row has one");
    while from.read_record(&mut row).unwrap_or(false) {
        let (head, at) = (end == 0, from.position().byte());
        let whole = match head {
            true => row.iter().eq(columns.names.iter().map(String::as_str)),
            false => row.len() == n && row.get(n - 1) == Some(columns.model),
        };
        if !whole || at == bytes && !last_ends {
            break;
        }
        if !head {
            each(&row[0], &row[error]);
        }
        end = at;
    }
    Ok(end)
}

/// Whether the last byte of a file is the end of a line.
fn ends_a_line(path: &Path) -> std::io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    let (mut file, mut last) = (files::open(path)?, [0]);
    let some = file.seek(SeekFrom::End(-1)).is_ok();
    Ok(some && file.read(&mut last)? == 1 && last == *b"\n")
}

/// What comes behind the pictures that have a row.
struct Rest {
    items: Items,
    done: std::vec::IntoIter<u64>,
    row: usize,
    part: PathBuf,
}

impl Iterator for Rest {
    type Item = Result<Input>;

    fn next(&mut self) -> Option<Self::Item> {
        for done in self.done.by_ref() {
            self.row += 1;
            let problem = match self.items.next() {
                Some(Ok(input)) if hash::checksum(input.name().as_bytes()) == done => continue,
                Some(Ok(input)) => format!("row {} is not of {}, which comes there now", self.row, input.name()),
                Some(Err(e)) => return Some(Err(e)),
                None => format!("has more rows than there are pictures now, which are {}", self.row - 1),
            };
            let begun = Error::file(&self.part, problem).fix("put the pictures back, or remove it to begin again");
            return Some(Err(begun));
        }
        self.items.next()
    }
}
