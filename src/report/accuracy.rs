//! Train and test accuracies of classifiers over folds, as the paper lays them out (Parry & Vuong 2021, Table S1): a pair
//! of columns, mean and sample SD, for each network. And the accuracy of a support vector machine against its C, as a picture
//! (Rapolu et al., Figure 3).

use super::study::Sheet;
use super::svg::{Axis, Plot, escape, short};
use crate::table::number;
use crate::train::folds::Spread;

/// One network over its folds, in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// `9-FER`.
    pub name: String,
    pub train: Spread,
    pub test: Spread,
}

/// The table.
pub fn sheet(all: &[Accuracy]) -> Sheet {
    let names = all.iter().map(|a| (format!("{} Model", a.name), 2));
    let row = |name: &str, of: fn(&Accuracy) -> Spread| {
        let pairs = all.iter().flat_map(|a| [of(a).mean, of(a).sd]).map(|v| number(v, 2));
        std::iter::once(name.to_string()).chain(pairs).collect()
    };
    let columns = all.iter().flat_map(|_| ["M %", "SD %"]);
    Sheet {
        header: vec![
            std::iter::once((String::new(), 1)).chain(names).collect(),
            Sheet::plain(std::iter::once("").chain(columns)),
        ],
        rows: vec![row("Train", |a| a.train), row("Test", |a| a.test)],
        ..Sheet::new("accuracy", "Train and test accuracies of the facial expression networks over folds")
    }
}

const STYLE: &str = r#"<style>
svg { --bg: #fff; --ink: #1a1e24; --soft: #5b6572; --grid: #e9ecf0; --line: #3b82c4; }
@media (prefers-color-scheme: dark) { svg { --bg: #13161a; --ink: #e8ebef; --soft: #a0aab6; --grid: #272d35; --line: #4f97da; } }
text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; fill: var(--soft); }
text.name { font-size: 13.5px; fill: var(--ink); } text.mid { text-anchor: middle; } text.end { text-anchor: end; }
path.grid { stroke: var(--grid); } path.axis { stroke: var(--soft); fill: none; } rect.page { fill: var(--bg); }
path.line { stroke: var(--line); stroke-width: 2; fill: none; } path.sd { stroke: var(--line); } circle { fill: var(--line); }
path.majority { stroke: var(--soft); stroke-dasharray: 4 4; }
</style>"#;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;

/// Accuracy over folds in percent against C, with sample SDs, and what the commonest class alone would get: an SVG file, light
/// or dark as the reader's system is. None for fewer than two values of C.
pub fn by_cost(points: &[(f64, Spread)], majority: Option<Spread>) -> Option<String> {
    let mut points: Vec<(f64, f64, f64)> =
        points.iter().filter_map(|(c, s)| Some((*c, s.mean?, s.sd.unwrap_or(0.0)))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let majority = majority.and_then(|m| m.mean);
    let (first, last) = (points.first()?.0, points.last()?.0);
    let ends = points.iter().flat_map(|p| [p.1 - p.2, p.1 + p.2]).chain(majority);
    let (low, high) = ends.fold((100.0f64, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    // To whole tens: the curve is flat, and its place on the scale is what it says.
    let tens = |v: f64| (10.0 * v).clamp(0.0, 100.0);
    let y = Axis::whole("accuracy, %", tens((low / 10.0).floor()), tens((high / 10.0).ceil()), 8);
    let mut plot = Plot::new(WIDTH, HEIGHT, (first < last).then(|| Axis::log("C", first, last))?, y);
    if let Some(m) = majority {
        plot.horizontal("majority", m);
        plot.text("end", (last, m), (-4.0, -6.0), &format!("the commonest class: {} %", short(m, 1)));
    }
    for (c, mean, sd) in &points {
        plot.line("sd", &[(*c, mean - sd), (*c, mean + sd)]);
    }
    plot.line("line", &points.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>());
    for (c, mean, sd) in &points {
        plot.disc("", (*c, *mean), 4.0, &format!("C {c}: {} % (SD {})", short(*mean, 1), short(*sd, 1)));
    }
    let best = points.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a })?;
    let described = format!("Accuracy against C, {first} to {last}: at most {} % at C {}.", short(best.1, 1), best.0);
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

    /// The numbers of the paper's table.
    #[test]
    fn table_s1() {
        let of = |mean, sd| Spread { mean: Some(mean), sd: Some(sd) };
        let one = Spread { sd: None, ..of(71.71, 0.0) };
        let sheet = sheet(&[
            Accuracy { name: "9-FER".into(), train: of(73.41, 5.2), test: of(53.75, 1.22) },
            Accuracy { name: "5-FER".into(), train: of(88.51, 3.16), test: one },
        ]);
        assert_eq!(
            String::from_utf8(sheet.csv()).unwrap(),
            ",9-FER Model M %,9-FER Model SD %,5-FER Model M %,5-FER Model SD %\nTrain,73.41,5.20,88.51,3.16\n\
             Test,53.75,1.22,71.71,\n"
        );
        assert!(sheet.latex().contains("\\multicolumn{2}{c}{5-FER Model}"));
    }

    #[test]
    fn a_curve_over_c() {
        let of = |mean, sd| Spread { mean: Some(mean), sd: Some(sd) };
        let points = [(5.0, of(69.0, 7.9)), (0.5, of(63.5, 10.6)), (1.5, of(69.2, 7.2))];
        let svg = by_cost(&points, Some(of(32.0, 5.0))).unwrap();
        assert_eq!((svg.matches("<circle").count(), svg.matches(r#"class="sd""#).count()), (3, 3));
        assert!(svg.contains("at most 69.2 % at C 1.5") && svg.contains("the commonest class: 32 %"), "{svg}");
        assert!(!svg.contains("NaN") && svg.contains(">30<") && svg.contains(">80<"), "{svg}");
        assert!(by_cost(&points[..1], None).is_none() && by_cost(&[], None).is_none());
    }
}
