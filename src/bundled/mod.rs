/*! A small real data set inside the program, to try every command without downloading anything: 615 emoji in two
drawings each (Twemoji and Noto), with the sentiment that people gave to tweets containing them (Emoji Sentiment
Ranking, Kralj Novak et al. 2015).

`make_emoji.py` beside this file made it; [`NOTICE`] has sources, licences and the formulas of the labels. The second
label is *intensity*, how often an emoji is used with any sentiment. It is not arousal: nobody rated that.

The drawings have an alpha channel, and their transparent pixels have arbitrary colours: whoever decodes them has to
lay them over a background. */

use crate::error::{Error, Result};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

include!(concat!(env!("OUT_DIR"), "/drawings.rs"));
include!(concat!(env!("OUT_DIR"), "/weights.rs"));

fn weights(name: &str) -> Option<&'static [u8]> {
    WEIGHTS.iter().find(|w| w.0 == name).map(|w| w.1)
}

/// A checkpoint of a tiny network trained on the set, so that `predict` answers without any file. It knows drawings and
/// nothing about photographs. None in a program that was built before there was one.
pub fn toy_model() -> Option<&'static [u8]> {
    weights("toy")
}

/// Three tiny pretrained towers, by name: weight files of `pretrain` on the set's own classes.
pub fn towers() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    ["object", "scene", "face"].into_iter().filter_map(|name| Some((name, weights(name)?)))
}

/// The labels, one line per drawing, sorted by path. No cell is quoted.
pub const EMOJI_CSV: &str = include_str!("emoji.csv");

/// Sources, licences, changes made; goes wherever the set goes.
pub const NOTICE: &str = include_str!("NOTICE");

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

const COLUMNS: &str = "path,valence,intensity,group,dataset,category,subcategory,face,name";

/// One drawing with its labels.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Relative to the manifest: `emoji/noto-1f600.png`.
    pub path: &'static str,
    /// The file: 64 x 64, with transparency.
    pub png: &'static [u8],
    /// Sentiment of the tweets that contain the emoji, 1 (negative) to 9 (positive).
    pub valence: f32,
    /// How often the emoji is used with any sentiment, 1 (never) to 9 (always). Not arousal.
    pub intensity: f32,
    /// The code point (`1f600`), the same for both drawings: they must never be split between training and test.
    pub group: &'static str,
    /// Who drew it: `noto` or `twemoji`.
    pub dataset: &'static str,
    /// The emoji's group in Unicode's order: `Smileys & Emotion`.
    pub category: &'static str,
    /// Its sub-group: `face-smiling`.
    pub subcategory: &'static str,
    /// `happiness`, `sadness`, `fear`, `anger` or `no-face`; none where a face shows no single one of the four.
    pub face: Option<&'static str>,
    /// The Unicode name in lower case.
    pub name: &'static str,
}

/// The set, in the order of the csv.
pub fn emoji() -> Result<Vec<Drawing>> {
    let bad = |line: usize, problem: &str| Err(Error::file("emoji.csv", problem).at(format!("line {line}")));
    let mut lines = EMOJI_CSV.lines();
    if lines.next() != Some(COLUMNS) {
        return bad(1, "the columns are not the ones this program was written for");
    }
    let mut set = Vec::with_capacity(DRAWINGS.len());
    for (i, line) in lines.enumerate() {
        let n = i + 2;
        let cells: Vec<&'static str> = line.split(',').collect();
        let Ok([path, valence, intensity, group, dataset, category, subcategory, face, name]) =
            <[&str; 9]>::try_from(cells)
        else {
            return bad(n, "not 9 cells");
        };
        let (Ok(valence), Ok(intensity)) = (valence.parse(), intensity.parse()) else {
            return bad(n, "a label that is not a number");
        };
        let Some(png) = path.strip_prefix("emoji/").and_then(png) else {
            return bad(n, "a drawing that was not embedded");
        };
        let face = Some(face).filter(|f| !f.is_empty());
        set.push(Drawing { path, png, valence, intensity, group, dataset, category, subcategory, face, name });
    }
    Ok(set)
}

fn png(file: &str) -> Option<&'static [u8]> {
    DRAWINGS.binary_search_by_key(&file, |d| d.0).ok().map(|i| DRAWINGS[i].1)
}

/// Writes the set to a folder, so that people can look at it and train on it: `emoji/*.png`, `NOTICE` and `emoji.csv`,
/// whose path it returns. Files that are already there and identical stay untouched, others of these names are
/// replaced whole. The csv comes last: where it is, the rest is too.
pub fn unpack(dir: &Path) -> Result<PathBuf> {
    let pictures = dir.join("emoji");
    fs::create_dir_all(&pictures).map_err(|e| Error::io(&pictures, "create the folder", e))?;
    for (name, png) in DRAWINGS {
        place(&pictures, name, png)?;
    }
    place(dir, "NOTICE", NOTICE.as_bytes())?;
    place(dir, "emoji.csv", EMOJI_CSV.as_bytes())
}

/// Puts a file with these bytes into a folder; at no time is there half a file of that name.
fn place(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    // Two threads or processes may unpack to the same folder: each has temporary names of its own.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let path = dir.join(name);
    if fs::read(&path).is_ok_and(|there| there == bytes) {
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
    use std::collections::{BTreeMap, BTreeSet};

    fn sizes(of: impl Fn(&Drawing) -> Option<&'static str>) -> BTreeMap<&'static str, usize> {
        let mut sizes = BTreeMap::new();
        for class in emoji().unwrap().iter().filter_map(of) {
            *sizes.entry(class).or_default() += 1;
        }
        sizes
    }

    #[test]
    fn every_row_has_its_drawing_and_every_drawing_its_row() {
        let set = emoji().unwrap();
        assert_eq!(set.len(), 1230);
        assert!(!EMOJI_CSV.contains('"'));
        assert!(set.is_sorted_by(|a, b| a.path < b.path));
        let embedded: Vec<_> = DRAWINGS.iter().map(|d| format!("emoji/{}", d.0)).collect();
        assert_eq!(embedded, set.iter().map(|d| d.path).collect::<Vec<_>>());
        for d in &set {
            assert_eq!(d.path, format!("emoji/{}-{}.png", d.dataset, d.group));
            assert!(char::from_u32(u32::from_str_radix(d.group, 16).unwrap()).is_some(), "{}", d.path);
        }
    }

    /// A group that held one drawing only, or drawings with different labels, would make the split by group unfair.
    #[test]
    fn every_group_has_both_drawings_with_the_same_labels() {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for d in emoji().unwrap() {
            groups.entry(d.group).or_default().push(d);
        }
        assert_eq!(groups.len(), 615);
        for (group, d) in groups {
            assert_eq!(d.iter().map(|d| d.dataset).collect::<Vec<_>>(), ["noto", "twemoji"], "{group}");
            let labels = |d: &Drawing| (d.valence, d.intensity, d.category, d.subcategory, d.face, d.name);
            assert_eq!(labels(&d[0]), labels(&d[1]), "{group}");
        }
    }

    #[test]
    fn labels_stay_on_their_scale() {
        let set = emoji().unwrap();
        for d in &set {
            assert!((1.0..=9.0).contains(&d.valence) && (1.0..=9.0).contains(&d.intensity), "{}", d.path);
            // The share of sentiment cannot be smaller than the surplus of one side.
            assert!((d.valence - 5.0).abs() / 4.0 <= (d.intensity - 1.0) / 8.0 + 1e-4, "{}", d.path);
            assert!(!d.name.is_empty() && d.name == d.name.to_lowercase(), "{}", d.path);
        }
        // Face with tears of joy, counts of the ranking: 3614 negative, 4163 neutral, 6845 positive.
        let joy = set.iter().find(|d| d.path == "emoji/noto-1f602.png").unwrap();
        assert!((joy.valence - (5.0 + 4.0 * (6845.0 - 3614.0) / 14625.0)).abs() < 1e-4);
        assert!((joy.intensity - (1.0 + 8.0 * (1.0 - 4164.0 / 14625.0))).abs() < 1e-4);
    }

    #[test]
    fn drawings_are_png_of_64_by_64() {
        for d in emoji().unwrap() {
            assert_eq!(&d.png[..16], b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "{}", d.path);
            assert_eq!(&d.png[16..24], &[0, 0, 0, 64, 0, 0, 0, 64], "{}", d.path);
            assert!(d.png.ends_with(b"\0\0\0\0IEND\xaeB`\x82"), "{}", d.path);
        }
    }

    /// Two drawings of different emoji that were the same picture would leak from training into test.
    #[test]
    fn no_drawing_occurs_twice() {
        assert_eq!(DRAWINGS.iter().map(|d| d.1).collect::<BTreeSet<_>>().len(), DRAWINGS.len());
    }

    #[test]
    fn classes_can_be_trained() {
        let category = sizes(|d| Some(d.category));
        assert_eq!(category.len(), 9);
        assert!(category.iter().all(|(&class, &n)| n >= 60 || (class == "Flags" && n == 4)), "{category:?}");
        assert!(sizes(|d| Some(d.subcategory)).values().filter(|&&n| n >= 8).count() >= 60);
        let face = sizes(|d| d.face);
        assert_eq!(face.keys().copied().collect::<Vec<_>>(), ["anger", "fear", "happiness", "no-face", "sadness"]);
        assert!(face.values().all(|&n| n >= 10), "{face:?}");
    }

    #[test]
    fn unpacking_writes_the_set_once_and_repairs_it() {
        let dir = tempfile::tempdir().unwrap();
        let csv = unpack(&dir.path().join("a/set")).unwrap();
        let root = csv.parent().unwrap();
        assert_eq!(fs::read_to_string(&csv).unwrap(), EMOJI_CSV);
        assert_eq!(fs::read_to_string(root.join("NOTICE")).unwrap(), NOTICE);
        for d in emoji().unwrap() {
            assert_eq!(fs::read(root.join(d.path)).unwrap(), d.png);
        }
        let modified = |file: &str| fs::metadata(root.join(file)).unwrap().modified().unwrap();
        let (kept, broken) = ("emoji/noto-1f600.png", "emoji/noto-1f602.png");
        let before = modified(kept);
        fs::write(root.join(broken), b"half a f").unwrap();
        unpack(root).unwrap();
        assert_eq!(modified(kept), before);
        assert_eq!(fs::read(root.join(broken)).unwrap(), png("noto-1f602.png").unwrap());
        // Nothing temporary stays behind.
        assert_eq!(fs::read_dir(root.join("emoji")).unwrap().count(), 1230);
        assert_eq!(fs::read_dir(root).unwrap().count(), 3);
    }

    #[test]
    fn unpacking_names_the_file_that_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("emoji"), "").unwrap();
        assert!(unpack(dir.path()).unwrap_err().to_string().contains("emoji: cannot create the folder"));
        fs::remove_file(dir.path().join("emoji")).unwrap();
        fs::create_dir_all(dir.path().join("emoji.csv/x")).unwrap();
        assert!(unpack(dir.path()).unwrap_err().to_string().contains("emoji.csv: cannot write"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "the temporary file is gone");
    }
}
