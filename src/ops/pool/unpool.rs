//! Pooling whose gradient needs no image at full resolution: over windows of 2 x 2 that tile the image, with an index of
//! who won. [`crate::ops::conv::Pooled`] pools so.
//!
//! The index is two bits an element, the position in the window in row-major order, and a byte has those of four
//! neighbouring channels, the first one's lowest: [N,P,Q,K/4].

use super::super::{Bound, Case};
use super::nhwc;
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Instance, Io, Op, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Divisor, Kernel, STORED, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::{DType, Type, Window};

crate::cuda_struct! {
    /// Pooled elements, `c` a pixel and `q` pixels a row, in units of four channels.
    pub struct Quads {
        n: u32,
        c: Divisor,
        q: Divisor,
    }
}

pub(super) static UNPOOL: Kernel = Kernel::new("unpool.cu", "unpool", 4, Quads::TEXT).with(STORED);

/// The windows.
pub const WINDOW: Window = Window { size: [2, 2], stride: [2, 2], pad: [0; 4], dilation: [1, 1], ceil: false };

/// Of the values of a window, the first that none exceeds; a NaN before all others.
pub(in crate::ops) fn winner<T: PartialOrd + Copy>(v: [T; 4]) -> usize {
    let nan = |i: usize| v[i].partial_cmp(&v[i]).is_none();
    (1..4).fold(0, |best, i| if v[i] > v[best] || (nan(i) && !nan(best)) { i } else { best })
}

/// What is pooled to element `at` of images [..,Q,K]: its window in images [..,2Q,K].
pub(in crate::ops) fn window<T: Copy>(y: &[T], [q, k]: [usize; 2], at: usize) -> [T; 4] {
    places([q, k], at).map(|i| y[i])
}

/// Where in images [..,2Q,K] the window of element `at` of images [..,Q,K] is.
pub(in crate::ops) fn places([q, k]: [usize; 2], at: usize) -> [usize; 4] {
    let (row, column, channel) = (at / k / q, at / k % q, at % k);
    [0, 1, 2, 3].map(|i| ((2 * row + i / 2) * 2 * q + 2 * column + i % 2) * k + channel)
}

/// Element `at` of images [..,2Q,K] after [`Unpool`].
pub(in crate::ops) fn unpooled<T: PartialOrd + Copy + Default>(
    pooled: &[T],
    index: impl Fn(usize) -> u8,
    d: &[T],
    qk: [usize; 2],
    at: usize,
) -> T {
    source(pooled, index, qk, at).map_or(T::default(), |from| d[from])
}

/// The pooled element that element `at` of images [..,2Q,K] takes its gradient from, if it won its window and was positive.
pub(in crate::ops) fn source<T: PartialOrd + Default>(
    pooled: &[T],
    index: impl Fn(usize) -> u8,
    [q, k]: [usize; 2],
    at: usize,
) -> Option<usize> {
    let (row, column, channel) = (at / k / (2 * q), at / k % (2 * q), at % k);
    let from = (row / 2 * q + column / 2) * k + channel;
    let won = (index(from / 4) >> (2 * (from % 4)) & 3) as usize == row % 2 * 2 + column % 2;
    (won && pooled[from] > T::default()).then_some(from)
}

/// [`Unpool`] on the host.
pub(in crate::ops) fn run(pooled: &[f32], index: &[u8], d: &[f32], qk: [usize; 2], dz: &mut [f32]) {
    par::chunks_mut(dz, |first, dz| {
        let each = |(i, dz): (usize, &mut f32)| *dz = unpooled(pooled, |i| index[i], d, qk, first + i);
        dz.iter_mut().enumerate().for_each(each);
    })
}

/// The type of the index of `pooled`.
pub(in crate::ops) fn index_type(pooled: &Type) -> Result<Type> {
    match nhwc(pooled)? {
        [n, p, q, k] if k.is_multiple_of(4) => Ok(Type::new(DType::U8, &[n, p, q, k / 4])),
        _ => Err(Error::job("an index of the maxima needs a multiple of four channels")),
    }
}

/// The type of what was pooled.
pub(in crate::ops) fn full_type(pooled: &Type) -> Result<Type> {
    let [n, p, q, k] = nhwc(pooled)?;
    Ok(Type::new(pooled.dtype, &[n, 2 * p, 2 * q, k]))
}

/// dz [N,2P,2Q,K] = the gradient behind a ReLU and the pooling of its result: the element that won its window takes d
/// where it was positive, all others are 0; inputs pooled [N,P,Q,K], index [N,P,Q,K/4], d [N,P,Q,K].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unpool;

impl Op for Unpool {
    fn describe(&self) -> Description {
        Description::of("unpool")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins[1] != index_type(&ins[0])? || ins[2] != ins[0] {
            return Err(Error::job("pooled, its index and its gradient must fit"));
        }
        Ok(vec![full_type(&ins[0])?])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let [_, _, q, k] = nhwc(&io.ins[0]).expect("checked by infer");
        let each = |(at, dz): (usize, &mut f64)| *dz = unpooled(ins[0], |i| ins[1][i] as u8, ins[2], [q, k], at);
        outs[0].iter_mut().enumerate().for_each(each);
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let [_, _, q, k] = nhwc(&io.ins[0]).expect("checked by infer");
        host_launches(self, io, group, 0, move |h| run(h.input(0), h.input(1), h.input(2), [q, k], h.output(0)))
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let [_, _, q, k] = nhwc(&io.ins[0]).expect("checked by infer");
        let args = Quads { n: count(io.ins[0].numel() / 4), c: Divisor::new(k / 4), q: Divisor::new(q) };
        let (storage, operands) = ([io.ins[0].dtype.code()], [In(0), In(1), In(2), Out(0)]);
        gpu.each(&UNPOOL, &storage, args.n as usize, &operands, args).done()
    }
    fn counted(&self, io: &Io) -> usize {
        io.ins[0].numel() / 4
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.outs[0].numel() as f64, ..traffic(io) }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |(x, storage): ([usize; 4], DType)| {
        let pooled = Type::new(storage, &x);
        let ins = [pooled, index_type(&pooled).expect("a case fits"), pooled];
        Case::new(format!("{storage:?} x {x:?}"), Unpool, &ins, &[], Bound::Exact)
    };
    let wide = [[2, 3, 5, 4], [1, 4, 2, 20], [3, 9, 11, 36]].map(|x| (x, DType::F32));
    let halves = [DType::F16, DType::BF16].map(|half| ([2, 5, 3, 12], half));
    wide.into_iter().chain(halves).map(case).collect()
}
