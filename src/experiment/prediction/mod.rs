//! Ratings of pictures, piece by piece while the next piece is decoded, with Grad-CAM beside them where that is asked for; and the
//! answers of models that were solved for on tables of features.

mod explained;
pub mod from_tables;
mod inputs;
mod resumed;
mod shard;
mod writer;

pub use explained::Explanation;
pub use inputs::Inputs;
pub use shard::Shard;
pub use writer::AnswerFormat;

use super::config::Compute;
use super::ensemble::{LoadedModels, ModelChoice, Models};
use super::events::{Events, tell};
use super::trained::Reading;
use crate::atomic;
use crate::data::boxes::whole_of;
use crate::data::decode::MAX_FILE;
use crate::data::{LoadOptions, Pictures, Source};
use crate::error::{Error, Result, option};
use crate::hash;
use crate::par;
use crate::progress::Progress;
use crate::report::folder::claim_file;
use crate::train::metrics::{beyond_scale, remark_beyond};
use crate::train::network::Precision;
use explained::ExplainedFolder;
use inputs::{Input, Items};
use resumed::{Basis, Columns, Found, Part};
use std::io::{BufWriter, Read, Write, stdin};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::Builder;
use std::time::Duration;
use writer::{Answer, AnswerWriter};

/// What is to be rated, by what and how.
pub struct Predicting {
    pub inputs: Inputs,
    /// The part of them that is answered; all without it.
    pub shard: Option<Shard>,
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
    /// The same, of CSV or JSON lines: a run that is stopped or killed leaves its rows in `FILE.part`, and the next one goes on
    /// behind them. `FILE.json` says how they are made.
    Resumed(&'a Path),
    /// Somebody who takes rows when they are there, and breaks where nobody reads any more.
    Rows(&'a mut dyn FnMut(&str) -> Result<ControlFlow<()>>),
}

/// Pictures that cannot be used: how many, and the first.
type Failures = Option<(usize, Error)>;

fn failed_too(failed: &mut Failures, why: Error) {
    *failed = match failed.take() {
        None => Some((1, why)),
        Some((n, first)) => Some((n + 1, first)),
    };
}

/// What becomes of pictures that cannot be used, among `rows`.
fn unusable(rows: usize, failed: Failures) -> Result<()> {
    match failed {
        None => Ok(()),
        Some((1, first)) => Err(first),
        Some((n, first)) => Err(Error::job(format!("{n} of {rows} pictures cannot be used, the first is {first:#}"))),
    }
}

impl Predicting {
    /// Answers about every picture. `progress` hears of answers that take more than one piece.
    ///
    /// # Errors
    /// Models that cannot be used, and at last pictures that cannot: their rows say why. A list or an archive that ends too early
    /// leaves the rows before that, and so does a stop. Pictures of a list on standard input are no error: whoever waits for
    /// their rows has the reasons.
    pub fn run(&self, format: AnswerFormat, progress: &dyn Progress, to: Destination) -> Result<()> {
        let events = &*self.events;
        if let Destination::Resumed(path) = to
            && (![AnswerFormat::Csv, AnswerFormat::Jsonl].contains(&format) || self.explanation.is_some())
        {
            return Err(Error::file(path, "can be gone on with as CSV or JSON lines alone, and without explanations")
                .fix(format!("choose one of them with {}", option("format")))
                .as_usage());
        }
        let models = self.models.open(events)?;
        let options = self.reading.load_options(&models.all[0], None)?;
        let boxes = self.reading.boxes(&options.views)?.unwrap_or_default();
        let (mut items, total) = self.inputs.open(self.shard, boxes, &self.events)?;
        // A batch is computed whole: one picture must not pay for eight.
        let batch = self.batch.min(total.unwrap_or(self.batch)).max(1);
        let _claim = match to {
            Destination::File(path) if !path.exists() || path.is_file() => Some(claim_file(path)?),
            _ => None,
        };
        let loaded = models.load(self.precision, batch, &self.compute, events)?;
        // A batch is computed whole here, too: who sends one path and waits gets a plan of one.
        let singly =
            (self.inputs.live() && batch > 1).then(|| models.load(self.precision, 1, &self.compute, events)).and_then(
                |loaded| loaded.map_err(|e| tell!(events, "note: one picture takes the time of {batch}: {e:#}")).ok(),
            );
        let explain = |e: &Explanation| e.folder(&models, batch, self.compute.open(events)?);
        let sheet = self.explanation.as_ref().map(explain).transpose()?;
        let writer = AnswerWriter::new(format, &loaded);
        let mut part = None;
        if let Destination::Resumed(path) = to {
            let (names, model) = (&writer.fields()[..], &models.name[..]);
            match Part::open(path, self.basis(&models, names, format)?, &Columns { format, names, model })? {
                Found::Complete(rows, failed) => {
                    tell!(events, "{} is complete: {rows} rows", path.display());
                    return unusable(rows, failed);
                }
                Found::Begun(mut begun) => {
                    if begun.rows() > 0 {
                        tell!(events, "{} rows of {} are there already", begun.rows(), path.display());
                    }
                    let rows = begun.rows();
                    items = begun.rest(items);
                    part = Some((begun, rows));
                }
            }
        }
        let progress = if total.is_none_or(|n| n > batch) && !self.inputs.live() { progress } else { &() };
        progress.start("predicting", total.unwrap_or(0) as u64);
        let live = self.inputs.live();
        let mut answering = Answering { live, options, batch, loaded, singly, sheet, writer, progress, events };
        let answered = match (to, part) {
            (Destination::Rows(write), _) => answering.all(items, Answered::default(), write),
            (Destination::File(path), _) => atomic::write_file(path, |file| {
                let mut file = BufWriter::new(file);
                let failed = |e| Error::io(path, "write", e);
                let answered = answering.all(items, Answered::default(), &mut |text| {
                    file.write_all(text.as_bytes()).map_err(failed)?;
                    Ok(ControlFlow::Continue(()))
                })?;
                file.flush().map_err(failed)?;
                Ok(answered)
            }),
            (Destination::Resumed(_), Some((mut part, rows))) => {
                let begun = Answered { rows, failed: part.failed.take(), headed: !part.is_empty()?, cut: None };
                let answered = answering.all(items, begun, &mut |text| {
                    part.write(text)?;
                    Ok(ControlFlow::Continue(()))
                });
                answered.and_then(|a| {
                    if a.cut.is_none() {
                        part.finish(a.rows, &a.failed)?;
                    }
                    Ok(a)
                })
            }
            (Destination::Resumed(_), None) => unreachable!("it was opened"),
        };
        progress.done();
        // Also of a run that was stopped: what was explained is shown.
        if let Some(sheet) = answering.sheet {
            sheet.finish(events)?;
        }
        let Answered { rows, failed, cut, .. } = answered?;
        match (cut, unusable(rows, failed)) {
            (Some(cut), _) => Err(cut),
            (None, Err(e)) if self.inputs.live() => {
                tell!(events, "{e:#}");
                Ok(())
            }
            (None, ended) => ended,
        }
    }

    /// Everything that decides the rows of a file.
    fn basis(&self, models: &Models, fields: &[String], format: AnswerFormat) -> Result<Basis> {
        let boxes = self.reading.boxes.as_deref().map(hash::of_file).transpose()?;
        let Reading { ignore_exif, allow_damaged, alpha, .. } = self.reading;
        let model: Vec<String> = models.all.iter().map(|m| format!("{} {}", m.name, m.identity())).collect();
        let shard = self.shard.map_or("1/1".into(), |s| s.to_string());
        Ok([
            ("program", crate::VERSION.to_string()),
            ("pictures", self.inputs.names()),
            ("shard", shard),
            ("model", model.join(", ")),
            ("columns", fields.join(",")),
            ("format", format!("{format:?}")),
            ("precision", format!("{:?}", self.precision)),
            (
                "reading of pictures",
                format!("ignore-exif {ignore_exif}, allow-damaged {allow_damaged}, alpha {alpha:?}"),
            ),
            ("boxes", boxes.map_or(String::new(), |b| b.1)),
        ]
        .map(|(name, what)| (name.to_string(), what))
        .into())
    }
}

/// How far an answer is.
#[derive(Default)]
struct Answered {
    rows: usize,
    failed: Failures,
    /// Its header is written.
    headed: bool,
    /// Why the pictures ended before their end.
    cut: Option<Error>,
}

/// The state of the loop.
struct Answering<'a> {
    live: bool,
    options: LoadOptions,
    batch: usize,
    loaded: LoadedModels<'a>,
    /// The same with a batch of one.
    singly: Option<LoadedModels<'a>>,
    sheet: Option<ExplainedFolder>,
    writer: AnswerWriter<'a>,
    progress: &'a dyn Progress,
    events: &'a dyn Events,
}

impl Answering<'_> {
    /// Answers piece by piece while the next piece is decoded.
    fn all(
        &mut self,
        items: Items,
        begun: Answered,
        write: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<Answered> {
        let mut answered = begun;
        if !answered.headed && write(&self.writer.header())?.is_break() {
            return Ok(answered);
        }
        let (mut seen, mut beyond) = (0, vec![0; self.loaded.models.targets.len()]);
        let (mut whole, mut pictures) = (0, 0);
        let (options, gone) = (&self.options, &AtomicBool::new(false));
        let mut pieces =
            Pieces { size: self.batch, items: if self.live { Pending::live(items)? } else { Pending::All(items) } };
        std::thread::scope(|scope| {
            // Two pieces wait at most, so memory does not grow with the folder.
            let (send, receive) = sync_channel(1);
            let work = move || {
                while let Some(piece) = pieces.next(gone) {
                    let decoded = match piece {
                        Ok(piece) => decode(&piece, options),
                        Err(e) => Err(e),
                    };
                    let last = decoded.is_err();
                    if send.send(decoded).is_err() || last {
                        return;
                    }
                }
            };
            par::beside(scope, work)?;
            // Moved in, so that it is dropped, and the decoder stops, however this ends.
            let _gone = Gone(gone);
            let receive: Receiver<Result<Decoded>> = receive;
            for piece in receive {
                let piece = match piece {
                    Ok(piece) => piece,
                    Err(e) => {
                        answered.cut = Some(e);
                        break;
                    }
                };
                if let Some(sheet) = &mut self.sheet {
                    sheet.add(&piece)?;
                }
                (whole, pictures) = (whole + piece.whole, pictures + piece.inputs.len());
                let mut text = String::new();
                let few = 2 * piece.pictures.as_ref().map_or(0, Pictures::len) <= self.batch;
                let models = self.singly.as_mut().filter(|_| few).unwrap_or(&mut self.loaded);
                for a in answer(piece, models)? {
                    match &a.seen {
                        Ok(s) => {
                            seen += 1;
                            let ratings = beyond.iter_mut().zip(&s.ratings);
                            ratings.for_each(|(n, y)| *n += beyond_scale(f64::from(*y)) as usize);
                        }
                        Err(why) => failed_too(&mut answered.failed, Error::file(&a.path, why)),
                    }
                    text += &self.writer.row(&a, answered.rows == 0);
                    answered.rows += 1;
                    self.progress.inc();
                }
                if write(&text)?.is_break() {
                    answered.failed = None;
                    return Ok(());
                }
                if self.events.stopped() {
                    return Err(Error::interrupted("stopped; the rows above are complete"));
                }
            }
            write(self.writer.footer()).map(drop)
        })?;
        if let Some(remark) = whole_of(whole, pictures, &self.options.views) {
            tell!(self.events, "{remark}");
        }
        let counts = self.loaded.models.targets.iter().map(String::as_str).zip(beyond);
        if let Some(remark) = remark_beyond(counts, seen) {
            tell!(self.events, "warning: {remark}");
        }
        Ok(answered)
    }
}

/// Says when it is dropped that nobody waits for pictures any more.
struct Gone<'a>(&'a AtomicBool);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What is to be decoded at once: so many as the models take, or fewer where somebody waits for what is there.
struct Pieces {
    size: usize,
    items: Pending,
}

/// Pictures to come.
enum Pending {
    All(Items),
    Live(Receiver<Result<Input>>),
}

/// How often a decoder that waits for a picture looks whether its answer is still wanted.
const LOOK: Duration = Duration::from_millis(50);

impl Pending {
    /// Pictures that come when they come, taken in by a thread of their own. It ends with the program: nothing can wake it from
    /// reading what never comes.
    fn live(items: Items) -> Result<Self> {
        let (send, receive) = sync_channel(1024);
        let read = move || {
            for item in items {
                let last = item.is_err();
                if send.send(item).is_err() || last {
                    return;
                }
            }
        };
        match Builder::new().spawn(read) {
            Ok(_) => Ok(Self::Live(receive)),
            Err(e) => Err(Error::job(format!("cannot start a thread: {e}")).fix("allow more memory or processes")),
        }
    }
}

impl Pieces {
    /// The next piece; None at the end, and when nobody waits for it.
    fn next(&mut self, gone: &AtomicBool) -> Option<Result<Vec<Input>>> {
        let mut piece = vec![];
        while piece.len() < self.size && !gone.load(Relaxed) {
            let next = match &mut self.items {
                Pending::All(items) => items.next(),
                Pending::Live(items) if piece.is_empty() => match items.recv_timeout(LOOK) {
                    Ok(item) => Some(item),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => None,
                },
                Pending::Live(items) => items.try_recv().ok(),
            };
            match next {
                None => break,
                Some(Ok(input)) => piece.push(input),
                // What came before is answered, and then this is told.
                Some(Err(e)) if piece.is_empty() => return Some(Err(e)),
                Some(Err(e)) => {
                    self.items = Pending::All(Box::new(std::iter::once(Err(e))));
                    break;
                }
            }
        }
        (!piece.is_empty()).then_some(Ok(piece))
    }
}

/// A piece of the inputs: for each its name and the index of its square or why there is none; the squares; remarks.
struct Decoded {
    inputs: Vec<(String, Result<usize, String>)>,
    notes: Vec<(usize, String)>,
    pictures: Option<Pictures>,
    /// Of how many nobody says where their faces are.
    whole: usize,
}

fn decode(piece: &[Input], options: &LoadOptions) -> Result<Decoded> {
    let mut inputs: Vec<(String, Result<usize, String>)> =
        piece.iter().map(|i| (i.name(), Err(String::new()))).collect();
    let mut stdin_bytes = vec![];
    if piece.iter().any(|i| matches!(i, Input::Stdin)) {
        let limited = stdin().lock().take(MAX_FILE + 1).read_to_end(&mut stdin_bytes);
        limited.map_err(|e| Error::io("standard input", "read", e))?;
    }
    let whole = piece.iter().filter(|i| i.whole()).count();
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
            Input::Packed { name, bytes } => {
                sources.push(Source::Memory { name: name.clone(), bytes });
                which.push(i);
            }
            Input::Stdin => {
                sources.push(Source::Memory { name: "-".into(), bytes: &stdin_bytes });
                which.push(i);
            }
        }
    }
    if sources.is_empty() {
        return Ok(Decoded { inputs, notes: vec![], pictures: None, whole });
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
    Ok(Decoded { inputs, notes, pictures: Some(pictures), whole })
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
