/*! Where the faces are, for pictures that no manifest names: a CSV of boxes, looked up by path. */

use super::manifest::{FACE, Manifest, plain};
use super::pictures::Source;
use crate::error::{Error, Result};
use crate::preprocess::View;
use std::collections::HashMap;
use std::path::{Path, PathBuf, absolute};

/// Boxes by picture.
#[derive(Clone, Debug, Default)]
pub struct Boxes(HashMap<PathBuf, Source<'static>>);

impl Boxes {
    /// Reads `path` and the columns of [`FACE`]; paths start from the file's folder.
    pub fn read(file: &Path) -> Result<Self> {
        let manifest = Manifest::read(file, &[])?;
        if let Some(missing) = FACE.iter().find(|c| !manifest.columns().contains(c)) {
            return Err(Error::file(file, format!("no column `{missing}`"))
                .fix(format!("name its columns path, {}", FACE.join(", ")))
                .as_usage());
        }
        let key = |i| absolute(manifest.file(i)).map(|p| plain(&p)).map_err(|e| Error::io(file, "read", e));
        (0..manifest.rows.len()).map(|i| Ok((key(i)?, manifest.source(i)))).collect::<Result<_>>().map(Self)
    }

    /// A picture by the path that the user gave, with its box if it has one.
    pub fn source(&self, path: PathBuf) -> Source<'static> {
        let found = absolute(&path).ok().and_then(|p| self.0.get(&plain(&p)).cloned());
        match found {
            Some(Source::Boxed { face, place, .. }) => Source::Boxed { path, face, place },
            _ => Source::File(path),
        }
    }
}

/// How many of some pictures have no box although a view is to show it, in words; None if that is no loss.
pub fn seen_whole(sources: &[Source], views: &[View]) -> Option<String> {
    whole_of(sources.iter().filter(|s| s.face().is_none()).count(), sources.len(), views)
}

/// [`seen_whole`] of `whole` pictures without a box among `all`.
pub fn whole_of(whole: usize, all: usize, views: &[View]) -> Option<String> {
    (whole > 0 && views.iter().any(|v| v.crop.is_some()))
        .then(|| format!("{whole} of {all} pictures have no face box ({}) and are seen whole", FACE.join(", ")))
}
