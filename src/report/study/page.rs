/*! One page with everything a study found: its tables, the pictures across the plane of its targets (the paper's Figures 4
to 6), predictions against ratings, learning curves, and what it was made of. It needs nothing but itself. */

use super::{Model, Predicted, Study, tables};
use crate::error::Result;
use crate::report::svg::{Axis, Plot};
use crate::report::{Point, STYLE, charts, data_uri, gradcam, render};
use crate::table::number;
use crate::train::cell::{Cell, TEST};
use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;
use std::collections::BTreeMap;

/// Pictures in each of the nine regions of the plane.
pub const PER_REGION: usize = 2;

/// What a page shows beside what the study knows.
#[derive(Default)]
pub struct Extras {
    /// PNG or JPEG files by row of the manifest; of what [`pictured`] names.
    pub thumbnails: BTreeMap<usize, Vec<u8>>,
    pub subtitle: String,
    /// What must be read first.
    pub notes: Vec<String>,
    /// The run card: name and value.
    pub facts: Vec<(String, String)>,
    pub figures: Vec<Figure>,
}

/// A section of its own: confusion matrices, maps of what a tower looks at.
#[derive(Serialize)]
pub struct Figure {
    pub title: String,
    pub lead: String,
    /// HTML.
    pub body: String,
}

/// The model with the least test error, over the targets that all models of ratings predict, among those that are complete;
/// None if none is.
pub fn best(s: &Study) -> Option<&Model> {
    let rating: Vec<&Model> = s.models.iter().filter(|m| !m.targets.is_empty()).collect();
    let common = |t: &usize| rating.iter().all(|m| m.place(*t).is_some());
    let common: Vec<usize> = (0..s.targets.len()).filter(common).collect();
    let mean = |m: &Model| {
        let error = |c: &Cell| common.iter().map(|t| Some(m.rated(c, TEST, *t)?.model.mse)).sum::<Option<f64>>();
        let all: Option<Vec<f64>> = m.cells.iter().map(|c| error(c.as_ref()?)).collect();
        all.map(|v| v.iter().sum::<f64>() / v.len() as f64)
    };
    let scored = rating.iter().filter(|_| !common.is_empty()).filter_map(|m| Some((*m, mean(m)?)));
    scored.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(m, _)| m)
}

/// Ends of the thirds of the scale.
const THIRDS: [f32; 2] = [1.0 + 8.0 / 3.0, 1.0 + 16.0 / 3.0];

/// Which third of the scale a rating is in.
fn third(rating: f32) -> usize {
    THIRDS.iter().filter(|end| rating >= **end).count()
}

/// Predictions to be shown in each region, by third of the second target, then of the first: those in the middle of the
/// region's errors, which are neither its luckiest nor its worst.
fn regions<'a>(s: &Study, m: &'a Model) -> [[Vec<&'a Predicted>; 3]; 3] {
    let mut all: [[Vec<&Predicted>; 3]; 3] = Default::default();
    if m.targets.len() < 2 {
        return all;
    }
    for p in m.predictions.iter().filter(|p| p.test) {
        let truth = s.truth(m, p.row);
        all[third(truth[1])][third(truth[0])].push(p);
    }
    let error = |p: &Predicted| -> f32 {
        let truth = s.truth(m, p.row);
        truth.iter().zip(&p.values).map(|(a, b)| (a - b).powi(2)).sum()
    };
    for region in all.iter_mut().flatten() {
        region.sort_by(|a, b| error(a).total_cmp(&error(b)).then(a.row.cmp(&b.row)));
        let from = (region.len().saturating_sub(PER_REGION)) / 2;
        *region = region.iter().copied().skip(from).take(PER_REGION).collect();
    }
    all
}

/// Rows of the manifest that the page shows, at most so many of each region of the plane.
pub fn pictured(s: &Study, most: usize) -> Vec<usize> {
    let Some(m) = best(s) else { return vec![] };
    regions(s, m).iter().flatten().flat_map(|r| r.iter().take(most)).map(|p| p.row).collect()
}

#[derive(Serialize)]
struct Region {
    name: String,
    pictures: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    image: Option<String>,
    predicted: String,
    rated: String,
    accuracy: String,
}

fn shown(s: &Study, extras: &Extras, m: &Model, p: &Predicted) -> Result<Shown> {
    let (row, truth) = (&s.manifest.rows[p.row], s.truth(m, p.row));
    let join = |of: &dyn Fn(usize) -> String| (0..truth.len()).map(of).collect::<Vec<_>>().join(" / ");
    let accuracy = |t: usize| 100.0 * (1.0 - f64::from((p.values[t] - truth[t]).abs()) / 9.0);
    Ok(Shown {
        id: row.path.rsplit('/').next().unwrap_or(&row.path).into(),
        image: extras.thumbnails.get(&p.row).map(|f| data_uri(f)).transpose()?,
        predicted: join(&|t| number(Some(p.values[t].into()), 2)),
        rated: join(&|t| number(Some(truth[t].into()), 2)),
        accuracy: join(&|t| format!("{} %", number(Some(accuracy(t)), 1))),
    })
}

fn plane(s: &Study, extras: &Extras, m: &Model) -> Result<Vec<Region>> {
    if m.targets.len() < 2 {
        return Ok(vec![]);
    }
    let (found, words, names) = (regions(s, m), ["low", "middle", "high"], s.names(m));
    let mut all = vec![];
    for (y, row) in found.iter().enumerate().rev() {
        for (x, region) in row.iter().enumerate() {
            let name = format!("{} {}, {} {}", words[x], names[0], words[y], names[1]);
            let pictures = region.iter().map(|p| shown(s, extras, m, p)).collect::<Result<_>>()?;
            all.push(Region { name, pictures });
        }
    }
    Ok(all)
}

/// The losses of every fold in one picture; None without any.
fn curves(m: &Model) -> Option<String> {
    let cells: Vec<&Cell> = m.done().collect();
    let epochs = cells.iter().flat_map(|c| &c.history);
    let losses = |e: &crate::report::Epoch| [Some(e.train_loss), e.val_loss];
    let high = epochs.clone().flat_map(losses).flatten().filter(|v| v.is_finite()).fold(0.0f64, f64::max);
    let last = epochs.map(|e| e.epoch).max()?;
    let mut p = Plot::new(
        460.0,
        260.0,
        Axis::whole("epoch", 1.0, f64::from(last.max(2)), 6),
        Axis::from_zero("loss", high.max(f64::MIN_POSITIVE), 5),
    );
    for c in &cells {
        let line = |of: &dyn Fn(&crate::report::Epoch) -> Option<f64>| -> Vec<(f64, f64)> {
            let at = |e: &crate::report::Epoch| of(e).filter(|v| v.is_finite()).map(|v| (f64::from(e.epoch), v));
            c.history.iter().filter_map(at).collect()
        };
        p.line("foldtrain", &line(&|e| Some(e.train_loss)));
        p.line("fold", &line(&|e| e.val_loss));
    }
    Some(p.finish("curves", &format!("Losses of {} folds of {} by epoch.", cells.len(), m.title)))
}

/// The page, as the text of one HTML file. The same study gives the same bytes.
///
/// # Errors
/// A thumbnail that is neither PNG nor JPEG.
pub fn html(s: &Study, extras: &Extras) -> Result<String> {
    let best = best(s);
    let names = best.map_or(vec![], |m| s.names(m));
    let points: Vec<Point> = best.map_or(vec![], |m| {
        let point = |p: &Predicted| {
            let row = &s.manifest.rows[p.row];
            let id = row.path.rsplit('/').next().unwrap_or(&row.path).to_string();
            Point { id, path: row.path.clone(), truth: s.truth(m, p.row), pred: p.values.clone(), thumbnail: None }
        };
        m.predictions.iter().filter(|p| p.test).map(point).collect()
    });
    let chart = |c: charts::Chart| context! { svg => c.svg, narrow => c.narrow, note => c.note };
    let scatters: Vec<_> = match points.is_empty() {
        true => vec![],
        false => (0..names.len()).map(|t| (names[t].clone(), chart(charts::scatter(&names, &points, t)))).collect(),
    };
    let lines: Vec<_> = s.models.iter().filter_map(|m| Some((m.title.clone(), curves(m)?))).collect();
    let page = context! {
        style => format!("{STYLE}{}", gradcam::STYLE),
        title => s.title.as_str(),
        subtitle => extras.subtitle.as_str(),
        notes => Serde(&extras.notes),
        tables => tables::all(s).iter().map(super::Sheet::html).collect::<Vec<_>>(),
        targets => Serde(&names),
        best => best.map(|m| m.title.as_str()),
        regions => Serde(best.map_or(Ok(vec![]), |m| plane(s, extras, m))?),
        scatters,
        curves => lines,
        figures => Serde(&extras.figures),
        facts => Serde(&extras.facts),
        version => env!("CARGO_PKG_VERSION"),
    };
    render(include_str!("study.html"), page)
}
