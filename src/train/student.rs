/*! Student's t distribution, as far as tests and intervals need it: its two tails together and the point that they begin at.
By the incomplete beta function, DLMF 8.17: the two tails beyond t are I(x; df/2, 1/2) at x = df / (df + t^2). */

/// Probability of a t at least as far from 0, either way, at `df` degrees of freedom (at least 1).
pub fn two_sided(t: f64, df: usize) -> f64 {
    let a = df as f64 / 2.0;
    let square = t * t / df as f64;
    // x^a (1 - x)^(1/2) / B(a, 1/2), from the logarithm of 1 + t^2/df so that a small t keeps its digits.
    let front = (-a * square.ln_1p()).exp() * (square / (1.0 + square)).sqrt() / beta_with_half(df);
    let x = 1.0 / (1.0 + square);
    // The fraction ends soon on this side of the mean of the distribution; beyond it the other end is taken from 1.
    if x < (a + 1.0) / (a + 2.5) {
        front * fraction(x, a, 0.5) / a
    } else {
        1.0 - front * fraction(square / (1.0 + square), 0.5, a) / 0.5
    }
}

/// The t beyond which, either way, the probability is `p`: halved until two neighbours remain. `p` is within 0 and 1.
pub fn point(p: f64, df: usize) -> f64 {
    let (mut low, mut high) = (0.0f64, 1.0f64);
    while two_sided(high, df) > p {
        (low, high) = (high, 2.0 * high);
    }
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return high;
        }
        if two_sided(middle, df) > p { low = middle } else { high = middle }
    }
}

/// B(df/2, 1/2): pi for one degree of freedom, 2 for two, and B(a + 1, 1/2) = B(a, 1/2) a / (a + 1/2).
fn beta_with_half(df: usize) -> f64 {
    let first = if df % 2 == 1 { std::f64::consts::PI } else { 2.0 };
    (2 - df % 2..df).step_by(2).fold(first, |beta, df| beta * df as f64 / (df as f64 + 1.0))
}

/// The continued fraction of DLMF 8.17.22 by Lentz's method: I(x; a, b) = x^a (1 - x)^b / (a B(a, b)) times it.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    // Stands for a denominator that is 0 on the way.
    let safe = |d: f64| if d.abs() < 1e-300 { 1e-300 } else { d };
    let mut c = 1.0;
    let mut d = 1.0 / safe(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    // It takes some square root of the larger parameter; the limit only ends what is not a number.
    for m in 1..1_000_000 {
        let m = m as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut last = 1.0;
        for step in [even, odd] {
            d = 1.0 / safe(1.0 + step * d);
            c = safe(1.0 + step / c);
            last = c * d;
            value *= last;
        }
        if (last - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some hundred roundings, and in B two for each of df/2 steps.
    fn tolerance(df: usize) -> f64 {
        (400.0 + df as f64) * f64::EPSILON / 2.0
    }

    /// SciPy's tails and points.
    #[test]
    fn scipy_says_the_same() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/statistics/students_t.json")).unwrap();
        let number = |v: &serde_json::Value, key: &str| v[key].as_f64().unwrap();
        for case in golden["tails"].as_array().unwrap() {
            let (t, df, want) = (number(case, "t"), case["df"].as_u64().unwrap() as usize, number(case, "p"));
            let got = two_sided(t, df);
            assert_eq!(got, two_sided(-t, df));
            assert!((got - want).abs() <= tolerance(df) * want, "t {t} of {df}: {got} instead of {want}");
        }
        for case in golden["points"].as_array().unwrap() {
            let (want, df) = (number(case, "t"), case["df"].as_u64().unwrap() as usize);
            let got = point(0.05, df);
            assert!((got - want).abs() <= tolerance(df) * want, "{df}: {got} instead of {want}");
        }
        assert_eq!(two_sided(0.0, 7), 1.0);
        assert!(two_sided(f64::NAN, 7).is_nan());
    }
}
