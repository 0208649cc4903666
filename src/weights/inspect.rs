/*! What is inside a weight file of any format, for people ([`inspect`]) and for programs ([`inspect_json`]). Every value
is read: a file that passes has no damaged page, and its NaN are counted. */

use super::foreign::{Array, ArrayData};
use super::header::shape;
use super::import::Foreign;
use super::strided::Axes;
use super::{ABOUT, LAYOUT};
use crate::error::{Result, clean};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Over the finite values of one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// Neither NaN nor infinite.
    pub finite: usize,
    pub nan: usize,
    pub infinite: usize,
}

/// None for an element type that weights do not have (integers, float8).
pub fn stats(file: &Foreign, array: &Array) -> Option<Stats> {
    let mut s = Stats { min: f64::INFINITY, max: f64::NEG_INFINITY, mean: 0.0, finite: 0, nan: 0, infinite: 0 };
    let mut block = |values: &[f32]| {
        for &v in values {
            if v.is_finite() {
                (s.min, s.max) = (s.min.min(v.into()), s.max.max(v.into()));
                // The sum, until the division below.
                s.mean += f64::from(v);
                s.finite += 1;
            } else if v.is_nan() {
                s.nan += 1;
            } else {
                s.infinite += 1;
            }
        }
    };
    let each = |_, values: &mut [f32]| {
        block(values);
        Ok(())
    };
    file.view(array, &Axes::default(), |v| v.write(&mut std::io::sink(), each)).ok()?.ok()?;
    s.mean /= s.finite as f64;
    Some(s)
}

/// `1234567` -> `1,234,567`
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut s = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            s.push(',');
        }
        s.push(d);
    }
    s
}

/// Characters of a text that are shown to people, and to programs. A header may hold ninety megabytes of them.
const SHOWN: usize = 4000;
const HANDED_ON: usize = 1 << 20;
/// Most rows of a table.
const ROWS: usize = 4000;

/// The beginning of a text, and how much is left out.
fn clipped(text: &str, most: usize) -> std::borrow::Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{} … ({} bytes more)", &text[..end], text.len() - end).into(),
        None => text.into(),
    }
}

struct Report {
    file: Foreign,
    stats: Vec<Option<Stats>>,
    /// Preset name, `custom`, or why there is none.
    preprocess: std::result::Result<String, String>,
}

fn report(file: Foreign) -> Result<Report> {
    let arrays: Vec<&Array> = file.arrays().map(|a| a.0).collect();
    let stats = arrays.par_iter().map(|a| stats(&file, a)).collect();
    let preprocess = match file.preprocess() {
        Ok(Some(p)) => Ok(p.name().to_string()),
        Ok(None) => Err("not stated".to_string()),
        Err(e) => Err(e.to_string()),
    };
    Ok(Report { file, stats, preprocess })
}

/// Bytes of an array's values, scales included.
fn size(file: &Foreign, a: &Array) -> usize {
    a.shape.iter().product::<usize>() * a.dtype.bitsize() / 8 + 4 * file.scales_of(a).unwrap_or(0)
}

/// A table of all tensors (name, type, shape, elements, minimum, maximum, mean, bytes with
/// the scales of 8-bit values), totals, the header's metadata,
/// and what the file was recognised as. Ends in a line break.
pub fn inspect(path: impl AsRef<Path>) -> Result<String> {
    text(Foreign::open(path)?)
}

/// [`inspect`] of a file that is already mapped.
pub fn text(file: Foreign) -> Result<String> {
    let r = report(file)?;
    let mut rows = vec![["tensor", "type", "shape", "elements", "min", "max", "mean", "bytes"].map(String::from)];
    let mut notes = Vec::new();
    let (mut elements, mut bytes) = (0usize, 0usize);
    for ((t, _), s) in r.file.arrays().zip(&r.stats) {
        let n: usize = t.shape.iter().product();
        (elements, bytes) = (elements.saturating_add(n), bytes.saturating_add(size(&r.file, t)));
        let value = |f: fn(&Stats) -> f64| s.filter(|s| s.finite > 0).map_or("-".into(), |s| format!("{:.4e}", f(&s)));
        rows.push([
            clean(&t.name),
            match r.file.scales_of(t) {
                Some(_) => format!("{}, scaled", t.dtype),
                None => t.dtype.to_string(),
            },
            shape(&t.shape),
            thousands(n),
            value(|s| s.min),
            value(|s| s.max),
            value(|s| s.mean),
            thousands(size(&r.file, t)),
        ]);
        if let Some(s) = s
            && s.nan + s.infinite > 0
        {
            notes.push(format!("{}: {} NaN, {} infinite", clean(&t.name), thousands(s.nan), thousands(s.infinite)));
        }
    }
    let mut out = format!("{}: {}\n", clean(&r.file.path().display().to_string()), r.file.format().name());
    let width: Vec<usize> = (0..8).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    for row in rows.iter().take(ROWS + 1) {
        let cells = row.iter().zip(&width).enumerate();
        // Words to the left, numbers to the right.
        let cells = cells.map(|(c, (s, w))| if c < 3 { format!("{s:<w$}") } else { format!("{s:>w$}") });
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    let tensors = r.stats.len();
    if tensors > ROWS {
        let _ = writeln!(out, "… and {} more; --json has all", thousands(tensors - ROWS));
    }
    let file = thousands(r.file.len());
    let _ = writeln!(
        out,
        "{tensors} tensors, {} elements, {} bytes of data, {file} of file",
        thousands(elements),
        thousands(bytes)
    );
    for n in notes {
        let _ = writeln!(out, "warning: {n}");
    }
    let _ = writeln!(out, "recognised as: {}", r.file.kind().describe());
    if let Some(t) = &r.file.kind().trouble {
        let _ = writeln!(out, "warning: {t}");
    }
    match &r.preprocess {
        Ok(p) => writeln!(out, "preprocessing: {p}"),
        Err(e) => writeln!(out, "preprocessing: unknown ({e})"),
    }
    .ok();
    if !r.file.notes().contains_key(LAYOUT) {
        let _ = writeln!(out, "layout: not stated");
    }
    for (k, v) in r.file.notes().iter().filter(|n| n.0 != ABOUT) {
        let _ = writeln!(out, "metadata {}: {}", clean(&clipped(k, SHOWN)), clean(&clipped(v, SHOWN)));
    }
    if let Some(about) = r.file.notes().get(ABOUT) {
        let _ = writeln!(out, "about:");
        about.lines().for_each(|line| {
            let _ = writeln!(out, "{}", format!("  {}", clean(line)).trim_end());
        });
    }
    Ok(out)
}

/// The same for programs: an object with `file`, `format`, `bytes`, `kind`, `lineage`, `network`, `classes`, `preprocess` (null if
/// unknown), `warnings`, `metadata` and `tensors`. Statistics of a tensor without finite values are null.
pub fn inspect_json(path: impl AsRef<Path>) -> Result<Value> {
    json(Foreign::open(path)?)
}

/// [`inspect_json`] of a file that is already mapped.
pub fn json(file: Foreign) -> Result<Value> {
    let r = report(file)?;
    let tensors: Vec<Value> = r
        .file
        .arrays()
        .zip(&r.stats)
        .map(|((t, ours), s)| {
            let begin = match &t.place {
                ArrayData::Mapped(r) => Some(r.start),
                ArrayData::Packed(..) | ArrayData::Beside(..) => None,
            };
            let value = |f: fn(&Stats) -> f64| s.filter(|s| s.finite > 0).map(|s| f(&s));
            json!({
                "name": t.name,
                "ours": ours.ours,
                "dtype": t.dtype.to_string(),
                "shape": t.shape,
                "elements": t.shape.iter().product::<usize>(),
                "bytes": size(&r.file, t),
                "scales": r.file.scales_of(t),
                "begin": begin,
                "min": value(|s| s.min),
                "max": value(|s| s.max),
                "mean": value(|s| s.mean),
                "nan": s.map(|s| s.nan),
                "infinite": s.map(|s| s.infinite),
            })
        })
        .collect();
    let warnings: Vec<&String> = r.file.kind().trouble.iter().chain(r.preprocess.as_ref().err()).collect();
    let metadata: BTreeMap<_, _> = r.file.notes().iter().map(|(k, v)| (k, clipped(v, HANDED_ON))).collect();
    Ok(json!({
        "file": r.file.path().display().to_string(),
        "format": r.file.format().name(),
        "bytes": r.file.len(),
        "kind": r.file.kind().describe(),
        "lineage": format!("{:?}", r.file.kind().lineage).to_lowercase(),
        "network": r.file.kind().network,
        "classes": r.file.kind().classes,
        "preprocess": r.preprocess.as_ref().ok(),
        "warnings": warnings,
        "metadata": metadata,
        "tensors": tensors,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::write::{Entry, write};
    use super::super::{Dtype, LAYOUT, PREPROCESS};
    use super::*;

    #[test]
    fn table_and_json_say_what_is_inside() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("w.safetensors");
        let meta = BTreeMap::from([
            (LAYOUT.to_string(), "KRSC".to_string()),
            (PREPROCESS.to_string(), "torch".to_string()),
            ("note\u{1b}[31m".to_string(), "two\nlines".to_string()),
        ]);
        let w = [1.0, 2.0, f32::NAN, 3.0];
        let entries = [
            Entry::f32("fc3.weight", &[2, 2], &w),
            Entry::bytes("e", Dtype::F8_E4M3, &[2], b"ab"),
            Entry::f32("none", &[0], &[]),
        ];
        write(&p, &meta, &entries).unwrap();
        let s = inspect(&p).unwrap();
        for part in [
            "fc3.weight  F32      [2,2]         4  1.0000e0  3.0000e0  2.0000e0     16",
            "warning: fc3.weight: 1 NaN, 0 infinite",
            "recognised as: deep-affect, 2 classes",
            "preprocessing: torch",
            "metadata layout: KRSC",
            "two lines",
            "3 tensors, 6 elements, 18 bytes of data",
        ] {
            assert!(s.contains(part), "{part}:\n{s}");
        }
        assert!(!s.contains('\u{1b}'));
        let j = inspect_json(&p).unwrap();
        assert_eq!(j["network"], Value::Null);
        assert_eq!(j["classes"], 2);
        let t = j["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "fc3.weight").unwrap();
        assert_eq!((&t["mean"], &t["nan"]), (&json!(2.0), &json!(1)));
        assert_eq!(thousands(1234567), "1,234,567");
        assert!(inspect(dir.path().join("none")).is_err());
        let long = BTreeMap::from([("note".to_string(), "x".repeat(3 << 20))]);
        write(&p, &long, &entries).unwrap();
        assert!(inspect(&p).unwrap().len() < 2 * SHOWN && inspect_json(&p).unwrap().to_string().len() < 2 * HANDED_ON);
    }
}
