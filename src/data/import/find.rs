//! Where in an unpacked folder a set keeps its table and its pictures.

use crate::error::{Error, Result, option};
use crate::files;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How many folders deep a table is looked for.
const DEPTH: usize = 3;

/// The files that one of `names` fits (`*` stands for anything, capitals do not matter), from the first name that fits any
/// and from the folders nearest to `root`. Sorted; empty if there are none.
pub fn files(root: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut levels = vec![vec![root.to_path_buf()]];
    for depth in 0..DEPTH {
        let (mut here, mut below) = (Vec::new(), Vec::new());
        for folder in &levels[depth] {
            let (folders, files): (Vec<_>, Vec<_>) = list(folder)?.into_iter().partition(|p| p.is_dir());
            here.extend(files);
            below.extend(folders);
        }
        for name in names {
            let fits = |p: &PathBuf| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| fits(name, n)) && !ours(p);
            let found: Vec<_> = here.iter().filter(|p| fits(p)).cloned().collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        levels.push(below);
    }
    Ok(Vec::new())
}

/// The one file that one of `names` fits.
pub fn file(root: &Path, names: &[&str]) -> Result<PathBuf> {
    match &files(root, names)?[..] {
        [one] => Ok(one.clone()),
        [] => Err(missing(root, names)),
        [a, b, ..] => Err(Error::file(root, format!("holds several tables: {} and {}", a.display(), b.display()))
            .fix(format!("name one with {}, or the folder of one of them", option("table")))),
    }
}

/// That none of `names` is there.
pub fn missing(root: &Path, names: &[&str]) -> Error {
    Error::file(root, format!("holds no {}, nor do the folders in it", names.join(" or ")))
        .fix(format!("name the folder that the set was unpacked into, or the table with {}", option("table")))
}

/// The folder of the pictures: the first of `names` beside the table, or `root`.
pub fn pictures(root: &Path, table: &Path, names: &[&str]) -> Result<PathBuf> {
    let beside = table.parent().unwrap_or(root);
    let folders = list(if beside.starts_with(root) { beside } else { root })?;
    let is = |p: &&PathBuf, name: &str| p.is_dir() && p.file_name().is_some_and(|n| n.eq_ignore_ascii_case(name));
    let found = names.iter().find_map(|name| folders.iter().find(|p| is(p, name)));
    Ok(found.map_or(root, PathBuf::as_path).to_path_buf())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(dir, "list the folder", e);
    let mut paths =
        std::fs::read_dir(dir).map_err(io)?.map(|e| Ok(e.map_err(io)?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|p| !p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')));
    paths.sort();
    Ok(paths)
}

/// Tables that this program wrote there: an earlier import must not be taken for its own source.
fn ours(path: &Path) -> bool {
    let mut head = [0; 5];
    let read = files::open(path).and_then(|mut f| f.read_exact(&mut head));
    let name = path.to_string_lossy();
    name.ends_with(".unmatched.csv") || name.ends_with(".duplicates.csv") || (read.is_ok() && head == *b"path,")
}

/// `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_lowercase(), name.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, yes) in [
            ("OASIS.csv", "oasis.CSV", true),
            ("OASIS.csv", "xoasis.csv", false),
            ("AllSubjects*.txt", "AllSubjects_1-20.txt", true),
            ("*valence*.txt", "valence_avg_10766_v2.txt", true),
            ("*valence*.txt", "arousal.txt", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, name), yes, "{pattern} {name}");
        }
    }

    #[test]
    fn the_nearest_table_and_not_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("a/NAPS.csv", "id,v\n");
        put("naps.csv", "path,valence\n");
        put("naps.unmatched.csv", "what,name\n");
        let found = file(dir.path(), &["NAPS*.csv"]).unwrap();
        assert!(found.ends_with("a/NAPS.csv"), "{}", found.display());
        put("b/NAPS 2.csv", "id,v\n");
        assert!(file(dir.path(), &["NAPS*.csv"]).unwrap_err().to_string().contains("holds several tables: "));
        assert!(file(dir.path(), &["x.csv", "y.csv"]).unwrap_err().to_string().contains("holds no x.csv or y.csv"));
        put("b/Images/1.jpg", "");
        let table = dir.path().join("b/NAPS 2.csv");
        assert!(pictures(dir.path(), &table, &["images"]).unwrap().ends_with("b/Images"));
        assert_eq!(pictures(dir.path(), &table, &["img"]).unwrap(), dir.path());
    }
}
