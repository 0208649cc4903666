/*! How a long job tells its caller that it lives. The library never prints: the command line hands in a bar, a notebook
hands in nothing (`()`). */

/// Receives the progress of one job at a time; called from worker threads.
pub trait Progress: Sync {
    /// A job of `total` equal parts begins.
    fn start(&self, what: &str, total: u64);
    /// One part is done.
    fn inc(&self);
    /// The job has ended, well or not.
    fn done(&self);
    /// Asked between parts: true ends the job with [`Interrupted`](crate::error::Kind::Interrupted).
    fn stopped(&self) -> bool {
        false
    }
}

/// Nobody is watching.
impl Progress for () {
    fn start(&self, _: &str, _: u64) {}
    fn inc(&self) {}
    fn done(&self) {}
}
