/*! Floor 8: conformance. Reads golden files, which another framework computed, runs each case on a device and says how far
every tensor is from what was expected, relative to its largest expected magnitude.

Tolerances are derived, never tuned. The reference device computes in float64 as the golden files did: 1e-12, plus half a
unit in the last place where the file or an op's attribute holds a number as float32. A float32 device gets the bound of
its arithmetic: see [`cases`] for single ops and [`noise`] for a whole network. */

mod cases;
mod cgan;
mod evolve;
mod fused;
mod fusion;
mod golden;
mod keras;
mod lowlevel;
mod measures;
mod network;
mod noise;
mod solve;

use crate::device;
use crate::error::{Error, Result};
use golden::Golden;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What became of one tensor of one case.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    Pass,
    Fail,
    /// The engine has no such op or parameter.
    Unsupported {
        what: String,
    },
}

/// One tensor of one case; with `--json` one line.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    pub file: String,
    pub op: String,
    pub case: String,
    /// `*` where a whole case is unsupported.
    pub tensor: String,
    #[serde(serialize_with = "word")]
    pub status: Status,
    /// Largest error relative to the largest expected magnitude; not a number where the device computed none.
    pub max_error: Option<f64>,
    pub tolerance: Option<f64>,
}

fn word<S: serde::Serializer>(s: &Status, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(s.word())
}

impl Status {
    pub fn word(&self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Fail => "fail",
            Status::Unsupported { .. } => "unsupported",
        }
    }
}

/// Why a case has no rows.
enum Stop {
    /// The engine lacks this.
    Unsupported(String),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Failed(e)
    }
}

/// What a device computed for one expected tensor.
struct Checked {
    tensor: String,
    /// Relative, as is the tolerance.
    error: f64,
    tolerance: f64,
}

impl Checked {
    /// Compares `got` with `want`; `slack` is the largest absolute error allowed.
    fn new(tensor: impl Into<String>, got: &[f64], want: &[f64], slack: f64) -> Self {
        let scale = want.iter().fold(0.0f64, |m, y| m.max(y.abs()));
        // Nothing but zeros expected: errors count as they are.
        let scale = if scale > 0.0 { scale } else { 1.0 };
        // `f64::max` would drop a NaN.
        let worse = |m: f64, e: f64| if m.is_nan() || e <= m { m } else { e };
        let error = got.iter().zip(want).map(|(g, w)| (g - w).abs() / scale).fold(0.0, worse);
        let error = if got.len() == want.len() { error } else { f64::NAN };
        Self { tensor: tensor.into(), error, tolerance: slack / scale }
    }
}

/// Runs every case of every file on a device.
pub fn run(files: &[PathBuf], device: &str) -> Result<Vec<CaseResult>> {
    let mut rows = vec![];
    for path in files {
        let golden = Golden::read(path)?;
        let row = |case: &str, tensor: String, status, max_error, tolerance| {
            let (file, op) = (path.display().to_string(), golden.op.clone());
            CaseResult { file, op, case: case.into(), tensor, status, max_error, tolerance }
        };
        for case in golden.cases.keys() {
            let context = Context { golden: &golden, case, device, exact: device == "reference" };
            match context.check() {
                Ok(checked) => rows.extend(checked.into_iter().map(|c| {
                    // The other way round NaN would pass.
                    let status = if c.error <= c.tolerance { Status::Pass } else { Status::Fail };
                    row(case, c.tensor, status, Some(c.error), Some(c.tolerance))
                })),
                Err(Stop::Unsupported(what)) => {
                    rows.push(row(case, "*".into(), Status::Unsupported { what }, None, None))
                }
                Err(Stop::Failed(e)) => return Err(e),
            }
        }
    }
    Ok(rows)
}

/// 0, or 1 when a case fails. A file that cannot be read is an [`Error`] whose own exit code is 2.
pub fn exit_code(rows: &[CaseResult]) -> u8 {
    rows.iter().any(|r| r.status == Status::Fail) as u8
}

/// One JSON object per line.
pub fn json_lines(rows: &[CaseResult]) -> String {
    rows.iter().map(|r| serde_json::to_string(r).expect("strings and numbers") + "\n").collect()
}

/// Aligned columns, one row per case and tensor, and a last line with the counts.
pub fn table(rows: &[CaseResult]) -> String {
    let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.1e}"));
    let head = ["op", "case", "tensor", "max error", "tolerance", "status"].map(String::from);
    let line = |r: &CaseResult| {
        let status = match &r.status {
            Status::Unsupported { what } => format!("unsupported: {what}"),
            s => s.word().into(),
        };
        [r.op.clone(), r.case.clone(), r.tensor.clone(), number(r.max_error), number(r.tolerance), status]
    };
    let lines: Vec<[String; 6]> = std::iter::once(head).chain(rows.iter().map(line)).collect();
    let width: Vec<usize> = (0..6).map(|c| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for l in &lines {
        let cell = |c: usize| match c {
            3 | 4 => format!("{:>1$}", l[c], width[c]),
            5 => l[c].clone(),
            _ => format!("{:<1$}", l[c], width[c]),
        };
        text += (0..6).map(cell).collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text + &summary(rows) + "\n"
}

/// `N passed, N failed, N unsupported (names)`.
pub fn summary(rows: &[CaseResult]) -> String {
    let count = |word| rows.iter().filter(|r| r.status.word() == word).count();
    let mut text = format!("{} passed, {} failed, {} unsupported", count("pass"), count("fail"), count("unsupported"));
    let names: BTreeSet<&str> = rows
        .iter()
        .filter_map(|r| if let Status::Unsupported { what } = &r.status { Some(&**what) } else { None })
        .collect();
    if !names.is_empty() {
        text += &format!(" ({})", names.into_iter().collect::<Vec<_>>().join(", "));
    }
    text
}

/// One case of a file, and where to run it.
struct Context<'a> {
    golden: &'a Golden,
    case: &'a str,
    device: &'a str,
    /// The device computes in float64.
    exact: bool,
}

impl Context<'_> {
    fn open(&self) -> Result<Box<dyn device::Device>> {
        device::open(self.device, None)
    }
}
