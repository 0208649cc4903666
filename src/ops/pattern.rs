/*! Pictures drawn where the model that rates them runs: programs go to the device, pictures need not.
[`host::pattern`](crate::host::pattern) says what a program is. */

use super::{Bound, Case, Draw, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::host::pattern::{self, Colour, Coordinates, Drawing, Function, INPUTS, Program, SLOTS, WORDS};
use crate::launch::gpu::{CudaStruct, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::rng::Rng;
use crate::shape::{DType, Type};

crate::cuda_struct! {
    /// The side of a picture in pixels, and whether x and y count pixels and colours are red, green and blue.
    pub struct Square { side: u32, pixels: u32, rgb: u32 }
}

/// A thread has a pixel and all its slots: 64 x 96 x 8 = 48 KiB, what every GPU gives to a block.
static DRAW: Kernel = Kernel { threads: 64, ..Kernel::new("pattern.cu", "pattern_draw", 2, Square::TEXT) };

/// y: u8 RGB pictures [N,side,side,3] of programs U32 [N, [`WORDS`]].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pattern(pub Drawing);

/// The type of n programs.
pub fn programs_type(n: usize) -> Type {
    Type::new(DType::U32, &[n, WORDS])
}

impl Op for Pattern {
    fn describe(&self) -> Description {
        Description::of("pattern.draw")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        let side = self.0.side;
        match ins {
            [x] if x.dims().len() == 2 && *x == programs_type(x.dims()[0]) && side > 0 => {
                Ok(vec![Type::new(DType::U8, &[x.dims()[0], side, side, 3])])
            }
            _ => Err(Error::job(format!("programs (U32 [N,{WORDS}]) and a side are needed"))),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        let how = self.0;
        let pictures = outs[0].chunks_exact_mut(3 * how.side * how.side);
        for (words, y) in ins[0].chunks_exact(WORDS).zip(pictures) {
            let words: Vec<u32> = words.iter().map(|w| *w as u32).collect();
            for (pixel, y) in y.chunks_exact_mut(3).enumerate() {
                let out = outputs(&words, how.inputs(pixel));
                y.iter_mut().zip(how.colour.bytes(out)).for_each(|(y, byte)| *y = byte.into());
            }
        }
    }
    /// Programs have no gradient.
    fn grad(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None])
    }
    fn host(&self, io: &Io, group: &[Instance], simd: Simd) -> Vec<Launch> {
        let how = self.0;
        host_launches(self, io, group, 0, move |h| {
            pattern::draw(simd, how, h.input::<u32>(0), h.output::<u8>(0));
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let Drawing { side, coordinates, colour } = self.0;
        let [pixels, rgb] = [coordinates == Coordinates::Pixels, colour == Colour::Rgb].map(u32::from);
        let grid = [(side * side).div_ceil(DRAW.threads as usize), io.ins[0].dims()[0]];
        gpu.call(&DRAW, &[], grid, &[In(0), Out(0)], Square { side: count(side), pixels, rgb }).done()
    }
    /// Pixels of a picture, and bytes of one.
    fn counted(&self, io: &Io) -> usize {
        io.outs[0].row()
    }
    /// What a program of a dozen steps takes, most of it power series.
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 600.0 * io.outs[0].pixels() as f64, ..traffic(io) }
    }
}

/// The definition: what a program makes of its inputs.
pub fn outputs(words: &[u32], inputs: [f64; INPUTS]) -> [f64; 3] {
    let mut slots = [f64::NAN; SLOTS];
    slots[..INPUTS].copy_from_slice(&inputs);
    for step in pattern::steps(words) {
        slots[step.to] = step.function.of(step.edges().map(|(from, weight)| weight * slots[from]).sum());
    }
    pattern::outputs(words).map(|slot| slots[slot])
}

/// n programs to test with, of none to forty steps.
pub fn sample(n: usize, rng: &mut Rng) -> Vec<u32> {
    let mut program = |i: usize| {
        let steps = [7, 0, 40, 3, 1][i % 5];
        let node = |k: usize, rng: &mut Rng| {
            let edges = 1 + rng.below(4);
            let mut weight = || 3.0 * (2.0 * f64::from(rng.uniform()) - 1.0);
            let weights: Vec<f64> = (0..edges).map(|_| weight()).collect();
            let edges = weights.into_iter().map(|w| (rng.below(INPUTS + k), w)).collect();
            pattern::Node { function: Function::ALL[(i + k) % 4], edges }
        };
        let nodes: Vec<_> = (0..steps).map(|k| node(k, rng)).collect();
        let last = INPUTS + steps - 1;
        Program::new(&nodes, [last, last - 1, 2]).expect("small")
    };
    let programs: Vec<Program> = (0..n).map(&mut program).collect();
    pattern::rooms(n, &programs)
}

pub const FAMILY: Family = Family { name: "pattern", ops: &["pattern.draw"], kernels: &[&DRAW], fuse: &[], cases };

/// No rounding is allowed: bytes differ only where an output lies within some 2^-50 of a step, and none here does.
fn cases() -> Vec<Case> {
    let case = |n: usize, side: usize, coordinates, colour| {
        let op = Pattern(Drawing { side, coordinates, colour });
        let label = format!("{n} of {side} {coordinates:?} {colour:?}");
        Case::new(label, op, &[programs_type(n)], &[], Bound::Exact).draw(0, Draw::Programs)
    };
    vec![
        case(5, 19, Coordinates::Unit, Colour::Hls),
        case(3, 16, Coordinates::Unit, Colour::Rgb),
        case(4, 13, Coordinates::Pixels, Colour::Hls),
        case(1, 1, Coordinates::Pixels, Colour::Rgb),
    ]
}
