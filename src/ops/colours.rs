/*! Colours of float images, mixed pixel by pixel: how a picture that a network makes becomes what another one was trained on,
so that it can be differentiated. Bytes of photographs go through [`super::image`]. */

use super::{Bound, Case, Family};
use crate::error::{Error, Result};
use crate::graph::Operand::{In, Out};
use crate::graph::{Description, GpuCalls, Graph, Instance, Io, Node, Op, Value, host_launches, traffic};
use crate::launch::gpu::{CudaStruct, Kernel, count};
use crate::launch::{Cost, Launch, Simd};
use crate::par;
use crate::preprocess::{Order, Preprocess};
use crate::shape::Type;

crate::cuda_struct! {
    /// Pixels, the matrix row by row, and what is added to each channel.
    pub struct Mixing { pixels: u32, by: [f32; 9], add: [f32; 3] }
}

static COLOURS: Kernel = Kernel::new("colours.cu", "colours", 2, Mixing::TEXT);

/// y[..,c] = add[c] + the sum over k of by[c][k] x[..,k]; x and y [N,H,W,3].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Colours {
    pub by: [[f32; 3]; 3],
    pub add: [f32; 3],
}

/// Parts of red, green and blue in the luma that Pillow makes: whole 65536ths.
const LUMA: [f64; 3] = [19595.0 / 65536.0, 38470.0 / 65536.0, 7471.0 / 65536.0];

impl Colours {
    /// From RGB in [-1, 1], where 0 to 255 is meant, to what a network was trained on: y = (byte scale - mean) / std in the
    /// network's channel order, as [`super::image::Normalize`] has it, of the luma where the network sees no colours.
    pub fn seen_by(p: &Preprocess) -> Self {
        let source = |c: usize| if p.order == Order::Bgr { 2 - c } else { c };
        let part = |c: usize, k: usize| match p.grey {
            true => LUMA[k],
            false => f64::from(u8::from(k == source(c))),
        };
        // The byte of x is 127.5 x + 127.5.
        let (half, [mean, std]) = (127.5 * f64::from(p.scale), [p.mean, p.std].map(|v| v.map(f64::from)));
        Self {
            by: [0, 1, 2].map(|c| [0, 1, 2].map(|k| (half * part(c, k) / std[c]) as f32)),
            add: [0, 1, 2].map(|c| ((half - mean[c]) / std[c]) as f32),
        }
    }
}

impl Op for Colours {
    fn describe(&self) -> Description {
        Description::of("colours")
    }
    fn infer(&self, ins: &[Type]) -> Result<Vec<Type>> {
        match ins {
            [x] if matches!(x.dims(), [_, _, _, 3]) && *x == Type::f32(x.dims()) => Ok(vec![*x]),
            _ => Err(Error::job("float32 images [N,H,W,3] are needed")),
        }
    }
    fn eval(&self, _: &Io, ins: &[&[f64]], outs: &mut [Vec<f64>]) {
        for (y, x) in outs[0].chunks_exact_mut(3).zip(ins[0].chunks_exact(3)) {
            for (y, (by, add)) in y.iter_mut().zip(self.by.iter().zip(self.add)) {
                *y = f64::from(add) + by.iter().zip(x).map(|(by, x)| f64::from(*by) * x).sum::<f64>();
            }
        }
    }
    /// The same with the matrix turned over and nothing added.
    fn grad(&self, g: &mut Graph, _: &Node, dy: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let back = Self { by: [0, 1, 2].map(|c| [0, 1, 2].map(|k| self.by[k][c])), add: [0.0; 3] };
        Ok(vec![dy[0].map(|dy| g.push1(back, &[dy]))])
    }
    fn host(&self, io: &Io, group: &[Instance], _: Simd) -> Vec<Launch> {
        let (op, pixels) = (*self, io.ins[0].pixels());
        host_launches(self, io, group, 0, move |h| {
            let x = h.input::<f32>(0);
            par::rows_mut(h.output::<f32>(0), 3, pixels, |i, y| {
                let x = &x[3 * i..][..3];
                for (y, (&[red, green, blue], add)) in y.iter_mut().zip(op.by.iter().zip(op.add)) {
                    *y = red * x[0] + green * x[1] + blue * x[2] + add;
                }
            })
        })
    }
    fn gpu(&self, gpu: GpuCalls, io: &Io) -> Vec<Launch> {
        let by = std::array::from_fn(|i| self.by[i / 3][i % 3]);
        let args = Mixing { pixels: count(io.ins[0].pixels()), by, add: self.add };
        gpu.each(&COLOURS, &[], args.pixels as usize, &[In(0), Out(0)], args).done()
    }
    fn cost(&self, io: &Io) -> Cost {
        Cost { flops: 6.0 * io.outs[0].numel() as f64, ..traffic(io) }
    }
}

pub const FAMILY: Family = Family { name: "colours", ops: &["colours"], kernels: &[&COLOURS], fuse: &[], cases };

fn cases() -> Vec<Case> {
    let x = Type::f32(&[2, 9, 17, 3]);
    let of = |(name, p, _): &(&str, Preprocess, _)| Case::new(*name, Colours::seen_by(p), &[x], &[], Bound::Ulps(8));
    let mut cases: Vec<Case> = crate::preprocess::PRESETS.iter().map(of).collect();
    // Three products and three sums, each at most 3.2 where some y is near 2.
    let op = Colours { by: [[0.5, -0.25, 1.0], [0.0, 0.75, 0.3], [1.0, 0.1, -0.6]], add: [0.5, -1.0, 0.25] };
    cases.push(Case::new("any", op, &[Type::f32(&[1, 3, 5, 3])], &[0], Bound::Ulps(12)));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::image::Normalize;

    /// What it makes of -1 to 1 is what is made of bytes.
    #[test]
    fn agrees_with_what_bytes_become() {
        let bytes: Vec<f64> = (0..30).map(|i| f64::from(i * 67 % 256)).collect();
        let x: Vec<f64> = bytes.iter().map(|b| b / 127.5 - 1.0).collect();
        let (u8s, floats) = (Type::new(crate::shape::DType::U8, &[1, 2, 5, 3]), Type::f32(&[1, 2, 5, 3]));
        for (name, p, _) in crate::preprocess::PRESETS.iter().filter(|p| !p.1.grey) {
            let [mut want, mut got] = [(); 2].map(|()| vec![vec![f64::NAN; 30]]);
            Normalize::from(p).eval(&Io { ins: &[u8s], outs: &[floats] }, &[&bytes], &mut want);
            Colours::seen_by(p).eval(&Io { ins: &[floats], outs: &[floats] }, &[&x], &mut got);
            // Attributes are float32: half a unit of each of four.
            let largest = want[0].iter().fold(0.0f64, |m, y| m.max(y.abs()));
            assert!(want[0].iter().zip(&got[0]).all(|(w, g)| (w - g).abs() <= 3e-7 * largest), "{name}");
        }
        let grey = crate::preprocess::PRESETS.iter().find(|p| p.1.grey).expect("one sees no colours");
        let mut got = vec![vec![f64::NAN; 3]];
        let one = Type::f32(&[1, 1, 1, 3]);
        Colours::seen_by(&grey.1).eval(&Io { ins: &[one], outs: &[one] }, &[&[1.0, -1.0, -1.0]], &mut got);
        assert!(got[0].iter().all(|y| (y - 0.299).abs() < 1e-5), "{got:?}");
    }
}
