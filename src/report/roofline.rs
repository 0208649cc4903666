/*! The roofline (Williams, Waterman & Patterson 2009): rate over arithmetic intensity, under the ceilings that the device
showed in the same run: memory, multiply-adds, and products on tensor cores where the points are some. A page of its own, light or dark as the reader's system is. */

use super::svg::{Axis, Plot, escape, short};
use crate::host::ceiling::Ceilings;
use crate::shape::DType;
use std::fmt::Write;

/// One layer in one pass.
pub struct Point {
    layer: String,
    pass: String,
    storage: DType,
    /// FLOP a byte, GFLOP/s.
    at: (f64, f64),
}

impl Point {
    /// Of so much work on operands that are stored so ([`Ceilings::arithmetic`]) and least traffic, GFLOP and GB, in so many
    /// seconds.
    pub fn new(layer: &str, pass: &str, storage: DType, [gflop, gb]: [f64; 2], seconds: f64) -> Self {
        Self { layer: layer.into(), pass: pass.into(), storage, at: (gflop / gb, gflop / seconds) }
    }
}

/// Passes, each with a colour; others are drawn like the last.
const PASSES: [&str; 4] = ["fprop", "dgrad", "wgrad", "update"];

const STYLE: &str = r#"<style>
svg { --bg: #fff; --ink: #1a1e24; --soft: #5b6572; --grid: #e9ecf0; --fprop: #3b82c4; --dgrad: #c07a1b; --wgrad: #c0453f; --update: #7a5bb5; }
@media (prefers-color-scheme: dark) { svg { --bg: #13161a; --ink: #e8ebef; --soft: #a0aab6; --grid: #272d35; --fprop: #4f97da; --dgrad: #e9ab55; --wgrad: #d9625a; --update: #a184dd; } }
text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; fill: var(--soft); }
text.title { font-size: 19px; font-weight: 600; fill: var(--ink); } text.name { font-size: 13.5px; fill: var(--ink); }
text.mid { text-anchor: middle; } text.end { text-anchor: end; } text.layer { font-size: 10.5px; }
path.grid { stroke: var(--grid); } path.axis { stroke: var(--soft); fill: none; } path.lead { stroke: var(--soft); stroke-width: .5; }
path.roof { stroke: var(--ink); stroke-width: 1.5; fill: none; } rect.page { fill: var(--bg); }
circle { stroke: var(--bg); stroke-width: .8; }
circle.fprop { fill: var(--fprop); } circle.dgrad { fill: var(--dgrad); } circle.wgrad { fill: var(--wgrad); } circle.update { fill: var(--update); }
</style>"#;

const WIDTH: f64 = 1100.0;
const HEAD: f64 = 84.0;
const PLOT: f64 = 640.0;
/// Pixels of a label: a line, and a letter.
const LINE: f64 = 12.0;
const LETTER: f64 = 5.6;

fn class(pass: &str) -> &'static str {
    PASSES.into_iter().find(|p| *p == pass).unwrap_or("update")
}

/// The page.
pub fn picture(title: &str, subtitle: &str, roof: Ceilings, points: &[Point]) -> String {
    let bandwidth = roof.bandwidth();
    let products = [("fp16 products", DType::F16, roof.f16), ("bf16 products", DType::BF16, roof.bf16)];
    let used = products.into_iter().filter(|p| points.iter().any(|point| point.storage == p.1));
    let ceilings: Vec<(&str, f64)> =
        used.filter_map(|p| Some((p.0, p.2?))).chain([("multiply-adds", roof.gflops)]).collect();
    let top = ceilings.iter().fold(0.0, |m: f64, c| m.max(c.1));
    let ridge = top / bandwidth;
    let span = |of: &dyn Fn(&Point) -> f64, other: f64| {
        let all = points.iter().map(of).chain([other]).filter(|v| v.is_finite() && *v > 0.0);
        all.fold((other, other), |(lo, hi), v| (lo.min(v), hi.max(v)))
    };
    let ((left, right), (low, high)) = (span(&|p| p.at.0, ridge), span(&|p| p.at.1, top));
    let (left, right) = (left / 2.0, right * 3.0);
    let x = Axis::log("arithmetic intensity, FLOP per byte of the least traffic", left, right);
    let mut plot = Plot::new(WIDTH, PLOT, x, Axis::log("GFLOP/s", low / 2.0, high * 1.5));
    let from = left.max(low / 2.0 / bandwidth);
    plot.line("roof", &[(from, from * bandwidth), (ridge, top)]);
    for (name, rate) in ceilings {
        plot.line("roof", &[(rate / bandwidth, rate), (right, rate)]);
        plot.text("end", (right, rate), (-4.0, -6.0), &format!("{name}, {} GFLOP/s", short(rate, 0)));
    }
    plot.text("", (from, from * bandwidth), (10.0, 14.0), &format!("memory, {} GB/s", short(bandwidth, 0)));
    let mut taken: Vec<[f64; 4]> = points.iter().map(|p| around(plot.pixel(p.at), 4.0)).collect();
    for p in points {
        let percent = 100.0 * p.at.1 / roof.arithmetic(p.storage).min(p.at.0 * bandwidth);
        let tip = format!(
            "{} {}: {} GFLOP/s at {} FLOP a byte, {} % of the roof",
            p.layer,
            p.pass,
            short(p.at.1, 0),
            short(p.at.0, 1),
            short(percent, 0)
        );
        plot.disc(class(&p.pass), p.at, 4.0, &tip);
        // Beside its point, or as near above or below as there is room.
        let (px, py) = plot.pixel(p.at);
        let long = LETTER * p.layer.chars().count() as f64;
        let lines = (0..40).map(|i| if i % 2 == 0 { i / 2 } else { -(i + 1) / 2 });
        let offsets = lines.flat_map(|i| [7.0, -7.0 - long].map(|dx| (dx, i as f64 * LINE + 3.5)));
        let label = |(dx, dy): (f64, f64)| [px + dx, py + dy - LINE + 2.0, px + dx + long, py + dy + 2.0];
        let inside = |b: &[f64; 4]| b[0] > 60.0 && b[2] < WIDTH - 14.0 && b[1] > 14.0 && b[3] < PLOT - 46.0;
        let free = |o: &(f64, f64)| inside(&label(*o)) && !taken.iter().any(|t| overlap(t, &label(*o)));
        if let Some((dx, dy)) = offsets.into_iter().find(free) {
            if (dy - 3.5).abs() >= LINE {
                plot.lead("lead", p.at, (if dx > 0.0 { dx - 1.0 } else { -6.0 }, dy - 3.5));
            }
            plot.text("layer", p.at, (dx, dy), &p.layer);
            taken.push(label((dx, dy)));
        }
    }
    let mut head = String::new();
    let used = PASSES.iter().filter(|c| points.iter().any(|p| class(&p.pass) == **c));
    for (i, pass) in used.enumerate() {
        let at = 52 + 80 * i;
        let _ = write!(
            head,
            r#"<circle class="{pass}" cx="{at}" cy="66" r="5"/><text x="{}" y="70">{pass}</text>"#,
            at + 10
        );
    }
    let described = format!("{title}. {subtitle}. {} points under a ceiling of {top:.0} GFLOP/s.", points.len());
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {h}" width="{WIDTH}" height="{h}" role="img" aria-label="{}">{STYLE}<rect class="page" width="100%" height="100%"/><text class="title" x="45" y="28">{}</text><text x="45" y="48">{}</text>{head}<g transform="translate(0 {HEAD})">{}</g></svg>
"#,
        escape(&described),
        escape(title),
        escape(subtitle),
        plot.body(),
        h = HEAD + PLOT,
    )
}

fn around((x, y): (f64, f64), r: f64) -> [f64; 4] {
    [x - r, y - r, x + r, y + r]
}

fn overlap(a: &[f64; 4], b: &[f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_drawn_and_text_stays_text() {
        let roof = Ceilings { gflops: 200.0, read: 40.0, triad: 30.0, ..Ceilings::default() };
        let layer = |i: usize| Point::new("a<script>", PASSES[i % 3], DType::F32, [1.0 + i as f64, 0.01], 0.02);
        let points: Vec<Point> = (0..30).map(layer).collect();
        let svg = picture("conv \"x\"", "& more", roof, &points);
        assert_eq!(svg.matches("<circle").count(), 30 + 3);
        assert_eq!(svg.matches("class=\"layer\"").count(), 30);
        assert!(!svg.contains("<script") && !svg.contains("NaN") && !svg.contains("inf"));
        let empty = picture("", "", roof, &[]);
        let tensor = Ceilings { bf16: Some(900.0), ..roof };
        assert!(!picture("", "", tensor, &points).contains("bf16 products"), "nothing reaches for it");
        let product = Point::new("a", "fprop", DType::BF16, [1.0, 0.01], 0.002);
        let svg = picture("", "", tensor, &[product]);
        assert!(svg.contains("bf16 products, 900 GFLOP/s") && svg.contains("multiply-adds, 200 GFLOP/s"), "{svg}");
        assert!(svg.contains("500 GFLOP/s at 100 FLOP a byte, 56 % of the roof"), "{svg}");
        assert!(empty.contains("200 GFLOP/s") && empty.contains("40 GB/s") && !empty.contains("NaN"));
    }
}
