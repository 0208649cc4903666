/*! Floor 8: training. What is measured ([`metrics`]) and how the learning rate moves ([`schedule`]). */

pub mod metrics;
pub mod schedule;
