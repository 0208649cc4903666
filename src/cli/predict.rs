//! `predict`: ratings of pictures, as a table for people or as lines for programs.

mod explain;
mod models;
mod solved;
mod writer;

pub use solved::wants_tables;

use super::output::{self, Reader};
use super::reading::{self, Reading, batch};
use super::{Bar, Compute, stopped, terminal};
use crate::atomic;
use crate::data::boxes::seen_whole;
use crate::data::decode::MAX_FILE;
use crate::data::{Boxes, LoadOptions, Pictures, Source};
use crate::error::{Error, Result, path_text};
use crate::par;
use crate::progress::Progress;
use crate::train::metrics::{beyond_scale, remark_beyond};
use crate::train::network::Precision;
use clap::Args;
use explain::Sheet;
use models::Loaded;
use std::io::{BufWriter, IsTerminal, Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use writer::{Answer, Format, Writer};

#[derive(Args)]
pub struct Command {
    /// Pictures, folders (searched through, in sorted order), or - for one picture on stdin.
    #[arg(required_unless_present = "tables", value_name = "FILES")]
    inputs: Vec<PathBuf>,
    /// Of a model of `fit`: tables of features (see `features --table`) as `fit` was given them, instead of pictures;
    /// repeatable.
    #[arg(long = "table", value_name = "FILE", conflicts_with = "inputs")]
    tables: Vec<String>,
    #[command(flatten)]
    models: models::ModelsFlags,
    /// Form of the answer. By default that of the ending of --out; a table on a terminal and jsonl elsewhere.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write the answer to this file instead of printing it. The file appears when the answer is complete.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Pictures computed at once: costs memory, changes no rating.
    #[arg(long, default_value = "8", value_parser = batch, value_name = "N")]
    batch: usize,
    /// How numbers are stored between ops and multiplied: all but float32 on tensor cores.
    #[arg(long, value_enum, default_value_t, value_name = "NUMBERS")]
    precision: Precision,
    #[command(flatten)]
    explain: explain::ExplainFlags,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    compute: Compute,
}

/// Something to be answered.
enum Input {
    Picture(Source<'static>),
    /// Found out without decoding: path, reason.
    Bad(String, String),
    Stdin,
}

impl Input {
    fn name(&self) -> String {
        match self {
            Input::Picture(source) => source.name(),
            Input::Bad(path, _) => path.clone(),
            Input::Stdin => "-".into(),
        }
    }

    /// What is to be decoded, but for stdin, which has no box.
    fn source(&self) -> Option<Source<'static>> {
        match self {
            Input::Picture(source) => Some(source.clone()),
            Input::Stdin => Some(Source::File("-".into())),
            Input::Bad(..) => None,
        }
    }
}

impl Command {
    /// What was asked for, or what suits where the answer goes.
    fn format(&self) -> Format {
        let ending = self.out.as_ref().map(|p| p.extension().unwrap_or_default().to_string_lossy().to_lowercase());
        self.format.unwrap_or(match ending.as_deref() {
            Some("json") => Format::Json,
            Some("jsonl" | "ndjson") => Format::Jsonl,
            Some("txt") => Format::Table,
            Some(_) => Format::Csv,
            None if stdout().is_terminal() => Format::Table,
            None => Format::Jsonl,
        })
    }

    pub fn run(self) -> Result<()> {
        self.compute.bind_threads();
        if let Some((path, model)) = self.models.solved()? {
            return solved::run(path, &model, &self.tables, self.format(), self.out.as_deref());
        }
        if !self.tables.is_empty() {
            return Err(Error::usage("--table is for one model of `fit`").fix("name it with --model, or name pictures"));
        }
        let models = self.models.open()?;
        let options = self.reading.load_options(&models.all[0], None)?;
        let boxes = self.reading.boxes(&options.views)?.unwrap_or_default();
        let inputs = list(&self.inputs, &boxes)?;
        let sources: Vec<Source> = inputs.iter().filter_map(Input::source).collect();
        if let Some(remark) = seen_whole(&sources, &options.views) {
            remark!("{remark}");
        }
        // A batch is computed whole: one picture must not pay for eight.
        let batch = self.batch.min(inputs.len()).max(1);
        let mut loaded = models.load(self.precision, batch, &self.compute.clone().into(), &*terminal())?;
        let mut sheet = self.explain.sheet(&models, batch, &self.compute)?;
        let writer = Writer::new(self.format(), &loaded);
        let shown = self.out.is_none() && stdout().is_terminal();
        let bar = (!shown && inputs.len() > batch).then(Bar::new);
        let progress: &dyn Progress = bar.as_ref().map_or(&(), |b| b);
        progress.start("predicting", inputs.len() as u64);
        let mut all = |write: &mut dyn FnMut(&str) -> Result<Reader>| {
            answer_all(&inputs, &options, batch, &mut loaded, &mut sheet, &writer, write, progress)
        };
        let failed = match &self.out {
            None => all(&mut output::write),
            Some(path) => atomic::write_file(path, |file| {
                let mut file = BufWriter::new(file);
                let failed = |e| Error::io(path, "write", e);
                let answered = all(&mut |text| {
                    file.write_all(text.as_bytes()).map_err(failed)?;
                    Ok(Reader::Listens)
                })?;
                file.flush().map_err(failed)?;
                Ok(answered)
            }),
        };
        progress.done();
        // Also of a run that was stopped: what was explained is shown.
        if let Some(sheet) = sheet {
            sheet.finish()?;
        }
        match failed? {
            None => Ok(()),
            Some((1, first)) => Err(first),
            Some((n, first)) => {
                Err(Error::job(format!("{n} of {} pictures cannot be used, the first is {first:#}", inputs.len())))
            }
        }
    }
}

/// Answers piece by piece while the next piece is decoded; returns how many inputs failed, and the first.
#[expect(clippy::too_many_arguments, reason = "the state of one loop, called once")]
fn answer_all(
    inputs: &[Input],
    options: &LoadOptions,
    batch: usize,
    loaded: &mut Loaded,
    sheet: &mut Option<Sheet>,
    writer: &Writer,
    write: &mut dyn FnMut(&str) -> Result<Reader>,
    progress: &dyn Progress,
) -> Result<Option<(usize, Error)>> {
    if write(&writer.header())? == Reader::Gone {
        return Ok(None);
    }
    let (mut failed, mut rows): (Option<(usize, Error)>, usize) = (None, 0);
    let (mut seen, mut beyond) = (0, vec![0; loaded.models.targets.len()]);
    std::thread::scope(|scope| {
        // Two pieces wait at most, so memory does not grow with the folder.
        let (send, receive) = sync_channel(1);
        let work = move || inputs.chunks(batch).try_for_each(|piece| send.send(decode(piece, options)));
        par::beside(scope, work)?;
        // Moved in, so that it is dropped, and the decoder stops, however this ends.
        let receive: Receiver<Result<Decoded>> = receive;
        for piece in receive {
            let piece = piece?;
            if let Some(sheet) = sheet {
                sheet.add(&piece)?;
            }
            for a in answer(piece, loaded)? {
                if let Ok(s) = &a.seen {
                    seen += 1;
                    beyond.iter_mut().zip(&s.ratings).for_each(|(n, y)| *n += beyond_scale(f64::from(*y)) as usize);
                }
                if let Err(why) = &a.seen {
                    failed = match failed.take() {
                        None => Some((1, Error::file(&a.path, why))),
                        Some((n, first)) => Some((n + 1, first)),
                    };
                }
                if write(&writer.row(&a, rows == 0))? == Reader::Gone {
                    failed = None;
                    return Ok(());
                }
                rows += 1;
                progress.inc();
            }
            if stopped() {
                return Err(Error::interrupted("stopped; the rows above are complete"));
            }
        }
        write(writer.footer()).map(drop)
    })?;
    let counts = loaded.models.targets.iter().map(String::as_str).zip(beyond);
    if let Some(remark) = remark_beyond(counts, seen) {
        remark!("warning: {remark}");
    }
    Ok(failed)
}

/// The pictures to answer about, in the order they were named and sorted inside folders.
fn list(paths: &[PathBuf], boxes: &Boxes) -> Result<Vec<Input>> {
    let mut inputs = vec![];
    for path in paths {
        if path.as_os_str() == "-" {
            if inputs.iter().any(|i| matches!(i, Input::Stdin)) {
                return Err(Error::usage("- is named twice, and stdin can be read once").fix("name it once"));
            }
            inputs.push(Input::Stdin);
        } else if path.is_dir() {
            folder(path, boxes, &mut inputs)?;
        } else {
            inputs.push(Input::Picture(boxes.source(path.clone())));
        }
    }
    Ok(inputs)
}

fn folder(dir: &Path, boxes: &Boxes, inputs: &mut Vec<Input>) -> Result<()> {
    let all = reading::folder(dir)?;
    if all.is_empty() {
        inputs.push(Input::Bad(path_text(dir), "no pictures in this folder; name another".into()));
    }
    inputs.extend(all.into_iter().map(|path| Input::Picture(boxes.source(dir.join(path)))));
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
            Input::Picture(source) => {
                sources.push(source.clone());
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

fn answer(piece: Decoded, loaded: &mut Loaded) -> Result<Vec<Answer>> {
    let seen = match &piece.pictures {
        Some(p) if !p.is_empty() => loaded.answer(p.bytes())?,
        _ => vec![],
    };
    let targets = &loaded.models.targets;
    // Squares are in the order of the inputs that have one.
    let mut seen = seen.into_iter();
    let one = |(i, (path, square)): (usize, (String, Result<usize, String>))| {
        let mut notes: Vec<String> = piece.notes.iter().filter(|x| x.0 == i).map(|x| x.1.clone()).collect();
        let seen = square.and_then(|_| {
            let seen = seen.next().expect("one answer a square");
            let finite = seen.ratings.iter().all(|v| v.is_finite());
            finite.then_some(seen).ok_or_else(|| "the model gives no finite rating; train it again".into())
        });
        if let Ok(seen) = &seen {
            let beyond = targets.iter().zip(&seen.ratings).filter(|r| beyond_scale(f64::from(*r.1)));
            notes.extend(beyond.map(|(target, y)| format!("{target} {y} is beyond the scale of 1 to 9")));
        }
        Answer { path, seen, note: (!notes.is_empty()).then(|| notes.join("; ")) }
    };
    Ok(piece.inputs.into_iter().enumerate().map(one).collect())
}
