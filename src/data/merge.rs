//! Several manifests as one: a study of all sets is trained on one list, with one deal of folds.

use super::manifest::{Manifest, Row, plain};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// One manifest of those at `files`, with `targets` as what is to be predicted. Paths become absolute, until the manifest is
/// written; a row without a `dataset` gets its file's name; groups are told apart by their set, because two sets may both
/// have *dogs*. A picture that two rows name is an error: it would have two ratings.
pub fn merge<P: AsRef<Path>>(files: &[P], targets: &[&str]) -> Result<Manifest> {
    let (mut rows, mut seen) = (Vec::<Row>::new(), HashMap::new());
    let mut extras = Vec::<(String, Vec<Option<String>>)>::new();
    for file in files.iter().map(AsRef::as_ref) {
        let part = Manifest::read(file, targets)?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (i, row) in part.rows.iter().enumerate() {
            let mut row = row.clone();
            let path = std::path::absolute(part.file(i)).map_err(|e| Error::io(part.file(i), "find", e))?;
            let path = plain(&path);
            let place = format!("line {}", row.line);
            if let Some(first) = seen.insert(path.clone(), format!("{}, {place}", file.display())) {
                return Err(Error::file(file, format!("names a picture that {first} names already"))
                    .at(place)
                    .fix("keep one of the two"));
            }
            row.path = path.into_os_string().into_string().map_err(|path| {
                Error::file(file, format!("`{}` is not Unicode", path.display())).fix("rename the folder")
            })?;
            let dataset = row.dataset.get_or_insert_with(|| stem.clone());
            let prefix = format!("{dataset}/");
            row.group = row.group.map(|g| if g.starts_with(&prefix) { g } else { prefix + &g });
            rows.push(row);
        }
        for (name, texts) in part.extras() {
            let place = extras.iter().position(|e| e.0 == *name).unwrap_or_else(|| {
                extras.push((name.clone(), Vec::new()));
                extras.len() - 1
            });
            let column = &mut extras[place].1;
            // Empty where the manifests before this one do not have it.
            column.resize(rows.len() - texts.len(), None);
            column.extend(texts.iter().cloned());
        }
    }
    extras.iter_mut().for_each(|(_, column)| column.resize(rows.len(), None));
    Ok(Manifest::new("", targets, rows, extras))
}

/// What one set, or all of them, has of one target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// With n - 1; None for a single picture.
    pub sd: Option<f64>,
}

/// One set of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    pub dataset: String,
    pub pictures: usize,
    pub groups: usize,
    /// One for each target.
    pub ratings: Vec<Spread>,
}

/// The sets of a manifest by name, and all of them as the last.
pub fn count(manifest: &Manifest) -> Vec<Count> {
    let mut sets = BTreeMap::<&str, Vec<&Row>>::new();
    for row in &manifest.rows {
        sets.entry(row.dataset.as_deref().unwrap_or_default()).or_default().push(row);
    }
    let all = ("all", manifest.rows.iter().collect());
    let of = |(dataset, rows): (&str, Vec<&Row>)| {
        let mut groups: Vec<_> = rows.iter().filter_map(|r| r.group.as_deref()).collect();
        groups.sort_unstable();
        groups.dedup();
        let ratings = (0..manifest.targets.len()).map(|t| spread(rows.iter().map(|r| f64::from(r.targets[t]))));
        Count { dataset: dataset.into(), pictures: rows.len(), groups: groups.len(), ratings: ratings.collect() }
    };
    sets.into_iter().chain([all]).map(of).collect()
}

fn spread(values: impl Iterator<Item = f64> + Clone) -> Spread {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let squares: f64 = values.clone().map(|v| (v - mean).powi(2)).sum();
    Spread {
        min: values.clone().fold(f64::INFINITY, f64::min),
        max: values.fold(f64::NEG_INFINITY, f64::max),
        mean,
        sd: (n > 1.0).then(|| (squares / (n - 1.0)).sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::manifest::TARGETS;

    #[test]
    fn columns_groups_and_counts() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let a = put(
            "a/a.csv",
            "path,valence,arousal,group,dataset,fold,id\n1.jpg,1,2,dog,first,3,x\n2.jpg,3,4,,first,,y\n",
        );
        let b = put("b.csv", "path,label,valence,arousal,group\nsub/1.jpg,joy,9,9,dog\n");
        let merged = merge(&[&a, &b], &TARGETS).unwrap();
        assert_eq!(merged.columns()[3..], ["group", "dataset", "weight", "fold", "id", "label"]);
        let column =
            |name: &str| merged.labels(name).unwrap().into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
        assert_eq!(
            (column("id"), column("label")),
            (vec!["x".into(), "y".into(), "".into()], vec!["".into(), "".into(), "joy".into()])
        );
        assert_eq!(
            (column("group"), column("dataset")),
            (vec!["first/dog".into(), "".into(), "b/dog".into()], vec!["first".into(), "first".into(), "b".into()])
        );
        assert_eq!(column("fold"), ["3", "", ""]);

        let out = dir.path().join("all.csv");
        merged.write(&out).unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        assert!(
            text.contains("\na/1.jpg,1,2,first/dog,first,1,3,x,\n")
                && text.contains("\nsub/1.jpg,9,9,b/dog,b,1,,,joy\n"),
            "{text}"
        );
        // A second time the names of groups stay.
        assert_eq!(merge(&[&out], &TARGETS).unwrap().groups(), merged.groups());

        let counts = count(&merged);
        let pictures: Vec<_> = counts.iter().map(|c| (c.dataset.as_str(), c.pictures, c.groups)).collect();
        assert_eq!(pictures, [("b", 1, 1), ("first", 2, 1), ("all", 3, 2)]);
        assert_eq!(counts[1].ratings[0], Spread { min: 1.0, max: 3.0, mean: 2.0, sd: Some(2.0_f64.sqrt()) });
        assert_eq!(counts[0].ratings[1], Spread { min: 9.0, max: 9.0, mean: 9.0, sd: None });

        let e = merge(&[&a, &out], &TARGETS).unwrap_err().to_string();
        assert!(
            e.contains("all.csv: line 2: names a picture that ") && e.contains("a.csv, line 2 names already"),
            "{e}"
        );
        assert!(merge(&[&b], &["valence", "dominance"]).unwrap_err().to_string().contains("no column `dominance`"));
        assert!(merge(&[&b], &[]).unwrap().targets.is_empty());
    }
}
