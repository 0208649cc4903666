/*! Tables of features: numbers of each picture of a manifest under named columns, made by `features` or by any other
program, which [`joined`] lays beside each other for the rows of a manifest.

Three kinds of files are read:

* safetensors of ours: a tensor `features` [pictures, columns], float32, and in the metadata the JSON lists `columns`,
  `paths` and `contents` (the hash of each picture's bytes, by which a picture is known under another path, and a changed one
  under its old path), and perhaps a `recipe` (how the columns are made of a picture);
* CSV: a column `path` as in the manifest, perhaps a column `content`, every other column a number;
* `.npy` [rows, columns], one row for each of the manifest's, in its order. Columns are called `c1`, `c2` …. */

use super::decode;
use super::manifest::{Manifest, plain};
use super::table::{Table, TableOptions, quoted};
use crate::error::{Error, Result};
use crate::weights::foreign::{ArrayData, npy};
use crate::weights::strided::Strided;
use crate::weights::write::{self, Entry};
use crate::weights::{LAYOUT, WeightFile};
use crate::{atomic, files, hash};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The tensor of values.
const FEATURES: &str = "features";
/// The column of content hashes.
const CONTENT: &str = "content";
/// How the columns are made.
const RECIPE: &str = "recipe";
/// Rows that a message names.
const NAMED: usize = 3;

/// Numbers of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureTable {
    /// Where it was read, for messages.
    pub file: PathBuf,
    pub columns: Vec<String>,
    /// The pictures as their manifest names them; empty if the rows are those of the manifest, in its order.
    pub paths: Vec<String>,
    /// [`content`] of each picture; empty where nobody knows.
    pub contents: Vec<String>,
    /// [pictures, columns], finite.
    pub values: Vec<f32>,
    /// How the columns are made of a picture, in the words of whoever made the table; CSV and .npy do not say.
    pub recipe: Option<Value>,
}

/// Tables side by side, for the rows of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// `TABLE.COLUMN` where a table was given a name, else `COLUMN`.
    pub columns: Vec<String>,
    /// [rows, columns]
    pub values: Vec<f32>,
}

/// The hash of a picture's bytes in a table; None if it cannot be read.
pub fn content(picture: &Path) -> Option<String> {
    files::read(picture, decode::MAX_FILE).ok().map(|bytes| hash::content_hex(&bytes))
}

impl FeatureTable {
    /// [`FeatureTable::read`] of `NAME=FILE`, or of a file alone, whose name is empty. What has a `=` and is a file is a file.
    pub fn named(text: &str) -> Result<(String, Self)> {
        let (name, file) = match text.split_once('=') {
            Some((name, file)) if !name.is_empty() && !Path::new(text).exists() => (name, file),
            _ => ("", text),
        };
        Ok((name.into(), Self::read(file)?))
    }

    /// Reads a table of any of the three kinds.
    ///
    /// # Errors
    /// A file that is none, columns of one name, a value that is not a finite number: each with its place.
    pub fn read(file: impl AsRef<Path>) -> Result<Self> {
        let file = file.as_ref();
        let kind = file.extension().map(|e| e.to_ascii_lowercase());
        let table = match kind.as_ref().and_then(|k| k.to_str()) {
            Some("safetensors") => Self::of_safetensors(file),
            Some("npy") => Self::of_npy(file),
            _ => Self::of_csv(file),
        }?;
        table.check()
    }

    fn of_safetensors(file: &Path) -> Result<Self> {
        let weights = WeightFile::open(file)?;
        let list = |key: &str| -> Result<Vec<String>> {
            let text = weights.metadata().get(key).map(String::as_str);
            text.and_then(|t| serde_json::from_str(t).ok()).ok_or_else(|| {
                Error::file(file, format!("has no list `{key}`, and so is no table of features"))
                    .fix("make one with `deep-affect features`, or give a CSV file")
            })
        };
        let [columns, paths, contents] = [list("columns")?, list("paths")?, list("contents")?];
        weights.intact(FEATURES)?;
        let values = weights.tensor(FEATURES)?;
        let known = contents.is_empty() || contents.len() == paths.len();
        if values.shape != [paths.len(), columns.len()] || !known {
            let problem =
                format!("{:?} values for {} pictures and {} columns", values.shape, paths.len(), columns.len());
            return Err(Error::file(file, problem).fix("make it anew"));
        }
        let recipe = weights.metadata().get(RECIPE).and_then(|t| serde_json::from_str(t).ok());
        let values = values.to_f32()?.into_owned();
        Ok(Self { file: file.into(), columns, paths, contents, values, recipe })
    }

    fn of_npy(file: &Path) -> Result<Self> {
        let bytes = files::read(file, files::TENSORS).map_err(|e| Error::io(file, "read", e))?;
        let wrong = |problem: String| Error::file(file, problem).fix("save a matrix [pictures, columns] of floats");
        let array = npy::single(&bytes).map_err(|problem| wrong(format!("is no .npy of numbers: {problem}")))?;
        let (&[rows, columns], ArrayData::Mapped(range)) = (&array.shape[..], array.place) else {
            return Err(wrong(format!("has the shape {:?}", array.shape)));
        };
        let values = Strided::new(&bytes[range], array.dtype, &[rows, columns], &array.strides)
            .ok_or_else(|| wrong(format!("has elements of {:?}", array.dtype)))?;
        let mut all = vec![0.0; values.numel()];
        values.read(&mut all);
        let columns = (1..=columns).map(|i| format!("c{i}")).collect();
        Ok(Self { file: file.into(), columns, paths: vec![], contents: vec![], values: all, recipe: None })
    }

    fn of_csv(file: &Path) -> Result<Self> {
        let table = Table::read(file, &TableOptions::default())?;
        let path = table.column("path")?;
        let content = table.header.iter().position(|h| h == CONTENT);
        let numbers: Vec<usize> = (0..table.header.len()).filter(|&i| i != path && Some(i) != content).collect();
        let columns = numbers.iter().map(|&i| table.header[i].clone()).collect();
        let (paths, contents, values) = (vec![], vec![], vec![]);
        let mut made = Self { file: file.into(), columns, paths, contents, values, recipe: None };
        for (line, fields) in &table.rows {
            made.paths.push(fields[path].clone());
            made.contents.extend(content.map(|c| fields[c].trim().to_string()));
            for &i in &numbers {
                let value = table.number(&fields[i]).ok_or_else(|| {
                    Error::file(file, format!("`{}` is not a number", fields[i]))
                        .at(format!("line {line}, column {}", table.header[i]))
                        .fix("leave columns of text and rows without numbers out")
                })?;
                made.values.push(value as f32);
            }
        }
        Ok(made)
    }

    fn check(self) -> Result<Self> {
        let width = self.columns.len();
        if width == 0 || self.values.is_empty() {
            return Err(Error::file(&self.file, "has no features").fix("name a table with columns and rows of numbers"));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.columns.iter().find(|c| !seen.insert(c.as_str())) {
            return Err(Error::file(&self.file, format!("two columns are called `{twice}`")).fix("rename one"));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.paths.iter().find(|p| !seen.insert(p.as_str())) {
            return Err(Error::file(&self.file, format!("two rows are of `{twice}`")).fix("keep one"));
        }
        if let Some(i) = self.values.iter().position(|v| !v.is_finite()) {
            let row = self.paths.get(i / width).cloned().unwrap_or_else(|| format!("row {}", i / width + 1));
            return Err(Error::file(&self.file, format!("{} is not a finite number", self.values[i]))
                .at(format!("{row}, column {}", self.columns[i % width]))
                .fix("make the table anew"));
        }
        Ok(self)
    }

    /// Writes the table: as CSV if the name ends so, else as safetensors.
    pub fn write(&self, file: impl AsRef<Path>) -> Result<()> {
        let file = file.as_ref();
        if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv")) {
            let known = !self.contents.is_empty();
            let columns = self.columns.iter().map(|c| quoted(c).into_owned());
            let head = ["path".to_string()].into_iter().chain(known.then(|| CONTENT.to_string())).chain(columns);
            let mut text = head.collect::<Vec<_>>().join(",") + "\n";
            for (i, row) in self.values.chunks_exact(self.columns.len()).enumerate() {
                text += &quoted(&self.paths[i]);
                self.contents.get(i).into_iter().for_each(|c| text += &format!(",{c}"));
                row.iter().for_each(|v| text += &format!(",{v}"));
                text.push('\n');
            }
            return atomic::write(file, |w| w.write_all(text.as_bytes()));
        }
        let list = |l: &[String]| serde_json::to_string(l).expect("strings");
        let mut metadata = BTreeMap::from([
            (LAYOUT.to_string(), "KRSC".to_string()),
            ("columns".into(), list(&self.columns)),
            ("paths".into(), list(&self.paths)),
            ("contents".into(), list(&self.contents)),
        ]);
        metadata.extend(self.recipe.as_ref().map(|r| (RECIPE.into(), r.to_string())));
        let shape = [self.paths.len(), self.columns.len()];
        write::write(file, &metadata, &[Entry::f32(FEATURES, &shape, &self.values)])
    }

    /// The row of the table for each of the manifest's.
    fn places(&self, manifest: &Manifest) -> Result<Vec<usize>> {
        let (rows, have) = (manifest.rows.len(), self.values.len() / self.columns.len());
        if self.paths.is_empty() {
            return if rows == have {
                Ok((0..rows).collect())
            } else {
                Err(Error::file(&self.file, format!("{have} rows for the {rows} of the manifest"))
                    .fix("make it from this manifest, one row a picture and in its order"))
            };
        }
        let plainly = |p: &str| plain(Path::new(p));
        let by_path: HashMap<PathBuf, usize> = self.paths.iter().enumerate().map(|(i, p)| (plainly(p), i)).collect();
        let by_content: HashMap<&str, usize> = self.contents.iter().enumerate().map(|(i, c)| (&**c, i)).collect();
        // The row, or else whether the table has one of what the picture was before.
        let found: Vec<Result<usize, bool>> = (0..rows)
            .into_par_iter()
            .map(|i| {
                let at = by_path.get(&plainly(&manifest.rows[i].path)).copied();
                // A picture that is not here, or a table without hashes, is known by its path alone.
                let now = if self.contents.is_empty() { None } else { content(&manifest.file(i)) };
                match (at, now) {
                    (Some(at), Some(now)) if !["", &*now].contains(&&*self.contents[at]) => {
                        by_content.get(&*now).copied().ok_or(true)
                    }
                    (Some(at), _) => Ok(at),
                    (None, now) => now.and_then(|now| by_content.get(&*now).copied()).ok_or(false),
                }
            })
            .collect();
        let names = |changed: bool| -> (usize, String) {
            let rows = found.iter().zip(&manifest.rows).filter(|(f, _)| **f == Err(changed));
            let names: Vec<&str> = rows.map(|(_, r)| r.path.as_str()).collect();
            let shown = names.iter().take(NAMED).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
            (names.len(), if names.len() > NAMED { format!("{shown}, …") } else { shown })
        };
        let (changed, which) = names(true);
        if changed > 0 {
            let problem = format!("{changed} of {rows} pictures have changed since it was made: {which}");
            return Err(Error::file(&self.file, problem).fix("make the table anew"));
        }
        let (missing, which) = names(false);
        if missing > 0 {
            let problem = format!("no row for {missing} of the {rows} pictures of the manifest: {which}");
            return Err(Error::file(&self.file, problem).fix("make the table from this manifest"));
        }
        Ok(found.into_iter().flatten().collect())
    }
}

/// Lays tables beside each other for the rows of a manifest, by picture: `(name, table)`, the name empty or the beginning of
/// its columns' names.
///
/// # Errors
/// No table, pictures that a table lacks (named), a column that two tables have.
pub fn joined(tables: &[(String, FeatureTable)], manifest: &Manifest) -> Result<Joined> {
    if tables.is_empty() {
        return Err(Error::usage("no table of features").fix("name one"));
    }
    let places = tables.iter().map(|(_, t)| t.places(manifest)).collect::<Result<Vec<_>>>()?;
    let prefixed = |(name, t): &(String, FeatureTable)| -> Vec<String> {
        let one = |c: &String| if name.is_empty() { c.clone() } else { format!("{name}.{c}") };
        t.columns.iter().map(one).collect()
    };
    let columns: Vec<String> = tables.iter().flat_map(prefixed).collect();
    let mut seen = HashSet::new();
    if let Some(twice) = columns.iter().find(|c| !seen.insert(c.as_str())) {
        return Err(Error::usage(format!("two tables have a column `{twice}`")).fix("give the tables names: NAME=FILE"));
    }
    let mut values = Vec::with_capacity(manifest.rows.len() * columns.len());
    for i in 0..manifest.rows.len() {
        for ((_, t), places) in tables.iter().zip(&places) {
            let width = t.columns.len();
            values.extend_from_slice(&t.values[places[i] * width..(places[i] + 1) * width]);
        }
    }
    Ok(Joined { columns, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Row;

    fn manifest(dir: &Path, names: &[&str]) -> Manifest {
        let rows = names.iter().map(|n| Row { path: n.to_string(), ..Row::default() });
        Manifest::new(dir, &[], rows.collect(), vec![])
    }

    /// Pictures `a`, `b` and `c` in a folder, and a table of them.
    fn made() -> (tempfile::TempDir, FeatureTable) {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a.png", "b, c.png", "c.png"].map(String::from).to_vec();
        paths.iter().for_each(|p| std::fs::write(dir.path().join(p), p).unwrap());
        let contents = paths.iter().map(|p| content(&dir.path().join(p)).unwrap()).collect();
        let file = dir.path().join("t.safetensors");
        let columns = vec!["x".into(), "y, \"z\"".into()];
        let values = vec![1.0, 0.1, 2.0, 1.0 / 3.0, -3.0, 1e-30];
        (dir, FeatureTable { file, columns, paths, contents, values, recipe: Some("by hand".into()) })
    }

    #[test]
    fn files_come_back() {
        let (dir, mut table) = made();
        for name in ["t.safetensors", "t.csv"] {
            table.file = dir.path().join(name);
            // CSV does not say how it was made.
            table.recipe = table.recipe.filter(|_| name != "t.csv");
            table.write(&table.file).unwrap();
            assert_eq!(FeatureTable::read(&table.file).unwrap(), table);
        }
        table.contents.clear();
        table.write(&table.file).unwrap();
        assert_eq!(FeatureTable::read(&table.file).unwrap(), table);
    }

    #[test]
    fn numpy_files_are_in_the_order_of_the_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.npy");
        let save = |descr: &str, shape: &str, fortran: &str, data: &[u8]| {
            let mut head = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
            while (head.len() + 11) % 64 != 0 {
                head.push(' ');
            }
            head.push('\n');
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((head.len() as u16).to_le_bytes());
            bytes.extend(head.as_bytes());
            bytes.extend(data);
            std::fs::write(&file, bytes).unwrap();
            FeatureTable::read(&file)
        };
        let doubles: Vec<u8> = (1..=6).flat_map(|x| f64::from(x).to_le_bytes()).collect();
        let table = save("<f8", "(2, 3)", "False", &doubles).unwrap();
        assert_eq!(table.columns, ["c1", "c2", "c3"]);
        let m = manifest(dir.path(), &["a", "b"]);
        let named = [("n".to_string(), table)];
        let both = joined(&named, &m).unwrap();
        assert_eq!((both.values, both.columns[2].as_str()), (vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "n.c3"));
        let e = joined(&named, &manifest(dir.path(), &["a"])).unwrap_err().to_string();
        assert!(e.contains("2 rows for the 1 of the manifest"), "{e}");
        assert_eq!(save("<f8", "(2, 3)", "True", &doubles).unwrap().values, [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
        for (shape, data) in [("(6,)", &doubles[..]), ("(2, 3)", &doubles[..40]), ("(0, 3)", &[])] {
            let e = save("<f8", shape, "False", data).unwrap_err().to_string();
            assert!(e.contains("x.npy"), "{e}");
        }
        assert!(save("|O", "(2, 3)", "False", &doubles).is_err());
    }

    #[test]
    fn pictures_are_found_by_path_and_by_content() {
        let (dir, table) = made();
        let tables = |t: &FeatureTable| [(String::new(), t.clone()), ("twin".into(), t.clone())];
        // In another order, spelt otherwise, and one under another name.
        std::fs::rename(dir.path().join("a.png"), dir.path().join("new.png")).unwrap();
        let m = manifest(dir.path(), &["c.png", "new.png", "./x/../b, c.png"]);
        let found = joined(&tables(&table), &m).unwrap();
        assert_eq!(found.columns, ["x", "y, \"z\"", "twin.x", "twin.y, \"z\""]);
        assert_eq!(found.values.iter().step_by(2).copied().collect::<Vec<f32>>(), [-3.0, -3.0, 1.0, 1.0, 2.0, 2.0]);
        let complaint = |t: &FeatureTable, names: &[&str]| {
            joined(&tables(t), &manifest(dir.path(), names)).unwrap_err().to_string()
        };
        let e = complaint(&table, &["c.png", "d.png", "e.png", "f.png", "g.png"]);
        assert!(e.contains("no row for 4 of the 5 pictures") && e.contains("`d.png`, `e.png`, `f.png`, …"), "{e}");
        // The picture is another one now.
        std::fs::write(dir.path().join("c.png"), "else").unwrap();
        let e = complaint(&table, &["c.png"]);
        assert!(e.contains("1 of 1 pictures have changed since it was made: `c.png`"), "{e}");
        // Without its pictures a table is known by paths, and without hashes too.
        joined(&tables(&table), &manifest(&dir.path().join("elsewhere"), &["c.png"])).unwrap();
        let unknown = FeatureTable { contents: vec![], ..table.clone() };
        joined(&tables(&unknown), &manifest(dir.path(), &["c.png"])).unwrap();
        let twice = [(String::new(), table.clone()), (String::new(), table)];
        let e = joined(&twice, &manifest(&dir.path().join("elsewhere"), &["c.png"])).unwrap_err().to_string();
        assert!(e.contains("two tables have a column `x`"), "{e}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.csv");
        for (text, problem) in [
            ("path,x\na,1\nb,red\n", "t.csv: line 3, column x: `red` is not a number"),
            ("path,x\na,1\nb,\n", "line 3, column x: `` is not a number"),
            ("path,x\na,1\nb,1e99\n", "b, column x: inf is not a finite number"),
            ("path,x\na,1\na,2\n", "two rows are of `a`"),
            ("path,x,x\na,1,2\n", "two columns are called `x`"),
            ("file,x\na,1\n", "no column `path`"),
            ("path\na\n", "has no features"),
            ("path,x\n", "has no features"),
        ] {
            std::fs::write(&file, text).unwrap();
            let e = FeatureTable::read(&file).unwrap_err().to_string();
            assert!(e.contains(problem), "{e}");
        }
        let weights = dir.path().join("w.safetensors");
        write::write(&weights, &BTreeMap::new(), &[Entry::f32("w", &[1], &[1.0])]).unwrap();
        let e = FeatureTable::read(&weights).unwrap_err().to_string();
        assert!(e.contains("has no list `columns`, and so is no table of features"), "{e}");
    }

    /// Whoever opened a pipe to read all of it would wait for ever.
    #[cfg(unix)]
    #[test]
    fn no_pipe_is_a_table() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["t.npy", "t.csv", "t.safetensors"] {
            let pipe = dir.path().join(name);
            assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            let e = FeatureTable::read(&pipe).unwrap_err().to_string();
            assert!(e.contains("it is a pipe") && e.lines().count() == 1, "{e}");
            assert_eq!(content(&pipe), None);
        }
    }
}
