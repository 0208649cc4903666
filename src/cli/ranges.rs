//! Which numbers a flag takes. Every one has an end: what no machine can compute is refused where it is read, in one line.

use clap::builder::RangedU64ValueParser;
use std::ops::RangeInclusive;
use std::str::FromStr;

pub use crate::experiment::config::MANY;

/// A whole number within a range.
pub fn whole<T>(range: RangeInclusive<u64>) -> RangedU64ValueParser<T>
where
    T: TryFrom<u64> + Clone + Send + Sync + 'static,
    T::Error: std::fmt::Display + std::error::Error + Send + Sync,
{
    RangedU64ValueParser::new().range(range)
}

/// A number within a range, which NaN is not.
pub fn number<T>(least: f64, most: f64) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + Into<f64> + Copy,
{
    move |text| {
        let inside = |x: &T| (least..=most).contains(&(*x).into());
        text.parse().ok().filter(inside).ok_or_else(|| format!("not a number from {least} to {most}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_belong_to_the_range() {
        let part = number::<f32>(0.0, 1.0);
        assert_eq!((part("0"), part("1"), part("0.5")), (Ok(0.0), Ok(1.0), Ok(0.5)));
        for text in ["-0.1", "1.1", "nan", "inf", "-inf", "1e39", "", "x"] {
            assert_eq!(part(text), Err("not a number from 0 to 1".into()), "{text}");
        }
    }
}
