/*! Pictures drawn by programs: compositional pattern-producing networks (Stanley 2007), node by node.

A program computes three numbers from a place: x, y, d = sqrt(x² + y²) and 1 lie in slots 0 to 3; a step applies its function
to a weighted sum of slots and writes another slot. All numbers are float64. Sine and exponential are the power series below,
of fused multiply-adds alone: a GPU that does the same (`kernels/pattern.cu`) draws the same bytes. They are within 2^-51 of
what they stand for; a byte is another one than the exact function's only where that lies as close to a step between two
bytes. */

use super::simd::{self, V16, Vectorized};
use crate::launch::Simd;
use crate::par;
use serde::{Deserialize, Serialize};
use std::f64::consts::{LN_2, LOG2_E, PI};

/// x, y, d and 1.
pub const INPUTS: usize = 4;
/// Numbers that a program has at a time, the inputs among them.
pub const SLOTS: usize = 96;
/// Words of a program's room.
pub const WORDS: usize = 4096;
/// Words before the first step, of a step without edges, and of an edge.
const HEAD: usize = 4;
const STEP: usize = 1;
const EDGE: usize = 3;
/// Pixels that a step computes at a time: 96 x 32 x 8 = 24 KiB of slots.
const PIXELS: usize = 32;

/// What a node makes of the sum p that reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// sin p
    Sine,
    /// 2 / (1 + e^-p) - 1
    Sigmoid,
    /// e^(-p²)
    Gaussian,
    /// p between -3 and 3, divided by 3
    Linear,
}

impl Function {
    /// In the order of their numbers in a program.
    pub const ALL: [Function; 4] = [Function::Sine, Function::Sigmoid, Function::Gaussian, Function::Linear];

    /// The definition.
    pub fn of(self, p: f64) -> f64 {
        match self {
            Function::Sine => p.sin(),
            Function::Sigmoid => 2.0 / (1.0 + (-p).exp()) - 1.0,
            Function::Gaussian => (-p * p).exp(),
            Function::Linear => p.clamp(-3.0, 3.0) / 3.0,
        }
    }
}

/// What x and y are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coordinates {
    /// From -1 to 1, both ends included.
    Unit,
    /// Indices of pixels, as in the authors' program; d is of coordinates from -1 to 1.
    Pixels,
}

/// How a colour is made of the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// Hue, lightness and saturation are trunc(255 |output|), the hue in half degrees: it goes round.
    Hls,
    /// Red, green and blue are round(255 (output + 1) / 2), halves up.
    Rgb,
}

impl Colour {
    #[inline]
    pub fn bytes(self, out: [f64; 3]) -> [u8; 3] {
        match self {
            // Casts to u8 keep within 0 and 255, and make 0 of NaN.
            Colour::Rgb => out.map(|o| (255.0 * (o + 1.0) / 2.0 + 0.5).floor() as u8),
            Colour::Hls => rgb_of_hls(hls(out)),
        }
    }
}

/// The bytes H, L, S of outputs.
pub fn hls(out: [f64; 3]) -> [u8; 3] {
    out.map(|o| (255.0 * o.abs()) as u8)
}

/// Red, green and blue of a hue in half degrees, lightness and saturation as OpenCV's `HLS2RGB` of bytes has them, which
/// computes in float32.
pub fn rgb_of_hls([h, l, s]: [u8; 3]) -> [u8; 3] {
    let (l, s) = (f32::from(l) / 255.0, f32::from(s) / 255.0);
    let high = if l <= 0.5 { l * (1.0 + s) } else { l + s - l * s };
    let low = 2.0 * l - high;
    let h = f32::from(h) * (6.0 / 180.0) % 6.0;
    let (sector, part) = (h.floor() as usize, h - h.floor());
    let [falling, rising] = [low + (high - low) * (1.0 - part), low + (high - low) * part];
    let rgb = match sector {
        0 => [high, rising, low],
        1 => [falling, high, low],
        2 => [low, high, rising],
        3 => [low, falling, high],
        4 => [rising, low, high],
        _ => [high, low, falling],
    };
    rgb.map(|v| (v * 255.0).round_ties_even() as u8)
}

/// How pictures are drawn: [side, side, 3] bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawing {
    pub side: usize,
    pub coordinates: Coordinates,
    pub colour: Colour,
}

impl Drawing {
    /// Column or row i from -1 to 1.
    fn unit(&self, i: usize) -> f64 {
        if self.side > 1 { 2.0 * i as f64 / (self.side - 1) as f64 - 1.0 } else { 0.0 }
    }

    /// The inputs x, y, d and 1 of a pixel.
    pub fn inputs(&self, pixel: usize) -> [f64; INPUTS] {
        let at = [pixel % self.side, pixel / self.side];
        let [x, y] = at.map(|i| self.unit(i));
        let d = x.mul_add(x, y * y).sqrt();
        match self.coordinates {
            Coordinates::Unit => [x, y, d, 1.0],
            Coordinates::Pixels => [at[0] as f64, at[1] as f64, d, 1.0],
        }
    }
}

/// One node of a graph: its function, and where its sum comes from with which weights. Sources count the inputs first, then
/// the nodes before it.
pub struct Node {
    pub function: Function,
    pub edges: Vec<(usize, f64)>,
}

/// A program: the number of steps, the slots of the three outputs; of each step its function, where its result goes (from bit 8)
/// and how many edges it has (from bit 16); of each edge its slot and its weight, the lower word first. Zeros are a program, too:
/// all outputs are x.
#[derive(Clone, Debug, PartialEq)]
pub struct Program(Vec<u32>);

impl Program {
    /// The program of nodes in an order in which every edge goes forward, and of which three are outputs; None where it would
    /// need more than [`SLOTS`] or [`WORDS`].
    pub fn new(nodes: &[Node], outputs: [usize; 3]) -> Option<Self> {
        let mut last = vec![0; INPUTS + nodes.len()];
        for (i, node) in nodes.iter().enumerate() {
            node.edges.iter().for_each(|(from, _)| last[*from] = i);
        }
        outputs.iter().for_each(|o| last[*o] = nodes.len());
        let mut free: Vec<usize> = (INPUTS..SLOTS).rev().collect();
        let mut slots: Vec<usize> = (0..INPUTS).collect();
        let mut words = vec![nodes.len() as u32, 0, 0, 0];
        for (i, node) in nodes.iter().enumerate() {
            // What is read for the last time makes room for the result.
            let mut over: Vec<usize> =
                node.edges.iter().map(|e| e.0).filter(|f| *f >= INPUTS && last[*f] == i).collect();
            over.sort_unstable();
            over.dedup();
            free.extend(over.into_iter().map(|f| slots[f]));
            let to = free.pop()?;
            words.push(node.function as u32 | (to as u32) << 8 | u32::try_from(node.edges.len()).ok()? << 16);
            for (from, weight) in &node.edges {
                let bits = weight.to_bits();
                words.extend([slots[*from] as u32, bits as u32, (bits >> 32) as u32]);
            }
            slots.push(to);
            if last[INPUTS + i] <= i {
                free.push(to); // nobody reads it
            }
        }
        outputs.iter().zip(&mut words[1..HEAD]).for_each(|(o, word)| *word = slots[*o] as u32);
        (words.len() <= WORDS).then_some(Self(words))
    }

    /// As many words as it has; those behind them mean nothing.
    pub fn words(&self) -> &[u32] {
        &self.0
    }
}

/// The room of n programs, [n, [`WORDS`]]: these, and zeros behind them.
pub fn rooms(n: usize, programs: &[Program]) -> Vec<u32> {
    let mut rooms = vec![0; n * WORDS];
    for (room, Program(words)) in rooms.chunks_exact_mut(WORDS).zip(programs) {
        room[..words.len()].copy_from_slice(words);
    }
    rooms
}

/// One step of a program.
pub struct Step<'w> {
    pub function: Function,
    pub to: usize,
    edges: &'w [u32],
}

impl Step<'_> {
    /// Slots and weights of its sum.
    pub fn edges(&self) -> impl Iterator<Item = (usize, f64)> {
        self.edges.chunks_exact(EDGE).map(|e| (e[0] as usize, f64::from_bits(u64::from(e[1]) | u64::from(e[2]) << 32)))
    }
}

/// The steps of a program.
pub fn steps(words: &[u32]) -> impl Iterator<Item = Step<'_>> {
    let mut at = HEAD;
    (0..words[0]).map(move |_| {
        let (word, edges) = (words[at], at + STEP);
        at = edges + EDGE * (word >> 16) as usize;
        Step { function: Function::ALL[(word & 3) as usize], to: (word >> 8 & 255) as usize, edges: &words[edges..at] }
    })
}

/// The slots of a program's outputs.
pub fn outputs(words: &[u32]) -> [usize; 3] {
    [1, 2, 3].map(|i| words[i] as usize)
}

/// Bytes [N,side,side,3] of programs [N, WORDS].
pub fn draw(simd: Simd, how: Drawing, programs: &[u32], y: &mut [u8]) {
    let picture = how.side * how.side * 3;
    assert_eq!(programs.len() / WORDS * picture, y.len());
    // Some 2^16 multiply-adds of a program of ordinary size.
    par::bands_mut(y, picture, 3 * 16 * PIXELS, |n, at, y| {
        simd::run(simd, Band { how, words: &programs[n * WORDS..][..WORDS], first: at / 3, y });
    });
}

/// Some pixels of a picture, from `first` on.
struct Band<'a> {
    how: Drawing,
    words: &'a [u32],
    first: usize,
    y: &'a mut [u8],
}

impl Vectorized for Band<'_> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let mut slots = [[0.0; PIXELS]; SLOTS];
        for (piece, y) in self.y.chunks_mut(3 * PIXELS).enumerate() {
            for i in 0..PIXELS {
                let inputs = self.how.inputs(self.first + piece * PIXELS + i);
                inputs.iter().enumerate().for_each(|(slot, v)| slots[slot][i] = *v);
            }
            for step in steps(self.words) {
                let mut sum = [0.0; PIXELS];
                for (from, weight) in step.edges() {
                    sum.iter_mut().zip(&slots[from]).for_each(|(s, v)| *s = v.mul_add(weight, *s));
                }
                match step.function {
                    Function::Sine => sum.iter_mut().for_each(|p| *p = sine(*p)),
                    Function::Sigmoid => sum.iter_mut().for_each(|p| *p = 2.0 / (1.0 + exponential(-*p)) - 1.0),
                    Function::Gaussian => sum.iter_mut().for_each(|p| *p = exponential(-*p * *p)),
                    Function::Linear => sum.iter_mut().for_each(|p| *p = p.clamp(-3.0, 3.0) / 3.0),
                }
                slots[step.to] = sum;
            }
            let from = outputs(self.words);
            for (i, y) in y.chunks_exact_mut(3).enumerate() {
                y.copy_from_slice(&self.how.colour.bytes(from.map(|slot| slots[slot][i])));
            }
        }
    }
}

/// What π leaves beyond float64.
const PI_REST: f64 = 1.2246467991473532e-16;
/// The same of ln 2.
const LN_2_REST: f64 = 2.3190468138462996e-17;
/// Where e^p is a power of two beyond float64's.
const LARGEST: f64 = 700.0;

/// sin p for |p| below 2^51: the series of p less k π, which is exact to 2^-105 k.
#[inline(always)]
fn sine(p: f64) -> f64 {
    let k = (p * (1.0 / PI)).round_ties_even();
    let r = (-k).mul_add(PI_REST, (-k).mul_add(PI, p));
    // At odd k the sine is the negative one.
    let odd = k - 2.0 * (k * 0.5).round_ties_even();
    let r = r * (1.0 - 2.0 * odd.abs());
    let s = r * r;
    let mut y = 1.0 / SINE[9];
    for n in (0..9).rev() {
        y = y.mul_add(s, 1.0 / SINE[n]);
    }
    (y * s).mul_add(r, r)
}

/// 3!, 5! to 21!, every other one negative: the sine is r + r³ / -3! + r⁵ / 5! ...
const SINE: [f64; 10] = {
    let (mut all, mut n, mut value) = ([0.0; 10], 0, 1.0);
    while n < 10 {
        value *= -((2 * n + 2) as f64 * (2 * n + 3) as f64);
        all[n] = value;
        n += 1;
    }
    all
};

/// e^p: 2^k times the series of p less k ln 2, for p within ±[`LARGEST`], the nearest of which is taken for others.
#[inline(always)]
fn exponential(p: f64) -> f64 {
    let p = p.clamp(-LARGEST, LARGEST);
    let k = (p * LOG2_E).round_ties_even();
    let r = (-k).mul_add(LN_2_REST, (-k).mul_add(LN_2, p));
    let mut y = 1.0 / EXPONENTIAL[13];
    for n in (0..13).rev() {
        y = y.mul_add(r, 1.0 / EXPONENTIAL[n]);
    }
    // k + 2^52 + 2^51 has k in its lowest bits.
    let power = (k + 6755399441055744.0).to_bits().wrapping_add(1023) << 52;
    y * f64::from_bits(power)
}

/// 0! to 13!.
const EXPONENTIAL: [f64; 14] = {
    let (mut all, mut n) = ([1.0; 14], 1);
    while n < 14 {
        all[n] = all[n - 1] * n as f64;
        n += 1;
    }
    all
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_as_good_as_the_functions_of_the_library() {
        let (mut sines, mut exponentials) = (0.0f64, 0.0f64);
        for i in -200_000..200_000 {
            let p = f64::from(i) * 0.00173 * if i % 3 == 0 { 1.0 } else { 1e3 };
            sines = sines.max((sine(p) - p.sin()).abs());
            let p = f64::from(i) * 0.003;
            exponentials = exponentials.max((exponential(p) / p.exp() - 1.0).abs());
        }
        let unit = 2f64.powi(-52);
        assert!(sines <= 2.0 * unit && exponentials <= 2.0 * unit, "{sines:e} {exponentials:e}");
        // Where outputs have their largest and smallest bytes.
        assert_eq!([exponential(0.0), exponential(-0.0), sine(0.0), sine(PI / 2.0)], [1.0, 1.0, 0.0, 1.0]);
        assert!([1e300, 1e6].iter().all(|p| exponential(-p) < 1e-300 && exponential(*p) > 1e300));
    }

    /// Slots are given to others once nobody reads them any more.
    #[test]
    fn long_chains_need_few_slots() {
        let chain = |n: usize| -> Vec<Node> {
            (0..n).map(|i| Node { function: Function::Sine, edges: vec![(i + 3, 1.0), (0, 0.5)] }).collect()
        };
        let program = Program::new(&chain(500), [503; 3]).expect("two slots at a time");
        assert!(steps(program.words()).all(|s| s.to < INPUTS + 2));
        assert_eq!(Program::new(&chain(600), [603; 3]), None, "more words than there is room for");
        let mut wide: Vec<Node> = (0..92).map(|_| Node { function: Function::Sine, edges: vec![(0, 1.0)] }).collect();
        let all = |n: usize| (INPUTS..INPUTS + n).map(|i| (i, 0.1)).collect();
        wide.push(Node { function: Function::Linear, edges: all(92) });
        assert!(Program::new(&wide, [INPUTS + 92; 3]).is_some(), "the sum takes the place of a term");
        wide.insert(0, Node { function: Function::Sine, edges: vec![(0, 1.0)] });
        wide[93].edges = all(93);
        assert_eq!(Program::new(&wide, [INPUTS + 93; 3]), None, "93 values and four inputs at a time");
    }
}
