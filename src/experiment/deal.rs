//! Which pictures are tested together: folds from a file, from the manifest's own column, or dealt.

use super::events::{Events, tell};
use crate::data::{Manifest, folds};
use crate::error::{Error, Result, option};
use crate::files;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How folds are to be dealt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoldPlan {
    /// A file of folds, which goes before everything else.
    pub file: Option<PathBuf>,
    /// Number of folds, where somebody named one.
    pub k: Option<u32>,
    /// Rows are dealt one by one although the manifest has groups.
    pub ungrouped: bool,
    /// Every set (the manifest's `dataset`) is dealt evenly.
    pub stratify: bool,
    /// Deal although the manifest has a column of folds.
    pub ignore_column: bool,
    pub seed: u64,
}

/// Folds dealt where nobody names a number.
const FOLDS: u32 = 5;

/// The folds of a manifest.
pub struct Dealt {
    /// By row, from 0.
    pub fold: Vec<u32>,
    pub k: u32,
    /// Whether groups stayed together, for people.
    pub kept: String,
    /// What must be read first if they did not.
    pub warning: Option<String>,
}

impl FoldPlan {
    /// Refuses a file of folds that cannot be read, before pictures are decoded.
    pub fn check(&self) -> Result<()> {
        let open = |path: &PathBuf| files::open(path).map(drop).map_err(|e| Error::io(path, "read", e));
        self.file.as_ref().map_or(Ok(()), open)
    }

    /// `path` is the manifest's.
    ///
    /// # Errors
    /// Folds that are not of these pictures, one that has no picture or all of them, a column that some rows leave empty
    /// or that has another number of folds than was asked for.
    pub fn deal(&self, path: &Path, manifest: &Manifest, events: &dyn Events) -> Result<Dealt> {
        let column = if self.ignore_column { None } else { folds::of_column(path, manifest)? };
        if self.stratify && column.is_some() {
            let [stratify, ignore] = ["stratify", "ignore-fold-column"].map(option);
            return Err(Error::file(path, format!("{stratify}: its column `fold` says who is tested together"))
                .fix(format!("leave it out, or deal anew with {ignore}"))
                .as_usage());
        }
        let groups = manifest.groups();
        let (fold, whose) = match (self.file.as_deref(), column) {
            (Some(file), _) => (folds::read(file, manifest)?, file),
            (None, Some(fold)) => {
                let k = count(&fold);
                if self.k.is_some_and(|asked| asked != k) {
                    let asked = self.k.unwrap_or(k);
                    return Err(Error::file(path, format!("its column `fold` has {k} folds, not {asked}")).fix(
                        format!("leave out the number of folds, or deal anew with {}", option("ignore-fold-column")),
                    ));
                }
                tell!(events, "{k} folds from the column `fold` of {}, numbered from 1 here", path.display());
                (fold, path)
            }
            (None, None) => {
                let grouped = !self.ungrouped && groups.iter().any(Option::is_some);
                let k = self.k.unwrap_or(FOLDS);
                let fold = match self.stratify {
                    true => folds::stratified(&sets(path, manifest)?, &groups, k, self.seed, grouped)?,
                    false => folds::folds(&groups, k, self.seed, grouped)?,
                };
                (fold, path)
            }
        };
        let k = count(&fold);
        if k < 2 {
            return Err(Error::file(whose, "all pictures are in one fold").fix("name two folds or more"));
        }
        let (kept, warning) = leakage(&groups, &fold);
        Ok(Dealt { fold, k, kept, warning })
    }

    /// Two folds, the first with a part of the pictures: groups stay together unless that was not wanted.
    ///
    /// # Errors
    /// A part that leaves nothing on one side.
    pub fn set_apart(&self, manifest: &Manifest, part: f64) -> Result<Dealt> {
        let groups = manifest.groups();
        let grouped = !self.ungrouped && groups.iter().any(Option::is_some);
        let taken = folds::split(&groups, part, self.seed, grouped)?;
        let fold: Vec<u32> = taken.into_iter().map(|t| u32::from(!t)).collect();
        let (kept, warning) = leakage(&groups, &fold);
        Ok(Dealt { fold, k: 2, kept, warning })
    }
}

/// The number of each row's set.
fn sets(path: &Path, manifest: &Manifest) -> Result<Vec<usize>> {
    let names: BTreeSet<Option<&str>> = manifest.rows.iter().map(|r| r.dataset.as_deref()).collect();
    if names.len() < 2 {
        return Err(Error::file(path, format!("{}: names fewer than two sets", option("stratify")))
            .at("column dataset")
            .fix("leave it out, or join sets with `deep-affect merge`")
            .as_usage());
    }
    let number = |d: Option<&str>| names.iter().position(|n| *n == d).expect("collected above");
    Ok(manifest.rows.iter().map(|r| number(r.dataset.as_deref())).collect())
}

fn count(fold: &[u32]) -> u32 {
    fold.iter().max().map_or(0, |m| m + 1)
}

/// Whether groups stayed together, found in the folds themselves; and a warning if they did not.
fn leakage(groups: &[Option<String>], fold: &[u32]) -> (String, Option<String>) {
    match folds::parted(groups, fold) {
        [_, 0] => ("no groups in the manifest".into(), None),
        [0, _] => ("groups kept together".into(), None),
        [parted, all] => {
            let said = format!("{parted} of {all} groups are parted");
            let warning = format!(
                "{parted} of {all} groups have pictures in more than one fold: models are tested on near-duplicates of \
                 what they were trained on, and errors come out too small."
            );
            (said, Some(warning))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Row;

    fn manifest(rows: &[(Option<&str>, Option<u32>)]) -> Manifest {
        let row = |(i, (group, fold)): (usize, &(Option<&str>, Option<u32>))| Row {
            path: format!("{i}.png"),
            group: group.map(String::from),
            fold: *fold,
            ..Row::default()
        };
        Manifest::new("", &[], rows.iter().enumerate().map(row).collect(), vec![])
    }

    fn asked(k: Option<u32>) -> FoldPlan {
        FoldPlan { k, seed: 1, ..FoldPlan::default() }
    }

    #[test]
    fn the_sentence_about_groups_is_found_in_the_folds() {
        let (a, b) = (Some("a"), Some("b"));
        let m = manifest(&[(a, Some(1)), (a, Some(1)), (b, Some(2)), (b, Some(3)), (None, Some(2))]);
        let d = asked(None).deal(Path::new("m.csv"), &m, &()).unwrap();
        assert_eq!((d.fold, d.k, &*d.kept), (vec![0, 0, 1, 2, 1], 3, "1 of 2 groups are parted"));
        assert!(d.warning.unwrap().starts_with("1 of 2 groups have pictures in more than one fold"));
        // Dealt without that column they stay together, and a group of one picture is none.
        let d = FoldPlan { ignore_column: true, k: Some(3), ..asked(None) }.deal(Path::new("m.csv"), &m, &()).unwrap();
        assert_eq!((&*d.kept, d.warning), ("groups kept together", None));
        let alone = manifest(&[(a, None), (b, None), (None, None)]);
        assert_eq!(asked(Some(2)).deal(Path::new("m.csv"), &alone, &()).unwrap().kept, "no groups in the manifest");
        let d = FoldPlan { ungrouped: true, ..asked(Some(2)) };
        let pairs: Vec<_> = ["p", "q", "r", "s"].iter().flat_map(|g| [(Some(*g), None); 2]).collect();
        let d = d.deal(Path::new("m.csv"), &manifest(&pairs), &()).unwrap();
        let parted = (0..4).filter(|g| d.fold[2 * g] != d.fold[2 * g + 1]).count();
        assert!(parted > 0 && d.kept == format!("{parted} of 4 groups are parted"), "{}", d.kept);
    }

    /// Nine pictures of a large set and three of a small one: each of three folds has three and one, in groups of two or alone.
    #[test]
    fn every_set_is_dealt_evenly() {
        let row = |i: usize| Row {
            path: format!("{i}.png"),
            dataset: Some(if i < 9 { "large" } else { "small" }.into()),
            ..Row::default()
        };
        let m = Manifest::new("", &[], (0..12).map(row).collect(), vec![]);
        let path = Path::new("m.csv");
        let deal = |seed| FoldPlan { stratify: true, seed, ..asked(Some(3)) }.deal(path, &m, &()).map(|d| d.fold);
        for seed in 1..6 {
            let fold = deal(seed).unwrap();
            for f in 0..3 {
                let of = |rows: std::ops::Range<usize>| rows.filter(|&i| fold[i] == f).count();
                assert_eq!((of(0..9), of(9..12)), (3, 1), "seed {seed}: {fold:?}");
            }
        }
        let one = manifest(&[(None, None); 4]);
        let e = FoldPlan { stratify: true, ..asked(Some(2)) }.deal(path, &one, &()).map(|_| ()).unwrap_err();
        assert!(e.to_string().contains("names fewer than two sets"), "{e}");
    }

    #[test]
    fn the_column_is_honoured_or_refused() {
        let m = manifest(&[(None, Some(0)), (None, Some(1)), (None, Some(1))]);
        let d = asked(None).deal(Path::new("m.csv"), &m, &()).unwrap();
        assert_eq!(d.fold, [0, 1, 1]);
        let complaint =
            |a: FoldPlan, m: &Manifest| a.deal(Path::new("m.csv"), m, &()).map(|_| ()).unwrap_err().to_string();
        assert!(complaint(asked(Some(3)), &m).contains("has 2 folds, not 3; leave out"));
        let some = manifest(&[(None, Some(1)), (None, None), (None, Some(2))]);
        assert!(complaint(asked(None), &some).contains("m.csv: column fold: 1 of 3 rows"));
        let gap = manifest(&[(None, Some(1)), (None, Some(3))]);
        assert!(complaint(asked(None), &gap).contains("no row is in fold 2"));
        assert!(complaint(asked(None), &manifest(&[(None, Some(1)); 3])).contains("all pictures are in one fold"));
    }
}
