//! Progress on stderr: a bar with an estimate on a terminal, a line now and then in a pipe.

use super::output::{self, quiet};
use super::signals;
use crate::error::{self, Message};
use crate::experiment::Events;
use crate::progress::Progress;
use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Time between two lines when stderr is not a terminal, and between two drawings of the bar when it is.
const LINES: Duration = Duration::from_secs(10);
const FRAMES: Duration = Duration::from_millis(50);
/// Characters of the bar itself.
const WIDTH: usize = 30;
/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// One bar at a time.
#[derive(Default)]
pub struct Bar {
    inner: Mutex<Option<Inner>>,
}

struct Inner {
    what: String,
    done: u64,
    total: u64,
    /// Text behind the bar.
    text: String,
    start: Instant,
    said: Instant,
    /// Characters on the terminal's line that are ours.
    drawn: usize,
}

impl Bar {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Inner {
    fn tell(&mut self) {
        let terminal = stderr().is_terminal();
        if quiet() || self.said.elapsed() < if terminal { FRAMES } else { LINES } {
            return;
        }
        self.said = Instant::now();
        if terminal {
            return self.draw();
        }
        if self.total == 0 {
            return remark!("{}: {} {}", self.what, self.done, self.text);
        }
        let left = self.left(self.start.elapsed()).as_secs_f64();
        remark!("{}: {} of {}, about {left:.0} s left {}", self.what, self.done, self.total, self.text);
    }

    /// How long the rest takes, if it goes on as it went.
    fn left(&self, elapsed: Duration) -> Duration {
        let parts = self.total.saturating_sub(self.done) as f64 / self.done.max(1) as f64;
        Duration::try_from_secs_f64(elapsed.as_secs_f64() * parts).unwrap_or(Duration::MAX)
    }

    fn line(&self, elapsed: Duration, columns: usize) -> String {
        let width = WIDTH;
        // The last column stays free: some terminals begin a new line there.
        let all = |line: String| line.trim_end().chars().take(columns.saturating_sub(1)).collect();
        if self.total == 0 {
            return all(format!("{:>12} {} {} {}", self.what, self.done, short(elapsed), self.text));
        }
        let full = (width as u128 * self.done.min(self.total) as u128 / self.total.max(1) as u128) as usize;
        let bar = "=".repeat(full) + if full < width { ">" } else { "" };
        let (elapsed, left) = (short(elapsed), short(self.left(elapsed)));
        all(format!("{:>12} [{bar:width$}] {}/{} {elapsed}<{left} {}", self.what, self.done, self.total, self.text))
    }

    /// What was drawn is overwritten. A terminal that takes nothing is left alone: no job ends for its bar.
    fn draw(&mut self) {
        let columns = terminal_size::terminal_size_of(stderr()).map_or(COLUMNS, |size| size.0.0.into());
        let line = self.line(self.start.elapsed(), columns);
        let drawn = line.chars().count();
        let _ = write!(stderr().lock(), "\r{line}{:1$}", "", self.drawn.saturating_sub(drawn));
        self.drawn = drawn;
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            let _ = write!(stderr().lock(), "\r{:1$}\r", "", self.drawn);
            self.drawn = 0;
        }
    }
}

/// `12s`, `3m`, `5h`, `2d`.
fn short(time: Duration) -> String {
    match time.as_secs() {
        s @ ..120 => format!("{s}s"),
        s @ ..7200 => format!("{}m", s / 60),
        s @ ..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

impl Progress for Bar {
    fn start(&self, what: &str, total: u64) {
        let (what, text, start) = (error::line(what), String::new(), Instant::now());
        *self.inner.lock().unwrap() = Some(Inner { what, done: 0, total, text, start, said: start, drawn: 0 });
    }
    fn message(&self, text: &str) {
        if let Some(i) = &mut *self.inner.lock().unwrap() {
            i.text = text.into();
        }
    }
    fn inc(&self) {
        if let Some(i) = &mut *self.inner.lock().unwrap() {
            i.done += 1;
            i.tell();
        }
    }
    fn done(&self) {
        if let Some(mut i) = self.inner.lock().unwrap().take() {
            i.clear();
        }
    }
    fn note(&self, text: &str) {
        let mut inner = self.inner.lock().unwrap();
        if let Some(i) = &mut *inner {
            i.clear();
        }
        remark!("note: {text}");
    }
    fn stopped(&self) -> bool {
        super::stopped()
    }
}

impl Events for Bar {
    fn remark(&self, text: &Message) {
        output::remark(format_args!("{}", text.dashed()));
    }
    fn training(&self, runs: bool) {
        signals::training(runs);
    }
    fn save_wanted(&self) -> bool {
        signals::save_wanted()
    }
    fn saving(&self) -> bool {
        signals::saving()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fits_its_terminal() {
        let (what, text, start) = ("train".into(), "loss 0.5".into(), Instant::now());
        let mut i = Inner { what, done: 0, total: 8, text, start, said: start, drawn: 0 };
        let minute = Duration::from_secs(60);
        assert_eq!(i.line(minute, 100), "       train [>                             ] 0/8 60s<8m loss 0.5");
        i.done = 6;
        assert_eq!(i.line(minute, 100), "       train [======================>       ] 6/8 60s<20s loss 0.5");
        assert_eq!(i.line(minute, 20).chars().count(), 19);
        i.done = 9;
        assert_eq!(i.line(3 * minute, 100), "       train [==============================] 9/8 3m<0s loss 0.5");
        (i.done, i.total) = (u64::MAX - 1, u64::MAX);
        assert!(i.line(minute, 100).contains(">]"));
        (i.done, i.total) = (7, 0);
        assert_eq!(i.line(minute, 100), "       train 7 60s loss 0.5");
    }
}
