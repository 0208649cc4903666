/*! How a long job tells its caller that it lives. The library never prints: the command line hands in a bar, a notebook
hands in nothing (`()`). */

use std::sync::OnceLock;

/// Receives the progress of one job at a time; called from worker threads.
pub trait Progress: Sync {
    /// A job of `total` equal parts begins; of 0 where only its end tells how many there are.
    fn start(&self, what: &str, total: u64);
    /// What is to be said behind the count of parts, from now on.
    fn message(&self, _text: &str) {}
    /// One part is done.
    fn inc(&self);
    /// The job has ended, well or not.
    fn done(&self);
    /// A remark beside the job, on a line of its own.
    fn note(&self, _text: &str) {}
    /// Asked between parts: true ends the job with [`Interrupted`](crate::error::Kind::Interrupted).
    fn stopped(&self) -> bool {
        false
    }
}

static WATCHER: OnceLock<&'static dyn Progress> = OnceLock::new();

/// Lets somebody watch what has no caller to be told: kernels that a device compiles before its first step. The first
/// call of a process counts.
pub fn watch(watcher: &'static dyn Progress) {
    let _ = WATCHER.set(watcher);
}

/// Who watches, or nobody.
pub fn watcher() -> &'static dyn Progress {
    WATCHER.get().copied().unwrap_or(&())
}

/// Nobody is watching.
impl Progress for () {
    fn start(&self, _: &str, _: u64) {}
    fn inc(&self) {}
    fn done(&self) {}
}
