/*! Solvers on tables of features against scikit-learn's: host arithmetic in float64, the same on every device.

Support vector machines are solved to 1e-10 on both sides and may differ by 1e-6: both keep products of the kernel in
float32, where a last bit of the double that is rounded may decide. Linear models may differ by 1e-9 of the largest
number: float64, and equations of a condition below a million. */

use super::{Checked, Context, Stop};
use crate::error::Result;
use crate::solve::linear::{self, Head, Problem};
use crate::solve::svm::{self, Kernel, Machine, Rows};

/// Of decisions and predictions of support vector machines, absolute.
const MACHINE: f64 = 1e-6;
/// Of linear models, relative.
const LINEAR: f64 = 1e-9;
/// The tolerance of LIBSVM that the expected values were computed at.
const SOLVED: f64 = 1e-10;
/// A penalty so small, beside squares of numbers about 1, that ridge regression answers with the shortest of all solutions.
const LIMIT: f64 = 1e-9;

impl Context<'_> {
    pub(super) fn svm(&self) -> Result<Vec<Checked>, Stop> {
        let (x, z, y) = (self.ranked("x", 2)?, self.ranked("z", 2)?, self.ranked("y", 1)?);
        let (n, width) = (x.dims[0], x.dims[1]);
        if y.dims[0] != n || z.dims[1] != width {
            return Err(self.wrong("x", "x [n,width], y [n] and z [m,width] do not fit together").into());
        }
        let rows = || -> Result<Rows, Stop> {
            let kernel = match self.text("kernel") {
                "rbf" => Kernel::Rbf { gamma: svm::gamma_scale(&x.data, width)? },
                "linear" => Kernel::Linear,
                other => return Err(Stop::Unsupported(format!("kernel {other}"))),
            };
            Ok(Rows::new(x.data.clone(), width, kernel))
        };
        let c = self.number("C", 1.0)?;
        match self.text("kind") {
            "svr" => {
                let epsilon = self.number("epsilon", svm::EPSILON)?;
                let machine = rows()?.regress(std::slice::from_ref(&y.data), &[c], epsilon, SOLVED)?.remove(0);
                self.regression(&machine, &z.data)
            }
            "svc" => self.classes(&rows()?, &y.data, &z.data, c),
            "ridge" | "linear" => {
                let all: Vec<usize> = (0..n).collect();
                let p = Problem { x: x.data.clone(), width, y: y.data.clone(), targets: 1, weight: vec![1.0; n] };
                let head = match self.text("kind") {
                    "ridge" => linear::ridge(&p, &all, self.number("alpha", 1.0)?)?,
                    // Where there are infinitely many answers the other side has the shortest. Ours are refused.
                    _ => linear::least_squares(&p, &all).or_else(|_| linear::ridge(&p, &all, LIMIT))?,
                };
                self.line(&head, &z.data)
            }
            other => Err(Stop::Unsupported(format!("kind {other}"))),
        }
    }

    fn regression(&self, machine: &Machine, z: &[f64]) -> Result<Vec<Checked>, Stop> {
        let mut checked = vec![Checked::new("f_exact", &machine.values(z), &self.get("f_exact")?.data, MACHINE)];
        checked.push(Checked::new("bias", &machine.bias, &self.get("bias")?.data, MACHINE));
        if let Some(w) = self.find("w") {
            let mut sum = vec![0.0; machine.width];
            for (row, c) in machine.support.chunks_exact(machine.width).zip(&machine.coef) {
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += c * x);
            }
            checked.push(Checked::new("w", &sum, &w.data, MACHINE));
        }
        Ok(checked)
    }

    fn classes(&self, rows: &Rows, y: &[f64], z: &[f64], c: f64) -> Result<Vec<Checked>, Stop> {
        let k = self.number("classes", 0.0)? as usize;
        if let Some(wrong) = y.iter().find(|y| !(**y >= 0.0 && **y < k as f64 && y.fract() == 0.0)) {
            return Err(self.wrong("y", format!("{wrong} is not one of {k} classes")).into());
        }
        let class: Vec<usize> = y.iter().map(|y| *y as usize).collect();
        let machine = rows.classify(&class, k, &[c], SOLVED)?.remove(0);
        let decision = machine.values(z);
        let votes: Vec<Vec<u32>> = decision.chunks_exact(machine.bias.len()).map(|v| svm::votes(v, k)).collect();
        let elected: Vec<f64> = votes.iter().map(|v| svm::elected(v) as f64).collect();
        let votes: Vec<f64> = votes.into_iter().flatten().map(f64::from).collect();
        Ok(vec![
            Checked::new("decision", &decision, &self.get("decision")?.data, MACHINE),
            Checked::new("votes", &votes, &self.get("votes")?.data, 0.0),
            Checked::new("predicted", &elected, &self.get("predicted")?.data, 0.0),
        ])
    }

    fn line(&self, head: &Head, z: &[f64]) -> Result<Vec<Checked>, Stop> {
        let f = head.predict(z);
        let check = |(tensor, got): (&str, &[f64])| {
            let want = &self.get(tensor)?.data;
            let largest = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
            Ok(Checked::new(tensor, got, want, LINEAR * largest))
        };
        [("w", &*head.weight), ("bias", &*head.bias), ("f", &*f)].into_iter().map(check).collect()
    }
}
