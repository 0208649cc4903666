//! How much of a rating each layer of a network knows: r against the layer, for one network or several, as a picture.

use super::svg::{Axis, Plot, escape, short};
use crate::train::resampled::Interval;
use serde::Serialize;

/// A layer: mean squared error and r of each rating.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    pub name: String,
    pub columns: usize,
    pub targets: Vec<[Interval; 2]>,
}

/// The layers of one table, such as those of a trained network or of one that was drawn at random.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    pub name: String,
    pub layers: Vec<Layer>,
}

pub(super) const STYLE: &str = r#"<style>
svg { --bg: #fff; --ink: #1a1e24; --soft: #5b6572; --grid: #e9ecf0; --s0: #3b82c4; --s1: #c2703d; --s2: #5a8f3e; }
@media (prefers-color-scheme: dark) { svg { --bg: #13161a; --ink: #e8ebef; --soft: #a0aab6; --grid: #272d35; --s0: #4f97da; --s1: #d98a58; --s2: #7cb35c; } }
text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; fill: var(--soft); }
text.name { font-size: 13.5px; fill: var(--ink); } text.mid { text-anchor: middle; } text.end { text-anchor: end; }
path.grid { stroke: var(--grid); } path.axis { stroke: var(--soft); fill: none; } rect.page { fill: var(--bg); }
path.s0, path.s1, path.s2 { stroke-width: 2; fill: none; } path.s0 { stroke: var(--s0); } path.s1 { stroke: var(--s1); } path.s2 { stroke: var(--s2); }
circle.s0 { fill: var(--s0); } circle.s1 { fill: var(--s1); } circle.s2 { fill: var(--s2); }
</style>"#;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Series that have a colour of their own.
const COLOURS: usize = 3;

/// r of one rating by layer, with intervals: an SVG file, light or dark as the reader's system is. None where no layer has any.
pub fn svg(all: &[Series], target: usize, name: &str) -> Option<String> {
    let most = all.iter().map(|s| s.layers.len()).max().filter(|n| *n > 0)?;
    let of = |layer: &Layer| layer.targets[target][1];
    let ends = all.iter().flat_map(|s| &s.layers).flat_map(|l| [of(l).low, of(l).high, of(l).value]).flatten();
    let low = ends.clone().reduce(f64::min)?.min(0.0);
    let tens = |v: f64| (v * 10.0).floor() / 10.0;
    let y = Axis::whole("r", tens(low), (tens(ends.reduce(f64::max)?) + 0.1).min(1.0), 8);
    let mut plot = Plot::new(WIDTH, HEIGHT, Axis::whole("layer", 0.5, most as f64 + 0.5, most), y);
    for (i, series) in all.iter().enumerate() {
        let class = format!("s{}", i % COLOURS);
        // Beside each other, so that no interval hides another.
        let shift = 0.08 * (i as f64 - (all.len() - 1) as f64 / 2.0);
        let points =
            (1..).zip(&series.layers).filter_map(|(x, l)| Some((f64::from(x) + shift, l, of(l), of(l).value?)));
        let points: Vec<(f64, &Layer, Interval, f64)> = points.collect();
        plot.line(&class, &points.iter().map(|p| (p.0, p.3)).collect::<Vec<_>>());
        for (x, layer, interval, r) in &points {
            if let (Some(low), Some(high)) = (interval.low, interval.high) {
                plot.line(&class, &[(*x, low), (*x, high)]);
            }
            let tip = format!("{} {}: r {}", series.name, layer.name, short(*r, 3));
            plot.disc(&class, (*x, *r), 4.0, tip.trim());
        }
        if let Some((x, _, _, r)) = points.last() {
            plot.text("end", (*x, *r), (-8.0, -8.0), &series.name);
        }
    }
    let described = format!("{name}: r by layer, with intervals over groups.");
    Some(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{}">{STYLE}<rect class="page" width="100%" height="100%"/>{}</svg>
"#,
        escape(&described),
        plot.body()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_for_each_network() {
        let of = |r: f64| Interval { value: Some(r), low: Some(r - 0.1), high: Some(r + 0.1) };
        let layer = |i: usize, r: f64| Layer { name: format!("block{i}"), columns: 8, targets: vec![[of(2.0), of(r)]] };
        let series = |name: &str, by: f64| Series {
            name: name.into(),
            layers: (1..=5).map(|i| layer(i, by * i as f64)).collect(),
        };
        let svg = svg(&[series("trained", 0.1), series("random <1>", 0.03)], 0, "valence").unwrap();
        assert_eq!((svg.matches("<circle").count(), svg.matches("trained block5: r 0.5").count()), (10, 1));
        assert!(!svg.contains("NaN") && svg.contains("random &lt;1&gt;"), "{svg}");
        assert!(super::svg(&[], 0, "valence").is_none());
    }
}
