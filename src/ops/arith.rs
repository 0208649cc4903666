/*! Constants, sums, products and scaling, element by element. */

use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches};
use crate::host::pointwise;
use crate::launch::gpu::{Count, CudaStruct, Divisor, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::shape::Type;

crate::cuda_struct! {
    /// Elements, and the number that all of them take part in.
    pub struct Scalar { n: u32, by: f32 }
}

crate::cuda_struct! {
    /// Elements of [N,C], and C.
    pub struct Channels { n: u32, c: Divisor }
}

impl Channels {
    fn of(x: &Type) -> Self {
        Self { n: count(x.numel()), c: Divisor::new(x.row()) }
    }
}

static FILL: Kernel = Kernel::new("arith.cu", "fill", 1, Scalar::TEXT);
static ADD: Kernel = Kernel::new("arith.cu", "add", 3, Count::TEXT);
static MUL: Kernel = Kernel::new("arith.cu", "mul", 3, Count::TEXT);
static SCALE: Kernel = Kernel::new("arith.cu", "scale", 2, Scalar::TEXT);
static STANDARDIZE: Kernel = Kernel::new("arith.cu", "standardize", 4, Channels::TEXT);
static STANDARDIZE_GRAD: Kernel = Kernel::new("arith.cu", "standardize_grad", 3, Channels::TEXT);

/// y = value everywhere; no inputs.
#[derive(Debug, Clone)]
pub struct Fill {
    pub value: f64,
    pub ty: Type,
}

impl Op for Fill {
    fn describe(&self) -> Description {
        Description::of("fill")
    }
    fn infer(&self, _: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![self.ty])
    }
    fn eval(&self, _: &Io, _: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].fill(self.value)
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let value = self.value as f32;
        host_launches(self, io, group, 0, move |h| h.output::<f32>(0).fill(value))
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        gpu.map(&FILL, &[], &[Out(0)], |n| Scalar { n, by: self.value as f32 }).done()
    }
}

/// y = a + b, equal shapes.
#[derive(Debug, Clone)]
pub struct Add;

impl Op for Add {
    fn describe(&self) -> Description {
        Description::of("add")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [a, b] if a == b => Ok(vec![*a]),
            _ => Err(Error::job("two equal shapes are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = ins[0][i] + ins[1][i];
        }
    }
    fn grad(&self, _: &mut Graph, _: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0], dy[0]])
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        host_launches(self, io, group, 0, move |h| {
            pointwise::map2(simd, h.input(0), h.input(1), h.output(0), |a, b| a + b)
        })
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        gpu.map(&ADD, &[], &[In(0), In(1), Out(0)], |n| Count { n }).done()
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.outs[0].numel() as f64, ..crate::graph::traffic(io) }
    }
}

/// y = a b elementwise, equal shapes.
#[derive(Debug, Clone)]
pub struct Mul;

impl Op for Mul {
    fn describe(&self) -> Description {
        Description::of("mul")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Add.infer(ins)
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = ins[0][i] * ins[1][i];
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let mut by = |factor: usize| dy[0].map(|dy| g.push1(Mul, &[dy, n.ins[factor]]));
        Ok(vec![by(1), by(0)])
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        host_launches(self, io, group, 0, move |h| {
            pointwise::map2(simd, h.input(0), h.input(1), h.output(0), |a, b| a * b)
        })
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        gpu.map(&MUL, &[], &[In(0), In(1), Out(0)], |n| Count { n }).done()
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.outs[0].numel() as f64, ..crate::graph::traffic(io) }
    }
}

/// y = by x.
#[derive(Debug, Clone)]
pub struct Scale {
    pub by: f32,
}

impl Op for Scale {
    fn describe(&self) -> Description {
        Description::of("scale")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        Ok(vec![ins[0]])
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].iter_mut().zip(ins[0]).for_each(|(y, x)| *y = self.by as f64 * x);
    }
    fn grad(&self, g: &mut Graph, _: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(self.clone(), &[dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let by = self.by;
        host_launches(self, io, group, 0, move |h| pointwise::map(simd, h.input(0), h.output(0), |x| by * x))
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        gpu.map(&SCALE, &[], &[In(0), Out(0)], |n| Scalar { n, by: self.by }).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: io.outs[0].numel() as f64, ..crate::graph::traffic(io) }
    }
}

/// y[n][c] = (x[n][c] - mean[c]) inverse[c]; inputs x [N,C], mean [C], inverse [C]. Mean and inverse are statistics of the
/// training set, not trained: they have no gradient.
#[derive(Debug, Clone)]
pub struct Standardize;

impl Op for Standardize {
    fn describe(&self) -> Description {
        Description::of("standardize")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [x, mean, inverse] if mean.dims() == [x.row()] && inverse == mean => Ok(vec![*x]),
            _ => Err(Error::job("x [N,C], mean [C] and inverse [C] are needed")),
        }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].row();
        for (i, y) in outs[0].iter_mut().enumerate() {
            *y = (ins[0][i] - ins[1][i % c]) * ins[2][i % c];
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(StandardizeGrad, &[dy, n.ins[2]])), None, None])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (rows, c) = (io.ins[0].dims()[0], io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let (x, mean, inverse) = (h.input::<f32>(0), h.input::<f32>(1), h.input::<f32>(2));
            par::rows_mut(h.output::<f32>(0), c, rows, |n, y| {
                for (i, y) in y.iter_mut().enumerate() {
                    *y = (x[n * c + i] - mean[i]) * inverse[i];
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = Channels::of(&io.ins[0]);
        gpu.each(&STANDARDIZE, &[], args.n as usize, &[In(0), In(1), In(2), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 2.0 * io.outs[0].numel() as f64, ..crate::graph::traffic(io) }
    }
}

/// dx[n][c] = dy[n][c] inverse[c]; inputs dy, inverse.
#[derive(Debug, Clone)]
pub struct StandardizeGrad;

impl Op for StandardizeGrad {
    fn describe(&self) -> Description {
        Description::of("standardize.grad")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [dy, inverse] if inverse.dims() == [dy.row()] => Ok(vec![*dy]),
            _ => Err(Error::job("dy [N,C] and inverse [C] are needed")),
        }
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].row();
        for (i, dx) in outs[0].iter_mut().enumerate() {
            *dx = ins[0][i] * ins[1][i % c];
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (rows, c) = (io.ins[0].dims()[0], io.ins[0].row());
        host_launches(self, io, group, 0, move |h| {
            let (dy, inverse) = (h.input::<f32>(0), h.input::<f32>(1));
            par::rows_mut(h.output::<f32>(0), c, rows, |n, dx| {
                for (i, dx) in dx.iter_mut().enumerate() {
                    *dx = dy[n * c + i] * inverse[i];
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let args = Channels::of(&io.ins[0]);
        gpu.each(&STANDARDIZE_GRAD, &[], args.n as usize, &[In(0), In(1), Out(0)], args).done()
    }
}

pub const FAMILY: Family = Family {
    name: "arith",
    ops: &["fill", "add", "mul", "scale", "standardize", "standardize.grad"],
    kernels: &[&FILL, &ADD, &MUL, &SCALE, &STANDARDIZE, &STANDARDIZE_GRAD],
    fuse: &[],
    cases,
};

fn cases() -> Vec<Case> {
    let (t, x, c) = (Type::f32(&[2, 3, 5, 7]), Type::f32(&[3, 41]), Type::f32(&[41]));
    vec![
        Case::new("2x3", Fill { value: -0.5, ty: Type::f32(&[2, 3]) }, &[], &[], Bound::Exact),
        Case::new("2x3x5x7", Add, &[t, t], &[0, 1], Bound::Ulps(1)),
        Case::new("2x3x5x7", Mul, &[t, t], &[0, 1], Bound::Ulps(1)),
        Case::new("2x3x5x7", Scale { by: -0.3 }, &[t], &[0], Bound::Ulps(1)),
        // The difference is rounded at up to 2 and scaled by at most 1.25: twice its own ulp at worst.
        Case::new("3x41", Standardize, &[x, c, c], &[0], Bound::Ulps(4)).draw(2, Draw::Positive),
        Case::new("3x41", StandardizeGrad, &[x, c], &[], Bound::Ulps(1)).draw(1, Draw::Positive),
    ]
}
