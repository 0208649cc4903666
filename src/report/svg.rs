/*! A plot as SVG text: two axes with round tick values, lines, marks and labels. Colours and stroke widths are CSS
classes of the page, so that one drawing serves light, dark and print. All text that comes from outside is escaped. */

use std::fmt::Write;

/// `text` for an XML attribute or element.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '), // XML has no way to write most of them
            c => out.push(c),
        }
    }
    out
}

/// A number for people: no more digits than `decimals`, no trailing zeros, a true minus sign.
pub fn short(v: f64, decimals: usize) -> String {
    let text = format!("{v:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".into() } else { text.replace('-', "−") }
}

/// A number over many magnitudes, such as a learning rate: `4e−5`.
pub fn scientific(v: f64) -> String {
    if (1e-3..1e4).contains(&v.abs()) || v == 0.0 {
        return short(v, 4);
    }
    let text = format!("{v:.2e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.')).replace('-', "−")
}

/// One axis: the data's range and where its ticks are.
pub struct Axis {
    lo: f64,
    hi: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
    label: String,
}

impl Axis {
    /// The rating scale: 1 to 9, every point marked, odd ones labelled.
    pub fn scale(label: &str) -> Self {
        let ticks = (1..=9).map(|i| (i as f64, if i % 2 == 1 { i.to_string() } else { String::new() })).collect();
        Self { lo: 1.0, hi: 9.0, log: false, ticks, label: escape(label) }
    }

    /// Of ratings from `lo` to `hi`: the whole scale, or a part of it.
    pub fn ratings(label: &str, lo: f64, hi: f64) -> Self {
        if (lo, hi) == (1.0, 9.0) { Self::scale(label) } else { Self::whole(label, lo, hi, 8) }
    }

    /// Whole numbers from `lo` to `hi`, about `n` labelled ones.
    pub fn whole(label: &str, lo: f64, hi: f64, n: usize) -> Self {
        let step = nice((hi - lo) / n as f64).max(1.0);
        let ticks = multiples(lo, hi, step).map(|v| (v, short(v, 0))).collect();
        Self { lo, hi: hi.max(lo + 1e-9), log: false, ticks, label: escape(label) }
    }

    /// From 0 to a round number above `hi` (> 0).
    pub fn from_zero(label: &str, hi: f64, n: usize) -> Self {
        let step = nice(hi / n as f64);
        let top = step * (hi / step).ceil();
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let ticks = multiples(0.0, top, step).map(|v| (v, short(v, decimals))).collect();
        Self { lo: 0.0, hi: top, log: false, ticks, label: escape(label) }
    }

    /// Logarithmic over `lo` to `hi` (0 < lo < hi), widened to the next 1, 2 or 5 at either end.
    pub fn log(label: &str, lo: f64, hi: f64) -> Self {
        let decades = lo.log10().floor() as i32..=hi.log10().ceil() as i32;
        let marks: Vec<f64> = decades.flat_map(|d| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(d))).collect();
        let below = marks.iter().rposition(|v| *v <= lo * 1.000001).unwrap_or(0);
        let above = marks.iter().position(|v| *v >= hi * 0.999999).unwrap_or(marks.len() - 1);
        let ticks = marks[below..=above].iter().map(|v| (*v, scientific(*v))).collect();
        Self { lo: marks[below], hi: marks[above], log: true, ticks, label: escape(label) }
    }

    /// Where `v` lies, 0 to 1; values outside the range lie on its edge.
    fn at(&self, v: f64) -> f64 {
        let t = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        ((t(v) - t(self.lo)) / (t(self.hi) - t(self.lo))).clamp(0.0, 1.0)
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `v` (> 0).
fn nice(v: f64) -> f64 {
    let ten = 10f64.powf(v.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * ten).find(|s| *s >= v * 0.999999).unwrap_or(10.0 * ten)
}

fn multiples(lo: f64, hi: f64, step: f64) -> impl Iterator<Item = f64> {
    let first = (lo / step - 1e-9).ceil() as i64;
    let last = (hi / step + 1e-9).floor() as i64;
    (first..=last).map(move |i| i as f64 * step)
}

/// A drawing with axes. Positions given to its methods are data, not pixels.
pub struct Plot {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Axis,
    y: Axis,
    body: String,
}

impl Plot {
    /// An empty plot of `width` by `height` CSS pixels, with grid, ticks and axis labels.
    pub fn new(width: f64, height: f64, x: Axis, y: Axis) -> Self {
        let widest = y.ticks.iter().map(|(_, t)| t.chars().count()).max().unwrap_or(1) as f64;
        let left = 32.0 + 7.0 * widest;
        let mut p = Self { width, height, left, right: 14.0, top: 14.0, bottom: 44.0, x, y, body: String::new() };
        p.frame();
        p
    }

    fn px(&self, v: f64) -> f64 {
        self.left + self.x.at(v) * (self.width - self.left - self.right)
    }

    fn py(&self, v: f64) -> f64 {
        self.height - self.bottom - self.y.at(v) * (self.height - self.top - self.bottom)
    }

    fn frame(&mut self) {
        let (x0, x1) = (self.left, self.width - self.right);
        let (y0, y1) = (self.height - self.bottom, self.top);
        let mut b = String::new();
        for (v, text) in &self.y.ticks {
            let y = self.py(*v);
            let _ = write!(b, r#"<path class="grid" d="M{x0:.1} {y:.1}H{x1:.1}"/>"#);
            let _ = write!(b, r#"<text class="tick end" x="{:.1}" y="{:.1}">{text}</text>"#, x0 - 7.0, y + 4.0);
        }
        for (v, text) in &self.x.ticks {
            let x = self.px(*v);
            let _ = write!(b, r#"<path class="grid" d="M{x:.1} {y0:.1}V{y1:.1}"/>"#);
            let _ = write!(b, r#"<text class="tick mid" x="{x:.1}" y="{:.1}">{text}</text>"#, y0 + 18.0);
        }
        let _ = write!(b, r#"<path class="axis" d="M{x0:.1} {y1:.1}V{y0:.1}H{x1:.1}"/>"#);
        let (cx, cy) = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
        let _ = write!(b, r#"<text class="name mid" x="{cx:.1}" y="{:.1}">{}</text>"#, self.height - 6.0, self.x.label);
        let turn = format!("translate(13 {cy:.1})rotate(-90)");
        let _ = write!(b, r#"<text class="name mid" transform="{turn}">{}</text>"#, self.y.label);
        self.body = b;
    }

    /// A polyline.
    pub fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut d = String::new();
        for (i, &(x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, self.px(x), self.py(y));
        }
        let _ = write!(self.body, r#"<path class="{class}" d="{d}"/>"#);
    }

    /// The part of the line y = slope x + intercept that lies within the axes (both linear).
    pub fn straight(&mut self, class: &str, slope: f64, intercept: f64) {
        let (mut a, mut b) = (self.x.lo, self.x.hi);
        if slope.abs() > 1e-9 {
            let (p, q) = ((self.y.lo - intercept) / slope, (self.y.hi - intercept) / slope);
            (a, b) = (a.max(p.min(q)), b.min(p.max(q)));
        }
        if a < b {
            self.line(class, &[(a, slope * a + intercept), (b, slope * b + intercept)]);
        }
    }

    /// The highest value of the y axis.
    pub fn top_value(&self) -> f64 {
        self.y.hi
    }

    /// A line across the plot at `x`.
    pub fn vertical(&mut self, class: &str, x: f64) {
        self.line(class, &[(x, self.y.lo), (x, self.y.hi)]);
    }

    /// A line across the plot at `y`.
    pub fn horizontal(&mut self, class: &str, y: f64) {
        self.line(class, &[(self.x.lo, y), (self.x.hi, y)]);
    }

    /// A disc of radius `r` pixels; `tip`, if any, is shown on hovering.
    pub fn disc(&mut self, class: &str, (x, y): (f64, f64), r: f64, tip: &str) {
        let (x, y) = (self.px(x), self.py(y));
        let tip = if tip.is_empty() { String::new() } else { format!("<title>{}</title>", escape(tip)) };
        let _ = write!(self.body, r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{r}">{tip}</circle>"#);
    }

    /// A square picture, `side` pixels wide around its place, by its address; `tip` is shown on hovering.
    pub fn picture(&mut self, (x, y): (f64, f64), side: f64, address: &str, tip: &str) {
        let (x, y) = (self.px(x) - side / 2.0, self.py(y) - side / 2.0);
        let (address, tip) = (escape(address), escape(tip));
        let _ = write!(
            self.body,
            r#"<image x="{x:.1}" y="{y:.1}" width="{side}" height="{side}" href="{address}"><title>{tip}</title></image>"#
        );
    }

    /// A rectangle between two corners; `tip`, if any, is shown on hovering.
    pub fn rect(&mut self, class: &str, from: (f64, f64), to: (f64, f64), tip: &str) {
        let (x, y) = (self.px(from.0), self.py(to.1));
        let (w, h) = (self.px(to.0) - x, self.py(from.1) - y);
        let tip = if tip.is_empty() { String::new() } else { format!("<title>{}</title>", escape(tip)) };
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{x:.2}" y="{y:.2}" width="{w:.2}" height="{h:.2}">{tip}</rect>"#
        );
    }

    /// Text in the middle between two corners, if there is room for it.
    pub fn label(&mut self, class: &str, from: (f64, f64), to: (f64, f64), text: &str) {
        let (w, h) = (self.px(to.0) - self.px(from.0), self.py(from.1) - self.py(to.1));
        if w > 7.0 * text.chars().count() as f64 + 6.0 && h > 15.0 {
            self.text(class, ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0), (0.0, 4.0), text);
        }
    }

    /// Text above the plot, in the middle between two positions, if there is room for it.
    pub fn heading(&mut self, class: &str, from: f64, to: f64, text: &str) {
        if self.px(to) - self.px(from) > 7.0 * text.chars().count() as f64 {
            self.text(class, ((from + to) / 2.0, self.y.hi), (0.0, -4.0), text);
        }
    }

    /// Where a position is, in CSS pixels from the upper left.
    pub fn pixel(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.px(x), self.py(y))
    }

    /// A line from a position to `dx`, `dy` pixels from it.
    pub fn lead(&mut self, class: &str, at: (f64, f64), (dx, dy): (f64, f64)) {
        let (x, y) = self.pixel(at);
        let _ = write!(self.body, r#"<path class="{class}" d="M{x:.1} {y:.1}l{dx:.1} {dy:.1}"/>"#);
    }

    /// What was drawn, for a drawing that has more than one part.
    pub fn body(self) -> String {
        self.body
    }

    /// Text `dx`, `dy` pixels from a position.
    pub fn text(&mut self, class: &str, (x, y): (f64, f64), (dx, dy): (f64, f64), text: &str) {
        let (x, y) = (self.px(x) + dx, self.py(y) + dy);
        let _ = write!(self.body, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{}</text>"#, escape(text));
    }

    /// The element, with a text for readers who do not see it.
    pub fn finish(self, class: &str, described: &str) -> String {
        let (w, h, text) = (self.width, self.height, escape(described));
        format!(
            r#"<svg class="{class}" viewBox="0 0 {w} {h}" role="img" aria-label="{text}" xmlns="http://www.w3.org/2000/svg">{}</svg>"#,
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let labels = |a: &Axis| a.ticks.iter().map(|(_, t)| t.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(labels(&Axis::from_zero("", 2.31, 5)), "0 0.5 1 1.5 2 2.5");
        assert_eq!(labels(&Axis::from_zero("", 0.0031, 4)), "0 0.001 0.002 0.003 0.004");
        assert_eq!(labels(&Axis::whole("", 1.0, 47.0, 6)), "10 20 30 40");
        assert_eq!(labels(&Axis::whole("", 1.0, 3.0, 6)), "1 2 3");
        let log = Axis::log("", 0.3, 40.0);
        assert_eq!(labels(&log), "0.2 0.5 1 2 5 10 20 50");
        assert_eq!((log.at(0.2), log.at(50.0), log.at(-1.0)), (0.0, 1.0, 0.0));
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(short(-0.001, 2), "0");
        assert_eq!(short(-1.50, 2), "−1.5");
        assert_eq!(short(100.0, 0), "100");
        assert_eq!(scientific(4e-4 * 0.1), "4e−5");
        assert_eq!(scientific(6.25e-6), "6.25e−6");
        assert_eq!(scientific(0.05), "0.05");
    }

    #[test]
    fn text_cannot_leave_its_element() {
        let mut p = Plot::new(100.0, 100.0, Axis::scale("<script>"), Axis::scale("a\"b"));
        p.disc("m", (5.0, 5.0), 3.0, "</title><script>alert('x')");
        let svg = p.finish("c", "\" onload=\"alert(1)");
        assert!(!svg.contains("<script") && !svg.contains("onload=\"alert"), "{svg}");
    }
}
