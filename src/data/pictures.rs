/*! Many files to many squares, on all threads and in bounded memory: the squares are handed on in pieces, and the large
pictures wait for each other. A picture that cannot be used is recorded with its reason and the others go on. */

use super::decode::{DecodeOptions, MAX_MEMORY, Picture, decode_within, read};
use super::resize;
use crate::error::{Error, Result, path_text};
use crate::hash;
use crate::preprocess::{Area, View, record};
use crate::progress::Progress;
use rayon::prelude::*;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

/// Squares decoded between two hand-overs, in bytes.
const PIECE: usize = 64 << 20;
/// Pixels being decoded at one time, in bytes, whatever the number of threads.
const BUDGET: u64 = 2 * MAX_MEMORY;

/// Where a picture comes from.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    File(PathBuf),
    /// A file, and where in it the face is. `place` says who said so, for messages.
    Boxed {
        path: PathBuf,
        face: Area,
        place: String,
    },
    /// An encoded picture in memory, with a name for messages.
    Memory {
        name: String,
        bytes: &'a [u8],
    },
}

impl Source<'_> {
    pub fn name(&self) -> String {
        match self {
            Source::File(path) | Source::Boxed { path, .. } => path_text(path),
            Source::Memory { name, .. } => name.clone(),
        }
    }
    /// Where its face is, if somebody said so.
    pub fn face(&self) -> Option<&Area> {
        match self {
            Source::Boxed { face, .. } => Some(face),
            _ => None,
        }
    }
    /// What a view shows of it when decoded.
    fn seen<'p>(&self, picture: &'p Picture, view: &View) -> Result<(Cow<'p, [u8]>, u32, u32), String> {
        let (w, h) = (picture.w, picture.h);
        let (Some(crop), Source::Boxed { face, place, .. }) = (view.crop, self) else {
            return Ok((Cow::Borrowed(&picture.rgb), w, h));
        };
        let [left, top, width, height] = face.within(w, h, crop).ok_or_else(|| {
            let Area { x, y, width, height } = face;
            format!("its box of {width} x {height} at {x}, {y} lies outside its {w} x {h} pixels; correct {place}")
        })?;
        let bytes = |pixels: u32| pixels as usize * 3;
        let lines = picture.rgb.chunks_exact(bytes(w)).skip(top as usize).take(height as usize);
        let inside: Vec<u8> = lines.flat_map(|l| &l[bytes(left)..bytes(left + width)]).copied().collect();
        Ok((Cow::Owned(inside), width, height))
    }
    /// The encoded bytes, or why there are none (without the name).
    fn bytes(&self) -> Result<Cow<'_, [u8]>, String> {
        match self {
            Source::Memory { bytes, .. } => Ok(Cow::Borrowed(bytes)),
            Source::File(path) | Source::Boxed { path, .. } => read(path).map(Cow::Owned).map_err(|e| {
                let line = e.to_string();
                let prefix = Error::file(path, "").to_string();
                line.strip_prefix(&prefix).map(String::from).unwrap_or(line)
            }),
        }
    }
}

/// What became of the sources.
#[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// The sources that gave a square, ascending.
    pub rows: Vec<usize>,
    /// The others, and why.
    pub bad: Vec<(usize, String)>,
    /// Remarks about those that did.
    pub notes: Vec<(usize, String)>,
}

/// The 128-bit name of each source's content. A file that cannot be read is named by the reason, so that it is looked at
/// again once it can.
pub fn fingerprints(sources: &[Source], progress: &dyn Progress) -> Result<Vec<u128>> {
    let one = |source: &Source| {
        if progress.stopped() {
            return 0;
        }
        let name = match source.bytes() {
            Ok(bytes) => hash::content(&bytes),
            Err(reason) => hash::Fnv::default().update(b"unreadable").field(reason.as_bytes()).finish(),
        };
        progress.inc();
        name
    };
    progress.start("checking pictures", sources.len() as u64);
    let names = sources.par_iter().with_max_len(8).map(one).collect();
    progress.done();
    stop_if_asked(progress)?;
    Ok(names)
}

/// Decodes every source once and hands its squares, one view after another, to `sink`, in order. With `expected`, a file
/// whose content is no longer what it was when it was named is not used.
pub fn records(
    sources: &[Source],
    views: &[View],
    opts: &DecodeOptions,
    expected: Option<&[u128]>,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Outcome> {
    let length = record(views);
    let per_piece = (PIECE / length).clamp(1, sources.len().max(1));
    let gate = Gate::default();
    let (mut buffer, mut outcome) = (vec![0; per_piece * length], Outcome::default());
    progress.start("decoding pictures", sources.len() as u64);
    for first in (0..sources.len()).step_by(per_piece) {
        let piece = &sources[first..sources.len().min(first + per_piece)];
        let one = |(i, (source, mut out)): (usize, (&Source, &mut [u8]))| -> Result<Vec<String>, String> {
            if progress.stopped() {
                return Err(String::new());
            }
            let _counted = Inc(progress);
            let bytes = source.bytes()?;
            if expected.is_some_and(|names| hash::content(&bytes) != names[first + i]) {
                return Err("changed while it was being read; run again when nothing writes to it".into());
            }
            let mut pass = None;
            let picture =
                decode_within(&bytes, opts, &mut |n| pass = Some(gate.enter(n))).map_err(|e| e.to_string())?;
            for v in views {
                let (square, rest) = out.split_at_mut(v.bytes());
                let (rgb, w, h) = source.seen(&picture, v)?;
                resize::view(&rgb, w, h, v, square).map_err(|e| e.to_string())?;
                out = rest;
            }
            Ok(picture.notes)
        };
        let results: Vec<_> =
            piece.par_iter().zip(buffer.par_chunks_mut(length)).enumerate().with_max_len(1).map(one).collect();
        if progress.stopped() {
            break;
        }
        for (i, (result, pixels)) in results.into_iter().zip(buffer.chunks(length)).enumerate() {
            match result {
                Ok(notes) => {
                    sink(pixels).inspect_err(|_| progress.done())?;
                    outcome.rows.push(first + i);
                    outcome.notes.extend(notes.into_iter().map(|n| (first + i, n)));
                }
                Err(reason) => outcome.bad.push((first + i, reason)),
            }
        }
    }
    progress.done();
    stop_if_asked(progress)?;
    Ok(outcome)
}

/// What `f` makes of each decoded picture and of its file's bytes, on all threads; the pictures in the order of the sources, each
/// with what was made of it or why not.
pub fn each<T: Send>(
    sources: &[Source],
    opts: &DecodeOptions,
    progress: &dyn Progress,
    f: impl Fn(usize, &Picture, &[u8]) -> Result<T> + Sync,
) -> Result<Vec<Result<T, String>>> {
    let gate = Gate::default();
    let one = |(i, source): (usize, &Source)| -> Result<T, String> {
        if progress.stopped() {
            return Err(String::new());
        }
        let _counted = Inc(progress);
        let (bytes, mut pass) = (source.bytes()?, None);
        let picture = decode_within(&bytes, opts, &mut |n| pass = Some(gate.enter(n))).map_err(|e| e.to_string())?;
        f(i, &picture, &bytes).map_err(|e| e.to_string())
    };
    progress.start("describing pictures", sources.len() as u64);
    let made = sources.par_iter().enumerate().with_max_len(1).map(one).collect();
    progress.done();
    stop_if_asked(progress)?;
    Ok(made)
}

/// Counts a picture when it is dealt with, well or not.
struct Inc<'a>(&'a dyn Progress);

impl Drop for Inc<'_> {
    fn drop(&mut self) {
        self.0.inc();
    }
}

fn stop_if_asked(progress: &dyn Progress) -> Result<()> {
    if progress.stopped() {
        return Err(Error::interrupted("stopped while preparing the pictures; nothing was written"));
    }
    Ok(())
}

/// Lets decoders in while their pictures fit the budget together; one alone always fits. Decoders never wait for other
/// work of the pool, so those inside always come out.
#[derive(Default)]
struct Gate {
    taken: Mutex<u64>,
    freed: Condvar,
}

struct Pass<'a>(&'a Gate, u64);

impl Gate {
    fn enter(&self, bytes: u64) -> Pass<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |taken: &mut u64| *taken > 0 && *taken + bytes > BUDGET;
        let mut taken = self.freed.wait_while(taken, full).unwrap_or_else(PoisonError::into_inner);
        *taken += bytes;
        Pass(self, bytes)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.1;
        self.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_holds_the_budget_and_never_locks() {
        let gate = Gate::default();
        (0..200_u64).into_par_iter().for_each(|i| {
            let _pass = gate.enter(MAX_MEMORY / 2 + i);
            assert!(*gate.taken.lock().unwrap() <= BUDGET);
        });
        drop(gate.enter(BUDGET * 3));
        assert_eq!(*gate.taken.lock().unwrap(), 0);
    }
}
