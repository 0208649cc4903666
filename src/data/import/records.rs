/*! What a set says of its pictures, before the pictures are looked for, and the search for them: by name, never by position
in a sorted list. */

use super::{Import, Scale};
use crate::data::join::{Files, How};
use crate::data::manifest::{Manifest, Row};
use crate::data::sniff::refusal;
use crate::data::walk::walk;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One picture, as named by the set.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Where the set says it, for messages: `line 7`.
    pub place: String,
    /// A path, a file name, or a file name without its ending.
    pub key: String,
    /// On 1-9, one for each of [`Records::targets`].
    pub ratings: Vec<f64>,
    pub group: Option<String>,
    /// One for each of [`Records::extras`].
    pub extras: Vec<Option<String>>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The file that messages are about.
    pub file: PathBuf,
    pub targets: Vec<String>,
    /// Names of further columns.
    pub extras: Vec<String>,
    pub rows: Vec<Record>,
    /// Rows that cannot be used, whatever pictures there are: which, why.
    pub dropped: Vec<(String, String)>,
    pub notes: Vec<String>,
}

/// How the pictures are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    pub root: &'a Path,
    pub dataset: Option<&'a str>,
    /// Leave GIF and TIFF files out, as the paper does (section 2.1).
    pub stills: bool,
}

/// A rating on 1-9. `scale` has the ends it was given on.
pub fn onto_nine(value: f64, (lo, hi): Scale) -> f64 {
    (value - lo) * 8.0 / (hi - lo) + 1.0
}

/// A difference of ratings, such as their SD, on 1-9.
pub fn spread_onto_nine(value: f64, (lo, hi): Scale) -> f64 {
    value * 8.0 / (hi - lo)
}

/// A number for the manifest, with the digits a float32 has.
pub fn shown(value: f64) -> String {
    (value as f32).to_string()
}

impl Records {
    /// Those of another file of the same set. Columns that only one of the two has are empty for the other.
    pub fn append(&mut self, other: Records) {
        for name in &other.extras {
            self.column(name);
        }
        let places: Vec<_> = other.extras.iter().filter_map(|n| self.extras.iter().position(|m| m == n)).collect();
        for mut row in other.rows {
            let mut extras = vec![None; self.extras.len()];
            places.iter().zip(row.extras).for_each(|(&i, text)| extras[i] = text);
            row.extras = extras;
            self.rows.push(row);
        }
        self.dropped.extend(other.dropped);
        self.notes.extend(other.notes);
    }

    /// The place of a further column, which is made if there is none.
    pub fn column(&mut self, name: &str) -> usize {
        self.extras.iter().position(|n| n == name).unwrap_or_else(|| {
            self.extras.push(name.into());
            self.rows.iter_mut().for_each(|r| r.extras.push(None));
            self.extras.len() - 1
        })
    }

    /// Finds the picture of every record. Errors if no record has one.
    pub fn find(self, search: Search) -> Result<Import> {
        let found = walk(search.root)?;
        let (mut names, mut unmatched_files) = (Vec::new(), Vec::new());
        for path in &found.files {
            match path.to_str() {
                Some(name) => names.push(name.replace(std::path::MAIN_SEPARATOR, "/")),
                None => unmatched_files.push((path.display().to_string(), "its name is not Unicode".to_string())),
            }
        }
        for path in &found.unread {
            unmatched_files.push((path.display().to_string(), refusal(&search.root.join(path))));
        }
        let files = Files::new(names);
        let all = self.rows.len() + self.dropped.len();
        let mut used: HashMap<usize, String> = HashMap::new();
        let (mut rows, mut unmatched_rows, mut loosely, mut moving) = (Vec::new(), self.dropped, [0; 3], 0);
        let mut kept: Vec<Vec<Option<String>>> = vec![Vec::new(); self.extras.len()];
        for record in self.rows {
            let mut unmatched =
                |reason: String| unmatched_rows.push((format!("{} `{}`", record.place, record.key.trim()), reason));
            let found = match files.find(&record.key) {
                Ok(found) => found,
                Err(reason) => {
                    unmatched(reason);
                    continue;
                }
            };
            let name = &files.names()[found.file];
            if let Some(first) = used.get(&found.file) {
                unmatched(format!("{name} already has what {first} says"));
                continue;
            }
            used.insert(found.file, record.place.clone());
            if search.stills && is_moving(name) {
                unmatched(format!("{name} is left out: a GIF or TIFF, as in the paper"));
                moving += 1;
                continue;
            }
            match found.how {
                How::Named => {}
                How::OtherEnding => loosely[0] += 1,
                How::Number => loosely[1] += 1,
                How::Elsewhere => loosely[2] += 1,
            }
            rows.push(Row {
                path: name.clone(),
                targets: record.ratings.iter().map(|v| *v as f32).collect(),
                group: record.group,
                dataset: search.dataset.map(String::from),
                ..Row::default()
            });
            for (texts, text) in kept.iter_mut().zip(record.extras) {
                texts.push(text);
            }
        }
        if rows.is_empty() {
            let first = unmatched_rows.first().map_or("it has no rows".into(), |(row, why)| format!("{row}: {why}"));
            return Err(Error::file(&self.file, format!("none of {all} rows can be used, the first: {first}"))
                .fix(format!("check the column that names the picture and the folder {}", search.root.display())));
        }
        for (i, name) in files.names().iter().enumerate() {
            if !used.contains_key(&i) {
                unmatched_files.push((name.clone(), "no usable row names it".into()));
            }
        }
        let mut notes = self.notes;
        let how = [
            "have another ending than the table says",
            "are found by their number, which the table writes in another way",
            "are found by the end of a path that the table has from elsewhere",
        ];
        let loosely = loosely.into_iter().zip(how).filter(|(n, _)| *n > 0);
        notes.extend(loosely.map(|(n, how)| format!("{n} pictures {how}")));
        if moving > 0 {
            notes.push(format!("{moving} GIF or TIFF files are left out, as in the paper"));
        }
        let names: Vec<&str> = self.targets.iter().map(String::as_str).collect();
        let extras = self.extras.into_iter().zip(kept).collect();
        let manifest = Manifest::new(search.root, &names, rows, extras);
        Ok(Import { manifest, unmatched_rows, unmatched_files, notes })
    }
}

fn is_moving(name: &str) -> bool {
    let ending = name.rsplit('.').next().unwrap_or_default();
    ["gif", "tif", "tiff"].iter().any(|e| ending.eq_ignore_ascii_case(e))
}
