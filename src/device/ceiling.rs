//! What a device can do at most, measured with ops like any others.

use super::{Data, Device};
use crate::error::Result;
use crate::graph::Graph;
use crate::host::ceiling::Ceilings;
use crate::ops::ceiling::{Chain, RowSum, Triad};
use crate::plan::{Options, Plan};
use crate::shape::Type;

/// How much is done at a time.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Elements of the chains, and multiply-adds of each.
    pub chains: usize,
    pub turns: usize,
    /// Rows that are read, each of `row` numbers, a multiple of 4. The triad moves three times as much.
    pub rows: usize,
    pub row: usize,
    /// The best of so many counts.
    pub rounds: usize,
}

impl Load {
    /// Milliseconds of a large GPU: 137 GFLOP, and streams of 384 MiB, which no cache holds.
    pub const GPU: Self = Self { chains: 1 << 24, turns: 4096, rows: 6144, row: 16384, rounds: 12 };

    /// Bytes that [`measure`] allocates.
    pub fn bytes(&self) -> usize {
        4 * (2 * self.chains + 3 * self.rows * self.row)
    }

    /// The same with shorter streams, where there is little memory.
    pub fn within(self, bytes: Option<usize>) -> Self {
        let fits = |rows: &usize| Self { rows: *rows, ..self }.bytes() <= bytes.unwrap_or(usize::MAX);
        let rows = std::iter::successors(Some(self.rows), |rows| Some(rows / 2)).find(|rows| *rows < 64 || fits(rows));
        Self { rows: rows.expect("the sequence does not end"), ..self }
    }
}

/// Measures. Whatever the device had loaded is gone.
pub fn measure(device: &mut dyn Device, load: Load) -> Result<Ceilings> {
    let mut g = Graph::default();
    let x = g.state("x", Type::f32(&[load.chains]));
    let by = g.state("by", Type::f32(&[2]));
    let [b, c] = ["b", "c"].map(|name| g.state(name, Type::f32(&[load.rows, load.row])));
    let want = [g.push1(Chain { turns: load.turns }, &[x, by]), g.push1(RowSum, &[b]), g.push1(Triad, &[b, c])];
    // A plan each, so that their results share memory.
    let plans = want.iter().map(|y| Plan::new(&g, &[*y], Options::default())).collect::<Result<Vec<_>>>()?;
    device.load(&g, &plans)?;
    // From the zeros of a fresh allocation towards 1, and never a denormal.
    device.write(by, Data::F32(&[0.5, 0.5]))?;
    let mut best = Ceilings::default();
    // The first round warms up.
    for round in 0..=load.rounds {
        let mut rates = [0.0; 3];
        for (plan, rate) in rates.iter_mut().enumerate() {
            let probe = &mut |p: super::Probe| {
                let work = if plan == 0 { p.cost.flops } else { p.cost.read + p.cost.write };
                *rate = work / p.seconds / 1e9;
            };
            device.run(plan, Some(probe))?;
        }
        let [gflops, read, triad] = rates;
        if round > 0 {
            best = best.max(Ceilings { gflops, read, triad, ..best });
        }
    }
    Ok(best)
}
