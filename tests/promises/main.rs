//! The scoreboard: every promise as a number that is measured here and now.
//!
//!     cargo test --release --test promises             # samples, minutes
//!     cargo test --release --test promises -- --full   # everything, with the other tests that check a promise
//!     cargo test --release --test promises -- faults   # one promise
//!
//! A line is the promise, its value, its target and what it cost; any target that is missed ends the program with 1. What this
//! machine cannot measure is said and counted.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/runs.rs"]
mod runs;

#[cfg(unix)]
mod faults;
mod files;
mod limits;
mod numbers;
#[cfg(unix)]
mod sets;
#[cfg(unix)]
mod stops;

use std::collections::BTreeSet;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Instant;

/// How much is tried.
#[derive(Clone, Copy, PartialEq)]
pub enum Form {
    Quick,
    Full,
}

impl Form {
    pub fn of<T>(self, quick: T, full: T) -> T {
        if self == Form::Quick { quick } else { full }
    }
}

/// What became of one number.
pub struct Line {
    name: String,
    value: String,
    target: String,
    /// None where this machine cannot measure it.
    met: Option<bool>,
    /// What did not hold, for whoever looks for the cause.
    complaints: Vec<String>,
}

impl Line {
    fn new(name: &str, value: String, target: String, met: bool) -> Self {
        Self { name: name.into(), value, target, met: Some(met), complaints: vec![] }
    }

    /// Of so many tries none may have a complaint.
    pub fn all(name: &str, tries: usize, complaints: Vec<String>) -> Self {
        let bad = complaints.len();
        let met = bad == 0 && tries > 0;
        Self { complaints, ..Self::new(name, format!("{} of {tries}", tries - bad), "all".into(), met) }
    }

    /// A number with its unit that may not be larger.
    pub fn most(name: &str, value: f64, most: f64, unit: &str) -> Self {
        let digits = if most < 10.0 { 3 } else { 0 };
        Self::new(name, format!("{value:.digits$} {unit}"), format!("at most {most} {unit}"), value <= most)
    }

    pub fn skipped(name: &str, why: impl Into<String>) -> Self {
        Self { met: None, ..Self::new(name, "skipped".into(), why.into(), true) }
    }
}

/// Its name, what measures it, and the test binaries that `--full` runs for it besides.
struct Promise {
    name: &'static str,
    measure: fn(Form) -> Vec<Line>,
    whole: &'static [&'static str],
}

const fn promise(name: &'static str, measure: fn(Form) -> Vec<Line>, whole: &'static [&'static str]) -> Promise {
    Promise { name, measure, whole }
}

/// In the order of `README.md` beside this file.
const PROMISES: &[Promise] = &[
    promise("kernels", numbers::kernels, &["ops", "gpu"]),
    promise("simulator", numbers::simulator, &["gpu", "kernels"]),
    promise("gradients", numbers::gradients, &["ops", "network"]),
    promise("bits", numbers::bits, &["invariance", "train"]),
    promise("parity", numbers::parity, &["conform", "networks"]),
    #[cfg(unix)]
    promise("kill", stops::kill, &["interrupt"]),
    #[cfg(unix)]
    promise("faults", faults::faults, &[]),
    #[cfg(unix)]
    promise("damage", stops::damage, &[]),
    #[cfg(unix)]
    promise("signals", stops::signals, &[]),
    #[cfg(unix)]
    promise("folders", stops::folders, &["study"]),
    promise("numbers", files::numbers, &["cuda", "flags"]),
    promise("pictures", files::pictures, &[]),
    promise("cuts", files::cuts, &[]),
    promise("weights", files::weights, &["foreign"]),
    promise("workbooks", files::workbooks, &[]),
    promise("fuzz", files::fuzz, &["fuzz"]),
    promise("changes", files::changes, &[]),
    #[cfg(unix)]
    promise("dirty", sets::dirty, &[]),
    promise("soak", limits::soak, &[]),
    promise("memory", limits::memory, &["memory"]),
    promise("supply", limits::supply, &["floors"]),
];

static PANICS: Mutex<Vec<String>> = Mutex::new(vec![]);

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list") {
        return ExitCode::SUCCESS;
    }
    let form = if args.iter().any(|a| a == "--full") { Form::Full } else { Form::Quick };
    let named: Vec<&String> = args.iter().filter(|a| !a.starts_with("--")).collect();
    // What panics here, in whatever thread, is a promise that is not kept, among the others.
    std::panic::set_hook(Box::new(|info| PANICS.lock().unwrap().push(info.to_string())));
    let (start, mut lines, mut whole) = (Instant::now(), vec![], BTreeSet::new());
    for p in PROMISES.iter().filter(|p| named.is_empty() || named.iter().any(|n| p.name.contains(n.as_str()))) {
        let begun = Instant::now();
        PANICS.lock().unwrap().clear();
        let measured = catch_unwind(AssertUnwindSafe(|| (p.measure)(form))).unwrap_or_else(|_| {
            let complaints = std::mem::take(&mut *PANICS.lock().unwrap());
            vec![Line { complaints, ..Line::new("the measurement", "failed".into(), "a number".into(), false) }]
        });
        for (i, line) in measured.into_iter().enumerate() {
            let cost = if i == 0 { format!("{:.1} s", begun.elapsed().as_secs_f64()) } else { String::new() };
            print(p.name, &line, &cost);
            lines.push(line);
        }
        whole.extend(if form == Form::Full { p.whole } else { &[] });
    }
    for test in whole {
        let begun = Instant::now();
        let line = other(test);
        print("the whole", &line, &format!("{:.1} s", begun.elapsed().as_secs_f64()));
        lines.push(line);
    }
    let missed = lines.iter().filter(|l| l.met == Some(false)).count();
    let skipped = lines.iter().filter(|l| l.met.is_none()).count();
    println!("\n{} numbers, {missed} missed, {skipped} skipped, {:.0} s\n", lines.len(), start.elapsed().as_secs_f64());
    if missed == 0 && !lines.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(promise: &str, l: &Line, cost: &str) {
    let mark = if l.met == Some(false) { "  MISSED" } else { "" };
    println!("{:<52} {:>22}   {:<30} {cost:>8}{mark}", format!("{promise}: {}", l.name), l.value, l.target);
    l.complaints.iter().take(5).for_each(|c| println!("    {}", c.trim_end().replace('\n', "\n    ")));
    if l.complaints.len() > 5 {
        println!("    and {} more", l.complaints.len() - 5);
    }
}

/// Another test binary, whole.
fn other(test: &str) -> Line {
    let name = format!("cargo test --test {test}");
    let Some(cargo) = env::var_os("CARGO") else { return Line::skipped(&name, "cargo does not run this") };
    let mut command = Command::new(cargo);
    command.args(["test", "--release", "--test", test]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let out = command.env("FUZZ_SECONDS", "30").output().unwrap();
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    let result = told.lines().filter_map(|l| l.strip_prefix("test result: ")).next_back().unwrap_or("no result");
    let value: String = result.split(';').take(2).collect();
    let complaints = if out.status.success() { vec![] } else { vec![told] };
    Line { complaints, ..Line::new(&name, value, "ok".into(), out.status.success()) }
}

/// Fails a try with a sentence instead of a panic.
#[macro_export]
macro_rules! must {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Some(format!($($why)*));
        }
    };
}
