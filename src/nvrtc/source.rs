//! The texts of `kernels/`: those in the program, or a folder of them while somebody works on them.

use crate::error::{Error, Result};
use crate::files;
use crate::hash::checksum;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// A folder that is read instead of the texts in the program.
const FOLDER: &str = "DEEP_AFFECT_KERNELS";

/// Where the texts in the program lie, by the word of what is compiled from them: the same on every machine.
const ROOT: &str = "/deep-affect/kernels/";

type Text = Cow<'static, str>;

/// A source and every file that it includes, directly or not.
pub struct KernelText {
    /// The folder of all of them, which profilers look into; ends in a slash.
    pub root: String,
    pub text: Text,
    /// By the name they are included by, which is their path under `kernels/`.
    pub headers: BTreeMap<String, Text>,
}

impl KernelText {
    /// By its path under `kernels/`.
    pub fn open(path: &str) -> Result<Self> {
        match files::named_by(FOLDER).map_err(Error::usage)? {
            Some(folder) => {
                let source = Self::with(path, &|path| read(&folder, path))?;
                let folder = std::fs::canonicalize(&folder).map_err(|e| Error::io(&folder, "find", e))?;
                Ok(Self { root: format!("{}/", folder.display()), ..source })
            }
            None => Self::with(path, &embedded),
        }
    }

    /// The text of one of its files, so that compiler, debugger and profiler call it by its whole path.
    pub fn placed(&self, name: &str, text: &str) -> String {
        format!("#line 1 \"{}{name}\"\n{text}", self.root)
    }

    /// `find` gives the text of a path. An include that is not found is left to the compiler, which knows whether the
    /// line counts and has the words for it.
    pub fn with(path: &str, find: &dyn Fn(&str) -> Result<Text>) -> Result<Self> {
        let text = find(path)?;
        let mut headers = BTreeMap::new();
        let mut left: Vec<String> = includes(&text).map(String::from).collect();
        while let Some(name) = left.pop() {
            if !headers.contains_key(&name)
                && let Ok(text) = find(&name)
            {
                left.extend(includes(&text).map(String::from));
                headers.insert(name, text);
            }
        }
        Ok(Self { root: ROOT.into(), text, headers })
    }
}

/// A source and, by their names, all that it includes, as they are compiled here.
///
/// # Errors
/// A source that cannot be read.
pub fn whole(path: &str) -> Result<String> {
    let KernelText { text, headers, .. } = KernelText::open(path)?;
    Ok(headers.iter().fold(text.into_owned(), |all, (name, text)| all + name + text))
}

/// Names what [`whole`] gives.
///
/// # Errors
/// A source that cannot be read.
pub fn fingerprint(path: &str) -> Result<String> {
    Ok(format!("{:016x}", checksum(whole(path)?.as_bytes())))
}

/// The path and the text of every file that the program has.
pub fn sources() -> impl Iterator<Item = (&'static str, &'static str)> {
    SOURCES.iter().copied()
}

fn embedded(path: &str) -> Result<Text> {
    match SOURCES.binary_search_by_key(&path, |(name, _)| name) {
        Ok(i) => Ok(Cow::Borrowed(SOURCES[i].1)),
        Err(_) => Err(Error::job(format!("no kernel source is called `{path}`"))),
    }
}

fn read(folder: &Path, path: &str) -> Result<Text> {
    let file = folder.join(path);
    files::text(&file, files::PAGE).map(Cow::Owned).map_err(|e| Error::io(file, "read", e))
}

/// Names between quotes after `#include`.
fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
        line.trim_start().strip_prefix('"')?.split('"').next()
    })
}
