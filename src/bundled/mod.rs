/*! A real data set inside the program, to try every command without downloading anything: 306 photographs with the ratings of
valence and arousal that about 100 people gave to each (a part of OASIS, Kurdi, Lozano & Banaji 2017).

`make_photographs.py` beside this file made it; [`NOTICE`] says where the photographs come from and why they may be here. */

use crate::error::{Error, Result};
use crate::files;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

include!(concat!(env!("OUT_DIR"), "/photographs.rs"));
include!(concat!(env!("OUT_DIR"), "/weights.rs"));

fn weights(name: &str) -> Option<&'static [u8]> {
    WEIGHTS.iter().find(|w| w.0 == name).map(|w| w.1)
}

/// VGG16's convolutions at 8 bits a weight: a tower file. None in a program that was built before there was one.
pub fn tower() -> Option<&'static [u8]> {
    weights("vgg16")
}

/// The model that `predict` uses: heads on [`tower`], trained on photographs that people rated. None in a program that was
/// built before there was one.
pub fn model() -> Option<&'static [u8]> {
    weights("affect")
}

/// The ratings, one line per photograph, sorted by path. No cell is quoted.
pub const CSV: &str = include_str!("photographs.csv");

/// Sources, licences, changes made; goes wherever the set goes.
pub const NOTICE: &str = include_str!("NOTICE");
/// The same of [`tower`] and [`model`].
pub const WEIGHTS_NOTICE: &str = include_str!("weights/NOTICE");
/// The same of [`classes`].
pub const CLASSES_NOTICE: &str = include_str!("classes/NOTICE");

/// Names of the classes of published networks, in the order of their outputs, where terms allow them to be here:
/// `imagenet`, `places365`, `hybrid1365`, `fer2013`. `classes/NOTICE` has sources and licences.
pub fn classes(set: &str) -> Option<Vec<&'static str>> {
    let text = match set {
        "imagenet" => include_str!("classes/imagenet.txt"),
        "places365" => include_str!("classes/places365.txt"),
        "hybrid1365" => include_str!("classes/hybrid1365.txt"),
        "fer2013" => "angry\ndisgust\nfear\nhappy\nsad\nsurprise\nneutral",
        _ => return None,
    };
    Some(text.lines().collect())
}

const COLUMNS: &str = "path,valence,arousal,group,dataset,category,valence_sd,arousal_sd,valence_n,arousal_n";

/// One photograph with its ratings.
#[derive(Clone, Debug)]
pub struct Photograph {
    /// Relative to the manifest: `photographs/acorns-i1.jpg`.
    pub path: &'static str,
    /// The file, 256 pixels wide or high at most.
    pub jpeg: &'static [u8],
    /// Mean ratings, 1 to 9: unpleasant to pleasant, calm to excited.
    pub valence: f32,
    pub arousal: f32,
    /// The theme: photographs of one are alike, and must never be split between training and test.
    pub group: &'static str,
    /// `Object`, `Scenery` or `Animal`.
    pub category: &'static str,
}

/// The set, in the order of the csv.
pub fn photographs() -> Result<Vec<Photograph>> {
    let bad = |line: usize, problem: &str| Err(Error::file("photographs.csv", problem).at(format!("line {line}")));
    let mut lines = CSV.lines();
    if lines.next() != Some(COLUMNS) {
        return bad(1, "the columns are not the ones this program was written for");
    }
    let mut set = Vec::with_capacity(PHOTOGRAPHS.len());
    for (i, line) in lines.enumerate() {
        let n = i + 2;
        let cells: Vec<&'static str> = line.split(',').collect();
        let [path, valence, arousal, group, _, category, ..] = cells[..] else {
            return bad(n, "not 10 cells");
        };
        let (Ok(valence), Ok(arousal)) = (valence.parse(), arousal.parse()) else {
            return bad(n, "a rating that is not a number");
        };
        let Some(jpeg) = path.strip_prefix("photographs/").and_then(jpeg) else {
            return bad(n, "a photograph that was not embedded");
        };
        set.push(Photograph { path, jpeg, valence, arousal, group, category });
    }
    Ok(set)
}

fn jpeg(file: &str) -> Option<&'static [u8]> {
    PHOTOGRAPHS.binary_search_by_key(&file, |p| p.0).ok().map(|i| PHOTOGRAPHS[i].1)
}

/// Writes the set to a folder, so that people can look at it and train on it: `photographs/*.jpg`, `NOTICE` and
/// `photographs.csv`, whose path it returns. Files that are already there and identical stay untouched, others of these names
/// are replaced whole. The csv comes last: where it is, the rest is too.
pub fn unpack(dir: &Path) -> Result<PathBuf> {
    let pictures = dir.join("photographs");
    fs::create_dir_all(&pictures).map_err(|e| Error::io(&pictures, "create the folder", e))?;
    for (name, jpeg) in PHOTOGRAPHS {
        place(&pictures, name, jpeg)?;
    }
    place(dir, "NOTICE", NOTICE.as_bytes())?;
    place(dir, "photographs.csv", CSV.as_bytes())
}

/// Puts a file with these bytes into a folder; at no time is there half a file of that name.
fn place(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    // Two threads or processes may unpack to the same folder: each has temporary names of its own.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let path = dir.join(name);
    if files::read(&path, bytes.len() as u64).is_ok_and(|there| there == bytes) {
        return Ok(path);
    }
    let tmp = dir.join(format!(".{name}.{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let written =
        fs::File::create_new(&tmp).and_then(|mut f| f.write_all(bytes)).and_then(|()| fs::rename(&tmp, &path));
    if let Err(e) = written {
        let _ = fs::remove_file(&tmp);
        return Err(Error::io(&path, "write", e));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Manifest, manifest};
    use std::collections::BTreeSet;

    #[test]
    fn every_row_has_its_photograph_and_every_photograph_its_row() {
        let set = photographs().unwrap();
        assert_eq!(set.len(), 306);
        assert!(!CSV.contains('"'));
        assert!(set.is_sorted_by(|a, b| a.path < b.path));
        let embedded: Vec<_> = PHOTOGRAPHS.iter().map(|p| format!("photographs/{}", p.0)).collect();
        assert_eq!(embedded, set.iter().map(|p| p.path).collect::<Vec<_>>());
        assert_eq!(set.iter().map(|p| p.group).collect::<BTreeSet<_>>().len(), 102);
        assert_eq!(set.iter().map(|p| p.category).collect::<BTreeSet<_>>().len(), 3);
        // Two that were the same picture would leak from training into test.
        assert_eq!(PHOTOGRAPHS.iter().map(|p| p.1).collect::<BTreeSet<_>>().len(), PHOTOGRAPHS.len());
        assert!(PHOTOGRAPHS.iter().map(|p| p.1.len()).sum::<usize>() <= 5_000_000);
        assert!(set.iter().all(|p| p.jpeg.starts_with(&[0xff, 0xd8, 0xff]) && p.jpeg.ends_with(&[0xff, 0xd9])));
    }

    #[test]
    fn ratings_are_those_of_the_table() {
        let set = photographs().unwrap();
        assert!(set.iter().all(|p| (1.0..=9.0).contains(&p.valence) && (1.0..=9.0).contains(&p.arousal)));
        // I1 of OASIS.csv, Acorns 1: 4.68627451 and 2.346534653 on 1 to 7.
        let acorns = set.iter().find(|p| p.path == "photographs/acorns-i1.jpg").unwrap();
        let stretched = |x: f64| (1.0 + (x - 1.0) * 8.0 / 6.0) as f32;
        assert!((acorns.valence - stretched(4.68627451)).abs() < 1e-4);
        assert!((acorns.arousal - stretched(2.346534653)).abs() < 1e-4);
    }

    /// What `weights inspect bundled` shows is the page that the repository shows.
    #[test]
    fn the_models_card_is_its_page() {
        let Some(bytes) = model() else { return };
        let file = crate::weights::WeightFile::from_static("the bundled model", bytes).unwrap();
        assert_eq!(file.metadata()[crate::weights::ABOUT], include_str!("affect.md"));
    }

    #[test]
    fn unpacking_writes_the_set_once_and_repairs_it() {
        let dir = tempfile::tempdir().unwrap();
        let csv = unpack(&dir.path().join("a/set")).unwrap();
        let root = csv.parent().unwrap();
        assert_eq!(fs::read_to_string(&csv).unwrap(), CSV);
        assert_eq!(fs::read_to_string(root.join("NOTICE")).unwrap(), NOTICE);
        for p in photographs().unwrap() {
            assert_eq!(fs::read(root.join(p.path)).unwrap(), p.jpeg);
        }
        // It is a manifest like any other, with the columns that a study asks for.
        let manifest = Manifest::read(&csv, &manifest::TARGETS).unwrap();
        assert_eq!((manifest.rows.len(), manifest.rows[0].group.as_deref()), (306, Some("Acorns")));
        assert!(manifest.labels("valence_sd").unwrap().iter().all(Option::is_some));
        let modified = |file: &str| fs::metadata(root.join(file)).unwrap().modified().unwrap();
        let (kept, broken) = ("photographs/acorns-i1.jpg", "photographs/acorns-i2.jpg");
        let before = modified(kept);
        fs::write(root.join(broken), b"half a f").unwrap();
        unpack(root).unwrap();
        assert_eq!(modified(kept), before);
        assert_eq!(fs::read(root.join(broken)).unwrap(), jpeg("acorns-i2.jpg").unwrap());
        // Nothing temporary stays behind.
        assert_eq!(fs::read_dir(root.join("photographs")).unwrap().count(), 306);
        assert_eq!(fs::read_dir(root).unwrap().count(), 3);
    }

    #[test]
    fn unpacking_names_the_file_that_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("photographs"), "").unwrap();
        assert!(unpack(dir.path()).unwrap_err().to_string().contains("photographs: cannot create the folder"));
        fs::remove_file(dir.path().join("photographs")).unwrap();
        fs::create_dir_all(dir.path().join("photographs.csv/x")).unwrap();
        assert!(unpack(dir.path()).unwrap_err().to_string().contains("photographs.csv: cannot write"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "the temporary file is gone");
    }
}
