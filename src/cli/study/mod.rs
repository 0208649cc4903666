//! `study`: what a paper says about several models at once.

group! {
    /// Tell which of several cross-validations is better: paired t-tests over their common folds.
    Compare => compare,
}
