/*! The pictures of a folder, in an order that does not depend on the file system. */

use super::sniff::{ENDINGS, UNREAD_ENDINGS};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// What a folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Pictures by their ending, relative to the folder, sorted.
    pub files: Vec<PathBuf>,
    /// Pictures of formats that are not read (AVIF, HEIC …), sorted.
    pub unread: Vec<PathBuf>,
    /// Files that are no pictures by their ending, and how many have it: `.txt`, or nothing for a name without one.
    pub others: BTreeMap<String, usize>,
    /// Hidden files and folders, not looked into.
    pub hidden: usize,
}

/// Endings that a remark names before it counts the rest.
const NAMED: usize = 6;

impl Walk {
    /// Whether a file is to be looked at by its name, of whatever format; one that is not is counted.
    pub fn takes(&mut self, name: &Path) -> bool {
        let hidden = name.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let picture = !hidden && (has_ending(name, &ENDINGS) || has_ending(name, &UNREAD_ENDINGS));
        match hidden {
            _ if picture => {}
            true => self.hidden += 1,
            false => self.pass(name),
        }
        picture
    }

    /// Counts what is no picture.
    pub fn pass(&mut self, name: &Path) {
        let ending = name.extension().map_or(String::new(), |e| format!(".{}", e.to_string_lossy()));
        *self.others.entry(ending.to_lowercase()).or_default() += 1;
    }

    /// What was passed over and why, for people; None if nothing was.
    pub fn passed_over(&self) -> Option<String> {
        let named = |(ending, n): (&String, &usize)| match ending.as_str() {
            "" => format!("{n} without an ending"),
            ending => format!("{n} {ending}"),
        };
        let mut kinds: Vec<_> = self.others.iter().collect();
        kinds.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let rest: usize = kinds.iter().skip(NAMED).map(|k| *k.1).sum();
        let mut parts: Vec<String> = kinds.into_iter().take(NAMED).map(named).collect();
        parts.extend((rest > 0).then(|| format!("{rest} others")));
        let files: usize = self.others.values().sum();
        let mut reasons = Vec::new();
        if files > 0 {
            reasons.push(format!("{files} files that do not end like pictures ({})", parts.join(", ")));
        }
        if self.hidden > 0 {
            reasons.push(format!("{} hidden ones", self.hidden));
        }
        (!reasons.is_empty()).then(|| format!("passed over: {}", reasons.join(" and ")))
    }
}

/// Lists `dir` and everything under it. Linked folders are entered once, so a loop ends.
pub fn walk(dir: impl AsRef<Path>) -> Result<Walk> {
    let dir = dir.as_ref();
    let meta = std::fs::metadata(dir).map_err(|e| Error::io(dir, "list the folder", e))?;
    if !meta.is_dir() {
        return Err(Error::file(dir, "is not a folder").fix("name a folder of pictures"));
    }
    let (mut found, mut seen) = (Walk::default(), HashSet::new());
    let mut todo = vec![PathBuf::new()];
    while let Some(inner) = todo.pop() {
        let here = dir.join(&inner);
        let list = |e| Error::io(&here, "list the folder", e);
        if !seen.insert(here.canonicalize().map_err(list)?) {
            continue;
        }
        for entry in std::fs::read_dir(&here).map_err(list)? {
            let name = entry.map_err(list)?.file_name();
            let path = inner.join(&name);
            if name.to_string_lossy().starts_with('.') {
                found.hidden += 1;
                continue;
            }
            // Follows links; a dangling one is nobody's picture.
            match std::fs::metadata(dir.join(&path)) {
                Ok(m) if m.is_dir() => todo.push(path),
                Ok(m) if m.is_file() && has_ending(&path, &ENDINGS) => found.files.push(path),
                Ok(m) if m.is_file() && has_ending(&path, &UNREAD_ENDINGS) => found.unread.push(path),
                _ => found.pass(&path),
            }
        }
        // Entered in sorted order, so that of two links to one folder the same one counts everywhere.
        todo.sort_by(|a, b| b.cmp(a));
    }
    found.files.sort();
    found.unread.sort();
    Ok(found)
}

/// True if the name ends like a picture that is read.
pub fn is_picture(path: impl AsRef<Path>) -> bool {
    has_ending(path.as_ref(), &ENDINGS)
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| endings.iter().any(|x| e.eq_ignore_ascii_case(x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_counted_and_safe_from_loops() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        };
        for name in ["b.JPG", "a/z.png", "a/y.webp", "a.txt", ".hidden.jpg", ".git/c.jpg", "new.heic", "trailing .jpg"]
        {
            put(name);
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink("..", dir.path().join("a/loop")).unwrap();
        let w = walk(dir.path()).unwrap();
        assert_eq!(w.files, ["a/y.webp", "a/z.png", "b.JPG", "trailing .jpg"].map(PathBuf::from));
        assert_eq!((w.unread.len(), w.others[".txt"], w.hidden), (1, 1, 2));
        put("b.bin");
        put("c.BIN");
        put("plain");
        let said = walk(dir.path()).unwrap().passed_over().unwrap();
        assert_eq!(
            said,
            "passed over: 4 files that do not end like pictures (2 .bin, 1 without an ending, 1 .txt) and 2 hidden ones"
        );
        assert_eq!(Walk::default().passed_over(), None);
        assert!(walk(dir.path().join("b.JPG")).unwrap_err().to_string().contains("not a folder"));
        assert!(walk(dir.path().join("none")).is_err());
    }
}
