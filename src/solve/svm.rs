/*! Support vector machines: regression with an epsilon-insensitive loss (Vapnik 1995) and classification, one against one
(Hsu & Lin 2002). The dual problems are solved by LIBSVM's algorithm (Chang & Lin 2011) in its Rust form; what it asks for,
products of the kernel, is computed here once for all settings and all pairs of classes, and kept in float32 as LIBSVM keeps
it: 4 n^2 bytes for n rows.

Values agree with scikit-learn's: `gamma` 'scale', rows taken class by class, and of classes with equally many votes the
first. */

use super::{dot, gram};
use crate::error::{Error, Result};
use libsvm_rs::qmatrix::QMatrix;
use libsvm_rs::solver::{Solver, SolverVariant};
use rayon::prelude::*;
use std::sync::Arc;

/// LIBSVM's: how far the conditions of the optimum may be missed.
pub const TOLERANCE: f64 = 1e-3;
/// Errors of a rating up to this cost nothing.
pub const EPSILON: f64 = 0.1;

/// What takes the place of the product of two rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// a b
    Linear,
    /// exp(-gamma |a - b|^2)
    Rbf { gamma: f64 },
}

impl Kernel {
    fn of(self, a: &[f64], b: &[f64]) -> f64 {
        match self {
            Kernel::Linear => dot(a, b),
            Kernel::Rbf { gamma } => (-gamma * a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>()).exp(),
        }
    }
}

/// scikit-learn's gamma 'scale' of rows [n, width]: 1 / (width * variance of all their numbers).
///
/// # Errors
/// Features that are all equal.
pub fn gamma_scale(x: &[f64], width: usize) -> Result<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    // Not a number is refused too.
    if !(variance > 0.0 && variance.is_finite()) {
        return Err(Error::job("all features are equal, or one is not a finite number").fix("check the table"));
    }
    Ok(1.0 / (width as f64 * variance))
}

/// Refuses a cost that is not one.
///
/// # Errors
/// Anything but finite numbers above 0.
pub fn check_cost(c: f64) -> Result<()> {
    if c > 0.0 && c.is_finite() {
        return Ok(());
    }
    Err(Error::usage(format!("C is {c}, and must be above 0")).fix("give a cost such as 1"))
}

/// Rows to be learned from, and the kernel of each with each.
pub struct Rows {
    /// [n, width]
    x: Vec<f64>,
    width: usize,
    kernel: Kernel,
    /// [n, n]
    products: Vec<f32>,
}

impl Rows {
    /// `x` is [n, width], finite, and has a column.
    pub fn new(x: Vec<f64>, width: usize, kernel: Kernel) -> Self {
        let n = x.len() / width;
        let squares: Vec<f64> = x.chunks_exact(width).map(|row| dot(row, row)).collect();
        let product = |i: usize, j: usize, xx: f64| match kernel {
            Kernel::Linear => xx as f32,
            Kernel::Rbf { gamma } => (-gamma * (squares[i] + squares[j] - 2.0 * xx)).exp() as f32,
        };
        let mut products = gram(&x, width, product);
        for i in 0..n {
            (0..i).for_each(|j| products[j * n + i] = products[i * n + j]);
        }
        Self { x, width, kernel, products }
    }

    fn len(&self) -> usize {
        self.x.len() / self.width
    }

    /// Coefficients of the variables' rows and the bias, of a dual problem whose variable i stands for row `at[i]` with the
    /// sign `sign[i]` and the linear term `p[i]`, between 0 and `c`.
    fn solve(&self, at: Vec<usize>, sign: &[i8], p: &[f64], c: f64, tolerance: f64) -> (Vec<f64>, f64) {
        // The solver reports its progress on stderr otherwise.
        libsvm_rs::set_quiet(true);
        let n = self.len();
        let q = Quadratic {
            products: &self.products,
            n,
            diagonal: at.iter().map(|&i| f64::from(self.products[i * n + i])).collect(),
            sign: sign.iter().map(|s| f32::from(*s)).collect(),
            row: vec![0.0; at.len()],
            at,
        };
        let mut alpha = vec![0.0; p.len()];
        let (variant, shrinking) = (SolverVariant::Standard, true);
        let done = Solver::solve(variant, p.len(), Box::new(q), p, sign, &mut alpha, c, c, tolerance, shrinking);
        alpha.iter_mut().zip(sign).for_each(|(a, s)| *a *= f64::from(*s));
        (alpha, -done.rho)
    }

    /// A machine for each C whose functions, one a target, give `y` [targets, n] within `epsilon` where that is worth its
    /// cost.
    ///
    /// # Errors
    /// A C that is not above 0, an epsilon below 0.
    pub fn regress(&self, y: &[Vec<f64>], c: &[f64], epsilon: f64, tolerance: f64) -> Result<Vec<Machine>> {
        c.iter().try_for_each(|c| check_cost(*c))?;
        if !(epsilon >= 0.0 && epsilon.is_finite()) {
            return Err(Error::usage(format!("epsilon is {epsilon}, and must not be below 0")).fix("give 0.1"));
        }
        let n = self.len();
        let one = |c: f64, y: &[f64]| {
            // Twice as many variables as rows: what pulls a prediction up, and what pulls it down.
            let sign = [vec![1; n], vec![-1; n]].concat();
            let p: Vec<f64> = y.iter().map(|y| epsilon - y).chain(y.iter().map(|y| epsilon + y)).collect();
            let (alpha, bias) = self.solve((0..n).chain(0..n).collect(), &sign, &p, c, tolerance);
            Function { coef: (0..n).map(|i| (i, alpha[i] + alpha[n + i])).collect(), bias }
        };
        let jobs: Vec<(f64, &Vec<f64>)> = c.iter().flat_map(|c| y.iter().map(move |y| (*c, y))).collect();
        let functions: Vec<Function> = jobs.into_par_iter().with_max_len(1).map(|(c, y)| one(c, y)).collect();
        let order: Vec<usize> = (0..n).collect();
        Ok(self.machines(&order, &functions, y.len()))
    }

    /// A machine for each C whose functions, one for each pair of `k` classes in the order (0,1) (0,2) … (1,2) …, are above 0
    /// for the first class of the pair. `class` is one a row.
    ///
    /// # Errors
    /// A C that is not above 0, fewer than two classes, a class without rows.
    pub fn classify(&self, class: &[usize], k: usize, c: &[f64], tolerance: f64) -> Result<Vec<Machine>> {
        c.iter().try_for_each(|c| check_cost(*c))?;
        let of = |k: usize| (0..class.len()).filter(move |&i| class[i] == k);
        let missing = (0..k).find(|&k| of(k).next().is_none());
        if let (true, _) | (_, Some(_)) = (k < 2, missing) {
            let what = missing.map_or(format!("{k} class(es)"), |m| format!("no row of class {m}"));
            return Err(Error::job(format!("{what} to tell apart")).fix("give rows of two classes or more"));
        }
        let pairs: Vec<(usize, usize)> = pairs(k).collect();
        let one = |c: f64, (a, b): (usize, usize)| {
            let at: Vec<usize> = of(a).chain(of(b)).collect();
            let sign: Vec<i8> = at.iter().map(|&i| if class[i] == a { 1 } else { -1 }).collect();
            let (alpha, bias) = self.solve(at.clone(), &sign, &vec![-1.0; at.len()], c, tolerance);
            Function { coef: at.into_iter().zip(alpha).collect(), bias }
        };
        let jobs: Vec<_> = c.iter().flat_map(|c| pairs.iter().map(move |pair| (*c, *pair))).collect();
        let functions: Vec<Function> = jobs.into_par_iter().with_max_len(1).map(|(c, pair)| one(c, pair)).collect();
        let order: Vec<usize> = (0..k).flat_map(of).collect();
        Ok(self.machines(&order, &functions, pairs.len()))
    }

    /// Machines of so many functions each, on the rows, in this order, that any of them depends on: kept once for all.
    fn machines(&self, order: &[usize], functions: &[Function], each: usize) -> Vec<Machine> {
        let mut place = vec![None; self.len()];
        functions.iter().flat_map(|f| &f.coef).filter(|c| c.1 != 0.0).for_each(|c| place[c.0] = Some(0));
        let support: Vec<usize> = order.iter().copied().filter(|&i| place[i].is_some()).collect();
        support.iter().enumerate().for_each(|(at, &i)| place[i] = Some(at));
        let rows = support.iter().flat_map(|&i| &self.x[i * self.width..(i + 1) * self.width]).copied().collect();
        let rows: Arc<Vec<f64>> = Arc::new(rows);
        let machine = |functions: &[Function]| {
            let mut coef = vec![0.0; functions.len() * support.len()];
            for (f, coef) in functions.iter().zip(coef.chunks_exact_mut(support.len().max(1))) {
                f.coef.iter().for_each(|&(i, c)| place[i].iter().for_each(|&at| coef[at] = c));
            }
            let bias = functions.iter().map(|f| f.bias).collect();
            Machine { kernel: self.kernel, width: self.width, support: rows.clone(), coef, bias }
        };
        functions.chunks_exact(each).map(machine).collect()
    }
}

/// Pairs of `k` classes, the first before the second.
pub fn pairs(k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k).flat_map(move |a| (a + 1..k).map(move |b| (a, b)))
}

/// A function of all rows: (row, coefficient), 0 for most.
struct Function {
    coef: Vec<(usize, f64)>,
    bias: f64,
}

/// The matrix of a dual problem, as the solver asks for it.
struct Quadratic<'a> {
    products: &'a [f32],
    n: usize,
    /// The row that each variable stands for, and its sign.
    at: Vec<usize>,
    sign: Vec<f32>,
    diagonal: Vec<f64>,
    row: Vec<f32>,
}

impl QMatrix for Quadratic<'_> {
    fn get_q(&mut self, i: usize, len: usize) -> &[f32] {
        let (products, sign) = (&self.products[self.at[i] * self.n..][..self.n], self.sign[i]);
        let signed = self.at.iter().zip(&self.sign).map(|(at, s)| sign * s * products[*at]);
        self.row[..len].iter_mut().zip(signed).for_each(|(q, x)| *q = x);
        &self.row[..len]
    }

    fn get_qd(&self) -> &[f64] {
        &self.diagonal
    }

    fn swap_index(&mut self, i: usize, j: usize) {
        self.at.swap(i, j);
        self.sign.swap(i, j);
        self.diagonal.swap(i, j);
    }
}

/// Functions `sum_i coef_i K(support_i, z) + bias` on shared support rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub kernel: Kernel,
    pub width: usize,
    /// [n, width]
    pub support: Arc<Vec<f64>>,
    /// [functions, n]
    pub coef: Vec<f64>,
    /// [functions]
    pub bias: Vec<f64>,
}

impl Machine {
    /// Support rows.
    pub fn len(&self) -> usize {
        self.support.len() / self.width
    }

    /// No support row: every function is its bias.
    pub fn is_empty(&self) -> bool {
        self.support.is_empty()
    }

    /// The same on the rows alone that its own functions depend on.
    pub fn compact(&self) -> Self {
        let (n, functions) = (self.len(), self.bias.len());
        let needed: Vec<usize> = (0..n).filter(|i| (0..functions).any(|f| self.coef[f * n + i] != 0.0)).collect();
        let row = |&i: &usize| &self.support[i * self.width..(i + 1) * self.width];
        Self {
            support: Arc::new(needed.iter().flat_map(row).copied().collect()),
            coef: (0..functions).flat_map(|f| needed.iter().map(move |i| self.coef[f * n + i])).collect(),
            ..self.clone()
        }
    }

    /// The functions' values [rows, functions] at rows `z` [rows, width].
    pub fn values(&self, z: &[f64]) -> Vec<f64> {
        let n = self.len();
        let one = |z: &[f64]| -> Vec<f64> {
            let k: Vec<f64> = self.support.chunks_exact(self.width).map(|x| self.kernel.of(z, x)).collect();
            let sum = |f: usize| self.coef[f * n..(f + 1) * n].iter().zip(&k).map(|(c, k)| c * k).sum::<f64>();
            (0..self.bias.len()).map(|f| sum(f) + self.bias[f]).collect()
        };
        z.par_chunks_exact(self.width).flat_map_iter(one).collect()
    }
}

/// Votes for each of `k` classes, of one row's values for all pairs of them.
pub fn votes(values: &[f64], k: usize) -> Vec<u32> {
    let mut votes = vec![0; k];
    pairs(k).zip(values).for_each(|((a, b), value)| votes[if *value > 0.0 { a } else { b }] += 1);
    votes
}

/// The class of most votes; of equal ones the first.
pub fn elected(votes: &[u32]) -> usize {
    (0..votes.len()).rev().max_by_key(|&k| votes[k]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    /// Two rows of either class, the classes one apart: the margin is in the middle, and only the inner rows carry it.
    #[test]
    fn a_line_is_parted_in_the_middle() {
        let rows = Rows::new(vec![3.0, 1.0, 2.0, 0.0], 1, Kernel::Linear);
        let machine = &rows.classify(&[1, 0, 1, 0], 2, &[100.0], 1e-9).unwrap()[0];
        // Class by class: rows 1 and 2 support.
        assert_eq!(**machine.support, [1.0, 2.0]);
        // f(z) = 1 at 1, -1 at 2.
        let values = machine.values(&[1.0, 2.0, 1.5, 0.0]);
        for (got, want) in values.iter().zip([1.0, -1.0, 0.0, 3.0]) {
            assert_relative_eq!(*got, want, epsilon = 1e-6);
        }
    }

    /// What a prediction may be off by for nothing, it is: 1 and 3 with epsilon 0.5 make a line from 1.5 to 2.5.
    #[test]
    fn a_tube_of_epsilon() {
        let rows = Rows::new(vec![0.0, 1.0], 1, Kernel::Linear);
        let machine = &rows.regress(&[vec![1.0, 3.0]], &[100.0], 0.5, 1e-9).unwrap()[0];
        for (got, want) in machine.values(&[0.0, 1.0, 2.0]).iter().zip([1.5, 2.5, 3.5]) {
            assert_relative_eq!(*got, want, epsilon = 1e-6);
        }
        // The rows of several are kept once; each can do with its own.
        let both = rows.regress(&[vec![1.0, 3.0]], &[100.0, 1e-3], 0.5, 1e-9).unwrap();
        assert!(Arc::ptr_eq(&both[0].support, &both[1].support));
        assert_eq!(both[0].compact(), machine.compact());
        assert_eq!(both[1].compact().values(&[7.0]), both[1].values(&[7.0]));
        // All within the tube: nothing carries it.
        let flat = &rows.regress(&[vec![1.0, 1.2]], &[100.0], 0.5, 1e-9).unwrap()[0];
        assert!(flat.is_empty());
        assert_relative_eq!(flat.values(&[7.0])[0], 1.1, epsilon = 1e-9);
    }

    #[test]
    fn the_first_of_equal_votes() {
        assert_eq!(votes(&[1.0, -1.0, 1.0], 3), [1, 1, 1]);
        assert_eq!(votes(&[-1.0, 0.0, -1.0], 3), [0, 1, 2]);
        assert_eq!([elected(&[1, 1, 1]), elected(&[0, 2, 2]), elected(&[0, 1, 2])], [0, 1, 2]);
    }

    #[test]
    fn whatever_cannot_be_solved_is_said() {
        let rows = Rows::new(vec![0.0, 1.0], 1, Kernel::Rbf { gamma: 1.0 });
        for c in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(rows.classify(&[0, 1], 2, &[1.0, c], 1e-3).unwrap_err().to_string().contains("must be above 0"));
            assert!(rows.regress(&[vec![1.0, 2.0]], &[c], 0.1, 1e-3).is_err());
        }
        assert!(rows.regress(&[vec![1.0, 2.0]], &[1.0], -0.1, 1e-3).is_err());
        assert!(rows.classify(&[0, 0], 2, &[1.0], 1e-3).unwrap_err().to_string().contains("no row of class 1"));
        assert!(rows.classify(&[0, 0], 1, &[1.0], 1e-3).is_err());
        assert!(gamma_scale(&[2.0; 6], 3).unwrap_err().to_string().contains("all features are equal"));
        assert!(gamma_scale(&[2.0, f64::NAN], 1).is_err());
        assert_relative_eq!(gamma_scale(&[1.0, 3.0, 1.0, 3.0], 2).unwrap(), 0.5);
    }
}
