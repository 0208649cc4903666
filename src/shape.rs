/*! Shapes, element types and window geometry: floor 0, no dependencies but [`crate::error`].

Letters are the field's: N images, H x W pixels, C channels, K filters of R x S taps, P x Q output pixels.
Activations are NHWC, filters KRSC, dense weights [out, in]. */

use crate::error::{Error, Result};
use half::{bf16, f16};
use std::fmt;

/// Bytes that all values of a graph may take together, elements counted as float64: the address space of a process. Sizes
/// below it can be doubled, rounded up and multiplied by the constants of any routine without coming near `isize::MAX`.
pub const MOST: usize = 1 << 47;

/// The product of extents; None where it is above [`MOST`]. Zeros count as ones: an extent of zero must not hide an overflow
/// of the others, which would then strike whoever multiplies only some of them.
pub fn product(extents: &[usize]) -> Option<usize> {
    extents.iter().try_fold(1usize, |n, e| n.checked_mul((*e).max(1))).filter(|n| *n <= MOST)
}

/// Element type of a value.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    #[default]
    F32,
    /// IEEE binary16: 11 significant bits, up to 65,504.
    F16,
    /// The upper half of a float32: 8 significant bits.
    BF16,
    /// Image bytes as decoded.
    U8,
    /// Class labels.
    I32,
    /// Counters and seeds of the random generator.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::U8 => 1,
        }
    }
    /// What kernels call it: `Stored` of `kernels/half.cuh`.
    pub fn code(self) -> i64 {
        match self {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::BF16 => 2,
            DType::U8 | DType::I32 | DType::U32 => unreachable!("kernels know it by name"),
        }
    }
    /// Whether numbers of this type are stored in 16 bits; arithmetic on them is float32.
    pub fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::BF16)
    }
    pub fn is_float(self) -> bool {
        self == DType::F32 || self.is_half()
    }
    /// The nearest number of this type, ties to even. Integers and float32 pass as they are: the definitions compute in
    /// float64, and storage in 16 bits is part of what an op with such a result is defined as.
    pub fn round(self, x: f64) -> f64 {
        match self {
            DType::F16 => f16::from_f32(sticky(x)).to_f64(),
            DType::BF16 => bf16::from_f32(sticky(x)).to_f64(),
            _ => x,
        }
    }
}

/// x in float32, inexact results made odd: what is rounded to 16 bits from here is rounded once.
pub fn sticky(x: f64) -> f32 {
    let near = x as f32;
    if near as f64 == x || !x.is_finite() {
        return near;
    }
    let toward_zero = near.to_bits() - (near.abs() as f64 > x.abs()) as u32;
    f32::from_bits(toward_zero | 1)
}

/// Up to four extents, outermost first: NHWC for images, KRSC for filters, [out, in] for dense weights.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    extents: [usize; 4],
    rank: u8,
}

impl Shape {
    /// One number.
    pub const ONE: Shape = Shape { extents: [1; 4], rank: 1 };

    /// Panics on more than four extents: shapes come from our own builders.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "at most four extents, got {dims:?}");
        let mut extents = [1; 4];
        extents[..dims.len()].copy_from_slice(dims);
        Self { extents, rank: dims.len() as u8 }
    }
    pub fn dims(&self) -> &[usize] {
        &self.extents[..self.rank as usize]
    }
    pub fn numel(&self) -> usize {
        self.dims().iter().product()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// Shape and element type of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Type {
    pub shape: Shape,
    pub dtype: DType,
}

impl Type {
    pub fn new(dtype: DType, dims: &[usize]) -> Self {
        Self { shape: Shape::new(dims), dtype }
    }
    pub fn f32(dims: &[usize]) -> Self {
        Self::new(DType::F32, dims)
    }
    /// The same extents of another element type.
    pub fn of(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }
    pub fn bytes(&self) -> usize {
        self.numel() * self.dtype.bytes()
    }
    /// What this takes as float64, the widest form a value is kept in. Fails where an extent is zero, since no kernel or
    /// routine has anything to do for it, and where the product of the extents cannot be counted ([`MOST`]). Every value of
    /// a graph has passed here, so that products of its extents need no further check.
    pub fn room(&self) -> Result<usize> {
        let (shape, dtype) = (self.shape, self.dtype);
        if shape.dims().contains(&0) {
            return Err(Error::job(format!("{dtype:?} {shape:?} has no elements")).fix("make every extent at least 1"));
        }
        let bytes = product(shape.dims()).and_then(|n| product(&[n, 8]));
        let problem = || format!("{dtype:?} {shape:?} is larger than the address space of a process");
        bytes.ok_or_else(|| Error::job(problem()).fix("make its extents smaller"))
    }
    /// The innermost extent: C of [N,H,W,C], F of [N,F].
    pub fn channels(&self) -> usize {
        *self.dims().last().unwrap_or(&1)
    }
    /// Everything but the innermost extent: the pixels of all images.
    pub fn pixels(&self) -> usize {
        self.dims().iter().rev().skip(1).product()
    }
    /// Elements of one image (or one row): everything but the first extent.
    pub fn row(&self) -> usize {
        self.dims().iter().skip(1).product()
    }
}

/// The element type that the operands of a product share: float32, or 16 bits with float32 sums.
pub fn storage(a: &Type, b: &Type) -> Result<DType> {
    if a.dtype == b.dtype && a.dtype.is_float() {
        return Ok(a.dtype);
    }
    Err(Error::job(format!("{:?} times {:?}: both must be of one floating-point type", a.dtype, b.dtype)))
}

/// A sliding window over H x W: the geometry that convolution and pooling share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Window {
    /// R, S
    pub size: [usize; 2],
    pub stride: [usize; 2],
    /// top, left, bottom, right
    pub pad: [usize; 4],
    pub dilation: [usize; 2],
    /// Output extents round up instead of down; the last window still begins inside the image or its leading
    /// padding (PyTorch's `ceil_mode`).
    pub ceil: bool,
}

impl Window {
    /// A square window with equal padding on all sides.
    pub fn square(size: usize, stride: usize, pad: usize) -> Self {
        Self { size: [size; 2], stride: [stride; 2], pad: [pad; 4], dilation: [1; 2], ceil: false }
    }

    /// A square window with Keras's and TensorFlow's "same" padding: ceil(extent / stride) outputs of x [N,H,W,C], and
    /// an odd pixel of padding goes below and to the right.
    pub fn same(size: usize, stride: usize, x: &[usize]) -> Self {
        // Numbers that make no window pass here, and `out` refuses them.
        let total = |axis: usize| {
            let extent = x.get(axis).copied().unwrap_or(1);
            let last = extent.div_ceil(stride.max(1)).saturating_sub(1).saturating_mul(stride);
            last.saturating_add(size).saturating_sub(extent)
        };
        let [h, w] = [total(1), total(2)];
        Self { pad: [h / 2, w / 2, h.div_ceil(2), w.div_ceil(2)], ..Self::square(size, stride, 0) }
    }

    /// [H, W] -> [P, Q]. Fails when the window does not fit the padded image.
    pub fn out(&self, hw: [usize; 2]) -> Result<[usize; 2]> {
        let mut pq = [0; 2];
        for a in 0..2 {
            if self.size[a] == 0 || self.stride[a] == 0 || self.dilation[a] == 0 {
                return Err(Error::job(format!("window extents must be positive: {self:?}")));
            }
            let each = [hw[a], self.size[a], self.stride[a], self.pad[a], self.pad[a + 2], self.dilation[a]];
            if each.iter().any(|n| *n > MOST) || product(&[self.dilation[a], self.size[a]]).is_none() {
                return Err(Error::job(format!("numbers too large for a window: {self:?} over {hw:?} pixels")));
            }
            let span = self.dilation[a] * (self.size[a] - 1) + 1;
            let padded = hw[a] + self.pad[a] + self.pad[a + 2];
            if hw[a] == 0 || padded < span {
                return Err(Error::job(format!(
                    "a {}x{} window (dilation {}x{}) does not fit {}x{} pixels with padding {:?}",
                    self.size[0], self.size[1], self.dilation[0], self.dilation[1], hw[0], hw[1], self.pad
                )));
            }
            let room = padded - span;
            pq[a] = if self.ceil {
                let n = room.div_ceil(self.stride[a]) + 1;
                // The last window must not begin in the trailing padding.
                if (n - 1) * self.stride[a] >= hw[a] + self.pad[a] { n - 1 } else { n }
            } else {
                room / self.stride[a] + 1
            };
        }
        Ok(pq)
    }

    /// The input row or column under tap `tap` of output position `out` along `axis`, or None in the padding.
    #[inline(always)]
    pub fn input(&self, axis: usize, out: usize, tap: usize, extent: usize) -> Option<usize> {
        let at = out * self.stride[axis] + tap * self.dilation[axis];
        let i = at.wrapping_sub(self.pad[axis]);
        (at >= self.pad[axis] && i < extent).then_some(i)
    }
}

/// All extents of one convolution: x [N,H,W,C] * w [K,R,S,C/groups] -> y [N,P,Q,K].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConvShape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub k: usize,
    pub p: usize,
    pub q: usize,
    pub window: Window,
    pub groups: usize,
}

impl ConvShape {
    /// Checks that the extents fit together.
    pub fn new(x: &[usize], k: usize, window: Window, groups: usize) -> Result<Self> {
        let &[n, h, w, c] = x else {
            return Err(Error::job(format!("a convolution takes x [N,H,W,C], got {x:?}")));
        };
        if groups == 0 || c % groups != 0 || !k.is_multiple_of(groups) || c == 0 || k == 0 {
            return Err(Error::job(format!("{c} channels and {k} filters do not divide into {groups} groups")));
        }
        let [p, q] = window.out([h, w])?;
        let [r, s] = window.size;
        for [a, b, c, d] in [[n, h, w, c], [n, p, q, k], [k, r, s, c / groups]] {
            Type::f32(&[a, b, c, d]).room()?;
        }
        Ok(Self { n, h, w, c, k, p, q, window, groups })
    }
    /// That the extents are those [`ConvShape::new`] makes: routines rest on it. Fails for what was put together by hand and
    /// does not fit together.
    pub fn check(&self) -> Result<()> {
        let Self { n, h, w, c, k, window, groups, .. } = *self;
        match Self::new(&[n, h, w, c], k, window, groups)? == *self {
            true => Ok(()),
            false => Err(Error::job(format!("the extents of a convolution do not fit together: {self:?}"))),
        }
    }
    /// R, S
    pub fn taps(&self) -> [usize; 2] {
        self.window.size
    }
    /// Channels that one filter sees.
    pub fn group_c(&self) -> usize {
        self.c / self.groups
    }
    /// Filters in one group.
    pub fn group_k(&self) -> usize {
        self.k / self.groups
    }
    /// Two per multiply-add, padding counted as in every published table.
    pub fn flops(&self) -> f64 {
        let [r, s] = self.taps();
        2.0 * (self.n * self.p * self.q * self.k) as f64 * (r * s * self.group_c()) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_extents_follow_pytorch() {
        let out = |k, s, p, ceil, n| Window { ceil, ..Window::square(k, s, p) }.out([n, n]).unwrap()[0];
        assert_eq!(out(3, 1, 1, false, 224), 224);
        assert_eq!(out(2, 2, 0, false, 7), 3);
        assert_eq!(out(2, 2, 0, true, 7), 4);
        assert_eq!(out(3, 2, 0, true, 8), 4);
        assert_eq!(out(3, 2, 1, true, 6), 4);
        // ceil would add a window that begins at 6 + 1 = in the trailing padding: dropped
        assert_eq!(out(2, 3, 1, true, 5), 2);
        assert!(Window::square(3, 1, 0).out([2, 9]).is_err());
    }

    #[test]
    fn sizes_that_cannot_be_counted_are_errors() {
        let huge = usize::MAX / 2 + 2;
        for dims in [&[huge, 4][..], &[0, huge, 4], &[1 << 45], &[1 << 20, 1 << 20, 1 << 20, 16], &[0], &[3, 0, 2]] {
            assert!(Type::f32(dims).room().is_err(), "{dims:?}");
        }
        assert_eq!(Type::new(DType::U8, &[1 << 44]).room().unwrap(), MOST);
        for n in [huge, usize::MAX, MOST + 1] {
            let square = |size, stride, pad| Window::square(size, stride, pad).out([8, 8]);
            assert!(square(n, 1, 0).is_err() && square(3, n, 1).is_err() && square(3, 1, n).is_err(), "{n}");
            assert!(Window { dilation: [n; 2], ..Window::square(3, 1, 1) }.out([8, 8]).is_err(), "{n}");
            assert!(Window::square(3, 1, 1).out([n; 2]).is_err(), "{n}");
            assert!(Window::same(n, n, &[1, n, n, 3]).out([n; 2]).is_err(), "{n}");
            assert!(ConvShape::new(&[n, 8, 8, 4], 4, Window::square(3, 1, 1), 1).is_err(), "{n}");
            assert!(ConvShape::new(&[1, 8, 8, 4], n, Window::square(3, 1, 1), 1).is_err(), "{n}");
        }
        assert!(Window::same(3, 0, &[1, 8, 8, 3]).out([8, 8]).is_err());
        let s = ConvShape::new(&[1, 8, 8, 4], 4, Window::square(3, 1, 1), 1).unwrap();
        assert!(s.check().is_ok() && ConvShape { p: 9, ..s }.check().is_err());
    }

    #[test]
    fn sixteen_bits_are_rounded_once() {
        // A tie in bf16, and what float32 cannot tell from it.
        let (tie, step) = (1.0 + 2f64.powi(-8), 2f64.powi(-7));
        assert_eq!(DType::BF16.round(tie), 1.0);
        assert_eq!(DType::BF16.round(tie + 1e-12), 1.0 + step);
        assert_eq!(DType::BF16.round(-tie - 1e-12), -1.0 - step);
        assert_eq!(DType::BF16.round(tie + step - 1e-12), 1.0 + step);
        assert_eq!(DType::F16.round(1.0 + 2f64.powi(-11) + 1e-13), 1.0 + 2f64.powi(-10));
        assert_eq!((DType::F16.round(65519.9), DType::F16.round(65520.0)), (65504.0, f64::INFINITY));
        assert_eq!((DType::F16.round(1e-60), DType::BF16.round(1e300)), (0.0, f64::INFINITY));
        assert!(DType::F16.round(f64::NAN).is_nan());
    }

    #[test]
    fn same_padding_follows_tensorflow() {
        for (size, stride, n, pad) in [(3, 2, 147, [1, 1]), (3, 2, 74, [0, 1]), (1, 2, 147, [0, 0]), (3, 1, 8, [1, 1])]
        {
            let same = Window::same(size, stride, &[1, n, n, 3]);
            assert_eq!([same.pad[0], same.pad[2]], pad, "{size} {stride} {n}");
            assert_eq!(same.out([n, n]).unwrap(), [n.div_ceil(stride); 2]);
        }
    }
}
