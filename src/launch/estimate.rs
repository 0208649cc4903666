/*! How long a launch takes on a GPU, estimated: for the choice of tiles, and for who wants to know it without one. A model of
Hopper cards whose constants name their sources; what it says is no measurement. */

use super::Cost;
use super::choices::Product;
use super::gpu::Kernel;

/// What an estimate must know about a GPU. By default those of an H200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub multiprocessors: usize,
    /// Bytes of shared memory that one block may have.
    pub shared: usize,
    /// Gigabytes a second from and to memory by the data sheet: 4800 of an H200, 3350 of an H100 SXM (NVIDIA's data sheets).
    pub bandwidth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { multiprocessors: 132, shared: 227 << 10, bandwidth: 4800 }
    }
}

/// What a block that computes a tile costs one multiprocessor, by the source of its kernel.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    /// Rows and columns of the tile.
    pub tile: [usize; 2],
    /// Clocks to multiply one of the depth, when operands are there.
    pub products: f64,
    /// Clocks to move one of the depth into shared memory and out of it.
    pub shared: f64,
    /// Bytes of operands for one of the depth.
    pub bytes: f64,
    /// Bytes of results.
    pub results: f64,
    /// Blocks that a multiprocessor has room for.
    pub resident: usize,
    /// Bytes that the last of several blocks fetches when the others are done; 0 where none waits for that.
    pub last: f64,
}

/// What a launch's time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bottleneck {
    /// Products on tensor cores.
    Tensor,
    /// Multiply-adds.
    Fma,
    /// Shared memory.
    Shared,
    /// The second-level cache.
    Cache,
    Memory,
    /// Beginning and ending.
    Launch,
}

impl Bottleneck {
    pub const ALL: [Self; 6] = [Self::Tensor, Self::Fma, Self::Shared, Self::Cache, Self::Memory, Self::Launch];

    pub fn name(self) -> &'static str {
        match self {
            Bottleneck::Tensor => "tensor cores",
            Bottleneck::Fma => "FMA",
            Bottleneck::Shared => "shared memory",
            Bottleneck::Cache => "L2 cache",
            Bottleneck::Memory => "memory",
            Bottleneck::Launch => "launch",
        }
    }
}

/// An estimated time, and what it is spent on.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    pub seconds: f64,
    pub bound: Bottleneck,
}

/// Clocks a second of a multiprocessor under load; 1.98e9 at most (H100, H200).
const CLOCK: f64 = 1.7e9;

/// Bytes per clock that the second-level cache gives all multiprocessors together (H800: 3942 to 4472, arXiv 2402.13499), and
/// the most that one of them takes.
const CACHE: [f64; 2] = [4200.0, 64.0];

/// Part of the data sheet's bandwidth that a copy reaches: 3.0 of an H100's 3.35 TB/s.
const REACHED: f64 = 0.9;

/// Multiply-adds of float32 per clock and multiprocessor.
const FMAS: f64 = 128.0;

/// Clocks until a block multiplies for the first time: two trips to memory.
const BEGIN: f64 = 1500.0;

/// Seconds from the end of a launch's work to the beginning of the next one's in a recorded graph, where each waits for the
/// one before: 0.6 us between launches that do nothing (RTX 5070 Ti, github.com/ahrefs/ocannl/issues/488), and as much again
/// until the last block has ended and until the first one's operands arrive.
const LAUNCH: f64 = 2e-6;

/// The largest of some times, and what it is the time of.
fn longest<const N: usize>(times: [(Bottleneck, f64); N]) -> (Bottleneck, f64) {
    times.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("not empty")
}

impl Limits {
    /// Bytes per clock that go to memory for each of `busy` multiprocessors.
    fn memory(&self, busy: usize) -> f64 {
        CACHE[1].min(REACHED * 1e9 * self.bandwidth as f64 / CLOCK / busy.max(1) as f64)
    }

    /// Clocks in which all multiprocessors move bytes from or to memory.
    pub fn moved(&self, bytes: f64) -> f64 {
        bytes / (self.multiprocessors as f64 * self.memory(self.multiprocessors))
    }

    /// Clocks of a block for each of the depth, where so many blocks share the cache, and what they go to.
    fn step(&self, blocks: usize, kernel: &Kernel, price: &Price) -> (Bottleneck, f64) {
        let cache = CACHE[1].min(CACHE[0] / blocks.min(self.multiprocessors) as f64);
        let products = if kernel.on_tensor_cores() { Bottleneck::Tensor } else { Bottleneck::Fma };
        longest([
            (products, price.products),
            (Bottleneck::Shared, price.shared),
            (Bottleneck::Cache, price.bytes / cache),
        ])
    }

    /// Clocks of a product of matrices, and what takes longest within the loop: whole waves of blocks, each bound by
    /// arithmetic, shared memory or cache; beginning and end of a block hide behind another one's loop where two are resident
    /// and the loop is long enough.
    fn product(&self, product: &Product, price: &Price) -> (Bottleneck, f64) {
        let ([m, n, depth], [rows, columns]) = (product.extents, price.tile);
        let blocks = (product.copies * m.div_ceil(rows) * n.div_ceil(columns)).max(1);
        let turns = blocks.div_ceil(self.multiprocessors) as f64;
        let (bound, step) = self.step(blocks, product.kernel, price);
        let outer = BEGIN + price.results / self.memory(self.multiprocessors);
        let (inner, resident) = (depth as f64 * step, price.resident as f64);
        // A trip for the count and one for what the others wrote.
        let last = if price.last > 0.0 { BEGIN + price.last / CACHE[1] } else { 0.0 };
        let all =
            if price.resident > 1 { turns * inner.max(outer / resident) + outer } else { turns * (inner + outer) };
        (bound, all + last)
    }

    /// Clocks of a multiprocessor for each of the depth of a product of m rows and n columns, of which there are so many that all
    /// multiprocessors are busy and no tile is the last.
    pub fn rate(&self, [m, n]: [usize; 2], kernel: &Kernel, price: &Price) -> f64 {
        let (_, step) = self.step(self.multiprocessors, kernel, price);
        m as f64 / price.tile[0] as f64 * n.div_ceil(price.tile[1]) as f64 * step
    }

    /// Estimated clocks of a launch that computes a product. What it is worth on another card is measured there (`deep-affect
    /// kernels tune`).
    pub fn clocks(&self, product: &Product, price: &Price) -> f64 {
        self.product(product, price).1
    }

    /// The estimate of a launch of `blocks` that has this work and moves these bytes, and of the product that it computes.
    pub fn estimate(&self, blocks: usize, cost: Cost, product: Option<(&Product, &Price)>) -> Estimate {
        let busy = blocks.clamp(1, self.multiprocessors);
        let work = match product {
            Some((product, price)) => self.product(product, price),
            None => (Bottleneck::Fma, cost.flops / 2.0 / FMAS / busy as f64),
        };
        let memory = (Bottleneck::Memory, (cost.read + cost.write) / busy as f64 / self.memory(busy));
        let (bound, clocks) = longest([work, memory]);
        let seconds = clocks / CLOCK;
        Estimate { seconds: seconds + LAUNCH, bound: if seconds < LAUNCH { Bottleneck::Launch } else { bound } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static KERNEL: Kernel = Kernel::new("none.cu", "product", 3, "");
    static TENSOR: Kernel = Kernel::new("mma/none.cu", "product_mma", 3, "");
    const TILE: Price =
        Price { tile: [128, 128], products: 16.0, shared: 10.0, bytes: 128.0, results: 0.0, resident: 1, last: 0.0 };

    fn near(got: Estimate, seconds: f64, bound: Bottleneck) {
        assert!((got.seconds - seconds).abs() <= 1e-6 * seconds && got.bound == bound, "{got:?}, not {seconds}");
    }

    #[test]
    fn a_launch_takes_as_long_as_what_takes_longest() {
        let limits = Limits::default();
        let bytes = |n: f64| Cost { read: n / 2.0, write: n / 2.0, flops: 1e6 };
        // Nine tenths of 4800 GB/s, and what one multiprocessor alone can take.
        near(limits.estimate(1000, bytes(4.32e9), None), 1e-3 + LAUNCH, Bottleneck::Memory);
        near(limits.estimate(1, bytes(1.088e6), None), 1e-5 + LAUNCH, Bottleneck::Memory);
        near(limits.estimate(1, Cost::default(), None), LAUNCH, Bottleneck::Launch);
        near(
            limits.estimate(132, Cost { flops: 132.0 * 256.0 * 1.7e6, ..Cost::default() }, None),
            1e-3 + LAUNCH,
            Bottleneck::Fma,
        );
        let product = |m| Product { kernel: &KERNEL, given: vec![], extents: [m, 128, 100_000], copies: 1 };
        let wave = (1500.0 + 1.6e6) / 1.7e9;
        let of = |product, price| limits.estimate(1, Cost::default(), Some((&product, &price)));
        near(of(product(132 * 128), TILE), wave + LAUNCH, Bottleneck::Fma);
        // One block more is a whole turn more.
        near(of(product(132 * 128 + 1), TILE), 2.0 * wave + LAUNCH, Bottleneck::Fma);
        let tensor = Product { kernel: &TENSOR, ..product(128) };
        near(of(tensor, TILE), wave + LAUNCH, Bottleneck::Tensor);
        near(of(product(128), Price { shared: 16.1, ..TILE }), (1500.0 + 1.61e6) / 1.7e9 + LAUNCH, Bottleneck::Shared);
        // The last block goes back for what the others wrote.
        near(
            of(product(128), Price { last: 64e3, ..TILE }),
            (1500.0 + 1.6e6 + 2500.0) / 1.7e9 + LAUNCH,
            Bottleneck::Fma,
        );
        // 64 bytes a clock for one block, 4200 for all.
        near(of(product(128), Price { bytes: 2048.0, ..TILE }), (1500.0 + 3.2e6) / 1.7e9 + LAUNCH, Bottleneck::Cache);
        let all = (1500.0 + 1e5 * 1024.0 * 132.0 / 4200.0) / 1.7e9;
        near(of(product(132 * 128), Price { bytes: 1024.0, ..TILE }), all + LAUNCH, Bottleneck::Cache);
    }
}
