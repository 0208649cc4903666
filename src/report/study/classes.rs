//! The tables of models that tell classes apart: how often they are right, on every set, and what is taken for what; and what
//! models that rate have in common with them.

use super::tables::{baseline, capital, missing, models, sets, spread, targets, title};
use super::{Layout, Model, Sheet, Study};
use crate::report::confusion;
use crate::table::number;
use crate::train::cell::TEST;
use crate::train::class_means::ClassMeans;
use crate::train::classified::Classified;
use crate::train::confusion::Confusion;
use crate::train::folds::Spread;
use crate::train::metrics::DimensionMetrics;

/// A measure by fold; None where a cell is not done.
fn by_fold(m: &Model, set: &str, of: fn(&Classified) -> f64) -> Vec<Option<f64>> {
    m.cells.iter().map(|c| Some(of(c.as_ref()?.classes(set)?))).collect()
}

/// Mean and, over several folds, sample SD.
fn with_sd(s: Spread, decimals: usize) -> String {
    match s.sd {
        Some(sd) => format!("{} ({})", number(s.mean, decimals), number(Some(sd), decimals)),
        None => number(s.mean, decimals),
    }
}

/// Right answers in percent.
fn percent(values: &[Option<f64>]) -> String {
    with_sd(spread(values), 2)
}

/// Models by sets, as Rapolu et al. lay out their Table 2.
pub(super) fn accuracy(s: &Study, i: usize, layout: &Layout) -> Sheet {
    let models = models(s, layout);
    let mut sheet = Sheet::new(&format!("table-{}", i + 1), &title(layout, "Accuracy on every set, %"));
    // A study of one split has one training part and one test part; that of the training is not told here.
    let sets: Vec<&str> = sets(s).into_iter().skip(1).collect();
    sheet.header = vec![vec![(String::new(), 1)], vec![(String::new(), 1)]];
    for set in &sets {
        let name = if *set == TEST { "Test".into() } else { set.to_uppercase() };
        sheet.header[0].push((name, 2));
        sheet.header[1].extend(Sheet::plain(["all", "by class"]));
    }
    for m in &models {
        let of = |set: &&str| {
            [percent(&by_fold(m, set, |c| c.accuracy_percent)), percent(&by_fold(m, set, |c| c.class_accuracy_percent))]
        };
        sheet.rows.push(std::iter::once(m.title.clone()).chain(sets.iter().flat_map(of)).collect());
    }
    let majority = models.first().map_or_else(|| "-".into(), |m| percent(&by_fold(m, TEST, |c| c.majority_percent)));
    sheet.note = format!(
        "Right answers, % (over several folds their mean, sample SD in brackets): of all pictures, and the mean over classes of \
         each one's. Always answering the most frequent class of the test part: {majority}.{}",
        missing(models.iter().copied())
    );
    sheet
}

/// Every model, fold by fold.
pub(super) fn folds(s: &Study) -> Sheet {
    let mut sheet = Sheet::new("folds", "Accuracy of each fold on its test part, %");
    let mut header = vec![String::new()];
    header.extend((1..=s.k()).map(|k| format!("K{k}")));
    header.extend(["Mean".into(), "SD".into()]);
    sheet.header = vec![Sheet::plain(header)];
    for m in telling(s) {
        let all = by_fold(m, TEST, |c| c.accuracy_percent);
        let over = spread(&all);
        let cells = all.iter().copied().chain([over.mean, over.sd]).map(|v| number(v, 2));
        sheet.rows.push(std::iter::once(m.title.clone()).chain(cells).collect());
    }
    sheet.note = format!("K1 to K{} are the folds.{}", s.k(), missing(telling(s)));
    sheet
}

/// Whether a model tells classes apart.
fn tells(m: &Model) -> bool {
    // One whose cells are all open has not said yet what it learns; one that rates nothing learns classes.
    m.targets.is_empty() || m.done().any(|c| c.classes(TEST).is_some())
}

/// The models that do.
fn telling(s: &Study) -> impl Iterator<Item = &Model> {
    s.models.iter().filter(|m| tells(m))
}

/// Wrong answers of the test part of each fold in percent of its pictures; None for a model that tells no classes apart.
pub(super) fn wrong(m: &Model) -> Option<Vec<Option<f64>>> {
    tells(m).then(|| by_fold(m, TEST, |c| 100.0 - c.accuracy_percent))
}

/// What ratings tell of the classes of a fold's test pictures: the class whose mean ratings, over the pictures of the other
/// folds, lie nearest. `of` are targets of the study, `rated` test pictures and their values.
fn by_means(s: &Study, of: &[usize], fold: u32, rated: impl Iterator<Item = (usize, Vec<f32>)>) -> Option<Confusion> {
    if s.classes.is_empty() || of.is_empty() {
        return None;
    }
    let truth = |i: usize| of.iter().map(|&t| s.manifest.rows[i].targets[t]).collect::<Vec<f32>>();
    let others: Vec<(usize, Vec<f32>)> =
        (0..s.folds.len()).filter(|&i| s.folds[i].is_some_and(|f| f != fold)).map(|i| (i, truth(i))).collect();
    let counted = others.iter().map(|(i, x)| (s.y[*i], &x[..], f64::from(s.manifest.rows[*i].weight)));
    let means = ClassMeans::of(s.classes.len(), counted);
    Some(Confusion::of(&s.classes, rated.filter_map(|(i, x)| Some((s.y[i], means.nearest(&x)?)))))
}

/// The same of a model's ratings; `fold` is numbered from 1. None where the model rates nothing, or nobody learns classes.
pub fn nearest(s: &Study, m: &Model, fold: u32) -> Option<Confusion> {
    let fold = fold - 1;
    let mine = m.predictions.iter().filter(|p| p.test && p.fold == fold).map(|p| (p.row, p.values.clone()));
    m.cells.get(fold as usize)?.as_ref()?;
    by_means(s, &m.targets, fold, mine)
}

/// Right answers of each fold, of all pictures and by class.
fn right(folds: &[Option<Confusion>]) -> [String; 2] {
    [Confusion::accuracy, Confusion::class_accuracy]
        .map(|of| percent(&folds.iter().map(|c| of(c.as_ref()?)).collect::<Vec<_>>()))
}

/// Models of whatever goals by what they have in common (Cybulski 2019).
pub(super) fn goals(s: &Study, i: usize, layout: &Layout) -> Sheet {
    let models = models(s, layout);
    let targets = targets(s, &models);
    let mut sheet = Sheet::new(&format!("table-{}", i + 1), &title(layout, "What each goal gives"));
    sheet.header = vec![vec![(String::new(), 1)], vec![(String::new(), 1)]];
    for &t in &targets {
        sheet.header[0].push((capital(&s.targets[t]), 3));
        sheet.header[1].extend(Sheet::plain(["MSE", "r", "CCC"]));
    }
    let classes = !s.classes.is_empty();
    if classes {
        sheet.header[0].extend([("Classes, % right".into(), 2), (String::new(), 1)]);
        sheet.header[1].extend(Sheet::plain(["all", "by class", "told by"]));
    }
    let dash = || "-".to_string();
    let none = || vec![dash(); 3 * targets.len()];
    let mut row = |name: String, rated: Vec<String>, told: [String; 2], by: &str| {
        let told = told.into_iter().chain([by.into()]).filter(|_| classes);
        sheet.rows.push(std::iter::once(name).chain(rated).chain(told).collect());
    };
    for m in &models {
        // A correlation that a fold does not have makes none.
        let measure = |t: usize, of: fn(&DimensionMetrics) -> Option<f64>| {
            let all = m.done().map(|c| of(&m.rated(c, TEST, t)?.model)).collect::<Vec<_>>();
            with_sd(Spread::of(&all), 3)
        };
        let rated = targets
            .iter()
            .flat_map(|&t| [measure(t, |d| Some(d.mse)), measure(t, |d| d.pearson_r), measure(t, |d| d.ccc)]);
        let rated: Vec<String> = rated.collect();
        let own = m.done().any(|c| c.classes(TEST).is_some());
        if own {
            let told = [by_fold(m, TEST, |c| c.accuracy_percent), by_fold(m, TEST, |c| c.class_accuracy_percent)];
            row(m.title.clone(), rated.clone(), told.map(|v| percent(&v)), "its own output");
        }
        if !own || !m.targets.is_empty() {
            let folds: Vec<Option<Confusion>> = (1..=s.k() as u32).map(|f| nearest(s, m, f)).collect();
            let by = if m.targets.is_empty() { "-" } else { "nearest mean" };
            let rated = if own { none() } else { rated };
            row(m.title.clone(), rated, right(&folds), by);
        }
    }
    let tested = |fold: u32| (0..s.folds.len()).filter(move |&i| s.folds[i] == Some(fold));
    let always = targets.iter().flat_map(|&t| [with_sd(spread(&baseline(s, t)), 3), dash(), dash()]).collect();
    let most = |fold: u32| {
        let of = |c: usize| tested(fold).filter(|&i| s.y[i] == c).count();
        let sizes: Vec<usize> = (0..s.classes.len()).map(of).filter(|n| *n > 0).collect();
        let all = 100.0 * sizes.iter().copied().max().unwrap_or(0) as f64 / sizes.iter().sum::<usize>() as f64;
        [all, 100.0 / sizes.len() as f64]
    };
    let most: Vec<[f64; 2]> = (0..s.k() as u32).filter(|_| classes).map(most).collect();
    let most = [0, 1].map(|i| percent(&most.iter().map(|x| Some(x[i])).collect::<Vec<_>>()));
    row("Without looking".into(), always, most, "the most frequent class");
    // What ratings without any error would tell.
    let mut spaces: Vec<&[usize]> = vec![];
    for m in models.iter().filter(|m| classes && !m.targets.is_empty()) {
        if !spaces.contains(&&m.targets[..]) {
            spaces.push(&m.targets);
        }
    }
    for of in spaces {
        let truth = |i: usize| of.iter().map(|&t| s.manifest.rows[i].targets[t]).collect();
        let folds = (0..s.k() as u32).map(|f| by_means(s, of, f, tested(f).map(|i| (i, truth(i)))));
        let names: Vec<&str> = of.iter().map(|&t| &*s.targets[t]).collect();
        let name = format!("True ratings: {}", names.join(", "));
        row(name, none(), right(&folds.collect::<Vec<_>>()), "nearest mean");
    }
    let told = " Classes: right answers of all pictures, and the mean over classes of each one's; by the nearest mean, a picture is \
                taken for the class whose mean ratings, over the pictures of the other folds, lie nearest to what the model says \
                of it. What a model without errors of ratings would tell stands last.";
    sheet.note = format!(
        "On the test parts, over several folds the mean and in brackets the sample SD. MSE in points² of the 1 to 9 scale. All \
         models have the same pictures in the same folds.{}{}",
        if classes { told } else { "" },
        missing(models.iter().copied())
    );
    sheet
}

/// What each model took its test pictures for, of all folds that are done, by its title.
fn confusions(s: &Study) -> Vec<(String, Confusion)> {
    let sum = |all: &mut dyn Iterator<Item = Confusion>| {
        all.reduce(|mut sum, c| {
            sum.add(&c);
            sum
        })
    };
    let of = |m: &Model| {
        let own = sum(&mut m.done().filter_map(|c| Some(c.classes(TEST)?.confusion.clone())));
        let nearest = sum(&mut (1..=s.k() as u32).filter_map(|f| nearest(s, m, f)));
        let by_mean = nearest.map(|c| (format!("{}, by the nearest class mean", m.title), c));
        own.map(|c| (m.title.clone(), c)).into_iter().chain(by_mean)
    };
    s.models.iter().flat_map(of).collect()
}

/// The same as pictures, one after another.
pub fn pictures(s: &Study) -> String {
    let picture = |(title, c): &(String, Confusion)| confusion::svg(c, &confusion::titled(c, title));
    confusions(s).iter().map(picture).collect()
}
