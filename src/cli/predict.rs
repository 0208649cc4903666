//! `predict`: ratings of pictures, as a table for people or as lines for programs.

mod explain;

use super::output::{self, Reader, clean};
use super::reading::{Model, Reading, batch};
use super::{Bar, Compute, stopped};
use crate::data::decode::MAX_FILE;
use crate::data::{LoadOptions, Pictures, Source, walk};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::table::number;
use crate::train::network::Precision;
use crate::train::predictor::Predictor;
use clap::{Args, ValueEnum};
use explain::Sheet;
use std::io::{IsTerminal, Read, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

#[derive(Args)]
pub struct Command {
    /// Pictures, folders (searched through, in sorted order), or - for one picture on stdin.
    #[arg(required = true, value_name = "FILES")]
    inputs: Vec<PathBuf>,
    /// Checkpoint of `train`; without it the bundled toy model answers.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Form of the answer; a table on a terminal and jsonl elsewhere.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Pictures computed at once: costs memory, changes no rating.
    #[arg(long, default_value = "8", value_parser = batch, value_name = "N")]
    batch: usize,
    /// How numbers are stored between ops: bf16 and fp16 run on tensor cores.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    explain: explain::Flags,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One row a picture, under a header.
    Csv,
    /// One JSON object a line.
    Jsonl,
}

/// Something to be answered.
enum Input {
    Picture(PathBuf),
    /// Found out without decoding: path, reason.
    Bad(String, String),
    Stdin,
}

impl Input {
    fn name(&self) -> String {
        match self {
            Input::Picture(p) => p.display().to_string(),
            Input::Bad(path, _) => path.clone(),
            Input::Stdin => "-".into(),
        }
    }
}

/// The answer about one input.
struct Answer {
    path: String,
    /// Ratings, or why there are none.
    ratings: Result<Vec<f32>, String>,
    note: Option<String>,
}

impl Command {
    pub fn run(self) -> Result<()> {
        self.compute.bind_threads();
        let model = Model::open(self.model.as_deref())?;
        let options = model.load_options(&self.reading, None)?;
        let inputs = list(&self.inputs)?;
        // A batch is computed whole: one picture must not pay for eight.
        let batch = self.batch.min(inputs.len()).max(1);
        let mut predictor = model.predictor(self.precision, batch, &self.compute)?;
        let mut sheet = self.explain.sheet(&model, batch, &self.compute)?;
        if model.toy {
            eprintln!(
                "note: no --model: the bundled toy model answers. It is a toy, trained on emoji drawings: what it says \
                about photographs means nothing."
            );
        }
        let default = if stdout().is_terminal() { Format::Table } else { Format::Jsonl };
        let writer = Writer { format: self.format.unwrap_or(default), targets: model.targets()?, model: &model };
        if output::write(&writer.header())? == Reader::Gone {
            return Ok(());
        }
        let bar = (!stdout().is_terminal() && inputs.len() > batch).then(Bar::new);
        let progress: &dyn Progress = bar.as_ref().map_or(&(), |b| b);
        progress.start("predicting", inputs.len() as u64);
        let failed = answer_all(&inputs, &options, batch, &mut predictor, &mut sheet, &writer, progress);
        progress.done();
        // Also of a run that was stopped: what was explained is shown.
        if let Some(sheet) = sheet {
            sheet.finish()?;
        }
        match failed? {
            None => Ok(()),
            Some((1, first)) => Err(first),
            Some((n, first)) => {
                Err(Error::job(format!("{n} of {} pictures cannot be used, the first is {first}", inputs.len())))
            }
        }
    }
}

/// Answers piece by piece while the next piece is decoded; returns how many inputs failed, and the first.
fn answer_all(
    inputs: &[Input],
    options: &LoadOptions,
    batch: usize,
    predictor: &mut Predictor,
    sheet: &mut Option<Sheet>,
    writer: &Writer,
    progress: &dyn Progress,
) -> Result<Option<(usize, Error)>> {
    let mut failed: Option<(usize, Error)> = None;
    std::thread::scope(|scope| {
        // Two pieces wait at most, so memory does not grow with the folder.
        let (send, receive) = sync_channel(1);
        scope.spawn(move || inputs.chunks(batch).try_for_each(|piece| send.send(decode(piece, options))));
        // Moved in, so that it is dropped, and the decoder stops, however this ends.
        let receive: Receiver<Result<Decoded>> = receive;
        for piece in receive {
            let piece = piece?;
            if let Some(sheet) = sheet {
                sheet.add(&piece)?;
            }
            for a in answer(piece, predictor)? {
                if let Err(why) = &a.ratings {
                    failed = match failed.take() {
                        None => Some((1, Error::file(&a.path, why))),
                        Some((n, first)) => Some((n + 1, first)),
                    };
                }
                if output::write(&writer.row(&a))? == Reader::Gone {
                    failed = None;
                    return Ok(());
                }
                progress.inc();
            }
            if stopped() {
                return Err(Error::interrupted("stopped; the rows above are complete"));
            }
        }
        Ok(())
    })?;
    Ok(failed)
}

/// The pictures to answer about, in the order they were named and sorted inside folders.
fn list(paths: &[PathBuf]) -> Result<Vec<Input>> {
    let mut inputs = vec![];
    for path in paths {
        if path.as_os_str() == "-" {
            if inputs.iter().any(|i| matches!(i, Input::Stdin)) {
                return Err(Error::usage("- is named twice, and stdin can be read once").fix("name it once"));
            }
            inputs.push(Input::Stdin);
        } else if path.is_dir() {
            folder(path, &mut inputs)?;
        } else {
            inputs.push(Input::Picture(path.clone()));
        }
    }
    Ok(inputs)
}

fn folder(dir: &Path, inputs: &mut Vec<Input>) -> Result<()> {
    let found = walk::walk(dir)?;
    let unread = "its format is not read; save it as JPEG or PNG";
    let mut all: Vec<(PathBuf, bool)> = found.files.into_iter().map(|p| (p, true)).collect();
    all.extend(found.unread.into_iter().map(|p| (p, false)));
    all.sort();
    if all.is_empty() {
        inputs.push(Input::Bad(dir.display().to_string(), "no pictures in this folder; name another".into()));
    }
    for (path, read) in all {
        let path = dir.join(path);
        inputs.push(if read { Input::Picture(path) } else { Input::Bad(path.display().to_string(), unread.into()) });
    }
    Ok(())
}

/// A piece of the inputs: for each its name and the index of its square or why there is none; the squares; remarks.
struct Decoded {
    inputs: Vec<(String, Result<usize, String>)>,
    notes: Vec<(usize, String)>,
    pictures: Option<Pictures>,
}

fn decode(piece: &[Input], options: &LoadOptions) -> Result<Decoded> {
    let mut inputs: Vec<(String, Result<usize, String>)> =
        piece.iter().map(|i| (i.name(), Err(String::new()))).collect();
    let mut stdin_bytes = vec![];
    if piece.iter().any(|i| matches!(i, Input::Stdin)) {
        let limited = stdin().lock().take(MAX_FILE + 1).read_to_end(&mut stdin_bytes);
        limited.map_err(|e| Error::io("standard input", "read", e))?;
    }
    // Indices of the inputs that are decoded.
    let (mut sources, mut which) = (vec![], vec![]);
    for (i, input) in piece.iter().enumerate() {
        match input {
            Input::Bad(_, why) => inputs[i].1 = Err(why.clone()),
            Input::Stdin if stdin_bytes.is_empty() => {
                inputs[i].1 = Err("nothing came on stdin; pipe a picture in".into());
            }
            Input::Picture(path) => {
                sources.push(Source::File(path.clone()));
                which.push(i);
            }
            Input::Stdin => {
                sources.push(Source::Memory { name: "-".into(), bytes: &stdin_bytes });
                which.push(i);
            }
        }
    }
    if sources.is_empty() {
        return Ok(Decoded { inputs, notes: vec![], pictures: None });
    }
    let mut loaded = Pictures::load(&sources, options, &())?;
    let notes = std::mem::take(&mut loaded.notes).into_iter().map(|(row, note)| (which[row], note)).collect();
    for bad in std::mem::take(&mut loaded.bad) {
        inputs[which[bad.row]].1 = Err(bad.reason);
    }
    let pictures = loaded.accept(true)?;
    for (square, &row) in pictures.rows().iter().enumerate() {
        inputs[which[row]].1 = Ok(square);
    }
    Ok(Decoded { inputs, notes, pictures: Some(pictures) })
}

fn answer(piece: Decoded, predictor: &mut Predictor) -> Result<Vec<Answer>> {
    let y = match &piece.pictures {
        Some(p) if !p.is_empty() => predictor.predict(p.bytes())?,
        _ => vec![],
    };
    let n = predictor.config.targets.len();
    let one = |(i, (path, square)): (usize, (String, Result<usize, String>))| {
        let notes: Vec<&str> = piece.notes.iter().filter(|x| x.0 == i).map(|x| x.1.as_str()).collect();
        let ratings = square.and_then(|s| {
            let y = &y[s * n..(s + 1) * n];
            let finite = y.iter().all(|v| v.is_finite());
            finite.then(|| y.to_vec()).ok_or_else(|| "the model gives no finite rating; train it again".into())
        });
        Answer { path, ratings, note: (!notes.is_empty()).then(|| notes.join("; ")) }
    };
    Ok(piece.inputs.into_iter().enumerate().map(one).collect())
}

/// Turns answers into text. Fields of csv and jsonl, in this order and in every row: `path`, one `<target>_1to9` a target,
/// `error`, `note`, `model`, `toy`; what is missing is empty in csv and null in jsonl.
struct Writer<'a> {
    format: Format,
    targets: &'a [String],
    model: &'a Model,
}

/// Columns of the table before the path.
const WIDTH: usize = 9;

impl Writer<'_> {
    fn fields(&self) -> Vec<String> {
        let targets = self.targets.iter().map(|t| format!("{t}_1to9"));
        let rest = ["error", "note", "model", "toy"].map(String::from);
        std::iter::once("path".to_string()).chain(targets).chain(rest).collect()
    }

    fn header(&self) -> String {
        match self.format {
            Format::Jsonl => String::new(),
            Format::Csv => line(&self.fields()),
            Format::Table => {
                let targets: String =
                    self.targets.iter().map(|t| format!("{t:>w$}  ", w = WIDTH.max(t.chars().count()))).collect();
                let toy = if self.model.toy { ", a toy" } else { "" };
                format!("{targets}picture  (scale 1 to 9; {}{toy})\n", clean(&self.model.name))
            }
        }
    }

    fn row(&self, a: &Answer) -> String {
        let rating = |t: usize| a.ratings.as_ref().ok().map(|r| r[t]);
        let targets = 0..self.targets.len();
        match self.format {
            Format::Csv => {
                let mut cells = vec![a.path.clone()];
                cells.extend(targets.map(|t| rating(t).map_or(String::new(), |v| v.to_string())));
                cells.push(a.ratings.as_ref().err().cloned().unwrap_or_default());
                cells.extend([a.note.clone().unwrap_or_default(), self.model.name.clone(), self.model.toy.to_string()]);
                line(&cells)
            }
            Format::Jsonl => {
                let mut values = vec![json(&a.path)];
                // As float32: through float64 they would show digits that they do not have.
                values.extend(targets.map(|t| json(&rating(t))));
                values.extend([json(&a.ratings.as_ref().err()), json(&a.note), json(&self.model.name)]);
                values.push(json(&self.model.toy));
                let pairs = self.fields().into_iter().zip(values).map(|(k, v)| format!("{}:{v}", json(&k)));
                format!("{{{}}}\n", pairs.collect::<Vec<_>>().join(","))
            }
            Format::Table => {
                let cell = |t: usize| {
                    let w = WIDTH.max(self.targets[t].chars().count());
                    format!("{:>w$}  ", number(rating(t).map(f64::from), 2))
                };
                let cells: String = targets.map(cell).collect();
                let why = a.ratings.as_ref().err().or(a.note.as_ref());
                let why = why.map_or(String::new(), |w| format!("  ({w})"));
                format!("{cells}{}\n", clean(&format!("{}{why}", a.path)))
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
