/*! Who is tested when. Photographs of one theme are near-duplicates: dealt at random they sit on both sides of a split and
a network is praised for remembering (on OASIS, 0.38 of valence MSE). So whole groups move together, unless asked
otherwise. The deal is a function of the rows and the seed. */

use super::manifest::Manifest;
use super::table::{Table, TableOptions, quoted};
use crate::atomic;
use crate::error::{Error, Result, option};
use crate::rng::{Rng, Stream};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// Whether some units are larger than others.
fn mixed(units: &[Vec<usize>]) -> bool {
    units.iter().any(|u| u.len() != units[0].len())
}

/// How late a unit is dealt: large ones early, so that small ones can even the folds out. Where sizes differ those of several
/// rows are taken for up to twice as large, at random: by size alone every seed would deal the same.
fn lateness(units: &[Vec<usize>], rng: &mut Rng) -> Vec<f64> {
    let differ = mixed(units);
    let mut of = |u: &Vec<usize>| {
        let factor = if differ && u.len() > 1 { 1.0 + f64::from(rng.uniform()) } else { 1.0 };
        -(u.len() as f64) * factor
    };
    units.iter().map(&mut of).collect()
}

/// The fold of every row, `0..k`. Sizes differ by one at most when dealt singly; whole groups are dealt about largest first,
/// each to the smallest fold, so that sizes differ by the largest group at most. Every seed deals otherwise. Errors if there
/// are fewer than `k` rows (or groups) to deal.
pub fn folds(groups: &[Option<String>], k: u32, seed: u64, grouped: bool) -> Result<Vec<u32>> {
    if k < 2 {
        return Err(Error::usage(format!("{k} folds leave nothing to compare")).fix("ask for 2 or more"));
    }
    let mut rng = Rng::new(seed, Stream::Folds, 0);
    let units = units(groups, grouped, &mut rng);
    if units.len() < k as usize {
        let what = if grouped { "groups" } else { "rows" };
        return Err(Error::usage(format!("{} {what} cannot fill {k} folds", units.len())).fix("ask for fewer folds"));
    }
    let late = lateness(&units, &mut rng);
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by(|a, b| late[*a].total_cmp(&late[*b]));
    // The largest groups do not always go to the first folds.
    let mut names: Vec<u32> = (0..k).collect();
    if mixed(&units) {
        rng.shuffle(&mut names);
    }
    let mut sizes = vec![0; k as usize];
    let mut fold = vec![0; groups.len()];
    for unit in order.into_iter().map(|i| &units[i]) {
        let smallest = (0..sizes.len()).min_by_key(|&f| sizes[f]).unwrap_or(0);
        sizes[smallest] += unit.len();
        unit.iter().for_each(|&i| fold[i] = names[smallest]);
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
            .fix(format!("give more groups, or name widths in {}", option("head"))));
    }
    folds(groups, k, seed, grouped)
}

/// [`folds`] in which every class is dealt evenly too: its rows differ by one at most over folds when dealt singly. Whole
/// groups are dealt largest first, each to the fold that has least of its classes. `classes` has one number a row.
pub fn stratified(classes: &[usize], groups: &[Option<String>], k: u32, seed: u64, grouped: bool) -> Result<Vec<u32>> {
    // For its refusals: what cannot be dealt at all cannot be dealt evenly.
    folds(groups, k, seed, grouped)?;
    let mut rng = Rng::new(seed, Stream::Folds, 0);
    let units = units(groups, grouped, &mut rng);
    let late = lateness(&units, &mut rng);
    let mut order: Vec<usize> = (0..units.len()).collect();
    // Of one size class after class, so that what is left over of each goes to the smallest folds.
    order.sort_by(|&a, &b| late[a].total_cmp(&late[b]).then(classes[units[a][0]].cmp(&classes[units[b][0]])));
    let n = classes.iter().max().map_or(0, |c| c + 1);
    let (mut sizes, mut held) = (vec![0; k as usize], vec![vec![0usize; n]; k as usize]);
    let mut totals = vec![0usize; n];
    classes.iter().for_each(|&c| totals[c] += 1);
    let mut fold = vec![0; classes.len()];
    for unit in order.into_iter().map(|i| &units[i]) {
        // Parts of classes, as whole numbers per million: sums of them do not depend on their order.
        let part =
            |f: usize| -> usize { unit.iter().map(|&i| held[f][classes[i]] * 1_000_000 / totals[classes[i]]).sum() };
        let best = (0..sizes.len()).min_by_key(|&f| (part(f), sizes[f])).unwrap_or(0);
        for &i in unit {
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

/// True for the rows of the validation part. Where all groups have one size it is `fraction` of the rows, to the group; where
/// sizes differ every group, large or small, has a chance of `fraction` to be in it, and groups are drawn evenly over sizes,
/// so that the rows are about that part too. Both parts get at least one group, whatever the fraction.
pub fn split(groups: &[Option<String>], fraction: f64, seed: u64, grouped: bool) -> Result<Vec<bool>> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::usage(format!("a validation part of {fraction}")).fix("ask for more than 0 and less than 1"));
    }
    let mut rng = Rng::new(seed, Stream::Folds, 1);
    let mut units = units(groups, grouped, &mut rng);
    let n = units.len();
    if n < 2 {
        return Err(Error::usage(format!("{n} group(s) cannot be split in two"))
            .fix("give more rows, or do not keep groups together"));
    }
    let mut taken: Vec<usize> = match mixed(&units) {
        false => {
            (0..((groups.len() as f64 * fraction / units[0].len() as f64).round() as usize).clamp(1, n - 1)).collect()
        }
        true => {
            // A systematic sample of the groups in the order of their sizes: steps of 1 / fraction from a random start.
            units.sort_by_key(Vec::len);
            let start = f64::from(rng.uniform());
            let before = |i: usize| (i as f64 * fraction + start).floor();
            (0..n).filter(|&i| before(i + 1) > before(i)).collect()
        }
    };
    if taken.is_empty() {
        taken.push(rng.below(n));
    } else if taken.len() == n {
        taken.remove(rng.below(n));
    }
    let mut held = vec![false; groups.len()];
    taken.into_iter().flat_map(|i| &units[i]).for_each(|&i| held[i] = true);
    Ok(held)
}

/// The number of a fold in files, in names and for people: from 1. In the program folds are counted from 0.
pub fn number(fold: u32) -> u32 {
    fold + 1
}

/// Folds from 0, of numbers as people have them: from 1, or from 0, without a gap. The error is the first number that no row
/// has.
fn counted(numbers: &[u32]) -> std::result::Result<Vec<u32>, u32> {
    let have: BTreeSet<u32> = numbers.iter().copied().collect();
    let first = have.first().copied().unwrap_or(1).min(1);
    match (first..).zip(&have).find(|(want, have)| want != *have) {
        Some((missing, _)) => Err(missing),
        None => Ok(numbers.iter().map(|n| n - first).collect()),
    }
}

/// The folds of the manifest's own column; None where it is empty. `path` is the manifest's.
///
/// # Errors
/// Rows without a fold among others with one, or a number that no row has between those that some have.
pub fn of_column(path: &Path, manifest: &Manifest) -> Result<Option<Vec<u32>>> {
    let given: Vec<u32> = manifest.rows.iter().filter_map(|r| r.fold).collect();
    let (all, wrong) = (manifest.rows.len(), |what: String| Error::file(path, what).at("column fold"));
    if given.is_empty() {
        return Ok(None);
    }
    if given.len() < all {
        return Err(wrong(format!("{} of {all} rows have no fold", all - given.len()))
            .fix(format!("fill the column, or deal anew with {}", option("ignore-fold-column"))));
    }
    let gap = |n: u32| {
        wrong(format!("no row is in fold {n}"))
            .fix(format!("number folds from 1, or use {}", option("ignore-fold-column")))
    };
    counted(&given).map(Some).map_err(gap)
}

/// Of the groups with two rows or more: how many have rows in more than one fold, and how many there are.
pub fn parted(groups: &[Option<String>], folds: &[u32]) -> [usize; 2] {
    let mut of: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    groups.iter().zip(folds).for_each(|(g, f)| g.iter().for_each(|g| of.entry(g).or_default().push(*f)));
    let several = of.values().filter(|f| f.len() > 1);
    several.fold([0, 0], |[parted, all], f| [parted + usize::from(f.iter().any(|x| *x != f[0])), all + 1])
}

/// Writes `path,fold`, one line a row and folds from 1, so that a run can be repeated elsewhere on the same folds.
pub fn write(file: impl AsRef<Path>, manifest: &Manifest, folds: &[u32]) -> Result<()> {
    if folds.len() != manifest.rows.len() {
        return Err(Error::job(format!("{} folds for {} rows", folds.len(), manifest.rows.len())));
    }
    let mut text = String::from("path,fold\n");
    for (row, fold) in manifest.rows.iter().zip(folds) {
        text.push_str(&format!("{},{}\n", quoted(&row.path), number(*fold)));
    }
    atomic::write(file, |w| w.write_all(text.as_bytes()))
}

/// The folds of a manifest's rows, from a file of [`write`] or of any other program, numbered from 1 or from 0. Matched by
/// path; a row without a fold and a fold without a row are errors.
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
            Error::file(file, format!("`{}` is not a fold", fields[fold])).at(at("fold")).fix("number folds from 1")
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
    counted(&folds.into_iter().flatten().collect::<Vec<u32>>())
        .map_err(|n| Error::file(file, format!("no row is in fold {n}")).at("column fold").fix("number folds from 1"))
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
            // By the largest group, of eleven, at most.
            assert!(s.iter().max().unwrap() - s.iter().min().unwrap() <= 11, "{s:?}");
            // A group more or less than a fifth of them, and those of any size.
            assert!(v.iter().filter(|&&x| x).count().abs_diff(100) <= 22);
        }
        // Dealt singly, the same rows do straddle.
        let f = folds(&g, 5, 0, false).unwrap();
        assert_eq!(sizes(&f, 5), [100; 5]);
        assert!((0..500).any(|i| (0..i).any(|j| g[i] == g[j] && f[i] != f[j])));
    }

    /// One group of 30 rows, one of 12, twenty of 3 and thirty rows alone.
    fn uneven() -> Vec<Option<String>> {
        let named = |name: String, n: usize| vec![Some(name); n];
        let mut g = [named("large".into(), 30), named("middle".into(), 12)].concat();
        (0..20).for_each(|i| g.extend(named(format!("three {i}"), 3)));
        g.extend(vec![None; 30]);
        g
    }

    #[test]
    fn seeds_deal_otherwise_where_sizes_differ() {
        let g = uneven();
        let sizes_of: Vec<usize> = (1..12).chain([20, 40]).collect();
        let all_different: Vec<Option<String>> =
            sizes_of.iter().flat_map(|n| vec![Some(format!("g{n}")); *n]).collect();
        for g in [&g, &all_different] {
            // Which rows share a fold with which, whatever the folds are called.
            let pairs = |seed: u64| {
                let f = folds(g, 4, seed, true).unwrap();
                (0..g.len()).flat_map(|i| (0..i).map(|j| f[i] == f[j]).collect::<Vec<_>>()).collect::<Vec<bool>>()
            };
            let deals: std::collections::HashSet<Vec<bool>> = (0..20).map(pairs).collect();
            assert!(deals.len() >= 15, "{} deals of 20 seeds", deals.len());
        }
        let mut first = [0; 5];
        for seed in 0..200 {
            let f = folds(&g, 5, seed, true).unwrap();
            let s = sizes(&f, 5);
            // The group of 30 is more than a fifth; the others are even to a row.
            let mut rest: Vec<usize> = (0..5).filter(|&k| k as u32 != f[0]).map(|k| s[k as usize]).collect();
            rest.sort_unstable();
            assert!(s[f[0] as usize] == 30 && rest[3] - rest[0] <= 1, "{s:?}");
            first[f[0] as usize] += 1;
        }
        // 200 / 5, and four SDs of a binomial.
        assert!(first.iter().all(|n: &i32| (n - 40).abs() <= 23), "{first:?}");
    }

    #[test]
    fn large_groups_are_set_apart_as_often_as_small_ones() {
        let g = uneven();
        for fraction in [0.1, 0.25] {
            let (mut taken, mut rows, seeds) = (vec![0u32; g.len()], 0, 4000);
            for seed in 0..seeds {
                let held = split(&g, fraction, seed, true).unwrap();
                taken.iter_mut().zip(&held).for_each(|(n, h)| *n += u32::from(*h));
                rows += held.iter().filter(|h| **h).count();
            }
            let n = seeds as f64;
            // Five SDs of a binomial: over 52 groups chance exceeds them once in thirty thousand.
            let bound = 5.0 * (n * fraction * (1.0 - fraction)).sqrt();
            for (i, taken) in taken.iter().enumerate() {
                assert!((f64::from(*taken) - n * fraction).abs() <= bound, "row {i} of {:?}: {taken}", g[i]);
            }
            let share = rows as f64 / n / g.len() as f64;
            assert!((share - fraction).abs() <= 0.02, "{share} instead of {fraction}");
        }
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
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "path,fold\n\"a, \"\"1\"\".jpg\",3\nb.jpg,1\nc.jpg,2\n");
        assert_eq!(read(&file, &m).unwrap(), [2, 0, 1]);
        // Numbered from 0, as by older programs.
        std::fs::write(&file, "path,fold\nc.jpg,1\nb.jpg,0\n\"a, \"\"1\"\".jpg\",2\n").unwrap();
        assert_eq!(read(&file, &m).unwrap(), [2, 0, 1]);
        for (text, problem) in [
            ("path,fold\nb.jpg,0\n", "no fold for"),
            ("path,fold\nb.jpg,0\nb.jpg,1\n", "two folds"),
            ("path,fold\nx.jpg,0\n", "not in the manifest"),
            ("path,fold\nb.jpg,-1\n", "line 2, column fold: `-1` is not a fold"),
            ("path,part\nb.jpg,1\n", "no column `fold`"),
            ("path,fold\nc.jpg,1\nb.jpg,4\n\"a, \"\"1\"\".jpg\",2\n", "no row is in fold 3"),
        ] {
            std::fs::write(&file, text).unwrap();
            let e = read(&file, &m).unwrap_err().to_string();
            assert!(e.contains(problem), "{e}");
        }
    }
}
