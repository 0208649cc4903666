/*! Tensors on their way into a weight file. Where each has its values is known from the beginning; they are fetched when the
tensor's turn to be written comes, and forgotten then: a checkpoint of a large network needs no memory of its own on the
CPU, and that of its largest tensor where values have to be fetched from a device. */

use super::network::{Network, Remembered};
use crate::device::Session;
use crate::error::{Error, Result, option};
use crate::graph::Value;
use crate::weights::init::{self, Rule};
use crate::weights::write::{self, Entry};
use crate::weights::{Dtype, TowerWeights, WeightFile};
use rayon::prelude::*;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// A tensor to be written.
#[derive(Clone)]
pub struct Stored<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub source: Source<'a>,
}

/// Where a tensor has its values.
#[derive(Clone)]
pub enum Source<'a> {
    /// On the device of a session.
    Session(&'a Session, Value),
    Slice(&'a [f32]),
    /// On all ranks, of each its share ([`Network::asked`]).
    Ranks(&'a Network, &'a Remembered),
    /// In a mapped file, by the name there.
    File(Arc<WeightFile>, String),
    /// In a mapped file of a tower.
    Tower(Arc<TowerWeights>, String),
    /// Nowhere: they are drawn again, for the tensor of this name ([`init::draw`]).
    Drawn {
        name: String,
        seed: u64,
        rule: Rule,
    },
}

impl Stored<'_> {
    /// A value of a session under its own name.
    pub fn of(session: &Session, v: Value) -> Stored<'_> {
        let (name, shape) = (session.graph().name(v).into(), session.graph().dims(v).into());
        Stored { name, shape, source: Source::Session(session, v) }
    }

    /// The values, borrowed where they lie in this machine's memory.
    pub fn values(&self) -> Result<Cow<'_, [f32]>> {
        match &self.source {
            Source::Session(session, v) => session.values(*v),
            Source::Slice(x) => Ok(Cow::Borrowed(x)),
            Source::Ranks(net, what) => net.asked(what).map(Cow::Owned),
            Source::File(file, name) => file.tensor(name)?.to_f32(),
            Source::Tower(weights, name) => weights.load(name),
            Source::Drawn { name, seed, rule } => Ok(Cow::Owned(init::draw(name, &self.shape, *seed, *rule)?)),
        }
    }
}

/// Replaces the file `path` by one of these tensors ([`write::write`]). A value that is no finite number is an error.
pub fn write(path: &Path, metadata: &BTreeMap<String, String>, tensors: &[Stored]) -> Result<()> {
    send(tensors, |entries| write::write(path, metadata, entries))
}

/// The same; the file that is replaced is kept ([`write::write_keeping`]).
pub fn write_keeping(path: &Path, metadata: &BTreeMap<String, String>, tensors: &[Stored]) -> Result<()> {
    send(tensors, |entries| write::write_keeping(path, metadata, entries))
}

/// Has `written` write the tensors as entries of a file.
fn send(tensors: &[Stored], written: impl FnOnce(&[Entry]) -> Result<()>) -> Result<()> {
    // A writer of tensors can only fail as a writer: what else went wrong is kept beside it.
    let failed = RefCell::new(None);
    let one = |t: &Stored, w: &mut dyn Write| match t.values().and_then(|x| finite(&t.name, x)) {
        Ok(values) => w.write_all(bytemuck::cast_slice(&values)),
        Err(e) => {
            failed.replace(Some(e));
            Err(io::ErrorKind::Other.into())
        }
    };
    let streams: Vec<_> = tensors.iter().map(|t| move |w: &mut dyn Write| one(t, w)).collect();
    let entry = |(t, f)| {
        let t: &Stored = t;
        Entry::stream(&t.name, Dtype::F32, &t.shape, f)
    };
    let entries: Vec<Entry> = tensors.iter().zip(streams.iter().map(|f| f as &write::Stream)).map(entry).collect();
    let written = written(&entries);
    match failed.take() {
        Some(e) => Err(e),
        None => written,
    }
}

/// Weights, or an error where one of them is no finite number: nothing that is trained or kept may have such.
pub fn finite<'a>(name: &str, values: Cow<'a, [f32]>) -> Result<Cow<'a, [f32]>> {
    let bad = |c: &[f32]| c.iter().fold(false, |b, x| b | !x.is_finite());
    if !values.par_chunks(1 << 16).any(bad) {
        return Ok(values);
    }
    let n = values.par_iter().filter(|x| !x.is_finite()).count();
    Err(Error::job(format!("{n} of {} values of `{name}` are NaN or infinite", values.len()))
        .fix(format!("lower {}, or look at the ratings and weights; the last checkpoint is as it was", option("lr"))))
}
