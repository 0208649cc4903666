//! `weights`: what is in a weight file, and its way to other programs.

group! {
    /// Convert another program's weights, once: they are mapped from then on.
    Import => import,
    /// Show what is inside a weight file or a checkpoint.
    Inspect => inspect,
    /// Show which tensors of two files differ, and by how much.
    Diff => diff,
    /// Write a trained model or a tower for another program.
    Export => export,
    /// Make one model of those of a cross-validation: their mean, with its intervals, at the cost of one.
    Merge => merge,
}
