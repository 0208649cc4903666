/*! The one list of pictures and ratings every command reads and every importer writes: a CSV that R and pandas open, with
paths relative to its own folder, so that a data set can be moved. Ratings are on 1-9; whatever scale they came from, the
importer has mapped them. */

use super::cache::Source;
use super::table::{Table, TableOptions, missing, quoted};
use crate::atomic;
use crate::error::{Error, Result};
use crate::preprocess::Area;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// The columns used as targets unless others are named.
pub const TARGETS: [&str; 2] = ["valence", "arousal"];
/// The columns with a meaning of their own, besides the targets.
const OWN: [&str; 5] = ["path", "group", "dataset", "weight", "fold"];
/// The columns that say where a face is, in pixels of the upright picture (as AffectNet names them). Without all four nobody
/// says so; a row has no box where they are empty, or where a side is not above 0.
pub const FACE: [&str; 4] = ["face_x", "face_y", "face_width", "face_height"];

/// One picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Relative to the manifest's folder, or absolute.
    pub path: String,
    /// One value for each of the manifest's targets, in 1..=9.
    pub targets: Vec<f32>,
    /// Near-duplicates share a group and are never separated.
    pub group: Option<String>,
    pub dataset: Option<String>,
    /// How much the row counts in the loss.
    pub weight: f32,
    /// A fold fixed by whoever made the manifest.
    pub fold: Option<u32>,
    /// Where the face is. Read only: it is written as the columns of [`FACE`], which are kept as they were.
    pub face: Option<Area>,
    /// Line in the manifest; 0 for a row that was never read from one.
    pub line: u64,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            path: String::new(),
            targets: Vec::new(),
            group: None,
            dataset: None,
            weight: 1.0,
            fold: None,
            face: None,
            line: 0,
        }
    }
}

/// Rows, and the folder their paths start from.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub dir: PathBuf,
    /// Names of the columns in [`Row::targets`].
    pub targets: Vec<String>,
    pub rows: Vec<Row>,
    /// The file's name, for messages; empty for one made in memory.
    name: String,
    /// Further columns: name, one text a row.
    extras: Vec<(String, Vec<Option<String>>)>,
}

/// What the rows lack that [`Manifest::read_rated`] leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    pub rows: usize,
    /// By target, how many rows lack it: one row may lack several.
    pub of: Vec<(String, usize)>,
}

impl Lacking {
    /// Takes note of a row by which of the targets it lacks; true if it lacks any.
    fn count(&mut self, lacks: impl Iterator<Item = bool>) -> bool {
        let mut any = false;
        for ((_, n), lacks) in self.of.iter_mut().zip(lacks) {
            *n += usize::from(lacks);
            any |= lacks;
        }
        self.rows += usize::from(any);
        any
    }

    /// A sentence for people; None where nothing was left out.
    pub fn remark(&self) -> Option<String> {
        let each = self.of.iter().filter(|(_, n)| *n > 0).map(|(target, n)| format!("{target} {n}"));
        let each: Vec<String> = each.collect();
        (self.rows > 0).then(|| format!("left out: {} pictures without a rating ({})", self.rows, each.join(", ")))
    }
}

impl Manifest {
    /// A manifest made in memory. Each of `extras` has one text a row.
    pub fn new(
        dir: impl Into<PathBuf>,
        targets: &[&str],
        rows: Vec<Row>,
        extras: Vec<(String, Vec<Option<String>>)>,
    ) -> Self {
        let targets = targets.iter().map(|t| t.to_string()).collect();
        Self { dir: dir.into(), targets, rows, name: String::new(), extras }
    }

    /// Reads a manifest, taking the columns `targets` as what is to be predicted ([`TARGETS`] usually; none for class
    /// labels). Errors name the line and the column.
    pub fn read(path: impl AsRef<Path>, targets: &[&str]) -> Result<Self> {
        Self::parse(path.as_ref(), targets, None)
    }

    /// [`Manifest::read`] of the rows that have every rating, and what the others lack.
    pub fn read_rated(path: impl AsRef<Path>, targets: &[&str]) -> Result<(Self, Lacking)> {
        let mut lacking = Lacking { rows: 0, of: targets.iter().map(|t| (t.to_string(), 0)).collect() };
        let manifest = Self::parse(path.as_ref(), targets, Some(&mut lacking))?;
        Ok((manifest, lacking))
    }

    /// Counts the rows that lack a rating in `lacking` and leaves them out; without it they are an error.
    fn parse(path: &Path, targets: &[&str], mut lacking: Option<&mut Lacking>) -> Result<Self> {
        let table = Table::read(path, &TableOptions::default())?;
        let dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let path_column = table.column("path")?;
        let target_columns = targets.iter().map(|t| table.column(t)).collect::<Result<Vec<_>>>()?;
        let optional = |name| table.header.iter().position(|h| h == name);
        let [group, dataset, weight, fold] = ["group", "dataset", "weight", "fold"].map(optional);
        let mut manifest = Self::new(dir, targets, Vec::with_capacity(table.rows.len()), Vec::new());
        manifest.name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let face = FACE.map(optional).into_iter().collect::<Option<Vec<usize>>>();
        let mut seen = HashMap::new();
        let mut taken = vec![];
        for (i, (line, fields)) in table.rows.iter().enumerate() {
            let wrong = |column: &str, problem: String, remedy: &str| {
                Err(Error::file(path, problem).at(format!("line {line}, column {column}")).fix(remedy))
            };
            let text = |column: Option<usize>| column.map(|c| fields[c].trim()).filter(|t| !t.is_empty());
            let name = fields[path_column].clone();
            if name.trim().is_empty() {
                return wrong("path", "no picture is named".into(), "name one or remove the line");
            }
            if let Some(first) = seen.insert(plain(&manifest.dir.join(&name)), *line) {
                let remedy = "keep one of the two lines";
                return wrong("path", format!("`{name}` is already named on line {first}"), remedy);
            }
            let lacks = target_columns.iter().map(|&c| missing(&fields[c]));
            if lacking.as_mut().is_some_and(|lacking| lacking.count(lacks)) {
                continue;
            }
            taken.push(i);
            let mut row = Row { path: name, line: *line, ..Row::default() };
            for (&column, target) in target_columns.iter().zip(targets) {
                let value = table.number(&fields[column]).filter(|v| (1.0..=9.0).contains(v));
                let Some(value) = value else {
                    let problem = format!("`{}` is not a rating from 1 to 9", fields[column]);
                    return wrong(target, problem, "map the scale with `import csv --scale`, or correct the line");
                };
                row.targets.push(value as f32);
            }
            // R writes NA for what is missing, spreadsheets #N/A: as a group that would be one of all pictures without.
            let there = |column| text(column).filter(|t| !missing(t));
            row.group = there(group).map(String::from);
            row.dataset = text(dataset).map(String::from);
            if let Some(t) = there(weight) {
                match table.number(t).filter(|w| *w >= 0.0 && *w <= 1e6) {
                    Some(w) => row.weight = w as f32,
                    None => return wrong("weight", format!("`{t}` is not a weight"), "use a number from 0"),
                }
            }
            if let Some(t) = there(fold) {
                // R writes whole numbers of a numeric column as 3, pandas with gaps in it as 3.0.
                match t.strip_suffix(".0").unwrap_or(t).parse() {
                    Ok(f) => row.fold = Some(f),
                    Err(_) => return wrong("fold", format!("`{t}` is not a fold"), "number folds from 1"),
                }
            }
            if let Some(columns) = &face {
                let mut sides = vec![];
                for (&c, column) in columns.iter().zip(FACE) {
                    let Some(t) = there(Some(c)) else { continue };
                    match table.number(t) {
                        Some(side) => sides.push(side),
                        None => {
                            let remedy = "write pixels, or nothing where there is no face";
                            return wrong(column, format!("`{t}` is not a number of pixels"), remedy);
                        }
                    }
                }
                row.face = match sides[..] {
                    [x, y, width, height] if width > 0.0 && height > 0.0 => Some(Area { x, y, width, height }),
                    _ => None,
                };
            }
            manifest.rows.push(row);
        }
        if let (true, Some(Lacking { rows: 1.., .. })) = (manifest.rows.is_empty(), lacking) {
            return Err(Error::file(path, format!("no row has a rating of {}", targets.join(", of ")))
                .fix("fill the columns, or leave out the models that need them"));
        }
        if manifest.rows.is_empty() {
            return Err(Error::file(path, "has a header and no rows").fix("add pictures, or import a data set"));
        }
        for (i, name) in table.header.iter().enumerate() {
            if !OWN.contains(&name.as_str()) && !target_columns.contains(&i) && !name.is_empty() {
                let texts =
                    taken.iter().map(|&r| Some(table.rows[r].1[i].trim().to_string()).filter(|t| !t.is_empty()));
                manifest.extras.push((name.clone(), texts.collect()));
            }
        }
        Ok(manifest)
    }

    /// The picture of row `i`.
    pub fn file(&self, i: usize) -> PathBuf {
        self.dir.join(&self.rows[i].path)
    }
    /// All pictures, to be loaded.
    pub fn sources(&self) -> Vec<Source<'static>> {
        (0..self.rows.len()).map(|i| self.source(i)).collect()
    }
    /// The picture of row `i`, with its box if it has one.
    pub fn source(&self, i: usize) -> Source<'static> {
        let (path, Row { face, line, .. }) = (self.file(i), &self.rows[i]);
        match *face {
            Some(face) => Source::Boxed { path, face, place: format!("{}, line {line}", self.name) },
            None => Source::File(path),
        }
    }
    pub fn groups(&self) -> Vec<Option<String>> {
        self.rows.iter().map(|r| r.group.clone()).collect()
    }
    /// The columns without a meaning of their own: name, one text a row.
    pub fn extras(&self) -> &[(String, Vec<Option<String>>)] {
        &self.extras
    }
    /// The names of all columns, in the order they are written.
    pub fn columns(&self) -> Vec<&str> {
        let mut names = vec!["path"];
        names.extend(self.targets.iter().map(String::as_str));
        names.extend(&OWN[1..]);
        names.extend(self.extras.iter().map(|e| e.0.as_str()));
        names
    }
    /// One column as text, None where it is empty: class names, ids. Errors list the columns there are.
    pub fn labels(&self, column: &str) -> Result<Vec<Option<String>>> {
        if let Some((_, texts)) = self.extras.iter().find(|e| e.0 == column) {
            return Ok(texts.clone());
        }
        let target = self.targets.iter().position(|t| t == column);
        let text = |r: &Row| match (target, column) {
            (Some(t), _) => Some(Some(r.targets[t].to_string())),
            (_, "path") => Some(Some(r.path.clone())),
            (_, "group") => Some(r.group.clone()),
            (_, "dataset") => Some(r.dataset.clone()),
            (_, "weight") => Some(Some(r.weight.to_string())),
            (_, "fold") => Some(r.fold.map(|f| f.to_string())),
            _ => None,
        };
        self.rows.iter().map(text).collect::<Option<_>>().ok_or_else(|| {
            Error::usage(format!("the manifest has no column `{column}`"))
                .fix(format!("choose one of: {}", self.columns().join(", ")))
        })
    }
    /// The same rows with some of their targets only, by index, in that order.
    pub fn rating(&self, targets: &[usize]) -> Self {
        let mut manifest = self.clone();
        manifest.targets = targets.iter().map(|&t| self.targets[t].clone()).collect();
        for (row, whole) in manifest.rows.iter_mut().zip(&self.rows) {
            row.targets = targets.iter().map(|&t| whole.targets[t]).collect();
        }
        manifest
    }
    /// The rows at `indices`, in that order.
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            dir: self.dir.clone(),
            targets: self.targets.clone(),
            name: self.name.clone(),
            rows: indices.iter().map(|&i| self.rows[i].clone()).collect(),
            extras: self
                .extras
                .iter()
                .map(|(name, texts)| (name.clone(), indices.iter().map(|&i| texts[i].clone()).collect()))
                .collect(),
        }
    }

    /// Writes the manifest, whole or not at all. Pictures under the new file's folder get relative paths, others
    /// absolute ones.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let absolute = |p: &Path| std::path::absolute(p).map_err(|e| Error::io(path, "write", e));
        let here = plain(&absolute(path)?);
        let here = here.parent().unwrap_or(Path::new("/"));
        let dir = if self.dir.as_os_str().is_empty() { Path::new(".") } else { &self.dir };
        let dir = plain(&absolute(dir)?);
        let mut text = self.columns().iter().map(|c| quoted(c)).collect::<Vec<_>>().join(",");
        text.push('\n');
        for (i, row) in self.rows.iter().enumerate() {
            let full = plain(&dir.join(&row.path));
            let shown = full.strip_prefix(here).unwrap_or(&full);
            let shown = shown.to_str().ok_or_else(|| {
                Error::file(path, format!("`{}` is not Unicode", shown.display())).fix("rename the folder")
            })?;
            text.push_str(&quoted(shown));
            for value in &row.targets {
                text.push_str(&format!(",{value}"));
            }
            let own = [row.group.clone(), row.dataset.clone(), Some(row.weight.to_string())];
            let own = own.into_iter().chain([row.fold.map(|f| f.to_string())]);
            for field in own.chain(self.extras.iter().map(|e| e.1[i].clone())) {
                text.push(',');
                text.push_str(&quoted(&field.unwrap_or_default()));
            }
            text.push('\n');
        }
        atomic::write(path, |w| w.write_all(text.as_bytes()))
    }
}

/// The path without `.` and with `..` resolved by name, so that two spellings of one file compare equal.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, targets: &[&str]) -> Result<Manifest> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.csv");
        std::fs::write(&path, text).unwrap();
        Manifest::read(&path, targets)
    }

    #[test]
    fn columns_and_defaults() {
        let m = read("arousal,valence,path,label,fold\n2,8.5,a b.jpg,joy,3.0\n1,9,\"c,d.jpg\",,\n", &TARGETS).unwrap();
        assert_eq!(m.rows[0].targets, [8.5, 2.0]);
        assert_eq!((m.rows[1].path.as_str(), m.rows[1].weight, m.rows[1].line), ("c,d.jpg", 1.0, 3));
        assert_eq!((m.rows[0].fold, m.rows[1].fold), (Some(3), None));
        assert_eq!(m.labels("label").unwrap(), [Some("joy".into()), None]);
        assert!(m.labels("none").unwrap_err().to_string().ends_with("dataset, weight, fold, label"));
        let m = read("path,valence,intensity\na.png,3,4\n", &["valence", "intensity"]).unwrap();
        assert_eq!(m.rows[0].targets, [3.0, 4.0]);
        let m = read("path,valence,arousal,group,weight,fold\na,1,2,NA,#N/A,NA\nb,1,2,x,2,0\n", &TARGETS).unwrap();
        assert_eq!((&m.rows[0].group, m.rows[0].weight, m.rows[0].fold), (&None, 1.0, None));
        assert_eq!((m.rows[1].group.as_deref(), m.rows[1].fold), (Some("x"), Some(0)));
        assert!(read("path,label\na.png,x\n", &[]).unwrap().rows[0].targets.is_empty());
    }

    #[test]
    fn rows_without_a_rating_are_left_out_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.csv");
        let rated = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Manifest::read_rated(&path, &["valence", "dominance"])
        };
        let head = "path,valence,dominance,mood\n";
        let (m, lacking) = rated(&format!("{head}a,1,2,x\nb,NA,,y\nc,3,,z\nd,5,6,w\n")).unwrap();
        assert_eq!(m.rows.iter().map(|r| &*r.path).collect::<Vec<_>>(), ["a", "d"]);
        assert_eq!(m.labels("mood").unwrap(), [Some("x".to_string()), Some("w".into())]);
        assert_eq!(lacking.remark().unwrap(), "left out: 2 pictures without a rating (valence 1, dominance 2)");
        let one = m.rating(&[1]);
        assert_eq!((one.targets, one.rows[1].targets.clone()), (vec!["dominance".to_string()], vec![6.0]));
        assert_eq!(rated(&format!("{head}a,1,2,x\n")).unwrap().1.remark(), None);
        // What is there and is no rating is wrong all the same.
        for (text, problem) in [
            ("a,1,12,x\n", "line 2, column dominance: `12` is not a rating from 1 to 9"),
            ("a,1,,x\n", "no row has a rating of valence, of dominance"),
        ] {
            let e = rated(&format!("{head}{text}")).unwrap_err().to_string();
            assert!(e.contains(problem) && e.lines().count() == 1, "{e}");
        }
    }

    #[test]
    fn every_wrong_line_is_named() {
        for (text, problem) in [
            ("path,valence\na,1\n", "no column `arousal`; choose one of: path, valence"),
            ("path,valence,arousal\na,1,2\nb,0.99,2\n", "line 3, column valence: `0.99` is not a rating"),
            ("path,valence,arousal\na,1,NaN\n", "line 2, column arousal: `NaN`"),
            ("path,valence,arousal\na,1,9.0001\n", "column arousal"),
            ("path,valence,arousal\na,,2\n", "column valence: `` is not"),
            ("path,valence,arousal\n ,1,2\n", "no picture is named"),
            (
                "path,valence,arousal\na,1,2\n./x/../a,1,2\n",
                "line 3, column path: `./x/../a` is already named on line 2",
            ),
            ("path,valence,arousal,weight\na,1,2,-1\n", "`-1` is not a weight"),
            ("path,valence,arousal,fold\na,1,2,x\n", "`x` is not a fold"),
            ("path,valence,arousal\na,1\n", "2 fields under 3 columns"),
            ("path,valence,arousal\n", "no rows"),
            ("path,name,valence,arousal\na,\"x,1,2\nb,y,1,2\nc,\"z,1,2\n", "line 2: a quote is not closed"),
        ] {
            let e = read(text, &TARGETS).unwrap_err().to_string();
            assert!(e.contains(problem) && e.contains("m.csv: "), "{e}");
        }
    }

    #[test]
    fn written_elsewhere_it_finds_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("set");
        std::fs::create_dir(&inner).unwrap();
        let row = |p: &str| Row { path: p.into(), targets: vec![4.3333335, 9.0], weight: 0.5, ..Row::default() };
        let extras = vec![("id".to_string(), vec![Some("I,1".into()), None])];
        let m = Manifest::new(&inner, &TARGETS, vec![row("x y.jpg"), row("sub/z.jpg")], extras);
        for out in [dir.path().join("m.csv"), inner.join("m.csv"), inner.join("../set/m.csv")] {
            m.write(&out).unwrap();
            let back = Manifest::read(&out, &TARGETS).unwrap();
            assert_eq!((0..2).map(|i| plain(&back.file(i))).collect::<Vec<_>>(), [0, 1].map(|i| m.file(i)));
            assert_eq!(
                (back.rows[0].targets.clone(), back.labels("id").unwrap()),
                (vec![4.3333335, 9.0], m.labels("id").unwrap())
            );
            assert!(!std::fs::read_to_string(&out).unwrap().contains(dir.path().to_str().unwrap()));
        }
        let other = tempfile::tempdir().unwrap();
        m.write(other.path().join("m.csv")).unwrap();
        assert_eq!(Manifest::read(other.path().join("m.csv"), &TARGETS).unwrap().file(1), m.file(1));
        assert_eq!(m.select(&[1]).rows[0].path, "sub/z.jpg");
    }
}
