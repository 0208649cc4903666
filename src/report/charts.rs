/*! The report's charts: the loss over epochs, ratings and predictions on the plane of two targets, predicted against
true per target, and the small scale under each picture. */

use super::svg::{Axis, Plot, escape, scientific, short};
use super::{Epoch, Point};
use crate::train::metrics::LEAST_SPREAD;
use std::fmt::Write;

/// More points than this make arrows on the plane unreadable.
const PLANE_POINTS: usize = 300;
/// More points than this make a scatter heavy to open and no clearer.
const SCATTER_POINTS: usize = 2000;

/// A chart: its SVG, once or in a second shape for narrow screens, and what the reader should know about it.
pub struct Chart {
    pub svg: String,
    pub narrow: String,
    pub note: String,
}

/// Evenly spaced indices, at most `limit` of `n`.
fn thin(n: usize, limit: usize) -> impl Iterator<Item = usize> {
    let m = n.min(limit);
    (0..m).map(move |i| i * n / m)
}

/// Says that not all is shown, or nothing.
fn shown(n: usize, limit: usize) -> String {
    if n > limit { format!("Every so many, {limit} of {n} pictures are drawn. ") } else { String::new() }
}

/// Says how many values were drawn on the edge, or nothing.
fn outside<'a>(values: impl Iterator<Item = &'a f32>) -> String {
    match values.filter(|v| !(1.0..=9.0).contains(*v)).count() {
        0 => String::new(),
        1 => "One value outside 1 to 9 is drawn on the edge. ".into(),
        n => format!("{n} values outside 1 to 9 are drawn on the edge. "),
    }
}

/// What a run came to, from zero on both axes, called `names` and ending at `ends`; the last point, of at least one, is written out.
pub fn progress(names: [&str; 2], ends: [f64; 2], line: &[(f64, f64)], described: &str) -> Chart {
    let last = line[line.len() - 1];
    let draw = |class: &str, width: f64, height: f64| {
        let x = Axis::from_zero(names[0], ends[0], (width / 110.0) as usize);
        let mut p = Plot::new(width, height, x, Axis::from_zero(names[1], ends[1], 4));
        p.line("train", line);
        p.disc("best", last, 4.0, &short(last.1, 2));
        p.finish(class, described)
    };
    Chart { svg: draw("wide", 860.0, 240.0), narrow: draw("narrow", 380.0, 220.0), note: String::new() }
}

/// The loss curves; None without a finite loss.
pub fn loss(history: &[Epoch]) -> Option<Chart> {
    let pick = |f: &dyn Fn(&Epoch) -> Option<f64>| -> Vec<(f64, f64)> {
        let at = |e: &Epoch| f(e).filter(|v| v.is_finite()).map(|v| (f64::from(e.epoch), v));
        history.iter().filter_map(at).collect()
    };
    let (train, val) = (pick(&|e| Some(e.train_loss)), pick(&|e| e.val_loss));
    let all = || train.iter().chain(&val);
    let (lo, hi) = all().fold((f64::INFINITY, 0f64), |(lo, hi), &(_, v)| (lo.min(v), hi.max(v)));
    all().next()?;
    let (first, last) = (f64::from(history[0].epoch), f64::from(history[history.len() - 1].epoch));
    let log = lo > 0.0 && hi / lo > 20.0;
    let monitored = if val.is_empty() { &train } else { &val };
    let best = monitored.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a })?;
    let steps: Vec<(f64, f64)> =
        history.windows(2).filter(|w| w[0].lr != w[1].lr).map(|w| (f64::from(w[1].epoch), w[1].lr)).collect();
    let described = format!(
        "Loss by epoch, {first} to {last}. Training from {} to {}. Lowest {} loss {} at epoch {}.",
        short(train.first().map_or(f64::NAN, |v| v.1), 3),
        short(train.last().map_or(f64::NAN, |v| v.1), 3),
        if val.is_empty() { "training" } else { "validation" },
        short(best.1, 3),
        best.0
    );
    let draw = |class: &str, width: f64, height: f64| {
        let y = if log {
            Axis::log("loss (log scale)", lo, hi)
        } else {
            Axis::from_zero("loss", hi.max(f64::MIN_POSITIVE), 5)
        };
        let mut p = Plot::new(width, height, Axis::whole("epoch", first, last, (width / 80.0) as usize), y);
        // A rate that changes every epoch is a curve, not steps.
        if steps.len() <= 6 {
            for &(epoch, lr) in &steps {
                // The rate changed between two epochs.
                p.vertical("step", epoch - 0.5);
                p.text("tick", (epoch - 0.5, p.top_value()), (4.0, 12.0), &scientific(lr));
            }
        }
        for (class, mark, line) in [("train", "trainmark", &train), ("val", "valmark", &val)] {
            p.line(class, line);
            if line.len() <= 2 {
                line.iter().for_each(|&at| p.disc(mark, at, 3.5, ""));
            }
        }
        p.disc("best", best, 5.0, &format!("epoch {}: {}", best.0, short(best.1, 4)));
        let right = best.0 > (first + last) / 2.0;
        let class_text = if right { "mark end" } else { "mark" };
        let label = format!("best {} at epoch {}", short(best.1, 3), best.0);
        // Below the curve's lowest point there is room, unless it lies on the axis.
        let dy = if log && best.1 < lo * 1.3 { -12.0 } else { 20.0 };
        p.text(class_text, best, (if right { 6.0 } else { -6.0 }, dy), &label);
        p.finish(class, &described)
    };
    let mut note = String::new();
    if let Some((a, b)) = history.first().zip(history.last()) {
        if steps.is_empty() {
            let _ = write!(note, "Learning rate {} throughout. ", scientific(a.lr));
        } else if steps.len() <= 6 {
            let _ = write!(
                note,
                "Dotted lines: the learning rate, {} at first, drops to the value given. ",
                scientific(a.lr)
            );
        } else {
            let _ = write!(note, "The learning rate goes from {} to {}. ", scientific(a.lr), scientific(b.lr));
        }
    }
    let lost = history.len() - train.len();
    if lost > 0 {
        let _ = write!(note, "{lost} epochs have no finite training loss and are left out. ");
    }
    Some(Chart { svg: draw("wide", 860.0, 320.0), narrow: draw("narrow", 380.0, 280.0), note })
}

/// Truth and prediction of each picture on the plane of the first two targets.
pub fn plane(targets: &[String], points: &[Point]) -> Option<Chart> {
    let [x, y] = [targets.first()?, targets.get(1)?];
    let mut p = Plot::new(520.0, 520.0, Axis::scale(x), Axis::scale(y));
    p.vertical("midline", 5.0);
    p.horizontal("midline", 5.0);
    let at = |v: &[f32]| (f64::from(v[0]), f64::from(v[1]));
    let drawn: Vec<&Point> = thin(points.len(), PLANE_POINTS).map(|i| &points[i]).collect();
    // All segments first: no segment crosses out a mark.
    drawn.iter().for_each(|q| p.line("miss", &[at(&q.truth), at(&q.pred)]));
    let r = if drawn.len() > 80 { 3.0 } else { 4.0 };
    for q in &drawn {
        let ((a, b), (c, d)) = (at(&q.truth), at(&q.pred));
        let tip = format!("{}: true {a:.2}, {b:.2}; predicted {c:.2}, {d:.2}", q.id);
        p.disc("true", (a, b), r, &tip);
        p.disc("pred", (c, d), r, &tip);
    }
    let edge = outside(drawn.iter().flat_map(|q| q.truth[..2].iter().chain(&q.pred[..2])));
    let described = format!(
        "{} pictures on the plane of {x} and {y}, each with a line from its rating to its prediction.",
        drawn.len()
    );
    let note = shown(points.len(), PLANE_POINTS) + &edge;
    Some(Chart { svg: p.finish("square", &described), narrow: String::new(), note })
}

/// Side of a picture on the plane, and of the plane itself, pixels of the drawing.
const SIDE: f64 = 50.0;
const PLANE: f64 = 800.0;

/// The part of the scale that the first two targets of some points need, ratings and predictions: whole numbers.
fn needed(points: &[Point]) -> [[f64; 2]; 2] {
    let ends = |t: usize| {
        let values = || points.iter().flat_map(|p| [p.truth[t], p.pred[t]]).map(|v| f64::from(v.clamp(1.0, 9.0)));
        let (low, high) = values().fold((9.0f64, 1.0f64), |(low, high), v| (low.min(v), high.max(v)));
        let low = low.floor().min(8.0);
        [low, high.ceil().max(low + 1.0)]
    };
    [ends(0), ends(1)]
}

/// How far apart two pictures on the plane of these points are, in one direction or the other, points of the scale.
pub fn room(points: &[Point]) -> [f32; 2] {
    needed(points).map(|[low, high]| ((SIDE + 2.0) * (high - low) / PLANE) as f32)
}

/// Pictures at their ratings on the plane of the first two targets, given as addresses, with lines to their predictions;
/// None without any.
pub fn pictured(targets: &[String], points: &[Point], placed: &[(&Point, String)]) -> Option<Chart> {
    let [x, y] = [targets.first()?, targets.get(1)?];
    placed.first()?;
    let [across, up] = needed(points);
    let axis = |label: &str, [low, high]: [f64; 2]| Axis::whole(label, low, high, 8);
    let mut p = Plot::new(PLANE + 53.0, PLANE + 58.0, axis(x, across), axis(y, up));
    p.vertical("midline", 5.0);
    p.horizontal("midline", 5.0);
    let at = |v: &[f32]| (f64::from(v[0]), f64::from(v[1]));
    placed.iter().for_each(|(q, _)| p.line("led", &[at(&q.truth), at(&q.pred)]));
    for (q, uri) in placed {
        let ((a, b), (c, d)) = (at(&q.truth), at(&q.pred));
        let tip = format!("{}: rated {a:.2}, {b:.2}; predicted {c:.2}, {d:.2}", q.id);
        p.picture((a, b), SIDE, uri, &tip);
        p.disc("pred", (c, d), 4.0, &tip);
    }
    let described = format!("{} pictures at their ratings on the plane of {x} and {y}.", placed.len());
    Some(Chart { svg: p.finish("pictured", &described), narrow: String::new(), note: String::new() })
}

/// Ratings against predictions of target `k`, with the identity and the least-squares line.
pub fn scatter(targets: &[String], points: &[Point], k: usize) -> Chart {
    let name = &targets[k];
    let mut p =
        Plot::new(420.0, 420.0, Axis::scale(&format!("predicted {name}")), Axis::scale(&format!("true {name}")));
    p.straight("identity", 1.0, 0.0);
    let pair = |q: &Point| (f64::from(q.pred[k]), f64::from(q.truth[k]));
    let class = if points.len() > 300 { "dot many" } else { "dot" };
    let r = if points.len() > 300 { 2.4 } else { 3.4 };
    for i in thin(points.len(), SCATTER_POINTS) {
        let (x, y) = pair(&points[i]);
        p.disc(class, (x, y), r, &format!("{}: predicted {x:.2}, true {y:.2}", points[i].id));
    }
    let n = points.len() as f64;
    let (mx, my) = points.iter().map(pair).fold((0.0, 0.0), |s, v| (s.0 + v.0 / n, s.1 + v.1 / n));
    let squares: f64 = points.iter().map(pair).map(|(x, _)| (x - mx) * (x - mx)).sum();
    let products: f64 = points.iter().map(pair).map(|(x, y)| (x - mx) * (y - my)).sum();
    let mut note = String::new();
    if (squares / n).sqrt() >= LEAST_SPREAD {
        let slope = products / squares;
        p.straight("fit", slope, my - slope * mx);
        let way = match slope {
            s if s < 0.9 => "differences between pictures are overstated",
            s if s > 1.1 => "differences between pictures are understated",
            _ => "well calibrated",
        };
        let _ = write!(note, "Slope {}: {way}. ", short(slope, 2));
    } else {
        note.push_str("Predictions are as good as equal: no line fits. ");
    }
    note += &shown(points.len(), SCATTER_POINTS);
    note += &outside(points.iter().flat_map(|q| [&q.truth[k], &q.pred[k]]));
    let described = format!("True against predicted {name} of {} pictures. {note}", points.len());
    Chart { svg: p.finish("square", &described), narrow: String::new(), note }
}

/// The 1 to 9 scale as a short track with the rating (hollow) and the prediction (filled).
pub fn track(truth: f32, pred: f32) -> String {
    let x = |v: f32| 6.0 + (v.clamp(1.0, 9.0) - 1.0) / 8.0 * 108.0;
    let (a, p) = (x(truth), x(pred));
    let label = escape(&format!("true {truth:.1}, predicted {pred:.1}, on a scale of 1 to 9"));
    format!(
        r#"<svg class="track" viewBox="0 0 120 14" role="img" aria-label="{label}"><path class="axis" d="M6 7H114M60 4V10"/><path class="gap" d="M{a:.1} 7H{p:.1}"/><circle class="true" cx="{a:.1}" cy="7" r="4"/><circle class="pred" cx="{p:.1}" cy="7" r="4"/></svg>"#
    )
}
