//! One training run that is kept on disk: begun or gone on with, watched, saved. Everything that trains runs through here.

use super::config::Resident;
use super::events::{Events, Training, tell};
use super::ranks;
use crate::atomic;
use crate::data::Pictures;
use crate::device::Device;
use crate::error::{Error, Result, option};
use crate::hash;
use crate::ranks::leads;
use crate::train::checkpoint::{self, Card, Origin, differing};
use crate::train::fit::{self, Best, Samples, Settings, State, Watch};
use crate::train::network::{Blueprint, Method, Network, Task};
use crate::train::stored::Stored;
use crate::weights::WeightFile;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

/// A run before its first step.
pub struct CheckpointedRun<'a> {
    /// What the bar is called.
    pub label: &'a str,
    /// What is trained, how and on what; its state is that of a run that has not begun.
    pub card: Card,
    pub samples: &'a Samples<'a>,
    /// Rows that are trained on, and that are monitored.
    pub rows: [&'a [usize]; 2],
    /// Where it is kept, if it is.
    pub checkpoint: Option<&'a Path>,
    /// The time between checkpoints within an epoch.
    pub every: Duration,
    /// Go on from there. Of a finished run only the weights are read.
    pub resume: bool,
    /// Weights that go into the file although the network does not have them.
    pub extra: &'a [Stored<'a>],
    pub events: &'a dyn Events,
}

impl CheckpointedRun<'_> {
    /// Trains; `begin` writes the first weights of a run that begins. Afterwards the network holds the best weights. Also
    /// returns the number of updates that were made here.
    pub fn execute(self, net: &mut Network, begin: impl FnOnce(&mut Network) -> Result<()>) -> Result<(State, u32)> {
        let Self { label, mut card, samples, rows, checkpoint, every, resume, extra, events } = self;
        let s = card.settings.clone();
        let mut best: Best = vec![];
        let peers = net.peers.clone();
        if let Some(peers) = &peers {
            ranks::compared(&**peers, &card, net.sharded)?;
        }
        // One rank writes, and so one reads.
        let first = leads(&peers);
        let mut from = None;
        match checkpoint.filter(|_| resume) {
            Some(_) if !first => {}
            Some(path) => {
                let (file, old) = continued(path, &card, events)?;
                let file = if file.path() == path { file } else { put_back(file)? };
                card.state = old.state;
                best = checkpoint::restore(&file, net)?;
                card.state.finished |= card.state.epoch >= s.epochs;
                from = Some(file);
            }
            None => begin(net)?,
        }
        let checkpoint = checkpoint.filter(|_| first);
        if let Some(peers) = &peers {
            ranks::begin_alike(&**peers, net, &mut card.state, from.as_deref())?;
            ranks::remark(&**peers, net, events);
        }
        if let Some(path) = checkpoint.filter(|_| !card.state.finished) {
            has_room(path, checkpoint::bytes(net, extra))?;
        }
        static TOLD: Once = Once::new();
        if let Some(remark) = unsettled(net.settles(), rows[0].len().div_ceil(s.batch), &s) {
            TOLD.call_once(|| tell!(events, "note: {remark}"));
        }
        let mut state = card.state.clone();
        let (now, kept) = (Instant::now(), false);
        let mut writer = CheckpointWriter { events, checkpoint, card, extra, every, saved: now, kept };
        events.start(label, s.epochs.saturating_sub(state.epoch) as u64 * rows[0].len().div_ceil(s.batch) as u64);
        let before = state.step;
        let _training = Training::begin(events);
        let result = fit::fit(net, samples, rows, &s, &mut state, &mut best, &mut writer);
        events.done();
        result?;
        if let Some(path) = checkpoint {
            writer.card.state = state.clone();
            checkpoint::save(path, &writer.card, net, &best, extra)?;
        }
        let updates = state.step - before;
        Ok((state, updates))
    }
}

/// What evaluation is worth while running statistics have not arrived, where that takes more than a few epochs. They begin
/// as those of numbers around 0 with variance 1: a network of small activations then answers little but its last bias.
fn unsettled(updates: Option<u32>, per_epoch: usize, s: &Settings) -> Option<String> {
    /// Epochs that nobody has to be told about.
    const FEW: u32 = 3;
    let (updates, per_epoch) = (updates?, per_epoch as u32);
    let epochs = updates.div_ceil(per_epoch);
    let early = s.patience > 0 && s.patience < epochs;
    let stops = if early {
        format!(", so that {} {} may stop too early (0 never does)", option("patience"), s.patience)
    } else {
        String::new()
    };
    (epochs > FEW).then(|| {
        format!(
            "batch norms are evaluated by running statistics, which need about {updates} updates to arrive: {epochs} epochs \
             of {per_epoch} here. Until then the monitored loss is that of an answer that is nearly constant{stops}"
        )
    })
}

/// Refuses a disk that has no room for the checkpoints of a run, of so many bytes each: the last two, and the next while it
/// is written.
fn has_room(path: &Path, bytes: u64) -> Result<()> {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    let before = atomic::previous(path);
    let needed = (3 * bytes).saturating_sub(length(path) + length(&before));
    match atomic::room(path).filter(|free| *free < needed) {
        None => Ok(()),
        Some(free) => {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let why = format!("checkpoints need {} MiB more, and its disk has {} left", mib(needed), free >> 20);
            Err(Error::file(path, why).fix("free some space, or choose another folder; nothing was computed"))
        }
    }
}

/// The file of the run that `card` describes, and where that run stands. Fails if it is of another.
pub fn continued(path: &Path, card: &Card, events: &dyn Events) -> Result<(Arc<WeightFile>, Card)> {
    let (file, old) = last_good(path, events)?;
    let path = file.path();
    let wrong =
        |what: &str| Err(Error::file(path, format!("was trained {what}")).fix("resume with the command of that run"));
    if old.data != card.data {
        return wrong("on other data");
    }
    let others = differing(&old.origin.basis, &card.origin.basis);
    // Files of older programs do not say what they rest on.
    if !old.origin.basis.is_empty() && !others.is_empty() {
        return wrong(&format!("with other {}", others.join(", ")));
    }
    // More epochs may be asked for, and another precision; everything else must be as it was.
    let (epochs, precision) = (card.settings.epochs, card.settings.precision);
    if (Settings { epochs, precision, ..old.settings.clone() }) != card.settings || old.task != card.task {
        return wrong("with other settings");
    }
    if old.state.finished && epochs > old.settings.epochs {
        return Err(Error::file(path, "is of a finished run, which cannot go on: only its weights were kept").fix(
            format!("train anew with more {}, or resume with those of that run to write its report", option("epochs")),
        ));
    }
    Ok((file, old))
}

/// The last checkpoint, or the one before if that is damaged or lost, which is said.
fn last_good(path: &Path, events: &dyn Events) -> Result<(Arc<WeightFile>, Card)> {
    let open = |path: &Path| {
        let file = WeightFile::open(path)?;
        let card = checkpoint::card(&file)?;
        file.all_intact()?;
        Ok((file, card))
    };
    open(path).or_else(|e: Error| {
        let before = atomic::previous(path);
        let Ok(found) = open(&before) else { return Err(e) };
        tell!(events, "{:#}", e.fix(format!("going on from the checkpoint before, {}", before.display())));
        Ok(found)
    })
}

/// Gives the checkpoint before the name of the last, which is damaged or lost: the next one must not take its place.
fn put_back(before: Arc<WeightFile>) -> Result<Arc<WeightFile>> {
    let from = before.path().to_path_buf();
    // Not every system can rename what is mapped.
    drop(before);
    let to = from.with_extension("");
    std::fs::rename(&from, &to).map_err(|e| Error::io(&to, "put the checkpoint before in its place", e))?;
    WeightFile::open(&to)
}

/// What a resumed run must have in common with the one it continues: which pictures, and what each is to give.
pub fn fingerprint([train, val]: [&[usize]; 2], pictures: &Pictures, of: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for (which, rows) in [("train", train), ("val", val)] {
        for &i in rows {
            text.push_str(&format!("{which} {} {:x}\n", of(i), hash::checksum(pictures.image(i))));
        }
    }
    hash::content_hex(text.as_bytes())
}

/// What the card of a run says of where it comes from: sums of weight files by tower, and the pictures.
pub fn origin(rows: [&[usize]; 2], pictures: &Pictures, sums: BTreeMap<String, String>) -> Origin {
    let [trained, monitored] =
        rows.map(|rows| Origin::pictures(rows.iter().map(|&i| hash::checksum(pictures.image(i)))));
    let basis = sums.into_iter().map(|(tower, sum)| (weights_of(&tower), format!("sha256 {sum}"))).collect();
    Origin { basis, trained, monitored }
}

/// What the weights that a tower begins with are called where they are compared.
pub fn weights_of(tower: &str) -> String {
    format!("weights of {tower}")
}

/// How many pictures are to lie on the device: all, if that was asked for or if it has memory of its own for them.
pub fn resident(
    choice: Resident,
    pictures: &Pictures,
    task: &Task,
    batch: usize,
    method: Method,
    device: &dyn Device,
    events: &dyn Events,
) -> Option<usize> {
    let all = Some(pictures.len());
    let there = || Blueprint::new(task, batch, Method { resident: all, ..method });
    let kept = match choice {
        Resident::No => false,
        Resident::Yes => true,
        Resident::Auto => device.memory().free.is_some() && there().is_ok_and(|b| b.fits(device).is_ok()),
    };
    if kept {
        let size = pictures.bytes().len().div_ceil(1 << 20);
        tell!(events, "all {} pictures ({size} MiB) lie on the device", pictures.len());
    }
    all.filter(|_| kept)
}

/// Least time between two checkpoints at the ends of epochs: a small network must not spend its time on the disk.
const EPOCHS: Duration = Duration::from_secs(30);

/// Watches a run: tells of its progress, writes the checkpoint, asks whether to stop.
struct CheckpointWriter<'a> {
    events: &'a dyn Events,
    checkpoint: Option<&'a Path>,
    card: Card,
    extra: &'a [Stored<'a>],
    every: Duration,
    /// When the run began here, or last wrote a checkpoint.
    saved: Instant,
    /// Whether it wrote one.
    kept: bool,
}

impl Watch for CheckpointWriter<'_> {
    fn step(&mut self, state: &State, _: u32, loss: f64) -> bool {
        let val = state.history.last().map_or(String::new(), |e| match e.val_loss {
            Some(v) => format!(", epoch {}: train {:.4}, val {v:.4}", e.epoch, e.train_loss),
            None => format!(", epoch {}: train {:.4}", e.epoch, e.train_loss),
        });
        self.events.message(&format!("loss {loss:.4}{val}"));
        self.events.inc();
        self.events.stopped()
    }
    fn keep(&mut self, net: &Network, state: &State, best: &Best) -> Result<()> {
        let ended = state.batches == 0;
        let wait = if ended { self.every.min(EPOCHS) } else { self.every };
        let due =
            self.events.stopped() || self.events.save_wanted() || (ended && !self.kept) || self.saved.elapsed() >= wait;
        if state.finished {
            return Ok(());
        }
        let mut due = due && self.checkpoint.is_some();
        if let Some(peers) = net.peers().filter(|_| net.sharded) {
            // The first rank writes what all have.
            let mut told = vec![u8::from(due)];
            peers.broadcast(0, &mut told)?;
            due = told == [1];
        }
        let Some(path) = self.checkpoint.filter(|_| due) else { return if due { net.lend() } else { Ok(()) } };
        let asked = self.events.saving();
        self.card.state = state.clone();
        checkpoint::save(path, &self.card, net, best, self.extra)?;
        (self.saved, self.kept) = (Instant::now(), true);
        if asked {
            self.events.note(&format!("wrote {}, as asked, in epoch {}", path.display(), state.epoch + 1));
        }
        Ok(())
    }
}
