/*! Floor 8: training. What is measured ([`metrics`]), its mean over folds ([`folds`]) and how the learning rate moves
([`schedule`]). */

pub mod folds;
pub mod metrics;
pub mod schedule;
