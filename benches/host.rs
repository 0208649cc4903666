/*! Speed of the CPU routines on layers of VGG16, ResNet-50, AlexNet and Xception against the machine's own ceilings, measured in the same run.

`cargo bench --bench host -- [filter] [--rounds N] [--threads 1|all] [--level portable|avx2|avx512]`

Other work on the machine makes single timings worthless: every row is the best and the median of rounds that visit all
cases in turn, and the ceiling (a loop of multiply-adds that touches no memory) is measured in every round, too. On Linux
rates are per second of CPU time and thread, which a busy machine disturbs least; elsewhere of wall time. */

mod common;

use common::cpu_seconds;
use deep_affect::host::{ceiling, conv, dense};
use deep_affect::launch::Simd;
use deep_affect::shape::{ConvShape, Window};
use half::bf16;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

/// A moment in wall time and in CPU time of all threads.
#[derive(Clone, Copy)]
struct Stamp(Instant, Option<f64>);

impl Stamp {
    fn now() -> Self {
        Stamp(Instant::now(), cpu_seconds())
    }
    /// (wall, CPU per thread)
    fn elapsed(self, threads: usize) -> (f64, f64) {
        let wall = self.0.elapsed().as_secs_f64();
        let cpu = cpu_seconds().zip(self.1).map_or(0.0, |(now, then)| now - then);
        (wall, if cpu > 0.0 { cpu / threads as f64 } else { wall })
    }
}

struct Case {
    name: String,
    flops: f64,
    bytes: f64,
    run: Box<dyn FnMut() + Send>,
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

/// Elements as the arena holds them: aligned to a cache line.
struct Aligned(Vec<Line>, usize);

#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Line([f32; 16]);

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.0)[..self.1]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..self.1]
    }
}

fn zeros(n: usize) -> Aligned {
    Aligned(vec![Line([0.0; 16]); n.div_ceil(16)], n)
}

/// Floats that are neither denormal nor alike.
fn values(n: usize) -> Aligned {
    let mut v = zeros(n);
    v.iter_mut().enumerate().for_each(|(i, v)| *v = value(i));
    v
}

fn value(i: usize) -> f32 {
    ((i as u32).wrapping_mul(2654435761) >> 8) as f32 / (1u32 << 24) as f32 - 0.5
}

/// (name, pixels each way, channels, filters, window, groups)
type Layer = (&'static str, usize, usize, usize, Window, usize);

fn layers() -> Vec<Layer> {
    let square = Window::square;
    let vgg = [
        ("conv1_1", 224, 3, 64),
        ("conv1_2", 224, 64, 64),
        ("conv2_1", 112, 64, 128),
        ("conv2_2", 112, 128, 128),
        ("conv3_1", 56, 128, 256),
        ("conv3_2", 56, 256, 256),
        ("conv4_1", 28, 256, 512),
        ("conv4_2", 28, 512, 512),
        ("conv5_1", 14, 512, 512),
    ];
    let resnet = [
        ("res 7x7/2 3", 224, 3, 64, square(7, 2, 3)),
        ("res 1x1 64", 56, 64, 256, square(1, 1, 0)),
        ("res 1x1 256", 56, 256, 64, square(1, 1, 0)),
        ("res 3x3/2 128", 56, 128, 128, square(3, 2, 1)),
        ("res 1x1/2 256", 56, 256, 512, square(1, 2, 0)),
        ("res 1x1 512", 28, 512, 128, square(1, 1, 0)),
        ("res 3x3/2 256", 28, 256, 256, square(3, 2, 1)),
        ("res 1x1 1024", 14, 1024, 256, square(1, 1, 0)),
        ("res 1x1 2048", 7, 2048, 512, square(1, 1, 0)),
        ("res 3x3 512", 7, 512, 512, square(3, 1, 1)),
    ];
    let depthwise = [
        ("dw 147 128", 147, 128, 1),
        ("dw 74 256", 74, 256, 1),
        ("dw 37 728", 37, 728, 1),
        ("dw 19 728", 19, 728, 1),
        ("dw/2 56 128", 56, 128, 2),
    ];
    let mut all = vec![("alex groups 96", 27, 96, 256, square(5, 1, 2), 2)];
    all.extend(vgg.map(|(name, hw, c, k)| (name, hw, c, k, square(3, 1, 1), 1)));
    all.extend(resnet.map(|(name, hw, c, k, window)| (name, hw, c, k, window, 1)));
    all.extend(depthwise.map(|(name, hw, c, stride)| (name, hw, c, c, square(3, stride, 1), c)));
    all
}

fn conv_cases(simd: Simd, batch: usize, all: &mut Vec<Case>) {
    for (name, hw, c, k, window, groups) in layers() {
        let s = ConvShape::new(&[batch, hw, hw, c], k, window, groups).unwrap();
        let [taps, strides] = [window.size[0] * window.size[1], window.stride[0] * window.stride[1]];
        let (nx, nw, ny) = (batch * hw * hw * c, k * taps * c / groups, batch * s.p * s.q * k);
        let mut add = |pass: &str, run: Box<dyn FnMut() + Send>| {
            // A strided 1x1 filter does not see every pixel.
            let seen = if pass == "dgrad" { nx } else { nx / strides.div_ceil(taps) };
            all.push(Case {
                name: format!("{name} b{batch} {pass}"),
                flops: s.flops(),
                bytes: 4.0 * (seen + nw + ny) as f64,
                run,
                wall: vec![],
                cpu: vec![],
            });
        };
        {
            let (x, w, b, mut y) = (values(nx), values(nw), values(k), zeros(ny));
            let mut scratch = zeros(conv::fprop_scratch(&s));
            add("fprop", Box::new(move || conv::fprop(simd, &s, &x, &w, Some(&b), true, &mut y, &mut scratch)));
        }
        if c > 3 {
            let (dy, w, mut dx) = (values(ny), values(nw), zeros(nx));
            let mut scratch = zeros(conv::dgrad_scratch(&s));
            add("dgrad", Box::new(move || conv::dgrad(simd, &s, &dy, &w, &mut dx, &mut scratch)));
        }
        {
            let (x, dy, mut dw) = (values(nx), values(ny), zeros(nw));
            let mut scratch = zeros(conv::wgrad_scratch(&s));
            add("wgrad", Box::new(move || conv::wgrad(simd, &s, &x, &dy, &mut dw, &mut scratch)));
        }
    }
}

fn dense_cases(simd: Simd, all: &mut Vec<Case>) {
    let (inputs, outputs) = (25088, 4096);
    let case =
        |layer: &str, [n, inputs, outputs]: [usize; 3], weight: f64, pass: &str, run: Box<dyn FnMut() + Send>| {
            let flops = 2.0 * (n * inputs * outputs) as f64;
            let bytes = weight * (inputs * outputs) as f64 + 4.0 * (n * (inputs + outputs)) as f64;
            Case { name: format!("{layer} b{n} {pass}"), flops, bytes, run, wall: vec![], cpu: vec![] }
        };
    // As the weights are stored.
    for (layer, inputs, outputs) in [("fc6", 25088, 4096), ("fc7", 4096, 4096), ("head", 3000, 1000)] {
        for n in [1, 8] {
            let (shape, x) = ([n, inputs, outputs], Arc::new(values(n * inputs)));
            let (w, mut y, a) = (values(inputs * outputs), zeros(n * outputs), x.clone());
            let halves: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
            let run = move || dense::fprop(simd, n, inputs, outputs, &a, &w, None, true, &mut y);
            all.push(case(layer, shape, 4.0, "fprop f32", Box::new(run)));
            let mut y = zeros(n * outputs);
            let run = move || dense::fprop(simd, n, inputs, outputs, &x, &halves, None, true, &mut y);
            all.push(case(layer, shape, 2.0, "fprop bf16", Box::new(run)));
        }
    }
    for n in [1, 4, 25] {
        let mut add = |pass: &str, run| all.push(case("fc6", [n, inputs, outputs], 4.0, pass, run));
        let (x, w, mut y) = (values(n * inputs), values(inputs * outputs), zeros(n * outputs));
        add("fprop", Box::new(move || dense::fprop(simd, n, inputs, outputs, &x, &w, None, true, &mut y)));
        let (dy, w, mut dx) = (values(n * outputs), values(inputs * outputs), zeros(n * inputs));
        add("dgrad", Box::new(move || dense::dgrad(simd, n, inputs, outputs, &dy, &w, &mut dx)));
        let (x, dy, mut dw) = (values(n * inputs), values(n * outputs), zeros(inputs * outputs));
        add("wgrad", Box::new(move || dense::wgrad(simd, n, inputs, outputs, &x, &dy, &mut dw)));
    }
}

/// Calls `f` on every thread of the pool at once, and returns the CPU seconds of each.
fn on_all(threads: usize, f: impl Fn() + Sync) -> f64 {
    let t = Stamp::now();
    rayon::broadcast(|_| f());
    t.elapsed(threads).1
}

/// GFLOP/s of multiply-adds on registers.
fn arithmetic(simd: Simd, threads: usize) -> f64 {
    const N: usize = 2_000_000;
    let seconds = on_all(threads, || ceiling::multiply_add(simd, N));
    threads as f64 * N as f64 * ceiling::FLOPS_PER_TURN / seconds / 1e9
}

/// GB/s of reading an array far larger than the caches, in consecutive parts.
fn bandwidth(simd: Simd, data: &[f32], threads: usize) -> f64 {
    let t = Stamp::now();
    ceiling::read(simd, data);
    (data.len() * 4) as f64 / t.elapsed(threads).1 / 1e9
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let rounds: usize = option("--rounds").map_or(5, |n| n.parse().expect("--rounds N"));
    let simd = option("--level").map_or(Simd::detect(), |name| {
        let called = |simd: &Simd| format!("{simd:?}").to_lowercase() == *name;
        Simd::available().into_iter().find(called).expect("--level: one that this machine has")
    });
    let filter = args.first().filter(|a| !a.starts_with("--")).cloned().unwrap_or_default();
    let all_threads = rayon::current_num_threads();
    let mut counts = match option("--threads").map(String::as_str) {
        Some("1") => vec![1],
        Some("all") => vec![all_threads],
        _ => vec![1, all_threads],
    };
    counts.dedup();
    let data = values(64 << 20);
    for threads in counts {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        let mut cases = Vec::new();
        for batch in [1, 4] {
            conv_cases(simd, batch, &mut cases);
        }
        dense_cases(simd, &mut cases);
        cases.retain(|c| filter.split(',').any(|f| f.split('+').all(|f| c.name.contains(f))));
        let (mut peak, mut read) = (Vec::new(), Vec::new());
        pool.install(|| {
            for round in 0..=rounds {
                peak.push(arithmetic(simd, threads));
                read.push(bandwidth(simd, &data, threads));
                for c in &mut cases {
                    let t = Stamp::now();
                    (c.run)();
                    let (wall, cpu) = t.elapsed(threads);
                    // The first round warms up.
                    if round > 0 {
                        c.wall.push(wall);
                        c.cpu.push(cpu);
                    }
                }
            }
        });
        let (top, read_top) = (peak.iter().copied().fold(0.0, f64::max), read.iter().copied().fold(0.0, f64::max));
        println!("\n{simd:?}, {threads} thread(s), {rounds} rounds; ceilings (best, median):");
        println!(
            "multiply-add {top:.0}, {:.0} GFLOP/s; reading {read_top:.1}, {:.1} GB/s",
            median(&mut peak),
            median(&mut read)
        );
        println!(
            "{:<26} {:>9} {:>9} {:>7} {:>9} {:>9} {:>8} {:>6} {:>7}",
            "case", "wall ms", "median", "spread", "cpu ms", "median", "GFLOP/s", "%peak", "GB/s"
        );
        for c in &mut cases {
            let (wall, cpu) = (median(&mut c.wall), median(&mut c.cpu));
            let (best, worst) = (c.wall[0], c.wall[c.wall.len() - 1]);
            let rate = c.flops / c.cpu[0] / 1e9;
            println!(
                "{:<26} {:>9.3} {:>9.3} {:>6.2}x {:>9.3} {:>9.3} {:>8.1} {:>5.0}% {:>7.1}",
                c.name,
                best * 1e3,
                wall * 1e3,
                worst / best,
                c.cpu[0] * 1e3,
                cpu * 1e3,
                rate,
                100.0 * rate / top,
                c.bytes / c.cpu[0] / 1e9
            );
        }
    }
}
