//! Progress on stderr: a bar with an estimate on a terminal, a line now and then in a pipe.

use super::output::quiet;
use crate::error;
use crate::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Seconds between two lines when stderr is not a terminal.
const QUIET: Duration = Duration::from_secs(10);

/// One bar at a time.
#[derive(Default)]
pub struct Bar {
    inner: Mutex<Option<Inner>>,
}

struct Inner {
    what: String,
    bar: ProgressBar,
    start: Instant,
    said: Instant,
}

impl Bar {
    pub fn new() -> Self {
        Self::default()
    }
    /// Text behind the bar.
    pub fn message(&self, text: impl Into<String>) {
        if let Some(i) = &*self.inner.lock().unwrap() {
            i.bar.set_message(text.into());
        }
    }
}

impl Progress for Bar {
    fn start(&self, what: &str, total: u64) {
        let what = &error::line(what);
        let style = ProgressStyle::with_template("{prefix:>12} [{bar:30}] {pos}/{len} {elapsed}<{eta} {msg}")
            .expect("a valid template")
            .progress_chars("=> ");
        let bar = ProgressBar::new(total).with_style(style).with_prefix(what.to_string());
        if quiet() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        *self.inner.lock().unwrap() =
            Some(Inner { what: what.into(), bar, start: Instant::now(), said: Instant::now() });
    }
    fn inc(&self) {
        let mut guard = self.inner.lock().unwrap();
        let Some(i) = guard.as_mut() else { return };
        i.bar.inc(1);
        if !std::io::stderr().is_terminal() && i.said.elapsed() >= QUIET {
            i.said = Instant::now();
            let (done, total) = (i.bar.position(), i.bar.length().unwrap_or(0));
            let left = i.start.elapsed().as_secs_f64() / done as f64 * total.saturating_sub(done) as f64;
            remark!("{}: {done} of {total}, about {left:.0} s left {}", i.what, i.bar.message());
        }
    }
    fn done(&self) {
        if let Some(i) = self.inner.lock().unwrap().take() {
            i.bar.finish_and_clear();
        }
    }
    fn note(&self, text: &str) {
        let say = || remark!("note: {text}");
        match &*self.inner.lock().unwrap() {
            Some(i) => i.bar.suspend(say),
            None => say(),
        }
    }
    fn stopped(&self) -> bool {
        super::stopped()
    }
}
