//! Operands of more elements than 32 bits count. The simulator's memory costs what is touched, and it runs only the blocks that
//! touch the first image, one behind element 2^31, and the last one, behind element 2^32. Each must be what the definition
//! makes of that image alone.

use super::{common::*, launched};
use deep_affect::device::Simulator;
use deep_affect::device::gpu::{Driver, Span, Step, Work};
use deep_affect::graph::Op;
use deep_affect::launch::gpu::{Call, Location};
use deep_affect::launch::{Arch, Choices, Code, Products};
use deep_affect::models::{Architecture, Config};
use deep_affect::ops::activation::{Act, Activate, ActivateGrad, Relu, ReluGrad};
use deep_affect::ops::augment::Augment;
use deep_affect::ops::conv::{Dgrad, Fprop, FusedBackward, Pooled, Transposed, Wgrad};
use deep_affect::ops::pool::{AvgPool, AvgPoolGrad, MaxPool, MaxPoolGrad, Over, Unpool};
use deep_affect::ops::{Bound, Case, Draw, activation, arith, cast, dropout, image, norm};
use deep_affect::plan::{Options, Plan};
use deep_affect::preprocess::Preprocess;
use deep_affect::shape::{ConvShape, DType, Type};
use deep_affect::sim;
use half::{bf16, f16};

/// A case of any number of images.
struct Huge {
    name: &'static str,
    products: Products,
    images: usize,
    of: fn(usize) -> Case,
}

const BF16: DType = DType::BF16;
const F32: DType = DType::F32;
const WINDOW: fn(usize, usize, usize) -> deep_affect::shape::Window = deep_affect::shape::Window::square;

/// Images of 8 x 8 pixels and 64 channels: 2^12 elements each.
const IMAGES: usize = (1 << 20) + 64;

fn images(dtype: DType, n: usize, side: usize, channels: usize) -> Type {
    Type::new(dtype, &[n, side, side, channels])
}

/// A convolution of 8 x 8 pixels by windows of 3 x 3, with a bias.
fn fprop(dtype: DType, n: usize, c: usize, k: usize, groups: usize) -> Case {
    let op = Fprop { filters: k, window: WINDOW(3, 1, 1), groups, bias: true, relu: true };
    let ins = [images(dtype, n, 8, c), Type::new(dtype, &[k, 3, 3, c / groups]), Type::f32(&[k])];
    Case::new("", op, &ins, &[], Bound::Dot(9 * c / groups + 1))
}

fn pooled(dtype: DType, n: usize) -> Case {
    let conv = fprop(dtype, n, 64, 64, 1);
    let fprop = Fprop { filters: 64, window: WINDOW(3, 1, 1), groups: 1, bias: true, relu: true };
    Case::new("", Pooled { conv: fprop, index: true, storage: dtype }, &conv.ins, &[], conv.bound)
}

/// The way back from images of `side` x `side` pixels, on through what is fused with it.
fn dgrad(dtype: DType, n: usize, side: usize, fused: FusedBackward, groups: usize) -> Case {
    let shape = ConvShape::new(&[n, side, side, 64], 64, WINDOW(3, 1, 1), groups).unwrap();
    let x = images(dtype, n, side, 64);
    let mut ins = vec![x, Type::new(dtype, &[64, 3, 3, 64 / groups])];
    ins.extend((fused != FusedBackward::Nothing).then_some(x));
    ins.extend((fused == FusedBackward::Pool).then_some(images(DType::U8, n, side, 16)));
    let case = Case::new("", Dgrad { shape, fused }, &ins, &[], Bound::Dot(9 * 64 / groups));
    if fused == FusedBackward::Pool { case.draw(3, Draw::Below(256)) } else { case }
}

fn plain(op: impl Op, ins: &[Type]) -> Case {
    Case::new("", op, ins, &[], Bound::Ulps(4))
}

const fn h(name: &'static str, images: usize, of: fn(usize) -> Case) -> Huge {
    Huge { name, products: Products::Float32, images, of }
}

const fn tf32(name: &'static str, of: fn(usize) -> Case) -> Huge {
    Huge { name, products: Products::Tf32x3, images: IMAGES, of }
}

/// What is right however many elements there are. All that is not here is refused.
const HUGE: &[Huge] = &[
    h("conv.fprop, bf16", IMAGES, |n| fprop(BF16, n, 64, 64, 1)),
    h("conv.fprop, bf16, gathered", IMAGES, |n| fprop(BF16, n, 65, 64, 1)),
    h("conv.fprop, tiles", IMAGES, |n| fprop(F32, n, 64, 64, 1)),
    h("conv.fprop, tiles, gathered", IMAGES, |n| fprop(F32, n, 65, 64, 1)),
    tf32("conv.fprop, tf32", |n| fprop(F32, n, 64, 64, 1)),
    h("conv.fprop, depthwise", IMAGES, |n| fprop(F32, n, 64, 64, 64)),
    h("conv.fprop, direct", IMAGES, |n| fprop(F32, n, 64, 64, 8)),
    h("conv.pooled, bf16", IMAGES, |n| pooled(BF16, n)),
    h("conv.pooled, tiles", IMAGES, |n| pooled(F32, n)),
    h("conv.dgrad, bf16", IMAGES, |n| dgrad(BF16, n, 8, FusedBackward::Relu, 1)),
    h("conv.dgrad, bf16, pooled", IMAGES, |n| dgrad(BF16, n, 4, FusedBackward::Pool, 1)),
    h("conv.dgrad, tiles", IMAGES, |n| dgrad(F32, n, 8, FusedBackward::Relu, 1)),
    h("conv.dgrad, tiles, pooled", IMAGES, |n| dgrad(F32, n, 4, FusedBackward::Pool, 1)),
    tf32("conv.dgrad, tf32", |n| dgrad(F32, n, 8, FusedBackward::Nothing, 1)),
    h("conv.dgrad, depthwise", IMAGES, |n| dgrad(F32, n, 8, FusedBackward::Relu, 64)),
    h("conv.dgrad, direct", IMAGES, |n| dgrad(F32, n, 8, FusedBackward::Relu, 8)),
    h("conv.transposed", IMAGES, |n| {
        let (window, groups) = (WINDOW(3, 1, 1), 1);
        let op = Transposed { channels: 64, window, output_pad: [0; 2], groups, bias: false, relu: true };
        Case::new("", op, &[images(F32, n, 8, 64), Type::f32(&[64, 3, 3, 64])], &[], Bound::Dot(9 * 64))
    }),
    h("maxpool", IMAGES, |n| plain(MaxPool { window: WINDOW(2, 2, 0) }, &[images(BF16, n, 8, 64)])),
    // A thread for every channel.
    h("maxpool, single", IMAGES, |n| plain(MaxPool { window: WINDOW(2, 2, 0) }, &[images(BF16, n, 8, 65)])),
    h("maxpool.grad", IMAGES, |n| {
        let ins = [images(BF16, n, 8, 64), images(BF16, n, 4, 64)];
        Case::new("", MaxPoolGrad { window: WINDOW(2, 2, 0) }, &ins, &[], Bound::Dot(1)).draw(0, Draw::Distinct)
    }),
    h("avgpool", IMAGES, |n| {
        let over = Over::Window { window: WINDOW(2, 2, 0), count_pad: false };
        plain(AvgPool { over }, &[images(F32, n, 8, 64)])
    }),
    h("avgpool.grad", IMAGES, |n| {
        let (over, x) = (Over::Window { window: WINDOW(2, 2, 0), count_pad: false }, images(F32, n, 8, 64));
        plain(AvgPoolGrad { over, x }, &[images(F32, n, 4, 64)])
    }),
    // More than 2^32 pixels.
    h("unpool", (1 << 26) + 64, |n| {
        let x = images(BF16, n, 4, 4);
        plain(Unpool, &[x, images(DType::U8, n, 4, 1), x]).draw(1, Draw::Below(256))
    }),
    h("relu", IMAGES, |n| plain(Relu, &[images(BF16, n, 8, 64)])),
    h("relu.grad", IMAGES, |n| plain(ReluGrad, &[images(BF16, n, 8, 64); 2])),
    h("silu", IMAGES, |n| plain(Activate { act: Act::Silu }, &[images(F32, n, 8, 64)])),
    h("silu.grad", IMAGES, |n| plain(ActivateGrad { act: Act::Silu }, &[images(F32, n, 8, 64); 2])),
    h("dropout", IMAGES, |n| plain(dropout::Apply { keep: 0.5 }, &[images(BF16, n, 8, 64); 2])),
    h("dropout.grad", IMAGES, |n| plain(dropout::Grad { keep: 0.5, storage: BF16 }, &[images(BF16, n, 8, 64); 2])),
    h("add", IMAGES, |n| plain(arith::Add, &[images(F32, n, 8, 64); 2])),
    h("mul", IMAGES, |n| plain(arith::Mul, &[images(F32, n, 8, 64); 2])),
    h("cast.copy", IMAGES, |n| plain(cast::Copy, &[images(F32, n, 8, 64), images(BF16, n, 8, 64)])),
    h("cast", IMAGES, |n| plain(cast::Cast { to: BF16 }, &[images(F32, n, 8, 64)])),
    // 3 x 2^10 elements, and more images.
    h("image.normalize", 3 * IMAGES / 2, |n| {
        plain(image::Normalize::from(&Preprocess::preset("caffe").unwrap()), &[images(DType::U8, n, 32, 3)])
            .draw(0, Draw::Below(256))
    }),
    h("image.inputs", 3 * IMAGES / 2, |n| {
        let each = vec![image::Normalize::from(&Preprocess::preset("torch").unwrap())];
        plain(image::Inputs { each, to: BF16 }, &[images(DType::U8, n, 32, 3)]).draw(0, Draw::Below(256))
    }),
    // A row of blocks for each picture, whose bytes are moved one by one.
    h("image.gather", 22_100, |n| {
        let ins = [images(DType::U8, n, 255, 3), Type::new(DType::U32, &[n])];
        plain(image::Gather, &ins).draw(0, Draw::Below(256)).draw(1, Draw::Below(1))
    }),
    h("image.augment", 22_000, |n| {
        let ins = [images(DType::U8, n, 256, 3), Type::new(DType::U32, &[n]), dropout::state_type()];
        let op = Augment { rotation: 20.0, shift: [0.1; 2], shear: 5.0, zoom: 0.2, flip: [true; 2] };
        plain(op, &ins).draw(0, Draw::Below(256)).draw(1, Draw::Below(9)).draw(2, Draw::Below(9))
    }),
];

/// Numbers as memory has them.
fn encode(dtype: DType, x: &[f64]) -> Vec<u8> {
    let one = |x: &f64| match dtype {
        DType::F32 => (*x as f32).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f64(*x).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f64(*x).to_le_bytes().to_vec(),
        DType::U8 => vec![*x as u8],
        DType::U32 => (*x as u32).to_le_bytes().to_vec(),
        DType::I32 => (*x as i32).to_le_bytes().to_vec(),
    };
    x.iter().flat_map(one).collect()
}

fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let one = |x: &[u8]| match (dtype, x) {
        (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]) as f64,
        (DType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
        (DType::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
        (DType::U8, &[a]) => a as f64,
        _ => unreachable!("no output is {dtype:?}"),
    };
    bytes.chunks(dtype.bytes()).map(one).collect()
}

/// A case in the memory of a simulator, as a plan would have it: values beside each other, then scratch memory.
struct Laid {
    ins: Vec<(usize, Type)>,
    outs: Vec<(usize, Type)>,
    calls: Vec<Call>,
    steps: Vec<Step>,
    bytes: usize,
}

impl Laid {
    fn new(case: &Case, products: Products) -> Self {
        let (g, ins, outs) = graph_of(case);
        let mut bytes = 0;
        let mut at = |v| {
            let at = bytes;
            bytes += g.ty(v).bytes().next_multiple_of(256);
            (at, g.ty(v))
        };
        let [ins, outs] = [ins, outs].map(|all| all.into_iter().map(&mut at).collect::<Vec<_>>());
        let calls = launched(case, products);
        let places: Vec<usize> = ins.iter().chain(&outs).map(|v| v.0).collect();
        let mut end = bytes;
        let mut step = |call: &Call| {
            let mut window = |o: &deep_affect::launch::gpu::CallOperand| {
                let at = match o.place {
                    Location::Value(v) => places[v.0 as usize],
                    Location::Scratch(at) => bytes + at,
                    Location::Counts(_) => unreachable!("nothing large is summed by its last block"),
                };
                end = end.max(at + o.bytes);
                Span { at, bytes: o.bytes, access: o.access, value: matches!(o.place, Location::Value(_)) }
            };
            let windows = call.operands.iter().map(|i| i.iter().map(&mut window).collect()).collect();
            Step { label: case.op.name().into(), work: Work::Kernel(call.clone()), windows, awaited: 0 }
        };
        let steps = calls.iter().map(&mut step).collect();
        Self { ins, outs, calls, steps, bytes: end }
    }

    fn load(&self, only: Option<Vec<u64>>) -> Simulator {
        let only = only.map(|blocks| &*blocks.leak());
        let options = sim::RunOptions { checks: true, only, ..sim::RunOptions::default() };
        let mut sim = Simulator::new(Simulator::TARGET, options).unwrap();
        sim.load(self.bytes, vec![self.steps.clone()]).unwrap();
        sim
    }
}

/// Whether a value has something for each of so many images.
fn by_image(t: &Type, images: usize) -> bool {
    t.dims()[0] == images
}

fn wrong(huge: &Huge) -> Option<String> {
    let (all, one, n) = ((huge.of)(huge.images), (huge.of)(1), huge.images);
    let laid = Laid::new(&all, huge.products);
    let largest = laid.ins.iter().chain(&laid.outs).map(|v| v.1.numel()).max().unwrap();
    assert!(largest > 1 << 32, "{}: {largest} elements", huge.name);
    let looked_at = [0, (1 << 31) / (largest / n) + 1, n - 1];
    let (numel, row) = (laid.outs[0].1.numel(), laid.outs[0].1.row());
    let [call] = &laid.calls[..] else { panic!("{}: one launch", huge.name) };
    let [across, down] = call.grid.map(|n| n as usize);
    // A row of blocks for each image, or equal parts of all.
    let blocks = |i: usize| match down == n {
        true => i * across..=i * across + across - 1,
        false => {
            assert!(numel % (across * down) == 0, "{}: {across} x {down} blocks of {numel} elements", huge.name);
            let each = numel / (across * down);
            i * row / each..=(i * row + row - 1) / each
        }
    };
    let mut only: Vec<u64> = looked_at.into_iter().flat_map(blocks).map(|block| block as u64).collect();
    only.dedup();
    let mut sim = laid.load(Some(only));
    let shared = draw(&one, 1, Numbers::Reals);
    // As a device has it.
    let stored =
        |t: &Type, x: Vec<f64>| x.into_iter().map(|x| if t.dtype.is_half() { t.dtype.round(x) } else { x }).collect();
    let drawn = looked_at.map(|i| -> Vec<Vec<f64>> {
        let own = draw(&one, 2 + i as u64, Numbers::Reals).into_iter().zip(&shared);
        own.zip(&laid.ins)
            .map(|((own, shared), (_, t))| stored(t, if by_image(t, n) { own } else { shared.clone() }))
            .collect()
    });
    for (&i, x) in looked_at.iter().zip(&drawn) {
        for ((at, t), x) in laid.ins.iter().zip(x) {
            // A table's row has the image's own number.
            let row = all.op.name() == "image.gather" && t.dtype == DType::U32;
            let x = if row { &vec![i as f64] } else { x };
            let image = if by_image(t, n) { i * t.row() } else { 0 };
            sim.write(at + image * t.dtype.bytes(), &encode(t.dtype, x)).unwrap();
        }
        for (at, t) in &laid.outs {
            sim.write(at + i * t.row() * t.dtype.bytes(), &vec![0xff; t.row() * t.dtype.bytes()]).unwrap();
        }
    }
    if let Err(e) = sim.run(0) {
        return Some(e.to_string());
    }
    looked_at.iter().zip(&drawn).find_map(|(i, x)| {
        let want = run(&one, reference(), Options::default(), x).unwrap();
        let got = laid.outs.iter().map(|(at, t)| {
            let mut bytes = vec![0; t.row() * t.dtype.bytes()];
            sim.read(at + i * t.row() * t.dtype.bytes(), &mut bytes).unwrap();
            decode(t.dtype, &bytes)
        });
        let bound = bounds_by(huge.products, &one, x, &want);
        compare(&got.collect::<Vec<_>>(), &want, &bound).map(|e| format!("image {i}: {e}"))
    })
}

/// 1 x 1 filters far apart: few pixels are seen of images as large as memory, by one tile those of many images. The same sums
/// as those of the pixels beside each other.
fn wrong_far_apart(dtype: DType, products: Products, groups: usize, weights: bool) -> Option<String> {
    const SIDE: usize = 1024;
    const APART: usize = SIDE / 2;
    let case = |side: usize, stride: usize| {
        let (x, y, w) =
            (images(dtype, 33, side, 64), images(dtype, 33, 2, 64), Type::new(dtype, &[64, 1, 1, 64 / groups]));
        let shape = ConvShape::new(x.dims(), 64, WINDOW(1, stride, 0), groups).unwrap();
        let fprop = Fprop { filters: 64, window: shape.window, groups, bias: false, relu: false };
        match weights {
            true => Case::new("", Wgrad { shape, bias: true }, &[x, y], &[], Bound::Exact),
            false => Case::new("", fprop, &[x, w], &[], Bound::Exact),
        }
    };
    let (near, far) = (case(2, 1), Laid::new(&case(SIDE, APART), products));
    let x = draw(&near, 5, Numbers::Integers);
    let mut sim = far.load(None);
    for (pixel, x) in x[0].chunks(64).enumerate() {
        let (image, row, column) = (pixel / 4, pixel / 2 % 2 * APART, pixel % 2 * APART);
        sim.write(((image * SIDE + row) * SIDE + column) * 64 * dtype.bytes(), &encode(dtype, x)).unwrap();
    }
    sim.write(far.ins[1].0, &encode(dtype, &x[1])).unwrap();
    if let Err(e) = sim.run(0) {
        return Some(e.to_string());
    }
    let want = run(&near, reference(), Options::default(), &x).unwrap();
    let got = far.outs.iter().map(|(at, t)| {
        let mut bytes = vec![0; t.bytes()];
        sim.read(*at, &mut bytes).unwrap();
        decode(t.dtype, &bytes)
    });
    let none: Vec<_> = want.iter().map(|y| vec![0.0; y.len()]).collect();
    compare(&got.collect::<Vec<_>>(), &want, &none)
}

/// The sums of a gradient of one image of 2^24 pixels: 256 threads ask whether an image of their number is there.
fn wrong_image() -> Option<String> {
    let (x, c) = (images(F32, 1, 4096, 1), Type::f32(&[1]));
    let op = norm::Grad { eps: 1e-3, through: norm::Through::Batch };
    let mut sim = Laid::new(&plain(op, &[x, c, c, c, x, c]), Products::Float32).load(None);
    sim.step(0, 1).err().map(|e| e.to_string())
}

/// What is checked, and how.
type Check = (String, Box<dyn Fn() -> Option<String> + Sync>);

fn checks() -> Vec<Check> {
    let mut all: Vec<Check> = vec![];
    for huge in HUGE {
        all.push((format!("huge {}", huge.name), Box::new(move || wrong(huge))));
    }
    all.push(("huge batchnorm.grad, one image".into(), Box::new(wrong_image)));
    for (name, dtype, products, groups) in [
        ("bf16", BF16, Products::Float32, 1),
        ("tf32", F32, Products::Tf32x3, 1),
        ("tiles", F32, Products::Float32, 1),
        ("depthwise", F32, Products::Float32, 64),
        ("direct", F32, Products::Float32, 8),
    ] {
        for (pass, weights) in [("fprop", false), ("wgrad", true)] {
            let check = move || wrong_far_apart(dtype, products, groups, weights);
            all.push((format!("huge conv.{pass}, {name}, far apart"), Box::new(check)));
        }
    }
    all
}

#[test]
fn indices_reach_beyond_32_bits() {
    if !have("sim") {
        return;
    }
    let chosen = std::env::var("CASES").unwrap_or_default();
    let all: Vec<Check> = checks().into_iter().filter(|c| c.0.starts_with(&chosen)).collect();
    let complaints = each(&all, |(name, check)| check().map(|e| format!("{name} on sim: {e}")));
    report(all.len(), complaints);
}

/// How many kernels a case takes, or why it has none.
fn lowered(op: std::sync::Arc<dyn Op>, ins: &[Type]) -> deep_affect::error::Result<usize> {
    let case = Case { label: String::new(), op, ins: ins.to_vec(), draws: vec![], diff: vec![], bound: Bound::Exact };
    let (g, _, outs) = graph_of(&case);
    let lowered = Plan::new(&g, &outs, Options::default())?.lower(&g, Arch::Gpu(&Choices::default()))?;
    Ok(lowered.iter().filter(|s| matches!(s.launch.code, Code::Kernel(_))).count())
}

fn one_line(e: deep_affect::error::Error, op: &str) {
    let e = e.to_string();
    // Where operands grow together no process could hold them, whatever takes them.
    let anywhere = e.contains("larger than the address space of a process");
    let refused = anywhere || e.starts_with(&format!("{op}: ")) && e.contains("a smaller batch");
    assert!(refused && e.lines().count() == 1, "{op}: {e}");
}

/// Every case, with so many images or rows that its first operand has more than 2^31 elements: it is refused, or checked above.
#[test]
fn sizes_that_cannot_be_counted_are_refused_in_one_line() {
    let mut refused = std::collections::BTreeSet::new();
    // All activations are one kernel, of which two are checked.
    let reaches = |op: &str| {
        let checked = checks().iter().any(|c| c.0.starts_with(&format!("huge {op}")));
        checked || activation::FAMILY.ops.contains(&op)
    };
    for (name, case) in cases() {
        let Some(first) = case.ins.first() else { continue };
        let (n, op) = (first.dims()[0], case.op.name());
        let times = (1usize << 31) / first.numel() + 1;
        let larger = |t: &Type| match t.dims() {
            [first, rest @ ..] if *first == n => Type::new(t.dtype, &[&[n * times], rest].concat()),
            _ => *t,
        };
        let ins: Vec<Type> = case.ins.iter().map(larger).collect();
        // Some ops know how large their operands are.
        if case.op.infer(&ins).is_err() {
            continue;
        }
        match lowered(case.op.clone(), &ins) {
            // Whoever sums over ranks counts for itself.
            Ok(0) => {}
            Ok(_) => assert!(reaches(op), "{name} is not checked"),
            Err(e) => {
                one_line(e, op);
                refused.insert(op);
            }
        }
    }
    if std::env::var_os("CASES").is_some() {
        return; // Only some of them.
    }
    for op in ["batchnorm.eval", "lrn", "softmax", "concat", "dense.fprop", "sgd"] {
        assert!(refused.contains(op), "{op} is neither checked nor refused: {refused:?}");
    }
    // Blocks of a grid: a row of them for each picture.
    let of = |n| [images(DType::U8, 9, 4, 3), Type::new(DType::U32, &[n])];
    assert_eq!(lowered(std::sync::Arc::new(image::Gather), &of(65535)).unwrap(), 1);
    one_line(lowered(std::sync::Arc::new(image::Gather), &of(65536)).unwrap_err(), "image.gather");
}

/// The network as it is published, as large as `--batch` goes.
#[test]
fn the_largest_batch_of_the_network_can_be_counted() {
    let names = ["object", "scene", "face"].map(String::from);
    let t = training(&Config::published(Architecture::Shared, &names, 2).unwrap(), 4096, false);
    let (g, plans) = Plan::all(t.graph, &[&t.step, &t.eval], deep_affect::device::gpu::OPTIONS).unwrap();
    for plan in plans {
        assert!(!plan.lower(&g, Arch::Gpu(&Choices::default())).unwrap().is_empty());
    }
}
