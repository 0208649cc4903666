/*! Moving values without changing them: concatenation, slices, flattening in both orders. */

use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out, Update};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Operand, Value, host_launches};
use crate::launch::gpu::{CudaStruct, Divisor, Kernel, VECTOR, count, vector};
use crate::launch::{Launch, Simd};
use crate::par;
use crate::shape::Type;

crate::cuda_struct! {
    /// Columns of [pixels, x_width] moved to [pixels, y_width]: elements, columns moved, from which on, to which on. In units
    /// of the channels that a thread moves.
    pub struct Columns { n: u32, width: Divisor, x_width: u32, from: u32, y_width: u32, to: u32 }
}

crate::cuda_struct! {
    /// Matrices of one shape, in tiles: how many beside each other, and in all.
    pub struct Matrix { rows: u32, columns: u32, across: Divisor, tiles: Divisor }
}

static COPY_COLUMNS: Kernel = Kernel::new("layout.cu", "copy_columns", 2, Columns::TEXT).with(VECTOR);
static TRANSPOSE: Kernel = Kernel::new("transpose.cu", "transpose", 2, Matrix::TEXT);
/// Rows and columns that a block of [`TRANSPOSE`] moves; `TILE` there.
const TILE: usize = 32;

/// Appends a launch that moves `width` columns of `pixels` rows.
fn copy_columns<'a>(
    gpu: GpuCalls<'a>,
    operands: [Operand; 2],
    pixels: usize,
    width: usize,
    [x_width, from]: [usize; 2],
    [y_width, to]: [usize; 2],
) -> GpuCalls<'a> {
    let v = vector(&[width, x_width, from, y_width, to]);
    let [x_width, from, y_width, to] = [x_width, from, y_width, to].map(|n| count(n / v));
    let args = Columns { n: count(pixels * width / v), width: Divisor::new(width / v), x_width, from, y_width, to };
    gpu.each(&COPY_COLUMNS, &[v as i64], args.n as usize, &operands, args)
}

/// Every image of x, a matrix [rows, columns], copied to [columns, rows].
fn transpose(gpu: GpuCalls, images: usize, [rows, columns]: [usize; 2]) -> Vec<Launch> {
    let (down, across) = (rows.div_ceil(TILE), columns.div_ceil(TILE));
    let of = Divisor::new;
    let args = Matrix { rows: count(rows), columns: count(columns), across: of(across), tiles: of(down * across) };
    gpu.call(&TRANSPOSE, &[], [images * down * across, 1], &[In(0), Out(0)], args).done()
}

/// One tensor copied to another.
fn copy(gpu: GpuCalls, n: usize) -> Vec<Launch> {
    copy_columns(gpu, [In(0), Out(0)], 1, n, [n, 0], [n, 0]).done()
}

/// y [.., sum of C] = inputs [.., C] side by side: rows [N,F], or images [N,H,W,C] of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Concat;

/// `t` with another innermost extent.
fn widened(t: &Type, channels: usize) -> Type {
    let mut dims = t.dims().to_vec();
    *dims.last_mut().expect("checked by infer") = channels;
    Type::f32(&dims)
}

impl Op for Concat {
    fn describe(&self) -> Description {
        Description::of("concat")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let first = ins.first().ok_or_else(|| Error::job("at least one input is needed"))?;
        if first.dims().len() < 2 || ins.iter().any(|t| widened(t, 1) != widened(first, 1)) {
            return Err(Error::job("inputs may differ in their last extent only"));
        }
        Ok(vec![widened(first, ins.iter().map(Type::channels).sum())])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let mut at = 0;
        for pixel in 0..io.outs[0].pixels() {
            for (x, c) in ins.iter().zip(io.ins.iter().map(Type::channels)) {
                outs[0][at..at + c].copy_from_slice(&x[pixel * c..][..c]);
                at += c;
            }
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dy[0] else { return Ok(vec![None; n.ins.len()]) };
        let mut from = 0;
        let slice = |v: &Value| {
            let width = g.ty(*v).channels();
            from += width;
            Some(g.push1(Slice { from: from - width, width }, &[dy]))
        };
        Ok(n.ins.iter().map(slice).collect())
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let widths: Vec<usize> = io.ins.iter().map(Type::channels).collect();
        let (pixels, width) = (io.outs[0].pixels(), io.outs[0].channels());
        host_launches(self, io, group, 0, move |h| {
            par::rows_mut(h.output::<f32>(0), width, pixels, |pixel, mut y| {
                for (i, &w) in widths.iter().enumerate() {
                    let (head, rest) = y.split_at_mut(w);
                    head.copy_from_slice(&h.input::<f32>(i)[pixel * w..][..w]);
                    y = rest;
                }
            })
        })
    }
    fn gpu(&self, mut gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (pixels, y_width) = (io.outs[0].pixels(), io.outs[0].channels());
        let mut to = 0;
        for (i, width) in io.ins.iter().map(Type::channels).enumerate() {
            gpu = copy_columns(gpu, [In(i), Update(0)], pixels, width, [width, 0], [y_width, to]);
            to += width;
        }
        gpu.done()
    }
}

/// y [.., width] = x [.., C] from channel `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slice {
    pub from: usize,
    pub width: usize,
}

impl Op for Slice {
    fn describe(&self) -> Description {
        Description::of("slice")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins[0].dims().len() < 2 || self.from.checked_add(self.width).is_none_or(|to| to > ins[0].channels()) {
            return Err(Error::job(format!("{} columns from {} on do not exist", self.width, self.from)));
        }
        Ok(vec![widened(&ins[0], self.width)])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let c = io.ins[0].channels();
        for (at, y) in outs[0].iter_mut().enumerate() {
            *y = ins[0][at / self.width * c + self.from + at % self.width];
        }
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, c, pixels) = (*self, io.ins[0].channels(), io.outs[0].pixels());
        host_launches(self, io, group, 0, move |h| {
            let x = h.input::<f32>(0);
            par::rows_mut(h.output::<f32>(0), op.width, pixels, |pixel, y| {
                y.copy_from_slice(&x[pixel * c + op.from..][..op.width])
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (pixels, c) = (io.outs[0].pixels(), io.ins[0].channels());
        copy_columns(gpu, [In(0), Out(0)], pixels, self.width, [c, self.from], [self.width, 0]).done()
    }
}

/// y [N, C H W] or [N, H W C] from x [N,H,W,C]: `chw` is PyTorch's order, the other is ours and Keras's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flatten {
    pub chw: bool,
}

/// Where element `i` of a flattened image comes from.
fn source(chw: bool, x: &[usize], i: usize) -> usize {
    let &[_, h, w, c] = x else { unreachable!("checked by infer") };
    if chw { i % (h * w) * c + i / (h * w) } else { i }
}

impl Op for Flatten {
    fn describe(&self) -> Description {
        Description::of("flatten")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins[0].dims().len() != 4 {
            return Err(Error::job("x must be [N,H,W,C]"));
        }
        Ok(vec![Type::f32(&[ins[0].dims()[0], ins[0].row()])])
    }
    fn eval(&self, io: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let f = io.ins[0].row();
        for (at, y) in outs[0].iter_mut().enumerate() {
            *y = ins[0][at / f * f + source(self.chw, io.ins[0].dims(), at % f)];
        }
    }
    fn grad(&self, g: &mut Graph, n: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let x = g.ty(n.ins[0]);
        Ok(vec![dy[0].map(|dy| g.push1(Unflatten { chw: self.chw, x }, &[dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (chw, t) = (self.chw, io.ins[0]);
        host_launches(self, io, group, 0, move |h| {
            let (x, f) = (h.input::<f32>(0), t.row());
            par::rows_mut(h.output::<f32>(0), f, t.dims()[0], |n, y| {
                let x = &x[n * f..][..f];
                y.iter_mut().enumerate().for_each(|(i, y)| *y = x[source(chw, t.dims(), i)]);
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let (n, c) = (io.ins[0].dims()[0], io.ins[0].channels());
        if self.chw { transpose(gpu, n, [io.ins[0].row() / c, c]) } else { copy(gpu, io.ins[0].numel()) }
    }
}

/// The inverse of [`Flatten`]; `x` is the type it restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unflatten {
    pub chw: bool,
    pub x: Type,
}

impl Op for Unflatten {
    fn describe(&self) -> Description {
        Description::of("unflatten")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        if ins[0].dims() == [self.x.dims()[0], self.x.row()] {
            Ok(vec![self.x])
        } else {
            Err(Error::job(format!("does not unflatten to {:?}", self.x.shape)))
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let f = self.x.row();
        for (at, x) in ins[0].iter().enumerate() {
            outs[0][at / f * f + source(self.chw, self.x.dims(), at % f)] = *x;
        }
    }
    fn grad(&self, g: &mut Graph, _: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![dy[0].map(|dy| g.push1(Flatten { chw: self.chw }, &[dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (chw, t) = (self.chw, self.x);
        host_launches(self, io, group, 0, move |h| {
            let (x, f) = (h.input::<f32>(0), t.row());
            par::rows_mut(h.output::<f32>(0), f, t.dims()[0], |n, y| {
                x[n * f..][..f].iter().enumerate().for_each(|(i, x)| y[source(chw, t.dims(), i)] = *x);
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, _: &Io) -> Vec<Launch> {
        let (n, c) = (self.x.dims()[0], self.x.channels());
        if self.chw { transpose(gpu, n, [c, self.x.row() / c]) } else { copy(gpu, self.x.numel()) }
    }
}

pub const FAMILY: Family = Family {
    name: "layout",
    ops: &["concat", "slice", "flatten", "unflatten"],
    kernels: &[&COPY_COLUMNS, &TRANSPOSE],
    fuse: &[],
    cases,
};

fn cases() -> Vec<Case> {
    let f = |w| Type::f32(&[3, w]);
    let image = |c| Type::f32(&[2, 3, 5, c]);
    let x = Type::f32(&[2, 3, 2, 4]);
    let mut cases = vec![
        Case::new("5+2+4", Concat, &[f(5), f(2), f(4)], &[0, 1, 2], Bound::Exact),
        Case::new("NHWC 16+3+9", Concat, &[image(16), image(3), image(9)], &[0, 1, 2], Bound::Exact),
        Case::new("channels 4..9", Slice { from: 4, width: 5 }, &[image(17)], &[], Bound::Exact),
        Case::new("1 of 3..7", Slice { from: 3, width: 4 }, &[f(9)], &[], Bound::Exact),
    ];
    for chw in [false, true] {
        let label = if chw { "CHW" } else { "HWC" };
        cases.push(Case::new(label, Flatten { chw }, &[x], &[0], Bound::Exact));
        cases.push(Case::new(label, Unflatten { chw, x }, &[Type::f32(&[2, 24])], &[0], Bound::Exact));
    }
    cases
}
