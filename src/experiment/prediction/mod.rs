//! Ratings of pictures, piece by piece while the next piece is decoded, with Grad-CAM beside them where that is asked for; and the
//! answers of models that were solved for on tables of features.

mod explained;
pub mod from_tables;
mod writer;

pub use explained::Explanation;
pub use writer::AnswerFormat;

use super::config::Compute;
use super::ensemble::{LoadedModels, ModelChoice};
use super::events::{Events, tell};
use super::trained::{self, Reading};
use crate::atomic;
use crate::data::boxes::seen_whole;
use crate::data::decode::MAX_FILE;
use crate::data::{Boxes, LoadOptions, Pictures, Source};
use crate::error::{Error, Result, path_text};
use crate::par;
use crate::progress::Progress;
use crate::train::metrics::{beyond_scale, remark_beyond};
use crate::train::network::Precision;
use explained::ExplainedFolder;
use std::io::{BufWriter, Read, Write, stdin};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use writer::{Answer, AnswerWriter};

/// What is to be rated, by what and how.
pub struct Predicting {
    /// Pictures, folders (searched through, in sorted order), or `-` for one picture on standard input.
    pub inputs: Vec<PathBuf>,
    pub models: ModelChoice,
    /// Pictures computed at once: costs memory, changes no rating.
    pub batch: usize,
    pub precision: Precision,
    /// What the towers looked at, into a folder.
    pub explanation: Option<Explanation>,
    pub reading: Reading,
    pub compute: Compute,
    pub events: Arc<dyn Events>,
}

/// Where the answer goes.
pub enum Destination<'a> {
    /// A file, which appears when the answer is complete.
    File(&'a Path),
    /// Somebody who takes each row when it is there, and breaks where nobody reads any more.
    Rows(&'a mut dyn FnMut(&str) -> Result<ControlFlow<()>>),
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

/// Pictures that cannot be used: how many, and the first.
type Failures = Option<(usize, Error)>;

impl Predicting {
    /// Answers about every picture. `progress` hears of answers that take more than one piece.
    ///
    /// # Errors
    /// Models that cannot be used, and at last pictures that cannot: their rows say why. A stop leaves the rows before it.
    pub fn run(&self, format: AnswerFormat, progress: &dyn Progress, to: Destination) -> Result<()> {
        let events = &*self.events;
        let models = self.models.open(events)?;
        let options = self.reading.load_options(&models.all[0], None)?;
        let boxes = self.reading.boxes(&options.views)?.unwrap_or_default();
        let inputs = list(&self.inputs, &boxes, events)?;
        let sources: Vec<Source> = inputs.iter().filter_map(Input::source).collect();
        if let Some(remark) = seen_whole(&sources, &options.views) {
            tell!(events, "{remark}");
        }
        // A batch is computed whole: one picture must not pay for eight.
        let batch = self.batch.min(inputs.len()).max(1);
        let loaded = models.load(self.precision, batch, &self.compute, events)?;
        let explain = |e: &Explanation| e.folder(&models, batch, self.compute.open(events)?);
        let sheet = self.explanation.as_ref().map(explain).transpose()?;
        let writer = AnswerWriter::new(format, &loaded);
        let progress = if inputs.len() > batch { progress } else { &() };
        progress.start("predicting", inputs.len() as u64);
        let mut answering = Answering { inputs: &inputs, options, batch, loaded, sheet, writer, progress, events };
        let failed = match to {
            Destination::Rows(write) => answering.all(write),
            Destination::File(path) => atomic::write_file(path, |file| {
                let mut file = BufWriter::new(file);
                let failed = |e| Error::io(path, "write", e);
                let answered = answering.all(&mut |text| {
                    file.write_all(text.as_bytes()).map_err(failed)?;
                    Ok(ControlFlow::Continue(()))
                })?;
                file.flush().map_err(failed)?;
                Ok(answered)
            }),
        };
        progress.done();
        // Also of a run that was stopped: what was explained is shown.
        if let Some(sheet) = answering.sheet {
            sheet.finish(events)?;
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

/// The state of the loop.
struct Answering<'a> {
    inputs: &'a [Input],
    options: LoadOptions,
    batch: usize,
    loaded: LoadedModels<'a>,
    sheet: Option<ExplainedFolder>,
    writer: AnswerWriter<'a>,
    progress: &'a dyn Progress,
    events: &'a dyn Events,
}

impl Answering<'_> {
    /// Answers piece by piece while the next piece is decoded.
    fn all(&mut self, write: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>) -> Result<Failures> {
        if write(&self.writer.header())?.is_break() {
            return Ok(None);
        }
        let (mut failed, mut rows): (Failures, usize) = (None, 0);
        let (mut seen, mut beyond) = (0, vec![0; self.loaded.models.targets.len()]);
        let (inputs, options, batch) = (self.inputs, &self.options, self.batch);
        std::thread::scope(|scope| {
            // Two pieces wait at most, so memory does not grow with the folder.
            let (send, receive) = sync_channel(1);
            let work = move || inputs.chunks(batch).try_for_each(|piece| send.send(decode(piece, options)));
            par::beside(scope, work)?;
            // Moved in, so that it is dropped, and the decoder stops, however this ends.
            let receive: Receiver<Result<Decoded>> = receive;
            for piece in receive {
                let piece = piece?;
                if let Some(sheet) = &mut self.sheet {
                    sheet.add(&piece)?;
                }
                for a in answer(piece, &mut self.loaded)? {
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
                    if write(&self.writer.row(&a, rows == 0))?.is_break() {
                        failed = None;
                        return Ok(());
                    }
                    rows += 1;
                    self.progress.inc();
                }
                if self.events.stopped() {
                    return Err(Error::interrupted("stopped; the rows above are complete"));
                }
            }
            write(self.writer.footer()).map(drop)
        })?;
        let counts = self.loaded.models.targets.iter().map(String::as_str).zip(beyond);
        if let Some(remark) = remark_beyond(counts, seen) {
            tell!(self.events, "warning: {remark}");
        }
        Ok(failed)
    }
}

/// The pictures to answer about, in the order they were named and sorted inside folders.
fn list(paths: &[PathBuf], boxes: &Boxes, events: &dyn Events) -> Result<Vec<Input>> {
    let mut inputs = vec![];
    for path in paths {
        if path.as_os_str() == "-" {
            if inputs.iter().any(|i| matches!(i, Input::Stdin)) {
                return Err(Error::usage("- is named twice, and stdin can be read once").fix("name it once"));
            }
            inputs.push(Input::Stdin);
        } else if path.is_dir() {
            folder(path, boxes, &mut inputs, events)?;
        } else {
            inputs.push(Input::Picture(boxes.source(path.clone())));
        }
    }
    Ok(inputs)
}

fn folder(dir: &Path, boxes: &Boxes, inputs: &mut Vec<Input>, events: &dyn Events) -> Result<()> {
    let all = trained::folder(dir, events)?;
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

fn answer(piece: Decoded, loaded: &mut LoadedModels) -> Result<Vec<Answer>> {
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
