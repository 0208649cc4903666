/*! Floor 9: what a run leaves for people. [`html`] makes one page that needs nothing but itself: charts are inline SVG,
thumbnails are data URIs, there is no script, and the page's own policy forbids loading anything. [`tables`] writes the
predictions for other programs, [`folder`] all of it, [`classes`] the same of a run that tells classes apart; [`gradcam`] shows where towers look, [`confusion`] a matrix of counts;
[`evolved`] shows pictures that were evolved, [`generated`] those of a generator, [`colours`] their colours beside what people feel about colours, [`card`] says what a checkpoint is, [`accuracy`] lays out accuracies over folds; [`layers`] shows what each layer of a network knows, [`norms`] ratings beside those of words; [`memory`] draws a plan, [`roofline`] rates under ceilings, [`study`] makes the tables of a
paper. */

pub mod accuracy;
pub mod card;
mod charts;
pub mod classes;
mod colours;
pub mod confusion;
pub mod evolved;
pub mod folder;
pub mod generated;
pub mod gradcam;
pub mod layers;
pub mod memory;
pub mod norms;
pub mod roofline;
pub mod study;
mod svg;
pub mod tables;

pub use crate::train::fit::Epoch;

use crate::error::{Error, Result};
use crate::table::number;
use crate::train::folds::{FoldMetrics, Measure, Spread};
use crate::train::metrics::{Dimension, Metrics};
use crate::train::paired::interval;
use image::{ImageFormat, RgbImage};
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde::Serialize;
use std::io::Cursor;

/// Pictures shown among the best, and among the worst.
const SHOWN: usize = 8;

/// One picture; `truth` and `pred` have one value per target, points of the 1 to 9 scale.
#[derive(Clone, Debug)]
pub struct Point {
    /// The name shown.
    pub id: String,
    pub path: String,
    pub truth: Vec<f32>,
    pub pred: Vec<f32>,
    /// A small PNG or JPEG file, as bytes; needed only for the pictures that [`extremes`] picks.
    pub thumbnail: Option<Vec<u8>>,
}

impl Point {
    /// Euclidean distance of the prediction from the rating, points.
    pub fn error(&self) -> f64 {
        self.truth.iter().zip(&self.pred).map(|(a, p)| f64::from(p - a).powi(2)).sum::<f64>().sqrt()
    }
}

/// What the page shows.
#[derive(Clone, Debug)]
pub struct Report {
    pub title: String,
    /// What ran, on which device, by which command.
    pub subtitle: String,
    /// The run card: name and value.
    pub facts: Vec<(String, String)>,
    /// Empty for an evaluation without training.
    pub history: Vec<Epoch>,
    /// Names of the outputs, at least one; the first two span the plane.
    pub targets: Vec<String>,
    pub points: Vec<Point>,
    /// What is shown at its ratings on the plane: index of the point, a small PNG or JPEG file. See [`placed`].
    pub placed: Vec<(usize, Vec<u8>)>,
    /// One dimension per target, in the same order.
    pub metrics: Metrics,
    /// Of a cross-validation: fold by fold. `metrics` are then pooled: over the pictures of all folds at once.
    pub over_folds: Option<FoldMetrics>,
    /// What the baseline answers to each picture, a value a target; empty where that is `metrics`' training mean.
    pub train_mean: Vec<f64>,
    /// How much each picture counts; empty where all count alike.
    pub weight: Vec<f64>,
    /// What must be read first: licences, warnings.
    pub notes: Vec<String>,
}

/// Indices of the pictures with the smallest and the largest error, best first and worst first: those that want a
/// thumbnail. Few pictures are shared out without repetition; equal errors keep the order of the points.
pub fn extremes(points: &[Point]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&i, &j| points[i].error().total_cmp(&points[j].error()));
    let (best, worst) = (SHOWN.min(points.len().div_ceil(2)), SHOWN.min(points.len() / 2));
    let last = order.iter().rev().take(worst).copied().collect();
    order.truncate(best);
    (order, last)
}

/// Indices of points whose pictures fit beside each other on the plane of the first two targets, each at its ratings; the
/// first of several at one place.
pub fn placed(points: &[Point]) -> Vec<usize> {
    let mut placed: Vec<usize> = vec![];
    if points.iter().any(|p| p.truth.len() < 2) {
        return placed;
    }
    let room = charts::room(points);
    for (i, p) in points.iter().enumerate() {
        let apart = |q: &Point| (0..2).any(|t| (q.truth[t] - p.truth[t]).abs() > room[t]);
        if placed.iter().all(|&j| apart(&points[j])) {
            placed.push(i);
        }
    }
    placed
}

#[derive(Serialize)]
struct Card {
    id: String,
    path: String,
    image: Option<String>,
    error: String,
    values: Vec<CardValue>,
}

#[derive(Serialize)]
struct CardValue {
    target: String,
    truth: String,
    pred: String,
    track: String,
}

fn card(targets: &[String], p: &Point) -> Result<Card> {
    let value = |(k, target): (usize, &String)| CardValue {
        target: target.clone(),
        truth: number(Some(p.truth[k].into()), 1),
        pred: number(Some(p.pred[k].into()), 1),
        track: charts::track(p.truth[k], p.pred[k]),
    };
    Ok(Card {
        id: p.id.clone(),
        path: p.path.clone(),
        image: p.thumbnail.as_deref().map(data_uri).transpose().map_err(|e| e.at(p.path.clone()))?,
        error: number(Some(p.error()), 2),
        values: targets.iter().enumerate().map(value).collect(),
    })
}

/// An image file as the address of an `<img>`.
fn data_uri(file: &[u8]) -> Result<String> {
    let kind = match file {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, 0xff, ..] => "jpeg",
        _ => return Err(Error::job("the thumbnail is neither PNG nor JPEG")),
    };
    Ok(format!("data:image/{kind};base64,{}", base64(file)))
}

/// An image as a PNG file.
fn png(rgb: Vec<u8>, [width, height]: [usize; 2]) -> Result<Vec<u8>> {
    let failed = |why: String| Error::job(format!("cannot make a PNG: {why}"));
    let picture = RgbImage::from_raw(width as u32, height as u32, rgb).ok_or_else(|| failed("another size".into()))?;
    let mut file = Cursor::new(vec![]);
    picture.write_to(&mut file, ImageFormat::Png).map_err(|e| failed(e.to_string()))?;
    Ok(file.into_inner())
}

/// Base64 of RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= three.len() { letter as char } else { '=' });
        }
    }
    out
}

#[derive(Serialize)]
struct Headline {
    name: String,
    mae: String,
    baseline_mae: String,
    /// Lengths of the two bars, percent of the longer.
    bars: [f64; 2],
    verdict: String,
    better: bool,
    chips: Vec<[String; 3]>,
}

/// Squared error beside that of the training mean, with the 95 % interval of the difference over pictures: a sentence that
/// says "less" or "more" only where the interval leaves out "the same".
fn verdict(d: &Dimension, columns: &[Column]) -> (String, bool) {
    // The mean of these is the weighted one.
    let typical = columns.iter().map(|c| c.weight).sum::<f64>() / columns.len() as f64;
    let differences = columns
        .iter()
        .map(|c| c.weight / typical * ((c.predicted - c.truth).powi(2) - (c.train_mean - c.truth).powi(2)));
    let base = d.baseline.mse;
    let ends = interval(&differences.collect::<Vec<_>>()).filter(|_| base > 0.0);
    let Some([low, high]) = ends.map(|ends| ends.map(|e| 100.0 * e / base)) else {
        return ("too few pictures to compare with always answering the training mean".into(), false);
    };
    let change = |x: f64| format!("{:.0} % {}", x.abs(), if x < 0.0 { "less" } else { "more" });
    let (mean, interval) = (change(-100.0 * d.skill().unwrap_or(0.0)), format!("{} to {}", change(low), change(high)));
    let than = "squared error than always answering the training mean";
    if low <= 0.0 && high >= 0.0 {
        return (
            format!(
                "Not told apart from always answering the training mean: squared error {mean}, 95 % interval {interval}"
            ),
            false,
        );
    }
    (format!("{mean} {than}, 95 % interval {interval}"), high < 0.0)
}

/// One picture on one target.
struct Column {
    truth: f64,
    predicted: f64,
    train_mean: f64,
    weight: f64,
}

impl Report {
    /// All pictures on target `k`.
    fn column(&self, k: usize) -> Vec<Column> {
        let d = self.targets.len();
        let one = |(i, p): (usize, &Point)| Column {
            truth: p.truth[k].into(),
            predicted: p.pred[k].into(),
            train_mean: self.train_mean.get(i * d + k).copied().unwrap_or(self.metrics.dimensions[k].train_mean),
            weight: self.weight.get(i).copied().unwrap_or(1.0),
        };
        self.points.iter().enumerate().map(one).collect()
    }
}

/// `folds` has the mean correlations over folds, of the model and of the baseline, where there are several.
fn headline(d: &Dimension, columns: &[Column], folds: Option<[Option<f64>; 2]>) -> Headline {
    let (model, baseline) = (&d.model, &d.baseline);
    let longest = model.mae.max(baseline.mae).max(f64::MIN_POSITIVE);
    let (verdict, better) = verdict(d, columns);
    let (r_name, r) = match folds {
        Some(r) => ("Pearson r, mean of folds", r),
        None => ("Pearson r", [model.pearson_r, baseline.pearson_r]),
    };
    let percent = |v: f64, decimals| format!("{} %", number(Some(v), decimals));
    let chip = |name: &str, a: String, b: String| [name.into(), a, b];
    Headline {
        name: d.name.clone(),
        mae: number(Some(model.mae), 2),
        baseline_mae: number(Some(baseline.mae), 2),
        bars: [100.0 * model.mae / longest, 100.0 * baseline.mae / longest],
        verdict,
        better,
        chips: vec![
            chip("MSE", number(Some(model.mse), 2), number(Some(baseline.mse), 2)),
            chip(r_name, number(r[0], 2), number(r[1], 2)),
            chip("CCC", number(model.ccc, 2), number(baseline.ccc, 2)),
            chip("Right side of 5", percent(100.0 * model.sagr_at_5, 0), percent(100.0 * baseline.sagr_at_5, 0)),
            chip("Accuracy /9", percent(model.accuracy9_percent, 1), percent(baseline.accuracy9_percent, 1)),
        ],
    }
}

#[derive(Serialize)]
struct MetricsRow {
    label: &'static str,
    meaning: &'static str,
    cells: Vec<String>,
}

fn metrics_rows(m: &Metrics) -> Vec<MetricsRow> {
    let columns: Vec<_> = m.dimensions.iter().flat_map(|d| [d.model.fields(), d.baseline.fields()]).collect();
    let cell = |f: &crate::train::metrics::Field| {
        number(f.value, f.decimals).replace('-', if f.value.is_some() { "−" } else { "–" })
    };
    let row = |(i, f): (usize, &crate::train::metrics::Field)| MetricsRow {
        label: f.label,
        meaning: f.meaning,
        cells: columns.iter().map(|c| cell(&c[i])).collect(),
    };
    columns.first().map(|c| c.iter().enumerate().map(row).collect()).unwrap_or_default()
}

/// Means over folds, the sample SD in brackets: the model beside the baseline for each target.
fn fold_rows(f: &FoldMetrics) -> Vec<MetricsRow> {
    let cell = |m: &Measure, s: Spread| match (s.mean, s.sd) {
        (None, _) => "–".to_string(),
        (mean, None) => number(mean, m.decimals).replace('-', "−"),
        (mean, sd) => format!("{} ({})", number(mean, m.decimals).replace('-', "−"), number(sd, m.decimals)),
    };
    let row = |i: usize| {
        let all = f.dimensions.iter().map(|d| &d.measures[i]);
        let cells = all.clone().flat_map(|m| [cell(m, m.model), cell(m, m.baseline)]).collect();
        let first = &f.dimensions[0].measures[i];
        MetricsRow { label: first.label, meaning: first.meaning, cells }
    };
    (0..f.dimensions[0].measures.len()).map(row).collect()
}

/// The page, as the text of one HTML file. The same report gives the same bytes.
///
/// # Errors
/// No target, a point or metrics that do not fit the targets, a value that is not finite, or a thumbnail that is neither
/// PNG nor JPEG.
pub fn html(r: &Report) -> Result<String> {
    let names: Vec<&String> = r.metrics.dimensions.iter().map(|d| &d.name).collect();
    if r.targets.is_empty() || names != r.targets.iter().collect::<Vec<_>>() {
        return Err(Error::job(format!("the metrics are of {names:?}, the report's targets are {:?}", r.targets)));
    }
    for p in &r.points {
        let values = p.truth.iter().chain(&p.pred);
        if p.truth.len() != r.targets.len()
            || p.pred.len() != r.targets.len()
            || values.into_iter().any(|v| !v.is_finite())
        {
            return Err(Error::file(
                &p.path,
                format!("not one finite rating and prediction for {}", r.targets.join(", ")),
            ));
        }
    }
    let (best, worst) = extremes(&r.points);
    let cards = |which: &[usize]| which.iter().map(|&i| card(&r.targets, &r.points[i])).collect::<Result<Vec<_>>>();
    let scatters = if r.points.is_empty() {
        Vec::new()
    } else {
        (0..r.targets.len()).map(|k| (r.targets[k].clone(), chart(charts::scatter(&r.targets, &r.points, k)))).collect()
    };
    let placed = r.placed.iter().map(|(i, file)| Ok((&r.points[*i], data_uri(file)?))).collect::<Result<Vec<_>>>()?;
    let page = context! {
        pictured => charts::pictured(&r.targets, &r.points, &placed).map(chart),
        style => STYLE,
        title => r.title.as_str(),
        subtitle => r.subtitle.as_str(),
        notes => Serde(&r.notes),
        n => r.metrics.n,
        headlines => Serde(r.metrics.dimensions.iter().enumerate().map(|(k, d)| {
            let folds = r.over_folds.as_ref().and_then(|f| f.measure(k, "pearson_r"));
            headline(d, &r.column(k), folds.map(|m| [m.model.mean, m.baseline.mean]))
        }).collect::<Vec<_>>()),
        training => training(&r.history),
        targets => Serde(&r.targets),
        plane => if r.points.is_empty() { None } else { charts::plane(&r.targets, &r.points).map(chart) },
        scatters,
        best => Serde(cards(&best)?),
        worst => Serde(cards(&worst)?),
        rows => Serde(metrics_rows(&r.metrics)),
        fold_rows => Serde(r.over_folds.as_ref().map(fold_rows)),
        folds => r.over_folds.as_ref().map(|f| f.folds),
        train_means => r.metrics.dimensions.iter().map(|d| number(Some(d.train_mean), 2)).collect::<Vec<_>>(),
        facts => Serde(&r.facts),
        version => env!("CARGO_PKG_VERSION"),
    };
    render(include_str!("report.html"), page)
}

/// A chart for a page, for wide and for narrow windows.
fn chart(c: charts::Chart) -> minijinja::Value {
    context! { svg => c.svg, narrow => c.narrow, note => c.note }
}

/// What `training.html` shows of the epochs; nothing where none was trained.
fn training(history: &[Epoch]) -> Option<minijinja::Value> {
    let loss = |v: f64| if v.is_finite() { number(Some(v), 4) } else { v.to_string() };
    let known = |v: Option<f64>| v.map_or("–".into(), loss);
    let row = |e: &Epoch| {
        let outputs = e.outputs.iter().flat_map(|o| [known(o.train), known(o.val)]);
        let all = [e.epoch.to_string(), loss(e.train_loss), known(e.val_loss), svg::scientific(e.lr)];
        all.into_iter().chain(outputs).collect::<Vec<String>>()
    };
    charts::loss(history).map(|c| {
        context! {
            loss => chart(c),
            has_val => history.iter().any(|e| e.val_loss.is_some()),
            outputs => history.last().map_or(vec![], |e| e.outputs.iter().map(|o| o.name.clone()).collect()),
            epochs => history.iter().map(row).collect::<Vec<_>>(),
        }
    })
}

/// How every page looks.
const STYLE: &str = include_str!("style.css");

/// Fills in a page; it begins with `head.html`, may import `parts.html` and include `training.html`, and where it is one file ends
/// with `foot.html`.
fn render(template: &str, page: minijinja::Value) -> Result<String> {
    let fault = |e: minijinja::Error| Error::job(format!("the report's template failed: {e:#}"));
    // The name's ending turns escaping on.
    let mut env = Environment::new();
    env.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    env.add_template("head.html", include_str!("head.html")).map_err(fault)?;
    env.add_template("foot.html", include_str!("foot.html")).map_err(fault)?;
    env.add_template("parts.html", include_str!("parts.html")).map_err(fault)?;
    env.add_template("colours.html", include_str!("colours.html")).map_err(fault)?;
    env.add_template("training.html", include_str!("training.html")).map_err(fault)?;
    env.add_template("page.html", template).map_err(fault)?;
    env.get_template("page.html").and_then(|t| t.render(page)).map_err(fault)
}

#[cfg(test)]
mod tests;
