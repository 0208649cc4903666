/*! The register tile: rows times vectors of multiply-add chains, the only inner loop of the convolutions.

acc[i][j] += a[i][t] * b[t][j] for t in order, where row i's operand is broadcast from memory and b is a vector row.
The operands need not be packed: each stretch of the chain ([`Stretch`]) names where its rows begin. */

use super::LANES;
use super::simd::{V16, Vectorized, run, run_widest};
use crate::launch::{Level, Simd};

/// Most rows and vectors of any level.
pub const ROWS: usize = 6;
const VECTORS: usize = 4;

/// A piece of the reduction in which the elements of each row of a, and the rows of b, lie one step apart.
#[derive(Clone, Copy)]
pub struct Stretch {
    pub a: [*const f32; ROWS],
    pub b: *const f32,
    pub len: usize,
}

/// What the chains of a tile begin with.
#[derive(Clone, Copy)]
pub enum Begin {
    Zero,
    /// One row for all: a bias.
    Row(*const f32),
    /// What `dst` holds.
    Dst,
}

/// Rows of `dst` one step apart.
#[inline(always)]
pub fn rows(first: *mut f32, step: usize) -> [*mut f32; ROWS] {
    std::array::from_fn(|i| first.wrapping_add(i * step))
}

/// One tile's work.
pub struct HostTile<'a> {
    pub stretches: &'a [Stretch],
    /// From one reduction index to the next in a, in elements.
    pub a_step: usize,
    pub b_step: usize,
    pub begin: Begin,
    pub dst: [*mut f32; ROWS],
    /// Lanes of the last vector that exist in `begin` and `dst`.
    pub last: usize,
    /// Add the finished chains to `dst` instead of replacing it.
    pub add: bool,
    pub relu: bool,
    /// Write past the caches; every vector must be whole and aligned to 64 bytes, and the caller ends with
    /// [`super::simd::stream_end`].
    pub stream: bool,
}

/// (rows, vectors) of the tile that suits the registers of `simd`.
pub fn extent(simd: Simd) -> (usize, usize) {
    match simd.level() {
        // 24 of 32 registers accumulate; 4 hold b, one the broadcast.
        Level::Avx512 => (ROWS, VECTORS),
        // 12 of 16 registers of 8 lanes accumulate.
        Level::Avx2 => (ROWS, 1),
        // 16 registers of 4 lanes on x86-64, 32 on aarch64.
        Level::Portable => (if cfg!(target_arch = "aarch64") { ROWS } else { 2 }, 1),
    }
}

/// Computes one tile of `rows` x `vectors`.
///
/// # Safety
/// For t in each stretch a[i][t * a_step] must be readable for i < rows; b rows (16 * vectors elements each) likewise;
/// `begin`'s row and the first `rows` of `dst` must be valid for 16 * (vectors - 1) + last elements, and nothing else may
/// access `dst` meanwhile.
#[inline]
pub unsafe fn tile(simd: Simd, rows: usize, vectors: usize, t: &HostTile) {
    macro_rules! pick {
        ($($r:literal)*) => {
            match (rows, vectors) {
                $(($r, 1) => run(simd, Fixed::<$r, 1>(t)),)*
                $(($r, 2) => run_widest(simd, Fixed::<$r, 2>(t)),)*
                $(($r, 3) => run_widest(simd, Fixed::<$r, 3>(t)),)*
                $(($r, 4) => run_widest(simd, Fixed::<$r, 4>(t)),)*
                _ => unreachable!("tile {rows}x{vectors}"),
            }
        };
    }
    pick!(1 2 3 4 5 6)
}

/// A tile whose extents the compiler knows.
struct Fixed<'a, const R: usize, const V: usize>(&'a HostTile<'a>);

impl<const R: usize, const N: usize> Vectorized for Fixed<'_, R, N> {
    #[inline(always)]
    fn run<V: V16>(self) {
        let t = self.0;
        let lanes = |j: usize| if j + 1 == N { t.last } else { LANES };
        // SAFETY: `tile`'s caller promised every address.
        unsafe {
            let mut acc = [[V::splat(0.0); N]; R];
            for (i, acc) in acc.iter_mut().enumerate() {
                let from = match t.begin {
                    Begin::Zero => break,
                    Begin::Row(row) => row,
                    Begin::Dst => t.dst[i],
                };
                for (j, acc) in acc.iter_mut().enumerate() {
                    *acc = V::load_part(from.add(j * LANES), lanes(j));
                }
            }
            for s in t.stretches {
                let mut b = s.b;
                let a: [*const f32; R] = std::array::from_fn(|i| s.a[i]);
                let mut at = 0;
                for _ in 0..s.len {
                    let row: [V; N] = std::array::from_fn(|j| V::load(b.add(j * LANES)));
                    for i in 0..R {
                        let x = V::splat(*a[i].add(at));
                        for j in 0..N {
                            acc[i][j] = x.fma(row[j], acc[i][j]);
                        }
                    }
                    at += t.a_step;
                    b = b.wrapping_add(t.b_step);
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                for (j, &acc) in acc.iter().enumerate() {
                    let y = t.dst[i].add(j * LANES);
                    let mut v = acc;
                    if t.add {
                        v = V::load_part(y, lanes(j)).add(v);
                    }
                    if t.relu {
                        // In this order a NaN stays: max gives its second operand.
                        v = V::splat(0.0).max(v);
                    }
                    if t.stream {
                        v.stream(y);
                    } else {
                        v.store_part(y, lanes(j));
                    }
                }
            }
        }
    }
}
