//! What convolutions and dense layers promise beyond the definition: bits that neither the batch nor the tile changes.

use super::{DEVICES, bits, on_devices, open};
use crate::common::*;
use deep_affect::device::{self, Data, Session};
use deep_affect::error::Result;
use deep_affect::graph::{Gpu, Io, Op};
use deep_affect::kernel::choices::Tiles;
use deep_affect::kernel::{Code, Launch};
use deep_affect::ops::conv::{Before, Dgrad, Fprop, Wgrad, gpu};
use deep_affect::ops::{Bound, Case, dense};
use deep_affect::plan::{Options, Plan};
use deep_affect::shape::{ConvShape, DType, Type, Window};

/// Predictions do not depend on what else is in the batch.
#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    on_devices("batch", |device, _, case| {
        if !["conv.fprop", "conv.pooled", "conv.transposed", "dense.fprop"].contains(&case.op.name()) {
            return None;
        }
        let (x, n) = (draw(case, 9, Numbers::Reals), case.ins[0].dims()[0]);
        let together = match run(case, device.open(), Options::default(), &x) {
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
            match run(&one, device.open(), Options::default(), &x) {
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
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        self.0.infer(ins)
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        self.0.eval(io, ins, outs)
    }
    fn gpu(&self, gpu: Gpu, _: &Io) -> Vec<Launch> {
        let launches = if self.name() == "conv.fprop" { gpu::fprop } else { gpu::dgrad };
        launches(gpu, gpu::Form::Direct, &self.1, gpu::Epilogue::default())
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
            let (dgrad, ins) = (Dgrad { shape, before: Before::Nothing }, [yt, wt]);
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
    let (shape, half) = (ConvShape::new(&[1, 40, 40, 64], 128, Window::square(3, 1, 1), 1).unwrap(), DType::BF16);
    let of = |dims: &[usize]| Type::new(half, dims);
    let (x, y, filters) = (of(&[1, 40, 40, 64]), of(&[1, 40, 40, 128]), of(&[128, 3, 3, 64]));
    let fprop = Fprop { filters: 128, window: shape.window, groups: 1, bias: false, relu: true };
    let dgrad = Dgrad { shape, before: Before::Nothing };
    let row = of(&[128, 2048]);
    let dot = Bound::Dot(0);
    let cases = [
        Case::new("", fprop, &[x, filters], &[], dot),
        Case::new("", dgrad, &[y, filters], &[], dot),
        Case::new("", Wgrad { shape, bias: true }, &[x, y], &[], dot),
        Case::new("", dense::Fprop { bias: false, relu: false }, &[row; 2], &[], dot),
        Case::new(
            "",
            dense::Dgrad { x: of(&[128, 128]), mask: false },
            &[of(&[128, 2048]), of(&[2048, 128])],
            &[],
            dot,
        ),
        Case::new("", dense::Wgrad { bias: true }, &[of(&[2048, 128]), of(&[2048, 128])], &[], dot),
    ];
    for case in cases {
        let (g, ins, outs) = graph_of(&case);
        let mut device = device::open("sim", None).unwrap();
        let launches = device.launches(&g, &Plan::new(&g, &outs, Options::default()).unwrap());
        let product = launches.iter().find_map(|s| match &s.launch.code {
            Code::Kernel(call) => call.product.clone(),
            _ => None,
        });
        let product = product.expect("a product on tensor cores");
        for tile in product.candidates(&device.limits()) {
            let named = product.kernel.consts.iter().map(|c| c.to_string()).zip(tile.iter().copied());
            device.choose(Tiles::from([(product.to_string(), named.collect())]));
            let mut s = Session::new(g.clone(), &[&outs], Options::default(), device).unwrap();
            for (v, x) in ins.iter().zip(draw(&case, 5, Numbers::Reals)) {
                s.write(*v, Data::F64(&x)).unwrap();
            }
            let mut found = None;
            s.profile(0, &mut |p| found = found.or(p.counted.filter(|c| c.counters.mma > 0))).unwrap();
            let c = found.expect("a product on tensor cores").counters;
            let passes = c.shared_wavefronts as f64 / c.shared_requests as f64;
            let moved = 32.0 * c.sectors as f64 / (c.read_bytes + c.write_bytes) as f64;
            let per_mma = c.warp_instructions as f64 / c.mma as f64;
            let what = format!("{} {}x{}x{}", product.kernel.entry, tile[0], tile[1], tile[2]);
            println!(
                "{what}: {passes:.3} wavefronts per shared request, {moved:.3} bytes moved for each that is used, \
                 {per_mma:.2} instructions for each product"
            );
            assert!(passes <= 1.1, "{what}: {passes} wavefronts per request");
            assert!(moved <= 1.1, "{what}: {moved} bytes moved for each that is used");
            device = s.into_device();
        }
    }
}
