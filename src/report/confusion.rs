//! A confusion matrix as a picture (Parry & Vuong 2021, Figure S1): one row a class, one column for what it is taken for,
//! the number of pictures in each box, and the box as dark as its part of the class.

use super::svg::escape;
use crate::train::confusion::Confusion;
use std::fmt::Write;

/// Side of a box, in pixels; room for the names, at 13 pixels a line.
const BOX: usize = 56;
const NAMES: usize = 96;

/// An SVG file that needs no style of a page.
pub fn svg(c: &Confusion, title: &str) -> String {
    let n = c.classes.len();
    let (width, height) = (NAMES + n * BOX + 16, 72 + n * BOX + 16);
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{0}" style="max-width:{width}px;font:12px sans-serif"><rect width="{width}" height="{height}" fill="white"/><text x="8" y="18" font-weight="bold">{0}</text><text x="{1}" y="38" text-anchor="middle" fill="gray">taken for</text>"#,
        escape(title),
        NAMES + n * BOX / 2,
    );
    // Writing to a String cannot fail.
    for (i, name) in c.classes.iter().enumerate() {
        let (x, y) = (NAMES + i * BOX + BOX / 2, 72 + i * BOX + BOX / 2 + 4);
        let name = escape(name);
        let _ = write!(out, r#"<text x="{x}" y="62" text-anchor="middle"{}>{name}</text>"#, squeezed(&name));
        let _ = write!(out, r#"<text x="{}" y="{y}" text-anchor="end">{name}</text>"#, NAMES - 8);
    }
    for (i, row) in c.rows().enumerate() {
        let all = row.iter().sum::<u32>().max(1);
        for (j, &count) in row.iter().enumerate() {
            let (x, y, part) = (NAMES + j * BOX, 72 + i * BOX, f64::from(count) / f64::from(all));
            // From white to a dark blue on which white text is legible.
            let shade = |dark: f64| (255.0 + (dark - 255.0) * part).round();
            let ink = if part > 0.55 { "white" } else { "black" };
            let _ = write!(
                out,
                r##"<rect x="{x}" y="{y}" width="{BOX}" height="{BOX}" fill="rgb({},{},{})" stroke="#999" stroke-width=".5"><title>{} taken for {}: {count} of {all}</title></rect><text x="{}" y="{}" text-anchor="middle" style="fill:{ink}">{count}</text>"##,
                shade(8.0),
                shade(48.0),
                shade(107.0),
                escape(&c.classes[i]),
                escape(&c.classes[j]),
                x + BOX / 2,
                y + BOX / 2 + 4,
            );
        }
    }
    out + "</svg>\n"
}

/// A title, and how many are right.
pub fn titled(c: &Confusion, title: &str) -> String {
    let right = c.accuracy().map(|right| format!(": {right:.2} % of {} right", c.pictures()));
    title.to_string() + &right.unwrap_or_default()
}

/// Keeps a long name within its column.
fn squeezed(name: &str) -> String {
    let fits = name.chars().count() * 7 <= BOX;
    if fits { String::new() } else { format!(r#" textLength="{}" lengthAdjust="spacingAndGlyphs""#, BOX - 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_is_in_its_box() {
        let c = Confusion::of(&["fear", "<no-face>"], [(0, 0), (0, 0), (0, 1), (1, 1)]);
        let text = svg(&c, "a \"b\"");
        assert_eq!((text.matches("<rect").count(), text.matches("<title>").count()), (5, 4));
        assert!(
            text.contains("fear taken for &lt;no-face&gt;: 1 of 3") && text.contains(r#"aria-label="a &quot;b&quot;""#)
        );
        // Nobody is taken for fear who is not; all of the other class are.
        assert!(text.contains(r#"fill="rgb(255,255,255)""#) && text.contains(r#"fill="rgb(8,48,107)""#), "{text}");
    }
}
