//! What a device can do at most, measured with ops like any others.

use super::{Data, Device};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::host::ceiling::Ceilings;
use crate::ops::ceiling::{Chain, RowSum, TileProduct, Triad};
use crate::plan::{Options, Plan};
use crate::rng::{Rng, Stream};
use crate::shape::{DType, Type};

/// How much is done at a time.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Elements of the chains, and multiply-adds of each.
    pub chains: usize,
    pub turns: usize,
    /// Sixteen rows each of a product, and how often it is added up.
    pub tiles: usize,
    pub products: usize,
    /// Rows that are read, each of `row` numbers, a multiple of 4. The triad moves three times as much.
    pub rows: usize,
    pub row: usize,
    /// The best of so many counts.
    pub rounds: usize,
}

impl Load {
    /// Milliseconds of a large GPU: 137 GFLOP, 1100 GFLOP of products, and streams of 384 MiB, which no cache holds.
    pub const GPU: Self =
        Self { chains: 1 << 24, turns: 4096, tiles: 1 << 14, products: 2048, rows: 6144, row: 16384, rounds: 12 };

    /// Bytes that [`measure`] allocates.
    pub fn bytes(&self) -> usize {
        4 * (2 * self.chains + 3 * self.rows * self.row + self.tiles * TileProduct::SIDE * TileProduct::SIDE)
    }

    /// The same with shorter streams, where there is little memory.
    pub fn within(self, bytes: Option<usize>) -> Self {
        let fits = |rows: &usize| Self { rows: *rows, ..self }.bytes() <= bytes.unwrap_or(usize::MAX);
        let rows = std::iter::successors(Some(self.rows), |rows| Some(rows / 2)).find(|rows| *rows < 64 || fits(rows));
        Self { rows: rows.expect("the sequence does not end"), ..self }
    }
}

/// Measures, products of each of `storages` among it. Whatever the device had loaded is gone.
pub fn measure(device: &mut dyn Device, load: Load, storages: &[DType]) -> Result<Ceilings> {
    let mut g = Graph::default();
    let x = g.state("x", Type::f32(&[load.chains]));
    let by = g.state("by", Type::f32(&[2]));
    let [b, c] = ["b", "c"].map(|name| g.state(name, Type::f32(&[load.rows, load.row])));
    let mut want = vec![g.push1(RowSum, &[b]), g.push1(Triad, &[b, c]), g.push1(Chain { turns: load.turns }, &[x, by])];
    let mut factors = vec![];
    for s in storages {
        let rows = [load.tiles * TileProduct::SIDE, TileProduct::COLUMNS];
        let own = rows.map(|n| g.state(&format!("{s:?} {n}"), Type::new(*s, &[n, TileProduct::SIDE])));
        want.push(g.push1(TileProduct { turns: load.products }, &own));
        factors.extend(own);
    }
    // A plan each, so that their results share memory.
    let plans = want.iter().map(|y| Plan::new(&g, &[*y], Options::default())).collect::<Result<Vec<_>>>()?;
    device.load(&g, &plans)?;
    // From the zeros of a fresh allocation towards 1, and never a denormal.
    device.write(by, Data::F32(&[0.5, 0.5]))?;
    // Not zeros, by which tensor cores draw less power and keep higher clocks than products of numbers let them.
    let mut rng = Rng::new(1, Stream::Test(0), 0);
    for v in factors {
        let numbers: Vec<f32> = (0..g.ty(v).numel()).map(|_| 2.0 * rng.uniform() - 1.0).collect();
        device.write(v, Data::F32(&numbers))?;
    }
    let products = |of: DType, rates: &[f64]| storages.iter().position(|s| *s == of).map(|i| rates[3 + i]);
    let mut best: Option<Ceilings> = None;
    // The first round warms up.
    for round in 0..=load.rounds {
        let mut rates = vec![0.0; want.len()];
        for (plan, rate) in rates.iter_mut().enumerate() {
            let probe = &mut |p: super::Probe| {
                let work = if plan < 2 { p.cost.read + p.cost.write } else { p.cost.flops };
                *rate = work / p.seconds / 1e9;
            };
            device.run(plan, Some(probe))?;
        }
        let [f16, bf16] = [DType::F16, DType::BF16].map(|s| products(s, &rates));
        let [read, triad, gflops] = [0, 1, 2].map(|i| rates[i]);
        let now = Ceilings { gflops, f16, bf16, read, triad, ..Ceilings::default() };
        if round > 0 {
            best = Some(best.map_or(now, |best| best.max(now)));
        }
    }
    best.ok_or_else(|| Error::job("no round was measured"))
}
