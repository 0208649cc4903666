/*! The classes of a manifest's pictures: a column of names, and a map from the names of one set to those of another. */

use super::Manifest;
use super::table::{Table, TableOptions};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// A name as messages have it.
fn clipped(name: &str) -> String {
    const MOST: usize = 40;
    let short: String = name.chars().take(MOST).collect();
    if short.len() == name.len() { short } else { short + "…" }
}

/// The class of each row of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// Sorted, each once.
    pub classes: Vec<String>,
    /// Index of each row's class; None where the column is empty or names none of them.
    pub of: Vec<Option<usize>>,
    /// Names that are none of the classes, and how many rows have them.
    pub others: BTreeMap<String, usize>,
}

/// What the names of one set are called in another (columns `from` and `to`). Names that it does not list stay as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelMap(BTreeMap<String, String>);

/// How the classes of a manifest are found.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The column of names.
    pub column: &'a str,
    pub map: &'a LabelMap,
    /// Fewer pictures than this make no class.
    pub least: usize,
}

impl LabelMap {
    /// Reads `from,to`.
    ///
    /// # Errors
    /// A name that is mapped twice, or onto a name that is itself mapped to another: the order would decide.
    pub fn read(path: &Path) -> Result<Self> {
        let table = Table::read(path, &TableOptions::default())?;
        let (from, to) = (table.column("from")?, table.column("to")?);
        let mut map = BTreeMap::new();
        for (line, row) in &table.rows {
            let [from, to] = [from, to].map(|i| row[i].trim().to_string());
            let twice = map.insert(from.clone(), to.clone()).is_some_and(|before| before != to);
            if twice {
                return Err(Error::file(path, format!("maps `{}` twice", clipped(&from)))
                    .at(format!("line {line}"))
                    .fix("leave one of the two lines"));
            }
        }
        if let Some((from, to)) =
            map.iter().find(|(from, to)| map.get(*to).is_some_and(|next| next != *to && from != to))
        {
            let (from, to) = (clipped(from), clipped(to));
            return Err(Error::file(path, format!("maps `{from}` to `{to}`, which is mapped on itself"))
                .fix(format!("map `{from}` to what it is to be in the end")));
        }
        Ok(Self(map))
    }

    fn apply<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, String::as_str)
    }
}

impl Labels {
    /// Classes that the manifest itself names.
    ///
    /// # Errors
    /// No such column, or fewer than two classes with enough pictures.
    pub fn found(manifest: &Manifest, path: &Path, asked: &Asked) -> Result<Self> {
        let names = manifest.labels(asked.column)?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        names.iter().flatten().map(|n| asked.map.apply(n)).filter(|n| !n.is_empty()).for_each(|n| {
            *counts.entry(n).or_default() += 1;
        });
        let large = counts.iter().filter(|c| *c.1 >= asked.least);
        let classes: Vec<String> = large.map(|c| c.0.to_string()).collect();
        if classes.len() < 2 {
            return Err(Error::file(path, format!("{} classes with {} pictures or more", classes.len(), asked.least))
                .at(format!("column {}", asked.column))
                .fix("name another column, or ask for classes with fewer pictures"));
        }
        Self::among(manifest, asked, classes)
    }

    /// The classes of a model, in the order of its outputs.
    pub fn among(manifest: &Manifest, asked: &Asked, classes: Vec<String>) -> Result<Self> {
        let mut others = BTreeMap::new();
        let mut of = vec![];
        for name in manifest.labels(asked.column)? {
            let name = name.as_deref().map(|n| asked.map.apply(n)).filter(|n| !n.is_empty());
            let class = name.and_then(|n| classes.iter().position(|c| c == n));
            if let (Some(name), None) = (name, class) {
                *others.entry(name.to_string()).or_default() += 1;
            }
            of.push(class);
        }
        Ok(Self { classes, of, others })
    }

    /// The rows that have a class.
    pub fn rows(&self) -> Vec<usize> {
        (0..self.of.len()).filter(|i| self.of[*i].is_some()).collect()
    }

    /// How many pictures each class has, and what was left out, a line each.
    pub fn remarks(&self) -> Vec<String> {
        let size = |c: usize| self.of.iter().filter(|x| **x == Some(c)).count();
        let sizes: Vec<_> = self.classes.iter().enumerate().map(|(c, name)| (name.clone(), size(c))).collect();
        std::iter::once(format!("classes: {}", told(&sizes))).chain(self.left_out()).collect()
    }

    /// What was left out, a line for each reason.
    pub fn left_out(&self) -> Vec<String> {
        let others: Vec<_> = self.others.iter().map(|(name, n)| (name.clone(), *n)).collect();
        let unnamed = self.of.len() - self.rows().len() - others.iter().map(|o| o.1).sum::<usize>();
        let mut remarks = vec![];
        if !others.is_empty() {
            remarks.push(format!("left out, for they are none of the classes: {}", told(&others)));
        }
        if unnamed > 0 {
            remarks.push(format!("left out: {unnamed} pictures without a class"));
        }
        remarks
    }
}

/// Names and numbers of pictures, the first ones of many.
fn told(all: &[(String, usize)]) -> String {
    /// Names that a line tells before it counts the rest.
    const TOLD: usize = 20;
    let told = all.iter().take(TOLD).map(|(name, n)| format!("{} {n}", clipped(name)));
    let rest = all.len().saturating_sub(TOLD);
    let rest = (rest > 0).then(|| format!("{rest} more"));
    told.chain(rest).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(dir: &Path) -> Manifest {
        let path = dir.join("m.csv");
        std::fs::write(&path, "path,emotion\na,joy\nb,Joy!\nc,fear\nd,fear\ne,\nf,rage\ng,joy\n").unwrap();
        Manifest::read(&path, &[]).unwrap()
    }

    fn map(dir: &Path, text: &str) -> Result<LabelMap> {
        let path = dir.join("map.csv");
        std::fs::write(&path, text).unwrap();
        LabelMap::read(&path)
    }

    #[test]
    fn names_become_classes_and_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let m = manifest(dir.path());
        let to = map(dir.path(), "from,to\nJoy!,joy\n").unwrap();
        let asked = Asked { column: "emotion", map: &to, least: 2 };
        let labels = Labels::found(&m, Path::new("m.csv"), &asked).unwrap();
        assert_eq!(labels.classes, ["fear", "joy"]);
        assert_eq!(labels.of, [Some(1), Some(1), Some(0), Some(0), None, None, Some(1)]);
        assert_eq!((labels.others.clone(), labels.rows()), (BTreeMap::from([("rage".into(), 1)]), vec![0, 1, 2, 3, 6]));
        assert_eq!(
            labels.remarks(),
            [
                "classes: fear 2, joy 3",
                "left out, for they are none of the classes: rage 1",
                "left out: 1 pictures without a class"
            ]
        );
        // Of a model, its own classes in its own order.
        let own = Labels::among(&m, &asked, vec!["rage".into(), "joy".into()]).unwrap();
        assert_eq!(own.of, [Some(1), Some(1), None, None, None, Some(0), Some(1)]);
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let m = manifest(dir.path());
        let none = LabelMap::default();
        let e = |column: &str, least: usize| {
            let asked = Asked { column, map: &none, least };
            Labels::found(&m, Path::new("m.csv"), &asked).unwrap_err().to_string()
        };
        assert!(e("emotion", 3).contains("0 classes with 3 pictures or more"), "{}", e("emotion", 3));
        assert!(e("mood", 1).contains("no column `mood`"), "{}", e("mood", 1));
        for (text, problem) in [
            ("from,to\na,b\nb,a\n", "which is mapped on itself"),
            ("from,to\na,b\na,c\n", "line 3: maps `a` twice"),
            ("old,to\na,b\n", "no column `from`"),
        ] {
            let e = map(dir.path(), text).unwrap_err().to_string();
            assert!(e.contains(problem) && e.lines().count() == 1, "{e}");
        }
        assert!(map(dir.path(), "from,to\na,a\nb,a\n").is_ok());
    }
}
