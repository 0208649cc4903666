/*! A table for a paper, once, and the forms people need it in: Markdown, CSV, LaTeX with booktabs, HTML. */

use crate::report::svg::escape;
use std::fmt::Write;

/// Characters in a line that most terminals show.
const TERMINAL: usize = 100;

/// A table with a header of several lines, of which a cell may span columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// Name of its file, without an ending.
    pub key: String,
    pub title: String,
    /// Lines of (text, columns it spans).
    pub header: Vec<Vec<(String, usize)>>,
    pub rows: Vec<Vec<String>>,
    /// What the reader must know about the numbers.
    pub note: String,
}

impl Sheet {
    pub fn new(key: &str, title: &str) -> Self {
        Self { key: key.into(), title: title.into(), ..Self::default() }
    }

    /// A line of the header whose cells span one column each.
    pub fn plain<T: Into<String>>(cells: impl IntoIterator<Item = T>) -> Vec<(String, usize)> {
        cells.into_iter().map(|c| (c.into(), 1)).collect()
    }

    /// One text for each column: the header's lines from top to bottom, joined.
    fn columns(&self, joint: &str) -> Vec<String> {
        let width = self.header.iter().map(|l| l.iter().map(|c| c.1).sum()).max().unwrap_or(0);
        let mut columns = vec![String::new(); width];
        for line in &self.header {
            let spread = line.iter().flat_map(|(text, span)| std::iter::repeat_n(text, *span));
            for (column, text) in columns.iter_mut().zip(spread).filter(|(_, t)| !t.is_empty()) {
                if !column.is_empty() {
                    column.push_str(joint);
                }
                column.push_str(text);
            }
        }
        columns
    }

    /// For a terminal: the first column to the left, all others to the right, titles above the columns they span. What is
    /// wider than [`TERMINAL`] and has fewer rows than columns is [turned](Self::turned).
    pub fn text(&self) -> String {
        let laid_out = self.laid_out();
        let width = laid_out.lines().skip(1).take(self.header.len() + 1).map(|l| l.chars().count()).max();
        if width <= Some(TERMINAL) || self.rows.len() >= self.columns("").len() {
            return laid_out;
        }
        self.turned().laid_out()
    }

    /// A row for each column but the first, which makes the header.
    fn turned(&self) -> Self {
        let names = self.columns(", ").into_iter().enumerate().skip(1);
        let row = |(c, name)| {
            std::iter::once(name).chain(self.rows.iter().map(move |r| r.get(c).cloned().unwrap_or_default())).collect()
        };
        let header = std::iter::once(String::new()).chain(self.rows.iter().map(|r| r[0].clone()));
        Self { header: vec![Self::plain(header)], rows: names.map(row).collect(), ..self.clone() }
    }

    fn laid_out(&self) -> String {
        let columns = self.header.iter().map(Vec::len).chain(self.rows.iter().map(Vec::len)).max().unwrap_or(0);
        let length = |t: &str| t.chars().count();
        let cell = |r: &[String], c: usize| r.get(c).map_or(0, |t| length(t));
        let mut widths: Vec<usize> =
            (0..columns).map(|c| self.rows.iter().map(|r| cell(r, c)).max().unwrap_or(0)).collect();
        // What is longer than the columns it spans widens the last of them.
        let across = |widths: &[usize]| widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
        for line in &self.header {
            let mut from = 0;
            for (text, span) in line {
                let more = length(text).saturating_sub(across(&widths[from..from + span]));
                from += span;
                widths[from - 1] += more;
            }
        }
        let mut out = format!("{}\n", self.title);
        for line in &self.header {
            let mut from = 0;
            for (text, span) in line {
                let width = across(&widths[from..from + span]);
                let _ = match (from, span) {
                    (0, _) => write!(out, "{text:<width$}"),
                    (_, 1) => write!(out, "  {text:>width$}"),
                    _ => write!(out, "  {text:^width$}"),
                };
                from += span;
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        let rule = widths.iter().map(|w| "-".repeat(*w)).collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "{rule}");
        for row in &self.rows {
            for (c, (text, width)) in row.iter().zip(&widths).enumerate() {
                let _ = if c == 0 { write!(out, "{text:<width$}") } else { write!(out, "  {text:>width$}") };
            }
            out.push('\n');
        }
        if self.note.is_empty() { out } else { out + &self.note + "\n" }
    }

    pub fn markdown(&self) -> String {
        let line =
            |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| plain(c)).collect::<Vec<_>>().join(" | "));
        let columns = self.columns(", ");
        let rule: Vec<&str> = (0..columns.len()).map(|i| if i == 0 { "---" } else { "--:" }).collect();
        let mut out = format!("**{}**\n\n{}|{}|\n", plain(&self.title), line(&columns), rule.join("|"));
        self.rows.iter().for_each(|r| out += &line(r));
        if !self.note.is_empty() {
            let _ = write!(out, "\n{}\n", plain(&self.note));
        }
        out
    }

    /// Header and rows alone, for programs: what has no value is an empty cell, which R and pandas read as missing.
    pub fn csv(&self) -> Vec<u8> {
        let mut csv = csv::WriterBuilder::new().flexible(true).from_writer(vec![]);
        let mut line = |row: &mut dyn Iterator<Item = &str>| csv.write_record(row).expect("memory does not fail");
        line(&mut self.columns(" ").iter().map(String::as_str));
        for row in &self.rows {
            line(&mut row.iter().map(|cell| if cell == "-" { "" } else { cell }));
        }
        csv.into_inner().expect("memory does not fail")
    }

    /// A `table` environment; needs `\usepackage{booktabs}`.
    pub fn latex(&self) -> String {
        let columns = self.columns("").len();
        let mut out = format!(
            "\\begin{{table}}\n\\caption{{{}}}\n\\begin{{tabular}}{{l{}}}\n\\toprule\n",
            tex(&self.title),
            "r".repeat(columns.saturating_sub(1))
        );
        for (i, line) in self.header.iter().enumerate() {
            let cell = |(text, span): &(String, usize)| match span {
                1 => tex(text),
                _ => format!("\\multicolumn{{{span}}}{{c}}{{{}}}", tex(text)),
            };
            let _ = writeln!(out, "{} \\\\", line.iter().map(cell).collect::<Vec<_>>().join(" & "));
            let mut from = 1;
            for (_, span) in line.iter().filter(|_| i + 1 < self.header.len()) {
                if *span > 1 {
                    let _ = write!(out, "\\cmidrule(lr){{{from}-{}}}", from + span - 1);
                }
                from += span;
            }
            if from > 1 {
                out.push('\n');
            }
        }
        out += "\\midrule\n";
        for row in &self.rows {
            let _ = writeln!(out, "{} \\\\", row.iter().map(|c| tex(c)).collect::<Vec<_>>().join(" & "));
        }
        out += "\\bottomrule\n\\end{tabular}\n";
        if !self.note.is_empty() {
            let _ = writeln!(out, "\\par\\footnotesize {}", tex(&self.note));
        }
        out + "\\end{table}\n"
    }

    /// A `<table>` with a caption.
    pub fn html(&self) -> String {
        // A page of paper has room for nine columns in the size of its text.
        let class = if self.columns("").len() > 9 { "sheet wide" } else { "sheet" };
        let mut out = format!("<table class=\"{class}\">\n<caption>{}</caption>\n<thead>\n", escape(&self.title));
        for line in &self.header {
            out += "<tr>";
            for (text, span) in line {
                let _ = match span {
                    1 => write!(out, "<th>{}</th>", escape(text)),
                    _ => write!(out, "<th colspan=\"{span}\" class=\"span\">{}</th>", escape(text)),
                };
            }
            out += "</tr>\n";
        }
        out += "</thead>\n<tbody>\n";
        for row in &self.rows {
            let cells = row.iter().enumerate().map(|(i, c)| match i {
                0 => format!("<th scope=\"row\">{}</th>", escape(c)),
                _ => format!("<td>{}</td>", escape(c)),
            });
            let _ = writeln!(out, "<tr>{}</tr>", cells.collect::<String>());
        }
        out += "</tbody>\n</table>\n";
        if !self.note.is_empty() {
            let _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(&self.note));
        }
        out
    }
}

/// Text for Markdown in which nothing is markup: no tag, no link, no code, no emphasis, no end of a cell (GitHub Flavored Markdown
/// 0.29, section 6). Names of models and titles are whatever a study says.
pub fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let within = |other: char| other.is_alphanumeric();
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            // Within a word it is itself.
            '_' if within(before) && rest.peek().is_some_and(|c| within(*c)) => out.push('_'),
            '\\' | '|' | '[' | ']' | '`' | '*' | '_' | '~' | '#' => out.extend(['\\', c]),
            _ if c.is_control() => out.push(' '),
            _ => out.push(c),
        }
        before = c;
    }
    out
}

/// Text for LaTeX.
fn tex(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out += "\\textbackslash{}",
            // After the end of a line these would belong to it.
            '[' | '*' => out.extend(['{', c, '}']),
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '<' => out += "$<$",
            '>' => out += "$>$",
            _ if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        Sheet {
            header: vec![
                vec![(String::new(), 1), ("A & B".into(), 2), ("C|D".into(), 2)],
                Sheet::plain(["", "M", "SD", "M", "SD"]),
            ],
            rows: vec![["Train", "1.72", ".17", "<1", "50 %"].map(String::from).into()],
            note: "n_1".into(),
            ..Sheet::new("k", "Errors of A & B")
        }
    }

    #[test]
    fn every_form() {
        let s = sheet();
        assert_eq!(
            s.markdown(),
            "**Errors of A &amp; B**\n\n|  | A &amp; B, M | A &amp; B, SD | C\\|D, M | C\\|D, SD |\n|---|--:|--:|--:|--:|\n\
             | Train | 1.72 | .17 | &lt;1 | 50 % |\n\nn_1\n"
        );
        assert_eq!(s.csv(), b",A & B M,A & B SD,C|D M,C|D SD\nTrain,1.72,.17,<1,50 %\n");
        let missing = Sheet { rows: vec![["Test", "-", "-1", "-", "a-b"].map(String::from).into()], ..sheet() };
        assert!(missing.csv().ends_with(b"\nTest,,-1,,a-b\n"));
        assert_eq!(
            s.latex(),
            "\\begin{table}\n\\caption{Errors of A \\& B}\n\\begin{tabular}{lrrrr}\n\\toprule\n \
             & \\multicolumn{2}{c}{A \\& B} & \\multicolumn{2}{c}{C|D} \\\\\n\
             \\cmidrule(lr){2-3}\\cmidrule(lr){4-5}\n & M & SD & M & SD \\\\\n\\midrule\n\
             Train & 1.72 & .17 & $<$1 & 50 \\% \\\\\n\\bottomrule\n\\end{tabular}\n\
             \\par\\footnotesize n\\_1\n\\end{table}\n"
        );
        assert_eq!(
            s.text(),
            "Errors of A & B\n         A & B      C|D\n          M   SD   M    SD\n-----  ----  ---  --  ----\n\
             Train  1.72  .17  <1  50 %\nn_1\n"
        );
        let many = (0..40).map(|i| format!("Model {i}"));
        let wide = Sheet {
            header: vec![Sheet::plain(std::iter::once(String::new()).chain(many))],
            rows: vec![(0..41).map(|i| if i == 0 { "Valence".into() } else { i.to_string() }).collect()],
            ..Sheet::new("k", "Turned")
        };
        let text = wide.text();
        assert!(text.starts_with("Turned\n          Valence\n--------  -------\nModel 0         1\n"), "{text}");
        assert_eq!(text.lines().count(), 43);
        let name = "[me](javascript:x) <b> `c` *d* _e_ f_g a|b \\ #1\nend";
        let s = Sheet {
            header: vec![Sheet::plain([name, "x"])],
            rows: vec![vec![name.into(), "-1".into()]],
            note: name.into(),
            ..Sheet::new("k", name)
        };
        let safe = "\\[me\\](javascript:x) &lt;b&gt; \\`c\\` \\*d\\* \\_e\\_ f_g a\\|b \\\\ \\#1 end";
        assert_eq!(s.markdown(), format!("**{safe}**\n\n| {safe} | x |\n|---|--:|\n| {safe} | -1 |\n\n{safe}\n"));
        let safe = "{[}me](javascript:x) $<$b$>$ `c` {*}d{*} \\_e\\_ f\\_g a|b \\textbackslash{} \\#1 end";
        assert!(s.latex().contains(&format!("\\midrule\n{safe} & -1 \\\\\n")), "{}", s.latex());
        assert!(s.html().contains("[me](javascript:x) &lt;b&gt; `c`") && !s.html().contains("<b>"));
        let html = sheet().html();
        assert!(html.contains("<th colspan=\"2\" class=\"span\">A &amp; B</th>") && html.contains("<td>&lt;1</td>"));
    }
}
