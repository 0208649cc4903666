/*! What the machine can do at most, measured: multiply-adds that touch no memory, and streams through memory with next to
no arithmetic. A launch's time is judged against these (the roofline). */

use super::simd::{self, V16, Vectorized};
use super::{LANES, Out};
use crate::launch::{Level, Simd};
use crate::shape::DType;
use std::hint::black_box;
use std::time::Instant;

/// Floating-point operations in one turn of [`multiply_add`].
pub const FLOPS_PER_TURN: f64 = 2.0 * 12.0 * LANES as f64;

/// `turns` times twelve vectors of multiply-adds on registers.
pub fn multiply_add(simd: Simd, turns: usize) {
    // As many chains side by side as hide the latency of one and fit the registers of the level.
    match simd.level() {
        Level::Avx512 => simd::run(simd, Turns::<12>(turns)),
        Level::Avx2 => simd::run(simd, Turns::<6>(2 * turns)),
        Level::Portable => simd::run(simd, Turns::<3>(4 * turns)),
    }
}

struct Turns<const CHAINS: usize>(usize);

impl<const CHAINS: usize> Vectorized for Turns<CHAINS> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let (a, b) = (V::splat(black_box(0.999)), V::splat(black_box(1e-3)));
        let mut x = [V::splat(black_box(1.0)); CHAINS];
        for _ in 0..self.0 {
            for x in &mut x {
                *x = x.fma(a, b);
            }
        }
        black_box(x.map(|x| x.sum()));
    }
}

/// Reads everything once; the parts of a pool's threads are consecutive.
pub fn read(simd: Simd, x: &[f32]) {
    rayon::broadcast(|c| simd::run(simd, Read(part(x, c.index(), c.num_threads()))));
}

struct Read<'a>(&'a [f32]);

impl Vectorized for Read<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let mut sums = [V::splat(0.0); 4];
        for x in self.0.chunks_exact(4 * LANES) {
            for (i, s) in sums.iter_mut().enumerate() {
                // SAFETY: 4 * LANES elements.
                *s = s.add(unsafe { V::load(x.as_ptr().add(i * LANES)) });
            }
        }
        black_box(sums.map(|s| s.sum()));
    }
}

/// a = b + 3c past the caches, the parts of a pool's threads consecutive.
pub fn triad(simd: Simd, a: &mut [f32], b: &[f32], c: &[f32]) {
    assert!(a.len() == b.len() && b.len() == c.len() && (a.as_ptr() as usize).is_multiple_of(64));
    let (n, a) = (a.len(), Out::new(a));
    rayon::broadcast(|t| {
        let [b, c] = [b, c].map(|x| part(x, t.index(), t.num_threads()));
        // SAFETY: the parts are disjoint.
        let a = unsafe { a.slice(start(n, t.index(), t.num_threads()), b.len()) };
        simd::run(simd, Triad(a, b, c));
    });
}

struct Triad<'a>(&'a mut [f32], &'a [f32], &'a [f32]);

impl Vectorized for Triad<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let three = V::splat(3.0);
        for ((a, b), c) in
            self.0.chunks_exact_mut(LANES).zip(self.1.chunks_exact(LANES)).zip(self.2.chunks_exact(LANES))
        {
            // SAFETY: LANES elements each; parts begin at multiples of 64 bytes.
            unsafe { V::load(c.as_ptr()).fma(three, V::load(b.as_ptr())).stream(a.as_mut_ptr()) }
        }
        simd::stream_end();
    }
}

/// Where the part of thread `i` of `n` begins: at a cache line.
fn start(len: usize, i: usize, n: usize) -> usize {
    len / LANES * i / n * LANES
}

fn part(x: &[f32], i: usize, n: usize) -> &[f32] {
    &x[start(x.len(), i, n)..start(x.len(), i + 1, n)]
}

/// The best rates of a few rounds, in wall time: what other programs leave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ceilings {
    /// Threads, where the device is told their number.
    pub threads: Option<usize>,
    /// GFLOP/s of one of them alone.
    pub gflops_one: Option<f64>,
    /// GFLOP/s of float32 multiply-adds.
    pub gflops: f64,
    /// GFLOP/s of products of fp16 and of bf16 matrices with float32 sums, where there are tensor cores.
    pub f16: Option<f64>,
    pub bf16: Option<f64>,
    /// GB/s of reading.
    pub read: f64,
    /// GB/s of a = b + 3c: two thirds read, one third written.
    pub triad: f64,
}

impl Ceilings {
    /// GB/s: the better of the two streams.
    pub fn bandwidth(&self) -> f64 {
        self.read.max(self.triad)
    }

    /// GFLOP/s of arithmetic on operands that are stored so: products on tensor cores where they have 16 bits
    /// ([`Ceilings::f16`]), multiply-adds elsewhere.
    pub fn arithmetic(&self, storage: DType) -> f64 {
        let products = match storage {
            DType::F16 => self.f16,
            DType::BF16 => self.bf16,
            _ => None,
        };
        products.unwrap_or(self.gflops)
    }

    /// The least seconds in which so much arithmetic, on operands that are stored so, and traffic can be done.
    pub fn seconds(&self, storage: DType, flops: f64, bytes: f64) -> f64 {
        (flops / (1e9 * self.arithmetic(storage))).max(bytes / (1e9 * self.bandwidth()))
    }

    /// Which of the two it is: `compute` or `memory`.
    pub fn bound(&self, storage: DType, flops: f64, bytes: f64) -> &'static str {
        if flops / self.arithmetic(storage) >= bytes / self.bandwidth() { "compute" } else { "memory" }
    }

    /// The better of two measurements.
    pub fn max(self, o: Self) -> Self {
        let better = |a: Option<f64>, b| a.zip(b).map(|(a, b): (f64, f64)| a.max(b));
        Self {
            threads: self.threads,
            gflops_one: better(self.gflops_one, o.gflops_one),
            gflops: self.gflops.max(o.gflops),
            f16: better(self.f16, o.f16),
            bf16: better(self.bf16, o.bf16),
            read: self.read.max(o.read),
            triad: self.triad.max(o.triad),
        }
    }
}

/// Measures on the threads of the pool it runs in. `buffer`, 64-byte aligned, should be far larger than the caches.
pub fn measure(simd: Simd, buffer: &mut [f32]) -> Ceilings {
    // Short ones, and many: on a busy machine some find all cores free.
    const ROUNDS: usize = 40;
    const TURNS: usize = 500_000;
    // Memory that was never written is one page of zeros, which every cache holds.
    buffer.fill(1.0);
    let third = buffer.len() / 3 / LANES * LANES;
    let rate = |work: f64, f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        work / start.elapsed().as_secs_f64() / 1e9
    };
    let threads = rayon::current_num_threads();
    let mut best = Ceilings { threads: Some(threads), gflops_one: Some(0.0), ..Ceilings::default() };
    for _ in 0..ROUNDS {
        let flops = FLOPS_PER_TURN * TURNS as f64;
        let gflops_one = rate(flops, &mut || multiply_add(simd, TURNS));
        let all = || drop(rayon::broadcast(|_| multiply_add(simd, TURNS)));
        let gflops = rate(flops * threads as f64, &mut { all }).max(gflops_one);
        let (a, bc) = buffer.split_at_mut(third);
        let (b, c) = bc[..2 * third].split_at(third);
        let triad = rate(12.0 * third as f64, &mut || triad(simd, a, b, c));
        let read = rate(4.0 * buffer.len() as f64, &mut || read(simd, buffer));
        best = best.max(Ceilings { gflops_one: Some(gflops_one), gflops, read, triad, ..best });
    }
    best
}
