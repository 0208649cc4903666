//! `study`: what a paper says about several models at once.

group! {
    /// Write the paper's study as a file to be edited.
    Init => init,
    /// Train every model of a study on every fold, as far as that is not done, and make its tables.
    Run => run,
    /// Make the tables and the report of what is done so far.
    Report => report,
    /// Tell which of several cross-validations is better: paired t-tests over their common folds.
    Compare => compare,
}
