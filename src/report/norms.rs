//! Ratings of pictures against what is known of the words they are tagged with, as a picture (Kim et al. 2018, Figure 8).

use super::layers::STYLE;
use super::svg::{Axis, Plot, escape, short};

const SIDE: f64 = 480.0;

/// A picture: what its word is rated, what it is rated, and both names.
pub type Point = (f64, f64, String);

/// Each picture at its word's norm and its own rating, and their correlation: an SVG file, light or dark as the reader's system
/// is.
pub fn svg(points: &[Point], target: &str, r: Option<f64>) -> String {
    let axis = |label: &str| Axis::scale(&format!("{target} of {label}"));
    let mut plot = Plot::new(SIDE, SIDE, axis("the word"), axis("the picture"));
    for (x, y, name) in points {
        let tip = format!("{name}: word {}, picture {}", short(*x, 2), short(*y, 2));
        plot.disc("s0", (*x, *y), if points.len() > 300 { 2.0 } else { 3.5 }, &tip);
    }
    let r = r.map_or("r not defined".to_string(), |r| format!("r = {}", short(r, 3)));
    let described = format!("{target} of {} pictures against that of their words: {r}.", points.len());
    plot.text("name", (1.0, 9.0), (8.0, 16.0), &r);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" height="{SIDE}" role="img" aria-label="{}">{STYLE}<rect class="page" width="100%" height="100%"/>{}</svg>
"#,
        escape(&described),
        plot.body()
    )
}
