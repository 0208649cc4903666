//! What convolutions and dense layers promise beyond the definition: bits that neither the batch nor the tile changes.

use super::{DEVICES, bits, on_devices, open};
use crate::common::*;
use deep_affect::error::Result;
use deep_affect::graph::{Gpu, Io, Member, Op};
use deep_affect::kernel::Launch;
use deep_affect::ops::conv::{Before, Dgrad, Fprop, gpu};
use deep_affect::ops::{Bound, Case};
use deep_affect::plan::Options;
use deep_affect::shape::{ConvShape, Type, Window};

/// Predictions do not depend on what else is in the batch.
#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    on_devices("batch", |device, _, case| {
        if !["conv.fprop", "conv.pooled", "conv.transposed", "dense.fprop"].contains(&case.op.name()) {
            return None;
        }
        let (x, n) = (draw(case, 9, Numbers::Reals), case.ins[0].dims()[0]);
        let together = match run(case, open(device), Options::default(), &x) {
            Ok(mut y) => y.remove(0),
            Err(e) => return Some(e.to_string()),
        };
        let mut ins = case.ins.clone();
        let dims: Vec<usize> = [1].into_iter().chain(ins[0].dims()[1..].iter().copied()).collect();
        ins[0] = Type::f32(&dims);
        let one = Case { label: String::new(), op: op_of(case), ins, draws: vec![], diff: vec![], bound: Bound::Exact };
        let rows = x[0].chunks(x[0].len() / n).zip(together.chunks(together.len() / n));
        for (i, (row, y)) in rows.enumerate() {
            let x: Vec<Vec<f64>> = [row.to_vec()].into_iter().chain(x[1..].iter().cloned()).collect();
            match run(&one, open(device), Options::default(), &x) {
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
    fn gpu(&self, io: &Io, group: &[Member]) -> Vec<Launch> {
        let launches = if self.name() == "conv.fprop" { gpu::fprop } else { gpu::dgrad };
        launches(Gpu::new(self, io, group), gpu::Form::Direct, &self.1, gpu::Epilogue::default())
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
