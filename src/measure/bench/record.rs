//! What a benchmark leaves: one JSON object, which later runs are held against. Names carry their units.

use crate::error::{Error, Result};
use crate::files;
use crate::measure::profile::{Breakdown, Roof};
use crate::shape::DType;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Changes whenever a name changes its meaning.
const FORMAT: &str = "deep-affect bench 1";

/// One call of `bench`, or one case of a peer.
#[derive(Serialize, Deserialize)]
pub struct BenchRecord {
    pub format: String,
    /// conv, dense, step, infer or load.
    pub bench: String,
    /// `deep-affect 0.1.0`
    pub program: String,
    /// Of the program's source, where `DEEP_AFFECT_COMMIT` names it.
    pub commit: Option<String>,
    /// UTC, as in ISO 8601.
    pub date: String,
    pub command: String,
    pub device: String,
    pub precision: String,
    pub model: Option<String>,
    pub batch: Option<usize>,
    #[serde(default)]
    pub ceilings: Option<Roof>,
    /// Process start to the end of the first step, weights drawn, kernels compiled or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_to_first_step_s: Option<f64>,
    /// What the plan has on the device: weights, velocities and inputs, then temporaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_bytes: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arena_bytes: Option<usize>,
    /// The most device memory that was ever held; of a CPU, the most memory of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<usize>,
    pub rows: Vec<BenchRow>,
    /// The launches of one run, each measured alone.
    #[serde(flatten, default, skip_deserializing)]
    pub breakdown: Option<Breakdown>,
}

/// One thing that was measured `n` times.
#[derive(Serialize, Deserialize, Default)]
pub struct BenchRow {
    /// Unique among the rows of a record with the same variant.
    pub name: String,
    /// How a peer was set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(flatten)]
    pub time: WallTime,
    #[serde(flatten, default)]
    pub work: Option<LayerWork>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures_per_s: Option<f64>,
    /// Megabytes of encoded files, or of squares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mb_per_s: Option<f64>,
    #[serde(flatten, default)]
    pub error: Option<LayerError>,
}

/// Seconds of `n` samples.
#[derive(Serialize, Deserialize, Clone, Copy, Default)]
pub struct WallTime {
    pub n: usize,
    pub time_median_s: f64,
    pub time_fastest_s: f64,
    pub time_slowest_s: f64,
}

impl WallTime {
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self {
            n: samples.len(),
            time_median_s: samples[samples.len() / 2],
            time_fastest_s: samples[0],
            time_slowest_s: samples[samples.len() - 1],
        }
    }
}

/// Arithmetic and traffic of the definition, and how near they came to the ceilings.
#[derive(Serialize, Deserialize, Clone)]
pub struct LayerWork {
    /// Types of the operands: `[1, 224, 224, 64] [64, 3, 3, 64] [64]`.
    pub operands: String,
    /// How often the network has it.
    pub uses: usize,
    pub gflop: f64,
    pub gflop_per_s: f64,
    /// Every operand once.
    pub least_gb: f64,
    pub gb_per_s: f64,
    /// How the operands of products are stored.
    #[serde(skip)]
    pub storage: DType,
    /// Of the ceiling of products on tensor cores, or of multiply-adds where there are none; and of that of memory.
    pub compute_percent: Option<f64>,
    pub memory_percent: Option<f64>,
}

/// How far from the float64 definition.
#[derive(Serialize, Deserialize, Clone)]
pub struct LayerError {
    /// The largest, relative to the largest magnitude among the elements that were looked at; null where it is no number.
    pub error_largest: Option<f64>,
    pub error_elements: usize,
    pub output_elements: usize,
}

impl BenchRecord {
    /// A record without results, made now by `command`.
    pub fn empty(bench: &str, device: String, command: &str) -> Self {
        Self {
            format: FORMAT.into(),
            bench: bench.into(),
            program: concat!("deep-affect ", env!("CARGO_PKG_VERSION")).into(),
            commit: std::env::var("DEEP_AFFECT_COMMIT").ok().filter(|c| !c.is_empty()),
            date: now(),
            command: command.into(),
            device,
            precision: "float32".into(),
            model: None,
            batch: None,
            ceilings: None,
            start_to_first_step_s: None,
            persistent_bytes: None,
            arena_bytes: None,
            peak_memory_bytes: None,
            rows: vec![],
            breakdown: None,
        }
    }

    /// Reads one record, or a list of them.
    pub fn read(path: &Path) -> Result<Vec<BenchRecord>> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum File {
            One(Box<BenchRecord>),
            Many(Vec<BenchRecord>),
        }
        let text = files::text(path, files::PAGE).map_err(|e| Error::io(path, "read", e))?;
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| Error::file(path, format!("is no JSON: {e}")).fix("name a file that `bench --json` wrote"))?;
        let records = match serde_json::from_value(json) {
            Ok(File::One(r)) => vec![*r],
            Ok(File::Many(all)) => all,
            Err(_) => vec![],
        };
        let sane =
            |t: &WallTime| t.n > 0 && [t.time_median_s, t.time_fastest_s, t.time_slowest_s].iter().all(|s| *s > 0.0);
        let known = |r: &BenchRecord| r.format == FORMAT && r.rows.iter().all(|row| sane(&row.time));
        if records.is_empty() || !records.iter().all(known) {
            return Err(Error::file(path, "is no record of a benchmark").fix("name a file that `bench --json` wrote"));
        }
        Ok(records)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain data") + "\n";
        crate::atomic::write(path, |w| w.write_all(text.as_bytes()))
    }
}

/// This moment, `2026-11-22T08:26:04Z`.
fn now() -> String {
    date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// Seconds since 1970 as a date: Hinnant's `civil_from_days`, whose years begin in March.
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * march + 2) / 5 + 1, if march < 10 { march + 3 } else { march - 9 });
    let year = 400 * era + year + (month <= 2) as u64;
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Seconds since this process was started, program loading included; None where the system does not tell.
pub fn since_start() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which is in parentheses and may hold anything, `starttime` is field 20; in hundredths of a second.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let up: f64 = std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Some((up - ticks / 100.0).max(0.01))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_400 + 3661), "2000-02-29T01:01:01Z");
        assert_eq!(date(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn the_process_is_young() {
        assert!(since_start().is_none_or(|s| (0.0..3600.0).contains(&s)));
    }
}
