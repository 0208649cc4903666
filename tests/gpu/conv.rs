//! What convolutions and dense layers promise beyond the definition: bits that neither the batch nor the tile changes.

use super::{DEVICES, Way, bits, on_devices, open};
use crate::common::*;
use deep_affect::device::{Data, Session};
use deep_affect::error::Result;
use deep_affect::graph::{Description, GpuCalls, Io, Op};
use deep_affect::launch::{Code, Launch, Products};
use deep_affect::ops::conv::{Dgrad, Fprop, FusedBackward, Wgrad, gpu};
use deep_affect::ops::{Bound, Case, dense};
use deep_affect::plan::{Options, Plan};
use deep_affect::rng::{Rng, Stream};
use deep_affect::shape::{ConvShape, DType, Type, Window};

/// Predictions do not depend on what else is in the batch.
#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    on_devices("batch", |device, _, case| {
        if !["conv.fprop", "conv.pooled", "conv.transposed", "dense.fprop"].contains(&case.op.name()) {
            return None;
        }
        let (x, n) = (draw(case, 9, Numbers::Reals), case.ins[0].dims()[0]);
        let together = match run(case, device.open(), device.options(), &x) {
            Ok(mut y) => y.remove(0),
            Err(e) => return Some(e.to_string()),
        };
        let mut ins = case.ins.clone();
        let dims: Vec<usize> = [1].into_iter().chain(ins[0].dims()[1..].iter().copied()).collect();
        ins[0] = Type::new(ins[0].dtype, &dims);
        let one = Case { label: String::new(), op: op_of(case), ins, draws: vec![], diff: vec![], bound: Bound::Exact };
        let rows = x[0].chunks(x[0].len() / n).zip(together.chunks(together.len() / n));
        for (i, (row, y)) in rows.enumerate() {
            let x: Vec<Vec<f64>> = [row.to_vec()].into_iter().chain(x[1..].iter().cloned()).collect();
            match run(&one, device.open(), device.options(), &x) {
                Ok(alone) if bits(&alone[..1]) == bits(&[y.to_vec()]) => {}
                Ok(_) => return Some(format!("row {i} of {n} has other bits alone")),
                Err(e) => return Some(e.to_string()),
            }
        }
        None
    });
}

/// An op that launches the plainest kernel: the oracle for shapes that the definition is too slow for.
#[derive(Debug)]
struct Direct<O>(O, ConvShape);

impl<O: Op> Op for Direct<O> {
    fn describe(&self) -> Description {
        Description::of(self.0.describe().name)
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        self.0.infer(ins)
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        self.0.eval(io, ins, outs)
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        let launches = if self.describe().name == "conv.fprop" { gpu::fprop } else { gpu::dgrad };
        launches(gpu, gpu::Algorithm::Direct, &self.1, gpu::Epilogue::default())
    }
}

/// Tiles and the direct kernels add in the same order.
#[test]
fn tiles_equal_the_direct_convolution_bit_for_bit() {
    let window = |kernel, stride| Window { dilation: [1, 2], ..Window::square(kernel, stride, 1) };
    // x, K, window: sides that no tile divides, strides, a dilation, loads of four and of one
    let shapes = [
        ([2, 29, 31, 16], 132, window(3, 1)),
        ([1, 41, 37, 36], 24, window(3, 2)),
        ([3, 23, 19, 5], 7, window(5, 3)),
        ([1, 113, 115, 8], 68, window(1, 1)),
    ];
    for device in DEVICES.into_iter().filter(|d| have(d)) {
        for (x, filters, window) in shapes {
            let shape = ConvShape::new(&x, filters, window, 1).unwrap();
            let (xt, yt) = (Type::f32(&x), Type::f32(&[shape.n, shape.p, shape.q, shape.k]));
            let wt = Type::f32(&[shape.k, shape.taps()[0], shape.taps()[1], shape.c]);
            let same = |tiled: Case, direct: Case| {
                let x = draw(&tiled, 31, Numbers::Reals);
                let y = [tiled, direct].map(|c| bits(&run(&c, open(device), Options::default(), &x).unwrap()));
                assert!(y[0] == y[1], "{shape:?} on {device}");
            };
            let fprop = Fprop { filters, window, groups: 1, bias: false, relu: false };

            same(
                Case::new("", fprop, &[xt, wt], &[], Bound::Exact),
                Case::new("", Direct(fprop, shape), &[xt, wt], &[], Bound::Exact),
            );
            let (dgrad, ins) = (Dgrad { shape, fused: FusedBackward::Nothing }, [yt, wt]);
            same(
                Case::new("", dgrad, &ins, &[], Bound::Exact),
                Case::new("", Direct(dgrad, shape), &ins, &[], Bound::Exact),
            );
        }
    }
}

/// What the kernels on tensor cores ask of shared and of global memory: one pass over the banks for a request, and no byte
/// that is not used. Depths of many steps, so that the loops weigh more than what surrounds them.
#[test]
fn products_on_tensor_cores_meet_each_bank_once() {
    if !have("sim") {
        return;
    }
    for (storage, products) in [
        (DType::BF16, Products::Float32),
        (DType::F32, Products::Tf32x3),
        (DType::F32, Products::Tf32),
        (DType::F32, Products::Float32),
    ] {
        meet_each_bank_once(storage, products);
    }
}

/// The same, for one kind of operands; in every tile on tensor cores.
fn meet_each_bank_once(storage: DType, products: Products) {
    let shape = ConvShape::new(&[1, 40, 40, 64], 128, Window::square(3, 1, 1), 1).unwrap();
    let of = |dims: &[usize]| Type::new(storage, dims);
    let (x, y, filters) = (of(&[1, 40, 40, 64]), of(&[1, 40, 40, 128]), of(&[128, 3, 3, 64]));
    let fprop = Fprop { filters: 128, window: shape.window, groups: 1, bias: false, relu: true };
    let dgrad = Dgrad { shape, fused: FusedBackward::Nothing };
    let row = of(&[128, 2048]);
    let dot = Bound::Dot(0);
    let cases = [
        Case::new("", fprop, &[x, filters], &[], dot),
        Case::new("", dgrad, &[y, filters], &[], dot),
        Case::new("", Wgrad { shape, bias: true }, &[x, y], &[], dot),
        Case::new("", dense::Fprop { bias: false, relu: false }, &[row; 2], &[], dot),
        Case::new("", dense::Dgrad { x: of(&[128, 128]), mask: None }, &[of(&[128, 2048]), of(&[2048, 128])], &[], dot),
        Case::new("", dense::Wgrad { bias: true }, &[of(&[2048, 128]), of(&[2048, 128])], &[], dot),
    ];
    let tensor_cores = storage.is_half() || products != Products::Float32;
    for case in cases {
        let (g, ins, outs) = graph_of(&case);
        let io = Io { ins: &case.ins, outs: &case.op.infer(&case.ins).unwrap() };
        let multiply_adds = case.op.cost(&io).flops / 2.0;
        let way = Way { device: "sim", products };
        let device = way.open();
        let launches = device.launches(&g, &Plan::new(&g, &outs, way.options()).unwrap()).unwrap();
        let product = launches.iter().find_map(|s| match &s.launch.code {
            Code::Kernel(call) => Some((call.product.clone()?, call.consts)),
            _ => None,
        });
        let Some((product, chosen)) = product else {
            assert!(!tensor_cores, "{} is not a product on tensor cores", case.op.name());
            continue;
        };
        let all = product.candidates(&device.spec().gpu.expect("it runs kernels").limits);
        for tile in all.into_iter().filter(|tile| tensor_cores || *tile == chosen) {
            let mut s = Session::new(g.clone(), &[&outs], way.options(), way.tiled(&product, tile)).unwrap();
            for (v, x) in ins.iter().zip(draw(&case, 5, Numbers::Reals)) {
                s.write(*v, Data::F64(&x)).unwrap();
            }
            let mut found = None;
            // What adds up the parts of a sum comes after it.
            s.profile(0, &mut |p| found = found.or(p.counted)).unwrap();
            let c = found.expect("a simulator counts").counters;
            assert_eq!(c.mma > 0, tensor_cores);
            let passes = c.shared_wavefronts as f64 / c.shared_requests as f64;
            let moved = 32.0 * c.sectors as f64 / (c.read_bytes + c.write_bytes) as f64;
            let instructions = 1000.0 * c.warp_instructions as f64 / multiply_adds;
            let what = format!(
                "{} of {storage:?} by {products:?} in {}x{}x{}",
                product.kernel.entry, tile[0], tile[1], tile[2]
            );
            println!(
                "{what}: {passes:.3} wavefronts per shared request, {moved:.3} bytes moved for each that is used, \
                 {instructions:.2} warp instructions of PTX for 1000 multiply-adds"
            );
            assert!(passes <= 1.1, "{what}: {passes} wavefronts per request");
            assert!(moved <= 1.1, "{what}: {moved} bytes moved for each that is used");
        }
    }
}

/// The root of the mean square of errors, relative to that of the values.
fn distance(got: &[f64], want: &[f64]) -> f64 {
    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    (square(&mut got.iter().zip(want).map(|(g, w)| g - w)) / square(&mut want.iter().copied())).sqrt()
}

/// A convolution of depth 9 x 512, as VGG's last: three products of tf32 are nearer to float64 than multiply-adds in float32,
/// whose running sum is rounded eight times as often.
#[test]
fn three_products_are_as_exact_as_float32() {
    for device in DEVICES.into_iter().filter(|d| have(d)) {
        let fprop = Fprop { filters: 64, window: Window::square(3, 1, 1), groups: 1, bias: false, relu: false };
        let ins = [Type::f32(&[1, 5, 5, 512]), Type::f32(&[64, 3, 3, 512])];
        let case = Case::new("", fprop, &ins, &[], Bound::Exact);
        let x = draw(&case, 3, Numbers::Reals);
        let want = run(&case, reference(), Options::default(), &x).unwrap().remove(0);
        let [float, three, one] = Products::ALL.map(|products| {
            let way = Way { device, products };
            distance(&run(&case, way.open(), way.options(), &x).unwrap()[0], &want)
        });
        println!("{device}: depth 4608: float32 {float:.2e}, tf32x3 {three:.2e}, tf32 {one:.2e}");
        assert!(three <= float, "{device}: {three:e} where float32 has {float:e}");
        assert!(one > 100.0 * float, "{device}: {one:e} is not tf32");
    }
}

/// Numbers that are not finite do not become so, and denormals count (`kernels/mma/factor.cuh`).
#[test]
fn products_know_infinity_nan_and_denormals() {
    const ROWS: usize = 8;
    const INPUTS: usize = 64;
    const OUTPUTS: usize = 8;
    let ins = [Type::f32(&[ROWS, INPUTS]), Type::f32(&[OUTPUTS, INPUTS])];
    let case = Case::new("", dense::Fprop { bias: false, relu: false }, &ins, &[], Bound::Exact);
    // One number in each row, at a place of its own; the weights of an output are all alike.
    let tiny = f32::from_bits(0x1357) as f64;
    let numbers = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f32::MAX as f64, tiny, -tiny, 1.5, 0.0];
    let mut x = vec![0.0; ROWS * INPUTS];
    numbers.iter().enumerate().for_each(|(row, v)| x[row * INPUTS + 9 * row] = *v);
    let scales: Vec<f64> = (0..OUTPUTS).map(|o| 2f64.powi(8 * o as i32)).collect();
    let operands = [x, scales.iter().flat_map(|s| [*s; INPUTS]).collect()];
    for device in DEVICES.into_iter().filter(|d| have(d)) {
        for products in Products::ALL {
            let way = Way { device, products };
            let y = run(&case, way.open(), way.options(), &operands).unwrap().remove(0);
            for (row, v) in numbers.iter().enumerate() {
                for (y, s) in y[row * OUTPUTS..][..OUTPUTS].iter().zip(&scales) {
                    let right = match *v {
                        v if v.is_nan() => y.is_nan(),
                        v if v.is_infinite() => !y.is_finite(),
                        // tf32 has no number between the largest two of float32 and infinity.
                        v if v == f32::MAX as f64 => !y.is_finite() || *y == v && products == Products::Float32,
                        v => (y - v * s).abs() <= 2f64.powi(-10) * (v * s).abs() + 2f64.powi(-136) * s,
                    };
                    assert!(right, "{device} by {products:?}: {v:e} by {s:e} is {y:e}");
                }
            }
        }
    }
}

/// x toward zero to a multiple of 2^(exponent - 23).
fn cut(x: f64, exponent: i32) -> f64 {
    let unit = 2f64.powi(exponent - 23);
    (x / unit).trunc() * unit
}

/// What an instruction of a tensor core does that cuts off where the simulator rounds (`kernels/mma/factor.cuh`).
fn tensor_core(a: &[f64], b: &[f64], sum: f64) -> f64 {
    let exponent = |x: f64| if x == 0.0 { i32::MIN / 2 } else { x.abs().log2().floor() as i32 };
    let addends: Vec<f64> = a.iter().zip(b).map(|(a, b)| a * b).chain([sum]).collect();
    let largest = addends.iter().map(|x| exponent(*x)).max().unwrap().max(-126);
    let total: f64 = addends.iter().map(|x| cut(*x, largest)).sum();
    cut(total, exponent(total).max(-126))
}

/// Sums in which nothing cancels, the worst for cutting off: only from zero in every step is it as good as float32.
#[test]
fn steps_from_zero_survive_tensor_cores_that_cut_off() {
    const DEPTH: usize = 4608;
    let mut rng = Rng::new(1, Stream::Test(0), 0);
    let mut draw = || (0..DEPTH).map(|_| rng.uniform()).collect::<Vec<f32>>();
    let parts = |x: &[f32]| -> [Vec<f64>; 2] {
        let tf32 = |x: u32| f32::from_bits(x & 0xffff_e000);
        let hi = |x: &f32| tf32(x.to_bits() + 0x1000);
        [x.iter().map(|x| hi(x) as f64).collect(), x.iter().map(|x| tf32((x - hi(x)).to_bits()) as f64).collect()]
    };
    let [mut worst_float, mut worst_zero, mut worst_chain] = [0f64; 3];
    for _ in 0..16 {
        let (a, b) = (draw(), draw());
        let exact: f64 = a.iter().zip(&b).map(|(a, b)| *a as f64 * *b as f64).sum();
        let ([a_hi, a_lo], [b_hi, b_lo]) = (parts(&a), parts(&b));
        let (mut float, mut from_zero, mut chain) = (0f32, 0f32, 0f64);
        a.iter().zip(&b).for_each(|(a, b)| float = a.mul_add(*b, float));
        for k in (0..DEPTH).step_by(8).map(|k| k..k + 8) {
            let three = |sum: f64| {
                let terms = [(&a_lo, &b_hi), (&a_hi, &b_lo), (&a_hi, &b_hi)];
                terms.into_iter().fold(sum, |sum, (a, b)| tensor_core(&a[k.clone()], &b[k.clone()], sum))
            };
            from_zero += three(0.0) as f32;
            chain = three(chain);
        }
        let error = |y: f64| ((y - exact) / exact).abs();
        worst_float = worst_float.max(error(float as f64));
        worst_zero = worst_zero.max(error(from_zero as f64));
        worst_chain = worst_chain.max(error(chain));
    }
    println!("float32 {worst_float:.1e}, steps from zero {worst_zero:.1e}, one chain {worst_chain:.1e}");
    let bound = 2f64.powi(-21) + 13.0 * 2f64.powi(-23) + (DEPTH / 8) as f64 * 2f64.powi(-24);
    assert!(worst_zero <= bound && worst_zero <= worst_float && worst_chain > 4.0 * worst_zero);
}
