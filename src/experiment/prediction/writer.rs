//! Turns answers into text.

use crate::error::clean;
use crate::experiment::ensemble::{AnswerCell, LoadedModels, Models, PictureAnswer};
use crate::table::number;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerFormat {
    /// For people.
    Table,
    /// One row a picture, under a header.
    Csv,
    /// One JSON object a line, written as each picture is done.
    Jsonl,
    /// One JSON array of the same objects, complete when the last picture is done.
    Json,
}

/// The answer about one input.
pub struct Answer {
    pub path: String,
    /// What is seen, or why nothing is.
    pub seen: Result<PictureAnswer, String>,
    pub note: Option<String>,
}

/// Fields of csv, jsonl and json, in this order and in every row: `path`, one `<target>_1to9` a target, what was asked for
/// beside ratings ([`LoadedModels::fields`]), `error`, `note`, `model`; what is missing is empty in csv and null in jsonl.
pub struct AnswerWriter<'a> {
    format: AnswerFormat,
    models: &'a Models,
    further: Vec<String>,
}

/// Columns of the table before the path.
const WIDTH: usize = 9;

impl<'a> AnswerWriter<'a> {
    pub fn new(format: AnswerFormat, loaded: &LoadedModels<'a>) -> Self {
        Self { format, models: loaded.models, further: loaded.fields() }
    }

    pub fn fields(&self) -> Vec<String> {
        let targets = self.models.targets.iter().map(|t| format!("{t}_1to9"));
        let rest = ["error", "note", "model"].map(String::from);
        std::iter::once("path".to_string()).chain(targets).chain(self.further.iter().cloned()).chain(rest).collect()
    }

    pub fn header(&self) -> String {
        match self.format {
            AnswerFormat::Jsonl => String::new(),
            AnswerFormat::Json => "[\n".into(),
            AnswerFormat::Csv => line(&self.fields()),
            AnswerFormat::Table => {
                let cell = |t: &String| format!("{t:>w$}  ", w = WIDTH.max(t.chars().count()));
                let targets: String = self.models.targets.iter().map(cell).collect();
                format!("{targets}picture  (scale 1 to 9; {})\n", clean(&self.models.name))
            }
        }
    }

    /// What comes after the last row.
    pub fn footer(&self) -> &'static str {
        if self.format == AnswerFormat::Json { "\n]\n" } else { "" }
    }

    pub fn row(&self, a: &Answer, first: bool) -> String {
        let seen = a.seen.as_ref().ok();
        let rating = |t: usize| seen.map(|s| s.ratings[t]);
        let further = |i: usize| seen.map(|s| &s.cells[i]);
        let (targets, more) = (0..self.models.targets.len(), 0..self.further.len());
        let name = &self.models.name;
        match self.format {
            AnswerFormat::Csv => {
                let mut cells = vec![a.path.clone()];
                cells.extend(targets.map(|t| rating(t).map_or(String::new(), |v| v.to_string())));
                cells.extend(more.map(|i| match further(i) {
                    Some(AnswerCell::Number(x)) => x.to_string(),
                    Some(AnswerCell::Index(i)) => i.to_string(),
                    Some(AnswerCell::Text(text)) => text.clone().unwrap_or_default(),
                    None => String::new(),
                }));
                cells.push(a.seen.as_ref().err().cloned().unwrap_or_default());
                cells.extend([a.note.clone().unwrap_or_default(), name.clone()]);
                line(&cells)
            }
            AnswerFormat::Jsonl | AnswerFormat::Json => {
                let mut values = vec![json(&a.path)];
                // As float32: through float64 they would show digits that they do not have.
                values.extend(targets.map(|t| json(&rating(t))));
                values.extend(more.map(|i| match further(i) {
                    Some(AnswerCell::Number(x)) => json(x),
                    Some(AnswerCell::Index(i)) => json(i),
                    Some(AnswerCell::Text(text)) => json(text),
                    None => json(&()),
                }));
                values.extend([json(&a.seen.as_ref().err()), json(&a.note), json(name)]);
                let pairs = self.fields().into_iter().zip(values).map(|(k, v)| format!("{}:{v}", json(&k)));
                let object = format!("{{{}}}", pairs.collect::<Vec<_>>().join(","));
                match (self.format, first) {
                    (AnswerFormat::Json, true) => object,
                    (AnswerFormat::Json, false) => format!(",\n{object}"),
                    _ => format!("{object}\n"),
                }
            }
            AnswerFormat::Table => {
                let cell = |t: usize| {
                    let w = WIDTH.max(self.models.targets[t].chars().count());
                    format!("{:>w$}  ", number(rating(t).map(f64::from), 2))
                };
                let cells: String = targets.map(cell).collect();
                let why = a.seen.as_ref().err().or(a.note.as_ref());
                let why = why.map_or(String::new(), |w| format!("  ({w})"));
                let indent = cells.chars().count();
                let under = seen.into_iter().flat_map(|s| &s.lines).map(|l| format!("{:indent$}{l}\n", ""));
                format!("{cells}{}\n{}", clean(&format!("{}{why}", a.path)), under.collect::<String>())
            }
        }
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("texts and finite numbers")
}

/// One line of CSV.
fn line(cells: &[String]) -> String {
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record(cells).expect("memory does not fail");
    let bytes = csv.into_inner().expect("memory does not fail");
    String::from_utf8(bytes).expect("text in, text out")
}
