//! Elementwise loops. They are plain: the compiler makes vectors of them at the level that [`simd::run`] opens.

use super::simd::{self, V16, Vectorized};
use crate::launch::Simd;
use crate::par;

/// y[i] = f(x[i]).
pub fn map(simd: Simd, x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32 + Copy + Send + Sync) {
    par::chunks_mut(y, |at, y| simd::run(simd, Map { x: &x[at..], y, f }));
}

/// y[i] = f(a[i], b[i]).
pub fn map2(simd: Simd, a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync) {
    par::chunks_mut(y, |at, y| simd::run(simd, Map2 { a: &a[at..], b: &b[at..], y, f }));
}

/// dx[i] = 0 where y[i], ReLU's result, is not positive.
pub fn mask(dx: &mut [f32], y: &[f32]) {
    par::chunks_mut(dx, |at, dx| {
        dx.iter_mut().zip(&y[at..]).for_each(|(dx, y)| *dx = if *y > 0.0 { *dx } else { 0.0 })
    });
}

/// A piece of [`map`].
struct Map<'a, F> {
    x: &'a [f32],
    y: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32) -> f32> Vectorized for Map<'_, F> {
    #[inline(always)]
    fn run<V: V16>(self) {
        self.y.iter_mut().zip(self.x).for_each(|(y, x)| *y = (self.f)(*x));
    }
}

/// A piece of [`map2`].
struct Map2<'a, F> {
    a: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Vectorized for Map2<'_, F> {
    #[inline(always)]
    fn run<V: V16>(self) {
        self.y.iter_mut().zip(self.a).zip(self.b).for_each(|((y, a), b)| *y = (self.f)(*a, *b));
    }
}

/// exp(x) in float32 arithmetic without branches or calls, so that a loop over it becomes vector code; no fused
/// multiply-add, so that every vector width gives the same bits. Within 2 u of the true value where that is a normal
/// number; overflows to infinity, underflows gradually, keeps NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 is taken off in two parts, of which n times the first (355 / 512) is exact.
/// exp(r) = 1 + r + r^2 p(r), p of degree 5 fitted at Chebyshev nodes: r^2 p is off by less than 2e-10.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const P: [f32; 6] = [1.989_108e-4, 1.393_373_1e-3, 8.333_31e-3, 4.166_646_3e-2, 1.666_666_7e-1, 0.5];
    // Added and taken off again, it rounds to the nearest whole number; the low bits of the sum are that number.
    const ROUND: f32 = 1.5 * (1 << 23) as f32;
    // Beyond these the result is infinite or zero; comparisons leave NaN alone.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let sum = x * std::f32::consts::LOG2_E + ROUND;
    let n = sum - ROUND;
    let r = (x - n * (355.0 / 512.0)) + n * 2.121_944_4e-4;
    let p = P[1..].iter().fold(P[0], |p, c| p * r + c);
    let y = 1.0 + (r + r * r * p);
    // 2^n in two factors: n reaches from -150 to 128, beyond the exponents of one.
    let n = (sum.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    y * power(n >> 1) * power(n - (n >> 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units() {
        let mut worst = 0f64;
        // Every 499th float32 between the smallest and the largest argument with a normal result.
        for bits in (0..f32::INFINITY.to_bits()).step_by(499) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                if (-87.3..88.72).contains(&x) {
                    let want = (x as f64).exp();
                    worst = worst.max((exp(x) as f64 - want).abs() / want * 2f64.powi(24));
                }
            }
        }
        println!("worst {worst}");
        assert!(worst <= 2.0, "{worst} u");
        assert_eq!([exp(0.0), exp(89.5), exp(f32::INFINITY), exp(-105.0)], [1.0, f32::INFINITY, f32::INFINITY, 0.0]);
        assert_eq!([exp(f32::NEG_INFINITY), exp(-100.0)], [0.0, (-100f64).exp() as f32]);
        assert!(exp(f32::NAN).is_nan());
    }
}
