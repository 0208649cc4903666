//! Records beside each other: before and now, ours and a peer's.

use super::milliseconds;
use super::record::{BenchRecord, BenchRow, WallTime};
use crate::error::{Error, Result};
use crate::table::text_table;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A part of a hundred, zero or more: `5%`.
#[derive(Clone, Copy, Debug)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.strip_suffix('%').unwrap_or(text).trim().parse() {
            Ok(p) if (0.0..1e6).contains(&p) => Ok(Self(p)),
            _ => Err("not a percentage of 0 or more, like 5%".into()),
        }
    }
}

/// What was measured, for people.
fn subject(r: &BenchRecord) -> String {
    let of = r.model.as_ref().map_or(String::new(), |m| format!(" of {m}"));
    let batch = r.batch.map_or(String::new(), |b| format!(" at batch {b}"));
    format!("{}{of}{batch} in {} on {}", r.bench, r.precision, r.device)
}

/// The record of an earlier run.
pub struct Earlier {
    path: PathBuf,
    record: BenchRecord,
}

/// An earlier run and this one beside each other.
pub struct Compared {
    /// The rows of both, for people.
    pub text: String,
    /// What is slower by more than it may be, and by how much.
    pub slower: Vec<String>,
}

impl Earlier {
    /// # Errors
    /// A file that is no record, or holds several.
    pub fn read(path: &Path) -> Result<Self> {
        let mut records = BenchRecord::read(path)?;
        match (records.pop(), records.len()) {
            (Some(record), 0) => Ok(Self { path: path.into(), record }),
            (_, n) => {
                Err(Error::file(path, format!("holds {} records", n + 1)).fix("compare with the file of one benchmark"))
            }
        }
    }

    /// Refuses to be compared with what was not measured alike.
    pub fn alike(&self, new: &BenchRecord) -> Result<()> {
        let [old, new] = [&self.record, new].map(subject);
        if old == new {
            return Ok(());
        }
        Err(Error::file(&self.path, format!("is {old}, and this is {new}")).fix("compare what was measured alike"))
    }

    /// Row by row: slower or faster where no samples overlap, and too slow beyond `limit`.
    pub fn compare(&self, new: &BenchRecord, limit: Option<Percent>) -> Compared {
        let old = &self.record;
        let before = |r: &BenchRow| old.rows.iter().find(|o| o.name == r.name && o.variant == r.variant);
        let mut slower = vec![];
        let mut rows = vec![];
        for r in &new.rows {
            let Some(o) = before(r) else {
                rows.push(vec![r.name.clone(), "-".into(), milliseconds(&r.time), "-".into(), "only now".into()]);
                continue;
            };
            let ratio = r.time.time_median_s / o.time.time_median_s;
            // Samples that overlap say nothing about which is faster.
            let verdict = match (apart(&o.time, &r.time), apart(&r.time, &o.time)) {
                (true, _) => "slower",
                (_, true) => "faster",
                _ => "within the spread",
            };
            if verdict == "slower" && limit.is_some_and(|p| ratio > 1.0 + p.0 / 100.0) {
                slower.push(format!("{} takes {:.1} % longer", r.name, 100.0 * (ratio - 1.0)));
            }
            let times = [&o.time, &r.time].map(milliseconds);
            rows.push([vec![r.name.clone()], times.to_vec(), vec![format!("{ratio:.3}"), verdict.into()]].concat());
        }
        let gone = old.rows.iter().filter(|o| !new.rows.iter().any(|r| r.name == o.name && r.variant == o.variant));
        rows.extend(
            gone.map(|o| vec![o.name.clone(), milliseconds(&o.time), "-".into(), "-".into(), "only before".into()]),
        );
        let header = ["", "before, ms", "now, ms", "now / before", ""].map(String::from);
        let text = format!("\n{}before: {}, {}\n", text_table(&header, &rows), old.date, self.path.display());
        Compared { text, slower }
    }
}

/// Whether every sample of `b` is slower than every one of `a`.
fn apart(a: &WallTime, b: &WallTime) -> bool {
    b.time_fastest_s > a.time_slowest_s
}

/// A column of the table: a record and its row.
type Cell<'a> = (&'a BenchRecord, &'a BenchRow);

/// One Markdown table of records: ours, and those of peers beside them.
pub fn markdown(records: &[BenchRecord]) -> String {
    let (ours, peers): (Vec<&BenchRecord>, Vec<&BenchRecord>) =
        records.iter().partition(|r| r.program.starts_with("deep-affect"));
    let mut names: Vec<String> = records.iter().map(|r| format!("{} on {}", r.program, r.device)).collect();
    names.sort();
    names.dedup();
    let mut text = format!(
        "Medians in milliseconds (fastest – slowest of n); ours / theirs, below 1 we are faster. {}\n\n\
         | case | precision | deep-affect | peer, same precision | ours / theirs | best peer | ours / theirs |\n\
         |---|---|---|---|---|---|---|\n",
        names.join("; ")
    );
    for (record, row) in cells(&ours) {
        let alike = |c: &Cell| {
            let same = c.0.bench == record.bench && c.0.batch == record.batch;
            same && c.1.name == row.name
        };
        let rivals: Vec<Cell> = cells(&peers).into_iter().filter(alike).collect();
        let same: Vec<Cell> = rivals.iter().filter(|c| c.0.precision == record.precision).copied().collect();
        let (same, best) = (fastest(&same), fastest(&rivals));
        let case = if row.name == record.bench { row.name.clone() } else { format!("{} {}", record.bench, row.name) };
        let batch = record.batch.map_or(String::new(), |b| format!(", batch {b}"));
        let mut line = |what: &str, own: String, of: &dyn Fn(Cell) -> Option<(String, f64)>| {
            let theirs = [same, best]
                .map(|c| c.and_then(of).map_or(["–".into(), "–".into()], |(t, r)| [t, format!("{r:.2}")]));
            let [[a, b], [c, d]] = theirs;
            text += &format!("| {case}{batch}{what} | {} | {own} | {a} | {b} | {c} | {d} |\n", record.precision);
        };
        let shown = |(r, row): Cell| {
            let setup = row.variant.as_ref().map_or(String::new(), |v| format!(" {v}"));
            format!("{}, n {}{setup}, {}", milliseconds(&row.time), row.time.n, r.precision)
        };
        line("", format!("{}, n {}", milliseconds(&row.time), row.time.n), &|c| {
            Some((shown(c), row.time.time_median_s / c.1.time.time_median_s))
        });
        if let Some(own) = record.peak_memory_bytes.filter(|_| row.name == record.bench) {
            let mib = |bytes: usize| format!("{:.0}", bytes as f64 / (1 << 20) as f64);
            line(": peak memory, MiB", mib(own), &|c| c.0.peak_memory_bytes.map(|b| (mib(b), own as f64 / b as f64)));
        }
        if let Some(own) = record.start_to_first_step_s {
            let first = |c: &Cell| c.0.start_to_first_step_s;
            let start = rivals.iter().filter_map(first).min_by(f64::total_cmp);
            line(": process start to the first, s", format!("{own:.2}"), &|_| {
                start.map(|s| (format!("{s:.2}"), own / s))
            });
        }
    }
    text
}

fn cells<'a>(records: &[&'a BenchRecord]) -> Vec<Cell<'a>> {
    records.iter().flat_map(|r| r.rows.iter().map(|row| (*r, row))).collect()
}

fn fastest<'a>(cells: &[Cell<'a>]) -> Option<Cell<'a>> {
    cells.iter().copied().min_by(|a, b| a.1.time.time_median_s.total_cmp(&b.1.time.time_median_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!("5%".parse::<Percent>().unwrap().0, 5.0);
        assert_eq!("0.5".parse::<Percent>().unwrap().0, 0.5);
        assert!(["-5%", "", "%", "NaN%", "inf", "five"].iter().all(|t| t.parse::<Percent>().is_err()));
    }
}
