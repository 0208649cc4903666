/*! The pictures of a folder, in an order that does not depend on the file system. */

use super::sniff::{ENDINGS, UNREAD_ENDINGS};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What a folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Pictures by their ending, relative to the folder, sorted.
    pub files: Vec<PathBuf>,
    /// Pictures of formats that are not read (AVIF, HEIC …), sorted.
    pub unread: Vec<PathBuf>,
    /// Files that are no pictures.
    pub others: usize,
    /// Hidden files and folders, not looked into.
    pub hidden: usize,
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
                _ => found.others += 1,
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
        assert_eq!((w.unread.len(), w.others, w.hidden), (1, 1, 2));
        assert!(walk(dir.path().join("b.JPG")).unwrap_err().to_string().contains("not a folder"));
        assert!(walk(dir.path().join("none")).is_err());
    }
}
