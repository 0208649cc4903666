/*! Between float32 and 16 bits: [`Cast`] as an op of its own. Rounding is to the nearest, ties to even. */

use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches};
use crate::launch::gpu::{Count, CudaStruct, Kernel};
use crate::launch::{Launch, Simd, half};
use crate::shape::{DType, Type};

/// FROM, TO: [`DType::code`]
const WAYS: &[&[i64]] = &[&[0, 1], &[0, 2], &[1, 0], &[2, 0]];

static CAST: Kernel = Kernel::new("cast.cu", "cast", 2, Count::TEXT).with((&["FROM", "TO"], WAYS));

/// Output 0 is input 0 in another type.
fn host(op: &dyn Op, io: &Io, group: &[Instance]) -> Vec<Launch> {
    let [from, to] = [io.ins[0].dtype, io.outs[0].dtype];
    host_launches(op, io, group, 0, move |h| match to {
        DType::F32 => half::widen(from, h.input(0), h.output(0)),
        _ => half::narrow(to, h.input(0), h.output(0)),
    })
}

/// The same by the kernel.
fn gpu(gpu: GpuCalls, io: &Io) -> Vec<Launch> {
    let ways = [io.ins[0].dtype.code(), io.outs[0].dtype.code()];
    gpu.map(&CAST, &ways, &[In(0), Out(0)], |n| Count { n }).done()
}

/// The copy of a weight in 16 bits that the layer multiplies with, in place: inputs w in float32 and the copy. Made when the
/// weights are loaded ([`Graph::prepare`]); the update of a training step renews it ([`super::optim::Update`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Copy;

impl Op for Copy {
    fn describe(&self) -> Description {
        Description::of("cast.copy").in_place(&[(0, 1)]).as_stored(&[1], &[0])
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [w, copy] if w.dtype == DType::F32 && copy.dtype.is_half() && w.shape == copy.shape => Ok(vec![*copy]),
            _ => Err(Error::job("a float32 weight and a copy of its shape in 16 bits are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].copy_from_slice(ins[0]);
    }
    fn grad(&self, _: &mut Graph, _: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        // Products of 16 bits have gradients of their weights in float32.
        Ok(vec![dy[0], None])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        host(self, io, group)
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        self::gpu(gpu, io)
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
}

/// y = x as `to`: from float32 to 16 bits, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cast {
    pub to: DType,
}

impl Op for Cast {
    fn describe(&self) -> Description {
        Description::of("cast").as_stored(&[0], &[0])
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let from = ins[0].dtype;
        if from.is_half() && self.to == DType::F32 || from == DType::F32 && self.to.is_half() {
            return Ok(vec![ins[0].of(self.to)]);
        }
        Err(Error::job(format!("no cast from {from:?} to {:?}", self.to)))
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        outs[0].copy_from_slice(ins[0]);
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let to = g.ty(n.ins[0]).dtype;
        Ok(vec![dy[0].map(|dy| if g.ty(dy).dtype == to { dy } else { g.push1(Cast { to }, &[dy]) })])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        host(self, io, group)
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        self::gpu(gpu, io)
    }
    fn counted(&self, _: &Io) -> usize {
        0
    }
}

pub const FAMILY: Family = Family { name: "cast", ops: &["cast", "cast.copy"], kernels: &[&CAST], fuse: &[], cases };

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for half in [DType::F16, DType::BF16] {
        for dims in [&[3, 5, 7][..], &[5, 7919]] {
            let wide = Type::f32(dims);
            for (from, to) in [(wide, half), (wide.of(half), DType::F32)] {
                let label = format!("{:?} to {to:?} {dims:?}", from.dtype);
                cases.push(Case::new(label, Cast { to }, &[from], &[], Bound::Exact));
            }
            let label = format!("F32 to {half:?} {dims:?}");
            cases.push(Case::new(label, Copy, &[wide, wide.of(half)], &[], Bound::Exact));
        }
    }
    cases
}
