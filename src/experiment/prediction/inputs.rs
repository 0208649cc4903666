//! Where the pictures come from: files and folders, a list of paths, archives. Lists and archives are read as they are answered,
//! so that their length costs no memory.

use super::shard::Shard;
use crate::data::decode::MAX_FILE;
use crate::data::tar::Archive;
use crate::data::walk::Walk;
use crate::data::{Boxes, Source};
use crate::error::{Error, Result, line, path_text};
use crate::experiment::events::{Events, tell};
use crate::experiment::trained;
use crate::files;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The pictures that are asked about.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// Pictures, folders (searched through, in sorted order), or `-` for one picture on standard input.
    Paths(Vec<PathBuf>),
    /// A file with a path on each line. `-` is standard input, whose lines are answered as they come.
    List(PathBuf),
    /// Tar archives, whose pictures are decoded where they lie. `-` is standard input.
    Archives(Vec<PathBuf>),
}

/// Something to be answered.
pub(super) enum Input {
    Picture(Source<'static>),
    /// An encoded picture of an archive.
    Packed {
        name: String,
        bytes: Vec<u8>,
    },
    /// Found out without decoding: path, reason.
    Bad(String, String),
    /// One picture on standard input.
    Stdin,
}

/// What a list or an archive is called in messages where it comes through a pipe.
const STDIN: &str = "standard input";
/// Most bytes of a path in a list.
const MAX_LINE: u64 = 64 << 10;

pub(super) type Items = Box<dyn Iterator<Item = Result<Input>> + Send>;

impl Input {
    pub fn name(&self) -> String {
        match self {
            Input::Picture(source) => source.name(),
            Input::Packed { name, .. } => name.clone(),
            Input::Bad(path, _) => path.clone(),
            Input::Stdin => "-".into(),
        }
    }

    /// Whether it is a picture of which nobody says where its face is.
    pub fn whole(&self) -> bool {
        match self {
            Input::Picture(source) => source.face().is_none(),
            Input::Packed { .. } | Input::Stdin => true,
            Input::Bad(..) => false,
        }
    }
}

impl Inputs {
    /// Whether each is to be answered when it comes, because somebody may wait for it.
    pub fn live(&self) -> bool {
        matches!(self, Inputs::List(file) if file.as_os_str() == "-")
    }

    /// What they are called where they are named, one after another.
    pub fn names(&self) -> String {
        let (kind, paths) = match self {
            Inputs::Paths(paths) => ("", &paths[..]),
            Inputs::List(file) => ("list ", std::slice::from_ref(file)),
            Inputs::Archives(paths) => ("tar ", &paths[..]),
        };
        kind.to_string() + &paths.iter().map(|p| path_text(p)).collect::<Vec<_>>().join(", ")
    }

    /// Refuses a folder or an archive that is named twice. (Pictures may be: whoever lists them knows of each.)
    fn once(&self) -> Result<()> {
        let (all, archives) = match self {
            Inputs::Paths(paths) => (&paths[..], false),
            Inputs::Archives(paths) => (&paths[..], true),
            Inputs::List(_) => return Ok(()),
        };
        let mut seen = HashSet::new();
        for path in all.iter().filter(|p| archives || p.is_dir()) {
            // Standard input has no other name, and what is not there is told by who opens it.
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            if !seen.insert(real) {
                let twice = Error::file(path, "is named twice, and each of its pictures would have two rows");
                return Err(twice.fix("name it once").as_usage());
            }
        }
        Ok(())
    }

    /// All of a shard, one after another, and how many where that is known before the end.
    pub(super) fn open(
        &self,
        shard: Option<Shard>,
        boxes: Boxes,
        events: &Arc<dyn Events>,
    ) -> Result<(Items, Option<usize>)> {
        self.once()?;
        match self {
            Inputs::Paths(paths) => {
                let all = list(paths, shard, &boxes, &**events)?;
                let n = all.len();
                Ok((Box::new(all.into_iter().map(Ok)), Some(n)))
            }
            Inputs::List(file) => {
                let (file, from) = match file.as_os_str() == "-" {
                    true => (Path::new(STDIN), Box::new(BufReader::new(stdin())) as Box<dyn BufRead + Send>),
                    false => {
                        let opened = files::open(file).map_err(|e| Error::io(file, "read", e))?;
                        (&**file, Box::new(BufReader::new(opened)) as Box<dyn BufRead + Send>)
                    }
                };
                let lines = Lines { from, file: file.into(), number: 0 };
                let own = move |path: &Result<PathBuf>| match (path, shard) {
                    (Ok(path), Some(shard)) => shard.has(path.as_os_str().as_encoded_bytes()),
                    _ => true,
                };
                let input = move |path: PathBuf| match path.as_os_str().is_empty() {
                    true => Input::Bad(String::new(), "the line is empty, and a path is to stand there".into()),
                    false => Input::Picture(boxes.source(path)),
                };
                Ok((Box::new(lines.filter(own).map(move |path| path.map(&input))), None))
            }
            Inputs::Archives(paths) => {
                let archives = Archives {
                    left: paths.clone().into_iter(),
                    open: None,
                    shard,
                    found: false,
                    passed: Walk::default(),
                    links: 0,
                    events: events.clone(),
                };
                Ok((Box::new(archives), None))
            }
        }
    }
}

/// The pictures of a shard, in the order they were named and sorted inside folders.
fn list(paths: &[PathBuf], shard: Option<Shard>, boxes: &Boxes, events: &dyn Events) -> Result<Vec<Input>> {
    let own = |name: &Path| shard.is_none_or(|s| s.has(name.as_os_str().as_encoded_bytes()));
    let mut inputs = vec![];
    for path in paths {
        if path.as_os_str() == "-" {
            if inputs.iter().any(|i| matches!(i, Input::Stdin)) {
                return Err(Error::usage("- is named twice, and stdin can be read once").fix("name it once"));
            }
            inputs.push(Input::Stdin);
        } else if path.is_dir() {
            let all = trained::folder(path, events)?;
            if all.is_empty() {
                inputs.push(Input::Bad(path_text(path), "no pictures in this folder; name another".into()));
            }
            let all = all.into_iter().filter(|inner| own(inner));
            inputs.extend(all.map(|inner| Input::Picture(boxes.source(path.join(inner)))));
        } else if own(path) {
            inputs.push(Input::Picture(boxes.source(path.clone())));
        }
    }
    Ok(inputs)
}

/// The paths of a list.
struct Lines {
    from: Box<dyn BufRead + Send>,
    file: PathBuf,
    number: u64,
}

impl Iterator for Lines {
    type Item = Result<PathBuf>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = vec![];
        self.number += 1;
        match (&mut self.from).take(MAX_LINE + 1).read_until(b'\n', &mut bytes) {
            Err(e) => return Some(Err(Error::io(&self.file, "read", e))),
            Ok(0) => return None,
            Ok(_) => {}
        }
        if bytes.pop_if(|b| *b == b'\n').is_none() && bytes.len() as u64 > MAX_LINE {
            let wrong = Error::file(&self.file, format!("has more than {MAX_LINE} bytes without the end of a line"));
            return Some(Err(wrong.at(format!("line {}", self.number)).fix("list one path a line")));
        }
        bytes.pop_if(|b| *b == b'\r');
        path_of(bytes).map_or_else(
            || {
                let wrong = Error::file(&self.file, "is no text in UTF-8").at(format!("line {}", self.number));
                Some(Err(wrong.fix("write it in UTF-8")))
            },
            |path| Some(Ok(path)),
        )
    }
}

/// A path of its bytes; on other systems than Unix, where paths are text, None for what is none.
fn path_of(bytes: Vec<u8>) -> Option<PathBuf> {
    #[cfg(unix)]
    let name = Some(std::os::unix::ffi::OsStringExt::from_vec(bytes));
    #[cfg(not(unix))]
    let name = String::from_utf8(bytes).ok().map(OsString::from);
    name.map(|name: OsString| name.into())
}

/// The pictures of archives.
struct Archives {
    left: std::vec::IntoIter<PathBuf>,
    /// With what stands before the names of its pictures.
    open: Option<(Archive, String)>,
    shard: Option<Shard>,
    /// Whether there was a picture, of whatever shard.
    found: bool,
    passed: Walk,
    links: usize,
    events: Arc<dyn Events>,
}

impl Archives {
    fn advance(&mut self) -> Result<Option<Input>> {
        loop {
            let Some((archive, prefix)) = &mut self.open else {
                let Some(path) = self.left.next() else { return Ok(self.end()) };
                self.open = Some(match path.as_os_str() == "-" {
                    true => (Archive::pipe(Path::new(STDIN), stdin()), String::new()),
                    false => (Archive::open(&path)?, path_text(&path) + "/"),
                });
                continue;
            };
            let Some(entry) = archive.entry()? else {
                self.open = None;
                continue;
            };
            if !entry.file {
                // Folders are not missed.
                self.links += usize::from(!entry.name.ends_with('/'));
                continue;
            }
            if !self.passed.takes(Path::new(&entry.name)) {
                continue;
            }
            self.found = true;
            if self.shard.is_some_and(|s| !s.has(entry.name.as_bytes())) {
                continue;
            }
            let name = format!("{prefix}{}", entry.name);
            if entry.bytes > MAX_FILE {
                let (has, most) = (entry.bytes >> 20, MAX_FILE >> 20);
                return Ok(Some(Input::Bad(name, format!("has {has} MiB, and {most} are read at most; reduce it"))));
            }
            return Ok(Some(Input::Packed { name, bytes: archive.content()? }));
        }
    }

    /// Says what was passed over, and that there was no picture at all.
    fn end(&mut self) -> Option<Input> {
        if let Some(passed_over) = std::mem::take(&mut self.passed).passed_over() {
            tell!(self.events, "{}", line(&passed_over));
        }
        if self.links > 0 {
            tell!(self.events, "passed over: {} links or devices, which hold no picture", self.links);
            self.links = 0;
        }
        let none = !std::mem::replace(&mut self.found, true);
        none.then(|| Input::Bad("tar".into(), "no pictures in what was given; name another archive".into()))
    }
}

impl Iterator for Archives {
    type Item = Result<Input>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
