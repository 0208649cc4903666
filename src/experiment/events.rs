//! What a run tells while it works, and what it is asked to do meanwhile: to stop, to write a checkpoint.

use crate::error::Message;
use crate::progress::Progress;

/// Hears how an experiment goes, and says whether it is to end ([`Progress::stopped`]). `()` hears nothing and ends nothing.
pub trait Events: Progress + Send {
    /// A remark for people, as things happen.
    fn remark(&self, _text: &Message) {}
    /// A training begins, or has ended: meanwhile a stop waits for the end of a step, and what was done is kept.
    fn training(&self, _runs: bool) {}
    /// Whether a checkpoint is wanted that was not written yet.
    fn save_wanted(&self) -> bool {
        false
    }
    /// A checkpoint is about to be written: what is asked for from now on wants another one. True if one was wanted.
    fn saving(&self) -> bool {
        false
    }
}

impl Events for () {}

/// A remark, as `println!` would write it.
macro_rules! tell {
    ($events:expr, $($text:tt)*) => { $events.remark(&$crate::error::Message::new(format!($($text)*))) };
}
pub(crate) use tell;

/// A training, as long as this lives.
pub(super) struct Training<'a>(&'a dyn Events);

impl<'a> Training<'a> {
    pub(super) fn begin(events: &'a dyn Events) -> Self {
        events.training(true);
        Self(events)
    }
}

impl Drop for Training<'_> {
    fn drop(&mut self) {
        self.0.training(false);
    }
}
