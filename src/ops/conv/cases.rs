//! The shapes that every check of the convolutions runs on.

use super::{Dgrad, Fprop, FusedBackward, Pooled, Transposed, Wgrad};
use crate::graph::Op;
use crate::ops::pool::unpool::index_type;
use crate::ops::{Bound, Case};
use crate::shape::{ConvShape, DType, Type, Window};

pub(super) fn cases() -> Vec<Case> {
    let square = Window::square;
    let odd = Window { size: [3, 5], stride: [2, 1], pad: [1, 2, 0, 1], dilation: [1, 1], ceil: false };
    let dilated = Window { dilation: [2, 3], ..square(3, 1, 2) };
    // x [N,H,W,C], K, window, groups
    let shapes: [([usize; 4], usize, Window, usize); 23] = [
        ([2, 9, 11, 3], 5, square(3, 1, 1), 1),
        ([1, 6, 6, 16], 32, square(3, 1, 1), 1),
        ([3, 7, 5, 17], 19, square(3, 1, 1), 1),
        ([2, 1, 1, 8], 8, square(3, 1, 1), 1),
        ([2, 2, 2, 8], 8, square(3, 1, 1), 1),
        ([2, 8, 8, 4], 6, square(3, 2, 1), 1),
        ([1, 13, 13, 3], 8, square(7, 2, 3), 1),
        ([2, 5, 6, 8], 12, square(1, 1, 0), 1),
        ([2, 7, 7, 8], 12, square(1, 2, 0), 1),
        ([2, 9, 10, 3], 4, odd, 1),
        ([2, 9, 10, 4], 6, dilated, 2),
        ([2, 8, 8, 6], 6, square(3, 1, 1), 6),
        ([2, 7, 9, 19], 19, square(3, 2, 1), 19),
        ([2, 6, 5, 5], 15, square(3, 1, 1), 5),
        ([2, 11, 10, 33], 36, square(3, 1, 1), 1),
        ([1, 6, 5, 32], 80, square(3, 1, 1), 2),
        ([2, 6, 7, 8], 8, square(3, 2, 1), 8),
        ([1, 5, 6, 16], 72, square(3, 2, 1), 1),
        // More than one of the GPU's tiles in each direction.
        ([1, 14, 14, 20], 20, square(1, 1, 0), 1),
        ([1, 14, 14, 36], 36, square(1, 1, 0), 1),
        ([1, 14, 14, 4], 132, square(1, 1, 0), 1),
        ([1, 14, 14, 132], 4, square(1, 1, 0), 1),
        ([1, 14, 14, 3], 36, square(1, 1, 0), 1),
    ];
    let mut cases = vec![];
    for (i, (x, k, window, groups)) in shapes.into_iter().enumerate() {
        let shape = ConvShape::new(&x, k, window, groups).expect("a case fits");
        let [r, s] = shape.taps();
        let (xt, yt) = (Type::f32(&x), Type::f32(&[shape.n, shape.p, shape.q, k]));
        let (wt, bt) = (Type::f32(&[k, r, s, shape.group_c()]), Type::f32(&[k]));
        let bias = i % 3 != 2;
        let ins: Vec<Type> = [xt, wt].into_iter().chain(bias.then_some(bt)).collect();
        // The same adjoint on every shape: differencing each number of the large ones would only take minutes.
        let diff: Vec<usize> = if wt.numel().max(xt.numel()) < 5000 { (0..ins.len()).collect() } else { vec![] };
        let label = |pass| format!("{pass}k{k} {r}x{s} stride {:?} groups {groups} x {x:?}", window.stride);
        let fprop = Fprop { filters: k, window, groups, bias, relu: i % 2 == 0 };
        let terms = r * s * shape.group_c() + 1;
        cases.push(Case::new(label(""), fprop, &ins, &diff, Bound::Dot(terms)));
        let dot = Bound::Dot(r * s * shape.group_k());
        cases.push(Case::new(label(""), Dgrad { shape, fused: FusedBackward::Nothing }, &[yt, wt], &[], dot));
        cases.push(Case::new(label("relu "), Dgrad { shape, fused: FusedBackward::Relu }, &[yt, wt, xt], &[], dot));
        let (pool, index) = (Dgrad { shape, fused: FusedBackward::Pool }, index_type(&xt).unwrap_or(xt));
        if pool.infer(&[yt, wt, xt, index]).is_ok() {
            cases.push(Case::new(label("pool "), pool, &[yt, wt, xt, index], &[], dot));
        }
        let pooled = |index| Pooled { conv: Fprop { relu: true, ..fprop }, index, storage: DType::F32 };
        if pooled(true).infer(&ins).is_ok() {
            cases.push(Case::new(label(""), pooled(true), &ins, &[], Bound::Dot(terms)));
            cases.push(Case::new(label("no index "), pooled(false), &ins, &[], Bound::Dot(terms)));
        }
        let dot = Bound::Dot(shape.n * shape.p * shape.q);
        cases.push(Case::new(label(""), Wgrad { shape, bias }, &[xt, yt], &[], dot));
    }
    // Tensor cores: aligned and gathered loads, a depth shorter than a step, strides, phases that lack pixels, groups, and
    // more than one tile in each direction.
    let halves: [([usize; 4], usize, Window, usize); 17] = [
        ([2, 9, 11, 3], 5, square(3, 1, 1), 1),
        ([1, 6, 6, 16], 32, square(3, 1, 1), 1),
        ([3, 7, 5, 17], 19, square(3, 1, 1), 1),
        ([2, 1, 1, 8], 8, square(3, 1, 1), 1),
        ([2, 8, 8, 4], 6, square(3, 2, 1), 1),
        ([1, 13, 13, 3], 8, square(7, 2, 3), 1),
        ([2, 7, 7, 8], 16, square(1, 2, 0), 1),
        ([2, 9, 10, 3], 4, odd, 1),
        ([2, 9, 10, 16], 48, dilated, 2),
        ([2, 11, 10, 40], 72, square(3, 1, 1), 1),
        ([2, 9, 9, 24], 24, square(3, 2, 1), 1),
        ([3, 6, 6, 72], 72, square(1, 1, 0), 1),
        ([2, 6, 6, 40], 72, square(1, 1, 0), 1),
        ([1, 14, 14, 8], 264, square(1, 1, 0), 1),
        ([1, 14, 14, 8], 40, square(1, 1, 0), 1),
        ([1, 14, 14, 264], 8, square(1, 1, 0), 1),
        ([1, 14, 14, 40], 8, square(1, 1, 0), 1),
    ];
    for (i, (x, k, window, groups)) in halves.into_iter().enumerate() {
        for half in [DType::F16, DType::BF16] {
            let shape = ConvShape::new(&x, k, window, groups).expect("a case fits");
            let [r, s] = shape.taps();
            let of = |dims: &[usize]| Type::new(half, dims);
            let (xt, yt) = (of(&x), of(&[shape.n, shape.p, shape.q, k]));
            let (wt, bt) = (of(&[k, r, s, shape.group_c()]), Type::f32(&[k]));
            let bias = i % 3 != 2;
            let ins: Vec<Type> = [xt, wt].into_iter().chain(bias.then_some(bt)).collect();
            let label = format!("{half:?} k{k} {r}x{s} stride {:?} groups {groups} x {x:?}", window.stride);
            let fprop = Fprop { filters: k, window, groups, bias, relu: i % 2 == 0 };
            cases.push(Case::new(&label, fprop, &ins, &[], Bound::Dot(r * s * shape.group_c() + 1)));
            let terms = Bound::Dot(r * s * shape.group_k());
            let fused = if i % 2 == 0 { FusedBackward::Nothing } else { FusedBackward::Relu };
            let dgrad: Vec<Type> = [yt, wt].into_iter().chain((i % 2 == 1).then_some(xt)).collect();
            cases.push(Case::new(&label, Dgrad { shape, fused }, &dgrad, &[], terms));
            let (pool, index) =
                (Dgrad { shape, fused: FusedBackward::Pool }, Type::new(DType::U8, &[x[0], x[1], x[2], x[3] / 4]));
            if pool.infer(&[yt, wt, xt, index]).is_ok() {
                cases.push(Case::new(format!("{label} pool"), pool, &[yt, wt, xt, index], &[], terms));
            }
            let pooled = Pooled { conv: Fprop { relu: true, ..fprop }, index: i % 3 != 1, storage: half };
            if pooled.infer(&ins).is_ok() {
                cases.push(Case::new(&label, pooled, &ins, &[], Bound::Dot(r * s * shape.group_c() + 1)));
            }
            let terms = Bound::Dot(shape.n * shape.p * shape.q);
            cases.push(Case::new(&label, Wgrad { shape, bias: i % 4 != 3 }, &[xt, yt], &[], terms));
        }
    }
    // x [N,P,Q,K], C, window, output padding, groups
    let transposed = [
        ([2, 4, 5, 6], 5, square(3, 2, 1), [1, 1], 1),
        ([1, 5, 4, 17], 19, square(4, 2, 1), [0, 0], 1),
        ([2, 3, 3, 4], 6, square(2, 2, 0), [0, 0], 2),
        // Pixels that no tap reaches: the bias alone.
        ([1, 4, 3, 3], 4, square(1, 3, 0), [2, 0], 1),
        ([2, 4, 4, 3], 4, odd, [1, 0], 1),
        ([2, 4, 3, 7], 7, square(3, 2, 1), [0, 1], 7),
    ];
    for (i, (x, channels, window, output_pad, groups)) in transposed.into_iter().enumerate() {
        let op = Transposed { channels, window, output_pad, groups, bias: i != 1, relu: i % 2 == 0 };
        let (xt, [r, s]) = (Type::f32(&x), window.size);
        let (wt, bt) = (Type::f32(&[x[3], r, s, channels / groups]), Type::f32(&[channels]));
        let ins: Vec<Type> = [xt, wt].into_iter().chain(op.bias.then_some(bt)).collect();
        let diff: Vec<usize> = (0..ins.len()).collect();
        let label = format!("c{channels} {r}x{s} stride {:?} groups {groups} x {x:?}", window.stride);
        cases.push(Case::new(label, op, &ins, &diff, Bound::Dot(r * s * x[3] / groups + 1)));
    }
    cases
}
