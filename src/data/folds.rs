/*! Who is tested when. Photographs of one theme are near-duplicates: dealt at random they sit on both sides of a split and
a network is praised for remembering (on OASIS, 0.38 of valence MSE). So whole groups move together, unless asked
otherwise. The deal is a function of the rows and the seed. */

use super::manifest::Manifest;
use super::table::{Table, TableOptions, quoted};
use crate::atomic;
use crate::error::{Error, Result};
use crate::rng::{Rng, Stream};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Rows that stay together: sorted by group name, shuffled. A row without a group is alone.
fn units(groups: &[Option<String>], grouped: bool, rng: &mut Rng) -> Vec<Vec<usize>> {
    let mut named: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut units = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        match group {
            Some(g) if grouped => named.entry(g).or_default().push(i),
            _ => units.push(vec![i]),
        }
    }
    units.extend(named.into_values());
    rng.shuffle(&mut units);
    units
}

/// The fold of every row, `0..k`. Sizes differ by one at most when dealt singly; whole groups are dealt largest first to
/// the smallest fold. Errors if there are fewer than `k` rows (or groups) to deal.
pub fn folds(groups: &[Option<String>], k: u32, seed: u64, grouped: bool) -> Result<Vec<u32>> {
    if k < 2 {
        return Err(Error::usage(format!("{k} folds leave nothing to compare")).fix("ask for 2 or more"));
    }
    let mut units = units(groups, grouped, &mut Rng::new(seed, Stream::Folds, 0));
    if units.len() < k as usize {
        let what = if grouped { "groups" } else { "rows" };
        return Err(Error::usage(format!("{} {what} cannot fill {k} folds", units.len())).fix("ask for fewer folds"));
    }
    units.sort_by_key(|u| std::cmp::Reverse(u.len()));
    let mut sizes = vec![0; k as usize];
    let mut fold = vec![0; groups.len()];
    for unit in units {
        let smallest = (0..sizes.len()).min_by_key(|&f| sizes[f]).unwrap_or(0);
        sizes[smallest] += unit.len();
        unit.iter().for_each(|&i| fold[i] = smallest as u32);
    }
    Ok(fold)
}

/// As many [`folds`] as can be filled, at most `most`, whole groups wherever there are groups: the inner folds of a choice that
/// is made while training.
pub fn up_to(most: u32, groups: &[Option<String>], seed: u64) -> Result<Vec<u32>> {
    let grouped = groups.iter().any(Option::is_some);
    let named: std::collections::BTreeSet<&str> = groups.iter().flatten().map(String::as_str).collect();
    let alone = groups.iter().filter(|g| g.is_none()).count();
    let k = most.min((named.len() + alone) as u32);
    if k < 2 {
        return Err(Error::usage("the pictures to train on are one group: nothing can be chosen by inner folds")
            .fix("give more groups, or name widths in --head"));
    }
    folds(groups, k, seed, grouped)
}

/// [`folds`] in which every class is dealt evenly too: its rows differ by one at most over folds when dealt singly. Whole
/// groups are dealt largest first, each to the fold that has least of its classes. `classes` has one number a row.
pub fn stratified(classes: &[usize], groups: &[Option<String>], k: u32, seed: u64, grouped: bool) -> Result<Vec<u32>> {
    // For its refusals: what cannot be dealt at all cannot be dealt evenly.
    folds(groups, k, seed, grouped)?;
    let mut units = units(groups, grouped, &mut Rng::new(seed, Stream::Folds, 0));
    // Class after class, so that what is left over of each goes to the smallest folds.
    units.sort_by_key(|u| (std::cmp::Reverse(u.len()), classes[u[0]]));
    let n = classes.iter().max().map_or(0, |c| c + 1);
    let (mut sizes, mut held) = (vec![0; k as usize], vec![vec![0usize; n]; k as usize]);
    let mut totals = vec![0usize; n];
    classes.iter().for_each(|&c| totals[c] += 1);
    let mut fold = vec![0; classes.len()];
    for unit in units {
        // Parts of classes, as whole numbers per million: sums of them do not depend on their order.
        let part =
            |f: usize| -> usize { unit.iter().map(|&i| held[f][classes[i]] * 1_000_000 / totals[classes[i]]).sum() };
        let best = (0..sizes.len()).min_by_key(|&f| (part(f), sizes[f])).unwrap_or(0);
        for &i in &unit {
            (fold[i], sizes[best]) = (best as u32, sizes[best] + 1);
            held[best][classes[i]] += 1;
        }
    }
    Ok(fold)
}

/// At most `most` rows of each class, drawn at random, in the order of the rows; rows without a class are none of them.
pub fn balanced(classes: &[Option<usize>], most: usize, seed: u64) -> Vec<usize> {
    let mut of_class: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, class) in classes.iter().enumerate() {
        class.iter().for_each(|&c| of_class.entry(c).or_default().push(i));
    }
    let mut rng = Rng::new(seed, Stream::Folds, 2);
    let drawn = of_class.into_values().flat_map(|mut rows| {
        rng.shuffle(&mut rows);
        rows.truncate(most);
        rows
    });
    let mut rows: Vec<usize> = drawn.collect();
    rows.sort_unstable();
    rows
}

/// True for the rows of the validation part: `fraction` of them, to the group. Both parts get at least one group.
pub fn split(groups: &[Option<String>], fraction: f64, seed: u64, grouped: bool) -> Result<Vec<bool>> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::usage(format!("a validation part of {fraction}")).fix("ask for more than 0 and less than 1"));
    }
    let mut units = units(groups, grouped, &mut Rng::new(seed, Stream::Folds, 1));
    if units.len() < 2 {
        return Err(Error::usage(format!("{} group(s) cannot be split in two", units.len()))
            .fix("give more rows, or do not keep groups together"));
    }
    let wanted = ((groups.len() as f64 * fraction).round() as usize).max(1);
    let mut held = vec![false; groups.len()];
    let (mut taken, mut left) = (0, units.len());
    // A group is taken if that brings the part closer to what was asked for.
    units.retain(|unit| {
        let closer = (taken + unit.len()).abs_diff(wanted) < wanted.abs_diff(taken);
        if closer && left > 1 {
            taken += unit.len();
            left -= 1;
            unit.iter().for_each(|&i| held[i] = true);
        }
        !(closer && left > 1)
    });
    if taken == 0 {
        // Every group is more than twice the part: the smallest is nearest.
        if let Some(unit) = units.iter().min_by_key(|u| u.len()) {
            unit.iter().for_each(|&i| held[i] = true);
        }
    }
    Ok(held)
}

/// Writes `path,fold`, one line a row, so that a run can be repeated elsewhere on the same folds.
pub fn write(file: impl AsRef<Path>, manifest: &Manifest, folds: &[u32]) -> Result<()> {
    if folds.len() != manifest.rows.len() {
        return Err(Error::job(format!("{} folds for {} rows", folds.len(), manifest.rows.len())));
    }
    let mut text = String::from("path,fold\n");
    for (row, fold) in manifest.rows.iter().zip(folds) {
        text.push_str(&format!("{},{fold}\n", quoted(&row.path)));
    }
    atomic::write(file, |w| w.write_all(text.as_bytes()))
}

/// The folds of a manifest's rows, from a file of [`write`] or of any other program. Matched by path; a row without a
/// fold and a fold without a row are errors.
pub fn read(file: impl AsRef<Path>, manifest: &Manifest) -> Result<Vec<u32>> {
    let file = file.as_ref();
    let table = Table::read(file, &TableOptions::default())?;
    let (path, fold) = (table.column("path")?, table.column("fold")?);
    let rows: HashMap<&str, usize> = manifest.rows.iter().enumerate().map(|(i, r)| (r.path.as_str(), i)).collect();
    let mut folds = vec![None; manifest.rows.len()];
    for (line, fields) in &table.rows {
        let at = |column: &str| format!("line {line}, column {column}");
        let i = *rows.get(fields[path].as_str()).ok_or_else(|| {
            Error::file(file, format!("`{}` is not in the manifest", fields[path]))
                .at(at("path"))
                .fix("make the folds from this manifest")
        })?;
        let value = fields[fold].trim().parse().map_err(|_| {
            Error::file(file, format!("`{}` is not a fold", fields[fold])).at(at("fold")).fix("number folds from 0")
        })?;
        if folds[i].replace(value).is_some() {
            return Err(Error::file(file, format!("`{}` has two folds", fields[path])).at(at("path")).fix("keep one"));
        }
    }
    let missing = folds.iter().position(Option::is_none);
    if let Some(i) = missing {
        return Err(Error::file(file, format!("no fold for `{}`", manifest.rows[i].path))
            .fix("make the folds from this manifest"));
    }
    Ok(folds.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::manifest::Row;

    fn groups(n: usize, of: usize) -> Vec<Option<String>> {
        (0..n).map(|i| Some(format!("g{}", (i * i + i) % of))).collect()
    }
    fn sizes(folds: &[u32], k: u32) -> Vec<usize> {
        (0..k).map(|f| folds.iter().filter(|&&x| x == f).count()).collect()
    }

    #[test]
    fn single_rows_are_balanced_to_one() {
        let f = folds(&vec![None; 103], 5, 7, true).unwrap();
        assert_eq!(sizes(&f, 5), [21, 21, 21, 20, 20]);
        assert_eq!(f, folds(&vec![None; 103], 5, 7, true).unwrap());
        assert_ne!(f, folds(&vec![None; 103], 5, 8, true).unwrap());
        // The deal is fixed for ever: a published result names its seed.
        assert_eq!(folds(&vec![None; 10], 3, 1, false).unwrap(), [2, 2, 0, 0, 0, 2, 1, 0, 1, 1]);
    }

    #[test]
    fn groups_never_straddle() {
        let g = groups(500, 97);
        for seed in 0..20 {
            let f = folds(&g, 5, seed, true).unwrap();
            let v = split(&g, 0.2, seed, true).unwrap();
            for i in 0..g.len() {
                for j in 0..i {
                    assert!(g[i] != g[j] || (f[i] == f[j] && v[i] == v[j]));
                }
            }
            let s = sizes(&f, 5);
            assert_eq!(s.iter().sum::<usize>(), 500);
            assert!(s.iter().max().unwrap() - s.iter().min().unwrap() <= 10, "{s:?}");
            assert!(v.iter().filter(|&&x| x).count().abs_diff(100) <= 10);
        }
        // Dealt singly, the same rows do straddle.
        let f = folds(&g, 5, 0, false).unwrap();
        assert_eq!(sizes(&f, 5), [100; 5]);
        assert!((0..500).any(|i| (0..i).any(|j| g[i] == g[j] && f[i] != f[j])));
    }

    #[test]
    fn classes_are_dealt_evenly() {
        // Class c has 7 + 13 c rows, in no order.
        let classes: Vec<usize> = (0..4).flat_map(|c| vec![c; 7 + 13 * c]).collect();
        let classes: Vec<usize> = (0..classes.len()).map(|i| classes[i * 37 % classes.len()]).collect();
        let count = |f: &[u32], fold: u32, c: usize| {
            f.iter().zip(&classes).filter(|(f, class)| **f == fold && **class == c).count()
        };
        for seed in 0..20 {
            let f = stratified(&classes, &vec![None; classes.len()], 5, seed, true).unwrap();
            for c in 0..4 {
                let each = [0, 1, 2, 3, 4].map(|fold| count(&f, fold, c));
                assert_eq!(each.iter().sum::<usize>(), 7 + 13 * c);
                assert!(each.iter().max().unwrap() - each.iter().min().unwrap() <= 1, "{each:?}");
            }
            let s = sizes(&f, 5);
            assert!(s.iter().max().unwrap() - s.iter().min().unwrap() <= 1, "{s:?}");
            // Pairs, and one group of eleven.
            let name = |i: usize| if i < 11 { "large".to_string() } else { format!("{}", i / 2) };
            let g: Vec<Option<String>> = (0..classes.len()).map(|i| Some(name(i))).collect();
            let f = stratified(&classes, &g, 5, seed, true).unwrap();
            assert!((0..g.len()).all(|i| (0..i).all(|j| g[i] != g[j] || f[i] == f[j])));
            for c in 0..4 {
                let even = (7 + 13 * c) as f64 / 5.0;
                let each = [0, 1, 2, 3, 4].map(|fold| count(&f, fold, c));
                assert!(each.iter().all(|&n| (n as f64 - even).abs() <= 4.0), "{each:?} of class {c}");
            }
        }
        assert!(stratified(&[0, 1], &[None, None], 3, 0, true).is_err());
    }

    #[test]
    fn no_class_has_more_than_asked_for() {
        let classes: Vec<Option<usize>> = (0..60).map(|i| [Some(2), Some(0), None][i % 3].filter(|_| i < 50)).collect();
        let rows = balanced(&classes, 10, 3);
        assert!(rows.is_sorted() && rows.windows(2).all(|w| w[0] != w[1]));
        let of = |c| rows.iter().filter(|&&i| classes[i] == Some(c)).count();
        assert_eq!((rows.len(), of(0), of(2)), (20, 10, 10));
        assert_eq!(rows, balanced(&classes, 10, 3));
        assert_ne!(rows, balanced(&classes, 10, 4));
        assert_eq!(balanced(&classes, 1000, 3).len(), 34);
        assert!(balanced(&[None, None], 5, 0).is_empty());
    }

    #[test]
    fn both_parts_of_a_split_have_something() {
        for (n, of, fraction) in [(10, 2, 0.01), (10, 2, 0.99), (2, 2, 0.5), (40, 3, 0.1)] {
            for seed in 0..10 {
                let v = split(&groups(n, of), fraction, seed, true);
                let v = if let Ok(v) = v { v } else { continue };
                assert!(v.contains(&true) && v.contains(&false));
            }
        }
        assert!(split(&vec![Some("one".into()); 9], 0.5, 0, true).is_err());
        assert!(split(&[None, None], f64::NAN, 0, true).is_err());
        assert!(folds(&vec![Some("one".into()); 9], 2, 0, true).is_err());
        assert!(folds(&[None, None], 1, 0, true).is_err());
    }

    #[test]
    fn a_fold_file_is_matched_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let rows = ["a, \"1\".jpg", "b.jpg", "c.jpg"].map(|p| Row { path: p.into(), ..Row::default() });
        let m = Manifest::new(dir.path(), &["valence"], rows.into(), vec![]);
        let file = dir.path().join("folds.csv");
        write(&file, &m, &[2, 0, 1]).unwrap();
        assert_eq!(read(&file, &m).unwrap(), [2, 0, 1]);
        for (text, problem) in [
            ("path,fold\nb.jpg,0\n", "no fold for"),
            ("path,fold\nb.jpg,0\nb.jpg,1\n", "two folds"),
            ("path,fold\nx.jpg,0\n", "not in the manifest"),
            ("path,fold\nb.jpg,-1\n", "line 2, column fold: `-1` is not a fold"),
            ("path,part\nb.jpg,1\n", "no column `fold`"),
        ] {
            std::fs::write(&file, text).unwrap();
            let e = read(&file, &m).unwrap_err().to_string();
            assert!(e.contains(problem), "{e}");
        }
    }
}
