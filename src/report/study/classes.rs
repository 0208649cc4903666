//! The tables of a study whose models tell classes apart: how often they are right, on every set, and what is taken for what.

use super::tables::{missing, models, sets, spread, title};
use super::{Layout, Model, Sheet, Study};
use crate::report::confusion;
use crate::table::number;
use crate::train::cell::TEST;
use crate::train::classified::Classified;
use crate::train::confusion::Confusion;

/// A measure by fold; None where a cell is not done.
fn by_fold(m: &Model, set: &str, of: fn(&Classified) -> f64) -> Vec<Option<f64>> {
    m.cells.iter().map(|c| Some(of(c.as_ref()?.classes(set)?))).collect()
}

/// Right answers in percent: mean and, over several folds, sample SD.
fn percent(values: &[Option<f64>]) -> String {
    let s = spread(values);
    match s.sd {
        Some(sd) => format!("{} ({})", number(s.mean, 2), number(Some(sd), 2)),
        None => number(s.mean, 2),
    }
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
    for m in &s.models {
        let all = by_fold(m, TEST, |c| c.accuracy_percent);
        let over = spread(&all);
        let cells = all.iter().copied().chain([over.mean, over.sd]).map(|v| number(v, 2));
        sheet.rows.push(std::iter::once(m.title.clone()).chain(cells).collect());
    }
    sheet.note = format!("K1 to K{} are the folds.{}", s.k(), missing(s.models.iter()));
    sheet
}

/// What each model took its test pictures for, of all folds that are done.
fn confusions(s: &Study) -> Vec<(&Model, Confusion)> {
    let of = |m: &Model| {
        m.done().filter_map(|c| c.classes(TEST)).fold(None, |sum: Option<Confusion>, c| match sum {
            None => Some(c.confusion.clone()),
            Some(mut sum) => {
                sum.add(&c.confusion);
                Some(sum)
            }
        })
    };
    s.models.iter().filter_map(|m| Some((m, of(m)?))).collect()
}

/// The same as pictures, one after another.
pub fn pictures(s: &Study) -> String {
    let picture = |(m, c): &(&Model, Confusion)| confusion::svg(c, &confusion::titled(c, &m.title));
    confusions(s).iter().map(picture).collect()
}
