/*! Ridge regression (Hoerl & Kennard 1970): a linear head in closed form, for features of frozen towers. It has one setting,
which inner folds choose, and suits a few hundred pictures better than any larger head.

The weights b and the bias a of a target minimise

```text
sum w_i (y_i - a - x_i b)^2 / sum w_i + lambda s^2 |b|^2
```

over rows i of weight w_i, s^2 being the mean variance of the features: so `lambda` means the same whatever the scale of the
features and the number of rows. All sums are float64. With more features than rows the system has a row and a column for
each row (b = X' c, Saunders et al. 1998), otherwise for each feature.

[`ridge`] takes the penalty as scikit-learn's `Ridge` does: `alpha` times |b|^2 beside the plain sum of squares.
[`least_squares`] has none, and refuses features that determine no single answer. */

use super::{dot, gram};
use crate::data::folds;
use crate::error::{Error, Result};

/// Penalties to choose from: half decades.
const LAMBDAS: [f64; 15] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0];

/// Inner folds, where there are so many groups.
const FOLDS: u32 = 5;

/// All rows of a data set.
pub struct Problem {
    /// Features [n, width], row after row.
    pub x: Vec<f64>,
    pub width: usize,
    /// What they should give [n, targets].
    pub y: Vec<f64>,
    pub targets: usize,
    /// How much each row counts, [n].
    pub weight: Vec<f64>,
}

/// A linear head.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// [targets, width]
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
    /// What was chosen for each target.
    pub lambda: Vec<f64>,
}

/// Solves for some rows; each target's penalty is the one of least squared error over inner folds of them, by group where
/// there are groups (`groups` names one for each of `rows`).
///
/// # Errors
/// Fewer than two groups, or no row that counts.
pub fn fit(p: &Problem, rows: &[usize], groups: &[Option<String>], seed: u64) -> Result<Head> {
    let fold = folds::up_to(FOLDS, groups, seed)?;
    let mut errors = vec![vec![0.0; LAMBDAS.len()]; p.targets];
    for f in 0..=fold.iter().copied().max().unwrap_or(0) {
        let pick = |inside: bool| -> Vec<usize> {
            rows.iter().zip(&fold).filter(|r| (*r.1 == f) == inside).map(|r| *r.0).collect()
        };
        let (held, rest) = (pick(true), pick(false));
        let system = System::new(p, &rest)?;
        for (l, lambda) in LAMBDAS.into_iter().enumerate() {
            let (weight, bias) = system.solve(lambda);
            for (t, errors) in errors.iter_mut().enumerate() {
                let b = &weight[t * p.width..(t + 1) * p.width];
                let error = |i: &usize| p.weight[*i] * (bias[t] + dot(b, p.row(*i)) - p.y[i * p.targets + t]).powi(2);
                errors[l] += held.iter().map(error).sum::<f64>();
            }
        }
    }
    let system = System::new(p, rows)?;
    let mut head = Head { weight: vec![], bias: vec![], lambda: vec![] };
    for (t, errors) in errors.iter().enumerate() {
        // Of equals the larger.
        let least = errors.iter().rposition(|e| *e == errors.iter().copied().fold(f64::INFINITY, f64::min));
        let lambda = LAMBDAS[least.ok_or_else(|| Error::job("a feature or a rating is not a finite number"))?];
        let (weight, bias) = system.solve(lambda);
        head.weight.extend(&weight[t * p.width..(t + 1) * p.width]);
        head.bias.push(bias[t]);
        head.lambda.push(lambda);
    }
    Ok(head)
}

/// Refuses a penalty that is none.
///
/// # Errors
/// Anything but a finite number above 0.
pub fn check_penalty(alpha: f64) -> Result<()> {
    if alpha > 0.0 && alpha.is_finite() {
        return Ok(());
    }
    Err(Error::usage(format!("the penalty {alpha} is not above 0")).fix("give a number above 0"))
}

/// Minimises `sum w_i (y_i - a - x_i b)^2 + alpha |b|^2` over some rows.
///
/// # Errors
/// No row that counts, or a penalty that is not above 0.
pub fn ridge(p: &Problem, rows: &[usize], alpha: f64) -> Result<Head> {
    check_penalty(alpha)?;
    let system = System::new(p, rows)?;
    let (weight, bias) = system.solve(alpha / system.unit);
    Ok(Head { weight, bias, lambda: vec![alpha; p.targets] })
}

/// The least pivot of the scaled normal equations, the squared sine of the angle between a column and those before it. The
/// equations are solved to 2^-53 over the pivot, so that six digits are right at this one; columns of float32 that depend
/// on each other exactly leave 1e-14.
const PIVOT: f64 = 1e-10;

/// Minimises `sum w_i (y_i - a - x_i b)^2` over some rows.
///
/// # Errors
/// No row that counts, or columns that depend on each other over these rows: infinitely many answers are then equally good.
pub fn least_squares(p: &Problem, rows: &[usize]) -> Result<Head> {
    let refused = |why: String| {
        Err(Error::job(format!("least squares has no single answer: {why}")).fix("choose the solver ridge"))
    };
    let (n, width) = (rows.len(), p.width);
    if width >= n {
        return refused(format!("{width} columns for {n} pictures"));
    }
    let system = System::new(p, rows)?;
    // Columns of length 1: the size of a feature must not look like its dependence on others.
    let scale: Vec<f64> = (0..width).map(|j| system.gram[j * width + j].sqrt()).collect();
    let mut a = system.gram.clone();
    let mut dependent = 0;
    for i in 0..width {
        let (above, row) = a.split_at_mut(i * width);
        if scale[i] == 0.0 {
            row[..=i].fill(0.0);
            dependent += 1;
            continue;
        }
        for j in 0..i {
            let pivot = above[j * width + j];
            let r = if scale[j] > 0.0 { row[j] / (scale[i] * scale[j]) } else { 0.0 };
            row[j] = if pivot > 0.0 { (r - dot(&row[..j], &above[j * width..j * width + j])) / pivot } else { 0.0 };
        }
        let pivot = 1.0 - dot(&row[..i], &row[..i]);
        let depends = pivot.is_nan() || pivot <= PIVOT;
        dependent += usize::from(depends);
        row[i] = if depends { 0.0 } else { pivot.sqrt() };
    }
    if dependent > 0 {
        return refused(format!("{dependent} of {width} columns depend on the others over {n} pictures"));
    }
    let mut head = Head { weight: vec![], bias: vec![], lambda: vec![0.0; p.targets] };
    for (y, centre) in system.y.chunks_exact(n).zip(&system.centre) {
        let mut b = system.across(y);
        b.iter_mut().zip(&scale).for_each(|(b, s)| *b /= s);
        substitute(&a, &mut b);
        b.iter_mut().zip(&scale).for_each(|(b, s)| *b /= s);
        head.bias.push(centre - dot(&b, &system.means));
        head.weight.extend(b);
    }
    Ok(head)
}

impl Head {
    /// Predictions [n, targets] of rows [n, width].
    pub fn predict(&self, x: &[f64]) -> Vec<f64> {
        let width = self.weight.len() / self.bias.len();
        let one = |row: &[f64], t: usize| self.bias[t] + dot(&self.weight[t * width..(t + 1) * width], row);
        x.chunks_exact(width).flat_map(|row| (0..self.bias.len()).map(move |t| one(row, t))).collect()
    }
}

impl Problem {
    fn row(&self, i: usize) -> &[f64] {
        &self.x[i * self.width..(i + 1) * self.width]
    }
}

/// The normal equations of some rows, but for the penalty.
struct System {
    /// Rows sqrt(w) (x - mean), [n, width].
    x: Vec<f64>,
    width: usize,
    means: Vec<f64>,
    /// The same of the targets, [targets, n].
    y: Vec<f64>,
    centre: Vec<f64>,
    /// X X' where that is smaller than X' X.
    gram: Vec<f64>,
    dual: bool,
    /// The penalty of `lambda` 1.
    unit: f64,
}

impl System {
    fn new(p: &Problem, rows: &[usize]) -> Result<Self> {
        let (n, width) = (rows.len(), p.width);
        let total: f64 = rows.iter().map(|&i| p.weight[i]).sum();
        if total <= 0.0 || total.is_nan() {
            return Err(Error::job("no picture of an inner fold has a weight").fix("check the weights"));
        }
        let mean = |of: &dyn Fn(usize) -> f64| rows.iter().map(|&i| p.weight[i] * of(i)).sum::<f64>() / total;
        let means: Vec<f64> = (0..width).map(|j| mean(&|i| p.row(i)[j])).collect();
        let centre: Vec<f64> = (0..p.targets).map(|t| mean(&|i| p.y[i * p.targets + t])).collect();
        let mut x = Vec::with_capacity(n * width);
        for &i in rows {
            let root = p.weight[i].sqrt();
            x.extend(p.row(i).iter().zip(&means).map(|(x, m)| root * (x - m)));
        }
        let residual = |t: usize| {
            let centre = &centre;
            rows.iter().map(move |&i| p.weight[i].sqrt() * (p.y[i * p.targets + t] - centre[t]))
        };
        let y = (0..p.targets).flat_map(residual).collect();
        let dual = width > n;
        let gram =
            if dual { gram(&x, width, |_, _, xx| xx) } else { gram(&transposed(&x, n, width), n, |_, _, xx| xx) };
        let unit = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
        // Features that do not vary explain nothing, whatever the penalty.
        let unit = if unit > 0.0 { unit } else { 1.0 };
        Ok(Self { x, width, means, y, centre, gram, dual, unit })
    }

    /// Weights [targets, width] and biases.
    fn solve(&self, lambda: f64) -> (Vec<f64>, Vec<f64>) {
        let (n, width) = (self.x.len() / self.width, self.width);
        let size = if self.dual { n } else { width };
        let mut a = self.gram.clone();
        (0..size).for_each(|i| a[i * size + i] += lambda * self.unit);
        cholesky(&mut a, size);
        let (mut weight, mut bias) = (vec![], vec![]);
        for (y, centre) in self.y.chunks_exact(n).zip(&self.centre) {
            let b = if self.dual {
                let mut c = y.to_vec();
                substitute(&a, &mut c);
                self.across(&c)
            } else {
                let mut b = self.across(y);
                substitute(&a, &mut b);
                b
            };
            bias.push(centre - dot(&b, &self.means));
            weight.extend(b);
        }
        (weight, bias)
    }

    /// X' c
    fn across(&self, c: &[f64]) -> Vec<f64> {
        let mut b = vec![0.0; self.width];
        for (row, c) in self.x.chunks_exact(self.width).zip(c) {
            b.iter_mut().zip(row).for_each(|(b, x)| *b += c * x);
        }
        b
    }
}

fn transposed(x: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect()
}

/// L with L L' = A, in the lower half of A, which is positive definite.
fn cholesky(a: &mut [f64], n: usize) {
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * n);
        for j in 0..i {
            row[j] = (row[j] - dot(&row[..j], &above[j * n..j * n + j])) / above[j * n + j];
        }
        row[i] = (row[i] - dot(&row[..i], &row[..i])).sqrt();
    }
}

/// c becomes the solution of L L' x = c.
fn substitute(l: &[f64], c: &mut [f64]) {
    let n = c.len();
    for i in 0..n {
        c[i] = (c[i] - dot(&l[i * n..i * n + i], &c[..i])) / l[i * n + i];
    }
    for i in (0..n).rev() {
        c[i] /= l[i * n + i];
        let x = c[i];
        (0..i).for_each(|j| c[j] -= l[i * n + j] * x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};
    use approx::assert_relative_eq;

    fn problem(n: usize, width: usize, noise: f64) -> Problem {
        let mut rng = Rng::new(3, Stream::Test(0), 0);
        let mut draw = || rng.uniform() as f64 - 0.5;
        let x: Vec<f64> = (0..n * width).map(|_| draw()).collect();
        let b: Vec<f64> = (0..2 * width).map(|_| draw()).collect();
        let of = |i: usize, t: usize| 5.0 + dot(&x[i * width..(i + 1) * width], &b[t * width..(t + 1) * width]);
        let y = (0..n).flat_map(|i| [of(i, 0), of(i, 1)]).map(|y| y + noise * draw()).collect();
        let weight = (0..n).map(|i| 1.0 + (i % 3) as f64 / 2.0).collect();
        Problem { x, width, y, targets: 2, weight }
    }

    /// At the minimum the derivatives of what is minimised are zero, whichever of the two systems was solved.
    #[test]
    fn derivatives_vanish() {
        for (n, width) in [(40, 9), (13, 30), (20, 20)] {
            let (p, rows) = (problem(n, width, 1.0), (0..n).collect::<Vec<_>>());
            let system = System::new(&p, &rows).unwrap();
            assert_eq!(system.dual, width > n);
            let total: f64 = p.weight.iter().sum();
            for lambda in [0.01, 1.0, 50.0] {
                let (weight, bias) = system.solve(lambda);
                for t in 0..2 {
                    let b = &weight[t * width..(t + 1) * width];
                    let error: Vec<f64> =
                        rows.iter().map(|&i| p.weight[i] * (p.y[2 * i + t] - bias[t] - dot(b, p.row(i)))).collect();
                    assert_relative_eq!(error.iter().sum::<f64>(), 0.0, epsilon = 1e-10);
                    for (j, b) in b.iter().enumerate() {
                        let slope: f64 = rows.iter().zip(&error).map(|(&i, e)| e * p.row(i)[j]).sum();
                        assert_relative_eq!(slope / total, lambda * system.unit / total * b, epsilon = 1e-10);
                    }
                }
            }
        }
    }

    /// scikit-learn's penalty is that of the lambda that belongs to it; without one the derivatives of the squares vanish.
    #[test]
    fn penalties_of_two_kinds_and_none() {
        let (n, width) = (40, 9);
        let (p, rows) = (problem(n, width, 1.0), (0..n).collect::<Vec<_>>());
        let system = System::new(&p, &rows).unwrap();
        let head = ridge(&p, &rows, 3.0).unwrap();
        assert_eq!((head.weight.clone(), head.bias.clone()), system.solve(3.0 / system.unit));
        let head = least_squares(&p, &rows).unwrap();
        let y = head.predict(&p.x);
        for j in 0..width {
            let slope: f64 = rows.iter().map(|&i| p.weight[i] * (p.y[2 * i] - y[2 * i]) * p.row(i)[j]).sum();
            assert_relative_eq!(slope, 0.0, epsilon = 1e-10);
        }
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(ridge(&p, &rows, alpha).unwrap_err().to_string().contains("not above 0"));
        }
    }

    #[test]
    fn least_squares_refuses_columns_that_depend_on_others() {
        let refused = |p: &Problem, rows: &[usize], why: &str| {
            let e = least_squares(p, rows).unwrap_err().to_string();
            assert!(e.contains(why) && e.ends_with("choose the solver ridge"), "{e}");
        };
        let rows: Vec<usize> = (0..40).collect();
        let mut p = problem(40, 9, 1.0);
        refused(&p, &rows[..9], "9 columns for 9 pictures");
        // The last column is a sum of two others, rounded to float32, at another scale.
        (0..40).for_each(|i| p.x[i * 9 + 8] = f64::from((1e6 * (p.x[i * 9] + p.x[i * 9 + 3])) as f32));
        refused(&p, &rows, "1 of 9 columns depend on the others over 40 pictures");
        // Two that do not vary depend on the constant.
        (0..40).for_each(|i| p.x[i * 9 + 1..i * 9 + 3].fill(7.0));
        refused(&p, &rows, "3 of 9 columns");
        // Almost parallel, and still apart.
        let mut p = problem(40, 9, 1.0);
        (0..40).for_each(|i| p.x[i * 9 + 8] = p.x[i * 9] + 1e-3 * p.x[i * 9 + 3] * p.x[i * 9 + 4]);
        least_squares(&p, &rows).unwrap();
    }

    #[test]
    fn inner_folds_choose_the_penalty() {
        let (n, width) = (60, 12);
        let rows: Vec<usize> = (0..n).collect();
        let groups: Vec<Option<String>> = rows.iter().map(|i| Some((i / 3).to_string())).collect();
        let clear = fit(&problem(n, width, 0.0), &rows, &groups, 1).unwrap();
        assert_eq!(clear.lambda, [LAMBDAS[0]; 2]);
        let p = problem(n, width, 0.0);
        for i in rows.iter().copied() {
            for t in 0..2 {
                let y = clear.bias[t] + dot(&clear.weight[t * width..(t + 1) * width], p.row(i));
                assert_relative_eq!(y, p.y[2 * i + t], epsilon = 1e-3);
            }
        }
        let noisy = fit(&problem(n, width, 20.0), &rows, &groups, 1).unwrap();
        assert!(noisy.lambda.iter().all(|l| *l > 0.05), "{:?}", noisy.lambda);
        assert_eq!(noisy, fit(&problem(n, width, 20.0), &rows, &groups, 1).unwrap());
        // One group cannot be held out from itself.
        assert!(fit(&p, &rows, &vec![Some("one".to_string()); n], 1).is_err());
        let none = Problem { weight: vec![0.0; n], ..p };
        assert!(fit(&none, &rows, &groups, 1).unwrap_err().to_string().contains("weight"));
    }
}
