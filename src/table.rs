//! Numbers and tables for a terminal.

/// A number with `decimals` digits after the point; a dash where there is none.
pub fn number(value: Option<f64>, decimals: usize) -> String {
    match value {
        Some(v) => {
            let text = format!("{v:.decimals$}");
            // -0.0001 to three digits is 0, without a sign.
            if text.bytes().all(|b| b"-0.".contains(&b)) { text.trim_start_matches('-').into() } else { text }
        }
        None => "-".into(),
    }
}

/// Lays out a table for a terminal: the first column to the left, the others to the right, a rule under the header.
pub fn text_table(header: &[String], rows: &[Vec<String>]) -> String {
    let width = |c: usize| {
        let cells = std::iter::once(header).chain(rows.iter().map(Vec::as_slice)).filter_map(|r| r.get(c));
        cells.map(|s| s.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |row: &[String]| {
        for (c, &w) in widths.iter().enumerate() {
            let cell = row.get(c).map_or("", String::as_str);
            out += &if c == 0 { format!("{cell:<w$}") } else { format!("  {cell:>w$}") };
        }
        out.push('\n');
    };
    line(header);
    line(&widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>());
    rows.iter().for_each(|r| line(r));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_has_no_sign() {
        assert_eq!(number(Some(-0.0004), 3), "0.000");
        assert_eq!(number(Some(-0.0006), 3), "-0.001");
        assert_eq!(number(None, 3), "-");
    }
}
