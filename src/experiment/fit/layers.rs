//! How much of a rating each layer of a network knows, from the columns that each has in a table.

use super::{Answers, Method, Task, cross_validate};
use crate::error::{Error, Result, option};
use crate::experiment::Events;
use crate::report::layers::{Layer, Series};
use crate::report::study::Sheet;
use crate::table::number;
use crate::train::resampled::{Interval, over_groups};
use crate::train::solved::OverFolds;

/// Columns that share what stands before their last dot, in the order of the table.
fn groups(columns: &[String]) -> Vec<(&str, Vec<usize>)> {
    let mut all: Vec<(&str, Vec<usize>)> = vec![];
    for (i, column) in columns.iter().enumerate() {
        let name = column.rsplit_once('.').map_or("", |c| c.0);
        match all.iter_mut().find(|g| g.0 == name) {
            Some(group) => group.1.push(i),
            None => all.push((name, vec![i])),
        }
    }
    all
}

/// A model for each layer alone, over the folds: the ratings, and a series for each name of a table.
///
/// # Errors
/// Classes, several settings, and what [`cross_validate`] refuses.
pub fn measure<'a>(
    method: &Method,
    task: &Task<'a>,
    fold: &[u32],
    k: u32,
    events: &dyn Events,
) -> Result<(&'a [String], Vec<Series>)> {
    let layers = option("layers");
    let Answers::Ratings { targets, values } = task.answers else {
        return Err(Error::usage(format!("{layers} is for ratings")).fix("choose ridge, linear or svr"));
    };
    if method.settings().len() != 1 {
        return Err(Error::usage(format!("{layers} is of one setting")).fix("give one C, or one penalty or none"));
    }
    let (width, n) = (task.columns.len(), fold.len());
    let mut all: Vec<Series> = vec![];
    for (name, picked) in groups(task.columns) {
        let columns: Vec<String> = picked.iter().map(|&i| task.columns[i].clone()).collect();
        let x: Vec<f32> = (0..n).flat_map(|i| picked.iter().map(move |&c| task.x[i * width + c])).collect();
        let alone = Task { columns: &columns, x: &x, ..*task };
        let place = |e: Error| e.at(format!("layer {name}"));
        let validated = cross_validate(method, &alone, fold, k, events).map_err(place)?;
        let Some(OverFolds::Ratings { predicted, .. }) = validated.settings.into_iter().next().map(|s| s.judged) else {
            return Err(Error::job("a layer has no ratings"));
        };
        let of = |t: usize| -> [Interval; 2] {
            let column = |v: &dyn Fn(usize) -> f64| (0..n).map(|i| v(i * targets.len() + t)).collect::<Vec<f64>>();
            let (truth, said) = (column(&|i| values[i]), column(&|i| f64::from(predicted[i])));
            over_groups(&truth, &said, task.weight, task.groups, task.seed)
        };
        let (series, layer) = name.split_once('.').unwrap_or(("", name));
        let layer = Layer { name: layer.into(), columns: columns.len(), targets: (0..targets.len()).map(of).collect() };
        match all.iter_mut().find(|s| s.name == series) {
            Some(s) => s.layers.push(layer),
            None => all.push(Series { name: series.into(), layers: vec![layer] }),
        }
    }
    Ok((targets, all))
}

/// The table: a row a layer.
pub fn sheet(all: &[Series], targets: &[String], title: &str) -> Sheet {
    let mut sheet = Sheet::new("layers", title);
    let names = targets.iter().map(|t| (t.clone(), 4));
    sheet.header = vec![
        [(String::new(), 1), (String::new(), 1)].into_iter().chain(names).collect(),
        Sheet::plain(["", "columns"].into_iter().chain(targets.iter().flat_map(|_| ["MSE", "95 %", "r", "95 %"]))),
    ];
    for series in all {
        for layer in &series.layers {
            let cells = layer
                .targets
                .iter()
                .flatten()
                .flat_map(|i| [number(i.value, 3), format!("{} to {}", number(i.low, 3), number(i.high, 3))]);
            let name = [&*series.name, &*layer.name].join(" ");
            sheet.rows.push([name.trim().to_string(), layer.columns.to_string()].into_iter().chain(cells).collect());
        }
    }
    sheet.note =
        "Of all pictures at once, each judged by a model that has not seen it; intervals by 2,000 resamples of \
                  whole groups."
            .into();
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_belong_to_the_layer_before_their_last_dot() {
        let columns = ["a.block1.1", "a.block1.2", "a.block2.1", "b.block1.1", "plain"].map(String::from);
        let found = groups(&columns);
        assert_eq!(found, [("a.block1", vec![0, 1]), ("a.block2", vec![2]), ("b.block1", vec![3]), ("", vec![4])]);
    }
}
